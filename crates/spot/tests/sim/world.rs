//! Nodes of a cluster and the wires between them, in virtual time. Everything follows from the seed.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use spot::{
    SubscriptionOptions, TopicPattern,
    cluster::{
        Arrival, NodeId, NodeOptions,
        node::{LinkId, LinkInfo, Node, Output, Role, SubId},
        ring::Taken,
        zmtp::{Decoder, DecoderLimits},
    },
};

/// One step of the clock.
const STEP: Duration = Duration::from_millis(5);
/// Bytes that a wire holds; a writer waits beyond.
const WIRE_LEN_MAX: usize = 256 << 10;

/// xorshift: enough for a simulation, and the same everywhere.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

struct End {
    place: usize,
    life: u64,
    link: LinkId,
    open: bool,
    decoder: Decoder,
    buffer: BytesMut,
    /// On the way to this end.
    wire: VecDeque<(Duration, Bytes)>,
    wire_len: usize,
}

/// A node, or the place where one was.
pub(crate) struct Place {
    pub(crate) node: Option<Node>,
    pub(crate) sub: SubId,
    /// Hears streams without an owner.
    pub(crate) open_sub: SubId,
    pub(crate) frozen: bool,
    /// Arrivals that the application takes in one step; it is slow if they are few.
    pub(crate) takes: usize,
    /// Which life of the node.
    pub(crate) life: u64,
    /// What its machine takes for the time.
    clock: Clock,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) open_arrivals: Vec<Arrival>,
    /// Speaks the founding protocol with everybody, in all its lives.
    pub(crate) founding: bool,
}

/// The clocks of a machine: nobody's is right.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// How long it had been running when the world began.
    uptime: Duration,
    /// How it goes: a thousandth of this is its second.
    rate: u32,
    /// What its calendar is ahead of the slowest.
    ahead: Duration,
}

impl Clock {
    /// Up to five percent fast or slow, a day of uptime, an hour ahead: worse than machines are.
    fn new(chance: &mut Chance) -> Self {
        Self {
            uptime: Duration::from_millis(chance.below(86_400_000)),
            rate: 950 + chance.below(101) as u32,
            ahead: Duration::from_millis(chance.below(3_600_000)),
        }
    }

    fn monotonic(&self, now: Duration) -> Duration {
        self.uptime + now * self.rate / 1000
    }

    fn calendar(&self, now: Duration) -> u64 {
        (self.ahead + now * self.rate / 1000).as_millis() as u64 + 1
    }
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) chance: Chance,
    pub(crate) places: Vec<Place>,
    wires: BTreeMap<u64, [End; 2]>,
    wires_made: u64,
    links: BTreeMap<(usize, LinkId), (u64, usize)>,
    /// Pairs that do not hear each other.
    cuts: Vec<(usize, usize)>,
    pub(crate) options: fn(&mut NodeOptions),
    /// Whether a node has the same id in all its lives.
    pub(crate) ids_stay: bool,
    /// All that happened but messages; printed when one seed is run again.
    pub(crate) log: Vec<String>,
    prints: bool,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, options: fn(&mut NodeOptions)) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            chance: Chance::new(seed),
            places: Vec::new(),
            wires: BTreeMap::new(),
            wires_made: 0,
            links: BTreeMap::new(),
            cuts: Vec::new(),
            options,
            ids_stay: false,
            log: Vec::new(),
            prints: std::env::var_os("WEFT_SIM_SEED").is_some(),
        };
        for _ in 0..nodes {
            let (arrivals, open_arrivals) = Default::default();
            let clock = Clock::new(&mut world.chance);
            world.places.push(Place {
                node: None,
                sub: 0,
                open_sub: 0,
                founding: false,
                frozen: false,
                takes: usize::MAX,
                life: 0,
                clock,
                arrivals,
                open_arrivals,
            });
        }
        for place in 0..nodes {
            world.start(place);
        }
        world
    }

    /// A node begins to live at a place: same address, new incarnation.
    pub(crate) fn start(&mut self, place: usize) {
        let life = self.places[place].life + 1;
        let clock = self.places[place].clock;
        let incarnation = clock.calendar(self.now);
        let id = NodeId(((place as u128 + 1) << 64) | u128::from(if self.ids_stay { 1 } else { life }));
        let mut options = NodeOptions::standard(id, incarnation);
        options.advertise = vec![format!("sim://{place}")];
        (self.options)(&mut options);
        let mut node = Node::new(options);
        node.set_now(clock.monotonic(self.now));
        let bounds = SubscriptionOptions { messages_max: 256, bytes_max: 1 << 20 };
        let (sub, open_sub) = (node.sub_open(bounds, false), node.sub_open(bounds, true));
        for other in 0..self.places.len() {
            if other != place {
                node.target_add(&format!("sim://{other}"));
            }
        }
        let old = &self.places[place];
        let (arrivals, open_arrivals) = Default::default();
        self.places[place] = Place {
            node: Some(node),
            sub,
            open_sub,
            frozen: false,
            takes: usize::MAX,
            life,
            clock,
            arrivals,
            open_arrivals,
            founding: old.founding,
        };
        self.note(format_args!("{place} starts, life {life}"));
    }

    /// Something happened.
    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>9.3} s  {what}", self.now.as_secs_f64());
        if self.prints {
            println!("{line}");
        }
        self.log.push(line);
    }

    /// Stops a node, or lets it go on.
    pub(crate) fn freeze(&mut self, place: usize, frozen: bool) {
        if self.places[place].frozen != frozen {
            self.places[place].frozen = frozen;
            self.note(format_args!("{place} {}", if frozen { "freezes" } else { "thaws" }));
        }
    }

    /// A node is gone without a word; the kernel closes its connections.
    pub(crate) fn crash(&mut self, place: usize) {
        if self.places[place].node.take().is_some() {
            self.note(format_args!("{place} crashes"));
        }
        let gone: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, ends)| ends.iter().any(|end| end.place == place))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            for side in 0..2 {
                let other = self.wires[&id][side].place;
                if other != place && !self.is_cut(place, other) {
                    self.close_end(id, side, "connection reset");
                } else if other == place {
                    self.forget_end(id, side);
                }
            }
        }
    }

    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        if !self.is_cut(a, b) {
            self.cuts.push((a, b));
            self.note(format_args!("{a} and {b} are cut off"));
        }
    }

    pub(crate) fn heal(&mut self, a: usize, b: usize) {
        if self.is_cut(a, b) {
            self.cuts.retain(|cut| *cut != (a, b) && *cut != (b, a));
            self.note(format_args!("{a} and {b} are connected again"));
        }
    }

    pub(crate) fn heal_all(&mut self) {
        self.cuts.clear();
        self.note(format_args!("all is mended"));
        for place in &mut self.places {
            (place.frozen, place.takes) = (false, usize::MAX);
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&(a, b)) || self.cuts.contains(&(b, a))
    }

    pub(crate) fn node(&mut self, place: usize) -> Option<&mut Node> {
        self.places[place].node.as_mut()
    }

    pub(crate) fn subscribe(&mut self, place: usize, pattern: &str) {
        let sub = self.places[place].sub;
        if let Some(node) = self.node(place) {
            // Alone and without targets it cannot be, so a pending subscription is fine.
            node.subscribe(sub, TopicPattern::new(pattern).unwrap()).unwrap();
        }
    }

    fn forget_end(&mut self, id: u64, side: usize) {
        if let Some(ends) = self.wires.get_mut(&id) {
            ends[side].open = false;
            let key = (ends[side].place, ends[side].link);
            if self.links.get(&key) == Some(&(id, side)) {
                self.links.remove(&key);
            }
        }
    }

    /// One end learns that the connection is over.
    fn close_end(&mut self, id: u64, side: usize, reason: &str) {
        let Some(ends) = self.wires.get(&id) else { return };
        let end = &ends[side];
        if !end.open {
            return;
        }
        let (place, link, life) = (end.place, end.link, end.life);
        self.forget_end(id, side);
        if self.places[place].life == life
            && let Some(node) = self.node(place)
        {
            node.link_closed(link, reason);
        }
    }

    fn dial(&mut self, from: usize, endpoint: &str) {
        let to: usize = endpoint.strip_prefix("sim://").unwrap().parse().unwrap();
        let reachable =
            from != to && self.places[to].node.is_some() && !self.places[to].frozen && !self.is_cut(from, to);
        if !reachable {
            if let Some(node) = self.node(from) {
                node.dial_failed(endpoint, "connection refused");
            }
            return;
        }
        let extended = !self.places[from].founding && !self.places[to].founding;
        // As with passwords: each side prefers the connection that it has made.
        let info = |role, name: &str| LinkInfo {
            shown: matches!(role, Role::Dialed(_)),
            role,
            name: name.to_owned(),
            extended,
            pings: false,
            sealed: false,
            principal: String::new(),
            named: false,
        };
        let roles = [(from, Role::Dialed(endpoint.to_owned())), (to, Role::Accepted)];
        let ends = roles.map(|(place, role)| {
            let name = format!("{endpoint} of {from}");
            let link = self.places[place].node.as_mut().unwrap().link_up(info(role, &name));
            let life = self.places[place].life;
            let decoder = Decoder::plain(DecoderLimits::STANDARD);
            End {
                place,
                life,
                link,
                open: true,
                decoder,
                buffer: BytesMut::new(),
                wire: VecDeque::new(),
                wire_len: 0,
            }
        });
        self.wires_made += 1;
        for (side, end) in ends.iter().enumerate() {
            self.links.insert((end.place, end.link), (self.wires_made, side));
        }
        self.wires.insert(self.wires_made, ends);
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.carry();
        for place in 0..self.places.len() {
            let state = &mut self.places[place];
            let now = state.clock.monotonic(self.now);
            let Some(node) = state.node.as_mut().filter(|_| !state.frozen) else { continue };
            node.set_now(now);
            if node.poll_timeout().is_some_and(|due| due <= now) {
                node.advance(now);
            }
            let mut taken = Taken::default();
            node.take(state.sub, state.takes, &mut taken);
            state.arrivals.extend(taken);
            let mut taken = Taken::default();
            node.take(state.open_sub, state.takes, &mut taken);
            state.open_arrivals.extend(taken);
            self.obey(place);
        }
        self.send();
    }

    fn obey(&mut self, place: usize) {
        while let Some(output) = self.node(place).and_then(Node::poll_output) {
            match output {
                Output::Dial(endpoint) => self.dial(place, &endpoint),
                Output::Event(event) => self.note(format_args!("{place}: {event:?}")),
                Output::Close(link, reason) => {
                    self.note(format_args!("{place} closes link {link}: {reason}"));
                    if let Some(&(id, side)) = self.links.get(&(place, link)) {
                        let other = self.wires[&id][1 - side].place;
                        let heard = !self.is_cut(place, other);
                        self.close_end(id, side, &reason);
                        if heard {
                            self.close_end(id, 1 - side, "closed by the peer");
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// From outboxes to wires.
    fn send(&mut self) {
        for id in self.wires.keys().copied().collect::<Vec<_>>() {
            for side in 0..2 {
                let delay = Duration::from_millis(1 + self.chance.below(10));
                let now = self.now;
                let ends = self.wires.get_mut(&id).unwrap();
                if !ends[side].open || ends[1 - side].wire_len > WIRE_LEN_MAX {
                    continue;
                }
                let place = &mut self.places[ends[side].place];
                if place.frozen || place.life != ends[side].life {
                    continue;
                }
                let Some(node) = place.node.as_mut() else { continue };
                let mut segments = Vec::new();
                while node.take_outbox(ends[side].link, &mut segments) {}
                let end = &mut ends[1 - side];
                let at = end.wire.back().map_or(now + delay, |(at, _)| (*at).max(now + delay));
                for segment in segments {
                    end.wire_len += segment.len();
                    end.wire.push_back((at, segment));
                }
            }
        }
    }

    /// From wires to nodes.
    fn carry(&mut self) {
        for id in self.wires.keys().copied().collect::<Vec<_>>() {
            for side in 0..2 {
                let now = self.now;
                let places = [self.wires[&id][0].place, self.wires[&id][1].place];
                if self.is_cut(places[0], places[1]) {
                    continue;
                }
                let ends = self.wires.get_mut(&id).unwrap();
                if ends[side].open && !ends[1 - side].open && ends[side].wire.is_empty() {
                    // Healed after the other end had given up.
                    self.close_end(id, side, "connection reset");
                    continue;
                }
                let end = &mut ends[side];
                let place = &mut self.places[end.place];
                let Some(node) = place.node.as_mut().filter(|_| end.open && !place.frozen) else { continue };
                if place.life != end.life {
                    continue;
                }
                while let Some((_, bytes)) = end.wire.pop_front_if(|(at, _)| *at <= now) {
                    end.wire_len -= bytes.len();
                    end.buffer.extend_from_slice(&bytes);
                }
                let batch = end.decoder.decode(&mut end.buffer).expect("our own bytes are good");
                if !batch.frames.is_empty() {
                    node.set_now(place.clock.monotonic(now));
                    node.handle_batch(end.link, &batch);
                }
            }
        }
        self.wires.retain(|_, ends| ends.iter().any(|end| end.open));
    }

    /// As [`arrivals`](Self::arrivals), of streams without an owner.
    pub(crate) fn open_arrivals(&mut self, place: usize) -> Vec<Arrival> {
        std::mem::take(&mut self.places[place].open_arrivals)
    }

    pub(crate) fn subscribe_open(&mut self, place: usize, pattern: &str) {
        let sub = self.places[place].open_sub;
        if let Some(node) = self.node(place) {
            node.subscribe(sub, TopicPattern::new(pattern).unwrap()).unwrap();
        }
    }

    /// What a place has received of a topic since it was last asked, and nothing else.
    pub(crate) fn arrivals(&mut self, place: usize) -> Vec<Arrival> {
        std::mem::take(&mut self.places[place].arrivals)
    }

    /// The topics of each living node as every node sees them: name, epoch, owner.
    pub(crate) fn views(&mut self) -> Vec<Vec<(String, u64, Option<NodeId>)>> {
        let living = self.places.iter().filter_map(|place| place.node.as_ref());
        living
            .map(|node| {
                let mut all: Vec<_> = node
                    .list_topics()
                    .into_iter()
                    .map(|info| {
                        let (epoch, owner) = node.topic_owner(info.topic.as_str()).unwrap();
                        (info.topic.to_string(), epoch, owner)
                    })
                    .collect();
                all.sort();
                all
            })
            .collect()
    }
}

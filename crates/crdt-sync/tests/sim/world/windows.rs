//! Windows at the replicas: they come and go, type, lose their connection, and come back to the same node or another one with
//! what was not acknowledged.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use crdt_core::{SessionId, Timestamp};
use crdt_sync::{PeerId, presence::PresenceMessage, session::SyncMode};

use super::{
    TROUBLE, Trouble, What, World,
    gateway::{EXPIRY, Line},
};
use crate::{random::Random, window::Window};

/// How much longer than it takes to expire somebody may be shown: what was on its way is heard first.
const SHOWN_AFTER_MAX: Duration = Duration::from_secs(5);

/// How many patches may wait for their causes at a node: few, or no window would find it busy.
const PARKED_MAX: usize = 3;

#[derive(Default)]
pub(super) struct Windows {
    pub(super) all: Vec<Window>,
    /// The connections, by their number.
    pub(super) lines: BTreeMap<u64, Line>,
    pub(super) opened: u64,
    /// When the last connection under a name has ended.
    pub(super) ended: BTreeMap<PeerId, Duration>,
    /// How many others each may see.
    pub(super) others_max: usize,
}

/// What happens to a window, or to a connection.
#[derive(Debug, Clone)]
pub(super) enum Windowed {
    Opens(usize),
    Connects(usize),
    Types(usize),
    Shows(usize),
    Reloads(usize),
    /// It is closed for good: what it had not brought by then may be lost.
    Closes(usize),
    /// Its connection breaks, which it notices first.
    Breaks(usize),
    /// It notices that a connection has ended.
    Ended {
        window: usize,
        line: u64,
    },
    ToWindow {
        window: usize,
        line: u64,
        frame: Bytes,
    },
    ToNode {
        line: u64,
        frame: Bytes,
    },
    /// The node goes on with what has come.
    Serves(u64),
    /// The node notices that the window is gone.
    Gone(u64),
    Present {
        line: u64,
        message: PresenceMessage,
    },
    PresenceWakes(u64),
}

impl World {
    /// A world of windows at replicas, which crash, fold, have bad stores and a bad network.
    pub(crate) fn with_windows(seed: u64, print: bool) -> Self {
        let mut random = Random(seed ^ 0x7769_6e64_6f77);
        let trouble =
            Trouble { loss: random.below(40), repeat: random.below(20), delay_max_ms: 1 + random.below(400) };
        let mut world = Self::empty(random, trouble, print);
        let count = 2 + world.random.below(3) as usize;
        let sync = if world.random.percent(30) { SyncMode::Dag } else { SyncMode::Vectors };
        for index in 0..count {
            world.add_replica(sync);
            world.replicas[index].leave_less_room(PARKED_MAX);
        }
        world.plan(Duration::ZERO, What::Look);
        world.plan_trouble();
        world.windows.others_max = 1 + world.random.below(8) as usize;
        let ms = TROUBLE.as_millis() as u64;
        for window in 0..2 + world.random.below(4) as usize {
            let (session, is_careless) = (world.new_session(), world.random.percent(30));
            world.windows.all.push(Window::new(window, session, is_careless));
            let opens = world.random.ms(ms / 2);
            world.plan(opens, What::Window(Windowed::Opens(window)));
            for (times_max, what) in [
                (20, Windowed::Types(window)),
                (6, Windowed::Shows(window)),
                (5, Windowed::Breaks(window)),
                (3, Windowed::Reloads(window)),
            ] {
                for _ in 0..world.random.below(times_max) {
                    let at = opens + world.random.ms(ms);
                    world.plan(at, What::Window(what.clone()));
                }
            }
            if world.random.percent(30) {
                let at = opens + world.random.ms(ms);
                world.plan(at, What::Window(Windowed::Closes(window)));
            }
        }
        world
    }

    /// Runs to the end a world of windows: all agree, nothing that a window was told to be stored is lost, all that is typed in an
    /// open one is stored, and each shows who is there.
    pub(crate) fn run_with_windows(mut self) -> Result<(Option<u64>, BTreeMap<&'static str, u64>), String> {
        self.run_to_end()?;
        self.check_end()?;
        let document = &self.replicas[0].doc.lock().clone();
        let open: Vec<&Window> = self.windows.all.iter().filter(|window| window.is_open).collect();
        for window in &open {
            let name = &window.name;
            if let Some(unsent) = window.unsent.first() {
                return Err(format!("{} of {name} was never said to be stored", unsent.id));
            }
            if window.doc != *document {
                return Err(format!("{name} has another document than {}", self.replicas[0].id));
            }
            let others = open.iter().filter(|other| other.name != *name);
            let there: BTreeMap<PeerId, Bytes> =
                others.map(|other| (other.name.clone(), other.shows.clone())).collect();
            let room = self.windows.others_max;
            let right = match there.len() <= room {
                true => window.others == there,
                false => {
                    let is_there = |(peer, shown): (&PeerId, &Bytes)| there.get(peer) == Some(shown);
                    // The window itself may take a place at first.
                    window.others.len() <= room && window.others.iter().all(is_there)
                }
            };
            if !right {
                return Err(format!("{name} is shown {:?} of {there:?}, room for {room}", window.others));
            }
        }
        Ok((self.trace, self.counts))
    }

    pub(super) fn windowed(&mut self, what: Windowed) -> Result<(), String> {
        match what {
            Windowed::Opens(window) => {
                self.windows.all[window].is_open = true;
                self.plan(self.now, What::Window(Windowed::Connects(window)));
            }
            Windowed::Connects(window) => self.connects(window),
            Windowed::Types(window) => {
                // What was typed while there was no connection comes all at once.
                let times = if self.random.percent(10) { 20 } else { 1 };
                (0..times).try_for_each(|_| self.types(window))?;
            }
            Windowed::Shows(window) => {
                let shows = Bytes::from(self.random.below(1000).to_string());
                let of = &mut self.windows.all[window];
                of.shows = shows;
                let said = of.presence(true);
                self.says(window, said);
            }
            Windowed::Reloads(window) => {
                self.breaks(window);
                let session = self.new_session();
                self.windows.all[window].reload(session);
            }
            Windowed::Closes(window) => {
                if self.random.percent(50) {
                    let goodbye = self.windows.all[window].presence(false);
                    self.says(window, goodbye);
                }
                self.breaks(window);
                self.windows.all[window].is_open = false;
            }
            Windowed::Breaks(window) => self.breaks(window),
            Windowed::Ended { window, line } => {
                if self.windows.all[window].line == Some(line) {
                    self.leaves(window);
                }
            }
            Windowed::ToWindow { window, line, frame } => self.hears(window, line, &frame)?,
            Windowed::ToNode { line, frame } => self.node_hears(line, frame),
            Windowed::Serves(line) => self.serve(line)?,
            Windowed::Gone(line) => self.end_line(line, true),
            Windowed::Present { line, message } => self.present(line, message)?,
            Windowed::PresenceWakes(line) => self.presence_wakes(line)?,
        }
        Ok(())
    }

    fn connects(&mut self, window: usize) {
        if !self.windows.all[window].is_open || self.windows.all[window].line.is_some() {
            return;
        }
        let node = self.random.below(self.replicas.len() as u64) as usize;
        if self.replicas[node].down || self.replicas[node].disk.fails_at(self.now) {
            return self.comes_again(window);
        }
        let line = self.open_line(window, node);
        let of = &mut self.windows.all[window];
        let said = [of.greets(line), of.presence(true)];
        said.into_iter().for_each(|said| self.says(window, said));
    }

    fn comes_again(&mut self, window: usize) {
        let pause = Duration::from_millis(100) + self.random.ms(1000);
        self.plan(self.now + pause, What::Window(Windowed::Connects(window)));
    }

    fn types(&mut self, window: usize) -> Result<(), String> {
        if !self.windows.all[window].is_open {
            return Ok(());
        }
        let seen = self.windows.all[window].may_name();
        let mut needs = Vec::new();
        for _ in 0..self.random.below(3).min(seen.len() as u64) {
            let (sid, upto): (SessionId, u64) = seen[self.random.below(seen.len() as u64) as usize];
            needs.push(Timestamp::new(sid, 1 + self.random.below(upto)));
        }
        let span = 1 + self.random.below(50);
        if let Some(frame) = self.windows.all[window].types(span, needs)? {
            self.says(window, frame);
        }
        Ok(())
    }

    /// The window leaves its connection. What it said may still come; the node notices soon or late.
    fn breaks(&mut self, window: usize) {
        let Some(line) = self.windows.all[window].line else { return };
        self.leaves(window);
        let pause = self.random.ms(4000);
        let is_deaf = self.random.percent(50);
        if let Some(line) = self.windows.lines.get_mut(&line) {
            line.is_deaf = is_deaf;
        }
        self.plan(self.now + pause, What::Window(Windowed::Gone(line)));
    }

    fn leaves(&mut self, window: usize) {
        self.windows.all[window].line = None;
        self.comes_again(window);
    }

    fn hears(&mut self, window: usize, line: u64, frame: &Bytes) -> Result<(), String> {
        let of = &mut self.windows.all[window];
        if of.line != Some(line) {
            return Ok(());
        }
        let heard = of.hears(frame)?;
        if of.others.len() > self.windows.others_max {
            return Err(format!("{} is shown more than {} others", of.name, self.windows.others_max));
        }
        *self.counts.entry("stored for windows").or_insert(0) += heard.stored.len() as u64;
        self.acknowledged.extend(heard.stored);
        heard.send.into_iter().for_each(|frame| self.says(window, frame));
        if heard.leaves {
            *self.counts.entry("strange").or_insert(0) += 1;
            self.breaks(window);
        }
        Ok(())
    }

    /// Nobody who has gone is shown for longer than presence takes to expire.
    pub(super) fn check_shown(&self, line: u64) -> Result<(), String> {
        let Some(line) = self.windows.lines.get(&line) else { return Ok(()) };
        for peer in line.others.keys() {
            let gone = self.windows.ended.get(peer).filter(|_| !self.is_connected(peer));
            if gone.is_some_and(|gone| self.now > *gone + EXPIRY + SHOWN_AFTER_MAX) {
                return Err(format!(
                    "{peer} is shown at {} and gone since {gone:?}",
                    self.replicas[line.node].id
                ));
            }
        }
        Ok(())
    }

    fn is_connected(&self, name: &PeerId) -> bool {
        self.windows.lines.values().any(|line| self.windows.all[line.window].name == *name)
    }
}

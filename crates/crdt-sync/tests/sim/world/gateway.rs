//! The nodes' side of the windows' connections: what production's gateway does with the machine of a socket, and with presence.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use crdt_sync::{
    PatchStore as _, PeerId, StoreId,
    gateway::{ClientInput, ClientOptions, ClientOutput, ClientSession},
    manager::sealed,
    presence::{Presence, PresenceInput, PresenceMessage, PresenceOptions, PresenceOutput},
    session::SyncMode,
};

use super::{What, World, windows::Windowed};
use crate::shelf::now;

/// How long somebody is shown who has gone without a goodbye.
pub(super) const EXPIRY: Duration = Duration::from_secs(10);
/// How many patches wait for a store until a node takes no more from windows: it is writing.
const WRITING_MAX: usize = 12;
/// After which pause it looks again.
const WRITING: Duration = Duration::from_millis(20);

/// A window's connection to a node, as the node has it.
pub(super) struct Line {
    pub(super) window: usize,
    pub(super) node: usize,
    machine: ClientSession,
    presence: Option<Presence>,
    pub(super) others: BTreeMap<PeerId, Bytes>,
    inbox: VecDeque<ClientInput>,
    /// What the machine was told to be stored.
    told: StateVector<SessionId>,
    /// When the last frame of each direction arrives: they come in order.
    to_window: Duration,
    to_node: Duration,
    /// When presence is going to be woken.
    wakes: Duration,
    /// Whether what is on its way to the node is lost.
    pub(super) is_deaf: bool,
}

impl World {
    pub(super) fn open_line(&mut self, window: usize, node: usize) -> u64 {
        self.windows.opened += 1;
        let options = ClientOptions {
            page_bytes_max: 300,
            part_bytes_max: 200,
            missing_ticks_max: 400,
            ..ClientOptions::STANDARD
        };
        let replica = &self.replicas[node];
        let mut machine =
            ClientSession::new(replica.id.clone(), options).with_store(StoreId::new(node as u64 + 1));
        if replica.options.sync == SyncMode::Dag {
            machine = machine.without_what_was_lost();
        }
        let told = replica.kept_vector();
        machine.handle_input(ClientInput::Stored(told.clone()));
        let line = Line {
            window,
            node,
            machine,
            presence: None,
            others: BTreeMap::new(),
            inbox: VecDeque::new(),
            told,
            to_window: self.now,
            to_node: self.now,
            wakes: Duration::ZERO,
            is_deaf: false,
        };
        self.windows.lines.insert(self.windows.opened, line);
        self.windows.opened
    }

    /// The window sends something over its connection.
    pub(super) fn says(&mut self, window: usize, frame: Bytes) {
        let Some(number) = self.windows.all[window].line else { return };
        let delay = self.random.ms(self.trouble.delay_max_ms);
        let Some(line) = self.windows.lines.get_mut(&number) else { return };
        line.to_node = line.to_node.max(self.now + delay);
        let at = line.to_node;
        self.plan(at, What::Window(Windowed::ToNode { line: number, frame }));
    }

    pub(super) fn node_hears(&mut self, number: u64, frame: Bytes) {
        self.takes(number, ClientInput::Frame(frame), |line| !line.is_deaf);
    }

    fn takes(&mut self, number: u64, input: ClientInput, if_so: impl FnOnce(&Line) -> bool) {
        let Some(line) = self.windows.lines.get_mut(&number).filter(|line| if_so(line)) else { return };
        line.inbox.push_back(input);
        self.plan(self.now, What::Window(Windowed::Serves(number)));
    }

    /// Carries out what the machine of a connection wants, until it has taken in all that came.
    pub(super) fn serve(&mut self, number: u64) -> Result<(), String> {
        loop {
            let Some(line) = self.windows.lines.get_mut(&number) else { return Ok(()) };
            let node = line.node;
            let replica = &mut self.replicas[node];
            if replica.disk.is_waited_for() || replica.machine.status().storing > WRITING_MAX {
                self.plan(self.now + WRITING, What::Window(Windowed::Serves(number)));
                return Ok(());
            }
            let Some(output) = line.machine.poll_output() else {
                let Some(input) = line.inbox.pop_front() else { return Ok(()) };
                line.machine.handle_input(input);
                continue;
            };
            match output {
                ClientOutput::Send(frame) => {
                    let delay = self.random.ms(self.trouble.delay_max_ms);
                    line.to_window = line.to_window.max(self.now + delay);
                    let (at, window) = (line.to_window, line.window);
                    self.plan(at, What::Window(Windowed::ToWindow { window, line: number, frame }));
                }
                ClientOutput::Relay(record) => {
                    let mut wishes = Vec::new();
                    let is_taken = replica.relay(self.now, record, &mut wishes)?;
                    self.fulfil(node, wishes);
                    let happened = if is_taken { "relayed" } else { "busy" };
                    *self.counts.entry(happened).or_insert(0) += 1;
                    if !is_taken {
                        self.end_line(number, true);
                    }
                }
                ClientOutput::Read { .. } | ClientOutput::ReadSnapshot if replica.disk.fails_at(self.now) => {
                    self.end_line(number, true);
                }
                ClientOutput::Read { want, bytes_max } => {
                    let page = now(replica.durable.page(&want, bytes_max)).map_err(|e| e.to_string())?;
                    line.machine.handle_input(ClientInput::Page(page));
                }
                ClientOutput::ReadSnapshot => {
                    let folded = now(replica.folding().fold(&replica.kept_vector()));
                    let (vector, bytes) = folded.map_err(|error| error.to_string())?;
                    let bytes = sealed::open(&bytes).map_err(|error| error.to_string())?.document;
                    *self.counts.entry("snapshots for windows").or_insert(0) += 1;
                    line.machine.handle_input(ClientInput::Snapshot { vector, bytes });
                }
                ClientOutput::Join(peer) => {
                    let options = PresenceOptions {
                        interval: Duration::from_secs(3),
                        expiry: EXPIRY,
                        greeting_max: Duration::from_millis(200),
                        shown_bytes_max: 64,
                        others_max: self.windows.others_max,
                        ..PresenceOptions::STANDARD
                    };
                    let run = self.now.as_nanos() as u64 + 1;
                    line.presence = Some(Presence::new(options, peer, run, self.now, number));
                    self.presence(number, PresenceInput::Tick)?;
                }
                ClientOutput::Show(shown) => self.presence(number, PresenceInput::Show(shown))?,
                ClientOutput::Close(None) => self.end_line(number, true),
                ClientOutput::Close(Some(trouble)) => {
                    return Err(format!("{} was sent away: {trouble}", self.windows.all[line.window].name));
                }
            }
        }
    }

    /// What has become durable at a node, to those who are connected to it.
    pub(super) fn tell_windows(&mut self, node: usize) {
        if !self.windows.lines.values().any(|line| line.node == node) {
            return;
        }
        let stored = self.replicas[node].kept_vector();
        let mut told = Vec::new();
        for (number, line) in self.windows.lines.iter_mut().filter(|(_, line)| line.node == node) {
            let grown: StateVector<SessionId> =
                line.told.missing_from(&stored).map(|(sid, _, last)| (*sid, last)).collect();
            if !grown.is_empty() {
                line.told = stored.clone();
                // One who was busy for long compares everything.
                let busy = self.random.percent(10);
                let input =
                    if busy { ClientInput::Stored(stored.clone()) } else { ClientInput::Grown(grown) };
                line.inbox.push_back(input);
                told.push(*number);
            }
        }
        for number in told {
            self.plan(self.now, What::Window(Windowed::Serves(number)));
        }
    }

    /// The node ends a connection, or notices that it has ended.
    pub(super) fn end_line(&mut self, number: u64, says_goodbye: bool) {
        let Some(line) = self.windows.lines.remove(&number) else { return };
        let name = self.windows.all[line.window].name.clone();
        self.windows.ended.insert(name, self.now);
        if let Some(mut presence) = line.presence.filter(|_| says_goodbye) {
            presence.handle_input(self.now, PresenceInput::Leave);
            while let Some(output) = presence.poll_output() {
                if let PresenceOutput::Send(message) = output {
                    self.publish(line.node, &message);
                }
            }
        }
        let pause = self.random.ms(self.trouble.delay_max_ms);
        let ended = Windowed::Ended { window: line.window, line: number };
        self.plan(line.to_window.max(self.now + pause), What::Window(ended));
    }

    /// Without a word, of nodes that have crashed.
    pub(super) fn end_lines_of_the_down(&mut self) {
        let is_down = |line: &Line| self.replicas[line.node].down;
        let ended: Vec<u64> =
            self.windows.lines.iter().filter(|(_, line)| is_down(line)).map(|(number, _)| *number).collect();
        ended.into_iter().for_each(|number| self.end_line(number, false));
    }

    pub(super) fn present(&mut self, number: u64, message: PresenceMessage) -> Result<(), String> {
        self.presence(number, PresenceInput::Heard(message))
    }

    pub(super) fn presence_wakes(&mut self, number: u64) -> Result<(), String> {
        self.presence(number, PresenceInput::Tick)?;
        self.check_shown(number)
    }

    fn presence(&mut self, number: u64, input: PresenceInput) -> Result<(), String> {
        let now = self.now;
        let Some(line) = self.windows.lines.get_mut(&number) else { return Ok(()) };
        let Some(presence) = &mut line.presence else { return Ok(()) };
        presence.handle_input(now, input);
        let (mut said, mut changed) = (Vec::new(), false);
        while let Some(output) = presence.poll_output() {
            changed |= match output {
                PresenceOutput::Send(message) => {
                    said.push(message);
                    false
                }
                PresenceOutput::Shows { peer, shown } => line.others.insert(peer, shown).is_none_or(|_| true),
                PresenceOutput::Left(peer) | PresenceOutput::Gone(peer) => {
                    line.others.remove(&peer).is_some()
                }
                PresenceOutput::NameTaken => {
                    *self.counts.entry("name taken").or_insert(0) += 1;
                    false
                }
            };
        }
        let node = line.node;
        let wakes = presence.wakes_at().max(now + Duration::from_millis(1));
        if line.others.len() > self.windows.others_max {
            return Err(format!("a presence remembers {} others", line.others.len()));
        }
        if line.wakes <= now || wakes < line.wakes {
            line.wakes = wakes;
            self.plan(wakes, What::Window(Windowed::PresenceWakes(number)));
        }
        said.iter().for_each(|message| self.publish(node, message));
        if changed {
            let others = self.windows.lines[&number].others.clone();
            self.takes(number, ClientInput::Others(others), |_| true);
        }
        Ok(())
    }

    /// A presence message on its topic, from a node: to all connections of all nodes, its own too.
    fn publish(&mut self, from: usize, message: &PresenceMessage) {
        let lines: Vec<(u64, usize)> =
            self.windows.lines.iter().map(|(number, line)| (*number, line.node)).collect();
        for (number, node) in lines {
            let is_cut = self.side[from] != self.side[node];
            if from != node && (is_cut || self.random.percent(self.trouble.loss)) {
                continue;
            }
            let copies = if self.random.percent(self.trouble.repeat) { 2 } else { 1 };
            for _ in 0..copies {
                let delay = self.random.ms(self.trouble.delay_max_ms);
                let heard = Windowed::Present { line: number, message: message.clone() };
                self.plan(self.now + delay, What::Window(heard));
            }
        }
    }
}

//! A replica of ours: the session machine, the wire, a store in memory and a document, driven by hand in one thread.

use std::time::Duration;

use bytes::Bytes;
use crdt_core::{Applied, EncodingFormat, Model, SessionId, StateVector};
use crdt_core::{Document, codec::Packing};
use crdt_sync::{
    MemoryPatchStore, PatchRecord, PatchStore, PeerId, SnapshotHead, Want,
    dag::{Heads, Walk, snapshot},
    session::{Input, Output, Page, ReadWhat, Session, SessionOptions, SyncMode, WALK_PAGE_NODES_MAX},
    store::PatchPage,
    wire,
};
use futures_util::FutureExt as _;

/// What goes over a wire: on the patch channel or the other one, and the bytes.
pub struct Sent {
    pub patch: bool,
    pub bytes: Bytes,
}

pub struct Replica {
    pub id: PeerId,
    pub model: Model,
    pub machine: Session,
    store: MemoryPatchStore,
    batch: Vec<PatchRecord>,
    last: u64,
    offered: Option<(SnapshotHead, Bytes)>,
    pub now: Duration,
    pub sent: Vec<Sent>,
}

const FORMAT: EncodingFormat = EncodingFormat::Binary;
/// About what a patch takes for each of its ticks, and from where on the manager looks for a snapshot.
const PATCH_BYTES: u64 = 40;
const OFFER_BYTES_MIN: u64 = 512 << 10;

impl Replica {
    pub fn new(number: u64, sync: SyncMode) -> Self {
        let session = SessionId::new(crate::systems::ID_MIN + number).expect("a user's id");
        let options = SessionOptions { sync, ..SessionOptions::standard(session) };
        Self {
            id: PeerId::new(format!("node-{number}")).expect("a name"),
            model: Model::new(session),
            machine: Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, number),
            store: MemoryPatchStore::new(),
            batch: Vec::new(),
            last: 0,
            offered: None,
            now: Duration::ZERO,
            sent: Vec::new(),
        }
    }

    /// Hands over what was edited.
    pub fn flush(&mut self) {
        let patch = self.model.flush().expect("an edit");
        let record = PatchRecord::new(self.last, Bytes::copy_from_slice(patch.as_bytes())).expect("a patch");
        let record = record.with_links(self.machine.links(patch.id().time)).expect("older links");
        self.last = record.last();
        self.input(Input::Local(record));
    }

    pub fn heard(&mut self, bytes: &Bytes) {
        let record = wire::decode_patch(bytes).expect("a patch");
        self.input(Input::Heard(record));
    }

    pub fn message(&mut self, bytes: &Bytes) {
        let (from, message) = wire::decode_sync(bytes).expect("a message");
        self.input(Input::Message { from, message });
    }

    /// Lets time pass until the machine wants to do something.
    pub fn wait(&mut self) {
        self.now = self.now.max(self.machine.wakes_at());
        self.input(Input::Tick);
    }

    pub fn input(&mut self, input: Input) {
        self.machine.handle_input(self.now, input);
        loop {
            match self.machine.poll_output() {
                Some(Output::Store(record)) => self.batch.push(record),
                None if self.batch.is_empty() => return,
                None => self.keep(),
                Some(Output::Apply(record)) => self.apply(&record),
                Some(Output::Broadcast(record)) => {
                    let bytes = wire::encode_patch(FORMAT, &record).expect("bytes");
                    self.sent.push(Sent { patch: true, bytes });
                }
                Some(Output::Send { message, .. }) => {
                    let bytes = wire::encode_sync(FORMAT, &self.id, &message).expect("bytes");
                    self.sent.push(Sent { patch: false, bytes });
                }
                Some(Output::Read { peer, id, what }) => {
                    self.keep();
                    let page = self.read(*what);
                    self.machine.handle_input(self.now, Input::Page { peer, id, page });
                }
                Some(Output::Install { head, bytes }) => {
                    self.keep();
                    self.install(*head, bytes);
                }
                Some(
                    Output::Event(_)
                    | Output::Compare { .. }
                    | Output::EndsAt(_)
                    | Output::Mend(_)
                    | Output::RepairEnds { .. }
                    | Output::Released { .. },
                ) => {}
            }
        }
    }

    fn keep(&mut self) {
        self.store.append_at_once(&self.batch).expect("the memory store never waits").expect("room");
        self.batch.drain(..).for_each(|_| self.machine.handle_input(self.now, Input::Stored));
    }

    fn apply(&mut self, record: &PatchRecord) {
        let applied = self.model.apply_bytes(&record.patch).expect("a patch that applies");
        assert!(!matches!(applied, Applied::Parked { .. }), "its causes are here");
    }

    fn read(&mut self, what: ReadWhat) -> Page {
        match what {
            // As the manager decides: a snapshot where the patches would take more.
            ReadWhat::Patches { offers: true, ref want, .. } if self.takes_more(want) => self.offer(),
            ReadWhat::Patches { want, bytes_max, .. } => {
                self.or_offer(now(self.store.page(&want, bytes_max)).expect("a page"))
            }
            ReadWhat::Walk { have, .. } if have.is_empty() => self.offer(),
            ReadWhat::Walk { want, have, bytes_max } => {
                let mut walk = Walk::new(&want, have, bytes_max, WALK_PAGE_NODES_MAX);
                while let Some(want) = walk.next_read() {
                    walk.read(now(self.store.page(&[want], bytes_max)).expect("a page"));
                }
                self.or_offer(walk.finish())
            }
            ReadWhat::Part { hash, offset, bytes_max } => {
                let (_, bytes) =
                    self.offered.as_ref().filter(|(head, _)| head.hash == hash).expect("offered");
                let from = offset as usize;
                Page::Part { hash, offset, bytes: bytes.slice(from..(from + bytes_max).min(bytes.len())) }
            }
        }
    }

    fn or_offer(&mut self, page: PatchPage) -> Page {
        match page {
            PatchPage::Records(records) => Page::Records(records),
            PatchPage::Compacted => self.offer(),
        }
    }

    fn takes_more(&self, want: &[Want]) -> bool {
        want.iter().map(|want| want.upto - want.after).sum::<u64>() * PATCH_BYTES > OFFER_BYTES_MIN
    }

    /// As the manager does it: the snapshot made last is offered again while little has come since.
    fn offer(&mut self) -> Page {
        let stored = self.machine.stored();
        let since = |head: &SnapshotHead| {
            head.vector.missing_from(stored).map(|(_, from, to)| to - from).sum::<u64>()
        };
        if let Some((head, _)) =
            self.offered.as_ref().filter(|(head, _)| since(head) * PATCH_BYTES * 16 <= head.len_bytes)
        {
            return Page::Snapshot(head.clone());
        }
        let document = self.model.document().to_native(Packing::Plain);
        let bytes = match self.machine.heads() {
            Some(heads) => snapshot::seal(heads, &document),
            None => document.into(),
        };
        let head = SnapshotHead::new(stored.clone(), &bytes);
        self.offered = Some((head.clone(), bytes));
        Page::Snapshot(head)
    }

    fn install(&mut self, head: SnapshotHead, bytes: Bytes) {
        let (heads, document) = snapshot::open(&bytes).expect("a snapshot");
        let document = Document::open_native(document, self.model.document().session()).expect("a snapshot");
        now(self.store.install(&head.vector, bytes)).expect("room");
        self.model = document.into();
        self.machine.handle_input(self.now, Input::Installed { vector: head.vector, heads, content: Some(0) });
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}

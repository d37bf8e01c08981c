//! Each system, doing the same.

use automerge::{
    ActorId, AutoCommit, Change, ObjId, ObjType, ROOT, ReadDoc, sync::SyncDoc, transaction::Transactable,
};
use crdt_sync::session::{Input, SyncMode};
use loro::{ExportMode, LoroDoc};
use yrs::{
    Doc, GetString, ReadTxn, Text, Transact, TransactionMut, Update,
    sync::{Message, SyncMessage},
    updates::{decoder::Decode, encoder::Encode},
};

use crate::{
    Edit, Run, Script, timed,
    weft::{Replica, Sent},
};

/// Ids are drawn at random in use, so they are large numbers of up to 53 bits; the same ones for all.
pub const ID_MIN: u64 = 0x0012_3456_789a_bc00;

/// Brings a new replica up to a prepared one, and checks its text.
/// With one more edit of the prepared one behind, or without.
pub type Source = Box<dyn FnMut(&str, bool) -> Run>;

pub struct System {
    pub name: &'static str,
    /// One in so many of the edits is enough: it is slow.
    pub share: usize,
    /// So many replicas follow a script.
    pub live: fn(usize, &Script) -> Run,
    /// Replicas and edits, before the catch-up that is measured.
    pub source: fn(usize, &[Edit]) -> Source,
}

pub const SYSTEMS: [System; 5] = [
    System {
        name: "weft",
        share: 1,
        live: |n, s| follow(weft_group(SyncMode::Vectors, n), s),
        source: |n, e| weft_source(SyncMode::Vectors, n, e),
    },
    System {
        name: "weft, DAG",
        share: 1,
        live: |n, s| follow(weft_group(SyncMode::Dag, n), s),
        source: |n, e| weft_source(SyncMode::Dag, n, e),
    },
    System { name: "yrs, y-sync", share: 1, live: |n, s| follow(yrs_group(n), s), source: yrs_source },
    System { name: "loro", share: 1, live: |n, s| follow(loro_group(n), s), source: loro_source },
    System {
        name: "automerge",
        share: 20,
        live: |n, s| follow(automerge_group(n), s),
        source: automerge_source,
    },
];

/// Replicas of one system, and what it does for an edit.
trait Group {
    type Message;

    /// Makes an edit and writes it to bytes. Returns how many, too.
    fn make(&mut self, edit: &Edit) -> (Self::Message, usize);
    /// Reads and applies it at another replica.
    fn take(&mut self, to: usize, message: &Self::Message);
    fn texts(&self) -> impl Iterator<Item = String>;
}

/// Makes some edits, then lets every replica take in what the others have made. Returns the bytes of all.
fn step<G: Group>(group: &mut G, edits: &[Edit], replicas: usize) -> usize {
    let mut len = 0;
    let mut messages = Vec::with_capacity(edits.len());
    for edit in edits {
        let (message, bytes) = group.make(edit);
        messages.push((edit.author, message));
        len += bytes;
    }
    for to in 0..replicas {
        for (_, message) in messages.iter().filter(|(from, _)| *from != to) {
            group.take(to, message);
        }
    }
    len
}

fn follow<G: Group>(group: G, script: &Script) -> Run {
    let mut group = group;
    let replicas = group.texts().count();
    script.prepared.chunks(1).for_each(|edit| _ = step(&mut group, edit, replicas));
    let rounds = script.edits.chunks(script.at_once);
    let run = timed(|| rounds.map(|edits| step(&mut group, edits, replicas)).sum());
    group.texts().for_each(|text| assert_eq!(text, script.text));
    run
}

/// For each edit, everybody takes it in.
fn edit_all<G: Group>(group: &mut G, edits: &[Edit]) {
    let replicas = group.texts().count();
    edits.chunks(1).for_each(|edit| _ = step(group, edit, replicas));
}

fn one_character(character: char, buffer: &mut [u8; 4]) -> &str {
    character.encode_utf8(buffer)
}

fn weft_group(sync: SyncMode, replicas: usize) -> Vec<Replica> {
    let mut group: Vec<Replica> = (0..replicas as u64).map(|number| Replica::new(number, sync)).collect();
    group[0].model.api().root("").expect("room");
    group[0].flush();
    weft_deliver(&mut group, 0);
    group
}

/// Brings the patches that a replica has sent to all others.
fn weft_deliver(group: &mut [Replica], from: usize) {
    let sent = std::mem::take(&mut group[from].sent);
    for to in (0..group.len()).filter(|to| *to != from) {
        sent.iter().filter(|sent| sent.patch).for_each(|sent| group[to].heard(&sent.bytes));
    }
}

impl Group for Vec<Replica> {
    type Message = Vec<Sent>;

    fn make(&mut self, edit: &Edit) -> (Vec<Sent>, usize) {
        let author = &mut self[edit.author];
        let text = one_character(edit.character, &mut [0; 4]).to_owned();
        let root = author.model.api().str("");
        root.and_then(|mut root| root.ins(edit.position, text.as_str())).expect("in the text");
        author.flush();
        let sent = std::mem::take(&mut author.sent);
        let len = sent.iter().map(|sent| sent.bytes.len()).sum();
        (sent, len)
    }

    fn take(&mut self, to: usize, message: &Vec<Sent>) {
        message.iter().filter(|sent| sent.patch).for_each(|sent| self[to].heard(&sent.bytes));
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.iter().map(|replica| replica.model.view().as_str().expect("a text").to_owned())
    }
}

fn weft_source(sync: SyncMode, replicas: usize, edits: &[Edit]) -> Source {
    let mut group = weft_group(sync, replicas);
    edit_all(&mut group, edits);
    let mut source = group.swap_remove(0);
    let (mut number, mut more) = (1000, String::new());
    Box::new(move |text, goes_on| {
        number += 1;
        let text = format!("{text}{more}");
        let mut late = Replica::new(number, sync);
        let name = late.id.clone();
        let run = timed(|| {
            let mut len = 0;
            late.input(Input::PeerUp(source.id.clone()));
            source.input(Input::PeerUp(name.clone()));
            // The clock stands still while messages go to and fro, and jumps when nothing is under way.
            while late.machine.stored() != source.machine.stored() {
                late.wait();
                source.now = late.now;
                while !late.sent.is_empty() || !source.sent.is_empty() {
                    for sent in std::mem::take(&mut late.sent) {
                        len += sent.bytes.len();
                        source.message(&sent.bytes);
                    }
                    for sent in std::mem::take(&mut source.sent) {
                        len += sent.bytes.len();
                        late.message(&sent.bytes);
                    }
                }
            }
            assert_eq!(late.model.view().as_str(), Some(&*text));
            len
        });
        if !goes_on {
            source.input(Input::PeerLeft(name));
            return run;
        }
        let run = run.and_then(|| {
            let end = text.len();
            source.model.api().str("").and_then(|mut root| root.ins(end, "x")).expect("in the text");
            source.flush();
            for sent in std::mem::take(&mut source.sent).into_iter().filter(|sent| sent.patch) {
                late.heard(&sent.bytes);
            }
        });
        more.push('x');
        assert_eq!(late.model.view().as_str(), Some(&*format!("{text}x")));
        source.input(Input::PeerLeft(name));
        run
    })
}

fn yrs_group(replicas: usize) -> Vec<Doc> {
    let options = |client_id| yrs::Options {
        client_id: yrs::ClientID::new(ID_MIN + client_id as u64),
        offset_kind: yrs::OffsetKind::Utf16,
        ..yrs::Options::default()
    };
    let group: Vec<Doc> = (0..replicas).map(|number| Doc::with_options(options(number))).collect();
    group.iter().for_each(|doc| _ = doc.get_or_insert_text("text"));
    group
}

/// Writes what a transaction changed as a message of y-sync.
fn yrs_message(txn: &TransactionMut<'_>) -> Vec<u8> {
    Message::Sync(SyncMessage::Update(txn.encode_update_v1())).encode_v1()
}

fn yrs_receive(doc: &Doc, message: &[u8]) {
    let Ok(Message::Sync(SyncMessage::Update(update) | SyncMessage::SyncStep2(update))) =
        Message::decode_v1(message)
    else {
        panic!("not an update");
    };
    doc.transact_mut()
        .apply_update(Update::decode_v1(&update).expect("an update"))
        .expect("an update that applies");
}

impl Group for Vec<Doc> {
    type Message = Vec<u8>;

    fn make(&mut self, edit: &Edit) -> (Vec<u8>, usize) {
        let text = self[edit.author].get_or_insert_text("text");
        let mut txn = self[edit.author].transact_mut();
        text.insert(&mut txn, edit.position as u32, one_character(edit.character, &mut [0; 4]));
        let message = yrs_message(&txn);
        let len = message.len();
        (message, len)
    }

    fn take(&mut self, to: usize, message: &Vec<u8>) {
        yrs_receive(&self[to], message);
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.iter().map(yrs_text)
    }
}

fn yrs_text(doc: &Doc) -> String {
    let text = doc.get_or_insert_text("text");
    text.get_string(&doc.transact())
}

fn yrs_source(replicas: usize, edits: &[Edit]) -> Source {
    let mut group = yrs_group(replicas);
    edit_all(&mut group, edits);
    let mut more = String::new();
    Box::new(move |text, goes_on| {
        let text = format!("{text}{more}");
        let late = Doc::with_options(yrs::Options {
            offset_kind: yrs::OffsetKind::Utf16,
            ..yrs::Options::default()
        });
        let run = timed(|| {
            let ask = Message::Sync(SyncMessage::SyncStep1(late.transact().state_vector())).encode_v1();
            let Ok(Message::Sync(SyncMessage::SyncStep1(vector))) = Message::decode_v1(&ask) else {
                panic!("not a vector");
            };
            let update = group[0].transact().encode_state_as_update_v1(&vector);
            let answer = Message::Sync(SyncMessage::SyncStep2(update)).encode_v1();
            yrs_receive(&late, &answer);
            assert_eq!(yrs_text(&late), text);
            ask.len() + answer.len()
        });
        if !goes_on {
            return run;
        }
        let run = run.and_then(|| {
            let root = group[0].get_or_insert_text("text");
            let message = {
                let mut txn = group[0].transact_mut();
                root.insert(&mut txn, text.len() as u32, "x");
                yrs_message(&txn)
            };
            yrs_receive(&late, &message);
        });
        more.push('x');
        assert_eq!(yrs_text(&late), format!("{text}x"));
        run
    })
}

fn loro_group(replicas: usize) -> Vec<LoroDoc> {
    let doc = |number: usize| {
        let doc = LoroDoc::new();
        doc.set_peer_id(ID_MIN + number as u64).expect("a peer id");
        doc
    };
    (0..replicas).map(doc).collect()
}

impl Group for Vec<LoroDoc> {
    type Message = Vec<u8>;

    fn make(&mut self, edit: &Edit) -> (Vec<u8>, usize) {
        let author = &self[edit.author];
        let before = author.oplog_vv();
        let text = one_character(edit.character, &mut [0; 4]).to_owned();
        author.get_text("text").insert(edit.position, &text).expect("in the text");
        author.commit();
        let update = author.export(ExportMode::updates(&before)).expect("an update");
        let len = update.len();
        (update, len)
    }

    fn take(&mut self, to: usize, message: &Vec<u8>) {
        self[to].import(message).expect("an update that applies");
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.iter().map(|doc| doc.get_text("text").to_string())
    }
}

fn loro_source(replicas: usize, edits: &[Edit]) -> Source {
    let mut group = loro_group(replicas);
    edit_all(&mut group, edits);
    let source = group.swap_remove(0);
    let mut more = String::new();
    Box::new(move |text, goes_on| {
        let text = format!("{text}{more}");
        let late = LoroDoc::new();
        let run = timed(|| {
            let snapshot = source.export(ExportMode::Snapshot).expect("a snapshot");
            late.import(&snapshot).expect("a snapshot that loads");
            assert_eq!(late.get_text("text").to_string(), text);
            snapshot.len()
        });
        if !goes_on {
            return run;
        }
        let run = run.and_then(|| {
            let before = source.oplog_vv();
            source.get_text("text").insert(text.len(), "x").expect("in the text");
            source.commit();
            late.import(&source.export(ExportMode::updates(&before)).expect("an update"))
                .expect("it applies");
        });
        more.push('x');
        assert_eq!(late.get_text("text").to_string(), format!("{text}x"));
        run
    })
}

/// Documents, and the text in them.
type Automerges = (Vec<AutoCommit>, ObjId);

fn automerge_group(replicas: usize) -> Automerges {
    let mut first = AutoCommit::new().with_actor(ActorId::from([1; 16]));
    let text = first.put_object(ROOT, "text", ObjType::Text).expect("a new key");
    let saved = first.save();
    let other = |number: usize| {
        AutoCommit::load(&saved).expect("what was saved").with_actor(ActorId::from([number as u8 + 1; 16]))
    };
    let mut group: Vec<AutoCommit> = (1..replicas).map(other).collect();
    group.insert(0, first);
    (group, text)
}

impl Group for Automerges {
    type Message = Vec<u8>;

    fn make(&mut self, edit: &Edit) -> (Vec<u8>, usize) {
        let author = &mut self.0[edit.author];
        author
            .splice_text(&self.1, edit.position, 0, one_character(edit.character, &mut [0; 4]))
            .expect("in the text");
        author.commit();
        let bytes = author.get_last_local_change().expect("a change").raw_bytes().to_vec();
        let len = bytes.len();
        (bytes, len)
    }

    fn take(&mut self, to: usize, message: &Vec<u8>) {
        let change = Change::from_bytes(message.clone()).expect("a change");
        self.0[to].apply_changes([change]).expect("a change that applies");
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|doc| doc.text(&self.1).expect("a text"))
    }
}

fn automerge_source(replicas: usize, edits: &[Edit]) -> Source {
    let mut group = automerge_group(replicas);
    edit_all(&mut group, edits);
    let (mut docs, object) = group;
    let mut source = docs.swap_remove(0);
    let mut more = String::new();
    Box::new(move |text, goes_on| {
        let text = format!("{text}{more}");
        let mut late = AutoCommit::new();
        let run = timed(|| {
            let mut len = 0;
            let (mut ours, mut theirs) = (automerge::sync::State::new(), automerge::sync::State::new());
            loop {
                let ask = late.sync().generate_sync_message(&mut ours);
                let asked = ask.is_some();
                if let Some(message) = ask {
                    let bytes = message.encode();
                    len += bytes.len();
                    let message = automerge::sync::Message::decode(&bytes).expect("a message");
                    source.sync().receive_sync_message(&mut theirs, message).expect("a message");
                }
                let answer = source.sync().generate_sync_message(&mut theirs);
                if !asked && answer.is_none() {
                    break;
                }
                if let Some(message) = answer {
                    let bytes = message.encode();
                    len += bytes.len();
                    let message = automerge::sync::Message::decode(&bytes).expect("a message");
                    late.sync().receive_sync_message(&mut ours, message).expect("a message");
                }
            }
            assert_eq!(late.text(&object).expect("a text"), text);
            len
        });
        if !goes_on {
            return run;
        }
        let run = run.and_then(|| {
            source.splice_text(&object, text.len(), 0, "x").expect("in the text");
            source.commit();
            let bytes = source.get_last_local_change().expect("a change").raw_bytes().to_vec();
            late.apply_changes([Change::from_bytes(bytes).expect("a change")])
                .expect("a change that applies");
        });
        more.push('x');
        assert_eq!(late.text(&object).expect("a text"), format!("{text}x"));
        run
    })
}

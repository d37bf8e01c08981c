//! Replicas that live differently are the same in the end.
//!
//! What comes to a document goes by one of several ways: keystrokes and elements have fast ones of their own, who watches
//! goes by the general rules, a shared store is copied first, snapshots are read in bulk. Here six sessions edit at once,
//! each with a life of its own, and whatever the order, each must have come to the same bytes; and bytes that were torn on
//! their way must do the same by every way.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, SessionId,
    codec::{DocumentFormat, Packing},
    model::UndoOptions,
};
use proptest::prelude::*;
use support::{
    edits::{Edit, edit, edits, start},
    random::mutated,
    spelled_out,
};

/// How a replica lives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    /// Takes bytes, by the fastest way there is.
    Plain,
    /// Watches and can undo, so by the general rules.
    Watched,
    /// Shares its store with a copy that somebody keeps.
    Shared,
    /// Is written to a native snapshot and read again.
    Native,
    /// Is written in json-joy's binary form and read again.
    Binary,
    /// Does everything in transactions, after one that fails.
    Transactions,
}

const LIVES: [Life; 6] =
    [Life::Plain, Life::Watched, Life::Shared, Life::Native, Life::Binary, Life::Transactions];

fn session(number: usize) -> SessionId {
    SessionId::new(70_000 + number as u64).unwrap()
}

fn native(document: &Document) -> Vec<u8> {
    document.to_native(Packing::Plain)
}

struct Replica {
    life: Life,
    model: Model,
    /// How many of each session's patches have come.
    come: [usize; LIVES.len()],
    /// Copies that somebody keeps, and what each was when it was made.
    kept: Vec<(Document, Vec<u8>)>,
}

impl Replica {
    fn new(number: usize, life: Life, first: &Patch) -> Self {
        let mut model = Model::new(session(number));
        if life == Life::Watched {
            model.watch();
            model.enable_undo(UndoOptions::STANDARD);
        }
        if number > 0 {
            assert_eq!(model.apply(first), Ok(Applied::Merged));
        } else {
            model.api().root(start()).unwrap();
            assert_eq!(model.flush().as_ref(), Some(first));
        }
        Self { life, model, come: [0; LIVES.len()], kept: Vec::new() }
    }

    /// What its life brings with it before everything it does.
    fn live(&mut self) {
        let document = self.model.document();
        let session = document.session();
        match self.life {
            Life::Shared => {
                self.model.share();
                let copy = self.model.document().clone();
                assert!(copy.shares_with(self.model.document()));
                self.kept.push((copy.clone(), native(&copy)));
                if self.kept.len() > 3 {
                    self.let_go();
                }
            }
            Life::Native => {
                self.model = Document::from_native(&native(document), session).unwrap().into();
            }
            Life::Binary => {
                let back = Document::from_binary(&document.to_binary()).unwrap();
                // Sessions that nothing is left of are not in this form (H8).
                if back.state_vector() == document.state_vector() {
                    self.model = back.into();
                }
            }
            Life::Transactions => {
                let failed: Result<(), ()> = self.model.transaction(|model| {
                    model.api().root(start()).unwrap();
                    Err(())
                });
                assert_eq!(failed, Err(()));
            }
            Life::Plain | Life::Watched => {}
        }
    }

    /// The oldest copy is as it was.
    fn let_go(&mut self) {
        let (copy, then) = self.kept.remove(0);
        copy.check().unwrap();
        assert_eq!(native(&copy), then);
    }

    fn edit(&mut self, edits: &[Edit]) -> Option<Patch> {
        self.live();
        match self.life {
            Life::Transactions => {
                let (lost, kept) = edits.split_at(edits.len() / 2);
                let done: Result<(), ()> = self.model.transaction(|model| {
                    let failed: Result<(), ()> = model.transaction(|model| {
                        lost.iter().for_each(|one| edit(model, one));
                        Err(())
                    });
                    assert_eq!(failed, Err(()));
                    kept.iter().for_each(|one| edit(model, one));
                    Ok(())
                });
                done.unwrap();
            }
            _ => edits.iter().for_each(|one| edit(&mut self.model, one)),
        }
        self.model.flush()
    }

    fn take(&mut self, patch: &Patch) -> Applied {
        self.live();
        match self.life {
            Life::Watched => self.model.apply(patch).unwrap(),
            Life::Transactions => {
                let mut applied = None;
                let failed: Result<(), ()> = self.model.transaction(|model| {
                    model.api().root("lost").unwrap();
                    applied = Some(model.apply(patch).unwrap());
                    Err(())
                });
                assert_eq!(failed, Err(()));
                applied.unwrap()
            }
            _ => self.model.apply_bytes(patch.as_bytes()).unwrap(),
        }
    }

    /// Takes the next patches of a session, as far as their causes have come. Returns how many.
    fn take_next(&mut self, author: usize, made: &[Vec<Patch>], most: usize) -> usize {
        let mut taken = 0;
        while taken < most && self.model.document().session() != session(author) {
            let Some(patch) = made[author].get(self.come[author]) else { break };
            match self.take(patch) {
                Applied::Merged => {}
                Applied::Parked { missing } => {
                    assert!(!self.model.document().has_seen(missing));
                    break;
                }
                Applied::Known => panic!("{patch:?} had come before"),
            }
            self.come[author] += 1;
            taken += 1;
        }
        self.model.document().check().unwrap();
        taken
    }
}

#[derive(Clone, Debug)]
enum Step {
    Edit(Vec<Edit>),
    /// The next patches of a session come.
    Take(usize, usize),
    /// One that was taken comes again.
    Again(usize, usize),
    /// One comes that was torn on its way, or what a patch is made of stands in it otherwise.
    Torn(usize, usize, Vec<u8>),
    /// A snapshot comes that was torn.
    TornSnapshot(Vec<u8>),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let author = 0..LIVES.len();
    let spoil = || prop::collection::vec(any::<u8>(), 1..8);
    let step = prop_oneof![
        6 => edits(1..4).prop_map(Step::Edit),
        6 => (author.clone(), 1..4usize).prop_map(|(author, most)| Step::Take(author, most)),
        1 => (author.clone(), any::<usize>()).prop_map(|(author, which)| Step::Again(author, which)),
        2 => (author, any::<usize>(), spoil()).prop_map(|(author, at, spoil)| Step::Torn(author, at, spoil)),
        1 => spoil().prop_map(Step::TornSnapshot),
    ];
    (0..LIVES.len(), step)
}

/// Bytes do the same to a document by whatever way they come, or nothing.
fn check_ways(document: &Document, bytes: &[u8]) {
    let before = native(document);
    let mut fast = document.clone();
    let mut shared = document.clone();
    shared.share();
    let kept = shared.clone();
    let mut watched = Model::from(document.clone());
    watched.watch();
    let applied = fast.apply_bytes(bytes);
    assert_eq!(shared.apply_bytes(bytes), applied);
    assert_eq!(watched.apply_bytes(bytes), applied);
    if applied != Ok(Applied::Merged) {
        assert_eq!(native(&fast), before);
        assert_eq!(fast.to_binary(), document.to_binary());
    }
    assert_eq!(native(&fast), native(&shared));
    assert_eq!(native(&fast), native(watched.document()));
    assert_eq!(fast.to_binary(), watched.document().to_binary());
    assert_eq!(native(&kept), before);
    fast.check().unwrap();
    shared.check().unwrap();
}

/// A torn snapshot is refused, or is a document that every form and every way of reading agrees on.
fn check_snapshot(bytes: &[u8]) {
    let Ok(document) = Document::from_binary(bytes) else { return };
    document.check().unwrap();
    let again = Document::from_native(&native(&document), document.session()).unwrap();
    again.check().unwrap();
    assert_eq!(native(&again), native(&document));
    let Ok(verbose) = DocumentFormat::Verbose.encode(&document) else { return };
    let slow = DocumentFormat::Verbose.decode(&verbose).unwrap();
    assert_eq!(slow.to_binary(), document.to_binary());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn replicas_that_live_differently_are_the_same(steps in prop::collection::vec(step(), 1..60)) {
        let mut first = Model::new(session(0));
        first.api().root(start()).unwrap();
        let first = first.flush().unwrap();
        let mut replicas: Vec<_> =
            LIVES.into_iter().enumerate().map(|(number, life)| Replica::new(number, life, &first)).collect();
        let mut made: Vec<Vec<Patch>> = vec![Vec::new(); LIVES.len()];
        let mut general = Model::new(session(99));
        general.watch();
        let _ = general.apply(&first).unwrap();
        for (who, step) in steps {
            let replica = &mut replicas[who];
            match step {
                Step::Edit(edits) => {
                    if let Some(patch) = replica.edit(&edits) {
                        // Made in an order that its causes allow.
                        let applied = general.apply_bytes(&spelled_out(&patch));
                        prop_assert_eq!(applied, Ok(Applied::Merged));
                        made[who].push(patch);
                    }
                }
                Step::Take(author, most) => drop(replica.take_next(author, &made, most)),
                Step::Again(author, which) if replica.come[author] > 0 => {
                    let before = native(replica.model.document());
                    let applied = replica.take(&made[author][which % replica.come[author]]);
                    prop_assert_eq!(applied, Applied::Known);
                    prop_assert_eq!(native(replica.model.document()), before);
                }
                Step::Torn(author, which, spoil) if !made[author].is_empty() => {
                    let patch = &made[author][which % made[author].len()];
                    check_ways(replica.model.document(), patch.as_bytes());
                    check_ways(replica.model.document(), &mutated(patch.as_bytes().to_vec(), &spoil));
                }
                Step::TornSnapshot(spoil) => {
                    let bytes = replica.model.document().to_binary();
                    check_snapshot(&bytes);
                    check_snapshot(&mutated(bytes, &spoil));
                }
                Step::Again(..) | Step::Torn(..) => {}
            }
            replicas[who].model.document().check().unwrap();
        }
        // In the end everything comes to everyone.
        while replicas.iter_mut().any(|replica| (0..LIVES.len()).any(|a| replica.take_next(a, &made, 99) > 0)) {}
        let end = native(general.document());
        for replica in &mut replicas {
            prop_assert_eq!(native(replica.model.document()), end.clone(), "{:?}", replica.life);
            prop_assert_eq!(replica.model.view().in_key_order(), general.view().in_key_order());
            while !replica.kept.is_empty() {
                replica.let_go();
            }
        }
    }
}

/// A document of a text, in which a keystroke was the last thing that came.
fn typed_in() -> Model {
    let mut model = Model::new(session(0));
    model.api().root("ab한de").unwrap();
    let first = model.flush().unwrap();
    model.api().str("").unwrap().ins(5, "f").unwrap();
    let second = model.flush().unwrap();
    let mut document = Model::new(session(1));
    for patch in [first, second] {
        assert_eq!(document.apply_bytes(patch.as_bytes()), Ok(Applied::Merged));
    }
    document
}

/// Somebody of whom nothing was known types or erases a letter: by all ways that is the same, and what it goes to has to be
/// there.
#[test]
fn the_first_keystroke_of_each_session_does_the_same_by_every_way() {
    type OneEdit = fn(&mut Model);
    let edits: [OneEdit; 7] = [
        |model| model.api().str("").unwrap().ins(0, "x").unwrap(),
        |model| model.api().str("").unwrap().ins(3, "y").unwrap(),
        |model| model.api().str("").unwrap().ins(6, "z").unwrap(),
        |model| model.api().str("").unwrap().ins(2, "é🙂").unwrap(),
        |model| model.api().str("").unwrap().del(0, 1).unwrap(),
        |model| model.api().str("").unwrap().del(1, 3).unwrap(),
        |model| model.api().str("").unwrap().del(5, 1).unwrap(),
    ];
    let mut document = typed_in();
    let mut number = 10;
    for edit in edits {
        for (spoil, unseen) in [(None, false), (None, true), (Some(9), false), (Some(16), false)] {
            number += 1;
            let mut author = if unseen {
                // It goes to what another session has made that nobody has sent.
                let mut other = document.fork(session(number + 1000));
                other.api().str("").unwrap().ins(0, "123").unwrap();
                let _ = other.flush();
                other.fork(session(number))
            } else {
                document.fork(session(number))
            };
            edit(&mut author);
            let patch = author.flush().unwrap();
            let bytes = spoil.map_or_else(
                || patch.as_bytes().to_vec(),
                |at| mutated(patch.as_bytes().to_vec(), &[at, 1, 7]),
            );
            check_ways(document.document(), &bytes);
            if spoil.is_none() && !unseen {
                assert_eq!(document.apply_bytes(&bytes), Ok(Applied::Merged));
                assert_eq!(document.apply_bytes(&bytes), Ok(Applied::Known));
                assert!(document.document().has_seen(patch.id()));
            }
        }
    }
    document.document().check().unwrap();
}

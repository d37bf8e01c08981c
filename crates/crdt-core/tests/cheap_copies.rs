//! Copies that share memory until they are edited: whatever is done to them and to their original, each is what a copy of
//! its own would be. And documents that were loaded and get their index with the first edit, or that lie in their snapshots
//! until somebody asks: each is what one is that had all along what it has to have.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, StateVector, Timestamp, Value,
    codec::{Log, Packing},
    document::Compaction,
    model::EditError,
};
use proptest::prelude::*;
use support::edits::{Edit, any_edit, edit, start};

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

/// Something that is done to one of several documents.
#[derive(Clone, Debug)]
enum Step {
    Share,
    Clone,
    Fork(u64),
    Become(u64),
    Edit(Edit),
    /// Takes what another one has made.
    Take(usize),
    Compact,
    Transaction(Edit, bool),
    Drop,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        3 => Just(Step::Share),
        2 => Just(Step::Clone),
        3 => (0..12u64).prop_map(Step::Fork),
        2 => (0..12u64).prop_map(Step::Become),
        5 => any_edit().prop_map(Step::Edit),
        4 => any::<usize>().prop_map(Step::Take),
        1 => Just(Step::Compact),
        1 => (any_edit(), any::<bool>()).prop_map(|(edit, fails)| Step::Transaction(edit, fails)),
        1 => Just(Step::Drop),
    ];
    (any::<usize>(), step)
}

/// A document that shares what it can, and one that never does.
struct Pair {
    shared: Model,
    deep: Model,
}

impl Pair {
    fn both(&mut self, run: impl Fn(&mut Model)) {
        run(&mut self.shared);
        run(&mut self.deep);
    }

    fn from(shared: Document, deep: Document) -> Self {
        Self { shared: shared.into(), deep: deep.into() }
    }
}

/// What can be told of a document that lies in its snapshot.
fn told_unread(document: &Document) -> impl PartialEq + std::fmt::Debug + use<> {
    let clock: (SessionId, u64, Timestamp, StateVector, Vec<Timestamp>) = (
        document.session(),
        document.time(),
        document.next_id(),
        document.state_vector(),
        document.peers().collect(),
    );
    let seen: Vec<bool> = (0..12)
        .flat_map(|number| (0..24).map(move |time| Timestamp::new(session(number), time)))
        .map(|id| document.has_seen(id))
        .collect();
    (document.view(), clock, seen, document.compacted_to())
}

/// Everything that can be told of a document.
fn told(document: &Document) -> impl PartialEq + std::fmt::Debug + use<> {
    let unread = told_unread(document);
    let forms = (document.to_binary(), document.to_native(Packing::Plain));
    let nodes: Vec<(Timestamp, Value)> = document.nodes().map(|node| (node.id(), node.view())).collect();
    for (id, value) in &nodes {
        assert_eq!(
            document.node(*id).map(|node| (node.id(), node.view())).as_ref(),
            Some(&(*id, value.clone()))
        );
    }
    let unknown = Timestamp::new(session(11), 1 << 40);
    assert!(document.node(unknown).is_none() && document.node(document.next_id()).is_none());
    (document.view(), unread, forms, nodes)
}

/// Does some things to two documents that are the same but for where they lie; and to their copies. All that can be told of
/// them is compared after each `often`, and at the end.
fn live(
    pair: Pair,
    steps: Vec<(usize, Step)>,
    mut patches: Vec<Patch>,
    often: usize,
) -> Result<(), TestCaseError> {
    let mut pairs = vec![pair];
    let count = steps.len();
    for (done, (at, step)) in (1..).zip(steps) {
        let at = at % pairs.len();
        let pair = &mut pairs[at];
        match step {
            Step::Share => pair.shared.share(),
            Step::Clone => {
                let copy = Pair { shared: pair.shared.clone(), deep: pair.deep.clone() };
                pairs.push(copy);
            }
            Step::Fork(number) => {
                let copy =
                    Pair { shared: pair.shared.fork(session(number)), deep: pair.deep.fork(session(number)) };
                pairs.push(copy);
            }
            Step::Become(number) => {
                let set = |model: &mut Model| {
                    let mut document = std::mem::replace(model, Model::new(session(1))).into_document();
                    document.set_session(session(number));
                    *model = document.into();
                };
                pair.both(set);
            }
            Step::Edit(one) => pair.both(|model| edit(model, &one)),
            Step::Take(which) => {
                let patch = &patches[which % patches.len()];
                let (shared, deep) = (pair.shared.apply(patch), pair.deep.apply(patch));
                prop_assert_eq!(shared, deep);
            }
            Step::Compact => {
                let seen = pair.deep.document().state_vector();
                let compact = |model: &mut Model| matches!(model.compact(&seen), Compaction::Done { .. });
                prop_assert_eq!(compact(&mut pair.shared), compact(&mut pair.deep));
            }
            Step::Transaction(one, fails) => pair.both(|model| {
                let _ = model.transaction(|model| {
                    edit(model, &one);
                    if fails { Err(()) } else { Ok(()) }
                });
            }),
            Step::Drop if pairs.len() > 1 => drop(pairs.remove(at)),
            Step::Drop => {}
        }
        for pair in &mut pairs {
            let (shared, deep) = (pair.shared.flush(), pair.deep.flush());
            prop_assert_eq!(&shared, &deep);
            patches.extend(shared);
            prop_assert_eq!(told_unread(pair.shared.document()), told_unread(pair.deep.document()));
            if done % often != 0 && done != count {
                continue;
            }
            pair.shared.document().check().map_err(TestCaseError::fail)?;
            prop_assert_eq!(told(pair.shared.document()), told(pair.deep.document()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_shared_copy_is_what_a_copy_of_its_own_is(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = Model::new(session(0));
        model.api().root(start()).unwrap();
        let patches = vec![model.flush().unwrap()];
        let document = model.into_document();
        live(Pair::from(document.clone(), document), steps, patches, 1)?;
    }

    #[test]
    fn a_loaded_document_is_what_one_with_an_index_is(steps in prop::collection::vec(step(), 1..12)) {
        let (model, patches) = with_many_rows();
        // Both have the last patch; who takes it in has an index from then on, who is loaded with it has none yet.
        let load = |document: &Document| Document::from_native(&document.to_native(Packing::Plain), session(12)).unwrap();
        let mut ready = load(model.document());
        let mut last = model.fork(session(13));
        last.api().obj("/many").unwrap().set([("key7", "touched")]).unwrap();
        prop_assert_eq!(ready.apply(&last.flush().unwrap()), Ok(Applied::Merged));
        live(Pair::from(load(last.document()), ready), steps, patches, 1)?;
    }

    #[test]
    fn an_opened_document_is_what_a_loaded_one_is(
        steps in prop::collection::vec(step(), 1..20),
        often in 1..12usize,
        number in 0..14u64,
    ) {
        let (model, patches) = with_many_rows();
        let bytes = model.document().to_native(Packing::Plain);
        let loaded = Document::from_native(&bytes, session(number)).unwrap();
        let opened = Document::open_native(bytes, session(number)).unwrap();
        live(Pair::from(opened, loaded), steps, patches, often)?;
    }
}

/// Values were set in another order than that of their keys, so few ids of neighbours follow each other.
fn with_many_rows() -> (Model, Vec<Patch>) {
    let mut model = Model::new(session(0));
    let mut start = start();
    if let Value::Map(entries) = &mut start {
        entries.push(("many".into(), Value::Map(Vec::new())));
    }
    model.api().root(start).unwrap();
    for number in (0..100).rev() {
        model.api().obj("/many").unwrap().set([(&*format!("key{number}"), number)]).unwrap();
    }
    let patches = vec![model.flush().unwrap()];
    (model, patches)
}

#[test]
fn a_loaded_document_can_be_asked_from_many_threads() {
    let (model, _) = with_many_rows();
    let bytes = model.document().to_native(Packing::Plain);
    let mut loaded = Document::from_native(&bytes, session(1)).unwrap();
    let ids: Vec<Timestamp> = model.document().nodes().map(|node| node.id()).collect();
    let ask =
        |document: &Document| ids.iter().all(|&id| document.node(id).is_some_and(|node| node.id() == id));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&loaded))).collect();
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap()));
    });
    loaded.share();
    let mut copy = Model::from(loaded.clone());
    copy.api().obj("/many").unwrap().set([("key1", 0)]).unwrap();
    assert!(!copy.document().shares_with(&loaded) && ask(&loaded));
    assert_eq!(loaded.to_native(Packing::Plain), bytes);
}

#[test]
fn an_opened_document_can_be_asked_from_many_threads() {
    let (model, _) = with_many_rows();
    let bytes = model.document().to_native(Packing::Plain);
    let opened = Document::open_native(bytes.clone(), session(1)).unwrap();
    let mut copy = Model::from(opened.clone());
    assert!(copy.document().shares_with(&opened));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| opened.to_native(Packing::Plain))).collect();
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap() == bytes));
    });
    copy.api().obj("/many").unwrap().set([("key1", 0)]).unwrap();
    assert!(!copy.document().shares_with(&opened));
    assert_eq!(opened.to_native(Packing::Plain), bytes);
}

fn text(text: &str) -> Document {
    let mut model = Model::new(session(1));
    model.api().root(text).unwrap();
    model.into_document()
}

#[test]
fn a_session_that_is_left_is_a_peer_before_anything_is_edited() {
    let mut document = text("warp");
    let made = document.next_id().tick(0).time - 1;
    document.share();
    let fork = document.fork(session(2));
    assert!(fork.shares_with(&document));
    assert_eq!(fork.session(), session(2));
    assert_eq!(fork.peers().collect::<Vec<_>>(), [Timestamp::new(session(1), made)]);
    assert_eq!(document.peers().len(), 0);
}

#[test]
fn who_is_given_on_and_on_has_a_store_of_its_own_in_the_end() {
    let mut document = text("warp");
    document.share();
    let (mut shared, mut deep) = (document.clone(), text("warp"));
    for number in 0..100 {
        shared.set_session(session(number % 20));
        deep.set_session(session(number % 20));
    }
    assert!(!shared.shares_with(&document));
    assert_eq!(told(&shared), told(&deep));
}

#[test]
fn copies_can_be_read_elsewhere_while_the_document_is_edited() {
    let mut model = Model::from(text("warp"));
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for turn in 0..50 {
            model.share();
            let copy = model.document().clone();
            readers.push((copy.view(), scope.spawn(move || copy.view())));
            model.api().str("").unwrap().ins(turn % 4, "weft").unwrap();
        }
        for (then, reader) in readers {
            assert_eq!(reader.join().unwrap(), then);
        }
    });
}

#[test]
fn a_history_shares_its_start_with_who_looks_back() -> Result<(), EditError> {
    let log = Log::new(text("warp"));
    let end = log.end().unwrap();
    assert!(end.shares_with(log.start()));
    let mut model = Model::from(end);
    model.api().str("")?.ins(4, " and weft")?;
    assert_eq!(log.start().view(), Value::from("warp"));
    Ok(())
}

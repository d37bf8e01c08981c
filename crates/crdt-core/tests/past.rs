//! Histories of five sessions that edit, undo, fork and merge: what was is told as it was, who wrote what too, and whatever
//! form a history is kept in.

mod support;

use std::{collections::HashMap, time::Duration};

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, StateVector, Timestamp, Value,
    codec::{
        DocumentFormat, Log, LogError, LogFormat, Packing,
        document::{indexed, sidecar},
        log::{LogContainer, LogHistory, LogModel},
    },
    document::{Child, Content, Kind, NodeRef},
    model::{Expand, History, Part, UndoOptions, schema},
    patch::Op,
};
use proptest::prelude::*;
use support::{
    edits::{Edit, edit, edits, start},
    plain,
};

const SESSIONS: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    Edit(Vec<Edit>),
    Tuple(u8, i32),
    Format(usize, usize),
    Undo,
    Redo,
    /// Takes in what another session has made, as far as it may come.
    Merge(usize),
    /// Goes on as a copy of another one, under its own session.
    Fork(usize),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let other = 0..SESSIONS;
    let step = prop_oneof![
        6 => edits(1..4).prop_map(Step::Edit),
        1 => (0..20u8, any::<i32>()).prop_map(|(at, value)| Step::Tuple(at, value)),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(at, len)| Step::Format(at, len)),
        3 => Just(Step::Undo),
        2 => Just(Step::Redo),
        6 => other.clone().prop_map(Step::Merge),
        1 => other.prop_map(Step::Fork),
    ];
    (0..SESSIONS, step)
}

/// A replica, and what it showed at each time.
struct Replica {
    model: Model,
    /// How many patches of each session it has.
    come: [usize; SESSIONS],
    shown: Vec<(Duration, StateVector, Value)>,
    /// When each patch was made here or came.
    times: HashMap<Timestamp, Duration>,
}

impl Replica {
    fn of(document: &Document, number: usize, come: [usize; SESSIONS]) -> Self {
        let mut model = Model::from(document.fork(SessionId::new(80_000 + number as u64).unwrap()));
        model.enable_undo(UndoOptions::STANDARD);
        model.keep_history().unwrap();
        Self { model, come, shown: Vec::new(), times: HashMap::new() }
    }

    fn show(&mut self, now: Duration) {
        let view = self.model.view().in_key_order();
        self.shown.push((now, self.model.document().state_vector(), view));
    }
}

/// All that was made, as its patches say it.
#[derive(Default)]
struct Made {
    logs: [Vec<Patch>; SESSIONS],
    /// For each operation's ids: the patch, and the unit if it is of a text.
    ids: HashMap<Timestamp, (Timestamp, Option<u16>)>,
}

impl Made {
    fn add(&mut self, who: usize, patch: &Patch) {
        self.note(patch);
        self.logs[who].push(patch.clone());
    }

    fn note(&mut self, patch: &Patch) {
        for (id, op) in patch.ops() {
            let units: Vec<Option<u16>> = match op {
                Op::InsStr { text, .. } => text.utf16().map(Some).collect(),
                _ => vec![None; usize::try_from(op.span()).unwrap()],
            };
            for (tick, unit) in (0..).zip(units) {
                assert!(self.ids.insert(id.tick(tick), (patch.id(), unit)).is_none(), "{id} was made twice");
            }
        }
    }
}

/// A model in which there is something of every kind.
fn first() -> (Model, Patch) {
    let mut model = Model::new(SessionId::new(70_000).unwrap());
    model.api().root(start()).unwrap();
    model.api().obj("").unwrap().set_rich_text("note", "a woven text").unwrap();
    model.api().obj("").unwrap().set_node("tuple", &schema::vec([schema::con(1)])).unwrap();
    let patch = model.flush().unwrap();
    (model, patch)
}

/// Does what the steps say; all models are told the time before each.
fn run(steps: &[(usize, Step)]) -> (Document, Vec<Replica>, Made) {
    let (first, patch) = first();
    let mut made = Made::default();
    made.note(&patch);
    let mut replicas: Vec<Replica> =
        (0..SESSIONS).map(|number| Replica::of(first.document(), number, [0; SESSIONS])).collect();
    for (at, (who, step)) in (1..).zip(steps) {
        let (who, now) = (*who, Duration::from_secs(at));
        if let Step::Fork(other) = step {
            // Only who has made nothing yet: a session's patches follow each other.
            if *other != who && made.logs[who].is_empty() {
                replicas[who] = Replica::of(replicas[*other].model.document(), who, replicas[*other].come);
            }
            continue;
        }
        let Replica { model, come, times, .. } = &mut replicas[who];
        model.set_now(now);
        // Each step its own.
        model.end_undo_step();
        match step {
            Step::Edit(todo) => todo.iter().for_each(|todo| edit(model, todo)),
            Step::Tuple(place, value) => {
                if let Ok(mut tuple) = model.api().vec("/tuple") {
                    tuple.set([(*place, *value)]).unwrap();
                }
            }
            Step::Format(place, len) => {
                if let Ok(mut note) = model.api().rich_text("/note") {
                    let start = place % note.len();
                    let end = start + 1 + len % (note.len() - start);
                    note.mark(start..end, "bold", true, Expand::After).unwrap();
                    note.ins(start, "~").unwrap();
                }
            }
            Step::Undo => drop(model.undo().unwrap()),
            Step::Redo => drop(model.redo().unwrap()),
            Step::Merge(other) if *other != who => {
                // Patches can need those of third ones: then they come later.
                while let Some(patch) = made.logs[*other].get(come[*other])
                    && !matches!(model.apply(patch).unwrap(), Applied::Parked { .. })
                {
                    times.insert(patch.id(), now);
                    come[*other] += 1;
                }
            }
            Step::Merge(_) | Step::Fork(_) => {}
        }
        if let Some(patch) = model.flush() {
            times.insert(patch.id(), now);
            come[who] += 1;
            made.add(who, &patch);
        }
        model.document().check().unwrap();
        replicas[who].show(now);
    }
    (first.into_document(), replicas, made)
}

/// The paths of all that can be reached, with what is there.
fn walk<'d>(node: NodeRef<'d>, path: &str, found: &mut Vec<(String, NodeRef<'d>)>) {
    found.push((path.to_owned(), node));
    let mut enter = |step: String, child: Option<Child<'d>>| {
        if let Some(child) = child.and_then(|child| child.node()) {
            walk(child, &format!("{path}/{step}"), found);
        }
    };
    match node.content() {
        Content::Val(inner) => {
            if let Some(inner) = inner.and_then(|child| child.node()) {
                // A path goes through registers.
                found.pop();
                walk(inner, path, found);
            }
        }
        Content::Obj(entries) => {
            for (key, child) in entries {
                enter(key.as_str().unwrap().to_owned(), Some(child));
            }
        }
        Content::Vec(places) => {
            (0..).zip(places).for_each(|(at, child): (usize, _)| enter(at.to_string(), child));
        }
        Content::Arr(chunks) => {
            let mut at = 0;
            for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                for child in chunk.children() {
                    enter(at.to_string(), Some(child));
                    at += 1;
                }
            }
        }
        _ => {}
    }
}

fn check_blame(replica: &Replica, made: &Made) {
    let document = replica.model.document();
    let Some(root) = document.root() else { return };
    let mut found = Vec::new();
    walk(root, "", &mut found);
    for (path, node) in found {
        let parts = replica.model.blame(path.as_str()).unwrap();
        let mut units = Vec::new();
        let mut end = 0;
        for part in &parts {
            for tick in 0..part.ids.span {
                let (patch, unit) = made.ids[&part.ids.start.tick(tick)];
                assert_eq!(patch.sid, part.ids.start.sid, "{path}");
                assert_eq!(part.at, replica.times.get(&patch).copied(), "{path}: {part:?}");
                units.extend(unit);
            }
            if let Part::Range(range) = &part.part {
                assert_eq!(range.start, end, "{path}");
                end = range.end;
            }
        }
        let view = replica.model.view_at(path.as_str()).unwrap_or_default();
        match (node.kind(), view) {
            (Kind::Str, Value::Text(text)) => {
                assert_eq!(units, text.as_wtf8().utf16().collect::<Vec<_>>(), "{path}");
            }
            (Kind::Bin, Value::Bytes(bytes)) => assert_eq!(end, bytes.len(), "{path}"),
            (Kind::Obj, Value::Map(entries)) => assert_eq!(parts.len(), entries.len(), "{path}"),
            (Kind::Arr, _) => assert_eq!(end, node.len(), "{path}"),
            _ => {}
        }
    }
}

fn views(log: &Log, ids: &[Timestamp]) -> Vec<Value> {
    ids.iter().map(|&id| plain(&log.at(id).unwrap().view())).collect()
}

/// A history in each of its forms, and its end in each form of a document, are read back as what they were.
fn check_forms(log: &Log) {
    let ids: Vec<Timestamp> = log.patches().map(Patch::id).collect();
    let some: Vec<Timestamp> = ids.iter().copied().step_by(ids.len() / 5 + 1).collect();
    let (states, end) = (views(log, &some), log.end().unwrap());
    let view = plain(&end.view());
    let check = |back: &Log, form: &str| {
        assert!(back.patches().eq(log.patches()), "{form}");
        assert_eq!(plain(&back.start().view()), plain(&log.start().view()), "{form}");
        assert_eq!(views(back, &some), states, "{form}");
        assert_eq!(plain(&back.end().unwrap().view()), view, "{form}");
    };
    for packing in [Packing::Plain, Packing::Deflate] {
        check(&Log::from_native(&log.to_native(packing), log.start().session()).unwrap(), "native");
        let back = Document::from_native(&end.to_native(packing), end.session()).unwrap();
        assert_eq!(plain(&back.view()), view, "native");
    }
    for container in [LogContainer::NdJson, LogContainer::Cbor] {
        for model in
            [LogModel::None, LogModel::Sidecar, LogModel::Binary, LogModel::Compact, LogModel::Verbose]
        {
            for history in [LogHistory::Binary, LogHistory::Compact, LogHistory::Verbose] {
                let format = LogFormat { container, model, history };
                let bytes = match log.encode(format) {
                    Ok(bytes) => bytes,
                    // Lines of JSON have no room for bytes, and not every document and patch has every form.
                    Err(error) => {
                        let is_binary = matches!(model, LogModel::None | LogModel::Binary)
                            && (container, history) == (LogContainer::Cbor, LogHistory::Binary);
                        assert!(
                            !is_binary && !matches!(error, LogError::Component { .. } | LogError::Apply(_))
                        );
                        continue;
                    }
                };
                check(&Log::decode(container, &bytes).unwrap(), &format!("{format:?}"));
                let back = Log::decode_end(container, &bytes).unwrap();
                assert_eq!(plain(&back.view()), view, "{format:?}");
            }
        }
    }
    for form in DocumentFormat::ALL {
        let Ok(bytes) = form.encode(&end) else {
            assert_ne!(form, DocumentFormat::Binary);
            continue;
        };
        let back = form.decode(&bytes).unwrap();
        assert_eq!(plain(&back.view()), view, "{form:?}");
    }
    if end.session() != SessionId::SERVER {
        let back = indexed::decode(&indexed::encode(&end).unwrap()).unwrap();
        assert_eq!(plain(&back.view()), view, "indexed");
    }
    if let Ok(parts) = sidecar::encode(&end) {
        assert_eq!(plain(&sidecar::decode(&parts).unwrap().view()), view, "sidecar");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 1000 }))]

    /// The slow model is what each one showed, and what the patches say.
    #[test]
    fn what_was_is_told_as_it_was(steps in prop::collection::vec(step(), 1..60)) {
        let (_, mut replicas, made) = run(&steps);
        for replica in &mut replicas {
            check_blame(replica, &made);
            let shown = std::mem::take(&mut replica.shown);
            let history = replica.model.history_mut().unwrap();
            for (time, seen, view) in shown {
                prop_assert_eq!(history.at_time(time).unwrap().view().in_key_order(), view.clone());
                prop_assert_eq!(history.at_seen(&seen).unwrap().view().in_key_order(), view);
            }
            // Replayed from the start each time, and none of them lacks anything.
            let versions: Vec<_> = history.versions().collect();
            let patches: Vec<Patch> = history.log().patches().cloned().collect();
            for version in versions.iter().step_by(3) {
                let mut replayed = history.log().start().clone();
                for patch in patches.iter().filter(|patch| patch.id() <= version.id) {
                    prop_assert_eq!(replayed.apply(patch).unwrap(), Applied::Merged);
                }
                let view = replayed.view().in_key_order();
                prop_assert_eq!(history.at(version.id).unwrap().view().in_key_order(), view);
            }
        }
    }

    #[test]
    fn a_history_is_the_same_in_every_form(steps in prop::collection::vec(step(), 1..40)) {
        let (first, replicas, made) = run(&steps);
        let mut log = Log::new(first);
        made.logs.iter().flatten().for_each(|patch| assert!(log.push(patch.clone())));
        check_forms(&log);
        for replica in &replicas[..2] {
            check_forms(replica.model.history().unwrap().log());
        }
    }

    /// A document whose times a server gives.
    #[test]
    fn a_servers_history_is_the_same_in_every_form(
        todo in prop::collection::vec(edits(1..4), 1..20),
    ) {
        let mut model = Model::from(Document::new_server());
        let mut history = History::new(model.document().clone());
        model.api().root(start()).unwrap();
        for todo in &todo {
            todo.iter().for_each(|todo| edit(&mut model, todo));
            if let Some(patch) = model.flush() {
                history.push(patch, None);
            }
        }
        check_forms(history.log());
    }
}

//! Text, bytes and arrays against a slow, obvious model: a plain list of elements, by the abstract rule of the RGA
//! (`support/list.rs`).
//!
//! Five sessions edit at random positions, also in the middle of characters; patches travel in any causal order and
//! some twice. After each step each replica equals its list, element by element with ids and tombstones, and all its
//! invariants hold; at the end all replicas are equal.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, Text, Timespan, Timestamp, Value,
    codec::Packing, document::Compaction, model::UndoOptions, patch::Op,
};
use proptest::prelude::*;
use serde_json::json;
use support::list::{Element, List, elements};

const SESSIONS: usize = 5;

struct Replica {
    model: Model,
    lists: Vec<List>,
    /// For each session how many of its patches have come.
    come: [usize; SESSIONS],
    /// Whether tombstones were dropped: then only what can be seen is compared.
    compacted: bool,
}

impl Replica {
    fn check(&self) {
        self.model.document().check().unwrap();
        for list in &self.lists {
            if self.compacted {
                let live = |elements: &[Element]| -> Vec<Element> {
                    elements.iter().copied().filter(|element| element.live).collect()
                };
                let shown = elements(self.model.document(), list.node.unwrap());
                assert_eq!(live(&shown), live(&list.elements));
                continue;
            }
            let expected: Vec<Element> = list
                .elements
                .iter()
                .map(|&element| if element.live { element } else { Element { unit: 0, ..element } })
                .collect();
            assert_eq!(elements(self.model.document(), list.node.unwrap()), expected);
        }
    }

    fn text(&self) -> Vec<u16> {
        self.lists[0].elements.iter().filter(|element| element.live).map(|element| element.unit).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        session: usize,
        what: usize,
        place: usize,
        text: String,
    },
    /// Types on where the session's last insertion ended.
    Type {
        session: usize,
        text: String,
    },
    Delete {
        session: usize,
        what: usize,
        place: usize,
        len: usize,
    },
    /// Takes back what a session did last, or does it again.
    Undo {
        session: usize,
        redo: bool,
    },
    Deliver {
        to: usize,
        from: usize,
        twice: bool,
    },
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,6}", "[a-zé한🙂]{1,5}", Just("🙂🙃".to_owned()), "[a-z]{60,90}",]
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..SESSIONS;
    prop_oneof![
        3 => (session.clone(), 0..3usize, any::<usize>(), text())
            .prop_map(|(session, what, place, text)| Step::Insert { session, what, place, text }),
        3 => (session.clone(), text()).prop_map(|(session, text)| Step::Type { session, text }),
        3 => (session.clone(), 0..3usize, any::<usize>(), 1..9usize)
            .prop_map(|(session, what, place, len)| Step::Delete { session, what, place, len }),
        3 => (3..SESSIONS, prop::bool::weighted(0.3)).prop_map(|(session, redo)| Step::Undo { session, redo }),
        5 => (session.clone(), session, any::<bool>()).prop_map(|(to, from, twice)| Step::Deliver { to, from, twice }),
    ]
}

fn deliver(replica: &mut Replica, logs: &[Vec<Patch>], from: usize, twice: bool) -> bool {
    let Some(patch) = logs[from].get(replica.come[from]) else { return false };
    let before = replica.model.view();
    match replica.model.apply(patch).unwrap() {
        Applied::Parked { .. } => {
            assert_eq!(replica.model.view(), before);
            return false;
        }
        applied => assert_eq!(applied, Applied::Merged),
    }
    replica.come[from] += 1;
    replica.lists.iter_mut().for_each(|list| list.apply(patch));
    if twice {
        // Any patch that has come, again.
        let again = &logs[from][replica.come[from] / 2];
        assert_eq!(replica.model.apply(again).unwrap(), Applied::Known);
        replica.lists.iter_mut().for_each(|list| list.apply(again));
    }
    true
}

fn edit(replica: &mut Replica, edit: impl FnOnce(&mut Model)) -> Option<Patch> {
    edit(&mut replica.model);
    // As it arrives elsewhere: keystrokes are read from bytes in a way of their own.
    let patch = Patch::decode(replica.model.flush()?.as_bytes()).unwrap();
    replica.lists.iter_mut().for_each(|list| list.apply(&patch));
    Some(patch)
}

/// Runs steps; between them everyone gets everything, and those whose bit is set drop their tombstones.
fn run(phases: Vec<(Vec<Step>, u8)>) {
    let mut base = Model::new(SessionId::new(70_000).unwrap());
    base.api().root(json!({"str": "ab", "bin": null, "arr": [1]})).unwrap();
    base.api().obj("").unwrap().set([("bin", vec![1u8, 2])]).unwrap();
    let first = base.flush().unwrap();
    let nodes: Vec<Timestamp> = ["/str", "/bin", "/arr"]
        .iter()
        .map(|path| {
            let node = base.document().root().unwrap().get(&path[1..]).unwrap();
            node.id()
        })
        .collect();
    let mut replicas: Vec<Replica> = (0..SESSIONS as u64)
        .map(|at| {
            let mut lists: Vec<List> =
                nodes.iter().map(|&node| List { node: Some(node), ..List::default() }).collect();
            lists.iter_mut().for_each(|list| list.apply(&first));
            let mut model = base.fork(SessionId::new(80_000 - at * 7).unwrap());
            // The others edit in ways of their own, which nobody watches.
            if at >= 3 {
                model.enable_undo(UndoOptions::STANDARD);
            }
            Replica { model, lists, come: [0; SESSIONS], compacted: false }
        })
        .collect();
    let mut logs: Vec<Vec<Patch>> = vec![Vec::new(); SESSIONS];
    let (mut typed, mut put) = ([0; SESSIONS], [0; SESSIONS]);

    for (steps, compacting) in phases {
        for step in steps {
            let touched = match step {
                Step::Insert { session, what, place, text } => {
                    let patch = edit(&mut replicas[session], |model| match what {
                        0 => {
                            let mut str = model.api().str("/str").unwrap();
                            let at = place % (str.len() + 1);
                            str.ins(at, &*text).unwrap();
                            typed[session] = at + Text::from(&*text).as_wtf8().units();
                        }
                        1 => {
                            let mut bin = model.api().bin("/bin").unwrap();
                            let at = place % (bin.len() + 1);
                            bin.ins(at, text.as_bytes()).unwrap();
                        }
                        _ => {
                            let mut arr = model.api().arr("/arr").unwrap();
                            // Every other one where this session put some last.
                            let at = if place % 2 == 0 {
                                put[session].min(arr.len())
                            } else {
                                place % (arr.len() + 1)
                            };
                            if place % 3 == 0 {
                                arr.ins(at, text.chars().map(|c| Value::from(c.to_string()))).unwrap();
                            } else {
                                arr.ins_con(at, text.chars().map(u32::from)).unwrap();
                            }
                            put[session] = at + text.chars().count();
                        }
                    });
                    logs[session].extend(patch);
                    session
                }
                Step::Type { session, text } => {
                    let patch = edit(&mut replicas[session], |model| {
                        let mut str = model.api().str("/str").unwrap();
                        let at = typed[session].min(str.len());
                        str.ins(at, &*text).unwrap();
                        typed[session] = at + Text::from(&*text).as_wtf8().units();
                    });
                    logs[session].extend(patch);
                    session
                }
                Step::Delete { session, what, place, len } => {
                    let patch = edit(&mut replicas[session], |model| match what {
                        0 => {
                            let mut str = model.api().str("/str").unwrap();
                            let (at, total) = (place % (str.len() + 1), str.len());
                            // Every other one right before where was typed, as a backspace.
                            let at = if place % 2 == 0 {
                                typed[session].min(total).saturating_sub(len)
                            } else {
                                at
                            };
                            str.del(at, len.min(total - at)).unwrap();
                            typed[session] = at;
                        }
                        1 => {
                            let mut bin = model.api().bin("/bin").unwrap();
                            let at = place % (bin.len() + 1);
                            let len = len.min(bin.len() - at);
                            bin.del(at, len).unwrap();
                        }
                        _ => {
                            let mut arr = model.api().arr("/arr").unwrap();
                            let at = place % (arr.len() + 1);
                            let len = len.min(arr.len() - at);
                            arr.del(at, len).unwrap();
                        }
                    });
                    logs[session].extend(patch);
                    session
                }
                Step::Undo { session, redo } => {
                    let patch = edit(&mut replicas[session], |model| {
                        _ = if redo { model.redo() } else { model.undo() }.unwrap();
                    });
                    logs[session].extend(patch);
                    session
                }
                Step::Deliver { to, from, twice } => {
                    if to == from {
                        continue;
                    }
                    deliver(&mut replicas[to], &logs, from, twice);
                    to
                }
            };
            replicas[touched].check();
        }

        // Everyone gets everything.
        for (to, replica) in replicas.iter_mut().enumerate() {
            let mut progress = true;
            while progress {
                progress = false;
                for from in (0..SESSIONS).filter(|&from| from != to) {
                    while deliver(replica, &logs, from, false) {
                        progress = true;
                    }
                }
            }
            replica.check();
        }
        for replica in &replicas {
            assert_eq!(replica.model.view(), replicas[0].model.view());
            for list in 0..3 {
                assert_eq!(replica.lists[list].elements, replicas[0].lists[list].elements);
            }
            let expected = Text::from_utf16(replica.text());
            assert_eq!(replica.model.view().get("str"), Some(&Value::Text(expected)));
            assert_eq!(replica.model.document().state_vector().len(), {
                1 + logs.iter().filter(|log| !log.is_empty()).count()
            });
        }
        for (at, replica) in replicas.iter_mut().enumerate().filter(|(at, _)| compacting >> at & 1 == 1) {
            let stable = replica.model.document().state_vector();
            let compaction = replica.model.compact(&stable);
            assert!(matches!(compaction, Compaction::Done { .. }), "{at}: {compaction:?}");
            replica.compacted = true;
            replica.check();
            let native = replica.model.document().to_native(Packing::Plain);
            let back = Document::from_native(&native, replica.model.document().session()).unwrap();
            assert_eq!(back.compacted_to(), replica.model.document().compacted_to());
        }
    }
}

/// A forged insertion or deletion: its session and time are whatever someone says.
#[derive(Clone, Debug)]
struct Forged {
    session: u64,
    time: u64,
    place: usize,
    len: usize,
    delete: bool,
}

fn forged() -> impl Strategy<Value = Forged> {
    (0..3u64, 10..90u64, any::<usize>(), 1..12usize, prop::bool::weighted(0.2))
        .prop_map(|(session, time, place, len, delete)| Forged { session, time, place, len, delete })
}

/// Runs of the same session that overlap in part, which no honest editor makes: a run of which any element is there
/// already is a duplicate, the others are inserted by the rule, and no element is ever there twice.
fn run_forged(steps: Vec<Forged>) {
    let mut base = Model::new(SessionId::new(70_000).unwrap());
    base.api().root("ab").unwrap();
    let first = base.flush().unwrap();
    let node = base.document().root().unwrap().id();
    let mut list = List { node: Some(node), ..List::default() };
    list.apply(&first);
    let mut doc = base.fork(SessionId::new(90_000).unwrap()).into_document();
    for Forged { session, time, place, len, delete } in steps {
        let mut patch = PatchBuilder::new(SessionId::new(80_000 + session).unwrap(), time);
        let place = place % (list.elements.len() + 1);
        let after = place.checked_sub(1).map_or(node, |before| list.elements[before].id);
        if delete {
            patch.del(node, &[Timespan { start: after, span: len as u64 }]);
        } else {
            patch.ins_str(node, after, &"abcdefghijkl"[..len]);
        }
        let patch = patch.finish().unwrap();
        let applied = doc.merge(patch.as_ref()).unwrap();
        assert!(!matches!(applied, Applied::Parked { .. }));
        list.apply(&patch);
        doc.check().unwrap();
        let expected: Vec<Element> = list
            .elements
            .iter()
            .map(|&element| if element.live { element } else { Element { unit: 0, ..element } })
            .collect();
        assert_eq!(elements(&doc, node), expected);
    }
    // And nothing of it is lost or doubled on the way through a snapshot.
    let loaded = Document::from_binary(&doc.to_binary()).unwrap();
    loaded.check().unwrap();
    assert_eq!(elements(&loaded, node), elements(&doc, node));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn runs_that_overlap_in_part_double_nothing(steps in prop::collection::vec(forged(), 1..120)) {
        run_forged(steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn replicas_equal_the_plain_list(steps in prop::collection::vec(step(), 1..160)) {
        run(vec![(steps, 0)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn dropped_tombstones_change_nothing_that_is_to_come(
        phases in prop::collection::vec((prop::collection::vec(step(), 1..60), any::<u8>()), 2..4),
    ) {
        run(phases);
    }
}

#[test]
fn siblings_stand_in_descending_order_and_runs_do_not_interleave() {
    let session = |at| SessionId::new(at).unwrap();
    let mut base = Model::new(session(100_000));
    base.api().root("ab").unwrap();
    let _ = base.flush();
    let (mut low, mut high) = (base.fork(session(200_000)), base.fork(session(300_000)));
    low.api().str("").unwrap().ins(1, "XXX").unwrap();
    high.api().str("").unwrap().ins(1, "YYY").unwrap();
    let (x, y) = (low.flush().unwrap(), high.flush().unwrap());
    assert_eq!(low.apply(&y), Ok(Applied::Merged));
    assert_eq!(high.apply(&x), Ok(Applied::Merged));
    assert_eq!(low.view().as_str(), Some("aYYYXXXb"));
    assert_eq!(high.view(), low.view());
}

/// Deleting nothing right before a deleted element once took that one out of the index.
#[test]
fn deleting_nothing_changes_nothing() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root("").unwrap();
    for at in 0..64 {
        model.api().str("").unwrap().ins(at, "abc").unwrap();
        model.api().str("").unwrap().del(at + 1, 2).unwrap();
        model.api().str("").unwrap().del(at + 1, 0).unwrap();
        model.document().check().unwrap();
    }
    let mut other = Model::new(SessionId::new(70_002).unwrap());
    assert_eq!(other.apply(&model.flush().unwrap()).unwrap(), Applied::Merged);
    assert_eq!(other.view(), model.view());
    let node = model.document().root().unwrap().id();
    let text = elements(model.document(), node);
    for (at, element) in text.iter().enumerate().filter(|(_, element)| !element.live) {
        assert_eq!(other.document().locate(node, element.id).map(|at| at.deleted), Some(true), "{at}");
    }
}

/// Where all insert after the same element they stand in descending order of their ids; a place is found by passing all that
/// are larger. Those that come late pass thousands, in no more time than others.
#[test]
fn thousands_at_one_place_stand_in_descending_order() {
    const SESSIONS: u64 = 5;
    let each: u64 = if cfg!(debug_assertions) { 3_000 } else { 30_000 };
    let mut random = support::seeded::Random(7);
    let mut base = Model::new(SessionId::new(70_000).unwrap());
    let text = base.api().root("<>").unwrap();
    let document = base.into_document();
    let after = document.element_id(text, 0).unwrap();
    // Of each session a patch with everything, some of it at the same times as of others. The latest come first.
    let mut patches: Vec<Patch> = (0..SESSIONS)
        .map(|at| {
            let mut builder =
                PatchBuilder::new(SessionId::new(80_000 + at).unwrap(), 100 + at / 2 * each * 3);
            for _ in 0..each {
                builder.ins_str(text, after, ["a", "bc", "d"][random.below(3)]);
                builder.skip_to(builder.next_id().time + random.below(2) as u64);
            }
            builder.finish().unwrap()
        })
        .collect();
    patches.reverse();
    let mut merged = document.clone();
    for patch in &patches {
        assert_eq!(merged.apply(patch).unwrap(), Applied::Merged);
        merged.check().unwrap();
    }
    let mut expected: Vec<(Timestamp, String)> = patches
        .iter()
        .flat_map(|patch| {
            patch.ops().filter_map(|(id, op)| match op {
                Op::InsStr { text, .. } => Some((id, text.to_string())),
                _ => None,
            })
        })
        .collect();
    expected.sort_by(|a, b| b.cmp(a));
    let expected: String = expected.into_iter().map(|(_, text)| text).collect();
    assert_eq!(merged.view(), format!("<{expected}>").as_str().into());
    // In the other order nobody passes anybody, and it is the same.
    let mut other = document;
    for patch in patches.iter().rev() {
        assert_eq!(other.apply(patch).unwrap(), Applied::Merged);
    }
    assert_eq!(other.view(), merged.view());
}

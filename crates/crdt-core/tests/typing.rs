//! Typing and erasing where the last edit was, which have ways of their own, against a plain string, the general rules and
//! the general writer of patches.

mod support;

use crdt_core::{
    Applied, Model, Patch, SessionId, Timestamp,
    document::Content,
    model::{Delta, Diff},
};
use proptest::prelude::*;
use support::spelled_out;

#[derive(Clone, Debug)]
enum Burst {
    /// Goes elsewhere.
    Jump(usize),
    /// Types some text, unit by unit or at once.
    Type { text: String, at_once: bool },
    /// Erases before or behind the place, `times` times `len` units.
    Erase { behind: bool, times: usize, len: usize },
    /// Someone else types here.
    Other(String),
    /// From now on so many edits go into one patch.
    PerPatch(usize),
    /// Someone takes a copy that shares memory, and reads in it.
    Share,
}

fn burst() -> impl Strategy<Value = Burst> {
    let text = || prop_oneof![3 => "[a-z]{1,9}", 1 => "[aé한]{1,4}", 1 => "[a-z]{40,80}"];
    prop_oneof![
        2 => any::<usize>().prop_map(Burst::Jump),
        4 => (text(), any::<bool>()).prop_map(|(text, at_once)| Burst::Type { text, at_once }),
        4 => (any::<bool>(), 1..9usize, prop_oneof![3 => Just(1usize), 1 => 2..6usize])
            .prop_map(|(behind, times, len)| Burst::Erase { behind, times, len }),
        1 => text().prop_map(Burst::Other),
        1 => (1..5usize).prop_map(Burst::PerPatch),
        1 => Just(Burst::Share),
    ]
}

fn session(at: u64) -> SessionId {
    SessionId::new(at).unwrap()
}

/// Where the chunks of the text start, how long they are, and which are tombstones: all of it can be seen in snapshots.
fn chunks(model: &Model) -> Vec<(Timestamp, u64, bool)> {
    let Content::Str(chunks) = model.document().root().unwrap().content() else { panic!("no text") };
    chunks.map(|chunk| (chunk.id(), chunk.span(), chunk.is_tombstone())).collect()
}

/// Both replicas are in order, show the same text, and have the same chunks.
fn check(model: &Model, other: &Model, text: &[char]) {
    for replica in [model, other] {
        replica.document().check().unwrap();
        assert_eq!(replica.view().as_str(), Some(&*text.iter().collect::<String>()));
    }
    assert_eq!(chunks(other), chunks(model));
}

fn run(bursts: &[Burst]) {
    let mut model = Model::new(session(70_001));
    model.api().root("").unwrap();
    let _ = model.flush();
    let mut other = model.fork(session(70_002));
    let (mut text, mut place) = (Vec::new(), 0);
    let (mut per_patch, mut edits, mut copy) = (1, 0, None);
    for burst in bursts {
        let mut patches: Vec<Patch> = Vec::new();
        let mut edit = |position: usize, del: usize, ins: &str| {
            let mut str = model.api().str("").unwrap();
            // An edit of nothing is one too, to who types on.
            if del > 0 || edits % 7 == 0 {
                str.del(position, del).unwrap();
            }
            if !ins.is_empty() {
                str.ins(position, ins).unwrap();
            }
            edits += 1;
            if edits % per_patch == 0 {
                patches.extend(flush(&mut model));
            }
        };
        match burst {
            Burst::Jump(to) => place = to % (text.len() + 1),
            Burst::Type { text: typed, at_once: true } => {
                edit(place, 0, typed);
                text.splice(place..place, typed.chars());
                place += typed.chars().count();
            }
            Burst::Type { text: typed, at_once: false } => {
                for unit in typed.chars() {
                    edit(place, 0, &unit.to_string());
                    text.insert(place, unit);
                    place += 1;
                }
            }
            Burst::Erase { behind, times, len } => {
                for _ in 0..*times {
                    let len = if *behind { *len.min(&(text.len() - place)) } else { *len.min(&place) };
                    place -= if *behind { 0 } else { len };
                    edit(place, len, "");
                    text.drain(place..place + len);
                }
            }
            Burst::PerPatch(edits) => per_patch = *edits,
            Burst::Share => {
                model.share();
                copy = Some((model.fork(session(70_003)), text.iter().collect::<String>()));
            }
            Burst::Other(typed) => {
                // Who edits at a place has taken in what was edited there.
                let open = flush(&mut model);
                open.iter().for_each(|patch| assert_eq!(other.apply(patch), Ok(Applied::Merged)));
                other.api().str("").unwrap().ins(place, &**typed).unwrap();
                let patch = other.flush().unwrap();
                assert_eq!(model.apply(&patch), Ok(Applied::Merged));
                text.splice(place..place, typed.chars());
            }
        }
        if let Some((copy, text)) = &copy {
            assert_eq!(copy.view().as_str(), Some(&**text));
        }
        for patch in patches {
            assert_eq!(patch.as_bytes(), spelled_out(&patch));
            assert_eq!(other.apply_bytes(patch.as_bytes()), Ok(Applied::Merged));
        }
        if !model.has_edits() {
            check(&model, &other, &text);
        }
    }
}

/// Ends the open patch in both ways, which say the same.
fn flush(model: &mut Model) -> Option<Patch> {
    let (mut copy, mut bytes) = (model.clone(), b"before".to_vec());
    let len = model.flush_into(&mut bytes);
    assert_eq!(bytes.len(), b"before".len() + len);
    let patch = copy.flush();
    assert_eq!(patch.as_ref().map_or(&[][..], Patch::as_bytes), &bytes[b"before".len()..]);
    patch
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn typing_and_erasing_are_the_same_everywhere(bursts in prop::collection::vec(burst(), 1..120)) {
        run(&bursts);
    }
}

#[test]
fn what_is_erased_forwards_joins_one_tombstone() {
    let bursts: Vec<Burst> = (0..40)
        .flat_map(|at| {
            let text = "abcdefghij".to_owned();
            [
                Burst::Jump(at * 7),
                Burst::Type { text, at_once: false },
                Burst::Jump(at * 7 + 3),
                Burst::Erase { behind: true, times: 9, len: 1 },
                Burst::Erase { behind: false, times: 2, len: 1 },
            ]
        })
        .collect();
    run(&bursts);
}

/// What is typed is sent while the patch is open. Put together, its insertions are one, of which the others have the
/// beginning; what they lack of it they take.
#[test]
fn a_run_whose_beginning_is_known_is_taken_from_there_on() {
    for typed in [["warp", " and ", "weft"], ["a", "\u{1f642}", "é\u{1f642}b"]] {
        let mut alice = Model::new(session(0));
        alice.api().root("").unwrap();
        alice.flush();
        let mut bob = alice.fork(session(1));
        let mut watching = alice.fork(session(2));
        let mut whole = alice.fork(session(3));
        watching.watch();
        let mut at = 0;
        let mut open = Vec::new();
        for text in typed {
            alice.api().str("").unwrap().ins(at, text).unwrap();
            at += text.encode_utf16().count();
            open.push(alice.open_patch().unwrap());
        }
        // Something of somebody else stands within it by then.
        assert_eq!(bob.apply(&open[1]), Ok(Applied::Merged));
        bob.api().str("").unwrap().ins(1, "!").unwrap();
        let between = bob.flush().unwrap();
        let compact = alice.flush().unwrap().compact();
        assert_eq!(compact.op_count(), 1);

        assert_eq!(bob.apply(&compact), Ok(Applied::Merged));
        for patch in [&open[0], &compact, &between] {
            assert_eq!(watching.apply(patch), Ok(Applied::Merged));
        }
        let told: Vec<Diff> = std::iter::from_fn(|| watching.poll_changes())
            .flat_map(|set| set.changes)
            .map(|change| change.diff)
            .collect();
        assert!(
            matches!(&told[1], Diff::Text(delta) if matches!(&delta[..], [Delta::Retain(_), Delta::Insert(_)]))
        );
        for patch in [&compact, &between] {
            assert_eq!(whole.apply(patch), Ok(Applied::Merged));
        }
        assert_eq!(alice.apply(&between), Ok(Applied::Merged));
        for model in [&bob, &watching, &whole] {
            model.document().check().unwrap();
            assert_eq!(model.view(), alice.view());
            assert_eq!(model.document().state_vector(), alice.document().state_vector());
        }
        assert_eq!(bob.apply(&compact), Ok(Applied::Known));
    }
}

//! The same edit of the same document becomes the same patch here and in json-joy, byte for byte: whatever chunks the document
//! is in, typed here, taken from others or read.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, Timespan, Timestamp, Value, model::UndoOptions,
    patch::Op,
};
use support::{get, hex, items, node::JsonJoy, seeded::Random, text};

const KEYS: [&str; 3] = ["t", "b", "l"];

/// Deletes some elements of a text, byte string or list, and inserts others.
#[derive(Debug)]
struct Edit(&'static str, usize, usize, &'static str);

fn len(model: &Model, key: &str) -> usize {
    model.document().root().unwrap().get(key).unwrap().len()
}

fn random_edit(model: &Model, random: &mut Random) -> Edit {
    let key = KEYS[random.below(3)];
    let len = len(model, key);
    let at = random.below(len + 1);
    if at < len && random.chance(55) {
        let gone = 1 + random.below((len - at).min(8));
        return Edit(key, at, gone, ["", "", "xy"][random.below(3)]);
    }
    Edit(key, at, 0, ["a", "bc", "def"][random.below(3)])
}

fn edit(model: &mut Model, &Edit(key, at, gone, text): &Edit) {
    let path = format!("/{key}");
    let path = path.as_str();
    match key {
        "t" => {
            let mut str = model.api().str(path).unwrap();
            str.del(at, gone).unwrap();
            str.ins(at, text).unwrap();
        }
        "b" => {
            let mut bin = model.api().bin(path).unwrap();
            bin.del(at, gone).unwrap();
            bin.ins(at, text.as_bytes()).unwrap();
        }
        _ => {
            let mut arr = model.api().arr(path).unwrap();
            arr.del(at, gone).unwrap();
            arr.ins(at, text.chars().map(|letter| letter.to_string())).unwrap();
        }
    }
}

/// Several replicas edit at once; the first one takes everything.
fn session(random: &mut Random) -> (Vec<Patch>, Document) {
    let sid = |random: &mut Random| SessionId::from_random((random.below(1 << 40) as u64) << 24);
    let mut base = Model::new(sid(random));
    let mut start = Value::from(&serde_json::json!({"t": "woven", "l": ["a", "b"]}));
    if let Value::Map(entries) = &mut start {
        entries.push(("b".into(), Value::Bytes(vec![1, 2, 3])));
    }
    base.api().root(start).unwrap();
    let mut patches = vec![base.flush().unwrap()];
    let mut models = vec![base];
    for _ in 0..2 {
        let fork = models[0].fork(sid(random));
        models.push(fork);
    }
    for _ in 0..random.below(25) {
        let at = random.below(3);
        for _ in 0..1 + random.below(3) {
            let todo = random_edit(&models[at], random);
            edit(&mut models[at], &todo);
        }
        patches.extend(models[at].flush());
        if random.chance(50) {
            for model in &mut models {
                for patch in &patches {
                    let _ = model.apply(patch).unwrap();
                }
            }
        }
    }
    let mut document = Document::new(SessionId::new(66_000).unwrap());
    for patch in &patches {
        let _ = document.apply(patch).unwrap();
    }
    (patches, document)
}

#[test]
#[ignore = "needs node and json-joy"]
fn an_edit_is_the_same_patch_in_json_joy() {
    let setting = |name: &str, or: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let (first, count) = (setting("WEFT_SEED", 1), setting("WEFT_SESSIONS", 300));
    let mut joy = JsonJoy::start();
    for seed in first..first + count {
        let mut random = Random(seed ^ 0xed17);
        let (patches, document) = session(&mut random);
        let read = random.chance(50);
        let mut model = Model::from(if read {
            let mut document = Document::from_binary(&document.to_binary()).unwrap();
            document.set_session(SessionId::new(66_000).unwrap());
            document
        } else {
            document.clone()
        });
        // Watched edits, and those that can be undone, go another way.
        match random.below(3) {
            0 => model.watch(),
            1 => model.enable_undo(UndoOptions::STANDARD),
            _ => {}
        }
        let (mut all, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..25 {
            let todo = random_edit(&model, &mut random);
            edit(&mut model, &todo);
            ours.push(hex(model.flush().unwrap().as_bytes()));
            all.push(format!("[\"{}\",{},{},\"{}\"]", todo.0, todo.1, todo.2, todo.3));
        }
        let start = if read {
            format!("\"data\":\"{}\"", hex(&document.to_binary()))
        } else {
            let list: Vec<_> = patches.iter().map(|patch| format!("\"{}\"", hex(patch.as_bytes()))).collect();
            format!("\"patches\":[{}]", list.join(","))
        };
        let edits = all.join(",");
        let answer = joy.ask(&format!("{{\"do\":\"edits\",\"sid\":66000,{start},\"edits\":[{edits}]}}"));
        for ((todo, ours), theirs) in all.iter().zip(&ours).zip(items(&answer)) {
            assert_eq!(ours, text(theirs), "seed {seed}, read: {read}, edit {todo}");
        }
        assert_eq!(all.len(), items(&answer).len());
    }
}

/// The runs in which the elements of a text, byte string or list came, the filtered and dropped ones aside.
fn runs(patches: &[Patch], key: &str, document: &Document) -> (Timestamp, Vec<Timespan>) {
    let node = document.root().unwrap().get(key).unwrap().id();
    let runs = patches.iter().flat_map(|patch| {
        patch.ops().filter_map(|(start, op)| match op {
            Op::InsStr { obj, .. } | Op::InsBin { obj, .. } | Op::InsArr { obj, .. } if obj == node => {
                Some(Timespan { start, span: op.span() })
            }
            _ => None,
        })
    });
    (node, runs.collect())
}

#[test]
#[ignore = "needs node and json-joy"]
fn deletions_of_any_spans_leave_the_same_chunks_in_json_joy() {
    let setting = |name: &str, or: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let (first, count) = (setting("WEFT_SEED", 1), setting("WEFT_SESSIONS", 300));
    let mut joy = JsonJoy::start();
    for seed in first..first + count {
        let mut random = Random(seed ^ 0xde1e);
        let (mut patches, mut document) = session(&mut random);
        for step in 0..12 {
            let sid = SessionId::new(90_000 + random.below(3) as u64).unwrap();
            let (node, runs) = runs(&patches, KEYS[random.below(3)], &document);
            let mut builder = PatchBuilder::new(sid, document.time());
            // Some overlap, some come again, some are gone already; each lies within one run.
            let most = [3, 25][random.below(2)];
            let spans: Vec<Timespan> = (0..1 + random.below(most))
                .map(|_| {
                    let run = runs[random.below(runs.len())];
                    let from = random.below(run.span as usize) as u64;
                    let span = 1 + random.below((run.span - from) as usize) as u64;
                    Timespan { start: run.start.tick(from), span }
                })
                .collect();
            builder.del(node, &spans);
            let patch = builder.finish().unwrap();
            assert_eq!(document.apply(&patch).unwrap(), Applied::Merged);
            document.check().unwrap();
            patches.push(patch);
            let list: Vec<_> = patches.iter().map(|patch| format!("\"{}\"", hex(patch.as_bytes()))).collect();
            let list = list.join(",");
            let answer = joy.ask(&format!("{{\"do\":\"apply\",\"sid\":66000,\"patches\":[{list}]}}"));
            let theirs = text(get(get(&answer, "forms"), "binary"));
            assert_eq!(hex(&document.to_binary()), theirs, "seed {seed}, step {step}, {spans:?}");
        }
    }
}

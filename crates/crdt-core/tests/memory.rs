//! How much memory things take while they run: counted, not estimated.
#![expect(unsafe_code, reason = "an allocator that counts can only be written so")]

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use crdt_core::{
    Document, Model, Patch, SessionId, Value,
    codec::{DocumentFormat, Log, Packing, PatchFormat, cbor, json, log::LogContainer, msgpack},
    model::{QuillOp, RelativePosition, json_patch},
    presence::Shown,
};
use proptest::prelude::*;
use serde_json::json;

thread_local! {
    /// What this thread holds, and the most it held.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that ends frees what it held after its counters are gone.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: all is done by the system's allocator; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that something held on top of what was there.
fn most<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let done = run();
    (done, (HELD.get().1 - before).max(0) as usize)
}

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

/// What a decoder may hold for each byte it reads. A byte of an array is a value of thirty-two bytes, whose vector can be
/// twice as long as it is full and is moved while it grows.
const PER_BYTE_MAX: usize = 200;
/// What it may hold besides: the room for the first items of each of the arrays that are open, one in the other.
const BESIDES_MAX: usize = 512 << 10;

/// What it reads, and how.
type Decoder = (&'static str, fn(&[u8]));

/// All that reads bytes from outside. Packed snapshots are in `native`: what is packed may well be larger than it.
fn decoders() -> Vec<Decoder> {
    let mut all: Vec<Decoder> = vec![
        ("JSON", |bytes| drop(json::decode(bytes))),
        ("CBOR", |bytes| drop(cbor::decode(bytes))),
        ("MessagePack", |bytes| drop(msgpack::decode(bytes, 128))),
        ("JSON Patch", |bytes| drop(json_patch::decode(bytes))),
        ("Quill", |bytes| drop(json::decode(bytes).map(|value| QuillOp::from_value(&value)))),
        ("relative position", |bytes| drop(RelativePosition::decode(bytes))),
        ("presence", |bytes| drop(Shown::decode(bytes))),
        ("log of lines", |bytes| drop(Log::decode(LogContainer::NdJson, bytes))),
        ("log", |bytes| drop(Log::decode(LogContainer::Cbor, bytes))),
        ("patch", |bytes| drop(Patch::decode(bytes))),
        ("patch, taken in", |bytes| drop(Document::new(session(1)).apply_bytes(bytes))),
    ];
    all.push(("patch, verbose", |bytes| drop(PatchFormat::Verbose.decode(bytes))));
    all.push(("patch, compact", |bytes| drop(PatchFormat::Compact.decode(bytes))));
    all.push(("patch, compact binary", |bytes| drop(PatchFormat::CompactBinary.decode(bytes))));
    all.push(("document, verbose", |bytes| drop(DocumentFormat::Verbose.decode(bytes))));
    all.push(("document, compact", |bytes| drop(DocumentFormat::Compact.decode(bytes))));
    all.push(("document, compact binary", |bytes| drop(DocumentFormat::CompactBinary.decode(bytes))));
    all.push(("document, binary", |bytes| drop(DocumentFormat::Binary.decode(bytes))));
    all
}

#[track_caller]
fn check(bytes: &[u8]) {
    for (name, decode) in decoders() {
        let ((), held) = most(|| decode(bytes));
        let max = BESIDES_MAX + PER_BYTE_MAX * bytes.len();
        assert!(
            held <= max,
            "{name} held {held} bytes for {} ({max} allowed): {:02x?}",
            bytes.len(),
            &bytes[..bytes.len().min(64)]
        );
    }
}

#[test]
fn lengths_that_are_told_reserve_nothing() {
    let heads: [&[u8]; 12] = [
        &[0x9b, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        &[0xbb, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        &[0x9a, 0x7f, 0xff, 0xff, 0xff],
        &[0xba, 0x00, 0xff, 0xff, 0xff],
        &[0x5b, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        &[0xdd, 0x7f, 0xff, 0xff, 0xff],
        &[0xdf, 0x7f, 0xff, 0xff, 0xff],
        &[0xdc, 0xff, 0xff],
        &[0xc6, 0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x98, 0xff],
        b"[",
    ];
    for head in heads {
        check(head);
        check(&head.repeat(100));
        check(&[head.repeat(20), vec![0; 10_000]].concat());
    }
    check(&[0; 50_000]);
    check(&[b"[".as_slice(), &b"0,".repeat(20_000), b"0]"].concat());
    check(&[b"[".as_slice(), &b"{},".repeat(20_000), b"0]"].concat());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bytes_that_were_changed_on_the_way_reserve_no_more(
        seeds in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4),
        format in 0..8usize,
        changes in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let mut document = Document::new(session(1));
        let mut log = Log::new(document.clone());
        let mut last = None;
        for (turn, seed) in seeds.iter().enumerate() {
            let patch = support::random::sensible(seed, turn as u64);
            let _ = document.merge(patch.as_ref());
            log.push(patch.clone());
            last = Some(patch);
        }
        let patch = last.unwrap();
        let bytes = match format {
            0 => DocumentFormat::ALL[0].encode(&document).unwrap_or_default(),
            1 => DocumentFormat::ALL[1].encode(&document).unwrap_or_default(),
            2 => DocumentFormat::ALL[2].encode(&document).unwrap_or_default(),
            3 => document.to_binary(),
            4 => cbor::encode(&document.view()),
            5 => PatchFormat::Verbose.encode(&patch).unwrap_or_default(),
            6 => PatchFormat::CompactBinary.encode(&patch).unwrap_or_default(),
            _ => patch.as_bytes().to_vec(),
        };
        check(&support::random::mutated(bytes, &changes));
        // A checksum stands before all that a snapshot tells, so its lengths are those that were written, or chosen.
        let bytes = document.to_native(Packing::Plain);
        let (_, held) = most(|| Document::from_native(&bytes, session(2)));
        prop_assert!(held <= BESIDES_MAX + PER_BYTE_MAX * bytes.len());
    }
}

#[test]
fn shared_copies_take_no_memory_until_they_are_edited() {
    let mut model = Model::new(session(1));
    model.api().root((0..10_000).map(|n| Value::from(f64::from(n))).collect::<Value>()).unwrap();
    let patch = model.flush().unwrap();
    let mut document = model.into_document();
    let size = document.size_bytes();
    let ((), shared) = most(|| document.share());
    assert!(shared < 4096, "{shared} bytes to share {size}");
    let before = HELD.get().0;
    let copies: Vec<Document> = (0..100).map(|n| document.fork(session(100 + n))).collect();
    let each = (HELD.get().0 - before) as usize / copies.len();
    assert!(each <= 256, "{each} bytes a copy");
    let mut models: Vec<Model> = copies.into_iter().map(Model::from).collect();
    for model in &mut models {
        // Neither looking nor what is known already, nor what fails, needs a document of its own.
        assert_eq!(model.apply(&patch), Ok(crdt_core::Applied::Known));
        let failed: Result<(), ()> = model
            .transaction(|model| model.document().node_count().checked_sub(usize::MAX).map(drop).ok_or(()));
        assert_eq!(failed, Err(()));
        model.shrink();
        assert!(model.document().shares_with(&document));
    }
    let before = HELD.get().0;
    models[7].api().arr("").unwrap().del(0, 1).unwrap();
    assert!(HELD.get().0 - before > size as isize / 2);
    assert!(models.iter().filter(|model| model.document().shares_with(&document)).count() == 99);
    // The last one that shares it has it for itself.
    models.truncate(1);
    drop(document);
    let (_, held) = most(|| models[0].api().arr("").unwrap().del(0, 1).unwrap());
    assert!(held < size / 2, "{held} bytes to edit the last one of {size}");
}

#[test]
fn the_next_transaction_copies_no_document() {
    let mut model = Model::new(session(1));
    let items: Vec<_> =
        (0..5_000).map(|n| json!({"n": n, "text": "some text that is a node of its own"})).collect();
    model.api().root(json!(items)).unwrap();
    model.flush();
    let size = model.document().size_bytes();
    let set = |model: &mut Model, n: i32| -> Result<(), crdt_core::model::EditError> {
        model.api().obj("/7")?.set([("n", n)])
    };
    let (done, first) = most(|| model.transaction(|model| set(model, 1)));
    done.unwrap();
    assert!(first > size / 2, "{first} of {size}");
    // The copy was made to measure, and grows once.
    set(&mut model, 2).unwrap();
    let done: Result<(), ()> = model.transaction(|_| Ok(()));
    done.unwrap();
    for n in 0..20 {
        let (done, next) = most(|| model.transaction(|model| set(model, n)));
        done.unwrap();
        let (_, flushed) = most(|| model.flush());
        assert!(next + flushed < size / 100, "{next} + {flushed} of {size}");
    }
    // Other edits, and it is gone: who makes no transactions holds no second document.
    let before = HELD.get().0;
    for n in 0..20_000 {
        set(&mut model, n).unwrap();
        model.flush();
        if (before - HELD.get().0) as usize > size / 2 {
            return;
        }
    }
    panic!("the copy is still there");
}

#[test]
fn a_model_gives_its_copy_back() {
    let mut model = Model::new(session(1));
    model.api().root((0..10_000).map(|n| Value::from(f64::from(n))).collect::<Value>()).unwrap();
    let (done, held) = most(|| model.transaction(|_| Ok::<_, ()>(())));
    done.unwrap();
    assert!(held < 4096, "{held} bytes for a transaction without edits");
    model.transaction(|model| model.api().arr("")?.del(0, 1)).unwrap();
    let before = HELD.get().0;
    model.shrink();
    assert!((before - HELD.get().0) as usize > model.document().size_bytes() / 2);
}

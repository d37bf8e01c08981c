//! What the fuzzer of cache entries started from and found is read again by every `cargo test`, whole and damaged.

use nodestorage::{DocumentId, cache::frame};

#[test]
fn the_corpus_is_entries_or_refused() {
    let id = DocumentId::new("d").unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/cache_entry");
    let (mut entries, mut refused) = (0, 0);
    let mut check = |bytes: &[u8]| match frame::decode(&id, bytes) {
        Ok(entry) => {
            entries += 1;
            assert_eq!(frame::decode(&id, &frame::encode(&id, &entry)).as_ref(), Ok(&entry), "{bytes:?}");
        }
        Err(_) => refused += 1,
    };
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        check(&bytes);
        for len in 0..bytes.len() {
            check(&bytes[..len]);
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            check(&flipped);
        }
    }
    assert!(
        entries > 0 && refused > entries,
        "{entries} entries, {refused} refused: the corpus is not what it was"
    );
}

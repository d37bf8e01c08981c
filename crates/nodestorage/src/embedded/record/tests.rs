use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Index,
    query::{Direction, FieldPath},
};

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn body(value: Value) -> Body {
    match value {
        Value::Object(body) => body,
        other => panic!("{other} is not an object"),
    }
}

fn producer() -> Producer {
    Producer { client_id: ClientId::new("p").unwrap(), sequence: Some(3) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One record of each kind, as `docs/formats/embedded-store.md` shows them.
fn golden() -> Vec<(&'static str, Space, Vec<u8>, Vec<u8>)> {
    let (before, after) = (body(json!({"gold": 1})), body(json!({"gold": 2})));
    let key = DocumentKey::new(1, &id("a"));
    let change = |operation, before: Option<&Body>, after: Option<&Body>, metadata: Value| {
        let diff = Diff::between(before, after, 2);
        ChangeRecord::encode(operation, &producer(), &diff, after, &body(metadata))
            .place(5, 1_700_000_000_000)
    };
    let log = LogRecord { collection: 1, id: id("a"), version: 2, removed: false };
    let mut answer_key = key.answers(&producer().client_id);
    answer_key.extend(3u64.to_be_bytes());
    let rank = |name: &str, direction| (FieldPath::new(name).unwrap(), direction);
    let fields = vec![rank("gold", Direction::Ascending), rank("name", Direction::Descending)];
    let index = Index::new(fields).unwrap();
    let entries = crate::index::Entries::of(&index, &id("a"), Some(&body(json!({"gold": 2, "name": "x"}))));
    let entries = entries.unwrap().keys;
    let entry = entries.first().unwrap();
    vec![
        (
            "state",
            Space::Meta,
            State::KEY.to_vec(),
            State { batch: 9, position: 5, floor: 1, timestamp_ms: 1_700_000_000_000 }.encode(),
        ),
        (
            "collection",
            Space::Meta,
            CollectionRecord::key("games"),
            CollectionRecord { number: 1, recorded: true }.encode(),
        ),
        ("document", Space::Documents, key.as_bytes().to_vec(), Head::encode(2, Some(&after))),
        ("deleted document", Space::Documents, key.as_bytes().to_vec(), Head::encode(2, None)),
        (
            "create",
            Space::Changes,
            key.change(2),
            change(Operation::Create, None, Some(&before), json!({"by": "x"})),
        ),
        (
            "update",
            Space::Changes,
            key.change(2),
            change(Operation::Update, Some(&before), Some(&after), json!({})),
        ),
        ("delete", Space::Changes, key.change(2), change(Operation::Delete, Some(&before), None, json!({}))),
        ("log entry", Space::Log, 5u64.to_be_bytes().to_vec(), log.encode()),
        ("answer", Space::Answers, answer_key, 2u64.to_le_bytes().to_vec()),
        (
            "index",
            Space::Meta,
            IndexRecord::key(IndexRecord::PREFIX, 1, 0),
            IndexRecord { index, stage: IndexStage::Building { up_to: Some(id("a")) } }.encode(),
        ),
        ("index entry", Space::Indexes, IndexEntry::key(1, 0, entry, &id("a")), IndexEntry::encode(&id("a"))),
    ]
}

#[test]
fn records_have_the_bytes_that_the_format_says() {
    let expected = include_str!("golden.txt");
    let mut actual = String::new();
    for (name, space, key, mut record) in golden() {
        seal(space, &key, &mut record);
        actual += &format!("{name}: {} {} = {}\n", space.name(), hex(&key), hex(&record));
        check(space, &key, &record).unwrap();
    }
    assert_eq!(actual, expected, "\n{actual}");
}

#[test]
fn a_record_under_another_key_or_in_another_space_is_refused() {
    for (name, space, key, mut record) in golden() {
        seal(space, &key, &mut record);
        let mut other = key.clone();
        other[0] ^= 1;
        assert!(matches!(unseal(space, &other, &record), Err(RecordError::Checksum { .. })), "{name}");
        let other = Space::ALL[(space as usize + 1) % Space::ALL.len()];
        assert!(matches!(unseal(other, &key, &record), Err(RecordError::Checksum { .. })), "{name}");
    }
}

#[test]
fn a_store_of_a_newer_format_is_refused_by_name() {
    let mut newer = State::default().encode();
    newer[0] = FORMAT_VERSION + 1;
    let error = State::decode(&newer).unwrap_err();
    assert_eq!(error.to_string(), "format version 3 is newer than 2, the newest that this version reads");
}

#[test]
fn the_first_format_is_still_read() {
    // The state of golden.txt as version 1 wrote it.
    let mut state = State { batch: 9, position: 5, floor: 1, timestamp_ms: 1_700_000_000_000 }.encode();
    state[0] = 1;
    assert_eq!(State::decode(&state).unwrap().position, 5);
}

#[test]
fn keys_keep_the_order_of_collections_and_ids() {
    let names = ["a", "a!", "ab", "b", "é", "é1"];
    let keys: Vec<_> =
        (0..300).flat_map(|n| names.map(|name| DocumentKey::new(n, &id(name)).change(u64::MAX))).collect();
    assert!(keys.is_sorted());
}

fn spaces() -> impl Strategy<Value = Space> {
    prop::sample::select(Space::ALL.to_vec())
}

fn changes() -> impl Strategy<Value = (Option<Body>, Option<Body>)> {
    let state = || {
        prop::option::of(
            prop::collection::btree_map("[abc]", crate::diff::tests::values(), 0..4)
                .prop_map(|members| members.into_iter().collect::<Body>()),
        )
    };
    (state(), state()).prop_filter("something happens", |(before, after)| before.is_some() || after.is_some())
}

proptest! {
    #[test]
    fn what_was_written_is_read((before, after) in changes(), version in 1u64.., position: u64, timestamp_ms: u64) {
        let operation = match (&before, &after) {
            (None, _) => Operation::Create,
            (_, None) => Operation::Delete,
            _ => Operation::Update,
        };
        let diff = Diff::between(before.as_ref(), after.as_ref(), version);
        let metadata = before.unwrap_or_default();
        let record = ChangeRecord::encode(operation, &producer(), &diff, after.as_ref(), &metadata);
        let expected = Change {
            document_id: id("d"), version, position, operation, diff, timestamp_ms, producer: producer(), metadata,
        };
        let read = ChangeRecord::decode(id("d"), version, &record.place(position, timestamp_ms)).unwrap();
        prop_assert_eq!(read, expected);
        let head = Head::decode(&Head::encode(version, after.as_ref())).unwrap();
        prop_assert_eq!(head, Head { version, body: after });
    }

    #[test]
    fn any_bytes_are_refused_or_read(space in spaces(), key: Vec<u8>, record: Vec<u8>) {
        let _ = check(space, &key, &record);
        // Also with a good checksum, which the contents behind it don't deserve.
        let mut sealed = record;
        seal(space, &key, &mut sealed);
        let _ = check(space, &key, &sealed);
    }

    #[test]
    fn a_flipped_bit_is_noticed(which in 0usize..11, place: prop::sample::Index, bit in 0u8..8) {
        let (_, space, key, mut record) = golden().swap_remove(which);
        seal(space, &key, &mut record);
        let place = place.index(record.len());
        record[place] ^= 1 << bit;
        let noticed = matches!(unseal(space, &key, &record), Err(RecordError::Checksum { .. }));
        prop_assert!(noticed);
        // Behind the checksum, the decoder stands alone and must bear it too.
        let _ = record.split_off(record.len() - 4);
        seal(space, &key, &mut record);
        let _ = check(space, &key, &record);
    }

    #[test]
    fn a_cut_record_is_noticed(which in 0usize..11, place: prop::sample::Index) {
        let (_, space, key, mut record) = golden().swap_remove(which);
        seal(space, &key, &mut record);
        record.truncate(place.index(record.len()));
        prop_assert!(unseal(space, &key, &record).is_err());
    }
}

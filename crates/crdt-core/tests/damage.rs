//! What is wrong with damaged documents is said with its place: within the input, and near the damage.

#[path = "support/checksum.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets include this module too")]
mod checksum;

use checksum::repaired;
use crdt_core::{
    Document, Model, SessionId, Value,
    codec::{
        DocumentError, DocumentFormat, Malformed, Packing, Place,
        document::{
            indexed,
            sidecar::{self, Sidecar},
        },
    },
    document::LoadError,
};
use serde_json::json;

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

/// Something of each kind, edited by three sessions.
fn document() -> Document {
    let mut model = Model::new(session(0));
    let start =
        json!({"text": "warp and weft 🙂", "list": [1, "a", {"b": [null, 2.5]}], "map": {"c": {"d": true}}});
    model.api().root(&start).unwrap();
    model.api().obj("").unwrap().set_rich_text("note", "warp").unwrap();
    model.flush();
    for number in 1..3 {
        let mut other = model.fork(session(number));
        other.api().str("/text").unwrap().ins(5, "woven é ").unwrap();
        other.api().str("/text").unwrap().del(2, 4).unwrap();
        other.api().arr("/list").unwrap().ins(1, [7]).unwrap();
        let _ = model.apply(&other.flush().unwrap()).unwrap();
    }
    model.into_document()
}

/// Reads damaged inputs, each with the place of its damage. Errors that name a byte name one of the input, and
/// eight of ten at most this far from the damage: what a length says is found out later only.
fn check(
    form: &str,
    inputs: impl Iterator<Item = (usize, Vec<u8>)>,
    distance_max: usize,
    read: impl Fn(&[u8]) -> Result<(), (Option<usize>, String)>,
) {
    let (mut wrong, mut near) = (0, 0);
    for (damage, bytes) in inputs {
        let Err((at, message)) = read(&bytes) else { continue };
        assert!(message.contains(" at "), "{form}: {message}");
        let Some(at) = at else { continue };
        assert!(at <= bytes.len(), "{form}: byte {at} of {}: {message}", bytes.len());
        wrong += 1;
        near += usize::from(at.abs_diff(damage) <= distance_max);
    }
    assert!(wrong > 20 && near * 10 >= wrong * 8, "{form}: {near} of {wrong} errors are near");
}

/// Each byte changed in three ways.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..bytes.len()).flat_map(move |at| {
        [0x01, 0x20, 0xff].map(|mask| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= mask;
            (at, bytes)
        })
    })
}

fn cut(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..bytes.len()).map(|len| (len, bytes[..len].to_vec()))
}

fn told(error: &DocumentError) -> (Option<usize>, String) {
    (error.offset(), error.to_string())
}

#[test]
fn structural_forms_say_where_they_are_damaged() {
    let document = document();
    for (form, distance_max) in DocumentFormat::ALL.into_iter().zip([200, 60, 10, 10]) {
        let name = format!("{form:?}");
        let bytes = match form {
            // Rich text holds bytes, which JSON lacks.
            DocumentFormat::Compact | DocumentFormat::Verbose => {
                let mut model = Model::from(document.clone());
                model.api().obj("").unwrap().del(["note"]).unwrap();
                form.encode(model.document()).unwrap()
            }
            _ => form.encode(&document).unwrap(),
        };
        let read = |bytes: &[u8]| form.decode(bytes).map(drop).map_err(|error| told(&error));
        check(&name, cut(&bytes), 0, read);
        check(&name, flipped(&bytes), distance_max, read);
    }
}

#[test]
fn parts_of_a_form_say_where_they_are_damaged() {
    let document = document();
    let Sidecar { view, meta } = sidecar::encode(&document).unwrap();
    let read_view = |bytes: &[u8]| {
        sidecar::decode(&Sidecar { view: bytes.to_vec(), meta: meta.clone() }).map(drop).map_err(|e| told(&e))
    };
    let read_meta = |bytes: &[u8]| {
        sidecar::decode(&Sidecar { view: view.clone(), meta: bytes.to_vec() }).map(drop).map_err(|e| told(&e))
    };
    // A view that is sound, but another one, is found wrong in the metadata.
    let cuts: Vec<_> = cut(&view).filter(|(len, _)| *len > 0).collect();
    check("the view", cuts.into_iter(), 0, read_view);
    check("the metadata", cut(&meta), 0, read_meta);
    check("the metadata", flipped(&meta), 120, read_meta);

    let fields = indexed::encode(&document).unwrap();
    let mut wrong = 0;
    for (name, bytes) in &fields {
        for (at, damaged) in cut(bytes).chain(flipped(bytes)) {
            let mut fields = fields.clone();
            let len = damaged.len();
            fields.insert(name.clone(), damaged);
            let Err(error) = indexed::decode(&fields) else { continue };
            wrong += 1;
            let DocumentError::Part { part, .. } = &error else { panic!("{error}") };
            // What a field says of ids is found out where another names them.
            if part == &format!("field {name:?}") {
                let found = error.offset().unwrap();
                assert!(found <= len, "{name}, byte {at}: {error}");
            } else {
                assert!(name == "c" || !matches!(&error, DocumentError::Malformed(_)), "{name}: {error}");
            }
        }
    }
    assert!(wrong > 200, "{wrong}");
}

#[test]
fn native_snapshots_say_where_they_are_damaged() {
    let bytes = document().to_native(Packing::Plain);
    let read = |bytes: &[u8]| {
        let error = Document::from_native(&repaired(bytes), session(9)).map(drop);
        error.map_err(|error| (error.offset(), format!("{error} at ")))
    };
    check("native", cut(&bytes), 2, read);
    // What a column says too much is missing in another.
    check("native", flipped(&bytes), 120, read);
}

/// An id that stands twice is noticed when all has been read; what is told is where it stands the second time.
#[test]
fn an_id_that_stands_twice_is_found() {
    let mut model = Model::new(session(0));
    model.api().root("abcdefgh").unwrap();
    for _ in 0..40 {
        model.api().str("").unwrap().ins(1, "x").unwrap();
        model.api().str("").unwrap().ins(0, "y").unwrap();
    }
    // The id of chunk 17 is given to chunk 30 too.
    let mut verbose = model.document().to_verbose().unwrap();
    let chunks = chunks(&mut verbose).expect("the chunks of the text");
    let id = chunks[17].get("id").unwrap().clone();
    let Value::Map(chunk) = &mut chunks[30] else { panic!("{:?}", chunks[30]) };
    chunk.iter_mut().find(|(key, _)| key == "id").unwrap().1 = id;
    match Document::from_verbose(&verbose).unwrap_err() {
        DocumentError::Impossible { place: Place::Path(path), source: LoadError::Duplicate(_) } => {
            assert!(path.ends_with(".chunks[30]"), "{path}");
        }
        error => panic!("{error}"),
    }

    // Two chunks of two units, with ids of two bytes in front.
    let mut binary = model.document().to_binary();
    let heads: Vec<usize> = (6..binary.len()).filter(|&at| binary[at..].starts_with(b"\x62yx")).collect();
    let (first, second) = (heads[12], heads[20]);
    assert_eq!((binary[first - 2], binary[second - 2]), (0x81, 0x81));
    binary[second - 1] = binary[first - 1];
    match Document::from_binary(&binary).unwrap_err() {
        DocumentError::Impossible { place: Place::Byte(at), source: LoadError::Duplicate(_) } => {
            assert_eq!(at, second + 3);
        }
        error => panic!("{error}"),
    }
}

/// The first chunks in a verbose document.
fn chunks(value: &mut Value) -> Option<&mut Vec<Value>> {
    let Value::Map(entries) = value else { return None };
    entries.iter_mut().find_map(|(key, value)| match (key == "chunks", value) {
        (true, Value::Array(chunks)) => Some(chunks),
        (_, value) => chunks(value),
    })
}

#[test]
fn what_was_expected_is_said() {
    let read = |text: &str| match text.as_bytes()[0] {
        b'[' => DocumentFormat::Compact.decode(text.as_bytes()).unwrap_err().to_string(),
        _ => DocumentFormat::Verbose.decode(text.as_bytes()).unwrap_err().to_string(),
    };
    assert_eq!(
        read(r#"[[70000,9],[2,[-1,5],{"a":[2,[-1,3],{"b":[2,[-1,4],{}]}]}]]"#),
        "node 70000.5 in 70000.6: expected a node that was made after what holds it, at $[1][2][\"a\"][2][\"b\"]"
    );
    assert_eq!(
        read(r#"[[70000,9],[2,[-1,5],{"a":[9,[-1,3]]}]]"#),
        "a number at $[1][2][\"a\"][0]: expected the kind of a node"
    );
    assert_eq!(
        read(
            r#"{"time":[[70000,9]],"root":{"value":{"type":"str","id":[70000,1],"chunks":[{"id":[70000,2],"value":""}]}}}"#
        ),
        "the chunk at 70000.2 is empty: expected at least one element, at $.root.value.chunks[0]"
    );
    assert_eq!(
        read(r#"{"time":[[70000,9]],"root":{"value":{"type":"obj","id":[70000,1],"map":{"k":7}}}}"#),
        "undefined at $.root.value.map[\"k\"].id: expected an id: [session, time] or a time"
    );
    assert!(matches!(
        DocumentFormat::Binary.decode(&[0, 0, 0, 1, 0, 0]),
        Err(DocumentError::Malformed(Malformed::Contradiction { at: 6, .. }))
    ));
}

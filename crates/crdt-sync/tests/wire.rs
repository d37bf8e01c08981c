//! Messages as bytes: what was written is read, in every encoding; what was not written is refused.

use bytes::Bytes;
use crdt_core::{EncodingFormat, Model, PatchBuilder, SessionId, StateVector, Timestamp, Value};
use crdt_sync::{
    PatchRecord, PeerId, SnapshotHead, StoreId, SyncMessage, Want,
    dag::{Link, NodeHash},
    reconcile::Symbol,
    session::{SessionOptions, content},
    wire::{decode_patch, decode_sync, encode_patch, encode_sync},
};
use proptest::prelude::*;
use spot::SubscriptionOptions;

fn sid(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

fn records() -> impl Strategy<Value = PatchRecord> {
    (0u64..5, 1u64..1 << 40, 1u64..100, "[a-zé🙂]{1,12}", 0u64..3).prop_map(
        |(author, time, gap, text, other)| {
            let mut builder = PatchBuilder::new(sid(author), time);
            let string = builder.new_str();
            builder.ins_str(string, string, text.as_str());
            let known = Timestamp::new(sid(other + 10), time.saturating_sub(1).max(1));
            builder.ins_val(Timestamp::ORIGIN, known);
            let patch = builder.finish().unwrap();
            let proof = Bytes::from(vec![7; (gap % 3) as usize * 36]);
            let record = PatchRecord::new(time.saturating_sub(gap), Bytes::copy_from_slice(patch.as_bytes()));
            record.unwrap().with_proof(proof).unwrap()
        },
    )
}

/// Patches of which some are nodes, and follow each other or a node elsewhere.
fn pages() -> impl Strategy<Value = Vec<PatchRecord>> {
    let links = prop::collection::vec((prop::option::of(0usize..4), links()), 0..4);
    prop::collection::vec((records(), links), 0..4).prop_map(|page| {
        let mut nodes: Vec<PatchRecord> = Vec::new();
        for (record, links) in page {
            let link = |(back, elsewhere)| match back {
                Some(index) => nodes.get(index).map_or(elsewhere, Link::to),
                None => elsewhere,
            };
            let mut links: Vec<Link> =
                links.into_iter().map(link).filter(|link| link.last < record.id.time).collect();
            links.sort_unstable();
            links.dedup();
            nodes.push(record.with_links(links.into()).unwrap());
        }
        nodes
    })
}

fn links() -> impl Strategy<Value = Link> {
    (0u64..5, 1u64..1 << 30, any::<[u8; 32]>()).prop_map(|(session, last, hash)| Link {
        last,
        sid: sid(session),
        hash: NodeHash(hash),
    })
}

fn symbols() -> impl Strategy<Value = Symbol> {
    (0u64..1 << 53, 0u64..1 << 53, any::<u64>(), 0i64..1000).prop_map(|(sid, last, check, count)| Symbol {
        sid,
        last,
        check,
        count,
    })
}

fn vectors() -> impl Strategy<Value = StateVector<SessionId>> {
    prop::collection::btree_map((0u64..50).prop_map(sid), 1u64..1 << 50, 0..8).prop_map(StateVector::from)
}

fn want() -> impl Strategy<Value = Want> {
    (0u64..9, 0u64..1000, 0u64..1000).prop_map(|(s, after, upto)| Want { sid: sid(s), after, upto })
}

fn messages() -> impl Strategy<Value = SyncMessage> {
    let id = 0u64..1 << 40;
    let bytes = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![
        any::<(u64, Option<u64>)>().prop_map(|(digest, content)| SyncMessage::Digest { digest, content }),
        (vectors(), any::<bool>()).prop_map(|(vector, reply)| SyncMessage::State { vector, reply }),
        (id.clone(), prop::collection::vec(want(), 0..5), 0u64..1 << 40, any::<bool>())
            .prop_map(|(id, want, bytes_max, offers)| SyncMessage::Request { id, want, bytes_max, offers }),
        (id.clone(), pages()).prop_map(|(id, records)| SyncMessage::Patches { id, records }),
        (bytes.clone(), bytes.clone()).prop_map(|(message, proof)| SyncMessage::Signed { message, proof }),
        (id.clone(), pages(), bytes.clone()).prop_map(|(id, records, proof)| SyncMessage::Vouched {
            id,
            records,
            proof
        }),
        (id.clone(), vectors(), 0u64..1 << 40, any::<u64>()).prop_map(|(id, vector, len_bytes, hash)| {
            let proof = Bytes::from(vec![9; (hash % 2) as usize * 72]);
            SyncMessage::Offer { id, snapshot: SnapshotHead { vector, len_bytes, hash, proof } }
        }),
        (id.clone(), any::<u64>(), 0u64..1 << 40).prop_map(|(id, hash, offset)| SyncMessage::Fetch {
            id,
            hash,
            offset
        }),
        vectors().prop_map(|vector| SyncMessage::Ahead { vector }),
        (any::<u64>(), 0u64..1 << 40, prop::collection::vec(want(), 0..5), any::<bool>()).prop_map(
            |(store, sessions, lacks, takes_back)| SyncMessage::Welcome {
                store: StoreId::new(store),
                sessions,
                lacks,
                takes_back
            }
        ),
        (0u64..1 << 40).prop_map(|sessions| SyncMessage::Welcome {
            store: None,
            sessions,
            lacks: vec![],
            takes_back: true
        }),
        (prop::collection::vec(links(), 0..4), any::<u64>())
            .prop_map(|(heads, digest)| SyncMessage::Heads { heads, digest }),
        (id.clone(), prop::collection::vec(links(), 0..4), vectors(), 0u64..1 << 40)
            .prop_map(|(id, want, have, bytes_max)| SyncMessage::Walk { id, want, have, bytes_max }),
        (id.clone(), any::<u64>(), 0u64..1 << 40, 0u64..1 << 40)
            .prop_map(|(id, salt, from, count)| SyncMessage::Compare { id, salt, from, count }),
        (id.clone(), any::<u64>(), 0u64..1 << 40, prop::collection::vec(symbols(), 0..4))
            .prop_map(|(id, digest, entries, symbols)| SyncMessage::Sketch { id, digest, entries, symbols }),
        (id, any::<u64>(), 0u64..1 << 40, bytes).prop_map(|(id, hash, offset, bytes)| SyncMessage::Part {
            id,
            hash,
            offset,
            bytes
        }),
    ]
}

proptest! {
    #[test]
    fn a_patch_is_read_as_it_was_written(page in pages()) {
        for record in page {
            for format in EncodingFormat::ALL {
                let bytes = encode_patch(format, &record).unwrap();
                prop_assert_eq!(&decode_patch(&bytes).unwrap(), &record, "{}", format);
            }
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written(message in messages()) {
        let from = PeerId::new("node-7").unwrap();
        for format in EncodingFormat::ALL {
            let bytes = encode_sync(format, &from, &message).unwrap();
            prop_assert_eq!(decode_sync(&bytes).unwrap(), (from.clone(), message.clone()), "{}", format);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes: Vec<u8>, tag in prop::sample::select(vec![0u8, 1, 2, 4, b'{', 0x83])) {
        let bytes = Bytes::from([vec![tag], bytes].concat());
        let _ = decode_patch(&bytes);
        let _ = decode_sync(&bytes);
    }

    #[test]
    fn damaged_messages_are_refused_or_read(message in messages(), at: prop::sample::Index, byte: u8, cut: bool) {
        let from = PeerId::new("node-7").unwrap();
        for format in EncodingFormat::ALL {
            let mut bytes = encode_sync(format, &from, &message).unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            let _ = decode_sync(&bytes.into());
        }
    }
}

/// What a constant may hold, and more than JSON can say.
fn values() -> impl Strategy<Value = Value> {
    let float = prop_oneof![
        any::<f64>(),
        prop::sample::select(vec![
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -0.0,
            1.0,
            1e300,
            9_007_199_254_740_992.0
        ]),
    ];
    let int = prop_oneof![
        any::<i64>(),
        prop::sample::select(vec![i64::MIN, i64::MAX, (1 << 53) - 1, 1 << 53, -(1 << 53), 0, -1]),
    ];
    let leaf = prop_oneof![
        prop::sample::select(vec![Value::Undefined, Value::Null, Value::Bool(true), Value::Bool(false)]),
        int.prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        float.prop_map(Value::Float),
        any::<String>().prop_map(|text| Value::from(text.as_str())),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-z0-9]{0,3}", inner, 0..4).prop_map(|entries| Value::Map(
                entries.into_iter().map(|(key, value)| (key.as_str().into(), value)).collect()
            )),
        ]
    })
}

fn check_record(record: &PatchRecord) -> Result<(), TestCaseError> {
    let from = PeerId::new("node-7").unwrap();
    let page = SyncMessage::Patches { id: 1, records: vec![record.clone()] };
    for format in EncodingFormat::ALL {
        let bytes = encode_patch(format, record).unwrap();
        prop_assert_eq!(&decode_patch(&bytes).unwrap(), record, "{}", format);
        let bytes = encode_sync(format, &from, &page).unwrap();
        prop_assert_eq!(&decode_sync(&bytes).unwrap().1, &page, "{}", format);
    }
    Ok(())
}

proptest! {
    /// A channel that rounds a number or turns bytes into text makes another patch of it, and replicas part for ever.
    #[test]
    fn a_patch_with_any_value_is_read_as_it_was_written(constants in prop::collection::vec(values(), 1..4)) {
        let mut builder = PatchBuilder::new(sid(1), 1);
        let object = builder.new_obj();
        for (index, value) in constants.iter().enumerate() {
            let key = index.to_string();
            let (con, json) = (builder.new_con(value), builder.json(value));
            builder.ins_obj(object, [(key.as_str(), con), ("json", json)]);
        }
        let patch = builder.finish().unwrap();
        check_record(&PatchRecord::new(0, Bytes::copy_from_slice(patch.as_bytes())).unwrap())?;
    }
}

/// The head of every extension is a constant of bytes.
#[test]
fn extensions_are_read_as_they_were_written() {
    let mut model = Model::new(sid(1));
    model.api().root(Value::Map(Vec::new())).unwrap();
    model.api().obj("").unwrap().set_counter("count", 2.5).unwrap();
    model.api().obj("").unwrap().set_multi_value("values", "a").unwrap();
    model.api().obj("").unwrap().set_rich_text("peritext", "rich").unwrap();
    model.api().obj("").unwrap().set_quill("quill", "text").unwrap();
    model.api().counter("/count").unwrap().add(1.0).unwrap();
    let patch = model.flush().unwrap();
    check_record(&PatchRecord::new(0, Bytes::copy_from_slice(patch.as_bytes())).unwrap()).unwrap();
}

#[test]
fn a_value_as_deep_as_it_may_be_is_read_as_it_was_written() {
    let deep = (1..Value::DEPTH_MAX).fold(Value::Array(Vec::new()), |inner, _| Value::Array(vec![inner]));
    let mut builder = PatchBuilder::new(sid(1), 1);
    builder.new_con(&deep);
    let patch = builder.finish().unwrap();
    check_record(&PatchRecord::new(0, Bytes::copy_from_slice(patch.as_bytes())).unwrap()).unwrap();
}

/// A count says how many items follow. One that can't be true must not make room for them.
#[test]
fn a_false_count_is_refused_at_once() {
    let mut bytes = vec![2, 1, b'a', 2];
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let error = decode_sync(&bytes.into()).unwrap_err();
    assert_eq!(error.to_string(), "input ends at byte 12, within a session id");
}

#[test]
fn a_digest_is_written_as_it_was_promised() {
    let (from, digest) = (PeerId::new("a").unwrap(), 0x0102_0304_0506_0708);
    let written = |content| {
        let message = SyncMessage::Digest { digest, content };
        encode_sync(EncodingFormat::Binary, &from, &message).unwrap().to_vec()
    };
    assert_eq!(written(None), [2, 1, b'a', 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(written(Some(9)), [2, 1, b'a', 16, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
    // What stands for a patch is the same for all replicas, whatever they were built from.
    let mut builder = PatchBuilder::new(sid(1), 100);
    builder.new_con(&Value::from("eight bytes and more"));
    let patch = builder.finish().unwrap();
    let record = PatchRecord::new(7, Bytes::copy_from_slice(patch.as_bytes())).unwrap();
    assert_eq!(content(&record), 12_162_510_359_761_908_792);
}

#[test]
fn a_vouched_page_is_written_as_it_was_promised() {
    let mut builder = PatchBuilder::new(sid(1), 100);
    builder.new_con(&Value::Null);
    let patch = Bytes::copy_from_slice(builder.finish().unwrap().as_bytes());
    let (record, proof) = (PatchRecord::new(99, patch.clone()).unwrap(), Bytes::from_static(&[8, 9]));
    let message = SyncMessage::Vouched { id: 5, records: vec![record], proof };
    let written = encode_sync(EncodingFormat::Binary, &PeerId::new("a").unwrap(), &message).unwrap();
    let head = [2, 1, b'a', 17, 5, 2, 8, 9, 1, 1, 0, 0, patch.len() as u8];
    assert_eq!(written, [&head[..], &patch].concat());
}

#[test]
fn a_signed_word_is_written_as_it_was_promised() {
    let (message, proof) = (Bytes::from_static(&[1, 2, 3]), Bytes::from_static(&[8, 9]));
    let signed = SyncMessage::Signed { message, proof };
    let written = encode_sync(EncodingFormat::Binary, &PeerId::new("a").unwrap(), &signed).unwrap();
    assert_eq!(written, [2, 1, b'a', 18, 2, 8, 9, 1, 2, 3][..]);
}

#[test]
fn an_edit_costs_two_bytes_beside_its_patch() {
    let mut builder = PatchBuilder::new(sid(1), 100);
    builder.new_con(&Value::Null);
    let patch = builder.finish().unwrap();
    let record = PatchRecord::new(99, Bytes::copy_from_slice(patch.as_bytes())).unwrap();
    let bytes = encode_patch(EncodingFormat::Binary, &record).unwrap();
    assert_eq!(bytes.len(), patch.as_bytes().len() + 2);
}

#[test]
fn a_patch_that_waits_for_itself_is_refused() {
    let mut builder = PatchBuilder::new(sid(1), 100);
    builder.ins_val(Timestamp::ORIGIN, Timestamp::new(sid(2), 5000));
    let patch = builder.finish().unwrap();
    let error = PatchRecord::new(0, Bytes::copy_from_slice(patch.as_bytes())).unwrap_err();
    assert_eq!(error.to_string(), "patch 65537.100 names 65538.5000, which is not older");
}

/// The answerer of a walk reads what ends after the time before the wanted one: there is none before 0.
#[test]
fn a_walk_from_time_zero_is_refused() {
    let from = PeerId::new("node-7").unwrap();
    let link = Link { last: 0, sid: sid(1), hash: NodeHash([3; 32]) };
    let walk = SyncMessage::Walk { id: 1, want: vec![link], have: StateVector::new(), bytes_max: 100 };
    let heads = SyncMessage::Heads { heads: vec![link], digest: 1 };
    for message in [walk, heads] {
        for format in EncodingFormat::ALL {
            let bytes = encode_sync(format, &from, &message).unwrap();
            let error = decode_sync(&bytes).unwrap_err();
            assert_eq!(error.to_string(), "links: expected last times from 1 on", "{format}");
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let check = |bytes: &[u8], expect: &str| {
        let error = decode_sync(&Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(error.to_string(), expect);
    };
    check(b"", "an empty message");
    check(b"\x07", "a message can't begin with byte 0x07");
    check(b"{}", "from: expected text");
    check(br#"{"from":"a*","type":"digest"}"#, "peer id with the character '*'");
    check(br#"{"from":"a","type":"hello"}"#, "unknown kind of message: hello");
    check(br#"{"from":"a","type":"digest","digest":7}"#, "digest: expected text");
    check(br#"{"from":"a","type":"digest","digest":"7"}"#, "digest: expected 16 hexadecimal digits");
    check(
        br#"{"from":"a","type":"request","id":1,"want":[[1,2]],"bytesMax":1}"#,
        "want: expected [session, after, upto]",
    );
    check(
        br#"{"from":"a","type":"fetch","id":-1,"hash":"0000000000000000","offset":0}"#,
        "id: expected a whole number from 0 to 2^53 - 1",
    );
}

/// One that is larger than a subscription holds would never come, however often it is asked for.
/// What a document may have of sessions is bounded by what one message holds: a snapshot's head names them all.
#[test]
fn a_state_of_all_sessions_fits_a_standard_subscription_in_every_encoding() {
    let drawn = |at: u64| SessionId::from_random(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let count = SessionOptions::standard(SessionId::USER_MIN).sessions_max as u64;
    let vector: StateVector<SessionId> = (1..=count).map(|at| (drawn(at), (1 << 26) + at)).collect();
    assert_eq!(vector.len() as u64, count);
    let head = SnapshotHead { vector, len_bytes: 1 << 28, hash: u64::MAX, proof: Bytes::new() };
    let from = PeerId::new("x".repeat(PeerId::LEN_BYTES_MAX)).unwrap();
    let max = SubscriptionOptions::STANDARD.bytes_max;
    for format in EncodingFormat::ALL {
        let offer = SyncMessage::Offer { id: 1, snapshot: head.clone() };
        let len = encode_sync(format, &from, &offer).unwrap().len();
        assert!(len <= max, "{format:?}: {len} bytes, {max} fit");
    }
}

#[test]
fn a_patch_fits_a_standard_subscription_in_every_encoding() {
    let longest = SessionId::new(crdt_core::id::MAX_ID).unwrap();
    for len_bytes in [255 << 10, 257 << 10, PatchRecord::PATCH_BYTES_MAX - 100] {
        // The least bytes for the most text: ids of the own session, whose number is long, at times of one byte.
        let mut builder = PatchBuilder::new(longest, 1);
        let list = builder.new_arr();
        builder.ins_arr(list, list, &vec![list; len_bytes - 20]);
        let patch = Bytes::copy_from_slice(builder.finish().unwrap().as_bytes());
        assert!(len_bytes.abs_diff(patch.len()) < 100, "{}", patch.len());
        let record = PatchRecord::new(0, patch).unwrap();
        for format in EncodingFormat::ALL {
            let alone = encode_patch(format, &record).unwrap();
            assert_eq!(decode_patch(&alone).unwrap(), record);
            let page = SyncMessage::Patches { id: 1, records: vec![record.clone()] };
            let page = encode_sync(format, &PeerId::new("a").unwrap(), &page).unwrap();
            let most = alone.len().max(page.len());
            assert!(most <= SubscriptionOptions::STANDARD.bytes_max, "{most} bytes in {format}");
        }
    }
}

//! What a server may say that counts wrongly.

use serde_json::json;

use super::*;

fn event(version: u64, sequence: u64) -> Event {
    serde_json::from_value(json!({
        "id": format!("d@{version}"), "documentId": "d", "sequenceNum": version, "position": 1, "timestamp": 1,
        "operation": "update", "diff": {"version": version, "jsonPatch": []}, "vectorClock": {"me": sequence},
        "clientId": "me", "clientSeq": sequence, "metadata": {},
    }))
    .unwrap()
}

/// No server of ours counts so far. It is no reason for the client's task to end.
#[test]
fn a_server_that_counts_to_the_end_of_numbers_ends_nothing() {
    let me = ClientId::new("me").unwrap();
    let delete = || PushOp::Delete;
    for (version, sequence) in [(u64::MAX, u64::MAX), (u64::MAX - 1, u64::MAX - 1), (1, u64::MAX)] {
        let mut manager = StateManager::new(DocumentId::new("d").unwrap(), me.clone());
        manager.write(delete(), true, 0);
        manager.on_snapshot(&Snapshot {
            document_id: DocumentId::new("d").unwrap(),
            version,
            state: None,
            state_vector: [(me.clone(), sequence)].into_iter().collect(),
            created_at: 1,
            timestamp: Some(1),
        });
        manager.write(delete(), true, 0);
        let push = manager.poll_push().unwrap();
        assert_eq!(push.client_seq, Some(sequence.saturating_add(1)));
        manager.on_pushed(push.client_seq.unwrap(), u64::MAX, false);
        let heard = manager.on_event(&event(u64::MAX, u64::MAX)).unwrap();
        let expected = match version {
            u64::MAX => Applied::Known,
            1 => Applied::Gap,
            _ => Applied::Merged,
        };
        assert_eq!(heard, expected, "{version}");
        manager.on_disconnected();
        let _ = manager.poll_push();
    }
}

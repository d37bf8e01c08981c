//! More sessions than may have patches that are not folded: all are taken in, as those before them are folded.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_document_takes_more_sessions_than_may_be_unfolded_at_a_time() {
    let group = Group::new();
    let policy = CompactionPolicy {
        unfolded_sessions_max: 8,
        keep_ticks: 0,
        pause: Duration::from_millis(50),
        ..CompactionPolicy::STANDARD
    };
    let mut replicas = Vec::new();
    for number in 1..=2 {
        let session = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let document = Arc::new(SharedModel::new(session));
        let store = Arc::new(MemoryPatchStore::new());
        let with = |manager: SyncManager| manager.with_compaction(policy);
        let replica = group.join_bounded(number, document, store, with, |options| SessionOptions {
            unfolded_sessions_max: 16,
            ..options
        });
        replicas.push(replica.await);
    }
    replicas[0].edit(|model| model.api().root(json(json!({})))).await;
    replicas[1].sees(&json(json!({}))).await;
    for number in 0..80 {
        let sid = SessionId::new(SessionId::USER_MIN.get() + 1000 + number).unwrap();
        let mut patch = PatchBuilder::new(sid, 1000 + 10 * number);
        let value = patch.json(&json(json!(number)));
        patch.ins_val(Timestamp::ORIGIN, value);
        let record = PatchRecord::new(0, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap();
        let taken = async {
            // As a window does that is told to come back.
            while let Err(error) = replicas[0].manager.relay(record.clone()).await {
                let SyncError::Refused(Refusal::TooManyUnfoldedSessions { limit: 16 }) = error else {
                    panic!("{error}")
                };
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.expect("there is room again");
    }
    for replica in &replicas {
        replica.sees(&json(json!(79))).await;
        let status = replica.manager.status().await.unwrap();
        assert_eq!(status.now.sessions, 81);
        assert!(status.folded > 3 && status.now.unfolded_sessions <= 16, "{status:?}");
    }
}

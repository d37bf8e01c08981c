//! What a page of the embedded store takes while it is read: counted, not estimated.

mod counted;

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, Value};
use crdt_sync::{
    PatchRecord, PatchStore, Want,
    store::{EmbeddedPatchStores, PatchPage},
};

const SESSIONS: u64 = 400;
const PATCH_BYTES: usize = 64 << 10;
/// Two patches of a page, one that is one too many, and those of the ranges that stay open.
const BOUND_BYTES: isize = 4 << 20;

/// All other tests of this file would be counted too, so there is none.
#[tokio::test]
async fn a_page_holds_what_is_in_it_and_not_what_each_session_has_next() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedPatchStores::open(folder.path()).await.unwrap().document("doc").await.unwrap();
    let sid = |number| SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
    for number in 0..SESSIONS {
        let mut patch = PatchBuilder::new(sid(number), 1);
        patch.new_con(&Value::Bytes(vec![number as u8; PATCH_BYTES]));
        let patch = Bytes::copy_from_slice(patch.finish().unwrap().as_bytes());
        store.append(&[PatchRecord::new(0, patch).unwrap()]).await.unwrap();
    }
    let want: Vec<_> = (0..SESSIONS).map(|number| Want { sid: sid(number), after: 0, upto: 1 }).collect();
    let before = counted::begin();
    let page = store.page(&want, 2 * PATCH_BYTES + 1000).await.unwrap();
    let most = counted::most() - before;
    let PatchPage::Records(records) = page else { panic!("{page:?}") };
    assert_eq!(records.iter().map(|record| record.session()).collect::<Vec<_>>(), [sid(0), sid(1)]);
    assert!(
        most < BOUND_BYTES,
        "{most} bytes for a page of two patches; all sessions' next ones are {} MiB",
        SESSIONS >> 4
    );
}

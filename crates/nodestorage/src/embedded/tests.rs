use super::*;

async fn store() -> (EmbeddedStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap(), folder)
}

mod conformance {
    use super::store;

    crate::conformance_tests!(store);
}

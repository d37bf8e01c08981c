//! A client that takes nothing costs its own budget, and nobody else's.

mod support;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use crdt_core::ClientId;
use eventsync::{http::HttpOptions, protocol::PushOp, service::WriteOptions};
use nodestorage::{
    DocumentId, EditFn, EditOptions, Edited, MemoryStorage, Storage, StorageError, StorageLayer,
};
use serde_json::{Value, json};
use support::Server;
use tokio::sync::Semaphore;
use tokio_tungstenite::MaybeTlsStream;

/// Holds the edits of one document up, as a database does that takes its time.
struct Gated {
    inner: MemoryStorage,
    reached: Semaphore,
    gate: Semaphore,
}

#[async_trait]
impl StorageLayer for Gated {
    fn inner(&self) -> &dyn Storage {
        &self.inner
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        if id.as_str() == "gated" {
            self.reached.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
        }
        self.inner.find_one_and_update(id, edit, options).await
    }
}

async fn write(server: &Server, document: &str, op: PushOp) {
    let options = WriteOptions::by(ClientId::new("w").unwrap());
    server.service.write(&DocumentId::new(document).unwrap(), &op, options).await.unwrap();
}

fn fields(value: Value) -> nodestorage::Body {
    value.as_object().unwrap().clone()
}

/// What it writes may hold what others wait for: the gate of a document, the relay of a store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_goes_on_while_its_client_takes_nothing() {
    let inner = MemoryStorage::default();
    let storage = Arc::new(Gated { inner, reached: Semaphore::new(0), gate: Semaphore::new(0) });
    let server = Server::start_over(storage.clone(), HttpOptions::new("games")).await;
    for name in ["big", "gated"] {
        write(&server, name, PushOp::Create { state: fields(json!({ "name": name })) }).await;
    }
    let mut client = server.client("c", json!({"documents": {"big": {"cursor": 1}}})).await;
    client.next_of("live").await;
    client
        .send(
            &json!({"type": "push", "documentId": "gated", "clientSeq": 1, "op": "merge", "patch": {"n": 1}}),
        )
        .await;
    storage.reached.acquire().await.unwrap().forget();

    // More than any socket holds. From here on nothing of it is read.
    for n in 0..20 {
        let text = char::from(b'a' + n).to_string().repeat(900_000);
        write(&server, "big", PushOp::Merge { patch: fields(json!({ "text": text })) }).await;
    }
    let MaybeTlsStream::Plain(stream) = client.stream.get_ref() else { panic!("no TLS here") };
    stream.readable().await.unwrap();

    storage.gate.add_permits(1);
    let written = async {
        let gated = DocumentId::new("gated").unwrap();
        while storage.inner.last_version(&gated).await.unwrap() == 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Sooner than the connection is given up.
    tokio::time::timeout(Duration::from_secs(15), written).await.expect("the write waits for its client");
}

//! What the server is asked for a page of a query.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use nodestorage::{
    Query, Storage,
    mongo::{
        driver::bson::{Document as Bsons, doc},
        testing::TestServer,
    },
    query::{Direction, FieldPath, SortBy},
};
use parking_lot::Mutex;
use serde_json::json;

use super::{body, by, direct::direct, games, id, options, otherwise::behind, proxy};

/// So that the server sorts no more than the page. Documents that are none of ours take no room on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn every_page_says_how_many_documents_it_may_take() {
    let server = TestServer::own();
    let limits = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&limits);
    let port = proxy::start(server.port(), move |command: &Bsons| {
        let sorted = command.get_document("sort").is_ok_and(|sort| sort.contains_key("n"));
        if sorted && command.get_str("find").is_ok_and(|name| name == "games") {
            told.lock().push(command.get_i64("limit").unwrap_or(0));
        }
        None
    });
    let store = behind(port.await, options(&server)).await;
    let games = games(&store).await;
    let mut wanted = Vec::new();
    for n in 0..20 {
        let name = format!("d{n:02}");
        games.find_one_and_upsert(&id(&name), body(json!({"n": n / 7})), by("s")).await.unwrap();
        wanted.push(name);
    }
    let foreign = (0..9).map(|n| doc! {"_id": format!("a\n{n}"), "n": n / 4});
    direct(&games).insert_many(foreign).await.unwrap();
    let sort = vec![(SortBy::Field(FieldPath::new("n").unwrap()), Direction::Ascending)];
    let mut query = Query { sort, limit: 3, ..Query::default() };
    let mut found = Vec::new();
    loop {
        let page = games.find_many(query.clone()).await.unwrap();
        found.extend(page.found.into_iter().map(|found| found.id.to_string()));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(found, wanted);
    let limits = limits.lock();
    assert!(limits.iter().all(|limit| (1..=64).contains(limit)), "{limits:?}");
}

/// Whether the server's order is that of all storages takes a search of its own: the first page does it. What comes later and
/// is sorted otherwise is seen where it is read, and hides nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn how_the_server_sorts_is_asked_once_for_all_pages() {
    let server = TestServer::own();
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let port = proxy::start(server.port(), move |command: &Bsons| {
        let asks = command.get_document("filter").is_ok_and(|filter| filter.contains_key("$and"))
            && command.get_document("projection").is_ok_and(|fields| *fields == doc! {"_id": 1});
        if asks && command.get_str("find").is_ok_and(|name| name == "games") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    let store = behind(port.await, options(&server)).await;
    let games = games(&store).await;
    let mut wanted = Vec::new();
    for n in 0..20 {
        let name = format!("d{n:02}");
        games.find_one_and_upsert(&id(&name), body(json!({"n": n / 7})), by("s")).await.unwrap();
        wanted.push(name);
    }
    let sort = vec![(SortBy::Field(FieldPath::new("n").unwrap()), Direction::Ascending)];
    for otherwise in [None, Some(doc! {"_id": "x", "n": []}), Some(doc! {"_id": "y", "n": f64::NAN})] {
        asked.store(0, Ordering::Relaxed);
        let mut query = Query { sort: sort.clone(), limit: 3, ..Query::default() };
        let mut found = Vec::new();
        loop {
            let page = games.find_many(query.clone()).await.unwrap();
            found.extend(page.found.into_iter().map(|found| found.id.to_string()));
            if let Some(otherwise) = otherwise.as_ref().filter(|_| query.after.is_none()) {
                direct(&games).insert_one(otherwise.clone()).await.unwrap();
            }
            // As a client gives it back.
            query.after = page.next.map(|next| next.to_string().parse().unwrap());
            if query.after.is_none() {
                break;
            }
        }
        found.retain(|name| name.starts_with('d'));
        assert_eq!(found, wanted, "{otherwise:?}");
        match otherwise {
            None => assert_eq!(asked.load(Ordering::Relaxed), 1),
            Some(otherwise) => {
                direct(&games).delete_one(otherwise).await.unwrap();
            }
        }
    }
}

//! What the server is asked for a page of a query.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use nodestorage::{
    MemoryStore, Query, Storage, StorageOptions,
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

/// What is read at a time is not only counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_list_holds_few_large_documents() {
    let server = TestServer::start();
    let store = super::open(&server).await;
    let games = games(&store).await;
    for n in 0..10 {
        let large = body(json!({"much": "x".repeat(400_000)}));
        games.find_one_and_upsert(&id(&format!("d{n}")), large, by("s")).await.unwrap();
    }
    for n in 0..300 {
        games.find_one_and_upsert(&id(&format!("e{n:03}")), body(json!({})), by("s")).await.unwrap();
    }
    let page = games.list(None, 100).await.unwrap();
    assert_eq!(page.len(), 4, "they reach 1 MiB");
    assert_eq!(games.list(Some(&id("d9")), 250).await.unwrap().len(), 250);
    assert_eq!(games.list(Some(&id("d5")), 100).await.unwrap().len(), 4);
    assert_eq!(games.list(Some(&id("d9")), 1000).await.unwrap().len(), 300);
}

/// What is before the cursor is not read again, also where everything is alike in the sort, or has nothing there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn pages_of_documents_that_are_alike_read_each_of_them_once() {
    let server = TestServer::own();
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let port = proxy::start(server.port(), move |command: &Bsons| {
        let sorts = command.get_document("sort").is_ok_and(|sort| sort.len() > 1);
        if sorts && command.get_str("find").is_ok_and(|name| name == "games") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    let store = behind(port.await, options(&server)).await;
    let games = games(&store).await;
    let memory = MemoryStore::default().collection("games", StorageOptions::default()).unwrap();
    for n in 0..60 {
        let first = match n % 12 {
            0 => json!({"state": null, "n": n % 3}),
            1 => json!({"state": 1.5, "n": n % 3}),
            2 if n == 2 => json!({"state": {"deep": 1}, "n": "text"}),
            3 => json!({"state": true}),
            4 | 5 => json!({"n": n % 3}),
            _ => json!({"state": "open", "n": n % 3}),
        };
        let id = id(&format!("d{n:02}"));
        games.find_one_and_upsert(&id, body(first.clone()), by("s")).await.unwrap();
        memory.find_one_and_upsert(&id, body(first), by("s")).await.unwrap();
    }
    let field = |name: &str| SortBy::Field(FieldPath::new(name).unwrap());
    use Direction::{Ascending, Descending};
    for sort in [
        vec![(field("state"), Ascending)],
        vec![(field("state"), Descending)],
        vec![(field("state"), Ascending), (SortBy::Id, Descending)],
        vec![(field("state"), Descending), (field("n"), Ascending)],
        vec![(field("n"), Ascending), (field("state"), Descending)],
        vec![(field("_version"), Ascending), (field("n"), Descending)],
    ] {
        asked.store(0, Ordering::Relaxed);
        let whole = Query { sort: sort.clone(), ..Query::default() };
        let wanted = memory.find_many(whole.clone()).await.unwrap().found;
        let mut query = Query { limit: 7, ..whole };
        let mut found = Vec::new();
        loop {
            let page = games.find_many(query.clone()).await.unwrap();
            found.extend(page.found);
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(found, wanted, "{sort:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 9, "one question for each page of {sort:?}");
    }
}

/// Another program may write, between two pages, what the server would give another place than all storages do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_is_sorted_otherwise_and_comes_between_pages_is_found() {
    let server = TestServer::start();
    let store = super::open(&server).await;
    let games = games(&store).await;
    for n in 0..6 {
        games.find_one_and_upsert(&id(&format!("d{n}")), body(json!({"n": n})), by("s")).await.unwrap();
    }
    let sort = vec![(SortBy::Field(FieldPath::new("n").unwrap()), Direction::Descending)];
    let mut query = Query { sort, limit: 3, ..Query::default() };
    query.after = games.find_many(query.clone()).await.unwrap().next;
    // It is read as `null`.
    direct(&games).insert_one(doc! {"_id": "x", "n": f64::NAN}).await.unwrap();
    query.limit = 10;
    let found = games.find_many(query).await.unwrap().found;
    assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["d2", "d1", "d0", "x"]);
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

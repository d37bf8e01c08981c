//! What the server is asked for a page of a query.

use std::sync::Arc;

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

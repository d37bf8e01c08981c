//! Reading events.

use nodestorage::EditOptions;

use super::{Stores, client, id, vector, write};
use crate::store::{EventPage, PageLimit};

fn numbers(page: &EventPage) -> Vec<u64> {
    page.events.iter().map(|event| event.sequence_num()).collect()
}

/// By number, by bytes, to the end and beyond.
pub async fn events_are_paged_without_a_gap(stores: Stores) {
    let events = stores.events();
    assert_eq!(events.latest(&id("a")).await.unwrap(), 0);
    for n in 1..=40 {
        write(&*stores.storage, "a", "p.1", n).await;
    }
    for limit in [PageLimit::at_most(7), PageLimit { events_max: 512, bytes_max: 2_000 }, PageLimit::STANDARD]
    {
        let (mut read, mut cursor) = (Vec::new(), 0);
        loop {
            let page = events.events_after(&id("a"), cursor, limit).await.unwrap();
            assert!(!page.gap && page.events.len() <= limit.events_max && !page.events.is_empty());
            assert_eq!(page.events.last().unwrap().sequence_num(), page.cursor);
            read.extend(numbers(&page));
            cursor = page.cursor;
            if !page.more {
                break;
            }
        }
        assert!(read.into_iter().eq(1..=40), "{limit:?}");
    }
    let end = events.events_after(&id("a"), 40, PageLimit::STANDARD).await.unwrap();
    assert_eq!((numbers(&end), end.cursor, end.more, end.gap), (vec![], 40, false, false));
    stores.storage.delete_one(&id("a"), EditOptions::by(client("p.1"))).await.unwrap();
    assert_eq!(events.latest(&id("a")).await.unwrap(), 41, "a delete is an event");
}

/// The cursor says how far was looked, also past what was left out.
pub async fn events_that_a_vector_contains_are_left_out(stores: Stores) {
    for n in 1..=10 {
        write(&*stores.storage, "a", "p.1", n).await;
        write(&*stores.storage, "a", "q", n).await;
    }
    let missing = async |of: &[(&str, u64)], after, limit| {
        stores.events().events_missing(&id("a"), &vector(of), after, limit).await.unwrap()
    };
    let page = missing(&[("p.1", 10), ("q", 7)], 0, PageLimit::STANDARD).await;
    assert_eq!((numbers(&page), page.cursor, page.more), (vec![16, 18, 20], 20, false));
    let page = missing(&[("p.1", 4), ("stranger", 99)], 6, PageLimit::at_most(3)).await;
    assert_eq!((numbers(&page), page.more), (vec![8, 9, 10], true));
    let page = missing(&[("p.1", 10), ("q", 10)], 0, PageLimit::STANDARD).await;
    assert_eq!((numbers(&page), page.cursor, page.more), (vec![], 20, false));
}

/// Positions: each event once, and of one document in its order.
pub async fn events_of_all_documents_have_one_order(stores: Stores) {
    for n in 1..=6 {
        for document in ["a", "b", "c"] {
            write(&*stores.storage, document, "p", n).await;
        }
    }
    let events = stores.events();
    let head = events.position().await.unwrap();
    let (mut read, mut cursor) = (Vec::new(), 0);
    loop {
        let page = events.collection_after(cursor, PageLimit::at_most(5)).await.unwrap();
        assert!(!page.gap);
        cursor = page.cursor;
        read.extend(page.events);
        if !page.more {
            break;
        }
    }
    assert_eq!((read.len(), cursor), (18, head));
    assert!(read.is_sorted_by(|one, next| one.position() < next.position()));
    for document in ["a", "b", "c"] {
        let of_one = read.iter().filter(|event| *event.document_id() == id(document));
        assert!(of_one.map(|event| event.sequence_num()).eq(1..=6));
    }
    let end = events.collection_after(head, PageLimit::STANDARD).await.unwrap();
    assert_eq!((end.events.len(), end.cursor, end.more), (0, head, false));
}

/// After compaction a reader is told, and not shown a history with a hole.
pub async fn events_that_are_gone_are_told(stores: Stores) {
    let events = stores.events();
    for n in 1..=10 {
        write(&*stores.storage, "a", "p", n).await;
    }
    assert_eq!(stores.storage.remove_changes(&id("a"), 4).await.unwrap(), 4);
    let page = events.events_after(&id("a"), 2, PageLimit::STANDARD).await.unwrap();
    assert_eq!((numbers(&page), page.gap), (vec![], true));
    let page = events.events_missing(&id("a"), &vector(&[("p", 2)]), 0, PageLimit::STANDARD).await.unwrap();
    assert_eq!((numbers(&page), page.gap), (vec![], true));
    let page = events.events_after(&id("a"), 4, PageLimit::STANDARD).await.unwrap();
    assert_eq!((numbers(&page), page.gap), ((5..=10).collect(), false));
    let page = events.collection_after(0, PageLimit::STANDARD).await.unwrap();
    assert!(page.gap && page.events.is_empty() && page.cursor > 0, "{page:?}");
    let page = events.collection_after(page.cursor, PageLimit::STANDARD).await.unwrap();
    assert_eq!((numbers(&page), page.gap), ((5..=10).collect(), false));
    stores.storage.remove_changes(&id("a"), 10).await.unwrap();
    let page = events.events_after(&id("a"), 9, PageLimit::STANDARD).await.unwrap();
    assert_eq!((numbers(&page), page.gap), (vec![], true));
    let page = events.events_after(&id("a"), 10, PageLimit::STANDARD).await.unwrap();
    assert_eq!((numbers(&page), page.gap), (vec![], false));
    assert_eq!(events.latest(&id("a")).await.unwrap(), 10);
}

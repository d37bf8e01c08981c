//! A shelf: ordered keys with values, and one step from value to value.

use std::sync::Arc;

use super::Stores;
use crate::shelf::{Durability, ScanRange, Shelf};

/// Keys as they are made: of parts that end in a zero byte, some with a number behind.
const KEYS: [&[u8]; 10] = [
    b"clock\0a\0",
    b"idempotency\0key\0",
    b"other\0\x01\x02\0",
    b"snapshot\0a\0\0\0\0\0\0\0\0\x01",
    b"snapshot\0a\0\0\0\0\0\0\0\0\xff",
    b"snapshot\0a\0\0\0\0\0\0\0\x01\0",
    b"snapshot\0a b\0\0\0\0\0\0\0\0\x01",
    b"snapshot\0b\0\0\0\0\0\0\0\0\x02",
    b"vector\0a\0p\0",
    b"vector\0a\0p.1\0",
];

async fn fill(shelf: &dyn Shelf) {
    for (n, key) in KEYS.iter().enumerate() {
        shelf.put(key.to_vec(), b"{}".to_vec(), Durability::Lazy).await.unwrap();
        shelf.put(key.to_vec(), format!("{n}").into_bytes(), Durability::Synced).await.unwrap();
    }
}

/// The last value counts, whichever handle reads it.
pub async fn a_shelf_keeps_what_it_is_given(stores: Stores) {
    let (shelf, other) = (&*stores.shelf, &*stores.other);
    assert_eq!(shelf.get(KEYS[0]).await.unwrap(), None);
    shelf.remove(KEYS[0].to_vec()).await.unwrap();
    fill(shelf).await;
    for (n, key) in KEYS.iter().enumerate() {
        assert_eq!(other.get(key).await.unwrap(), Some(format!("{n}").into_bytes()), "{key:?}");
    }
    other.remove(KEYS[4].to_vec()).await.unwrap();
    other.remove(KEYS[4].to_vec()).await.unwrap();
    assert_eq!(shelf.get(KEYS[4]).await.unwrap(), None);
    assert_eq!(shelf.get(KEYS[3]).await.unwrap(), Some(b"3".to_vec()));
}

/// From the first key to the one behind the last, or back.
pub async fn a_shelf_is_scanned_in_the_order_of_its_keys(stores: Stores) {
    fill(&*stores.shelf).await;
    for (from, to, expect) in [
        (KEYS[3], KEYS[7], 3..7),
        (KEYS[3], b"snapshot\x01".as_slice(), 3..8),
        (b"snapshot\0a\0".as_slice(), b"snapshot\0a\x01".as_slice(), 3..6),
        (b"vector\0a\0".as_slice(), b"vector\0a\x01".as_slice(), 8..10),
        (KEYS[7], KEYS[3], 0..0),
        (KEYS[3], KEYS[3], 0..0),
    ] {
        for limit in [0, 1, 2, 9] {
            for backwards in [false, true] {
                let range = ScanRange { from: from.to_vec(), to: to.to_vec(), backwards };
                let found = stores.other.scan(range.clone(), limit).await.unwrap();
                let mut wanted: Vec<_> =
                    expect.clone().map(|n| (KEYS[n].to_vec(), format!("{n}").into_bytes())).collect();
                if backwards {
                    wanted.reverse();
                }
                wanted.truncate(limit);
                assert_eq!(found, wanted, "{range:?}, at most {limit}");
            }
        }
    }
}

/// There or not, the right value or another, a new value or none.
pub async fn a_swap_needs_what_is_expected(stores: Stores) {
    for (n, durability) in [Durability::Synced, Durability::Lazy].into_iter().enumerate() {
        let key = KEYS[8 + n];
        for (turn, (expected, value, swapped)) in [
            (Some("1"), Some("2"), false),
            (None, None, true),
            (None, Some("1"), true),
            (None, Some("2"), false),
            (None, None, false),
            (Some("2"), None, false),
            (Some("2"), Some("3"), false),
            (Some("1"), Some("2"), true),
            (Some("2"), Some("2"), true),
            (Some("2"), None, true),
            (Some("2"), None, false),
        ]
        .into_iter()
        .enumerate()
        {
            let [one, other] = stores.handles();
            let shelf = if turn % 2 == 0 { &one } else { &other };
            let before = shelf.get(key).await.unwrap();
            let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
            let did = shelf.swap(key.to_vec(), bytes(expected), bytes(value), durability).await.unwrap();
            assert_eq!(did, swapped, "turn {turn}: {expected:?} to {value:?} at {before:?}");
            let after = if swapped { bytes(value) } else { before };
            assert_eq!(one.get(key).await.unwrap(), after, "turn {turn}");
        }
    }
}

/// Tasks on both handles count one number up.
pub async fn swaps_of_two_handles_lose_nothing(stores: Stores) {
    const TASKS: usize = 8;
    const EACH: usize = 16;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let shelf = Arc::clone(&stores.handles()[task % 2]);
        tasks.spawn(async move {
            for _ in 0..EACH {
                crate::shelf::update(&*shelf, KEYS[0].to_vec(), Durability::Lazy, |known| {
                    let n = known.map_or(0, |n| std::str::from_utf8(n).unwrap().parse::<usize>().unwrap());
                    Ok((Some((n + 1).to_string().into_bytes()), ()))
                })
                .await
                .unwrap();
            }
        });
    }
    tasks.join_all().await;
    let counted = stores.shelf.get(KEYS[0]).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(counted).unwrap(), (TASKS * EACH).to_string());
}

//! The laws of what is kept beside the documents, and of reading their events, as tests that every implementation runs.
//!
//! `conformance_tests!(make)` makes one test per law; `make` is an async function that gives a fresh, empty [`Stores`] and
//! whatever has to live as long as it (a temporary folder, a server).

mod clocks;
mod events;
mod shelves;
mod snapshots;
mod vectors;

use std::sync::Arc;

use crdt_core::ClientId;
use nodestorage::{Body, DocumentId, EditOptions, Storage, StorageExt};
use serde_json::{Value, json};

pub use self::{clocks::*, events::*, shelves::*, snapshots::*, vectors::*};
use crate::{
    event::ClientVector,
    shelf::Shelf,
    store::{EventStore, StorageEventStore},
};

/// What the laws are tried on.
pub struct Stores {
    /// Documents, whose changes are the events.
    pub storage: Arc<dyn Storage>,
    /// A shelf.
    pub shelf: Arc<dyn Shelf>,
    /// The same shelf once more, as another process has it where there can be one.
    pub other: Arc<dyn Shelf>,
}

impl Stores {
    fn events(&self) -> Arc<dyn EventStore> {
        Arc::new(StorageEventStore::new(Arc::clone(&self.storage)))
    }

    fn handles(&self) -> [Arc<dyn Shelf>; 2] {
        [Arc::clone(&self.shelf), Arc::clone(&self.other)]
    }
}

/// Makes one test of each law: `conformance_tests!(make)`, or `conformance_tests!(#[ignore = "needs …"] make)`, see
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! conformance_tests {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::conformance_tests!(@each [$(#[$attribute])*] $make:
            a_shelf_keeps_what_it_is_given
            a_shelf_is_scanned_in_the_order_of_its_keys
            a_swap_needs_what_is_expected
            swaps_of_two_handles_lose_nothing
            events_are_paged_without_a_gap
            events_that_a_vector_contains_are_left_out
            events_of_all_documents_have_one_order
            events_that_are_gone_are_told
            the_nearest_snapshot_of_the_right_document_is_found
            a_snapshot_is_kept_once_and_listed_newest_first
            pruning_keeps_the_newest_and_what_the_events_start_from
            a_state_vector_only_grows
            a_state_vector_never_goes_back_under_two_processes
            a_client_that_is_forgotten_is_a_stranger
            a_document_forgets_the_client_that_was_silent_longest
            a_clock_counts_only_the_next_event
            a_clock_outlives_its_manager
            a_written_clock_never_goes_back
        );
    };
    (@each $attributes:tt $make:path: $($law:ident)*) => {
        $($crate::conformance_tests!(@one $attributes $make: $law);)*
    };
    (@one [$(#[$attribute:meta])*] $make:path: $law:ident) => {
            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                let (stores, _keep) = $make().await;
                $crate::conformance::$law(stores).await;
            }
    };
}

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

fn vector(entries: &[(&str, u64)]) -> ClientVector {
    entries.iter().map(|(name, sequence)| (client(name), *sequence)).collect()
}

/// Writes a document once more, as the `sequence`th write of a client; creates it if it is absent.
async fn write(storage: &dyn Storage, document: &str, name: &str, sequence: u64) {
    let mut options = EditOptions::by(client(name));
    options.producer.sequence = Some(sequence);
    let body = json!({"by": name, "n": sequence});
    let Value::Object(body) = body else { unreachable!("it is an object") };
    if storage.find_one(&id(document)).await.unwrap().is_none() {
        storage.find_one_and_upsert(&id(document), body, options).await.unwrap();
        return;
    }
    let edit = |now: &mut Body| {
        now.clone_from(&body);
        Ok::<_, std::convert::Infallible>(())
    };
    storage.edit(&id(document), edit, options).await.unwrap();
}

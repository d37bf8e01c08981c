//! The laws of a storage, as tests that every implementation runs.
//!
//! `conformance_tests!(make)` makes one test per law; `make` is an async function that gives a fresh, empty
//! [`Store`] and whatever has to live as long as it (a temporary folder, a server).

mod changes;
mod indexes;
mod options;
mod producers;
mod queries;
mod transactions;
mod versions;
mod watching;

use std::{sync::Arc, time::Duration};

use crdt_core::ClientId;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    Body, Change, Document, DocumentId, EditOptions, Edited, Storage, StorageExt, StorageOptions, Store,
    Update, Upserted, Watch, WatchEvent, query::FieldPath,
};

pub use self::{
    changes::*, indexes::*, options::*, producers::*, queries::*, transactions::*, versions::*, watching::*,
};

/// Makes one test of each law: `conformance_tests!(make)`, or `conformance_tests!(#[ignore = "needs …"] make)`, see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! conformance_tests {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::conformance_tests!(@each [$(#[$attribute])*] $make:
            a_document_is_created_once
            an_upsert_of_an_existing_document_is_no_create
            an_edit_makes_the_next_version
            an_edit_that_changes_nothing_writes_nothing
            an_error_of_the_edit_is_returned_and_nothing_is_written
            an_expected_version_is_compared_at_once
            a_delete_of_an_absent_document_says_so
            a_document_created_anew_continues_its_versions
            a_body_that_can_not_be_kept_is_refused
            list_pages_in_the_order_of_ids
            deleted_documents_are_listed_while_changes_of_theirs_are_left
            concurrent_edits_of_one_document_are_all_kept
            two_hundred_tasks_that_compare_and_swap_lose_nothing
            collections_are_apart_but_share_positions
            a_closed_handle_refuses_everything
            find_many_pages_in_order
            elements_are_found_and_pulled_by_their_own_ids
            update_one_applies_operators_as_one_change
            sections_of_one_document_are_edited_apart
            version_and_change_agree
            numbers_come_back_to_the_last_bit
            changes_are_paged_without_a_gap
            a_page_of_changes_holds_so_many_bytes
            a_version_that_was_seen_has_its_change
            replaying_the_changes_gives_the_document
            removed_changes_are_told_not_hidden
            timestamps_never_go_back
            a_repeated_write_gets_the_first_answer
            a_write_repeated_at_once_gets_the_first_answer
            a_repeat_of_a_write_without_effect_has_no_effect
            a_gap_in_a_producers_sequence_is_refused
            a_refused_write_uses_no_sequence
            writes_of_an_uncounted_producer_are_numbered
            producers_lists_the_last_sequence_of_each
            answers_outlive_a_delete
            a_watch_from_the_beginning_sees_every_change_once
            a_watch_from_now_sees_only_what_follows
            a_watch_shows_only_its_collection_and_documents
            a_watch_goes_from_history_to_live_without_a_gap_under_writers
            a_slow_watcher_misses_nothing
            a_watch_tells_how_far_it_has_come
            a_watch_behind_removed_changes_is_told
            a_watch_from_another_life_of_the_store_is_told
            a_watch_ends_when_its_storage_is_closed
            a_transaction_changes_several_documents_as_one
            a_transaction_that_ends_in_an_error_writes_nothing
            a_repeated_transaction_has_no_effect
            concurrent_transactions_are_as_if_one_after_the_other
            a_transaction_that_always_loses_says_so
            a_transaction_has_room_for_so_many_changes
            a_transaction_has_so_much_time
            a_version_has_the_name_that_was_chosen
            a_section_with_a_version_refuses_only_its_own_writers
            a_collection_that_is_not_watched_says_so
            a_watch_brings_the_document_if_told_to
            a_body_beyond_the_limit_is_refused
            options_that_make_no_sense_are_refused
            a_query_answers_the_same_with_an_index
            an_index_reads_only_what_is_found
            the_plan_is_the_one_that_reads_less
            a_filter_of_ids_reads_only_those
            an_index_is_made_once_and_dropped
            an_index_is_made_while_others_write
            pages_neither_repeat_nor_hide_what_did_not_move
        );
    };
    (@each $attributes:tt $make:path: $($law:ident)*) => {
        $($crate::conformance_tests!(@one $attributes $make: $law);)*
    };
    (@one [$(#[$attribute:meta])*] $make:path: $law:ident) => {
            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                let (store, _keep) = $make().await;
                let law = $crate::conformance::$law(std::sync::Arc::new(store));
                $crate::conformance::in_time(law).await;
            }
    };
}

/// How long a law waits for something that has to come before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a whole law may take, wherever it waits: a storage that hangs has failed it.
const LAW_TIME_MAX: Duration = Duration::from_secs(120);

#[doc(hidden)]
pub async fn in_time(law: impl Future<Output = ()>) {
    tokio::time::timeout(LAW_TIME_MAX, law).await.expect("the storage stands still");
}

async fn collection(store: &Arc<dyn Store>) -> Arc<dyn Storage> {
    store.collection("games", StorageOptions::default()).await.unwrap()
}

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

fn body(value: Value) -> Body {
    match value {
        Value::Object(body) => body,
        other => panic!("{other} is not an object"),
    }
}

/// Written by a client that does not count.
fn plain() -> EditOptions {
    EditOptions::by(client("server"))
}

/// The `sequence`th write of a client that counts.
fn counted(name: &str, sequence: u64) -> EditOptions {
    let mut options = EditOptions::by(client(name));
    options.producer.sequence = Some(sequence);
    options
}

async fn create(storage: &Arc<dyn Storage>, name: &str, value: Value) -> Document {
    match storage.find_one_and_upsert(&id(name), body(value), plain()).await.unwrap() {
        Upserted::Created { document, .. } => document,
        other => panic!("{name} was there: {other:?}"),
    }
}

/// Sets one field.
async fn set(
    storage: &Arc<dyn Storage>,
    name: &str,
    (field, value): (&str, Value),
    options: EditOptions,
) -> Edited {
    let edit = |body: &mut Body| {
        body.insert(field.to_owned(), value.clone());
        Ok::<_, std::convert::Infallible>(())
    };
    storage.edit(&id(name), edit, options).await.unwrap()
}

/// Counts the field `n` up.
async fn increment(storage: &Arc<dyn Storage>, name: &str) -> Edited {
    let edit = |body: &mut Body| {
        let n = body.get("n").and_then(Value::as_u64).unwrap_or(0);
        body.insert("n".to_owned(), json!(n + 1));
        Ok::<_, std::convert::Infallible>(())
    };
    storage.edit(&id(name), edit, plain()).await.unwrap()
}

async fn next(watch: &mut Watch) -> WatchEvent {
    let event = tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch stays silent");
    event.expect("the watch has ended").unwrap()
}

async fn next_change(watch: &mut Watch) -> Arc<Change> {
    loop {
        match next(watch).await {
            WatchEvent::Change(change) => return change,
            WatchEvent::Reached { .. } => {}
            other => panic!("a change was expected, not {other:?}"),
        }
    }
}

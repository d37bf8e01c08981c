//! Wakes those who wait for events, and never waits for them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crdt_core::ClientId;
use dashmap::DashMap;
use nodestorage::DocumentId;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::event::Event;

/// Hands each new event to the mailboxes that asked for its document or for the whole collection.
///
/// It keeps nothing: the log is the memory. A mailbox that is full loses the event and learns that it lags, and its
/// reader goes on from the log. So a slow reader costs its own queue and delays nobody.
#[derive(Debug, Default)]
pub struct EventBroker {
    // Locked per shard, for the time of a `try_send` to each reader of one document; no await and no other lock inside.
    documents: DashMap<DocumentId, Vec<Arc<Slot>>>,
    collection: RwLock<Vec<Arc<Slot>>>,
    // What each connection shows of itself on a document: by mailbox number, at most one each, the newest last.
    presence: DashMap<DocumentId, Vec<(u64, Arc<Presence>)>>,
    numbers: AtomicU64,
}

/// What somebody shows of itself on a document: a cursor, a name. Never stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Presence {
    /// Which document.
    pub document_id: DocumentId,
    /// Who.
    pub client_id: ClientId,
    /// What; `Null` when it is gone.
    pub data: Value,
}

/// What a mailbox yields.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Delivery {
    /// A new event of a document that was subscribed.
    Document(Event),
    /// A new event of the collection.
    Collection(Event),
    /// What somebody else shows of itself.
    Presence(Arc<Presence>),
    /// Something was lost here: read on from the log.
    Lagged,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    sender: mpsc::Sender<Delivery>,
    lagged: AtomicBool,
}

impl Slot {
    fn offer(&self, delivery: Delivery) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(delivery) {
            self.lag();
        }
    }

    /// Tells the reader to look into the log. The mark gets through where the mailbox is full; a reader that has emptied it
    /// meanwhile, and waits, is woken by the message.
    fn lag(&self) {
        self.lagged.store(true, Ordering::Release);
        let _ = self.sender.try_send(Delivery::Lagged);
    }
}

impl EventBroker {
    /// How much waits for one reader. At the bound the reader is told that it lags and reads from the log.
    pub const MAILBOX_MAX: usize = 256;

    /// How many connections show themselves on a document. One more is refused: each newcomer is told of all of them, and each
    /// reader remembers what it was told.
    pub const PRESENCES_MAX: usize = 1024;

    /// A broker without readers.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Opens a mailbox.
    pub fn mailbox(self: &Arc<Self>) -> Mailbox {
        self.mailbox_of(Self::MAILBOX_MAX)
    }

    /// Opens a mailbox of another size.
    pub fn mailbox_of(self: &Arc<Self>, size: usize) -> Mailbox {
        let (sender, receiver) = mpsc::channel(size.max(1));
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        Mailbox {
            broker: Arc::clone(self),
            slot: Arc::new(Slot { number, sender, lagged: AtomicBool::new(false) }),
            receiver,
            documents: BTreeSet::new(),
            collection: false,
        }
    }

    /// Hands out an event. Events of one document that come in their order are handed out in their order; any other
    /// order costs the readers a look into the log, and nothing else.
    pub fn publish(&self, event: &Event) {
        if let Some(readers) = self.documents.get(event.document_id()) {
            for reader in readers.iter() {
                reader.offer(Delivery::Document(event.clone()));
            }
        }
        for reader in self.collection.read().iter() {
            reader.offer(Delivery::Collection(event.clone()));
        }
    }

    /// Tells every reader to look into the log: something was missed on the way here.
    pub fn lag_all(&self) {
        let lag = |reader: &Arc<Slot>| reader.lag();
        self.documents.iter().for_each(|readers| readers.iter().for_each(lag));
        self.collection.read().iter().for_each(lag);
    }

    /// Tells the readers of a document, and those of the collection, to look into the log: it has something new.
    pub fn lag(&self, document: &DocumentId) {
        let lag = |reader: &Arc<Slot>| reader.lag();
        if let Some(readers) = self.documents.get(document) {
            readers.iter().for_each(lag);
        }
        self.collection.read().iter().for_each(lag);
    }

    /// How many mailboxes read a document.
    pub fn readers(&self, document: &DocumentId) -> usize {
        self.documents.get(document).map_or(0, |readers| readers.len())
    }
}

/// One reader's queue. Dropping it ends its subscriptions.
#[derive(Debug)]
pub struct Mailbox {
    broker: Arc<EventBroker>,
    slot: Arc<Slot>,
    receiver: mpsc::Receiver<Delivery>,
    documents: BTreeSet<DocumentId>,
    collection: bool,
}

impl Mailbox {
    /// Subscribes to a document. Every event that is committed after this returns comes here, or `Lagged` does.
    /// A second time changes nothing.
    pub fn subscribe(&mut self, document: &DocumentId) {
        if self.documents.insert(document.clone()) {
            self.broker.documents.entry(document.clone()).or_default().push(Arc::clone(&self.slot));
        }
    }

    /// Ends the subscription to a document.
    pub fn unsubscribe(&mut self, document: &DocumentId) {
        if self.documents.remove(document) {
            self.show(document, None);
            self.leave(document);
        }
    }

    /// Subscribes to all documents.
    pub fn subscribe_collection(&mut self) {
        if !self.collection {
            self.collection = true;
            self.broker.collection.write().push(Arc::clone(&self.slot));
        }
    }

    /// Ends the subscription to all documents.
    pub fn unsubscribe_collection(&mut self) {
        self.collection = false;
        self.broker.collection.write().retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }

    /// Shows something on a document to its other readers, or takes it back with `None`. Returns whether there was room for it.
    pub fn show(&mut self, document: &DocumentId, presence: Option<(ClientId, Value)>) -> bool {
        let number = self.slot.number;
        match presence {
            Some((client_id, data)) => {
                let shown = Arc::new(Presence { document_id: document.clone(), client_id, data });
                let mut all = self.broker.presence.entry(document.clone()).or_default();
                all.retain(|(other, _)| *other != number);
                if all.len() >= EventBroker::PRESENCES_MAX {
                    return false;
                }
                all.push((number, Arc::clone(&shown)));
                drop(all);
                self.tell_others(document, |_| Arc::clone(&shown));
            }
            None => {
                let Some(mut all) = self.broker.presence.get_mut(document) else { return true };
                let Some(at) = all.iter().position(|(other, _)| *other == number) else { return true };
                let (_, gone) = all.remove(at);
                // The same client may be here by another connection, as when it came back before its old one was given up:
                // then that is what it shows.
                let others: Vec<_> =
                    all.iter().filter(|(_, other)| other.client_id == gone.client_id).cloned().collect();
                drop(all);
                self.broker.presence.remove_if(document, |_, all| all.is_empty());
                let gone = Arc::new(Presence { data: Value::Null, ..(*gone).clone() });
                self.tell_others(document, |reader| {
                    let left = others.iter().rev().find(|(other, _)| *other != reader);
                    Arc::clone(left.map_or(&gone, |(_, left)| left))
                });
            }
        }
        true
    }

    /// Tells each other reader of a document what is shown to it, by its number.
    fn tell_others(&self, document: &DocumentId, shown: impl Fn(u64) -> Arc<Presence>) {
        if let Some(readers) = self.broker.documents.get(document) {
            for reader in readers.iter().filter(|reader| reader.number != self.slot.number) {
                reader.offer(Delivery::Presence(shown(reader.number)));
            }
        }
    }

    /// What others show on a document now.
    pub fn shown(&self, document: &DocumentId) -> Vec<Arc<Presence>> {
        let all = self.broker.presence.get(document);
        all.map_or_else(Vec::new, |all| {
            all.iter().filter(|(other, _)| *other != self.slot.number).map(|(_, p)| Arc::clone(p)).collect()
        })
    }

    /// Waits for the next thing. Cancel-safe.
    pub async fn recv(&mut self) -> Delivery {
        if self.slot.lagged.swap(false, Ordering::AcqRel) {
            return self.emptied();
        }
        let Some(delivery) = self.receiver.recv().await else {
            unreachable!("the mailbox holds a sender to itself")
        };
        if matches!(delivery, Delivery::Lagged) {
            self.slot.lagged.store(false, Ordering::Release);
            return self.emptied();
        }
        delivery
    }

    /// What waits is in the log as well, and so is what comes while this empties the queue: it was committed before it
    /// was handed out, and the reader looks into the log after this.
    fn emptied(&mut self) -> Delivery {
        while self.receiver.try_recv().is_ok() {}
        Delivery::Lagged
    }

    fn leave(&self, document: &DocumentId) {
        if let Some(mut readers) = self.broker.documents.get_mut(document) {
            readers.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        }
        self.broker.documents.remove_if(document, |_, readers| readers.is_empty());
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        for document in std::mem::take(&mut self.documents) {
            self.show(&document, None);
            self.leave(&document);
        }
        if self.collection {
            self.unsubscribe_collection();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Between "full" and the mark the reader may have taken all there was.
    #[test]
    fn a_reader_that_waits_already_is_woken_when_it_lags() {
        let broker = EventBroker::new();
        let mut mailbox = broker.mailbox();
        let slot = Arc::clone(&mailbox.slot);
        let mut waiting = std::pin::pin!(mailbox.recv());
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        slot.lag();
        assert_eq!(waiting.poll(&mut context), Poll::Ready(Delivery::Lagged));
    }

    fn id() -> DocumentId {
        DocumentId::new("go").unwrap()
    }

    fn heard(mailbox: &mut Mailbox) -> Vec<(String, Value)> {
        let next = || mailbox.receiver.try_recv().ok();
        let told = std::iter::from_fn(next).map(|delivery| match delivery {
            Delivery::Presence(shown) => (shown.client_id.to_string(), shown.data.clone()),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    fn named(name: &str) -> ClientId {
        ClientId::new(name).unwrap()
    }

    /// A client that changed networks is back before its old connection is given up.
    #[test]
    fn who_is_there_by_another_connection_is_not_gone() {
        let broker = EventBroker::new();
        let [mut old, mut new, mut other] = [broker.mailbox(), broker.mailbox(), broker.mailbox()];
        for mailbox in [&mut old, &mut new, &mut other] {
            mailbox.subscribe(&id());
        }
        assert!(old.show(&id(), Some((named("ann"), 1.into()))));
        assert!(new.show(&id(), Some((named("ann"), 2.into()))));
        let told = |n: u64| ("ann".to_owned(), Value::from(n));
        let gone = ("ann".to_owned(), Value::Null);
        assert_eq!(heard(&mut other), [told(1), told(2)]);
        assert_eq!(heard(&mut new), [told(1)]);
        drop(old);
        assert_eq!(heard(&mut other), [told(2)], "still there");
        assert_eq!(heard(&mut new), std::slice::from_ref(&gone), "to itself it is gone elsewhere");
        assert_eq!(other.shown(&id()).len(), 1);
        drop(new);
        assert_eq!(heard(&mut other), [gone]);
        assert_eq!(other.shown(&id()), []);
    }

    #[test]
    fn no_more_are_shown_on_a_document_than_may_be() {
        let broker = EventBroker::new();
        let show = |n: usize| {
            let mut mailbox = broker.mailbox_of(1);
            let shown = mailbox.show(&id(), Some((named(&format!("c{n}")), n.into())));
            (mailbox, shown)
        };
        let mut all: Vec<_> = (0..EventBroker::PRESENCES_MAX).map(show).collect();
        assert!(all.iter().all(|(_, shown)| *shown));
        assert!(!show(9999).1);
        // Who is among them shows something else, and who goes makes room.
        assert!(all[7].0.show(&id(), Some((named("c7"), "new".into()))));
        all[3].0.show(&id(), None);
        assert!(show(9999).1);
    }
}

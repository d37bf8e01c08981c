//! What a connection follows: its feeds, and their questions to the service.

use std::{collections::BTreeMap, sync::Arc};

use nodestorage::DocumentId;
use serde_json::Value;

use super::{QUESTIONS_MAX, SUBSCRIPTIONS_MAX, Session, SessionOutput, close};
use crate::{
    access::Right,
    broker::{Delivery, Presence},
    feed::{Feed, FeedInput, FeedItem, FeedOutput, Resume, Scope},
    protocol::{CollectionResume, DocumentResume, Problem, ProblemType, ServerMessage},
};

impl Session {
    pub(super) fn subscribe(
        &mut self,
        documents: BTreeMap<DocumentId, DocumentResume>,
        collection: Option<CollectionResume>,
    ) {
        for (document, resume) in documents {
            if let Err(problem) = self.require(Right::Read, Some(&document)) {
                self.send(ServerMessage::Error { problem, document_id: Some(document) });
                continue;
            }
            let scope = Scope::Document(document.clone());
            let followed = self.feeds.keys().filter(|scope| **scope != Scope::Collection).count();
            if followed >= SUBSCRIPTIONS_MAX && !self.feeds.contains_key(&scope) {
                let detail = format!("at most {SUBSCRIPTIONS_MAX} documents can be followed on a connection");
                let problem = Problem::new(ProblemType::TooMany, detail).with("limit", SUBSCRIPTIONS_MAX);
                self.send(ServerMessage::Error { problem, document_id: Some(document) });
                continue;
            }
            self.follow(scope, resume.into());
            // Whoever subscribes is told of all, also for the second time.
            self.told.remove(&document);
            self.outputs.push_back(SessionOutput::Greet(document));
        }
        if let Some(collection) = collection {
            if let Err(problem) = self.require(Right::Read, None) {
                return self.send(ServerMessage::Error { problem, document_id: None });
            }
            self.follow(Scope::Collection, collection.into());
        }
    }

    /// Follows from anew, also what was followed before.
    fn follow(&mut self, scope: Scope, resume: Resume) {
        let vector_bytes = match &resume {
            Resume::Vector(vector) => vector.iter().map(|(client, _)| client.as_str().len() + 8).sum(),
            Resume::Latest | Resume::After(_) | Resume::AfterEvent { .. } => 0,
        };
        self.feeds_made += 1;
        let number = self.feeds_made;
        if let Some((old, _)) = self.feeds.insert(scope.clone(), (number, Feed::new(scope.clone(), resume))) {
            self.forget(old);
        }
        self.scopes.insert(number, scope.clone());
        if vector_bytes > 0 {
            self.vectors.insert(number, vector_bytes);
        }
        self.outputs.push_back(SessionOutput::Subscribe(scope.clone()));
        self.drive(&scope);
    }

    pub(super) fn unsubscribe(&mut self, scope: &Scope) {
        if let Some((number, _)) = self.feeds.remove(scope) {
            self.forget(number);
            self.outputs.push_back(SessionOutput::Unsubscribe(scope.clone()));
        }
        if let Scope::Document(document) = scope {
            self.shows.remove(document);
            self.told.remove(document);
        }
    }

    /// Forgets a feed that is gone, and its questions, which may be as long as a message: so that there are never more than a few
    /// for each subscription.
    fn forget(&mut self, feed: u64) {
        self.scopes.remove(&feed);
        self.vectors.remove(&feed);
        self.questions.retain(|(asks, _)| *asks != feed);
    }

    /// Tells the client what others show on a document, and of whom it was told that shows nothing any more.
    pub(super) fn shown(&mut self, document: &DocumentId, shown: Vec<Arc<Presence>>) {
        if !self.feeds.contains_key(&Scope::Document(document.clone())) {
            return;
        }
        let shown: BTreeMap<_, _> = shown.into_iter().map(|one| (one.client_id.clone(), one)).collect();
        let told = self.told.remove(document).unwrap_or_default();
        let gone = told.values().filter(|one| !shown.contains_key(&one.client_id));
        for gone in gone.map(|one| Presence { data: Value::Null, ..(**one).clone() }) {
            self.send(ServerMessage::Presence(Arc::new(gone)));
        }
        for (client, one) in &shown {
            if told.get(client) != Some(one) {
                self.send(ServerMessage::Presence(Arc::clone(one)));
            }
        }
        if !shown.is_empty() {
            self.told.insert(document.clone(), shown);
        }
    }

    fn tell_presence(&mut self, presence: Arc<Presence>) {
        // The mailbox may hold some of a document that is followed no more, or may not be read any more.
        if !self.feeds.contains_key(&Scope::Document(presence.document_id.clone())) {
            return;
        }
        let told = self.told.entry(presence.document_id.clone()).or_default();
        if presence.data.is_null() {
            told.remove(&presence.client_id);
        } else {
            told.insert(presence.client_id.clone(), Arc::clone(&presence));
        }
        if told.is_empty() {
            self.told.remove(&presence.document_id);
        }
        self.send(ServerMessage::Presence(presence));
    }

    pub(super) fn delivery(&mut self, delivery: Delivery) {
        let (scope, event) = match delivery {
            Delivery::Document(event) => (Scope::Document(event.document_id().clone()), event),
            Delivery::Collection(event) => (Scope::Collection, event),
            Delivery::Presence(presence) => return self.tell_presence(presence),
            Delivery::Lagged => {
                let scopes: Vec<Scope> = self.feeds.keys().cloned().collect();
                for scope in scopes {
                    self.tell(&scope, FeedInput::Lagged);
                    // What others showed may be among what was lost, and is in no log.
                    if let Scope::Document(document) = scope {
                        self.outputs.push_back(SessionOutput::Greet(document));
                    }
                }
                return;
            }
        };
        self.tell(&scope, FeedInput::Event(event));
    }

    pub(super) fn answer(&mut self, feed: u64, answer: Result<FeedInput, Problem>) {
        self.asked -= 1;
        let Some(scope) = self.scopes.get(&feed).cloned() else { return };
        match answer {
            Ok(input) => self.tell(&scope, input),
            Err(problem) => {
                let document_id = match &scope {
                    Scope::Document(id) => Some(id.clone()),
                    Scope::Collection => None,
                };
                let ours = problem.status >= 500;
                self.send(ServerMessage::Error { problem, document_id });
                self.unsubscribe(&scope);
                if ours {
                    // The client comes back and resumes; staying would leave it without a feed it believes to have.
                    self.close(close::INTERNAL, "the store could not be read");
                }
            }
        }
    }

    fn tell(&mut self, scope: &Scope, input: FeedInput) {
        if let Some((_, feed)) = self.feeds.get_mut(scope) {
            feed.handle_input(input);
            self.drive(scope);
        }
    }

    /// Passes on what a feed wants.
    fn drive(&mut self, scope: &Scope) {
        let Some((number, feed)) = self.feeds.get_mut(scope) else { return };
        while let Some(output) = feed.poll_output() {
            match output {
                FeedOutput::Item(item) => {
                    if matches!(item, FeedItem::Live { .. } | FeedItem::Snapshot(_)) {
                        // It has let go of the vector that it began with.
                        self.vectors.remove(number);
                    }
                    let message = ServerMessage::Feed { scope: scope.clone(), item };
                    self.outputs.push_back(SessionOutput::Send(message));
                }
                question => self.questions.push_back((*number, question)),
            }
        }
    }

    /// Asks what may be asked now.
    pub(super) fn ask(&mut self) {
        while self.asked < QUESTIONS_MAX && !self.closed {
            let Some((feed, question)) = self.questions.pop_front() else { return };
            if let Some(scope) = self.scopes.get(&feed).cloned() {
                self.asked += 1;
                self.outputs.push_back(SessionOutput::Ask { feed, scope, question });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crdt_core::EncodingFormat;
    use serde_json::json;

    use super::{super::SessionInput, *};

    #[test]
    fn a_feed_that_is_gone_leaves_no_question() {
        let mut session = Session::new(EncodingFormat::Json, None);
        let mut say = |message: Value| {
            session.handle_input(SessionInput::Text(&message.to_string()), std::time::Duration::ZERO, 0);
            while session.poll_output().is_some() {}
            session.questions.len()
        };
        say(json!({"type": "hello", "clientId": "c", "documents": {}}));
        for count in 0..20 {
            let waiting =
                say(json!({"type": "subscribe", "documents": {"go": {"stateVector": {"w": count}}}}));
            assert!(waiting <= 1, "{waiting} questions of one feed");
        }
        assert_eq!(say(json!({"type": "unsubscribe", "documents": ["go"]})), 0);
    }
}

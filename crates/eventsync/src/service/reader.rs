//! One history for one reader in process, and for Server-Sent Events: the driver of one feed.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::SyncService;
use crate::{
    broker::{Delivery, Mailbox},
    feed::{Feed, FeedInput, FeedItem, FeedOutput, Resume, Scope},
    protocol::Problem,
    store::PageLimit,
};

/// How long a reader waits for an event that was announced and is not in the log yet.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// Follows one history from where the reader was, for ever.
pub struct FeedReader {
    service: SyncService,
    mailbox: Mailbox,
    feed: Feed,
    /// What the feed asked for and has no answer to yet.
    wanted: Option<FeedOutput>,
    /// The answer that is on its way. Kept over calls that are given up: who looks every few seconds whether there is something
    /// would never hear of an answer that takes longer.
    under_way: Option<BoxFuture<'static, Result<FeedInput, Problem>>>,
    limit: PageLimit,
}

impl SyncService {
    /// Follows a document or the collection.
    pub fn follow(&self, scope: Scope, resume: Resume, limit: PageLimit) -> FeedReader {
        let mut mailbox = self.broker().mailbox();
        match &scope {
            Scope::Document(id) => mailbox.subscribe(id),
            Scope::Collection => mailbox.subscribe_collection(),
        }
        let (service, feed) = (self.clone(), Feed::new(scope, resume));
        FeedReader { service, mailbox, feed, wanted: None, under_way: None, limit }
    }

    /// Does what a feed asks for. `None` for an item, which is for the reader.
    pub(crate) async fn answer(
        &self,
        scope: &Scope,
        output: FeedOutput,
        limit: PageLimit,
    ) -> Result<FeedInput, Problem> {
        Ok(match output {
            FeedOutput::Locate(resume) => FeedInput::Located(self.locate(scope, &resume).await?),
            FeedOutput::Read { after, patiently } => {
                if patiently {
                    tokio::time::sleep(PATIENCE).await;
                }
                FeedInput::Page(self.page(scope, after, limit).await?)
            }
            FeedOutput::Load => match scope {
                Scope::Document(id) => FeedInput::Loaded(Arc::new(self.latest(id).await?)),
                Scope::Collection => unreachable!("the collection has no snapshot"),
            },
            FeedOutput::Item(_) => unreachable!("an item is for the reader"),
        })
    }
}

impl FeedReader {
    /// Waits for what comes next. Cancel-safe: what was under way goes on with the next call. After an error it is begun again.
    pub async fn next(&mut self) -> Result<FeedItem, Problem> {
        loop {
            while let Some(output) = self.wanted.take().or_else(|| self.feed.poll_output()) {
                match output {
                    FeedOutput::Item(item) => return Ok(item),
                    output => {
                        self.wanted = Some(output.clone());
                        let answer = self.under_way.get_or_insert_with(|| {
                            let (service, limit) = (self.service.clone(), self.limit);
                            let scope = self.feed.scope().clone();
                            Box::pin(async move { service.answer(&scope, output, limit).await })
                        });
                        let answer = answer.await;
                        self.under_way = None;
                        let input = answer?;
                        self.wanted = None;
                        self.feed.handle_input(input);
                    }
                }
            }
            self.feed.handle_input(match self.mailbox.recv().await {
                Delivery::Document(event) | Delivery::Collection(event) => FeedInput::Event(event),
                Delivery::Lagged => FeedInput::Lagged,
                Delivery::Presence(_) => continue,
            });
        }
    }

    /// The last number given to the reader.
    pub fn cursor(&self) -> u64 {
        self.feed.cursor()
    }
}

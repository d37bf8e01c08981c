//! One reader's way through one history: from where it was to the end, then live, as one sequence.
//!
//! The hand-over is where such systems lose events or send them twice. Here there is nothing to hand over: the reader
//! has one number, the last it was sent, and takes an event only if it is the next one. A live event that is not the
//! next is a hint to read the log. So no event waits in a second place, and the order in which pages and live events
//! arrive does not matter, as long as the reader was subscribed before its first page was read.

use std::{collections::VecDeque, sync::Arc};

use nodestorage::DocumentId;

use crate::{
    event::{ClientVector, Event},
    snapshot::Snapshot,
    store::EventPage,
};

/// Whose history it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One document's, counted by sequence numbers.
    Document(DocumentId),
    /// The whole collection's, counted by positions.
    Collection,
}

/// Where a reader is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Resume {
    /// Nowhere: a document's reader gets its latest state, the collection's starts now.
    #[default]
    Latest,
    /// It has everything up to this number.
    After(u64),
    /// It has everything up to the event of this number that was made at this time. Another event under the number is
    /// one of another history.
    AfterEvent {
        /// The number.
        cursor: u64,
        /// When that event was made, in milliseconds since 1970 UTC.
        timestamp: u64,
    },
    /// It has what this vector contains (documents only).
    Vector(ClientVector),
}

impl Resume {
    /// After a number, and if it is known, after the event of that number that was made then.
    pub fn after(cursor: u64, timestamp: Option<u64>) -> Self {
        match timestamp {
            Some(timestamp) if cursor > 0 => Self::AfterEvent { cursor, timestamp },
            _ => Self::After(cursor),
        }
    }
}

/// Where a reader starts, after a look at the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// It has everything up to here, and behind that what `skip` contains.
    After {
        /// Up to here.
        cursor: u64,
        /// Not to be sent again.
        skip: Option<ClientVector>,
    },
    /// It needs the document's latest state; why, if it asked for something else.
    Latest(Option<ResyncReason>),
    /// It can't go on from where it is, and goes on from here after reading the documents anew (the collection only).
    Moved {
        /// Why.
        reason: ResyncReason,
        /// From here.
        cursor: u64,
    },
}

/// Why a reader can't go on from where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResyncReason {
    /// The events that it lacks have been compacted away.
    HistoryCompacted,
    /// Its cursor is behind the end of the history, or names another event than the one there: it comes from another
    /// store, or from one that was set back.
    CursorUnknown,
}

/// What a feed is told.
#[derive(Debug)]
pub enum FeedInput {
    /// The answer to [`FeedOutput::Locate`].
    Located(Located),
    /// The answer to [`FeedOutput::Read`].
    Page(EventPage),
    /// The answer to [`FeedOutput::Load`].
    Loaded(Arc<Snapshot>),
    /// Something was committed.
    Event(Event),
    /// Something may have been committed.
    Lagged,
}

/// What a feed wants done. It waits for at most one answer at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedOutput {
    /// Find out where this is, and answer with [`FeedInput::Located`].
    Locate(Resume),
    /// Read the events after a number, and answer with [`FeedInput::Page`].
    Read {
        /// The number.
        after: u64,
        /// A page that should have held an event did not (a log that is read from a copy may be late): wait a moment.
        patiently: bool,
    },
    /// Read the document's latest state, and answer with [`FeedInput::Loaded`].
    Load,
    /// Give this to the reader.
    Item(FeedItem),
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedItem {
    /// The next events, at least one.
    Events(Vec<Event>),
    /// A state that replaces what the reader has.
    Snapshot(Arc<Snapshot>),
    /// The reader has everything up to here, and what follows is live.
    Live {
        /// Up to here.
        cursor: u64,
    },
    /// The reader can't go on from where it was. On a document a snapshot follows; on the collection it reads the
    /// documents anew, and gets the events after `cursor`.
    Resync {
        /// Why.
        reason: ResyncReason,
        /// Where it goes on.
        cursor: u64,
    },
}

/// The machine. It does no IO and keeps no events.
#[derive(Debug)]
pub struct Feed {
    scope: Scope,
    state: State,
    /// The last number given to the reader; everything up to it has been given, or was had before.
    cursor: u64,
    /// When the event of that number was made, where that is known.
    timestamp: Option<u64>,
    /// The highest number known to be committed.
    head: u64,
    /// The log has to be looked at again, whatever the numbers say.
    stale: bool,
    /// What the reader has behind its cursor. Emptied when it is live: later events are news to everybody.
    skip: Option<ClientVector>,
    /// The reader has been told that it is live.
    announced: bool,
    outputs: VecDeque<FeedOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Locating,
    Reading,
    Loading,
    Live,
}

impl Feed {
    /// A reader of a history that is at `resume`. Subscribe it to live events before acting on its first output.
    pub fn new(scope: Scope, resume: Resume) -> Self {
        let timestamp = match &resume {
            Resume::AfterEvent { timestamp, .. } => Some(*timestamp),
            Resume::Latest | Resume::After(_) | Resume::Vector(_) => None,
        };
        let outputs = VecDeque::from([FeedOutput::Locate(resume)]);
        Self {
            scope,
            state: State::Locating,
            cursor: 0,
            timestamp,
            head: 0,
            stale: false,
            skip: None,
            announced: false,
            outputs,
        }
    }

    /// Whose history it is.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The last number that was given to the reader.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether the reader has everything that is known here.
    pub fn is_live(&self) -> bool {
        self.state == State::Live && self.outputs.is_empty()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<FeedOutput> {
        self.outputs.pop_front()
    }

    /// Takes something in. An answer that was not asked for is ignored.
    pub fn handle_input(&mut self, input: FeedInput) {
        match (input, self.state) {
            (FeedInput::Located(located), State::Locating) => self.located(located),
            (FeedInput::Page(page), State::Reading) => self.page(page),
            (FeedInput::Loaded(snapshot), State::Loading) => {
                self.cursor = snapshot.version;
                self.timestamp = snapshot.timestamp;
                self.skip = None;
                self.give(FeedItem::Snapshot(snapshot));
                self.read();
            }
            (FeedInput::Event(event), state) => {
                let number = self.number(&event);
                self.head = self.head.max(number);
                match state {
                    State::Live if number == self.cursor + 1 => {
                        self.cursor = number;
                        self.timestamp = Some(event.timestamp());
                        self.give(FeedItem::Events(vec![event]));
                    }
                    State::Live if number > self.cursor => self.read(),
                    _ => {}
                }
            }
            (FeedInput::Lagged, State::Live) => self.look_again(),
            (FeedInput::Lagged, _) => self.stale = true,
            _ => {}
        }
    }

    fn number(&self, event: &Event) -> u64 {
        match self.scope {
            Scope::Document(_) => event.sequence_num(),
            Scope::Collection => event.position(),
        }
    }

    fn located(&mut self, located: Located) {
        match located {
            Located::After { cursor, skip } => {
                self.cursor = cursor;
                // A reader that looks again keeps what it has behind its cursor.
                self.skip = skip.or(self.skip.take());
                self.read();
            }
            Located::Latest(reason) => {
                if let Some(reason) = reason {
                    self.leave(reason, 0);
                }
                self.load();
            }
            Located::Moved { reason, cursor } => {
                self.leave(reason, cursor);
                self.read();
            }
        }
    }

    fn page(&mut self, page: EventPage) {
        if page.gap {
            let (reason, cursor) = (ResyncReason::HistoryCompacted, page.cursor);
            match self.scope {
                Scope::Document(_) => {
                    self.leave(reason, 0);
                    self.load();
                }
                Scope::Collection => {
                    self.leave(reason, cursor.max(self.cursor));
                    self.read();
                }
            }
            return;
        }
        let empty = page.cursor <= self.cursor;
        let mut events = page.events;
        if !empty {
            let last = events.last().filter(|event| self.number(event) == page.cursor);
            self.timestamp = last.map(Event::timestamp);
        }
        // A page that was read twice, or an answer that overtook another, holds nothing new up to the cursor.
        events.retain(|event| {
            self.number(event) > self.cursor
                && !self.skip.as_ref().is_some_and(|vector| event.is_contained_in(vector))
        });
        self.cursor = self.cursor.max(page.cursor);
        if !events.is_empty() {
            self.give(FeedItem::Events(events));
        }
        if self.stale {
            self.look_again();
        } else if page.more || self.head > self.cursor {
            self.state = State::Reading;
            let patiently = empty && !page.more;
            self.outputs.push_back(FeedOutput::Read { after: self.cursor, patiently });
        } else {
            self.state = State::Live;
            self.skip = None;
            if !std::mem::replace(&mut self.announced, true) {
                self.give(FeedItem::Live { cursor: self.cursor });
            }
        }
    }

    /// Something was missed, and nobody knows what: new events, or that the store was put back to a backup under this reader.
    /// Then the event at its cursor is another one or none, and the numbers alone would let it go on behind what is lost.
    fn look_again(&mut self) {
        self.state = State::Locating;
        self.stale = false;
        self.outputs.push_back(FeedOutput::Locate(Resume::after(self.cursor, self.timestamp)));
    }

    fn read(&mut self) {
        self.state = State::Reading;
        self.outputs.push_back(FeedOutput::Read { after: self.cursor, patiently: false });
    }

    fn load(&mut self) {
        self.state = State::Loading;
        self.outputs.push_back(FeedOutput::Load);
    }

    /// The reader can't go on from where it is, and what is known of the history may be of another one.
    fn leave(&mut self, reason: ResyncReason, cursor: u64) {
        (self.cursor, self.timestamp, self.skip) = (cursor, None, None);
        if reason == ResyncReason::CursorUnknown {
            // Of the other history. What is heard from now on is of this one.
            self.head = 0;
        }
        self.announced = false;
        self.give(FeedItem::Resync { reason, cursor });
    }

    fn give(&mut self, item: FeedItem) {
        self.outputs.push_back(FeedOutput::Item(item));
    }
}

//! What a step did, by id.

use std::time::Duration;

use crate::{
    Timespan, Timestamp,
    document::{Document, Effect, Piece, Place, Removed, Subtree},
    model::Selection,
};

#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The step's own nodes are those from this time on.
    pub(super) start: Timestamp,
    pub(super) actions: Vec<Action>,
    pub(super) bytes: usize,
    pub(super) selections: Vec<Selection>,
    pub(super) last_at: Option<Duration>,
    /// Whether nothing more can become part of it.
    pub(super) sealed: bool,
}

/// What an edit did.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Held { container: Timestamp, place: Place, was: Option<Subtree>, now: Timestamp },
    Inserted { node: Timestamp, ids: Timespan },
    Deleted { node: Timestamp, ids: Timespan, stood: Stood, removed: Removed },
}

/// Where elements stood that were deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stood {
    /// How many visible elements were in front.
    pub(super) position: u32,
    /// The one in front of them. It can have been deleted with them: then it comes back first.
    pub(super) left: Option<Timestamp>,
    /// The next one that stayed.
    pub(super) right: Option<Timestamp>,
}

impl Stood {
    /// Where pieces stood that were deleted together, which are the last ones first.
    fn of(document: &Document, node: Timestamp, pieces: &[(Piece, Removed)]) -> Vec<Self> {
        let mut gone = 0;
        let mut before: Option<Piece> = None;
        let stood = pieces.iter().rev().map(|&(piece, _)| {
            let now = (piece.position - gone) as usize;
            let left = match before.filter(|before| before.position + before.units == piece.position) {
                Some(before) => Some(before.last()),
                None => now.checked_sub(1).and_then(|left| document.element_id(node, left)),
            };
            gone += piece.units;
            before = Some(piece);
            Self { position: piece.position, left, right: document.element_id(node, now) }
        });
        let mut stood: Vec<Self> = stood.collect();
        stood.reverse();
        stood
    }
}

impl Step {
    /// Notes what an operation did.
    pub(super) fn record(&mut self, document: &Document, effect: Effect) {
        // What is inside of something new goes and comes with it.
        let start = self.start;
        let is_new = |node: Timestamp| node.sid == start.sid && node.time >= start.time;
        match effect {
            Effect::Held { container, place, was, now } if !is_new(container) => {
                let was = was.map(|(_, was)| was);
                self.bytes += was.as_ref().map_or(0, Subtree::size_bytes);
                self.actions.push(Action::Held { container, place, was, now });
            }
            Effect::Inserted { node, ids, .. } if !is_new(node) => match self.actions.last_mut() {
                Some(Action::Inserted { node: last_node, ids: last })
                    if *last_node == node && last.start.tick(last.span) == ids.start =>
                {
                    last.span += ids.span;
                }
                _ => self.actions.push(Action::Inserted { node, ids }),
            },
            Effect::Deleted { node, pieces } if !is_new(node) => {
                let stood = Stood::of(document, node, &pieces);
                for ((piece, removed), stood) in pieces.into_iter().zip(stood) {
                    self.bytes += match &removed {
                        Removed::Text(text) => text.as_bytes().len(),
                        Removed::Bytes(bytes) => bytes.len(),
                        Removed::Nodes(nodes) => nodes.iter().map(Subtree::size_bytes).sum(),
                    };
                    let ids = Timespan { start: piece.id, span: piece.units.into() };
                    self.actions.push(Action::Deleted { node, ids, stood, removed });
                }
            }
            _ => {}
        }
        self.bytes += size_of::<Action>();
    }
}

//! Telling all who watch a model what happens to its document.

use super::{Origin, change::Watch, undo::Undo};
use crate::{
    Timestamp,
    document::{Document, Effect, Observer},
};

/// All who watch a model.
pub(super) struct Sinks<'m> {
    pub(super) watch: Option<&'m mut Watch>,
    pub(super) undo: Option<(&'m mut Undo, Origin)>,
}

impl Sinks<'_> {
    pub(super) fn begin(&mut self, doc: &Document, origin: Origin, start: Timestamp, end: Option<u64>) {
        if let Some(watch) = &mut self.watch {
            watch.begin(doc, origin, start, end);
        }
        if let Some((undo, _)) = &mut self.undo {
            undo.begin(start);
        }
    }

    pub(super) fn close(&mut self, doc: &Document) {
        if let Some(watch) = &mut self.watch {
            watch.close(doc);
        }
    }
}

impl Observer for Sinks<'_> {
    fn effect(&mut self, document: &Document, id: Timestamp, effect: Effect) {
        if let Some(watch) = &mut self.watch {
            watch.effect(document, id, &effect);
        }
        if let Some((undo, origin)) = &mut self.undo {
            undo.record(*origin, document, effect);
        }
    }
}

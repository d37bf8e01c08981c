//! A document, and what it was last written as.
//!
//! A server that brings one newcomer after another up to date sends the same bytes until somebody edits. They are kept
//! here, around the document: whoever is to change it has to come through, and thereby gives them up. So nobody who edits
//! has to think of them, and none that are out of date can be had.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
};

use crate::{Document, document::Applied};

/// The document of a model. Reading goes through to it; whoever may change it gives up the bytes first.
#[derive(Debug, Clone)]
pub(super) struct Written {
    document: Document,
    /// The document in json-joy's binary form, if somebody asked since it was changed last.
    bytes: OnceLock<Arc<[u8]>>,
}

impl Written {
    pub(super) const fn new(document: Document) -> Self {
        Self { document, bytes: OnceLock::new() }
    }

    #[inline(always)]
    pub(super) const fn document(&self) -> &Document {
        &self.document
    }

    pub(super) fn into_document(self) -> Document {
        self.document
    }

    /// The bytes, written if there are none.
    pub(super) fn bytes(&self) -> Arc<[u8]> {
        Arc::clone(self.bytes.get_or_init(|| self.document.to_binary().into()))
    }

    pub(super) fn give_up(&mut self) {
        self.bytes = OnceLock::new();
    }

    /// A copy of the document, which shares its memory until either is edited. Sharing changes nothing that is written.
    pub(super) fn share(&mut self) -> Document {
        self.document.share();
        self.document.clone()
    }

    /// Takes in what others did. Only what was merged is a change: one that sends again what is known, or too early, costs
    /// nobody the bytes. (If it panics, they are gone.)
    #[inline]
    pub(super) fn apply<E>(
        &mut self,
        apply: impl FnOnce(&mut Document) -> Result<Applied, E>,
    ) -> Result<Applied, E> {
        let bytes = self.bytes.take();
        let applied = apply(&mut self.document);
        if let Some(bytes) = bytes
            && !matches!(applied, Ok(Applied::Merged))
        {
            self.bytes = bytes.into();
        }
        applied
    }
}

impl Deref for Written {
    type Target = Document;

    #[inline(always)]
    fn deref(&self) -> &Document {
        &self.document
    }
}

impl DerefMut for Written {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Document {
        if self.bytes.get().is_some() {
            self.give_up();
        }
        &mut self.document
    }
}

//! Everything that must hold of a document, checked.

use std::collections::HashMap;

use super::{
    Document,
    node::{Form, NIL},
};

impl Document {
    /// Checks all invariants, for tests and after a crash; says what is wrong. Takes time as long as the document.
    ///
    /// # Errors
    /// A description of the first thing that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let store = &self.store;
        let mut refs: HashMap<u32, usize> = HashMap::new();
        let (mut span, mut free) = (0, 0);
        if store.root != NIL {
            *refs.entry(store.root).or_default() += 1;
        }
        for node in 0..store.nodes.len() as u32 {
            let (at, form) = (store.node(node), store.form(node));
            if form == Form::Free {
                free += 1;
                continue;
            }
            let indexed = store.find_here(at.id());
            if (indexed == Some(node)) == at.is_dead() {
                return Err(format!(
                    "node {} is dead or in the index, not one of them",
                    store.timestamp(at.id())
                ));
            }
            if at.is_dead() && at.refs() == 0 {
                return Err(format!("nothing refers to the dead node {}", store.timestamp(at.id())));
            }
            let seen =
                at.id().session == store.sessions.own || store.sessions.seen(at.id().session).is_some();
            if at.id().time >= self.time || !seen {
                return Err(format!("node {} is above the clock", store.timestamp(at.id())));
            }
            store.for_each_child(node, |child| *refs.entry(child).or_default() += 1);
            if matches!(form, Form::Str | Form::Bin | Form::Arr) {
                let sequence = store.sequence(node);
                span += u64::from(sequence.span());
                sequence.check().map_err(|what| format!("in {}: {what}", store.timestamp(at.id())))?;
            }
        }
        for node in 0..store.nodes.len() as u32 {
            let counted = refs.get(&node).copied().unwrap_or(0).min(usize::from(u8::MAX));
            let at = store.node(node);
            if at.form() == Form::Free && counted > 0 {
                return Err(format!("{counted} references to place {node}, which is free for another node"));
            }
            // A full count stays full.
            if at.refs() != u8::MAX && usize::from(at.refs()) != counted {
                return Err(format!(
                    "{} references to {}, counted {}",
                    counted,
                    store.timestamp(at.id()),
                    at.refs()
                ));
            }
        }
        if span != store.span {
            return Err(format!("{span} elements, counted {}", store.span));
        }
        self.check_typing()?;
        if free != store.free_len() {
            return Err(format!("{free} places are free, {} known", store.free_len()));
        }
        Ok(())
    }
}

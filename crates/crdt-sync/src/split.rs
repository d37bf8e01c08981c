//! An edit that is larger than a patch may be becomes several patches.

use crdt_core::{Patch, PatchBuilder, Timestamp, patch::Op};

use crate::PatchRecord;

/// From where on a patch is split: what a record may hold, less some room for the remark that says what its author had seen.
pub(crate) const LEN_BYTES_MAX: usize = PatchRecord::PATCH_BYTES_MAX - (64 << 10);
/// About how large its parts become.
const PART_BYTES: usize = 1 << 20;

/// An operation that is larger than a patch may be, and that nothing can be made smaller of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsplittable {
    pub(crate) id: Timestamp,
    pub(crate) len_bytes: usize,
}

/// Splits a patch that is too large between its operations, and insertions of text and bytes within: a text typed in two
/// pieces has the same ids as one that was typed in one. Applied one after the other the parts do what the patch does.
///
/// They are no unit any more: a replica can come to have the first and not yet the others. Each is one that it could have
/// seen, had the author made it bit by bit.
pub(crate) fn split(patch: Patch) -> Result<Vec<Patch>, Unsplittable> {
    if patch.as_bytes().len() <= LEN_BYTES_MAX {
        return Ok(vec![patch]);
    }
    let (sid, start) = (patch.id().sid, patch.id().time);
    let mut parts = Parts { open: PatchBuilder::new(sid, start), len_bytes: 0, done: Vec::new() };
    for (id, op) in patch.ops() {
        match op {
            Op::InsStr { obj, after, text, .. } => {
                let (mut rest, mut after) = (text.as_bytes(), after);
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(whole_characters(rest, parts.room()));
                    // Cut between characters, each piece is text.
                    let piece = crdt_core::Wtf8::new(piece)
                        .map_err(|_| Unsplittable { id, len_bytes: rest.len() })?;
                    let first = parts.add(piece.as_bytes().len()).ins_str(obj, after, piece);
                    after = Timestamp::new(sid, first.time + piece.units() as u64 - 1);
                    rest = more;
                }
            }
            Op::InsBin { obj, after, bytes } => {
                let (mut rest, mut after) = (bytes, after);
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(rest.len().min(parts.room()));
                    let first = parts.add(piece.len()).ins_bin(obj, after, piece);
                    after = Timestamp::new(sid, first.time + piece.len() as u64 - 1);
                    rest = more;
                }
            }
            op => {
                let mut alone = PatchBuilder::new(sid, id.time);
                alone.push(&op);
                let len_bytes = alone.finish().map_or(0, |patch| patch.as_bytes().len());
                if len_bytes > LEN_BYTES_MAX {
                    return Err(Unsplittable { id, len_bytes });
                }
                parts.add(len_bytes).push(&op);
            }
        }
    }
    let mut done = parts.finish();
    if let Some(meta) = patch.meta() {
        let meta = meta.to_value();
        done.iter_mut().for_each(|part| *part = part.with_meta(&meta));
    }
    Ok(done)
}

struct Parts {
    open: PatchBuilder,
    len_bytes: usize,
    done: Vec<Patch>,
}

impl Parts {
    /// What a piece may take that goes into the open part, or into the next one if this is nearly full.
    const fn room(&self) -> usize {
        let left = PART_BYTES.saturating_sub(self.len_bytes);
        if left < PART_BYTES / 16 { PART_BYTES } else { left }
    }

    /// The part that takes so many bytes more.
    fn add(&mut self, len_bytes: usize) -> &mut PatchBuilder {
        if self.len_bytes > 0 && self.len_bytes + len_bytes > PART_BYTES {
            self.done.extend(self.open.take());
            self.len_bytes = 0;
        }
        self.len_bytes += len_bytes;
        &mut self.open
    }

    fn finish(mut self) -> Vec<Patch> {
        self.done.extend(self.open.finish());
        self.done
    }
}

/// The longest beginning of at most `max` bytes that ends between two characters, and of one character at least.
fn whole_characters(text: &[u8], max: usize) -> usize {
    let begins = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
    let before = (1..=max.min(text.len())).rev().find(begins);
    before.or_else(|| (max..=text.len()).find(begins)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use crdt_core::{Document, Model, SessionId, Value};

    use super::*;

    fn model() -> Model {
        Model::new(SessionId::new(70_001).unwrap())
    }

    /// The parts follow each other without a gap, are small, and come to the same document.
    fn same_in_parts(model: &mut Model) -> usize {
        let whole = model.flush().unwrap();
        let parts = split(whole.clone()).unwrap();
        let mut next = whole.id();
        let mut document = Document::new(SessionId::new(70_002).unwrap());
        for part in &parts {
            assert_eq!(part.id(), next);
            assert!(part.as_bytes().len() <= LEN_BYTES_MAX, "{}", part.as_bytes().len());
            assert_eq!(part.meta().map(|m| m.to_value()), whole.meta().map(|m| m.to_value()));
            next.time = part.next_time();
            assert_eq!(document.apply(part), Ok(crdt_core::Applied::Merged));
        }
        assert_eq!(next.time, whole.next_time());
        let mut at_once = Document::new(SessionId::new(70_002).unwrap());
        assert_eq!(at_once.apply(&whole), Ok(crdt_core::Applied::Merged));
        assert!(document.view() == at_once.view());
        assert_eq!(document.to_binary(), at_once.to_binary());
        parts.len()
    }

    #[test]
    fn text_and_bytes_are_split_between_characters() {
        for character in ["x", "é", "€", "𝄞"] {
            let mut model = model();
            model.api().root(character.repeat((5 << 20) / character.len()).as_str()).unwrap();
            assert!(same_in_parts(&mut model) >= 5);
        }
        let mut bytes = model();
        bytes.api().root(Value::from(vec![7_u8; 9 << 20])).unwrap();
        assert!(same_in_parts(&mut bytes) >= 9);
    }

    #[test]
    fn many_operations_are_split_between_them() {
        let mut model = model();
        let list: Vec<Value> = (0..60_000).map(|n| Value::from(format!("{n:0>80}").as_str())).collect();
        model.api().root(Value::from_iter(list)).unwrap();
        assert!(same_in_parts(&mut model) > 4);
    }

    #[test]
    fn a_small_patch_stays_as_it_is_and_one_operation_that_is_too_large_is_named() {
        let mut small = model();
        small.api().root("small").unwrap();
        let patch = small.flush().unwrap();
        assert_eq!(split(patch.clone()), Ok(vec![patch]));

        let mut large = model();
        large.api().root(Value::from(&serde_json::json!({}))).unwrap();
        let keys: Vec<String> = (0..40).map(|n| format!("{n}{}", "k".repeat(128 << 10))).collect();
        large.api().obj("").unwrap().set(keys.iter().map(|key| (key.as_str(), 1))).unwrap();
        let refused = split(large.flush().unwrap()).unwrap_err();
        assert!(refused.len_bytes > 5 << 20, "{refused:?}");
    }
}

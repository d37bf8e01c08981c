//! The rules of a sequence: where a run goes, what becomes of what is deleted, when chunks split and join.

use super::{
    Killed, Sids, Spot,
    chunk::{Chunk, Id, Span},
    runs::{At, Runs},
};

/// What one step of a deletion did.
pub(super) enum Step {
    Killed(Killed),
    /// There is nothing to delete before this time.
    Skipped(u64),
    Done,
}

pub(super) fn place<R: Runs>(
    runs: &mut R,
    after: Option<Id>,
    id: Id,
    is_new: bool,
    sids: &impl Sids,
) -> Option<Spot> {
    let Some(after) = after else {
        // The chunks that stand before it are larger siblings and what hangs below them.
        let left = if is_new { None } else { skip_larger(runs, None, id, sids) };
        return Some(Spot { left, join: false });
    };
    let at = runs.find(after)?;
    let chunk = runs.get(at);
    let taken = (after.time - chunk.time) as u32 + 1;
    if taken < chunk.span.len() {
        if !is_new && sids.after(after.tick(1), id) {
            // The rest of the chunk is larger, and so are its ids, each more than the one before.
            let left = skip_larger(runs, Some(at), id, sids);
            return Some(Spot { left, join: false });
        }
        split(runs, at, taken);
        let at = runs.find(after)?;
        return Some(Spot { left: Some(at), join: false });
    }
    let left = if is_new { Some(at) } else { skip_larger(runs, Some(at), id, sids) };
    let join =
        left == Some(at) && !chunk.span.is_dead() && after.session == id.session && after.time + 1 == id.time;
    Some(Spot { left, join })
}

/// So many larger chunks are passed one by one.
const PASSED_MAX: usize = 128;

/// The last of the chunks after `left` that are larger than an id, or `left`.
///
/// Only first ids are compared: the ids in a chunk grow.
fn skip_larger<R: Runs>(runs: &mut R, left: Option<At>, id: Id, sids: &impl Sids) -> Option<At> {
    let (mut left, mut passed) = (left, 0);
    loop {
        let next = match left {
            Some(at) => runs.next(at),
            None => runs.first(),
        };
        let Some(at) = next.filter(|&at| sids.after(runs.get(at).id(), id)) else { return left };
        passed += 1;
        left = Some(if passed > PASSED_MAX { runs.leap(at, id, sids) } else { at });
    }
}

pub(super) fn place_at<R: Runs>(runs: &mut R, position: u32, id: Id) -> Option<(Option<Id>, Spot)> {
    let Some(before) = position.checked_sub(1) else {
        return Some((None, Spot { left: None, join: false }));
    };
    let (at, offset) = runs.seek(before)?;
    let chunk = runs.get(at);
    let after = chunk.id().tick(u64::from(offset));
    if offset + 1 < chunk.span.len() {
        let at = split(runs, at, offset + 1);
        return Some((Some(after), Spot { left: Some(at), join: false }));
    }
    let join = after.session == id.session && after.time + 1 == id.time;
    Some((Some(after), Spot { left: Some(at), join }))
}

/// Splits a chunk after `len` elements. Says where the left part stands then.
pub(super) fn split<R: Runs>(runs: &mut R, at: At, len: u32) -> At {
    let chunk = runs.get(at);
    let (left, right) = chunk.split(len);
    runs.replace(at, left);
    let right_at = runs.insert_after(Some(at), right);
    if right_at.leaf == at.leaf {
        return at;
    }
    // The leaf was split between the two or before them.
    runs.prev(right_at).unwrap_or(at)
}

/// Makes tombstones of `len` elements of a live chunk from its `from`th on. Tells too where the tombstone stands.
pub(super) fn kill<R: Runs>(runs: &mut R, at: At, from: u32, len: u32) -> (Killed, At) {
    let chunk = runs.get(at);
    let total = chunk.span.len();
    let killed = Killed {
        id: chunk.id().tick(u64::from(from)),
        span: chunk.span.with_len(len).soft(chunk.span.is_soft() && from == 0),
        offset: chunk.offset + from,
    };
    if from + len == total
        && from > 0
        && let Some(tombstone) = kill_suffix(runs, at, chunk, len)
    {
        return (killed, tombstone);
    }
    if from == 0 && len < total {
        // The tombstone on the left takes them over, or they become one of their own.
        let (_, rest) = chunk.split(len);
        if let Some(prev) = runs.prev(at) {
            let before = runs.get(prev);
            if before.span.is_dead() && before.precedes(&chunk) {
                runs.replace(at, rest);
                runs.replace(prev, Chunk { span: Span::dead(before.span.len() + len), ..before });
                return (killed, prev);
            }
        }
    }
    let mut at = at;
    if from + len < total {
        at = split(runs, at, from + len);
    }
    if from > 0 {
        let left = split(runs, at, from);
        at = runs.next(left).unwrap_or(left);
    }
    let mut dead = Chunk { span: Span::dead(len), offset: 0, ..runs.get(at) };
    runs.replace(at, dead);
    if let Some(next) = runs.next(at) {
        let after = runs.get(next);
        if dead.joins(&after) {
            runs.remove(next);
            dead.span = Span::dead(len + after.span.len());
            runs.replace(at, dead);
        }
    }
    if let Some(prev) = runs.prev(at) {
        let before = runs.get(prev);
        if before.joins(&dead) {
            runs.replace(prev, Chunk { span: Span::dead(before.span.len() + dead.span.len()), ..before });
            runs.remove(at);
            at = prev;
        }
    }
    (killed, at)
}

/// Gives the last elements of a live chunk to the tombstone on its right, if the two have consecutive ids.
fn kill_suffix<R: Runs>(runs: &mut R, at: At, chunk: Chunk, len: u32) -> Option<At> {
    let next = runs.next(at)?;
    let after = runs.get(next);
    if !after.span.is_dead() || !chunk.precedes(&after) {
        return None;
    }
    runs.replace(at, Chunk { span: chunk.span.with_len(chunk.span.len() - len), ..chunk });
    let time = after.time - u64::from(len);
    runs.replace(next, Chunk { time, span: Span::dead(after.span.len() + len), ..after });
    Some(next)
}

/// How many tombstones are stepped over beside the cursor, before a search by position is cheaper.
const STEPS_MAX: usize = 8;

/// The chunk that holds `len` visible elements from a position on, and the first one's place in it, if it is the
/// chunk at the cursor (which ends at the position `end`) or the live one behind it.
pub(super) fn beside<R: Runs>(runs: &R, (at, end): (At, u32), position: u32, len: u32) -> Option<(At, u32)> {
    let (mut at, mut units) = (at, runs.get(at).span.weight());
    if position == end {
        (0..STEPS_MAX).find_map(|_| {
            at = runs.next(at)?;
            units = runs.get(at).span.weight();
            (units > 0).then_some(())
        })?;
        return (units >= len).then_some((at, 0));
    }
    if position + len == end { Some((at, units.checked_sub(len)?)) } else { None }
}

/// The live chunk before a tombstone, if it is near.
pub(super) fn live_before<R: Runs>(runs: &R, tombstone: At) -> Option<At> {
    let mut at = tombstone;
    (0..STEPS_MAX).find_map(|_| {
        at = runs.prev(at)?;
        (!runs.get(at).span.is_dead()).then_some(at)
    })
}

/// Deletes visible elements from a position on that stand in one chunk, at most `len`.
pub(super) fn delete_visible<R: Runs>(runs: &mut R, position: u32, len: u32) -> Option<(Killed, At)> {
    let (at, from) = runs.seek(position)?;
    let len = len.min(runs.get(at).span.len() - from);
    Some(kill(runs, at, from, len))
}

/// Deletes the first element of a session's times from `id` to before `end` that exists, and those behind it in its
/// chunk.
pub(super) fn delete_next<R: Runs>(runs: &mut R, id: Id, end: u64) -> Step {
    let Some(at) = runs.find(id) else {
        return match runs.ceiling(id) {
            Some(time) if time < end => Step::Skipped(time),
            _ => Step::Done,
        };
    };
    let chunk = runs.get(at);
    let from = (id.time - chunk.time) as u32;
    let len = u64::from(chunk.span.len() - from).min(end - id.time) as u32;
    if chunk.span.is_dead() {
        return Step::Skipped(id.time + u64::from(len));
    }
    Step::Killed(kill(runs, at, from, len).0)
}

//! Receive buffers that are used again.

use bytes::BytesMut;
use parking_lot::Mutex;

/// What a connection with much to say reads at once.
pub(super) const BUFFER_LEN: usize = 256 << 10;
/// Buffers kept at most, of a whole node; more are given back to the allocator.
const BUFFERS_MAX: usize = 16;

/// Buffers whose connections have gone on to another one. Messages in them may still be read; when the last is gone, a
/// buffer can be filled anew: memory that is in the caches and needs no page faults. They are let go of with each
/// heartbeat, so that a quiet node keeps none.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    retired: Mutex<Vec<BytesMut>>,
}

impl Buffers {
    /// Puts a fresh buffer in the place of one that is too short for `more` bytes; what is unread moves along.
    pub(super) fn exchange(&self, buffer: &mut BytesMut, more: usize) {
        let wanted = buffer.len() + more;
        if buffer.try_reclaim(more) {
            return;
        }
        if wanted > BUFFER_LEN {
            return buffer.reserve(more);
        }
        let mut retired = self.retired.lock();
        let free = retired.iter_mut().position(|old| old.try_reclaim(BUFFER_LEN));
        let mut fresh = match free {
            Some(at) => retired.swap_remove(at),
            None => BytesMut::with_capacity(BUFFER_LEN),
        };
        fresh.extend_from_slice(buffer);
        let mut old = std::mem::replace(buffer, fresh);
        if retired.len() < BUFFERS_MAX {
            old.clear();
            retired.push(old);
        }
    }

    /// Lets go of all.
    pub(super) fn clear(&self) {
        self.retired.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_reads_it_and_never_before() {
        let buffers = Buffers::default();
        let mut buffer = BytesMut::with_capacity(BUFFER_LEN);
        buffer.resize(BUFFER_LEN - 10, 1);
        let held = buffer.split().freeze();
        let first = held.as_ptr();
        buffers.exchange(&mut buffer, 4096);
        assert_ne!(buffer.as_ptr(), first);
        buffer.resize(BUFFER_LEN, 2);
        assert!(held.iter().all(|byte| *byte == 1));
        drop(held);
        let second = buffer.split().freeze();
        buffers.exchange(&mut buffer, 4096);
        assert_eq!(buffer.as_ptr(), first);
        assert_eq!(second[..10], [2; 10]);
    }

    #[test]
    fn no_more_than_the_bound_are_kept() {
        let buffers = Buffers::default();
        let mut held = Vec::new();
        let mut buffer = BytesMut::new();
        for _ in 0..2 * BUFFERS_MAX {
            buffer.resize(BUFFER_LEN, 3);
            held.push(buffer.split().freeze());
            buffers.exchange(&mut buffer, BUFFER_LEN);
        }
        assert_eq!(buffers.retired.lock().len(), BUFFERS_MAX);
        buffers.clear();
        assert!(buffers.retired.lock().is_empty());
    }
}

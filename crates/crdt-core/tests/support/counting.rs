//! An allocator that counts what the thread of a test holds, and how often it asks.
#![expect(unsafe_code, reason = "an allocator that counts can only be written so")]
#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    /// What this thread holds, and the most it held.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
    /// How often it asked for memory.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that ends frees what it held after its counters are gone.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
    if bytes > 0 {
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
    }
}

// SAFETY: all is done by the system's allocator; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What this thread holds.
pub fn holding() -> isize {
    HELD.get().0
}

/// The most bytes that something held on top of what was there.
pub fn most<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = holding();
    HELD.set((before, before));
    let done = run();
    (done, (HELD.get().1 - before).max(0) as usize)
}

/// What something is and the bytes that it holds in the end.
pub fn kept<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = holding();
    let done = run();
    (done, (holding() - before).max(0) as usize)
}

/// How often something asks for memory.
pub fn asks<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = ASKED.get();
    let done = run();
    (done, ASKED.get() - before)
}

//! A global allocator that counts, each thread for itself, so that tests in one program do not disturb each other.

#![expect(
    unsafe_code,
    reason = "a global allocator cannot be written without; it only counts and hands on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What one thread has allocated so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    /// Calls that asked for memory, growth in place included.
    pub(crate) allocations: u64,
    /// Bytes asked for and not given back.
    pub(crate) live_bytes: i64,
}

/// What this thread has allocated so far.
pub(crate) fn tally() -> Tally {
    TALLY.get()
}

thread_local! {
    // Constant and without a destructor, so that reading it never allocates.
    static TALLY: Cell<Tally> = const { Cell::new(Tally { allocations: 0, live_bytes: 0 }) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

// SAFETY: every call is handed on unchanged to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, size(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, size(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -size(layout.size()));
        // SAFETY: the pointer came from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(1, size(new_size) - size(layout.size()));
        // SAFETY: the pointer came from the system's allocator with this layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

fn count(allocations: u64, bytes: i64) {
    let tally = TALLY.get();
    TALLY.set(Tally {
        allocations: tally.allocations + allocations,
        live_bytes: tally.live_bytes + bytes,
    });
}

/// No allocation is larger than half the address space.
fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

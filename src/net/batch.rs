//! What goes in and out of a socket: batches of datagrams in buffers the caller owns, and what became of them.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

/// A datagram to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// A group or a host, of the socket's address family.
    pub to: SocketAddr,
    /// UDP payload.
    pub bytes: &'a [u8],
}

/// What became of one call of [`Socket::send`](super::Socket::send).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "datagrams from `consumed` on have not been tried"]
pub struct Sent {
    /// How many datagrams, from the front, are done with: sent, or refused and counted.
    pub consumed: usize,
    /// How many of those the system took.
    pub sent: usize,
    /// Of those, how many went as part of a train.
    pub in_trains: usize,
    /// Whether the socket gave up sending trains, because the system refused one whose first datagram it took alone.
    pub fell_back: bool,
    /// Whether the call stopped because the send buffer is full; go on when the socket becomes writable.
    pub would_block: bool,
}

/// What became of one call of [`Socket::receive`](super::Socket::receive).
#[derive(Debug, Default)]
#[must_use = "without `would_block` there may be more, and the poll will not say so again"]
pub struct Received {
    /// Datagrams put into the batch.
    pub count: usize,
    /// Of those, how many came as part of a train.
    pub in_trains: usize,
    /// Datagrams longer than a slot: dropped, never handed on shortened.
    pub truncated: u64,
    /// Echoes of earlier sends to ports or hosts that are gone (Windows reports them on receive). Harmless.
    pub resets: u64,
    /// All other errors. Harmless one by one; see [`Received::is_stuck`].
    pub errors: u64,
    /// The newest of `errors`.
    pub last_error: Option<io::Error>,
    /// Whether the socket was emptied. The poll is edge-triggered: while this is false the caller must come back by
    /// itself, for no event will tell.
    pub would_block: bool,
}

impl Received {
    /// Whether the call met nothing but errors, to the bound on them. If turn after turn says so the socket is broken
    /// (its card was removed, say): rejoin, or open another, rather than spin on it.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.count == 0 && self.truncated == 0 && self.errors > 0 && !self.would_block
    }
}

/// Datagrams the system would not send, by kind. Each costs only itself: sending goes on with the next.
#[derive(Debug, Default)]
pub struct SendErrors {
    /// Forbidden, as by a firewall on this host.
    pub refused: u64,
    /// No memory for it in the system. Note that Linux drops most such datagrams without telling.
    pub no_buffers: u64,
    /// Network or host down or out of reach, no such card, own address gone, nobody at that port.
    pub unreachable: u64,
    /// Longer than UDP or the path allows.
    pub too_big: u64,
    /// Everything else, such as an address of the wrong family.
    pub other: u64,
    /// The newest.
    pub last: Option<SendFailure>,
}

/// One datagram the system would not send.
#[derive(Debug)]
pub struct SendFailure {
    /// Where it should have gone.
    pub to: SocketAddr,
    /// Its length.
    pub bytes: usize,
    /// What the system said.
    pub error: io::Error,
}

impl SendErrors {
    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.refused + self.no_buffers + self.unreachable + self.too_big + self.other
    }

    pub(super) fn count(&mut self, datagram: &Outgoing<'_>, error: io::Error) {
        use io::ErrorKind as Kind;
        let counter = match (error.kind(), error.raw_os_error()) {
            (_, Some(codes::NO_BUFFERS)) | (Kind::OutOfMemory, _) => &mut self.no_buffers,
            (_, Some(codes::TOO_BIG)) => &mut self.too_big,
            (_, Some(codes::HOST_DOWN | codes::NO_DEVICE | codes::NO_ADDRESS)) => {
                &mut self.unreachable
            }
            (Kind::PermissionDenied, _) => &mut self.refused,
            (
                Kind::NetworkUnreachable
                | Kind::HostUnreachable
                | Kind::NetworkDown
                | Kind::AddrNotAvailable
                | Kind::ConnectionRefused
                | Kind::ConnectionReset,
                _,
            ) => &mut self.unreachable,
            _ => &mut self.other,
        };
        *counter += 1;
        self.last = Some(SendFailure {
            to: datagram.to,
            bytes: datagram.bytes.len(),
            error,
        });
    }
}

/// Whether a receive error is an echo of an earlier send rather than something about this socket.
pub(super) fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    ) || error.raw_os_error() == Some(codes::NET_RESET)
}

/// Error codes that `io::ErrorKind` has no name for.
#[cfg(unix)]
mod codes {
    pub(super) use libc::{
        EHOSTDOWN as HOST_DOWN, EMSGSIZE as TOO_BIG, ENETRESET as NET_RESET, ENOBUFS as NO_BUFFERS,
        ENODEV as NO_DEVICE, ENXIO as NO_ADDRESS,
    };
}

#[cfg(windows)]
mod codes {
    pub(super) use windows_sys::Win32::Networking::WinSock::{
        WSAEHOSTDOWN as HOST_DOWN, WSAEMSGSIZE as TOO_BIG, WSAENETRESET as NET_RESET,
        WSAENOBUFS as NO_BUFFERS,
    };
    // Windows has no such codes for sockets; values that no call returns.
    pub(super) const NO_DEVICE: i32 = -1;
    pub(super) const NO_ADDRESS: i32 = -2;
}

/// Receive buffers, owned by the caller and used again and again.
///
/// [`Socket::receive`](super::Socket::receive) fills slots behind those already full, so that one batch may gather from
/// several sockets; [`pop`](Self::pop) empties it. A payload is handed out as [`Bytes`] cut from its slot without a
/// copy. When it has been dropped the slot takes its memory back; only a payload still held makes the slot allocate
/// anew. So a flow whose payloads are dropped allocates nothing, and a payload that is kept keeps `slot_bytes` with it:
/// copy what is small and kept long.
///
/// A train is far longer than a slot: what exceeds the slot is received into memory that never leaves the batch, and
/// each datagram is copied from there when it is taken out. Handing out the train itself would let one kept payload keep
/// 64 KiB. The memory behind the slots is 64 KiB each, untouched (and so not resident) until a train comes in at that
/// slot; so 64 slots of 2 KiB are 4 MiB at most, and 128 KiB more for copies.
#[derive(Debug)]
pub struct ReceiveBatch {
    slots: Vec<Slot>,
    slot_bytes: usize,
    /// Where a train goes on behind each slot: as long as all slots' together once a socket receives trains, else empty.
    rests: Box<[u8]>,
    /// What is taken out of `rests` goes into these.
    copies: Copies,
    /// Invariant: `next <= filled <= slots.len()`; both 0 when nothing waits.
    next: usize,
    filled: usize,
    /// Whole datagrams in the slots between.
    waiting: usize,
    allocations: u64,
}

/// What one slot received: a datagram, or a train of them.
///
/// Invariant: `from` is `Some` exactly while something waits: the bytes of `buffer`, and behind them those of the rest
/// between `rest_next` and `rest_end`, are datagrams of `segment` bytes each, of which the last may be shorter.
#[derive(Debug)]
pub(super) struct Slot {
    buffer: BytesMut,
    from: Option<SocketAddr>,
    segment: usize,
    rest_next: usize,
    rest_end: usize,
}

/// Free slots of a batch, for a system call to write to.
#[derive(Debug)]
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "only Linux receives trains")
)]
pub(super) struct Free<'a> {
    pub(super) slots: &'a mut [Slot],
    /// Room in each slot.
    pub(super) slot_bytes: usize,
    /// Whether the socket receives trains. Then there is room behind the slots, `rest_bytes` for each.
    pub(super) for_trains: bool,
    pub(super) rests: &'a mut [u8],
    pub(super) rest_bytes: usize,
}

/// What one system call sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Went {
    /// Datagrams, from the front.
    pub(super) count: usize,
    /// Of those, part of a train.
    pub(super) in_trains: usize,
}

/// What was put into a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled {
    /// Whole datagrams.
    pub(super) whole: usize,
    /// Of those, part of a train.
    pub(super) in_trains: usize,
    /// Datagrams longer than a slot.
    pub(super) truncated: u64,
}

/// What a slot and the rest behind it hold together: at least the longest UDP payload, and so any train.
const TRAIN_ROOM_BYTES: usize = 1 << 16;

impl ReceiveBatch {
    /// `slots` buffers for datagrams of up to `slot_bytes` bytes of UDP payload; longer ones are dropped and counted.
    ///
    /// # Panics
    /// If either is 0.
    #[must_use]
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        assert!(
            slots > 0 && slot_bytes > 0,
            "a receive batch of {slots} slots of {slot_bytes} bytes holds nothing"
        );
        Self {
            slots: (0..slots).map(|_| Slot::new(slot_bytes)).collect(),
            slot_bytes,
            rests: Box::default(),
            copies: Copies::new(slots, slot_bytes),
            next: 0,
            filled: 0,
            waiting: 0,
            allocations: 0,
        }
    }

    /// Takes out the datagram that has waited longest, with its sender's address. Once that has been dropped its memory serves
    /// the next one; what is not taken out stays.
    pub fn pop(&mut self) -> Option<(SocketAddr, Bytes)> {
        let rest_bytes = self.rest_bytes();
        while self.next < self.filled {
            let slot = &mut self.slots[self.next];
            let rest = self.rests.get(self.next * rest_bytes..).unwrap_or_default();
            let popped = slot.pop(rest, self.slot_bytes, &mut self.copies);
            self.next += usize::from(slot.from.is_none());
            if popped.is_some() {
                self.waiting -= 1;
                return popped;
            }
        }
        self.next = 0;
        self.filled = 0;
        None
    }

    /// Datagrams waiting.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting
    }

    /// Whether no datagram waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether it takes no more; [`pop`](Self::pop) it. Either no slot is free, or as many datagrams wait as there
    /// are slots.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting >= self.slots.len()
            || (self.filled == self.slots.len() && self.next < self.filled)
    }

    /// How often a payload had to take new memory because all that was there was still held.
    #[must_use]
    pub const fn allocations(&self) -> u64 {
        self.allocations + self.copies.allocations
    }

    const fn rest_bytes(&self) -> usize {
        TRAIN_ROOM_BYTES.saturating_sub(self.slot_bytes)
    }

    /// Up to `most` free slots, each empty and with room for `slot_bytes`; with room for a train behind them if
    /// `for_trains`.
    pub(super) fn free(&mut self, most: usize, for_trains: bool) -> Free<'_> {
        let rest_bytes = self.rest_bytes();
        if for_trains && self.rests.is_empty() {
            // Zeroed by the system when a page is touched first, so this costs nothing yet.
            self.rests = vec![0; self.slots.len() * rest_bytes].into();
        }
        if self.next == self.filled {
            self.next = 0;
            self.filled = 0;
        }
        let end = if self.waiting < self.slots.len() {
            self.slots.len().min(self.filled.saturating_add(most))
        } else {
            self.filled
        };
        let free = &mut self.slots[self.filled..end];
        for slot in &mut *free {
            self.allocations += u64::from(slot.make_free(self.slot_bytes));
        }
        Free {
            slots: free,
            slot_bytes: self.slot_bytes,
            for_trains,
            rests: if for_trains {
                &mut self.rests[self.filled * rest_bytes..end * rest_bytes]
            } else {
                &mut []
            },
            rest_bytes,
        }
    }

    /// Says that the system has written to the first `count` slots of [`free`](Self::free); returns what they hold.
    pub(super) fn advance(&mut self, count: usize) -> Filled {
        let before = self.filled;
        self.filled += count;
        let mut all = Filled::default();
        for slot in &self.slots[before..self.filled] {
            slot.count(self.slot_bytes, &mut all);
        }
        self.waiting += all.whole;
        all
    }
}

impl Slot {
    fn new(slot_bytes: usize) -> Self {
        Self {
            buffer: BytesMut::with_capacity(slot_bytes),
            from: None,
            segment: 0,
            rest_next: 0,
            rest_end: 0,
        }
    }

    /// Empties it; whether that took new memory.
    fn make_free(&mut self, slot_bytes: usize) -> bool {
        self.from = None;
        self.buffer.clear();
        let is_held = !self.buffer.try_reclaim(slot_bytes);
        if is_held {
            self.buffer = BytesMut::with_capacity(slot_bytes);
        }
        is_held
    }

    /// Where the system may write.
    pub(super) fn room(&mut self, slot_bytes: usize) -> &mut [MaybeUninit<u8>] {
        &mut self.buffer.spare_capacity_mut()[..slot_bytes]
    }

    /// Says that `bytes` have come from `from`, in datagrams of `segment` bytes if it is a train.
    ///
    /// # Safety
    /// So many bytes, but `slot_bytes` at most, have been written to the start of [`room`](Self::room). (Those behind
    /// are in the rest, which is never uninitialised.)
    #[expect(unsafe_code, reason = "the system fills spare capacity")]
    pub(super) unsafe fn fill(
        &mut self,
        from: Option<SocketAddr>,
        bytes: usize,
        segment: Option<usize>,
        slot_bytes: usize,
    ) {
        let head = bytes.min(slot_bytes);
        // SAFETY: as the caller promises; and `set_len` itself checks that it is within capacity.
        unsafe { self.buffer.set_len(head) };
        self.from = from;
        self.segment = segment.filter(|&segment| segment > 0).unwrap_or(bytes);
        self.rest_next = 0;
        self.rest_end = bytes - head;
    }

    fn bytes(&self) -> usize {
        self.buffer.len() + self.rest_end - self.rest_next
    }

    fn count(&self, slot_bytes: usize, all: &mut Filled) {
        if self.from.is_none() {
            all.truncated += 1;
            return;
        }
        let datagrams = self.bytes().div_ceil(self.segment.max(1)).max(1);
        let last = self.bytes() - (datagrams - 1) * self.segment;
        let whole = match () {
            () if self.segment <= slot_bytes => datagrams,
            () if last <= slot_bytes => 1,
            () => 0,
        };
        all.whole += whole;
        all.truncated += (datagrams - whole) as u64;
        all.in_trains += if datagrams > 1 { whole } else { 0 };
    }

    /// Takes out the next datagram, or steps over one that is too long and answers `None`.
    fn pop(
        &mut self,
        rest: &[u8],
        slot_bytes: usize,
        copies: &mut Copies,
    ) -> Option<(SocketAddr, Bytes)> {
        let from = self.from?;
        let bytes = self.segment.min(self.bytes());
        let here = bytes.min(self.buffer.len());
        let there = self.rest_next..self.rest_next + bytes - here;
        self.rest_next = there.end;
        let datagram = if there.is_empty() {
            self.buffer.split_to(here).freeze()
        } else if bytes <= slot_bytes {
            let copy = copies.take(&self.buffer, &rest[there]);
            self.buffer.clear();
            copy
        } else {
            self.buffer.clear();
            Bytes::new()
        };
        if self.bytes() == 0 {
            self.from = None;
        }
        (bytes <= slot_bytes).then_some((from, datagram))
    }
}

/// Buffers for what is copied, as many as there are slots; each is made when it is first needed.
#[derive(Debug)]
struct Copies {
    buffers: Vec<BytesMut>,
    most: usize,
    bytes: usize,
    /// The last one used: still in the processor's cache, and free again if its payload was dropped at once.
    last: usize,
    allocations: u64,
}

impl Copies {
    const fn new(most: usize, bytes: usize) -> Self {
        Self {
            buffers: Vec::new(),
            most,
            bytes,
            last: 0,
            allocations: 0,
        }
    }

    fn take(&mut self, head: &[u8], rest: &[u8]) -> Bytes {
        let buffer = self.free();
        buffer.extend_from_slice(head);
        buffer.extend_from_slice(rest);
        buffer.split().freeze()
    }

    /// An empty buffer: the last one, or the one used longest ago, or new memory in its place.
    fn free(&mut self) -> &mut BytesMut {
        let bytes = self.bytes;
        let is_free = |buffer: &mut BytesMut| {
            buffer.clear();
            buffer.try_reclaim(bytes)
        };
        if !self.buffers.get_mut(self.last).is_some_and(is_free) {
            self.last = (self.last + 1) % self.most;
            if self.buffers.len() < self.most {
                self.last = self.buffers.len();
                self.buffers.push(BytesMut::with_capacity(bytes));
            } else if !is_free(&mut self.buffers[self.last]) {
                self.buffers[self.last] = BytesMut::with_capacity(bytes);
                self.allocations += 1;
            }
        }
        &mut self.buffers[self.last]
    }
}

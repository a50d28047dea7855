//! What goes in and out of a socket: batches of datagrams in buffers the caller owns, and what became of them.

use std::io;
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
    /// Whether the call stopped because the send buffer is full; go on when the socket becomes writable.
    pub would_block: bool,
}

/// What became of one call of [`Socket::receive`](super::Socket::receive).
#[derive(Debug, Default)]
#[must_use = "without `would_block` there may be more, and the poll will not say so again"]
pub struct Received {
    /// Datagrams put into the batch.
    pub count: usize,
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
/// several sockets; [`drain`](Self::drain) empties it. A payload is handed out as [`Bytes`] cut from its slot without a
/// copy. When it has been dropped the slot takes its memory back; only a payload still held makes the slot allocate
/// anew. So a flow whose payloads are dropped allocates nothing, and a payload that is kept keeps `slot_bytes` with it:
/// copy what is small and kept long.
#[derive(Debug)]
pub struct ReceiveBatch {
    slots: Vec<Slot>,
    slot_bytes: usize,
    /// Invariant: `next <= filled <= slots.len()`; both 0 when nothing waits.
    next: usize,
    filled: usize,
    allocations: u64,
}

/// Invariant: `from` is `Some` exactly while a whole datagram waits in `buffer`.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) buffer: BytesMut,
    pub(super) from: Option<SocketAddr>,
}

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
        let slot = || Slot {
            buffer: BytesMut::with_capacity(slot_bytes),
            from: None,
        };
        Self {
            slots: (0..slots).map(|_| slot()).collect(),
            slot_bytes,
            next: 0,
            filled: 0,
            allocations: 0,
        }
    }

    /// Takes the datagrams out in the order they came, each with its sender's address. What the caller does not take
    /// stays for the next call.
    pub fn drain(&mut self) -> impl Iterator<Item = (SocketAddr, Bytes)> + '_ {
        std::iter::from_fn(move || self.pop())
    }

    /// Datagrams waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots[self.next..self.filled]
            .iter()
            .filter(|slot| slot.from.is_some())
            .count()
    }

    /// Whether no datagram waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether no slot is free; [`drain`](Self::drain) it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled == self.slots.len() && self.next < self.filled
    }

    /// How often a slot had to take new memory because its last payload was still held.
    #[must_use]
    pub fn allocations(&self) -> u64 {
        self.allocations
    }

    fn pop(&mut self) -> Option<(SocketAddr, Bytes)> {
        while self.next < self.filled {
            let slot = &mut self.slots[self.next];
            self.next += 1;
            if let Some(from) = slot.from.take() {
                return Some((from, slot.buffer.split().freeze()));
            }
        }
        self.next = 0;
        self.filled = 0;
        None
    }

    /// Up to `most` free slots, each empty and with room for `slot_bytes`, and that number.
    pub(super) fn free(&mut self, most: usize) -> (&mut [Slot], usize) {
        if self.next == self.filled {
            self.next = 0;
            self.filled = 0;
        }
        let end = self.slots.len().min(self.filled.saturating_add(most));
        let free = &mut self.slots[self.filled..end];
        for slot in &mut *free {
            slot.from = None;
            slot.buffer.clear();
            if !slot.buffer.try_reclaim(self.slot_bytes) {
                slot.buffer = BytesMut::with_capacity(self.slot_bytes);
                self.allocations += 1;
            }
        }
        (free, self.slot_bytes)
    }

    /// Says that the system has written to the first `count` slots of [`free`](Self::free); returns how many of them
    /// hold a whole datagram.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        let before = self.filled;
        self.filled += count;
        self.slots[before..self.filled]
            .iter()
            .filter(|slot| slot.from.is_some())
            .count()
    }
}

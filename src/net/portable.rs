//! Systems other than Linux: one datagram a system call. Also built for tests on Linux, so that it is run somewhere.

use std::io;

use mio::net::UdpSocket;
use socket2::{MaybeUninitSlice, SockAddr, SockRef};

use super::batch::{Outgoing, Slot};

/// Most datagrams in one system call.
#[cfg(not(target_os = "linux"))]
pub(super) const CHUNK: usize = 1;

/// Fills the first slot. Returns 1 and that there may be more; an empty socket answers `WouldBlock`. The call runs
/// inside `try_io`, or Windows would never report readiness again.
pub(super) fn receive(
    io: &UdpSocket,
    slots: &mut [Slot],
    slot_bytes: usize,
) -> io::Result<(usize, bool)> {
    let Some(slot) = slots.first_mut() else {
        return Ok((0, false));
    };
    let (bytes, flags, from) = io.try_io(|| {
        let room = &mut slot.buffer.spare_capacity_mut()[..slot_bytes];
        // Of socket2's calls this is the one that tells a shortened datagram, on Windows too (WSAEMSGSIZE).
        SockRef::from(io).recv_from_vectored(&mut [MaybeUninitSlice::new(room)])
    })?;
    if !flags.is_truncated() {
        slot.from = from.as_socket();
        commit(slot, bytes);
    }
    Ok((1, false))
}

#[expect(
    unsafe_code,
    reason = "the one way to say that the system has filled spare capacity"
)]
fn commit(slot: &mut Slot, bytes: usize) {
    // SAFETY: called with what `recv_from_vectored` has just written to the start of the spare capacity of an empty
    // buffer, and `set_len` itself checks that it is within capacity.
    unsafe { slot.buffer.set_len(bytes) };
}

/// Sends the first datagram; returns how many went.
pub(super) fn send(io: &UdpSocket, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    let Some(datagram) = datagrams.first() else {
        return Ok(0);
    };
    io.try_io(|| SockRef::from(io).send_to(datagram.bytes, &SockAddr::from(datagram.to)))?;
    Ok(1)
}

//! One datagram a system call: any system can, and those without better must.

use std::io;

use mio::net::UdpSocket;
use socket2::{MaybeUninitSlice, SockAddr, SockRef};

use super::batch::{Free, Outgoing, Went};

/// Fills the first slot. Returns 1 and that there may be more; an empty socket answers `WouldBlock`. The call runs
/// inside `try_io`, or Windows would never report readiness again.
pub(super) fn receive(io: &UdpSocket, free: Free<'_>) -> io::Result<(usize, bool)> {
    let slot_bytes = free.slot_bytes;
    let Some(slot) = free.slots.first_mut() else {
        return Ok((0, false));
    };
    let (bytes, flags, from) = io.try_io(|| {
        let room = slot.room(slot_bytes);
        // Of socket2's calls this is the one that tells a shortened datagram, on Windows too (WSAEMSGSIZE).
        SockRef::from(io).recv_from_vectored(&mut [MaybeUninitSlice::new(room)])
    })?;
    if !flags.is_truncated() {
        #[expect(
            unsafe_code,
            reason = "the one way to say that the system has filled spare capacity"
        )]
        // SAFETY: `recv_from_vectored` has just written so many bytes to the start of the room.
        unsafe {
            slot.fill(from.as_socket(), bytes, None, slot_bytes);
        };
    }
    Ok((1, false))
}

/// Sends the first datagram.
pub(super) fn send(io: &UdpSocket, datagrams: &[Outgoing<'_>]) -> io::Result<Went> {
    let Some(datagram) = datagrams.first() else {
        return Ok(Went::default());
    };
    io.try_io(|| SockRef::from(io).send_to(datagram.bytes, &SockAddr::from(datagram.to)))?;
    Ok(Went {
        count: 1,
        in_trains: 0,
    })
}

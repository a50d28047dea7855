//! Linux: many datagrams a system call, and sending by interface index.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg, ppoll and ip_mreqn have no safe wrapper among our dependencies"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Events, Poll};

use super::batch::{Outgoing, Slot};

/// Most datagrams in one system call: past 64 the cost of the call itself is no longer seen, and the arrays below stay
/// within some 8 kB of stack.
pub(super) const CHUNK: usize = 64;

/// Fills `slots` from the front. Returns how many were written to, and whether that emptied the socket: fewer than were
/// offered means that the kernel met the end of the queue. (It could also have met an error after some datagrams, but
/// an unconnected socket without `IP_RECVERR` has none pending; and were there one, the next arrival raises a new
/// edge.) So the extra call that would only answer `EAGAIN` is saved at every wake-up.
pub(super) fn receive(
    io: &UdpSocket,
    slots: &mut [Slot],
    slot_bytes: usize,
) -> io::Result<(usize, bool)> {
    let offered = slots.len().min(CHUNK);
    let mut names = [const { MaybeUninit::<Name>::uninit() }; CHUNK];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; CHUNK];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; CHUNK];
    for (i, slot) in slots[..offered].iter_mut().enumerate() {
        let room = &mut slot.buffer.spare_capacity_mut()[..slot_bytes];
        let vector = vectors[i].write(libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: room.len(),
        });
        headers[i].write(header(names[i].write(Name::EMPTY), NAME_BYTES, vector));
    }
    let fd = io.as_raw_fd();
    let filled = io.try_io(|| {
        // SAFETY: the first `offered` headers are initialised; each points to its own name and vector, which outlive
        // the call, and the vector to `slot_bytes` writable bytes. A null timeout is allowed.
        let n = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr().cast(),
                offered_len(offered),
                0,
                ptr::null_mut(),
            )
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    })?;
    for (i, slot) in slots[..filled].iter_mut().enumerate() {
        // SAFETY: initialised above, since `filled <= offered`.
        let (header, name) = unsafe { (headers[i].assume_init_ref(), names[i].assume_init_ref()) };
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0 {
            slot.from = name.decode();
            // SAFETY: the kernel has written `msg_len` bytes to the start of the spare capacity of an empty buffer.
            unsafe { slot.buffer.set_len(header.msg_len as usize) };
        }
    }
    Ok((filled, filled < offered))
}

/// Sends from the front, at most [`CHUNK`]; returns how many went. An error is about the first datagram alone.
pub(super) fn send(io: &UdpSocket, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    let offered = datagrams.len().min(CHUNK);
    let mut names = [const { MaybeUninit::<Name>::uninit() }; CHUNK];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; CHUNK];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; CHUNK];
    for (i, datagram) in datagrams[..offered].iter().enumerate() {
        let (name, name_bytes) = Name::encode(datagram.to);
        let base = datagram.bytes.as_ptr().cast_mut().cast();
        let vector = vectors[i].write(libc::iovec {
            iov_base: base,
            iov_len: datagram.bytes.len(),
        });
        headers[i].write(header(names[i].write(name), name_bytes, vector));
    }
    let fd = io.as_raw_fd();
    io.try_io(|| {
        // SAFETY: the first `offered` headers are initialised; each points to its own name and vector, which outlive
        // the call, and the vector to the datagram's bytes, which sending only reads.
        let n = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr().cast(), offered_len(offered), 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    })
}

/// From here on a millisecond more is no matter, and the extra call is saved.
const PRECISE_BELOW: Duration = Duration::from_millis(100);

/// Waits as `poll` does, but to the microsecond. mio rounds a wait up to whole milliseconds, because `epoll_wait` knows
/// nothing finer; a heartbeat that is due in a quarter of one would be four times late. The queue itself can be waited
/// for, too, and `ppoll` counts in nanoseconds.
pub(super) fn wait(poll: &mut Poll, events: &mut Events, timeout: Duration) -> io::Result<()> {
    if timeout.is_zero() || timeout >= PRECISE_BELOW {
        return poll.poll(events, Some(timeout));
    }
    let mut queue = libc::pollfd {
        fd: poll.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: all-zero bytes are a valid `timespec`. (A literal would not do: some C libraries have padding in it.)
    let mut timespec: libc::timespec = unsafe { mem::zeroed() };
    timespec.tv_nsec = timeout.subsec_nanos().into();
    // SAFETY: one `pollfd` and the `timespec` outlive the call; a null mask leaves the signals as they are.
    let answer = unsafe { libc::ppoll(&raw mut queue, 1, &raw const timespec, ptr::null()) };
    match answer {
        1.. => poll.poll(events, Some(Duration::ZERO)),
        _ => {
            events.clear();
            if answer < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        }
    }
}

/// Makes IPv4 multicast leave by the card with this index. socket2 can only say it by address, and an address does not
/// name one card: two may share it, and a card may lose it.
pub(super) fn set_multicast_if_v4(
    socket: &socket2::Socket,
    index: u32,
    address: Ipv4Addr,
) -> io::Result<()> {
    let request = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        imr_ifindex: libc::c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?,
    };
    let length = socklen::<libc::ip_mreqn>();
    // SAFETY: the pointer and length describe `request`, which outlives the call and is only read.
    let answer = unsafe {
        let value = ptr::from_ref(&request).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            value,
            length,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A socket address of either family, a quarter the size of `sockaddr_storage`.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

const NAME_BYTES: libc::socklen_t = socklen::<Name>();

impl Name {
    // SAFETY: all-zero bytes are a valid value of both plain structures.
    const EMPTY: Self = unsafe { mem::zeroed() };

    fn encode(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut name = Self::EMPTY;
        match address {
            SocketAddr::V4(address) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: AF_INET,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (name, socklen::<libc::sockaddr_in>())
            }
            SocketAddr::V6(address) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: AF_INET6,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
                (name, socklen::<libc::sockaddr_in6>())
            }
        }
    }

    fn decode(&self) -> Option<SocketAddr> {
        // SAFETY: every `Name` is fully initialised (it starts as `EMPTY`), any bytes are valid for both structures,
        // and the family stands at the same place in both.
        let (v4, v6) = unsafe { (self.v4, self.v6) };
        match v4.sin_family {
            AF_INET => {
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            AF_INET6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

fn header(name: &mut Name, name_bytes: libc::socklen_t, vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid `mmsghdr`: null pointers with zero lengths. (A literal would not do: some
    // C libraries have private padding in it.)
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = name_bytes;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "AF_INET is 2 and AF_INET6 is 10"
)]
mod family {
    pub(super) const AF_INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
    pub(super) const AF_INET6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;
}
use family::{AF_INET, AF_INET6};

#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes of address structures are below 200"
)]
const fn socklen<T>() -> libc::socklen_t {
    mem::size_of::<T>() as libc::socklen_t
}

#[expect(clippy::cast_possible_truncation, reason = "at most CHUNK")]
fn offered_len(offered: usize) -> libc::c_uint {
    offered as libc::c_uint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_round_trip() {
        let scoped: SocketAddr = SocketAddrV6::new("fe80::1".parse().unwrap(), 65_535, 0, 7).into();
        for address in [
            "239.255.77.1:7700".parse().unwrap(),
            "[ff15::77:1]:1".parse().unwrap(),
            scoped,
        ] {
            assert_eq!(Name::encode(address).0.decode(), Some(address));
        }
        assert_eq!(Name::EMPTY.decode(), None);
    }
}

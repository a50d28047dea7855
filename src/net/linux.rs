//! Linux: many datagrams a system call, and sending by interface index.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg, epoll_pwait2, ppoll and ip_mreqn have no safe wrapper among our dependencies"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Poll, Token};

use super::batch::{Free, Outgoing, Went};
use super::mode::{self, IoMode, IoModes};
use super::wait::Ready;

/// Most datagrams in one system call: past 64 the cost of the call itself is no longer seen, and the arrays below stay
/// within some 10 kB of stack.
pub(super) const CHUNK: usize = 64;

/// Finds out, by trying, which ways the kernel has for this socket, no better than `wanted`; and readies the socket for
/// them. No datagram is sent or received.
pub(super) fn io_modes(socket: &socket2::Socket, wanted: IoMode) -> IoModes {
    let fd = socket.as_raw_fd();
    let none = ptr::null_mut::<libc::mmsghdr>();
    // SAFETY: with a length of 0 the kernel looks at no header. One that knows the call answers 0.
    let (sends, receives) = unsafe {
        (
            libc::sendmmsg(fd, none, 0, 0),
            libc::recvmmsg(fd, none, 0, 0, ptr::null_mut()),
        )
    };
    let best = |knows_batches: bool, knows_trains: &dyn Fn() -> bool| match wanted {
        IoMode::Plain => IoMode::Plain,
        _ if !knows_batches => IoMode::Plain,
        IoMode::Offload if knows_trains() => IoMode::Offload,
        _ => IoMode::Batch,
    };
    // A size of 0 leaves each message to say its own.
    let cuts = || set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, &0_i32).is_ok();
    let joins = || set_option(fd, libc::SOL_UDP, libc::UDP_GRO, &1_i32).is_ok();
    IoModes {
        send: best(sends == 0, &cuts),
        receive: best(receives == 0, &joins),
    }
}

/// Fills `free` from the front. Returns how many slots were written to, and whether that emptied the socket: fewer than
/// were offered means that the kernel met the end of the queue. (It could also have met an error after some datagrams, but
/// an unconnected socket without `IP_RECVERR` has none pending; and were there one, the next arrival raises a new
/// edge.) So the extra call that would only answer `EAGAIN` is saved at every wake-up.
pub(super) fn receive(io: &UdpSocket, free: Free<'_>) -> io::Result<(usize, bool)> {
    let Free {
        slots,
        slot_bytes,
        rests,
        rest_bytes,
        for_trains,
    } = free;
    let offered = slots.len().min(CHUNK);
    let mut names = [const { MaybeUninit::<Name>::uninit() }; CHUNK];
    let mut vectors = [const { MaybeUninit::<[libc::iovec; 2]>::uninit() }; CHUNK];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; CHUNK];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; CHUNK];
    debug_assert!(!for_trains || offered * rest_bytes <= rests.len());
    let rest = rests.as_mut_ptr();
    for (i, slot) in slots[..offered].iter_mut().enumerate() {
        // What is longer than the slot goes on behind it: only a train does, or what will be thrown away.
        let pair = vectors[i].write([
            vector(slot.room(slot_bytes).as_mut_ptr().cast(), slot_bytes),
            vector(rest.wrapping_add(i * rest_bytes).cast(), rest_bytes),
        ]);
        let vectors = &mut pair[..1 + usize::from(for_trains)];
        let header = headers[i].write(header(names[i].write(Name::EMPTY), NAME_BYTES, vectors));
        if for_trains {
            attach(header, controls[i].write(Control::EMPTY));
        }
    }
    let fd = io.as_raw_fd();
    let filled = io.try_io(|| {
        // SAFETY: the first `offered` headers are initialised; each points to its own name, vectors and control, which
        // outlive the call, and the vectors to `slot_bytes` and, within `rests`, `rest_bytes` writable bytes. A null
        // timeout is allowed.
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
            // SAFETY: initialised above, for every header that has room for one.
            let segment = (header.msg_hdr.msg_controllen > 0)
                .then(|| unsafe { controls[i].assume_init_ref() }.segment())
                .flatten();
            let bytes = header.msg_len as usize;
            // SAFETY: the kernel has written `msg_len` bytes, to the slot's room first.
            unsafe { slot.fill(name.decode(), bytes, segment, slot_bytes) };
        }
    }
    Ok((filled, filled < offered))
}

/// Sends from the front, at most [`CHUNK`] datagrams in trains of at most `train_datagrams`; returns what went.
/// An error is about the first train alone.
pub(super) fn send(
    io: &UdpSocket,
    datagrams: &[Outgoing<'_>],
    train_datagrams: usize,
) -> io::Result<Went> {
    let datagrams = &datagrams[..datagrams.len().min(CHUNK)];
    let mut names = [const { MaybeUninit::<Name>::uninit() }; CHUNK];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; CHUNK];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; CHUNK];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; CHUNK];
    let mut unused = vectors.as_mut_slice();
    let (mut trains, mut next) = (0, 0);
    while next < datagrams.len() {
        let len = mode::train_len(&datagrams[next..], train_datagrams);
        let train = &datagrams[next..next + len];
        let (mine, others) = unused.split_at_mut(len);
        unused = others;
        for (vector, datagram) in mine.iter_mut().zip(train) {
            let base = datagram.bytes.as_ptr().cast_mut().cast();
            vector.write(self::vector(base, datagram.bytes.len()));
        }
        // SAFETY: each was written just now.
        let mine = unsafe { mine.assume_init_mut() };
        let (name, name_bytes) = Name::encode(train[0].to);
        let header = headers[trains].write(header(names[trains].write(name), name_bytes, mine));
        if len > 1 {
            attach(
                header,
                controls[trains].write(Control::cut(train[0].bytes.len())),
            );
        }
        trains += 1;
        next += len;
    }
    let fd = io.as_raw_fd();
    let sent = io.try_io(|| {
        // SAFETY: the first `trains` headers are initialised; each points to its own name, vectors and control, which
        // outlive the call, and the vectors to the datagrams' bytes, which sending only reads.
        let n = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr().cast(), offered_len(trains), 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    })?;
    let mut went = Went::default();
    for _ in 0..sent {
        let len = mode::train_len(&datagrams[went.count..], train_datagrams);
        went.count += len;
        went.in_trains += if len > 1 { len } else { 0 };
    }
    Ok(went)
}

/// Waits for the queue behind a [`Poll`] to the nanosecond, in one call. mio rounds a wait up to whole milliseconds, because
/// `epoll_wait` knows nothing finer; a heartbeat that is due in a quarter of one would be four times late.
#[derive(Debug)]
pub(super) struct Epoll {
    told: Vec<libc::epoll_event>,
    /// Whether the kernel has `epoll_pwait2`: since Linux 5.11, unless a sandbox forbids it.
    is_known: bool,
}

impl Epoll {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            told: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)],
            is_known: true,
        }
    }

    #[cfg(test)]
    pub(super) fn forget_precise_wait(&mut self) {
        self.is_known = false;
    }

    /// Adds to `found` what becomes ready within `timeout`; false when the kernel does not know how to.
    pub(super) fn wait(
        &mut self,
        poll: &Poll,
        timeout: Duration,
        found: &mut Vec<Ready>,
    ) -> io::Result<bool> {
        if !self.is_known {
            return Ok(false);
        }
        let timespec = KernelTimespec::of(timeout);
        let capacity = libc::c_int::try_from(self.told.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `capacity` entries, which `told` has, and reads the `timespec`; both outlive the
        // call. A null mask leaves the signals as they are, and its size is not looked at.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                poll.as_raw_fd(),
                self.told.as_mut_ptr(),
                capacity,
                &raw const timespec,
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            // Sandboxes answer calls that they do not know with either.
            self.is_known = !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM));
            return if self.is_known { Err(error) } else { Ok(false) };
        };
        found.extend(self.told[..count].iter().map(|event| {
            let (events, token) = (event.events, event.u64);
            let has = |bits: libc::c_int| events & bits.cast_unsigned() != 0;
            Ready {
                token: Token(usize::try_from(token).unwrap_or(usize::MAX)),
                is_readable: has(libc::EPOLLIN | libc::EPOLLPRI),
                is_writable: has(libc::EPOLLOUT),
            }
        }));
        Ok(true)
    }
}

/// `struct __kernel_timespec`, which the call takes on every processor: the C library's may have half as many bits.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanos: i64,
}

impl KernelTimespec {
    fn of(duration: Duration) -> Self {
        Self {
            seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            nanos: duration.subsec_nanos().into(),
        }
    }
}

/// From here on a millisecond more is no matter, and the extra call is saved.
const PRECISE_BELOW: Duration = Duration::from_millis(100);

/// What is left to be waited for by mio, once [`is_ready_within`] has answered.
pub(super) fn rest_of(timeout: Duration) -> Duration {
    if timeout < PRECISE_BELOW {
        Duration::ZERO
    } else {
        timeout
    }
}

/// Where [`Epoll::wait`] is not known: waits for the queue itself, which can be waited for like a socket, and `ppoll` counts in
/// nanoseconds. False when nothing has become ready; true at once when `timeout` is long or none at all.
pub(super) fn is_ready_within(poll: &Poll, timeout: Duration) -> io::Result<bool> {
    if timeout.is_zero() || timeout >= PRECISE_BELOW {
        return Ok(true);
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
    match unsafe { libc::ppoll(&raw mut queue, 1, &raw const timespec, ptr::null()) } {
        answer if answer < 0 => Err(io::Error::last_os_error()),
        answer => Ok(answer > 0),
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
    set_option(
        socket.as_raw_fd(),
        libc::IPPROTO_IP,
        libc::IP_MULTICAST_IF,
        &request,
    )
}

/// Sets one option of a socket to a plain value.
fn set_option<T: Copy>(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = socklen::<T>();
    // SAFETY: the pointer and length describe `value`, which outlives the call and is only read.
    let answer = unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), length) };
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

/// A control message with one number: `UDP_SEGMENT` on the way out, where the kernel reads 16 bits of it, `UDP_GRO` on the
/// way in, where it writes 32.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    value: [u8; 8],
}

// SAFETY: `CMSG_LEN` only computes.
const _: () = assert!(
    unsafe { libc::CMSG_LEN(0) } as usize == mem::offset_of!(Control, value),
    "the value stands where the kernel looks for it"
);

impl Control {
    // SAFETY: all-zero bytes are a valid value of plain structures.
    const EMPTY: Self = unsafe { mem::zeroed() };

    /// Asks the kernel to cut the message into datagrams of `segment` bytes.
    fn cut(segment: usize) -> Self {
        let mut control = Self::EMPTY;
        // A train fits in 65,507 bytes, and so does its segment.
        let segment = u16::try_from(segment).unwrap_or(u16::MAX).to_ne_bytes();
        control.header.cmsg_level = libc::SOL_UDP;
        control.header.cmsg_type = libc::UDP_SEGMENT;
        // SAFETY: `CMSG_LEN` only computes.
        control.header.cmsg_len = unsafe { libc::CMSG_LEN(2) } as _;
        control.value[..2].copy_from_slice(&segment);
        control
    }

    /// The size of the datagrams in what was received, where the kernel has joined several.
    fn segment(&self) -> Option<usize> {
        let [a, b, c, d, ..] = self.value;
        let is_it =
            (self.header.cmsg_level, self.header.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO);
        let segment = i32::from_ne_bytes([a, b, c, d]);
        is_it.then(|| usize::try_from(segment).ok()).flatten()
    }
}

fn attach(header: &mut libc::mmsghdr, control: &mut Control) {
    header.msg_hdr.msg_control = ptr::from_mut(control).cast();
    header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
}

fn header(
    name: &mut Name,
    name_bytes: libc::socklen_t,
    vectors: &mut [libc::iovec],
) -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid `mmsghdr`: null pointers with zero lengths. (A literal would not do: some
    // C libraries have private padding in it.)
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = name_bytes;
    header.msg_hdr.msg_iov = vectors.as_mut_ptr();
    header.msg_hdr.msg_iovlen = vectors.len() as _;
    header
}

const fn vector(base: *mut libc::c_void, bytes: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base,
        iov_len: bytes,
    }
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

/// Asks for datagrams without checksums, for which the kernel makes no trains.
#[cfg(test)]
pub(super) fn send_without_checksum(io: &UdpSocket) -> io::Result<()> {
    set_option(io.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, &1_i32)
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

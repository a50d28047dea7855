//! Sockets: joining groups on one card, sending and receiving batches of datagrams without blocking.
//!
//! Three things here are easy to get wrong and silent when they are:
//! - *Which card.* Both joining and sending name the card by index, never by the default route, which a VPN moves.
//! - *Whose datagrams.* On Unix a group socket is bound to the group's own address and has `IP_MULTICAST_ALL` off, so
//!   it hears that group only. Windows cannot bind to a group: there, two groups on one port hear each other, and the
//!   reader must look at what the datagram says.
//! - *Readiness.* The poll is edge-triggered: after an event, receive until [`Received::would_block`].
//!
//! Nothing here reads a clock, logs, or fails on a bad datagram: what is lost is counted.

mod batch;
mod interface;
#[cfg(target_os = "linux")]
mod linux;
mod mode;
mod portable;
#[cfg(test)]
mod tests;
mod wait;
#[cfg(windows)]
mod windows;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, SockRef, Type};

pub use batch::{Outgoing, ReceiveBatch, Received, SendErrors, SendFailure, Sent};
pub use interface::{Interface, InterfaceError, InterfaceKind, InterfaceSpec, choose, interfaces};
pub use mode::{IoMode, IoModes, TRAIN_DATAGRAMS, TRAIN_DATAGRAMS_MAX, UnknownMode};
pub use wait::{Events, Ready, wait};

/// What every socket of a program is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// Routers that multicast may pass, plus one: 0 stays on this host, 1 on the LAN. Unicast keeps the system's own.
    pub ttl: u8,
    /// Differentiated-services code point of what is sent, 0 to 63; `None` leaves the system's. Windows ignores it
    /// unless a group policy allows it.
    pub dscp: Option<u8>,
    /// Receive buffer to ask for, in bytes; 0 leaves the system's. See [`Socket::granted`].
    pub receive_buffer_bytes: usize,
    /// Send buffer to ask for, in bytes; 0 leaves the system's.
    pub send_buffer_bytes: usize,
    /// The best way to send and receive that is tried; what the system lacks is done without.
    /// See [`Socket::io_modes`].
    pub io: IoMode,
    /// Most datagrams sent as one train, where the system takes trains: 1 is none, more than [`TRAIN_DATAGRAMS_MAX`] is
    /// that. See [`TRAIN_DATAGRAMS`].
    pub train_datagrams: usize,
}

/// Buffers the system granted, in bytes of the unit they were asked for in (Linux counts double; that is undone).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// Receive buffer. Less than was asked for means a kernel limit: `net.core.rmem_max` on Linux.
    pub receive_bytes: usize,
    /// Send buffer; `net.core.wmem_max` on Linux.
    pub send_bytes: usize,
}

/// Version of the Internet Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6; such a socket never carries IPv4.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The group's address is a host's.
    #[error(
        "{0} is no multicast address; a group needs one of 224.0.0.0/4 (such as 239.255.77.1) or ff00::/8"
    )]
    NotMulticast(IpAddr),
    /// The card has no address of the family.
    #[error(
        "interface {interface} has no {family} address; give it one or choose another interface"
    )]
    NoAddress {
        /// Name of the card.
        interface: String,
        /// What it lacks.
        family: Family,
    },
    /// The code point does not fit its six bits.
    #[error("dscp is {0}; it must be 0 to 63")]
    Dscp(u8),
    /// The system refused a step; its own words are the `source`.
    #[error("cannot {step} {address} on interface {interface}")]
    System {
        /// The step, such as `join`.
        step: &'static str,
        /// The address the socket was to have.
        address: SocketAddr,
        /// Name of the card.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A non-blocking UDP socket on one card: either joined to one group and receiving only, or a host's own socket, which
/// sends to groups and hosts and receives unicast.
#[derive(Debug)]
pub struct Socket {
    io: mio::net::UdpSocket,
    local: SocketAddr,
    role: Role,
    granted: Buffers,
    modes: IoModes,
    train_datagrams: usize,
    /// What the system is made to say to trains.
    #[cfg(test)]
    refusal: Option<i32>,
}

#[derive(Debug)]
enum Role {
    /// `joined` is the membership to give up: its address and the card it was made on.
    Group {
        group: IpAddr,
        joined: Option<Card>,
    },
    Unicast,
}

/// What joining and sending need to know of an interface.
#[derive(Debug, Clone, Copy)]
struct Card {
    index: u32,
    v4: Ipv4Addr,
}

impl Card {
    fn of(interface: &Interface) -> Self {
        Self {
            index: interface.index,
            v4: interface.v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        }
    }
}

/// Errors one call of [`Socket::receive`] goes through before it returns: Windows may queue an echo for every datagram
/// sent to a host that is gone, and a broken socket answers nothing else for ever.
const MAX_RECEIVE_ERRORS: u64 = 64;

/// Slots offered to the first system call of a receive: one datagram at a time is the commonest case, and making 64
/// slots ready costs it a tenth of the whole call.
const FIRST_CHUNK: usize = 8;

/// Slots offered to each later one; what is left is for the call after it.
const CHUNK: usize = 64;

impl Socket {
    /// Opens a socket that only receives: it hears `group` (address and port) as it arrives on `interface`, and nothing
    /// else except, on Windows, other groups on the same port. Any number of such sockets may be open on one host; all
    /// hear.
    ///
    /// # Errors
    /// [`OpenError`]: a group that is none, a card without such an address, or what the system said.
    pub fn group(
        group: SocketAddr,
        interface: &Interface,
        options: &SocketOptions,
    ) -> Result<Self, OpenError> {
        if !group.ip().is_multicast() {
            return Err(OpenError::NotMulticast(group.ip()));
        }
        own_address(Family::of(group), interface)?;
        // The scope tells the kernel which card's ff02::/16 is meant; it is harmless for wider scopes.
        let bind_to = match group {
            _ if cfg!(windows) => SocketAddr::new(unspecified(Family::of(group)), group.port()),
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, interface.index).into(),
            v4 @ SocketAddr::V4(_) => v4,
        };
        let failed = failed(group, interface);
        let role = Role::Group {
            group: group.ip(),
            joined: None,
        };
        let mut opened = Self::open(bind_to, true, role, options, &failed)?;
        opened
            .rejoin(interface)
            .map_err(|source| failed("join", source))?;
        Ok(opened)
    }

    /// Opens a socket bound to the interface's own address and `port` (0: any free one), whose multicast leaves by that
    /// interface and is heard on this host too.
    ///
    /// # Errors
    /// [`OpenError`]: a card without such an address, a code point out of bounds, or what the system said.
    pub fn unicast(
        family: Family,
        interface: &Interface,
        port: u16,
        options: &SocketOptions,
    ) -> Result<Self, OpenError> {
        let bind_to = match own_address(family, interface)? {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, interface.index).into()
            }
            ip => SocketAddr::new(ip, port),
        };
        let failed = failed(bind_to, interface);
        let mut opened = Self::open(bind_to, false, Role::Unicast, options, &failed)?;
        opened
            .rejoin(interface)
            .map_err(|source| failed("send multicast from", source))?;
        Ok(opened)
    }

    fn open(
        bind_to: SocketAddr,
        is_shared: bool,
        role: Role,
        options: &SocketOptions,
        failed: &impl Fn(&'static str, io::Error) -> OpenError,
    ) -> Result<Self, OpenError> {
        if let Some(dscp) = options.dscp.filter(|dscp| *dscp > 63) {
            return Err(OpenError::Dscp(dscp));
        }
        let socket = socket2::Socket::new(
            Domain::for_address(bind_to),
            Type::DGRAM,
            Some(Protocol::UDP),
        )
        .map_err(|source| failed("open a socket for", source))?;
        configure(&socket, Family::of(bind_to), is_shared, options)
            .map_err(|source| failed("set the options of the socket for", source))?;
        let modes = io_modes(&socket, options.io);
        socket
            .bind(&SockAddr::from(bind_to))
            .map_err(|source| failed("bind to", source))?;
        let granted = granted(&socket).map_err(|source| failed("read the buffers of", source))?;
        let local = socket
            .local_addr()
            .map(|address| address.as_socket().unwrap_or(bind_to))
            .map_err(|source| failed("read the address of", source))?;
        let io = mio::net::UdpSocket::from_std(socket.into());
        Ok(Self {
            io,
            local,
            role,
            granted,
            modes,
            train_datagrams: options.train_datagrams,
            #[cfg(test)]
            refusal: None,
        })
    }

    /// Where the socket is bound: the group (on Windows the wildcard) or the card's own address, with the port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The buffers the kernel granted, which may be less than was asked for.
    #[must_use]
    pub fn granted(&self) -> Buffers {
        self.granted
    }

    /// How it sends and receives: found by trying when it was opened. Sending may have become worse since, see
    /// [`Sent::fell_back`].
    #[must_use]
    pub const fn io_modes(&self) -> IoModes {
        self.modes
    }

    /// Whether this is a group's socket that is, or should be, hearing its group.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        matches!(
            self.role,
            Role::Group {
                joined: Some(_),
                ..
            }
        )
    }

    /// Leaves the group; without effect where there is none. The socket stays open, [`rejoin`](Self::rejoin) takes it
    /// back.
    pub fn leave(&mut self) {
        if let Role::Group { group, joined } = &mut self.role
            && let Some(card) = joined.take()
        {
            // A card that has gone took the membership with it, so a failure here leaves nothing behind.
            let _ = membership(SockRef::from(&self.io), *group, card, Membership::Leave);
        }
    }

    /// Joins the group afresh on `interface`, or for a host's socket makes multicast leave by it: to be called when the
    /// card came back or its addresses changed, and only then. Doing it twice is harmless. It leaves first, on purpose:
    /// only a new membership makes the host send a report, and a switch that lost its table needs one. A link-scope IPv6
    /// group (`ffx2::`) is bound to its card, so if the card's index changed, open another socket.
    ///
    /// # Errors
    /// What the system said; the socket is then in no group. For a host's socket also
    /// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable), when the card no longer has the address the socket is
    /// bound to: open another.
    pub fn rejoin(&mut self, interface: &Interface) -> io::Result<()> {
        self.leave();
        let card = Card::of(interface);
        match &mut self.role {
            Role::Group { group, joined } => {
                let socket = SockRef::from(&self.io);
                match membership(socket, *group, card, Membership::Join) {
                    // Already a member. Unix says the one, Windows may say the other.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists
                        ) => {}
                    answer => answer?,
                }
                *joined = Some(card);
                Ok(())
            }
            Role::Unicast if !interface.addresses.contains(&self.local.ip()) => {
                Err(io::ErrorKind::AddrNotAvailable.into())
            }
            Role::Unicast => {
                send_multicast_from(&SockRef::from(&self.io), Family::of(self.local), card)
            }
        }
    }

    /// Receives what is there into the free slots of `batch`, without blocking. Errors are counted and gone past, up to
    /// a bound; see [`Received`] for when to come back.
    pub fn receive(&mut self, batch: &mut ReceiveBatch) -> Received {
        let mut received = Received::default();
        let (mut most, then) = match self.modes.receive {
            IoMode::Plain => (1, 1),
            IoMode::Batch | IoMode::Offload => (FIRST_CHUNK, CHUNK),
        };
        while received.errors + received.resets < MAX_RECEIVE_ERRORS {
            let free = batch.free(most, self.modes.receive == IoMode::Offload);
            if free.slots.is_empty() {
                break;
            }
            match self.receive_some(free) {
                Ok((filled, is_drained)) => {
                    let filled = batch.advance(filled);
                    received.count += filled.whole;
                    received.in_trains += filled.in_trains;
                    received.truncated += filled.truncated;
                    received.would_block = is_drained;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => received.would_block = true,
                    io::ErrorKind::Interrupted => {}
                    _ if batch::is_reset(&error) => received.resets += 1,
                    _ => {
                        received.errors += 1;
                        received.last_error = Some(error);
                    }
                },
            }
            if received.would_block {
                break;
            }
            most = then;
        }
        received
    }

    /// Sends from the front of `datagrams`, without blocking. One that the system refuses is counted in `errors` and
    /// gone past, so that a bad destination never holds up the others. When a train is refused its first datagram is
    /// tried alone: if that is taken it was the train's fault, and the socket sends no more of them.
    pub fn send(&mut self, datagrams: &[Outgoing<'_>], errors: &mut SendErrors) -> Sent {
        let mut sent = Sent::default();
        let mut is_in_doubt = false;
        while let Some(first) = datagrams.get(sent.consumed) {
            let rest = &datagrams[sent.consumed..];
            let offered = if is_in_doubt { &rest[..1] } else { rest };
            match self.send_some(offered) {
                Ok(went) => {
                    sent.consumed += went.count;
                    sent.sent += went.count;
                    sent.in_trains += went.in_trains;
                    if is_in_doubt {
                        self.modes.send = IoMode::Batch;
                        sent.fell_back = true;
                    }
                    is_in_doubt = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sent.would_block = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.is_train(offered) && mode::may_refuse_trains(&error) => {
                    is_in_doubt = true;
                }
                Err(error) => {
                    errors.count(first, error);
                    sent.consumed += 1;
                    is_in_doubt = false;
                }
            }
        }
        sent
    }

    /// One system call; an error is about the first datagram, or the train it is the first of.
    fn send_some(&self, datagrams: &[Outgoing<'_>]) -> io::Result<batch::Went> {
        #[cfg(test)]
        if let Some(code) = self.refusal.filter(|_| self.is_train(datagrams)) {
            return Err(io::Error::from_raw_os_error(code));
        }
        match self.modes.send {
            #[cfg(target_os = "linux")]
            IoMode::Offload => linux::send(&self.io, datagrams, self.train_datagrams),
            #[cfg(target_os = "linux")]
            IoMode::Batch => linux::send(&self.io, datagrams, 1),
            _ => portable::send(&self.io, datagrams),
        }
    }

    /// One system call: how many slots it filled, and whether it emptied the socket.
    fn receive_some(&self, free: batch::Free<'_>) -> io::Result<(usize, bool)> {
        match self.modes.receive {
            #[cfg(target_os = "linux")]
            IoMode::Offload | IoMode::Batch => linux::receive(&self.io, free),
            _ => portable::receive(&self.io, free),
        }
    }

    /// Whether the first of `datagrams` would go as part of a train.
    fn is_train(&self, datagrams: &[Outgoing<'_>]) -> bool {
        self.modes.send == IoMode::Offload && mode::train_len(datagrams, self.train_datagrams) > 1
    }
}

impl Source for Socket {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.io.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.io.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.io.deregister(registry)
    }
}

/// Makes the errors of one opening, each with its step, and the address and card they are all about.
fn failed(
    address: SocketAddr,
    interface: &Interface,
) -> impl Fn(&'static str, io::Error) -> OpenError {
    let interface = interface.name.clone();
    move |step, source| OpenError::System {
        step,
        address,
        interface: interface.clone(),
        source,
    }
}

fn own_address(family: Family, interface: &Interface) -> Result<IpAddr, OpenError> {
    let address = match family {
        Family::V4 => interface.v4.map(IpAddr::V4),
        Family::V6 => interface.v6.map(IpAddr::V6),
    };
    address.ok_or_else(|| OpenError::NoAddress {
        interface: interface.name.clone(),
        family,
    })
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn configure(
    socket: &socket2::Socket,
    family: Family,
    is_shared: bool,
    options: &SocketOptions,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if is_shared {
        // Enough for every program on the host to get its own copy. Not SO_REUSEPORT: on Linux only sockets of one
        // user may share by it.
        socket.set_reuse_address(true)?;
    }
    // Some systems refuse what exceeds their limit instead of granting the limit; `granted` tells either way.
    if options.receive_buffer_bytes > 0 {
        let _ = socket.set_recv_buffer_size(options.receive_buffer_bytes);
    }
    if options.send_buffer_bytes > 0 {
        let _ = socket.set_send_buffer_size(options.send_buffer_bytes);
    }
    let tos = options.dscp.map(|dscp| u32::from(dscp) << 2);
    // Loop is set on receiving sockets too: on Windows it is the receiver's setting that counts.
    match family {
        Family::V4 => {
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v4(false)?;
            socket.set_multicast_loop_v4(true)?;
            socket.set_multicast_ttl_v4(u32::from(options.ttl))?;
            tos.map_or(Ok(()), |tos| socket.set_tos_v4(tos))?;
        }
        Family::V6 => {
            socket.set_only_v6(true)?;
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v6(false)?;
            socket.set_multicast_loop_v6(true)?;
            socket.set_multicast_hops_v6(u32::from(options.ttl))?;
            #[cfg(unix)]
            tos.map_or(Ok(()), |tos| socket.set_tclass_v6(tos))?;
        }
    }
    #[cfg(windows)]
    windows::ignore_resets(socket);
    Ok(())
}

fn io_modes(socket: &socket2::Socket, wanted: IoMode) -> IoModes {
    #[cfg(target_os = "linux")]
    let modes = linux::io_modes(socket, wanted);
    #[cfg(not(target_os = "linux"))]
    let modes = {
        let _ = (socket, wanted);
        IoModes {
            send: IoMode::Plain,
            receive: IoMode::Plain,
        }
    };
    modes
}

fn granted(socket: &socket2::Socket) -> io::Result<Buffers> {
    // Linux doubles what it grants, for its own bookkeeping, and tells the double.
    let unit = if cfg!(target_os = "linux") { 2 } else { 1 };
    Ok(Buffers {
        receive_bytes: socket.recv_buffer_size()? / unit,
        send_bytes: socket.send_buffer_size()? / unit,
    })
}

#[derive(Clone, Copy)]
enum Membership {
    Join,
    Leave,
}

fn membership(
    socket: SockRef<'_>,
    group: IpAddr,
    card: Card,
    change: Membership,
) -> io::Result<()> {
    // Windows takes an index too, but not every version of it and not wine; an address works on all.
    #[cfg(windows)]
    if let IpAddr::V4(group) = group {
        return match change {
            Membership::Join => socket.join_multicast_v4(&group, &card.v4),
            Membership::Leave => socket.leave_multicast_v4(&group, &card.v4),
        };
    }
    match (group, change) {
        (IpAddr::V4(group), change) => {
            let by_index = socket2::InterfaceIndexOrAddress::Index(card.index);
            match change {
                Membership::Join => socket.join_multicast_v4_n(&group, &by_index),
                Membership::Leave => socket.leave_multicast_v4_n(&group, &by_index),
            }
        }
        (IpAddr::V6(group), Membership::Join) => socket.join_multicast_v6(&group, card.index),
        (IpAddr::V6(group), Membership::Leave) => socket.leave_multicast_v6(&group, card.index),
    }
}

fn send_multicast_from(socket: &socket2::Socket, family: Family, card: Card) -> io::Result<()> {
    match family {
        #[cfg(target_os = "linux")]
        Family::V4 => linux::set_multicast_if_v4(socket, card.index, card.v4),
        #[cfg(not(target_os = "linux"))]
        Family::V4 => socket.set_multicast_if_v4(&card.v4),
        Family::V6 => socket.set_multicast_if_v6(card.index),
    }
}

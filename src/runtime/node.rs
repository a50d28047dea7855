//! One station and its sockets.

use std::io;
use std::net::SocketAddr;

use mio::{Interest, Registry, Token};

use crate::capture::Recorded;
use crate::net::{Family, IoModes, OpenError, Outgoing, ReceiveBatch, Socket};
use crate::proto::{Destination, TransmitBatch};
use crate::rng::Rng;
use crate::station::StationEvent;
use crate::time::Timestamp;
use crate::wire::GroupId;

use super::{LoopStats, Network};

/// Loss on purpose, where datagrams arrive: for demonstrations and tests.
#[derive(Clone, Debug)]
pub struct Drops {
    probability: f64,
    rng: Rng,
}

impl Drops {
    /// Drops each datagram with `probability`, as `seed` decides.
    pub fn new(probability: f64, seed: u64) -> Self {
        Self {
            probability,
            rng: Rng::new(seed),
        }
    }
}

/// One station and its sockets.
pub struct Node {
    /// The brain.
    pub station: Recorded,
    sockets: Vec<Port>,
    drops: Option<Drops>,
    /// Datagrams that a full socket did not take; nothing else is sent before them.
    unsent: Vec<(Destination, Vec<u8>)>,
    /// Whether the system was asked to say when its sockets are writable.
    watches_writable: bool,
    touched: bool,
    due: Timestamp,
}

struct Port {
    socket: Socket,
    role: Role,
    is_readable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Group(SocketAddr),
    Unicast(Family),
}

impl Node {
    /// Bits of a token that tell the socket.
    const SOCKET_BITS: u32 = 10;

    pub(super) fn open(
        station: Recorded,
        groups: &[GroupId],
        drops: Option<Drops>,
        network: &Network,
    ) -> Result<Self, OpenError> {
        let mut sockets = Vec::new();
        for family in [Family::V4, Family::V6] {
            if network
                .groups
                .iter()
                .any(|(_, address)| Family::of(*address) == family)
            {
                let socket = Socket::unicast(family, &network.interface, 0, &network.options())?;
                sockets.push(Port {
                    socket,
                    role: Role::Unicast(family),
                    is_readable: true,
                });
            }
        }
        for address in groups.iter().filter_map(|&group| network.address(group)) {
            let socket = Socket::group(address, &network.interface, &network.options())?;
            sockets.push(Port {
                socket,
                role: Role::Group(address),
                is_readable: true,
            });
        }
        Ok(Self {
            station,
            sockets,
            drops,
            unsent: Vec::new(),
            watches_writable: false,
            touched: true,
            due: Timestamp::ZERO,
        })
    }

    /// The smallest receive buffer that the system granted, bytes.
    pub fn receive_buffer_bytes(&self) -> usize {
        self.sockets
            .iter()
            .map(|port| port.socket.granted().receive_bytes)
            .min()
            .unwrap_or(0)
    }

    /// The smallest send buffer that the system granted, bytes.
    pub fn send_buffer_bytes(&self) -> usize {
        self.sockets
            .iter()
            .map(|port| port.socket.granted().send_bytes)
            .min()
            .unwrap_or(0)
    }

    /// How its sockets send and receive: each way the worst of them.
    pub fn io_modes(&self) -> IoModes {
        self.sockets
            .iter()
            .map(|port| port.socket.io_modes())
            .fold(IoModes::BEST, IoModes::worst)
    }

    /// The station, to give it a command; the loop then drains it.
    pub fn command(&mut self) -> &mut Recorded {
        self.touched = true;
        &mut self.station
    }

    pub(super) fn register(&mut self, registry: &Registry, index: usize) -> io::Result<()> {
        for (at, port) in self.sockets.iter_mut().enumerate() {
            let interest = interest(port.role, self.watches_writable);
            registry.register(&mut port.socket, token(index, at), interest)?;
        }
        Ok(())
    }

    /// Watches for room in the send buffers while something waits for it, and only then: Linux tells of room after each
    /// datagram that has left, and the loop would take a turn for each. Who asks when there is room already is told at
    /// once.
    pub(super) fn watch_writable(&mut self, registry: &Registry, index: usize) -> io::Result<()> {
        let is_waiting = !self.unsent.is_empty();
        if self.watches_writable == is_waiting {
            return Ok(());
        }
        self.watches_writable = is_waiting;
        for (at, port) in self.sockets.iter_mut().enumerate() {
            if matches!(port.role, Role::Unicast(_)) {
                let interest = interest(port.role, self.watches_writable);
                registry.reregister(&mut port.socket, token(index, at), interest)?;
            }
        }
        Ok(())
    }

    pub(super) fn of_token(token: Token) -> Option<(usize, usize)> {
        Some((
            token.0 >> Self::SOCKET_BITS,
            token.0 & ((1 << Self::SOCKET_BITS) - 1),
        ))
    }

    pub(super) fn mark_ready(&mut self, socket: usize, is_readable: bool, is_writable: bool) {
        if let Some(port) = self.sockets.get_mut(socket) {
            port.is_readable |= is_readable;
        }
        self.touched |= is_writable && !self.unsent.is_empty();
    }

    pub(super) fn is_readable(&self) -> bool {
        self.sockets.iter().any(|port| port.is_readable)
    }

    /// When it is to be looked at next.
    pub(super) fn due(&self) -> Timestamp {
        if self.touched && self.unsent.is_empty() {
            Timestamp::ZERO
        } else {
            self.due
        }
    }

    /// Gathers what has come into `batch`, as far as it has room; how many datagrams that are, or 1 if there were none.
    pub(super) fn receive(&mut self, batch: &mut ReceiveBatch, stats: &mut LoopStats) -> usize {
        let mut taken = 0;
        for port in self.sockets.iter_mut().filter(|port| port.is_readable) {
            if batch.is_full() {
                break;
            }
            let received = port.socket.receive(batch);
            stats.truncated += received.truncated;
            stats.receive_errors += received.errors;
            stats.datagrams_received += received.count as u64;
            stats.received_in_trains += received.in_trains as u64;
            // A socket that gives only errors is left alone until the system speaks of it again.
            port.is_readable = !received.would_block && !received.is_stuck();
            taken += received.count;
        }
        taken.max(1)
    }

    /// Takes the next datagram of `batch` in; false when there is none.
    pub(super) fn take_in(
        &mut self,
        now: Timestamp,
        batch: &mut ReceiveBatch,
        stats: &mut LoopStats,
    ) -> bool {
        let Some((from, datagram)) = batch.pop() else {
            return false;
        };
        if self
            .drops
            .as_mut()
            .is_some_and(|drops| drops.rng.chance(drops.probability))
        {
            stats.datagrams_dropped += 1;
        } else {
            // Whatever comes is to be expected; the station counts what it refuses.
            let _ = self.station.handle_datagram(now, from, datagram);
            self.touched = true;
        }
        true
    }

    pub(super) fn poll_event(&mut self, wall_ns: u64) -> Option<StationEvent> {
        let event = self.station.poll_event(wall_ns)?;
        // Whoever handles it may give the station something to do.
        self.touched = true;
        Some(event)
    }

    /// Does what is due and sends what there is to send.
    pub(super) fn transmit(
        &mut self,
        now: Timestamp,
        network: &Network,
        batch: &mut TransmitBatch,
        stats: &mut LoopStats,
    ) {
        if !self.touched && self.due > now {
            return;
        }
        self.station.handle_timeout(now);
        if !self.flush_unsent(network, stats) {
            return;
        }
        while self.station.poll_transmit(now, batch) {
            let consumed = send(&mut self.sockets, network, batch.iter(), stats);
            let rest = batch.iter().skip(consumed);
            self.unsent
                .extend(rest.map(|(to, datagram)| (to, datagram.to_vec())));
            batch.clear();
            if !self.unsent.is_empty() {
                break;
            }
        }
        self.touched = false;
        self.due = self.station.poll_timeout();
    }

    /// Whether nothing stands in the way of new datagrams.
    fn flush_unsent(&mut self, network: &Network, stats: &mut LoopStats) -> bool {
        if self.unsent.is_empty() {
            return true;
        }
        let waiting = self
            .unsent
            .iter()
            .map(|(to, datagram)| (*to, datagram.as_slice()));
        let consumed = send(&mut self.sockets, network, waiting, stats);
        self.unsent.drain(..consumed);
        self.unsent.is_empty()
    }

    pub(super) fn leave(&mut self, now: Timestamp) {
        self.station.leave(now);
        self.touched = true;
    }

    pub(super) fn has_left(&self) -> bool {
        self.station.has_left() && self.unsent.is_empty()
    }

    /// Joins its groups anew, and opens its unicast sockets anew where their address has gone.
    pub(super) fn rejoin(
        &mut self,
        network: &Network,
        registry: &Registry,
        index: usize,
    ) -> Result<(), OpenError> {
        for (at, port) in self.sockets.iter_mut().enumerate() {
            if port.socket.rejoin(&network.interface).is_ok() {
                continue;
            }
            let mut socket = match port.role {
                Role::Group(address) => {
                    Socket::group(address, &network.interface, &network.options())?
                }
                Role::Unicast(family) => {
                    Socket::unicast(family, &network.interface, 0, &network.options())?
                }
            };
            // A socket that cannot be watched is never readable, which is what a lost interface looks like anyway.
            let _ = registry.deregister(&mut port.socket);
            let interest = interest(port.role, self.watches_writable);
            let _ = registry.register(&mut socket, token(index, at), interest);
            port.socket = socket;
            port.is_readable = true;
        }
        self.touched = true;
        Ok(())
    }
}

/// Sends from the front; how many datagrams are done with, sent or refused.
fn send<'a>(
    sockets: &mut [Port],
    network: &Network,
    datagrams: impl Iterator<Item = (Destination, &'a [u8])>,
    stats: &mut LoopStats,
) -> usize {
    let mut consumed = 0;
    let mut run: Vec<Outgoing<'a>> = Vec::with_capacity(super::SENT_AT_A_TIME);
    for (to, bytes) in datagrams {
        let address = match to {
            Destination::Group(group) => network.address(group),
            Destination::Unicast(address) => Some(address),
        };
        let goes_on = address.is_some_and(|to| {
            run.first()
                .is_none_or(|first| Family::of(first.to) == Family::of(to))
        });
        if !goes_on {
            let done = send_run(sockets, &run, stats);
            consumed += done;
            if done < run.len() {
                return consumed;
            }
            run.clear();
        }
        match address {
            Some(to) => run.push(Outgoing { to, bytes }),
            // A group that this floor does not have: nobody could hear it.
            None => consumed += 1,
        }
    }
    consumed + send_run(sockets, &run, stats)
}

fn send_run(sockets: &mut [Port], run: &[Outgoing<'_>], stats: &mut LoopStats) -> usize {
    let Some(first) = run.first() else { return 0 };
    let family = Family::of(first.to);
    match sockets
        .iter_mut()
        .find(|port| port.role == Role::Unicast(family))
    {
        Some(port) => {
            let sent = port.socket.send(run, &mut stats.send_errors);
            stats.sent_in_trains += sent.in_trains as u64;
            stats.offload_fallbacks += u64::from(sent.fell_back);
            sent.consumed
        }
        None => run.len(),
    }
}

const fn token(index: usize, socket: usize) -> Token {
    Token(index << Node::SOCKET_BITS | socket)
}

fn interest(role: Role, watches_writable: bool) -> Interest {
    match role {
        Role::Unicast(_) if watches_writable => Interest::READABLE | Interest::WRITABLE,
        Role::Group(_) | Role::Unicast(_) => Interest::READABLE,
    }
}

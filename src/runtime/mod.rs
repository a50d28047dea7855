//! The loop: one thread, its sockets, its stations, and the program that gives them work.
//!
//! One turn: wait until a socket can be read or something is due; read the clock once; take in a bounded number of
//! datagrams for each station; let the program act; do what is due; send what there is to send.

mod clock;
mod idle;
mod node;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::{Poll, Waker};
use thiserror::Error;

use crate::capture::Recorded;
use crate::floor::Floor;
use crate::net::{
    self, Events, Interface, InterfaceSpec, IoMode, IoModes, OpenError, ReceiveBatch, SendErrors,
    SocketOptions, TRAIN_DATAGRAMS,
};
use crate::proto::TransmitBatch;
use crate::station::StationEvent;
use crate::time::Timestamp;
use crate::wire::GroupId;

pub use clock::{Clock, Moment};
pub use idle::{Idle, UnknownIdle, pin};
pub use node::{Drops, Node};

use std::net::SocketAddr;

/// Datagrams taken in for one station in one turn, before others get theirs: a few hundred microseconds of work.
const DATAGRAMS_PER_TURN: usize = 256;
/// Datagrams taken from a socket at a time.
const RECEIVED_AT_A_TIME: usize = 64;
/// Datagrams handed to a socket at a time: as many as one signature serves.
const SENT_AT_A_TIME: usize = 128;
/// How often the loop looks whether its interface has changed.
const INTERFACE_CHECK: Duration = Duration::from_secs(2);
/// Longest sleep while the program cannot take more events: it has no way to say when it can.
const CROWDED_SLEEP: Duration = Duration::from_millis(5);
/// A turn longer than this is counted: stations wait for their timers meanwhile.
const LONG_TURN_NS: u64 = 10_000_000;
/// One warning a minute for each kind of trouble; the count goes on.
const WARN_EVERY_NS: u64 = 60_000_000_000;

/// Where a loop's stations live on the network.
#[derive(Clone, Debug)]
pub struct Network {
    /// What was asked for; looked up again when the interface goes away.
    pub spec: InterfaceSpec,
    /// What was found.
    pub interface: Interface,
    /// Every group that may be sent to.
    pub groups: Vec<(GroupId, SocketAddr)>,
    /// Hops a multicast datagram may take.
    pub ttl: u8,
    /// Differentiated services code point, if any.
    pub dscp: Option<u8>,
    /// Receive buffer to ask for, bytes.
    pub receive_buffer_bytes: usize,
    /// Largest datagram that is received whole.
    pub datagram_bytes: usize,
    /// The best way to send and receive that is tried.
    pub io: IoMode,
    /// Most datagrams sent as one train.
    pub train_datagrams: usize,
}

/// Receive buffer to ask for: a fifth of a second of a floor's whole data, or the reports of 5,000 workstations at once.
/// A stock Linux grants a twentieth of it.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Datagrams up to this are received whole: more than any that a LAN carries unfragmented.
const DATAGRAM_BYTES: usize = 2_048;

impl Network {
    /// The network of a floor, through `interface`.
    pub fn of_floor(floor: &Floor, interface: &Interface) -> Self {
        Self {
            spec: floor.interface.clone(),
            interface: interface.clone(),
            groups: floor
                .groups
                .iter()
                .map(|group| (group.id, group.address))
                .collect(),
            ttl: floor.ttl,
            dscp: floor.dscp,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            datagram_bytes: DATAGRAM_BYTES,
            io: IoMode::Offload,
            train_datagrams: TRAIN_DATAGRAMS,
        }
    }

    fn options(&self) -> SocketOptions {
        SocketOptions {
            ttl: self.ttl,
            dscp: self.dscp,
            receive_buffer_bytes: self.receive_buffer_bytes,
            send_buffer_bytes: self.receive_buffer_bytes,
            io: self.io,
            train_datagrams: self.train_datagrams,
        }
    }

    fn address(&self, group: GroupId) -> Option<SocketAddr> {
        self.groups
            .iter()
            .find(|(id, _)| *id == group)
            .map(|(_, address)| *address)
    }
}

/// What gives a loop's stations their work.
pub trait Program {
    /// Something happened at the `index`-th station.
    fn handle_event(
        &mut self,
        at: Moment,
        index: usize,
        station: &mut Recorded,
        event: StationEvent,
    );

    /// Called once a turn, after what came in: issue commands, and say when to be called at the latest.
    fn poll(&mut self, at: Moment, nodes: &mut [Node]) -> Next;

    /// Whether events can be taken. While not, nothing is read from the network: what does not fit in the sockets'
    /// buffers is lost on the way in, asked for again, and in the end reported lost, but never piled up here.
    fn is_ready(&self) -> bool {
        true
    }
}

/// When a program wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Then, or when something happens.
    At(Timestamp),
    /// The loop is to end, once its stations have left the floor.
    Done,
}

/// Why a loop cannot start or go on.
#[derive(Debug, Error)]
pub enum LoopError {
    /// A socket cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system's event queue fails.
    #[error("the event loop cannot {0}")]
    System(&'static str, #[source] io::Error),
}

/// What a loop has counted.
#[derive(Debug, Default)]
pub struct LoopStats {
    /// Turns taken.
    pub turns: u64,
    /// The longest turn, nanoseconds.
    pub turn_max_ns: u64,
    /// Turns longer than 10 ms.
    pub turns_long: u64,
    /// How its sockets send and receive: each way the worst of them.
    pub io: IoModes,
    /// How often a socket gave up sending trains, because the system refused one.
    pub offload_fallbacks: u64,
    /// Datagrams that the system took as part of a train.
    pub sent_in_trains: u64,
    /// Datagrams received as part of a train.
    pub received_in_trains: u64,
    /// Datagrams received, before any were dropped on purpose.
    pub datagrams_received: u64,
    /// Of these, dropped on purpose.
    pub datagrams_dropped: u64,
    /// Datagrams longer than a receive buffer.
    pub truncated: u64,
    /// Failed attempts to receive.
    pub receive_errors: u64,
    /// Datagrams that the system did not take.
    pub send_errors: SendErrors,
    /// How often sockets were opened or joined anew because the interface had changed.
    pub rejoins: u64,
}

/// Asks loops to end, from a signal or another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    is_requested: AtomicBool,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

impl Stop {
    /// Asks, and wakes the loops that watch.
    pub fn request(&self) {
        self.0.is_requested.store(true, Ordering::Release);
        let wakers = self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        for waker in wakers.iter() {
            // A loop that cannot be woken sees the request at its next turn, two seconds later at the latest.
            let _ = waker.wake();
        }
    }

    /// Whether it was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.is_requested.load(Ordering::Acquire)
    }

    /// Wakes `looping` when it is asked for.
    pub fn watch(&self, looping: &Loop) {
        self.0
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&looping.waker));
    }
}

/// One thread's sockets and stations.
pub struct Loop {
    poll: Poll,
    waker: Arc<Waker>,
    clock: Clock,
    idle: Idle,
    network: Network,
    nodes: Vec<Node>,
    received: ReceiveBatch,
    transmit: TransmitBatch,
    next_check: Timestamp,
    /// The wall clock at the clock's zero, as it was last.
    wall_zero_ns: u64,
    is_interface_gone: bool,
    last_warning: Option<Timestamp>,
    stats: LoopStats,
}

impl Loop {
    /// The waker's token; nodes' tokens count from 0.
    const WAKER: mio::Token = mio::Token(usize::MAX);

    /// A loop without stations.
    ///
    /// # Errors
    /// [`LoopError::System`] when the system gives no event queue.
    pub fn new(network: Network, clock: Clock) -> Result<Self, LoopError> {
        let poll = Poll::new().map_err(|error| LoopError::System("start", error))?;
        let waker = Waker::new(poll.registry(), Self::WAKER)
            .map_err(|error| LoopError::System("start", error))?;
        Ok(Self {
            poll,
            waker: Arc::new(waker),
            received: ReceiveBatch::new(RECEIVED_AT_A_TIME, network.datagram_bytes.max(2_048)),
            transmit: TransmitBatch::new(SENT_AT_A_TIME),
            next_check: clock.now() + INTERFACE_CHECK,
            wall_zero_ns: clock.read().wall_zero_ns(),
            clock,
            idle: Idle::Block,
            network,
            nodes: Vec::new(),
            is_interface_gone: false,
            last_warning: None,
            stats: LoopStats::default(),
        })
    }

    /// Opens sockets for a station that listens to `groups`, and takes it in.
    ///
    /// # Errors
    /// [`LoopError`] when a socket cannot be opened.
    pub fn add(
        &mut self,
        station: Recorded,
        groups: &[GroupId],
        drops: Option<Drops>,
    ) -> Result<(), LoopError> {
        let index = self.nodes.len();
        let node = Node::open(station, groups, drops, &self.network)?;
        self.stats.io = self.stats.io.worst(node.io_modes());
        self.nodes.push(node);
        self.nodes[index]
            .register(self.poll.registry(), index)
            .map_err(|error| LoopError::System("watch", error))
    }

    /// How it waits from now on.
    pub const fn set_idle(&mut self, idle: Idle) {
        self.idle = idle;
    }

    /// The stations and their sockets.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The same, to take from a station what it has kept once the loop has ended.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// What was counted so far.
    pub const fn stats(&self) -> &LoopStats {
        &self.stats
    }

    /// The loop's clock.
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// Runs until the program is done and its stations have left the floor, or cannot.
    ///
    /// # Errors
    /// [`LoopError::System`] when the system's event queue fails.
    pub fn run(&mut self, program: &mut impl Program) -> Result<(), LoopError> {
        /// How long stations may take to say farewell.
        const LEAVE: Duration = Duration::from_millis(100);
        let mut next = Next::At(Timestamp::ZERO);
        let mut leave_until = None;
        let mut events = Events::with_capacity(1_024);
        idle::wake_in_time();
        loop {
            self.wait(&mut events, next, leave_until, program.is_ready())?;
            let at = self.clock.read();
            self.receive(&events, at, program);
            self.drain_all_events(at, program);
            if leave_until.is_none() {
                next = program.poll(at, &mut self.nodes);
                if next == Next::Done {
                    leave_until = Some(at.now + LEAVE);
                    self.nodes.iter_mut().for_each(|node| node.leave(at.now));
                }
            }
            self.transmit(at.now)?;
            self.drain_all_events(at, program);
            self.check_interface(at.now);
            self.check_wall(at);
            self.count_turn(at.now);
            if let Some(until) = leave_until
                && (at.now >= until || self.nodes.iter().all(Node::has_left))
            {
                return Ok(());
            }
        }
    }

    /// Sleeps until a socket can be read or something is due.
    fn wait(
        &mut self,
        events: &mut Events,
        next: Next,
        leave_until: Option<Timestamp>,
        is_ready: bool,
    ) -> Result<(), LoopError> {
        let now = self.clock.now();
        let mut until = self.next_check;
        if let Next::At(at) = next {
            until = until.min(at);
        }
        if let Some(at) = leave_until {
            until = until.min(at);
        }
        for node in &self.nodes {
            until = until.min(node.due());
            if node.is_readable() {
                until = if is_ready {
                    now
                } else {
                    until.min(now + CROWDED_SLEEP)
                };
            }
        }
        // A loop's stations are written down in one file, or none is.
        if let Some(node) = self.nodes.first() {
            node.station.flush_before(until, now);
        }
        let spin_until = until.min(self.idle.spin_until(now, until));
        let mut now = now;
        while now < spin_until {
            self.poll_for(events, Duration::ZERO)?;
            if !events.is_empty() {
                return Ok(());
            }
            now = self.clock.now();
        }
        self.poll_for(events, Duration::from_nanos(until.nanos_since(now)))
    }

    fn poll_for(&mut self, events: &mut Events, timeout: Duration) -> Result<(), LoopError> {
        match net::wait(&mut self.poll, events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(LoopError::System("wait", error))
            }
            _ => Ok(()),
        }
    }

    /// Takes in what has come, for each station up to a bound, and hands it on.
    fn receive(&mut self, events: &Events, at: Moment, program: &mut impl Program) {
        for ready in events.iter().filter(|ready| ready.token != Self::WAKER) {
            if let Some((index, socket)) = Node::of_token(ready.token)
                && let Some(node) = self.nodes.get_mut(index)
            {
                node.mark_ready(socket, ready.is_readable, ready.is_writable);
            }
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let mut left = DATAGRAMS_PER_TURN;
            while left > 0 && node.is_readable() && program.is_ready() {
                let taken = node.receive(&mut self.received, &mut self.stats);
                left = left.saturating_sub(taken);
                // Datagram by datagram: what has been handed on gives its memory back to the next one, still in the cache.
                while node.take_in(at.now, &mut self.received, &mut self.stats) {
                    Self::drain_events(node, index, at, program);
                }
            }
        }
    }

    fn drain_all_events(&mut self, at: Moment, program: &mut impl Program) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            Self::drain_events(node, index, at, program);
        }
    }

    fn drain_events(node: &mut Node, index: usize, at: Moment, program: &mut impl Program) {
        while program.is_ready()
            && let Some(event) = node.poll_event(at.wall_ns)
        {
            program.handle_event(at, index, &mut node.station, event);
        }
    }

    fn transmit(&mut self, now: Timestamp) -> Result<(), LoopError> {
        let failed = self.stats.send_errors.total();
        let fallbacks = self.stats.offload_fallbacks;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.transmit(now, &self.network, &mut self.transmit, &mut self.stats);
            node.watch_writable(self.poll.registry(), index)
                .map_err(|error| LoopError::System("watch", error))?;
        }
        if self.stats.send_errors.total() > failed {
            self.warn_of_send_errors(now);
        }
        if self.stats.offload_fallbacks > fallbacks {
            tracing::info!("the system refused a train of datagrams; they are sent one by one");
            self.stats.io = self.io_modes();
        }
        Ok(())
    }

    fn io_modes(&self) -> IoModes {
        self.nodes
            .iter()
            .map(Node::io_modes)
            .fold(IoModes::BEST, IoModes::worst)
    }

    fn warn_of_send_errors(&mut self, now: Timestamp) {
        if self
            .last_warning
            .is_some_and(|last| now.nanos_since(last) < WARN_EVERY_NS)
        {
            return;
        }
        self.last_warning = Some(now);
        let errors = &self.stats.send_errors;
        let last = errors
            .last
            .as_ref()
            .map(|last| format!("{} to {}", last.error, last.to))
            .unwrap_or_default();
        tracing::warn!(
            refused = errors.refused,
            no_buffers = errors.no_buffers,
            unreachable = errors.unreachable,
            too_big = errors.too_big,
            other = errors.other,
            "the system does not take all datagrams (refused: a local firewall; unreachable: the interface); last: {last}"
        );
    }

    /// Looks whether the interface went away, came back or changed its addresses, and joins anew if so.
    fn check_interface(&mut self, now: Timestamp) {
        if now < self.next_check {
            return;
        }
        self.next_check = now + INTERFACE_CHECK;
        let found = net::interfaces()
            .ok()
            .and_then(|all| net::choose(&self.network.spec, &all).ok());
        let Some(found) = found.filter(|found| found.is_up) else {
            if !self.is_interface_gone {
                tracing::warn!(
                    "interface {} is gone or down; waiting for it",
                    self.network.interface
                );
            }
            self.is_interface_gone = true;
            return;
        };
        if !self.is_interface_gone && found == self.network.interface {
            return;
        }
        let returned = std::mem::take(&mut self.is_interface_gone);
        tracing::info!(
            "interface {} {}; joining anew",
            found,
            if returned { "is back" } else { "has changed" }
        );
        self.network.interface = found;
        self.stats.rejoins += 1;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Err(error) = node.rejoin(&self.network, self.poll.registry(), index) {
                tracing::warn!("cannot join anew: {error}");
                self.is_interface_gone = true;
            }
        }
        self.stats.io = self.io_modes();
    }

    /// Tells protected stations when the wall clock has been set, or the machine has slept: what is signed has a time.
    fn check_wall(&mut self, at: Moment) {
        /// Less is drift, and far below what clocks may be apart.
        const SET_NS: u64 = 1_000_000_000;
        if at.wall_zero_ns().abs_diff(self.wall_zero_ns) < SET_NS {
            return;
        }
        self.wall_zero_ns = at.wall_zero_ns();
        for node in &mut self.nodes {
            if let Some(guard) = node.station.guard() {
                guard.set_wall(at.now, at.wall_ns);
            }
        }
    }

    fn count_turn(&mut self, began: Timestamp) {
        let took_ns = self.clock.now().nanos_since(began);
        self.stats.turns += 1;
        self.stats.turn_max_ns = self.stats.turn_max_ns.max(took_ns);
        self.stats.turns_long += u64::from(took_ns > LONG_TURN_NS);
    }
}

/// A session id and a seed nobody else has.
///
/// # Errors
/// When the system has no randomness to give.
pub fn draw() -> io::Result<u64> {
    draw_bytes().map(u64::from_be_bytes)
}

/// Bytes that nobody can guess.
///
/// # Errors
/// When the system has no randomness to give.
pub fn draw_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Goal: timers below a millisecond are kept. Method: the best of fifty waits of a tenth of one, on a queue where nothing
    /// happens; then a wait that something ends. By one call, and where the kernel does not know that, by two.
    #[test]
    fn a_wait_is_shorter_than_a_millisecond_and_ends_early() {
        let mut events = Events::with_capacity(8);
        wait_shortly(&mut events).unwrap();
        events.forget_precise_wait();
        wait_shortly(&mut events).unwrap();
    }

    fn wait_shortly(events: &mut Events) -> io::Result<()> {
        let mut poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), mio::Token(7))?;
        let tenth = Duration::from_micros(100);
        let clock = Clock::start();
        let elapsed = |began| Duration::from_nanos(clock.now().nanos_since(began));
        let mut best = Duration::MAX;
        for _ in 0..50 {
            let began = clock.now();
            net::wait(&mut poll, events, tenth)?;
            assert!(events.is_empty());
            best = best.min(elapsed(began));
        }
        assert!((tenth..10 * tenth).contains(&best), "{best:?}");
        waker.wake()?;
        let began = clock.now();
        net::wait(&mut poll, events, Duration::from_millis(90))?;
        let found: Vec<_> = events.iter().collect();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].token, found[0].is_readable),
            (mio::Token(7), true)
        );
        assert!(elapsed(began) < Duration::from_millis(90));
        net::wait(&mut poll, events, tenth)?;
        assert!(events.is_empty(), "what was told is not told again");
        Ok(())
    }
}

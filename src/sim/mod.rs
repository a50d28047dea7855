//! A floor without a floor: virtual stations on a star network in virtual time, all of it decided by one seed.
//!
//! Every node has an uplink and a downlink to one switch. Loss on a source's uplink is common to all, loss on a downlink
//! is one receiver's alone. The [`Checker`] watches everything that receivers are told.
//!
//! Floors of 5,000 are run often, so what is done once for each receiver and datagram is kept short, though nothing of
//! the protocol is left out: every receiver is a whole [`Station`] that is given every datagram.
//!
//! - A multicast is one entry of the queue for all receivers that it reaches at one moment, not one for each.
//! - Who hears a group is a list, who has an address a map; nobody is searched for.
//! - Each node's next waking stands in a tree of fixed size; it changes only when it comes earlier than was thought.
//! - A station is run where it stands; moving it out of its node and back copied a kilobyte twice for each datagram.
//! - The checker numbers streams and notices, keeps one bit for a notice that a receiver has, and looks first where it
//!   found the last one.

mod adversary;
mod check;
mod link;
mod queue;
mod swarm;
mod trial;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::guard::{Guard, Verdicts};
use crate::keys::{KEY_BYTES, ThrowAway};
use crate::notice::{Notice, NoticeId, REMEMBER_RECOMMENDED, Text};
use crate::proto::{Config, Destination, Join, Terms, TransmitBatch};
use crate::rng::Rng;
use crate::station::{BroadcastError, Station, StationConfig, StationEvent};
use crate::time::Timestamp;
use crate::wire::{FloorId, GroupId, Lane, SessionId, SourceId, Status, StreamId};

use adversary::Adversary;
use queue::{Due, Queue};
use trial::{Watch, far_end};

pub use check::Checker;
pub use link::{Link, Loss};
pub use swarm::{Outcome, Swarm};
pub use trial::{CommonLoss, Figures, Latencies, NEVER_US, Pattern, Trial};

/// Runs of lost or skipped numbers that a receiver's report is sure to tell one by one (R-REP-3).
const LOST_RUNS_TOLD: usize = 64;
/// Wall-clock time at the network's zero.
const EPOCH_NS: u64 = 1_800_000_000_000_000_000;

/// A node of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// What a node is.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name on the floor.
    pub name: String,
    /// Whether it announces itself.
    pub is_workstation: bool,
    /// The groups it listens to.
    pub groups: Vec<GroupId>,
    /// Where it begins in sessions that were there before it.
    pub join: Join,
    /// Its endpoint's configuration; who it is is filled in at each start.
    pub config: Config,
    /// Stations it expects whether they announce themselves or not.
    pub listed: BTreeMap<GroupId, Vec<String>>,
    /// On a protected floor: whether it has a grant to publish.
    pub may_publish: bool,
}

impl NodeSpec {
    /// A workstation on `groups`.
    pub fn workstation(name: impl Into<String>, groups: &[GroupId]) -> Self {
        Self {
            name: name.into(),
            is_workstation: true,
            groups: groups.to_vec(),
            join: Join::Trail,
            config: Config::new(Network::floor(), SourceId(0), SessionId(0)),
            listed: BTreeMap::new(),
            may_publish: false,
        }
    }

    /// A program that sends and is not expected to receive.
    pub fn source(name: impl Into<String>) -> Self {
        Self {
            is_workstation: false,
            may_publish: true,
            ..Self::workstation(name, &[])
        }
    }
}

/// Changes what a receiver is told before the checker sees it: a planted fault.
pub type Tamper = fn(StationEvent) -> Vec<StationEvent>;

/// Changes a datagram on its way out of a node: a planted fault of its protocol.
pub type Rewrite = fn(&[u8]) -> Option<Vec<u8>>;

struct Node {
    spec: NodeSpec,
    addr: SocketAddr,
    lives: u64,
    rewrite: Option<Rewrite>,
    backlog: Vec<(SocketAddr, Bytes)>,
}

/// A node's program, if it runs, apart from the rest: it is looked at for every datagram.
struct Program {
    station: Option<Station>,
    /// The queue's order when its life began: what was sent before is not for it.
    since: u64,
    is_stopped: bool,
}

impl Program {
    /// The station, if it may run.
    fn running(&mut self) -> Option<&mut Station> {
        self.station.as_mut().filter(|_| !self.is_stopped)
    }
}

/// A notice that was delivered: when, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Timestamp,
    /// At which node.
    pub node: NodeId,
    /// Which notice.
    pub id: NoticeId,
}

/// What a node was told beside notices and receipts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// When.
    pub at: Timestamp,
    /// Which node.
    pub node: NodeId,
    /// What.
    pub event: StationEvent,
}

/// A virtual floor.
pub struct Network {
    now: Timestamp,
    seed: u64,
    rng: Rng,
    nodes: Vec<Node>,
    /// By node, as all that follows up to `members`.
    programs: Vec<Program>,
    uplinks: Vec<Link>,
    downlinks: Vec<Link>,
    /// Who hears a group, in order.
    members: BTreeMap<GroupId, Vec<NodeId>>,
    by_addr: BTreeMap<SocketAddr, NodeId>,
    queue: Queue,
    trace: u64,
    batch: TransmitBatch,
    /// Where and when the datagram that is being sent arrives.
    arriving: Vec<(Timestamp, NodeId)>,
    notices: u64,
    tamper: Option<Tamper>,
    /// Watches what receivers are told.
    pub checker: Checker,
    /// Every notice delivered, where [`Network::record_arrivals`] asked for it.
    pub arrivals: Vec<Arrival>,
    records_arrivals: bool,
    /// All that nodes were told beside notices and receipts, where [`Network::record_news`] asked for it.
    pub news: Vec<News>,
    records_news: bool,
    watch: Option<Box<Watch>>,
    /// What protects the floor, where something does.
    keys: Option<Keys>,
    adversary: Option<Adversary>,
}

/// What protects a floor. Its stations share their verdicts, or a floor of 500 would check each signature 500 times.
struct Keys {
    floor: ThrowAway,
    verdicts: Verdicts,
}

impl Network {
    /// An empty floor whose whole future is `seed` and what it is told to do.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Timestamp::from_nanos(1),
            seed,
            rng: Rng::new(seed),
            nodes: Vec::new(),
            programs: Vec::new(),
            uplinks: Vec::new(),
            downlinks: Vec::new(),
            members: BTreeMap::new(),
            by_addr: BTreeMap::new(),
            queue: Queue::default(),
            trace: seed,
            batch: TransmitBatch::new(64),
            arriving: Vec::new(),
            notices: 0,
            tamper: None,
            checker: Checker::default(),
            arrivals: Vec::new(),
            records_arrivals: false,
            news: Vec::new(),
            records_news: false,
            watch: None,
            keys: None,
            adversary: None,
        }
    }

    /// The same, of a protected floor, whose keys the seed makes, too.
    pub fn protected(seed: u64) -> Self {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let floor = ThrowAway::new(Self::floor(), bytes, EPOCH_NS / 1_000_000_000);
        let verdicts = Verdicts::shared();
        Self {
            keys: Some(Keys { floor, verdicts }),
            ..Self::new(seed)
        }
    }

    /// Whether the floor is protected.
    pub const fn is_protected(&self) -> bool {
        self.keys.is_some()
    }

    /// The keys of a protected floor.
    pub fn keys(&self) -> Option<&ThrowAway> {
        self.keys.as_ref().map(|keys| &keys.floor)
    }

    /// The floor every virtual node is on.
    pub fn floor() -> FloorId {
        FloorId::of("sim")
    }

    /// The present.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Keeps every delivery in [`Network::arrivals`].
    pub fn record_arrivals(&mut self) {
        self.records_arrivals = true;
    }

    /// Keeps what nodes are told beside notices and receipts in [`Network::news`].
    pub fn record_news(&mut self) {
        self.records_news = true;
    }

    /// Plants a fault between all receivers and the checker.
    pub fn plant_tamper(&mut self, tamper: Tamper) {
        self.tamper = Some(tamper);
    }

    /// Plants a fault in what a node sends.
    pub fn plant_rewrite(&mut self, node: NodeId, rewrite: Rewrite) {
        self.nodes[node.0].rewrite = Some(rewrite);
    }

    /// Adds a node with quiet cables, and starts it.
    pub fn add(&mut self, spec: NodeSpec) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.uplinks.push(Link::default());
        self.downlinks.push(Link::default());
        for &group in &spec.groups {
            self.overhear(id, group);
        }
        self.nodes.push(Node {
            addr: address(id, 0),
            spec,
            lives: 0,
            rewrite: None,
            backlog: Vec::new(),
        });
        self.programs.push(Program {
            station: None,
            since: 0,
            is_stopped: false,
        });
        self.start(id, false);
        id
    }

    /// Kills a node, as `kill -9` would.
    pub fn kill(&mut self, id: NodeId) {
        self.programs[id.0].station = None;
        self.nodes[id.0].backlog.clear();
    }

    /// Kills a node where it runs, and starts it anew; with `resumes` it goes on where it stood.
    pub fn restart(&mut self, id: NodeId, resumes: bool) {
        self.kill(id);
        self.start(id, resumes);
    }

    /// Stops a node from running, as SIGSTOP would: what arrives waits in its socket, up to 256 datagrams.
    pub fn stop(&mut self, id: NodeId) {
        self.programs[id.0].is_stopped = true;
    }

    /// Lets a stopped node run again.
    pub fn go_on(&mut self, id: NodeId) {
        self.programs[id.0].is_stopped = false;
        for (from, datagram) in std::mem::take(&mut self.nodes[id.0].backlog) {
            self.arrive(id, from, datagram);
        }
        self.run_node(id);
    }

    /// Whether a node runs.
    pub fn is_alive(&self, id: NodeId) -> bool {
        self.programs[id.0].station.is_some() && !self.programs[id.0].is_stopped
    }

    /// A node's station, while it lives.
    pub fn station(&mut self, id: NodeId) -> Option<&mut Station> {
        self.programs[id.0].station.as_mut()
    }

    /// A node's cable to the switch.
    pub fn uplink(&mut self, id: NodeId) -> &mut Link {
        &mut self.uplinks[id.0]
    }

    /// The switch's cable to a node.
    pub fn downlink(&mut self, id: NodeId) -> &mut Link {
        &mut self.downlinks[id.0]
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// Lets a source hear a group's reports, presences and rosters.
    pub fn overhear(&mut self, id: NodeId, group: GroupId) {
        let members = self.members.entry(group).or_default();
        if let Err(place) = members.binary_search(&id) {
            members.insert(place, id);
        }
    }

    /// Has `node` broadcast `text`.
    ///
    /// # Errors
    /// What the station says.
    pub fn broadcast(
        &mut self,
        node: NodeId,
        groups: &[GroupId],
        lane: Lane,
        text: String,
    ) -> Result<NoticeId, BroadcastError> {
        self.broadcast_under(node, groups, lane, text, Terms::default())
    }

    /// The same, for a time or in the place of another notice.
    ///
    /// # Errors
    /// What the station says.
    pub fn broadcast_under(
        &mut self,
        node: NodeId,
        groups: &[GroupId],
        lane: Lane,
        text: String,
        terms: Terms,
    ) -> Result<NoticeId, BroadcastError> {
        let now = self.now;
        self.notices += 1;
        let id = NoticeId(
            self.seed
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(self.notices),
        );
        let from = self.nodes[node.0].spec.name.as_str().into();
        let text = Text::from(text);
        let notice = Notice {
            id,
            from,
            sent_ns: EPOCH_NS + now.as_nanos(),
            expires_ns: terms.expires.map(|at| EPOCH_NS + at.as_nanos()),
            confirm: true,
            status: Status::Actual,
            text,
        };
        let Some(station) = self.programs[node.0].station.as_mut() else {
            return Ok(id);
        };
        let origin = station.origin();
        for (stream, seqs) in station.broadcast(now, groups, lane, &notice, terms.supersedes)? {
            if let Some(watch) = &mut self.watch {
                watch.published(now, seqs);
            }
            self.checker
                .published(now, (origin, stream), seqs, id, &notice.text, terms);
        }
        self.run_node(node);
        Ok(id)
    }

    /// Runs what is due until `until`.
    pub fn run_until(&mut self, until: Timestamp) {
        while self.queue.next_at() <= until && self.step() {}
        self.now = self.now.max(until);
    }

    /// Runs for `duration` from the present.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    /// Runs the next thing that is due: a datagram at all whom it reaches now, or one node; false when nothing is.
    pub fn step(&mut self) -> bool {
        let Some((at, due)) = self.queue.pop() else {
            return false;
        };
        self.now = self.now.max(at);
        match due {
            Due::Landing(landing) => {
                for &node in &landing.to {
                    if self.programs[node.0].since < landing.order {
                        self.note(node.0 as u64 ^ (landing.datagram.len() as u64) << 20);
                        self.arrive(node, landing.from, landing.datagram.clone());
                        self.run_node(node);
                    }
                }
                self.queue.reuse(landing.to);
            }
            Due::Wake(node) => self.run_node(node),
        }
        true
    }

    /// The same for the same seed and the same commands, whatever the machine.
    pub const fn trace_hash(&self) -> u64 {
        self.trace
    }

    /// Where a node sends from.
    pub fn address(&self, id: NodeId) -> SocketAddr {
        self.nodes[id.0].addr
    }

    /// Sends a datagram on a node's cable that its program did not write: what a station of another make might send.
    pub fn inject(&mut self, from: NodeId, to: Destination, datagram: &[u8]) {
        self.send(from, to, datagram);
    }

    /// Heals every cable.
    pub fn heal(&mut self) {
        self.uplinks.iter_mut().for_each(Link::heal);
        self.downlinks.iter_mut().for_each(Link::heal);
    }

    /// Once faults are over and time was given: every receiver that lives has been told of everything that living sources
    /// published to it.
    pub fn expect_complete(&mut self) {
        for source in self.nodes() {
            let Some(origin) = self.programs[source.0]
                .station
                .as_ref()
                .map(Station::origin)
            else {
                continue;
            };
            for node in self.nodes() {
                if node == source || !self.is_alive(node) {
                    continue;
                }
                for group in self.nodes[node.0].spec.groups.clone() {
                    for lane in Lane::ALL {
                        let join = self.nodes[node.0].spec.join;
                        let stream = StreamId::new(group, lane);
                        self.checker
                            .expect_complete(self.now, node, origin, stream, join);
                    }
                }
            }
        }
    }

    /// A receipt never claims what was not delivered; with `complete`, and nothing else is missing.
    pub fn expect_true_receipts(&mut self, complete: bool) {
        let now = self.now;
        let by_name: Vec<_> = self
            .nodes
            .iter()
            .map(|node| SourceId::of(Self::floor(), &node.spec.name))
            .collect();
        for source in self.nodes() {
            let Some(station) = self.programs[source.0].station.as_mut() else {
                continue;
            };
            let tallies: Vec<_> = (0..station.sent_len())
                .filter_map(|index| station.tally(now, index))
                .collect();
            for tally in tallies {
                for node in self.nodes() {
                    let is_missing = tally.missing.contains(&by_name[node.0]);
                    let has = self.checker.has(node, tally.id);
                    // One that started anew may have died before it could report.
                    // And what was lost in more runs than a report tells is told in fewer, which claims less.
                    let could_say = self.is_alive(node)
                        && self.nodes[node.0].lives == 1
                        && self.checker.lost_runs(node) < LOST_RUNS_TOLD;
                    if has && is_missing && complete && could_say {
                        let what = format!("has {}, but the receipt says not", tally.id);
                        self.checker.violation(now, node, &what);
                    }
                }
                let received = tally.expected - tally.missing.len();
                let have = self
                    .nodes()
                    .filter(|&node| self.checker.ever_had(node, tally.id))
                    .count();
                if received > have {
                    let what = format!(
                        "{received} receipts for {}, but only {have} have it",
                        tally.id
                    );
                    self.checker.violation(now, source, &what);
                }
            }
        }
    }

    fn start(&mut self, id: NodeId, resumes: bool) {
        let now = self.now;
        let node = &mut self.nodes[id.0];
        node.lives += 1;
        self.programs[id.0].since = self.queue.order();
        self.queue.wake(id, Timestamp::FAR_FUTURE);
        self.by_addr.remove(&node.addr);
        node.addr = address(id, node.lives);
        self.by_addr.insert(node.addr, id);
        let source = SourceId::of(Self::floor(), &node.spec.name);
        let session = SessionId(self.rng.bits());
        let config = StationConfig {
            endpoint: Config {
                source,
                session,
                ..node.spec.config.clone()
            },
            name: node.spec.name.clone(),
            is_workstation: node.spec.is_workstation,
            groups: node.spec.groups.clone(),
            join: node.spec.join,
            remember: REMEMBER_RECOMMENDED,
            listed: node.spec.listed.clone(),
        };
        let (config, guard) = self.guarded(id, config);
        let mut station = Station::new(config, self.rng.bits(), now);
        if let Some(guard) = guard {
            station = station.guarded(guard);
        }
        if resumes {
            for (origin, stream, from) in self.checker.marks(id) {
                station.resume(origin, stream, from);
            }
            self.checker.had(id).for_each(|id| station.remember(id));
        }
        self.programs[id.0].station = Some(station);
        self.checker.begin(now, id, resumes);
        self.run_node(id);
    }

    /// What a node's program needs on a protected floor.
    fn guarded(&self, id: NodeId, mut config: StationConfig) -> (StationConfig, Option<Guard>) {
        let Some(keys) = &self.keys else {
            return (config, None);
        };
        let credentials = if self.nodes[id.0].spec.may_publish {
            keys.floor.source(&config.name, &[])
        } else {
            keys.floor.workstation(&config.name)
        };
        let verdicts = keys.verdicts.clone();
        let guard = Guard::new(credentials, &mut config.endpoint, EPOCH_NS, verdicts);
        (
            config,
            Some(guard.expect("virtual floors have room for seals")),
        )
    }

    fn arrive(&mut self, id: NodeId, from: SocketAddr, datagram: Bytes) {
        /// What a stopped program's socket holds.
        const BACKLOG_MAX: usize = 256;
        let now = self.now;
        let program = &mut self.programs[id.0];
        if program.is_stopped {
            let backlog = &mut self.nodes[id.0].backlog;
            if backlog.len() < BACKLOG_MAX {
                backlog.push((from, datagram));
            }
            return;
        }
        if let Some(station) = &mut program.station {
            // What is refused is counted by the station; here every kind of datagram is to be expected.
            let _ = station.handle_datagram(now, from, datagram);
        }
    }

    /// Drains a node's outputs and sets its next waking.
    fn run_node(&mut self, id: NodeId) {
        let now = self.now;
        if let Some(station) = self.programs[id.0].running() {
            station.handle_timeout(now);
        }
        while let Some(station) = self.programs[id.0].running()
            && station.poll_transmit(now, &mut self.batch)
        {
            let mut batch = std::mem::replace(&mut self.batch, TransmitBatch::new(1));
            for (to, datagram) in batch.iter() {
                self.send(id, to, datagram);
            }
            batch.clear();
            self.batch = batch;
        }
        while let Some(station) = self.programs[id.0].running()
            && let Some(event) = station.poll_event(EPOCH_NS + now.as_nanos())
        {
            self.tell(id, event);
        }
        let Some(station) = self.programs[id.0].running() else {
            return;
        };
        let due = station.poll_timeout();
        let (held, allowed) = (
            station.endpoint().buffered_bytes(),
            station.endpoint().config().receive_bytes.as_len(),
        );
        // One datagram may go over before the buffer is full.
        if held > allowed + 65_536 {
            self.checker
                .violation(now, id, &format!("{held} bytes held, {allowed} allowed"));
        }
        if due < self.queue.wakes_at(id) {
            // Never at once, or a station that wants the present again and again would stop time.
            self.queue.wake(id, due.max(now.plus_nanos(1)));
        }
    }

    fn tell(&mut self, node: NodeId, event: StationEvent) {
        match self.tamper {
            None => self.told(node, &event),
            Some(tamper) => tamper(event)
                .iter()
                .for_each(|event| self.told(node, event)),
        }
    }

    fn told(&mut self, node: NodeId, event: &StationEvent) {
        if let StationEvent::Notice { at, notice, .. } = event {
            self.note(at.seqs.first().0 ^ notice.id.0 ^ node.0 as u64);
            if let Some(watch) = &mut self.watch {
                watch.delivered(self.now, node, at.seqs);
            }
            if self.records_arrivals {
                self.arrivals.push(Arrival {
                    at: self.now,
                    node,
                    id: notice.id,
                });
            }
        } else if self.records_news && !matches!(event, StationEvent::Reported { .. }) {
            self.news.push(News {
                at: self.now,
                node,
                event: event.clone(),
            });
        }
        self.checker.told(self.now, node, event);
    }

    /// Up the sender's cable, through the switch, down the receivers'.
    fn send(&mut self, from: NodeId, to: Destination, datagram: &[u8]) {
        let rewritten = self.nodes[from.0]
            .rewrite
            .and_then(|rewrite| rewrite(datagram));
        let datagram = rewritten.map_or_else(|| Bytes::copy_from_slice(datagram), Bytes::from);
        if let Some(watch) = &mut self.watch {
            watch.sends(from, to, &datagram);
        }
        if let Some(adversary) = &mut self.adversary {
            adversary.overhears(from, to, &datagram);
        }
        let uplink = &mut self.uplinks[from.0];
        let at_switch = uplink.carry(self.now, datagram.len(), &mut self.rng);
        if let (Some(watch), [None, _]) = (&mut self.watch, &at_switch) {
            let at = far_end(uplink, self.now);
            let others = (0..self.nodes.len()).map(NodeId).filter(|&id| id != from);
            watch.loses_in_common(others.map(|id| (id, far_end(&self.downlinks[id.0], at))));
        }
        for copy in at_switch.into_iter().flatten() {
            let damaged = copy.damaged(&datagram);
            self.spread(from, to, copy.at, damaged.as_ref().unwrap_or(&datagram));
        }
    }

    /// From the switch, where it is at `at`, down the receivers' cables.
    fn spread(&mut self, from: NodeId, to: Destination, at: Timestamp, datagram: &Bytes) {
        let addr = self.nodes[from.0].addr;
        let one;
        let meant = match to {
            Destination::Group(group) => self.members.get(&group).map_or(&[][..], Vec::as_slice),
            Destination::Unicast(to) => {
                one = self.by_addr.get(&to).copied();
                one.as_slice()
            }
        };
        let is_group = matches!(to, Destination::Group(_));
        let mut arriving = std::mem::take(&mut self.arriving);
        for &id in meant {
            if is_group && id == from {
                continue;
            }
            let copies = self.downlinks[id.0].carry(at, datagram.len(), &mut self.rng);
            if let (Some(watch), [None, _]) = (&mut self.watch, &copies) {
                watch.loses(id, far_end(&self.downlinks[id.0], at));
            }
            for copy in copies.into_iter().flatten() {
                match copy.damaged(datagram) {
                    Some(damaged) => self.queue.land(copy.at, addr, damaged, [id].into_iter()),
                    None => arriving.push((copy.at, id)),
                }
            }
        }
        // Stable, so that each moment keeps the order of nodes.
        arriving.sort_by_key(|&(at, _)| at);
        for together in arriving.chunk_by(|(a, _), (b, _)| a == b) {
            let to = together.iter().map(|&(_, id)| id);
            self.queue.land(together[0].0, addr, datagram.clone(), to);
        }
        arriving.clear();
        self.arriving = arriving;
    }

    /// Takes something that happened into the trace.
    fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what ^ self.now.as_nanos())
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }
}

/// A program that starts anew has a new port.
fn address(id: NodeId, lives: u64) -> SocketAddr {
    let [.., a, b, c] = (id.0 as u64).to_be_bytes();
    let port = 7_000 + u16::try_from(lives % 50_000).unwrap_or(0);
    SocketAddr::from(([10, a, b, c], port))
}

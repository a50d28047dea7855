//! A protected floor on loopback for attack tests: true stations in loops of their own, and somebody who has joined their group
//! with plain sockets and a workstation's keys.
//!
//! Each floor has a group and a port of its own, and a ttl of 0: nothing leaves the machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use floorcast::capture::Recorded;
use floorcast::guard::{Guard, Verdicts};
use floorcast::keys::{Credentials, ThrowAway};
use floorcast::net::{self, InterfaceKind, InterfaceSpec, IoMode, TRAIN_DATAGRAMS};
use floorcast::notice::{Notice, NoticeId, REMEMBER_RECOMMENDED};
use floorcast::proto::{self, Destination, Join, Stats, TransmitBatch};
use floorcast::runtime::{self, Clock, Drops, Loop, Moment, Network, Next, Node, Program, Stop};
use floorcast::station::{Station, StationConfig, StationEvent};
use floorcast::time::Timestamp;
use floorcast::wire::{
    self, DatagramWriter, FloorId, GroupId, Header, Lane, SessionId, SourceId, Status,
};
use socket2::{Domain, Protocol, Socket, Type};

/// Longest wait for anything. Only a failure takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Numbers from here on are the seals' own datagrams (PROTOCOL.md 5.13).
pub(crate) const OWN_NUMBERS: u64 = 1 << 63;
/// Who publishes.
pub(crate) const SOURCE: &str = "sup-1";

/// A floor: its name, its group, its keys.
pub(crate) struct Arena {
    pub(crate) floor: FloorId,
    pub(crate) group: GroupId,
    pub(crate) address: SocketAddr,
    /// How far the clocks of stations to come are ahead.
    pub(crate) ahead: Duration,
    pub(crate) keys: ThrowAway,
    pub(crate) clock: Clock,
    network: Network,
}

impl Arena {
    pub(crate) fn new() -> Self {
        let random = runtime::draw_bytes::<8>().expect("chance");
        let [a, b, c, d, ..] = random;
        let address = SocketAddr::from((
            [239, 255, a, b.clamp(1, 254)],
            20_000 + u16::from_be_bytes([c, d]) % 10_000,
        ));
        let (group, floor) = (GroupId::of("all"), FloorId::of(&format!("{random:?}")));
        let interfaces = net::interfaces().expect("interfaces");
        let interface = interfaces
            .into_iter()
            .find(|one| one.kind == InterfaceKind::Loopback && one.v4.is_some())
            .expect("a loopback interface");
        let clock = Clock::start();
        let wall_s = clock.read().wall_ns / 1_000_000_000;
        let seed = runtime::draw_bytes().expect("chance");
        Self {
            floor,
            group,
            address,
            ahead: Duration::ZERO,
            keys: ThrowAway::new(floor, seed, wall_s),
            clock,
            network: Network {
                spec: InterfaceSpec::Index(interface.index),
                interface,
                groups: vec![(group, address)],
                ttl: 0,
                dscp: None,
                receive_buffer_bytes: 4 << 20,
                datagram_bytes: 2_048,
                io: IoMode::Offload,
                train_datagrams: TRAIN_DATAGRAMS,
            },
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn wall_s(&self) -> u64 {
        self.clock.read().wall_ns / 1_000_000_000
    }

    pub(crate) fn id(&self, name: &str) -> SourceId {
        SourceId::of(self.floor, name)
    }

    /// What the true source brings.
    pub(crate) fn granted(&self) -> Credentials {
        self.keys.source(SOURCE, &[self.group])
    }

    fn configured(
        &self,
        name: &str,
        credentials: Credentials,
        change: impl FnOnce(&mut proto::Config),
    ) -> (StationConfig, Guard) {
        let session = SessionId(runtime::draw().expect("chance"));
        let mut endpoint = proto::Config::new(self.floor, self.id(name), session);
        change(&mut endpoint);
        let is_workstation = credentials.grant.is_none();
        let ahead_ns = u64::try_from(self.ahead.as_nanos()).expect("not for ever");
        let zero_ns = self.clock.read().wall_zero_ns() + ahead_ns;
        let guard = Guard::new(credentials, &mut endpoint, zero_ns, Verdicts::default());
        let config = StationConfig {
            endpoint,
            name: name.to_owned(),
            is_workstation,
            groups: if is_workstation {
                vec![self.group]
            } else {
                Vec::new()
            },
            join: Join::Trail,
            remember: REMEMBER_RECOMMENDED,
            listed: BTreeMap::new(),
        };
        (config, guard.expect("a guard"))
    }

    /// A station that nothing drives, with these credentials.
    pub(crate) fn station(&self, name: &str, credentials: Credentials) -> Station {
        let (config, guard) = self.configured(name, credentials, |_| {});
        let seed = runtime::draw().expect("chance");
        Station::new(config, seed, self.now()).guarded(guard)
    }

    /// A seal alone, of a life of `name` that says whatever it is told to.
    pub(crate) fn seal(&self, name: &str, credentials: Credentials) -> (Guard, Header) {
        self.seal_of(name, credentials, None)
    }

    /// The same, of a life that there is already.
    pub(crate) fn seal_of(
        &self,
        name: &str,
        credentials: Credentials,
        life: Option<SessionId>,
    ) -> (Guard, Header) {
        let (config, guard) = self.configured(name, credentials, |endpoint| {
            endpoint.session = life.unwrap_or(endpoint.session);
        });
        let header = Header {
            key: 1,
            floor: self.floor,
            source: config.endpoint.source,
            session: config.endpoint.session,
            number: 0,
        };
        (guard, header)
    }

    /// Stations that run in a loop of their own, each with its name and credentials; `loss` of what comes to them is dropped.
    pub(crate) fn host(&self, stations: Vec<(String, Credentials)>, loss: f64) -> Host {
        self.host_with(stations, loss, |_| {})
    }

    pub(crate) fn host_with(
        &self,
        stations: Vec<(String, Credentials)>,
        loss: f64,
        change: impl Fn(&mut proto::Config),
    ) -> Host {
        let mut looping = Loop::new(self.network.clone(), self.clock).expect("a loop");
        let names: Vec<_> = stations.iter().map(|(name, _)| name.clone()).collect();
        for (seed, (name, credentials)) in (1..).zip(stations) {
            let (config, guard) = self.configured(&name, credentials, &change);
            let station = Recorded::new(config, seed, self.now(), None).guarded(guard);
            let drops = (loss > 0.0).then(|| Drops::new(loss, seed));
            looping.add(station, &[self.group], drops).expect("sockets");
        }
        Host::start(looping, names)
    }

    /// The true source.
    pub(crate) fn source(&self) -> Host {
        self.host(vec![(SOURCE.to_owned(), self.granted())], 0.0)
    }

    /// True workstations, called `ws-1` and so on.
    pub(crate) fn agents(&self, count: usize, loss: f64) -> Host {
        let name = |index: usize| format!("ws-{}", index + 1);
        let stations = (0..count).map(|index| (name(index), self.keys.workstation(&name(index))));
        self.host(stations.collect(), loss)
    }

    /// Somebody who has joined the group.
    pub(crate) fn attacker(&self) -> Attacker {
        Attacker::new(self.address)
    }

    /// Waits until the source has heard `count` workstations.
    pub(crate) fn gather(&self, source: &Host, count: usize) {
        let group = self.group;
        source.ask(move |at, nodes| nodes[0].command().call_roll(at.now, group, &[group]));
        source.until("everybody is there", move |at, node| {
            node.station.expected_on(at.now, group).len() >= count
        });
    }

    /// Has the source say something to all, with a receipt.
    pub(crate) fn say(&self, source: &Host, text: &str) {
        self.say_on(source, Lane::Routine, text);
    }

    pub(crate) fn say_on(&self, source: &Host, lane: Lane, text: &str) {
        let (group, text) = (self.group, text.to_owned());
        source.ask(move |at, nodes| {
            let notice = notice(SOURCE, at.wall_ns, &text);
            nodes[0]
                .command()
                .broadcast(at.now, &[group], lane, &notice, None)
                .expect("it is sent");
        });
    }
}

/// A notice that is meant.
pub(crate) fn notice(from: &str, sent_ns: u64, text: &str) -> Notice {
    Notice {
        id: NoticeId(runtime::draw().expect("chance")),
        from: from.into(),
        sent_ns,
        expires_ns: None,
        confirm: true,
        status: Status::Actual,
        text: text.into(),
    }
}

type Order = Box<dyn FnOnce(Moment, &mut [Node]) + Send>;

/// A loop in a thread of its own.
pub(crate) struct Host {
    orders: Sender<Order>,
    events: Receiver<(usize, Timestamp, StationEvent)>,
    waker: Stop,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pub(crate) names: Vec<String>,
}

struct Worker {
    orders: Receiver<Order>,
    events: Sender<(usize, Timestamp, StationEvent)>,
    over: Arc<AtomicBool>,
}

impl Program for Worker {
    fn handle_event(&mut self, at: Moment, index: usize, _: &mut Recorded, event: StationEvent) {
        // Nobody may be interested any more.
        let _ = self.events.send((index, at.now, event));
    }

    fn poll(&mut self, at: Moment, nodes: &mut [Node]) -> Next {
        while let Ok(order) = self.orders.try_recv() {
            order(at, nodes);
        }
        if self.over.load(Ordering::Acquire) {
            Next::Done
        } else {
            Next::At(at.now + Duration::from_millis(50))
        }
    }
}

impl Host {
    fn start(mut looping: Loop, names: Vec<String>) -> Self {
        let (orders, taken) = mpsc::channel();
        let (told, events) = mpsc::channel();
        let (waker, over) = (Stop::default(), Arc::new(AtomicBool::new(false)));
        waker.watch(&looping);
        let mut worker = Worker {
            orders: taken,
            events: told,
            over: Arc::clone(&over),
        };
        let thread = thread::spawn(move || looping.run(&mut worker).expect("the loop goes on"));
        Self {
            orders,
            events,
            waker,
            over,
            thread: Some(thread),
            names,
        }
    }

    /// Does something in the loop, and gives what came of it.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(Moment, &mut [Node]) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let order = Box::new(move |at: Moment, nodes: &mut [Node]| {
            let _ = answer.send(what(at, nodes));
        });
        self.orders.send(order).expect("the loop runs");
        self.waker.request();
        answered.recv_timeout(DEADLINE).expect("the loop answers")
    }

    /// Waits until something holds of the first station.
    pub(crate) fn until(
        &self,
        what: &str,
        holds: impl Fn(Moment, &mut Node) -> bool + Send + Sync + 'static,
    ) {
        let holds = Arc::new(holds);
        for _ in 0..DEADLINE.as_millis() / 5 {
            let holds = Arc::clone(&holds);
            if self.ask(move |at, nodes| holds(at, &mut nodes[0])) {
                return;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        panic!("not in time: {what}");
    }

    /// The counters of all its stations together.
    pub(crate) fn stats(&self) -> Stats {
        self.ask(|_, nodes| {
            let mut sum = Stats::default();
            nodes.iter().for_each(|node| sum.add(&node.station.stats()));
            sum
        })
    }

    /// Waits until something holds of the counters of all its stations together.
    pub(crate) fn until_all(&self, what: &str, holds: impl Fn(&Stats) -> bool) {
        for _ in 0..DEADLINE.as_millis() / 5 {
            if holds(&self.stats()) {
                return;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        panic!("not in time: {what}: {:?}", self.stats());
    }

    /// The next event, if one comes within `wait`.
    pub(crate) fn event(&self, wait: Duration) -> Option<(usize, Timestamp, StationEvent)> {
        match self.events.recv_timeout(wait) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the loop has ended"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.waker.request();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok(), "a loop has failed");
        }
    }
}

/// What the stations of a host were shown, in order.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) texts: Vec<Vec<String>>,
    /// Each text's last arrival.
    pub(crate) last: BTreeMap<String, Timestamp>,
    pub(crate) lost: u64,
    /// Notices that came again, could not be read, or were refused for what they claim.
    pub(crate) odd: u64,
}

impl Shown {
    pub(crate) fn of(host: &Host) -> Self {
        Self {
            texts: vec![Vec::new(); host.names.len()],
            ..Self::default()
        }
    }

    pub(crate) fn take(&mut self, (index, at, event): (usize, Timestamp, StationEvent)) {
        match event {
            StationEvent::Notice { notice, .. } => {
                let text = notice.text.to_string();
                self.last.insert(text.clone(), at);
                self.texts[index].push(text);
            }
            StationEvent::Lost { seqs, .. } => self.lost += seqs.len(),
            StationEvent::Again { .. }
            | StationEvent::Unreadable { .. }
            | StationEvent::Refused { .. } => self.odd += 1,
            _ => {}
        }
    }

    /// Takes what has come already.
    pub(crate) fn catch_up(&mut self, host: &Host) {
        while let Some(event) = host.event(Duration::ZERO) {
            self.take(event);
        }
    }

    /// Waits until every station was shown `text`.
    pub(crate) fn until_all_have(&mut self, host: &Host, text: &str) {
        let has = |texts: &Vec<String>| texts.iter().rev().any(|one| one == text);
        while !self.texts.iter().all(has) {
            let Some(event) = host.event(DEADLINE) else {
                let stats = host.stats();
                panic!("not everybody was shown {text:?}: {self:?}, {stats:?}");
            };
            self.take(event);
        }
    }
}

/// A datagram, and where it came from.
pub(crate) type Heard = (SocketAddr, Vec<u8>);

/// Somebody who hears the group, and sends what he likes from an address of his own.
pub(crate) struct Attacker {
    group: SocketAddr,
    pub(crate) mouth: UdpSocket,
    heard: Arc<Mutex<Vec<Heard>>>,
    ignored: Arc<Mutex<Vec<SocketAddr>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    pub(crate) fn new(group: SocketAddr) -> Self {
        let ear = ear(group);
        let (heard, over) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let ignored = Arc::new(Mutex::new(Vec::new()));
        let (to, stop) = (Arc::clone(&heard), Arc::clone(&over));
        let of_no_use = Arc::clone(&ignored);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !stop.load(Ordering::Acquire) {
                if let Ok((len, from)) = ear.recv_from(&mut buffer)
                    && !of_no_use.lock().expect("whole").contains(&from)
                {
                    to.lock()
                        .expect("whole")
                        .push((from, buffer[..len].to_vec()));
                }
            }
        });
        Self {
            group,
            mouth: mouth([127, 0, 0, 1]),
            heard,
            ignored,
            over,
            thread: Some(thread),
        }
    }

    /// Notes nothing more of what comes from there.
    pub(crate) fn ignore(&self, from: SocketAddr) {
        self.ignored.lock().expect("whole").push(from);
    }

    /// All that has passed so far, of others than himself.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        let own = self.mouth.local_addr().expect("an address");
        let heard = self.heard.lock().expect("whole");
        heard
            .iter()
            .filter(|(from, _)| *from != own)
            .cloned()
            .collect()
    }

    /// The last of what has passed, of whomever.
    pub(crate) fn newest(&self) -> Vec<Heard> {
        let heard = self.heard.lock().expect("whole");
        let own = self.mouth.local_addr().expect("an address");
        let others = heard.iter().rev().filter(|(from, _)| *from != own);
        others.take(4).cloned().collect()
    }

    /// What `station` has sent to the group.
    pub(crate) fn heard_of(&self, station: SourceId) -> Vec<Heard> {
        let mut heard = self.heard();
        heard.retain(|(_, datagram)| {
            Header::read(datagram).is_ok_and(|(header, _)| header.source == station)
        });
        heard
    }

    /// Waits until `station` has sent something to the group; where from.
    pub(crate) fn address_of(&self, station: SourceId) -> SocketAddr {
        for _ in 0..DEADLINE.as_millis() {
            if let Some((from, _)) = self.heard_of(station).last() {
                return *from;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        panic!("nothing was heard of {station}");
    }

    pub(crate) fn send(&self, datagram: &[u8], to: SocketAddr) {
        send(&self.mouth, datagram, to);
    }

    pub(crate) fn shout(&self, datagram: &[u8]) {
        self.send(datagram, self.group);
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A full buffer, or a port that nobody listens to any more, is no failure of who shouts.
pub(crate) fn send(from: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    for _ in 0..3 {
        if from.send_to(datagram, to).is_ok() {
            return;
        }
    }
}

/// A socket that hears a group, for a millisecond at a time.
pub(crate) fn ear(group: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket.set_reuse_address(true).expect("shared");
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&group.into()).expect("bound");
    let SocketAddr::V4(v4) = group else {
        panic!("an IPv4 group")
    };
    socket
        .join_multicast_v4(v4.ip(), &Ipv4Addr::LOCALHOST)
        .expect("joined");
    let wait = Some(Duration::from_millis(1));
    socket.set_read_timeout(wait).expect("a deadline");
    socket.into()
}

/// A socket at an address of this machine that sends to groups on loopback only.
pub(crate) fn mouth(at: [u8; 4]) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket
        .bind(&SocketAddr::from((at, 0)).into())
        .expect("bound");
    socket
        .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
        .expect("loopback");
    socket.set_multicast_ttl_v4(0).expect("ttl 0");
    socket.set_ttl_v4(1).expect("ttl 1");
    let wait = Some(Duration::from_millis(1));
    socket.set_read_timeout(wait).expect("a deadline");
    socket.into()
}

/// All that waits in a socket.
pub(crate) fn drain(socket: &UdpSocket) -> Vec<Heard> {
    let mut buffer = [0; 2_048];
    let mut all = Vec::new();
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        all.push((from, buffer[..len].to_vec()));
    }
    all
}

/// What a station that nothing drives would send now.
pub(crate) fn sent(station: &mut Station, now: Timestamp) -> Vec<(Destination, Vec<u8>)> {
    /// Whoever has a grant tells it for ever.
    const DATAGRAMS_MAX: usize = 256;
    let mut batch = TransmitBatch::new(64);
    let mut datagrams = Vec::new();
    while datagrams.len() < DATAGRAMS_MAX && station.poll_transmit(now, &mut batch) {
        datagrams.extend(batch.iter().map(|(to, datagram)| (to, datagram.to_vec())));
        batch.clear();
    }
    datagrams
}

/// What `fill` writes, sealed by `guard` as the next datagram of the life that `header` tells.
pub(crate) fn sealed(
    guard: &mut Guard,
    now: Timestamp,
    header: &mut Header,
    fill: impl FnOnce(&mut DatagramWriter<'_>),
) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut writer = DatagramWriter::plain(&mut plain, 1_400, header);
    fill(&mut writer);
    writer.finish();
    header.number += 1;
    let nowhere = Destination::Unicast(SocketAddr::from(([127, 0, 0, 1], 9)));
    let mut batch = TransmitBatch::new(4);
    batch.append(nowhere, &plain);
    // Room for a seal.
    batch.append(nowhere, &[0; 512]);
    batch.truncate(1);
    guard.seal(now, &mut batch, 0);
    let is_it = |datagram: &[u8]| {
        Header::read(datagram).is_ok_and(|(read, _)| read.number + 1 == header.number)
    };
    let datagram = batch.iter().find(|(_, datagram)| is_it(datagram));
    datagram.expect("it is sealed").1.to_vec()
}

/// What a seal has to say of its own.
pub(crate) fn answers(guard: &mut Guard, now: Timestamp) -> Vec<(Destination, Vec<u8>)> {
    let mut batch = TransmitBatch::new(4);
    guard.seal(now, &mut batch, 0);
    batch
        .iter()
        .map(|(to, datagram)| (to, datagram.to_vec()))
        .collect()
}

/// The first message of each kind in a plain datagram, by its name in PROTOCOL.md.
pub(crate) fn kinds(plain: &Bytes) -> Vec<&'static str> {
    let Ok(decoded) = wire::decode(plain) else {
        return Vec::new();
    };
    decoded
        .messages()
        .map(|message| match message {
            wire::Message::Data(_) => "DATA",
            wire::Message::Heartbeat(_) => "HEARTBEAT",
            wire::Message::Nack(_) => "NACK",
            wire::Message::Squelch(_) => "SQUELCH",
            wire::Message::Report(_) => "REPORT",
            wire::Message::Ask(_) => "ASK",
            wire::Message::Presence(_) => "PRESENCE",
            wire::Message::RollCall(_) => "ROLL CALL",
            wire::Message::Roster(_) => "ROSTER",
            wire::Message::Skip(_) => "SKIP",
            wire::Message::Parity(_) => "PARITY",
            wire::Message::Need(_) => "NEED",
            wire::Message::Pace(_) => "PACE",
            wire::Message::Scouts(_) => "SCOUTS",
            wire::Message::AddressCheck(_) => "ADDRESS CHECK",
            wire::Message::AddressEcho(_) => "ADDRESS ECHO",
            wire::Message::Grant(_) => "GRANT",
            wire::Message::Unknown(_) => "UNKNOWN",
        })
        .collect()
}

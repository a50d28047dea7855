//! A whole floor on this machine: a source and its agents, real sockets on loopback, loss on purpose, and the truth about
//! what arrived when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::capture::{Capture, Recorded};
use crate::guard::{Guard, Verdicts};
use crate::keys::ThrowAway;
use crate::net::{self, InterfaceKind, InterfaceSpec, IoMode, IoModes, TRAIN_DATAGRAMS};
use crate::notice::{Notice, NoticeId, REMEMBER_RECOMMENDED, Text};
use crate::output::{Ending, Failure, LossLines, LossSummary, PrintError, Printer, ReceiverLines};
use crate::proto::{self, Join, PublishError, Stats};
use crate::rng::Rng;
use crate::runtime::{
    self, Clock, Drops, Loop, LoopError, LoopStats, Moment, Network, Next, Node, Program, Stop,
};
use crate::station::{BroadcastError, StationConfig, StationEvent};
use crate::time::Timestamp;
use crate::wire::{FloorId, GroupId, Lane, SeqNo, SessionId, SourceId, Status, StreamId};

/// Deliveries a second that the default rate asks of this machine, over all agents: half of what one core takes in.
const DELIVERIES_PER_S: u64 = 200_000;
/// The same under keys, where a datagram costs each agent about as much again, and each message is two of them.
const DELIVERIES_PER_S_UNDER_KEYS: u64 = 25_000;
/// Fastest default rate, messages a second.
const RATE_MAX: u64 = 2_000;
/// How long agents may take to find each other before the first message.
const GATHER: Duration = Duration::from_secs(30);
/// How long the end may take without anything moving.
const STALL: Duration = Duration::from_secs(20);
/// Latencies up to this are kept apart in the histogram, nanoseconds; later ones count as this.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// The group that everybody is on.
const GROUP: &str = "all";
/// Room for the index that stands before each message's pattern.
const INDEX_BYTES: usize = 16;

/// What a demonstration is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many agents.
    pub agents: u32,
    /// How many messages.
    pub messages: u32,
    /// Bytes of each message's text.
    pub size: usize,
    /// Messages a second; `None`: what this machine can be expected to take.
    pub rate: Option<f64>,
    /// Share of datagrams dropped where they arrive, 0 to 1.
    pub loss: f64,
    /// Decides which datagrams are dropped, and the messages' texts.
    pub seed: u64,
    /// Where the inputs of all stations are written down.
    pub capture: Option<Capture>,
    /// JSON lines instead of lines for eyes.
    pub is_json: bool,
    /// Without keys.
    pub is_open_lab: bool,
}

/// A latency distribution, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    event: &'static str,
    agents: u32,
    messages: u32,
    size: usize,
    rate: f64,
    loss: f64,
    seed: u64,
    delivered: u64,
    missing: u64,
    duplicates: u64,
    out_of_order: u64,
    altered: u64,
    lost_reported: u64,
    receipts: usize,
    fanout_us: Option<Latency>,
    receiver_us: Option<Latency>,
    nacks_sent: u64,
    nacks_received: u64,
    repairs_sent: u64,
    repairs_multicast: u64,
    copies_sent: u64,
    losses: LossSummary,
    losses_left_out: u64,
    #[serde(flatten)]
    receivers: ReceiverLines,
    datagrams_sent: u64,
    datagrams_dropped: u64,
    bytes_sent: u64,
    payload_bytes: u64,
    bytes_per_payload_byte: f64,
    grtt_us: f64,
    seconds: f64,
    messages_per_s: f64,
    late_ms_max: f64,
    receive_buffer_bytes: usize,
    io: String,
    send_errors: u64,
    security: &'static str,
    open_lab: bool,
}

/// Runs a whole floor; [`Ending::Failed`] when anything is missing.
///
/// # Errors
/// [`Failure`] when the floor cannot be opened.
pub fn run(options: &Options, stop: &Stop) -> Result<Ending, Failure> {
    let shared = Arc::new(Shared::new(options)?);
    let clock = Clock::start();
    let mut source = open_source(&shared, clock)?;
    let threads = agent_threads(options.agents);
    let mut loops = Vec::new();
    for thread in 0..threads {
        loops.push(open_agents(&shared, clock, thread, threads)?);
    }
    stop.watch(&source.0);
    let results = thread::scope(|scope| {
        let agents: Vec<_> = loops
            .into_iter()
            .map(|(looping, agents)| scope.spawn(move || run_agents(looping, agents)))
            .collect();
        let (looping, program) = &mut source;
        program.stop = stop.clone();
        let sent = looping.run(program);
        shared.is_over.store(true, Ordering::Release);
        let joined: Vec<_> = agents.into_iter().map(|agent| agent.join()).collect();
        sent.map(|()| joined)
    });
    let joined =
        results.map_err(|error| Failure::system("the demonstration cannot go on", &error))?;
    let mut seen = Seen::default();
    for agents in joined {
        let agents =
            agents.map_err(|_| Failure::Failed("a thread of agents has failed".to_owned()))?;
        seen.add(
            agents.map_err(|error| Failure::system("the demonstration cannot go on", &error))?,
        );
    }
    let (looping, program) = source;
    let summary = program.summary(&shared, &looping, &seen);
    report(&summary, program.printer, program.unprinted)
}

fn report(
    summary: &Summary,
    mut printer: Printer,
    unprinted: Option<PrintError>,
) -> Result<Ending, Failure> {
    let us = |latency: Option<Latency>| match latency {
        Some(latency) => format!(
            "p50 {:.0} us, p99 {:.0} us, max {:.0} us",
            latency.p50, latency.p99, latency.max
        ),
        None => "no message reached everyone".to_owned(),
    };
    let text = format!(
        "{} agents, {} messages of {} bytes at {:.0} a second, {} % of datagrams dropped on arrival ({} in all)\n\
         delivered {}, missing {}, duplicates {}, out of order {}, receipts from {} of {} agents\n\
         to the last agent: {}\n\
         to each agent:     {}\n\
         {} NACKs, {} repairs, {:.2} bytes sent per payload byte, {:.1} s, seed {} ({})",
        summary.agents,
        summary.messages,
        summary.size,
        summary.rate,
        summary.loss,
        summary.datagrams_dropped,
        summary.delivered,
        summary.missing,
        summary.duplicates,
        summary.out_of_order,
        summary.receipts,
        summary.agents,
        us(summary.fanout_us),
        us(summary.receiver_us),
        summary.nacks_sent,
        summary.repairs_sent,
        summary.bytes_per_payload_byte,
        summary.seconds,
        summary.seed,
        if summary.open_lab {
            "open lab: loopback only, no protection"
        } else {
            "sealed and signed, with throw-away keys"
        }
    );
    let printed = match unprinted {
        Some(error) => Err(error),
        None => printer.print(summary, &text).and_then(|()| printer.flush()),
    };
    printed.or_else(PrintError::into_ending)?;
    let receipts = u32::try_from(summary.receipts).unwrap_or(u32::MAX);
    let wrong = summary.missing + summary.duplicates + summary.out_of_order + summary.altered;
    Ok(if wrong == 0 && receipts == summary.agents {
        Ending::Done
    } else {
        Ending::Failed
    })
}

/// One thread of agents for each core but the source's.
fn agent_threads(agents: u32) -> u32 {
    let cores =
        thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    cores.saturating_sub(1).clamp(1, 8).min(agents)
}

/// What the threads share: the schedule, and when the last agent had each message.
struct Shared {
    options: Options,
    rate: f64,
    network: Network,
    floor: FloorId,
    group: GroupId,
    /// Throw-away keys; none in an open laboratory.
    keys: Option<ThrowAway>,
    /// What one of the agents has checked, the others of this process need not: a floor of its own for each would take as many
    /// processors.
    verdicts: Verdicts,
    /// Text that every message is a stretch of.
    pattern: String,
    /// When the first message is due; 0 until all agents are there.
    start_ns: AtomicU64,
    /// For each message, how many agents have it, and when the last one had it.
    arrivals: Vec<(AtomicU32, AtomicU64)>,
    delivered: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    fn new(options: &Options) -> Result<Self, Failure> {
        let interfaces = net::interfaces()
            .map_err(|error| Failure::system("cannot list the interfaces", &error))?;
        let loopback = interfaces
            .into_iter()
            .find(|interface| interface.kind == InterfaceKind::Loopback && interface.v4.is_some());
        let interface = loopback.ok_or_else(|| {
            Failure::Failed("there is no loopback interface with an IPv4 address".to_owned())
        })?;
        let mut rng = Rng::new(options.seed);
        // A group and port of its own for each run, so that two demonstrations do not meet.
        let random =
            runtime::draw().map_err(|error| Failure::system("cannot draw a group", &error))?;
        let [a, b, c, d, ..] = random.to_be_bytes();
        let address = (
            [239, 255, a, b.clamp(1, 254)],
            20_000 + u16::from_be_bytes([c, d]) % 20_000,
        )
            .into();
        let group = GroupId::of(GROUP);
        let floor = FloorId::of("demo");
        let keys = if options.is_open_lab {
            None
        } else {
            let seed = runtime::draw_bytes()
                .map_err(|error| Failure::system("cannot draw keys", &error))?;
            let wall_s = Clock::start().read().wall_ns / 1_000_000_000;
            Some(ThrowAway::new(floor, seed, wall_s))
        };
        let alphabet = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789";
        let pattern = (0..options.size + 64).map(|_| {
            let at = usize::try_from(rng.below(alphabet.len() as u64)).unwrap_or(0);
            char::from(alphabet[at])
        });
        let segments = (options.size as u64 + 100).div_ceil(1_300);
        let deliveries = if options.is_open_lab {
            DELIVERIES_PER_S
        } else {
            DELIVERIES_PER_S_UNDER_KEYS
        };
        let usual = deliveries / (u64::from(options.agents) * segments).max(1);
        Ok(Self {
            rate: options.rate.unwrap_or(usual.clamp(1, RATE_MAX) as f64),
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
            floor,
            group,
            keys,
            verdicts: Verdicts::shared(),
            pattern: pattern.collect(),
            start_ns: AtomicU64::new(0),
            arrivals: (0..options.messages)
                .map(|_| (AtomicU32::new(0), AtomicU64::new(0)))
                .collect(),
            delivered: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            options: options.clone(),
        })
    }

    fn stream(&self) -> StreamId {
        StreamId::new(self.group, Lane::Routine)
    }

    /// When the `index`-th message is to be sent.
    fn intended(&self, index: u32) -> Timestamp {
        let start = self.start_ns.load(Ordering::Acquire);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a schedule of hours in nanoseconds"
        )]
        let offset = (f64::from(index) / self.rate * 1e9) as u64;
        Timestamp::from_nanos(start).plus_nanos(offset)
    }

    /// The `index`-th message: its index, and a stretch of the pattern, cut to size.
    fn text(&self, index: u32) -> String {
        let mut text = format!("{index:0INDEX_BYTES$}");
        text.push_str(self.stretch(index));
        text.truncate(self.options.size);
        text
    }

    fn stretch(&self, index: u32) -> &str {
        let at = usize::try_from(index % 64).unwrap_or(0);
        &self.pattern[at..at + self.options.size]
    }

    /// Whether `text` is the `index`-th message, byte for byte.
    fn is_text(&self, index: u32, text: &str) -> bool {
        let (head, rest) = text.split_at(text.len().min(INDEX_BYTES));
        let expected = format!("{index:0INDEX_BYTES$}");
        text.len() == self.options.size
            && expected.starts_with(head)
            && self.stretch(index).starts_with(rest)
    }

    fn station(
        &self,
        name: String,
        is_workstation: bool,
        seed: u64,
        clock: Clock,
    ) -> Result<Recorded, Failure> {
        let session =
            runtime::draw().map_err(|error| Failure::system("cannot draw a session", &error))?;
        let source = SourceId::of(self.floor, &name);
        let mut endpoint = proto::Config::new(self.floor, source, SessionId(session));
        let guard = match &self.keys {
            Some(keys) => {
                let credentials = if is_workstation {
                    keys.workstation(&name)
                } else {
                    keys.source(&name, &[self.group])
                };
                let verdicts = self.verdicts.clone();
                let zero_ns = clock.read().wall_zero_ns();
                let guard = Guard::new(credentials, &mut endpoint, zero_ns, verdicts);
                Some(guard.map_err(|error| Failure::Failed(error.to_string()))?)
            }
            None => None,
        };
        let config = StationConfig {
            endpoint,
            name,
            is_workstation,
            groups: if is_workstation {
                vec![self.group]
            } else {
                Vec::new()
            },
            join: Join::Trail,
            remember: REMEMBER_RECOMMENDED,
            listed: Default::default(),
        };
        let capture = self.options.capture.as_ref();
        let station = Recorded::new(config, seed, clock.now(), capture);
        Ok(match guard {
            Some(guard) => station.guarded(guard),
            None => station,
        })
    }

    fn drops(&self, seed: u64) -> Option<Drops> {
        (self.options.loss > 0.0).then(|| Drops::new(self.options.loss, seed))
    }
}

fn open(shared: &Shared, clock: Clock) -> Result<Loop, Failure> {
    Loop::new(shared.network.clone(), clock)
        .map_err(|error| Failure::system("cannot open the demonstration", &error))
}

fn add(shared: &Shared, looping: &mut Loop, station: Recorded, seed: u64) -> Result<(), Failure> {
    looping.add(station, &[shared.group], shared.drops(seed)).map_err(|error| {
        let hint = "; each agent takes two sockets: fewer --agents, or a higher limit of open files (ulimit -n), may help";
        Failure::Failed(format!("{}{hint}", Failure::system("cannot open an agent's sockets", &error)))
    })
}

fn open_source(shared: &Arc<Shared>, clock: Clock) -> Result<(Loop, Source), Failure> {
    let seed = shared.options.seed;
    let station = shared.station("supervisor".to_owned(), false, seed, clock)?;
    let mut looping = open(shared, clock)?;
    add(shared, &mut looping, station, seed ^ 0xffff)?;
    let source = Source {
        shared: Arc::clone(shared),
        stop: Stop::default(),
        printer: Printer::new(shared.options.is_json),
        loss_lines: LossLines::default(),
        unprinted: None,
        agents: (0..shared.options.agents)
            .map(|agent| SourceId::of(shared.floor, &agent_name(agent)))
            .collect(),
        published: 0,
        published_end: SeqNo::ZERO,
        moved: clock.now(),
        delivered_before: 0,
        late_ns_max: 0,
        seconds: 0.0,
        grtt_ns: 0,
        stats: Stats::default(),
        receipts: 0,
    };
    Ok((looping, source))
}

fn open_agents(
    shared: &Arc<Shared>,
    clock: Clock,
    thread: u32,
    threads: u32,
) -> Result<(Loop, Agents), Failure> {
    let mut looping = open(shared, clock)?;
    let mut next = Vec::new();
    for agent in (thread..shared.options.agents).step_by(usize::try_from(threads).unwrap_or(1)) {
        let seed = shared.options.seed.wrapping_add(u64::from(agent) * 2 + 1);
        let station = shared.station(agent_name(agent), true, seed, clock)?;
        add(shared, &mut looping, station, seed.wrapping_mul(31))?;
        next.push(0);
    }
    let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)
        .map_err(|error| Failure::system("histogram", &error))?;
    Ok((
        looping,
        Agents {
            shared: Arc::clone(shared),
            next,
            seen: Seen {
                latency: Some(latency),
                ..Seen::default()
            },
        },
    ))
}

fn run_agents(mut looping: Loop, mut agents: Agents) -> Result<Seen, LoopError> {
    looping.run(&mut agents)?;
    let mut seen = agents.seen;
    for node in looping.nodes() {
        seen.stats.add(&node.station.stats());
    }
    seen.count(looping.stats());
    seen.receive_buffer_bytes = looping
        .nodes()
        .iter()
        .map(Node::receive_buffer_bytes)
        .min()
        .unwrap_or(0);
    Ok(seen)
}

/// What agents saw.
#[derive(Default)]
struct Seen {
    latency: Option<Histogram<u64>>,
    duplicates: u64,
    out_of_order: u64,
    altered: u64,
    lost: u64,
    dropped: u64,
    send_errors: u64,
    receive_buffer_bytes: usize,
    io: IoModes,
    stats: Stats,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.altered += other.altered;
        self.lost += other.lost;
        self.dropped += other.dropped;
        self.send_errors += other.send_errors;
        self.receive_buffer_bytes = other.receive_buffer_bytes;
        self.io = self.io.worst(other.io);
        self.stats.add(&other.stats);
        match (&mut self.latency, other.latency) {
            (Some(mine), Some(others)) => drop(mine.add(others)),
            (mine @ None, others) => *mine = others,
            (Some(_), None) => {}
        }
    }

    fn count(&mut self, stats: &LoopStats) {
        self.dropped += stats.datagrams_dropped;
        self.io = self.io.worst(stats.io);
        self.send_errors += stats.send_errors.total();
    }
}

/// A thread's agents.
struct Agents {
    shared: Arc<Shared>,
    /// For each agent, the message it expects next.
    next: Vec<u32>,
    seen: Seen,
}

impl Agents {
    fn arrived(&mut self, now: Timestamp, agent: usize, text: &Text) {
        let text = text.as_str();
        let index = text
            .get(..text.len().min(INDEX_BYTES))
            .and_then(|head| self.index_of(agent, head));
        let Some(index) = index.filter(|&index| self.shared.is_text(index, text)) else {
            self.seen.altered += 1;
            return;
        };
        let expected = self.next[agent];
        if index < expected {
            self.seen.duplicates += 1;
            return;
        }
        self.seen.out_of_order += u64::from(index > expected);
        self.next[agent] = index + 1;
        let latency_ns = now
            .nanos_since(self.shared.intended(index))
            .clamp(1, LATENCY_MAX_NS);
        if let Some(latency) = &mut self.seen.latency {
            latency.saturating_record(latency_ns);
        }
        let (count, last) = &self.shared.arrivals[index as usize];
        last.fetch_max(now.as_nanos(), Ordering::Relaxed);
        count.fetch_add(1, Ordering::Release);
        self.shared.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// A text too short to hold its whole index tells only its beginning; then the expected one is assumed, and compared.
    fn index_of(&self, agent: usize, head: &str) -> Option<u32> {
        if head.len() < INDEX_BYTES {
            return Some(self.next[agent]);
        }
        head.parse()
            .ok()
            .filter(|&index: &u32| index < self.shared.options.messages)
    }
}

impl Program for Agents {
    fn handle_event(&mut self, at: Moment, index: usize, _: &mut Recorded, event: StationEvent) {
        match event {
            StationEvent::Notice { notice, .. } => self.arrived(at.now, index, &notice.text),
            StationEvent::Lost { seqs, .. } => self.seen.lost += seqs.len(),
            StationEvent::Again { .. } => self.seen.duplicates += 1,
            StationEvent::Unreadable { .. } => self.seen.altered += 1,
            _ => {}
        }
    }

    fn poll(&mut self, at: Moment, _: &mut [Node]) -> Next {
        if self.shared.is_over.load(Ordering::Acquire) {
            Next::Done
        } else {
            Next::At(at.now + Duration::from_millis(20))
        }
    }
}

/// The supervisor.
struct Source {
    shared: Arc<Shared>,
    stop: Stop,
    printer: Printer,
    loss_lines: LossLines,
    /// Why lines cannot be printed. The demonstration goes on: whether all arrived is told by the exit code.
    unprinted: Option<PrintError>,
    agents: Vec<SourceId>,
    published: u32,
    published_end: SeqNo,
    /// When anything was last delivered.
    moved: Timestamp,
    delivered_before: u64,
    late_ns_max: u64,
    seconds: f64,
    grtt_ns: u64,
    stats: Stats,
    receipts: usize,
}

impl Source {
    /// Publishes what is due, as far as the slowest agent can follow.
    fn publish(&mut self, at: Moment, node: &mut Node) -> Next {
        while self.published < self.shared.options.messages {
            let intended = self.shared.intended(self.published);
            if intended > at.now {
                return Next::At(intended);
            }
            if self.is_held(node) {
                return Next::At(at.now + Duration::from_millis(1));
            }
            let notice = Notice {
                id: NoticeId(
                    self.shared
                        .options
                        .seed
                        .wrapping_add(u64::from(self.published)),
                ),
                from: "supervisor".into(),
                sent_ns: at.wall_ns,
                expires_ns: None,
                confirm: true,
                status: Status::Actual,
                text: self.shared.text(self.published).into(),
            };
            match node.command().broadcast(
                at.now,
                &[self.shared.group],
                Lane::Routine,
                &notice,
                None,
            ) {
                Ok(parts) => {
                    self.published_end = parts
                        .last()
                        .map_or(self.published_end, |(_, seqs)| seqs.end())
                }
                Err(BroadcastError::Publish(PublishError::WindowFull)) => {
                    return Next::At(at.now + Duration::from_millis(1));
                }
                Err(error) => {
                    tracing::error!("cannot publish: {error}");
                    return Next::Done;
                }
            }
            self.late_ns_max = self.late_ns_max.max(at.now.nanos_since(intended));
            self.published += 1;
        }
        Next::At(at.now + Duration::from_millis(5))
    }

    /// Whether more than half a receive buffer is on its way to the slowest agent: what goes beyond would only be lost in
    /// this machine's own sockets. A datagram of 1,400 bytes takes 2,304 there.
    fn is_held(&self, node: &mut Node) -> bool {
        let room = (node.receive_buffer_bytes() / 2_304 / 2).max(32) as u64;
        let stream = self.shared.stream();
        if self.published_end.0 < room {
            return false;
        }
        let slowest = node
            .station
            .slowest(stream, self.agents.iter().copied())
            .unwrap_or(self.published_end);
        self.published_end.since(slowest) > room
    }

    fn is_complete(&self, at: Moment, node: &mut Node) -> bool {
        let last = usize::try_from(self.shared.options.messages)
            .unwrap_or(0)
            .saturating_sub(1);
        let everyone = node.station.expected_len(at.now)
            == usize::try_from(self.shared.options.agents).unwrap_or(0);
        everyone && node.station.sent_len() > last && node.station.is_received_by_all(at.now, last)
    }

    fn summary(&self, shared: &Shared, looping: &Loop, seen: &Seen) -> Summary {
        let options = &shared.options;
        let (delivered, fanout) = fanout(shared);
        let due = u64::from(options.agents) * u64::from(options.messages);
        let (stats, station) = (&self.stats, &looping.nodes()[0].station);
        Summary {
            event: "summary",
            agents: options.agents,
            messages: options.messages,
            size: options.size,
            rate: shared.rate,
            loss: options.loss * 100.0,
            seed: options.seed,
            delivered,
            missing: due.saturating_sub(delivered),
            duplicates: seen.duplicates,
            out_of_order: seen.out_of_order,
            altered: seen.altered,
            lost_reported: seen.lost,
            receipts: self.receipts,
            fanout_us: fanout
                .as_ref()
                .and_then(|histogram| latency(histogram, u64::from(options.messages))),
            receiver_us: seen
                .latency
                .as_ref()
                .and_then(|histogram| latency(histogram, due)),
            nacks_sent: seen.stats.nacks_sent,
            nacks_received: stats.nacks_received,
            repairs_sent: stats.repairs_sent,
            repairs_multicast: stats.repairs_multicast,
            copies_sent: stats.copies_sent,
            losses: LossSummary::of(station),
            losses_left_out: self.loss_lines.left_out(),
            receivers: ReceiverLines::worst_of(station),
            datagrams_sent: stats.datagrams_sent,
            datagrams_dropped: seen.dropped + looping.stats().datagrams_dropped,
            bytes_sent: stats.bytes_sent,
            payload_bytes: stats.messages_published * options.size as u64,
            bytes_per_payload_byte: ratio(
                stats.bytes_sent,
                stats.messages_published * options.size as u64,
            ),
            grtt_us: self.grtt_ns as f64 / 1_000.0,
            seconds: self.seconds,
            messages_per_s: if self.seconds > 0.0 {
                f64::from(options.messages) / self.seconds
            } else {
                0.0
            },
            late_ms_max: self.late_ns_max as f64 / 1e6,
            receive_buffer_bytes: seen.receive_buffer_bytes,
            io: looping.stats().io.worst(seen.io).to_string(),
            send_errors: seen.send_errors + looping.stats().send_errors.total(),
            security: if shared.keys.is_some() {
                "keys"
            } else {
                "open-lab"
            },
            open_lab: shared.keys.is_none(),
        }
    }

    fn end(&mut self, at: Moment, node: &mut Node) -> Next {
        let began = Timestamp::from_nanos(self.shared.start_ns.load(Ordering::Acquire));
        self.seconds = Duration::from_nanos(at.now.nanos_since(began)).as_secs_f64();
        self.grtt_ns = node.station.endpoint().grtt_ns();
        self.stats = node.station.stats();
        let last = node.station.sent_len().saturating_sub(1);
        self.receipts = node
            .station
            .tally(at.now, last)
            .map_or(0, |tally| tally.expected - tally.missing.len());
        Next::Done
    }
}

impl Program for Source {
    fn handle_event(&mut self, _: Moment, _: usize, station: &mut Recorded, event: StationEvent) {
        if let StationEvent::LossJudged {
            stream,
            blame,
            askers,
        } = event
            && self.unprinted.is_none()
        {
            let at = (GROUP, stream.lane());
            let printed = self
                .loss_lines
                .print(&mut self.printer, station, at, blame, askers);
            self.unprinted = printed.err();
        }
    }

    fn poll(&mut self, at: Moment, nodes: &mut [Node]) -> Next {
        let node = &mut nodes[0];
        let delivered = self.shared.delivered.load(Ordering::Relaxed);
        if delivered != self.delivered_before {
            self.delivered_before = delivered;
            self.moved = at.now;
        }
        if self.stop.is_requested() {
            return self.end(at, node);
        }
        if self.shared.start_ns.load(Ordering::Acquire) == 0 {
            let agents = usize::try_from(self.shared.options.agents).unwrap_or(0);
            let here = node.station.expected_on(at.now, self.shared.group).len();
            if here < agents
                && at.now.nanos_since(self.moved) < crate::time::saturating_nanos(GATHER)
            {
                return Next::At(at.now + Duration::from_millis(10));
            }
            // Every agent's announcements reach every other; on one machine that is work, and not what is shown here.
            let announced = Duration::from_millis(200 + 3 * u64::from(self.shared.options.agents));
            let start = at.now + announced;
            self.shared
                .start_ns
                .store(start.as_nanos(), Ordering::Release);
            self.moved = at.now;
            return Next::At(start);
        }
        let next = self.publish(at, node);
        let all_published = self.published == self.shared.options.messages;
        let stalled = at.now.nanos_since(self.moved) > crate::time::saturating_nanos(STALL);
        if next == Next::Done || stalled || (all_published && self.is_complete(at, node)) {
            return self.end(at, node);
        }
        next
    }
}

/// How many deliveries there were, and how long each message took to the last agent.
fn fanout(shared: &Shared) -> (u64, Option<Histogram<u64>>) {
    let mut fanout = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_NS, 3).ok();
    let mut delivered = 0;
    for (index, (count, last)) in (0u32..).zip(&shared.arrivals) {
        let count = count.load(Ordering::Acquire);
        delivered += u64::from(count);
        // One that somebody lacks counts as never: it is in no percentile, and in `missing`.
        if count == shared.options.agents {
            let last = Timestamp::from_nanos(last.load(Ordering::Relaxed));
            let latency_ns = last
                .nanos_since(shared.intended(index))
                .clamp(1, LATENCY_MAX_NS);
            if let Some(fanout) = &mut fanout {
                fanout.saturating_record(latency_ns);
            }
        }
    }
    (delivered, fanout)
}

/// The distribution of `histogram`, where `due` samples were due; those that are missing are later than any.
fn latency(histogram: &Histogram<u64>, due: u64) -> Option<Latency> {
    if histogram.is_empty() {
        return None;
    }
    let us = |ns: u64| ns as f64 / 1_000.0;
    let at = |quantile: f64| {
        let among = quantile * due as f64 / histogram.len() as f64;
        if among > 1.0 {
            f64::INFINITY
        } else {
            us(histogram.value_at_quantile(among))
        }
    };
    let max = if histogram.len() < due {
        f64::INFINITY
    } else {
        us(histogram.max())
    };
    Some(Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max,
    })
}

fn agent_name(agent: u32) -> String {
    format!("ws-{:04}", agent + 1)
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

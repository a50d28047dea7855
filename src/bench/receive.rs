//! A receiver of a run: writes down when each message came, and hands that over at the end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::Duration;

use crate::capture::Recorded;
use crate::output::{Ending, Failure, PrintError, Printer};
use crate::proto::Origin;
use crate::runtime::{self, Clock, Drops, Loop, Moment, Next, Node, Program, Stop};
use crate::station::StationEvent;
use crate::time::{Timestamp, saturating_nanos};

use super::control::{
    ClockId, Control, Handed, Hello, NEVER, ReceiverStats, Welcome, answer_until_over, why_silent,
};
use super::send::filling;
use super::usage::Usage;
use super::{Content, HEAD_BYTES, Place};

/// How often a receiver looks what the silent path has brought.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Full runs that are remembered; a call of a further one is answered again, and declined again.
const RUNS_MAX: usize = 64;
/// A source that still calls so long after it was full has lost somebody: it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long something may be missing at the end without anything coming or being asked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a receiver is told.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// Where.
    pub place: Place,
    /// Its name; each receiver of a run needs one of its own.
    pub name: String,
    /// How many receivers this process is: with more than one, each has its number behind its name.
    pub count: usize,
    /// Over how many loops they are spread, each on a thread of its own; 1 to `count`.
    pub threads: usize,
    /// The processor of the first thread, where they are to stay on some; the others take those that follow.
    pub cpu: Option<usize>,
    /// How long to wait for a source.
    pub wait: Duration,
    /// Share of datagrams dropped where they arrive, 0 to 1.
    pub loss: f64,
    /// Every so-manyth message is treated as if it had never come: a receiver to test a harness with.
    pub ignore_every: Option<u64>,
    /// It goes away when it has so many messages, and says nothing of them: a receiver to test a harness with.
    pub leave_after: Option<u64>,
    /// It stops when it has so many messages and starts again: the same name, and a new station, with new sockets, that knows
    /// nothing of the old one's messages. Only one receiver to a thread can.
    pub restart_after: Option<u64>,
    /// It hears and asks for repair as any other, but takes part in no run, and ends when its wait is over.
    pub is_listening_only: bool,
    /// How long it is busy with each message: a receiver that cannot keep up.
    pub busy: Duration,
    /// Decides which datagrams are dropped.
    pub seed: u64,
    /// JSON instead of lines for eyes.
    pub is_json: bool,
}

/// What the receiver with this number is called, of `count` in one process.
pub fn name_of(name: &str, number: usize, count: usize) -> String {
    match count {
        1 => name.to_owned(),
        _ => format!("{name}-{number}"),
    }
}

/// Takes part in one run, as one receiver or as several.
///
/// # Errors
/// [`Failure`] when it cannot start, when no source calls, or when the source goes away.
pub fn run(options: &ReceiveOptions, stop: &Stop) -> Result<Ending, Failure> {
    options.place.check_route()?;
    let shared = Shared {
        options,
        clock: Clock::start(),
        stop: stop.clone(),
        given_up: Stop::default(),
    };
    let shared = &shared;
    let shares = thread::scope(|scope| {
        let others =
            (1..options.threads).map(|thread| scope.spawn(move || shared.take_part(thread)));
        let others: Vec<_> = others.collect();
        let mut shares = vec![shared.take_part(0)];
        shares.extend(others.into_iter().map(|other| {
            let share = other.join();
            share.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }));
        shares
    });
    let mut receivers = BTreeMap::new();
    let mut failure = None;
    for share in shares {
        match share {
            Ok(share) => receivers.extend(share),
            Err(first) => failure = failure.or(Some(first)),
        }
    }
    let mut ending = Ending::Done;
    for receiver in receivers.into_values() {
        let one = match receiver {
            Fate::Ended(outcome) => report(options, &outcome)?,
            Fate::BrokenOff if options.is_listening_only => Ending::Done,
            Fate::BrokenOff => Ending::Failed,
            Fate::Failed(first) => {
                failure = failure.or(Some(first));
                continue;
            }
        };
        if one != Ending::Done {
            ending = one;
        }
    }
    failure.map_or(Ok(ending), Err)
}

/// What became of a receiver.
enum Fate {
    /// It has handed over what came.
    Ended(Outcome),
    /// It was told to stop, or another one of this process failed.
    BrokenOff,
    Failed(Failure),
}

/// What all threads of this process have in common.
struct Shared<'a> {
    options: &'a ReceiveOptions,
    /// One for all, whose readings can be compared.
    clock: Clock,
    stop: Stop,
    /// One of the receivers has failed, and the process with it.
    given_up: Stop,
}

impl Shared<'_> {
    /// Every so-manyth receiver, in a loop on this thread; what became of each, by number.
    fn take_part(&self, thread: usize) -> Result<BTreeMap<usize, Fate>, Failure> {
        let share = self.pin(thread).and_then(|()| self.receive(thread));
        let has_failed = |share: &BTreeMap<usize, Fate>| {
            let mut fates = share.values();
            fates.any(|fate| matches!(fate, Fate::Failed(_)))
        };
        if share.as_ref().map_or(true, has_failed) {
            self.given_up.request();
        }
        share
    }

    fn pin(&self, thread: usize) -> Result<(), Failure> {
        let processor = self.options.cpu.map(|first| first + thread);
        let pinned = processor.map_or(Ok(()), runtime::pin);
        pinned.map_err(|sentence| Failure::Usage(format!("--cpu: {sentence}")))
    }

    fn receive(&self, thread: usize) -> Result<BTreeMap<usize, Fate>, Failure> {
        let numbers = (thread..self.options.count).step_by(self.options.threads);
        let receivers = numbers.map(|number| Run::new(self, number));
        let mut program = Receivers {
            receivers: receivers.collect(),
            stops: [self.stop.clone(), self.given_up.clone()],
        };
        loop {
            self.live(&mut program)?;
            let again = program.receivers.iter_mut().filter_map(Run::begin_again);
            if again.count() == 0 {
                break;
            }
        }
        let receivers = program.receivers.into_iter();
        Ok(receivers.map(|it| (it.number, it.fate())).collect())
    }

    /// One life of the receivers of a thread: their stations and sockets are there as long as it lasts.
    fn live(&self, program: &mut Receivers<'_>) -> Result<(), Failure> {
        let Self { options, clock, .. } = *self;
        let draw =
            || runtime::draw().map_err(|error| Failure::system("cannot draw a session", &error));
        let failed = |error| Failure::system("cannot receive", &error);
        let mut looping = Loop::new(options.place.network(), clock).map_err(failed)?;
        for (index, receiver) in program.receivers.iter_mut().enumerate() {
            let config = Place::station(&receiver.name, draw()?, true);
            let station = options.place.open(config, true, draw()?, clock)?;
            let seed = options.seed.wrapping_add(receiver.number as u64);
            let drops = (options.loss > 0.0).then(|| Drops::new(options.loss, seed));
            looping
                .add(station, &[Place::group_id()], drops)
                .map_err(failed)?;
            receiver.buffer_bytes = looping.nodes()[index].receive_buffer_bytes();
        }
        looping.set_idle(options.place.idle);
        program.stops.iter().for_each(|stop| stop.watch(&looping));
        looping
            .run(program)
            .map_err(|error| Failure::system("cannot go on", &error))
    }
}

/// All receivers of one thread.
struct Receivers<'a> {
    receivers: Vec<Run<'a>>,
    stops: [Stop; 2],
}

impl Receivers<'_> {
    fn is_to_stop(&self) -> bool {
        self.stops.iter().any(Stop::is_requested)
    }
}

impl Program for Receivers<'_> {
    /// One that is busy with each message ends between two.
    fn is_ready(&self) -> bool {
        !self.is_to_stop()
    }

    fn handle_event(&mut self, _: Moment, index: usize, _: &mut Recorded, event: StationEvent) {
        self.receivers[index].handle_event(event);
    }

    fn poll(&mut self, at: Moment, nodes: &mut [Node]) -> Next {
        let mut next = Next::Done;
        for (receiver, node) in self.receivers.iter_mut().zip(nodes) {
            match receiver.poll(at, node) {
                _ if receiver.failure.is_some() => return Next::Done,
                Next::Done => {}
                later => next = later,
            }
        }
        if self.is_to_stop() {
            return Next::Done;
        }
        next
    }
}

fn report(options: &ReceiveOptions, outcome: &Outcome) -> Result<Ending, Failure> {
    let mut printer = Printer::new(options.is_json);
    let line = format!(
        "{}: received {} of {}, missing {}, duplicates {}, out of order {}; {} NACKs, {:.2} CPU seconds, {:.1} MB",
        outcome.name,
        outcome.received,
        outcome.sent,
        outcome.missing,
        outcome.duplicates,
        outcome.out_of_order,
        outcome.stats.nacks_sent,
        outcome.usage.cpu_s,
        outcome.usage.rss_bytes as f64 / 1e6,
    );
    let printed = printer.print(outcome, &line).and_then(|()| printer.flush());
    printed.or_else(PrintError::into_ending)?;
    Ok(if outcome.missing == 0 && outcome.altered == 0 {
        Ending::Done
    } else {
        Ending::Failed
    })
}

/// What a receiver says of a run itself.
#[derive(Clone, Debug, serde::Serialize)]
struct Outcome {
    event: &'static str,
    name: String,
    sent: u64,
    received: u64,
    missing: u64,
    duplicates: u64,
    out_of_order: u64,
    altered: u64,
    stats: ReceiverStats,
    usage: Usage,
    receive_buffer_bytes: usize,
    /// Loops that the process's receivers are spread over.
    threads: usize,
}

/// What the silent path brings.
enum News {
    /// We take part; to be said when everything is ready for the first message.
    Welcome {
        messages: u64,
        size: usize,
        filling: u32,
        is_ready: Sender<()>,
    },
    /// The source has enough receivers.
    Full,
    /// All were sent.
    Over { sent: u64 },
    /// It has failed, or the source does not want us.
    Failed(String),
}

/// How far it is.
enum Stage {
    /// No source has called.
    Waiting,
    /// One has.
    Calling(Path),
    /// Messages come.
    Running(Box<Running>),
    /// It has handed over what came.
    Ended(Outcome),
}

/// The silent path's thread, seen from the loop.
struct Path {
    run: u32,
    news: Receiver<News>,
    hand: Sender<(Handed, Vec<u64>)>,
}

struct Running {
    path: Path,
    tally: Tally,
    /// What the process had used before the first message, and when it was looked at after the last one so far.
    began: Usage,
    used: Usage,
    used_at: Timestamp,
    /// All were sent; then until when something may still come.
    over: Option<(u64, Timestamp)>,
    /// How many requests for repair have gone out, and when that was last seen to grow.
    asked: (u64, Timestamp),
}

/// What came.
struct Tally {
    run: u32,
    arrivals: Vec<u64>,
    filling: Vec<u8>,
    size: usize,
    received: u64,
    next: u64,
    duplicates: u64,
    out_of_order: u64,
    altered: u64,
    ignore_every: u64,
    busy: Duration,
    last: Timestamp,
    /// Of a receiver that has started again: the message that it would have had next, and the first one that it had.
    away: Option<(u64, Option<u64>)>,
}

impl Tally {
    fn take(&mut self, clock: Clock, payload: &[u8]) {
        let Some((run, Content::Measured(index))) = Content::decode(payload) else {
            return;
        };
        let place = usize::try_from(index).ok();
        let Some(arrival) = place.and_then(|place| self.arrivals.get_mut(place)) else {
            return;
        };
        if run != self.run || (index + 1).is_multiple_of(self.ignore_every) {
            return;
        }
        let is_whole = payload.len() == self.size
            && payload[HEAD_BYTES..] == self.filling[..payload.len() - HEAD_BYTES];
        self.altered += u64::from(!is_whole);
        if *arrival != NEVER {
            self.duplicates += 1;
            return;
        }
        self.last = clock.now();
        *arrival = self.last.as_nanos();
        self.received += 1;
        if let Some((_, back)) = &mut self.away {
            back.get_or_insert(index);
        }
        self.out_of_order += u64::from(index < self.next);
        self.next = self.next.max(index + 1);
        if !self.busy.is_zero() {
            let until = self.last + self.busy;
            while clock.now() < until {
                std::hint::spin_loop();
            }
        }
    }
}

/// One receiver.
struct Run<'a> {
    options: &'a ReceiveOptions,
    number: usize,
    name: String,
    clock: Clock,
    deadline: Timestamp,
    buffer_bytes: usize,
    /// Where each source sends from.
    sources: BTreeMap<Origin, SocketAddr>,
    /// Runs that have enough receivers, so that their calls are for others, and until when that is believed.
    full: BTreeMap<u32, Timestamp>,
    stage: Stage,
    failure: Option<Failure>,
    /// Its life is over, and another one begins.
    is_restarting: bool,
    /// What was counted in the lives before this one.
    before: ReceiverStats,
}

impl<'a> Run<'a> {
    fn new(shared: &Shared<'a>, number: usize) -> Self {
        let Shared { options, clock, .. } = *shared;
        Self {
            options,
            number,
            name: name_of(&options.name, number, options.count),
            clock,
            deadline: clock.now() + options.wait,
            buffer_bytes: 0,
            sources: BTreeMap::new(),
            full: BTreeMap::new(),
            stage: Stage::Waiting,
            failure: None,
            is_restarting: false,
            before: ReceiverStats::default(),
        }
    }

    /// Starts again, if it has stopped for that. What came in the former life is kept by the harness, not by the station.
    fn begin_again(&mut self) -> Option<()> {
        if !std::mem::take(&mut self.is_restarting) || self.failure.is_some() {
            return None;
        }
        self.sources.clear();
        if let Stage::Running(running) = &mut self.stage {
            running.tally.away = Some((running.tally.next, None));
        }
        Some(())
    }

    /// Whether it is to stop and start again now.
    fn is_to_restart(&self) -> bool {
        let Stage::Running(running) = &self.stage else {
            return false;
        };
        let tally = &running.tally;
        let after = self.options.restart_after;
        tally.away.is_none() && after.is_some_and(|after| tally.received >= after)
    }

    /// What all its lives have counted.
    fn stats(&self, node: &Node) -> ReceiverStats {
        let stats = node.station.stats();
        let before = &self.before;
        let repaired = stats.repairs_received + stats.segments_mended + stats.copies_used;
        ReceiverStats {
            datagrams_received: before.datagrams_received + stats.datagrams_received,
            nacks_sent: before.nacks_sent + stats.nacks_sent,
            segments_repaired: before.segments_repaired + repaired,
            segments_lost: before.segments_lost + stats.segments_lost,
        }
    }

    fn fate(self) -> Fate {
        match (self.failure, self.stage) {
            (Some(failure), _) => Fate::Failed(failure),
            (None, Stage::Ended(outcome)) => Fate::Ended(outcome),
            (None, _) => Fate::BrokenOff,
        }
    }

    fn handle_event(&mut self, event: StationEvent) {
        match event {
            StationEvent::Opaque { at, payload } => match &mut self.stage {
                Stage::Running(running) => {
                    // Others may have joined long after we did.
                    if running.tally.received == 0 {
                        running.began = Usage::now();
                    }
                    running.tally.take(self.clock, &payload);
                    if let Some(after) = self.options.leave_after
                        && running.tally.received >= after
                    {
                        self.failure = Some(Failure::Failed(format!(
                            "left after {after} messages, as --leave-after says"
                        )));
                    }
                }
                Stage::Waiting => self.called(at.origin, &payload),
                Stage::Calling(_) | Stage::Ended(_) => {}
            },
            StationEvent::SessionStarted { origin, from } => {
                self.sources.insert(origin, from);
            }
            StationEvent::SessionEnded { origin, .. } => {
                self.sources.remove(&origin);
            }
            _ => {}
        }
    }

    fn poll(&mut self, at: Moment, node: &Node) -> Next {
        if self.failure.is_some() {
            return Next::Done;
        }
        self.look(at.now, node);
        if self.is_to_restart() {
            self.before = self.stats(node);
            self.is_restarting = true;
            return Next::Done;
        }
        match &self.stage {
            Stage::Waiting if self.options.is_listening_only && at.now >= self.deadline => {
                Next::Done
            }
            Stage::Waiting | Stage::Calling(_) if at.now >= self.deadline => {
                self.failure = Some(Failure::Failed(format!(
                    "no source has begun a run within {:?}; start floorcast bench send on the same group and interface, with as many --receivers as there are",
                    self.options.wait
                )));
                Next::Done
            }
            Stage::Ended(_) => Next::Done,
            _ if self.failure.is_some() => Next::Done,
            _ => Next::At(at.now + LOOK_EVERY),
        }
    }

    /// A source calls: answer it.
    fn called(&mut self, origin: Origin, payload: &[u8]) {
        let Some((run, Content::Call { port })) = Content::decode(payload) else {
            return;
        };
        let Some(from) = self.sources.get(&origin) else {
            return;
        };
        let now = self.clock.now();
        let is_full = self.full.get(&run).is_some_and(|until| now < *until);
        if self.options.is_listening_only || is_full {
            return;
        }
        // With everything else that belongs to the address: of a link-local one, the interface.
        let mut to = *from;
        to.set_port(port);
        let hello = Hello {
            run,
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: ClockId::of(self.clock),
            receive_buffer_bytes: self.buffer_bytes,
            threads: self.options.threads,
        };
        let (tell, news) = mpsc::channel();
        let (hand, handed) = mpsc::channel();
        let clock = self.clock;
        // Ends with the connection; the process does not wait for it.
        thread::spawn(move || {
            if let Err(error) = talk(to, &hello, clock, &tell, &handed) {
                let why = why_silent(&error);
                let _ = tell.send(News::Failed(format!("the source at {to}: {why}")));
            }
        });
        self.stage = Stage::Calling(Path { run, news, hand });
    }

    /// What the silent path has brought, and whether everything is there.
    fn look(&mut self, now: Timestamp, node: &Node) {
        let path = match &self.stage {
            Stage::Calling(path) => path,
            Stage::Running(running) => &running.path,
            Stage::Waiting | Stage::Ended(_) => return,
        };
        match path.news.try_recv() {
            Ok(News::Welcome {
                messages,
                size,
                filling,
                is_ready,
            }) => {
                self.begin(messages, size, filling);
                // A thread that hears it no more has failed, which is its next news.
                let _ = is_ready.send(());
            }
            Ok(News::Full) => {
                self.full.retain(|_, until| now < *until);
                if self.full.len() < RUNS_MAX {
                    self.full.insert(path.run, now + ASK_AGAIN);
                }
                self.stage = Stage::Waiting;
            }
            Ok(News::Over { sent }) => {
                if let Stage::Running(running) = &mut self.stage {
                    running.over = Some((sent, now));
                }
            }
            Ok(News::Failed(why)) => self.failure = Some(Failure::Failed(why)),
            Err(TryRecvError::Disconnected) => {
                self.failure = Some(Failure::Failed("the source has gone".to_owned()));
            }
            Err(TryRecvError::Empty) => {}
        }
        self.end(now, node);
    }

    fn begin(&mut self, messages: u64, size: usize, seed: u32) {
        let Stage::Calling(path) = std::mem::replace(&mut self.stage, Stage::Waiting) else {
            return;
        };
        let messages = usize::try_from(messages.min(super::MESSAGES_MAX)).unwrap_or(0);
        let tally = Tally {
            run: path.run,
            arrivals: vec![NEVER; messages],
            filling: filling(seed, size),
            size,
            received: 0,
            next: 0,
            duplicates: 0,
            out_of_order: 0,
            altered: 0,
            ignore_every: self.options.ignore_every.unwrap_or(u64::MAX),
            busy: self.options.busy,
            last: Timestamp::ZERO,
            away: None,
        };
        self.stage = Stage::Running(Box::new(Running {
            path,
            tally,
            began: Usage::now(),
            used: Usage::now(),
            used_at: Timestamp::ZERO,
            over: None,
            asked: (0, Timestamp::ZERO),
        }));
    }

    /// Hands over what came, once everything has or nothing comes any more.
    fn end(&mut self, now: Timestamp, node: &Node) {
        let stats = self.stats(node);
        let Stage::Running(running) = &mut self.stage else {
            return;
        };
        let Some((sent, told)) = running.over else {
            return;
        };
        let tally = &mut running.tally;
        // As long as it is asked for, it may come: what is given up is asked for no more.
        if stats.nacks_sent != running.asked.0 {
            running.asked = (stats.nacks_sent, now);
        }
        if running.used_at <= tally.last {
            (running.used, running.used_at) = (Usage::now(), now);
        }
        let patience_ns = saturating_nanos(PATIENCE);
        let last = tally.last.max(told).max(running.asked.1);
        let is_quiet = now.nanos_since(last) >= patience_ns;
        if tally.received < sent && !is_quiet {
            return;
        }
        // What the process has used, in equal parts.
        let used = running.used.since(running.began);
        let usage = used.part(self.options.count);
        let outcome = Outcome {
            event: "summary",
            name: self.name.clone(),
            sent,
            received: tally.received,
            missing: sent.saturating_sub(tally.received),
            duplicates: tally.duplicates,
            out_of_order: tally.out_of_order,
            altered: tally.altered,
            stats: stats.clone(),
            usage,
            receive_buffer_bytes: self.buffer_bytes,
            threads: self.options.threads,
        };
        let handed = Handed {
            arrivals: tally.arrivals.len() as u64,
            duplicates: tally.duplicates,
            out_of_order: tally.out_of_order,
            altered: tally.altered,
            away: tally.away.map(|(from, back)| (from, back.unwrap_or(sent))),
            usage,
            stats,
        };
        let arrivals = std::mem::take(&mut tally.arrivals);
        let is_handed = running.path.hand.send((handed, arrivals)).is_ok();
        // The thread ends when all is written, and its end of the channel with it.
        let rest = running.path.news.recv();
        if let Ok(News::Failed(why)) = rest {
            self.failure = Some(Failure::Failed(why));
        } else if !is_handed {
            self.failure = Some(Failure::Failed("the source has gone".to_owned()));
        }
        self.stage = Stage::Ended(outcome);
    }
}

/// The silent path, from the call to the end.
fn talk(
    to: SocketAddr,
    hello: &Hello,
    clock: Clock,
    tell: &Sender<News>,
    handed: &Receiver<(Handed, Vec<u64>)>,
) -> io::Result<()> {
    let mut control = Control::connect(to)?;
    control.put(hello)?;
    match control.take()? {
        Welcome::In {
            messages,
            size,
            filling,
        } => {
            let (is_ready, ready) = mpsc::channel();
            let welcome = News::Welcome {
                messages,
                size,
                filling,
                is_ready,
            };
            if tell.send(welcome).is_err() || ready.recv().is_err() {
                return Ok(());
            }
        }
        Welcome::Full => {
            // A receiver that hears it no more has ended.
            let _ = tell.send(News::Full);
            return Ok(());
        }
        Welcome::Out(why) => return Err(io::Error::other(why)),
    }
    let sent = answer_until_over(&mut control, clock)?;
    let _ = tell.send(News::Over { sent });
    if let Ok((handed, arrivals)) = handed.recv() {
        control.put(&handed)?;
        control.put_arrivals(&arrivals)?;
    }
    Ok(())
}

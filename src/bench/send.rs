//! The source of a run: gathers its receivers, keeps its schedule, and reckons up what came when.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::capture::Recorded;
use crate::output::{Ending, Failure, PrintError, Printer};
use crate::proto::{Flow, GroupSize, Percent, PublishError, Rate, SendWindowBytes, Stats, Tuning};
use crate::rng::Rng;
use crate::runtime::{self, Clock, Loop, Moment, Next, Node, Program, Stop};
use crate::station::StationEvent;
use crate::time::{Timestamp, saturating_nanos};

use super::control::{
    Ask, ClockId, Control, Handed, Hello, NEVER, Offset, SILENCE, Told, Welcome, why_silent,
};
use super::figures::{
    self, Came, Circumstances, Percentiles, ReceiverFigures, Samples, Sent, Summary,
};
use super::usage::Usage;
use super::whole::{self, Whole};
use super::{Content, HEAD_BYTES, Place};

/// How often the source calls while receivers are missing.
const CALL_EVERY: Duration = Duration::from_millis(100);
/// How often it looks whether the silent path has news.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// From the last receiver's word to the first message: time for what was set in motion to come to rest.
const LEAD: Duration = Duration::from_millis(200);
/// How long receivers may take to hand over what came. They give up on missing messages after two seconds of silence.
const HAND_OVER: Duration = Duration::from_secs(60);
/// How long somebody who has connected may take to say who it is.
const HELLO: Duration = Duration::from_secs(1);
/// Messages published between two looks at the network.
const MESSAGES_PER_TURN: u64 = 1_024;
/// Messages are cut from stretches of memory of this size.
const STRETCH_BYTES: usize = 1 << 20;
/// What an unpaced run may have on its way before the slowest receiver has said how far it is, twice: half of it is the
/// quorum's share (R-FLOW-2), which fits in the receive buffer that is asked for.
const WINDOW_BYTES: u64 = 4 << 20;

/// What a source is told.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// Where.
    pub place: Place,
    /// How many messages.
    pub messages: u64,
    /// Bytes of each.
    pub size: usize,
    /// Messages a second on a schedule that is fixed before the first; 0: as fast as every receiver takes them.
    pub rate: f64,
    /// Messages that are due at a time; the rate stays what it is.
    pub burst: u64,
    /// How many receivers to wait for.
    pub receivers: usize,
    /// How long to wait for them.
    pub wait: Duration,
    /// Holds the source up for so long in the middle of the schedule: to test a harness with.
    pub stall: Option<Duration>,
    /// Data rate, bytes a second, whatever the schedule; `None`: no bound but the wire's.
    pub data_rate: Option<u64>,
    /// Where raw latencies go, a line for each message.
    pub samples: Option<PathBuf>,
    /// Decides what messages are filled with.
    pub seed: u64,
    /// JSON instead of lines for eyes.
    pub is_json: bool,
}

/// What messages of a run are filled with.
pub(super) fn filling(run: u32, size: usize) -> Vec<u8> {
    let mut rng = Rng::new(u64::from(run));
    let len = size.saturating_sub(HEAD_BYTES);
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(rng.below(u64::MAX).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Runs once, and says what came of it; [`Ending::Failed`] when a receiver lacks anything.
///
/// # Errors
/// [`Failure`] when it cannot start, or receivers do not come.
pub fn run(options: &SendOptions, stop: &Stop) -> Result<Ending, Failure> {
    // Before anything is sent: a file that cannot be written should not cost a run.
    let path = options.samples.as_deref();
    let to = path.map(|path| {
        let refused = |error| whole::refused("--samples", path, &error);
        Whole::create(path).map_err(refused)
    });
    let to = to.transpose()?;
    let (summary, samples) = measure(options, stop)?;
    // Whatever becomes of the one, the other is tried.
    let reported = report(options, &summary);
    if let (Some(to), Some(path)) = (to, path) {
        write_samples(to, &summary, &samples).map_err(|error| {
            Failure::Failed(format!(
                "--samples: cannot write {}: {error}; the summary is whole, the samples are lost",
                path.display()
            ))
        })?;
    }
    reported
}

fn report(options: &SendOptions, summary: &Summary) -> Result<Ending, Failure> {
    let mut printer = Printer::new(options.is_json);
    let line = describe(summary);
    let printed = printer.print(summary, &line).and_then(|()| printer.flush());
    printed.or_else(PrintError::into_ending)?;
    let wrong = summary.missing + summary.duplicates + summary.out_of_order + summary.altered;
    Ok(if wrong == 0 && summary.left.is_empty() {
        Ending::Done
    } else {
        Ending::Failed
    })
}

fn describe(summary: &Summary) -> String {
    let us = |value: Option<f64>| value.map_or("never".to_owned(), |us| format!("{us:.0}"));
    let row = |name: &str, of: &Percentiles| {
        format!(
            "{name} p50 {}, p90 {}, p99 {}, p99.9 {}, max {} us",
            us(of.p50),
            us(of.p90),
            us(of.p99),
            us(of.p999),
            us(of.max)
        )
    };
    let rate = if summary.rate > 0.0 {
        format!("{:.0} a second", summary.rate)
    } else {
        "as fast as all take them".to_owned()
    };
    let left = match summary.left.as_slice() {
        [] => String::new(),
        left => format!(
            "left before the end, so that all their messages are missing and their processor time is not known: {}\n",
            left.join(", ")
        ),
    };
    let away = match summary.away {
        0 => String::new(),
        count => format!(" ({count} of them sent while a receiver started again)"),
    };
    let below_zero = match summary.below_zero {
        0 => String::new(),
        count => format!(
            "{count} latencies were below zero and count as 0: the clocks are within {:.1} us only\n",
            summary.clock_error_us
        ),
    };
    format!(
        "{} messages of {} bytes to {} receivers, {rate}\n\
         {left}missing {}{away}, duplicates {}, out of order {}, altered {}\n\
         {}\n{}\n{below_zero}\
         {:.0} messages a second to every receiver ({:.1} MB/s), {:.2} us of processor for each, all sides\n\
         {} datagrams, {} repairs, {} NACKs, {:.3} bytes on the wire per payload byte; {}, {}, clocks within {:.1} us, seed {}",
        summary.messages,
        summary.size,
        summary.receivers,
        summary.missing,
        summary.duplicates,
        summary.out_of_order,
        summary.altered,
        row("last receiver:", &summary.last_us),
        row("each receiver:", &summary.receiver_us),
        summary.messages_per_s,
        summary.bytes_per_s / 1e6,
        summary.cpu_us_per_message,
        summary.datagrams,
        summary.repairs,
        summary.nacks,
        summary.wire_per_payload,
        summary.security,
        summary.io,
        summary.clock_error_us,
        summary.seed,
    )
}

/// One line for each message: its index, the nanoseconds until the last receiver had it, and until each had it; what never
/// came is `never`.
fn write_samples(mut to: Whole, summary: &Summary, samples: &Samples) -> io::Result<()> {
    let nanos = |value: u64| match value {
        NEVER => "never".to_owned(),
        value => value.to_string(),
    };
    let names = summary.per_receiver.iter().map(|one| one.name.as_str());
    let names: Vec<_> = ["message", "last"].into_iter().chain(names).collect();
    writeln!(to, "{}", names.join("\t"))?;
    for (at, &last) in samples.last.iter().enumerate() {
        write!(to, "{at}\t{}", nanos(last))?;
        for each in &samples.each {
            write!(to, "\t{}", nanos(each[at]))?;
        }
        writeln!(to)?;
    }
    to.finish()
}

#[expect(clippy::cast_possible_truncation, reason = "all 64 bits are in it")]
const fn fold(bits: u64) -> u32 {
    bits as u32 ^ (bits >> 32) as u32
}

/// Does one run.
fn measure(options: &SendOptions, stop: &Stop) -> Result<(Summary, Samples), Failure> {
    options.place.check_route()?;
    let clock = Clock::start();
    let draw = || runtime::draw().map_err(|error| Failure::system("cannot draw a session", &error));
    let session = draw()?;
    // Two sources may be given one seed: it decides what they say, not who they are.
    let run = fold(session);
    let station = station(options, session, draw()?, clock)?;
    let mut looping = Loop::new(options.place.network(), clock)
        .and_then(|mut looping| looping.add(station, &[], None).map(|()| looping))
        .map_err(|error| Failure::system("cannot send", &error))?;
    looping.set_idle(options.place.idle);
    stop.watch(&looping);
    let names = Names::default();
    let (port, joining) = gather(options, run, clock, names.clone())?;
    let mut source = Source {
        options,
        stop: stop.clone(),
        clock,
        run,
        port,
        filling: filling(fold(options.seed), options.size),
        stretch: BytesMut::new(),
        joining,
        names,
        stage: Stage::Gathering {
            joined: Vec::new(),
            call_at: Timestamp::ZERO,
            until: clock.now() + options.wait,
        },
        failure: None,
    };
    looping
        .run(&mut source)
        .map_err(|error| Failure::system("cannot go on", &error))?;
    if let Some(failure) = source.failure.take() {
        return Err(failure);
    }
    let Stage::Over { sent, came } = source.stage else {
        return Err(Failure::Failed("the run was broken off".to_owned()));
    };
    let samples = Samples::of(&sent.intended, &came);
    let circumstances = Circumstances {
        security: options.place.security().to_owned(),
        size: options.size,
        rate: options.rate,
        io: looping.stats().io.to_string(),
        in_trains: looping.stats().sent_in_trains,
        idle: options.place.idle.to_string(),
        send_buffer_bytes: looping.nodes()[0].send_buffer_bytes(),
        seed: options.seed,
    };
    let kept = samples.clone();
    Ok((figures::summary(&sent, came, samples, circumstances), kept))
}

fn station(
    options: &SendOptions,
    session: u64,
    seed: u64,
    clock: Clock,
) -> Result<Recorded, Failure> {
    let usage = |error: crate::proto::ConfigError| Failure::Usage(error.to_string());
    // Each source of a group is a station of its own.
    let name = format!("bench-source-{:x}", session);
    let mut config = Place::station(&name, session, false);
    let endpoint = &mut config.endpoint;
    endpoint.data_rate = match options.data_rate {
        Some(rate) => Rate::try_from(rate).map_err(usage)?,
        None => Rate::MAX,
    };
    endpoint.repair_rate = endpoint.data_rate;
    endpoint.group_size = GroupSize::try_from(options.receivers as u64).map_err(usage)?;
    endpoint.tuning = Tuning::RECOMMENDED;
    if options.rate == 0.0 {
        endpoint.flow = Flow::Quorum(Percent::MAX);
        endpoint.send_window_bytes = SendWindowBytes::try_from(WINDOW_BYTES).map_err(usage)?;
    }
    let mut station = options.place.open(config, false, seed, clock)?;
    station.set_group_size(options.receivers as u64);
    Ok(station)
}

/// Who is there: the thread that takes receivers in and the source's loop, which sees them go, share it.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Names {
    fn all(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.all().len()
    }

    fn contains(&self, name: &str) -> bool {
        self.all().contains(name)
    }

    fn insert(&self, name: &str) {
        self.all().insert(name.to_owned());
    }

    fn remove(&self, name: &str) {
        self.all().remove(name);
    }
}

/// A receiver that takes part.
struct Member {
    hello: Hello,
    control: Control,
    offset: Offset,
}

/// Listens for receivers, on a thread of its own; the port, and those who join.
fn gather(
    options: &SendOptions,
    run: u32,
    clock: Clock,
    names: Names,
) -> Result<(u16, Receiver<Member>), Failure> {
    let own = options.place.own_address().ok_or_else(|| {
        Failure::Failed(format!(
            "interface {} has no address to be called back at",
            options.place.interface
        ))
    })?;
    let listener = TcpListener::bind(own)
        .map_err(|error| Failure::system("cannot listen for receivers", &error))?;
    let port = listener
        .local_addr()
        .map_err(|error| Failure::system("cannot listen for receivers", &error))?
        .port();
    let (join, joining) = mpsc::channel();
    let wanted = Welcome::In {
        messages: options.messages,
        size: options.size,
        filling: fold(options.seed),
    };
    let receivers = options.receivers;
    // Ends with the process: who comes when all are there is told so, and may join another source.
    thread::spawn(move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                // Too many open files, most likely, and nothing tells when there are fewer.
                thread::park_timeout(LOOK_EVERY);
                continue;
            };
            let wanted = if names.len() < receivers {
                &wanted
            } else {
                &Welcome::Full
            };
            match welcome(stream, run, clock, wanted, &names) {
                Ok(Some(member)) => {
                    if join.send(member).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                // Whoever went away before the run may come back.
                Err(error) => tracing::warn!("a receiver could not join: {}", why_silent(&error)),
            }
        }
    });
    Ok((port, joining))
}

/// Takes one receiver in, unless it is one too many of its name.
fn welcome(
    stream: TcpStream,
    run: u32,
    clock: Clock,
    wanted: &Welcome,
    names: &Names,
) -> io::Result<Option<Member>> {
    let mut control = Control::new(stream)?;
    // Whoever says nothing holds up the others.
    control.set_silence(Some(HELLO))?;
    let hello: Hello = control.take()?;
    control.set_silence(Some(SILENCE))?;
    let refused = if hello.run != run {
        Some("this source is in another run".to_owned())
    } else if hello.version != env!("CARGO_PKG_VERSION") {
        Some(format!(
            "the source is floorcast {}, this receiver {}; use one version",
            env!("CARGO_PKG_VERSION"),
            hello.version
        ))
    } else if names.contains(&hello.name) {
        Some(format!(
            "there is a receiver called {:?} already; give each a --name of its own",
            hello.name
        ))
    } else {
        None
    };
    if let Some(why) = refused {
        tracing::warn!("receiver {} was refused: {why}", hello.name);
        control.put(&Welcome::Out(why))?;
        return Ok(None);
    }
    control.put(wanted)?;
    if matches!(wanted, Welcome::Full) {
        return Ok(None);
    }
    let offset = control.compare_clocks(clock, &ClockId::of(clock), &hello.clock)?;
    control.put(&Ask::Ready)?;
    let _: Told = control.take()?;
    names.insert(&hello.name);
    Ok(Some(Member {
        hello,
        control,
        offset,
    }))
}

impl Member {
    /// Its figures as long as it has handed nothing over.
    fn figures(&self) -> ReceiverFigures {
        ReceiverFigures {
            name: self.hello.name.clone(),
            clock_error_us: self.offset.bound_ns as f64 / 1_000.0,
            receive_buffer_bytes: self.hello.receive_buffer_bytes,
            threads: self.hello.threads,
            ..ReceiverFigures::default()
        }
    }
}

/// Asks one receiver for what came.
fn collect(mut member: Member, sent: u64) -> io::Result<Came> {
    let figures = member.figures();
    let Member {
        control, offset, ..
    } = &mut member;
    control.set_silence(Some(HAND_OVER))?;
    control.put(&Ask::Over { sent })?;
    let handed: Handed = control.take()?;
    let mut arrivals = control.take_arrivals(handed.arrivals)?;
    for arrival in arrivals.iter_mut().filter(|arrival| **arrival != NEVER) {
        *arrival = offset.to_ours(*arrival);
    }
    // Those that were sent while it was not there; no others are excused.
    let away = handed.away.map_or(0, |(from, to)| {
        let is_within =
            |(index, arrival): &(u64, &u64)| (from..to).contains(index) && **arrival == NEVER;
        (0..).zip(&arrivals).filter(is_within).count() as u64
    });
    Ok(Came {
        arrivals,
        figures: ReceiverFigures {
            restarts: u64::from(handed.away.is_some()),
            away,
            duplicates: handed.duplicates,
            out_of_order: handed.out_of_order,
            altered: handed.altered,
            usage: handed.usage,
            stats: handed.stats,
            ..figures
        },
    })
}

/// How far the run is.
enum Stage {
    /// Receivers are missing.
    Gathering {
        joined: Vec<Member>,
        call_at: Timestamp,
        until: Timestamp,
    },
    /// Messages are sent.
    Sending {
        members: Vec<Member>,
        schedule: Schedule,
        stall: Option<Duration>,
    },
    /// All were sent; receivers hand over what came.
    Collecting {
        schedule: Schedule,
        came: Vec<Came>,
        /// The figures of those who have not, as if they never will, by name.
        awaited: BTreeMap<String, ReceiverFigures>,
        news: Receiver<(String, io::Result<Came>)>,
        /// What the source had used by when.
        spent: Vec<(Timestamp, Usage)>,
        until: Timestamp,
    },
    /// All have, or have left.
    Over { sent: Sent, came: Vec<Came> },
}

/// When each message should have gone out, and what had been counted and used before the first.
#[derive(Default)]
struct Schedule {
    start: Timestamp,
    intended: Vec<u64>,
    late_ns_max: u64,
    before: Stats,
    used: Usage,
}

struct Source<'a> {
    options: &'a SendOptions,
    stop: Stop,
    clock: Clock,
    run: u32,
    port: u16,
    filling: Vec<u8>,
    stretch: BytesMut,
    joining: Receiver<Member>,
    names: Names,
    stage: Stage,
    failure: Option<Failure>,
}

impl Program for Source<'_> {
    fn handle_event(&mut self, _: Moment, _: usize, _: &mut Recorded, _: StationEvent) {}

    fn poll(&mut self, at: Moment, nodes: &mut [Node]) -> Next {
        if self.stop.is_requested() {
            return Next::Done;
        }
        let next = match &self.stage {
            Stage::Gathering { .. } => self.call(at.now, &mut nodes[0]),
            Stage::Sending { .. } => self.send(&mut nodes[0]),
            Stage::Collecting { .. } => self.wait_for_all(at.now, &nodes[0]),
            Stage::Over { .. } => Next::Done,
        };
        if self.failure.is_some() {
            Next::Done
        } else {
            next
        }
    }
}

impl Source<'_> {
    fn fail(&mut self, sentence: String) -> Next {
        self.failure = Some(Failure::Failed(sentence));
        Next::Done
    }

    /// Calls until all receivers are there.
    fn call(&mut self, now: Timestamp, node: &mut Node) -> Next {
        let Stage::Gathering {
            joined,
            call_at,
            until,
        } = &mut self.stage
        else {
            return Next::Done;
        };
        joined.extend(self.joining.try_iter());
        let is_full = joined.len() >= self.options.receivers;
        if is_full || now >= *call_at {
            // Who went away before the run leaves room for another, or for itself.
            joined.retain(|member| {
                let name = &member.hello.name;
                let has_ended = member.control.has_ended();
                if has_ended {
                    tracing::warn!("receiver {name} has left before the run; waiting for another");
                    self.names.remove(name);
                }
                !has_ended
            });
        }
        if joined.len() >= self.options.receivers {
            let members = std::mem::take(joined);
            self.begin(now, node, members);
            return Next::At(now);
        }
        if now >= *until {
            let sentence = format!(
                "{} of {} receivers are there after {:?}; start floorcast bench receive on the same group and interface, or give fewer --receivers",
                joined.len(),
                self.options.receivers,
                self.options.wait
            );
            return self.fail(sentence);
        }
        if now >= *call_at {
            *call_at = now + CALL_EVERY;
            let call = Content::Call { port: self.port };
            let mut bytes = BytesMut::new();
            call.encode(&mut bytes, self.run, &[], 0);
            let call = bytes.freeze();
            // A full window is no reason to stop calling.
            let _ = node.command().publish(now, Place::stream(), call);
        }
        Next::At((*call_at).min(now + LOOK_EVERY))
    }

    fn begin(&mut self, now: Timestamp, node: &Node, mut members: Vec<Member>) {
        members.sort_by(|a, b| a.hello.name.cmp(&b.hello.name));
        let messages = usize::try_from(self.options.messages).unwrap_or(0);
        self.stage = Stage::Sending {
            members,
            schedule: Schedule {
                start: now + LEAD,
                intended: Vec::with_capacity(messages),
                late_ns_max: 0,
                before: node.station.stats(),
                used: Usage::now(),
            },
            stall: self.options.stall,
        };
    }

    /// Publishes what is due.
    fn send(&mut self, node: &mut Node) -> Next {
        let Stage::Sending {
            schedule, stall, ..
        } = &mut self.stage
        else {
            return Next::Done;
        };
        let now = self.clock.now();
        for _ in 0..MESSAGES_PER_TURN {
            let index = schedule.intended.len() as u64;
            if index == self.options.messages {
                return self.finish(now, node);
            }
            let due = schedule.due(index - index % self.options.burst, self.options.rate, now);
            if due > now {
                return Next::At(due);
            }
            if index == self.options.messages / 2
                && let Some(stall) = stall.take()
            {
                // Held up as by other work on its core: the loop does nothing meanwhile.
                while self.clock.now() < now + stall {
                    std::hint::spin_loop();
                }
                return Next::At(now);
            }
            let message = cut(
                &mut self.stretch,
                self.run,
                index,
                &self.filling,
                self.options.size,
            );
            match node.command().publish(now, Place::stream(), message) {
                Ok(_) => {}
                // On a schedule, what is held up has been on its way since it was due.
                Err(PublishError::WindowFull) => return Next::At(now + LOOK_EVERY),
                Err(error) => return self.fail(format!("message {index} was not sent: {error}")),
            }
            schedule.intended.push(due.as_nanos());
            schedule.late_ns_max = schedule.late_ns_max.max(now.nanos_since(due));
        }
        Next::At(now)
    }

    /// Asks for what came, once everything has gone out.
    fn finish(&mut self, now: Timestamp, node: &Node) -> Next {
        let Stage::Sending {
            members, schedule, ..
        } = &mut self.stage
        else {
            return Next::Done;
        };
        if !node.station.endpoint().is_idle() {
            return Next::At(now + LOOK_EVERY);
        }
        let (tell, news) = mpsc::channel();
        let mut awaited = BTreeMap::new();
        for member in members.drain(..) {
            let tell = tell.clone();
            let sent = self.options.messages;
            let name = member.hello.name.clone();
            awaited.insert(name.clone(), member.figures());
            thread::spawn(move || {
                // Nobody waits for it where the run was broken off.
                let _ = tell.send((name, collect(member, sent)));
            });
        }
        self.stage = Stage::Collecting {
            schedule: std::mem::take(schedule),
            came: Vec::new(),
            awaited,
            news,
            spent: vec![(now, Usage::now())],
            until: now + HAND_OVER,
        };
        Next::At(now + LOOK_EVERY)
    }

    /// Goes on repairing until all receivers have handed over what came. Of one that has left, nothing came: the others'
    /// figures are as good without it.
    fn wait_for_all(&mut self, now: Timestamp, node: &Node) -> Next {
        let Stage::Collecting {
            schedule,
            came,
            awaited,
            news,
            spent,
            until,
        } = &mut self.stage
        else {
            return Next::Done;
        };
        for (name, told) in news.try_iter() {
            let Some(figures) = awaited.remove(&name) else {
                continue;
            };
            came.push(told.unwrap_or_else(|error| gone(figures, &why_silent(&error))));
        }
        let is_stale = |(at, _): &(Timestamp, Usage)| now >= *at + LOOK_EVERY;
        if spent.last().is_none_or(is_stale) {
            spent.push((now, Usage::now()));
        }
        if !awaited.is_empty() && now < *until {
            return Next::At(now + LOOK_EVERY);
        }
        let late = format!(
            "it has not handed over what came within {} s of the last message",
            HAND_OVER.as_secs()
        );
        let awaited = std::mem::take(awaited).into_values();
        came.extend(awaited.map(|figures| gone(figures, &late)));
        let mut came = std::mem::take(came);
        came.sort_by(|a, b| a.figures.name.cmp(&b.figures.name));
        let used = used_by_the_last(spent, &came);
        let sent = std::mem::take(schedule).over(&node.station.stats(), used);
        self.stage = Stage::Over { sent, came };
        Next::Done
    }
}

/// What the source had used when the last message had come to the last receiver: that it then waited for what never came is no
/// cost of a message. To [`LOOK_EVERY`]; of what came to receivers that left, nothing is known.
fn used_by_the_last(spent: &[(Timestamp, Usage)], came: &[Came]) -> Usage {
    let arrivals = came.iter().flat_map(|receiver| &receiver.arrivals);
    let last = arrivals.filter(|&&arrival| arrival != NEVER).max();
    let last = Timestamp::from_nanos(last.copied().unwrap_or(0));
    let after = spent.iter().find(|(at, _)| *at >= last);
    after
        .or(spent.last())
        .map_or_else(Usage::now, |(_, used)| *used)
}

/// What is said of a receiver that has left: it took with it what came.
fn gone(figures: ReceiverFigures, why: &str) -> Came {
    tracing::warn!(
        "receiver {} has left, and all its messages count as missing: {why}",
        figures.name
    );
    Came {
        arrivals: Vec::new(),
        figures: ReceiverFigures {
            left: Some(why.to_owned()),
            ..figures
        },
    }
}

impl Schedule {
    /// When a message is to go out: on a schedule whatever has become of those before it, else now.
    fn due(&self, index: u64, rate: f64, now: Timestamp) -> Timestamp {
        if rate == 0.0 {
            return now.max(self.start);
        }
        let offset = Duration::from_secs_f64(index as f64 / rate);
        self.start.plus_nanos(saturating_nanos(offset))
    }

    fn over(self, after: &Stats, used: Usage) -> Sent {
        let before = &self.before;
        Sent {
            intended: self.intended,
            late_ns_max: self.late_ns_max,
            datagrams: after.datagrams_sent - before.datagrams_sent,
            bytes: after.bytes_sent - before.bytes_sent,
            repairs: after.repairs_sent + after.parity_sent
                - before.repairs_sent
                - before.parity_sent,
            copies: after.copies_sent - before.copies_sent,
            nacks: after.nacks_received - before.nacks_received,
            usage: used.since(self.used),
        }
    }
}

/// A message cut from a stretch of memory: no allocation of its own.
fn cut(stretch: &mut BytesMut, run: u32, index: u64, filling: &[u8], size: usize) -> Bytes {
    if stretch.capacity() < size.max(HEAD_BYTES) {
        *stretch = BytesMut::with_capacity(STRETCH_BYTES.max(size));
    }
    Content::Measured(index).encode(stretch, run, filling, size);
    stretch.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_what_never_came_costs_nothing() {
        let used = |cpu_s| Usage {
            cpu_s,
            rss_bytes: 0,
        };
        let at = Timestamp::from_nanos;
        let spent = [
            (at(100), used(1.0)),
            (at(200), used(2.0)),
            (at(900), used(9.0)),
        ];
        let by = |arrivals: &[&[u64]]| {
            let came = arrivals.iter().map(|arrivals| Came {
                arrivals: arrivals.to_vec(),
                figures: ReceiverFigures::default(),
            });
            used_by_the_last(&spent, &Vec::from_iter(came)).cpu_s
        };
        assert_eq!(by(&[&[50, NEVER], &[150, 60]]), 2.0);
        assert_eq!(by(&[&[50], &[60]]), 1.0);
        // By a clock that is ahead.
        assert_eq!(by(&[&[1_000]]), 9.0);
        assert_eq!(by(&[&[NEVER], &[]]), 1.0);
    }
}

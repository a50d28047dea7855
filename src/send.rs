//! A supervisor's send: publishes at once, finds out meanwhile who is on the floor, and ends when everyone has it, or
//! with the names of those who have not.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use crate::capture::{Capture, Recorded};
use crate::floor::Floor;
use crate::guard::Met;
use crate::keyring::{Known, Protection, Watch};
use crate::net::Interface;
use crate::notice::{Notice, NoticeId, Tally, everybody};
use crate::output::{
    self, Ending, Failure, Line, LossLines, LossSummary, PrintError, Printer, ReceiverLines,
    SendSummary, for_eyes,
};
use crate::proofs::Proofs;
use crate::proto::{self, Blame, DatagramBytes, Join, PublishError, Rate};
use crate::runtime::{self, Clock, Idle, Loop, Moment, Network, Next, Node, Program, Stop};
use crate::station::{BroadcastError, Station, StationConfig, StationEvent};
use crate::time::{Timestamp, saturating_nanos};
use crate::wire::{GroupId, Lane, NAME_BYTES_MAX, SessionId, SourceId, Status, StreamId};

/// How often a send looks whether it is done, when nothing happens by itself.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Sends of one name at a time on one machine; each gets a source of its own.
const SLOTS_MAX: u32 = 64;
/// What a send is told.
pub struct Options {
    /// The floor.
    pub floor: Floor,
    /// Its interface, already chosen.
    pub interface: Interface,
    /// Who sends.
    pub name: String,
    /// To which groups, by name; each is on the floor.
    pub groups: Vec<String>,
    /// In which lane.
    pub lane: Lane,
    /// Whether it is meant.
    pub status: Status,
    /// How long the notices stay true.
    pub expires: Option<Duration>,
    /// Each notice takes the place of the one sent before it.
    pub supersede: bool,
    /// How long to wait for receipts after the last notice.
    pub wait: Duration,
    /// What to send, in order.
    pub texts: Vec<String>,
    /// Notices a second, on a schedule that is fixed by the first; `None`: as fast as the send window takes them.
    pub rate: Option<f64>,
    /// How it waits.
    pub idle: Idle,
    /// Where its inputs are written down.
    pub capture: Option<Capture>,
    /// JSON lines instead of lines for eyes.
    pub is_json: bool,
    /// How it is protected.
    pub protection: Protection,
    /// Where receipts go that prove to others who has what.
    pub receipts: Option<PathBuf>,
}

/// Sends, and waits for the receipts.
///
/// # Errors
/// [`Failure`] when it cannot start; nothing has been sent then.
pub fn run(options: Options, stop: &Stop) -> Result<Ending, Failure> {
    let mut options = options;
    let (watch, known) = (
        options.protection.take_watch(),
        options.protection.take_known(),
    );
    let options = &options;
    let slot = if options.protection.is_open_lab() {
        Slot::take(&options.floor, &options.name)?
    } else {
        Slot::only(&options.floor, &options.name)?
    };
    let proofs = options
        .receipts
        .as_deref()
        .map(|path| Proofs::create(path, options.floor.id))
        .transpose()?;
    let clock = Clock::start();
    let mut station = station(options, &slot.source_name, clock)?;
    let groups: Vec<_> = options
        .groups
        .iter()
        .map(|name| GroupId::of(name))
        .collect();
    // Those who are on no target group may know who is, and hang: they are asked where everybody is.
    let everybody = options
        .floor
        .groups
        .iter()
        .map(|group| group.id)
        .find(|&group| group == everybody());
    let heard: BTreeSet<_> = groups.iter().copied().chain(everybody).collect();
    let heard: Vec<_> = heard.into_iter().collect();
    for &group in &groups {
        let via: BTreeSet<_> = [group].into_iter().chain(everybody).collect();
        let via: Vec<_> = via.into_iter().collect();
        station.call_roll(clock.now(), group, &via);
    }
    let network = Network::of_floor(&options.floor, &options.interface);
    let mut looping = Loop::new(network, clock)
        .and_then(|mut looping| looping.add(station, &heard, None).map(|()| looping))
        .map_err(|error| Failure::system("cannot send", &error))?;
    looping.set_idle(options.idle);
    stop.watch(&looping);
    output::warn_of_open_lab(
        options.protection.is_open_lab(),
        &options.interface.to_string(),
    );
    let mut send = Send::new(options, groups, stop.clone());
    (send.watch, send.known, send.proofs) = (watch, known, proofs);
    looping
        .run(&mut send)
        .map_err(|error| Failure::system("cannot go on", &error))?;
    if let Some(failure) = send.failure.take() {
        return Err(failure);
    }
    let send_errors = looping.stats().send_errors.total();
    let station = &mut looping.nodes_mut()[0].station;
    send.keep_met(station);
    let proved = send.prove(station);
    let ending = send.finish(station, send_errors)?;
    proved.map(|()| ending)
}

fn station(options: &Options, name: &str, clock: Clock) -> Result<Recorded, Failure> {
    let draw = || runtime::draw().map_err(|error| Failure::system("cannot draw a session", &error));
    let floor = &options.floor;
    let rate =
        |bytes: u64| Rate::try_from(bytes).map_err(|error| Failure::Usage(error.to_string()));
    let mut endpoint =
        proto::Config::new(floor.id, SourceId::of(floor.id, name), SessionId(draw()?));
    endpoint.datagram_bytes = DatagramBytes::RECOMMENDED;
    endpoint.data_rate = rate(floor.rates.data_bytes_per_s)?;
    endpoint.repair_rate = rate(floor.rates.repair_bytes_per_s)?;
    endpoint.flow = floor.repair.flow;
    endpoint.is_rate_adaptive = floor.repair.is_rate_adaptive;
    endpoint.tuning = floor.repair.tuning;
    let guard = options.protection.guard(&mut endpoint, clock)?;
    let listed = floor
        .roster
        .listed
        .iter()
        .map(|(group, names)| (GroupId::of(group), names.clone()));
    let config = StationConfig {
        endpoint,
        name: name.to_owned(),
        is_workstation: false,
        groups: Vec::new(),
        join: Join::Lead,
        remember: floor.roster.remember,
        listed: listed.collect(),
    };
    let capture = options.capture.as_ref();
    let station = Recorded::new(config, draw()?, clock.now(), capture);
    Ok(match guard {
        Some(guard) => station.guarded(guard),
        None => station,
    })
}

/// A name's place among the sends that run on this machine at a time. A source survives restarts, so that receivers know
/// a second life from the first; two sends at once must be two sources.
struct Slot {
    source_name: String,
    _lock: Option<File>,
}

impl Slot {
    /// One of as many as there may be in an open laboratory.
    fn take(floor: &Floor, name: &str) -> Result<Self, Failure> {
        for slot in 1..=SLOTS_MAX {
            let source_name = if slot == 1 {
                name.to_owned()
            } else {
                with_slot(name, slot)
            };
            match lock(floor, &source_name) {
                Ok(lock) => {
                    return Ok(Self {
                        source_name,
                        _lock: Some(lock),
                    });
                }
                Err(Locked::Taken) => {}
                Err(Locked::Unlockable) => {
                    return Ok(Self {
                        source_name,
                        _lock: None,
                    });
                }
                Err(Locked::NoPlace(_)) => {
                    // Another user's file, a read-only disk: a source that nobody else can be.
                    let nobody = runtime::draw()
                        .map_err(|error| Failure::system("cannot draw a name", &error))?;
                    return Ok(Self {
                        source_name: with_slot(name, u32::try_from(nobody >> 33).unwrap_or(0)),
                        _lock: None,
                    });
                }
            }
        }
        Err(Failure::Usage(format!(
            "{SLOTS_MAX} sends called \"{name}\" run on this machine already; wait for one of them, or give this one another --name"
        )))
    }

    /// The only one that there is where names are granted: nobody has granted anything to `name` with a number behind it.
    fn only(floor: &Floor, name: &str) -> Result<Self, Failure> {
        let lock = match lock(floor, name) {
            Ok(lock) => Some(lock),
            Err(Locked::Unlockable) => None,
            Err(Locked::Taken) => {
                return Err(Failure::Usage(format!(
                    "a send called \"{name}\" runs on this machine already; wait for it, or give this one another --name that \
                     has been granted something"
                )));
            }
            Err(Locked::NoPlace(sentence)) => return Err(Failure::Usage(sentence)),
        };
        Ok(Self {
            source_name: name.to_owned(),
            _lock: lock,
        })
    }
}

/// Why a name is not locked.
enum Locked {
    /// Another send has it.
    Taken,
    /// The file's system knows no locks.
    Unlockable,
    /// There is no place for a lock.
    NoPlace(String),
}

/// Keeps others on this machine from being the source called `name`.
fn lock(floor: &Floor, name: &str) -> Result<File, Locked> {
    let id = SourceId::of(floor.id, name);
    let path = std::env::temp_dir().join(format!("floorcast-{}-{id}.lock", floor.id));
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| {
            let path = path.display();
            Locked::NoPlace(format!(
                "{path} cannot be opened, which keeps two sends from being the same source: {error}; remove it, or give \
                 another --name"
            ))
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Locked::Taken),
        Err(TryLockError::Error(_)) => Err(Locked::Unlockable),
    }
}

/// `name` with a number behind it, cut so that it stays a station name.
fn with_slot(name: &str, slot: u32) -> String {
    let suffix = format!("#{slot}");
    let mut end = name.len().min(NAME_BYTES_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

/// One send on its way.
struct Send<'a> {
    options: &'a Options,
    groups: Vec<GroupId>,
    stop: Stop,
    printer: Printer,
    /// The next text to publish.
    next: usize,
    began: Timestamp,
    /// The wall clock then.
    began_wall_ns: u64,
    published: Timestamp,
    /// The first notice whose receipt has not been printed.
    unreceipted: usize,
    complete: usize,
    /// Notices that not everybody has, because newer ones took their place.
    replaced: usize,
    expected: usize,
    missing: BTreeSet<String>,
    loss_lines: LossLines,
    last_reported: Timestamp,
    unprinted: Option<PrintError>,
    failure: Option<Failure>,
    watch: Option<Watch>,
    known: Option<Known>,
    /// Workstations that have shown a key for the first time.
    met: Vec<Met>,
    proofs: Option<Proofs>,
    /// Workstations that have received something.
    received: usize,
    /// Until when receipts that prove it are waited for, and when they are asked for again.
    proving: Option<(Timestamp, Timestamp)>,
}

impl<'a> Send<'a> {
    fn new(options: &'a Options, groups: Vec<GroupId>, stop: Stop) -> Self {
        Self {
            options,
            groups,
            stop,
            printer: Printer::new(options.is_json),
            next: 0,
            began: Timestamp::ZERO,
            began_wall_ns: 0,
            published: Timestamp::ZERO,
            unreceipted: 0,
            complete: 0,
            replaced: 0,
            expected: 0,
            missing: BTreeSet::new(),
            loss_lines: LossLines::default(),
            last_reported: Timestamp::ZERO,
            unprinted: None,
            failure: None,
            watch: None,
            known: None,
            met: Vec::new(),
            proofs: None,
            received: 0,
            proving: None,
        }
    }

    /// Whether receipts that prove who has what are still to come; asks for them.
    fn is_proving(&mut self, now: Timestamp, station: &mut Recorded) -> bool {
        /// A second is many times what a whole floor takes.
        const WAIT: Duration = Duration::from_secs(1);
        const ASK_EVERY: Duration = Duration::from_millis(250);
        if self.proofs.is_none() || self.stop.is_requested() {
            return false;
        }
        let came = station.guard().map_or(0, |guard| guard.receipts().count());
        let (until, ask_at) = *self.proving.get_or_insert((now + WAIT, now));
        if came >= self.received * self.groups.len().min(1) || now >= until {
            return false;
        }
        if now >= ask_at {
            station.ask_receipts();
            self.proving = Some((until, now + ASK_EVERY));
        }
        true
    }

    /// Writes down what proves who has what.
    fn prove(&mut self, station: &mut Recorded) -> Result<(), Failure> {
        let Some(proofs) = self.proofs.take() else {
            return Ok(());
        };
        let left_out = station.guard().map_or(0, |guard| guard.receipts_left_out());
        if left_out > 0 {
            tracing::warn!("{left_out} receipts were not kept, for want of room");
        }
        let receipts: Vec<_> = station
            .guard()
            .map(|guard| {
                guard
                    .receipts()
                    .map(|(_, _, bytes)| bytes.clone())
                    .collect()
            })
            .unwrap_or_default();
        let receipts = receipts.iter().map(|bytes: &bytes::Bytes| &bytes[..]);
        proofs.write(receipts, |proven| station.name_of(proven.station))?;
        Ok(())
    }

    /// Learns of keys that have changed, and of workstations that have shown theirs.
    fn learn(&mut self, at: Moment, station: &mut Recorded) {
        let Some(guard) = station.guard() else { return };
        if let Some(watch) = &mut self.watch
            && let Some((group_keys, revoked)) = watch.poll(at.wall_ns / 1_000_000_000)
        {
            tracing::info!("the floor's keys have changed");
            guard.renew(group_keys, revoked);
        }
        let mut refused = Vec::new();
        while let Some(met) = guard.poll_met() {
            if met.is_taken {
                self.met.push(met);
            } else {
                refused.push(met);
            }
        }
        for met in refused {
            let (name, key) = (station.name_of(met.station), met.key.fingerprint());
            tracing::warn!(
                "{name:?} speaks with the key {key}, which is not the one that it is known by, and counts as not heard; if it \
                 was set up anew, list its new key under [enrolment.keys], or take its line out of what was met before"
            );
        }
    }

    /// Remembers the workstations that were met, now that they have said what they are called.
    fn keep_met(&mut self, station: &Recorded) {
        /// Fingerprints shown one by one; of more, their number.
        const SHOWN_MAX: usize = 8;
        let Some(known) = &mut self.known else { return };
        for (shown, met) in self.met.iter().enumerate() {
            let (name, key) = (station.name_of(met.station), met.key);
            if shown < SHOWN_MAX {
                tracing::info!(
                    "{name:?} is met for the first time: its key is {}",
                    key.fingerprint()
                );
            }
            if let Err(failure) = known.remember(met.station, &name, key) {
                tracing::warn!("{failure}");
            }
        }
        if self.met.len() > SHOWN_MAX {
            tracing::info!("and {} more are", self.met.len() - SHOWN_MAX);
        }
        if let Err(failure) = known.save() {
            tracing::warn!("{failure}");
        }
    }

    /// How long after the first one the next notice is due, on a schedule.
    fn due_ns(&self) -> Option<u64> {
        let seconds = |rate| self.next as f64 / rate;
        self.options
            .rate
            .map(|rate| saturating_nanos(Duration::from_secs_f64(seconds(rate))))
    }

    /// Publishes what is due, as far as the send window takes it.
    fn publish(&mut self, at: Moment, node: &mut Node) {
        if self.next == 0 {
            self.began = at.now;
            self.began_wall_ns = at.wall_ns;
        }
        while let Some(text) = self.options.texts.get(self.next) {
            let due_ns = self.due_ns();
            if due_ns.is_some_and(|due_ns| at.now < self.began.plus_nanos(due_ns)) {
                return;
            }
            // On a schedule, what comes late has been on its way since it was due: the sender is part of the path.
            let sent_ns = due_ns.map_or(at.wall_ns, |due_ns| self.began_wall_ns + due_ns);
            let Ok(id) = runtime::draw() else {
                self.failure = Some(Failure::Failed(
                    "the system has no randomness to give".to_owned(),
                ));
                return;
            };
            let notice = Notice {
                id: NoticeId(id),
                from: self.options.name.as_str().into(),
                sent_ns,
                expires_ns: self
                    .options
                    .expires
                    .map(|expires| sent_ns + saturating_nanos(expires)),
                confirm: true,
                status: self.options.status,
                text: text.as_str().into(),
            };
            // One key is enough: a send is a session of its own.
            let supersedes = self.options.supersede.then_some(0);
            let lane = self.options.lane;
            match node
                .command()
                .broadcast(at.now, &self.groups, lane, &notice, supersedes)
            {
                Ok(parts) => {
                    self.next += 1;
                    if let Some(proofs) = &mut self.proofs {
                        proofs.sent(notice.id, &parts);
                    }
                }
                Err(BroadcastError::Publish(PublishError::WindowFull)) => return,
                Err(error) => {
                    let sentence = format!("notice {} was not sent: {error}", self.next + 1);
                    self.failure = Some(Failure::Failed(sentence));
                    return;
                }
            }
            self.published = at.now;
        }
    }

    /// Prints the receipts of notices that everybody has, in order.
    fn receipts(&mut self, now: Timestamp, station: &mut Recorded) {
        let newest = self.options.texts.len() - 1;
        while self.unreceipted < station.sent_len()
            && (station.is_received_by_all(now, self.unreceipted)
                || (self.is_superseded(self.unreceipted)
                    && station.is_received_by_all(now, newest)))
        {
            if let Some(tally) = station.tally(now, self.unreceipted) {
                self.receipt(station, &tally);
            }
        }
    }

    fn receipt(&mut self, station: &Station, tally: &Tally) {
        let mut missing: Vec<_> = tally
            .missing
            .iter()
            .map(|&id| station.name_of(id))
            .collect();
        missing.sort();
        let received = tally.expected - missing.len();
        self.received = self.received.max(received);
        let is_complete = missing.is_empty() && tally.expected > 0;
        self.complete += usize::from(is_complete);
        self.expected = self.expected.max(tally.expected);
        if is_complete || !self.is_superseded(self.unreceipted) {
            self.missing.extend(missing.iter().cloned());
        } else {
            self.replaced += 1;
        }
        self.unreceipted += 1;
        let line = Line::Receipt {
            id: tally.id.to_string(),
            expected: tally.expected,
            received,
            missing,
        };
        if let Err(error) = self.printer.print(&line, "") {
            self.unprinted.get_or_insert(error);
        }
    }

    /// A workstation left the pace, is back in it, or lacks what cannot be had any more.
    fn pace(&mut self, station: &Station, who: SourceId, stream: StreamId, state: &str) {
        let name = station.name_of(who);
        if state != "rejoined" {
            tracing::warn!(
                "{} cannot keep up: it has {state} the pace",
                for_eyes(&name)
            );
        }
        let line = Line::Receiver {
            name,
            group: self.group(stream),
            lane: stream.lane().as_str(),
            state,
        };
        if let Err(error) = self.printer.print(&line, "") {
            self.unprinted.get_or_insert(error);
        }
    }

    /// A loss is over.
    fn loss(&mut self, station: &Station, stream: StreamId, blame: Blame, asked: usize) {
        let at = (self.group(stream), stream.lane());
        let printed = self
            .loss_lines
            .print(&mut self.printer, station, at, blame, asked);
        if let Err(error) = printed {
            self.unprinted.get_or_insert(error);
        }
    }

    /// The name of a stream's group.
    fn group(&self, stream: StreamId) -> &'a str {
        let groups = &self.options.floor.groups;
        let group = groups.iter().find(|group| group.id == stream.group());
        group.map_or("", |group| group.name.as_str())
    }

    /// Whether a notice was meant to be replaced by the one after it: then it need not be with everybody.
    const fn is_superseded(&self, index: usize) -> bool {
        self.options.supersede && index + 1 < self.options.texts.len()
    }

    /// Prints what is left to say.
    fn finish(mut self, station: &Station, send_errors: u64) -> Result<Ending, Failure> {
        let stats = station.stats();
        let seconds =
            Duration::from_nanos(self.last_reported.nanos_since(self.began)).as_secs_f64();
        let notices = self.options.texts.len();
        let summary = SendSummary {
            notices,
            complete: self.complete,
            incomplete: notices - self.complete - self.replaced,
            expected: self.expected,
            missing: self.missing.iter().cloned().collect(),
            seconds,
            datagrams_sent: stats.datagrams_sent,
            repairs_sent: stats.repairs_sent,
            nacks_received: stats.nacks_received,
            parity_sent: stats.parity_sent,
            copies_sent: stats.copies_sent,
            expired: stats.messages_expired,
            superseded: stats.messages_superseded,
            send_errors,
            losses: LossSummary::of(station),
            losses_left_out: self.loss_lines.left_out(),
            receivers: ReceiverLines::worst_of(station),
            open_lab: self.options.protection.is_open_lab(),
            security: self.options.protection.as_str(),
        };
        let text = self.in_words(&summary);
        let printed = match self.unprinted.take() {
            Some(error) => Err(error),
            None => self
                .printer
                .print(&Line::Summary(summary), &text)
                .and_then(|()| self.printer.flush()),
        };
        // A closed pipe is no failure; whether everyone has it is told by the exit code.
        printed.or_else(PrintError::into_ending)?;
        let is_done = self.complete + self.replaced == notices && self.expected > 0;
        Ok(if is_done {
            Ending::Done
        } else {
            Ending::Incomplete
        })
    }

    fn in_words(&self, summary: &SendSummary) -> String {
        if summary.expected == 0 {
            return format!("nobody heard in {} s", self.options.wait.as_secs_f64());
        }
        let received = summary.expected - summary.missing.len();
        let what = if summary.notices == 1 {
            String::new()
        } else {
            format!(" have all {} notices", summary.notices)
        };
        let missing = match summary.missing.as_slice() {
            [] => String::new(),
            names => format!(
                "; missing: {}",
                names
                    .iter()
                    .map(|name| for_eyes(name))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let time = match self.last_reported {
            Timestamp::ZERO => String::new(),
            _ => format!(" in {:.1} ms", summary.seconds * 1_000.0),
        };
        format!("{received}/{}{what}{time}{missing}", summary.expected)
    }
}

impl Program for Send<'_> {
    fn handle_event(&mut self, at: Moment, _: usize, station: &mut Recorded, event: StationEvent) {
        match event {
            StationEvent::Reported { .. } => self.last_reported = at.now,
            StationEvent::LossJudged {
                stream,
                blame,
                askers,
            } => self.loss(station, stream, blame, askers),
            StationEvent::PaceLeft {
                station: who,
                stream,
                ..
            } => self.pace(station, who, stream, "left"),
            StationEvent::PaceRejoined {
                station: who,
                stream,
            } => self.pace(station, who, stream, "rejoined"),
            StationEvent::Evicted {
                station: who,
                stream,
                ..
            } => self.pace(station, who, stream, "evicted"),
            StationEvent::NameConflict { from } => {
                tracing::warn!(
                    "another program on the floor, at {from}, is called \"{}\" too: give one of them another --name",
                    self.options.name
                );
            }
            _ => {}
        }
    }

    fn poll(&mut self, at: Moment, nodes: &mut [Node]) -> Next {
        let node = &mut nodes[0];
        self.learn(at, &mut node.station);
        self.publish(at, node);
        let all_published = self.next == self.options.texts.len();
        if !node.station.endpoint().is_idle() {
            // The waiting begins when the last of it has gone out, at whatever rate the floor allows.
            self.published = at.now;
        }
        let station = &mut node.station;
        let settled = station.is_roster_settled(at.now);
        if settled && station.expected_len(at.now) > 0 {
            self.receipts(at.now, station);
        }
        // Nobody is given up while repairs still bring somebody on.
        let since = self.published.max(station.last_moved());
        let waited = all_published && at.now >= since + self.options.wait;
        let done = all_published && self.unreceipted == self.options.texts.len();
        if self.failure.is_some()
            || self.unprinted.is_some()
            || done
            || waited
            || self.stop.is_requested()
        {
            for index in self.unreceipted..station.sent_len() {
                if let Some(tally) = station.tally(at.now, index) {
                    self.receipt(station, &tally);
                }
            }
            if self.is_proving(at.now, node.command()) {
                return Next::At(at.now + LOOK_EVERY);
            }
            return Next::Done;
        }
        let look = at.now + LOOK_EVERY;
        let due = self.due_ns().map(|due_ns| self.began.plus_nanos(due_ns));
        Next::At(match due {
            _ if all_published => look,
            Some(due) if due > at.now => due.min(look),
            // The send window is full.
            _ => at.now + Duration::from_millis(1),
        })
    }
}

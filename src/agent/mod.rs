//! A workstation: prints each notice as it is delivered, once, in order, and says what it could not have.

mod exec;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};

use crate::capture::{Capture, Recorded};
use crate::floor::Floor;
use crate::keyring::{Protection, Watch};
use crate::net::{Interface, IoModes};
use crate::notice::{NoticeError, NoticeId};
use crate::output::{self, Ending, Failure, Line, NoticeLine, PrintError, Printer, for_eyes};
use crate::proto::{self, Join, Origin};
use crate::runtime::{self, Clock, Idle, Loop, Moment, Network, Next, Node, Program, Stop};
use crate::station::{Claim, Placed, StationConfig, StationEvent};
use crate::time::Timestamp;
use crate::wire::{GroupId, SeqRange, SessionId, SkipReason, SourceId, Status, StreamId};

use exec::Exec;
use state::{State, StateError};

/// Events that wait to be printed. When they are this many, nothing more is read from the network until some have gone
/// out (see [`Program::is_ready`]).
const QUEUE_MAX: usize = 4_096;
/// What an agent is told.
pub struct Options {
    /// The floor.
    pub floor: Floor,
    /// Its interface, already chosen.
    pub interface: Interface,
    /// Its name.
    pub name: String,
    /// The groups it listens to, by name.
    pub groups: Vec<String>,
    /// A command to run for each notice.
    pub exec: Option<String>,
    /// Where it remembers how far it came; `None`: nowhere.
    pub state: Option<PathBuf>,
    /// How it waits.
    pub idle: Idle,
    /// Where its inputs are written down.
    pub capture: Option<Capture>,
    /// JSON lines instead of lines for eyes.
    pub is_json: bool,
    /// How it is protected.
    pub protection: Protection,
}

/// Runs an agent until it is asked to stop.
///
/// # Errors
/// [`Failure`] when it cannot start.
pub fn run(options: Options, stop: &Stop) -> Result<Ending, Failure> {
    let mut options = options;
    let watch = options.protection.take_watch();
    let options = &options;
    let mut state = open_state(options)?;
    let clock = Clock::start();
    let mut station = station(options, clock)?;
    for (origin, stream, from) in state.iter().flat_map(State::marks) {
        station.resume(origin, stream, from);
    }
    state
        .iter()
        .flat_map(State::shown)
        .for_each(|id| station.remember(id));
    let groups: Vec<_> = options
        .groups
        .iter()
        .map(|name| GroupId::of(name))
        .collect();
    output::warn_of_open_lab(
        options.protection.is_open_lab(),
        &options.interface.to_string(),
    );
    let network = Network::of_floor(&options.floor, &options.interface);
    let mut looping = Loop::new(network, clock)
        .and_then(|mut looping| looping.add(station, &groups, None).map(|()| looping))
        .map_err(|error| Failure::system("cannot listen", &error))?;
    looping.set_idle(options.idle);
    stop.watch(&looping);
    let (sender, receiver) = channel::bounded(QUEUE_MAX);
    let receive_buffer_bytes = looping.nodes()[0].receive_buffer_bytes();
    let io = looping.stats().io;
    let mut show = Show::new(options, Exec::start(options.exec.as_deref()));
    let mut agent = Agent {
        events: sender,
        stop: stop.clone(),
        watch,
    };
    thread::scope(|scope| {
        let network = scope.spawn(move || {
            let result = looping.run(&mut agent);
            drop(agent);
            result
        });
        let guard = StopOnDrop(stop.clone());
        let shown = show.run(&receiver, state.as_mut(), receive_buffer_bytes, io);
        // Nobody reads any more, or the loop has ended.
        drop(guard);
        drop(receiver);
        let result = network
            .join()
            .map_err(|_| Failure::Failed("the network thread has failed".to_owned()))?;
        result.map_err(|error| Failure::system("cannot go on", &error))?;
        show.finish();
        shown
            .or_else(PrintError::into_ending)
            .map(|()| Ending::Done)
    })
}

fn station(options: &Options, clock: Clock) -> Result<Recorded, Failure> {
    let draw = || runtime::draw().map_err(|error| Failure::system("cannot draw a session", &error));
    let source = SourceId::of(options.floor.id, &options.name);
    let mut endpoint = proto::Config::new(options.floor.id, source, SessionId(draw()?));
    let guard = options.protection.guard(&mut endpoint, clock)?;
    let config = StationConfig {
        endpoint,
        name: options.name.clone(),
        is_workstation: true,
        groups: options
            .groups
            .iter()
            .map(|name| GroupId::of(name))
            .collect(),
        join: Join::Trail,
        remember: options.floor.roster.remember,
        listed: BTreeMap::new(),
    };
    let capture = options.capture.as_ref();
    let station = Recorded::new(config, draw()?, clock.now(), capture);
    Ok(match guard {
        Some(guard) => station.guarded(guard),
        None => station,
    })
}

/// Opens what was remembered. Without a place for it the agent works all the same, and says what is missing.
fn open_state(options: &Options) -> Result<Option<State>, Failure> {
    let Some(directory) = &options.state else {
        return Ok(None);
    };
    match State::open(directory, options.floor.id, &options.name) {
        Ok(state) => Ok(Some(state)),
        Err(StateError::InUse(path)) => Err(Failure::Usage(format!(
            "an agent called \"{}\" runs on this machine already (it holds {}); stop it, or give this one another --name",
            options.name,
            path.display()
        ))),
        Err(StateError::File(path, error)) => {
            let path = path.display();
            tracing::warn!(
                "cannot remember in {path} what has been shown ({error}); after a restart, notices may be shown again"
            );
            Ok(None)
        }
    }
}

/// How often an agent asks whether keys have changed. It costs nothing where they have not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The network thread's part: hands everything on.
struct Agent {
    events: Sender<(u64, StationEvent)>,
    stop: Stop,
    watch: Option<Watch>,
}

impl Program for Agent {
    fn handle_event(&mut self, at: Moment, _: usize, _: &mut Recorded, event: StationEvent) {
        // There is room: `is_ready` was asked before, and nobody else puts anything in. A closed queue means the end.
        let _ = self.events.try_send((at.wall_ns, event));
    }

    fn poll(&mut self, at: Moment, nodes: &mut [Node]) -> Next {
        if self.stop.is_requested() {
            return Next::Done;
        }
        let (Some(watch), Some(guard)) = (&mut self.watch, nodes[0].station.guard()) else {
            return Next::At(Timestamp::FAR_FUTURE);
        };
        if let Some((group_keys, revoked)) = watch.poll(at.wall_ns / 1_000_000_000) {
            tracing::info!("the floor's keys have changed");
            guard.renew(group_keys, revoked);
        }
        while let Some(met) = guard.poll_met() {
            if !met.is_taken {
                let (station, key) = (met.station, met.key.fingerprint());
                tracing::warn!(
                    "a station with the id {station} speaks with the key {key}, which is not its own, and is not heard"
                );
            }
        }
        Next::At(at.now + LOOK_EVERY)
    }

    fn is_ready(&self) -> bool {
        !self.events.is_full()
    }
}

/// The main thread's part: prints, remembers, runs the command.
struct Show<'a> {
    options: &'a Options,
    printer: Printer,
    exec: Option<Exec>,
    names: BTreeMap<SourceId, String>,
    groups: BTreeMap<GroupId, String>,
    /// Sessions that have started and of which nothing has come yet: with the first notice comes the sender's name.
    unnamed: BTreeMap<SourceId, Origin>,
    unreadable: u64,
}

impl<'a> Show<'a> {
    fn new(options: &'a Options, exec: Option<Exec>) -> Self {
        Self {
            options,
            printer: Printer::new(options.is_json),
            exec,
            names: BTreeMap::new(),
            groups: options
                .floor
                .groups
                .iter()
                .map(|group| (group.id, group.name.clone()))
                .collect(),
            unnamed: BTreeMap::new(),
            unreadable: 0,
        }
    }

    fn run(
        &mut self,
        events: &Receiver<(u64, StationEvent)>,
        mut state: Option<&mut State>,
        receive_buffer_bytes: usize,
        io: IoModes,
    ) -> Result<(), PrintError> {
        self.ready(receive_buffer_bytes, io)?;
        while let Ok((wall_ns, event)) = events.recv() {
            self.show(wall_ns, &event)?;
            self.printer.flush()?;
            // Written down line by line: a program that is killed shows at most the line again that was just out.
            if let Some(open) = state.as_deref_mut() {
                remember(open, &event);
                if let Err(StateError::File(path, error)) = open.store() {
                    tracing::warn!("cannot remember in {}: {error}", path.display());
                    state = None;
                }
            }
        }
        self.printer.flush()
    }

    /// Lets the command run for what was shown.
    fn finish(&mut self) {
        if let Some(exec) = self.exec.take() {
            exec.finish();
        }
    }

    fn ready(&mut self, receive_buffer_bytes: usize, io: IoModes) -> Result<(), PrintError> {
        let interface = self.options.interface.to_string();
        let line = Line::Ready {
            name: &self.options.name,
            interface: &self.options.interface.name,
            groups: &self.options.groups,
            receive_buffer_bytes,
            io: io.to_string(),
            open_lab: self.options.protection.is_open_lab(),
            security: self.options.protection.as_str(),
        };
        let groups = self.options.groups.join(", ");
        let text = format!("{} listens on {interface} to {groups}", self.options.name);
        self.printer.print(&line, &text)?;
        self.printer.flush()
    }

    fn show(&mut self, wall_ns: u64, event: &StationEvent) -> Result<(), PrintError> {
        match event {
            StationEvent::SessionStarted { origin, .. } => {
                self.unnamed.insert(origin.source, *origin);
                Ok(())
            }
            StationEvent::SessionEnded { origin, reason } => {
                self.name_session(origin.source)?;
                let from = self.name(origin.source);
                let (session, why) = (origin.session.to_string(), Some(reason.as_str()));
                let line = Line::Session {
                    from: &from,
                    session,
                    state: "ended",
                    why,
                };
                self.printer.print(
                    &line,
                    &format!("-- {} has ended: {}", for_eyes(&from), reason.as_str()),
                )
            }
            StationEvent::Notice {
                at,
                notice,
                is_expired,
            } => {
                self.names
                    .insert(at.origin.source, notice.from.as_str().to_owned());
                self.name_session(at.origin.source)?;
                self.notice(wall_ns, at, notice, *is_expired)
            }
            StationEvent::Lost {
                origin,
                stream,
                seqs,
            } => self.lost(*origin, *stream, *seqs),
            StationEvent::NameConflict { from } => self.conflict(*from),
            StationEvent::Unreadable { at, error } => {
                self.unreadable(at.origin, *error);
                Ok(())
            }
            StationEvent::Refused { at, id, claim } => {
                self.refused(at.origin, *id, *claim);
                Ok(())
            }
            StationEvent::Skipped {
                origin,
                stream,
                seqs,
                why,
            } => self.skipped(*origin, *stream, *seqs, *why),
            StationEvent::PaceTold {
                origin,
                stream,
                is_behind,
            } => self.pace_told(*origin, *stream, *is_behind),
            // What concerns sources, since an agent publishes nothing, and what is not for people.
            StationEvent::Again { .. }
            | StationEvent::Opaque { .. }
            | StationEvent::Reported { .. }
            | StationEvent::LossJudged { .. }
            | StationEvent::PaceLeft { .. }
            | StationEvent::PaceRejoined { .. }
            | StationEvent::Evicted { .. } => Ok(()),
        }
    }

    fn unreadable(&mut self, origin: Origin, error: NoticeError) {
        self.unreadable += 1;
        if self.unreadable.is_power_of_two() {
            tracing::warn!(
                count = self.unreadable,
                "a message of {} cannot be read: {error}",
                origin.source
            );
        }
    }

    fn refused(&self, origin: Origin, id: NoticeId, claim: Claim) {
        let from = self.name(origin.source);
        match claim {
            Claim::Status(status) => tracing::warn!(
                "notice {id} of {from} is not shown: its grant does not let it send with the status {status}"
            ),
            Claim::Name => tracing::warn!(
                "notice {id} of {from} is not shown: it says that it is from somebody else"
            ),
        }
    }

    fn skipped(
        &mut self,
        origin: Origin,
        stream: StreamId,
        seqs: SeqRange,
        why: SkipReason,
    ) -> Result<(), PrintError> {
        self.name_session(origin.source)?;
        let (from, group) = (self.name(origin.source), self.group(stream));
        let line = Line::Skipped {
            from: &from,
            group: &group,
            lane: stream.lane().as_str(),
            first: seqs.first().0,
            last: seqs.last().0,
            why: why.as_str(),
        };
        let text = format!(
            "-- {} took back to {group}: numbers {} to {} ({})",
            for_eyes(&from),
            seqs.first(),
            seqs.last(),
            why.as_str()
        );
        self.printer.print(&line, &text)
    }

    fn pace_told(
        &mut self,
        origin: Origin,
        stream: StreamId,
        is_behind: bool,
    ) -> Result<(), PrintError> {
        let (from, group) = (self.name(origin.source), self.group(stream));
        let state = if is_behind { "left" } else { "rejoined" };
        if is_behind {
            tracing::warn!(
                "this workstation cannot keep up with {} on {group}: it catches up alone",
                for_eyes(&from)
            );
        }
        let line = Line::Pace {
            from: &from,
            group: &group,
            lane: stream.lane().as_str(),
            state,
        };
        self.printer.print(&line, "")
    }

    fn lost(&mut self, origin: Origin, stream: StreamId, seqs: SeqRange) -> Result<(), PrintError> {
        self.name_session(origin.source)?;
        let (from, group) = (self.name(origin.source), self.group(stream));
        let line = Line::lost(&from, &group, stream.lane().as_str(), seqs);
        let (first, last) = (seqs.first(), seqs.last());
        let text = format!(
            "-- lost from {} to {group}: numbers {first} to {last}",
            for_eyes(&from)
        );
        self.printer.print(&line, &text)
    }

    fn conflict(&mut self, from: SocketAddr) -> Result<(), PrintError> {
        let name = &self.options.name;
        tracing::warn!(
            "another program on the floor, at {from}, is called \"{name}\" too: give one of them another --name"
        );
        let line = Line::Conflict {
            name,
            address: from.to_string(),
        };
        self.printer.print(&line, "")
    }

    fn notice(
        &mut self,
        wall_ns: u64,
        at: &Placed,
        notice: &crate::notice::Notice,
        is_expired: bool,
    ) -> Result<(), PrintError> {
        let group = self.group(at.stream);
        let line = NoticeLine {
            id: notice.id.to_string(),
            from: notice.from.as_str(),
            group: &group,
            lane: at.stream.lane().as_str(),
            status: notice.status.as_str(),
            seq: at.seqs.first().0,
            text: notice.text.as_str(),
            sent_ns: notice.sent_ns,
            received_ns: wall_ns,
            repaired: at.is_repaired,
        };
        if is_expired {
            let text = format!(
                "-- a notice from {} came after it had expired",
                for_eyes(line.from)
            );
            return self.printer.print(&Line::Expired(line), &text);
        }
        if let Some(exec) = &mut self.exec {
            exec.run(&line);
        }
        let meant = match notice.status {
            Status::Actual => String::new(),
            status => format!("[{}] ", status.as_str().to_uppercase()),
        };
        let text = format!(
            "{meant}{} to {group}: {}",
            for_eyes(line.from),
            for_eyes(line.text)
        );
        self.printer.print(&Line::Notice(line), &text)
    }

    /// Tells of a session that has started, now that its source has a name or never will.
    fn name_session(&mut self, source: SourceId) -> Result<(), PrintError> {
        let Some(origin) = self.unnamed.remove(&source) else {
            return Ok(());
        };
        let from = self.name(source);
        let line = Line::Session {
            from: &from,
            session: origin.session.to_string(),
            state: "started",
            why: None,
        };
        self.printer.print(&line, "")
    }

    fn name(&self, source: SourceId) -> String {
        self.names
            .get(&source)
            .cloned()
            .unwrap_or_else(|| source.to_string())
    }

    fn group(&self, stream: StreamId) -> String {
        self.groups
            .get(&stream.group())
            .cloned()
            .unwrap_or_else(|| stream.group().to_string())
    }
}

fn remember(state: &mut State, event: &StationEvent) {
    match event {
        StationEvent::Notice { at, notice, .. } => {
            state.advance(at.origin, at.stream, at.seqs, false);
            state.show(notice.id);
        }
        StationEvent::Again { at, .. }
        | StationEvent::Opaque { at, .. }
        | StationEvent::Unreadable { at, .. } => {
            state.advance(at.origin, at.stream, at.seqs, false);
        }
        StationEvent::Lost {
            origin,
            stream,
            seqs,
        }
        | StationEvent::Skipped {
            origin,
            stream,
            seqs,
            ..
        } => state.advance(*origin, *stream, *seqs, true),
        _ => {}
    }
}

/// Asks the network thread to stop when the printing ends, however it ends: a workstation that shows nothing must not go
/// on confirming.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.request();
    }
}

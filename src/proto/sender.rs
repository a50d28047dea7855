//! The sending half of an endpoint: its streams, their pacing, and its answers to NACKs.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

use crate::time::Timestamp;
use crate::wire::{
    BLOCK_LEN, Echo, GroupId, Lane, Nack, Need, Pace, QuantCount, Report, SeqRange, SessionId,
    SkipReason, SourceId, Squelch, StreamId,
};

mod outgoing;

use super::blame::{Asked, Blame, Losses};
use super::config::{Config, Rate, Seal};
use super::flow::{PaceChange, Pacing};
use super::grtt::Grtt;
use super::ledger::{Ledger, Told, Verdict};
use super::output::{Event, Output};
use super::pacer::Bucket;
use super::publication::{
    Asker, Full, NackOutcome, Publication, SKIPS_PER_ANSWER, message_bytes_max,
};
use super::terms::Terms;
use super::tuning::{
    BURST_BYTES, COPY_AGAIN_SHARE, COPY_BURST_BYTES, COPY_RATE_MAX, COPY_RATE_SHARE, LOSS_LEN_MAX,
    NUMBERS_PER_NACK_MAX, NUMBERS_PER_NACK_UNIT, SCOUTS_EVERY_NS, SCOUTS_FROM, Tuning,
    UNITS_PER_BLOCK, report_gap_ns,
};
use super::{Discard, Stats, backoff};

/// Streams one endpoint may publish on: the 128 groups that a floor may have, three lanes each.
const STREAMS_MAX: usize = 384;
/// Receivers to be told about their pace, at most; further ones are told when the source looks again.
const PACE_TOLD_MAX: usize = 1_024;

/// Runs of one request that are watched for whose fault they are; a request with more speaks of the same trouble.
const RANGES_WATCHED_MAX: usize = 8;

/// Blocks of one request for parity that are taken; what is still missing is asked for again: as many numbers as one NACK
/// may ask for.
const BLOCKS_PER_NEED_MAX: usize = 64;
/// Scouts of a group at most: their names are in every heartbeat of an uneasy floor.
const SCOUTS_MAX: usize = 16;

/// Why a message was not published. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// Larger than a message may be.
    #[error("the message is {given} bytes long, but at most {max} are allowed")]
    TooLarge {
        /// Its length.
        given: usize,
        /// The longest there may be.
        max: usize,
    },
    /// What is still to be sent fills the send window: try again when some of it has gone out.
    #[error("the send window is full of messages that have not been sent yet")]
    WindowFull,
    /// More groups and lanes than one endpoint publishes on.
    #[error("already publishing on {STREAMS_MAX} streams")]
    TooManyStreams,
    /// The endpoint has been closed.
    #[error("the endpoint is closed")]
    Closed,
}

/// The sending half of an endpoint.
#[derive(Debug)]
pub(super) struct Sender {
    publications: BTreeMap<StreamId, Publication>,
    tuning: Tuning,
    pacing: Pacing,
    repair: Bucket,
    /// What goes out is sealed, and a signature serves what goes out together: then what stands back goes a few datagrams at a
    /// time, or single ones of it would leave others' no signatures (R-TRAIN-5).
    gathers_last: bool,
    /// When the next few of them may go.
    last_due: Timestamp,
    copies: Copies,
    grtt: Grtt,
    ledger: Ledger,
    losses: Losses,
    backoffs: backoff::Controllers,
    scouts: BTreeMap<GroupId, Scouts>,
    group_size: u64,
    pace_told: VecDeque<(SocketAddr, Pace)>,
    /// Where the next search for data to send begins, so that groups of one lane take turns.
    turn: usize,
    is_closed: bool,
}

/// Who asks first in a group.
#[derive(Debug)]
struct Scouts {
    ids: Vec<SourceId>,
    /// Then they are chosen anew.
    until: Timestamp,
    /// Then they are named again.
    tell_due: Timestamp,
}

/// The budget for copies of small messages (R-COPY-3).
#[derive(Debug)]
struct Copies {
    all: Bucket,
    second: Bucket,
}

impl Copies {
    fn new(data_rate: Rate) -> Self {
        let bucket = |rate, bytes| Bucket::new(Rate::try_from(rate).unwrap_or(Rate::MIN), bytes);
        let rate = (data_rate.get() / COPY_RATE_SHARE).min(COPY_RATE_MAX);
        Self {
            all: bucket(rate, COPY_BURST_BYTES),
            second: bucket(rate / COPY_AGAIN_SHARE, COPY_BURST_BYTES / 2),
        }
    }

    /// The first copy is worth most: a second one takes from a budget of its own, too.
    fn is_ready(&self, now: Timestamp, is_first_copy: bool) -> bool {
        self.all.is_ready(now) && (is_first_copy || self.second.is_ready(now))
    }

    fn spend(&mut self, now: Timestamp, is_first_copy: bool, bytes: usize) {
        self.all.spend(now, bytes);
        if !is_first_copy {
            self.second.spend(now, bytes);
        }
    }
}

/// What a NACK is answered with at once, by whoever it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// It asked for what the window no longer holds (R-SQ-1).
    pub(super) squelch: Option<Squelch>,
    /// It asked for what will never come (R-SKIP-3).
    pub(super) skipped: [Option<(SeqRange, SkipReason)>; SKIPS_PER_ANSWER],
    pub(super) stream: Option<StreamId>,
}

impl Sender {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            publications: BTreeMap::new(),
            tuning: config.tuning,
            pacing: Pacing::new(config),
            repair: Bucket::new(config.repair_rate, BURST_BYTES),
            gathers_last: matches!(config.seal, Seal::Later { .. }),
            last_due: Timestamp::ZERO,
            copies: Copies::new(config.data_rate),
            grtt: Grtt::new(),
            ledger: Ledger::new(config.repair_rate),
            losses: Losses::default(),
            backoffs: backoff::Controllers::new(config.tuning.backoff),
            scouts: BTreeMap::new(),
            group_size: config.group_size.get(),
            pace_told: VecDeque::new(),
            turn: 0,
            is_closed: false,
        }
    }

    /// Whether a message of `len` bytes would be accepted now on each of `streams`.
    pub(super) fn accepts(
        &self,
        streams: &[StreamId],
        len: usize,
        config: &Config,
    ) -> Result<(), PublishError> {
        if self.is_closed {
            return Err(PublishError::Closed);
        }
        if len > message_bytes_max(config) {
            return Err(PublishError::TooLarge {
                given: len,
                max: message_bytes_max(config),
            });
        }
        let known = |stream: &&StreamId| self.publications.contains_key(stream);
        let new = streams.len() - streams.iter().filter(known).count();
        if self.publications.len() + new > STREAMS_MAX {
            return Err(PublishError::TooManyStreams);
        }
        let publications = streams
            .iter()
            .filter_map(|stream| self.publications.get(stream));
        let mut answers = publications.map(|publication| publication.accepts(len, config));
        answers.try_for_each(|answer| answer.map_err(|full| full.for_message(len)))
    }

    /// Whether anything was published on `stream`.
    pub(super) fn publishes(&self, stream: StreamId) -> bool {
        self.publications.contains_key(&stream)
    }

    pub(super) fn publish(
        &mut self,
        now: Timestamp,
        stream: StreamId,
        payload: Bytes,
        terms: Terms,
        config: &Config,
        stats: &mut Stats,
    ) -> Result<SeqRange, PublishError> {
        let len = payload.len();
        if self.is_closed || !self.publications.contains_key(&stream) {
            self.accepts(&[stream], len, config)?;
        }
        let publication = self.publications.entry(stream).or_insert_with(|| {
            let backoff = self.backoffs.of(stream.lane()).quantized();
            Publication::new(stream, config.tuning, backoff, now)
        });
        let published = publication
            .publish(payload, terms, config)
            .map_err(|full| full.for_message(len))?;
        stats.messages_published += 1;
        stats.payload_bytes += len as u64;
        stats.evicted += published.evicted;
        stats.messages_superseded += u64::from(published.has_superseded);
        Ok(published.range)
    }

    pub(super) fn close(&mut self, now: Timestamp) {
        self.is_closed = true;
        for publication in self.publications.values_mut() {
            publication.close(now);
        }
    }

    /// Whether it was closed and has said so often enough.
    pub(super) fn is_drained(&self) -> bool {
        self.is_closed && self.publications.values().all(Publication::is_closed)
    }

    pub(super) fn set_group_size(&mut self, receivers: u64) {
        self.group_size = receivers.max(1);
    }

    /// Whether everything published has been sent at least once, or taken back.
    pub(super) fn is_idle(&self) -> bool {
        !self.publications.values().any(Publication::has_unsent)
    }

    pub(super) const fn grtt_ns(&self) -> u64 {
        self.grtt.nanos()
    }

    pub(super) fn backoff_ns(&self) -> u64 {
        let lanes = Lane::ALL.map(|lane| self.backoffs.of(lane).nanos());
        lanes.into_iter().max().unwrap_or(0)
    }

    pub(super) const fn rate(&self) -> Rate {
        self.pacing.rate()
    }

    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes a report in.
    pub(super) fn handle_report(
        &mut self,
        now: Timestamp,
        (from, is_proved): (SocketAddr, bool),
        (station, session): (SourceId, SessionId),
        report: &Report<'_>,
    ) {
        let stream = report.stream;
        let Some(publication) = self.publications.get(&stream) else {
            return;
        };
        let lost = report.lost();
        let told = Told {
            session,
            // It cannot have come further than we have.
            through: report.through.min(publication.unsent()),
            missed: report.missed,
            evicted: lost.filter(|run| run.first() < publication.trail()).last(),
        };
        self.ledger.report(now, station, from, stream, told);
        if is_proved {
            self.ledger.prove(station, from);
        }
        self.pacing
            .reported(now, station, publication, &self.ledger);
        self.measure(now, station, report.echo);
    }

    /// Takes a NACK's numbers in.
    pub(super) fn handle_nack(
        &mut self,
        now: Timestamp,
        from: (SocketAddr, bool),
        station: SourceId,
        nack: &Nack<'_>,
        out: &mut Output,
    ) -> Result<Answer, Discard> {
        let numbers: u64 = nack.ranges().map(SeqRange::len).sum();
        let numbers = numbers.min(NUMBERS_PER_NACK_MAX);
        let units = 1 + numbers / NUMBERS_PER_NACK_UNIT;
        let asker = self.admit(now, from, station, nack.stream, units, out)?;
        self.measure(now, station, nack.echo);
        let hold_off_ns = self.hold_off_ns();
        let publication = self
            .publications
            .get_mut(&nack.stream)
            .ok_or(Discard::NotOurs)?;
        let sent = publication.unsent();
        let outcome = publication.handle_nack(now, asker, nack.ranges(), hold_off_ns);
        // One that asks for everything would make every loss look common.
        // And what was taken back is nobody's loss.
        let is_telling = !asker.is_alone && !asker.is_lossy && outcome.skipped[0].is_none();
        for range in nack.ranges().take(RANGES_WATCHED_MAX) {
            // What is not sent yet is no loss; a later one would be taken for the same.
            let lost = SeqRange::new(range.first(), range.end().min(sent));
            if let Some(lost) = lost.filter(|_| is_telling) {
                self.watch(now, station, nack.stream, (lost, None), out);
            }
        }
        Ok(self.conclude(now, station, nack.stream, &outcome, out))
    }

    /// Takes a request for parity in.
    pub(super) fn handle_need(
        &mut self,
        now: Timestamp,
        from: (SocketAddr, bool),
        station: SourceId,
        need: &Need<'_>,
        out: &mut Output,
    ) -> Result<Answer, Discard> {
        let blocks = need.blocks().take(BLOCKS_PER_NEED_MAX).count() as u64;
        let units = blocks * UNITS_PER_BLOCK;
        let asker = self.admit(now, from, station, need.stream, units, out)?;
        self.measure(now, station, need.echo);
        let hold_off_ns = self.hold_off_ns();
        let publication = self
            .publications
            .get_mut(&need.stream)
            .ok_or(Discard::NotOurs)?;
        let sent = publication.unsent();
        let mut outcome = NackOutcome {
            over_budget: need.blocks().nth(BLOCKS_PER_NEED_MAX).is_some(),
            ..NackOutcome::default()
        };
        for block in need.blocks().take(BLOCKS_PER_NEED_MAX) {
            publication.handle_need(now, asker, block, hold_off_ns, &mut outcome);
        }
        // One that asks for everything would make every loss look common.
        let is_telling = !asker.is_alone && !asker.is_lossy;
        for block in need.blocks().take(RANGES_WATCHED_MAX) {
            if block.block.first < sent && is_telling {
                let range = SeqRange::new(block.block.first, block.block.first.plus(BLOCK_LEN));
                let range = range.unwrap_or(SeqRange::one(block.block.first));
                self.watch(now, station, need.stream, (range, Some(block.shards)), out);
            }
        }
        Ok(self.conclude(now, station, need.stream, &outcome, out))
    }

    /// A receiver echoes a heartbeat's clock (R-GRTT-2).
    fn measure(&mut self, now: Timestamp, station: SourceId, echo: Option<Echo>) {
        if let Some(echo) = echo
            && self.ledger.may_echo(station, self.grtt.taken())
        {
            self.grtt.observe(now, echo);
        }
    }

    /// Whether a request is taken in, and how it is to be answered (R-BUDGET-1).
    fn admit(
        &mut self,
        now: Timestamp,
        (from, is_proved): (SocketAddr, bool),
        station: SourceId,
        stream: StreamId,
        units: u64,
        out: &mut Output,
    ) -> Result<Asker, Discard> {
        if !self.publications.contains_key(&stream) {
            return Err(Discard::NotOurs);
        }
        out.stats.nacks_received += 1;
        let verdict = self.ledger.judge(now, station, from, stream, units);
        if is_proved {
            self.ledger.prove(station, from);
        }
        if verdict == Verdict::Refused {
            out.stats.nacks_refused += 1;
            return Err(Discard::Budget);
        }
        let is_alone = verdict == Verdict::Alone;
        out.stats.nacks_alone += u64::from(is_alone);
        let is_lossy =
            !self.is_scout(station, stream.group()) && self.ledger.is_lossy(now, station);
        if !is_proved {
            // Nothing goes to an address that somebody may have borrowed: what one asks for goes to all, and what would go
            // to it alone waits until it has shown that it is there (R-ADDR-3).
            if is_alone || is_lossy {
                return Err(Discard::Budget);
            }
            out.stats.repairs_unproved += 1;
        }
        Ok(Asker {
            from,
            is_alone,
            is_for_all: !is_proved
                || self.backoffs.of(stream.lane()).is_raised() && !is_lossy && !is_alone,
            is_lossy,
            is_proved,
        })
    }

    /// One receiver lacks `range`: who else does tells whose fault that is, and how long receivers should wait.
    fn watch(
        &mut self,
        now: Timestamp,
        station: SourceId,
        stream: StreamId,
        (range, shards): (SeqRange, Option<u8>),
        out: &mut Output,
    ) {
        let (grtt_ns, crowd) = (self.grtt.nanos(), self.crowd());
        let is_scout = self.is_scout(station, stream.group());
        let backoff = self.backoffs.of_mut(stream.lane());
        let window_ns = hold_off_ns(grtt_ns, &self.tuning) + backoff.nanos() + grtt_ns;
        let end = range.end().min(range.first().plus(LOSS_LEN_MAX));
        let range = SeqRange::new(range.first(), end).unwrap_or(range);
        let asked = Asked {
            station,
            stream,
            numbers: range,
            shards,
            is_scout,
        };
        let others = self.losses.ask(now, window_ns, asked);
        if others.is_some_and(|others| backoff.asked(now, others, crowd)) {
            out.stats.backoff_raised += 1;
            self.scouts.clear();
            self.tell_backoff();
            // What has changed is of use to the next loss: it should be known by then.
            for publication in self.publications.values_mut() {
                publication.hurry_heartbeat(now);
            }
        }
        self.judge_losses(now, out);
    }

    /// Books what a request brought about, and says what is to be answered at once.
    fn conclude(
        &mut self,
        now: Timestamp,
        station: SourceId,
        stream: StreamId,
        outcome: &NackOutcome,
        out: &mut Output,
    ) -> Answer {
        out.stats.nacks_held_off += outcome.held_off;
        out.stats.nacks_unknown = out.stats.nacks_unknown.saturating_add(outcome.unknown);
        out.stats.nacks_over_budget += u64::from(outcome.over_budget);
        self.ledger.charge(
            now,
            station,
            outcome.asked,
            outcome.queued,
            outcome.queued_bytes,
        );
        let mut answer = Answer::default();
        let trail = self.publications.get(&stream).map(Publication::trail);
        if outcome.below_trail && self.repair.is_ready(now) {
            self.repair.spend(now, ANSWER_BYTES);
            out.stats.squelches_sent += 1;
            answer.squelch = trail.map(|trail| Squelch { stream, trail });
        }
        if outcome.skipped[0].is_some() && self.repair.is_ready(now) {
            self.repair.spend(now, ANSWER_BYTES);
            out.stats.skips_sent += outcome.skipped.iter().flatten().count() as u64;
            (answer.skipped, answer.stream) = (outcome.skipped, Some(stream));
        }
        answer
    }

    /// Judges the losses that nobody asks for any more.
    fn judge_losses(&mut self, now: Timestamp, out: &mut Output) {
        let crowd = self.crowd();
        loop {
            let is_raised = |lane| self.backoffs.of(lane).is_raised();
            let voices = self
                .losses
                .front_stream()
                .filter(|stream| is_raised(stream.lane()))
                .and_then(|stream| self.scouts.get(&stream.group()))
                .map_or(&[][..], |scouts| scouts.ids.as_slice());
            let Some(closed) = self.losses.close(now, &self.ledger, voices) else {
                break;
            };
            let over = backoff::Over {
                askers: closed.askers,
                others: closed.others,
                is_common: matches!(closed.blame, Blame::Source | Blame::Subnet(_)),
                until: closed.until,
            };
            let backoff = self.backoffs.of_mut(closed.stream.lane());
            backoff.closed(now, over, crowd);
            self.tell_backoff();
            let counter = match closed.blame {
                Blame::Edge(_) => &mut out.stats.losses_edge,
                Blame::Subnet(_) => &mut out.stats.losses_segment,
                Blame::Source => &mut out.stats.losses_source,
                Blame::Scattered => &mut out.stats.losses_scattered,
            };
            *counter += 1;
            self.ledger.blame(closed.blame);
            out.push(Event::LossJudged {
                stream: closed.stream,
                blame: closed.blame,
                askers: closed.askers,
            });
        }
    }

    /// Each stream advertises what its lane has learnt.
    fn tell_backoff(&mut self) {
        for publication in self.publications.values_mut() {
            let lane = publication.stream.lane();
            publication.backoff = self.backoffs.of(lane).quantized();
        }
    }

    /// Chooses who asks first in a group, once a second at most.
    fn choose_scouts(&mut self, now: Timestamp, group: GroupId) {
        let is_due = self
            .scouts
            .get(&group)
            .is_none_or(|scouts| scouts.until <= now);
        if !is_due || self.crowd().receivers < SCOUTS_FROM {
            return;
        }
        let count = usize::from(self.tuning.scouts).min(SCOUTS_MAX);
        let scouts = Scouts {
            ids: self.ledger.choose_scouts(now, group, count),
            until: now.plus_nanos(SCOUTS_EVERY_NS),
            tell_due: now,
        };
        self.scouts.insert(group, scouts);
    }

    /// When something is to be sent next, or looked at.
    pub(super) fn poll_timeout(&self) -> Timestamp {
        let mut due = self.losses.due().min(self.pacing.look_due());
        if !self.pace_told.is_empty() {
            due = Timestamp::ZERO;
        }
        for publication in self.publications.values() {
            due = due
                .min(publication.heartbeat_due())
                .min(publication.terms_due());
            if publication.has_unsent() {
                due = due.min(self.pacing.ready_at(publication));
            }
            due = due.min(publication.repairs_due().max(self.repair.ready_at()));
            if let Some((_, at, _)) = publication.peek_again() {
                due = due.min(at.max(self.repair.ready_at()));
            }
            if publication.has_alone() {
                due = due.min(self.last_at());
            }
        }
        due
    }

    /// When repairs that stand back may go out.
    fn last_at(&self) -> Timestamp {
        self.repair.spare_at().max(self.last_due)
    }

    /// Does what time has brought: deadlines, losses that are over, and who has fallen behind.
    fn pass_time(&mut self, now: Timestamp, out: &mut Output) {
        for publication in self.publications.values_mut() {
            if publication.terms_due() <= now {
                out.stats.messages_expired += publication.expire(now);
            }
        }
        out.stats.accounts_unbooked = self.ledger.unbooked;
        if self.backoffs.pass(now, self.crowd()) {
            self.tell_backoff();
        }
        self.judge_losses(now, out);
        if self.pacing.look_due() <= now {
            self.look_at_pace(now, out);
        }
    }

    /// How many receivers it tells them that they are.
    fn told_size(&self) -> QuantCount {
        QuantCount::at_least(self.tuning.group_size.unwrap_or(self.group_size))
    }

    /// Tells the receivers whose pace has changed, and the owner.
    fn look_at_pace(&mut self, now: Timestamp, out: &mut Output) {
        let mut changed = Vec::new();
        let report_gap_ns = report_gap_ns(self.told_size().count());
        let has_looked = self.pacing.look(
            now,
            self.publications.values(),
            &mut self.ledger,
            report_gap_ns,
            &mut changed,
        );
        for (station, stream, change) in changed {
            let (counter, event) = match change {
                PaceChange::Left(through) => {
                    let event = Event::PaceLeft {
                        station,
                        stream,
                        through,
                    };
                    (&mut out.stats.pace_left, event)
                }
                PaceChange::Evicted(seqs) => {
                    let event = Event::Evicted {
                        station,
                        stream,
                        seqs,
                    };
                    (&mut out.stats.receivers_evicted, event)
                }
                PaceChange::Rejoined => {
                    let event = Event::PaceRejoined { station, stream };
                    (&mut out.stats.pace_rejoined, event)
                }
            };
            *counter += 1;
            out.push(event);
        }
        if has_looked {
            let room = PACE_TOLD_MAX.saturating_sub(self.pace_told.len());
            self.pace_told
                .extend(self.pacing.tell(now, &self.ledger, room));
        }
    }

    /// Those who may ask: as many as it was told, or has heard.
    fn crowd(&self) -> backoff::Crowd {
        backoff::Crowd {
            receivers: self.group_size.max(self.ledger.len() as u64),
            grtt_ns: self.grtt.nanos(),
        }
    }

    fn is_scout(&self, station: SourceId, group: GroupId) -> bool {
        let scouts = self.scouts.get(&group);
        self.backoffs.is_raised() && scouts.is_some_and(|scouts| scouts.ids.contains(&station))
    }

    fn hold_off_ns(&self) -> u64 {
        hold_off_ns(self.grtt.nanos(), &self.tuning)
    }
}

/// How long a repair answers for (R-HOLD-1): max(1.5 * GRTT, 0.5 ms).
fn hold_off_ns(grtt_ns: u64, tuning: &Tuning) -> u64 {
    (grtt_ns * 3 / 2).max(tuning.hold_off_min_ns)
}

impl Full {
    const fn for_message(self, given: usize) -> PublishError {
        match self {
            Self::TooLarge { max } => PublishError::TooLarge { given, max },
            Self::Window => PublishError::WindowFull,
        }
    }
}

/// A squelch and a skip of two runs with their header: no more than the smallest request that asks for them, so no answer
/// is larger than its question.
const ANSWER_BYTES: usize = 90;

//! The receiving half of an endpoint: which sources it follows, in which of their lives, and what it asks of them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;

use crate::rng::Rng;
use crate::time::Timestamp;
use crate::wire::{
    About, Advert, Ask, Data, Echo, GroupId, Header, Heartbeat, Pace, Parity, QuantDuration,
    Scouts, Sending, SeqNo, SeqRange, SessionId, Skip, SourceId, Squelch, StreamId,
};

use super::Discard;
use super::config::{Config, GroupSize, Join, Rate, ReceiveWindowLen};
use super::output::{EndReason, Event, Origin, Output};
use super::pacer::Bucket;
use super::reception::{Path, Reception, Scouting};
use super::transmit::{Destination, Identity, TransmitBatch};
use super::tuning::{
    ANSWER_BURST_BYTES, ANSWER_RATE, GRTT_CAP_NS, GRTT_FLOOR_NS, GRTT_INITIAL_NS, HEARTBEAT_MAX_NS,
    Tuning,
};
use super::window::{Inserted, Stored};

/// A source not heard for this long has gone: ten times its longest silence (R-END-3).
pub const SILENCE_NS: u64 = 10 * HEARTBEAT_MAX_NS;
/// Sources an endpoint follows at a time. A floor has tens of supervisors; what goes beyond is refused and counted, unless
/// one of the sources kept has ended.
const REMOTES_MAX: usize = 256;
/// Streams followed of one source: the 128 groups that a floor may have, three lanes each.
const STREAMS_PER_REMOTE_MAX: usize = 384;
/// Ended lives remembered of one source, so that a late datagram does not raise the dead (R-ID-2).
const ENDED_MAX: usize = 8;
/// Marks to go on from, given by the program at its start.
const RESUME_MAX: usize = 1_024;
/// How long the closing of a stream waits for repairs: the source answers until its last closing heartbeat, 4 ms after
/// its first; what has not come then is not coming (R-END-2).
const CLOSING_WAIT_NS: u64 = 250_000_000;
/// What a segment that waits takes beside its share of the datagram it came in.
pub(super) const ENTRY_BYTES: usize = 128;

/// The receiving half of an endpoint.
#[derive(Debug)]
pub(super) struct Receiver {
    subscriptions: BTreeMap<GroupId, Subscription>,
    remotes: BTreeMap<SourceId, Remote>,
    resume: BTreeMap<(Origin, StreamId), Resume>,
    rng: Rng,
    window_len: ReceiveWindowLen,
    bytes_max: usize,
    /// Bytes held out of order, over all streams.
    bytes: usize,
    me: SourceId,
    answers: Bucket,
    tuning: Tuning,
}

/// Where a former life of this program stood in a stream (R-JOIN-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The first number it counted on.
    pub joined: SeqNo,
    /// One after the last that it was told of.
    pub next: SeqNo,
    /// What of that was lost, ascending.
    pub lost: Vec<SeqRange>,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    since: Timestamp,
    join: Join,
}

/// A source, in its present life.
#[derive(Debug)]
struct Remote {
    session: SessionId,
    from: SocketAddr,
    /// The highest datagram number it has sent.
    number: u64,
    heard: Timestamp,
    /// The clock of its last heartbeat, and when that came.
    clock: Option<(u32, Timestamp)>,
    path: Path,
    /// The datagram that brought the last heartbeat, and the group that this was for.
    beating: Option<(u64, GroupId)>,
    state: State,
    streams: BTreeMap<StreamId, Reception>,
    ended: VecDeque<SessionId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    /// Not heard for long; its marks are kept in case it comes back.
    Silent,
    Closed,
}

impl Receiver {
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        Self {
            subscriptions: BTreeMap::new(),
            remotes: BTreeMap::new(),
            resume: BTreeMap::new(),
            rng: Rng::new(seed),
            window_len: config.receive_window_len,
            bytes_max: config.receive_bytes.as_len(),
            bytes: 0,
            me: config.source,
            tuning: config.tuning,
            answers: Bucket::new(
                Rate::try_from(ANSWER_RATE).unwrap_or(Rate::RECOMMENDED),
                ANSWER_BURST_BYTES,
            ),
        }
    }

    pub(super) fn subscribe(&mut self, now: Timestamp, group: GroupId, join: Join) {
        self.subscriptions
            .entry(group)
            .or_insert(Subscription { since: now, join });
    }

    pub(super) fn unsubscribe(&mut self, group: GroupId) {
        self.subscriptions.remove(&group);
        for remote in self.remotes.values_mut() {
            remote.streams.retain(|stream, _| stream.group() != group);
        }
        self.recount();
    }

    pub(super) const fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    /// Where to go on in a stream that a former life of this program has followed (R-JOIN-4).
    pub(super) fn resume(&mut self, origin: Origin, stream: StreamId, from: Resume) {
        if self.resume.len() < RESUME_MAX {
            self.resume.insert((origin, stream), from);
        }
    }

    pub(super) fn handle_data(
        &mut self,
        now: Timestamp,
        header: &Header,
        from: SocketAddr,
        data: &Data<'_>,
        datagram: &Bytes,
        out: &mut Output,
    ) -> Result<(), Discard> {
        let met = Met {
            newest: data.first,
            next: data.first,
            advert: data.advert,
            is_repair: data.sending != Sending::New,
        };
        let room = self.bytes < self.bytes_max;
        let mut at = self.enter(now, header, from, data.stream, met, out)?;
        let mut discard = None;
        at.reception.heed_backoff(&data.advert);
        let held_before = at.reception.bytes();
        let cost = datagram.len() / data.segments_len() + ENTRY_BYTES;
        for (seq, segment) in data.segments() {
            // A full buffer still takes what closes the gap at the contiguous mark: that is what empties it (R-WIN-4).
            let inserted = if room || seq == at.reception.through() {
                let stored = Stored {
                    place: segment.place,
                    payload: datagram.slice_ref(segment.payload),
                    is_repair: data.sending == Sending::Repair,
                    cost,
                };
                at.take_in(now, seq, stored, out)
            } else {
                Err(Discard::Full)
            };
            match inserted {
                Ok(inserted) => {
                    out.stats.segments_received += 1;
                    out.stats.repairs_received += u64::from(data.sending == Sending::Repair);
                    out.stats.copies_used += u64::from(data.sending == Sending::Copy);
                    out.stats.gaps_found += u64::from(inserted == Inserted::KeptBehindGap);
                }
                // A copy of what is here is what copies mostly are.
                Err(Discard::Duplicate) if data.sending == Sending::Copy => {
                    out.stats.copies_unneeded += 1;
                }
                // The caller counts the last one.
                Err(refused) => {
                    if let Some(before) = discard.replace(refused) {
                        out.stats.count(before);
                    }
                }
            }
        }
        out.stats.segments_mended += at.reception.mend(now, at.path, at.rng);
        at.reception.heed(&data.advert);
        at.reception.advance(now, at.origin, at.path, at.rng, out);
        let held_after = at.reception.bytes();
        self.bytes = self.bytes + held_after - held_before;
        discard.map_or(Ok(()), Err)
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        now: Timestamp,
        header: &Header,
        from: SocketAddr,
        heartbeat: &Heartbeat,
        out: &mut Output,
    ) -> Result<(), Discard> {
        let advert = Advert {
            trail: heartbeat.trail,
            backoff: heartbeat.backoff,
            age: heartbeat.age,
            is_coded: heartbeat.is_coded,
        };
        let newest = SeqNo(heartbeat.next.0.saturating_sub(1));
        let met = Met {
            newest,
            next: heartbeat.next,
            advert,
            is_repair: false,
        };
        let at = self.enter(now, header, from, heartbeat.stream, met, out)?;
        let held_before = at.reception.bytes();
        at.reception.heed(&advert);
        at.reception.forget_scouts(now);
        out.stats.gaps_found +=
            u64::from(at.reception.extend(now, heartbeat.next, at.path, at.rng));
        at.reception.advance(now, at.origin, at.path, at.rng, out);
        if heartbeat.is_closed {
            at.reception.close(now.plus_nanos(CLOSING_WAIT_NS));
        }
        let held_after = at.reception.bytes();
        if let Some(remote) = self.remotes.get_mut(&header.source) {
            remote.clock = Some((heartbeat.clock_us, now));
            remote.path = Path {
                grtt_ns: heartbeat.grtt.nanos().clamp(GRTT_FLOOR_NS, GRTT_CAP_NS),
                group_size: heartbeat.group_size.count().clamp(1, GroupSize::MAX.get()),
                ..remote.path
            };
            remote.beating = Some((header.number, heartbeat.stream.group()));
            if remote.is_over() {
                remote.end(now, header.source, EndReason::Closed, &mut self.rng, out);
                self.recount();
                return Ok(());
            }
        }
        self.bytes = self.bytes + held_after - held_before;
        Ok(())
    }

    /// Takes one parity shard in (R-FEC-2).
    pub(super) fn handle_parity(
        &mut self,
        now: Timestamp,
        header: &Header,
        from: SocketAddr,
        parity: &Parity<'_>,
        datagram: &Bytes,
        out: &mut Output,
    ) -> Result<(), Discard> {
        let met = Met {
            newest: parity.block.range().last(),
            next: parity.block.range().end(),
            advert: parity.advert,
            is_repair: true,
        };
        let room = self.bytes < self.bytes_max;
        let at = self.enter(now, header, from, parity.stream, met, out)?;
        at.reception.heed_backoff(&parity.advert);
        let held_before = at.reception.bytes();
        let is_next = parity.block.range().contains(at.reception.through());
        let taken = if room || is_next {
            let shard = datagram.slice_ref(parity.shard);
            at.reception
                .insert_parity(now, parity, shard, at.path, at.rng)
        } else {
            Err(Discard::Full)
        };
        if let Ok(mended) = taken {
            out.stats.parity_received += 1;
            out.stats.segments_mended += mended;
        }
        at.reception.heed(&parity.advert);
        at.reception.advance(now, at.origin, at.path, at.rng, out);
        let held_after = at.reception.bytes();
        self.bytes = self.bytes + held_after - held_before;
        taken.map(drop)
    }

    /// Passes over what the source says will never come (R-SKIP-2).
    pub(super) fn handle_skip(
        &mut self,
        now: Timestamp,
        header: &Header,
        skip: &Skip<'_>,
        out: &mut Output,
    ) -> Result<(), Discard> {
        let remote = followed(&mut self.remotes, header)?;
        let (origin, path) = (remote.origin(header.source), remote.path);
        let reception = remote
            .streams
            .get_mut(&skip.stream)
            .ok_or(Discard::NotOurs)?;
        for run in skip.runs() {
            reception.skip(now, run, skip.why, path, &mut self.rng);
        }
        reception.advance(now, origin, path, &mut self.rng, out);
        self.recount();
        Ok(())
    }

    /// Learns who asks first (R-SCOUT-1).
    pub(super) fn handle_scouts(
        &mut self,
        now: Timestamp,
        header: &Header,
        scouts: &Scouts<'_>,
    ) -> Result<(), Discard> {
        let remote = followed(&mut self.remotes, header)?;
        // They are of the group whose heartbeats they stand behind. Another group's scouts are not ours: each group of a
        // source that we listen to would make us ask first in all.
        let (_, group) = remote
            .beating
            .filter(|(number, _)| *number == header.number)
            .ok_or(Discard::NotOurs)?;
        let scouting = if scouts.contains(self.me) {
            Scouting::We
        } else {
            Scouting::Others
        };
        for (stream, reception) in &mut remote.streams {
            if stream.group() == group {
                reception.heed_scouts(now, scouting);
            }
        }
        Ok(())
    }

    /// Learns whether it is in the pace of a source (R-FLOW-3).
    pub(super) fn handle_pace(
        &mut self,
        header: &Header,
        pace: &Pace,
        out: &mut Output,
    ) -> Result<(), Discard> {
        let remote = followed(&mut self.remotes, header)?;
        let origin = remote.origin(header.source);
        let reception = remote
            .streams
            .get_mut(&pace.stream)
            .filter(|_| pace.station == self.me)
            .ok_or(Discard::NotOurs)?;
        // It is told more than once.
        if reception.is_behind != pace.is_behind {
            reception.is_behind = pace.is_behind;
            out.push(Event::PaceTold {
                origin,
                stream: pace.stream,
                is_behind: pace.is_behind,
            });
        }
        Ok(())
    }

    /// Gives up what the source says is too old (R-SQ-2).
    pub(super) fn handle_squelch(
        &mut self,
        now: Timestamp,
        header: &Header,
        squelch: &Squelch,
        out: &mut Output,
    ) -> Result<(), Discard> {
        let remote = followed(&mut self.remotes, header)?;
        let (origin, path) = (remote.origin(header.source), remote.path);
        let reception = remote
            .streams
            .get_mut(&squelch.stream)
            .ok_or(Discard::NotOurs)?;
        out.stats.squelches_received += 1;
        reception.give_up_before(squelch.trail);
        reception.advance(now, origin, path, &mut self.rng, out);
        self.recount();
        Ok(())
    }

    pub(super) fn handle_ask(
        &mut self,
        now: Timestamp,
        header: &Header,
        ask: &Ask<'_>,
    ) -> Result<(), Discard> {
        if !ask.concerns(self.me) {
            return Ok(());
        }
        let remote = followed(&mut self.remotes, header)?;
        let path = remote.path;
        let reception = remote
            .streams
            .get_mut(&ask.stream)
            .ok_or(Discard::NotOurs)?;
        reception.handle_ask(now, ask.wants_receipts, path, &mut self.rng);
        Ok(())
    }

    /// Finds the stream that a datagram belongs to, meeting its source, its session and the stream itself where they are
    /// new.
    fn enter(
        &mut self,
        now: Timestamp,
        header: &Header,
        from: SocketAddr,
        stream: StreamId,
        met: Met,
        out: &mut Output,
    ) -> Result<At<'_>, Discard> {
        let subscription = *self
            .subscriptions
            .get(&stream.group())
            .ok_or(Discard::Unsubscribed)?;
        let before = self
            .remotes
            .get(&header.source)
            .map(|remote| remote.session);
        self.meet(now, header, from, out)?;
        if before.is_some_and(|before| before != header.session) {
            self.recount();
        }
        let remote = self
            .remotes
            .get_mut(&header.source)
            .ok_or(Discard::Sources)?;
        let origin = remote.origin(header.source);
        let path = remote.path;
        if !remote.streams.contains_key(&stream) {
            if remote.streams.len() >= STREAMS_PER_REMOTE_MAX {
                return Err(Discard::Sources);
            }
            let reception = match self.resume.remove(&(origin, stream)) {
                Some(from) => Reception::resume(now, stream, from, self.window_len),
                None => {
                    let start = met.start(now, subscription).ok_or(Discard::NotOurs)?;
                    Reception::new(stream, start, self.window_len)
                }
            };
            remote.streams.insert(stream, reception);
        }
        let reception = remote.streams.get_mut(&stream).ok_or(Discard::Sources)?;
        Ok(At {
            origin,
            path,
            reception,
            rng: &mut self.rng,
        })
    }

    /// Makes sure that `header`'s source is followed in `header`'s session (R-ID-2).
    fn meet(
        &mut self,
        now: Timestamp,
        header: &Header,
        from: SocketAddr,
        out: &mut Output,
    ) -> Result<(), Discard> {
        let origin = Origin {
            source: header.source,
            session: header.session,
        };
        if let Some(remote) = self.remotes.get_mut(&header.source) {
            if remote.ended.contains(&header.session) {
                return Err(Discard::Stale);
            }
            if remote.session != header.session {
                if remote.state == State::Live {
                    remote.end(now, header.source, EndReason::Replaced, &mut self.rng, out);
                }
                remote.bury();
                let ended = std::mem::take(&mut remote.ended);
                *remote = Remote {
                    ended,
                    ..Remote::new(now, header, from, self.tuning)
                };
                out.push(Event::SessionStarted { origin, from });
            } else if remote.state == State::Silent {
                remote.state = State::Live;
                out.push(Event::SessionStarted { origin, from });
            }
            remote.heard = now;
            // A late or repeated datagram does not tell where the source is now.
            if header.number >= remote.number {
                remote.number = header.number;
                remote.from = from;
            }
            return Ok(());
        }
        if self.remotes.len() >= REMOTES_MAX {
            let gone = self
                .remotes
                .iter()
                .filter(|(_, remote)| remote.state != State::Live);
            let oldest = gone
                .min_by_key(|(_, remote)| remote.heard)
                .map(|(&source, _)| source);
            self.remotes.remove(&oldest.ok_or(Discard::Sources)?);
        }
        self.remotes
            .insert(header.source, Remote::new(now, header, from, self.tuning));
        out.push(Event::SessionStarted { origin, from });
        Ok(())
    }

    /// Ends sessions that have closed or gone silent, and gives up what was asked for too often.
    pub(super) fn handle_timeout(&mut self, now: Timestamp, out: &mut Output) {
        for (&source, remote) in &mut self.remotes {
            if remote.state != State::Live {
                continue;
            }
            if now.nanos_since(remote.heard) >= SILENCE_NS {
                remote.end(now, source, EndReason::Silent, &mut self.rng, out);
                continue;
            }
            let (origin, path) = (remote.origin(source), remote.path);
            for reception in remote.streams.values_mut() {
                reception.give_up_exhausted(now);
                reception.give_up_closed(now);
                reception.advance(now, origin, path, &mut self.rng, out);
            }
            if remote.is_over() {
                remote.end(now, source, EndReason::Closed, &mut self.rng, out);
            }
        }
        self.recount();
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Timestamp {
        let mut due = Timestamp::FAR_FUTURE;
        let mut answers = Timestamp::FAR_FUTURE;
        for remote in self.remotes.values() {
            match remote.state {
                State::Live => due = due.min(remote.heard.plus_nanos(SILENCE_NS)),
                // Its last reports are still to be sent.
                State::Closed => {}
                State::Silent => continue,
            }
            for reception in remote.streams.values() {
                answers = answers.min(reception.answer_due());
                if remote.state == State::Live {
                    due = due.min(reception.timeout_due());
                }
            }
        }
        due.min(answers.max(self.answers.ready_at()))
    }

    /// Writes the NACKs and reports that are due, each to its source alone.
    pub(super) fn poll_transmit(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        out: &mut Output,
    ) {
        for (&source, remote) in &mut self.remotes {
            if remote.state == State::Silent {
                continue;
            }
            let (session, path, echo) = (remote.session, remote.path, remote.echo(now));
            let to = Destination::Unicast(remote.from);
            for reception in remote.streams.values_mut() {
                let about = About {
                    source,
                    session,
                    stream: reception.stream,
                    echo,
                };
                while batch.has_room() && reception.is_nack_due(now) && self.answers.is_ready(now) {
                    let needs = reception.needs_due(now, path);
                    let (mut named, mut needed) = (0, 0);
                    let bytes = batch.write(to, identity, |writer| {
                        needed = writer.need(&about, needs.iter().copied());
                        named = writer.nack(&about, reception.gaps_due(now, path));
                    });
                    self.answers.spend(now, bytes);
                    reception.mark_needed(now, &needs[..needed], path, &mut self.rng);
                    reception.mark_asked(now, named, path, &mut self.rng);
                    out.stats.nacks_sent += u64::from(named + needed > 0);
                }
                if batch.has_room() && reception.is_report_due(now) && self.answers.is_ready(now) {
                    let (joined, through) = (reception.joined, reception.through());
                    let missed = reception.missed();
                    let bytes = batch.write(to, identity, |writer| {
                        if reception.owes_receipt {
                            writer.receipt(&about, joined, through, missed, reception.lost());
                        } else {
                            writer.report(&about, joined, through, missed, reception.lost());
                        }
                    });
                    self.answers.spend(now, bytes);
                    reception.mark_reported(now);
                    out.stats.reports_sent += 1;
                }
            }
        }
    }

    /// Adds up anew what is held out of order, after anything that may have emptied a stream.
    fn recount(&mut self) {
        self.bytes = self
            .remotes
            .values()
            .flat_map(|remote| remote.streams.values())
            .map(Reception::bytes)
            .sum();
    }
}

/// The source of a datagram, if it is followed in that life.
fn followed<'a>(
    remotes: &'a mut BTreeMap<SourceId, Remote>,
    header: &Header,
) -> Result<&'a mut Remote, Discard> {
    remotes
        .get_mut(&header.source)
        .filter(|remote| remote.session == header.session)
        .ok_or(Discard::Stale)
}

/// A stream that has been found, and what is needed to work on it.
struct At<'a> {
    origin: Origin,
    path: Path,
    reception: &'a mut Reception,
    rng: &'a mut Rng,
}

impl At<'_> {
    /// Takes a segment in and hands on what it lets go.
    fn take_in(
        &mut self,
        now: Timestamp,
        seq: SeqNo,
        segment: Stored,
        out: &mut Output,
    ) -> Result<Inserted, Discard> {
        let Self {
            origin,
            path,
            reception,
            rng,
        } = self;
        if reception.can_pass(seq) {
            reception.pass(now, seq, segment, *origin, out);
            reception.schedule_report(now, *path, rng);
            return Ok(Inserted::Kept);
        }
        let inserted = reception.insert(now, seq, segment, *path, rng);
        reception.advance(now, *origin, *path, rng, out);
        inserted
    }
}

/// What the first datagram of a stream tells about it.
#[derive(Clone, Copy)]
struct Met {
    /// The newest number it knows of.
    newest: SeqNo,
    /// The number that Lead begins with.
    next: SeqNo,
    advert: Advert,
    /// It tells nothing of where the source is now.
    is_repair: bool,
}

impl Met {
    /// Where to begin: at 0 for whoever was there first (R-JOIN-1), else as the subscription says (R-JOIN-2); `None` when
    /// this datagram cannot tell.
    fn start(self, now: Timestamp, subscription: Subscription) -> Option<SeqNo> {
        let listened_ns = now.nanos_since(subscription.since);
        if self.advert.age.nanos() <= listened_ns && self.advert.age < QuantDuration(u8::MAX) {
            return Some(SeqNo::ZERO);
        }
        match subscription.join {
            Join::Trail => Some(self.advert.trail),
            Join::Lead | Join::Last(_) if self.is_repair => None,
            Join::Lead => Some(self.next),
            Join::Last(n) => {
                let first = SeqNo(self.newest.0.saturating_add(1).saturating_sub(u64::from(n)));
                Some(first.max(self.advert.trail))
            }
        }
    }
}

impl Remote {
    fn new(now: Timestamp, header: &Header, from: SocketAddr, tuning: Tuning) -> Self {
        Self {
            session: header.session,
            from,
            number: header.number,
            heard: now,
            clock: None,
            path: Path {
                grtt_ns: GRTT_INITIAL_NS,
                group_size: GroupSize::RECOMMENDED.get(),
                tuning,
            },
            beating: None,
            state: State::Live,
            streams: BTreeMap::new(),
            ended: VecDeque::new(),
        }
    }

    const fn origin(&self, source: SourceId) -> Origin {
        Origin {
            source,
            session: self.session,
        }
    }

    /// The last heartbeat's clock on its way back (R-GRTT-2).
    fn echo(&self, now: Timestamp) -> Option<Echo> {
        self.clock.map(|(clock_us, at)| {
            let held_us = u32::try_from(now.nanos_since(at) / 1_000).unwrap_or(u32::MAX - 1);
            Echo { clock_us, held_us }
        })
    }

    /// Ends the present life: what is missing is lost, what waited behind it is handed on, in order.
    fn end(
        &mut self,
        now: Timestamp,
        source: SourceId,
        reason: EndReason,
        rng: &mut Rng,
        out: &mut Output,
    ) {
        let (origin, path) = (self.origin(source), self.path);
        for reception in self.streams.values_mut() {
            reception.give_up();
            reception.advance(now, origin, path, rng, out);
            reception.give_up_open(origin, out);
            reception.drop_parity();
        }
        out.push(Event::SessionEnded { origin, reason });
        if reason == EndReason::Silent {
            self.state = State::Silent;
        } else {
            self.state = State::Closed;
            self.bury();
        }
    }

    /// Whether every stream of it has closed and nothing is missing any more (R-END-2).
    fn is_over(&self) -> bool {
        let is_known = !self.streams.is_empty();
        self.state == State::Live && is_known && self.streams.values().all(Reception::is_over)
    }

    /// Nothing of this life is taken in any more.
    fn bury(&mut self) {
        if !self.ended.contains(&self.session) {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back(self.session);
        }
    }
}

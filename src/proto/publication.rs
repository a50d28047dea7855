//! One stream as its source keeps it: the send window, what is not yet sent, what is to be repaired, when the next
//! heartbeat is due.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::time::Timestamp;
use crate::wire::{
    Advert, BLOCK_LEN, Block, BlockNeed, Heartbeat, Lane, Place, QuantCount, QuantDuration,
    Segment, SeqNo, SeqRange, SkipReason, StreamId,
};

mod cutting;

use super::config::Config;
use super::parity::{Asked, ParityOut};
use super::terms::{TermBook, Terms};
use super::transmit::Destination;
use super::tuning::{
    BLOCK_SHARDS, BLOCK_WAIT_NS, CLOSING_GAPS_NS, COPIES_PER_TAIL, COPY_ROW_LEN,
    EMERGENCY_AGAIN_NS, Fec, HEARTBEAT_MAX_NS, HEARTBEAT_STEADY_NS, NUMBERS_PER_NACK_MAX,
    PACED_MAX_NS, PROACTIVE_MAX, REPAIR_BURST_BYTES_LEN, Tuning,
};

use cutting::{Cut, Room};

pub(super) use cutting::message_bytes_max;

/// A segment kept for sending and repair.
#[derive(Debug)]
struct Slot {
    place: Place,
    payload: Bytes,
    repair: Repair,
    /// When it was sent for the first time.
    sent: Timestamp,
    /// Bytes published on the stream before it.
    offset: u64,
}

/// Runs told in answer to one request, so that no answer is larger than the smallest request (90 bytes).
pub(super) const SKIPS_PER_ANSWER: usize = 2;

/// Where a segment stands in its repair cycle.
#[derive(Clone, Copy, Debug)]
enum Repair {
    Idle,
    Queued(Destination),
    /// Queued for one receiver that stands back (R-BUDGET-2).
    QueuedAlone(Destination),
    Sent(Timestamp, Destination),
}

/// When repairs go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Before new data.
    First,
    /// After everything else, to receivers that stand back (R-BUDGET-2).
    Last,
}

/// Who asks, and how it is to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) from: SocketAddr,
    /// It stands back behind all others.
    pub(super) is_alone: bool,
    /// Losses have lately been common: what one lacks, others lack.
    pub(super) is_for_all: bool,
    /// It loses far more than others: what it and another one lack is chance.
    pub(super) is_lossy: bool,
    /// It has shown to be where it sends from.
    pub(super) is_proved: bool,
}

/// The last datagram with new data, when it may be carried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) numbers: SeqRange,
    /// It has not been yet.
    pub(super) is_first_copy: bool,
}

/// What became of a request for one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It goes out because of it.
    Queued,
    /// It was going out anyway.
    Waiting,
    /// It has just gone out, or somebody else's turn is first.
    HeldOff,
}

/// What a NACK brought about, for the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NackOutcome {
    /// Asked for again within the hold-off.
    pub(super) held_off: u64,
    /// Asked for, but never sent.
    pub(super) unknown: u64,
    /// Queued because of it: how many numbers, and their bytes.
    pub(super) queued: u64,
    pub(super) queued_bytes: usize,
    /// Numbers within the window that it asked for.
    pub(super) asked: u64,
    /// The first runs that it asked for which will never come, all for one reason.
    pub(super) skipped: [Option<(SeqRange, SkipReason)>; SKIPS_PER_ANSWER],
    /// Whether it asked for what the window no longer holds.
    pub(super) below_trail: bool,
    /// Whether it asked for more than one NACK may.
    pub(super) over_budget: bool,
}

/// A message that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) range: SeqRange,
    /// Segments that left the window for it.
    pub(super) evicted: u64,
    /// It took another one's place.
    pub(super) has_superseded: bool,
}

impl NackOutcome {
    /// A run that was asked for will never come: told, if there is room and it is told for the same reason as the first.
    fn skip(&mut self, run: (SeqRange, SkipReason)) {
        let why = self.skipped[0].map_or(run.1, |(_, why)| why);
        let is_new = |told: &Option<(SeqRange, SkipReason)>| *told != Some(run);
        if why == run.1
            && self.skipped.iter().all(is_new)
            && let Some(place) = self.skipped.iter_mut().find(|place| place.is_none())
        {
            *place = Some(run);
        }
    }
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    TooLarge { max: usize },
    Window,
}

/// One stream as its source keeps it.
///
/// Invariant: `slots` holds exactly the numbers `trail..next`, and `trail <= unsent <= next`. In a coded stream `trail` is
/// a block's first number.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) stream: StreamId,
    tuning: Tuning,
    started: Timestamp,
    slots: VecDeque<Slot>,
    bytes: usize,
    unsent_bytes: usize,
    room: Room,
    trail: SeqNo,
    unsent: SeqNo,
    /// Bytes published so far.
    published_bytes: u64,
    /// Numbers with `Repair::Queued`, in the order they were asked for.
    repairs: VecDeque<SeqNo>,
    /// Until then NACKs are gathered.
    repairs_due: Timestamp,
    /// Numbers with `Repair::QueuedAlone`.
    alone: BTreeSet<SeqNo>,
    parity: Option<ParityOut>,
    terms: TermBook,
    /// The first number of the last datagram with new data.
    tail: SeqNo,
    /// Heartbeats that carry it again.
    copies_left: u8,
    /// Datagrams of new data since the last pause.
    row_len: u32,
    /// How long nothing new had gone out before the last of them.
    pause_ns: u64,
    /// The next number to be sent again because it is an emergency.
    again: SeqNo,
    heartbeat_due: Timestamp,
    heartbeat_gap_ns: u64,
    /// The first data since the last heartbeat.
    steady_since: Option<Timestamp>,
    /// The longest that receivers may wait before they ask.
    pub(super) backoff: QuantDuration,
    /// How many closing heartbeats have been sent; `None` while open.
    closing: Option<usize>,
}

impl Publication {
    pub(super) fn new(
        stream: StreamId,
        tuning: Tuning,
        backoff: QuantDuration,
        now: Timestamp,
    ) -> Self {
        let is_coded = stream.lane() == Lane::Bulk && tuning.fec != Fec::Off;
        Self {
            stream,
            tuning,
            started: now,
            published_bytes: 0,
            repairs_due: Timestamp::ZERO,
            alone: BTreeSet::new(),
            parity: is_coded.then(|| ParityOut::new(tuning.fec)),
            terms: TermBook::default(),
            tail: SeqNo::ZERO,
            copies_left: 0,
            row_len: 0,
            pause_ns: u64::MAX,
            again: SeqNo::ZERO,
            slots: VecDeque::new(),
            bytes: 0,
            unsent_bytes: 0,
            room: Room::default(),
            trail: SeqNo::ZERO,
            unsent: SeqNo::ZERO,
            repairs: VecDeque::new(),
            heartbeat_due: Timestamp::FAR_FUTURE,
            heartbeat_gap_ns: tuning.heartbeat_first_ns,
            steady_since: None,
            backoff,
            closing: None,
        }
    }

    pub(super) const fn trail(&self) -> SeqNo {
        self.trail
    }

    /// One after the newest number sent.
    pub(super) const fn unsent(&self) -> SeqNo {
        self.unsent
    }

    /// One after the newest number published.
    pub(super) fn next(&self) -> SeqNo {
        self.trail.plus(self.slots.len() as u64)
    }

    pub(super) const fn is_coded(&self) -> bool {
        self.parity.is_some()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.unsent < self.next()
    }

    /// When repairs may go out; never when there are none.
    pub(super) fn repairs_due(&self) -> Timestamp {
        let has_some = !self.repairs.is_empty() || self.has_skips() || self.has_parity(Turn::First);
        if has_some {
            self.repairs_due
        } else {
            Timestamp::FAR_FUTURE
        }
    }

    /// Whether repairs wait for receivers that stand back.
    pub(super) fn has_alone(&self) -> bool {
        !self.alone.is_empty() || self.has_parity(Turn::Last)
    }

    pub(super) fn advert(&self, now: Timestamp) -> Advert {
        Advert {
            trail: self.trail,
            backoff: self.backoff,
            age: self.age(now),
            is_coded: self.is_coded(),
        }
    }

    pub(super) fn heartbeat(
        &self,
        now: Timestamp,
        grtt: QuantDuration,
        group_size: QuantCount,
    ) -> Heartbeat {
        Heartbeat {
            stream: self.stream,
            clock_us: now.as_wire_micros(),
            next: self.unsent,
            trail: self.trail,
            backoff: self.backoff,
            grtt,
            group_size,
            age: self.age(now),
            is_coded: self.is_coded(),
            is_closed: self.is_closing(),
        }
    }

    pub(super) fn age(&self, now: Timestamp) -> QuantDuration {
        QuantDuration::at_most(Duration::from_nanos(now.nanos_since(self.started)))
    }

    /// Whether a message of `len` bytes would be accepted now.
    pub(super) fn accepts(&self, len: usize, config: &Config) -> Result<(), Full> {
        let max = message_bytes_max(config);
        if len > max {
            return Err(Full::TooLarge { max });
        }
        let waiting = self.next().since(self.unsent);
        // The other half is for repairs: or a publisher that is faster than the rate would leave none (R-WIN-1).
        let len_max = config.send_window_len.get() / 2;
        let bytes_max = config.send_window_bytes.as_len() / 2;
        let count = self.cut_of(len, config).count as u64;
        if waiting + count > len_max || self.unsent_bytes + len > bytes_max {
            return Err(Full::Window);
        }
        Ok(())
    }

    fn cut_of(&self, len: usize, config: &Config) -> Cut {
        // What has gone out already is filled no more.
        let empty = Room::default();
        let room = if self.has_unsent() {
            &self.room
        } else {
            &empty
        };
        room.cut(len, self.is_coded(), config)
    }

    /// Takes a message in, cut into segments (R-SEG-2); the oldest that have been sent make room. Returns its numbers
    /// and how many left the window.
    pub(super) fn publish(
        &mut self,
        payload: Bytes,
        terms: Terms,
        config: &Config,
    ) -> Result<Published, Full> {
        self.accepts(payload.len(), config)?;
        let cut = self.cut_of(payload.len(), config);
        if !self.has_unsent() {
            self.room = Room::default();
        }
        let evicted = self.make_room(cut.count, payload.len(), config);
        let first = self.next();
        self.bytes += payload.len();
        self.unsent_bytes += payload.len();
        if cut.count == 1 {
            self.push(Place::Whole, payload, config);
        } else {
            self.cut(payload, &cut, config);
        }
        let range = SeqRange::new(first, self.next()).expect("at least one segment was added");
        let has_superseded = self.terms.publish(range, terms, self.unsent);
        self.pass_skipped();
        Ok(Published {
            range,
            evicted,
            has_superseded,
        })
    }

    fn push(&mut self, place: Place, payload: Bytes, config: &Config) {
        let segment = Segment {
            place,
            payload: &payload,
        };
        self.room.take(&segment, config);
        let offset = self.published_bytes;
        self.published_bytes += payload.len() as u64;
        self.slots.push_back(Slot {
            place,
            payload,
            repair: Repair::Idle,
            sent: Timestamp::ZERO,
            offset,
        });
    }

    fn cut(&mut self, mut payload: Bytes, cut: &Cut, config: &Config) {
        let total = u32::try_from(payload.len()).expect("messages are at most 1 MiB");
        let head = payload.split_to(cut.first_bytes);
        self.push(Place::First { total }, head, config);
        while payload.len() > cut.part_bytes {
            let part = payload.split_to(cut.part_bytes);
            self.push(Place::Middle, part, config);
        }
        self.push(Place::Last, payload, config);
    }

    /// Evicts from the trail until `count` more segments of `bytes` fit (R-WIN-1); how many. Nothing is evicted unsent.
    fn make_room(&mut self, count: usize, bytes: usize, config: &Config) -> u64 {
        let len_max = config.send_window_len.as_len();
        let bytes_max = config.send_window_bytes.as_len();
        let mut evicted = 0;
        while self.slots.len() + count > len_max || self.bytes + bytes > bytes_max {
            let slot = self
                .slots
                .pop_front()
                .expect("what is unsent fits, so there is something sent to evict");
            self.bytes -= slot.payload.len();
            self.trail = self.trail.plus(1);
            evicted += 1;
        }
        // A block that has lost its first segments cannot be mended any more: it goes as a whole (R-FEC-5).
        while self.is_coded()
            && evicted > 0
            && !self.trail.0.is_multiple_of(BLOCK_LEN)
            && self.trail < self.unsent
            && let Some(slot) = self.slots.pop_front()
        {
            self.bytes -= slot.payload.len();
            self.trail = self.trail.plus(1);
            evicted += 1;
        }
        if evicted > 0 {
            self.terms.forget_before(self.trail);
            if let Some(parity) = &mut self.parity {
                parity.forget_before(self.trail);
            }
        }
        evicted
    }

    /// The lowest number that leaves the window together with `seq` (R-FEC-5).
    pub(super) const fn goes_with(&self, seq: SeqNo) -> SeqNo {
        if self.is_coded() {
            Block::first_of(seq)
        } else {
            seq
        }
    }

    /// Bytes published from `from` on that have been sent.
    pub(super) fn bytes_since(&self, from: SeqNo) -> u64 {
        let from = from.max(self.trail);
        self.offset(self.unsent).saturating_sub(self.offset(from))
    }

    /// The lowest number in the window from which on there are at most `len` numbers and `bytes` bytes up to `end`.
    pub(super) fn back(&self, end: SeqNo, len: u64, bytes: u64) -> SeqNo {
        let least = self.offset(end).saturating_sub(bytes);
        let before = self.slots.partition_point(|slot| slot.offset < least);
        let by_len = SeqNo(end.0.saturating_sub(len));
        self.trail.plus(before as u64).max(by_len)
    }

    /// Bytes published before `seq`.
    fn offset(&self, seq: SeqNo) -> u64 {
        self.slot(seq)
            .map_or(self.published_bytes, |slot| slot.offset)
    }

    /// Messages whose deadline has come are neither sent nor repaired any more; how many.
    pub(super) fn expire(&mut self, now: Timestamp) -> u64 {
        let mut expired = 0;
        while self.terms.expire(now, self.unsent).is_some() {
            expired += 1;
        }
        if expired > 0 {
            self.pass_skipped();
            // Nothing is left to be sent before the closing is said.
            if self.closing == Some(0) && !self.has_unsent() {
                self.heartbeat_due = now;
            }
        }
        expired
    }

    /// When the next message expires.
    pub(super) fn terms_due(&self) -> Timestamp {
        self.terms.due()
    }

    /// What was taken back before it was sent is never sent: its numbers are passed over, and the skip tells of them.
    fn pass_skipped(&mut self) {
        while let Some((range, why)) = self.terms.skipped(self.unsent) {
            let before = self.unsent;
            let rest = SeqRange::new(before, range.end()).unwrap_or(range);
            self.terms.announce(rest, why);
            for seq in rest.iter() {
                self.unsent_bytes -= self.slot(seq).map_or(0, |slot| slot.payload.len());
            }
            self.unsent = range.end();
            self.note_block(before);
        }
    }

    /// The numbers from `before` on have been sent or passed over: a block may be whole now.
    fn note_block(&mut self, before: SeqNo) {
        let Some(parity) = &mut self.parity else {
            return;
        };
        let mut end = Block::first_of(before).plus(BLOCK_LEN);
        while end <= self.unsent {
            // A block that the window has lost a part of has no parity any more.
            if end.0 - BLOCK_LEN >= self.trail.0 {
                parity.block_sent(end);
            }
            end = end.plus(BLOCK_LEN);
        }
    }

    fn slot(&self, seq: SeqNo) -> Option<&Slot> {
        self.slots
            .get(usize::try_from(seq.0.checked_sub(self.trail.0)?).ok()?)
    }

    fn slot_mut(&mut self, seq: SeqNo) -> Option<&mut Slot> {
        self.slots
            .get_mut(usize::try_from(seq.0.checked_sub(self.trail.0)?).ok()?)
    }

    /// The next segment to send for the first time.
    pub(super) fn peek_unsent(&self) -> Option<(SeqNo, Segment<'_>)> {
        self.slot(self.unsent)
            .map(|slot| (self.unsent, slot.segment()))
    }

    /// The segment that `peek_unsent` gave has been sent; anything sent again is a repair or a copy (R-DATA-1).
    pub(super) fn mark_sent(&mut self, now: Timestamp) {
        let seq = self.unsent;
        if let Some(slot) = self.slot_mut(seq) {
            slot.sent = now;
            let bytes = slot.payload.len();
            self.unsent_bytes -= bytes;
        }
        self.unsent = seq.plus(1);
        self.note_block(seq);
        self.pass_skipped();
        // Heartbeats start anew behind the last data, but under steady data one still goes out now and then.
        let first_ns = self.heartbeat_first_ns();
        self.heartbeat_gap_ns = first_ns;
        let soon = now.plus_nanos(first_ns);
        let since = *self.steady_since.get_or_insert(now);
        self.heartbeat_due = match self.closing {
            None => soon.min(since.plus_nanos(HEARTBEAT_STEADY_NS)).max(now),
            Some(_) if self.has_unsent() => Timestamp::FAR_FUTURE,
            Some(_) => now,
        };
    }

    /// The first heartbeat's distance from the last data. In a coded stream receivers wait for the rest of a block anyway.
    fn heartbeat_first_ns(&self) -> u64 {
        let first_ns = self.tuning.heartbeat_first_ns;
        if self.is_coded() {
            first_ns.max(BLOCK_WAIT_NS)
        } else {
            first_ns
        }
    }

    /// When the number before `seq` was sent for the first time.
    fn sent_before(&self, seq: SeqNo) -> Option<Timestamp> {
        let before = self.slot(SeqNo(seq.0.checked_sub(1)?))?;
        Some(before.sent)
    }

    /// A datagram with new data from `first` on has been written: its copies may follow (R-COPY-1).
    pub(super) fn begin_tail(&mut self, now: Timestamp, first: SeqNo) {
        let before = self.sent_before(first);
        self.pause_ns = before.map_or(u64::MAX, |before| now.nanos_since(before));
        self.row_len = if self.pause_ns >= self.tuning.heartbeat_first_ns {
            1
        } else {
            self.row_len.saturating_add(1)
        };
        self.tail = first;
        self.copies_left = COPIES_PER_TAIL;
    }

    /// The last datagram with new data, if it may be carried again: not where there is parity, not once it has been carried
    /// often enough, and not before the first heartbeat would carry it, unless it is one of a few. What is sent in a long
    /// row shows its losses by itself, within a round trip and at no cost, and a burst would take the copy too (R-COPY-1).
    pub(super) fn tail(&self, now: Timestamp) -> Option<Tail> {
        let is_wanted = self.tuning.copies && !self.is_coded() && self.copies_left > 0;
        let tail = SeqRange::new(self.tail.max(self.trail), self.unsent)?;
        let again_ns = self.tuning.heartbeat_first_ns;
        let sent = self.slot(tail.last())?.sent;
        let is_first_copy = self.copies_left == COPIES_PER_TAIL;
        let is_of_few = is_first_copy && self.row_len <= COPY_ROW_LEN;
        let is_old_enough = sent < now && (now.nanos_since(sent) >= again_ns || is_of_few);
        (is_wanted && is_old_enough).then_some(Tail {
            numbers: tail,
            is_first_copy,
        })
    }

    /// A segment that may be sent again unasked.
    pub(super) fn worth_copying(&self, seq: SeqNo) -> Option<Segment<'_>> {
        let is_skipped = !self.terms.is_empty() && self.terms.skipped(seq).is_some();
        self.segment(seq).filter(|_| !is_skipped)
    }

    /// `tail` has been carried again, as far as it fitted.
    pub(super) fn mark_copied(&mut self, tail: SeqRange) {
        // Meanwhile there may be a newer one.
        if tail.first() == self.tail.max(self.trail) {
            self.copies_left = self.copies_left.saturating_sub(1);
        }
    }

    /// The next emergency segment that is to go out again, and when (R-COPY-2).
    pub(super) fn peek_again(&self) -> Option<(SeqNo, Timestamp, Segment<'_>)> {
        if self.stream.lane() != Lane::Emergency || !self.tuning.copies {
            return None;
        }
        let first = self.again.max(self.trail);
        let seq = SeqRange::new(first, self.unsent)?
            .iter()
            .find(|&seq| self.terms.is_empty() || self.terms.skipped(seq).is_none())?;
        let slot = self.slot(seq)?;
        Some((
            seq,
            slot.sent.plus_nanos(EMERGENCY_AGAIN_NS),
            slot.segment(),
        ))
    }

    /// The segment that `peek_again` gave has been sent.
    pub(super) fn mark_again(&mut self, seq: SeqNo) {
        self.again = seq.plus(1);
    }

    /// The next segment to repair in this turn, and for whom. What has left the window or was taken back meanwhile is
    /// dropped.
    pub(super) fn peek_repair(&mut self, turn: Turn) -> Option<(SeqNo, Destination)> {
        loop {
            let seq = match turn {
                Turn::First => *self.repairs.front()?,
                Turn::Last => *self.alone.first()?,
            };
            let repair = self.slot(seq).map(|slot| slot.repair);
            let to = match (turn, repair) {
                (Turn::First, Some(Repair::Queued(to))) => Some(to),
                (Turn::Last, Some(Repair::QueuedAlone(to))) => Some(to),
                _ => None,
            };
            match to.filter(|_| self.terms.skipped(seq).is_none()) {
                Some(to) => return Some((seq, to)),
                None => self.pop_repair(turn),
            };
        }
    }

    fn pop_repair(&mut self, turn: Turn) -> Option<SeqNo> {
        match turn {
            Turn::First => self.repairs.pop_front(),
            Turn::Last => self.alone.pop_first(),
        }
    }

    pub(super) fn segment(&self, seq: SeqNo) -> Option<Segment<'_>> {
        self.slot(seq).map(Slot::segment)
    }

    /// The segment that `peek_repair` gave has been sent.
    pub(super) fn mark_repaired(&mut self, now: Timestamp, turn: Turn) {
        if let Some(seq) = self.pop_repair(turn)
            && let Some(slot) = self.slot_mut(seq)
            && let Repair::Queued(to) | Repair::QueuedAlone(to) = slot.repair
        {
            slot.repair = Repair::Sent(now, to);
        }
    }

    /// Queues what a NACK asks for, unless it was repaired within the hold-off (R-HOLD-1).
    pub(super) fn handle_nack(
        &mut self,
        now: Timestamp,
        asker: Asker,
        ranges: impl Iterator<Item = SeqRange>,
        hold_off_ns: u64,
    ) -> NackOutcome {
        let mut outcome = NackOutcome::default();
        let mut budget = NUMBERS_PER_NACK_MAX;
        let sent = SeqRange::new(self.trail, self.unsent);
        let was_empty = self.repairs.is_empty();
        for range in ranges {
            outcome.below_trail |= range.first() < self.trail;
            outcome.unknown += range.end().since(self.unsent.max(range.first()));
            for seq in sent
                .and_then(|sent| sent.intersect(range))
                .into_iter()
                .flat_map(SeqRange::iter)
            {
                if budget == 0 {
                    outcome.over_budget = true;
                    break;
                }
                budget -= 1;
                self.handle_one(now, asker, seq, hold_off_ns, &mut outcome);
            }
        }
        if was_empty {
            self.repairs_due = now.plus_nanos(self.tuning.aggregation_ns);
        }
        outcome
    }

    fn handle_one(
        &mut self,
        now: Timestamp,
        asker: Asker,
        seq: SeqNo,
        hold_off_ns: u64,
        outcome: &mut NackOutcome,
    ) {
        outcome.asked += 1;
        // What goes beyond its share stands back, or one that asks for a whole window would keep the others waiting.
        let is_alone = asker.is_alone || outcome.queued_bytes >= REPAIR_BURST_BYTES_LEN;
        if is_alone && !asker.is_proved {
            outcome.held_off += 1;
            return;
        }
        let asker = Asker { is_alone, ..asker };
        if !self.terms.is_empty()
            && let Some(skipped) = self.terms.skipped(seq)
        {
            outcome.skip(skipped);
            return;
        }
        match self.ask(now, asker, seq, hold_off_ns) {
            Taken::Queued => {
                outcome.queued += 1;
                outcome.queued_bytes += self.slot(seq).map_or(0, |slot| slot.payload.len());
            }
            Taken::Waiting => {}
            Taken::HeldOff => outcome.held_off += 1,
        }
    }

    /// One receiver asks for one number.
    fn ask(&mut self, now: Timestamp, asker: Asker, seq: SeqNo, hold_off_ns: u64) -> Taken {
        let group = Destination::Group(self.stream.group());
        let requester = Destination::Unicast(asker.from);
        let is_for_all = self.tuning.is_multicast_only || asker.is_for_all;
        let Some(slot) = self.slot_mut(seq) else {
            return Taken::HeldOff;
        };
        // One receiver alone asks (R-REPAIR-1), unless losses have lately been common (R-REPAIR-3).
        let first = if is_for_all { group } else { requester };
        let is_served = |to| to == group || to == requester;
        let to = match slot.repair {
            Repair::Queued(to) | Repair::QueuedAlone(to) if is_served(to) && asker.is_alone => {
                return Taken::Waiting;
            }
            // Two that lost the same long run: that was no chance.
            Repair::QueuedAlone(_) if asker.is_alone && !asker.is_lossy => group,
            // Whoever stands back changes nothing for the others: its turn comes when it asks again.
            Repair::Queued(_) | Repair::QueuedAlone(_) if asker.is_alone => return Taken::HeldOff,
            // A second receiver lacks it: the loss is common enough for multicast (R-REPAIR-2).
            Repair::Queued(to) => {
                if !is_served(to) {
                    slot.repair = Repair::Queued(group);
                }
                return Taken::Waiting;
            }
            Repair::Idle | Repair::QueuedAlone(_) => first,
            // On its way; or to somebody else alone: then this one has to be answered too, and others may follow.
            Repair::Sent(at, to) if now.nanos_since(at) < hold_off_ns => {
                if is_served(to) {
                    return Taken::HeldOff;
                }
                if asker.is_alone { requester } else { group }
            }
            Repair::Sent(..) => first,
        };
        if asker.is_alone && to != group {
            slot.repair = Repair::QueuedAlone(requester);
            self.alone.insert(seq);
        } else {
            slot.repair = Repair::Queued(to);
            self.repairs.push_back(seq);
        }
        Taken::Queued
    }

    /// A receiver asks for parity of a block (R-NEED-3). What is no longer whole is sent again number by number.
    pub(super) fn handle_need(
        &mut self,
        now: Timestamp,
        asker: Asker,
        need: BlockNeed,
        hold_off_ns: u64,
        outcome: &mut NackOutcome,
    ) {
        let first = need.block.first;
        let len = self.unsent.since(first).min(BLOCK_LEN);
        outcome.asked += u64::from(need.shards);
        outcome.below_trail |= first < self.trail;
        // Parity would mend what was taken back, too: whoever lacks it is told first (R-SKIP-3).
        if !self.terms.is_empty() && len > 0 {
            let end = first.plus(len);
            self.terms
                .skipped_in(first, end)
                .for_each(|run| outcome.skip(run));
        }
        let start = usize::try_from(first.since(self.trail)).unwrap_or(usize::MAX);
        let block = self.slots.iter().skip(start).take(BLOCK_SHARDS);
        let shard_bytes = block.map(|slot| slot.payload.len()).max().unwrap_or(0);
        let Some(parity) = self.parity.as_mut().filter(|_| len > 0) else {
            outcome.unknown += u64::from(need.shards);
            return;
        };
        if first < self.trail {
            for seq in (first.0..first.0 + len).map(SeqNo) {
                if seq >= self.trail {
                    self.handle_one(now, asker, seq, hold_off_ns, outcome);
                }
            }
            return;
        }
        // One that stands back draws no parity on the others. Nor does one that lacks so much that it was cut off, or joins,
        // or loses what nobody else does.
        let is_much = need.shards > PROACTIVE_MAX || outcome.queued_bytes >= REPAIR_BURST_BYTES_LEN;
        let stands_back = asker.is_alone || is_much;
        let is_alone =
            asker.is_lossy || (stands_back && !parity.share(asker.from, need.block.first));
        if is_alone && !asker.is_proved {
            outcome.held_off += u64::from(need.shards);
            return;
        }
        let asked = if is_alone {
            parity.ask_alone(now, asker.from, need, len as u8, hold_off_ns)
        } else {
            parity.ask(now, need, len as u8, hold_off_ns)
        };
        match asked {
            Asked::More(shards) => {
                outcome.queued += u64::from(shards);
                outcome.queued_bytes += shard_bytes * usize::from(shards);
            }
            Asked::HeldOff => outcome.held_off += u64::from(need.shards),
        }
    }

    pub(super) fn has_parity(&self, turn: Turn) -> bool {
        self.parity.as_ref().is_some_and(|parity| match turn {
            Turn::First => parity.is_waiting(),
            Turn::Last => parity.peek_alone().is_some(),
        })
    }

    pub(super) fn has_skips(&self) -> bool {
        self.terms.has_untold()
    }

    /// The next parity shard to send in this turn: for whom, its block, its index and its bytes.
    pub(super) fn peek_parity(&mut self, turn: Turn) -> Option<(Destination, Block, u8, &[u8])> {
        let parity = self.parity.as_ref()?;
        let (to, block, index) = match turn {
            Turn::First => {
                let (block, index) = parity.peek()?;
                (Destination::Group(self.stream.group()), block, index)
            }
            Turn::Last => {
                let (to, block, index) = parity.peek_alone()?;
                (Destination::Unicast(to), block, index)
            }
        };
        Some((to, block, index, self.shard(block, index)?))
    }

    fn shard(&mut self, block: Block, index: u8) -> Option<&[u8]> {
        let start = usize::try_from(block.first.0.checked_sub(self.trail.0)?).ok()?;
        let end = start + usize::from(block.len);
        let slots = &self.slots;
        let segments = || slots.range(start..end.min(slots.len())).map(Slot::segment);
        Some(self.parity.as_mut()?.shard(block, index, segments))
    }

    /// What `peek_parity` could not give is never asked again.
    pub(super) fn drop_parity(&mut self, now: Timestamp, turn: Turn) {
        match (&mut self.parity, turn) {
            (Some(parity), Turn::First) => parity.drop_unsendable(self.trail),
            (Some(parity), Turn::Last) => parity.mark_alone(now),
            (None, _) => {}
        }
    }

    /// The shard that `peek_parity` gave has been sent; whether that was unasked.
    pub(super) fn mark_parity(&mut self, now: Timestamp, turn: Turn) -> bool {
        match (&mut self.parity, turn) {
            (Some(parity), Turn::First) => parity.mark_sent(now),
            (Some(parity), Turn::Last) => {
                parity.mark_alone(now);
                false
            }
            (None, _) => false,
        }
    }

    /// What is to be told to all as never coming.
    pub(super) fn tell_skips(
        &mut self,
        take: impl FnOnce(SkipReason, &[SeqRange]) -> usize,
    ) -> usize {
        self.terms.tell(take)
    }

    /// When a heartbeat is due; never before anything was sent (R-HB-1).
    pub(super) const fn heartbeat_due(&self) -> Timestamp {
        self.heartbeat_due
    }

    /// Something has changed that receivers should know at once.
    pub(super) fn hurry_heartbeat(&mut self, now: Timestamp) {
        if self.closing.is_none() && self.heartbeat_due != Timestamp::FAR_FUTURE {
            self.heartbeat_due = now;
        }
    }

    /// A heartbeat has been sent: the next one follows after twice the time (R-HB-2).
    pub(super) fn mark_heartbeat(&mut self, now: Timestamp) {
        self.steady_since = None;
        match &mut self.closing {
            Some(sent) => {
                *sent += 1;
                self.heartbeat_due = CLOSING_GAPS_NS
                    .get(*sent)
                    .map_or(Timestamp::FAR_FUTURE, |&gap| now.plus_nanos(gap));
            }
            None => {
                self.heartbeat_due = now.plus_nanos(self.heartbeat_gap_ns);
                self.heartbeat_gap_ns = (self.heartbeat_gap_ns * 2).min(HEARTBEAT_MAX_NS);
            }
        }
    }

    /// The heartbeat just sent has carried the last data again, whole: only whoever lost both needs the one after it. Where
    /// new data is about to come, which tells the same, it waits for that (R-HB-4).
    pub(super) fn put_off_heartbeat(&mut self, now: Timestamp) {
        if self.closing.is_none() && self.pause_ns <= PACED_MAX_NS {
            let sent = self.sent_before(self.unsent).unwrap_or(now);
            let expected = sent.plus_nanos(self.pause_ns);
            let latest = expected.plus_nanos(self.pause_ns / 4);
            self.heartbeat_due = self.heartbeat_due.max(latest);
        }
    }

    /// Nothing more will be published: the closing heartbeats begin once all of it has been sent (R-END-1).
    pub(super) fn close(&mut self, now: Timestamp) {
        if self.closing.is_none() {
            self.closing = Some(0);
            self.heartbeat_due = if self.has_unsent() {
                Timestamp::FAR_FUTURE
            } else {
                now
            };
        }
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether the last closing heartbeat has been sent.
    pub(super) fn is_closed(&self) -> bool {
        self.closing
            .is_some_and(|sent| sent >= CLOSING_GAPS_NS.len())
    }
}

impl Slot {
    fn segment(&self) -> Segment<'_> {
        Segment {
            place: self.place,
            payload: &self.payload,
        }
    }
}

#[cfg(test)]
mod tests;

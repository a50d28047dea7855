//! One stream as a receiver keeps it: window, gaps, reassembly, and what it reports.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::rng::Rng;
use crate::time::Timestamp;
use crate::wire::{
    Advert, BLOCK_LEN, Block, BlockNeed, MESSAGE_BYTES_MAX, Parity, Place, QuantDuration, SeqNo,
    SeqRange, SkipReason, StreamId,
};

use super::blocks::Blocks;
use super::config::ReceiveWindowLen;
use super::output::{Delivery, Origin, Output};
use super::receiver::Resume;
use super::tuning::{
    ANSWER_MAX_NS, ANSWERED_NS, BACKOFF_MAX_NS, BLOCK_PAUSE_MAX_NS, BLOCK_WAIT_MAX_NS,
    BLOCK_WAIT_NS, BLOCK_WAIT_PAUSES, Backoff, PARITY_ASKS_MAX, REPORT_AFTER_LEN,
    REPORT_GAP_MIN_NS, REPORT_SPREAD_MAX_NS, REPORT_SPREAD_PER_RECEIVER_NS, RETRIES_FLAT,
    RETRY_MAX_NS, ROBUST_FACTOR, SCOUTS_FIRST_QUARTERS, SCOUTS_HOLD_NS, Tuning, report_gap_ns,
    urgent_report_gap_ns,
};
use super::window::{Fate, Gap, Inserted, Next, ReceiveWindow, Stored};
use super::{Discard, backoff};

/// Runs of lost numbers that a report can tell. The oldest are merged when there are more, so a report may claim too
/// little but never too much (R-REP-3).
const LOST_RUNS_MAX: usize = 64;
/// Blocks that one request for parity names; the rest follows in the next.
const NEEDS_MAX: usize = 64;

/// What a receiver knows of the source of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) grtt_ns: u64,
    pub(super) group_size: u64,
    /// How this receiver asks.
    pub(super) tuning: Tuning,
}

/// Who asks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scouting {
    /// Nobody has been named.
    Nobody,
    /// We do.
    We,
    /// Others do.
    Others,
}

/// One stream as a receiver keeps it.
#[derive(Debug)]
pub(super) struct Reception {
    pub(super) stream: StreamId,
    /// The first number it counts on.
    pub(super) joined: SeqNo,
    window: ReceiveWindow,
    /// Parity and what it needs, where the stream is coded.
    blocks: Option<Box<Blocks>>,
    /// When its lead last went on there, and the longest pause before that lately.
    went_on: Timestamp,
    pause_ns: u64,
    /// Where this life of the receiver began.
    began: SeqNo,
    /// Numbers that came only after they had been found missing, and those given up, ever. Counted when that is certain and
    /// not when the gap is found: what its source takes back was nobody's loss, and a count that has been told cannot be
    /// taken back (R-REP-5).
    missed: u64,
    assembly: Option<Assembly>,
    /// The parts of the message on its way in, kept as they came and put together once, when it is whole.
    parts: Vec<Bytes>,
    parts_cost: usize,
    /// Whether a message has begun since the start; before that, the rest of one that began earlier is no loss
    /// (R-JOIN-3).
    is_synced: bool,
    lost: VecDeque<SeqRange>,
    backoff: QuantDuration,
    nack_due: Timestamp,
    /// When a repair last came.
    answered: Timestamp,
    /// How long a repair takes to come here.
    answer_ns: u64,
    report_due: Timestamp,
    /// The next report is to prove what it says (R-RCPT-1).
    pub(super) owes_receipt: bool,
    reported: Timestamp,
    /// How far we were then.
    reported_through: SeqNo,
    /// The report that is due comes early, because much has come since the last one.
    is_report_urgent: bool,
    scouting: Scouting,
    /// When scouts were last named.
    scouts_named: Timestamp,
    /// The source says that we have left its pace.
    pub(super) is_behind: bool,
    closing: Closing,
}

/// Whether the source goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Open,
    /// It has closed; repairs may come until then.
    Until(Timestamp),
    Over,
}

/// A message of several segments on its way in; its parts stand in [`Reception::parts`].
#[derive(Debug)]
struct Assembly {
    first: SeqNo,
    total: usize,
    bytes: usize,
    is_repaired: bool,
}

impl Reception {
    /// A stream that begins at `start`.
    pub(super) fn new(stream: StreamId, start: SeqNo, len_max: ReceiveWindowLen) -> Self {
        Self {
            stream,
            joined: start,
            window: ReceiveWindow::new(start, len_max.get()),
            blocks: None,
            went_on: Timestamp::ZERO,
            pause_ns: 0,
            began: start,
            missed: 0,
            assembly: None,
            parts: Vec::new(),
            parts_cost: 0,
            // At 0 nothing can have begun before.
            is_synced: start == SeqNo::ZERO,
            lost: VecDeque::new(),
            backoff: QuantDuration::default(),
            nack_due: Timestamp::FAR_FUTURE,
            answered: Timestamp::ZERO,
            answer_ns: 0,
            report_due: Timestamp::FAR_FUTURE,
            owes_receipt: false,
            reported: Timestamp::ZERO,
            reported_through: SeqNo::ZERO,
            is_report_urgent: false,
            scouting: Scouting::Nobody,
            scouts_named: Timestamp::ZERO,
            is_behind: false,
            closing: Closing::Open,
        }
    }

    /// A stream that a former life has followed: what it had is reported as had, at once, since it may have died before
    /// it could; a message that began before its mark is lost, not merely before our time.
    pub(super) fn resume(
        now: Timestamp,
        stream: StreamId,
        from: Resume,
        len_max: ReceiveWindowLen,
    ) -> Self {
        Self {
            joined: from.joined.min(from.next),
            is_synced: true,
            lost: from.lost.into_iter().take(LOST_RUNS_MAX).collect(),
            report_due: now,
            owes_receipt: false,
            ..Self::new(stream, from.next, len_max)
        }
    }

    /// The contiguous mark.
    pub(super) const fn through(&self) -> SeqNo {
        self.window.contiguous()
    }

    pub(super) fn lost(&self) -> impl Iterator<Item = SeqRange> {
        self.lost.iter().copied()
    }

    /// Memory held by what waits: segments out of order, and the message on its way in.
    pub(super) fn bytes(&self) -> usize {
        let blocks = self.blocks.as_ref().map_or(0, |blocks| blocks.bytes());
        self.window.bytes() + self.parts_cost + blocks
    }

    /// Numbers that were missed, as a report tells it: modulo 2^32.
    pub(super) const fn missed(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "told modulo 2^32 (R-REP-5)"
        )]
        let missed = self.missed as u32;
        missed
    }

    /// When a NACK or a report is due.
    pub(super) fn answer_due(&self) -> Timestamp {
        self.nack_due.min(self.report_due)
    }

    /// When a closing is to be believed, whatever is still missing.
    pub(super) const fn timeout_due(&self) -> Timestamp {
        match self.closing {
            Closing::Until(at) => at,
            Closing::Open | Closing::Over => Timestamp::FAR_FUTURE,
        }
    }

    /// The source has closed it: what is missing may still be repaired for a while (R-END-2).
    pub(super) fn close(&mut self, until: Timestamp) {
        if self.closing == Closing::Open {
            self.closing = Closing::Until(until);
        }
    }

    /// Gives up what is still missing when the time that closing allows is over.
    pub(super) fn give_up_closed(&mut self, now: Timestamp) {
        if matches!(self.closing, Closing::Until(at) if at <= now) {
            self.closing = Closing::Over;
            self.give_up();
        }
    }

    /// Whether it is closed and nothing is missing any more.
    pub(super) fn is_over(&self) -> bool {
        self.closing != Closing::Open && !self.window.has_gaps()
    }

    /// Whether `seq` can be handed on as it comes ([`Reception::pass`]): it is next, and nothing is missing or waiting.
    pub(super) fn can_pass(&self, seq: SeqNo) -> bool {
        self.blocks.is_none() && self.window.is_next_of_all(seq)
    }

    /// Hands the next segment on without a place in the window: what [`Reception::insert`] and [`Reception::advance`] would
    /// do with most segments.
    pub(super) fn pass(
        &mut self,
        now: Timestamp,
        seq: SeqNo,
        segment: Stored,
        origin: Origin,
        out: &mut Output,
    ) {
        self.window.pass(seq);
        if segment.is_repair {
            self.note_answer(now, None);
        }
        self.take(seq, segment, origin, out);
    }

    /// Takes one segment in. What it lets go is handed on by [`Reception::advance`].
    pub(super) fn insert(
        &mut self,
        now: Timestamp,
        seq: SeqNo,
        segment: Stored,
        path: Path,
        rng: &mut Rng,
    ) -> Result<Inserted, Discard> {
        let end = self.window.high_water();
        if self.blocks.is_some() && seq >= end {
            self.note_pace(now);
        }
        let due = if seq > end {
            now.plus_nanos(self.wait_ns(seq, path, rng))
        } else {
            Timestamp::FAR_FUTURE
        };
        let is_repair = segment.is_repair;
        let asked = if is_repair {
            self.window.asked(seq)
        } else {
            None
        };
        let inserted = self.window.insert(seq, segment, due);
        if is_repair && inserted == Inserted::Kept {
            self.note_answer(now, asked);
        }
        match inserted {
            Inserted::Kept => {
                let was_missing = seq < end;
                self.count_missed(u64::from(was_missing));
                Ok(self.enter_block(now, seq, end, inserted, path, rng))
            }
            Inserted::KeptBehindGap => {
                self.nack_due = self.nack_due.min(due);
                Ok(self.enter_block(now, seq, end, inserted, path, rng))
            }
            Inserted::Duplicate => Err(Discard::Duplicate),
            Inserted::Beyond => Err(Discard::Beyond),
            Inserted::Full => Err(Discard::Full),
        }
    }

    /// How long to wait before asking for a gap just found (R-BACK-2, R-SCOUT-2).
    fn draw_ns(&self, path: Path, rng: &mut Rng) -> u64 {
        let backoff_ns = self.backoff.nanos().min(BACKOFF_MAX_NS);
        match self.scouting {
            _ if backoff_ns == 0 => 0,
            Scouting::We => 0,
            Scouting::Nobody => backoff::draw(backoff_ns, path.group_size, rng),
            Scouting::Others => {
                let first = path.grtt_ns * SCOUTS_FIRST_QUARTERS / 4;
                first + backoff::draw(backoff_ns, path.group_size, rng)
            }
        }
    }

    /// Who asks first in this stream's group.
    pub(super) fn heed_scouts(&mut self, now: Timestamp, scouting: Scouting) {
        (self.scouting, self.scouts_named) = (scouting, now);
    }

    /// A heartbeat came: what was said of scouts too long ago holds no more.
    pub(super) fn forget_scouts(&mut self, now: Timestamp) {
        if now.nanos_since(self.scouts_named) >= SCOUTS_HOLD_NS {
            self.scouting = Scouting::Nobody;
        }
    }

    /// How long a gap waits that `seq` behind it shows. In a coded stream the rest of its block is waited for, since one
    /// request then speaks for all that the block lacks (R-NEED-2).
    fn wait_ns(&self, seq: SeqNo, path: Path, rng: &mut Rng) -> u64 {
        let wait = self.draw_ns(path, rng);
        let is_block_over = Block::first_of(seq) > self.window.high_water();
        if self.blocks.is_some() && !is_block_over {
            wait + self.block_wait_ns()
        } else {
            wait
        }
    }

    /// A repair has come of what was first asked for at `asked`. How long that takes here rests where two of three take less:
    /// the others were lost once.
    fn note_answer(&mut self, now: Timestamp, asked: Option<Timestamp>) {
        self.answered = now;
        let took_ns = asked.map(|asked| now.nanos_since(asked));
        if let Some(took_ns) = took_ns.filter(|&took_ns| took_ns <= ANSWER_MAX_NS) {
            self.answer_ns = match self.answer_ns {
                0 => took_ns,
                usual if took_ns > usual => (usual + usual / 8).min(ANSWER_MAX_NS),
                usual => usual - usual / 16,
            };
        }
    }

    /// New data has come: after a pause that is the longest for about a block, or one that is forgotten within that.
    fn note_pace(&mut self, now: Timestamp) {
        let pause_ns = now.nanos_since(self.went_on);
        self.went_on = now;
        self.pause_ns -= self.pause_ns / BLOCK_LEN;
        if pause_ns <= BLOCK_PAUSE_MAX_NS {
            self.pause_ns = self.pause_ns.max(pause_ns);
        }
    }

    /// How long an unfinished block is given to go on (R-NEED-2).
    fn block_wait_ns(&self) -> u64 {
        BLOCK_WAIT_NS.max(BLOCK_WAIT_PAUSES * self.pause_ns)
    }

    /// A segment beyond all others came. In the same block: its gaps go on waiting for the rest. In a later block: what
    /// waited for the rest of its block waits no more.
    fn enter_block(
        &mut self,
        now: Timestamp,
        seq: SeqNo,
        end: SeqNo,
        inserted: Inserted,
        path: Path,
        rng: &mut Rng,
    ) -> Inserted {
        let first = Block::first_of(seq);
        if self.blocks.is_some() && seq >= end && self.window.has_gaps() {
            // The block goes on: its gaps wait for the rest of it.
            let wait_ns = self.block_wait_ns();
            self.window
                .put_off(first, now.plus_nanos(wait_ns), BLOCK_WAIT_MAX_NS);
        }
        if self.blocks.is_some() && first >= end && self.window.has_gaps() {
            let due = now.plus_nanos(self.draw_ns(path, rng));
            for gap in self.window.gaps_mut() {
                if gap.asks == 0 && gap.range.first() < first {
                    gap.due = gap.due.min(due);
                }
            }
            self.nack_due = self.nack_due.min(due);
        }
        inserted
    }

    /// Takes one parity shard in, and mends what can be mended with it; how many segments that were.
    pub(super) fn insert_parity(
        &mut self,
        now: Timestamp,
        parity: &Parity<'_>,
        shard: Bytes,
        path: Path,
        rng: &mut Rng,
    ) -> Result<u64, Discard> {
        // What it covers exists: a block's last segments may be among the lost.
        self.extend(now, parity.block.range().end(), path, rng);
        if parity.block.range().end() <= self.through() {
            return Err(Discard::Duplicate);
        }
        let blocks = self.blocks.as_mut().ok_or(Discard::NotOurs)?;
        blocks.insert(parity.block, parity.index, shard)?;
        self.answered = now;
        Ok(self.mend(now, path, rng))
    }

    /// Mends every block that parity suffices for; how many segments came of it.
    pub(super) fn mend(&mut self, now: Timestamp, path: Path, rng: &mut Rng) -> u64 {
        let mut mended = 0;
        while let Some(blocks) = &mut self.blocks
            && let Some(segments) = blocks.mend(&self.window)
        {
            for (seq, place, payload) in segments {
                let cost = payload.len() + super::receiver::ENTRY_BYTES;
                let segment = Stored {
                    place,
                    payload,
                    is_repair: true,
                    cost,
                };
                // What was given up meanwhile stays given up.
                mended += u64::from(self.insert(now, seq, segment, path, rng).is_ok());
            }
        }
        mended
    }

    /// Learns from a heartbeat that everything below `next` exists; whether that shows a gap.
    pub(super) fn extend(
        &mut self,
        now: Timestamp,
        next: SeqNo,
        path: Path,
        rng: &mut Rng,
    ) -> bool {
        if next <= self.window.high_water() {
            return false;
        }
        // A silence before that counts: it is the rest of the block that is waited for.
        let silent_ns = now.nanos_since(self.went_on);
        let wait_ns = match self.blocks {
            Some(_) => self.wait_ns(next, path, rng).saturating_sub(silent_ns),
            None => self.wait_ns(next, path, rng),
        };
        let due = now.plus_nanos(wait_ns);
        let shows_gap = self.window.extend(next, due);
        if shows_gap && self.blocks.is_some() {
            // Of what it shows the last block may go on.
            let rest_ns = self.block_wait_ns().saturating_sub(silent_ns);
            let first = Block::first_of(next);
            self.window
                .put_off(first, now.plus_nanos(rest_ns), BLOCK_WAIT_MAX_NS);
        }
        if shows_gap {
            self.nack_due = self.nack_due.min(due);
        }
        shows_gap
    }

    /// Numbers that will never come (R-SKIP-2).
    pub(super) fn skip(
        &mut self,
        now: Timestamp,
        range: SeqRange,
        why: SkipReason,
        path: Path,
        rng: &mut Rng,
    ) {
        let due = now.plus_nanos(self.wait_ns(range.end(), path, rng));
        self.window.skip(range, why, due);
        self.nack_due = self.window.next_due();
    }

    /// Takes in how long the source lets receivers wait: before the segments that may show a gap (R-BACK-2).
    pub(super) fn heed_backoff(&mut self, advert: &Advert) {
        self.backoff = advert.backoff;
        if advert.is_coded && self.blocks.is_none() {
            self.blocks = Some(Box::new(Blocks::new(self.began.max(self.through()))));
            self.window.cut_gaps(BLOCK_LEN);
        }
    }

    /// Takes in what the source tells about the stream: below trail nothing can be had any more.
    pub(super) fn heed(&mut self, advert: &Advert) {
        self.heed_backoff(advert);
        self.window.give_up_before(advert.trail);
    }

    /// Nothing can be mended any more.
    pub(super) fn drop_parity(&mut self) {
        self.blocks = None;
    }

    /// Gives up everything that is missing.
    pub(super) fn give_up(&mut self) {
        self.window.give_up_all();
        self.nack_due = Timestamp::FAR_FUTURE;
    }

    /// Gives up everything below `trail`.
    pub(super) fn give_up_before(&mut self, trail: SeqNo) {
        self.window.give_up_before(trail);
    }

    /// Hands on what has come in order, and what is lost (R-DATA-3).
    pub(super) fn advance(
        &mut self,
        now: Timestamp,
        origin: Origin,
        path: Path,
        rng: &mut Rng,
        out: &mut Output,
    ) {
        let before = self.through();
        while let Some(next) = self.window.pop() {
            match next {
                Next::Segment(seq, segment) => {
                    if let Some(blocks) = &mut self.blocks {
                        blocks.remember(seq, &segment);
                    }
                    self.take(seq, segment, origin, out);
                }
                Next::Lost(range) => {
                    self.count_missed(range.len());
                    self.pass_over(range, None, origin, out);
                }
                Next::Skipped(range, why) => self.pass_over(range, Some(why), origin, out),
            }
        }
        if self.through() != before {
            if let Some(blocks) = &mut self.blocks {
                blocks.forget_before(self.window.contiguous());
            }
            self.schedule_report(now, path, rng);
        }
        if !self.window.has_gaps() {
            self.nack_due = Timestamp::FAR_FUTURE;
        }
    }

    /// Wraps around, as it is told: a source may claim to have gone on by any number.
    const fn count_missed(&mut self, numbers: u64) {
        self.missed = self.missed.wrapping_add(numbers);
    }

    /// Numbers that will not come, and with them the message they were to go on with.
    fn pass_over(
        &mut self,
        range: SeqRange,
        skipped: Option<SkipReason>,
        origin: Origin,
        out: &mut Output,
    ) {
        let open = self.assembly.take().map(|open| open.first);
        let first = open.unwrap_or(range.first());
        self.drop_parts();
        self.is_synced = true;
        match skipped {
            None => self.report_lost(first, range.end(), origin, out),
            Some(why) => {
                if let Some(range) = SeqRange::new(first, range.end()) {
                    out.skipped(origin, self.stream, range, why);
                    self.remember_lost(range);
                }
            }
        }
    }

    /// The next segment in order.
    fn take(&mut self, seq: SeqNo, segment: Stored, origin: Origin, out: &mut Output) {
        match segment.place {
            Place::Whole => {
                self.abort(seq, origin, out);
                self.deliver(
                    SeqRange::one(seq),
                    segment.payload,
                    segment.is_repair,
                    origin,
                    out,
                );
            }
            Place::First { total } => {
                self.abort(seq, origin, out);
                let total = usize::try_from(total).unwrap_or(usize::MAX);
                let open = Assembly {
                    first: seq,
                    total,
                    bytes: 0,
                    is_repaired: false,
                };
                if total > MESSAGE_BYTES_MAX {
                    return self.corrupt(&open, seq, origin, out);
                }
                self.add_part(open, seq, segment, origin, out);
            }
            Place::Middle | Place::Last => match self.assembly.take() {
                Some(open) => self.add_part(open, seq, segment, origin, out),
                None if self.is_synced => self.report_lost(seq, seq.plus(1), origin, out),
                None => self.joined = seq.plus(1),
            },
        }
    }

    /// One more part of the message on its way in.
    fn add_part(
        &mut self,
        mut open: Assembly,
        seq: SeqNo,
        segment: Stored,
        origin: Origin,
        out: &mut Output,
    ) {
        self.is_synced = true;
        open.is_repaired |= segment.is_repair;
        open.bytes += segment.payload.len();
        self.parts_cost += segment.cost;
        self.parts.push(segment.payload);
        let is_last = segment.place == Place::Last;
        if open.bytes > open.total || (is_last && open.bytes < open.total) {
            return self.corrupt(&open, seq, origin, out);
        }
        if !is_last {
            self.assembly = Some(open);
            return;
        }
        let mut whole = BytesMut::with_capacity(open.total);
        self.parts
            .iter()
            .for_each(|part| whole.extend_from_slice(part));
        self.drop_parts();
        if let Some(range) = SeqRange::new(open.first, seq.plus(1)) {
            self.deliver(range, whole.freeze(), open.is_repaired, origin, out);
        }
    }

    fn drop_parts(&mut self) {
        self.parts.clear();
        self.parts_cost = 0;
    }

    /// A message begins before the one that was open has ended: no source of ours sends that.
    fn abort(&mut self, seq: SeqNo, origin: Origin, out: &mut Output) {
        self.is_synced = true;
        if let Some(open) = self.assembly.take() {
            self.drop_parts();
            out.stats.discard_corrupt += 1;
            self.report_lost(open.first, seq, origin, out);
        }
    }

    /// The message on its way in will not be whole any more: its life has ended.
    pub(super) fn give_up_open(&mut self, origin: Origin, out: &mut Output) {
        if let Some(open) = self.assembly.take() {
            self.drop_parts();
            self.report_lost(open.first, self.through(), origin, out);
        }
    }

    fn corrupt(&mut self, open: &Assembly, last: SeqNo, origin: Origin, out: &mut Output) {
        self.drop_parts();
        out.stats.discard_corrupt += 1;
        self.is_synced = true;
        self.report_lost(open.first, last.plus(1), origin, out);
    }

    fn deliver(
        &self,
        seqs: SeqRange,
        payload: Bytes,
        is_repaired: bool,
        origin: Origin,
        out: &mut Output,
    ) {
        out.stats.messages_delivered += 1;
        out.deliver(Delivery {
            origin,
            stream: self.stream,
            seqs,
            payload,
            is_repaired,
        });
    }

    fn report_lost(&mut self, first: SeqNo, end: SeqNo, origin: Origin, out: &mut Output) {
        let Some(range) = SeqRange::new(first, end) else {
            return;
        };
        out.lost(origin, self.stream, range);
        self.remember_lost(range);
    }

    /// A report must not claim it (R-REP-3).
    fn remember_lost(&mut self, range: SeqRange) {
        let adjoining = self
            .lost
            .back_mut()
            .filter(|last| last.end() == range.first());
        match adjoining
            .and_then(|last| SeqRange::new(last.first(), range.end()).map(|merged| (last, merged)))
        {
            Some((last, merged)) => *last = merged,
            None => self.lost.push_back(range),
        }
        if self.lost.len() > LOST_RUNS_MAX
            && let (Some(a), Some(b)) = (self.lost.pop_front(), self.lost.pop_front())
            && let Some(merged) = SeqRange::new(a.first(), b.end())
        {
            self.lost.push_front(merged);
        }
    }

    /// The gaps to ask for now, lowest first, all in one round; each is moved on in its repair cycle by
    /// [`Reception::mark_asked`]. Those that parity is to mend are left to [`Reception::needs_due`].
    pub(super) fn gaps_due(&self, now: Timestamp, path: Path) -> impl Iterator<Item = SeqRange> {
        // What would be due before a repair could come goes along: one datagram for all (R-NACK-3).
        let until = now.plus_nanos(path.grtt_ns / 2);
        self.window
            .gaps()
            .filter(move |gap| gap.due <= until && !is_for_parity(self.blocks.as_deref(), gap))
            .map(|gap| gap.range)
            .take(path.tuning.gaps_per_nack)
    }

    /// The blocks to ask parity for now, lowest first.
    pub(super) fn needs_due(&self, now: Timestamp, path: Path) -> Vec<BlockNeed> {
        let Some(blocks) = &self.blocks else {
            return Vec::new();
        };
        let until = now.plus_nanos(path.grtt_ns / 2);
        let mut needs: Vec<BlockNeed> = Vec::new();
        let gaps = self.window.gaps().filter(|gap| gap.due <= until);
        for gap in gaps.filter(|gap| is_for_parity(Some(blocks), gap)) {
            let first = Block::first_of(gap.range.first());
            if needs.len() < NEEDS_MAX && needs.last().is_none_or(|last| last.block.first < first) {
                needs.extend(blocks.need(first, self.window.high_water(), &self.window));
            }
        }
        needs
    }

    /// Gives up the gaps that have been asked for often enough and whose last wait is over (R-NACK-5).
    pub(super) fn give_up_exhausted(&mut self, now: Timestamp) {
        let has_been_answered =
            self.answered != Timestamp::ZERO && now.nanos_since(self.answered) < ANSWERED_NS;
        if self.nack_due <= now && !has_been_answered {
            for gap in self
                .window
                .gaps_mut()
                .filter(|gap| gap.asks >= ROBUST_FACTOR && gap.due <= now)
            {
                gap.fate = Fate::Lost;
            }
        }
    }

    pub(super) fn is_nack_due(&self, now: Timestamp) -> bool {
        self.nack_due <= now
    }

    /// The first `named` of the gaps due have been asked for.
    pub(super) fn mark_asked(&mut self, now: Timestamp, named: usize, path: Path, rng: &mut Rng) {
        let until = now.plus_nanos(path.grtt_ns / 2);
        let answer_ns = self.answer_ns;
        let blocks = self.blocks.as_deref();
        let due = self.window.gaps_mut().filter(|gap| gap.due <= until);
        for gap in due.filter(|gap| !is_for_parity(blocks, gap)).take(named) {
            gap.ask(now);
            gap.due = now.plus_nanos(retry_ns(gap.asks, answer_ns, path, rng));
        }
        self.nack_due = self.window.next_due();
    }

    /// Parity has been asked for these blocks; where there was nothing to ask for, that is looked at again like a request.
    pub(super) fn mark_needed(
        &mut self,
        now: Timestamp,
        needs: &[BlockNeed],
        path: Path,
        rng: &mut Rng,
    ) {
        let answer_ns = self.answer_ns;
        let Some(blocks) = &self.blocks else {
            return;
        };
        let until = now.plus_nanos(path.grtt_ns / 2);
        let gaps = self.window.gaps_mut();
        for gap in gaps.filter(|gap| is_for_parity(Some(blocks), gap)) {
            // A block speaks for all its gaps, due or not.
            let first = Block::first_of(gap.range.first());
            let is_named = needs.binary_search_by_key(&first, |need| need.block.first);
            if is_named.is_ok() || (gap.due <= until && needs.len() < NEEDS_MAX) {
                gap.ask(now);
                gap.due = now.plus_nanos(retry_ns(gap.asks, answer_ns, path, rng));
            }
        }
        self.nack_due = self.window.next_due();
    }

    /// The source asks for a report (R-REP-4).
    pub(super) fn handle_ask(
        &mut self,
        now: Timestamp,
        wants_receipt: bool,
        path: Path,
        rng: &mut Rng,
    ) {
        self.owes_receipt |= wants_receipt;
        let spread = rng.below(report_spread_ns(path));
        self.report_due = self
            .report_due
            .min(self.may_report(now, REPORT_GAP_MIN_NS).plus_nanos(spread));
    }

    /// When the next report may go out, `gap_ns` after the last.
    fn may_report(&self, now: Timestamp, gap_ns: u64) -> Timestamp {
        match self.reported {
            Timestamp::ZERO => now,
            reported => reported.plus_nanos(gap_ns).max(now),
        }
    }

    pub(super) fn is_report_due(&self, now: Timestamp) -> bool {
        self.report_due <= now
    }

    pub(super) fn mark_reported(&mut self, now: Timestamp) {
        self.reported = now;
        self.owes_receipt = false;
        self.reported_through = self.through();
        self.report_due = Timestamp::FAR_FUTURE;
        self.is_report_urgent = false;
    }

    /// The mark moved: a report follows, soon after a quiet time, seldom under steady data, and oftener under so much that a
    /// source may be waiting for it (R-REP-2).
    pub(super) fn schedule_report(&mut self, now: Timestamp, path: Path, rng: &mut Rng) {
        let is_scheduled = self.report_due != Timestamp::FAR_FUTURE;
        let is_urgent = self.through().since(self.reported_through) >= REPORT_AFTER_LEN;
        if is_scheduled && (self.is_report_urgent || !is_urgent) {
            return;
        }
        self.is_report_urgent = is_urgent;
        let spread = rng.below(report_spread_ns(path));
        let gap_ns = if is_urgent {
            urgent_report_gap_ns(path.group_size)
        } else {
            report_gap_ns(path.group_size)
        };
        let earliest = self.may_report(now, gap_ns).plus_nanos(spread);
        self.report_due = self.report_due.min(earliest);
    }
}

fn report_spread_ns(path: Path) -> u64 {
    path.group_size
        .saturating_mul(REPORT_SPREAD_PER_RECEIVER_NS)
        .min(REPORT_SPREAD_MAX_NS)
}

/// Whether parity is to mend a gap; else its numbers are asked for one by one: its block began before we did, all its shards
/// have been out, or it has been asked for often enough that way (R-NEED-4).
fn is_for_parity(blocks: Option<&Blocks>, gap: &Gap) -> bool {
    let first = Block::first_of(gap.range.first());
    gap.asks < PARITY_ASKS_MAX && blocks.is_some_and(|blocks| blocks.can_mend(first))
}

/// How long to wait for a repair before asking again (R-NACK-4): two of the floor's round trips, at first, or as long as
/// repairs take to come here and a quarter, if that is more; and up to half as much more, so that receivers who lost the
/// same repair do not ask in step.
fn retry_ns(asks: u8, answer_ns: u64, path: Path, rng: &mut Rng) -> u64 {
    let shortest = path.tuning.retry_min_ns.min(RETRY_MAX_NS);
    // Other systems' constants, which do without a learnt back-off, do without this as well.
    let answer_ns = match path.tuning.backoff {
        Backoff::Adaptive => answer_ns,
        Backoff::Fixed(_) => 0,
    };
    let usual = (2 * path.grtt_ns).max(answer_ns.saturating_add(answer_ns / 4));
    let base = usual.clamp(shortest, RETRY_MAX_NS);
    let doublings = u32::from(asks.saturating_sub(RETRIES_FLAT)).min(20);
    let wait = base.saturating_mul(1 << doublings).min(RETRY_MAX_NS);
    wait + rng.below(wait / 2)
}

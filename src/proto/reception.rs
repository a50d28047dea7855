//! One stream as a receiver keeps it: window, gaps, reassembly, and what it reports.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::rng::Rng;
use crate::time::Timestamp;
use crate::wire::{Advert, MESSAGE_BYTES_MAX, Place, QuantDuration, SeqNo, SeqRange, StreamId};

use super::config::ReceiveWindowLen;
use super::output::{Delivery, Origin, Output};
use super::receiver::Resume;
use super::window::{Inserted, Next, ReceiveWindow, Stored};
use super::{Discard, backoff};

/// First wait for a repair: longer than the source's shortest hold-off, or the next NACK would fall into it (R-NACK-4).
const RETRY_MIN_NS: u64 = 750_000;
/// Longest wait between two NACKs for the same gap: four a second while a source cannot answer.
const RETRY_MAX_NS: u64 = 250_000_000;
/// NACKs for a gap before the wait doubles. At 20 % loss each way a round fails four times in ten; eight failures in a row
/// (7 in 10,000) are no longer loss but congestion, or a source that is gone. With three, 200 agents at 20 % loss stood
/// still for half a second now and then.
const RETRIES_FLAT: u8 = 8;
/// The robust factor: how often a gap is asked for before it is given up (R-NACK-5). At the longest wait this is about a
/// quarter of a minute, far longer than any repair that a source is able to make.
const ROBUST_FACTOR: u8 = 64;
/// Runs of lost numbers that a report can tell. The oldest are merged when there are more, so a report may claim too
/// little but never too much (R-REP-3).
const LOST_RUNS_MAX: usize = 64;
/// Shortest time between two reports of one stream (R-REP-2).
const REPORT_GAP_MIN_NS: u64 = 5_000_000;
/// Longest time between two reports of one stream while it moves.
const REPORT_GAP_MAX_NS: u64 = 2_000_000_000;
/// Time between two reports for each receiver of the group: the whole group sends at most 10,000 a second.
const REPORT_GAP_PER_RECEIVER_NS: u64 = 100_000;
/// Longest spread: a source that claims a billion receivers is not believed.
const REPORT_SPREAD_MAX_NS: u64 = 100_000_000;
/// Longest back-off that a source may ask for.
const BACKOFF_MAX_NS: u64 = 1_000_000_000;
/// Spread of the first reports after a quiet time for each receiver of the group: 500 answer within 2.5 ms, at the 200,000
/// datagrams a second that one thread can take in.
const REPORT_SPREAD_PER_RECEIVER_NS: u64 = 5_000;

/// What a receiver knows of the source of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) grtt_ns: u64,
    pub(super) group_size: u64,
}

/// One stream as a receiver keeps it.
#[derive(Debug)]
pub(super) struct Reception {
    pub(super) stream: StreamId,
    /// The first number it counts on.
    pub(super) joined: SeqNo,
    window: ReceiveWindow,
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
    report_due: Timestamp,
    reported: Timestamp,
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
            assembly: None,
            parts: Vec::new(),
            parts_cost: 0,
            // At 0 nothing can have begun before.
            is_synced: start == SeqNo::ZERO,
            lost: VecDeque::new(),
            backoff: QuantDuration::default(),
            nack_due: Timestamp::FAR_FUTURE,
            report_due: Timestamp::FAR_FUTURE,
            reported: Timestamp::ZERO,
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
    pub(super) const fn bytes(&self) -> usize {
        self.window.bytes() + self.parts_cost
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

    /// Takes one segment in. What it lets go is handed on by [`Reception::advance`].
    pub(super) fn insert(
        &mut self,
        now: Timestamp,
        seq: SeqNo,
        segment: Stored,
        path: Path,
        rng: &mut Rng,
    ) -> Result<Inserted, Discard> {
        let due = now.plus_nanos(backoff::draw(
            self.backoff.nanos().min(BACKOFF_MAX_NS),
            path.group_size,
            rng,
        ));
        let inserted = self.window.insert(seq, segment, due);
        match inserted {
            Inserted::Kept => Ok(inserted),
            Inserted::KeptBehindGap => {
                self.nack_due = self.nack_due.min(due);
                Ok(inserted)
            }
            Inserted::Duplicate => Err(Discard::Duplicate),
            Inserted::Beyond => Err(Discard::Beyond),
            Inserted::Full => Err(Discard::Full),
        }
    }

    /// Learns from a heartbeat that everything below `next` exists; whether that shows a gap.
    pub(super) fn extend(
        &mut self,
        now: Timestamp,
        next: SeqNo,
        path: Path,
        rng: &mut Rng,
    ) -> bool {
        let due = now.plus_nanos(backoff::draw(
            self.backoff.nanos().min(BACKOFF_MAX_NS),
            path.group_size,
            rng,
        ));
        let shows_gap = self.window.extend(next, due);
        if shows_gap {
            self.nack_due = self.nack_due.min(due);
        }
        shows_gap
    }

    /// Takes in how long the source lets receivers wait: before the segments that may show a gap (R-BACK-2).
    pub(super) const fn heed_backoff(&mut self, advert: &Advert) {
        self.backoff = advert.backoff;
    }

    /// Takes in what the source tells about the stream: below trail nothing can be had any more.
    pub(super) fn heed(&mut self, advert: &Advert) {
        self.backoff = advert.backoff;
        self.window.give_up_before(advert.trail);
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
                Next::Segment(seq, segment) => self.take(seq, segment, origin, out),
                Next::Lost(range) => {
                    let first = self
                        .assembly
                        .take()
                        .map_or(range.first(), |open| open.first);
                    self.drop_parts();
                    self.is_synced = true;
                    self.report_lost(first, range.end(), origin, out);
                }
            }
        }
        if self.through() != before {
            self.schedule_report(now, path, rng);
        }
        if !self.window.has_gaps() {
            self.nack_due = Timestamp::FAR_FUTURE;
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
    /// [`Reception::mark_asked`].
    pub(super) fn gaps_due(
        &mut self,
        now: Timestamp,
        path: Path,
    ) -> impl Iterator<Item = SeqRange> {
        // What would be due before a repair could come goes along: one datagram for all (R-NACK-3).
        let until = now.plus_nanos(path.grtt_ns / 2);
        self.window
            .gaps_mut()
            .filter(move |gap| gap.due <= until)
            .map(|gap| gap.range)
    }

    /// Gives up the gaps that have been asked for often enough and whose last wait is over (R-NACK-5).
    pub(super) fn give_up_exhausted(&mut self, now: Timestamp) {
        if self.nack_due <= now {
            for gap in self
                .window
                .gaps_mut()
                .filter(|gap| gap.asks >= ROBUST_FACTOR && gap.due <= now)
            {
                gap.is_lost = true;
            }
        }
    }

    pub(super) fn is_nack_due(&self, now: Timestamp) -> bool {
        self.nack_due <= now
    }

    /// The first `named` of the gaps due have been asked for.
    pub(super) fn mark_asked(&mut self, now: Timestamp, named: usize, path: Path, rng: &mut Rng) {
        let until = now.plus_nanos(path.grtt_ns / 2);
        for gap in self
            .window
            .gaps_mut()
            .filter(|gap| gap.due <= until)
            .take(named)
        {
            gap.asks = gap.asks.saturating_add(1);
            gap.due = now.plus_nanos(retry_ns(gap.asks, path.grtt_ns, rng));
        }
        self.nack_due = self.window.next_due();
    }

    /// The source asks for a report (R-REP-4).
    pub(super) fn handle_ask(&mut self, now: Timestamp, path: Path, rng: &mut Rng) {
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
        self.report_due = Timestamp::FAR_FUTURE;
    }

    /// The mark moved: a report follows, soon after a quiet time, seldom under steady data (R-REP-2).
    fn schedule_report(&mut self, now: Timestamp, path: Path, rng: &mut Rng) {
        if self.report_due != Timestamp::FAR_FUTURE {
            return;
        }
        let gap = path.group_size.saturating_mul(REPORT_GAP_PER_RECEIVER_NS);
        let spread = rng.below(report_spread_ns(path));
        let earliest = self.may_report(now, gap.clamp(REPORT_GAP_MIN_NS, REPORT_GAP_MAX_NS));
        self.report_due = earliest.plus_nanos(spread);
    }
}

fn report_spread_ns(path: Path) -> u64 {
    path.group_size
        .saturating_mul(REPORT_SPREAD_PER_RECEIVER_NS)
        .min(REPORT_SPREAD_MAX_NS)
}

/// How long to wait for a repair before asking again (R-NACK-4): two round trips, at first, and up to half as much more,
/// so that receivers who lost the same repair do not ask in step.
fn retry_ns(asks: u8, grtt_ns: u64, rng: &mut Rng) -> u64 {
    let base = (2 * grtt_ns).clamp(RETRY_MIN_NS, RETRY_MAX_NS);
    let doublings = u32::from(asks.saturating_sub(RETRIES_FLAT)).min(20);
    let wait = base.saturating_mul(1 << doublings).min(RETRY_MAX_NS);
    wait + rng.below(wait / 2)
}

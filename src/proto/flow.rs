//! Whose pace a source keeps: its own rate, a quorum's, or none; and who has left it.

use std::collections::BTreeMap;

use crate::time::Timestamp;
use crate::wire::{SeqNo, SeqRange, SourceId, StreamId};

use super::config::{Config, Flow, Rate};
use super::ledger::{Ledger, Mark};
use super::pacer::Bucket;
use super::publication::Publication;
use super::tuning::{
    AIMD_EVERY_NS, AIMD_EXCEPT_PERCENT, AIMD_LOSS_PER_MILLE, AIMD_STEPS, BURST_BYTES,
    PACE_EVERY_NS, PATIENCE_NS, REPORT_GAP_PER_RECEIVER_NS,
};

/// A quorum's mark is reckoned at most this often: a thousand times a second, whoever reports.
const QUORUM_EVERY_NS: u64 = 1_000_000;

/// What has changed for one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PaceChange {
    /// It catches up alone from now on.
    Left(SeqNo),
    /// It is back.
    Rejoined,
    /// Some of what it lacks has left the send window.
    Evicted(SeqRange),
}

/// How far a quorum lets one stream go.
#[derive(Clone, Copy, Debug)]
struct Held {
    mark: SeqNo,
    moved: Timestamp,
    reckoned: Timestamp,
}

/// The pace of all streams of one source.
#[derive(Debug)]
pub(super) struct Pacing {
    flow: Flow,
    configured: Rate,
    data: Bucket,
    window_len: u64,
    window_bytes: u64,
    held: BTreeMap<StreamId, Held>,
    /// Data has been sent since the last look at who is behind.
    has_moved: bool,
    look_due: Timestamp,
    is_rate_adaptive: bool,
    rate_due: Timestamp,
    segments_lately: u64,
}

impl Pacing {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            flow: config.flow,
            configured: config.data_rate,
            data: Bucket::new(config.data_rate, BURST_BYTES),
            window_len: config.send_window_len.get(),
            window_bytes: config.send_window_bytes.get(),
            held: BTreeMap::new(),
            has_moved: false,
            look_due: Timestamp::ZERO,
            is_rate_adaptive: config.is_rate_adaptive,
            rate_due: Timestamp::ZERO,
            segments_lately: 0,
        }
    }

    /// When new data of `publication` may go out.
    pub(super) fn ready_at(&self, publication: &Publication) -> Timestamp {
        match self.flow {
            Flow::None => Timestamp::ZERO,
            Flow::Rate => self.data.ready_at(),
            Flow::Quorum(_) if self.is_held(publication) => Timestamp::FAR_FUTURE,
            Flow::Quorum(_) => self.data.ready_at(),
        }
    }

    /// Whether the quorum has not come far enough: half the window is left for it to ask for repairs in (R-FLOW-2).
    fn is_held(&self, publication: &Publication) -> bool {
        self.held.get(&publication.stream).is_some_and(|held| {
            publication.unsent().since(held.mark) >= self.window_len / 2
                || publication.bytes_since(held.mark) >= self.window_bytes / 2
        })
    }

    /// New data has been sent.
    pub(super) fn spend(&mut self, now: Timestamp, bytes: usize, segments: u64) {
        self.has_moved = true;
        self.segments_lately += segments;
        if self.flow != Flow::None {
            self.data.spend(now, bytes);
        }
    }

    /// Somebody has reported on `stream`.
    pub(super) fn reported(&mut self, now: Timestamp, stream: StreamId, ledger: &Ledger) {
        let Flow::Quorum(share) = self.flow else {
            return;
        };
        let known = self.held.get(&stream);
        if known.is_some_and(|held| now.nanos_since(held.reckoned) < QUORUM_EVERY_NS) {
            return;
        }
        self.reckon(now, stream, ledger, share);
    }

    fn reckon(
        &mut self,
        now: Timestamp,
        stream: StreamId,
        ledger: &Ledger,
        share: super::config::Percent,
    ) {
        let Some(mark) = ledger.quorum_mark(now, stream, share) else {
            self.held.remove(&stream);
            return;
        };
        let held = self.held.entry(stream).or_insert(Held {
            mark,
            moved: now,
            reckoned: now,
        });
        if held.mark != mark {
            (held.mark, held.moved) = (mark, now);
        }
        held.reckoned = now;
    }

    /// When [`Pacing::look`] is due.
    pub(super) fn look_due(&self) -> Timestamp {
        if self.has_moved {
            self.look_due
        } else {
            Timestamp::FAR_FUTURE
        }
    }

    /// Looks who has fallen behind, who is back and who was evicted, and sets the rate anew where that is wanted.
    pub(super) fn look<'a>(
        &mut self,
        now: Timestamp,
        publications: impl Iterator<Item = &'a Publication> + Clone,
        ledger: &mut Ledger,
        changed: &mut Vec<(SourceId, StreamId, PaceChange)>,
    ) {
        self.look_due = now.plus_nanos(PACE_EVERY_NS);
        self.has_moved = publications.clone().any(|one| self.is_held(one));
        for publication in publications {
            let stream = publication.stream;
            if let Flow::Quorum(share) = self.flow {
                self.reckon(now, stream, ledger, share);
            }
            let held = self
                .held
                .get(&stream)
                .filter(|held| now.nanos_since(held.moved) >= PATIENCE_NS)
                .filter(|_| self.is_held(publication))
                .map(|held| held.mark);
            let mut has_behind = false;
            for (station, mark) in ledger.marks_mut(now, stream) {
                if let Some(change) = self.judge(publication, mark, held) {
                    changed.push((station, stream, change));
                }
                has_behind |= mark.is_behind;
            }
            // Whoever catches up is looked at until it is back, even if nothing new is sent.
            self.has_moved |= has_behind;
            if let Flow::Quorum(share) = self.flow {
                self.reckon(now, stream, ledger, share);
            }
        }
        if self.is_rate_adaptive && now >= self.rate_due {
            self.adapt(now, ledger);
        }
    }

    /// What has changed for one receiver (R-FLOW-3). `held` is the mark that has held a quorum back for too long.
    fn judge(
        &self,
        publication: &Publication,
        mark: &mut Mark,
        held: Option<SeqNo>,
    ) -> Option<PaceChange> {
        let lag = publication.unsent().since(mark.through);
        let lag_bytes = publication.bytes_since(mark.through);
        let is_far = lag > self.window_len / 4 * 3 || lag_bytes > self.window_bytes / 4 * 3;
        let is_near = lag <= self.window_len / 8 && lag_bytes <= self.window_bytes / 8;
        if mark.through < publication.trail() && !mark.is_evicted {
            (mark.is_behind, mark.is_evicted) = (true, true);
            let seqs = SeqRange::new(mark.through, publication.trail())?;
            return Some(PaceChange::Evicted(seqs));
        }
        if !mark.is_behind && (is_far || held.is_some_and(|held| mark.through <= held)) {
            mark.is_behind = true;
            return Some(PaceChange::Left(mark.through));
        }
        if mark.is_behind && is_near && mark.through >= publication.trail() {
            (mark.is_behind, mark.is_evicted) = (false, false);
            return Some(PaceChange::Rejoined);
        }
        None
    }

    /// Additive increase, multiplicative decrease, on the loss that all but a tenth of the receivers stay below
    /// (R-FLOW-4).
    fn adapt(&mut self, now: Timestamp, ledger: &mut Ledger) {
        let sent = std::mem::take(&mut self.segments_lately);
        let mut missed = ledger.take_missed_lately(now);
        let receivers = missed.len() as u64;
        let report_gap_ns = receivers * REPORT_GAP_PER_RECEIVER_NS;
        self.rate_due = now.plus_nanos(AIMD_EVERY_NS.max(2 * report_gap_ns));
        if missed.is_empty() || sent == 0 {
            return;
        }
        missed.sort_unstable();
        let except = missed.len() * AIMD_EXCEPT_PERCENT / 100;
        let worst = missed[missed.len() - 1 - except.min(missed.len() - 1)];
        let step = self.configured.get() / AIMD_STEPS;
        let present = self.data.rate().get();
        let rate = if worst * 1_000 > sent * AIMD_LOSS_PER_MILLE {
            (present / 2).max(step)
        } else {
            (present + step).min(self.configured.get())
        };
        self.data
            .set_rate(Rate::try_from(rate).unwrap_or(Rate::MIN));
    }

    /// The rate of new data, bytes a second.
    pub(super) const fn rate(&self) -> Rate {
        self.data.rate()
    }
}

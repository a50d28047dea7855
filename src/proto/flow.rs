//! Whose pace a source keeps: its own rate, a quorum's, or none; and who has left it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::time::Timestamp;
use crate::wire::{Pace, SeqNo, SeqRange, SourceId, StreamId};

use super::config::{Config, Flow, Rate};
use super::ledger::{Ledger, Mark};
use super::pacer::Bucket;
use super::publication::Publication;
use super::tuning::{
    AIMD_EVERY_NS, AIMD_EXCEPT_PERCENT, AIMD_LOSS_PER_MILLE, AIMD_STEPS, PACE_AGAIN_NS,
    PACE_EVERY_NS, PACE_TIMES, PATIENCE_NS, burst_bytes,
};

/// Receivers that are told of a change of their pace, stream by stream: as many as a source keeps accounts of. Further ones
/// find out by themselves: they are served alone, told or not.
const TELLS_MAX: usize = super::tuning::ACCOUNTS_MAX;
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
    /// Since when it has held new data back without coming on.
    since: Option<Timestamp>,
    reckoned: Timestamp,
}

/// What is told to a station about its pace.
#[derive(Clone, Copy, Debug)]
struct Tell {
    is_behind: bool,
    times: u8,
    at: Timestamp,
}

/// How a stream stood at one time.
#[derive(Clone, Copy, Debug)]
struct Stand {
    at: Timestamp,
    trail: SeqNo,
    /// Whoever had not come so far was about to lose something.
    far: SeqNo,
    /// Whoever had come so far was near.
    near: SeqNo,
    /// One after the newest number sent.
    sent: SeqNo,
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
    /// How each stream stood at the last looks, from the last one on that everybody should have reported since.
    stands: BTreeMap<StreamId, VecDeque<Stand>>,
    /// Who is behind, and who has come back and was not told so often enough.
    tells: BTreeMap<(SourceId, StreamId), Tell>,
    /// When the mark of a quorum that holds data back is to be reckoned again.
    reckon_due: Timestamp,
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
            data: Bucket::new(config.data_rate, burst_bytes(config.data_rate)),
            window_len: config.send_window_len.get(),
            window_bytes: config.send_window_bytes.get(),
            held: BTreeMap::new(),
            stands: BTreeMap::new(),
            tells: BTreeMap::new(),
            reckon_due: Timestamp::FAR_FUTURE,
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

    /// Whether the quorum has not come far enough for one more segment: half the window is left for it to ask for repairs
    /// in (R-FLOW-2). What is not sent yet takes the other half at most, so nothing that the quorum lacks ever leaves it.
    pub(super) fn is_held(&self, publication: &Publication) -> bool {
        let (Some(held), Some((unsent, next))) = (
            self.held.get(&publication.stream),
            publication.peek_unsent(),
        ) else {
            return false;
        };
        let from = publication.goes_with(held.mark);
        let bytes = publication.bytes_since(from) + next.payload.len() as u64;
        held.mark < unsent
            && (unsent.since(from) >= self.window_len / 2 || bytes > self.window_bytes / 2)
    }

    /// New data has been sent.
    pub(super) fn spend(&mut self, now: Timestamp, bytes: usize, segments: u64) {
        self.has_moved = true;
        self.segments_lately += segments;
        if self.flow != Flow::None {
            self.data.spend(now, bytes);
        }
    }

    /// `station` has reported on a stream.
    pub(super) fn reported(
        &mut self,
        now: Timestamp,
        station: SourceId,
        publication: &Publication,
        ledger: &Ledger,
    ) {
        // It may have been silent for so long that nobody looked any more.
        self.has_moved |= self.tells.contains_key(&(station, publication.stream));
        let known = self.held.get(&publication.stream);
        let next = known.map_or(now, |held| held.reckoned.plus_nanos(QUORUM_EVERY_NS));
        if next <= now {
            self.reckon(now, publication.stream, ledger);
        } else if self.is_held(publication) {
            // It may be the last report for long: what is held back brings no further ones.
            self.reckon_due = self.reckon_due.min(next);
        }
    }

    fn reckon(&mut self, now: Timestamp, stream: StreamId, ledger: &Ledger) {
        let Flow::Quorum(share) = self.flow else {
            return;
        };
        let Some(mark) = ledger.quorum_mark(now, stream, share) else {
            self.held.remove(&stream);
            return;
        };
        let held = self.held.entry(stream).or_insert(Held {
            mark,
            since: None,
            reckoned: now,
        });
        if held.mark != mark {
            (held.mark, held.since) = (mark, None);
        }
        held.reckoned = now;
    }

    /// When [`Pacing::look`] is due.
    pub(super) fn look_due(&self) -> Timestamp {
        if self.has_moved {
            self.look_due.min(self.reckon_due)
        } else {
            self.reckon_due
        }
    }

    /// Looks who has fallen behind, who is back and who was evicted, and sets the rate anew where that is wanted.
    /// `report_gap_ns` is the time between two reports of one receiver. False when only a quorum's mark was due.
    pub(super) fn look<'a>(
        &mut self,
        now: Timestamp,
        publications: impl Iterator<Item = &'a Publication> + Clone,
        ledger: &mut Ledger,
        report_gap_ns: u64,
        changed: &mut Vec<(SourceId, StreamId, PaceChange)>,
    ) -> bool {
        if self.reckon_due <= now {
            self.reckon_due = Timestamp::FAR_FUTURE;
            for publication in publications.clone() {
                self.reckon(now, publication.stream, ledger);
            }
        }
        if now < self.look_due {
            return false;
        }
        self.look_due = now.plus_nanos(PACE_EVERY_NS);
        self.has_moved = false;
        for publication in publications {
            self.look_at(now, publication, ledger, report_gap_ns, changed);
        }
        for &(station, stream, change) in &*changed {
            let is_known = self.tells.contains_key(&(station, stream));
            if !is_known && self.tells.len() >= TELLS_MAX {
                continue;
            }
            let tell = Tell {
                is_behind: change != PaceChange::Rejoined,
                times: 0,
                at: Timestamp::ZERO,
            };
            self.tells.insert((station, stream), tell);
        }
        if self.is_rate_adaptive && now >= self.rate_due {
            self.adapt(now, ledger, report_gap_ns);
        }
        true
    }

    fn look_at(
        &mut self,
        now: Timestamp,
        publication: &Publication,
        ledger: &mut Ledger,
        report_gap_ns: u64,
        changed: &mut Vec<(SourceId, StreamId, PaceChange)>,
    ) {
        let stream = publication.stream;
        self.reckon(now, stream, ledger);
        let is_held = self.is_held(publication);
        let patience_ns = PATIENCE_NS.max(2 * report_gap_ns);
        let held = self.held.get_mut(&stream).map(|held| {
            held.since = is_held.then(|| held.since.unwrap_or(now));
            let is_too_long = |since| now.nanos_since(since) >= patience_ns;
            (held.mark, held.since.is_some_and(is_too_long))
        });
        let Some(stand) = self.stand(now, publication, 2 * report_gap_ns) else {
            self.has_moved = true;
            return;
        };
        self.has_moved |= is_held || stand.sent < publication.unsent();
        for (station, mark) in ledger.marks_mut(now, stream) {
            if let Some(change) = stand.judge(mark, held) {
                changed.push((station, stream, change));
            }
            // Whoever catches up is looked at until it is back, even if nothing new is sent.
            self.has_moved |= mark.is_behind;
        }
        self.reckon(now, stream, ledger);
    }

    /// Up to `count` stations that are to be told about their pace now: that they are behind, whenever they have been heard
    /// since they were told, and that they are back (R-FLOW-3).
    pub(super) fn tell(
        &mut self,
        now: Timestamp,
        ledger: &Ledger,
        count: usize,
    ) -> Vec<(SocketAddr, Pace)> {
        let mut told = Vec::new();
        self.tells.retain(|&(station, stream), tell| {
            let Some((from, heard)) = ledger.address(station) else {
                return false;
            };
            let wait_ns = match tell.times {
                0 => 0,
                1..PACE_TIMES => PACE_EVERY_NS,
                _ => PACE_AGAIN_NS,
            };
            let is_heard = heard > tell.at || !tell.is_behind;
            // Nothing goes where nobody has shown to be (R-ADDR-3).
            let may_tell = is_heard && ledger.is_proved(station);
            if may_tell && now.nanos_since(tell.at) >= wait_ns && told.len() < count {
                (tell.times, tell.at) = (tell.times.saturating_add(1), now);
                let is_behind = tell.is_behind;
                let pace = Pace {
                    stream,
                    station,
                    is_behind,
                };
                told.push((from, pace));
            }
            tell.is_behind || tell.times < PACE_TIMES
        });
        self.has_moved |= self.tells.values().any(|tell| !tell.is_behind);
        told
    }

    /// How a stream stood `age_ns` ago, as nearly as it was looked at; what is not known is how it stands now.
    fn stand(&mut self, now: Timestamp, publication: &Publication, age_ns: u64) -> Option<Stand> {
        let (len, bytes) = (self.window_len, self.window_bytes);
        let stands = self.stands.entry(publication.stream).or_default();
        stands.push_back(Stand {
            at: now,
            trail: publication.trail(),
            far: publication.back(publication.next(), len / 4 * 3, bytes / 4 * 3),
            near: publication.back(publication.unsent(), len / 8, bytes / 8),
            sent: publication.unsent(),
        });
        let is_old = |stand: &Stand| now.nanos_since(stand.at) >= age_ns;
        while stands.get(1).is_some_and(is_old) {
            stands.pop_front();
        }
        stands.front().copied().filter(is_old)
    }

    /// Additive increase, multiplicative decrease, on the loss that all but a tenth of the receivers stay below
    /// (R-FLOW-4).
    fn adapt(&mut self, now: Timestamp, ledger: &mut Ledger, report_gap_ns: u64) {
        let sent = std::mem::take(&mut self.segments_lately);
        let mut missed = ledger.take_missed_lately(now);
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
            .set_rate(now, Rate::try_from(rate).unwrap_or(Rate::MIN));
    }

    /// The rate of new data, bytes a second.
    pub(super) const fn rate(&self) -> Rate {
        self.data.rate()
    }
}

impl Stand {
    /// What has changed for one receiver, which should have reported since (R-FLOW-3). `held` is the quorum's mark, and
    /// whether it has held new data back for too long.
    fn judge(&self, mark: &mut Mark, held: Option<(SeqNo, bool)>) -> Option<PaceChange> {
        let evicted = mark.evicted.take();
        if !mark.is_evicted
            && let Some(seqs) = SeqRange::new(mark.through, self.trail).or(evicted)
        {
            (mark.is_behind, mark.is_evicted) = (true, true);
            return Some(PaceChange::Evicted(seqs));
        }
        // A quorum is waited for, until it is so no longer.
        let is_left = match held {
            Some((quorum, true)) => mark.through <= quorum,
            Some((quorum, false)) => mark.through < quorum && mark.through < self.far,
            None => mark.through < self.far,
        };
        if !mark.is_behind && is_left {
            mark.is_behind = true;
            return Some(PaceChange::Left(mark.through));
        }
        if mark.is_behind && mark.through >= self.near {
            (mark.is_behind, mark.is_evicted) = (false, false);
            return Some(PaceChange::Rejoined);
        }
        None
    }
}

//! What a receiver holds of one stream: the contiguous mark, what came out of order, and the gaps between.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::time::Timestamp;
use crate::wire::{Place, SeqNo, SeqRange, SkipReason};

/// Gaps kept for one stream. A receiver with more than this has lost most of a window: what would open another gap is
/// refused, counted, and asked for when earlier gaps have closed.
pub(super) const GAPS_MAX: usize = 4_096;

/// A segment held until its turn comes.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) place: Place,
    pub(super) payload: Bytes,
    pub(super) is_repair: bool,
    /// Memory it holds: its share of the datagram it came in, and its place in a table.
    pub(super) cost: usize,
}

/// A run of missing numbers and where its repair cycle stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) range: SeqRange,
    /// When it is to be asked for next, and when it was to be at first.
    pub(super) due: Timestamp,
    first_due: Timestamp,
    /// How often it has been asked for, and when first.
    pub(super) asks: u8,
    asked: Timestamp,
    /// What is to be told when its turn comes.
    pub(super) fate: Fate,
}

/// What becomes of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may still come.
    Hoped,
    /// Given up.
    Lost,
    /// The source took it back.
    Skipped(SkipReason),
}

impl Gap {
    /// It is asked for now.
    pub(super) fn ask(&mut self, now: Timestamp) {
        if self.asks == 0 {
            self.asked = now;
        }
        self.asks = self.asks.saturating_add(1);
    }

    fn is_hoped(&self) -> bool {
        self.fate == Fate::Hoped
    }
}

/// What became of a segment that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// New, with nothing missing before it that was not known to be missing.
    Kept,
    /// New, and shows a gap that was not known.
    KeptBehindGap,
    /// Already delivered, already here, or already given up.
    Duplicate,
    /// Further ahead than the window reaches (R-WIN-2).
    Beyond,
    /// It would open one gap too many.
    Full,
}

/// What comes next in order.
#[derive(Debug)]
pub(super) enum Next {
    Segment(SeqNo, Stored),
    Lost(SeqRange),
    Skipped(SeqRange, SkipReason),
}

/// What a receiver holds of one stream.
///
/// Invariant: `next..end` is made up of the numbers in `stored` and the runs in `gaps`, each number once; both ascend.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    /// The contiguous mark: one after the last number handed on.
    next: SeqNo,
    /// The high-water mark: one after the highest number known to exist.
    end: SeqNo,
    len_max: u64,
    /// Gaps end where a block of so many numbers does, so that each has one repair cycle.
    block_len: Option<u64>,
    stored: VecDeque<(SeqNo, Stored)>,
    gaps: VecDeque<Gap>,
    cost: usize,
}

impl ReceiveWindow {
    pub(super) fn new(start: SeqNo, len_max: u64) -> Self {
        Self {
            next: start,
            end: start,
            len_max,
            block_len: None,
            stored: VecDeque::new(),
            gaps: VecDeque::new(),
            cost: 0,
        }
    }

    /// From now on no gap reaches over the end of a block of `len` numbers.
    pub(super) const fn cut_gaps(&mut self, len: u64) {
        self.block_len = Some(len);
    }

    pub(super) const fn contiguous(&self) -> SeqNo {
        self.next
    }

    /// One after the highest number known to exist.
    pub(super) const fn high_water(&self) -> SeqNo {
        self.end
    }

    /// Memory held by what is out of order.
    pub(super) const fn bytes(&self) -> usize {
        self.cost
    }

    pub(super) fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Learns that all numbers below `end` exist. Returns whether that shows a gap; what lies beyond the window is left
    /// for a later heartbeat.
    pub(super) fn extend(&mut self, end: SeqNo, due: Timestamp) -> bool {
        let mut end = end.min(self.next.plus(self.len_max));
        if let Some(len) = self.block_len {
            // As many blocks as the table has room for; the next heartbeat tells of the rest.
            let room = (GAPS_MAX - self.gaps.len()) as u64;
            end = end.min(self.end.plus(room.saturating_sub(2) * len));
        }
        let Some(range) = SeqRange::new(self.end, end) else {
            return false;
        };
        if !self.push_gap(range, due) {
            return false;
        }
        self.end = end;
        true
    }

    /// Whether `seq` comes next and nothing is missing or waiting.
    pub(super) fn is_next_of_all(&self, seq: SeqNo) -> bool {
        seq == self.next && seq == self.end
    }

    /// Goes past `seq`, which [is next of all](Self::is_next_of_all) and is handed on as it is.
    pub(super) fn pass(&mut self, seq: SeqNo) {
        debug_assert!(self.is_next_of_all(seq));
        self.next = seq.plus(1);
        self.end = self.next;
    }

    /// Takes a segment in; `due` is when a gap that it shows is to be asked for.
    pub(super) fn insert(&mut self, seq: SeqNo, segment: Stored, due: Timestamp) -> Inserted {
        if seq < self.next {
            return Inserted::Duplicate;
        }
        if seq >= self.next.plus(self.len_max) {
            return Inserted::Beyond;
        }
        if seq < self.end {
            return self.fill(seq, segment);
        }
        let shows_gap = match SeqRange::new(self.end, seq) {
            Some(missing) if !self.push_gap(missing, due) => return Inserted::Full,
            missing => missing.is_some(),
        };
        self.end = seq.plus(1);
        self.cost += segment.cost;
        self.stored.push_back((seq, segment));
        if shows_gap {
            Inserted::KeptBehindGap
        } else {
            Inserted::Kept
        }
    }

    /// What comes next in order, if it is here or given up.
    pub(super) fn pop(&mut self) -> Option<Next> {
        if self
            .stored
            .front()
            .is_some_and(|(seq, _)| *seq == self.next)
        {
            let (seq, segment) = self.stored.pop_front()?;
            self.cost -= segment.cost;
            self.next = seq.plus(1);
            return Some(Next::Segment(seq, segment));
        }
        let gap = *self
            .gaps
            .front()
            .filter(|gap| !gap.is_hoped() && gap.range.first() == self.next)?;
        self.gaps.pop_front();
        self.next = gap.range.end();
        Some(match gap.fate {
            Fate::Skipped(why) => Next::Skipped(gap.range, why),
            Fate::Hoped | Fate::Lost => Next::Lost(gap.range),
        })
    }

    /// Gives up every missing number below `trail`: it cannot be had any more (R-WIN-3).
    pub(super) fn give_up_before(&mut self, trail: SeqNo) {
        // Numbers that were never known to exist are lost just the same.
        if self.end < trail {
            let due = Timestamp::FAR_FUTURE;
            let known = SeqRange::new(self.end, trail);
            if let Some(range) = known {
                self.gaps.push_back(Gap {
                    range,
                    due,
                    first_due: due,
                    asks: 0,
                    asked: Timestamp::ZERO,
                    fate: Fate::Lost,
                });
                self.end = trail;
            }
        }
        for at in 0..self.gaps.len() {
            let gap = self.gaps[at];
            if gap.range.first() >= trail {
                return;
            }
            if !gap.is_hoped() {
                continue;
            }
            self.gaps[at].fate = Fate::Lost;
            if let Some(kept) = SeqRange::new(trail, gap.range.end()) {
                // The lost part goes first, so it cannot outgrow the table for long.
                self.gaps[at].range = SeqRange::new(gap.range.first(), trail).unwrap_or(gap.range);
                self.gaps.insert(at + 1, Gap { range: kept, ..gap });
                return;
            }
        }
    }

    /// Gives up everything that is missing.
    pub(super) fn give_up_all(&mut self) {
        for gap in self.gaps_mut() {
            gap.fate = Fate::Lost;
        }
    }

    /// Takes in that the numbers of `range` will never come (R-SKIP-2): what is missing of them is not waited for, and what
    /// came of them is not handed on any more. Nothing happens to what has been handed on, or where the gap table is full.
    pub(super) fn skip(&mut self, range: SeqRange, why: SkipReason, due: Timestamp) {
        self.extend(range.end(), due);
        let Some(known) = SeqRange::new(self.next, self.end) else {
            return;
        };
        let Some(range) = range.intersect(known) else {
            return;
        };
        // Splits two gaps at most, and opens one for what came.
        if self.gaps.len() + 3 > GAPS_MAX {
            return;
        }
        let from = self.stored.partition_point(|(seq, _)| *seq < range.first());
        let to = self.stored.partition_point(|(seq, _)| *seq < range.end());
        for (_, segment) in self.stored.drain(from..to) {
            self.cost -= segment.cost;
        }
        let touched = |gap: &Gap| gap.range.intersect(range).is_some();
        let at = self
            .gaps
            .partition_point(|gap| gap.range.end() <= range.first());
        let gap = |range, fate| Gap {
            range,
            fate,
            due: Timestamp::FAR_FUTURE,
            first_due: Timestamp::FAR_FUTURE,
            asks: 0,
            asked: Timestamp::ZERO,
        };
        let mut parts = vec![gap(range, Fate::Skipped(why))];
        while self.gaps.get(at).is_some_and(touched)
            && let Some(gap) = self.gaps.remove(at)
        {
            if let Some(before) = SeqRange::new(gap.range.first(), range.first()) {
                parts.insert(
                    0,
                    Gap {
                        range: before,
                        ..gap
                    },
                );
            }
            if let Some(after) = SeqRange::new(range.end(), gap.range.end()) {
                parts.push(Gap {
                    range: after,
                    ..gap
                });
            }
        }
        for (offset, part) in parts.into_iter().enumerate() {
            self.gaps.insert(at + offset, part);
        }
    }

    /// What is stored of the numbers from `first` up to, not including, `end`.
    pub(super) fn stored_in(&self, first: SeqNo, end: SeqNo) -> impl Iterator<Item = &Stored> {
        let from = self.stored.partition_point(|(seq, _)| *seq < first);
        let to = self.stored.partition_point(|(seq, _)| *seq < end);
        self.stored.range(from..to).map(|(_, stored)| stored)
    }

    /// When the missing number `seq` was first asked for.
    pub(super) fn asked(&self, seq: SeqNo) -> Option<Timestamp> {
        let at = self.gaps.partition_point(|gap| gap.range.end() <= seq);
        let gap = self.gaps.get(at).filter(|gap| gap.range.contains(seq))?;
        (gap.asks > 0).then_some(gap.asked)
    }

    /// What is stored under `seq`.
    pub(super) fn stored(&self, seq: SeqNo) -> Option<&Stored> {
        let at = self.stored.partition_point(|(held, _)| *held < seq);
        self.stored
            .get(at)
            .filter(|(held, _)| *held == seq)
            .map(|(_, stored)| stored)
    }

    /// The gaps that are still hoped for, ascending.
    pub(super) fn gaps(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter().filter(|gap| gap.is_hoped())
    }

    /// The same, to be moved on in their repair cycle.
    pub(super) fn gaps_mut(&mut self) -> impl Iterator<Item = &mut Gap> {
        self.gaps.iter_mut().filter(|gap| gap.is_hoped())
    }

    /// Gaps from `first` on that have not been asked for are not asked for before `due`, or so long after they were to be at
    /// first.
    pub(super) fn put_off(&mut self, first: SeqNo, due: Timestamp, longest_ns: u64) {
        let last = self.gaps.iter_mut().rev();
        for gap in last.take_while(|gap| gap.range.first() >= first) {
            if gap.asks == 0 && gap.is_hoped() {
                let latest = gap.first_due.plus_nanos(longest_ns);
                gap.due = gap.due.max(due.min(latest));
            }
        }
    }

    /// When the next gap is to be asked for.
    pub(super) fn next_due(&self) -> Timestamp {
        let due = self
            .gaps
            .iter()
            .filter(|gap| gap.is_hoped())
            .map(|gap| gap.due)
            .min();
        due.unwrap_or(Timestamp::FAR_FUTURE)
    }

    fn push_gap(&mut self, range: SeqRange, due: Timestamp) -> bool {
        let Some(len) = self.block_len else {
            return self.push_piece(range, due);
        };
        let pieces = range.last().0 / len - range.first().0 / len + 1;
        if self.gaps.len() as u64 + pieces > GAPS_MAX as u64 {
            return false;
        }
        let mut first = range.first();
        while first < range.end() {
            let end = SeqNo((first.0 / len + 1) * len).min(range.end());
            if let Some(piece) = SeqRange::new(first, end) {
                self.push_piece(piece, due);
            }
            first = end;
        }
        true
    }

    fn push_piece(&mut self, range: SeqRange, due: Timestamp) -> bool {
        let is_cut = |seq: SeqNo| self.block_len.is_some_and(|len| seq.0.is_multiple_of(len));
        if let Some(last) = self.gaps.back_mut()
            && last.range.end() == range.first()
            && last.asks == 0
            && last.is_hoped()
            && !is_cut(range.first())
        {
            // One run for the table; the earlier moment to ask holds for both.
            last.range = SeqRange::new(last.range.first(), range.end()).unwrap_or(last.range);
            return true;
        }
        if self.gaps.len() >= GAPS_MAX {
            return false;
        }
        self.gaps.push_back(Gap {
            range,
            due,
            first_due: due,
            asks: 0,
            asked: Timestamp::ZERO,
            fate: Fate::Hoped,
        });
        true
    }

    fn fill(&mut self, seq: SeqNo, segment: Stored) -> Inserted {
        let at = self.gaps.partition_point(|gap| gap.range.end() <= seq);
        let Some(gap) = self
            .gaps
            .get(at)
            .copied()
            .filter(|gap| gap.range.contains(seq) && gap.is_hoped())
        else {
            return Inserted::Duplicate;
        };
        let before = SeqRange::new(gap.range.first(), seq);
        let after = SeqRange::new(seq.plus(1), gap.range.end());
        match (before, after) {
            (None, None) => drop(self.gaps.remove(at)),
            (Some(range), None) | (None, Some(range)) => self.gaps[at].range = range,
            (Some(before), Some(after)) => {
                if self.gaps.len() >= GAPS_MAX {
                    return Inserted::Full;
                }
                self.gaps[at].range = before;
                self.gaps.insert(
                    at + 1,
                    Gap {
                        range: after,
                        ..gap
                    },
                );
            }
        }
        self.cost += segment.cost;
        let at = self.stored.partition_point(|(held, _)| *held < seq);
        self.stored.insert(at, (seq, segment));
        Inserted::Kept
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn segment() -> Stored {
        Stored {
            place: Place::Whole,
            payload: Bytes::from_static(b"abc"),
            is_repair: false,
            cost: 3,
        }
    }

    fn drain(window: &mut ReceiveWindow) -> (Vec<u64>, Vec<u64>) {
        let (mut here, mut lost) = (Vec::new(), Vec::new());
        while let Some(next) = window.pop() {
            match next {
                Next::Segment(seq, _) => here.push(seq.0),
                Next::Lost(range) | Next::Skipped(range, _) => {
                    lost.extend(range.iter().map(|seq| seq.0));
                }
            }
        }
        (here, lost)
    }

    #[test]
    fn a_gap_is_put_off_no_longer_than_it_may_be() {
        let at = Timestamp::from_nanos;
        let mut window = ReceiveWindow::new(SeqNo::ZERO, 1_024);
        window.insert(SeqNo(2), segment(), at(10));
        for (due, then) in [(5, 10), (30, 30), (500, 110)] {
            window.put_off(SeqNo::ZERO, at(due), 100);
            assert_eq!(window.next_due(), at(then), "put off to {due}");
        }
    }

    #[test]
    fn hostile_numbers_are_beyond_the_window() {
        let mut window = ReceiveWindow::new(SeqNo(100), 1_024);
        for seq in [SeqNo::MAX.0, u64::MAX, u64::MAX - 101, 100 + 1_024] {
            assert_eq!(
                window.insert(SeqNo(seq), segment(), Timestamp::ZERO),
                Inserted::Beyond
            );
        }
        assert!(window.extend(SeqNo::MAX, Timestamp::ZERO));
        assert_eq!(window.high_water(), SeqNo(1_124));
        assert_eq!(window.gaps.len(), 1);
    }

    #[test]
    fn the_gap_table_is_bounded() {
        let mut window = ReceiveWindow::new(SeqNo::ZERO, 1 << 20);
        let mut full = 0;
        for seq in 0..20_000 {
            full += u64::from(
                window.insert(SeqNo(seq * 2 + 1), segment(), Timestamp::ZERO) == Inserted::Full,
            );
        }
        assert_eq!(window.gaps.len(), GAPS_MAX);
        assert_eq!(full, 20_000 - GAPS_MAX as u64);
        window.give_up_before(SeqNo(50_000));
        let (here, lost) = drain(&mut window);
        assert_eq!((here.len(), here.len() + lost.len()), (GAPS_MAX, 50_000));
    }

    #[test]
    fn giving_up_cuts_a_gap_at_the_trail() {
        let mut window = ReceiveWindow::new(SeqNo::ZERO, 1_024);
        window.insert(SeqNo(10), segment(), Timestamp::ZERO);
        window.give_up_before(SeqNo(4));
        assert_eq!(drain(&mut window), (vec![], vec![0, 1, 2, 3]));
        assert_eq!(
            window
                .gaps_mut()
                .map(|gap| gap.range.to_string())
                .collect::<Vec<_>>(),
            ["4..10"]
        );
        assert_eq!(
            window.insert(SeqNo(2), segment(), Timestamp::ZERO),
            Inserted::Duplicate
        );
        window.give_up_before(SeqNo(12));
        assert_eq!(drain(&mut window), (vec![10], vec![4, 5, 6, 7, 8, 9, 11]));
    }

    #[test]
    fn gaps_end_with_their_block() {
        let mut window = ReceiveWindow::new(SeqNo::ZERO, 1 << 21);
        window.cut_gaps(64);
        window.extend(SeqNo(10), Timestamp::ZERO);
        window.extend(SeqNo(60), Timestamp::ZERO);
        window.insert(SeqNo(200), segment(), Timestamp::ZERO);
        let gaps: Vec<_> = window.gaps().map(|gap| gap.range.to_string()).collect();
        assert_eq!(gaps, ["0..64", "64..128", "128..192", "192..200"]);
        window.extend(SeqNo(1 << 21), Timestamp::ZERO);
        assert!(window.gaps.len() <= GAPS_MAX && window.gaps.len() > GAPS_MAX - 10);
    }

    #[test]
    fn what_is_skipped_is_not_handed_on_though_it_came() {
        let mut window = ReceiveWindow::new(SeqNo::ZERO, 1_024);
        for seq in [2, 3, 4, 8] {
            window.insert(SeqNo(seq), segment(), Timestamp::ZERO);
        }
        let range = |first, end| SeqRange::new(SeqNo(first), SeqNo(end)).unwrap();
        let why = SkipReason::Superseded;
        window.skip(range(4, 6), why, Timestamp::ZERO);
        window.skip(range(10, 12), why, Timestamp::ZERO);
        let hoped: Vec<_> = window.gaps_mut().map(|gap| gap.range.to_string()).collect();
        assert_eq!(hoped, ["0..2", "6..8", "9..10"]);
        for seq in [5, 11] {
            let inserted = window.insert(SeqNo(seq), segment(), Timestamp::ZERO);
            assert_eq!(inserted, Inserted::Duplicate);
        }
        for seq in [0, 1, 6, 7, 9] {
            window.insert(SeqNo(seq), segment(), Timestamp::ZERO);
        }
        let (here, skipped) = drain(&mut window);
        assert_eq!(here, [0, 1, 2, 3, 6, 7, 8, 9]);
        assert_eq!(skipped, [4, 5, 10, 11]);
        window.skip(range(0, 12), why, Timestamp::ZERO);
        assert_eq!((window.contiguous(), window.bytes()), (SeqNo(12), 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a set: everything inserted comes out once, in order; everything given up is lost; nothing else.
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((0u64..120, 0u8..10), 1..300)) {
            let mut window = ReceiveWindow::new(SeqNo::ZERO, 100);
            let mut here = BTreeSet::new();
            let mut gone = BTreeSet::new();
            let mut out = Vec::new();
            for (seq, action) in steps {
                match action {
                    0 => {
                        for missing in (0..seq).filter(|seq| !here.contains(seq)) {
                            gone.insert(missing);
                        }
                        window.give_up_before(SeqNo(seq));
                    }
                    1 => drop(window.extend(SeqNo(seq), Timestamp::ZERO)),
                    _ => {
                        let inserted = window.insert(SeqNo(seq), segment(), Timestamp::ZERO);
                        let is_new = !here.contains(&seq) && !gone.contains(&seq);
                        if is_new && inserted != Inserted::Beyond {
                            here.insert(seq);
                        }
                        prop_assert_eq!(matches!(inserted, Inserted::Kept | Inserted::KeptBehindGap), here.contains(&seq) && is_new);
                    }
                }
                let (delivered, lost) = drain(&mut window);
                prop_assert!(delivered.iter().all(|seq| here.contains(seq)));
                prop_assert!(lost.iter().all(|seq| gone.contains(seq)));
                out.extend(delivered);
                prop_assert!(out.is_sorted_by(|a, b| a < b));
                prop_assert_eq!(window.bytes(), window.stored.len() * 3);
                let held: u64 = window.gaps.iter().map(|gap| gap.range.len()).sum::<u64>() + window.stored.len() as u64;
                prop_assert_eq!(held, window.high_water().since(window.contiguous()));
            }
        }
    }
}

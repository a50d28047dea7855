//! How long a message is true: until its deadline, or until a newer one takes its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::time::Timestamp;
use crate::wire::{SeqNo, SeqRange, SkipReason};

/// Runs of skipped numbers that wait to be told to all. More are told when they are asked for.
const UNTOLD_MAX: usize = 256;

/// How long a message is worth sending and repairing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// From then on it is not sent or repaired any more; `None`: for as long as the window holds it.
    pub expires: Option<Timestamp>,
    /// It takes the place of the last message with the same key on the same stream.
    pub supersedes: Option<u64>,
}

/// The terms of one stream's messages, and what has run out.
///
/// Invariant: `skipped` ascends and its runs lie apart; each is made of whole messages.
#[derive(Debug, Default)]
pub(super) struct TermBook {
    /// The messages of the window that have terms.
    terms: BTreeMap<SeqNo, Terms>,
    deadlines: BTreeSet<(Timestamp, SeqNo, SeqNo)>,
    by_key: BTreeMap<u64, SeqRange>,
    skipped: BTreeMap<SeqNo, (SeqRange, SkipReason)>,
    untold: VecDeque<(SeqRange, SkipReason)>,
}

impl TermBook {
    /// A message has been published, while everything below `unsent` has been sent. Returns whether it took another one's
    /// place.
    pub(super) fn publish(&mut self, range: SeqRange, terms: Terms, unsent: SeqNo) -> bool {
        if terms != Terms::default() {
            self.terms.insert(range.first(), terms);
        }
        if let Some(expires) = terms.expires {
            self.deadlines.insert((expires, range.first(), range.end()));
        }
        let replaced = terms
            .supersedes
            .and_then(|key| self.by_key.insert(key, range));
        replaced.is_some_and(|old| self.skip(old, SkipReason::Superseded, unsent))
    }

    /// The next message whose deadline has come.
    pub(super) fn expire(&mut self, now: Timestamp, unsent: SeqNo) -> Option<SeqRange> {
        loop {
            let &(at, first, end) = self.deadlines.first().filter(|(at, ..)| *at <= now)?;
            self.deadlines.remove(&(at, first, end));
            if let Some(range) = SeqRange::new(first, end)
                && self.skip(range, SkipReason::Expired, unsent)
            {
                return Some(range);
            }
        }
    }

    fn skip(&mut self, range: SeqRange, why: SkipReason, unsent: SeqNo) -> bool {
        if self.skipped(range.first()).is_some() {
            return false;
        }
        // Neighbours become one run: an answer then tells of all of them at once, however many they are.
        let mut run = range;
        if let Some((&first, &(before, also))) = self.skipped.range(..range.first()).next_back()
            && (before.end(), also) == (range.first(), why)
        {
            self.skipped.remove(&first);
            run = SeqRange::new(before.first(), run.end()).unwrap_or(run);
        }
        if let Some(&(after, also)) = self.skipped.get(&range.end())
            && also == why
        {
            self.skipped.remove(&range.end());
            run = SeqRange::new(run.first(), after.end()).unwrap_or(run);
        }
        self.skipped.insert(run.first(), (run, why));
        // What has not been sent is told when its turn comes: nobody is to wait for the numbers before it until then.
        if range.end() <= unsent {
            self.announce(range, why);
        }
        true
    }

    /// A skipped run is to be told to all.
    pub(super) fn announce(&mut self, range: SeqRange, why: SkipReason) {
        if let Some((last, also)) = self.untold.back_mut()
            && (last.end(), *also) == (range.first(), why)
        {
            *last = SeqRange::new(last.first(), range.end()).unwrap_or(*last);
        } else if self.untold.len() < UNTOLD_MAX {
            self.untold.push_back((range, why));
        }
    }

    /// When the next message expires.
    pub(super) fn due(&self) -> Timestamp {
        self.deadlines
            .first()
            .map_or(Timestamp::FAR_FUTURE, |(at, ..)| *at)
    }

    /// The skipped message that `seq` lies in.
    pub(super) fn skipped(&self, seq: SeqNo) -> Option<(SeqRange, SkipReason)> {
        let (_, &(range, why)) = self.skipped.range(..=seq).next_back()?;
        range.contains(seq).then_some((range, why))
    }

    /// The skipped messages that have numbers from `first` up to, not including, `end`.
    pub(super) fn skipped_in(
        &self,
        first: SeqNo,
        end: SeqNo,
    ) -> impl Iterator<Item = (SeqRange, SkipReason)> {
        let before = self
            .skipped(first)
            .filter(|(range, _)| range.first() < first);
        let within = self.skipped.range(first..end).map(|(_, skipped)| *skipped);
        before.into_iter().chain(within)
    }

    /// Whether anything has been skipped.
    pub(super) fn is_empty(&self) -> bool {
        self.skipped.is_empty()
    }

    pub(super) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// What is to be told to all and has not been, all for one reason, as long as `take` takes it.
    pub(super) fn tell(&mut self, take: impl FnOnce(SkipReason, &[SeqRange]) -> usize) -> usize {
        let Some(&(_, why)) = self.untold.front() else {
            return 0;
        };
        let runs: Vec<_> = self
            .untold
            .iter()
            .take_while(|(_, reason)| *reason == why)
            .map(|(range, _)| *range)
            .collect();
        let told = take(why, ascending(&runs));
        self.untold.drain(..told.min(runs.len()));
        told
    }

    /// Messages before `trail` have left the window.
    pub(super) fn forget_before(&mut self, trail: SeqNo) {
        while self
            .skipped
            .first_key_value()
            .is_some_and(|(_, (range, _))| range.end() <= trail)
        {
            self.skipped.pop_first();
        }
        self.untold.retain(|(range, _)| range.end() > trail);
        while let Some(entry) = self.terms.first_entry()
            && *entry.key() < trail
        {
            let (first, terms) = entry.remove_entry();
            if let Some(at) = terms.expires {
                let from = (at, first, SeqNo::ZERO);
                let entry = self.deadlines.range(from..).next().copied();
                // Gone already when it has come.
                entry
                    .filter(|(_, of, _)| *of == first)
                    .map(|entry| self.deadlines.remove(&entry));
            }
            let is_newest = |key: &u64| {
                self.by_key
                    .get(key)
                    .is_some_and(|range| range.first() == first)
            };
            if let Some(key) = terms.supersedes.filter(is_newest) {
                self.by_key.remove(&key);
            }
        }
    }
}

/// The longest beginning of `runs` that ascends.
fn ascending(runs: &[SeqRange]) -> &[SeqRange] {
    let breaks = runs
        .windows(2)
        .position(|pair| pair[1].first() < pair[0].end());
    &runs[..breaks.map_or(runs.len(), |at| at + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, end: u64) -> SeqRange {
        SeqRange::new(SeqNo(first), SeqNo(end)).unwrap()
    }

    #[test]
    fn a_deadline_passes_and_a_key_is_taken_over() {
        let mut book = TermBook::default();
        let at = Timestamp::from_nanos;
        let until = |expires| Terms {
            expires: Some(at(expires)),
            ..Terms::default()
        };
        let keyed = Terms {
            supersedes: Some(7),
            ..Terms::default()
        };
        assert!(!book.publish(range(0, 1), until(50), SeqNo(9)));
        assert!(!book.publish(range(1, 3), keyed, SeqNo(9)));
        assert!(!book.publish(range(3, 4), until(20), SeqNo(9)));
        assert_eq!(book.due(), at(20));
        assert_eq!(book.expire(at(19), SeqNo(9)), None);
        assert_eq!(book.expire(at(60), SeqNo(9)), Some(range(3, 4)));
        assert_eq!(book.expire(at(60), SeqNo(9)), Some(range(0, 1)));
        assert!(book.publish(range(4, 5), keyed, SeqNo(9)));
        assert_eq!(
            book.skipped(SeqNo(2)),
            Some((range(1, 3), SkipReason::Superseded))
        );
        assert_eq!(book.skipped(SeqNo(4)), None);
        let mut told = Vec::new();
        while book.has_untold() {
            book.tell(|why, runs| {
                told.push((why, runs.to_vec()));
                runs.len()
            });
        }
        let expired = |first, end| (SkipReason::Expired, vec![range(first, end)]);
        assert_eq!(
            told,
            [
                expired(3, 4),
                expired(0, 1),
                (SkipReason::Superseded, vec![range(1, 3)])
            ]
        );
        book.forget_before(SeqNo(4));
        assert!(book.is_empty() && book.due() == Timestamp::FAR_FUTURE);
    }
}

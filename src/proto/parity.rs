//! The source's side of parity: which blocks are owed how many shards, and how many go out unasked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use crate::time::Timestamp;
use crate::wire::{BLOCK_LEN, Block, BlockNeed, Segment, SeqNo};

use super::fec::Shards;
use super::tuning::{
    ALONE_MAX, BLOCK_SHARDS, Fec, PARITY_CACHE_LEN, PROACTIVE_BLOCKS, PROACTIVE_LESS,
    PROACTIVE_MAX, PROACTIVE_MORE,
};

/// One block whose parity has been asked for or sent.
#[derive(Clone, Copy, Debug)]
struct Owed {
    len: u8,
    /// Shards sent so far; their indexes lie below it.
    sent: u8,
    /// Shards to be sent in all.
    target: u8,
    last_sent: Timestamp,
    /// Somebody asked for more than went out unasked.
    has_been_asked: bool,
}

/// What one receiver that stands back needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alone {
    to: SocketAddr,
    block: Block,
    next: u8,
    end: u8,
}

/// What a request for parity brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// So many shards more go out than before.
    More(u8),
    /// What it needs is on its way.
    HeldOff,
}

/// The parity of one coded stream.
#[derive(Debug)]
pub(super) struct ParityOut {
    fec: Fec,
    owed: BTreeMap<SeqNo, Owed>,
    /// Blocks with `sent < target`, lowest first.
    waiting: BTreeSet<SeqNo>,
    cache: VecDeque<(Block, Shards)>,
    /// For receivers that stand back: their own shards, by unicast, whatever the others get.
    alone: VecDeque<Alone>,
    /// What of that has just been sent (R-HOLD-1).
    served: VecDeque<(SocketAddr, SeqNo, Timestamp)>,
    /// Shards that go out unasked behind each block, where that is measured.
    unasked: u8,
    /// Finished blocks since the last judgement, and how many of them needed more.
    judged: (u8, u8),
}

impl ParityOut {
    pub(super) const fn new(fec: Fec) -> Self {
        Self {
            fec,
            owed: BTreeMap::new(),
            waiting: BTreeSet::new(),
            cache: VecDeque::new(),
            alone: VecDeque::new(),
            served: VecDeque::new(),
            unasked: 0,
            judged: (0, 0),
        }
    }

    fn unasked(&self) -> u8 {
        match self.fec {
            Fec::Off => 0,
            Fec::Measured => self.unasked,
            Fec::Proactive(shards) => shards.min(PROACTIVE_MAX),
        }
    }

    /// The block that ends before `end` has gone out whole: what goes out unasked is owed now (R-FEC-4), and the block
    /// before last, whose repair should be over, tells how much that should be.
    pub(super) fn block_sent(&mut self, end: SeqNo) {
        if let Some(first) = end.0.checked_sub(3 * BLOCK_LEN) {
            self.judge(SeqNo(first));
        }
        let first = SeqNo(end.0 - BLOCK_LEN);
        // Whoever asked while it was not whole has not got all of that yet.
        let before = self.owed.get(&first);
        let waited_for = before.map_or(0, |owed| owed.target - owed.sent);
        let shards = self.unasked().max(waited_for);
        if shards > 0 {
            let owed = Owed {
                len: u8::try_from(BLOCK_SHARDS).unwrap_or(u8::MAX),
                sent: 0,
                target: shards,
                last_sent: Timestamp::ZERO,
                has_been_asked: false,
            };
            self.owed.insert(first, owed);
            self.waiting.insert(first);
        }
    }

    fn judge(&mut self, first: SeqNo) {
        let has_been_asked = self
            .owed
            .get(&first)
            .is_some_and(|owed| owed.has_been_asked);
        self.judged.0 += 1;
        self.judged.1 += u8::from(has_been_asked);
        if self.judged.0 < PROACTIVE_BLOCKS {
            return;
        }
        if self.judged.1 >= PROACTIVE_MORE {
            self.unasked = (self.unasked + 1).min(PROACTIVE_MAX);
        } else if self.judged.1 <= PROACTIVE_LESS {
            self.unasked = self.unasked.saturating_sub(1);
        }
        self.judged = (0, 0);
    }

    /// A receiver needs shards of a block of which `len` numbers have been sent (R-NEED-3): it counts those that it knows
    /// of, so what is in flight is not sent twice. Parity of what the block was is good enough for whoever knows of no more.
    pub(super) fn ask(
        &mut self,
        now: Timestamp,
        need: BlockNeed,
        len: u8,
        hold_off_ns: u64,
    ) -> Asked {
        let fresh = Owed {
            len,
            sent: 0,
            target: 0,
            last_sent: Timestamp::ZERO,
            has_been_asked: false,
        };
        let owed = self.owed.entry(need.block.first).or_insert(fresh);
        if need.block.len.min(len) > owed.len {
            // The block has grown since: its old parity mends nothing new.
            *owed = fresh;
        }
        let known = if need.block.len == owed.len {
            need.next_index.min(owed.sent)
        } else {
            0
        };
        let is_fresh =
            owed.last_sent != Timestamp::ZERO && now.nanos_since(owed.last_sent) < hold_off_ns;
        let is_waiting = owed.sent < owed.target;
        // What was sent long ago and is not known is lost.
        let from = if is_fresh || is_waiting {
            known
        } else {
            owed.sent
        };
        let target = from.saturating_add(need.shards);
        if target <= owed.target {
            return Asked::HeldOff;
        }
        let more = (target - owed.target).min(need.shards);
        // Whoever asked before what goes out unasked could come needed no more than that.
        owed.has_been_asked = true;
        if usize::from(target) > BLOCK_SHARDS {
            // All of them have been out: begin anew, those that were lost are of use again.
            owed.sent = 0;
            owed.target = need.shards;
        } else {
            owed.target = target;
        }
        self.waiting.insert(need.block.first);
        Asked::More(more)
    }

    /// The same from a receiver that stands back (R-BUDGET-2): the shards after those that it has heard of, once.
    pub(super) fn ask_alone(
        &mut self,
        now: Timestamp,
        to: SocketAddr,
        need: BlockNeed,
        len: u8,
        hold_off_ns: u64,
    ) -> Asked {
        let block = Block {
            first: need.block.first,
            len,
        };
        let is_waiting = |alone: &Alone| (alone.to, alone.block) == (to, block);
        while self
            .served
            .front()
            .is_some_and(|(_, _, at)| now.nanos_since(*at) >= hold_off_ns)
        {
            self.served.pop_front();
        }
        let is_served = |(served, first, _): &(SocketAddr, SeqNo, Timestamp)| {
            (*served, *first) == (to, block.first)
        };
        if self.alone.len() >= ALONE_MAX
            || self.alone.iter().any(is_waiting)
            || self.served.iter().any(is_served)
        {
            return Asked::HeldOff;
        }
        let next = if need.block.len == len {
            need.next_index
        } else {
            0
        };
        let all = u8::try_from(BLOCK_SHARDS).unwrap_or(u8::MAX);
        let end = next.saturating_add(need.shards).min(all);
        if next >= end {
            return Asked::HeldOff;
        }
        self.alone.push_back(Alone {
            to,
            block,
            next,
            end,
        });
        Asked::More(end - next)
    }

    /// Whether somebody else that stands back needs the same block, or it goes out to all anyway: that was no chance, and what mends one mends both. What
    /// was to go to it alone goes to all then.
    pub(super) fn share(&mut self, to: SocketAddr, first: SeqNo) -> bool {
        let is_other = |other: SocketAddr, block: SeqNo| other != to && block == first;
        let is_for_all = self.owed.get(&first).is_some_and(|it| it.sent < it.target);
        let is_shared = is_for_all
            || self.alone.iter().any(|it| is_other(it.to, it.block.first))
            || self
                .served
                .iter()
                .any(|(other, block, _)| is_other(*other, *block));
        if is_shared {
            self.alone.retain(|it| it.block.first != first);
        }
        is_shared
    }

    /// The next shard for a receiver that stands back.
    pub(super) fn peek_alone(&self) -> Option<(SocketAddr, Block, u8)> {
        let alone = self.alone.front()?;
        Some((alone.to, alone.block, alone.next))
    }

    /// The shard that `peek_alone` gave has been sent, or cannot be.
    pub(super) fn mark_alone(&mut self, now: Timestamp) {
        let Some(alone) = self.alone.front_mut() else {
            return;
        };
        alone.next += 1;
        if alone.next >= alone.end {
            if self.served.len() >= ALONE_MAX {
                self.served.pop_front();
            }
            self.served.push_back((alone.to, alone.block.first, now));
            self.alone.pop_front();
        }
    }

    /// Blocks that begin before `trail` have no parity any more.
    pub(super) fn drop_unsendable(&mut self, trail: SeqNo) {
        self.forget_before(trail);
        // Whatever else cannot be sent is not waited for, and may be asked for anew.
        if let Some(first) = self.waiting.pop_first() {
            self.owed.remove(&first);
        }
    }

    /// The next block that shards are owed of, and the index of the next one.
    pub(super) fn peek(&self) -> Option<(Block, u8)> {
        let first = *self.waiting.first()?;
        let owed = self.owed.get(&first)?;
        let block = Block {
            first,
            len: owed.len,
        };
        Some((block, owed.sent))
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The shard's bytes; `segments` gives the block's segments.
    pub(super) fn shard<'a, I>(
        &mut self,
        block: Block,
        index: u8,
        segments: impl FnOnce() -> I,
    ) -> &[u8]
    where
        I: Iterator<Item = Segment<'a>> + Clone,
    {
        let at = self.cache.iter().position(|(cached, _)| *cached == block);
        let at = at.unwrap_or_else(|| {
            if self.cache.len() >= PARITY_CACHE_LEN {
                self.cache.pop_front();
            }
            self.cache.push_back((block, Shards::of(segments())));
            self.cache.len() - 1
        });
        self.cache[at].1.get(index)
    }

    /// The shard that `peek` gave has been sent; whether that was unasked.
    pub(super) fn mark_sent(&mut self, now: Timestamp) -> bool {
        let Some(&first) = self.waiting.first() else {
            return false;
        };
        let Some(owed) = self.owed.get_mut(&first) else {
            self.waiting.pop_first();
            return false;
        };
        owed.sent += 1;
        owed.last_sent = now;
        let is_unasked = !owed.has_been_asked;
        if owed.sent >= owed.target {
            self.waiting.pop_first();
        }
        is_unasked
    }

    /// Blocks before `trail` have left the window.
    pub(super) fn forget_before(&mut self, trail: SeqNo) {
        while let Some(entry) = self.owed.first_entry()
            && *entry.key() < trail
        {
            let first = *entry.key();
            entry.remove();
            self.waiting.remove(&first);
        }
        self.alone.retain(|alone| alone.block.first >= trail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD_OFF_NS: u64 = 500_000;
    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn need(shards: u8, next_index: u8) -> BlockNeed {
        BlockNeed {
            block: Block {
                first: SeqNo(64),
                len: 64,
            },
            shards,
            next_index,
        }
    }

    fn drain(parity: &mut ParityOut, now: Timestamp) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some((_, index)) = parity.peek() {
            sent.push(index);
            parity.mark_sent(now);
        }
        sent
    }

    #[test]
    fn needs_are_merged_and_what_is_in_flight_counts() {
        let mut parity = ParityOut::new(Fec::Measured);
        let now = Timestamp::from_nanos(1_000_000_000);
        assert_eq!(parity.ask(now, need(2, 0), 64, HOLD_OFF_NS), Asked::More(2));
        assert_eq!(parity.ask(now, need(1, 0), 64, HOLD_OFF_NS), Asked::HeldOff);
        assert_eq!(drain(&mut parity, now), [0, 1]);
        let soon = now.plus_nanos(100_000);
        assert_eq!(
            parity.ask(soon, need(2, 0), 64, HOLD_OFF_NS),
            Asked::HeldOff
        );
        assert_eq!(
            parity.ask(soon, need(3, 0), 64, HOLD_OFF_NS),
            Asked::More(1)
        );
        assert_eq!(drain(&mut parity, soon), [2]);
        let later = now.plus_nanos(2_000_000);
        assert_eq!(
            parity.ask(later, need(2, 1), 64, HOLD_OFF_NS),
            Asked::More(2)
        );
        assert_eq!(
            drain(&mut parity, later),
            [3, 4],
            "what it did not get was lost"
        );
    }

    #[test]
    fn all_shards_sent_begin_anew_and_a_grown_block_too() {
        let mut parity = ParityOut::new(Fec::Measured);
        let mut now = Timestamp::from_nanos(1_000_000_000);
        parity.ask(now, need(64, 0), 64, HOLD_OFF_NS);
        assert_eq!(drain(&mut parity, now).len(), 64);
        now = now.plus_nanos(5_000_000);
        parity.ask(now, need(3, 64), 64, HOLD_OFF_NS);
        assert_eq!(drain(&mut parity, now), [0, 1, 2]);
        let mut parity = ParityOut::new(Fec::Measured);
        parity.ask(now, need(1, 0), 10, HOLD_OFF_NS);
        drain(&mut parity, now);
        parity.ask(now, need(1, 1), 20, HOLD_OFF_NS);
        assert_eq!(
            parity.peek().map(|(block, index)| (block.len, index)),
            Some((20, 0))
        );
    }

    #[test]
    fn parity_of_what_the_block_was_serves_whoever_knows_no_more() {
        let mut parity = ParityOut::new(Fec::Measured);
        let knows = |len, shards, next_index| BlockNeed {
            block: Block {
                first: SeqNo(64),
                len,
            },
            ..need(shards, next_index)
        };
        parity.ask(NOW, knows(10, 1, 0), 10, HOLD_OFF_NS);
        drain(&mut parity, NOW);
        let again = parity.ask(NOW, knows(9, 1, 0), 12, HOLD_OFF_NS);
        assert_eq!(again, Asked::HeldOff);
        let more = parity.ask(NOW, knows(10, 1, 1), 12, HOLD_OFF_NS);
        assert_eq!(more, Asked::More(1));
        assert_eq!(parity.peek().map(|(block, _)| block.len), Some(10));
        parity.ask(NOW, knows(11, 1, 0), 12, HOLD_OFF_NS);
        assert_eq!(parity.peek().map(|(block, _)| block.len), Some(12));
    }

    #[test]
    fn whoever_asks_for_what_comes_unasked_needed_no_more() {
        let mut parity = ParityOut::new(Fec::Measured);
        parity.unasked = 2;
        for n in 0..u64::from(PROACTIVE_BLOCKS) + 2 {
            parity.block_sent(SeqNo(64 * (n + 1)));
            let mut need = need(parity.unasked(), 0);
            need.block.first = SeqNo(64 * n);
            assert_eq!(parity.ask(NOW, need, 64, HOLD_OFF_NS), Asked::HeldOff);
            drain(&mut parity, NOW);
        }
        assert_eq!(parity.unasked(), 1);
    }

    #[test]
    fn whoever_stands_back_gets_its_own_shards() {
        let mut parity = ParityOut::new(Fec::Measured);
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(
            parity.ask_alone(NOW, to, need(2, 3), 64, HOLD_OFF_NS),
            Asked::More(2)
        );
        assert_eq!(
            parity.ask_alone(NOW, to, need(2, 3), 64, HOLD_OFF_NS),
            Asked::HeldOff
        );
        let mut sent = Vec::new();
        while let Some((_, block, index)) = parity.peek_alone() {
            sent.push((block.first.0, index));
            parity.mark_alone(NOW);
        }
        assert_eq!(sent, [(64, 3), (64, 4)]);
        assert_eq!(
            parity.ask_alone(NOW, to, need(1, 3), 64, HOLD_OFF_NS),
            Asked::HeldOff
        );
        let later = NOW.plus_nanos(HOLD_OFF_NS);
        assert_eq!(
            parity.ask_alone(later, to, need(1, 5), 64, HOLD_OFF_NS),
            Asked::More(1)
        );
        parity.mark_alone(later);
        assert_eq!(parity.peek(), None, "nothing for the others");
        assert!(!parity.share(to, SeqNo(64)));
        assert!(parity.share(SocketAddr::from(([127, 0, 0, 1], 2)), SeqNo(64)));
    }

    #[test]
    fn unasked_shards_follow_what_blocks_need() {
        let mut parity = ParityOut::new(Fec::Measured);
        let now = Timestamp::from_nanos(1_000_000_000);
        let block = |parity: &mut ParityOut, n: u64, asks: bool| {
            parity.block_sent(SeqNo(64 * (n + 1)));
            let unasked = drain(parity, now).len();
            if asks {
                let mut need = need(1, 0);
                need.block.first = SeqNo(64 * n);
                need.next_index = u8::try_from(unasked).unwrap();
                parity.ask(now, need, 64, 0);
                drain(parity, now);
            }
            unasked
        };
        let rising: Vec<_> = (0..40).map(|n| block(&mut parity, n, true)).collect();
        assert_eq!((rising[0], rising[39]), (0, 4), "{rising:?}");
        let falling: Vec<_> = (40..100).map(|n| block(&mut parity, n, false)).collect();
        assert_eq!(falling.last(), Some(&0));
    }
}

//! The receiver's side of parity: the shards that have come, and the segments needed beside them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::wire::{BLOCK_LEN, Block, BlockNeed, Place, Segment, SeqNo};

use super::Discard;
use super::fec;
use super::tuning::SHARD_SETS_MAX;
use super::window::{ReceiveWindow, Stored};

/// What a shard or a remembered segment takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// The parity shards of one block.
#[derive(Debug)]
struct ShardSet {
    len: u8,
    next_index: u8,
    shards: Vec<(u8, Bytes)>,
}

impl ShardSet {
    fn cost(&self) -> usize {
        let bytes = self
            .shards
            .iter()
            .map(|(_, shard)| shard.len() + ENTRY_BYTES);
        bytes.sum()
    }
}

/// What a receiver keeps of a coded stream beside its window.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The first number from which on every segment was kept: a block that began earlier cannot be mended.
    began: SeqNo,
    /// Segments of the block at the contiguous mark that have been handed on.
    handed_on: VecDeque<(SeqNo, Stored)>,
    sets: BTreeMap<SeqNo, ShardSet>,
    cost: usize,
}

impl Blocks {
    pub(super) const fn new(began: SeqNo) -> Self {
        Self {
            began,
            handed_on: VecDeque::new(),
            sets: BTreeMap::new(),
            cost: 0,
        }
    }

    /// Memory held.
    pub(super) const fn bytes(&self) -> usize {
        self.cost
    }

    /// Whether a block can be mended by parity at all.
    pub(super) fn covers(&self, first: SeqNo) -> bool {
        first >= self.began
    }

    /// Whether more parity can mend a block: once all shards have been out, only its numbers can be asked for (R-NEED-4).
    pub(super) fn can_mend(&self, first: SeqNo) -> bool {
        let is_over = |set: &ShardSet| u64::from(set.next_index) >= BLOCK_LEN;
        self.covers(first) && !self.sets.get(&first).is_some_and(is_over)
    }

    /// A segment has been handed on: its block may still need it.
    pub(super) fn remember(&mut self, seq: SeqNo, segment: &Stored) {
        self.cost += segment.cost;
        self.handed_on.push_back((seq, segment.clone()));
    }

    /// Everything before the block at the contiguous mark is of no more use.
    pub(super) fn forget_before(&mut self, contiguous: SeqNo) {
        let first = Block::first_of(contiguous);
        while self.handed_on.front().is_some_and(|(seq, _)| *seq < first)
            && let Some((_, segment)) = self.handed_on.pop_front()
        {
            self.cost -= segment.cost;
        }
        while let Some(entry) = self.sets.first_entry()
            && *entry.key() < first
        {
            self.cost -= entry.remove().cost();
        }
    }

    /// Takes a shard in.
    pub(super) fn insert(&mut self, block: Block, index: u8, shard: Bytes) -> Result<(), Discard> {
        let is_full = self.sets.len() >= SHARD_SETS_MAX;
        if !self.covers(block.first) {
            return Err(Discard::NotOurs);
        }
        if is_full && !self.sets.contains_key(&block.first) {
            return Err(Discard::Full);
        }
        let set = self.sets.entry(block.first).or_insert(ShardSet {
            len: block.len,
            next_index: 0,
            shards: Vec::new(),
        });
        // A block that has grown has other parity; one length in a block, or no source of ours sent it.
        let is_other = set
            .shards
            .first()
            .is_some_and(|(_, first)| first.len() != shard.len());
        if block.len > set.len || (is_other && block.len == set.len) {
            self.cost -= set.cost();
            set.shards.clear();
            (set.len, set.next_index) = (block.len, 0);
        }
        if block.len < set.len || set.shards.iter().any(|(held, _)| *held == index) {
            return Err(Discard::Duplicate);
        }
        set.next_index = set.next_index.max(index + 1);
        self.cost += shard.len() + ENTRY_BYTES;
        set.shards.push((index, shard));
        Ok(())
    }

    /// How many of the first `len` numbers of the block are not here.
    fn missing(&self, first: SeqNo, len: u8, window: &ReceiveWindow) -> u64 {
        let end = first.plus(u64::from(len));
        let handed_on = self
            .handed_on
            .iter()
            .filter(|(seq, _)| *seq >= first && *seq < end);
        let here = handed_on.count() + window.stored_in(first, end).count();
        u64::from(len) - here as u64
    }

    /// What the block at `first` needs, of whose numbers those below `known` exist; `None` when that is nothing, or
    /// nothing that parity can mend.
    pub(super) fn need(
        &self,
        first: SeqNo,
        known: SeqNo,
        window: &ReceiveWindow,
    ) -> Option<BlockNeed> {
        let known = u8::try_from(known.since(first).min(BLOCK_LEN)).ok()?;
        // Shards of a block that has grown since are of no use beside those of the whole block.
        let set = self.sets.get(&first).filter(|set| set.len >= known);
        let (len, next_index, held) =
            set.map_or((0, 0, 0), |set| (set.len, set.next_index, set.shards.len()));
        let missing = self.missing(first, known.max(len), window);
        let shards = u8::try_from(missing.saturating_sub(held as u64)).ok()?;
        let len = known.max(len);
        (shards > 0 && self.can_mend(first)).then_some(BlockNeed {
            block: Block { first, len },
            shards,
            next_index,
        })
    }

    /// Mends the first block that has shards enough; its missing segments.
    pub(super) fn mend(&mut self, window: &ReceiveWindow) -> Option<Vec<(SeqNo, Place, Bytes)>> {
        let ready = |(first, set): (&SeqNo, &ShardSet)| {
            let missing = self.missing(*first, set.len, window);
            (missing <= set.shards.len() as u64).then_some((*first, missing))
        };
        let (first, missing) = self.sets.iter().find_map(ready)?;
        let set = self.sets.remove(&first)?;
        self.cost -= set.cost();
        if missing == 0 {
            return Some(Vec::new());
        }
        let here = |offset: u8| -> Option<Segment<'_>> {
            let seq = first.plus(u64::from(offset));
            let at = self.handed_on.binary_search_by_key(&seq, |(held, _)| *held);
            let stored = match at {
                Ok(at) => &self.handed_on[at].1,
                Err(_) => window.stored(seq)?,
            };
            Some(Segment {
                place: stored.place,
                payload: &stored.payload,
            })
        };
        let needed = usize::try_from(missing).ok()?;
        let mended = fec::mend(set.len, here, &set.shards[..needed])?;
        let at = |offset: u8| first.plus(u64::from(offset));
        Some(
            mended
                .into_iter()
                .map(|(offset, place, payload)| (at(offset), place, payload))
                .collect(),
        )
    }
}

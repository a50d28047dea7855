//! Which losses belong together, and whose fault they were: one receiver's edge, one subnet's, or the source's own.

use std::collections::{BTreeMap, VecDeque};

use crate::time::Timestamp;
use crate::wire::{SeqRange, SourceId, StreamId};

use super::ledger::{Account, Ledger, Subnet};
use super::tuning::{ASKERS_MAX, EVENTS_MAX};

/// Where something was lost, as far as the requests for repair tell (R-BLAME-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// One receiver: its cable, its access port, its receive buffer.
    Edge(SourceId),
    /// Most of one subnet and no other: its switch or its uplink.
    Subnet(Subnet),
    /// Everywhere: the source's cable, or the trunk behind it.
    Source,
    /// Several receivers with nothing in common.
    Scattered,
}

impl Blame {
    /// The word for it in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edge(_) => "edge",
            Self::Subnet(_) => "segment",
            Self::Source => "source",
            Self::Scattered => "scattered",
        }
    }
}

/// One loss that is being watched: numbers that were asked for within one hold-off.
#[derive(Debug)]
struct Watched {
    stream: StreamId,
    numbers: SeqRange,
    begun: Timestamp,
    until: Timestamp,
    /// The first of those who asked.
    askers: [SourceId; ASKERS_MAX],
    /// Those who asked, named or not, and how many of them were no scouts.
    count: usize,
    others: usize,
    /// Shards that the first asked for, where parity was asked for, and how many asked for as many.
    shards: Option<u8>,
    alike: usize,
}

/// What one receiver asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) station: SourceId,
    pub(super) stream: StreamId,
    /// The numbers it lacks; of a block that it asked parity for, all.
    pub(super) numbers: SeqRange,
    /// How many shards it asked for, where it asked for parity.
    pub(super) shards: Option<u8>,
    /// Whether it is one of those who ask first.
    pub(super) is_scout: bool,
}

impl Watched {
    /// Those who asked, as far as they are remembered.
    fn askers(&self) -> &[SourceId] {
        &self.askers[..self.count.min(ASKERS_MAX)]
    }
}

/// A loss that nobody asks for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) stream: StreamId,
    pub(super) blame: Blame,
    /// How many asked.
    pub(super) askers: usize,
    /// How many of them were no scouts.
    pub(super) others: usize,
    /// When it was over.
    pub(super) until: Timestamp,
}

/// The losses being watched.
#[derive(Debug, Default)]
pub(super) struct Losses {
    watched: VecDeque<Watched>,
}

impl Losses {
    /// A receiver asks; how many who are no scouts have asked for this loss by now, and since when anybody has, if it is
    /// the first time that this one does and it is no scout.
    pub(super) fn ask(
        &mut self,
        now: Timestamp,
        window_ns: u64,
        asked: Asked,
    ) -> Option<(usize, Timestamp)> {
        let Asked {
            station,
            stream,
            numbers,
            shards,
            is_scout,
        } = asked;
        let known = self.watched.iter_mut().find(|watched| {
            let overlaps = watched.numbers.intersect(numbers).is_some();
            watched.stream == stream && overlaps && now < watched.until
        });
        let Some(watched) = known else {
            self.watched.push_back(Watched {
                stream,
                numbers,
                begun: now,
                until: now.plus_nanos(window_ns),
                askers: [station; ASKERS_MAX],
                count: 1,
                others: usize::from(!is_scout),
                shards,
                alike: 1,
            });
            return (!is_scout).then_some((1, now));
        };
        let first = watched.numbers.first().min(numbers.first());
        let end = watched.numbers.end().max(numbers.end());
        watched.numbers = SeqRange::new(first, end).unwrap_or(numbers);
        if watched.askers().contains(&station) {
            return None;
        }
        if let Some(place) = watched.askers.get_mut(watched.count) {
            *place = station;
        }
        watched.count += 1;
        watched.others += usize::from(!is_scout);
        watched.alike += usize::from(watched.shards == shards);
        (!is_scout).then_some((watched.others, watched.begun))
    }

    /// The oldest loss, once it is over or room is needed. `voices` are those who would have asked at once.
    pub(super) fn close(
        &mut self,
        now: Timestamp,
        ledger: &Ledger,
        scouts: &[SourceId],
    ) -> Option<Closed> {
        let is_over = |watched: &mut Watched| watched.until <= now;
        let has_room = self.watched.len() <= EVENTS_MAX;
        let watched = if has_room {
            self.watched.pop_front_if(is_over)?
        } else {
            self.watched.pop_front()?
        };
        Some(Closed {
            stream: watched.stream,
            blame: blame(&watched, ledger, scouts),
            askers: watched.count,
            others: watched.others,
            until: watched.until,
        })
    }

    /// The stream of the oldest.
    pub(super) fn front_stream(&self) -> Option<StreamId> {
        self.watched.front().map(|watched| watched.stream)
    }

    /// When the oldest is over.
    pub(super) fn due(&self) -> Timestamp {
        self.watched
            .front()
            .map_or(Timestamp::FAR_FUTURE, |watched| watched.until)
    }
}

/// Where a loss was, from who asked of those who could be expected to (R-BLAME-2): the scouts while a back-off keeps the
/// others quiet, else everybody.
fn blame(watched: &Watched, ledger: &Ledger, scouts: &[SourceId]) -> Blame {
    if watched.count == 1 {
        return Blame::Edge(watched.askers[0]);
    }
    // Of a block each lacks what it lost itself: many lack something without having lost it together. A loss in common
    // makes them lack equally many.
    if watched.shards.is_some() && 4 * watched.alike < 3 * watched.count {
        return Blame::Scattered;
    }
    // Per subnet: those who could be expected to ask, and those who did.
    let mut subnets = BTreeMap::<Subnet, (usize, usize)>::new();
    let askers = watched.askers();
    let mut count = |station: SourceId, account: &Account| {
        let counts = subnets.entry(account.subnet()).or_default();
        counts.0 += 1;
        counts.1 += usize::from(askers.contains(&station));
    };
    if scouts.is_empty() {
        ledger
            .voices()
            .for_each(|(station, account)| count(station, account));
    } else {
        for &scout in scouts {
            if let Some(account) = ledger.voice(scout) {
                count(scout, account);
            }
        }
    }
    // More asked than were remembered by name: the known ones stand for all.
    let scale = |asked: usize| asked * watched.count / askers.len();
    let voiced: Vec<_> = subnets
        .iter()
        .filter(|(_, (voices, _))| *voices > 0)
        .collect();
    let hit: Vec<_> = voiced
        .iter()
        .filter(|(_, (voices, asked))| 2 * scale(*asked) >= *voices && *asked > 0)
        .collect();
    match hit.as_slice() {
        // Two thirds of the subnets: a trunk that all but one share is as good as the source's own.
        hit if 3 * hit.len() >= 2 * voiced.len() && !hit.is_empty() => Blame::Source,
        [(subnet, (voices, asked))] if *voices > 1 || scale(*asked) > 1 => Blame::Subnet(**subnet),
        _ => Blame::Scattered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::config::Rate;
    use crate::wire::{GroupId, Lane, SeqNo};
    use std::net::SocketAddr;

    const NOW: Timestamp = Timestamp::from_nanos(1);

    /// Four subnets of ten.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(Rate::RECOMMENDED);
        for i in 0..40_u8 {
            let from = SocketAddr::from(([10, 0, i / 10, i], 7_000));
            ledger.open(NOW, SourceId(u64::from(i)), from);
        }
        ledger
    }

    fn blame_of(askers: impl IntoIterator<Item = u64>, scouts: &[u64]) -> (Blame, usize) {
        let mut losses = Losses::default();
        for asker in askers {
            losses.ask(NOW, 1_000, asked(asker, 7, 8));
        }
        let scouts: Vec<_> = scouts.iter().copied().map(SourceId).collect();
        let later = NOW.plus_nanos(1_000);
        assert_eq!(losses.close(NOW, &ledger(), &scouts), None, "not over yet");
        let closed = losses.close(later, &ledger(), &scouts).unwrap();
        (closed.blame, closed.askers)
    }

    #[test]
    fn one_edge_one_subnet_the_source_or_nothing_in_common() {
        assert_eq!(blame_of([3, 3], &[]), (Blame::Edge(SourceId(3)), 1));
        let second = Subnet::of([10, 0, 1, 0].into());
        assert_eq!(blame_of(10..20, &[]), (Blame::Subnet(second), 10));
        assert_eq!(blame_of(0..40, &[]), (Blame::Source, 40));
        assert_eq!(blame_of([1, 12], &[]), (Blame::Scattered, 2));
        assert_eq!(blame_of([1, 2], &[]), (Blame::Scattered, 2));
    }

    #[test]
    fn scouts_speak_for_their_subnets() {
        let scouts = [2, 7, 12, 17, 22, 27, 32, 37];
        assert_eq!(blame_of(scouts, &scouts).0, Blame::Source);
        let third = Subnet::of([10, 0, 2, 0].into());
        assert_eq!(blame_of([22, 27], &scouts).0, Blame::Subnet(third));
    }

    #[test]
    fn a_block_is_common_where_all_lack_as_much() {
        let blame = |shards: fn(u64) -> u8| {
            let mut losses = Losses::default();
            for asker in 0..40 {
                let block = Asked {
                    shards: Some(shards(asker)),
                    ..asked(asker, 0, 64)
                };
                losses.ask(NOW, 1_000, block);
            }
            let later = NOW.plus_nanos(1_000);
            losses.close(later, &ledger(), &[]).unwrap().blame
        };
        assert_eq!(blame(|_| 3), Blame::Source);
        assert_eq!(
            blame(|asker| if asker < 20 { 1 } else { 2 }),
            Blame::Scattered
        );
    }

    #[test]
    fn other_numbers_are_another_loss() {
        let mut losses = Losses::default();
        let mut ask = |asker, first, end| {
            losses
                .ask(NOW, 9, asked(asker, first, end))
                .map(|(askers, _)| askers)
        };
        assert_eq!(ask(1, 0, 5), Some(1));
        assert_eq!(ask(2, 4, 9), Some(2));
        assert_eq!(ask(3, 8, 9), Some(3), "the run has grown");
        assert_eq!(ask(3, 9, 10), Some(1));
    }

    fn asked(station: u64, first: u64, end: u64) -> Asked {
        Asked {
            station: SourceId(station),
            stream: StreamId::new(GroupId(1), Lane::Routine),
            numbers: SeqRange::new(SeqNo(first), SeqNo(end)).unwrap(),
            shards: None,
            is_scout: false,
        }
    }
}

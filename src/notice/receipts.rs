//! Who has what: a source's book of the reports that came back for the notices it sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::time::Timestamp;
use crate::wire::{SeqNo, SeqRange, SourceId, StreamId};

use super::NoticeId;

/// First request for missing reports: four times what reports need by themselves on a small floor (R-REP-4).
const ASK_FIRST_NS: u64 = 20_000_000;
/// The same for each station that is expected.
const ASK_PER_STATION_NS: u64 = 200_000;
/// Requests before the time between two of them doubles.
const ASKS_FLAT: u32 = 4;
/// Longest time between two requests.
const ASK_MAX_NS: u64 = 500_000_000;
/// Notices kept in the book; the oldest leave first. A day at ten a second, in some 150 MB.
pub const NOTICES_MAX: usize = 1_000_000;
/// Stations kept in the book: as many as a roster remembers.
const STATIONS_MAX: usize = 20_000;

/// Runs of numbers that a station has not received, over all its lives; more are taken for one long run.
const LOST_RUNS_MAX: usize = 256;

/// What one station said it has of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks {
    joined: SeqNo,
    through: SeqNo,
    lost: Vec<SeqRange>,
}

impl Marks {
    /// Takes a newer report in. A station that has started anew joins where it is by then; what its former life reported
    /// stays received, what lies between is not.
    fn merge(&mut self, newer: Self) {
        if newer.joined == self.joined {
            // Reports may overtake each other.
            if newer.through >= self.through {
                *self = newer;
            }
        } else if newer.joined > self.joined {
            // From its joining on, as far as it has come, the newer life knows best; it says so again in each report.
            let kept = self.lost.iter().flat_map(|run| {
                let before = SeqRange::new(run.first(), run.end().min(newer.joined));
                let after = SeqRange::new(run.first().max(newer.through), run.end());
                before.into_iter().chain(after)
            });
            let mut lost: Vec<_> = kept
                .chain(SeqRange::new(self.through, newer.joined))
                .chain(newer.lost)
                .collect();
            lost.sort_unstable();
            self.lost = lost;
            self.through = self.through.max(newer.through);
            self.bound();
        } else {
            *self = newer;
        }
    }

    /// Too many runs become one: it may claim too much lost, never too little.
    fn bound(&mut self) {
        if self.lost.len() > LOST_RUNS_MAX
            && let Some(first) = self.lost.iter().map(|run| run.first()).min()
            && let Some(end) = self.lost.iter().map(|run| run.end()).max()
        {
            self.lost = SeqRange::new(first, end).into_iter().collect();
        }
    }
}

/// A notice that was sent, and where in which streams it lies.
#[derive(Clone, Debug)]
struct Sent {
    id: NoticeId,
    parts: Vec<(StreamId, SeqRange)>,
}

/// How many of those expected have a notice, and who has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Which notice.
    pub id: NoticeId,
    /// How many were expected to receive it.
    pub expected: usize,
    /// Who of them has not reported it.
    pub missing: Vec<SourceId>,
}

/// A source's book of reports. A report counts as *received*: delivered to the workstation's program, not read by anyone.
#[derive(Debug)]
pub struct Receipts {
    marks: BTreeMap<SourceId, BTreeMap<StreamId, Marks>>,
    sent: VecDeque<Sent>,
    /// Notices that have left the book: the index of the oldest one kept.
    left: usize,
    unbooked: u64,
    ask_due: Timestamp,
    ask_gap_ns: u64,
    asks: u32,
    reported: Timestamp,
    moved: Timestamp,
}

impl Default for Receipts {
    fn default() -> Self {
        Self {
            marks: BTreeMap::new(),
            sent: VecDeque::new(),
            left: 0,
            unbooked: 0,
            ask_due: Timestamp::FAR_FUTURE,
            ask_gap_ns: ASK_FIRST_NS,
            asks: 0,
            reported: Timestamp::ZERO,
            moved: Timestamp::ZERO,
        }
    }
}

impl Receipts {
    /// A notice was published as these parts; `expected` is how many stations are thought to listen.
    pub fn sent(
        &mut self,
        now: Timestamp,
        id: NoticeId,
        parts: Vec<(StreamId, SeqRange)>,
        expected: usize,
    ) {
        if self.sent.len() >= NOTICES_MAX {
            self.sent.pop_front();
            self.left += 1;
            self.unbooked += 1;
        }
        self.sent.push_back(Sent { id, parts });
        self.ask_gap_ns = ASK_FIRST_NS + ASK_PER_STATION_NS * expected as u64;
        self.asks = 0;
        self.ask_due = now.plus_nanos(self.ask_gap_ns);
    }

    /// A station reported.
    pub fn reported(
        &mut self,
        now: Timestamp,
        station: SourceId,
        stream: StreamId,
        joined: SeqNo,
        through: SeqNo,
        lost: Vec<SeqRange>,
    ) {
        if self.marks.len() >= STATIONS_MAX && !self.marks.contains_key(&station) {
            self.unbooked += 1;
            return;
        }
        self.reported = now;
        let marks = Marks {
            joined,
            through,
            lost,
        };
        let streams = self.marks.entry(station).or_default();
        match streams.get_mut(&stream) {
            Some(known) => {
                let before = known.through;
                known.merge(marks);
                if known.through > before {
                    self.moved = now;
                }
            }
            None => {
                self.moved = now;
                streams.insert(stream, marks);
            }
        }
    }

    /// When a report last told of something that had not been reported before.
    pub const fn last_moved(&self) -> Timestamp {
        self.moved
    }

    /// When the last report came.
    pub const fn last_reported(&self) -> Timestamp {
        self.reported
    }

    /// How far every station of `stations` has come in `stream`: the lowest contiguous mark, zero for one that has not
    /// reported.
    pub fn slowest(
        &self,
        stream: StreamId,
        stations: impl IntoIterator<Item = SourceId>,
    ) -> Option<SeqNo> {
        let mark = |station| {
            let marks: Option<&Marks> = self
                .marks
                .get(&station)
                .and_then(|streams| streams.get(&stream));
            marks.map_or(SeqNo::ZERO, |marks| marks.through)
        };
        stations.into_iter().map(mark).min()
    }

    /// The tally of the `index`-th notice sent, among `expected`: the stations of each stream's group.
    pub fn tally(
        &self,
        index: usize,
        expected: &BTreeMap<SourceId, BTreeSet<StreamId>>,
    ) -> Option<Tally> {
        let sent = self.at(index)?;
        let concerned = expected.iter().filter(|(_, streams)| {
            sent.parts
                .iter()
                .any(|(stream, _)| streams.contains(stream))
        });
        let mut tally = Tally {
            id: sent.id,
            expected: 0,
            missing: Vec::new(),
        };
        for (&station, _) in concerned {
            tally.expected += 1;
            if !self.has(station, sent) {
                tally.missing.push(station);
            }
        }
        Some(tally)
    }

    /// Whether every one of `expected` has the `index`-th notice.
    pub fn is_complete(
        &self,
        index: usize,
        expected: &BTreeMap<SourceId, BTreeSet<StreamId>>,
    ) -> bool {
        let Some(sent) = self.at(index) else {
            return false;
        };
        let concerned = |streams: &BTreeSet<StreamId>| {
            sent.parts
                .iter()
                .any(|(stream, _)| streams.contains(stream))
        };
        expected
            .iter()
            .all(|(&station, streams)| !concerned(streams) || self.has(station, sent))
    }

    /// How many notices were sent.
    pub fn len(&self) -> usize {
        self.left + self.sent.len()
    }

    /// Reports and notices that there was no room for.
    pub const fn unbooked(&self) -> u64 {
        self.unbooked
    }

    /// Whether no notice was sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When missing reports are to be asked for.
    pub const fn poll_timeout(&self) -> Timestamp {
        self.ask_due
    }

    /// For each stream whom to ask now (R-REP-4); nothing when it is not yet time, or when all have reported.
    pub fn poll_ask(
        &mut self,
        now: Timestamp,
        expected: &BTreeMap<SourceId, BTreeSet<StreamId>>,
    ) -> Vec<(StreamId, Vec<SourceId>)> {
        if now < self.ask_due {
            return Vec::new();
        }
        let mut asked = BTreeMap::<StreamId, Vec<SourceId>>::new();
        for (stream, end) in self.ends() {
            let behind = expected.iter().filter(|(station, streams)| {
                let marks = self.marks.get(station).and_then(|of| of.get(&stream));
                streams.contains(&stream) && marks.is_none_or(|marks| marks.through < end)
            });
            let behind: Vec<_> = behind.map(|(&station, _)| station).collect();
            if !behind.is_empty() {
                asked.insert(stream, behind);
            }
        }
        // The first few rounds follow each other evenly: reports are lost like everything else.
        self.asks += 1;
        if self.asks > ASKS_FLAT {
            self.ask_gap_ns = (self.ask_gap_ns * 2).min(ASK_MAX_NS);
        }
        self.ask_due = now.plus_nanos(self.ask_gap_ns);
        asked.into_iter().collect()
    }

    /// One after the last number of each stream that a notice was sent on.
    fn ends(&self) -> BTreeMap<StreamId, SeqNo> {
        let mut ends = BTreeMap::new();
        // Numbers ascend with the notices, so the last of each stream is the highest.
        for (stream, range) in self.sent.iter().flat_map(|sent| &sent.parts) {
            ends.insert(*stream, range.end());
        }
        ends
    }

    fn at(&self, index: usize) -> Option<&Sent> {
        self.sent.get(index.checked_sub(self.left)?)
    }

    fn has(&self, station: SourceId, sent: &Sent) -> bool {
        let Some(streams) = self.marks.get(&station) else {
            return false;
        };
        sent.parts.iter().any(|(stream, range)| {
            streams.get(stream).is_some_and(|marks| {
                marks.joined <= range.first()
                    && range.end() <= marks.through
                    && marks
                        .lost
                        .iter()
                        .all(|lost| lost.intersect(*range).is_none())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{GroupId, Lane};

    fn stream(group: u32) -> StreamId {
        StreamId::new(GroupId(group), Lane::Routine)
    }

    /// A late joiner whose `joined` moves behind the message it came into says the same again in every report.
    #[test]
    fn reports_of_a_later_life_do_not_pile_up() {
        let told = |joined, through| Marks {
            joined: SeqNo(joined),
            through: SeqNo(through),
            lost: (0..60)
                .map(|i| range(2_000 + 10 * i, 2_001 + 10 * i))
                .collect(),
        };
        let mut marks = Marks {
            joined: SeqNo(5),
            through: SeqNo(100),
            lost: vec![range(20, 30), range(90, 110)],
        };
        for through in 3_000..3_050 {
            marks.merge(told(102, through));
        }
        assert_eq!(marks.lost.len(), 60 + 3, "{:?}", marks.lost);
        assert_eq!(
            marks.lost[..3],
            [range(20, 30), range(90, 102), range(100, 102)]
        );
    }

    fn range(first: u64, end: u64) -> SeqRange {
        SeqRange::new(SeqNo(first), SeqNo(end)).unwrap()
    }

    fn expected(members: &[(u64, &[u32])]) -> BTreeMap<SourceId, BTreeSet<StreamId>> {
        members
            .iter()
            .map(|(id, groups)| {
                (
                    SourceId(*id),
                    groups.iter().map(|&group| stream(group)).collect(),
                )
            })
            .collect()
    }

    fn report(
        book: &mut Receipts,
        station: u64,
        group: u32,
        joined: u64,
        through: u64,
        lost: &[SeqRange],
    ) {
        let marks = (SeqNo(joined), SeqNo(through));
        book.reported(
            Timestamp::ZERO,
            SourceId(station),
            stream(group),
            marks.0,
            marks.1,
            lost.to_vec(),
        );
    }

    #[test]
    fn only_what_was_received_counts() {
        let mut book = Receipts::default();
        book.sent(
            Timestamp::ZERO,
            NoticeId(1),
            vec![(stream(1), range(0, 1))],
            4,
        );
        book.sent(
            Timestamp::ZERO,
            NoticeId(2),
            vec![(stream(1), range(1, 4))],
            4,
        );
        let all = expected(&[(1, &[1]), (2, &[1]), (3, &[1]), (4, &[1])]);
        report(&mut book, 1, 1, 0, 4, &[]);
        report(&mut book, 2, 1, 0, 4, &[range(2, 3)]);
        report(&mut book, 3, 1, 1, 4, &[]);
        let missing = |book: &Receipts, index| book.tally(index, &all).unwrap().missing;
        assert_eq!(
            missing(&book, 0),
            [SourceId(3), SourceId(4)],
            "one joined later, one is silent"
        );
        assert_eq!(
            missing(&book, 1),
            [SourceId(2), SourceId(4)],
            "one lost a part of it"
        );
        report(&mut book, 1, 1, 0, 2, &[]);
        assert_eq!(
            missing(&book, 1),
            [SourceId(2), SourceId(4)],
            "an older report takes nothing back"
        );
        report(&mut book, 4, 1, 0, 4, &[]);
        assert!(
            !book.is_complete(0, &all) && book.is_complete(0, &expected(&[(1, &[1]), (4, &[1])]))
        );
        assert_eq!(book.tally(2, &all), None);
    }

    #[test]
    fn a_new_life_keeps_what_the_former_one_reported() {
        let mut book = Receipts::default();
        for seq in 0..4 {
            book.sent(
                Timestamp::ZERO,
                NoticeId(seq),
                vec![(stream(1), range(seq, seq + 1))],
                1,
            );
        }
        report(&mut book, 1, 1, 0, 2, &[]);
        report(&mut book, 1, 1, 3, 4, &[]);
        report(&mut book, 1, 1, 3, 4, &[]);
        let all = expected(&[(1, &[1])]);
        let has: Vec<_> = (0..4).map(|index| book.is_complete(index, &all)).collect();
        assert_eq!(has, [true, true, false, true]);
    }

    /// A send waits on while reports tell of something new; a station that repeats itself does not keep it waiting.
    #[test]
    fn only_news_moves_the_book() {
        let mut book = Receipts::default();
        let mut at = |ns: u64, through: u64| {
            let now = Timestamp::from_nanos(ns);
            book.reported(
                now,
                SourceId(1),
                stream(1),
                SeqNo::ZERO,
                SeqNo(through),
                Vec::new(),
            );
            (
                book.last_moved().as_nanos(),
                book.last_reported().as_nanos(),
            )
        };
        assert_eq!(
            [at(5, 1), at(6, 1), at(7, 3), at(8, 2), at(9, 3)],
            [(5, 5), (5, 6), (7, 7), (7, 8), (7, 9)]
        );
    }

    #[test]
    fn one_of_several_groups_is_enough() {
        let mut book = Receipts::default();
        book.sent(
            Timestamp::ZERO,
            NoticeId(1),
            vec![(stream(1), range(0, 1)), (stream(2), range(0, 1))],
            3,
        );
        let all = expected(&[(1, &[1, 2]), (2, &[2]), (3, &[3])]);
        report(&mut book, 1, 2, 0, 1, &[]);
        let tally = book.tally(0, &all).unwrap();
        assert_eq!(
            (tally.expected, tally.missing),
            (2, vec![SourceId(2)]),
            "the third is not concerned"
        );
    }

    #[test]
    fn the_missing_are_asked_again_and_again_ever_more_slowly() {
        let mut book = Receipts::default();
        book.sent(
            Timestamp::ZERO,
            NoticeId(1),
            vec![(stream(1), range(0, 2))],
            2,
        );
        let all = expected(&[(1, &[1]), (2, &[1])]);
        report(&mut book, 1, 1, 0, 2, &[]);
        report(&mut book, 2, 1, 0, 1, &[]);
        let mut gaps = Vec::new();
        let mut now = Timestamp::ZERO;
        assert!(book.poll_ask(now, &all).is_empty(), "not yet");
        for _ in 0..8 {
            gaps.push(book.poll_timeout().nanos_since(now) / 1_000_000);
            now = book.poll_timeout();
            assert_eq!(book.poll_ask(now, &all), [(stream(1), vec![SourceId(2)])]);
        }
        assert_eq!(gaps, [20, 20, 20, 20, 20, 40, 81, 163]);
        report(&mut book, 2, 1, 0, 2, &[]);
        assert!(book.poll_ask(book.poll_timeout(), &all).is_empty());
    }
}

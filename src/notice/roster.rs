//! Who is on the floor: every program remembers whom it has heard, and answers for all it knows when somebody new asks.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::rng::Rng;
use crate::time::{Timestamp, saturating_nanos};
use crate::wire::{GroupId, Message, RollCall, RosterEntry, RosterPart, SourceId};

/// How long a station that is not heard any more stays expected: a hang is noticed by the next notice, a machine that was
/// carried away is forgotten within the quarter of an hour.
pub const REMEMBER_RECOMMENDED: Duration = Duration::from_secs(15 * 60);

/// Stations remembered: four times the largest floor promised. Beyond it the one unheard for longest makes room.
const STATIONS_MAX: usize = 20_000;
/// Groups remembered of one station: as many as a floor may have.
const GROUPS_PER_STATION_MAX: usize = 128;
/// Roll calls waiting to be answered at a time; more are left to others.
const ANSWERS_MAX: usize = 16;
/// Announcements at the start, and the gaps behind them: three, so that two may be lost.
const OPENING_GAPS_NS: [u64; 3] = [20_000_000, 100_000_000, 0];
/// Shortest time between two announcements of one station.
const PRESENCE_GAP_MIN_NS: u64 = 2_000_000_000;
/// Time between two announcements for each station on the floor: together they send 50 a second, some 50 kbit/s, however
/// many they are (R-ROST-2).
const PRESENCE_GAP_PER_STATION_NS: u64 = 20_000_000;
/// Farewells, and the gaps behind them.
const LEAVING_GAPS_NS: [u64; 3] = [2_000_000, 5_000_000, 0];
/// Roll calls until somebody answers, and the gaps behind them.
const CALL_GAPS_NS: [u64; 5] = [20_000_000, 40_000_000, 80_000_000, 160_000_000, 320_000_000];
/// Spread of the answers for each station known, so that the first one silences most of the others (R-ROST-6).
const ANSWER_SPREAD_PER_STATION_NS: u64 = 20_000;
/// Longest spread of the answers.
const ANSWER_SPREAD_MAX_NS: u64 = 50_000_000;
/// Shortest time between two answers about one group from one station; roll calls that come meanwhile share the next.
const ANSWER_GAP_NS: u64 = 100_000_000;
/// The same for each station named: 5,000 are named once in 1.1 s, at 100 kB a second, whoever asks however often
/// (R-ROST-8).
const ANSWER_GAP_PER_ENTRY_NS: u64 = 200_000;
/// A roster is settled when nothing new has come for this long after an answer: twice the longest spread would be safe for
/// 5,000; on small floors answers are long there.
const SETTLE_NS: u64 = 100_000_000;
/// Rosters tell silence in whole seconds, so a word must be newer by this much to be newer at all.
const HEARSAY_GRAIN_NS: u64 = 1_000_000_000;
/// `silent_s` of a station that has left (R-ROST-7).
const LEFT: u16 = u16::MAX;

/// The group that every workstation listens to, where a floor has it.
pub fn everybody() -> GroupId {
    GroupId::of("all")
}

/// What a roster is told before it starts.
#[derive(Clone, Debug)]
pub struct RosterConfig {
    /// Our own id.
    pub me: SourceId,
    /// Our own name, if we announce ourselves as a workstation.
    pub announce: Option<String>,
    /// The groups we listen to.
    pub groups: Vec<GroupId>,
    /// How long a silent station stays expected.
    pub remember: Duration,
    /// What others say adds to who is expected, and takes nobody away: on a protected floor a farewell is believed only of who
    /// has signed it (R-ROST-9).
    pub hearsay_adds_only: bool,
}

/// Something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// "I am here", or "I am leaving", to one of our groups.
    Presence {
        /// To whom.
        to: GroupId,
        /// Whether it is a farewell.
        is_leaving: bool,
    },
    /// "Who is on this group?"
    RollCall {
        /// The question.
        call: RollCall,
        /// To whom.
        to: GroupId,
    },
    /// Whom we have heard: a prefix of these fits into a datagram; the rest is to be offered again.
    Answer {
        /// Which question.
        token: u32,
        /// About which group.
        group: GroupId,
        /// To whom.
        to: GroupId,
        /// Each station, seconds since it was heard, its name.
        entries: Vec<(SourceId, u16, String)>,
    },
}

/// Who is on the floor.
#[derive(Debug)]
pub struct Roster {
    config: RosterConfig,
    remember_ns: u64,
    stations: BTreeMap<SourceId, Station>,
    announced: usize,
    announce_due: Timestamp,
    leaving: Option<usize>,
    calls: BTreeMap<GroupId, Call>,
    answers: BTreeMap<GroupId, Answer>,
    /// Until when the next answer about a group has to wait.
    answered: BTreeMap<GroupId, Timestamp>,
    forgotten: u64,
    calls_left: u64,
    /// When a station was last learnt of that was not known.
    changed: Timestamp,
    /// Counts the changes of who is expected.
    version: u64,
    rng: Rng,
}

#[derive(Clone, Debug)]
struct Station {
    name: String,
    groups: Vec<GroupId>,
    heard: Timestamp,
    has_left: bool,
    /// It was heard itself, not only told of.
    is_first_hand: bool,
}

/// What somebody said about a station: itself, or another that has heard it.
struct Word<'a> {
    name: &'a str,
    groups: &'a [GroupId],
    heard: Timestamp,
    has_left: bool,
    is_first_hand: bool,
}

/// Our own question.
#[derive(Clone, Debug)]
struct Call {
    token: u32,
    /// The groups that are asked.
    via: Vec<GroupId>,
    sent: usize,
    due: Timestamp,
    answered: bool,
}

/// Somebody's question, to be answered in a while.
#[derive(Clone, Debug)]
struct Answer {
    token: u32,
    /// A group that we listen to, so that others who do hear what we say.
    to: GroupId,
    due: Timestamp,
    /// Whom others have named meanwhile, and how long silent.
    covered: BTreeMap<SourceId, u16>,
}

impl Roster {
    /// A roster that has heard nobody; `seed` decides its draws.
    pub fn new(config: RosterConfig, seed: u64, now: Timestamp) -> Self {
        let announces = config.announce.is_some() && !config.groups.is_empty();
        Self {
            remember_ns: saturating_nanos(config.remember),
            config,
            stations: BTreeMap::new(),
            announced: 0,
            announce_due: if announces {
                now
            } else {
                Timestamp::FAR_FUTURE
            },
            leaving: None,
            calls: BTreeMap::new(),
            answers: BTreeMap::new(),
            answered: BTreeMap::new(),
            forgotten: 0,
            calls_left: 0,
            changed: now,
            version: 0,
            rng: Rng::new(seed),
        }
    }

    /// The stations expected on `group`: heard within the time that is remembered, and not gone.
    pub fn expected(
        &self,
        now: Timestamp,
        group: GroupId,
    ) -> impl Iterator<Item = (SourceId, &str)> {
        self.stations
            .iter()
            .filter(move |(_, station)| {
                self.is_expected(now, station) && station.groups.contains(&group)
            })
            .map(|(&id, station)| (id, station.name.as_str()))
    }

    /// Stations forgotten because there were too many.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Roll calls not answered because too many waited.
    pub const fn calls_left(&self) -> u64 {
        self.calls_left
    }

    /// The groups we listen to.
    pub fn groups(&self) -> &[GroupId] {
        &self.config.groups
    }

    /// The name of a station that has been heard or told of.
    pub fn name(&self, station: SourceId) -> Option<&str> {
        self.stations
            .get(&station)
            .map(|station| station.name.as_str())
    }

    /// How many stations are expected, over all groups.
    pub fn len(&self, now: Timestamp) -> usize {
        self.stations
            .values()
            .filter(|station| self.is_expected(now, station))
            .count()
    }

    /// Changes whenever who is expected may have changed, but for the passing of time.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Asks the groups `via` who is on `group` (R-ROST-4).
    pub fn call(&mut self, now: Timestamp, group: GroupId, via: &[GroupId]) {
        let token = u32::try_from(self.rng.below(u64::from(u32::MAX))).unwrap_or(0);
        let call = Call {
            token,
            via: via.to_vec(),
            sent: 0,
            due: now,
            answered: false,
        };
        self.calls.insert(group, call);
    }

    /// Whether every question asked has been answered, or asked often enough, and nothing new has come for a while.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        let asked = self
            .calls
            .values()
            .all(|call| call.answered || call.sent >= CALL_GAPS_NS.len());
        let waiting = self
            .calls
            .values()
            .any(|call| !call.answered && call.due > now);
        asked && !waiting && now.nanos_since(self.changed) >= SETTLE_NS
    }

    /// Says farewell (R-ROST-3); [`Roster::has_left`] tells when it has been said often enough.
    pub fn leave(&mut self, now: Timestamp) {
        if self.config.announce.is_some() && self.announced > 0 {
            self.leaving = Some(0);
            self.announce_due = now;
        } else {
            self.announce_due = Timestamp::FAR_FUTURE;
            self.leaving = Some(LEAVING_GAPS_NS.len());
        }
    }

    /// Whether the last farewell has been said.
    pub fn has_left(&self) -> bool {
        self.leaving
            .is_some_and(|said| said >= LEAVING_GAPS_NS.len())
    }

    /// Takes in one message of a datagram that `source` sent.
    pub fn handle(&mut self, now: Timestamp, source: SourceId, message: &Message<'_>) {
        match message {
            Message::Presence(presence) => {
                let mut groups: Vec<_> = presence.groups().take(GROUPS_PER_STATION_MAX).collect();
                groups.sort_unstable();
                groups.dedup();
                let word = Word {
                    name: presence.name,
                    groups: &groups,
                    heard: now,
                    has_left: presence.is_leaving,
                    is_first_hand: true,
                };
                self.learn(now, source, &word);
            }
            Message::RollCall(call) => self.handle_call(now, call),
            Message::Roster(part) => self.handle_part(now, part),
            _ => {}
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Timestamp {
        let calls = self
            .calls
            .values()
            .filter(|call| !call.answered && call.sent < CALL_GAPS_NS.len());
        let calls = calls.map(|call| call.due);
        let answers = self.answers.values().map(|answer| answer.due);
        calls.chain(answers).fold(self.announce_due, Timestamp::min)
    }

    /// What to send next; nothing when nothing is due.
    pub fn poll_outgoing(&mut self, now: Timestamp, out: &mut Vec<Outgoing>) {
        self.poll_presence(now, out);
        for (&group, call) in &mut self.calls {
            if !call.answered && call.due <= now && call.sent < CALL_GAPS_NS.len() {
                call.due = now.plus_nanos(CALL_GAPS_NS[call.sent]);
                call.sent += 1;
                let question = RollCall {
                    group,
                    token: call.token,
                };
                out.extend(
                    call.via
                        .iter()
                        .map(|&to| Outgoing::RollCall { call: question, to }),
                );
            }
        }
        while let Some(group) = self
            .answers
            .iter()
            .find(|(_, answer)| answer.due <= now)
            .map(|(&group, _)| group)
        {
            let Some(answer) = self.answers.remove(&group) else {
                return;
            };
            let entries = self.entries(now, group, &answer.covered);
            if !entries.is_empty() {
                let rest_ns = ANSWER_GAP_NS + entries.len() as u64 * ANSWER_GAP_PER_ENTRY_NS;
                self.answered.insert(group, now.plus_nanos(rest_ns));
                out.push(Outgoing::Answer {
                    token: answer.token,
                    group,
                    to: answer.to,
                    entries,
                });
            }
        }
    }

    fn poll_presence(&mut self, now: Timestamp, out: &mut Vec<Outgoing>) {
        if self.announce_due > now {
            return;
        }
        let is_leaving = self.leaving.is_some();
        out.extend(
            self.config
                .groups
                .iter()
                .map(|&to| Outgoing::Presence { to, is_leaving }),
        );
        let gap = match &mut self.leaving {
            Some(said) => {
                *said += 1;
                LEAVING_GAPS_NS
                    .get(*said - 1)
                    .filter(|_| *said < LEAVING_GAPS_NS.len())
                    .copied()
            }
            None => {
                self.announced += 1;
                let opening = OPENING_GAPS_NS
                    .get(self.announced - 1)
                    .filter(|&&gap| gap > 0)
                    .copied();
                Some(opening.unwrap_or_else(|| self.presence_gap(now)))
            }
        };
        self.announce_due = gap.map_or(Timestamp::FAR_FUTURE, |gap| now.plus_nanos(gap));
    }

    /// Time to the next announcement, with a quarter of jitter either way.
    fn presence_gap(&mut self, now: Timestamp) -> u64 {
        let stations = self.len(now) as u64 + 1;
        let gap = stations
            .saturating_mul(PRESENCE_GAP_PER_STATION_NS)
            .max(PRESENCE_GAP_MIN_NS);
        gap * 3 / 4 + self.rng.below(gap / 2)
    }

    fn handle_call(&mut self, now: Timestamp, call: &RollCall) {
        let Some(to) = self.answers_to(now, call.group) else {
            return;
        };
        // One answer serves all who asked about the group meanwhile.
        if self.leaving.is_some() || self.answers.contains_key(&call.group) {
            return;
        }
        if self.answers.len() >= ANSWERS_MAX {
            self.calls_left += 1;
            return;
        }
        let stations = self.len(now) as u64 + 1;
        let spread = stations
            .saturating_mul(ANSWER_SPREAD_PER_STATION_NS)
            .min(ANSWER_SPREAD_MAX_NS);
        let earliest = self
            .answered
            .get(&call.group)
            .copied()
            .unwrap_or(now)
            .max(now);
        let due = earliest.plus_nanos(self.rng.below(spread));
        self.answers.insert(
            call.group,
            Answer {
                token: call.token,
                to,
                due,
                covered: BTreeMap::new(),
            },
        );
    }

    /// Where to answer about `group`, if we do: to the group itself when we are on it; else, when we know somebody who is,
    /// to the group that everybody is on. So a team is answered for even when all of it hangs (R-ROST-5).
    fn answers_to(&self, now: Timestamp, group: GroupId) -> Option<GroupId> {
        let listens = |group| self.config.groups.contains(&group);
        if self.config.announce.is_none() {
            None
        } else if listens(group) {
            Some(group)
        } else {
            let everybody = everybody();
            (listens(everybody) && self.expected(now, group).next().is_some()).then_some(everybody)
        }
    }

    fn handle_part(&mut self, now: Timestamp, part: &RosterPart<'_>) {
        for entry in part.entries() {
            if let Some(answer) = self.answers.get_mut(&part.group) {
                answer.covered.insert(entry.station, entry.silent_s);
            }
            let has_left = entry.silent_s == LEFT;
            let silent_ns = if has_left {
                0
            } else {
                u64::from(entry.silent_s) * 1_000_000_000
            };
            let is_believed = !has_left || !self.config.hearsay_adds_only;
            if silent_ns <= self.remember_ns && is_believed {
                let word = Word {
                    name: entry.name,
                    groups: &[part.group],
                    heard: Timestamp::from_nanos(now.as_nanos().saturating_sub(silent_ns)),
                    has_left,
                    is_first_hand: false,
                };
                self.learn(now, entry.station, &word);
            }
        }
        if let Some(call) = self.calls.get_mut(&part.group)
            && part.is_last
        {
            call.answered = true;
        }
    }

    /// Remembers what was said about a station.
    fn learn(&mut self, now: Timestamp, id: SourceId, word: &Word<'_>) {
        if id == self.config.me {
            return;
        }
        if let Some(known) = self.stations.get_mut(&id) {
            let was_gone = known.has_left;
            if known.heed(word) {
                self.changed = now;
                self.version += 1;
            }
            self.version += u64::from(known.has_left && !was_gone);
            return;
        }
        if word.has_left {
            return;
        }
        if self.stations.len() >= STATIONS_MAX {
            let oldest = self
                .stations
                .iter()
                .min_by_key(|(_, station)| station.heard);
            if let Some((&oldest, _)) = oldest {
                self.stations.remove(&oldest);
                self.forgotten += 1;
            }
        }
        let station = Station {
            name: word.name.to_owned(),
            groups: word.groups.to_vec(),
            heard: word.heard,
            has_left: false,
            is_first_hand: word.is_first_hand,
        };
        self.version += 1;
        self.stations.insert(id, station);
        self.changed = now;
    }

    /// What we know of `group` that others have not said: stations they left out, and those they believe present though
    /// they have left.
    fn entries(
        &self,
        now: Timestamp,
        group: GroupId,
        covered: &BTreeMap<SourceId, u16>,
    ) -> Vec<(SourceId, u16, String)> {
        let mut entries = Vec::new();
        if let Some(name) = &self.config.announce
            && self.config.groups.contains(&group)
            && !covered.contains_key(&self.config.me)
        {
            entries.push((self.config.me, 0, name.clone()));
        }
        for (&id, station) in self
            .stations
            .iter()
            .filter(|(_, station)| station.groups.contains(&group))
        {
            let silent_s = now.nanos_since(station.heard) / 1_000_000_000;
            let silent_s = u16::try_from(silent_s).unwrap_or(LEFT - 1).min(LEFT - 1);
            match covered.get(&id) {
                Some(&said) if station.has_left && said != LEFT => {
                    entries.push((id, LEFT, station.name.clone()))
                }
                None if self.is_expected(now, station) => {
                    entries.push((id, silent_s, station.name.clone()))
                }
                _ => {}
            }
        }
        entries
    }

    fn is_expected(&self, now: Timestamp, station: &Station) -> bool {
        !station.has_left && now.nanos_since(station.heard) <= self.remember_ns
    }
}

impl Station {
    /// Takes in what was said about it; whether that adds to what is expected. First hand, its word about its groups
    /// replaces what was known; hearsay only adds. An older word than ours does not undo a farewell, and a farewell that
    /// others heard does not send away a station that we heard ourselves.
    fn heed(&mut self, word: &Word<'_>) -> bool {
        let was_gone = self.has_left;
        let is_news = if word.has_left {
            !self.is_first_hand
        } else {
            word.heard > self.heard.plus_nanos(HEARSAY_GRAIN_NS)
        };
        self.is_first_hand |= word.is_first_hand;
        if word.is_first_hand || is_news {
            self.has_left = word.has_left;
            self.heard = self.heard.max(word.heard);
        }
        let groups_before = self.groups.len();
        if word.is_first_hand {
            self.groups.clear();
            self.name.clear();
            self.name.push_str(word.name);
        }
        for group in word.groups {
            if !self.groups.contains(group) && self.groups.len() < GROUPS_PER_STATION_MAX {
                self.groups.push(*group);
            }
        }
        self.groups.len() > groups_before || (was_gone && !self.has_left)
    }
}

impl Outgoing {
    /// The entries of an answer, as the wire wants them.
    pub fn wire_entries(
        entries: &[(SourceId, u16, String)],
    ) -> impl Iterator<Item = RosterEntry<'_>> {
        entries.iter().map(|(station, silent_s, name)| RosterEntry {
            station: *station,
            silent_s: *silent_s,
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{DatagramWriter, FloorId, Header, SessionId, decode};

    const GROUP: GroupId = GroupId(9);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn roster(me: u64, announce: bool) -> Roster {
        let config = RosterConfig {
            me: SourceId(me),
            announce: announce.then(|| format!("ws-{me}")),
            groups: vec![GROUP],
            remember: REMEMBER_RECOMMENDED,
            hearsay_adds_only: false,
        };
        Roster::new(config, me, at(0))
    }

    /// What `from` has to say now, put into `to`.
    fn tell(now: Timestamp, from: &mut Roster, to: &mut [&mut Roster]) -> usize {
        let mut out = Vec::new();
        from.poll_outgoing(now, &mut out);
        let me = from.config.me;
        let header = Header {
            key: 0,
            floor: FloorId(1),
            source: me,
            session: SessionId(1),
            number: 0,
        };
        for outgoing in &out {
            let mut buf = Vec::new();
            let mut writer = DatagramWriter::new(&mut buf, 1_400, &header);
            match outgoing {
                Outgoing::Presence { is_leaving, .. } => {
                    assert!(writer.presence(
                        &format!("ws-{}", me.0),
                        *is_leaving,
                        &from.config.groups
                    ));
                }
                Outgoing::RollCall { call, .. } => assert!(writer.roll_call(call)),
                Outgoing::Answer {
                    token,
                    group,
                    entries,
                    ..
                } => {
                    let written = writer.roster(*token, *group, Outgoing::wire_entries(entries));
                    assert_eq!(written, Some(entries.len()));
                }
            }
            writer.finish();
            for message in decode(&buf).unwrap().messages() {
                to.iter_mut()
                    .for_each(|roster| roster.handle(now, me, &message));
            }
        }
        out.len()
    }

    fn names(roster: &Roster, now: Timestamp) -> Vec<&str> {
        roster.expected(now, GROUP).map(|(_, name)| name).collect()
    }

    /// The point of the whole: a station that hangs is named by a sender that never heard it.
    #[test]
    fn a_newcomer_learns_of_one_that_has_hung() {
        let (mut a, mut b, mut hung) = (roster(1, true), roster(2, true), roster(3, true));
        tell(at(0), &mut hung, &mut [&mut a, &mut b]);
        tell(at(0), &mut a, &mut [&mut b]);
        tell(at(0), &mut b, &mut [&mut a]);
        let now = at(60_000);
        let mut sender = roster(4, false);
        sender.call(now, GROUP, &[GROUP]);
        assert!(!sender.is_settled(now));
        assert_eq!(tell(now, &mut sender, &mut [&mut a, &mut b]), 1);
        let first = a.answers.values().next().unwrap().due;
        assert_eq!(
            tell(first, &mut a, &mut [&mut b, &mut sender]),
            2,
            "its answer, and its next announcement"
        );
        assert_eq!(names(&sender, now), ["ws-1", "ws-2", "ws-3"]);
        let second = b.answers.values().next().unwrap().due.max(first);
        b.announce_due = Timestamp::FAR_FUTURE;
        assert_eq!(
            tell(second, &mut b, &mut [&mut sender]),
            0,
            "silenced by the first answer"
        );
        assert!(sender.is_settled(first.plus_nanos(SETTLE_NS)));
    }

    #[test]
    fn one_that_left_is_not_expected_whatever_others_believe() {
        let (mut a, mut b, mut leaver) = (roster(1, true), roster(2, true), roster(3, true));
        tell(at(0), &mut leaver, &mut [&mut a, &mut b]);
        leaver.leave(at(1_000));
        tell(at(1_000), &mut leaver, &mut [&mut a]);
        assert_eq!(names(&a, at(1_000)), Vec::<&str>::new());
        let mut sender = roster(4, false);
        sender.call(at(2_000), GROUP, &[GROUP]);
        tell(at(2_000), &mut sender, &mut [&mut a, &mut b]);
        // b, which missed the farewell, answers first; a corrects it.
        tell(at(2_050), &mut b, &mut [&mut a, &mut sender]);
        assert!(names(&sender, at(2_050)).contains(&"ws-3"));
        tell(at(2_060), &mut a, &mut [&mut b, &mut sender]);
        assert_eq!(names(&sender, at(2_060)), ["ws-1", "ws-2"]);
        for step in 1..10 {
            tell(at(1_000 + step * 10), &mut leaver, &mut []);
        }
        assert!(leaver.has_left());
    }

    #[test]
    fn a_silent_station_is_forgotten_in_the_end() {
        let (mut a, mut b) = (roster(1, true), roster(2, true));
        tell(at(0), &mut b, &mut [&mut a]);
        assert_eq!(names(&a, at(15 * 60_000)), ["ws-2"]);
        assert_eq!(names(&a, at(15 * 60_000 + 1)), Vec::<&str>::new());
    }

    /// A team whose members all hang is answered for by those who heard them in the group that everybody is on.
    #[test]
    fn others_answer_for_a_team_that_hangs() {
        let on = |me: u64, groups: &[GroupId]| {
            let mut roster = roster(me, true);
            roster.config.groups = groups.to_vec();
            roster
        };
        let (mut hung, mut other) = (on(1, &[everybody(), GROUP]), on(2, &[everybody()]));
        tell(at(0), &mut hung, &mut [&mut other]);
        tell(at(0), &mut other, &mut []);
        other.announce_due = Timestamp::FAR_FUTURE;
        let mut sender = roster(4, false);
        sender.call(at(100), GROUP, &[GROUP, everybody()]);
        assert_eq!(
            tell(at(100), &mut sender, &mut [&mut other]),
            2,
            "asked in both"
        );
        assert_eq!(tell(at(200), &mut other, &mut [&mut sender]), 1);
        assert_eq!(
            names(&sender, at(200)),
            ["ws-1"],
            "and not the one who answers: it is not on the team"
        );
    }

    #[test]
    fn presence_is_scaled_to_the_floor() {
        let mut a = roster(1, true);
        for id in 10..5_010 {
            let word = Word {
                name: "x",
                groups: &[GROUP],
                heard: at(0),
                has_left: false,
                is_first_hand: true,
            };
            a.learn(at(0), SourceId(id), &word);
        }
        let gap = a.presence_gap(at(0));
        assert!((75_000_000_000..125_100_000_000).contains(&gap), "{gap}");
        for id in 10_000..40_000 {
            let word = Word {
                name: "x",
                groups: &[GROUP],
                heard: at(1),
                has_left: false,
                is_first_hand: true,
            };
            a.learn(at(1), SourceId(id), &word);
        }
        assert_eq!(a.stations.len(), STATIONS_MAX);
    }

    #[test]
    fn nobody_answers_and_it_settles() {
        let mut sender = roster(4, false);
        sender.call(at(0), GROUP, &[GROUP]);
        let mut now = at(0);
        let mut calls = 0;
        while sender.poll_timeout() != Timestamp::FAR_FUTURE {
            now = sender.poll_timeout();
            calls += tell(now, &mut sender, &mut []);
        }
        assert_eq!(calls, CALL_GAPS_NS.len());
        assert!(sender.is_settled(now.plus_nanos(CALL_GAPS_NS[4])));
    }
}

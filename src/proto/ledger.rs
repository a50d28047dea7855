//! What a source knows of each receiver: where it is, what it lost and asked for, what it may still ask for, and how far
//! it has come. From this come the scouts, the quorum's mark, and who has to stand back.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::time::Timestamp;
use crate::wire::{GroupId, SeqNo, SeqRange, SessionId, SourceId, StreamId};

use super::blame::Blame;
use super::config::Rate;
use super::pacer::Bucket;
use super::tuning::{
    ACCOUNTS_MAX, NACK_BURST, NACKS_PER_RECEIVER_PER_S, REPAIR_BURST_BYTES, REPAIR_SHARE_MAX,
};

/// Subnets whose losses are counted: more than a site has. Further ones are not.
const SUBNETS_MAX: usize = 4_096;
/// A receiver not heard for this long is no scout and no part of a quorum: five of the longest report gaps.
const LIVE_NS: u64 = 10_000_000_000;
/// Losses of a receiver fade by half in this time, so that it is judged by what happens now.
const FADE_NS: u64 = 1_000_000_000;
/// Losses within [`FADE_NS`] below which nobody is called lossy.
const LOSSY_MIN: u64 = 64;
/// So many times the floor's mean is lossy.
const LOSSY_TIMES: u64 = 8;

/// Where receivers stand together: their network's /24 (IPv4) or /64 (IPv6), since a switch or a VLAN rarely has more
/// (R-BLAME-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet(u64);

impl Subnet {
    /// The subnet of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits() >> 8)),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64 | 1 << 63),
        }
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 >> 63 == 0 {
            let [.., a, b, c] = self.0.to_be_bytes();
            write!(f, "{a}.{b}.{c}.0/24")
        } else {
            let bits = u128::from(self.0) << 64;
            write!(f, "{}/64", std::net::Ipv6Addr::from_bits(bits))
        }
    }
}

/// How far a receiver has come in one stream, as it reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The receiver's life that reported it.
    pub(super) session: SessionId,
    pub(super) through: SeqNo,
    /// When that last moved.
    pub(super) moved: Timestamp,
    /// It has left the pace of this stream.
    pub(super) is_behind: bool,
    /// What it missed was no longer to be had.
    pub(super) is_evicted: bool,
    /// What it reported lost because of that, as long as nobody was told.
    pub(super) evicted: Option<SeqRange>,
    /// Numbers it missed, as it reported.
    pub(super) missed: u32,
}

/// What a report says of one stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// The receiver's life.
    pub(super) session: SessionId,
    pub(super) through: SeqNo,
    pub(super) missed: u32,
    /// The last of what it lost to the window.
    pub(super) evicted: Option<SeqRange>,
}

/// What a source knows of one of its receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverAccount {
    /// Which.
    pub station: SourceId,
    /// Where it sends from.
    pub from: SocketAddr,
    /// Numbers that it missed, as it reported, whether they came after all or were given up; not those taken back.
    pub missed: u64,
    /// Losses that it alone asked for.
    pub edge_losses: u64,
    /// NACKs taken in.
    pub nacks: u64,
    /// NACKs beyond its budget.
    pub refused: u64,
    /// Numbers that it asked for.
    pub asked: u64,
    /// Segments and shards sent again because of it.
    pub repairs: u64,
    /// Whether it has left the pace of any stream.
    pub is_behind: bool,
}

/// One receiver's account.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) from: SocketAddr,
    /// The address at which it has shown to be (R-ADDR-2).
    proved: Option<SocketAddr>,
    pub(super) heard: Timestamp,
    pub(super) marks: BTreeMap<StreamId, Mark>,
    /// Numbers that it missed, over all streams, as it reported.
    pub(super) missed: u64,
    pub(super) nacks: u64,
    /// Numbers that it asked for.
    pub(super) asked: u64,
    /// Segments and shards sent again because of it.
    pub(super) repairs: u64,
    pub(super) edge_losses: u64,
    /// NACKs that were more than its budget.
    pub(super) refused: u64,
    /// Part of `missed` since the last time the rate was set.
    missed_lately: u64,
    /// Part of `asked` since then.
    asked_lately: u64,
    /// It has reported since then.
    has_reported: bool,
    recent: Fading,
    /// The count at which its last echo was taken (R-GRTT-2).
    echoed: Option<u64>,
    nack_bucket: Bucket,
    repair_bucket: Bucket,
}

impl Account {
    /// The subnet it sends from.
    pub(super) fn subnet(&self) -> Subnet {
        Subnet::of(self.from.ip())
    }
}

/// A count that fades by half each [`FADE_NS`].
#[derive(Clone, Copy, Debug, Default)]
struct Fading {
    count: u64,
    faded: Timestamp,
}

impl Fading {
    fn at(&self, now: Timestamp) -> u64 {
        let halvings = now.nanos_since(self.faded) / FADE_NS;
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.count.checked_shr(halvings).unwrap_or(0)
    }

    fn add(&mut self, now: Timestamp, count: u64) {
        self.count = self.at(now).saturating_add(count);
        self.faded = self
            .faded
            .plus_nanos(now.nanos_since(self.faded) / FADE_NS * FADE_NS);
    }
}

/// What becomes of a NACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answered with the others.
    InPace,
    /// Answered when nobody else waits: it asks for more than its share, or has left the pace (R-BUDGET-2).
    Alone,
    /// More NACKs than any receiver sends: dropped (R-BUDGET-1).
    Refused,
}

/// All receivers' accounts.
#[derive(Debug)]
pub(super) struct Ledger {
    accounts: BTreeMap<SourceId, Account>,
    repair_rate: Rate,
    recent_total: Fading,
    subnet_losses: BTreeMap<Subnet, u64>,
    /// Those for whom there was no account share these.
    strangers: Bucket,
    /// Reports and NACKs of receivers for whom there was no account.
    pub(super) unbooked: u64,
    /// When anybody was heard last.
    heard: Timestamp,
}

/// A bucket that counts NACKs instead of bytes.
fn nack_bucket() -> Bucket {
    Bucket::new(
        Rate::try_from(NACKS_PER_RECEIVER_PER_S).unwrap_or(Rate::MIN),
        NACK_BURST,
    )
}

impl Ledger {
    pub(super) fn new(repair_rate: Rate) -> Self {
        Self {
            accounts: BTreeMap::new(),
            repair_rate,
            recent_total: Fading::default(),
            subnet_losses: BTreeMap::new(),
            strangers: nack_bucket(),
            unbooked: 0,
            heard: Timestamp::ZERO,
        }
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = (SourceId, &Account)> {
        self.accounts
            .iter()
            .map(|(&station, account)| (station, account))
    }

    /// Those heard lately.
    pub(super) fn live(&self, now: Timestamp) -> impl Iterator<Item = (SourceId, &Account)> {
        self.accounts()
            .filter(move |(_, account)| now.nanos_since(account.heard) < LIVE_NS)
    }

    /// Those who could be expected to ask: heard lately, or about when the last was heard, since a quiet floor says nothing.
    pub(super) fn voices(&self) -> impl Iterator<Item = (SourceId, &Account)> {
        self.live(self.heard)
    }

    /// One of them.
    pub(super) fn voice(&self, station: SourceId) -> Option<&Account> {
        let account = self.accounts.get(&station)?;
        (self.heard.nanos_since(account.heard) < LIVE_NS).then_some(account)
    }

    /// How many have an account.
    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether an echo of this receiver counts, when so many of all have been taken in: no sooner again than half of the
    /// others' could have been. Whoever asks most is in trouble, and would else be measured most (R-GRTT-2).
    pub(super) fn may_echo(&mut self, station: SourceId, taken: u64) -> bool {
        let apart = self.accounts.len() as u64 / 2;
        let Some(account) = self.accounts.get_mut(&station) else {
            return false;
        };
        let may = account.echoed.is_none_or(|last| taken - last >= apart);
        if may {
            account.echoed = Some(taken);
        }
        may
    }

    /// Where a receiver sends from, and when it was heard last.
    pub(super) fn address(&self, station: SourceId) -> Option<(SocketAddr, Timestamp)> {
        let account = self.accounts.get(&station)?;
        Some((account.from, account.heard))
    }

    /// A receiver has shown to be where it sends from.
    pub(super) fn prove(&mut self, station: SourceId, at: SocketAddr) {
        if let Some(account) = self.accounts.get_mut(&station) {
            account.proved = Some(at);
        }
    }

    /// Whether a receiver has shown to be where it was heard last.
    pub(super) fn is_proved(&self, station: SourceId) -> bool {
        let account = self.accounts.get(&station);
        account.is_some_and(|account| account.proved == Some(account.from))
    }

    /// A loss has been judged.
    pub(super) fn blame(&mut self, blame: Blame) {
        match blame {
            Blame::Edge(station) => {
                if let Some(account) = self.accounts.get_mut(&station) {
                    account.edge_losses += 1;
                }
            }
            Blame::Subnet(subnet) => {
                let is_known = self.subnet_losses.contains_key(&subnet);
                if is_known || self.subnet_losses.len() < SUBNETS_MAX {
                    *self.subnet_losses.entry(subnet).or_default() += 1;
                }
            }
            Blame::Source | Blame::Scattered => {}
        }
    }

    /// The subnets that lost something alone, and how often.
    pub(super) fn subnet_losses(&self) -> impl Iterator<Item = (Subnet, u64)> {
        self.subnet_losses
            .iter()
            .map(|(&subnet, &count)| (subnet, count))
    }

    /// The accounts as they are told to the owner.
    pub(super) fn receivers(&self) -> impl Iterator<Item = ReceiverAccount> {
        self.accounts().map(|(station, account)| ReceiverAccount {
            station,
            from: account.from,
            missed: account.missed,
            edge_losses: account.edge_losses,
            nacks: account.nacks,
            refused: account.refused,
            asked: account.asked,
            repairs: account.repairs,
            is_behind: account.marks.values().any(|mark| mark.is_behind),
        })
    }

    /// The marks in `stream` of those heard lately.
    pub(super) fn marks_mut(
        &mut self,
        now: Timestamp,
        stream: StreamId,
    ) -> impl Iterator<Item = (SourceId, &mut Mark)> {
        self.accounts
            .iter_mut()
            .filter(move |(_, account)| now.nanos_since(account.heard) < LIVE_NS)
            .filter_map(move |(&station, account)| Some((station, account.marks.get_mut(&stream)?)))
    }

    /// What each receiver in pace has missed since this was asked last. One that is stuck does not report, but it asks.
    pub(super) fn take_missed_lately(&mut self, now: Timestamp) -> Vec<u64> {
        let mut missed = Vec::new();
        for account in self.accounts.values_mut() {
            let reported = std::mem::take(&mut account.missed_lately);
            let asked = std::mem::take(&mut account.asked_lately);
            let has_reported = std::mem::take(&mut account.has_reported);
            let is_in_pace = !account.marks.values().any(|mark| mark.is_behind);
            if is_in_pace && now.nanos_since(account.heard) < LIVE_NS {
                missed.push(if has_reported { reported } else { asked });
            }
        }
        missed
    }

    /// Takes a report in.
    pub(super) fn report(
        &mut self,
        now: Timestamp,
        station: SourceId,
        from: SocketAddr,
        stream: StreamId,
        told: Told,
    ) {
        let Told {
            session,
            through,
            missed,
            evicted,
        } = told;
        let Some(account) = self.open(now, station, from) else {
            return;
        };
        let mark = account.marks.entry(stream).or_insert(Mark {
            session,
            through,
            moved: now,
            is_behind: false,
            is_evicted: false,
            evicted: None,
            missed: 0,
        });
        // Reports may overtake each other; a new life may begin further back, and counts from zero again.
        if mark.session == session && through < mark.through {
            return;
        }
        if mark.session != session {
            (mark.session, mark.missed) = (session, 0);
        }
        if let Some(lost) = evicted {
            let news = SeqRange::new(lost.first().max(mark.through), lost.end());
            mark.evicted = mark.evicted.or(news);
            // It has passed over what others are waited for, and must not stand for them.
            mark.is_behind |= news.is_some();
        }
        if mark.through != through {
            (mark.through, mark.moved) = (through, now);
        }
        let more = missed.wrapping_sub(mark.missed);
        mark.missed = missed;
        account.has_reported = true;
        if more < 1 << 31 {
            account.missed += u64::from(more);
            account.missed_lately += u64::from(more);
        }
    }

    #[cfg(test)]
    pub(super) fn get_mut(&mut self, station: SourceId) -> Option<&mut Account> {
        self.accounts.get_mut(&station)
    }

    /// The account of whoever was just heard; `None` when the book is full of receivers heard more lately.
    pub(super) fn open(
        &mut self,
        now: Timestamp,
        station: SourceId,
        from: SocketAddr,
    ) -> Option<&mut Account> {
        if !self.accounts.contains_key(&station) {
            if self.accounts.len() >= ACCOUNTS_MAX && !self.forget_one(now) {
                self.unbooked += 1;
                return None;
            }
            let share = self.repair_rate.get() / REPAIR_SHARE_MAX;
            let account = Account {
                from,
                proved: None,
                heard: now,
                marks: BTreeMap::new(),
                missed: 0,
                nacks: 0,
                asked: 0,
                repairs: 0,
                edge_losses: 0,
                refused: 0,
                missed_lately: 0,
                asked_lately: 0,
                has_reported: false,
                recent: Fading::default(),
                echoed: None,
                nack_bucket: nack_bucket(),
                repair_bucket: Bucket::new(
                    Rate::try_from(share).unwrap_or(Rate::MIN),
                    REPAIR_BURST_BYTES,
                ),
            };
            self.accounts.insert(station, account);
        }
        self.heard = now;
        let account = self.accounts.get_mut(&station)?;
        account.heard = now;
        account.from = from;
        Some(account)
    }

    /// Makes room by forgetting one that was not heard for long; false when there is none. Looks at all of them, so it
    /// is paid for by whoever opens an account in a full book, once per strangers' NACK.
    fn forget_one(&mut self, now: Timestamp) -> bool {
        if !self.strangers.is_ready(now) {
            return false;
        }
        self.strangers.spend(now, 1);
        let oldest = self
            .accounts
            .iter()
            .filter(|(_, account)| now.nanos_since(account.heard) >= LIVE_NS)
            .min_by_key(|(_, account)| account.heard)
            .map(|(&station, _)| station);
        oldest.is_some_and(|station| self.accounts.remove(&station).is_some())
    }

    /// Takes a request for `numbers` numbers of `stream` into account, and says what becomes of it.
    pub(super) fn judge(
        &mut self,
        now: Timestamp,
        station: SourceId,
        from: SocketAddr,
        stream: StreamId,
        units: u64,
    ) -> Verdict {
        let Some(account) = self.open(now, station, from) else {
            let is_refused = !self.strangers.is_ready(now);
            self.strangers.spend(now, 1);
            return if is_refused {
                Verdict::Refused
            } else {
                Verdict::Alone
            };
        };
        if !account.nack_bucket.is_ready(now) {
            account.refused += 1;
            return Verdict::Refused;
        }
        account
            .nack_bucket
            .spend(now, usize::try_from(units).unwrap_or(usize::MAX));
        account.nacks += 1;
        let is_behind = account
            .marks
            .get(&stream)
            .is_some_and(|mark| mark.is_behind);
        // Standing back costs nothing while nobody else wants anything: the share need not know how many there are.
        if is_behind || !account.repair_bucket.is_ready(now) {
            Verdict::Alone
        } else {
            Verdict::InPace
        }
    }

    /// Books `numbers` numbers asked for, and the `repairs` that go out because of it.
    pub(super) fn charge(
        &mut self,
        now: Timestamp,
        station: SourceId,
        numbers: u64,
        repairs: u64,
        bytes: usize,
    ) {
        let Some(account) = self.accounts.get_mut(&station) else {
            return;
        };
        account.asked += numbers;
        account.asked_lately += numbers;
        account.repairs += repairs;
        account.repair_bucket.spend(now, bytes);
        account.recent.add(now, numbers);
        self.recent_total.add(now, numbers);
    }

    /// Whether a receiver asks for far more than the others: its losses are its own.
    pub(super) fn is_lossy(&self, now: Timestamp, station: SourceId) -> bool {
        let mean = self.recent_total.at(now) / self.accounts.len().max(1) as u64;
        let account = self.accounts.get(&station);
        let recent = account.map_or(0, |account| account.recent.at(now));
        recent >= LOSSY_MIN && recent > LOSSY_TIMES * mean
    }

    /// Up to `count` receivers of `group` that are to ask first, spread evenly over the subnets and addresses of those heard lately;
    /// the lossy are left out, since their losses are not the floor's (R-SCOUT-1).
    pub(super) fn choose_scouts(
        &self,
        now: Timestamp,
        group: GroupId,
        count: usize,
    ) -> Vec<SourceId> {
        let mut candidates: Vec<_> = self
            .voices()
            .filter(|(station, account)| {
                let listens = account.marks.keys().any(|stream| stream.group() == group);
                let is_behind = account.marks.values().any(|mark| mark.is_behind);
                listens && !is_behind && !self.is_lossy(now, *station)
            })
            .map(|(station, account)| (account.subnet(), account.from, station))
            .collect();
        candidates.sort_unstable();
        let len = candidates.len();
        let count = count.min(len);
        (0..count)
            .map(|i| candidates[(2 * i + 1) * len / (2 * count)].2)
            .collect()
    }

    /// The mark that all but a share of the receivers in pace have reached; `None` while nobody has reported.
    pub(super) fn quorum_mark(
        &self,
        now: Timestamp,
        stream: StreamId,
        share: super::config::Percent,
    ) -> Option<SeqNo> {
        let mut marks: Vec<_> = self
            .live(now)
            .filter_map(|(_, account)| account.marks.get(&stream))
            .filter(|mark| !mark.is_behind)
            .map(|mark| mark.through)
            .collect();
        // Of 100 receivers and 95 %, the five slowest do not count: the sixth from below is the slowest that does.
        let ignored = marks.len() * (100 - share.as_len()) / 100;
        if marks.is_empty() {
            return None;
        }
        let (_, mark, _) = marks.select_nth_unstable(ignored);
        Some(*mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::config::Percent;
    use crate::wire::{GroupId, Lane};

    const NOW: Timestamp = Timestamp::from_nanos(5_000_000_000);

    fn ledger(receivers: u8) -> Ledger {
        let mut ledger = Ledger::new(Rate::RECOMMENDED);
        for i in 0..receivers {
            let account = ledger.open(NOW, SourceId(u64::from(i)), address(i));
            account.unwrap().marks.insert(stream(), at(0));
        }
        ledger
    }

    fn address(i: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, i % 4, i], 7_000))
    }

    fn stream() -> StreamId {
        StreamId::new(GroupId(1), Lane::Routine)
    }

    fn at(mark: u64) -> Mark {
        Mark {
            session: SessionId(1),
            through: SeqNo(mark),
            moved: NOW,
            is_behind: false,
            is_evicted: false,
            evicted: None,
            missed: 0,
        }
    }

    #[test]
    fn scouts_are_spread_over_subnets_and_leave_out_the_lossy() {
        let mut ledger = ledger(40);
        let scouts = ledger.choose_scouts(NOW, GroupId(1), 8);
        let mut subnets: Vec<_> = scouts.iter().map(|scout| scout.0 % 4).collect();
        subnets.sort_unstable();
        assert_eq!(subnets, [0, 0, 1, 1, 2, 2, 3, 3]);
        ledger.charge(NOW, scouts[0], 500, 0, 0);
        assert!(
            !ledger
                .choose_scouts(NOW, GroupId(1), 8)
                .contains(&scouts[0])
        );
        assert_eq!(ledger.choose_scouts(NOW, GroupId(1), 100).len(), 39);
        let later = NOW.plus_nanos(20 * FADE_NS);
        assert_eq!(
            ledger.choose_scouts(later, GroupId(1), 8).len(),
            8,
            "nobody said anything"
        );
        ledger.open(later, SourceId(7), address(7));
        assert_eq!(
            ledger.choose_scouts(later, GroupId(1), 8),
            [SourceId(7)],
            "the others were silent while one was heard"
        );
    }

    #[test]
    fn a_flood_is_refused_and_a_glutton_stands_back() {
        let mut ledger = ledger(2);
        let (me, from) = (SourceId(0), address(0));
        let mut refused = 0;
        for _ in 0..10_000 {
            refused += u64::from(ledger.judge(NOW, me, from, stream(), 1) == Verdict::Refused);
        }
        assert!(refused > 9_000, "{refused}");
        let (other, from) = (SourceId(1), address(1));
        assert_eq!(ledger.judge(NOW, other, from, stream(), 1), Verdict::InPace);
        ledger.charge(NOW, other, 1_000, 1_000, 2_000_000);
        assert_eq!(ledger.judge(NOW, other, from, stream(), 1), Verdict::Alone);
        let later = NOW.plus_nanos(3_000_000_000);
        assert_eq!(
            ledger.judge(later, other, from, stream(), 1),
            Verdict::InPace
        );
    }

    #[test]
    fn whoever_asks_most_is_not_measured_most() {
        let mut ledger = ledger(20);
        let counted =
            |ledger: &mut Ledger, station, taken| ledger.may_echo(SourceId(station), taken);
        assert!(counted(&mut ledger, 3, 5));
        assert!(!counted(&mut ledger, 3, 14));
        assert!(counted(&mut ledger, 4, 14));
        assert!(counted(&mut ledger, 3, 15));
        assert!(!counted(&mut ledger, 99, 50), "nobody knows it");
    }

    #[test]
    fn the_quorum_leaves_the_slowest_out() {
        let mut ledger = ledger(20);
        for i in 0..20 {
            let account = ledger.get_mut(SourceId(i)).unwrap();
            account.marks.insert(stream(), at(100 + i));
        }
        let mark = |share| {
            let share = Percent::try_from(share).unwrap();
            ledger.quorum_mark(NOW, stream(), share).unwrap().0
        };
        assert_eq!((mark(100), mark(95), mark(90)), (100, 101, 102));
    }

    #[test]
    fn subnets_are_told_apart() {
        let of = |text: &str| Subnet::of(text.parse().unwrap());
        assert_eq!(of("10.1.2.3"), of("::ffff:10.1.2.99"));
        assert_ne!(of("10.1.2.3"), of("10.1.3.3"));
        assert_eq!(of("fd00::1"), of("fd00::ffff"));
        assert_eq!(of("10.1.2.3").to_string(), "10.1.2.0/24");
        assert_eq!(of("fd00:1:2:3::9").to_string(), "fd00:1:2:3::/64");
    }
}

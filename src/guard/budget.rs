//! How much work is done for whom: checking what turns out false, meeting newcomers, signing small trains.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::time::Timestamp;

/// A budget that fills at an even pace up to a bound (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    /// When it is full again.
    full_at: Timestamp,
}

impl Budget {
    /// When one more can be had, each taking `each_ns` to come back and `burst` of them there at most.
    fn ready_at(self, each_ns: u64, burst: u64) -> Timestamp {
        let room = each_ns * (burst - 1);
        Timestamp::from_nanos(self.full_at.as_nanos().saturating_sub(room))
    }

    fn is_ready(self, now: Timestamp, (each_ns, burst): (u64, u64)) -> bool {
        self.ready_at(each_ns, burst) <= now
    }

    fn spend(&mut self, now: Timestamp, ns: u64) {
        self.full_at = self.full_at.max(now).plus_nanos(ns);
    }
}

/// False signatures, and who brought them (R-PROOF-4). A check takes some 50 us.
#[derive(Debug, Default)]
pub(super) struct Forgeries {
    abroad: BTreeMap<IpAddr, Budget>,
    /// All that is abroad, together.
    all_abroad: Budget,
    at_home: BTreeMap<SocketAddr, Budget>,
    /// And all that is at home.
    all_at_home: Budget,
    /// What is over any of these.
    beyond: Budget,
}

/// Addresses that have brought something false, kept at a time of each kind; what comes of further ones is bounded together.
const ADDRESSES_MAX: usize = 1_024;
/// False signatures checked of one address where no station is known: 20 a second, after 32 at once. What was damaged on the
/// way is none: it does not come so far.
const OF_ADDRESS: (u64, u64) = (50_000_000, 32);
/// And of all those together: a twentieth of a core.
const ABROAD: (u64, u64) = (1_000_000, 1_000);
/// The same of the address and port that a station was heard from: another twentieth, since whoever can borrow that address
/// could else silence the station.
const AT_HOME: (u64, u64) = (1_000_000, 1_000);
/// And of all those together: two twentieths.
const ALL_AT_HOME: (u64, u64) = (500_000, 2_000);
/// And of what is over any of these: whoever borrows an address spends what is its, and its owner then still has its chance
/// among the false ones, one in so many, however few the address has of its own.
const BEYOND: (u64, u64) = (1_000_000, 100);

impl Forgeries {
    /// Whether a signature that comes from an address is to be checked.
    pub(super) fn may_check(&self, now: Timestamp, from: SocketAddr, is_at_home: bool) -> bool {
        self.is_within(now, from, is_at_home) || self.beyond.is_ready(now, BEYOND)
    }

    fn is_within(&self, now: Timestamp, from: SocketAddr, is_at_home: bool) -> bool {
        if is_at_home {
            is_ready(&self.at_home, &from, now, AT_HOME)
                && self.all_at_home.is_ready(now, ALL_AT_HOME)
        } else {
            is_ready(&self.abroad, &from.ip(), now, OF_ADDRESS)
                && self.all_abroad.is_ready(now, ABROAD)
        }
    }

    /// One was false.
    pub(super) fn found(&mut self, now: Timestamp, from: SocketAddr, is_at_home: bool) {
        make_room(&mut self.abroad, now);
        make_room(&mut self.at_home, now);
        if !self.is_within(now, from, is_at_home) {
            self.beyond.spend(now, BEYOND.0);
        } else if is_at_home {
            let home = self.at_home.entry(from).or_default();
            home.spend(now, AT_HOME.0);
            self.all_at_home.spend(now, ALL_AT_HOME.0);
        } else {
            let address = self.abroad.entry(from.ip()).or_default();
            address.spend(now, OF_ADDRESS.0);
            self.all_abroad.spend(now, ABROAD.0);
        }
    }
}

/// Whether there is something left of what `whose` may bring; nothing, if it has no budget and there is no room for one.
fn is_ready<K: Ord>(
    budgets: &BTreeMap<K, Budget>,
    whose: &K,
    now: Timestamp,
    pace: (u64, u64),
) -> bool {
    match budgets.get(whose) {
        Some(budget) => budget.is_ready(now, pace),
        None => budgets.len() < ADDRESSES_MAX,
    }
}

/// Lets those go that are full again. Only what was false comes here, a few thousand times a second at most.
fn make_room<K: Ord>(budgets: &mut BTreeMap<K, Budget>, now: Timestamp) {
    if budgets.len() >= ADDRESSES_MAX {
        budgets.retain(|_, budget| budget.full_at > now);
    }
}

/// Lives that a station without a grant may begin: one a second after ten. Each costs keys that are derived anew.
const LIVES: (u64, u64) = (1_000_000_000, 10);

/// Whether a station without a grant may begin another life now.
pub(super) fn begins(budget: &mut Budget, now: Timestamp) -> bool {
    take(budget, now, LIVES)
}

/// Signatures of a station without a grant that are checked, however true they are: a twentieth of a core for each that was
/// stolen. Its reports, requests and answers are some dozens a second.
const OF_STATION: (u64, u64) = (1_000_000, 1_000);

/// Whether one more signature of a station without a grant is checked now.
pub(super) fn may_sign(budget: Budget, now: Timestamp) -> bool {
    budget.is_ready(now, OF_STATION)
}

/// One was.
pub(super) fn signed(budget: &mut Budget, now: Timestamp) {
    budget.spend(now, OF_STATION.0);
}

/// Newcomers: each costs a check or an agreement, and a place in the table.
#[derive(Debug, Default)]
pub(super) struct Enrolments {
    met: Budget,
    told: Budget,
    refused: Budget,
}

/// A floor of 8,192 may speak up at once, as it does to a source that starts; then 100 a second: faster than people log in.
const MEETINGS: (u64, u64) = (10_000_000, 8_192);
/// Keys that are looked at and turn out to be none, or another's: a hundredth of a core.
const REFUSALS: (u64, u64) = (1_000_000, 1_000);
/// Refused keys told to the owner: one a second after ten.
const TELLINGS: (u64, u64) = (1_000_000_000, 10);

impl Enrolments {
    /// Whether one more may be met now.
    pub(super) fn may_meet(&self, now: Timestamp) -> bool {
        self.met.is_ready(now, MEETINGS)
    }

    /// Whether one more is met now.
    pub(super) fn meet(&mut self, now: Timestamp) -> bool {
        take(&mut self.met, now, MEETINGS)
    }

    /// Whether a key that nobody has shown before is looked at now.
    pub(super) fn may_look(&self, now: Timestamp) -> bool {
        self.refused.is_ready(now, REFUSALS)
    }

    /// It was refused.
    pub(super) fn refused(&mut self, now: Timestamp) {
        self.refused.spend(now, REFUSALS.0);
    }

    /// Whether one more refusal is told now.
    pub(super) fn may_tell(&mut self, now: Timestamp) -> bool {
        take(&mut self.told, now, TELLINGS)
    }
}

fn take(budget: &mut Budget, now: Timestamp, pace: (u64, u64)) -> bool {
    let is_ready = budget.is_ready(now, pace);
    if is_ready {
        budget.spend(now, pace.0);
    }
    is_ready
}

/// Our signatures. Each is checked by every receiver, so that a source which signs each datagram of 10,000 a second by itself
/// would keep half a core of every workstation busy. Small trains are 4,000 a second at most, a fifth of a core, which is 2,000
/// notices and their heartbeats; they go at once where 32 have not gone before; half-full ones are free (R-TRAIN-5).
#[derive(Debug, Default)]
pub(super) struct Signatures(Budget);

const SMALL_TRAINS: (u64, u64) = (250_000, 32);
/// So many datagrams share a signature, and it costs each of them little.
const HALF_FULL: u64 = 32;

impl Signatures {
    pub(super) fn ready_at(&self) -> Timestamp {
        self.0.ready_at(SMALL_TRAINS.0, SMALL_TRAINS.1)
    }

    /// A train of so many datagrams was signed.
    pub(super) fn spend(&mut self, now: Timestamp, datagrams: usize) {
        let missing = HALF_FULL.saturating_sub(datagrams as u64);
        self.0.spend(now, SMALL_TRAINS.0 * missing / HALF_FULL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many false ones of `from` are checked at once.
    fn checked(forgeries: &mut Forgeries, now: Timestamp, from: SocketAddr, at_home: bool) -> u64 {
        let mut checked = 0;
        while forgeries.may_check(now, from, at_home) {
            forgeries.found(now, from, at_home);
            checked += 1;
        }
        checked
    }

    #[test]
    fn false_signatures_are_checked_for_a_while_and_then_no_more() {
        let of = |last: u32| SocketAddr::from((last.to_be_bytes(), 7));
        let (a, b) = (of(1), of(2));
        let now = Timestamp::from_nanos(1);
        let mut forgeries = Forgeries::default();
        let own_and_beyond = OF_ADDRESS.1 + BEYOND.1;
        assert_eq!(checked(&mut forgeries, now, a, false), own_and_beyond);
        let is_within = forgeries.is_within(now, b, false);
        assert!(is_within, "others are not to blame");
        assert!(forgeries.may_check(now, a, true), "nor is a station there");
        // Beyond its own there is a chance for whoever shares the address, and a bound.
        let later = now.plus_nanos(20_000_000);
        assert_eq!(checked(&mut forgeries, later, a, false), 20);
        // Invented addresses have one budget together, and only so much memory.
        let of_all: u64 = (10..5_000_u32)
            .map(|i| checked(&mut forgeries, later, of(i), false))
            .sum();
        assert!(of_all <= ABROAD.1, "{of_all}");
        assert!(!forgeries.may_check(later, b, false) && forgeries.abroad.len() <= ADDRESSES_MAX);
        assert!(forgeries.may_check(later, b, true));
        assert_eq!(checked(&mut forgeries, later, b, true), AT_HOME.1);
        assert!(
            forgeries.may_check(later, a, true),
            "each station for itself"
        );
        // Nor are stations that were invented, on as many ports, without a bound together.
        let at_home: u64 = (0..3_072_u32)
            .map(|i| checked(&mut forgeries, later, of(1 << 24 | i), true))
            .sum();
        assert!(at_home <= ALL_AT_HOME.1, "{at_home}");
        assert!(forgeries.at_home.len() <= ADDRESSES_MAX);
    }

    #[test]
    fn small_trains_have_a_pace_and_full_ones_none() {
        let mut signatures = Signatures::default();
        let now = Timestamp::from_nanos(1);
        for _ in 0..100 {
            assert!(signatures.ready_at() <= now);
            signatures.spend(now, 64);
        }
        let mut alone = 0;
        while signatures.ready_at() <= now {
            signatures.spend(now, 1);
            alone += 1;
        }
        // One more than at once, as each shares a little of a train.
        assert!((32..=33).contains(&alone), "{alone}");
        assert!(signatures.ready_at() <= now.plus_nanos(250_000));
    }
}

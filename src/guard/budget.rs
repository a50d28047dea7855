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
}

/// Addresses that have brought something false, kept at a time of each kind; what comes of further ones is bounded together
/// only, abroad, and not at all at home, where as many would have to be known.
const ADDRESSES_MAX: usize = 1_024;
/// False signatures checked of one address where no station is known: 20 a second, after 32 at once. What was damaged on the
/// way is none: it does not come so far.
const OF_ADDRESS: (u64, u64) = (50_000_000, 32);
/// And of all those together: a twentieth of a core.
const ABROAD: (u64, u64) = (1_000_000, 1_000);
/// The same of the address and port that a station was heard from: another twentieth, since whoever can borrow that address
/// could else silence the station.
const AT_HOME: (u64, u64) = (1_000_000, 1_000);

impl Forgeries {
    /// Whether a signature that comes from an address is to be checked.
    pub(super) fn may_check(&self, now: Timestamp, from: SocketAddr, is_at_home: bool) -> bool {
        let is_ready = |budget: Option<&Budget>, (each_ns, burst)| {
            budget.is_none_or(|budget| budget.ready_at(each_ns, burst) <= now)
        };
        if is_at_home {
            is_ready(self.at_home.get(&from), AT_HOME)
        } else {
            is_ready(self.abroad.get(&from.ip()), OF_ADDRESS)
                && is_ready(Some(&self.all_abroad), ABROAD)
        }
    }

    /// One was false.
    pub(super) fn found(&mut self, now: Timestamp, from: SocketAddr, is_at_home: bool) {
        if is_at_home {
            charge(&mut self.at_home, from, now, AT_HOME.0);
        } else {
            charge(&mut self.abroad, from.ip(), now, OF_ADDRESS.0);
            self.all_abroad.spend(now, ABROAD.0);
        }
    }
}

fn charge<K: Ord>(budgets: &mut BTreeMap<K, Budget>, whose: K, now: Timestamp, each_ns: u64) {
    if budgets.len() >= ADDRESSES_MAX && !budgets.contains_key(&whose) {
        budgets.retain(|_, budget| budget.full_at > now);
        if budgets.len() >= ADDRESSES_MAX {
            return;
        }
    }
    budgets.entry(whose).or_default().spend(now, each_ns);
}

/// Signatures of a station without a grant that are checked, however true they are: a twentieth of a core for each that was
/// stolen. Its reports, requests and answers are some dozens a second.
const OF_STATION: (u64, u64) = (1_000_000, 1_000);

/// Whether one more signature of a station without a grant is checked now.
pub(super) fn may_sign(budget: Budget, now: Timestamp) -> bool {
    budget.ready_at(OF_STATION.0, OF_STATION.1) <= now
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
}

/// A floor of 8,192 may speak up at once, as it does to a source that starts; then 100 a second: faster than people log in.
const MEETINGS: (u64, u64) = (10_000_000, 8_192);
/// Refused keys told to the owner: one a second after ten.
const TELLINGS: (u64, u64) = (1_000_000_000, 10);

impl Enrolments {
    /// Whether one more may be met now.
    pub(super) fn may_meet(&self, now: Timestamp) -> bool {
        self.met.ready_at(MEETINGS.0, MEETINGS.1) <= now
    }

    /// Whether one more is met now.
    pub(super) fn meet(&mut self, now: Timestamp) -> bool {
        take(&mut self.met, now, MEETINGS)
    }

    /// Whether one more refusal is told now.
    pub(super) fn may_tell(&mut self, now: Timestamp) -> bool {
        take(&mut self.told, now, TELLINGS)
    }
}

fn take(budget: &mut Budget, now: Timestamp, (each_ns, burst): (u64, u64)) -> bool {
    let is_ready = budget.ready_at(each_ns, burst) <= now;
    if is_ready {
        budget.spend(now, each_ns);
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

    #[test]
    fn false_signatures_are_checked_for_a_while_and_then_no_more() {
        let of = |last: u32| SocketAddr::from((last.to_be_bytes(), 7));
        let (a, b) = (of(1), of(2));
        let mut forgeries = Forgeries::default();
        let now = Timestamp::from_nanos(1);
        let mut checked = 0;
        while forgeries.may_check(now, a, false) {
            forgeries.found(now, a, false);
            checked += 1;
        }
        assert_eq!(checked, 32);
        assert!(
            forgeries.may_check(now, b, false),
            "others are not to blame"
        );
        assert!(forgeries.may_check(now, a, true), "nor is a station there");
        let later = now.plus_nanos(50_000_000);
        assert!(forgeries.may_check(later, a, false));
        // Invented addresses have one budget together, and only so much memory.
        for i in 10..5_000_u32 {
            if forgeries.may_check(now, of(i), false) {
                forgeries.found(now, of(i), false);
            }
        }
        assert!(!forgeries.may_check(now, b, false) && forgeries.abroad.len() <= ADDRESSES_MAX);
        assert!(forgeries.may_check(now, b, true));
        while forgeries.may_check(now, b, true) {
            forgeries.found(now, b, true);
        }
        assert!(forgeries.may_check(now, a, true), "each station for itself");
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

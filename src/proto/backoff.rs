//! How long a receiver waits before it asks, so that not all ask at once: the source's choice, and the receiver's draw.

use std::time::Duration;

use crate::rng::Rng;
use crate::time::Timestamp;
use crate::wire::{Lane, QuantDuration};

use super::tuning::{
    BACKOFF_MAX_NS, Backoff, NACKS_PER_EVENT_MAX, QUIET_ASKS, QUIET_EVENTS, QUIET_NS,
    SCOUTS_ONLY_NS, TRUST_MAX, TRUST_NS, TRUST_STEP,
};

/// The back-off that a source advertises, learnt from how many asked for the same loss (R-BACK-3; after PGM's
/// NAK_BO_IVL, RFC 3208 section 15.2, but down to zero: on a wired LAN most losses are one receiver's own).
#[derive(Clone, Copy, Debug)]
pub(super) struct Controller {
    backoff: Backoff,
    nanos: u64,
    /// Losses since it was last thought over, and how many asked for them.
    events: u8,
    asks: usize,
    /// How often few did, since it was raised.
    quiet: u64,
    /// How many asked for losses that were their own, since a loss was common.
    waited: u64,
    /// How many times what it takes at first it takes to lower it, or to give it up.
    trust: u64,
    /// It has been higher and was lowered since.
    was_lowered: bool,
    /// When the last of them was over.
    closed: Timestamp,
    /// When a loss was last common.
    common: Timestamp,
    /// When it was last common, or the back-off was halved for want of losses.
    quiet_since: Timestamp,
    /// From when on whoever asks first has heard of the present value.
    heeded: Timestamp,
}

/// Those who may ask, as the source knows them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    pub(super) receivers: u64,
    pub(super) grtt_ns: u64,
}

impl Crowd {
    /// The shortest back-off that keeps a crowd quiet: within the round trip that the first request needs to silence the
    /// others about as many ask as a source bears. Of a truncated exponential `e^(L * GRTT / T)` do (RFC 5401 section
    /// 3.2.3); a back-off of one round trip silences nobody.
    fn quieting_ns(self) -> u64 {
        let lambda = (self.receivers.max(1) as f64).ln() + 1.0;
        let round_trips = lambda / (NACKS_PER_EVENT_MAX as f64).ln();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive; saturates"
        )]
        let nanos = (self.grtt_ns as f64 * round_trips.max(1.0)) as u64;
        nanos.min(BACKOFF_MAX_NS)
    }
}

/// A loss that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    /// How many asked for it, and how many of them were no scouts.
    pub(super) askers: usize,
    pub(super) others: usize,
    /// Whether most who could be expected to ask did.
    pub(super) is_common: bool,
    /// When it was over.
    pub(super) until: Timestamp,
}

impl Controller {
    pub(super) const fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            nanos: 0,
            events: 0,
            asks: 0,
            quiet: 0,
            waited: 0,
            trust: 1,
            was_lowered: false,
            closed: Timestamp::ZERO,
            common: Timestamp::ZERO,
            quiet_since: Timestamp::ZERO,
            heeded: Timestamp::ZERO,
        }
    }

    /// The longest that a receiver may wait (R-BACK-1).
    pub(super) fn nanos(&self) -> u64 {
        match self.backoff {
            Backoff::Adaptive => self.nanos,
            Backoff::Fixed(fixed) => crate::time::saturating_nanos(fixed).min(BACKOFF_MAX_NS),
        }
    }

    pub(super) fn quantized(&self) -> QuantDuration {
        QuantDuration::at_least(Duration::from_nanos(self.nanos()))
    }

    /// Whether losses have lately been common.
    pub(super) fn is_raised(&self) -> bool {
        self.backoff == Backoff::Adaptive && self.nanos > 0
    }

    /// So many who are no scouts have asked for one loss by now, the first of all at `begun`; whether that raised the
    /// back-off. Once for each loss: exactly when the count passes the bound, and only where the first to ask knew of the
    /// last raise: many losses at a time would else double it several times over before the first doubling could show.
    /// At first scouts alone are let go ahead, since a lone loser then waits a round trip for them and no more; only if
    /// they do not keep the others quiet, these draw a wait.
    pub(super) fn asked(
        &mut self,
        now: Timestamp,
        (others, begun): (usize, Timestamp),
        crowd: Crowd,
    ) -> bool {
        let is_many = others == NACKS_PER_EVENT_MAX + 1 && self.backoff == Backoff::Adaptive;
        if !is_many || begun < self.heeded {
            return false;
        }
        self.heeded = now.plus_nanos(crowd.grtt_ns + self.nanos);
        self.nanos = match self.nanos {
            0 => SCOUTS_ONLY_NS,
            nanos => (nanos * 2).max(crowd.quieting_ns()).min(BACKOFF_MAX_NS),
        };
        if std::mem::take(&mut self.was_lowered) {
            self.trust = (self.trust * TRUST_STEP).min(TRUST_MAX);
        }
        self.was_common(now);
        true
    }

    fn was_common(&mut self, now: Timestamp) {
        (self.events, self.asks, self.waited, self.quiet) = (0, 0, 0, 0);
        (self.common, self.quiet_since) = (now, now);
    }

    /// A loss is over. Losses that one request told of are one here. Halved where few but the scouts ask. Given up altogether only when as many have waited in vain as would have
    /// asked at once for one common loss: the rule of who hires skis until the hire has cost what the skis would have.
    pub(super) fn closed(&mut self, now: Timestamp, over: Over, crowd: Crowd) {
        if self.nanos == 0 || over.until == self.closed {
            return;
        }
        self.closed = over.until;
        let is_common = over.is_common || over.askers > NACKS_PER_EVENT_MAX;
        if is_common {
            (self.common, self.quiet_since, self.waited) = (now, now, 0);
        } else {
            self.waited += over.others as u64;
        }
        self.events += 1;
        self.asks += over.others;
        let enough = crowd.receivers.max(u64::from(QUIET_EVENTS));
        if self.waited >= enough.saturating_mul(self.trust) {
            self.forget();
        } else if self.events >= QUIET_EVENTS {
            // Below what keeps a crowd quiet there is none: that is not tried as often as a little less is.
            let is_few = self.asks <= QUIET_ASKS * usize::from(QUIET_EVENTS);
            self.quiet += u64::from(is_few);
            if is_few && (self.quiet >= self.trust || self.nanos / 2 >= crowd.quieting_ns()) {
                self.halve(crowd);
            }
            (self.events, self.asks) = (0, 0);
        }
    }

    /// Time passes: quiet, too, is a reason to halve, and in the end to forget. Whether that changed anything.
    fn pass(&mut self, now: Timestamp, crowd: Crowd) -> bool {
        let before = self.nanos;
        if before == 0 {
            return false;
        }
        if now.nanos_since(self.common) >= TRUST_NS {
            self.forget();
            (self.trust, self.was_lowered) = (1, false);
        } else if now.nanos_since(self.quiet_since) >= QUIET_NS * self.trust {
            self.quiet_since = now;
            self.halve(crowd);
        }
        self.nanos != before
    }

    fn forget(&mut self) {
        self.was_lowered = true;
        (self.nanos, self.events, self.asks) = (0, 0, 0);
        (self.waited, self.quiet) = (0, 0);
    }

    /// What would no longer keep anybody quiet is left out altogether: scouts go first all the same.
    fn halve(&mut self, crowd: Crowd) {
        self.nanos = match self.nanos / 2 {
            half if half >= crowd.quieting_ns() => half,
            _ => {
                self.was_lowered |= self.nanos > SCOUTS_ONLY_NS;
                SCOUTS_ONLY_NS
            }
        };
    }
}

/// What a source has learnt: of bulk, where a request speaks of a whole block, so that many ask for what nobody but they
/// lost; and of everything else, which shall not wait for that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controllers {
    people: Controller,
    bulk: Controller,
}

impl Controllers {
    pub(super) const fn new(backoff: Backoff) -> Self {
        Self {
            people: Controller::new(backoff),
            bulk: Controller::new(backoff),
        }
    }

    pub(super) const fn of(&self, lane: Lane) -> &Controller {
        match lane {
            Lane::Emergency | Lane::Routine => &self.people,
            Lane::Bulk => &self.bulk,
        }
    }

    pub(super) const fn of_mut(&mut self, lane: Lane) -> &mut Controller {
        match lane {
            Lane::Emergency | Lane::Routine => &mut self.people,
            Lane::Bulk => &mut self.bulk,
        }
    }

    /// Time passes; whether that changed anything.
    pub(super) fn pass(&mut self, now: Timestamp, crowd: Crowd) -> bool {
        self.people.pass(now, crowd) | self.bulk.pass(now, crowd)
    }

    /// Whether losses have lately been common in any lane.
    pub(super) fn is_raised(&self) -> bool {
        self.people.is_raised() || self.bulk.is_raised()
    }
}

/// A wait between 0 and `backoff_ns`, truncated exponential for a group of `group_size` (RFC 5401 section 3.2.3,
/// R-BACK-2): few draw early, so the first few NACKs come alone and the repair silences the rest. Zero back-off waits not
/// at all.
pub(super) fn draw(backoff_ns: u64, group_size: u64, rng: &mut Rng) -> u64 {
    if backoff_ns == 0 {
        return 0;
    }
    let lambda = (group_size.max(1) as f64).ln() + 1.0;
    let share = (1.0 + rng.unit() * lambda.exp_m1()).ln() / lambda;
    let wait = share.clamp(0.0, 1.0) * backoff_ns as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and backoff_ns"
    )]
    let wait = wait as u64;
    wait
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWD: Crowd = Crowd {
        receivers: 500,
        grtt_ns: 200_000,
    };

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(10_000_000 + micros * 1_000)
    }

    /// All of 500 ask for one loss.
    fn common(controller: &mut Controller, now: Timestamp) -> u64 {
        for others in 1..=500 {
            controller.asked(now, (others, now), CROWD);
        }
        close(controller, now, (500, 500), true);
        controller.nanos()
    }

    fn close(
        controller: &mut Controller,
        until: Timestamp,
        (askers, others): (usize, usize),
        is_common: bool,
    ) {
        let over = Over {
            askers,
            others,
            is_common,
            until,
        };
        controller.closed(until, over, CROWD);
    }

    #[test]
    fn scouts_first_then_a_wait_that_doubles_and_halves() {
        let mut controller = Controller::new(Backoff::Adaptive);
        let quieting = CROWD.quieting_ns();
        assert!((3 * CROWD.grtt_ns..4 * CROWD.grtt_ns).contains(&quieting));
        assert_eq!(common(&mut controller, at(0)), SCOUTS_ONLY_NS);
        let once = "once for each loss, and not before it is heeded";
        assert_eq!(common(&mut controller, at(100)), SCOUTS_ONLY_NS, "{once}");
        assert_eq!(common(&mut controller, at(1_000)), quieting);
        assert_eq!(common(&mut controller, at(2_000)), 2 * quieting);
        for i in 1..=u64::from(QUIET_EVENTS) {
            close(&mut controller, at(4_000 + i), (1, 1), false);
            close(&mut controller, at(4_000 + i), (1, 1), false);
        }
        let noisy = "the storm is one of these eight";
        assert_eq!(controller.nanos(), 2 * quieting, "{noisy}");
        for i in 1..=u64::from(QUIET_EVENTS) {
            close(&mut controller, at(5_000 + i), (8, 0), true);
        }
        assert_eq!(controller.nanos(), quieting, "few but the scouts asked");
        controller.pass(at(5_008).plus_nanos(QUIET_NS), CROWD);
        assert_eq!(controller.nanos(), SCOUTS_ONLY_NS);
        controller.pass(at(5_008).plus_nanos(2 * QUIET_NS), CROWD);
        assert_eq!(controller.nanos(), SCOUTS_ONLY_NS);
        controller.pass(at(5_008).plus_nanos(TRUST_NS), CROWD);
        assert_eq!(controller.nanos(), 0);
    }

    #[test]
    fn is_given_up_when_as_many_have_waited_as_a_common_loss_would_bring() {
        let mut controller = Controller::new(Backoff::Adaptive);
        common(&mut controller, at(0));
        for i in 1..500 {
            close(&mut controller, at(i), (1, 1), false);
        }
        close(&mut controller, at(500), (8, 0), true);
        for i in 501..1_000 {
            close(&mut controller, at(i), (1, 1), false);
        }
        assert!(
            controller.is_raised(),
            "the loss in common begins the count anew"
        );
        close(&mut controller, at(1_000), (1, 1), false);
        assert!(!controller.is_raised());
    }

    #[test]
    fn what_was_given_up_too_soon_is_trusted_for_longer() {
        let mut controller = Controller::new(Backoff::Adaptive);
        let lone = |controller: &mut Controller, from: u64, count: u64| {
            for i in from..from + count {
                close(controller, at(i), (1, 1), false);
            }
            controller.is_raised()
        };
        common(&mut controller, at(0));
        assert!(!lone(&mut controller, 1, 500));
        common(&mut controller, at(10_000));
        assert!(lone(&mut controller, 10_001, 16 * 500 - 1));
        assert!(!lone(&mut controller, 20_000, 1));
        common(&mut controller, at(30_000));
        controller.pass(at(30_000).plus_nanos(TRUST_NS), CROWD);
        assert!(!controller.is_raised());
        common(&mut controller, at(40_000).plus_nanos(TRUST_NS));
        assert!(!lone(&mut controller, 2_000_000_000, 500), "begun anew");
    }

    #[test]
    fn few_duplicates_change_nothing_and_keep_what_there_is() {
        let mut controller = Controller::new(Backoff::Adaptive);
        let now = at(0);
        for others in 1..=NACKS_PER_EVENT_MAX {
            assert!(!controller.asked(now, (others, now), CROWD));
        }
        assert!(!controller.is_raised());
        common(&mut controller, now);
        common(&mut controller, at(1_000));
        for i in 0..90 {
            let few = QUIET_ASKS + 1;
            close(&mut controller, at(2_000 + i), (few, few), false);
        }
        assert_eq!(controller.nanos(), CROWD.quieting_ns());
    }

    /// research figure: with 1,000 receivers a lone loser waits 0.874 T on average, and the first of 1,000 about 0.01 T to
    /// 0.15 T.
    #[test]
    fn means_match_the_theory() {
        let mut rng = Rng::new(7);
        let mean = |rng: &mut Rng, group| {
            (0..20_000).map(|_| draw(10_000, group, rng)).sum::<u64>() / 20_000
        };
        assert!(
            (7_250..7_450).contains(&mean(&mut rng, 10)),
            "Aeron's G = 10: 0.735 T"
        );
        assert!((8_640..8_840).contains(&mean(&mut rng, 1_000)));
        let first: u64 = (0..200)
            .map(|_| {
                (0..1_000)
                    .map(|_| draw(10_000, 1_000, &mut rng))
                    .min()
                    .unwrap()
            })
            .sum();
        assert!((20..2_000).contains(&(first / 200)), "{}", first / 200);
        assert_eq!(draw(0, 1_000, &mut rng), 0);
    }
}

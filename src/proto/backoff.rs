//! How long a receiver waits before it asks, so that not all ask at once: the source's choice, and the receiver's draw.

use std::time::Duration;

use crate::rng::Rng;
use crate::time::Timestamp;
use crate::wire::{Lane, QuantDuration};

use super::tuning::{
    BACKOFF_MAX_NS, Backoff, NACKS_PER_EVENT_MAX, QUIET_ASKS, QUIET_EVENTS, QUIET_NS, TRUST_NS,
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
    /// How many asked for losses that were their own, since a loss was common.
    waited: u64,
    /// When the last of them was over.
    closed: Timestamp,
    /// When a loss was last common.
    common: Timestamp,
    /// When it was last common, or the back-off was halved for want of losses.
    quiet_since: Timestamp,
    /// From when on whoever asks first has heard of the present value.
    heeded: Timestamp,
}

/// A loss that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    /// How many asked for it.
    pub(super) askers: usize,
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
            waited: 0,
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

    /// So many have asked for one loss by now, the first of them at `begun`; whether that raised the back-off. Once for each
    /// loss: exactly when the count passes the bound, and only where the first to ask knew of the last raise: many losses
    /// at a time would else double it several times over before the first doubling could show.
    pub(super) fn asked(
        &mut self,
        now: Timestamp,
        (askers, begun): (usize, Timestamp),
        grtt_ns: u64,
    ) -> bool {
        let is_many = askers == NACKS_PER_EVENT_MAX + 1 && self.backoff == Backoff::Adaptive;
        if !is_many || begun < self.heeded {
            return false;
        }
        self.heeded = now.plus_nanos(grtt_ns + self.nanos);
        self.nanos = (self.nanos * 2).max(grtt_ns).min(BACKOFF_MAX_NS);
        self.was_common(now);
        true
    }

    fn was_common(&mut self, now: Timestamp) {
        (self.events, self.asks, self.waited) = (0, 0, 0);
        (self.common, self.quiet_since) = (now, now);
    }

    /// A loss is over. Losses that one request told of are one here. Halved where few ask, down to a round trip, which with
    /// scouts is enough to keep the others quiet. Given up altogether only when as many have waited in vain as would have
    /// asked at once for one common loss: the rule of who hires skis until the hire has cost what the skis would have.
    pub(super) fn closed(&mut self, now: Timestamp, over: Over, receivers: u64, grtt_ns: u64) {
        if self.nanos == 0 {
            return;
        }
        if over.is_common || over.askers > NACKS_PER_EVENT_MAX {
            self.was_common(now);
            return;
        }
        if over.until == self.closed {
            return;
        }
        self.waited += over.askers as u64;
        self.closed = over.until;
        self.events += 1;
        self.asks += over.askers;
        if self.waited >= receivers.max(u64::from(QUIET_EVENTS)) {
            self.forget();
        } else if self.events >= QUIET_EVENTS {
            if self.asks <= QUIET_ASKS * usize::from(QUIET_EVENTS) {
                self.halve(grtt_ns);
            }
            (self.events, self.asks) = (0, 0);
        }
    }

    /// Time passes: quiet, too, is a reason to halve, and in the end to forget. Whether that changed anything.
    fn pass(&mut self, now: Timestamp, grtt_ns: u64) -> bool {
        let before = self.nanos;
        if before == 0 {
            return false;
        }
        if now.nanos_since(self.common) >= TRUST_NS {
            self.forget();
        } else if now.nanos_since(self.quiet_since) >= QUIET_NS {
            self.quiet_since = now;
            self.halve(grtt_ns);
        }
        self.nanos != before
    }

    fn forget(&mut self) {
        (self.nanos, self.events, self.asks, self.waited) = (0, 0, 0, 0);
    }

    /// Less than a round trip suppresses nothing any more.
    fn halve(&mut self, grtt_ns: u64) {
        self.nanos = (self.nanos / 2).max(grtt_ns.min(self.nanos));
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
    pub(super) fn pass(&mut self, now: Timestamp, grtt_ns: u64) -> bool {
        self.people.pass(now, grtt_ns) | self.bulk.pass(now, grtt_ns)
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

    const RTT_NS: u64 = 200_000;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(10_000_000 + micros * 1_000)
    }

    /// All of 500 ask for one loss, and the scouts for those after it.
    fn common(controller: &mut Controller, now: Timestamp) -> u64 {
        for askers in 1..=500 {
            controller.asked(now, (askers, now), RTT_NS);
        }
        close(controller, now, 500, true);
        controller.nanos()
    }

    fn close(controller: &mut Controller, until: Timestamp, askers: usize, is_common: bool) {
        let over = Over {
            askers,
            is_common,
            until,
        };
        controller.closed(until, over, 500, RTT_NS);
    }

    #[test]
    fn doubles_on_duplicates_and_halves_down_to_a_round_trip() {
        let mut controller = Controller::new(Backoff::Adaptive);
        assert_eq!(common(&mut controller, at(0)), RTT_NS, "once for each loss");
        assert_eq!(common(&mut controller, at(100)), RTT_NS, "not heeded yet");
        assert_eq!(common(&mut controller, at(1_000)), 2 * RTT_NS);
        assert_eq!(common(&mut controller, at(2_000)), 4 * RTT_NS);
        for i in 1..=u64::from(QUIET_EVENTS) {
            close(&mut controller, at(3_000 + i), 1, false);
            close(&mut controller, at(3_000 + i), 1, false);
        }
        assert_eq!(controller.nanos(), 2 * RTT_NS, "one request, one loss");
        controller.pass(at(2_000).plus_nanos(QUIET_NS), RTT_NS);
        controller.pass(at(2_000).plus_nanos(2 * QUIET_NS), RTT_NS);
        assert_eq!(controller.nanos(), RTT_NS);
        controller.pass(at(2_000).plus_nanos(TRUST_NS), RTT_NS);
        assert_eq!(controller.nanos(), 0);
    }

    #[test]
    fn is_given_up_when_as_many_have_waited_as_a_common_loss_would_bring() {
        let mut controller = Controller::new(Backoff::Adaptive);
        common(&mut controller, at(0));
        for i in 1..500 {
            close(&mut controller, at(i), 1, false);
        }
        close(&mut controller, at(500), 8, true);
        for i in 501..1_000 {
            close(&mut controller, at(i), 1, false);
        }
        assert_eq!(controller.nanos(), RTT_NS, "a common loss begins it anew");
        close(&mut controller, at(1_000), 1, false);
        assert_eq!(controller.nanos(), 0);
    }

    #[test]
    fn few_duplicates_change_nothing_and_keep_what_there_is() {
        let mut controller = Controller::new(Backoff::Adaptive);
        let now = at(0);
        for askers in 1..=NACKS_PER_EVENT_MAX {
            assert!(!controller.asked(now, (askers, now), RTT_NS));
        }
        assert!(!controller.is_raised());
        common(&mut controller, now);
        common(&mut controller, at(1_000));
        for i in 0..90 {
            close(&mut controller, at(2_000 + i), QUIET_ASKS + 1, false);
        }
        assert_eq!(controller.nanos(), 2 * RTT_NS);
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

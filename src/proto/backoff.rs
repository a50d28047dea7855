//! How long a receiver waits before it asks, so that not all ask at once: the source's choice, and the receiver's draw.

use std::time::Duration;

use crate::rng::Rng;
use crate::time::Timestamp;
use crate::wire::QuantDuration;

use super::tuning::{BACKOFF_MAX_NS, Backoff, NACKS_PER_EVENT_MAX, QUIET_EVENTS, QUIET_NS};

/// The back-off that a source advertises, learnt from how many asked for the same loss (R-BACK-3; after PGM's
/// NAK_BO_IVL, RFC 3208 section 15.2, but down to zero: on a wired LAN most losses are one receiver's own).
#[derive(Clone, Copy, Debug)]
pub(super) struct Controller {
    backoff: Backoff,
    nanos: u64,
    quiet: u8,
    quiet_until: Timestamp,
    /// When a loss was last common, or the back-off was halved.
    common: Timestamp,
    /// When it was raised last.
    raised: Timestamp,
}

impl Controller {
    pub(super) const fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            nanos: 0,
            quiet: 0,
            quiet_until: Timestamp::ZERO,
            common: Timestamp::ZERO,
            raised: Timestamp::ZERO,
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

    /// So many have asked for one loss by now; whether that raised the back-off. Once for each loss: exactly when
    /// the count passes the bound.
    pub(super) fn asked(&mut self, now: Timestamp, askers: usize, grtt_ns: u64) -> bool {
        let is_many = askers == NACKS_PER_EVENT_MAX + 1 && self.backoff == Backoff::Adaptive;
        let is_raised = is_many && now >= self.raised.plus_nanos(2 * grtt_ns);
        if is_raised {
            self.nanos = (self.nanos * 2).max(grtt_ns).min(BACKOFF_MAX_NS);
            self.raised = now;
            self.common = now;
            self.quiet = 0;
        }
        is_raised
    }

    /// A loss is over that `askers` asked for, `until` a moment ago. Losses that one request told of are one here.
    pub(super) fn closed(&mut self, now: Timestamp, askers: usize, until: Timestamp) {
        if askers > 1 {
            self.quiet = 0;
            self.common = now;
            return;
        }
        if until == self.quiet_until {
            return;
        }
        self.quiet_until = until;
        self.quiet += 1;
        if self.quiet >= QUIET_EVENTS {
            self.halve(now);
        }
    }

    /// Time passes: quiet, too, is a reason to halve.
    pub(super) fn pass(&mut self, now: Timestamp) {
        if self.nanos > 0 && now.nanos_since(self.common) >= QUIET_NS {
            self.halve(now);
        }
    }

    fn halve(&mut self, now: Timestamp) {
        self.quiet = 0;
        self.common = now;
        self.nanos /= 2;
        // Less than a round trip suppresses nothing any more.
        if self.nanos < super::tuning::GRTT_FLOOR_NS / 2 {
            self.nanos = 0;
        }
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

    #[test]
    fn doubles_on_duplicates_and_halves_when_quiet() {
        let mut controller = Controller::new(Backoff::Adaptive);
        let mut now = Timestamp::from_nanos(10_000_000);
        let common = |controller: &mut Controller, now: &mut Timestamp| {
            *now = now.plus_nanos(10_000_000);
            for askers in 1..=500 {
                controller.asked(*now, askers, RTT_NS);
            }
            controller.closed(*now, 500, *now);
            controller.nanos()
        };
        assert_eq!(
            common(&mut controller, &mut now),
            RTT_NS,
            "once for each loss"
        );
        assert_eq!(common(&mut controller, &mut now), 2 * RTT_NS);
        for i in 1..=4 * u64::from(QUIET_EVENTS) {
            controller.closed(now, 1, now.plus_nanos(i));
            controller.closed(now, 1, now.plus_nanos(i));
        }
        assert_eq!(controller.nanos(), 0);
        assert_eq!(common(&mut controller, &mut now), RTT_NS);
        controller.pass(now.plus_nanos(QUIET_NS));
        assert_eq!(controller.nanos(), RTT_NS / 2);
    }

    #[test]
    fn few_duplicates_change_nothing_and_keep_what_there_is() {
        let mut controller = Controller::new(Backoff::Adaptive);
        let now = Timestamp::from_nanos(10_000_000);
        for askers in 1..=NACKS_PER_EVENT_MAX {
            assert!(!controller.asked(now, askers, RTT_NS));
        }
        assert!(!controller.is_raised());
        assert!(controller.asked(now, NACKS_PER_EVENT_MAX + 1, RTT_NS));
        for _ in 0..100 {
            controller.closed(now, 2, now);
        }
        assert_eq!(controller.nanos(), RTT_NS);
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

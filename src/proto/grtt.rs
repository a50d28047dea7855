//! The group's round-trip time, as a source reckons it from the clocks that come back to it.

use crate::time::Timestamp;
use crate::wire::{Echo, QuantDuration};
use std::time::Duration;

/// What a source assumes before the first echo: five times a busy LAN's round trip.
const INITIAL_NS: u64 = 1_000_000;
/// A LAN round trip through two desktops is rarely shorter; below it timers only make noise.
const FLOOR_NS: u64 = 100_000;
/// Longer than this is a workstation that slept, not a network.
const CAP_NS: u64 = 1_000_000_000;

/// How many times the present value one echo may claim.
const RISE_MAX: u64 = 4;

/// Greatest round-trip time of the group: rises quickly, falls slowly (as RFC 5740 section 5.5.1).
#[derive(Clone, Debug)]
pub(super) struct Grtt {
    nanos: u64,
}

impl Grtt {
    pub(super) const fn new() -> Self {
        Self { nanos: INITIAL_NS }
    }

    pub(super) const fn nanos(&self) -> u64 {
        self.nanos
    }

    /// The value to advertise (R-GRTT-3).
    pub(super) fn quantized(&self) -> QuantDuration {
        QuantDuration::at_least(Duration::from_nanos(self.nanos))
    }

    /// Takes an echo in (R-GRTT-2). Whatever it says, the result stays between the floor and the cap.
    pub(super) fn observe(&mut self, now: Timestamp, echo: Echo) {
        let round_us = now.as_wire_micros().wrapping_sub(echo.clock_us);
        let Some(path_us) = round_us.checked_sub(echo.held_us) else {
            return;
        };
        // One echo alone moves it little, whatever it claims.
        let sample = (u64::from(path_us) * 1_000)
            .clamp(FLOOR_NS, CAP_NS)
            .min(self.nanos * RISE_MAX);
        self.nanos = if sample > self.nanos {
            u64::midpoint(self.nanos, sample)
        } else {
            self.nanos - (self.nanos - sample) / 16
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_path_and_survives_nonsense() {
        let mut grtt = Grtt::new();
        let now = Timestamp::from_nanos(5_000_000_000);
        for _ in 0..200 {
            grtt.observe(
                now,
                Echo {
                    clock_us: 5_000_000 - 300,
                    held_us: 100,
                },
            );
        }
        assert!(
            (200_000..250_000).contains(&grtt.nanos()),
            "{}",
            grtt.nanos()
        );
        grtt.observe(
            now,
            Echo {
                clock_us: 0,
                held_us: u32::MAX - 1,
            },
        );
        assert!(
            grtt.nanos() < 250_000,
            "held longer than it travelled: ignored"
        );
        for _ in 0..100 {
            grtt.observe(
                now,
                Echo {
                    clock_us: 5_000_001,
                    held_us: 0,
                },
            );
        }
        assert!(grtt.nanos() <= CAP_NS);
    }
}

//! The group's round-trip time, as a source reckons it from the clocks that come back to it.

use crate::time::Timestamp;
use crate::wire::{Echo, QuantDuration};
use std::time::Duration;

use super::tuning::{
    GRTT_CAP_NS as CAP_NS, GRTT_FLOOR_NS as FLOOR_NS, GRTT_INITIAL_NS as INITIAL_NS,
};

/// One sample above moves the estimate up by this many 64ths, one below moves it down by one: it rests where nine
/// samples of ten are below.
const UP_64THS: u64 = 9;

/// Round-trip time that nine echoes of ten stay below. RFC 5740 section 5.5.1 takes the greatest; but then one slow
/// workstation would lengthen every hold-off and every retry on the floor (R-GRTT-2).
#[derive(Clone, Debug)]
pub(super) struct Grtt {
    nanos: u64,
    taken: u64,
}

impl Grtt {
    pub(super) const fn new() -> Self {
        Self {
            nanos: INITIAL_NS,
            taken: 0,
        }
    }

    pub(super) const fn nanos(&self) -> u64 {
        self.nanos
    }

    /// The value to advertise (R-GRTT-3).
    pub(super) fn quantized(&self) -> QuantDuration {
        QuantDuration::at_least(Duration::from_nanos(self.nanos))
    }

    /// How many echoes have been taken in: who had its last one taken at which count.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes an echo in (R-GRTT-2). Whatever it says, the result stays between the floor and the cap.
    pub(super) fn observe(&mut self, now: Timestamp, echo: Echo) {
        let round_us = now.as_wire_micros().wrapping_sub(echo.clock_us);
        let Some(path_us) = round_us.checked_sub(echo.held_us) else {
            return;
        };
        self.taken += 1;
        let sample = u64::from(path_us) * 1_000;
        let step = self.nanos / 64;
        // One echo alone moves it little, whatever it claims.
        let moved = if sample > self.nanos {
            self.nanos + UP_64THS * step
        } else {
            self.nanos - step
        };
        self.nanos = moved.clamp(FLOOR_NS, CAP_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_nanos(5_000_000_000);

    fn echo(path_us: u32) -> Echo {
        Echo {
            clock_us: 5_000_000 - path_us - 100,
            held_us: 100,
        }
    }

    #[test]
    fn follows_the_path_and_survives_nonsense() {
        let mut grtt = Grtt::new();
        for _ in 0..200 {
            grtt.observe(NOW, echo(200));
        }
        assert!(
            (190_000..240_000).contains(&grtt.nanos()),
            "{}",
            grtt.nanos()
        );
        grtt.observe(
            NOW,
            Echo {
                clock_us: 0,
                held_us: u32::MAX - 1,
            },
        );
        assert!(
            grtt.nanos() < 240_000,
            "held longer than it travelled: ignored"
        );
        for _ in 0..100 {
            grtt.observe(
                NOW,
                Echo {
                    clock_us: 5_000_001,
                    held_us: 0,
                },
            );
        }
        assert_eq!(grtt.nanos(), CAP_NS);
    }

    #[test]
    fn one_slow_station_of_twenty_does_not_move_it() {
        let mut grtt = Grtt::new();
        for round in 0..2_000u32 {
            grtt.observe(
                NOW,
                echo(if round.is_multiple_of(20) {
                    400_000
                } else {
                    200
                }),
            );
        }
        assert!(grtt.nanos() < 350_000, "{}", grtt.nanos());
    }
}

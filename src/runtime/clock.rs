//! The only clock: everything above and below is told the time.

use std::time::{Duration, Instant, SystemTime};

use crate::time::{Timestamp, saturating_nanos};

/// Monotonic time since the program's start, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
}

/// The present, read once a turn.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Since the clock's zero.
    pub now: Timestamp,
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
}

impl Moment {
    /// What the wall clock showed at the clock's zero, had it not been set since.
    pub const fn wall_zero_ns(self) -> u64 {
        self.wall_ns.saturating_sub(self.now.as_nanos())
    }
}

impl Clock {
    /// Starts a clock. Clones share its zero, so their timestamps can be compared.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the clock is read"
    )]
    pub fn start() -> Self {
        // Zero is a little in the past, so that no reading is zero.
        let zero = Instant::now();
        Self {
            zero: zero.checked_sub(Duration::from_nanos(1)).unwrap_or(zero),
        }
    }

    /// The present.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the clock is read"
    )]
    pub fn read(&self) -> Moment {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Moment {
            now: self.now(),
            wall_ns: saturating_nanos(wall),
        }
    }

    /// What this machine's monotonic clock, which all its processes read, showed at zero, nanoseconds; `None` where the
    /// system has none. Two readings, one after the other: good to a microsecond, unless something comes between.
    #[cfg(unix)]
    pub fn zero_on_machine(&self) -> Option<u64> {
        use nix::time::{ClockId, clock_gettime};
        // The shortest of a few: nothing came between.
        let reading = |_| {
            let before = self.now();
            let machine = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
            let took_ns = self.now().nanos_since(before);
            let machine_ns = saturating_nanos(Duration::from(machine));
            Some((
                took_ns,
                machine_ns.checked_sub(before.as_nanos() + took_ns / 2)?,
            ))
        };
        (0..16)
            .filter_map(reading)
            .min()
            .map(|(_, zero_ns)| zero_ns)
    }

    /// What this machine's monotonic clock showed at zero: not told here.
    #[cfg(not(unix))]
    pub fn zero_on_machine(&self) -> Option<u64> {
        None
    }

    /// The present, without the wall clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the clock is read"
    )]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_nanos(saturating_nanos(Instant::now().duration_since(self.zero)))
    }
}

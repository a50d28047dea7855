//! The only notion of time in the core: nanoseconds since a zero that the caller chose.
//!
//! `std::time::Instant` cannot be built at zero and cannot be replayed, so it stays in `runtime`.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment, in nanoseconds since the caller's zero. Never goes backwards within one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The caller's zero.
    pub const ZERO: Self = Self(0);
    /// Later than anything that happens: "never" for a deadline.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// A moment `nanos` after the caller's zero.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the caller's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds since the caller's zero, truncated to 32 bits: the clock that travels in heartbeats (R-GRTT-1).
    pub fn as_wire_micros(self) -> u32 {
        u32::try_from(self.0 / 1_000 % (1 << 32)).unwrap_or(0)
    }

    /// Nanoseconds from `earlier` to `self`, zero when `earlier` is later.
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `self` moved `nanos` later, stopping at [`Timestamp::FAR_FUTURE`].
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        self.plus_nanos(saturating_nanos(rhs))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09} s",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

/// A duration in nanoseconds, capped at 584 years.
pub fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let late = Timestamp::from_nanos(u64::MAX - 1);
        assert_eq!(late + Duration::from_secs(1), Timestamp::FAR_FUTURE);
        assert_eq!(Timestamp::ZERO.nanos_since(late), 0);
        assert_eq!(
            Timestamp::from_nanos(1 << 43).as_wire_micros(),
            u32::try_from((1u64 << 43) / 1_000 % (1 << 32)).unwrap()
        );
    }
}

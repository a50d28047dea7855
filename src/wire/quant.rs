//! One byte for a duration or a count: eight steps an octave, so within 9.1 % (R-QUANT-1).

use std::time::Duration;

use crate::time::saturating_nanos;

/// 1024 * 2^(i/8), rounded.
const STEPS: [u64; 8] = [1024, 1117, 1218, 1328, 1448, 1579, 1722, 1878];

/// A duration in one byte: 0 is exactly zero, then 1 us to 60 minutes in steps of an eighth of an octave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuantDuration(pub u8);

impl QuantDuration {
    /// The smallest value not below `duration`; the largest there is, where none is.
    pub fn at_least(duration: Duration) -> Self {
        Self(ceil(saturating_nanos(duration).div_ceil(1_000)))
    }

    /// The largest value not above `duration`.
    pub fn at_most(duration: Duration) -> Self {
        Self(floor(saturating_nanos(duration) / 1_000))
    }

    /// What it stands for, in nanoseconds.
    pub const fn nanos(self) -> u64 {
        value(self.0) * 1_000
    }
}

/// A count in one byte: 0 is exactly zero, then 1 to 3.6 billion in steps of an eighth of an octave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuantCount(pub u8);

impl QuantCount {
    /// The smallest value not below `count`.
    pub fn at_least(count: u64) -> Self {
        Self(ceil(count))
    }

    /// What it stands for.
    pub const fn count(self) -> u64 {
        value(self.0)
    }
}

const fn value(code: u8) -> u64 {
    match code {
        0 => 0,
        code => {
            let step = (code - 1) as usize;
            (STEPS[step % 8] << (step / 8)) / 1024
        }
    }
}

/// What each code stands for, in order: every datagram looks one up.
const VALUES: [u64; 256] = {
    let mut values = [0; 256];
    let mut code = 0;
    while code < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let byte = code as u8;
        values[code] = value(byte);
        code += 1;
    }
    values
};

fn ceil(x: u64) -> u8 {
    let below = VALUES.partition_point(|&value| value < x);
    u8::try_from(below).unwrap_or(u8::MAX)
}

fn floor(x: u64) -> u8 {
    let not_above = VALUES.partition_point(|&value| value <= x);
    u8::try_from(not_above.saturating_sub(1)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_roundings_enclose_the_value_within_an_eighth_of_an_octave() {
        for us in [
            1u64,
            2,
            9,
            10,
            99,
            100,
            123,
            1_000,
            7_777,
            1_000_000,
            3_000_000_000,
        ] {
            let exact = Duration::from_micros(us);
            let up = QuantDuration::at_least(exact).nanos();
            let down = QuantDuration::at_most(exact).nanos();
            assert!(down <= us * 1_000 && us * 1_000 <= up, "{us}");
            assert!(us < 9 || up <= us * 1_125, "{us}: {up}");
        }
    }

    #[test]
    fn ends_are_exact() {
        assert_eq!(QuantDuration::at_least(Duration::ZERO).nanos(), 0);
        assert_eq!(QuantDuration::at_least(Duration::MAX), QuantDuration(255));
        assert_eq!(QuantCount::at_least(1).count(), 1);
        assert_eq!(QuantCount::at_least(u64::MAX), QuantCount(255));
        assert!((1..=255).all(|code| value(code) >= value(code - 1)));
    }
}

//! The only chance in the core: a generator with a seed from outside.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng};

/// A seeded generator (xoshiro256++, Blackman and Vigna 2019). Same seed, same numbers, on every machine.
#[derive(Clone, Debug)]
pub struct Rng(Xoshiro256PlusPlus);

impl Rng {
    /// A generator whose whole future is `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in 0..n; 0 when n is 0. (Lemire's multiply-shift; its bias of n / 2^64 does not matter for timers.)
    pub fn below(&mut self, n: u64) -> u64 {
        u64::try_from((u128::from(self.bits()) * u128::from(n)) >> 64).unwrap_or(0)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
        (self.bits() >> 11) as f64 * SCALE
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_bounds_and_repeat() {
        let (mut a, mut b) = (Rng::new(1), Rng::new(1));
        for n in 1..1_000 {
            assert!(a.below(n) < n);
            b.below(n);
            let unit = a.unit();
            assert!((0.0..1.0).contains(&unit));
            assert_eq!(unit.to_bits(), b.unit().to_bits());
        }
        assert_eq!(a.below(0), 0);
    }
}

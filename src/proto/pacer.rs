//! Token buckets: one for data and one for repairs, so that neither can starve the other (R-RATE-1).

use crate::time::Timestamp;

use super::config::Rate;

/// A token bucket, kept as the moment at which it would be full again (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    burst_bytes: u64,
    burst_ns: u64,
    full_at: Timestamp,
}

impl Bucket {
    /// A full bucket that refills at `rate` and holds `burst_bytes`.
    pub(super) fn new(rate: Rate, burst_bytes: u64) -> Self {
        Self {
            rate,
            burst_bytes,
            burst_ns: cost_ns(rate, burst_bytes),
            full_at: Timestamp::ZERO,
        }
    }

    /// Whether something may be sent now. One datagram may overdraw it; the debt is waited for afterwards.
    pub(super) fn is_ready(&self, now: Timestamp) -> bool {
        self.ready_at() <= now
    }

    /// When something may be sent next.
    pub(super) fn ready_at(&self) -> Timestamp {
        Timestamp::from_nanos(self.full_at.as_nanos().saturating_sub(self.burst_ns))
    }

    /// When three quarters of the burst are left: what then goes out keeps nobody waiting.
    pub(super) fn spare_at(&self) -> Timestamp {
        Timestamp::from_nanos(self.full_at.as_nanos().saturating_sub(self.burst_ns / 4))
    }

    /// Refills at `rate` from now on; what was spent stays spent.
    pub(super) fn set_rate(&mut self, now: Timestamp, rate: Rate) {
        let owed_ns = u128::from(self.full_at.nanos_since(now)) * u128::from(self.rate.get());
        let owed_ns = u64::try_from(owed_ns / u128::from(rate.get())).unwrap_or(u64::MAX);
        self.full_at = now.plus_nanos(owed_ns);
        self.rate = rate;
        self.burst_ns = cost_ns(rate, self.burst_bytes);
    }

    pub(super) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes `bytes` out.
    pub(super) fn spend(&mut self, now: Timestamp, bytes: usize) {
        self.full_at = self
            .full_at
            .max(now)
            .plus_nanos(cost_ns(self.rate, bytes as u64));
    }
}

fn cost_ns(rate: Rate, bytes: u64) -> u64 {
    bytes.saturating_mul(1_000_000_000) / rate.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_run_rate_holds_and_the_burst_is_bounded() {
        let rate = Rate::try_from(1_000_000).unwrap();
        let mut bucket = Bucket::new(rate, 10_000);
        let mut sent = 0;
        while bucket.is_ready(Timestamp::ZERO) {
            bucket.spend(Timestamp::ZERO, 1_000);
            sent += 1;
        }
        assert_eq!(sent, 11, "ten and the one that overdraws");
        let mut now = Timestamp::ZERO;
        while sent < 1_011 {
            now = bucket.ready_at();
            bucket.spend(now, 1_000);
            sent += 1;
        }
        assert_eq!(now.as_nanos(), 1_000_000_000);
    }

    /// A lower rate let what had been owed go as a burst; a higher one stood still for as long.
    #[test]
    fn another_rate_owes_the_same_bytes() {
        let rate = |bytes| Rate::try_from(bytes).unwrap();
        let now = Timestamp::from_nanos(5_000_000_000);
        let mut bucket = Bucket::new(rate(1_000_000), 10_000);
        bucket.spend(now, 12_000);
        for (bytes, wait_ns) in [
            (500_000, 4_000_000),
            (2_000_000, 1_000_000),
            (1_000_000, 2_000_000),
        ] {
            bucket.set_rate(now, rate(bytes));
            assert_eq!(
                bucket.ready_at(),
                now.plus_nanos(wait_ns),
                "2,000 bytes owed"
            );
        }
        let later = now.plus_nanos(20_000_000);
        bucket.set_rate(later, rate(500_000));
        assert!(bucket.spare_at() <= later, "nothing is owed any more");
    }
}

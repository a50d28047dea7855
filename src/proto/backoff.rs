//! How long a receiver waits before it asks, so that not all ask at once.

use crate::rng::Rng;

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

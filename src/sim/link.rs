//! One direction of a node's cable to the switch, and what can go wrong on it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::rng::Rng;
use crate::time::Timestamp;

/// How datagrams are lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// Not at all.
    None,
    /// Each by itself, with this probability.
    Random(f64),
    /// In bursts: the two-state model of Gilbert (1960) and Elliott (1963).
    Burst {
        /// Probability that a good state turns bad, per datagram.
        enter: f64,
        /// Probability that a bad state turns good, per datagram.
        leave: f64,
        /// Probability of loss while bad.
        loss: f64,
        /// Whether it is bad now.
        is_bad: bool,
    },
    /// As written: true loses the next datagram. Afterwards nothing is lost.
    Script(VecDeque<bool>),
}

impl Loss {
    fn takes(&mut self, rng: &mut Rng) -> bool {
        match self {
            Self::None => false,
            Self::Random(probability) => rng.chance(*probability),
            Self::Burst {
                enter,
                leave,
                loss,
                is_bad,
            } => {
                *is_bad = rng.chance(if *is_bad { 1.0 - *leave } else { *enter });
                *is_bad && rng.chance(*loss)
            }
            Self::Script(script) => script.pop_front().unwrap_or(false),
        }
    }
}

/// One direction of a cable.
#[derive(Clone, Debug)]
pub struct Link {
    /// Time a datagram takes.
    pub latency_ns: u64,
    /// Up to this much more, uniform; order is kept.
    pub jitter_ns: u64,
    /// Bytes a second that it carries; zero: any number. What comes faster waits its turn.
    pub bytes_per_s: u64,
    /// Longest that a datagram waits for its turn: what the queue before the cable has no room for is lost.
    pub queue_ns: u64,
    /// How datagrams are lost.
    pub loss: Loss,
    /// Probability that a datagram comes twice.
    pub duplicate: f64,
    /// Probability that a datagram is overtaken by those behind it.
    pub reorder: f64,
    /// How much later an overtaken datagram comes, at most.
    pub reorder_ns: u64,
    /// Probability that a bit of a datagram is flipped.
    pub corrupt: f64,
    /// Whether the cable is in.
    pub is_up: bool,
    /// Datagrams that did not get through.
    pub dropped: u64,
    /// When the latest datagram went in, and when it comes out: who went in before it, over a quicker cable, does not wait.
    last_entry: Timestamp,
    last_arrival: Timestamp,
    /// When the last datagram in the queue has gone.
    free_at: Timestamp,
}

impl Default for Link {
    /// A quiet gigabit desk: 25 us each way.
    fn default() -> Self {
        Self {
            latency_ns: 25_000,
            jitter_ns: 0,
            bytes_per_s: 0,
            queue_ns: 10_000_000,
            loss: Loss::None,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_ns: 0,
            corrupt: 0.0,
            is_up: true,
            dropped: 0,
            last_entry: Timestamp::ZERO,
            last_arrival: Timestamp::ZERO,
            free_at: Timestamp::ZERO,
        }
    }
}

impl Link {
    /// What arrives, and when, of a datagram of `bytes` that goes in at `now`: nothing, one, or two copies.
    pub(super) fn carry(
        &mut self,
        now: Timestamp,
        bytes: usize,
        rng: &mut Rng,
    ) -> [Option<Copy>; 2] {
        let is_lost = !self.is_up || self.loss.takes(rng);
        let Some(now) = self.queue(now, bytes).filter(|_| !is_lost) else {
            self.dropped += 1;
            return [None, None];
        };
        let comes_twice = self.duplicate > 0.0 && rng.chance(self.duplicate);
        let mut copy = || Copy {
            at: self.arrival(now, rng),
            flipped: self.flipped(bytes, rng),
        };
        [Some(copy()), comes_twice.then(copy)]
    }

    /// What the cable was asked to do to datagrams is over: it is as good as new.
    pub fn heal(&mut self) {
        *self = Self {
            latency_ns: self.latency_ns,
            jitter_ns: self.jitter_ns,
            dropped: self.dropped,
            last_entry: self.last_entry,
            last_arrival: self.last_arrival,
            ..Self::default()
        };
    }

    /// When a datagram that comes at `now` has gone into the cable; `None` when the queue has no room for it.
    fn queue(&mut self, now: Timestamp, bytes: usize) -> Option<Timestamp> {
        if self.bytes_per_s == 0 {
            return Some(now);
        }
        if self.free_at.nanos_since(now) > self.queue_ns {
            return None;
        }
        let takes_ns = bytes as u64 * 1_000_000_000 / self.bytes_per_s;
        self.free_at = self.free_at.max(now).plus_nanos(takes_ns);
        Some(self.free_at)
    }

    fn arrival(&mut self, now: Timestamp, rng: &mut Rng) -> Timestamp {
        let alone = now.plus_nanos(self.latency_ns + rng.below(self.jitter_ns));
        if now < self.last_entry {
            return alone;
        }
        let in_order = alone.max(self.last_arrival);
        if self.reorder > 0.0 && rng.chance(self.reorder) {
            return in_order.plus_nanos(rng.below(self.reorder_ns));
        }
        (self.last_entry, self.last_arrival) = (now, in_order);
        in_order
    }

    fn flipped(&self, bytes: usize, rng: &mut Rng) -> Option<u64> {
        let is_damaged = self.corrupt > 0.0 && rng.chance(self.corrupt) && bytes > 0;
        is_damaged.then(|| rng.below(bytes as u64 * 8))
    }
}

/// A datagram at the far end of a cable.
pub(super) struct Copy {
    pub(super) at: Timestamp,
    /// The bit that the cable flipped.
    flipped: Option<u64>,
}

impl Copy {
    /// What arrived of `datagram`, where that differs.
    pub(super) fn damaged(&self, datagram: &Bytes) -> Option<Bytes> {
        let bit = usize::try_from(self.flipped?).unwrap_or(0);
        let mut bytes = datagram.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Some(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(link: &mut Link, count: u64) -> Vec<Timestamp> {
        let mut rng = Rng::new(3);
        (0..count)
            .flat_map(|i| link.carry(Timestamp::from_nanos(i * 1_000), 8, &mut rng))
            .flatten()
            .map(|copy| copy.at)
            .collect()
    }

    #[test]
    fn faults_come_as_often_as_asked() {
        let mut link = Link {
            loss: Loss::Random(0.1),
            duplicate: 0.05,
            ..Link::default()
        };
        let got = arrivals(&mut link, 20_000).len();
        assert!((18_500..19_300).contains(&got), "{got}");
        let loss = Loss::Burst {
            enter: 0.01,
            leave: 0.1,
            loss: 1.0,
            is_bad: false,
        };
        let mut link = Link {
            loss,
            ..Link::default()
        };
        let lost = 20_000 - arrivals(&mut link, 20_000).len();
        assert!(
            (1_400..2_300).contains(&lost),
            "expected 20,000 / 11: {lost}"
        );
    }

    #[test]
    fn a_slow_cable_carries_what_it_can() {
        let mut link = Link {
            bytes_per_s: 4_000_000,
            ..Link::default()
        };
        let arrivals = arrivals(&mut link, 20_000);
        // 8 bytes take 2 us; 20,000 of them came within 20 ms, and 10 ms more wait in the queue.
        assert!((14_990..15_010).contains(&arrivals.len()), "{arrivals:?}");
        let gaps = arrivals.windows(2).map(|two| two[1].nanos_since(two[0]));
        assert!(gaps.into_iter().all(|gap| gap == 2_000));
        assert_eq!(link.dropped, 20_000 - arrivals.len() as u64);
    }

    #[test]
    fn who_goes_in_earlier_does_not_wait_for_who_was_reckoned_before() {
        let mut link = Link::default();
        let mut rng = Rng::new(1);
        let mut arrival = |at_ns| {
            let [copy, _] = link.carry(Timestamp::from_nanos(at_ns), 8, &mut rng);
            copy.unwrap().at.as_nanos()
        };
        assert_eq!(arrival(2_500_000), 2_525_000);
        assert_eq!(arrival(25_000), 50_000);
        assert_eq!(arrival(2_500_000), 2_525_000);
    }

    #[test]
    fn a_damaged_datagram_differs_in_one_bit() {
        let mut link = Link {
            corrupt: 1.0,
            ..Link::default()
        };
        let datagram = Bytes::from_static(b"datagram");
        let [copy, _] = link.carry(Timestamp::ZERO, datagram.len(), &mut Rng::new(3));
        let damaged = copy.unwrap().damaged(&datagram).unwrap();
        let differ = damaged
            .iter()
            .zip(&datagram)
            .map(|(a, b)| (a ^ b).count_ones());
        assert_eq!(differ.sum::<u32>(), 1);
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let mut link = Link {
            jitter_ns: 50_000,
            ..Link::default()
        };
        assert!(arrivals(&mut link, 5_000).is_sorted());
        let mut link = Link {
            reorder: 0.1,
            reorder_ns: 50_000,
            ..Link::default()
        };
        assert!(!arrivals(&mut link, 5_000).is_sorted());
    }
}

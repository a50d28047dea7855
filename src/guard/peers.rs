//! What is kept of each station that has shown who it is: which numbers of its present life have come, its keys, its trains.

use std::net::SocketAddr;

use crate::keys::{DatagramKey, KeyId, PairKey, PublicKey};
use crate::time::Timestamp;
use crate::wire::SessionId;

use super::OWN_NUMBERS;
use super::budget::Budget;
use super::train::Checked;

/// Trains of a station kept checked: what is on its way at a time, and repairs in between.
pub(super) const TRAINS_MAX: usize = 4;
/// Datagrams by which one may come late: more than thirty of a loop's batches. What is older counts as a replay.
const WINDOW_LEN: u64 = 2_048;
const WORDS: usize = (WINDOW_LEN / 64) as usize + 1;

/// A station that has shown who it is.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) session: SessionId,
    pub(super) key: PublicKey,
    /// The newest moment that it has signed or marked, over all its lives.
    pub(super) newest_ms: u64,
    pub(super) heard: Timestamp,
    /// Where it sends from; another address only after it has been silent here, since whoever was sent something that
    /// others were not could else pass it on and be taken for it.
    pub(super) from: SocketAddr,
    /// When it was last heard from there.
    pub(super) heard_there: Timestamp,
    /// What checking its signatures may cost, if it has no grant.
    pub(super) signatures: Budget,
    /// How often it may begin anew, if it has no grant.
    pub(super) lives: Budget,
    pub(super) seen: Window,
    /// The same of what bore no signature: those who hold the floor's key could push the other one ahead.
    pub(super) seen_unsigned: Window,
    /// The same of its guard's own datagrams.
    pub(super) seen_own: Window,
    /// What its present life seals with, by the floor's keys.
    pub(super) keys: Vec<(KeyId, DatagramKey)>,
    pub(super) trains: Vec<Checked>,
    /// The train to be forgotten next.
    pub(super) oldest_train: usize,
    pub(super) pair: Option<PairKey>,
    /// The address at which it has shown to be (R-ADDR-2).
    pub(super) proved: Option<SocketAddr>,
    /// When it may be asked again.
    pub(super) ask_after: Timestamp,
    /// When it is answered again where we are.
    pub(super) answer_after: Timestamp,
}

/// A station that is not heard at its address for so long may have another one: more than two of a source's slowest heartbeats.
const SILENT_THERE_NS: u64 = 3_000_000_000;

impl Peer {
    /// It was heard from `from`, and nobody else can have written that.
    pub(super) fn was_at(&mut self, now: Timestamp, from: SocketAddr) {
        if self.from == from || now.nanos_since(self.heard_there) >= SILENT_THERE_NS {
            (self.from, self.heard_there) = (from, now);
        }
    }

    /// It has begun another life, or has another key: nothing of the one before counts but what it may cost others.
    pub(super) fn begin_anew(&mut self, new: Self) {
        let before = std::mem::replace(self, new);
        self.signatures = before.signatures;
        self.lives = before.lives;
        self.ask_after = before.ask_after;
        self.answer_after = before.answer_after;
        if self.key == before.key {
            self.newest_ms = before.newest_ms;
            self.pair = before.pair;
        }
    }

    /// The window of a number, of the guard's own datagrams or the station's, and its place there.
    pub(super) fn window(&mut self, number: u64) -> (&mut Window, u64) {
        match number.checked_sub(OWN_NUMBERS) {
            Some(own) => (&mut self.seen_own, own),
            None => (&mut self.seen, number),
        }
    }

    pub(super) fn new(
        session: SessionId,
        key: PublicKey,
        now: Timestamp,
        from: SocketAddr,
    ) -> Self {
        Self {
            session,
            key,
            newest_ms: 0,
            heard: now,
            from,
            heard_there: now,
            signatures: Budget::default(),
            lives: Budget::default(),
            seen: Window::default(),
            seen_unsigned: Window::default(),
            seen_own: Window::default(),
            keys: Vec::new(),
            trains: Vec::new(),
            oldest_train: 0,
            pair: None,
            proved: None,
            ask_after: now,
            answer_after: now,
        }
    }
}

/// Which numbers have come: a window that slides with the highest (R-PROOF-3, RFC 6479).
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    /// One after the highest.
    end: u64,
    bits: Box<[u64]>,
}

impl Window {
    /// Whether a number is new.
    pub(super) fn is_new(&self, number: u64) -> bool {
        if number >= self.end {
            return true;
        }
        self.end - number <= WINDOW_LEN && self.bits[word(number)] >> (number % 64) & 1 == 0
    }

    /// It has come.
    pub(super) fn mark(&mut self, number: u64) {
        if self.bits.is_empty() {
            self.bits = vec![0; WORDS].into();
        }
        if number >= self.end {
            // One word more than the window is long, so that what is cleared is never looked at.
            let (first, last) = (self.end.div_ceil(64), number / 64);
            if last >= first + WORDS as u64 {
                self.bits.fill(0);
            } else {
                (first..=last).for_each(|at| self.bits[word(at * 64)] = 0);
            }
            self.end = number + 1;
        }
        self.bits[word(number)] |= 1 << (number % 64);
    }
}

fn word(number: u64) -> usize {
    usize::try_from(number / 64 % WORDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Goal: a number passes once, whatever the order, and what is too old never. Method: beside a list of all that have come.
    #[test]
    fn a_number_passes_once() {
        let mut rng = Rng::new(5);
        for _ in 0..50 {
            let mut window = Window::default();
            let mut came = std::collections::BTreeSet::new();
            let mut end = 0_u64;
            for _ in 0..5_000 {
                let number = match rng.below(100) {
                    0 => end + rng.below(5_000),
                    1..=60 => end,
                    _ => (end + 2).saturating_sub(rng.below(2_200)),
                };
                let is_new = !came.contains(&number) && end.saturating_sub(number) <= WINDOW_LEN;
                assert_eq!(window.is_new(number), is_new, "{number} of {end}");
                if is_new {
                    window.mark(number);
                    came.insert(number);
                    end = end.max(number + 1);
                }
            }
        }
    }

    #[test]
    fn the_last_number_there_is_harms_nothing() {
        let mut window = Window::default();
        window.mark(u64::MAX - 1);
        assert!(!window.is_new(u64::MAX - 1) && !window.is_new(0) && window.is_new(u64::MAX - 2));
    }
}

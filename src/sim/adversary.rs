//! Somebody on the floor who has all that a workstation has, hears every datagram, can send from any address, and means ill.

use bytes::Bytes;

use crate::guard::{Guard, Verdicts};
use crate::notice::{Notice, NoticeId};
use crate::proto::{Config, Destination, Join, TransmitBatch};
use crate::rng::Rng;
use crate::station::{Station, StationConfig};
use crate::time::Timestamp;
use crate::wire::{GroupId, Lane, SessionId, SourceId, Status};

use super::{EPOCH_NS, Network, NodeId};

/// Datagrams that it remembers: those of the last second or so; older ones make room by chance, so that some stay long.
const HEARD_MAX: usize = 512;
/// What it sends at a time at most.
const ACTS_MAX: u64 = 40;

/// What it remembers.
pub(super) struct Adversary {
    rng: Rng,
    heard: Vec<(NodeId, Destination, Bytes)>,
    lives: u64,
}

impl Adversary {
    pub(super) const fn new(rng: Rng) -> Self {
        Self {
            rng,
            heard: Vec::new(),
            lives: 0,
        }
    }

    /// A datagram passes the switch.
    pub(super) fn overhears(&mut self, from: NodeId, to: Destination, datagram: &Bytes) {
        let heard = (from, to, datagram.clone());
        if self.heard.len() < HEARD_MAX {
            self.heard.push(heard);
        } else {
            let place = self.pick(HEARD_MAX);
            self.heard[place] = heard;
        }
    }

    fn pick(&mut self, len: usize) -> usize {
        usize::try_from(self.rng.below(len as u64)).unwrap_or(0)
    }

    /// One of the datagrams heard, as it was or changed a little.
    fn again(&mut self) -> Option<(NodeId, Destination, Bytes)> {
        if self.heard.is_empty() {
            return None;
        }
        let place = self.pick(self.heard.len());
        let (from, to, datagram) = self.heard[place].clone();
        if self.rng.chance(0.5) {
            return Some((from, to, datagram));
        }
        let mut bytes = datagram.to_vec();
        match self.rng.below(4) {
            0 => {
                let len = self.pick(bytes.len());
                bytes.truncate(len);
            }
            1 => bytes.extend((0..self.rng.below(100)).map(|_| 0)),
            // One's head and another's body.
            2 => {
                let other = self.pick(self.heard.len());
                let other = &self.heard[other].2;
                let cut = 32.min(bytes.len()).min(other.len());
                bytes.truncate(cut);
                bytes.extend_from_slice(&other[cut..]);
            }
            _ => {
                for _ in 0..=self.rng.below(8) {
                    let (place, bit) = (self.pick(bytes.len()), self.rng.below(8));
                    bytes[place] ^= 1 << bit;
                }
            }
        }
        Some((from, to, bytes.into()))
    }
}

impl Network {
    /// Lets somebody onto a protected floor who means ill; `seed` decides all that it does.
    pub fn let_in_adversary(&mut self, seed: u64) {
        self.adversary = Some(Adversary::new(Rng::new(seed)));
    }

    /// Lets the adversary act: it repeats, changes and delays what it has heard, from its sender's address or another, and
    /// publishes in a source's name.
    pub fn let_adversary_act(&mut self, groups: &[GroupId], name: &str) {
        let Some(mut adversary) = self.adversary.take() else {
            return;
        };
        for _ in 0..adversary.rng.below(ACTS_MAX) {
            if let Some((from, to, datagram)) = adversary.again() {
                let others = self.nodes.len();
                let from = if adversary.rng.chance(0.5) {
                    from
                } else {
                    NodeId(adversary.pick(others))
                };
                self.send(from, to, &datagram);
            }
        }
        if adversary.rng.chance(0.3) {
            adversary.lives += 1;
            let at = NodeId(adversary.pick(self.nodes.len()));
            for (to, datagram) in self.forge(&mut adversary, groups, name) {
                self.send(at, to, &datagram);
            }
        }
        self.adversary = Some(adversary);
    }

    /// A whole program with a workstation's keys and a source's name, and what it would send.
    fn forge(
        &self,
        adversary: &mut Adversary,
        groups: &[GroupId],
        name: &str,
    ) -> Vec<(Destination, Vec<u8>)> {
        let Some(keys) = &self.keys else {
            return Vec::new();
        };
        let credentials = keys.floor.workstation("adversary");
        let source = SourceId::of(Self::floor(), name);
        let session = SessionId(adversary.rng.bits());
        let mut endpoint = Config::new(Self::floor(), source, session);
        let verdicts = Verdicts::default();
        let Ok(guard) = Guard::new(credentials, &mut endpoint, EPOCH_NS, verdicts) else {
            return Vec::new();
        };
        let config = StationConfig {
            endpoint,
            name: name.to_owned(),
            is_workstation: adversary.rng.chance(0.5),
            groups: groups.to_vec(),
            join: Join::Trail,
            remember: crate::notice::REMEMBER_RECOMMENDED,
            listed: Default::default(),
        };
        let seed = adversary.rng.bits();
        let mut station = Station::new(config, seed, self.now).guarded(guard);
        let notice = Notice {
            id: NoticeId(adversary.rng.bits()),
            from: name.into(),
            sent_ns: EPOCH_NS + self.now.as_nanos(),
            expires_ns: None,
            confirm: false,
            status: Status::Actual,
            text: "evacuate".into(),
        };
        let lane = Lane::ALL[adversary.pick(3)];
        let _ = station.broadcast(self.now, groups, lane, &notice, None);
        sent(&mut station, self.now)
    }
}

fn sent(station: &mut Station, now: Timestamp) -> Vec<(Destination, Vec<u8>)> {
    /// Its grant would be told for ever; it has none, but a bound costs nothing.
    const DATAGRAMS_MAX: usize = 64;
    let mut batch = TransmitBatch::new(16);
    let mut datagrams = Vec::new();
    while datagrams.len() < DATAGRAMS_MAX && station.poll_transmit(now, &mut batch) {
        datagrams.extend(batch.iter().map(|(to, datagram)| (to, datagram.to_vec())));
        batch.clear();
    }
    datagrams
}

//! Floors drawn from a seed: every size, rate and probability of every fault. First everything goes wrong that may go
//! wrong, and what receivers are told must be true all the same; then the cables heal, and everything must arrive.

use std::time::Duration;

use crate::guard::DATAGRAM_BYTES_MIN;
use crate::proto::{
    Backoff, Config, DatagramBytes, Fec, Flow, Join, Percent, SendWindowLen, Terms,
};
use crate::rng::Rng;
use crate::wire::{GroupId, Lane};

use super::{Link, Loss, Network, NodeId, NodeSpec};

/// Faults go on for this long at most.
const TROUBLE_NS: u64 = 3_000_000_000;
/// Time for repairs, once the cables have healed: many times the longest wait between two NACKs.
const CALM: Duration = Duration::from_secs(25);
/// One seed in so many is a floor of 500.
const LARGE_EVERY: u64 = 60;
/// One pair of seeds in so many is a protected floor, with an adversary among its workstations.
const PROTECTED_EVERY: u64 = 3;

/// What became of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was found wrong.
    pub violations: Vec<String>,
    /// The trace's hash: the same whenever the seed is run.
    pub trace: u64,
    /// How many nodes there were.
    pub nodes: usize,
    /// How many notices were delivered, over all receivers.
    pub delivered: u64,
    /// How many sequence numbers were reported lost, over all receivers.
    pub lost: u64,
    /// How many sequence numbers receivers were told were taken back, over all of them.
    pub skipped: u64,
    /// How many datagrams cables dropped.
    pub dropped: u64,
}

/// A floor drawn from a seed.
pub struct Swarm {
    rng: Rng,
    network: Network,
    groups: Vec<GroupId>,
    sources: Vec<NodeId>,
    receivers: Vec<NodeId>,
    is_large: bool,
    /// Nobody starts anew or comes late here, so nothing need be lost for good: every second floor.
    is_steady: bool,
    /// Something happened that may cost a receiver numbers for good.
    may_lose: bool,
}

impl Swarm {
    /// Draws the floor of `seed` and runs it to its end.
    pub fn run(seed: u64) -> Outcome {
        Self::run_with(seed, |_| {})
    }

    /// The same, with a fault planted before it starts.
    pub fn run_with(seed: u64, plant: impl FnOnce(&mut Network)) -> Outcome {
        let mut swarm = Self::draw(seed);
        plant(&mut swarm.network);
        swarm.trouble();
        swarm.calm();
        swarm.outcome()
    }

    /// Whether the floor of `seed` is protected, and has an adversary.
    pub const fn is_protected(seed: u64) -> bool {
        let is_large = seed % LARGE_EVERY == LARGE_EVERY - 1;
        !is_large && seed / 2 % PROTECTED_EVERY == 1
    }

    fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0005_7a2a);
        let is_large = seed % LARGE_EVERY == LARGE_EVERY - 1;
        let is_protected = Self::is_protected(seed);
        let groups = (1..=if is_large { 1 } else { 1 + rng.below(2) })
            .map(|i| GroupId::of(&format!("group-{i}")))
            .collect();
        let mut swarm = Self {
            network: if is_protected {
                Network::protected(seed)
            } else {
                Network::new(seed)
            },
            groups,
            sources: Vec::new(),
            receivers: Vec::new(),
            is_large,
            is_steady: seed.is_multiple_of(2),
            may_lose: false,
            rng,
        };
        let names: Vec<_> = (0..if is_large {
            500
        } else {
            1 + swarm.rng.below(10)
        })
            .map(|i| format!("ws-{i}"))
            .collect();
        let sources = 1 + swarm.rng.below(if is_large { 1 } else { 3 });
        for i in 0..sources {
            swarm.add_source(i, &names);
        }
        for name in &names {
            swarm.add_receiver(name);
        }
        if is_protected {
            swarm.network.let_in_adversary(seed ^ 0x0bad_0bad);
        }
        swarm
    }

    fn add_source(&mut self, index: u64, names: &[String]) {
        let mut spec = NodeSpec::source(format!("source-{index}"));
        spec.listed.insert(self.groups[0], names.to_vec());
        if self.rng.chance(0.5) {
            let bytes: u64 = [256, 300, 1_200, 1_400, 8_000][self.pick(5)];
            let bytes = if self.network.is_protected() {
                bytes.max(DATAGRAM_BYTES_MIN as u64)
            } else {
                bytes
            };
            spec.config.datagram_bytes =
                DatagramBytes::try_from(bytes).unwrap_or(DatagramBytes::RECOMMENDED);
        }
        if self.rng.chance(0.3) {
            let fixed = Duration::from_micros(self.rng.below(20_000));
            spec.config.tuning.backoff = Backoff::Fixed(fixed);
        }
        if self.rng.chance(0.1) {
            spec.config.send_window_len = SendWindowLen::MIN;
        }
        self.draw_tuning(&mut spec.config);
        let id = self.network.add(spec);
        for &group in &self.groups {
            self.network.overhear(id, group);
        }
        self.sources.push(id);
        self.spoil(id, 0.3);
    }

    /// Every way to repair and to keep pace that a floor may choose.
    fn draw_tuning(&mut self, config: &mut Config) {
        let tuning = &mut config.tuning;
        tuning.copies = self.rng.chance(0.6);
        tuning.is_multicast_only = self.rng.chance(0.1);
        tuning.scouts = [0, 2, 8][self.pick(3)];
        tuning.fec = match self.rng.below(5) {
            0 | 1 => Fec::Off,
            2 | 3 => Fec::Measured,
            _ => Fec::Proactive(u8::try_from(self.rng.below(6)).unwrap_or(0)),
        };
        config.flow = match self.rng.below(4) {
            0 | 1 => Flow::Rate,
            2 => Flow::Quorum(Percent::try_from(1 + self.rng.below(100)).unwrap_or(Percent::MAX)),
            _ => Flow::None,
        };
        config.is_rate_adaptive = self.rng.chance(0.3);
    }

    /// How long what is published stays true.
    fn draw_terms(&mut self) -> Terms {
        let mut terms = Terms::default();
        if self.rng.chance(0.1) {
            let ns = self.rng.below(200_000_000);
            terms.expires = Some(self.network.now().plus_nanos(ns));
        }
        if self.rng.chance(0.15) {
            terms.supersedes = Some(self.rng.below(3));
        }
        terms
    }

    fn add_receiver(&mut self, name: &str) {
        let mut groups = vec![self.groups[0]];
        if self.groups.len() > 1 && self.rng.chance(0.5) {
            groups.push(self.groups[1]);
        }
        let mut spec = NodeSpec::workstation(name, &groups);
        // The presences of 500 would be most of what a large floor does.
        spec.is_workstation = !self.is_large;
        spec.join = [Join::Trail, Join::Lead, Join::Last(10)][self.pick(3)];
        let id = self.network.add(spec);
        self.receivers.push(id);
        self.spoil(id, if self.is_large { 0.1 } else { 0.5 });
    }

    /// Gives a node's cables faults, with the given probability each.
    fn spoil(&mut self, id: NodeId, probability: f64) {
        let latency_ns = 1_000 + self.rng.below(500_000);
        for is_up in [true, false] {
            let link = self.draw_link(latency_ns, probability);
            *if is_up {
                self.network.uplink(id)
            } else {
                self.network.downlink(id)
            } = link;
        }
    }

    fn draw_link(&mut self, latency_ns: u64, probability: f64) -> Link {
        let rng = &mut self.rng;
        let mut link = Link::default();
        link.latency_ns = latency_ns;
        if rng.chance(probability) {
            link.jitter_ns = rng.below(latency_ns * 2);
        }
        if rng.chance(probability) {
            link.loss = Loss::Random(rng.unit() * 0.3);
        } else if rng.chance(probability) {
            link.loss = Loss::Burst {
                enter: rng.unit() * 0.02,
                leave: 0.02 + rng.unit() * 0.5,
                loss: 0.3 + rng.unit() * 0.7,
                is_bad: false,
            };
        }
        if rng.chance(probability) {
            link.duplicate = rng.unit() * 0.1;
        }
        if rng.chance(probability) {
            link.reorder = rng.unit() * 0.1;
            link.reorder_ns = rng.below(3_000_000);
        }
        if rng.chance(probability) {
            link.corrupt = rng.unit() * 0.05;
        }
        link
    }

    /// Publishes and breaks things until the trouble is over.
    fn trouble(&mut self) {
        let actions = if self.is_large {
            60
        } else {
            40 + self.rng.below(160)
        };
        let pace_ns = 1_000 + self.rng.below(TROUBLE_NS / actions);
        for _ in 0..actions {
            let wait = self.rng.below(pace_ns * 2);
            self.network.run_for(Duration::from_nanos(wait));
            let groups = self.groups.clone();
            self.network.let_adversary_act(&groups, "source-0");
            match self.rng.below(if self.is_steady { 93 } else { 100 }) {
                0..=84 => self.publish(),
                85..=88 => self.cut(),
                89..=92 => self.mend(),
                93..=94 => self.restart_receiver(),
                95 => self.restart_source(),
                96..=97 => self.stop_receiver(),
                _ => self.join_late(),
            }
        }
    }

    fn publish(&mut self) {
        let source = self.any_of(Self::sources);
        let count = if self.is_large {
            1 + self.rng.below(4)
        } else {
            1 + self.rng.below(20)
        };
        for _ in 0..count {
            let bytes = match self.rng.below(if self.is_large { 60 } else { 100 }) {
                0..=59 => self.rng.below(300),
                60..=89 => self.rng.below(3_000),
                90..=98 => self.rng.below(60_000),
                _ => self.rng.below(1_000_000),
            };
            let lane = Lane::ALL[self.pick(3)];
            let groups: Vec<_> = match self.rng.below(4) {
                0 => self.groups.clone(),
                n => vec![self.groups[usize::from(n == 1) % self.groups.len()]],
            };
            let text = self.text(bytes);
            // A full window is an answer, too: the notice was not sent, and nobody may receive it.
            let terms = self.draw_terms();
            let _ = self
                .network
                .broadcast_under(source, &groups, lane, text, terms);
        }
    }

    fn text(&mut self, bytes: u64) -> String {
        let word = format!("{:016x} ", self.rng.bits());
        let bytes = usize::try_from(bytes).unwrap_or(0);
        word.chars().cycle().take(bytes).collect()
    }

    fn cut(&mut self) {
        let id = self.any_node();
        self.network.downlink(id).is_up = self.rng.chance(0.3);
        self.network.uplink(id).is_up = self.rng.chance(0.3);
    }

    fn mend(&mut self) {
        for id in self.network.nodes() {
            self.network.downlink(id).is_up = true;
            self.network.uplink(id).is_up = true;
        }
    }

    fn restart_receiver(&mut self) {
        let id = self.any_of(Self::receivers);
        let resumes = self.rng.chance(0.7);
        self.may_lose = true;
        self.network.restart(id, resumes);
    }

    fn restart_source(&mut self) {
        let id = self.any_of(Self::sources);
        self.may_lose = true;
        self.network.restart(id, false);
    }

    fn stop_receiver(&mut self) {
        let id = self.any_of(Self::receivers);
        if self.network.is_alive(id) {
            self.network.stop(id);
        } else {
            self.network.go_on(id);
        }
    }

    fn join_late(&mut self) {
        if self.network.nodes().count() < 40 {
            self.may_lose = true;
            self.add_receiver(&format!("late-{}", self.network.nodes().count()));
        }
    }

    /// Everything heals; then everything must arrive.
    fn calm(&mut self) {
        self.network.heal();
        self.network.run_for(Duration::from_millis(1));
        for id in self.receivers.clone() {
            if !self.network.is_alive(id) {
                self.network.go_on(id);
            }
        }
        self.network.run_for(CALM);
        self.network.expect_complete();
        self.network.expect_true_receipts(true);
        let evicted = self.sources.clone().into_iter().any(|id| {
            self.network
                .station(id)
                .is_some_and(|station| station.stats().evicted > 0)
        });
        if !self.may_lose && !evicted && self.network.checker.numbers_lost > 0 {
            let lost = self.network.checker.numbers_lost;
            let now = self.network.now();
            self.network.checker.violation(
                now,
                self.sources[0],
                &format!("{lost} numbers lost without need"),
            );
        }
    }

    fn outcome(mut self) -> Outcome {
        let nodes = self.network.nodes();
        let dropped = nodes
            .map(|id| self.network.uplink(id).dropped + self.network.downlink(id).dropped)
            .sum();
        Outcome {
            violations: self.network.checker.violations().to_vec(),
            trace: self.network.trace_hash(),
            nodes: self.network.nodes().count(),
            delivered: self.network.checker.notices_delivered,
            lost: self.network.checker.numbers_lost,
            skipped: self.network.checker.numbers_skipped,
            dropped,
        }
    }

    fn any_node(&mut self) -> NodeId {
        let nodes = self.network.nodes().count();
        NodeId(self.pick(nodes))
    }

    fn sources(&self) -> &[NodeId] {
        &self.sources
    }

    fn receivers(&self) -> &[NodeId] {
        &self.receivers
    }

    fn any_of(&mut self, of: fn(&Self) -> &[NodeId]) -> NodeId {
        let at = self.pick(of(self).len());
        of(self)[at]
    }

    fn pick(&mut self, len: usize) -> usize {
        usize::try_from(self.rng.below(len as u64)).unwrap_or(0)
    }
}

//! Flow.
#![allow(unused_imports)]
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use floorcast::notice::NoticeId;
use floorcast::proto::*;
use floorcast::sim::{Loss, Network, NodeId, NodeSpec};
use floorcast::station::{Station, StationEvent};
use floorcast::time::Timestamp;
use floorcast::wire::{GroupId, Lane, SourceId, StreamId};

struct Floor {
    network: Network,
    source: NodeId,
    receivers: Vec<NodeId>,
    sent: Vec<NoticeId>,
}
fn group() -> GroupId {
    GroupId::of("all")
}
impl Floor {
    fn with(seed: u64, n: usize, configure: impl FnOnce(&mut NodeSpec)) -> Self {
        let mut network = Network::new(seed);
        network.record_arrivals();
        network.record_news();
        let mut spec = NodeSpec::source("source");
        spec.config.group_size = GroupSize::try_from(n as u64).unwrap();
        configure(&mut spec);
        let source = network.add(spec);
        network.overhear(source, group());
        let receivers = (0..n)
            .map(|i| {
                network.add(NodeSpec {
                    is_workstation: false,
                    ..NodeSpec::workstation(format!("receiver-{i}"), &[group()])
                })
            })
            .collect();
        let mut f = Self {
            network,
            source,
            receivers,
            sent: vec![],
        };
        f.run_us(10);
        f
    }
    fn run_us(&mut self, us: u64) {
        self.network.run_for(Duration::from_micros(us));
    }
    fn publish(&mut self, bytes: usize) -> bool {
        match self
            .network
            .broadcast(self.source, &[group()], Lane::Routine, "x".repeat(bytes))
        {
            Ok(id) => {
                self.sent.push(id);
                true
            }
            Err(_) => false,
        }
    }
    fn fill(&mut self, bytes: usize) {
        while self.publish(bytes) {}
    }
    fn stats(&mut self, n: NodeId) -> Stats {
        self.network.station(n).unwrap().stats()
    }
    fn news(&self) -> Vec<String> {
        let mut out: Vec<String> = vec![];
        for n in &self.network.news {
            let t = n.at.as_nanos() / 1000000;
            let who = |s: &SourceId| {
                self.receivers.iter().position(|_| false).map_or_else(
                    || {
                        (0..self.receivers.len())
                            .find(|i| {
                                SourceId::of(Network::floor(), &format!("receiver-{i}")) == *s
                            })
                            .unwrap()
                    },
                    |x| x,
                )
            };
            match &n.event {
                StationEvent::PaceLeft {
                    station, through, ..
                } => out.push(format!("{t} left {} {through}", who(station))),
                StationEvent::PaceRejoined { station, .. } => {
                    out.push(format!("{t} rejoined {}", who(station)))
                }
                StationEvent::Evicted { station, seqs, .. } => {
                    out.push(format!("{t} evicted {} {seqs}", who(station)))
                }
                StationEvent::PaceTold { is_behind, .. } => {
                    out.push(format!("{t} told {} {is_behind}", n.node.0 - 1))
                }
                StationEvent::Lost { seqs, .. } => {
                    out.push(format!("{t} lost {} {seqs}", n.node.0 - 1))
                }
                StationEvent::SessionStarted { .. } | StationEvent::LossJudged { .. } => {}
                e => out.push(format!("{t} {:?}", e)),
            }
        }
        out
    }
}

#[test]
fn quorum_one() {
    for kind in 0..3 {
        let mut f = Floor::with(1, 20, |s| {
            s.config.flow = Flow::Quorum(Percent::RECOMMENDED);
            s.config.data_rate = Rate::try_from(10_000_000).unwrap();
            s.config.send_window_bytes = SendWindowBytes::try_from(16 << 20).unwrap();
        });
        let slow = f.receivers[7];
        let mut done = 0;
        for ms in 0..6000u64 {
            f.fill(1_200);
            f.run_us(1000);
            if ms == 500 {
                match kind {
                    0 => f.network.stop(slow),
                    1 => f.network.downlink(slow).bytes_per_s = 1_000_000,
                    _ => f.network.downlink(slow).loss = Loss::Random(0.9),
                }
            }
            if ms == 1800 {
                f.network.heal();
                f.network.go_on(slow);
            }
            if ms % 500 == 0 {
                let s = f.stats(f.source).segments_sent;
                println!("{ms}: {} sent {}", kind, s - done);
                done = s;
            }
        }
        f.run_us(8_000_000);
        println!(
            "{kind} {:#?} lost {}",
            f.news(),
            f.network.checker.numbers_lost
        );
        let st = f.stats(f.source);
        println!("{st:?}");
        f.network.expect_complete();
        println!("viol {:?}", f.network.checker.violations());
    }
}
fn quorum(s: &mut NodeSpec) {
    s.config.flow = Flow::Quorum(Percent::RECOMMENDED);
    s.config.data_rate = Rate::try_from(10_000_000).unwrap();
    s.config.send_window_bytes = SendWindowBytes::try_from(16 << 20).unwrap();
}
fn show(f: &mut Floor, label: &str) {
    let news = f.news();
    println!(
        "== {label}: lost {} idle {:?}",
        f.network.checker.numbers_lost,
        news.iter()
            .filter(|n| !n.contains("lost"))
            .collect::<Vec<_>>()
    );
    if let Some(n) = news.iter().find(|n| n.contains("lost")) {
        println!("first lost: {n}");
    }
    let st = f.stats(f.source);
    println!(
        "sent {} repairs {} nacks {} alone {} left {} rej {} evicted {}",
        st.segments_sent,
        st.repairs_sent,
        st.nacks_received,
        st.nacks_alone,
        st.pace_left,
        st.pace_rejoined,
        st.receivers_evicted
    );
}
#[test]
fn paced_publisher() {
    for kind in 0..3 {
        let mut f = Floor::with(1, 20, quorum);
        let slow = f.receivers[7];
        for ms in 0..4000u64 {
            for _ in 0..7 {
                f.publish(1_200);
            }
            f.run_us(1000);
            if ms == 500 {
                match kind {
                    0 => f.network.stop(slow),
                    1 => f.network.downlink(slow).bytes_per_s = 1_000_000,
                    _ => f.network.downlink(slow).loss = Loss::Random(0.9),
                }
            }
            if ms == 2250 {
                f.network.heal();
                f.network.go_on(slow);
            }
        }
        f.run_us(8_000_000);
        show(&mut f, &format!("paced {kind}"));
    }
}
#[test]
fn two_slow() {
    for kind in 0..3 {
        let mut f = Floor::with(1, 20, quorum);
        let mut done = 0;
        for ms in 0..8000u64 {
            f.fill(1_200);
            f.run_us(1000);
            if ms == 500 {
                for i in [7, 8] {
                    let slow = f.receivers[i];
                    match kind {
                        0 => f.network.stop(slow),
                        1 => f.network.downlink(slow).bytes_per_s = 3_000_000,
                        _ => f.network.downlink(slow).loss = Loss::Random(0.5),
                    }
                }
            }
            if ms == 6000 {
                for i in [7, 8] {
                    let slow = f.receivers[i];
                    f.network.heal();
                    f.network.go_on(slow);
                }
            }
            if ms % 500 == 0 {
                let s = f.stats(f.source).segments_sent;
                println!("{ms}: {} sent {}", kind, s - done);
                done = s;
            }
        }
        f.run_us(8_000_000);
        show(&mut f, &format!("two slow {kind}"));
    }
}
/// held shorter than patience
#[test]
fn held_within_patience() {
    for (lane, bytes) in [
        (Lane::Routine, 10),
        (Lane::Routine, 1_200),
        (Lane::Bulk, 10),
        (Lane::Bulk, 1200),
    ] {
        for len in [1_024, 2048] {
            let mut f = Floor::with(1, 20, |s| {
                quorum(s);
                s.config.send_window_len = SendWindowLen::try_from(len).unwrap();
            });
            let mut done = 0;
            for ms in 0..3000u64 {
                while f
                    .network
                    .broadcast(f.source, &[group()], lane, "x".repeat(bytes))
                    .is_ok()
                {}
                f.run_us(1000);
                if ms % 600 == 0 {
                    for i in [7, 8, 9] {
                        let n = f.receivers[i];
                        f.network.downlink(n).is_up = false;
                    }
                }
                if ms % 600 == 300 {
                    f.network.heal();
                }
                if ms % 500 == 0 {
                    let s = f.stats(f.source).segments_sent;
                    print!("{} ", s - done);
                    done = s;
                }
            }
            f.run_us(8_000_000);
            show(&mut f, &format!("held {lane:?} {bytes} {len}"));
        }
    }
}
/// idle, then burst
#[test]
fn idle_then_burst() {
    for (g, len) in [(20, 1024), (5000, 65_536), (20_000, 65_536)] {
        let mut f = Floor::with(1, 20, |s| {
            quorum(s);
            s.config.group_size = GroupSize::try_from(g).unwrap();
            s.config.send_window_len = SendWindowLen::try_from(len).unwrap();
        });
        for _ in 0..5 {
            for ms in 0..100u64 {
                if ms < 20 || g > 20 {
                    f.fill(10);
                }
                f.run_us(1000);
            }
            f.run_us(3_000_000);
        }
        f.run_us(8_000_000);
        show(&mut f, &format!("idle {g}"));
    }
}
/// sustained, large groups: nobody is slow
#[test]
fn large_groups() {
    for flow in [Flow::Quorum(Percent::RECOMMENDED), Flow::Rate] {
        for (g, bytes) in [(5000, 4 << 20), (5000, 64 << 20), (20_000, 64 << 20)] {
            let mut f = Floor::with(1, 5, |s| {
                s.config.flow = flow;
                s.config.group_size = GroupSize::try_from(g).unwrap();
                s.config.send_window_bytes = SendWindowBytes::try_from(bytes).unwrap();
            });
            for _ in 0..6000u64 {
                f.fill(12_000);
                f.run_us(1000);
            }
            f.run_us(8_000_000);
            show(&mut f, &format!("large {flow:?} {g} {bytes}"));
        }
    }
}
#[test]
fn small_window_throughput() {
    for len in [1024, 4096, 16384] {
        for flow in [Flow::Quorum(Percent::RECOMMENDED), Flow::Rate] {
            let mut f = Floor::with(1, 20, |s| {
                quorum(s);
                s.config.flow = flow;
                s.config.send_window_len = SendWindowLen::try_from(len).unwrap();
            });
            for _ in 0..3000u64 {
                f.fill(10);
                f.run_us(1000);
            }
            let s = f.stats(f.source).segments_sent;
            show(&mut f, &format!("small {flow:?} {len}: {s}"));
        }
    }
}
#[test]
fn aimd() {
    for (lossy, loss) in [
        (20, 0.05),
        (3, 0.05),
        (2, 0.05),
        (1, 0.3),
        (20, 0.01),
        (0, 0.0),
    ] {
        let mut f = Floor::with(1, 20, |s| {
            s.config.is_rate_adaptive = true;
            s.config.data_rate = Rate::try_from(8_000_000).unwrap();
        });
        let mut rates = vec![];
        let mut bytes = 0;
        for ms in 0..8000u64 {
            f.fill(1_200);
            f.run_us(1000);
            if ms == 1000 {
                for i in 0..lossy {
                    let n = f.receivers[i];
                    f.network.downlink(n).loss = Loss::Random(loss);
                }
            }
            if ms == 3000 {
                f.network.heal();
            }
            if ms % 100 == 99 {
                let r = f
                    .network
                    .station(f.source)
                    .unwrap()
                    .endpoint()
                    .data_rate()
                    .get();
                let b = f.stats(f.source).segments_sent * 1_290;
                rates.push(format!("{}/{}", r / 1000, (b - bytes) / 100));
                bytes = b;
            }
        }
        f.run_us(8_000_000);
        println!("{lossy} {loss}: {rates:?}");
        show(&mut f, &format!("aimd {lossy}"));
    }
}
#[test]
fn aimd_slow_cables() {
    for n in [20, 3] {
        let mut f = Floor::with(1, 20, |s| {
            s.config.is_rate_adaptive = true;
        });
        let mut rates = vec![];
        let mut bytes = 0;
        for ms in 0..8000u64 {
            f.fill(1_200);
            f.run_us(1000);
            if ms == 1000 {
                for i in 0..n {
                    let n = f.receivers[i];
                    f.network.downlink(n).bytes_per_s = 12_500_000;
                }
            }
            if ms % 100 == 99 {
                let r = f
                    .network
                    .station(f.source)
                    .unwrap()
                    .endpoint()
                    .data_rate()
                    .get();
                let b = f.stats(f.source).segments_sent * 1_290;
                rates.push(format!("{}/{}", r / 1000, (b - bytes) / 100));
                bytes = b;
            }
        }
        f.network.heal();
        f.run_us(8_000_000);
        println!("{n}: {rates:?}");
        show(&mut f, &format!("aimd slow {n}"));
    }
}

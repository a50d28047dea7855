//! What repair has to be ahead of, case by case: each row of the table of targets as a test, in simulated time. One way is
//! 50 us, so the round trip is 100 us.
//!
//! `cargo test --test targets -- --nocapture | grep figure` prints what was measured.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use floorcast::notice::NoticeId;
use floorcast::proto::{Destination, ReceiverAccount, Stats};
use floorcast::sim::{Loss, Network, NodeId, NodeSpec, Trial};
use floorcast::time::Timestamp;
use floorcast::wire::{
    About, DatagramWriter, GroupId, Header, Lane, SeqNo, SeqRange, SessionId, SourceId, StreamId,
};

const ONE_WAY_NS: u64 = 50_000;
const ROUND_TRIP_NS: u64 = 100_000;
/// Time between two messages of a stream: 10,000 a second.
const STREAM_GAP: Duration = Duration::from_micros(100);

/// Lone loser, mid-stream, 500 receivers: p99 at most a round trip and 150 us, counted from when the lost datagram would
/// have come. With copies the next datagram mends it; without, it is asked for.
#[test]
fn a_lone_loser_in_a_stream() {
    for copies in [true, false] {
        let mut floor = Floor::new(500, copies);
        let mut lost = Vec::new();
        for event in 0..200 {
            floor.stream(8);
            let loser = floor.receivers[event * 37 % 500];
            lost.push((loser, floor.lose_one(loser)));
        }
        floor.stream(20);
        let p99 = floor.repair_p99(&lost);
        figure(&format!("lone loser, copies {copies}: p99 ns"), p99);
        assert!(p99 <= ROUND_TRIP_NS + 150_000, "{p99} ns");
    }
}

/// An isolated message lost by one of 500: p99 at most a round trip and 1 ms.
#[test]
fn a_lost_isolated_message() {
    for copies in [true, false] {
        let mut floor = Floor::new(500, copies);
        let mut lost = Vec::new();
        for event in 0..100 {
            floor.run(Duration::from_millis(50));
            let loser = floor.receivers[event * 41 % 500];
            lost.push((loser, floor.lose_one(loser)));
        }
        floor.run(Duration::from_millis(50));
        let p99 = floor.repair_p99(&lost);
        figure(&format!("isolated message, copies {copies}: p99 ns"), p99);
        assert!(p99 <= ROUND_TRIP_NS + 1_000_000, "{p99} ns");
    }
}

/// Ten scattered gaps at one receiver: one round, at most a round trip and 1 ms after the last of them would have come.
#[test]
fn ten_scattered_gaps() {
    for copies in [true, false] {
        let mut floor = Floor::new(500, copies);
        floor.stream(50);
        let loser = floor.receivers[77];
        let mut lost = Vec::new();
        for _ in 0..10 {
            lost.push((loser, floor.lose_one(loser)));
            floor.stream(1);
        }
        floor.stream(20);
        let worst = floor.repairs(&lost).into_iter().max().unwrap_or(u64::MAX);
        figure(&format!("ten gaps, copies {copies}: worst ns"), worst);
        assert!(worst <= ROUND_TRIP_NS + 1_000_000, "{worst} ns");
        assert!(floor.stats().nacks_received <= 10);
    }
}

/// A loss common to everybody, once the back-off has adapted: few NACKs, one multicast repair, two round trips and half a
/// millisecond.
#[test]
fn a_common_loss_after_adaptation() {
    for (receivers, nacks_max) in [(500, 10), (5_000, 20)] {
        let mut floor = Floor::new(receivers, false);
        common_losses(&mut floor, nacks_max, 12, |floor| floor.stream(60));
    }
}

/// The same where forty lone losses and twenty silent seconds lie between two common ones: what was learnt is not
/// forgotten so soon.
#[test]
fn a_common_loss_after_lone_losses_and_silence() {
    let mut floor = Floor::new(500, false);
    let between = |floor: &mut Floor| {
        for at in 0..40 {
            floor.lose_one(floor.receivers[at * 11 % 500]);
            floor.stream(2);
        }
        floor.run(Duration::from_secs(20));
        floor.stream(10);
    };
    common_losses(&mut floor, 10, 6, between);
}

/// A lone loser while scouts go first, mid-stream at 10,000 a second: what the common loss taught costs it the wait for a
/// scout's repair, a round trip and a quarter. Nobody can do without: that a loss is common is known no sooner than a round
/// trip after somebody asked. When as many have waited in vain as would have asked for a common loss, nobody waits.
#[test]
fn a_lone_loser_while_scouts_go_first() {
    let mut floor = Floor::new(500, false);
    for _ in 0..3 {
        floor.stream(60);
        floor.lose_common();
    }
    floor.stream(60);
    let lone = |floor: &mut Floor, events: usize| {
        let mut lost = Vec::new();
        for event in 0..events {
            let loser = floor.receivers[event * 37 % 500];
            lost.push((loser, floor.lose_one(loser)));
            floor.stream(10);
        }
        floor.repair_p99(&lost)
    };
    let waiting = lone(&mut floor, 200);
    figure("lone loser while scouts go first: p99 ns", waiting);
    assert!(waiting <= 5 * ROUND_TRIP_NS / 2 + 150_000, "{waiting} ns");
    lone(&mut floor, 400);
    let after = lone(&mut floor, 200);
    figure("lone loser after 600 more: p99 ns", after);
    assert!(after <= ROUND_TRIP_NS + 150_000, "{after} ns");
}

/// A common loss when every scout has been switched off: one crowd at most, and none after that.
#[test]
fn a_common_loss_without_its_scouts() {
    let mut floor = Floor::new(500, false);
    let mut worst = Vec::new();
    for event in 0..12 {
        floor.stream(60);
        let before = floor.stats();
        floor.lose_common();
        floor.stream(60);
        if event == 4 {
            // Those who asked for the last loss were the scouts.
            let mut asked = BTreeMap::new();
            for account in floor.accounts() {
                asked.insert(account.station, account.nacks);
            }
            floor.lose_common();
            floor.stream(60);
            let scouts: Vec<_> = floor.accounts();
            let scouts = scouts
                .into_iter()
                .filter(|it| it.nacks > asked[&it.station]);
            let scouts: Vec<_> = scouts.map(|it| it.station).collect();
            assert!((1..=10).contains(&scouts.len()), "{}", scouts.len());
            floor.switch_off(&scouts);
        }
        let nacks = floor.stats().nacks_received - before.nacks_received;
        println!("figure | common loss {event}, the scouts die after 4: {nacks} NACKs");
        worst.push(nacks);
    }
    let crowds = worst[5..].iter().filter(|&&nacks| nacks > 20).count();
    assert!(crowds <= 1, "{worst:?}");
}

/// The same where each of the 500 is in a second group, a team of fifty, of the same source: the scouts of ten teams are not
/// those of everybody.
#[test]
fn a_common_loss_to_receivers_of_several_groups() {
    let mut floor = Floor::with_teams(500, false, 10);
    let between = |floor: &mut Floor| {
        for team in 0..10 {
            let team = [GroupId::of(&format!("team-{team}"))];
            let sent = floor
                .network
                .broadcast(floor.source, &team, Lane::Routine, "t".to_owned());
            assert!(sent.is_ok());
            floor.run(Duration::from_millis(2));
        }
        floor.stream(30);
    };
    common_losses(&mut floor, 10, 8, between);
}

/// So many common losses, one after the other; from the third on, what each costs and takes is bounded.
fn common_losses(floor: &mut Floor, nacks_max: u64, events: u64, between: impl Fn(&mut Floor)) {
    let receivers = floor.receivers.len();
    for event in 0..events {
        between(floor);
        let before = floor.stats();
        let lost = floor.lose_common();
        floor.stream(60);
        let after = floor.stats();
        let losers: Vec<_> = floor.receivers.iter().map(|&node| (node, lost)).collect();
        let took = floor.repairs(&losers).into_iter().max().unwrap_or(u64::MAX);
        let nacks = after.nacks_received - before.nacks_received;
        let repairs = after.repairs_sent - before.repairs_sent;
        let multicast = after.repairs_multicast - before.repairs_multicast;
        println!(
            "figure | common to {receivers}, event {event}: {nacks} NACKs, {repairs} repairs, {took} ns"
        );
        // The first two teach the source what the others then spare it.
        if event >= 2 {
            assert_eq!((repairs, multicast), (1, 1));
            assert!(nacks <= nacks_max, "{nacks} NACKs");
            assert!(took <= 2 * ROUND_TRIP_NS + 500_000, "{took} ns");
        }
    }
}

/// Bulk, 1 % independent loss, 500 receivers: at most 1.10 bytes sent for each byte needed. Plain retransmission takes
/// 2.04; ideal parity over blocks of 32 takes 1.097, of 64 1.064.
#[test]
fn bulk_under_independent_loss() {
    let shapes = [
        (6_400, 1_330, 100),
        (2_000, 1_330, 1_000),
        (2_000, 300, 1_000),
        (1_000, 8_000, 1_000),
        (400, 8_000, 5_000),
        (100, 50_000, 20_000),
    ];
    for (messages, bytes, interval_us) in shapes {
        let figures = Trial {
            lane: Lane::Bulk,
            bytes,
            interval: Duration::from_micros(interval_us),
            loss: 0.01,
            ..Trial::new(500, messages, 3)
        }
        .run();
        let sent = figures.bytes_sent as f64 / figures.bytes_needed as f64;
        let label = format!("bulk, 1 %, 500, {bytes} bytes every {interval_us} us");
        figure(&format!("{label}: sent per needed"), format!("{sent:.3}"));
        figure(&format!("{label}: NACKs"), figures.nacks);
        assert_eq!(figures.missing, 0);
        assert!(sent <= 1.10, "{sent}");
    }
}

/// Notices of 300 bytes, 0.1 % loss, 500 receivers: at least 99.9 % of them complete without any NACK; one in two and a
/// half is lost by somebody.
#[test]
fn notices_without_nacks() {
    for interval_us in [300, 500, 1_000, 10_000] {
        let figures = Trial {
            interval: Duration::from_micros(interval_us),
            loss: 0.001,
            ..Trial::new(500, 4_000, 4)
        }
        .run();
        let unasked = figures.unasked as f64 / figures.messages as f64;
        let label = format!("notices every {interval_us} us: complete without NACK");
        figure(&label, format!("{unasked:.5}"));
        assert!(figures.events > 1_000, "{} datagrams lost", figures.events);
        assert_eq!(figures.missing, 0);
        assert!(unasked >= 0.999, "{unasked}");
    }
}

/// The same where a person says two or four things within a millisecond.
#[test]
fn notices_in_twos_and_fours_without_nacks() {
    for together in [2, 4] {
        let mut floor = Floor::new(500, true);
        for node in floor.receivers.clone() {
            floor.network.downlink(node).loss = Loss::Random(0.001);
        }
        let mut asked = 0;
        let rows = 1_500;
        for _ in 0..rows {
            let before = floor.stats().nacks_received;
            floor.stream(together);
            floor.run(Duration::from_millis(5));
            asked += u64::from(floor.stats().nacks_received > before);
        }
        let unasked = 1.0 - asked as f64 / (rows * together) as f64;
        let label = format!("notices, {together} at a time: complete without NACK");
        figure(&label, format!("{unasked:.5}"));
        assert!(unasked >= 0.999, "{unasked}");
    }
}

/// One bad receiver of 500 harms nobody: the last-receiver p99 of the other 499 is within 5 % of that without it, whether
/// it loses 30 %, has stopped, or asks for everything again and again.
#[test]
fn one_bad_receiver_harms_nobody() {
    let quiet = others_p99(|_, _| {}, |_, _, _| {});
    figure("one bad receiver: the others without it, p99 ns", quiet);
    let lossy = |network: &mut Network, node: NodeId| {
        network.downlink(node).loss = Loss::Random(0.3);
    };
    // Nine tenths of what comes; its queue makes it seem 10 ms away.
    let slow = |network: &mut Network, node: NodeId| {
        network.downlink(node).bytes_per_s = 3_000_000;
    };
    let (flooded, stats) = others(|_, _| {}, ask_for_all);
    assert!(
        stats.nacks_refused > 0 && stats.nacks_alone > 0,
        "{stats:?}"
    );
    let cases = [
        ("at 30 % loss", others_p99(lossy, |_, _, _| {})),
        ("stopped", others_p99(Network::stop, |_, _, _| {})),
        (
            "on a cable that is too slow",
            others_p99(slow, |_, _, _| {}),
        ),
        ("asks for everything", flooded),
    ];
    for (name, p99) in cases {
        figure(&format!("one bad receiver, {name}: p99 ns"), p99);
        assert!(
            p99 * 100 <= quiet * 105,
            "{name}: {p99} ns, {quiet} without"
        );
    }
}

/// Bulk, and one of 50 comes late, was away for two seconds, or loses 30 %: what it lacks goes to it alone.
#[test]
fn catching_up_in_bulk_is_a_private_affair() {
    for (name, away, loss) in [("away", true, 0.0), ("at 30 % loss", false, 0.3)] {
        let mut floor = Floor::new(50, true);
        let (bad, other) = (floor.receivers[7], floor.receivers[31]);
        let publish = |floor: &mut Floor, count: usize| {
            for _ in 0..count {
                let text = "x".repeat(1_200);
                let sent = floor
                    .network
                    .broadcast(floor.source, &[group()], Lane::Bulk, text);
                assert!(sent.is_ok());
                floor.run(Duration::from_millis(1));
            }
        };
        publish(&mut floor, 200);
        floor.network.downlink(bad).is_up = !away;
        publish(&mut floor, 2_000);
        floor.network.downlink(bad).is_up = true;
        floor.network.downlink(bad).loss = Loss::Random(loss);
        let before = floor.datagrams(other);
        publish(&mut floor, 1_000);
        floor.run(Duration::from_secs(2));
        let came = floor.datagrams(other) - before;
        figure(&format!("bulk, one {name}: datagrams to another"), came);
        assert!(came < 1_150, "{came} for 1,000");
        let arrived = floor.network.arrivals.iter();
        let to_bad = arrived.filter(|it| it.node == bad);
        // What the floor was set up with, too.
        assert_eq!(to_bad.count(), 3_200 + 30);
    }
}

/// Four thousand messages under 0.1 % loss, and one receiver in trouble; p99 of the last of the others. Of a thousand, one
/// repair that is lost as well, with the ten messages that wait behind it, would be the p99.
fn others_p99(
    trouble: impl FnOnce(&mut Network, NodeId),
    again: impl FnMut(&mut Floor, NodeId, u64),
) -> u64 {
    others(trouble, again).0
}

/// The same, and what the source counted.
fn others(
    trouble: impl FnOnce(&mut Network, NodeId),
    mut again: impl FnMut(&mut Floor, NodeId, u64),
) -> (u64, Stats) {
    let mut floor = Floor::new(500, true);
    floor.stream(50);
    let bad = floor.receivers[250];
    for node in floor.receivers.clone() {
        floor.network.downlink(node).loss = Loss::Random(0.001);
    }
    trouble(&mut floor.network, bad);
    let mut sent = Vec::new();
    for message in 0..4_000 {
        sent.push(floor.publish());
        again(&mut floor, bad, message);
        floor.run(STREAM_GAP);
    }
    floor.run(Duration::from_millis(100));
    let others: Vec<_> = floor
        .receivers
        .iter()
        .copied()
        .filter(|&node| node != bad)
        .collect();
    let arrived = floor.arrived();
    let mut last: Vec<_> = sent
        .iter()
        .map(|sent| {
            let came = others.iter().map(|&node| arrived.get(&(node, sent.id)));
            came.map(|at| at.map_or(u64::MAX, |at| at.nanos_since(sent.at)))
                .max()
                .unwrap_or(0)
        })
        .collect();
    last.sort_unstable();
    (last[last.len() * 99 / 100], floor.stats())
}

/// Ten NACKs for everything that there is, each 100 us.
fn ask_for_all(floor: &mut Floor, bad: NodeId, message: u64) {
    let origin = floor.origin();
    let header = Header {
        key: 0,
        floor: Network::floor(),
        source: SourceId::of(Network::floor(), &format!("receiver-{}", 250)),
        session: SessionId(1),
        number: message,
    };
    let about = About {
        source: origin.0,
        session: origin.1,
        stream: StreamId::new(group(), Lane::Routine),
        echo: None,
    };
    let mut nack = Vec::new();
    let mut writer = DatagramWriter::new(&mut nack, 1_400, &header);
    writer.nack(&about, SeqRange::new(SeqNo::ZERO, SeqNo(message + 50)));
    writer.finish();
    let to = Destination::Unicast(floor.address());
    for _ in 0..10 {
        floor.network.inject(bad, to, &nack);
    }
}

/// A notice that was sent.
#[derive(Clone, Copy)]
struct Sent {
    id: NoticeId,
    at: Timestamp,
}

/// A source that knows how many its receivers are, and receivers that do not announce themselves.
struct Floor {
    network: Network,
    source: NodeId,
    receivers: Vec<NodeId>,
}

impl Floor {
    fn new(receivers: usize, copies: bool) -> Self {
        Self::with_teams(receivers, copies, 0)
    }

    /// The same where each receiver is in one of so many teams, too.
    fn with_teams(receivers: usize, copies: bool, teams: usize) -> Self {
        let mut network = Network::new(receivers as u64);
        network.record_arrivals();
        let names: Vec<_> = (0..receivers).map(|n| format!("receiver-{n}")).collect();
        let mut spec = NodeSpec::source("source");
        spec.listed.insert(group(), names.clone());
        spec.config.tuning.copies = copies;
        let source = network.add(spec);
        let mut nodes = Vec::with_capacity(receivers);
        for (at, name) in names.into_iter().enumerate() {
            let team = (teams > 0).then(|| GroupId::of(&format!("team-{}", at % teams)));
            let groups: Vec<_> = [group()].into_iter().chain(team).collect();
            nodes.push(network.add(NodeSpec {
                is_workstation: false,
                ..NodeSpec::workstation(name, &groups)
            }));
        }
        let receivers = nodes;
        let mut floor = Self {
            network,
            source,
            receivers,
        };
        // The session is known, its round trip is measured, and everybody has reported.
        for _ in 0..30 {
            floor.publish();
            floor.run(Duration::from_millis(100));
        }
        floor
    }

    fn publish(&mut self) -> Sent {
        let at = self.network.now();
        let text = "x".repeat(260);
        let id = self
            .network
            .broadcast(self.source, &[group()], Lane::Routine, text);
        Sent {
            id: id.expect("there is room"),
            at,
        }
    }

    fn stream(&mut self, count: usize) {
        for _ in 0..count {
            self.publish();
            self.run(STREAM_GAP);
        }
    }

    /// One notice whose datagram `loser` alone loses.
    fn lose_one(&mut self, loser: NodeId) -> Sent {
        self.network.downlink(loser).loss = Loss::Script([true].into());
        let sent = self.publish();
        self.run(STREAM_GAP);
        sent
    }

    /// One notice whose datagram is lost on the source's own cable.
    fn lose_common(&mut self) -> Sent {
        self.network.uplink(self.source).loss = Loss::Script([true].into());
        let sent = self.publish();
        self.run(STREAM_GAP);
        sent
    }

    fn run(&mut self, duration: Duration) {
        self.network.run_for(duration);
    }

    fn stats(&mut self) -> Stats {
        let station = self.network.station(self.source).expect("it runs");
        station.stats()
    }

    /// What the source knows of each receiver.
    fn accounts(&mut self) -> Vec<ReceiverAccount> {
        let station = self.network.station(self.source).expect("it runs");
        station.endpoint().receivers().collect()
    }

    /// From now on these are silent.
    fn switch_off(&mut self, stations: &[SourceId]) {
        for (at, &node) in self.receivers.clone().iter().enumerate() {
            let id = SourceId::of(Network::floor(), &format!("receiver-{at}"));
            if stations.contains(&id) {
                self.network.stop(node);
            }
        }
    }

    fn datagrams(&mut self, node: NodeId) -> u64 {
        let station = self.network.station(node).expect("it runs");
        station.endpoint().stats().datagrams_received
    }

    fn origin(&mut self) -> (SourceId, SessionId) {
        let origin = self.network.station(self.source).expect("it runs").origin();
        (origin.source, origin.session)
    }

    fn address(&self) -> SocketAddr {
        self.network.address(self.source)
    }

    fn arrived(&self) -> BTreeMap<(NodeId, NoticeId), Timestamp> {
        let arrivals = self.network.arrivals.iter();
        arrivals.map(|it| ((it.node, it.id), it.at)).collect()
    }

    /// From when each lost notice would have come to when it came; missing ones as never.
    fn repairs(&self, lost: &[(NodeId, Sent)]) -> Vec<u64> {
        let arrived = self.arrived();
        let took = |(node, sent): &(NodeId, Sent)| {
            let due = sent.at.plus_nanos(ONE_WAY_NS);
            arrived
                .get(&(*node, sent.id))
                .map_or(u64::MAX, |at| at.nanos_since(due))
        };
        lost.iter().map(took).collect()
    }

    fn repair_p99(&self, lost: &[(NodeId, Sent)]) -> u64 {
        let mut repairs = self.repairs(lost);
        repairs.sort_unstable();
        repairs[(repairs.len() * 99).div_ceil(100) - 1]
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.network.checker.violations(), [""; 0]);
        }
    }
}

fn group() -> GroupId {
    GroupId::of("all")
}

fn figure(what: &str, value: impl fmt::Display) {
    println!("figure | {what} | {value}");
}

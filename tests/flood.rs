//! A hundred thousand requests a second at a source, in simulated time: what they cost the others, and what they draw.
//!
//! What a processor does with them is not simulated; `cargo bench --bench core protect` says what a refused one costs it, and
//! `tests/attacks.rs` floods real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use floorcast::guard::{Guard, Verdicts};
use floorcast::notice::NoticeId;
use floorcast::proto::{Config, Destination, Rate, TransmitBatch};
use floorcast::rng::Rng;
use floorcast::sim::{Loss, Network, NodeId, NodeSpec};
use floorcast::time::Timestamp;
use floorcast::wire::{
    About, DatagramWriter, GroupId, Header, Lane, SeqNo, SeqRange, SessionId, SourceId, StreamId,
};

/// The simulator's wall clock at its zero, nanoseconds since 1970.
const EPOCH_NS: u64 = 1_800_000_000_000_000_000;
/// A hundred thousand a second, evenly.
const FLOOD_PER_MS: usize = 100;
const BETWEEN_TWO: Duration = Duration::from_micros(10);
const RECEIVERS: usize = 20;
const NOTICES: u64 = 3_000;
/// A gigabit.
const CABLE_BYTES_PER_S: u64 = 125_000_000;

fn group() -> GroupId {
    GroupId::of("all")
}

/// What the flood is made of, and where it says to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flood {
    Nothing,
    /// New requests for all there is, truly marked by an enrolled workstation.
    TrueRequests,
    /// One true request again and again, from the addresses of all others.
    Replays,
    /// What looks like a datagram of the floor and is sealed with nothing, from the addresses of all others.
    Garbage,
}

/// What came of a floor under it.
#[derive(Debug)]
struct Outcome {
    /// From when a notice was published until the last of the others had it.
    last_ns: Vec<u64>,
    bytes_sent: u64,
    nacks_taken: u64,
    refused: u64,
}

impl Outcome {
    fn p99_ns(&self) -> u64 {
        let mut sorted = self.last_ns.clone();
        sorted.sort_unstable();
        sorted[sorted.len() * 99 / 100]
    }
}

/// An enrolled workstation of bad intentions: what it can write.
struct Thief {
    guard: Guard,
    header: Header,
}

impl Thief {
    /// Of a workstation that lives, in the same life: so what the source sends there goes to an address that has been proved.
    fn new(network: &Network, now: Timestamp, life: SessionId) -> Self {
        let keys = network.keys().expect("a protected floor");
        let guard = |name: &str, session, credentials| {
            let mut endpoint = Config::new(
                Network::floor(),
                SourceId::of(Network::floor(), name),
                session,
            );
            Guard::new(credentials, &mut endpoint, EPOCH_NS, Verdicts::default()).expect("a guard")
        };
        let mut thief = guard("thief", life, keys.workstation("thief"));
        // It has heard the source, in this or another of its lives.
        let mut source = guard("source", SessionId(9), keys.source("source", &[]));
        let mut header = header("source", SessionId(9));
        let said = sealed(&mut source, now, &mut header, |writer| {
            writer.presence("source", false, &[group()]);
        });
        for datagram in said {
            let from = SocketAddr::from(([127, 0, 0, 1], 9));
            let _ = thief.open(now, from, &datagram).expect("it is true");
        }
        Self {
            guard: thief,
            header: Header {
                // Beyond what the living one comes to.
                number: 1 << 40,
                ..self::header("thief", life)
            },
        }
    }

    /// A request for all numbers before `end`.
    fn asks_for_all(&mut self, now: Timestamp, session: SessionId, end: u64) -> Vec<u8> {
        let about = About {
            source: SourceId::of(Network::floor(), "source"),
            session,
            stream: StreamId::new(group(), Lane::Routine),
            echo: None,
        };
        let all = SeqRange::new(SeqNo(0), SeqNo(end)).expect("a range");
        let written = sealed(&mut self.guard, now, &mut self.header, |writer| {
            assert!(writer.nack(&about, [all]) > 0);
        });
        written.into_iter().next().expect("it is sealed")
    }
}

fn header(name: &str, session: SessionId) -> Header {
    Header {
        key: 1,
        floor: Network::floor(),
        source: SourceId::of(Network::floor(), name),
        session,
        number: 0,
    }
}

/// What `fill` writes, sealed, behind what the seal has to say of its own.
fn sealed(
    guard: &mut Guard,
    now: Timestamp,
    header: &mut Header,
    fill: impl FnOnce(&mut DatagramWriter<'_>),
) -> Vec<Vec<u8>> {
    const SEAL_BYTES: usize = 512;
    let mut plain = Vec::new();
    let mut writer = DatagramWriter::plain(&mut plain, 1_000, header);
    fill(&mut writer);
    writer.finish();
    header.number += 1;
    let mut batch = TransmitBatch::new(4);
    batch.push(Destination::Group(group()), &plain, SEAL_BYTES);
    guard.seal(now, &mut batch, 0);
    batch
        .iter()
        .map(|(_, datagram)| datagram.to_vec())
        .collect()
}

/// A source that says something every millisecond to workstations of which each loses one datagram in a hundred, and a flood
/// at it meanwhile.
fn floor_under(flood: Flood) -> Outcome {
    let mut network = Network::protected(41);
    network.record_arrivals();
    let source = network.add(NodeSpec::source("source"));
    network.overhear(source, group());
    let receivers: Vec<NodeId> = (0..RECEIVERS)
        .map(|index| network.add(NodeSpec::workstation(format!("ws-{index}"), &[group()])))
        .collect();
    let thief_at = network.add(NodeSpec::workstation("thief", &[group()]));
    for node in [source, thief_at] {
        network.uplink(node).bytes_per_s = CABLE_BYTES_PER_S;
        network.downlink(node).bytes_per_s = CABLE_BYTES_PER_S;
    }
    for &node in &receivers {
        network.downlink(node).loss = Loss::Random(0.01);
    }
    let first = network.broadcast(source, &[group()], Lane::Routine, "the first".to_owned());
    first.expect("it is published");
    network.run_for(Duration::from_secs(1));
    let life = network
        .station(thief_at)
        .expect("it lives")
        .origin()
        .session;
    let session = network.station(source).expect("it lives").origin().session;
    let mut thief = Thief::new(&network, network.now(), life);
    let mut rng = Rng::new(7);
    let again = thief.asks_for_all(network.now(), session, NOTICES);
    let to = Destination::Unicast(network.address(source));
    let mut published: BTreeMap<NoticeId, Timestamp> = BTreeMap::new();
    for number in 0..NOTICES {
        let text = format!("notice {number}");
        let id = network.broadcast(source, &[group()], Lane::Routine, text);
        published.insert(id.expect("it is published"), network.now());
        for index in 0..FLOOD_PER_MS {
            let other = receivers[index % RECEIVERS];
            match flood {
                Flood::Nothing => {}
                Flood::TrueRequests => {
                    let request = thief.asks_for_all(network.now(), session, number + 1);
                    network.inject(thief_at, to, &request);
                }
                Flood::Replays => network.inject(other, to, &again),
                Flood::Garbage => {
                    let mut garbage = again.clone();
                    let random = || rng.bits().to_be_bytes()[0];
                    garbage[16..].fill_with(random);
                    network.inject(other, to, &garbage);
                }
            }
            network.run_for(BETWEEN_TWO);
        }
    }
    network.run_for(Duration::from_secs(2));
    network.expect_complete();
    assert_eq!(network.checker.violations(), [] as [String; 0], "{flood:?}");
    let mut last: BTreeMap<NoticeId, Timestamp> = BTreeMap::new();
    for arrival in &network.arrivals {
        let at = last.entry(arrival.id).or_insert(arrival.at);
        *at = (*at).max(arrival.at);
    }
    let last_ns = published.iter().map(|(id, at)| last[id].nanos_since(*at));
    let last_ns = last_ns.collect();
    let stats = network
        .station(source)
        .expect("it lives")
        .endpoint()
        .stats();
    Outcome {
        last_ns,
        bytes_sent: stats.bytes_sent,
        nacks_taken: stats.nacks_received,
        refused: stats.discard_replayed + stats.discard_forged,
    }
}

/// Goal: a flood of 100,000 requests a second takes nothing from anybody and draws no more than its share. Method: for three
/// seconds, new and truly marked ones of an enrolled workstation that asks for everything again and again; one of those
/// repeated from the addresses of all others; garbage from there. The time to the last receiver is compared, of all notices and
/// at its 99th percentile, with the same floor left in peace: same seed, same losses until the first answer differs.
#[test]
fn a_flood_of_requests_takes_nothing_from_the_others() {
    let quiet = floor_under(Flood::Nothing);
    let flooded = NOTICES * FLOOD_PER_MS as u64;
    for flood in [Flood::TrueRequests, Flood::Replays, Flood::Garbage] {
        let outcome = floor_under(flood);
        let (p99, quiet_p99) = (outcome.p99_ns(), quiet.p99_ns());
        println!(
            "figure {flood:?}: last receiver p99 {} us, {:.3} of quiet; {} bytes out, quiet {}; {} taken, {} refused",
            p99 / 1_000,
            p99 as f64 / quiet_p99 as f64,
            outcome.bytes_sent,
            quiet.bytes_sent,
            outcome.nacks_taken,
            outcome.refused
        );
        assert!(p99 * 10 <= quiet_p99 * 11, "{flood:?}: {p99}, {quiet_p99}");
        // One receiver's share of the repairs and its burst, and three datagrams a millisecond of what stands back.
        let seconds = NOTICES / 1_000 + 2;
        let drawn = match flood {
            Flood::TrueRequests => {
                (64 << 10) + (Rate::RECOMMENDED.get() / 16 + 3 * 1_400 * 1_000) * seconds
            }
            _ => 0,
        };
        let most = quiet.bytes_sent * 11 / 10 + drawn;
        assert!(
            outcome.bytes_sent <= most,
            "{flood:?}: {}, {most}",
            outcome.bytes_sent
        );
        let came = match flood {
            Flood::TrueRequests => outcome.nacks_taken,
            _ => outcome.refused,
        };
        assert!(
            came + 1 >= flooded,
            "the flood arrived: {came} of {flooded}"
        );
    }
}

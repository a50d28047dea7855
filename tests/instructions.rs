//! What the core does for a datagram, in instructions, does not creep up. Valgrind counts them, so the machine's mood does not
//! matter; each figure is a ratio to what nobody can do without, copying the same bytes and checking them, so the compiler
//! hardly does.
//!
//! Needs `valgrind` (`tools/setup` installs it); without it the test says `skipped` and passes.
//! `cargo test --release --test instructions -- --nocapture | grep figure` prints what was counted.

use std::process::Command;

use bytes::Bytes;
use floorcast::proto::{Config, Endpoint, Event, Join, Rate, TransmitBatch};
use floorcast::time::Timestamp;
use floorcast::wire::{
    Advert, DatagramWriter, FloorId, GroupId, Header, Lane, Place, QuantDuration, Segment, Sending,
    SeqNo, SessionId, SourceId, StreamId,
};
use xxhash_rust::xxh3::xxh3_64;

const FLOOR: FloorId = FloorId(3);
const SEGMENTS: u64 = 5;
const SEGMENT_BYTES: usize = 256;
/// Datagrams of a short run; a long one has twice as many, and the difference is what counts.
const DATAGRAMS: u64 = 2_000;
/// Tells this program, run by valgrind, what to do, and how often.
const WORKLOAD: &str = "FLOORCAST_WORKLOAD";

/// Goal: the path of a datagram through the core stays as short as it is. Method: the instructions of each workload for
/// one datagram of five messages, against those of copying and checking its bytes. The bounds are a tenth above what was
/// counted when they were set; whoever makes the path shorter lowers them.
#[test]
fn a_datagram_takes_no_more_instructions_than_it_did() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed; tools/setup does that");
        return;
    }
    let [unit, build, send, receive] = ["unit", "build", "send", "receive"].map(count);
    let receive = receive - build;
    println!("figure | instructions to copy and check a datagram | {unit:.0}");
    let bounds = if cfg!(debug_assertions) {
        BOUNDS_DEBUG
    } else {
        BOUNDS
    };
    for (name, count, most) in [("send", send, bounds.0), ("receive", receive, bounds.1)] {
        let ratio = count / unit;
        println!(
            "figure | instructions to {name} a datagram of five messages | {count:.0} ({ratio:.2} times that)"
        );
        assert!(
            ratio <= most,
            "{name}: {ratio:.2} times the unit, at most {most} allowed"
        );
    }
}

/// To send and to receive, with optimisation and without debug assertions.
const BOUNDS: (f64, f64) = (7.5, 5.5);
/// The same with them, which is what `cargo test` builds: a fifth above, as assertions come and go.
const BOUNDS_DEBUG: (f64, f64) = (4.4, 3.2);

/// Instructions of one datagram in a workload.
fn count(workload: &str) -> f64 {
    let [short, long] = [DATAGRAMS, 2 * DATAGRAMS].map(|datagrams| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "workload", "--test-threads=1"])
            .env(WORKLOAD, format!("{workload} {datagrams}"))
            .output()
            .expect("valgrind starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let collected = text
            .lines()
            .find_map(|line| line.split("Collected : ").nth(1));
        let collected = collected.and_then(|count| count.trim().parse::<f64>().ok());
        collected.unwrap_or_else(|| panic!("valgrind counted nothing: {text}"))
    });
    (long - short) / DATAGRAMS as f64
}

/// Does what [`WORKLOAD`] says; nothing where this is an ordinary run.
#[test]
fn workload() {
    let Ok(words) = std::env::var(WORKLOAD) else {
        return;
    };
    let (name, datagrams) = words.split_once(' ').expect("a name and a number");
    let datagrams = datagrams.parse().expect("a number");
    match name {
        "unit" => copy_and_check(datagrams),
        "build" => drop((0..datagrams).map(datagram).collect::<Vec<_>>()),
        "send" => send(datagrams),
        "receive" => receive(datagrams),
        other => panic!("no workload is called {other}"),
    }
}

fn copy_and_check(datagrams: u64) {
    let datagram = datagram(0);
    let mut copy = Vec::with_capacity(datagram.len());
    let mut sum = 0;
    for _ in 0..datagrams {
        copy.clear();
        copy.extend_from_slice(std::hint::black_box(&datagram));
        sum ^= xxh3_64(&copy);
    }
    std::hint::black_box(sum);
}

fn send(datagrams: u64) {
    let mut source = endpoint(1);
    let mut batch = TransmitBatch::new(64);
    let message = Bytes::from_static(&[7; SEGMENT_BYTES]);
    let mut sent = 0;
    for at in 0..datagrams {
        let now = Timestamp::from_nanos(at * 2_000);
        for _ in 0..SEGMENTS {
            let published = source.publish(now, stream(), message.clone());
            assert!(published.is_ok());
        }
        batch.clear();
        let _ = source.poll_transmit(now, &mut batch);
        sent += batch.len() as u64;
    }
    assert!(sent >= datagrams);
}

fn receive(datagrams: u64) {
    let built: Vec<_> = (0..datagrams).map(datagram).collect();
    let mut receiver = endpoint(2);
    receiver.subscribe(Timestamp::ZERO, GroupId::of("all"), Join::Trail);
    let mut batch = TransmitBatch::new(64);
    let from = ([127, 0, 0, 1], 7_000).into();
    let mut delivered = 0;
    for (at, datagram) in (0..).zip(built) {
        let now = Timestamp::from_nanos(at * 2_000);
        let _ = receiver.handle_datagram(now, from, datagram);
        batch.clear();
        let _ = receiver.poll_transmit(now, &mut batch);
        while let Some(event) = receiver.poll_event() {
            delivered += u64::from(matches!(event, Event::Delivered(_)));
        }
    }
    assert_eq!(delivered, datagrams * SEGMENTS);
}

fn endpoint(source: u64) -> Endpoint {
    let mut config = Config::new(FLOOR, SourceId(source), SessionId(1));
    config.data_rate = Rate::MAX;
    Endpoint::new(config, 7)
}

fn stream() -> StreamId {
    StreamId::new(GroupId::of("all"), Lane::Routine)
}

/// The `at`-th datagram of a source, five messages.
fn datagram(at: u64) -> Bytes {
    let header = Header {
        key: 0,
        floor: FLOOR,
        source: SourceId(1),
        session: SessionId(1),
        number: at,
    };
    let advert = Advert {
        trail: SeqNo::ZERO,
        backoff: QuantDuration::default(),
        age: QuantDuration::default(),
        is_coded: false,
    };
    let mut bytes = Vec::new();
    let mut writer = DatagramWriter::new(&mut bytes, 1_400, &header);
    for segment in 0..SEGMENTS {
        let seq = SeqNo(at * SEGMENTS + segment);
        let whole = Segment {
            place: Place::Whole,
            payload: &[7; SEGMENT_BYTES],
        };
        assert!(writer.segment(stream(), seq, &advert, Sending::New, &whole));
    }
    writer.finish();
    bytes.into()
}

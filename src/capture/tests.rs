//! The file and its bounds, and stations that talk to each other while they are recorded.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::notice::{Notice, NoticeId};
use crate::proto::{Config, Destination, Join, Origin, Resume, TransmitBatch};
use crate::station::{Station, StationConfig, StationEvent};
use crate::wire::{FloorId, GroupId, Lane, SeqNo, SeqRange, SessionId, SourceId, StreamId};

use record::{FORMAT, Reader};

const ALL: GroupId = GroupId(5);
const FLOOR: FloorId = FloorId(3);

/// A file in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn never(sentence: &str) {
    panic!("{sentence}");
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_nanos(ms * 1_000_000)
}

fn config(name: &str, is_workstation: bool) -> StationConfig {
    let source = SourceId::of(FLOOR, name);
    StationConfig {
        endpoint: Config::new(FLOOR, source, SessionId(source.0 ^ 77)),
        name: name.to_owned(),
        is_workstation,
        groups: if is_workstation {
            vec![ALL]
        } else {
            Vec::new()
        },
        join: Join::Trail,
        remember: Duration::from_secs(900),
        listed: [(ALL, vec!["ws".to_owned(), "gone".to_owned()])].into(),
    }
}

fn notice(id: u64) -> Notice {
    Notice {
        id: NoticeId(id),
        from: "chief".into(),
        sent_ns: 1,
        expires_ns: id.is_multiple_of(2).then_some(1 << 60),
        confirm: true,
        status: crate::wire::Status::Exercise,
        text: "Panne réseau ☎".repeat(20).into(),
    }
}

/// A source and a workstation that talk for a while over a cable that loses every fifth datagram. Every method that
/// changes a station is called.
fn talk(capture: Option<&Capture>, notices: u64) -> u64 {
    let mut stations = [
        Recorded::new(config("chief", false), 1, at(1), capture),
        Recorded::new(config("ws", true), 2, at(1), capture),
    ];
    let addresses = [([10, 0, 0, 1], 7).into(), ([10, 0, 0, 2], 7).into()];
    stations[0].call_roll(at(1), ALL, &[ALL]);
    let stream = StreamId::new(ALL, Lane::Bulk);
    let (next, run) = (SeqNo(4), SeqRange::one(SeqNo(2)));
    let from = Resume {
        joined: SeqNo(1),
        next,
        lost: vec![run],
    };
    let origin = Origin {
        source: SourceId(8),
        session: SessionId(9),
    };
    stations[1].resume(origin, stream, from);
    stations[1].remember(NoticeId(1));
    let mut batch = TransmitBatch::new(4);
    let (mut sent, mut delivered) = (0, 0);
    for ms in 2..400 {
        let now = at(ms);
        if ms % 3 == 0 && ms / 3 <= notices {
            let groups = [ALL];
            let _ = stations[0].broadcast(now, &groups, Lane::Routine, &notice(ms / 3), None);
        }
        if ms == 200 {
            let bytes = bytes::Bytes::from_static(&[crate::notice::OPAQUE, 1, 2]);
            let stream = StreamId::new(ALL, Lane::Emergency);
            stations[0].publish(now, stream, bytes).unwrap();
            stations[0].set_group_size(2);
        }
        if ms == 390 {
            stations.iter_mut().for_each(|station| station.leave(now));
        }
        for me in [0, 1] {
            let mut arrivals = Vec::new();
            stations[me].handle_timeout(now);
            while stations[me].poll_transmit(now, &mut batch) {
                for (to, datagram) in batch.iter() {
                    sent += 1;
                    let to_other = to == Destination::Group(ALL)
                        || to == Destination::Unicast(addresses[1 - me]);
                    if to_other && sent % 5 != 0 {
                        arrivals.push(bytes::Bytes::copy_from_slice(datagram));
                    }
                }
                batch.clear();
            }
            for datagram in arrivals {
                let _ = stations[1 - me].handle_datagram(now, addresses[me], datagram);
            }
            while let Some(event) = stations[me].poll_event(ms) {
                delivered += u64::from(matches!(event, StationEvent::Notice { .. }));
            }
        }
        let chief = &mut stations[0];
        chief.expected_len(now);
        chief.is_received_by_all(now, 0);
        chief.tally(now, 0);
    }
    delivered
}

fn captured(notices: u64) -> Vec<u8> {
    let memory = Memory::default();
    let delivered = talk(Some(&Capture::new(memory.clone(), 1 << 30, never)), notices);
    // The first was remembered.
    assert_eq!(delivered, notices - 1);
    memory.bytes()
}

/// All records of a file, as they are written out.
fn read(bytes: &[u8]) -> (Vec<String>, u64, Result<(), ReadError>) {
    let mut reader = Reader::open(bytes).unwrap();
    let mut records = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(record)) => records.push(format!("{record:?}")),
            Ok(None) => return (records, reader.torn_bytes, Ok(())),
            Err(error) => return (records, reader.torn_bytes, Err(error)),
        }
    }
}

/// The same file, with one of its records changed.
fn rewritten(bytes: &[u8], number: u64, change: impl Fn(&mut Record)) -> Vec<u8> {
    let mut reader = Reader::open(bytes).unwrap();
    let mut to = Vec::new();
    put_header(CORE_REVISION, &mut to);
    while let Some((station, mut record)) = reader.next().unwrap() {
        if reader.number == number {
            change(&mut record);
        }
        assert!(put_record(reader.number, station, &record, &mut to));
    }
    to
}

/// The first record that `wanted` wants.
fn find(bytes: &[u8], wanted: impl Fn(&Record) -> bool) -> u64 {
    let mut reader = Reader::open(bytes).unwrap();
    while let Some((_, record)) = reader.next().unwrap() {
        if wanted(&record) {
            return reader.number;
        }
    }
    panic!("there is none");
}

/// Goal: a replay does what was done, whatever was done. Method: all calls that change a station, with loss; then each
/// kind of record must be there.
#[test]
fn a_replay_gives_the_same() {
    let bytes = captured(30);
    let summary = replay(bytes.as_slice()).unwrap();
    assert_eq!(summary.first_difference, None);
    assert_eq!(
        (summary.stations, summary.notices, summary.misplaced),
        (2, 29, 0)
    );
    assert_eq!(
        (summary.completeness, summary.duration),
        (Completeness::Whole, Duration::from_millis(398))
    );
    assert_eq!(
        (summary.revision, summary.version.as_str()),
        (CORE_REVISION, env!("CARGO_PKG_VERSION"))
    );
    let (records, ..) = read(&bytes);
    for kind in [
        "Program",
        "Open",
        "Datagram",
        "Timeout",
        "Broadcast",
        "CallRoll",
        "Resume",
        "Remember",
        "Leave",
        "ExpectedLen",
        "IsReceivedByAll",
        "Tally",
        "Publish",
        "GroupSize",
        "Transmitted",
        "Events",
        "Answered",
        "End",
    ] {
        let is_there = records
            .iter()
            .any(|record| record.contains(&format!(", {kind} {{")));
        assert!(is_there, "no {kind}");
    }
    assert_eq!(summary.records, records.len() as u64);
    assert!(
        summary.events >= summary.notices
            && summary.datagrams_in > 30
            && summary.datagrams_out > 30
    );
}

/// Goal: recording changes nothing. Method: the same talk with and without.
#[test]
fn a_station_that_is_not_recorded_does_the_same() {
    assert_eq!(talk(None, 30), 29);
    assert_eq!(captured(30), captured(30));
}

/// Goal: what is read is what was written. Method: read each record, write it again, and compare the bytes.
#[test]
fn records_survive() {
    let bytes = captured(5);
    assert_eq!(rewritten(&bytes, 0, |_| ()), bytes);
}

/// Goal: a difference is named exactly. Method: alter the hash or the count of one record of each kind of output.
#[test]
fn an_altered_output_is_found() {
    let bytes = captured(5);
    let is_sent =
        |record: &Record| matches!(record, Record::Transmitted { count, .. } if *count > 0);
    let number = find(&bytes, is_sent);
    let other = rewritten(&bytes, number, |record| {
        let Record::Transmitted { hash, .. } = record else {
            panic!()
        };
        *hash ^= 1;
    });
    let summary = replay(other.as_slice()).unwrap();
    assert_eq!(summary.differences, 1);
    let first = summary.first_difference.unwrap();
    assert_eq!(
        (first.record, first.station, first.name.as_str()),
        (number, 0, "chief")
    );
    assert_eq!(
        first.to_string(),
        format!(
            "record {number}, station 0 (\"chief\"), 0.002000000 s: {0} datagrams, but others",
            first.captured
        )
    );

    let number = find(&bytes, |record| matches!(record, Record::Events { .. }));
    let other = rewritten(&bytes, number, |record| {
        let Record::Events { count, .. } = record else {
            panic!()
        };
        *count += 1;
    });
    let first = replay(other.as_slice()).unwrap().first_difference.unwrap();
    assert_eq!(
        (first.record, first.what, first.captured),
        (number, "events", first.replayed + 1)
    );

    let number = find(&bytes, |record| matches!(record, Record::Answered { .. }));
    let other = rewritten(&bytes, number, |record| {
        let Record::Answered { hash } = record else {
            panic!()
        };
        *hash ^= 1 << 63;
    });
    let first = replay(other.as_slice()).unwrap().first_difference.unwrap();
    assert_eq!((first.record, first.what), (number, "answers"));

    // Another seed is another station; what it did not receive makes it ask later.
    let number = find(&bytes, |record| matches!(record, Record::Datagram { .. }));
    let other = rewritten(&bytes, number, |record| {
        *record = Record::Timeout { now: at(2) }
    });
    assert!(replay(other.as_slice()).unwrap().differences > 0);
}

/// Goal: a program may be killed at any moment. Method: cut the file at every byte; whole records are read, the rest is
/// told, and nothing is called whole that is not.
#[test]
fn a_torn_end_is_told() {
    let bytes = captured(1);
    let near_the_end = bytes.len() - 100..bytes.len();
    let (all, ..) = read(&bytes);
    let (first, ..) = read(&bytes[..3_000]);
    let mut ends = 0;
    for len in (18..=3_000).chain(near_the_end) {
        let (records, torn_bytes, result) = read(&bytes[..len]);
        assert!(result.is_ok(), "{len}: {result:?}");
        assert_eq!(records, all[..records.len()], "{len}");
        ends += usize::from(torn_bytes == 0 && len > 18 && len <= 3_000);
        if len % 97 == 0 || len + 30 > bytes.len() {
            let summary = replay(&bytes[..len]).unwrap();
            assert_eq!(summary.first_difference, None, "{len}");
            assert_eq!(
                summary.completeness,
                Completeness::Torn { bytes: torn_bytes },
                "{len}"
            );
        }
    }
    assert_eq!(ends, first.len(), "every record ends once");
    for len in 0..18 {
        assert!(Reader::open(&bytes[..len]).is_err(), "{len}");
    }
}

/// Goal: damage is never taken for anything else. Method: flip every bit; take out, double and swap records.
#[test]
fn damage_is_found() {
    let bytes = captured(1);
    let short = &bytes[..3_000.min(bytes.len())];
    let (all, torn_bytes, _) = read(short);
    let whole = short.len() - usize::try_from(torn_bytes).unwrap();
    for bit in 0..whole * 8 {
        let mut bad = short[..whole].to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let result = Reader::open(bad.as_slice()).map(|_| ());
        let result = result.and_then(|()| read(&bad).2);
        assert!(result.is_err(), "bit {bit} of {} records", all.len());
    }
    let (mut reader, mut spans) = (Reader::open(short).unwrap(), vec![18]);
    let mut rest = 18;
    while let Some((station, record)) = reader.next().unwrap() {
        let mut to = Vec::new();
        put_record(reader.number, station, &record, &mut to);
        rest += to.len();
        spans.push(rest);
    }
    let span = |at: usize| &short[spans[at]..spans[at + 1]];
    for at in [1, 2, 5] {
        let without = [&short[..spans[at]], &short[spans[at + 1]..]].concat();
        let double = [&short[..spans[at + 1]], &short[spans[at]..]].concat();
        let swapped = [
            &short[..spans[at]],
            span(at + 1),
            span(at),
            &short[spans[at + 2]..],
        ]
        .concat();
        for bad in [without, double, swapped] {
            let error = read(&bad).2.unwrap_err();
            assert!(matches!(error, ReadError::Damaged { .. }), "{at}: {error}");
        }
    }
}

/// Goal: what is no capture of this version is refused in one sentence. Method: other files, another format, kinds and
/// orders of records that cannot be.
#[test]
fn foreign_files_are_refused() {
    let refused = |bytes: &[u8]| replay(bytes).unwrap_err().to_string();
    assert_eq!(refused(b""), "it is no capture of floorcast");
    assert_eq!(
        refused(b"fcstate2 and more than that"),
        "it is no capture of floorcast"
    );
    let mut bytes = captured(1);
    bytes[12] ^= 1;
    assert_eq!(refused(&bytes), "it is damaged at record 0");
    let mut other = b"fcapture".to_vec();
    other.extend_from_slice(&(FORMAT + 1).to_be_bytes());
    other.extend_from_slice(&[0; 4]);
    other.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&other).to_be_bytes()[..4]);
    assert!(refused(&other).starts_with("its format is 2, and this version of floorcast reads 1;"));
    let file = |records: &[Record]| {
        let mut bytes = Vec::new();
        put_header(CORE_REVISION, &mut bytes);
        for (number, record) in (1..).zip(records) {
            assert!(put_record(number, 0, record, &mut bytes));
        }
        bytes
    };
    let open = Record::Open {
        config: Box::new(config("ws", true)),
        seed: 1,
        now: at(1),
    };
    let sent = |room, calls| Record::Transmitted {
        now: at(1),
        room,
        calls,
        count: 0,
        hash: 0,
    };
    for (records, why) in [
        (vec![Record::Timeout { now: at(1) }], "no such station"),
        (vec![open.clone(), open.clone()], "begins twice"),
        (vec![open.clone(), sent(usize::MAX, 1)], "no such size"),
        (vec![open.clone(), sent(1, u32::MAX)], "no such size"),
        (
            vec![
                open.clone(),
                Record::Events {
                    wall_ns: 1,
                    calls: u32::MAX,
                    count: 0,
                    hash: 0,
                },
            ],
            "no such size",
        ),
        (
            vec![open.clone(), Record::Answered { hash: 0 }],
            "nothing was asked",
        ),
    ] {
        let sentence = refused(&file(&records));
        assert!(sentence.contains(why), "{sentence}");
    }
    let mut unknown = file(&[]);
    let body = [0, 99];
    unknown.extend_from_slice(&[0, 0, 2, 0xa5 ^ 1 ^ 2_u8.rotate_left(6)]);
    unknown.extend_from_slice(&body);
    unknown.extend_from_slice(&xxhash_rust::xxh3::xxh3_64_with_seed(&body, 1).to_be_bytes()[..4]);
    assert!(refused(&unknown).contains("does not know what record 1 says"));
}

/// Goal: a file keeps its bound, says what is missing, and the stations do not notice. Method: bounds from the least on.
#[test]
fn the_bound_is_kept() {
    static WARNED: AtomicU32 = AtomicU32::new(0);
    let whole = captured(30);
    let inputs = replay(whole.as_slice()).unwrap().inputs;
    for (at, bytes_max) in (1..).zip([0, FILE_BYTES_MIN, 5_000, 20_000, whole.len() as u64 - 1]) {
        let memory = Memory::default();
        let capture = Capture::new(memory.clone(), bytes_max, |sentence| {
            assert!(sentence.contains("has reached its bound"), "{sentence}");
            WARNED.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(talk(Some(&capture), 30), 29);
        assert_eq!(WARNED.load(Ordering::Relaxed), at);
        drop(capture);
        let bytes = memory.bytes();
        assert!(bytes.len() as u64 <= bytes_max.max(FILE_BYTES_MIN));
        let summary = replay(bytes.as_slice()).unwrap();
        assert_eq!(summary.first_difference, None);
        let missed = inputs - summary.inputs;
        assert_eq!(
            summary.completeness,
            Completeness::Cut { missed },
            "{bytes_max}"
        );
    }
    // A bound that is not reached is no bound.
    let memory = Memory::default();
    talk(
        Some(&Capture::new(
            memory.clone(),
            whole.len() as u64 + END_BYTES,
            never,
        )),
        30,
    );
    assert_eq!(memory.bytes(), whole);
}

/// Goal: a full disk ends the recording, not the program. Method: a file that takes so many bytes and then none.
#[test]
fn a_full_disk_is_told_once() {
    static WARNED: AtomicU32 = AtomicU32::new(0);
    struct Disk(Memory, usize);
    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.1);
            self.1 -= len;
            if len == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.write(&bytes[..len])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for (at, room) in (1..).zip([0, 1, 17, 100_000]) {
        let memory = Memory::default();
        let capture = Capture::new(Disk(memory.clone(), room), 1 << 30, |sentence| {
            assert!(sentence.contains("cannot be written"), "{sentence}");
            WARNED.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(talk(Some(&capture), 100), 99);
        drop(capture);
        assert_eq!(WARNED.load(Ordering::Relaxed), at);
        let bytes = memory.bytes();
        assert_eq!(bytes.len(), room);
        if let Ok(summary) = replay(bytes.as_slice()) {
            assert_eq!(summary.first_difference, None);
            assert!(matches!(summary.completeness, Completeness::Torn { bytes } if bytes > 0));
        }
    }
}

/// Goal: records wait a second at most. Method: look at the file after each call that precedes a sleep.
#[test]
fn records_wait_no_longer_than_a_second() {
    let memory = Memory::default();
    let capture = Capture::new(memory.clone(), 1 << 20, never);
    let mut station = Recorded::new(config("ws", true), 1, at(1), Some(&capture));
    station.flush_before(at(999), at(1));
    assert_eq!(memory.bytes().len(), 0);
    station.flush_before(at(1_000), at(500));
    let first = memory.bytes().len();
    assert!(first > 0);
    station.handle_timeout(at(600));
    station.flush_before(at(1_499), at(600));
    assert_eq!(memory.bytes().len(), first);
    station.flush_before(Timestamp::FAR_FUTURE, at(600));
    assert!(memory.bytes().len() > first);
    assert_eq!(read(&memory.bytes()).1, 0, "whole records only");
}

/// Goal: a call that never returns is in the capture. Method: drop a station in the middle of its drains, as a panic does.
#[test]
fn what_is_broken_off_is_there() {
    for _ in 0..2 {
        let memory = Memory::default();
        let capture = Capture::new(memory.clone(), 1 << 20, never);
        let mut station = Recorded::new(config("ws", true), 1, at(1), Some(&capture));
        let mut batch = TransmitBatch::new(4);
        assert!(station.poll_transmit(at(1), &mut batch));
        drop((station, capture));
        let (records, ..) = read(&memory.bytes());
        assert!(
            records[2].contains("Transmitted") && records[2].contains("calls: 1, count: 1"),
            "{records:?}"
        );
    }
}

/// Goal: after a panic it can be said where it was. Method: a panic at the first event, which stands in for one of the core.
#[test]
fn a_panic_has_a_place() {
    let bytes = captured(1);
    let number = find(&bytes, |record| matches!(record, Record::Events { .. }));
    let mut replay = Replay::open(bytes.as_slice()).unwrap();
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        replay.run(&mut |_, output| assert!(!matches!(output, Output::Event(_)), "on purpose"))
    }));
    assert!(ran.is_err());
    assert_eq!(replay.place().record, number);
}

/// Goal: a program may fill a batch in several calls. Method: one that is not emptied in between, beside a station that is
/// not recorded.
#[test]
fn a_batch_that_is_not_empty_has_less_room() {
    let memory = Memory::default();
    let capture = Capture::new(memory.clone(), 1 << 20, never);
    let mut station = Recorded::new(config("chief", false), 1, at(1), Some(&capture));
    let mut plain = Station::new(config("chief", false), 1, at(1));
    let (mut batch, mut other) = (TransmitBatch::new(3), TransmitBatch::new(3));
    for id in 0..40 {
        let _ = station.broadcast(at(1), &[ALL], Lane::Routine, &notice(id), None);
        let _ = plain.broadcast(at(1), &[ALL], Lane::Routine, &notice(id), None);
    }
    while station.poll_transmit(at(2), &mut batch) {}
    while plain.poll_transmit(at(2), &mut other) {}
    assert!(batch.iter().eq(other.iter()) && batch.room() == 0);
    drop((station, capture));
    assert_eq!(
        replay(memory.bytes().as_slice()).unwrap().first_difference,
        None
    );
}

//! Any bytes at the decoder, as they are and with the checksum that fits them: no panic, and whatever is taken in keeps
//! what its types promise.

#![no_main]

use floorcast::wire::{BLOCK_LEN, Datagram, Message, SeqNo, SeqRange, SourceId, decode, is_station_name};
use libfuzzer_sys::fuzz_target;

/// A header of 32 bytes in front, a checksum and its length behind.
const SEALED_BYTES_MIN: usize = 32 + 10;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(datagram) = decode(bytes) {
        check(&datagram);
    }
    // Without this the checksum would stand before every message.
    if bytes.len() >= SEALED_BYTES_MIN {
        let mut bytes = bytes.to_vec();
        seal(&mut bytes);
        if let Ok(datagram) = decode(&bytes) {
            check(&datagram);
        }
    }
});

/// Makes version, flags, key and trailer right.
fn seal(bytes: &mut [u8]) {
    bytes[..4].copy_from_slice(&[1, 0, 0, 0]);
    let mut floor = [0; 4];
    floor.copy_from_slice(&bytes[4..8]);
    let covered = bytes.len() - 10;
    let seed = u64::from(u32::from_be_bytes(floor));
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[..covered], seed);
    bytes[covered..covered + 8].copy_from_slice(&checksum.to_be_bytes());
    bytes[covered + 8..].copy_from_slice(&8u16.to_be_bytes());
}

fn check(datagram: &Datagram<'_>) {
    assert!(datagram.messages().count() > 0);
    for message in datagram.messages() {
        match message {
            Message::Data(data) => {
                assert!(data.segments().count() > 0);
                assert!(data.advert.trail <= data.first && data.first <= SeqNo::MAX);
            }
            Message::Heartbeat(heartbeat) => {
                assert!(heartbeat.trail <= heartbeat.next && heartbeat.next <= SeqNo::MAX);
            }
            Message::Nack(nack) => ascends(nack.ranges()),
            Message::Report(report) => {
                assert!(report.joined <= report.through);
                ascends(report.lost());
            }
            Message::Ask(ask) => {
                assert!(ask.stations().all(|station| ask.concerns(station)));
                assert_eq!(
                    ask.concerns(SourceId(1)),
                    ask.stations().count() == 0 || ask.stations().any(|s| s.0 == 1)
                );
            }
            Message::Presence(presence) => {
                assert!(is_station_name(presence.name));
                assert!(presence.groups().all(|group| group.0 >> 30 == 0));
            }
            Message::Roster(roster) => {
                assert!(roster.entries().all(|entry| is_station_name(entry.name)));
            }
            Message::RollCall(roll_call) => assert!(roll_call.group.0 >> 30 == 0),
            Message::Squelch(squelch) => assert!(squelch.trail <= SeqNo::MAX),
            Message::Skip(skip) => ascends(skip.runs()),
            Message::Parity(parity) => {
                let block = parity.block;
                assert!(block.len > 0 && u64::from(block.len) <= BLOCK_LEN);
                assert!(block.first.0.is_multiple_of(BLOCK_LEN) && block.first <= SeqNo::MAX);
                assert!(!parity.shard.is_empty() && parity.shard.len().is_multiple_of(2));
            }
            Message::Need(need) => ascends(need.blocks().map(|need| SeqRange::one(need.block.first))),
            Message::Pace(_) => (),
            Message::Scouts(scouts) => drop(scouts.contains(SourceId(1))),
            Message::Unknown(kind) => assert!(!(1..=14).contains(&kind)),
        }
    }
}

fn ascends(ranges: impl Iterator<Item = SeqRange>) {
    let mut end = SeqNo::ZERO;
    for range in ranges {
        assert!(range.first() >= end && range.len() > 0);
        end = range.end();
    }
}

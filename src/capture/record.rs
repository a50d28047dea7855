//! The file: a header, then records, each with its length and a checksum.
//!
//! ```text
//! header   magic (8)  format (2)  core revision (4)  checksum of these (4)
//! record   length of the body (3)  check of the length (1)  body  checksum of the body (4)
//! body     station, kind, values
//! ```
//!
//! Both checks depend on the record's number, so that a record that is missing or stands twice is found too. The length
//! has a check of its own: only a record with a good length that goes beyond the file's end was torn off there.

use std::io::{self, Read};
use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::guard::Opened;
use crate::notice::{Notice, NoticeId};
use crate::proto::{Origin, Resume};
use crate::station::StationConfig;
use crate::time::Timestamp;
use crate::wire::{GroupId, Lane, StreamId};

use super::value::Value;

const MAGIC: &[u8; 8] = b"fcapture";
/// How records are written. A new kind of record, or a new field in a `fields!` table, leaves it as it is; anything else
/// that makes older captures read wrong raises it.
pub(super) const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 18;
/// The longest body: its length has three bytes. The longest that there is, a configuration with a whole floor file's
/// names, has a quarter of it.
const BODY_BYTES_MAX: usize = (1 << 24) - 1;

/// One table, so that what is written and what is read cannot differ: each kind with its number, which is never used for
/// anything else, and its values in order.
macro_rules! records {
    ($($(#[$doc:meta])* $tag:literal $kind:ident { $($field:ident: $type:ty),* })*) => {
        /// What happened at a station.
        #[derive(Clone, Debug)]
        pub(super) enum Record {
            $($(#[$doc])* $kind { $($field: $type),* },)*
        }

        impl Value for Record {
            fn put(&self, to: &mut Vec<u8>) {
                match self {
                    $(Self::$kind { $($field),* } => {
                        to.push($tag);
                        $($field.put(to);)*
                    })*
                }
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Some(match u32::take(from)? {
                    $($tag => Self::$kind { $($field: Value::take(from)?),* },)*
                    _ => return None,
                })
            }
        }
    };
}

records! {
    /// The first: which program wrote this.
    1 Program { version: String }
    /// `Station::new`.
    2 Open { config: Box<StationConfig>, seed: u64, now: Timestamp }
    /// `Station::handle_datagram`.
    3 Datagram { now: Timestamp, from: SocketAddr, datagram: Bytes }
    /// `Station::handle_timeout`.
    4 Timeout { now: Timestamp }
    /// `Station::broadcast`.
    5 Broadcast { now: Timestamp, groups: Vec<GroupId>, lane: Lane, notice: Notice, supersedes: Option<u64> }
    /// `Station::call_roll`.
    6 CallRoll { now: Timestamp, group: GroupId, via: Vec<GroupId> }
    /// `Station::resume`.
    7 Resume { origin: Origin, stream: StreamId, from: Resume }
    /// `Station::remember`.
    8 Remember { id: NoticeId }
    /// `Station::leave`.
    9 Leave { now: Timestamp }
    /// `Station::expected_len`, which reckons anew who is expected, and tells the endpoint.
    10 ExpectedLen { now: Timestamp }
    /// `Station::is_received_by_all`, which does the same.
    11 IsReceivedByAll { now: Timestamp, index: usize }
    /// `Station::tally`, which does the same.
    12 Tally { now: Timestamp, index: usize }
    /// `Station::poll_transmit`, `calls` times with room for `room` datagrams: how many came, and their hash.
    13 Transmitted { now: Timestamp, room: usize, calls: u32, count: u64, hash: u64 }
    /// `Station::poll_event`, `calls` times: how many came, and their hash.
    14 Events { wall_ns: u64, calls: u32, count: u64, hash: u64 }
    /// The hash of what the command before this record answered.
    15 Answered { hash: u64 }
    /// `Station::publish`.
    17 Publish { now: Timestamp, stream: StreamId, payload: Bytes }
    /// `Station::set_group_size`.
    18 GroupSize { receivers: u64 }
    /// `Station::handle_opened`.
    19 Opened { now: Timestamp, from: SocketAddr, opened: Opened }
    /// `Station::ask_receipts`.
    20 AskReceipts { }
    /// The last: `missed` inputs were not recorded, because the file had reached its bound.
    16 End { missed: u64 }
}

impl Record {
    /// Whether it is something that a station was given; the others tell what came of it.
    pub(super) const fn is_input(&self) -> bool {
        match self {
            Self::Open { .. }
            | Self::Datagram { .. }
            | Self::Timeout { .. }
            | Self::Broadcast { .. }
            | Self::CallRoll { .. }
            | Self::Resume { .. }
            | Self::Remember { .. }
            | Self::Leave { .. }
            | Self::ExpectedLen { .. }
            | Self::IsReceivedByAll { .. }
            | Self::Tally { .. }
            | Self::Publish { .. }
            | Self::Opened { .. }
            | Self::AskReceipts { .. }
            | Self::GroupSize { .. } => true,
            Self::Program { .. }
            | Self::Transmitted { .. }
            | Self::Events { .. }
            | Self::Answered { .. }
            | Self::End { .. } => false,
        }
    }
}

/// Why a capture cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The system does not give it.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Something else.
    #[error("it is no capture of floorcast")]
    Foreign,
    /// Of another version.
    #[error(
        "its format is {found}, and this version of floorcast reads {FORMAT}; replay it with the version that captured it"
    )]
    Format {
        /// The format it has.
        found: u16,
    },
    /// Not as it was written.
    #[error("it is damaged at record {record}")]
    Damaged {
        /// Where; 0 is the header.
        record: u64,
    },
    /// Whole, but of no kind that is known.
    #[error(
        "this version of floorcast does not know what record {record} says; replay it with the version that captured it"
    )]
    Unknown {
        /// Where.
        record: u64,
    },
    /// Whole, but nothing that a program can have done.
    #[error("record {record} makes no sense: {why}")]
    Senseless {
        /// Where.
        record: u64,
        /// What is wrong.
        why: &'static str,
    },
}

/// Appends the header.
pub(super) fn put_header(revision: u32, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend_from_slice(MAGIC);
    to.extend_from_slice(&FORMAT.to_be_bytes());
    to.extend_from_slice(&revision.to_be_bytes());
    let check = checksum(&to[start..], 0);
    to.extend_from_slice(&check);
}

/// Appends a record, the `number`-th from 1; false, and nothing, when it is too long.
pub(super) fn put_record(number: u64, station: u32, record: &Record, to: &mut Vec<u8>) -> bool {
    let start = to.len();
    to.extend_from_slice(&[0; 4]);
    station.put(to);
    record.put(to);
    let len = to.len() - start - 4;
    if len > BODY_BYTES_MAX {
        to.truncate(start);
        return false;
    }
    let [.., a, b, c] = len.to_be_bytes();
    let head = [a, b, c, check_of_len([a, b, c], number)];
    to[start..start + 4].copy_from_slice(&head);
    let check = checksum(&to[start + 4..], number);
    to.extend_from_slice(&check);
    true
}

/// Reads a capture record by record.
pub(super) struct Reader<R> {
    from: R,
    /// The core that wrote it.
    pub(super) revision: u32,
    /// The record read last; the first is 1.
    pub(super) number: u64,
    /// Bytes of a record that was torn off at the end.
    pub(super) torn_bytes: u64,
    body: Vec<u8>,
}

impl<R: Read> Reader<R> {
    pub(super) fn open(mut from: R) -> Result<Self, ReadError> {
        let mut header = [0; HEADER_BYTES];
        let len = read_up_to(&mut from, &mut header)?;
        if len < MAGIC.len() || !header.starts_with(MAGIC) {
            return Err(ReadError::Foreign);
        }
        let (checked, check) = header.split_at(HEADER_BYTES - 4);
        if len < HEADER_BYTES || check != checksum(checked, 0) {
            return Err(ReadError::Damaged { record: 0 });
        }
        let [.., f1, f0, r3, r2, r1, r0] = *checked else {
            return Err(ReadError::Foreign);
        };
        let found = u16::from_be_bytes([f1, f0]);
        if found != FORMAT {
            return Err(ReadError::Format { found });
        }
        Ok(Self {
            from,
            revision: u32::from_be_bytes([r3, r2, r1, r0]),
            number: 0,
            torn_bytes: 0,
            body: Vec::new(),
        })
    }

    /// The next record and its station; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Record)>, ReadError> {
        let number = self.number + 1;
        let damaged = ReadError::Damaged { record: number };
        let mut head = [0; 4];
        let read = read_up_to(&mut self.from, &mut head)?;
        if read < head.len() {
            self.torn_bytes = read as u64;
            return Ok(None);
        }
        let [a, b, c, check] = head;
        if check != check_of_len([a, b, c], number) {
            return Err(damaged);
        }
        let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(BODY_BYTES_MAX);
        self.body.resize(len + 4, 0);
        let read = read_up_to(&mut self.from, &mut self.body)?;
        if read < self.body.len() {
            self.torn_bytes = (head.len() + read) as u64;
            return Ok(None);
        }
        let (body, check) = self.body.split_at(len);
        if check != checksum(body, number) {
            return Err(damaged);
        }
        self.number = number;
        let mut rest = body;
        let station = u32::take(&mut rest);
        let record = Record::take(&mut rest);
        match (station, record) {
            (Some(station), Some(record)) if rest.is_empty() => Ok(Some((station, record))),
            _ => Err(ReadError::Unknown { record: number }),
        }
    }
}

/// Reads until `bytes` are full or there is nothing more; how many were read.
fn read_up_to(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match from.read(&mut bytes[read..]) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Each bit of the length changes a bit of it, so a flipped one is always found.
const fn check_of_len([a, b, c]: [u8; 3], number: u64) -> u8 {
    let [.., salt] = number.to_be_bytes();
    0xa5 ^ salt ^ a ^ b.rotate_left(3) ^ c.rotate_left(6)
}

fn checksum(bytes: &[u8], number: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = xxh3_64_with_seed(bytes, number).to_be_bytes();
    [a, b, c, d]
}

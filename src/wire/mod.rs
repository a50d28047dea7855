//! Bytes: what stands in a datagram. Views that parse without allocating, and a writer that emits them.
//!
//! The normative text is `PROTOCOL.md`. A datagram is a header, one or more messages, and the trailer of the key that
//! protects it. Decoding looks at every byte of the framing first, so a datagram is taken whole or refused whole.

mod ids;
mod message;
mod people;
mod quant;
mod writer;

pub use ids::{
    FloorId, GroupId, Lane, NAME_BYTES_MAX, SeqNo, SeqRange, SessionId, SourceId, Status, StreamId,
    is_station_name,
};
pub use message::{
    Advert, Ask, BLOCK_LEN, Block, BlockNeed, Data, Echo, Heartbeat, Message, Messages, Nack, Need,
    Pace, Parity, Place, Report, Scouts, Segment, Sending, Skip, SkipReason, Squelch,
};
pub use people::{AddressCheck, Presence, RollCall, RosterEntry, RosterPart};
pub use quant::{QuantCount, QuantDuration};
pub use writer::{About, DatagramWriter, SINGLE_DATA_OVERHEAD_BYTES};

use thiserror::Error;

/// The version this build speaks (R-HDR-1).
pub const VERSION: u8 = 1;
/// Bytes of the header that opens every datagram.
pub const HEADER_BYTES: usize = 32;
/// Bytes of type, flags and length that open every message in a datagram.
pub const MESSAGE_HEADER_BYTES: usize = 4;
/// Largest UDP payload there is over IPv4 (RFC 768 length field less both headers).
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Largest published message: a policy text or a picture, not a file system (R-SEG-1).
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The key id of the open laboratory: nothing is secret, and the trailer only tells damage (R-HDR-5).
pub const OPEN_LAB_KEY: u16 = 0;
/// Bytes of the open laboratory's trailer: a checksum and the trailer's length.
const OPEN_TRAILER_BYTES: usize = 8 + 2;

/// Who sent a datagram, and under which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The key that protects it.
    pub key: u16,
    /// The deployment it belongs to.
    pub floor: FloorId,
    /// Its sender.
    pub source: SourceId,
    /// The sender's present life.
    pub session: SessionId,
    /// Counts the sender's datagrams, each number used once in a session: the nonce and the replay window's index
    /// (R-HDR-4).
    pub number: u64,
}

/// A datagram taken apart: every message in it is known to be well formed.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub header: Header,
    first: Message<'a>,
    rest: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The messages in it, in order.
    pub fn messages(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        std::iter::once(self.first).chain(Messages::new(self.rest))
    }
}

/// Why bytes are not a datagram of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// It ends before a field does.
    #[error("truncated")]
    Truncated,
    /// Not the version this build speaks.
    #[error("version {0}, not {VERSION}")]
    Version(u8),
    /// A field holds what its rule forbids.
    #[error("bad {0}")]
    Field(&'static str),
    /// A header without any message.
    #[error("empty")]
    Empty,
    /// The checksum does not fit the bytes.
    #[error("damaged")]
    Damaged,
}

impl Header {
    /// The header of a datagram, and what stands behind it.
    ///
    /// # Errors
    /// [`DecodeError`], the first fault found.
    pub fn read(datagram: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader(datagram);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let flags = reader.u8()?;
        if flags != 0 {
            return Err(DecodeError::Field("header flags"));
        }
        let header = Self {
            key: reader.u16()?,
            floor: FloorId(reader.u32()?),
            source: SourceId(reader.u64()?),
            session: SessionId(reader.u64()?),
            number: reader.u64()?,
        };
        Ok((header, reader.0))
    }
}

/// Takes a datagram apart (R-HDR-2): one of the open laboratory, whose checksum is checked, or what was sealed under a key
/// and has been opened: header and messages, and nothing behind them. Never panics, allocates nothing, reads every byte of
/// the framing.
///
/// # Errors
/// [`DecodeError`], the first fault found.
pub fn decode(datagram: &[u8]) -> Result<Datagram<'_>, DecodeError> {
    let (header, rest) = Header::read(datagram)?;
    let body = if header.key == OPEN_LAB_KEY {
        let (body, trailer) = split_trailer(rest)?;
        let covered = HEADER_BYTES + body.len();
        if trailer != checksum(header.floor, &datagram[..covered]) {
            return Err(DecodeError::Damaged);
        }
        body
    } else {
        rest
    };
    if body.is_empty() {
        return Err(DecodeError::Empty);
    }
    let (first, rest) = message::check(body)?;
    Ok(Datagram {
        header,
        first,
        rest,
    })
}

/// Whether the first message of a datagram of our own, not sealed yet, is DATA.
pub fn begins_with_data(plain: &[u8]) -> bool {
    plain.get(HEADER_BYTES) == Some(&message::kind::DATA)
}

/// The trailer's last two bytes hold its length, themselves not counted (R-HDR-5).
fn split_trailer(rest: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (rest, len) = rest.split_last_chunk::<2>().ok_or(DecodeError::Truncated)?;
    let at = rest
        .len()
        .checked_sub(usize::from(u16::from_be_bytes(*len)))
        .ok_or(DecodeError::Truncated)?;
    Ok(rest.split_at(at))
}

/// XXH3-64 of a datagram up to its trailer, seeded by the floor (R-HDR-5). It tells damage, not forgery.
fn checksum(floor: FloorId, covered: &[u8]) -> [u8; 8] {
    xxhash_rust::xxh3::xxh3_64_with_seed(covered, u64::from(floor.0)).to_be_bytes()
}

/// Big-endian fields off the front of a slice.
#[derive(Clone, Copy, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// A sequence number within [`SeqNo::MAX`], so that later sums cannot overflow (R-SEQ-1).
    fn seq(&mut self) -> Result<SeqNo, DecodeError> {
        let seq = SeqNo(self.u64()?);
        if seq <= SeqNo::MAX {
            Ok(seq)
        } else {
            Err(DecodeError::Field("sequence number"))
        }
    }

    fn stream(&mut self) -> Result<StreamId, DecodeError> {
        StreamId::from_wire(self.u32()?).ok_or(DecodeError::Field("stream"))
    }

    fn group(&mut self) -> Result<GroupId, DecodeError> {
        let bits = self.u32()?;
        if bits >> 30 == 0 {
            Ok(GroupId(bits))
        } else {
            Err(DecodeError::Field("group"))
        }
    }

    fn name(&mut self) -> Result<&'a str, DecodeError> {
        let len = usize::from(self.u8()?);
        std::str::from_utf8(self.bytes(len)?)
            .ok()
            .filter(|name| is_station_name(name))
            .ok_or(DecodeError::Field("name"))
    }

    /// All that is left, a multiple of eight bytes.
    fn eights(&mut self) -> Result<&'a [u8], DecodeError> {
        if self.0.len().is_multiple_of(8) {
            Ok(std::mem::take(&mut self.0))
        } else {
            Err(DecodeError::Truncated)
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;

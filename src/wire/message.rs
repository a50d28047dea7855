//! The messages of a datagram, as views of its bytes.

use super::people::{AddressCheck, Presence, RollCall, RosterPart};
use super::{
    DecodeError, QuantCount, QuantDuration, Reader, SeqNo, SeqRange, SessionId, SourceId, StreamId,
};

/// Message types (R-MSG-2). A number is never reused.
pub(super) mod kind {
    pub(in crate::wire) const DATA: u8 = 1;
    pub(in crate::wire) const HEARTBEAT: u8 = 2;
    pub(in crate::wire) const NACK: u8 = 3;
    pub(in crate::wire) const SQUELCH: u8 = 4;
    pub(in crate::wire) const REPORT: u8 = 5;
    pub(in crate::wire) const ASK: u8 = 6;
    pub(in crate::wire) const PRESENCE: u8 = 7;
    pub(in crate::wire) const ROLL_CALL: u8 = 8;
    pub(in crate::wire) const ROSTER: u8 = 9;
    pub(in crate::wire) const SKIP: u8 = 10;
    pub(in crate::wire) const PARITY: u8 = 11;
    pub(in crate::wire) const NEED: u8 = 12;
    pub(in crate::wire) const PACE: u8 = 13;
    pub(in crate::wire) const SCOUTS: u8 = 14;
    pub(in crate::wire) const ADDRESS_CHECK: u8 = 15;
    pub(in crate::wire) const ADDRESS_ECHO: u8 = 16;
    pub(in crate::wire) const GRANT: u8 = 17;
}

/// Numbers in a block of a coded stream (R-FEC-1). The parity of a block depends on how many shards were declared when
/// it was computed, so both counts are fixed: as many parity shards as numbers.
pub const BLOCK_LEN: u64 = 64;

pub(super) const FLAG_REPAIR: u8 = 0x01;
pub(super) const FLAG_COPY: u8 = 0x02;
pub(super) const FLAG_CODED: u8 = 0x04;
pub(super) const FLAG_CLOSED: u8 = 0x01;
pub(super) const FLAG_SUPERSEDED: u8 = 0x01;
pub(super) const FLAG_BEHIND: u8 = 0x01;
pub(super) const FLAG_LEAVING: u8 = 0x01;
pub(super) const FLAG_LAST: u8 = 0x01;
pub(super) const FLAG_RECEIPT: u8 = 0x01;
pub(super) const SEGMENT_BEGIN: u8 = 0x01;
pub(super) const SEGMENT_END: u8 = 0x02;
pub(super) const SEGMENT_HEADER_BYTES: usize = 4;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Consecutive segments of a stream.
    Data(Data<'a>),
    /// What a source has and how it wants to be asked.
    Heartbeat(Heartbeat),
    /// A request for repair.
    Nack(Nack<'a>),
    /// "Older than trail, stop asking."
    Squelch(Squelch),
    /// What one station has of one stream.
    Report(Report<'a>),
    /// "Send me your report."
    Ask(Ask<'a>),
    /// "I am here", or "I am leaving".
    Presence(Presence<'a>),
    /// "Who is on this group?"
    RollCall(RollCall),
    /// Whom a station has heard.
    Roster(RosterPart<'a>),
    /// "These numbers will never come."
    Skip(Skip<'a>),
    /// One parity shard of a block.
    Parity(Parity<'a>),
    /// A request for parity.
    Need(Need<'a>),
    /// "You have left the pace", or "you are back in it".
    Pace(Pace),
    /// "These ask at once."
    Scouts(Scouts<'a>),
    /// "Are you where you say?"
    AddressCheck(AddressCheck),
    /// "I am": what was asked, on its way back.
    AddressEcho(AddressCheck),
    /// What the floor's root lets its sender publish, as the root has signed it.
    Grant(&'a [u8]),
    /// A type that this version does not know; stepped over (R-MSG-3).
    Unknown(u8),
}

/// What every data message tells about its stream, so that any one datagram is enough to join or to ask (R-DATA-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Oldest number that can still be repaired.
    pub trail: SeqNo,
    /// How long a receiver may wait at most before it asks.
    pub backoff: QuantDuration,
    /// How old the stream is, since its first message, rounded down.
    pub age: QuantDuration,
    /// Whether the stream's numbers lie in blocks that parity repairs (R-FEC-1).
    pub is_coded: bool,
}

/// Why a segment is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// For the first time.
    New,
    /// It answers a NACK.
    Repair,
    /// Again, unasked, in case the first one was lost (R-COPY-1).
    Copy,
}

impl Sending {
    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::New => 0,
            Self::Repair => FLAG_REPAIR,
            Self::Copy => FLAG_COPY,
        }
    }

    const fn from_flags(flags: u8) -> Option<Self> {
        match (flags & FLAG_REPAIR != 0, flags & FLAG_COPY != 0) {
            (false, false) => Some(Self::New),
            (true, false) => Some(Self::Repair),
            (false, true) => Some(Self::Copy),
            (true, true) => None,
        }
    }
}

/// Consecutive segments of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// Which stream.
    pub stream: StreamId,
    /// The number of its first segment.
    pub first: SeqNo,
    /// What the source tells about the stream.
    pub advert: Advert,
    /// Why it is on its way.
    pub sending: Sending,
    segments_len: usize,
    segments: &'a [u8],
}

impl<'a> Data<'a> {
    /// How many segments it has, at least 1.
    pub const fn segments_len(&self) -> usize {
        self.segments_len
    }

    /// Its segments with their numbers, ascending.
    pub fn segments(&self) -> impl Iterator<Item = (SeqNo, Segment<'a>)> + use<'a> {
        let mut reader = Reader(self.segments);
        let mut seq = self.first;
        std::iter::from_fn(move || {
            let segment = Segment::read(&mut reader).ok()?;
            let this = seq;
            seq = seq.plus(1);
            Some((this, segment))
        })
    }

    fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
        let stream = reader.stream()?;
        let trail_distance = reader.u32()?;
        let first = reader.seq()?;
        let backoff = QuantDuration(reader.u8()?);
        let age = QuantDuration(reader.u8()?);
        let reserved = reader.u16()?;
        if reserved != 0 {
            return Err(DecodeError::Field("data reserved"));
        }
        let trail = SeqNo(
            first
                .0
                .checked_sub(u64::from(trail_distance))
                .ok_or(DecodeError::Field("trail"))?,
        );
        let segments = reader.0;
        Segment::read(reader)?;
        let mut segments_len = 1;
        while !reader.is_empty() {
            Segment::read(reader)?;
            segments_len += 1;
        }
        let advert = Advert {
            trail,
            backoff,
            age,
            is_coded: flags & FLAG_CODED != 0,
        };
        Ok(Self {
            stream,
            first,
            advert,
            sending: Sending::from_flags(flags).ok_or(DecodeError::Field("message flags"))?,
            segments_len,
            segments,
        })
    }
}

/// Where in its message a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The message fits in this one segment.
    Whole,
    /// The message begins here and is `total` bytes long in all (R-SEG-2).
    First {
        /// Bytes of the whole message.
        total: u32,
    },
    /// Neither its first nor its last segment.
    Middle,
    /// The message ends here.
    Last,
}

/// The part of a message in one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Where in its message it stands.
    pub place: Place,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Its bytes in a datagram: length, flags, total where it has one, payload. Also what parity is computed over
    /// (R-FEC-2).
    pub fn write_to(&self, buf: &mut Vec<u8>) {
        let (flags, total) = match self.place {
            Place::Whole => (SEGMENT_BEGIN | SEGMENT_END, None),
            Place::First { total } => (SEGMENT_BEGIN, Some(total)),
            Place::Middle => (0, None),
            Place::Last => (SEGMENT_END, None),
        };
        let len = self.payload.len() + total.map_or(0, |_| 4);
        let len = u16::try_from(len).expect("a segment fits in a datagram");
        buf.extend_from_slice(&len.to_be_bytes());
        buf.extend_from_slice(&[flags, 0]);
        if let Some(total) = total {
            buf.extend_from_slice(&total.to_be_bytes());
        }
        buf.extend_from_slice(self.payload);
    }

    /// Bytes that stand before a segment's own.
    pub const HEADER_BYTES: usize = SEGMENT_HEADER_BYTES;

    /// How many bytes `write_to` writes.
    pub const fn wire_bytes(&self) -> usize {
        let total = if matches!(self.place, Place::First { .. }) {
            4
        } else {
            0
        };
        SEGMENT_HEADER_BYTES + total + self.payload.len()
    }

    /// Reads what `write_to` wrote; zeros may follow it.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no segment.
    pub fn from_shard(shard: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader(shard))
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let len = reader.u16()?;
        let flags = reader.u8()?;
        let reserved = reader.u8()?;
        if flags & !(SEGMENT_BEGIN | SEGMENT_END) != 0 || reserved != 0 {
            return Err(DecodeError::Field("segment flags"));
        }
        let mut payload = Reader(reader.bytes(usize::from(len))?);
        let place = match (flags & SEGMENT_BEGIN != 0, flags & SEGMENT_END != 0) {
            (true, true) => Place::Whole,
            (true, false) => Place::First {
                total: payload.u32()?,
            },
            (false, false) => Place::Middle,
            (false, true) => Place::Last,
        };
        Ok(Self {
            place,
            payload: payload.0,
        })
    }
}

/// What a source has of one stream, and how it wants to be asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which stream.
    pub stream: StreamId,
    /// The source's clock in microseconds, to be echoed (R-GRTT-1).
    pub clock_us: u32,
    /// One after lead, the newest number sent.
    pub next: SeqNo,
    /// Oldest number that can still be repaired; equal to `next` when there is none.
    pub trail: SeqNo,
    /// How long a receiver may wait at most before it asks.
    pub backoff: QuantDuration,
    /// The greatest round-trip time the source has seen lately.
    pub grtt: QuantDuration,
    /// How many receivers the source counts on.
    pub group_size: QuantCount,
    /// How old the stream is, since its first message, rounded down.
    pub age: QuantDuration,
    /// Whether the stream's numbers lie in blocks that parity repairs.
    pub is_coded: bool,
    /// The source publishes nothing more in this session and answers nothing more after it.
    pub is_closed: bool,
}

impl Heartbeat {
    fn read(reader: &mut Reader<'_>, flags: u8) -> Result<Self, DecodeError> {
        let this = Self {
            stream: reader.stream()?,
            clock_us: reader.u32()?,
            next: reader.seq()?,
            trail: reader.seq()?,
            backoff: QuantDuration(reader.u8()?),
            grtt: QuantDuration(reader.u8()?),
            group_size: QuantCount(reader.u8()?),
            age: QuantDuration(reader.u8()?),
            is_coded: flags & FLAG_CODED != 0,
            is_closed: flags & FLAG_CLOSED != 0,
        };
        if this.trail > this.next {
            Err(DecodeError::Field("trail"))
        } else {
            Ok(this)
        }
    }
}

/// A request for repair: all gaps of one stream, lowest first (R-NACK-1).
#[derive(Clone, Copy, Debug)]
pub struct Nack<'a> {
    /// Whose data is missing.
    pub source: SourceId,
    /// In which of its lives.
    pub session: SessionId,
    /// In which stream.
    pub stream: StreamId,
    /// The last heartbeat's clock, and how long ago it came; `None` before the first heartbeat.
    pub echo: Option<Echo>,
    base: SeqNo,
    blocks: &'a [u8],
}

/// A heartbeat's clock on its way back, from which the source reckons the round-trip time (R-GRTT-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The clock that came, microseconds.
    pub clock_us: u32,
    /// How long it was held before it goes back, microseconds.
    pub held_us: u32,
}

impl Echo {
    /// `held_us` of a message that echoes nothing.
    pub(super) const NONE: u32 = u32::MAX;

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let (clock_us, held_us) = (reader.u32()?, reader.u32()?);
        Ok((held_us != Self::NONE).then_some(Self { clock_us, held_us }))
    }
}

/// A run of missing numbers and, behind it, a bitmap of the 16 numbers after the one that ended it (R-NACK-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NackBlock {
    /// Distance of the run from the NACK's base.
    pub(super) offset: u32,
    /// How many are missing in a row, at least 1.
    pub(super) run: u16,
    /// Bit i: the number at `offset + run + 1 + i` is missing too.
    pub(super) mask: u16,
}

impl NackBlock {
    pub(super) const BYTES: usize = 8;

    /// One after the last number that the block can name.
    pub(super) fn end(self) -> u64 {
        let tail = match self.mask {
            0 => 0,
            mask => 17 - u64::from(mask.leading_zeros()),
        };
        u64::from(self.offset) + u64::from(self.run) + tail
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            offset: reader.u32()?,
            run: reader.u16()?,
            mask: reader.u16()?,
        };
        if this.run == 0 {
            Err(DecodeError::Field("nack run"))
        } else {
            Ok(this)
        }
    }
}

impl<'a> Nack<'a> {
    /// The runs it asks for, ascending and apart from each other.
    pub fn ranges(&self) -> impl Iterator<Item = SeqRange> + use<'a> {
        let mut reader = Reader(self.blocks);
        let base = self.base;
        std::iter::from_fn(move || NackBlock::read(&mut reader).ok()).flat_map(move |block| {
            let start = base.plus(u64::from(block.offset));
            let after = start.plus(u64::from(block.run));
            let run = SeqRange::new(start, after);
            let singles = (0..16).filter(move |bit| block.mask >> bit & 1 == 1);
            run.into_iter()
                .chain(singles.map(move |bit| SeqRange::one(after.plus(1 + bit))))
        })
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let source = SourceId(reader.u64()?);
        let session = SessionId(reader.u64()?);
        let stream = reader.stream()?;
        let echo = Echo::read(reader)?;
        let base = reader.seq()?;
        let blocks = reader.0;
        let mut end = 0;
        loop {
            let block = NackBlock::read(reader)?;
            // Ascending and apart, or one datagram could ask for the same number a thousand times (R-NACK-2).
            if u64::from(block.offset) < end {
                return Err(DecodeError::Field("nack order"));
            }
            end = block.end();
            if reader.is_empty() {
                return Ok(Self {
                    source,
                    session,
                    stream,
                    echo,
                    base,
                    blocks,
                });
            }
        }
    }
}

/// "Older than trail, stop asking."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Squelch {
    /// Which stream.
    pub stream: StreamId,
    /// Oldest number that can still be repaired.
    pub trail: SeqNo,
}

/// What one station has of one stream: everything from `joined` up to, not including, `through`, but for `lost`
/// (R-REP-1). Cumulative, so the last one to arrive says it all.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Whose data.
    pub source: SourceId,
    /// In which of its lives.
    pub session: SessionId,
    /// Which stream.
    pub stream: StreamId,
    /// The last heartbeat's clock, and how long ago it came.
    pub echo: Option<Echo>,
    /// The first number the station counted on.
    pub joined: SeqNo,
    /// The contiguous mark: one after the last number delivered or reported lost.
    pub through: SeqNo,
    /// Numbers that the station missed, whether they came after all or were given up, modulo 2^32 (R-REP-5).
    pub missed: u32,
    /// It is to prove what it says to others, too (R-RCPT-1).
    pub is_receipt: bool,
    lost: &'a [u8],
}

impl<'a> Report<'a> {
    pub(super) const RANGE_BYTES: usize = 12;

    /// What the station reported lost, ascending.
    pub fn lost(&self) -> impl Iterator<Item = SeqRange> + use<'a> {
        let mut reader = Reader(self.lost);
        std::iter::from_fn(move || Self::read_range(&mut reader).ok())
    }

    fn read_range(reader: &mut Reader<'_>) -> Result<SeqRange, DecodeError> {
        let first = reader.seq()?;
        SeqRange::new(first, first.plus(u64::from(reader.u32()?)))
            .ok_or(DecodeError::Field("lost range"))
    }

    fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
        let mut this = Self {
            source: SourceId(reader.u64()?),
            session: SessionId(reader.u64()?),
            stream: reader.stream()?,
            echo: Echo::read(reader)?,
            is_receipt: flags & FLAG_RECEIPT != 0,
            joined: reader.seq()?,
            through: reader.seq()?,
            missed: reader.u32()?,
            lost: &[],
        };
        this.lost = reader.0;
        if this.joined > this.through {
            return Err(DecodeError::Field("report marks"));
        }
        let mut end = SeqNo::ZERO;
        while !reader.is_empty() {
            let range = Self::read_range(reader)?;
            if range.first() < end {
                return Err(DecodeError::Field("lost order"));
            }
            end = range.end();
        }
        Ok(this)
    }
}

/// "Send me your report": from a source to its group (R-REP-4).
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// About which stream.
    pub stream: StreamId,
    /// The reports are to prove what they say to others, too.
    pub wants_receipts: bool,
    stations: &'a [u8],
}

impl<'a> Ask<'a> {
    /// The stations that are asked; none means every one.
    pub fn stations(&self) -> impl Iterator<Item = SourceId> + use<'a> {
        let mut reader = Reader(self.stations);
        std::iter::from_fn(move || reader.u64().ok().map(SourceId))
    }

    /// Whether `station` is to answer.
    pub fn concerns(&self, station: SourceId) -> bool {
        self.stations.is_empty() || self.stations().any(|asked| asked == station)
    }

    fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: reader.stream()?,
            wants_receipts: flags & FLAG_RECEIPT != 0,
            stations: reader.eights()?,
        })
    }
}

/// "These numbers will never come": what is missing of them is not to be waited for (R-SKIP-1).
#[derive(Clone, Copy, Debug)]
pub struct Skip<'a> {
    /// Which stream.
    pub stream: StreamId,
    /// Why.
    pub why: SkipReason,
    runs: &'a [u8],
}

/// Why a number will never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// Its message was true only until now.
    Expired,
    /// A newer message has taken its message's place.
    Superseded,
}

impl SkipReason {
    /// The word for it in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Superseded => "superseded",
        }
    }
}

impl<'a> Skip<'a> {
    pub(super) const RUN_BYTES: usize = Report::RANGE_BYTES;

    /// The runs of numbers, ascending and apart.
    pub fn runs(&self) -> impl Iterator<Item = SeqRange> + use<'a> {
        let mut reader = Reader(self.runs);
        std::iter::from_fn(move || Report::read_range(&mut reader).ok())
    }

    fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
        let stream = reader.stream()?;
        let runs = reader.0;
        let mut end = SeqNo::ZERO;
        loop {
            let run = Report::read_range(reader)?;
            if run.first() < end {
                return Err(DecodeError::Field("skip order"));
            }
            end = run.end();
            if reader.is_empty() {
                break;
            }
        }
        let why = if flags & FLAG_SUPERSEDED == 0 {
            SkipReason::Expired
        } else {
            SkipReason::Superseded
        };
        Ok(Self { stream, why, runs })
    }
}

/// A block of a coded stream, and how much of it a shard or a request speaks of (R-FEC-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// Its first number, a multiple of [`BLOCK_LEN`].
    pub first: SeqNo,
    /// How many of its numbers are covered, 1 to [`BLOCK_LEN`]; the others count as empty.
    pub len: u8,
}

impl Block {
    /// The numbers covered.
    pub fn range(self) -> SeqRange {
        let end = self.first.plus(u64::from(self.len.max(1)));
        SeqRange::new(self.first, end).unwrap_or(SeqRange::one(self.first))
    }

    /// The first number of the block that `seq` lies in.
    pub const fn first_of(seq: SeqNo) -> SeqNo {
        SeqNo(seq.0 / BLOCK_LEN * BLOCK_LEN)
    }

    fn new(first: SeqNo, len: u8) -> Result<Self, DecodeError> {
        if first.0.is_multiple_of(BLOCK_LEN) && u64::from(len) <= BLOCK_LEN {
            Ok(Self { first, len })
        } else {
            Err(DecodeError::Field("block"))
        }
    }
}

/// One parity shard of a block (R-FEC-2).
#[derive(Clone, Copy, Debug)]
pub struct Parity<'a> {
    /// Which stream.
    pub stream: StreamId,
    /// What the source tells about the stream.
    pub advert: Advert,
    /// What it covers.
    pub block: Block,
    /// Which of the block's parity shards it is, below [`BLOCK_LEN`].
    pub index: u8,
    /// Its bytes, an even number.
    pub shard: &'a [u8],
}

impl<'a> Parity<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let stream = reader.stream()?;
        let trail_distance = reader.u32()?;
        let block = Block::new(reader.seq()?, reader.u8()?)?;
        let index = reader.u8()?;
        let backoff = QuantDuration(reader.u8()?);
        let age = QuantDuration(reader.u8()?);
        let shard = std::mem::take(&mut reader.0);
        let trail = block.first.0.checked_sub(u64::from(trail_distance));
        let is_sound = block.len > 0 && u64::from(index) < BLOCK_LEN;
        if !is_sound || shard.is_empty() || !shard.len().is_multiple_of(2) {
            return Err(DecodeError::Field("parity"));
        }
        let advert = Advert {
            trail: SeqNo(trail.ok_or(DecodeError::Field("trail"))?),
            backoff,
            age,
            is_coded: true,
        };
        Ok(Self {
            stream,
            advert,
            block,
            index,
            shard,
        })
    }
}

/// A request for parity: how many more shards of which blocks (R-NEED-1).
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// Whose data is missing.
    pub source: SourceId,
    /// In which of its lives.
    pub session: SessionId,
    /// In which stream.
    pub stream: StreamId,
    /// The last heartbeat's clock, and how long ago it came.
    pub echo: Option<Echo>,
    base: SeqNo,
    entries: &'a [u8],
}

/// What one block needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockNeed {
    /// The block, and how many of its numbers the receiver knows of; as many as the shards cover that `next_index` counts.
    pub block: Block,
    /// How many more shards mend it, 1 to [`BLOCK_LEN`].
    pub shards: u8,
    /// One after the highest index that the receiver has heard: shards below it are of no use to it.
    pub next_index: u8,
}

impl<'a> Need<'a> {
    pub(super) const ENTRY_BYTES: usize = 8;

    /// The blocks, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = BlockNeed> + use<'a> {
        let mut reader = Reader(self.entries);
        let base = self.base;
        std::iter::from_fn(move || Self::read_entry(base, &mut reader).ok())
    }

    fn read_entry(base: SeqNo, reader: &mut Reader<'_>) -> Result<BlockNeed, DecodeError> {
        let first = base.plus(u64::from(reader.u32()?) * BLOCK_LEN);
        let need = BlockNeed {
            block: Block::new(first, reader.u8()?)?,
            shards: reader.u8()?,
            next_index: reader.u8()?,
        };
        let is_sound = (1..=BLOCK_LEN).contains(&u64::from(need.shards))
            && u64::from(need.next_index) <= BLOCK_LEN
            && reader.u8()? == 0
            && first <= SeqNo::MAX;
        if is_sound {
            Ok(need)
        } else {
            Err(DecodeError::Field("need"))
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let source = SourceId(reader.u64()?);
        let session = SessionId(reader.u64()?);
        let stream = reader.stream()?;
        let echo = Echo::read(reader)?;
        let base = reader.seq()?;
        let entries = reader.0;
        let mut end = SeqNo::ZERO;
        loop {
            let need = Self::read_entry(base, reader)?;
            // Ascending, or one datagram could ask for one block a hundred times.
            if need.block.first < end {
                return Err(DecodeError::Field("need order"));
            }
            end = need.block.first.plus(BLOCK_LEN);
            if reader.is_empty() {
                break;
            }
        }
        Ok(Self {
            source,
            session,
            stream,
            echo,
            base,
            entries,
        })
    }
}

/// From a source to one receiver: whether it is in the group's pace (R-FLOW-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// In which stream.
    pub stream: StreamId,
    /// Who: an address alone may be somebody else's by now.
    pub station: SourceId,
    /// It has left the pace and catches up alone; else it is back.
    pub is_behind: bool,
}

/// The stations that ask at once while a back-off holds for the others (R-SCOUT-1).
#[derive(Clone, Copy, Debug)]
pub struct Scouts<'a>(&'a [u8]);

impl Scouts<'_> {
    /// Whether `station` is one of them.
    pub fn contains(&self, station: SourceId) -> bool {
        let mut reader = Reader(self.0);
        std::iter::from_fn(|| reader.u64().ok()).any(|scout| scout == station.0)
    }
}

impl<'a> Message<'a> {
    /// Takes the next message off `body` (R-MSG-1).
    fn read(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let kind = body.u8()?;
        let flags = body.u8()?;
        let len = body.u16()?;
        let mut reader = Reader(body.bytes(usize::from(len))?);
        let known_flags = match kind {
            kind::DATA => FLAG_REPAIR | FLAG_COPY | FLAG_CODED,
            kind::HEARTBEAT => FLAG_CLOSED | FLAG_CODED,
            kind::PRESENCE => FLAG_LEAVING,
            kind::ROSTER => FLAG_LAST,
            kind::SKIP => FLAG_SUPERSEDED,
            kind::PACE => FLAG_BEHIND,
            kind::REPORT | kind::ASK => FLAG_RECEIPT,
            kind::NACK | kind::SQUELCH | kind::ROLL_CALL => 0x00,
            kind::PARITY | kind::NEED | kind::SCOUTS | kind::ADDRESS_CHECK => 0x00,
            kind::ADDRESS_ECHO | kind::GRANT => 0x00,
            kind => return Ok(Self::Unknown(kind)),
        };
        if flags & !known_flags != 0 {
            return Err(DecodeError::Field("message flags"));
        }
        let message = match kind {
            kind::DATA => Self::Data(Data::read(&mut reader, flags)?),
            kind::HEARTBEAT => Self::Heartbeat(Heartbeat::read(&mut reader, flags)?),
            kind::NACK => Self::Nack(Nack::read(&mut reader)?),
            kind::SQUELCH => Self::Squelch(Squelch {
                stream: reader.stream()?,
                trail: reader.seq()?,
            }),
            kind::REPORT => Self::Report(Report::read(&mut reader, flags)?),
            kind::ASK => Self::Ask(Ask::read(&mut reader, flags)?),
            kind::PRESENCE => Self::Presence(Presence::read(&mut reader, flags)?),
            kind::ROLL_CALL => Self::RollCall(RollCall {
                group: reader.group()?,
                token: reader.u32()?,
            }),
            kind::ROSTER => Self::Roster(RosterPart::read(&mut reader, flags)?),
            kind::SKIP => Self::Skip(Skip::read(&mut reader, flags)?),
            kind::PARITY => Self::Parity(Parity::read(&mut reader)?),
            kind::NEED => Self::Need(Need::read(&mut reader)?),
            kind::PACE => Self::Pace(Pace {
                stream: reader.stream()?,
                station: SourceId(reader.u64()?),
                is_behind: flags & FLAG_BEHIND != 0,
            }),
            kind::ADDRESS_CHECK => Self::AddressCheck(AddressCheck::read(&mut reader)?),
            kind::ADDRESS_ECHO => Self::AddressEcho(AddressCheck::read(&mut reader)?),
            kind::GRANT => Self::Grant(std::mem::take(&mut reader.0)),
            _ => Self::Scouts(Scouts(reader.eights()?)),
        };
        if reader.is_empty() {
            Ok(message)
        } else {
            Err(DecodeError::Field("message length"))
        }
    }
}

/// The messages of a datagram, in order.
#[derive(Clone, Debug)]
pub struct Messages<'a>(Reader<'a>);

impl<'a> Messages<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self(Reader(body))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        // `decode` has checked every message, so an error here is the end of the body.
        Message::read(&mut self.0).ok()
    }
}

/// Reads every message of `body` once, for its faults; the first of them, which most datagrams have no other beside.
pub(super) fn check(body: &[u8]) -> Result<(Message<'_>, &[u8]), DecodeError> {
    let mut reader = Reader(body);
    let first = Message::read(&mut reader)?;
    let rest = reader.0;
    while !reader.is_empty() {
        Message::read(&mut reader)?;
    }
    Ok((first, rest))
}

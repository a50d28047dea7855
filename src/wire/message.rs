//! The messages of a datagram, as views of its bytes.

use super::{
    DecodeError, GroupId, QuantCount, QuantDuration, Reader, SeqNo, SeqRange, SessionId, SourceId,
    StreamId,
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
}

pub(super) const FLAG_REPAIR: u8 = 0x01;
pub(super) const FLAG_CLOSED: u8 = 0x01;
pub(super) const FLAG_LEAVING: u8 = 0x01;
pub(super) const FLAG_LAST: u8 = 0x01;
pub(super) const SEGMENT_BEGIN: u8 = 0x01;
pub(super) const SEGMENT_END: u8 = 0x02;

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
    /// Whether it answers a NACK.
    pub is_repair: bool,
    segments: &'a [u8],
}

impl<'a> Data<'a> {
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
        while !reader.is_empty() {
            Segment::read(reader)?;
        }
        let advert = Advert {
            trail,
            backoff,
            age,
        };
        Ok(Self {
            stream,
            first,
            advert,
            is_repair: flags & FLAG_REPAIR != 0,
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

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut this = Self {
            source: SourceId(reader.u64()?),
            session: SessionId(reader.u64()?),
            stream: reader.stream()?,
            echo: Echo::read(reader)?,
            joined: reader.seq()?,
            through: reader.seq()?,
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

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let stream = reader.stream()?;
        let stations = reader.0;
        if !stations.len().is_multiple_of(8) {
            return Err(DecodeError::Truncated);
        }
        reader.0 = &[];
        Ok(Self { stream, stations })
    }
}

/// "I am here", or "I am leaving": from a station to the groups it listens to (R-ROST-1).
#[derive(Clone, Copy, Debug)]
pub struct Presence<'a> {
    /// Its name; its id is the datagram's source.
    pub name: &'a str,
    /// It leaves in good order and is no longer expected.
    pub is_leaving: bool,
    groups: &'a [u8],
}

impl<'a> Presence<'a> {
    /// The groups it listens to.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<'a> {
        groups_of(self.groups)
    }

    fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
        let name = reader.name()?;
        let groups = reader.0;
        while !reader.is_empty() {
            reader.group()?;
        }
        Ok(Self {
            name,
            is_leaving: flags & FLAG_LEAVING != 0,
            groups,
        })
    }
}

fn groups_of(bytes: &[u8]) -> impl Iterator<Item = GroupId> + use<'_> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || reader.group().ok())
}

/// "Who is on this group?": from a source that starts anew (R-ROST-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollCall {
    /// Which group.
    pub group: GroupId,
    /// Drawn by the asker, so that answers find their question.
    pub token: u32,
}

/// Whom a station has heard: an answer to a roll call, or a part of one (R-ROST-5).
#[derive(Clone, Copy, Debug)]
pub struct RosterPart<'a> {
    /// The question it answers.
    pub token: u32,
    /// About which group.
    pub group: GroupId,
    /// Nothing more follows from this station.
    pub is_last: bool,
    entries: &'a [u8],
}

/// One station in a roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RosterEntry<'a> {
    /// Its id.
    pub station: SourceId,
    /// Seconds since it was last heard, capped.
    pub silent_s: u16,
    /// Its name.
    pub name: &'a str,
}

impl<'a> RosterPart<'a> {
    /// The stations it names.
    pub fn entries(&self) -> impl Iterator<Item = RosterEntry<'a>> + use<'a> {
        let mut reader = Reader(self.entries);
        std::iter::from_fn(move || RosterEntry::read(&mut reader).ok())
    }

    fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
        let token = reader.u32()?;
        let group = reader.group()?;
        let entries = reader.0;
        while !reader.is_empty() {
            RosterEntry::read(reader)?;
        }
        Ok(Self {
            token,
            group,
            is_last: flags & FLAG_LAST != 0,
            entries,
        })
    }
}

impl<'a> RosterEntry<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            station: SourceId(reader.u64()?),
            silent_s: reader.u16()?,
            name: reader.name()?,
        })
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
            kind::DATA | kind::HEARTBEAT | kind::PRESENCE | kind::ROSTER => 0x01,
            kind::NACK | kind::SQUELCH | kind::REPORT | kind::ASK | kind::ROLL_CALL => 0x00,
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
            kind::REPORT => Self::Report(Report::read(&mut reader)?),
            kind::ASK => Self::Ask(Ask::read(&mut reader)?),
            kind::PRESENCE => Self::Presence(Presence::read(&mut reader, flags)?),
            kind::ROLL_CALL => Self::RollCall(RollCall {
                group: reader.group()?,
                token: reader.u32()?,
            }),
            _ => Self::Roster(RosterPart::read(&mut reader, flags)?),
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

/// Reads every message of `body` once, for its faults.
pub(super) fn check(body: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader(body);
    while !reader.is_empty() {
        Message::read(&mut reader)?;
    }
    Ok(())
}

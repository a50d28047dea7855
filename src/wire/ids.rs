//! The names of things on the wire. Each is a type of its own, so that one is never taken for another.

use std::fmt;

/// Longest station name, in bytes of UTF-8: a Windows host name (15) or a login with a domain fits many times.
pub const NAME_BYTES_MAX: usize = 64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

id! {
    /// One deployment. Datagrams of another floor are dropped (R-HDR-3).
    FloorId(u32)
}
id! {
    /// An endpoint that may publish or answer; survives restarts because it is derived from a name (R-ID-1).
    SourceId(u64)
}
id! {
    /// One life of a source, drawn at random at its start (R-ID-2).
    SessionId(u64)
}
id! {
    /// A group, by the hash of its name, so that every workstation finds the same one (R-ID-3). 30 bits.
    GroupId(u32)
}

impl FloorId {
    /// The id of the floor called `name`.
    pub fn of(name: &str) -> Self {
        Self(fold32(fnv1a(&[b"floor", name.as_bytes()])))
    }
}

impl SourceId {
    /// The id of the station called `name` on `floor`.
    pub fn of(floor: FloorId, name: &str) -> Self {
        Self(fnv1a(&[b"source", &floor.0.to_be_bytes(), name.as_bytes()]))
    }
}

impl GroupId {
    const BITS: u32 = 30;

    /// The id of the group called `name`.
    pub fn of(name: &str) -> Self {
        Self(fold32(fnv1a(&[b"group", name.as_bytes()])) >> (32 - Self::BITS))
    }
}

/// Priority class. Lanes never block each other (R-LANE-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Danger to people: goes before everything else.
    Emergency,
    /// What a floor says all day.
    Routine,
    /// Files, policies, anything that can wait.
    Bulk,
}

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Emergency, Self::Routine, Self::Bulk];

    /// The word for it on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Emergency => "emergency",
            Self::Routine => "routine",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a notice is meant: the `status` of OASIS CAP 1.2, section 3.2.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// To be acted on by all.
    #[default]
    Actual,
    /// To be acted on by those who take part in an exercise.
    Exercise,
    /// From program to program.
    System,
    /// A test, to be disregarded.
    Test,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Actual, Self::Exercise, Self::System, Self::Test];

    /// The status with this number.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Actual,
            1 => Self::Exercise,
            2 => Self::System,
            _ => Self::Test,
        }
    }

    /// The word for it on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Actual => "actual",
            Self::Exercise => "exercise",
            Self::System => "system",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An ordered sequence space of a session: one group, one lane (R-ID-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// The stream of `group` on `lane`.
    pub const fn new(group: GroupId, lane: Lane) -> Self {
        Self(group.0 << 2 | lane as u32)
    }

    /// From its 32 bits on the wire; `None` where the two lane bits name no lane.
    pub const fn from_wire(bits: u32) -> Option<Self> {
        if bits & 3 < 3 { Some(Self(bits)) } else { None }
    }

    /// Its 32 bits on the wire.
    pub const fn to_wire(self) -> u32 {
        self.0
    }

    /// The group whose members hear it.
    pub const fn group(self) -> GroupId {
        GroupId(self.0 >> 2)
    }

    /// Its priority class.
    pub const fn lane(self) -> Lane {
        match self.0 & 3 {
            0 => Lane::Emergency,
            1 => Lane::Routine,
            _ => Lane::Bulk,
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group(), self.lane())
    }
}

/// A sequence number: names a segment within a stream. 64 bits, so it never wraps: at 10 million a second for 58,000
/// years. The top value is never used, so that "one after the last" always exists (R-SEQ-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// The first number of every session.
    pub const ZERO: Self = Self(0);
    /// The largest number that may travel: a quarter of the space, so that sums of two never overflow.
    pub const MAX: Self = Self(u64::MAX / 4);

    /// The number `n` after this one.
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// How many numbers lie from `earlier` up to, not including, `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of sequence numbers, `first` up to, not including, `end`. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqRange {
    first: SeqNo,
    end: SeqNo,
}

impl SeqRange {
    /// The run from `first` up to, not including, `end`; `None` when that is empty.
    pub fn new(first: SeqNo, end: SeqNo) -> Option<Self> {
        (first < end).then_some(Self { first, end })
    }

    /// The run of one number.
    pub const fn one(seq: SeqNo) -> Self {
        Self {
            first: seq,
            end: seq.plus(1),
        }
    }

    /// Its lowest number.
    pub const fn first(self) -> SeqNo {
        self.first
    }

    /// Its highest number.
    pub const fn last(self) -> SeqNo {
        SeqNo(self.end.0 - 1)
    }

    /// One after its highest number.
    pub const fn end(self) -> SeqNo {
        self.end
    }

    /// How many numbers it holds, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub const fn len(self) -> u64 {
        self.end.0 - self.first.0
    }

    /// Whether `seq` lies in it.
    pub fn contains(self, seq: SeqNo) -> bool {
        self.first <= seq && seq < self.end
    }

    /// The part that two runs share.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.end.min(other.end))
    }

    /// Its numbers, lowest first.
    pub fn iter(self) -> impl Iterator<Item = SeqNo> {
        (self.first.0..self.end.0).map(SeqNo)
    }
}

impl fmt::Display for SeqRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.end)
    }
}

/// Whether `name` may name a station: 1 to [`NAME_BYTES_MAX`] bytes without control characters (R-ID-5).
pub fn is_station_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv): names to ids where no key exists yet. Parts are kept apart by
/// a zero byte. Not a defence against forged names: that is what grants are for.
fn fnv1a(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let bytes = parts
        .iter()
        .flat_map(|part| part.iter().chain(std::iter::once(&0)));
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the fold keeps the low half on purpose"
)]
const fn fold32(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_id_holds_group_and_lane() {
        for lane in Lane::ALL {
            let stream = StreamId::new(GroupId::of("billing"), lane);
            assert_eq!(
                (stream.group(), stream.lane()),
                (GroupId::of("billing"), lane)
            );
            assert_eq!(StreamId::from_wire(stream.to_wire()), Some(stream));
        }
        assert_eq!(StreamId::from_wire(3), None);
    }

    #[test]
    fn names_are_checked() {
        assert!(is_station_name("ws-017 Süd"));
        for bad in ["", "a\nb", "\u{7f}", &"x".repeat(65)] {
            assert!(!is_station_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn ids_keep_their_parts_apart() {
        assert_ne!(FloorId::of("ab"), FloorId::of("ba"));
        assert_ne!(SourceId::of(FloorId(1), "a"), SourceId::of(FloorId(2), "a"));
    }
}

//! The messages about who is on the floor, and where.

use super::message::{FLAG_LAST, FLAG_LEAVING};
use super::{DecodeError, GroupId, Reader, SessionId, SourceId};

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

    pub(super) fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
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

    pub(super) fn read(reader: &mut Reader<'a>, flags: u8) -> Result<Self, DecodeError> {
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
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            station: SourceId(reader.u64()?),
            silent_s: reader.u16()?,
            name: reader.name()?,
        })
    }
}

/// A question whether somebody can be reached at an address, and its answer (R-ADDR-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressCheck {
    /// For whom.
    pub station: SourceId,
    /// In which of its lives.
    pub session: SessionId,
    /// What only the asker can have written, and the one at that address can have read.
    pub token: u64,
}

impl AddressCheck {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (station, session) = (SourceId(reader.u64()?), SessionId(reader.u64()?));
        let token = reader.u64()?;
        let this = Self {
            station,
            session,
            token,
        };
        Ok(this)
    }
}

//! What one source's key may say: a statement of the floor's root.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::wire::{
    FloorId, GroupId, Lane, NAME_BYTES_MAX, SourceId, Status, StreamId, is_station_name,
};

use super::{About, PrivateKey, PublicKey, StatementError, begin, open, sign};

/// Most groups that a grant names one by one; a floor has no more.
const GROUPS_MAX: usize = 128;

/// What a grant says (R-GRANT-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTerms {
    /// The source's name on the floor.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// Where it may publish; none: on every group.
    pub groups: BTreeSet<GroupId>,
    /// With which urgency, at least one.
    pub lanes: BTreeSet<Lane>,
    /// Whether it may mean it, at least one.
    pub statuses: BTreeSet<Status>,
    /// From when on, seconds since 1970.
    pub not_before: u64,
    /// Until when, that second not included.
    pub not_after: u64,
}

/// Terms that a floor's root has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    terms: GrantTerms,
    source: SourceId,
    signed: Vec<u8>,
}

/// Why a grant does not cover something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It does not hold yet.
    #[error("its grant does not hold yet")]
    Early,
    /// It holds no more.
    #[error("its grant has expired")]
    Expired,
    /// It is for other groups.
    #[error("its grant does not name this group")]
    Group,
    /// It is for other lanes.
    #[error("its grant does not name this lane")]
    Lane,
    /// It is for another status.
    #[error("its grant does not name this status")]
    Status,
}

impl Grant {
    /// Signs `terms` with the floor's root key.
    ///
    /// # Errors
    /// [`StatementError::Damaged`] with the name of a term that no grant may have.
    pub fn sign(
        root: &PrivateKey,
        floor: FloorId,
        terms: GrantTerms,
    ) -> Result<Self, StatementError> {
        check(&terms)?;
        let mut statement = begin(floor);
        let name = terms.name.as_bytes();
        statement.push(u8::try_from(name.len()).map_err(|_| StatementError::Damaged("name"))?);
        statement.extend_from_slice(name);
        statement.extend_from_slice(&terms.key.to_bytes());
        let lanes = terms.lanes.iter().map(|&lane| 1 << lane as u8);
        statement.push(lanes.fold(0, |all: u8, lane| all | lane));
        let statuses = terms.statuses.iter().map(|&status| 1 << status as u8);
        statement.push(statuses.fold(0, |all: u8, status| all | status));
        let groups = u8::try_from(terms.groups.len());
        statement.push(groups.map_err(|_| StatementError::Damaged("groups"))?);
        for group in &terms.groups {
            statement.extend_from_slice(&group.0.to_be_bytes());
        }
        statement.extend_from_slice(&terms.not_before.to_be_bytes());
        statement.extend_from_slice(&terms.not_after.to_be_bytes());
        Ok(Self {
            source: SourceId::of(floor, &terms.name),
            signed: sign(root, About::Grant, statement),
            terms,
        })
    }

    /// Reads a grant, and checks that the root of `floor` has signed it. Whether it holds now is for
    /// [`permits`](Self::permits).
    ///
    /// # Errors
    /// [`StatementError`] when it is none, or nobody's word.
    pub fn open(signed: &[u8], root: &PublicKey, floor: FloorId) -> Result<Self, StatementError> {
        let mut reader = open(signed, About::Grant, root, floor)?;
        let name_bytes = usize::from(reader.u8("name")?);
        let name = std::str::from_utf8(reader.bytes(name_bytes, "name")?);
        let name = name.map_err(|_| StatementError::Damaged("name"))?;
        let key = reader.key("key")?;
        let lanes = reader.u8("lanes")?;
        let statuses = reader.u8("statuses")?;
        let count = reader.u8("groups")?;
        let mut groups = BTreeSet::new();
        for _ in 0..count {
            let group = GroupId(reader.u32("groups")?);
            // Ascending, so that there is one way to write a grant.
            if groups.last().is_some_and(|&last| last >= group) {
                return Err(StatementError::Damaged("groups"));
            }
            groups.insert(group);
        }
        let terms = GrantTerms {
            name: name.to_owned(),
            key,
            groups,
            lanes: of_bits(lanes, Lane::ALL, |lane| lane as u8, "lanes")?,
            statuses: of_bits(statuses, Status::ALL, |status| status as u8, "statuses")?,
            not_before: reader.u64("time")?,
            not_after: reader.u64("time")?,
        };
        reader.end("end")?;
        check(&terms)?;
        Ok(Self {
            source: SourceId::of(floor, &terms.name),
            signed: signed.to_vec(),
            terms,
        })
    }

    /// What it says.
    pub const fn terms(&self) -> &GrantTerms {
        &self.terms
    }

    /// Whom it is about.
    pub const fn source(&self) -> SourceId {
        self.source
    }

    /// It as the root has signed it.
    pub fn to_bytes(&self) -> &[u8] {
        &self.signed
    }

    /// Whether its source may publish on `stream` at `now`.
    ///
    /// # Errors
    /// [`Refusal`], the first reason why not.
    pub fn permits(&self, now: u64, stream: StreamId) -> Result<(), Refusal> {
        let terms = &self.terms;
        self.holds(now)?;
        if !terms.groups.is_empty() && !terms.groups.contains(&stream.group()) {
            return Err(Refusal::Group);
        }
        if !terms.lanes.contains(&stream.lane()) {
            return Err(Refusal::Lane);
        }
        Ok(())
    }

    /// Whether it holds at `now`.
    ///
    /// # Errors
    /// [`Refusal`] if it does not yet, or no more.
    pub const fn holds(&self, now: u64) -> Result<(), Refusal> {
        if now < self.terms.not_before {
            Err(Refusal::Early)
        } else if now >= self.terms.not_after {
            Err(Refusal::Expired)
        } else {
            Ok(())
        }
    }

    /// Whether its source may say something with `status`.
    ///
    /// # Errors
    /// [`Refusal::Status`] if not.
    pub fn permits_status(&self, status: Status) -> Result<(), Refusal> {
        if self.terms.statuses.contains(&status) {
            Ok(())
        } else {
            Err(Refusal::Status)
        }
    }
}

fn check(terms: &GrantTerms) -> Result<(), StatementError> {
    let is_sound = [
        (
            "name",
            is_station_name(&terms.name) && terms.name.len() <= NAME_BYTES_MAX,
        ),
        ("lanes", !terms.lanes.is_empty()),
        ("statuses", !terms.statuses.is_empty()),
        ("groups", terms.groups.len() <= GROUPS_MAX),
        ("time", terms.not_before < terms.not_after),
    ];
    match is_sound.iter().find(|(_, is_sound)| !is_sound) {
        Some((field, _)) => Err(StatementError::Damaged(field)),
        None => Ok(()),
    }
}

fn of_bits<T: Copy + Ord>(
    bits: u8,
    all: impl IntoIterator<Item = T>,
    place: impl Fn(T) -> u8,
    field: &'static str,
) -> Result<BTreeSet<T>, StatementError> {
    let mut rest = bits;
    let mut found = BTreeSet::new();
    for one in all {
        let bit = 1 << place(one);
        if rest & bit != 0 {
            found.insert(one);
            rest &= !bit;
        }
    }
    if rest == 0 {
        Ok(found)
    } else {
        Err(StatementError::Damaged(field))
    }
}

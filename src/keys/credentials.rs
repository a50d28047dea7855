//! What a station brings to a floor that is protected.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::{Lane, SourceId};

use super::{Grant, GroupKeys, PrivateKey, PublicKey, Revocations};

/// What a station needs to take part in a protected floor.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Whose word counts on the floor.
    pub root: PublicKey,
    /// The station's own key: a source's, or a workstation's that it made at its first start.
    pub key: PrivateKey,
    /// What the root lets it publish; `None`: nothing.
    pub grant: Option<Grant>,
    /// What the floor's datagrams are protected with.
    pub group_keys: GroupKeys,
    /// Keys that count no more.
    pub revoked: Revocations,
    /// Which workstations are taken at their word.
    pub enrolment: Enrolment,
    /// Lanes whose datagrams bear no signature: whoever holds the floor's key can forge them. The floor says which, and by
    /// default none.
    pub unsigned: BTreeSet<Lane>,
}

/// Which key a workstation may speak with (R-ENROL-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Known by name already: listed by the floor, or met before.
    pub known: BTreeMap<SourceId, PublicKey>,
    /// What becomes of those who are not.
    pub others: Others,
}

/// What becomes of a workstation that is not known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Its first key is its key from then on, and its fingerprint is shown.
    FirstUse,
    /// It is refused.
    Refused,
}

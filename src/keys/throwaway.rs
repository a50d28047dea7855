//! A floor's keys, all made of one seed and kept nowhere: for demonstrations and simulations.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use crate::wire::{FloorId, GroupId, Lane, Status};

use super::{
    Credentials, Enrolment, Grant, GrantTerms, GroupKeys, KEY_BYTES, Others, PrivateKey,
    Revocations,
};

/// How long throw-away grants hold, seconds: longer than any demonstration.
const DAY_S: u64 = 86_400;

/// The keys of a floor that nobody keeps. Whoever knows the seed knows all of them.
#[derive(Debug)]
pub struct ThrowAway {
    floor: FloorId,
    seed: [u8; KEY_BYTES],
    now: u64,
    root: PrivateKey,
    group_keys: GroupKeys,
    revoked: Revocations,
}

impl ThrowAway {
    /// The keys that `seed` makes for `floor`, in use from the second `now` on.
    pub fn new(floor: FloorId, seed: [u8; KEY_BYTES], now: u64) -> Self {
        let root = PrivateKey::from_seed(&part(&seed, "root", ""));
        let group_keys = GroupKeys::first(&root, floor, now, part(&seed, "group", ""));
        let revoked = Revocations::none(&root, floor, now);
        Self {
            floor,
            seed,
            now,
            root,
            group_keys,
            revoked,
        }
    }

    /// The floor's root.
    pub const fn root(&self) -> &PrivateKey {
        &self.root
    }

    /// What all of the floor share at first.
    pub const fn group_keys(&self) -> &GroupKeys {
        &self.group_keys
    }

    /// The list of revoked keys, empty at first.
    pub const fn revoked(&self) -> &Revocations {
        &self.revoked
    }

    /// The key of the station called `name`.
    pub fn key(&self, name: &str) -> PrivateKey {
        PrivateKey::from_seed(&part(&self.seed, "station", name))
    }

    /// What a workstation brings: its key, and the floor's; others are taken at first sight.
    pub fn workstation(&self, name: &str) -> Credentials {
        Credentials {
            root: self.root.public(),
            key: self.key(name),
            grant: None,
            group_keys: self.group_keys.clone(),
            revoked: self.revoked.clone(),
            enrolment: Enrolment {
                known: BTreeMap::new(),
                others: Others::FirstUse,
            },
            unsigned: BTreeSet::new(),
        }
    }

    /// What a source brings that may say everything on `groups` (none: on every group) for a day.
    ///
    /// # Panics
    /// When `name` is no station name.
    pub fn source(&self, name: &str, groups: &[GroupId]) -> Credentials {
        let terms = self.terms(name, groups);
        let grant = Grant::sign(&self.root, self.floor, terms);
        Credentials {
            grant: Some(grant.expect("the name was checked where it came in")),
            ..self.workstation(name)
        }
    }

    /// The terms that [`ThrowAway::source`] grants.
    pub fn terms(&self, name: &str, groups: &[GroupId]) -> GrantTerms {
        GrantTerms {
            name: name.to_owned(),
            key: self.key(name).public(),
            groups: groups.iter().copied().collect(),
            lanes: Lane::ALL.into(),
            statuses: Status::ALL.into(),
            not_before: self.now.saturating_sub(DAY_S),
            not_after: self.now + DAY_S,
        }
    }
}

fn part(seed: &[u8; KEY_BYTES], what: &str, name: &str) -> [u8; KEY_BYTES] {
    Sha256::new()
        .chain_update(seed)
        .chain_update(what)
        .chain_update([0])
        .chain_update(name)
        .finalize()
        .into()
}

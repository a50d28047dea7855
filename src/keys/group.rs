//! The keys that a floor shares: whoever holds one hears the floor. They change, with an overlap, so that nothing is lost on
//! the way from one to the next.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::wire::FloorId;

use super::{About, KEY_BYTES, PrivateKey, PublicKey, Reader, StatementError, begin, open, sign};

/// Most keys at a time: the one in use, the ones before it that still count, and one to come. More are refused.
const KEYS_MAX: usize = 8;
/// How far the clocks of a floor may be apart, seconds: a key is taken so much earlier and later than it is used.
const CLOCKS_APART_S: u64 = 300;

/// Which key protects a datagram. 0 is the open laboratory's and never a key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub u16);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key that a floor shares, and when it is used. Its memory is wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKey {
    id: KeyId,
    secret: Zeroizing<[u8; KEY_BYTES]>,
    not_before: u64,
    not_after: u64,
}

impl GroupKey {
    /// Its name on the wire.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key itself.
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    /// From when on it is used, seconds since 1970.
    pub const fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Until when, that second not included; `u64::MAX` while no other follows.
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupKey {}", self.id)
    }
}

/// The keys of a floor, as its root has signed them.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKeys {
    /// Oldest first.
    keys: Vec<GroupKey>,
    signed: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for GroupKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

/// How one key follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How long everybody has to fetch the new key before it is used, seconds.
    pub lead_s: u64,
    /// How long the old one still counts after that, seconds.
    pub overlap_s: u64,
}

/// Why keys are not rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RotationError {
    /// One that does as much is to come: it is this one, asked for twice.
    #[error("key {id} takes over at {at} already")]
    Done {
        /// The key that does.
        id: KeyId,
        /// When, seconds since 1970.
        at: u64,
    },
    /// So many keys still count.
    #[error("{KEYS_MAX} keys count at present; wait until the oldest does no more")]
    Full,
}

impl GroupKeys {
    /// The first key of a floor, used from `now` on.
    pub fn first(root: &PrivateKey, floor: FloorId, now: u64, secret: [u8; KEY_BYTES]) -> Self {
        let key = GroupKey {
            id: KeyId(1),
            secret: Zeroizing::new(secret),
            not_before: now,
            not_after: u64::MAX,
        };
        Self::signed(root, floor, vec![key])
    }

    /// Lets another key follow (R-GKEY-2). A key that was to come only after that is replaced: whoever has it, has it from the
    /// list that this rotation is to make worthless. `secrets` are of the next key, and of the one in place of that.
    ///
    /// # Errors
    /// [`RotationError`]; the keys stay what they are.
    pub fn rotated(
        &self,
        root: &PrivateKey,
        floor: FloorId,
        now: u64,
        rotation: Rotation,
        secrets: [[u8; KEY_BYTES]; 2],
    ) -> Result<Self, RotationError> {
        let from = now.saturating_add(rotation.lead_s);
        let until = from.saturating_add(rotation.overlap_s);
        let Some((newest, older)) = self.keys.split_last() else {
            return Err(RotationError::Full);
        };
        let is_to_come = newest.not_before > now && newest.not_before <= from;
        let has_ended = |key: &GroupKey| key.not_after <= until.max(newest.not_before);
        if !older.is_empty() && is_to_come && older.iter().all(has_ended) {
            return Err(RotationError::Done {
                id: newest.id,
                at: newest.not_before,
            });
        }
        let mut keys = self.keys.clone();
        keys.retain(|key| now < key.not_after.saturating_add(CLOCKS_APART_S));
        let mut to_come = None;
        while let Some(key) = keys.pop_if(|key| key.not_before > from) {
            to_come = to_come.max(Some(key.not_before));
        }
        let [secret, later_secret] = secrets.map(Zeroizing::new);
        let mut id = newest.id;
        let mut next = |secret, not_before| {
            id = KeyId(id.0.checked_add(1).unwrap_or(1));
            GroupKey {
                id,
                secret,
                not_before,
                not_after: u64::MAX,
            }
        };
        // No two begin in one second: of two lists, the one whose newest key begins later is the later one.
        let last = keys.last().map_or(0, |key| key.not_before);
        let mut added = vec![next(secret, from.max(last.saturating_add(1)))];
        if let Some(to_come) = to_come {
            added.push(next(later_secret, to_come.saturating_add(1)));
        }
        for key in added {
            let end = key.not_before.saturating_add(rotation.overlap_s);
            for before in &mut keys {
                before.not_after = before.not_after.min(end);
            }
            keys.push(key);
        }
        // What ends now counts on for clocks that are behind; where many rotations follow each other, it makes room.
        while keys.len() > KEYS_MAX {
            if keys[0].not_after > now.saturating_add(1) {
                return Err(RotationError::Full);
            }
            keys.remove(0);
        }
        Ok(Self::signed(root, floor, keys))
    }

    fn signed(root: &PrivateKey, floor: FloorId, keys: Vec<GroupKey>) -> Self {
        let mut statement = begin(floor);
        for key in &keys {
            statement.extend_from_slice(&key.id.0.to_be_bytes());
            statement.extend_from_slice(&key.not_before.to_be_bytes());
            statement.extend_from_slice(&key.not_after.to_be_bytes());
            statement.extend_from_slice(&*key.secret);
        }
        Self {
            signed: Zeroizing::new(sign(root, About::GroupKeys, statement)),
            keys,
        }
    }

    /// Reads keys, and checks that the root of `floor` has signed them.
    ///
    /// # Errors
    /// [`StatementError`] when they are none, or nobody's word.
    pub fn open(signed: &[u8], root: &PublicKey, floor: FloorId) -> Result<Self, StatementError> {
        let mut reader = open(signed, About::GroupKeys, root, floor)?;
        let mut keys: Vec<GroupKey> = Vec::new();
        while reader.end("keys").is_err() {
            let key = Self::read(&mut reader)?;
            let is_next = keys
                .last()
                .is_none_or(|last| last.id != key.id && last.not_before <= key.not_before);
            if !is_next || keys.len() >= KEYS_MAX {
                return Err(StatementError::Damaged("keys"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(StatementError::Damaged("keys"));
        }
        Ok(Self {
            keys,
            signed: Zeroizing::new(signed.to_vec()),
        })
    }

    fn read(reader: &mut Reader<'_>) -> Result<GroupKey, StatementError> {
        let key = GroupKey {
            id: KeyId(reader.u16("id")?),
            not_before: reader.u64("time")?,
            not_after: reader.u64("time")?,
            secret: Zeroizing::new(reader.array("key")?),
        };
        if key.id == KeyId(0) || key.not_before >= key.not_after {
            return Err(StatementError::Damaged("keys"));
        }
        Ok(key)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &GroupKey> {
        self.keys.iter()
    }

    /// From when on the newest of them is used: of two lists of keys, the one with the later is not the older.
    pub fn newest_from(&self) -> u64 {
        self.keys.last().map_or(0, |key| key.not_before)
    }

    /// What to protect with at `now`: the newest key in use (R-GKEY-1).
    pub fn sending(&self, now: u64) -> Option<&GroupKey> {
        let in_use = |key: &&GroupKey| (key.not_before..key.not_after).contains(&now);
        self.keys.iter().rev().find(in_use)
    }

    /// The key called `id`, if what it protects is to be taken at `now`; clocks may be five minutes apart.
    pub fn accepting(&self, id: KeyId, now: u64) -> Option<&GroupKey> {
        let key = self.keys.iter().find(|key| key.id == id)?;
        let from = key.not_before.saturating_sub(CLOCKS_APART_S);
        let until = key.not_after.saturating_add(CLOCKS_APART_S);
        (from..until).contains(&now).then_some(key)
    }

    /// They as the root has signed them: a secret.
    pub fn to_bytes(&self) -> &[u8] {
        &self.signed
    }
}

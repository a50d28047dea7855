//! Keys whose word counts no more, whatever their grants say.

use std::collections::BTreeSet;

use crate::wire::FloorId;

use super::{
    About, KEY_BYTES, PrivateKey, PublicKey, SIGNATURE_BYTES, StatementError, begin, open, sign,
};

/// Most keys that a list names: thrice the workstations of the largest floor. A longer one is refused when it is signed.
const REVOKED_MAX: usize = 16_384;

/// A floor's list of revoked keys, as its root has signed it. A later edition takes the place of an earlier one, never the
/// other way round (R-GRANT-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    edition: u64,
    issued: u64,
    keys: BTreeSet<[u8; KEY_BYTES]>,
    signed: Vec<u8>,
}

impl Revocations {
    /// Signs the first list of a floor, which revokes nobody.
    pub fn none(root: &PrivateKey, floor: FloorId, now: u64) -> Self {
        Self::signed(root, floor, 0, now, BTreeSet::new())
    }

    /// Signs a list that revokes `key` as well; `None` when it is revoked already.
    ///
    /// # Errors
    /// [`StatementError::Damaged`] when the list is full.
    pub fn with(
        &self,
        root: &PrivateKey,
        floor: FloorId,
        now: u64,
        key: &PublicKey,
    ) -> Result<Option<Self>, StatementError> {
        let mut keys = self.keys.clone();
        if !keys.insert(key.to_bytes()) {
            return Ok(None);
        }
        if keys.len() > REVOKED_MAX {
            return Err(StatementError::Damaged("count"));
        }
        let edition = self.edition.saturating_add(1);
        Ok(Some(Self::signed(root, floor, edition, now, keys)))
    }

    fn signed(
        root: &PrivateKey,
        floor: FloorId,
        edition: u64,
        issued: u64,
        keys: BTreeSet<[u8; KEY_BYTES]>,
    ) -> Self {
        let mut statement = begin(floor);
        statement.extend_from_slice(&edition.to_be_bytes());
        statement.extend_from_slice(&issued.to_be_bytes());
        for key in &keys {
            statement.extend_from_slice(key);
        }
        Self {
            edition,
            issued,
            signed: sign(root, About::Revocations, statement),
            keys,
        }
    }

    /// Reads a list, and checks that the root of `floor` has signed it.
    ///
    /// # Errors
    /// [`StatementError`] when it is none, or nobody's word.
    pub fn open(signed: &[u8], root: &PublicKey, floor: FloorId) -> Result<Self, StatementError> {
        if signed.len() > SIGNATURE_BYTES + 32 + REVOKED_MAX * KEY_BYTES {
            return Err(StatementError::Damaged("count"));
        }
        let mut reader = open(signed, About::Revocations, root, floor)?;
        let edition = reader.u64("edition")?;
        let issued = reader.u64("time")?;
        let mut keys = BTreeSet::new();
        while reader.end("keys").is_err() {
            let key = reader.array("keys")?;
            if keys.last().is_some_and(|last| *last >= key) {
                return Err(StatementError::Damaged("keys"));
            }
            keys.insert(key);
        }
        Ok(Self {
            edition,
            issued,
            keys,
            signed: signed.to_vec(),
        })
    }

    /// Whether `key` counts no more.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.keys.contains(&key.to_bytes())
    }

    /// Counts the lists of a floor, from 0.
    pub const fn edition(&self) -> u64 {
        self.edition
    }

    /// When it was signed, seconds since 1970.
    pub const fn issued(&self) -> u64 {
        self.issued
    }

    /// How many keys it names.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// It as the root has signed it.
    pub fn to_bytes(&self) -> &[u8] {
        &self.signed
    }
}

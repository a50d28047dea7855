//! That a floor's root stands behind the bytes of a floor file: a statement of its own, kept beside the file, so that the
//! file stays what a person wrote.

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::wire::FloorId;

use super::{About, PrivateKey, PublicKey, StatementError, begin, open_any, sign};

/// Bytes of a hash of SHA-256.
const HASH_BYTES: usize = 32;

/// What a floor's root has signed of its floor file: which bytes they are, and which edition (R-FSIG-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorFile {
    floor: FloorId,
    edition: u64,
    issued: u64,
    hash: [u8; HASH_BYTES],
    signed: Vec<u8>,
}

/// The file is not what was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is not what the floor's root key has signed: it was changed since")]
pub struct Changed;

impl FloorFile {
    /// Signs the bytes of a floor file.
    pub fn sign(
        root: &PrivateKey,
        floor: FloorId,
        edition: u64,
        issued: u64,
        contents: &[u8],
    ) -> Self {
        let hash: [u8; HASH_BYTES] = Sha256::digest(contents).into();
        let mut statement = begin(floor);
        statement.extend_from_slice(&edition.to_be_bytes());
        statement.extend_from_slice(&issued.to_be_bytes());
        statement.extend_from_slice(&hash);
        Self {
            floor,
            edition,
            issued,
            hash,
            signed: sign(root, About::FloorFile, statement),
        }
    }

    /// Reads a statement, and checks that `root` has signed it. Of which floor it is says it itself, since a floor's id is
    /// known only from the file that it is about; and that is not to be read before it is known to be sound.
    ///
    /// # Errors
    /// [`StatementError`] when it is none, or nobody's word.
    pub fn open(signed: &[u8], root: &PublicKey) -> Result<Self, StatementError> {
        let (floor, mut reader) = open_any(signed, About::FloorFile, root)?;
        let opened = Self {
            floor,
            edition: reader.u64("edition")?,
            issued: reader.u64("time")?,
            hash: reader.array("hash")?,
            signed: signed.to_vec(),
        };
        reader.end("end")?;
        Ok(opened)
    }

    /// Checks that `contents` are the bytes that were signed (R-FSIG-2).
    ///
    /// # Errors
    /// [`Changed`] if any of them is another.
    pub fn verify(&self, contents: &[u8]) -> Result<(), Changed> {
        // Nothing here is a secret, so it may take as long as it takes.
        if Sha256::digest(contents)[..] == self.hash {
            Ok(())
        } else {
            Err(Changed)
        }
    }

    /// The floor that the file is of.
    pub const fn floor(&self) -> FloorId {
        self.floor
    }

    /// Counts the floor's files, from 1.
    pub const fn edition(&self) -> u64 {
        self.edition
    }

    /// When it was signed, seconds since 1970.
    pub const fn issued(&self) -> u64 {
        self.issued
    }

    /// It as the root has signed it.
    pub fn to_bytes(&self) -> &[u8] {
        &self.signed
    }
}

//! Who may say what: keys, the grants that a floor's root signs, and what was revoked.
//!
//! Every workstation of a floor holds its group key, so holding that is no authority. Authority is a grant: the root's
//! signature under which groups and lanes one source's key may publish on, with which status, and for how long.
//!
//! Pure: seeds, salts and the time come in. Times are seconds since 1970. Signatures are Ed25519 (RFC 8032), checked
//! strictly; what is signed begins with a word for what it is, so that a signature under one kind of statement is none under
//! another (R-STATE-1).

mod cipher;
mod credentials;
mod floor_file;
mod grant;
mod group;
mod revoked;
mod seal;
#[cfg(test)]
mod tests;
mod throwaway;

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, Verifier as _, VerifyingKey};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::wire::FloorId;

pub use crate::wire::Status;
pub use cipher::{DatagramKey, NONCE_BYTES, PairKey, TAG_BYTES};
pub use credentials::{Credentials, Enrolment, Others};
pub use floor_file::{Changed, FloorFile};
pub use grant::{Grant, GrantTerms, Refusal};
pub use group::{GroupKey, GroupKeys, KeyId, Rotation, RotationError};
pub use revoked::Revocations;
pub use seal::{SealError, SealInput};
pub use throwaway::ThrowAway;

/// Bytes of a public key, of a private key's seed, and of a group key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
/// The version that opens every statement and every file of a key.
const FORMAT: u8 = 1;

/// What a signature is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Grant,
    Revocations,
    GroupKeys,
    FloorFile,
}

impl About {
    const fn words(self) -> &'static [u8] {
        match self {
            Self::Grant => b"floorcast grant\0",
            Self::Revocations => b"floorcast revocations\0",
            Self::GroupKeys => b"floorcast group keys\0",
            Self::FloorFile => b"floorcast floor file\0",
        }
    }
}

/// Bytes of what a signature of a train is about.
pub const TRAIN_STATEMENT_BYTES: usize = 45;
const TRAIN_WORDS: &[u8; 16] = b"floorcast train\0";

/// What is signed of a train. Statements are seldom and put together on the heap; trains are not.
fn train_signed(
    statement: &[u8; TRAIN_STATEMENT_BYTES],
) -> [u8; TRAIN_WORDS.len() + TRAIN_STATEMENT_BYTES] {
    let mut signed = [0; TRAIN_WORDS.len() + TRAIN_STATEMENT_BYTES];
    let (words, rest) = signed.split_at_mut(TRAIN_WORDS.len());
    words.copy_from_slice(TRAIN_WORDS);
    rest.copy_from_slice(statement);
    signed
}

/// A private key: a floor's root, a source's or a workstation's. Its memory is wiped when it goes.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// The key of a seed, which nobody else may know and nothing else may be derived from.
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key that everybody may know.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn seed(&self) -> &[u8; KEY_BYTES] {
        self.0.as_bytes()
    }

    /// Signs what a train of datagrams comes down to (R-TRAIN-2).
    pub fn sign_train(&self, statement: &[u8; TRAIN_STATEMENT_BYTES]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(&train_signed(statement)).to_bytes()
    }

    /// What only the holder of this key can make of `words`, and always does: 64 bits that nobody can guess.
    pub fn token(&self, words: &[u8]) -> u64 {
        let hash = Sha256::new()
            .chain_update(b"floorcast token\0")
            .chain_update(self.seed())
            .chain_update(words)
            .finalize();
        let mut token = [0; 8];
        token.copy_from_slice(&hash[..8]);
        u64::from_be_bytes(token)
    }

    /// A secret that this key and another one share, and nobody else (RFC 7748, over the same curve). It is no key yet.
    fn agree(&self, other: &PublicKey) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut scalar = Zeroizing::new(self.0.to_scalar_bytes());
        Zeroizing::new(
            other
                .0
                .to_montgomery()
                .mul_clamped(std::mem::take(&mut scalar))
                .to_bytes(),
        )
    }

    fn sign(&self, about: About, statement: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signed = [about.words(), statement].concat();
        self.0.sign(&signed).to_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey of {}", self.public().fingerprint())
    }
}

/// What a signature is checked with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From its bytes; `None` for bytes that are no key, or one that anybody can sign for.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        (!key.is_weak()).then_some(Self(key))
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; KEY_BYTES] {
        self.0.to_bytes()
    }

    /// Its bytes as 64 hexadecimal digits, as a floor file lists them.
    pub fn to_hex(self) -> String {
        let bytes = self.to_bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Back from [`to_hex`](Self::to_hex), in capitals too; `None` as for [`from_bytes`](Self::from_bytes).
    pub fn from_hex(digits: &str) -> Option<Self> {
        let digits: Option<Vec<u32>> = digits.chars().map(|c| c.to_digit(16)).collect();
        let digits: [u32; 2 * KEY_BYTES] = digits?.try_into().ok()?;
        let mut bytes = [0; KEY_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::try_from(pair[0] << 4 | pair[1]).ok()?;
        }
        Self::from_bytes(&bytes)
    }

    /// What two people compare: the first 80 bits of the key's SHA-256, in groups of four hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::digest(self.0.as_bytes());
        let groups: Vec<String> = hash[..10]
            .chunks(2)
            .map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        groups.join("-")
    }

    /// Whether this key has signed what a train of datagrams comes down to (R-TRAIN-2). By RFC 8032's equation without its
    /// cofactor and with its bytes compared: the key is none that anybody can sign for, and that a signature's own point is
    /// not of small order, which `verify_strict` sees to besides, binds nobody but the signer and takes 10 us in 60.
    pub fn has_signed_train(
        &self,
        statement: &[u8; TRAIN_STATEMENT_BYTES],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify(&train_signed(statement), &signature).is_ok()
    }

    fn has_signed(
        &self,
        about: About,
        statement: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        let signed = [about.words(), statement].concat();
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(&signed, &signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

/// Why a signed statement is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StatementError {
    /// It ends too early, is too long, or a field holds what it may not.
    #[error("it is damaged: its {0} cannot be read")]
    Damaged(&'static str),
    /// A later program wrote it.
    #[error("it is of format {0}, and this program knows format {FORMAT}; use a newer floorcast")]
    Format(u8),
    /// It is another floor's.
    #[error("it is of another floor")]
    Floor,
    /// The floor's root has not signed it, or it was changed since.
    #[error("the floor's root key has not signed it as it stands")]
    Unsigned,
}

/// Reads statements: big-endian fields off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], StatementError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(StatementError::Damaged(field))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, StatementError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, StatementError> {
        self.array(field).map(u16::from_be_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, StatementError> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, StatementError> {
        self.array(field).map(u64::from_be_bytes)
    }

    fn key(&mut self, field: &'static str) -> Result<PublicKey, StatementError> {
        PublicKey::from_bytes(&self.array(field)?).ok_or(StatementError::Damaged(field))
    }

    fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], StatementError> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(StatementError::Damaged(field))?;
        self.0 = rest;
        Ok(head)
    }

    fn end(&self, field: &'static str) -> Result<(), StatementError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(StatementError::Damaged(field))
        }
    }
}

/// Opens a statement of a floor.
fn begin(floor: FloorId) -> Vec<u8> {
    let mut statement = vec![FORMAT];
    statement.extend_from_slice(&floor.0.to_be_bytes());
    statement
}

/// Puts the root's signature behind a statement.
fn sign(root: &PrivateKey, about: About, mut statement: Vec<u8>) -> Vec<u8> {
    let signature = root.sign(about, &statement);
    statement.extend_from_slice(&signature);
    statement
}

/// A reader of a statement's fields, behind its format and floor, once the root's signature has been checked (R-STATE-2).
fn open<'a>(
    signed: &'a [u8],
    about: About,
    root: &PublicKey,
    floor: FloorId,
) -> Result<Reader<'a>, StatementError> {
    let (of, reader) = open_any(signed, about, root)?;
    if of == floor {
        Ok(reader)
    } else {
        Err(StatementError::Floor)
    }
}

/// As [`open`], of whichever floor it says it is.
fn open_any<'a>(
    signed: &'a [u8],
    about: About,
    root: &PublicKey,
) -> Result<(FloorId, Reader<'a>), StatementError> {
    let (statement, signature) = signed
        .split_last_chunk::<SIGNATURE_BYTES>()
        .ok_or(StatementError::Damaged("signature"))?;
    let mut reader = Reader(statement);
    match reader.u8("format")? {
        FORMAT => {}
        other => return Err(StatementError::Format(other)),
    }
    let floor = FloorId(reader.u32("floor")?);
    if root.has_signed(about, statement, signature) {
        Ok((floor, reader))
    } else {
        Err(StatementError::Unsigned)
    }
}

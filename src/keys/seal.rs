//! A private key as a file holds it: as it is, or under a passphrase (R-FILE-2).

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{FORMAT, KEY_BYTES, PrivateKey};

const PLAIN: u8 = 0;
const SEALED: u8 = 1;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
/// Argon2id with 64 MiB and three passes: the second choice of RFC 9106, section 4, on one lane; about a fifth of a second.
const COST: Cost = Cost {
    memory_kib: 64 << 10,
    passes: 3,
};
/// The most that a file may ask for: 1 GiB and 16 passes. A longer wait is nobody's wish but an attacker's.
const COST_MAX: Cost = Cost {
    memory_kib: 1 << 20,
    passes: 16,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u8,
}

/// What a key is sealed with: the passphrase, and bytes that are drawn for this once.
#[derive(Clone, Copy)]
pub struct SealInput<'a> {
    /// What a person has to know.
    pub passphrase: &'a [u8],
    /// Drawn at random.
    pub salt: [u8; SALT_BYTES],
    /// Drawn at random.
    pub nonce: [u8; NONCE_BYTES],
}

/// Why a private key cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Not a private key's bytes.
    #[error("it is damaged")]
    Damaged,
    /// A later program wrote it.
    #[error("it is of format {0}, and this program knows format {FORMAT}; use a newer floorcast")]
    Format(u8),
    /// It is sealed.
    #[error("it needs its passphrase")]
    NeedsPassphrase,
    /// Sealed with another one, or changed since.
    #[error("that is not its passphrase, or it was changed")]
    WrongPassphrase,
    /// It asks for more memory or time than any key of ours.
    #[error("it asks for more memory than a key needs; it was changed")]
    Costly,
}

impl PrivateKey {
    /// As a file holds it: under a passphrase, or as it is.
    pub fn to_file_bytes(&self, seal: Option<SealInput<'_>>) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(vec![FORMAT]);
        let Some(seal) = seal else {
            bytes.push(PLAIN);
            bytes.extend_from_slice(self.seed());
            return bytes;
        };
        bytes.push(SEALED);
        bytes.extend_from_slice(&COST.memory_kib.to_be_bytes());
        bytes.push(COST.passes);
        bytes.extend_from_slice(&seal.salt);
        bytes.extend_from_slice(&seal.nonce);
        let key = stretch(seal.passphrase, &seal.salt, COST);
        let payload = Payload {
            msg: self.seed(),
            aad: &bytes,
        };
        let sealed = XChaCha20Poly1305::new((&*key).into())
            .encrypt((&seal.nonce).into(), payload)
            .expect("32 bytes are not too long to seal");
        bytes.extend_from_slice(&sealed);
        bytes
    }

    /// Back from [`to_file_bytes`](Self::to_file_bytes).
    ///
    /// # Errors
    /// [`SealError`]; [`SealError::NeedsPassphrase`] when it is sealed and none is given.
    pub fn from_file_bytes(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<Self, SealError> {
        let (&[format, kind], rest) = bytes.split_first_chunk().ok_or(SealError::Damaged)?;
        if format != FORMAT {
            return Err(SealError::Format(format));
        }
        match kind {
            PLAIN => {
                let seed = rest.try_into().map_err(|_| SealError::Damaged)?;
                Ok(Self::from_seed(seed))
            }
            SEALED => {
                let passphrase = passphrase.ok_or(SealError::NeedsPassphrase)?;
                unseal(bytes, rest, passphrase)
            }
            _ => Err(SealError::Damaged),
        }
    }
}

fn unseal(all: &[u8], rest: &[u8], passphrase: &[u8]) -> Result<PrivateKey, SealError> {
    let (memory, rest) = rest.split_first_chunk().ok_or(SealError::Damaged)?;
    let (&[passes], rest) = rest.split_first_chunk().ok_or(SealError::Damaged)?;
    let (salt, rest) = rest
        .split_first_chunk::<SALT_BYTES>()
        .ok_or(SealError::Damaged)?;
    let (nonce, sealed) = rest
        .split_first_chunk::<NONCE_BYTES>()
        .ok_or(SealError::Damaged)?;
    let cost = Cost {
        memory_kib: u32::from_be_bytes(*memory),
        passes,
    };
    if cost.memory_kib > COST_MAX.memory_kib || cost.passes > COST_MAX.passes {
        return Err(SealError::Costly);
    }
    if cost.memory_kib < COST.memory_kib || cost.passes < COST.passes {
        // Weaker than any that we write: whoever changed it wants to guess cheaply.
        return Err(SealError::Damaged);
    }
    let key = stretch(passphrase, salt, cost);
    let payload = Payload {
        msg: sealed,
        aad: &all[..all.len() - sealed.len()],
    };
    let seed = XChaCha20Poly1305::new((&*key).into())
        .decrypt(nonce.into(), payload)
        .map(Zeroizing::new)
        .map_err(|_| SealError::WrongPassphrase)?;
    let seed = seed.as_slice().try_into().map_err(|_| SealError::Damaged)?;
    Ok(PrivateKey::from_seed(seed))
}

fn stretch(passphrase: &[u8], salt: &[u8; SALT_BYTES], cost: Cost) -> Zeroizing<[u8; KEY_BYTES]> {
    let params = Params::new(cost.memory_kib, u32::from(cost.passes), 1, Some(KEY_BYTES))
        .expect("the cost is within its bounds");
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut *key)
        .expect("salt and key are of sizes that Argon2 takes");
    key
}

//! The keys that datagrams are protected with, each derived for one use.
//!
//! AES-256-GCM of `ring`, by measurement: 0.42 us for 1,400 bytes, where RustCrypto's takes 1.4 and its ChaCha20-Poly1305 4.7
//! (`cargo bench --bench core aead`). HKDF and HMAC come with it; hashes stay with `sha2`, which is no slower here.

use ring::{aead, hkdf, hmac};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::wire::{FloorId, SessionId, SourceId};

use super::{GroupKey, KEY_BYTES, PrivateKey, PublicKey};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// Bytes of the key that nonces are made with: a block of SHA-256, so that it is taken in once for all datagrams.
const NONCE_KEY_BYTES: usize = 64;
/// Bytes of what tells that a datagram is whole, and of a station's mark on one.
pub const TAG_BYTES: usize = 16;

/// What one life of one station seals its datagrams with: derived from the floor's key, so that no two lives share one
/// (R-SEAL-1).
pub struct DatagramKey {
    cipher: aead::LessSafeKey,
    /// SHA-256 that has taken in the nonce key, a whole block.
    nonce: Sha256,
}

impl DatagramKey {
    /// The key of `source` in `session` under the floor's key.
    pub fn new(key: &GroupKey, floor: FloorId, source: SourceId, session: SessionId) -> Self {
        let mut info = Vec::with_capacity(64);
        info.extend_from_slice(b"floorcast datagram\0");
        info.extend_from_slice(&floor.0.to_be_bytes());
        info.extend_from_slice(&source.0.to_be_bytes());
        info.extend_from_slice(&session.0.to_be_bytes());
        let derived = derive::<{ KEY_BYTES + NONCE_KEY_BYTES }>(key.secret(), &info);
        let (cipher, nonce_key) = derived.split_at(KEY_BYTES);
        let cipher = aead::UnboundKey::new(&aead::AES_256_GCM, cipher)
            .expect("a key of AES-256 has 32 bytes");
        Self {
            cipher: aead::LessSafeKey::new(cipher),
            nonce: Sha256::new().chain_update(nonce_key),
        }
    }

    /// The nonce of a datagram: a keyed hash of all that it says, so that two that differ never share one, whatever was
    /// restarted, copied or set back (R-SEAL-2). `digest` is that of header and messages, and `proof` what its proof follows from.
    pub fn nonce(&self, digest: &[u8; 32], proof: &[u8]) -> [u8; NONCE_BYTES] {
        let hash = self.nonce.clone().chain_update(digest).chain_update(proof);
        let hash = hash.finalize();
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&hash[..NONCE_BYTES]);
        nonce
    }

    /// Encrypts `body` where it stands; its tag.
    pub fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        header: &[u8],
        body: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let tag = self
            .cipher
            .seal_in_place_separate_tag(nonce, aead::Aad::from(header), body)
            .expect("a datagram is shorter than what AES-GCM takes");
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Decrypts `body`, whose tag stands at its end, where it stands; how many bytes it has without it. `None`, and bytes that
    /// mean nothing, if it was not sealed so.
    pub fn open(&self, nonce: [u8; NONCE_BYTES], header: &[u8], body: &mut [u8]) -> Option<usize> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let opened = self
            .cipher
            .open_in_place(nonce, aead::Aad::from(header), body);
        opened.ok().map(|plain| plain.len())
    }
}

impl std::fmt::Debug for DatagramKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatagramKey")
    }
}

/// A key that a source and one station share and nobody else has, so that neither can be spoken for by a third who holds
/// the floor's key (R-PAIR-1).
pub struct PairKey(hmac::Key);

impl PairKey {
    /// The key that the holder of `ours` shares with that of `theirs`.
    pub fn new(ours: &PrivateKey, theirs: &PublicKey, floor: FloorId) -> Self {
        let secret = ours.agree(theirs);
        let (a, b) = (ours.public().to_bytes(), theirs.to_bytes());
        let mut info = Vec::with_capacity(96);
        info.extend_from_slice(b"floorcast pair\0");
        info.extend_from_slice(&floor.0.to_be_bytes());
        info.extend_from_slice(&a.min(b));
        info.extend_from_slice(&a.max(b));
        let key = derive::<KEY_BYTES>(&*secret, &info);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &*key))
    }

    /// The mark on a datagram whose header and messages have `digest`, made at `time_ms`.
    pub fn mark(&self, digest: &[u8; 32], time_ms: u64) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(digest);
        context.update(&time_ms.to_be_bytes());
        let mut mark = [0; TAG_BYTES];
        mark.copy_from_slice(&context.sign().as_ref()[..TAG_BYTES]);
        mark
    }
}

impl std::fmt::Debug for PairKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PairKey")
    }
}

/// HKDF-SHA256's second step (RFC 5869): the secrets that come in are uniform already, or hashed in by the first.
fn derive<const N: usize>(secret: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut derived = Zeroizing::new([0; N]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(secret)
        .expand(&[info], Len(N))
        .and_then(|okm| okm.fill(&mut *derived))
        .expect("so short an output is always to be had");
    derived
}

//! What stands behind the messages of a sealed datagram: whose word they are, and how that is shown (PROTOCOL.md 2.2).

use crate::keys::{KEY_BYTES, SIGNATURE_BYTES, TAG_BYTES};

use super::train::{DEPTH_MAX, NODE_BYTES};

/// Bytes of a moment: milliseconds since 1970, good until the year 10889.
const TIME_BYTES: usize = 6;
/// Bytes of a train's proof beside its path and key: time, index, depth, signature.
const TRAIN_BYTES: usize = TIME_BYTES + 1 + 1 + SIGNATURE_BYTES;
/// Bytes of a pair's proof: mark, time, key.
const PAIR_BYTES: usize = TAG_BYTES + TIME_BYTES + KEY_BYTES;
/// The longest proof of who needs not say its key, and its kind.
pub(super) const GRANTED_BYTES_MAX: usize = NODE_BYTES * DEPTH_MAX as usize + TRAIN_BYTES + 1;
/// The longest proof of who does.
pub(super) const KEYED_BYTES_MAX: usize = GRANTED_BYTES_MAX + KEY_BYTES;

/// Kinds of proofs, the last byte of what is sealed.
const GROUP: u8 = 0;
const TRAIN: u8 = 1;
const KEYED_TRAIN: u8 = 2;
const PAIR: u8 = 3;

/// How a datagram shows whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof<'a> {
    /// Not at all: whoever holds the floor's key can have written it.
    Group,
    /// By a signature over the train it went in.
    Train(TrainProof<'a>),
    /// By a mark that only its sender and the one that it is meant for can make.
    Pair {
        mark: [u8; TAG_BYTES],
        time_ms: u64,
        key: [u8; KEY_BYTES],
    },
}

/// A place in a signed train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrainProof<'a> {
    /// The signer's key, where no grant tells it.
    pub(super) key: Option<[u8; KEY_BYTES]>,
    /// The nodes beside the way up, lowest first.
    pub(super) path: &'a [[u8; NODE_BYTES]],
    pub(super) time_ms: u64,
    pub(super) index: u8,
    pub(super) depth: u8,
    pub(super) signature: [u8; SIGNATURE_BYTES],
}

impl<'a> Proof<'a> {
    /// The messages of an opened body, and the proof behind them; `None` if that is none.
    pub(super) fn split(body: &'a [u8]) -> Option<(&'a [u8], Self)> {
        let (rest, &[kind]) = body.split_last_chunk::<1>()?;
        match kind {
            GROUP => Some((rest, Self::Group)),
            TRAIN => {
                let (messages, proof) = TrainProof::split(rest)?;
                Some((messages, Self::Train(proof)))
            }
            KEYED_TRAIN => {
                let (messages, mut proof) = TrainProof::split(rest)?;
                let (messages, key) = messages.split_last_chunk::<KEY_BYTES>()?;
                proof.key = Some(*key);
                Some((messages, Self::Train(proof)))
            }
            PAIR => {
                let (rest, key) = rest.split_last_chunk::<KEY_BYTES>()?;
                let (rest, time) = rest.split_last_chunk::<TIME_BYTES>()?;
                let (messages, mark) = rest.split_last_chunk::<TAG_BYTES>()?;
                let proof = Self::Pair {
                    mark: *mark,
                    time_ms: time_of(*time),
                    key: *key,
                };
                Some((messages, proof))
            }
            _ => None,
        }
    }

    /// Writes it to the front of `to`, which has room for it; how many bytes it takes.
    pub(super) fn write(&self, to: &mut [u8]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            to[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        match self {
            Self::Group => put(&[GROUP]),
            Self::Train(proof) => {
                if let Some(key) = &proof.key {
                    put(key);
                }
                put(proof.path.as_flattened());
                put(&bytes_of(proof.time_ms));
                put(&[proof.index, proof.depth]);
                put(&proof.signature);
                put(&[if proof.key.is_some() {
                    KEYED_TRAIN
                } else {
                    TRAIN
                }]);
            }
            Self::Pair { mark, time_ms, key } => {
                put(mark);
                put(&bytes_of(*time_ms));
                put(key);
                put(&[PAIR]);
            }
        }
        at
    }
}

const _: () = assert!(PAIR_BYTES < KEYED_BYTES_MAX);

impl<'a> TrainProof<'a> {
    fn split(rest: &'a [u8]) -> Option<(&'a [u8], Self)> {
        let (rest, signature) = rest.split_last_chunk::<SIGNATURE_BYTES>()?;
        let (rest, &[index, depth]) = rest.split_last_chunk::<2>()?;
        let (rest, time) = rest.split_last_chunk::<TIME_BYTES>()?;
        if depth > DEPTH_MAX || index >> depth != 0 {
            return None;
        }
        let path_at = rest.len().checked_sub(NODE_BYTES * usize::from(depth))?;
        let (messages, path) = rest.split_at(path_at);
        let (path, []) = path.as_chunks::<NODE_BYTES>() else {
            return None;
        };
        let proof = Self {
            key: None,
            path,
            time_ms: time_of(*time),
            index,
            depth,
            signature: *signature,
        };
        Some((messages, proof))
    }
}

fn time_of(bytes: [u8; TIME_BYTES]) -> u64 {
    let mut whole = [0; 8];
    whole[2..].copy_from_slice(&bytes);
    u64::from_be_bytes(whole)
}

fn bytes_of(time_ms: u64) -> [u8; TIME_BYTES] {
    let [_, _, a, b, c, d, e, f] = time_ms.to_be_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let path = [[1; NODE_BYTES], [2; NODE_BYTES]];
        let train = TrainProof {
            key: None,
            path: &path,
            time_ms: 0x0102_0304_0506,
            index: 3,
            depth: 2,
            signature: [7; SIGNATURE_BYTES],
        };
        let keyed = TrainProof {
            key: Some([8; KEY_BYTES]),
            ..train
        };
        let pair = Proof::Pair {
            mark: [9; TAG_BYTES],
            time_ms: 5,
            key: [10; KEY_BYTES],
        };
        for proof in [Proof::Group, Proof::Train(train), Proof::Train(keyed), pair] {
            let mut body = b"messages".to_vec();
            body.resize(8 + KEYED_BYTES_MAX, 0);
            let len = proof.write(&mut body[8..]);
            body.truncate(8 + len);
            assert_eq!(Proof::split(&body), Some((&b"messages"[..], proof)));
            // Cut anywhere, it is no proof, or another one with other messages: never a panic.
            for cut in 0..body.len() {
                let _ = Proof::split(&body[..cut]);
            }
        }
        assert_eq!(Proof::split(&[]), None);
        assert_eq!(Proof::split(&[9]), None);
    }
}

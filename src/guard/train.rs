//! One signature for a train of datagrams: a Merkle tree over them (Merkle, CRYPTO '87), of which each carries its path, so
//! that each is checked alone, in any order, and after any loss (R-TRAIN-1).

use sha2::{Digest as _, Sha256};

use crate::keys::{PublicKey, SIGNATURE_BYTES, TRAIN_STATEMENT_BYTES};
use crate::wire::{FloorId, Header};

use super::proof::TrainProof;

/// Bytes of a node. Whoever would put another datagram in the place of one has to find a second preimage for one node of
/// one train, as time, place and life are part of each: 2^128 attempts. Collisions (2^64) are of use only to the signer.
pub(super) const NODE_BYTES: usize = 16;
/// Levels above the leaves at most: 128 datagrams, what a loop sends at a time. A signature and its check then cost each of
/// them a third of its own hash; one level more would save half of that, and cost 16 bytes more in each.
pub(super) const DEPTH_MAX: u8 = 7;
/// Datagrams in a train at most.
pub(super) const TRAIN_LEN_MAX: usize = 1 << DEPTH_MAX;

pub(super) type Node = [u8; NODE_BYTES];
pub(super) type Digest = [u8; 32];

/// A number for each node: 1 is the root, `2n` and `2n + 1` stand below `n`.
type Place = usize;
const PLACES: usize = 2 * TRAIN_LEN_MAX;

/// What header and messages of a datagram outside of a train come down to.
pub(super) fn digest(plain: &[u8]) -> Digest {
    Sha256::new()
        .chain_update([0])
        .chain_update(plain)
        .finalize()
        .into()
}

/// What header and messages of the `index`-th datagram of a train come down to.
pub(super) fn leaf(time_ms: u64, depth: u8, index: usize, plain: &[u8]) -> Digest {
    Sha256::new()
        .chain_update(opening(1, time_ms, (1 << depth) + index))
        .chain_update(plain)
        .finalize()
        .into()
}

fn inner(time_ms: u64, place: Place, left: &Node, right: &Node) -> Node {
    let hash = Sha256::new()
        .chain_update(opening(2, time_ms, place))
        .chain_update(left)
        .chain_update(right);
    cut(&hash.finalize().into())
}

fn opening(kind: u8, time_ms: u64, place: Place) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[0] = kind;
    bytes[1..9].copy_from_slice(&time_ms.to_be_bytes());
    bytes[9] = u8::try_from(place).unwrap_or(u8::MAX);
    bytes
}

fn cut(digest: &Digest) -> Node {
    let mut node = [0; NODE_BYTES];
    node.copy_from_slice(&digest[..NODE_BYTES]);
    node
}

/// What is signed of a train (R-TRAIN-2).
pub(super) fn statement(
    floor: FloorId,
    header: &Header,
    time_ms: u64,
    depth: u8,
    root: &Node,
) -> [u8; TRAIN_STATEMENT_BYTES] {
    let mut bytes = [0; TRAIN_STATEMENT_BYTES];
    bytes[..4].copy_from_slice(&floor.0.to_be_bytes());
    bytes[4..12].copy_from_slice(&header.source.0.to_be_bytes());
    bytes[12..20].copy_from_slice(&header.session.0.to_be_bytes());
    bytes[20..28].copy_from_slice(&time_ms.to_be_bytes());
    bytes[28] = depth;
    bytes[29..].copy_from_slice(root);
    bytes
}

/// The tree of a train that is about to leave.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Box<[Node; PLACES]>,
    depth: u8,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            nodes: Box::new([[0; NODE_BYTES]; PLACES]),
            depth: 0,
        }
    }

    /// Builds it over what [`leaf`] gave for each of a train of `len`, at least one and at most [`TRAIN_LEN_MAX`]; its root.
    /// Places that nothing stands at are 0.
    pub(super) fn build(
        &mut self,
        time_ms: u64,
        len: usize,
        digests: impl Iterator<Item = Digest>,
    ) -> Node {
        self.depth = depth_of(len);
        let leaves = 1 << self.depth;
        for (node, digest) in self.nodes[leaves..].iter_mut().zip(digests) {
            *node = cut(&digest);
        }
        self.nodes[leaves + len..2 * leaves].fill([0; NODE_BYTES]);
        for place in (1..leaves).rev() {
            let (left, right) = (self.nodes[2 * place], self.nodes[2 * place + 1]);
            self.nodes[place] = inner(time_ms, place, &left, &right);
        }
        self.root()
    }

    pub(super) const fn root(&self) -> Node {
        self.nodes[1]
    }

    pub(super) const fn depth(&self) -> u8 {
        self.depth
    }

    /// The nodes beside the way up from the `index`-th datagram, lowest first.
    pub(super) fn path(&self, index: usize) -> [Node; DEPTH_MAX as usize] {
        let mut path = [[0; NODE_BYTES]; DEPTH_MAX as usize];
        let mut place = (1 << self.depth) + index;
        for node in &mut path[..usize::from(self.depth)] {
            *node = self.nodes[place ^ 1];
            place >>= 1;
        }
        path
    }
}

/// Levels above the leaves of a train of `len` datagrams.
pub(super) fn depth_of(len: usize) -> u8 {
    u8::try_from(len.next_power_of_two().trailing_zeros()).unwrap_or(DEPTH_MAX)
}

/// A train whose signature has been checked, and what is known of its tree: a datagram's way up ends at the first node that is.
#[derive(Debug)]
pub(super) struct Checked {
    time_ms: u64,
    depth: u8,
    signature: [u8; SIGNATURE_BYTES],
    key: PublicKey,
    nodes: Box<[Node; PLACES]>,
    /// A bit for each node.
    known: [u128; PLACES / 128],
}

/// A datagram's claim to a place in a train.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    pub(super) time_ms: u64,
    pub(super) index: u8,
    pub(super) depth: u8,
    pub(super) path: &'a [Node],
    pub(super) leaf: Node,
}

/// What is learnt on a way up: at most the way and what stands beside it.
struct Climb {
    learnt: [(Place, Node); 2 * DEPTH_MAX as usize + 1],
    len: usize,
}

impl<'a> Claim<'a> {
    /// That `plain` stands where `proof` says.
    pub(super) fn new(proof: &TrainProof<'a>, plain: &[u8]) -> Self {
        let index = usize::from(proof.index);
        Self {
            time_ms: proof.time_ms,
            index: proof.index,
            depth: proof.depth,
            path: proof.path,
            leaf: cut(&leaf(proof.time_ms, proof.depth, index, plain)),
        }
    }

    /// Goes up until `known` tells a node; the node reached there as computed, and what was passed.
    fn climb(&self, known: impl Fn(Place) -> bool) -> (Place, Node, Climb) {
        let mut climb = Climb {
            learnt: [(0, [0; NODE_BYTES]); 2 * DEPTH_MAX as usize + 1],
            len: 0,
        };
        let mut place = (1 << self.depth) + usize::from(self.index);
        let mut node = self.leaf;
        for beside in self.path {
            if known(place) {
                break;
            }
            climb.push(place, node);
            climb.push(place ^ 1, *beside);
            let (left, right) = if place & 1 == 0 {
                (&node, beside)
            } else {
                (beside, &node)
            };
            node = inner(self.time_ms, place >> 1, left, right);
            place >>= 1;
        }
        (place, node, climb)
    }

    /// The root that it leads to.
    pub(super) fn root(&self) -> Node {
        self.climb(|_| false).1
    }
}

impl Climb {
    fn push(&mut self, place: Place, node: Node) {
        self.learnt[self.len] = (place, node);
        self.len += 1;
    }
}

impl Checked {
    /// A train with that root, whose signature by `key` has been checked.
    pub(super) fn new(
        claim: &Claim<'_>,
        root: Node,
        signature: [u8; SIGNATURE_BYTES],
        key: PublicKey,
    ) -> Self {
        let mut this = Self {
            time_ms: claim.time_ms,
            depth: claim.depth,
            signature,
            key,
            nodes: Box::new([[0; NODE_BYTES]; PLACES]),
            known: [0; PLACES / 128],
        };
        this.learn(1, root);
        this
    }

    /// Takes another train in the place of this one, and its memory.
    pub(super) fn replace(
        &mut self,
        claim: &Claim<'_>,
        root: Node,
        signature: [u8; SIGNATURE_BYTES],
        key: PublicKey,
    ) {
        (self.time_ms, self.depth) = (claim.time_ms, claim.depth);
        (self.signature, self.key) = (signature, key);
        self.known = [0; PLACES / 128];
        self.learn(1, root);
    }

    /// Whether it is the train of that signature.
    pub(super) fn is(
        &self,
        claim: &Claim<'_>,
        signature: &[u8; SIGNATURE_BYTES],
        key: &PublicKey,
    ) -> bool {
        self.signature == *signature
            && (self.time_ms, self.depth) == (claim.time_ms, claim.depth)
            && self.key == *key
    }

    /// Whether the datagram stands where it claims to (R-TRAIN-3).
    pub(super) fn holds(&mut self, claim: &Claim<'_>) -> bool {
        let (place, node, climb) = claim.climb(|place| self.knows(place));
        let is_there = self.knows(place) && self.nodes[place] == node;
        if is_there {
            for (place, node) in &climb.learnt[..climb.len] {
                self.learn(*place, *node);
            }
        }
        is_there
    }

    fn knows(&self, place: Place) -> bool {
        self.known[place / 128] >> (place % 128) & 1 == 1
    }

    fn learn(&mut self, place: Place, node: Node) {
        self.nodes[place] = node;
        self.known[place / 128] |= 1 << (place % 128);
    }
}

const _: () = assert!(
    PLACES == 256,
    "a node's number is a byte, and known in a bit"
);

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "small numbers, or random ones"
)]
mod tests {
    use super::*;
    use crate::keys::PrivateKey;

    fn plain(index: usize) -> [u8; 40] {
        [index as u8; 40]
    }

    /// Goal: each datagram of a train of any length stands where it was put, first or last to come, and nowhere else; nothing
    /// else stands there.
    #[test]
    fn each_datagram_is_checked_alone_and_in_any_order() {
        let key = PrivateKey::from_seed(&[1; 32]).public();
        for len in [1, 2, 3, 5, 8, 33, TRAIN_LEN_MAX] {
            let depth = depth_of(len);
            let mut tree = Tree::new();
            let digests = (0..len).map(|index| leaf(77, depth, index, &plain(index)));
            let root = tree.build(77, len, digests);
            let paths: Vec<_> = (0..len).map(|index| tree.path(index)).collect();
            let claim = |index: usize| Claim {
                time_ms: 77,
                index: index as u8,
                depth,
                path: &paths[index][..usize::from(depth)],
                leaf: cut(&leaf(77, depth, index, &plain(index))),
            };
            for index in 0..len {
                assert_eq!(claim(index).root(), root, "{index} of {len} alone");
            }
            let mut checked = Checked::new(&claim(0), root, [0; 64], key);
            for index in (0..len).rev().chain(0..len) {
                assert!(checked.holds(&claim(index)), "{index} of {len}");
                let forged = Claim {
                    leaf: cut(&leaf(77, depth, index, b"another")),
                    ..claim(index)
                };
                assert!(!checked.holds(&forged));
                assert!(
                    len == 1
                        || !checked.holds(&Claim {
                            index: ((index + 1) % len) as u8,
                            ..claim(index)
                        })
                );
                let later = Claim {
                    leaf: cut(&leaf(78, depth, index, &plain(index))),
                    ..claim(index)
                };
                assert_ne!(later.root(), root);
            }
        }
    }
}

//! What is due: datagrams on their way, and when each node wants to run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::time::Timestamp;

use super::NodeId;

/// A datagram on its way to everybody whom it reaches at one moment.
pub(super) struct Landing {
    pub(super) at: Timestamp,
    /// What is due at one moment comes in the order in which that became known.
    pub(super) order: u64,
    pub(super) from: SocketAddr,
    pub(super) datagram: Bytes,
    pub(super) to: Vec<NodeId>,
}

impl PartialEq for Landing {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Landing {}

impl PartialOrd for Landing {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Landing {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What is due next.
pub(super) enum Due {
    Landing(Landing),
    Wake(NodeId),
}

/// Everything that is due.
#[derive(Default)]
pub(super) struct Queue {
    landings: BinaryHeap<Reverse<Landing>>,
    wakes: Wakes,
    order: u64,
    /// Lists that have been used, to be used again.
    spare: Vec<Vec<NodeId>>,
}

impl Queue {
    /// The datagram reaches each of `to` at `at`.
    pub(super) fn land(
        &mut self,
        at: Timestamp,
        from: SocketAddr,
        datagram: Bytes,
        to: impl Iterator<Item = NodeId>,
    ) {
        self.order += 1;
        let mut list = self.spare.pop().unwrap_or_default();
        list.extend(to);
        self.landings.push(Reverse(Landing {
            at,
            order: self.order,
            from,
            datagram,
            to: list,
        }));
    }

    /// A node wants to run at `at`, and at no other time.
    pub(super) fn wake(&mut self, node: NodeId, at: Timestamp) {
        self.order += 1;
        self.wakes.set(node, (at, self.order));
    }

    /// When a node wants to run.
    pub(super) fn wakes_at(&self, node: NodeId) -> Timestamp {
        self.wakes.at(node).0
    }

    /// Everything known up to now has a number up to this.
    pub(super) const fn order(&self) -> u64 {
        self.order
    }

    /// Takes back the list of a landing that is over.
    pub(super) fn reuse(&mut self, mut list: Vec<NodeId>) {
        list.clear();
        self.spare.push(list);
    }

    /// When something is due next.
    pub(super) fn next_at(&self) -> Timestamp {
        let landing = self.landings.peek();
        let landing = landing.map_or(Timestamp::FAR_FUTURE, |Reverse(landing)| landing.at);
        landing.min(self.wakes.first().0)
    }

    /// What is due next, and when.
    pub(super) fn pop(&mut self) -> Option<(Timestamp, Due)> {
        let wake = self.wakes.first();
        if let Some(Reverse(landing)) = self.landings.peek()
            && (landing.at, landing.order) < wake
        {
            let Reverse(landing) = self.landings.pop()?;
            return Some((landing.at, Due::Landing(landing)));
        }
        let node = self.wakes.pop()?;
        Some((wake.0, Due::Wake(node)))
    }
}

/// A moment, and its place among others of the same moment.
type Moment = (Timestamp, u64);

const NEVER: Moment = (Timestamp::FAR_FUTURE, u64::MAX);

/// When each node wants to run, one moment a node: a tree in which each parent holds the earlier of its two children.
///
/// Invariant: `tree` is empty or has `2 * n` places, `n` a power of two: the root in place 1, node `i` in place `n + i`.
#[derive(Default)]
struct Wakes {
    tree: Vec<Moment>,
}

impl Wakes {
    fn at(&self, node: NodeId) -> Moment {
        let place = self.tree.len() / 2 + node.0;
        self.tree.get(place).copied().unwrap_or(NEVER)
    }

    fn set(&mut self, node: NodeId, at: Moment) {
        self.make_room(node);
        let mut place = self.tree.len() / 2 + node.0;
        let mut earliest = at;
        while place > 0 && self.tree[place] != earliest {
            self.tree[place] = earliest;
            if place > 1 {
                earliest = earliest.min(self.tree[place ^ 1]);
            }
            place /= 2;
        }
    }

    fn first(&self) -> Moment {
        self.tree.get(1).copied().unwrap_or(NEVER)
    }

    /// The node that wants to run first; it wants no more.
    fn pop(&mut self) -> Option<NodeId> {
        let first = self.first();
        if first.0 == Timestamp::FAR_FUTURE {
            return None;
        }
        let nodes = self.tree.len() / 2;
        let mut place = 1;
        while place < nodes {
            place *= 2;
            place += usize::from(self.tree[place] != first);
        }
        let node = NodeId(place - nodes);
        self.set(node, NEVER);
        Some(node)
    }

    fn make_room(&mut self, node: NodeId) {
        let nodes = self.tree.len() / 2;
        if node.0 < nodes {
            return;
        }
        let before = std::mem::take(&mut self.tree);
        self.tree = vec![NEVER; 2 * (node.0 + 1).next_power_of_two().max(2)];
        for (i, &at) in before.iter().skip(nodes).enumerate() {
            self.set(NodeId(i), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::Rng;

    /// Against a sorted set: whatever was set last comes out, earliest first.
    #[test]
    fn wakes_come_in_order() {
        let mut rng = Rng::new(5);
        let mut wakes = Wakes::default();
        let mut expected = BTreeSet::new();
        for round in 0..5_000 {
            let node = NodeId(usize::try_from(rng.below(1 + round / 10)).unwrap());
            if rng.chance(0.6) {
                let at = (Timestamp::from_nanos(rng.below(100)), round);
                expected.remove(&(wakes.at(node), node));
                expected.insert((at, node));
                wakes.set(node, at);
                assert_eq!(wakes.at(node), at);
            } else {
                let first = expected.pop_first();
                assert_eq!(first.map(|(_, node)| node), wakes.pop());
            }
            let next = expected.first().map(|&(at, _)| at);
            assert_eq!(next.unwrap_or(NEVER), wakes.first());
        }
    }
}

//! Datagrams on their way out: who they are from, where they go, and the batch the caller owns.

use std::net::SocketAddr;

use crate::wire::{DatagramWriter, GroupId, Header, OPEN_LAB_KEY};

use super::Stats;
use super::config::{Config, Seal};

/// What stands in the header of a datagram until it is sealed: that of no open laboratory.
const SOME_KEY: u16 = u16::MAX;

/// Where a datagram goes. The core does not know the groups' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// To all members of a group.
    Group(GroupId),
    /// To one host.
    Unicast(SocketAddr),
}

/// Datagrams to send, in a buffer that is used again and again.
#[derive(Debug)]
pub struct TransmitBatch {
    bytes: Vec<u8>,
    datagrams: Vec<(Destination, std::ops::Range<usize>)>,
    datagrams_max: usize,
}

impl TransmitBatch {
    /// An empty batch for at most `datagrams_max` datagrams at a time; 0 is as a batch that is full.
    pub fn new(datagrams_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            datagrams: Vec::with_capacity(datagrams_max),
            datagrams_max,
        }
    }

    /// The datagrams in it, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Destination, &[u8])> {
        self.datagrams
            .iter()
            .map(|(to, range)| (*to, &self.bytes[range.clone()]))
    }

    /// How many datagrams it holds.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes of its datagrams from the `index`-th on.
    pub fn bytes_from(&self, index: usize) -> usize {
        let datagrams = self.datagrams.iter().skip(index);
        datagrams.map(|(_, range)| range.len()).sum()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
    }

    /// How many more it takes.
    pub const fn room(&self) -> usize {
        self.datagrams_max.saturating_sub(self.datagrams.len())
    }

    pub(super) fn has_room(&self) -> bool {
        self.datagrams.len() < self.datagrams_max
    }

    /// Adds one datagram of what `fill` writes; its size, or 0 when nothing was written.
    pub(super) fn write(
        &mut self,
        to: Destination,
        identity: &mut Identity,
        fill: impl FnOnce(&mut DatagramWriter<'_>),
    ) -> usize {
        let start = self.bytes.len();
        let bytes = identity.write(&mut self.bytes, fill);
        if bytes > 0 {
            self.datagrams.push((to, start..start + bytes));
            self.bytes.resize(start + bytes + identity.room(), 0);
        }
        bytes
    }

    /// Adds a datagram that is written already, with `room` bytes behind it for a seal.
    pub fn push(&mut self, to: Destination, datagram: &[u8], room: usize) {
        self.append(to, datagram);
        self.bytes.resize(self.bytes.len() + room, 0);
    }

    /// Adds a datagram that is whole.
    pub fn append(&mut self, to: Destination, datagram: &[u8]) {
        self.insert(self.datagrams.len(), to, datagram);
    }

    /// Puts a datagram that is whole before the `index`-th.
    pub fn insert(&mut self, index: usize, to: Destination, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        self.datagrams.insert(index, (to, start..self.bytes.len()));
    }

    /// Takes out all from the `len`-th on.
    pub fn truncate(&mut self, len: usize) {
        self.datagrams.truncate(len);
    }

    /// The `index`-th datagram, to be changed where it stands.
    pub fn memory(&mut self, index: usize) -> (Destination, &mut [u8]) {
        let (to, range) = &self.datagrams[index];
        (*to, &mut self.bytes[range.clone()])
    }

    /// Lets `seal` make a longer datagram of the `index`-th, where it stands: it is given what stands there and all behind it,
    /// of which the room that was left for a seal is free, and how long the datagram is; it says how long it has become.
    pub fn seal(&mut self, index: usize, seal: impl FnOnce(&mut [u8], usize) -> usize) {
        let (_, range) = &mut self.datagrams[index];
        let len = range.len();
        range.end = range.start + seal(&mut self.bytes[range.start..], len);
    }
}

/// Who an endpoint is: the header of its next datagram.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) header: Header,
    written_bytes: usize,
    seal: Seal,
}

impl Identity {
    pub(super) fn new(config: &Config) -> Self {
        let header = Header {
            key: match config.seal {
                Seal::OpenLab => OPEN_LAB_KEY,
                Seal::Later { .. } => SOME_KEY,
            },
            floor: config.floor,
            source: config.source,
            session: config.session,
            number: 0,
        };
        Self {
            header,
            written_bytes: config.written_bytes(),
            seal: config.seal,
        }
    }

    /// Bytes left free behind each datagram.
    pub(super) const fn room(&self) -> usize {
        match self.seal {
            Seal::OpenLab => 0,
            Seal::Later { bytes } => bytes,
        }
    }

    /// Appends one datagram to `buf`; its size, or 0 when `fill` wrote nothing. Each number is used once (R-HDR-4).
    pub(super) fn write(
        &mut self,
        buf: &mut Vec<u8>,
        fill: impl FnOnce(&mut DatagramWriter<'_>),
    ) -> usize {
        let mut writer = match self.seal {
            Seal::OpenLab => DatagramWriter::new(buf, self.written_bytes, &self.header),
            Seal::Later { .. } => DatagramWriter::plain(buf, self.written_bytes, &self.header),
        };
        fill(&mut writer);
        let bytes = writer.finish();
        self.header.number += u64::from(bytes > 0);
        bytes
    }
}

/// Counts a batch that is about to leave, from its `already`-th datagram on.
pub(super) fn count(batch: &TransmitBatch, already: usize, stats: &mut Stats) {
    for (_, datagram) in batch.iter().skip(already) {
        stats.datagrams_sent += 1;
        stats.bytes_sent += datagram.len() as u64;
    }
}

//! The sending half of an endpoint: its streams, their pacing, and its answers to NACKs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

use crate::time::Timestamp;
use crate::wire::{
    DatagramWriter, GroupId, Heartbeat, Lane, Nack, QuantCount, QuantDuration, SeqRange, Squelch,
    StreamId,
};

use super::config::Config;
use super::grtt::Grtt;
use super::pacer::Bucket;
use super::publication::{Full, Publication, message_bytes_max};
use super::transmit::{Destination, Identity, TransmitBatch};
use super::{Discard, Stats};

/// What may go out back to back before the rate bites: 46 datagrams of 1,400 bytes fit in the smallest receive buffer
/// that a stock Linux grants (208 KiB, of which each datagram takes about 2.3 KiB).
const BURST_BYTES: u64 = 64 * 1_024;
/// Streams one endpoint may publish on: the 128 groups that a floor may have, three lanes each.
const STREAMS_MAX: usize = 384;
/// Shortest hold-off (R-HOLD-1): a repair that was sent this long ago is on the wire or in a receiver's queue.
const HOLD_OFF_MIN_NS: u64 = 500_000;

/// Why a message was not published. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// Larger than a message may be.
    #[error("the message is {given} bytes long, but at most {max} are allowed")]
    TooLarge {
        /// Its length.
        given: usize,
        /// The longest there may be.
        max: usize,
    },
    /// What is still to be sent fills the send window: try again when some of it has gone out.
    #[error("the send window is full of messages that have not been sent yet")]
    WindowFull,
    /// More groups and lanes than one endpoint publishes on.
    #[error("already publishing on {STREAMS_MAX} streams")]
    TooManyStreams,
    /// The endpoint has been closed.
    #[error("the endpoint is closed")]
    Closed,
}

/// The sending half of an endpoint.
#[derive(Debug)]
pub(super) struct Sender {
    publications: BTreeMap<StreamId, Publication>,
    data: Bucket,
    repair: Bucket,
    grtt: Grtt,
    backoff: QuantDuration,
    group_size: u64,
    /// Where the next search for data to send begins, so that groups of one lane take turns.
    turn: usize,
    is_closed: bool,
}

impl Sender {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            publications: BTreeMap::new(),
            data: Bucket::new(config.data_rate, BURST_BYTES),
            repair: Bucket::new(config.repair_rate, BURST_BYTES),
            grtt: Grtt::new(),
            backoff: QuantDuration::at_least(config.backoff),
            group_size: config.group_size.get(),
            turn: 0,
            is_closed: false,
        }
    }

    /// Whether a message of `len` bytes would be accepted now on each of `streams`.
    pub(super) fn accepts(
        &self,
        streams: &[StreamId],
        len: usize,
        config: &Config,
    ) -> Result<(), PublishError> {
        if self.is_closed {
            return Err(PublishError::Closed);
        }
        if len > message_bytes_max(config) {
            return Err(PublishError::TooLarge {
                given: len,
                max: message_bytes_max(config),
            });
        }
        let known = |stream: &&StreamId| self.publications.contains_key(stream);
        let new = streams.len() - streams.iter().filter(known).count();
        if self.publications.len() + new > STREAMS_MAX {
            return Err(PublishError::TooManyStreams);
        }
        let publications = streams
            .iter()
            .filter_map(|stream| self.publications.get(stream));
        let mut answers = publications.map(|publication| publication.accepts(len, config));
        answers.try_for_each(|answer| answer.map_err(|full| full.for_message(len)))
    }

    /// Whether anything was published on `stream`.
    pub(super) fn publishes(&self, stream: StreamId) -> bool {
        self.publications.contains_key(&stream)
    }

    pub(super) fn publish(
        &mut self,
        now: Timestamp,
        stream: StreamId,
        payload: Bytes,
        config: &Config,
        stats: &mut Stats,
    ) -> Result<SeqRange, PublishError> {
        self.accepts(&[stream], payload.len(), config)?;
        let len = payload.len();
        let publication = self
            .publications
            .entry(stream)
            .or_insert_with(|| Publication::new(stream, now));
        let (range, evicted) = publication
            .publish(payload, config)
            .map_err(|full| full.for_message(len))?;
        stats.messages_published += 1;
        stats.payload_bytes += len as u64;
        stats.evicted += evicted;
        Ok(range)
    }

    pub(super) fn close(&mut self, now: Timestamp) {
        self.is_closed = true;
        for publication in self.publications.values_mut() {
            publication.close(now);
        }
    }

    /// Whether it was closed and has said so often enough.
    pub(super) fn is_drained(&self) -> bool {
        self.is_closed && self.publications.values().all(Publication::is_closed)
    }

    pub(super) fn set_group_size(&mut self, receivers: u64) {
        self.group_size = receivers.max(1);
    }

    /// Whether everything published has been sent at least once.
    pub(super) fn is_idle(&self) -> bool {
        !self.publications.values().any(Publication::has_unsent)
    }

    pub(super) const fn grtt_ns(&self) -> u64 {
        self.grtt.nanos()
    }

    pub(super) fn observe_echo(&mut self, now: Timestamp, echo: Option<crate::wire::Echo>) {
        if let Some(echo) = echo {
            self.grtt.observe(now, echo);
        }
    }

    /// Answers a NACK; `Some` is a squelch for whoever asked (R-SQ-1).
    pub(super) fn handle_nack(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        nack: &Nack<'_>,
        stats: &mut Stats,
    ) -> Result<Option<Squelch>, Discard> {
        let hold_off_ns = self.hold_off_ns();
        let publication = self
            .publications
            .get_mut(&nack.stream)
            .ok_or(Discard::NotOurs)?;
        stats.nacks_received += 1;
        let outcome = publication.handle_nack(now, from, nack.ranges(), hold_off_ns);
        stats.nacks_held_off += outcome.held_off;
        stats.nacks_unknown = stats.nacks_unknown.saturating_add(outcome.unknown);
        stats.nacks_over_budget += u64::from(outcome.over_budget);
        let trail = publication.trail();
        self.observe_echo(now, nack.echo);
        if outcome.below_trail && self.repair.is_ready(now) {
            self.repair.spend(now, SQUELCH_BYTES);
            stats.squelches_sent += 1;
            return Ok(Some(Squelch {
                stream: nack.stream,
                trail,
            }));
        }
        Ok(None)
    }

    /// When something is to be sent next.
    pub(super) fn poll_timeout(&self) -> Timestamp {
        let mut due = Timestamp::FAR_FUTURE;
        for publication in self.publications.values() {
            due = due.min(publication.heartbeat_due());
            if publication.has_unsent() {
                due = due.min(self.data.ready_at());
            }
            if publication.has_repairs() {
                due = due.min(self.repair.ready_at());
            }
        }
        due
    }

    /// Writes what is due until the batch is full: repairs and new data, each within its own budget, so neither keeps
    /// the other waiting for more than a batch (R-RATE-1), and heartbeats, which their own decay keeps few.
    pub(super) fn poll_transmit(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) {
        while batch.has_room()
            && self.repair.is_ready(now)
            && self.write_repairs(now, identity, batch, stats)
        {}
        while batch.has_room()
            && self.data.is_ready(now)
            && self.write_data(now, identity, batch, stats)
        {}
        while batch.has_room() && self.write_heartbeats(now, identity, batch, stats) {}
    }

    /// One datagram of repairs for one destination, most urgent lane first.
    fn write_repairs(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let backoff = self.backoff;
        for lane in Lane::ALL {
            for publication in self
                .publications
                .values_mut()
                .filter(|p| p.stream.lane() == lane)
            {
                let Some((_, to)) = publication.peek_repair() else {
                    continue;
                };
                let mut repaired = 0;
                let bytes = batch.write(to, identity, |writer| {
                    while let Some((seq, also_to)) = publication.peek_repair()
                        && also_to == to
                    {
                        let advert = publication.advert(now, backoff);
                        let Some(segment) = publication.segment(seq) else {
                            break;
                        };
                        if !writer.segment(publication.stream, seq, &advert, true, &segment) {
                            break;
                        }
                        publication.mark_repaired(now);
                        repaired += 1;
                    }
                });
                stats.repairs_sent += repaired;
                if matches!(to, Destination::Group(_)) {
                    stats.repairs_multicast += repaired;
                }
                self.repair.spend(now, bytes);
                return bytes > 0;
            }
        }
        false
    }

    /// One datagram of new data for one group: the most urgent stream's, then whatever else the group is waiting for, as
    /// far as it fits (R-PACK-3).
    fn write_data(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let Some(group) = self.next_group() else {
            return false;
        };
        let backoff = self.backoff;
        let publications = &mut self.publications;
        let bytes = batch.write(Destination::Group(group), identity, |writer| {
            for lane in Lane::ALL {
                let Some(publication) = publications.get_mut(&StreamId::new(group, lane)) else {
                    continue;
                };
                let advert = publication.advert(now, backoff);
                while let Some((seq, segment)) = publication.peek_unsent() {
                    if !writer.segment(publication.stream, seq, &advert, false, &segment) {
                        return;
                    }
                    publication.mark_sent(now);
                    stats.segments_sent += 1;
                }
            }
        });
        self.data.spend(now, bytes);
        bytes > 0
    }

    /// The group to send to next: the most urgent lane that has something, groups in turn (R-LANE-1).
    fn next_group(&mut self) -> Option<GroupId> {
        for lane in Lane::ALL {
            let waiting = || {
                self.publications
                    .values()
                    .filter(|p| p.stream.lane() == lane && p.has_unsent())
            };
            let count = waiting().count();
            if count > 0 {
                let stream = waiting().nth(self.turn % count)?.stream;
                self.turn = self.turn.wrapping_add(1);
                return Some(stream.group());
            }
        }
        None
    }

    /// One datagram with every heartbeat that is due for one group.
    fn write_heartbeats(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let Some(first) = self
            .publications
            .values()
            .find(|p| p.heartbeat_due() <= now)
        else {
            return false;
        };
        let group = first.stream.group();
        let (grtt, group_size, backoff) = (
            self.grtt.quantized(),
            QuantCount::at_least(self.group_size),
            self.backoff,
        );
        let publications = &mut self.publications;
        let bytes = batch.write(
            Destination::Group(group),
            identity,
            |writer: &mut DatagramWriter<'_>| {
                for lane in Lane::ALL {
                    let Some(publication) = publications.get_mut(&StreamId::new(group, lane))
                    else {
                        continue;
                    };
                    if publication.heartbeat_due() > now {
                        continue;
                    }
                    let heartbeat = Heartbeat {
                        stream: publication.stream,
                        clock_us: now.as_wire_micros(),
                        next: publication.unsent(),
                        trail: publication.trail(),
                        backoff,
                        grtt,
                        group_size,
                        age: publication.age(now),
                        is_closed: publication.is_closing(),
                    };
                    if !writer.heartbeat(&heartbeat) {
                        return;
                    }
                    publication.mark_heartbeat(now);
                    stats.heartbeats_sent += 1;
                }
            },
        );
        bytes > 0
    }

    /// How long a repair answers for (R-HOLD-1): max(1.5 * GRTT, 0.5 ms).
    fn hold_off_ns(&self) -> u64 {
        (self.grtt.nanos() * 3 / 2).max(HOLD_OFF_MIN_NS)
    }
}

impl Full {
    const fn for_message(self, given: usize) -> PublishError {
        match self {
            Self::TooLarge { max } => PublishError::TooLarge { given, max },
            Self::Window => PublishError::WindowFull,
        }
    }
}

/// A squelch with its header: less than the smallest NACK that asks for it, so no answer is larger than its question.
const SQUELCH_BYTES: usize = 58;

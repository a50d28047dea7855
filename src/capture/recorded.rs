//! A station that is written down as it goes.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::guard::Guard;
use crate::notice::{Notice, NoticeId, Tally};
use crate::proto::{Destination, Discard, Origin, PublishError, Resume, TransmitBatch};
use crate::station::{BroadcastError, Station, StationConfig, StationEvent};
use crate::time::Timestamp;
use crate::wire::{GroupId, Lane, SeqRange, StreamId};

use super::Capture;
use super::record::Record;
use super::value::{put_destination, put_event};

/// Calls in one drain; what comes beyond is another drain. So a damaged number cannot keep a replay busy for long.
pub(super) const DRAIN_CALLS_MAX: u32 = 1 << 16;

/// A [`Station`], and what is written down of it, if anything is.
///
/// To look at it is free: it dereferences to the station. To change it there are only the methods here, which have the
/// station's names. So a new way to change a station cannot be used by a program before it can be recorded: it needs a
/// row in the table of `record.rs`, a method here and an arm in `replay.rs`.
#[derive(Debug)]
pub struct Recorded {
    station: Station,
    track: Option<Track>,
}

impl Deref for Recorded {
    type Target = Station;

    fn deref(&self) -> &Station {
        &self.station
    }
}

impl Recorded {
    /// A station that has heard nobody; it is written down in `capture`.
    pub fn new(
        config: StationConfig,
        seed: u64,
        now: Timestamp,
        capture: Option<&Capture>,
    ) -> Self {
        let track = capture.map(|capture| {
            let mut track = Track::new(capture);
            let config = Box::new(config.clone());
            track.write(&Record::Open { config, seed, now });
            track
        });
        Self {
            station: Station::new(config, seed, now),
            track,
        }
    }

    /// Hands on what was written down, where it would otherwise wait too long for the turn after `until`.
    pub fn flush_before(&self, until: Timestamp, now: Timestamp) {
        if let Some(track) = &self.track {
            track.capture.flush_before(until, now);
        }
    }

    /// [`Station::broadcast`].
    ///
    /// # Errors
    /// As there.
    pub fn broadcast(
        &mut self,
        now: Timestamp,
        groups: &[GroupId],
        lane: Lane,
        notice: &Notice,
        supersedes: Option<u64>,
    ) -> Result<Vec<(StreamId, SeqRange)>, BroadcastError> {
        self.record(|| Record::Broadcast {
            now,
            groups: groups.to_vec(),
            lane,
            notice: notice.clone(),
            supersedes,
        });
        let answer = self
            .station
            .broadcast(now, groups, lane, notice, supersedes);
        self.answered(answer)
    }

    /// [`Station::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn publish(
        &mut self,
        now: Timestamp,
        stream: StreamId,
        payload: Bytes,
    ) -> Result<SeqRange, PublishError> {
        self.record(|| Record::Publish {
            now,
            stream,
            payload: payload.clone(),
        });
        let answer = self.station.publish(now, stream, payload);
        self.answered(answer)
    }

    /// [`Station::set_group_size`].
    pub fn set_group_size(&mut self, receivers: u64) {
        self.record(|| Record::GroupSize { receivers });
        self.station.set_group_size(receivers);
    }

    /// [`Station::ask_receipts`].
    pub fn ask_receipts(&mut self) {
        self.record(|| Record::AskReceipts {});
        self.station.ask_receipts();
    }

    /// [`Station::call_roll`].
    pub fn call_roll(&mut self, now: Timestamp, group: GroupId, via: &[GroupId]) {
        self.record(|| Record::CallRoll {
            now,
            group,
            via: via.to_vec(),
        });
        self.station.call_roll(now, group, via);
    }

    /// [`Station::expected_len`].
    pub fn expected_len(&mut self, now: Timestamp) -> usize {
        self.record(|| Record::ExpectedLen { now });
        let answer = self.station.expected_len(now);
        self.answered(answer)
    }

    /// [`Station::is_received_by_all`].
    pub fn is_received_by_all(&mut self, now: Timestamp, index: usize) -> bool {
        self.record(|| Record::IsReceivedByAll { now, index });
        let answer = self.station.is_received_by_all(now, index);
        self.answered(answer)
    }

    /// [`Station::tally`].
    pub fn tally(&mut self, now: Timestamp, index: usize) -> Option<Tally> {
        self.record(|| Record::Tally { now, index });
        let answer = self.station.tally(now, index);
        self.answered(answer)
    }

    /// [`Station::resume`].
    pub fn resume(&mut self, origin: Origin, stream: StreamId, from: Resume) {
        self.record(|| Record::Resume {
            origin,
            stream,
            from: from.clone(),
        });
        self.station.resume(origin, stream, from);
    }

    /// [`Station::remember`].
    pub fn remember(&mut self, id: NoticeId) {
        self.record(|| Record::Remember { id });
        self.station.remember(id);
    }

    /// [`Station::leave`].
    pub fn leave(&mut self, now: Timestamp) {
        self.record(|| Record::Leave { now });
        self.station.leave(now);
    }

    /// [`Station::handle_datagram`].
    ///
    /// # Errors
    /// As there.
    pub fn handle_datagram(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        datagram: Bytes,
    ) -> Result<(), Discard> {
        if self.track.is_some() && self.station.is_guarded() {
            // What is written down was opened already: so a capture holds no keys, and needs none.
            let Some(opened) = self.station.open(now, from, &datagram)? else {
                return Ok(());
            };
            let from = self.station.home_of(&opened, from);
            self.record(|| Record::Opened {
                now,
                from,
                opened: opened.clone(),
            });
            return self.station.handle_opened(now, from, opened);
        }
        self.record(|| Record::Datagram {
            now,
            from,
            datagram: datagram.clone(),
        });
        self.station.handle_datagram(now, from, datagram)
    }

    /// [`Station::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.record(|| Record::Timeout { now });
        self.station.handle_timeout(now);
    }

    /// [`Station::poll_transmit`].
    #[must_use = "what is not sent is lost"]
    pub fn poll_transmit(&mut self, now: Timestamp, batch: &mut TransmitBatch) -> bool {
        let Some(track) = &mut self.track else {
            return self.station.poll_transmit(now, batch);
        };
        let (already, room) = (batch.len(), batch.room());
        if self.station.may_transmit(now) {
            track.call(Call::Transmit { now, room });
            let is_added = self.station.poll_unsealed(now, batch);
            track.came(|digest| digest.add_datagrams(batch.iter().skip(already)));
            if !is_added {
                track.close();
            }
        }
        self.station.seal(now, batch, already);
        batch.len() > already
    }

    /// Lets the station take part in a protected floor ([`Station::guarded`]). A capture does not tell: it holds what was opened.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.station = self.station.guarded(guard);
        self
    }

    /// [`Station::guard`]: nothing that it learns changes what the station does with what was opened.
    pub fn guard(&mut self) -> Option<&mut Guard> {
        self.station.guard()
    }

    /// [`Station::poll_event`].
    pub fn poll_event(&mut self, wall_ns: u64) -> Option<StationEvent> {
        let Some(track) = &mut self.track else {
            return self.station.poll_event(wall_ns);
        };
        track.call(Call::Event { wall_ns });
        let event = self.station.poll_event(wall_ns);
        match &event {
            Some(event) => track.came(|digest| digest.add_event(event)),
            None => track.close(),
        }
        event
    }

    /// Writes down a call before it is made, so that one that never returns is there too.
    #[inline]
    fn record(&mut self, record: impl FnOnce() -> Record) {
        if let Some(track) = &mut self.track {
            track.write(&record());
        }
    }

    fn answered<T: fmt::Debug>(&mut self, answer: T) -> T {
        self.record(|| Record::Answered {
            hash: hash_of(&format!("{answer:?}")),
        });
        answer
    }
}

/// The hash of an answer, as it is written out.
pub(super) fn hash_of(answer: &str) -> u64 {
    xxh3_64(answer.as_bytes())
}

/// How many outputs came, and what they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Digest {
    pub(super) count: u64,
    pub(super) hash: u64,
    scratch: Vec<u8>,
}

impl Digest {
    /// For the next drain.
    fn clear(&mut self) {
        (self.count, self.hash) = (0, 0);
    }

    pub(super) fn add_datagrams<'a>(
        &mut self,
        datagrams: impl Iterator<Item = (Destination, &'a [u8])>,
    ) {
        for (to, datagram) in datagrams {
            self.scratch.clear();
            put_destination(to, &mut self.scratch);
            self.scratch.extend_from_slice(datagram);
            self.add_scratch();
        }
    }

    pub(super) fn add_event(&mut self, event: &StationEvent) {
        self.scratch.clear();
        put_event(event, &mut self.scratch);
        self.add_scratch();
    }

    fn add_scratch(&mut self) {
        self.count += 1;
        self.hash = xxh3_64_with_seed(&self.scratch, self.hash);
    }
}

/// A call of a drain, and what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Transmit { now: Timestamp, room: usize },
    Event { wall_ns: u64 },
}

/// What is written down of one station. Calls of one drain make one record, which is written when something else comes.
#[derive(Debug)]
struct Track {
    capture: Capture,
    station: u32,
    drain: Option<(Call, u32)>,
    digest: Digest,
}

impl Track {
    fn new(capture: &Capture) -> Self {
        Self {
            capture: capture.clone(),
            station: capture.add_station(),
            drain: None,
            digest: Digest::default(),
        }
    }

    fn write(&mut self, record: &Record) {
        self.close();
        self.capture.write(self.station, record);
    }

    /// One more call of a drain. It counts before it is made.
    fn call(&mut self, call: Call) {
        match &mut self.drain {
            Some((open, calls)) if *open == call && *calls < DRAIN_CALLS_MAX => *calls += 1,
            _ => {
                self.close();
                self.drain = Some((call, 1));
            }
        }
    }

    fn came(&mut self, add: impl FnOnce(&mut Digest)) {
        add(&mut self.digest);
    }

    /// Writes the drain down. Asking for an event where there is none changes nothing, and happens all the time.
    fn close(&mut self) {
        let Some((call, calls)) = self.drain.take() else {
            return;
        };
        if !(matches!(call, Call::Event { .. }) && calls == 1 && self.digest.count == 0) {
            self.write_drain(call, calls);
        }
        self.digest.clear();
    }

    fn write_drain(&self, call: Call, calls: u32) {
        let Digest { count, hash, .. } = self.digest;
        self.capture.write(
            self.station,
            &match call {
                Call::Transmit { now, room } => Record::Transmitted {
                    now,
                    room,
                    calls,
                    count,
                    hash,
                },
                Call::Event { wall_ns } => Record::Events {
                    wall_ns,
                    calls,
                    count,
                    hash,
                },
            },
        );
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        // A drain that is open now was broken off, perhaps by the very fault that is looked for: all of it counts.
        if let Some((call, calls)) = self.drain.take() {
            self.write_drain(call, calls);
        }
    }
}

//! Does again what a capture says, and compares what comes out.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::time::Duration;

use crate::proto::{Destination, Origin, TransmitBatch};
use crate::station::{Station, StationConfig, StationEvent};
use crate::time::Timestamp;
use crate::wire::{SeqNo, SeqRange, StreamId};

use super::record::{ReadError, Reader, Record};
use super::recorded::{DRAIN_CALLS_MAX, Digest, hash_of};

/// Largest batch that is believed.
const ROOM_MAX: usize = 1 << 16;

/// What a capture holds, and whether its replay gave the same.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The program that captured it.
    pub version: String,
    /// The revision of its core.
    pub revision: u32,
    /// Stations.
    pub stations: usize,
    /// Records read.
    pub records: u64,
    /// Of these, what stations were told and given.
    pub inputs: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent by the replay.
    pub datagrams_out: u64,
    /// Events of the replay.
    pub events: u64,
    /// Of these, notices, each once.
    pub notices: u64,
    /// Numbers that the replay reported lost.
    pub lost: u64,
    /// Notices and losses of the replay that did not begin where the one before had ended: must be 0.
    pub misplaced: u64,
    /// From the first input to the last.
    pub duration: Duration,
    /// Records whose outputs the replay did not give.
    pub differences: u64,
    /// The first of them.
    pub first_difference: Option<Difference>,
    /// How much of what happened the capture holds.
    pub completeness: Completeness,
}

/// How much of what happened a capture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// All of it.
    Whole,
    /// Its bound was reached; so many inputs came after that.
    Cut {
        /// How many.
        missed: u64,
    },
    /// It just ends, in the middle of a record or not: its program was killed, or could not write any more.
    Torn {
        /// Bytes at the end that are no record.
        bytes: u64,
    },
}

/// Where a replay is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The record, from 1.
    pub record: u64,
    /// The station, from 0.
    pub station: u32,
    /// Its name.
    pub name: &'a str,
    /// Its time.
    pub at: Timestamp,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            record,
            station,
            name,
            at,
        } = self;
        write!(f, "record {record}, station {station} ({name:?}), {at}")
    }
}

/// What a replay gives.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// A datagram is sent.
    Datagram {
        /// Where to.
        to: Destination,
        /// Its bytes.
        datagram: &'a [u8],
    },
    /// The program is told something.
    Event(&'a StationEvent),
    /// A command is answered.
    Answer(&'a str),
}

/// The first record whose outputs a replay did not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The record, from 1.
    pub record: u64,
    /// The station, from 0.
    pub station: u32,
    /// Its name.
    pub name: String,
    /// Its time.
    pub at: Timestamp,
    /// What differs: `datagrams`, `events` or `answers`.
    pub what: &'static str,
    /// How many there were.
    pub captured: u64,
    /// How many the replay gave; the same number means that they are others.
    pub replayed: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (captured, what, replayed) = (self.captured, self.what, self.replayed);
        let place = Place {
            record: self.record,
            station: self.station,
            name: &self.name,
            at: self.at,
        };
        write!(f, "{place}: ")?;
        if captured == replayed {
            write!(f, "{captured} {what}, but others")
        } else {
            write!(f, "{captured} {what} captured, {replayed} replayed")
        }
    }
}

/// Replays a capture.
///
/// # Errors
/// [`ReadError`] when it cannot be read to its end.
///
/// # Panics
/// When the core does: what a capture of a panic is for.
pub fn replay(from: impl Read) -> Result<Summary, ReadError> {
    let mut replay = Replay::open(from)?;
    replay.run(&mut |_, _| ())?;
    Ok(replay.summary())
}

/// A replay on its way.
pub struct Replay<R> {
    reader: Reader<R>,
    stations: BTreeMap<u32, Replayed>,
    current: u32,
    batch: (usize, TransmitBatch),
    began: Option<Timestamp>,
    ended: Timestamp,
    missed: Option<u64>,
    counts: Summary,
}

/// A station that is replayed.
struct Replayed {
    name: String,
    station: Station,
    at: Timestamp,
    /// What the command before answered, to be compared with the record behind it.
    answer: Option<String>,
    marks: Marks,
}

type Show<'a> = &'a mut dyn FnMut(Place<'_>, Output<'_>);

impl<R: Read> Replay<R> {
    /// Reads a capture's beginning.
    ///
    /// # Errors
    /// [`ReadError`] when it has none.
    pub fn open(from: R) -> Result<Self, ReadError> {
        let reader = Reader::open(from)?;
        let counts = Summary {
            version: String::new(),
            revision: reader.revision,
            stations: 0,
            records: 0,
            inputs: 0,
            datagrams_in: 0,
            datagrams_out: 0,
            events: 0,
            notices: 0,
            lost: 0,
            misplaced: 0,
            duration: Duration::ZERO,
            differences: 0,
            first_difference: None,
            completeness: Completeness::Whole,
        };
        Ok(Self {
            reader,
            stations: BTreeMap::new(),
            current: 0,
            batch: (1, TransmitBatch::new(1)),
            began: None,
            ended: Timestamp::ZERO,
            missed: None,
            counts,
        })
    }

    /// Does all that the capture says, and hands what comes out to `show`.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot be read to its end.
    pub fn run(&mut self, show: &mut dyn FnMut(Place<'_>, Output<'_>)) -> Result<(), ReadError> {
        while let Some((station, record)) = self.reader.next()? {
            self.current = station;
            self.counts.inputs += u64::from(record.is_input());
            match record {
                Record::Program { version } => self.counts.version = version,
                Record::End { missed } => self.missed = Some(missed),
                Record::Open { config, seed, now } => self.add(*config, seed, now)?,
                record => self.apply(record, show)?,
            }
        }
        Ok(())
    }

    /// Where it is: after a panic of the core, at the record that made it panic.
    pub fn place(&self) -> Place<'_> {
        let replayed = self.stations.get(&self.current);
        Place {
            record: self.reader.number,
            station: self.current,
            name: replayed.map_or("", |replayed| &replayed.name),
            at: replayed.map_or(Timestamp::ZERO, |replayed| replayed.at),
        }
    }

    /// What came of it so far.
    pub fn summary(&self) -> Summary {
        Summary {
            stations: self.stations.len(),
            records: self.reader.number,
            duration: Duration::from_nanos(
                self.ended.nanos_since(self.began.unwrap_or(self.ended)),
            ),
            completeness: match self.missed {
                Some(0) => Completeness::Whole,
                Some(missed) => Completeness::Cut { missed },
                None => Completeness::Torn {
                    bytes: self.reader.torn_bytes,
                },
            },
            ..self.counts.clone()
        }
    }

    fn add(&mut self, config: StationConfig, seed: u64, now: Timestamp) -> Result<(), ReadError> {
        let replayed = Replayed {
            name: config.name.clone(),
            station: Station::new(config, seed, now),
            at: now,
            answer: None,
            marks: Marks::default(),
        };
        self.see(now);
        match self.stations.insert(self.current, replayed) {
            None => Ok(()),
            Some(_) => Err(self.senseless("a station begins twice")),
        }
    }

    fn see(&mut self, now: Timestamp) {
        self.began = Some(self.began.map_or(now, |began| began.min(now)));
        self.ended = self.ended.max(now);
    }

    const fn senseless(&self, why: &'static str) -> ReadError {
        let record = self.reader.number;
        ReadError::Senseless { record, why }
    }

    fn apply(&mut self, record: Record, show: Show<'_>) -> Result<(), ReadError> {
        let no_station = self.senseless("there is no such station");
        let replayed = self.stations.get_mut(&self.current).ok_or(no_station)?;
        if let Some(now) = time_of(&record) {
            replayed.at = now;
            self.see(now);
        }
        match record {
            Record::Transmitted {
                now,
                room,
                calls,
                count,
                hash,
            } => {
                let is_credible = room <= ROOM_MAX && calls <= DRAIN_CALLS_MAX;
                if !is_credible {
                    return Err(self.senseless("a drain has no such size"));
                }
                let digest = self.transmit(now, room, calls, show);
                self.counts.datagrams_out += digest.count;
                self.compare("datagrams", (count, hash), (digest.count, digest.hash));
            }
            Record::Events {
                wall_ns,
                calls,
                count,
                hash,
            } => {
                if calls > DRAIN_CALLS_MAX {
                    return Err(self.senseless("a drain has no such size"));
                }
                let digest = self.events(wall_ns, calls, show);
                self.counts.events += digest.count;
                self.compare("events", (count, hash), (digest.count, digest.hash));
            }
            Record::Answered { hash } => {
                let answer = self
                    .stations
                    .get_mut(&self.current)
                    .and_then(|replayed| replayed.answer.take())
                    .ok_or_else(|| self.senseless("nothing was asked"))?;
                show(self.place(), Output::Answer(&answer));
                self.compare("answers", (1, hash), (1, hash_of(&answer)));
            }
            input => {
                self.counts.datagrams_in += u64::from(matches!(
                    input,
                    Record::Datagram { .. } | Record::Opened { .. }
                ));
                if let Some(replayed) = self.stations.get_mut(&self.current) {
                    replayed.give(input);
                }
            }
        }
        Ok(())
    }

    fn transmit(&mut self, now: Timestamp, room: usize, calls: u32, show: Show<'_>) -> Digest {
        let mut digest = Digest::default();
        if self.batch.0 != room {
            self.batch = (room, TransmitBatch::new(room));
        }
        let record = self.reader.number;
        let Some(replayed) = self.stations.get_mut(&self.current) else {
            return digest;
        };
        let batch = &mut self.batch.1;
        for _ in 0..calls {
            batch.clear();
            // What counts is what was added.
            let _ = replayed.station.poll_transmit(now, batch);
            digest.add_datagrams(batch.iter());
            for (to, datagram) in batch.iter() {
                let place = replayed.place(record, self.current);
                show(place, Output::Datagram { to, datagram });
            }
        }
        digest
    }

    fn events(&mut self, wall_ns: u64, calls: u32, show: Show<'_>) -> Digest {
        let mut digest = Digest::default();
        let record = self.reader.number;
        let Some(replayed) = self.stations.get_mut(&self.current) else {
            return digest;
        };
        for _ in 0..calls {
            let Some(event) = replayed.station.poll_event(wall_ns) else {
                continue;
            };
            digest.add_event(&event);
            let is_in_place = replayed.marks.take(&event);
            self.counts.misplaced += u64::from(!is_in_place);
            match &event {
                StationEvent::Notice { .. } => self.counts.notices += 1,
                StationEvent::Lost { seqs, .. } => {
                    self.counts.lost = self.counts.lost.saturating_add(seqs.len());
                }
                _ => {}
            }
            show(replayed.place(record, self.current), Output::Event(&event));
        }
        digest
    }

    /// Compares counts and hashes.
    fn compare(&mut self, what: &'static str, captured: (u64, u64), replayed: (u64, u64)) {
        if captured == replayed {
            return;
        }
        self.counts.differences += 1;
        if self.counts.first_difference.is_none() {
            let place = self.place();
            self.counts.first_difference = Some(Difference {
                record: place.record,
                station: place.station,
                name: place.name.to_owned(),
                at: place.at,
                what,
                captured: captured.0,
                replayed: replayed.0,
            });
        }
    }
}

impl Replayed {
    fn place(&self, record: u64, station: u32) -> Place<'_> {
        Place {
            record,
            station,
            name: &self.name,
            at: self.at,
        }
    }

    /// Makes the call that a record tells of.
    fn give(&mut self, input: Record) {
        let station = &mut self.station;
        match input {
            Record::Datagram {
                now,
                from,
                datagram,
            } => {
                // Counted by the station; what came of it is in the outputs.
                let _ = station.handle_datagram(now, from, datagram);
            }
            Record::Opened { now, from, opened } => {
                let _ = station.handle_opened(now, from, opened);
            }
            Record::AskReceipts {} => station.ask_receipts(),
            Record::Timeout { now } => station.handle_timeout(now),
            Record::Broadcast {
                now,
                groups,
                lane,
                notice,
                supersedes,
            } => {
                let answer = station.broadcast(now, &groups, lane, &notice, supersedes);
                self.answer = Some(format!("{answer:?}"));
            }
            Record::Publish {
                now,
                stream,
                payload,
            } => {
                let answer = station.publish(now, stream, payload);
                self.answer = Some(format!("{answer:?}"));
            }
            Record::GroupSize { receivers } => station.set_group_size(receivers),
            Record::CallRoll { now, group, via } => station.call_roll(now, group, &via),
            Record::Resume {
                origin,
                stream,
                from,
            } => station.resume(origin, stream, from),
            Record::Remember { id } => station.remember(id),
            Record::Leave { now } => station.leave(now),
            Record::ExpectedLen { now } => {
                self.answer = Some(format!("{:?}", station.expected_len(now)));
            }
            Record::IsReceivedByAll { now, index } => {
                self.answer = Some(format!("{:?}", station.is_received_by_all(now, index)));
            }
            Record::Tally { now, index } => {
                self.answer = Some(format!("{:?}", station.tally(now, index)));
            }
            Record::Program { .. }
            | Record::Open { .. }
            | Record::Transmitted { .. }
            | Record::Events { .. }
            | Record::Answered { .. }
            | Record::End { .. } => unreachable!("not given to a station"),
        }
    }
}

/// The station's time, where a record tells it.
const fn time_of(record: &Record) -> Option<Timestamp> {
    match record {
        Record::Open { now, .. }
        | Record::Datagram { now, .. }
        | Record::Opened { now, .. }
        | Record::Timeout { now }
        | Record::Broadcast { now, .. }
        | Record::Publish { now, .. }
        | Record::CallRoll { now, .. }
        | Record::Leave { now }
        | Record::ExpectedLen { now }
        | Record::IsReceivedByAll { now, .. }
        | Record::Tally { now, .. }
        | Record::Transmitted { now, .. } => Some(*now),
        Record::Program { .. }
        | Record::Resume { .. }
        | Record::AskReceipts { .. }
        | Record::Remember { .. }
        | Record::GroupSize { .. }
        | Record::Events { .. }
        | Record::Answered { .. }
        | Record::End { .. } => None,
    }
}

/// Where each stream of a station stands, by its events: each number is delivered or reported lost, once, in order.
#[derive(Debug, Default)]
struct Marks(BTreeMap<(Origin, StreamId), Mark>);

#[derive(Debug)]
struct Mark {
    end: SeqNo,
    /// The session was met anew: it may go on further ahead.
    may_jump: bool,
}

impl Marks {
    /// Whether an event stands where it should.
    fn take(&mut self, event: &StationEvent) -> bool {
        match event {
            StationEvent::SessionStarted { origin, .. } => {
                let of_origin = self.0.iter_mut().filter(|((of, _), _)| of == origin);
                of_origin.for_each(|(_, mark)| mark.may_jump = true);
                true
            }
            StationEvent::Notice { at, .. }
            | StationEvent::Again { at, .. }
            | StationEvent::Opaque { at, .. }
            | StationEvent::Refused { at, .. }
            | StationEvent::Unreadable { at, .. } => self.advance(at.origin, at.stream, at.seqs),
            StationEvent::Lost {
                origin,
                stream,
                seqs,
            }
            | StationEvent::Skipped {
                origin,
                stream,
                seqs,
                ..
            } => self.advance(*origin, *stream, *seqs),
            StationEvent::SessionEnded { .. }
            | StationEvent::LossJudged { .. }
            | StationEvent::PaceLeft { .. }
            | StationEvent::PaceRejoined { .. }
            | StationEvent::Evicted { .. }
            | StationEvent::PaceTold { .. }
            | StationEvent::Reported { .. }
            | StationEvent::NameConflict { .. } => true,
        }
    }

    fn advance(&mut self, origin: Origin, stream: StreamId, seqs: SeqRange) -> bool {
        let mark = self.0.entry((origin, stream)).or_insert(Mark {
            end: seqs.first(),
            may_jump: false,
        });
        let is_in_place = seqs.first() == mark.end || (mark.may_jump && seqs.first() > mark.end);
        *mark = Mark {
            end: seqs.end(),
            may_jump: false,
        };
        is_in_place
    }
}

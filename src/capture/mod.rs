//! A capture: what the stations of a program were told and given, in order, so that it can be done again.
//!
//! A [`Station`](crate::station::Station) has no clock and no chance of its own. Its configuration, its seed and every
//! call that changes it are therefore all that is needed to do again what it did. [`Recorded`] is a station whose every
//! such call goes through one place; with a [`Capture`] it is written down. What came out is written down as counts and
//! hashes, so that [`replay`] can say where a replay first differs.
//!
//! A file holds what was sent and received, notices included. It is whole up to its last record, whenever its program is
//! killed, except for the last second.

#[cfg(feature = "app")]
mod file;
mod record;
mod recorded;
mod replay;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::time::Timestamp;

pub use record::ReadError;
pub use recorded::Recorded;
pub use replay::{Completeness, Difference, Output, Place, Replay, Summary, replay};

use record::{Record, put_header, put_record};

/// The core's revision: raise it with every change that lets the core answer the same inputs otherwise. A replay then
/// knows that differences are to be expected; `tests/captures.rs` fails when it should have been raised.
pub const CORE_REVISION: u32 = 4;

/// Size of a file that is not told its own: an hour of a floor's whole data would not fit any bound, but minutes around
/// an incident do (a quarter of an hour at 250 datagrams of 1,000 bytes a second), and any disk has room for it.
pub const FILE_BYTES_RECOMMENDED: u64 = 256 << 20;
/// The least that says anything.
pub const FILE_BYTES_MIN: u64 = 4_096;

/// Records are handed to the file in pieces of about this size: some 200 datagrams for each call of the system.
const PIECE_BYTES: usize = 64 << 10;
/// Records wait no longer than this for their piece to fill.
const FLUSH_NS: u64 = 1_000_000_000;
/// Room kept for the record that tells that the bound was reached, which is written then and once more at the end.
const END_BYTES: u64 = 2 * 32;

/// A file being written. Clones write to the same one; the last one to go ends it.
#[derive(Clone)]
pub struct Capture(Arc<Mutex<Sink>>);

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Capture")
    }
}

impl Capture {
    /// A capture that is written to `to`, and stops before it is longer than `bytes_max`. Trouble is told to `warn`, once;
    /// the stations go on without being recorded.
    pub fn new(to: impl Write + Send + 'static, bytes_max: u64, warn: fn(&str)) -> Self {
        let mut buffer = Vec::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 1));
        put_header(CORE_REVISION, &mut buffer);
        let mut sink = Sink {
            to: Box::new(to),
            buffer,
            state: State::Open,
            stations: 0,
            records: 0,
            handed_on_bytes: 0,
            bytes_max: bytes_max.max(FILE_BYTES_MIN),
            flushed: Timestamp::ZERO,
            missed: 0,
            warn,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        sink.write(0, &Record::Program { version });
        Self(Arc::new(Mutex::new(sink)))
    }

    /// The number of one more station.
    fn add_station(&self) -> u32 {
        let mut sink = self.lock();
        sink.stations += 1;
        sink.stations - 1
    }

    fn write(&self, station: u32, record: &Record) {
        self.lock().write(station, record);
    }

    /// Hands on what has waited, or would wait until `until`, for too long.
    fn flush_before(&self, until: Timestamp, now: Timestamp) {
        let mut sink = self.lock();
        if until.nanos_since(sink.flushed) >= FLUSH_NS {
            sink.flushed = now;
            sink.hand_on();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where records go. Only whole records leave the buffer.
struct Sink {
    to: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    state: State,
    stations: u32,
    records: u64,
    handed_on_bytes: u64,
    bytes_max: u64,
    flushed: Timestamp,
    /// Inputs that were not recorded.
    missed: u64,
    warn: fn(&str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The bound is reached.
    Full,
    /// The file takes no more.
    Failed,
}

impl Sink {
    fn write(&mut self, station: u32, record: &Record) {
        if self.state != State::Open {
            self.missed += u64::from(record.is_input());
            return;
        }
        let start = self.buffer.len();
        let is_put = put_record(self.records + 1, station, record, &mut self.buffer);
        let bytes = self.handed_on_bytes + self.buffer.len() as u64;
        if !is_put || bytes + END_BYTES > self.bytes_max {
            self.buffer.truncate(start);
            self.missed += u64::from(record.is_input());
            self.state = State::Full;
            self.end();
            (self.warn)(&format!(
                "the capture has reached its bound of {} bytes; what comes now is not recorded",
                self.bytes_max
            ));
            return;
        }
        self.records += 1;
        if self.buffer.len() >= PIECE_BYTES {
            self.hand_on();
        }
    }

    /// Writes the last record. Once the bound is reached it is written at once, for a program that is killed, and again
    /// at the end, when all is counted: the last one holds.
    fn end(&mut self) {
        let missed = self.missed;
        if put_record(
            self.records + 1,
            0,
            &Record::End { missed },
            &mut self.buffer,
        ) {
            self.records += 1;
        }
        self.hand_on();
    }

    fn hand_on(&mut self) {
        if self.state == State::Failed || self.buffer.is_empty() {
            return;
        }
        self.handed_on_bytes += self.buffer.len() as u64;
        if let Err(error) = self.to.write_all(&self.buffer) {
            // Nothing may follow what is perhaps half a record.
            self.state = State::Failed;
            (self.warn)(&format!(
                "the capture cannot be written: {error}; what comes now is not recorded"
            ));
        }
        self.buffer.clear();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.state != State::Failed {
            self.end();
        }
        if self.state != State::Failed
            && let Err(error) = self.to.flush()
        {
            (self.warn)(&format!("the capture cannot be written: {error}"));
        }
    }
}

//! What a workstation remembers over a restart: how far it had come in each stream, and which notices it had shown.
//!
//! Without it, a workstation that starts anew in the middle of a broadcast would show again what it had shown, or pass
//! over what it had not.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::notice::NoticeId;
use crate::proto::{Origin, Resume};
use crate::wire::{FloorId, SeqNo, SeqRange, SessionId, SourceId, StreamId};

const MAGIC: &[u8; 8] = b"fcstate2";
/// Streams remembered; the one that has not moved for longest makes room. A floor has tens of sources.
const MARKS_MAX: usize = 128;
/// Runs of lost numbers remembered of one stream; more are merged, which may claim too much lost, never too little.
const LOST_RUNS_MAX: usize = 16;
/// Notices remembered: a notice to several groups comes through all of them within a second.
const SHOWN_MAX: usize = 256;
/// The file has two places, written in turn: whatever interrupts a write, the other place is whole.
const PLACE_BYTES: u64 = 64 * 1_024;

/// Why there is no memory of the last life.
#[derive(Debug)]
pub(super) enum StateError {
    /// Another program with this name runs on this machine.
    InUse(PathBuf),
    /// The file cannot be opened or written.
    File(PathBuf, io::Error),
}

/// Where a stream stood, and when it last moved.
#[derive(Clone, Debug)]
struct Mark {
    from: Resume,
    moved: u64,
}

/// What a workstation remembers, and its file.
#[derive(Debug)]
pub(super) struct State {
    file: File,
    path: PathBuf,
    marks: BTreeMap<(Origin, StreamId), Mark>,
    shown: VecDeque<NoticeId>,
    /// Counts what happened, and so tells which of the two places is newer.
    moves: u64,
    stores: u64,
}

impl State {
    /// Opens the memory of the station called `name` in `directory`. A damaged one counts as empty.
    pub(super) fn open(directory: &Path, floor: FloorId, name: &str) -> Result<Self, StateError> {
        let path = directory.join(format!("{floor}-{}.state", SourceId::of(floor, name)));
        let opened = fs::create_dir_all(directory).and_then(|()| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        });
        let mut file = opened.map_err(|error| StateError::File(path.clone(), error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path)),
            Err(TryLockError::Error(error)) => return Err(StateError::File(path, error)),
        }
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut file)
            .take(2 * PLACE_BYTES)
            .read_to_end(&mut bytes);
        read.map_err(|error| StateError::File(path.clone(), error))?;
        let middle = bytes
            .len()
            .min(usize::try_from(PLACE_BYTES).unwrap_or(usize::MAX));
        let (first, second) = bytes.split_at(middle);
        let newest = [parse(first), parse(second)]
            .into_iter()
            .flatten()
            .max_by_key(|(stores, ..)| *stores);
        if newest.is_none() && !bytes.is_empty() {
            tracing::warn!(
                "{} is damaged; what was shown before may be shown again",
                path.display()
            );
        }
        let (stores, marks, shown) = newest.unwrap_or_default();
        Ok(Self {
            file,
            path,
            marks,
            shown,
            moves: 0,
            stores,
        })
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = (Origin, StreamId, Resume)> {
        self.marks
            .iter()
            .map(|(&(origin, stream), mark)| (origin, stream, mark.from.clone()))
    }

    pub(super) fn shown(&self) -> impl Iterator<Item = NoticeId> {
        self.shown.iter().copied()
    }

    /// These numbers of the stream have been shown, or told lost.
    pub(super) fn advance(
        &mut self,
        origin: Origin,
        stream: StreamId,
        seqs: SeqRange,
        is_lost: bool,
    ) {
        self.moves += 1;
        let mark = self.marks.entry((origin, stream)).or_insert_with(|| Mark {
            from: Resume {
                joined: seqs.first(),
                next: seqs.first(),
                lost: Vec::new(),
            },
            moved: 0,
        });
        mark.from.next = seqs.end();
        mark.moved = self.moves;
        if is_lost {
            lose(&mut mark.from.lost, seqs);
        }
        if self.marks.len() > MARKS_MAX {
            let oldest = self
                .marks
                .iter()
                .min_by_key(|(_, mark)| mark.moved)
                .map(|(key, _)| *key);
            oldest.map(|oldest| self.marks.remove(&oldest));
        }
    }

    /// A notice has been shown.
    pub(super) fn show(&mut self, id: NoticeId) {
        self.shown.push_back(id);
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_front();
        }
    }

    /// Writes it down.
    pub(super) fn store(&mut self) -> Result<(), StateError> {
        self.stores += 1;
        let bytes = self.bytes();
        let place = self.stores % 2 * PLACE_BYTES;
        let written = self
            .file
            .seek(SeekFrom::Start(place))
            .and_then(|_| self.file.write_all(&bytes));
        written.map_err(|error| StateError::File(self.path.clone(), error))
    }

    /// Magic, length, count of stores, marks, notices, and a checksum of all that: a place half written is no place.
    fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(4_096);
        body.extend_from_slice(&self.stores.to_be_bytes());
        body.extend_from_slice(&(self.marks.len() as u64).to_be_bytes());
        for ((origin, stream), Mark { from, .. }) in &self.marks {
            let words = [
                origin.source.0,
                origin.session.0,
                u64::from(stream.to_wire()),
                from.joined.0,
                from.next.0,
            ];
            words
                .iter()
                .for_each(|word| body.extend_from_slice(&word.to_be_bytes()));
            body.extend_from_slice(&(from.lost.len() as u64).to_be_bytes());
            for run in &from.lost {
                body.extend_from_slice(&run.first().0.to_be_bytes());
                body.extend_from_slice(&run.end().0.to_be_bytes());
            }
        }
        for id in &self.shown {
            body.extend_from_slice(&id.0.to_be_bytes());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&xxh3_64(&body).to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

/// Adds a run behind the others; the two oldest become one when there are too many.
fn lose(lost: &mut Vec<SeqRange>, run: SeqRange) {
    match lost.last_mut() {
        Some(last) if last.end() == run.first() => {
            *last = SeqRange::new(last.first(), run.end()).unwrap_or(run)
        }
        _ => lost.push(run),
    }
    if lost.len() > LOST_RUNS_MAX {
        let first = lost.remove(0);
        lost[0] = SeqRange::new(first.first(), lost[0].end()).unwrap_or(lost[0]);
    }
}

type Parsed = (u64, BTreeMap<(Origin, StreamId), Mark>, VecDeque<NoticeId>);

/// What a place holds, if it is whole.
fn parse(place: &[u8]) -> Option<Parsed> {
    let mut rest = place.strip_prefix(MAGIC)?;
    let len = usize::try_from(take_u64(&mut rest)?).ok()?;
    let checksum = take_u64(&mut rest)?;
    let mut body = rest.get(..len)?;
    if xxh3_64(body) != checksum {
        return None;
    }
    let stores = take_u64(&mut body)?;
    let count = take_u64(&mut body)?;
    let mut marks = BTreeMap::new();
    for _ in 0..count.min(MARKS_MAX as u64) {
        let (key, from) = parse_mark(&mut body)?;
        marks.insert(key, Mark { from, moved: 0 });
    }
    let shown = std::iter::from_fn(|| take_u64(&mut body))
        .take(SHOWN_MAX)
        .map(NoticeId)
        .collect();
    Some((stores, marks, shown))
}

fn parse_mark(body: &mut &[u8]) -> Option<((Origin, StreamId), Resume)> {
    let origin = Origin {
        source: SourceId(take_u64(body)?),
        session: SessionId(take_u64(body)?),
    };
    let stream = StreamId::from_wire(u32::try_from(take_u64(body)?).ok()?)?;
    let number = |body: &mut &[u8]| take_u64(body).map(|number| SeqNo(number).min(SeqNo::MAX));
    let (joined, next) = (number(body)?, number(body)?);
    let runs = take_u64(body)?;
    let mut lost = Vec::new();
    for _ in 0..runs.min(LOST_RUNS_MAX as u64) {
        lost.extend(SeqRange::new(number(body)?, number(body)?));
    }
    Some(((origin, stream), Resume { joined, next, lost }))
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (head, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{GroupId, Lane};

    const FLOOR: FloorId = FloorId(3);

    #[test]
    fn remembers_over_a_restart_and_survives_damage() {
        let directory = tempfile::tempdir().unwrap();
        let origin = Origin {
            source: SourceId(1),
            session: SessionId(2),
        };
        let stream = StreamId::new(GroupId(5), Lane::Bulk);
        let mut state = State::open(directory.path(), FLOOR, "ws").unwrap();
        let run = |first, end| SeqRange::new(SeqNo(first), SeqNo(end)).unwrap();
        for seq in 1..=1_000 {
            let origin = Origin {
                session: SessionId(seq),
                ..origin
            };
            state.advance(origin, stream, run(seq, seq + 1), false);
            state.advance(origin, stream, run(seq + 1, seq + 3), true);
            state.show(NoticeId(seq));
            state.store().unwrap();
        }
        assert!(matches!(
            State::open(directory.path(), FLOOR, "ws"),
            Err(StateError::InUse(_))
        ));
        drop(state);
        let state = State::open(directory.path(), FLOOR, "ws").unwrap();
        assert_eq!(
            (state.marks().count(), state.shown().count()),
            (MARKS_MAX, SHOWN_MAX)
        );
        let expected = Resume {
            joined: SeqNo(1_000),
            next: SeqNo(1_003),
            lost: vec![run(1_001, 1_003)],
        };
        assert!(
            state
                .marks()
                .any(|(origin, of, from)| (origin.session.0, of, from)
                    == (1_000, stream, expected.clone()))
        );
        assert_eq!(state.shown().last(), Some(NoticeId(1_000)));
        let path = state.path.clone();
        drop(state);
        // A write that was cut off harms only the place it went to: the one before is still there.
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(
            State::open(directory.path(), FLOOR, "ws")
                .unwrap()
                .shown()
                .last(),
            Some(NoticeId(999))
        );
        bytes[usize::try_from(PLACE_BYTES).unwrap() + 100] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(
            State::open(directory.path(), FLOOR, "ws")
                .unwrap()
                .marks()
                .count(),
            0
        );
    }

    #[test]
    fn the_fullest_state_fits_its_place() {
        let mark = 6 * 8 + LOST_RUNS_MAX * 16;
        assert!((40 + MARKS_MAX * mark + SHOWN_MAX * 8) as u64 <= PLACE_BYTES);
    }
}

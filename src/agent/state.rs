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
use crate::proto::Origin;
use crate::wire::{FloorId, SeqNo, SessionId, SourceId, StreamId};

const MAGIC: &[u8; 8] = b"fcstate1";
/// Streams remembered; the one that has not moved for longest makes room. A floor has tens of sources.
const MARKS_MAX: usize = 256;
/// Notices remembered: a notice to several groups comes through all of them within a second.
const SHOWN_MAX: usize = 512;
const MARK_BYTES: usize = 28;

/// Why there is no memory of the last life.
#[derive(Debug)]
pub(super) enum StateError {
    /// Another program with this name runs on this machine.
    InUse(PathBuf),
    /// The file cannot be opened or written.
    File(PathBuf, io::Error),
}

/// What a workstation remembers, and its file.
#[derive(Debug)]
pub(super) struct State {
    file: File,
    path: PathBuf,
    marks: BTreeMap<(Origin, StreamId), (SeqNo, u64)>,
    shown: VecDeque<NoticeId>,
    moves: u64,
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
        file.read_to_end(&mut bytes)
            .map_err(|error| StateError::File(path.clone(), error))?;
        let (marks, shown) = parse(&bytes).unwrap_or_default();
        Ok(Self {
            file,
            path,
            marks,
            shown,
            moves: 0,
        })
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = (Origin, StreamId, SeqNo)> {
        self.marks
            .iter()
            .map(|(&(origin, stream), &(next, _))| (origin, stream, next))
    }

    pub(super) fn shown(&self) -> impl Iterator<Item = NoticeId> {
        self.shown.iter().copied()
    }

    /// Everything of the stream before `next` has been shown or told lost.
    pub(super) fn advance(&mut self, origin: Origin, stream: StreamId, next: SeqNo) {
        self.moves += 1;
        self.marks.insert((origin, stream), (next, self.moves));
        if self.marks.len() > MARKS_MAX {
            let oldest = self
                .marks
                .iter()
                .min_by_key(|(_, (_, moved))| *moved)
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
        let bytes = self.bytes();
        let written = self
            .file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&bytes))
            .and_then(|()| self.file.set_len(bytes.len() as u64));
        written.map_err(|error| StateError::File(self.path.clone(), error))
    }

    /// Magic, counts, marks, notices, and a checksum of all that: a file half written is no file.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(32 + self.marks.len() * MARK_BYTES + self.shown.len() * 8);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.marks.len() as u64).to_be_bytes());
        for ((origin, stream), (next, _)) in &self.marks {
            bytes.extend_from_slice(&origin.source.0.to_be_bytes());
            bytes.extend_from_slice(&origin.session.0.to_be_bytes());
            bytes.extend_from_slice(&stream.to_wire().to_be_bytes());
            bytes.extend_from_slice(&next.0.to_be_bytes());
        }
        for id in &self.shown {
            bytes.extend_from_slice(&id.0.to_be_bytes());
        }
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

type Parsed = (
    BTreeMap<(Origin, StreamId), (SeqNo, u64)>,
    VecDeque<NoticeId>,
);

fn parse(bytes: &[u8]) -> Option<Parsed> {
    let (body, checksum) = bytes.split_last_chunk::<8>()?;
    if xxh3_64(body) != u64::from_be_bytes(*checksum) {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let count = take_u64(&mut rest)?;
    let mut marks = BTreeMap::new();
    for _ in 0..count.min(MARKS_MAX as u64) {
        let origin = Origin {
            source: SourceId(take_u64(&mut rest)?),
            session: SessionId(take_u64(&mut rest)?),
        };
        let (stream, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        let stream = StreamId::from_wire(u32::from_be_bytes(*stream))?;
        marks.insert(
            (origin, stream),
            (SeqNo(take_u64(&mut rest)?).min(SeqNo::MAX), 0),
        );
    }
    let mut shown = VecDeque::new();
    while let Some(id) = take_u64(&mut rest) {
        shown.push_back(NoticeId(id));
    }
    Some((marks, shown))
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
        for seq in 1..=1_000 {
            state.advance(
                Origin {
                    session: SessionId(seq),
                    ..origin
                },
                stream,
                SeqNo(seq),
            );
            state.show(NoticeId(seq));
        }
        state.store().unwrap();
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
        assert!(
            state
                .marks()
                .any(|(origin, of, next)| (origin.session.0, of, next.0) == (1_000, stream, 1_000))
        );
        assert_eq!(state.shown().last(), Some(NoticeId(1_000)));
        let path = state.path.clone();
        drop(state);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(
            State::open(directory.path(), FLOOR, "ws")
                .unwrap()
                .marks()
                .count(),
            0
        );
    }
}

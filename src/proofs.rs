//! A file of receipts: what each workstation has, as it has signed it, so that whoever doubts the sender can check it.
//!
//! The first lines say where each notice lay, the others are one receipt each. What counts of a receipt is its `bytes`; the
//! rest of its line is what they say, for eyes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::guard::{Proven, prove};
use crate::keys::PublicKey;
use crate::notice::NoticeId;
use crate::output::{Ending, Failure, PrintError, Printer};
use crate::wire::{FloorId, SeqRange, StreamId};

/// Longest file that is checked, bytes: 64,000 receipts.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    /// Where a notice lay.
    Notice {
        id: String,
        floor: u32,
        parts: Vec<Part>,
    },
    /// What a workstation has.
    Proof {
        station: String,
        key: String,
        time_ms: u64,
        source: String,
        session: String,
        stream: u32,
        joined: u64,
        through: u64,
        lost: Vec<(u64, u64)>,
        bytes: String,
    },
}

/// Numbers of a stream, the end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    stream: u32,
    first: u64,
    end: u64,
}

/// A file that is written once all is known. It is made before anything is sent, so that a bad place is told in time.
#[derive(Debug)]
pub struct Proofs {
    path: PathBuf,
    file: File,
    floor: FloorId,
    notices: Vec<Line>,
}

impl Proofs {
    /// Makes the file.
    ///
    /// # Errors
    /// [`Failure::Usage`] when it cannot be made, or is there: what somebody kept as proof is not written over.
    pub fn create(path: &Path, floor: FloorId) -> Result<Self, Failure> {
        let file = File::create_new(path).map_err(|error| {
            Failure::Usage(format!(
                "--receipts: {} cannot be made ({error}); nothing was sent; name a file that is not there yet",
                path.display()
            ))
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            floor,
            notices: Vec::new(),
        })
    }

    /// A notice was sent.
    pub fn sent(&mut self, id: NoticeId, parts: &[(StreamId, SeqRange)]) {
        let parts = parts.iter().map(|(stream, seqs)| Part {
            stream: stream.to_wire(),
            first: seqs.first().0,
            end: seqs.end().0,
        });
        self.notices.push(Line::Notice {
            id: id.to_string(),
            floor: self.floor.0,
            parts: parts.collect(),
        });
    }

    /// Writes all of it; `name_of` tells a station's name.
    ///
    /// # Errors
    /// [`Failure::Failed`] when the system does not take it.
    pub fn write<'r>(
        self,
        receipts: impl Iterator<Item = &'r [u8]>,
        name_of: impl Fn(&Proven) -> String,
    ) -> Result<usize, Failure> {
        let mut written = 0;
        let proofs = receipts.filter_map(|bytes| {
            let proven = prove(self.floor, bytes)?;
            written += 1;
            Some(Line::Proof {
                station: name_of(&proven),
                key: proven.key.to_hex(),
                time_ms: proven.time_ms,
                source: proven.source.to_string(),
                session: proven.session.to_string(),
                stream: proven.stream.to_wire(),
                joined: proven.joined.0,
                through: proven.through.0,
                lost: ranges(&proven.lost),
                bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            })
        });
        let lines: Vec<_> = self.notices.into_iter().chain(proofs).collect();
        let mut out = BufWriter::new(&self.file);
        let mut put = || -> std::io::Result<()> {
            for line in &lines {
                serde_json::to_writer(&mut out, line)?;
                out.write_all(b"\n")?;
            }
            out.flush()?;
            self.file.sync_all()
        };
        put().map_err(|error| {
            Failure::Failed(format!(
                "the receipts cannot be written to {}: {error}",
                self.path.display()
            ))
        })?;
        Ok(written)
    }
}

fn ranges(lost: &[SeqRange]) -> Vec<(u64, u64)> {
    lost.iter()
        .map(|run| (run.first().0, run.end().0))
        .collect()
}

/// What a file of receipts proves.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    event: &'static str,
    file: &'a str,
    notices: usize,
    /// Workstations whose receipts hold.
    stations: usize,
    receipts: usize,
    /// Receipts that prove nothing, or not what their line says.
    false_receipts: usize,
}

/// Checks a file of receipts by itself: nothing else is needed, and nothing is believed but signatures.
///
/// # Errors
/// [`Failure::Usage`] when it is none.
pub fn check(path: &Path, is_json: bool) -> Result<Ending, Failure> {
    let shown = path.display().to_string();
    let unreadable = |why: String| Failure::Usage(format!("{shown} cannot be read: {why}"));
    let len = fs::metadata(path)
        .map_err(|error| unreadable(error.to_string()))?
        .len();
    if len > FILE_BYTES_MAX {
        return Err(unreadable(format!(
            "it is longer than {FILE_BYTES_MAX} bytes, and no file of receipts is"
        )));
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let (mut notices, mut receipts, mut false_receipts) = (0, 0, 0);
    let mut floor = None;
    let mut stations = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let line = serde_json::from_str(line).map_err(|error| {
            unreadable(format!(
                "line {} is none of send --receipts ({error})",
                number + 1
            ))
        })?;
        match line {
            Line::Notice { floor: of, .. } => {
                notices += 1;
                floor = Some(FloorId(of));
            }
            proof @ Line::Proof { .. } => match floor.and_then(|floor| holds(floor, &proof)) {
                Some(key) => {
                    receipts += 1;
                    stations.insert(key);
                }
                None => false_receipts += 1,
            },
        }
    }
    let summary = Summary {
        event: "receipts",
        file: &shown,
        notices,
        stations: stations.len(),
        receipts,
        false_receipts,
    };
    let text = format!(
        "{notices} notices, {receipts} receipts of {} workstations hold, {false_receipts} do not",
        stations.len()
    );
    let mut printer = Printer::new(is_json);
    let printed = printer.print(&summary, &text);
    printed
        .and_then(|()| printer.flush())
        .or_else(PrintError::into_ending)?;
    Ok(if false_receipts == 0 && receipts > 0 {
        Ending::Done
    } else {
        Ending::Failed
    })
}

/// The key that signed, if the bytes of a line prove what it says.
fn holds(floor: FloorId, line: &Line) -> Option<[u8; 32]> {
    let Line::Proof {
        key,
        time_ms,
        source,
        session,
        stream,
        joined,
        through,
        lost,
        bytes,
        ..
    } = line
    else {
        return None;
    };
    let proven = prove(floor, &unhex(bytes)?)?;
    let says = (
        PublicKey::from_hex(key)?,
        *time_ms,
        source.clone(),
        session.clone(),
        *stream,
        (*joined, *through),
        lost.clone(),
    );
    let proves = (
        proven.key,
        proven.time_ms,
        proven.source.to_string(),
        proven.session.to_string(),
        proven.stream.to_wire(),
        (proven.joined.0, proven.through.0),
        ranges(&proven.lost),
    );
    (says == proves).then(|| proven.key.to_bytes())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2)?;
        u8::from_str_radix(digits, 16).ok()
    };
    pairs.map(byte).collect()
}

//! What programs tell people and other programs: lines for eyes, JSON lines for machines, one sentence for failures.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::proto::{Blame, ReceiverAccount, Subnet};
use crate::station::Station;
use crate::wire::{Lane, SeqRange, SourceId};

/// Why a program ends without having done its work. The text is one sentence: what, where, what is allowed, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A flag, a file or an environment that cannot be worked with: exit code 2.
    Usage(String),
    /// Something that should have worked: exit code 1.
    Failed(String),
}

impl Failure {
    /// A failure of the system, with everything that its error says.
    pub fn system(what: &str, error: &dyn std::error::Error) -> Self {
        let mut sentence = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            sentence = format!("{sentence}: {cause}");
            source = cause.source();
        }
        Self::Failed(sentence)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(sentence) | Self::Failed(sentence)) = self;
        f.write_str(sentence)
    }
}

/// How a program that did its work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of it: exit code 0.
    Done,
    /// What was asked for did not come true: exit code 1.
    Failed,
    /// Sent, but not everyone has it: exit code 3.
    Incomplete,
}

/// Standard output, for eyes or for machines.
pub struct Printer {
    out: io::BufWriter<io::Stdout>,
    is_json: bool,
}

/// Why nothing more can be printed.
#[derive(Debug)]
pub enum PrintError {
    /// A closed pipe, which is no failure: whoever read has read enough.
    NobodyReads,
    /// A full disk, or the like.
    Failed(io::Error),
}

impl PrintError {
    /// A closed pipe ends quietly; anything else is a failure.
    ///
    /// # Errors
    /// [`Failure::Failed`] for anything but a closed pipe.
    pub fn into_ending(self) -> Result<(), Failure> {
        match self {
            Self::NobodyReads => Ok(()),
            Self::Failed(error) => Err(Failure::Failed(format!(
                "standard output cannot be written: {error}"
            ))),
        }
    }
}

impl From<io::Error> for PrintError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::NobodyReads
        } else {
            Self::Failed(error)
        }
    }
}

/// Standard error, for the log and for sentences: that nobody reads it, or that it is full, stops no program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

/// Says that the floor runs without protection.
pub fn warn_of_open_lab(is_open: bool, interface: &str) {
    if is_open {
        tracing::warn!(
            "open lab on {interface}: nothing is authenticated or encrypted; anyone on this network can forge notices"
        );
    }
}

impl Printer {
    /// Standard output; as JSON lines with `is_json`.
    pub fn new(is_json: bool) -> Self {
        Self {
            out: io::BufWriter::new(io::stdout()),
            is_json,
        }
    }

    /// Whether lines are for machines.
    pub const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Prints one event: as JSON, or as `line` says it for eyes (nothing where that is empty).
    ///
    /// # Errors
    /// [`PrintError`] when the line cannot be written.
    pub fn print(&mut self, event: &impl Serialize, line: &str) -> Result<(), PrintError> {
        if self.is_json {
            serde_json::to_writer(&mut self.out, event).map_err(io::Error::from)?;
            self.out.write_all(b"\n")?;
        } else if !line.is_empty() {
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }

    /// Lets everything printed out.
    ///
    /// # Errors
    /// [`PrintError`] when the line cannot be written.
    pub fn flush(&mut self) -> Result<(), PrintError> {
        Ok(self.out.flush()?)
    }
}

/// What an agent and a sender print with `--json`, each with its name in `event`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Line<'a> {
    /// The workstation listens.
    Ready {
        /// Its name on the floor.
        name: &'a str,
        /// Its interface.
        interface: &'a str,
        /// The groups it listens to.
        groups: &'a [String],
        /// Receive buffer granted by the system, bytes.
        receive_buffer_bytes: usize,
        /// How it sends and receives: `offload`, `batch` or `plain`.
        io: String,
        /// Whether the floor runs without protection.
        open_lab: bool,
        /// How it is protected: `keys` or `open-lab`.
        security: &'a str,
    },
    /// A source began or ended a life.
    Session {
        /// Whose.
        from: &'a str,
        /// Which life.
        session: String,
        /// `started` or `ended`.
        state: &'a str,
        /// Why it ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
    },
    /// A notice, in its turn.
    Notice(NoticeLine<'a>),
    /// A notice that came too late to be shown.
    Expired(NoticeLine<'a>),
    /// Numbers that will not come.
    Lost {
        /// Whose.
        from: &'a str,
        /// In which group.
        group: &'a str,
        /// In which lane.
        lane: &'a str,
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// Numbers that their source took back: nothing is missing.
    Skipped {
        /// Whose.
        from: &'a str,
        /// In which group.
        group: &'a str,
        /// In which lane.
        lane: &'a str,
        /// The first.
        first: u64,
        /// The last.
        last: u64,
        /// `expired` or `superseded`.
        why: &'a str,
    },
    /// This workstation has left a source's pace and catches up alone, or is back in it.
    Pace {
        /// Whose pace.
        from: &'a str,
        /// In which group.
        group: &'a str,
        /// In which lane.
        lane: &'a str,
        /// `left` or `rejoined`.
        state: &'a str,
    },
    /// A workstation has left this source's pace, is back in it, or lacks what is no longer to be had.
    Receiver {
        /// Which.
        name: String,
        /// In which group.
        group: &'a str,
        /// In which lane.
        lane: &'a str,
        /// `left`, `rejoined` or `evicted`.
        state: &'a str,
    },
    /// A loss of this source's is over.
    Loss {
        /// In which group.
        group: &'a str,
        /// In which lane.
        lane: &'a str,
        /// Where it was, as far as the requests for repair tell: `edge`, `segment`, `source` or `scattered`.
        #[serde(rename = "where")]
        place: &'a str,
        /// At whose edge.
        #[serde(skip_serializing_if = "Option::is_none")]
        receiver: Option<String>,
        /// In which subnet.
        #[serde(skip_serializing_if = "Option::is_none")]
        segment: Option<String>,
        /// How many workstations asked for repair.
        asked: usize,
    },
    /// Another program uses this one's name.
    Conflict {
        /// The name.
        name: &'a str,
        /// Where the other sends from.
        address: String,
    },
    /// Who has a notice.
    Receipt {
        /// Which.
        id: String,
        /// How many were expected to receive it.
        expected: usize,
        /// How many have.
        received: usize,
        /// Who has not.
        missing: Vec<String>,
    },
    /// The end of a send.
    Summary(SendSummary),
}

/// A notice as it is printed.
#[derive(Clone, Debug, Serialize)]
pub struct NoticeLine<'a> {
    /// Its own name.
    pub id: String,
    /// Who sent it.
    pub from: &'a str,
    /// Through which group.
    pub group: &'a str,
    /// In which lane.
    pub lane: &'a str,
    /// Whether it is meant.
    pub status: &'a str,
    /// Its first sequence number.
    pub seq: u64,
    /// What it says.
    pub text: &'a str,
    /// When it was sent, wall clock of the sender, nanoseconds since 1970.
    pub sent_ns: u64,
    /// When it was received, wall clock of this machine.
    pub received_ns: u64,
    /// Whether any part of it came as a repair.
    pub repaired: bool,
}

/// The end of a send.
#[derive(Clone, Debug, Serialize)]
pub struct SendSummary {
    /// Notices sent.
    pub notices: usize,
    /// Of these, received by everybody expected.
    pub complete: usize,
    /// The rest.
    pub incomplete: usize,
    /// How many workstations were expected.
    pub expected: usize,
    /// Who of them lacks any notice.
    pub missing: Vec<String>,
    /// From the first notice to the last report, seconds.
    pub seconds: f64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Segments repaired.
    pub repairs_sent: u64,
    /// NACKs received.
    pub nacks_received: u64,
    /// Parity shards sent.
    pub parity_sent: u64,
    /// Segments sent again unasked.
    pub copies_sent: u64,
    /// Notices that ran out of time, or that newer ones took the place of, before everybody had them.
    pub expired: u64,
    /// See `expired`.
    pub superseded: u64,
    /// Datagrams that the system did not take.
    pub send_errors: u64,
    /// Where losses were, as far as the requests for repair tell.
    pub losses: LossSummary,
    /// Losses that have no line of their own, because there were too many before.
    pub losses_left_out: u64,
    /// The receivers with most losses.
    #[serde(flatten)]
    pub receivers: ReceiverLines,
    /// Whether the floor runs without protection.
    pub open_lab: bool,
    /// How it is protected: `keys` or `open-lab`.
    pub security: &'static str,
}

/// Losses by where they were: each counts once, however many it hit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LossSummary {
    /// One receiver's.
    pub edge: u64,
    /// One subnet's.
    pub segment: u64,
    /// Everybody's.
    pub source: u64,
    /// Of several that have nothing in common.
    pub scattered: u64,
    /// The subnets that were hit alone, and how often.
    pub segments: BTreeMap<String, u64>,
}

/// The receivers that lost or asked most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReceiverLines {
    /// They, worst first.
    pub receivers: Vec<ReceiverLine>,
    /// Others that lost or asked for something as well.
    pub receivers_left_out: usize,
}

/// What a source knows of one receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiverLine {
    /// Its name on the floor.
    pub name: String,
    /// Where it sends from.
    pub address: String,
    /// The subnet that this is in, as losses are told of it.
    pub segment: String,
    /// Numbers that it missed, whether they came after all or were given up; not those taken back.
    pub missed: u64,
    /// Losses that it alone asked for.
    pub edge_losses: u64,
    /// NACKs that came of it.
    pub nacks: u64,
    /// NACKs beyond its budget, refused.
    pub refused: u64,
    /// Numbers and parity shards that it asked for, as often as it did.
    pub asked: u64,
    /// Segments and shards that were sent again because of it.
    pub repairs: u64,
    /// `group`, or `alone` while it catches up by itself.
    pub path: &'static str,
}

/// The `loss` lines of a run.
#[derive(Debug, Default)]
pub struct LossLines {
    printed: u64,
    left_out: u64,
}

/// `loss` lines that a run prints at most: enough to see what goes wrong, where a day on a bad floor would print millions.
/// Those beyond are in the counts of [`LossSummary`] only.
const LOSS_LINES_MAX: u64 = 1_000;

/// Receivers that a summary lists at most: more than anybody mends in a day. Those beyond are counted.
const RECEIVERS_LISTED_MAX: usize = 64;

impl LossSummary {
    /// What `station` has judged.
    pub fn of(station: &Station) -> Self {
        let stats = station.endpoint().stats();
        Self {
            edge: stats.losses_edge,
            segment: stats.losses_segment,
            source: stats.losses_source,
            scattered: stats.losses_scattered,
            segments: station
                .endpoint()
                .subnet_losses()
                .map(|(subnet, count)| (subnet.to_string(), count))
                .collect(),
        }
    }
}

impl LossLines {
    /// Prints a loss of `station`'s in the group called `group`: for machines, and as long as there are not too many.
    ///
    /// # Errors
    /// [`PrintError`] when the line cannot be written.
    pub fn print(
        &mut self,
        printer: &mut Printer,
        station: &Station,
        (group, lane): (&str, Lane),
        blame: Blame,
        asked: usize,
    ) -> Result<(), PrintError> {
        if !printer.is_json() || !self.has_room() {
            return Ok(());
        }
        let (receiver, segment) = match blame {
            Blame::Edge(receiver) => (Some(station.name_of(receiver)), None),
            Blame::Subnet(subnet) => (None, Some(subnet.to_string())),
            Blame::Source | Blame::Scattered => (None, None),
        };
        let line = Line::Loss {
            group,
            lane: lane.as_str(),
            place: blame.as_str(),
            receiver,
            segment,
            asked,
        };
        printer.print(&line, "")
    }

    /// Losses that had no room.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether one more has room; it is counted either way.
    fn has_room(&mut self) -> bool {
        let has_room = self.printed < LOSS_LINES_MAX;
        self.printed += u64::from(has_room);
        self.left_out += u64::from(!has_room);
        has_room
    }
}

impl ReceiverLines {
    /// The receivers of `station` that lost or asked most.
    pub fn worst_of(station: &Station) -> Self {
        let accounts = station.endpoint().receivers();
        Self::worst(accounts, |id| station.name_of(id))
    }

    fn worst(
        accounts: impl Iterator<Item = ReceiverAccount>,
        name_of: impl Fn(SourceId) -> String,
    ) -> Self {
        let mut accounts: Vec<_> = accounts
            .filter(|account| account.missed + account.nacks > 0 || account.is_behind)
            .collect();
        accounts.sort_by_key(|account| std::cmp::Reverse((account.missed, account.nacks)));
        let receivers_left_out = accounts.len().saturating_sub(RECEIVERS_LISTED_MAX);
        accounts.truncate(RECEIVERS_LISTED_MAX);
        let line = |account: ReceiverAccount| ReceiverLine {
            name: name_of(account.station),
            address: account.from.to_string(),
            segment: Subnet::of(account.from.ip()).to_string(),
            missed: account.missed,
            edge_losses: account.edge_losses,
            nacks: account.nacks,
            refused: account.refused,
            asked: account.asked,
            repairs: account.repairs,
            path: if account.is_behind { "alone" } else { "group" },
        };
        Self {
            receivers: accounts.into_iter().map(line).collect(),
            receivers_left_out,
        }
    }
}

impl<'a> Line<'a> {
    /// Numbers that will not come.
    pub fn lost(from: &'a str, group: &'a str, lane: &'a str, seqs: SeqRange) -> Self {
        Self::Lost {
            from,
            group,
            lane,
            first: seqs.first().0,
            last: seqs.last().0,
        }
    }
}

/// `text` for a terminal: control characters and marks that turn the line around are shown as what they are, so that no
/// notice can move the cursor, clear the screen or hide a part of itself.
pub fn for_eyes(text: &str) -> String {
    let is_harmful = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    // What ends a line in a file is no part of what people read.
    let text = text.trim_end_matches(['\r', '\n']);
    text.chars()
        .map(|c| if is_harmful(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmful_marks_are_shown() {
        assert_eq!(
            for_eyes("a\u{1b}[2Jb\tc\u{202e}d\re"),
            "a\u{fffd}[2Jb\tc\u{fffd}d\u{fffd}e"
        );
        assert_eq!(for_eyes("Panne réseau ☎ 👏"), "Panne réseau ☎ 👏");
    }

    #[test]
    fn loss_lines_are_bounded_and_the_rest_is_counted() {
        let mut lines = LossLines::default();
        let printed = (0..1_003).filter(|_| lines.has_room()).count();
        assert_eq!((printed, lines.left_out()), (1_000, 3));
    }

    #[test]
    fn the_worst_receivers_are_listed_and_the_others_counted() {
        let account = |id: u8| ReceiverAccount {
            station: SourceId(id.into()),
            from: ([10, 0, 1, id], 7_000).into(),
            missed: id.into(),
            edge_losses: 0,
            nacks: 0,
            refused: 0,
            asked: 7,
            repairs: 0,
            is_behind: false,
        };
        // The first has lost nothing.
        let lines = ReceiverLines::worst((0..=70).map(account), |id| id.0.to_string());
        assert_eq!((lines.receivers.len(), lines.receivers_left_out), (64, 6));
        let worst = &lines.receivers[0];
        assert_eq!(
            (worst.name.as_str(), worst.segment.as_str(), worst.asked),
            ("70", "10.0.1.0/24", 7)
        );
    }

    #[test]
    fn lines_carry_their_event() {
        let line = Line::Session {
            from: "a",
            session: "1".into(),
            state: "ended",
            why: Some("closed"),
        };
        let json = serde_json::to_string(&line).unwrap();
        assert_eq!(
            json,
            r#"{"event":"session","from":"a","session":"1","state":"ended","why":"closed"}"#
        );
    }
}

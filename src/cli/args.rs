//! The flags, as the command line's library wants them declared.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::capture::FILE_BYTES_RECOMMENDED;
use crate::floor::{parse_duration, parse_positive_duration};
use crate::notice::Audience;
use crate::output::Failure;
use crate::runtime::{self, Idle};
use crate::wire::Lane;

use super::bench::BenchCommand;
use super::keys::{KeysCommand, PassphraseArgs, SignArgs, StatusArg};

const EXAMPLES: &str = "Examples:
  floorcast demo                                      a whole floor on this machine
  floorcast agent --open-lab --name ws-017            a workstation that prints what it hears
  floorcast send --open-lab --to all \"Lines are back\" one notice, and who has it
  floorcast send --open-lab --to all --lines < news   one notice a line, in order
  floorcast bench send --receivers 4                  how fast, to the last of four bench receive
  floorcast bench compare before after                is what bench run measured worse than it was?
  floorcast floor check                               is floor.toml good, and signed?
  floorcast demo --capture fall.fcap                  the same, and what its stations were given goes into a file
  floorcast replay fall.fcap                          does all of it again, and says whether the same comes out

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 sent but not everyone has it.";

/// Multicast broadcast for call-centre floors: in order, repaired, confirmed, measured.
#[derive(Debug, Parser)]
#[command(name = "floorcast", version, after_help = EXAMPLES, propagate_version = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a whole floor on this machine, over loopback, and show what arrived when
    Demo(DemoArgs),
    /// Be a workstation: print each notice as it is delivered
    Agent(AgentArgs),
    /// Send notices, and say who has them
    Send(SendArgs),
    /// Do again what a capture says, without a network, and say whether the same comes out
    Replay(ReplayArgs),
    /// Measure: a source with a fixed schedule, receivers that write down when each message came
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Keys, and who may say what: they are made and signed here
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// The floor's configuration
    #[command(after_help = "Example: floorcast floor check --floor /srv/share/floor.toml")]
    Floor {
        #[command(subcommand)]
        command: FloorCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum FloorCommand {
    /// Read floor.toml as every program does, and say what is wrong with it
    Check(CheckArgs),
    /// Let the floor's root stand behind floor.toml as it is: puts floor.toml.sig beside it
    Sign(SignArgs),
}

/// Whether and how a program is protected.
#[derive(Debug, Args)]
pub(super) struct ProtectionArgs {
    /// The folder of the floor's keys [default: the folder keys beside floor.toml]
    #[arg(long, value_name = "FOLDER", conflicts_with = "open_lab")]
    pub(super) keys: Option<PathBuf>,
    /// The fingerprint that the floor's root must have, as floorcast keys show prints it; where it is not given, the first
    /// root that is met stays
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint, conflicts_with = "open_lab")]
    pub(super) root: Option<String>,
    /// Run without any protection: for laboratories only
    #[arg(long)]
    pub(super) open_lab: bool,
}

#[derive(Debug, Args)]
pub(super) struct FloorFile {
    /// The floor's configuration file
    #[arg(long, value_name = "PATH", default_value = "floor.toml")]
    pub(super) floor: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// Write down in a new file what the program is given, notices included, for floorcast replay
    #[arg(long, value_name = "FILE")]
    pub(super) capture: Option<PathBuf>,
    /// Longest capture, MiB; what comes beyond it is not recorded
    #[arg(long, value_name = "MIB", requires = "capture", default_value_t = FILE_BYTES_RECOMMENDED >> 20, value_parser = mebibytes, allow_hyphen_values = true)]
    pub(super) capture_limit: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: floorcast demo --agents 200 --messages 5000 --loss 2 --json")]
pub(super) struct DemoArgs {
    /// Workstations, 1 to 5000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = agents, allow_hyphen_values = true)]
    pub(super) agents: u32,
    /// Messages to broadcast, 1 to 1000000
    #[arg(long, value_name = "M", default_value_t = 2_000, value_parser = messages, allow_hyphen_values = true)]
    pub(super) messages: u32,
    /// Bytes of each message, 1 to 1000000
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = size, allow_hyphen_values = true)]
    pub(super) size: usize,
    /// Messages a second, on a fixed schedule [default: what this machine can be expected to take]
    #[arg(long, value_name = "PER_S", value_parser = rate, allow_hyphen_values = true)]
    pub(super) rate: Option<f64>,
    /// Percent of datagrams dropped where they arrive, 0 to 90
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = loss, allow_hyphen_values = true)]
    pub(super) loss: f64,
    /// Decides which datagrams are dropped [default: drawn, and shown]
    #[arg(long, value_name = "S", value_parser = seed, allow_hyphen_values = true)]
    pub(super) seed: Option<u64>,
    #[command(flatten)]
    pub(super) capture: CaptureArgs,
    /// Print JSON lines: one for each loss and where it was, and a summary
    #[arg(long)]
    pub(super) json: bool,
    /// Without keys, for comparison; otherwise the demo makes throw-away keys, and its floor is sealed and signed
    #[arg(long)]
    pub(super) open_lab: bool,
}

/// What it takes of this machine's processors.
#[derive(Debug, Args)]
pub(super) struct ProcessorArgs {
    /// How to wait: block, spin-block (look for 50 us first) or spin, which takes a processor for itself
    #[arg(long, value_name = "HOW", default_value_t = Idle::Block)]
    pub(super) idle: Idle,
    /// Run on this processor only, from 0
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
}

impl ProcessorArgs {
    /// The processor that was asked for.
    pub(super) const fn cpu(&self) -> Option<usize> {
        self.cpu
    }

    /// Whether there is a processor for each of so many threads, from the one that was asked for on. Tried from the last to the
    /// first, where this thread stays.
    pub(super) fn pin_each(&self, threads: usize) -> Result<(), Failure> {
        let Some(first) = self.cpu.filter(|_| threads > 1) else {
            return Ok(());
        };
        let pinned = (0..threads)
            .rev()
            .try_for_each(|thread| runtime::pin(first.saturating_add(thread)));
        pinned.map_err(|sentence| {
            Failure::Usage(format!(
                "--cpu {first} with --threads {threads} takes {threads} processors, but {sentence}; give fewer --threads, or no --cpu"
            ))
        })
    }

    /// Stays on the processor that was asked for.
    pub(super) fn pin(&self) -> Result<(), Failure> {
        let pinned = self.cpu.map_or(Ok(()), runtime::pin);
        pinned.map_err(|sentence| Failure::Usage(format!("--cpu: {sentence}")))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example: floorcast agent --open-lab --name ws-017 --team billing --json")]
pub(super) struct AgentArgs {
    /// The workstation's name on the floor
    #[arg(long, value_name = "NAME")]
    pub(super) name: String,
    /// A group to listen to besides "all"; may be given several times
    #[arg(long, value_name = "T")]
    pub(super) team: Vec<String>,
    /// Overrides the floor's interface: a name, an index, an address, or auto
    #[arg(long, value_name = "IF")]
    pub(super) interface: Option<String>,
    /// Run a command for each notice, one at a time, its text on standard input, FLOORCAST_FROM and others in the
    /// environment; when 64 wait for it, further ones are printed only, and a warning counts them
    #[arg(long, value_name = "CMD")]
    pub(super) exec: Option<String>,
    /// Where to remember what has been shown, the floor's root and this workstation's key [default: the user's state directory]
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    /// Do not remember what has been shown: after a restart, notices may be shown again
    #[arg(long, conflicts_with = "state")]
    pub(super) no_state: bool,
    #[command(flatten)]
    pub(super) processor: ProcessorArgs,
    #[command(flatten)]
    pub(super) capture: CaptureArgs,
    #[command(flatten)]
    pub(super) floor: FloorFile,
    #[command(flatten)]
    pub(super) protection: ProtectionArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast send --open-lab --to all \"Panne réseau, étage 2\"
  floorcast send --open-lab --to billing,sales --lane emergency --wait 5s -
  floorcast send --open-lab --to all --lines < notices.txt")]
pub(super) struct SendArgs {
    /// For whom: all, a group's name, or several with commas
    #[arg(long, value_name = "AUDIENCE")]
    pub(super) to: Audience,
    /// How urgent
    #[arg(long, value_enum, default_value_t = LaneArg::Routine)]
    pub(super) lane: LaneArg,
    /// Whether it is meant
    #[arg(long, value_enum, default_value_t = StatusArg::Actual)]
    pub(super) status: StatusArg,
    /// Workstations that get it later than this do not show it, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration, allow_hyphen_values = true)]
    pub(super) expires: Option<Duration>,
    /// With --lines: each notice takes the place of the one before it; who has not received that one yet is not shown it any more
    #[arg(long, requires = "lines")]
    pub(super) supersede: bool,
    /// How long to wait for receipts after the last notice
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(super) wait: Duration,
    /// Who sends [default: the one source whose key is there; user@host in an open lab]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Overrides the floor's interface: a name, an index, an address, or auto
    #[arg(long, value_name = "IF")]
    pub(super) interface: Option<String>,
    /// Send standard input, one notice a line, in order
    #[arg(long)]
    pub(super) lines: bool,
    /// With --lines: notices a second, on a fixed schedule; each counts as sent when it was due [default: as fast as
    /// the floor takes them]
    #[arg(long, value_name = "PER_S", requires = "lines", value_parser = rate, allow_hyphen_values = true)]
    pub(super) rate: Option<f64>,
    #[command(flatten)]
    pub(super) processor: ProcessorArgs,
    #[command(flatten)]
    pub(super) capture: CaptureArgs,
    #[command(flatten)]
    pub(super) floor: FloorFile,
    #[command(flatten)]
    pub(super) protection: ProtectionArgs,
    #[command(flatten)]
    pub(super) passphrase: PassphraseArgs,
    /// Where to remember the floor's root, and the workstations that were met [default: the user's state directory]
    #[arg(long, value_name = "DIR", conflicts_with = "open_lab")]
    pub(super) state: Option<PathBuf>,
    /// Ask each workstation to sign what it has, and write it to this new file: floorcast keys receipts checks it
    #[arg(long, value_name = "FILE", conflicts_with = "open_lab")]
    pub(super) receipts: Option<PathBuf>,
    /// Print JSON lines: a receipt for each notice, one for each loss and where it was, and a summary
    #[arg(long)]
    pub(super) json: bool,
    /// The notice; - reads it from standard input
    #[arg(value_name = "TEXT")]
    pub(super) text: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast agent --open-lab --name ws-017 --capture ws-017.fcap
  floorcast replay ws-017.fcap
  floorcast replay ws-017.fcap --print | grep Lost

Exit codes: 0 the same comes out, 1 something else, 2 the file cannot be replayed.")]
pub(super) struct ReplayArgs {
    /// What --capture wrote
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Print every datagram, event and answer that comes out
    #[arg(long)]
    pub(super) print: bool,
    /// Print JSON lines
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: floorcast floor check --floor /srv/share/floor.toml --json")]
pub(super) struct CheckArgs {
    /// The file, where --floor does not name it
    #[arg(value_name = "PATH", conflicts_with = "floor")]
    pub(super) path: Option<PathBuf>,
    /// Overrides the floor's interface: a name, an index, an address, or auto
    #[arg(long, value_name = "IF")]
    pub(super) interface: Option<String>,
    #[command(flatten)]
    pub(super) floor: FloorFile,
    /// The folder of the floor's keys [default: the folder keys beside the floor file]
    #[arg(long, value_name = "FOLDER")]
    pub(super) keys: Option<PathBuf>,
    /// The fingerprint that the floor's root must have, as floorcast keys show prints it
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    pub(super) root: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// A lane, by its name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LaneArg {
    /// Danger to people
    Emergency,
    /// What a floor says all day
    Routine,
    /// What can wait
    Bulk,
}

impl From<LaneArg> for Lane {
    fn from(lane: LaneArg) -> Self {
        match lane {
            LaneArg::Emergency => Self::Emergency,
            LaneArg::Routine => Self::Routine,
            LaneArg::Bulk => Self::Bulk,
        }
    }
}

/// A fingerprint as it is printed, in small letters.
fn fingerprint(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let is_group = |group: &str| group.len() == 4 && group.chars().all(|c| c.is_ascii_hexdigit());
    if text.split('-').count() == 5 && text.split('-').all(is_group) {
        Ok(text)
    } else {
        Err("a fingerprint is five groups of four hexadecimal digits with - between, as floorcast keys show prints it".to_owned())
    }
}

fn agents(text: &str) -> Result<u32, String> {
    whole(text, 1..=5_000, "agents")
}

fn messages(text: &str) -> Result<u32, String> {
    whole(text, 1..=1_000_000, "messages")
}

fn size(text: &str) -> Result<usize, String> {
    whole(text, 1..=1_000_000, "bytes")
}

fn mebibytes(text: &str) -> Result<u64, String> {
    whole(text, 1..=1 << 20, "MiB")
}

pub(super) fn seed(text: &str) -> Result<u64, String> {
    whole(text, 0..=u64::MAX, "")
}

/// A whole number within bounds.
pub(super) fn whole<T>(
    text: &str,
    bounds: std::ops::RangeInclusive<T>,
    unit: &str,
) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number: Option<T> = text.parse().ok();
    number
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| {
            format!(
                "it must be a whole number, {} to {} {unit}",
                bounds.start(),
                bounds.end()
            )
            .trim_end()
            .to_owned()
        })
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 0.001, 1_000_000.0, "a second")
}

pub(super) fn loss(text: &str) -> Result<f64, String> {
    number(text, 0.0, 90.0, "percent")
}

pub(super) fn number(text: &str, min: f64, max: f64, unit: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("it must be {min} to {max} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(loss("2"), Ok(2.0));
        for bad in ["-1", "91", "NaN", "x", ""] {
            assert!(loss(bad).is_err(), "{bad}");
        }
        let good = "0123-4567-89ab-cdef-0123";
        assert_eq!(fingerprint(&good.to_uppercase()).as_deref(), Ok(good));
        for bad in [
            "",
            "0123",
            "0123-4567-89ab-cdef-012",
            "0123-4567-89ab-cdef-0123-",
            "0123-4567-89ab-cdeg-0123",
        ] {
            assert!(fingerprint(bad).is_err(), "{bad}");
        }
        assert!(size("1.5").is_err() && size("0").is_err() && size("60000") == Ok(60_000));
    }
}

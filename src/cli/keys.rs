//! `floorcast keys`: the flags, and what they become.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::floor::{self, Floor, FloorError, parse_duration, parse_positive_duration};
use crate::keyring::{self, GrantOptions, Keyring, Passphrase, Place, Revoked};
use crate::keys::Status;
use crate::output::{Ending, Failure};
use crate::proofs;
use crate::wire::{GroupId, is_station_name};

use super::args::{FloorFile, LaneArg, whole};

/// Longest passphrase, bytes.
const PASSPHRASE_BYTES_MAX: usize = 1_024;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make the keys of a floor: its root, and the key that all of it shares
    Init(CommonArgs),
    /// Say what one source may publish, and make its key if it has none
    Grant(GrantArgs),
    /// Let a key count no more, whatever it was granted
    Revoke(RevokeArgs),
    /// Let another group key follow the present one, with an overlap
    Rotate(RotateArgs),
    /// Show what there is, and what holds
    Show(CommonArgs),
    /// Show the key of a workstation on this machine, and make it if it has none
    Station(StationArgs),
    /// Check what workstations have signed to have: a file that send --receipts wrote
    Receipts(ReceiptsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  floorcast send --to all --receipts drill.jsonl \"Leave by the east stairs\"
  floorcast keys receipts drill.jsonl

Exit codes: 0 all of them hold, 1 not so, 2 it is no such file.")]
pub(super) struct ReceiptsArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print a JSON line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    /// The folder of the floor's keys
    #[arg(long, value_name = "FOLDER", default_value = "keys")]
    keys: PathBuf,
    #[command(flatten)]
    floor: FloorFile,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// What opens a private key: the root's where something is signed, the source's where something is sent.
#[derive(Debug, Args)]
pub(super) struct PassphraseArgs {
    /// Ask for the passphrase of the private key
    #[arg(long, conflicts_with = "passphrase_file")]
    passphrase: bool,
    /// Read the passphrase of the private key from the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast floor sign
  floorcast floor sign --floor /srv/share/floor.toml --keys /mnt/stick/keys --passphrase")]
pub(super) struct SignArgs {
    /// The least edition, where floor.toml.sig was lost and workstations have seen later ones than the first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = edition, allow_hyphen_values = true, hide_default_value = true)]
    edition: u64,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: floorcast keys station ws-017")]
pub(super) struct StationArgs {
    /// The workstation's name on the floor, as floorcast agent --name has it
    #[arg(value_name = "NAME", value_parser = station_name)]
    name: String,
    /// Where the agent keeps its key [default: the user's state directory]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    floor: FloorFile,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast keys grant sup-1 --group all --for 90d
  floorcast keys grant safety --every-group --lane emergency --status actual --status exercise
  floorcast keys grant sup-2 --group billing --key sup-2.pub
  floorcast keys grant sup-3 --group all --source-passphrase")]
pub(super) struct GrantArgs {
    /// The source's name on the floor
    #[arg(value_name = "NAME", value_parser = station_name)]
    name: String,
    /// A group that it may publish on; may be given several times
    #[arg(long, value_name = "GROUP", required_unless_present = "every_group")]
    group: Vec<String>,
    /// It may publish on every group of the floor
    #[arg(long, conflicts_with = "group")]
    every_group: bool,
    /// A lane that it may use; may be given several times [default: routine and bulk]
    #[arg(long, value_name = "LANE")]
    lane: Vec<LaneArg>,
    /// Whether it may mean it; may be given several times [default: all]
    #[arg(long, value_name = "STATUS")]
    status: Vec<StatusArg>,
    /// For how long from now, such as 12h or 90d; at most 365d
    #[arg(long = "for", value_name = "DURATION", default_value = "365d", value_parser = at_least_a_second)]
    period: Duration,
    /// Its public key [default: one made now, kept in the folder]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Ask for a passphrase, and put its private key in the folder under it
    #[arg(long, conflicts_with = "source_passphrase_file")]
    source_passphrase: bool,
    /// Put it under the first line of this file; floorcast send then needs it
    #[arg(long, value_name = "FILE")]
    source_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast keys revoke sup-1
  floorcast keys revoke --key lost-laptop.pub")]
pub(super) struct RevokeArgs {
    /// The source that was granted something
    #[arg(value_name = "NAME", value_parser = station_name, required_unless_present = "key")]
    name: Option<String>,
    /// The public key, where no source's name tells it
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    key: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast keys rotate --lead 1d
  floorcast keys rotate --lead 0s --overlap 0s        at once: a workstation was stolen")]
pub(super) struct RotateArgs {
    /// How long everybody has to fetch the new key before it is used
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    lead: Duration,
    /// How long the old one still counts after that
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    overlap: Duration,
    #[command(flatten)]
    common: CommonArgs,
}

/// Whether a notice is meant.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum StatusArg {
    /// To be acted on by all
    Actual,
    /// To be acted on in an exercise
    Exercise,
    /// From program to program
    System,
    /// To be disregarded
    Test,
}

impl From<StatusArg> for Status {
    fn from(arg: StatusArg) -> Self {
        match arg {
            StatusArg::Actual => Self::Actual,
            StatusArg::Exercise => Self::Exercise,
            StatusArg::System => Self::System,
            StatusArg::Test => Self::Test,
        }
    }
}

/// Does what was asked for.
pub(super) fn run(command: KeysCommand) -> Result<Ending, Failure> {
    match command {
        KeysCommand::Receipts(args) => proofs::check(&args.file, args.json),
        KeysCommand::Init(common) => {
            let floor = floor(&common)?;
            let passphrase = common.passphrase.read("root key", true)?;
            keyring(common, &floor, passphrase).init()
        }
        KeysCommand::Grant(args) => {
            let floor = floor(&args.common)?;
            let mut options = grant_options(&args, &floor)?;
            let of_source = PassphraseArgs {
                passphrase: args.source_passphrase,
                passphrase_file: args.source_passphrase_file,
            };
            options.passphrase = of_source.read("source's key", true)?;
            open(args.common, &floor)?.grant(&options)
        }
        KeysCommand::Revoke(args) => {
            let floor = floor(&args.common)?;
            let whose = match (args.name, args.key) {
                (_, Some(key)) => Revoked::Key(key),
                (Some(name), None) => Revoked::Name(name),
                (None, None) => {
                    return Err(Failure::Usage(
                        "nobody is named; give a source's name or --key FILE".to_owned(),
                    ));
                }
            };
            open(args.common, &floor)?.revoke(&whose)
        }
        KeysCommand::Rotate(args) => {
            let floor = floor(&args.common)?;
            open(args.common, &floor)?.rotate(args.lead, args.overlap)
        }
        KeysCommand::Show(common) => {
            let floor = floor(&common)?;
            keyring(common, &floor, None).show()
        }
        KeysCommand::Station(args) => {
            let floor = Floor::load(&args.floor.floor)
                .map_err(|error| Failure::Usage(error.to_string()))?;
            let state = args.state.or_else(super::state_directory);
            let state = state.ok_or_else(|| {
                Failure::Usage(
                    "there is no place to keep a key in, because this user has no home; name one with --state"
                        .to_owned(),
                )
            })?;
            keyring::show_station(&Place::new(&state, floor.id), &args.name, args.json)
        }
    }
}

/// Signs a floor file that can be read, and no other.
pub(super) fn sign(args: SignArgs) -> Result<Ending, Failure> {
    let path = args.common.floor.floor.clone();
    let usage = |error: FloorError| Failure::Usage(error.to_string());
    let contents = floor::read(&path).map_err(usage)?;
    let floor = Floor::from_bytes(&contents, &path).map_err(usage)?;
    open(args.common, &floor)?.sign_floor(&path, &contents, args.edition)
}

fn floor(common: &CommonArgs) -> Result<Floor, Failure> {
    Floor::load(&common.floor.floor).map_err(|error| Failure::Usage(error.to_string()))
}

fn keyring(common: CommonArgs, floor: &Floor, passphrase: Option<Passphrase>) -> Keyring<'_> {
    Keyring::new(common.keys, floor, passphrase, common.json)
}

fn open(common: CommonArgs, floor: &Floor) -> Result<Keyring<'_>, Failure> {
    let passphrase = common.passphrase.read("root key", false)?;
    Ok(keyring(common, floor, passphrase))
}

fn grant_options(args: &GrantArgs, floor: &Floor) -> Result<GrantOptions, Failure> {
    let group = |name: &String| -> Result<GroupId, Failure> {
        let group = floor.group(name).ok_or_else(|| {
            let known: Vec<_> = floor
                .groups
                .iter()
                .map(|group| group.name.as_str())
                .collect();
            Failure::Usage(format!(
                "--group {name}: the floor has no such group; it has {}",
                known.join(", ")
            ))
        })?;
        Ok(group.id)
    };
    let groups: BTreeSet<GroupId> = args.group.iter().map(group).collect::<Result<_, _>>()?;
    let lanes = match args.lane.as_slice() {
        [] => vec![LaneArg::Routine, LaneArg::Bulk],
        given => given.to_vec(),
    };
    let statuses: BTreeSet<Status> = match args.status.as_slice() {
        [] => Status::ALL.into(),
        given => given.iter().map(|&status| status.into()).collect(),
    };
    Ok(GrantOptions {
        name: args.name.clone(),
        key: args.key.clone(),
        groups,
        lanes: lanes.into_iter().map(Into::into).collect(),
        statuses,
        period: args.period,
        passphrase: None,
    })
}

impl PassphraseArgs {
    /// Whether one is to be there.
    pub(super) const fn is_given(&self) -> bool {
        self.passphrase || self.passphrase_file.is_some()
    }

    /// The passphrase, if there is to be one; `is_new`: it is about to seal something, so it is asked for twice.
    pub(super) fn read(&self, whose: &str, is_new: bool) -> Result<Option<Passphrase>, Failure> {
        if self.passphrase {
            let ask = |prompt: &str| {
                rpassword::prompt_password(prompt).map(|line| Passphrase::new(line.into_bytes()))
            };
            let failed = |error: std::io::Error| {
                Failure::Usage(format!(
                    "no passphrase can be asked for here ({error}); give it with --passphrase-file"
                ))
            };
            let first = ask(&format!("Passphrase of the {whose}: ")).map_err(failed)?;
            if is_new && *ask("The same again: ").map_err(failed)? != *first {
                return Err(Failure::Usage(
                    "the two passphrases differ; nothing was made".to_owned(),
                ));
            }
            return checked(first, "--passphrase").map(Some);
        }
        let Some(path) = &self.passphrase_file else {
            return Ok(None);
        };
        let shown = path.display();
        let mut text = Passphrase::new(Vec::new());
        File::open(path)
            .and_then(|file| {
                file.take(2 + PASSPHRASE_BYTES_MAX as u64)
                    .read_to_end(&mut text)
            })
            .map_err(|error| {
                Failure::Usage(format!(
                    "--passphrase-file {shown}: it cannot be read: {error}"
                ))
            })?;
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = Passphrase::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec());
        checked(line, &format!("--passphrase-file {shown}")).map(Some)
    }
}

fn checked(passphrase: Passphrase, from: &str) -> Result<Passphrase, Failure> {
    if (1..=PASSPHRASE_BYTES_MAX).contains(&passphrase.len()) {
        Ok(passphrase)
    } else {
        Err(Failure::Usage(format!(
            "{from}: a passphrase has 1 to {PASSPHRASE_BYTES_MAX} bytes, and this one has {}; give another",
            passphrase.len()
        )))
    }
}

fn station_name(text: &str) -> Result<String, String> {
    if is_station_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 64 bytes and no control characters".to_owned())
    }
}

fn at_least_a_second(text: &str) -> Result<Duration, String> {
    let period = parse_positive_duration(text).map_err(|error| error.to_string())?;
    if period < Duration::from_secs(1) {
        return Err(format!(
            "{text} is less than a second; a grant holds for whole seconds"
        ));
    }
    Ok(period)
}

fn edition(text: &str) -> Result<u64, String> {
    whole(text, 1..=u64::MAX, "")
}

//! `floorcast keys`: the flags, and what they become.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::floor::{Floor, parse_duration, parse_positive_duration};
use crate::keyring::{GrantOptions, Keyring, Passphrase, Revoked};
use crate::keys::Status;
use crate::output::{Ending, Failure};
use crate::wire::{GroupId, is_station_name};

use super::args::{FloorFile, LaneArg};

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
}

#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    /// The folder of the floor's keys
    #[arg(long, value_name = "FOLDER", default_value = "keys")]
    keys: PathBuf,
    #[command(flatten)]
    floor: FloorFile,
    /// Ask for the passphrase of the root key
    #[arg(long, conflicts_with = "passphrase_file")]
    passphrase: bool,
    /// Read the passphrase of the root key from the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast keys grant sup-1 --group all --for 90d
  floorcast keys grant safety --every-group --lane emergency --status actual --status exercise
  floorcast keys grant sup-2 --group billing --key sup-2.pub")]
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
enum StatusArg {
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
        KeysCommand::Init(common) => {
            let floor = floor(&common)?;
            let passphrase = passphrase(&common, common.passphrase)?;
            keyring(common, &floor, passphrase).init()
        }
        KeysCommand::Grant(args) => {
            let floor = floor(&args.common)?;
            let options = grant_options(&args, &floor)?;
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
    }
}

fn floor(common: &CommonArgs) -> Result<Floor, Failure> {
    Floor::load(&common.floor.floor).map_err(|error| Failure::Usage(error.to_string()))
}

fn keyring(common: CommonArgs, floor: &Floor, passphrase: Option<Passphrase>) -> Keyring<'_> {
    Keyring::new(common.keys, floor, passphrase, common.json)
}

fn open(common: CommonArgs, floor: &Floor) -> Result<Keyring<'_>, Failure> {
    let passphrase = passphrase(&common, false)?;
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
    })
}

/// The passphrase, if there is to be one; `is_new`: asked for twice.
fn passphrase(common: &CommonArgs, is_new: bool) -> Result<Option<Passphrase>, Failure> {
    if common.passphrase {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt).map(|line| Passphrase::new(line.into_bytes()))
        };
        let failed = |error: std::io::Error| {
            Failure::Usage(format!(
                "no passphrase can be asked for here ({error}); give it with --passphrase-file"
            ))
        };
        let first = ask("Passphrase of the root key: ").map_err(failed)?;
        if is_new && *ask("The same again: ").map_err(failed)? != *first {
            return Err(Failure::Usage(
                "the two passphrases differ; nothing was made".to_owned(),
            ));
        }
        return checked(first, "--passphrase").map(Some);
    }
    let Some(path) = &common.passphrase_file else {
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

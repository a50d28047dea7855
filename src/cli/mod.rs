//! What a person types: flags become options, options are checked, a program runs, and its ending becomes an exit code.

mod args;
mod bench;
mod keys;

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as Kind;

use crate::capture::Capture;
use crate::floor::Floor;
use crate::keyring::{Access, Protection, SignedFloor, Standing};
use crate::net::{self, Interface, InterfaceKind};
use crate::notice::{NOTICES_MAX, TEXT_BYTES_MAX};
use crate::output::{Ending, Failure, Stderr};
use crate::runtime::{Clock, Stop};
use crate::wire::is_station_name;
use crate::{agent, check, demo, replay, send};

use args::{CaptureArgs, Cli, Command, DemoArgs, FloorCommand, FloorFile, ProtectionArgs};

/// Texts read from standard input, bytes: a thousand pages. A file is what `bulk` senders will be for.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log();
    let stop = Stop::default();
    let on_signal = stop.clone();
    if let Err(error) = ctrlc::set_handler(move || on_signal.request()) {
        tracing::warn!("cannot catch signals ({error}); the floor will not hear a farewell");
    }
    let result = match cli.command {
        Command::Demo(args) => run_demo(&args, &stop),
        Command::Agent(args) => run_agent(args, &stop),
        Command::Send(args) => run_send(args, &stop),
        Command::Replay(args) => replay::run(&args.file, args.print, args.json),
        Command::Bench { command } => bench::run(command, &stop),
        Command::Keys { command } => keys::run(command),
        Command::Floor {
            command: FloorCommand::Check(file),
        } => run_check(&file),
        Command::Floor {
            command: FloorCommand::Sign(args),
        } => keys::sign(args),
    };
    match result {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Failed) => ExitCode::from(1),
        Ok(Ending::Incomplete) => ExitCode::from(3),
        Err(failure) => {
            say(&failure.to_string());
            ExitCode::from(if matches!(failure, Failure::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

/// Help goes where it was asked for; a wrong flag gets one sentence.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        Kind::DisplayHelp | Kind::DisplayVersion => {
            // A closed pipe ends quietly.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Kind::DisplayHelpOnMissingArgumentOrSubcommand | Kind::MissingSubcommand => {
            say(
                "no command is given; use demo, agent, send, replay, bench, keys or floor check; see floorcast --help",
            );
        }
        _ => say(&one_sentence(&error.to_string())),
    }
    ExitCode::from(2)
}

/// One sentence on standard error. That nobody reads it is no reason to fail.
fn say(sentence: &str) {
    let _ = writeln!(Stderr, "floorcast: {sentence}");
}

/// The first paragraph of what clap says, on one line, and where to look.
fn one_sentence(text: &str) -> String {
    let paragraph: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .collect();
    let mut sentence = String::new();
    for line in paragraph
        .into_iter()
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
    {
        let separator = if sentence.is_empty() {
            ""
        } else if line.starts_with("tip:") {
            "; "
        } else {
            " "
        };
        sentence.push_str(separator);
        sentence.push_str(line.trim_start_matches("tip: "));
    }
    let sentence = sentence.trim_start_matches("error: ");
    let command = std::env::args().nth(1).filter(|word| {
        ["demo", "agent", "send", "replay", "bench", "keys", "floor"].contains(&word.as_str())
    });
    let command = command.map(|word| format!(" {word}")).unwrap_or_default();
    format!("{sentence}; see floorcast{command} --help")
}

fn log() {
    tracing_subscriber::fmt()
        .with_writer(|| Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .with_max_level(tracing::Level::INFO)
        .init();
}

fn run_demo(args: &DemoArgs, stop: &Stop) -> Result<Ending, Failure> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => {
            crate::runtime::draw().map_err(|error| Failure::system("cannot draw a seed", &error))?
                >> 32
        }
    };
    let options = demo::Options {
        agents: args.agents,
        messages: args.messages,
        size: args.size,
        rate: args.rate,
        loss: args.loss / 100.0,
        seed,
        capture: capture(&args.capture)?,
        is_json: args.json,
        is_open_lab: args.open_lab,
    };
    demo::run(&options, stop)
}

/// The floor that a program takes part in, through which interface, and, where it is protected, by which keys.
struct Entry {
    floor: Floor,
    interface: Interface,
    keys: Option<(Access, SignedFloor)>,
}

impl Entry {
    fn new(
        file: &FloorFile,
        interface: Option<&str>,
        protection: &ProtectionArgs,
        state: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        if protection.open_lab {
            let floor = load(file, interface)?;
            let interface = choose(&floor)?;
            open_lab(&floor, &interface)?;
            return Ok(Self {
                floor,
                interface,
                keys: None,
            });
        }
        let access = access(&file.floor, &protection.keys, &protection.root, state);
        let signed = access.floor(&file.floor)?;
        let floor = with_interface(signed.floor.clone(), interface)?;
        Ok(Self {
            interface: choose(&floor)?,
            floor,
            keys: Some((access, signed)),
        })
    }
}

fn access(
    path: &Path,
    keys: &Option<PathBuf>,
    root: &Option<String>,
    state: Option<PathBuf>,
) -> Access {
    let folder = keys.clone();
    let folder = folder.unwrap_or_else(|| Access::folder_beside(path));
    Access::new(folder, state, root.clone(), seconds())
}

/// The wall clock, seconds since 1970.
fn seconds() -> u64 {
    Clock::start().read().wall_ns / 1_000_000_000
}

fn run_agent(args: args::AgentArgs, stop: &Stop) -> Result<Ending, Failure> {
    let state = args.state.or_else(state_directory);
    let interface = args.interface.as_deref();
    let entry = Entry::new(&args.floor, interface, &args.protection, state.clone())?;
    let Entry {
        floor,
        interface,
        keys,
    } = entry;
    check_name(&args.name)?;
    let mut groups: Vec<String> = floor
        .group("all")
        .into_iter()
        .map(|group| group.name.clone())
        .collect();
    for team in args.team {
        check_group(&floor, &team, "--team")?;
        if !groups.contains(&team) {
            groups.push(team);
        }
    }
    if groups.is_empty() {
        let names = group_names(&floor);
        return Err(Failure::Usage(format!(
            "the floor has no group \"all\", and no --team is given; name at least one of {names} with --team"
        )));
    }
    let protection = match keys {
        Some((access, signed)) => access.workstation(&signed, &args.name)?,
        None => Protection::OpenLab,
    };
    let options = agent::Options {
        floor,
        interface,
        name: args.name,
        groups,
        exec: args.exec,
        state: state.filter(|_| !args.no_state),
        idle: args.processor.idle,
        capture: capture(&args.capture)?,
        is_json: args.json,
        protection,
    };
    args.processor.pin()?;
    agent::run(options, stop)
}

fn run_send(args: args::SendArgs, stop: &Stop) -> Result<Ending, Failure> {
    let state = args.state.or_else(state_directory);
    let interface = args.interface.as_deref();
    let Entry {
        floor,
        interface,
        keys,
    } = Entry::new(&args.floor, interface, &args.protection, state)?;
    let name = match (args.name, &keys) {
        (Some(name), _) => name,
        (None, Some((access, _))) => access.only_source()?,
        (None, None) => default_name(),
    };
    if keys.is_none() && args.passphrase.is_given() {
        return Err(Failure::Usage(
            "--open-lab sends without a key, so there is no passphrase to give; leave out one of the two"
                .to_owned(),
        ));
    }
    check_name(&name)?;
    let groups = audience(&floor, args.to.groups())?;
    let texts = texts(args.text.as_deref(), args.lines)?;
    let lane = args.lane.into();
    let protection = match keys {
        Some((access, signed)) => {
            let passphrase = args.passphrase.read("source's key", false)?;
            access.source(&signed, &name, passphrase.as_ref())?
        }
        None => Protection::OpenLab,
    };
    let status = args.status.into();
    protection.permits(&groups, lane, status, seconds())?;
    let options = send::Options {
        floor,
        interface,
        name,
        groups,
        lane,
        status,
        expires: args.expires,
        supersede: args.supersede,
        wait: args.wait,
        texts,
        rate: args.rate,
        idle: args.processor.idle,
        capture: capture(&args.capture)?,
        is_json: args.json,
        protection,
        receipts: args.receipts,
    };
    args.processor.pin()?;
    send::run(options, stop)
}

fn run_check(file: &args::CheckArgs) -> Result<Ending, Failure> {
    let path = file
        .path
        .clone()
        .unwrap_or_else(|| file.floor.floor.clone());
    let access = access(&path, &file.keys, &file.root, state_directory());
    let (floor, standing) = access.check(&path)?;
    let floor = with_interface(floor, file.interface.as_deref())?;
    let interface = choose(&floor)?;
    let signature = match standing {
        Standing::Unsigned => None,
        Standing::Signed {
            root,
            edition,
            issued,
        } => Some(check::Signature {
            root,
            edition,
            issued,
        }),
    };
    check::run(&floor, &interface, signature.as_ref(), file.json)
}

fn load(file: &FloorFile, interface: Option<&str>) -> Result<Floor, Failure> {
    let floor = Floor::load(&file.floor).map_err(|error| Failure::Usage(error.to_string()))?;
    with_interface(floor, interface)
}

/// The floor, but through the interface that was given, if any.
fn with_interface(mut floor: Floor, interface: Option<&str>) -> Result<Floor, Failure> {
    if let Some(interface) = interface {
        floor.interface = interface
            .parse()
            .map_err(|error| Failure::Usage(format!("--interface: {error}")))?;
    }
    Ok(floor)
}

/// The file that is asked for. It comes last, so that what is refused leaves none behind.
fn capture(args: &CaptureArgs) -> Result<Option<Capture>, Failure> {
    let Some(path) = &args.capture else {
        return Ok(None);
    };
    let shown = path.display();
    let created = Capture::create(path, args.capture_limit << 20);
    created.map(Some).map_err(|error| {
        Failure::Usage(match error.kind() {
            ErrorKind::AlreadyExists => format!(
                "--capture: there is a file {shown} already, and it is not overwritten; name another, or remove it"
            ),
            _ => format!("--capture: cannot make {shown}: {error}"),
        })
    })
}

fn choose(floor: &Floor) -> Result<Interface, Failure> {
    let all =
        net::interfaces().map_err(|error| Failure::system("cannot list the interfaces", &error))?;
    net::choose(&floor.interface, &all).map_err(|error| Failure::Usage(error.to_string()))
}

/// An open laboratory is where nobody outside can hear or be heard. That a floor is one is said on the command line, never
/// by its file.
fn open_lab(floor: &Floor, interface: &Interface) -> Result<(), Failure> {
    if interface.kind == InterfaceKind::Loopback {
        return Ok(());
    }
    if floor.ttl > 1 {
        return Err(Failure::Usage(format!(
            "--open-lab is refused: ttl is {}, and an unprotected floor must not leave its segment; set ttl = 0 or 1 in [floor], or use the loopback interface",
            floor.ttl
        )));
    }
    match floor
        .groups
        .iter()
        .find(|group| !is_local(group.address.ip()))
    {
        Some(group) => Err(Failure::Usage(format!(
            "--open-lab is refused: group \"{}\" is {}, outside 239.255.0.0/16 (IPv6: scopes 1 to 3, such as ff13::7701); use such an address, or the loopback interface",
            group.name, group.address
        ))),
        None => Ok(()),
    }
}

/// Whether a group's address says that it stays on its segment.
fn is_local(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(address) => address.octets()[..2] == [239, 255],
        // The scopes up to realm-local (RFC 7346), which IPv4's 239.255.0.0/16 stands for (RFC 2365).
        std::net::IpAddr::V6(address) => address.segments()[0] & 0x000f <= 3,
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    if is_station_name(name) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--name {name:?} cannot name a station; it must be 1 to 64 bytes without control characters, such as ws-017"
    )))
}

fn check_group(floor: &Floor, name: &str, flag: &str) -> Result<(), Failure> {
    match floor.group(name) {
        Some(_) => Ok(()),
        None => Err(Failure::Usage(format!(
            "{flag}: the floor has no group \"{name}\"; it has {}",
            group_names(floor)
        ))),
    }
}

fn group_names(floor: &Floor) -> String {
    floor
        .groups
        .iter()
        .map(|group| group.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The groups of an audience. `all` is every group, where the floor has none of that name.
fn audience(floor: &Floor, names: &[String]) -> Result<Vec<String>, Failure> {
    let mut groups = Vec::new();
    for name in names {
        if name == "all" && floor.group("all").is_none() {
            groups.extend(floor.groups.iter().map(|group| group.name.clone()));
        } else {
            check_group(floor, name, "--to")?;
            groups.push(name.clone());
        }
    }
    groups.sort();
    groups.dedup();
    Ok(groups)
}

/// What to send: the text given, standard input as one text (`-`), or standard input line by line.
fn texts(text: Option<&str>, lines: bool) -> Result<Vec<String>, Failure> {
    let texts = match (text, lines) {
        (Some("-") | None, true) => {
            let input = standard_input()?;
            let body = input.strip_suffix('\n').unwrap_or(&input);
            if input.is_empty() {
                Vec::new()
            } else {
                body.split('\n').map(str::to_owned).collect()
            }
        }
        (Some(_), true) => {
            return Err(Failure::Usage(
                "--lines reads standard input, but a TEXT is given too; leave one of them out"
                    .to_owned(),
            ));
        }
        (Some("-"), false) => {
            // The line's end is the shell's, not the notice's.
            let input = standard_input()?;
            let text = input.strip_suffix('\n').unwrap_or(&input);
            vec![text.strip_suffix('\r').unwrap_or(text).to_owned()]
        }
        (Some(text), false) => vec![text.to_owned()],
        (None, false) => {
            return Err(Failure::Usage(
                "nothing to send; give a TEXT, - for standard input, or --lines".to_owned(),
            ));
        }
    };
    if texts.is_empty() || (texts.len() == 1 && texts[0].is_empty()) {
        return Err(Failure::Usage(
            "nothing to send: the text is empty".to_owned(),
        ));
    }
    if texts.len() > NOTICES_MAX {
        return Err(Failure::Usage(format!(
            "standard input has {} lines, but one send takes at most {NOTICES_MAX}; send it in parts; nothing was sent",
            texts.len()
        )));
    }
    match texts.iter().position(|text| text.len() > TEXT_BYTES_MAX) {
        Some(at) => Err(Failure::Usage(format!(
            "text {} is {} bytes long, but a notice holds at most {TEXT_BYTES_MAX}; nothing was sent",
            at + 1,
            texts[at].len()
        ))),
        None => Ok(texts),
    }
}

/// All of standard input, before anything is sent: nothing half-done.
fn standard_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Failure::Usage(format!(
                "standard input cannot be read: {error}; nothing was sent"
            ))
        })?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "standard input is longer than {INPUT_BYTES_MAX} bytes; send it in parts"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Failure::Usage(format!("standard input is not UTF-8: byte {at}, in line {line}; convert it first; nothing was sent"))
    })
}

/// Who sends, where `--name` does not say: the person, at this machine.
fn default_name() -> String {
    let user = ["USER", "USERNAME", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let name = format!("{}@{host}", user.as_deref().unwrap_or("supervisor"));
    if is_station_name(&name) {
        name
    } else {
        "supervisor".to_owned()
    }
}

/// Where an agent remembers what it has shown.
fn state_directory() -> Option<PathBuf> {
    let of = |variable: &str| {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = if cfg!(windows) {
        of("LOCALAPPDATA")
    } else {
        of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state")))
    };
    base.map(|base| base.join(Path::new("floorcast")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(group: &str) -> Floor {
        Floor::parse(
            &format!("[floor]\nname = \"t\"\n[groups.all]\naddress = \"{group}\"\n"),
            "floor.toml",
        )
        .unwrap()
    }

    fn wire(kind: InterfaceKind) -> Interface {
        let all = net::interfaces().unwrap();
        let mut interface = all.into_iter().next().unwrap();
        interface.kind = kind;
        interface
    }

    #[test]
    fn open_lab_stays_in_the_lab() {
        let ordinary = wire(InterfaceKind::Ordinary);
        assert!(open_lab(&floor("239.255.1.1:7000"), &ordinary).is_ok());
        assert!(open_lab(&floor("239.1.1.1:7000"), &ordinary).is_err());
        assert!(open_lab(&floor("[ff13::7701]:7000"), &ordinary).is_ok());
        assert!(open_lab(&floor("[ff15::7701]:7000"), &ordinary).is_err());
        assert!(
            open_lab(
                &Floor {
                    ttl: 2,
                    ..floor("239.255.1.1:7000")
                },
                &ordinary
            )
            .is_err()
        );
        let loopback = wire(InterfaceKind::Loopback);
        assert!(
            open_lab(
                &Floor {
                    ttl: 9,
                    ..floor("239.1.1.1:7000")
                },
                &loopback
            )
            .is_ok()
        );
    }

    #[test]
    fn audience_is_checked_and_all_means_all() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let floor = |groups: &[&str]| {
            let text = groups.iter().enumerate().map(|(at, name)| {
                format!("[groups.{name}]\naddress = \"239.255.7.{}:7000\"\n", at + 1)
            });
            Floor::parse(
                &format!("[floor]\nname = \"t\"\n{}", text.collect::<String>()),
                "f",
            )
            .unwrap()
        };
        assert_eq!(
            audience(&floor(&["all", "b"]), &names(&["b", "all", "b"])).unwrap(),
            names(&["all", "b"])
        );
        assert_eq!(
            audience(&floor(&["a", "b"]), &names(&["all"])).unwrap(),
            names(&["a", "b"])
        );
        let Err(Failure::Usage(sentence)) = audience(&floor(&["a"]), &names(&["x"])) else {
            panic!()
        };
        assert_eq!(sentence, "--to: the floor has no group \"x\"; it has a");
    }

    #[test]
    fn claps_words_become_one_sentence() {
        for line in [
            &["floorcast", "send"][..],
            &["floorcast", "demo", "--agents", "0"],
            &["floorcast", "x"],
        ] {
            let sentence = one_sentence(&Cli::try_parse_from(line).unwrap_err().to_string());
            assert!(
                !sentence.contains('\n') && !sentence.starts_with("error"),
                "{sentence}"
            );
        }
    }
}

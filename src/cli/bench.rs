//! `floorcast bench`: its flags, and what they become.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::bench::{
    self, CompareOptions, GROUP, Hosts, MESSAGES_MAX, Place, RECEIVERS_MAX, ReceiveOptions,
    ReportOptions, RunOptions, SIZE_MAX, SIZE_MIN, Scenario, SendOptions,
};
use crate::floor::{Floor, parse_duration, parse_positive_duration};
use crate::net::{self, Interface, InterfaceKind, InterfaceSpec, IoMode, TRAIN_DATAGRAMS};
use crate::output::{Ending, Failure};
use crate::runtime::{self, Stop};
use crate::wire::{NAME_BYTES_MAX, is_station_name};

use super::args::{ProcessorArgs, loss, number, seed, whole};
use super::{check_name, is_local};

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Be the source of a run: wait for the receivers, keep the schedule, reckon up what came when
    Send(SendArgs),
    /// Be a receiver of a run
    Receive(ReceiveArgs),
    /// Both, on this machine, as a scenario says: every cell, several times, all results in one folder
    Run(RunArgs),
    /// Is what run measured worse than it was? Only of runs that are alike
    Compare(CompareArgs),
    /// What run measured as one page for a browser, with tables and plots
    Report(ReportArgs),
}

/// What both ends of a run are told.
#[derive(Debug, Args)]
struct EndArgs {
    /// Where the run takes place: an interface's name, index or address [default: the floor's, else loopback]
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// The group's address and port [default: the floor's group "all", else 239.255.90.17:19017]
    #[arg(long, value_name = "ADDRESS:PORT")]
    group: Option<SocketAddr>,
    /// Take interface and group from this file
    #[arg(long, value_name = "PATH")]
    floor: Option<PathBuf>,
    /// Best way to send and receive that is tried: offload, batch or plain
    #[arg(long, value_name = "WAY", default_value_t = IoMode::Offload, hide = true)]
    io: IoMode,
    /// Most datagrams sent as one train
    #[arg(long, value_name = "N", default_value_t = TRAIN_DATAGRAMS, hide = true)]
    train: usize,
    #[command(flatten)]
    processor: ProcessorArgs,
    /// Messages are not protected: to be said wherever somebody else could hear them, which is everywhere but on loopback
    #[arg(long)]
    open_lab: bool,
    /// Seal and sign messages, with keys that both ends make of the group: to measure what that costs, not to keep a secret
    #[arg(long)]
    keys: bool,
    /// Decides what a source fills its messages with, and which datagrams a receiver drops [default: drawn; a source shows it]
    #[arg(long, value_name = "S", value_parser = seed, allow_hyphen_values = true)]
    seed: Option<u64>,
    /// Print JSON: one object; of several receivers one a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast bench send --messages 100000 --size 256 --rate 10000 --receivers 4
  floorcast bench send --messages 1000000 --size 256 --rate 0 --receivers 1 --json

Exit codes: 0 every receiver has every message once and in order, 1 not so, 2 wrong usage.")]
pub(super) struct SendArgs {
    /// Messages to send
    #[arg(long, value_name = "M", default_value_t = 100_000, value_parser = messages, allow_hyphen_values = true)]
    messages: u64,
    /// Bytes of each message
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = size, allow_hyphen_values = true)]
    size: usize,
    /// Messages a second, on a schedule that is fixed before the first; 0: as fast as every receiver takes them
    #[arg(long, value_name = "PER_S", default_value_t = 10_000.0, value_parser = rate, allow_hyphen_values = true)]
    rate: f64,
    /// Messages that are due at a time; the rate stays what it is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = every, allow_hyphen_values = true)]
    burst: u64,
    /// Receivers to wait for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = receivers, allow_hyphen_values = true)]
    receivers: usize,
    /// How long to wait for them
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_positive_duration, allow_hyphen_values = true)]
    wait: Duration,
    /// Hold the source up for so long in the middle of the schedule: shows whether a harness counts what is late
    #[arg(long, value_name = "DURATION", value_parser = stall, allow_hyphen_values = true)]
    stall: Option<Duration>,
    /// Write down how long each message took to each receiver, a line for each message
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    #[command(flatten)]
    end: EndArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: floorcast bench receive --name r0 --json")]
pub(super) struct ReceiveArgs {
    /// The receiver's name; each of a run needs one of its own
    #[arg(long, value_name = "NAME")]
    name: String,
    /// How many receivers to be; each has its number behind the name
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = receivers, allow_hyphen_values = true)]
    count: usize,
    /// Spread them over so many threads, 1 to --count; with --cpu the first takes that processor, the others those after it
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = threads, allow_hyphen_values = true)]
    threads: usize,
    /// Be busy with each message for so long, at most 1s, in us, ms or s, such as 150us: a receiver that cannot keep up
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = busy, allow_hyphen_values = true)]
    busy: Duration,
    /// How long to wait for a source
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_positive_duration, allow_hyphen_values = true)]
    wait: Duration,
    /// Percent of datagrams dropped where they arrive, 0 to 90
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = loss, allow_hyphen_values = true)]
    loss: f64,
    /// Treat every so-manyth message as if it had never come: shows whether a harness counts what is missing
    #[arg(long, value_name = "N", value_parser = every, allow_hyphen_values = true)]
    ignore_every: Option<u64>,
    /// Go away in the middle of a run, with so many messages: shows whether a harness counts who has left
    #[arg(long, value_name = "N", value_parser = every, allow_hyphen_values = true)]
    leave_after: Option<u64>,
    /// Stop with so many messages, and start again at once as a new life of the same name; not with --count
    #[arg(long, value_name = "N", value_parser = every, allow_hyphen_values = true)]
    restart_after: Option<u64>,
    /// Hear and ask for repair as any other, but take part in no run; ends after --wait
    #[arg(long)]
    listen_only: bool,
    #[command(flatten)]
    end: EndArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast bench run perf/scenarios/steady.toml --out steady-1
  floorcast bench run --messages 20000 --rate 5000 --receivers 8

Exit codes: 0 measured, 1 a receiver lacked something or a run failed, 2 wrong usage.")]
pub(super) struct RunArgs {
    /// The scenario; without one, what the flags say
    #[arg(value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Overrides the scenario's messages
    #[arg(long, value_name = "M", value_parser = messages, allow_hyphen_values = true)]
    messages: Option<u64>,
    /// Overrides its rate, messages a second; 0: as fast as every receiver takes them
    #[arg(long, value_name = "PER_S", value_parser = rate, allow_hyphen_values = true)]
    rate: Option<f64>,
    /// Overrides its bytes of each message
    #[arg(long, value_name = "BYTES", value_parser = size, allow_hyphen_values = true)]
    size: Option<usize>,
    /// Overrides its receivers
    #[arg(long, value_name = "N", value_parser = receivers, allow_hyphen_values = true)]
    receivers: Option<usize>,
    /// Overrides the threads that the receivers of a process are spread over
    #[arg(long, value_name = "T", value_parser = threads, allow_hyphen_values = true)]
    threads: Option<usize>,
    /// Seal and sign messages with throw-away keys, whether the scenario says so or not
    #[arg(long)]
    keys: bool,
    /// Overrides its loss, percent of datagrams on arrival
    #[arg(long, value_name = "PERCENT", value_parser = loss, allow_hyphen_values = true)]
    loss: Option<f64>,
    /// Overrides how often each cell is run
    #[arg(long, value_name = "N", value_parser = repeat, allow_hyphen_values = true)]
    repeat: Option<u32>,
    /// Overrides where: on loopback, or each process in a network namespace (needs root)
    #[arg(long, value_enum)]
    hosts: Option<HostsArg>,
    /// Keep the results in this folder: result.json, env.json, distributions
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Decides fillings and losses [default: drawn, and kept]
    #[arg(long, value_name = "S", value_parser = seed, allow_hyphen_values = true)]
    seed: Option<u64>,
    /// Print a JSON line for each run
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HostsArg {
    /// One host
    Loopback,
    /// A network namespace for each process
    Namespaces,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Compared are, for each cell, the medians of: messages_per_s (without a schedule), last_us.p50 and
last_us.p99 (on a schedule), cpu_us_per_message, wire_per_payload; and the most of any run of: missing, duplicates,
out_of_order, altered, which must not grow at all. Scenario, machine, build and modes must be the same; versions may differ.

Examples:
  floorcast bench compare before after
  floorcast bench compare before after --max-regress 5% --json | jq .regressions

Exit codes: 0 not worse, 1 worse than allowed, 2 wrong usage, or runs that are not alike."
)]
pub(super) struct CompareArgs {
    /// What was: a folder that bench run --out wrote, or its result.json
    #[arg(value_name = "A")]
    a: PathBuf,
    /// What is
    #[arg(value_name = "B")]
    b: PathBuf,
    /// How much worse a median may be: B over A, or A over B where more is better
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent, allow_hyphen_values = true)]
    max_regress: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  floorcast bench report steady-1
  floorcast bench report steady-1 --out steady.html")]
pub(super) struct ReportArgs {
    /// A folder that bench run --out wrote, or its result.json
    #[arg(value_name = "DIR")]
    results: PathBuf,
    /// Write the page here, over what is there [default: DIR/report.html]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn run_all(args: RunArgs, stop: &Stop) -> Result<Ending, Failure> {
    let mut scenario = match &args.scenario {
        Some(path) => Scenario::load(path)?,
        None => Scenario::of_flags(),
    };
    let Scenario {
        messages,
        rate,
        size,
        repeat,
        threads,
        ..
    } = &mut scenario;
    *messages = args.messages.unwrap_or(*messages);
    *rate = args.rate.unwrap_or(*rate);
    *size = args.size.unwrap_or(*size);
    *repeat = args.repeat.unwrap_or(*repeat);
    *threads = args.threads.unwrap_or(*threads);
    scenario.keys |= args.keys;
    if let Some(receivers) = args.receivers {
        scenario.receivers = vec![receivers];
    }
    if let Some(loss) = args.loss {
        scenario.loss = vec![loss];
    }
    match args.hosts {
        Some(HostsArg::Loopback) => scenario.hosts = Hosts::Loopback,
        Some(HostsArg::Namespaces) => scenario.hosts = Hosts::Namespaces,
        None => {}
    }
    // Flags that are good each by itself need not be so together.
    scenario.check().map_err(Failure::Usage)?;
    let options = RunOptions {
        scenario,
        out: args.out,
        seed: drawn(args.seed)?,
        is_json: args.json,
    };
    bench::all(&options, stop)
}

/// Runs what was asked for.
pub(super) fn run(command: BenchCommand, stop: &Stop) -> Result<Ending, Failure> {
    match command {
        BenchCommand::Send(args) => send(args, stop),
        BenchCommand::Receive(args) => receive(args, stop),
        BenchCommand::Run(args) => run_all(args, stop),
        BenchCommand::Compare(args) => bench::compare(&CompareOptions {
            a: args.a,
            b: args.b,
            max_regress_percent: args.max_regress,
            is_json: args.json,
        }),
        BenchCommand::Report(args) => bench::report(&ReportOptions {
            results: args.results,
            out: args.out,
        }),
    }
}

fn send(args: SendArgs, stop: &Stop) -> Result<Ending, Failure> {
    let options = SendOptions {
        place: args.end.place("send")?,
        messages: args.messages,
        size: args.size,
        rate: args.rate,
        burst: args.burst,
        receivers: args.receivers,
        wait: args.wait,
        stall: args.stall,
        data_rate: None,
        samples: args.samples,
        seed: drawn(args.end.seed)?,
        is_json: args.end.json,
    };
    bench::send(&options, stop)
}

fn receive(args: ReceiveArgs, stop: &Stop) -> Result<Ending, Failure> {
    check_name(&args.name)?;
    check_longest(&args.name, args.count)?;
    let count = args.count;
    if args.threads > count {
        return Err(Failure::Usage(format!(
            "--threads {} is more than --count {count}, and each thread needs a receiver; give 1 to {count}",
            args.threads
        )));
    }
    if args.restart_after.is_some() && count > 1 {
        return Err(Failure::Usage(format!(
            "--restart-after is for one receiver, which stops with everything it has, and not for --count {count}; start it by itself"
        )));
    }
    let place = args.end.place("receive")?;
    args.end.processor.pin_each(args.threads)?;
    let options = ReceiveOptions {
        place,
        name: args.name,
        count: args.count,
        threads: args.threads,
        cpu: args.end.processor.cpu(),
        busy: args.busy,
        wait: args.wait,
        loss: args.loss / 100.0,
        ignore_every: args.ignore_every,
        leave_after: args.leave_after,
        restart_after: args.restart_after,
        is_listening_only: args.listen_only,
        seed: drawn(args.end.seed)?,
        is_json: args.end.json,
    };
    bench::receive(&options, stop)
}

/// Whether there is room for each receiver's number behind the name.
fn check_longest(name: &str, count: usize) -> Result<(), Failure> {
    let longest = bench::name_of(name, count - 1, count);
    if is_station_name(&longest) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--name {name:?} is too long for --count {count}: the last receiver would be {longest}, {} bytes, and a name has at most {NAME_BYTES_MAX}; give one of at most {} bytes",
        longest.len(),
        NAME_BYTES_MAX - (longest.len() - name.len())
    )))
}

fn drawn(seed: Option<u64>) -> Result<u64, Failure> {
    match seed {
        Some(seed) => Ok(seed),
        None => runtime::draw().map_err(|error| Failure::system("cannot draw a seed", &error)),
    }
}

impl EndArgs {
    /// Where a run takes place: what is said, else what the floor says, else loopback.
    fn place(&self, command: &str) -> Result<Place, Failure> {
        let floor = self.floor.as_deref().map(Floor::load).transpose();
        let floor = floor.map_err(|error| Failure::Usage(error.to_string()))?;
        let spec = match (&self.interface, &floor) {
            (Some(interface), _) => Some(
                interface
                    .parse()
                    .map_err(|error| Failure::Usage(format!("--interface: {error}")))?,
            ),
            (None, Some(floor)) => Some(floor.interface.clone()),
            (None, None) => None,
        };
        let of_floor = floor.as_ref().and_then(|floor| {
            let all = floor.group("all").or_else(|| floor.groups.first());
            all.map(|group| group.address)
        });
        let place = Place {
            interface: interface(spec.as_ref())?,
            group: self.group.or(of_floor).unwrap_or(GROUP),
            io: self.io,
            train_datagrams: self.train,
            idle: self.processor.idle,
            has_keys: self.keys,
        };
        self.processor.pin()?;
        if !place.group.ip().is_multicast() {
            return Err(Failure::Usage(format!(
                "--group: {} is no multicast address; a run needs one, such as {GROUP}",
                place.group
            )));
        }
        let is_open = self.open_lab && is_local(place.group.ip());
        if place.interface.kind == InterfaceKind::Loopback || is_open {
            return Ok(place);
        }
        Err(Failure::Usage(format!(
            "bench {command} does not protect its messages, and interface {} is not loopback; in a laboratory say so with --open-lab, and use a group within 239.255.0.0/16 (IPv6: scopes 1 to 3), not {}",
            place.interface, place.group
        )))
    }
}

fn interface(spec: Option<&InterfaceSpec>) -> Result<Interface, Failure> {
    let all =
        net::interfaces().map_err(|error| Failure::system("cannot list the interfaces", &error))?;
    match spec {
        Some(spec) => net::choose(spec, &all).map_err(|error| Failure::Usage(error.to_string())),
        None => all
            .into_iter()
            .find(|one| one.kind == InterfaceKind::Loopback && one.v4.is_some())
            .ok_or_else(|| {
                Failure::Failed(
                    "there is no loopback interface with an IPv4 address; name an --interface"
                        .to_owned(),
                )
            }),
    }
}

fn messages(text: &str) -> Result<u64, String> {
    whole(text, 1..=MESSAGES_MAX, "messages")
}

fn size(text: &str) -> Result<usize, String> {
    whole(text, SIZE_MIN..=SIZE_MAX, "bytes")
}

fn threads(text: &str) -> Result<usize, String> {
    whole(text, 1..=RECEIVERS_MAX, "threads")
}

fn receivers(text: &str) -> Result<usize, String> {
    whole(text, 1..=RECEIVERS_MAX, "receivers")
}

/// A source that is held up longer is not late, but gone.
const STALL_MAX: Duration = Duration::from_secs(10);

fn stall(text: &str) -> Result<Duration, String> {
    at_most(text, STALL_MAX)
}

/// A receiver that takes longer for a message is not slow, but stopped.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// Also in microseconds, which floor.toml has no use for, and not in what is always too long.
fn busy(text: &str) -> Result<Duration, String> {
    let duration = match text.strip_suffix("us") {
        Some(micros) => micros.parse().ok().map(Duration::from_micros),
        None if text.ends_with('s') => parse_duration(text).ok(),
        None => None,
    };
    duration
        .filter(|duration| *duration <= BUSY_MAX)
        .ok_or_else(|| {
            format!(
                "it must be 0 to {} s, a number and one of us (whole), ms, s, such as 150us",
                BUSY_MAX.as_secs()
            )
        })
}

fn at_most(text: &str, max: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration > max {
        return Err(format!("it must be at most {} s", max.as_secs()));
    }
    Ok(duration)
}

fn repeat(text: &str) -> Result<u32, String> {
    whole(text, 1..=1_000, "times")
}

fn percent(text: &str) -> Result<f64, String> {
    let number_of = text.strip_suffix('%').unwrap_or(text);
    number(number_of, 0.0, 1_000.0, "percent, such as 10% or 10")
}

fn every(text: &str) -> Result<u64, String> {
    whole(text, 1..=MESSAGES_MAX, "messages")
}

fn rate(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) {
        return Ok(0.0);
    }
    number(text, 0.001, 10_000_000.0, "a second, or 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_refused_and_not_cut() {
        let micros = |text| busy(text).map(|duration| duration.as_micros());
        for (text, expected) in [
            ("150us", 150),
            ("1.5ms", 1_500),
            ("1s", 1_000_000),
            ("0s", 0),
        ] {
            assert_eq!(micros(text), Ok(expected), "{text}");
        }
        for bad in [
            "1000001us",
            "1001ms",
            "2s",
            "0.01m",
            "-1us",
            "1.5us",
            "us",
            "",
            "7",
        ] {
            let said = micros(bad).unwrap_err();
            assert!(
                said.contains("0 to 1 s") && said.contains("us (whole), ms, s"),
                "{said}"
            );
        }
    }
}

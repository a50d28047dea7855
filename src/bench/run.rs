//! A whole run on this machine: the source and its receivers as processes of their own, on loopback or in network
//! namespaces, once for each cell of a scenario and as often as it says, and everything written down in one folder.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::output::{Ending, Failure, PrintError, Printer};
use crate::runtime::{self, Stop};

use super::environment::Environment;
use super::figures::{self, Summary};
use super::scenario::{Cell, Hosts, Scenario};
use super::whole;

/// The lab's script, so that the program finds it wherever it stands.
const LAB: &str = include_str!("../../tools/lab");

/// What a run is told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// What is to be measured.
    pub scenario: Scenario,
    /// The folder that the results go to; it must not exist, or be empty.
    pub out: Option<PathBuf>,
    /// Decides what is drawn: groups, fillings, losses.
    pub seed: u64,
    /// JSON instead of lines for eyes.
    pub is_json: bool,
}

/// What one folder holds, in `result.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultFile {
    /// Layout of this file.
    pub format: u32,
    /// What was measured.
    pub scenario: Scenario,
    /// Where.
    pub environment: Environment,
    /// Each run, in the order in which they took place: all cells once, then all of them again.
    pub runs: Vec<CellRun>,
}

/// The layout of [`ResultFile`].
pub(super) const FORMAT: u32 = 1;

/// One run of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellRun {
    /// Which cell.
    pub cell: Cell,
    /// Which time, from 0.
    pub turn: u32,
    /// What came of it; one for each source.
    pub sources: Vec<Summary>,
}

/// Runs a scenario.
///
/// # Errors
/// [`Failure`] when it cannot start or a run fails; what was measured before that is kept.
pub fn run(options: &RunOptions, stop: &Stop) -> Result<Ending, Failure> {
    let scenario = &options.scenario;
    if let Some(out) = &options.out {
        prepare(out)?;
    }
    let most = scenario
        .cells()
        .map(|cell| cell.receivers)
        .max()
        .unwrap_or(1);
    let lab = match scenario.hosts {
        Hosts::Loopback => None,
        Hosts::Namespaces => Some(Lab::up(hosts_of(scenario, most))?),
    };
    let mut printer = Printer::new(options.is_json);
    let mut result = ResultFile {
        format: FORMAT,
        scenario: scenario.clone(),
        environment: Environment::now(),
        runs: Vec::new(),
    };
    let mut ending = Ending::Done;
    // All cells in turn, then all of them again: what the machine does meanwhile meets all alike.
    for turn in 0..scenario.repeat {
        for cell in scenario.cells() {
            if stop.is_requested() {
                return Err(broken_off());
            }
            let number = result.runs.len() as u64;
            let one = Run {
                options,
                stop,
                lab: lab.as_ref(),
                cell,
                seed: options.seed.wrapping_add(number),
            };
            let sources = one.measure(turn)?;
            // A scenario that restarts a receiver asks for what it misses.
            if sources.iter().any(|summary| summary.missing > summary.away) {
                ending = Ending::Failed;
            }
            for summary in &sources {
                let line = line(&cell, summary);
                let printed = printer.print(summary, &line).and_then(|()| printer.flush());
                printed.or_else(PrintError::into_ending)?;
            }
            result.runs.push(CellRun {
                cell,
                turn,
                sources,
            });
            if let Some(out) = &options.out {
                write_json(&out.join("result.json"), &result)?;
                write_json(&out.join("env.json"), &result.environment)?;
            }
        }
    }
    Ok(ending)
}

/// Hosts of a lab: a source for each, its receivers, and one that comes and goes.
fn hosts_of(scenario: &Scenario, receivers: usize) -> usize {
    scenario.sources * (1 + receivers) + usize::from(scenario.restarting)
}

fn line(cell: &Cell, summary: &Summary) -> String {
    let us = |value: Option<f64>| value.map_or("never".to_owned(), |us| format!("{us:.0}"));
    format!(
        "{:>3} receivers, {:>4} % loss: {:>9.0} messages/s to all, last p50 {:>7} p99 {:>7} max {:>7} us, missing {}, {:.2} us CPU a message, {:.3} wire bytes a byte",
        cell.receivers,
        cell.loss,
        summary.messages_per_s,
        us(summary.last_us.p50),
        us(summary.last_us.p99),
        us(summary.last_us.max),
        summary.missing,
        summary.cpu_us_per_message,
        summary.wire_per_payload,
    )
}

fn prepare(out: &Path) -> Result<(), Failure> {
    fs::create_dir_all(out).map_err(|error| {
        Failure::Usage(format!(
            "--out: cannot make the folder {}: {error}",
            out.display()
        ))
    })?;
    let is_empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--out: {} is not empty, and results are not overwritten; name another folder, or empty it",
        out.display()
    )))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::system("cannot write a result down", &error))?;
    // What was measured before stays, even where the disk is full.
    whole::write(path, (text + "\n").as_bytes())
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
}

/// One run of one cell.
struct Run<'a> {
    options: &'a RunOptions,
    stop: &'a Stop,
    lab: Option<&'a Lab>,
    cell: Cell,
    seed: u64,
}

impl Run<'_> {
    fn measure(&self, turn: u32) -> Result<Vec<Summary>, Failure> {
        let scenario = &self.options.scenario;
        let group = group(self.seed)?;
        let mut receivers = Children::default();
        let mut sources = Vec::new();
        let mut host = scenario.sources;
        for source in 0..scenario.sources {
            for arguments in self.receivers(source) {
                host += 1;
                let receiver = self.start(host, &group, &arguments, Stdio::null())?;
                receivers.0.push(receiver);
            }
        }
        let passing = scenario.restarting.then_some(host + 1);
        for source in 0..scenario.sources {
            let arguments = self.source(source, turn);
            let source = self.start(source + 1, &group, &arguments, Stdio::piped())?;
            sources.push(Source::new(source));
        }
        let mut summaries = Vec::new();
        for (at, mut source) in sources.into_iter().enumerate() {
            if at == 0
                && let Some(host) = passing
            {
                self.come_and_go(host, &group, &mut source)?;
            }
            summaries.push(source.summary(self.stop)?);
        }
        receivers.wait();
        self.keep_samples(turn)?;
        Ok(summaries)
    }

    /// What each receiver of one source is told.
    fn receivers(&self, source: usize) -> Vec<Vec<String>> {
        let scenario = &self.options.scenario;
        let common = |name: String, at: usize, is_first: bool| {
            let mut words = vec!["receive".to_owned(), "--name".to_owned(), name];
            words.extend(["--loss".to_owned(), self.cell.loss.to_string()]);
            // Each loses by itself.
            let number = (source * self.cell.receivers + at) as u64;
            let seed = self.seed.wrapping_add(number);
            words.extend(["--seed".to_owned(), seed.to_string()]);
            if scenario.keys {
                words.push("--keys".to_owned());
            }
            if let Some(slow) = scenario.slow_us.filter(|_| is_first) {
                words.extend(["--busy".to_owned(), format!("{slow}us")]);
            }
            if let Some(after) = scenario.restart_after.filter(|_| is_first) {
                words.extend(["--restart-after".to_owned(), after.to_string()]);
            }
            words
        };
        if scenario.one_process {
            let mut words = common(format!("s{source}"), 0, false);
            words.extend(["--count".to_owned(), self.cell.receivers.to_string()]);
            words.extend(["--threads".to_owned(), scenario.threads.to_string()]);
            return vec![words];
        }
        (0..self.cell.receivers)
            .map(|at| common(format!("s{source}-{at}"), at, at == 0))
            .collect()
    }

    fn source(&self, source: usize, turn: u32) -> Vec<String> {
        let scenario = &self.options.scenario;
        let mut words: Vec<String> = vec!["send".into()];
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        option("messages", scenario.messages.to_string());
        option("size", scenario.size.to_string());
        option("rate", scenario.rate.to_string());
        option("burst", scenario.burst.to_string());
        option("receivers", self.cell.receivers.to_string());
        // Sources of one scenario are told apart by what they fill their messages with.
        let seed = self.seed.wrapping_add((source as u64) << 32);
        option("seed", seed.to_string());
        if scenario.keys {
            words.push("--keys".into());
        }
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        if source == 0
            && let Some(path) = self.samples(turn)
        {
            option("samples", path.display().to_string());
        }
        words
    }

    /// Where the raw latencies of this run go.
    fn samples(&self, turn: u32) -> Option<PathBuf> {
        let out = self.options.out.as_ref()?;
        let Cell { receivers, loss } = self.cell;
        Some(out.join(format!("samples-{receivers}-{loss}-{turn}.tsv")))
    }

    /// Of the raw latencies the last receiver's distribution is kept, and with `keep_samples` everything.
    fn keep_samples(&self, turn: u32) -> Result<(), Failure> {
        let Some(path) = self.samples(turn) else {
            return Ok(());
        };
        let text = fs::read_to_string(&path)
            .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))?;
        let kept = [
            ("hgrm", figures::hgrm(&text)),
            ("hlog", figures::hlog(&text, self.options.scenario.rate)),
        ];
        for (extension, content) in kept {
            let kept = path.with_extension(extension);
            fs::write(&kept, content).map_err(|error| {
                Failure::Failed(format!("cannot write {}: {error}", kept.display()))
            })?;
        }
        if !self.options.scenario.keep_samples {
            // What cannot be removed only takes room.
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    fn start(
        &self,
        host: usize,
        group: &str,
        arguments: &[String],
        stdout: Stdio,
    ) -> Result<Child, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::system("cannot find this program", &error))?;
        let mut command = match self.lab {
            None => Command::new(program),
            Some(lab) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", &lab.host(host)])
                    .arg(program);
                command
            }
        };
        command
            .arg("bench")
            .args(arguments)
            .args(["--group", group, "--json"]);
        if self.lab.is_some() {
            command.args(["--interface", "eth0", "--open-lab"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(stdout)
            .spawn()
            .map_err(|error| Failure::system("cannot start a process", &error))
    }

    /// A receiver that nobody counts comes and goes until the source is done.
    fn come_and_go(&self, host: usize, group: &str, source: &mut Source) -> Result<(), Failure> {
        /// How long it stays.
        const STAY: Duration = Duration::from_millis(300);
        let words = ["receive", "--listen-only", "--name", "passing", "--wait"].map(str::to_owned);
        let stay = format!("{}ms", STAY.as_millis());
        let keys = self.options.scenario.keys.then(|| "--keys".to_owned());
        let arguments: Vec<_> = words.into_iter().chain([stay]).chain(keys).collect();
        while !self.stop.is_requested() && matches!(source.child.try_wait(), Ok(None)) {
            // It ends by itself.
            let _ = self.start(host, group, &arguments, Stdio::null())?.wait();
        }
        Ok(())
    }
}

fn broken_off() -> Failure {
    Failure::Failed("broken off".to_owned())
}

/// How often it is looked whether a run is to be broken off.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A source of a run, and what it prints, which is read all the time: what stands in a full pipe holds it up. It is killed
/// where the run is given up.
struct Source {
    child: Child,
    printed: Receiver<io::Result<String>>,
}

impl Source {
    fn new(mut child: Child) -> Self {
        let out = child.stdout.take();
        let (tell, printed) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            let read = out.map_or(Ok(0), |mut out| out.read_to_string(&mut text));
            // Nobody waits for it where the run was given up.
            let _ = tell.send(read.map(|_| text));
        });
        Self { child, printed }
    }

    /// Waits until it has ended, and reads its summary.
    fn summary(mut self, stop: &Stop) -> Result<Summary, Failure> {
        let text = loop {
            match self.printed.recv_timeout(LOOK_EVERY) {
                Ok(text) => break text,
                Err(RecvTimeoutError::Timeout) if !stop.is_requested() => {}
                Err(_) => return Err(broken_off()),
            }
        };
        let text = text.map_err(|error| Failure::system("cannot hear the source", &error))?;
        // Its own sentence stands on standard error already.
        let _ = self.child.wait();
        serde_json::from_str(&text).map_err(|_| {
            Failure::Failed("a source has ended without a result; see above".to_owned())
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes that are killed where the run is given up.
#[derive(Default)]
struct Children(Vec<Child>);

impl Children {
    fn wait(mut self) {
        for mut child in self.0.drain(..) {
            // What it has to say, the source has said for it.
            let _ = child.wait();
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A group and a port of their own for each run, in the scope of one site.
fn group(seed: u64) -> Result<String, Failure> {
    let random = runtime::draw().map_err(|error| Failure::system("cannot draw a group", &error))?;
    let [a, b, c, d, ..] = (random ^ seed).to_be_bytes();
    let port = 20_000 + u32::from(u16::from_be_bytes([c, d])) % 10_000;
    Ok(format!("239.255.{a}.{}:{port}", b.clamp(1, 254)))
}

/// Network namespaces that are there as long as this.
struct Lab {
    name: String,
}

impl Lab {
    fn up(hosts: usize) -> Result<Self, Failure> {
        let name = format!("b{}", std::process::id());
        let lab = Self { name };
        lab.tool(&["up", &lab.name, &hosts.to_string()])?;
        Ok(lab)
    }

    fn host(&self, number: usize) -> String {
        format!("lab-{}-{number}", self.name)
    }

    fn tool(&self, arguments: &[&str]) -> Result<(), Failure> {
        let failed = |error| {
            Failure::system(
                "cannot make network namespaces (this needs root, bash and ip; else use hosts = \"loopback\")",
                &error,
            )
        };
        let mut script = Command::new("bash")
            .args(["-s", "--"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = script.stdin.take() {
            stdin.write_all(LAB.as_bytes()).map_err(failed)?;
        }
        let status = script.wait().map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::Failed(
            "cannot make network namespaces: this needs root, bash and ip; else use hosts = \"loopback\"".to_owned(),
        ))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What is left over, `tools/lab list` shows.
        let _ = self.tool(&["down", &self.name]);
    }
}

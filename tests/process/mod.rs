//! The real binary as a child process: in a folder of its own, with a group of its own on loopback, watched with
//! deadlines, and killed when a test ends.

#![allow(
    dead_code,
    reason = "each program of tests that has this module uses another part of it"
)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Longest wait for one line or for an end. Only a failure takes this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whether the floors of this program of tests are protected: `protected.rs` runs the tests of `loopback.rs` so.
pub(crate) const IS_PROTECTED: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"protected");
/// Who sends on a protected floor where a test names nobody.
pub(crate) const SOURCE: &str = "sup-1";

/// A folder with a floor file, whose groups nobody else on this machine uses. Its interface is the loopback and its ttl
/// is 0: nothing leaves the machine, whatever a test does.
pub(crate) struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    /// A floor with the groups `all` and `billing`.
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// As [`Lab::new`], with more at the end of the floor file.
    pub(crate) fn with(more: &str) -> Self {
        let [a, b, c, d, ..] = draw();
        let (net, host) = (a, b.clamp(1, 250));
        // Below the ports that systems give to sockets that ask for none.
        let port = 20_000 + u16::from_be_bytes([c, d]) % 10_000;
        Self::from_text(format!(
            "[floor]\nname = \"test-{net}-{host}-{port}\"\ninterface = \"127.0.0.1\"\nttl = 0\n\
             [groups.all]\naddress = \"239.255.{net}.{host}:{port}\"\n\
             [groups.billing]\naddress = \"239.255.{net}.{}:{port}\"\n{more}",
            host + 1
        ))
    }

    /// A floor file that says `text`.
    pub(crate) fn from_text(text: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().expect("a folder for a test");
        fs::write(directory.path().join("floor.toml"), text).expect("a floor file");
        let lab = Self { directory };
        // A demonstration needs no floor.
        if IS_PROTECTED && fs::metadata(lab.file("floor.toml")).is_ok_and(|file| file.len() > 0) {
            lab.sign();
        }
        lab
    }

    /// Gives the floor keys, one source and a signature.
    pub(crate) fn sign(&self) {
        self.keys(&["keys", "init"]);
        self.grant(SOURCE);
        self.keys(&["floor", "sign"]);
    }

    /// Lets `name` send whatever it likes.
    pub(crate) fn grant(&self, name: &str) {
        let lanes = ["--lane", "emergency", "--lane", "routine", "--lane", "bulk"];
        self.keys(
            &[
                &["keys", "grant", "--every-group"],
                &lanes[..],
                &["--", name],
            ]
            .concat(),
        );
    }

    fn keys(&self, args: &[&str]) {
        let ended = Running::start(self.bare_command(args)).end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// The folder that programs start in, and find floor.toml in.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file of it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// `floorcast` with `args`, seeing nothing of this machine's user but what stands in the folder. On a protected floor
    /// `--open-lab` is left out, and whoever sends has a grant.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        if !IS_PROTECTED {
            return self.bare_command(args);
        }
        let mut args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        args.retain(|arg| *arg != "--open-lab");
        if args.first().is_some_and(|command| *command == "send") {
            match args.iter().position(|arg| *arg == "--name") {
                Some(at) => self.grant(args[at + 1].to_str().expect("a name")),
                None => args
                    .splice(1..1, ["--name".as_ref(), SOURCE.as_ref()])
                    .for_each(drop),
            }
        }
        self.bare_command(&args)
    }

    fn bare_command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floorcast"));
        command
            .args(args)
            .current_dir(self.path())
            .env("XDG_STATE_HOME", self.file("state"))
            .env("LOCALAPPDATA", self.file("state"))
            .env("TMPDIR", self.path())
            .env("USER", "tester")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts `floorcast` with `args`.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, args: &[A]) -> Running {
        Running::start(self.command(args))
    }

    /// Runs `floorcast` with `args` to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Ended {
        self.start(args).end()
    }

    /// Runs `floorcast` with `args` and `stdin` to its end.
    pub(crate) fn run_with<A: AsRef<OsStr>>(&self, args: &[A], stdin: &[u8]) -> Ended {
        self.start_with(args, stdin).end()
    }

    /// Starts `floorcast` with `args` and `stdin`.
    pub(crate) fn start_with<A: AsRef<OsStr>>(&self, args: &[A], stdin: &[u8]) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let mut to = running.child.stdin.take().expect("it is piped");
        let bytes = stdin.to_vec();
        // A program need not read what it is given.
        thread::spawn(move || drop(to.write_all(&bytes)));
        running
    }
}

/// A program that runs. It is killed when this goes out of scope.
pub(crate) struct Running {
    child: Child,
    called: String,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// How a program ended, and what it said that had not been read before.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The command line.
    pub(crate) called: String,
    /// Its exit code; `None` after a signal that it did not catch.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Running {
    /// Starts `command`. An end of it that is not piped counts as silent.
    pub(crate) fn start(mut command: Command) -> Self {
        let called = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let mut child = command.spawn().expect("the program starts");
        Self {
            stdout: lines(child.stdout.take()),
            stderr: lines(child.stderr.take()),
            child,
            called,
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output, without its end.
    pub(crate) fn line(&self) -> String {
        self.next(&self.stdout, "standard output")
    }

    /// The next line of standard error, without its end.
    pub(crate) fn error_line(&self) -> String {
        self.next(&self.stderr, "standard error")
    }

    fn next(&self, from: &Receiver<String>, name: &str) -> String {
        match from.recv_timeout(DEADLINE) {
            Ok(line) => line.trim_end_matches('\n').to_owned(),
            Err(error) => {
                let said: String = self.stderr.try_iter().collect();
                panic!(
                    "{}: no line on {name} ({error}); standard error: {said}",
                    self.called
                )
            }
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let stdout = self.rest(&self.stdout);
        let stderr = self.rest(&self.stderr);
        Ended {
            called: self.called.clone(),
            code: self.wait(),
            stdout,
            stderr,
        }
    }

    fn rest(&self, from: &Receiver<String>) -> String {
        let mut text = String::new();
        loop {
            match from.recv_timeout(DEADLINE) {
                Ok(line) => text.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => return text,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}: still running; it said: {text}", self.called)
                }
            }
        }
    }

    fn wait(&mut self) -> Option<i32> {
        for _ in 0..DEADLINE.as_millis() {
            if let Some(status) = self.child.try_wait().expect("its state is known") {
                return status.code();
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        panic!("{}: still running, but silent", self.called)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines as they come, each with its end.
fn lines(from: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (to, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from?);
        loop {
            let mut line = Vec::new();
            if from.read_until(b'\n', &mut line).ok()? == 0 {
                return None::<()>;
            }
            to.send(String::from_utf8(line).expect("UTF-8")).ok()?;
        }
    });
    lines
}

/// Eight bytes that no other test has.
fn draw() -> [u8; 8] {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("chance");
    bytes
}

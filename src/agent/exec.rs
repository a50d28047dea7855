//! Runs a command for each notice, without keeping anything else waiting.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender, TrySendError};

use crate::output::NoticeLine;

/// Notices that wait for the command; what comes when they are this many is printed, but the command is not run for it.
const QUEUE_MAX: usize = 64;

/// How long the commands that wait may take when the agent is asked to stop.
const FINISH: Duration = Duration::from_secs(10);

/// A thread that runs a command for each notice, one after another.
pub(super) struct Exec {
    queue: Sender<Job>,
    done: Receiver<()>,
    skipped: u64,
}

struct Job {
    text: String,
    environment: [(&'static str, String); 4],
}

impl Exec {
    /// Starts the thread, if there is a command.
    pub(super) fn start(command: Option<&str>) -> Option<Self> {
        let command = command?.to_owned();
        let (queue, jobs) = channel::bounded::<Job>(QUEUE_MAX);
        let (all_done, done) = channel::bounded(0);
        thread::spawn(move || {
            // Dropped when the last command has ended.
            let _all_done: Sender<()> = all_done;
            for job in jobs {
                if let Err(error) = run(&command, &job) {
                    tracing::warn!("--exec cannot run {command:?}: {error}");
                }
            }
        });
        Some(Self {
            queue,
            done,
            skipped: 0,
        })
    }

    /// Waits until the command has run for everything shown, for a while.
    pub(super) fn finish(self) {
        drop(self.queue);
        if self
            .done
            .recv_timeout(FINISH)
            .is_err_and(|error| error.is_timeout())
        {
            tracing::warn!("--exec has not run for all notices that were shown");
        }
    }

    /// Runs the command for a notice, as soon as it is its turn.
    pub(super) fn run(&mut self, notice: &NoticeLine<'_>) {
        let environment = [
            ("FLOORCAST_ID", notice.id.clone()),
            ("FLOORCAST_FROM", notice.from.to_owned()),
            ("FLOORCAST_GROUP", notice.group.to_owned()),
            ("FLOORCAST_LANE", notice.lane.to_owned()),
        ];
        let job = Job {
            text: notice.text.to_owned(),
            environment,
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(job)
        {
            self.skipped += 1;
            if self.skipped.is_power_of_two() {
                tracing::warn!(
                    skipped = self.skipped,
                    "--exec is slower than the notices come; it was not run for some"
                );
            }
        }
    }
}

/// The notice's text is the command's standard input; it is never a part of the command line.
fn run(command: &str, job: &Job) -> std::io::Result<()> {
    let (shell, flag) = if cfg!(windows) {
        ("cmd", "/C")
    } else {
        ("sh", "-c")
    };
    let mut child = Command::new(shell)
        .args([flag, command])
        .envs(
            job.environment
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read what it is given.
        let _ = stdin.write_all(job.text.as_bytes());
    }
    let status = child.wait()?;
    if !status.success() {
        tracing::warn!("--exec {command:?} ended with {status}");
    }
    Ok(())
}

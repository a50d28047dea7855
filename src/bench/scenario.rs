//! What is to be measured, as a file says it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::output::Failure;

use super::{MESSAGES_MAX, RECEIVERS_MAX, SIZE_MAX, SIZE_MIN};

/// A scenario: one source, or several, and their receivers. A list of receivers or of losses is a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub why: String,
    /// Messages of each source.
    pub messages: u64,
    /// Bytes of each.
    #[serde(default = "size")]
    pub size: usize,
    /// Messages a second on schedule; 0: as fast as all take them.
    pub rate: f64,
    /// Messages that are due at a time; the rate stays what it is.
    #[serde(default = "one")]
    pub burst: u64,
    /// Receivers of each source, one number for each cell.
    pub receivers: Vec<usize>,
    /// Percent of datagrams dropped where they arrive, one number for each cell.
    #[serde(default = "no_loss")]
    pub loss: Vec<f64>,
    /// How many sources, each with receivers of its own, in one group.
    #[serde(default = "one_source")]
    pub sources: usize,
    /// The first receiver is busy with each message for so many microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_us: Option<u64>,
    /// One more receiver comes and goes all the time; it is not counted.
    #[serde(default)]
    pub restarting: bool,
    /// The first receiver stops when it has so many messages, and starts again; it is counted as any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_after: Option<u64>,
    /// All receivers of a source are in one process.
    #[serde(default)]
    pub one_process: bool,
    /// Over how many threads that process spreads them.
    #[serde(default = "one_thread")]
    pub threads: usize,
    /// Messages are sealed and signed, with throw-away keys.
    #[serde(default)]
    pub keys: bool,
    /// Where.
    #[serde(default)]
    pub hosts: Hosts,
    /// How often each cell is run.
    #[serde(default = "repeat")]
    pub repeat: u32,
    /// Keep every latency, not only their distribution.
    #[serde(default)]
    pub keep_samples: bool,
}

/// Where the processes of a run are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hosts {
    /// On this host, over loopback.
    #[default]
    Loopback,
    /// Each in a network namespace of its own, joined by a bridge that has no other link; needs root.
    Namespaces,
}

/// One combination of what a scenario sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Receivers of each source.
    pub receivers: usize,
    /// Percent of datagrams dropped on arrival.
    pub loss: f64,
}

const fn size() -> usize {
    256
}

const fn one() -> u64 {
    1
}

const fn one_source() -> usize {
    1
}

const fn one_thread() -> usize {
    1
}

fn no_loss() -> Vec<f64> {
    vec![0.0]
}

const fn repeat() -> u32 {
    5
}

impl Scenario {
    /// What is run where no file says anything else: 10,000 messages a second to four receivers for two seconds.
    pub fn of_flags() -> Self {
        Self {
            name: "flags".to_owned(),
            why: String::new(),
            messages: 20_000,
            size: size(),
            rate: 10_000.0,
            burst: one(),
            receivers: vec![4],
            loss: no_loss(),
            sources: one_source(),
            slow_us: None,
            restarting: false,
            restart_after: None,
            one_process: false,
            threads: one_thread(),
            keys: false,
            hosts: Hosts::Loopback,
            repeat: repeat(),
            keep_samples: false,
        }
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] with what is wrong, and where.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("scenario {shown} cannot be read: {error}")))?;
        let scenario: Self = toml::from_str(&text).map_err(|error| {
            let words: Vec<_> = error
                .to_string()
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            Failure::Usage(format!("scenario {shown}: {}", words.join(" ")))
        })?;
        scenario
            .check()
            .map_err(|sentence| Failure::Usage(format!("scenario {shown}: {sentence}")))?;
        Ok(scenario)
    }

    /// Whether it can be run.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let within = |is_within: bool, sentence: String| is_within.then_some(()).ok_or(sentence);
        within(
            (1..=MESSAGES_MAX).contains(&self.messages),
            format!(
                "messages is {}, but must be 1 to {MESSAGES_MAX}",
                self.messages
            ),
        )?;
        within(
            (SIZE_MIN..=SIZE_MAX).contains(&self.size),
            format!(
                "size is {}, but must be {SIZE_MIN} to {SIZE_MAX} bytes",
                self.size
            ),
        )?;
        within(
            self.rate == 0.0 || (0.001..=10_000_000.0).contains(&self.rate),
            format!(
                "rate is {}, but must be 0 or 0.001 to 10000000 a second",
                self.rate
            ),
        )?;
        within(
            (1..=100_000).contains(&self.burst),
            format!("burst is {}, but must be 1 to 100000 messages", self.burst),
        )?;
        within(
            !self.receivers.is_empty()
                && self
                    .receivers
                    .iter()
                    .all(|count| (1..=RECEIVERS_MAX).contains(count)),
            format!("receivers must be a list of numbers, each 1 to {RECEIVERS_MAX}"),
        )?;
        within(
            !self.loss.is_empty() && self.loss.iter().all(|loss| (0.0..=90.0).contains(loss)),
            "loss must be a list of numbers, each 0 to 90 percent".to_owned(),
        )?;
        within(
            (1..=8).contains(&self.sources),
            format!("sources is {}, but must be 1 to 8", self.sources),
        )?;
        within(
            (1..=1_000).contains(&self.repeat),
            format!("repeat is {}, but must be 1 to 1000", self.repeat),
        )?;
        within(
            self.slow_us.is_none_or(|us| us <= 1_000_000)
                && !(self.one_process && self.slow_us.is_some()),
            "slow_us must be at most 1000000, and needs receivers in processes of their own"
                .to_owned(),
        )?;
        within(
            self.restart_after
                .is_none_or(|after| (1..self.messages).contains(&after) && !self.one_process),
            format!(
                "restart_after must be 1 to {}, less than messages, and needs receivers in processes of their own",
                self.messages.saturating_sub(1)
            ),
        )?;
        let fewest = self.receivers.iter().copied().min().unwrap_or(1);
        within(
            (1..=fewest).contains(&self.threads) && (self.one_process || self.threads == 1),
            format!(
                "threads is {}, but must be 1 to {fewest}, the fewest receivers, and more than 1 needs one_process = true",
                self.threads
            ),
        )
    }

    /// Every combination of what it sweeps.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        self.receivers
            .iter()
            .flat_map(|&receivers| self.loss.iter().map(move |&loss| Cell { receivers, loss }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_is_kept_can_be_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/scenarios");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::load(&path).unwrap();
            assert_eq!(
                path.file_stem().unwrap().to_str(),
                Some(scenario.name.as_str())
            );
            assert!(!scenario.why.is_empty(), "{}", scenario.name);
            names.push(scenario.name);
        }
        assert!(names.len() >= 9, "{names:?}");
    }

    #[test]
    fn a_sweep_has_all_combinations_and_nonsense_is_refused() {
        let good = "name = \"x\"\nmessages = 5\nrate = 0\nreceivers = [1, 4]\nloss = [0, 1, 5]\n";
        let scenario: Scenario = toml::from_str(good).unwrap();
        assert_eq!(scenario.cells().count(), 6);
        assert_eq!(scenario.check(), Ok(()));
        for bad in [
            "burst = 0",
            "sources = 9",
            "size = 15",
            "repeat = 0",
            "slow_us = 2000000",
            "restart_after = 0",
            "restart_after = 5",
            "restart_after = 3\none_process = true",
            "threads = 0",
            "threads = 2",
            "threads = 2\none_process = true",
        ] {
            let scenario: Scenario = toml::from_str(&format!("{good}{bad}")).unwrap();
            assert!(scenario.check().is_err(), "{bad}");
        }
        assert!(toml::from_str::<Scenario>(&format!("{good}speed = 9")).is_err());
        let spread = good.replace("[1, 4]", "[2, 4]") + "threads = 2\none_process = true";
        assert_eq!(toml::from_str::<Scenario>(&spread).unwrap().check(), Ok(()));
    }
}

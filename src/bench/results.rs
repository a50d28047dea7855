//! A folder of results, read back; and its figures over several runs: the median, and from where to where they go.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::output::Failure;

use super::figures::Summary;
use super::run::{CellRun, FORMAT, ResultFile};
use super::scenario::Cell;

/// What `bench run --out` left behind.
#[derive(Debug)]
pub(super) struct Results {
    /// As it was named.
    pub(super) path: PathBuf,
    /// Where its distributions are.
    pub(super) folder: PathBuf,
    pub(super) file: ResultFile,
}

impl Results {
    /// Reads a folder, or the `result.json` of one.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let file = if path.is_dir() {
            path.join("result.json")
        } else {
            path.to_owned()
        };
        let shown = file.display();
        let text = fs::read_to_string(&file).map_err(|error| {
            Failure::Usage(format!(
                "{shown} cannot be read: {error}; name a folder that bench run --out wrote"
            ))
        })?;
        let no_result =
            |error| Failure::Usage(format!("{shown} is no result of bench run: {error}"));
        let value: Value = serde_json::from_str(&text).map_err(no_result)?;
        // Another layout need not fit the types: it is told before they are tried.
        if value["format"] != FORMAT {
            return Err(Failure::Usage(format!(
                "{shown} has format {}, but this program reads format {FORMAT}; read it with the version that wrote it",
                value["format"]
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            file: serde_json::from_value(value).map_err(no_result)?,
        })
    }

    /// Each cell once, in the scenario's order.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for cell in self.file.scenario.cells() {
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        cells
    }

    /// The runs of one cell.
    pub(super) fn turns(&self, cell: Cell) -> impl Iterator<Item = &CellRun> {
        self.file.runs.iter().filter(move |run| run.cell == cell)
    }

    /// What came of one cell: of every run and every source.
    pub(super) fn summaries_of(&self, cell: Cell) -> impl Iterator<Item = &Summary> {
        self.turns(cell).flat_map(|run| &run.sources)
    }

    /// What came of everything.
    pub(super) fn summaries(&self) -> impl Iterator<Item = &Summary> {
        self.file.runs.iter().flat_map(|run| &run.sources)
    }

    /// A metric over all runs of one cell.
    pub(super) fn spread(&self, cell: Cell, metric: &Metric) -> Spread {
        let values = self.summaries_of(cell).map(metric.of);
        Spread::of(values, metric.is_more_better)
    }
}

/// When a metric decides whether one result is worse than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Where the source goes as fast as it can: on a schedule it is the schedule's.
    Unpaced,
    /// Where there is a schedule: unpaced, messages wait for each other.
    Scheduled,
    /// Always.
    Always,
    /// Always, and more than there were before is worse, whatever the bound is and however seldom.
    Fault,
    /// Never; it is shown.
    Shown,
}

/// A figure of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// Its name in `result.json`.
    pub(super) name: &'static str,
    /// Its name for a reader.
    pub(super) label: &'static str,
    pub(super) unit: &'static str,
    pub(super) rule: Rule,
    pub(super) is_more_better: bool,
    /// `None` where it never came, or was not measured.
    pub(super) of: fn(&Summary) -> Option<f64>,
}

impl Metric {
    const fn new(
        name: &'static str,
        label: &'static str,
        unit: &'static str,
        rule: Rule,
        of: fn(&Summary) -> Option<f64>,
    ) -> Self {
        let is_more_better = false;
        Self {
            name,
            label,
            unit,
            rule,
            is_more_better,
            of,
        }
    }

    /// Whether it is a latency, which is as unsure as the clocks are.
    pub(super) fn is_latency(&self) -> bool {
        self.name.contains("_us.")
    }

    /// How a figure that is not there is called.
    pub(super) fn none(&self) -> &'static str {
        if self.is_latency() { "never" } else { "none" }
    }
}

/// Every figure of a run that is reported or compared.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        is_more_better: true,
        ..Metric::new(
            "messages_per_s",
            "messages to every receiver",
            "per s",
            Rule::Unpaced,
            |it| measured(it.messages_per_s),
        )
    },
    latency("last_us.p50", "last receiver p50", Rule::Scheduled, |it| {
        it.last_us.p50
    }),
    latency("last_us.p90", "last receiver p90", Rule::Shown, |it| {
        it.last_us.p90
    }),
    latency("last_us.p99", "last receiver p99", Rule::Scheduled, |it| {
        it.last_us.p99
    }),
    latency("last_us.p999", "last receiver p99.9", Rule::Shown, |it| {
        it.last_us.p999
    }),
    latency("last_us.p9999", "last receiver p99.99", Rule::Shown, |it| {
        it.last_us.p9999
    }),
    latency("last_us.max", "last receiver max", Rule::Shown, |it| {
        it.last_us.max
    }),
    latency(
        "receiver_us.p50",
        "any one receiver p50",
        Rule::Shown,
        |it| it.receiver_us.p50,
    ),
    latency(
        "receiver_us.p99",
        "any one receiver p99",
        Rule::Shown,
        |it| it.receiver_us.p99,
    ),
    Metric::new(
        "late_us_max",
        "source behind schedule, most",
        "us",
        Rule::Shown,
        |it| Some(it.late_us_max),
    ),
    // What was sent while a receiver was away is missing by order of the scenario, and how much depends on the moment.
    Metric::new("missing", "missing", "", Rule::Fault, |it| {
        Some(it.missing.saturating_sub(it.away) as f64)
    }),
    Metric::new(
        "away",
        "missing, sent during a restart",
        "",
        Rule::Shown,
        |it| Some(it.away as f64),
    ),
    Metric::new("duplicates", "duplicates", "", Rule::Fault, |it| {
        Some(it.duplicates as f64)
    }),
    Metric::new("out_of_order", "out of order", "", Rule::Fault, |it| {
        Some(it.out_of_order as f64)
    }),
    Metric::new("altered", "altered", "", Rule::Fault, |it| {
        Some(it.altered as f64)
    }),
    Metric::new(
        "below_zero",
        "latencies below zero",
        "",
        Rule::Shown,
        |it| Some(it.below_zero as f64),
    ),
    Metric::new("repairs", "repairs", "", Rule::Shown, |it| {
        Some(it.repairs as f64)
    }),
    Metric::new("copies", "copies", "", Rule::Shown, |it| {
        Some(it.copies as f64)
    }),
    Metric::new("nacks", "NACKs", "", Rule::Shown, |it| {
        Some(it.nacks as f64)
    }),
    Metric::new(
        "wire_per_payload",
        "bytes on the wire",
        "per byte of payload",
        Rule::Always,
        |it| measured(it.wire_per_payload),
    ),
    Metric::new(
        "cpu_us_per_message",
        "CPU, source and receivers",
        "us per message",
        Rule::Always,
        |it| measured(it.cpu_us_per_message),
    ),
    Metric::new(
        "usage.rss_bytes",
        "RSS of the source",
        "MiB",
        Rule::Shown,
        |it| mebibytes(it.usage.rss_bytes),
    ),
    Metric::new(
        "per_receiver.usage.rss_bytes",
        "RSS of a receiver, most",
        "MiB",
        Rule::Shown,
        |it| {
            let each = it.per_receiver.iter().map(|one| one.usage.rss_bytes);
            mebibytes(each.max()?)
        },
    ),
];

/// A latency.
const fn latency(
    name: &'static str,
    label: &'static str,
    rule: Rule,
    of: fn(&Summary) -> Option<f64>,
) -> Metric {
    Metric::new(name, label, "us", rule, of)
}

/// Zero is what a system says that does not measure this, and what a run says to which nothing came.
fn measured(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

fn mebibytes(bytes: u64) -> Option<f64> {
    measured(bytes as f64 / (1 << 20) as f64)
}

/// A metric over several runs; infinite, towards the bad end, where it never came. Infinite is `null` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// Between the two in the middle where they are even.
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of at least one value; of none everything is missing.
    fn of(values: impl Iterator<Item = Option<f64>>, is_more_better: bool) -> Self {
        let never = if is_more_better {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        };
        let mut values: Vec<f64> = values.map(|value| value.unwrap_or(never)).collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |at: usize| values.get(at).copied().unwrap_or(never);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self {
            median,
            min: at(0),
            max: at(values.len().saturating_sub(1)),
        }
    }

    /// Whether some value may be in both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let is_below = |low: f64, high: f64| low.total_cmp(&high) != Ordering::Greater;
        is_below(self.min, other.max) && is_below(other.min, self.max)
    }
}

/// A cell as people call it.
pub(super) fn named(cell: Cell) -> String {
    let Cell { receivers, loss } = cell;
    let plural = if receivers == 1 { "" } else { "s" };
    format!("{receivers} receiver{plural}, {loss} % loss")
}

/// A number for eyes: as many digits as say something, thousands apart.
pub(super) fn shown(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut apart = String::new();
    for (at, digit) in whole.chars().enumerate() {
        let left = whole.len() - at;
        if at > 0 && left.is_multiple_of(3) && !apart.ends_with('-') {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_knows_what_never_came() {
        let spread = |values: &[Option<f64>], more| Spread::of(values.iter().copied(), more);
        let one = spread(&[Some(3.0), None, Some(1.0)], false);
        assert_eq!((one.median, one.min, one.max), (3.0, 1.0, f64::INFINITY));
        assert_eq!(spread(&[Some(1.0), None], false).median, f64::INFINITY);
        assert_eq!(spread(&[Some(1.0), Some(2.0)], false).median, 1.5);
        assert_eq!(spread(&[], false).median, f64::INFINITY);
        let rate = spread(&[None, Some(5.0), Some(6.0)], true);
        assert_eq!((rate.median, rate.min), (5.0, f64::NEG_INFINITY));
        assert!(one.overlaps(&one) && one.overlaps(&spread(&[None], false)));
        assert!(!spread(&[Some(0.5)], false).overlaps(&one));
    }

    #[test]
    fn numbers_are_readable() {
        let values = [0.0, 0.0124, 1.413, 64.89, 4_673.146, 1_234_567.0, -1_000.0];
        assert_eq!(
            values.map(shown),
            ["0", "0.012", "1.41", "64.9", "4,673", "1,234,567", "-1,000"]
        );
    }
}

//! Two folders of results side by side: whether the second is worse than the first, told only of runs that are alike.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::output::{Ending, Failure, PrintError, Printer};

use super::figures::Summary;
use super::results::{METRICS, Metric, Results, Rule, Spread, named, shown};
use super::scenario::Cell;

/// What a comparison is told.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// What was: a folder, or its `result.json`.
    pub a: PathBuf,
    /// What is.
    pub b: PathBuf,
    /// How much worse a median may be, percent.
    pub max_regress_percent: f64,
    /// One JSON object instead of lines for eyes.
    pub is_json: bool,
}

/// Compares two results.
///
/// # Errors
/// [`Failure::Usage`] when a result cannot be read, or the two are unlike.
pub fn run(options: &CompareOptions) -> Result<Ending, Failure> {
    let a = Results::load(&options.a)?;
    let b = Results::load(&options.b)?;
    if let Some(Unlike { what, in_a, in_b }) = difference(&a, &b) {
        return Err(Failure::Usage(format!(
            "these runs cannot be compared: {what} is {in_a} in {} and {in_b} in {}",
            a.path.display(),
            b.path.display()
        )));
    }
    let bound = 1.0 + options.max_regress_percent / 100.0;
    let cells = a.cells().into_iter();
    let cells: Vec<_> = cells.map(|cell| compare(cell, &a, &b, bound)).collect();
    let comparison = Comparison {
        event: "comparison",
        a: side(&a),
        b: side(&b),
        max_regress_percent: options.max_regress_percent,
        regressions: cells.iter().flat_map(regressions).collect(),
        cells,
    };
    let mut printer = Printer::new(options.is_json);
    let lines = comparison.lines();
    let printed = printer.print(&comparison, &lines);
    printed
        .and_then(|()| printer.flush())
        .or_else(PrintError::into_ending)?;
    Ok(if comparison.regressions.is_empty() {
        Ending::Done
    } else {
        Ending::Failed
    })
}

/// What makes two runs unlike.
struct Unlike {
    what: String,
    in_a: String,
    in_b: String,
}

/// The first thing that two results do not have in common, and should.
fn difference(a: &Results, b: &Results) -> Option<Unlike> {
    let scenarios = [a, b].map(|side| serde_json::to_value(&side.file.scenario));
    let environments = [a, b].map(|side| serde_json::to_value(&side.file.environment));
    fields("scenario", &scenarios, &["name", "why", "repeat"])
        .or_else(|| fields("environment", &environments, &["version"]))
        .or_else(|| cells(a, b))
        .or_else(|| mode("security", [a, b], |it| it.security.clone()))
        .or_else(|| mode("io", [a, b], |it| it.io.clone()))
        .or_else(|| mode("idle", [a, b], |it| it.idle.clone()))
        .or_else(|| mode("threads", [a, b], |it| it.threads.to_string()))
}

/// What the runs of a side say of how they were done, where the two sides do not say the same.
fn mode(what: &str, sides: [&Results; 2], of: fn(&Summary) -> String) -> Option<Unlike> {
    let [in_a, in_b] = sides.map(|side| {
        let all: BTreeSet<_> = side.summaries().map(of).collect();
        Vec::from_iter(all).join(", ")
    });
    let what = what.to_owned();
    (in_a != in_b).then_some(Unlike { what, in_a, in_b })
}

/// The first field that differs, but for `free`. By name, so that a field that is new is compared as well.
fn fields(
    of: &str,
    sides: &[Result<Value, serde_json::Error>; 2],
    free: &[&str],
) -> Option<Unlike> {
    let [Ok(Value::Object(a)), Ok(Value::Object(b))] = sides else {
        return Some(Unlike {
            what: of.to_owned(),
            in_a: "unreadable".to_owned(),
            in_b: "unreadable".to_owned(),
        });
    };
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let text = |value: Option<&Value>| value.map_or("not set".to_owned(), ToString::to_string);
    names
        .into_iter()
        .filter(|name| !free.contains(&name.as_str()))
        .find(|name| a.get(*name) != b.get(*name))
        .map(|name| Unlike {
            what: format!("{of}.{name}"),
            in_a: text(a.get(name)),
            in_b: text(b.get(name)),
        })
}

/// A cell that one of them, or neither, has measured.
fn cells(a: &Results, b: &Results) -> Option<Unlike> {
    let runs = |side: &Results, cell| match side.summaries_of(cell).count() {
        0 => "not measured".to_owned(),
        count => format!("measured {count} times"),
    };
    a.cells().into_iter().find_map(|cell| {
        let [in_a, in_b] = [a, b].map(|side| runs(side, cell));
        let what = format!("the cell of {}", named(cell));
        (in_a == "not measured" || in_b == "not measured").then_some(Unlike { what, in_a, in_b })
    })
}

/// Everything that comes of a comparison.
#[derive(Debug, Serialize)]
struct Comparison {
    event: &'static str,
    a: Side,
    b: Side,
    max_regress_percent: f64,
    /// What is worse than it may be, a sentence each.
    regressions: Vec<String>,
    cells: Vec<CellComparison>,
}

#[derive(Debug, Serialize)]
struct Side {
    path: String,
    version: String,
}

fn side(results: &Results) -> Side {
    Side {
        path: results.path.display().to_string(),
        version: results.file.environment.version.clone(),
    }
}

#[derive(Debug, Serialize)]
struct CellComparison {
    cell: Cell,
    /// How often each side measured it: runs times sources.
    samples: [usize; 2],
    /// By the metric's name in `result.json`.
    metrics: BTreeMap<&'static str, MetricComparison>,
}

/// One metric of one cell.
#[derive(Debug, Serialize)]
struct MetricComparison {
    a: Spread,
    b: Spread,
    /// The median of B for one of A.
    ratio: Option<f64>,
    verdict: Verdict,
    /// Whether the two sides' ranges have anything in common.
    ranges_overlap: bool,
    /// What of the two sides was compared.
    #[serde(skip)]
    deciding: [f64; 2],
    #[serde(skip)]
    metric: Metric,
}

/// What a metric says of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Better by more than the bound.
    Better,
    /// Neither better nor worse than the bound allows.
    Within,
    /// Worse than the bound allows: a regression.
    Worse,
    /// Neither side has a figure: they are not equal, but nothing.
    NoFigures,
}

fn compare(cell: Cell, a: &Results, b: &Results, bound: f64) -> CellComparison {
    let is_paced = a.file.scenario.rate > 0.0;
    let counts = |metric: &&Metric| match metric.rule {
        Rule::Always | Rule::Fault => true,
        Rule::Scheduled => is_paced,
        Rule::Unpaced => !is_paced,
        Rule::Shown => false,
    };
    let metrics = METRICS.iter().filter(counts);
    CellComparison {
        cell,
        samples: [a, b].map(|side| side.summaries_of(cell).count()),
        metrics: metrics
            .map(|metric| {
                let spreads = [a, b].map(|side| side.spread(cell, metric));
                (metric.name, MetricComparison::of(metric, spreads, bound))
            })
            .collect(),
    }
}

impl MetricComparison {
    /// `bound` is how many times as bad as A's B's median may be: as B/A, and A/B for what should be much.
    fn of(metric: &Metric, [a, b]: [Spread; 2], bound: f64) -> Self {
        let is_fault = metric.rule == Rule::Fault;
        // A fault in one run of many is in no median.
        let [in_a, in_b] = [a, b].map(|side| if is_fault { side.max } else { side.median });
        let worse_by = |from: f64, to: f64| if from == to { 1.0 } else { to / from };
        let bound = if is_fault { 1.0 } else { bound };
        let verdict = match (in_a.is_finite(), in_b.is_finite()) {
            (false, false) => Verdict::NoFigures,
            (true, false) => Verdict::Worse,
            (false, true) => Verdict::Better,
            (true, true) => {
                let times = if metric.is_more_better {
                    worse_by(in_b, in_a)
                } else {
                    worse_by(in_a, in_b)
                };
                if times > bound {
                    Verdict::Worse
                } else if times < 1.0 / bound {
                    Verdict::Better
                } else {
                    Verdict::Within
                }
            }
        };
        let ratio = worse_by(in_a, in_b);
        let has_both = in_a.is_finite() && in_b.is_finite();
        Self {
            a,
            b,
            ratio: (has_both && ratio.is_finite()).then_some(ratio),
            verdict,
            ranges_overlap: a.overlaps(&b),
            deciding: [in_a, in_b],
            metric: *metric,
        }
    }

    /// Whether the median is another, but the runs of one side differ as much. Faults have no spread: none is allowed.
    fn is_within_the_spread(&self) -> bool {
        self.ranges_overlap && self.metric.rule != Rule::Fault
    }

    /// A figure, or the word for none.
    fn word(&self, value: f64) -> String {
        if value.is_finite() {
            shown(value)
        } else {
            self.metric.none().to_owned()
        }
    }

    /// What is to be said of it.
    fn words(&self) -> String {
        let words = match self.verdict {
            Verdict::NoFigures => return format!("{} in both: not compared", self.metric.none()),
            Verdict::Within => return String::new(),
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
        };
        let within = if self.is_within_the_spread() {
            ", within the spread"
        } else {
            ""
        };
        format!("{words}{within}")
    }

    fn line(&self) -> String {
        let Metric { name, unit, .. } = self.metric;
        let side = |side: &Spread| {
            format!(
                "{:>9} ({}..{})",
                self.word(side.median),
                self.word(side.min),
                self.word(side.max)
            )
        };
        let ratio = self.ratio.map_or("-".to_owned(), |it| format!("{it:.3}"));
        let line = format!(
            "  {name:<20} {:<28} {:<28} {ratio:>7}  {unit:<20} {}",
            side(&self.a),
            side(&self.b),
            self.words()
        );
        line.trim_end().to_owned()
    }
}

/// What is worse in one cell.
fn regressions(cell: &CellComparison) -> impl Iterator<Item = String> {
    let worse = cell.metrics.iter();
    worse
        .filter(|(_, one)| one.verdict == Verdict::Worse)
        .map(|(name, one)| {
            let times = one.ratio.map(|ratio| format!(", {ratio:.3} times"));
            let within = if one.is_within_the_spread() {
                "; within the spread"
            } else {
                ""
            };
            let [before, now] = one.deciding.map(|value| one.word(value));
            format!(
                "{name} with {}: {before} before, {now} now{}{within}",
                named(cell.cell),
                times.unwrap_or_default()
            )
        })
}

impl Comparison {
    /// For eyes.
    fn lines(&self) -> String {
        let Self { a, b, .. } = self;
        let mut lines = vec![
            format!("A: {} (version {})", a.path, a.version),
            format!("B: {} (version {})", b.path, b.version),
        ];
        for cell in &self.cells {
            let [in_a, in_b] = cell.samples;
            lines.push(format!(
                "{}: medians (min..max) of {in_a} in A and {in_b} in B",
                named(cell.cell)
            ));
            lines.push(format!(
                "  {:<20} {:<28} {:<28} {:>7}",
                "", "        A", "        B", "B/A"
            ));
            // In the order of the table, not of the alphabet.
            let in_order = METRICS.iter().filter_map(|it| cell.metrics.get(it.name));
            lines.extend(in_order.map(MetricComparison::line));
        }
        let metrics = || self.cells.iter().flat_map(|cell| cell.metrics.values());
        let is_nothing = |one: &&MetricComparison| one.verdict == Verdict::NoFigures;
        match metrics().filter(is_nothing).count() {
            0 => {}
            count => lines.push(format!(
                "{count} of {} metrics have no figure in either",
                metrics().count()
            )),
        }
        let regressions = self.regressions.iter();
        lines.extend(regressions.map(|regression| format!("regression: {regression}")));
        let count = match self.regressions.len() {
            0 => "no".to_owned(),
            count => count.to_string(),
        };
        lines.push(format!(
            "{count} regressions; allowed are medians {} % worse, and no faults more",
            self.max_regress_percent
        ));
        lines.join("\n")
    }
}

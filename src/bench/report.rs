//! A folder of results as one page that needs nothing else: no script, no font, nothing from anywhere.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::output::{Ending, Failure, PrintError, Printer};

use super::figures::{Distribution, Summary};
use super::plot::{self, COLOURS, Curve, Scale};
use super::results::{METRICS, Metric, Results, Rule, named, shown};
use super::run::CellRun;
use super::scenario::{Cell, Hosts, Scenario};
use super::whole;

/// What a report is told.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// The folder, or its `result.json`.
    pub results: PathBuf,
    /// The page; else `report.html` in the folder.
    pub out: Option<PathBuf>,
}

const STYLE: &str = include_str!("report.css");

/// What words and figures mean, for who has never seen them.
const LEGEND: &str = include_str!("report-legend.html");

/// Writes the page.
///
/// # Errors
/// [`Failure`] when the results cannot be read, or the page not written.
pub fn run(options: &ReportOptions) -> Result<Ending, Failure> {
    let results = Results::load(&options.results)?;
    let page = page(&results)?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => results.folder.join("report.html"),
    };
    let shown = out.display();
    whole::write(&out, page.as_bytes()).map_err(|error| whole::refused("--out", &out, &error))?;
    let mut printer = Printer::new(false);
    let printed = printer.print(&(), &shown.to_string());
    printed
        .and_then(|()| printer.flush())
        .or_else(PrintError::into_ending)?;
    Ok(Ending::Done)
}

/// Text from a file, which may hold anything, within a page.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => write!(f, "{char}")?,
            }
        }
        Ok(())
    }
}

fn page(results: &Results) -> Result<String, Failure> {
    let Scenario { name, why, .. } = &results.file.scenario;
    let (name, why) = (Escaped(name), Escaped(why));
    // The policy is for what escaping might have left over: a browser that knows it loads and runs nothing.
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>floorcast bench: {name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>floorcast bench: {name}</h1>\n<p>{why}</p>\n"
    );
    page += &faults(results);
    page += &overview(results);
    page += &plots(results)?;
    page += "<h2>Every cell</h2>\n";
    for cell in results.cells() {
        page += &table(results, cell);
    }
    page += &scenario(&results.file.scenario);
    page += &environment(results);
    page += LEGEND;
    page += "</body>\n</html>\n";
    Ok(page)
}

/// The one sentence that decides whether the rest matters.
fn faults(results: &Results) -> String {
    let total = |of: fn(&Summary) -> u64| results.summaries().map(of).sum::<u64>();
    let kinds = [
        (
            total(|it| it.missing.saturating_sub(it.away)),
            "missing, they never came",
        ),
        (total(|it| it.duplicates), "delivered twice"),
        (total(|it| it.out_of_order), "out of order"),
        (total(|it| it.altered), "altered"),
    ];
    let runs = results.file.runs.len();
    let told = kinds.iter().filter(|(count, _)| *count > 0);
    let told: Vec<_> = told
        .map(|&(count, kind)| format!("{} {kind}", shown(count as f64)))
        .collect();
    let unmeasured = results
        .cells()
        .into_iter()
        .filter(|&cell| results.summaries_of(cell).next().is_none());
    let unmeasured: String = unmeasured
        .map(|cell| {
            format!(
                "<p class=\"bad\">The cell of {} was not measured.</p>\n",
                named(cell)
            )
        })
        .collect();
    let verdict = match (told.is_empty(), runs) {
        (_, 0) => "<p class=\"bad\">There are no runs in this folder.</p>\n".to_owned(),
        (true, _) => format!(
            "<p class=\"good\">In {runs} runs no message was missing, delivered twice, out of order or altered.</p>\n"
        ),
        (false, _) => format!(
            "<p class=\"bad\">Messages over {runs} runs and all receivers: {}.</p>\n",
            told.join("; ")
        ),
    };
    let away = match total(|it| it.away) {
        0 => String::new(),
        count => format!(
            "<p class=\"soft\">Besides, {} were sent while a receiver that the scenario restarts was not there; in the latencies they never came.</p>\n",
            shown(count as f64)
        ),
    };
    verdict + &away + &unmeasured
}

/// A figure and the number itself, for programs; what never came in red.
fn figure(value: f64, metric: &Metric) -> String {
    if value.is_finite() {
        format!("<data value=\"{value}\">{}</data>", shown(value))
    } else if metric.is_latency() {
        "<b class=\"bad\">never</b>".to_owned()
    } else {
        "<b>none</b>".to_owned()
    }
}

/// All cells below each other.
fn overview(results: &Results) -> String {
    const COLUMNS: [&str; 5] = [
        "messages_per_s",
        "last_us.p50",
        "last_us.p99",
        "last_us.max",
        "missing",
    ];
    let columns = METRICS.iter().filter(|it| COLUMNS.contains(&it.name));
    let columns: Vec<_> = columns.collect();
    let mut html = "<h2>All cells, medians</h2>\n<div class=\"wide\"><table id=\"overview\">\n<thead><tr><th></th>".to_owned();
    for column in &columns {
        let Metric { label, unit, .. } = column;
        html += &format!("<th>{label} <small>{unit}</small></th>");
    }
    html += "</tr></thead>\n<tbody>\n";
    for cell in results.cells() {
        html += &format!("<tr><th>{}</th>", named(cell));
        for column in &columns {
            let spread = results.spread(cell, column);
            let is_bad = column.rule == Rule::Fault && spread.max > 0.0;
            let bad = if is_bad { " class=\"bad\"" } else { "" };
            // A loss in one run of many is in no median.
            let value = if is_bad { spread.max } else { spread.median };
            html += &format!("<td{bad}>{}</td>", figure(value, column));
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>\n<p class=\"soft\">Missing is the most of any run.</p>\n"
}

/// All figures of one cell.
fn table(results: &Results, cell: Cell) -> String {
    let Cell { receivers, loss } = cell;
    let runs = results.turns(cell).count();
    let errors = results.summaries_of(cell).map(|it| it.clock_error_us);
    let error = errors.fold(0.0, f64::max);
    let mut html = format!(
        "<h3>{}</h3>\n<p class=\"soft\">{runs} runs. Latencies are from when a message should have been sent, and unsure by the \
         error of the clocks, &plusmn; <data class=\"clock\" value=\"{error}\">{}</data> us.</p>\n\
         <div class=\"wide\"><table id=\"cell-{receivers}-{loss}\">\n\
         <thead><tr><th></th><th>median</th><th>min</th><th>max</th><th></th></tr></thead>\n<tbody>\n",
        named(cell),
        shown(error)
    );
    for metric in METRICS {
        let spread = results.spread(cell, metric);
        let is_bad = metric.rule == Rule::Fault && spread.max > 0.0;
        let bad = if is_bad { " class=\"bad\"" } else { "" };
        let Metric { name, label, .. } = metric;
        let values = [spread.median, spread.min, spread.max];
        let [median, min, max] = values.map(|value| figure(value, metric));
        let unit = if metric.is_latency() {
            format!("us &plusmn; {}", shown(error))
        } else if is_bad && *name == "missing" {
            "never came".to_owned()
        } else {
            metric.unit.to_owned()
        };
        html += &format!(
            "<tr{bad} data-metric=\"{name}\"><th>{label}</th><td>{median}</td><td>{min}</td><td>{max}</td><td class=\"unit\"><small>{unit}</small></td></tr>\n"
        );
    }
    html + "</tbody></table></div>\n"
}

/// Latency by percentile, a line for each cell.
fn plots(results: &Results) -> Result<String, Failure> {
    let mut html = "<h2>Latency of the last receiver, by percentile</h2>\n\
        <p>How long until so many of all messages had come to every receiver. Read upwards from 99 %: one message of a hundred \
        took longer. Each line is a cell: thick the run whose p99 is the median, thin the others. Both scales are logarithmic.</p>\n"
        .to_owned();
    if results.file.scenario.sources > 1 {
        html += "<p>Of the first source of several.</p>\n";
    }
    // As many lines in a plot as there are colours, and all losses of one number of receivers together.
    let losses = results.file.scenario.loss.len();
    let together = COLOURS.len() - COLOURS.len() % losses.clamp(1, COLOURS.len());
    let mut drawn = Vec::new();
    for (cell, colour) in results.cells().into_iter().zip((0..together).cycle()) {
        drawn.push((cell, curves(results, cell, colour)));
    }
    let all = drawn.iter().flat_map(|(_, (curves, _))| curves);
    let scale = Scale::of(all.map(|curve| &curve.distribution));
    for group in drawn.chunks_mut(together) {
        let mut lines = Vec::new();
        let mut keys = String::new();
        let mut words = String::new();
        for (at, (cell, (curves, lacking))) in group.iter_mut().enumerate() {
            let name = named(*cell);
            keys += &format!("<span class=\"key k{at}\">{name}</span>\n");
            let runs = curves.len();
            let nevers = curves.iter().filter_map(|it| it.distribution.never_from);
            let nevers: Vec<f64> = nevers.collect();
            if let Some(first) = nevers.iter().copied().reduce(f64::min) {
                words += &format!(
                    "<p class=\"bad\">{name}: in {} of {runs} runs the slowest messages never came everywhere; at worst one of every {}.</p>\n",
                    nevers.len(),
                    shown(first.round())
                );
            }
            for file in lacking {
                words += &format!(
                    "<p class=\"bad\">{name}: {} is not there, or no distribution.</p>\n",
                    Escaped(file)
                );
            }
            lines.append(curves);
        }
        let svg = plot::svg(&lines, scale, "Latency of the last receiver by percentile")?;
        html += &format!(
            "<figure>\n<figcaption>{keys}</figcaption>\n<div class=\"wide\">{svg}</div>\n{words}</figure>\n"
        );
    }
    Ok(html)
}

/// The distributions of one cell's runs, and the names of those that cannot be read.
fn curves(results: &Results, cell: Cell, colour: usize) -> (Vec<Curve>, Vec<String>) {
    let Cell { receivers, loss } = cell;
    let p99 = |run: &CellRun| {
        let first = run.sources.first();
        first.and_then(|it| it.last_us.p99).unwrap_or(f64::INFINITY)
    };
    let mut turns: Vec<_> = results.turns(cell).collect();
    turns.sort_by(|a, b| p99(a).total_cmp(&p99(b)));
    let median = turns.len().saturating_sub(1) / 2;
    let mut curves = Vec::new();
    let mut lacking = Vec::new();
    for (at, run) in turns.into_iter().enumerate() {
        let name = format!("samples-{receivers}-{loss}-{}.hgrm", run.turn);
        let text = fs::read_to_string(results.folder.join(&name)).unwrap_or_default();
        match Distribution::parse(&text) {
            Some(distribution) => curves.push(Curve {
                colour,
                is_median: at == median,
                distribution,
            }),
            None => lacking.push(name),
        }
    }
    (curves, lacking)
}

fn list(title: &str, rows: &[(&str, String)]) -> String {
    let mut html = format!("<h2>{title}</h2>\n<dl>\n");
    for (name, value) in rows {
        html += &format!("<dt>{name}</dt><dd>{}</dd>\n", Escaped(value));
    }
    html + "</dl>\n"
}

fn scenario(scenario: &Scenario) -> String {
    let number = |value: u64| shown(value as f64);
    let mut rows = vec![
        ("messages of each source", number(scenario.messages)),
        ("bytes of each", number(scenario.size as u64)),
        (
            "schedule",
            if scenario.rate == 0.0 {
                "none: as fast as every receiver takes them".to_owned()
            } else {
                format!(
                    "{} messages a second, {} at a time",
                    shown(scenario.rate),
                    scenario.burst
                )
            },
        ),
        ("sources", scenario.sources.to_string()),
        ("each cell is run", format!("{} times", scenario.repeat)),
        (
            "where",
            match scenario.hosts {
                Hosts::Loopback => "one host, over loopback",
                Hosts::Namespaces => "a network namespace for each process",
            }
            .to_owned(),
        ),
    ];
    if let Some(us) = scenario.slow_us {
        let text = format!("the first is busy for {} us with each message", number(us));
        rows.push(("receivers", text));
    }
    if scenario.restarting {
        rows.push((
            "one more receiver",
            "comes and goes all the time".to_owned(),
        ));
    }
    if let Some(after) = scenario.restart_after {
        let text = format!("stops with {} messages, and starts again", number(after));
        rows.push(("the first receiver", text));
    }
    if scenario.one_process {
        let threads = match scenario.threads {
            1 => String::new(),
            threads => format!(", spread over {threads} threads"),
        };
        rows.push((
            "processes",
            format!("all receivers of a source share one{threads}"),
        ));
    }
    list("What was measured", &rows)
}

fn environment(results: &Results) -> String {
    let all = |of: &dyn Fn(&Summary) -> Vec<String>| {
        let all: BTreeSet<_> = results.summaries().flat_map(of).collect();
        Vec::from_iter(all).join(", ")
    };
    let mebi = |bytes: u64| match bytes {
        0 => "not told".to_owned(),
        bytes => format!("{} MiB", shown(bytes as f64 / f64::from(1 << 20))),
    };
    let it = &results.file.environment;
    let granted = all(&|it| {
        let each = it.per_receiver.iter().map(|it| it.receive_buffer_bytes);
        each.map(|bytes| mebi(bytes as u64)).collect()
    });
    let rows = [
        ("system", it.system.clone()),
        ("kernel", it.kernel.clone()),
        ("processor", it.processor.clone()),
        ("processors", it.processors.to_string()),
        ("memory", mebi(it.memory_bytes)),
        ("version", it.version.clone()),
        ("build", it.build.clone()),
        ("security", all(&|it| vec![it.security.clone()])),
        ("io", all(&|it| vec![it.io.clone()])),
        ("idle", all(&|it| vec![it.idle.clone()])),
        ("receive buffers granted", granted),
        ("largest that may be", mebi(it.receive_buffer_bytes_max)),
        (
            "send buffers granted",
            all(&|it| vec![mebi(it.send_buffer_bytes as u64)]),
        ),
        ("seeds", seeds(results.summaries().map(|it| it.seed))),
    ];
    list("Where it was measured", &rows)
}

/// Numbers in order; those that follow each other as first to last.
fn seeds(seeds: impl Iterator<Item = u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for seed in BTreeSet::from_iter(seeds) {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(seed) => *last = seed,
            _ => ranges.push((seed, seed)),
        }
    }
    let told = ranges.into_iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first} to {last}")
        }
    });
    Vec::from_iter(told).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_seeds_are_short() {
        assert_eq!(
            Escaped("<b a=\"1\">&'").to_string(),
            "&lt;b a=&quot;1&quot;&gt;&amp;&#39;"
        );
        assert_eq!(seeds([3, 1, 2, 9, 2].into_iter()), "1 to 3, 9");
        assert_eq!(seeds([u64::MAX, 0].into_iter()), format!("0, {}", u64::MAX));
    }
}

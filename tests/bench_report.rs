//! What becomes of the results of a run: compared with others, and shown in a browser.
//!
//! `bench/small` is what `floorcast bench run` wrote on loopback (2,000 messages, two receivers, 0 and 5 % loss, three
//! times); copies of it are doctored so that it is known what must be found.

#![cfg(all(unix, feature = "app"))]

mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use process::{Ended, Lab, Running};

/// Goal: what is the same is not worse. Method: a folder against itself, and against a copy that differs in what may.
#[test]
fn a_result_is_no_worse_than_itself() {
    let copy = doctored(|result| {
        result["scenario"]["name"] = "other".into();
        result["scenario"]["why"] = "another reason".into();
        result["scenario"]["repeat"] = 9.into();
        result["environment"]["version"] = "9.9.9".into();
    });
    for other in [small(), copy.path().to_owned()] {
        let ended = compare(&small(), &other, &["--json"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let comparison: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(comparison["regressions"], json!([]));
        let cells = comparison["cells"].as_array().unwrap();
        assert_eq!(cells.len(), 2);
        for cell in cells {
            let metrics = cell["metrics"].as_object().unwrap();
            let mut names: Vec<_> = metrics.keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(
                names,
                [
                    "altered",
                    "cpu_us_per_message",
                    "duplicates",
                    "last_us.p50",
                    "last_us.p99",
                    "missing",
                    "out_of_order",
                    "wire_per_payload"
                ]
            );
            for metric in metrics.values() {
                let found = (&metric["ratio"], &metric["verdict"]);
                assert_eq!(found, (&json!(1.0), &json!("within")), "{cell}");
                assert_eq!(metric["a"], metric["b"]);
            }
        }
    }
    let ended = compare(&small(), &small(), &[]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.contains("no regressions"), "{}", ended.stdout);
    let file = compare(&small().join("result.json"), &small(), &[]);
    assert_eq!(file.code, Some(0), "{file:?}");
}

/// Goal: what is worse is found, named, and nothing else is. Method: one metric of all runs is a fifth worse, or never.
#[test]
fn what_is_worse_is_named() {
    let slower = doctored(|result| each(result, |it| scale(&mut it["last_us"]["p50"], 1.2)));
    let dearer = doctored(|result| each(result, |it| scale(&mut it["cpu_us_per_message"], 1.2)));
    let wider = doctored(|result| each(result, |it| scale(&mut it["wire_per_payload"], 1.2)));
    let never = doctored(|result| each(result, |it| it["last_us"]["p99"] = Value::Null));
    // One run of six: in no median.
    let missing = doctored(|result| result["runs"][2]["sources"][0]["missing"] = 1.into());
    let cases = [
        (&slower, "last_us.p50", "1.200 times"),
        (&dearer, "cpu_us_per_message", "1.200 times"),
        (&wider, "wire_per_payload", "1.200 times"),
        (&never, "last_us.p99", "before, never now"),
        (&missing, "missing", "0 before, 1 now"),
    ];
    for (worse, name, how) in cases {
        let ended = compare(&small(), worse.path(), &[]);
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        let told: Vec<_> = ended
            .stdout
            .lines()
            .filter(|line| line.starts_with("regression:"))
            .collect();
        assert!(!told.is_empty(), "{name}: {}", ended.stdout);
        for line in told {
            assert!(line.contains(name) && line.contains(how), "{line}");
        }
        let back = compare(worse.path(), &small(), &[]);
        assert_eq!(back.code, Some(0), "{name}: {back:?}");
        assert!(back.stdout.contains("better"), "{name}: {}", back.stdout);
    }
    for (bound, code) in [("25%", 0), ("25", 0), ("0", 1), ("19.9%", 1)] {
        let ended = compare(&small(), slower.path(), &["--max-regress", bound]);
        assert_eq!(ended.code, Some(code), "{bound}: {ended:?}");
    }
    let spread = compare(&small(), slower.path(), &["--json"]);
    let spread: Value = serde_json::from_str(&spread.stdout).unwrap();
    let metric = &spread["cells"][0]["metrics"]["last_us.p50"];
    assert_eq!(metric["verdict"], "worse");
    assert_eq!(metric["ranges_overlap"], true, "{metric}");
}

/// Goal: unpaced, throughput decides, and latency does not. Method: both copies say that they had no schedule.
#[test]
fn without_a_schedule_throughput_counts() {
    let unpaced = |times: f64| {
        doctored(move |result| {
            result["scenario"]["rate"] = 0.0.into();
            each(result, |it| {
                scale(&mut it["messages_per_s"], times);
                scale(&mut it["last_us"]["p50"], 3.0 - 2.0 * times);
            });
        })
    };
    let (before, slower) = (unpaced(1.0), unpaced(0.8));
    let ended = compare(before.path(), slower.path(), &["--json"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let comparison: Value = serde_json::from_str(&ended.stdout).unwrap();
    let regressions = comparison["regressions"].as_array().unwrap();
    assert_eq!(regressions.len(), 2);
    for regression in regressions {
        let regression = regression.as_str().unwrap();
        assert!(regression.starts_with("messages_per_s"), "{regression}");
    }
    assert_eq!(compare(slower.path(), before.path(), &[]).code, Some(0));
    let nothing = unpaced(0.0);
    let ended = compare(before.path(), nothing.path(), &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

/// Goal: nothing is not equal to nothing. Method: both never had a p99, and neither system measures processor time.
#[test]
fn figures_that_are_not_there_are_told() {
    let empty = doctored(|result| {
        each(result, |it| {
            it["last_us"]["p99"] = Value::Null;
            it["cpu_us_per_message"] = 0.0.into();
        });
    });
    let ended = compare(empty.path(), empty.path(), &["--json"]);
    let comparison: Value = serde_json::from_str(&ended.stdout).unwrap();
    for name in ["last_us.p99", "cpu_us_per_message"] {
        let metric = &comparison["cells"][1]["metrics"][name];
        let found = (&metric["verdict"], &metric["ratio"]);
        assert_eq!(found, (&json!("no_figures"), &Value::Null), "{metric}");
    }
    let ended = compare(empty.path(), empty.path(), &[]);
    for words in ["never in both", "none in both", "4 of 16 metrics"] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
}

/// Goal: only like is compared with like. Method: a copy that differs in one thing; the sentence names it and both values.
#[test]
fn unlike_runs_are_refused() {
    type Change = fn(&mut Value);
    let cases: &[(Change, &[&str])] = &[
        (
            |it| it["scenario"]["size"] = 512.into(),
            &["scenario.size", "256", "512"],
        ),
        (
            |it| it["scenario"]["slow_us"] = 50.into(),
            &["scenario.slow_us", "not set", "50"],
        ),
        (
            |it| it["environment"]["processor"] = "abacus".into(),
            &["environment.processor", "abacus"],
        ),
        (
            |it| it["environment"]["build"] = "release".into(),
            &["environment.build", "debug", "release"],
        ),
        (
            |it| each(it, |it| it["io"] = "pigeons".into()),
            &["io is", "pigeons"],
        ),
        (
            |it| each(it, |it| it["security"] = "keys".into()),
            &["security is open-lab", "keys"],
        ),
        (
            |it| each(it, |it| it["idle"] = "dreams".into()),
            &["idle is", "dreams"],
        ),
        (
            |it| it["scenario"]["threads"] = 2.into(),
            &["scenario.threads is 1", "2 in"],
        ),
        (
            |it| each(it, |it| it["threads"] = 2.into()),
            &["threads is 1", "2 in"],
        ),
        (
            |it| {
                let runs = it["runs"].as_array_mut().unwrap();
                runs.retain(|run| run["cell"]["loss"] != 5.0);
            },
            &[
                "2 receivers, 5 % loss",
                "measured 3 times",
                "not measured in",
            ],
        ),
        (|it| it["runs"] = json!([]), &["not measured"]),
        (|it| it["format"] = 2.into(), &["format 2", "format 1"]),
        (
            |it| it["scenario"] = "none".into(),
            &["is no result of bench run"],
        ),
    ];
    for (change, words) in cases {
        let copy = doctored(change);
        refused(&compare(&small(), copy.path(), &[]), words);
    }
    refused(
        &compare(&small(), Path::new("nowhere"), &[]),
        &["nowhere", "bench run --out"],
    );
    for bad in ["-1", "1001", "x", "10%%", "NaN", ""] {
        let ended = compare(&small(), &small(), &["--max-regress", bad]);
        refused(&ended, &["--max-regress", "0 to 1000 percent"]);
    }
}

/// Goal: the page says what `result.json` says. Method: its figures are read out of it and reckoned again.
#[test]
fn a_report_has_every_figure() {
    const MIB: f64 = 1_048_576.0;
    let page = report(&small());
    let result = read(&small());
    for (at, loss) in [(0.0, "0"), (5.0, "5")] {
        let (_, table) = page
            .split_once(&format!("id=\"cell-2-{loss}\""))
            .expect("a table for each cell");
        let (table, _) = table.split_once("</table>").unwrap();
        let runs = result["runs"].as_array().unwrap();
        let runs = runs.iter().filter(|run| run["cell"]["loss"] == at);
        let sources: Vec<_> = runs.map(|run| &run["sources"][0]).collect();
        assert_eq!(sources.len(), 3);
        let names = [
            "messages_per_s last_us.p50 last_us.p90 last_us.p99 last_us.p999 last_us.p9999 last_us.max",
            "receiver_us.p50 receiver_us.p99 late_us_max missing duplicates out_of_order altered repairs",
            "copies nacks wire_per_payload cpu_us_per_message usage.rss_bytes per_receiver.usage.rss_bytes",
        ];
        for name in names.join(" ").split(' ') {
            let of = |source: &&Value| match name.split_once("per_receiver.") {
                Some((_, rest)) => {
                    let each = source["per_receiver"].as_array().unwrap().iter();
                    each.map(|it| number(it, rest)).fold(0.0, f64::max) / MIB
                }
                None if name.ends_with("rss_bytes") => number(source, name) / MIB,
                None => number(source, name),
            };
            let mut values: Vec<f64> = sources.iter().map(of).collect();
            values.sort_unstable_by(f64::total_cmp);
            let (_, row) = table
                .split_once(&format!("data-metric=\"{name}\""))
                .unwrap_or_else(|| panic!("a row for {name}"));
            let (row, _) = row.split_once("</tr>").unwrap();
            assert_eq!(
                data(row),
                [values[1], values[0], values[2]],
                "{name}: {row}"
            );
        }
        let clock = sources.iter().map(|it| number(it, "clock_error_us"));
        let clock = format!("class=\"clock\" value=\"{}\"", clock.fold(0.0, f64::max));
        assert!(page.contains(&clock), "{clock}");
    }
    let environment = &result["environment"];
    let of_environment = ["system", "kernel", "processor", "version", "build"];
    let texts = of_environment.map(|name| environment[name].as_str().unwrap());
    let why = result["scenario"]["why"].as_str().unwrap();
    for text in texts
        .into_iter()
        .chain([why, "open-lab", "17 to 22", "4 MiB", "RFC 2432"])
    {
        assert!(page.contains(text), "{text}");
    }
}

/// Goal: the page is one file that a browser can take, whoever wrote the scenario. Method: tags are counted; a scenario
/// whose texts are tags leaves none.
#[test]
fn a_report_is_whole_and_takes_nothing_from_elsewhere() {
    let hostile = "</title><script>alert(1)</script><img src=x onerror='a()'>\"&";
    let copy = doctored(|result| {
        result["scenario"]["name"] = hostile.into();
        result["scenario"]["why"] = hostile.into();
        result["environment"]["processor"] = hostile.into();
        each(result, |it| it["io"] = hostile.into());
    });
    for page in [report(&small()), report(copy.path())] {
        balanced(&page);
        for load in [
            "http://", "https://", "url(", "@import", "<script", "<link", "<img", "<iframe",
        ] {
            assert!(!page.contains(load), "{load}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }
    let page = report(copy.path());
    assert_eq!(
        page.matches("&lt;script&gt;alert(1)&lt;/script&gt;")
            .count(),
        5
    );
}

/// Goal: what never came is seen. Method: a run that lacks messages, and its distribution; a distribution that is not there.
#[test]
fn a_report_shows_what_never_came() {
    let copy = doctored(|result| {
        let source = &mut result["runs"][0]["sources"][0];
        source["missing"] = 200.into();
        source["last_us"]["p99"] = Value::Null;
        source["last_us"]["max"] = Value::Null;
    });
    let hgrm = copy.path().join("samples-2-0-0.hgrm");
    let text = fs::read_to_string(&hgrm).unwrap();
    let text: Vec<_> = text
        .lines()
        .map(|line| match line.split_once(" 0.9") {
            Some((_, rest)) => format!("3602879701.896 0.9{rest}"),
            None => line.to_owned(),
        })
        .collect();
    fs::write(hgrm, text.join("\n")).unwrap();
    fs::remove_file(copy.path().join("samples-2-5-1.hgrm")).unwrap();
    let page = report(copy.path());
    balanced(&page);
    for words in [
        "200 missing, they never came",
        "<b class=\"bad\">never</b>",
        "<tr class=\"bad\" data-metric=\"missing\">",
        "in 1 of 3 runs the slowest messages never came everywhere",
        "samples-2-5-1.hgrm is not there",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let good = report(&small());
    assert!(good.contains("In 6 runs no message was missing") && !good.contains("never</b></td>"));
}

/// Goal: a page is written where it is said, or one sentence says why not. Method: default, `--out`, no such folder.
#[test]
fn a_report_goes_where_it_is_said() {
    let lab = Lab::new();
    let copy = doctored(|_| {});
    let folder = copy.path().to_str().unwrap();
    let ended = lab.run(&["bench", "report", folder]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(copy.path().join("report.html").is_file());
    assert!(ended.stdout.trim_end().ends_with("report.html"));
    refused(
        &lab.run(&["bench", "report", folder, "--out", "nowhere/at/all.html"]),
        &["nowhere/at/all.html"],
    );
    refused(
        &lab.run(&["bench", "report", "nowhere"]),
        &["nowhere", "bench run --out"],
    );
    if cfg!(target_os = "linux") {
        // A full disk is nobody's wrong usage, and another name would not mend it.
        let ended = lab.run(&["bench", "report", folder, "--out", "/dev/full"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let said = &ended.stderr;
        assert!(
            said.contains("/dev/full") && !said.contains("name a file"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// Goal: a browser takes the page as it is meant. Method: Chromium, where it is installed, writes down what it made of it.
#[test]
fn a_browser_shows_the_report() {
    let Some(chromium) = on_path("chromium") else {
        eprintln!("skipped: there is no chromium on PATH (on Debian: apt-get install chromium)");
        return;
    };
    let lab = Lab::new();
    let page = lab.file("report.html");
    fs::write(&page, report(&small())).unwrap();
    let profile = format!("--user-data-dir={}", lab.file("profile").display());
    let mut command = Command::new(chromium);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--disable-background-networking", "--disable-sync"])
        .args(["--disable-component-update", "--no-first-run", &profile])
        .args(["--dump-dom", &format!("file://{}", page.display())])
        .env("HOME", lab.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let dom = Running::start(command).end();
    assert_eq!(dom.code, Some(0), "{dom:?}");
    let dom = dom.stdout;
    assert_eq!(dom.matches("<table").count(), 3);
    assert_eq!(dom.matches("data-metric=\"last_us.p99\"").count(), 2);
    let (_, svg) = dom.split_once("<svg").expect("a plot");
    let (svg, _) = svg.split_once("</svg>").unwrap();
    for tick in ["50 %", "90 %", "99 %", "99.9 %"] {
        assert!(svg.contains(tick), "{tick}");
    }
    // Two cells, three runs each.
    assert!(svg.matches("<polyline").count() >= 6);
}

fn small() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/small")
}

fn read(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("result.json")).expect("a result");
    serde_json::from_str(&text).expect("JSON")
}

/// A copy of the small result in which something is different.
fn doctored(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(small()).expect("the small result") {
        let entry = entry.expect("a file of it");
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    let mut result = read(copy.path());
    change(&mut result);
    fs::write(copy.path().join("result.json"), result.to_string()).expect("a result");
    copy
}

/// Changes the summary of each run.
fn each(result: &mut Value, change: impl Fn(&mut Value)) {
    for run in result["runs"].as_array_mut().expect("runs") {
        change(&mut run["sources"][0]);
    }
}

fn scale(value: &mut Value, times: f64) {
    *value = (value.as_f64().expect("a number") * times).into();
}

fn compare(a: &Path, b: &Path, more: &[&str]) -> Ended {
    let paths = [a, b].map(|path| path.to_str().expect("UTF-8"));
    let args: Vec<_> = ["bench", "compare"]
        .into_iter()
        .chain(paths)
        .chain(more.iter().copied())
        .collect();
    Lab::new().run(&args)
}

/// The page of a folder.
fn report(folder: &Path) -> String {
    let lab = Lab::new();
    let folder = folder.to_str().expect("UTF-8");
    let ended = lab.run(&["bench", "report", folder, "--out", "page.html"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    fs::read_to_string(lab.file("page.html")).expect("a page")
}

fn refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
    }
}

/// `usage.cpu_s` of a summary.
fn number(of: &Value, path: &str) -> f64 {
    let value = path.split('.').fold(of, |value, name| &value[name]);
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{path} is {value}"))
}

/// The numbers in a part of a page.
fn data(row: &str) -> Vec<f64> {
    let parts = row.split("<data value=\"").skip(1);
    parts
        .filter_map(|part| part.split_once('"')?.0.parse().ok())
        .collect()
}

/// Every tag that is opened is closed, the last one first.
fn balanced(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("<{tag}"));
        let name = tag.split([' ', '\n']).next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') || ["meta", "!doctype"].contains(&name) => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, [""; 0]);
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

//! Goal: what repair costs and how long it takes is on record, by size of the floor, loss and pattern of loss, beside what
//! theory says it must cost; and what one loss after another that is common to all costs, since the first ones teach the
//! source what it then spares the floor. A change that moves a figure shows as a difference of a text file. Method: each
//! cell is a `sim::Trial` in simulated time, so the figures are the same on every machine; `tests/golden/*.txt` hold them.
//!
//! `FLOORCAST_GOLDEN=write cargo test --test golden` accepts what was measured.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use floorcast::proto::{Backoff, Fec, Tuning};
use floorcast::sim::{CommonLoss, Figures, Latencies, NEVER_US, Pattern, Trial};
use floorcast::wire::Lane;

/// One table: a file of its name.
struct Table {
    name: &'static str,
    title: &'static str,
    /// What is sent, and how both ends are configured; the cell fills in receivers, messages, pattern and loss.
    trial: fn() -> Trial,
}

const TABLES: &[Table] = &[
    Table {
        name: "routine",
        title: "300 byte messages on the routine lane, one every 100 us, recommended configuration",
        trial: || Trial::new(0, 0, SEED),
    },
    Table {
        name: "without_copies",
        title: "the same without copies: everything lost has to be asked for; compare without_scouts",
        trial: without_copies,
    },
    Table {
        name: "without_scouts",
        title: "the same without copies and without scouts: adaptive back-off alone",
        trial: || {
            tuned(Tuning {
                scouts: 0,
                copies: false,
                ..Tuning::RECOMMENDED
            })
        },
    },
    Table {
        name: "bulk",
        title: "1,330 byte messages on the bulk lane, one every 100 us, recommended configuration: parity over blocks of 64",
        trial: || Trial {
            lane: Lane::Bulk,
            bytes: 1_330,
            ..Trial::new(0, 0, SEED)
        },
    },
    Table {
        name: "constants_of_aeron",
        title: "this machine with the constants of Aeron's C driver (back-off 10 ms with G = 10, one gap at a time, heartbeat \
                100 ms, linger 10 ms, repairs by multicast), routine lane as above; not Aeron itself",
        trial: || {
            tuned(Tuning {
                backoff: Backoff::Fixed(Duration::from_millis(10)),
                group_size: Some(10),
                heartbeat_first_ns: 100_000_000,
                hold_off_min_ns: 10_000_000,
                retry_min_ns: 10_000_000,
                gaps_per_nack: 1,
                ..OTHERS
            })
        },
    },
    Table {
        name: "constants_of_norm",
        title: "this machine with the constants of NORM at its floor (GRTT 1 ms, K = 4, G = 1,000, aggregation 5 ms, flush \
                2 ms, hold-off 1 ms, repairs by multicast), routine lane as above; not NORM itself",
        trial: || {
            tuned(Tuning {
                backoff: Backoff::Fixed(Duration::from_millis(4)),
                group_size: Some(1_000),
                heartbeat_first_ns: 2_000_000,
                aggregation_ns: 5_000_000,
                hold_off_min_ns: 1_000_000,
                retry_min_ns: 6_000_000,
                ..OTHERS
            })
        },
    },
];

/// What the others do not have.
const OTHERS: Tuning = Tuning {
    scouts: 0,
    copies: false,
    is_multicast_only: true,
    fec: Fec::Off,
    ..Tuning::RECOMMENDED
};

/// The routine trial, both ends tuned so.
fn tuned(tuning: Tuning) -> Trial {
    let mut trial = Trial::new(0, 0, SEED);
    trial.source.tuning = tuning;
    trial.receiver.tuning = tuning;
    trial
}

fn without_copies() -> Trial {
    tuned(Tuning {
        copies: false,
        ..Tuning::RECOMMENDED
    })
}

const SEED: u64 = 1;
const RECEIVERS: [usize; 6] = [1, 10, 100, 500, 1_000, 5_000];
/// In percent.
const LOSSES: [f64; 4] = [0.01, 0.1, 1.0, 5.0];
const PATTERNS: [Pattern; 3] = [Pattern::Independent, Pattern::Common, Pattern::Bursty];
/// Deliveries in a cell, within the bounds of `messages`: 280 million datagrams in all tables, two and a half minutes on two
/// cores that nobody else uses.
const DELIVERIES: u64 = 100_000;
/// So many common losses are evenly spaced in a cell at least: enough for the first ones not to be all of them, and 1.6 ms
/// apart in the shortest cell, which is longer than most repairs take.
const COMMON_MIN: u64 = 12;
/// Two cells at a time: 5,000 stations fill the caches of a core.
const THREADS: usize = 2;

const ACCEPT: &str = "FLOORCAST_GOLDEN=write cargo test --test golden";

/// One row.
#[derive(Clone, Copy)]
struct Cell {
    receivers: usize,
    loss_percent: f64,
    /// `None` without loss.
    pattern: Option<Pattern>,
}

#[test]
fn tables_are_as_they_were() {
    let tables = TABLES.iter().map(|table| (table.name, table.run()));
    let differences: String = tables.map(|(name, text)| compared(name, &text)).collect();
    assert_accepted(&differences);
}

#[test]
fn adaptation_is_as_it_was() {
    assert_accepted(&compared("adaptation", &adaptation()));
}

/// Where the table that was measured differs from the one on record; nowhere, once it is accepted.
fn compared(name: &str, new: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "golden"]
        .iter()
        .collect();
    let path = path.join(name).with_extension("txt");
    if std::env::var("FLOORCAST_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, new).expect("tests/golden can be written");
        return String::new();
    }
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    differing(name, &old, new)
}

#[track_caller]
fn assert_accepted(differences: &str) {
    assert!(
        differences.is_empty(),
        "{differences}\nTo accept what was measured: {ACCEPT}"
    );
}

/// The lines in which two texts differ, place by place.
fn differing(name: &str, old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let mut differing = String::new();
    for at in 0..old.len().max(new.len()) {
        let (old, new) = (old.get(at), new.get(at));
        if old != new {
            let line = |line: Option<&&str>| line.map_or("(no line)".to_owned(), |&it| it.into());
            let _ = writeln!(differing, "{name}.txt line {}:", at + 1);
            let _ = writeln!(differing, "  old {}\n  new {}", line(old), line(new));
        }
    }
    differing
}

impl Table {
    /// Runs every cell and writes the table down.
    fn run(&self) -> String {
        let cells = cells();
        let datagrams = AtomicU64::new(0);
        let rows = in_parallel(cells.len(), |at| self.row(cells[at], &datagrams));
        println!("{}: {datagrams:?} datagrams received", self.name);
        let mut text = self.header();
        for (at, row) in rows.iter().enumerate() {
            if at > 0 && cells[at].receivers != cells[at - 1].receivers {
                text.push('\n');
            }
            text.push_str(row);
        }
        text
    }

    fn header(&self) -> String {
        format!(
            "{}: {}.\n{LEGEND}\nAccept a change with: {ACCEPT}\n\n{GROUPS}\n{COLUMNS}\n",
            self.name, self.title
        )
    }

    fn row(&self, cell: Cell, datagrams: &AtomicU64) -> String {
        let trial = Trial {
            receivers: cell.receivers,
            messages: messages(cell.receivers),
            pattern: cell.pattern.unwrap_or(Pattern::Independent),
            loss: cell.loss_percent / 100.0,
            common_min: match cell.pattern {
                Some(Pattern::Common) => COMMON_MIN,
                _ => 0,
            },
            ..(self.trial)()
        };
        let figures = trial.run();
        datagrams.fetch_add(figures.datagrams, Ordering::Relaxed);
        assert_eq!(figures.violations, [""; 0], "{trial:?}");
        let pattern = cell.pattern.map_or("none", Pattern::as_str);
        let row = format!(
            "{:>5} {:>5} {:<11} {:>5} | {} | {} | {} | {}",
            cell.receivers,
            cell.loss_percent,
            pattern,
            figures.messages,
            costs(&figures),
            latencies(&figures.repair),
            latencies(&figures.last),
            theory(cell),
        );
        format!("{}\n", row.trim_end())
    }
}

/// All that `run` gives for numbers below `count`, in order; the last ones are the largest, and are begun first.
fn in_parallel(count: usize, run: impl Fn(usize) -> String + Sync) -> Vec<String> {
    let results = Mutex::new(vec![String::new(); count]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let taken = next.fetch_add(1, Ordering::Relaxed);
                    let Some(at) = count.checked_sub(taken + 1) else {
                        return;
                    };
                    let result = run(at);
                    results.lock().expect("none panicked")[at] = result;
                }
            });
        }
    });
    results.into_inner().expect("none panicked")
}

const LEGEND: &str = "\
One source and R receivers on a star of 25 us cables (50 us one way, 100 us there and back), in simulated time, seed 1.
M messages count in a cell, one every 100 us. Before them the cables are whole: for 2 s the receivers are measured; then,
  where there are copies, 64 messages of the same stream use up the 16 KiB of them that may go out at once. More messages
  follow until those that count have come.
loss%: of each datagram that goes down, repairs and heartbeats too. independent: each receiver by itself; common: all
  together, on the source's cable; bursty: each receiver by itself, 8 datagrams in a row on average. A common cell has 12
  events at least: where chance has brought fewer, the next message is lost, evenly spaced; its loss% is then less than
  its events. NACKs and reports on their way up are not lost.
event: a datagram of new data that at least one receiver lost; losers: receivers that lost it.
nacks, mcast, ucast, shards: NACKs that reached the source, segments repaired by multicast and by unicast, parity shards
  (asked for or not), each for one event: a mean of the first common losses, which find no back-off, and of later ones;
  adaptation.txt tells them apart. Segments sent again unasked (copies) count in sent.
sent: bytes that the source sent, whatever for, for each byte of the datagrams that carried new data.
unasked: messages that all receivers have and no NACK named, percent. missing: messages not delivered, over all receivers.
repair: from when a lost number would have arrived until its message was delivered, each number and receiver a sample.
  last: from when a message was published until the last receiver had it, each message a sample. Both in us, nearest
  rank, missing ones as never; p99 of 100 samples or more, p99.9 of 1,000 or more, else -.
theory: nobody: P(nobody loses a datagram), percent; arq: transmissions of a datagram until all have it; fec32, fec64: the
  same for ideal parity over blocks of 32 and 64. Of loss%, without losses that were added. Bursty: nobody as for
  independent; no formula for the rest.";
const GROUPS: &str = "                              |             for each event              | sent per   unasked       | repair latency us             | last-receiver latency us      | theory";
const COLUMNS: &str = "    R loss% pattern         M | losers  nacks  mcast  ucast shards events |   needed         % missing |   p50     p99   p99.9     max |   p50     p99   p99.9     max | nobody%   arq fec32 fec64";

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for receivers in RECEIVERS {
        cells.push(Cell {
            receivers,
            loss_percent: 0.0,
            pattern: None,
        });
        for loss_percent in LOSSES {
            cells.extend(PATTERNS.map(|pattern| Cell {
                receivers,
                loss_percent,
                pattern: Some(pattern),
            }));
        }
    }
    cells
}

fn messages(receivers: usize) -> u64 {
    (DELIVERIES / receivers as u64).clamp(200, 10_000)
}

fn costs(figures: &Figures) -> String {
    let each = |count: u64| match figures.events {
        0 => format!("{:>6}", "-"),
        events => {
            let mean = count as f64 / events as f64;
            format!("{mean:>6.*}", if mean < 1_000.0 { 2 } else { 0 })
        }
    };
    let sent = figures.bytes_sent as f64 / figures.bytes_needed as f64;
    let unasked = figures.unasked as f64 * 100.0 / figures.messages as f64;
    format!(
        "{} {} {} {} {} {:>6} | {sent:>8.3} {unasked:>9.2} {:>7}",
        each(figures.losers),
        each(figures.nacks),
        each(figures.repairs_multicast),
        each(figures.repairs_unicast),
        each(figures.shards),
        figures.events,
        figures.missing,
    )
}

fn latencies(latencies: &Latencies) -> String {
    // Of fewer samples the rank would be their greatest, or nearly.
    let ranks = [(500, 1), (990, 100), (999, 1_000), (1_000, 1)];
    let ranks = ranks.map(|(rank, samples_min)| match latencies.rank_us(rank) {
        Some(us) if latencies.len() >= samples_min => micros(us),
        _ => "-".to_owned(),
    });
    format!(
        "{:>5} {:>7} {:>7} {:>7}",
        ranks[0], ranks[1], ranks[2], ranks[3]
    )
}

fn micros(us: u64) -> String {
    match us {
        NEVER_US => "never".to_owned(),
        us => us.to_string(),
    }
}

fn theory(cell: Cell) -> String {
    let loss = cell.loss_percent / 100.0;
    let losers = match cell.pattern {
        Some(Pattern::Common) => 1,
        _ => cell.receivers,
    };
    let nobody = nobody_loses(loss, losers) * 100.0;
    if cell.pattern == Some(Pattern::Bursty) {
        return format!("{nobody:>7.2} {:>5} {:>5} {:>5}", "-", "-", "-");
    }
    let arq = arq_transmissions(loss, losers);
    let [fec32, fec64] = [32, 64].map(|k| fec_transmissions(k, loss, losers));
    format!("{nobody:>7.2} {arq:>5.3} {fec32:>5.3} {fec64:>5.3}")
}

/// The probability that none of `receivers` loses a datagram.
fn nobody_loses(loss: f64, receivers: usize) -> f64 {
    all(1.0 - loss, receivers)
}

/// How often a datagram is sent, on average, until each of `receivers` has it: the sum over i of 1 - (1 - p^i)^R.
fn arq_transmissions(loss: f64, receivers: usize) -> f64 {
    let still_missing = |i: i32| 1.0 - all(1.0 - loss.powi(i), receivers);
    // Without loss 0^0 is 1: the first transmission is always needed.
    let terms = (0..).map(still_missing).take_while(|&term| term > 1e-9);
    terms.sum()
}

/// How often a datagram is sent, on average, where any `block` of those sent for a block tell all of it, until each of
/// `receivers` has it: E[N] / k with P(N <= n) = P(k of n arrive)^R.
fn fec_transmissions(block: u32, loss: f64, receivers: usize) -> f64 {
    let k = f64::from(block);
    // That exactly so many are lost before the k-th arrives: the negative binomial distribution.
    let mut exactly = (1.0 - loss).powf(k);
    let mut at_most = exactly;
    let (mut extra, mut lost) = (0.0, 0.0);
    loop {
        let more_needed = 1.0 - all(at_most.min(1.0), receivers);
        if more_needed < 1e-9 {
            return (k + extra) / k;
        }
        extra += more_needed;
        exactly *= loss * (k + lost) / (lost + 1.0);
        lost += 1.0;
        at_most += exactly;
    }
}

/// `probability` to the power of `receivers`.
fn all(probability: f64, receivers: usize) -> f64 {
    probability.powf(receivers as f64)
}

/// What is between two common losses.
struct Between {
    interval: Duration,
    /// Messages of which the last is lost.
    messages: u64,
}

const BETWEEN: [Between; 3] = [
    Between {
        interval: Duration::from_micros(100),
        messages: 60,
    },
    Between {
        interval: Duration::from_secs(1),
        messages: 1,
    },
    Between {
        interval: Duration::from_secs(30),
        messages: 1,
    },
];
const ADAPTATION_RECEIVERS: [usize; 4] = [10, 100, 500, 5_000];
/// In percent, of each receiver by itself.
const BACKGROUNDS: [f64; 3] = [0.0, 0.1, 1.0];

const ADAPTATION_LEGEND: &str = "\
adaptation: what each of twelve common losses in a row costs, and how long it takes. The first find no back-off; what they
  teach the source it then spares the floor, and what it has forgotten by the next one it does not.
One source and R receivers on the same floor as in the other tables: 50 us one way, seed 1. 300 byte messages on the
  routine lane, recommended configuration, but without copies: everything lost has to be asked for.
loss: the first, second, ... message that is lost on the source's own cable, by all receivers.
back%: beside that each receiver loses so much of what goes down by itself: data, repairs and heartbeats.
stream: 60 messages, one every 100 us, of which the last is lost; no silence. 1 s, 30 s: nothing but heartbeats for so long
  after each, and no message that is not lost; after silence a heartbeat tells of it, 0.25 ms behind it.
nacks: NACKs that named it. mcast, ucast: how often it was repaired by multicast and by unicast.
last: from when it would have arrived until the last receiver had it, us.";
const ADAPTATION_GROUPS: &str =
    "                 | stream                       | 1 s                          | 30 s";
const ADAPTATION_COLUMNS: &str = "    R back% loss | nacks mcast ucast       last | nacks mcast ucast       last | nacks mcast ucast       last";

/// The whole table of that name.
fn adaptation() -> String {
    let cases: Vec<_> = ADAPTATION_RECEIVERS
        .into_iter()
        .flat_map(|receivers| BACKGROUNDS.map(|background| (receivers, background)))
        .collect();
    let datagrams = AtomicU64::new(0);
    let blocks = in_parallel(cases.len(), |at| adaptation_block(cases[at], &datagrams));
    println!("adaptation: {datagrams:?} datagrams received");
    format!(
        "{ADAPTATION_LEGEND}\nAccept a change with: {ACCEPT}\n\n{ADAPTATION_GROUPS}\n{ADAPTATION_COLUMNS}\n{}",
        blocks.join("\n")
    )
}

/// A row for each loss.
fn adaptation_block((receivers, background): (usize, f64), datagrams: &AtomicU64) -> String {
    let losses = BETWEEN.map(|between| {
        let trial = Trial {
            receivers,
            messages: COMMON_MIN * between.messages,
            interval: between.interval,
            loss: background / 100.0,
            common_min: COMMON_MIN,
            ..without_copies()
        };
        let figures = trial.run();
        datagrams.fetch_add(figures.datagrams, Ordering::Relaxed);
        assert_eq!(figures.violations, [""; 0], "{trial:?}");
        assert_eq!(figures.common.len() as u64, COMMON_MIN, "{trial:?}");
        figures.common
    });
    let mut rows = String::new();
    for at in 0..losses[0].len() {
        let columns = losses
            .each_ref()
            .map(|losses| adaptation_columns(losses[at]));
        let [stream, short, long] = columns;
        let loss = at + 1;
        let _ = writeln!(
            rows,
            "{receivers:>5} {background:>5} {loss:>4} | {stream} | {short} | {long}"
        );
    }
    rows
}

fn adaptation_columns(loss: CommonLoss) -> String {
    format!(
        "{:>5} {:>5} {:>5} {:>10}",
        loss.nacks,
        loss.repairs_multicast,
        loss.repairs_unicast,
        micros(loss.last_us)
    )
}

mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(got: f64, expected: f64, within: f64) {
        assert!(
            (got - expected).abs() < within,
            "{got}, expected {expected}"
        );
    }

    #[test]
    fn the_theory_gives_the_known_values() {
        assert_near(nobody_loses(0.001, 500), 0.606, 0.0005);
        assert_near(arq_transmissions(0.01, 500), 2.043, 0.0005);
        assert_near(arq_transmissions(0.001, 100), 1.095, 0.0005);
        assert_near(arq_transmissions(0.05, 1), 1.0 / 0.95, 1e-6);
        assert_near(fec_transmissions(32, 0.01, 500), 1.097, 0.0005);
        assert_near(fec_transmissions(64, 0.05, 1_000), 1.173, 0.0005);
        assert_near(fec_transmissions(8, 0.01, 100), 1.163, 0.0005);
        for theory in [arq_transmissions(0.0, 10), fec_transmissions(32, 0.0, 10)] {
            assert_near(theory, 1.0, 1e-9);
        }
    }

    #[test]
    fn a_difference_is_told_by_line() {
        assert_eq!(differing("x", "a\nb\n", "a\nb\n"), "");
        let told = differing("x", "a\nb\n", "a\nc\nd\n");
        let expected = "x.txt line 2:\n  old b\n  new c\nx.txt line 3:\n  old (no line)\n  new d\n";
        assert_eq!(told, expected);
    }
}

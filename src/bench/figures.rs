//! What a run comes to. What never came counts as a latency without end: it is in every rank, and shows in those that it
//! reaches.

use std::collections::BTreeMap;

use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use serde::{Deserialize, Serialize};

use super::control::NEVER;
use super::usage::Usage;

/// Bytes of Ethernet, IPv4 and UDP headers around a datagram; preamble, gap and checksum of the frame are not counted.
const HEADERS_BYTES: u64 = 14 + 20 + 8;

/// A latency distribution, microseconds, by nearest rank; `None` (`null` in JSON) stands for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Samples, those that never came included.
    pub count: u64,
    /// Half are at most this.
    pub p50: Option<f64>,
    /// Nine of ten.
    pub p90: Option<f64>,
    /// 99 of a hundred.
    pub p99: Option<f64>,
    /// 999 of a thousand.
    pub p999: Option<f64>,
    /// 9,999 of ten thousand.
    pub p9999: Option<f64>,
    /// All.
    pub max: Option<f64>,
}

impl Percentiles {
    /// Of latencies in nanoseconds, which are put in order.
    pub(super) fn of(nanos: &mut [u64]) -> Self {
        nanos.sort_unstable();
        let rank = |of_ten_thousand: usize| {
            let rank = (nanos.len() * of_ten_thousand).div_ceil(10_000).max(1);
            let value = *nanos.get(rank - 1)?;
            (value != NEVER).then_some(value as f64 / 1_000.0)
        };
        Self {
            count: nanos.len() as u64,
            p50: rank(5_000),
            p90: rank(9_000),
            p99: rank(9_900),
            p999: rank(9_990),
            p9999: rank(9_999),
            max: rank(10_000),
        }
    }
}

/// What one receiver has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReceiverFigures {
    /// Its name.
    pub name: String,
    /// Why it was not there at the end, where it was not: what came to it is not known, and counts as missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// Messages that it has.
    pub received: u64,
    /// Messages that it has not.
    pub missing: u64,
    /// How often it stopped and started again.
    #[serde(default)]
    pub restarts: u64,
    /// Of those that it has not: sent after its one life's last message and before the other's first.
    #[serde(default)]
    pub away: u64,
    /// Messages that it was given twice.
    pub duplicates: u64,
    /// Messages that came before one that was sent earlier.
    pub out_of_order: u64,
    /// Messages that differ from what was sent.
    pub altered: u64,
    /// From when a message should have been sent until it was here.
    pub latency_us: Percentiles,
    /// Messages that came before they were sent, by two clocks that are not quite together: their latency counts as 0.
    #[serde(default)]
    pub below_zero: u64,
    /// Its clock's error against the source's, microseconds at most.
    pub clock_error_us: f64,
    /// What it used during the run.
    pub usage: Usage,
    /// What its engine counted.
    pub stats: super::control::ReceiverStats,
    /// Receive buffer granted, bytes.
    pub receive_buffer_bytes: usize,
    /// Threads that the receivers of its process are spread over.
    #[serde(default = "one")]
    pub threads: usize,
}

/// Results from before a process could have more say nothing of it.
const fn one() -> usize {
    1
}

/// What a run comes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// `summary`.
    pub event: String,
    /// What was to be done.
    pub messages: u64,
    /// Bytes of a message.
    pub size: usize,
    /// Messages a second on schedule; 0: as fast as all take them.
    pub rate: f64,
    /// How many receivers.
    pub receivers: usize,
    /// Messages sent.
    pub sent: u64,
    /// Messages that each receiver has, by name.
    pub received: BTreeMap<String, u64>,
    /// Receivers that were not there at the end: all their messages are missing, and what they used is in no cost.
    #[serde(default)]
    pub left: Vec<String>,
    /// Messages that a receiver has not, over all.
    pub missing: u64,
    /// Of these, over all: sent while a receiver that was told to stop and start again was not there.
    #[serde(default)]
    pub away: u64,
    /// Messages that a receiver was given twice, over all.
    pub duplicates: u64,
    /// Messages that came before one that was sent earlier, over all.
    pub out_of_order: u64,
    /// Messages that came altered, over all.
    pub altered: u64,
    /// Messages that came before they were sent, over all: clocks are no better than `clock_error_us`. They count as 0.
    #[serde(default)]
    pub below_zero: u64,
    /// From the intended send time to each receiver, all together.
    pub receiver_us: Percentiles,
    /// From the intended send time to the last receiver.
    pub last_us: Percentiles,
    /// The furthest that the source was behind its schedule, microseconds: part of every latency.
    pub late_us_max: f64,
    /// From the first send to the last arrival, seconds.
    pub seconds: f64,
    /// Messages a second that every receiver had.
    pub messages_per_s: f64,
    /// Payload bytes a second that every receiver had.
    pub bytes_per_s: f64,
    /// Datagrams that the source sent.
    pub datagrams: u64,
    /// Segments sent again in answer to NACKs, and parity.
    pub repairs: u64,
    /// Segments sent again unasked.
    pub copies: u64,
    /// NACKs that reached the source.
    pub nacks: u64,
    /// Bytes on the source's cable, with Ethernet, IPv4 and UDP headers, for each byte of payload.
    pub wire_per_payload: f64,
    /// What the source used during the run.
    pub usage: Usage,
    /// Processor time of the source and all receivers, microseconds for each message.
    pub cpu_us_per_message: f64,
    /// What each receiver has.
    pub per_receiver: Vec<ReceiverFigures>,
    /// The largest error of a receiver's clock, microseconds: every latency is that much unsure.
    pub clock_error_us: f64,
    /// `open-lab`: nothing is authenticated or encrypted.
    pub security: String,
    /// How datagrams went to and from the system.
    pub io: String,
    /// Datagrams of the source that went as part of a train.
    pub in_trains: u64,
    /// Threads that the receivers of a process are spread over; the most of any.
    #[serde(default = "one")]
    pub threads: usize,
    /// How the source waited.
    pub idle: String,
    /// Send buffer granted, bytes.
    pub send_buffer_bytes: usize,
    /// The kernel.
    pub kernel: String,
    /// This program's version.
    pub version: String,
    /// Decides what messages are filled with.
    pub seed: u64,
}

/// What the source did.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// For each message when it was, or should have been, sent; by the source's clock, nanoseconds.
    pub(super) intended: Vec<u64>,
    /// The furthest behind schedule.
    pub(super) late_ns_max: u64,
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    pub(super) repairs: u64,
    pub(super) copies: u64,
    pub(super) nacks: u64,
    pub(super) usage: Usage,
}

/// When everything came to one receiver, by the source's clock, and what it is.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) arrivals: Vec<u64>,
    pub(super) figures: ReceiverFigures,
}

/// For each message, the nanoseconds until each receiver had it, in the receivers' order, and until the last had it.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    pub(super) each: Vec<Vec<u64>>,
    pub(super) last: Vec<u64>,
    /// How many each receiver had before they were sent.
    below_zero: Vec<u64>,
}

impl Samples {
    /// A message that came before it was sent, by two clocks that are not quite together, took no time, and is counted.
    pub(super) fn of(intended: &[u64], came: &[Came]) -> Self {
        let mut last = vec![0; intended.len()];
        let mut each = Vec::with_capacity(came.len());
        let mut below_zero = Vec::with_capacity(came.len());
        for receiver in came {
            let mut took = Vec::with_capacity(intended.len());
            let mut below = 0;
            for (at, &due) in intended.iter().enumerate() {
                let nanos = match receiver.arrivals.get(at) {
                    None | Some(&NEVER) => NEVER,
                    Some(&arrival) => {
                        below += u64::from(arrival < due);
                        arrival.saturating_sub(due)
                    }
                };
                last[at] = nanos.max(last[at]);
                took.push(nanos);
            }
            each.push(took);
            below_zero.push(below);
        }
        Self {
            each,
            last,
            below_zero,
        }
    }
}

/// What is said of the circumstances.
#[derive(Clone, Debug)]
pub(super) struct Circumstances {
    /// How messages were protected.
    pub(super) security: String,
    pub(super) size: usize,
    pub(super) rate: f64,
    pub(super) io: String,
    pub(super) in_trains: u64,
    pub(super) idle: String,
    pub(super) send_buffer_bytes: usize,
    pub(super) seed: u64,
}

pub(super) fn summary(
    sent: &Sent,
    mut came: Vec<Came>,
    samples: Samples,
    circumstances: Circumstances,
) -> Summary {
    let messages = sent.intended.len() as u64;
    let taken = samples.each.iter().zip(&samples.below_zero);
    for (receiver, (took, &below_zero)) in came.iter_mut().zip(taken) {
        let figures = &mut receiver.figures;
        figures.below_zero = below_zero;
        figures.missing = took.iter().filter(|&&nanos| nanos == NEVER).count() as u64;
        figures.received = messages - figures.missing;
        figures.latency_us = Percentiles::of(&mut took.clone());
    }
    let (seconds, messages_per_s) = pace(sent, &came, &samples);
    let payload = (messages * circumstances.size as u64) as f64;
    let wire = (sent.bytes + sent.datagrams * HEADERS_BYTES) as f64;
    let per_receiver: Vec<_> = came.into_iter().map(|came| came.figures).collect();
    let total = |of: fn(&ReceiverFigures) -> u64| per_receiver.iter().map(of).sum::<u64>();
    let cpu_s = sent.usage.cpu_s + per_receiver.iter().map(|one| one.usage.cpu_s).sum::<f64>();
    let error = per_receiver.iter().map(|one| one.clock_error_us);
    let threads = per_receiver.iter().map(|one| one.threads);
    Summary {
        event: "summary".to_owned(),
        messages,
        size: circumstances.size,
        rate: circumstances.rate,
        receivers: per_receiver.len(),
        sent: messages,
        received: per_receiver
            .iter()
            .map(|one| (one.name.clone(), one.received))
            .collect(),
        left: left(&per_receiver),
        missing: total(|one| one.missing),
        away: total(|one| one.away),
        duplicates: total(|one| one.duplicates),
        out_of_order: total(|one| one.out_of_order),
        altered: total(|one| one.altered),
        below_zero: total(|one| one.below_zero),
        receiver_us: Percentiles::of(&mut samples.each.concat()),
        last_us: Percentiles::of(&mut samples.last.clone()),
        late_us_max: sent.late_ns_max as f64 / 1_000.0,
        seconds,
        messages_per_s,
        bytes_per_s: messages_per_s * circumstances.size as f64,
        datagrams: sent.datagrams,
        repairs: sent.repairs,
        copies: sent.copies,
        nacks: sent.nacks,
        wire_per_payload: wire / payload,
        usage: sent.usage,
        cpu_us_per_message: cpu_s * 1e6 / messages as f64,
        clock_error_us: error.fold(0.0, f64::max),
        threads: threads.max().unwrap_or(1),
        per_receiver,
        security: circumstances.security,
        io: circumstances.io,
        in_trains: circumstances.in_trains,
        idle: circumstances.idle,
        send_buffer_bytes: circumstances.send_buffer_bytes,
        kernel: kernel(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seed: circumstances.seed,
    }
}

/// The names of those that were not there at the end.
fn left(each: &[ReceiverFigures]) -> Vec<String> {
    let left = each.iter().filter(|one| one.left.is_some());
    left.map(|one| one.name.clone()).collect()
}

/// The seconds from the first send to the last arrival, and how many messages each of them every receiver had.
fn pace(sent: &Sent, came: &[Came], samples: &Samples) -> (f64, f64) {
    let begun = sent.intended.first().copied().unwrap_or(0);
    let arrivals = came.iter().flat_map(|receiver| &receiver.arrivals);
    let ended = arrivals.copied().filter(|&at| at != NEVER).max();
    let seconds = ended.map_or(0.0, |ended| ended.saturating_sub(begun) as f64 / 1e9);
    let complete = samples.last.iter().filter(|&&nanos| nanos != NEVER).count() as f64;
    if seconds > 0.0 {
        (seconds, complete / seconds)
    } else {
        (seconds, 0.0)
    }
}

/// Latencies kept apart in a histogram; what never came, or later, counts as this: an hour, nanoseconds.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_NS, 3).expect("three digits up to an hour is a histogram")
}

/// The last receiver's latencies, message by message, of what was written with `--samples`.
fn lasts(samples: &str) -> impl Iterator<Item = u64> {
    samples.lines().skip(1).map(|line| {
        let last = line.split('\t').nth(1).map(str::parse);
        last.and_then(Result::ok).unwrap_or(LATENCY_MAX_NS)
    })
}

/// The last receiver's latencies second by second as HdrHistogram's tools read them (`.hlog`), in nanoseconds: a message
/// belongs to the second that it was due in, and without a `rate` all are one interval.
pub(super) fn hlog(samples: &str, rate: f64) -> String {
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new();
    log.add_comment("last receiver, ns from when a message was due; an hour: never")
        .with_base_time(UNIX_EPOCH)
        .with_max_value_divisor(1_000_000.0);
    let mut log = log
        .begin_log_with(&mut text, &mut serializer)
        .expect("memory takes it");
    let mut interval = (0, histogram());
    let mut write = |(second, interval): &mut (u64, Histogram<u64>)| {
        if !interval.is_empty() {
            log.write_histogram(
                interval,
                Duration::from_secs(*second),
                Duration::from_secs(1),
                None,
            )
            .expect("three digits up to an hour can be written down");
            interval.reset();
        }
    };
    for (message, nanos) in lasts(samples).enumerate() {
        let due_s = if rate > 0.0 {
            message as f64 / rate
        } else {
            0.0
        };
        let due = Duration::from_secs_f64(due_s).as_secs();
        if due != interval.0 {
            write(&mut interval);
            interval.0 = due;
        }
        interval.1.saturating_record(nanos);
    }
    write(&mut interval);
    String::from_utf8(text).expect("base64 and digits")
}

/// The distribution of the last receiver's latencies as HdrHistogram's tools plot it (`.hgrm`), in microseconds, from what
/// was written with `--samples`.
pub(super) fn hgrm(samples: &str) -> String {
    let mut histogram = histogram();
    lasts(samples).for_each(|nanos| histogram.saturating_record(nanos));
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for value in histogram.iter_quantiles(5) {
        total += value.count_since_last_iteration();
        let quantile = value.quantile_iterated_to();
        let us = value.value_iterated_to() as f64 / 1_000.0;
        text += &format!("{us:>12.3} {quantile:>14.12} {total:>10}");
        if quantile < 1.0 {
            text += &format!(" {:>14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    text + &format!(
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n#[Max     = {:>12.3}, Total count    = {:>12}]\n",
        histogram.mean() / 1_000.0,
        histogram.stdev() / 1_000.0,
        histogram.max() as f64 / 1_000.0,
        histogram.len(),
    )
}

/// What [`hgrm`] wrote, read back.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Distribution {
    /// For one message of so many (2: half of all take longer, 100: one of a hundred), the microseconds it took at most.
    pub(super) points: Vec<(f64, f64)>,
    /// From here on, on the same scale, messages never came.
    pub(super) never_from: Option<f64>,
}

impl Distribution {
    /// `None` where it is nothing that [`hgrm`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut distribution = Self::default();
        let mut before = 1.0;
        let is_row = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        for line in text.lines().skip(1).filter(is_row) {
            let mut fields = line.split_whitespace();
            let mut number = || {
                let number = fields.next()?.parse::<f64>().ok()?;
                number.is_finite().then_some(number)
            };
            let (us, quantile, total) = (number()?, number()?, number()?);
            let one_of = if quantile < 1.0 {
                1.0 / (1.0 - quantile)
            } else {
                // The last of so many: all of them is beyond any scale.
                total
            };
            before = one_of.max(before);
            if us >= LATENCY_MAX_NS as f64 / 1_000.0 {
                distribution.never_from.get_or_insert(before);
            } else {
                distribution.points.push((before, us));
            }
        }
        let is_there = !distribution.points.is_empty() || distribution.never_from.is_some();
        is_there.then_some(distribution)
    }
}

/// The system's name and release.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.map(|release| format!(" {}", release.trim()));
    format!("{}{}", std::env::consts::OS, release.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest_and_what_never_came_is_in_them() {
        let mut nanos: Vec<u64> = (1..=90).map(|us| us * 1_000).collect();
        nanos.extend([NEVER; 10]);
        let ranks = Percentiles::of(&mut nanos);
        assert_eq!(
            (ranks.count, ranks.p50, ranks.p90),
            (100, Some(50.0), Some(90.0))
        );
        assert_eq!((ranks.p99, ranks.p9999, ranks.max), (None, None, None));
        assert_eq!(Percentiles::of(&mut []), Percentiles::default());
        assert_eq!(Percentiles::of(&mut [5_000]).p9999, Some(5.0));
    }

    #[test]
    fn a_distribution_survives_and_what_never_came_stays_never() {
        let mut samples = "message\tlast\n".to_owned();
        for at in 0..100 {
            samples += &match at {
                0..90 => format!("{at}\t{}\n", (at + 1) * 1_000),
                _ => format!("{at}\tnever\n"),
            };
        }
        // Ten a second for ten seconds, each of which is an interval of its own.
        let log = hlog(&samples, samples.lines().count() as f64 / 10.0);
        let intervals = log.lines().filter(|line| line.contains("HIST"));
        assert_eq!(intervals.count(), 10, "{log}");
        let read = Distribution::parse(&hgrm(&samples)).unwrap();
        let near = |one_of: f64| {
            let below = read.points.iter().rfind(|point| point.0 < one_of + 0.001);
            below.unwrap().1.round()
        };
        assert_eq!((near(2.0), near(8.0)), (50.0, 88.0));
        let never = read.never_from.unwrap();
        assert!((9.9..=12.0).contains(&never), "{never}");
        assert!(read.points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        for bad in [
            "",
            "Value\n",
            "Value\n\nx 0.5 7\n",
            "Value\n\n5 0.5\n",
            "Value\n\nNaN 0.5 7\n",
        ] {
            assert_eq!(Distribution::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_last_receiver_counts_and_one_that_never_had_it_is_last() {
        let came = |arrivals: &[u64]| Came {
            arrivals: arrivals.to_vec(),
            figures: ReceiverFigures {
                clock_error_us: 250.0,
                ..ReceiverFigures::default()
            },
        };
        let intended = [100, 200, 300];
        let samples = Samples::of(&intended, &[came(&[110, 290, 300]), came(&[150, NEVER])]);
        assert_eq!(samples.last, [50, NEVER, NEVER]);
        assert_eq!(samples.each, [vec![10, 90, 0], vec![50, NEVER, NEVER]]);
        assert_eq!(samples.below_zero, [0, 0]);
        // A clock that is behind the source's: what it shows is no latency, and is not hidden.
        let behind = [came(&[90, 190, 310]), came(&[100, NEVER])];
        let samples = Samples::of(&intended, &behind);
        assert_eq!(samples.each, [vec![0, 0, 10], vec![0, NEVER, NEVER]]);
        let sent = Sent {
            intended: intended.to_vec(),
            late_ns_max: 0,
            datagrams: 3,
            bytes: 300,
            repairs: 0,
            copies: 0,
            nacks: 0,
            usage: Usage::default(),
        };
        let circumstances = Circumstances {
            security: "open-lab".to_owned(),
            size: 100,
            rate: 1.0,
            io: String::new(),
            in_trains: 0,
            idle: String::new(),
            send_buffer_bytes: 0,
            seed: 0,
        };
        let summary = summary(&sent, Vec::from(behind), samples, circumstances);
        let each = summary.per_receiver.iter().map(|one| one.below_zero);
        assert_eq!(each.collect::<Vec<_>>(), [2, 0]);
        assert_eq!((summary.below_zero, summary.clock_error_us), (2, 250.0));
    }
}

//! The harness that measures must itself be above suspicion: real programs on loopback whose figures are known beforehand.
//!
//! Each run has a group of its own, drawn at random, and a ttl of 0.

#![cfg(all(unix, feature = "app"))]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// Goal: a run is whole, and says everything that belongs to it. Method: three receivers, a schedule; the samples that
/// are kept must give the same figures.
#[test]
fn a_run_says_what_came_when() {
    let directory = tempfile::tempdir().unwrap();
    let samples = directory.path().join("samples.tsv");
    let args = format!(
        "--messages 2000 --size 200 --rate 5000 --seed 7 --samples {}",
        samples.display()
    );
    let (summary, receivers) = run(&args, &["", "", ""]);
    assert_eq!(
        (&summary["sent"], &summary["missing"], &summary["seed"]),
        (&2_000.into(), &0.into(), &7.into())
    );
    for name in ["r0", "r1", "r2"] {
        assert_eq!(summary["received"][name], 2_000, "{summary}");
    }
    for (of, count) in [("receiver_us", 6_000), ("last_us", 2_000)] {
        let ranks = ["p50", "p90", "p99", "p999", "p9999", "max"];
        let ranks = ranks.map(|rank| summary[of][rank].as_f64().unwrap());
        assert!(ranks[0] > 0.0 && ranks.is_sorted(), "{summary}");
        assert_eq!(summary[of]["count"], count);
    }
    assert!(summary["last_us"]["p50"].as_f64() >= summary["receiver_us"]["p50"].as_f64());
    // The schedule takes 0.4 s, and the last message some time.
    let per_s = summary["messages_per_s"].as_f64().unwrap();
    assert!((1.0..=5_003.0).contains(&per_s), "{summary}");
    assert!(
        summary["wire_per_payload"].as_f64() > Some(1.0),
        "{summary}"
    );
    for receiver in &receivers {
        assert_eq!(
            (&receiver["received"], &receiver["missing"]),
            (&2_000.into(), &0.into())
        );
    }
    let kept = fs::read_to_string(samples).unwrap();
    let mut lines = kept.lines();
    assert_eq!(lines.next(), Some("message\tlast\tr0\tr1\tr2"));
    let mut last: Vec<u64> = lines
        .map(|line| {
            let fields: Vec<_> = line.split('\t').map(|it| it.parse().unwrap()).collect();
            assert_eq!(fields[1], *fields[2..].iter().max().unwrap());
            fields[1]
        })
        .collect();
    last.sort_unstable();
    assert_eq!(last.len(), 2_000);
    let p99 = last[1_979] as f64 / 1_000.0;
    assert_eq!(summary["last_us"]["p99"].as_f64(), Some(p99));
}

/// Goal: what is missing counts, and counts as never. Method: one of two receivers treats every tenth message as if it had
/// not come: 10 % of its messages are missing, so its ranks from 91 % on are never, and the last receiver's with them.
#[test]
fn what_is_missing_counts_as_never() {
    let (summary, receivers) = run(
        "--messages 1000 --size 64 --rate 10000",
        &["--ignore-every 10", ""],
    );
    assert_eq!(summary["missing"], 100, "{summary}");
    let received = (&summary["received"]["r0"], &summary["received"]["r1"]);
    assert_eq!(received, (&900.into(), &1_000.into()));
    assert!(summary["last_us"]["p90"].is_f64() && summary["last_us"]["p99"].is_null());
    assert!(summary["receiver_us"]["p90"].is_f64() && summary["receiver_us"]["p99"].is_null());
    let each = &summary["per_receiver"];
    assert!(each[0]["latency_us"]["max"].is_null() && each[1]["latency_us"]["max"].is_f64());
    assert_eq!(
        (&receivers[0]["missing"], &receivers[1]["missing"]),
        (&100.into(), &0.into())
    );
}

/// Goal: a source that comes late does not make its messages early. Method: it is held up for 100 ms in the middle of a
/// schedule of 200 ms: what should have gone out meanwhile is half of everything, and took up to 100 ms more.
#[test]
fn a_stall_of_the_source_shows() {
    let (summary, _) = run(
        "--messages 1000 --size 64 --rate 5000 --stall 100ms",
        &["", ""],
    );
    assert_eq!(summary["missing"], 0, "{summary}");
    let rank = |name: &str| summary["last_us"][name].as_f64().unwrap();
    assert!(rank("max") >= 99_000.0, "{summary}");
    assert!(rank("p90") >= 60_000.0, "{summary}");
    assert!(
        summary["late_us_max"].as_f64() >= Some(99_000.0),
        "{summary}"
    );
}

/// Goal: an unpaced source goes as fast as the slowest takes it, and loses nothing. Method: one receiver loses every
/// twentieth datagram, and everything is there in the end.
#[test]
fn unpaced_means_as_fast_as_all_take_it() {
    let (summary, _) = run(
        "--messages 50000 --size 256 --rate 0",
        &["--loss 5 --seed 3", ""],
    );
    assert_eq!(
        (&summary["missing"], &summary["duplicates"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        (&summary["out_of_order"], &summary["altered"]),
        (&0.into(), &0.into())
    );
    assert!(summary["repairs"].as_u64() > Some(0), "{summary}");
}

/// Goal: a run that cannot be is refused in one sentence. Method: a receiver too few; two of one name; bad flags.
#[test]
fn what_cannot_be_measured_is_refused() {
    let group = group();
    let alone = bench(&group, "send --receivers 1 --wait 50ms")
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(1));
    assert!(sentence(&alone).contains("0 of 1 receivers are there"));
    let nobody = bench(&group, "receive --name r0 --wait 50ms")
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(sentence(&nobody).contains("no source has begun a run"));
    let mut twins = [0, 1].map(|_| bench(&group, "receive --name twin").spawn().unwrap());
    let _ = bench(&group, "send --receivers 2 --wait 2s --messages 10")
        .output()
        .unwrap();
    let codes: BTreeSet<_> = twins
        .iter_mut()
        .map(|twin| twin.wait().unwrap().code())
        .collect();
    assert!(codes.contains(&Some(1)), "{codes:?}");
    for bad in [
        "send --size 15",
        "send --messages 0",
        "send --rate -1",
        "send --receivers 513",
        "send --group 10.0.0.1:5",
        "send --interface nowhere0",
        "send --samples /nowhere/at/all",
        "receive --name r0 --loss 91",
        "receive",
    ] {
        let output = bench(&group, bad).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad}");
        assert_eq!(sentence(&output).lines().count(), 1, "{bad}");
    }
}

fn sentence(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A group and a port that no other test has.
fn group() -> String {
    let random = tempfile::tempdir().expect("a folder");
    let name = random
        .path()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let [a, b, c, d, ..] = hash.to_be_bytes();
    let port = 20_000 + u32::from(u16::from_be_bytes([c, d])) % 20_000;
    format!("239.255.{a}.{}:{port}", b.clamp(1, 254))
}

fn bench(group: &str, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floorcast"));
    command.arg("bench").args(args.split(' '));
    if !args.contains("--group") {
        command.args(["--group", group]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// One run with a receiver for each entry; the source's summary, and each receiver's.
fn run(args: &str, receivers: &[&str]) -> (Value, Vec<Value>) {
    let group = group();
    let receivers: Vec<Child> = receivers
        .iter()
        .enumerate()
        .map(|(at, extra)| {
            let args = format!("receive --json --name r{at} {extra}");
            bench(&group, args.trim_end()).spawn().expect("it starts")
        })
        .collect();
    let args = format!("send --json --receivers {} {args}", receivers.len());
    let source = bench(&group, &args).output().expect("it starts");
    let receivers = receivers.into_iter().map(|receiver| {
        let output = receiver.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    });
    let receivers = receivers.collect();
    let text = String::from_utf8_lossy(&source.stdout);
    let summary: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {source:?}"));
    let is_whole = summary["missing"] == 0;
    assert_eq!(
        source.status.code(),
        Some(i32::from(!is_whole)),
        "{summary}"
    );
    (summary, receivers)
}

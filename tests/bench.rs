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

/// Goal: a receiver that leaves costs the others nothing, and is named. Method: one of three goes away after 100 of 1,000
/// messages, on a schedule and without one: two have everything, the third counts as never, and the samples say so too.
#[test]
fn who_leaves_does_not_take_the_others_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let samples = directory.path().join("samples.tsv");
    for rate in [10_000, 0] {
        let group = group();
        let receivers = ["a", "b", "c"].map(|name| {
            let extra = if name == "b" {
                " --leave-after 100"
            } else {
                ""
            };
            let words = format!("receive --json --name {name}{extra}");
            bench(&group, &words).spawn().unwrap()
        });
        let words = format!(
            "send --json --receivers 3 --messages 1000 --size 64 --rate {rate} --samples {}",
            samples.display()
        );
        let source = bench(&group, &words).output().unwrap();
        assert_eq!(source.status.code(), Some(1), "{source:?}");
        let summary: Value = serde_json::from_slice(&source.stdout).unwrap();
        assert_eq!(
            (&summary["left"], &summary["missing"]),
            (&serde_json::json!(["b"]), &1_000.into())
        );
        let received = &summary["received"];
        assert_eq!(
            (&received["a"], &received["b"], &received["c"]),
            (&1_000.into(), &0.into(), &1_000.into())
        );
        assert!(summary["last_us"]["p50"].is_null(), "{summary}");
        let each = summary["per_receiver"].as_array().unwrap();
        assert!(each[0]["latency_us"]["max"].is_f64() && each[0]["left"].is_null());
        assert!(each[1]["latency_us"]["p50"].is_null() && each[1]["left"].is_string());
        assert!(sentence(&source).contains("receiver b has left"));
        let kept = fs::read_to_string(&samples).unwrap();
        assert!(kept.lines().skip(1).all(|line| line.contains("\tnever\t")));
        let codes = receivers.map(|receiver| receiver.wait_with_output().unwrap().status.code());
        assert_eq!(codes, [Some(0), Some(1), Some(0)]);
    }
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

/// Goal: whatever way there is to the system, the same comes out. Method: trains, batches and single calls, both ways.
#[test]
fn every_way_to_the_system_gives_the_same() {
    for io in ["offload", "batch", "plain"] {
        let receiver = format!("--io {io}");
        let args = format!("--messages 3000 --size 700 --rate 0 --io {io}");
        let (summary, _) = run(&args, &[&receiver, &receiver]);
        assert_eq!(
            (&summary["missing"], &summary["altered"]),
            (&0.into(), &0.into()),
            "{io}"
        );
        let got = summary["io"].as_str();
        assert!(
            got == Some(io) || io == "offload" && got.is_some(),
            "{summary}"
        );
    }
}

/// Goal: receivers that share a process are receivers like others. Method: twelve on one thread and on five, with loss; they
/// speak one after the other, in order, and the source says how many threads they had.
#[test]
fn receivers_may_share_a_process() {
    for threads in [1, 5] {
        let group = group();
        let words = format!("receive --json --name r --count 12 --loss 2 --threads {threads}");
        let receivers = bench(&group, &words).spawn().unwrap();
        let source = bench(
            &group,
            "send --json --receivers 12 --messages 1000 --rate 5000",
        )
        .output()
        .unwrap();
        let summary: Value = serde_json::from_slice(&source.stdout).unwrap();
        let received = summary["received"].as_object().unwrap();
        assert_eq!(received.len(), 12);
        assert!(received.values().all(|count| count == 1_000), "{summary}");
        assert_eq!(summary["threads"], threads, "{summary}");
        let output = receivers.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines().map(|line| {
            let said: Value = serde_json::from_str(line).unwrap();
            assert_eq!(said["threads"], threads);
            said["name"].as_str().unwrap().to_owned()
        });
        let expected: Vec<_> = (0..12).map(|number| format!("r-{number}")).collect();
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }
}

/// Goal: what one of a process fails at, ends all of its threads. Method: one of four, on four threads, goes away; the others
/// would wait for a minute.
#[test]
fn threads_end_together() {
    let group = group();
    let words = "receive --name r --count 4 --threads 4 --leave-after 10";
    let receivers = bench(&group, words).spawn().unwrap();
    let words = "send --json --receivers 4 --messages 1000 --rate 5000";
    let source = bench(&group, words).output().unwrap();
    assert_eq!(source.status.code(), Some(1));
    let summary: Value = serde_json::from_slice(&source.stdout).unwrap();
    assert_eq!(summary["left"].as_array().unwrap().len(), 4, "{summary}");
    let output = receivers.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(sentence(&output).lines().count(), 1, "{output:?}");
}

/// Goal: a scenario leaves everything behind that a comparison needs. Method: a sweep of two cells, twice; a folder that is
/// not empty is not written to.
#[test]
fn a_scenario_is_run_cell_by_cell() {
    let directory = tempfile::tempdir().unwrap();
    let scenario = directory.path().join("small.toml");
    let text = "name = \"small\"\nmessages = 300\nrate = 3000\nreceivers = [1, 2]\nrepeat = 2\n";
    fs::write(&scenario, text).unwrap();
    let out = directory.path().join("out");
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floorcast"));
        command
            .args(["bench", "run", "--json", "--out"])
            .arg(&out)
            .arg(&scenario);
        command.output().unwrap()
    };
    let ran = run();
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let text = fs::read_to_string(out.join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    let runs = result["runs"].as_array().unwrap();
    let cells: Vec<_> = runs
        .iter()
        .map(|it| (it["turn"].as_u64(), it["cell"]["receivers"].as_u64()))
        .collect();
    let expected = [(0, 1), (0, 2), (1, 1), (1, 2)].map(|(turn, cell)| (Some(turn), Some(cell)));
    assert_eq!(cells, expected);
    assert!(
        runs.iter().all(|it| it["sources"][0]["missing"] == 0),
        "{result}"
    );
    assert!(result["environment"]["processors"].as_u64() > Some(0));
    let hgrm = fs::read_to_string(out.join("samples-2-0-1.hgrm")).unwrap();
    assert!(
        hgrm.contains("Percentile") && hgrm.contains("Total count    =          300"),
        "{hgrm}"
    );
    let hlog = fs::read_to_string(out.join("samples-2-0-1.hlog")).unwrap();
    assert!(hlog.lines().any(|line| line.contains("HIST")), "{hlog}");
    assert_eq!(
        run().status.code(),
        Some(2),
        "what is there is not overwritten"
    );
}

/// Goal: two sources in one group are two stations, and each gets the receivers it wants, whichever hear it first. Method:
/// such a scenario; each summary speaks of two receivers that lack nothing, and no receiver is in both.
#[test]
fn two_sources_share_a_group() {
    let directory = tempfile::tempdir().unwrap();
    let scenario = directory.path().join("two.toml");
    let text =
        "name = \"two\"\nmessages = 600\nrate = 3000\nsources = 2\nreceivers = [2]\nrepeat = 2\n";
    fs::write(&scenario, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_floorcast"));
    command.args(["bench", "run", "--json"]).arg(&scenario);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summaries: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(summaries.len(), 4);
    for turn in summaries.chunks(2) {
        let mut names = BTreeSet::new();
        for summary in turn {
            assert_eq!(summary["missing"], 0, "{summary}");
            names.extend(summary["received"].as_object().unwrap().keys().cloned());
        }
        assert_eq!(names.len(), 4, "{names:?}");
    }
}

/// Goal: a receiver that comes and goes is not counted, and takes nobody's place. Method: such a scenario, in which it is often
/// there first; the summary speaks of the two that stay.
#[test]
fn who_comes_and_goes_is_not_counted() {
    let directory = tempfile::tempdir().unwrap();
    let scenario = directory.path().join("restarting.toml");
    let text = "name = \"restarting\"\nmessages = 1000\nrate = 1000\nrestarting = true\nreceivers = [2]\nrepeat = 2\n";
    fs::write(&scenario, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_floorcast"));
    command.args(["bench", "run", "--json"]).arg(&scenario);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(sentence(&output), "");
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let summary: Value = serde_json::from_str(line).unwrap();
        let names: Vec<_> = summary["received"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["s0-0", "s0-1"]);
        assert_eq!(summary["missing"], 0, "{summary}");
    }
}

/// Goal: a receiver that stops and starts again within a run is counted, and lacks what was sent while it was away and
/// nothing else. Method: such a scenario; of two receivers the first has messages of both its lives, the last one among them,
/// and the other has everything.
#[test]
fn who_starts_again_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let scenario = directory.path().join("again.toml");
    let text = "name = \"again\"\nmessages = 2000\nrate = 2000\nrestart_after = 200\nreceivers = [2]\nrepeat = 1\nkeep_samples = true\n";
    fs::write(&scenario, text).unwrap();
    let out = directory.path().join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_floorcast"));
    command
        .args(["bench", "run", "--json", "--out"])
        .arg(&out)
        .arg(&scenario);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [back, stayed] = [0, 1].map(|at| &summary["per_receiver"][at]);
    assert_eq!(
        (&back["restarts"], &stayed["restarts"]),
        (&1.into(), &0.into())
    );
    assert_eq!(back["missing"], back["away"], "{summary}");
    assert_eq!(
        (&summary["missing"], &summary["away"], &summary["left"]),
        (&back["away"], &back["away"], &serde_json::json!([]))
    );
    assert!(back["received"].as_u64() > Some(200), "{summary}");
    assert_eq!(
        (&stayed["received"], &summary["duplicates"]),
        (&2_000.into(), &0.into())
    );
    let kept = fs::read_to_string(out.join("samples-2-0-0.tsv")).unwrap();
    let last = kept.lines().last().unwrap();
    assert!(
        last.starts_with("1999\t") && !last.contains("never"),
        "{last}"
    );
    let group = group();
    let refused = bench(&group, "receive --name r --count 2 --restart-after 5")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(sentence(&refused).lines().count(), 1, "{refused:?}");
}

/// Goal: two sources of one group are told apart even with one seed. Method: two by hand; each is told of its own messages
/// only, and no latency is 0.
#[test]
fn sources_of_one_seed_are_two() {
    let group = group();
    let receivers = ["a", "b"].map(|name| {
        bench(&group, &format!("receive --name {name} --json"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    });
    let sources = [0, 1].map(|_| {
        let words = "send --json --seed 5 --receivers 1 --messages 500 --rate 1000";
        bench(&group, words).stdout(Stdio::piped()).spawn().unwrap()
    });
    for source in sources {
        let output = source.wait_with_output().unwrap();
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&summary["missing"], &summary["duplicates"]),
            (&0.into(), &0.into())
        );
        assert!(summary["last_us"]["p50"].as_f64() > Some(0.0), "{summary}");
    }
    for mut receiver in receivers {
        assert_eq!(receiver.wait().unwrap().code(), Some(0));
    }
}

/// Goal: a run of many ends. Method: more receivers in one process than fit in a pipe with what they print.
#[test]
fn a_run_of_many_ends() {
    let directory = tempfile::tempdir().unwrap();
    let scenario = directory.path().join("many.toml");
    let text = "name = \"many\"\nmessages = 20\nrate = 200\nsize = 64\none_process = true\nreceivers = [230]\nrepeat = 1\n";
    fs::write(&scenario, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_floorcast"));
    command.args(["bench", "run", "--json"]).arg(&scenario);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Goal: what was measured is told, whatever becomes of the samples, and a run that fails leaves a file of them as it was.
/// Method: samples to a disk that is full (Linux has a device for it), and a run without a receiver.
#[test]
fn samples_that_cannot_be_kept_cost_nothing_else() {
    if cfg!(target_os = "linux") {
        let group = group();
        let receiver = bench(&group, "receive --name r").spawn().unwrap();
        let words = "send --json --receivers 1 --messages 100 --samples /dev/full";
        let source = bench(&group, words).output().unwrap();
        let summary: Value = serde_json::from_slice(&source.stdout).unwrap();
        assert_eq!(summary["received"]["r"], 100);
        assert_eq!(source.status.code(), Some(1));
        let said = sentence(&source);
        assert!(said.starts_with("floorcast: --samples: cannot write /dev/full"));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(receiver.wait_with_output().unwrap().status.code(), Some(0));
    }
    let directory = tempfile::tempdir().unwrap();
    let samples = directory.path().join("samples.tsv");
    fs::write(&samples, "dear").unwrap();
    let words = format!(
        "send --receivers 1 --wait 50ms --samples {}",
        samples.display()
    );
    let alone = bench(&group(), &words).output().unwrap();
    assert_eq!(alone.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&samples).unwrap(), "dear");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// Goal: a name that is taken is refused at once, by a sentence that says so, and costs the run nothing: whoever goes away
/// before it, the source waits for another. Method: two of one name, of whom one is refused while the source waits; a process
/// of two receivers, one of whose names is taken, so that the other, which may have been there, goes with it; then two with
/// names of their own, and the run is whole.
#[test]
fn a_name_that_is_taken_costs_the_run_nothing() {
    let group = group();
    let words = "send --json --receivers 3 --wait 60s --messages 500 --rate 5000";
    let source = bench(&group, words).spawn().unwrap();
    let mut twins: Vec<Child> = [0, 1]
        .map(|_| bench(&group, "receive --name r-1").spawn().unwrap())
        .into();
    let refused = loop {
        let ended = |twin: &mut Child| twin.try_wait().unwrap().is_some();
        match twins.iter_mut().position(ended) {
            Some(at) => break twins.remove(at).wait_with_output().unwrap(),
            None => std::thread::yield_now(),
        }
    };
    let pair = bench(&group, "receive --name r --count 2")
        .output()
        .unwrap();
    for output in [refused, pair] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = sentence(&output);
        assert!(
            said.contains("already; give each a --name of its own"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let others = bench(&group, "receive --name other --count 2")
        .output()
        .unwrap();
    assert_eq!(others.status.code(), Some(0), "{others:?}");
    let source = source.wait_with_output().unwrap();
    assert_eq!(source.status.code(), Some(0), "{source:?}");
    let summary: Value = serde_json::from_slice(&source.stdout).unwrap();
    assert_eq!(
        summary["received"],
        serde_json::json!({"other-0": 500, "other-1": 500, "r-1": 500})
    );
    assert!(
        sentence(&source).contains("receiver r-1 was refused"),
        "{source:?}"
    );
    let stayed = twins.remove(0).wait_with_output().unwrap();
    assert_eq!(stayed.status.code(), Some(0), "{stayed:?}");
}

/// Goal: an IPv6 group works where the system carries it, and elsewhere one sentence says what is lacking. Method: a machine
/// of its own (a network namespace, where a test may make one), whose loopback has no route for such groups, and is given one.
#[test]
fn ipv6_groups_work_where_there_is_a_route() {
    let within = |script: &str| {
        let script = format!("ip link set lo up && {script}");
        let mut command = Command::new("unshare");
        command.args(["-r", "-n", "sh", "-c", &script]);
        command.env("FLOORCAST", env!("CARGO_BIN_EXE_floorcast"));
        command.output()
    };
    if !within("ip -6 route show").is_ok_and(|output| output.status.success()) {
        println!("skipped: no network namespaces, or no ip");
        return;
    }
    let place = "--interface lo --group [ff15::77]:21077";
    for end in ["send", "receive --name r"] {
        let output = within(&format!("$FLOORCAST bench {end} {place}")).unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = sentence(&output);
        assert!(said.contains("ip -6 route add"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let route = "ip -6 route add local ff00::/8 dev lo";
    let output = within(&format!(
        "{route} && {{ $FLOORCAST bench receive --name r {place} >&2 & \
         $FLOORCAST bench send --json --messages 500 {place} || kill $!; wait $!; }}"
    ));
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["received"]["r"], 500, "{summary}");
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
        "receive --name r0 --threads 2",
        "receive --name r0 --count 2 --threads 0",
        "receive --name r0 --count 2 --threads 2 --cpu 100000",
        "receive",
    ] {
        let output = bench(&group, bad).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad}");
        assert_eq!(sentence(&output).lines().count(), 1, "{bad}");
    }
    let mut spread = Command::new(env!("CARGO_BIN_EXE_floorcast"));
    spread.args(["bench", "run", "--receivers", "4", "--threads", "2"]);
    let output = spread.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(sentence(&output).contains("threads is 2"), "{output:?}");
    // The longest name there is, and one with which the number behind it is too much.
    for (length, count, code) in [(64, 1, 1), (61, 12, 1), (62, 12, 2), (63, 2, 2)] {
        let name = "n".repeat(length);
        let words = format!("receive --name {name} --count {count} --wait 50ms");
        let output = bench(&group, &words).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words}");
        assert_eq!(
            sentence(&output).contains("too long for --count"),
            code == 2
        );
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

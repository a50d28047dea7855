//! Real programs on the loopback interface: agents and senders as processes, signals, restarts, and a whole demonstration.
//!
//! Every floor here has groups of its own and a ttl of 0, so tests may run at the same time and nothing leaves the machine.
//! Nothing sleeps: a test goes on when the line that it waits for has come.

#![cfg(all(unix, feature = "app"))]

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use process::{Ended, IS_PROTECTED, Lab, Running};

/// Keys of a notice, as an agent prints it (DESIGN, section 7).
const NOTICE_KEYS: &str = "event from group id lane received_ns repaired sent_ns seq status text";

/// Goal: a floor that loses datagrams loses no message, and says how it went, where each loss was and what became of each
/// agent. Method: 20 agents, each of which does not get one datagram in 20; among so many losses some are one agent's.
#[test]
fn a_demonstration_with_loss() {
    let summary = demo(&[
        "--agents",
        "20",
        "--messages",
        "300",
        "--loss",
        "5",
        "--seed",
        "7",
    ]);
    assert_whole(&summary, 20, 300);
    assert_eq!(
        (&summary["seed"], &summary["loss"]),
        (&7.into(), &5.0.into())
    );
    assert_eq!(summary["payload_bytes"], 300 * 256);
    for key in [
        "datagrams_dropped",
        "nacks_sent",
        "nacks_received",
        "repairs_sent",
    ] {
        assert!(summary[key].as_u64() > Some(0), "{key} in {summary}");
    }
    assert!(summary["losses"]["edge"].as_u64() > Some(0), "{summary}");
    let accounts = accounts(&summary);
    let total = |key: &str| -> u64 { accounts.iter().filter_map(|it| it[key].as_u64()).sum() };
    assert_eq!(total("nacks"), summary["nacks_received"], "{summary}");
    assert_eq!(total("edge_losses"), summary["losses"]["edge"], "{summary}");
    for key in ["missed", "asked", "repairs"] {
        assert!(total(key) > 0, "{key} in {summary}");
    }
}

/// Goal: without loss on purpose nothing is dropped. Method: the same, with --loss 0 and the largest seed.
#[test]
fn a_demonstration_without_loss() {
    let seed = u64::MAX.to_string();
    let summary = demo(&[
        "--agents",
        "20",
        "--messages",
        "300",
        "--loss",
        "0",
        "--seed",
        &seed,
    ]);
    assert_whole(&summary, 20, 300);
    assert_eq!(
        (&summary["datagrams_dropped"], &summary["seed"]),
        (&0.into(), &u64::MAX.into())
    );
}

/// Goal: messages of many datagrams arrive whole, and so do those of one byte. Method: 60,000 bytes with loss; 1 byte.
#[test]
fn demonstrations_of_other_sizes() {
    let summary = demo(&[
        "--agents",
        "5",
        "--messages",
        "30",
        "--size",
        "60000",
        "--loss",
        "2",
    ]);
    assert_whole(&summary, 5, 30);
    assert_eq!(summary["payload_bytes"], 30 * 60_000);
    let summary = demo(&[
        "--agents",
        "3",
        "--messages",
        "50",
        "--size",
        "1",
        "--loss",
        "10",
    ]);
    assert_whole(&summary, 3, 50);
    let words = Lab::from_text("").run(&["demo", "--open-lab", "--agents", "1", "--messages", "1"]);
    assert_eq!(
        (words.code, words.stderr.as_str()),
        (Some(0), ""),
        "{words:?}"
    );
    assert!(
        words.stdout.contains(
            "delivered 1, missing 0, duplicates 0, out of order 0, receipts from 1 of 1 agents"
        ),
        "{words:?}"
    );
}

/// Runs a demonstration, and checks that its last line has all keys, and that the others tell its losses.
fn demo(args: &[&str]) -> Value {
    let ended = Lab::from_text("").run(&[&["demo", "--open-lab", "--json"], args].concat());
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    let mut losses = events(&ended);
    let summary = losses.pop().expect("a summary");
    assert_losses(&losses, &summary);
    const KEYS: &str = "event agents messages size rate loss seed delivered missing duplicates out_of_order receipts \
                        fanout_us receiver_us nacks_sent nacks_received repairs_sent datagrams_sent datagrams_dropped \
                        bytes_sent payload_bytes seconds";
    for key in KEYS.split(' ').filter(|key| !key.is_empty()) {
        assert!(!summary[key].is_null(), "no {key} in {summary}");
    }
    summary
}

/// Asserts that each of the worst receivers in `summary` has its whole account; these are returned.
fn accounts(summary: &Value) -> Vec<Value> {
    const KEYS: &str = "address asked edge_losses missed nacks name path refused repairs segment";
    assert_eq!(summary["receivers_left_out"], 0, "{summary}");
    let accounts = summary["receivers"].as_array().expect("a list");
    for account in accounts {
        assert_eq!(keys(account), KEYS, "{account}");
        assert_eq!(
            (&account["segment"], &account["path"]),
            (&"127.0.0.0/24".into(), &"group".into())
        );
        let address = account["address"].as_str().expect("an address");
        assert!(address.starts_with("127.0.0.1:"), "{account}");
    }
    let missed: Vec<_> = accounts
        .iter()
        .map(|account| account["missed"].as_u64())
        .collect();
    assert!(missed.is_sorted_by(|a, b| a >= b), "{missed:?}");
    accounts.clone()
}

/// Asserts that `lines` are those of the losses that `summary` counts, each with the keys that belong to its place.
fn assert_losses(lines: &[Value], summary: &Value) {
    assert_eq!(summary["losses_left_out"], 0, "{summary}");
    let mut of_place = BTreeMap::new();
    for line in lines {
        let place = line["where"].as_str().expect("a place");
        let of_whom = match place {
            "edge" => "receiver ",
            "segment" => "segment ",
            _ => "",
        };
        let wanted = format!("asked event group lane {of_whom}where");
        assert_eq!(keys(line), wanted, "{line}");
        assert_eq!(
            (&line["event"], &line["group"], &line["lane"]),
            (&"loss".into(), &"all".into(), &"routine".into())
        );
        let asked = line["asked"].as_u64().expect("a number");
        assert_eq!(asked == 1, place == "edge", "{line}");
        *of_place.entry(place).or_insert(0) += 1;
    }
    for place in ["edge", "segment", "source", "scattered"] {
        let printed = of_place.remove(place).unwrap_or(0);
        assert_eq!(summary["losses"][place], printed, "{place} in {summary}");
    }
    assert!(of_place.is_empty(), "{of_place:?}");
}

/// Asserts that every agent had every message, once, in order, and that the latencies make sense.
fn assert_whole(summary: &Value, agents: u64, messages: u64) {
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["delivered"], agents * messages, "{summary}");
    for key in [
        "missing",
        "duplicates",
        "out_of_order",
        "altered",
        "lost_reported",
    ] {
        assert_eq!(summary[key], 0, "{key} in {summary}");
    }
    assert_eq!(summary["receipts"], agents, "{summary}");
    for kind in ["fanout_us", "receiver_us"] {
        let at = ["p50", "p90", "p99", "p999", "max"].map(|key| {
            summary[kind][key]
                .as_f64()
                .unwrap_or_else(|| panic!("{kind}.{key} in {summary}"))
        });
        assert!(at[0] > 0.0 && at.is_sorted(), "{kind} in {summary}");
    }
    assert!(
        summary["datagrams_sent"].as_u64() > Some(0) && summary["seconds"].as_f64() > Some(0.0)
    );
    assert!(
        summary["bytes_sent"].as_u64() >= summary["payload_bytes"].as_u64(),
        "{summary}"
    );
}

/// Goal: a notice arrives with all that is said of it, and its sender learns who has it. Method: one agent, one notice,
/// both in JSON.
#[test]
fn a_notice_and_its_receipt() {
    let lab = Lab::new();
    let agent = lab.start(&["agent", "--open-lab", "--json", "--name", "ws-1"]);
    let ready = event(&agent);
    assert_eq!(
        keys(&ready),
        "event groups interface io name open_lab receive_buffer_bytes security"
    );
    assert_eq!(
        (&ready["event"], &ready["name"], &ready["open_lab"]),
        (&"ready".into(), &"ws-1".into(), &(!IS_PROTECTED).into())
    );
    let security = if IS_PROTECTED { "keys" } else { "open-lab" };
    assert_eq!(ready["security"], security);
    assert_eq!(ready["groups"], serde_json::json!(["all"]));
    let text = "Panne réseau, étage 2 ☎ \"\\ \u{1f44f}";
    let sent = send(&lab, &["--name", "chief", text]);
    let [receipt, summary] = sent.events.try_into().unwrap();
    assert_eq!(sent.code, Some(0));
    assert_eq!(keys(&receipt), "event expected id missing received");
    assert_eq!(
        (
            &receipt["event"],
            &receipt["expected"],
            &receipt["received"]
        ),
        (&"receipt".into(), &1.into(), &1.into())
    );
    assert_eq!(receipt["missing"], serde_json::json!([]));
    for key in ["notices", "complete", "incomplete", "expected", "missing"] {
        assert!(!summary[key].is_null(), "no {key} in {summary}");
    }
    assert_eq!(
        (&summary["event"], &summary["notices"], &summary["complete"]),
        (&"summary".into(), &1.into(), &1.into())
    );

    let started = event(&agent);
    assert_eq!(keys(&started), "event from session state");
    assert_eq!(
        (&started["event"], &started["from"], &started["state"]),
        (&"session".into(), &"chief".into(), &"started".into())
    );
    let notice = event(&agent);
    assert_eq!(keys(&notice), NOTICE_KEYS);
    assert_eq!(
        (&notice["event"], &notice["text"], &notice["from"]),
        (&"notice".into(), &text.into(), &"chief".into())
    );
    assert_eq!(
        (&notice["group"], &notice["lane"], &notice["seq"]),
        (&"all".into(), &"routine".into(), &0.into())
    );
    assert_eq!(
        (&notice["id"], &notice["repaired"]),
        (&receipt["id"], &false.into())
    );
    let [sent_ns, received_ns] =
        ["sent_ns", "received_ns"].map(|key| notice[key].as_u64().unwrap());
    assert!(
        sent_ns <= received_ns && received_ns - sent_ns < 60_000_000_000,
        "{notice}"
    );
    let ended = event(&agent);
    assert_eq!(
        (
            &ended["event"],
            &ended["session"],
            &ended["state"],
            &ended["why"]
        ),
        (
            &"session".into(),
            &started["session"],
            &"ended".into(),
            &"closed".into()
        )
    );
}

/// Goal: what is printed for people is for people. Method: the same without --json, with a text that would clear the
/// screen.
#[test]
fn in_words() {
    let lab = Lab::new();
    let agent = lab.start(&["agent", "--open-lab", "--name", "ws-1", "--team", "billing"]);
    let ready = agent.line();
    assert!(
        ready.starts_with("ws-1 listens on lo") && ready.ends_with(" to all, billing"),
        "{ready}"
    );
    let sent = lab.run(&[
        "send",
        "--open-lab",
        "--to",
        "billing",
        "--name",
        "chief",
        "a\u{1b}[2Jb\tc",
    ]);
    assert!(
        sent.code == Some(0) && sent.stdout.starts_with("1/1 in "),
        "{sent:?}"
    );
    assert_eq!(agent.line(), "chief to billing: a\u{fffd}[2Jb\tc");
    assert_eq!(agent.line(), "-- chief has ended: closed");
    let sent = lab.run_with(
        &["send", "--open-lab", "--to", "all", "--lines"],
        b"one\ntwo\n",
    );
    assert!(
        sent.stdout.starts_with("1/1 have all 2 notices in "),
        "{sent:?}"
    );
}

/// Goal: lines arrive as they are, in order. Method: 300 lines, among them those that are easily spoilt.
#[test]
fn lines_are_exact() {
    let lab = Lab::new();
    let agent = agent(&lab, "ws-1", &[]);
    let mut lines: Vec<_> = [
        "",
        "  blanks  ",
        "\ttab",
        "return\r",
        "-",
        "--to",
        "\0",
        "ümläut 漢字",
        "{\"event\":\"notice\"}",
    ]
    .map(str::to_owned)
    .to_vec();
    lines.push("long ".repeat(4_000));
    lines.extend((0..290).map(|at| format!("line {at}")));
    lines.push(String::new());
    let input = lines
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    let sent = lab.run_with(
        &["send", "--open-lab", "--json", "--to", "all", "--lines"],
        input.as_bytes(),
    );
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let told = events(&sent);
    assert_eq!(told.len(), lines.len() + 1);
    let mut before = None;
    for (line, receipt) in lines.iter().zip(&told) {
        let notice = notice(&agent);
        assert_eq!(
            (&notice["text"], &notice["id"]),
            (&line.as_str().into(), &receipt["id"])
        );
        assert!(notice["seq"].as_u64() > before, "{notice}");
        before = notice["seq"].as_u64();
    }
    // The last line counts without its end too.
    let sent = lab.run_with(
        &[
            "send",
            "--open-lab",
            "--json",
            "--to",
            "all",
            "--lines",
            "-",
        ],
        b"a\nb",
    );
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert_eq!(
        [notice(&agent), notice(&agent)].map(|notice| notice["text"].clone()),
        ["a", "b"]
    );
}

/// Goal: `-` sends standard input as one text, every byte of it. Method: several lines, and more than a datagram holds.
#[test]
fn a_text_from_standard_input() {
    let lab = Lab::new();
    let agent = agent(&lab, "ws-1", &[]);
    for text in ["first\n\nthird, unended".to_owned(), "x".repeat(1_048_485)] {
        let sent = lab.run_with(
            &["send", "--open-lab", "--to", "all", "--wait", "20s", "-"],
            text.as_bytes(),
        );
        assert_eq!(sent.code, Some(0), "{sent:?}");
        assert!(
            notice(&agent)["text"] == *text,
            "a text of {} bytes is another",
            text.len()
        );
    }
}

/// Goal: a notice reaches its groups and no others, once, in its lane. Method: one agent on both groups, one on one of
/// them; a last notice tells that nothing else came before it.
#[test]
fn groups_and_lanes() {
    let lab = Lab::new();
    let both = agent(&lab, "ws-1", &["--team", "billing"]);
    let one = agent(&lab, "ws-2", &["--team", "all"]);
    let expected = |sent: &Sent| sent.summary()["expected"].as_u64();
    let first = send(&lab, &["--to", "billing", "--lane", "emergency", "first"]);
    let second = send(&lab, &["--to", "all,billing", "--lane", "bulk", "second"]);
    let third = send(&lab, &["--to", "all", "third"]);
    assert_eq!(
        [&first, &second, &third].map(|sent| sent.code),
        [Some(0); 3]
    );
    assert_eq!(
        [&first, &second, &third].map(expected),
        [Some(1), Some(2), Some(2)]
    );
    let shown = |agent| {
        let notice = notice(agent);
        ["text", "group", "lane"].map(|key| notice[key].as_str().unwrap().to_owned())
    };
    assert_eq!(shown(&both), ["first", "billing", "emergency"]);
    let [text, group, lane] = shown(&both);
    assert!(text == "second" && lane == "bulk" && (group == "all" || group == "billing"));
    assert_eq!(shown(&both), ["third", "all", "routine"]);
    assert_eq!(shown(&one), ["second", "all", "bulk"]);
    assert_eq!(shown(&one), ["third", "all", "routine"]);
}

/// Goal: what comes too late is told as expired and is not shown. Method: the agent is held while the notice is sent, so
/// that it finds it in its socket when its 10 ms are long over.
#[test]
fn a_notice_that_expires() {
    let lab = Lab::new();
    let agent = agent(&lab, "ws-1", &["--exec", "cat >> texts; echo shown >&2"]);
    signal(&agent, "STOP");
    let late = send(&lab, &["--expires", "10ms", "--wait", "300ms", "late"]);
    // Its last announcement may still be on the way when the sender asks who is there.
    assert_eq!(
        (late.code, &late.summary()["complete"]),
        (Some(3), &0.into())
    );
    signal(&agent, "CONT");
    let expired = after_session(&agent);
    assert_eq!(keys(&expired), NOTICE_KEYS);
    assert_eq!(
        (&expired["event"], &expired["text"]),
        (&"expired".into(), &"late".into())
    );
    let early = send(&lab, &["--expires", "10m", "early"]);
    assert_eq!(early.code, Some(0));
    assert_eq!(notice(&agent)["text"], "early");
    assert_eq!(error_line(&agent), "shown");
    assert_eq!(fs::read_to_string(lab.file("texts")).unwrap(), "early");
}

/// Goal: --exec gets the notice, on standard input and in its environment, and nothing of it is run. Method: a text and a
/// sender that are shell commands.
#[test]
fn a_command_for_each_notice() {
    let lab = Lab::new();
    let command =
        "cat > text; echo \"$FLOORCAST_FROM|$FLOORCAST_GROUP|$FLOORCAST_LANE|$FLOORCAST_ID\" >&2";
    let agent = agent(&lab, "ws-1", &["--exec", command]);
    let text = "$(touch spoilt); `touch spoilt`\n\"'; touch spoilt # é";
    let sent = send(
        &lab,
        &["--name", "$(touch spoilt)", "--lane", "emergency", text],
    );
    assert_eq!(sent.code, Some(0));
    let id = notice(&agent)["id"].as_str().unwrap().to_owned();
    assert_eq!(
        error_line(&agent),
        format!("$(touch spoilt)|all|emergency|{id}")
    );
    assert_eq!(fs::read_to_string(lab.file("text")).unwrap(), text);
    assert!(!lab.file("spoilt").exists());
}

/// Goal: an agent that is asked to end leaves the floor. Method: SIGTERM, as systemd sends it, and SIGINT, as ctrl-C does;
/// then a sender has nobody and says so, in words and in JSON.
#[test]
fn signals_end_an_agent_and_then_there_is_nobody() {
    for name in ["TERM", "INT"] {
        let lab = Lab::new();
        let agent = agent(&lab, "ws-1", &[]);
        assert_eq!(send(&lab, &["here"]).code, Some(0));
        signal(&agent, name);
        let ended = agent.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let sent = send(&lab, &["--wait", "200ms", "gone"]);
        assert_eq!(sent.code, Some(3));
        let [receipt, summary] = sent.events.try_into().unwrap();
        assert_eq!(
            (&receipt["expected"], &receipt["received"]),
            (&0.into(), &0.into())
        );
        assert_eq!(
            (
                &summary["complete"],
                &summary["incomplete"],
                &summary["expected"]
            ),
            (&0.into(), &1.into(), &0.into())
        );
        let words = lab.run(&[
            "send",
            "--open-lab",
            "--to",
            "all",
            "--wait",
            "200ms",
            "gone",
        ]);
        assert_eq!(
            (words.code, words.stdout.as_str()),
            (Some(3), "nobody heard in 0.2 s\n"),
            "{words:?}"
        );
    }
}

/// Goal: who leaves in good order is not missed, and who dies is. Method: another agent stays, which has heard both; the
/// first leaves after SIGTERM, comes back, and is killed.
#[test]
fn who_is_missed() {
    let lab = Lab::with("[roster.listed]\nbilling = [\"ghost\"]\n");
    let staying = agent(&lab, "ws-2", &[]);
    let leaving = agent(&lab, "ws-1", &[]);
    let both = send(&lab, &["both"]);
    assert_eq!(
        (both.code, &both.summary()["expected"]),
        (Some(0), &2.into())
    );
    signal(&leaving, "TERM");
    assert_eq!(leaving.end().code, Some(0));
    let left = send(&lab, &["left"]);
    assert_eq!(
        (left.code, &left.summary()["expected"]),
        (Some(0), &1.into())
    );
    let dying = agent(&lab, "ws-1", &[]);
    let both = send(&lab, &["both again"]);
    assert_eq!(
        (both.code, &both.summary()["expected"]),
        (Some(0), &2.into())
    );
    // To go out of scope is SIGKILL.
    drop(dying);
    let words = lab.run(&[
        "send",
        "--open-lab",
        "--to",
        "all",
        "--wait",
        "500ms",
        "died",
    ]);
    assert_eq!(words.code, Some(3), "{words:?}");
    assert!(
        words.stdout.starts_with("1/2 in ") && words.stdout.ends_with("; missing: ws-1\n"),
        "{words:?}"
    );
    // Who is listed is missed without ever having been heard.
    let listed = send(&lab, &["--to", "billing", "--wait", "200ms", "listed"]);
    assert_eq!(listed.code, Some(3));
    assert_eq!(
        (&listed.summary()["expected"], &listed.summary()["missing"]),
        (&1.into(), &serde_json::json!(["ghost"]))
    );
    let texts = [(); 4].map(|()| notice(&staying)["text"].clone());
    assert_eq!(texts, ["both", "left", "both again", "died"]);
}

/// Goal: people who send at the same time do not disturb each other. Method: two sends of one default name at once, with
/// 200 lines each; both complete, and each one's lines are in order.
#[test]
fn two_sends_at_the_same_time() {
    if IS_PROTECTED {
        return one_send_of_a_name_at_a_time();
    }
    let lab = Lab::new();
    let agent = agent(&lab, "ws-1", &[]);
    let input = |who: &str| {
        (0..200)
            .map(|at| format!("{who} {at}\n"))
            .collect::<String>()
    };
    let args = [
        "send",
        "--open-lab",
        "--json",
        "--to",
        "all",
        "--wait",
        "20s",
        "--lines",
    ];
    let sends = ["a", "b"].map(|who| lab.start_with(&args, input(who).as_bytes()));
    let ended = sends.map(Running::end);
    for sent in &ended {
        assert_eq!(sent.code, Some(0), "{sent:?}");
        assert!(!sent.stderr.contains("is called"), "{sent:?}");
        assert_eq!(events(sent).last().unwrap()["complete"], 200);
    }
    let mut next = [0; 2];
    let mut names = BTreeSet::new();
    for _ in 0..400 {
        let notice = notice(&agent);
        names.insert(notice["from"].as_str().unwrap().to_owned());
        let text = notice["text"].as_str().unwrap();
        let who = usize::from(text.starts_with('b'));
        assert_eq!(text, format!("{} {}", ["a", "b"][who], next[who]));
        next[who] += 1;
    }
    assert!(
        names.len() == 1 && names.first().unwrap().starts_with("tester@"),
        "{names:?}"
    );
}

/// A grant is one source's, so a second send of its name is told to wait, and sends nothing.
fn one_send_of_a_name_at_a_time() {
    let lab = Lab::with("[roster.listed]\nall = [\"ghost\"]\n");
    let agent = agent(&lab, "ws-1", &[]);
    let first = lab.start(&[SEND, &["--wait", "50s", "first"]].concat());
    assert_eq!(notice(&agent)["text"], "first");
    let second = lab.run(&[SEND, &["second"]].concat());
    assert_eq!(
        (second.code, second.stdout.as_str()),
        (Some(2), ""),
        "{second:?}"
    );
    signal(&first, "INT");
    assert_eq!(first.end().code, Some(3));
    let third = lab.run(&[SEND, &["--wait", "200ms", "third"]].concat());
    assert_eq!(third.code, Some(3), "{third:?}");
    assert_eq!(notice(&agent)["text"], "third");
}

/// Goal: two agents of one name are told so, where they share no memory that would have kept the second from starting.
/// Method: both with --no-state; the first hears the second's announcement.
#[test]
fn two_agents_of_one_name() {
    let lab = Lab::new();
    let first = agent(&lab, "ws-1", &["--no-state"]);
    let second = agent(&lab, "ws-1", &["--no-state"]);
    let conflict = event(&first);
    assert_eq!(keys(&conflict), "address event name");
    assert_eq!(
        (&conflict["event"], &conflict["name"]),
        (&"conflict".into(), &"ws-1".into())
    );
    assert!(error_line(&first).contains("is called \"ws-1\" too"));
    drop(second);
}

/// Goal: an agent that starts anew shows nothing twice. Method: a source that stays, because somebody listed never comes,
/// offers all it has sent to whoever joins. An agent without memory, which shows all of it, tells when the one with memory
/// has had the same chance.
#[test]
fn a_restart_shows_nothing_twice() {
    let lab = Lab::with("[roster.listed]\nall = [\"ghost\"]\n");
    let state = ["--state", "memory"];
    let before = agent(&lab, "ws-1", &state);
    let input = (0..100).map(|at| format!("{at}\n")).collect::<String>();
    let args = [
        "send",
        "--open-lab",
        "--json",
        "--to",
        "all",
        "--wait",
        "50s",
        "--lines",
    ];
    let sender = lab.start_with(&args, input.as_bytes());
    for at in 0..100 {
        assert_eq!(notice(&before)["text"], at.to_string());
    }
    signal(&before, "TERM");
    let ended = before.end();
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );

    let after = agent(&lab, "ws-1", &state);
    let fresh = agent(&lab, "ws-2", &["--no-state"]);
    for at in 0..100 {
        assert_eq!(notice(&fresh)["text"], at.to_string());
    }
    signal(&sender, "INT");
    let sent = sender.end();
    assert_eq!(sent.code, Some(3), "{sent:?}");
    let told = events(&sent);
    assert_eq!(of_kind("receipt", &told).len(), 100);
    // Others may not have reported their last notices yet.
    let missing = told.last().unwrap()["missing"].as_array().unwrap();
    assert!(missing.contains(&"ghost".into()), "{missing:?}");
    let states = [(); 2].map(|()| event(&after)["state"].clone());
    assert_eq!(states, ["started", "ended"]);
}

/// Goal: a sender says where its losses were and whose. Method: an agent that the sender waits for starts when all has been
/// sent, so it has to ask for it.
#[test]
fn a_send_says_where_its_losses_were() {
    let lab = Lab::with("[roster.listed]\nall = [\"late\"]\n");
    let early = agent(&lab, "ws-1", &[]);
    let input = (0..100).map(|at| format!("{at}\n")).collect::<String>();
    let sender = lab.start_with(
        &[SEND, &["--wait", "50s", "--lines"]].concat(),
        input.as_bytes(),
    );
    for _ in 0..100 {
        notice(&early);
    }
    let late = agent(&lab, "late", &["--no-state"]);
    for at in 0..100 {
        assert_eq!(notice(&late)["text"], at.to_string());
    }
    let sent = sender.end();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let told = events(&sent);
    let summary = told.last().expect("a summary");
    let losses = of_kind("loss", &told);
    assert_losses(&losses, summary);
    assert!(
        losses.iter().any(|loss| loss["receiver"] == "late"),
        "{sent:?}"
    );
    let accounts = accounts(summary);
    let late = accounts.iter().find(|account| account["name"] == "late");
    let late = late.expect("its account");
    // Not as many as notices: the first that it heard of the source may have brought the last of them.
    for key in ["missed", "asked", "nacks", "repairs", "edge_losses"] {
        assert!(late[key].as_u64() > Some(0), "{key} in {late}");
    }
}

/// Goal: an agent that starts anew in the middle of a broadcast goes on where it was. Method: what both of its lives
/// show, one behind the other, is what was sent.
#[test]
fn a_restart_in_the_middle_loses_nothing() {
    let (shown, ..) = restart_in_the_middle(&Lab::with(SLOW));
    assert_eq!(shown, (0..600).collect::<Vec<_>>());
}

/// Goal: as before, and the sender learns that all of it was shown. Method: several times, because it depends on whether
/// the first life had reported the last notices that it showed.
#[test]
fn a_restart_in_the_middle_is_no_miss() {
    for _ in 0..5 {
        let lab = Lab::with(SLOW);
        let (_, sender, _after) = restart_in_the_middle(&lab);
        let sent = sender.end();
        let told = events(&sent);
        assert_eq!(of_kind("receipt", &told).len(), 600);
        let summary = told.last().unwrap();
        assert_eq!(
            (sent.code, &summary["complete"]),
            (Some(0), &600.into()),
            "{summary}"
        );
    }
}

/// 600 notices of 200 bytes take a second.
const SLOW: &str = "[rates]\ndata = \"1 Mbit/s\"\nrepair = \"1 Mbit/s\"\n";

/// The numbers that an agent shows which is ended and started anew meanwhile; the source, which still waits; and the
/// agent.
fn restart_in_the_middle(lab: &Lab) -> (Vec<u64>, Running, Running) {
    let before = agent(lab, "ws-1", &[]);
    let input = (0..600)
        .map(|at| format!("{at} {}\n", "x".repeat(200)))
        .collect::<String>();
    let sender = lab.start_with(
        &[SEND, &["--wait", "5s", "--lines"]].concat(),
        input.as_bytes(),
    );
    let mut shown: Vec<_> = (0..100).map(|_| number(&notice(&before))).collect();
    signal(&before, "TERM");
    let ended = before.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for event in events(&ended) {
        assert_eq!(event["event"], "notice", "{event}");
        shown.push(number(&event));
    }
    assert!(
        shown.len() < 600,
        "the source was too fast to be interrupted"
    );
    let after = agent(lab, "ws-1", &[]);
    while shown.len() < 600 {
        shown.push(number(&notice(&after)));
    }
    (shown, sender, after)
}

fn number(notice: &Value) -> u64 {
    let text = notice["text"].as_str().expect("a text");
    text.split(' ')
        .next()
        .expect("a word")
        .parse()
        .expect("a number")
}

/// Goal: an agent whose reader goes away ends by itself. Method: one that reads a line and stops; the next notice is
/// written to nobody.
#[test]
fn an_agent_that_nobody_reads() {
    let lab = Lab::new();
    let mut command = lab.command(&["agent", "--open-lab", "--name", "ws-1"]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(Stdio::from(writer));
    let agent = Running::start(command);
    let mut ready = String::new();
    BufReader::new(reader).read_line(&mut ready).unwrap();
    assert!(ready.starts_with("ws-1 listens"), "{ready}");
    // Whether it still reports what it could not show is not promised.
    send(&lab, &["--wait", "200ms", "text"]);
    let ended = agent.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("panic"), "{ended:?}");
}

/// Goal: whatever is reported as received is shown. Method: an agent whose standard error is a pipe that was read once,
/// as by `2>&1 | head -1`, and which then has something to warn of.
#[test]
fn an_agent_whose_warnings_nobody_reads() {
    let lab = Lab::new();
    let mut command = lab.command(&[
        "agent",
        "--open-lab",
        "--json",
        "--name",
        "ws-1",
        "--exec",
        "false",
    ]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stderr(Stdio::from(writer));
    let agent = Running::start(command);
    let mut warning = String::new();
    BufReader::new(reader).read_line(&mut warning).unwrap();
    assert_eq!(event(&agent)["event"], "ready");
    for text in ["one", "two", "three"] {
        assert_eq!(send(&lab, &[text]).code, Some(0));
        assert_eq!(notice(&agent)["text"], text);
    }
}

/// Goal: IPv6 is no stranger. Method: the loopback has no route for IPv6 groups, and one may only be given in a network
/// namespace of its own: this test starts itself again in there.
#[test]
fn over_ipv6() {
    const INSIDE: &str = "FLOORCAST_TEST_INSIDE";
    const ROUTE: &str = "ip link set lo up && ip -6 route add local ff00::/8 dev lo";
    let name = if IS_PROTECTED {
        "loopback::over_ipv6"
    } else {
        "over_ipv6"
    };
    if std::env::var_os(INSIDE).is_some() {
        return over_ipv6_inside();
    }
    let inside = |script: &str| -> std::io::Result<Output> {
        Command::new("unshare")
            .args(["-n", "sh", "-c", script])
            .arg(std::env::current_exe()?)
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
    };
    let said = |output: &Output| {
        let [stdout, stderr] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        format!("{stdout}{stderr}")
    };
    match inside(ROUTE) {
        Err(error) => return println!("skipped: there is no unshare: {error}"),
        Ok(output) if !output.status.success() => {
            return println!(
                "skipped: no network namespace of its own: {}",
                said(&output)
            );
        }
        Ok(_) => {}
    }
    let output = inside(&format!("{ROUTE} && exec \"$0\" \"$@\"")).unwrap();
    assert!(
        output.status.success() && said(&output).contains("1 passed"),
        "{}",
        said(&output)
    );
}

fn over_ipv6_inside() {
    let lab = Lab::from_text(
        "[floor]\nname = \"six\"\ninterface = \"::1\"\nttl = 1\n[groups.all]\naddress = \"[ff11::7701]:7701\"\n\
         [groups.team]\naddress = \"[ff11::7702]:7701\"\n",
    );
    let first = agent(&lab, "ws-1", &["--team", "team"]);
    let second = agent(&lab, "ws-2", &[]);
    let input = (0..300).map(|at| format!("{at}\n")).collect::<String>();
    let sent = lab.run_with(
        &[
            "send",
            "--open-lab",
            "--json",
            "--to",
            "all,team",
            "--lines",
        ],
        input.as_bytes(),
    );
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let summary = events(&sent).pop().expect("a summary");
    assert_eq!(
        (
            &summary["complete"],
            &summary["expected"],
            &summary["send_errors"]
        ),
        (&300.into(), &2.into(), &0.into())
    );
    for agent in [&first, &second] {
        for at in 0..300 {
            assert_eq!(notice(agent)["text"], at.to_string());
        }
    }
    let team = send(&lab, &["--to", "team", "--interface", "lo", "x"]);
    assert_eq!(
        (team.code, &team.summary()["expected"]),
        (Some(0), &1.into())
    );
}

/// A send to all, in JSON.
const SEND: &[&str] = &["send", "--open-lab", "--json", "--to", "all"];

/// An agent that is ready.
fn agent(lab: &Lab, name: &str, more: &[&str]) -> Running {
    let agent = lab.start(&[&["agent", "--open-lab", "--json", "--name", name], more].concat());
    let ready = event(&agent);
    assert_eq!(
        (&ready["event"], &ready["name"]),
        (&"ready".into(), &name.into())
    );
    agent
}

/// What came of a send.
struct Sent {
    code: Option<i32>,
    events: Vec<Value>,
}

impl Sent {
    fn summary(&self) -> &Value {
        self.events.last().expect("a summary")
    }
}

/// Sends to all, unless `more` says to whom.
fn send(lab: &Lab, more: &[&str]) -> Sent {
    let to: &[&str] = if more.contains(&"--to") {
        &[]
    } else {
        &["--to", "all"]
    };
    let ended = lab.run(&[&["send", "--open-lab", "--json"], to, more].concat());
    let events = events(&ended);
    assert_eq!(
        events.last().expect("a summary")["event"],
        "summary",
        "{ended:?}"
    );
    Sent {
        code: ended.code,
        events,
    }
}

/// All lines that `ended` printed and that were not read yet.
fn events(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().map(parsed).collect()
}

/// Those of `events` that are called `kind`.
fn of_kind(kind: &str, events: &[Value]) -> Vec<Value> {
    let is_of_kind = |event: &&Value| event["event"] == kind;
    events.iter().filter(is_of_kind).cloned().collect()
}

/// The next line.
fn event(agent: &Running) -> Value {
    parsed(&agent.line())
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The next line that is not about a session.
fn after_session(agent: &Running) -> Value {
    loop {
        let event = event(agent);
        if event["event"] != "session" {
            return event;
        }
    }
}

/// The next line that is not about a session, which has to be a notice.
fn notice(agent: &Running) -> Value {
    let notice = after_session(agent);
    assert_eq!(notice["event"], "notice", "{notice}");
    notice
}

/// The next line of standard error behind the one that says that the lab is open.
fn error_line(agent: &Running) -> String {
    loop {
        let line = agent.error_line();
        if !line.contains("WARN open lab on ") && !line.contains(" INFO ") {
            return line;
        }
    }
}

/// The keys of an object, in order.
fn keys(object: &Value) -> String {
    let keys: BTreeSet<_> = object
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    keys.into_iter().collect::<Vec<_>>().join(" ")
}

fn signal(to: &Running, name: &str) {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &to.id().to_string()])
        .status()
        .expect("a shell");
    assert!(status.success(), "{name} cannot be sent");
}

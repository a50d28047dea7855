//! The real program on real networks: `floorcast` agents and sends in network namespaces that `tools/lab` makes, with
//! loss, broken links and refusing firewalls.
//!
//! Needs root, `ip` and `nft`; elsewhere each test says `skipped` with the reason, and passes. One lab stands at a time,
//! so the times measured are those of one floor. Every wait has a deadline, and a lab goes when its test does.
//!
//! `cargo test --test lab -- --nocapture | grep figure` prints what was measured.
#![cfg(all(feature = "app", target_os = "linux"))]
#![expect(
    clippy::disallowed_methods,
    reason = "real programs take real time, and faults have to last for some of it"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a laboratory that does not work fails its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use floorcast::notice::TEXT_BYTES_MAX;
use floorcast::rng::Rng;

/// Longest time that anything here may take: ten times what it takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an injected fault lasts: many repair cycles, and well below the ten seconds after which a source is given up.
const FAULT: Duration = Duration::from_millis(600);
/// Lines of the long input.
const LINES: usize = 2_000;
/// Each input has two lines of this length.
const LONG_LINE_BYTES: usize = 60_000;
/// What an agent may print again after it was killed between printing and remembering: the line that was just out.
const REPEATED_MAX: usize = 1;
/// The long input takes some three seconds at this rate; repairs are quick, so that only the fault delays.
const SLOW: &str = "[rates]\ndata = \"1 Mbit/s\"\nrepair = \"50 Mbit/s\"\n";
/// The addresses of the groups over each protocol.
const IPV4: [&str; 2] = ["239.255.77.1:7700", "239.255.77.2:7700"];
const IPV6: [&str; 2] = ["[ff13::7701]:7700", "[ff13::7702]:7700"];

/// Goal: on a floor of twenty where every host loses one datagram in twenty, and where at one time everybody loses fifty
/// in a row, every agent prints every line once, in order, byte for byte, and the send has a receipt for each. Method: 5 %
/// loss of what comes in at each host, a burst at the sender's port, 2,000 nasty lines; agents are then ended, so that
/// nothing more could come.
#[test]
fn twenty_agents_get_every_line_once_in_order() {
    let Some(mut lab) = Lab::up(21, &IPV4, "") else {
        return;
    };
    let mut agents: Vec<_> = (2..=21).map(|host| lab.agent(host, &[])).collect();
    agents.iter_mut().for_each(Agent::ready);
    lab.tool(&["loss", &lab.name, "all", "5"]);
    lab.tool(&["burst", &lab.name, "1", "50", "60"]);
    let lines = nasty_lines(1, LINES);
    let sent = lab.send(1, "boss", "all", &lines, &[]).finish();

    let mut last_ns = 0;
    for agent in &mut agents {
        agent.wait_for_notices(LINES);
        agent.leave();
        let notices = agent.notices();
        assert_same(&agent.what, &texts(&notices), &lines);
        assert_eq!(agent.lost(), [], "{}", agent.what);
        last_ns = last_ns.max(notices.iter().map(|it| it.received_ns).max().unwrap());
    }
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(20, &[]);
    assert_eq!(sent.receipts.len(), LINES);
    for receipt in &sent.receipts {
        let figures = (number(receipt, "expected"), number(receipt, "received"));
        assert_eq!(figures, (20, 20), "{receipt}");
        assert_eq!(names(receipt), Vec::<&str>::new(), "{receipt}");
    }
    assert_eq!(lab.dropped("1", "burst"), 50, "the burst has happened");
    let lost: u64 = (2..=21)
        .map(|host| lab.dropped(&host.to_string(), "loss"))
        .sum();
    assert!(lost > 0, "the loss has happened");
    let first_ns = agents[0].notices()[0].sent_ns;
    figure("1 send, from start to end", sent.took);
    figure(
        "1 first notice sent to last line at the last agent",
        Duration::from_nanos(last_ns - first_ns),
    );
    figure("1 datagrams dropped by the hosts", lost);
    figure("1 summary", &sent.summary);
}

/// Goal: an agent that hangs is missed by name, even by a sender that never heard it, and keeps nobody waiting; when it
/// goes on, it prints nothing twice and nothing out of order. Method: SIGSTOP before the send starts; the others are
/// complete in less than half of `--wait`; SIGCONT after the send.
#[test]
fn a_stopped_agent_is_named_and_slows_nobody() {
    let wait = Duration::from_secs(6);
    let Some(mut lab) = Lab::up(6, &IPV4, "") else {
        return;
    };
    let mut agents: Vec<_> = (2..=6).map(|host| lab.agent(host, &[])).collect();
    agents.iter_mut().for_each(Agent::ready);
    let lines = nasty_lines(2, LINES);
    let all_there = lab.send(1, "earlier", "all", &lines, &[]).finish();
    assert_eq!(all_there.code, 0, "{}", all_there.summary);
    agents
        .iter_mut()
        .for_each(|agent| agent.wait_for_notices(LINES));

    // More than fits in the buffer of one that does not read.
    let long: String = "More than it can hold. ".repeat(LONG_LINE_BYTES / 23);
    let lines = [lines, vec![long; 150]].concat();
    agents[2].signal("STOP");
    let wait_flag = format!("{}s", wait.as_secs());
    let sent = lab
        .send(1, "boss", "all", &lines, &["--wait", &wait_flag])
        .finish();
    assert_eq!(sent.code, 3, "{}", sent.summary);
    sent.says(5, &["ws-4"]);
    let mut reference = BTreeMap::new();
    for at in [0, 1, 3, 4] {
        let agent = &mut agents[at];
        agent.wait_for_notices(LINES + lines.len());
        let notices = agent.notices_from("boss");
        assert_same(&agent.what, &texts(&notices), &lines);
        let first_ns = notices[0].sent_ns;
        let last_ns = notices.iter().map(|it| it.received_ns).max().unwrap();
        let took = Duration::from_nanos(last_ns - first_ns);
        figure(&format!("2 beside a stopped one, {}", agent.what), took);
        assert!(
            took < wait / 2,
            "{} was complete only after {took:?}",
            agent.what
        );
        reference = by_seq(&notices);
    }

    let stopped = &mut agents[2];
    stopped.signal("CONT");
    stopped.wait("the end of the session", |_, lines| {
        ends_from(lines).any(|from| from == "boss") || ends_from(lines).count() > 1 // nothing came, so it has no name
    });
    stopped.leave();
    let notices = stopped.notices_from("boss");
    figure(
        "2 lines that a stopped one had in its buffer, of them, runs lost",
        (notices.len(), lines.len(), stopped.lost()),
    );
    assert_in_order(&stopped.what, &notices, &stopped.lost(), &reference);
}

/// Goal: an agent that is killed in the middle of a send and started again goes on where it was: over both lives, each
/// line is printed once and in order, or told lost. Method: kill -9 and the same `--state`; a slow rate; an agent beside
/// it says which numbers there are. What was printed in the last moment before the kill may come again, as documented.
#[test]
fn an_agent_killed_and_started_again() {
    let Some(mut lab) = Lab::up(4, &IPV4, SLOW) else {
        return;
    };
    let mut beside = lab.agent(2, &[]);
    let mut first_life = lab.agent(3, &[]);
    beside.ready();
    first_life.ready();
    let lines = nasty_lines(3, LINES);
    // The send lasts longer than the default of `--wait`, which counts from its end.
    let send = lab.send(1, "boss", "all", &lines, &[]);
    first_life.wait_for_notices(LINES / 2);
    first_life.kill();
    // While it is away, the send goes on.
    let away = beside.notices().len();
    beside.wait_for_notices(away + LINES / 8);
    let mut second_life = lab.agent(3, &[]);
    second_life.ready();
    let sent = send.finish();
    beside.wait_for_notices(LINES);
    let last = beside.notices().last().unwrap().seq;
    second_life.wait("the last number", |notices, lines| {
        notices.iter().any(|it| it.seq == last) || lost_in(lines).any(|(_, end)| end >= last)
    });
    second_life.leave();

    assert_same(&beside.what, &texts(&beside.notices()), &lines);
    let reference = by_seq(&beside.notices());
    let before = first_life.notices();
    let mut after = second_life.notices();
    let told = before.last().unwrap().seq;
    let repeated = after.iter().filter(|it| it.seq <= told).count();
    figure("3 lines printed again after a kill", repeated);
    assert!(repeated <= REPEATED_MAX, "{repeated}");
    assert!(
        after.iter().take(repeated).all(|it| it.seq <= told),
        "what is repeated comes first"
    );
    after.drain(..repeated);
    let both: Vec<_> = before.into_iter().chain(after).collect();
    let lost = [first_life.lost(), second_life.lost()].concat();
    assert_in_order("both lives", &both, &lost, &reference);
    let end = both.last().unwrap().seq;
    let told_end = lost.iter().map(|(_, last)| *last).max().unwrap_or(0);
    assert_eq!(end.max(told_end), last, "nothing is missing at the end");
    figure("3 lines lost over a restart", LINES - both.len());
    // The source still has all of it, so there is no reason to lose anything.
    assert_eq!((both.len(), lost.len()), (LINES, 0));
    assert_eq!(number(&sent.summary, "expected"), 2, "{}", sent.summary);
    // What the sender knows of the first life is the next test's.
    figure("3 exit code of the send", sent.code);
}

/// Goal: what an agent had printed before it was killed counts as received, even when its report of it was lost. Method:
/// as above; for a while before the kill the sender's host loses all that comes in.
#[test]
fn what_a_killed_agent_had_printed_is_received() {
    let Some(mut lab) = Lab::up(2, &IPV4, SLOW) else {
        return;
    };
    let mut first_life = lab.agent(2, &[]);
    first_life.ready();
    let lines = nasty_lines(11, LINES);
    let send = lab.send(1, "boss", "all", &lines, &["--wait", "10s"]);
    first_life.wait_for_notices(LINES / 2);
    lab.tool(&["loss", &lab.name, "1", "100"]);
    let reported = first_life.drain().len();
    first_life.wait_for_notices(reported + LINES / 8);
    first_life.kill();
    lab.tool(&["loss", &lab.name, "1", "0"]);
    let mut second_life = lab.agent(2, &[]);
    second_life.ready();
    let sent = send.finish();
    second_life.leave();
    let seqs: BTreeSet<_> = [first_life.notices(), second_life.notices()]
        .concat()
        .iter()
        .map(|notice| notice.seq)
        .collect();
    assert_eq!(seqs.len(), LINES, "it has printed all");
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(1, &[]);
}

/// Goal: when a source dies and starts anew, the agents print of its first life what they have, in order, say what of it
/// is missing, and then the second life, whole, once and in order; the two never mix. Method: kill -9 the send in the
/// middle, with gaps that it has not mended (40 % loss, and then no NACK reaches it), the same send again under the same name.
#[test]
fn a_source_killed_and_started_again() {
    let Some(mut lab) = Lab::up(6, &IPV4, SLOW) else {
        return;
    };
    let mut agents: Vec<_> = (2..=6).map(|host| lab.agent(host, &[])).collect();
    agents.iter_mut().for_each(Agent::ready);
    lab.tool(&["loss", &lab.name, "all", "40"]);
    let lines = nasty_lines(4, LINES);
    let mut first_life = lab.send(1, "boss", "all", &lines, &["--wait", "20s"]);
    agents[0].wait_for_notices(LINES / 2);
    // From here on nobody's NACKs are heard.
    lab.tool(&["loss", &lab.name, "1", "100"]);
    thread::sleep(FAULT / 2);
    first_life.kill();
    lab.tool(&["loss", &lab.name, "all", "5"]);
    let sent = lab
        .send(1, "boss", "all", &lines, &["--wait", "20s"])
        .finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(5, &[]);

    let mut lives = Vec::new();
    for agent in &mut agents {
        let last = lines.last().unwrap();
        agent.wait("the second life's last line", |notices, _| {
            notices.len() >= LINES && notices.last().is_some_and(|it| it.text == *last)
        });
        agent.leave();
        let what = &agent.what;
        let sessions: Vec<_> = positions(&agent.lines, "session").collect();
        let told: Vec<_> = sessions
            .iter()
            .map(|&at| (text(&agent.lines[at], "state"), &agent.lines[at]["why"]))
            .collect();
        let states: Vec<_> = told.iter().map(|(state, _)| *state).collect();
        assert!(
            states.starts_with(&["started", "ended", "started"]),
            "{what}: {told:?}"
        );
        assert_eq!(told[1].1, "replaced", "{what}");
        let id = |at: usize| text(&agent.lines[sessions[at]], "session");
        assert!(id(0) == id(1) && id(0) != id(2), "{what}");
        let (first, second) = agent.lines.split_at(sessions[2]);
        assert_same(what, &texts(&notices_in(second)), &lines);
        assert_eq!(
            lost_in(second).count(),
            0,
            "{what} lost something of the second life"
        );
        lives.push((
            what.clone(),
            notices_in(first),
            lost_in(first).collect::<Vec<_>>(),
        ));
    }
    // Which numbers the first life had is known from all who heard it.
    let reference: BTreeMap<_, _> = lives
        .iter()
        .flat_map(|(_, notices, _)| by_seq(notices))
        .collect();
    let known: Vec<_> = reference.values().map(String::as_str).collect();
    assert!(
        is_subsequence(&known, &lines),
        "the first life is a part of what was sent"
    );
    for (what, notices, lost) in &lives {
        assert_in_order(what, notices, lost, &reference);
        figure(
            &format!("4 first life at {what}: lines, runs lost"),
            format!("{}, {lost:?}", notices.len()),
        );
    }
}

/// Goal: a notice of which only a part came, before its source died, is told lost. Method: kill -9 the send in the middle
/// of a long notice that takes seconds, and send again under the same name.
#[test]
fn a_notice_that_came_in_part_is_told_lost() {
    let Some(mut lab) = Lab::up(2, &IPV4, SLOW) else {
        return;
    };
    let mut agent = lab.agent(2, &[]);
    agent.ready();
    let long = "y".repeat(10 * LONG_LINE_BYTES);
    let lines = vec!["one".to_owned(), long, "three".to_owned()];
    let mut send = lab.send(1, "boss", "all", &lines, &[]);
    agent.wait_for_notices(1);
    thread::sleep(FAULT);
    send.kill();
    let again = vec!["second life".to_owned()];
    let sent = lab.send(1, "boss", "all", &again, &[]).finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    agent.wait_for_notices(2);
    agent.leave();
    assert_same(
        &agent.what,
        &texts(&agent.notices()),
        &["one".to_owned(), again[0].clone()],
    );
    let lost = agent.lost();
    assert!(
        lost.iter().any(|&(first, last)| first == 1 && last > 1),
        "{lost:?}"
    );
}

/// Goal: a firewall that refuses what the sender sends is counted and survived. Method: `tools/lab deny` (EPERM) in the
/// middle of a slow send, for many repair cycles.
#[test]
fn a_firewall_that_refuses_is_survived() {
    let Some(mut lab) = Lab::up(4, &IPV4, SLOW) else {
        return;
    };
    let mut agents: Vec<_> = (2..=4).map(|host| lab.agent(host, &[])).collect();
    agents.iter_mut().for_each(Agent::ready);
    let lines = nasty_lines(5, LINES);
    let send = lab.send(1, "boss", "all", &lines, &["--wait", "20s"]);
    agents[0].wait_for_notices(LINES / 8);
    lab.tool(&["deny", &lab.name, "1", "on"]);
    thread::sleep(FAULT);
    lab.tool(&["deny", &lab.name, "1", "off"]);
    let sent = send.finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(3, &[]);
    let send_errors = number(&sent.summary, "send_errors");
    figure("5 datagrams refused", send_errors);
    assert!(send_errors > 0, "{}", sent.summary);
    all_have(&mut agents, &lines);
}

/// Goal: an agent whose link goes and comes back has everything in the end. Method: in a slow send, first the cable of one
/// host is pulled, then its interface is disabled, each for many repair cycles, once it has caught up with its neighbours
/// and what was on the way has come; the neighbours must not notice.
#[test]
fn a_link_that_goes_and_comes_back_is_survived() {
    let Some(mut lab) = Lab::up(4, &IPV4, SLOW) else {
        return;
    };
    let mut agents: Vec<_> = (2..=4).map(|host| lab.agent(host, &[])).collect();
    agents.iter_mut().for_each(Agent::ready);
    let lines = nasty_lines(6, 2 * LINES);
    let send = lab.send(1, "boss", "all", &lines, &["--wait", "20s"]);
    for how in [&[][..], &["--admin"]] {
        let caught_up = agents[0].drain().len().max(LINES / 8);
        agents[1].wait_for_notices(caught_up);
        let link = |state| [&["link", &lab.name, "3", state], how].concat();
        lab.tool(&link("down"));
        agents[1].wait_for_quiet(FAULT / 2);
        let neighbour = agents[0].drain().len();
        let before = agents[1].drain().len();
        thread::sleep(FAULT);
        let during = agents[1].drain().len();
        assert!(
            agents[0].drain().len() > neighbour,
            "{how:?}: the send went on"
        );
        lab.tool(&link("up"));
        let up = Instant::now();
        agents[1].wait_for_notices(during + 50);
        figure(&format!("6 link {how:?} up to 50 lines more"), up.elapsed());
        assert_eq!(before, during, "{how:?}: notices came with the link down");
    }
    let sent = send.finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(3, &[]);
    all_have(&mut agents, &lines);
    assert!(
        agents[1].notices().iter().any(|it| it.is_repaired),
        "something was missed"
    );
}

/// Goal: IPv6 groups work as IPv4's do. Method: five agents on a group in ff13::/16, with loss.
#[test]
fn ipv6_groups_work() {
    if !Path::new("/proc/net/if_inet6").exists() {
        return skipped("this kernel has no IPv6");
    }
    let Some(mut lab) = Lab::up(6, &IPV6, "") else {
        return;
    };
    let mut agents: Vec<_> = (2..=6).map(|host| lab.agent(host, &[])).collect();
    agents.iter_mut().for_each(Agent::ready);
    lab.tool(&["loss", &lab.name, "all", "5"]);
    let lines = nasty_lines(7, LINES);
    let sent = lab.send(1, "boss", "all", &lines, &[]).finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(5, &[]);
    all_have(&mut agents, &lines);
}

/// Goal: a team's notices reach the team and are expected of it only; a notice to several groups is shown once. Method:
/// two of four agents in `billing`; a last notice to all shows that nothing else was on its way.
#[test]
fn two_groups_and_teams() {
    let Some(mut lab) = Lab::up(5, &IPV4, "") else {
        return;
    };
    let mut agents: Vec<_> = (2..=5)
        .map(|host| {
            lab.agent(
                host,
                if host <= 3 {
                    &["--team", "billing"]
                } else {
                    &[]
                },
            )
        })
        .collect();
    agents.iter_mut().for_each(Agent::ready);
    let to_billing = vec!["only for billing".to_owned()];
    let sent = lab.send(1, "boss", "billing", &to_billing, &[]).finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(2, &[]);

    let to_both = nasty_lines(8, 300);
    let sent = lab.send(1, "boss", "all,billing", &to_both, &[]).finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(4, &[]);

    let to_all = vec!["for all".to_owned()];
    let sent = lab.send(1, "boss", "all", &to_all, &[]).finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(4, &[]);
    for (at, agent) in agents.iter_mut().enumerate() {
        let billing = if at < 2 { &to_billing[..] } else { &[] };
        let should = [billing, &to_both, &to_all].concat();
        agent.wait_for_notices(should.len());
        agent.leave();
        assert_same(&agent.what, &texts(&agent.notices()), &should);
    }
}

/// Goal: a datagram that one of eight loses in the middle of a stream is sent again on request, and an isolated one that
/// one of eight loses comes again mostly by itself: no more requests than losses; everybody shows everything once, in
/// order. Method: each host's firewall drops the first transmission of notices that carry its mark; those of the stream
/// are too large to be sent again unasked. `perf/repair` measures how long it takes.
#[test]
fn one_of_eight_loses_a_datagram() {
    let Some(mut lab) = Lab::up_open(9, &IPV4, "") else {
        return;
    };
    let mut agents: Vec<_> = (2..=9).map(|host| lab.agent(host, &[])).collect();
    for (host, agent) in (2..).zip(&mut agents) {
        lab.lose_marked(host, "boss");
        agent.ready();
    }
    // Every fortieth of a fast stream; then every one of isolated notices; a host of eight in turn.
    let cases = [("2000", 40, 1_000), ("10", 1, 40)];
    let mut earlier = 0;
    for (rate, every, bytes) in cases {
        let losers: Vec<_> = (0..40 * every)
            .map(|at| (at % every == every - 1).then_some(at / every % 8))
            .collect();
        let line = |(at, loser): (usize, &Option<usize>)| {
            let mark = loser.map_or('-', |agent| Lab::mark(agent + 2));
            format!("{mark}{at:0bytes$}")
        };
        // The last is nobody's: an agent has all when it has that.
        let lines: Vec<_> = losers.iter().chain(&[None]).enumerate().map(line).collect();
        let sent = lab
            .send(1, "boss", "all", &lines, &["--rate", rate])
            .finish();
        assert_eq!(sent.code, 0, "{}", sent.summary);
        sent.says(8, &[]);
        for (number, agent) in agents.iter_mut().enumerate() {
            agent.wait_for_notices(earlier + lines.len());
            let notices = agent.notices();
            assert_same(&agent.what, &texts(&notices[earlier..]), &lines);
            let lost = losers.iter().zip(&notices[earlier..]);
            let mut lost = lost.filter(|(loser, _)| **loser == Some(number));
            assert!(
                every == 1 || lost.all(|(_, notice)| notice.is_repaired),
                "{}: too large to come by itself",
                agent.what
            );
        }
        earlier += lines.len();
        let nacks = number(&sent.summary, "nacks_received");
        figure(&format!("13 {rate} a second, 40 losses: NACKs"), nacks);
        if every == 1 {
            assert!(nacks <= 40, "{}", sent.summary);
        }
    }
    for (host, agent) in (2..=9).zip(&mut agents) {
        let dropped = lab.dropped(&format!("{host}"), "loss");
        assert_eq!(dropped, 10, "{}: the losses have happened", agent.what);
        agent.leave();
        assert_eq!(agent.lost(), [], "{}", agent.what);
    }
}

/// Goal: nobody on the floor is an answer too, given in time. Method: a send on an empty floor, once for eyes, once for
/// machines.
#[test]
fn nobody_is_there() {
    let Some(mut lab) = Lab::up(1, &IPV4, "") else {
        return;
    };
    let wait = Duration::from_secs(1);
    for format in [&[][..], &["--json"]] {
        let began = Instant::now();
        let flags = [
            &["--to", "all", "--wait", "1s"],
            format,
            &["is anyone there"],
        ]
        .concat();
        let mut send = lab.program(1, "send", "send", &flags, Stdio::null());
        let status = send.end();
        let took = began.elapsed();
        assert_eq!(status.code(), Some(3));
        assert!(
            took >= wait && took < wait + Duration::from_secs(2),
            "{took:?}"
        );
        if format.is_empty() {
            assert_eq!(send.lines, ["nobody heard in 1 s"]);
        } else {
            let summary = send.lines.last().unwrap();
            assert_eq!(
                (number(summary, "expected"), number(summary, "complete")),
                (0, 0)
            );
        }
    }
}

/// Goal: an agent that is asked to go says farewell, so that nobody waits for it. Method: SIGTERM to one of three, which
/// ends with 0; a send that starts right then expects the other two.
#[test]
fn sigterm_leaves_in_good_order() {
    let Some(mut lab) = Lab::up(4, &IPV4, "") else {
        return;
    };
    let mut agents: Vec<_> = (2..=4).map(|host| lab.agent(host, &[])).collect();
    agents.iter_mut().for_each(Agent::ready);
    let lines = nasty_lines(10, 50);
    let sent = lab.send(1, "boss", "all", &lines, &[]).finish();
    sent.says(3, &[]);
    agents[1].leave();
    let sent = lab.send(1, "boss", "all", &lines, &[]).finish();
    assert_eq!(sent.code, 0, "{}", sent.summary);
    sent.says(2, &[]);
    assert_same(&agents[1].what, &texts(&agents[1].notices()), &lines);
}

/// A LAN with a floor file, and the place where its programs write. It goes when this is dropped; its programs are to be
/// dropped before, or are killed with it.
struct Lab {
    name: String,
    directory: TempDir,
    floor: PathBuf,
    programs: usize,
    logs: Vec<PathBuf>,
    /// Without keys.
    is_open: bool,
    _turn: MutexGuard<'static, ()>,
}

/// One lab at a time: all of them share the machine, and the kernel's receive queue.
static TURN: Mutex<()> = Mutex::new(());
/// Labs made so far.
static LABS: AtomicUsize = AtomicUsize::new(0);
/// What the labs of these tests are called: with the process behind it, so that a later run knows which are left over.
const LAB_PREFIX: &str = "test";

impl Lab {
    /// A LAN of `hosts` with the groups `all` and `billing`; nothing where there can be none.
    fn up(hosts: usize, groups: &[&str; 2], more: &str) -> Option<Self> {
        if let Err(why) = usable() {
            skipped(&why);
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        remove_left_overs();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{LAB_PREFIX}-{}-{number}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        let floor = directory.path().join("floor.toml");
        let [all, billing] = groups;
        let text = format!(
            "[floor]\nname = \"{name}\"\ninterface = \"eth0\"\nttl = 1\n\n[groups.all]\naddress = \"{all}\"\n\n\
             [groups.billing]\naddress = \"{billing}\"\n\n{more}"
        );
        fs::write(&floor, text).unwrap();
        let lab = Self {
            name,
            directory,
            floor,
            programs: 0,
            logs: Vec::new(),
            is_open: false,
            _turn: turn,
        };
        lab.keys(&["keys", "init", "--keys"]);
        lab.grant("boss");
        lab.keys(&["floor", "sign", "--keys"]);
        match run_tool(&["up", &lab.name, &hosts.to_string()]) {
            Ok(_) => Some(lab),
            // A root without the right to make namespaces, as in most containers.
            Err(error) if error.contains("the kernel made no") => {
                skipped(&error);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The same without keys: for a test that looks into datagrams on the way.
    fn up_open(hosts: usize, groups: &[&str; 2], more: &str) -> Option<Self> {
        let mut lab = Self::up(hosts, groups, more)?;
        lab.is_open = true;
        Some(lab)
    }

    /// Lets `name` send in all lanes to all groups.
    fn grant(&self, name: &str) {
        let lanes = ["--lane", "emergency", "--lane", "routine", "--lane", "bulk"];
        let what = ["keys", "grant", name, "--every-group"];
        self.keys(&[&what[..], &lanes, &["--keys"]].concat());
    }

    /// Runs a command that ends with the folder of keys.
    fn keys(&self, args: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_floorcast"))
            .args(args)
            .arg(self.directory.path().join("keys"))
            .arg("--floor")
            .arg(&self.floor)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// Starts an agent called by its host's number, with a memory that outlives it.
    fn agent(&mut self, host: usize, flags: &[&str]) -> Agent {
        let name = format!("ws-{host}");
        let state = self.directory.path().join(format!("state-{host}"));
        let own = [
            "--json",
            "--name",
            &name,
            "--state",
            state.to_str().unwrap(),
        ];
        self.program(host, &name, "agent", &[&own, flags].concat(), Stdio::null())
    }

    /// Starts to send `lines`.
    fn send(
        &mut self,
        host: usize,
        name: &str,
        to: &str,
        lines: &[String],
        flags: &[&str],
    ) -> Send {
        let input = self
            .directory
            .path()
            .join(format!("input-{}", self.programs));
        fs::write(&input, lines.join("\n") + "\n").unwrap();
        let own = ["--json", "--lines", "--name", name, "--to", to];
        if !self.is_open {
            self.grant(name);
        }
        let input = File::open(&input).unwrap();
        Send {
            began: Instant::now(),
            program: self.program(host, name, "send", &[&own, flags].concat(), input.into()),
        }
    }

    fn program(
        &mut self,
        host: usize,
        what: &str,
        command: &str,
        flags: &[&str],
        input: Stdio,
    ) -> Agent {
        self.programs += 1;
        let log = self
            .directory
            .path()
            .join(format!("{}-{what}.log", self.programs));
        let mut child = tool(&["exec", &self.name, &host.to_string()])
            .args([env!("CARGO_BIN_EXE_floorcast"), command])
            .args(self.is_open.then_some("--open-lab"))
            .arg("--floor")
            .arg(&self.floor)
            .args(flags)
            .env("TMPDIR", self.directory.path()) // locks of names
            .env("XDG_STATE_HOME", self.directory.path().join("state"))
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.logs.push(log);
        let (sender, output) = mpsc::channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            let mut line = Vec::new();
            // A program that is killed may leave a part of a line: nobody could use it.
            while stdout.read_until(b'\n', &mut line).is_ok() && line.pop() == Some(b'\n') {
                let line = String::from_utf8(std::mem::take(&mut line)).unwrap();
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        Agent {
            what: what.to_owned(),
            child,
            output,
            lines: Vec::new(),
        }
    }

    fn tool(&self, arguments: &[&str]) -> String {
        run_tool(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What a notice begins with that `host` is to lose.
    fn mark(host: usize) -> char {
        char::from(b'@' + u8::try_from(host).unwrap())
    }

    /// From now on `host` loses the first transmission of each notice from `name` that begins with its mark.
    fn lose_marked(&self, host: usize, name: &str) {
        // UDP header and datagram header; then the type and the flags of a message that is DATA and no repair or copy.
        let message = 8 + 32;
        // Message header, DATA, segment header, notice, sender's name.
        let text = message + 4 + 20 + 4 + 27 + name.len();
        let (message, text, mark) = (8 * message, 8 * text, u32::from(Self::mark(host)));
        let rules = format!(
            "add table inet lab; add counter inet lab loss; \
             add chain inet lab marked {{ type filter hook input priority 1; }}; \
             add rule inet lab marked meta l4proto udp @th,{message},16 0x0100 @th,{text},8 {mark} counter name loss drop"
        );
        self.tool(&["exec", &self.name, &host.to_string(), "nft", &rules]);
    }

    /// Datagrams dropped so far.
    fn dropped(&self, host: &str, kind: &str) -> u64 {
        self.tool(&["dropped", &self.name, host, kind])
            .trim()
            .parse()
            .unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = run_tool(&["down", &self.name]) {
            eprintln!("{error}");
        }
        if thread::panicking() {
            for log in &self.logs {
                let text = fs::read_to_string(log).unwrap_or_default();
                let text: Vec<_> = text.lines().collect();
                let tail = &text[text.len().saturating_sub(8)..];
                eprintln!("{}:\n  {}", log.display(), tail.join("\n  "));
            }
        }
    }
}

/// A program in a host, and what it has printed. Killed when dropped.
struct Agent {
    what: String,
    child: Child,
    output: Receiver<Value>,
    lines: Vec<Value>,
}

impl Agent {
    /// Waits until it listens.
    fn ready(&mut self) {
        self.wait("its readiness", |_, lines| {
            positions(lines, "ready").next().is_some()
        });
    }

    fn wait_for_notices(&mut self, count: usize) {
        let mut seen = 0;
        let mut has = 0;
        self.wait_lines(&format!("{count} notices"), |lines| {
            has += positions(&lines[seen..], "notice").count();
            seen = lines.len();
            has >= count
        });
    }

    /// Waits until `is_met` by the notices and by all lines.
    fn wait(&mut self, what: &str, is_met: impl Fn(&[Notice], &[Value]) -> bool) {
        self.wait_lines(what, |lines| is_met(&notices_in(lines), lines));
    }

    fn wait_lines(&mut self, what: &str, mut is_met: impl FnMut(&[Value]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        self.drain();
        while !is_met(&self.lines) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) => self.lines.push(line),
                Err(why) => panic!(
                    "{} waited for {what} in vain ({why}): {} notices, then {:?}",
                    self.what,
                    self.notices().len(),
                    self.lines.last()
                ),
            }
            self.drain();
        }
    }

    /// Waits until it has printed nothing for `quiet`.
    fn wait_for_quiet(&mut self, quiet: Duration) {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.output.recv_timeout(quiet) {
            self.lines.push(line);
            assert!(Instant::now() < deadline, "{} is never quiet", self.what);
        }
    }

    /// Takes in what it has printed by now; all of its notices.
    fn drain(&mut self) -> Vec<Notice> {
        self.lines.extend(self.output.try_iter());
        self.notices()
    }

    fn notices(&self) -> Vec<Notice> {
        notices_in(&self.lines)
    }

    fn notices_from(&self, from: &str) -> Vec<Notice> {
        let mut notices = self.notices();
        notices.retain(|notice| notice.from == from);
        notices
    }

    fn lost(&self) -> Vec<(u64, u64)> {
        lost_in(&self.lines).collect()
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("sh");
        kill.arg("-c")
            .arg(format!("kill -{name} {}", self.child.id()));
        assert!(
            kill.status().unwrap().success(),
            "kill -{name} {}",
            self.what
        );
    }

    /// Kills it, and takes in what it had printed.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.end();
    }

    /// Asks it to leave: it ends well, and nothing more can come of it.
    fn leave(&mut self) {
        self.signal("TERM");
        let status = self.end();
        assert_eq!(status.code(), Some(0), "{}: {status}", self.what);
    }

    /// Waits for its end, and takes in the rest of what it printed.
    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{} does not end", self.what),
            }
        }
        ended(&mut self.child, deadline).unwrap_or_else(|| panic!("{} does not end", self.what))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended long since.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A send on its way.
struct Send {
    program: Agent,
    began: Instant,
}

/// A send that has ended.
struct Sent {
    code: i32,
    receipts: Vec<Value>,
    summary: Value,
    took: Duration,
}

impl Send {
    fn finish(mut self) -> Sent {
        let status = self.program.end();
        let took = self.began.elapsed();
        let lines = std::mem::take(&mut self.program.lines);
        let (summary, others) = lines
            .split_last()
            .unwrap_or_else(|| panic!("{} printed nothing: {status}", self.program.what));
        assert_eq!(text(summary, "event"), "summary");
        // Besides, it says where losses were.
        let (losses, receipts): (Vec<_>, Vec<_>) = others
            .iter()
            .cloned()
            .partition(|line| text(line, "event") == "loss");
        assert_eq!(positions(&receipts, "receipt").count(), receipts.len());
        let told = losses.len() as u64 + number(summary, "losses_left_out");
        let counted: u64 = ["edge", "segment", "source", "scattered"]
            .map(|place| number(&summary["losses"], place))
            .iter()
            .sum();
        assert_eq!(told, counted, "{summary}");
        Sent {
            code: status.code().unwrap(),
            receipts,
            summary: summary.clone(),
            took,
        }
    }

    fn kill(&mut self) {
        self.program.kill();
        assert!(
            positions(&self.program.lines, "summary").next().is_none(),
            "it was not in the middle"
        );
    }
}

impl Sent {
    /// Who was expected and who is missing, as the summary has it.
    fn says(&self, expected: u64, missing: &[&str]) {
        let summary = &self.summary;
        assert_eq!(number(summary, "expected"), expected, "{summary}");
        assert_eq!(names(summary), missing, "{summary}");
        assert_eq!(
            number(summary, "notices"),
            number(summary, "complete") + number(summary, "incomplete"),
            "{summary}"
        );
        assert_eq!(
            number(summary, "notices"),
            u64::try_from(self.receipts.len()).unwrap(),
            "{summary}"
        );
        if missing.is_empty() {
            assert_eq!(number(summary, "incomplete"), 0, "{summary}");
        }
    }
}

/// A notice that an agent printed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Notice {
    from: String,
    seq: u64,
    text: String,
    sent_ns: u64,
    received_ns: u64,
    is_repaired: bool,
}

fn notices_in(lines: &[Value]) -> Vec<Notice> {
    positions(lines, "notice")
        .map(|at| &lines[at])
        .map(|line| Notice {
            from: text(line, "from").to_owned(),
            seq: number(line, "seq"),
            text: text(line, "text").to_owned(),
            sent_ns: number(line, "sent_ns"),
            received_ns: number(line, "received_ns"),
            is_repaired: line["repaired"] == true,
        })
        .collect()
}

fn lost_in(lines: &[Value]) -> impl Iterator<Item = (u64, u64)> {
    positions(lines, "lost").map(|at| (number(&lines[at], "first"), number(&lines[at], "last")))
}

/// Whose sessions have ended.
fn ends_from(lines: &[Value]) -> impl Iterator<Item = &str> {
    positions(lines, "session")
        .map(|at| &lines[at])
        .filter(|line| line["state"] == "ended")
        .map(|line| text(line, "from"))
}

/// Where among `lines` the events of a kind are.
fn positions(lines: &[Value], event: &str) -> impl Iterator<Item = usize> {
    let is_one = move |(at, line): (usize, &Value)| (line["event"] == event).then_some(at);
    lines.iter().enumerate().filter_map(is_one)
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {line}"))
}

fn number(line: &Value, field: &str) -> u64 {
    line[field]
        .as_u64()
        .unwrap_or_else(|| panic!("no {field} in {line}"))
}

/// Who is missing, as a receipt or a summary has it.
fn names(line: &Value) -> Vec<&str> {
    line["missing"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn texts(notices: &[Notice]) -> Vec<String> {
    notices.iter().map(|notice| notice.text.clone()).collect()
}

fn by_seq(notices: &[Notice]) -> BTreeMap<u64, String> {
    notices
        .iter()
        .map(|notice| (notice.seq, notice.text.clone()))
        .collect()
}

/// Ends the agents, which have printed exactly `lines`.
fn all_have(agents: &mut [Agent], lines: &[String]) {
    for agent in agents {
        agent.wait_for_notices(lines.len());
        agent.leave();
        assert_same(&agent.what, &texts(&agent.notices()), lines);
        assert_eq!(agent.lost(), [], "{}", agent.what);
    }
}

/// As `assert_eq`, without printing hundreds of kilobytes.
fn assert_same(what: &str, is: &[String], should: &[String]) {
    let difference = is.iter().zip(should).position(|(is, should)| is != should);
    if let Some(at) = difference {
        let cut = |text: &str| text.chars().take(80).collect::<String>();
        panic!(
            "{what}, notice {at}: {:?} instead of {:?}",
            cut(&is[at]),
            cut(&should[at])
        );
    }
    assert_eq!(is.len(), should.len(), "{what}: how many notices");
}

/// Numbers ascend and none is both printed and lost; each text is its number's; what lies below the last number that is
/// printed or lost is one of the two.
fn assert_in_order(
    what: &str,
    notices: &[Notice],
    lost: &[(u64, u64)],
    reference: &BTreeMap<u64, String>,
) {
    for pair in notices.windows(2) {
        let (one, next) = (pair[0].seq, pair[1].seq);
        assert!(one < next, "{what}: {next} after {one}");
    }
    let is_lost = |seq| {
        lost.iter()
            .any(|&(first, last)| first <= seq && seq <= last)
    };
    for notice in notices {
        let seq = notice.seq;
        assert_eq!(
            reference.get(&seq),
            Some(&notice.text),
            "{what}: the text of {seq}"
        );
        assert!(!is_lost(seq), "{what}: {seq} is printed and lost");
    }
    let printed: BTreeSet<_> = notices.iter().map(|notice| notice.seq).collect();
    let lost_end = lost.iter().map(|&(_, last)| last).max();
    let Some(end) = printed.last().copied().max(lost_end) else {
        return;
    };
    for &seq in reference.range(..=end).map(|(seq, _)| seq) {
        assert!(
            printed.contains(&seq) || is_lost(seq),
            "{what}: {seq} is neither printed nor lost"
        );
    }
}

fn is_subsequence(of: &[&str], all: &[String]) -> bool {
    let mut rest = all.iter();
    of.iter().all(|text| rest.any(|line| line == text))
}

/// Lines as in a nasty text file: scripts, emoji, marks that turn the line around, tabs, blanks at the ends, quotes and
/// backslashes, control characters, empty ones, one-character ones, and two of about 60,000 bytes.
fn nasty_lines(seed: u64, count: usize) -> Vec<String> {
    const PIECES: &[&str] = &[
        "Panne réseau, étage 2",
        "لوحة الهاتف معطلة",
        "电话线路恢复",
        "👏🏽👩‍👩‍👧‍👦☎\u{fe0f}",
        "\u{202e}dna\u{202c}",
        "\u{200f}\u{2066}x\u{2069}",
        "\t",
        "  ",
        "\"quoted\"",
        "'",
        "\\",
        "\\n",
        "\\u0000",
        "C:\\temp\\",
        "{\"event\":\"notice\"}",
        "$(true) `true` %s %n",
        "\u{1b}[2J\u{7}",
        "\r",
        "\u{0}",
        "\u{feff}",
        "e\u{301}\u{323}",
        "\u{10ffff}",
        "\u{2028}",
        "The lines are back, please call again.",
        "0123456789 abcdefghijklmnopqrstuvwxyz",
    ];
    let mut rng = Rng::new(seed);
    let mut draw = |n: usize| usize::try_from(rng.below(n as u64)).unwrap();
    let mut piece = |text: &mut String| text.push_str(PIECES[draw(PIECES.len())]);
    let mut lines: Vec<String> = Vec::new();
    let mut lengths = Rng::new(seed.wrapping_add(1));
    for at in 0..count {
        let mut line = String::new();
        match lengths.below(20) {
            _ if at == count / 10 || at == count / 5 => {
                while line.len() < LONG_LINE_BYTES {
                    piece(&mut line);
                }
            }
            0 => {}
            1 => line.push(['x', 'é', '☎', '👏', '\t', ' ', '"', '\\'][at % 8]),
            2 => {
                line.push_str(" \t");
                piece(&mut line);
                line.push_str("\t  ");
            }
            _ => (0..=lengths.below(8)).for_each(|_| piece(&mut line)),
        }
        assert!(line.len() <= TEXT_BYTES_MAX && !line.contains('\n'));
        lines.push(line);
    }
    lines
}

/// Why there can be no lab here, if so.
fn usable() -> Result<(), String> {
    // The owner of this process's directory is its effective user.
    if fs::metadata("/proc/self").map_or(true, |it| it.uid() != 0) {
        return Err("network namespaces need root".to_owned());
    }
    for (program, flag) in [("ip", "-V"), ("nft", "-v"), ("bash", "--version")] {
        let mut command = Command::new(program);
        command
            .arg(flag)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if !command
            .env("PATH", path())
            .status()
            .is_ok_and(|it| it.success())
        {
            return Err(format!("there is no {program} here"));
        }
    }
    Ok(())
}

/// Says so even when the output of tests that pass is held back.
fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    // Nobody may be reading.
    let _ = writeln!(io::stderr(), "skipped: {test}: {}", why.trim());
}

fn figure(what: &str, value: impl std::fmt::Debug) {
    println!("figure {what}: {value:?}");
}

/// Labs of runs that could not clean up, because they were killed themselves.
fn remove_left_overs() {
    let labs = run_tool(&["list"]).unwrap_or_default();
    for lab in labs.lines() {
        let process = lab
            .strip_prefix(LAB_PREFIX)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.split('-').next())
            .and_then(|process| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            // The next run tries again.
            let _ = run_tool(&["down", lab]);
        }
    }
}

/// `tools/lab` with these arguments.
fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/lab"));
    command.args(arguments).env("PATH", path());
    command
}

/// Runs `tools/lab` to its end; what it printed, or what it said was wrong.
fn run_tool(arguments: &[&str]) -> Result<String, String> {
    let mut command = tool(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // What it prints fits in a pipe.
    let status = ended(&mut child, Instant::now() + PATIENCE);
    if status.is_none() {
        // Its own way out takes the lab down.
        let _ = child.kill();
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if status.is_some_and(|status| status.success()) {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let error = String::from_utf8_lossy(&output.stderr);
        Err(format!("tools/lab {arguments:?}: {status:?}: {error}"))
    }
}

/// Waits for a child's end.
fn ended(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Where administrators' programs are.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

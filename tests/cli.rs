//! The command line as people and scripts meet it: every wrong flag and every wrong floor file gets exit code 2 and one
//! sentence that names what is wrong, help is help, and a closed pipe ends quietly.
//!
//! Each test starts the real binary. What is refused is refused before a socket is opened; what runs, runs on loopback.

#![cfg(feature = "app")]

mod process;

use std::fs;
use std::process::Stdio;

use process::{Ended, Lab, Running};

/// Goal: a wrong flag is refused with a sentence that names it. Method: one of each, on a floor that is good.
#[test]
fn wrong_flags() {
    let long = "x".repeat(65);
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["see floorcast --help"]),
        (&["bogus"], &["'bogus'"]),
        (&["--bogus"], &["'--bogus'"]),
        (&["floor"], &["see floorcast --help"]),
        (&["floor", "bogus"], &["'bogus'"]),
        (&["floor", "check", "a", "b"], &["'b'"]),
        (&["floor", "check", "a", "--floor", "b"], &["--floor"]),
        (&["demo", "--bogus"], &["'--bogus'"]),
        (&["demo", "bogus"], &["'bogus'"]),
        (&["demo", "--agents"], &["--agents"]),
        (&["demo", "--agents", "0"], &["--agents", "'0'", "5000"]),
        (
            &["demo", "--agents", "5001"],
            &["--agents", "'5001'", "5000"],
        ),
        (&["demo", "--agents", "x"], &["--agents", "'x'"]),
        (&["demo", "--agents", "1", "--agents", "2"], &["--agents"]),
        (&["demo", "--messages", "0"], &["--messages", "'0'"]),
        (
            &["demo", "--messages", "1000001"],
            &["--messages", "'1000001'"],
        ),
        (&["demo", "--size", "0"], &["--size", "'0'", "1 to 1000000"]),
        (&["demo", "--size", "1000001"], &["--size", "'1000001'"]),
        (&["demo", "--size", "1.5"], &["--size", "'1.5'", "whole"]),
        (&["demo", "--loss", "-1"], &["-1"]),
        (&["demo", "--loss=-1"], &["--loss", "'-1'", "0 to 90"]),
        (&["demo", "--loss", "91"], &["--loss", "'91'", "0 to 90"]),
        (&["demo", "--loss", "NaN"], &["--loss", "'NaN'"]),
        (&["demo", "--rate", "0"], &["--rate", "'0'"]),
        (&["demo", "--rate", "NaN"], &["--rate", "'NaN'"]),
        (&["demo", "--rate", "inf"], &["--rate", "'inf'"]),
        (&["demo", "--seed", "x"], &["--seed", "'x'"]),
        (
            &["send", "--to", "all", "--lines", "--rate", "0"],
            &["--rate", "'0'", "0.001 to 1000000"],
        ),
        (
            &["send", "--to", "all", "--lines", "--rate", "-1"],
            &["--rate", "'-1'"],
        ),
        (
            &["send", "--to", "all", "--lines", "--rate", "NaN"],
            &["--rate", "'NaN'"],
        ),
        (
            &["send", "--to", "all", "--lines", "--rate", "1e7"],
            &["--rate", "'1e7'"],
        ),
        (
            &["send", "--to", "all", "--rate", "5", "text"],
            &["--lines"],
        ),
        (&["agent", "--open-lab"], &["--name"]),
        (
            &["agent", "--open-lab", "--name", ""],
            &["--name \"\"", "1 to 64"],
        ),
        (
            &["agent", "--open-lab", "--name", "a\nb"],
            &["--name \"a\\nb\"", "control"],
        ),
        (
            &["agent", "--open-lab", "--name", "a\u{85}b"],
            &["--name", "control"],
        ),
        (
            &["agent", "--open-lab", "--name", &long],
            &["--name", &long, "64 bytes"],
        ),
        (
            &["agent", "--open-lab", "--name", "a", "--team", "sales"],
            &["--team", "\"sales\"", "billing"],
        ),
        (
            &["agent", "--open-lab", "--name", "a", "--team", ""],
            &["--team", "\"\""],
        ),
        (
            &[
                "agent",
                "--open-lab",
                "--name",
                "a",
                "--interface",
                "nonesuch0",
            ],
            &["nonesuch0", "there are"],
        ),
        (
            &[
                "agent",
                "--open-lab",
                "--name",
                "a",
                "--interface",
                "192.0.2.254",
            ],
            &["192.0.2.254"],
        ),
        (
            &[
                "agent",
                "--open-lab",
                "--name",
                "a",
                "--interface",
                "999999",
            ],
            &["999999"],
        ),
        (
            &["agent", "--open-lab", "--name", "a", "--interface", ""],
            &["--interface", "empty"],
        ),
        (
            &[
                "agent",
                "--open-lab",
                "--name",
                "a",
                "--no-state",
                "--state",
                "s",
            ],
            &["--state", "--no-state"],
        ),
        (&["agent", "--open-lab", "--name", "a", "text"], &["'text'"]),
        (&["agent", "--name", "a"], &["--open-lab", "forge"]),
        (&["send", "--open-lab", "text"], &["--to"]),
        (
            &["send", "--open-lab", "--to", "", "text"],
            &["--to", "empty"],
        ),
        (
            &["send", "--open-lab", "--to", "all,", "text"],
            &["--to", "\"all,\""],
        ),
        (
            &["send", "--open-lab", "--to", "sales", "text"],
            &["--to", "\"sales\"", "all, billing"],
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--lane",
                "nonsense",
                "text",
            ],
            &["--lane", "'nonsense'", "emergency, routine, bulk"],
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--wait",
                "nonsense",
                "text",
            ],
            &["--wait", "'nonsense'", "500ms"],
        ),
        (
            &["send", "--open-lab", "--to", "all", "--wait", "2", "text"],
            &["--wait", "'2'"],
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--expires",
                "0s",
                "text",
            ],
            &["--expires", "'0s'"],
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--expires",
                "400d",
                "text",
            ],
            &["--expires", "'400d'", "365d"],
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--name",
                "a\u{7}",
                "text",
            ],
            &["--name \"a\\u{7}\""],
        ),
        (
            &["send", "--open-lab", "--to", "all", "--name", &long, "text"],
            &["--name", &long],
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--interface",
                "nonesuch0",
                "text",
            ],
            &["nonesuch0"],
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--floor",
                "none.toml",
                "text",
            ],
            &["none.toml", "--floor"],
        ),
        (
            &["send", "--open-lab", "--to", "all", "two", "texts"],
            &["'texts'"],
        ),
        (&["send", "--to", "all", "text"], &["--open-lab", "forge"]),
    ];
    let lab = Lab::new();
    for (args, named) in cases {
        assert_refused(&lab.run(args), named);
    }
}

/// Goal: nothing is sent of an input that cannot be sent whole. Method: each such input, on standard input.
#[test]
fn wrong_texts() {
    let long = "x".repeat(1_048_486);
    let long_line = format!("short\n{long}\nshort\n");
    let cases: &[(&[&str], &[u8], &[&str])] = &[
        (&[], b"text", &["nothing to send", "TEXT", "--lines"]),
        (&[""], b"", &["empty"]),
        (&["-"], b"", &["empty"]),
        (&["--lines"], b"", &["empty"]),
        (&["--lines"], b"\n", &["empty"]),
        (&["--lines", "text"], b"line\n", &["--lines", "TEXT"]),
        (&["-"], b"one\ntwo\xff", &["not UTF-8", "line 2"]),
        (&["--lines"], b"one\ntwo\xc3", &["not UTF-8", "line 2"]),
        (
            &["-"],
            long.as_bytes(),
            &[
                "text 1",
                "1048486 bytes",
                "at most 1048485",
                "nothing was sent",
            ],
        ),
        (
            &["--lines"],
            long_line.as_bytes(),
            &["text 2", "1048486 bytes", "nothing was sent"],
        ),
    ];
    let lab = Lab::new();
    for (args, stdin, named) in cases {
        let args = [&["send", "--open-lab", "--to", "all"], *args].concat();
        assert_refused(&lab.run_with(&args, stdin), named);
    }
}

/// Goal: every program refuses a wrong floor file with the same sentence, which names file, line and fault. Method: one
/// fault at a time in a good file, through each command that reads one.
#[test]
fn wrong_floors() {
    const HEAD: &str = "[floor]\nname = \"acme\"\ninterface = \"127.0.0.1\"\nttl = 0\n";
    const ALL: &str = "[groups.all]\naddress = \"239.255.77.1:7700\"\n";
    let at = |address: &str| format!("{HEAD}[groups.team]\naddress = \"{address}\"\n");
    let cases: &[(String, &[&str])] = &[
        (String::new(), &["no [floor] table"]),
        (HEAD.to_owned(), &["no groups"]),
        (ALL.to_owned(), &["no [floor] table"]),
        (format!("[floor]\nttl = 1\n{ALL}"), &["line 1", "no name"]),
        (
            format!("[floor]\nname = \"\"\n{ALL}"),
            &["line 2", "\"\"", "1 to 64"],
        ),
        (
            format!("[floor]\nname = \"a\\tb\"\n{ALL}"),
            &["line 2", "U+0009"],
        ),
        (
            format!("{HEAD}intreface = 1\n{ALL}"),
            &["line 5", "\"intreface\""],
        ),
        (format!("{HEAD}{ALL}port = 1\n"), &["line 7", "\"port\""]),
        (
            format!("{HEAD}{ALL}[grops]\n"),
            &["line 7", "unknown table \"grops\""],
        ),
        (format!("x = 1\n{HEAD}{ALL}"), &["line 1", "\"x\""]),
        (
            format!("{HEAD}ttl = 2\n{ALL}"),
            &["line 5", "\"ttl\"", "second time"],
        ),
        (
            format!("[floor]\nname = \"a\"\nttl = 300\n{ALL}"),
            &["line 3", "ttl", "300", "255"],
        ),
        (
            format!("{HEAD}dscp = 64\n{ALL}"),
            &["line 5", "dscp", "64", "63"],
        ),
        (
            format!("{HEAD}{ALL}[rates]\ndata = \"fast\"\n"),
            &["line 8", "data", "\"fast\""],
        ),
        (
            format!("{HEAD}{ALL}[roster]\nremember = \"1s\"\n"),
            &["line 8", "remember", "\"1s\""],
        ),
        (
            format!("{HEAD}{ALL}[roster.listed]\nteam = [\"a\"]\n"),
            &["line 8", "\"team\""],
        ),
        (
            format!("{HEAD}{ALL}[roster.listed]\nall = [\"a\", \"a\"]\n"),
            &["line 8", "\"a\"", "twice"],
        ),
        (
            format!("{HEAD}[groups.\"Büro\"]\naddress = \"239.255.77.1:7700\"\n"),
            &["line 5", "\"Büro\"", "'B'"],
        ),
        (
            format!("{HEAD}[groups.all]\n"),
            &["line 5", "\"all\"", "no address"],
        ),
        (
            at("239.255.77.1"),
            &["line 6", "\"team\"", "239.255.77.1:7700"],
        ),
        (at("239.255.77.1:0"), &["line 6", "\"team\"", "port 0"]),
        (
            at("10.0.0.1:7700"),
            &["line 6", "10.0.0.1:7700", "multicast"],
        ),
        (
            at("224.0.0.5:7700"),
            &["line 6", "224.0.0.5:7700", "reserved"],
        ),
        (
            at("239.0.0.5:7700"),
            &["line 6", "239.0.0.5:7700", "01:00:5e:00:00:05"],
        ),
        (
            at("239.128.0.5:7700"),
            &["line 6", "239.128.0.5:7700", "224.0.0.5"],
        ),
        (
            at("232.1.1.1:7700"),
            &["line 6", "232.1.1.1:7700", "source-specific"],
        ),
        (
            at("[ff02::1]:7700"),
            &["line 6", "[ff02::1]:7700", "assigned"],
        ),
        (
            format!(
                "{}[groups.twin]\naddress = \"238.127.77.1:7700\"\n",
                at("239.255.77.1:7700")
            ),
            &["line 8", "\"twin\"", "\"team\"", "01:00:5e:7f:4d:01"],
        ),
        (
            format!(
                "{}[groups.twin]\naddress = \"239.255.77.1:7701\"\n",
                at("239.255.77.1:7700")
            ),
            &["line 8", "239.255.77.1", "two ports"],
        ),
        (
            format!("[floor]\nname = \"a\"\ninterface = \"nonesuch0\"\n{ALL}"),
            &["nonesuch0"],
        ),
        (format!("{HEAD}name"), &["line 5", "not TOML"]),
    ];
    for (text, named) in cases {
        let lab = Lab::from_text(text);
        // An interface is looked for here, not in the file, so that sentence does not name the file.
        let is_fault_of_file = !text.contains("nonesuch0");
        let named = [
            *named,
            if is_fault_of_file {
                &["floor.toml"]
            } else {
                &[]
            },
        ]
        .concat();
        for args in READERS {
            assert_refused(&lab.run(args), &named);
        }
    }
}

/// Goal: a floor file that cannot be read is named, with what to do. Method: none, a folder, other encodings.
#[test]
fn unreadable_floors() {
    let none = Lab::from_text("");
    fs::remove_file(none.file("floor.toml")).unwrap();
    let folder = Lab::from_text("");
    fs::remove_file(folder.file("floor.toml")).unwrap();
    fs::create_dir(folder.file("floor.toml")).unwrap();
    let latin1 = Lab::from_text(b"[floor]\nname = \"B\xfcro\"\n");
    let utf16 = Lab::from_text(b"\xff\xfe[\0f\0");
    let long = Lab::from_text("#".repeat((4 << 20) + 1));
    for args in READERS {
        assert_refused(
            &none.run(args),
            &["floor.toml: there is no such file", "--floor PATH"],
        );
        assert_refused(&folder.run(args), &["floor.toml: this is a directory"]);
        assert_refused(&latin1.run(args), &["floor.toml line 2", "0xfc", "UTF-8"]);
        assert_refused(&utf16.run(args), &["floor.toml line 1", "UTF-16"]);
        assert_refused(&long.run(args), &["floor.toml: the file is longer than"]);
    }
}

/// Every command that reads the floor file.
const READERS: [&[&str]; 4] = [
    &["floor", "check"],
    &["floor", "check", "--json"],
    &["agent", "--open-lab", "--name", "a", "--no-state"],
    &["send", "--open-lab", "--to", "all", "text"],
];

/// Goal: without keys, nothing runs where others could hear. Method: every interface of this machine that is not the
/// loopback, with a floor that is not allowed there. Each command also has a fault that is looked for after this one,
/// so that it would stop short of a socket even if it were not refused, and its sentence would be another.
#[test]
fn open_labs_beyond_the_loopback() {
    let interfaces = if_addrs::get_if_addrs().unwrap();
    let mut names: Vec<_> = interfaces
        .iter()
        .filter(|interface| !interface.is_loopback())
        .map(|interface| interface.name.as_str())
        .collect();
    names.dedup();
    if names.is_empty() {
        println!("skipped: this machine has no interface but the loopback");
    }
    let floor = |ttl: u8, address: &str| {
        Lab::from_text(format!(
            "[floor]\nname = \"a\"\nttl = {ttl}\n[groups.all]\naddress = \"239.255.77.1:7700\"\n\
             [groups.out]\naddress = \"{address}\"\n"
        ))
    };
    let hop = floor(2, "239.255.77.2:7700");
    let wide = floor(1, "239.1.77.2:7700");
    let wide6 = floor(1, "[ff15::7701]:7700");
    for name in names {
        for command in [
            &["send", "--open-lab", "--to", "all", "", "--interface", name][..],
            &["agent", "--open-lab", "--name", "", "--interface", name],
        ] {
            assert_refused(&hop.run(command), &["--open-lab is refused", "ttl is 2"]);
            assert_refused(
                &wide.run(command),
                &["--open-lab is refused", "\"out\" is 239.1.77.2:7700"],
            );
            assert_refused(
                &wide6.run(command),
                &["--open-lab is refused", "\"out\" is [ff15::7701]:7700"],
            );
        }
    }
}

/// Goal: one name is one agent. Method: a second one with the memory of the first, given or by default.
#[test]
fn two_agents_of_one_name() {
    let lab = Lab::new();
    for state in [&["--state", "here"][..], &[]] {
        let args = [&["agent", "--open-lab", "--name", "ws 1"], state].concat();
        let first = lab.start(&args);
        assert!(first.line().starts_with("ws 1 listens on "));
        assert_refused(&lab.run(&args), &["\"ws 1\"", "already", "--name"]);
    }
}

/// Goal: help is help. Method: each command's, and its version.
#[test]
fn help_and_version() {
    let lab = Lab::from_text("");
    for command in COMMANDS {
        for flag in ["--help", "-h"] {
            let help = lab.run(&[command, &[flag]].concat());
            assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{help:?}");
            assert!(help.stdout.contains("Usage: floorcast"), "{help:?}");
            // `floor` only leads to its own commands.
            assert!(
                command == ["floor"] || help.stdout.contains("Example"),
                "{help:?}"
            );
        }
    }
    for flag in ["--version", "-V"] {
        let version = lab.run(&[flag]);
        assert_eq!(
            (version.code, version.stderr.as_str()),
            (Some(0), ""),
            "{version:?}"
        );
        assert_eq!(
            version.stdout,
            format!("floorcast {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}

/// Goal: whatever is asked for its version tells it. Method: each command.
#[test]
fn every_command_tells_its_version() {
    let lab = Lab::from_text("");
    for command in COMMANDS {
        let version = lab.run(&[command, &["--version"]].concat());
        assert_eq!(version.code, Some(0), "{version:?}");
        assert!(
            version.stdout.contains(env!("CARGO_PKG_VERSION")),
            "{version:?}"
        );
    }
}

/// Every command, and what leads to them.
const COMMANDS: [&[&str]; 6] = [
    &[],
    &["demo"],
    &["agent"],
    &["send"],
    &["floor"],
    &["floor", "check"],
];

/// Goal: a good file is good, in words and in JSON. Method: one with all that can stand in it.
#[test]
fn a_good_floor() {
    let lab = Lab::from_text(
        "[floor]\nname = \"Büro 3\"\ninterface = \"127.0.0.1\"\nttl = 1\ndscp = 46\n\
         [groups.all]\naddress = \"239.255.77.1:7700\"\n[groups.six]\naddress = \"[ff15::7701]:7700\"\n\
         [rates]\ndata = \"100 Mbit/s\"\nrepair = \"10 Mbit/s\"\n\
         [roster]\nremember = \"2h\"\n[roster.listed]\nall = [\"ws-1\", \"ws-2\"]\n",
    );
    let words = lab.run(&["floor", "check"]);
    assert_eq!(
        (words.code, words.stderr.as_str()),
        (Some(0), ""),
        "{words:?}"
    );
    for part in [
        "floor Büro 3: good",
        "ttl 1",
        "all at 239.255.77.1:7700, 2 workstations listed",
        "six at [ff15::7701]:7700",
    ] {
        assert!(words.stdout.contains(part), "no {part:?} in {words:?}");
    }
    for args in [
        &["floor", "check", "--json"][..],
        &["floor", "check", "floor.toml", "--json"],
        &[
            "floor",
            "check",
            "--json",
            "--floor",
            "floor.toml",
            "--interface",
            "127.0.0.1",
        ],
    ] {
        let json = lab.run(args);
        assert_eq!((json.code, json.stderr.as_str()), (Some(0), ""), "{json:?}");
        assert_eq!(json.stdout.lines().count(), 1, "{json:?}");
        let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(
            (json["ok"].as_bool(), json["floor"].as_str()),
            (Some(true), Some("Büro 3"))
        );
        assert_eq!(
            (
                json["ttl"].as_u64(),
                json["data_bytes_per_s"].as_u64(),
                json["repair_bytes_per_s"].as_u64()
            ),
            (Some(1), Some(12_500_000), Some(1_250_000))
        );
        let groups = serde_json::json!([
            { "name": "all", "address": "239.255.77.1:7700", "listed": 2 },
            { "name": "six", "address": "[ff15::7701]:7700", "listed": 0 },
        ]);
        assert_eq!(json["groups"], groups);
    }
}

/// Goal: whoever stops reading is no failure. Method: standard output is a pipe whose reader is gone before the program
/// writes; it has to end by itself, with the exit code that it would have had.
#[test]
fn a_closed_pipe() {
    let lab = Lab::new();
    let cases: &[(&[&str], i32)] = &[
        (&["--help"], 0),
        (&["send", "--help"], 0),
        (&["--version"], 0),
        (&["floor", "check"], 0),
        (&["floor", "check", "--json"], 0),
        (
            &["demo", "--agents", "2", "--messages", "5", "--loss", "0"],
            0,
        ),
        (
            &[
                "demo",
                "--agents",
                "2",
                "--messages",
                "5",
                "--loss",
                "0",
                "--json",
            ],
            0,
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--wait",
                "100ms",
                "text",
            ],
            3,
        ),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--wait",
                "100ms",
                "--json",
                "text",
            ],
            3,
        ),
        (&["agent", "--open-lab", "--name", "ws-1", "--no-state"], 0),
        (
            &[
                "agent",
                "--open-lab",
                "--name",
                "ws-1",
                "--no-state",
                "--json",
            ],
            0,
        ),
    ];
    for (args, code) in cases {
        let mut command = lab.command(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(Stdio::from(writer));
        let ended = Running::start(command).end();
        assert_eq!(ended.code, Some(*code), "{ended:?}");
        assert_eq!(other_lines(&ended), Vec::<&str>::new(), "{ended:?}");
    }
}

/// Goal: as [`a_closed_pipe`], where standard error is that pipe too, as in `floorcast ... 2>&1 | head -1`.
#[test]
fn a_closed_pipe_for_standard_error() {
    let lab = Lab::new();
    let cases: &[(&[&str], i32)] = &[
        (&["bogus"], 2),
        (&["floor", "check", "none.toml"], 2),
        (&["send", "--to", "all", "text"], 2),
        (
            &[
                "send",
                "--open-lab",
                "--to",
                "all",
                "--wait",
                "100ms",
                "text",
            ],
            3,
        ),
        (&["agent", "--open-lab", "--name", "ws-1", "--no-state"], 0),
    ];
    for (args, code) in cases {
        let mut command = lab.command(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(Stdio::from(writer.try_clone().unwrap()));
        command.stderr(Stdio::from(writer));
        let ended = Running::start(command).end();
        assert_eq!(ended.code, Some(*code), "{ended:?}");
    }
}

/// Asserts exit code 2, nothing on standard output, and one sentence on standard error that names each of `named`.
fn assert_refused(ended: &Ended, named: &[&str]) {
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(2), ""),
        "{ended:?}"
    );
    let lines = other_lines(ended);
    assert!(lines.len() == 1, "not one sentence: {ended:?}");
    let sentence = lines[0].strip_prefix("floorcast: ").unwrap_or_default();
    assert!(
        !sentence.is_empty() && !sentence.chars().any(char::is_control),
        "{ended:?}"
    );
    for part in named {
        assert!(sentence.contains(part), "no {part:?} in {ended:?}");
    }
}

/// What stands on standard error besides the notice that a lab is open, which comes before a fault that is found late.
fn other_lines(ended: &Ended) -> Vec<&str> {
    ended
        .stderr
        .lines()
        .filter(|line| !line.contains("WARN open lab on "))
        .collect()
}

use std::collections::BTreeMap;

use super::*;

const HEAD: &str = "[floor]\nname = \"acme\"\n";
const TAIL: &str = "[groups.all]\naddress = \"239.255.77.1:7700\"\n";

fn fault(text: &str) -> String {
    match Floor::parse(text, "floor.toml") {
        Ok(floor) => panic!("taken: {text:?} as {floor:?}"),
        Err(error) => one_sentence(&error),
    }
}

fn one_sentence(error: &FloorError) -> String {
    let said = error.to_string();
    assert!(
        !said.chars().any(char::is_control) && !said.contains("  "),
        "{said:?}"
    );
    assert!(said.len() < 420 && !said.ends_with('.'), "{said:?}");
    said
}

/// Asserts what is said about each text: every part, on one line.
fn assert_faults(cases: &[(String, &[&str])]) {
    for (text, parts) in cases {
        let said = fault(text);
        println!("{said}");
        for part in *parts {
            assert!(
                said.contains(part),
                "no {part:?} in {said:?} about {text:?}"
            );
        }
    }
}

fn floor_with(line: &str) -> String {
    format!("{HEAD}{line}\n{TAIL}")
}

fn group_at(address: &str) -> String {
    format!("{HEAD}[groups.team]\naddress = \"{address}\"\n")
}

fn two_groups(first: &str, second: &str) -> String {
    format!("{HEAD}[groups.zulu]\naddress = \"{first}\"\n[groups.alpha]\naddress = \"{second}\"\n")
}

#[test]
fn the_least_that_works() {
    let floor = Floor::parse(&format!("{HEAD}{TAIL}"), "floor.toml").unwrap();
    let all = Group {
        name: "all".to_owned(),
        id: GroupId::of("all"),
        address: "239.255.77.1:7700".parse().unwrap(),
    };
    assert_eq!(floor.group("all"), Some(&all));
    assert_eq!(floor.group("al"), None);
    let expected = Floor {
        name: "acme".to_owned(),
        id: FloorId::of("acme"),
        interface: InterfaceSpec::Auto,
        ttl: 1,
        dscp: None,
        rates: Rates {
            data_bytes_per_s: 25_000_000,
            repair_bytes_per_s: 25_000_000,
        },
        repair: RepairRules::default(),
        groups: vec![all],
        enrolment: Enrolment {
            known: BTreeMap::new(),
            others: crate::keys::Others::FirstUse,
        },
        unsigned: BTreeSet::new(),
        roster: RosterRules {
            remember: Duration::from_secs(900),
            listed: BTreeMap::new(),
        },
    };
    assert_eq!(floor, expected);
}

#[test]
fn everything_said() {
    let text = r#"
            [groups.zulu]
            address = "[ff13::7701]:7700"
            [groups.all]
            address = "239.255.77.1:7700"
            [rates]
            data = "1.5 Gbit/s"
            repair = "64kbit"
            [roster]
            remember = "2h"
            [roster.listed]
            zulu = []
            all = ["ws-2", "ws-1 Süd"]
            [floor]
            name = "Büro 3"
            interface = 7
            ttl = 0
            dscp = 63
        "#;
    let floor = Floor::parse(text, "floor.toml").unwrap();
    assert_eq!(
        floor
            .groups
            .iter()
            .map(|group| group.name.as_str())
            .collect::<Vec<_>>(),
        ["all", "zulu"]
    );
    assert_eq!(
        floor.group("zulu").unwrap().address,
        "[ff13::7701]:7700".parse().unwrap()
    );
    assert_eq!(
        (floor.interface, floor.ttl, floor.dscp),
        (InterfaceSpec::Index(7), 0, Some(63))
    );
    assert_eq!(
        floor.rates,
        Rates {
            data_bytes_per_s: 187_500_000,
            repair_bytes_per_s: 8_000
        }
    );
    assert_eq!(floor.roster.remember, Duration::from_secs(7_200));
    assert_eq!(floor.roster.listed["all"], ["ws-2", "ws-1 Süd"]);
    assert!(floor.roster.listed["zulu"].is_empty());
}

#[test]
fn interfaces() {
    for (value, expected) in [
        ("\"auto\"", InterfaceSpec::Auto),
        ("\"3\"", InterfaceSpec::Index(3)),
        ("4294967295", InterfaceSpec::Index(u32::MAX)),
        ("\"eth0\"", InterfaceSpec::Name("eth0".to_owned())),
        (
            "\"10.0.0.7\"",
            InterfaceSpec::Address("10.0.0.7".parse().unwrap()),
        ),
    ] {
        let floor =
            Floor::parse(&floor_with(&format!("interface = {value}")), "floor.toml").unwrap();
        assert_eq!(floor.interface, expected);
    }
}

#[test]
fn addresses_that_are_taken() {
    for address in [
        "224.0.1.0:1",
        "239.255.77.1:65535",
        "239.127.1.0:7700",
        "233.252.0.1:7700",
        "[ff11::7701]:7700",
        "[ff1e::1:0]:7700",
        "[ff35:40:fd00::7701]:7700",
    ] {
        // 233.252.0.1 is x.x.0.y but not x.0.0.y: 252 keeps seven bits of its own.
        Floor::parse(&group_at(address), "floor.toml").unwrap();
    }
    Floor::parse(
        &two_groups("239.255.77.1:7700", "[ff15::ef7f:4d01]:7700"),
        "floor.toml",
    )
    .unwrap();
}

#[test]
fn faults_of_the_whole() {
    assert_faults(&[
        (
            String::new(),
            &["floor.toml: there is no [floor] table; write a line [floor]"],
        ),
        (TAIL.to_owned(), &["floor.toml: there is no [floor] table"]),
        (
            HEAD.to_owned(),
            &["floor.toml: there are no groups; write a line [groups.all]"],
        ),
        (
            format!("{HEAD}[groups]\n"),
            &["line 3: there are no groups"],
        ),
        (
            format!("{HEAD}groups = 3\n"),
            &["line 3: unknown key \"groups\" in [floor]"],
        ),
        (
            format!("groups = 3\n{HEAD}"),
            &["line 1: [groups] is a whole number, but has to be a table"],
        ),
        (
            format!("{HEAD}[[groups]]\nname = \"all\"\n"),
            &["line 3: [groups] is a list, but has to be a table"],
        ),
        (
            format!("floor = \"acme\"\n{TAIL}"),
            &["line 1: [floor] is text, but has to be a table; write a line [floor]"],
        ),
        (
            format!("[floor]\nttl = 1\n{TAIL}"),
            &["line 1: [floor] has no name; write under it name = "],
        ),
        (
            format!("{HEAD}{TAIL}[grops]\n"),
            &["line 5: unknown table \"grops\"", "[groups.NAME]"],
        ),
        (
            format!("name = \"x\"\n{HEAD}{TAIL}"),
            &["line 1: key \"name\" stands outside any table"],
        ),
        (
            floor_with("intreface = 1"),
            &[
                "line 3: unknown key \"intreface\" in [floor]; allowed there: name, interface, ttl, dscp",
            ],
        ),
        (
            format!("{HEAD}{TAIL}port = 1\n"),
            &["line 5: unknown key \"port\" in [groups.all]; allowed there: address"],
        ),
        (
            format!("{HEAD}{TAIL}[roster]\nlost = 1\n"),
            &["unknown key \"lost\" in [roster]; allowed there: remember, listed"],
        ),
        (
            floor_with("ttl = "),
            &["floor.toml line 3: ", "double quotes"],
        ),
        (
            floor_with("ttl = 1\nttl = 2"),
            &["floor.toml line 4: \"ttl\" stands here a second time; take"],
        ),
        (
            format!("{HEAD}{TAIL}{TAIL}"),
            &["line 5: \"all\" stands here a second time"],
        ),
        (floor_with("name"), &["floor.toml line 3: "]),
        (
            floor_with("interface = eth0"),
            &["floor.toml line 3: ", "double quotes"],
        ),
        (floor_with("interface = \"eth0"), &["floor.toml line 3: "]),
        (floor_with("[floor"), &["floor.toml line 3: "]),
        (
            format!("{HEAD}{}", "a = [".repeat(10_000)),
            &["floor.toml line 3: "],
        ),
        (format!("{HEAD}\u{0}"), &["floor.toml line 3: "]),
    ]);
}

#[test]
fn faults_of_values() {
    let long = "x".repeat(65);
    assert_faults(&[
        (
            format!("[floor]\nname = \"\"\n{TAIL}"),
            &["line 2: the floor's name \"\" is empty, but has to be 1 to 64"],
        ),
        (
            format!("[floor]\nname = \"{long}\"\n{TAIL}"),
            &["is 65 bytes long", "1 to 64 bytes"],
        ),
        (
            format!("[floor]\nname = \"a\\nb\"\n{TAIL}"),
            &["\"a\\nb\" is spoiled by the control character U+000A"],
        ),
        (
            format!("[floor]\nname = \"acme \"\n{TAIL}"),
            &["\"acme \" is begun or ended by a blank"],
        ),
        (
            format!("[floor]\nname = 3\n{TAIL}"),
            &["line 2: name in [floor] is a whole number, but has to be text in double quotes"],
        ),
        (
            floor_with("ttl = 300"),
            &["line 3: ttl in [floor] is 300, but has to be from 0 to 255; write ttl = 1"],
        ),
        (
            floor_with("ttl = -1"),
            &["is -1, but has to be from 0 to 255"],
        ),
        (
            floor_with("ttl = 0xfff"),
            &["is 0xfff, but has to be from 0 to 255"],
        ),
        (
            floor_with(&format!("ttl = {}", "9".repeat(99))),
            &["999..., but has to be from 0 to 255"],
        ),
        (
            floor_with("ttl = \"1\""),
            &["is text, but has to be a whole number from 0 to 255, without quotes"],
        ),
        (floor_with("ttl = 1.0"), &["is a number with decimals, but"]),
        (floor_with("ttl = true"), &["is true, but"]),
        (
            floor_with("dscp = 64"),
            &["line 3: dscp in [floor] is 64, but has to be from 0 to 63"],
        ),
        (
            floor_with("dscp = 2026-01-01"),
            &["is a date or a time, but"],
        ),
        (
            floor_with("interface = 0"),
            &["interface in [floor] is 0, but has to be from 1"],
        ),
        (floor_with("interface = \"0\""), &["indexes begin at 1"]),
        (
            floor_with("interface = \"\""),
            &["line 3: interface \"\" cannot be used: ", "\"auto\""],
        ),
        (
            floor_with("interface = []"),
            &["interface in [floor] is a list, but has to be text"],
        ),
        (
            floor_with("[rates]\ndata = \"fast\""),
            &["line 4: in [rates], data = \"fast\" is not a rate; write"],
        ),
        (
            floor_with("[rates]\ndata = \"0 kbit/s\""),
            &["out of bounds; a rate is 8 kbit/s to 100 Gbit/s"],
        ),
        (
            floor_with("[rates]\nrepair = \"101 Gbit/s\""),
            &["repair = \"101 Gbit/s\" is out of bounds"],
        ),
        (
            floor_with("[rates]\ndata = 100"),
            &["data in [rates] is a whole number", "write \"100 Mbit/s\""],
        ),
        (
            floor_with("[roster]\nremember = \"9s\""),
            &[
                "line 4: in [roster], remember = \"9s\" is out of bounds",
                "10s to 12h",
            ],
        ),
        (
            floor_with("[roster]\nremember = \"8d\""),
            &["remember = \"8d\" is out of bounds"],
        ),
        (
            floor_with("[roster]\nremember = \"soon\""),
            &["remember = \"soon\" is not a duration"],
        ),
        (
            floor_with("[roster]\nremember = 900"),
            &["remember in [roster] is a whole number, but has to be text"],
        ),
        (
            floor_with("[roster.listed]\nalll = []"),
            &[
                "line 4: [roster.listed] lists stations for group \"alll\", but",
                "(it has all)",
            ],
        ),
        (
            floor_with("[roster.listed]\nall = \"ws-1\""),
            &["all in [roster.listed] is text, but has to be a list"],
        ),
        (
            floor_with("[roster.listed]\nall = [\n\"ws-1\",\n\"\"]"),
            &["line 6: all in [roster.listed] lists the station \"\", which is empty"],
        ),
        (
            floor_with("[roster.listed]\nall = [\"a\\tb\"]"),
            &["spoiled by the control character U+0009"],
        ),
        (
            floor_with("[roster.listed]\nall = [\"a\", \"a\"]"),
            &["lists the station \"a\" twice; remove one"],
        ),
        (
            floor_with("[roster.listed]\nall = [1]"),
            &["line 4: a station of all in [roster.listed] is a whole number, but has to be text"],
        ),
    ]);
}

#[test]
fn faults_of_groups() {
    let named = |name: &str| format!("{HEAD}[groups.{name}]\naddress = \"239.255.77.1:7700\"\n");
    let many: String = (0..129)
        .map(|i| format!("[groups.g{i}]\naddress = \"239.255.77.{i}:7700\"\n"))
        .collect();
    assert_faults(&[
        (
            named("Team-A"),
            &[
                "line 3: group name \"Team-A\" contains 'T', but",
                "write [groups.team-a]",
            ],
        ),
        (named("\"a,b\""), &["contains ','", "write [groups.a-b]"]),
        (
            named("\"\""),
            &["group name \"\" is empty, but", "write [groups.all]"],
        ),
        (named("\"a\\nb\""), &["group name \"a\\nb\" contains '\\n'"]),
        (
            named("-x"),
            &["group name \"-x\" begins with -", "write [groups.x]"],
        ),
        (
            named(&"x".repeat(33)),
            &["is 33 bytes long, but a group name is 1 to 32"],
        ),
        (
            format!("{HEAD}[groups.all]\n"),
            &["line 3: group \"all\" has no address; write"],
        ),
        (
            format!("{HEAD}[groups]\nall = \"239.255.77.1:7700\"\n"),
            &["line 4: all in [groups] is text, but has to be a table; write a line [groups.all]"],
        ),
        (
            format!("{HEAD}{TAIL}[groups.all.x]\n"),
            &["unknown key \"x\" in [groups.all]"],
        ),
        (
            format!("{HEAD}[groups.all]\naddress = 7700\n"),
            &["line 4: address in [groups.all] is a whole number"],
        ),
        (
            format!("{HEAD}{many}"),
            &["there are 129 groups, but a floor has at most 128"],
        ),
    ]);
}

#[test]
fn faults_of_addresses() {
    let cases: &[(&str, &[&str])] = &[
        (
            "",
            &[
                "line 4: group \"team\" has address \"\", which is not an IP address and a port; write \"239.255.77.1:7700\"",
            ],
        ),
        (
            "239.255.77.9",
            &["which is not an IP address and a port; write \"239.255.77.9:7700\""],
        ),
        ("ff15::9", &["write \"[ff15::9]:7700\""]),
        ("[ff15::9]", &["write \"[ff15::9]:7700\""]),
        (
            "floor.example:7700",
            &["which is not an IP address and a port"],
        ),
        (
            "239.255.77.1:65536",
            &["which is not an IP address and a port"],
        ),
        (
            "239.255.77.1:0",
            &[
                "239.255.77.1:0, but nothing can be sent to port 0; use a port from 1 to 65535, such as 239.255.77.1:7700",
            ],
        ),
        (
            "192.168.1.5:7700",
            &[
                "192.168.1.5:7700, but a group needs a multicast address",
                "use one in 239.255.0.0/16",
            ],
        ),
        ("255.255.255.255:7700", &["needs a multicast address"]),
        ("240.0.1.1:7700", &["needs a multicast address"]),
        (
            "224.0.0.5:7700",
            &[
                "line 4: group \"team\" has address 224.0.0.5:7700, but 224.0.0.x is reserved for routing protocols and is never pruned by switches; use one in 239.255.0.0/16, such as 239.255.77.1:7700",
            ],
        ),
        (
            "239.0.0.5:7700",
            &[
                "it has the Ethernet address 01:00:5e:00:00:05 of 224.0.0.5, which switches never prune",
            ],
        ),
        ("239.128.0.5:7700", &["01:00:5e:00:00:05 of 224.0.0.5"]),
        ("224.128.0.1:7700", &["01:00:5e:00:00:01 of 224.0.0.1"]),
        ("232.1.2.3:7700", &["232.0.0.0/8 is source-specific only"]),
        (
            "[fe80::1]:7700",
            &[
                "[fe80::1]:7700, but a group needs a multicast address (ff00::/8",
                "[ff13::7701]:7700",
            ],
        ),
        ("[::ffff:239.255.77.1]:7700", &["needs a multicast address"]),
        (
            "[ff10::7701]:7700",
            &["its scope, the 0 in ff10, is reserved"],
        ),
        (
            "[ff1f::7701]:7700",
            &["its scope, the f in ff1f, is reserved"],
        ),
        (
            "[ff02::1]:7700",
            &[
                "ff02:: addresses are permanently assigned",
                "use one in ff13::/16",
            ],
        ),
        ("[ff02::2]:7700", &["permanently assigned"]),
        ("[ff05::7701]:7700", &["permanently assigned"]),
        (
            "[ff95::7701]:7700",
            &["its flags, the 9 in ff95, are reserved"],
        ),
        (
            "[ff35::8000:1]:7700",
            &["ff35::/32 is source-specific only"],
        ),
        (
            "[ff15::1]:7700",
            &["33:33:00:00:00:01 of ff02::1, which switches never prune"],
        ),
        (
            "[ff15::ff00:1]:7700",
            &["33:33:ff:00:00:01 of neighbour discovery"],
        ),
        (
            "[ff15::7701%2]:7700",
            &["the part behind % names a network interface"],
        ),
    ];
    assert_faults(
        &cases
            .iter()
            .map(|(address, parts)| (group_at(address), *parts))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn groups_that_cannot_stand_together() {
    assert_faults(&[
        (
            two_groups("239.255.77.1:7700", "239.255.77.1:7700"),
            &[
                "line 6: groups \"zulu\" and \"alpha\" have the same address 239.255.77.1:7700; give each its own",
            ],
        ),
        (
            two_groups("239.255.77.1:7700", "239.255.77.1:7701"),
            &[
                "line 6: groups",
                "have the same address 239.255.77.1 on two ports",
            ],
        ),
        (
            two_groups("239.255.77.1:7700", "238.127.77.1:7701"),
            &["239.255.77.1 and 238.127.77.1 with the same Ethernet address 01:00:5e:7f:4d:01"],
        ),
        (
            two_groups("[ff13::7701]:7700", "[ff18::1:0:7701]:7700"),
            &["ff13::7701 and ff18::1:0:7701 with the same Ethernet address 33:33:00:00:77:01"],
        ),
    ]);
}

/// Goal: names that would be one group on the wire are refused. Method: 30 bits repeat within some 40,000 names.
#[test]
fn names_with_one_id() {
    let mut seen = BTreeMap::new();
    let (a, b) = (0..1_000_000)
        .find_map(|i| {
            seen.insert(GroupId::of(&format!("g{i}")), i)
                .map(|earlier| (earlier, i))
        })
        .unwrap();
    let text = format!(
        "{HEAD}[groups.g{a}]\naddress = \"239.255.77.1:7700\"\n[groups.g{b}]\naddress = \"239.255.77.2:7700\"\n"
    );
    let part = format!("groups \"g{a}\" and \"g{b}\" have names with the same id");
    assert_faults(&[(text, &["line 6: ", &part, "rename one of them"])]);
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let said = |name: &str, bytes: Option<&[u8]>| {
        let path = dir.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        one_sentence(&Floor::load(&path).unwrap_err())
    };
    assert!(
        said("none.toml", None)
            .ends_with("none.toml: there is no such file; name the floor file with --floor PATH")
    );
    assert!(said("", None).contains(": this is a directory; name the floor file in it"));
    let latin1 = said("latin1.toml", Some(b"[floor]\nname = \"B\xfcro\"\n"));
    assert!(
        latin1.contains("latin1.toml line 2: byte 0xfc at offset 17 is not UTF-8"),
        "{latin1}"
    );
    assert!(
        said("utf16.toml", Some(b"\xff\xfe[\0"))
            .contains("utf16.toml line 1: the file is UTF-16, but")
    );
    let long = vec![b'#'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
    assert!(said("long.toml", Some(&long)).contains("the file is longer than 4194304 bytes"));
    assert!(said("a\nb.toml", Some(b"")).contains("a b.toml: there is no [floor] table"));
    let denied = why_unreadable(Path::new("none"), &io::ErrorKind::PermissionDenied.into());
    assert!(denied.starts_with("this user may not read the file; give read permission"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("floor.toml");
    std::fs::write(&path, format!("\u{feff}{HEAD}{TAIL}").replace('\n', "\r\n")).unwrap();
    assert_eq!(Floor::load(&path).unwrap().name, "acme");
    assert!(
        fault(&format!("\u{feff}{}", floor_with("ttl = 300")).replace('\n', "\r\n"))
            .contains("line 3: ")
    );
}

#[test]
fn durations() {
    for (text, nanos) in [
        ("0s", 0),
        ("500ms", 500_000_000),
        ("1.5s", 1_500_000_000),
        (" 90 s ", 90_000_000_000),
        ("15m", 900_000_000_000),
        ("0.000000001s", 1),
        ("2h", 7_200_000_000_000),
        ("365d", 31_536_000_000_000_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_nanos(nanos)),
            "{text}"
        );
    }
    for bad in [
        "",
        "s",
        "5",
        "-5s",
        "5 x",
        "5S",
        "1.s",
        ".5s",
        "1.2.3s",
        "1e3s",
        "0.1234567891s",
        "1234567890123s",
        "5sé",
        "٣s",
    ] {
        let said = parse_duration(bad).unwrap_err().to_string();
        assert!(
            said.contains("is not a duration; write a number and one of ms, s, m, h, d"),
            "{bad}: {said}"
        );
    }
    for long in ["366d", "999999999999d"] {
        assert!(
            parse_duration(long)
                .unwrap_err()
                .to_string()
                .contains("at most 365d")
        );
    }
    assert!(
        parse_positive_duration("0ms")
            .unwrap_err()
            .to_string()
            .contains("no time at all")
    );
    assert_eq!(parse_positive_duration("1ms"), Ok(Duration::from_millis(1)));
}

#[test]
fn rates() {
    for (text, bytes_per_s) in [
        ("8 kbit/s", 1_000),
        ("100 Mbit/s", 12_500_000),
        ("2.5GBIT", 312_500_000),
        ("100Gbit/s", 12_500_000_000),
    ] {
        assert_eq!(parse_rate(text), Ok(bytes_per_s), "{text}");
    }
    for bad in ["", "100", "100 MB/s", "100 Mbps", "-1 Mbit/s", "Mbit/s"] {
        assert!(
            parse_rate(bad)
                .unwrap_err()
                .to_string()
                .contains("is not a rate"),
            "{bad}"
        );
    }
    for bad in ["7.9 kbit/s", "100.1 Gbit/s", "999999999999 Gbit/s"] {
        assert!(
            parse_rate(bad)
                .unwrap_err()
                .to_string()
                .contains("out of bounds"),
            "{bad}"
        );
    }
    assert_eq!(
        Rates::with_data(1_500),
        Rates {
            data_bytes_per_s: 1_500,
            repair_bytes_per_s: 1_500
        }
    );
}

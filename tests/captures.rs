//! Captures, made and replayed by the real program; and the captures of incidents, in `tests/captures`, replayed by the
//! library.
//!
//! An incident becomes a test by copying its capture into that folder. As long as the core's revision is the one that it
//! was captured with, a replay must give the same, byte for byte. After that, the same cannot be expected; the replay must
//! still run to its end, and nothing may be shown twice, out of order or be left out unsaid.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use floorcast::capture::{CORE_REVISION, replay};

/// Largest capture that belongs in the repository.
const INCIDENT_BYTES_MAX: u64 = 20_000;

/// Goal: what went wrong once stays mended. Method: replay every file of the folder.
#[test]
fn incidents_replay() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        let file = File::open(&path).expect("it can be opened");
        let shown = path.display();
        let bytes = file.metadata().expect("it has a size").len();
        assert!(bytes <= INCIDENT_BYTES_MAX, "{shown} has {bytes} bytes");
        let summary = match replay(BufReader::new(file)) {
            Ok(summary) => summary,
            Err(error) => panic!("{shown}: {error}"),
        };
        assert_eq!(summary.misplaced, 0, "{shown}: {summary:?}");
        if summary.revision == CORE_REVISION
            && let Some(first) = &summary.first_difference
        {
            panic!(
                "{shown}: {first}. The core does not do what it did, {} times. Where that is not wanted, tools/replay \
                 {shown} --print shows what it does; where it is, raise CORE_REVISION in src/capture/mod.rs.",
                summary.differences
            );
        }
        count += 1;
    }
    assert!(count > 0, "there is no capture");
}

#[cfg(all(unix, feature = "app"))]
mod process;

#[cfg(all(unix, feature = "app"))]
mod programs {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use serde_json::Value;
    use xxhash_rust::xxh3::xxh3_64_with_seed;

    use super::process::{Ended, Lab};

    /// Replays `file` of `lab`; its exit code and its summary.
    fn replay(lab: &Lab, file: &str) -> (Option<i32>, Value) {
        let ended = lab.run(&["replay", file, "--json"]);
        assert_eq!(ended.stderr, "", "{ended:?}");
        let summary = serde_json::from_str(&ended.stdout).expect("one JSON object");
        (ended.code, summary)
    }

    fn assert_same(lab: &Lab, file: &str) -> Value {
        let (code, summary) = replay(lab, file);
        assert_eq!(
            (code, &summary["same"], &summary["first_difference"]),
            (Some(0), &true.into(), &Value::Null),
            "{summary}"
        );
        assert_eq!(summary["misplaced"], 0, "{summary}");
        summary
    }

    fn assert_refused(ended: &Ended, named: &[&str]) {
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        for word in named {
            assert!(ended.stderr.contains(word), "no {word} in {ended:?}");
        }
    }

    /// Goal: a whole floor with loss is done again, byte for byte; a capture that was altered is not. Method: a
    /// demonstration; then flip a bit in the hash of a record that has one.
    #[test]
    fn a_demonstration() {
        let lab = Lab::from_text("");
        let args = [
            "demo",
            "--agents",
            "5",
            "--messages",
            "200",
            "--loss",
            "10",
            "--capture",
            "F",
        ];
        let ended = lab.run(&args);
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
        let mode = fs::metadata(lab.file("F"))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let summary = assert_same(&lab, "F");
        assert_eq!(
            (&summary["stations"], &summary["notices"]),
            (&6.into(), &1_000.into())
        );
        assert_eq!(
            (&summary["whole"], &summary["lost"]),
            (&true.into(), &0.into())
        );
        let words = lab.run(&["replay", "F"]);
        assert!(
            words.stdout.ends_with("\nthe same comes out\n"),
            "{words:?}"
        );
        let printed = lab.run(&["replay", "F", "--print"]);
        let notices = printed
            .stdout
            .lines()
            .filter(|line| line.contains(": event: Notice"));
        assert_eq!(notices.count(), 1_000);

        let before = fs::read(lab.file("F")).expect("a file");
        assert_refused(&lab.run(&args), &["--capture", "F", "already"]);
        assert_eq!(fs::read(lab.file("F")).expect("a file"), before);

        let (altered, record) = alter(&before);
        fs::write(lab.file("altered"), &altered).expect("a file");
        let (code, summary) = replay(&lab, "altered");
        let first = &summary["first_difference"];
        assert_eq!(
            (code, &summary["same"], &summary["differences"]),
            (Some(1), &false.into(), &1.into())
        );
        assert_eq!(
            (&first["record"], &first["what"]),
            (&record.into(), &"datagrams".into()),
            "{summary}"
        );
        let words = lab.run(&["replay", "altered"]);
        assert_eq!(words.code, Some(1));
        assert!(
            words
                .stdout
                .contains(&format!("first at record {record}, station ")),
            "{words:?}"
        );
    }

    /// Flips a bit in the hash of the tenth record of a drain that sent something; its number.
    fn alter(capture: &[u8]) -> (Vec<u8>, u64) {
        const SENT: u8 = 13;
        let mut bytes = capture.to_vec();
        let (mut start, mut found) = (18, 0);
        for number in 1.. {
            let len = usize::from(bytes[start + 1]) << 8 | usize::from(bytes[start + 2]);
            let (body, end) = (start + 4, start + 4 + len);
            // Station, kind, and behind them values of which the hash is the last: one byte when nothing was sent.
            found += u32::from(bytes[body + 1] == SENT && bytes[end - 2] & 0x80 != 0);
            if found == 10 {
                bytes[end - 2] ^= 1;
                let check = xxh3_64_with_seed(&bytes[body..end], number).to_be_bytes();
                bytes[end..end + 4].copy_from_slice(&check[..4]);
                return (bytes, number);
            }
            start = end + 4;
        }
        unreachable!()
    }

    /// Goal: a supervisor and a workstation are each done again alone, also one that was killed. Method: two agents with
    /// state, one send for each life of them, all with captures; the second life ends with SIGKILL, a second after all was
    /// shown.
    #[test]
    fn a_send_and_its_agents() {
        let lab = Lab::with("[roster.listed]\nall = [\"nobody\"]\n");
        for life in ["1", "2"] {
            let name = format!("agent{life}");
            let agent = lab.start(&["agent", "--open-lab", "--name", "ws-1", "--capture", &name]);
            assert!(agent.line().contains("listens"));
            let file = format!("send{life}");
            // Somebody is missing, so it stays for all of its time.
            let sent = lab.run_with(
                &[
                    "send",
                    "--open-lab",
                    "--to",
                    "all",
                    "--wait",
                    "1500ms",
                    "--lines",
                    "--capture",
                    &file,
                ],
                b"one\ntwo\nthree\n",
            );
            assert_eq!(sent.code, Some(3), "{sent:?}");
            assert!(sent.stdout.contains("1/2 have all 3 notices"), "{sent:?}");
            let summary = assert_same(&lab, &file);
            assert_eq!(
                (&summary["stations"], &summary["whole"]),
                (&1.into(), &true.into())
            );
            let signal = if life == "1" { "-TERM" } else { "-KILL" };
            let id = agent.id().to_string();
            let kill = Command::new("kill").args([signal, &id]).status();
            assert!(kill.expect("there is kill").success());
            agent.end();
            let summary = assert_same(&lab, &name);
            assert_eq!(
                (&summary["notices"], &summary["whole"]),
                (&3.into(), &(life == "1").into()),
                "{summary}"
            );
        }
    }

    /// Goal: a bound is kept and told, and the program does its work. Method: a demonstration that is longer.
    #[test]
    fn a_bound() {
        let lab = Lab::from_text("");
        let ended = lab.run(&[
            "demo",
            "--agents",
            "5",
            "--messages",
            "200",
            "--size",
            "5000",
            "--capture",
            "F",
            "--capture-limit",
            "1",
        ]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended
                .stderr
                .contains("the capture has reached its bound of 1048576 bytes"),
            "{ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(fs::metadata(lab.file("F")).expect("a file").len() <= 1 << 20);
        let summary = assert_same(&lab, "F");
        assert_eq!(summary["whole"], false);
        assert!(summary["missed"].as_u64() > Some(0), "{summary}");
    }

    /// Goal: what cannot be replayed is refused in one sentence that names it, and what is refused leaves no file.
    #[test]
    fn wrong_files() {
        let lab = Lab::new();
        fs::write(lab.file("text"), "hello, this is no capture").expect("a file");
        assert_refused(&lab.run(&["replay", "text"]), &["text: it is no capture"]);
        assert_refused(&lab.run(&["replay", "nonesuch"]), &["nonesuch"]);
        assert_refused(&lab.run(&["replay", "."]), &["."]);
        assert_refused(
            &lab.run(&["replay"]),
            &["<FILE>", "floorcast replay --help"],
        );
        let refused = lab.run(&["demo", "--capture", "nonesuch/F"]);
        assert_refused(&refused, &["--capture", "nonesuch/F"]);
        assert_refused(
            &lab.run(&["demo", "--capture-limit", "9"]),
            &["--capture <FILE>"],
        );
        let zero = ["demo", "--capture", "F", "--capture-limit", "0"];
        assert_refused(
            &lab.run(&zero),
            &["--capture-limit", "'0'", "1 to 1048576 MiB"],
        );
        assert_refused(
            &lab.run(&["send", "--to", "all", "--capture", "F", "x"]),
            &["--open-lab"],
        );
        assert!(!lab.file("F").exists());
    }
}

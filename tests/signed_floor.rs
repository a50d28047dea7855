//! What a program asks for before it takes part in a protected floor, by the real binary: a signed floor file, the root that
//! it met first, nothing older than it has seen, and keys that are what they are said to be.

#![cfg(all(unix, feature = "app"))]

mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use process::{Ended, Lab};
use serde_json::Value;

/// The JSON lines of a command that succeeds.
fn said(lab: &Lab, args: &[&str]) -> Vec<Value> {
    let ended = lab.run(&[args, &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines = ended.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

fn one(lab: &Lab, args: &[&str]) -> Value {
    let mut lines = said(lab, args);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

fn assert_refused(ended: &Ended, named: &[&str]) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{ended:?}");
    for word in named {
        assert!(ended.stderr.contains(word), "no {word:?}: {ended:?}");
    }
}

const AGENT: &[&str] = &["agent", "--name", "ws-1", "--no-state"];
const SEND: &[&str] = &["send", "--to", "all", "--wait", "0s", "text"];

/// What every check has let in: a send to nobody, or an agent, which listens until it is asked to end.
fn assert_let_in(ended: &Ended) {
    assert!(matches!(ended.code, Some(0 | 3)), "not let in: {ended:?}");
}

/// Runs an agent until it listens, and ends it.
fn enter(lab: &Lab, args: &[&str]) -> Ended {
    let agent = lab.start(args);
    let ready = agent.line();
    assert!(ready.contains(" listens on "), "{ready}");
    let ended = Command::new("sh")
        .args(["-c", "kill -s TERM \"$0\"", &agent.id().to_string()])
        .status()
        .expect("a shell");
    assert!(ended.success());
    agent.end()
}

fn sign(lab: &Lab) -> Value {
    one(lab, &["floor", "sign"])
}

/// A floor with keys, a source, and a signature.
fn signed() -> Lab {
    let lab = Lab::new();
    said(&lab, &["keys", "init"]);
    said(&lab, &["keys", "grant", "sup-1", "--group", "all"]);
    sign(&lab);
    lab
}

fn fingerprint(lab: &Lab) -> String {
    let shown = said(lab, &["keys", "show"]);
    shown[0]["root"].as_str().expect("a root").to_owned()
}

/// Adds a line to the floor file.
fn change(lab: &Lab, line: &str) {
    let path = lab.file("floor.toml");
    let text = fs::read_to_string(&path).expect("a floor file");
    fs::write(path, format!("{text}{line}\n")).expect("a floor file");
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("a copy");
}

/// The files of one ending under a folder.
fn files_called(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_called(&path, name));
        } else if path.ends_with(name) {
            found.push(path);
        }
    }
    found
}

fn trust_file(lab: &Lab) -> PathBuf {
    let found = files_called(&lab.file("state"), "trust");
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// Goal: each change gets an edition of its own, and signing twice changes nothing.
#[test]
fn a_floor_file_is_signed_once_for_each_change() {
    let lab = Lab::new();
    assert_refused(
        &lab.run(&["floor", "sign"]),
        &["root.key", "floorcast keys init"],
    );
    said(&lab, &["keys", "init"]);
    let first = sign(&lab);
    assert_eq!(
        (&first["edition"], &first["changed"]),
        (&1.into(), &true.into())
    );
    assert_eq!(first["root"], fingerprint(&lab));
    let sig = lab.file("floor.toml.sig");
    let text = fs::read_to_string(&sig).expect("a signature");
    assert!(
        text.starts_with("-----BEGIN FLOORCAST FLOOR FILE-----\n"),
        "{text}"
    );
    let again = sign(&lab);
    assert_eq!(
        (&again["edition"], &again["changed"]),
        (&1.into(), &false.into())
    );
    assert_eq!(fs::read_to_string(&sig).expect("a signature"), text);
    change(&lab, "# more");
    assert_eq!(sign(&lab)["edition"], 2);
    let at_least = ["floor", "sign", "--edition", "7"];
    assert_eq!(one(&lab, &at_least)["edition"], 7);
    assert_eq!(one(&lab, &at_least)["changed"], false);
    assert_eq!(sign(&lab)["edition"], 7);
    change(&lab, "# and more");
    assert_eq!(sign(&lab)["edition"], 8);
    assert_refused(
        &lab.run(&["floor", "sign", "--edition", "0"]),
        &["--edition"],
    );
    // What cannot be read is not signed; a signature that cannot be read is not forgotten.
    let before = fs::read(&sig).expect("a signature");
    change(&lab, "[");
    assert_refused(&lab.run(&["floor", "sign"]), &["floor.toml line", "TOML"]);
    assert_eq!(fs::read(&sig).expect("a signature"), before);
    let other = signed();
    copy(&other.file("floor.toml.sig"), &lab.file("floor.toml.sig"));
    copy(&other.file("floor.toml"), &lab.file("floor.toml"));
    assert_refused(
        &lab.run(&["floor", "sign"]),
        &["group.keys", "another floor"],
    );
}

/// Goal: a signature that was put there by somebody else, or damaged, is not silently replaced: its edition counts.
#[test]
fn a_signature_that_cannot_be_read_stops_the_next() {
    let (lab, other) = (signed(), signed());
    copy(&other.file("floor.toml.sig"), &lab.file("floor.toml.sig"));
    assert_refused(
        &lab.run(&["floor", "sign"]),
        &["floor.toml.sig", "has not signed", "--edition"],
    );
    fs::remove_file(lab.file("floor.toml.sig")).expect("it was there");
    assert_eq!(
        one(&lab, &["floor", "sign", "--edition", "2"])["edition"],
        2
    );
}

/// Goal: `floor check` says who has signed what, or that nobody has.
#[test]
fn check_says_who_has_signed() {
    let lab = Lab::new();
    let check = ["floor", "check"];
    assert_eq!(one(&lab, &check)["signed"], false);
    assert!(lab.run(&check).stdout.contains("not signed"));
    said(&lab, &["keys", "init"]);
    assert_eq!(one(&lab, &check)["signed"], false, "keys are no signature");
    sign(&lab);
    let root = fingerprint(&lab);
    let checked = one(&lab, &check);
    assert_eq!(
        (&checked["signed"], &checked["root"], &checked["edition"]),
        (&true.into(), &root.clone().into(), &1.into())
    );
    let words = lab.run(&check).stdout;
    assert!(
        words.contains(&root) && words.contains("edition 1"),
        "{words}"
    );
    assert!(!lab.file("state").exists(), "a check remembers nothing");
    one(&lab, &["floor", "check", "--root", &root.to_uppercase()]);
    let wrong = "0000-0000-0000-0000-0000";
    assert_refused(
        &lab.run(&["floor", "check", "--root", wrong]),
        &["root.pub", wrong, &root],
    );
    assert_refused(
        &lab.run(&["floor", "check", "--root", "0000"]),
        &["five groups"],
    );
    fs::rename(lab.file("keys"), lab.file("elsewhere")).expect("a folder");
    assert_refused(&lab.run(&check), &["root.pub", "--keys"]);
    one(&lab, &["floor", "check", "--keys", "elsewhere"]);
}

/// Goal: one changed byte is refused, wherever it is. Method: every seventh of the floor file, every fifth of its signature.
#[test]
fn a_changed_byte_is_refused() {
    let lab = signed();
    let try_each = |name: &str, step: usize, word: &str| {
        let path = lab.file(name);
        let good = fs::read(&path).expect("a file");
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            // Another letter, so that it is still text.
            bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
            fs::write(&path, &bad).expect("a file");
            let ended = lab.run(&["floor", "check"]);
            assert_refused(&ended, &[word]);
        }
        for bad in [&good[..good.len() - 1], &[&good[..], b"x"].concat()] {
            fs::write(&path, bad).expect("a file");
            assert_refused(&lab.run(AGENT), &[word]);
            assert_refused(&lab.run(SEND), &[word]);
        }
        fs::write(&path, good).expect("a file");
    };
    try_each("floor.toml", 7, "changed since (edition 1");
    // The last byte is the end of a line, without which PEM is as good.
    let path = lab.file("floor.toml.sig");
    let text = fs::read_to_string(&path).expect("a signature");
    fs::write(&path, text.trim_end()).expect("a signature");
    try_each("floor.toml.sig", 5, "floor.toml.sig");
    assert_let_in(&enter(&lab, AGENT));
}

/// Goal: an older floor file, however well signed, is refused where a newer one was seen, and so is none.
#[test]
fn an_older_floor_file_is_a_downgrade() {
    let lab = signed();
    let (toml, sig) = (lab.file("floor.toml"), lab.file("floor.toml.sig"));
    copy(&toml, &lab.file("old.toml"));
    copy(&sig, &lab.file("old.sig"));
    change(&lab, "[roster]\nremember = \"1h\"");
    sign(&lab);
    assert_let_in(&enter(&lab, AGENT));
    let kept = fs::read(trust_file(&lab)).expect("what was seen");
    copy(&lab.file("old.toml"), &toml);
    copy(&lab.file("old.sig"), &sig);
    for command in [AGENT, SEND, &["floor", "check"]] {
        let ended = lab.run(command);
        assert_refused(
            &ended,
            &["downgrade", "edition 1", "edition 2", "--edition 3"],
        );
    }
    // Whoever has not seen the newer takes the older.
    let elsewhere = ["agent", "--name", "ws-1", "--state", "another"];
    assert_let_in(&enter(&lab, &elsewhere));
    fs::remove_file(&sig).expect("it was there");
    assert_refused(&lab.run(AGENT), &["not signed", "floorcast floor sign"]);
    assert_refused(&lab.run(&["floor", "check"]), &["not signed", "edition 2"]);
    assert_eq!(fs::read(trust_file(&lab)).expect("what was seen"), kept);
    // As the sentence says.
    one(&lab, &["floor", "sign", "--edition", "3"]);
    assert_let_in(&enter(&lab, AGENT));
}

/// Goal: the root that was met first stays. Method: another one signs the same floor, or takes the place of its public key.
#[test]
fn another_root_is_refused() {
    let lab = signed();
    let old = fingerprint(&lab);
    let first = enter(&lab, AGENT);
    assert_let_in(&first);
    assert!(
        first.stderr.contains(&old),
        "the root is not shown: {first:?}"
    );
    assert!(
        !enter(&lab, AGENT).stderr.contains(&old),
        "it is shown again"
    );
    copy(&lab.file("keys/root.pub"), &lab.file("old.pub"));
    for command in [&["init"][..], &["grant", "sup-1", "--group", "all"]] {
        said(&lab, &[&["keys"], command, &["--keys", "new"]].concat());
    }
    copy(&lab.file("new/root.pub"), &lab.file("keys/root.pub"));
    let new = fingerprint_in(&lab, "new");
    let refusal = [&new[..], &old, "trust", "--root"];
    assert_refused(&lab.run(AGENT), &refusal);
    copy(&lab.file("old.pub"), &lab.file("keys/root.pub"));
    fs::remove_file(lab.file("floor.toml.sig")).expect("it was there");
    one(&lab, &["floor", "sign", "--keys", "new"]);
    let with = |more: &[&str]| lab.run(&[AGENT, &["--keys", "new"], more].concat());
    assert_refused(&with(&[]), &refusal);
    assert_refused(&with(&["--root", &new]), &refusal);
    assert_refused(&with(&["--root", &old]), &["root.pub", &old, &new]);
    let send = [SEND, &["--keys", "new"]].concat();
    assert_refused(&lab.run(&send), &refusal);
    // As the sentence says.
    fs::remove_file(trust_file(&lab)).expect("it was there");
    let told = [AGENT, &["--keys", "new", "--root", &new]].concat();
    assert_let_in(&enter(&lab, &told));
}

fn fingerprint_in(lab: &Lab, folder: &str) -> String {
    let shown = said(lab, &["keys", "show", "--keys", folder]);
    shown[0]["root"].as_str().expect("a root").to_owned()
}

/// Goal: a root that was told beforehand must match, and nothing is remembered of one that does not.
#[test]
fn a_root_that_was_told_must_match() {
    let lab = signed();
    let with = |root: &str| lab.run(&[AGENT, &["--root", root]].concat());
    let wrong = "0123-4567-89ab-cdef-0123";
    assert_refused(&with(wrong), &["root.pub", wrong, &fingerprint(&lab)]);
    assert!(!lab.file("state").exists(), "something was remembered");
    let right = fingerprint(&lab);
    assert_let_in(&enter(&lab, &[AGENT, &["--root", &right]].concat()));
    assert_refused(
        &lab.run(&[AGENT, &["--root", wrong, "--open-lab"]].concat()),
        &["--root", "--open-lab"],
    );
}

/// Goal: lists and keys that are older than those seen before are refused.
#[test]
fn older_revocations_and_keys_are_downgrades() {
    let lab = signed();
    for (name, command) in [
        ("keys/revoked.list", &["keys", "revoke", "sup-1"][..]),
        ("keys/group.keys", &["keys", "rotate", "--lead", "1h"]),
    ] {
        copy(&lab.file(name), &lab.file("old"));
        said(&lab, command);
        copy(&lab.file(name), &lab.file("new"));
        assert_let_in(&enter(&lab, AGENT));
        fs::remove_file(lab.file(name)).expect("it was there");
        let file = &name["keys/".len()..];
        assert_refused(&lab.run(AGENT), &[file, "not there"]);
        copy(&lab.file("old"), &lab.file(name));
        assert_refused(&lab.run(AGENT), &["downgrade", file]);
        copy(&lab.file("new"), &lab.file(name));
        assert_let_in(&enter(&lab, AGENT));
    }
}

/// Goal: what a machine trusts is not forgotten because a file is damaged.
#[test]
fn a_damaged_trust_file_is_refused() {
    let lab = signed();
    assert_let_in(&enter(&lab, AGENT));
    let path = trust_file(&lab);
    let good = fs::read(&path).expect("what was seen");
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    for bad in [&flipped[..], &good[..10], b"", &[0; 4_096]] {
        fs::write(&path, bad).expect("a file");
        for command in [AGENT, SEND, &["floor", "check"]] {
            assert_refused(&lab.run(command), &["trust"]);
        }
        assert_eq!(fs::read(&path).expect("a file"), bad);
    }
}

/// Goal: a workstation makes its key once, shows it, and a floor that lists it says what is wrong with a list.
#[test]
fn a_workstation_has_a_key_that_a_floor_can_list() {
    let lab = signed();
    assert_let_in(&enter(&lab, AGENT));
    let shown = one(&lab, &["keys", "station", "ws-1"]);
    assert_eq!(shown["changed"], false, "the agent has made it");
    let key = shown["key"].as_str().expect("a key").to_owned();
    assert_eq!((key.len(), &shown["name"]), (64, &"ws-1".into()));
    let words = lab.run(&["keys", "station", "ws-1"]).stdout;
    assert!(words.contains(&format!("\"ws-1\" = \"{key}\"")), "{words}");
    assert!(words.contains(shown["fingerprint"].as_str().expect("a fingerprint")));
    let other = one(&lab, &["keys", "station", "ws 2"]);
    assert_eq!(other["changed"], true);
    assert_ne!(other["key"], key);
    assert_refused(&lab.run(&["keys", "station", ""]), &["1 to 64"]);
    change(&lab, "[enrolment]\nothers = \"refused\"\n[enrolment.keys]");
    change(&lab, &format!("ws-1 = \"{key}\""));
    sign(&lab);
    assert_let_in(&enter(&lab, AGENT));
    let good = fs::read_to_string(lab.file("floor.toml")).expect("a floor file");
    for (from, to, word) in [
        ("\"refused\"", "\"never\"".to_owned(), "\"never\""),
        (&key[..], key[1..].to_owned(), "63 digits"),
        (&key[..], format!("x{}", &key[1..]), "'x'"),
    ] {
        fs::write(lab.file("floor.toml"), good.replace(from, &to)).expect("a floor file");
        assert_refused(&lab.run(&["floor", "sign"]), &["floor.toml line", word]);
    }
}

/// Goal: who sends needs a key and a grant that belong together and hold. Method: one fault at a time.
#[test]
fn a_source_needs_a_key_and_a_grant_that_hold() {
    let lab = signed();
    let named = |name: &str| lab.run(&[SEND, &["--name", name]].concat());
    // The only one that has a key here.
    assert_let_in(&lab.run(SEND));
    assert_refused(&named("sup-9"), &["sup-9", "sup-1", "--name", "keys grant"]);
    let lanes = [SEND, &["--lane", "emergency"]].concat();
    assert_refused(&lab.run(&lanes), &["sup-1", "lane", "nothing was sent"]);
    let group = ["send", "--to", "billing", "text"];
    assert_refused(&lab.run(&group), &["sup-1", "billing", "group"]);
    said(
        &lab,
        &["keys", "grant", "sup 2", "--every-group", "--for", "1s"],
    );
    assert_refused(&lab.run(SEND), &["sup 2, sup-1", "--name"]);
    std::thread::park_timeout(Duration::from_millis(2_100));
    assert_refused(
        &named("sup 2"),
        &["sup%202.grant", "held until", "keys grant"],
    );
    let sources = lab.file("keys/sources");
    copy(&sources.join("sup-1.key"), &sources.join("sup%202.key"));
    said(&lab, &["keys", "grant", "sup 2", "--every-group"]);
    assert_refused(&named("sup 2"), &["sup%202.grant", "belong together"]);
    copy(&sources.join("sup-1.grant"), &sources.join("sup%202.grant"));
    assert_refused(&named("sup 2"), &["sup%202.grant", "\"sup-1\""]);
    fs::remove_file(sources.join("sup%202.grant")).expect("it was there");
    assert_refused(&named("sup 2"), &["sup%202.grant", "not there"]);
    said(&lab, &["keys", "revoke", "sup-1"]);
    assert_refused(&named("sup-1"), &["sup-1", "revoked"]);
    fs::remove_dir_all(sources).expect("a folder");
    assert_refused(&lab.run(SEND), &["no source's key", "keys grant"]);
}

/// Goal: a source's key may be under a passphrase.
#[test]
fn a_source_s_key_under_a_passphrase() {
    let (lab, maker) = (signed(), Lab::new());
    for (name, words) in [("right", "correct horse\n"), ("wrong", "battery staple\n")] {
        fs::write(maker.file(name), words).expect("a file");
        fs::write(lab.file(name), words).expect("a file");
    }
    said(&maker, &["keys", "init", "--passphrase-file", "right"]);
    let public = maker.file("keys/root.pub");
    let public = public.to_str().expect("a path");
    said(
        &lab,
        &["keys", "grant", "sup-2", "--group", "all", "--key", public],
    );
    let key = lab.file("keys/sources/sup-2.key");
    copy(&maker.file("keys/root.key"), &key);
    let with = |more: &[&str]| lab.run(&[SEND, &["--name", "sup-2"], more].concat());
    assert_refused(
        &with(&[]),
        &["sup-2.key", "needs its passphrase", "--passphrase-file"],
    );
    assert_refused(
        &with(&["--passphrase-file", "wrong"]),
        &["sup-2.key", "not its passphrase"],
    );
    assert_refused(
        &with(&["--passphrase-file", "none"]),
        &["--passphrase-file none"],
    );
    assert_let_in(&with(&["--passphrase-file", "right"]));
}

/// Goal: without keys one sentence says what to do; and no file makes an open laboratory of a floor.
#[test]
fn without_keys_nothing_runs() {
    let lab = Lab::new();
    let todo = [
        "keys init",
        "keys grant",
        "floor sign",
        "--open-lab",
        "forge",
    ];
    assert_refused(&lab.run(AGENT), &todo);
    assert_refused(&lab.run(SEND), &todo);
    said(&lab, &["keys", "init"]);
    assert_refused(&lab.run(AGENT), &["not signed", "floor sign", "--open-lab"]);
    let both = [SEND, &["--open-lab", "--passphrase"]].concat();
    assert_refused(&lab.run(&both), &["--open-lab", "passphrase"]);
    let open = Lab::with("[security]\nopen_lab = true\n");
    assert_refused(&open.run(AGENT), &todo);
    assert_refused(
        &open.run(&["floor", "check"]),
        &["unknown table", "security"],
    );
}

/// Goal: a workstation needs five files, and writes none of them.
#[test]
fn a_workstation_reads_a_share() {
    let (maker, share) = (signed(), Lab::new());
    fs::create_dir(share.file("keys")).expect("a folder");
    for name in [
        "floor.toml",
        "floor.toml.sig",
        "keys/root.pub",
        "keys/group.keys",
        "keys/revoked.list",
    ] {
        copy(&maker.file(name), &share.file(name));
        let path = share.file(name);
        let mut permissions = fs::metadata(&path).expect("a file").permissions();
        permissions.set_readonly(true);
        fs::set_permissions(path, permissions).expect("permissions");
    }
    let elsewhere = Lab::new();
    let floor = share.file("floor.toml");
    let floor = floor.to_str().expect("a path");
    assert_let_in(&enter(&elsewhere, &[AGENT, &["--floor", floor]].concat()));
    assert!(!share.file("state").exists() && elsewhere.file("state").exists());
    assert_eq!(fs::read_dir(share.path()).expect("a folder").count(), 3);
    assert_eq!(
        fs::read_dir(share.file("keys")).expect("a folder").count(),
        3
    );
}

/// Goal: secrets that others can read are refused: the floor's, a workstation's, a source's.
#[cfg(unix)]
#[test]
fn secrets_that_others_can_read_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = signed();
    assert_let_in(&enter(&lab, AGENT));
    let station = files_called(&lab.file("state"), "ws-1.key");
    assert_eq!(station.len(), 1, "{station:?}");
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    for (path, command, open, allowed) in [
        (lab.file("keys/group.keys"), AGENT, 0o644, 0o640),
        (station[0].clone(), AGENT, 0o640, 0o400),
        (lab.file("keys/sources/sup-1.key"), SEND, 0o604, 0o600),
    ] {
        set(&path, open);
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        assert_refused(&lab.run(command), &[name, &format!("{open:o}"), "chmod"]);
        set(&path, allowed);
        if command[0] == "agent" {
            assert_let_in(&enter(&lab, command));
        } else {
            assert_let_in(&lab.run(command));
        }
    }
}

/// Goal: what a workstation has signed to have can be checked by anybody, and what was changed proves nothing. Method: two
/// agents, a file of their receipts, and one digit of it.
#[test]
fn receipts_prove_who_has_what() {
    let lab = signed();
    let agents = ["ws-1", "ws-2"].map(|name| {
        let agent = lab.start(&["agent", "--name", name]);
        assert!(agent.line().contains(" listens on "));
        agent
    });
    let send = ["send", "--to", "all", "--receipts", "proof.jsonl", "leave"];
    let sent = lab.run(&send);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    drop(agents);
    let checked = one(&lab, &["keys", "receipts", "proof.jsonl"]);
    assert_eq!(
        (
            &checked["notices"],
            &checked["stations"],
            &checked["false_receipts"]
        ),
        (&1.into(), &2.into(), &0.into()),
        "{checked}"
    );
    let text = fs::read_to_string(lab.file("proof.jsonl")).expect("receipts");
    assert!(text.contains("\"station\":\"ws-1\"") && text.contains("\"station\":\"ws-2\""));
    // It is not written over.
    assert_refused(&lab.run(&send), &["proof.jsonl", "nothing was sent"]);
    // More was received than was signed for; another digit of what was signed.
    for (from, to) in [
        ("\"through\":1", "\"through\":2"),
        ("\"bytes\":\"0100", "\"bytes\":\"0101"),
    ] {
        fs::write(lab.file("changed"), text.replacen(from, to, 1)).expect("a file");
        let ended = lab.run(&["keys", "receipts", "changed"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stdout.contains("1 do not"), "{ended:?}");
    }
    fs::write(lab.file("changed"), "{}").expect("a file");
    assert_refused(
        &lab.run(&["keys", "receipts", "changed"]),
        &["changed", "line 1"],
    );
}

//! `floorcast keys`, by the real binary: a floor's folder of keys from nothing to a revoked source, each command twice, and
//! every way in which a file of it can be wrong.

#![cfg(feature = "app")]

mod process;

use std::fs;
use std::path::Path;

use process::{Ended, Lab};
use serde_json::Value;

fn keys(lab: &Lab, args: &[&str]) -> Ended {
    lab.run(&[&["keys"], args, &["--json"]].concat())
}

/// The JSON lines of a command that succeeds.
fn said(lab: &Lab, args: &[&str]) -> Vec<Value> {
    let ended = keys(lab, args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines = ended.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

/// One line, of one event.
fn event<'a>(lines: &'a [Value], event: &str) -> &'a Value {
    let mut found = lines.iter().filter(|line| line["event"] == event);
    let first = found.next().expect("such an event");
    assert!(found.next().is_none(), "{lines:?}");
    first
}

fn assert_refused(ended: &Ended, named: &[&str]) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{ended:?}");
    for word in named {
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
    }
}

/// Everything in a folder and below, by name.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            all.push((path.display().to_string(), bytes));
        }
    }
    all.sort();
    all
}

/// Goal: each command does what it says, and the second time changes nothing.
#[test]
fn a_floor_gets_keys_grants_and_revokes() {
    let lab = Lab::new();
    let folder = lab.file("keys");
    let twice = |args: &[&str], kind: &str| {
        let first = said(&lab, args);
        let before = contents(&folder);
        let second = said(&lab, args);
        assert_eq!(
            contents(&folder),
            before,
            "{args:?} changed something again"
        );
        assert_eq!(event(&second, kind)["changed"], false, "{args:?}");
        first
    };
    let made = twice(&["init"], "keys");
    assert_eq!(event(&made, "keys")["changed"], true);
    assert_eq!(event(&made, "group_key")["id"], 1);
    let granted = twice(
        &["grant", "sup 1", "--group", "all", "--for", "90d"],
        "grant",
    );
    let grant = event(&granted, "grant");
    assert_eq!(grant["changed"], true);
    assert_eq!(grant["groups"], serde_json::json!(["all"]));
    assert_eq!(grant["lanes"], serde_json::json!(["routine", "bulk"]));
    assert_eq!(grant["state"], "holds");
    // More than was granted is a new grant, for the same key.
    let more = [
        "grant",
        "sup 1",
        "--group",
        "all",
        "--group",
        "billing",
        "--lane",
        "emergency",
    ];
    let more = twice(&more, "grant");
    assert_eq!(event(&more, "grant")["changed"], true);
    assert_eq!(event(&more, "grant")["key"], grant["key"]);
    let revoked = twice(&["revoke", "sup 1"], "revocations");
    assert_eq!(event(&revoked, "revocations")["keys"], 1);
    assert_refused(
        &keys(&lab, &["grant", "sup 1", "--group", "all"]),
        &["revoked", "another"],
    );
    let rotated = said(&lab, &["rotate", "--lead", "1h"]);
    let ids: Vec<_> = rotated
        .iter()
        .map(|line| (line["id"].as_u64(), line["sending"].as_bool()))
        .collect();
    assert_eq!(ids, [(Some(1), Some(true)), (Some(2), Some(false))]);
    let before = contents(&folder);
    said(&lab, &["rotate", "--lead", "1h"]);
    assert_eq!(
        contents(&folder),
        before,
        "a rotation that is still to come is enough"
    );
    let shown = said(&lab, &["show"]);
    assert_eq!(event(&shown, "grant")["state"], "revoked");
    assert_eq!(contents(&folder), before);
}

/// Goal: a source that makes its own key is granted something for it, and its private key never comes here.
#[test]
fn a_source_brings_its_own_key() {
    let (lab, elsewhere) = (Lab::new(), Lab::new());
    said(&lab, &["init"]);
    said(&elsewhere, &["init"]);
    let key = elsewhere.file("keys").join("root.pub");
    let key = key.to_str().expect("a path");
    let granted = said(&lab, &["grant", "sup-2", "--every-group", "--key", key]);
    assert_eq!(event(&granted, "grant")["groups"], serde_json::json!([]));
    let sources: Vec<_> = contents(&lab.file("keys/sources"))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    said(&lab, &["revoke", "--key", key]);
    assert_eq!(event(&said(&lab, &["show"]), "grant")["state"], "revoked");
}

/// Goal: a root under a passphrase is of no use without it.
#[test]
fn a_root_under_a_passphrase() {
    let lab = Lab::new();
    fs::write(lab.file("right"), "correct horse\n").expect("a file");
    fs::write(lab.file("wrong"), "battery staple\n").expect("a file");
    fs::write(lab.file("none"), "").expect("a file");
    said(&lab, &["init", "--passphrase-file", "right"]);
    let grant = ["grant", "sup-1", "--group", "all"];
    assert_refused(
        &keys(&lab, &grant),
        &["root.key", "needs its passphrase", "--passphrase-file"],
    );
    let with = |file| keys(&lab, &[&grant[..], &["--passphrase-file", file]].concat());
    assert_refused(&with("wrong"), &["root.key", "not its passphrase"]);
    assert_refused(&with("none"), &["--passphrase-file none", "1 to 1024"]);
    assert_refused(&with("nowhere"), &["--passphrase-file nowhere"]);
    assert_eq!(with("right").code, Some(0));
    // What is public needs no root.
    said(&lab, &["show"]);
}

/// Goal: what is lost or stolen can be got rid of: a rotation at once, also before a planned one and twice; a grant made shorter; every
/// key that a name has had; and what must not be made anew is not.
#[test]
fn what_is_lost_can_be_got_rid_of() {
    let (lab, elsewhere) = (Lab::new(), Lab::new());
    said(&lab, &["init"]);
    let at_once = ["rotate", "--lead", "0s", "--overlap", "0s"];
    let ids = |lines: &[Value]| -> Vec<_> {
        let keys = lines.iter().filter(|line| line["event"] == "group_key");
        keys.map(|line| line["id"].as_u64()).collect()
    };
    said(&lab, &["rotate", "--lead", "2h"]);
    let lost = ids(&said(&lab, &["show"]));
    let rotated = said(&lab, &at_once);
    let changed: Vec<_> = rotated.iter().map(|line| &line["changed"]).collect();
    assert_eq!(changed, [false, true, true]);
    let now = ids(&rotated);
    assert_eq!(
        (lost, now),
        (vec![Some(1), Some(2)], vec![Some(1), Some(3), Some(4)])
    );
    // Each is one more: another machine may have been lost meanwhile.
    let again = ids(&said(&lab, &at_once));
    assert_eq!(again.last(), Some(&Some(6)), "{again:?}");
    let fresh = Lab::new();
    said(&fresh, &["init"]);
    said(&fresh, &at_once);
    said(&fresh, &["show"]);

    let grant = ["grant", "sup-1", "--group", "all"];
    let long = said(&lab, &grant);
    let short = said(&lab, &[&grant[..], &["--for", "1h"]].concat());
    let (long, short) = (event(&long, "grant"), event(&short, "grant"));
    assert_eq!(short["changed"], true);
    assert_ne!(long["until"], short["until"]);
    assert_eq!(
        long["until"], short["before_until"],
        "it is said how long the other counts"
    );

    said(&elsewhere, &["init"]);
    for name in ["a", "b"] {
        said(&elsewhere, &["grant", name, "--group", "all"]);
        let key = elsewhere.file(&format!("keys/sources/{name}.pub"));
        let key = key.to_str().expect("a path");
        said(&lab, &["grant", "sup-2", "--group", "all", "--key", key]);
    }
    let revoked = said(&lab, &["revoke", "sup-2"]);
    assert_eq!(event(&revoked, "revocations")["keys"], 2);

    fs::remove_file(lab.file("keys/revoked.list")).expect("it is there");
    assert_refused(&keys(&lab, &["init"]), &["revoked.list", "put it back"]);
}

/// Goal: private keys that stand in clear are put under a passphrase where one is given: the root's and a source's.
#[test]
fn keys_in_clear_are_put_under_a_passphrase() {
    let lab = Lab::new();
    fs::write(lab.file("of-root"), "correct horse\n").expect("a file");
    fs::write(lab.file("of-source"), "battery staple\n").expect("a file");
    said(&lab, &["init"]);
    let grant = ["grant", "sup-1", "--group", "all"];
    said(&lab, &grant);
    let sealed = said(&lab, &["init", "--passphrase-file", "of-root"]);
    assert_eq!(event(&sealed, "keys")["changed"], true);
    assert_refused(&keys(&lab, &grant), &["root.key", "needs its passphrase"]);
    let with = [&grant[..], &["--passphrase-file", "of-root"]].concat();
    let under = [&with[..], &["--source-passphrase-file", "of-source"]].concat();
    assert_eq!(event(&said(&lab, &under), "grant")["changed"], true);
    assert_eq!(event(&said(&lab, &under), "grant")["changed"], false);
    let other = [&with[..], &["--source-passphrase-file", "of-root"]].concat();
    assert_refused(&keys(&lab, &other), &["sup-1.key", "not its passphrase"]);
    // A run that was cut off between the two files goes on with the one.
    fs::remove_file(lab.file("keys/sources/sup-1.pub")).expect("it is there");
    assert_refused(&keys(&lab, &with), &["sup-1.key", "--source-passphrase or"]);
    said(&lab, &under);
    said(&lab, &with);
    let new = [
        &[
            "grant",
            "sup-2",
            "--group",
            "all",
            "--passphrase-file",
            "of-root",
        ][..],
        &["--source-passphrase-file", "of-source"],
    ];
    said(&lab, &new.concat());
    let signed = lab.run(&["floor", "sign", "--passphrase-file", "of-root"]);
    assert_eq!(signed.code, Some(0), "{signed:?}");
    for name in ["sup-1", "sup-2"] {
        let sent = lab.run(&[
            "send", "--name", name, "--to", "all", "--wait", "0s", "--keys", "keys", "hello",
        ]);
        assert_refused(&sent, &[name, "needs its passphrase"]);
    }
}

/// Goal: wrong flags and files are refused in one sentence, and nothing is made or changed. Method: one fault at a time.
#[test]
fn what_is_wrong_is_refused() {
    let (lab, other) = (Lab::new(), Lab::new());
    assert_refused(&keys(&lab, &["show"]), &["root.pub", "keys init"]);
    assert_refused(
        &keys(&lab, &["grant", "sup-1", "--group", "all"]),
        &["root.key", "keys init"],
    );
    said(&lab, &["init"]);
    said(&lab, &["grant", "sup-1", "--group", "all"]);
    said(&other, &["init"]);
    let before = contents(&lab.file("keys"));
    let refused = |args: &[&str], named: &[&str]| {
        assert_refused(&keys(&lab, args), named);
        assert_eq!(contents(&lab.file("keys")), before, "{args:?}");
    };
    refused(&["grant", "sup-1"], &["--group"]);
    refused(
        &["grant", "sup-1", "--group", "nobody"],
        &["nobody", "all, billing"],
    );
    refused(
        &["grant", "sup-1", "--group", "all", "--for", "0s"],
        &["--for"],
    );
    refused(
        &["grant", "sup-1", "--group", "all", "--for", "366d"],
        &["365d"],
    );
    refused(
        &["grant", "sup-1", "--group", "all", "--lane", "fast"],
        &["fast"],
    );
    refused(
        &["grant", "sup-1", "--group", "all", "--status", "real"],
        &["real"],
    );
    refused(&["grant", "", "--group", "all"], &["1 to 64"]);
    refused(
        &["grant", "sup-1", "--group", "all", "--key", "nowhere"],
        &["nowhere"],
    );
    refused(
        &["grant", "sup-1", "--group", "all", "--key", "floor.toml"],
        &["floor.toml", "not a file"],
    );
    refused(
        &[
            "grant",
            "sup-1",
            "--group",
            "all",
            "--key",
            "keys/revoked.list",
        ],
        &["REVOCATIONS", "PUBLIC KEY"],
    );
    refused(&["revoke", "sup-9"], &["sup-9", "--key"]);
    refused(&["revoke"], &["<NAME>"]);
    refused(&["rotate", "--lead", "soon"], &["--lead", "soon"]);
    // Another floor's folder, and this floor's with another's statements in it.
    let folder = other.file("keys");
    refused(
        &["show", "--keys", folder.to_str().expect("a path")],
        &["group.keys", "another floor"],
    );
    let mixed = Lab::new();
    said(&mixed, &["init"]);
    fs::copy(folder.join("revoked.list"), mixed.file("keys/revoked.list")).expect("a copy");
    assert_refused(
        &keys(&mixed, &["show"]),
        &["revoked.list", "has not signed"],
    );
}

/// Goal: a changed byte in any file is refused, with the file's name. Method: each file, a letter in its middle changed.
#[test]
fn a_changed_file_is_refused() {
    let lab = Lab::new();
    said(&lab, &["init"]);
    said(&lab, &["grant", "sup-1", "--group", "all"]);
    for name in [
        "root.pub",
        "group.keys",
        "revoked.list",
        "sources/sup-1.grant",
    ] {
        let path = lab.file("keys").join(name);
        let good = fs::read(&path).expect("a file");
        let mut bad = good.clone();
        let at = good.len() / 2;
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        fs::write(&path, &bad).expect("a file");
        let ended = keys(&lab, &["show"]);
        assert_eq!(ended.code, Some(2), "{name}: {ended:?}");
        fs::write(&path, &good).expect("a file");
        assert_eq!(keys(&lab, &["show"]).code, Some(0), "{name}");
    }
}

/// Goal: secrets are nobody else's: they are made so, and refused when they are not.
#[cfg(unix)]
#[test]
fn secrets_that_others_can_read_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::new();
    said(&lab, &["init"]);
    said(&lab, &["grant", "sup-1", "--group", "all"]);
    let mode = |name: &str| {
        let metadata = fs::metadata(lab.file("keys").join(name)).expect("a file");
        metadata.permissions().mode() & 0o777
    };
    let set = |name: &str, mode: u32| {
        let path = lab.file("keys").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    for name in ["root.key", "group.keys", "sources/sup-1.key"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(mode(""), 0o700);
    set("root.key", 0o640);
    assert_refused(&keys(&lab, &["rotate"]), &["root.key", "640", "chmod 600"]);
    set("root.key", 0o600);
    set("group.keys", 0o644);
    assert_refused(&keys(&lab, &["show"]), &["group.keys", "644", "chmod 640"]);
    set("group.keys", 0o640);
    said(&lab, &["show"]);
}

//! Keys and statements, byte for byte: what this program makes of plain fields is what stands in `tests/vectors/keys.json`, and
//! what another implementation, in another language and with another library, makes of them.
//!
//! `FLOORCAST_VECTORS=write cargo test --test vectors` writes the file anew, when a format has been given another number.
//! The other implementation needs Python with PyNaCl (`tools/setup` installs python3-nacl); without it that test says
//! `skipped` and passes.

#![cfg(feature = "app")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use floorcast::keys::{
    FloorFile, Grant, GrantTerms, GroupKeys, KEY_BYTES, PrivateKey, Revocations, Rotation,
    SealInput, Status,
};
use floorcast::wire::{FloorId, GroupId, Lane};
use serde_json::{Value, json};

const FLOOR: FloorId = FloorId(0xf10a_0ca5);
const NOW: u64 = 1_800_000_000;
const ROOT_SEED: [u8; KEY_BYTES] = [0x11; KEY_BYTES];
const SOURCE_SEED: [u8; KEY_BYTES] = [0x22; KEY_BYTES];

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys.json")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Plain fields, and the bytes that are made of them here.
fn vectors() -> Value {
    let root = PrivateKey::from_seed(&ROOT_SEED);
    let source = PrivateKey::from_seed(&SOURCE_SEED);
    let groups = [GroupId(7), GroupId(0x3fff_ffff)];
    let grant = GrantTerms {
        name: "Zoë@desk-4".to_owned(),
        key: source.public(),
        groups: groups.into(),
        lanes: [Lane::Emergency, Lane::Bulk].into(),
        statuses: [Status::Actual, Status::Test].into(),
        not_before: NOW,
        not_after: NOW + 86_400,
    };
    let grant = Grant::sign(&root, FLOOR, grant).expect("it can be signed");
    let list = Revocations::none(&root, FLOOR, NOW);
    let list = list.with(&root, FLOOR, NOW + 1, &source.public());
    let list = list.expect("it can be signed").expect("it can be signed");
    let rotation = Rotation {
        lead_s: 3_600,
        overlap_s: 600,
    };
    let first = GroupKeys::first(&root, FLOOR, NOW, [0x33; KEY_BYTES]);
    let keys = first.rotated(&root, FLOOR, NOW + 10, rotation, [0x44; KEY_BYTES]);
    let keys = keys.expect("it can be signed");
    let key = |key: &floorcast::keys::GroupKey| {
        json!({
            "id": key.id().0,
            "not_before": key.not_before(),
            "not_after": key.not_after(),
            "key": hex(key.secret()),
        })
    };
    let contents = "[floor]\nname = \"Büro 3\"\n";
    let file = FloorFile::sign(&root, FLOOR, 7, NOW + 2, contents.as_bytes());
    let seal = SealInput {
        passphrase: "correct horse battery staple".as_bytes(),
        salt: [0x55; 16],
        nonce: [0x66; 24],
    };
    json!({
        "floor": FLOOR.0,
        "root_seed": hex(&ROOT_SEED),
        "root_public": hex(&root.public().to_bytes()),
        "root_fingerprint": root.public().fingerprint(),
        "source_seed": hex(&SOURCE_SEED),
        "grant": {
            "name": grant.terms().name,
            "groups": groups.map(|group| group.0),
            "lanes": grant.terms().lanes.iter().map(|lane| lane.as_str()).collect::<Vec<_>>(),
            "statuses": grant.terms().statuses.iter().map(|status| status.as_str()).collect::<Vec<_>>(),
            "not_before": grant.terms().not_before,
            "not_after": grant.terms().not_after,
            "bytes": hex(grant.to_bytes()),
        },
        "revocations": {
            "edition": list.edition(),
            "issued": list.issued(),
            "keys": [hex(&source.public().to_bytes())],
            "bytes": hex(list.to_bytes()),
        },
        "group_keys": {
            "keys": keys.iter().map(key).collect::<Vec<_>>(),
            "bytes": hex(keys.to_bytes()),
        },
        "floor_file": {
            "edition": file.edition(),
            "issued": file.issued(),
            "contents": contents,
            "bytes": hex(file.to_bytes()),
        },
        "sealed": {
            "passphrase": "correct horse battery staple",
            "salt": hex(&seal.salt),
            "nonce": hex(&seal.nonce),
            "bytes": hex(&source.to_file_bytes(Some(seal))),
        },
    })
}

/// Goal: a format does not change unnoticed. Method: what is made of the fields today against the file.
#[test]
fn keys_and_statements_are_what_they_were() {
    let made = vectors();
    if std::env::var("FLOORCAST_VECTORS").is_ok_and(|it| it == "write") {
        let text = serde_json::to_string_pretty(&made).unwrap();
        fs::write(path(), text + "\n").unwrap();
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap();
    assert_eq!(made, kept);
}

/// Goal: the page says all that another implementation needs. Method: one that has only the page makes the same bytes; and
/// it finds a changed one.
#[test]
fn another_implementation_makes_the_same() {
    let has_nacl = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import nacl"]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_nacl) else {
        println!("skipped: no Python with PyNaCl is there; tools/setup installs it");
        return;
    };
    let script = path().with_file_name("check_keys.py");
    let check = |file: &Path| {
        Command::new(python)
            .arg(&script)
            .arg(file)
            .output()
            .unwrap()
    };
    let output = check(&path());
    assert!(output.status.success(), "{output:?}");
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.json");
    for field in ["grant", "revocations", "group_keys", "floor_file", "sealed"] {
        let mut vectors = vectors();
        let bytes = vectors[field]["bytes"].as_str().unwrap().to_owned();
        let last = if bytes.ends_with('0') { '1' } else { '0' };
        vectors[field]["bytes"] = format!("{}{last}", &bytes[..bytes.len() - 1]).into();
        fs::write(&changed, vectors.to_string()).unwrap();
        assert!(!check(&changed).status.success(), "{field}");
    }
}

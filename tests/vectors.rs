//! Keys and statements, byte for byte: what this program makes of plain fields is what stands in `tests/vectors/keys.json`, and
//! what another implementation, in another language and with another library, makes of them.
//!
//! `FLOORCAST_VECTORS=write cargo test --test vectors` writes the file anew, when a format has been given another number.
//! The other implementation needs Python with PyNaCl and cryptography (`tools/setup` installs them); without it that test says
//! `skipped` and passes.

#![cfg(feature = "app")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use floorcast::guard::{Guard, Verdicts, prove};
use floorcast::keys::{
    Credentials, Enrolment, FloorFile, Grant, GrantTerms, GroupKeys, KEY_BYTES, Others, PrivateKey,
    Revocations, Rotation, SealInput, Status,
};
use floorcast::proto::{Config, Destination, TransmitBatch};
use floorcast::time::Timestamp;
use floorcast::wire::{
    About, DatagramWriter, FloorId, GroupId, Header, Heartbeat, Lane, QuantCount, QuantDuration,
    SeqNo, SeqRange, SessionId, SourceId, StreamId,
};
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
    let keys = first.rotated(&root, FLOOR, NOW + 10, rotation, [[0x44; KEY_BYTES]; 2]);
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
        "datagrams": datagrams(),
    })
}

const WORKSTATION_SEED: [u8; KEY_BYTES] = [0x88; KEY_BYTES];
const GROUP_SECRET: [u8; KEY_BYTES] = [0x99; KEY_BYTES];

fn group() -> GroupId {
    GroupId::of("all")
}

/// A guard of the station called `name`; the unsigned lane is bulk.
fn guard(name: &str, seed: &[u8; KEY_BYTES], session: u64, is_source: bool) -> Guard {
    let root = PrivateKey::from_seed(&ROOT_SEED);
    let key = PrivateKey::from_seed(seed);
    let terms = GrantTerms {
        name: name.to_owned(),
        key: key.public(),
        groups: [group()].into(),
        lanes: Lane::ALL.into(),
        statuses: [Status::Actual].into(),
        not_before: NOW,
        not_after: NOW + 86_400,
    };
    let grant = Grant::sign(&root, FLOOR, terms).expect("it can be signed");
    let credentials = Credentials {
        root: root.public(),
        key,
        grant: is_source.then_some(grant),
        group_keys: GroupKeys::first(&root, FLOOR, NOW, GROUP_SECRET),
        revoked: Revocations::none(&root, FLOOR, NOW),
        enrolment: Enrolment {
            known: Default::default(),
            others: Others::FirstUse,
        },
        unsigned: [Lane::Bulk].into(),
    };
    let mut endpoint = Config::new(FLOOR, SourceId::of(FLOOR, name), SessionId(session));
    let verdicts = Verdicts::default();
    Guard::new(credentials, &mut endpoint, NOW * 1_000_000_000, verdicts).expect("it can be made")
}

/// Seals what `fill` writes, a datagram each; what goes out is the grant, if there is one, and they.
fn seal(
    guard: &mut Guard,
    name: &str,
    session: u64,
    fill: &[&dyn Fn(&mut DatagramWriter<'_>)],
) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut batch = TransmitBatch::new(64);
    let mut plains = Vec::new();
    for (number, fill) in fill.iter().enumerate() {
        let header = Header {
            key: 1,
            floor: FLOOR,
            source: SourceId::of(FLOOR, name),
            session: SessionId(session),
            number: number as u64,
        };
        let mut plain = Vec::new();
        let mut writer = DatagramWriter::plain(&mut plain, 1_000, &header);
        fill(&mut writer);
        writer.finish();
        batch.push(Destination::Group(group()), &plain, 256);
        plains.push(plain);
    }
    guard.seal(at(), &mut batch, 0);
    let sealed = batch.iter().map(|(_, datagram)| datagram.to_vec());
    (plains, sealed.collect())
}

fn at() -> Timestamp {
    Timestamp::from_nanos(1_234_000_000)
}

/// Sealed datagrams of every kind, and a receipt.
fn datagrams() -> Value {
    let (source_session, station_session) = (0x1112_1314_1516_1718, 0x2122_2324_2526_2728);
    let from = SocketAddr::from(([127, 0, 0, 1], 7));
    let heartbeat = |lane: Lane, next: u64| {
        move |writer: &mut DatagramWriter<'_>| {
            let heartbeat = Heartbeat {
                stream: StreamId::new(group(), lane),
                clock_us: 1,
                next: SeqNo(next),
                trail: SeqNo(2),
                backoff: QuantDuration(3),
                grtt: QuantDuration(4),
                group_size: QuantCount(5),
                age: QuantDuration(6),
                is_coded: false,
                is_closed: false,
            };
            assert!(writer.heartbeat(&heartbeat));
        }
    };
    let about = About {
        source: SourceId::of(FLOOR, "sup-1"),
        session: SessionId(source_session),
        stream: StreamId::new(group(), Lane::Routine),
        echo: None,
    };
    let mut source = guard("sup-1", &SOURCE_SEED, source_session, true);
    let beats = [9, 10, 11].map(|next| heartbeat(Lane::Routine, next));
    let bulk = heartbeat(Lane::Bulk, 12);
    let (plains, sealed) = seal(
        &mut source,
        "sup-1",
        source_session,
        &[&beats[0], &beats[1], &beats[2], &bulk],
    );
    let [grant, train @ .., unsigned] = sealed.as_slice() else {
        panic!("a grant, a train and an unsigned datagram");
    };
    let mut station = guard("ws-1", &WORKSTATION_SEED, station_session, false);
    for datagram in &sealed {
        station
            .open(at(), from, datagram)
            .expect("it is the source's");
    }
    let presence = |writer: &mut DatagramWriter<'_>| {
        assert!(writer.presence("ws-1", false, &[group()]));
    };
    let nack = |writer: &mut DatagramWriter<'_>| {
        assert_eq!(writer.nack(&about, SeqRange::new(SeqNo(3), SeqNo(5))), 1);
    };
    let receipt = |writer: &mut DatagramWriter<'_>| {
        assert!(writer.receipt(&about, SeqNo(0), SeqNo(9), 2, []));
    };
    let (said, answers) = seal(
        &mut station,
        "ws-1",
        station_session,
        &[&nack, &presence, &receipt],
    );
    for datagram in &answers {
        source
            .open(at(), from, datagram)
            .expect("it is the workstation's");
    }
    let (_, _, kept) = source.receipts().next().expect("a receipt");
    let proven = prove(FLOOR, kept).expect("it proves something");
    assert_eq!(proven.through, SeqNo(9));
    json!({
        "time_ms": NOW * 1_000 + 1_234,
        "group_key": hex(&GROUP_SECRET),
        "source_session": source_session,
        "station_session": station_session,
        "source": SourceId::of(FLOOR, "sup-1").0,
        "station": SourceId::of(FLOOR, "ws-1").0,
        "workstation_seed": hex(&WORKSTATION_SEED),
        "grant": hex(grant),
        "train": {
            "plain": plains[..3].iter().map(|it| hex(it)).collect::<Vec<_>>(),
            "bytes": train.iter().map(|it| hex(it)).collect::<String>(),
        },
        "unsigned": { "plain": hex(&plains[3]), "bytes": hex(unsigned) },
        "pair": { "plain": hex(&said[0]), "bytes": hex(&answers[0]) },
        "keyed_train": {
            "plain": said[1..].iter().map(|it| hex(it)).collect::<Vec<_>>(),
            "bytes": answers[1..].iter().map(|it| hex(it)).collect::<String>(),
        },
        "receipt": { "bytes": hex(kept) },
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
        command.args(["-c", "import nacl, cryptography"]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_nacl) else {
        println!(
            "skipped: no Python with PyNaCl and cryptography is there; tools/setup installs it"
        );
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
    for field in ["train", "unsigned", "pair", "keyed_train", "receipt"] {
        let mut vectors = vectors();
        let bytes = &mut vectors["datagrams"][field]["bytes"];
        let text = bytes.as_str().unwrap().to_owned();
        let last = if text.ends_with('0') { '1' } else { '0' };
        *bytes = format!("{}{last}", &text[..text.len() - 1]).into();
        fs::write(&changed, vectors.to_string()).unwrap();
        assert!(!check(&changed).status.success(), "{field}");
    }
}

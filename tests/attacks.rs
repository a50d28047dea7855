//! What somebody can do who has joined a protected floor's group on the real network, with all that a workstation has: the
//! floor's key, and a key of its own. And what somebody can do who has nothing.
//!
//! The attacker has plain sockets on loopback: it records what passes to the group, and sends what it likes to whom it likes.

#![cfg(all(unix, feature = "app"))]

mod arena;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use floorcast::keys::{
    Credentials, Grant, GrantTerms, KEY_BYTES, PrivateKey, Rotation, Status, ThrowAway,
};
use floorcast::proto::Destination;
use floorcast::rng::Rng;
use floorcast::runtime;
use floorcast::station::Station;
use floorcast::wire::{
    About, FloorId, GroupId, Header, Lane, Message, SeqNo, SeqRange, SessionId, SourceId, StreamId,
};

use arena::{Arena, Attacker, DEADLINE, Host, OWN_NUMBERS, SOURCE, Shown};

/// A floor with a source and so many workstations, who have heard each other and were shown "first".
fn running(arena: &Arena, count: usize) -> (Host, Host, Shown, Attacker) {
    let attacker = arena.attacker();
    let (source, agents) = (arena.source(), arena.agents(count, 0.0));
    arena.gather(&source, count);
    let mut shown = Shown::of(&agents);
    arena.say(&source, "first");
    shown.until_all_have(&agents, "first");
    (source, agents, shown, attacker)
}

/// Asserts that everybody was shown `texts`, and nothing else came of anything.
fn assert_shown(shown: &Shown, texts: &[&str]) {
    for (agent, its) in shown.texts.iter().enumerate() {
        assert_eq!(its, texts, "agent {agent}");
    }
    assert_eq!((shown.lost, shown.odd), (0, 0), "{shown:?}");
}

/// Where the workstations of a host listen for what is meant for each alone.
fn doors(arena: &Arena, attacker: &Attacker, agents: &Host) -> Vec<SocketAddr> {
    let names = agents.names.iter();
    names.map(|name| attacker.address_of(arena.id(name))).collect()
}

/// A station under `name` that speaks with the key of `key`, shows `grant`, and says `text`; it is sent to the group and to
/// each of `doors`.
fn forge(
    arena: &Arena,
    attacker: &Attacker,
    doors: &[SocketAddr],
    (name, key): (&str, &str),
    grant: Option<&[u8]>,
    (lane, text): (Lane, &str),
) {
    let mut forger = arena.station(name, arena.keys.workstation(key));
    let mut datagrams = Vec::new();
    if let Some(grant) = grant {
        datagrams.push(granting(arena, &mut forger, grant));
    }
    let wall_ns = arena.clock.read().wall_ns;
    let notice = arena::notice(name, wall_ns, text);
    let said = forger.broadcast(arena.now(), &[arena.group], lane, &notice, None);
    said.expect("it is sent");
    let sent = arena::sent(&mut forger, arena.now());
    datagrams.extend(sent.into_iter().map(|(_, datagram)| datagram));
    for datagram in &datagrams {
        attacker.shout(datagram);
        doors.iter().for_each(|door| attacker.send(datagram, *door));
    }
}

/// A datagram in which `forger` shows a grant.
fn granting(arena: &Arena, forger: &mut Station, grant: &[u8]) -> Vec<u8> {
    let mut header = Header {
        key: 1,
        floor: arena.floor,
        source: forger.origin().source,
        session: forger.origin().session,
        number: OWN_NUMBERS,
    };
    let guard = forger.guard().expect("a guard");
    arena::sealed(guard, arena.now(), &mut header, |writer| {
        writer.grant(grant);
    })
}

/// Goal: who has all that a workstation has publishes nothing. Method: in the source's name with a key of its own, in its own
/// name without a grant, with the source's grant in the source's name and in its own, and in the middle of the source's life;
/// to the group and to each workstation.
#[test]
fn a_full_member_of_the_floor_publishes_nothing() {
    let arena = Arena::new();
    let (source, agents, mut shown, attacker) = running(&arena, 3);
    let doors = doors(&arena, &attacker, &agents);
    let theirs = arena.granted().grant.expect("a grant").to_bytes().to_vec();
    let evil = (Lane::Emergency, "evacuate");
    let forged = |who, grant| forge(&arena, &attacker, &doors, who, grant, evil);
    forged((SOURCE, "thief"), None);
    forged((SOURCE, "thief"), Some(&theirs));
    forged(("ws-9", "ws-9"), None);
    forged(("ws-9", "ws-9"), Some(&theirs));
    forged(("sup-2", "ws-9"), None);
    // In the middle of the source's life, with numbers that are about to come.
    let heard = attacker.heard_of(arena.id(SOURCE));
    let life = heard.iter().map(|(_, datagram)| Header::read(datagram));
    let life = life.flatten().map(|(header, _)| header).last();
    let life = life.expect("it was heard");
    let thief = arena.keys.workstation("thief");
    let (mut guard, mut header) = arena.seal_of(SOURCE, thief, Some(life.session));
    header.number = life.number + 1;
    let stream = StreamId::new(arena.group, Lane::Routine);
    for _ in 0..50 {
        let taking_back = arena::sealed(&mut guard, arena.now(), &mut header, |writer| {
            let all = SeqRange::new(SeqNo(0), SeqNo(1_000)).expect("a range");
            writer.skip(stream, floorcast::wire::SkipReason::Superseded, [all]);
        });
        attacker.shout(&taking_back);
    }
    arena.say(&source, "true");
    shown.until_all_have(&agents, "true");
    assert_shown(&shown, &["first", "true"]);
    let stats = agents.stats();
    let refused = [
        stats.discard_forged,
        stats.discard_ungranted,
        stats.discard_stranger,
    ];
    assert!(refused.iter().all(|count| *count > 0), "{stats:?}");
}

/// Goal: what has passed once does nothing when it passes again: at once, later, to somebody who was not there, or when its
/// source lives anew. Method: all that passed, sent again to the group and to each workstation; "later" is a workstation
/// whose clock is 301 s ahead.
#[test]
fn a_replay_shows_nothing_twice() {
    let mut arena = Arena::new();
    let (source, agents, mut shown, attacker) = running(&arena, 2);
    let doors = doors(&arena, &attacker, &agents);
    let again = |datagrams: &[(SocketAddr, Vec<u8>)]| {
        for (_, datagram) in datagrams {
            attacker.shout(datagram);
            doors.iter().for_each(|door| attacker.send(datagram, *door));
        }
    };
    let first = attacker.heard_of(arena.id(SOURCE));
    let grants = first.iter().filter(|(_, datagram)| {
        Header::read(datagram).is_ok_and(|(header, _)| header.number >= OWN_NUMBERS)
    });
    assert!(grants.count() > 0, "its grant was among them");
    again(&first);
    again(&first);
    arena.say(&source, "second");
    shown.until_all_have(&agents, "second");
    assert_shown(&shown, &["first", "second"]);
    let sent = 4 * first.len() as u64;
    let replayed = agents.stats().discard_replayed;
    assert!(replayed >= sent, "{replayed} of {sent}: each is known at once");
    // The source lives anew; its former life is of no use any more.
    let old = attacker.heard_of(arena.id(SOURCE));
    drop(source);
    let source = arena.source();
    arena.gather(&source, 2);
    arena.say(&source, "third");
    shown.until_all_have(&agents, "third");
    again(&old);
    // Five minutes later, to somebody who was not there.
    arena.ahead = Duration::from_secs(301);
    let late = arena.host(vec![("ws-9".into(), arena.keys.workstation("ws-9"))], 0.0);
    again(&attacker.heard());
    late.until("the replay has come", |_, node| {
        node.station.stats().discard_untimely > 10
    });
    let mut shown_late = Shown::of(&late);
    shown_late.catch_up(&late);
    assert_shown(&shown_late, &[]);
    arena.say(&source, "fourth");
    shown.until_all_have(&agents, "fourth");
    assert_shown(&shown, &["first", "second", "third", "fourth"]);
    assert!(agents.stats().discard_stale > 0, "a former life is known");
}

/// Goal: a grant is good for what it names and no more. Method: grants that have expired, do not hold yet, are for another
/// group, lane or floor, signed by its own holder or by another floor's root, each shown together with a notice; at last a good
/// one in the same way, which is believed.
#[test]
fn a_grant_is_good_for_what_it_names() {
    let arena = Arena::new();
    let (source, agents, mut shown, attacker) = running(&arena, 2);
    let doors = doors(&arena, &attacker, &agents);
    let (now, root) = (arena.wall_s(), arena.keys.root());
    let terms = |name: &str, change: &dyn Fn(&mut GrantTerms)| {
        let mut terms = arena.keys.terms(name, &[]);
        change(&mut terms);
        terms
    };
    let own_root = PrivateKey::from_seed(&[1; KEY_BYTES]);
    let other = FloorId(arena.floor.0 ^ 1);
    let others = ThrowAway::new(other, [2; KEY_BYTES], now);
    let cases: [(&str, &PrivateKey, FloorId, &dyn Fn(&mut GrantTerms)); 8] = [
        ("expired", root, arena.floor, &|terms| terms.not_after = now - 1),
        ("early", root, arena.floor, &|terms| terms.not_before = now + 600),
        ("group", root, arena.floor, &|terms| {
            terms.groups = [GroupId::of("other")].into();
        }),
        ("lane", root, arena.floor, &|terms| terms.lanes = [Lane::Bulk].into()),
        ("floor", root, other, &|_| {}),
        ("self-signed", &own_root, arena.floor, &|_| {}),
        ("other-root", others.root(), arena.floor, &|_| {}),
        ("other-key", root, arena.floor, &|terms| {
            terms.key = arena.keys.key("somebody").public();
        }),
    ];
    for (name, root, floor, change) in cases {
        let grant = Grant::sign(root, floor, terms(name, change)).expect("a grant");
        let evil = (Lane::Routine, name);
        forge(&arena, &attacker, &doors, (name, name), Some(grant.to_bytes()), evil);
    }
    let good = Grant::sign(root, arena.floor, terms("good", &|_| {})).expect("a grant");
    let fine = (Lane::Routine, "good");
    forge(&arena, &attacker, &doors, ("good", "good"), Some(good.to_bytes()), fine);
    shown.until_all_have(&agents, "good");
    arena.say(&source, "true");
    shown.until_all_have(&agents, "true");
    assert_shown(&shown, &["first", "good", "true"]);
    assert!(agents.stats().discard_ungranted > 0);
    // A status that is not granted: its numbers count as received, and it is not shown.
    let testing = |terms: &mut GrantTerms| terms.statuses = [Status::Test].into();
    let grant = Grant::sign(root, arena.floor, terms("tester", &testing)).expect("a grant");
    let actual = (Lane::Routine, "meant");
    forge(&arena, &attacker, &doors, ("tester", "tester"), Some(grant.to_bytes()), actual);
    arena.say(&source, "last");
    shown.until_all_have(&agents, "last");
    while shown.odd < 2 {
        shown.take(agents.event(DEADLINE).expect("it is refused aloud"));
    }
    assert!(shown.texts.iter().all(|texts| !texts.iter().any(|text| text == "meant")));
}

/// Goal: while the floor's key changes nothing is lost. Method: 20 workstations, each of which does not get one datagram in 20;
/// the key changes between two of the notices, at workstations and source a few notices apart.
#[test]
fn the_key_changes_in_mid_stream() {
    let arena = Arena::new();
    let attacker = arena.attacker();
    let (source, agents) = (arena.source(), arena.agents(20, 0.05));
    arena.gather(&source, 20);
    let rotation = Rotation {
        lead_s: 1,
        overlap_s: 600,
    };
    let root = arena.keys.root();
    let before = arena.keys.group_keys();
    let after = before.rotated(root, arena.floor, arena.wall_s(), rotation, [9; KEY_BYTES]);
    let (after, revoked) = (after.expect("rotated"), arena.keys.revoked().clone());
    let renew = |host: &Host| {
        let (after, revoked) = (after.clone(), revoked.clone());
        host.ask(move |_, nodes| {
            for node in nodes {
                let guard = node.command().guard().expect("a guard");
                guard.renew(after.clone(), revoked.clone());
            }
        });
    };
    let mut shown = Shown::of(&agents);
    let (mut said, mut with_new) = (Vec::new(), 0);
    while with_new < 100 {
        let text = format!("notice {}", said.len());
        arena.say(&source, &text);
        said.push(text);
        match said.len() {
            50 => renew(&agents),
            55 => renew(&source),
            _ => {}
        }
        thread::park_timeout(Duration::from_millis(5));
        shown.catch_up(&agents);
        let heard = attacker.heard_of(arena.id(SOURCE));
        let new = heard.iter().rev().take(1).filter(|(_, datagram)| datagram[3] != 1);
        with_new += new.count();
        assert!(said.len() < 5_000, "the new key is never used");
    }
    shown.until_all_have(&agents, said.last().expect("something was said"));
    for texts in &shown.texts {
        assert_eq!(*texts, said);
    }
    assert_eq!((shown.lost, shown.odd), (0, 0));
    let used: BTreeSet<_> = attacker
        .heard_of(arena.id(SOURCE))
        .iter()
        .map(|(_, datagram)| datagram[3])
        .collect();
    assert_eq!(used.len(), 2, "both keys were used");
    assert!(agents.stats().nacks_sent > 0, "something was lost on the way");
}

/// Goal: an eavesdropper without the floor's key reads nothing. Method: a text and names that would catch the eye, in short and
/// long notices on all lanes, with losses that are repaired; no eight bytes of them stand in anything that passes.
#[test]
fn an_eavesdropper_reads_nothing() {
    let arena = Arena::new();
    let attacker = arena.attacker();
    let (source, agents) = (arena.source(), arena.agents(3, 0.2));
    arena.gather(&source, 3);
    let secret = "SALARIES-OF-THE-NIGHT-SHIFT-";
    let mut shown = Shown::of(&agents);
    for (lane, times) in [(Lane::Emergency, 1), (Lane::Routine, 3), (Lane::Bulk, 900)] {
        let text = format!("{}{times}", secret.repeat(times));
        arena.say_on(&source, lane, &text);
        shown.until_all_have(&agents, &text);
    }
    let heard = attacker.heard();
    assert!(heard.len() > 20, "much has passed");
    let words: Vec<_> = secret.as_bytes().windows(8).collect();
    for (_, datagram) in &heard {
        let reads = datagram.windows(8).any(|bytes| words.contains(&bytes));
        let names = datagram.windows(5).any(|bytes| bytes == SOURCE.as_bytes());
        assert!(!reads && !names, "{datagram:?}");
    }
}

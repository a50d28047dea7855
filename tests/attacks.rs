//! What somebody can do who has joined a protected floor's group on the real network, with all that a workstation has: the
//! floor's key, and a key of its own. And what somebody can do who has nothing.
//!
//! The attacker has plain sockets on loopback: it records what passes to the group, and sends what it likes to whom it likes.

#![cfg(all(unix, feature = "app"))]

mod arena;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use floorcast::guard::Guard;
use floorcast::keys::{
    Credentials, Grant, GrantTerms, KEY_BYTES, PrivateKey, Rotation, Status, ThrowAway,
};
use floorcast::notice::OPAQUE;
use floorcast::proto::{Destination, Rate, SendWindowLen, Stats, TransmitBatch};
use floorcast::rng::Rng;
use floorcast::runtime::Clock;
use floorcast::station::{Station, StationEvent};
use floorcast::wire::{
    About, Block, BlockNeed, FloorId, GroupId, Header, Lane, Pace, SeqNo, SeqRange, SkipReason,
    StreamId,
};

use hdrhistogram::Histogram;
use serde_json::Value;

use arena::{Arena, Attacker, DEADLINE, Host, OWN_NUMBERS, SOURCE, Shown};
use process::{Lab, Running};

/// Bytes of the question who is at an address: header, nonce, message, mark, time, key, kind, tag.
const CHECK_BYTES: usize = 32 + 12 + (4 + 24) + 16 + 6 + 32 + 1 + 16;

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
    names
        .map(|name| attacker.address_of(arena.id(name)))
        .collect()
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
    // With proofs as the source's own are, by a key of its own.
    let mut forger = arena.station(SOURCE, false_source(&arena));
    let notice = arena::notice(SOURCE, arena.clock.read().wall_ns, "evacuate");
    let said = forger.broadcast(arena.now(), &[arena.group], Lane::Emergency, &notice, None);
    said.expect("it is sent");
    for (_, datagram) in arena::sent(&mut forger, arena.now()).iter().take(20) {
        attacker.shout(datagram);
    }
    // In the middle of the source's life, with numbers that are about to come.
    let life = life_of_source(&arena, &attacker);
    let thief = arena.keys.workstation("thief");
    let (mut guard, mut header) = arena.seal_of(SOURCE, thief, Some(life.session));
    header.number = life.number + 1;
    let stream = StreamId::new(arena.group, Lane::Routine);
    for _ in 0..50 {
        let taking_back = arena::sealed(&mut guard, arena.now(), &mut header, |writer| {
            let all = SeqRange::new(SeqNo(0), SeqNo(1_000)).expect("a range");
            writer.skip(stream, SkipReason::Superseded, [all]);
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
    // Twice, to two by the group and to each of them alone.
    let sent = 2 * 4 * first.len() as u64;
    agents.until_all("each is known at once", move |stats| {
        stats.discard_replayed >= sent
    });
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
    assert_eq!(shown_late.texts, [Vec::<String>::new()]);
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
    type Case<'a> = (
        &'a str,
        &'a PrivateKey,
        FloorId,
        &'a dyn Fn(&mut GrantTerms),
    );
    let cases: [Case<'_>; 8] = [
        ("expired", root, arena.floor, &|terms| {
            terms.not_after = now - 1
        }),
        ("early", root, arena.floor, &|terms| {
            terms.not_before = now + 600
        }),
        ("group", root, arena.floor, &|terms| {
            terms.groups = [GroupId::of("other")].into();
        }),
        ("lane", root, arena.floor, &|terms| {
            terms.lanes = [Lane::Bulk].into()
        }),
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
        forge(
            &arena,
            &attacker,
            &doors,
            (name, name),
            Some(grant.to_bytes()),
            evil,
        );
    }
    let good = Grant::sign(root, arena.floor, terms("good", &|_| {})).expect("a grant");
    let fine = (Lane::Routine, "good");
    forge(
        &arena,
        &attacker,
        &doors,
        ("good", "good"),
        Some(good.to_bytes()),
        fine,
    );
    shown.until_all_have(&agents, "good");
    arena.say(&source, "true");
    shown.until_all_have(&agents, "true");
    assert_shown(&shown, &["first", "good", "true"]);
    assert!(agents.stats().discard_ungranted > 0);
    // A status that is not granted: its numbers count as received, and it is not shown.
    let testing = |terms: &mut GrantTerms| terms.statuses = [Status::Test].into();
    let grant = Grant::sign(root, arena.floor, terms("tester", &testing)).expect("a grant");
    let actual = (Lane::Routine, "meant");
    forge(
        &arena,
        &attacker,
        &doors,
        ("tester", "tester"),
        Some(grant.to_bytes()),
        actual,
    );
    arena.say(&source, "last");
    shown.until_all_have(&agents, "last");
    while shown.odd < 2 {
        shown.take(agents.event(DEADLINE).expect("it is refused aloud"));
    }
    assert!(
        shown
            .texts
            .iter()
            .all(|texts| !texts.iter().any(|text| text == "meant"))
    );
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
    let after = before.rotated(
        root,
        arena.floor,
        arena.wall_s(),
        rotation,
        [[9; KEY_BYTES]; 2],
    );
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
        let new = heard
            .iter()
            .rev()
            .take(1)
            .filter(|(_, datagram)| datagram[3] != 1);
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
    let stats = agents.stats();
    let mended = stats.copies_used + stats.repairs_received + stats.segments_mended;
    println!(
        "{} notices, {mended} of their segments lost and mended",
        said.len()
    );
    assert!(mended > 0, "something was lost on the way");
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

/// A workstation's thief who has a seal like the source's own: what it says bears proofs as a granted source's do, by another key.
fn false_source(arena: &Arena) -> Credentials {
    let terms = GrantTerms {
        key: arena.keys.key("thief").public(),
        ..arena.keys.terms(SOURCE, &[])
    };
    let own_root = PrivateKey::from_seed(&[1; KEY_BYTES]);
    let grant = Grant::sign(&own_root, arena.floor, terms).expect("a grant");
    Credentials {
        grant: Some(grant),
        ..arena.keys.workstation("thief")
    }
}

/// The last header that the source's own station wrote.
fn life_of_source(arena: &Arena, attacker: &Attacker) -> Header {
    let heard = attacker.heard_of(arena.id(SOURCE));
    let headers = heard
        .iter()
        .filter_map(|(_, datagram)| Header::read(datagram).ok());
    let mut own = headers.map(|(header, _)| header);
    own.rfind(|header| header.number < OWN_NUMBERS)
        .expect("it was heard")
}

/// Goal: who holds the floor's key cannot make workstations deaf to the source by forging it often. Method: again and again,
/// the source's grant sent once more from one port, so that the source is looked for there, and from another port of the same
/// address 60 false signatures in the middle of the source's life with the source's kind of proof; the source's notices come
/// meanwhile.
#[test]
fn forgeries_do_not_make_receivers_deaf() {
    let arena = Arena::new();
    let (source, agents, mut shown, attacker) = running(&arena, 2);
    let life = life_of_source(&arena, &attacker);
    let (mut guard, mut header) = arena.seal_of(SOURCE, false_source(&arena), Some(life.session));
    header.number = life.number + 1_000;
    let heard = attacker.heard_of(arena.id(SOURCE));
    let grant = heard.iter().find(|(_, datagram)| {
        Header::read(datagram).is_ok_and(|(header, _)| header.number >= OWN_NUMBERS)
    });
    let (_, grant) = grant.expect("its grant was heard").clone();
    let (other, over) = (arena::mouth([127, 0, 0, 1]), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let stream = StreamId::new(arena.group, Lane::Routine);
            while !over.load(Ordering::Acquire) {
                attacker.shout(&grant);
                for _ in 0..60 {
                    let forged = arena::sealed(&mut guard, arena.now(), &mut header, |writer| {
                        writer.skip(stream, SkipReason::Superseded, [SeqRange::one(SeqNo(1))]);
                    });
                    arena::send(&other, &forged, arena.address);
                }
                thread::park_timeout(Duration::from_millis(5));
            }
        });
        let texts: Vec<_> = (0..50).map(|index| format!("notice {index}")).collect();
        let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for text in &texts {
                arena.say(&source, text);
                shown.until_all_have(&agents, text);
                thread::park_timeout(Duration::from_millis(10));
            }
        }));
        over.store(true, Ordering::Release);
        if let Err(why) = came {
            std::panic::resume_unwind(why);
        }
    });
    let stats = agents.stats();
    assert!(
        stats.discard_forged > 0 && stats.discard_throttled > 0,
        "{stats:?}"
    );
    assert!(shown.texts.iter().all(|texts| texts.len() == 51) && shown.odd == 0);
}

/// Goal: who invents stations does not keep a source out that nobody has met yet. Method: more invented stations than are met
/// at once, each of which says truly signed that it is there; then as many again, as fast as they can be sent, while a second
/// source with a grant starts and is heard.
#[test]
fn invented_stations_do_not_keep_a_new_source_out() {
    const INVENTED: usize = 9_000;
    let arena = Arena::new();
    let (_source, agents, mut shown, attacker) = running(&arena, 1);
    let group = arena.group;
    let invented: Vec<_> = (0..INVENTED + 3_000)
        .map(|index| {
            let name = format!("invented-{index}");
            let (mut guard, mut header) = arena.seal(&name, arena.keys.workstation("ws-9"));
            arena::sealed(&mut guard, arena.now(), &mut header, |writer| {
                writer.presence(&name, false, &[group]);
            })
        })
        .collect();
    for some in invented[..INVENTED].chunks(64) {
        let before = taken_in(&agents);
        some.iter().for_each(|datagram| attacker.shout(datagram));
        agents.until_all("they are heard", |stats| {
            sum(stats) >= before + some.len() as u64
        });
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for datagram in invented[INVENTED..].iter().cycle() {
                attacker.shout(datagram);
                if over.load(Ordering::Acquire) {
                    break;
                }
                // As many as leave the workstation some time for others, on two cores.
                thread::park_timeout(Duration::from_micros(100));
            }
        });
        let name = "sup-2".to_owned();
        let second = arena.host(vec![(name.clone(), arena.keys.source(&name, &[]))], 0.0);
        second.ask(move |at, nodes| {
            let notice = arena::notice("sup-2", at.wall_ns, "evacuate");
            let node = nodes[0].command();
            let sent = node.broadcast(at.now, &[group], Lane::Emergency, &notice, None);
            sent.expect("it is sent");
        });
        let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            shown.until_all_have(&agents, "evacuate");
        }));
        over.store(true, Ordering::Release);
        if let Err(why) = came {
            std::panic::resume_unwind(why);
        }
    });
    assert!(agents.stats().discard_throttled > 0, "they were too many");
}

/// All that stations have taken in or thrown away.
fn taken_in(host: &Host) -> u64 {
    sum(&host.stats())
}

fn sum(stats: &Stats) -> u64 {
    stats.datagrams_received + discarded(stats)
}

fn discarded(stats: &Stats) -> u64 {
    [
        stats.discard_malformed,
        stats.discard_floor,
        stats.discard_key,
        stats.discard_own,
        stats.discard_conflict,
        stats.discard_stale,
        stats.discard_not_ours,
        stats.discard_budget,
        stats.discard_unknown,
        stats.discard_forged,
        stats.discard_replayed,
        stats.discard_untimely,
        stats.discard_ungranted,
        stats.discard_stranger,
        stats.discard_throttled,
        stats.discard_sources,
    ]
    .iter()
    .sum()
}

/// Goal: an enrolled workstation that names a third party's address as its own makes the source send nothing there but the
/// question who is there. Method: a socket at 127.66.6.6, from which truly marked requests go: for what there is, for what the
/// window no longer holds, for what was taken back, and for parity; it never answers, and notes what comes.
#[test]
fn nothing_goes_to_a_third_party() {
    let arena = Arena::new();
    let attacker = arena.attacker();
    let source = arena.host_with(vec![(SOURCE.into(), arena.granted())], 0.0, |endpoint| {
        endpoint.send_window_len = SendWindowLen::MIN;
    });
    let agents = arena.agents(1, 0.0);
    arena.gather(&source, 1);
    let mut shown = Shown::of(&agents);
    let (routine, bulk) = (
        StreamId::new(arena.group, Lane::Routine),
        StreamId::new(arena.group, Lane::Bulk),
    );
    // Numbers that the window no longer holds, numbers that were taken back, and numbers that there are.
    for _ in 0..30 {
        publish(&source, routine, 50, 100);
        publish(&source, bulk, 5, 5_000);
        thread::park_timeout(Duration::from_millis(2));
    }
    let group = arena.group;
    source.ask(move |at, nodes| {
        for text in ["one", "two", "three"] {
            let notice = arena::notice(SOURCE, at.wall_ns, text);
            let node = nodes[0].command();
            let sent = node.broadcast(at.now, &[group], Lane::Routine, &notice, Some(7));
            sent.expect("it is sent");
        }
    });
    shown.until_all_have(&agents, "three");
    let third = arena::mouth([127, 66, 6, 6]);
    let to = attacker.address_of(arena.id(SOURCE));
    let life = life_of_source(&arena, &attacker).session;
    let (mut guard, mut header) = arena.seal("ws-9", arena.keys.workstation("ws-9"));
    for (from, datagram) in attacker.heard_of(arena.id(SOURCE)) {
        let _ = guard.open(arena.now(), from, &datagram);
    }
    let about = |stream| About {
        source: arena.id(SOURCE),
        session: life,
        stream,
        echo: None,
    };
    let (mut asked, mut asked_bytes) = (0_u64, 0);
    for round in 0..200 {
        let now = arena.now();
        let gaps = [
            SeqRange::new(SeqNo(round), SeqNo(round + 3)),
            SeqRange::new(SeqNo(600 + round), SeqNo(602 + round)),
            SeqRange::new(SeqNo(1_500), SeqNo(1_503)),
        ];
        let nack = arena::sealed(&mut guard, now, &mut header, |writer| {
            writer.nack(&about(routine), gaps.into_iter().flatten());
        });
        let below = arena::sealed(&mut guard, now, &mut header, |writer| {
            writer.nack(&about(routine), [SeqRange::one(SeqNo(0))]);
        });
        let block = Block {
            first: SeqNo(64 * (round % 16)),
            len: 64,
        };
        let need = BlockNeed {
            block,
            next_index: 0,
            shards: 20,
        };
        let need = arena::sealed(&mut guard, now, &mut header, |writer| {
            writer.need(&about(bulk), [need]);
        });
        let report = arena::sealed(&mut guard, now, &mut header, |writer| {
            writer.report(&about(routine), SeqNo(0), SeqNo(1), 9, []);
        });
        for datagram in [nack, below, need, report] {
            arena::send(&third, &datagram, to);
            asked += 1;
            asked_bytes += datagram.len();
        }
        // The source says much meanwhile, so that its trains are long.
        publish(&source, bulk, 3, 5_000);
        if round % 20 == 0 {
            thread::park_timeout(Duration::from_millis(20));
        }
    }
    source.until("the requests were looked at", |_, node| {
        node.station.stats().nacks_received > 300
    });
    thread::park_timeout(Duration::from_millis(200));
    let came = arena::drain(&third);
    let sizes: BTreeSet<_> = came.iter().map(|(_, datagram)| datagram.len()).collect();
    let bytes: usize = came.iter().map(|(_, datagram)| datagram.len()).sum();
    let stats = source.stats();
    println!(
        "{asked} requests of {asked_bytes} bytes in a third party's name drew {} datagrams of {bytes} bytes there, sizes {sizes:?}; \
         {} repairs",
        came.len(),
        stats.repairs_sent
    );
    assert!(!came.is_empty(), "it is asked who is there");
    assert!(sizes.iter().all(|size| *size <= CHECK_BYTES), "{sizes:?}");
    assert!(stats.repairs_unproved > 0, "{stats:?}");
}

/// Goal: an enrolled workstation does not draw to itself what others send to the source. Method: it asks the source for old
/// numbers, and passes on to the group, from its own address, whatever the source answers to it alone: true words that nobody
/// else has seen. Everything arrives, the source has all receipts, and nothing of them comes to the thief.
#[test]
fn nobody_is_taken_for_the_source() {
    let arena = Arena::new();
    let attacker = arena.attacker();
    let (source, agents) = (arena.source(), arena.agents(3, 0.3));
    arena.gather(&source, 3);
    let mut shown = Shown::of(&agents);
    arena.say(&source, "first");
    shown.until_all_have(&agents, "first");
    let to = attacker.address_of(arena.id(SOURCE));
    let life = life_of_source(&arena, &attacker).session;
    let (mut guard, mut header) = arena.seal("ws-9", arena.keys.workstation("ws-9"));
    for (from, datagram) in attacker.heard_of(arena.id(SOURCE)) {
        let _ = guard.open(arena.now(), from, &datagram);
    }
    let about = About {
        source: arena.id(SOURCE),
        session: life,
        stream: StreamId::new(arena.group, Lane::Routine),
        echo: None,
    };
    let own = arena::mouth([127, 0, 0, 1]);
    let (mut said, mut passed_on, mut drawn) = (0, 0, Vec::new());
    let mut turns = 0;
    while passed_on < 200 {
        if turns % 10 == 0 {
            arena.say(&source, &format!("notice {said}"));
            said += 1;
        }
        turns += 1;
        let asked = SeqRange::one(SeqNo(turns % said));
        let nack = arena::sealed(&mut guard, arena.now(), &mut header, |writer| {
            writer.nack(&about, [asked]);
        });
        arena::send(&own, &nack, to);
        for (from, datagram) in arena::drain(&own) {
            if from != to {
                drawn.push(datagram);
                continue;
            }
            let opened = guard.open(arena.now(), from, &datagram);
            for (_, echo) in arena::answers(&mut guard, arena.now()) {
                arena::send(&own, &echo, to);
            }
            if let Ok(Some(_)) = opened {
                arena::send(&own, &datagram, arena.address);
                passed_on += 1;
            }
        }
        shown.catch_up(&agents);
        assert!(turns < 5_000, "nothing is answered: {:?}", source.stats());
    }
    let last = usize::try_from(said - 1).expect("few");
    shown.until_all_have(&agents, &format!("notice {last}"));
    let names: Vec<_> = agents.names.iter().map(|name| arena.id(name)).collect();
    source.until("all receipts are there", move |at, node| {
        let tally = node.command().tally(at.now, last + 1);
        tally.is_some_and(|tally| names.iter().all(|name| !tally.missing.contains(name)))
    });
    let came = arena::drain(&own);
    drawn.extend(
        came.into_iter()
            .filter(|(from, _)| *from != to)
            .map(|came| came.1),
    );
    println!(
        "{passed_on} passed on, {said} notices, {} datagrams drawn",
        drawn.len()
    );
    assert!(drawn.is_empty(), "{} datagrams of others", drawn.len());
    assert!(shown.texts.iter().all(|texts| texts.len() == last + 2) && shown.odd == 0);
}

/// Has the source publish messages that are no notices.
fn publish(source: &Host, stream: StreamId, count: usize, bytes: usize) {
    source.ask(move |at, nodes| {
        for _ in 0..count {
            let mut payload = vec![b'x'; bytes];
            payload[0] = OPAQUE;
            // A full window is as good: something is in it.
            let _ = nodes[0].command().publish(at.now, stream, payload.into());
        }
    });
}

/// What a flood is made of, and where it comes from.
struct Flood<'a> {
    name: &'static str,
    datagrams: &'a [Vec<u8>],
    mouths: &'a [UdpSocket],
}

impl Flood<'_> {
    /// Sends as fast as it goes until it is over; how many went.
    fn send(&self, to: SocketAddr, over: &AtomicBool) -> u64 {
        let mut sent = 0;
        let mut mouths = self.mouths.iter().cycle();
        for some in self.datagrams.chunks(16).cycle() {
            if over.load(Ordering::Acquire) {
                break;
            }
            let Some(mouth) = mouths.next() else { break };
            for datagram in some {
                sent += u64::from(mouth.send_to(datagram, to).is_ok());
            }
        }
        sent
    }
}

/// Goal: a flood of requests at a source keeps nobody from receiving, and draws no more than a few times the bytes that the
/// source sends without it. Method: as many as the machine sends, for the time of 100 notices each: garbage, true requests
/// again and again, new and truly marked ones of an enrolled station that asks for all there is; the first two from one address
/// and from many; in turn with times of quiet, three rounds. Everything is delivered; bytes are bounded; at last the latencies
/// to the last receiver are printed, since on a machine whose two cores flood, send and receive they say little.
#[test]
fn a_flood_of_requests_is_survived() {
    const NOTICES: usize = 100;
    const ROUNDS: usize = 3;
    let arena = Arena::new();
    let (source, agents, mut shown, attacker) = running(&arena, 4);
    let to = attacker.address_of(arena.id(SOURCE));
    let life = life_of_source(&arena, &attacker).session;
    let (mut guard, mut header) = arena.seal("ws-9", arena.keys.workstation("ws-9"));
    for (from, datagram) in attacker.heard_of(arena.id(SOURCE)) {
        let _ = guard.open(arena.now(), from, &datagram);
    }
    let about = About {
        source: arena.id(SOURCE),
        session: life,
        stream: StreamId::new(arena.group, Lane::Routine),
        echo: None,
    };
    let all = SeqRange::new(SeqNo(0), SeqNo(4_000)).expect("a range");
    let mut marked = || {
        arena::sealed(&mut guard, arena.now(), &mut header, |writer| {
            writer.nack(&about, [all]);
        })
    };
    let replayed = vec![marked()];
    let mut rng = Rng::new(1);
    let garbage: Vec<Vec<u8>> = (0..1_000)
        .map(|_| (0..160).map(|_| rng.bits().to_be_bytes()[0]).collect())
        .collect();
    let one = [arena::mouth([127, 0, 0, 1])];
    let last = |index: u8| [127, 1 + index / 8, index, 9];
    let many: Vec<_> = (0..64).map(|index| arena::mouth(last(index))).collect();
    let true_ones: Vec<Vec<Vec<u8>>> = (0..ROUNDS)
        .map(|_| (0..60_000).map(|_| marked()).collect())
        .collect();
    /// Latencies, bytes out and rates, of each round.
    type Figures = (Histogram<u64>, Vec<u64>, Vec<u64>);
    let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
    let mut longest_ns = 0;
    let mut count = 0;
    for true_ones in &true_ones {
        let floods = [
            ("quiet", &[][..], &one[..]),
            ("garbage", &garbage, &one),
            ("garbage of many", &garbage, &many),
            ("replays", &replayed, &one),
            ("replays of many", &replayed, &many),
            ("true requests", true_ones, &one),
        ];
        for (name, datagrams, mouths) in floods {
            let flood = Flood {
                name,
                datagrams,
                mouths,
            };
            let over = AtomicBool::new(false);
            let before = source.stats().bytes_sent;
            let began = arena.now();
            let sent = thread::scope(|scope| {
                let flooding = scope.spawn(|| flood.send(to, &over));
                let mut told = Vec::new();
                for _ in 0..NOTICES {
                    let text = format!("notice {count}");
                    count += 1;
                    told.push((arena.now(), text.clone()));
                    arena.say(&source, &text);
                    thread::park_timeout(Duration::from_millis(3));
                }
                let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let (_, text) = told.last().expect("something was said");
                    shown.until_all_have(&agents, text);
                }));
                over.store(true, Ordering::Release);
                if let Err(why) = came {
                    std::panic::resume_unwind(why);
                }
                let entry = figures.entry(flood.name);
                let (latencies, _, _) = entry.or_insert_with(|| {
                    let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3);
                    (latencies.expect("a histogram"), vec![], vec![])
                });
                for (at, text) in told {
                    let last = shown.last.get(&text).expect("it was shown");
                    latencies.saturating_record(last.nanos_since(at).max(1));
                }
                flooding.join().expect("the flood ends")
            });
            let took_ns = arena.now().nanos_since(began).max(1);
            longest_ns = longest_ns.max(took_ns);
            let (_, bytes, rates) = figures.get_mut(flood.name).expect("it is there");
            bytes.push(source.stats().bytes_sent - before);
            rates.push(sent * 1_000_000_000 / took_ns);
        }
    }
    let texts = |texts: &Vec<String>| texts.len() == count + 1;
    assert!(shown.texts.iter().all(texts) && shown.odd == 0 && shown.lost == 0);
    let (quiet, quiet_bytes, _) = &figures["quiet"];
    let quiet_p99 = quiet.value_at_quantile(0.99);
    let quiet_most = quiet_bytes.iter().max().expect("rounds");
    // An outsider draws nothing; a turn may take longer, and more heartbeats and copies fall into it. An insider draws one
    // receiver's share of the repairs: a burst, and a sixteenth of their rate.
    let share = (64 << 10) + Rate::RECOMMENDED.get() / 16 * longest_ns / 1_000_000_000;
    for (name, (latencies, bytes, rates)) in &figures {
        let p99 = latencies.value_at_quantile(0.99);
        println!(
            "{name}: {rates:?} a second; last receiver p50 {} us, p99 {} us, {:.2} of quiet; bytes out {bytes:?}",
            latencies.value_at_quantile(0.5) / 1_000,
            p99 / 1_000,
            p99 as f64 / quiet_p99 as f64
        );
        let drawn = if *name == "true requests" {
            2 * share
        } else {
            0
        };
        let most = 4 * quiet_most + drawn;
        assert!(
            bytes.iter().all(|bytes| *bytes <= most),
            "{name}: {bytes:?}, {most}"
        );
    }
    let stats = source.stats();
    assert!(
        stats.discard_replayed > 0 && stats.discard_malformed > 0,
        "{stats:?}"
    );
    assert!(
        stats.repairs_sent == 0 || stats.repairs_multicast == stats.repairs_sent,
        "{stats:?}"
    );
    for mouth in one.iter().chain(&many) {
        let came = arena::drain(mouth);
        assert!(
            came.iter()
                .all(|(_, datagram)| datagram.len() <= CHECK_BYTES)
        );
    }
}

/// Goal: a byte that was changed on the way, wherever it stands, makes a datagram of any kind worth nothing. Method: a
/// workstation between whose station and sockets the test stands, and a second source whose words the test writes itself, so that
/// every kind of message passes; before each of the first datagrams of a kind, copies of it with one byte changed, for every
/// byte, over the network to whom it was for. The kinds are brought about by a roll call, notices that do not come, a receipt
/// that is not sent, a window that moves on, and a notice that takes another's place; PACE and SCOUTS, which take a crowd, are
/// the second source's.
#[test]
fn a_changed_byte_is_worth_nothing() {
    let arena = Arena::new();
    let attacker = arena.attacker();
    let source = arena.host_with(vec![(SOURCE.into(), arena.granted())], 0.0, |endpoint| {
        endpoint.send_window_len = SendWindowLen::MIN;
    });
    let agents = arena.agents(1, 0.0);
    arena.gather(&source, 1);
    let to = attacker.address_of(arena.id(SOURCE));
    let mut tapped = Tapped::new(&arena, &attacker, &source, to);
    let (routine, bulk) = (
        StreamId::new(arena.group, Lane::Routine),
        StreamId::new(arena.group, Lane::Bulk),
    );
    let group = arena.group;
    tapped.run("it is there", |tap| tap.has("PRESENCE"));
    source.ask(move |at, nodes| nodes[0].command().call_roll(at.now, group, &[group]));
    tapped.run("rolls are called", |tap| {
        tap.has("ROLL CALL") && tap.has("ROSTER")
    });
    arena.say(&source, "first");
    tapped.run("a notice came", |tap| {
        [
            "DATA",
            "HEARTBEAT",
            "GRANT",
            "REPORT",
            "ADDRESS CHECK",
            "ADDRESS ECHO",
        ]
        .iter()
        .all(|kind| tap.has(kind))
    });
    // A receipt that does not come is asked for.
    tapped.keeps_reports = true;
    arena.say(&source, "second");
    tapped.run("it is asked", |tap| tap.has("ASK"));
    tapped.keeps_reports = false;
    // What does not come is asked for; the request is kept until the window has moved on.
    (tapped.loses, tapped.keeps_nacks) = (true, true);
    arena.say(&source, "third");
    tapped.run("it is asked for", |tap| !tap.kept.is_empty());
    for _ in 0..30 {
        publish(&source, routine, 50, 100);
        tapped.turn();
    }
    tapped.run("the window has moved on", |tap| {
        tap.source
            .ask(move |_, nodes| nodes[0].station.stats().evicted > 100)
    });
    (tapped.loses, tapped.keeps_nacks) = (false, false);
    tapped.send_kept();
    tapped.run("nothing is left of it", |tap| {
        tap.has("NACK") && tap.has("SQUELCH")
    });
    // A notice that takes another's place: the other is taken back.
    tapped.loses = true;
    source.ask(move |at, nodes| {
        for text in ["fourth", "fifth"] {
            let notice = arena::notice(SOURCE, at.wall_ns, text);
            let node = nodes[0].command();
            let sent = node.broadcast(at.now, &[group], Lane::Routine, &notice, Some(7));
            sent.expect("it is sent");
        }
    });
    tapped.run("it is taken back", |tap| {
        tap.loses = !tap.has("NACK") || tap.turns % 200 < 100;
        tap.has("SKIP")
    });
    tapped.loses = false;
    // Much that is lost in part: parity mends it.
    tapped.loses_some = true;
    let mut said = 0;
    tapped.run("parity is asked for", |tap| {
        if tap.turns % 100 == 0 && said < 20 {
            publish(tap.source, bulk, 1, 100_000);
            said += 1;
        }
        tap.has("NEED") && tap.has("PARITY")
    });
    tapped.loses_some = false;
    let (mut guard, mut header) = arena.seal("sup-2", arena.keys.source("sup-2", &[]));
    let mut by_hand = Vec::new();
    let mut grant_header = Header {
        number: OWN_NUMBERS,
        ..header
    };
    let grant = arena.keys.source("sup-2", &[]).grant.expect("a grant");
    by_hand.push(arena::sealed(
        &mut guard,
        arena.now(),
        &mut grant_header,
        |writer| {
            writer.grant(grant.to_bytes());
        },
    ));
    by_hand.push(arena::sealed(
        &mut guard,
        arena.now(),
        &mut header,
        |writer| {
            writer.scouts(&[arena.id("ws-1"), arena.id("ws-tapped")]);
        },
    ));
    by_hand.push(arena::sealed(
        &mut guard,
        arena.now(),
        &mut header,
        |writer| {
            writer.pace(&Pace {
                stream: routine,
                station: arena.id("ws-tapped"),
                is_behind: true,
            });
        },
    ));
    for datagram in by_hand {
        tapped.by_hand.push(datagram.clone());
        attacker.shout(&datagram);
        tapped.run("it came", |tap| tap.has_passed(&datagram));
    }
    arena.say(&source, "last");
    tapped.run("the floor goes on", |tap| {
        tap.shown.iter().any(|text| text == "last")
    });
    let mut shown = Shown::of(&agents);
    shown.until_all_have(&agents, "last");
    let all: BTreeSet<_> = ALL_KINDS.into_iter().collect();
    let came: BTreeSet<_> = tapped.changed.keys().copied().collect();
    println!(
        "{} changed datagrams sent: {:?}",
        tapped.sent_changed, tapped.changed
    );
    assert_eq!(came, all);
    // Nothing but what was published: in order, and each once.
    let published = ["first", "second", "third", "fourth", "fifth", "last"];
    let is_published = |text: &String| published.contains(&text.as_str());
    for texts in shown.texts.iter().chain([&tapped.shown]) {
        assert!(texts.iter().all(is_published), "{texts:?}");
        let mut once = texts.clone();
        once.dedup();
        assert_eq!(&once, texts);
    }
    assert_eq!(shown.odd, 0);
}

/// Every kind of message there is.
const ALL_KINDS: [&str; 17] = [
    "DATA",
    "HEARTBEAT",
    "NACK",
    "SQUELCH",
    "REPORT",
    "ASK",
    "PRESENCE",
    "ROLL CALL",
    "ROSTER",
    "SKIP",
    "PARITY",
    "NEED",
    "PACE",
    "SCOUTS",
    "ADDRESS CHECK",
    "ADDRESS ECHO",
    "GRANT",
];

/// A workstation between whose station and sockets the test stands.
struct Tapped<'a> {
    arena: &'a Arena,
    attacker: &'a Attacker,
    source: &'a Host,
    source_at: SocketAddr,
    station: Station,
    /// Opens what comes, to tell its kind, and is otherwise not heard.
    spy: Guard,
    ear: UdpSocket,
    mouth: UdpSocket,
    /// How often a datagram of a kind has been changed, byte for byte.
    changed: BTreeMap<&'static str, u32>,
    sent_changed: usize,
    shown: Vec<String>,
    passed: BTreeSet<Vec<u8>>,
    keeps_reports: bool,
    keeps_nacks: bool,
    kept: Vec<Vec<u8>>,
    /// What the attacker sends that is true.
    by_hand: Vec<Vec<u8>>,
    loses: bool,
    loses_some: bool,
    turns: u64,
}

impl<'a> Tapped<'a> {
    fn new(arena: &'a Arena, attacker: &'a Attacker, source: &'a Host, to: SocketAddr) -> Self {
        let name = "ws-tapped";
        let (spy, _) = arena.seal("ws-spy", arena.keys.workstation("ws-spy"));
        Self {
            arena,
            attacker,
            source,
            source_at: to,
            station: arena.station(name, arena.keys.workstation(name)),
            spy,
            ear: arena::ear(arena.address),
            mouth: arena::mouth([127, 0, 0, 1]),
            changed: BTreeMap::new(),
            sent_changed: 0,
            shown: Vec::new(),
            passed: BTreeSet::new(),
            keeps_reports: false,
            keeps_nacks: false,
            kept: Vec::new(),
            by_hand: Vec::new(),
            loses: false,
            loses_some: false,
            turns: 0,
        }
    }

    fn has(&self, kind: &str) -> bool {
        self.changed.contains_key(kind)
    }

    fn has_passed(&self, datagram: &[u8]) -> bool {
        self.passed.contains(datagram)
    }

    /// Goes on until something holds.
    fn run(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let until = self.arena.now() + DEADLINE;
        while !holds(self) {
            self.turn();
            assert!(
                self.arena.now() < until,
                "not in time: {what}; {:?}; {:?}; {:?}",
                self.changed,
                self.station.stats(),
                self.source.stats()
            );
        }
    }

    fn turn(&mut self) {
        self.turns += 1;
        let attacker = self.attacker.mouth.local_addr().expect("an address");
        let own = self.mouth.local_addr().expect("an address");
        let came = arena::drain(&self.ear).into_iter().map(|came| (came, true));
        let came = came.chain(
            arena::drain(&self.mouth)
                .into_iter()
                .map(|came| (came, false)),
        );
        for ((from, datagram), is_for_all) in came.collect::<Vec<_>>() {
            // What was changed has been taken in before it came back from the group.
            let is_changed = from == attacker && !self.by_hand.contains(&datagram);
            if from != own && !is_changed {
                self.take_in(from, &datagram, is_for_all);
            }
        }
        self.station.handle_timeout(self.arena.now());
        self.transmit();
    }

    fn take_in(&mut self, from: SocketAddr, datagram: &[u8], is_for_all: bool) {
        let kinds = self.kinds(from, datagram, is_for_all);
        let is_data = kinds.contains(&"DATA") || kinds.contains(&"HEARTBEAT");
        let is_lost = self.loses && is_data && kinds.contains(&"DATA");
        let is_one_in_four = self.loses_some && kinds == ["DATA"] && datagram.last() < Some(&64);
        if is_lost || is_one_in_four {
            return;
        }
        if self.is_wanted(&kinds) {
            let own = self.mouth.local_addr().expect("an address");
            for some in changed(datagram).chunks(16) {
                for one in some {
                    self.attacker.send(one, own);
                    if is_for_all {
                        self.attacker.shout(one);
                    }
                }
                self.sent_changed += some.len();
                for (from, one) in arena::drain(&self.mouth) {
                    self.handle(from, &one);
                }
            }
        }
        self.passed.insert(datagram.to_vec());
        self.handle(from, datagram);
    }

    fn handle(&mut self, from: SocketAddr, datagram: &[u8]) {
        let now = self.arena.now();
        let datagram = Bytes::copy_from_slice(datagram);
        let _ = self.station.handle_datagram(now, from, datagram);
        while let Some(event) = self.station.poll_event(self.arena.clock.read().wall_ns) {
            match event {
                StationEvent::Notice { notice, .. } => self.shown.push(notice.text.to_string()),
                StationEvent::Unreadable { .. } | StationEvent::Refused { .. } => {
                    panic!("nobody published that: {event:?}")
                }
                _ => {}
            }
        }
    }

    fn kinds(&mut self, from: SocketAddr, datagram: &[u8], is_for_all: bool) -> Vec<&'static str> {
        let is_own = Header::read(datagram).is_ok_and(|(header, _)| header.number >= OWN_NUMBERS);
        let opened = self.spy.open(self.arena.now(), from, datagram);
        match opened {
            _ if is_own && is_for_all => vec!["GRANT"],
            _ if is_own => vec!["ADDRESS CHECK"],
            Ok(Some(opened)) => arena::kinds(&opened.datagram),
            _ => Vec::new(),
        }
    }

    /// Whether there is a kind among them that has not been changed often.
    fn is_wanted(&mut self, kinds: &[&'static str]) -> bool {
        let is_wanted = kinds
            .iter()
            .any(|kind| *self.changed.get(kind).unwrap_or(&0) < 2);
        if is_wanted {
            kinds
                .iter()
                .for_each(|kind| *self.changed.entry(kind).or_default() += 1);
        }
        is_wanted
    }

    fn transmit(&mut self) {
        let now = self.arena.now();
        let mut batch = TransmitBatch::new(16);
        while self.station.may_transmit(now) && self.station.poll_unsealed(now, &mut batch) {}
        let mut kinds: Vec<_> = (0..batch.len())
            .map(|index| arena::kinds(&Bytes::copy_from_slice(batch.memory(index).1)))
            .collect();
        self.station.seal(now, &mut batch, 0);
        kinds.resize(batch.len(), vec!["ADDRESS ECHO"]);
        let datagrams: Vec<_> = batch
            .iter()
            .map(|(to, bytes)| (to, bytes.to_vec()))
            .collect();
        for ((to, datagram), kinds) in datagrams.into_iter().zip(kinds) {
            if self.keeps_nacks && kinds.contains(&"NACK") {
                self.kept.push(datagram);
            } else if !(self.keeps_reports && kinds.contains(&"REPORT")) {
                let to = match to {
                    Destination::Unicast(to) => to,
                    Destination::Group(_) => self.arena.address,
                };
                self.send(&datagram, &kinds, to);
            }
        }
    }

    /// Sends a datagram, and before it what is changed of it.
    fn send(&mut self, datagram: &[u8], kinds: &[&'static str], to: SocketAddr) {
        if self.is_wanted(kinds) {
            for some in changed(datagram).chunks(64) {
                let before = discarded(&self.source.stats());
                some.iter()
                    .for_each(|one| self.attacker.send(one, self.source_at));
                self.source.until_all("they are refused", |stats| {
                    discarded(stats) >= before + some.len() as u64
                });
                self.sent_changed += some.len();
            }
        }
        arena::send(&self.mouth, datagram, to);
    }

    fn send_kept(&mut self) {
        for datagram in std::mem::take(&mut self.kept) {
            self.send(&datagram, &["NACK"], self.source_at);
        }
    }
}

/// A datagram with one byte changed, for each of its bytes.
fn changed(datagram: &[u8]) -> Vec<Vec<u8>> {
    let change = |place: usize| {
        let mut bytes = datagram.to_vec();
        bytes[place] ^= 1 << (place % 8);
        bytes
    };
    (0..datagram.len()).map(change).collect()
}

/// The group `all` of a floor of real programs.
fn group_of(lab: &Lab) -> SocketAddr {
    let text = fs::read_to_string(lab.file("floor.toml")).expect("a floor file");
    let line = text.lines().find(|line| line.starts_with("address = "));
    let address = line.and_then(|line| line.split('"').nth(1));
    address.expect("an address").parse().expect("an address")
}

/// A floor of real programs, with keys and the sources `sup-1` and `sup-2`.
fn signed_lab() -> Lab {
    let lab = Lab::new();
    lab.sign();
    lab.grant("sup-2");
    lab
}

/// An agent of it that is ready.
fn agent(lab: &Lab) -> Running {
    let agent = lab.start(&["agent", "--json", "--name", "ws-1"]);
    assert_eq!(event(&agent)["event"], "ready");
    agent
}

fn event(agent: &Running) -> Value {
    serde_json::from_str(&agent.line()).expect("a JSON line")
}

/// The text of the next notice that an agent prints.
fn next_text(agent: &Running) -> String {
    loop {
        let event = event(agent);
        if event["event"] == "notice" {
            return event["text"].as_str().expect("a text").to_owned();
        }
    }
}

/// Has `name` send, and waits until the agent has it.
fn send(lab: &Lab, name: &str, text: &str) {
    let ended = lab.run(&["send", "--name", name, "--to", "all", "--wait", "20s", text]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// Goal: an agent that was restarted shows nothing again, whoever sends it what has passed. Method: the real program with its
/// state; all that passed is sent again as soon as it is back, twice, and then something new.
#[test]
fn a_restarted_agent_shows_nothing_again() {
    let lab = signed_lab();
    let attacker = Attacker::new(group_of(&lab));
    let first = agent(&lab);
    for text in ["one", "two", "three"] {
        send(&lab, SOURCE, text);
        assert_eq!(next_text(&first), text);
    }
    let id = first.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &id]).status();
    assert!(killed.expect("kill runs").success());
    assert_eq!(first.end().code, Some(0));
    let again = agent(&lab);
    for _ in 0..2 {
        for (_, datagram) in attacker.heard() {
            attacker.shout(&datagram);
        }
    }
    send(&lab, SOURCE, "four");
    assert_eq!(next_text(&again), "four");
}

/// Goal: a source whose key was stolen and is revoked is not heard any more by agents that run. Method: the real programs; the
/// thief has a copy of all files from before the revocation, and sends in turn with the other source, until only that one is
/// heard; from then on the thief never is.
#[test]
fn a_revoked_source_is_not_heard_by_agents_that_run() {
    let lab = signed_lab();
    let thief = Lab::new();
    for name in ["floor.toml", "floor.toml.sig"] {
        fs::copy(lab.file(name), thief.file(name)).expect("a copy");
    }
    copy_all(&lab.file("keys"), &thief.file("keys"));
    let agent = agent(&lab);
    send(&thief, "sup-2", "stolen");
    assert_eq!(next_text(&agent), "stolen");
    let revoked = lab.run(&["keys", "revoke", "sup-2"]);
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    let (mut tries, mut unheard) = (0, 0);
    while unheard < 3 {
        let (evil, good) = (format!("evil {tries}"), format!("good {tries}"));
        thief.run(&[
            "send", "--name", "sup-2", "--to", "all", "--wait", "0s", &evil,
        ]);
        send(&lab, SOURCE, &good);
        let shown = next_text(&agent);
        if shown == evil {
            assert_eq!(unheard, 0, "heard again");
            assert_eq!(next_text(&agent), good);
        } else {
            assert_eq!(shown, good);
            unheard += 1;
        }
        tries += 1;
        assert!(tries < 200, "still heard");
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// Goal: noise at the rate of the line keeps nothing from arriving, and nothing of it is kept. Method: the real programs; random
/// bytes of every length, half of them behind the header of a true datagram, as fast as the machine sends them to the group,
/// where agent and senders hear them, and to the sender alone; meanwhile ten notices are sent, and received. The agent's memory
/// is as before.
#[test]
fn noise_at_the_rate_of_the_line_is_survived() {
    let lab = signed_lab();
    let group = group_of(&lab);
    let attacker = Attacker::new(group);
    let agent = agent(&lab);
    send(&lab, SOURCE, "first");
    assert_eq!(next_text(&agent), "first");
    let mut rng = Rng::new(9);
    let heard = attacker.heard();
    let mut noise = Vec::new();
    for index in 0..4_000 {
        let len = rng.below(1_400);
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.bits().to_be_bytes()[0]).collect();
        let (_, true_one) = &heard[index % heard.len()];
        let head = bytes.len().min(32);
        if index % 2 == 0 {
            bytes[..head].copy_from_slice(&true_one[..head]);
        }
        noise.push(bytes);
    }
    let before = resident_kib(agent.id());
    let over = AtomicBool::new(false);
    let (mouths, clock) = ([arena::mouth([127, 0, 0, 1])], Clock::start());
    attacker.ignore(mouths[0].local_addr().expect("an address"));
    let began = clock.now();
    let sent = thread::scope(|scope| {
        let flood = Flood {
            name: "noise",
            datagrams: &noise,
            mouths: &mouths,
        };
        let (over, attacker, noise) = (&over, &attacker, &noise);
        let flooding = scope.spawn(move || flood.send(group, over));
        // Whoever was heard last, agent or sender, is sent some to his own address.
        scope.spawn(move || {
            while !over.load(Ordering::Acquire) {
                for (to, _) in &attacker.newest() {
                    noise
                        .iter()
                        .take(200)
                        .for_each(|bytes| attacker.send(bytes, *to));
                }
                thread::park_timeout(Duration::from_millis(10));
            }
        });
        let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for index in 0..10 {
                let text = format!("notice {index}");
                send(&lab, SOURCE, &text);
                assert_eq!(next_text(&agent), text);
            }
        }));
        over.store(true, Ordering::Release);
        if let Err(why) = came {
            std::panic::resume_unwind(why);
        }
        flooding.join().expect("it ends")
    });
    let seconds = clock.now().nanos_since(began) as f64 / 1e9;
    let after = resident_kib(agent.id());
    println!(
        "{sent} datagrams of noise, {:.0} a second; resident before {before:?} KiB, after {after:?} KiB",
        sent as f64 / seconds
    );
    if let (Some(before), Some(after)) = (before, after) {
        assert!(after < before + 8_192, "{before} KiB, then {after} KiB");
    }
}

/// Memory that a program keeps resident, where the system tells.
fn resident_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

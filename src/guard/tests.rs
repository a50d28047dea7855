//! Guards against each other, without a network: what is sealed is opened, and nothing else.

use bytes::Bytes;

use super::*;
use crate::keys::{GrantTerms, Rotation, ThrowAway};
use crate::notice::{Notice, NoticeId};
use crate::proto::{Destination, Join, TransmitBatch};
use crate::rng::Rng;
use crate::station::{Station, StationConfig, StationEvent};
use crate::wire::Lane;

const FLOOR: &str = "guarded";
/// The wall clock at zero, nanoseconds.
const WALL_NS: u64 = 1_800_000_000_000_000_000;
const WALL_S: u64 = WALL_NS / 1_000_000_000;

fn floor() -> FloorId {
    FloorId::of(FLOOR)
}

fn keys() -> ThrowAway {
    ThrowAway::new(floor(), [7; KEY_BYTES], WALL_S - 1_000)
}

fn all() -> GroupId {
    GroupId::of("all")
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn station(name: &str, session: u64, credentials: Credentials) -> Station {
    let source = SourceId::of(floor(), name);
    let session = SessionId(session);
    let mut endpoint = Config::new(floor(), source, session);
    let guard = Guard::new(credentials, &mut endpoint, WALL_NS, Verdicts::default()).unwrap();
    let config = StationConfig {
        endpoint,
        name: name.to_owned(),
        is_workstation: false,
        groups: vec![all()],
        join: Join::Trail,
        remember: crate::notice::REMEMBER_RECOMMENDED,
        listed: BTreeMap::new(),
    };
    Station::new(config, session.0, Timestamp::from_nanos(1)).guarded(guard)
}

fn source() -> Station {
    station("sup-1", 1, keys().source("sup-1", &[]))
}

fn workstation(name: &str) -> Station {
    station(name, 100, keys().workstation(name))
}

fn now() -> Timestamp {
    Timestamp::from_nanos(1_000_000_000)
}

fn notice(from: &str, id: u64, text: &str) -> Notice {
    Notice {
        id: NoticeId(id),
        from: from.into(),
        sent_ns: WALL_NS,
        expires_ns: None,
        confirm: true,
        status: Status::Actual,
        text: text.into(),
    }
}

/// Has `station` broadcast, and takes what it sends.
fn say(station: &mut Station, at: Timestamp, texts: &[&str]) -> Vec<Vec<u8>> {
    for (id, text) in texts.iter().enumerate() {
        let name = station.name().to_owned();
        let notice = notice(&name, at.as_nanos() + id as u64, text);
        station
            .broadcast(at, &[all()], Lane::Routine, &notice, None)
            .unwrap();
    }
    sent(station, at)
}

fn sent(station: &mut Station, at: Timestamp) -> Vec<Vec<u8>> {
    let mut batch = TransmitBatch::new(64);
    let mut datagrams = Vec::new();
    while station.poll_transmit(at, &mut batch) {
        datagrams.extend(batch.iter().map(|(_, datagram)| datagram.to_vec()));
        batch.clear();
    }
    datagrams
}

fn give(to: &mut Station, at: Timestamp, from: u16, datagram: &[u8]) -> Result<(), Discard> {
    to.handle_datagram(at, self::at(from), Bytes::copy_from_slice(datagram))
}

fn heard(station: &mut Station) -> Vec<String> {
    std::iter::from_fn(|| station.poll_event(WALL_NS))
        .filter_map(|event| match event {
            StationEvent::Notice { notice, .. } => Some(notice.text.to_string()),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_sealed_is_opened_whole_and_in_order() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    let long = "x".repeat(20_000);
    let datagrams = say(&mut source, now(), &["one", &long, "three"]);
    assert!(datagrams.iter().all(|datagram| datagram.len() <= 1_400));
    for datagram in &datagrams {
        let bytes = datagram.windows(3).any(|bytes| bytes == b"xxx");
        assert!(!bytes, "nothing is sent in clear");
        give(&mut agent, now(), 7, datagram).unwrap();
    }
    assert_eq!(heard(&mut agent), ["one", &long, "three"]);
    let sizes: Vec<_> = datagrams.iter().map(Vec::len).collect();
    // The grant goes first; full datagrams are equally long, so that they make a train.
    assert_eq!(sizes[2..sizes.len() - 2], vec![sizes[2]; sizes.len() - 4]);
}

/// Goal: whatever comes of a datagram on the way, it is taken as it was sent or not at all. Method: each bit of each datagram
/// flipped, and each cut, before the true one.
#[test]
fn a_flipped_bit_is_refused_wherever_it_is() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    let mut datagrams = say(&mut source, now(), &["one", "two"]);
    source.handle_timeout(now().plus_nanos(1_000_000));
    datagrams.extend(sent(&mut source, now().plus_nanos(1_000_000)));
    assert!(datagrams.len() >= 3, "a grant, data, a heartbeat");
    for datagram in datagrams {
        for bit in 0..datagram.len() * 8 {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let answer = give(&mut agent, now(), 7, &changed);
            assert!(answer.is_err(), "bit {bit}");
        }
        for len in 0..datagram.len() {
            assert!(give(&mut agent, now(), 7, &datagram[..len]).is_err());
        }
        give(&mut agent, now(), 7, &datagram).unwrap();
    }
    assert_eq!(heard(&mut agent), ["one", "two"]);
}

#[test]
fn a_replay_is_refused_at_once_later_and_in_another_order() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    let datagrams = say(&mut source, now(), &["one", "two"]);
    for datagram in &datagrams {
        give(&mut agent, now(), 7, datagram).unwrap();
    }
    let later = now().plus_nanos(200_000_000_000);
    for at in [now(), later] {
        for datagram in datagrams.iter().rev() {
            let answer = give(&mut agent, at, 8, datagram);
            // The grant may come again and again: it says nothing new.
            assert!(
                matches!(answer, Ok(()) | Err(Discard::Replayed)),
                "{answer:?}"
            );
        }
    }
    assert_eq!(heard(&mut agent), ["one", "two"]);
    // To somebody who was not there: within five minutes it is as good as new, after that it is not.
    let mut late = workstation("ws-2");
    let stale = now().plus_nanos(301_000_000_000);
    for datagram in &datagrams {
        let answer = give(&mut late, stale, 7, datagram);
        assert_eq!(answer, Err(Discard::Untimely));
    }
    assert_eq!(heard(&mut late), [""; 0]);
}

/// Goal: an older life of a source cannot be raised against the present one.
#[test]
fn an_older_life_does_not_come_back() {
    let mut agent = workstation("ws-1");
    let mut first = source();
    let old = say(&mut first, now(), &["old"]);
    let mut second = station("sup-1", 2, keys().source("sup-1", &[]));
    let later = now().plus_nanos(10_000_000);
    for datagram in say(&mut second, later, &["new"]) {
        give(&mut agent, later, 7, &datagram).unwrap();
    }
    for datagram in &old {
        assert_eq!(give(&mut agent, later, 7, datagram), Err(Discard::Stale));
    }
    assert_eq!(heard(&mut agent), ["new"]);
}

/// Goal: whoever has all that a workstation has publishes nothing: with its own key, with a grant of another's, with one
/// that it signed itself, or in the source's name.
#[test]
fn a_member_of_the_floor_cannot_publish() {
    let all_keys = keys();
    let with = |change: &dyn Fn(&mut GrantTerms), root: &crate::keys::PrivateKey, name: &str| {
        let mut terms = all_keys.terms(name, &[]);
        change(&mut terms);
        Credentials {
            grant: Some(Grant::sign(root, floor(), terms).unwrap()),
            ..all_keys.workstation(name)
        }
    };
    let thief = all_keys.key("thief");
    let nothing = |_: &mut GrantTerms| {};
    let foreign = Credentials {
        key: all_keys.key("thief"),
        ..all_keys.source("sup-1", &[])
    };
    let own = |change: &dyn Fn(&mut GrantTerms)| with(change, all_keys.root(), "sup-1");
    let cases = [
        ("no grant", "ws-9", all_keys.workstation("ws-9")),
        ("self-signed", "thief", with(&nothing, &thief, "thief")),
        (
            "of another group",
            "sup-1",
            all_keys.source("sup-1", &[GroupId::of("other")]),
        ),
        (
            "of another lane",
            "sup-1",
            own(&|terms| terms.lanes = [Lane::Bulk].into()),
        ),
        (
            "expired",
            "sup-1",
            own(&|terms| terms.not_after = WALL_S - 1),
        ),
        (
            "not yet",
            "sup-1",
            own(&|terms| terms.not_before = WALL_S + 1_000),
        ),
    ];
    for (what, name, credentials) in cases {
        let mut agent = workstation("ws-1");
        let mut forger = station(name, 5, credentials);
        let datagrams = say(&mut forger, now(), &["evacuate"]);
        assert!(!datagrams.is_empty(), "{what}");
        for datagram in &datagrams {
            let _ = give(&mut agent, now(), 7, datagram);
        }
        assert_eq!(heard(&mut agent), [""; 0], "{what}");
        let stats = agent.stats();
        let counted = stats.discard_ungranted + stats.discard_forged + stats.discard_stranger;
        assert!(counted > 0, "{what}: {stats:?}");
    }
    // In the true source's name, whose grant everybody has, with another key: it cannot even be started.
    let source_id = SourceId::of(floor(), "sup-1");
    let mut endpoint = Config::new(floor(), source_id, SessionId(9));
    let refused = Guard::new(foreign, &mut endpoint, WALL_NS, Verdicts::default());
    assert_eq!(refused.err(), Some(GuardError::NotOurs));
    // And by hand: its name, the floor's key, a signature of its own.
    let mut agent = workstation("ws-1");
    for datagram in say(&mut source(), now(), &["true"]) {
        give(&mut agent, now(), 7, &datagram).unwrap();
    }
    let mut forger = station("sup-1", 5, all_keys.workstation("thief"));
    for datagram in say(&mut forger, now().plus_nanos(5_000_000), &["evacuate"]) {
        assert!(give(&mut agent, now(), 7, &datagram).is_err());
    }
    assert_eq!(heard(&mut agent), ["true"]);
}

#[test]
fn a_revoked_source_is_not_heard_any_more() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    for datagram in say(&mut source, now(), &["before"]) {
        give(&mut agent, now(), 7, &datagram).unwrap();
    }
    let keys = keys();
    let public = keys.key("sup-1").public();
    let revoked = keys.revoked().with(keys.root(), floor(), WALL_S, &public);
    let revoked = revoked.unwrap().unwrap();
    agent
        .guard()
        .unwrap()
        .renew(keys.group_keys().clone(), revoked);
    let later = now().plus_nanos(5_000_000);
    for datagram in say(&mut source, later, &["after"]) {
        assert!(give(&mut agent, later, 7, &datagram).is_err());
    }
    assert_eq!(heard(&mut agent), ["before"]);
}

/// Goal: while the floor's key changes nothing is lost: either key opens, and the sender changes by its clock.
#[test]
fn keys_change_while_datagrams_are_on_their_way() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    let keys = keys();
    let rotation = Rotation {
        lead_s: 2,
        overlap_s: 10,
    };
    let rotated = keys
        .group_keys()
        .rotated(keys.root(), floor(), WALL_S, rotation, [[9; KEY_BYTES]; 2])
        .unwrap();
    let mut used = std::collections::BTreeSet::new();
    for second in 0..6_u64 {
        if second == 1 {
            let renewed = |station: &mut Station| {
                let guard = station.guard().unwrap();
                guard.renew(rotated.clone(), keys.revoked().clone());
            };
            renewed(&mut source);
            renewed(&mut agent);
        }
        let at = now().plus_nanos(second * 1_000_000_000);
        for datagram in say(&mut source, at, &[&format!("{second}")]) {
            used.insert(datagram[3]);
            give(&mut agent, at, 7, &datagram).unwrap();
        }
    }
    assert_eq!(heard(&mut agent), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(used.len(), 2, "both keys were used");
    // A workstation that has the new one only, when its time has come, and one with neither.
    let mut stranger = station(
        "ws-8",
        3,
        ThrowAway::new(floor(), [8; KEY_BYTES], WALL_S - 1_000).workstation("ws-8"),
    );
    let at = now().plus_nanos(6_000_000_000);
    for datagram in say(&mut source, at, &["6"]) {
        assert!(give(&mut stranger, at, 7, &datagram).is_err());
    }
}

/// Goal: nothing large goes to an address before somebody there has answered, and then it does.
#[test]
fn an_address_is_proved_before_repairs_go_to_it() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    let first = say(&mut source, now(), &["one"]);
    let lost = say(&mut source, now().plus_nanos(1_000), &["two"]);
    let third = say(&mut source, now().plus_nanos(2_000), &["three"]);
    assert!(!lost.is_empty());
    let mut at = now().plus_nanos(3_000);
    for datagram in first.iter().chain(&third) {
        give(&mut agent, at, 7, datagram).unwrap();
    }
    let mut repairs_to = Vec::new();
    let mut proved = false;
    for _ in 0..400 {
        at = at.plus_nanos(250_000);
        let mut batch = TransmitBatch::new(64);
        agent.handle_timeout(at);
        while agent.poll_transmit(at, &mut batch) {
            for (_, datagram) in batch.iter() {
                let _ = give(&mut source, at, 8, datagram);
            }
            batch.clear();
        }
        source.handle_timeout(at);
        while source.poll_transmit(at, &mut batch) {
            for (to, datagram) in batch.iter() {
                if let Destination::Unicast(to) = to {
                    assert_eq!(to, self::at(8));
                    repairs_to.push(datagram.len());
                }
                let _ = give(&mut agent, at, 7, datagram);
            }
            batch.clear();
        }
        let id = SourceId::of(floor(), "ws-1");
        let peers = &source.guard().unwrap().peers;
        proved |= peers
            .get(&id)
            .is_some_and(|peer| peer.proved == Some(self::at(8)));
    }
    assert!(proved, "it has answered");
    assert!(
        repairs_to.iter().all(|&bytes| bytes < 250),
        "{repairs_to:?}"
    );
    assert_eq!(heard(&mut agent), ["one", "two", "three"]);
}

/// Goal: random bytes and random changes of true datagrams are refused without a panic and without being kept.
#[test]
fn noise_is_refused_and_leaves_nothing_behind() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    let datagrams = say(&mut source, now(), &["one"]);
    let mut rng = Rng::new(3);
    for _ in 0..20_000 {
        let mut bytes = datagrams[rng.below(datagrams.len() as u64) as usize].clone();
        for _ in 0..=rng.below(20) {
            let place = rng.below(bytes.len() as u64) as usize;
            bytes[place] = rng.bits() as u8;
        }
        if datagrams.contains(&bytes) {
            continue;
        }
        assert!(give(&mut agent, now(), rng.below(60_000) as u16, &bytes).is_err());
    }
    let guard = agent.guard().unwrap();
    assert!(guard.peers.is_empty() && guard.grants.is_empty());
}

/// Goal: two datagrams that differ never share a nonce, even of two programs that are copies of each other down to the
/// numbers they count with (R-SEAL-2).
#[test]
fn copies_of_a_program_never_share_a_nonce() {
    let mut nonces = BTreeMap::new();
    for copy in 0..2 {
        let mut source = source();
        for round in 0..20_u64 {
            let at = now().plus_nanos(round * 1_000_000);
            let text = if round < 10 {
                "same".to_owned()
            } else {
                format!("{copy}")
            };
            // The first datagram of a train may be the same in both copies, and the second, and with it the proofs, another.
            let same = "same ".repeat(200);
            let other = format!("{copy} ").repeat(500);
            for datagram in say(&mut source, at, &[&text, &same, &other]) {
                let nonce = datagram[HEADER_BYTES..HEADER_BYTES + NONCE_BYTES].to_vec();
                if let Some(before) = nonces.insert(nonce, datagram.clone()) {
                    assert_eq!(before, datagram, "the same nonce says the same");
                }
            }
        }
    }
}

/// Goal: however many stations somebody invents, a source that nobody has met is heard at once. Method: as many as are kept, met
/// as fast as they are, each of which has truly signed; then the next ones are refused, and the source is not.
#[test]
fn invented_stations_leave_room_for_a_source() {
    let mut agent = workstation("ws-1");
    let key = keys().workstation("thief");
    let mut at = now();
    let mut throttled = 0;
    let invent = |index: u64, at| {
        let (mut guard, header) = bare(&format!("invented-{index}"), key.clone());
        sealed(&mut guard, at, &header, |writer| {
            writer.roll_call(&crate::wire::RollCall {
                group: all(),
                token: 1,
            });
        })
    };
    for index in 0..PEERS_MAX as u64 {
        if index >= 8_192 {
            at = at.plus_nanos(10_000_000);
        }
        throttled += u64::from(give(&mut agent, at, 9, &invent(index, at)).is_err());
    }
    assert_eq!(throttled, 0);
    assert_eq!(agent.guard().unwrap().peers.len(), PEERS_MAX);
    assert!(give(&mut agent, at, 9, &invent(1 << 20, at)).is_err());
    for datagram in say(&mut source(), at, &["evacuate"]) {
        give(&mut agent, at, 7, &datagram).unwrap();
    }
    assert_eq!(heard(&mut agent), ["evacuate"]);
    assert_eq!(agent.guard().unwrap().peers.len(), PEERS_MAX);
}

/// Goal: what a station without a grant makes others check has a bound, however true its signatures are. Method: one that signs
/// ten thousand words one by one in a moment, and again in as many lives.
#[test]
fn true_signatures_of_one_station_have_a_bound() {
    let mut agent = workstation("ws-1");
    let mut taken = 0;
    for life in 0..10 {
        let (mut guard, mut header) = bare("ws-9", keys().workstation("ws-9"));
        let at = now().plus_nanos(life * 2_000_000);
        for _ in 0..1_000 {
            let datagram = sealed(&mut guard, at, &header, |writer| {
                writer.presence("ws-9", false, &[all()]);
            });
            header.number += 1;
            taken += u64::from(give(&mut agent, at, 9, &datagram).is_ok());
        }
    }
    assert!((1_000..1_100).contains(&taken), "{taken}");
}

/// A guard alone, in a life that nobody else has.
fn bare(name: &str, credentials: Credentials) -> (Guard, Header) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LIVES: AtomicU64 = AtomicU64::new(1_000);
    let session = SessionId(LIVES.fetch_add(1, Ordering::Relaxed));
    let source = SourceId::of(floor(), name);
    let mut endpoint = Config::new(floor(), source, session);
    let guard = Guard::new(credentials, &mut endpoint, WALL_NS, Verdicts::default()).unwrap();
    let header = Header {
        key: 1,
        floor: floor(),
        source,
        session,
        number: 0,
    };
    (guard, header)
}

/// What `fill` writes, sealed.
fn sealed(
    guard: &mut Guard,
    at: Timestamp,
    header: &Header,
    fill: impl FnOnce(&mut wire::DatagramWriter<'_>),
) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut writer = wire::DatagramWriter::plain(&mut plain, 1_400, header);
    fill(&mut writer);
    writer.finish();
    let mut batch = TransmitBatch::new(2);
    batch.append(Destination::Group(all()), &plain);
    batch.append(Destination::Group(all()), &[0; 512]);
    batch.truncate(1);
    guard.seal(at, &mut batch, 0);
    let (_, datagram) = batch.iter().next().unwrap();
    datagram.to_vec()
}

/// Goal: who holds the floor's key cannot have a source's signatures go unchecked, by sending its words again from elsewhere and
/// spending what is checked for its host. Method: the grant again from another port, and false signatures in the middle of the
/// source's life from a third, all of one host and at one moment; then the source.
#[test]
fn forgeries_do_not_spend_what_a_source_is_checked_for() {
    let (mut source, mut agent) = (source(), workstation("ws-1"));
    let said = say(&mut source, now(), &["one"]);
    for datagram in &said {
        give(&mut agent, now(), 7, datagram).unwrap();
    }
    for datagram in &said {
        assert_eq!(give(&mut agent, now(), 8, datagram), Err(Discard::Replayed));
    }
    let terms = GrantTerms {
        key: keys().key("thief").public(),
        ..keys().terms("sup-1", &[])
    };
    let own_root = crate::keys::PrivateKey::from_seed(&[1; KEY_BYTES]);
    let thief = Credentials {
        grant: Some(Grant::sign(&own_root, floor(), terms).unwrap()),
        ..keys().workstation("thief")
    };
    let mut forger = station("sup-1", 1, thief);
    let mut throttled = false;
    let mut at = now();
    for index in 0..600 {
        at = at.plus_nanos(500_000);
        for datagram in say(&mut forger, at, &[&format!("{index}")]) {
            throttled |= give(&mut agent, at, 9, &datagram) == Err(Discard::Throttled);
        }
    }
    assert!(throttled, "no more of them are checked");
    for datagram in say(&mut source, at, &["two"]) {
        give(&mut agent, at, 7, &datagram).unwrap();
    }
    assert_eq!(heard(&mut agent), ["one", "two"]);
}

/// Goal: a source whose clock is set to before the floor's first key, and so has no key in use, waits; its timer never stays due.
/// Method: its grant is due again, and a workstation's datagram makes it want to ask for the address; it has no key for either.
#[test]
fn a_source_without_a_key_in_use_waits() {
    let second = 1_000_000_000;
    let first_key_ns = (WALL_S - 1_000) * second;
    let (mut agent, header) = bare("ws-1", keys().workstation("ws-1"));
    agent.set_wall(now(), first_key_ns + second);
    let presence = sealed(&mut agent, now(), &header, |writer| {
        writer.presence("ws-1", false, &[all()]);
    });
    let (mut source, header) = bare("sup-1", keys().source("sup-1", &[]));
    sealed(&mut source, now(), &header, |writer| {
        writer.presence("sup-1", false, &[all()]);
    });
    let due = source.poll_timeout();
    assert!(due < Timestamp::FAR_FUTURE, "its grant is told again");
    source.set_wall(due, first_key_ns - 60 * second);
    source.open(due, at(7), &presence).unwrap();
    assert!(source.poll_timeout() < due, "it wants to ask");
    let mut batch = TransmitBatch::new(2);
    source.seal(due, &mut batch, 0);
    assert_eq!(batch.len(), 0, "nothing can be sealed");
    assert!(source.poll_timeout() > due, "it waits");
}

/// Goal: who holds the floor's key does not keep a source's new life out, though it borrows the source's host and floods. Method: five
/// false signatures a millisecond in the source's name, from ports of its host; the source starts anew among them.
#[test]
fn a_new_life_is_heard_among_forgeries_from_its_host() {
    let mut agent = workstation("ws-1");
    for datagram in say(&mut source(), now(), &["one"]) {
        give(&mut agent, now(), 7, &datagram).unwrap();
    }
    let mut forger = Credentials {
        key: keys().key("thief"),
        ..keys().source("sup-1", &[])
    };
    forger.grant = None;
    let (mut forger, mut forged) = bare("sup-1", forger);
    let mut again = station("sup-1", 2, keys().source("sup-1", &[]));
    let mut throttled = 0;
    let mut texts = Vec::new();
    let mut rng = Rng::new(3);
    for millisecond in 0..3_000_u64 {
        let start = now().plus_nanos(1_000_000_000 + millisecond * 1_000_000);
        let mut moments: Vec<_> = (0..6).map(|_| rng.below(1_000_000)).collect();
        moments.sort_unstable();
        let the_source = rng.below(6) as usize;
        for (index, moment) in moments.into_iter().enumerate() {
            let at = start.plus_nanos(moment);
            if index == the_source {
                let said = if millisecond == 1_000 {
                    say(&mut again, at, &["two"])
                } else {
                    again.handle_timeout(at);
                    sent(&mut again, at)
                };
                for datagram in said {
                    let _ = give(&mut agent, at, 8, &datagram);
                }
                continue;
            }
            forged.number += 1;
            let mut datagram = sealed(&mut forger, at, &forged, |writer| {
                writer.presence("sup-1", false, &[all()]);
            });
            // Its own key is not the granted one; what claims to be signed under that is checked.
            unkey(&mut forger, &mut datagram, &forged);
            let taken = give(&mut agent, at, 1_000 + index as u16, &datagram);
            throttled += u64::from(taken == Err(Discard::Throttled));
        }
        texts.extend(heard(&mut agent));
    }
    assert!(throttled > 5_000, "most are not even checked: {throttled}");
    assert_eq!(texts, ["one", "two"]);
}

/// Seals again what a guard has sealed, with a proof of the kind that needs no key beside it: a false claim to the granted one.
fn unkey(guard: &mut Guard, datagram: &mut Vec<u8>, header: &Header) {
    let (_, key) = guard.own.as_ref().unwrap();
    let nonce_end = HEADER_BYTES + NONCE_BYTES;
    let mut nonce = [0; NONCE_BYTES];
    nonce.copy_from_slice(&datagram[HEADER_BYTES..nonce_end]);
    let (head, body) = datagram.split_at_mut(nonce_end);
    let len = key.open(nonce, &head[..HEADER_BYTES], body).unwrap();
    let opened = body[..len].to_vec();
    let (messages, proof) = Proof::split(&opened).unwrap();
    let Proof::Train(proof) = proof else { panic!() };
    let claim = Proof::Train(TrainProof { key: None, ..proof });
    let mut body = messages.to_vec();
    let end = body.len();
    body.resize(end + KEYED_BYTES_MAX, 0);
    let proof_len = claim.write(&mut body[end..]);
    body.truncate(end + proof_len);
    nonce[0] ^= header.number.to_be_bytes()[7];
    let tag = key.seal(nonce, &head[..HEADER_BYTES], &mut body);
    *datagram = [&head[..HEADER_BYTES], &nonce, &body, &tag].concat();
}

/// Goal: nobody makes a station send to a third party at the rate of its requests. Method: a workstation with true marks asks
/// where another one is, a thousand times; a source asks more often than it has to, once from somewhere else; a workstation
/// begins a thousand lives at a source that wants to know where it is.
#[test]
fn questions_about_addresses_are_answered_to_sources_and_seldom() {
    let ws_1 = SourceId::of(floor(), "ws-1");
    let check = AddressCheck {
        station: ws_1,
        session: SessionId(100),
        token: 7,
    };
    let mut agent = workstation("ws-1");
    let (mut thief, _) = bare("ws-9", keys().workstation("ws-9"));
    let (mut source, _) = bare("sup-1", keys().source("sup-1", &[]));
    for guard in [&mut thief, &mut source] {
        let (mut own, own_header) = bare("ws-1", keys().workstation("ws-1"));
        let presence = sealed(&mut own, now(), &own_header, |writer| {
            writer.presence("ws-1", false, &[all()]);
        });
        guard.open(now(), at(3), &presence).unwrap();
    }
    for datagram in say(&mut self::source(), now(), &["one"]) {
        give(&mut agent, now(), 7, &datagram).unwrap();
    }
    let mut echoes = Vec::new();
    for index in 0..1_000 {
        let later = now().plus_nanos(1_000_000_000 + index * 1_000_000);
        for (guard, from) in [
            (&mut thief, 66),
            (&mut source, 7 + 60 * u16::from(index == 500)),
        ] {
            guard
                .answers
                .push_back((at(3), Address::Check(ws_1, check)));
            let mut batch = TransmitBatch::new(4);
            guard.seal(later, &mut batch, 0);
            let (_, question) = batch.iter().last().unwrap();
            let taken = give(&mut agent, later, from, question);
            let is_a_source = from != 66;
            assert_eq!(taken.is_ok(), is_a_source, "{taken:?}");
        }
        agent.handle_timeout(later);
        let mut batch = TransmitBatch::new(64);
        while agent.poll_transmit(later, &mut batch) {
            echoes.extend(batch.iter().map(|(to, _)| to));
            batch.clear();
        }
    }
    let ws_9 = SourceId::of(floor(), "ws-9");
    let is_met = agent.guard().unwrap().peers.contains_key(&ws_9);
    assert!(is_met, "or a key is agreed with it for each of its words");
    let answered = echoes
        .iter()
        .filter(|to| **to == Destination::Unicast(at(7)));
    let answered = answered.count();
    assert!((10..=25).contains(&answered), "{answered}");
    let elsewhere = |to: &&Destination| **to != Destination::Unicast(at(7));
    let elsewhere = echoes.iter().filter(elsewhere);
    assert!(
        elsewhere
            .clone()
            .all(|to| matches!(to, Destination::Group(_)))
    );
}

/// Goal: a station that begins anew again and again is asked where it is no more often for that, and costs no more keys. Method: a
/// thousand lives of a workstation in a second.
#[test]
fn new_lives_have_a_bound() {
    let mut source = source();
    let mut taken = 0;
    let mut asked = 0;
    for life in 0..1_000_u64 {
        let later = now().plus_nanos(life * 1_000_000);
        let (mut guard, header) = bare("ws-9", keys().workstation("ws-9"));
        let presence = sealed(&mut guard, later, &header, |writer| {
            writer.presence("ws-9", false, &[all()]);
        });
        taken += u64::from(give(&mut source, later, 9, &presence).is_ok());
        let mut batch = TransmitBatch::new(64);
        source.handle_timeout(later);
        while source.poll_transmit(later, &mut batch) {
            let there = |to: &Destination| *to == Destination::Unicast(at(9));
            asked += batch.iter().filter(|(to, _)| there(to)).count();
            batch.clear();
        }
    }
    assert!((10..=13).contains(&taken), "{taken}");
    assert!((1..=11).contains(&asked), "{asked}");
}

/// Goal: nobody makes a receipt or a request of another. Method: a workstation signs a report, and marks a request, with its own key
/// and the other's name; and with its own name many receipts for streams that there are not.
#[test]
fn nobody_signs_a_receipt_for_another() {
    let mut source = source();
    say(&mut source, now(), &["one"]);
    let (mut true_one, header) = bare("ws-1", keys().workstation("ws-1"));
    let presence = sealed(&mut true_one, now(), &header, |writer| {
        writer.presence("ws-1", false, &[all()]);
    });
    give(&mut source, now(), 1, &presence).unwrap();
    let about = |stream| wire::About {
        source: source_id(),
        session: SessionId(1),
        stream,
        echo: None,
    };
    let stream = StreamId::new(all(), Lane::Routine);
    let later = now().plus_nanos(5_000_000);
    let (mut thief, mut header) = bare("ws-1", keys().workstation("thief"));
    let receipt = sealed(&mut thief, later, &header, |writer| {
        writer.receipt(&about(stream), wire::SeqNo(0), wire::SeqNo(1), 0, []);
    });
    assert_eq!(
        give(&mut source, later, 6, &receipt),
        Err(Discard::Stranger)
    );
    for datagram in say(&mut self::source(), later, &["two"]) {
        let _ = thief.open(later, at(7), &datagram);
    }
    header.number += 1;
    let all_of = wire::SeqRange::new(wire::SeqNo(0), wire::SeqNo(1)).unwrap();
    let request = sealed(&mut thief, later, &header, |writer| {
        writer.nack(&about(stream), [all_of]);
    });
    assert_eq!(
        give(&mut source, later, 6, &request),
        Err(Discard::Stranger)
    );
    // Nor when it shows the other's key.
    thief.own_public = keys().key("ws-1").public();
    header.number += 1;
    let request = sealed(&mut thief, later, &header, |writer| {
        writer.nack(&about(stream), [all_of]);
    });
    assert_eq!(give(&mut source, later, 6, &request), Err(Discard::Forged));
    let (mut own, mut header) = bare("ws-9", keys().workstation("ws-9"));
    for index in 0..500 {
        header.number = index;
        let stream = StreamId::new(GroupId::of(&format!("invented {index}")), Lane::Routine);
        let later = later.plus_nanos(index * 1_000_000);
        let receipt = sealed(&mut own, later, &header, |writer| {
            writer.receipt(&about(stream), wire::SeqNo(0), wire::SeqNo(1), 0, []);
        });
        let _ = give(&mut source, later, 9, &receipt);
    }
    assert_eq!(source.guard().unwrap().receipts().count(), 32);
}

fn source_id() -> SourceId {
    SourceId::of(floor(), "sup-1")
}

/// Goal: of two grants of a source the later one counts, in any order, and of two that begin at once the first: a wider one does not
/// come back.
#[test]
fn the_later_grant_counts() {
    let (mut agent, _) = bare("ws-1", keys().workstation("ws-1"));
    let (_, header) = bare("sup-1", keys().source("sup-1", &[]));
    let grant = |later: u64, groups: &[GroupId]| {
        let terms = keys().terms("sup-1", &[]);
        let terms = GrantTerms {
            groups: groups.iter().copied().collect(),
            not_before: terms.not_before + later,
            ..terms
        };
        Grant::sign(keys().root(), floor(), terms).unwrap()
    };
    let (wide, narrow, later) = (grant(0, &[]), grant(0, &[all()]), grant(1, &[all()]));
    let mut give = |grant: &Grant| {
        let taken = agent.take_grant(now(), at(7), &header, grant.to_bytes());
        taken.map(|()| agent.grants[&header.source].terms().groups.len())
    };
    assert_eq!(give(&narrow), Ok(1));
    assert_eq!(give(&wide), Err(Discard::Ungranted));
    assert_eq!(give(&later), Ok(1));
    for older in [&wide, &narrow] {
        assert_eq!(give(older), Err(Discard::Ungranted));
    }
}

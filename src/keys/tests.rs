use std::collections::BTreeSet;

use super::*;
use crate::wire::{GroupId, Lane, StreamId};

const FLOOR: FloorId = FloorId(7);
const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; KEY_BYTES])
}

fn root() -> PrivateKey {
    key(1)
}

fn terms() -> GrantTerms {
    GrantTerms {
        name: "sup-1".to_owned(),
        key: key(2).public(),
        groups: [GroupId(3), GroupId(9)].into(),
        lanes: [Lane::Routine].into(),
        statuses: [Status::Exercise, Status::Test].into(),
        not_before: NOW,
        not_after: NOW + DAY,
    }
}

fn grant() -> Grant {
    Grant::sign(&root(), FLOOR, terms()).unwrap()
}

/// Goal: nothing of a statement can be changed. Method: open it with each bit flipped, and cut at each length.
fn holds_only_as_it_is<T>(signed: &[u8], open: impl Fn(&[u8]) -> Result<T, StatementError>) {
    assert!(open(signed).is_ok());
    for at in 0..signed.len() * 8 {
        let mut changed = signed.to_vec();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(open(&changed).is_err(), "bit {at}");
    }
    for len in 0..signed.len() {
        assert!(open(&signed[..len]).is_err(), "{len} bytes");
    }
    assert!(open(&[signed, &[0]].concat()).is_err());
}

#[test]
fn a_grant_says_what_was_signed() {
    let grant = grant();
    let read = Grant::open(grant.to_bytes(), &root().public(), FLOOR).unwrap();
    assert_eq!(read, grant);
    assert_eq!(read.terms(), &terms());
    assert_eq!(read.source(), crate::wire::SourceId::of(FLOOR, "sup-1"));
    holds_only_as_it_is(grant.to_bytes(), |bytes| {
        Grant::open(bytes, &root().public(), FLOOR)
    });
}

#[test]
fn a_grant_of_another_floor_or_root_is_none() {
    let grant = grant();
    let open = |root: &PrivateKey, floor| Grant::open(grant.to_bytes(), &root.public(), floor);
    assert_eq!(open(&root(), FloorId(8)), Err(StatementError::Floor));
    // A source that signs for itself.
    assert_eq!(open(&key(2), FLOOR), Err(StatementError::Unsigned));
}

#[test]
fn a_grant_permits_what_it_names_while_it_holds() {
    let grant = grant();
    let stream = |group, lane| StreamId::new(GroupId(group), lane);
    let permits = |now, group, lane| grant.permits(now, stream(group, lane));
    assert_eq!(permits(NOW, 3, Lane::Routine), Ok(()));
    assert_eq!(permits(NOW + DAY - 1, 9, Lane::Routine), Ok(()));
    assert_eq!(permits(NOW - 1, 3, Lane::Routine), Err(Refusal::Early));
    assert_eq!(permits(NOW + DAY, 3, Lane::Routine), Err(Refusal::Expired));
    assert_eq!(permits(NOW, 4, Lane::Routine), Err(Refusal::Group));
    assert_eq!(permits(NOW, 3, Lane::Emergency), Err(Refusal::Lane));
    assert_eq!(grant.permits_status(Status::Test), Ok(()));
    assert_eq!(grant.permits_status(Status::Actual), Err(Refusal::Status));
    let everywhere = GrantTerms {
        groups: BTreeSet::new(),
        ..terms()
    };
    let everywhere = Grant::sign(&root(), FLOOR, everywhere).unwrap();
    assert_eq!(everywhere.permits(NOW, stream(4, Lane::Routine)), Ok(()));
}

#[test]
fn terms_that_no_grant_may_have_are_not_signed() {
    let refused = |terms| Grant::sign(&root(), FLOOR, terms).map(drop);
    let damaged = |field| Err(StatementError::Damaged(field));
    assert_eq!(
        refused(GrantTerms {
            name: String::new(),
            ..terms()
        }),
        damaged("name")
    );
    assert_eq!(
        refused(GrantTerms {
            name: "x".repeat(65),
            ..terms()
        }),
        damaged("name")
    );
    assert_eq!(
        refused(GrantTerms {
            lanes: BTreeSet::new(),
            ..terms()
        }),
        damaged("lanes")
    );
    assert_eq!(
        refused(GrantTerms {
            statuses: BTreeSet::new(),
            ..terms()
        }),
        damaged("statuses")
    );
    assert_eq!(
        refused(GrantTerms {
            not_after: NOW,
            ..terms()
        }),
        damaged("time")
    );
    let groups = (0..129).map(GroupId).collect();
    assert_eq!(refused(GrantTerms { groups, ..terms() }), damaged("groups"));
}

/// A root's signature under one kind of statement is none under another of the same bytes.
#[test]
fn a_signature_is_about_one_kind_of_statement() {
    let statement = begin(FLOOR);
    let signed = sign(&root(), About::Revocations, statement);
    assert!(open(&signed, About::Revocations, &root().public(), FLOOR).is_ok());
    for about in [About::Grant, About::GroupKeys, About::FloorFile] {
        let answer = open(&signed, about, &root().public(), FLOOR).map(drop);
        assert_eq!(answer, Err(StatementError::Unsigned));
    }
}

#[test]
fn a_revoked_key_stays_revoked() {
    let list = Revocations::none(&root(), FLOOR, NOW);
    assert!(list.is_empty() && !list.contains(&key(2).public()));
    let longer = list.with(&root(), FLOOR, NOW + 1, &key(2).public());
    let longer = longer.unwrap().unwrap();
    assert_eq!(
        (longer.edition(), longer.issued(), longer.len()),
        (1, NOW + 1, 1)
    );
    assert!(longer.contains(&key(2).public()) && !longer.contains(&key(3).public()));
    assert_eq!(longer.with(&root(), FLOOR, NOW, &key(2).public()), Ok(None));
    let open = |bytes: &[u8]| Revocations::open(bytes, &root().public(), FLOOR);
    assert_eq!(open(longer.to_bytes()), Ok(longer.clone()));
    holds_only_as_it_is(longer.to_bytes(), open);
}

#[test]
fn a_floor_file_is_what_was_signed() {
    let contents = b"[floor]\nname = \"t\"\n";
    let file = FloorFile::sign(&root(), FLOOR, u64::MAX, NOW, contents);
    let open = |bytes: &[u8]| FloorFile::open(bytes, &root().public());
    assert_eq!(open(file.to_bytes()), Ok(file.clone()));
    assert_eq!(
        (file.floor(), file.edition(), file.issued()),
        (FLOOR, u64::MAX, NOW)
    );
    holds_only_as_it_is(file.to_bytes(), open);
    let other = FloorFile::open(file.to_bytes(), &key(2).public());
    assert_eq!(other, Err(StatementError::Unsigned));
    // And each bit of the file itself, each end cut off, something behind it.
    assert_eq!(file.verify(contents), Ok(()));
    for at in 0..contents.len() * 8 {
        let mut changed = contents.to_vec();
        changed[at / 8] ^= 1 << (at % 8);
        assert_eq!(file.verify(&changed), Err(Changed), "bit {at}");
    }
    for len in 0..contents.len() {
        assert_eq!(file.verify(&contents[..len]), Err(Changed), "{len} bytes");
    }
    assert_eq!(file.verify(&[&contents[..], b"\n"].concat()), Err(Changed));
}

#[test]
fn group_keys_follow_each_other_with_an_overlap() {
    let rotation = Rotation {
        lead_s: 3_600,
        overlap_s: 600,
    };
    let first = GroupKeys::first(&root(), FLOOR, NOW, [1; KEY_BYTES]);
    let rotate =
        |keys: &GroupKeys, now| keys.rotated(&root(), FLOOR, now, rotation, [[2; KEY_BYTES]; 2]);
    let second = rotate(&first, NOW + DAY).unwrap();
    let takes_over = NOW + DAY + 3_600;
    let pending = RotationError::Done {
        id: KeyId(2),
        at: takes_over,
    };
    assert_eq!(rotate(&second, takes_over - 1), Err(pending));
    let sending = |now| second.sending(now).map(|key| (key.id().0, key.secret()[0]));
    assert_eq!(sending(takes_over - 1), Some((1, 1)));
    assert_eq!(sending(takes_over), Some((2, 2)));
    let accepts = |id, now| second.accepting(KeyId(id), now).is_some();
    // Everybody takes the new key before the first uses it, and the old one after the last.
    assert!(accepts(2, takes_over - 300) && !accepts(2, takes_over - 301));
    assert!(accepts(1, takes_over + 899) && !accepts(1, takes_over + 900));
    assert!(!accepts(3, takes_over));
    let open = |bytes: &[u8]| GroupKeys::open(bytes, &root().public(), FLOOR);
    assert_eq!(open(second.to_bytes()), Ok(second.clone()));
    holds_only_as_it_is(second.to_bytes(), open);
    // What nobody takes any more is left out.
    let third = rotate(&second, takes_over + DAY).unwrap();
    let ids: Vec<_> = third.iter().map(|key| key.id().0).collect();
    assert_eq!(ids, [2, 3]);
}

#[test]
fn group_keys_are_few() {
    let rotation = Rotation {
        lead_s: 0,
        overlap_s: DAY,
    };
    let mut keys = GroupKeys::first(&root(), FLOOR, NOW, [0; KEY_BYTES]);
    let rotate =
        |keys: &GroupKeys, now| keys.rotated(&root(), FLOOR, now, rotation, [[1; KEY_BYTES]; 2]);
    for at in 1..8 {
        keys = rotate(&keys, NOW + at).unwrap();
    }
    assert_eq!(rotate(&keys, NOW + 8), Err(RotationError::Full));
    // At once is possible whatever there is.
    let at_once = Rotation {
        lead_s: 0,
        overlap_s: 0,
    };
    for now in [NOW + 7, NOW + 8] {
        let secrets = [[9; KEY_BYTES]; 2];
        let after = keys.rotated(&root(), FLOOR, now, at_once, secrets).unwrap();
        assert_eq!(after.sending(now + 1).unwrap().secret()[0], 9);
        assert!(GroupKeys::open(after.to_bytes(), &root().public(), FLOOR).is_ok());
    }
    assert!(rotate(&keys, NOW + 2 * DAY).is_ok());
}

/// Goal: whoever rotates at once is rid of every key that a lost machine had, also of one that was still to come, whatever was
/// rotated before and in the same second, and as often as machines are lost.
#[test]
fn a_rotation_at_once_leaves_nothing_of_the_keys_before() {
    let at_once = Rotation {
        lead_s: 0,
        overlap_s: 0,
    };
    let planned = Rotation {
        lead_s: 3_600,
        overlap_s: 86_400,
    };
    let first = GroupKeys::first(&root(), FLOOR, NOW, [1; KEY_BYTES]);
    let rotate = |keys: &GroupKeys, now, rotation, secret| {
        let secrets = [[secret; KEY_BYTES], [secret + 1; KEY_BYTES]];
        keys.rotated(&root(), FLOOR, now, rotation, secrets)
    };
    let pending = rotate(&first, NOW + 10, planned, 2).unwrap();
    for (before, now) in [(&first, NOW), (&first, NOW + 100), (&pending, NOW + 20)] {
        let after = rotate(before, now, at_once, 4).unwrap();
        let open = GroupKeys::open(after.to_bytes(), &root().public(), FLOOR);
        assert_eq!(open.as_ref(), Ok(&after), "what is signed can be read");
        assert!(
            after.newest_from() > before.newest_from(),
            "it is the newer one"
        );
        let lost: Vec<_> = before.iter().map(|key| *key.secret()).collect();
        for later in [1, 3_600, 3_700, 90_000, 10 * DAY] {
            let sending = after.sending(now + later).unwrap();
            assert!(!lost.contains(sending.secret()), "{later} s later");
        }
    }
    let mut keys = pending;
    for times in 0..20 {
        let sending = keys.sending(NOW + 1_000).map(|key| *key.secret());
        keys = rotate(&keys, NOW + 30, at_once, 10 + 2 * times).unwrap();
        assert_ne!(keys.sending(NOW + 1_000).map(|key| *key.secret()), sending);
        assert!(keys.iter().len() <= 8);
    }
}

#[test]
fn a_private_key_comes_back_as_it_was() {
    let key = key(5);
    let plain = key.to_file_bytes(None);
    let read = PrivateKey::from_file_bytes(&plain, None).unwrap();
    assert_eq!(read.seed(), key.seed());
    for len in 0..plain.len() {
        let answer = PrivateKey::from_file_bytes(&plain[..len], None).map(drop);
        assert_eq!(answer, Err(SealError::Damaged), "{len} bytes");
    }
}

#[test]
fn a_sealed_key_needs_its_passphrase() {
    let key = key(5);
    let seal = SealInput {
        passphrase: b"correct horse",
        salt: [3; 16],
        nonce: [4; 24],
    };
    let sealed = key.to_file_bytes(Some(seal));
    assert!(!sealed.windows(8).any(|bytes| *bytes == key.seed()[..8]));
    let open = |bytes: &[u8], passphrase: Option<&[u8]>| {
        PrivateKey::from_file_bytes(bytes, passphrase).map(|key| *key.seed())
    };
    assert_eq!(open(&sealed, Some(b"correct horse")), Ok(*key.seed()));
    assert_eq!(
        open(&sealed, Some(b"correct horsf")),
        Err(SealError::WrongPassphrase)
    );
    assert_eq!(open(&sealed, None), Err(SealError::NeedsPassphrase));
    // The salt, the nonce, the seed, and the end of it.
    for at in [10, 30, 60, sealed.len() - 1] {
        let mut changed = sealed.to_vec();
        changed[at] ^= 1;
        let answer = open(&changed, Some(b"correct horse"));
        assert_eq!(answer, Err(SealError::WrongPassphrase), "byte {at}");
    }
    // The cost, raised and lowered.
    let with_memory = |memory: u32| {
        let mut changed = sealed.to_vec();
        changed[2..6].copy_from_slice(&memory.to_be_bytes());
        open(&changed, Some(b"correct horse"))
    };
    assert_eq!(with_memory(u32::MAX), Err(SealError::Costly));
    assert_eq!(with_memory(8), Err(SealError::Damaged));
}

#[test]
fn a_key_that_anybody_can_sign_for_is_none() {
    let mut identity = [0; KEY_BYTES];
    identity[0] = 1;
    assert_eq!(PublicKey::from_bytes(&identity), None);
    assert_eq!(PublicKey::from_bytes(&[2; KEY_BYTES]), None);
    let key = key(6).public();
    assert_eq!(PublicKey::from_bytes(&key.to_bytes()), Some(key));
}

#[test]
fn what_is_printed_of_a_key_is_its_fingerprint() {
    let fingerprint = key(6).public().fingerprint();
    assert_eq!(fingerprint.len(), 24);
    assert!(fingerprint.split('-').all(|group| group.len() == 4));
    assert_eq!(
        format!("{:?}", key(6)),
        format!("PrivateKey of {fingerprint}")
    );
    let keys = GroupKeys::first(&root(), FLOOR, NOW, [9; KEY_BYTES]);
    assert_eq!(format!("{keys:?}"), "[GroupKey 1]");
}

//! Looks again, while a program runs, whether the floor's keys were rotated or somebody's were revoked.

use std::path::PathBuf;
use std::thread;

use crossbeam::channel::{self, Receiver, Sender};

use crate::keys::{GroupKeys, PublicKey, Revocations};
use crate::output::Failure;
use crate::wire::FloorId;

use super::access::open_shared;
use super::trust::{Place, Trust};

/// How often the files are looked at, seconds: a share takes a look from each of 5,000 workstations so often, which is 500
/// a second; and a key that was rotated at once, because a workstation was stolen, is everybody's within half a minute.
const LOOK_EVERY_S: u64 = 10;

/// Looks at a floor's keys now and then. A thread of its own does, because a share that hangs must not hold up a station.
#[derive(Debug)]
pub struct Watch {
    /// Until the first look: what looks.
    looker: Option<Box<Looker>>,
    asks: Option<Sender<()>>,
    answers: Option<Receiver<Option<Shared>>>,
    is_looking: bool,
    looked: u64,
}

/// What a floor shares, and changes while it runs.
type Shared = (GroupKeys, Revocations);

/// What looks.
#[derive(Debug)]
pub(super) struct Looker {
    pub(super) folder: PathBuf,
    pub(super) floor: FloorId,
    pub(super) root: PublicKey,
    pub(super) floor_edition: u64,
    pub(super) place: Place,
    pub(super) in_use: Shared,
    /// What was last said of it; said once only.
    pub(super) complaint: Option<String>,
}

impl Watch {
    /// Looks again some time after `now`, when everything was read.
    pub(super) fn new(looker: Looker, now: u64) -> Self {
        Self {
            looker: Some(Box::new(looker)),
            asks: None,
            answers: None,
            is_looking: false,
            looked: now,
        }
    }

    /// The keys and revocations of the floor, if they are others than before. Never waits: what a look finds is given at a
    /// later call. To be called every ten seconds or more often.
    pub fn poll(&mut self, wall_seconds: u64) -> Option<(GroupKeys, Revocations)> {
        if let Some(Ok(found)) = self.answers.as_ref().map(Receiver::try_recv) {
            self.is_looking = false;
            if found.is_some() {
                return found;
            }
        }
        // A clock that was set back must not stop the looking.
        let is_due =
            wall_seconds < self.looked || wall_seconds >= self.looked.saturating_add(LOOK_EVERY_S);
        if is_due && !self.is_looking {
            self.looked = wall_seconds;
            self.start();
            let asked = self.asks.as_ref().map(|asks| asks.send(()));
            self.is_looking = matches!(asked, Some(Ok(())));
        }
        None
    }

    fn start(&mut self) {
        let Some(mut looker) = self.looker.take() else {
            return;
        };
        // One look at a time.
        let (asks, asked) = channel::bounded(1);
        let (found, answers) = channel::bounded(1);
        let started = thread::Builder::new()
            .name("keys".to_owned())
            .spawn(
                move || {
                    while asked.recv().is_ok() && found.send(looker.look()).is_ok() {}
                },
            );
        match started {
            Ok(_) => (self.asks, self.answers) = (Some(asks), Some(answers)),
            Err(error) => tracing::warn!(
                "there is no thread to look for new keys ({error}): those that are rotated or revoked from now on are \
                 learnt at the next start"
            ),
        }
    }
}

impl Looker {
    /// What is in the files, if it is newer than what is in use (R-RELOAD-1).
    fn look(&mut self) -> Option<Shared> {
        match self.newer() {
            Ok(found) => {
                self.complaint = None;
                found
            }
            Err(failure) => {
                // A file that is just being replaced, or one that somebody put there: what is in use stays in use.
                let sentence = failure.to_string();
                if self.complaint.as_ref() != Some(&sentence) {
                    tracing::warn!("the keys stay as they are: {sentence}");
                    self.complaint = Some(sentence);
                }
                None
            }
        }
    }

    fn newer(&mut self) -> Result<Option<Shared>, Failure> {
        let (keys, revoked) = open_shared(&self.folder, &self.root, self.floor)?;
        if (&keys, &revoked) == (&self.in_use.0, &self.in_use.1) {
            return Ok(None);
        }
        let trust = |keys: &GroupKeys, revoked: &Revocations| Trust {
            root: self.root,
            floor_edition: self.floor_edition,
            revoked_edition: revoked.edition(),
            newest_key_from: keys.newest_from(),
        };
        let seen = trust(&keys, &revoked);
        trust(&self.in_use.0, &self.in_use.1).admits(&seen, &self.place)?;
        if let Ok(Some(before)) = self.place.trust() {
            // Another program of this machine may have seen a newer floor file; that is for the next start.
            let floor_edition = before.floor_edition.max(seen.floor_edition);
            let seen = Trust {
                floor_edition,
                ..seen
            };
            before.admits(&seen, &self.place)?;
            // A full disk must not keep a station from the key that everybody else uses.
            if let Err(failure) = self.place.keep(&seen) {
                tracing::warn!("new keys are taken, but not remembered: {failure}");
            }
        }
        self.in_use = (keys.clone(), revoked.clone());
        Ok(Some((keys, revoked)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::files::{self, Kind};
    use super::*;
    use crate::keys::{KEY_BYTES, PrivateKey, Rotation};

    const FLOOR: FloorId = FloorId(7);
    const NOW: u64 = 1_800_000_000;

    struct Folder {
        directory: tempfile::TempDir,
        root: PrivateKey,
        keys: GroupKeys,
        revoked: Revocations,
    }

    impl Folder {
        fn new() -> Self {
            let root = PrivateKey::from_seed(&[1; KEY_BYTES]);
            let folder = Self {
                directory: tempfile::tempdir().unwrap(),
                keys: GroupKeys::first(&root, FLOOR, NOW, [1; KEY_BYTES]),
                revoked: Revocations::none(&root, FLOOR, NOW),
                root,
            };
            folder.put_keys(&folder.keys);
            folder.put_revoked(&folder.revoked);
            folder
        }

        fn put_keys(&self, keys: &GroupKeys) {
            let path = self.directory.path().join("group.keys");
            files::replace(&path, Kind::GroupKeys, keys.to_bytes()).unwrap();
        }

        fn put_revoked(&self, revoked: &Revocations) {
            let path = self.directory.path().join("revoked.list");
            files::replace(&path, Kind::Revocations, revoked.to_bytes()).unwrap();
        }

        fn looker(&self) -> Looker {
            Looker {
                folder: self.directory.path().to_owned(),
                floor: FLOOR,
                root: self.root.public(),
                floor_edition: 1,
                place: Place::new(&self.directory.path().join("state"), FLOOR),
                in_use: (self.keys.clone(), self.revoked.clone()),
                complaint: None,
            }
        }

        fn rotated(&self) -> GroupKeys {
            let rotation = Rotation {
                lead_s: 60,
                overlap_s: 60,
            };
            let keys = self
                .keys
                .rotated(&self.root, FLOOR, NOW, rotation, [[2; KEY_BYTES]; 2]);
            keys.unwrap()
        }

        fn revoking(&self) -> Revocations {
            let key = PrivateKey::from_seed(&[9; KEY_BYTES]).public();
            let list = self.revoked.with(&self.root, FLOOR, NOW, &key);
            list.unwrap().unwrap()
        }
    }

    #[test]
    fn only_what_is_newer_and_signed_is_given() {
        let folder = Folder::new();
        let mut looker = folder.looker();
        assert_eq!(looker.look(), None);
        let (rotated, revoking) = (folder.rotated(), folder.revoking());
        folder.put_keys(&rotated);
        assert_eq!(
            looker.look(),
            Some((rotated.clone(), folder.revoked.clone()))
        );
        assert_eq!(looker.look(), None);
        folder.put_revoked(&revoking);
        assert_eq!(looker.look(), Some((rotated.clone(), revoking.clone())));
        // Older ones, well signed.
        folder.put_keys(&folder.keys);
        assert_eq!(looker.look(), None);
        assert!(
            looker
                .complaint
                .take()
                .unwrap()
                .contains("group.keys is a downgrade")
        );
        folder.put_keys(&rotated);
        folder.put_revoked(&folder.revoked);
        assert_eq!(looker.look(), None);
        assert!(
            looker
                .complaint
                .take()
                .unwrap()
                .contains("revoked.list is a downgrade")
        );
        // Another root's.
        let other = PrivateKey::from_seed(&[3; KEY_BYTES]);
        folder.put_revoked(&Revocations::none(&other, FLOOR, NOW));
        assert_eq!(looker.look(), None);
        assert!(looker.complaint.take().unwrap().contains("has not signed"));
        // One that is being replaced: half of it, then nothing, then whole.
        let path = folder.directory.path().join("revoked.list");
        folder.put_revoked(&revoking);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(looker.look(), None);
        assert!(looker.complaint.is_some());
        fs::remove_file(&path).unwrap();
        assert_eq!(looker.look(), None);
        fs::write(&path, &whole).unwrap();
        assert_eq!((looker.look(), looker.complaint), (None, None));
    }

    #[test]
    fn what_was_seen_while_running_is_remembered() {
        let folder = Folder::new();
        let mut looker = folder.looker();
        let seen = Trust {
            root: folder.root.public(),
            // Another program has seen a newer floor file.
            floor_edition: 2,
            revoked_edition: 0,
            newest_key_from: NOW,
        };
        looker.place.keep(&seen).unwrap();
        folder.put_revoked(&folder.revoking());
        assert!(looker.look().is_some());
        let kept = looker.place.trust().unwrap().unwrap();
        assert_eq!((kept.floor_edition, kept.revoked_edition), (2, 1));
        // What is remembered may be damaged in the meantime: what comes is still compared with what is in use.
        fs::write(looker.place.trust_path(), "nothing").unwrap();
        folder.put_keys(&folder.rotated());
        assert!(looker.look().is_some());
        folder.put_keys(&folder.keys);
        assert_eq!(looker.look(), None);
    }

    /// Goal: a look every ten seconds at most, and no waiting for it. Method: a clock that the test moves.
    #[test]
    fn looks_now_and_then() {
        let folder = Folder::new();
        let mut watch = Watch::new(folder.looker(), NOW);
        let rotated = folder.rotated();
        folder.put_keys(&rotated);
        assert_eq!(watch.poll(NOW + LOOK_EVERY_S - 1), None);
        assert!(watch.looker.is_some(), "it looked too early");
        let mut found = None;
        // The thread needs its time, which no clock here counts.
        for _ in 0..60_000 {
            found = watch.poll(NOW + LOOK_EVERY_S);
            if found.is_some() {
                break;
            }
            thread::park_timeout(std::time::Duration::from_millis(1));
        }
        assert_eq!(found.map(|(keys, _)| keys), Some(rotated));
        // A clock that was set back.
        watch.poll(5);
        assert!(watch.is_looking);
    }
}

//! What a machine remembers of a floor: whose word counts there, and the newest that it has seen of it, so that neither
//! another root nor an older file, however well signed, takes its place. And the key of a workstation, made here.

use std::fs::File;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::keys::{KEY_BYTES, PrivateKey, PublicKey};
use crate::output::Failure;
use crate::wire::FloorId;

use super::files::{self, Kind};
use super::{draw_key, open_private};

/// The version that opens a trust file.
const FORMAT: u8 = 1;
/// Longest trust file that is read: what is longer than one of ours is none.
const FILE_BYTES_MAX: u64 = 128;

/// Where a machine remembers one floor: a folder of its own, for its user alone.
#[derive(Clone, Debug)]
pub struct Place {
    floor: FloorId,
    folder: PathBuf,
}

/// Whose word counts on a floor, and the newest that was seen of it (R-TRUST-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trust {
    pub(super) root: PublicKey,
    /// Of the floor file.
    pub(super) floor_edition: u64,
    /// Of the list of revoked keys.
    pub(super) revoked_edition: u64,
    /// From when on the newest group key is used.
    pub(super) newest_key_from: u64,
}

impl Place {
    /// The place of `floor` in the state directory.
    pub fn new(state: &Path, floor: FloorId) -> Self {
        Self {
            floor,
            folder: state.join(floor.to_string()),
        }
    }

    /// A file of it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Keeps the other programs of this user out until it is dropped. Who holds it reads and writes small files here and
    /// nothing else, so that nobody waits for long.
    pub(super) fn lock(&self) -> Result<File, Failure> {
        files::make_folder(&self.folder)?;
        let path = self.file("lock");
        let opened = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        opened
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|error| {
                Failure::Usage(format!(
                    "{} cannot be locked: {error}; name a directory that this user may write to with --state",
                    path.display()
                ))
            })
    }

    /// What was seen of the floor before; `None` at the first start.
    ///
    /// # Errors
    /// [`Failure::Usage`] when the file is damaged: to begin anew in silence would be what an attacker wants (R-TRUST-3).
    pub(super) fn trust(&self) -> Result<Option<Trust>, Failure> {
        let path = self.trust_path();
        let Some(bytes) = files::read_bytes(&path, FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        read(&bytes, self.floor).map(Some).ok_or_else(|| {
            Failure::Usage(format!(
                "{} is damaged, so whose word counts on this floor is not known; ask for the root's fingerprint, remove \
                 the file, and start once with --root FINGERPRINT",
                path.display()
            ))
        })
    }

    /// Takes note of what was seen now; says whether it is the first that was seen of the floor. Nothing is noted unless
    /// everything is as new as what was seen before, by the same root.
    ///
    /// # Errors
    /// [`Failure`] when it is not, or cannot be written down.
    pub(super) fn keep(&self, seen: &Trust) -> Result<bool, Failure> {
        let _lock = self.lock()?;
        let before = self.trust()?;
        let newest = match &before {
            Some(before) => {
                before.admits(seen, self)?;
                before.max(seen)
            }
            None => *seen,
        };
        if before != Some(newest) {
            files::replace_bytes(&self.trust_path(), &newest.to_bytes(self.floor))?;
        }
        Ok(before.is_none())
    }

    /// The key of the workstation called `name` on this machine, and whether it was made just now.
    ///
    /// # Errors
    /// [`Failure`] when others may read it, it is damaged, or it cannot be made.
    pub fn station_key(&self, name: &str) -> Result<(PrivateKey, bool), Failure> {
        let _lock = self.lock()?;
        let path = self.station_path(name);
        if let Some(key) = open_private(&path, None, super::ROOT_FLAG)? {
            return Ok((key, false));
        }
        files::make_folder(&self.file("stations"))?;
        let key = draw_key()?;
        files::create(&path, Kind::PrivateKey, &key.to_file_bytes(None))?;
        Ok((key, true))
    }

    /// Where that key is kept.
    pub(super) fn station_path(&self, name: &str) -> PathBuf {
        let name = format!("{}.key", files::file_name_of(name));
        self.file("stations").join(name)
    }

    pub(super) fn trust_path(&self) -> PathBuf {
        self.file("trust")
    }
}

impl Trust {
    /// Checks that what is `seen` now is the same root's and no older (R-TRUST-2).
    pub(super) fn admits(&self, seen: &Self, place: &Place) -> Result<(), Failure> {
        if seen.root != self.root {
            return Err(Failure::Usage(format!(
                "the floor's root is {} now, and was {} when this machine first met it; if the floor was given a new root \
                 on purpose, remove {} and start once with --root {}, else tell whoever keeps its keys",
                seen.root.fingerprint(),
                self.root.fingerprint(),
                place.trust_path().display(),
                seen.root.fingerprint()
            )));
        }
        let older = |what: &str, seen: u64, before: u64, todo: &str| {
            Err(Failure::Usage(format!(
                "{what} is a downgrade: it is edition {seen}, and edition {before} was seen here before; {todo}"
            )))
        };
        if seen.floor_edition < self.floor_edition {
            let todo = format!(
                "put the newest floor file and its .sig back, or sign this one anew with floorcast floor sign --edition {}",
                self.floor_edition.saturating_add(1)
            );
            return older(
                "the floor file",
                seen.floor_edition,
                self.floor_edition,
                &todo,
            );
        }
        if seen.revoked_edition < self.revoked_edition {
            let todo = "fetch the newest from where keys are revoked";
            return older(
                "revoked.list",
                seen.revoked_edition,
                self.revoked_edition,
                todo,
            );
        }
        if seen.newest_key_from < self.newest_key_from {
            return Err(Failure::Usage(
                "group.keys is a downgrade: newer keys were seen here before; fetch the newest from where keys are rotated"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn max(&self, other: &Self) -> Self {
        Self {
            root: self.root,
            floor_edition: self.floor_edition.max(other.floor_edition),
            revoked_edition: self.revoked_edition.max(other.revoked_edition),
            newest_key_from: self.newest_key_from.max(other.newest_key_from),
        }
    }

    /// Format, floor, root, the three numbers, and a checksum: a file that is damaged is not to be taken for another one.
    fn to_bytes(self, floor: FloorId) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&floor.0.to_be_bytes());
        bytes.extend_from_slice(&self.root.to_bytes());
        for number in [
            self.floor_edition,
            self.revoked_edition,
            self.newest_key_from,
        ] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&xxh3_64(&bytes).to_be_bytes());
        bytes
    }
}

/// Back from [`Trust::to_bytes`].
fn read(bytes: &[u8], floor: FloorId) -> Option<Trust> {
    let (body, checksum) = bytes.split_last_chunk::<8>()?;
    if xxh3_64(body) != u64::from_be_bytes(*checksum) {
        return None;
    }
    let mut rest = body.strip_prefix(&[FORMAT])?;
    rest = rest.strip_prefix(&floor.0.to_be_bytes())?;
    let (root, mut rest) = rest.split_first_chunk::<KEY_BYTES>()?;
    let mut number = || {
        let (head, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_be_bytes(*head))
    };
    let trust = Trust {
        root: PublicKey::from_bytes(root)?,
        floor_edition: number()?,
        revoked_edition: number()?,
        newest_key_from: number()?,
    };
    rest.is_empty().then_some(trust)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: FloorId = FloorId(7);

    fn trust() -> Trust {
        Trust {
            root: PrivateKey::from_seed(&[1; KEY_BYTES]).public(),
            floor_edition: 3,
            revoked_edition: 4,
            newest_key_from: 5,
        }
    }

    #[test]
    fn a_trust_file_comes_back_or_is_refused() {
        let bytes = trust().to_bytes(FLOOR);
        assert_eq!(read(&bytes, FLOOR), Some(trust()));
        assert_eq!(read(&bytes, FloorId(8)), None);
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert_eq!(read(&changed, FLOOR), None, "bit {at}");
        }
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len], FLOOR), None, "{len} bytes");
        }
        assert_eq!(read(&[&bytes[..], &[0]].concat(), FLOOR), None);
    }

    /// Goal: a key is made once, for each name, and is its owner's alone.
    #[test]
    fn a_workstation_s_key_stays() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), FLOOR);
        let (key, is_new) = place.station_key("ws 1").unwrap();
        assert!(is_new);
        let (again, is_new) = place.station_key("ws 1").unwrap();
        assert_eq!((again.public(), is_new), (key.public(), false));
        assert_ne!(place.station_key("ws 2").unwrap().0.public(), key.public());
        let path = place.file("stations").join("ws%201.key");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&place.folder)), (0o600, 0o700));
            let open = std::fs::Permissions::from_mode(0o604);
            std::fs::set_permissions(&path, open).unwrap();
            let Err(Failure::Usage(sentence)) = place.station_key("ws 1") else {
                panic!("a key that others can read is taken");
            };
            assert!(sentence.contains("604"), "{sentence}");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::fs::write(&path, "nothing").unwrap();
        assert!(place.station_key("ws 1").is_err(), "it is not made anew");
    }

    #[test]
    fn only_the_newer_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), FLOOR);
        assert_eq!(place.trust(), Ok(None));
        assert_eq!(place.keep(&trust()), Ok(true));
        assert_eq!(place.keep(&trust()), Ok(false));
        let refused = |seen: Trust, word: &str| {
            let Err(Failure::Usage(sentence)) = place.keep(&seen) else {
                panic!("{seen:?} was taken");
            };
            assert!(sentence.contains(word), "{sentence}");
        };
        let t = trust();
        let other = PrivateKey::from_seed(&[2; KEY_BYTES]).public();
        refused(Trust { root: other, ..t }, "--root");
        refused(
            Trust {
                floor_edition: 2,
                ..t
            },
            "--edition 4",
        );
        refused(
            Trust {
                revoked_edition: 3,
                ..t
            },
            "revoked.list",
        );
        refused(
            Trust {
                newest_key_from: 4,
                ..t
            },
            "group.keys",
        );
        // One is newer and one is older: nothing of it is noted.
        refused(
            Trust {
                floor_edition: 9,
                revoked_edition: 3,
                ..t
            },
            "downgrade",
        );
        assert_eq!(place.trust(), Ok(Some(t)));
        let newer = Trust {
            revoked_edition: 9,
            ..t
        };
        assert_eq!(place.keep(&newer), Ok(false));
        assert_eq!(place.trust(), Ok(Some(newer)));
        std::fs::write(place.trust_path(), "").unwrap();
        refused(newer, "damaged");
    }
}

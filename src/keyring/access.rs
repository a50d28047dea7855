//! What a program brings to a protected floor: everything is read, checked against the floor's root, and against what this
//! machine has seen of the floor before.

use std::path::{Path, PathBuf};

use crate::floor::{self, Floor};
use crate::guard::{Guard, Verdicts};
use crate::keys::{
    Credentials, Enrolment, FloorFile, Grant, GroupKeys, Others, PrivateKey, PublicKey, Revocations,
};
use crate::output::Failure;
use crate::proto;
use crate::runtime::Clock;
use crate::wire::{FloorId, GroupId, Lane, SourceId, Status, StreamId};

use super::files::{self, Kind};
use super::known::Known;
use super::sign::{beside, read_signature};
use super::trust::{Place, Trust};
use super::watch::{Looker, Watch};
use super::{
    Passphrase, missing, moment, open_private, read_group_keys, read_public, read_revocations,
    unsound,
};

/// Where a program finds what it needs for a protected floor.
#[derive(Clone, Debug)]
pub struct Access {
    folder: PathBuf,
    state: Option<PathBuf>,
    root: Option<String>,
    now: u64,
}

/// A floor file that the floor's root stands behind.
#[derive(Clone, Debug)]
pub struct SignedFloor {
    /// What it says.
    pub floor: Floor,
    file: FloorFile,
    root: PublicKey,
}

/// How a program takes part in a floor.
#[derive(Debug)]
pub enum Protection {
    /// In a laboratory, without any.
    OpenLab,
    /// With keys.
    Keys {
        /// What its station is told.
        credentials: Box<Credentials>,
        /// What learns of keys that are rotated and revoked, until the loop takes it.
        watch: Option<Watch>,
        /// The workstations that a source has met, until the loop takes them; `None` for a workstation.
        known: Option<Known>,
    },
}

impl Protection {
    /// The guard of the station that `endpoint` describes, which is told to leave room for seals; `None` in an open laboratory.
    ///
    /// # Errors
    /// [`Failure::Usage`] when its datagrams would not hold what it has to say.
    pub fn guard(
        &self,
        endpoint: &mut proto::Config,
        clock: Clock,
    ) -> Result<Option<Guard>, Failure> {
        let Self::Keys { credentials, .. } = self else {
            return Ok(None);
        };
        let wall_zero_ns = clock.read().wall_zero_ns();
        let credentials = Credentials::clone(credentials);
        Guard::new(credentials, endpoint, wall_zero_ns, Verdicts::default())
            .map(Some)
            .map_err(|error| Failure::Usage(format!("this station cannot take part: {error}")))
    }

    /// Whether there is none.
    pub const fn is_open_lab(&self) -> bool {
        matches!(self, Self::OpenLab)
    }

    /// The word for it in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OpenLab => "open-lab",
            Self::Keys { .. } => "keys",
        }
    }
}

/// What `floor check` says of the signature of a floor file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none, and none was ever seen.
    Unsigned,
    /// It holds.
    Signed {
        /// The fingerprint of the root that signed.
        root: String,
        /// The edition that it signed.
        edition: u64,
        /// When, RFC 3339.
        issued: String,
    },
}

impl Access {
    /// The floor's keys are in `folder`, what is remembered is under `state`, if there is such a place; `root` is the fingerprint that the floor's root
    /// must have, if it was given, and `now` the wall clock, seconds since 1970.
    pub const fn new(
        folder: PathBuf,
        state: Option<PathBuf>,
        root: Option<String>,
        now: u64,
    ) -> Self {
        Self {
            folder,
            state,
            root,
            now,
        }
    }

    /// The folder of keys where none is named: the one beside the floor file at `path`.
    pub fn folder_beside(path: &Path) -> PathBuf {
        path.with_file_name("keys")
    }

    /// Reads the floor file at `path`. Not a word of it counts before its signature holds (R-FSIG-2).
    ///
    /// # Errors
    /// [`Failure::Usage`]: what is not there, not signed, changed, of another root or older, and what to do.
    pub fn floor(&self, path: &Path) -> Result<SignedFloor, Failure> {
        let contents = floor::read(path).map_err(|error| Failure::Usage(error.to_string()))?;
        let root = self.root()?.ok_or_else(|| {
            Failure::Usage(format!(
                "{} is not there, and without keys anyone on the network could forge notices; run floorcast keys init, \
                 floorcast keys grant NAME --group all and floorcast floor sign, or name another folder with --keys; in a \
                 laboratory, give --open-lab",
                self.root_path().display()
            ))
        })?;
        let beside = beside(path);
        let file = self
            .signature(path, &contents, &root)?
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "{} is not signed ({} is not there); run floorcast floor sign where the floor's root key is kept; in a \
                     laboratory, give --open-lab",
                    path.display(),
                    beside.display()
                ))
            })?;
        let floor = Floor::from_bytes(&contents, path);
        let floor = floor.map_err(|error| Failure::Usage(error.to_string()))?;
        if file.floor() != floor.id {
            return Err(Failure::Usage(format!(
                "{} is another floor's; run floorcast floor sign",
                beside.display()
            )));
        }
        Ok(SignedFloor { floor, file, root })
    }

    /// What there is to say of the signature of the floor file at `path`, and the floor. Nothing is remembered of it.
    ///
    /// # Errors
    /// [`Failure::Usage`] as for [`floor`](Self::floor), but that a floor without signature passes if none was ever seen.
    pub fn check(&self, path: &Path) -> Result<(Floor, Standing), Failure> {
        let contents = floor::read(path).map_err(|error| Failure::Usage(error.to_string()))?;
        let is_signed = files::read(&beside(path), Kind::FloorFile)?.is_some();
        let root = self.root()?;
        if is_signed && root.is_none() {
            return Err(Failure::Usage(format!(
                "{} cannot be checked without the floor's root, and {} is not there; say where it is with --keys FOLDER",
                beside(path).display(),
                self.root_path().display()
            )));
        }
        if is_signed {
            let signed = self.floor(path)?;
            if let Some((place, before)) = self.before(signed.floor.id)? {
                before.admits(&signed.seen(&before), &place)?;
            }
            let standing = Standing::Signed {
                root: signed.root.fingerprint(),
                edition: signed.file.edition(),
                issued: moment(signed.file.issued()),
            };
            return Ok((signed.floor, standing));
        }
        let floor = Floor::from_bytes(&contents, path);
        let floor = floor.map_err(|error| Failure::Usage(error.to_string()))?;
        match self.before(floor.id)? {
            None => Ok((floor, Standing::Unsigned)),
            Some((_, before)) => Err(Failure::Usage(format!(
                "{} is not signed ({} is not there), and edition {} of it was seen here before; put the signed file and its \
                 .sig back",
                path.display(),
                beside(path).display(),
                before.floor_edition
            ))),
        }
    }

    /// Lets the workstation called `name` in. Its key is made at its first start.
    ///
    /// # Errors
    /// [`Failure`]: what is missing, unsound, of another root or older, and what to do.
    pub fn workstation(&self, signed: &SignedFloor, name: &str) -> Result<Protection, Failure> {
        let shared = self.shared(signed)?;
        let place = self.place(signed.floor.id)?;
        let (key, is_new) = place.station_key(name)?;
        let fingerprint = key.public().fingerprint();
        if shared.1.contains(&key.public()) {
            return Err(Failure::Usage(format!(
                "the key {fingerprint} of {name:?} is revoked; remove {} so that this workstation makes itself another",
                place.station_path(name).display()
            )));
        }
        if is_new {
            tracing::info!(
                "made the key of {name:?}, {fingerprint}; floorcast keys station shows it"
            );
        }
        let enrolment = signed.floor.enrolment.clone();
        self.enter(signed, shared, key, None, enrolment, None)
    }

    /// Lets the source called `name` in, with the key and the grant that are in the folder.
    ///
    /// # Errors
    /// [`Failure`]: what is missing, unsound, of another root or older, what of the grant does not hold, and what to do.
    pub fn source(
        &self,
        signed: &SignedFloor,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<Protection, Failure> {
        let shared = self.shared(signed)?;
        let (key, grant) = self.granted(signed, name, passphrase)?;
        if shared.1.contains(&key.public()) {
            return Err(Failure::Usage(format!(
                "the key {} of {name:?} is revoked; ask whoever keeps the floor's keys for another",
                key.public().fingerprint()
            )));
        }
        let known = Known::load(&self.place(signed.floor.id)?)?;
        let enrolment = with_known(&signed.floor.enrolment, &known);
        self.enter(signed, shared, key, Some(grant), enrolment, Some(known))
    }

    /// The source that is meant where none is named: the only one whose key is in the folder.
    ///
    /// # Errors
    /// [`Failure::Usage`] when there is none or more than one.
    pub fn only_source(&self) -> Result<String, Failure> {
        let mut names = self.sources()?;
        match names.as_slice() {
            [_] => Ok(names.remove(0)),
            [] => Err(Failure::Usage(format!(
                "there is no source's key in {}; run floorcast keys grant NAME --group all, or say where it is with --keys",
                self.folder.join("sources").display()
            ))),
            several => Err(Failure::Usage(format!(
                "{} has the keys of {}; say with --name who sends",
                self.folder.join("sources").display(),
                several.join(", ")
            ))),
        }
    }

    fn root_path(&self) -> PathBuf {
        self.folder.join("root.pub")
    }

    fn source_path(&self, name: &str, extension: &str) -> PathBuf {
        let name = format!("{}.{extension}", files::file_name_of(name));
        self.folder.join("sources").join(name)
    }

    /// The root in the folder, and that it is the one that was asked for.
    fn root(&self) -> Result<Option<PublicKey>, Failure> {
        let root = read_public(&self.root_path())?;
        if let (Some(root), Some(wanted)) = (&root, &self.root)
            && root.fingerprint() != *wanted
        {
            return Err(Failure::Usage(format!(
                "{} is {}, and --root asks for {wanted}; fetch the floor's keys from whoever told you that fingerprint",
                self.root_path().display(),
                root.fingerprint()
            )));
        }
        Ok(root)
    }

    /// The statement beside the floor file, which holds for `contents`.
    fn signature(
        &self,
        path: &Path,
        contents: &[u8],
        root: &PublicKey,
    ) -> Result<Option<FloorFile>, Failure> {
        let beside = beside(path);
        let file = match read_signature(&beside, root) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(failure) => {
                // Which floor it is tells, for once, a file that nobody vouches for: it only makes the sentence better.
                if let Ok(floor) = Floor::from_bytes(contents, path)
                    && let Some((place, before)) = self.before(floor.id)?
                {
                    before.admits(
                        &Trust {
                            root: *root,
                            ..before
                        },
                        &place,
                    )?;
                }
                return Err(failure);
            }
        };
        file.verify(contents).map_err(|error| {
            Failure::Usage(format!(
                "{}: {error} (edition {}, {}); put the signed file back, or sign this one with floorcast floor sign",
                path.display(),
                file.edition(),
                moment(file.issued())
            ))
        })?;
        Ok(Some(file))
    }

    /// Where this floor is remembered.
    fn place(&self, floor: FloorId) -> Result<Place, Failure> {
        let state = self.state.as_deref().ok_or_else(|| {
            Failure::Usage(
                "there is no place to remember the floor's root in, because this user has no home; name one with --state"
                    .to_owned(),
            )
        })?;
        Ok(Place::new(state, floor))
    }

    /// What is remembered of it, and where.
    fn before(&self, floor: FloorId) -> Result<Option<(Place, Trust)>, Failure> {
        let Some(state) = self.state.as_deref() else {
            return Ok(None);
        };
        let place = Place::new(state, floor);
        Ok(place.trust()?.map(|before| (place, before)))
    }

    /// The keys of the folder, none older than what was seen before, and in use at present.
    fn shared(&self, signed: &SignedFloor) -> Result<(GroupKeys, Revocations), Failure> {
        let before = self.before(signed.floor.id)?;
        if let Some((place, before)) = &before {
            // Another root would be found below as well, but told of as files that it has not signed.
            before.admits(&signed.seen(before), place)?;
        }
        let (keys, revoked) = open_shared(&self.folder, &signed.root, signed.floor.id)?;
        if let Some((place, before)) = &before {
            before.admits(&signed.with(&keys, &revoked), place)?;
        }
        if !keys
            .iter()
            .any(|key| keys.accepting(key.id(), self.now).is_some())
        {
            return Err(Failure::Usage(format!(
                "no key of {} is in use at {}; set this machine's clock, or run floorcast keys rotate",
                self.folder.join("group.keys").display(),
                moment(self.now)
            )));
        }
        Ok((keys, revoked))
    }

    fn granted(
        &self,
        signed: &SignedFloor,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<(PrivateKey, Grant), Failure> {
        let key_path = self.source_path(name, "key");
        let key = open_private(&key_path, passphrase, super::ROOT_FLAG)?
            .ok_or_else(|| self.not_a_source(name, &key_path))?;
        let path = self.source_path(name, "grant");
        let bytes =
            files::read(&path, Kind::Grant)?.ok_or_else(|| self.not_a_source(name, &path))?;
        let grant = Grant::open(&bytes, &signed.root, signed.floor.id)
            .map_err(|error| unsound(&path, &error))?;
        let terms = grant.terms();
        let shown = path.display();
        let renew = "run floorcast keys grant where the floor's root key is kept";
        let why = if grant.source() != SourceId::of(signed.floor.id, name) {
            format!(
                "it was given to {:?}; fetch the one of {name:?}",
                terms.name
            )
        } else if terms.key.to_bytes() != key.public().to_bytes() {
            format!(
                "it was given for the key {}, and {} is {}; fetch the two that belong together",
                terms.key.fingerprint(),
                key_path.display(),
                key.public().fingerprint()
            )
        } else if self.now < terms.not_before {
            format!(
                "it holds from {} on, and it is {} here; wait, or set this machine's clock",
                moment(terms.not_before),
                moment(self.now)
            )
        } else if self.now >= terms.not_after {
            format!("it held until {}; {renew}", moment(terms.not_after))
        } else {
            return Ok((key, grant));
        };
        Err(Failure::Usage(format!("{shown}: {why}")))
    }

    fn not_a_source(&self, name: &str, path: &Path) -> Failure {
        let others = match self.sources().unwrap_or_default().as_slice() {
            [] => "no source has its key there".to_owned(),
            names => format!("those with a key there are {}", names.join(", ")),
        };
        Failure::Usage(format!(
            "{name:?} cannot send here: {} is not there, and {others}; name another with --name, or run floorcast keys grant",
            path.display()
        ))
    }

    /// Whose keys are in the folder, by name.
    fn sources(&self) -> Result<Vec<String>, Failure> {
        let folder = self.folder.join("sources");
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(Failure::Usage(format!(
                    "{} cannot be listed: {error}",
                    folder.display()
                )));
            }
        };
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
            .filter_map(|path| files::station_of(path.file_stem()?.to_str()?))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Everything is in order: what was seen is remembered, and the program may take part.
    fn enter(
        &self,
        signed: &SignedFloor,
        (group_keys, revoked): (GroupKeys, Revocations),
        key: PrivateKey,
        grant: Option<Grant>,
        enrolment: Enrolment,
        known: Option<Known>,
    ) -> Result<Protection, Failure> {
        let place = self.place(signed.floor.id)?;
        if place.keep(&signed.with(&group_keys, &revoked))? {
            tracing::info!(
                "first time on the floor \"{}\": its root is {}, and no other is taken from now on; floorcast keys show says \
                 whether it is the right one",
                signed.floor.name,
                signed.root.fingerprint()
            );
        }
        let looker = Looker {
            folder: self.folder.clone(),
            floor: signed.floor.id,
            root: signed.root,
            floor_edition: signed.file.edition(),
            place,
            in_use: (group_keys.clone(), revoked.clone()),
            complaint: None,
        };
        let credentials = Box::new(Credentials {
            root: signed.root,
            key,
            grant,
            group_keys,
            revoked,
            enrolment,
            unsigned: signed.floor.unsigned.clone(),
        });
        Ok(Protection::Keys {
            credentials,
            watch: Some(Watch::new(looker, self.now)),
            known,
        })
    }
}

impl SignedFloor {
    /// It and what stands beside it.
    fn with(&self, keys: &GroupKeys, revoked: &Revocations) -> Trust {
        Trust {
            root: self.root,
            floor_edition: self.file.edition(),
            revoked_edition: revoked.edition(),
            newest_key_from: keys.newest_from(),
        }
    }

    /// It beside what was seen before of everything else.
    fn seen(&self, before: &Trust) -> Trust {
        Trust {
            root: self.root,
            floor_edition: self.file.edition(),
            ..*before
        }
    }
}

impl Protection {
    /// What the loop is to poll for keys that are rotated and revoked.
    pub fn take_watch(&mut self) -> Option<Watch> {
        match self {
            Self::OpenLab => None,
            Self::Keys { watch, .. } => watch.take(),
        }
    }

    /// What is to learn whom a source meets.
    pub fn take_known(&mut self) -> Option<Known> {
        match self {
            Self::OpenLab => None,
            Self::Keys { known, .. } => known.take(),
        }
    }

    /// Checks that a grant lets its source publish to `groups` in `lane` at `now`, before anything is sent. What every
    /// receiver would refuse is a mistake of the command line.
    ///
    /// # Errors
    /// [`Failure::Usage`], the first group that it is not for.
    pub fn permits(
        &self,
        groups: &[String],
        lane: Lane,
        status: Status,
        now: u64,
    ) -> Result<(), Failure> {
        let Self::Keys { credentials, .. } = self else {
            return Ok(());
        };
        let Some(grant) = &credentials.grant else {
            return Ok(());
        };
        grant.permits_status(status).map_err(|refusal| {
            Failure::Usage(format!(
                "{:?} may not send with the status {status}: {refusal}; nothing was sent; floorcast keys grant gives it more",
                grant.terms().name,
            ))
        })?;
        for group in groups {
            let stream = StreamId::new(GroupId::of(group), lane);
            grant.permits(now, stream).map_err(|refusal| {
                Failure::Usage(format!(
                    "{:?} may not send to {group} in the lane {}: {refusal}; nothing was sent; floorcast keys grant gives it \
                     more",
                    grant.terms().name,
                    lane.as_str()
                ))
            })?;
        }
        Ok(())
    }
}

/// What a floor shares in its folder, as its root has signed it.
pub(super) fn open_shared(
    folder: &Path,
    root: &PublicKey,
    floor: FloorId,
) -> Result<(GroupKeys, Revocations), Failure> {
    let path = folder.join("group.keys");
    let keys = read_group_keys(&path, root, floor)?.ok_or_else(|| missing(&path))?;
    let path = folder.join("revoked.list");
    let revoked = read_revocations(&path, root, floor)?.ok_or_else(|| missing(&path))?;
    Ok((keys, revoked))
}

/// The stations that a sender knows: those that the floor lists, and, where it lets others in, those that were met before
/// (R-ENROL-2).
fn with_known(listed: &Enrolment, known: &Known) -> Enrolment {
    let mut enrolment = listed.clone();
    if enrolment.others == Others::FirstUse {
        for (id, key) in known.iter() {
            enrolment.known.entry(id).or_insert(key);
        }
    }
    enrolment
}

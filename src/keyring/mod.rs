//! The folder of a floor's keys: makes them, grants, revokes, rotates, and shows what there is. Every command is safe to run
//! twice: the second time changes nothing, but for a rotation at once, which each time leaves the keys before behind.
//!
//! | file | what it is | who needs it |
//! |---|---|---|
//! | `root.key` | the floor's root, perhaps under a passphrase | whoever grants; nothing that runs on the floor |
//! | `root.pub` | its public key | everybody |
//! | `group.keys` | what the floor's datagrams are protected with | everybody on the floor, nobody else |
//! | `revoked.list` | keys that count no more | everybody |
//! | `sources/NAME.key`, `.pub`, `.grant` | a source's key, and what it may say | that source |
//!
//! Beside the floor file stands what signs it, `floor.toml.sig`. What a machine remembers of a floor ([`Place`]) is in its
//! state directory: whose word counts there, its own key, and which workstations it has met.

mod access;
mod files;
mod known;
mod sign;
mod trust;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use humantime::format_rfc3339_seconds;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::floor::Floor;
use crate::keys::{
    Grant, GrantTerms, GroupKey, GroupKeys, KEY_BYTES, PrivateKey, PublicKey, Revocations,
    Rotation, RotationError, SealError, SealInput, StatementError, Status,
};
use crate::output::{Ending, Failure, PrintError, Printer, for_eyes};
use crate::runtime::{self, Clock};
use crate::wire::{FloorId, GroupId, Lane};

use files::Kind;

pub use access::{Access, Protection, SignedFloor, Standing};
pub use known::Known;
pub use trust::Place;
pub use watch::Watch;

/// A passphrase, wiped when it goes.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// The keys of one floor.
pub struct Keyring<'a> {
    folder: PathBuf,
    floor: &'a Floor,
    passphrase: Option<Passphrase>,
    now: u64,
    printer: Printer,
}

/// What a source is to be granted.
#[derive(Clone, Debug)]
pub struct GrantOptions {
    /// Its name on the floor.
    pub name: String,
    /// Its public key; `None`: the one in the folder, made now if there is none.
    pub key: Option<PathBuf>,
    /// Where it may publish; none: on every group.
    pub groups: BTreeSet<GroupId>,
    /// With which urgency.
    pub lanes: BTreeSet<Lane>,
    /// Whether it may mean it.
    pub statuses: BTreeSet<Status>,
    /// For how long from now.
    pub period: Duration,
    /// What its private key in the folder is put under.
    pub passphrase: Option<Passphrase>,
}

/// Whose key is to count no more.
#[derive(Clone, Debug)]
pub enum Revoked {
    /// A source that was granted something.
    Name(String),
    /// Whoever has this public key.
    Key(PathBuf),
}

/// What is there, or was made.
#[derive(Serialize)]
struct FloorShown<'a> {
    event: &'static str,
    floor: &'a str,
    root: String,
    #[serde(rename = "changed")]
    is_changed: bool,
    folder: String,
}

#[derive(Serialize)]
struct GroupKeyShown {
    event: &'static str,
    id: u16,
    from: String,
    until: Option<String>,
    #[serde(rename = "sending")]
    is_sending: bool,
    #[serde(rename = "changed")]
    is_changed: bool,
}

#[derive(Serialize)]
struct GrantShown<'a> {
    event: &'static str,
    name: &'a str,
    key: String,
    groups: Vec<String>,
    lanes: Vec<&'static str>,
    statuses: Vec<&'static str>,
    from: String,
    until: String,
    state: &'static str,
    #[serde(rename = "changed")]
    is_changed: bool,
    file: String,
    /// What was granted before allowed more, and counts until then where this one has not been told.
    #[serde(skip_serializing_if = "Option::is_none")]
    before_until: Option<String>,
}

#[derive(Serialize)]
struct RevocationsShown {
    event: &'static str,
    edition: u64,
    issued: String,
    keys: usize,
    #[serde(rename = "changed")]
    is_changed: bool,
}

/// The key of a workstation on this machine.
#[derive(Serialize)]
struct StationShown<'a> {
    event: &'static str,
    name: &'a str,
    fingerprint: String,
    key: String,
    #[serde(rename = "changed")]
    is_changed: bool,
}

/// Shows the key of the workstation called `name` on this machine, and makes it if there is none: it is what a floor file
/// lists under `[enrolment.keys]`.
///
/// # Errors
/// [`Failure`] when others may read it, it is damaged, or it cannot be made.
pub fn show_station(place: &Place, name: &str, is_json: bool) -> Result<Ending, Failure> {
    let (key, is_changed) = place.station_key(name)?;
    let shown = StationShown {
        event: "station",
        name,
        fingerprint: key.public().fingerprint(),
        key: key.public().to_hex(),
        is_changed,
    };
    // What JSON takes as a text, TOML does too.
    let quoted = serde_json::to_string(name).unwrap_or_default();
    let line = format!(
        "{}: {}; in the floor file, under [enrolment.keys]:\n{quoted} = \"{}\"",
        for_eyes(name),
        shown.fingerprint,
        shown.key
    );
    let mut printer = Printer::new(is_json);
    print(&mut printer, &shown, &line)?;
    printer.flush().or_else(PrintError::into_ending)?;
    Ok(Ending::Done)
}

impl<'a> Keyring<'a> {
    /// The keys of `floor` in `folder`; `passphrase` opens its root, or is to seal it.
    pub fn new(
        folder: PathBuf,
        floor: &'a Floor,
        passphrase: Option<Passphrase>,
        is_json: bool,
    ) -> Self {
        Self {
            folder,
            floor,
            passphrase,
            now: Clock::start().read().wall_ns / 1_000_000_000,
            printer: Printer::new(is_json),
        }
    }

    /// Makes what a floor needs: a root, a group key, an empty list of revoked keys. What is there stays.
    ///
    /// # Errors
    /// [`Failure`] when something there is not this floor's, or nothing can be written.
    pub fn init(mut self) -> Result<Ending, Failure> {
        files::make_folder(&self.folder)?;
        let path = self.folder.join("root.key");
        let is_new = files::read(&path, Kind::PrivateKey)?.is_none();
        let root = if is_new {
            let root = draw_key()?;
            files::create(
                &path,
                Kind::PrivateKey,
                &file_of(&root, self.passphrase.as_ref())?,
            )?;
            root
        } else {
            self.root()?
        };
        let is_sealed_now = match &self.passphrase {
            Some(passphrase) => put_under(&path, passphrase, ROOT_FLAG)?,
            None => false,
        };
        let public = self.folder.join("root.pub");
        match read_public(&public)? {
            None => files::create(&public, Kind::PublicKey, &root.public().to_bytes())?,
            Some(key) if key == root.public() => {}
            Some(_) => {
                return Err(Failure::Usage(format!(
                    "{} is not the public key of {}; put back the one that belongs to it, or begin in an empty folder",
                    public.display(),
                    path.display()
                )));
            }
        }
        let mut is_changed = is_new || is_sealed_now;
        let group_keys = self.stored_group_keys(&root.public())?;
        if self.stored_revocations(&root.public())?.is_none() {
            // The list is made before the group keys and the first grant, so a folder that has any of these had one.
            if group_keys.is_some() || !is_new && !self.grants()?.is_empty() {
                return Err(Failure::Usage(format!(
                    "{} is gone, and an empty one would let revoked keys count again; put it back from the share or from what was kept, or begin in an empty folder",
                    self.revoked_path().display()
                )));
            }
            let list = Revocations::none(&root, self.floor.id, self.now);
            files::create(&self.revoked_path(), Kind::Revocations, list.to_bytes())?;
            is_changed = true;
        }
        if group_keys.is_none() {
            let keys = GroupKeys::first(&root, self.floor.id, self.now, draw()?);
            files::create(&self.group_keys_path(), Kind::GroupKeys, keys.to_bytes())?;
            is_changed = true;
        }
        self.print_floor(&root.public(), is_changed)?;
        self.print_group_keys(&root.public(), None)?;
        self.end()
    }

    /// Signs what one source may say.
    ///
    /// # Errors
    /// [`Failure`] when the root cannot be opened, a term is none, or nothing can be written.
    pub fn grant(mut self, options: &GrantOptions) -> Result<Ending, Failure> {
        let root = self.root()?;
        let (key, made) = self.source_key(options)?;
        let list = self.revocations(&root.public())?;
        if list.contains(&key) {
            return Err(Failure::Usage(format!(
                "the key {} of {:?} is revoked; a revoked key is never granted again, so give the source another one",
                key.fingerprint(),
                options.name
            )));
        }
        let path = self.source_path(&options.name, "grant");
        let before = match files::read(&path, Kind::Grant)? {
            Some(bytes) => Grant::open(&bytes, &root.public(), self.floor.id).ok(),
            None => None,
        };
        let terms = GrantTerms {
            name: options.name.clone(),
            key,
            groups: options.groups.clone(),
            lanes: options.lanes.clone(),
            statuses: options.statuses.clone(),
            not_before: self.later_than(before.as_ref())?,
            not_after: self.now.saturating_add(options.period.as_secs()),
        };
        let is_sealed_now = match (&options.passphrase, &made) {
            (Some(passphrase), None) => {
                let key = self.source_path(&options.name, "key");
                put_under(&key, passphrase, SOURCE_FLAG)?
            }
            _ => false,
        };
        let public = self.source_path(&options.name, "pub");
        let is_public_missing = options.key.is_none() && read_public(&public)?.is_none();
        if made.is_none() && is_public_missing {
            // An earlier run was cut off between the two.
            files::replace(&public, Kind::PublicKey, &key.to_bytes())?;
        }
        if let Some(before) = &before
            && is_as_good(before.terms(), &terms, self.now)
        {
            self.print_grant(&path, before, &list, is_sealed_now, None)?;
            return self.end();
        }
        let outlives = before
            .as_ref()
            .filter(|before| allows_more(before.terms(), &terms, self.now));
        let outlives = outlives.map(|before| moment(before.terms().not_after));
        let grant = Grant::sign(&root, self.floor.id, terms)
            .map_err(|error| Failure::Usage(format!("the grant cannot be signed: {error}")))?;
        files::make_folder(&self.folder.join("sources"))?;
        if let Some(private) = made {
            let file = file_of(&private, options.passphrase.as_ref())?;
            files::create(
                &self.source_path(&options.name, "key"),
                Kind::PrivateKey,
                &file,
            )?;
            files::replace(&public, Kind::PublicKey, &key.to_bytes())?;
        }
        if let Some(before) = before.filter(|before| before.terms().key != key) {
            // Whoever has that key has this grant: it is kept, to be shown and revoked by name.
            let kept = format!("{}.grant", before.terms().key.fingerprint());
            let kept = self.source_path(&options.name, &kept);
            files::replace(&kept, Kind::Grant, before.to_bytes())?;
        }
        files::replace(&path, Kind::Grant, grant.to_bytes())?;
        self.print_grant(&path, &grant, &list, true, outlives)?;
        self.end()
    }

    /// Puts a key on the list of those that count no more.
    ///
    /// # Errors
    /// [`Failure`] when the root cannot be opened, there is no such key, or nothing can be written.
    pub fn revoke(mut self, whose: &Revoked) -> Result<Ending, Failure> {
        let root = self.root()?;
        let keys = match whose {
            Revoked::Name(name) => self.granted_keys(name, &root.public())?,
            Revoked::Key(path) => vec![read_public(path)?.ok_or_else(|| missing(path))?],
        };
        let mut list = self.revocations(&root.public())?;
        let mut is_changed = false;
        for key in keys {
            let longer = list
                .with(&root, self.floor.id, self.now, &key)
                .map_err(|_| {
                    Failure::Failed(
                        "the list of revoked keys is full; begin anew with a new root".to_owned(),
                    )
                })?;
            if let Some(longer) = longer {
                list = longer;
                is_changed = true;
            }
        }
        if is_changed {
            files::replace(&self.revoked_path(), Kind::Revocations, list.to_bytes())?;
        }
        self.print_revocations(&list, is_changed)?;
        self.end()
    }

    /// Lets another group key follow the present one.
    ///
    /// # Errors
    /// [`Failure`] when the root cannot be opened or nothing can be written.
    pub fn rotate(mut self, lead: Duration, overlap: Duration) -> Result<Ending, Failure> {
        let root = self.root()?;
        let keys = self
            .stored_group_keys(&root.public())?
            .ok_or_else(|| missing(&self.group_keys_path()))?;
        let rotation = Rotation {
            lead_s: lead.as_secs(),
            overlap_s: overlap.as_secs(),
        };
        match keys.rotated(&root, self.floor.id, self.now, rotation, [draw()?, draw()?]) {
            Ok(rotated) => {
                // What could not be read again would leave the floor without keys.
                GroupKeys::open(rotated.to_bytes(), &root.public(), self.floor.id)
                    .map_err(|error| unsound(&self.group_keys_path(), &error))?;
                files::replace(&self.group_keys_path(), Kind::GroupKeys, rotated.to_bytes())?;
            }
            Err(RotationError::Done { .. }) => {}
            Err(error @ RotationError::Full) => return Err(Failure::Failed(error.to_string())),
        }
        self.print_group_keys(&root.public(), Some(&keys))?;
        self.end()
    }

    /// Prints what there is.
    ///
    /// # Errors
    /// [`Failure`] when something there cannot be read, or is not what the root has signed.
    pub fn show(mut self) -> Result<Ending, Failure> {
        let path = self.folder.join("root.pub");
        let root = read_public(&path)?.ok_or_else(|| missing(&path))?;
        self.print_floor(&root, false)?;
        self.print_group_keys(&root, None)?;
        let list = self.revocations(&root)?;
        for path in self.grants()? {
            let bytes = files::read(&path, Kind::Grant)?.ok_or_else(|| missing(&path))?;
            let grant = Grant::open(&bytes, &root, self.floor.id)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            self.print_grant(&path, &grant, &list, false, None)?;
        }
        self.print_revocations(&list, false)?;
        self.end()
    }

    /// When a grant begins that takes the place of `before`: later, since of two the later one counts.
    fn later_than(&self, before: Option<&Grant>) -> Result<u64, Failure> {
        /// A clock that is further back than clocks may be apart is wrong.
        const BACK_MAX_S: u64 = 300;
        let before = before.map_or(0, |before| before.terms().not_before);
        if before > self.now.saturating_add(BACK_MAX_S) {
            return Err(Failure::Usage(format!(
                "the grant that there is begins at {}, and this machine's clock shows {}; set the clock, as of two grants the later one counts",
                moment(before),
                moment(self.now)
            )));
        }
        Ok(self.now.max(before.saturating_add(1)))
    }

    fn group_keys_path(&self) -> PathBuf {
        self.folder.join("group.keys")
    }

    fn revoked_path(&self) -> PathBuf {
        self.folder.join("revoked.list")
    }

    fn source_path(&self, name: &str, extension: &str) -> PathBuf {
        let name = format!("{}.{extension}", files::file_name_of(name));
        self.folder.join("sources").join(name)
    }

    /// The grants in the folder, by name.
    fn grants(&self) -> Result<BTreeSet<PathBuf>, Failure> {
        let folder = self.folder.join("sources");
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(BTreeSet::new());
            }
            Err(error) => {
                return Err(Failure::Usage(format!(
                    "{} cannot be listed: {error}",
                    folder.display()
                )));
            }
        };
        let paths = entries.flatten().map(|entry| entry.path());
        Ok(paths
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "grant")
            })
            .collect())
    }

    fn root(&self) -> Result<PrivateKey, Failure> {
        let path = self.folder.join("root.key");
        open_private(&path, self.passphrase.as_ref(), ROOT_FLAG)?.ok_or_else(|| missing(&path))
    }

    fn stored_group_keys(&self, root: &PublicKey) -> Result<Option<GroupKeys>, Failure> {
        read_group_keys(&self.group_keys_path(), root, self.floor.id)
    }

    fn stored_revocations(&self, root: &PublicKey) -> Result<Option<Revocations>, Failure> {
        read_revocations(&self.revoked_path(), root, self.floor.id)
    }

    fn revocations(&self, root: &PublicKey) -> Result<Revocations, Failure> {
        self.stored_revocations(root)?
            .ok_or_else(|| missing(&self.revoked_path()))
    }

    /// The key that a source is granted something for; and it whole, where it was made just now and is to be kept.
    fn source_key(
        &self,
        options: &GrantOptions,
    ) -> Result<(PublicKey, Option<PrivateKey>), Failure> {
        if let Some(path) = &options.key {
            if options.passphrase.is_some() {
                return Err(Failure::Usage(format!(
                    "the private key of {} is not here to be put under a passphrase; do that where it was made, and leave it out here",
                    path.display()
                )));
            }
            let key = read_public(path)?.ok_or_else(|| missing(path))?;
            return Ok((key, None));
        }
        let path = self.source_path(&options.name, "pub");
        if let Some(key) = read_public(&path)? {
            return Ok((key, None));
        }
        // An earlier run may have been cut off between the two.
        let path = self.source_path(&options.name, "key");
        if let Some(key) = open_private(&path, options.passphrase.as_ref(), SOURCE_FLAG)? {
            return Ok((key.public(), None));
        }
        let private = draw_key()?;
        Ok((private.public(), Some(private)))
    }

    /// The keys that a source was granted something for: the one of now, and those before it.
    fn granted_keys(&self, name: &str, root: &PublicKey) -> Result<Vec<PublicKey>, Failure> {
        let path = self.source_path(name, "grant");
        let file_name = files::file_name_of(name);
        let mut keys = Vec::new();
        for path in self.grants()? {
            let of = path.file_name().and_then(|of| of.to_str());
            if of.is_none_or(|of| of.split('.').next() != Some(&file_name)) {
                continue;
            }
            let bytes = files::read(&path, Kind::Grant)?.ok_or_else(|| missing(&path))?;
            let grant = Grant::open(&bytes, root, self.floor.id)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            keys.push(grant.terms().key);
        }
        if keys.is_empty() {
            return Err(Failure::Usage(format!(
                "{name:?} was granted nothing here ({} is not there); name another, or give its key with --key FILE",
                path.display()
            )));
        }
        Ok(keys)
    }

    fn print_floor(&mut self, root: &PublicKey, is_changed: bool) -> Result<(), Failure> {
        let shown = FloorShown {
            event: "keys",
            floor: &self.floor.name,
            root: root.fingerprint(),
            is_changed,
            folder: self.folder.display().to_string(),
        };
        let line = format!(
            "floor {}: {} {}; root {}",
            shown.floor,
            if is_changed {
                "keys made in"
            } else {
                "keys are in"
            },
            shown.folder,
            shown.root
        );
        print(&mut self.printer, &shown, &line)
    }

    /// Prints the group keys; those that are not among the ones `before` have changed.
    fn print_group_keys(
        &mut self,
        root: &PublicKey,
        before: Option<&GroupKeys>,
    ) -> Result<(), Failure> {
        let keys = self
            .stored_group_keys(root)?
            .ok_or_else(|| missing(&self.group_keys_path()))?;
        let sending = keys.sending(self.now).map(GroupKey::id);
        for key in keys.iter() {
            let until = (key.not_after() != u64::MAX).then(|| moment(key.not_after()));
            let shown = GroupKeyShown {
                event: "group_key",
                id: key.id().0,
                from: moment(key.not_before()),
                is_sending: sending == Some(key.id()),
                is_changed: before
                    .is_some_and(|before| before.iter().all(|it| it.id() != key.id())),
                until,
            };
            let line = format!(
                "  group key {} from {}{}{}",
                shown.id,
                shown.from,
                shown
                    .until
                    .as_ref()
                    .map_or_else(String::new, |until| format!(" until {until}")),
                if shown.is_sending { ", in use" } else { "" }
            );
            print(&mut self.printer, &shown, &line)?;
        }
        Ok(())
    }

    fn print_grant(
        &mut self,
        path: &Path,
        grant: &Grant,
        list: &Revocations,
        is_changed: bool,
        before_until: Option<String>,
    ) -> Result<(), Failure> {
        let terms = grant.terms();
        let state = match () {
            () if list.contains(&terms.key) => "revoked",
            () if self.now >= terms.not_after => "expired",
            () if self.now < terms.not_before => "early",
            () => "holds",
        };
        let name_of = |id: &GroupId| {
            let known = self.floor.groups.iter().find(|group| group.id == *id);
            known.map_or_else(|| id.to_string(), |group| group.name.clone())
        };
        let shown = GrantShown {
            event: "grant",
            name: &terms.name,
            key: terms.key.fingerprint(),
            groups: terms.groups.iter().map(name_of).collect(),
            lanes: terms.lanes.iter().map(|lane| lane.as_str()).collect(),
            statuses: terms
                .statuses
                .iter()
                .map(|status| status.as_str())
                .collect(),
            from: moment(terms.not_before),
            until: moment(terms.not_after),
            state,
            is_changed,
            file: path.display().to_string(),
            before_until,
        };
        let before = shown.before_until.as_ref().map_or_else(String::new, |until| {
            format!(
                "; the grant before allowed more, and counts until {until} where this one was not told, unless its key is revoked"
            )
        });
        let line = format!(
            "  {} ({}): {}; {}; {}; until {}; {}{before}",
            shown.name,
            shown.key,
            if shown.groups.is_empty() {
                "every group".to_owned()
            } else {
                shown.groups.join(", ")
            },
            shown.lanes.join(", "),
            shown.statuses.join(", "),
            shown.until,
            shown.state
        );
        print(&mut self.printer, &shown, &line)
    }

    fn print_revocations(&mut self, list: &Revocations, is_changed: bool) -> Result<(), Failure> {
        let shown = RevocationsShown {
            event: "revocations",
            edition: list.edition(),
            issued: moment(list.issued()),
            keys: list.len(),
            is_changed,
        };
        let line = format!(
            "  {} keys are revoked (edition {}, {})",
            shown.keys, shown.edition, shown.issued
        );
        print(&mut self.printer, &shown, &line)
    }

    fn end(mut self) -> Result<Ending, Failure> {
        self.printer.flush().or_else(PrintError::into_ending)?;
        Ok(Ending::Done)
    }
}

fn print(printer: &mut Printer, shown: &impl Serialize, line: &str) -> Result<(), Failure> {
    printer.print(shown, line).or_else(PrintError::into_ending)
}

/// Whether what was granted allows something that is not wanted any more.
fn allows_more(before: &GrantTerms, wanted: &GrantTerms, now: u64) -> bool {
    let is_within = before.key == wanted.key
        && (wanted.groups.is_empty()
            || !before.groups.is_empty() && before.groups.is_subset(&wanted.groups))
        && before.lanes.is_subset(&wanted.lanes)
        && before.statuses.is_subset(&wanted.statuses)
        && before.not_after <= wanted.not_after;
    now < before.not_after && !is_within
}

/// Whether what was granted is what is wanted, and lasts as long or nearly so: nine tenths of it.
fn is_as_good(before: &GrantTerms, wanted: &GrantTerms, now: u64) -> bool {
    let rest = before.not_after.saturating_sub(now);
    let period = wanted.not_after.saturating_sub(now);
    let of = |terms: &GrantTerms| {
        let GrantTerms {
            name,
            key,
            groups,
            lanes,
            statuses,
            ..
        } = terms.clone();
        (name, key.to_bytes(), groups, lanes, statuses)
    };
    of(before) == of(wanted)
        && before.not_before <= wanted.not_before
        && (period / 10 * 9..=period).contains(&rest)
}

/// The bytes of a private key's file, under a passphrase or in clear.
fn file_of(
    key: &PrivateKey,
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let seal = match passphrase {
        Some(passphrase) => Some(SealInput {
            passphrase,
            salt: draw()?,
            nonce: draw()?,
        }),
        None => None,
    };
    Ok(key.to_file_bytes(seal))
}

/// Puts the key in a file under a passphrase, if it stands there in clear; whether it did. One that is under another
/// passphrase is refused.
fn put_under(path: &Path, passphrase: &Passphrase, flag: &str) -> Result<bool, Failure> {
    let Some(key) = open_private(path, Some(passphrase), flag)? else {
        return Ok(false);
    };
    let in_clear = files::read(path, Kind::PrivateKey)?
        .is_some_and(|bytes| PrivateKey::from_file_bytes(&bytes, None).is_ok());
    if in_clear {
        files::replace(path, Kind::PrivateKey, &file_of(&key, Some(passphrase))?)?;
    }
    Ok(in_clear)
}

/// What gives the passphrase of a key that is to be used.
const ROOT_FLAG: &str = "--passphrase";
/// What gives that of a source's key in the folder.
const SOURCE_FLAG: &str = "--source-passphrase";

/// The private key in a file; `None` where there is no such file. `flag` gives its passphrase.
fn open_private(
    path: &Path,
    passphrase: Option<&Passphrase>,
    flag: &str,
) -> Result<Option<PrivateKey>, Failure> {
    let Some(bytes) = files::read(path, Kind::PrivateKey)? else {
        return Ok(None);
    };
    let passphrase = passphrase.map(|it| it.as_slice());
    let key = PrivateKey::from_file_bytes(&bytes, passphrase).map_err(|error| {
        let todo = match error {
            SealError::NeedsPassphrase => format!("give {flag} or {flag}-file"),
            SealError::WrongPassphrase => "try again".to_owned(),
            _ => "take it from where it is kept".to_owned(),
        };
        Failure::Usage(format!("{}: {error}; {todo}", path.display()))
    })?;
    Ok(Some(key))
}

/// The public key in a file; `None` where there is no such file.
fn read_public(path: &Path) -> Result<Option<PublicKey>, Failure> {
    let Some(bytes) = files::read(path, Kind::PublicKey)? else {
        return Ok(None);
    };
    let bytes = <&[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok();
    let key = bytes.and_then(PublicKey::from_bytes).ok_or_else(|| {
        Failure::Usage(format!(
            "{} holds no public key; give the one that floorcast keys wrote",
            path.display()
        ))
    })?;
    Ok(Some(key))
}

fn read_group_keys(
    path: &Path,
    root: &PublicKey,
    floor: FloorId,
) -> Result<Option<GroupKeys>, Failure> {
    let Some(bytes) = files::read(path, Kind::GroupKeys)? else {
        return Ok(None);
    };
    let keys = GroupKeys::open(&bytes, root, floor).map_err(|error| unsound(path, &error))?;
    Ok(Some(keys))
}

fn read_revocations(
    path: &Path,
    root: &PublicKey,
    floor: FloorId,
) -> Result<Option<Revocations>, Failure> {
    let Some(bytes) = files::read(path, Kind::Revocations)? else {
        return Ok(None);
    };
    let list = Revocations::open(&bytes, root, floor).map_err(|error| unsound(path, &error))?;
    Ok(Some(list))
}

fn unsound(path: &Path, error: &StatementError) -> Failure {
    Failure::Usage(format!(
        "{}: {error}; fetch it anew from where it was signed",
        path.display()
    ))
}

fn missing(path: &Path) -> Failure {
    Failure::Usage(format!(
        "{} is not there; floorcast keys init makes a floor's keys, --keys FOLDER says where they are",
        path.display()
    ))
}

/// A moment for eyes and machines, RFC 3339.
fn moment(seconds: u64) -> String {
    let since = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    since.map_or_else(
        || seconds.to_string(),
        |at| format_rfc3339_seconds(at).to_string(),
    )
}

fn draw<const N: usize>() -> Result<[u8; N], Failure> {
    runtime::draw_bytes().map_err(|error| Failure::system("cannot draw a key", &error))
}

fn draw_key() -> Result<PrivateKey, Failure> {
    let seed = Zeroizing::new(draw()?);
    Ok(PrivateKey::from_seed(&seed))
}

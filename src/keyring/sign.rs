//! `floorcast floor sign`: puts the root's signature beside the floor file.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::keys::{FloorFile, PublicKey};
use crate::output::{Ending, Failure};

use super::files::{self, Kind};
use super::{Keyring, moment, print, unsound};

/// What was signed.
#[derive(Serialize)]
struct SignedShown<'a> {
    event: &'static str,
    floor: &'a str,
    root: String,
    edition: u64,
    issued: String,
    #[serde(rename = "changed")]
    is_changed: bool,
    file: String,
}

impl Keyring<'_> {
    /// Signs the floor file at `path`, whose bytes are `contents` and say what this keyring's floor is. The edition is at
    /// least `edition_min`, and one more than before.
    ///
    /// # Errors
    /// [`Failure`] when the root cannot be opened, the keys are another floor's, what signed the file before cannot be
    /// read, or nothing can be written.
    pub fn sign_floor(
        mut self,
        path: &Path,
        contents: &[u8],
        edition_min: u64,
    ) -> Result<Ending, Failure> {
        let root = self.root()?;
        // Not this floor's keys, not this floor's root: found here rather than on every workstation.
        self.stored_group_keys(&root.public())?;
        let beside = beside(path);
        let before = read_signature(&beside, &root.public()).map_err(|failure| {
            Failure::Usage(format!(
                "{failure}, or remove it and sign with an --edition that no workstation has seen yet"
            ))
        })?;
        let is_same = |before: &&FloorFile| {
            before.verify(contents).is_ok()
                && before.floor() == self.floor.id
                && before.edition() >= edition_min
        };
        if let Some(before) = before.as_ref().filter(is_same) {
            self.print_signed(before, &root.public(), &beside, false)?;
            return self.end();
        }
        let last = before.map_or(0, |before| before.edition());
        let edition = last.checked_add(1).ok_or_else(|| {
            Failure::Failed("there is no edition after the last; begin anew with a new root".into())
        })?;
        let edition = edition.max(edition_min);
        let file = FloorFile::sign(&root, self.floor.id, edition, self.now, contents);
        files::replace(&beside, Kind::FloorFile, file.to_bytes())?;
        self.print_signed(&file, &root.public(), &beside, true)?;
        self.end()
    }

    fn print_signed(
        &mut self,
        file: &FloorFile,
        root: &PublicKey,
        path: &Path,
        is_changed: bool,
    ) -> Result<(), Failure> {
        let shown = SignedShown {
            event: "signed",
            floor: &self.floor.name,
            root: root.fingerprint(),
            edition: file.edition(),
            issued: moment(file.issued()),
            is_changed,
            file: path.display().to_string(),
        };
        let line = format!(
            "floor {}: {} edition {} of {}, by root {}, in {}",
            shown.floor,
            if is_changed { "signed" } else { "is signed:" },
            shown.edition,
            shown.issued,
            shown.root,
            shown.file
        );
        print(&mut self.printer, &shown, &line)
    }
}

/// Where the signature of a floor file stands (R-FSIG-1).
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".sig");
    path.with_file_name(name)
}

/// What `root` has signed of a floor file; `None` where nothing stands beside it.
pub(super) fn read_signature(
    beside: &Path,
    root: &PublicKey,
) -> Result<Option<FloorFile>, Failure> {
    let Some(bytes) = files::read(beside, Kind::FloorFile)? else {
        return Ok(None);
    };
    let file = FloorFile::open(&bytes, root).map_err(|error| unsound(beside, &error))?;
    Ok(Some(file))
}

//! Files of keys and statements: PEM (R-FILE-1), whole or not there, and secret where they are to be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

use crate::output::Failure;

/// Longest file of keys that is read: the longest list of revoked keys, as text.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a file holds, by the words of its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PrivateKey,
    PublicKey,
    GroupKeys,
    Grant,
    Revocations,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::PrivateKey => "FLOORCAST PRIVATE KEY",
            Self::PublicKey => "FLOORCAST PUBLIC KEY",
            Self::GroupKeys => "FLOORCAST GROUP KEYS",
            Self::Grant => "FLOORCAST GRANT",
            Self::Revocations => "FLOORCAST REVOCATIONS",
        }
    }

    /// Permissions that nobody may have on such a file (R-FILE-3): a private key is its owner's alone; the group keys may be read by
    /// the group of those who run workstations.
    #[cfg(unix)]
    const fn forbidden_mode(self) -> u32 {
        match self {
            Self::PrivateKey => 0o077,
            Self::GroupKeys => 0o027,
            Self::PublicKey | Self::Grant | Self::Revocations => 0,
        }
    }

    #[cfg(unix)]
    const fn mode(self) -> u32 {
        match self {
            Self::PrivateKey | Self::GroupKeys => 0o600,
            Self::PublicKey | Self::Grant | Self::Revocations => 0o644,
        }
    }
}

/// What `path` holds; `None` where there is no such file.
///
/// # Errors
/// [`Failure::Usage`] when it cannot be read, others may read what they should not, or it holds something else.
pub(super) fn read(path: &Path, kind: Kind) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let shown = path.display();
    let unreadable = |error: io::Error| Failure::Usage(format!("{shown} cannot be read: {error}"));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    // Windows keeps access lists, which no library of ours reads.
    #[cfg(unix)]
    refuse_open_secrets(&file, path, kind)?;
    let mut text = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "{shown} is longer than {FILE_BYTES_MAX} bytes, so it is no file of keys; give the one that floorcast keys wrote"
        )));
    }
    let (label, bytes) = pem_rfc7468::decode_vec(&text).map_err(|error| {
        Failure::Usage(format!(
            "{shown} is not a file that floorcast keys wrote, or was changed ({error}); take it from where it was made"
        ))
    })?;
    let bytes = Zeroizing::new(bytes);
    if label != kind.label() {
        return Err(Failure::Usage(format!(
            "{shown} holds a {label}, and a {} is needed; give another file",
            kind.label()
        )));
    }
    Ok(Some(bytes))
}

#[cfg(unix)]
fn refuse_open_secrets(file: &File, path: &Path, kind: Kind) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = path.display();
    let metadata = file.metadata();
    let mode = metadata
        .map_err(|error| Failure::Usage(format!("{shown} cannot be looked at: {error}")))?
        .permissions()
        .mode();
    if mode & kind.forbidden_mode() == 0 {
        return Ok(());
    }
    let allowed = match kind {
        Kind::GroupKeys => "its owner and its group may read it, nobody else; run chmod 640",
        _ => "only its owner may read it; run chmod 600",
    };
    Err(Failure::Usage(format!(
        "{shown} holds a secret and has the permissions {:03o}: {allowed} {shown}, and change the key if others have read it",
        mode & 0o777
    )))
}

/// Puts `bytes` into `path`, whole or not at all, in the place of what was there.
///
/// # Errors
/// [`Failure::Failed`] when the system does not take it; what was there is still there then.
pub(super) fn replace(path: &Path, kind: Kind, bytes: &[u8]) -> Result<(), Failure> {
    let aside = aside(path);
    // What an earlier run left when it was cut off.
    let _ = fs::remove_file(&aside);
    let failed = |error: io::Error| {
        let _ = fs::remove_file(&aside);
        Failure::Failed(format!("{} cannot be written: {error}", path.display()))
    };
    write(&aside, kind, bytes).map_err(failed)?;
    fs::rename(&aside, path).map_err(failed)
}

/// Puts `bytes` into a new file.
///
/// # Errors
/// [`Failure::Failed`] when the system does not take it, or something is there: that stays as it is.
pub(super) fn create(path: &Path, kind: Kind, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::Failed(format!("{} cannot be written: {error}", path.display()))
    };
    let aside = aside(path);
    let _ = fs::remove_file(&aside);
    let made = write(&aside, kind, bytes).and_then(|()| fs::hard_link(&aside, path));
    let _ = fs::remove_file(&aside);
    made.map_err(failed)
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn write(path: &Path, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let text = pem_rfc7468::encode_string(kind.label(), LineEnding::LF, bytes)
        .map(Zeroizing::new)
        .map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(kind.mode());
    }
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes the folder of a floor's keys, for its owner alone.
///
/// # Errors
/// [`Failure::Failed`] when the system does not let us.
pub(super) fn make_folder(path: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder
        .create(path)
        .map_err(|error| Failure::Failed(format!("{} cannot be made: {error}", path.display())))
}

/// A station's name as a file's: letters, digits, `-` and `_` as they are, everything else as `%` and two digits.
pub(super) fn file_name_of(station: &str) -> String {
    let mut name = String::with_capacity(station.len());
    for &byte in station.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

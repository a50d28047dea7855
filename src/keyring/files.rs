//! Files of keys and statements: PEM (R-FILE-1), whole or not there, and secret where they are to be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

use crate::output::Failure;

/// Longest file of keys that is read: the longest list of revoked keys, as text.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The permissions, on Unix, of what only its owner may read.
const OWN_MODE: u32 = 0o600;

/// What a file holds, by the words of its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PrivateKey,
    PublicKey,
    GroupKeys,
    Grant,
    Revocations,
    FloorFile,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::PrivateKey => "FLOORCAST PRIVATE KEY",
            Self::PublicKey => "FLOORCAST PUBLIC KEY",
            Self::GroupKeys => "FLOORCAST GROUP KEYS",
            Self::Grant => "FLOORCAST GRANT",
            Self::Revocations => "FLOORCAST REVOCATIONS",
            Self::FloorFile => "FLOORCAST FLOOR FILE",
        }
    }

    /// Permissions that nobody may have on such a file (R-FILE-3): a private key is its owner's alone; the group keys may be read by
    /// the group of those who run workstations.
    #[cfg(unix)]
    const fn forbidden_mode(self) -> u32 {
        match self {
            Self::PrivateKey => 0o077,
            Self::GroupKeys => 0o027,
            Self::PublicKey | Self::Grant | Self::Revocations | Self::FloorFile => 0,
        }
    }

    const fn mode(self) -> u32 {
        match self {
            Self::PrivateKey | Self::GroupKeys => OWN_MODE,
            Self::PublicKey | Self::Grant | Self::Revocations | Self::FloorFile => 0o644,
        }
    }
}

/// What `path` holds; `None` where there is no such file.
///
/// # Errors
/// [`Failure::Usage`] when it cannot be read, others may read what they should not, or it holds something else.
pub(super) fn read(path: &Path, kind: Kind) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let shown = path.display();
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    // Windows keeps access lists, which no library of ours reads.
    #[cfg(unix)]
    refuse_open_secrets(&file, path, kind)?;
    let text = read_all(file, path, FILE_BYTES_MAX)?;
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

/// The bytes of a file that is no PEM, up to a bound; `None` where there is no such file.
///
/// # Errors
/// [`Failure::Usage`] when it cannot be read, or is longer.
pub(super) fn read_bytes(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, Failure> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    read_all(file, path, bytes_max).map(|mut bytes| Some(std::mem::take(&mut *bytes)))
}

fn open(path: &Path) -> Result<Option<File>, Failure> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn read_all(file: File, path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::Usage(format!(
            "{} is longer than {bytes_max} bytes, so it is no file of keys; give the one that floorcast wrote",
            path.display()
        )));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{} cannot be read: {error}", path.display()))
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
    put(path, || write(&aside(path), kind, bytes))
}

/// As [`replace`], of a file that is no PEM and its owner's alone.
///
/// # Errors
/// As there.
pub(super) fn replace_bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    put(path, || write_new(&aside(path), OWN_MODE, bytes))?;
    settle(path);
    Ok(())
}

fn put(path: &Path, write: impl FnOnce() -> io::Result<()>) -> Result<(), Failure> {
    let aside = aside(path);
    // What an earlier run left when it was cut off.
    let _ = fs::remove_file(&aside);
    write()
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|error| {
            let _ = fs::remove_file(&aside);
            Failure::Failed(format!("{} cannot be written: {error}", path.display()))
        })
}

/// Lets the name of a file that was just put there outlast a power cut; where folders cannot be synced, the system sees
/// to it by itself, or nobody can.
fn settle(path: &Path) {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    #[cfg(not(unix))]
    let _ = path;
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
    made.map_err(failed)?;
    settle(path);
    Ok(())
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
    write_new(path, kind.mode(), text.as_bytes())
}

#[cfg_attr(
    not(unix),
    expect(unused_variables, reason = "only Unix has permissions of three digits")
)]
fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(mode);
    }
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
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

/// Back from [`file_name_of`]; `None` for what it never makes.
pub(super) fn station_of(file_name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(file_name.len());
    let mut rest = file_name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|name| file_name_of(name) == file_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_s_name_comes_back_from_its_file_s() {
        for name in ["sup-1", "Zoë@desk 4", "../x", "a%b", "."] {
            let file = file_name_of(name);
            assert!(!file.contains(['/', '.', ' ']), "{file}");
            assert_eq!(station_of(&file).as_deref(), Some(name));
        }
        for bad in ["a b", "%", "%4", "%zz", "%61", "%FF", "a.b"] {
            assert_eq!(station_of(bad), None, "{bad}");
        }
    }
}

//! A file that is there whole or not at all: a run that fails, or a disk that is full, leaves what was there before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::output::Failure;

/// A file that is being written, under another name beside it; devices and pipes, which cannot be replaced, are written
/// themselves.
pub(super) struct Whole {
    file: io::BufWriter<File>,
    /// What is written, and what it becomes.
    rename: Option<(PathBuf, PathBuf)>,
}

impl Whole {
    /// Begins; a place that cannot be written is told now.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let is_there = match fs::metadata(path) {
            Ok(found) if found.is_file() => true,
            // Folders are refused by the system.
            Ok(_) => {
                let file = OpenOptions::new().write(true).open(path)?;
                return Ok(Self::of(file, None));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let to = if is_there {
            // Whoever may not write it may not replace it either; and a link stays a link.
            OpenOptions::new().write(true).open(path)?;
            fs::canonicalize(path)?
        } else {
            path.to_owned()
        };
        let mut name = to
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = to.with_file_name(name);
        let file = File::create(&part)?;
        let whole = Self::of(file, Some((part, to)));
        if let Some((part, to)) = &whole.rename
            && is_there
        {
            fs::set_permissions(part, fs::metadata(to)?.permissions())?;
        }
        Ok(whole)
    }

    fn of(file: File, rename: Option<(PathBuf, PathBuf)>) -> Self {
        let file = io::BufWriter::new(file);
        Self { file, rename }
    }

    /// Ends: from now on it is there.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        if let Some((part, to)) = &self.rename {
            fs::rename(part, to)?;
        }
        self.rename = None;
        Ok(())
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.rename {
            // What cannot be removed only takes room.
            let _ = fs::remove_file(part);
        }
    }
}

/// Writes all of a file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut whole = Whole::create(path)?;
    whole.write_all(bytes)?;
    whole.finish()
}

/// That a file which `flag` names cannot be written: where the name is the reason, another one mends it.
pub(super) fn refused(flag: &str, path: &Path, error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    let sentence = format!("{flag}: cannot write {}: {error}", path.display());
    match error.kind() {
        Kind::NotFound
        | Kind::PermissionDenied
        | Kind::IsADirectory
        | Kind::NotADirectory
        | Kind::ReadOnlyFilesystem
        | Kind::InvalidFilename
        | Kind::InvalidInput => Failure::Usage(format!(
            "{sentence}; name a file that can be written, in a directory that exists"
        )),
        _ => Failure::Failed(sentence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever looks finds the old content or the new one, and nothing beside it. Method: a file is begun and given
    /// up, then written; after each step the folder is looked at.
    #[test]
    fn it_is_there_whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tsv");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        for old in [None, Some("old")] {
            if let Some(old) = old {
                fs::write(&path, old).unwrap();
            }
            let mut whole = Whole::create(&path).unwrap();
            whole.write_all(b"half").unwrap();
            whole.flush().unwrap();
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), old);
            drop(whole);
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), old);
            assert_eq!(names(), usize::from(old.is_some()));
            write(&path, b"new").unwrap();
            assert_eq!(
                (fs::read_to_string(&path).unwrap(), names()),
                ("new".to_owned(), 1)
            );
        }
    }

    #[test]
    fn only_a_bad_name_is_the_callers_fault() {
        let folder = tempfile::tempdir().unwrap();
        let is_usage = |path: &Path| {
            let error = write(path, b"x").unwrap_err();
            matches!(refused("--out", path, &error), Failure::Usage(_))
        };
        assert!(is_usage(folder.path()));
        assert!(is_usage(&folder.path().join("nowhere/a")));
        #[cfg(target_os = "linux")]
        assert!(!is_usage(Path::new("/dev/full")));
    }
}

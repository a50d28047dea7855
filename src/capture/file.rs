//! The file of a capture, written by a thread of its own: a slow disk must not hold up a station.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{self, Receiver, Sender, TrySendError};

use super::Capture;

/// Pieces that wait for the disk, of 64 KiB each: half a second of a gigabit. Beyond it the recording ends, and the
/// station goes on.
const PIECES_MAX: usize = 1_024;
/// Written pieces whose memory is used again: as many as are under way on a disk that keeps up.
const SPARES_MAX: usize = 16;

impl Capture {
    /// A capture in a new file at `path`, which only this user can read: it holds what the notices say.
    ///
    /// # Errors
    /// When there is such a file already, or none can be made.
    pub fn create(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let background = Background::start(options.open(path)?)?;
        Ok(Self::new(background, bytes_max, warn))
    }
}

fn warn(sentence: &str) {
    tracing::warn!("{sentence}");
}

/// A file behind a queue.
struct Background {
    pieces: Option<Sender<Vec<u8>>>,
    spares: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Background {
    fn start(mut file: File) -> io::Result<Self> {
        let (pieces, waiting) = channel::bounded::<Vec<u8>>(PIECES_MAX);
        let (written, spares) = channel::bounded(SPARES_MAX);
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                waiting.iter().try_for_each(|piece: Vec<u8>| {
                    file.write_all(&piece)?;
                    // One more than is kept is let go.
                    let _ = written.try_send(piece);
                    Ok(())
                })
            })?;
        Ok(Self {
            pieces: Some(pieces),
            spares,
            thread: Some(thread),
        })
    }

    /// Lets the thread finish what it has; what went wrong, unless that was told before.
    fn join(&mut self) -> io::Result<()> {
        self.pieces = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("its thread has failed")),
            None => Ok(()),
        }
    }
}

impl Write for Background {
    /// Takes all of it, or nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut piece = self.spares.try_recv().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(bytes);
        let sent = self.pieces.as_ref().map(|pieces| pieces.try_send(piece));
        match sent {
            Some(Ok(())) => Ok(bytes.len()),
            Some(Err(TrySendError::Full(_))) => Err(io::Error::other("the disk is too slow")),
            // The thread ends early for an error only.
            Some(Err(TrySendError::Disconnected(_))) | None => {
                self.join()?;
                Err(io::Error::other("its thread has ended"))
            }
        }
    }

    /// For the end: waits until the file has everything.
    fn flush(&mut self) -> io::Result<()> {
        self.join()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // After an error, which has been told.
        let _ = self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_there_when_it_has_been_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("F");
        let mut background = Background::start(File::create_new(&path).unwrap()).unwrap();
        for piece in 0..100_u8 {
            background.write_all(&[piece; 3]).unwrap();
        }
        background.flush().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.chunks(3).eq((0..100_u8).map(|piece| [piece; 3])));
        assert!(Capture::create(&path, 1 << 20).is_err(), "not overwritten");
        assert!(background.write_all(&[1]).is_err(), "flushed for good");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_and_blocks_nobody() {
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        let is_full = |result: io::Result<()>| {
            result.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
        };
        let mut background = Background::start(full()).unwrap();
        background.write_all(&[1]).unwrap();
        assert!(is_full(background.flush()));
        // Those after the one that failed are refused as soon as that is known, with its error.
        let mut background = Background::start(full()).unwrap();
        let refused = (1..PIECES_MAX).find_map(|_| background.write_all(&[1]).err());
        let refused = refused.map_or_else(|| background.flush(), Err);
        assert!(is_full(refused));
    }
}

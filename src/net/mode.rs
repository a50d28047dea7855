//! How datagrams pass between this program and the system: which ways there are, and how long a train may be.

use std::fmt;
use std::io;
use std::str::FromStr;

use super::Outgoing;

/// One way to hand datagrams over, worst first. [`Socket::io_modes`](super::Socket::io_modes) tells which one is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IoMode {
    /// One datagram a system call. Any system can.
    Plain,
    /// Many datagrams a system call: `sendmmsg` and `recvmmsg`. Linux.
    Batch,
    /// Many datagrams of one size as one train, which passes the system's network stack as one: `UDP_SEGMENT` (Linux
    /// 4.18) and `UDP_GRO` (5.0). What is sent is cut by the card or, where that cannot, by the system just before.
    Offload,
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Batch => "batch",
            Self::Offload => "offload",
        })
    }
}

impl FromStr for IoMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Plain, Self::Batch, Self::Offload]
            .into_iter()
            .find(|mode| mode.to_string() == text)
            .ok_or(UnknownMode)
    }
}

/// A word that names no [`IoMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are offload, batch and plain")]
pub struct UnknownMode;

/// The ways of a socket, or the worst of several sockets'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoModes {
    /// What goes out.
    pub send: IoMode,
    /// What comes in.
    pub receive: IoMode,
}

impl IoModes {
    /// The best both ways.
    pub const BEST: Self = Self {
        send: IoMode::Offload,
        receive: IoMode::Offload,
    };

    /// For each direction the worse.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        Self {
            send: self.send.min(other.send),
            receive: self.receive.min(other.receive),
        }
    }
}

impl Default for IoModes {
    fn default() -> Self {
        Self::BEST
    }
}

impl fmt::Display for IoModes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.send == self.receive {
            self.send.fmt(f)
        } else {
            write!(f, "{} out, {} in", self.send, self.receive)
        }
    }
}

/// Most datagrams in a train, unless another bound is asked for. A train that meets a full queue on a virtual switch or a
/// full receive buffer is lost whole, and on a cable it is a burst at the cable's own rate. 16 of 1,400 bytes are 22 kB:
/// a ninth of a stock Linux receive buffer (208 KiB), where 46 would be a third; and 0.2 ms of a gigabit. On loopback 16
/// take nine tenths off what a datagram costs the system, 64 no more than a twentieth further.
pub const TRAIN_DATAGRAMS: usize = 16;

/// Most datagrams that Linux takes in a train (`UDP_MAX_SEGMENTS`; newer ones take twice as many).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;

/// Longest train in bytes: it is one IPv4 datagram until it is cut.
const TRAIN_BYTES_MAX: usize = 65_507;

/// How many datagrams from the front of `datagrams` can leave as one train of at most `most`: to one address, and of one
/// size but for the last, which may be shorter. At least 1, unless there are none. An empty datagram has a train of its
/// own, for at the end of another it would leave no trace.
pub(super) fn train_len(datagrams: &[Outgoing<'_>], most: usize) -> usize {
    let Some((first, rest)) = datagrams.split_first() else {
        return 0;
    };
    let segment = first.bytes.len();
    if segment == 0 {
        return 1;
    }
    let most = most
        .min(TRAIN_DATAGRAMS_MAX)
        .min(TRAIN_BYTES_MAX / segment)
        .max(1);
    let mut len = 1;
    for next in rest.iter().take(most - 1) {
        let bytes = next.bytes.len();
        if next.to != first.to || bytes == 0 || bytes > segment {
            break;
        }
        len += 1;
        if bytes < segment {
            break;
        }
    }
    len
}

/// Whether this is what a system says that cannot send a train: no checksums by the card (`EIO`), a segment longer than
/// the path carries (`EINVAL`, `EMSGSIZE`), an option it does not know. The datagram itself may be to blame for it too;
/// sent alone it tells.
pub(super) fn may_refuse_trains(error: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    return matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    );
    #[cfg(not(target_os = "linux"))]
    {
        let _ = error;
        false
    }
}

//! How a loop waits, and where it runs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::time::Timestamp;

/// How a loop waits until something happens or is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It sleeps, and costs nothing.
    Block,
    /// It looks again and again for so long, then sleeps: what comes soon is taken in without the system having to wake it.
    SpinThenBlock(Duration),
    /// It looks again and again. It needs a processor of its own: with fewer processors than loops everything is late.
    Spin,
}

/// How long [`Idle::SpinThenBlock`] looks where nobody says: what waking up costs, some times over, so that spinning in vain
/// at most doubles the price of a wait.
const SPIN: Duration = Duration::from_micros(50);

impl Idle {
    pub(super) fn spin_until(self, now: Timestamp, until: Timestamp) -> Timestamp {
        match self {
            Self::Block => now,
            Self::SpinThenBlock(spin) => now + spin,
            Self::Spin => until,
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::SpinThenBlock(_) => "spin-block",
            Self::Spin => "spin",
        })
    }
}

impl FromStr for Idle {
    type Err = UnknownIdle;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Block, Self::SpinThenBlock(SPIN), Self::Spin]
            .into_iter()
            .find(|idle| idle.to_string() == text)
            .ok_or(UnknownIdle)
    }
}

/// A word that names no [`Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there are block, spin-block and spin")]
pub struct UnknownIdle;

/// Sleeps end when they are due, not up to 50 us later, which is how far Linux puts wake-ups of ordinary threads together
/// to save power: here a wake-up is a message that is due. A system that refuses, or has no such thing, goes on as before.
pub(super) fn wake_in_time() {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_timerslack(1_000);
}

/// Keeps this thread, and those that it starts, on one processor.
///
/// # Errors
/// One sentence: no such processor, or a system that cannot.
pub fn pin(processor: usize) -> Result<(), String> {
    #[cfg(target_os = "linux")]
    {
        let mut set = nix::sched::CpuSet::new();
        let pinned = set
            .set(processor)
            .and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
        pinned.map_err(|error| {
            format!("this process cannot run on processor {processor}: {error}; the first one is 0")
        })
    }
    #[cfg(not(target_os = "linux"))]
    Err(format!(
        "this system cannot keep a process on processor {processor}; leave it out"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_ways_to_wait() {
        for idle in [Idle::Block, Idle::SpinThenBlock(SPIN), Idle::Spin] {
            assert_eq!(idle.to_string().parse(), Ok(idle));
        }
        assert_eq!("busy".parse::<Idle>(), Err(UnknownIdle));
        let (now, until) = (Timestamp::from_nanos(5), Timestamp::from_nanos(9_000_000));
        assert_eq!(Idle::Block.spin_until(now, until), now);
        assert_eq!(Idle::SpinThenBlock(SPIN).spin_until(now, until), now + SPIN);
        assert_eq!(Idle::Spin.spin_until(now, until), until);
    }
}

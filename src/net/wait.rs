//! Waiting until a socket is ready, more precisely than to the millisecond.

use std::io;
use std::time::Duration;

use mio::{Poll, Token};

/// A registered socket has become ready. Registration is edge-triggered: it is not told again until that happens anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What it was registered with.
    pub token: Token,
    /// It can be received from.
    pub is_readable: bool,
    /// It can be sent with.
    pub is_writable: bool,
}

/// What a wait has found, in memory that is used again and again.
#[derive(Debug)]
pub struct Events {
    found: Vec<Ready>,
    mio: mio::Events,
    #[cfg(target_os = "linux")]
    epoll: super::linux::Epoll,
}

impl Events {
    /// Room for so many; what else is ready is found by the next wait.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            found: Vec::with_capacity(capacity),
            mio: mio::Events::with_capacity(capacity),
            #[cfg(target_os = "linux")]
            epoll: super::linux::Epoll::new(capacity),
        }
    }

    /// What the last wait has found.
    pub fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.found.iter().copied()
    }

    /// Whether it has found nothing.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// As on a system that knows no better.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn forget_precise_wait(&mut self) {
        self.epoll.forget_precise_wait();
    }

    fn take_from_mio(&mut self) {
        self.found.extend(self.mio.iter().map(|event| Ready {
            token: event.token(),
            is_readable: event.is_readable(),
            is_writable: event.is_writable(),
        }));
    }
}

/// Waits until a registered socket is ready, for `timeout` at most; as precisely as the system can, which on Linux is
/// some fifty microseconds, elsewhere a millisecond.
///
/// # Errors
/// What the system says; [`io::ErrorKind::Interrupted`] is no failure.
pub fn wait(poll: &mut Poll, events: &mut Events, timeout: Duration) -> io::Result<()> {
    events.found.clear();
    #[cfg(target_os = "linux")]
    if events.epoll.wait(poll, timeout, &mut events.found)?
        || !super::linux::is_ready_within(poll, timeout)?
    {
        return Ok(());
    }
    #[cfg(target_os = "linux")]
    let timeout = super::linux::rest_of(timeout);
    poll.poll(&mut events.mio, Some(timeout))?;
    events.take_from_mio();
    Ok(())
}

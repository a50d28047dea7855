//! What a process has used of the machine, and where it runs.

use serde::{Deserialize, Serialize};

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode and in the kernel, seconds.
    pub cpu_s: f64,
    /// The most memory that it had at a time, bytes; 0 where the system does not tell.
    pub rss_bytes: u64,
}

impl Usage {
    /// This process's.
    #[cfg(unix)]
    pub fn now() -> Self {
        use nix::sys::resource::{UsageWho, getrusage};
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
            return Self::default();
        };
        let seconds = |time: nix::sys::time::TimeVal| {
            time.tv_sec() as f64 + time.tv_usec() as f64 / 1_000_000.0
        };
        // Linux tells kibibytes, macOS bytes.
        let unit = if cfg!(target_os = "macos") { 1 } else { 1_024 };
        Self {
            cpu_s: seconds(usage.user_time()) + seconds(usage.system_time()),
            rss_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) * unit,
        }
    }

    /// This process's.
    #[cfg(not(unix))]
    pub fn now() -> Self {
        Self::default()
    }

    /// The part of one of `count`.
    pub(super) fn part(self, count: usize) -> Self {
        Self {
            cpu_s: self.cpu_s / count as f64,
            rss_bytes: self.rss_bytes / count as u64,
        }
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_s: (self.cpu_s - before.cpu_s).max(0.0),
            rss_bytes: self.rss_bytes,
        }
    }
}

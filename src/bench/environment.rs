//! Where a run took place: what two results must have in common to be compared.

use serde::{Deserialize, Serialize};

/// A machine, and what of it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Operating system and architecture.
    pub system: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// Processors this process may use.
    pub processors: usize,
    /// Memory, bytes; 0 where the system does not tell.
    pub memory_bytes: u64,
    /// Largest receive buffer that the system grants (`net.core.rmem_max`), bytes; 0 where it does not tell.
    pub receive_buffer_bytes_max: u64,
    /// This program's version.
    pub version: String,
    /// How it was built.
    pub build: String,
}

impl Environment {
    /// This machine.
    pub fn now() -> Self {
        let line = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().next().unwrap_or_default().trim().to_owned()
        };
        let after = |path: &str, key: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().find_map(|line| line.strip_prefix(key));
            found
                .map(|value| value.trim_start_matches([':', ' ', '\t']).to_owned())
                .unwrap_or_default()
        };
        let kib = after("/proc/meminfo", "MemTotal");
        let kib = kib
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            kernel: line("/proc/sys/kernel/osrelease"),
            processor: after("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or(0) * 1_024,
            receive_buffer_bytes_max: line("/proc/sys/net/core/rmem_max").parse().unwrap_or(0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        }
    }
}

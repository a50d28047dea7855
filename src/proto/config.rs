//! What an endpoint is told before it starts. Each value is a type that cannot hold a wrong one, so any `Config` that
//! can be built is valid.

use thiserror::Error;

use crate::wire::{DATAGRAM_BYTES_MAX, FloorId, SessionId, SourceId};

use super::tuning::Tuning;

/// A configuration value outside its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{field} is {given}, but must be {min} to {max} {unit}")]
pub struct ConfigError {
    /// The value's name.
    pub field: &'static str,
    /// What was given.
    pub given: u64,
    /// The least allowed.
    pub min: u64,
    /// The most allowed.
    pub max: u64,
    /// What it counts.
    pub unit: &'static str,
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $field:literal, $unit:literal, $min:expr, $max:expr, $recommended:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(u64);

        impl $name {
            /// The least allowed.
            pub const MIN: Self = Self($min);
            /// The most allowed.
            pub const MAX: Self = Self($max);
            /// What a floor that says nothing gets.
            pub const RECOMMENDED: Self = Self($recommended);

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number, as a length.
            #[expect(clippy::cast_possible_truncation, reason = "bounded well below 2^32")]
            pub const fn as_len(self) -> usize {
                self.0 as usize
            }
        }

        impl TryFrom<u64> for $name {
            type Error = ConfigError;

            fn try_from(given: u64) -> Result<Self, ConfigError> {
                let (min, max) = ($min, $max);
                if given < min || given > max {
                    return Err(ConfigError { field: $field, given, min, max, unit: $unit });
                }
                Ok(Self(given))
            }
        }
    };
}

bounded! {
    /// Largest UDP payload sent. 1,400 leaves room on an Ethernet of 1,500 for IPv6, a VLAN tag and a tunnel; more is for
    /// loopback and proven jumbo paths only, because datagrams are never fragmented by IP (R-PACK-1).
    DatagramBytes, "datagram size", "bytes", 256, DATAGRAM_BYTES_MAX as u64, 1_400
}
bounded! {
    /// Bytes a second. 25 MB/s is a fifth of a gigabit: what a floor's access switches carry beside voice.
    Rate, "rate", "bytes a second", 1_000, 12_500_000_000, 25_000_000
}
bounded! {
    /// Bytes of published messages that a stream keeps for repair. 64 MiB is 2.7 s at the recommended rate: longer than
    /// any repair cycle that still matters.
    SendWindowBytes, "send window", "bytes", 4 << 20, 4 << 30, 64 << 20
}
bounded! {
    /// Segments that a stream keeps for repair, whatever their size: bounds the memory of bookkeeping (100 bytes each).
    SendWindowLen, "send window length", "segments", 1_024, 1 << 20, 1 << 16
}
bounded! {
    /// How far ahead of the contiguous mark a receiver looks. Twice the longest recommended send window, so that a
    /// receiver that fell a whole window behind still accepts what is being sent now.
    ReceiveWindowLen, "receive window length", "segments", 1_024, 1 << 21, 1 << 17
}
bounded! {
    /// Bytes of out-of-order segments that an endpoint holds in all. Full means the datagram is refused and asked for
    /// again once the gap before it is closed.
    ReceiveBytes, "receive buffer", "bytes", 1 << 20, 8 << 30, 128 << 20
}
bounded! {
    /// Receivers that a source counts on before it has heard from them.
    GroupSize, "group size", "receivers", 1, 1_000_000, 100
}

bounded! {
    /// A share of the receivers. 95 of 100: one workstation in twenty may be slow without slowing the floor.
    Percent, "share", "percent", 1, 100, 95
}

/// Whose pace the source keeps (R-FLOW-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The configured rate, whoever can follow.
    Rate,
    /// The configured rate, but never further ahead of the slowest of this share of the receivers than half the send
    /// window: who is slower than that catches up alone.
    Quorum(Percent),
    /// None: as fast as the system takes it.
    None,
}

/// How its datagrams are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// Not at all: each has a checksum (R-HDR-5).
    OpenLab,
    /// They are sealed once they are written, and are then up to so much longer.
    Later {
        /// Bytes left free behind each.
        bytes: usize,
    },
}

/// Where a receiver that meets a session after its start begins (R-JOIN-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// With the oldest that can still be repaired.
    Trail,
    /// With the newest.
    Lead,
    /// With the last N segments, as far as they can still be repaired.
    Last(u32),
}

/// Everything an endpoint is told before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its deployment.
    pub floor: FloorId,
    /// Itself.
    pub source: SourceId,
    /// Its present life; random, drawn by the caller.
    pub session: SessionId,
    /// Largest datagram it sends.
    pub datagram_bytes: DatagramBytes,
    /// How its datagrams are protected.
    pub seal: Seal,
    /// How fast it sends new data.
    pub data_rate: Rate,
    /// How fast it repairs.
    pub repair_rate: Rate,
    /// Bytes each of its streams keeps for repair.
    pub send_window_bytes: SendWindowBytes,
    /// Segments each of its streams keeps for repair.
    pub send_window_len: SendWindowLen,
    /// How far ahead it accepts.
    pub receive_window_len: ReceiveWindowLen,
    /// What it buffers out of order.
    pub receive_bytes: ReceiveBytes,
    /// How many receivers it counts on.
    pub group_size: GroupSize,
    /// Whose pace it keeps.
    pub flow: Flow,
    /// Whether its rate follows the loss that is reported: halved when there is much, raised step by step when there is
    /// little (R-FLOW-4).
    pub is_rate_adaptive: bool,
    /// How it repairs, and asks for repair.
    pub tuning: Tuning,
}

impl Config {
    /// Bytes of a datagram that is written and not sealed yet, at most, its checksum included where it has one. Never less than
    /// the smallest datagram that there is without a seal; whoever seals sees to it that there is room.
    pub(super) fn written_bytes(&self) -> usize {
        match self.seal {
            Seal::OpenLab => self.datagram_bytes.as_len(),
            Seal::Later { bytes } => {
                let written = self.datagram_bytes.as_len().saturating_sub(bytes);
                written.max(DatagramBytes::MIN.as_len())
            }
        }
    }

    /// The recommended values for `source` in the life `session` on `floor`.
    pub fn new(floor: FloorId, source: SourceId, session: SessionId) -> Self {
        Self {
            floor,
            source,
            session,
            datagram_bytes: DatagramBytes::RECOMMENDED,
            seal: Seal::OpenLab,
            data_rate: Rate::RECOMMENDED,
            repair_rate: Rate::RECOMMENDED,
            send_window_bytes: SendWindowBytes::RECOMMENDED,
            send_window_len: SendWindowLen::RECOMMENDED,
            receive_window_len: ReceiveWindowLen::RECOMMENDED,
            receive_bytes: ReceiveBytes::RECOMMENDED,
            group_size: GroupSize::RECOMMENDED,
            flow: Flow::Rate,
            is_rate_adaptive: false,
            tuning: Tuning::RECOMMENDED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_the_error_says_all() {
        assert!(DatagramBytes::try_from(256).is_ok() && DatagramBytes::try_from(65_507).is_ok());
        let error = DatagramBytes::try_from(255).unwrap_err();
        assert_eq!(
            error.to_string(),
            "datagram size is 255, but must be 256 to 65507 bytes"
        );
        assert!(Rate::try_from(u64::MAX).is_err());
    }
}

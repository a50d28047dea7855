//! How messages are cut into segments (R-SEG-2).

use crate::proto::config::Config;
use crate::wire::{MESSAGE_BYTES_MAX, SINGLE_DATA_OVERHEAD_BYTES, Segment};

/// Bytes of the total that stands in the first part of a message.
const TOTAL_BYTES: usize = 4;
/// The smallest part that is cut off to fill a datagram: what a part costs on both sides, some 100 ns, is what so many bytes
/// of a datagram cost.
const FILLING_BYTES_MIN: usize = 32;

/// The parts of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many.
    pub(super) count: usize,
    /// Bytes of the first.
    pub(super) first_bytes: usize,
    /// Bytes of each of the others but the last.
    pub(super) part_bytes: usize,
}

/// Room in the datagram that the newest of what waits will go in, if all of it goes at once.
#[derive(Debug, Default)]
pub(super) struct Room(usize);

impl Room {
    /// `segment` joins what waits.
    pub(super) fn take(&mut self, segment: &Segment<'_>, config: &Config) {
        let takes = segment.wire_bytes();
        let room = if takes <= self.0 {
            self.0
        } else {
            Segment::HEADER_BYTES + segment_bytes(config)
        };
        self.0 = room.saturating_sub(takes);
    }

    /// How a message of `len` bytes is cut that joins what waits. In a coded stream the parts are alike: a short last one would
    /// cost as much parity as a full one. In others the first one fills the datagram that is not full yet.
    pub(super) fn cut(&self, len: usize, is_coded: bool, config: &Config) -> Cut {
        let most = segment_bytes(config);
        if len <= most {
            return Cut {
                count: 1,
                first_bytes: len,
                part_bytes: 0,
            };
        }
        if is_coded {
            let count = (len + TOTAL_BYTES).div_ceil(most);
            // Even, since shards are.
            let part_bytes = (len + TOTAL_BYTES).div_ceil(count).next_multiple_of(2);
            return Cut {
                count,
                first_bytes: part_bytes - TOTAL_BYTES,
                part_bytes,
            };
        }
        let filling = self.0.saturating_sub(Segment::HEADER_BYTES + TOTAL_BYTES);
        let first_bytes = if filling >= FILLING_BYTES_MIN {
            filling
        } else {
            most - TOTAL_BYTES
        };
        Cut {
            count: 1 + (len - first_bytes).div_ceil(most),
            first_bytes,
            part_bytes: most,
        }
    }
}

/// Longest message that `config` can send: the protocol's limit, or what the send window holds if that is less.
pub(in crate::proto) fn message_bytes_max(config: &Config) -> usize {
    MESSAGE_BYTES_MAX.min(config.send_window_len.as_len() / 2 * segment_bytes(config) - TOTAL_BYTES)
}

/// How many bytes of a message a datagram holds.
fn segment_bytes(config: &Config) -> usize {
    // Even, so that a shard of the longest segment fits in a parity datagram, too (R-FEC-2).
    (config.written_bytes() - SINGLE_DATA_OVERHEAD_BYTES) & !1
}

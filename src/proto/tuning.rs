//! Every number that decides how fast and how often is asked, answered and told again, in one place. Those that a floor or
//! an experiment may choose are fields of [`Tuning`]; the rest are constants. `tests/golden/` holds what they bring: a
//! number is changed together with the table that says why.

use std::time::Duration;

use super::config::Rate;
use crate::wire::BLOCK_LEN;

/// How long receivers wait before they ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Not at all, until losses turn out to be common (R-BACK-3).
    Adaptive,
    /// Up to this long, always.
    Fixed(Duration),
}

/// Parity for coded streams, which are those of the bulk lane (R-FEC-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fec {
    /// None: lost segments are sent again.
    Off,
    /// On request, and unasked as often as the last blocks needed it.
    Measured,
    /// On request, and this many shards unasked behind every block.
    Proactive(u8),
}

/// What may be chosen of the repair machine. [`Tuning::RECOMMENDED`] is what a floor gets; the other values are there to
/// find out what a choice is worth, and for other systems' constants beside ours in `tests/golden/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long receivers wait before they ask.
    pub backoff: Backoff,
    /// The group size told to receivers; `None`: what the roster knows.
    pub group_size: Option<u64>,
    /// How many receivers ask at once while a back-off holds for the others (R-SCOUT-1). Eight: a common loss is missed by
    /// all of them once in 10^10 at 5 % loss of NACKs, and eight NACKs are less than the ten that a source bears gladly.
    pub scouts: u8,
    /// First heartbeat after the last data: a quarter of a LAN's slow round trip, so that a lost last message is found
    /// within a millisecond (others: 100 ms to 1 s). Doubles from there (R-HB-2).
    pub heartbeat_first_ns: u64,
    /// Whether the last small datagram goes out again with the first heartbeats, and emergencies once more (R-COPY-1).
    pub copies: bool,
    /// How long a source gathers NACKs before it repairs. Zero: a lone loser is served at once, and hold-off gathers the
    /// others.
    pub aggregation_ns: u64,
    /// Shortest hold-off (R-HOLD-1): a repair that was sent this long ago is on the wire or in a receiver's queue.
    pub hold_off_min_ns: u64,
    /// Whether a repair for one receiver goes to all.
    pub is_multicast_only: bool,
    /// First wait for a repair: longer than the source's shortest hold-off, or the next NACK would fall into it (R-NACK-4).
    pub retry_min_ns: u64,
    /// Gaps that one NACK may name (R-NACK-3).
    pub gaps_per_nack: usize,
    /// Parity.
    pub fec: Fec,
}

impl Tuning {
    /// What a floor gets.
    pub const RECOMMENDED: Self = Self {
        backoff: Backoff::Adaptive,
        group_size: None,
        scouts: 8,
        heartbeat_first_ns: 250_000,
        copies: true,
        aggregation_ns: 0,
        hold_off_min_ns: 500_000,
        is_multicast_only: false,
        retry_min_ns: 750_000,
        gaps_per_nack: usize::MAX,
        fec: Fec::Measured,
    };
}

/// Longest silence of a source that has something to repair (R-HB-2).
pub(super) const HEARTBEAT_MAX_NS: u64 = 1_000_000_000;
/// Under steady data a heartbeat still goes out this often: it carries the clock for GRTT (R-HB-3).
pub(super) const HEARTBEAT_STEADY_NS: u64 = 20_000_000;
/// Pauses between new data up to this are a pace: the next data is expected after as long again (R-HB-4). Longer than that,
/// nobody should be left without word for it.
pub(super) const PACED_MAX_NS: u64 = 2_000_000;
/// Gaps between the heartbeats that say a session has ended: three of them, so that losing two does not matter (R-END-1).
pub(super) const CLOSING_GAPS_NS: [u64; 3] = [0, 1_000_000, 3_000_000];
/// Numbers one NACK may ask for. More is cut off; what is still missing is asked for again (R-NACK-6).
pub(super) const NUMBERS_PER_NACK_MAX: u64 = 4_096;

/// Longest wait between two NACKs for the same gap: four a second while a source cannot answer.
pub(super) const RETRY_MAX_NS: u64 = 250_000_000;
/// NACKs for a gap before the wait doubles. At 20 % loss each way a round fails four times in ten; eight failures in a row
/// (7 in 10,000) are no longer loss but congestion, or a source that is gone. With three, 200 agents at 20 % loss stood
/// still for half a second now and then.
pub(super) const RETRIES_FLAT: u8 = 8;
/// The longest time that a repair may take to come, from when it was first asked for, and count as what it usually takes:
/// further away than anything on a campus. Whoever waited longer was cut off.
pub(super) const ANSWER_MAX_NS: u64 = 50_000_000;
/// The robust factor: how often a gap is asked for before it is given up (R-NACK-5). At the longest wait this is about a
/// quarter of a minute, far longer than any repair that a source is able to make.
pub(super) const ROBUST_FACTOR: u8 = 64;
/// But not while the source still repairs this stream for us: a repair within this time, eight of the longest waits, says
/// that it has much to do, not that it has nothing to give.
pub(super) const ANSWERED_NS: u64 = 8 * RETRY_MAX_NS;

/// Shortest time between two reports of one stream (R-REP-2).
pub(super) const REPORT_GAP_MIN_NS: u64 = 5_000_000;
/// Longest time between two reports of one stream while it moves.
const REPORT_GAP_MAX_NS: u64 = 2_000_000_000;
/// Time between two reports for each receiver of the group: the whole group sends at most 10,000 a second.
const REPORT_GAP_PER_RECEIVER_NS: u64 = 100_000;
/// Time between two reports of one stream by one of `receivers` (R-REP-2).
pub(super) fn report_gap_ns(receivers: u64) -> u64 {
    receivers
        .saturating_mul(REPORT_GAP_PER_RECEIVER_NS)
        .clamp(REPORT_GAP_MIN_NS, REPORT_GAP_MAX_NS)
}
/// Segments since the last report after which the next one comes early: an eighth of what a quorum of the smallest send
/// window lets a source send (half of 4 MiB, at 256 bytes a segment). Much less would be reported for nothing.
pub(super) const REPORT_AFTER_LEN: u64 = 1_024;
/// Then the group's bound on reports alone holds them apart, and this: a source is held up no longer than a round trip.
const REPORT_GAP_URGENT_NS: u64 = 250_000;
/// Time between two reports of one stream by one of `receivers` that so much comes to (R-REP-2).
pub(super) fn urgent_report_gap_ns(receivers: u64) -> u64 {
    receivers
        .saturating_mul(REPORT_GAP_PER_RECEIVER_NS)
        .clamp(REPORT_GAP_URGENT_NS, REPORT_GAP_MAX_NS)
}
/// Spread of the first reports after a quiet time for each receiver of the group: 500 answer within 2.5 ms, at the 200,000
/// datagrams a second that one thread can take in.
pub(super) const REPORT_SPREAD_PER_RECEIVER_NS: u64 = 5_000;
/// Longest spread: a source that claims a billion receivers is not believed.
pub(super) const REPORT_SPREAD_MAX_NS: u64 = 100_000_000;

/// Longest back-off: what a source may advertise, and what a receiver heeds. Ten times the longest round trip on which a
/// floor still talks of a LAN.
pub(super) const BACKOFF_MAX_NS: u64 = 100_000_000;
/// NACKs for one loss that a source bears without raising the back-off: a handful costs it less than a lone loser's wait
/// costs the floor (R-BACK-3).
pub(super) const NACKS_PER_EVENT_MAX: usize = 10;
/// The back-off that says no more than that scouts ask first: the shortest that can be told.
pub(super) const SCOUTS_ONLY_NS: u64 = 1_000;
/// Losses after which the back-off is thought over (R-BACK-3).
pub(super) const QUIET_EVENTS: u8 = 8;
/// Of those, so many asked for each on average beside the scouts, or fewer: it is halved. Half the back-off brings twice the
/// requests at most, which is well below [`NACKS_PER_EVENT_MAX`] still.
pub(super) const QUIET_ASKS: usize = 3;
/// Time without any common loss after which the back-off is halved too.
pub(super) const QUIET_NS: u64 = 5_000_000_000;
/// Where giving up turned out to be wrong, that takes so many times as much the next time, and no more than this.
pub(super) const TRUST_STEP: u64 = 16;
/// See [`TRUST_STEP`].
pub(super) const TRUST_MAX: u64 = 256;
/// And after which it is given up altogether, and the scouts with it: what a floor loses in common once in some minutes
/// (a trunk that flaps, an IGMP querier that has moved) it loses again.
pub(super) const TRUST_NS: u64 = 600_000_000_000;
/// Receivers from which on scouts are named: fewer are no more than a source bears.
pub(super) const SCOUTS_FROM: u64 = NACKS_PER_EVENT_MAX as u64 + 1;
/// What the others wait beside their draw, in quarters of GRTT: long enough for a repair that a scout asked for to be
/// there first (R-SCOUT-2).
pub(super) const SCOUTS_FIRST_QUARTERS: u64 = 5;
/// How often scouts are chosen anew, so that those who have left are replaced.
pub(super) const SCOUTS_EVERY_NS: u64 = 1_000_000_000;

/// How often they are named, with a heartbeat: nine words of that may be lost before receivers forget. Eight ids are as long
/// as the heartbeat itself, of which a slow stream sends thousands a second.
pub(super) const SCOUTS_TELL_NS: u64 = 200_000_000;
/// How long what was said of scouts holds.
pub(super) const SCOUTS_HOLD_NS: u64 = 2 * HEARTBEAT_MAX_NS;

/// A round-trip time that a source claims is believed down to this: below, its heartbeats could draw NACKs without end
/// (R-GRTT-4).
pub(super) const GRTT_FLOOR_NS: u64 = 100_000;
/// And up to this: whatever it claims, a gap is asked for again within seconds.
pub(super) const GRTT_CAP_NS: u64 = 1_000_000_000;
/// What a source assumes before the first echo: five times a busy LAN's round trip.
pub(super) const GRTT_INITIAL_NS: u64 = 1_000_000;

/// What may go out back to back before the rate bites: 46 datagrams of 1,400 bytes fit in the smallest receive buffer
/// that a stock Linux grants (208 KiB, of which each datagram takes about 2.3 KiB).
pub(super) const BURST_BYTES: u64 = 64 * 1_024;
/// Or as much as comes in this time, nanoseconds, if that is more: what fills two batches of 128 datagrams at the highest rate there
/// is. Only above 17 Gbit/s, which is a loop's own memory and no cable of a floor: whoever sends so has its pace from a quorum.
const BURST_NS: u64 = 30_000;
/// What of new data may go out back to back at `rate`.
pub(super) const fn burst_bytes(rate: Rate) -> u64 {
    let in_time = rate.get() / 1_000 * BURST_NS / 1_000_000;
    if in_time > BURST_BYTES {
        in_time
    } else {
        BURST_BYTES
    }
}
/// What one endpoint may send to sources in answer, bytes a second: 2 % of the recommended rate. A receiver that loses
/// every fifth datagram of 20,000 a second stays below it; whatever is forged, no more than this comes out (R-NACK-7).
pub(super) const ANSWER_RATE: u64 = 500_000;
/// Answers that may go out at once: a full NACK for each of twenty streams.
pub(super) const ANSWER_BURST_BYTES: u64 = 32 * 1_024;

/// Largest segment that is worth sending again unasked: half a datagram. What is larger costs more than its NACK.
pub(super) const COPY_BYTES_MAX: usize = 700;
/// Share of the data rate that copies may take: one part in so many (R-COPY-3). At the recommended rate that is 3,400
/// notices of 300 bytes a second, as many as there can be with the pause between them that a copy needs.
pub(super) const COPY_RATE_SHARE: u64 = 20;
/// Bytes a second that they may take at most, however fast the source: what is said does not grow with the cable.
pub(super) const COPY_RATE_MAX: u64 = 1_250_000;
/// Datagrams in a row, without such a pause, whose copies ride in the next one: what a person says is a few datagrams, and
/// what is a stream shows its losses by itself.
pub(super) const COPY_ROW_LEN: u32 = 8;
/// Copies that may go out at once.
pub(super) const COPY_BURST_BYTES: u64 = 16 * 1_024;
/// The share of the copies' rate that second copies may take: one part in so many. What is said now and then gets both, 150
/// notices of 300 bytes a second; where one follows the other, the first copy mends all but one loss in a thousand at 0.1 %.
pub(super) const COPY_AGAIN_SHARE: u64 = 20;
/// Heartbeats that carry the last small datagram again: those at 0.25 and 0.5 ms. At 1 % loss one message in 10^6 is
/// lost three times in a row.
pub(super) const COPIES_PER_TAIL: u8 = 2;
/// An emergency goes out again after this: longer than a switch drops in a row, shorter than anybody notices (R-COPY-2).
pub(super) const EMERGENCY_AGAIN_NS: u64 = 10_000_000;

/// NACKs a second that a source takes from one receiver: what [`ANSWER_RATE`] allows it to send (R-BUDGET-1).
pub(super) const NACKS_PER_RECEIVER_PER_S: u64 = ANSWER_RATE / 80;
/// NACKs that one receiver may send at once.
pub(super) const NACK_BURST: u64 = 512;
/// Numbers of a NACK that count as one NACK more: asking for many is work, too.
pub(super) const NUMBERS_PER_NACK_UNIT: u64 = 64;
/// What a request for parity counts for each block that it names, as NACKs: the block may have to be encoded for it.
pub(super) const UNITS_PER_BLOCK: u64 = 8;
/// The share of the repair rate that one receiver may draw before it has to stand back: one part in so many (R-BUDGET-2).
/// What nobody else wants it gets all the same.
pub(super) const REPAIR_SHARE_MAX: u64 = 16;
/// Repairs that one receiver may draw at once before it stands back: a quarter of what the repair bucket holds, so that
/// the others never wait behind it. More than a dozen full datagrams in a row are rarely one receiver's loss alone.
pub(super) const REPAIR_BURST_BYTES: u64 = BURST_BYTES / 4;
/// The same as a length.
#[expect(clippy::cast_possible_truncation, reason = "16 KiB")]
pub(super) const REPAIR_BURST_BYTES_LEN: usize = REPAIR_BURST_BYTES as usize;
/// Repairs that stand back on a protected floor: so many datagrams at a time, 34 us on a gigabit, by which others' may be late.
pub(super) const LAST_LEN: usize = 3;
/// And no more often than this: they take a quarter of the small trains that a source may sign, and 4 MB a second, which brings
/// back a minute of the recommended rate in six.
pub(super) const LAST_EVERY_NS: u64 = 1_000_000;
/// Receivers that a source keeps accounts of: as many as the roster holds.
pub(super) const ACCOUNTS_MAX: usize = 20_000;

/// A receiver that holds back a quorum for this long without coming on leaves the pace (R-FLOW-3).
pub(super) const PATIENCE_NS: u64 = 500_000_000;
/// How often the source looks who is behind.
pub(super) const PACE_EVERY_NS: u64 = 100_000_000;
/// How often a station is told of a change of its pace, look by look: whoever cannot keep up loses most datagrams.
pub(super) const PACE_TIMES: u8 = 10;
/// Whoever is still behind is told so again after this.
pub(super) const PACE_AGAIN_NS: u64 = 1_000_000_000;
/// How often the rate is set anew where the floor lets it follow reported loss (R-FLOW-4).
pub(super) const AIMD_EVERY_NS: u64 = 100_000_000;
/// Reported loss above which the rate is halved, parts in a thousand: what parity mends at 7 % more bytes.
pub(super) const AIMD_LOSS_PER_MILLE: u64 = 20;
/// Receivers that may lose more than that without slowing the floor, parts in a hundred.
pub(super) const AIMD_EXCEPT_PERCENT: usize = 10;
/// Steps from the lowest rate to the configured one; the lowest is one step.
pub(super) const AIMD_STEPS: u64 = 32;

/// Numbers of one request that are watched as one loss; what asks for more speaks of itself, not of a loss.
pub(super) const LOSS_LEN_MAX: u64 = 256;
/// Losses that are being watched at a time; the oldest is judged early when there are more.
pub(super) const EVENTS_MAX: usize = 32;
/// Receivers remembered by name for one loss; further ones are only counted.
pub(super) const ASKERS_MAX: usize = 64;

/// How long the gap in an unfinished block waits for the next segment of the block at least before it is asked for
/// (R-NEED-2): as long as more comes, one request at its end speaks for all that it lacks. Parity of half a block is of no
/// use to the whole.
pub(super) const BLOCK_WAIT_NS: u64 = 2_000_000;
/// It waits for so many times the longest pause within the last block or so: the stream may well go on, and one segment
/// that is lost makes a pause of two.
pub(super) const BLOCK_WAIT_PAUSES: u64 = 4;
/// Pauses longer than this are none of the stream's pace: what comes so seldom is not waited for.
pub(super) const BLOCK_PAUSE_MAX_NS: u64 = 20_000_000;
/// A gap is put off no longer than this, whatever still comes: what stands behind it waits, too.
pub(super) const BLOCK_WAIT_MAX_NS: u64 = 100_000_000;
/// Parity shards that go out unasked at most, where losses are measured: a quarter of a block. What needs more is not
/// loss but a broken cable.
pub(super) const PROACTIVE_MAX: u8 = 16;
/// Blocks after which the number of unasked shards is judged anew.
pub(super) const PROACTIVE_BLOCKS: u8 = 8;
/// Of those blocks: so many needed more, and one more shard goes out unasked; so few, and one less.
pub(super) const PROACTIVE_MORE: u8 = 7;
/// See [`PROACTIVE_MORE`].
pub(super) const PROACTIVE_LESS: u8 = 3;
/// Blocks whose parity is kept at hand, 64 shards of a datagram each: some 700 KiB.
pub(super) const PARITY_CACHE_LEN: usize = 8;
/// Requests for parity of receivers that stand back, waiting to be served. Further ones are asked again.
pub(super) const ALONE_MAX: usize = 1_024;
/// Requests for parity after which a gap's numbers are asked for one by one: a source that has begun its shards anew may
/// send those that are here already, one for each request.
pub(super) const PARITY_ASKS_MAX: u8 = 16;
/// Blocks a receiver keeps parity of, at most: what it may lag behind by repairs in flight at the recommended rate.
pub(super) const SHARD_SETS_MAX: usize = 256;
/// [`BLOCK_LEN`] as a count of shards.
#[expect(clippy::cast_possible_truncation, reason = "64")]
pub(super) const BLOCK_SHARDS: usize = BLOCK_LEN as usize;

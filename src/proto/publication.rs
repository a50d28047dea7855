//! One stream as its source keeps it: the send window, what is not yet sent, what is to be repaired, when the next
//! heartbeat is due.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::time::Timestamp;
use crate::wire::{
    Advert, MESSAGE_BYTES_MAX, Place, QuantDuration, Segment, SeqNo, SeqRange, StreamId,
};

use super::config::Config;
use super::transmit::Destination;

/// First heartbeat after the last data: a quarter of a LAN's slow round trip, so that a lost last message is found
/// within a millisecond (others: 100 ms to 1 s). Doubles from there (R-HB-2).
const HEARTBEAT_FIRST_NS: u64 = 250_000;
/// Longest silence of a source that has something to repair (R-HB-2).
pub(super) const HEARTBEAT_MAX_NS: u64 = 1_000_000_000;
/// Under steady data a heartbeat still goes out this often: it carries the clock for GRTT (R-HB-3).
const HEARTBEAT_STEADY_NS: u64 = 20_000_000;
/// Gaps between the heartbeats that say a session has ended: three of them, so that losing two does not matter (R-END-1).
const CLOSING_GAPS_NS: [u64; 3] = [0, 1_000_000, 3_000_000];
/// Numbers one NACK may ask for. More is cut off; what is still missing is asked for again (R-NACK-6).
const NUMBERS_PER_NACK_MAX: u64 = 4_096;

/// A segment kept for sending and repair.
#[derive(Debug)]
struct Slot {
    place: Place,
    payload: Bytes,
    repair: Repair,
}

/// Where a segment stands in its repair cycle.
#[derive(Clone, Copy, Debug)]
enum Repair {
    Idle,
    Queued(Destination),
    Sent(Timestamp, Destination),
}

/// What a NACK brought about, for the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NackOutcome {
    /// Asked for again within the hold-off.
    pub(super) held_off: u64,
    /// Asked for, but never sent.
    pub(super) unknown: u64,
    /// Whether it asked for what the window no longer holds.
    pub(super) below_trail: bool,
    /// Whether it asked for more than one NACK may.
    pub(super) over_budget: bool,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    TooLarge { max: usize },
    Window,
}

/// One stream as its source keeps it.
///
/// Invariant: `slots` holds exactly the numbers `trail..next`, and `trail <= unsent <= next`.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) stream: StreamId,
    started: Timestamp,
    slots: VecDeque<Slot>,
    bytes: usize,
    unsent_bytes: usize,
    trail: SeqNo,
    unsent: SeqNo,
    /// Numbers with `Repair::Queued`, in the order they were asked for.
    repairs: VecDeque<SeqNo>,
    heartbeat_due: Timestamp,
    heartbeat_gap_ns: u64,
    heartbeat_sent: Timestamp,
    /// How many closing heartbeats have been sent; `None` while open.
    closing: Option<usize>,
}

impl Publication {
    pub(super) fn new(stream: StreamId, now: Timestamp) -> Self {
        Self {
            stream,
            started: now,
            slots: VecDeque::new(),
            bytes: 0,
            unsent_bytes: 0,
            trail: SeqNo::ZERO,
            unsent: SeqNo::ZERO,
            repairs: VecDeque::new(),
            heartbeat_due: Timestamp::FAR_FUTURE,
            heartbeat_gap_ns: HEARTBEAT_FIRST_NS,
            heartbeat_sent: now,
            closing: None,
        }
    }

    pub(super) const fn trail(&self) -> SeqNo {
        self.trail
    }

    /// One after the newest number sent.
    pub(super) const fn unsent(&self) -> SeqNo {
        self.unsent
    }

    fn next(&self) -> SeqNo {
        self.trail.plus(self.slots.len() as u64)
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.unsent < self.next()
    }

    pub(super) fn has_repairs(&self) -> bool {
        !self.repairs.is_empty()
    }

    pub(super) fn advert(&self, now: Timestamp, backoff: QuantDuration) -> Advert {
        Advert {
            trail: self.trail,
            backoff,
            age: self.age(now),
        }
    }

    pub(super) fn age(&self, now: Timestamp) -> QuantDuration {
        QuantDuration::at_most(Duration::from_nanos(now.nanos_since(self.started)))
    }

    /// Whether a message of `len` bytes would be accepted now.
    pub(super) fn accepts(&self, len: usize, config: &Config) -> Result<(), Full> {
        let max = message_bytes_max(config);
        if len > max {
            return Err(Full::TooLarge { max });
        }
        let waiting = self.next().since(self.unsent);
        let len_max = config.send_window_len.get();
        let bytes_max = config.send_window_bytes.as_len();
        if waiting + segments(len, config) as u64 > len_max || self.unsent_bytes + len > bytes_max {
            return Err(Full::Window);
        }
        Ok(())
    }

    /// Takes a message in, cut into segments (R-SEG-2); the oldest that have been sent make room. Returns its numbers
    /// and how many left the window.
    pub(super) fn publish(
        &mut self,
        payload: Bytes,
        config: &Config,
    ) -> Result<(SeqRange, u64), Full> {
        self.accepts(payload.len(), config)?;
        let count = segments(payload.len(), config);
        let evicted = self.make_room(count, payload.len(), config);
        let first = self.next();
        self.bytes += payload.len();
        self.unsent_bytes += payload.len();
        if count == 1 {
            self.slots.push_back(Slot {
                place: Place::Whole,
                payload,
                repair: Repair::Idle,
            });
        } else {
            self.cut(payload, segment_bytes(config));
        }
        let range = SeqRange::new(first, self.next()).expect("at least one segment was added");
        Ok((range, evicted))
    }

    fn cut(&mut self, mut payload: Bytes, segment_bytes: usize) {
        let total = u32::try_from(payload.len()).expect("messages are at most 1 MiB");
        let head = payload.split_to(segment_bytes - 4);
        self.slots.push_back(Slot {
            place: Place::First { total },
            payload: head,
            repair: Repair::Idle,
        });
        while payload.len() > segment_bytes {
            let part = payload.split_to(segment_bytes);
            self.slots.push_back(Slot {
                place: Place::Middle,
                payload: part,
                repair: Repair::Idle,
            });
        }
        self.slots.push_back(Slot {
            place: Place::Last,
            payload,
            repair: Repair::Idle,
        });
    }

    /// Evicts from the trail until `count` more segments of `bytes` fit (R-WIN-1); how many. Nothing is evicted unsent.
    fn make_room(&mut self, count: usize, bytes: usize, config: &Config) -> u64 {
        let len_max = config.send_window_len.as_len();
        let bytes_max = config.send_window_bytes.as_len();
        let mut evicted = 0;
        while self.slots.len() + count > len_max || self.bytes + bytes > bytes_max {
            let slot = self
                .slots
                .pop_front()
                .expect("what is unsent fits, so there is something sent to evict");
            self.bytes -= slot.payload.len();
            self.trail = self.trail.plus(1);
            evicted += 1;
        }
        evicted
    }

    fn slot(&self, seq: SeqNo) -> Option<&Slot> {
        self.slots
            .get(usize::try_from(seq.0.checked_sub(self.trail.0)?).ok()?)
    }

    fn slot_mut(&mut self, seq: SeqNo) -> Option<&mut Slot> {
        self.slots
            .get_mut(usize::try_from(seq.0.checked_sub(self.trail.0)?).ok()?)
    }

    /// The next segment to send for the first time.
    pub(super) fn peek_unsent(&self) -> Option<(SeqNo, Segment<'_>)> {
        self.slot(self.unsent)
            .map(|slot| (self.unsent, slot.segment()))
    }

    /// The segment that `peek_unsent` gave has been sent; anything sent again is a repair (R-DATA-1).
    pub(super) fn mark_sent(&mut self, now: Timestamp) {
        self.unsent_bytes -= self.slot(self.unsent).map_or(0, |slot| slot.payload.len());
        self.unsent = self.unsent.plus(1);
        // Heartbeats start anew behind the last data, but under steady data one still goes out now and then.
        self.heartbeat_gap_ns = HEARTBEAT_FIRST_NS;
        let soon = now.plus_nanos(HEARTBEAT_FIRST_NS);
        self.heartbeat_due = match self.closing {
            None => soon
                .min(self.heartbeat_sent.plus_nanos(HEARTBEAT_STEADY_NS))
                .max(now),
            Some(_) if self.has_unsent() => Timestamp::FAR_FUTURE,
            Some(_) => now,
        };
    }

    /// The next segment to repair, and for whom. What has left the window meanwhile is dropped.
    pub(super) fn peek_repair(&mut self) -> Option<(SeqNo, Destination)> {
        while let Some(&seq) = self.repairs.front() {
            if let Some(&Slot {
                repair: Repair::Queued(to),
                ..
            }) = self.slot(seq)
            {
                return Some((seq, to));
            }
            self.repairs.pop_front();
        }
        None
    }

    pub(super) fn segment(&self, seq: SeqNo) -> Option<Segment<'_>> {
        self.slot(seq).map(Slot::segment)
    }

    /// The segment that `peek_repair` gave has been sent.
    pub(super) fn mark_repaired(&mut self, now: Timestamp) {
        if let Some(seq) = self.repairs.pop_front()
            && let Some(slot) = self.slot_mut(seq)
            && let Repair::Queued(to) = slot.repair
        {
            slot.repair = Repair::Sent(now, to);
        }
    }

    /// Queues what a NACK asks for, unless it was repaired within the hold-off (R-HOLD-1).
    pub(super) fn handle_nack(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        ranges: impl Iterator<Item = SeqRange>,
        hold_off_ns: u64,
    ) -> NackOutcome {
        let mut outcome = NackOutcome::default();
        let mut budget = NUMBERS_PER_NACK_MAX;
        let sent = SeqRange::new(self.trail, self.unsent);
        for range in ranges {
            outcome.below_trail |= range.first() < self.trail;
            outcome.unknown += range.end().since(self.unsent.max(range.first()));
            for seq in sent
                .and_then(|sent| sent.intersect(range))
                .into_iter()
                .flat_map(SeqRange::iter)
            {
                if budget == 0 {
                    outcome.over_budget = true;
                    return outcome;
                }
                budget -= 1;
                outcome.held_off += u64::from(!self.ask(now, from, seq, hold_off_ns));
            }
        }
        outcome
    }

    /// One receiver asks for one number; false when that is held off.
    fn ask(&mut self, now: Timestamp, from: SocketAddr, seq: SeqNo, hold_off_ns: u64) -> bool {
        let group = Destination::Group(self.stream.group());
        let requester = Destination::Unicast(from);
        let Some(slot) = self.slot_mut(seq) else {
            return false;
        };
        let to = match slot.repair {
            // One receiver alone asks (R-REPAIR-1).
            Repair::Idle => requester,
            // A second receiver lacks it: the loss is common enough for multicast (R-REPAIR-2).
            Repair::Queued(to) => {
                if to != requester {
                    slot.repair = Repair::Queued(group);
                }
                return true;
            }
            Repair::Sent(at, to) if now.nanos_since(at) < hold_off_ns => {
                // On its way to somebody else alone: this one has to be answered too, and others may follow.
                if to == group || to == requester {
                    return false;
                }
                group
            }
            Repair::Sent(..) => requester,
        };
        slot.repair = Repair::Queued(to);
        self.repairs.push_back(seq);
        true
    }

    /// When a heartbeat is due; never before anything was sent (R-HB-1).
    pub(super) const fn heartbeat_due(&self) -> Timestamp {
        self.heartbeat_due
    }

    /// A heartbeat has been sent: the next one follows after twice the time (R-HB-2).
    pub(super) fn mark_heartbeat(&mut self, now: Timestamp) {
        self.heartbeat_sent = now;
        match &mut self.closing {
            Some(sent) => {
                *sent += 1;
                self.heartbeat_due = CLOSING_GAPS_NS
                    .get(*sent)
                    .map_or(Timestamp::FAR_FUTURE, |&gap| now.plus_nanos(gap));
            }
            None => {
                self.heartbeat_due = now.plus_nanos(self.heartbeat_gap_ns);
                self.heartbeat_gap_ns = (self.heartbeat_gap_ns * 2).min(HEARTBEAT_MAX_NS);
            }
        }
    }

    /// Nothing more will be published: the closing heartbeats begin once all of it has been sent (R-END-1).
    pub(super) fn close(&mut self, now: Timestamp) {
        if self.closing.is_none() {
            self.closing = Some(0);
            self.heartbeat_due = if self.has_unsent() {
                Timestamp::FAR_FUTURE
            } else {
                now
            };
        }
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether the last closing heartbeat has been sent.
    pub(super) fn is_closed(&self) -> bool {
        self.closing
            .is_some_and(|sent| sent >= CLOSING_GAPS_NS.len())
    }
}

/// How many segments a message of `len` bytes takes (R-SEG-2).
fn segments(len: usize, config: &Config) -> usize {
    let segment_bytes = segment_bytes(config);
    if len <= segment_bytes {
        1
    } else {
        (len + 4).div_ceil(segment_bytes)
    }
}

/// Longest message that `config` can send: the protocol's limit, or what the send window holds if that is less.
pub(super) fn message_bytes_max(config: &Config) -> usize {
    MESSAGE_BYTES_MAX.min(config.send_window_len.as_len() * segment_bytes(config) - 4)
}

/// How many bytes of a message a datagram holds.
const fn segment_bytes(config: &Config) -> usize {
    config.datagram_bytes.as_len() - crate::wire::SINGLE_DATA_OVERHEAD_BYTES
}

impl Slot {
    fn segment(&self) -> Segment<'_> {
        Segment {
            place: self.place,
            payload: &self.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FloorId, GroupId, Lane, SessionId, SourceId};

    fn config() -> Config {
        let mut config = Config::new(FloorId(1), SourceId(1), SessionId(1));
        config.send_window_len = super::super::SendWindowLen::try_from(1_024).unwrap();
        config
    }

    fn publication(sent: u64) -> Publication {
        let mut publication =
            Publication::new(StreamId::new(GroupId(1), Lane::Routine), Timestamp::ZERO);
        for _ in 0..sent {
            publication
                .publish(Bytes::from_static(b"x"), &config())
                .unwrap();
            publication.mark_sent(Timestamp::ZERO);
        }
        publication
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn range(first: u64, end: u64) -> SeqRange {
        SeqRange::new(SeqNo(first), SeqNo(end)).unwrap()
    }

    #[test]
    fn messages_are_cut_at_every_boundary() {
        let segment = 1_400 - crate::wire::SINGLE_DATA_OVERHEAD_BYTES;
        for (len, segments) in [
            (0, 1),
            (segment, 1),
            (segment + 1, 2),
            (2 * segment - 4, 2),
            (2 * segment - 3, 3),
            (
                MESSAGE_BYTES_MAX,
                (MESSAGE_BYTES_MAX + 4).div_ceil(segment) as u64,
            ),
        ] {
            let mut publication = publication(0);
            let (range, _) = publication
                .publish(Bytes::from(vec![7; len]), &config())
                .unwrap();
            assert_eq!(range.len(), segments, "{len}");
            let total: usize = range
                .iter()
                .map(|seq| publication.segment(seq).unwrap().payload.len())
                .sum();
            assert_eq!(total, len);
        }
        assert_eq!(
            publication(0).publish(Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]), &config()),
            Err(Full::TooLarge {
                max: MESSAGE_BYTES_MAX
            })
        );
    }

    #[test]
    fn the_window_evicts_what_was_sent_and_refuses_past_what_was_not() {
        let mut publication = publication(1_024);
        let (_, evicted) = publication
            .publish(Bytes::from_static(b"y"), &config())
            .unwrap();
        assert_eq!((evicted, publication.trail()), (1, SeqNo(1)));
        for _ in 0..1_023 {
            publication
                .publish(Bytes::from_static(b"z"), &config())
                .unwrap();
        }
        assert_eq!(publication.trail(), SeqNo(1_024));
        assert_eq!(
            publication.publish(Bytes::from_static(b"z"), &config()),
            Err(Full::Window)
        );
    }

    #[test]
    fn one_asker_is_answered_alone_and_two_by_multicast() {
        let mut publication = publication(10);
        let now = Timestamp::ZERO;
        publication.handle_nack(now, addr(1), [range(3, 4)].into_iter(), 1_000);
        assert_eq!(
            publication.peek_repair(),
            Some((SeqNo(3), Destination::Unicast(addr(1))))
        );
        publication.handle_nack(now, addr(2), [range(3, 4)].into_iter(), 1_000);
        assert_eq!(
            publication.peek_repair(),
            Some((SeqNo(3), Destination::Group(GroupId(1))))
        );
        publication.mark_repaired(now);
        assert_eq!(publication.peek_repair(), None);
    }

    #[test]
    fn repeats_within_the_hold_off_are_not_repaired_again() {
        let mut publication = publication(10);
        let at = Timestamp::from_nanos;
        publication.handle_nack(at(0), addr(1), [range(3, 4)].into_iter(), 1_000);
        publication.mark_repaired(at(0));
        let again = publication.handle_nack(at(999), addr(1), [range(3, 4)].into_iter(), 1_000);
        assert_eq!((again.held_off, publication.peek_repair()), (1, None));
        publication.handle_nack(at(999), addr(2), [range(3, 4)].into_iter(), 1_000);
        assert_eq!(
            publication.peek_repair(),
            Some((SeqNo(3), Destination::Group(GroupId(1))))
        );
        publication.mark_repaired(at(999));
        publication.handle_nack(at(1_999), addr(1), [range(3, 4)].into_iter(), 1_000);
        assert_eq!(
            publication.peek_repair(),
            Some((SeqNo(3), Destination::Unicast(addr(1))))
        );
    }

    #[test]
    fn absurd_nacks_cost_a_bounded_amount() {
        let mut publication = publication(1_000);
        let outcome = publication.handle_nack(
            Timestamp::ZERO,
            addr(1),
            [range(0, 10), range(900, u64::MAX / 4)].into_iter(),
            1_000,
        );
        assert_eq!(outcome.unknown, u64::MAX / 4 - 1_000);
        assert_eq!(publication.repairs.len(), 110);
        let mut evicted = self::publication(1_030);
        assert!(
            evicted
                .handle_nack(Timestamp::ZERO, addr(1), [range(0, 3)].into_iter(), 1)
                .below_trail
        );
        assert!(!evicted.has_repairs());
    }

    #[test]
    fn heartbeats_decay_and_closing_ends() {
        let mut publication = publication(1);
        let mut times = Vec::new();
        for _ in 0..15 {
            let due = publication.heartbeat_due();
            times.push(due.as_nanos() / 1_000);
            publication.mark_heartbeat(due);
        }
        assert_eq!(times[..4], [250, 500, 1_000, 2_000]);
        assert_eq!(times[14] - times[13], 1_000_000);
        publication.close(Timestamp::FAR_FUTURE);
        for _ in 0..3 {
            assert!(!publication.is_closed());
            publication.mark_heartbeat(publication.heartbeat_due());
        }
        assert!(publication.is_closed());
        assert_eq!(publication.heartbeat_due(), Timestamp::FAR_FUTURE);
    }
}

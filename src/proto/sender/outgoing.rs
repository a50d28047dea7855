//! What goes out next, and how it is written down.

use crate::time::Timestamp;
use crate::wire::{Advert, DatagramWriter, GroupId, Lane, Parity, Sending, SeqNo, StreamId};

use super::{Copies, Sender};
use crate::proto::Stats;
use crate::proto::output::Output;
use crate::proto::publication::{Publication, Tail, Turn};
use crate::proto::transmit::{Destination, Identity, TransmitBatch};
use crate::proto::tuning::{COPY_BYTES_MAX, LAST_EVERY_NS, LAST_LEN, SCOUTS_TELL_NS};

impl Sender {
    /// Writes what is due until the batch is full: repairs and new data, each within its own budget, so neither keeps
    /// the other waiting for more than a batch (R-RATE-1), and heartbeats, which their own decay keeps few.
    pub(in crate::proto) fn poll_transmit(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        out: &mut Output,
    ) {
        // Most stations publish nothing, ever.
        if self.publications.is_empty() {
            return;
        }
        self.pass_time(now, out);
        let stats = &mut out.stats;
        while batch.has_room()
            && self.repair.is_ready(now)
            && (self.write_skips(now, identity, batch, stats)
                || Lane::ALL.into_iter().any(|lane| {
                    (lane == Lane::Emergency && self.write_again(now, identity, batch, stats))
                        || self.write_repairs(now, Turn::First, lane, identity, batch, stats)
                        || self.write_parity(now, Turn::First, lane, identity, batch, stats)
                }))
        {}
        while batch.has_room() && self.write_data(now, identity, batch, stats) {}
        self.write_last(now, identity, batch, stats);
        while batch.has_room()
            && let Some((to, pace)) = self.pace_told.pop_front()
        {
            batch.write(Destination::Unicast(to), identity, |writer| {
                writer.pace(&pace);
            });
        }
        while batch.has_room() && self.write_heartbeats(now, identity, batch, stats) {}
    }

    /// What stands back, from what all others have left.
    fn write_last(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) {
        let mut left = if self.gathers_last {
            LAST_LEN
        } else {
            usize::MAX
        };
        let all = left;
        while left > 0
            && batch.has_room()
            && self.last_at() <= now
            && Lane::ALL.into_iter().any(|lane| {
                self.write_repairs(now, Turn::Last, lane, identity, batch, stats)
                    || self.write_parity(now, Turn::Last, lane, identity, batch, stats)
            })
        {
            left -= 1;
        }
        if self.gathers_last && left < all {
            self.last_due = now.plus_nanos(LAST_EVERY_NS);
        }
    }

    /// One datagram of repairs for one destination.
    fn write_repairs(
        &mut self,
        now: Timestamp,
        turn: Turn,
        lane: Lane,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let has = |publication: &mut Publication| {
            publication.stream.lane() == lane
                && (turn == Turn::Last || publication.repairs_due() <= now)
                && publication.peek_repair(turn).is_some()
        };
        let Some(publication) = self
            .publications
            .values_mut()
            .find_map(|p| has(p).then_some(p))
        else {
            return false;
        };
        let Some((_, to)) = publication.peek_repair(turn) else {
            return false;
        };
        let mut repaired = 0;
        let bytes = batch.write(to, identity, |writer| {
            while let Some((seq, also_to)) = publication.peek_repair(turn)
                && also_to == to
                && write_segment(writer, publication, seq, now, Sending::Repair)
            {
                publication.mark_repaired(now, turn);
                repaired += 1;
            }
        });
        stats.repairs_sent += repaired;
        if matches!(to, Destination::Group(_)) {
            stats.repairs_multicast += repaired;
        }
        self.repair.spend(now, bytes);
        bytes > 0
    }

    /// One parity shard.
    fn write_parity(
        &mut self,
        now: Timestamp,
        turn: Turn,
        lane: Lane,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let mut of_lane = self.publications.values_mut();
        let has = |p: &&mut Publication| p.stream.lane() == lane && p.has_parity(turn);
        let Some(publication) = of_lane.find(has) else {
            return false;
        };
        let stream = publication.stream;
        let advert = publication.advert(now);
        let Some((to, block, index, shard)) = publication.peek_parity(turn) else {
            publication.drop_parity(now, turn);
            return false;
        };
        let bytes = batch.write(to, identity, |writer| {
            writer.parity(&Parity {
                stream,
                advert,
                block,
                index,
                shard,
            });
        });
        stats.parity_sent += 1;
        stats.parity_unasked += u64::from(publication.mark_parity(now, turn));
        self.repair.spend(now, bytes);
        bytes > 0
    }

    /// One datagram that tells all of a group what will never come (R-SKIP-1).
    fn write_skips(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let having = self.publications.values_mut().filter(|p| p.has_skips());
        let Some(publication) = having.min_by_key(|p| p.stream.lane()) else {
            return false;
        };
        let stream = publication.stream;
        let to = Destination::Group(stream.group());
        let bytes = batch.write(to, identity, |writer| {
            let told =
                publication.tell_skips(|why, runs| writer.skip(stream, why, runs.iter().copied()));
            stats.skips_sent += told as u64;
        });
        self.repair.spend(now, bytes);
        bytes > 0
    }

    /// One datagram of emergencies, again (R-COPY-2).
    fn write_again(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let is_due = |publication: &&mut Publication| {
            publication.peek_again().is_some_and(|(_, at, _)| at <= now)
        };
        let Some(publication) = self.publications.values_mut().find(is_due) else {
            return false;
        };
        let to = Destination::Group(publication.stream.group());
        let bytes = batch.write(to, identity, |writer| {
            while let Some((seq, at, _)) = publication.peek_again()
                && at <= now
                && write_segment(writer, publication, seq, now, Sending::Copy)
            {
                publication.mark_again(seq);
                stats.copies_sent += 1;
            }
        });
        self.repair.spend(now, bytes);
        bytes > 0
    }

    /// One datagram of new data for one group: the most urgent stream's, then whatever else the group is waiting for, as
    /// far as it fits (R-PACK-3); in what room is left, the last datagram's small segments again (R-COPY-1).
    fn write_data(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let Some(group) = self.next_group(now) else {
            return false;
        };
        let (publications, pacing, copies) =
            (&mut self.publications, &self.pacing, &mut self.copies);
        let mut segments = 0;
        let bytes = batch.write(Destination::Group(group), identity, |writer| {
            for lane in Lane::ALL {
                let Some(publication) = publications.get_mut(&StreamId::new(group, lane)) else {
                    continue;
                };
                if pacing.ready_at(publication) > now {
                    continue;
                }
                let (first, tail) = (publication.unsent(), publication.tail(now));
                let advert = publication.advert(now);
                let mut is_full = false;
                while let Some((seq, segment)) = publication.peek_unsent()
                    && !pacing.is_held(publication)
                {
                    is_full =
                        !writer.segment(publication.stream, seq, &advert, Sending::New, &segment);
                    if is_full {
                        break;
                    }
                    publication.mark_sent(now);
                    segments += 1;
                }
                if publication.unsent() > first {
                    publication.begin_tail(now, first);
                }
                if is_full {
                    return;
                }
                let again = write_tail(writer, publication, tail, copies, now, &advert);
                stats.copies_sent += again.written;
            }
        });
        stats.segments_sent += segments;
        self.pacing.spend(now, bytes, segments);
        bytes > 0
    }

    /// The group to send to next: the most urgent lane that has something, groups in turn (R-LANE-1).
    fn next_group(&mut self, now: Timestamp) -> Option<GroupId> {
        for lane in Lane::ALL {
            let waiting = || {
                self.publications.values().filter(|p| {
                    p.stream.lane() == lane && p.has_unsent() && self.pacing.ready_at(p) <= now
                })
            };
            let count = waiting().count();
            if count > 0 {
                let stream = waiting().nth(self.turn % count)?.stream;
                self.turn = self.turn.wrapping_add(1);
                return Some(stream.group());
            }
        }
        None
    }

    /// One datagram with every heartbeat that is due for one group, and behind them the scouts and the last small
    /// datagram again.
    fn write_heartbeats(
        &mut self,
        now: Timestamp,
        identity: &mut Identity,
        batch: &mut TransmitBatch,
        stats: &mut Stats,
    ) -> bool {
        let Some(first) = self
            .publications
            .values()
            .find(|p| p.heartbeat_due() <= now)
        else {
            return false;
        };
        let group = first.stream.group();
        let has_scouts = self.backoffs.is_raised();
        if has_scouts {
            self.choose_scouts(now, group);
        }
        let (grtt, group_size) = (self.grtt.quantized(), self.told_size());
        let (publications, scouts, copies) = (
            &mut self.publications,
            self.scouts.get_mut(&group),
            &mut self.copies,
        );
        let bytes = batch.write(Destination::Group(group), identity, |writer| {
            let mut is_beating = [false; Lane::ALL.len()];
            for lane in Lane::ALL {
                let Some(publication) = publications.get_mut(&StreamId::new(group, lane)) else {
                    continue;
                };
                if publication.heartbeat_due() > now {
                    continue;
                }
                let heartbeat = publication.heartbeat(now, grtt, group_size);
                if !writer.heartbeat(&heartbeat) {
                    return;
                }
                publication.mark_heartbeat(now);
                stats.heartbeats_sent += 1;
                is_beating[lane as usize] = true;
            }
            if let Some(scouts) = scouts
                && has_scouts
                && scouts.tell_due <= now
                && !scouts.ids.is_empty()
                && writer.scouts(&scouts.ids)
            {
                scouts.tell_due = now.plus_nanos(SCOUTS_TELL_NS);
            }
            for lane in Lane::ALL
                .into_iter()
                .filter(|&lane| is_beating[lane as usize])
            {
                if let Some(publication) = publications.get_mut(&StreamId::new(group, lane)) {
                    let (tail, advert) = (publication.tail(now), publication.advert(now));
                    let again = write_tail(writer, publication, tail, copies, now, &advert);
                    stats.copies_sent += again.written;
                    if again.is_whole && tail.is_some_and(|tail| tail.is_first_copy) {
                        publication.put_off_heartbeat(now);
                    }
                }
            }
        });
        bytes > 0
    }
}

/// Writes one segment of a stream again; whether it fitted.
fn write_segment(
    writer: &mut DatagramWriter<'_>,
    publication: &Publication,
    seq: SeqNo,
    now: Timestamp,
    sending: Sending,
) -> bool {
    let advert = publication.advert(now);
    publication
        .segment(seq)
        .is_some_and(|segment| writer.segment(publication.stream, seq, &advert, sending, &segment))
}

/// What was written again.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    /// How many segments.
    written: u64,
    /// They are all that there was to write.
    is_whole: bool,
}

/// Writes the small segments of `tail` again, as far as room and budget allow (R-COPY-3).
fn write_tail(
    writer: &mut DatagramWriter<'_>,
    publication: &mut Publication,
    tail: Option<Tail>,
    copies: &mut Copies,
    now: Timestamp,
    advert: &Advert,
) -> Again {
    let Some(Tail {
        numbers: tail,
        is_first_copy,
    }) = tail.filter(|tail| copies.is_ready(now, tail.is_first_copy))
    else {
        return Again::default();
    };
    let mut again = Again {
        written: 0,
        is_whole: true,
    };
    let before = writer.bytes();
    for seq in tail.iter() {
        let Some(segment) = publication.worth_copying(seq) else {
            continue;
        };
        if segment.payload.len() > COPY_BYTES_MAX {
            again.is_whole = false;
            continue;
        }
        if !writer.segment(publication.stream, seq, advert, Sending::Copy, &segment) {
            again.is_whole = false;
            break;
        }
        again.written += 1;
    }
    copies.spend(now, is_first_copy, writer.bytes() - before);
    publication.mark_copied(tail);
    again
}

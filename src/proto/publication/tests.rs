use super::*;
use crate::wire::{FloorId, GroupId, Lane, MESSAGE_BYTES_MAX, SessionId, SourceId};

fn config() -> Config {
    let mut config = Config::new(FloorId(1), SourceId(1), SessionId(1));
    config.send_window_len = crate::proto::SendWindowLen::try_from(1_024).unwrap();
    config
}

fn publication(sent: u64) -> Publication {
    let mut publication = Publication::new(
        StreamId::new(GroupId(1), Lane::Routine),
        Tuning::RECOMMENDED,
        QuantDuration::default(),
        Timestamp::ZERO,
    );
    for _ in 0..sent {
        publication
            .publish(Bytes::from_static(b"x"), Terms::default(), &config())
            .unwrap();
        publication.mark_sent(Timestamp::ZERO);
    }
    publication
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn asker(port: u16) -> Asker {
    Asker {
        from: addr(port),
        is_alone: false,
        is_for_all: false,
        is_lossy: false,
        is_proved: true,
    }
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
        let mut config = config();
        config.send_window_len = crate::proto::SendWindowLen::RECOMMENDED;
        let Published { range, .. } = publication
            .publish(Bytes::from(vec![7; len]), Terms::default(), &config)
            .unwrap();
        assert_eq!(range.len(), segments, "{len}");
        let total: usize = range
            .iter()
            .map(|seq| publication.segment(seq).unwrap().payload.len())
            .sum();
        assert_eq!(total, len);
    }
    let mut large = config();
    large.send_window_len = crate::proto::SendWindowLen::RECOMMENDED;
    assert_eq!(
        publication(0).publish(
            Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]),
            Terms::default(),
            &large
        ),
        Err(Full::TooLarge {
            max: MESSAGE_BYTES_MAX
        })
    );
}

/// Goal: messages that do not fit in one datagram cost no more of them than their bytes do, while something waits. Method: as
/// many of one size as wait at a time, packed as they are sent; none of them fills what has gone out already.
#[test]
fn parts_fill_the_datagrams_that_are_not_full() {
    let config = Config {
        send_window_len: crate::proto::SendWindowLen::RECOMMENDED,
        ..config()
    };
    let room = 1_400 - crate::wire::SINGLE_DATA_OVERHEAD_BYTES + Segment::HEADER_BYTES;
    for len in [room - 3, 1_500, 2_700, 4_000] {
        let mut publication = publication(0);
        let message = Bytes::from(vec![7; len]);
        let mut datagrams = vec![0];
        for _ in 0..100 {
            let taken = publication.publish(message.clone(), Terms::default(), &config);
            let taken = taken.unwrap().range;
            let parts = taken.iter().map(|seq| publication.segment(seq).unwrap());
            assert_eq!(parts.map(|part| part.payload.len()).sum::<usize>(), len);
        }
        while let Some((_, segment)) = publication.peek_unsent() {
            let bytes = segment.wire_bytes();
            assert!(bytes <= room);
            match datagrams.last_mut() {
                Some(last) if *last + bytes <= room => *last += bytes,
                _ => datagrams.push(bytes),
            }
            publication.mark_sent(Timestamp::ZERO);
        }
        let least = (100 * len).div_ceil(room);
        assert!(
            datagrams.len() <= least + least / 50 + 1,
            "{len}: {} of {least}",
            datagrams.len()
        );
        let alone = publication.publish(message, Terms::default(), &config);
        let first = publication.segment(alone.unwrap().range.first()).unwrap();
        assert!(first.wire_bytes() >= room - 1, "{}", first.wire_bytes());
    }
}

#[test]
fn the_window_evicts_what_was_sent_and_refuses_past_what_was_not() {
    let mut publication = publication(1_024);
    let Published { evicted, .. } = publication
        .publish(Bytes::from_static(b"y"), Terms::default(), &config())
        .unwrap();
    assert_eq!((evicted, publication.trail()), (1, SeqNo(1)));
    for _ in 0..511 {
        publication
            .publish(Bytes::from_static(b"z"), Terms::default(), &config())
            .unwrap();
    }
    assert_eq!(publication.trail(), SeqNo(512), "half of it is for repairs");
    assert_eq!(
        publication.publish(Bytes::from_static(b"z"), Terms::default(), &config()),
        Err(Full::Window)
    );
}

#[test]
fn a_coded_stream_lets_whole_blocks_go() {
    let stream = StreamId::new(GroupId(1), Lane::Bulk);
    let mut publication = Publication::new(
        stream,
        Tuning::RECOMMENDED,
        QuantDuration::default(),
        Timestamp::ZERO,
    );
    for sent in 0..3_000_u64 {
        publication
            .publish(Bytes::from_static(b"x"), Terms::default(), &config())
            .unwrap();
        publication.mark_sent(Timestamp::ZERO);
        assert!(
            publication.trail().0.is_multiple_of(BLOCK_LEN),
            "after {sent}"
        );
    }
    assert!(publication.trail().0 >= 3_000 - 1_024);
}

#[test]
fn what_is_taken_back_before_it_is_sent_is_never_sent() {
    let mut publication = publication(1);
    let keyed = Terms {
        supersedes: Some(1),
        ..Terms::default()
    };
    for _ in 0..3 {
        publication
            .publish(Bytes::from_static(b"state"), keyed, &config())
            .unwrap();
    }
    assert_eq!(publication.unsent(), SeqNo(3));
    let mut told = Vec::new();
    while publication.tell_skips(|_, runs| {
        told.extend_from_slice(runs);
        runs.len()
    }) > 0
    {}
    assert_eq!(told, [range(1, 3)]);
    let outcome =
        publication.handle_nack(Timestamp::ZERO, asker(1), [range(0, 3)].into_iter(), 1_000);
    assert_eq!(outcome.queued, 1);
    let why = SkipReason::Superseded;
    assert_eq!(outcome.skipped, [Some((range(1, 3), why)), None]);
}

#[test]
fn whoever_stands_back_keeps_nobody_waiting() {
    let mut publication = publication(10);
    let now = Timestamp::ZERO;
    let mut glutton = asker(1);
    (glutton.is_alone, glutton.is_lossy) = (true, true);
    publication.handle_nack(now, glutton, [range(3, 5)].into_iter(), 1_000);
    assert_eq!(publication.peek_repair(Turn::First), None);
    publication.handle_nack(now, asker(2), [range(3, 4)].into_iter(), 1_000);
    let to = |port| Destination::Unicast(addr(port));
    assert_eq!(
        publication.peek_repair(Turn::First),
        Some((SeqNo(3), to(2)))
    );
    assert_eq!(publication.peek_repair(Turn::Last), Some((SeqNo(4), to(1))));
}

#[test]
fn one_asker_is_answered_alone_and_two_by_multicast() {
    let mut publication = publication(10);
    let now = Timestamp::ZERO;
    publication.handle_nack(now, asker(1), [range(3, 4)].into_iter(), 1_000);
    assert_eq!(
        publication.peek_repair(Turn::First),
        Some((SeqNo(3), Destination::Unicast(addr(1))))
    );
    publication.handle_nack(now, asker(2), [range(3, 4)].into_iter(), 1_000);
    assert_eq!(
        publication.peek_repair(Turn::First),
        Some((SeqNo(3), Destination::Group(GroupId(1))))
    );
    publication.mark_repaired(now, Turn::First);
    assert_eq!(publication.peek_repair(Turn::First), None);
}

#[test]
fn repeats_within_the_hold_off_are_not_repaired_again() {
    let mut publication = publication(10);
    let at = Timestamp::from_nanos;
    publication.handle_nack(at(0), asker(1), [range(3, 4)].into_iter(), 1_000);
    publication.mark_repaired(at(0), Turn::First);
    let again = publication.handle_nack(at(999), asker(1), [range(3, 4)].into_iter(), 1_000);
    assert_eq!(
        (again.held_off, publication.peek_repair(Turn::First)),
        (1, None)
    );
    publication.handle_nack(at(999), asker(2), [range(3, 4)].into_iter(), 1_000);
    assert_eq!(
        publication.peek_repair(Turn::First),
        Some((SeqNo(3), Destination::Group(GroupId(1))))
    );
    publication.mark_repaired(at(999), Turn::First);
    publication.handle_nack(at(1_999), asker(1), [range(3, 4)].into_iter(), 1_000);
    assert_eq!(
        publication.peek_repair(Turn::First),
        Some((SeqNo(3), Destination::Unicast(addr(1))))
    );
}

#[test]
fn absurd_nacks_cost_a_bounded_amount() {
    let mut publication = publication(1_000);
    let outcome = publication.handle_nack(
        Timestamp::ZERO,
        asker(1),
        [range(0, 10), range(900, u64::MAX / 4)].into_iter(),
        1_000,
    );
    assert_eq!(outcome.unknown, u64::MAX / 4 - 1_000);
    assert_eq!(publication.repairs.len(), 110);
    let mut evicted = self::publication(1_030);
    assert!(
        evicted
            .handle_nack(Timestamp::ZERO, asker(1), [range(0, 3)].into_iter(), 1)
            .below_trail
    );
    assert_eq!(evicted.repairs_due(), Timestamp::FAR_FUTURE);
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

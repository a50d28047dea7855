//! Faults that the repair machine had once, each as the shortest exchange that shows it. Two endpoints, no network.

use std::net::SocketAddr;

use bytes::Bytes;
use floorcast::proto::{
    Config, Destination, Endpoint, Event, Join, Rate, SendWindowLen, Terms, TransmitBatch,
};
use floorcast::time::Timestamp;
use floorcast::wire::{
    About, DatagramWriter, FloorId, GroupId, Header, Lane, Message, SeqNo, SeqRange, SessionId,
    SourceId, StreamId, decode,
};

const FLOOR: FloorId = FloorId(7);
const START: Timestamp = Timestamp::from_nanos(10);

fn at(ns: u64) -> Timestamp {
    Timestamp::from_nanos(ns)
}

fn address(station: u8) -> SocketAddr {
    ([10, 0, 0, station], 7_700).into()
}

fn stream(lane: Lane) -> StreamId {
    StreamId::new(GroupId(1), lane)
}

fn config(station: u64) -> Config {
    Config::new(FLOOR, SourceId(station), SessionId(station))
}

fn source() -> Endpoint {
    Endpoint::new(config(1), 1)
}

fn receiver(station: u64) -> Endpoint {
    let mut end = Endpoint::new(config(station), station);
    end.subscribe(at(1), GroupId(1), Join::Trail);
    end
}

/// Everything that `end` wants to send now.
fn drain(end: &mut Endpoint, now: Timestamp) -> Vec<(Destination, Bytes)> {
    let mut batch = TransmitBatch::new(64);
    let mut datagrams = Vec::new();
    while end.poll_transmit(now, &mut batch) {
        for (to, datagram) in batch.iter() {
            datagrams.push((to, Bytes::copy_from_slice(datagram)));
        }
        batch.clear();
    }
    datagrams
}

/// A datagram of `station` that says what `write` writes.
fn of_station(station: u64, write: impl FnOnce(&mut DatagramWriter<'_>, &About)) -> Bytes {
    let header = Header {
        key: 0,
        floor: FLOOR,
        source: SourceId(station),
        session: SessionId(station),
        number: 0,
    };
    let about = About {
        source: SourceId(1),
        session: SessionId(1),
        stream: stream(Lane::Routine),
        echo: None,
    };
    let mut bytes = Vec::new();
    let mut writer = DatagramWriter::new(&mut bytes, 1_400, &header);
    write(&mut writer, &about);
    writer.finish();
    bytes.into()
}

/// A source that was closed with messages unsent said nothing more when these expired, and never left.
#[test]
fn a_source_whose_last_messages_expire_unsent_leaves() {
    let mut config = config(1);
    config.data_rate = Rate::MIN;
    let mut source = Endpoint::new(config, 1);
    let terms = Terms {
        expires: Some(at(1_000_000_000)),
        supersedes: None,
    };
    for _ in 0..200 {
        let payload = Bytes::from(vec![0; 1_000]);
        source
            .publish_under(START, stream(Lane::Routine), payload, terms)
            .unwrap();
    }
    let mut now = START;
    drain(&mut source, now);
    source.close(now);
    for _ in 0..1_000 {
        drain(&mut source, now);
        now = source.poll_timeout().max(now.plus_nanos(1));
        if source.is_drained() {
            return;
        }
    }
    panic!("still there at {now}");
}

/// One loss raised the back-off again whenever one of the eleven that had asked asked again.
#[test]
fn one_loss_raises_the_backoff_once() {
    let mut source = source();
    source.set_group_size(100);
    for _ in 0..20 {
        source
            .publish(START, stream(Lane::Routine), Bytes::from_static(b"x"))
            .unwrap();
    }
    drain(&mut source, START);
    let mut ask = |now, station: u8| {
        let nack = of_station(u64::from(station), |writer, about| {
            writer.nack(about, [SeqRange::one(SeqNo(5))]);
        });
        source.handle_datagram(now, address(station), nack).unwrap();
        source.backoff_ns()
    };
    let now = at(10_000_000);
    let raised = (10..21).map(|station| ask(now, station)).last();
    assert!(raised > Some(0));
    assert_eq!(Some(ask(at(12_100_000), 10)), raised);
}

/// What was kept of a session for its parity counted as buffered when the session was over.
#[test]
fn nothing_is_kept_of_a_coded_session_that_has_ended() {
    let (mut source, mut receiver) = (source(), receiver(2));
    for _ in 0..40 {
        let payload = Bytes::from(vec![1; 1_000]);
        source.publish(START, stream(Lane::Bulk), payload).unwrap();
    }
    source.close(START);
    let mut now = START;
    for _ in 0..1_000 {
        for (_, datagram) in drain(&mut source, now) {
            let _ = receiver.handle_datagram(now, address(1), datagram);
        }
        for (_, datagram) in drain(&mut receiver, now) {
            let _ = source.handle_datagram(now, address(2), datagram);
        }
        receiver.handle_timeout(now);
        let due = source.poll_timeout().min(receiver.poll_timeout());
        if due == Timestamp::FAR_FUTURE {
            break;
        }
        now = due.max(now.plus_nanos(1));
    }
    let events = std::iter::from_fn(|| receiver.poll_event());
    assert!(
        events
            .into_iter()
            .any(|event| matches!(event, Event::SessionEnded { .. }))
    );
    assert_eq!(receiver.stats().messages_delivered, 40);
    assert_eq!(receiver.buffered_bytes(), 0);
}

/// A receiver that had not heard that a message was taken back had it mended from parity, and showed it.
#[test]
fn parity_brings_nothing_back_that_was_taken_back() {
    let (mut source, mut receiver) = (source(), receiver(2));
    for i in 0..64 {
        let terms = Terms {
            expires: (i == 5).then_some(at(2_000_000)),
            supersedes: None,
        };
        let payload = Bytes::from(vec![i; 1_000]);
        source
            .publish_under(START, stream(Lane::Bulk), payload, terms)
            .unwrap();
    }
    let mut now = START;
    let mut data = 0;
    while now < at(50_000_000) {
        for (to, datagram) in drain(&mut source, now) {
            let first = decode(&datagram).unwrap().messages().next().unwrap();
            data += u64::from(matches!(first, Message::Data(_)));
            // The sixth datagram is lost, and so is what all are told about it.
            let is_news = matches!((first, to), (Message::Skip(_), Destination::Group(_)));
            let is_lost = matches!(first, Message::Data(_)) && data == 6;
            if !is_news && !is_lost {
                let _ = receiver.handle_datagram(now, address(1), datagram);
            }
        }
        for (_, datagram) in drain(&mut receiver, now) {
            // It asks so late that the message has expired by then.
            now = now.plus_nanos(3_000_000);
            let _ = source.handle_datagram(now, address(2), datagram);
        }
        receiver.handle_timeout(now);
        let due = source.poll_timeout().min(receiver.poll_timeout());
        now = due.max(now.plus_nanos(1));
    }
    let events: Vec<_> = std::iter::from_fn(|| receiver.poll_event()).collect();
    let was_shown = |event: &Event| matches!(event, Event::Delivered(it) if it.payload[0] == 5);
    assert!(!events.iter().any(was_shown));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Skipped { .. }))
    );
    assert_eq!(receiver.stats().messages_delivered, 63);
}

/// Receivers waited for numbers that had not been sent, because a message behind them was taken back before its turn; they
/// gave them up when they had asked often enough. Swarm seed 156.
#[test]
fn nobody_is_told_of_what_has_not_been_sent() {
    let mut config = config(1);
    config.data_rate = Rate::MIN;
    let mut source = Endpoint::new(config, 1);
    let keyed = |key| Terms {
        expires: None,
        supersedes: key,
    };
    for i in 0..300 {
        let payload = Bytes::from(vec![0; 1_000]);
        let terms = keyed((i >= 200).then_some(1));
        source
            .publish_under(START, stream(Lane::Routine), payload, terms)
            .unwrap();
    }
    let mut sent = SeqNo::ZERO;
    for (_, datagram) in drain(&mut source, START) {
        for message in decode(&datagram).unwrap().messages() {
            match message {
                Message::Data(data) => sent = data.segments().last().unwrap().0.plus(1),
                Message::Skip(skip) => assert!(skip.runs().all(|run| run.end() <= sent)),
                _ => {}
            }
        }
    }
    assert!(sent > SeqNo::ZERO && sent < SeqNo(200));
}

/// Three hundred notices, each in the place of the one before: the receiver was told of them two at a time, and waited a
/// quarter of a second between.
#[test]
fn a_long_run_of_superseded_messages_costs_one_round() {
    let (mut source, mut receiver) = (source(), receiver(2));
    let terms = Terms {
        expires: None,
        supersedes: Some(1),
    };
    for _ in 0..300 {
        source
            .publish_under(
                START,
                stream(Lane::Routine),
                Bytes::from_static(b"state"),
                terms,
            )
            .unwrap();
    }
    let mut now = START;
    while now < at(20_000_000) && receiver.stats().messages_delivered == 0 {
        for (_, datagram) in drain(&mut source, now) {
            let _ = receiver.handle_datagram(now, address(1), datagram);
        }
        for (_, datagram) in drain(&mut receiver, now) {
            let _ = source.handle_datagram(now, address(2), datagram);
        }
        receiver.handle_timeout(now);
        let due = source.poll_timeout().min(receiver.poll_timeout());
        now = due.max(now.plus_nanos(1));
    }
    assert_eq!(
        receiver.stats().messages_delivered,
        1,
        "the last one, at {now}"
    );
    assert!(receiver.stats().nacks_sent <= 2);
}

/// A number that was missing and then taken back counted as missed, for good. Of three that are
/// missing, one is taken back, one repaired and one given up.
#[test]
fn what_was_taken_back_is_not_missed() {
    let (mut source, mut receiver) = (source(), receiver(2));
    let mut now = START;
    for i in 0..9 {
        let terms = Terms {
            expires: None,
            supersedes: (i == 3 || i == 4).then_some(1),
        };
        // Too large for copies.
        let payload = Bytes::from(vec![i; 1_000]);
        source
            .publish_under(now, stream(Lane::Routine), payload, terms)
            .unwrap();
        for (to, datagram) in drain(&mut source, now) {
            let first = decode(&datagram).unwrap().messages().next().unwrap();
            // That 3 was taken back is told to nobody but who asks.
            let is_news = matches!((first, to), (Message::Skip(_), Destination::Group(_)));
            let is_lost = matches!(first, Message::Data(_)) && matches!(i, 3 | 6 | 7);
            if !is_news && !is_lost {
                let _ = receiver.handle_datagram(now, address(1), datagram);
            }
        }
        now = now.plus_nanos(1_000);
    }
    source.close(now);
    while now < at(2_000_000_000) {
        for (_, datagram) in drain(&mut source, now) {
            let datagrams = decode(&datagram).unwrap();
            let of_seven =
                |message| matches!(message, Message::Data(data) if data.first == SeqNo(7));
            if !datagrams.messages().any(of_seven) {
                let _ = receiver.handle_datagram(now, address(1), datagram);
            }
        }
        for (_, datagram) in drain(&mut receiver, now) {
            let _ = source.handle_datagram(now, address(2), datagram);
        }
        receiver.handle_timeout(now);
        let due = source.poll_timeout().min(receiver.poll_timeout());
        now = due.max(now.plus_nanos(1));
    }
    let stats = receiver.stats();
    assert_eq!((stats.segments_skipped, stats.segments_lost), (1, 1));
    let account = source.receivers().next().unwrap();
    assert_eq!(account.missed, 2, "{account:?}");
}

/// Whoever caught up after the last of the data stood back for ever.
#[test]
fn one_that_catches_up_after_the_end_is_back_in_pace() {
    let mut config = config(1);
    config.send_window_len = SendWindowLen::MIN;
    let mut source = Endpoint::new(config, 1);
    let publish = |source: &mut Endpoint, count| {
        for _ in 0..count {
            source
                .publish(START, stream(Lane::Routine), Bytes::from_static(b"x"))
                .unwrap();
        }
        drain(source, START);
    };
    publish(&mut source, 500);
    publish(&mut source, 400);
    let report = |source: &mut Endpoint, now, through| {
        let report = of_station(9, |writer, about| {
            writer.report(about, SeqNo::ZERO, SeqNo(through), 0, []);
        });
        source.handle_datagram(now, address(9), report).unwrap();
        drain(source, now);
    };
    let mut now = START;
    report(&mut source, now, 10);
    for step in 0..200 {
        now = source.poll_timeout().max(now.plus_nanos(1));
        if step == 20 {
            assert_eq!(source.stats().pace_left, 1);
            report(&mut source, now, 900);
        }
        drain(&mut source, now);
    }
    assert_eq!(source.stats().pace_rejoined, 1);
}

/// What was said every millisecond cost three datagrams: itself and two heartbeats, the second of which told what the next
/// message told 0.5 ms later. At the end of it, and behind a message that stands alone, nobody waits longer than R-HB-4 says.
#[test]
fn what_is_said_every_millisecond_costs_two_datagrams() {
    const EVERY_NS: u64 = 1_000_000;
    const MESSAGES: u64 = 50;
    let mut source = source();
    let mut sent = Vec::new();
    let mut run_until = |source: &mut Endpoint, end: Timestamp| {
        while source.poll_timeout() < end {
            let now = source.poll_timeout();
            sent.extend(drain(source, now).iter().map(|_| now));
        }
        std::mem::take(&mut sent)
    };
    let mut last = START;
    let mut steady = 0;
    for message in 0..MESSAGES {
        last = START.plus_nanos(message * EVERY_NS);
        steady += run_until(&mut source, last).len();
        source
            .publish(last, stream(Lane::Routine), Bytes::from_static(b"x"))
            .unwrap();
        steady += drain(&mut source, last).len();
    }
    // The first message stands alone until the second has come.
    assert!(steady as u64 <= 2 * MESSAGES, "{steady}");
    let offsets = |sent: Vec<Timestamp>, since: Timestamp| -> Vec<u64> {
        sent.iter().map(|at| at.nanos_since(since)).collect()
    };
    let after = run_until(&mut source, last.plus_nanos(2 * EVERY_NS));
    assert_eq!(offsets(after, last), [250_000, 1_250_000, 1_750_000]);
    let alone = last.plus_nanos(5 * EVERY_NS);
    run_until(&mut source, alone);
    source
        .publish(alone, stream(Lane::Routine), Bytes::from_static(b"x"))
        .unwrap();
    drain(&mut source, alone);
    let after = run_until(&mut source, alone.plus_nanos(EVERY_NS));
    assert_eq!(offsets(after, alone), [250_000, 500_000]);
}

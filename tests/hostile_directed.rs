//! Directed attacks on one endpoint, each the smallest that shows its point. What `tests/hostile.rs` finds by chance, or
//! cannot find, stands here by name.

mod counting;

use std::net::SocketAddr;

use bytes::Bytes;
use floorcast::proto::{
    Config, DatagramBytes, Endpoint, Join, ReceiveBytes, ReceiveWindowLen, TransmitBatch,
};
use floorcast::time::Timestamp;
use floorcast::wire::{
    Advert, DATAGRAM_BYTES_MAX, DatagramWriter, FloorId, GroupId, Header, Heartbeat, Lane,
    MESSAGE_BYTES_MAX, Place, QuantCount, QuantDuration, Segment, Sending, SeqNo, SessionId,
    SourceId, StreamId,
};

const FLOOR: FloorId = FloorId(7);
const EMPTY: Segment<'static> = Segment {
    place: Place::Whole,
    payload: b"",
};

/// Goal: any number that may travel may be counted. Method: eight sources whose whole space is lost.
#[test]
fn lost_counts_do_not_overflow() {
    let mut receiver = Lab::new(|_| ());
    for source in 10..18 {
        let heartbeat = heartbeat(Lane::Routine, SeqNo::MAX.0, SeqNo::MAX.0, false);
        receiver.hand(&datagram(source, |writer| {
            assert!(writer.heartbeat(&heartbeat));
        }));
    }
}

/// Goal: a gap longer than one NACK can name is asked for once a round. Method: the smallest datagram, the longest window,
/// and a heartbeat that makes all of it a gap.
#[test]
fn a_gap_longer_than_a_nack_ends() {
    let mut receiver = Lab::new(|config| {
        config.datagram_bytes = DatagramBytes::MIN;
        config.receive_window_len = ReceiveWindowLen::MAX;
    });
    receiver.hand(&datagram(10, |writer| {
        assert!(writer.heartbeat(&heartbeat(Lane::Routine, SeqNo::MAX.0, 0, false)));
    }));
    let (datagrams, _) = receiver.drain();
    assert!(datagrams <= 2, "{datagrams} NACKs for one gap at once");
}

/// Goal: an endpoint sleeps when it has nothing to do. Method: a source closes one stream and leaves another open, as when
/// the closing heartbeats of one group are lost.
#[test]
fn a_half_closed_source_lets_the_endpoint_sleep() {
    let mut receiver = Lab::new(|_| ());
    receiver.hand(&datagram(10, |writer| {
        assert!(writer.heartbeat(&heartbeat(Lane::Bulk, 0, 0, false)));
        assert!(writer.heartbeat(&heartbeat(Lane::Routine, 0, 0, true)));
    }));
    receiver.drain();
    let mut wakes = 0;
    while receiver.now < Timestamp::from_nanos(5_000_000_000) && wakes < 1_000 {
        receiver.sleep();
        wakes += 1;
    }
    assert!(wakes < 100, "{wakes} wakes by {}", receiver.now);
}

/// Goal: the last report of a closed session is sent without another datagram to wake the endpoint. Method: one message
/// and the closing heartbeat, then only the endpoint's own deadlines.
#[test]
fn a_closed_session_is_reported() {
    let mut receiver = Lab::new(|_| ());
    receiver.hand(&datagram(10, |writer| {
        assert!(writer.segment(
            stream(Lane::Routine),
            SeqNo(0),
            &advert(0),
            Sending::New,
            &EMPTY
        ));
        assert!(writer.heartbeat(&heartbeat(Lane::Routine, 1, 0, true)));
    }));
    receiver.drain();
    for _ in 0..10 {
        receiver.sleep();
    }
    assert_eq!(receiver.end.stats().reports_sent, 1);
}

/// Goal: only who is asked reports (R-REP-4). Method: an ask for another station.
#[test]
fn an_ask_for_another_station_is_not_answered() {
    let mut receiver = Lab::new(|_| ());
    receiver.hand(&datagram(10, |writer| {
        assert!(writer.heartbeat(&heartbeat(Lane::Routine, 0, 0, false)));
        let asked = writer.ask(stream(Lane::Routine), [SourceId(77)]);
        assert_eq!(asked, Some(1));
    }));
    receiver.wait(100_000_000);
    receiver.drain();
    assert_eq!(receiver.end.stats().reports_sent, 0);
}

/// Goal: the receive buffer bounds what is held out of order. Method: six streams full of empty segments behind a gap, four
/// bytes each on the wire; the bound is 1 MiB, and as much again for bookkeeping.
#[test]
fn empty_segments_fill_the_receive_buffer_too() {
    let before = counting::tally().live_bytes;
    let mut receiver = Lab::new(|config| config.receive_bytes = ReceiveBytes::MIN);
    for source in [10, 11] {
        for lane in Lane::ALL {
            for chunk in 0..8 {
                receiver.hand(&datagram(source, |writer| {
                    for n in 0..16_000 {
                        let seq = SeqNo(1 + chunk * 16_000 + n);
                        assert!(writer.segment(
                            stream(lane),
                            seq,
                            &advert(0),
                            Sending::New,
                            &EMPTY
                        ));
                    }
                }));
            }
        }
    }
    let grown = counting::tally().live_bytes - before;
    assert!(grown < 2 << 20, "{grown} bytes held");
}

/// Goal: a message that has only begun takes little. Method: 256 sources begin one of 1 MiB on each of three lanes and send
/// none of it; 35 kB come in.
#[test]
fn messages_that_only_begin_take_little() {
    let before = counting::tally().live_bytes;
    let mut receiver = Lab::new(|config| config.receive_bytes = ReceiveBytes::MIN);
    let total = u32::try_from(MESSAGE_BYTES_MAX).unwrap();
    let begin = Segment {
        place: Place::First { total },
        payload: b"",
    };
    for source in 10..266 {
        receiver.hand(&datagram(source, |writer| {
            for lane in Lane::ALL {
                assert!(writer.segment(stream(lane), SeqNo(0), &advert(0), Sending::New, &begin));
            }
        }));
    }
    let grown = counting::tally().live_bytes - before;
    assert!(grown < 4 << 20, "{grown} bytes held");
}

/// Goal: one forged heartbeat draws a bounded answer, to whatever address it names as its own. Method: one heartbeat of 74
/// bytes shows a gap as long as the window; the endpoint is left alone until the source has gone silent.
#[test]
fn one_heartbeat_draws_a_bounded_answer() {
    let mut receiver = Lab::new(|_| ());
    let forged = datagram(10, |writer| {
        assert!(writer.heartbeat(&heartbeat(Lane::Routine, SeqNo::MAX.0, 0, false)));
    });
    receiver.hand(&forged);
    let (datagrams, bytes) = receiver.rest();
    // ROBUST_FACTOR NACKs and a report. That is 70 times what came in, over ten seconds: not a weapon, but not nothing.
    assert!(datagrams <= 65, "{datagrams} datagrams");
    assert!(bytes <= 100 * forged.len(), "{bytes} bytes");
}

/// Goal: a source with many gaps cannot make a station shout. Method: 4,000 gaps in four datagrams, and a heartbeat that
/// says that the round trip takes no time, so that no two gaps are ever due together; answers of the first second are
/// counted. 500,000 bytes a second, and a burst, is what R-NACK-7 allows.
#[test]
fn many_gaps_draw_few_nacks() {
    let mut receiver = Lab::new(|_| ());
    let mut no_time = heartbeat(Lane::Routine, 0, 0, false);
    no_time.grtt = QuantDuration(0);
    receiver.hand(&datagram(10, |writer| assert!(writer.heartbeat(&no_time))));
    for chunk in 0..4 {
        receiver.hand(&datagram(10, |writer| {
            for n in 0..1_000 {
                let seq = SeqNo((chunk * 1_000 + n) * 34 + 1);
                assert!(writer.segment(
                    stream(Lane::Routine),
                    seq,
                    &advert(0),
                    Sending::New,
                    &EMPTY
                ));
            }
        }));
    }
    receiver.drain();
    while receiver.now < Timestamp::from_nanos(1_000_000_000) {
        receiver.sleep();
    }
    let (_, bytes) = receiver.sent;
    assert!(bytes < 600_000, "{bytes} bytes of NACKs in a second");
}

/// Goal: a source of which only a repair has come is not taken for one that has closed. Method: a receiver that joins at
/// lead cannot tell from a repair where lead is; then it waits, and the source goes on.
#[test]
fn a_repair_first_is_no_farewell() {
    let mut receiver = Lab::joining(Join::Lead, |_| ());
    // Old enough that the receiver was not there first.
    receiver.now = Timestamp::from_nanos(1_000);
    let segment = |seq: u64, sending| {
        datagram(10, |writer| {
            let advert = Advert {
                age: QuantDuration(200),
                ..advert(0)
            };
            assert!(writer.segment(stream(Lane::Routine), SeqNo(seq), &advert, sending, &EMPTY));
        })
    };
    receiver.hand(&segment(4, Sending::Repair));
    // Another source's timers make the receiver look at all of them.
    let closing = heartbeat(Lane::Routine, 5, 0, true);
    receiver.hand(&datagram(11, |writer| assert!(writer.heartbeat(&closing))));
    while receiver.now < Timestamp::from_nanos(1_000_000_000) {
        receiver.sleep();
    }
    receiver.hand(&segment(9, Sending::New));
    assert_eq!(receiver.end.stats().messages_delivered, 1);
}

/// A receiver alone with its attacker.
struct Lab {
    now: Timestamp,
    end: Endpoint,
    batch: TransmitBatch,
    sent: (usize, usize),
}

impl Lab {
    fn new(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::joining(Join::Trail, adjust)
    }

    fn joining(join: Join, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(FLOOR, SourceId(2), SessionId(2));
        adjust(&mut config);
        let mut end = Endpoint::new(config, 1);
        end.subscribe(Timestamp::ZERO, group(), join);
        Self {
            now: Timestamp::ZERO,
            end,
            batch: TransmitBatch::new(64),
            sent: (0, 0),
        }
    }

    fn hand(&mut self, datagram: &Bytes) {
        let from = SocketAddr::from(([10, 66, 0, 1], 7_700));
        // A copy, so that what the endpoint keeps counts as its own.
        let datagram = Bytes::copy_from_slice(datagram);
        let _ = self.end.handle_datagram(self.now, from, datagram);
    }

    /// Datagrams and bytes that go out now.
    fn drain(&mut self) -> (usize, usize) {
        let before = self.sent;
        for round in 0.. {
            assert!(round < 1_000, "transmits without end");
            self.batch.clear();
            if !self.end.poll_transmit(self.now, &mut self.batch) {
                break;
            }
            self.sent.0 += self.batch.len();
            self.sent.1 += self
                .batch
                .iter()
                .map(|(_, datagram)| datagram.len())
                .sum::<usize>();
        }
        while self.end.poll_event().is_some() {}
        (self.sent.0 - before.0, self.sent.1 - before.1)
    }

    fn wait(&mut self, nanos: u64) {
        self.now = self.now.plus_nanos(nanos);
        self.end.handle_timeout(self.now);
    }

    /// Until the endpoint's own next deadline, if it has one.
    fn sleep(&mut self) {
        let due = self.end.poll_timeout();
        if due != Timestamp::FAR_FUTURE {
            self.now = self.now.max(due);
            self.end.handle_timeout(self.now);
            self.drain();
        }
    }

    /// Until nothing is due any more; all that went out.
    fn rest(&mut self) -> (usize, usize) {
        self.drain();
        while self.end.poll_timeout() != Timestamp::FAR_FUTURE {
            self.sleep();
        }
        self.sent
    }
}

fn group() -> GroupId {
    GroupId::of("all")
}

fn stream(lane: Lane) -> StreamId {
    StreamId::new(group(), lane)
}

fn advert(trail: u64) -> Advert {
    Advert {
        trail: SeqNo(trail),
        backoff: QuantDuration::default(),
        age: QuantDuration::default(),
        is_coded: false,
    }
}

fn heartbeat(lane: Lane, next: u64, trail: u64, is_closed: bool) -> Heartbeat {
    Heartbeat {
        stream: stream(lane),
        clock_us: 1,
        next: SeqNo(next),
        trail: SeqNo(trail),
        backoff: QuantDuration::default(),
        grtt: QuantDuration(60),
        group_size: QuantCount(1),
        age: QuantDuration::default(),
        is_coded: false,
        is_closed,
    }
}

fn datagram(source: u64, fill: impl FnOnce(&mut DatagramWriter<'_>)) -> Bytes {
    let mut bytes = Vec::new();
    let header = Header {
        key: 0,
        floor: FLOOR,
        source: SourceId(source),
        session: SessionId(1),
        number: 0,
    };
    let mut writer = DatagramWriter::new(&mut bytes, DATAGRAM_BYTES_MAX, &header);
    fill(&mut writer);
    assert!(writer.finish() > 0);
    Bytes::from(bytes)
}

//! In the steady state the core allocates nothing for a datagram: neither where one comes in nor where one goes out.
//!
//! What its owner does is not counted: publishing, copying what is on the wire, building what comes in. Nor is what grows
//! once: a ring buffer that reaches its size while a test warms up.

mod counting;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use floorcast::guard::{Guard, Verdicts};
use floorcast::keys::ThrowAway;
use floorcast::proto::{
    Config, Destination, Endpoint, Event, Join, SendWindowBytes, SendWindowLen, TransmitBatch,
};
use floorcast::time::Timestamp;
use floorcast::wire::{
    Advert, DatagramWriter, FloorId, GroupId, Header, Lane, Message, Place, QuantDuration, Segment,
    Sending, SeqNo, SessionId, SourceId, StreamId, decode,
};

const FLOOR: FloorId = FloorId(3);
const SEGMENT_BYTES: usize = 256;
const SEGMENTS_PER_DATAGRAM: u64 = 5;
/// A datagram each: 1,344 bytes of segments in 200 us are 7 MB/s, within the recommended rate.
const STEP_NS: u64 = 200_000;
/// Steps until every buffer has its size: the send window holds 1,024 segments, and reports settle in tens of milliseconds.
const WARM_UP_STEPS: u64 = 3_000;
const COUNTED_STEPS: u64 = 10_000;

fn group() -> GroupId {
    GroupId::of("all")
}

fn stream() -> StreamId {
    StreamId::new(group(), Lane::Routine)
}

/// Goal: from a datagram to its deliveries nothing is allocated. Method: datagrams of five messages each are built
/// beforehand and fed to a receiver, which is drained as its contract says; allocations are counted once it is warm.
#[test]
fn a_datagram_becomes_deliveries_without_allocating() {
    let datagrams: Vec<_> = (0..WARM_UP_STEPS + COUNTED_STEPS).map(datagram).collect();
    let mut receiver = endpoint(2);
    receiver.subscribe(Timestamp::ZERO, group(), Join::Trail);
    let mut batch = TransmitBatch::new(64);
    let mut delivered = 0;
    let mut before = counting::tally();
    for (step, datagram) in (0..).zip(&datagrams) {
        if step == WARM_UP_STEPS {
            before = counting::tally();
        }
        let now = Timestamp::from_nanos(step * STEP_NS);
        receiver.handle_timeout(now);
        receiver
            .handle_datagram(now, address(1), datagram.clone())
            .expect("it is well formed");
        batch.clear();
        let _ = receiver.poll_transmit(now, &mut batch);
        while let Some(event) = receiver.poll_event() {
            delivered += u64::from(matches!(event, Event::Delivered(_)));
        }
    }
    let after = counting::tally();
    assert_eq!(
        delivered,
        (WARM_UP_STEPS + COUNTED_STEPS) * SEGMENTS_PER_DATAGRAM
    );
    assert!(receiver.stats().reports_sent > 100, "reports were counted");
    assert_eq!(after.allocations - before.allocations, 0);
    assert_eq!(after.live_bytes - before.live_bytes, 0);
}

/// Goal: first sends, heartbeats and reports allocate nothing at either end. Method: a pair of endpoints in simulated time,
/// each call counted by itself.
#[test]
fn a_pair_without_loss_does_not_allocate() {
    let mut pair = Pair::new(u64::MAX);
    pair.run(WARM_UP_STEPS);
    pair.counts = Counts::default();
    pair.run(COUNTED_STEPS);
    pair.check();
    let sender = pair.sender.stats();
    assert!(sender.heartbeats_sent > 100 && sender.reports_received > 100);
    assert_eq!(sender.repairs_sent, 0);
}

/// Goal: neither do NACKs, repairs and what waits behind a gap. Method: as before, with every 20th datagram of the sender
/// lost on its way.
#[test]
fn a_pair_with_loss_and_repair_does_not_allocate() {
    let mut pair = Pair::new(20);
    pair.run(WARM_UP_STEPS);
    pair.counts = Counts::default();
    pair.run(COUNTED_STEPS);
    pair.check();
    let (sender, receiver) = (pair.sender.stats(), pair.receiver.stats());
    assert!(sender.repairs_sent > 1_000 && receiver.nacks_sent > 300);
    assert_eq!(receiver.segments_lost, 0);
}

/// Goal: nor does a seal, either way. Method: trains of eight datagrams from one guard to another; turns that tell the grant,
/// ever more seldom, are not counted.
#[test]
fn a_datagram_is_sealed_and_opened_without_allocating() {
    const TRAIN_LEN: u64 = 8;
    const WALL_NS: u64 = 1_800_000_000_000_000_000;
    let keys = ThrowAway::new(FLOOR, [1; 32], WALL_NS / 1_000_000_000 - 10);
    let guard = |name: &str, credentials| {
        let mut endpoint = Config::new(FLOOR, SourceId::of(FLOOR, name), SessionId(1));
        let guard = Guard::new(credentials, &mut endpoint, WALL_NS, Verdicts::default());
        guard.expect("a datagram has room for a seal")
    };
    let mut source = guard("sup-1", keys.source("sup-1", &[]));
    let mut agent = guard("ws-1", keys.workstation("ws-1"));
    let mut batch = TransmitBatch::new(64);
    let (mut counted, mut allocations) = (0, 0);
    for step in 0..4_000 {
        let now = Timestamp::from_nanos(step * STEP_NS);
        batch.clear();
        for number in step * TRAIN_LEN..(step + 1) * TRAIN_LEN {
            let header = Header {
                key: 1,
                floor: FLOOR,
                source: SourceId::of(FLOOR, "sup-1"),
                session: SessionId(1),
                number,
            };
            let mut plain = Vec::new();
            let mut writer = DatagramWriter::plain(&mut plain, 1_400, &header);
            assert!(writer.segment(stream(), SeqNo(number), &advert(), Sending::New, &segment()));
            writer.finish();
            batch.push(Destination::Group(group()), &plain, 256);
        }
        let before = counting::tally().allocations;
        source.seal(now, &mut batch, 0);
        for (_, datagram) in batch.iter() {
            agent
                .open(now, address(1), datagram)
                .expect("it is the source's");
        }
        if step >= 1_000 && batch.len() as u64 == TRAIN_LEN {
            counted += 1;
            allocations += counting::tally().allocations - before;
        }
    }
    assert!(counted > 2_900, "{counted} trains were counted");
    assert_eq!(allocations, 0);
}

fn advert() -> Advert {
    Advert {
        trail: SeqNo::ZERO,
        backoff: QuantDuration::default(),
        age: QuantDuration::default(),
        is_coded: false,
    }
}

const fn segment() -> Segment<'static> {
    Segment {
        place: Place::Whole,
        payload: &[7; SEGMENT_BYTES],
    }
}

/// Allocations by call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    datagram_in: u64,
    transmit: u64,
    event: u64,
    timeout: u64,
}

/// A sender, a receiver, and a wire that loses some.
struct Pair {
    now: Timestamp,
    sender: Endpoint,
    receiver: Endpoint,
    batch: TransmitBatch,
    /// To the receiver or not, and what.
    wire: VecDeque<(bool, Bytes)>,
    lose_every: u64,
    sent: u64,
    counts: Counts,
    published: u64,
    delivered: u64,
    live_bytes: i64,
}

impl Pair {
    fn new(lose_every: u64) -> Self {
        let mut receiver = endpoint(2);
        receiver.subscribe(Timestamp::ZERO, group(), Join::Trail);
        Self {
            now: Timestamp::ZERO,
            sender: endpoint(1),
            receiver,
            batch: TransmitBatch::new(64),
            wire: VecDeque::new(),
            lose_every,
            sent: 0,
            counts: Counts::default(),
            published: 0,
            delivered: 0,
            live_bytes: 0,
        }
    }

    /// Publishes and passes the time, one round trip and more a step.
    fn run(&mut self, steps: u64) {
        let before = counting::tally().live_bytes;
        for _ in 0..steps {
            for _ in 0..SEGMENTS_PER_DATAGRAM {
                let payload = Bytes::from(vec![7; SEGMENT_BYTES]);
                self.sender
                    .publish(self.now, stream(), payload)
                    .expect("the window has room");
                self.published += 1;
            }
            for _ in 0..4 {
                self.settle();
                self.now = self.now.plus_nanos(STEP_NS / 4);
            }
        }
        // What was lost last comes a moment later.
        for _ in 0..200 {
            self.settle();
            self.now = self.now.plus_nanos(STEP_NS / 4);
        }
        self.live_bytes = counting::tally().live_bytes - before;
    }

    fn settle(&mut self) {
        let now = self.now;
        for end in [&mut self.sender, &mut self.receiver] {
            counted(&mut self.counts.timeout, || end.handle_timeout(now));
        }
        loop {
            self.drain();
            let Some((to_receiver, datagram)) = self.wire.pop_front() else {
                return;
            };
            let (end, from) = if to_receiver {
                (&mut self.receiver, address(1))
            } else {
                (&mut self.sender, address(2))
            };
            // A duplicate is no fault: a repair may come twice.
            let _ = counted(&mut self.counts.datagram_in, || {
                end.handle_datagram(now, from, datagram)
            });
        }
    }

    fn drain(&mut self) {
        let (now, counts) = (self.now, &mut self.counts);
        for to_receiver in [true, false] {
            let end = if to_receiver {
                &mut self.sender
            } else {
                &mut self.receiver
            };
            loop {
                self.batch.clear();
                if !counted(&mut counts.transmit, || {
                    end.poll_transmit(now, &mut self.batch)
                }) {
                    break;
                }
                for (to, datagram) in self.batch.iter() {
                    assert!(to != Destination::Group(group()) || to_receiver);
                    let is_data = decode(datagram)
                        .expect("well formed")
                        .messages()
                        .any(|message| matches!(message, Message::Data(_)));
                    self.sent += u64::from(is_data);
                    if !is_data || !self.sent.is_multiple_of(self.lose_every) {
                        self.wire.push_back((to_receiver, shared(datagram)));
                    }
                }
            }
            while let Some(event) = counted(&mut counts.event, || end.poll_event()) {
                self.delivered += u64::from(matches!(event, Event::Delivered(_)));
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.delivered, self.published);
        assert_eq!(self.counts, Counts::default(), "{self}");
        // The wire and the window hold a little more or less at any moment.
        assert!(self.live_bytes.abs() < 16_384, "{self}");
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "allocations {:?}, {} bytes grown, {} datagrams of data, {:?}",
            self.counts,
            self.live_bytes,
            self.sent,
            self.receiver.stats()
        )
    }
}

/// Adds what `call` allocates to `count`.
fn counted<T>(count: &mut u64, call: impl FnOnce() -> T) -> T {
    let before = counting::tally().allocations;
    let result = call();
    *count += counting::tally().allocations - before;
    result
}

fn endpoint(id: u64) -> Endpoint {
    let mut config = Config::new(FLOOR, SourceId(id), SessionId(id));
    config.send_window_len = SendWindowLen::MIN;
    config.send_window_bytes = SendWindowBytes::MIN;
    Endpoint::new(config, id)
}

/// The datagram of `step`, as the source would write it.
fn datagram(step: u64) -> Bytes {
    let mut bytes = Vec::new();
    let header = Header {
        key: 0,
        floor: FLOOR,
        source: SourceId(1),
        session: SessionId(1),
        number: step,
    };
    let mut writer = DatagramWriter::new(&mut bytes, 1_400, &header);
    let (advert, segment) = (advert(), segment());
    for n in 0..SEGMENTS_PER_DATAGRAM {
        let seq = SeqNo(step * SEGMENTS_PER_DATAGRAM + n);
        assert!(writer.segment(stream(), seq, &advert, Sending::New, &segment));
    }
    writer.finish();
    shared(&bytes)
}

/// Bytes that have been shared once: the first clone of any is where `Bytes` allocates its counter of owners, and that is
/// the owner's affair, who may take it from a pool.
fn shared(bytes: &[u8]) -> Bytes {
    let bytes = Bytes::copy_from_slice(bytes);
    drop(bytes.clone());
    bytes
}

fn address(id: u8) -> SocketAddr {
    ([10, 0, 0, id], 7_700).into()
}

/// Goal: a zero above means something. Method: what does allocate is counted, and given back.
#[test]
fn the_counter_counts() {
    let before = counting::tally();
    let held = Bytes::from(vec![7; 1_000]);
    assert_eq!(counting::tally().allocations - before.allocations, 1);
    assert_eq!(counting::tally().live_bytes - before.live_bytes, 1_000);
    drop(held);
    assert_eq!(counting::tally().live_bytes, before.live_bytes);
}

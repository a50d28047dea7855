//! A script of hostile datagrams between the datagrams of a running stream: no panic, no transmission without end, and the
//! stream arrives complete, once, in order.
//!
//! The script is read two bytes at a time, an action and its argument; hostile messages take what they need behind them.
//! Whatever the attacker sends has a right checksum and another source's name.

#![no_main]

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use floorcast::proto::{
    Config, Destination, Endpoint, Event, Join, Origin, ReceiveBytes, ReceiveWindowLen,
    SendWindowBytes, SendWindowLen, TransmitBatch,
};
use floorcast::time::Timestamp;
use floorcast::wire::{
    FloorId, GroupId, Lane, Message, SeqNo, SeqRange, SessionId, SourceId, StreamId, decode,
};
use libfuzzer_sys::fuzz_target;

const FLOOR: FloorId = FloorId(7);
const SENDER: Origin = Origin {
    source: SourceId(1),
    session: SessionId(11),
};
const RECEIVER: Origin = Origin {
    source: SourceId(2),
    session: SessionId(22),
};
/// The largest number that may travel.
const ABSURD_MAX: u64 = SeqNo::MAX.0;

fuzz_target!(|script: &[u8]| {
    let mut lab = Lab::new();
    let mut script = Script(script);
    // Long enough to matter, short enough to be quick.
    for _ in 0..200 {
        let Some([action, argument]) = script.array() else {
            break;
        };
        lab.act(action, argument, &mut script);
    }
    lab.finish();
});

/// The fuzzer's bytes, from the front.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn bytes(&mut self, len: usize) -> &[u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }
}

struct Lab {
    now: Timestamp,
    sender: Endpoint,
    receiver: Endpoint,
    batch: TransmitBatch,
    pipe: VecDeque<(bool, Bytes)>,
    recent: VecDeque<Bytes>,
    expected: VecDeque<(SeqRange, Bytes)>,
    published: u64,
}

impl Lab {
    fn new() -> Self {
        let mut this = Self {
            now: Timestamp::ZERO,
            sender: Endpoint::new(config(SENDER), 1),
            receiver: Endpoint::new(config(RECEIVER), 2),
            batch: TransmitBatch::new(16),
            pipe: VecDeque::new(),
            recent: VecDeque::new(),
            expected: VecDeque::new(),
            published: 0,
        };
        this.sender.subscribe(this.now, group(), Join::Trail);
        this.receiver.subscribe(this.now, group(), Join::Trail);
        this.publish(10);
        this.pass(1_000_000);
        this
    }

    fn act(&mut self, action: u8, argument: u8, script: &mut Script<'_>) {
        let to_receiver = action & 0x80 == 0;
        match action % 8 {
            0 => self.publish(usize::from(argument)),
            1 => self.publish(usize::from(argument) * 40),
            2 => self.pass(u64::from(argument) * 10_000),
            3 => self.pass(u64::from(argument) * 1_000_000),
            // Messages of the fuzzer's own making.
            4 | 5 => {
                let body = script.bytes(usize::from(argument)).to_vec();
                self.attack(to_receiver, action, argument, &body);
            }
            // A real datagram's messages under another name, one byte changed.
            6 => {
                let at = usize::from(argument) % self.recent.len().max(1);
                if let Some(real) = self.recent.get(at) {
                    let mut body = real[32..real.len() - 10].to_vec();
                    if let Some([place, value]) = script.array() {
                        let place = usize::from(place) % body.len();
                        body[place] = value;
                    }
                    self.attack(to_receiver, action, argument, &body);
                }
            }
            // A replay.
            _ => {
                let at = usize::from(argument) % self.recent.len().max(1);
                if let Some(real) = self.recent.get(at).cloned() {
                    self.hand(to_receiver, hostile(argument), real);
                }
            }
        }
        self.settle();
    }

    /// One of sixteen sources, each in one of two sessions.
    fn attack(&mut self, to_receiver: bool, action: u8, argument: u8, body: &[u8]) {
        let mut bytes = vec![1, 0, 0, 0];
        bytes.extend_from_slice(&FLOOR.0.to_be_bytes());
        bytes.extend_from_slice(&u64::from(100 + (action >> 3 & 0x0f)).to_be_bytes());
        bytes.extend_from_slice(&u64::from(argument & 1).to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, u64::from(FLOOR.0));
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes.extend_from_slice(&8u16.to_be_bytes());
        if is_within_cap(&bytes) {
            self.hand(to_receiver, hostile(argument), Bytes::from(bytes));
        }
    }

    fn hand(&mut self, to_receiver: bool, from: SocketAddr, datagram: Bytes) {
        let (now, end) = (
            self.now,
            if to_receiver {
                &mut self.receiver
            } else {
                &mut self.sender
            },
        );
        let _ = end.handle_datagram(now, from, datagram);
    }

    fn publish(&mut self, len: usize) {
        self.published += 1;
        let payload = Bytes::from(vec![self.published.to_be_bytes()[7]; len]);
        if let Ok(seqs) = self.sender.publish(self.now, stream(), payload.clone()) {
            self.expected.push_back((seqs, payload));
        }
    }

    fn pass(&mut self, nanos: u64) {
        self.now = self.now.plus_nanos(nanos);
        self.sender.handle_timeout(self.now);
        self.receiver.handle_timeout(self.now);
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            for of_sender in [true, false] {
                self.drain(of_sender);
            }
            let Some((to_receiver, datagram)) = self.pipe.pop_front() else {
                return;
            };
            self.hand(to_receiver, address(!to_receiver), datagram);
        }
    }

    fn drain(&mut self, of_sender: bool) {
        for round in 0.. {
            assert!(round < 1_000, "transmits without end");
            self.batch.clear();
            let end = if of_sender {
                &mut self.sender
            } else {
                &mut self.receiver
            };
            if !end.poll_transmit(self.now, &mut self.batch) {
                break;
            }
            for (to, datagram) in self.batch.iter() {
                decode(datagram).expect("an endpoint writes what can be read");
                let datagram = Bytes::copy_from_slice(datagram);
                if of_sender {
                    self.recent.push_back(datagram.clone());
                    // The first ones are as good to damage as any.
                    self.recent.truncate(64);
                }
                match to {
                    Destination::Group(_) => assert!(of_sender),
                    Destination::Unicast(at) if at == address(!of_sender) => (),
                    Destination::Unicast(_) => continue,
                }
                self.pipe.push_back((of_sender, datagram));
            }
        }
        let end = if of_sender {
            &mut self.sender
        } else {
            &mut self.receiver
        };
        while let Some(event) = end.poll_event() {
            match event {
                Event::Delivered(delivery) if delivery.origin == SENDER => {
                    let expected = self.expected.pop_front();
                    assert_eq!(expected, Some((delivery.seqs, delivery.payload)));
                }
                Event::Lost { origin, .. } | Event::SessionEnded { origin, .. } => {
                    assert_ne!(origin, SENDER)
                }
                Event::NameConflict { .. } => panic!("nobody uses our names"),
                _ => (),
            }
        }
    }

    /// Whatever was going on: a moment of rest, and everything is there.
    fn finish(&mut self) {
        for _ in 0..20 {
            self.pass(5_000_000);
        }
        assert!(
            self.expected.is_empty(),
            "{} messages never came",
            self.expected.len()
        );
    }
}

fn is_within_cap(bytes: &[u8]) -> bool {
    let Ok(datagram) = decode(bytes) else {
        return true;
    };
    datagram.messages().all(|message| match message {
        Message::Data(data) => data.first.0 <= ABSURD_MAX,
        Message::Heartbeat(heartbeat) => heartbeat.next.0 <= ABSURD_MAX,
        Message::Squelch(squelch) => squelch.trail.0 <= ABSURD_MAX,
        Message::Parity(parity) => parity.block.first.0 <= ABSURD_MAX,
        Message::Skip(skip) => skip.runs().all(|run| run.end().0 <= ABSURD_MAX),
        _ => true,
    })
}

fn config(origin: Origin) -> Config {
    let mut config = Config::new(FLOOR, origin.source, origin.session);
    config.send_window_len = SendWindowLen::MIN;
    config.send_window_bytes = SendWindowBytes::MIN;
    config.receive_window_len = ReceiveWindowLen::MIN;
    config.receive_bytes = ReceiveBytes::MIN;
    config
}

fn group() -> GroupId {
    GroupId(5)
}

fn stream() -> StreamId {
    StreamId::new(group(), Lane::Routine)
}

fn address(of_sender: bool) -> SocketAddr {
    ([10, 0, 0, if of_sender { 1 } else { 2 }], 7_700).into()
}

fn hostile(argument: u8) -> SocketAddr {
    ([10, 66, 0, argument], 7_700).into()
}

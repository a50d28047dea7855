//! What the core costs without sockets: a datagram written, read, put in order, repaired, delivered.
//!
//! ```sh
//! cargo bench --no-default-features --bench core
//! ```

use std::hint::black_box;
use std::net::SocketAddr;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use floorcast::guard::{Guard, Verdicts};
use floorcast::keys::ThrowAway;
use floorcast::proto::{Config, Destination, Endpoint, Event, Join, TransmitBatch};
use floorcast::time::Timestamp;
use floorcast::wire::{
    Advert, DatagramWriter, FloorId, GroupId, Header, Lane, Message, Place, QuantDuration, Segment,
    Sending, SeqNo, SessionId, SourceId, StreamId, decode,
};

const FLOOR: FloorId = FloorId(3);
const DATAGRAM_BYTES: usize = 1_400;
const SEGMENT: Segment<'static> = Segment {
    place: Place::Whole,
    payload: &[7; 256],
};
/// What fits in a datagram: 1,366 of its 1,400 bytes.
const SEGMENTS_PER_DATAGRAM: u64 = 5;
/// Datagrams a measured round takes in; as many go before it, so that buffers have their size.
const DATAGRAMS: u64 = 1_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encode(&mut criterion);
    read(&mut criterion);
    deliver(&mut criterion, "deliver/1x256", 1);
    deliver(&mut criterion, "deliver/5x256", SEGMENTS_PER_DATAGRAM);
    repair(&mut criterion);
    aead(&mut criterion);
    protect(&mut criterion);
    criterion.final_summary();
}

/// The candidates for sealing a datagram, in one run.
fn aead(criterion: &mut Criterion) {
    use aes_gcm::aead::AeadInOut as _;
    use aes_gcm::{Aes256Gcm, KeyInit as _};
    use chacha20poly1305::ChaCha20Poly1305;
    let mut body = vec![7; DATAGRAM_BYTES];
    let (key, nonce, header) = ([1; 32], [2; 12], [3; 32]);
    let mut group = criterion.benchmark_group("aead");
    group.throughput(Throughput::Bytes(DATAGRAM_BYTES as u64));
    let ring = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, &key);
    let ring = ring::aead::LessSafeKey::new(ring.expect("a key has 32 bytes"));
    group.bench_function("ring AES-256-GCM", |bencher| {
        bencher.iter(|| {
            let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
            let aad = ring::aead::Aad::from(&header);
            black_box(ring.seal_in_place_separate_tag(nonce, aad, &mut body)).is_ok()
        });
    });
    let rust_crypto = Aes256Gcm::new(&key.into());
    group.bench_function("aes-gcm AES-256-GCM", |bencher| {
        bencher.iter(|| {
            let sealed = rust_crypto.encrypt_inout_detached(
                &nonce.into(),
                &header,
                body.as_mut_slice().into(),
            );
            black_box(sealed).is_ok()
        });
    });
    let chacha = ChaCha20Poly1305::new(&key.into());
    group.bench_function("chacha20poly1305", |bencher| {
        bencher.iter(|| {
            let sealed =
                chacha.encrypt_inout_detached(&nonce.into(), &header, body.as_mut_slice().into());
            black_box(sealed).is_ok()
        });
    });
    group.finish();
}

/// What protection costs each side, for a full train of full datagrams and for one small one.
fn protect(criterion: &mut Criterion) {
    const NOW: Timestamp = Timestamp::from_nanos(1);
    const WALL_NS: u64 = 1_800_000_000_000_000_000;
    let all = GroupId::of("all");
    let stream = StreamId::new(all, Lane::Routine);
    let advert = Advert {
        trail: SeqNo::ZERO,
        backoff: QuantDuration::default(),
        age: QuantDuration::default(),
        is_coded: false,
    };
    let keys = ThrowAway::new(FLOOR, [1; 32], WALL_NS / 1_000_000_000 - 10);
    let guard = |name: &str, credentials| {
        let mut endpoint = Config::new(FLOOR, SourceId::of(FLOOR, name), SessionId(1));
        let guard = Guard::new(credentials, &mut endpoint, WALL_NS, Verdicts::default());
        guard.expect("a datagram has room for a seal")
    };
    let from = SocketAddr::from(([127, 0, 0, 1], 7));
    let mut group = criterion.benchmark_group("protect");
    for (datagrams, segments) in [(128, 4), (1, 1)] {
        group.throughput(Throughput::Elements(datagrams));
        let plain = |number: u64| {
            let mut bytes = Vec::new();
            let header = Header {
                key: 1,
                floor: FLOOR,
                source: SourceId::of(FLOOR, "sup-1"),
                session: SessionId(1),
                number,
            };
            let mut writer = DatagramWriter::plain(&mut bytes, DATAGRAM_BYTES, &header);
            for segment in 0..segments {
                let seq = SeqNo(number * segments + segment);
                assert!(writer.segment(stream, seq, &advert, Sending::New, &SEGMENT));
            }
            writer.finish();
            bytes
        };
        let batch_of = |first: u64| {
            let mut batch = TransmitBatch::new(128);
            for number in first..first + datagrams {
                batch.push(Destination::Group(all), &plain(number), 256);
            }
            batch
        };
        let mut source = guard("sup-1", keys.source("sup-1", &[]));
        let mut first = 0;
        group.bench_function(format!("seal/{datagrams}x{segments}x256"), |bencher| {
            let next = || {
                first += datagrams;
                batch_of(first)
            };
            bencher.iter_batched(
                next,
                |mut batch| {
                    source.seal(NOW, &mut batch, 0);
                    batch
                },
                BatchSize::SmallInput,
            );
        });
        let mut agent = guard("ws-1", keys.workstation("ws-1"));
        let mut source = guard("sup-1", keys.source("sup-1", &[]));
        let mut first = 0;
        group.bench_function(format!("open/{datagrams}x{segments}x256"), |bencher| {
            let next = || {
                first += datagrams;
                let mut batch = batch_of(first);
                source.seal(NOW, &mut batch, 0);
                batch
            };
            bencher.iter_batched(
                next,
                |batch| {
                    for (_, datagram) in batch.iter() {
                        assert!(agent.open(NOW, from, datagram).is_ok());
                    }
                    batch
                },
                BatchSize::SmallInput,
            );
        });
        // What came again, and what somebody without the floor's key has made up.
        let mut sealed = batch_of(first + datagrams);
        source.seal(NOW, &mut sealed, 0);
        let (_, again) = sealed.iter().last().expect("it holds some");
        assert!(agent.open(NOW, from, again).is_ok());
        let mut made_up = again.to_vec();
        made_up[16] ^= 1;
        for (name, datagram) in [("replay", again), ("made up", &made_up)] {
            group.bench_function(format!("refuse/{name} {}", datagram.len()), |bencher| {
                bencher.iter(|| assert!(agent.open(NOW, from, black_box(datagram)).is_err()));
            });
        }
    }
    group.finish();
}

/// One full datagram written into a buffer that has its size.
fn encode(criterion: &mut Criterion) {
    let mut bytes = Vec::with_capacity(DATAGRAM_BYTES);
    let mut group = criterion.benchmark_group("wire");
    group.throughput(throughput(1, SEGMENTS_PER_DATAGRAM));
    group.bench_function("encode/5x256", |bencher| {
        bencher.iter(|| {
            bytes.clear();
            write(
                &mut bytes,
                black_box(0),
                SEGMENTS_PER_DATAGRAM,
                Sending::New,
            );
            black_box(&bytes);
        });
    });
    group.finish();
}

/// The same datagram taken apart, every segment looked at.
fn read(criterion: &mut Criterion) {
    let datagram = datagram(0, SEGMENTS_PER_DATAGRAM, Sending::New);
    let mut group = criterion.benchmark_group("wire");
    group.throughput(throughput(1, SEGMENTS_PER_DATAGRAM));
    group.bench_function("decode/5x256", |bencher| {
        bencher.iter(|| {
            let decoded = decode(black_box(&datagram)).expect("it is well formed");
            let mut bytes = 0;
            for message in decoded.messages() {
                if let Message::Data(data) = message {
                    bytes += data
                        .segments()
                        .map(|(_, segment)| segment.payload.len())
                        .sum::<usize>();
                }
            }
            bytes
        });
    });
    group.finish();
}

/// From a datagram that comes in to the messages that go out, nothing lost.
fn deliver(criterion: &mut Criterion, name: &str, segments: u64) {
    let warm_up = run(0..DATAGRAMS, segments);
    let measured = run(DATAGRAMS..2 * DATAGRAMS, segments);
    bench_receiver(criterion, name, &warm_up, &measured, segments);
}

/// Every tenth datagram comes ten later, as a repair: a gap opens, is asked for, and closes.
fn repair(criterion: &mut Criterion) {
    let with_gaps = |steps: std::ops::Range<u64>| {
        let mut datagrams = Vec::new();
        for step in steps {
            if step % 10 != 3 {
                datagrams.push(datagram(step, SEGMENTS_PER_DATAGRAM, Sending::New));
            }
            if step % 10 == 9 {
                datagrams.push(datagram(step - 6, SEGMENTS_PER_DATAGRAM, Sending::Repair));
            }
        }
        datagrams
    };
    let (warm_up, measured) = (with_gaps(0..DATAGRAMS), with_gaps(DATAGRAMS..2 * DATAGRAMS));
    let name = "repair-10%/5x256";
    bench_receiver(criterion, name, &warm_up, &measured, SEGMENTS_PER_DATAGRAM);
}

fn bench_receiver(
    criterion: &mut Criterion,
    name: &str,
    warm_up: &[Bytes],
    measured: &[Bytes],
    segments: u64,
) {
    let mut group = criterion.benchmark_group("receive");
    group.throughput(throughput(DATAGRAMS, segments));
    group.bench_function(name, |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut receiver = Receiver::new();
                receiver.take(warm_up);
                receiver
            },
            |receiver| {
                let delivered = receiver.take(measured);
                assert_eq!(delivered, DATAGRAMS * segments);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// A receiver that is drained after every datagram, as its contract says.
struct Receiver {
    endpoint: Endpoint,
    batch: TransmitBatch,
    now: Timestamp,
}

impl Receiver {
    fn new() -> Self {
        let config = Config::new(FLOOR, SourceId(2), SessionId(2));
        let mut endpoint = Endpoint::new(config, 2);
        endpoint.subscribe(Timestamp::ZERO, stream().group(), Join::Trail);
        Self {
            endpoint,
            batch: TransmitBatch::new(64),
            now: Timestamp::ZERO,
        }
    }

    /// Takes datagrams in, 5 us apart; the number of messages that came out.
    fn take(&mut self, datagrams: &[Bytes]) -> u64 {
        let from = SocketAddr::from(([10, 0, 0, 1], 7_700));
        let mut delivered = 0;
        for datagram in datagrams {
            self.now = self.now.plus_nanos(5_000);
            self.endpoint
                .handle_datagram(self.now, from, datagram.clone())
                .expect("it is well formed");
            self.batch.clear();
            black_box(self.endpoint.poll_transmit(self.now, &mut self.batch));
            while let Some(event) = self.endpoint.poll_event() {
                delivered += u64::from(matches!(event, Event::Delivered(_)));
            }
            self.endpoint.handle_timeout(self.now);
        }
        delivered
    }
}

fn run(steps: std::ops::Range<u64>, segments: u64) -> Vec<Bytes> {
    steps
        .map(|step| datagram(step, segments, Sending::New))
        .collect()
}

/// The `step`-th datagram of the stream. Shared once already, so that no round pays for the first sharing.
fn datagram(step: u64, segments: u64, sending: Sending) -> Bytes {
    let mut bytes = Vec::new();
    write(&mut bytes, step * segments, segments, sending);
    let bytes = Bytes::from(bytes);
    drop(bytes.clone());
    bytes
}

fn write(bytes: &mut Vec<u8>, first: u64, segments: u64, sending: Sending) {
    let header = Header {
        key: 0,
        floor: FLOOR,
        source: SourceId(1),
        session: SessionId(1),
        number: first,
    };
    let advert = Advert {
        trail: SeqNo::ZERO,
        backoff: QuantDuration::default(),
        age: QuantDuration::default(),
        is_coded: false,
    };
    let mut writer = DatagramWriter::new(bytes, DATAGRAM_BYTES, &header);
    for n in 0..segments {
        let seq = SeqNo(first + n);
        assert!(writer.segment(stream(), seq, &advert, sending, &SEGMENT));
    }
    writer.finish();
}

fn stream() -> StreamId {
    StreamId::new(GroupId::of("all"), Lane::Routine)
}

/// Messages, and bytes of them.
fn throughput(datagrams: u64, segments: u64) -> Throughput {
    let elements = datagrams * segments;
    Throughput::ElementsAndBytes {
        elements,
        bytes: elements * SEGMENT.payload.len() as u64,
    }
}

//! Real sockets on the loopback card; nothing leaves this host: TTL 0, and every group is drawn anew.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Interest, Poll, Token};

use super::*;

const OPTIONS: SocketOptions = SocketOptions {
    ttl: 0,
    dscp: None,
    receive_buffer_bytes: 200_000,
    send_buffer_bytes: 0,
    io: IoMode::Offload,
    train_datagrams: TRAIN_DATAGRAMS,
};
/// Without trains, for what counts slots.
const BATCHED: SocketOptions = SocketOptions {
    io: IoMode::Batch,
    ..OPTIONS
};
const MODES: [IoMode; 3] = [IoMode::Plain, IoMode::Batch, IoMode::Offload];
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn lo() -> Interface {
    let here = interfaces().unwrap();
    here.into_iter()
        .find(|card| card.kind == InterfaceKind::Loopback)
        .expect("a loopback card")
}

/// A group nobody else is likely to use: random address, and a port that was free a moment ago.
fn draw_group() -> SocketAddr {
    let [a, b, ..] = RandomState::new()
        .hash_one(std::process::id())
        .to_ne_bytes();
    let probe = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    SocketAddr::from((
        Ipv4Addr::new(239, 255, a, b),
        probe.local_addr().unwrap().port(),
    ))
}

fn sender() -> Socket {
    Socket::unicast(Family::V4, &lo(), 0, &OPTIONS).unwrap()
}

fn listen(group: SocketAddr) -> Socket {
    Socket::group(group, &lo(), &OPTIONS).unwrap()
}

fn send_all(socket: &mut Socket, to: SocketAddr, payloads: &[&[u8]]) -> SendErrors {
    let datagrams: Vec<_> = payloads
        .iter()
        .map(|bytes| Outgoing { to, bytes })
        .collect();
    let mut errors = SendErrors::default();
    let sent = socket.send(&datagrams, &mut errors);
    assert_eq!(sent.consumed, datagrams.len());
    assert_eq!(sent.sent as u64 + errors.total(), datagrams.len() as u64);
    errors
}

/// Takes out what waits, as far as the caller asks.
fn drain(batch: &mut ReceiveBatch) -> impl Iterator<Item = (SocketAddr, Bytes)> {
    std::iter::from_fn(|| batch.pop())
}

/// Waits for `count` datagrams through a poll, as the event loop does.
fn expect(socket: &mut Socket, count: usize) -> Vec<(SocketAddr, Bytes)> {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    poll.registry()
        .register(socket, Token(0), Interest::READABLE)
        .unwrap();
    let mut batch = ReceiveBatch::new(8, 2_000);
    let mut all = Vec::new();
    while all.len() < count {
        poll.poll(&mut events, Some(Duration::from_secs(5)))
            .unwrap();
        assert!(
            !events.is_empty(),
            "{} of {count} datagrams in 5 s",
            all.len()
        );
        while !socket.receive(&mut batch).would_block {
            all.extend(drain(&mut batch));
        }
        all.extend(drain(&mut batch));
    }
    poll.registry().deregister(socket).unwrap();
    all
}

/// What is there now. Loopback delivers within the send call, so nothing can still be on its way.
fn now(socket: &mut Socket) -> usize {
    let mut batch = ReceiveBatch::new(64, 2_000);
    let received = socket.receive(&mut batch);
    assert!(received.would_block && received.errors == 0, "{received:?}");
    assert_eq!(batch.len(), received.count);
    received.count
}

#[test]
fn every_member_of_the_group_hears_and_can_answer() {
    let group = draw_group();
    let (mut one, mut two, mut source) = (listen(group), listen(group), sender());
    // More than a chunk of the system call and than the batch, to cross both bounds; one of them empty.
    let payloads: Vec<Vec<u8>> = (0..150_u8).map(|i| vec![i; usize::from(i)]).collect();
    let errors = send_all(
        &mut source,
        group,
        &payloads.iter().map(Vec::as_slice).collect::<Vec<_>>(),
    );
    assert_eq!(errors.total(), 0);
    for socket in [&mut one, &mut two] {
        let heard = expect(socket, 150);
        assert!(heard.iter().all(|(from, _)| *from == source.local_addr()));
        assert!(heard.iter().map(|(_, bytes)| bytes).eq(&payloads));
    }
    let mut member = sender();
    assert_eq!(
        send_all(&mut member, source.local_addr(), &[b"NACK"]).total(),
        0
    );
    assert_eq!(
        expect(&mut source, 1),
        [(member.local_addr(), Bytes::from_static(b"NACK"))]
    );
}

#[test]
#[cfg(unix)] // Windows cannot keep groups on one port apart.
fn another_group_on_the_same_port_is_not_heard() {
    let group = draw_group();
    let mut other = draw_group();
    other.set_port(group.port());
    let (mut here, mut there) = (listen(group), listen(other));
    let _ = send_all(&mut sender(), other, &[b"not for you"]);
    assert_eq!((now(&mut here), now(&mut there)), (0, 1));
}

#[test]
fn leaving_is_deaf_and_rejoining_twice_hears_once() {
    let group = draw_group();
    let (mut member, mut source) = (listen(group), sender());
    member.leave();
    member.leave();
    assert!(!member.is_joined());
    let _ = send_all(&mut source, group, &[b"missed"]);
    assert_eq!(now(&mut member), 0);
    member.rejoin(&lo()).unwrap();
    member.rejoin(&lo()).unwrap();
    source.rejoin(&lo()).unwrap();
    let _ = send_all(&mut source, group, &[b"heard"]);
    assert_eq!(now(&mut member), 1);
}

#[test]
fn a_socket_whose_address_has_gone_says_so() {
    let mut moved = lo();
    moved.addresses.clear();
    assert_eq!(
        sender().rejoin(&moved).unwrap_err().kind(),
        io::ErrorKind::AddrNotAvailable
    );
}

#[test]
fn a_datagram_longer_than_a_slot_is_counted_and_dropped() {
    let group = draw_group();
    let mut member = listen(group);
    let _ = send_all(
        &mut sender(),
        group,
        &[&[1; 100], &[2; 101], &[3; 5_000], &[4; 99]],
    );
    let mut batch = ReceiveBatch::new(8, 100);
    let received = member.receive(&mut batch);
    assert_eq!(
        (received.count, received.truncated, received.would_block),
        (2, 2, true)
    );
    assert_eq!(batch.len(), 2);
    let lengths: Vec<_> = drain(&mut batch)
        .map(|(_, bytes)| (bytes[0], bytes.len()))
        .collect();
    assert_eq!(lengths, [(1, 100), (4, 99)]);
    assert!(batch.is_empty());
}

#[test]
fn one_bad_destination_does_not_hold_up_the_others() {
    let group = draw_group();
    let (mut member, mut source) = (listen(group), sender());
    let long = vec![0; 70_000];
    let to_v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, group.port()));
    let broadcast = SocketAddr::from((Ipv4Addr::new(127, 255, 255, 255), group.port()));
    let datagrams = [
        Outgoing {
            to: group,
            bytes: &long,
        },
        Outgoing {
            to: group,
            bytes: b"first",
        },
        Outgoing {
            to: to_v6,
            bytes: b"wrong family",
        },
        Outgoing {
            to: broadcast,
            bytes: b"broadcasting was not asked for",
        },
        Outgoing {
            to: group,
            bytes: b"last",
        },
    ];
    let mut errors = SendErrors::default();
    let sent = source.send(&datagrams, &mut errors);
    assert_eq!(
        sent,
        Sent {
            consumed: 5,
            sent: 2,
            ..Sent::default()
        }
    );
    assert_eq!(
        (errors.too_big, errors.refused, errors.total()),
        (1, 1, 3),
        "{errors:?}"
    );
    assert_eq!(errors.last.unwrap().to, broadcast);
    assert_eq!(expect(&mut member, 2).len(), 2);
}

#[test]
fn send_errors_are_told_apart() {
    let nothing = Outgoing {
        to: draw_group(),
        bytes: b"",
    };
    let mut errors = SendErrors::default();
    use io::ErrorKind as Kind;
    for kind in [
        Kind::PermissionDenied,
        Kind::HostUnreachable,
        Kind::NetworkUnreachable,
        Kind::NetworkDown,
    ] {
        errors.count(&nothing, kind.into());
    }
    #[cfg(target_os = "linux")]
    for code in [
        libc::ENOBUFS,
        libc::ENODEV,
        libc::EADDRNOTAVAIL,
        libc::ECONNREFUSED,
        libc::EMSGSIZE,
        libc::EINVAL,
    ] {
        errors.count(&nothing, io::Error::from_raw_os_error(code));
    }
    assert_eq!(errors.refused, 1);
    #[cfg(target_os = "linux")]
    assert_eq!(
        (
            errors.unreachable,
            errors.no_buffers,
            errors.too_big,
            errors.other
        ),
        (6, 1, 1, 1)
    );
}

#[test]
fn a_full_batch_stops_short_of_would_block_and_loses_nothing() {
    let group = draw_group();
    let mut member = Socket::group(group, &lo(), &BATCHED).unwrap();
    let _ = send_all(&mut sender(), group, &[b"1", b"2", b"3", b"4", b"5"]);
    let mut batch = ReceiveBatch::new(2, 100);
    let received = member.receive(&mut batch);
    assert_eq!((received.count, received.would_block), (2, false));
    // A batch that is still full takes nothing; one that is half drained keeps what is left.
    assert_eq!(member.receive(&mut batch).count, 0);
    assert!(batch.is_full());
    let mut order: Vec<u8> = drain(&mut batch)
        .take(1)
        .map(|(_, bytes)| bytes[0])
        .collect();
    while !batch.is_empty() {
        order.extend(drain(&mut batch).map(|(_, bytes)| bytes[0]));
        let _ = member.receive(&mut batch);
    }
    assert_eq!(order, *b"12345");
    assert_eq!(now(&mut member), 0);
}

/// Loopback takes a datagram off the sender's account at once, so its send buffer never fills; a queue in front does it:
/// `unshare -n sh -c 'ip link set lo up; tc qdisc add dev lo root tbf rate 1mbit burst 10kb limit 10mb;
/// cargo test --offline full_send_buffer -- --nocapture'`
#[test]
fn a_full_send_buffer_blocks_and_says_how_far_it_got() {
    let options = SocketOptions {
        send_buffer_bytes: 20_000,
        ..OPTIONS
    };
    let mut source = Socket::unicast(Family::V4, &lo(), 0, &options).unwrap();
    let group = draw_group();
    let _member = listen(group);
    let datagrams = [Outgoing {
        to: group,
        bytes: &[0; 1_000],
    }; 200];
    let mut errors = SendErrors::default();
    let sent = source.send(&datagrams, &mut errors);
    println!("{sent:?} {errors:?}");
    assert_eq!((errors.total(), sent.consumed), (0, sent.sent));
    assert_eq!(sent.would_block, sent.consumed < datagrams.len());
}

#[test]
fn a_steady_flow_allocates_nothing_and_a_held_payload_is_never_overwritten() {
    let group = draw_group();
    let (mut member, mut source) = (Socket::group(group, &lo(), &BATCHED).unwrap(), sender());
    let mut batch = ReceiveBatch::new(16, 1_500);
    let mut buffers = std::collections::BTreeSet::new();
    for round in 0..625_u16 {
        let payload = [round.to_be_bytes(); 600].concat();
        let _ = send_all(&mut source, group, &[payload.as_slice(); 16]);
        assert_eq!(member.receive(&mut batch).count, 16);
        for (_, bytes) in drain(&mut batch) {
            assert_eq!(bytes, payload);
            buffers.insert(bytes.as_ptr() as usize);
        }
    }
    assert_eq!(
        (buffers.len(), batch.allocations()),
        (16, 0),
        "10,000 datagrams through the same 16 buffers"
    );

    let _ = send_all(&mut source, group, &[b"held"]);
    let _ = member.receive(&mut batch);
    let held = drain(&mut batch).next().unwrap().1;
    assert!(buffers.contains(&(held.as_ptr() as usize)));
    let _ = send_all(&mut source, group, &[[9; 1_500].as_slice(); 16]);
    let _ = member.receive(&mut batch);
    assert_eq!((batch.allocations(), &held[..]), (1, &b"held"[..]));
}

#[test]
fn options_are_asked_for_and_what_was_granted_is_told() {
    let options = SocketOptions {
        ttl: 1,
        dscp: Some(46),
        receive_buffer_bytes: 100_000,
        send_buffer_bytes: 50_000,
        ..OPTIONS
    };
    let socket = Socket::unicast(Family::V4, &lo(), 0, &options).unwrap();
    assert_eq!(
        socket.granted(),
        Buffers {
            receive_bytes: 100_000,
            send_bytes: 50_000
        }
    );
    let raw = SockRef::from(&socket.io);
    assert_eq!(raw.multicast_ttl_v4().unwrap(), 1);
    assert!(raw.multicast_loop_v4().unwrap());
    #[cfg(target_os = "linux")]
    assert_eq!(
        (raw.tos_v4().unwrap(), raw.multicast_all_v4().unwrap()),
        (46 << 2, false)
    );
    let greedy = SocketOptions {
        receive_buffer_bytes: 2_000_000_000,
        ..options
    };
    let granted = Socket::unicast(Family::V4, &lo(), 0, &greedy)
        .unwrap()
        .granted();
    assert!((100_000..=2_000_000_000).contains(&granted.receive_bytes));
}

#[test]
fn mistakes_are_named_with_their_remedy() {
    let mut bare = lo();
    (bare.v4, bare.v6) = (None, None);
    let say = |error: Result<Socket, OpenError>| error.unwrap_err().to_string();
    let host = SocketAddr::from((LOOPBACK, 7_700));
    assert!(
        say(Socket::group(host, &lo(), &OPTIONS))
            .starts_with("127.0.0.1 is no multicast address; a group needs")
    );
    let no_v4 = "interface lo has no IPv4 address; give it one or choose another interface";
    assert_eq!(
        say(Socket::group(draw_group(), &bare, &OPTIONS)),
        no_v4.replace("lo", &bare.name)
    );
    let dscp = SocketOptions {
        dscp: Some(64),
        ..OPTIONS
    };
    assert_eq!(
        say(Socket::unicast(Family::V4, &lo(), 0, &dscp)),
        "dscp is 64; it must be 0 to 63"
    );
    let taken = sender().local_addr().port();
    let holder = Socket::unicast(Family::V4, &lo(), taken, &OPTIONS).unwrap();
    let error = say(Socket::unicast(Family::V4, &lo(), taken, &OPTIONS));
    assert_eq!(
        error,
        format!(
            "cannot bind to {} on interface {}",
            holder.local_addr(),
            lo().name
        )
    );
}

#[test]
fn a_socket_nobody_listens_to_stays_usable() {
    let mut source = sender();
    let gone = sender().local_addr();
    for _ in 0..3 {
        let _ = send_all(&mut source, gone, &[b"anybody?"]);
    }
    let mut batch = ReceiveBatch::new(4, 100);
    let received = source.receive(&mut batch);
    assert_eq!(
        (received.count, received.errors, received.would_block),
        (0, 0, true),
        "{received:?}"
    );
    assert!(!received.is_stuck());
}

/// Needs what most hosts' loopback lacks, a route for ff00::/8. To run it for certain:
/// `unshare -n sh -c 'ip link set lo up; ip -6 route add local ff00::/8 dev lo; cargo test --offline v6'`
#[test]
fn v6_groups_work_where_loopback_carries_them() {
    let card = lo();
    let ports = draw_group().port();
    let Ok(mut source) = Socket::unicast(Family::V6, &card, 0, &OPTIONS) else {
        println!("skipped: no IPv6 on {card}");
        return;
    };
    for scope in [0xff11, 0xff12, 0xff15] {
        let [a, b, ..] = RandomState::new().hash_one(scope).to_ne_bytes();
        let ip = Ipv6Addr::new(scope, 0, 0, 0, 0, 0, 0x77, u16::from_ne_bytes([a, b]));
        let group = SocketAddr::from((ip, ports));
        let mut member = Socket::group(group, &card, &OPTIONS).unwrap();
        member.rejoin(&card).unwrap();
        let errors = send_all(&mut source, group, &[b"six"]);
        if errors.unreachable > 0 {
            println!("skipped: {card} has no route for {ip}: {:?}", errors.last);
            return;
        }
        assert_eq!(expect(&mut member, 1)[0].1, b"six"[..]);
    }
}

/// Goal: all three ways carry the same. Method: datagrams in an order that makes trains of many lengths, to two
/// addresses, over both families; each mode against each, for a train may meet a socket that takes none.
#[test]
fn every_mode_delivers_the_same_bytes_in_order() {
    let card = lo();
    for (family, sends, receives) in [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| MODES.map(|mode| (family, mode)))
        .flat_map(|(family, sends)| MODES.map(|mode| (family, sends, mode)))
    {
        let open = |io| {
            let options = SocketOptions { io, ..OPTIONS };
            Socket::unicast(family, &card, 0, &options)
        };
        let (Ok(mut source), Ok(mut one), Ok(mut two)) =
            (open(sends), open(receives), open(receives))
        else {
            println!("skipped: no {family} on {card}");
            continue;
        };
        let (to_one, to_two) = (one.local_addr(), two.local_addr());
        let payloads = payloads();
        let datagrams: Vec<_> = (0..)
            .zip(&payloads)
            .map(|(i, bytes)| {
                let to = if i / 30 % 2 == 0 { to_one } else { to_two };
                Outgoing { to, bytes }
            })
            .collect();
        let mut errors = SendErrors::default();
        let sent = source.send(&datagrams, &mut errors);
        assert_eq!(
            (sent.sent, errors.total(), sent.fell_back),
            (datagrams.len(), 0, false),
            "{family} {sends}: {:?}",
            errors.last
        );
        let has_trains = source.io_modes().send == IoMode::Offload;
        assert_eq!(sent.in_trains > 100, has_trains, "{sent:?}");
        for socket in [&mut one, &mut two] {
            let mine: Vec<_> = datagrams
                .iter()
                .filter(|datagram| datagram.to == socket.local_addr())
                .map(|datagram| datagram.bytes)
                .collect();
            let heard = expect(socket, mine.len());
            assert!(heard.iter().all(|(from, _)| *from == source.local_addr()));
            assert!(
                heard.iter().map(|(_, bytes)| &bytes[..]).eq(mine),
                "{family} from {sends} to {receives}"
            );
        }
    }
}

/// 240 datagrams in runs of every kind: equal, with a shorter last, growing, with empty ones between; longer than a slot
/// none.
fn payloads() -> Vec<Vec<u8>> {
    (0..240_usize)
        .map(|i| {
            let bytes = match (i / 40, i % 40) {
                (0, _) => 1_400,
                (1, at) if at % 9 == 8 => 17,
                (1, _) => 900,
                (2, at) => 500 + at,
                (3, at) => 500 - at,
                (4, at) if at % 7 == 3 => 0,
                (4, _) => 256,
                _ => 1 + i % 3,
            };
            (0..bytes)
                .map(|at| u8::try_from((i * 7 + at) % 251).unwrap())
                .collect()
        })
        .collect()
}

#[test]
fn a_train_has_one_address_and_one_size_and_keeps_its_bounds() {
    let here = SocketAddr::from((LOOPBACK, 1));
    let there = SocketAddr::from((LOOPBACK, 2));
    let bytes = vec![0; 66_000];
    let train = |sizes: &[usize], most| {
        let datagrams: Vec<_> = sizes
            .iter()
            .map(|&size| Outgoing {
                to: here,
                bytes: &bytes[..size],
            })
            .collect();
        mode::train_len(&datagrams, most)
    };
    assert_eq!(train(&[], 16), 0);
    assert_eq!(train(&[9], 16), 1);
    assert_eq!(train(&[9, 9, 9], 16), 3);
    assert_eq!(train(&[9, 9, 4, 4], 16), 3);
    assert_eq!(train(&[9, 10], 16), 1);
    assert_eq!((train(&[0, 0], 16), train(&[9, 0], 16)), (1, 1));
    assert_eq!(
        [0, 1, 2, 64, usize::MAX].map(|most| train(&[9; 200], most)),
        [1, 1, 2, 64, 64]
    );
    assert_eq!((train(&[1_400; 64], 64), train(&[8_000; 64], 64)), (46, 8));
    assert_eq!((train(&[32_753; 3], 64), train(&[32_754; 3], 64)), (2, 1));
    assert_eq!(train(&[66_000; 2], 64), 1);
    let mixed = [here, here, there].map(|to| Outgoing { to, bytes: b"x" });
    assert_eq!(mode::train_len(&mixed, 16), 2);
}

/// Goal: a train is cut where its datagrams end, wherever that falls in and behind a slot. Method: one train for each
/// pair of sizes, read by sockets that take trains; slots shorter than, as long as and far longer than a datagram.
#[test]
fn a_train_longer_than_its_slot_comes_apart_as_it_went_together() {
    let group = draw_group();
    let (mut member, mut source) = (listen(group), sender());
    for (segment, last) in [
        (1, 1),
        (99, 100),
        (100, 1),
        (100, 100),
        (700, 350),
        (1_400, 9),
    ] {
        let payloads: Vec<_> = (0..16)
            .map(|i| vec![i; if i == 15 { last } else { segment }])
            .collect();
        let slices: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
        for slot_bytes in [100, 1_399, 1_400, 2_048, 70_000] {
            assert_eq!(send_all(&mut source, group, &slices).total(), 0);
            let mut batch = ReceiveBatch::new(2, slot_bytes);
            let (mut heard, mut truncated) = (Vec::new(), 0);
            loop {
                let received = member.receive(&mut batch);
                assert_eq!(batch.len(), received.count);
                truncated += received.truncated;
                heard.extend(drain(&mut batch).map(|(_, bytes)| bytes));
                assert!(batch.is_empty() && !batch.is_full());
                if received.would_block {
                    break;
                }
            }
            let fit: Vec<_> = slices
                .iter()
                .filter(|bytes| bytes.len() <= slot_bytes)
                .collect();
            assert_eq!(truncated, 16 - fit.len() as u64, "{segment} {slot_bytes}");
            assert!(heard.iter().eq(fit), "{segment} {last} {slot_bytes}");
        }
    }
}

/// Goal: one batch gathers from sockets that take trains and sockets that do not, and what is left in it stays.
#[test]
fn a_batch_gathers_trains_and_single_datagrams() {
    let group = draw_group();
    let mut members = MODES.map(|io| {
        let options = SocketOptions { io, ..OPTIONS };
        Socket::group(group, &lo(), &options).unwrap()
    });
    let payloads = [b"1", b"2", b"3", b"4"].map(|one| one.as_slice());
    let _ = send_all(&mut sender(), group, &payloads);
    let mut batch = ReceiveBatch::new(20, 100);
    let mut heard = Vec::new();
    for _ in 0..2 {
        for member in &mut members {
            let _ = member.receive(&mut batch);
            heard.extend(drain(&mut batch).take(3).map(|(_, bytes)| bytes[0]));
        }
    }
    heard.extend(drain(&mut batch).map(|(_, bytes)| bytes[0]));
    assert_eq!(heard, *b"123412341234");
}

#[test]
fn steady_trains_allocate_nothing_and_a_held_payload_is_never_overwritten() {
    let group = draw_group();
    let (mut member, mut source) = (listen(group), sender());
    let mut batch = ReceiveBatch::new(16, 1_500);
    let mut buffers = std::collections::BTreeSet::new();
    for round in 0..600_u16 {
        let payload = [round.to_be_bytes(); 600].concat();
        let _ = send_all(&mut source, group, &[payload.as_slice(); 16]);
        let _ = member.receive(&mut batch);
        for (_, bytes) in drain(&mut batch) {
            assert_eq!(bytes, payload);
            buffers.insert(bytes.as_ptr() as usize);
        }
    }
    assert_eq!(batch.allocations(), 0);
    assert!(
        buffers.len() <= 16,
        "a slot, and a copy used again and again"
    );

    let mut held = Vec::new();
    for round in 0..8_u8 {
        let _ = send_all(&mut source, group, &[[round; 1_200].as_slice(); 16]);
        let _ = member.receive(&mut batch);
        held.extend(drain(&mut batch).map(|(_, bytes)| (round, bytes)));
    }
    assert_eq!(held.len(), 128);
    assert!(
        held.iter()
            .all(|(round, bytes)| *bytes == vec![*round; 1_200])
    );
    assert!(batch.allocations() >= 128 - 2 * 16);
}

/// Goal: when the system refuses trains nothing is lost and nothing comes twice. Method: the errors a kernel gives, in its
/// place; then sends of all kinds through the same socket.
#[test]
#[cfg(target_os = "linux")]
fn a_refused_train_goes_one_by_one_and_no_other_is_tried() {
    for code in [
        libc::EIO,
        libc::EINVAL,
        libc::EMSGSIZE,
        libc::EOPNOTSUPP,
        libc::ENOPROTOOPT,
    ] {
        let group = draw_group();
        let (mut member, mut source) = (listen(group), sender());
        source.refusal = Some(code);
        refused_and_delivered(&mut source, &mut member, group);
    }
}

/// The same, and the kernel itself refuses: it cuts no train whose datagrams are to have no checksum.
#[test]
#[cfg(target_os = "linux")]
fn a_train_that_the_kernel_refuses_goes_one_by_one() {
    let group = draw_group();
    let (mut member, mut source) = (listen(group), sender());
    linux::send_without_checksum(&source.io).unwrap();
    refused_and_delivered(&mut source, &mut member, group);
}

#[cfg(target_os = "linux")]
fn refused_and_delivered(source: &mut Socket, member: &mut Socket, group: SocketAddr) {
    let payloads = payloads();
    let datagrams: Vec<_> = payloads
        .iter()
        .map(|bytes| Outgoing { to: group, bytes })
        .collect();
    let mut errors = SendErrors::default();
    for fell_back in [true, false] {
        let sent = source.send(&datagrams, &mut errors);
        assert_eq!(
            (sent.sent, sent.in_trains, sent.fell_back),
            (datagrams.len(), 0, fell_back)
        );
        assert_eq!(source.io_modes().send, IoMode::Batch);
        let heard = expect(member, payloads.len());
        assert!(heard.iter().map(|(_, bytes)| bytes).eq(&payloads));
        assert_eq!(now(member), 0);
    }
    assert_eq!(errors.total(), 0);
    assert_eq!(source.io_modes().receive, IoMode::Offload);
}

/// Goal: nobody turns trains off by having datagrams sent where none can go. Method: port 0, for which the kernel has the
/// very error it has for a train it cannot cut.
#[test]
#[cfg(target_os = "linux")]
fn a_bad_destination_is_not_blamed_on_the_train() {
    let group = draw_group();
    let (mut member, mut source) = (listen(group), sender());
    let nowhere = SocketAddr::from((LOOPBACK, 0));
    let to = [group, group, nowhere, nowhere, nowhere, group, group];
    let datagrams = to.map(|to| Outgoing {
        to,
        bytes: b"equal",
    });
    let mut errors = SendErrors::default();
    let sent = source.send(&datagrams, &mut errors);
    assert_eq!((sent.sent, sent.in_trains, sent.fell_back), (4, 4, false));
    assert_eq!(errors.total(), 3);
    assert_eq!(source.io_modes(), IoModes::BEST);
    assert_eq!(now(&mut member), 4);
}

#[test]
fn no_better_way_is_tried_than_was_asked_for() {
    assert_eq!("sendmmsg".parse::<IoMode>(), Err(UnknownMode));
    for io in MODES {
        assert_eq!(io.to_string().parse(), Ok(io));
        let modes = Socket::unicast(Family::V4, &lo(), 0, &SocketOptions { io, ..OPTIONS })
            .unwrap()
            .io_modes();
        assert!(modes.send <= io && modes.receive <= io);
        #[cfg(target_os = "linux")]
        assert_eq!((modes.send, modes.receive), (io, io), "Linux 5.0 has all");
    }
    let mixed = IoModes {
        send: IoMode::Batch,
        receive: IoMode::Offload,
    };
    assert_eq!(IoModes::BEST.worst(mixed), mixed);
    assert_eq!(
        (mixed.to_string(), IoModes::BEST.to_string()),
        ("batch out, offload in".into(), "offload".into())
    );
}

#[test]
fn one_datagram_at_a_time_is_cut_short_nowhere() {
    let plain = SocketOptions {
        io: IoMode::Plain,
        ..OPTIONS
    };
    let group = draw_group();
    let mut member = Socket::group(group, &lo(), &plain).unwrap();
    let mut source = Socket::unicast(Family::V4, &lo(), 0, &plain).unwrap();
    let _ = send_all(&mut source, group, &[&[1; 100], &[2; 101], &[]]);
    let mut batch = ReceiveBatch::new(8, 100);
    let received = member.receive(&mut batch);
    assert_eq!(
        (received.count, received.truncated, received.would_block),
        (2, 1, true)
    );
    let lengths: Vec<_> = drain(&mut batch).map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [100, 0]);
    assert_eq!(
        source.send(&[], &mut SendErrors::default()),
        Sent::default()
    );
}

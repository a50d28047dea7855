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
};
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
            all.extend(batch.drain());
        }
        all.extend(batch.drain());
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
    let lengths: Vec<_> = batch
        .drain()
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
            would_block: false
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
    let mut member = listen(group);
    let _ = send_all(&mut sender(), group, &[b"1", b"2", b"3", b"4", b"5"]);
    let mut batch = ReceiveBatch::new(2, 100);
    let received = member.receive(&mut batch);
    assert_eq!((received.count, received.would_block), (2, false));
    // A batch that is still full takes nothing; one that is half drained keeps what is left.
    assert_eq!(member.receive(&mut batch).count, 0);
    assert!(batch.is_full());
    let mut order: Vec<u8> = batch.drain().take(1).map(|(_, bytes)| bytes[0]).collect();
    while !batch.is_empty() {
        order.extend(batch.drain().map(|(_, bytes)| bytes[0]));
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
    let (mut member, mut source) = (listen(group), sender());
    let mut batch = ReceiveBatch::new(16, 1_500);
    let mut buffers = std::collections::BTreeSet::new();
    for round in 0..625_u16 {
        let payload = [round.to_be_bytes(); 600].concat();
        let _ = send_all(&mut source, group, &[payload.as_slice(); 16]);
        assert_eq!(member.receive(&mut batch).count, 16);
        for (_, bytes) in batch.drain() {
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
    let held = batch.drain().next().unwrap().1;
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

/// The code other systems use, run here so that it is run somewhere.
#[test]
fn the_portable_calls_do_the_same() {
    let group = draw_group();
    let (mut member, source) = (listen(group), sender());
    for bytes in [&[1_u8; 100][..], &[2; 101], &[]] {
        assert_eq!(
            portable::send(&source.io, &[Outgoing { to: group, bytes }]).unwrap(),
            1
        );
    }
    let mut batch = ReceiveBatch::new(8, 100);
    let mut filled = 0;
    loop {
        let (slots, slot_bytes) = batch.free(1);
        match portable::receive(&member.io, slots, slot_bytes) {
            Ok((count, _)) => filled += count,
            Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        let _ = batch.advance(1);
    }
    let lengths: Vec<_> = batch
        .drain()
        .map(|(from, bytes)| (from, bytes.len()))
        .collect();
    assert_eq!(
        (filled, lengths),
        (
            3,
            vec![(source.local_addr(), 100), (source.local_addr(), 0)]
        )
    );
    assert_eq!(now(&mut member), 0);
    assert!(portable::send(&source.io, &[]).is_ok_and(|count| count == 0));
}

use super::*;
use proptest::prelude::*;

const HEADER: Header = Header {
    key: 0,
    floor: FloorId(0x0102_0304),
    source: SourceId(5),
    session: SessionId(6),
    number: 7,
};

fn stream() -> StreamId {
    StreamId::new(GroupId(0x77), Lane::Routine)
}

fn about() -> About {
    About {
        source: SourceId(9),
        session: SessionId(10),
        stream: stream(),
        echo: Some(Echo {
            clock_us: 11,
            held_us: 12,
        }),
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        stream: stream(),
        clock_us: 1,
        next: SeqNo(9),
        trail: SeqNo(2),
        backoff: QuantDuration(3),
        grtt: QuantDuration(4),
        group_size: QuantCount(5),
        age: QuantDuration(6),
        is_coded: false,
        is_closed: true,
    }
}

fn datagram(limit: usize, write: impl FnOnce(&mut DatagramWriter<'_>)) -> Vec<u8> {
    let mut buf = Vec::new();
    let mut writer = DatagramWriter::new(&mut buf, limit, &HEADER);
    write(&mut writer);
    let bytes = writer.finish();
    assert_eq!(bytes, buf.len());
    assert!(bytes <= limit);
    buf
}

fn block(first: u64, len: u8) -> Block {
    Block {
        first: SeqNo(first),
        len,
    }
}

fn needs() -> [BlockNeed; 2] {
    [
        BlockNeed {
            block: block(64, 30),
            shards: 2,
            next_index: 6,
        },
        BlockNeed {
            block: block(64 * 70_000, 0),
            shards: 64,
            next_index: 0,
        },
    ]
}

/// One datagram with every message type in it.
fn all_kinds() -> Vec<u8> {
    datagram(1_400, |w| {
        let advert = Advert {
            trail: SeqNo(1),
            backoff: QuantDuration(8),
            age: QuantDuration(9),
            is_coded: true,
        };
        let begin = Segment {
            place: Place::First { total: 3 },
            payload: b"ab",
        };
        let end = Segment {
            place: Place::Last,
            payload: b"c",
        };
        assert!(w.segment(stream(), SeqNo(3), &advert, Sending::New, &begin));
        assert!(w.segment(stream(), SeqNo(4), &advert, Sending::New, &end));
        assert!(w.segment(stream(), SeqNo(1), &advert, Sending::Repair, &end));
        assert!(w.heartbeat(&heartbeat()));
        assert_eq!(
            w.nack(&about(), [range(2, 3), range(4, 6), range(100, 70_000)]),
            3
        );
        assert!(w.squelch(&Squelch {
            stream: stream(),
            trail: SeqNo(8)
        }));
        assert!(w.report(&about(), SeqNo(1), SeqNo(9), 77, [range(3, 4), range(6, 8)]));
        assert_eq!(w.ask(stream(), [SourceId(1), SourceId(2)]), Some(2));
        assert!(w.presence("ws-1", true, &[GroupId(1), GroupId(2)]));
        assert!(w.roll_call(&RollCall {
            group: GroupId(1),
            token: 99
        }));
        let entry = RosterEntry {
            station: SourceId(4),
            silent_s: 5,
            name: "ws-2",
        };
        assert_eq!(w.roster(99, GroupId(1), [entry]), Some(1));
        let runs = [range(3, 4), range(6, 8)];
        assert_eq!(w.skip(stream(), SkipReason::Superseded, runs), 2);
        assert!(w.parity(&Parity {
            stream: stream(),
            advert,
            block: block(64, 30),
            index: 5,
            shard: b"parity",
        }));
        assert_eq!(w.need(&about(), needs()), 2);
        assert!(w.pace(&Pace {
            stream: stream(),
            station: SourceId(4),
            is_behind: true,
        }));
        assert!(w.scouts(&[SourceId(4), SourceId(5)]));
        let check = AddressCheck {
            station: SourceId(4),
            session: SessionId(3),
            token: 2,
        };
        assert!(w.address_check(&check));
        assert!(w.address_echo(&check));
        assert!(w.grant(b"grant"));
        assert!(w.segment(stream(), SeqNo(7), &advert, Sending::Copy, &end));
    })
}

fn range(first: u64, end: u64) -> SeqRange {
    SeqRange::new(SeqNo(first), SeqNo(end)).unwrap()
}

#[test]
fn everything_written_is_read_back() {
    let bytes = all_kinds();
    let datagram = decode(&bytes).unwrap();
    assert_eq!(datagram.header, HEADER);
    let messages: Vec<_> = datagram.messages().collect();
    assert_eq!(
        messages.len(),
        19,
        "two consecutive segments share a message"
    );
    let Message::Data(data) = messages[0] else {
        panic!()
    };
    let segments: Vec<_> = data
        .segments()
        .map(|(seq, s)| (seq.0, s.place, s.payload.len()))
        .collect();
    assert_eq!(
        segments,
        [(3, Place::First { total: 3 }, 2), (4, Place::Last, 1)]
    );
    assert_eq!((data.advert.trail, data.sending), (SeqNo(1), Sending::New));
    assert!(
        matches!(messages[1], Message::Data(data) if data.sending == Sending::Repair && data.advert.is_coded)
    );
    assert!(matches!(messages[2], Message::Heartbeat(h) if h == heartbeat()));
    let Message::Nack(nack) = messages[3] else {
        panic!()
    };
    let asked: Vec<_> = nack
        .ranges()
        .flat_map(SeqRange::iter)
        .map(|seq| seq.0)
        .collect();
    assert_eq!(
        asked,
        [2, 4, 5].into_iter().chain(100..70_000).collect::<Vec<_>>()
    );
    let Message::Report(report) = messages[5] else {
        panic!()
    };
    assert_eq!(
        report.lost().collect::<Vec<_>>(),
        [range(3, 4), range(6, 8)]
    );
    assert_eq!(report.echo, about().echo);
    assert!(
        matches!(messages[6], Message::Ask(ask) if ask.concerns(SourceId(2)) && !ask.concerns(SourceId(3)))
    );
    assert!(
        matches!(messages[7], Message::Presence(p) if p.name == "ws-1" && p.is_leaving && p.groups().count() == 2)
    );
    assert!(
        matches!(messages[9], Message::Roster(r) if r.is_last && r.entries().next().unwrap().name == "ws-2")
    );
    let Message::Skip(skip) = messages[10] else {
        panic!()
    };
    assert_eq!(skip.why, SkipReason::Superseded);
    assert_eq!(skip.runs().collect::<Vec<_>>(), [range(3, 4), range(6, 8)]);
    let Message::Parity(parity) = messages[11] else {
        panic!()
    };
    assert_eq!(
        (parity.block, parity.index, parity.shard),
        (block(64, 30), 5, &b"parity"[..])
    );
    assert_eq!(parity.advert.trail, SeqNo(1));
    let Message::Need(need) = messages[12] else {
        panic!()
    };
    assert_eq!(need.blocks().collect::<Vec<_>>(), needs());
    assert!(matches!(messages[13], Message::Pace(p) if p.is_behind && p.station == SourceId(4)));
    assert!(
        matches!(messages[14], Message::Scouts(s) if s.contains(SourceId(5)) && !s.contains(SourceId(6)))
    );
    assert!(matches!(messages[15], Message::AddressCheck(check) if check.token == 2));
    assert!(
        matches!(messages[16], Message::AddressEcho(check) if check.station == SourceId(4) && check.session == SessionId(3))
    );
    assert!(matches!(messages[17], Message::Grant(b"grant")));
    assert!(matches!(messages[18], Message::Data(data) if data.sending == Sending::Copy));
}

/// The layout itself: any change here is a change of the protocol's version.
#[test]
fn golden_vector() {
    let expected = include_str!("../../tests/vectors/all_kinds.hex");
    let expected: String = expected
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""))
        .collect();
    let expected: String = expected.split_whitespace().collect();
    let actual: String = all_kinds()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(actual, expected);
}

#[test]
fn a_cut_datagram_is_refused_or_whole_messages_fewer() {
    let bytes = all_kinds();
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err());
        if len < bytes.len() - OPEN_TRAILER_BYTES {
            let mut cut = bytes[..len].to_vec();
            cut.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
            seal(&mut cut);
            assert!(decode(&cut).map_or(true, |datagram| datagram.messages().count() < 19));
        }
    }
}

/// Makes the trailer fit again after an edit, so that a test reaches the field behind the checksum.
fn seal(bytes: &mut [u8]) {
    let covered = bytes.len() - OPEN_TRAILER_BYTES;
    let checksum = checksum(HEADER.floor, &bytes[..covered]);
    bytes[covered..covered + 8].copy_from_slice(&checksum);
}

#[test]
fn any_flipped_bit_is_damage() {
    let bytes = datagram(1_400, |w| assert!(w.heartbeat(&heartbeat())));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // A flip in the key id makes it another key's datagram: not ours to judge, and refused as such by the endpoint.
        assert!(
            decode(&bad).map_or(true, |datagram| datagram.header.key != OPEN_LAB_KEY),
            "bit {bit}"
        );
    }
}

#[test]
fn what_was_opened_has_no_trailer() {
    let mut bytes = Vec::new();
    let header = Header { key: 7, ..HEADER };
    let mut writer = DatagramWriter::plain(&mut bytes, 1_400, &header);
    assert!(writer.heartbeat(&heartbeat()));
    assert_eq!(writer.finish(), HEADER_BYTES + MESSAGE_HEADER_BYTES + 28);
    let datagram = decode(&bytes).unwrap();
    assert_eq!((datagram.header, datagram.messages().count()), (header, 1));
    // One of the open laboratory has a trailer, and it lies within the datagram.
    let mut bytes = super::tests::datagram(1_400, |w| assert!(w.heartbeat(&heartbeat())));
    let last = bytes.len() - 1;
    bytes[last] = 0xff;
    assert_eq!(
        decode(&bytes).unwrap_err(),
        DecodeError::Truncated,
        "the trailer is longer than the datagram"
    );
}

#[test]
fn an_unknown_type_is_stepped_over() {
    let mut bytes = datagram(1_400, |w| assert!(w.heartbeat(&heartbeat())));
    bytes[HEADER_BYTES] = 200;
    seal(&mut bytes);
    assert!(matches!(
        decode(&bytes).unwrap().messages().next(),
        Some(Message::Unknown(200))
    ));
}

#[test]
fn forbidden_values_are_refused() {
    let good = datagram(1_400, |w| assert!(w.heartbeat(&heartbeat())));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        seal(&mut bytes);
        decode(&bytes).map(|_| ())
    };
    assert_eq!(with(0, 2), Err(DecodeError::Version(2)));
    assert_eq!(with(1, 2), Err(DecodeError::Field("header flags")));
    assert_eq!(
        with(HEADER_BYTES + 1, 2),
        Err(DecodeError::Field("message flags"))
    );
    assert_eq!(with(HEADER_BYTES + 7, 3), Err(DecodeError::Field("stream")));
    assert_eq!(
        with(HEADER_BYTES + 12, 0xff),
        Err(DecodeError::Field("sequence number"))
    );
    assert_eq!(
        with(HEADER_BYTES + 27, 200),
        Err(DecodeError::Field("trail"))
    );
    let mut empty = good[..HEADER_BYTES].to_vec();
    empty.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
    seal(&mut empty);
    assert_eq!(decode(&empty).map(|_| ()), Err(DecodeError::Empty));
}

#[test]
fn a_nack_that_names_a_number_twice_is_refused() {
    let bytes = datagram(1_400, |w| {
        assert_eq!(w.nack(&about(), [range(0, 1), range(50, 51)]), 2)
    });
    let mut bad = bytes.clone();
    let second = bytes.len() - OPEN_TRAILER_BYTES - 8;
    bad[second..second + 4].copy_from_slice(&0u32.to_be_bytes());
    seal(&mut bad);
    assert!(decode(&bytes).is_ok());
    assert_eq!(decode(&bad).unwrap_err(), DecodeError::Field("nack order"));
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    let many = (0..10_000).map(|i| range(i * 40, i * 40 + 1));
    let mut named = 0;
    let bytes = datagram(1_400, |w| named = w.nack(&about(), many));
    let Some(Message::Nack(nack)) = decode(&bytes).unwrap().messages().next() else {
        panic!()
    };
    assert_eq!(nack.ranges().count(), named);
    assert!((150..170).contains(&named), "{named}");
    assert!(bytes.len() > 1_380);

    let mut lost = None;
    let bytes = datagram(1_400, |w| {
        w.report(
            &about(),
            SeqNo(0),
            SeqNo(400_000),
            0,
            (0..10_000).map(|i| range(i * 40, i * 40 + 1)),
        );
    });
    if let Some(Message::Report(report)) = decode(&bytes).unwrap().messages().next() {
        lost = report.lost().last();
    }
    assert_eq!(
        lost.unwrap().end(),
        SeqNo(9_999 * 40 + 1),
        "the last range covers the rest"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gaps_survive_packing(spans in proptest::collection::vec((1u64..40, 1u64..90_000), 1..60)) {
        let mut at = 0;
        let gaps: Vec<_> = spans.iter().map(|&(apart, len)| {
            let len = if apart < 35 { len % 20 + 1 } else { len };
            let gap = range(at + apart, at + apart + len);
            at = gap.end().0;
            gap
        }).collect();
        let mut named = 0;
        let bytes = datagram(1_400, |w| named = w.nack(&about(), gaps.iter().copied()));
        let decoded = decode(&bytes).unwrap();
        let Some(Message::Nack(nack)) = decoded.messages().next() else { panic!() };
        let asked: Vec<_> = nack.ranges().flat_map(SeqRange::iter).collect();
        let all: Vec<_> = gaps[..named].iter().flat_map(|gap| gap.iter()).collect();
        let whole = gaps[..named - 1].iter().map(|gap| gap.iter().count()).sum::<usize>();
        prop_assert!(asked.len() > whole && asked.len() <= all.len());
        prop_assert_eq!(&asked[..], &all[..asked.len()]);
    }

    #[test]
    fn any_bytes_decode_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        exercise(&bytes);
    }

    #[test]
    fn mutated_datagrams_decode_without_a_panic(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = all_kinds();
        for (at, value) in edits {
            let at = at.index(bytes.len() - OPEN_TRAILER_BYTES);
            bytes[at] = value;
        }
        seal(&mut bytes);
        exercise(&bytes);
    }
}

/// Reads everything a view can give.
fn exercise(bytes: &[u8]) {
    let Ok(datagram) = decode(bytes) else { return };
    for message in datagram.messages() {
        match message {
            Message::Data(data) => assert!(data.segments().count() > 0),
            Message::Nack(nack) => {
                assert!(nack.ranges().take(5_000).map(SeqRange::len).sum::<u64>() > 0)
            }
            Message::Report(report) => drop(report.lost().count()),
            Message::Ask(ask) => drop(ask.concerns(SourceId(1))),
            Message::Presence(presence) => drop(presence.groups().count()),
            Message::Roster(roster) => drop(roster.entries().count()),
            Message::Skip(skip) => assert!(skip.runs().count() > 0),
            Message::Parity(parity) => assert!(!parity.shard.is_empty()),
            Message::Need(need) => assert!(need.blocks().count() > 0),
            Message::Scouts(scouts) => drop(scouts.contains(SourceId(1))),
            Message::Heartbeat(_)
            | Message::Pace(_)
            | Message::Squelch(_)
            | Message::RollCall(_)
            | Message::AddressCheck(_)
            | Message::AddressEcho(_)
            | Message::Grant(_)
            | Message::Unknown(_) => (),
        }
    }
}

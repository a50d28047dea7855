//! Planted faults: what the simulator's checkers say when a receiver is told something wrong, or when a source or a
//! receiver does something wrong on the wire. A checker that finds nothing here proves nothing elsewhere.
//!
//! Both kinds of test double are used, and nothing in the shipped code: `plant_tamper` stands between the stations and the
//! checker, `plant_rewrite` takes a node's datagrams apart and writes them anew, with a right checksum.

use std::cell::RefCell;
use std::time::Duration;

use floorcast::proto::{Join, SendWindowLen};
use floorcast::rng::Rng;
use floorcast::sim::{Loss, Network, NodeId, NodeSpec, Rewrite, Swarm, Tamper};
use floorcast::station::{Placed, StationEvent};
use floorcast::wire::{
    self, About, Advert, DATAGRAM_BYTES_MAX, DatagramWriter, GroupId, Heartbeat, Lane, Message,
    Place, Segment, Sending, SeqNo, SeqRange, Squelch, StreamId,
};

// What receivers are told.

/// Goal: the checker sees each way to tell a receiver something wrong. Method: a stream with a partition that costs numbers
/// and a restart of the source; every tamper in turn, and the words that name the fault.
#[test]
fn every_wrong_word_to_a_receiver_is_found() {
    let faults: &[(&str, Tamper, &str)] = &[
        ("each notice twice", tamper::twice, "twice"),
        ("two notices swapped", tamper::swapped, "out of order"),
        ("a loss swallowed", tamper::loss_swallowed, "out of order"),
        (
            "a notice swallowed",
            tamper::notice_swallowed,
            "out of order",
        ),
        (
            "the last notice swallowed",
            tamper::last_swallowed,
            "incomplete",
        ),
        ("a text altered", tamper::altered, "altered"),
        ("a notice moved", tamper::moved, "never published"),
        ("another notice's name", tamper::renamed, "never published"),
        ("called known, but new", tamper::called_known, "swallowed"),
        (
            "a notice after the end",
            tamper::after_the_end,
            "is not open",
        ),
        (
            "a notice before the start",
            tamper::start_swallowed,
            "is not open",
        ),
        ("two lives at a time", tamper::end_swallowed, "was open"),
        (
            "an end of nothing",
            tamper::ended_twice,
            "but open was Some(None)",
        ),
        (
            "a message that is none",
            tamper::unreadable,
            "a message that",
        ),
    ];
    let (violations, lost) = told(tamper::nothing);
    assert_eq!(violations, [""; 0]);
    assert_eq!(lost, 476);
    for (name, fault, words) in faults {
        let (violations, _) = told(*fault);
        let found = violations.iter().any(|what| what.contains(words));
        assert!(found, "{name}: {violations:?}");
    }
}

/// Goal: a loss that need not have been is seen, too. Method: notices are called lost. The checker cannot tell by itself: a
/// run that may lose nothing counts.
#[test]
fn a_needless_loss_is_counted() {
    let (violations, lost) = told(tamper::called_lost);
    assert_eq!(violations, [""; 0]);
    assert_eq!(lost, 476 + 153, "every tenth of the notices that came");
}

/// Goal: a life that has ended stays so. Method: the ended session is started again.
#[test]
fn a_session_back_from_the_dead_is_found() {
    let (violations, _) = told(tamper::back_from_the_dead);
    let found = violations.iter().any(|what| what.contains("is back"));
    assert!(found, "{violations:?}");
}

/// Goal: the swarm's checkers see the same. Method: four seeds that hold without a fault, and with each fault do not.
#[test]
fn swarms_find_wrong_words() {
    let run = |fault: Tamper, seeds: u64| {
        let outcomes =
            (0..seeds).map(|seed| Swarm::run_with(seed, |floor| floor.plant_tamper(fault)));
        outcomes
            .filter(|outcome| !outcome.violations.is_empty())
            .count()
    };
    assert_eq!(run(tamper::nothing, 4), 0);
    for fault in [tamper::twice, tamper::altered, tamper::moved] {
        assert_eq!(run(fault, 4), 4);
    }
    // Only floors on which something is lost for good can swallow it.
    assert!(run(tamper::loss_swallowed, 20) >= 1);
}

/// What the checker says of a floor with one receiver that is told what `fault` makes of it, and how much was lost.
fn told(fault: Tamper) -> (Vec<String>, u64) {
    HELD.set(Vec::new());
    let mut floor = Floor::new(20, 1, true);
    floor.network.plant_tamper(fault);
    let node = floor.receivers[0];
    floor.stream(500, 50);
    floor.network.downlink(node).is_up = false;
    floor.stream(1_500, 50);
    floor.network.downlink(node).is_up = true;
    floor.run_us(2_000_000);
    // Dead while nothing is on its way, so that the run's end depends on nothing but the fault.
    floor.network.restart(floor.source, false);
    floor.stream(10, 50);
    floor.run_us(2_000_000);
    floor.network.expect_complete();
    let checker = &floor.network.checker;
    (checker.violations().to_vec(), checker.numbers_lost)
}

thread_local! {
    /// What a tamper keeps from one event to the next.
    static HELD: RefCell<Vec<StationEvent>> = const { RefCell::new(Vec::new()) };
}

/// Changes what a receiver is told.
mod tamper {
    use super::{HELD, Placed, SeqNo, SeqRange, StationEvent};
    use floorcast::notice::{NoticeError, NoticeId};
    use floorcast::proto::EndReason;

    pub(super) fn nothing(event: StationEvent) -> Vec<StationEvent> {
        vec![event]
    }

    pub(super) fn twice(event: StationEvent) -> Vec<StationEvent> {
        match event {
            StationEvent::Notice { .. } => vec![event.clone(), event],
            other => vec![other],
        }
    }

    /// The notice numbered 3 comes after the next event.
    pub(super) fn swapped(event: StationEvent) -> Vec<StationEvent> {
        if is_notice(&event, 3) {
            HELD.with_borrow_mut(|held| held.push(event));
            return Vec::new();
        }
        let mut events = vec![event];
        events.extend(HELD.take());
        events
    }

    pub(super) fn loss_swallowed(event: StationEvent) -> Vec<StationEvent> {
        let is_loss = matches!(event, StationEvent::Lost { .. });
        if is_loss { Vec::new() } else { vec![event] }
    }

    pub(super) fn notice_swallowed(event: StationEvent) -> Vec<StationEvent> {
        if is_notice(&event, 3) {
            Vec::new()
        } else {
            vec![event]
        }
    }

    /// The last of the second life: ten notices.
    pub(super) fn last_swallowed(event: StationEvent) -> Vec<StationEvent> {
        let ends = HELD.with_borrow(Vec::len);
        if matches!(event, StationEvent::SessionEnded { .. }) {
            HELD.with_borrow_mut(|held| held.push(event.clone()));
        }
        if ends > 0 && is_notice(&event, 9) {
            Vec::new()
        } else {
            vec![event]
        }
    }

    pub(super) fn altered(mut event: StationEvent) -> Vec<StationEvent> {
        if let StationEvent::Notice { notice, .. } = &mut event {
            notice.text = format!("{}.", notice.text.as_str()).into();
        }
        vec![event]
    }

    pub(super) fn moved(mut event: StationEvent) -> Vec<StationEvent> {
        if let StationEvent::Notice { at, .. } = &mut event {
            at.seqs = SeqRange::one(at.seqs.end());
        }
        vec![event]
    }

    pub(super) fn renamed(mut event: StationEvent) -> Vec<StationEvent> {
        if let StationEvent::Notice { notice, .. } = &mut event {
            notice.id = NoticeId(notice.id.0 + 1);
        }
        vec![event]
    }

    pub(super) fn called_known(event: StationEvent) -> Vec<StationEvent> {
        match event {
            StationEvent::Notice { at, notice, .. } => {
                vec![StationEvent::Again { at, id: notice.id }]
            }
            other => vec![other],
        }
    }

    /// Every tenth of the notices, by its number.
    pub(super) fn called_lost(event: StationEvent) -> Vec<StationEvent> {
        match event {
            StationEvent::Notice {
                at:
                    Placed {
                        origin,
                        stream,
                        seqs,
                        ..
                    },
                ..
            } if seqs.first().0 % 10 == 0 => vec![StationEvent::Lost {
                origin,
                stream,
                seqs,
            }],
            other => vec![other],
        }
    }

    /// The last notice before the end comes after it.
    pub(super) fn after_the_end(event: StationEvent) -> Vec<StationEvent> {
        match &event {
            StationEvent::Notice { .. } => HELD.replace(vec![event]),
            StationEvent::SessionEnded { .. } => {
                let mut events = vec![event];
                events.extend(HELD.take());
                events
            }
            _ => vec![event],
        }
    }

    pub(super) fn start_swallowed(event: StationEvent) -> Vec<StationEvent> {
        let is_start = matches!(event, StationEvent::SessionStarted { .. });
        if is_start { Vec::new() } else { vec![event] }
    }

    pub(super) fn end_swallowed(event: StationEvent) -> Vec<StationEvent> {
        let is_end = matches!(event, StationEvent::SessionEnded { .. });
        if is_end { Vec::new() } else { vec![event] }
    }

    pub(super) fn ended_twice(event: StationEvent) -> Vec<StationEvent> {
        match event {
            StationEvent::SessionEnded { .. } => vec![event.clone(), event],
            other => vec![other],
        }
    }

    pub(super) fn unreadable(event: StationEvent) -> Vec<StationEvent> {
        match event {
            StationEvent::Notice { at, .. } => vec![StationEvent::Unreadable {
                at,
                error: NoticeError::Truncated,
            }],
            other => vec![other],
        }
    }

    /// The life that was replaced starts and ends once more.
    pub(super) fn back_from_the_dead(event: StationEvent) -> Vec<StationEvent> {
        let StationEvent::SessionEnded {
            origin,
            reason: EndReason::Replaced,
        } = event
        else {
            return vec![event];
        };
        let start = StationEvent::SessionStarted {
            origin,
            from: ([10, 0, 0, 1], 7_000).into(),
        };
        vec![event.clone(), start, event]
    }

    /// Takes the numbers of [`super::edge`] back out of what was told.
    pub(super) fn back_from_the_edge(mut event: StationEvent) -> Vec<StationEvent> {
        match &mut event {
            StationEvent::Notice { at, .. } | StationEvent::Again { at, .. } => {
                at.seqs = super::edge::back_range(at.seqs);
            }
            StationEvent::Lost { seqs, .. } => *seqs = super::edge::back_range(*seqs),
            _ => {}
        }
        vec![event]
    }

    fn is_notice(event: &StationEvent, number: u64) -> bool {
        matches!(event, StationEvent::Notice { at, .. } if at.seqs.first() == SeqNo(number))
    }
}

// What goes over the wire.

/// Longer than any wait: a gap that is never repaired is given up after 64 NACKs, a quarter of a minute.
const EVERY_WAIT_MS: u64 = 30_000;

/// Goal: the checkers see a source that breaks the protocol. Method: losses of every kind, and every fault in turn in what
/// the source sends; a run with datagrams that are taken apart and written anew, but not changed, finds nothing.
#[test]
fn every_fault_of_a_source_is_found() {
    let faults: &[(&str, Rewrite, &str)] = &[
        (
            "repairs numbered as their neighbours",
            wrong::numbers,
            "never published",
        ),
        (
            "repairs of other streams",
            wrong::streams,
            "never published",
        ),
        ("segments that swapped payloads", wrong::payloads, "altered"),
        ("repairs altered", wrong::repairs, "altered"),
        ("no repairs", wrong::no_repairs, "lost without need"),
        ("a trail too high", wrong::trails, "lost without need"),
        (
            "heartbeats that tell of too little",
            wrong::heartbeats,
            "incomplete",
        ),
    ];
    assert_eq!(sent(wrong::nothing, EVERY_WAIT_MS), [""; 0]);
    for (name, fault, words) in faults {
        let found = sent(*fault, EVERY_WAIT_MS);
        assert!(
            found.iter().any(|what| what.contains(words)),
            "{name}: {found:?}"
        );
    }
}

/// Goal: the same for a source that says too early that it has closed. Method: as above, looked at soon.
#[test]
fn a_source_that_closes_too_early_is_found() {
    let found = sent(wrong::closed, 50);
    assert!(
        found.iter().any(|what| what.contains("incomplete")),
        "{found:?}"
    );
}

/// Goal: swarms find faults of a protocol as well. Method: a few seeds that hold with datagrams written anew, and with each
/// fault in the first source one at least that does not.
#[test]
fn swarms_find_faulty_sources() {
    assert_eq!(seeds_that_find(wrong::nothing, 3), 0);
    for (name, fault, seeds) in [
        ("numbers", wrong::numbers as Rewrite, 3),
        ("streams", wrong::streams, 3),
        ("payloads", wrong::payloads, 3),
        ("repairs", wrong::repairs, 3),
        // Copies and parity mend most of what it hides.
        ("heartbeats", wrong::heartbeats, 12),
    ] {
        assert!(seeds_that_find(fault, seeds) >= 1, "{name}");
    }
}

/// Goal: and a source that never repairs. Method: seven of twenty seeds at least find it: nearly all those in which nothing need be lost.
#[test]
fn swarms_find_a_source_that_never_repairs() {
    let found = seeds_that_find(wrong::no_repairs, 20);
    assert!(found >= 7, "{found} of 20 seeds");
}

/// How many of the first `seeds` find `fault` in the first source.
fn seeds_that_find(fault: Rewrite, seeds: u64) -> usize {
    let plant = |floor: &mut Network| floor.plant_rewrite(NodeId(0), fault);
    // What is sealed cannot be changed on its way out; there a seal would have to be planted.
    let open = (0..).filter(|&seed| !Swarm::is_protected(seed));
    let outcomes = open
        .take(usize::try_from(seeds).expect("a few"))
        .map(|seed| Swarm::run_with(seed, plant));
    outcomes
        .filter(|outcome| !outcome.violations.is_empty())
        .count()
}

/// Goal: a receipt that claims too much is found. Method: one of two workstations misses a notice and cannot ask, but reports
/// that it has a thousand more.
#[test]
fn a_receiver_that_claims_too_much_is_found() {
    for (fault, words) in [
        (wrong::nothing as Rewrite, None),
        (wrong::reports, Some("2 receipts for")),
    ] {
        let mut floor = Floor::new(21, 0, false);
        let nodes = [0, 1].map(|n| {
            let spec = NodeSpec::workstation(format!("ws-{n}"), &[group()]);
            floor.network.add(spec)
        });
        floor.network.plant_rewrite(nodes[0], fault);
        floor.run_us(500_000);
        floor.stream(5, 10_000);
        floor.network.downlink(nodes[0]).is_up = false;
        floor.publish(Lane::Routine, "missed");
        floor.run_us(1_000_000);
        floor.network.expect_true_receipts(false);
        let violations = floor.network.checker.violations();
        match words {
            Some(words) => assert!(violations.iter().any(|what| what.contains(words))),
            None => assert_eq!(violations, [""; 0]),
        }
    }
}

/// Goal: numbers at the upper end of their range are as good as any. Method: all numbers on the wire are moved up so that the
/// stream ends just below [`SeqNo::MAX`], and back before the source and the checker see them; late receivers lose a fifth.
#[test]
fn the_last_numbers_are_as_good_as_the_first() {
    let mut floor = Floor::new(22, 0, true);
    floor.network.plant_tamper(tamper::back_from_the_edge);
    floor.network.plant_rewrite(floor.source, edge::up);
    floor.stream(20, 1_000);
    floor.run_us(2_000_000);
    for _ in 0..5 {
        let node = floor.join();
        floor.network.plant_rewrite(node, edge::back);
        floor.network.uplink(node).loss = Loss::Random(0.2);
        floor.network.downlink(node).loss = Loss::Random(0.2);
    }
    floor.run_us(1_000_000);
    floor.stream(400, 100);
    floor.publish(Lane::Routine, &text(3, 100_000));
    floor.run_us(3_000_000);
    assert!(floor.faults(0).is_empty(), "{:?}", floor.faults(0));
    assert_eq!(floor.network.checker.notices_delivered, 5 * 421);
}

/// What the checkers say of a floor whose source sends what `fault` makes of it.
fn sent(fault: Rewrite, for_ms: u64) -> Vec<String> {
    HELD.set(Vec::new());
    LAST_PAYLOAD.set(None);
    let mut floor = Floor::new(21, 3, false);
    floor.network.plant_rewrite(floor.source, fault);
    floor.stream(20, 100);
    for node in floor.receivers.clone() {
        floor.lose(node, 2);
        floor.stream(4, 100);
    }
    floor.publish(Lane::Bulk, &text(1, 20_000));
    floor.run_us(10_000);
    floor.lose(floor.receivers[0], 3);
    floor.publish(Lane::Bulk, &text(2, 20_000));
    floor.run_us(10_000);
    floor.stream(20, 100);
    floor.lose(floor.receivers[1], 1);
    floor.publish(Lane::Routine, "the last one");
    floor.run_us(for_ms * 1_000);
    floor.faults(0)
}

thread_local! {
    /// The payload that a source sent last in the middle of a message.
    static LAST_PAYLOAD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// What a source or a receiver may do wrong.
mod wrong {
    use super::{LAST_PAYLOAD, Part, Place, Sending, SeqNo, StreamId, rewritten};
    use floorcast::wire::Lane;

    /// Written anew, and the same.
    pub(super) fn nothing(datagram: &[u8]) -> Option<Vec<u8>> {
        let same = rewritten(datagram, |_| {});
        assert!(same.as_deref().is_none_or(|same| same == datagram));
        same
    }

    pub(super) fn numbers(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| {
            if let Part::Segment(segment) = part
                && segment.sending == Sending::Repair
            {
                segment.seq = SeqNo(segment.seq.0.saturating_sub(1));
                segment.advert.trail = segment.advert.trail.min(segment.seq);
            }
        })
    }

    pub(super) fn streams(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| {
            if let Part::Segment(segment) = part
                && segment.sending == Sending::Repair
            {
                segment.stream = StreamId::new(segment.stream.group(), Lane::Emergency);
            }
        })
    }

    /// Each segment in the middle of a message has the bytes of the one before it.
    pub(super) fn payloads(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| {
            if let Part::Segment(segment) = part
                && segment.place == Place::Middle
            {
                let own = segment.payload.clone();
                if let Some(last) = LAST_PAYLOAD.replace(Some(own))
                    && last.len() == segment.payload.len()
                {
                    segment.payload = last;
                }
            }
        })
    }

    pub(super) fn repairs(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| {
            if let Part::Segment(segment) = part
                && segment.sending == Sending::Repair
                && let Some(byte) = segment.payload.last_mut()
            {
                *byte ^= 1;
            }
        })
    }

    /// What answers a NACK is damaged on purpose.
    pub(super) fn no_repairs(datagram: &[u8]) -> Option<Vec<u8>> {
        let mut is_repair = false;
        let same = rewritten(datagram, |part| {
            is_repair |=
                matches!(part, Part::Segment(segment) if segment.sending == Sending::Repair);
        });
        if is_repair { Some(vec![0]) } else { same }
    }

    pub(super) fn trails(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| match part {
            Part::Segment(segment) => segment.advert.trail = segment.seq,
            Part::Heartbeat(heartbeat) => heartbeat.trail = heartbeat.next,
            _ => {}
        })
    }

    pub(super) fn heartbeats(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| {
            if let Part::Heartbeat(heartbeat) = part {
                heartbeat.next = SeqNo(heartbeat.next.0 - 1).max(heartbeat.trail);
            }
        })
    }

    pub(super) fn closed(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| {
            if let Part::Heartbeat(heartbeat) = part {
                heartbeat.is_closed = true;
            }
        })
    }

    pub(super) fn reports(datagram: &[u8]) -> Option<Vec<u8>> {
        rewritten(datagram, |part| {
            if let Part::Report { through, .. } = part {
                *through = through.plus(1_000);
            }
        })
    }
}

/// Numbers at the upper end.
mod edge {
    use super::{Part, SeqNo, SeqRange, rewritten};

    /// What is added to every number.
    const UP: u64 = SeqNo::MAX.0 - 600;

    pub(super) fn up(datagram: &[u8]) -> Option<Vec<u8>> {
        moved(datagram, |seq| seq.plus(UP))
    }

    pub(super) fn back(datagram: &[u8]) -> Option<Vec<u8>> {
        moved(datagram, back_seq)
    }

    pub(super) fn back_range(seqs: SeqRange) -> SeqRange {
        move_range(seqs, back_seq)
    }

    fn back_seq(seq: SeqNo) -> SeqNo {
        SeqNo(seq.0.checked_sub(UP).expect("it was moved up before"))
    }

    fn move_range(seqs: SeqRange, by: fn(SeqNo) -> SeqNo) -> SeqRange {
        SeqRange::new(by(seqs.first()), by(seqs.end())).expect("as long as it was")
    }

    fn moved(datagram: &[u8], by: fn(SeqNo) -> SeqNo) -> Option<Vec<u8>> {
        rewritten(datagram, |part| match part {
            Part::Segment(segment) => {
                segment.seq = by(segment.seq);
                segment.advert.trail = by(segment.advert.trail);
            }
            Part::Heartbeat(heartbeat) => {
                heartbeat.next = by(heartbeat.next);
                heartbeat.trail = by(heartbeat.trail);
            }
            Part::Squelch(squelch) => squelch.trail = by(squelch.trail),
            Part::Nack { gaps, .. } => {
                gaps.iter_mut().for_each(|gap| *gap = move_range(*gap, by));
            }
            Part::Report {
                joined,
                through,
                lost,
                ..
            } => {
                *joined = by(*joined);
                *through = by(*through);
                lost.iter_mut().for_each(|run| *run = move_range(*run, by));
            }
        })
    }
}

/// A part of a datagram, to be changed.
enum Part {
    Segment(Own),
    Heartbeat(Heartbeat),
    Squelch(Squelch),
    Nack {
        about: About,
        gaps: Vec<SeqRange>,
    },
    Report {
        about: About,
        joined: SeqNo,
        through: SeqNo,
        missed: u32,
        lost: Vec<SeqRange>,
    },
}

/// A segment with its bytes.
struct Own {
    stream: StreamId,
    seq: SeqNo,
    advert: Advert,
    sending: Sending,
    place: Place,
    payload: Vec<u8>,
}

/// `datagram` taken apart, changed and written anew; `None` for one with anything else in it than the parts above.
fn rewritten(datagram: &[u8], mut change: impl FnMut(&mut Part)) -> Option<Vec<u8>> {
    let decoded = wire::decode(datagram).expect("a station sends what can be read");
    let mut parts = Vec::new();
    for message in decoded.messages() {
        parts.extend(taken_apart(&message)?);
    }
    parts.iter_mut().for_each(&mut change);
    let mut anew = Vec::new();
    let mut writer = DatagramWriter::new(&mut anew, DATAGRAM_BYTES_MAX, &decoded.header);
    for part in &parts {
        write(&mut writer, part);
    }
    writer.finish();
    Some(anew)
}

fn taken_apart(message: &Message<'_>) -> Option<Vec<Part>> {
    Some(match message {
        Message::Data(data) => {
            let own = data.segments().map(|(seq, segment)| {
                Part::Segment(Own {
                    stream: data.stream,
                    seq,
                    advert: data.advert,
                    sending: data.sending,
                    place: segment.place,
                    payload: segment.payload.to_vec(),
                })
            });
            own.collect()
        }
        Message::Heartbeat(heartbeat) => vec![Part::Heartbeat(*heartbeat)],
        Message::Squelch(squelch) => vec![Part::Squelch(*squelch)],
        Message::Nack(nack) => vec![Part::Nack {
            about: About {
                source: nack.source,
                session: nack.session,
                stream: nack.stream,
                echo: nack.echo,
            },
            gaps: nack.ranges().collect(),
        }],
        Message::Report(report) => vec![Part::Report {
            about: About {
                source: report.source,
                session: report.session,
                stream: report.stream,
                echo: report.echo,
            },
            joined: report.joined,
            through: report.through,
            missed: report.missed,
            lost: report.lost().collect(),
        }],
        _ => return None,
    })
}

fn write(writer: &mut DatagramWriter<'_>, part: &Part) {
    match part {
        Part::Segment(own) => {
            let segment = Segment {
                place: own.place,
                payload: &own.payload,
            };
            assert!(writer.segment(own.stream, own.seq, &own.advert, own.sending, &segment));
        }
        Part::Heartbeat(heartbeat) => assert!(writer.heartbeat(heartbeat)),
        Part::Squelch(squelch) => assert!(writer.squelch(squelch)),
        Part::Nack { about, gaps } => {
            assert_eq!(writer.nack(about, gaps.iter().copied()), gaps.len());
        }
        Part::Report {
            about,
            joined,
            through,
            missed,
            lost,
        } => assert!(writer.report(about, *joined, *through, *missed, lost.iter().copied())),
    }
}

// Helpers.

/// A source and receivers that do not announce themselves, on one group.
struct Floor {
    network: Network,
    source: NodeId,
    receivers: Vec<NodeId>,
}

impl Floor {
    fn new(seed: u64, receivers: usize, has_small_window: bool) -> Self {
        let mut network = Network::new(seed);
        let mut spec = NodeSpec::source("source");
        // A copy would mend what a faulty repair is to be seen by.
        spec.config.tuning.copies = false;
        if has_small_window {
            spec.config.send_window_len = SendWindowLen::MIN;
        }
        let source = network.add(spec);
        network.overhear(source, group());
        let mut floor = Self {
            network,
            source,
            receivers: Vec::new(),
        };
        for _ in 0..receivers {
            let node = floor.join();
            floor.receivers.push(node);
        }
        floor.run_us(10);
        floor
    }

    fn join(&mut self) -> NodeId {
        let name = format!("receiver-{}", self.network.nodes().count());
        let spec = NodeSpec {
            is_workstation: false,
            join: Join::Trail,
            ..NodeSpec::workstation(name, &[group()])
        };
        self.network.add(spec)
    }

    fn publish(&mut self, lane: Lane, text: &str) {
        let sent = self
            .network
            .broadcast(self.source, &[group()], lane, text.to_owned());
        sent.expect("the window has room");
    }

    fn stream(&mut self, count: u64, gap_us: u64) {
        for n in 0..count {
            self.publish(Lane::Routine, &format!("notice {n}"));
            self.run_us(gap_us);
        }
    }

    fn lose(&mut self, node: NodeId, datagrams: usize) {
        let script = std::iter::repeat_n(true, datagrams).collect();
        self.network.downlink(node).loss = Loss::Script(script);
    }

    fn run_us(&mut self, us: u64) {
        self.network.run_for(Duration::from_micros(us));
    }

    /// What was found wrong; `lost` numbers may be lost.
    fn faults(&mut self, lost: u64) -> Vec<String> {
        self.network.expect_complete();
        self.network.expect_true_receipts(true);
        let mut faults = self.network.checker.violations().to_vec();
        if self.network.checker.numbers_lost != lost {
            faults.push("lost without need".to_owned());
        }
        faults
    }
}

fn group() -> GroupId {
    GroupId::of("all")
}

/// A text of so many bytes in which no part is like another.
fn text(seed: u64, bytes: usize) -> String {
    let mut rng = Rng::new(seed);
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(&format!("{:016x}", rng.bits()));
    }
    text.truncate(bytes);
    text
}

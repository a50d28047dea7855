//! Situations by name, run through the simulator in simulated time. What `tests/swarm.rs` meets by chance stands here
//! with its figures.
//!
//! `cargo test --no-default-features --test scenarios -- --nocapture | grep figure` prints what was measured.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use floorcast::notice::{Notice, NoticeId, TEXT_BYTES_MAX};
use floorcast::proto::{
    Backoff, DatagramBytes, GroupSize, Join, Origin, Rate, SILENCE_NS, SendWindowLen, Stats,
};
use floorcast::rng::Rng;
use floorcast::sim::{Link, Loss, Network, NodeId, NodeSpec};
use floorcast::station::{Station, StationEvent};
use floorcast::time::Timestamp;
use floorcast::wire::{
    GroupId, Lane, SINGLE_DATA_OVERHEAD_BYTES, SeqNo, SeqRange, SourceId, StreamId,
};

/// A quiet cable of the simulator, one direction.
const LATENCY_NS: u64 = 25_000;
/// Source to switch to receiver.
const ONE_WAY_NS: u64 = 2 * LATENCY_NS;
/// A NACK and its repair: receiver to switch to source and back.
const ROUND_TRIP_NS: u64 = 4 * LATENCY_NS;
const MILLISECOND_NS: u64 = 1_000_000;

// 1 to 5: repairs.

/// Goal: a lone loser has its repair one round trip after it could know, whoever else listens. Method: 500 receivers, a
/// notice every 100 us, one of them lost by one receiver; zero back-off, no copies.
#[test]
fn a_lone_loss_in_a_stream_is_repaired_within_a_round_trip() {
    let mut floor = Floor::asking(1, 500);
    let loser = floor.receivers[250];
    floor.stream(50, 100);
    floor.lose(loser, 1);
    let lost = floor.publish("the lost one");
    floor.run_us(100);
    let next = floor.publish("the next one");
    floor.stream(50, 100);
    floor.settle();

    let known = next.at.plus_nanos(ONE_WAY_NS);
    let repaired = floor.arrival(loser, lost);
    figure(
        "1 lone loss: known to repaired",
        repaired.nanos_since(known),
    );
    assert!(
        repaired <= known.plus_nanos(ROUND_TRIP_NS + 150_000),
        "{repaired}"
    );
    assert_eq!(
        floor.arrival(loser, next),
        repaired,
        "what waited is let go at once"
    );
    let source = floor.stats(floor.source);
    assert_eq!(
        (floor.stats(loser).nacks_sent, source.nacks_received),
        (1, 1)
    );
    assert_eq!((source.repairs_sent, source.repairs_multicast), (1, 0));
    floor.expect_all();
}

/// Goal: the last message before a silence is not found missing late. Method: after five quiet seconds one of 500 receivers
/// loses a lone notice, then also the first and the first two heartbeats behind it.
#[test]
fn a_lost_last_message_is_complete_within_a_millisecond() {
    for datagrams in 1..=3 {
        let mut floor = Floor::new(2, 500);
        let loser = floor.receivers[123];
        floor.stream(10, 1_000);
        floor.run_us(5_000_000);
        floor.lose(loser, datagrams);
        let last = floor.publish("the last one");
        floor.settle();

        let took = floor.arrival(loser, last).nanos_since(last.at);
        figure(
            &format!("2 last message, {datagrams} datagrams lost: publication to delivery"),
            took,
        );
        assert!(
            took <= MILLISECOND_NS + ROUND_TRIP_NS + ONE_WAY_NS,
            "{took} ns"
        );
        floor.expect_all();
    }
}

/// Goal: gaps that are known at once are asked for at once. Method: a receiver's program is busy while ten scattered
/// datagrams of twenty are lost, then finds the rest in its socket: one NACK datagram names all ten.
#[test]
fn ten_gaps_found_at_once_take_one_nack() {
    let mut floor = Floor::asking(3, 20);
    let loser = floor.receivers[7];
    floor.stream(20, 100);
    floor.network.stop(loser);
    let (lost, _) = floor.lose_every_other(loser, 10, 100);
    floor.network.go_on(loser);
    let known = floor.network.now();
    floor.settle();

    let took = floor.last_arrival(loser, &lost).nanos_since(known);
    figure("3 ten gaps at once: known to repaired", took);
    assert!(took <= ROUND_TRIP_NS + MILLISECOND_NS, "{took} ns");
    assert_eq!(floor.stats(loser).nacks_sent, 1);
    assert_eq!(floor.stats(floor.source).repairs_sent, 10);
    floor.expect_all();
}

/// Goal: gaps that become known one after another are repaired just as fast; with zero back-off each is asked for by
/// itself, with back-off they share NACKs. Method: every other datagram of twenty is lost, 100 us apart.
#[test]
fn ten_gaps_in_a_stream_are_repaired_in_time() {
    for (backoff_ms, nacks_max) in [(0, 10), (5, 9)] {
        let mut floor = Floor::with(3, 20, |spec| {
            spec.config.tuning.backoff = Backoff::Fixed(Duration::from_millis(backoff_ms));
            spec.config.tuning.copies = false;
        });
        let loser = floor.receivers[7];
        floor.stream(20, 100);
        let (lost, shown) = floor.lose_every_other(loser, 10, 100);
        let known = shown.at.plus_nanos(ONE_WAY_NS);
        floor.settle();

        let took = floor.last_arrival(loser, &lost).nanos_since(known);
        let nacks = floor.stats(loser).nacks_sent;
        figure(
            &format!("3 ten gaps in a stream, back-off {backoff_ms} ms: last known to repaired"),
            took,
        );
        figure(
            &format!("3 ten gaps in a stream, back-off {backoff_ms} ms: NACKs"),
            nacks,
        );
        let allowed = ROUND_TRIP_NS + MILLISECOND_NS * (1 + backoff_ms);
        assert!(took <= allowed, "{took} ns");
        assert!(nacks <= nacks_max, "{nacks}");
        floor.expect_all();
    }
}

/// Goal: a loss common to all is repaired by one multicast; back-off keeps the NACKs few. Method: one datagram of a stream
/// is lost on the source's own cable; 500 receivers, without and with a back-off of 5 ms.
#[test]
fn a_common_loss_takes_one_multicast_repair() {
    for (backoff_ms, nacks_max) in [(0, 500), (5, 20)] {
        let mut floor = Floor::with(4, 500, |spec| {
            spec.config.tuning.backoff = Backoff::Fixed(Duration::from_millis(backoff_ms));
            spec.config.tuning.copies = false;
        });
        floor.stream(300, 100);
        floor.network.uplink(floor.source).loss = script(1);
        let lost = floor.publish("lost by all");
        floor.run_us(100);
        let known = floor.network.now().plus_nanos(ONE_WAY_NS);
        floor.stream(50, 100);
        floor.settle();

        let stats = floor.stats(floor.source);
        let last = floor.receivers.clone().into_iter();
        let last = last.map(|node| floor.arrival(node, lost)).max().unwrap();
        let label = |what| format!("4 common loss, back-off {backoff_ms} ms: {what}");
        figure(
            &label("known to the last repaired"),
            last.nanos_since(known),
        );
        figure(&label("NACKs"), stats.nacks_received);
        figure(&label("repairs"), stats.repairs_sent);
        figure(&label("of these by multicast"), stats.repairs_multicast);
        assert!(stats.nacks_received <= nacks_max);
        assert!(stats.repairs_multicast <= 1 && stats.repairs_sent <= 3);
        floor.expect_all();
    }
}

/// Goal: the back-off holds from the first datagram on. Method: as above, but the lost datagram is the session's first, so
/// that receivers learn of the back-off from the datagram that shows the gap.
#[test]
fn the_first_gap_of_a_session_is_backed_off_too() {
    let mut floor = Floor::with(4, 500, |spec| {
        spec.config.tuning.backoff = Backoff::Fixed(Duration::from_millis(5));
        spec.config.tuning.copies = false;
    });
    floor.network.uplink(floor.source).loss = script(1);
    floor.publish("lost by all");
    floor.run_us(100);
    floor.stream(50, 100);
    floor.settle();
    floor.expect_all();
    let nacks = floor.stats(floor.source).nacks_received;
    figure("4 common loss of the first datagram, 5 ms: NACKs", nacks);
    assert!(nacks <= 20, "{nacks} NACKs");
}

/// Goal: a burst lost by everybody is repaired for everybody. Method: 50 datagrams in a row lost on the source's cable.
#[test]
fn a_burst_lost_by_all_is_repaired_for_all() {
    let mut floor = Floor::asking(5, 100);
    floor.stream(50, 100);
    floor.network.uplink(floor.source).loss = script(50);
    let lost = floor.stream(50, 100);
    let known = floor.network.now().plus_nanos(ONE_WAY_NS);
    floor.stream(50, 100);
    floor.settle();
    let repaired = floor.receivers.iter();
    let repaired = repaired.map(|&node| floor.last_arrival(node, &lost));
    let last = repaired.max().unwrap();
    let stats = floor.stats(floor.source);
    figure("5 burst of 50: known to all", last.nanos_since(known));
    figure("5 burst of 50: repairs", stats.repairs_sent);
    assert!(stats.repairs_multicast >= 50 && stats.repairs_sent <= 150);
    floor.expect_all();
}

// 6 to 9: joining, ending, resuming, falling behind.

/// Goal: a late receiver begins where it asked to. Method: twenty notices, two quiet seconds, three receivers that join
/// each in its way, five more notices.
#[test]
fn late_receivers_begin_as_they_asked() {
    let mut floor = Floor::new(6, 3);
    let before = floor.stream(20, 10_000);
    floor.run_us(2_000_000);
    let [trail, lead, last] = [Join::Trail, Join::Lead, Join::Last(5)].map(|join| floor.join(join));
    floor.run_us(2_000_000);
    let after = floor.stream(5, 10_000);
    floor.settle();

    let all: Vec<_> = before.iter().chain(&after).copied().collect();
    assert_eq!(floor.received(trail), ids(&all));
    assert_eq!(floor.received(lead), ids(&after));
    assert_eq!(floor.received(last), ids(&all[15..]));
    floor.expect_all();
}

/// Goal: to join in the middle of a message is no loss. Method: a message of many segments, and one that joins at the last
/// three of them.
#[test]
fn the_rest_of_a_message_is_no_loss() {
    let mut floor = Floor::new(6, 3);
    floor.stream(20, 1_000);
    floor.publish(&text(1, 30_000));
    floor.run_us(2_000_000);
    let late = floor.join(Join::Last(3));
    floor.run_us(2_000_000);
    let after = floor.stream(5, 1_000);
    floor.settle();
    assert_eq!(floor.received(late), ids(&after));
    floor.expect_all();
}

/// Goal: whoever was there first gets everything, however it joins, also when its first datagrams were lost. Method: three
/// receivers that lose the first five datagrams and one that hears nothing for three seconds.
#[test]
fn whoever_was_there_first_gets_everything() {
    let mut floor = Floor::new(6, 1);
    let early = [Join::Trail, Join::Lead, Join::Last(1), Join::Lead].map(|join| floor.join(join));
    floor.run_us(10_000);
    for &node in &early {
        floor.lose(node, 5);
    }
    floor.network.downlink(early[3]).is_up = false;
    let sent = floor.stream(30, 100_000);
    floor.network.downlink(early[3]).is_up = true;
    floor.settle();
    for node in early {
        assert_eq!(floor.received(node), ids(&sent));
    }
    floor.expect_all();
}

/// Goal: a source that dies in the middle of a message and starts anew: what can no longer come is reported lost, then the
/// old life ends, then the new one begins. Method: a receiver misses part of a long message and cannot ask; the source is
/// killed and restarted while it still sends.
#[test]
fn a_killed_source_is_replaced_in_order() {
    let mut floor = Floor::with(7, 1, |spec| spec.config.data_rate = rate(1_000_000));
    floor.record();
    let node = floor.receivers[0];
    floor.stream(10, 1_000);
    floor.network.uplink(node).is_up = false;
    floor.publish(&text(2, 500_000));
    floor.run_us(50_000);
    floor.network.downlink(node).is_up = false;
    floor.run_us(20_000);
    floor.network.downlink(node).is_up = true;
    floor.run_us(20_000);
    let sent = floor.stats(floor.source).segments_sent;
    assert!(sent > 20 && sent < 200, "{sent}: still sending");
    floor.network.restart(floor.source, false);
    floor.network.heal();
    floor.run_us(10_000);
    floor.stream(5, 1_000);
    floor.settle();
    assert_eq!(
        story(),
        [
            "started",
            "notices 0..10",
            &format!("lost 10..{sent}"),
            "ended replaced",
            "started",
            "notices 0..5"
        ]
    );
    floor.network.checker.numbers_lost = 0;
    floor.expect_all();
}

/// Goal: the same when nothing but the end of the message is missing. Method: as above, without loss.
#[test]
fn a_message_cut_off_by_the_end_of_a_life_is_reported_lost() {
    let mut floor = Floor::with(7, 1, |spec| spec.config.data_rate = rate(1_000_000));
    floor.record();
    floor.stream(10, 1_000);
    floor.publish(&text(2, 500_000));
    floor.run_us(50_000);
    let sent = floor.stats(floor.source).segments_sent;
    floor.network.restart(floor.source, false);
    floor.run_us(10_000);
    floor.stream(5, 1_000);
    floor.settle();
    assert_eq!(
        story(),
        [
            "started",
            "notices 0..10",
            &format!("lost 10..{sent}"),
            "ended replaced",
            "started",
            "notices 0..5"
        ]
    );
}

/// Goal: lives are never mixed. Method: twenty receivers that lose every tenth datagram; the source is killed four times in
/// the middle of a message, and the checker watches.
#[test]
fn lives_are_never_mixed() {
    let mut floor = Floor::with(7, 20, |spec| spec.config.data_rate = rate(2_000_000));
    floor.spoil(|link| {
        link.loss = Loss::Random(0.1);
        link.duplicate = 0.1;
        link.reorder = 0.2;
        link.reorder_ns = 2 * MILLISECOND_NS;
    });
    for life in 0..5 {
        floor.stream(20, 1_000);
        floor.publish(&text(life, 300_000));
        floor.run_us(60_000);
        if life < 4 {
            floor.network.restart(floor.source, false);
        }
    }
    floor.network.heal();
    floor.settle();
    floor.network.checker.numbers_lost = 0;
    floor.expect_all();
}

/// Goal: a source that closes is told from one that dies, and what is missing is still repaired. Method: the last notice is
/// lost by the receiver, and the source leaves at once.
#[test]
fn a_closed_source_has_ended_and_all_is_here() {
    let mut floor = Floor::new(7, 1);
    floor.record();
    floor.stream(5, 1_000);
    floor.lose(floor.receivers[0], 1);
    floor.publish("the last one");
    floor.leave(floor.source);
    floor.run_us(4_200);
    let has_left = floor.station(floor.source).has_left();
    assert!(has_left, "three closing heartbeats within 4 ms");
    floor.network.kill(floor.source);
    floor.run_us(200_000);
    assert_eq!(story(), ["started", "notices 0..6", "ended closed"]);
    floor.expect_all();
}

/// Goal: a receiver sleeps after a source has closed. Method: a second after the last closing heartbeat must be reached in
/// few steps; a station that is due for ever moves the simulator's time on by a nanosecond a step.
#[test]
fn a_receiver_sleeps_after_a_source_has_closed() {
    let mut floor = Floor::new(7, 1);
    floor.stream(5, 1_000);
    floor.leave(floor.source);
    floor.run_us(10_000);
    floor.network.kill(floor.source);
    assert!(floor.steps(Duration::from_secs(1)) < 1_000);
}

/// Goal: a source that closes under loss leaves nobody in doubt: everything is here, and its life has ended. Method: three
/// lanes, twenty receivers that lose a fifth; what of it needs the source comes within its last 4 ms.
#[test]
fn a_source_that_closes_under_loss_leaves_no_doubt() {
    let mut floor = Floor::new(7, 20);
    floor.record();
    floor.spoil(|link| link.loss = Loss::Random(0.2));
    for n in 0..60 {
        floor.publish_on(Lane::ALL[n % 3], "one of sixty");
        floor.run_us(1_000);
    }
    floor.leave(floor.source);
    assert!(floor.steps(Duration::from_secs(15)) < 20_000);
    let ends = TOLD.with_borrow(|told| {
        let is_end = |event: &&StationEvent| matches!(event, StationEvent::SessionEnded { .. });
        told.iter().filter(is_end).count()
    });
    assert_eq!(ends, 20);
    floor.expect_all();
}

/// Goal: what a closed source does not repair is reported lost before the end. Method: as above, and the receiver cannot ask.
#[test]
fn what_a_closed_source_did_not_repair_is_lost_before_the_end() {
    let mut floor = Floor::asking(7, 1);
    floor.record();
    floor.stream(5, 1_000);
    floor.network.uplink(floor.receivers[0]).is_up = false;
    floor.lose(floor.receivers[0], 1);
    floor.publish("the last one");
    floor.leave(floor.source);
    floor.run_us(4_200);
    floor.network.kill(floor.source);
    floor.settle();
    assert_eq!(
        story(),
        ["started", "notices 0..5", "lost 5..6", "ended closed"]
    );
}

/// Goal: a source that vanishes is silent after ten seconds, not before. Method: it is killed right after a notice.
#[test]
fn a_vanished_source_is_silent_after_ten_seconds() {
    let mut floor = Floor::new(7, 1);
    floor.record();
    let last = floor.publish("the last words");
    floor.network.kill(floor.source);
    let silent = last.at.plus_nanos(ONE_WAY_NS + SILENCE_NS);
    floor
        .network
        .run_until(Timestamp::from_nanos(silent.as_nanos() - 1));
    assert_eq!(story(), ["started", "notices 0..1"]);
    floor.network.run_until(silent);
    assert_eq!(story(), ["started", "notices 0..1", "ended silent"]);
    floor.expect_all();
}

/// Goal: a source that was only cut off goes on where it was, and what was missed is repaired. Method: its cable is out for
/// fifteen seconds while it publishes.
#[test]
fn a_partitioned_source_goes_on_where_it_was() {
    let mut floor = Floor::new(7, 1);
    floor.record();
    floor.stream(10, 1_000);
    floor.network.uplink(floor.source).is_up = false;
    floor.stream(30, 500_000);
    floor.network.uplink(floor.source).is_up = true;
    floor.settle();
    assert_eq!(
        story(),
        [
            "started",
            "notices 0..10",
            "ended silent",
            "started",
            "notices 10..40"
        ]
    );
    floor.expect_all();
}

/// Goal: the same, when more was missed than the window holds: exactly that is reported lost. Method: 1,500 notices in
/// fifteen seconds, with a window of 1,024.
#[test]
fn what_a_partition_outlasted_is_reported_lost() {
    let mut floor = Floor::with(7, 1, |spec| {
        spec.config.send_window_len = SendWindowLen::MIN;
    });
    floor.record();
    floor.stream(10, 1_000);
    floor.network.uplink(floor.source).is_up = false;
    floor.stream(1_500, 10_000);
    floor.network.uplink(floor.source).is_up = true;
    floor.settle();
    assert_eq!(
        story(),
        [
            "started",
            "notices 0..10",
            "ended silent",
            "started",
            "lost 10..486",
            "notices 486..1510"
        ]
    );
    floor.expect_lost(476);
}

/// Goal: a receiver that starts anew and goes on where it stood has everything exactly once over both its lives. Method:
/// killed with a gap open and notices waiting behind it; five notices while it is down.
#[test]
fn a_resumed_receiver_has_everything_once() {
    let mut floor = Floor::new(8, 10);
    let node = floor.receivers[3];
    let mut sent = floor.stream(10, 1_000);
    floor.network.uplink(node).is_up = false;
    floor.lose(node, 1);
    sent.extend(floor.stream(5, 1_000));
    floor.network.kill(node);
    sent.extend(floor.stream(5, 1_000));
    floor.network.restart(node, true);
    floor.network.uplink(node).is_up = true;
    floor.run_us(10_000);
    sent.extend(floor.stream(5, 1_000));
    floor.settle();
    assert_eq!(floor.received(node), ids(&sent));
    floor.expect_all();
}

/// Goal: one that does not resume begins as it joins: Lead with what comes, Trail with everything again. Method: killed
/// after ten notices, five while it is down, five after.
#[test]
fn a_receiver_that_forgot_begins_as_it_joins() {
    let mut floor = Floor::new(8, 3);
    let (lead, trail) = (floor.join(Join::Lead), floor.join(Join::Trail));
    let before = floor.stream(10, 100_000);
    floor.network.kill(lead);
    floor.network.kill(trail);
    let down = floor.stream(5, 100_000);
    floor.network.restart(lead, false);
    floor.network.restart(trail, false);
    floor.run_us(1_000_000);
    let after = floor.stream(5, 100_000);
    floor.settle();
    let all: Vec<_> = [&before[..], &down, &after].concat();
    assert_eq!(floor.received(lead), ids(&[&before[..], &after].concat()));
    assert_eq!(floor.received(trail), ids(&[&before[..], &all].concat()));
    floor.expect_all();
}

/// Goal: of what a receiver missed exactly that is lost which left the send window. Method: one receiver of five is cut off
/// for 1,500 notices, with a window of 1,024.
#[test]
fn exactly_what_left_the_window_is_lost() {
    let mut floor = Floor::with(9, 5, |spec| {
        spec.config.send_window_len = SendWindowLen::MIN;
    });
    let node = floor.receivers[2];
    floor.stream(10, 50);
    floor.network.downlink(node).is_up = false;
    floor.stream(1_500, 50);
    floor.network.downlink(node).is_up = true;
    floor.settle();
    assert_eq!(floor.lost(node), [range(10, 486)]);
    assert_eq!(floor.received(node).len(), 1_510 - 476);
    floor.expect_lost(476);
}

/// Goal: the same when the receiver learns it from a squelch. Method: its NACK takes 5 ms to the source; meanwhile the
/// window moves past the half of what it asks for, and it hears nothing of that.
#[test]
fn a_squelch_says_what_is_lost() {
    let mut floor = Floor::with(9, 5, |spec| {
        spec.config.send_window_len = SendWindowLen::MIN;
    });
    let node = floor.receivers[2];
    floor.stream(10, 50);
    floor.network.downlink(node).is_up = false;
    floor.stream(990, 50);
    floor.network.downlink(node).is_up = true;
    floor.network.uplink(node).latency_ns = 5 * MILLISECOND_NS;
    floor.stream(1, 60);
    floor.network.downlink(node).is_up = false;
    floor.stream(500, 9);
    floor.run_us(400);
    floor.network.downlink(node).is_up = true;
    floor.settle();
    assert!(floor.stats(node).squelches_received >= 1);
    assert_eq!(floor.lost(node), [range(10, 477)]);
    floor.expect_lost(467);
}

// 10 to 13: lanes, many sources, receipts, troubled neighbours.

/// Goal: a bulk backlog delays an emergency by no more than the datagram that is on its way. Method: four messages of a
/// megabyte at 1 MB/s, and twenty emergencies at odd moments.
#[test]
fn bulk_does_not_delay_an_emergency() {
    const DATAGRAM_NS: u64 = 1_400_000;
    let mut floor = Floor::with(10, 5, |spec| spec.config.data_rate = rate(1_000_000));
    for seed in 0..4 {
        floor.publish_on(Lane::Bulk, &text(seed, 1_000_000));
    }
    floor.run_us(100_000);
    let mut worst = 0;
    for n in 0..20 {
        let sent = floor.publish_on(Lane::Emergency, "leave the building");
        floor.run_us(37_000 + 101 * n);
        for node in floor.receivers.clone() {
            worst = worst.max(floor.arrival(node, sent).nanos_since(sent.at));
        }
    }
    let bulk = StreamId::new(group(), Lane::Bulk);
    figure("10 emergency behind bulk, worst", worst);
    assert!(worst <= DATAGRAM_NS + ONE_WAY_NS, "{worst} ns");
    assert!(floor.stats(floor.source).segments_sent < 2_000, "{bulk}");
    floor.run_us(5_000_000);
    floor.settle();
    floor.expect_all();
}

/// Goal: a gap in one lane does not hold up another. Method: a receiver that cannot ask loses a bulk datagram, then routine
/// notices come.
#[test]
fn a_gap_in_bulk_does_not_block_routine() {
    let mut floor = Floor::new(10, 2);
    let node = floor.receivers[0];
    floor.publish_on(Lane::Bulk, "first");
    floor.run_us(1_000);
    floor.network.uplink(node).is_up = false;
    floor.lose(node, 1);
    let held = floor.publish_on(Lane::Bulk, "lost");
    floor.run_us(1_000);
    floor.publish_on(Lane::Bulk, "waits");
    floor.run_us(1_000);
    let routine = floor.stream(10, 1_000);
    for sent in routine {
        assert_eq!(floor.arrival(node, sent).nanos_since(sent.at), ONE_WAY_NS);
    }
    assert!(!floor.network.checker.has(node, held.id));
    floor.network.uplink(node).is_up = true;
    floor.settle();
    floor.expect_all();
}

/// Goal: several sources do not disturb each other. Method: three of them, 50 receivers that lose 5 % both ways, all the
/// time.
#[test]
fn three_sources_under_loss_are_complete() {
    let mut floor = Floor::new(11, 50);
    let more = ["second", "third"].map(|name| floor.add_source(NodeSpec::source(name)));
    let sources = [floor.source, more[0], more[1]];
    floor.spoil(|link| link.loss = Loss::Random(0.05));
    for _ in 0..100 {
        for source in sources {
            floor.source = source;
            floor.publish("one of three hundred");
            floor.run_us(300);
        }
    }
    floor.settle();
    assert_eq!(floor.network.checker.notices_delivered, 300 * 50);
    floor.expect_all();
}

/// Goal: a source that starts after a workstation has hung names exactly that one, and takes it back when it goes on. One
/// that left in good order is not expected; one that is listed and never came is named. Method: twenty workstations, one
/// stopped, one gone; then the source, its roll call, and one notice.
#[test]
fn receipts_name_exactly_who_is_missing() {
    let mut floor = Floor::empty(12);
    for n in 0..20 {
        let spec = NodeSpec::workstation(format!("ws-{n}"), &[group()]);
        let node = floor.network.add(spec);
        floor.receivers.push(node);
    }
    floor.run_us(1_000_000);
    let (hung, gone) = (floor.receivers[7], floor.receivers[8]);
    floor.leave(gone);
    floor.run_us(50_000);
    assert!(floor.station(gone).has_left());
    floor.network.kill(gone);
    floor.network.stop(hung);
    floor.run_us(3_000_000);

    let mut spec = NodeSpec::source("source");
    spec.listed.insert(group(), vec!["ws-never".to_owned()]);
    floor.source = floor.add_source(spec);
    let called = floor.network.now();
    let station = floor.station(floor.source);
    station.call_roll(called, group(), &[group()]);
    floor.network.go_on(floor.source);
    floor.run_until("12 roll call: call to settled", |floor| {
        let now = floor.network.now();
        let station = floor.station(floor.source);
        station.is_roster_settled(now)
    });
    floor.publish("to all who are here");
    floor.run_until("12 receipts: notice to 18 of 20", |floor| {
        floor.tally() == (20, vec!["ws-7".to_owned(), "ws-never".to_owned()])
    });
    floor.run_us(2_000_000);
    assert_eq!(
        floor.tally(),
        (20, vec!["ws-7".to_owned(), "ws-never".to_owned()])
    );
    floor.network.go_on(hung);
    floor.run_until("12 receipts: gone on to its receipt", |floor| {
        floor.tally() == (20, vec!["ws-never".to_owned()])
    });
    floor.expect_all();
}

/// Goal: one receiver in trouble costs the others nothing. Method: when the last of 49 others has each notice, with and
/// without one that loses 30 %, and with one that is stopped.
#[test]
fn a_troubled_receiver_costs_the_others_nothing() {
    let quiet = others_done(|_, _| {});
    let lossy = others_done(|network, node| {
        network.downlink(node).loss = Loss::Random(0.3);
        network.uplink(node).loss = Loss::Random(0.3);
    });
    let stopped = others_done(|network, node| network.stop(node));
    figure("13 last delivery to the others, quiet", quiet.as_nanos());
    figure("13 the same, one at 30 % loss", lossy.as_nanos());
    figure("13 the same, one stopped", stopped.as_nanos());
    assert_eq!(quiet, lossy);
    assert_eq!(quiet, stopped);
}

/// When the last notice reached the last of 49 receivers beside one in trouble.
fn others_done(trouble: impl FnOnce(&mut Network, NodeId)) -> Timestamp {
    let mut floor = Floor::new(13, 50);
    let node = floor.receivers[20];
    trouble(&mut floor.network, node);
    for n in 0..200 {
        floor.publish(&text(n, if n % 20 == 0 { 30_000 } else { 200 }));
        floor.run_us(300);
    }
    floor.settle();
    let others = floor.network.arrivals.iter();
    let last = others.filter(|arrival| arrival.node != node);
    let last = last.map(|arrival| arrival.at).max().expect("some arrived");
    floor.network.heal();
    floor.network.go_on(node);
    floor.settle();
    floor.expect_all();
    last
}

// 14 and 15: sizes, and everything a cable may do.

/// Goal: messages of every size come through byte for byte. Method: around what a datagram holds and up to the longest text,
/// in datagrams of three sizes, while 5 % is lost on every cable.
#[test]
fn every_size_comes_through() {
    for datagram_bytes in [256, 1_400, 8_000] {
        let mut floor = Floor::with(14, 3, |spec| {
            spec.config.datagram_bytes = DatagramBytes::try_from(datagram_bytes).unwrap();
        });
        floor.spoil(|link| link.loss = Loss::Random(0.05));
        floor.network.uplink(floor.source).loss = Loss::Random(0.05);
        let bytes = usize::try_from(datagram_bytes).unwrap();
        let boundary = bytes - SINGLE_DATA_OVERHEAD_BYTES - notice_overhead_bytes();
        let sizes = [0, 1, boundary - 1, boundary, boundary + 1];
        let two = 2 * (bytes - SINGLE_DATA_OVERHEAD_BYTES) - 4 - notice_overhead_bytes();
        let more = [two - 1, two, two + 1, 60_000, TEXT_BYTES_MAX];
        for (seed, bytes) in (0..).zip(sizes.into_iter().chain(more)) {
            floor.publish(&text(seed, bytes));
            floor.run_us(2_000);
        }
        floor.settle();
        assert_eq!(floor.network.checker.notices_delivered, 30);
        floor.expect_all();
    }
}

/// Goal: whatever a cable does to datagrams short of losing them changes nothing but counters. Method: everything twice on
/// every cable, everything shuffled, every fifth datagram damaged, and all of it at once.
#[test]
fn duplicates_disorder_and_damage_change_nothing() {
    let twice = |link: &mut Link| link.duplicate = 1.0;
    let shuffled = |link: &mut Link| {
        link.reorder = 1.0;
        link.reorder_ns = 3 * MILLISECOND_NS;
    };
    let damaged = |link: &mut Link| link.corrupt = 0.2;
    let all = |link: &mut Link| {
        twice(link);
        shuffled(link);
        damaged(link);
    };
    for fault in [&twice as &dyn Fn(&mut Link), &shuffled, &damaged, &all] {
        let mut floor = Floor::new(15, 20);
        floor.spoil(fault);
        let source = floor.source;
        fault(floor.network.uplink(source));
        fault(floor.network.downlink(source));
        for n in 0..100 {
            floor.publish(&text(n, if n % 10 == 0 { 9_000 } else { 80 }));
            floor.run_us(100);
        }
        floor.settle();
        let link = floor.network.downlink(source).clone();
        let stats = floor.stats(floor.receivers[0]);
        assert!(link.duplicate < 1.0 || stats.discard_duplicate >= 100);
        assert!(link.reorder < 1.0 || stats.gaps_found >= 10);
        assert!(link.corrupt < 0.2 || stats.discard_malformed >= 10);
        floor.expect_all();
    }
}

/// Goal: a window that comes backwards is put in order. Method: four times sixty datagrams, each a hundred microseconds
/// earlier than the one sent before it.
#[test]
fn a_window_backwards_is_put_in_order() {
    let mut floor = Floor::new(15, 5);
    let node = floor.receivers[0];
    floor.stream(5, 1_000);
    floor.network.downlink(node).reorder = 1.0;
    for _ in 0..4 {
        for n in 0..60 {
            floor.network.downlink(node).latency_ns = 10_000_000 - n * 100_000;
            floor.publish("backwards");
        }
        floor.run_us(20_000);
    }
    floor.settle();
    assert!(floor.stats(node).gaps_found >= 4);
    floor.expect_all();
}

// Helpers.

/// A notice that was published.
#[derive(Clone, Copy)]
struct Sent {
    id: NoticeId,
    at: Timestamp,
}

/// A source and receivers on one group.
struct Floor {
    network: Network,
    source: NodeId,
    receivers: Vec<NodeId>,
    published: u64,
}

impl Floor {
    /// A floor with nobody on it.
    fn empty(seed: u64) -> Self {
        let mut network = Network::new(seed);
        network.record_arrivals();
        Self {
            network,
            source: NodeId(0),
            receivers: Vec::new(),
            published: 0,
        }
    }

    fn new(seed: u64, receivers: usize) -> Self {
        Self::with(seed, receivers, |_| {})
    }

    /// The same, without copies: what is lost has to be asked for.
    fn asking(seed: u64, receivers: usize) -> Self {
        Self::with(seed, receivers, |spec| spec.config.tuning.copies = false)
    }

    /// A source as `configure` wants it, and receivers that do not announce themselves.
    fn with(seed: u64, receivers: usize, configure: impl FnOnce(&mut NodeSpec)) -> Self {
        let mut floor = Self::empty(seed);
        let mut spec = NodeSpec::source("source");
        let counted = u64::try_from(receivers).map(GroupSize::try_from);
        spec.config.group_size = counted.expect("a count").expect("a count within bounds");
        configure(&mut spec);
        floor.source = floor.add_source(spec);
        for _ in 0..receivers {
            let node = floor.join(Join::Trail);
            floor.receivers.push(node);
        }
        floor.run_us(10);
        floor
    }

    /// Keeps what the receivers are told, for [`story`].
    fn record(&mut self) {
        self.network.plant_tamper(|event| {
            TOLD.with_borrow_mut(|told| told.push(event.clone()));
            vec![event]
        });
    }

    fn add_source(&mut self, spec: NodeSpec) -> NodeId {
        let node = self.network.add(spec);
        self.network.overhear(node, group());
        node
    }

    /// One more receiver.
    fn join(&mut self, join: Join) -> NodeId {
        let name = format!("receiver-{}", self.network.nodes().count());
        let spec = NodeSpec {
            is_workstation: false,
            join,
            ..NodeSpec::workstation(name, &[group()])
        };
        self.network.add(spec)
    }

    fn publish(&mut self, text: &str) -> Sent {
        self.publish_on(Lane::Routine, text)
    }

    fn publish_on(&mut self, lane: Lane, text: &str) -> Sent {
        let at = self.network.now();
        let text = text.to_owned();
        let id = self
            .network
            .broadcast(self.source, &[group()], lane, text)
            .expect("the window has room");
        self.published += 1;
        Sent { id, at }
    }

    /// `count` short notices, `gap_us` apart.
    fn stream(&mut self, count: u64, gap_us: u64) -> Vec<Sent> {
        let publish = |_| {
            let sent = self.publish(&format!("notice {}", self.published));
            self.run_us(gap_us);
            sent
        };
        (0..count).map(publish).collect()
    }

    /// Twice `count` notices, `gap_us` apart, of which `node` loses every other one; what it lost, and what shows the last
    /// of it.
    fn lose_every_other(&mut self, node: NodeId, count: u64, gap_us: u64) -> (Vec<Sent>, Sent) {
        let mut lost = Vec::new();
        let mut shown = Vec::new();
        for _ in 0..count {
            self.lose(node, 1);
            lost.extend(self.stream(1, gap_us));
            shown.extend(self.stream(1, gap_us));
        }
        (lost, shown[shown.len() - 1])
    }

    /// `node` does not get the next `datagrams` that are sent to it.
    fn lose(&mut self, node: NodeId, datagrams: usize) {
        self.network.downlink(node).loss = script(datagrams);
    }

    /// Gives every receiver's cables a fault.
    fn spoil(&mut self, fault: impl Fn(&mut Link)) {
        for &node in &self.receivers {
            fault(self.network.uplink(node));
            fault(self.network.downlink(node));
        }
    }

    /// Has a node leave in good order.
    fn leave(&mut self, node: NodeId) {
        let now = self.network.now();
        self.station(node).leave(now);
        self.network.go_on(node);
    }

    fn run_us(&mut self, us: u64) {
        self.network.run_for(Duration::from_micros(us));
    }

    /// Time for whatever is still to be repaired and reported.
    fn settle(&mut self) {
        self.run_us(3_000_000);
    }

    /// Runs for `duration`, or until that is clearly too much; how many steps that took.
    fn steps(&mut self, duration: Duration) -> u64 {
        let until = self.network.now() + duration;
        let mut steps = 0;
        while self.network.now() < until && steps < 1_000_000 && self.network.step() {
            steps += 1;
        }
        steps
    }

    /// Runs until something holds, and says how long that took.
    fn run_until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let from = self.network.now();
        while !holds(self) {
            self.run_us(100);
            let waited = self.network.now().nanos_since(from);
            assert!(
                waited < 3_000 * MILLISECOND_NS,
                "{what}: {:?}",
                self.tally()
            );
        }
        figure(what, self.network.now().nanos_since(from));
    }

    fn station(&mut self, node: NodeId) -> &mut Station {
        self.network.station(node).expect("the node lives")
    }

    fn stats(&mut self, node: NodeId) -> Stats {
        self.station(node).stats().clone()
    }

    fn origin(&mut self) -> Origin {
        self.station(self.source).origin()
    }

    /// What was reported lost to `node`.
    fn lost(&mut self, node: NodeId) -> Vec<SeqRange> {
        let origin = self.origin();
        let stream = StreamId::new(group(), Lane::Routine);
        self.network.checker.lost(node, origin, stream)
    }

    /// How many are expected to have the first notice, and the names of those who have not.
    fn tally(&mut self) -> (usize, Vec<String>) {
        let now = self.network.now();
        let station = self.station(self.source);
        let Some(tally) = station.tally(now, 0) else {
            return (0, Vec::new());
        };
        let names: BTreeMap<SourceId, String> =
            station.expected_on(now, group()).into_iter().collect();
        let mut missing: Vec<_> = tally.missing.iter().map(|id| names[id].clone()).collect();
        missing.sort();
        (tally.expected, missing)
    }

    /// The notices that `node` was given, in order, over all its lives.
    fn received(&self, node: NodeId) -> Vec<NoticeId> {
        let arrivals = self.network.arrivals.iter();
        let here = arrivals.filter(|arrival| arrival.node == node);
        here.map(|arrival| arrival.id).collect()
    }

    fn arrival(&self, node: NodeId, sent: Sent) -> Timestamp {
        let mut arrivals = self.network.arrivals.iter();
        let arrival = arrivals.find(|arrival| arrival.node == node && arrival.id == sent.id);
        arrival.expect("the notice was delivered").at
    }

    fn last_arrival(&self, node: NodeId, sent: &[Sent]) -> Timestamp {
        let arrivals = sent.iter().map(|&sent| self.arrival(node, sent));
        arrivals.max().expect("some were sent")
    }

    /// Nothing was wrong, nothing is missing, nothing was lost.
    fn expect_all(&mut self) {
        self.expect_lost(0);
    }

    /// Nothing was wrong, nothing is missing, and so many numbers were lost.
    fn expect_lost(&mut self, lost: u64) {
        self.network.expect_complete();
        self.network.expect_true_receipts(true);
        assert_eq!(self.network.checker.violations(), [""; 0]);
        assert_eq!(self.network.checker.numbers_lost, lost);
    }
}

fn group() -> GroupId {
    GroupId::of("all")
}

fn rate(bytes_a_second: u64) -> Rate {
    Rate::try_from(bytes_a_second).expect("a rate within bounds")
}

fn range(first: u64, end: u64) -> SeqRange {
    SeqRange::new(SeqNo(first), SeqNo(end)).expect("a run is not empty")
}

/// The next so many datagrams are lost.
fn script(datagrams: usize) -> Loss {
    Loss::Script(std::iter::repeat_n(true, datagrams).collect())
}

fn ids(sent: &[Sent]) -> Vec<NoticeId> {
    sent.iter().map(|sent| sent.id).collect()
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

/// What a notice from "source" takes beside its text.
fn notice_overhead_bytes() -> usize {
    let notice = Notice {
        id: NoticeId(0),
        from: "source".to_owned().into(),
        sent_ns: 0,
        expires_ns: None,
        confirm: true,
        status: floorcast::wire::Status::Actual,
        text: String::new().into(),
    };
    notice.encode().expect("a good notice").len()
}

/// Prints a figure: a count, or nanoseconds of simulated time.
fn figure(what: &str, value: impl fmt::Display) {
    println!("figure | {what} | {value}");
}

thread_local! {
    /// What receivers were told in this test.
    static TOLD: RefCell<Vec<StationEvent>> = const { RefCell::new(Vec::new()) };
}

/// What was told, in words, neighbours of one kind as one.
fn story() -> Vec<String> {
    let mut chapters: Vec<(&str, Option<SeqRange>)> = Vec::new();
    TOLD.with_borrow(|told| {
        for event in told {
            let chapter = match event {
                StationEvent::SessionStarted { .. } => ("started", None),
                StationEvent::SessionEnded { reason, .. } => (reason.as_str(), None),
                StationEvent::Notice { at, .. } => ("notices", Some(at.seqs)),
                StationEvent::Lost { seqs, .. } => ("lost", Some(*seqs)),
                StationEvent::Skipped { seqs, .. } => ("skipped", Some(*seqs)),
                // What sources are told.
                StationEvent::Reported { .. }
                | StationEvent::LossJudged { .. }
                | StationEvent::PaceLeft { .. }
                | StationEvent::PaceRejoined { .. }
                | StationEvent::Evicted { .. }
                | StationEvent::PaceTold { .. } => continue,
                _ => ("unforeseen", None),
            };
            match (chapters.last_mut(), chapter) {
                (Some((last, Some(before))), (kind, Some(seqs)))
                    if *last == kind && before.end() == seqs.first() =>
                {
                    *before = range(before.first().0, seqs.end().0);
                }
                _ => chapters.push(chapter),
            }
        }
    });
    let words = chapters.into_iter().map(|(kind, seqs)| match seqs {
        Some(seqs) => format!("{kind} {seqs}"),
        None if kind == "started" => kind.to_owned(),
        None => format!("ended {kind}"),
    });
    words.collect()
}

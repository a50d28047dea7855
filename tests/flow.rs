//! Flow control, scenario by scenario, in simulated time: whose pace a source keeps, who leaves it, who is told, and who
//! is evicted (R-FLOW-1 to R-FLOW-4).
//!
//! `cargo test --no-default-features --test flow -- --nocapture | grep figure` prints what was measured.

use std::fmt;
use std::time::Duration;

use floorcast::notice::NoticeId;
use floorcast::proto::{
    Flow, GroupSize, Percent, Rate, ReceiverAccount, SendWindowBytes, SendWindowLen, Stats,
};
use floorcast::sim::{Link, Loss, Network, News, NodeId, NodeSpec};
use floorcast::station::{Station, StationEvent};
use floorcast::time::Timestamp;
use floorcast::wire::{GroupId, Lane, SeqNo, SeqRange, SourceId, StreamId};

const RECEIVERS: usize = 20;
/// Text of a notice that fills a datagram, nearly.
const TEXT_BYTES: usize = 1_200;
/// The same with what the notice and the datagram take: its cost at the rate.
const DATAGRAM_BYTES: u64 = 1_288;
const MILLISECOND_NS: u64 = 1_000_000;
/// Shown in the source: how often it looks who is behind, and how long it bears one that stands still.
const LOOK_MS: u64 = 100;
const PATIENCE_MS: u64 = 500;

// A quorum.

/// Goal: one slow receiver of twenty is told that it has left the pace, catches up alone from the window and is back with
/// everything in order, and the others never wait for it. Method: a publisher that always has more at 10 MB/s; one
/// program hangs for 1.2 s. The window is 32 MiB: 3.2 s in all, half of it for what was sent.
#[test]
fn one_slow_receiver_leaves_the_pace_and_catches_up_alone() {
    let run = |trouble: bool| {
        let mut floor = Floor::with(1, quorum_of_95);
        let slow = floor.receivers[7];
        floor.fill_for(500);
        if trouble {
            floor.network.stop(slow);
        }
        floor.fill_for(1_200);
        floor.network.go_on(slow);
        floor.fill_for(2_300);
        floor
    };
    let mut floor = run(true);
    let slow = floor.receivers[7];
    let sent = floor.stats(floor.source).segments_sent;
    assert_eq!(sent, run(false).stats(floor.source).segments_sent);
    let [left, told, rejoined, told_back] = floor.pace_of(7)[..] else {
        panic!("{:?}", floor.pace_of(7));
    };
    assert_eq!(
        [left.1, told.1, rejoined.1, told_back.1],
        ["left", "told left", "rejoined", "told back"]
    );
    figure("one slow of 20: sent meanwhile", sent);
    figure("one slow of 20: hung to left, ms", left.0 - 500);
    figure("one slow of 20: awake to told, ms", told.0 - 1_700);
    figure("one slow of 20: awake to back, ms", rejoined.0 - 1_700);
    assert!(told.0 <= 1_700 + LOOK_MS + 1 && rejoined.0 <= 1_700 + 1_000);
    let stats = floor.stats(floor.source);
    assert_eq!((stats.pace_left, stats.pace_rejoined), (1, 1));
    assert!(stats.nacks_alone > 0 && stats.repairs_multicast == 0);
    floor.settle();
    assert_eq!(floor.received(slow), floor.sent);
    floor.expect_lost(0);
}

/// Goal: two slow receivers of twenty are more than the share that may be slow: one leaves the pace, the other one holds
/// it, for as long as it comes on. Where everybody counts, both hold it, and nothing is lost. Method: two on cables of 4
/// MB/s for 3 s, a rate of 10 MB/s, the smallest window.
#[test]
fn two_slow_receivers_hold_the_pace() {
    for share in [Percent::RECOMMENDED, Percent::MAX] {
        let mut floor = Floor::with(2, |spec| {
            spec.config.flow = Flow::Quorum(share);
            spec.config.data_rate = rate(10_000_000);
            spec.config.repair_rate = rate(2_000_000);
            spec.config.send_window_bytes = SendWindowBytes::MIN;
        });
        floor.fill_for(500);
        let free = floor.sent_in(1_000);
        for n in [7, 8] {
            let node = floor.receivers[n];
            floor.network.downlink(node).bytes_per_s = 4_000_000;
        }
        floor.fill_for(300);
        let held = floor.sent_in(2_700);
        let is_in_pace = [7, 8].map(|n| floor.words(n).is_empty());
        for n in [7, 8] {
            assert!(!floor.words(n).is_empty() || floor.lost(n).is_empty());
        }
        floor.network.heal();
        floor.fill_for(2_000);
        let again = floor.sent_in(1_000);
        let label = |what| format!("two slow, {} % count: {what}, KB/s", share.get());
        figure(&label("before"), free);
        figure(&label("meanwhile"), held);
        figure(&label("afterwards"), again);
        assert!(free > 9_800 && again > 9_800, "{free} {again}");
        assert!((1_000..=4_000).contains(&held), "{held}");
        floor.settle();
        if share == Percent::MAX {
            assert_eq!(is_in_pace, [true, true]);
            floor.expect_all_in_pace();
        } else {
            assert_ne!(
                is_in_pace[0], is_in_pace[1],
                "one is in the pace, one is not"
            );
        }
        let lost = [7, 8].map(|n| floor.lost(n).into_iter().map(SeqRange::len).sum::<u64>());
        assert!(share != Percent::MAX || lost == [0, 0]);
        floor.expect_lost(lost[0] + lost[1]);
    }
}

/// Goal: two of twenty that stand still hold the pace for as long as the patience lasts, then leave it. Method: both hang
/// for good, under a publisher that always has more; the smallest window.
#[test]
fn whoever_stands_still_wears_out_the_patience() {
    let mut floor = Floor::with(3, |spec| {
        quorum_of_95(spec);
        spec.config.send_window_bytes = SendWindowBytes::MIN;
    });
    floor.fill_for(300);
    for n in [7, 8] {
        let node = floor.receivers[n];
        floor.network.stop(node);
    }
    let mut still_ms = 0;
    for _ in 0..2_000 {
        still_ms += u64::from(floor.sent_in(1) == 0);
    }
    figure("two of 20 that stand still: held for, ms", still_ms);
    assert!(
        (PATIENCE_MS - 1..=PATIENCE_MS + 2 * LOOK_MS).contains(&still_ms),
        "{still_ms}"
    );
    for n in [7, 8] {
        assert_eq!(floor.pace_of(n)[0].1, "left");
    }
    assert_eq!(floor.stats(floor.source).pace_left, 2);
}

/// Goal: while a quorum holds the pace, nothing that it lacks leaves the window, not by a single segment, whatever the
/// size of the notices, and in whole blocks where they are coded. Method: a publisher that always has more, three of twenty
/// cut off for 300 ms again and again, everybody in the quorum; small windows, filled by their length or by their bytes.
#[test]
fn nothing_that_a_quorum_lacks_leaves_the_window() {
    for (lane, bytes, len) in [
        (Lane::Routine, 10, SendWindowLen::MIN),
        (Lane::Routine, TEXT_BYTES, SendWindowLen::RECOMMENDED),
        (Lane::Routine, 700, SendWindowLen::RECOMMENDED),
        (Lane::Bulk, 10, SendWindowLen::MIN),
        (Lane::Bulk, TEXT_BYTES, SendWindowLen::RECOMMENDED),
    ] {
        let mut floor = Floor::with(4, |spec| {
            spec.config.flow = Flow::Quorum(Percent::MAX);
            spec.config.send_window_len = len;
            spec.config.send_window_bytes = SendWindowBytes::MIN;
        });
        floor.fill_lane(lane, bytes, 100);
        for _ in 0..3 {
            for n in [7, 8, 9] {
                let node = floor.receivers[n];
                floor.network.downlink(node).is_up = false;
            }
            floor.fill_lane(lane, bytes, 300);
            floor.network.heal();
            floor.fill_lane(lane, bytes, 300);
        }
        let sent = floor.stats(floor.source).segments_sent;
        figure(&format!("cut off, {lane} of {bytes}: sent"), sent);
        floor.settle();
        floor.expect_lost(0);
        floor.expect_all_in_pace();
    }
}

/// Goal: reports that come together let a quorum go on together: the pace is half a window for each of them, not for each
/// look. Method: twenty receivers report each 5 ms within 0.1 ms; 512 small notices are half the window.
#[test]
fn reports_that_come_together_let_go_together() {
    let mut floor = Floor::with(5, |spec| {
        spec.config.flow = Flow::Quorum(Percent::RECOMMENDED);
        spec.config.send_window_len = SendWindowLen::MIN;
    });
    floor.fill_lane(Lane::Routine, 10, 1_000);
    let sent = floor.stats(floor.source).segments_sent;
    figure("half a window of 512 a report of 5 ms: sent in 1 s", sent);
    assert!(sent >= 90_000, "{sent}");
    floor.settle();
    floor.expect_lost(0);
}

// Whom a source waits for.

/// Goal: at a rate, a source keeps it and waits for nobody; without one it waits for nothing; a quorum that hangs stops it
/// at half a window. Method: 4,000 notices, with everybody well and with everybody stopped.
#[test]
fn a_source_waits_for_whom_it_should() {
    const NOTICES: u64 = 4_000;
    let due_ms = (NOTICES * DATAGRAM_BYTES - 65_536) / 10_000;
    for (flow, due) in [
        (Flow::Rate, Some(due_ms)),
        (Flow::None, Some(0)),
        (Flow::Quorum(Percent::RECOMMENDED), None),
    ] {
        for is_stopped in [false, true] {
            let mut floor = Floor::with(6, |spec| {
                spec.config.flow = flow;
                spec.config.data_rate = rate(10_000_000);
                spec.config.send_window_len = SendWindowLen::try_from(4_096).expect("in bounds");
            });
            floor.publish_some(20);
            floor.run_ms(1_000);
            if is_stopped {
                for node in floor.receivers.clone() {
                    floor.network.stop(node);
                }
            }
            let took = floor.send(NOTICES, due_ms + LOOK_MS);
            let label = format!("{flow:?}, all stopped {is_stopped}: 4,000 notices, ms");
            figure(&label, took.map_or("held".to_owned(), |ms| ms.to_string()));
            match due.or((!is_stopped).then_some(due_ms)) {
                Some(due) => {
                    let took = took.expect("nobody holds it");
                    assert!(
                        took >= due && took <= due + due / 50 + 1,
                        "{took} for {due}"
                    );
                }
                None => {
                    assert_eq!(took, None);
                    assert_eq!(floor.stats(floor.source).segments_sent, 20 + 2_048);
                }
            }
        }
    }
}

/// Goal: nobody who keeps up leaves the pace or is evicted in the books, however seldom reports come: what is not reported
/// yet is not missing. Method: nobody loses anything; groups that report each 5 ms, 0.5 s and 2 s, windows that pass
/// meanwhile, steady data and bursts after a silence.
#[test]
fn nobody_who_keeps_up_leaves_the_pace() {
    for flow in [Flow::Rate, Flow::Quorum(Percent::RECOMMENDED), Flow::None] {
        for (told, len) in [
            (20, SendWindowLen::MIN),
            (5_000, SendWindowLen::MIN),
            (20_000, SendWindowLen::MIN),
        ] {
            let mut floor = Floor::with(7, |spec| {
                spec.config.flow = flow;
                spec.config.send_window_len = len;
                spec.config.group_size = GroupSize::try_from(told).expect("in bounds");
            });
            for _ in 0..3 {
                for _ in 0..1_500 {
                    floor.publish_some(10);
                    floor.run_ms(1);
                }
                floor.run_ms(3_000);
                floor.publish_some(500);
            }
            let sent = floor.stats(floor.source).segments_sent;
            figure(&format!("{flow:?}, told to be {told}: sent"), sent);
            floor.settle();
            floor.expect_all_in_pace();
            floor.expect_lost(0);
        }
    }
}

// Being told.

/// Goal: a receiver that has left the pace learns it even if it was deaf when it was told, and once; the same when it is
/// back. Method: its cable is out for so long that it leaves, and for a moment when it comes back.
#[test]
fn a_receiver_that_was_deaf_is_told_again() {
    let mut floor = Floor::with(8, at_ten_megabytes);
    let deaf = floor.receivers[3];
    floor.publish_for(100);
    floor.network.downlink(deaf).is_up = false;
    floor.publish_for(3_400);
    assert_eq!(floor.words(3), ["left"]);
    floor.network.heal();
    while !floor.words(3).contains(&"rejoined") {
        floor.publish_for(1);
    }
    // The first of what it is told now is lost on it.
    floor.network.downlink(deaf).is_up = false;
    floor.publish_for(LOOK_MS / 2);
    floor.network.heal();
    floor.publish_for(2 * LOOK_MS);
    floor.settle();
    assert_eq!(
        floor.words(3),
        ["left", "told left", "rejoined", "told back"]
    );
    let (told, back) = (floor.pace_of(3)[1].0, floor.pace_of(3)[3].0);
    figure("deaf: healed to told, ms", told - 3_500);
    figure("deaf: back to told, ms", back - floor.pace_of(3)[2].0);
    assert!(told <= 3_500 + LOOK_MS + 10);
    floor.expect_lost(0);
}

/// Goal: one that was silent for so long that nobody looked any more is told that it is back, also without new data.
/// Method: it hangs for fifteen seconds; what it lacks is in the window still; nothing is published any more.
#[test]
fn one_that_was_away_for_long_comes_back_without_new_data() {
    let mut floor = Floor::with(9, at_ten_megabytes);
    let hung = floor.receivers[3];
    floor.publish_for(100);
    floor.network.stop(hung);
    floor.publish_for(3_400);
    floor.run_ms(15_000);
    assert_eq!(floor.words(3), ["left"]);
    floor.network.go_on(hung);
    floor.run_ms(3_000);
    assert_eq!(
        floor.words(3),
        ["left", "told left", "rejoined", "told back"]
    );
    floor.settle();
    floor.expect_lost(0);
}

// Eviction.

/// Goal: a receiver that hangs until the window has moved past it is evicted, by name and with what it cannot have; when it
/// goes on it is told exactly what is lost, in order, and goes on; the others never notice. Method: one of twenty hangs
/// while 3,000 notices go by; the window holds 1,024, its socket 256 datagrams.
#[test]
fn an_evicted_receiver_is_told_exactly_what_it_lost() {
    let run = |trouble: bool| {
        let mut floor = Floor::with(10, |spec| spec.config.send_window_len = SendWindowLen::MIN);
        let hung = floor.receivers[11];
        floor.stream(300);
        if trouble {
            floor.network.stop(hung);
        }
        floor.stream(3_000);
        floor.network.go_on(hung);
        floor.stream(200);
        floor.settle();
        floor
    };
    let mut floor = run(true);
    let hung = floor.receivers[11];
    let evictions: Vec<_> = floor.network.news.iter().filter_map(evicted).collect();
    let [(at, station, stream, seqs)] = evictions[..] else {
        panic!("{evictions:?}");
    };
    assert_eq!(station, floor.id(11));
    assert_eq!(stream, routine());
    // A notice each 100 us.
    let published = (at.as_nanos() - floor.began.as_nanos()) / 100_000;
    let trail = published - 1_024;
    figure("evicted: numbers of which the source knew", seqs.len());
    assert!((240..=300).contains(&seqs.first().0), "{seqs}");
    assert!(
        seqs.end().0 <= trail && trail - seqs.end().0 <= 2 * LOOK_MS * 10,
        "{seqs}"
    );

    let lost = floor.lost(11);
    // What its socket held stands before, and behind what the window held when the next notice told it.
    let held = lost[0].first().0;
    assert_eq!(lost, [range(held, 3_301 - 1_024)]);
    assert!((300 + 240..=300 + 256).contains(&held), "{held}");
    figure("evicted: numbers lost", lost[0].len());
    let told = floor.told_lost(11);
    assert_eq!(told, lost, "once, in one piece");
    let missed = usize::try_from(lost[0].len()).expect("few");
    assert_eq!(floor.received(hung).len(), 3_500 - missed);
    assert_eq!(floor.words(11), ["evicted", "rejoined"]);
    let mut quiet = run(false);
    assert_eq!(floor.arrivals_but(hung), quiet.arrivals_but(hung));
    floor.expect_lost(lost[0].len());
    quiet.expect_lost(0);
}

/// Goal: an eviction is an event also where the receiver found out first, and has passed over what it lost before the source
/// looks. Method: one of twenty is on a cable of 1 MB/s for 1.75 s, at 9 MB/s; the window holds 1.9 s.
#[test]
fn a_receiver_that_finds_out_first_is_evicted_by_name() {
    let mut floor = Floor::with(1, |spec| {
        at_ten_megabytes(spec);
        spec.config.send_window_bytes = SendWindowBytes::try_from(16 << 20).expect("in bounds");
    });
    let slow = floor.receivers[7];
    floor.publish_for(500);
    floor.network.downlink(slow).bytes_per_s = 1_000_000;
    floor.publish_for(1_750);
    floor.network.heal();
    floor.publish_for(1_750);
    floor.settle();
    let evictions: Vec<_> = floor.network.news.iter().filter_map(evicted).collect();
    let lost = floor.lost(7);
    figure("slow: runs lost", lost.len());
    assert!(!lost.is_empty());
    let [(_, station, stream, seqs)] = evictions[..] else {
        panic!("{evictions:?}");
    };
    assert_eq!((station, stream), (floor.id(7), routine()));
    let (first, end) = (lost[0].first(), lost[lost.len() - 1].end());
    assert!(first <= seqs.first() && seqs.end() <= end, "{seqs}");
    assert_eq!(
        floor.words(7),
        ["left", "told left", "evicted", "rejoined", "told back"]
    );
    floor.expect_lost(lost.into_iter().map(SeqRange::len).sum());
}

// The rate that follows loss.

/// Goal: loss at more than a tenth of the receivers halves the rate, again and again down to a 32nd; when it is over the
/// rate grows by a 32nd each 100 ms up to what was configured, and the data follows it without a burst or a stall. Method:
/// 5 % at all twenty for two seconds, a publisher that always has more at 8 MB/s.
#[test]
fn common_loss_lowers_the_rate_and_its_end_raises_it() {
    const CONFIGURED: u64 = 8_000_000;
    const STEP: u64 = CONFIGURED / 32;
    let mut floor = Floor::with(12, |spec| adaptive(spec, CONFIGURED));
    floor.fill_for(1_000);
    assert_eq!(floor.data_rate(), CONFIGURED);
    floor.spoil(RECEIVERS, |link| link.loss = Loss::Random(0.05));
    let down = floor.rates(2_000);
    floor.network.heal();
    let up = floor.rates(4_000);
    figure("common loss: 100 ms steps down", place(&down, STEP));
    figure("common loss: 100 ms steps up", place(&up, CONFIGURED));
    assert!(place(&down, STEP) <= 8, "{down:?}");
    assert!(down.iter().all(|&(rate, _)| rate >= STEP));
    assert!(down[0].0 == CONFIGURED || down[0].0 == CONFIGURED / 2);
    assert!(place(&up, CONFIGURED) <= 33, "{up:?}");
    for (rate, sent) in down[2..].iter().chain(&up[2..]).copied() {
        assert!(rate <= CONFIGURED, "{rate}");
        // A 100 ms may see two rates, and a datagram more or less.
        assert!(
            sent <= rate.max(2 * STEP) * 2 / 10 + 2 * DATAGRAM_BYTES,
            "{sent} at {rate}"
        );
        assert!(
            sent >= rate.min(STEP) / 10 - DATAGRAM_BYTES,
            "{sent} at {rate}"
        );
    }
    floor.settle();
    floor.expect_lost(0);
}

/// Goal: neither one lossy receiver of twenty slows the floor, nor two; three do. Less loss than 2 % slows nobody. Method:
/// as above, for three seconds.
#[test]
fn one_lossy_receiver_does_not_slow_the_floor() {
    for (lossy, loss, is_slowed) in [
        (1, 0.30, false),
        (2, 0.05, false),
        (3, 0.05, true),
        (RECEIVERS, 0.01, false),
    ] {
        let mut floor = Floor::with(13, |spec| adaptive(spec, 8_000_000));
        floor.fill_for(300);
        floor.spoil(lossy, |link| link.loss = Loss::Random(loss));
        let rates = floor.rates(3_000);
        let least = rates.iter().map(|&(rate, _)| rate).min().unwrap_or(0);
        figure(
            &format!("{lossy} of 20 lose {} %: lowest rate, KB/s", loss * 100.0),
            least / 1_000,
        );
        assert_eq!(least < 8_000_000, is_slowed, "{rates:?}");
        floor.network.heal();
        floor.settle();
        floor.expect_lost(0);
    }
}

/// Goal: where cables carry half of the configured rate, the rate settles around what they carry, and nobody leaves the
/// pace; also where so few are slow that most reports are good, and these cannot report because they are stuck. Method:
/// cables of 12.5 MB/s at all twenty, or at three, and a publisher that always has more at 25 MB/s, for eight seconds.
#[test]
fn the_rate_settles_around_what_cables_carry() {
    for slow in [RECEIVERS, 3] {
        let mut floor = Floor::with(14, |spec| adaptive(spec, 25_000_000));
        floor.spoil(slow, |link| link.bytes_per_s = 12_500_000);
        floor.rates(1_000);
        let rates = floor.rates(7_000);
        let sent: u64 = rates.iter().map(|(_, sent)| sent).sum();
        let most = rates.iter().map(|&(rate, _)| rate).max().unwrap_or(0);
        let label = |what| format!("{slow} of 20 on 12.5 MB/s: {what}, KB/s");
        figure(&label("sent"), sent / 7_000);
        figure(&label("highest rate"), most / 1_000);
        assert!((6_000..12_500).contains(&(sent / 7_000)), "{rates:?}");
        assert!(most < 18_000_000, "{rates:?}");
        floor.network.heal();
        floor.settle();
        floor.expect_all_in_pace();
        floor.expect_lost(0);
    }
}

// Helpers.

/// A source and twenty receivers on one group.
struct Floor {
    network: Network,
    source: NodeId,
    receivers: Vec<NodeId>,
    began: Timestamp,
    sent: Vec<NoticeId>,
}

impl Floor {
    /// A source as `configure` wants it, and receivers that do not announce themselves.
    fn with(seed: u64, configure: impl FnOnce(&mut NodeSpec)) -> Self {
        let mut network = Network::new(seed);
        network.record_arrivals();
        network.record_news();
        let mut spec = NodeSpec::source("source");
        spec.config.group_size = GroupSize::try_from(RECEIVERS as u64).expect("in bounds");
        configure(&mut spec);
        let source = network.add(spec);
        network.overhear(source, group());
        let join = |n| NodeSpec {
            is_workstation: false,
            ..NodeSpec::workstation(name(n), &[group()])
        };
        let receivers = (0..RECEIVERS).map(|n| network.add(join(n))).collect();
        let began = network.now();
        Self {
            network,
            source,
            receivers,
            began,
            sent: Vec::new(),
        }
    }

    fn run_ms(&mut self, ms: u64) {
        self.network.run_for(Duration::from_millis(ms));
    }

    /// Time for whatever is still to be sent, repaired and reported.
    fn settle(&mut self) {
        self.run_ms(12_000);
    }

    /// Publishes one notice, if the window has room.
    fn publish(&mut self, lane: Lane, bytes: usize) -> bool {
        let text = "x".repeat(bytes);
        let sent = self.network.broadcast(self.source, &[group()], lane, text);
        self.sent.extend(sent.as_ref().ok());
        sent.is_ok()
    }

    fn publish_some(&mut self, count: usize) {
        for _ in 0..count {
            self.publish(Lane::Routine, 10);
        }
    }

    /// A short notice each 100 us.
    fn stream(&mut self, count: u64) {
        for _ in 0..count {
            self.publish(Lane::Routine, 10);
            self.network.run_for(Duration::from_micros(100));
        }
    }

    /// A publisher that has 9 MB/s to say.
    fn publish_for(&mut self, ms: u64) {
        for _ in 0..ms {
            for _ in 0..7 {
                self.publish(Lane::Routine, TEXT_BYTES);
            }
            self.run_ms(1);
        }
    }

    /// A publisher that always has more.
    fn fill_for(&mut self, ms: u64) {
        self.fill_lane(Lane::Routine, TEXT_BYTES, ms);
    }

    fn fill_lane(&mut self, lane: Lane, bytes: usize, ms: u64) {
        for _ in 0..ms {
            while self.publish(lane, bytes) {}
            self.run_ms(1);
        }
    }

    /// What it sends of that, KB/s.
    fn sent_in(&mut self, ms: u64) -> u64 {
        let before = self.stats(self.source).segments_sent;
        self.fill_for(ms);
        (self.stats(self.source).segments_sent - before) * DATAGRAM_BYTES / ms
    }

    /// Publishes `count` notices as fast as they are taken; how long until they were sent, `None` where that takes longer
    /// than `ms_max`.
    fn send(&mut self, count: u64, ms_max: u64) -> Option<u64> {
        let before = self.stats(self.source).segments_sent;
        let mut left = count;
        for ms in 0..=ms_max {
            while left > 0 && self.publish(Lane::Routine, TEXT_BYTES) {
                left -= 1;
            }
            if self.stats(self.source).segments_sent - before == count {
                return Some(ms);
            }
            self.run_ms(1);
        }
        None
    }

    /// The rate at the end of each 100 ms, and the bytes sent in it, under a publisher that always has more.
    fn rates(&mut self, ms: u64) -> Vec<(u64, u64)> {
        let step = |_| {
            let before = self.stats(self.source).segments_sent;
            self.fill_for(100);
            let sent = self.stats(self.source).segments_sent - before;
            (self.data_rate(), sent * DATAGRAM_BYTES)
        };
        (0..ms / 100).map(step).collect()
    }

    fn data_rate(&mut self) -> u64 {
        self.station(self.source).endpoint().data_rate().get()
    }

    /// Gives the first `count` receivers' downlinks a fault.
    fn spoil(&mut self, count: usize, fault: impl Fn(&mut Link)) {
        for &node in &self.receivers[..count] {
            fault(self.network.downlink(node));
        }
    }

    fn station(&mut self, node: NodeId) -> &mut Station {
        self.network.station(node).expect("the node lives")
    }

    fn stats(&mut self, node: NodeId) -> Stats {
        self.station(node).stats()
    }

    fn id(&self, n: usize) -> SourceId {
        SourceId::of(Network::floor(), &name(n))
    }

    /// What was said of the `n`-th receiver's pace, by the source and to itself, with the millisecond.
    fn pace_of(&self, n: usize) -> Vec<(u64, &'static str)> {
        let (id, node) = (self.id(n), self.receivers[n]);
        let words = self.network.news.iter().filter_map(|news| {
            let word = match news.event {
                StationEvent::PaceLeft { station, .. } if station == id => "left",
                StationEvent::PaceRejoined { station, .. } if station == id => "rejoined",
                StationEvent::Evicted { station, .. } if station == id => "evicted",
                StationEvent::PaceTold { is_behind, .. } if news.node == node => {
                    if is_behind {
                        "told left"
                    } else {
                        "told back"
                    }
                }
                _ => return None,
            };
            Some((news.at.as_nanos() / MILLISECOND_NS, word))
        });
        words.collect()
    }

    fn words(&self, n: usize) -> Vec<&'static str> {
        self.pace_of(n).into_iter().map(|(_, word)| word).collect()
    }

    /// The notices that `node` was given, in order.
    fn received(&self, node: NodeId) -> Vec<NoticeId> {
        let arrivals = self.network.arrivals.iter();
        let here = arrivals.filter(|arrival| arrival.node == node);
        here.map(|arrival| arrival.id).collect()
    }

    /// When everybody but `node` was given what.
    fn arrivals_but(&self, node: NodeId) -> Vec<(Timestamp, NodeId, NoticeId)> {
        let arrivals = self.network.arrivals.iter();
        let others = arrivals.filter(|arrival| arrival.node != node);
        let mut others: Vec<_> = others.map(|it| (it.at, it.node, it.id)).collect();
        others.sort_unstable();
        others
    }

    /// What the `n`-th receiver has lost.
    fn lost(&mut self, n: usize) -> Vec<SeqRange> {
        let (node, origin) = (self.receivers[n], self.station(self.source).origin());
        self.network.checker.lost(node, origin, routine())
    }

    /// The same as it was told, event by event.
    fn told_lost(&self, n: usize) -> Vec<SeqRange> {
        let node = self.receivers[n];
        let lost = self
            .network
            .news
            .iter()
            .filter_map(|news| match news.event {
                StationEvent::Lost { seqs, .. } if news.node == node => Some(seqs),
                _ => None,
            });
        lost.collect()
    }

    /// Nobody has ever left the pace, nor was told so.
    fn expect_all_in_pace(&mut self) {
        for n in 0..RECEIVERS {
            assert_eq!(self.words(n), [""; 0], "{n}");
        }
        let is_behind = |account: ReceiverAccount| account.is_behind;
        let mut accounts = self.station(self.source).endpoint().receivers();
        assert!(!accounts.any(is_behind));
    }

    /// Nothing was wrong, nothing is missing, and so many numbers were lost.
    fn expect_lost(&mut self, lost: u64) {
        self.network.expect_complete();
        assert_eq!(self.network.checker.violations(), [""; 0]);
        assert_eq!(self.network.checker.numbers_lost, lost);
    }
}

/// Twenty receivers, of which the slowest does not count, at 10 MB/s.
fn quorum_of_95(spec: &mut NodeSpec) {
    at_ten_megabytes(spec);
    spec.config.flow = Flow::Quorum(Percent::RECOMMENDED);
}

/// 3.2 s of window.
fn at_ten_megabytes(spec: &mut NodeSpec) {
    spec.config.data_rate = rate(10_000_000);
    spec.config.send_window_bytes = SendWindowBytes::try_from(32 << 20).expect("in bounds");
}

fn adaptive(spec: &mut NodeSpec, bytes_a_second: u64) {
    spec.config.is_rate_adaptive = true;
    spec.config.data_rate = rate(bytes_a_second);
}

/// Which 100 ms was the first to end at this rate.
fn place(rates: &[(u64, u64)], wanted: u64) -> usize {
    let place = rates.iter().position(|&(rate, _)| rate == wanted);
    place.unwrap_or(usize::MAX)
}

fn evicted(news: &News) -> Option<(Timestamp, SourceId, StreamId, SeqRange)> {
    match news.event {
        StationEvent::Evicted {
            station,
            stream,
            seqs,
        } => Some((news.at, station, stream, seqs)),
        _ => None,
    }
}

fn group() -> GroupId {
    GroupId::of("all")
}

fn routine() -> StreamId {
    StreamId::new(group(), Lane::Routine)
}

fn name(n: usize) -> String {
    format!("receiver-{n}")
}

fn rate(bytes_a_second: u64) -> Rate {
    Rate::try_from(bytes_a_second).expect("a rate within bounds")
}

fn range(first: u64, end: u64) -> SeqRange {
    SeqRange::new(SeqNo(first), SeqNo(end)).expect("a run is not empty")
}

fn figure(what: &str, value: impl fmt::Display) {
    println!("figure | {what} | {value}");
}

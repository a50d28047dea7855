//! One cell of a table: one source, so many receivers, so much loss, and what that cost and took.

use std::collections::VecDeque;
use std::time::Duration;

use crate::notice::{Notice, NoticeId, Text};
use crate::proto::{Config, Destination, Stats};
use crate::time::Timestamp;
use crate::wire::{
    self, BLOCK_LEN, GroupId, Lane, Message, Sending, SeqNo, SeqRange, SessionId, SourceId, Status,
    StreamId,
};

use super::{Link, Loss, Network, NodeId, NodeSpec};

/// Datagrams lost in a row, on average, where losses come in bursts.
const BURST_LEN: f64 = 8.0;
/// What is not there so long after the last was published is missing: eight times the longest wait between two NACKs.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same in messages, where they are far apart.
const PATIENCE_MESSAGES: u32 = 20;
/// Time for the last repairs, so that they are counted.
const SETTLE: Duration = Duration::from_millis(20);
/// Time on whole cables before counting begins, so that the session is known and all of a large floor have reported.
const WARM_UP: Duration = Duration::from_secs(2);
/// Reports that measure the round-trip time, one from each receiver for each message of the warm-up.
const WARM_UP_REPORTS: usize = 200;
/// How few and how many messages bring them. Each is followed by ten heartbeats, much of what a large floor takes in.
const WARM_UP_MESSAGES: (usize, usize) = (2, 20);
/// Where there are copies, a stream then goes on into what is counted: it spends the 16 KiB of them that may be sent at
/// once, or a short trial would measure little else.
const WARM_UP_STREAM: usize = 64;
/// Time between two of its messages.
const WARM_UP_STREAM_GAP: Duration = Duration::from_micros(100);
/// Time after which a full window is tried again.
const RETRY: Duration = Duration::from_micros(100);
/// What a DATA message takes beside its segments.
const DATA_BYTES: usize = 24;
/// A latency of what never came.
pub const NEVER_US: u64 = u64::MAX;

/// Who loses what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each receiver by itself, each datagram by itself.
    Independent,
    /// All receivers together, on the source's own cable.
    Common,
    /// Each receiver by itself, eight datagrams in a row on average.
    Bursty,
}

impl Pattern {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Common => "common",
            Self::Bursty => "bursty",
        }
    }

    fn loss(self, probability: f64) -> Loss {
        match self {
            _ if probability <= 0.0 => Loss::None,
            Self::Independent | Self::Common => Loss::Random(probability),
            Self::Bursty => {
                let leave = 1.0 / BURST_LEN;
                Loss::Burst {
                    enter: leave * probability / (1.0 - probability),
                    leave,
                    loss: 1.0,
                    is_bad: false,
                }
            }
        }
    }
}

/// One source and its receivers on a star of 25 us cables: 50 us one way, 100 us there and back. The source knows how many
/// they are. Messages are published on a fixed schedule, whatever has become of those before, and more of them follow until
/// those that count are there: how long the last before a silence takes is a question of its own, which a long interval
/// asks.
#[derive(Clone, Debug)]
pub struct Trial {
    /// How many receivers.
    pub receivers: usize,
    /// How many messages are counted.
    pub messages: u64,
    /// Bytes of each message as the protocol sees it; at least 33, which a notice takes without its text.
    pub bytes: usize,
    /// The lane they go on.
    pub lane: Lane,
    /// Time between two of them.
    pub interval: Duration,
    /// Who loses what goes down: data, repairs and heartbeats.
    pub pattern: Pattern,
    /// How much of it.
    pub loss: f64,
    /// New data that all receivers lose together, on the source's own cable: so many times at least, evenly spaced. Where
    /// chance has brought fewer by then, the next message is lost.
    pub common_min: u64,
    /// How much of what receivers send up is lost: NACKs and reports.
    pub loss_up: f64,
    /// The source's configuration; who it is is filled in.
    pub source: Config,
    /// Every receiver's.
    pub receiver: Config,
    /// Decides everything else.
    pub seed: u64,
}

/// What it cost, and what it took. Costs are of all messages after the warm-up; the rest is of those that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages that count.
    pub messages: u64,
    /// Datagrams of new data that at least one receiver lost.
    pub events: u64,
    /// Receivers that lost one, over all events.
    pub losers: u64,
    /// NACKs that reached the source.
    pub nacks: u64,
    /// Segments repaired by multicast.
    pub repairs_multicast: u64,
    /// Parity shards, asked for or not.
    pub shards: u64,
    /// Segments sent again unasked.
    pub copies: u64,
    /// Segments repaired by unicast.
    pub repairs_unicast: u64,
    /// Bytes of UDP payload that the source sent, whatever they were for.
    pub bytes_sent: u64,
    /// Bytes of the datagrams among them that carried new data.
    pub bytes_needed: u64,
    /// Messages that no NACK ever named and that all receivers have.
    pub unasked: u64,
    /// Messages not delivered at the end, over all receivers.
    pub missing: u64,
    /// From when a lost number would have arrived until its message was delivered, for each number and receiver.
    pub repair: Latencies,
    /// From when a message was published until the last receiver had it, for each message.
    pub last: Latencies,
    /// What was lost on the source's own cable, in order.
    pub common: Vec<CommonLoss>,
    /// Datagrams that receivers took in, warm-up included: what there was to simulate.
    pub datagrams: u64,
    /// What the checker found wrong.
    pub violations: Vec<String>,
}

/// A message that all receivers lost together, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonLoss {
    /// NACKs that named it.
    pub nacks: u64,
    /// How often it was repaired by multicast.
    pub repairs_multicast: u64,
    /// How often it was repaired by unicast.
    pub repairs_unicast: u64,
    /// From when it would have arrived until the last receiver had it, in whole microseconds, rounded up; [`NEVER_US`]
    /// where one never had it.
    pub last_us: u64,
}

/// Latencies, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    fn new(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        Self(nanos)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The nearest rank: the least that so many of a thousand do not exceed, in whole microseconds, rounded up;
    /// [`NEVER_US`] for what never came, `None` where there are none.
    pub fn rank_us(&self, of_thousand: usize) -> Option<u64> {
        let rank = (self.0.len() * of_thousand).div_ceil(1_000).max(1);
        let nanos = *self.0.get(rank - 1)?;
        Some(whole_us(nanos))
    }
}

fn whole_us(nanos: u64) -> u64 {
    match nanos {
        u64::MAX => NEVER_US,
        nanos => nanos.div_ceil(1_000),
    }
}

impl Trial {
    /// A trial without loss, of the recommended configurations: 300 bytes on the routine lane every 100 us.
    pub fn new(receivers: usize, messages: u64, seed: u64) -> Self {
        let config = Config::new(Network::floor(), SourceId(0), SessionId(0));
        Self {
            receivers,
            messages,
            bytes: 300,
            lane: Lane::Routine,
            interval: Duration::from_micros(100),
            pattern: Pattern::Independent,
            loss: 0.0,
            common_min: 0,
            loss_up: 0.0,
            source: config.clone(),
            receiver: config,
            seed,
        }
    }

    /// Runs it until everything is delivered, or is not going to be.
    pub fn run(&self) -> Figures {
        let (mut network, source) = self.build();
        self.warm_up(&mut network, source);
        self.spoil(&mut network, source);
        let before = stats(&mut network, source);
        network.watch = Some(Box::new(Watch::new(source, self)));
        let begun = network.now();
        for message in 0..self.messages {
            let nanos = crate::time::saturating_nanos(self.interval).saturating_mul(message);
            network.run_until(begun.plus_nanos(nanos));
            self.publish(&mut network, source, message);
        }
        let patience = network.now() + PATIENCE.max(self.interval * PATIENCE_MESSAGES);
        for message in self.messages.. {
            network.run_for(self.interval);
            let is_over = network.watch.as_ref().is_some_and(|watch| watch.is_over());
            if is_over || network.now() > patience {
                break;
            }
            self.publish(&mut network, source, message);
        }
        network.run_for(SETTLE);
        Self::figures(&mut network, source, &before)
    }

    fn warm_up(&self, network: &mut Network, source: NodeId) {
        let (min, max) = WARM_UP_MESSAGES;
        let messages = (WARM_UP_REPORTS / self.receivers.max(1)).clamp(min, max);
        let gap_ns = crate::time::saturating_nanos(WARM_UP) / messages as u64;
        for _ in 0..messages {
            self.publish(network, source, 0);
            network.run_for(Duration::from_nanos(gap_ns));
        }
        let has_copies = self.source.tuning.copies && self.lane != Lane::Bulk;
        let stream = if has_copies { WARM_UP_STREAM } else { 0 };
        for _ in 0..stream {
            self.publish(network, source, 0);
            network.run_for(WARM_UP_STREAM_GAP);
        }
    }

    fn build(&self) -> (Network, NodeId) {
        let group = group();
        let names: Vec<_> = (0..self.receivers).map(|n| format!("ws-{n}")).collect();
        let mut network = Network::new(self.seed);
        let mut spec = NodeSpec::source("source");
        spec.config = self.source.clone();
        spec.listed.insert(group, names.clone());
        let source = network.add(spec);
        for name in names {
            let mut spec = NodeSpec::workstation(name, &[group]);
            // Presences would be most of what a large floor sends.
            spec.is_workstation = false;
            spec.config = self.receiver.clone();
            network.add(spec);
        }
        (network, source)
    }

    fn spoil(&self, network: &mut Network, source: NodeId) {
        let loss = self.pattern.loss(self.loss);
        if self.pattern == Pattern::Common {
            network.uplink(source).loss = loss.clone();
        }
        for node in network.nodes().filter(|&node| node != source) {
            network.uplink(node).loss = Pattern::Independent.loss(self.loss_up);
            if self.pattern != Pattern::Common {
                network.downlink(node).loss = loss.clone();
            }
        }
    }

    /// One message; where the window is full it waits, and the wait counts as latency.
    fn publish(&self, network: &mut Network, source: NodeId, message: u64) {
        let due = network.now();
        let mut text = format!("{message:016x}").repeat(self.bytes / 16 + 1);
        text.truncate(self.bytes.saturating_sub(notice_bytes()));
        let is_lost = self.owes_common(network, message);
        while !self.broadcast(network, source, text.clone(), is_lost)
            && network.now() < due + PATIENCE
        {
            network.run_for(RETRY);
        }
        if let Some(watch) = &mut network.watch {
            watch.was_due(due);
        }
    }

    /// Whether fewer have been lost by all together than are due with `message`.
    fn owes_common(&self, network: &Network, message: u64) -> bool {
        let due = self.common_min * (message + 1) / self.messages.max(1);
        let watch = network.watch.as_ref();
        watch.is_some_and(|watch| (watch.common.len() as u64) < due.min(self.common_min))
    }

    /// Whether it was taken. With `is_lost` the datagram that goes out with it is lost to all.
    fn broadcast(
        &self,
        network: &mut Network,
        source: NodeId,
        text: String,
        is_lost: bool,
    ) -> bool {
        let script = Loss::Script([true].into());
        let usual = is_lost.then(|| std::mem::replace(&mut network.uplink(source).loss, script));
        let taken = network.broadcast(source, &[group()], self.lane, text);
        if let Some(usual) = usual {
            network.uplink(source).loss = usual;
        }
        taken.is_ok()
    }

    fn figures(network: &mut Network, source: NodeId, before: &Stats) -> Figures {
        let watch = network.watch.take();
        let mut figures = watch.map(|watch| watch.figures()).unwrap_or_default();
        let stats = stats(network, source);
        let multicast = stats.repairs_multicast - before.repairs_multicast;
        figures.nacks = stats.nacks_received - before.nacks_received;
        figures.repairs_multicast = multicast;
        figures.repairs_unicast = stats.repairs_sent - before.repairs_sent - multicast;
        figures.shards = stats.parity_sent - before.parity_sent;
        figures.copies = stats.copies_sent - before.copies_sent;
        figures.bytes_sent = stats.bytes_sent - before.bytes_sent;
        for node in network.nodes() {
            let station = network.station(node);
            figures.datagrams += station.map_or(0, |of| of.endpoint().stats().datagrams_received);
        }
        figures.violations = network.checker.violations().to_vec();
        figures
    }
}

fn group() -> GroupId {
    GroupId::of("all")
}

fn stats(network: &mut Network, node: NodeId) -> Stats {
    network
        .station(node)
        .map(|station| station.stats())
        .unwrap_or_default()
}

/// What a notice of the source takes without its text.
fn notice_bytes() -> usize {
    let notice = Notice {
        id: NoticeId(0),
        from: "source".into(),
        sent_ns: 0,
        expires_ns: None,
        confirm: true,
        status: Status::Actual,
        text: Text::default(),
    };
    notice.encode().map_or(0, |bytes| bytes.len())
}

/// A message that was published.
struct Sent {
    seqs: SeqRange,
    at: Timestamp,
    /// How many receivers have it, and since when the last of them has.
    delivered: usize,
    last: Timestamp,
    /// NACKs that named it.
    nacks: u64,
    repairs_multicast: u64,
    repairs_unicast: u64,
}

impl Sent {
    /// It was lost to all `receivers`, of whom the last would have had it at `at`.
    fn common_loss(&self, receivers: usize, at: Timestamp) -> CommonLoss {
        let is_whole = self.delivered == receivers;
        CommonLoss {
            nacks: self.nacks,
            repairs_multicast: self.repairs_multicast,
            repairs_unicast: self.repairs_unicast,
            last_us: whole_us(if is_whole {
                self.last.nanos_since(at)
            } else {
                u64::MAX
            }),
        }
    }
}

/// Looks at every datagram on the cables, and at what is delivered.
pub(super) struct Watch {
    source: NodeId,
    receivers: usize,
    /// How many messages count.
    counted: usize,
    stream: StreamId,
    messages: Vec<Sent>,
    /// The message found last.
    found: usize,
    /// One after the last number that has been sent.
    sent: SeqNo,
    /// The new numbers in the datagram that is being sent now, and how many have lost it.
    sending: Option<SeqRange>,
    losers_now: u64,
    /// By node: numbers that it has lost and that have not been delivered to it, and when they would have arrived.
    lost: Vec<VecDeque<(SeqNo, Timestamp)>>,
    repairs_ns: Vec<u64>,
    /// First numbers of what all have lost together, and when the last receiver would have had them.
    common: Vec<(SeqNo, Timestamp)>,
    /// Of what counts, over all receivers.
    delivered: usize,
    figures: Figures,
}

impl Watch {
    fn new(source: NodeId, trial: &Trial) -> Self {
        Self {
            source,
            receivers: trial.receivers,
            counted: usize::try_from(trial.messages).unwrap_or(usize::MAX),
            stream: StreamId::new(group(), trial.lane),
            messages: Vec::new(),
            found: 0,
            sent: SeqNo::ZERO,
            sending: None,
            losers_now: 0,
            lost: vec![VecDeque::new(); trial.receivers + 1],
            repairs_ns: Vec::new(),
            common: Vec::new(),
            delivered: 0,
            figures: Figures::default(),
        }
    }

    /// Whether every message that counts is with every receiver.
    fn is_over(&self) -> bool {
        self.delivered == self.counted * self.receivers
    }

    fn counts(&self, seq: SeqNo) -> bool {
        let last = self.messages[..self.counted.min(self.messages.len())].last();
        last.is_some_and(|last| seq < last.seqs.end())
    }

    pub(super) fn published(&mut self, now: Timestamp, seqs: SeqRange) {
        if self.messages.is_empty() {
            self.sent = seqs.first();
        }
        self.messages.push(Sent {
            seqs,
            at: now,
            delivered: 0,
            last: now,
            nacks: 0,
            repairs_multicast: 0,
            repairs_unicast: 0,
        });
    }

    /// The message published last was to be published earlier.
    fn was_due(&mut self, due: Timestamp) {
        if let Some(message) = self.messages.last_mut() {
            message.at = due;
        }
    }

    /// A node sends a datagram.
    pub(super) fn sends(&mut self, node: NodeId, to: Destination, datagram: &[u8]) {
        self.sending = None;
        self.losers_now = 0;
        let Ok(decoded) = wire::decode(datagram) else {
            return;
        };
        let mut copies = 0;
        for message in decoded.messages() {
            match message {
                Message::Data(data) if node == self.source && data.sending == Sending::Copy => {
                    let copied = data.segments().map(|(_, segment)| segment.wire_bytes());
                    copies += DATA_BYTES + copied.sum::<usize>();
                }
                Message::Data(data) if node == self.source && data.stream == self.stream => {
                    let end = data.first.plus(data.segments().count() as u64);
                    self.sends_data(SeqRange::new(data.first.max(self.sent), end));
                    if data.sending == Sending::Repair {
                        let again = SeqRange::new(data.first, end);
                        self.repairs(to, again);
                    }
                }
                Message::Nack(nack) if node != self.source && nack.stream == self.stream => {
                    nack.ranges().for_each(|range| self.asks(range));
                }
                Message::Need(need) if node != self.source && need.stream == self.stream => {
                    let blocks = need.blocks().map(|need| need.block.first);
                    let ranges = blocks.filter_map(|at| SeqRange::new(at, at.plus(BLOCK_LEN)));
                    ranges.for_each(|range| self.asks(range));
                }
                _ => {}
            }
        }
        if matches!(to, Destination::Unicast(_)) {
            self.sending = None;
        }
        if self.sending.is_some() {
            self.figures.bytes_needed += (datagram.len() - copies) as u64;
        }
    }

    /// What is sent of `new` is sent for the first time.
    fn sends_data(&mut self, new: Option<SeqRange>) {
        let Some(new) = new else { return };
        let first = self.sending.map_or(new.first(), SeqRange::first);
        self.sending = SeqRange::new(first, new.end());
        self.sent = new.end();
    }

    fn asks(&mut self, range: SeqRange) {
        self.within(range).for_each(|message| message.nacks += 1);
    }

    fn repairs(&mut self, to: Destination, again: Option<SeqRange>) {
        let Some(again) = again else { return };
        for message in self.within(again) {
            match to {
                Destination::Group(_) => message.repairs_multicast += 1,
                Destination::Unicast(_) => message.repairs_unicast += 1,
            }
        }
    }

    /// The messages that have numbers in `range`.
    fn within(&mut self, range: SeqRange) -> impl Iterator<Item = &mut Sent> {
        let from = self.place(range.first());
        let messages = self.messages[from..].iter_mut();
        messages.take_while(move |message| message.seqs.first() < range.end())
    }

    /// Where the message that has `seq` stands, or the next one after it.
    fn place(&self, seq: SeqNo) -> usize {
        self.messages
            .partition_point(|message| message.seqs.end() <= seq)
    }

    /// The datagram that is being sent is lost on the sender's own cable: to all of `nodes`, where it would have been then.
    pub(super) fn loses_in_common(&mut self, nodes: impl Iterator<Item = (NodeId, Timestamp)>) {
        let mut latest = Timestamp::ZERO;
        for (node, at) in nodes {
            self.loses(node, at);
            latest = latest.max(at);
        }
        let first = self.sending.map(SeqRange::first);
        if let Some(first) = first.filter(|&first| self.counts(first)) {
            self.common.push((first, latest));
        }
    }

    /// The datagram that is being sent does not reach `node`, where it would have been at `at`.
    pub(super) fn loses(&mut self, node: NodeId, at: Timestamp) {
        let Some(numbers) = self.sending else { return };
        self.figures.events += u64::from(self.losers_now == 0);
        self.losers_now += 1;
        self.figures.losers += 1;
        if self.counts(numbers.first()) {
            self.lost[node.0].extend(numbers.iter().map(|seq| (seq, at)));
        }
    }

    /// A message is delivered to `node`.
    pub(super) fn delivered(&mut self, now: Timestamp, node: NodeId, seqs: SeqRange) {
        let is_here = |at: usize| {
            let message = self.messages.get(at);
            message.is_some_and(|message| message.seqs == seqs)
        };
        if !is_here(self.found) {
            self.found = self.place(seqs.first());
        }
        if let Some(message) = self.messages.get_mut(self.found)
            && message.seqs == seqs
        {
            message.delivered += 1;
            message.last = now;
            self.delivered += usize::from(self.found < self.counted);
        }
        let lost = &mut self.lost[node.0];
        while let Some(&(seq, at)) = lost.front()
            && seq < seqs.end()
        {
            lost.pop_front();
            // What was reported lost before it was passed over, not delivered.
            let is_here = seqs.contains(seq);
            self.repairs_ns.push(if is_here {
                now.nanos_since(at)
            } else {
                u64::MAX
            });
        }
    }

    fn figures(mut self) -> Figures {
        let never: usize = self.lost.iter().map(VecDeque::len).sum();
        self.repairs_ns.extend(vec![u64::MAX; never]);
        let receivers = self.receivers;
        let common = self.common.iter();
        let common =
            common.map(|&(seq, at)| self.messages[self.place(seq)].common_loss(receivers, at));
        let common = common.collect();
        let is_whole = |message: &&Sent| message.delivered == receivers;
        let counted = &self.messages[..self.counted.min(self.messages.len())];
        let last = counted.iter().map(|message| match message.delivered {
            delivered if delivered == receivers => message.last.nanos_since(message.at),
            _ => u64::MAX,
        });
        let whole = counted.iter().filter(is_whole);
        Figures {
            messages: counted.len() as u64,
            unasked: whole.filter(|message| message.nacks == 0).count() as u64,
            missing: (self.counted * receivers - self.delivered) as u64,
            last: Latencies::new(last.collect()),
            repair: Latencies::new(self.repairs_ns),
            common,
            ..self.figures
        }
    }
}

/// When a datagram that goes in at `now` would be at the far end.
pub(super) const fn far_end(link: &Link, now: Timestamp) -> Timestamp {
    now.plus_nanos(link.latency_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(pattern: Pattern, loss: f64) -> Trial {
        let mut trial = Trial {
            pattern,
            loss,
            ..Trial::new(20, 2_000, 1)
        };
        // What is lost has to be asked for, and nothing is sent beside it.
        trial.source.tuning.copies = false;
        trial
    }

    #[test]
    fn without_loss_everything_takes_one_way() {
        let figures = trial(Pattern::Independent, 0.0).run();
        assert_eq!(figures.violations, [""; 0]);
        assert_eq!((figures.messages, figures.unasked), (2_000, 2_000));
        assert_eq!((figures.events, figures.nacks, figures.missing), (0, 0, 0));
        assert_eq!(figures.last.rank_us(1_000), Some(50));
        assert!(figures.repair.is_empty());
        assert!(figures.bytes_sent > figures.bytes_needed);
        assert!(figures.bytes_sent < figures.bytes_needed + figures.bytes_needed / 50);
    }

    #[test]
    fn losses_are_counted_by_pattern() {
        let independent = trial(Pattern::Independent, 0.01).run();
        assert!((300..500).contains(&independent.losers), "{independent:?}");
        assert!((300..450).contains(&independent.events));
        let common = Trial {
            messages: 10_000,
            ..trial(Pattern::Common, 0.01)
        };
        let common = common.run();
        assert_eq!(common.losers, 20 * common.events);
        assert!((60..150).contains(&common.events), "{common:?}");
        let bursty = trial(Pattern::Bursty, 0.01).run();
        assert!((200..700).contains(&bursty.losers), "{bursty:?}");
        for figures in [independent, common, bursty] {
            assert_eq!(figures.violations, [""; 0]);
            assert_eq!(figures.missing, 0);
            assert!(figures.repair.len() as u64 <= figures.losers);
            assert!(figures.unasked < figures.messages && figures.nacks > 0);
            assert!(figures.last.rank_us(1_000) >= figures.repair.rank_us(1_000));
        }
    }

    #[test]
    fn common_losses_are_never_fewer_than_asked() {
        let few = Trial {
            common_min: 12,
            ..trial(Pattern::Common, 0.0)
        };
        let figures = few.run();
        assert_eq!(
            (figures.events, figures.losers, figures.missing),
            (12, 240, 0)
        );
        assert_eq!(figures.common.len(), 12);
        let last = figures.common.iter().map(|loss| loss.last_us).max();
        assert_eq!(last, figures.repair.rank_us(1_000));
        let nacks: u64 = figures.common.iter().map(|loss| loss.nacks).sum();
        assert_eq!(nacks, figures.nacks);
        for loss in figures.common {
            assert!(loss.nacks > 0 && loss.repairs_multicast > 0, "{loss:?}");
        }
        // Where chance brings as many, none is added.
        let [many, by_chance] = [12, 0].map(|common_min| {
            let trial = Trial {
                common_min,
                messages: 10_000,
                ..trial(Pattern::Common, 0.05)
            };
            trial.run().events
        });
        assert!(many > 400 && many == by_chance, "{many}, {by_chance}");
    }

    #[test]
    fn silence_between_common_losses() {
        let trial = Trial {
            common_min: 3,
            interval: Duration::from_secs(30),
            messages: 3,
            ..trial(Pattern::Independent, 0.01)
        };
        let figures = trial.run();
        assert_eq!((figures.common.len(), figures.missing), (3, 0));
        assert!(figures.common.iter().all(|loss| loss.last_us < 2_000_000));
    }

    #[test]
    fn what_never_comes_is_missing_and_takes_for_ever() {
        let trial = Trial {
            messages: 3,
            ..trial(Pattern::Independent, 1.0)
        };
        let figures = trial.run();
        assert_eq!((figures.missing, figures.unasked), (60, 0));
        assert_eq!(figures.last.rank_us(1), Some(NEVER_US));
        assert_eq!(figures.repair.rank_us(1_000), Some(NEVER_US));
    }

    #[test]
    fn ranks_are_the_nearest() {
        let latencies = Latencies::new((1..=1_000).rev().map(|us| us * 1_000).collect());
        assert_eq!(latencies.rank_us(500), Some(500));
        assert_eq!(latencies.rank_us(999), Some(999));
        assert_eq!(latencies.rank_us(1_000), Some(1_000));
        assert_eq!(Latencies::new(vec![1]).rank_us(500), Some(1));
        assert_eq!(Latencies::default().rank_us(500), None);
    }

    #[test]
    fn large_messages_are_followed_through_their_segments() {
        let figures = Trial {
            bytes: 10_000,
            lane: Lane::Bulk,
            interval: Duration::from_millis(1),
            messages: 200,
            loss_up: 0.1,
            ..trial(Pattern::Independent, 0.01)
        };
        let figures = figures.run();
        assert_eq!((figures.missing, figures.messages), (0, 200));
        assert_eq!(figures.violations, [""; 0]);
        assert!(figures.bytes_needed > 2_000_000, "{figures:?}");
        assert!(figures.repair.len() as u64 <= figures.losers);
    }
}

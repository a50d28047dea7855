//! How it gets there: reliable, ordered multicast as a machine without sockets, clock, threads or chance.
//!
//! An [`Endpoint`] is driven from outside. Commands and inputs go in with the present time; then the owner drains the
//! outputs, in this order, before the next command or input:
//!
//! 1. [`Endpoint::poll_transmit`] until it adds nothing,
//! 2. [`Endpoint::poll_event`] until it gives nothing,
//! 3. [`Endpoint::poll_timeout`], and calls [`Endpoint::handle_timeout`] when that time has come.
//!
//! `now` never goes backwards. `handle_timeout` may come early (it does nothing) or late (it catches up). Whatever bytes
//! come in, an endpoint does not panic and does not grow beyond its bounds. Same configuration, seed and inputs: same
//! outputs, byte for byte.
//!
//! ```
//! use bytes::Bytes;
//! use floorcast::proto::{Config, Destination, Endpoint, Event, Join, TransmitBatch};
//! use floorcast::time::Timestamp;
//! use floorcast::wire::{FloorId, GroupId, Lane, SessionId, SourceId, StreamId};
//!
//! let floor = FloorId::of("demo");
//! let all = GroupId::of("all");
//! let now = Timestamp::ZERO;
//! let mut source = Endpoint::new(Config::new(floor, SourceId(1), SessionId(1)), 1);
//! let mut agent = Endpoint::new(Config::new(floor, SourceId(2), SessionId(2)), 2);
//! agent.subscribe(now, all, Join::Trail);
//! source.publish(now, StreamId::new(all, Lane::Routine), Bytes::from_static(b"hello"))?;
//!
//! let mut batch = TransmitBatch::new(64);
//! while source.poll_transmit(now, &mut batch) {
//!     for (to, datagram) in batch.iter() {
//!         assert_eq!(to, Destination::Group(all));
//!         agent.handle_datagram(now, ([127, 0, 0, 1], 7700).into(), Bytes::copy_from_slice(datagram)).unwrap();
//!     }
//!     batch.clear();
//! }
//! let events: Vec<_> = std::iter::from_fn(|| agent.poll_event()).collect();
//! assert!(matches!(&events[1], Event::Delivered(delivery) if delivery.payload == "hello"));
//! # Ok::<(), floorcast::proto::PublishError>(())
//! ```

mod backoff;
mod blame;
mod blocks;
mod config;
mod fec;
mod flow;
mod grtt;
mod ledger;
mod output;
mod pacer;
mod parity;
mod publication;
mod receiver;
mod reception;
mod sender;
mod stats;
mod terms;
mod transmit;
mod tuning;
mod window;

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

use crate::time::Timestamp;
use crate::wire::{
    self, DatagramWriter, DecodeError, GroupId, Header, Message, OPEN_LAB_KEY, SeqRange, StreamId,
};

pub use blame::Blame;
pub use config::{
    Config, ConfigError, DatagramBytes, Flow, GroupSize, Join, Percent, Rate, ReceiveBytes,
    ReceiveWindowLen, Seal, SendWindowBytes, SendWindowLen,
};
pub use ledger::{ReceiverAccount, Subnet};
pub use output::{Delivery, EndReason, Event, Origin};
pub use receiver::{Resume, SILENCE_NS};
pub use sender::PublishError;
pub use stats::Stats;
pub use terms::Terms;
pub use transmit::{Destination, TransmitBatch};
pub use tuning::{Backoff, Fec, Tuning};

use output::Output;
use receiver::Receiver;
use sender::Sender;
use transmit::Identity;

/// Control messages that wait to be sent. They are few and small; more than this is a fault of the floor, and the oldest
/// news is the best to lose.
const CONTROL_MAX: usize = 1_024;

/// Why a datagram, or a message in it, was not taken in. Counted by kind, never fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Discard {
    /// Not a datagram of this protocol.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Of another floor.
    #[error("of another floor")]
    Floor,
    /// Under a key that this floor does not use.
    #[error("under an unknown key")]
    Key,
    /// Our own, come back by multicast loop.
    #[error("our own")]
    Own,
    /// Another program uses our name.
    #[error("of another program with our name")]
    Conflict,
    /// Already here.
    #[error("a duplicate")]
    Duplicate,
    /// Of a group that is not subscribed to.
    #[error("of a group not subscribed to")]
    Unsubscribed,
    /// Of a session that has ended.
    #[error("of a session that has ended")]
    Stale,
    /// Further ahead than the window.
    #[error("beyond the receive window")]
    Beyond,
    /// No room for it.
    #[error("more than the receive buffer holds")]
    Full,
    /// One source or stream too many.
    #[error("of one source or stream too many")]
    Sources,
    /// Meant for another source, session or stream.
    #[error("not meant for us")]
    NotOurs,
    /// More requests than its sender may make.
    #[error("more requests than one receiver may make")]
    Budget,
    /// A message type that this version does not know.
    #[error("of an unknown type")]
    Unknown,
    /// Its seal, signature or mark does not hold, or does not cover what it says.
    #[error("not the word of whom it says")]
    Forged,
    /// It was here before.
    #[error("a replay")]
    Replayed,
    /// It was signed at another time than now.
    #[error("of another time")]
    Untimely,
    /// Its sender may not say that, there, now, or no more.
    #[error("not covered by its sender's grant")]
    Ungranted,
    /// Of a station that has neither a grant nor a key that is taken here.
    #[error("of a station that is not known here")]
    Stranger,
    /// Too much came before it that was false or new.
    #[error("not looked at, after too many false ones")]
    Throttled,
}

impl Stats {
    fn count(&mut self, discard: Discard) {
        let counter = match discard {
            Discard::Malformed(_) => &mut self.discard_malformed,
            Discard::Floor => &mut self.discard_floor,
            Discard::Key => &mut self.discard_key,
            Discard::Own => &mut self.discard_own,
            Discard::Conflict => &mut self.discard_conflict,
            Discard::Duplicate => &mut self.discard_duplicate,
            Discard::Unsubscribed => &mut self.discard_unsubscribed,
            Discard::Stale => &mut self.discard_stale,
            Discard::Beyond => &mut self.discard_beyond,
            Discard::Full => &mut self.discard_full,
            Discard::Sources => &mut self.discard_sources,
            Discard::NotOurs => &mut self.discard_not_ours,
            Discard::Budget => &mut self.discard_budget,
            Discard::Unknown => &mut self.discard_unknown,
            Discard::Forged => &mut self.discard_forged,
            Discard::Replayed => &mut self.discard_replayed,
            Discard::Untimely => &mut self.discard_untimely,
            Discard::Ungranted => &mut self.discard_ungranted,
            Discard::Stranger => &mut self.discard_stranger,
            Discard::Throttled => &mut self.discard_throttled,
        };
        *counter += 1;
    }
}

/// One program's end of the protocol: decodes once, and routes to its sending and its receiving half.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    identity: Identity,
    sender: Sender,
    receiver: Receiver,
    control: VecDeque<(Destination, Vec<u8>)>,
    out: Output,
    has_seen_conflict: bool,
}

impl Endpoint {
    /// An endpoint that has published and heard nothing yet; `seed` decides all its draws.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            identity: Identity::new(&config),
            sender: Sender::new(&config),
            receiver: Receiver::new(&config, seed),
            control: VecDeque::new(),
            out: Output::default(),
            has_seen_conflict: false,
            config,
        }
    }

    /// Whether [`Endpoint::publish`] would accept a message of `len` bytes now on each of `streams`, which differ.
    ///
    /// # Errors
    /// What `publish` would answer for one of them.
    pub fn accepts(&self, streams: &[StreamId], len: usize) -> Result<(), PublishError> {
        self.sender.accepts(streams, len, &self.config)
    }

    /// Publishes one message on one of its streams; its sequence numbers.
    ///
    /// # Errors
    /// [`PublishError`]; nothing has been published then.
    pub fn publish(
        &mut self,
        now: Timestamp,
        stream: StreamId,
        payload: Bytes,
    ) -> Result<SeqRange, PublishError> {
        self.publish_under(now, stream, payload, Terms::default())
    }

    /// Publishes one message that is true only for a time, or takes the place of another one (R-SKIP-1).
    ///
    /// # Errors
    /// [`PublishError`]; nothing has been published, and nothing taken back, then.
    pub fn publish_under(
        &mut self,
        now: Timestamp,
        stream: StreamId,
        payload: Bytes,
        terms: Terms,
    ) -> Result<SeqRange, PublishError> {
        let (config, stats) = (&self.config, &mut self.out.stats);
        self.sender
            .publish(now, stream, payload, terms, config, stats)
    }

    /// Listens to a group from now on. Sessions that began earlier are joined as `join` says.
    pub fn subscribe(&mut self, now: Timestamp, group: GroupId, join: Join) {
        self.receiver.subscribe(now, group, join);
    }

    /// Listens to a group no longer.
    pub fn unsubscribe(&mut self, group: GroupId) {
        self.receiver.unsubscribe(group);
    }

    /// Goes on where a former life of this program stood when `stream` of `origin` is met (R-JOIN-4).
    pub fn resume(&mut self, origin: Origin, stream: StreamId, from: Resume) {
        self.receiver.resume(origin, stream, from);
    }

    /// Publishes nothing more, and says so; [`Endpoint::is_drained`] tells when it has been said often enough.
    pub fn close(&mut self, now: Timestamp) {
        self.sender.close(now);
    }

    /// Sends one datagram of control messages, as `fill` writes them.
    pub fn send_control(&mut self, to: Destination, fill: impl FnOnce(&mut DatagramWriter<'_>)) {
        if self.control.len() >= CONTROL_MAX {
            self.control.pop_front();
            self.out.stats.control_dropped += 1;
        }
        let mut datagram = Vec::new();
        if self.identity.write(&mut datagram, fill) > 0 {
            self.control.push_back((to, datagram));
        }
    }

    /// How many receivers to count on from now on: the roster knows.
    pub fn set_group_size(&mut self, receivers: u64) {
        self.sender.set_group_size(receivers);
    }

    /// Takes in what a socket received.
    ///
    /// # Errors
    /// [`Discard`], already counted, when the datagram or one of its messages was of no use.
    pub fn handle_datagram(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        datagram: Bytes,
    ) -> Result<(), Discard> {
        let taken = match Header::read(&datagram) {
            Ok((header, _)) if header.key != OPEN_LAB_KEY => Err(Discard::Key),
            Ok(_) => wire::decode(&datagram)
                .map_err(Discard::from)
                .and_then(|decoded| self.take_in(now, (from, true), &decoded, &datagram)),
            Err(error) => Err(error.into()),
        };
        taken.unwrap_or_else(|discard| self.refuse(discard))
    }

    /// Takes in what was opened: a datagram that has shown whose it is, header and messages and nothing behind them. `is_proved`
    /// says whether its sender has shown to be where it sends from, too (R-ADDR-2).
    ///
    /// # Errors
    /// [`Discard`], already counted, when the datagram or one of its messages was of no use.
    pub fn handle_opened(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        datagram: Bytes,
        is_proved: bool,
    ) -> Result<(), Discard> {
        let taken = wire::decode(&datagram)
            .map_err(Discard::from)
            .and_then(|decoded| self.take_in(now, (from, is_proved), &decoded, &datagram));
        taken.unwrap_or_else(|discard| self.refuse(discard))
    }

    /// Counts a datagram that was not taken in.
    ///
    /// # Errors
    /// That it was not.
    pub fn refuse(&mut self, discard: Discard) -> Result<(), Discard> {
        self.out.stats.count(discard);
        Err(discard)
    }

    /// Takes a datagram in, message by message. What is wrong with all of it is the outer error, not counted yet.
    fn take_in(
        &mut self,
        now: Timestamp,
        (from, is_proved): (SocketAddr, bool),
        decoded: &wire::Datagram<'_>,
        datagram: &Bytes,
    ) -> Result<Result<(), Discard>, Discard> {
        self.admit(&decoded.header, from)?;
        self.out.stats.datagrams_received += 1;
        self.out.stats.bytes_received += datagram.len() as u64;
        let header = decoded.header;
        let mut has_control = false;
        let mut result = Ok(());
        for message in decoded.messages() {
            let taken = match message {
                Message::Data(data) => {
                    self.receiver
                        .handle_data(now, &header, from, &data, datagram, &mut self.out)
                }
                Message::Heartbeat(heartbeat) => {
                    self.receiver
                        .handle_heartbeat(now, &header, from, &heartbeat, &mut self.out)
                }
                Message::Squelch(squelch) => {
                    self.receiver
                        .handle_squelch(now, &header, &squelch, &mut self.out)
                }
                Message::Ask(ask) => self.receiver.handle_ask(now, &header, &ask),
                Message::Parity(parity) => self.receiver.handle_parity(
                    now,
                    &header,
                    from,
                    &parity,
                    datagram,
                    &mut self.out,
                ),
                Message::Skip(skip) => {
                    self.receiver
                        .handle_skip(now, &header, &skip, &mut self.out)
                }
                Message::Scouts(scouts) => self.receiver.handle_scouts(now, &header, &scouts),
                Message::Pace(pace) => self.receiver.handle_pace(&header, &pace, &mut self.out),
                Message::Nack(nack) => self.handle_nack(now, &header, (from, is_proved), &nack),
                Message::Need(need) => self.handle_need(now, &header, (from, is_proved), &need),
                Message::Report(report) => {
                    self.handle_report(now, &header, (from, is_proved), &report)
                }
                Message::Presence(_) | Message::RollCall(_) | Message::Roster(_) => {
                    has_control = true;
                    Ok(())
                }
                // Those are between seals; here they have none.
                Message::AddressCheck(_) | Message::AddressEcho(_) | Message::Grant(_) => {
                    Err(Discard::NotOurs)
                }
                Message::Unknown(_) => Err(Discard::Unknown),
            };
            if let Err(discard) = taken {
                self.out.stats.count(discard);
                result = Err(discard);
            }
        }
        if has_control {
            let datagram = datagram.clone();
            self.out.push(Event::Control { from, datagram });
        }
        Ok(result)
    }

    /// Does what is due. Called early, it does nothing.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.receiver.poll_timeout() <= now {
            self.receiver.handle_timeout(now, &mut self.out);
        }
    }

    /// Writes datagrams that are to be sent now; false when there was nothing to add, because nothing is due or because
    /// the batch is full.
    #[must_use = "what is not sent is lost"]
    pub fn poll_transmit(&mut self, now: Timestamp, batch: &mut TransmitBatch) -> bool {
        let before = batch.len();
        while batch.has_room()
            && let Some((to, datagram)) = self.control.pop_front()
        {
            batch.push(to, &datagram, self.identity.room());
        }
        self.receiver
            .poll_transmit(now, &mut self.identity, batch, &mut self.out);
        self.sender
            .poll_transmit(now, &mut self.identity, batch, &mut self.out);
        transmit::count(batch, before, &mut self.out.stats);
        batch.len() > before
    }

    /// What was written was sealed: by so many datagrams it has become more, and by so many bytes.
    pub const fn count_sealed(&mut self, datagrams: usize, bytes: usize) {
        self.out.stats.datagrams_sent += datagrams as u64;
        self.out.stats.bytes_sent += bytes as u64;
    }

    /// What happened next, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.pop()
    }

    /// The events that [`Endpoint::poll_event`] will give, from the `first`-th on.
    pub fn events_from(&self, first: usize) -> impl Iterator<Item = &Event> {
        self.out.events_from(first)
    }

    /// How many events [`Endpoint::poll_event`] will give.
    pub fn events_len(&self) -> usize {
        self.out.len()
    }

    /// When [`Endpoint::handle_timeout`] and [`Endpoint::poll_transmit`] are to be called next, if nothing comes in
    /// before; [`Timestamp::FAR_FUTURE`] when never.
    pub fn poll_timeout(&self) -> Timestamp {
        if self.control.is_empty() {
            self.receiver.poll_timeout().min(self.sender.poll_timeout())
        } else {
            Timestamp::ZERO
        }
    }

    /// What has been counted so far.
    pub const fn stats(&self) -> &Stats {
        &self.out.stats
    }

    /// Its configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether everything published has been sent at least once.
    pub fn is_idle(&self) -> bool {
        self.sender.is_idle()
    }

    /// Whether it has been closed and has said so as often as it will.
    pub fn is_drained(&self) -> bool {
        self.sender.is_drained() && self.control.is_empty()
    }

    /// Bytes of segments held out of order, over all streams.
    pub const fn buffered_bytes(&self) -> usize {
        self.receiver.buffered_bytes()
    }

    /// What it knows of the receivers that have asked or reported.
    pub fn receivers(&self) -> impl Iterator<Item = ReceiverAccount> {
        self.sender.ledger().receivers()
    }

    /// The subnets that lost something of ours alone, and how often.
    pub fn subnet_losses(&self) -> impl Iterator<Item = (Subnet, u64)> {
        self.sender.ledger().subnet_losses()
    }

    /// The back-off that it advertises, nanoseconds.
    pub fn backoff_ns(&self) -> u64 {
        self.sender.backoff_ns()
    }

    /// The rate of its new data at present.
    pub const fn data_rate(&self) -> Rate {
        self.sender.rate()
    }

    /// The group's round-trip time, as its receivers' echoes tell it, nanoseconds.
    pub const fn grtt_ns(&self) -> u64 {
        self.sender.grtt_ns()
    }

    /// Refuses what is not for this floor, this key or this program (R-HDR-3, R-HDR-6).
    fn admit(&mut self, header: &Header, from: SocketAddr) -> Result<(), Discard> {
        if header.floor != self.config.floor {
            return Err(Discard::Floor);
        }
        if header.source == self.config.source {
            if header.session == self.config.session {
                return Err(Discard::Own);
            }
            if !self.has_seen_conflict {
                self.has_seen_conflict = true;
                self.out.push(Event::NameConflict { from });
            }
            return Err(Discard::Conflict);
        }
        Ok(())
    }

    fn handle_nack(
        &mut self,
        now: Timestamp,
        header: &Header,
        (from, is_proved): (SocketAddr, bool),
        nack: &wire::Nack<'_>,
    ) -> Result<(), Discard> {
        if (nack.source, nack.session) != (self.config.source, self.config.session) {
            return Err(Discard::NotOurs);
        }
        let (station, out) = (header.source, &mut self.out);
        let answer = self
            .sender
            .handle_nack(now, (from, is_proved), station, nack, out)?;
        self.answer((from, is_proved), answer);
        Ok(())
    }

    fn handle_need(
        &mut self,
        now: Timestamp,
        header: &Header,
        (from, is_proved): (SocketAddr, bool),
        need: &wire::Need<'_>,
    ) -> Result<(), Discard> {
        if (need.source, need.session) != (self.config.source, self.config.session) {
            return Err(Discard::NotOurs);
        }
        let (station, out) = (header.source, &mut self.out);
        let answer = self
            .sender
            .handle_need(now, (from, is_proved), station, need, out)?;
        self.answer((from, is_proved), answer);
        Ok(())
    }

    /// Answers a request, once whoever made it has shown to be where the answer goes (R-ADDR-3): sealed, in the middle of a
    /// train, it may be longer than the request. Until then the request comes again.
    fn answer(&mut self, (to, is_proved): (SocketAddr, bool), answer: sender::Answer) {
        if !is_proved || (answer.squelch.is_none() && answer.stream.is_none()) {
            return;
        }
        self.send_control(Destination::Unicast(to), |writer| {
            if let Some(squelch) = answer.squelch {
                writer.squelch(&squelch);
            }
            let first = answer.skipped.first().copied().flatten();
            if let (Some(stream), Some((_, why))) = (answer.stream, first) {
                let mut runs: Vec<_> = answer
                    .skipped
                    .iter()
                    .flatten()
                    .map(|(run, _)| *run)
                    .collect();
                runs.sort_unstable();
                writer.skip(stream, why, runs);
            }
        });
    }

    fn handle_report(
        &mut self,
        now: Timestamp,
        header: &Header,
        from: (SocketAddr, bool),
        report: &wire::Report<'_>,
    ) -> Result<(), Discard> {
        if (report.source, report.session) != (self.config.source, self.config.session) {
            return Err(Discard::NotOurs);
        }
        // A report on a stream that was never published could only fill the book.
        if !self.sender.publishes(report.stream) {
            return Err(Discard::NotOurs);
        }
        self.out.stats.reports_received += 1;
        let station = (header.source, header.session);
        self.sender.handle_report(now, from, station, report);
        self.out.push(Event::Reported {
            station: header.source,
            stream: report.stream,
            joined: report.joined,
            through: report.through,
            lost: report.lost().collect(),
        });
        Ok(())
    }
}

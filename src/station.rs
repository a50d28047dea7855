//! One program's whole brain, without a body: the protocol's endpoint, the roster, the receipts and the inbox in one.
//!
//! `runtime` gives it sockets and a clock, `sim` a virtual network. It is driven like [`Endpoint`] and keeps the same
//! rules: after each command or input, drain transmit, then events, then read the timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::guard::{Guard, Opened, Standing};
use crate::notice::{
    Inbox, Notice, NoticeError, NoticeId, OPAQUE, Outgoing, Receipts, Received, Roster,
    RosterConfig, Tally,
};
use crate::proto::{
    Blame, Config, Delivery, Destination, Discard, EndReason, Endpoint, Event, Join, Origin,
    PublishError, Resume, Seal, Stats, Terms, TransmitBatch,
};
use crate::time::Timestamp;
use crate::wire::{
    self, GroupId, Header, Lane, SeqNo, SeqRange, SkipReason, SourceId, Status, StreamId,
};

/// Stations named in one request for reports; when more are missing, all are asked.
const ASKED_BY_NAME_MAX: usize = 128;
/// Sources whose standing is kept: as many as an endpoint follows, and as many grants as a guard keeps.
const STANDINGS_MAX: usize = 256;

/// What a station is told before it starts.
#[derive(Clone, Debug)]
pub struct StationConfig {
    /// Its end of the protocol.
    pub endpoint: Config,
    /// Its name on the floor.
    pub name: String,
    /// Whether it is a workstation: it announces itself and is expected to have what is sent to its groups.
    pub is_workstation: bool,
    /// The groups it listens to.
    pub groups: Vec<GroupId>,
    /// Where it begins in sessions that were there before it.
    pub join: Join,
    /// How long a silent workstation stays expected.
    pub remember: Duration,
    /// Workstations that are expected whether they have been heard or not, by group.
    pub listed: BTreeMap<GroupId, Vec<String>>,
}

/// What happened at a station, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StationEvent {
    /// A source is heard for the first time in this life, or again after a silence.
    SessionStarted {
        /// Whose.
        origin: Origin,
        /// Where it sends from.
        from: SocketAddr,
    },
    /// Nothing more comes of this life.
    SessionEnded {
        /// Whose.
        origin: Origin,
        /// Why.
        reason: EndReason,
    },
    /// A notice, in its turn.
    Notice {
        /// Where it lay.
        at: Placed,
        /// What it says.
        notice: Notice,
        /// It came too late to be shown.
        is_expired: bool,
    },
    /// A notice that was here before, through another of its groups.
    Again {
        /// Where it lay.
        at: Placed,
        /// Which.
        id: NoticeId,
    },
    /// A notice that its source may not send so (R-GRANT-4).
    Refused {
        /// Where it lay.
        at: Placed,
        /// Which.
        id: NoticeId,
        /// What it claimed, and may not.
        claim: Claim,
    },
    /// A message that is meant to be no notice ([`OPAQUE`]).
    Opaque {
        /// Where it lay.
        at: Placed,
        /// All of it, its first byte included.
        payload: Bytes,
    },
    /// A message that should be a notice, and is none.
    Unreadable {
        /// Where it lay.
        at: Placed,
        /// What is wrong with it.
        error: NoticeError,
    },
    /// Numbers that will not come.
    Lost {
        /// Whose.
        origin: Origin,
        /// On which stream.
        stream: StreamId,
        /// Which.
        seqs: SeqRange,
    },
    /// Numbers that their source took back.
    Skipped {
        /// Whose.
        origin: Origin,
        /// On which stream.
        stream: StreamId,
        /// Which.
        seqs: SeqRange,
        /// Why.
        why: SkipReason,
    },
    /// A loss of ours is over: whose fault it was.
    LossJudged {
        /// On which stream.
        stream: StreamId,
        /// Where it was.
        blame: Blame,
        /// How many asked.
        askers: usize,
    },
    /// A receiver of ours has left the group's pace: it catches up alone.
    PaceLeft {
        /// Who.
        station: SourceId,
        /// On which stream.
        stream: StreamId,
        /// How far it has come.
        through: SeqNo,
    },
    /// A receiver of ours is back in the group's pace.
    PaceRejoined {
        /// Who.
        station: SourceId,
        /// On which stream.
        stream: StreamId,
    },
    /// A receiver of ours is so far behind that some of what it lacks cannot be had any more.
    Evicted {
        /// Who.
        station: SourceId,
        /// On which stream.
        stream: StreamId,
        /// What it cannot have.
        seqs: SeqRange,
    },
    /// A source told us that we have left its pace, or are back in it.
    PaceTold {
        /// Whose.
        origin: Origin,
        /// On which stream.
        stream: StreamId,
        /// Left it.
        is_behind: bool,
    },
    /// A workstation reported what it has.
    Reported {
        /// Which.
        station: SourceId,
    },
    /// Another program uses this one's name on the floor.
    NameConflict {
        /// Where it sends from.
        from: SocketAddr,
    },
}

/// What a notice claimed that its source may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A status that its grant does not name.
    Status(Status),
    /// To be from somebody else.
    Name,
}

/// Where a message lay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Who published it.
    pub origin: Origin,
    /// On which stream.
    pub stream: StreamId,
    /// The numbers of its segments.
    pub seqs: SeqRange,
    /// Whether any part of it came as a repair.
    pub is_repaired: bool,
}

/// Why a notice was not sent. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BroadcastError {
    /// It cannot be written.
    #[error("the notice cannot be sent: {0}")]
    Notice(#[from] NoticeError),
    /// It cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// One program's whole brain.
#[derive(Debug)]
pub struct Station {
    name: String,
    endpoint: Endpoint,
    roster: Roster,
    receipts: Receipts,
    inbox: Inbox,
    listed: BTreeMap<GroupId, Vec<(SourceId, String)>>,
    published: BTreeSet<StreamId>,
    expected: Expected,
    /// How many of the endpoint's events, from the front, have been told to whom they concern.
    routed: usize,
    outgoing: Vec<Outgoing>,
    /// What stands between it and the network of a protected floor.
    guard: Option<Box<Guard>>,
    /// What those may say who were heard on a protected floor; as many as an endpoint follows.
    standings: BTreeMap<SourceId, Standing>,
}

/// Who is expected to have what was published, as of one version of the roster.
#[derive(Debug, Default)]
struct Expected {
    version: Option<(u64, usize)>,
    stations: BTreeMap<SourceId, BTreeSet<StreamId>>,
}

impl Station {
    /// A station that has heard nobody; `seed` decides all its draws.
    pub fn new(config: StationConfig, seed: u64, now: Timestamp) -> Self {
        let floor = config.endpoint.floor;
        let roster = RosterConfig {
            me: config.endpoint.source,
            announce: config.is_workstation.then(|| config.name.clone()),
            groups: config.groups.clone(),
            remember: config.remember,
            hearsay_adds_only: config.endpoint.seal != Seal::OpenLab,
        };
        let listed = config.listed.into_iter().map(|(group, names)| {
            let names = names
                .into_iter()
                .map(|name| (SourceId::of(floor, &name), name));
            (group, names.collect())
        });
        let mut endpoint = Endpoint::new(config.endpoint, seed);
        for &group in &config.groups {
            endpoint.subscribe(now, group, config.join);
        }
        Self {
            name: config.name,
            endpoint,
            roster: Roster::new(roster, seed.wrapping_add(1), now),
            receipts: Receipts::default(),
            inbox: Inbox::default(),
            listed: listed.collect(),
            published: BTreeSet::new(),
            expected: Expected::default(),
            routed: 0,
            outgoing: Vec::new(),
            guard: None,
            standings: BTreeMap::new(),
        }
    }

    /// Lets it take part in a protected floor: from now on what it sends is sealed, and what comes is opened. Its endpoint's
    /// configuration has to leave room for that ([`proto::Seal`](crate::proto::Seal)).
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    /// Whether it takes part in a protected floor.
    pub const fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// Its guard, if it has one: for what a running program learns of clocks, keys and newcomers.
    pub fn guard(&mut self) -> Option<&mut Guard> {
        self.guard.as_deref_mut()
    }

    /// Its name on the floor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who it is in this life.
    pub const fn origin(&self) -> Origin {
        let config = self.endpoint.config();
        Origin {
            source: config.source,
            session: config.session,
        }
    }

    /// Sends a notice to `groups`, to all of them or to none; where in which streams it lies. Once it expires it is not
    /// repaired any more; it takes the place of the last one that was sent with the same `supersedes`.
    ///
    /// # Errors
    /// [`BroadcastError`]; nothing has been sent then.
    pub fn broadcast(
        &mut self,
        now: Timestamp,
        groups: &[GroupId],
        lane: Lane,
        notice: &Notice,
        supersedes: Option<u64>,
    ) -> Result<Vec<(StreamId, SeqRange)>, BroadcastError> {
        let payload = notice.encode()?;
        let streams: BTreeSet<_> = groups
            .iter()
            .map(|&group| StreamId::new(group, lane))
            .collect();
        let streams: Vec<_> = streams.into_iter().collect();
        self.endpoint.accepts(&streams, payload.len())?;
        let lives_ns = |expires: u64| expires.saturating_sub(notice.sent_ns);
        let terms = Terms {
            expires: notice
                .expires_ns
                .map(|expires| now.plus_nanos(lives_ns(expires))),
            supersedes,
        };
        let mut parts = Vec::with_capacity(streams.len());
        for stream in streams {
            let range = self
                .endpoint
                .publish_under(now, stream, payload.clone(), terms)?;
            parts.push((stream, range));
            self.published.insert(stream);
        }
        self.refresh_expected(now);
        if notice.confirm {
            self.receipts
                .sent(now, notice.id, parts.clone(), self.expected.stations.len());
        }
        Ok(parts)
    }

    /// Publishes a message that is no notice: `payload` begins with [`OPAQUE`]. Nobody is asked for a receipt.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was published then.
    pub fn publish(
        &mut self,
        now: Timestamp,
        stream: StreamId,
        payload: Bytes,
    ) -> Result<SeqRange, PublishError> {
        self.endpoint.publish(now, stream, payload)
    }

    /// What the source should count on as the size of a stream's audience, where no roster tells it.
    pub fn set_group_size(&mut self, receivers: u64) {
        self.endpoint.set_group_size(receivers);
    }

    /// Asks everybody who has what was published for a receipt that proves it to others, too (R-RCPT-1). The guard keeps them.
    pub fn ask_receipts(&mut self) {
        for &stream in &self.published {
            let to = Destination::Group(stream.group());
            self.endpoint.send_control(to, |writer| {
                writer.ask_receipts(stream);
            });
        }
    }

    /// Asks the groups `via` who is on `group`.
    pub fn call_roll(&mut self, now: Timestamp, group: GroupId, via: &[GroupId]) {
        self.roster.call(now, group, via);
    }

    /// Whether the roll calls have been answered and nothing new has come for a while.
    pub fn is_roster_settled(&self, now: Timestamp) -> bool {
        self.roster.is_settled(now)
    }

    /// The stations expected on `group`: heard, or listed.
    pub fn expected_on(&self, now: Timestamp, group: GroupId) -> Vec<(SourceId, String)> {
        let heard = self
            .roster
            .expected(now, group)
            .map(|(id, name)| (id, name.to_owned()));
        let listed = self.listed.get(&group).into_iter().flatten().cloned();
        heard
            .chain(listed)
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect()
    }

    /// The name of a station that has been heard, told of or listed; its id where it has none.
    pub fn name_of(&self, station: SourceId) -> String {
        let listed = || {
            self.listed
                .values()
                .flatten()
                .find(|(id, _)| *id == station)
                .map(|(_, name)| name.as_str())
        };
        self.roster
            .name(station)
            .or_else(listed)
            .map_or_else(|| station.to_string(), str::to_owned)
    }

    /// How many stations are expected to have what was published.
    pub fn expected_len(&mut self, now: Timestamp) -> usize {
        self.refresh_expected(now);
        self.expected.stations.len()
    }

    /// How many notices wait for receipts or have them.
    pub fn sent_len(&self) -> usize {
        self.receipts.len()
    }

    /// Whether everybody expected has the `index`-th notice sent.
    pub fn is_received_by_all(&mut self, now: Timestamp, index: usize) -> bool {
        self.refresh_expected(now);
        self.receipts.is_complete(index, &self.expected.stations)
    }

    /// Who has the `index`-th notice sent, and who has not.
    pub fn tally(&mut self, now: Timestamp, index: usize) -> Option<Tally> {
        self.refresh_expected(now);
        self.receipts.tally(index, &self.expected.stations)
    }

    /// When a report last told of something new.
    pub const fn last_moved(&self) -> Timestamp {
        self.receipts.last_moved()
    }

    /// When the last report came.
    pub const fn last_reported(&self) -> Timestamp {
        self.receipts.last_reported()
    }

    /// The lowest contiguous mark of `stations` in `stream`.
    pub fn slowest(
        &self,
        stream: StreamId,
        stations: impl IntoIterator<Item = SourceId>,
    ) -> Option<SeqNo> {
        self.receipts.slowest(stream, stations)
    }

    /// Goes on where a former life stood when `stream` of `origin` is met.
    pub fn resume(&mut self, origin: Origin, stream: StreamId, from: Resume) {
        self.endpoint.resume(origin, stream, from);
    }

    /// A former life of this program had the notice already.
    pub fn remember(&mut self, id: NoticeId) {
        self.inbox.remember(id);
    }

    /// Publishes nothing more and leaves the floor in good order; [`Station::has_left`] tells when that is done.
    pub fn leave(&mut self, now: Timestamp) {
        self.endpoint.close(now);
        self.roster.leave(now);
    }

    /// Whether it has left.
    pub fn has_left(&self) -> bool {
        self.roster.has_left() && self.endpoint.is_drained()
    }

    /// Takes in what a socket received.
    ///
    /// # Errors
    /// [`Discard`], already counted, when it was of no use.
    pub fn handle_datagram(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        datagram: Bytes,
    ) -> Result<(), Discard> {
        if self.guard.is_none() {
            let result = self.endpoint.handle_datagram(now, from, datagram);
            self.route_events(now);
            return result;
        }
        match self.open(now, from, &datagram)? {
            Some(opened) => {
                let from = self.home_of(&opened, from);
                self.handle_opened(now, from, opened)
            }
            None => Ok(()),
        }
    }

    /// Opens what a socket of a protected floor received; `None` when nothing of it is for the station.
    ///
    /// # Errors
    /// [`Discard`], already counted, when it was of no use.
    pub fn open(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<Option<Opened>, Discard> {
        let Some(guard) = &mut self.guard else {
            return self.endpoint.refuse(Discard::Key).map(|()| None);
        };
        guard.open(now, from, datagram).or_else(|discard| {
            let refused = self.endpoint.refuse(discard);
            refused.map(|()| None)
        })
    }

    /// Where the sender of what was opened is to be answered, which need not be where it came from.
    pub fn home_of(&self, opened: &Opened, from: SocketAddr) -> SocketAddr {
        let guard = self.guard.as_ref();
        guard.map_or(from, |guard| guard.home_of(opened, from))
    }

    /// Takes in what was opened.
    ///
    /// # Errors
    /// [`Discard`], already counted, when it was of no use.
    pub fn handle_opened(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        opened: Opened,
    ) -> Result<(), Discard> {
        let Opened { datagram, standing } = opened;
        if let Ok((header, _)) = Header::read(&datagram)
            && standing.statuses != 0
            && self.standings.get(&header.source) != Some(&standing)
        {
            if self.standings.len() >= STANDINGS_MAX && !self.standings.contains_key(&header.source)
            {
                self.standings.pop_first();
            }
            self.standings.insert(header.source, standing);
        }
        let is_proved = standing.is_proved;
        let result = self.endpoint.handle_opened(now, from, datagram, is_proved);
        self.route_events(now);
        result
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.endpoint.handle_timeout(now);
        self.route_events(now);
    }

    /// Writes datagrams that are to be sent now; false when nothing was added.
    #[must_use = "what is not sent is lost"]
    pub fn poll_transmit(&mut self, now: Timestamp, batch: &mut TransmitBatch) -> bool {
        let already = batch.len();
        if self.may_transmit(now) {
            let _ = self.poll_unsealed(now, batch);
        }
        self.seal(now, batch, already);
        batch.len() > already
    }

    /// Whether new datagrams are to be written now: a protected source waits for its next train to be due.
    pub fn may_transmit(&self, now: Timestamp) -> bool {
        self.guard
            .as_ref()
            .is_none_or(|guard| guard.ready_at() <= now)
    }

    /// The first half of [`Station::poll_transmit`]: writes datagrams, which on a protected floor are still to be sealed.
    #[must_use = "what is not sent is lost"]
    pub fn poll_unsealed(&mut self, now: Timestamp, batch: &mut TransmitBatch) -> bool {
        if self.roster.poll_timeout() <= now {
            let mut outgoing = std::mem::take(&mut self.outgoing);
            self.roster.poll_outgoing(now, &mut outgoing);
            for outgoing in outgoing.drain(..) {
                self.send_outgoing(&outgoing);
            }
            self.outgoing = outgoing;
        }
        if self.receipts.poll_timeout() <= now {
            self.ask(now);
        }
        let has_more = self.endpoint.poll_transmit(now, batch);
        // Who has left the pace, and whose fault a loss was, comes to light here.
        self.route_events(now);
        has_more
    }

    /// The second half: seals what was written from the `already`-th on.
    pub fn seal(&mut self, now: Timestamp, batch: &mut TransmitBatch, already: usize) {
        if let Some(guard) = &mut self.guard
            && (batch.len() > already || guard.poll_timeout() <= now)
        {
            let (datagrams, bytes) = (batch.len(), batch.bytes_from(already));
            guard.seal(now, batch, already);
            let added = batch.len().saturating_sub(datagrams);
            let longer = batch.bytes_from(already).saturating_sub(bytes);
            self.endpoint.count_sealed(added, longer);
        }
    }

    /// What happened next; `wall_ns` is the present, nanoseconds since 1970.
    pub fn poll_event(&mut self, wall_ns: u64) -> Option<StationEvent> {
        loop {
            let event = self.endpoint.poll_event()?;
            self.routed = self.routed.saturating_sub(1);
            let event = self.told_to_owner(event, wall_ns);
            if event.is_some() {
                return event;
            }
        }
    }

    /// What the owner is told of an event; nothing of what was for the roster.
    fn told_to_owner(&mut self, event: Event, wall_ns: u64) -> Option<StationEvent> {
        Some(match event {
            Event::SessionStarted { origin, from } => StationEvent::SessionStarted { origin, from },
            Event::SessionEnded { origin, reason } => StationEvent::SessionEnded { origin, reason },
            Event::Lost {
                origin,
                stream,
                seqs,
            } => StationEvent::Lost {
                origin,
                stream,
                seqs,
            },
            Event::Skipped {
                origin,
                stream,
                seqs,
                why,
            } => StationEvent::Skipped {
                origin,
                stream,
                seqs,
                why,
            },
            Event::LossJudged {
                stream,
                blame,
                askers,
            } => StationEvent::LossJudged {
                stream,
                blame,
                askers,
            },
            Event::PaceLeft {
                station,
                stream,
                through,
            } => StationEvent::PaceLeft {
                station,
                stream,
                through,
            },
            Event::PaceRejoined { station, stream } => {
                StationEvent::PaceRejoined { station, stream }
            }
            Event::Evicted {
                station,
                stream,
                seqs,
            } => StationEvent::Evicted {
                station,
                stream,
                seqs,
            },
            Event::PaceTold {
                origin,
                stream,
                is_behind,
            } => StationEvent::PaceTold {
                origin,
                stream,
                is_behind,
            },
            Event::NameConflict { from } => StationEvent::NameConflict { from },
            Event::Delivered(delivery) => self.receive(delivery, wall_ns),
            Event::Reported { station, .. } => StationEvent::Reported { station },
            Event::Control { .. } => return None,
        })
    }

    /// When it wants to be called next, if nothing comes in before.
    pub fn poll_timeout(&self) -> Timestamp {
        let due = self
            .endpoint
            .poll_timeout()
            .min(self.roster.poll_timeout())
            .min(self.receipts.poll_timeout());
        match &self.guard {
            Some(guard) => due.max(guard.ready_at()).min(guard.poll_timeout()),
            None => due,
        }
    }

    /// What it has counted.
    pub fn stats(&self) -> Stats {
        Stats {
            stations_forgotten: self.roster.forgotten(),
            roll_calls_left: self.roster.calls_left(),
            receipts_unbooked: self.receipts.unbooked(),
            ..self.endpoint.stats().clone()
        }
    }

    /// Its endpoint, to look at.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn receive(&mut self, delivery: Delivery, wall_ns: u64) -> StationEvent {
        let at = Placed {
            origin: delivery.origin,
            stream: delivery.stream,
            seqs: delivery.seqs,
            is_repaired: delivery.is_repaired,
        };
        if delivery.payload.first() == Some(&OPAQUE) {
            let payload = delivery.payload;
            return StationEvent::Opaque { at, payload };
        }
        let source = delivery.origin.source;
        match self.inbox.receive(source, delivery.payload, wall_ns) {
            Received::New(notice) | Received::Expired(notice)
                if let Some(claim) = self.false_claim(source, &notice) =>
            {
                StationEvent::Refused {
                    at,
                    id: notice.id,
                    claim,
                }
            }
            Received::New(notice) => StationEvent::Notice {
                at,
                notice,
                is_expired: false,
            },
            Received::Expired(notice) => StationEvent::Notice {
                at,
                notice,
                is_expired: true,
            },
            Received::Again(id) => StationEvent::Again { at, id },
            Received::Unreadable(error) => StationEvent::Unreadable { at, error },
        }
    }

    /// What a notice claims that its source may not. In an open laboratory everybody may say everything.
    fn false_claim(&self, source: SourceId, notice: &Notice) -> Option<Claim> {
        let config = self.endpoint.config();
        if config.seal == Seal::OpenLab {
            return None;
        }
        let standing = self.standings.get(&source).copied().unwrap_or_default();
        if !standing.permits(notice.status) {
            Some(Claim::Status(notice.status))
        } else if SourceId::of(config.floor, notice.from.as_str()) != source {
            Some(Claim::Name)
        } else {
            None
        }
    }

    /// Tells the endpoint's new events to whom they concern; all of them stay for the owner.
    fn route_events(&mut self, now: Timestamp) {
        for event in self.endpoint.events_from(self.routed) {
            match event {
                Event::Control { datagram, .. } => {
                    let Ok(datagram) = wire::decode(datagram) else {
                        continue;
                    };
                    for message in datagram.messages() {
                        self.roster.handle(now, datagram.header.source, &message);
                    }
                }
                Event::Reported {
                    station,
                    stream,
                    joined,
                    through,
                    lost,
                } => {
                    self.receipts
                        .reported(now, *station, *stream, *joined, *through, lost.clone());
                }
                _ => {}
            }
        }
        self.routed = self.endpoint.events_len();
    }

    fn send_outgoing(&mut self, outgoing: &Outgoing) {
        match outgoing {
            Outgoing::Presence { to, is_leaving } => {
                let groups: Vec<_> = self.roster.groups().to_vec();
                let name = &self.name;
                self.endpoint
                    .send_control(Destination::Group(*to), |writer| {
                        writer.presence(name, *is_leaving, &groups);
                    });
            }
            Outgoing::RollCall { call, to } => {
                self.endpoint
                    .send_control(Destination::Group(*to), |writer| {
                        writer.roll_call(call);
                    })
            }

            Outgoing::Answer {
                token,
                group,
                to,
                entries,
            } => {
                let mut rest = entries.as_slice();
                while !rest.is_empty() {
                    let mut written = 0;
                    self.endpoint
                        .send_control(Destination::Group(*to), |writer| {
                            written = writer
                                .roster(*token, *group, Outgoing::wire_entries(rest))
                                .unwrap_or(0);
                        });
                    assert!(written > 0, "a roster entry fits in an empty datagram");
                    rest = &rest[written..];
                }
            }
        }
    }

    fn ask(&mut self, now: Timestamp) {
        self.refresh_expected(now);
        for (stream, stations) in self.receipts.poll_ask(now, &self.expected.stations) {
            let named = if stations.len() <= ASKED_BY_NAME_MAX {
                stations
            } else {
                Vec::new()
            };
            self.endpoint
                .send_control(Destination::Group(stream.group()), |writer| {
                    writer.ask(stream, named);
                });
        }
    }

    /// Reckons anew who is expected, when the roster or what was published has changed.
    fn refresh_expected(&mut self, now: Timestamp) {
        let version = (self.roster.version(), self.published.len());
        if self.expected.version == Some(version) {
            return;
        }
        let mut stations = BTreeMap::<SourceId, BTreeSet<StreamId>>::new();
        for &stream in &self.published {
            let heard = self.roster.expected(now, stream.group()).map(|(id, _)| id);
            let listed = self
                .listed
                .get(&stream.group())
                .into_iter()
                .flatten()
                .map(|(id, _)| *id);
            for station in heard.chain(listed) {
                stations.entry(station).or_default().insert(stream);
            }
        }
        stations.remove(&self.endpoint.config().source);
        if !stations.is_empty() {
            self.endpoint.set_group_size(stations.len() as u64);
        }
        self.expected = Expected {
            version: Some(version),
            stations,
        };
    }
}

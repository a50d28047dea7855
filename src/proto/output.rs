//! What an endpoint hands to its owner, in order.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::wire::{SeqNo, SeqRange, SessionId, SkipReason, SourceId, StreamId};

use super::Stats;
use super::blame::Blame;

/// Whose life something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The source.
    pub source: SourceId,
    /// Its life.
    pub session: SessionId,
}

/// A whole message, in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Who published it.
    pub origin: Origin,
    /// On which stream.
    pub stream: StreamId,
    /// The numbers of its segments.
    pub seqs: SeqRange,
    /// Its bytes: a slice of the datagram it came in, where it came in one.
    pub payload: Bytes,
    /// Whether any part of it came as a repair.
    pub is_repaired: bool,
}

/// Why a session ended for a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The source said so.
    Closed,
    /// The source has started anew.
    Replaced,
    /// Nothing was heard of it for [`super::SILENCE_NS`]. It goes on where it was if it comes back.
    Silent,
}

impl EndReason {
    /// The word for it in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Replaced => "replaced",
            Self::Silent => "silent",
        }
    }
}

/// What happened. Events come in the order in which they happened: what is lost stands where it would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
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
    /// A message, in its turn.
    Delivered(Delivery),
    /// Numbers that will not come.
    Lost {
        /// Whose.
        origin: Origin,
        /// On which stream.
        stream: StreamId,
        /// Which.
        seqs: SeqRange,
    },
    /// Numbers that their source took back: nothing is missing.
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
    /// A loss of ours is over: who was hit, as far as the requests tell (R-BLAME-1).
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
    /// A receiver of ours is so far behind that some of what it lacks has left the send window.
    Evicted {
        /// Who.
        station: SourceId,
        /// On which stream.
        stream: StreamId,
        /// What it cannot have any more.
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
    /// A receiver told what it has of one of our streams (R-REP-1).
    Reported {
        /// Who.
        station: SourceId,
        /// On which stream.
        stream: StreamId,
        /// The first number it counts on.
        joined: SeqNo,
        /// One after the last number that was delivered to its program or reported lost to it.
        through: SeqNo,
        /// What of that was lost.
        lost: Vec<SeqRange>,
    },
    /// A datagram with messages that are not the endpoint's business: presence and rosters.
    Control {
        /// Where it came from.
        from: SocketAddr,
        /// All of it, known to be well formed.
        datagram: Bytes,
    },
    /// Another program uses this one's name on the floor.
    NameConflict {
        /// Where it sends from.
        from: SocketAddr,
    },
}

/// Events on their way out, and the counters.
#[derive(Debug, Default)]
pub(super) struct Output {
    events: VecDeque<Event>,
    pub(super) stats: Stats,
}

impl Output {
    pub(super) fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn events_from(&self, first: usize) -> impl Iterator<Item = &Event> {
        self.events.range(first.min(self.events.len())..)
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn deliver(&mut self, delivery: Delivery) {
        self.push(Event::Delivered(delivery));
    }

    /// Numbers that were taken back.
    pub(super) fn skipped(
        &mut self,
        origin: Origin,
        stream: StreamId,
        seqs: SeqRange,
        why: SkipReason,
    ) {
        self.stats.segments_skipped += seqs.len();
        self.push(Event::Skipped {
            origin,
            stream,
            seqs,
            why,
        });
    }

    /// Numbers that adjoin the run reported last become part of it.
    pub(super) fn lost(&mut self, origin: Origin, stream: StreamId, range: SeqRange) {
        self.stats.segments_lost = self.stats.segments_lost.saturating_add(range.len());
        if let Some(Event::Lost {
            origin: last_origin,
            stream: last_stream,
            seqs,
        }) = self.events.back_mut()
            && (*last_origin, *last_stream, seqs.end()) == (origin, stream, range.first())
            && let Some(merged) = SeqRange::new(seqs.first(), range.end())
        {
            *seqs = merged;
            return;
        }
        self.push(Event::Lost {
            origin,
            stream,
            seqs: range,
        });
    }
}

//! What must hold whatever happens: each receiver gets what was published, once, in order, complete or reported lost.
//!
//! The checker knows the truth (what was published) and sees what each receiver is told. It knows nothing of how the
//! protocol works.

use std::collections::{BTreeMap, BTreeSet};

use crate::notice::NoticeId;
use crate::proto::{Join, Origin, Resume, Terms};
use crate::station::{Placed, StationEvent};
use crate::time::Timestamp;
use crate::wire::{SeqNo, SeqRange, SkipReason, SourceId, StreamId};

use super::NodeId;

/// A stream of a session: the unit of order.
type Line = (Origin, StreamId);

/// A message as it was published.
#[derive(Clone, Debug)]
struct Published {
    seqs: SeqRange,
    id: NoticeId,
    text_hash: u64,
    expires: Option<Timestamp>,
    supersedes: Option<u64>,
}

/// One published stream.
#[derive(Clone, Debug)]
struct Truth {
    began: Timestamp,
    messages: BTreeMap<SeqNo, Published>,
}

/// What one life of one receiver has been told of one stream.
#[derive(Clone, Debug)]
struct Told {
    joined: SeqNo,
    mark: SeqNo,
    lost: Vec<SeqRange>,
}

/// One receiver over all its lives.
#[derive(Clone, Debug, Default)]
struct Receiver {
    listens_since: Timestamp,
    told: BTreeMap<Line, Told>,
    /// The present session of each source, as the receiver was told; `None` after its end.
    sessions: BTreeMap<SourceId, Option<Origin>>,
    buried: BTreeSet<Origin>,
    had: BTreeSet<NoticeId>,
    /// In this life or an earlier one.
    ever_had: BTreeSet<NoticeId>,
}

/// Watches every receiver of a network.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    truth: BTreeMap<Line, Truth>,
    receivers: BTreeMap<NodeId, Receiver>,
    violations: Vec<String>,
    /// Notices handed to receivers, over all of them.
    pub notices_delivered: u64,
    /// Sequence numbers reported lost, over all receivers.
    pub numbers_lost: u64,
    /// Sequence numbers that receivers were told were taken back, over all of them.
    pub numbers_skipped: u64,
}

/// Violations kept in words; the count goes on.
const VIOLATIONS_MAX: usize = 20;

impl Checker {
    /// What was found wrong, in words; empty when nothing was.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// A receiver begins a life; with `resumes`, what it was told before still counts.
    pub(super) fn begin(&mut self, now: Timestamp, node: NodeId, resumes: bool) {
        let receiver = self.receivers.entry(node).or_default();
        let before = std::mem::take(receiver);
        receiver.listens_since = now;
        receiver.ever_had = before.ever_had;
        if resumes {
            receiver.told = before.told;
            receiver.had = before.had;
        }
    }

    /// Where a receiver stands, for it to go on from in its next life.
    pub(super) fn marks(&self, node: NodeId) -> Vec<(Origin, StreamId, Resume)> {
        let told = self.receivers.get(&node).map(|receiver| &receiver.told);
        let told = told.into_iter().flatten().map(|(&(origin, stream), told)| {
            let from = Resume {
                joined: told.joined,
                next: told.mark,
                lost: told.lost.clone(),
            };
            (origin, stream, from)
        });
        told.collect()
    }

    /// What a receiver has been given, for it to remember in its next life.
    pub(super) fn had(&self, node: NodeId) -> impl Iterator<Item = NoticeId> {
        self.receivers
            .get(&node)
            .into_iter()
            .flat_map(|receiver| receiver.had.iter().copied())
    }

    pub(super) fn published(
        &mut self,
        now: Timestamp,
        line: Line,
        seqs: SeqRange,
        id: NoticeId,
        text: &str,
        terms: Terms,
    ) {
        let truth = self.truth.entry(line).or_insert(Truth {
            began: now,
            messages: BTreeMap::new(),
        });
        truth.messages.insert(
            seqs.first(),
            Published {
                seqs,
                id,
                text_hash: hash(text),
                expires: terms.expires,
                supersedes: terms.supersedes,
            },
        );
    }

    /// A receiver was told something.
    pub fn told(&mut self, now: Timestamp, node: NodeId, event: &StationEvent) {
        let result = match event {
            StationEvent::SessionStarted { origin, .. } => self.session_started(node, *origin),
            StationEvent::SessionEnded { origin, reason } => {
                if *reason != crate::proto::EndReason::Silent {
                    self.receivers
                        .entry(node)
                        .or_default()
                        .buried
                        .insert(*origin);
                }
                self.session_ended(node, *origin)
            }
            StationEvent::Notice { at, notice, .. } => {
                self.notices_delivered += 1;
                self.notice(node, at, notice.id, notice.text.as_str())
            }
            StationEvent::Again { at, id } => self.again(node, at, *id),
            StationEvent::Unreadable { error, .. } => Err(format!("a message that {error}")),
            StationEvent::Lost {
                origin,
                stream,
                seqs,
            } => {
                self.numbers_lost += seqs.len();
                self.advance(node, (*origin, *stream), *seqs, true)
            }
            StationEvent::Skipped {
                origin,
                stream,
                seqs,
                why,
            } => {
                self.numbers_skipped += seqs.len();
                self.skipped(now, (*origin, *stream), *seqs, *why)
                    .and_then(|()| self.advance(node, (*origin, *stream), *seqs, true))
            }
            StationEvent::Reported { .. }
            | StationEvent::NameConflict { .. }
            | StationEvent::LossJudged { .. }
            | StationEvent::PaceLeft { .. }
            | StationEvent::PaceRejoined { .. }
            | StationEvent::Evicted { .. }
            | StationEvent::PaceTold { .. } => Ok(()),
        };
        if let Err(what) = result {
            self.violation(now, node, &what);
        }
    }

    /// What was reported lost to `node` in the stream.
    pub fn lost(&self, node: NodeId, origin: Origin, stream: StreamId) -> Vec<SeqRange> {
        let told = self
            .receivers
            .get(&node)
            .and_then(|receiver| receiver.told.get(&(origin, stream)));
        told.map(|told| told.lost.clone()).unwrap_or_default()
    }

    /// The most runs that `node` was told of as lost or taken back in one stream.
    pub(super) fn lost_runs(&self, node: NodeId) -> usize {
        let told = self
            .receivers
            .get(&node)
            .map(|receiver| receiver.told.values());
        let runs = told.into_iter().flatten().map(|told| told.lost.len());
        runs.max().unwrap_or(0)
    }

    /// Whether `node` has been given the notice.
    pub fn has(&self, node: NodeId, id: NoticeId) -> bool {
        self.receivers
            .get(&node)
            .is_some_and(|receiver| receiver.had.contains(&id))
    }

    /// Whether `node` has been given the notice, in this life or an earlier one.
    pub(super) fn ever_had(&self, node: NodeId, id: NoticeId) -> bool {
        self.receivers
            .get(&node)
            .is_some_and(|receiver| receiver.ever_had.contains(&id))
    }

    /// Once all faults are over: `node`, which listens to `stream`, has been told of everything in it, from where it
    /// began.
    pub(super) fn expect_complete(
        &mut self,
        now: Timestamp,
        node: NodeId,
        origin: Origin,
        stream: StreamId,
        join: Join,
    ) {
        let Some(truth) = self.truth.get(&(origin, stream)) else {
            return;
        };
        let Some(receiver) = self.receivers.get(&node) else {
            return;
        };
        let end = truth
            .messages
            .values()
            .map(|message| message.seqs.end())
            .max()
            .unwrap_or_default();
        match receiver.told.get(&(origin, stream)).map(|told| told.mark) {
            Some(mark) if mark == end => {}
            // It came later, and nothing has begun since where it began.
            None if join != Join::Trail && receiver.listens_since > truth.began => {}
            mark => {
                let what =
                    format!("incomplete: {origin:?} {stream} ends at {end}, told up to {mark:?}");
                self.violation(now, node, &what);
            }
        }
    }

    /// Puts a violation on record.
    pub(super) fn violation(&mut self, now: Timestamp, node: NodeId, what: &str) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations
                .push(format!("{now} node {}: {what}", node.0));
        }
    }

    fn session_started(&mut self, node: NodeId, origin: Origin) -> Result<(), String> {
        let receiver = self.receivers.entry(node).or_default();
        if receiver.buried.contains(&origin) {
            return Err(format!("an ended session is back: {origin:?}"));
        }
        match receiver.sessions.insert(origin.source, Some(origin)) {
            Some(Some(open)) => Err(format!("{origin:?} started while {open:?} was open")),
            _ => Ok(()),
        }
    }

    fn session_ended(&mut self, node: NodeId, origin: Origin) -> Result<(), String> {
        let receiver = self.receivers.entry(node).or_default();
        match receiver.sessions.insert(origin.source, None) {
            Some(Some(open)) if open == origin => Ok(()),
            open => Err(format!("{origin:?} ended, but open was {open:?}")),
        }
    }

    fn notice(
        &mut self,
        node: NodeId,
        at: &Placed,
        id: NoticeId,
        text: &str,
    ) -> Result<(), String> {
        self.matches_truth(at, id)?;
        let published = self
            .truth
            .get(&(at.origin, at.stream))
            .and_then(|truth| truth.messages.get(&at.seqs.first()));
        if published.is_some_and(|published| published.text_hash != hash(text)) {
            return Err(format!("altered: {id} in {}", at.stream));
        }
        let receiver = self.receivers.entry(node).or_default();
        receiver.ever_had.insert(id);
        if !receiver.had.insert(id) {
            return Err(format!("twice: {id} at {} in {}", at.seqs, at.stream));
        }
        self.advance(node, (at.origin, at.stream), at.seqs, false)
    }

    fn again(&mut self, node: NodeId, at: &Placed, id: NoticeId) -> Result<(), String> {
        self.matches_truth(at, id)?;
        if !self.has(node, id) {
            return Err(format!("swallowed: {id} was said to have been here"));
        }
        self.advance(node, (at.origin, at.stream), at.seqs, false)
    }

    fn matches_truth(&self, at: &Placed, id: NoticeId) -> Result<(), String> {
        let truth = self
            .truth
            .get(&(at.origin, at.stream))
            .and_then(|truth| truth.messages.get(&at.seqs.first()));
        match truth {
            Some(published) if published.seqs == at.seqs && published.id == id => Ok(()),
            published => Err(format!(
                "never published: {id} at {} in {} (there: {published:?})",
                at.seqs, at.stream
            )),
        }
    }

    /// Nothing is taken back but what has run out of time or been superseded, and that whole.
    fn skipped(
        &self,
        now: Timestamp,
        line: Line,
        seqs: SeqRange,
        why: SkipReason,
    ) -> Result<(), String> {
        let messages = self.truth.get(&line).map(|truth| &truth.messages);
        let messages = messages.ok_or("skipped in a stream that was never published")?;
        let mut from = seqs.first();
        while from < seqs.end() {
            let message = messages
                .range(..=from)
                .next_back()
                .map(|(_, message)| message);
            let message = message.ok_or_else(|| format!("skipped, but never published: {seqs}"))?;
            let is_due = match why {
                SkipReason::Expired => message.expires.is_some_and(|at| at <= now),
                SkipReason::Superseded => message.supersedes.is_some_and(|key| {
                    let later = messages.range(message.seqs.end()..);
                    later
                        .into_iter()
                        .any(|(_, other)| other.supersedes == Some(key))
                }),
            };
            if !is_due {
                return Err(format!(
                    "taken back without cause ({}): {seqs}",
                    why.as_str()
                ));
            }
            from = message.seqs.end();
        }
        Ok(())
    }

    /// Everything told of a stream adjoins what was told before: no number twice, none passed over in silence.
    fn advance(
        &mut self,
        node: NodeId,
        line: Line,
        seqs: SeqRange,
        is_lost: bool,
    ) -> Result<(), String> {
        let receiver = self.receivers.entry(node).or_default();
        if receiver.sessions.get(&line.0.source) != Some(&Some(line.0)) {
            return Err(format!("{seqs} of {:?}, whose session is not open", line.0));
        }
        let began = self.truth.get(&line).map(|truth| truth.began);
        let told = receiver.told.entry(line).or_insert(Told {
            joined: seqs.first(),
            mark: seqs.first(),
            lost: Vec::new(),
        });
        let was_first = began.is_some_and(|began| receiver.listens_since <= began);
        let result = if told.mark != seqs.first() {
            Err(format!(
                "out of order: {seqs} after {} in {}",
                told.mark, line.1
            ))
        } else if was_first && told.joined != SeqNo::ZERO {
            Err(format!(
                "was there first, but began with {} in {}",
                told.joined, line.1
            ))
        } else {
            Ok(())
        };
        told.mark = seqs.end();
        if is_lost {
            told.lost.push(seqs);
        }
        result
    }
}

fn hash(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

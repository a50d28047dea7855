//! What must hold whatever happens: each receiver gets what was published, once, in order, complete or reported lost.
//!
//! The checker knows the truth (what was published) and sees what each receiver is told. It knows nothing of how the
//! protocol works. What it keeps stands by line or by notice and in it by node: a datagram that reaches thousands of nodes,
//! one after the other, walks along short tables.

use std::collections::BTreeMap;

use crate::notice::{NoticeId, Text};
use crate::proto::{EndReason, Join, Origin, Resume, Terms};
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
    /// Its notice's place in [`Checker::notices`].
    notice: usize,
    text: Text,
    terms: Terms,
}

/// What was published on one line.
#[derive(Clone, Debug, Default)]
struct Truth {
    /// `None` where nothing was.
    began: Option<Timestamp>,
    /// Numbers ascend.
    messages: Vec<Published>,
    /// The message found last: the next one asked for is mostly the same, at another receiver, or the one behind it.
    found: usize,
}

impl Truth {
    /// The message that begins with `first`.
    fn message(&mut self, first: SeqNo) -> Option<&Published> {
        let starts_here = |at: &usize| {
            let message = self.messages.get(*at);
            message.is_some_and(|message| message.seqs.first() == first)
        };
        let near = [self.found, self.found + 1].into_iter().find(starts_here);
        self.found = match near {
            Some(at) => at,
            None => {
                let found = self
                    .messages
                    .binary_search_by_key(&first, |message| message.seqs.first());
                found.ok()?
            }
        };
        self.messages.get(self.found)
    }
}

/// What receivers were told of one line, by node.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The first number each was told of; [`NOTHING`] where it was told of none.
    joined: Vec<SeqNo>,
    /// One after the last.
    marks: Vec<SeqNo>,
    lost: BTreeMap<NodeId, Vec<SeqRange>>,
}

/// A number that no receiver is ever told of.
const NOTHING: SeqNo = SeqNo(u64::MAX);

impl Told {
    fn mark(&self, node: NodeId) -> Option<SeqNo> {
        let mark = self.marks.get(node.0).copied();
        mark.filter(|&mark| mark != NOTHING)
    }

    fn forget(&mut self, node: NodeId) {
        if let Some(mark) = self.marks.get_mut(node.0) {
            *mark = NOTHING;
            self.lost.remove(&node);
        }
    }
}

/// What receivers were told of one life of a source.
#[derive(Clone, Debug)]
struct Life {
    origin: Origin,
    /// Who was told of its start or end.
    known: Bits,
    /// For whom it goes on.
    open: Bits,
    /// For whom it is over for good.
    buried: Bits,
}

/// A set of small numbers.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, at: usize) -> bool {
        self.0
            .get(at / 64)
            .is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// False when it was there.
    fn insert(&mut self, at: usize) -> bool {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        let is_new = !self.has(at);
        self.0[at / 64] |= 1 << (at % 64);
        is_new
    }

    /// False when it was not there.
    fn remove(&mut self, at: usize) -> bool {
        let was_here = self.has(at);
        if was_here {
            self.0[at / 64] &= !(1 << (at % 64));
        }
        was_here
    }
}

/// Watches every receiver of a network.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    lines: BTreeMap<Line, usize>,
    /// The line asked for last.
    line: Option<(Line, usize)>,
    /// By line.
    truth: Vec<Truth>,
    told: Vec<Told>,
    lives: Vec<Life>,
    /// By node: since when it listens.
    since: Vec<Timestamp>,
    notices: Vec<NoticeId>,
    /// The place of each in `notices`.
    places: BTreeMap<NoticeId, usize>,
    /// Who has each notice, by notice.
    had: Vec<Bits>,
    /// Who had it in a life that is over and was not gone on with.
    had_before: Vec<Bits>,
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
        if self.since.len() <= node.0 {
            self.since.resize(node.0 + 1, Timestamp::ZERO);
        }
        self.since[node.0] = now;
        for life in &mut self.lives {
            for bits in [&mut life.known, &mut life.open, &mut life.buried] {
                bits.remove(node.0);
            }
        }
        if !resumes {
            self.told.iter_mut().for_each(|told| told.forget(node));
            for (had, had_before) in self.had.iter_mut().zip(&mut self.had_before) {
                if had.remove(node.0) {
                    had_before.insert(node.0);
                }
            }
        }
    }

    /// Where a receiver stands, for it to go on from in its next life.
    pub(super) fn marks(&self, node: NodeId) -> Vec<(Origin, StreamId, Resume)> {
        let marks = self.lines.iter().filter_map(|(&(origin, stream), &line)| {
            let told = &self.told[line];
            let from = Resume {
                next: told.mark(node)?,
                joined: told.joined[node.0],
                lost: told.lost.get(&node).cloned().unwrap_or_default(),
            };
            Some((origin, stream, from))
        });
        marks.collect()
    }

    /// What a receiver has been given, for it to remember in its next life.
    pub(super) fn had(&self, node: NodeId) -> impl Iterator<Item = NoticeId> {
        let notices = self.notices.iter().zip(&self.had);
        let had = notices.filter(move |(_, had)| had.has(node.0));
        had.map(|(&id, _)| id)
    }

    pub(super) fn published(
        &mut self,
        now: Timestamp,
        line: Line,
        seqs: SeqRange,
        id: NoticeId,
        text: &Text,
        terms: Terms,
    ) {
        let notice = *self.places.entry(id).or_insert_with(|| {
            self.notices.push(id);
            self.had.push(Bits::default());
            self.had_before.push(Bits::default());
            self.notices.len() - 1
        });
        let line = self.line(line);
        let truth = &mut self.truth[line];
        truth.began.get_or_insert(now);
        truth.messages.push(Published {
            seqs,
            id,
            notice,
            text: text.clone(),
            terms,
        });
    }

    /// A receiver was told something.
    pub fn told(&mut self, now: Timestamp, node: NodeId, event: &StationEvent) {
        let result = match event {
            StationEvent::SessionStarted { origin, .. } => self.session_started(node, *origin),
            StationEvent::SessionEnded { origin, reason } => {
                self.session_ended(node, *origin, *reason)
            }
            StationEvent::Notice { at, notice, .. } => {
                self.notices_delivered += 1;
                self.notice(node, at, notice.id, &notice.text)
            }
            StationEvent::Again { at, id } => self.again(node, at, *id),
            StationEvent::Opaque { at, .. } => Err(format!("{at:?} is no notice")),
            StationEvent::Refused { claim, .. } => Err(format!("a notice that claims {claim:?}")),
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
        let line = self.lines.get(&(origin, stream));
        let lost = line.and_then(|&line| self.told[line].lost.get(&node));
        lost.cloned().unwrap_or_default()
    }

    /// The most runs that `node` was told of as lost or taken back in one stream.
    pub(super) fn lost_runs(&self, node: NodeId) -> usize {
        let runs = self.told.iter().filter_map(|told| told.lost.get(&node));
        runs.map(Vec::len).max().unwrap_or(0)
    }

    /// Whether `node` has been given the notice.
    pub fn has(&self, node: NodeId, id: NoticeId) -> bool {
        let place = self.places.get(&id);
        place.is_some_and(|&at| self.had[at].has(node.0))
    }

    /// Whether `node` has been given the notice, in this life or an earlier one.
    pub(super) fn ever_had(&self, node: NodeId, id: NoticeId) -> bool {
        let place = self.places.get(&id);
        place.is_some_and(|&at| self.had[at].has(node.0) || self.had_before[at].has(node.0))
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
        let Some(&line) = self.lines.get(&(origin, stream)) else {
            return;
        };
        let truth = &self.truth[line];
        let (Some(began), Some(&since)) = (truth.began, self.since.get(node.0)) else {
            return;
        };
        let end = truth.messages.last().map(|message| message.seqs.end());
        let end = end.unwrap_or_default();
        match self.told[line].mark(node) {
            Some(mark) if mark == end => {}
            // It came later, and nothing has begun since where it began.
            None if join != Join::Trail && since > began => {}
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

    /// The number of a line; the next one where it has none.
    fn line(&mut self, line: Line) -> usize {
        if let Some((last, number)) = self.line
            && last == line
        {
            return number;
        }
        let number = *self.lines.entry(line).or_insert(self.truth.len());
        if number == self.truth.len() {
            self.truth.push(Truth::default());
            self.told.push(Told::default());
        }
        self.line = Some((line, number));
        number
    }

    fn life(&mut self, origin: Origin) -> &mut Life {
        let known = self.lives.iter().position(|life| life.origin == origin);
        let at = known.unwrap_or_else(|| {
            self.lives.push(Life {
                origin,
                known: Bits::default(),
                open: Bits::default(),
                buried: Bits::default(),
            });
            self.lives.len() - 1
        });
        &mut self.lives[at]
    }

    /// The present session of a source, as the receiver was told; `Some(None)` after its end.
    fn session(&self, node: NodeId, source: SourceId) -> Option<Option<Origin>> {
        let known = |life: &&Life| life.origin.source == source && life.known.has(node.0);
        let mut known = self.lives.iter().filter(known).peekable();
        known.peek()?;
        Some(
            known
                .find(|life| life.open.has(node.0))
                .map(|life| life.origin),
        )
    }

    /// One session of a source is open for the receiver, or none.
    fn set_session(&mut self, node: NodeId, source: SourceId, open: Option<Origin>) {
        for life in &mut self.lives {
            if life.origin.source == source {
                life.open.remove(node.0);
            }
        }
        if let Some(origin) = open {
            let life = self.life(origin);
            life.known.insert(node.0);
            life.open.insert(node.0);
        }
    }

    fn session_started(&mut self, node: NodeId, origin: Origin) -> Result<(), String> {
        if self.life(origin).buried.has(node.0) {
            return Err(format!("an ended session is back: {origin:?}"));
        }
        let before = self.session(node, origin.source);
        self.set_session(node, origin.source, Some(origin));
        match before {
            Some(Some(open)) => Err(format!("{origin:?} started while {open:?} was open")),
            _ => Ok(()),
        }
    }

    fn session_ended(
        &mut self,
        node: NodeId,
        origin: Origin,
        reason: EndReason,
    ) -> Result<(), String> {
        let before = self.session(node, origin.source);
        self.set_session(node, origin.source, None);
        let life = self.life(origin);
        life.known.insert(node.0);
        if reason != EndReason::Silent {
            life.buried.insert(node.0);
        }
        match before {
            Some(Some(open)) if open == origin => Ok(()),
            open => Err(format!("{origin:?} ended, but open was {open:?}")),
        }
    }

    fn notice(
        &mut self,
        node: NodeId,
        at: &Placed,
        id: NoticeId,
        text: &Text,
    ) -> Result<(), String> {
        let published = self.matches_truth(at, id)?;
        if published.text != *text {
            return Err(format!("altered: {id} in {}", at.stream));
        }
        let notice = published.notice;
        if !self.had[notice].insert(node.0) {
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

    fn matches_truth(&mut self, at: &Placed, id: NoticeId) -> Result<&Published, String> {
        let line = self.line((at.origin, at.stream));
        match self.truth[line].message(at.seqs.first()) {
            Some(published) if published.seqs == at.seqs && published.id == id => Ok(published),
            published => Err(format!(
                "never published: {id} at {} in {} (there: {:?})",
                at.seqs,
                at.stream,
                published.map(|published| (published.seqs, published.id))
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
        let line = self.lines.get(&line);
        let messages = line.map(|&line| self.truth[line].messages.as_slice());
        let messages = messages.ok_or("skipped in a stream that was never published")?;
        let mut from = seqs.first();
        while from < seqs.end() {
            let at = messages.partition_point(|message| message.seqs.end() <= from);
            let message = messages
                .get(at)
                .ok_or_else(|| format!("skipped, but never published: {seqs}"))?;
            let is_due = match why {
                SkipReason::Expired => message.terms.expires.is_some_and(|at| at <= now),
                SkipReason::Superseded => message.terms.supersedes.is_some_and(|key| {
                    let later = &messages[at + 1..];
                    later
                        .iter()
                        .any(|other| other.terms.supersedes == Some(key))
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
        of: Line,
        seqs: SeqRange,
        is_lost: bool,
    ) -> Result<(), String> {
        let line = self.line(of);
        if !self.life(of.0).open.has(node.0) {
            return Err(format!("{seqs} of {:?}, whose session is not open", of.0));
        }
        let since = self.since.get(node.0).copied().unwrap_or_default();
        let began = self.truth[line].began;
        let was_first = began.is_some_and(|began| since <= began);
        let told = &mut self.told[line];
        if told.marks.len() <= node.0 {
            told.marks.resize(node.0 + 1, NOTHING);
            told.joined.resize(node.0 + 1, NOTHING);
        }
        let mark = &mut told.marks[node.0];
        if *mark == NOTHING {
            *mark = seqs.first();
            told.joined[node.0] = seqs.first();
        }
        let result = if *mark != seqs.first() {
            Err(format!("out of order: {seqs} after {mark} in {}", of.1))
        } else if was_first && told.joined[node.0] != SeqNo::ZERO {
            Err(format!(
                "was there first, but began with {} in {}",
                told.joined[node.0], of.1
            ))
        } else {
            Ok(())
        };
        *mark = seqs.end();
        if is_lost {
            told.lost.entry(node).or_default().push(seqs);
        }
        result
    }
}

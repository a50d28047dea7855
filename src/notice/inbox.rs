//! The receiving end: each notice once, whichever of its groups it came through (R-NOTE-2).

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::wire::SourceId;

use super::{Notice, NoticeError, NoticeId};

/// Notices remembered, so that one sent to several groups is shown once. Copies come within milliseconds of each other;
/// this is a shift's worth at one notice every few seconds.
const SEEN_MAX: usize = 8_192;

/// What a delivered message turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A notice to show.
    New(Notice),
    /// One that came too late to be shown (R-NOTE-3).
    Expired(Notice),
    /// One that was here before.
    Again(NoticeId),
    /// Not a notice.
    Unreadable(NoticeError),
}

/// Remembers which notices have been here, each source's for itself: one source must not be able to keep another's from being
/// shown by using its ids.
#[derive(Debug, Default)]
pub struct Inbox {
    seen: BTreeSet<Seen>,
    order: VecDeque<Seen>,
}

/// Whose notice; nobody's is one that a former life had, whoever sent it.
type Seen = (Option<SourceId>, NoticeId);

impl Inbox {
    /// Takes a message of `source` in; `wall_ns` is the present, nanoseconds since 1970.
    pub fn receive(&mut self, source: SourceId, payload: Bytes, wall_ns: u64) -> Received {
        let notice = match Notice::decode(payload) {
            Ok(notice) => notice,
            Err(error) => return Received::Unreadable(error),
        };
        let is_of_former_life = self.seen.contains(&(None, notice.id));
        if is_of_former_life || !self.see((Some(source), notice.id)) {
            return Received::Again(notice.id);
        }
        match notice.expires_ns {
            Some(expires_ns) if expires_ns < wall_ns => Received::Expired(notice),
            _ => Received::New(notice),
        }
    }

    /// A former life has had this notice.
    pub fn remember(&mut self, id: NoticeId) {
        self.see((None, id));
    }

    /// Remembers that a notice has been here; false when that was known.
    fn see(&mut self, seen: Seen) -> bool {
        if !self.seen.insert(seen) {
            return false;
        }
        self.order.push_back(seen);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_time_and_bounded() {
        let mut inbox = Inbox::default();
        let notice = |id, expires_ns| {
            let notice = Notice {
                id: NoticeId(id),
                from: "a".into(),
                sent_ns: 0,
                expires_ns,
                confirm: false,
                status: crate::wire::Status::Actual,
                text: "".into(),
            };
            notice.encode().unwrap()
        };
        assert!(matches!(
            inbox.receive(SourceId(1), notice(1, None), 5),
            Received::New(_)
        ));
        assert_eq!(
            inbox.receive(SourceId(1), notice(1, None), 5),
            Received::Again(NoticeId(1))
        );
        assert!(matches!(
            inbox.receive(SourceId(1), notice(2, Some(4)), 5),
            Received::Expired(_)
        ));
        assert!(matches!(
            inbox.receive(SourceId(1), notice(3, Some(5)), 5),
            Received::New(_)
        ));
        assert!(matches!(
            inbox.receive(SourceId(1), Bytes::from_static(b"junk"), 5),
            Received::Unreadable(_)
        ));
        // Another source's notice of that id is another notice; one that a former life had is not.
        assert!(matches!(
            inbox.receive(SourceId(2), notice(1, None), 5),
            Received::New(_)
        ));
        inbox.remember(NoticeId(4));
        assert_eq!(
            inbox.receive(SourceId(2), notice(4, None), 5),
            Received::Again(NoticeId(4))
        );
        for id in 10..30_000 {
            inbox.receive(SourceId(1), notice(id, None), 5);
        }
        assert_eq!((inbox.seen.len(), inbox.order.len()), (SEEN_MAX, SEEN_MAX));
    }
}

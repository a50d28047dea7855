//! The receiving end: each notice once, whichever of its groups it came through (R-NOTE-2).

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

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

/// Remembers which notices have been here.
#[derive(Debug, Default)]
pub struct Inbox {
    seen: BTreeSet<NoticeId>,
    order: VecDeque<NoticeId>,
}

impl Inbox {
    /// Takes a delivered message in; `wall_ns` is the present, nanoseconds since 1970.
    pub fn receive(&mut self, payload: Bytes, wall_ns: u64) -> Received {
        let notice = match Notice::decode(payload) {
            Ok(notice) => notice,
            Err(error) => return Received::Unreadable(error),
        };
        if !self.remember(notice.id) {
            return Received::Again(notice.id);
        }
        match notice.expires_ns {
            Some(expires_ns) if expires_ns < wall_ns => Received::Expired(notice),
            _ => Received::New(notice),
        }
    }

    /// Remembers that a notice has been here; false when that was known.
    pub fn remember(&mut self, id: NoticeId) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        self.order.push_back(id);
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
            inbox.receive(notice(1, None), 5),
            Received::New(_)
        ));
        assert_eq!(
            inbox.receive(notice(1, None), 5),
            Received::Again(NoticeId(1))
        );
        assert!(matches!(
            inbox.receive(notice(2, Some(4)), 5),
            Received::Expired(_)
        ));
        assert!(matches!(
            inbox.receive(notice(3, Some(5)), 5),
            Received::New(_)
        ));
        assert!(matches!(
            inbox.receive(Bytes::from_static(b"junk"), 5),
            Received::Unreadable(_)
        ));
        for id in 10..30_000 {
            inbox.receive(notice(id, None), 5);
        }
        assert_eq!((inbox.seen.len(), inbox.order.len()), (SEEN_MAX, SEEN_MAX));
    }
}

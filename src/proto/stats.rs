//! Counters: each with the sentence that says what it counts.

macro_rules! stats {
    ($($name:ident: $label:literal,)*) => {
        /// What an endpoint has counted since its start.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $(#[doc = $label] pub $name: u64,)*
        }

        impl Stats {
            /// Adds another endpoint's counters to these.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

stats! {
    datagrams_sent: "Datagrams handed to the network",
    bytes_sent: "Bytes of UDP payload handed to the network",
    messages_published: "Messages published",
    payload_bytes: "Bytes of published messages",
    segments_sent: "Segments sent for the first time",
    repairs_sent: "Segments sent again in answer to NACKs",
    repairs_multicast: "Of these, by multicast",
    parity_sent: "Parity shards sent",
    parity_unasked: "Of these, unasked",
    copies_sent: "Segments sent again unasked",
    skips_sent: "Runs of numbers said never to come",
    heartbeats_sent: "Heartbeats sent",
    nacks_sent: "NACKs sent",
    nacks_received: "NACKs received",
    nacks_held_off: "Numbers asked for again within the hold-off, not repaired again",
    nacks_unknown: "Numbers asked for that were never sent",
    nacks_over_budget: "NACKs cut short because they asked for more than one may",
    nacks_refused: "NACKs refused because their receiver sent more than any receiver does",
    nacks_alone: "NACKs of receivers that have left the pace or asked for more than their share",
    losses_edge: "Losses of ours that one receiver asked for",
    losses_segment: "Losses of ours that one subnet asked for",
    losses_source: "Losses of ours that everybody asked for",
    losses_scattered: "Losses of ours that several asked for who have nothing in common",
    backoff_raised: "Times the back-off was raised because too many asked for one loss",
    pace_left: "Times a receiver left the pace",
    pace_rejoined: "Times a receiver came back into the pace",
    receivers_evicted: "Times a receiver fell behind the send window",
    accounts_unbooked: "NACKs and reports of receivers for whom there was no account",
    squelches_sent: "Squelches sent: asked for what the window no longer holds",
    squelches_received: "Squelches received",
    reports_sent: "Reports sent",
    reports_received: "Reports received",
    messages_expired: "Messages of ours that ran out of time",
    messages_superseded: "Messages of ours that newer ones took the place of",
    evicted: "Segments that left the send window",
    datagrams_received: "Datagrams received and accepted",
    bytes_received: "Bytes of UDP payload received and accepted",
    segments_received: "Segments accepted",
    repairs_received: "Segments accepted that were sent as repairs",
    copies_used: "Segments accepted that were sent again unasked",
    copies_unneeded: "Segments sent again unasked that were here already",
    parity_received: "Parity shards accepted",
    segments_mended: "Segments mended from parity",
    messages_delivered: "Messages delivered",
    segments_lost: "Segments reported lost",
    segments_skipped: "Segments that their source took back",
    gaps_found: "Gaps found",
    control_dropped: "Control messages dropped because too many were waiting",
    stations_forgotten: "Stations forgotten because the roster was full",
    roll_calls_left: "Roll calls left to others because too many waited for answers",
    receipts_unbooked: "Reports and notices that the book of receipts had no room for",
    discard_malformed: "Discarded: not a datagram of this protocol",
    discard_floor: "Discarded: of another floor",
    discard_key: "Discarded: under a key this floor does not use",
    discard_own: "Discarded: own datagram come back",
    discard_conflict: "Discarded: another program uses this one's name",
    discard_duplicate: "Discarded: segment already here",
    discard_unsubscribed: "Discarded: a group not subscribed to",
    discard_stale: "Discarded: of a session that has ended",
    discard_beyond: "Discarded: further ahead than the receive window",
    discard_full: "Discarded: receive buffer or gap table full",
    discard_sources: "Discarded: more sources or streams than are kept",
    discard_corrupt: "Discarded: segments that do not make a message",
    discard_not_ours: "Discarded: meant for another source or session",
    discard_budget: "Discarded: more requests than one receiver may make",
    discard_unknown: "Discarded: a message type this version does not know",
    discard_forged: "Discarded: seal, signature or mark did not hold, or did not cover what was said",
    discard_replayed: "Discarded: was here before",
    discard_untimely: "Discarded: signed at another time than it came",
    discard_ungranted: "Discarded: not covered by the sender's grant",
    discard_stranger: "Discarded: of a station without a grant, and without a key that is taken here",
    discard_throttled: "Discarded unseen: too much before it was false, or new",
    repairs_unproved: "Repairs by multicast because who asked had not shown to be where it said",
}

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
    heartbeats_sent: "Heartbeats sent",
    nacks_sent: "NACKs sent",
    nacks_received: "NACKs received",
    nacks_held_off: "Numbers asked for again within the hold-off, not repaired again",
    nacks_unknown: "Numbers asked for that were never sent",
    nacks_over_budget: "NACKs cut short because they asked for more than one may",
    squelches_sent: "Squelches sent: asked for what the window no longer holds",
    squelches_received: "Squelches received",
    reports_sent: "Reports sent",
    reports_received: "Reports received",
    evicted: "Segments that left the send window",
    datagrams_received: "Datagrams received and accepted",
    bytes_received: "Bytes of UDP payload received and accepted",
    segments_received: "Segments accepted",
    repairs_received: "Segments accepted that were sent as repairs",
    messages_delivered: "Messages delivered",
    segments_lost: "Segments reported lost",
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
    discard_unknown: "Discarded: a message type this version does not know",
}

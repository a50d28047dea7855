//! Receipts: reports that prove to anybody what a workstation has, since nobody but it can have signed them (R-RCPT-2).

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::keys::PublicKey;
use crate::wire::{
    self, FloorId, HEADER_BYTES, Header, Message, SeqNo, SeqRange, SourceId, StreamId,
};

use super::proof::Proof;
use super::train::{self, Claim};

/// Receipts kept: of 16,384 stations one for a stream, or of fewer more. Each has some 300 bytes, a datagram at most. Further
/// ones are not kept.
const RECEIPTS_MAX: usize = 16_384;
/// Of one station: more streams than one source has that a workstation listens to. So whoever says to have streams without end
/// takes no room from others.
const OF_STATION_MAX: usize = 32;

/// What a receipt proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Who has it.
    pub station: SourceId,
    /// The key that signed.
    pub key: PublicKey,
    /// When, milliseconds since 1970, by the workstation's clock.
    pub time_ms: u64,
    /// Whose.
    pub source: SourceId,
    /// In which of its lives.
    pub session: wire::SessionId,
    /// On which stream.
    pub stream: StreamId,
    /// The first number it counts on.
    pub joined: SeqNo,
    /// One after the last number that was given to its program, or told to it as lost.
    pub through: SeqNo,
    /// What of that was lost.
    pub lost: Vec<SeqRange>,
}

/// What the receipt `bytes` prove on `floor`: header, messages and proof of a report, as they stood under the seal. `None` when they
/// prove nothing. Whose key it is has to be known otherwise.
pub fn prove(floor: FloorId, bytes: &[u8]) -> Option<Proven> {
    let (header, body) = Header::read(bytes).ok()?;
    let (messages, Proof::Train(proof)) = Proof::split(body)? else {
        return None;
    };
    let plain = &bytes[..HEADER_BYTES + messages.len()];
    let key = PublicKey::from_bytes(&proof.key?)?;
    let root = Claim::new(&proof, plain).root();
    let statement = train::statement(floor, &header, proof.time_ms, proof.depth, &root);
    if header.floor != floor || !key.has_signed_train(&statement, &proof.signature) {
        return None;
    }
    let decoded = wire::decode(plain).ok()?;
    let mut messages = decoded.messages();
    let (Some(Message::Report(report)), None) = (messages.next(), messages.next()) else {
        return None;
    };
    Some(Proven {
        station: header.source,
        key,
        time_ms: proof.time_ms,
        source: report.source,
        session: report.session,
        stream: report.stream,
        joined: report.joined,
        through: report.through,
        lost: report.lost().collect(),
    })
}

/// The last receipt of each station for each stream.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    by_station: BTreeMap<SourceId, BTreeMap<StreamId, Kept>>,
    len: usize,
    left_out: u64,
}

/// When a receipt was made, how far it goes, and itself.
type Kept = ((u64, SeqNo), Bytes);

impl Receipts {
    /// Keeps a receipt of `station` for `stream`, unless a later one is kept. Where there is no room, those who are vouched for take
    /// that of strangers.
    pub(super) fn keep(
        &mut self,
        (station, stream): (SourceId, StreamId),
        made: (u64, SeqNo),
        opened: &Bytes,
        is_vouched: impl Fn(&SourceId) -> bool,
    ) {
        let known = self.by_station.get(&station);
        let kept = known.and_then(|known| known.get(&stream));
        if kept.is_some_and(|(before, _)| *before > made) {
            return;
        }
        if kept.is_none() {
            let has_many = known.is_some_and(|known| known.len() >= OF_STATION_MAX);
            if has_many || self.len >= RECEIPTS_MAX && !self.make_room(&station, is_vouched) {
                self.left_out += 1;
                return;
            }
            self.len += 1;
        }
        // A copy of its own size: what was received keeps a whole slot.
        let kept = (made, Bytes::copy_from_slice(opened));
        let of_station = self.by_station.entry(station).or_default();
        of_station.insert(stream, kept);
    }

    fn make_room(&mut self, station: &SourceId, is_vouched: impl Fn(&SourceId) -> bool) -> bool {
        if !is_vouched(station) {
            return false;
        }
        let stranger = self.by_station.keys().find(|other| !is_vouched(other));
        let Some(stranger) = stranger.copied() else {
            return false;
        };
        let gone = self.by_station.remove(&stranger);
        let gone = gone.map_or(0, |gone| gone.len());
        self.len -= gone;
        self.left_out += gone as u64;
        true
    }

    /// How many were not kept, or no longer.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SourceId, StreamId, &Bytes)> {
        self.by_station.iter().flat_map(|(&station, streams)| {
            let streams = streams.iter();
            streams.map(move |(&stream, (_, bytes))| (station, stream, bytes))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{GroupId, Lane};

    /// Goal: the last receipt is the one that was made last; who invents streams or stations takes nobody's room, and what is not
    /// kept is counted. Method: an older one after a newer one; one station of many streams; strangers until nothing fits,
    /// then one of them more and one that is vouched for.
    #[test]
    fn the_last_of_each_is_kept_and_strangers_make_room() {
        let stream = StreamId::new(GroupId::of("all"), Lane::Routine);
        let is_vouched = |station: &SourceId| station.0 >= 1 << 32;
        let mut receipts = Receipts::default();
        let mut keep = |station, stream, made, text: &'static [u8]| {
            let whose = (SourceId(station), stream);
            let made = (made, SeqNo(made));
            receipts.keep(whose, made, &Bytes::from_static(text), is_vouched);
            (receipts.len, receipts.left_out)
        };
        keep(1, stream, 9, b"later");
        assert_eq!(keep(1, stream, 5, b"earlier"), (1, 0));
        let invented = |index: u32| StreamId::new(GroupId(index), Lane::Bulk);
        for index in 0..100 {
            keep(2, invented(index), 1, b"many");
        }
        assert_eq!(keep(2, invented(5), 2, b"again"), (33, 68));
        for station in 3..20_000 {
            keep(station, stream, 1, b"stranger");
        }
        let (len, left_out) = keep(30_000, stream, 1, b"no room");
        assert_eq!(len, RECEIPTS_MAX);
        assert_eq!(
            keep(1 << 32, stream, 1, b"listed"),
            (RECEIPTS_MAX, left_out + 1)
        );
        let kept: Vec<_> = receipts.iter().map(|(_, _, bytes)| &bytes[..]).collect();
        assert!(kept.contains(&&b"listed"[..]) && !kept.contains(&&b"earlier"[..]));
        assert_eq!(kept.len(), RECEIPTS_MAX);
    }
}

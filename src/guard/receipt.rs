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
    by_station: BTreeMap<SourceId, BTreeMap<StreamId, Bytes>>,
    len: usize,
}

impl Receipts {
    pub(super) fn keep(&mut self, station: SourceId, stream: StreamId, opened: &Bytes) {
        let is_full = self.len >= RECEIPTS_MAX;
        let known = self.by_station.get(&station);
        let is_new = known.is_none_or(|known| !known.contains_key(&stream));
        if is_new && (is_full || known.is_some_and(|known| known.len() >= OF_STATION_MAX)) {
            return;
        }
        self.len += usize::from(is_new);
        // A copy of its own size: what was received keeps a whole slot.
        let kept = Bytes::copy_from_slice(opened);
        self.by_station
            .entry(station)
            .or_default()
            .insert(stream, kept);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SourceId, StreamId, &Bytes)> {
        self.by_station.iter().flat_map(|(&station, streams)| {
            let of = move |(&stream, bytes)| (station, stream, bytes);
            streams.iter().map(of)
        })
    }
}

//! The half of a guard that seals what leaves.

use crate::keys::{DatagramKey, NONCE_BYTES, PairKey, SIGNATURE_BYTES, TAG_BYTES};
use crate::proto::{Destination, TransmitBatch};
use crate::time::Timestamp;
use crate::wire::{self, DatagramWriter, HEADER_BYTES, Header, Message, SourceId};

use super::proof::{KEYED_BYTES_MAX, Proof, TrainProof};
use super::train::{self, Digest, NODE_BYTES, TRAIN_LEN_MAX};
use super::{Address, GRANT_FIRST_NS, GRANT_LAST_NS, Guard, Telling};

/// How a datagram of ours shows that it is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proving {
    /// The floor lets it be unsigned.
    Unsigned,
    /// By a signature.
    Signed,
    /// By a mark for this source.
    Marked(SourceId),
}

impl Guard {
    /// When a train may be signed, so that receivers are not kept busy with signatures of small ones (R-TRAIN-5).
    pub fn ready_at(&self) -> Timestamp {
        if self.credentials.grant.is_some() {
            self.signatures.ready_at()
        } else {
            Timestamp::ZERO
        }
    }

    /// Whether something of its own waits to be sent, and since or from when on.
    pub fn poll_timeout(&self) -> Timestamp {
        if self.answers.is_empty() {
            let due = self.telling.values().map(|telling| telling.due).min();
            due.unwrap_or(Timestamp::FAR_FUTURE)
        } else {
            Timestamp::ZERO
        }
    }

    /// Nothing can be said while no key is in use: what is due waits, or the timer would stay due and the loop would spin.
    fn put_off_telling(&mut self, now: Timestamp) {
        self.answers.clear();
        for telling in self.telling.values_mut() {
            telling.due = telling.due.max(now.plus_nanos(GRANT_LAST_NS));
        }
    }

    /// Seals the datagrams of `batch` from the `already`-th on, as few trains as they fit in, and adds what the guard itself
    /// has to say: our grant before all else.
    pub fn seal(&mut self, now: Timestamp, batch: &mut TransmitBatch, already: usize) {
        let wall_ms = self.wall_ms(now);
        if !self.take_own_key(wall_ms / 1_000) {
            // The floor's keys have run out: nothing that is sent now could be read, and nothing may go unsealed.
            batch.truncate(already);
            self.put_off_telling(now);
            return;
        }
        let mut first = already;
        while first < batch.len() {
            let end = (first + TRAIN_LEN_MAX).min(batch.len());
            self.seal_train(now, wall_ms, batch, first, end);
            first = end;
        }
        self.tell_grant(now, wall_ms, batch, already);
        self.send_answers(wall_ms, batch);
    }

    /// The key of our life under the floor's key of now; false when there is none.
    fn take_own_key(&mut self, wall_s: u64) -> bool {
        let Some(group) = self.credentials.group_keys.sending(wall_s) else {
            return false;
        };
        if self.own.as_ref().is_none_or(|(id, _)| *id != group.id()) {
            let key = DatagramKey::new(group, self.floor, self.source, self.session);
            self.own = Some((group.id(), key));
        }
        true
    }

    fn seal_train(
        &mut self,
        now: Timestamp,
        wall_ms: u64,
        batch: &mut TransmitBatch,
        first: usize,
        end: usize,
    ) {
        let Some((id, _)) = &self.own else { return };
        self.proving.clear();
        let mut signed = 0;
        for index in first..end {
            let (_, plain) = batch.memory(index);
            plain[2..4].copy_from_slice(&id.0.to_be_bytes());
            let proving = self.proving_of(plain);
            signed += usize::from(proving == Proving::Signed);
            self.proving.push((proving, [0; 32]));
        }
        let depth = train::depth_of(signed);
        let mut place = 0;
        for (offset, (proving, digest)) in self.proving.iter_mut().enumerate() {
            let (_, plain) = batch.memory(first + offset);
            if *proving == Proving::Signed {
                *digest = train::leaf(wall_ms, depth, place, plain);
                place += 1;
            } else {
                *digest = train::digest(plain);
            }
        }
        let signature = self.sign(now, wall_ms, signed);
        let mut place = 0;
        for offset in 0..self.proving.len() {
            let (proving, digest) = self.proving[offset];
            let path = self.tree.path(place);
            let proof = match proving {
                Proving::Unsigned => Proof::Group,
                Proving::Marked(source) => self.mark(source, &digest, wall_ms),
                Proving::Signed => {
                    place += 1;
                    self.train_proof(&path, place - 1, wall_ms, signature)
                }
            };
            batch.seal(first + offset, |memory, len| {
                self.seal_one(&digest, &proof, memory, len)
            });
        }
    }

    /// How a datagram of ours is to show that it is ours.
    fn proving_of(&self, plain: &[u8]) -> Proving {
        let unsigned = &self.credentials.unsigned;
        if unsigned.is_empty() && wire::begins_with_data(plain) {
            return Proving::Signed;
        }
        let Ok(decoded) = wire::decode(plain) else {
            return Proving::Signed;
        };
        let asked = match decoded.messages().next() {
            Some(Message::Nack(nack)) => Some(nack.source),
            Some(Message::Need(need)) => Some(need.source),
            // Ten thousand a second may come to a source; signatures would keep it busy.
            Some(Message::Report(report)) if !report.is_receipt => Some(report.source),
            _ => None,
        };
        match asked {
            Some(source) if self.peers.contains_key(&source) => Proving::Marked(source),
            _ if unsigned.is_empty() => Proving::Signed,
            _ => {
                let may_be = |message: Message<'_>| {
                    let stream = match message {
                        Message::Data(data) => data.stream,
                        Message::Heartbeat(heartbeat) => heartbeat.stream,
                        Message::Parity(parity) => parity.stream,
                        Message::Skip(skip) => skip.stream,
                        Message::Squelch(squelch) => squelch.stream,
                        _ => return false,
                    };
                    unsigned.contains(&stream.lane())
                };
                if decoded.messages().all(may_be) {
                    Proving::Unsigned
                } else {
                    Proving::Signed
                }
            }
        }
    }

    /// Signs the train of the `len` that are to be signed; zeros, if there are none.
    fn sign(&mut self, now: Timestamp, wall_ms: u64, len: usize) -> [u8; SIGNATURE_BYTES] {
        if len == 0 {
            return [0; SIGNATURE_BYTES];
        }
        let signed = self.proving.iter();
        let signed = signed.filter(|(proving, _)| *proving == Proving::Signed);
        let digests = signed.map(|(_, digest)| *digest);
        let root = self.tree.build(wall_ms, len, digests);
        let (header, depth) = (self.header(), self.tree.depth());
        let statement = train::statement(self.floor, &header, wall_ms, depth, &root);
        self.signatures.spend(now, len);
        self.credentials.key.sign_train(&statement)
    }

    fn train_proof<'p>(
        &self,
        path: &'p [[u8; NODE_BYTES]],
        place: usize,
        time_ms: u64,
        signature: [u8; SIGNATURE_BYTES],
    ) -> Proof<'p> {
        let depth = self.tree.depth();
        let is_granted = self.credentials.grant.is_some();
        Proof::Train(TrainProof {
            key: (!is_granted).then(|| self.own_public.to_bytes()),
            path: &path[..usize::from(depth)],
            time_ms,
            index: u8::try_from(place).unwrap_or(u8::MAX),
            depth,
            signature,
        })
    }

    /// The mark for a source that has shown itself; nothing, if it has not: its datagram is refused then, as it should be.
    fn mark(&mut self, source: SourceId, digest: &Digest, time_ms: u64) -> Proof<'static> {
        let Some(peer) = self.peers.get_mut(&source) else {
            return Proof::Group;
        };
        let (ours, theirs) = (&self.credentials.key, &peer.key);
        let pair = peer
            .pair
            .get_or_insert_with(|| PairKey::new(ours, theirs, self.floor));
        Proof::Pair {
            mark: pair.mark(digest, time_ms),
            time_ms,
            key: self.own_public.to_bytes(),
        }
    }

    /// Tells our grant to the groups that something has gone to, before it, and again after (R-GRANT-3).
    fn tell_grant(
        &mut self,
        now: Timestamp,
        wall_ms: u64,
        batch: &mut TransmitBatch,
        already: usize,
    ) {
        if self.credentials.grant.is_none() {
            return;
        }
        for (to, _) in batch.iter().skip(already) {
            if let Destination::Group(group) = to {
                self.telling.entry(group).or_insert(Telling {
                    due: now,
                    gap_ns: GRANT_FIRST_NS,
                });
            }
        }
        if self.telling.values().all(|telling| telling.due > now) {
            return;
        }
        let Some(grant) = &self.credentials.grant else {
            return;
        };
        let grant = grant.to_bytes().to_vec();
        let mut datagram = self.own_datagram(|writer| {
            writer.grant(&grant);
        });
        let digest = train::leaf(wall_ms, 0, 0, &datagram);
        self.proving.clear();
        self.proving.push((Proving::Signed, digest));
        let signature = self.sign(now, wall_ms, 1);
        let proof = self.train_proof(&[], 0, wall_ms, signature);
        self.seal_own(&mut datagram, &digest, &proof);
        for (&group, telling) in &mut self.telling {
            if telling.due <= now {
                telling.due = now.plus_nanos(telling.gap_ns);
                telling.gap_ns = (2 * telling.gap_ns).min(GRANT_LAST_NS);
                batch.insert(already, Destination::Group(group), &datagram);
            }
        }
    }

    fn send_answers(&mut self, wall_ms: u64, batch: &mut TransmitBatch) {
        while let Some((to, address)) = self.answers.pop_front() {
            let (Address::Check(station, check) | Address::Echo(station, check)) = address;
            let mut datagram = self.own_datagram(|writer| {
                match address {
                    Address::Check(..) => writer.address_check(&check),
                    Address::Echo(..) => writer.address_echo(&check),
                };
            });
            let digest = train::digest(&datagram);
            let proof = self.mark(station, &digest, wall_ms);
            self.seal_own(&mut datagram, &digest, &proof);
            batch.append(Destination::Unicast(to), &datagram);
        }
    }

    /// A datagram of the guard's own, before it is sealed.
    fn own_datagram(&mut self, fill: impl FnOnce(&mut DatagramWriter<'_>)) -> Vec<u8> {
        let header = Header {
            number: self.own_numbers,
            ..self.header()
        };
        self.own_numbers += 1;
        let mut datagram = Vec::new();
        let mut writer = DatagramWriter::plain(&mut datagram, usize::MAX, &header);
        fill(&mut writer);
        writer.finish();
        datagram
    }

    fn seal_own(&self, datagram: &mut Vec<u8>, digest: &Digest, proof: &Proof<'_>) {
        let len = datagram.len();
        datagram.resize(len + NONCE_BYTES + TAG_BYTES + KEYED_BYTES_MAX, 0);
        let sealed = self.seal_one(digest, proof, datagram, len);
        datagram.truncate(sealed);
    }

    /// Seals a plain datagram of `len` bytes where it stands in `memory`, which has room for it; how long it is then.
    ///
    /// The messages move back by the nonce and the proof is written behind them, since they were written before anything was
    /// known of the train: header, nonce, messages, proof, tag is the order on the wire.
    fn seal_one(&self, digest: &Digest, proof: &Proof<'_>, memory: &mut [u8], len: usize) -> usize {
        let Some((_, key)) = &self.own else {
            return len;
        };
        memory.copy_within(HEADER_BYTES..len, HEADER_BYTES + NONCE_BYTES);
        let proof_at = len + NONCE_BYTES;
        let end = proof_at + proof.write(&mut memory[proof_at..]);
        // The path and the signature of a train follow from its root, and from time and place, which the digest is of.
        let nonce = match proof {
            Proof::Train(_) => key.nonce(digest, &self.tree.root()),
            Proof::Group | Proof::Pair { .. } => key.nonce(digest, &memory[proof_at..end]),
        };
        memory[HEADER_BYTES..HEADER_BYTES + NONCE_BYTES].copy_from_slice(&nonce);
        let (head, body) = memory[..end].split_at_mut(HEADER_BYTES + NONCE_BYTES);
        let tag = key.seal(nonce, &head[..HEADER_BYTES], body);
        memory[end..end + TAG_BYTES].copy_from_slice(&tag);
        end + TAG_BYTES
    }

    /// The header of what we say under the floor's key of now.
    fn header(&self) -> Header {
        Header {
            key: self.own.as_ref().map_or(0, |(id, _)| id.0),
            floor: self.floor,
            source: self.source,
            session: self.session,
            number: 0,
        }
    }
}

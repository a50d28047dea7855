//! What stands between a station and the network of a protected floor: seals what leaves, and opens what comes.
//!
//! Everything is encrypted under the floor's key, which every workstation has, so that this keeps outsiders out and no more.
//! What only a source may say is signed, a train of datagrams at a time, under a key that the floor's root has granted
//! something; what a station says to all is signed under its own key; and a request to one source bears a mark that only
//! the two can make. What does not hold is counted and dropped, before anything is kept because of it.
//!
//! Pure: the time, the wall clock, keys and seeds come in. What a datagram costs before it has shown whose it is: a lookup, a
//! key that is derived and forgotten, and one pass of AES-GCM; a signature is checked only for who holds the floor's key,
//! and not without end for an address that brings false ones.

mod budget;
mod peers;
mod proof;
mod receipt;
mod sealing;
#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "small numbers, or random ones"
)]
mod tests;
mod train;
mod verdicts;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::keys::{
    Credentials, DatagramKey, Grant, GroupKeys, KEY_BYTES, KeyId, NONCE_BYTES, Others, PairKey,
    PublicKey, Revocations, SIGNATURE_BYTES, Status, TAG_BYTES,
};
use crate::proto::{Config, Discard, Seal};
use crate::time::Timestamp;
use crate::wire::{
    self, AddressCheck, FloorId, GroupId, HEADER_BYTES, Header, Message, SessionId, SourceId,
    StreamId,
};

use budget::{Enrolments, Forgeries, Signatures, begins, may_sign, signed};
use peers::{Peer, TRAINS_MAX};
use proof::{GRANTED_BYTES_MAX, KEYED_BYTES_MAX, Proof, TrainProof};
use train::{Checked, Claim, NODE_BYTES, TRAIN_LEN_MAX, Tree};

pub use receipt::{Proven, prove};
pub use verdicts::Verdicts;

/// How far a signer's clock may be from ours, milliseconds: what Kerberos allows (RFC 4120, section 5.5.1), so what a Windows
/// domain keeps. A replay is refused by its age after that, by its number before.
const CLOCKS_APART_MS: u64 = 300_000;
/// Stations kept: three times the largest floor. Who has been silent for twice [`CLOCKS_APART_MS`] makes room, as nothing
/// older can come again; else newcomers are refused and counted.
const PEERS_MAX: usize = 16_384;
/// Keys of stations kept: four floors of the largest size, as names change. More are refused.
const ENROLLED_MAX: usize = 65_536;
/// Grants kept: as many sources as a receiver follows. Those that have expired make room, else new ones are refused.
const GRANTS_MAX: usize = 256;
/// Questions and answers about addresses that wait to be sent. They are asked again; what is too much is not.
const ANSWERS_MAX: usize = 1_024;
/// A station is asked where it is at most so often, nanoseconds.
const ASK_EVERY_NS: u64 = 100_000_000;
/// A grant is told this long after it was told first, and then ever more seldom, nanoseconds; a heartbeat's way.
const GRANT_FIRST_NS: u64 = 250_000;
/// And at last this often, nanoseconds: so long a receiver that comes late waits.
const GRANT_LAST_NS: u64 = 1_000_000_000;
/// Numbers from here on are the guard's own datagrams; a station never comes so far.
const OWN_NUMBERS: u64 = 1 << 63;
/// Smallest datagram of a protected floor (R-SEAL-3): its proofs take up to 245 bytes, and a heartbeat, the scouts and something to say
/// have to fit beside them.
pub const DATAGRAM_BYTES_MIN: usize = 576;

/// A datagram that has shown whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Header and messages, as [`wire::decode`] takes them.
    pub datagram: Bytes,
    /// What its sender may do.
    pub standing: Standing,
}

/// What a sender has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it has shown to be where it sends from (R-ADDR-2).
    pub is_proved: bool,
    /// The statuses that its grant names, a bit each.
    pub statuses: u8,
}

impl Standing {
    /// Whether it may say something with `status`.
    pub const fn permits(self, status: Status) -> bool {
        self.statuses >> status as u8 & 1 == 1
    }
}

/// A station has shown its key for the first time, or another one than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// Which.
    pub station: SourceId,
    /// The key that it showed.
    pub key: PublicKey,
    /// It is taken at its word from now on; else it has another key already, or the floor takes nobody at first sight.
    pub is_taken: bool,
}

/// Why a station cannot take part.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GuardError {
    /// Its datagrams are too small for a proof.
    #[error(
        "datagrams of {given} bytes are too small for a protected floor, which needs {DATAGRAM_BYTES_MIN}"
    )]
    Datagrams {
        /// What was given.
        given: usize,
    },
    /// Its grant does not fit in a datagram.
    #[error(
        "its grant takes {grant} bytes, and a datagram has room for {room}; grant fewer groups by name, or every group"
    )]
    Grant {
        /// Bytes of the grant.
        grant: usize,
        /// What there is room for.
        room: usize,
    },
    /// The grant is another station's.
    #[error("the grant names another station or another key")]
    NotOurs,
}

/// A station's seal.
#[derive(Debug)]
pub struct Guard {
    floor: FloorId,
    source: SourceId,
    session: SessionId,
    credentials: Credentials,
    own_public: PublicKey,
    /// The wall clock at the timestamps' zero, nanoseconds since 1970.
    wall_zero_ns: u64,
    own: Option<(KeyId, DatagramKey)>,
    peers: BTreeMap<SourceId, Peer>,
    grants: BTreeMap<SourceId, Grant>,
    /// The keys of those who were taken at first sight.
    first_used: BTreeMap<SourceId, PublicKey>,
    verdicts: Verdicts,
    forgeries: Forgeries,
    enrolments: Enrolments,
    signatures: Signatures,
    tree: Tree,
    /// How each datagram of what is sealed shows that it is ours, and what it comes down to.
    proving: Vec<(sealing::Proving, train::Digest)>,
    scratch: BytesMut,
    own_numbers: u64,
    answers: VecDeque<(SocketAddr, Address)>,
    telling: BTreeMap<GroupId, Telling>,
    met: VecDeque<Met>,
    receipts: receipt::Receipts,
}

/// When a group is told our grant next.
#[derive(Clone, Copy, Debug)]
struct Telling {
    due: Timestamp,
    gap_ns: u64,
}

/// Something about an address, for the station there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    Check(SourceId, AddressCheck),
    Echo(SourceId, AddressCheck),
}

/// What a datagram was found to be, before it is acted on.
struct Found {
    key: PublicKey,
    time_ms: u64,
    shown: Shown,
}

/// How it was shown whose word a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Not at all.
    Nothing,
    /// To us alone.
    Mark,
    /// To anybody.
    Signature,
}

impl Guard {
    /// What a sealed datagram is longer than a plain one, for a station with these credentials.
    const fn seal_bytes(credentials: &Credentials) -> usize {
        NONCE_BYTES
            + TAG_BYTES
            + if credentials.grant.is_some() {
                GRANTED_BYTES_MAX
            } else {
                KEYED_BYTES_MAX
            }
    }

    /// The guard of the station that `endpoint` describes, which is told to leave room for seals. `wall_zero_ns` is the wall
    /// clock at the timestamps' zero. `verdicts` may be shared by the stations of a process.
    ///
    /// # Errors
    /// [`GuardError`] when it could not say what it has to.
    pub fn new(
        credentials: Credentials,
        endpoint: &mut Config,
        wall_zero_ns: u64,
        verdicts: Verdicts,
    ) -> Result<Self, GuardError> {
        let (floor, source, session) = (endpoint.floor, endpoint.source, endpoint.session);
        let datagram_bytes = endpoint.datagram_bytes.as_len();
        if datagram_bytes < DATAGRAM_BYTES_MIN {
            return Err(GuardError::Datagrams {
                given: datagram_bytes,
            });
        }
        let own_public = credentials.key.public();
        if let Some(grant) = &credentials.grant {
            let room = datagram_bytes - Self::seal_bytes(&credentials) - HEADER_BYTES - 4;
            let bytes = grant.to_bytes().len();
            if bytes > room {
                return Err(GuardError::Grant { grant: bytes, room });
            }
            if grant.source() != source || grant.terms().key != own_public {
                return Err(GuardError::NotOurs);
            }
        }
        endpoint.seal = Seal::Later {
            bytes: Self::seal_bytes(&credentials),
        };
        Ok(Self {
            floor,
            source,
            session,
            own_public,
            credentials,
            wall_zero_ns,
            own: None,
            peers: BTreeMap::new(),
            grants: BTreeMap::new(),
            first_used: BTreeMap::new(),
            verdicts,
            forgeries: Forgeries::default(),
            enrolments: Enrolments::default(),
            signatures: Signatures::default(),
            tree: Tree::new(),
            proving: Vec::with_capacity(TRAIN_LEN_MAX),
            scratch: BytesMut::new(),
            own_numbers: OWN_NUMBERS,
            answers: VecDeque::new(),
            telling: BTreeMap::new(),
            met: VecDeque::new(),
            receipts: receipt::Receipts::default(),
        })
    }

    /// The wall clock has been set: it shows `wall_ns` now.
    pub const fn set_wall(&mut self, now: Timestamp, wall_ns: u64) {
        self.wall_zero_ns = wall_ns.saturating_sub(now.as_nanos());
    }

    /// The floor has other keys, or more were revoked.
    pub fn renew(&mut self, group_keys: GroupKeys, revoked: Revocations) {
        self.credentials.group_keys = group_keys;
        self.credentials.revoked = revoked;
        self.own = None;
        let revoked = &self.credentials.revoked;
        self.grants
            .retain(|_, grant| !revoked.contains(&grant.terms().key));
        self.peers.retain(|_, peer| !revoked.contains(&peer.key));
        for peer in self.peers.values_mut() {
            peer.keys.clear();
        }
    }

    /// Who has shown a key since this was asked last.
    pub fn poll_met(&mut self) -> Option<Met> {
        self.met.pop_front()
    }

    /// The receipts that came, the last of each station for each stream; [`prove`] tells what each of them proves.
    pub fn receipts(&self) -> impl Iterator<Item = (SourceId, StreamId, &Bytes)> {
        self.receipts.iter()
    }

    /// Receipts that came and are not among them, for want of room.
    pub const fn receipts_left_out(&self) -> u64 {
        self.receipts.left_out()
    }

    /// Opens a datagram; `None` when it was for the guard alone.
    ///
    /// # Errors
    /// [`Discard`] when it is not for this floor, not whole, or not the word of whom it says.
    pub fn open(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<Option<Opened>, Discard> {
        let (header, _) = Header::read(datagram)?;
        if header.floor != self.floor {
            return Err(Discard::Floor);
        }
        let id = KeyId(header.key);
        let wall_s = self.wall_ms(now) / 1_000;
        if self.credentials.group_keys.accepting(id, wall_s).is_none() {
            return Err(Discard::Key);
        }
        if (header.source, header.session) == (self.source, self.session) {
            return Err(Discard::Own);
        }
        let peer = self.peers.get_mut(&header.source);
        let peer = peer.filter(|peer| peer.session == header.session);
        let is_known = |peer: &mut Peer| {
            let (window, number) = peer.window(header.number);
            !window.is_new(number)
        };
        if peer.is_some_and(is_known) {
            return Err(Discard::Replayed);
        }
        let opened = self.decrypt(&header, id, wall_s, datagram)?;
        let (messages, proof) = Proof::split(&opened[HEADER_BYTES..]).ok_or(Discard::Forged)?;
        let plain = HEADER_BYTES + messages.len();
        let decoded = wire::decode(&opened[..plain])?;
        let first = decoded.messages().next();
        if let Some(Message::Grant(signed)) = first {
            self.take_grant(now, from, &header, signed)?;
        }
        let found = match proof {
            Proof::Group => self.check_group(&header)?,
            Proof::Train(proof) => {
                let claim = Claim::new(&proof, &opened[..plain]);
                self.check_train(now, from, &header, &proof, &claim)?
            }
            Proof::Pair { mark, time_ms, key } => {
                let digest = train::digest(&opened[..plain]);
                self.check_mark((now, from), &header, &key, time_ms, &mark, &digest)?
            }
        };
        for message in decoded.messages() {
            self.permit(&header, &message, &found, wall_s)?;
        }
        self.enter(now, from, &header, &found)?;
        self.heed(now, from, found.time_ms, &decoded, &opened)?;
        if header.number >= OWN_NUMBERS {
            return Ok(None);
        }
        let standing = self.standing(now, from, header.source);
        Ok(Some(Opened {
            datagram: opened.slice(..plain),
            standing,
        }))
    }

    /// Acts on what is for the guard: receipts, and where somebody is.
    fn heed(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        time_ms: u64,
        decoded: &wire::Datagram<'_>,
        opened: &Bytes,
    ) -> Result<(), Discard> {
        let mut messages = decoded.messages();
        let (header, first) = (&decoded.header, messages.next());
        match first {
            Some(Message::Report(report))
                if report.is_receipt
                    && (report.source, report.session) == (self.source, self.session)
                    && messages.next().is_none() =>
            {
                let (grants, credentials) = (&self.grants, &self.credentials);
                let is_vouched = |station: &SourceId| is_vouched(grants, credentials, station);
                let made = (time_ms, report.through);
                let whose = (header.source, report.stream);
                self.receipts.keep(whose, made, opened, is_vouched);
            }
            Some(Message::AddressCheck(check)) => self.answer(now, from, header.source, check),
            Some(Message::AddressEcho(check)) => self.heed_echo(from, header.source, check)?,
            _ => {}
        }
        Ok(())
    }

    /// Decrypts a datagram into memory of its own.
    fn decrypt(
        &mut self,
        header: &Header,
        id: KeyId,
        wall_s: u64,
        datagram: &[u8],
    ) -> Result<Bytes, Discard> {
        /// What a datagram takes at least, so that the same memory serves the next one: as the receive buffers are.
        const SLOT_BYTES: usize = 2_048;
        let nonce_end = HEADER_BYTES + NONCE_BYTES;
        let (front, sealed) = datagram
            .split_at_checked(nonce_end)
            .ok_or(Discard::Forged)?;
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&front[HEADER_BYTES..]);
        self.scratch.clear();
        self.scratch.reserve(datagram.len().max(SLOT_BYTES));
        self.scratch.extend_from_slice(&front[..HEADER_BYTES]);
        self.scratch.extend_from_slice(sealed);
        let (head, body) = self.scratch.split_at_mut(HEADER_BYTES);
        let peer = self.peers.get(&header.source);
        let kept = peer
            .filter(|peer| peer.session == header.session)
            .and_then(|peer| peer.keys.iter().find(|(kept, _)| *kept == id));
        let len = match kept {
            Some((_, key)) => key.open(nonce, head, body),
            None => {
                let keys = &self.credentials.group_keys;
                let group = keys.accepting(id, wall_s).ok_or(Discard::Key)?;
                DatagramKey::new(group, self.floor, header.source, header.session)
                    .open(nonce, head, body)
            }
        };
        let len = len.ok_or(Discard::Forged)?;
        self.scratch.truncate(HEADER_BYTES + len);
        Ok(self.scratch.split().freeze())
    }

    /// A grant shows by itself whose word it is (R-GRANT-3).
    fn take_grant(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        header: &Header,
        signed: &[u8],
    ) -> Result<(), Discard> {
        let known = self.grants.get(&header.source);
        if known.is_some_and(|known| known.to_bytes() == signed) {
            return Ok(());
        }
        if !self.forgeries.may_check(now, from, false) {
            return Err(Discard::Throttled);
        }
        let Ok(grant) = Grant::open(signed, &self.credentials.root, self.floor) else {
            self.forgeries.found(now, from, false);
            return Err(Discard::Forged);
        };
        // Of two, the one that was made later: its times are later, if only by a second.
        let age = |grant: &Grant| (grant.terms().not_before, grant.terms().not_after);
        if grant.source() != header.source
            || self.credentials.revoked.contains(&grant.terms().key)
            || known.is_some_and(|known| age(known) >= age(&grant))
        {
            // True, and of no use: as much work as a false one, and anybody can have it.
            self.forgeries.found(now, from, false);
            return Err(Discard::Ungranted);
        }
        if self.grants.len() >= GRANTS_MAX && known.is_none() {
            let wall_s = self.wall_ms(now) / 1_000;
            self.grants
                .retain(|_, kept| kept.terms().not_after > wall_s);
            if self.grants.len() >= GRANTS_MAX {
                return Err(Discard::Sources);
            }
        }
        self.grants.insert(header.source, grant);
        Ok(())
    }

    /// Whoever holds the floor's key can have written it: it is taken for a life that has shown itself otherwise, and says only
    /// what the floor lets be said so (R-PROOF-2).
    fn check_group(&self, header: &Header) -> Result<Found, Discard> {
        let peer = self.peers.get(&header.source);
        let peer = peer.filter(|peer| peer.session == header.session);
        let peer = peer.ok_or(Discard::Stranger)?;
        if !peer.seen_unsigned.is_new(header.number) {
            return Err(Discard::Replayed);
        }
        Ok(Found {
            key: peer.key,
            time_ms: peer.newest_ms,
            shown: Shown::Nothing,
        })
    }

    /// Whose signature the train bears, if it holds (R-TRAIN-3).
    fn check_train(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        header: &Header,
        proof: &TrainProof<'_>,
        claim: &Claim<'_>,
    ) -> Result<Found, Discard> {
        let key = self.key_of(now, header.source, proof.key.as_ref())?;
        self.check_time(now, header, &key, proof.time_ms)?;
        let found = Found {
            key,
            time_ms: proof.time_ms,
            shown: Shown::Signature,
        };
        let peer = self.peers.get_mut(&header.source);
        let mut peer = peer.filter(|peer| peer.session == header.session && peer.key == key);
        if let Some(peer) = &mut peer
            && let Some(train) = peer
                .trains
                .iter_mut()
                .find(|train| train.is(claim, &proof.signature, &key))
        {
            return if train.holds(claim) {
                Ok(found)
            } else {
                Err(Discard::Forged)
            };
        }
        let is_at_home = peer.is_some_and(|peer| peer.from == from);
        let is_granted = self.grants.contains_key(&header.source);
        let may_sign = match self.peers.get(&header.source) {
            Some(peer) => is_granted || may_sign(peer.signatures, now),
            None => self.is_expected(header.source, &key) || self.enrolments.may_meet(now),
        };
        if !may_sign || !self.forgeries.may_check(now, from, is_at_home) {
            return Err(Discard::Throttled);
        }
        let root = claim.root();
        let statement = train::statement(self.floor, header, claim.time_ms, claim.depth, &root);
        if !self.verdicts.train(&key, &statement, &proof.signature) {
            self.forgeries.found(now, from, is_at_home);
            return Err(Discard::Forged);
        }
        if let Some(peer) = self.peers.get_mut(&header.source) {
            signed(&mut peer.signatures, now);
        }
        self.remember(now, from, header, &found)?;
        self.keep_train(header.source, claim, root, proof.signature, key);
        Ok(found)
    }

    fn keep_train(
        &mut self,
        source: SourceId,
        claim: &Claim<'_>,
        root: [u8; NODE_BYTES],
        signature: [u8; SIGNATURE_BYTES],
        key: PublicKey,
    ) {
        // A train of one datagram is over with it.
        let Some(peer) = self.peers.get_mut(&source).filter(|_| claim.depth > 0) else {
            return;
        };
        if peer.trains.len() < TRAINS_MAX {
            peer.trains.push(Checked::new(claim, root, signature, key));
        } else {
            peer.trains[peer.oldest_train].replace(claim, root, signature, key);
            peer.oldest_train = (peer.oldest_train + 1) % TRAINS_MAX;
        }
        let last = peer
            .trains
            .iter_mut()
            .find(|train| train.is(claim, &signature, &key));
        if let Some(train) = last {
            train.holds(claim);
        }
    }

    /// Whether the mark is that of the station whose key it names (R-PAIR-2).
    fn check_mark(
        &mut self,
        (now, from): (Timestamp, SocketAddr),
        header: &Header,
        key: &[u8; KEY_BYTES],
        time_ms: u64,
        mark: &[u8; TAG_BYTES],
        digest: &[u8; 32],
    ) -> Result<Found, Discard> {
        let key = self.key_of(now, header.source, Some(key))?;
        self.check_time(now, header, &key, time_ms)?;
        let found = Found {
            key,
            time_ms,
            shown: Shown::Mark,
        };
        let is_expected = self.is_expected(header.source, &key);
        let known = self.peers.get_mut(&header.source);
        let known = known.filter(|peer| peer.key == key);
        let is_same = |pair: &PairKey| pair.mark(digest, time_ms) == *mark;
        if let Some(peer) = known {
            let ours = &self.credentials.key;
            let pair = peer
                .pair
                .get_or_insert_with(|| PairKey::new(ours, &key, self.floor));
            return if is_same(pair) {
                Ok(found)
            } else {
                Err(Discard::Forged)
            };
        }
        // Somebody new: as much work as a signature, and as little for whoever brings false ones.
        let may_meet = is_expected || self.enrolments.may_meet(now);
        if !may_meet || !self.forgeries.may_check(now, from, false) {
            return Err(Discard::Throttled);
        }
        let pair = PairKey::new(&self.credentials.key, &key, self.floor);
        if is_same(&pair) {
            // It is met before what it says is looked at, or what may not be said would cost an agreement each time.
            self.remember(now, from, header, &found)?;
            Ok(found)
        } else {
            self.forgeries.found(now, from, false);
            Err(Discard::Forged)
        }
    }

    /// The key that a station's word is to be checked with: its grant's, or the one that it shows, if that is its own
    /// (R-ENROL-1).
    fn key_of(
        &mut self,
        now: Timestamp,
        station: SourceId,
        shown: Option<&[u8; KEY_BYTES]>,
    ) -> Result<PublicKey, Discard> {
        let granted = self.grants.get(&station).map(|grant| grant.terms().key);
        let key = match (granted, shown) {
            (Some(granted), None) => granted,
            (Some(granted), Some(shown)) if granted.to_bytes() == *shown => granted,
            (None, None) => return Err(Discard::Stranger),
            (granted, Some(shown)) => {
                // Taking a key apart is work; the one that is known is compared by its bytes.
                let known = self.peers.get(&station).map(|peer| peer.key);
                match known.filter(|known| granted.is_none() && known.to_bytes() == *shown) {
                    Some(known) => known,
                    None => self.new_key(now, station, shown, granted)?,
                }
            }
        };
        if self.credentials.revoked.contains(&key) {
            return Err(Discard::Ungranted);
        }
        Ok(key)
    }

    /// The key that a station shows for the first time: work, of which there is a bound for those that are refused.
    fn new_key(
        &mut self,
        now: Timestamp,
        station: SourceId,
        shown: &[u8; KEY_BYTES],
        granted: Option<PublicKey>,
    ) -> Result<PublicKey, Discard> {
        if !self.enrolments.may_look(now) {
            return Err(Discard::Throttled);
        }
        let shown = PublicKey::from_bytes(shown).ok_or(Discard::Forged);
        let key = shown.and_then(|shown| {
            if self.credentials.revoked.contains(&shown) {
                return Err(Discard::Ungranted);
            }
            self.admit(now, station, shown, granted)
        });
        if key.is_err() {
            self.enrolments.refused(now);
        }
        key
    }

    /// Whether a station may speak under a key that it has not spoken under in this life.
    fn admit(
        &mut self,
        now: Timestamp,
        station: SourceId,
        shown: PublicKey,
        granted: Option<PublicKey>,
    ) -> Result<PublicKey, Discard> {
        let enrolment = &self.credentials.enrolment;
        let known = if station == self.source {
            Some(self.own_public)
        } else {
            let listed = enrolment.known.get(&station);
            granted.or(listed.or_else(|| self.first_used.get(&station)).copied())
        };
        let is_taken = match known {
            Some(known) => known == shown,
            None => enrolment.others == Others::FirstUse,
        };
        if is_taken {
            return Ok(shown);
        }
        if self.enrolments.may_tell(now) && self.met.len() < ENROLLED_MAX {
            self.met.push_back(Met {
                station,
                key: shown,
                is_taken: false,
            });
        }
        Err(Discard::Stranger)
    }

    /// A word is taken while it is new, and a life only if it is newer than the one before (R-TRAIN-4).
    fn check_time(
        &self,
        now: Timestamp,
        header: &Header,
        key: &PublicKey,
        time_ms: u64,
    ) -> Result<(), Discard> {
        if self.wall_ms(now).abs_diff(time_ms) > CLOCKS_APART_MS {
            return Err(Discard::Untimely);
        }
        match self.peers.get(&header.source) {
            Some(peer)
                if peer.key == *key
                    && peer.session != header.session
                    && time_ms <= peer.newest_ms =>
            {
                Err(Discard::Stale)
            }
            _ => Ok(()),
        }
    }

    /// Whether a message may be said so, and by its sender (R-PROOF-1).
    fn permit(
        &self,
        header: &Header,
        message: &Message<'_>,
        found: &Found,
        wall_s: u64,
    ) -> Result<(), Discard> {
        let is_signed = found.shown == Shown::Signature;
        let grant = self.grants.get(&header.source);
        let grant = grant.filter(|grant| grant.terms().key == found.key);
        let granted_key = grant.ok_or(Discard::Ungranted);
        let granted = |stream: Option<StreamId>| {
            let may_be_unsigned =
                stream.is_some_and(|stream| self.credentials.unsigned.contains(&stream.lane()));
            if !(is_signed || may_be_unsigned && found.shown == Shown::Nothing) {
                return Err(Discard::Forged);
            }
            let grant = granted_key?;
            match stream {
                Some(stream) => grant.permits(wall_s, stream),
                None => grant.holds(wall_s),
            }
            .map_err(|_| Discard::Ungranted)
        };
        let only_if = |holds| if holds { Ok(()) } else { Err(Discard::Forged) };
        let is_own = header.number >= OWN_NUMBERS;
        match message {
            Message::AddressCheck(_) | Message::AddressEcho(_)
                if !is_own || found.shown != Shown::Mark =>
            {
                Err(Discard::Forged)
            }
            // Whoever publishes asks: what others ask for would go wherever they say they are.
            Message::AddressCheck(_) => granted_key.map(drop),
            Message::AddressEcho(_) => Ok(()),
            Message::Grant(_) => only_if(is_own && is_signed),
            _ if is_own => Err(Discard::Forged),
            Message::Data(data) => granted(Some(data.stream)),
            Message::Heartbeat(heartbeat) => granted(Some(heartbeat.stream)),
            Message::Squelch(squelch) => granted(Some(squelch.stream)),
            Message::Skip(skip) => granted(Some(skip.stream)),
            Message::Parity(parity) => granted(Some(parity.stream)),
            Message::Ask(ask) => granted(Some(ask.stream)),
            Message::Pace(pace) => granted(Some(pace.stream)),
            Message::Scouts(_) => granted(None),
            Message::Nack(_) | Message::Need(_) => only_if(found.shown != Shown::Nothing),
            Message::Presence(presence) => {
                let is_its_name = SourceId::of(self.floor, presence.name) == header.source;
                only_if(is_signed && is_its_name)
            }
            Message::Report(report) if !report.is_receipt => only_if(found.shown != Shown::Nothing),
            Message::Report(_) | Message::RollCall(_) | Message::Roster(_) => only_if(is_signed),
            Message::Unknown(_) => only_if(is_signed),
        }
    }

    /// Whether the root has granted something to a station under that key, or the floor knows it: those who are invented do
    /// not stand in its way.
    fn is_expected(&self, station: SourceId, key: &PublicKey) -> bool {
        let granted = self.grants.get(&station).map(|grant| grant.terms().key);
        let known = granted.or_else(|| self.credentials.enrolment.known.get(&station).copied());
        known == Some(*key)
    }

    /// A station has shown who it is: it is kept, in its present life.
    fn remember(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        header: &Header,
        found: &Found,
    ) -> Result<(), Discard> {
        if !self.peers.contains_key(&header.source) {
            self.make_room(now, header.source, found.key)?;
        }
        let new = || Peer::new(header.session, found.key, now, from);
        let peer = self.peers.entry(header.source).or_insert_with(new);
        if peer.key != found.key || peer.session != header.session {
            if !self.grants.contains_key(&header.source) && !begins(&mut peer.lives, now) {
                return Err(Discard::Throttled);
            }
            peer.begin_anew(new());
        }
        Ok(())
    }

    /// Makes room for a station that is new. Whom the root or the floor's list vouches for is always met: a member of the floor
    /// that invents names fills the place of other strangers only.
    fn make_room(
        &mut self,
        now: Timestamp,
        station: SourceId,
        key: PublicKey,
    ) -> Result<(), Discard> {
        let (grants, credentials) = (&self.grants, &self.credentials);
        let is_vouched = |station: &SourceId| is_vouched(grants, credentials, station);
        let is_welcome = is_vouched(&station);
        if !is_welcome && !self.enrolments.meet(now) {
            return Err(Discard::Throttled);
        }
        let is_first_used = is_welcome || self.first_used.contains_key(&station);
        if !is_first_used && self.first_used.len() >= ENROLLED_MAX {
            return Err(Discard::Sources);
        }
        if self.peers.len() >= PEERS_MAX {
            let long_ago = 2 * CLOCKS_APART_MS * 1_000_000;
            let strangers = self.peers.iter().filter(|(id, _)| !is_vouched(id));
            let longest_silent = strangers.min_by_key(|(_, peer)| peer.heard);
            let leaves = longest_silent
                .filter(|(_, peer)| is_welcome || now.nanos_since(peer.heard) >= long_ago);
            let leaves = leaves.map(|(&id, _)| id).ok_or(Discard::Sources)?;
            self.peers.remove(&leaves);
        }
        if !is_first_used {
            self.first_used.insert(station, key);
            self.met.push_back(Met {
                station,
                key,
                is_taken: true,
            });
        }
        Ok(())
    }

    /// Books a datagram that is about to be acted on.
    fn enter(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        header: &Header,
        found: &Found,
    ) -> Result<(), Discard> {
        /// The floor's key of now and the one that follows it.
        const KEYS_KEPT: usize = 2;
        self.remember(now, from, header, found)?;
        let Some(peer) = self.peers.get_mut(&header.source) else {
            return Err(Discard::Sources);
        };
        if found.shown == Shown::Nothing {
            peer.seen_unsigned.mark(header.number);
        } else {
            let (window, number) = peer.window(header.number);
            window.mark(number);
            peer.was_at(now, from);
        }
        peer.newest_ms = peer.newest_ms.max(found.time_ms);
        peer.heard = now;
        let id = KeyId(header.key);
        if !peer.keys.iter().any(|(kept, _)| *kept == id)
            && let Some(group) = self
                .credentials
                .group_keys
                .iter()
                .find(|key| key.id() == id)
        {
            if peer.keys.len() >= KEYS_KEPT {
                peer.keys.remove(0);
            }
            let key = DatagramKey::new(group, self.floor, header.source, header.session);
            peer.keys.push((id, key));
        }
        Ok(())
    }

    /// Where the sender of what was opened is to be answered: a source where it sends from, whoever passes its words on
    /// (R-ADDR-4).
    pub fn home_of(&self, opened: &Opened, from: SocketAddr) -> SocketAddr {
        let header = Header::read(&opened.datagram);
        header.map_or(from, |(header, _)| self.home(header.source, from))
    }

    fn home(&self, station: SourceId, from: SocketAddr) -> SocketAddr {
        let peer = self.peers.get(&station);
        let source = peer.filter(|_| self.grants.contains_key(&station));
        source.map_or(from, |peer| peer.from)
    }

    /// What its sender may do, and a question where it is, if it has not shown that yet.
    fn standing(&mut self, now: Timestamp, from: SocketAddr, station: SourceId) -> Standing {
        let statuses = self.grants.get(&station).map_or(0, |grant| {
            let statuses = grant.terms().statuses.iter();
            statuses.fold(0, |bits, &status| bits | 1 << status as u8)
        });
        let home = self.home(station, from);
        let Some(peer) = self.peers.get_mut(&station) else {
            return Standing::default();
        };
        let is_proved = peer.proved == Some(home);
        // Only who publishes can be made to send much.
        let asks = peer.proved != Some(from) && self.credentials.grant.is_some();
        if asks && now >= peer.ask_after && self.answers.len() < ANSWERS_MAX {
            peer.ask_after = now.plus_nanos(ASK_EVERY_NS);
            let session = peer.session;
            let token = self.token(station, session, from);
            let check = AddressCheck {
                station,
                session,
                token,
            };
            self.answers
                .push_back((from, Address::Check(station, check)));
        }
        Standing {
            is_proved,
            statuses,
        }
    }

    /// Answers a source that asks where we are, at its own address: as many bytes as were asked with, and no more often than it
    /// has to ask (R-ADDR-1).
    fn answer(&mut self, now: Timestamp, from: SocketAddr, asker: SourceId, check: AddressCheck) {
        let home = self.home(asker, from);
        let Some(peer) = self.peers.get_mut(&asker) else {
            return;
        };
        if (check.station, check.session) == (self.source, self.session)
            && now >= peer.answer_after
            && self.answers.len() < ANSWERS_MAX
        {
            peer.answer_after = now.plus_nanos(ASK_EVERY_NS / 2);
            self.answers.push_back((home, Address::Echo(asker, check)));
        }
    }

    /// Somebody has read at an address what was sent there (R-ADDR-2).
    fn heed_echo(
        &mut self,
        from: SocketAddr,
        station: SourceId,
        check: AddressCheck,
    ) -> Result<(), Discard> {
        let token = self.token(station, check.session, from);
        let peer = self.peers.get_mut(&station).ok_or(Discard::Stranger)?;
        if check.station != station || check.session != peer.session || check.token != token {
            return Err(Discard::Forged);
        }
        peer.proved = Some(from);
        Ok(())
    }

    /// What only we can write for a station at an address.
    fn token(&self, station: SourceId, session: SessionId, at: SocketAddr) -> u64 {
        let mut words = Vec::with_capacity(64);
        words.extend_from_slice(&self.session.0.to_be_bytes());
        words.extend_from_slice(&station.0.to_be_bytes());
        words.extend_from_slice(&session.0.to_be_bytes());
        match at {
            SocketAddr::V4(v4) => words.extend_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => words.extend_from_slice(&v6.ip().octets()),
        }
        words.extend_from_slice(&at.port().to_be_bytes());
        self.credentials.key.token(&words)
    }

    fn wall_ms(&self, now: Timestamp) -> u64 {
        self.wall_zero_ns.saturating_add(now.as_nanos()) / 1_000_000
    }
}

/// Whether the root or the floor's list vouches for a station: those who are invented do not stand in its way.
fn is_vouched(
    grants: &BTreeMap<SourceId, Grant>,
    credentials: &Credentials,
    station: &SourceId,
) -> bool {
    grants.contains_key(station) || credentials.enrolment.known.contains_key(station)
}

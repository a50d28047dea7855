//! Writes datagrams. If it can be constructed it can be emitted; what does not fit is left for the next datagram.

use super::message::{
    self, BLOCK_LEN, BlockNeed, FLAG_BEHIND, FLAG_CLOSED, FLAG_CODED, FLAG_LAST, FLAG_LEAVING,
    FLAG_RECEIPT, FLAG_SUPERSEDED, NackBlock, Need, SEGMENT_HEADER_BYTES, Skip, kind,
};
use super::{
    AddressCheck, Advert, Echo, FloorId, GroupId, HEADER_BYTES, Header, Heartbeat,
    MESSAGE_HEADER_BYTES, OPEN_TRAILER_BYTES, Pace, Parity, RollCall, RosterEntry, Segment,
    Sending, SeqNo, SeqRange, SessionId, SkipReason, SourceId, Squelch, StreamId, VERSION,
    checksum,
};

const DATA_FIXED_BYTES: usize = 20;

/// What a datagram with a single segment carries beside that segment's bytes (and the 4 bytes of a message's length).
pub const SINGLE_DATA_OVERHEAD_BYTES: usize = HEADER_BYTES
    + MESSAGE_HEADER_BYTES
    + DATA_FIXED_BYTES
    + SEGMENT_HEADER_BYTES
    + OPEN_TRAILER_BYTES;

/// Which stream of which life of which source a NACK or a report speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Whose data.
    pub source: SourceId,
    /// In which of its lives.
    pub session: SessionId,
    /// Which stream.
    pub stream: StreamId,
    /// The last heartbeat's clock, and how long ago it came.
    pub echo: Option<Echo>,
}

/// Appends one datagram to a buffer, message by message, within a limit.
///
/// Every method that adds a message says whether it fitted; the buffer then holds nothing of one that did not.
#[derive(Debug)]
pub struct DatagramWriter<'a> {
    buf: &'a mut Vec<u8>,
    start: usize,
    limit: usize,
    /// Whose checksum stands behind the messages, if one does.
    checked: Option<FloorId>,
    open: Option<OpenData>,
}

/// The data message at the end of the buffer, to which the next consecutive segment is appended (R-PACK-2).
#[derive(Clone, Copy, Debug)]
struct OpenData {
    stream: StreamId,
    next: SeqNo,
    sending: Sending,
    len_at: usize,
}

impl<'a> DatagramWriter<'a> {
    /// Opens a datagram of the open laboratory, of at most `limit` bytes, at the end of `buf`.
    pub fn new(buf: &'a mut Vec<u8>, limit: usize, header: &Header) -> Self {
        Self {
            checked: Some(header.floor),
            ..Self::plain(buf, limit - OPEN_TRAILER_BYTES, header)
        }
    }

    /// Opens a datagram that is sealed later, of at most `limit` bytes before that, at the end of `buf`: it has no trailer.
    pub fn plain(buf: &'a mut Vec<u8>, limit: usize, header: &Header) -> Self {
        let start = buf.len();
        buf.push(VERSION);
        buf.push(0);
        buf.extend_from_slice(&header.key.to_be_bytes());
        buf.extend_from_slice(&header.floor.0.to_be_bytes());
        buf.extend_from_slice(&header.source.0.to_be_bytes());
        buf.extend_from_slice(&header.session.0.to_be_bytes());
        buf.extend_from_slice(&header.number.to_be_bytes());
        Self {
            buf,
            start,
            limit,
            checked: None,
            open: None,
        }
    }

    /// Whether it holds no message yet.
    pub fn is_empty(&self) -> bool {
        self.buf.len() == self.start + HEADER_BYTES
    }

    /// Bytes written so far, header included.
    pub fn bytes(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Closes it with its trailer; the number of bytes it takes. One without a message is taken back and takes none.
    pub fn finish(self) -> usize {
        if self.is_empty() {
            self.buf.truncate(self.start);
        } else if let Some(floor) = self.checked {
            let checksum = checksum(floor, &self.buf[self.start..]);
            self.buf.extend_from_slice(&checksum);
            self.buf.extend_from_slice(&8u16.to_be_bytes());
        }
        self.bytes()
    }

    /// Adds one segment, to the open data message when it continues it, else as a new one.
    pub fn segment(
        &mut self,
        stream: StreamId,
        seq: SeqNo,
        advert: &Advert,
        sending: Sending,
        segment: &Segment<'_>,
    ) -> bool {
        let continues = self
            .open
            .filter(|open| (open.stream, open.next, open.sending) == (stream, seq, sending));
        let fixed = if continues.is_some() {
            0
        } else {
            MESSAGE_HEADER_BYTES + DATA_FIXED_BYTES
        };
        if !self.fits(fixed + segment.wire_bytes()) {
            return false;
        }
        let open = continues.unwrap_or_else(|| {
            let coded = if advert.is_coded { FLAG_CODED } else { 0 };
            let len_at = self.begin(kind::DATA, sending.flags() | coded);
            self.u32(stream.to_wire());
            self.u32(distance(seq, advert.trail));
            self.u64(seq.0);
            self.buf
                .extend_from_slice(&[advert.backoff.0, advert.age.0, 0, 0]);
            OpenData {
                stream,
                next: seq,
                sending,
                len_at,
            }
        });
        segment.write_to(self.buf);
        self.end(open.len_at);
        self.open = Some(OpenData {
            next: seq.plus(1),
            ..open
        });
        true
    }

    /// Adds a heartbeat.
    pub fn heartbeat(&mut self, heartbeat: &Heartbeat) -> bool {
        self.fixed(
            28,
            kind::HEARTBEAT,
            if heartbeat.is_closed { FLAG_CLOSED } else { 0 }
                | if heartbeat.is_coded { FLAG_CODED } else { 0 },
            |this| {
                this.u32(heartbeat.stream.to_wire());
                this.u32(heartbeat.clock_us);
                this.u64(heartbeat.next.0);
                this.u64(heartbeat.trail.0);
                let bytes = [
                    heartbeat.backoff.0,
                    heartbeat.grtt.0,
                    heartbeat.group_size.0,
                    heartbeat.age.0,
                ];
                this.buf.extend_from_slice(&bytes);
            },
        )
    }

    /// Adds a squelch.
    pub fn squelch(&mut self, squelch: &Squelch) -> bool {
        self.fixed(12, kind::SQUELCH, 0, |this| {
            this.u32(squelch.stream.to_wire());
            this.u64(squelch.trail.0);
        })
    }

    /// Adds a parity shard.
    pub fn parity(&mut self, parity: &Parity<'_>) -> bool {
        let body = DATA_FIXED_BYTES + parity.shard.len();
        self.fixed(body, kind::PARITY, 0, |this| {
            let block = parity.block;
            this.u32(parity.stream.to_wire());
            this.u32(distance(block.first, parity.advert.trail));
            this.u64(block.first.0);
            let bytes = [
                block.len,
                parity.index,
                parity.advert.backoff.0,
                parity.advert.age.0,
            ];
            this.buf.extend_from_slice(&bytes);
            this.buf.extend_from_slice(parity.shard);
        })
    }

    /// Adds a request for parity of `blocks`, which ascend; returns how many of them it names.
    pub fn need(&mut self, about: &About, blocks: impl IntoIterator<Item = BlockNeed>) -> usize {
        let mut blocks = blocks.into_iter().peekable();
        let Some(base) = blocks.peek().map(|need| need.block.first) else {
            return 0;
        };
        if !self.fits(MESSAGE_HEADER_BYTES + 36 + Need::ENTRY_BYTES) {
            return 0;
        }
        let len_at = self.begin(kind::NEED, 0);
        self.about(about);
        self.u64(base.0);
        let mut named = 0;
        for need in blocks {
            let Ok(offset) = u32::try_from(need.block.first.since(base) / BLOCK_LEN) else {
                break;
            };
            if !self.fits(Need::ENTRY_BYTES) {
                break;
            }
            self.u32(offset);
            let bytes = [need.block.len, need.shards, need.next_index, 0];
            self.buf.extend_from_slice(&bytes);
            named += 1;
        }
        self.end(len_at);
        named
    }

    /// Adds a skip of `runs`, which ascend and lie apart; returns how many of them it names, all of each.
    pub fn skip(
        &mut self,
        stream: StreamId,
        why: SkipReason,
        runs: impl IntoIterator<Item = SeqRange>,
    ) -> usize {
        let mut runs = runs.into_iter().peekable();
        if runs.peek().is_none() || !self.fits(MESSAGE_HEADER_BYTES + 4 + Skip::RUN_BYTES) {
            return 0;
        }
        let flags = match why {
            SkipReason::Expired => 0,
            SkipReason::Superseded => FLAG_SUPERSEDED,
        };
        let len_at = self.begin(kind::SKIP, flags);
        self.u32(stream.to_wire());
        let mut named = 0;
        for run in runs {
            if !self.fits(Skip::RUN_BYTES) {
                break;
            }
            self.lost_range(run);
            named += 1;
        }
        self.end(len_at);
        named
    }

    /// Adds what a receiver is told about the pace.
    pub fn pace(&mut self, pace: &Pace) -> bool {
        let flags = if pace.is_behind { FLAG_BEHIND } else { 0 };
        self.fixed(12, kind::PACE, flags, |this| {
            this.u32(pace.stream.to_wire());
            this.u64(pace.station.0);
        })
    }

    /// Adds the names of the scouts.
    pub fn scouts(&mut self, scouts: &[SourceId]) -> bool {
        self.fixed(8 * scouts.len(), kind::SCOUTS, 0, |this| {
            for scout in scouts {
                this.u64(scout.0);
            }
        })
    }

    /// Adds a question whether a station is at the address that the datagram goes to.
    pub fn address_check(&mut self, check: &AddressCheck) -> bool {
        self.address(kind::ADDRESS_CHECK, check)
    }

    /// Adds the answer to it.
    pub fn address_echo(&mut self, check: &AddressCheck) -> bool {
        self.address(kind::ADDRESS_ECHO, check)
    }

    fn address(&mut self, kind: u8, check: &AddressCheck) -> bool {
        self.fixed(24, kind, 0, |this| {
            this.u64(check.station.0);
            this.u64(check.session.0);
            this.u64(check.token);
        })
    }

    /// Adds a grant, as the floor's root has signed it.
    pub fn grant(&mut self, signed: &[u8]) -> bool {
        self.fixed(signed.len(), kind::GRANT, 0, |this| {
            this.buf.extend_from_slice(signed);
        })
    }

    /// Adds a roll call.
    pub fn roll_call(&mut self, roll_call: &RollCall) -> bool {
        self.fixed(8, kind::ROLL_CALL, 0, |this| {
            this.u32(roll_call.group.0);
            this.u32(roll_call.token);
        })
    }

    /// Adds a NACK of `gaps`, which ascend and lie apart; returns how many of them it names, the last one
    /// perhaps in part. None: no room at all.
    pub fn nack(&mut self, about: &About, gaps: impl IntoIterator<Item = SeqRange>) -> usize {
        let mut gaps = gaps.into_iter().peekable();
        let Some(base) = gaps.peek().map(|gap| gap.first()) else {
            return 0;
        };
        if !self.fits(MESSAGE_HEADER_BYTES + 36 + NackBlock::BYTES) {
            return 0;
        }
        let len_at = self.begin(kind::NACK, 0);
        self.about(about);
        self.u64(base.0);
        let mut packer = BlockPacker { base, open: None };
        let mut named = 0;
        for gap in gaps {
            // One block more than is open must always fit, since the open one is written last.
            let whole = packer.push(gap, |block| {
                let fits = self.fits(2 * NackBlock::BYTES);
                if fits {
                    self.block(block);
                }
                fits
            });
            named += usize::from(whole.is_some());
            if whole != Some(true) {
                break;
            }
        }
        if let Some(block) = packer.open {
            self.block(block);
        }
        self.end(len_at);
        named
    }

    /// Adds a report; what of `lost` does not fit is merged into its last range, so that a report never claims a
    /// number that was lost (R-REP-3).
    pub fn report(
        &mut self,
        about: &About,
        joined: SeqNo,
        through: SeqNo,
        missed: u32,
        lost: impl IntoIterator<Item = SeqRange>,
    ) -> bool {
        self.report_with(0, about, (joined, through, missed), lost)
    }

    /// Adds a report that is to prove what it says to others, too.
    pub fn receipt(
        &mut self,
        about: &About,
        joined: SeqNo,
        through: SeqNo,
        missed: u32,
        lost: impl IntoIterator<Item = SeqRange>,
    ) -> bool {
        self.report_with(FLAG_RECEIPT, about, (joined, through, missed), lost)
    }

    fn report_with(
        &mut self,
        flags: u8,
        about: &About,
        (joined, through, missed): (SeqNo, SeqNo, u32),
        lost: impl IntoIterator<Item = SeqRange>,
    ) -> bool {
        if !self.fits(MESSAGE_HEADER_BYTES + 48 + message::Report::RANGE_BYTES) {
            return false;
        }
        let len_at = self.begin(kind::REPORT, flags);
        self.about(about);
        self.u64(joined.0);
        self.u64(through.0);
        self.u32(missed);
        let mut open: Option<SeqRange> = None;
        for range in lost {
            let fits = self.fits(2 * message::Report::RANGE_BYTES);
            open = match open {
                Some(last) if fits => {
                    self.lost_range(last);
                    Some(range)
                }
                Some(last) => SeqRange::new(last.first(), range.end()),
                None => Some(range),
            };
        }
        if let Some(last) = open {
            self.lost_range(last);
        }
        self.end(len_at);
        true
    }

    /// Adds a request for reports to `stations` (to every one, when there are none); returns how many it names, or
    /// `None` when there is no room.
    pub fn ask(
        &mut self,
        stream: StreamId,
        stations: impl IntoIterator<Item = SourceId>,
    ) -> Option<usize> {
        self.ask_with(0, stream, stations)
    }

    /// Adds a request to every station for a report that proves what it says to others, too.
    pub fn ask_receipts(&mut self, stream: StreamId) -> bool {
        self.ask_with(FLAG_RECEIPT, stream, []).is_some()
    }

    fn ask_with(
        &mut self,
        flags: u8,
        stream: StreamId,
        stations: impl IntoIterator<Item = SourceId>,
    ) -> Option<usize> {
        if !self.fits(MESSAGE_HEADER_BYTES + 12) {
            return None;
        }
        let len_at = self.begin(kind::ASK, flags);
        self.u32(stream.to_wire());
        let mut named = 0;
        for station in stations {
            if !self.fits(8) {
                break;
            }
            self.u64(station.0);
            named += 1;
        }
        self.end(len_at);
        Some(named)
    }

    /// Adds a presence.
    ///
    /// # Panics
    /// When `name` is not a station name: names are checked where they enter.
    pub fn presence(&mut self, name: &str, is_leaving: bool, groups: &[GroupId]) -> bool {
        let body = 1 + name.len() + 4 * groups.len();
        self.fixed(
            body,
            kind::PRESENCE,
            if is_leaving { FLAG_LEAVING } else { 0 },
            |this| {
                this.name(name);
                for group in groups {
                    this.u32(group.0);
                }
            },
        )
    }

    /// Adds an answer to a roll call; returns how many `entries` it holds, or `None` when there is no room. `is_last`
    /// holds only if all of them fitted.
    pub fn roster<'e>(
        &mut self,
        token: u32,
        group: GroupId,
        entries: impl IntoIterator<Item = RosterEntry<'e>>,
    ) -> Option<usize> {
        if !self.fits(MESSAGE_HEADER_BYTES + 8) {
            return None;
        }
        let len_at = self.begin(kind::ROSTER, FLAG_LAST);
        self.u32(token);
        self.u32(group.0);
        let mut written = 0;
        for entry in entries {
            if !self.fits(11 + entry.name.len()) {
                self.buf[len_at - 1] &= !FLAG_LAST;
                break;
            }
            self.u64(entry.station.0);
            self.u16(entry.silent_s);
            self.name(entry.name);
            written += 1;
        }
        self.end(len_at);
        Some(written)
    }

    fn about(&mut self, about: &About) {
        self.u64(about.source.0);
        self.u64(about.session.0);
        self.u32(about.stream.to_wire());
        self.u32(about.echo.map_or(0, |echo| echo.clock_us));
        self.u32(
            about
                .echo
                .map_or(Echo::NONE, |echo| echo.held_us.min(Echo::NONE - 1)),
        );
    }

    fn block(&mut self, block: NackBlock) {
        self.u32(block.offset);
        self.u16(block.run);
        self.u16(block.mask);
    }

    fn lost_range(&mut self, range: SeqRange) {
        self.u64(range.first().0);
        self.u32(u32::try_from(range.len()).unwrap_or(u32::MAX));
    }

    fn name(&mut self, name: &str) {
        self.buf
            .push(u8::try_from(name.len()).expect("station names are at most 64 bytes"));
        self.buf.extend_from_slice(name.as_bytes());
    }

    fn fits(&self, bytes: usize) -> bool {
        self.bytes() + bytes <= self.limit
    }

    fn fixed(&mut self, body: usize, kind: u8, flags: u8, write: impl FnOnce(&mut Self)) -> bool {
        let fits = self.fits(MESSAGE_HEADER_BYTES + body);
        if fits {
            let len_at = self.begin(kind, flags);
            write(self);
            self.end(len_at);
        }
        fits
    }

    /// Opens a message; the place of its length.
    fn begin(&mut self, kind: u8, flags: u8) -> usize {
        self.open = None;
        self.buf.extend_from_slice(&[kind, flags, 0, 0]);
        self.buf.len() - 2
    }

    /// Fills the length in at `len_at`.
    fn end(&mut self, len_at: usize) {
        let len = u16::try_from(self.buf.len() - len_at - 2).expect("a message fits in a datagram");
        self.buf[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
    }

    fn u16(&mut self, x: u16) {
        self.buf.extend_from_slice(&x.to_be_bytes());
    }

    fn u32(&mut self, x: u32) {
        self.buf.extend_from_slice(&x.to_be_bytes());
    }

    fn u64(&mut self, x: u64) {
        self.buf.extend_from_slice(&x.to_be_bytes());
    }
}

/// How far `seq` lies behind `trail`, as far as 32 bits tell.
fn distance(seq: SeqNo, trail: SeqNo) -> u32 {
    u32::try_from(seq.since(trail)).unwrap_or(u32::MAX)
}

/// Packs ascending gaps into NACK blocks: as bits of the open block where they fit there, else as a block of their own.
struct BlockPacker {
    base: SeqNo,
    open: Option<NackBlock>,
}

impl BlockPacker {
    /// Takes one gap in; `write` is given each block that is full and says whether there was room. Returns whether the
    /// gap is named whole, or in part, or (`None`) not at all.
    fn push(&mut self, gap: SeqRange, mut write: impl FnMut(NackBlock) -> bool) -> Option<bool> {
        if self.set_bits(gap) {
            return Some(true);
        }
        let mut rest = Some(gap);
        let mut named = None;
        while let Some(range) = rest {
            let Ok(offset) = u32::try_from(range.first().since(self.base)) else {
                return named;
            };
            if let Some(full) = self.open
                && !write(full)
            {
                return named;
            }
            let run = u16::try_from(range.len()).unwrap_or(u16::MAX);
            self.open = Some(NackBlock {
                offset,
                run,
                mask: 0,
            });
            rest = SeqRange::new(range.first().plus(u64::from(run)), range.end());
            named = Some(rest.is_none());
        }
        named
    }

    fn set_bits(&mut self, gap: SeqRange) -> bool {
        let Some(block) = &mut self.open else {
            return false;
        };
        let bits_from = self
            .base
            .plus(u64::from(block.offset) + u64::from(block.run) + 1);
        if gap.first() < bits_from || gap.end() > bits_from.plus(16) {
            return false;
        }
        for seq in gap.iter() {
            block.mask |= 1 << seq.since(bits_from);
        }
        true
    }
}

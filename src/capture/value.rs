//! What can stand in a record, as bytes: numbers short where they are small, the rest in the order of its fields.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use bytes::Bytes;

use crate::guard::{Opened, Standing};
use crate::notice::{Notice, NoticeId, Text};
use crate::proto::{
    Backoff, Blame, Config, DatagramBytes, Destination, EndReason, Fec, Flow, GroupSize, Join,
    Origin, Percent, Rate, ReceiveBytes, ReceiveWindowLen, Resume, Seal, SendWindowBytes,
    SendWindowLen, Tuning,
};
use crate::station::{Placed, StationConfig, StationEvent};
use crate::time::{Timestamp, saturating_nanos};
use crate::wire::{FloorId, GroupId, Lane, SeqNo, SeqRange, SessionId, SourceId, Status, StreamId};

/// A value of a record.
pub(super) trait Value: Sized {
    /// Writes it.
    fn put(&self, to: &mut Vec<u8>);

    /// Reads it from the front; `None` when it is not there, or not one of this version.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

/// A struct that changes with the program. Each field has a row: a number of its own, never used again, and its name.
/// A field without a row does not compile; a field that an older capture does not have is as in `$blank`.
macro_rules! fields {
    ($name:ident, $blank:expr, $($tag:literal $field:ident,)*) => {
        impl Value for $name {
            fn put(&self, to: &mut Vec<u8>) {
                let Self { $($field,)* } = self;
                $(
                    to.push($tag);
                    $field.put(to);
                )*
                to.push(0);
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                let mut value: Self = $blank;
                loop {
                    match take_byte(from)? {
                        0 => return Some(value),
                        $($tag => value.$field = Value::take(from)?,)*
                        _ => return None,
                    }
                }
            }
        }
    };
}

fields! {
    Config, Self::new(FloorId(0), SourceId(0), SessionId(0)),
    1 floor,
    2 source,
    3 session,
    4 datagram_bytes,
    5 data_rate,
    6 repair_rate,
    7 send_window_bytes,
    8 send_window_len,
    9 receive_window_len,
    10 receive_bytes,
    11 group_size,
    12 flow,
    13 is_rate_adaptive,
    14 tuning,
    15 seal,
}

fields! {
    Tuning, Self::RECOMMENDED,
    1 backoff,
    2 group_size,
    3 scouts,
    4 heartbeat_first_ns,
    5 copies,
    6 aggregation_ns,
    7 hold_off_min_ns,
    8 is_multicast_only,
    9 retry_min_ns,
    10 gaps_per_nack,
    11 fec,
}

fields! {
    StationConfig, Self {
        endpoint: Config::new(FloorId(0), SourceId(0), SessionId(0)),
        name: String::new(),
        is_workstation: false,
        groups: Vec::new(),
        join: Join::Trail,
        remember: crate::notice::REMEMBER_RECOMMENDED,
        listed: BTreeMap::new(),
    },
    1 endpoint,
    2 name,
    3 is_workstation,
    4 groups,
    5 join,
    6 remember,
    7 listed,
}

fields! {
    Notice, Self {
        id: NoticeId(0),
        from: Text::default(),
        sent_ns: 0,
        expires_ns: None,
        confirm: false,
        status: Status::Actual,
        text: Text::default(),
    },
    1 id,
    2 from,
    3 sent_ns,
    4 expires_ns,
    5 confirm,
    6 text,
    7 status,
}

/// Structs that do not change: their values one behind the other.
macro_rules! plain {
    ($($name:ident { $($field:ident),* })*) => {
        $(impl Value for $name {
            fn put(&self, to: &mut Vec<u8>) {
                let Self { $($field,)* } = self;
                $($field.put(to);)*
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: Value::take(from)?,)* })
            }
        })*
    };
}

plain! {
    Origin { source, session }
    Resume { joined, next, lost }
}

/// Types that are another type by a different name.
macro_rules! by {
    ($($name:ty: $via:ty, |$value:ident| $to:expr, $back:expr;)*) => {
        $(impl Value for $name {
            fn put(&self, to: &mut Vec<u8>) {
                let $value = self;
                let via: $via = $to;
                via.put(to);
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                let back: fn($via) -> Option<Self> = $back;
                back(Value::take(from)?)
            }
        })*
    };
}

by! {
    u8: u64, |n| u64::from(*n), |n| Self::try_from(n).ok();
    u32: u64, |n| u64::from(*n), |n| Self::try_from(n).ok();
    usize: u64, |n| *n as u64, |n| Self::try_from(n).ok();
    bool: u64, |is| u64::from(*is), |n| (n < 2).then_some(n == 1);
    Timestamp: u64, |at| at.as_nanos(), |n| Some(Self::from_nanos(n));
    Duration: u64, |duration| saturating_nanos(*duration), |n| Some(Self::from_nanos(n));
    FloorId: u32, |id| id.0, |n| Some(Self(n));
    GroupId: u32, |id| id.0, |n| Some(Self(n));
    SourceId: u64, |id| id.0, |n| Some(Self(n));
    SessionId: u64, |id| id.0, |n| Some(Self(n));
    NoticeId: u64, |id| id.0, |n| Some(Self(n));
    SeqNo: u64, |seq| seq.0, |n| Some(Self(n));
    StreamId: u32, |stream| stream.to_wire(), Self::from_wire;
    Lane: u32, |lane| *lane as u32, |n| Self::ALL.into_iter().find(|lane| *lane as u32 == n);
    DatagramBytes: u64, |n| n.get(), |n| Self::try_from(n).ok();
    Rate: u64, |n| n.get(), |n| Self::try_from(n).ok();
    SendWindowBytes: u64, |n| n.get(), |n| Self::try_from(n).ok();
    SendWindowLen: u64, |n| n.get(), |n| Self::try_from(n).ok();
    ReceiveWindowLen: u64, |n| n.get(), |n| Self::try_from(n).ok();
    ReceiveBytes: u64, |n| n.get(), |n| Self::try_from(n).ok();
    Percent: u64, |n| n.get(), |n| Self::try_from(n).ok();
    GroupSize: u64, |n| n.get(), |n| Self::try_from(n).ok();
    String: Bytes, |text| Bytes::copy_from_slice(text.as_bytes()), |bytes| Self::from_utf8(bytes.into()).ok();
    Text: Bytes, |text| text.as_bytes().clone(), Self::new;
}

impl Value for u64 {
    fn put(&self, to: &mut Vec<u8>) {
        let mut rest = *self;
        while rest > 0x7f {
            to.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        to.push(rest.to_le_bytes()[0]);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let mut value = 0;
        for shift in (0..Self::BITS).step_by(7) {
            let byte = take_byte(from)?;
            let bits = Self::from(byte & 0x7f);
            let shifted = bits << shift;
            if shifted >> shift != bits {
                return None;
            }
            value |= shifted;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl Value for Bytes {
    fn put(&self, to: &mut Vec<u8>) {
        self.len().put(to);
        to.extend_from_slice(self);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let len = usize::take(from)?;
        let (bytes, rest) = from.split_at_checked(len)?;
        *from = rest;
        Some(Self::copy_from_slice(bytes))
    }
}

impl<T: Value> Value for Box<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.as_ref().put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        T::take(from).map(Self::new)
    }
}

impl<T: Value> Value for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        self.iter().for_each(|value| value.put(to));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match bool::take(from)? {
            true => T::take(from).map(Some),
            false => Some(None),
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.len().put(to);
        self.iter().for_each(|value| value.put(to));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        // Nothing is reserved: the count is not to be trusted, and each value takes a byte at least.
        let len = usize::take(from)?;
        (0..len).map(|_| T::take(from)).collect()
    }
}

impl<K: Value + Ord, V: Value> Value for BTreeMap<K, V> {
    fn put(&self, to: &mut Vec<u8>) {
        self.len().put(to);
        for (key, value) in self {
            key.put(to);
            value.put(to);
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let len = usize::take(from)?;
        (0..len)
            .map(|_| Some((K::take(from)?, V::take(from)?)))
            .collect()
    }
}

impl Value for SeqRange {
    fn put(&self, to: &mut Vec<u8>) {
        self.first().put(to);
        self.end().put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Self::new(Value::take(from)?, Value::take(from)?)
    }
}

impl Value for Join {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Trail => to.push(0),
            Self::Lead => to.push(1),
            Self::Last(count) => {
                to.push(2);
                count.put(to);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match take_byte(from)? {
            0 => Self::Trail,
            1 => Self::Lead,
            2 => Self::Last(Value::take(from)?),
            _ => return None,
        })
    }
}

impl Value for Seal {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::OpenLab => to.push(0),
            Self::Later { bytes } => {
                to.push(1);
                bytes.put(to);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match take_byte(from)? {
            0 => Some(Self::OpenLab),
            1 => Some(Self::Later {
                bytes: Value::take(from)?,
            }),
            _ => None,
        }
    }
}

impl Value for Status {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(*self as u8);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self::from_bits(take_byte(from)?))
    }
}

impl Value for Opened {
    fn put(&self, to: &mut Vec<u8>) {
        let Self { datagram, standing } = self;
        datagram.put(to);
        to.push(u8::from(standing.is_proved));
        to.push(standing.statuses);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            datagram: Value::take(from)?,
            standing: Standing {
                is_proved: take_byte(from)? != 0,
                statuses: take_byte(from)?,
            },
        })
    }
}

impl Value for Flow {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Rate => to.push(0),
            Self::Quorum(share) => {
                to.push(1);
                share.put(to);
            }
            Self::None => to.push(2),
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match take_byte(from)? {
            0 => Self::Rate,
            1 => Self::Quorum(Value::take(from)?),
            2 => Self::None,
            _ => return None,
        })
    }
}

impl Value for Backoff {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Adaptive => to.push(0),
            Self::Fixed(longest) => {
                to.push(1);
                longest.put(to);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match take_byte(from)? {
            0 => Self::Adaptive,
            1 => Self::Fixed(Value::take(from)?),
            _ => return None,
        })
    }
}

impl Value for Fec {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Off => to.push(0),
            Self::Measured => to.push(1),
            Self::Proactive(shards) => {
                to.push(2);
                shards.put(to);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match take_byte(from)? {
            0 => Self::Off,
            1 => Self::Measured,
            2 => Self::Proactive(Value::take(from)?),
            _ => return None,
        })
    }
}

impl Value for SocketAddr {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::V4(address) => {
                to.push(4);
                to.extend_from_slice(&address.ip().octets());
                u32::from(address.port()).put(to);
            }
            Self::V6(address) => {
                to.push(6);
                to.extend_from_slice(&address.ip().octets());
                u32::from(address.port()).put(to);
                address.flowinfo().put(to);
                address.scope_id().put(to);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let port = |from: &mut &[u8]| u16::try_from(u32::take(from)?).ok();
        match take_byte(from)? {
            4 => {
                let ip = Ipv4Addr::from(take_array::<4>(from)?);
                Some(Self::V4(SocketAddrV4::new(ip, port(from)?)))
            }
            6 => {
                let ip = Ipv6Addr::from(take_array::<16>(from)?);
                let (port, flow) = (port(from)?, Value::take(from)?);
                let scope = Value::take(from)?;
                Some(Self::V6(SocketAddrV6::new(ip, port, flow, scope)))
            }
            _ => None,
        }
    }
}

fn take_byte(from: &mut &[u8]) -> Option<u8> {
    take_array::<1>(from).map(|[byte]| byte)
}

fn take_array<const LEN: usize>(from: &mut &[u8]) -> Option<[u8; LEN]> {
    let (head, rest) = from.split_first_chunk::<LEN>()?;
    *from = rest;
    Some(*head)
}

/// Writes where a datagram goes, to be hashed.
pub(super) fn put_destination(to: Destination, bytes: &mut Vec<u8>) {
    match to {
        Destination::Group(group) => {
            bytes.push(0);
            group.put(bytes);
        }
        Destination::Unicast(address) => {
            bytes.push(1);
            address.put(bytes);
        }
    }
}

fn put_reason(reason: EndReason, to: &mut Vec<u8>) {
    to.push(match reason {
        EndReason::Closed => 0,
        EndReason::Replaced => 1,
        EndReason::Silent => 2,
    });
}

/// Writes an event, to be hashed.
pub(super) fn put_event(event: &StationEvent, to: &mut Vec<u8>) {
    match event {
        StationEvent::SessionStarted { origin, from } => {
            to.push(1);
            origin.put(to);
            from.put(to);
        }
        StationEvent::SessionEnded { origin, reason } => {
            to.push(2);
            origin.put(to);
            put_reason(*reason, to);
        }
        StationEvent::Notice {
            at,
            notice,
            is_expired,
        } => {
            to.push(3);
            put_placed(at, to);
            notice.put(to);
            is_expired.put(to);
        }
        StationEvent::Again { at, id } => {
            to.push(4);
            put_placed(at, to);
            id.put(to);
        }
        StationEvent::Unreadable { at, error } => {
            to.push(5);
            put_placed(at, to);
            format!("{error:?}").put(to);
        }
        StationEvent::Refused { at, id, claim } => {
            to.push(16);
            put_placed(at, to);
            id.put(to);
            format!("{claim:?}").put(to);
        }
        StationEvent::Opaque { at, payload } => {
            to.push(15);
            put_placed(at, to);
            payload.put(to);
        }
        StationEvent::Lost {
            origin,
            stream,
            seqs,
        } => {
            to.push(6);
            origin.put(to);
            stream.put(to);
            seqs.put(to);
        }
        StationEvent::Reported { station } => {
            to.push(7);
            station.put(to);
        }
        StationEvent::NameConflict { from } => {
            to.push(8);
            from.put(to);
        }
        StationEvent::Skipped { .. }
        | StationEvent::LossJudged { .. }
        | StationEvent::PaceLeft { .. }
        | StationEvent::PaceRejoined { .. }
        | StationEvent::Evicted { .. }
        | StationEvent::PaceTold { .. } => put_event_of_repair(event, to),
    }
}

/// The same for what came of repair and of the pace.
fn put_event_of_repair(event: &StationEvent, to: &mut Vec<u8>) {
    match event {
        StationEvent::Skipped {
            origin,
            stream,
            seqs,
            why,
        } => {
            to.push(9);
            origin.put(to);
            stream.put(to);
            seqs.put(to);
            why.as_str().to_owned().put(to);
        }
        StationEvent::LossJudged {
            stream,
            blame,
            askers,
        } => {
            to.push(10);
            stream.put(to);
            put_blame(*blame, to);
            askers.put(to);
        }
        StationEvent::PaceLeft {
            station,
            stream,
            through,
        } => {
            to.push(11);
            station.put(to);
            stream.put(to);
            through.put(to);
        }
        StationEvent::PaceRejoined { station, stream } => {
            to.push(12);
            station.put(to);
            stream.put(to);
        }
        StationEvent::Evicted {
            station,
            stream,
            seqs,
        } => {
            to.push(13);
            station.put(to);
            stream.put(to);
            seqs.put(to);
        }
        StationEvent::PaceTold {
            origin,
            stream,
            is_behind,
        } => {
            to.push(14);
            origin.put(to);
            stream.put(to);
            is_behind.put(to);
        }
        _ => {}
    }
}

fn put_blame(blame: Blame, to: &mut Vec<u8>) {
    blame.as_str().to_owned().put(to);
    match blame {
        Blame::Edge(station) => station.put(to),
        Blame::Subnet(subnet) => subnet.to_string().put(to),
        Blame::Source | Blame::Scattered => {}
    }
}

fn put_placed(at: &Placed, to: &mut Vec<u8>) {
    let Placed {
        origin,
        stream,
        seqs,
        is_repaired,
    } = at;
    origin.put(to);
    stream.put(to);
    seqs.put(to);
    is_repaired.put(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<T: Value>(value: &T) -> Option<T> {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        for len in 0..bytes.len() {
            let mut cut = &bytes[..len];
            assert!(
                T::take(&mut cut).is_none_or(|_| cut.is_empty()),
                "cut to {len} of {bytes:?}"
            );
        }
        let mut rest = bytes.as_slice();
        let value = T::take(&mut rest);
        assert!(rest.is_empty(), "{bytes:?}");
        value
    }

    #[test]
    fn numbers_and_addresses_survive_and_nonsense_does_not() {
        for n in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::MAX - 1, u64::MAX] {
            assert_eq!(again(&n), Some(n));
        }
        assert_eq!(u64::take(&mut [0xff; 9].as_slice()), None);
        let beyond = [[0xff; 9].as_slice(), &[2]].concat();
        assert_eq!(u64::take(&mut beyond.as_slice()), None);
        assert_eq!(bool::take(&mut [2].as_slice()), None);
        assert_eq!(Lane::take(&mut [3].as_slice()), None);
        for address in ["10.0.0.1:9", "[fe80::1%7]:65535", "[::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(again(&address), Some(address));
        }
        for join in [Join::Trail, Join::Lead, Join::Last(9)] {
            assert_eq!(again(&join), Some(join));
        }
        // A count that promises more than there is.
        let huge = [[0xff; 8].as_slice(), &[1]].concat();
        assert_eq!(Vec::<u64>::take(&mut huge.as_slice()), None);
        assert_eq!(Bytes::take(&mut huge.as_slice()), None);
    }

    #[test]
    fn a_configuration_survives_and_what_is_missing_is_as_recommended() {
        let config = config();
        assert_eq!(
            format!("{:?}", again(&config)),
            format!("{:?}", Some(config))
        );
        let mut bytes = vec![4];
        DatagramBytes::MIN.put(&mut bytes);
        bytes.push(0);
        let older = Config::take(&mut bytes.as_slice()).unwrap();
        assert_eq!(older.datagram_bytes, DatagramBytes::MIN);
        assert_eq!(older.data_rate, Rate::RECOMMENDED);
        assert!(Config::take(&mut [255].as_slice()).is_none());
    }

    fn config() -> StationConfig {
        let mut endpoint = Config::new(FloorId(1), SourceId(2), SessionId(3));
        endpoint.datagram_bytes = DatagramBytes::MAX;
        endpoint.data_rate = Rate::MIN;
        endpoint.repair_rate = Rate::MAX;
        endpoint.send_window_bytes = SendWindowBytes::MIN;
        endpoint.send_window_len = SendWindowLen::MIN;
        endpoint.receive_window_len = ReceiveWindowLen::MIN;
        endpoint.receive_bytes = ReceiveBytes::MIN;
        endpoint.flow = Flow::Quorum(Percent::MIN);
        endpoint.is_rate_adaptive = true;
        endpoint.tuning.backoff = Backoff::Fixed(Duration::from_nanos(7));
        endpoint.tuning.fec = Fec::Proactive(3);
        endpoint.tuning.group_size = Some(9);
        endpoint.group_size = GroupSize::MAX;
        let listed = [
            (GroupId(1), vec![]),
            (GroupId(2), vec!["a".into(), "ü".into()]),
        ];
        StationConfig {
            endpoint,
            name: "süd".to_owned(),
            is_workstation: true,
            groups: vec![GroupId(1), GroupId(2)],
            join: Join::Last(3),
            remember: Duration::from_secs(9),
            listed: listed.into(),
        }
    }
}

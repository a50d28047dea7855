//! Measuring: a source with a schedule that is fixed before it starts, receivers that write down when each message came, and
//! figures of which nothing that is missing is left out.
//!
//! A run has two paths. Messages go from the source to its receivers as on any floor. Everything else (who takes part, what
//! will be sent, whose clock shows what, and at the end every arrival) goes over one TCP connection from each receiver to
//! the source, which is silent while messages are on their way.

mod compare;
mod control;
mod environment;
mod figures;
mod plot;
mod receive;
mod report;
mod results;
mod run;
mod scenario;
mod send;
mod usage;
mod whole;

use std::net::{SocketAddr, SocketAddrV6};

use bytes::{BufMut, BytesMut};
use socket2::{Domain, Socket, Type};

use crate::capture::Recorded;
use crate::guard::{Guard, Verdicts};
use crate::keys::{KEY_BYTES, ThrowAway};
use crate::net::{Interface, InterfaceKind, InterfaceSpec, IoMode};
use crate::notice::OPAQUE;
use crate::output::Failure;
use crate::proto::{self, Join};
use crate::runtime::{Clock, Idle, Network};
use crate::station::StationConfig;
use crate::wire::{FloorId, GroupId, Lane, SessionId, SourceId, StreamId};

pub use compare::CompareOptions;
pub use figures::{Percentiles, ReceiverFigures, Summary};
pub use receive::{ReceiveOptions, name_of};
pub use report::ReportOptions;
pub use run::{ResultFile, RunOptions};
pub use scenario::{Cell, Hosts, Scenario};
pub use send::SendOptions;
pub use {compare::run as compare, report::run as report};
pub use {receive::run as receive, run::run as all, send::run as send};

/// Most messages of a run: each receiver keeps the arrival of each, eight bytes.
pub const MESSAGES_MAX: u64 = 20_000_000;
/// Smallest message: what tells it from others must fit.
pub const SIZE_MIN: usize = 16;
/// Largest message.
pub const SIZE_MAX: usize = 1_000_000;
/// Receivers of a run.
pub const RECEIVERS_MAX: usize = 512;
/// Receive buffer to ask for, bytes: what a stock Linux may be told to grant (`net.core.rmem_max`).
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// The group of runs that name none: a port that nobody has registered, in the scope of one site (RFC 2365).
pub const GROUP: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(239, 255, 90, 17)),
    19_017,
);

/// Where a run takes place.
#[derive(Clone, Debug)]
pub struct Place {
    /// The interface.
    pub interface: Interface,
    /// Address and port of the one group.
    pub group: SocketAddr,
    /// The best way to send and receive that is tried.
    pub io: IoMode,
    /// Most datagrams sent as one train.
    pub train_datagrams: usize,
    /// How the process waits.
    pub idle: Idle,
    /// Messages are sealed and signed, with keys that both ends make of the group's address: they protect nothing, and cost what
    /// others cost.
    pub has_keys: bool,
}

impl Place {
    fn group_id() -> GroupId {
        GroupId::of("bench")
    }

    fn floor() -> FloorId {
        FloorId::of("bench")
    }

    fn stream() -> StreamId {
        StreamId::new(Self::group_id(), Lane::Routine)
    }

    /// The address of the group's family that datagrams leave from, where receivers call the source back.
    fn own_address(&self) -> Option<SocketAddr> {
        if self.group.is_ipv4() {
            return Some(SocketAddr::from((self.interface.v4?, 0)));
        }
        let ip = self.interface.v6?;
        let scope = if ip.is_unicast_link_local() {
            self.interface.index
        } else {
            0
        };
        Some(SocketAddrV6::new(ip, 0, 0, scope).into())
    }

    /// Whether the system would send to the group at all. An IPv6 group takes a route on the interface, which a loopback
    /// seldom has; without one both ends would wait for each other. Nothing is sent.
    ///
    /// # Errors
    /// [`Failure::Usage`], with what gives it a route.
    fn check_route(&self) -> Result<(), Failure> {
        let SocketAddr::V6(group) = self.group else {
            return Ok(());
        };
        let Interface { index, name, .. } = &self.interface;
        let to = SocketAddrV6::new(*group.ip(), group.port(), 0, *index);
        let route = Socket::new(Domain::IPV6, Type::DGRAM, None).and_then(|socket| {
            socket.set_multicast_if_v6(*index)?;
            socket.connect(&SocketAddr::from(to).into())
        });
        route.map_err(|error| {
            Failure::Usage(format!(
                "--group: this system does not send to {group} on {}: {error}; give its IPv6 groups a route (on Linux, as root: ip -6 route add local ff00::/8 dev {name}), or use an IPv4 group",
                self.interface
            ))
        })
    }

    fn network(&self) -> Network {
        Network {
            spec: InterfaceSpec::Index(self.interface.index),
            interface: self.interface.clone(),
            groups: vec![(Self::group_id(), self.group)],
            ttl: u8::from(self.interface.kind != InterfaceKind::Loopback),
            dscp: None,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            datagram_bytes: 2_048,
            io: self.io,
            train_datagrams: self.train_datagrams,
        }
    }

    /// The word for it in a summary.
    const fn security(&self) -> &'static str {
        if self.has_keys { "keys" } else { "open-lab" }
    }

    /// A station, sealed where the run is. Each checks what comes for itself, as on a host of its own.
    fn open(
        &self,
        mut config: StationConfig,
        is_receiver: bool,
        seed: u64,
        clock: Clock,
    ) -> Result<Recorded, Failure> {
        let moment = clock.read();
        let guard = if self.has_keys {
            let wall_s = moment.wall_ns / 1_000_000_000;
            let mut secret = [0; KEY_BYTES];
            let text = self.group.to_string();
            secret
                .iter_mut()
                .zip(text.bytes())
                .for_each(|(to, from)| *to = from);
            // Ends start at different times, and take each other's keys all the same.
            let keys = ThrowAway::new(Self::floor(), secret, wall_s / 86_400 * 86_400);
            let credentials = if is_receiver {
                keys.workstation(&config.name)
            } else {
                keys.source(&config.name, &[Self::group_id()])
            };
            let endpoint = &mut config.endpoint;
            let guard = Guard::new(
                credentials,
                endpoint,
                moment.wall_zero_ns(),
                Verdicts::default(),
            );
            Some(guard.map_err(|error| Failure::Usage(error.to_string()))?)
        } else {
            None
        };
        let station = Recorded::new(config, seed, moment.now, None);
        Ok(match guard {
            Some(guard) => station.guarded(guard),
            None => station,
        })
    }

    fn station(name: &str, session: u64, is_receiver: bool) -> StationConfig {
        let source = SourceId::of(Self::floor(), name);
        StationConfig {
            endpoint: proto::Config::new(Self::floor(), source, SessionId(session)),
            name: name.to_owned(),
            is_workstation: false,
            groups: is_receiver.then(Self::group_id).into_iter().collect(),
            join: Join::Lead,
            remember: crate::notice::REMEMBER_RECOMMENDED,
            listed: Default::default(),
        }
    }
}

/// A message of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Where the source waits for its receivers: the port, at the address that this came from.
    Call { port: u16 },
    /// The message with this index.
    Measured(u64),
}

/// Bytes before a message's filling: the mark of what is no notice, the kind, the run, the index.
const HEAD_BYTES: usize = 1 + 1 + 4 + 8;

impl Content {
    const CALL: u8 = 0;
    const MEASURED: u8 = 1;

    /// Writes it down for `run`, filled up to `size` bytes.
    fn encode(self, bytes: &mut BytesMut, run: u32, filling: &[u8], size: usize) {
        let (kind, value) = match self {
            Self::Call { port } => (Self::CALL, u64::from(port)),
            Self::Measured(index) => (Self::MEASURED, index),
        };
        bytes.put_u8(OPAQUE);
        bytes.put_u8(kind);
        bytes.put_u32(run);
        bytes.put_u64(value);
        let rest = size.saturating_sub(HEAD_BYTES);
        bytes.put_slice(&filling[..rest.min(filling.len())]);
    }

    /// Reads it; the run it belongs to.
    fn decode(bytes: &[u8]) -> Option<(u32, Self)> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let [OPAQUE, kind, a, b, c, d, index @ ..] = *head else {
            return None;
        };
        let value = u64::from_be_bytes(index);
        let content = match kind {
            Self::CALL => Self::Call {
                port: u16::try_from(value).ok()?,
            },
            Self::MEASURED => Self::Measured(value),
            _ => return None,
        };
        Some((u32::from_be_bytes([a, b, c, d]), content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_and_nonsense_does_not() {
        for content in [Content::Call { port: 7 }, Content::Measured(1 << 40)] {
            let mut bytes = BytesMut::new();
            content.encode(&mut bytes, 9, &[5; 100], 64);
            assert_eq!(bytes.len(), 64);
            assert_eq!(Content::decode(&bytes), Some((9, content)));
            assert_eq!(Content::decode(&bytes[..HEAD_BYTES - 1]), None);
        }
        assert_eq!(Content::decode(&[1; 64]), None);
        assert_eq!(
            Content::decode(&[0; 64]),
            Some((0, Content::Call { port: 0 }))
        );
    }
}

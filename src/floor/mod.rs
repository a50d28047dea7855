//! What a floor file says: which groups there are, on which addresses, at which rates, and who is expected.
//!
//! The file is the same for every workstation and is written by people, so every fault in it is told in one sentence on
//! one line: file, line, what is wrong, what is allowed, what to do. It is read as a tree of TOML values with their
//! places rather than into derived structs, because a derived reader words its errors for programmers.

mod enrolment;
mod protection;
mod repair;
mod roster;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys::Enrolment;
use crate::net::InterfaceSpec;
use crate::wire::{FloorId, GroupId, Lane, NAME_BYTES_MAX, is_station_name};

pub use repair::RepairRules;
pub use roster::{REMEMBER, REMEMBER_DEFAULT, RosterRules};

/// Largest floor file, in bytes: 30,000 listed workstations fit, a video picked by mistake does not fill the memory.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most groups on a floor: a station names all of its groups in one datagram, and network cards filter few in hardware.
pub const GROUPS_MAX: usize = 128;
/// Longest group name, in bytes, each one of `a-z`, `0-9`, `_` and `-`.
pub const GROUP_NAME_BYTES_MAX: usize = 32;
/// Longest duration that [`parse_duration`] takes: a year.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Hops a datagram may take where the file says nothing: 1 keeps it on its network segment.
pub const TTL_DEFAULT: u8 = 1;
/// Rate of new data where the file says nothing, in bytes per second (200 Mbit/s): a fifth of a gigabit network, which
/// telephones share.
pub const DATA_RATE_DEFAULT: u64 = 25_000_000;
/// Bounds of a rate, in bytes per second: 8 kbit/s to 100 Gbit/s.
pub const RATE: RangeInclusive<u64> = 1_000..=12_500_000_000;

/// One deployment, as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Its name: 1 to 64 bytes, no control characters, no blank at either end.
    pub name: String,
    /// The id that its name gives it.
    pub id: FloorId,
    /// The network interface to send and to join on, unless the command line names another.
    pub interface: InterfaceSpec,
    /// Hops a datagram may take, 0 to 255: 0 stays on this machine, 1 on this network segment.
    pub ttl: u8,
    /// Differentiated services code point of every datagram, 0 to 63; `None` leaves it to the system.
    pub dscp: Option<u8>,
    /// How fast a source may send.
    pub rates: Rates,
    /// How it repairs, and whose pace it keeps.
    pub repair: RepairRules,
    /// The groups, 1 to [`GROUPS_MAX`], sorted by name.
    pub groups: Vec<Group>,
    /// Who is expected.
    pub roster: RosterRules,
    /// Which keys its workstations have.
    pub enrolment: Enrolment,
    /// Lanes whose datagrams bear no signature.
    pub unsigned: BTreeSet<Lane>,
}

/// A named audience and its multicast address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name: 1 to [`GROUP_NAME_BYTES_MAX`] of `a-z`, `0-9`, `_` and `-`, not beginning with `-`.
    pub name: String,
    /// The id that its name gives it; no other group of the floor has the same.
    pub id: GroupId,
    /// Its multicast address and UDP port (not 0). No other group of the floor has an address with the same MAC.
    pub address: SocketAddr,
}

/// How fast a source may send. The two are kept apart so that repairs never starve new data, nor data repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Bytes of new data per second, within [`RATE`].
    pub data_bytes_per_s: u64,
    /// Bytes of repairs per second, within [`RATE`]; as much as the data rate where the file says nothing.
    pub repair_bytes_per_s: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self::with_data(DATA_RATE_DEFAULT)
    }
}

impl Rates {
    fn with_data(data_bytes_per_s: u64) -> Self {
        // At 5 % loss and 20 receivers, two of three datagrams have to be repaired for somebody.
        let repair_bytes_per_s = data_bytes_per_s;
        Self {
            data_bytes_per_s,
            repair_bytes_per_s,
        }
    }
}

/// Why a floor file cannot be used. Each is one sentence on one line, fit to be shown as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FloorError {
    /// The file as a whole: it cannot be read, or something that has to stand in it is not there.
    #[error("{path}: {what}")]
    File {
        /// The file as it was named.
        path: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A line of the file is wrong.
    #[error("{path} line {line}: {what}")]
    Line {
        /// The file as it was named.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, what is allowed and what to do.
        what: String,
    },
}

impl Floor {
    /// Reads the floor file at `path`.
    ///
    /// # Errors
    /// [`FloorError`], the first fault found.
    pub fn load(path: &Path) -> Result<Self, FloorError> {
        Self::from_bytes(&read(path)?, path)
    }

    /// Reads the bytes of the floor file at `path`, which [`read`] gave.
    ///
    /// # Errors
    /// [`FloorError`], the first fault found.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, FloorError> {
        let shown = one_line(&path.display().to_string());
        let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error, &shown))?;
        Self::parse(text, &shown)
    }

    /// Reads the text of a floor file; `path` is only what errors call it.
    ///
    /// # Errors
    /// [`FloorError`], the first fault found.
    pub fn parse(text: &str, path: &str) -> Result<Self, FloorError> {
        read_floor(text).map_err(|fault| fault.in_file(text, path))
    }

    /// The group called `name`.
    pub fn group(&self, name: &str) -> Option<&Group> {
        let at = self
            .groups
            .binary_search_by(|group| group.name.as_str().cmp(name))
            .ok()?;
        self.groups.get(at)
    }
}

/// The bytes of the floor file at `path`, whatever they say.
///
/// # Errors
/// [`FloorError`] when they cannot be read, or are too many.
pub fn read(path: &Path) -> Result<Vec<u8>, FloorError> {
    let whole = |what| FloorError::File {
        path: one_line(&path.display().to_string()),
        what,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| whole(why_unreadable(path, &error)))?;
    if u64::try_from(bytes.len()).map_or(true, |len| len > FILE_BYTES_MAX) {
        return Err(whole(format!(
            "the file is longer than {FILE_BYTES_MAX} bytes, so it is no floor file; name another with --floor PATH"
        )));
    }
    Ok(bytes)
}

/// Why a text is not the quantity it should be: one sentence, with what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct QuantityError(String);

impl QuantityError {
    fn new(text: &str, why: &str) -> Self {
        Self(format!("{} {why}", quoted(text)))
    }
}

/// Reads a duration: a number, whole or with up to nine decimals, and one of `ms`, `s`, `m`, `h`, `d`, as in `500ms`,
/// `1.5s`, `15m`. From 0 to [`DURATION_MAX`].
///
/// # Errors
/// [`QuantityError`] where it is no such text or too long.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    const UNITS: &[(&str, u64)] = &[
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ];
    let factor_of = |unit: &str| {
        UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, nanos)| *nanos)
    };
    let nanos = scaled(text, factor_of).ok_or_else(|| QuantityError::new(text, NOT_A_DURATION))?;
    let duration = u64::try_from(nanos).map(Duration::from_nanos).ok();
    duration
        .filter(|it| *it <= DURATION_MAX)
        .ok_or_else(|| QuantityError::new(text, "is too long; a duration is at most 365d"))
}

const NOT_A_DURATION: &str =
    "is not a duration; write a number and one of ms, s, m, h, d, such as 500ms, 90s or 15m";

/// As [`parse_duration`], for what cannot be 0.
///
/// # Errors
/// [`QuantityError`] where it is no such text, 0 or too long.
pub fn parse_positive_duration(text: &str) -> Result<Duration, QuantityError> {
    let duration = parse_duration(text)?;
    if duration.is_zero() {
        let why = "is no time at all; write a duration above 0, such as 500ms or 2s";
        return Err(QuantityError::new(text, why));
    }
    Ok(duration)
}

/// Reads a rate into bytes per second: a number, whole or with up to nine decimals, and one of `kbit/s`, `Mbit/s`,
/// `Gbit/s` (capitals or not, `/s` may be left out), as in `100 Mbit/s`. Within [`RATE`].
///
/// # Errors
/// [`QuantityError`] where it is no such text or out of bounds.
pub fn parse_rate(text: &str) -> Result<u64, QuantityError> {
    let bits_per_s = |unit: &str| {
        let unit = unit.to_ascii_lowercase();
        match unit.strip_suffix("/s").unwrap_or(&unit) {
            "kbit" => Some(1_000),
            "mbit" => Some(1_000_000),
            "gbit" => Some(1_000_000_000),
            _ => None,
        }
    };
    let bits = scaled(text, bits_per_s).ok_or_else(|| QuantityError::new(text, NOT_A_RATE))?;
    let bytes = u64::try_from(bits / 8).ok();
    bytes.filter(|it| RATE.contains(it)).ok_or_else(|| {
        QuantityError::new(text, "is out of bounds; a rate is 8 kbit/s to 100 Gbit/s")
    })
}

const NOT_A_RATE: &str =
    "is not a rate; write a number and one of kbit/s, Mbit/s, Gbit/s, such as 100 Mbit/s";

/// A decimal number times its unit, exactly; `None` where the text is not that. Twelve digits before the point and nine
/// behind it are more than any quantity here needs, and keep the product far from overflow.
fn scaled(text: &str, factor_of: impl FnOnce(&str) -> Option<u64>) -> Option<u128> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let factor = u128::from(factor_of(unit.trim_start())?);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if !(1..=12).contains(&whole.len()) || !(1..=9).contains(&decimals.len()) {
        return None;
    }
    let parts_per_one = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let parts = whole.parse::<u128>().ok()? * parts_per_one + decimals.parse::<u128>().ok()?;
    Some(parts * factor / parts_per_one)
}

/// A fault, with its place in the text where it has one.
struct Fault {
    at: Option<usize>,
    what: String,
}

impl Fault {
    fn at(at: usize, what: impl Into<String>) -> Self {
        Self {
            at: Some(at),
            what: what.into(),
        }
    }

    fn missing(what: impl Into<String>) -> Self {
        Self {
            at: None,
            what: what.into(),
        }
    }

    fn in_file(self, text: &str, path: &str) -> FloorError {
        let (path, what) = (one_line(path), one_line(&self.what));
        match self.at {
            Some(at) => FloorError::Line {
                path,
                line: line_of(text.as_bytes(), at),
                what,
            },
            None => FloorError::File { path, what },
        }
    }
}

fn read_floor(text: &str) -> Result<Floor, Fault> {
    let root = DeTable::parse(text).map_err(|error| syntax_fault(text, &error))?;
    let root = Section {
        name: String::new(),
        at: 0,
        entries: root.get_ref(),
    };
    root.allow(&[
        "floor",
        "groups",
        "rates",
        "repair",
        "flow",
        "roster",
        "enrolment",
        "protection",
    ])?;
    let floor = root.get("floor").ok_or_else(|| {
        Fault::missing(
            "there is no [floor] table; write a line [floor] and under it name = \"acme-support\"",
        )
    })?;
    let floor = floor.section("a line [floor] and under it name = \"acme-support\"")?;
    floor.allow(&["name", "interface", "ttl", "dscp"])?;
    let name = read_floor_name(&floor)?;
    let groups = read_groups(&root)?;
    let id = FloorId::of(&name);
    Ok(Floor {
        id,
        name,
        interface: floor
            .get("interface")
            .map_or(Ok(InterfaceSpec::Auto), |it| read_interface(&it))?,
        ttl: floor.get("ttl").map_or(Ok(TTL_DEFAULT), |ttl| {
            ttl.whole(0, u8::MAX, "write ttl = 1 to stay on one network segment")
        })?,
        dscp: floor
            .get("dscp")
            .map(|dscp| {
                dscp.whole(
                    0,
                    63,
                    "write dscp = 46 for expedited forwarding, or leave it out",
                )
            })
            .transpose()?,
        rates: root
            .get("rates")
            .map_or(Ok(Rates::default()), |rates| repair::read_rates(&rates))?,
        repair: repair::read(root.get("repair"), root.get("flow"))?,
        roster: root
            .get("roster")
            .map_or(Ok(RosterRules::default()), |it| roster::read(&it, &groups))?,
        enrolment: enrolment::read(root.get("enrolment"), id)?,
        unsigned: protection::read(root.get("protection"))?,
        groups,
    })
}

/// The fault in the words of the TOML reader, but for a key said twice, which it does not name.
fn syntax_fault(text: &str, error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or(0..0);
    let why = error.message().trim_end();
    let what = if why == "duplicate key" {
        let key = text.get(span.clone()).unwrap_or("");
        format!(
            "{} stands here a second time; take one of the two out",
            quoted(key)
        )
    } else {
        format!(
            "this is not TOML ({why}); text stands in double quotes, as in name = \"acme-support\", and a table's name \
             in brackets, as in [floor]"
        )
    };
    Fault::at(span.start, what)
}

fn read_floor_name(floor: &Section<'_>) -> Result<String, Fault> {
    let field = floor.get("name").ok_or_else(|| {
        Fault::at(
            floor.at,
            "[floor] has no name; write under it name = \"acme-support\"",
        )
    })?;
    let name = field.text("\"acme-support\"")?;
    // A blank at an end cannot be seen, but would make it another floor, which hears nothing of this one.
    if is_station_name(name) && name.trim() == name {
        return Ok(name.to_owned());
    }
    Err(Fault::at(
        field.at,
        format!(
            "the floor's name {} is {}, but has to be 1 to {NAME_BYTES_MAX} bytes without control characters and \
             without a blank at either end; write one such as \"acme-support\"",
            quoted(name),
            odd_name(name)
        ),
    ))
}

fn read_interface(field: &Field<'_>) -> Result<InterfaceSpec, Fault> {
    if matches!(field.value, DeValue::Integer(_)) {
        return field
            .whole(
                1,
                u32::MAX,
                "write the index that the system shows, or \"auto\"",
            )
            .map(InterfaceSpec::Index);
    }
    let text = field.text("\"auto\", \"eth0\", \"192.168.1.17\" or an index")?;
    let why = match text.parse::<InterfaceSpec>() {
        Ok(InterfaceSpec::Index(0)) => "indexes begin at 1".to_owned(),
        Ok(interface) => return Ok(interface),
        Err(error) => error.to_string(),
    };
    let what = format!(
        "interface {} cannot be used: {why}; write a name, an index, an address, or \"auto\"",
        quoted(text)
    );
    Err(Fault::at(field.at, what))
}

/// What about a name (of a floor or a station) is not allowed.
fn odd_name(name: &str) -> String {
    if name.is_empty() {
        "empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("{} bytes long", name.len())
    } else if let Some(c) = name.chars().find(|c| c.is_control()) {
        format!("spoiled by the control character U+{:04X}", u32::from(c))
    } else {
        "begun or ended by a blank".to_owned()
    }
}

const NO_GROUPS: &str =
    "there are no groups; write a line [groups.all] and under it address = \"239.255.77.1:7700\"";

/// The groups with their checks: each alone, then each against those before it in the file.
fn read_groups(root: &Section<'_>) -> Result<Vec<Group>, Fault> {
    let field = root
        .get("groups")
        .ok_or_else(|| Fault::missing(NO_GROUPS))?;
    let section =
        field.section("a line [groups.all] and under it address = \"239.255.77.1:7700\"")?;
    let mut placed = Vec::new();
    for field in section.fields() {
        placed.push(read_group(&field)?);
    }
    if placed.is_empty() {
        return Err(Fault::at(field.at, NO_GROUPS));
    }
    if placed.len() > GROUPS_MAX {
        let what = format!(
            "there are {} groups, but a floor has at most {GROUPS_MAX}; merge some",
            placed.len()
        );
        return Err(Fault::at(field.at, what));
    }
    placed.sort_by_key(|(_, at)| *at);
    for (i, (group, at)) in placed.iter().enumerate() {
        for (earlier, _) in placed.iter().take(i) {
            if let Some(what) = conflict(earlier, group) {
                return Err(Fault::at(*at, what));
            }
        }
    }
    let mut groups: Vec<_> = placed.into_iter().map(|(group, _)| group).collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(groups)
}

/// A group, and where its address stands.
fn read_group(field: &Field<'_>) -> Result<(Group, usize), Fault> {
    let name = field.key;
    if let Some(odd) = odd_group_name(name) {
        let what = format!(
            "group name {} {odd}, but a group name is 1 to {GROUP_NAME_BYTES_MAX} of a-z, 0-9, _ and -, and does not \
             begin with - (it stands on command lines and in lists); write [groups.{}]",
            quoted(name),
            mended_group_name(name)
        );
        return Err(Fault::at(field.at, what));
    }
    let section = field.section(&format!(
        "a line [groups.{name}] and under it address = \"239.255.77.1:7700\""
    ))?;
    section.allow(&["address"])?;
    let address = section.get("address").ok_or_else(|| {
        Fault::at(
            field.at,
            format!(
                "group \"{name}\" has no address; write under it address = \"239.255.77.1:7700\""
            ),
        )
    })?;
    let text = address.text("\"239.255.77.1:7700\"")?;
    let parsed = read_address(text)
        .map_err(|why| Fault::at(address.at, format!("group \"{name}\" has address {why}")))?;
    Ok((
        Group {
            name: name.to_owned(),
            id: GroupId::of(name),
            address: parsed,
        },
        address.at,
    ))
}

fn is_group_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '_' | '-')
}

fn odd_group_name(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("is empty".to_owned())
    } else if name.len() > GROUP_NAME_BYTES_MAX {
        Some(format!("is {} bytes long", name.len()))
    } else if let Some(c) = name.chars().find(|c| !is_group_char(*c)) {
        Some(format!("contains {c:?}"))
    } else {
        name.starts_with('-').then(|| "begins with -".to_owned())
    }
}

/// The nearest name that is allowed.
fn mended_group_name(name: &str) -> String {
    let mended: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if is_group_char(c) { c } else { '-' })
        .skip_while(|c| *c == '-')
        .take(GROUP_NAME_BYTES_MAX)
        .collect();
    if mended.is_empty() {
        "all".to_owned()
    } else {
        mended
    }
}

const ADVICE_V4: &str = "use one in 239.255.0.0/16, such as 239.255.77.1:7700";
const ADVICE_V6: &str = "use one in ff13::/16, such as [ff13::7701]:7700";

/// A group's address, or what is wrong with it, beginning with the address itself.
fn read_address(text: &str) -> Result<SocketAddr, String> {
    let Ok(address) = text.trim().parse::<SocketAddr>() else {
        let mended = match text.trim().trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) if ip.is_multicast() => SocketAddr::new(ip, 7700).to_string(),
            _ => "239.255.77.1:7700".to_owned(),
        };
        return Err(format!(
            "{}, which is not an IP address and a port; write \"{mended}\" (and for IPv6 \"[ff13::7701]:7700\")",
            quoted(text)
        ));
    };
    if address.port() == 0 {
        let ip = SocketAddr::new(address.ip(), 7700);
        return Err(format!(
            "{address}, but nothing can be sent to port 0; use a port from 1 to 65535, such as {ip}"
        ));
    }
    match address {
        SocketAddr::V4(v4) => match fault_v4(*v4.ip()) {
            Some(why) => Err(format!("{address}, but {why}; {ADVICE_V4}")),
            None => Ok(address),
        },
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(format!(
            "{address}, but the part behind % names a network interface; leave it out, and set interface in [floor]"
        )),
        SocketAddr::V6(v6) => match fault_v6(*v6.ip()) {
            Some(why) => Err(format!("{address}, but {why}; {ADVICE_V6}")),
            None => Ok(address),
        },
    }
}

/// Why a floor cannot use this IPv4 address. Switches flood what shares a MAC with 224.0.0.x to every port, because
/// routers and hosts that never join have to hear it (RFC 4541, 2.1.2); 232/8 needs a join per source (RFC 4607).
fn fault_v4(ip: Ipv4Addr) -> Option<String> {
    let [a, b, c, d] = ip.octets();
    let why = if !ip.is_multicast() {
        "a group needs a multicast address (224.0.0.0 to 239.255.255.255, or IPv6 ff00::/8)"
            .to_owned()
    } else if (a, b, c) == (224, 0, 0) {
        "224.0.0.x is reserved for routing protocols and is never pruned by switches".to_owned()
    } else if a == 232 {
        "232.0.0.0/8 is source-specific only, and anyone on a floor may be a source".to_owned()
    } else if b & 0x7f == 0 && c == 0 {
        let mac = shown_mac(ip.into());
        format!("it has the Ethernet address {mac} of 224.0.0.{d}, which switches never prune")
    } else {
        return None;
    };
    Some(why)
}

/// Why a floor cannot use this IPv6 address (RFC 4291, 2.7; RFC 7346 for scopes; RFC 4607 for ff3x::/32).
fn fault_v6(ip: Ipv6Addr) -> Option<String> {
    let [first, second, ..] = ip.segments();
    let (flags, scope) = ((first >> 4) & 0xf, first & 0xf);
    let [.., low3, low2, low1, low0] = ip.octets();
    let mac = shown_mac(ip.into());
    let why = if !ip.is_multicast() {
        "a group needs a multicast address (ff00::/8, or IPv4 224.0.0.0 to 239.255.255.255)"
            .to_owned()
    } else if scope == 0 || scope == 0xf {
        format!("its scope, the {scope:x} in {first:x}, is reserved")
    } else if flags & 1 == 0 {
        format!("{first:x}:: addresses are permanently assigned to other protocols")
    } else if !matches!(flags, 1 | 3 | 7) {
        format!("its flags, the {flags:x} in {first:x}, are reserved")
    } else if flags == 3 && second == 0 {
        format!("{first:x}::/32 is source-specific only, and anyone on a floor may be a source")
    } else if low3 == 0xff {
        format!(
            "it has the Ethernet address {mac} of neighbour discovery, which switches never prune"
        )
    } else if (low3, low2, low1) == (0, 0, 0) {
        format!("it has the Ethernet address {mac} of ff02::{low0:x}, which switches never prune")
    } else {
        return None;
    };
    Some(why)
}

/// Why two groups cannot stand on one floor.
fn conflict(earlier: &Group, later: &Group) -> Option<String> {
    let (a, b) = (earlier.address.ip(), later.address.ip());
    let why = if earlier.id == later.id {
        format!(
            "have names with the same id {} on the wire; rename one of them",
            later.id
        )
    } else if earlier.address == later.address {
        format!("have the same address {}; give each its own", later.address)
    } else if a == b {
        format!(
            "have the same address {a} on two ports, which no switch can tell apart; give each its own address"
        )
    } else if mac(a) == mac(b) {
        let mac = shown_mac(a);
        format!(
            "have addresses {a} and {b} with the same Ethernet address {mac}, which no switch can tell apart; change \
             the last number of one of them"
        )
    } else {
        return None;
    };
    Some(format!(
        "groups \"{}\" and \"{}\" {why}",
        earlier.name, later.name
    ))
}

/// The Ethernet address of a multicast group: the low 23 bits of an IPv4 address (RFC 1112, 6.4), the low 32 of an IPv6
/// one (RFC 2464, 7).
fn mac(ip: IpAddr) -> [u8; 6] {
    match ip {
        IpAddr::V4(ip) => {
            let [_, b, c, d] = ip.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

fn shown_mac(ip: IpAddr) -> String {
    let mut shown = String::new();
    for (i, byte) in mac(ip).iter().enumerate() {
        let colon = if i == 0 { "" } else { ":" };
        // Writing to a String never fails.
        let _ = write!(shown, "{colon}{byte:02x}");
    }
    shown
}

const TABLES: &str = "[floor], [groups.NAME], [rates], [repair], [flow], [roster], [roster.listed], [enrolment], [enrolment.keys], [protection]";

/// A table of the file: its name as written in brackets, without them, and empty for the file itself.
struct Section<'a> {
    name: String,
    at: usize,
    entries: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    /// Refuses the first key, in the file's order, that is not one of `keys`.
    fn allow(&self, keys: &[&str]) -> Result<(), Fault> {
        let unknown = self
            .fields()
            .into_iter()
            .find(|field| !keys.contains(&field.key));
        let Some(Field { key, at, value, .. }) = unknown else {
            return Ok(());
        };
        let (name, key, allowed) = (&self.name, quoted(key), keys.join(", "));
        let what = if !name.is_empty() {
            format!(
                "unknown key {key} in [{name}]; allowed there: {allowed}; correct it or take it out"
            )
        } else if matches!(value, DeValue::Table(_) | DeValue::Array(_)) {
            format!("unknown table {key}; allowed: {TABLES}; correct it or take it out")
        } else {
            format!(
                "key {key} stands outside any table; allowed: {TABLES}; put it under one, or take it out"
            )
        };
        Err(Fault::at(at, what))
    }

    fn get(&'a self, key: &str) -> Option<Field<'a>> {
        self.entries
            .get_key_value(key)
            .map(|entry| self.field(entry))
    }

    /// All entries, in the file's order.
    fn fields(&'a self) -> Vec<Field<'a>> {
        let mut fields: Vec<_> = self.entries.iter().map(|entry| self.field(entry)).collect();
        fields.sort_by_key(|field| field.at);
        fields
    }

    fn field(
        &'a self,
        (key, value): (&'a Spanned<Cow<'a, str>>, &'a Spanned<DeValue<'a>>),
    ) -> Field<'a> {
        Field {
            table: &self.name,
            key: key.get_ref(),
            at: key.span().start,
            value: value.get_ref(),
        }
    }
}

/// An entry of a table: where it stands, and what.
struct Field<'a> {
    table: &'a str,
    key: &'a str,
    at: usize,
    value: &'a DeValue<'a>,
}

impl<'a> Field<'a> {
    /// How messages call it: `ttl in [floor]`.
    fn path(&self) -> String {
        match (self.table, self.key) {
            ("", key) => format!("[{key}]"),
            (table, "") => table.to_owned(),
            (table, key) => format!("{key} in [{table}]"),
        }
    }

    fn wrong_type(&self, expected: &str, advice: &str) -> Fault {
        let found = match self.value {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with decimals",
            DeValue::Boolean(true) => "true",
            DeValue::Boolean(false) => "false",
            DeValue::Datetime(_) => "a date or a time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        Fault::at(
            self.at,
            format!(
                "{} is {found}, but has to be {expected}; {advice}",
                self.path()
            ),
        )
    }

    fn text(&self, example: &str) -> Result<&'a str, Fault> {
        match self.value {
            DeValue::String(text) => Ok(text),
            _ => Err(self.wrong_type("text in double quotes", &format!("write {example}"))),
        }
    }

    fn truth(&self) -> Result<bool, Fault> {
        match self.value {
            DeValue::Boolean(truth) => Ok(*truth),
            _ => Err(self.wrong_type("true or false", "write it without quotes")),
        }
    }

    fn section(&self, example: &str) -> Result<Section<'a>, Fault> {
        let DeValue::Table(entries) = self.value else {
            return Err(self.wrong_type("a table", &format!("write {example}")));
        };
        let name = if self.table.is_empty() {
            self.key.to_owned()
        } else {
            format!("{}.{}", self.table, self.key)
        };
        Ok(Section {
            name,
            at: self.at,
            entries,
        })
    }

    /// A whole number from `least` to `most`. TOML's integers may be longer than any type of ours.
    fn whole<T>(&self, least: T, most: T, advice: &str) -> Result<T, Fault>
    where
        T: Copy + PartialOrd + std::fmt::Display + TryFrom<i128>,
    {
        let DeValue::Integer(integer) = self.value else {
            return Err(self.wrong_type(
                &format!("a whole number from {least} to {most}, without quotes"),
                advice,
            ));
        };
        i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| {
                let number = shortened(&integer.to_string());
                Fault::at(
                    self.at,
                    format!(
                        "{} is {number}, but has to be from {least} to {most}; {advice}",
                        self.path()
                    ),
                )
            })
    }
}

/// Why the file at `path` could not be read, and what to do.
fn why_unreadable(path: &Path, error: &io::Error) -> String {
    if path.is_dir() {
        return "this is a directory; name the floor file in it with --floor PATH".to_owned();
    }
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; name the floor file with --floor PATH".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "this user may not read the file; give read permission, or name another with --floor PATH".to_owned()
        }
        _ => one_line(&format!("cannot read the file: {error}; name another with --floor PATH")),
    }
}

fn not_utf8(bytes: &[u8], error: std::str::Utf8Error, path: &str) -> FloorError {
    let at = error.valid_up_to();
    let found = match bytes {
        // The marks of UTF-16, which Windows editors and PowerShell's `>` write.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file is UTF-16".to_owned(),
        _ => format!(
            "byte {:#04x} at offset {at} is not UTF-8",
            bytes.get(at).copied().unwrap_or(0)
        ),
    };
    FloorError::Line {
        path: path.to_owned(),
        line: line_of(bytes, at),
        what: format!(
            "{found}, but a floor file has to be UTF-8 text; save it as UTF-8 in the editor"
        ),
    }
}

/// The line, from 1, that the byte at offset `at` stands on.
fn line_of(bytes: &[u8], at: usize) -> usize {
    1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count()
}

/// Text of the file as a message shows it: in quotes, cut where it is long, nothing that breaks the line.
fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 70;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// One line of it, whatever a path or another library's message contains.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                ' '
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;

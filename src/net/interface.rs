//! Which network card: listing what the host has, telling the real ones from the virtual ones, and choosing one.
//!
//! Multicast on the wrong card is the commonest way to broadcast to nobody: the default route often points into a VPN,
//! and a container bridge looks like any other card. So the choice is explicit, made once, and said aloud.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use if_addrs::IfOperStatus;

/// What the operator asked for in `floor.toml` or with `--interface`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceSpec {
    /// Let [`choose`] pick a wired or wireless card, never a VPN, a virtual one or the loopback.
    Auto,
    /// The index the operating system gave it (1 and up).
    Index(u32),
    /// Its name, as `ip link` or the Windows network settings show it.
    Name(String),
    /// One of its own addresses.
    Address(IpAddr),
}

impl FromStr for InterfaceSpec {
    type Err = InterfaceError;

    /// `auto`, a decimal index, an IP address, or else a name. Only the empty text is refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            Err(InterfaceError::Empty)
        } else if text.eq_ignore_ascii_case("auto") {
            Ok(Self::Auto)
        } else if let Ok(address) = text.parse() {
            Ok(Self::Address(address))
        } else if let Ok(index) = text.parse() {
            Ok(Self::Index(index))
        } else {
            Ok(Self::Name(text.to_owned()))
        }
    }
}

impl fmt::Display for InterfaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Index(index) => write!(f, "{index}"),
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// One network interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name as the operating system shows it.
    pub name: String,
    /// Index, 1 and up; what sockets join and send by.
    pub index: u32,
    /// The address IPv4 sockets use: the one asked for by [`InterfaceSpec::Address`], else the first.
    pub v4: Option<Ipv4Addr>,
    /// The address IPv6 sockets use: the one asked for, else link-local (every IPv6 card has it, and it does not
    /// change with the router), else the first.
    pub v6: Option<Ipv6Addr>,
    /// All its addresses, in the system's order.
    pub addresses: Vec<IpAddr>,
    /// What sort of card it is.
    pub kind: InterfaceKind,
    /// Whether it is up and has a carrier.
    pub is_up: bool,
}

/// What sort of card an interface is; decides what [`InterfaceSpec::Auto`] may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceKind {
    /// This host only.
    Loopback,
    /// A wired card, or one that cannot be told from it.
    Ordinary,
    /// Wi-Fi: usable, but access points send multicast at the lowest rate and without retries.
    Wireless,
    /// A VPN, container, hypervisor or other card that does not lead to the floor; says which.
    Virtual(&'static str),
}

impl fmt::Display for InterfaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "loopback",
            Self::Ordinary => "wired",
            Self::Wireless => "wireless",
            Self::Virtual(why) => why,
        })
    }
}

impl fmt::Display for Interface {
    /// For screens and logs: `eth0 (wired, index 4, 192.0.2.2)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, index {}", self.name, self.kind, self.index)?;
        if let Some(address) = self.v4.map(IpAddr::V4).or(self.v6.map(IpAddr::V6)) {
            write!(f, ", {address}")?;
        }
        f.write_str(if self.is_up { ")" } else { ", down)" })
    }
}

/// Why no interface could be chosen. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// The setting is there but empty.
    #[error("interface is empty; write auto, a name, an index or an address")]
    Empty,
    /// Nothing here answers to the specification.
    #[error("no interface {wanted} here; {there}; {REMEDY}")]
    Unknown {
        /// The specification in words, such as `named eth7`.
        wanted: String,
        /// What there is, as a clause.
        there: String,
    },
    /// `auto` found no wired or wireless card that is up and has an address.
    #[error("no wired or wireless interface is up and has an address; {there}; {REMEDY}")]
    NoneUsable {
        /// What there is, as a clause.
        there: String,
    },
}

const REMEDY: &str = "set interface in floor.toml or pass --interface";

/// Lists this host's interfaces, lowest index first.
///
/// # Errors
/// Whatever the operating system answers when asked for its interfaces.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = Vec::new();
    let hints = Hints::gather();
    for entry in if_addrs::get_if_addrs()? {
        // Without an index nothing can be joined by it. Wine reports none for ::1, whose card is listed by 127.0.0.1.
        let Some(index) = entry.index else { continue };
        let position = found.iter().position(|known| known.index == index);
        let interface = match position {
            Some(position) => &mut found[position],
            None => {
                let kind = if entry.is_loopback() {
                    InterfaceKind::Loopback
                } else {
                    hints.kind(&entry.name, index, entry.is_p2p())
                };
                let is_up = entry.oper_status == IfOperStatus::Up;
                found.push(Interface::bare(entry.name.clone(), index, kind, is_up));
                let last = found.len() - 1;
                &mut found[last]
            }
        };
        interface.add_address(entry.ip());
    }
    #[cfg(target_os = "linux")]
    linux::add_without_address(&mut found, &hints);
    found.sort_by_key(|interface| interface.index);
    Ok(found)
}

/// Picks the interface `spec` asks for out of `among`.
///
/// [`InterfaceSpec::Auto`] takes only cards that are up, have an address and are wired or wireless; one with an IPv4
/// address comes before one without, wired before wireless, then the lowest index. Anything that is named, by whatever
/// means, is taken whatever its kind and state: the operator knows. The answer's `Display` says what was chosen.
///
/// # Errors
/// [`InterfaceError`], when nothing fits; its text lists what there is.
pub fn choose(spec: &InterfaceSpec, among: &[Interface]) -> Result<Interface, InterfaceError> {
    let unknown = |wanted: String| InterfaceError::Unknown {
        wanted,
        there: list(among),
    };
    match spec {
        InterfaceSpec::Auto => among
            .iter()
            .filter(|card| card.is_up && !card.addresses.is_empty())
            .filter(|card| matches!(card.kind, InterfaceKind::Ordinary | InterfaceKind::Wireless))
            .min_by_key(|card| {
                (
                    card.v4.is_none(),
                    card.kind == InterfaceKind::Wireless,
                    card.index,
                )
            })
            .cloned()
            .ok_or_else(|| InterfaceError::NoneUsable { there: list(among) }),
        InterfaceSpec::Index(index) => among
            .iter()
            .find(|card| card.index == *index)
            .cloned()
            .ok_or_else(|| unknown(format!("with index {index}"))),
        InterfaceSpec::Name(name) => by_name(name, among)
            .cloned()
            .ok_or_else(|| unknown(format!("named {name}"))),
        InterfaceSpec::Address(address) => among
            .iter()
            .find(|card| card.addresses.contains(address))
            .map(|card| card.with_address(*address))
            .ok_or_else(|| unknown(format!("with address {address}"))),
    }
}

fn by_name<'a>(name: &str, among: &'a [Interface]) -> Option<&'a Interface> {
    // Windows names are typed as they are seen, "Ethernet" or "ethernet"; on Unix eth0 and ETH0 may both exist.
    let alike = |card: &&Interface| cfg!(windows) && card.name.eq_ignore_ascii_case(name);
    among
        .iter()
        .find(|card| card.name == name)
        .or_else(|| among.iter().find(alike))
}

fn list(among: &[Interface]) -> String {
    if among.is_empty() {
        return "there are none".to_owned();
    }
    let each = |card: &Interface| {
        let state = if card.is_up { "" } else { ", down" };
        format!("{} ({}{state})", card.name, card.kind)
    };
    format!(
        "there are: {}",
        among.iter().map(each).collect::<Vec<_>>().join(", ")
    )
}

impl Interface {
    fn bare(name: String, index: u32, kind: InterfaceKind, is_up: bool) -> Self {
        Self {
            name,
            index,
            v4: None,
            v6: None,
            addresses: Vec::new(),
            kind,
            is_up,
        }
    }

    fn add_address(&mut self, address: IpAddr) {
        self.addresses.push(address);
        match address {
            IpAddr::V4(v4) => self.v4 = self.v4.or(Some(v4)),
            IpAddr::V6(v6) => {
                let has_link_local = self.v6.is_some_and(|known| known.is_unicast_link_local());
                if self.v6.is_none() || (v6.is_unicast_link_local() && !has_link_local) {
                    self.v6 = Some(v6);
                }
            }
        }
    }

    fn with_address(&self, address: IpAddr) -> Self {
        let mut card = self.clone();
        match address {
            IpAddr::V4(v4) => card.v4 = Some(v4),
            IpAddr::V6(v6) => card.v6 = Some(v6),
        }
        card
    }
}

/// What the operating system knows about the cards beyond their names.
struct Hints {
    #[cfg(windows)]
    adapters: Vec<super::windows::Adapter>,
}

impl Hints {
    /// Hints that cannot be had are done without: names still tell most.
    fn gather() -> Self {
        Self {
            #[cfg(windows)]
            adapters: super::windows::adapters().unwrap_or_default(),
        }
    }

    #[cfg_attr(
        not(windows),
        expect(
            clippy::unused_self,
            unused_variables,
            reason = "Windows looks the index up"
        )
    )]
    fn kind(&self, name: &str, index: u32, is_point_to_point: bool) -> InterfaceKind {
        #[cfg(target_os = "linux")]
        if let Some(kind) = linux::kind(name) {
            return kind;
        }
        #[cfg(windows)]
        if let Some(adapter) = self.adapters.iter().find(|adapter| adapter.index == index) {
            match kind_from_text(&adapter.description) {
                InterfaceKind::Ordinary if adapter.is_wireless => return InterfaceKind::Wireless,
                InterfaceKind::Ordinary => {}
                kind => return kind,
            }
        }
        match kind_from_text(name) {
            InterfaceKind::Ordinary if is_point_to_point => InterfaceKind::Virtual(VPN),
            kind => kind,
        }
    }
}

const VPN: &str = "VPN or tunnel";
const CONTAINER: &str = "container";
const HYPERVISOR: &str = "hypervisor";
const CELLULAR: &str = "mobile network";
const BLUETOOTH: &str = "Bluetooth";
const DUMMY: &str = "virtual";

/// Beginnings of names that systems and programs give to cards of their own making, in lower case,
/// parted by bars. The first that fits decides.
const PREFIXES: &[(&str, &str)] = &[
    (HYPERVISOR, "virbr|vnet|vmnet|vboxnet|vethernet"),
    (
        CONTAINER,
        "docker|podman|veth|cni|cali|flannel|cilium|kube|lxc|lxd",
    ),
    (
        VPN,
        "tun|tap|utun|wg|ppp|ipsec|vti|gre|sit|ip6tnl|vpn|tailscale|zt",
    ),
    (VPN, "nebula|nordlynx|proton|cscotun|gpd|cloudflarewarp"),
    (CELLULAR, "wwan|wwp"),
    (BLUETOOTH, "bnep"),
    (DUMMY, "dummy|ifb|awdl|llw"),
];

/// Words in Windows descriptions and connection names, likewise. Not plain "hyper-v" or "vmware": a
/// guest's own card is called "Microsoft Hyper-V Network Adapter" and does lead to the floor.
const WORDS: &[(&str, &str)] = &[
    (
        VPN,
        "vpn|tap-windows|wintun|wireguard|tailscale|zerotier|tunnel",
    ),
    (
        VPN,
        "anyconnect|globalprotect|pangp|fortinet|zscaler|wan miniport",
    ),
    (HYPERVISOR, "vmware virtual|virtualbox|hyper-v virtual"),
    (BLUETOOTH, "bluetooth"),
    (CELLULAR, "mobile broadband"),
    (DUMMY, "loopback|virtual"),
];

/// Kind by name or description alone; what nothing is known about is ordinary.
fn kind_from_text(text: &str) -> InterfaceKind {
    let text = text.to_lowercase();
    let by_prefix =
        |(_, all): &&(&str, &str)| all.split('|').any(|prefix| text.starts_with(prefix));
    let by_word = |(_, all): &&(&str, &str)| all.split('|').any(|word| text.contains(word));
    let known = PREFIXES.iter().find(by_prefix);
    if let Some((why, _)) = known.or_else(|| WORDS.iter().find(by_word)) {
        return InterfaceKind::Virtual(why);
    }
    // Docker's user networks: br- and twelve hexadecimal digits. A plain br0 may well hold the host's real card.
    let digits = text.strip_prefix("br-").unwrap_or_default();
    if digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return InterfaceKind::Virtual(CONTAINER);
    }
    let is_wireless = ["wl", "wi-fi", "wifi", "wireless"]
        .iter()
        .any(|prefix| text.starts_with(prefix));
    if is_wireless {
        InterfaceKind::Wireless
    } else {
        InterfaceKind::Ordinary
    }
}

/// What sysfs knows, which a renamed card cannot hide from.
#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::path::Path;

    use super::{CELLULAR, DUMMY, Hints, Interface, InterfaceKind, VPN};

    const SYSFS: &str = "/sys/class/net";
    const ARPHRD_LOOPBACK: &str = "772";

    /// The kind, where sysfs is sure; names decide the rest.
    pub(super) fn kind(name: &str) -> Option<InterfaceKind> {
        let card = Path::new(SYSFS).join(name);
        if fs::read_to_string(card.join("type")).is_ok_and(|text| text.trim() == ARPHRD_LOOPBACK) {
            return Some(InterfaceKind::Loopback);
        }
        if card.join("wireless").exists() || card.join("phy80211").exists() {
            return Some(InterfaceKind::Wireless);
        }
        if card.join("tun_flags").exists() {
            return Some(InterfaceKind::Virtual(VPN));
        }
        let uevent = fs::read_to_string(card.join("uevent")).unwrap_or_default();
        let devtype = uevent
            .lines()
            .find_map(|line| line.strip_prefix("DEVTYPE="));
        match devtype.unwrap_or_default() {
            "wireguard" | "ppp" => Some(InterfaceKind::Virtual(VPN)),
            "wwan" => Some(InterfaceKind::Virtual(CELLULAR)),
            // A bridge leads to the floor if a real card is plugged into it, as on a host of virtual machines.
            "bridge" if !has_real_port(&card) => match super::kind_from_text(name) {
                InterfaceKind::Virtual(why) => Some(InterfaceKind::Virtual(why)),
                _ => Some(InterfaceKind::Virtual(DUMMY)),
            },
            _ => None,
        }
    }

    fn has_real_port(bridge: &Path) -> bool {
        let ports = fs::read_dir(bridge.join("brif"))
            .into_iter()
            .flatten()
            .flatten();
        ports
            .map(|port| Path::new(SYSFS).join(port.file_name()))
            .any(|port| port.join("device").exists())
    }

    /// Adds cards that have no address, so that "no interface named eth1" is never said of one that is there.
    pub(super) fn add_without_address(found: &mut Vec<Interface>, hints: &Hints) {
        for entry in fs::read_dir(SYSFS).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let Ok(index) = read("ifindex").trim().parse() else {
                continue;
            };
            if found.iter().any(|known| known.index == index) {
                continue;
            }
            let kind = hints.kind(&name, index, false);
            found.push(Interface::bare(
                name,
                index,
                kind,
                read("operstate").trim() == "up",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(name: &str, index: u32, v4: Option<[u8; 4]>) -> Interface {
        let mut card = Interface::bare(name.to_owned(), index, kind_from_text(name), true);
        if let Some(v4) = v4 {
            card.add_address(IpAddr::from(v4));
        }
        card
    }

    fn lo() -> Interface {
        let mut lo = card("lo", 1, Some([127, 0, 0, 1]));
        lo.kind = InterfaceKind::Loopback;
        lo
    }

    fn auto(cards: &[Interface]) -> String {
        choose(&InterfaceSpec::Auto, cards)
            .map_or_else(|error| error.to_string(), |chosen| chosen.name)
    }

    #[test]
    fn auto_prefers_wired_then_wireless_and_never_takes_a_virtual_one() {
        let wired = card("eth0", 9, Some([192, 0, 2, 9]));
        let wireless = card("wlan0", 2, Some([192, 0, 2, 2]));
        let virtuals: Vec<_> = [
            "tun0",
            "docker0",
            "veth12ab",
            "wg0",
            "br-0123456789ab",
            "virbr0",
            "utun3",
        ]
        .iter()
        .zip(10..)
        .map(|(name, index)| card(name, index, Some([10, 0, 0, 1])))
        .collect();
        let with = |extra: &[&Interface]| {
            let mut cards = vec![lo()];
            cards.extend(virtuals.iter().chain(extra.iter().copied()).cloned());
            cards
        };
        assert_eq!(auto(&with(&[&wireless, &wired])), "eth0");
        assert_eq!(auto(&with(&[&wireless])), "wlan0");
        assert_eq!(
            auto(&with(&[&wired, &card("eth1", 3, Some([192, 0, 2, 3]))])),
            "eth1"
        );
        let mut down = wired.clone();
        down.is_up = false;
        assert_eq!(auto(&with(&[&down, &wireless])), "wlan0");
        // A wired card with IPv6 alone gives way to a wireless one that the floor's IPv4 groups can use.
        let mut v6_only = card("eth2", 4, None);
        v6_only.add_address("fe80::1".parse().unwrap());
        assert_eq!(auto(&with(&[&v6_only, &wireless])), "wlan0");
        assert_eq!(auto(&with(&[&v6_only])), "eth2");
    }

    #[test]
    fn a_named_interface_is_taken_whatever_its_kind() {
        let cards = [lo(), card("tun0", 5, Some([10, 8, 0, 2]))];
        for (text, name) in [
            ("lo", "lo"),
            ("1", "lo"),
            ("127.0.0.1", "lo"),
            ("tun0", "tun0"),
            ("10.8.0.2", "tun0"),
        ] {
            assert_eq!(choose(&text.parse().unwrap(), &cards).unwrap().name, name);
        }
    }

    #[test]
    fn an_address_asked_for_becomes_the_one_that_is_used() {
        let mut eth = card("eth0", 2, Some([192, 0, 2, 1]));
        eth.add_address(IpAddr::from([192, 0, 2, 7]));
        let chosen = choose(&"192.0.2.7".parse().unwrap(), &[eth]).unwrap();
        assert_eq!(chosen.v4, Some(Ipv4Addr::new(192, 0, 2, 7)));
    }

    #[test]
    fn errors_say_what_there_is_and_what_to_do() {
        let mut down = card("eth0", 2, None);
        down.is_up = false;
        let cards = [lo(), down, card("tun0", 3, Some([10, 8, 0, 2]))];
        let say = |spec: &str| {
            choose(&spec.parse().unwrap(), &cards)
                .unwrap_err()
                .to_string()
        };
        let there = "there are: lo (loopback), eth0 (wired, down), tun0 (VPN or tunnel); \
                     set interface in floor.toml or pass --interface";
        assert_eq!(
            say("eth7"),
            format!("no interface named eth7 here; {there}")
        );
        assert_eq!(
            say("77"),
            format!("no interface with index 77 here; {there}")
        );
        assert_eq!(
            say("192.0.2.1"),
            format!("no interface with address 192.0.2.1 here; {there}")
        );
        assert_eq!(
            say("auto"),
            format!("no wired or wireless interface is up and has an address; {there}")
        );
        assert_eq!(
            choose(&InterfaceSpec::Index(1), &[])
                .unwrap_err()
                .to_string(),
            "no interface with index 1 here; there are none; set interface in floor.toml or pass --interface"
        );
    }

    #[test]
    fn spec_parses_and_prints_back() {
        use InterfaceSpec::{Address, Auto, Index, Name};
        for (text, spec, printed) in [
            ("auto", Auto, "auto"),
            (" AUTO ", Auto, "auto"),
            ("0", Index(0), "0"),
            ("4294967295", Index(u32::MAX), "4294967295"),
            ("4294967296", Name("4294967296".into()), "4294967296"),
            (
                "192.0.2.1",
                Address(IpAddr::from([192, 0, 2, 1])),
                "192.0.2.1",
            ),
            ("::1", Address(IpAddr::V6(Ipv6Addr::LOCALHOST)), "::1"),
            ("Ethernet 2", Name("Ethernet 2".into()), "Ethernet 2"),
        ] {
            assert_eq!(text.parse::<InterfaceSpec>().unwrap(), spec);
            assert_eq!(spec.to_string(), printed);
        }
        assert!(matches!(
            " ".parse::<InterfaceSpec>(),
            Err(InterfaceError::Empty)
        ));
    }

    #[test]
    fn kinds_are_told_by_name_and_description() {
        use InterfaceKind::{Ordinary, Virtual, Wireless};
        for (text, kind) in [
            ("eth0", Ordinary),
            ("enp3s0", Ordinary),
            ("bond0", Ordinary),
            ("br0", Ordinary),
            ("Ethernet", Ordinary),
            ("Microsoft Hyper-V Network Adapter", Ordinary),
            ("Red Hat VirtIO Ethernet Adapter", Ordinary),
            ("wlp2s0", Wireless),
            ("Wi-Fi", Wireless),
            ("vEthernet (Default Switch)", Virtual(HYPERVISOR)),
            ("Hyper-V Virtual Ethernet Adapter", Virtual(HYPERVISOR)),
            ("TAP-Windows Adapter V9", Virtual(VPN)),
            ("PANGP Virtual Ethernet Adapter", Virtual(VPN)),
            ("Cisco AnyConnect Virtual Miniport Adapter", Virtual(VPN)),
            ("Bluetooth Network Connection", Virtual(BLUETOOTH)),
        ] {
            assert_eq!(kind_from_text(text), kind, "{text}");
        }
    }

    #[test]
    fn this_host_has_a_loopback_that_auto_does_not_take() {
        let here = interfaces().unwrap();
        assert!(
            here.iter()
                .any(|card| card.kind == InterfaceKind::Loopback && card.v4.is_some())
        );
        assert!(here.is_sorted_by_key(|card| card.index));
        if let Ok(chosen) = choose(&InterfaceSpec::Auto, &here) {
            assert!(
                matches!(
                    chosen.kind,
                    InterfaceKind::Ordinary | InterfaceKind::Wireless
                ),
                "{chosen}"
            );
        }
    }
}

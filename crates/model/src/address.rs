//! Special-purpose IP networks: which addresses are on the public internet, and which belong to
//! this machine, a private network or a cloud's metadata service.
//!
//! The one list of the project. The SSRF guards ([`is_public`]), the firewall of the local runner
//! and the network policy of the Kubernetes driver ([`SPECIAL_PURPOSE_V4`]) derive from it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A network that is not globally reachable.
#[derive(Clone, Copy, Debug)]
pub struct SpecialPurpose<N> {
    pub network: N,
    pub name: &'static str,
    pub source: &'static str,
}

const fn v4(
    a: u8,
    b: u8,
    c: u8,
    prefix: u8,
    name: &'static str,
    source: &'static str,
) -> SpecialPurpose<Ipv4Net> {
    SpecialPurpose {
        network: Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix),
        name,
        source,
    }
}

const fn v6(a: u16, b: u16, prefix: u8, name: &'static str, source: &'static str) -> SpecialPurpose<Ipv6Net> {
    SpecialPurpose {
        network: Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix),
        name,
        source,
    }
}

/// IANA IPv4 Special-Purpose Address Registry (RFC 6890) and multicast, in order and without
/// overlaps. The registry's blocks that are globally reachable (AS112, AMT) are not in it; those
/// within 192.0.0.0/24 are refused with the whole block.
pub const SPECIAL_PURPOSE_V4: [SpecialPurpose<Ipv4Net>; 15] = [
    v4(0, 0, 0, 8, "this network", "RFC 791, 3.2"),
    v4(10, 0, 0, 8, "private use", "RFC 1918"),
    // Carrier-grade NAT. The local runner's sandboxes have their addresses here.
    v4(100, 64, 0, 10, "shared address space", "RFC 6598"),
    v4(127, 0, 0, 8, "loopback", "RFC 1122, 3.2.1.3"),
    // Clouds have their metadata service at 169.254.169.254.
    v4(169, 254, 0, 16, "link-local", "RFC 3927"),
    v4(172, 16, 0, 12, "private use", "RFC 1918"),
    v4(192, 0, 0, 24, "IETF protocol assignments", "RFC 6890, 2.1"),
    v4(192, 0, 2, 24, "documentation (TEST-NET-1)", "RFC 5737"),
    v4(192, 88, 99, 24, "6to4 relay anycast (deprecated)", "RFC 7526"),
    v4(192, 168, 0, 16, "private use", "RFC 1918"),
    v4(198, 18, 0, 15, "benchmarking", "RFC 2544"),
    v4(198, 51, 100, 24, "documentation (TEST-NET-2)", "RFC 5737"),
    v4(203, 0, 113, 24, "documentation (TEST-NET-3)", "RFC 5737"),
    v4(224, 0, 0, 4, "multicast", "RFC 5771"),
    // Contains the limited broadcast address, 255.255.255.255 (RFC 919).
    v4(240, 0, 0, 4, "reserved", "RFC 1112, 4"),
];

/// IANA IPv6 Special-Purpose Address Registry (RFC 6890), within [`GLOBAL_UNICAST_V6`].
/// Globally reachable blocks within 2001::/23 (AS112, ORCHIDv2) are refused with the whole block:
/// no registry and no model provider has an address there.
pub const SPECIAL_PURPOSE_V6: [SpecialPurpose<Ipv6Net>; 3] = [
    // Teredo (RFC 4380), benchmarking (RFC 5180), ORCHID (RFC 4843) and others.
    v6(0x2001, 0, 23, "IETF protocol assignments", "RFC 2928"),
    v6(0x2001, 0xdb8, 32, "documentation", "RFC 3849"),
    v6(0x3fff, 0, 20, "documentation", "RFC 9637"),
];

/// All that is outside of it is loopback, local, multicast, reserved, or embeds an IPv4 address
/// (RFC 4291, 2.4).
pub const GLOBAL_UNICAST_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// NAT64's well-known prefix: the last 32 bits are an IPv4 address (RFC 6052).
const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// 6to4: bits 16 to 47 are an IPv4 address (RFC 3056).
const SIX_TO_FOUR: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// Whether a host name always leads to the machine itself: `localhost`, or a name below it (RFC 6761, 6.3). It is in
/// lower case, and has no dot at its end.
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether `address` is on the public internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_PURPOSE_V4
        .iter()
        .any(|special| special.network.contains(&address))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let [_, a, b, .., c, d] = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    if NAT64.contains(&address) {
        return embedded(c, d);
    }
    if SIX_TO_FOUR.contains(&address) {
        return embedded(a, b);
    }
    GLOBAL_UNICAST_V6.contains(&address)
        && !SPECIAL_PURPOSE_V6
            .iter()
            .any(|special| special.network.contains(&address))
}

/// A network as in settings: `10.1.0.0/16`, or a single address such as `192.168.1.7`. An
/// [`IpNet`] that also contains the IPv4-mapped form of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(Self)
            .map_err(|_| format!("`{text}` is not a network such as 10.1.0.0/16"))
    }
}

impl Network {
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_open_internet_are_public() {
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.2",
            "0.0.0.0",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "224.0.0.1",
            "255.255.255.255",
            "2001:db8::1",
            "2001::1",
            "2001:2::1",
            "3fff::1",
            "4000::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn no_address_of_a_special_purpose_network_is_public_and_its_neighbors_are() {
        for special in SPECIAL_PURPOSE_V4 {
            let network = special.network;
            assert_eq!(network, network.trunc(), "{special:?}");
            for inside in [network.network(), network.broadcast()] {
                assert!(!is_public(inside.into()), "{special:?}");
                assert!(!is_public(inside.to_ipv6_mapped().into()), "{special:?}");
            }
        }
        for special in SPECIAL_PURPOSE_V6 {
            assert_eq!(special.network, special.network.trunc(), "{special:?}");
            assert!(!is_public(special.network.broadcast().into()), "{special:?}");
        }
        for public in [
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_network_has_the_addresses_of_its_prefix() {
        let network: Network = "198.51.100.0/24".parse().unwrap();
        assert!(network.contains("198.51.100.7".parse().unwrap()));
        assert!(network.contains("::ffff:198.51.100.7".parse().unwrap()));
        assert!(!network.contains("198.51.101.7".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        let one: Network = "10.0.0.1".parse().unwrap();
        assert!(one.contains("10.0.0.1".parse().unwrap()) && !one.contains("10.0.0.2".parse().unwrap()));
        for wrong in ["10.0.0.0/33", "x/8", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}

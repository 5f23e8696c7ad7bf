//! Public addresses that an SSRF guard may connect to: those of other machines.
//!
//! A request to a public address of this machine never leaves it, and past a firewall in front of the machine it reaches
//! services that the internet does not. So such an address counts as private. The interfaces are read at each check, because
//! addresses come and go; that is one request to the kernel. An address that a router translates to this machine is not known
//! here.

use std::net::IpAddr;

use fsa_model::address::is_public;

/// Whether `address` is on the public internet, and not one of this machine.
#[must_use]
pub fn is_public_elsewhere(address: IpAddr) -> bool {
    is_public(address) && !own_addresses().any(|own| own == address.to_canonical())
}

/// The addresses of this machine's interfaces; none where they cannot be read.
fn own_addresses() -> impl Iterator<Item = IpAddr> {
    nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| {
            let address = interface.address?;
            address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interfaces_of_this_machine_are_read() {
        assert!(own_addresses().any(|own| own.is_loopback()));
        for own in own_addresses() {
            assert!(!is_public_elsewhere(own), "{own}");
        }
        assert!(!is_public_elsewhere("10.0.0.1".parse().unwrap()));
        assert!(is_public_elsewhere("1.1.1.1".parse().unwrap()));
    }
}

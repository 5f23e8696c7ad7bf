//! DNS resolvers of the sandboxes.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
};

/// Resolvers, and a warning for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// At most three, as many as the C library uses (`MAXNS`, resolv.conf(5)).
    pub addresses: Vec<Ipv4Addr>,
    pub warning: Option<String>,
}

/// The configured ones, else those of the machine.
#[must_use]
pub fn find(configured: &[Ipv4Addr]) -> Resolvers {
    if !configured.is_empty() {
        return Resolvers {
            addresses: configured.iter().copied().take(3).collect(),
            warning: None,
        };
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // systemd-resolved listens on 127.0.0.53 and writes the real ones to the second file.
    choose(
        &read("/etc/resolv.conf"),
        &read("/run/systemd/resolve/resolv.conf"),
    )
}

fn choose(resolv_conf: &str, behind_stub: &str) -> Resolvers {
    let direct = nameservers(resolv_conf);
    let only_loopback = !direct.is_empty() && direct.iter().all(IpAddr::is_loopback);
    let all = if only_loopback {
        nameservers(behind_stub)
    } else {
        direct
    };
    let addresses: Vec<Ipv4Addr> = all
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) if !address.is_loopback() => Some(*address),
            _ => None,
        })
        .take(3)
        .collect();
    let warning = addresses.is_empty().then(|| {
        "no name can be resolved in a sandbox: this machine's resolver listens on loopback or IPv6 \
         only, which sandboxes cannot reach; name another one in the setting `resolvers`"
            .to_owned()
    });
    Resolvers { addresses, warning }
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolvers_behind_a_loopback_stub_are_used() {
        let found = choose(
            "nameserver 127.0.0.53\noptions edns0\n",
            "nameserver 10.0.0.1\nnameserver fd00::1\n",
        );
        assert_eq!(found.addresses, [Ipv4Addr::new(10, 0, 0, 1)]);
        assert_eq!(found.warning, None);
    }

    #[test]
    fn a_resolver_that_sandboxes_cannot_reach_gives_a_warning() {
        for text in ["nameserver 127.0.0.1\n", "", "nameserver fd00::1\n"] {
            let found = choose(text, "");
            assert!(found.addresses.is_empty() && found.warning.is_some(), "{text}");
        }
    }
}

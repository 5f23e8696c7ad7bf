//! Firewall of the sandboxes: one nftables table, loaded as a whole.
//!
//! Its rules match the interface group of all near interfaces, so they are loaded once and a
//! start or stop changes nothing. Chains of other tables are never touched; what those drop stays
//! dropped. (nftables: a packet must be accepted by every table.)

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use fsa_model::{Failure, address::SPECIAL_PURPOSE_V4};

use super::netns::GATEWAY;
use crate::protocol::machine;

/// Everything that is not globally reachable, as the elements of an nftables set. The resolvers'
/// addresses (169.254.1.1 and following) are the one exception, on port 53 alone: rules before the
/// refusal accept them.
fn refused_networks() -> String {
    SPECIAL_PURPOSE_V4
        .map(|special| special.network.to_string())
        .join(", ")
}

/// Input of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub table: String,
    pub group: u32,
    /// IPv4 networks, and `host`.
    pub allowed: Vec<String>,
    /// Reached by sandboxes, in this order, as 169.254.1.1, .2, .3.
    pub resolvers: Vec<Ipv4Addr>,
}

/// Checks a list of allowed networks.
///
/// # Errors
/// The invalid network, and the rule.
pub fn check_allowed(allowed: &[String]) -> Result<(), String> {
    for network in allowed {
        let (address, bits) = network.split_once('/').unwrap_or((network, "32"));
        let right = network == "host"
            || (address.parse::<Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32));
        if !right {
            return Err(format!(
                "{network:?} in the setting `allowed_networks` is not a network: write `10.1.0.0/16`, \
                 `192.168.1.7` or `host`"
            ));
        }
    }
    Ok(())
}

/// The addresses at which sandboxes reach the resolvers.
#[must_use]
pub fn nameservers(resolvers: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    (0u32..)
        .zip(resolvers)
        .map(|(n, _)| Ipv4Addr::from(u32::from(GATEWAY) + n))
        .collect()
}

/// The table as nft reads it; loading it replaces a table of the same name in one transaction.
#[must_use]
pub fn ruleset(policy: &Policy) -> String {
    let Policy {
        table,
        group,
        allowed,
        resolvers,
    } = policy;
    let networks: Vec<&str> = allowed
        .iter()
        .map(String::as_str)
        .filter(|network| *network != "host")
        .collect();
    let host = allowed.iter().any(|network| network == "host");
    let mut dns = String::new();
    for (nameserver, resolver) in nameservers(resolvers).iter().zip(resolvers) {
        let _ = writeln!(
            dns,
            "    iifgroup {group} ip daddr {nameserver} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {resolver}"
        );
    }
    let allowed_rule = if networks.is_empty() {
        String::new()
    } else {
        format!("    ip daddr {{ {} }} accept\n", networks.join(", "))
    };
    let host_rule = if host { "    accept\n" } else { "" };
    format!(
        "table inet {table} {{}}
delete table inet {table}
table inet {table} {{
  comment \"FullStack Agent: what its sandboxes may reach; replaced when it starts\"
  chain from_sandbox {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup != {group} accept
    meta nfproto != ipv4 drop
    fib saddr . iif oif missing drop
  }}
  chain ask_dns {{
    type nat hook prerouting priority dstnat; policy accept;
{dns}  }}
  chain pass_on {{
    type filter hook forward priority filter; policy accept;
    iifgroup {group} jump outward
    oifgroup {group} jump inward
  }}
  chain outward {{
    ct state established,related accept
    ct status dnat meta l4proto {{ tcp, udp }} th dport 53 accept
    oifgroup {group} reject with icmpx admin-prohibited
{allowed_rule}    ip daddr {{ {refused} }} reject with icmpx admin-prohibited
  }}
  chain inward {{
    ct state established,related accept
    drop
  }}
  chain to_machine {{
    type filter hook input priority filter; policy accept;
    iifgroup != {group} accept
    ct state established,related accept
    ct status dnat meta l4proto {{ tcp, udp }} th dport 53 accept
{host_rule}    reject with icmpx admin-prohibited
  }}
  chain from_machine {{
    type filter hook output priority filter; policy accept;
    oifgroup {group} jump inward
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    iifgroup {group} oifgroup != {group} masquerade
  }}
}}
",
        refused = refused_networks(),
    )
}

/// The table inside a rootless sandbox: the same refusals for what it sends. It receives only
/// answers.
#[must_use]
pub fn ruleset_inside(allowed: &[String], resolvers: &[Ipv4Addr], machine: &[Ipv4Addr]) -> String {
    let list = |addresses: &[Ipv4Addr]| {
        addresses
            .iter()
            .map(Ipv4Addr::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let networks: Vec<&str> = allowed
        .iter()
        .map(String::as_str)
        .filter(|network| *network != "host")
        .collect();
    let gateway = [GATEWAY];
    let dns = list(if resolvers.is_empty() { &gateway } else { resolvers });
    let machine_rule = match (
        machine.is_empty(),
        allowed.iter().any(|network| network == "host"),
    ) {
        (true, _) => String::new(),
        (false, true) => format!("    ip daddr {{ {} }} accept\n", list(machine)),
        (false, false) => format!(
            "    ip daddr {{ {} }} reject with icmpx admin-prohibited\n",
            list(machine)
        ),
    };
    let allowed_rule = if networks.is_empty() {
        String::new()
    } else {
        format!("    ip daddr {{ {} }} accept\n", networks.join(", "))
    };
    format!(
        "table inet fsa {{
  chain outward {{
    type filter hook output priority filter; policy accept;
    oifname \"lo\" accept
    meta nfproto != ipv4 drop
    ip daddr {{ {dns} }} meta l4proto {{ tcp, udp }} th dport 53 accept
{machine_rule}{allowed_rule}    ip daddr {{ {refused} }} reject with icmpx admin-prohibited
  }}
}}
",
        refused = refused_networks(),
    )
}

/// Loads the table, and lets the machine forward packets.
///
/// # Errors
/// nft is missing, or failed; with its message.
pub fn load(policy: &Policy) -> Result<(), Failure> {
    nft(&ruleset(policy))?;
    forward()
}

/// Removes the table; a missing one is not an error.
pub fn unload(table: &str) {
    let _ = nft(&format!("table inet {table} {{}}\ndelete table inet {table}\n"));
}

/// Has nft read `text`, in the calling thread's network namespace.
///
/// # Errors
/// nft is missing, or failed; with its message.
pub fn nft(text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            machine(
                "the program nft is missing, without which sandboxes cannot be isolated: install nftables (Debian: apt-get install nftables)",
            )
        } else {
            machine(format!("the program nft could not be run: {error}"))
        }
    };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", super::config::PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A failure shows in its status.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let output_text: String = String::from_utf8_lossy(&output.stderr)
        .chars()
        .take(400)
        .collect();
    let advice = if output_text.contains("not supported") || output_text.contains("No such file") {
        " (the kernel may lack nf_tables, nft_fib_inet, nft_masq or nft_nat)"
    } else {
        ""
    };
    Err(machine(format!(
        "nft refused the firewall's rules{advice}: {}",
        output_text.trim()
    )))
}

fn forward() -> Result<(), Failure> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(SWITCH).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    fs::write(SWITCH, "1").map_err(|error| {
        machine(format!(
            "sandboxes cannot reach the network: net.ipv4.ip_forward could not be set ({error})"
        ))
    })?;
    tracing::info!("net.ipv4.ip_forward is now 1, so that sandboxes can reach the network");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str]) -> Policy {
        Policy {
            table: "fsa_1".into(),
            group: 7,
            allowed: allowed.iter().map(|network| (*network).to_owned()).collect(),
            resolvers: vec![Ipv4Addr::new(10, 0, 0, 53), Ipv4Addr::new(9, 9, 9, 9)],
        }
    }

    #[test]
    fn an_allowed_network_is_accepted_before_the_private_ones_are_refused() {
        let rules = ruleset(&policy(&["10.1.0.0/16", "host"]));
        let (accept, refuse) = (
            rules.find("{ 10.1.0.0/16 } accept").unwrap(),
            rules.find("10.0.0.0/8").unwrap(),
        );
        assert!(accept < refuse);
    }

    #[test]
    fn nothing_is_allowed_that_was_not_configured() {
        let rules = ruleset(&policy(&[]));
        let machine =
            &rules[rules.find("chain to_machine").unwrap()..rules.find("chain from_machine").unwrap()];
        assert!(!machine.contains("\n    accept"));
    }

    #[test]
    fn a_rootless_sandbox_is_refused_the_machine_even_where_its_network_is_allowed() {
        let own = [Ipv4Addr::new(10, 1, 0, 5)];
        let rules = ruleset_inside(&["10.1.0.0/16".into()], &[], &own);
        let position = |text: &str| rules.find(text).unwrap();
        assert!(position("{ 10.1.0.5 } reject") < position("{ 10.1.0.0/16 } accept"));
        assert!(position("{ 10.1.0.0/16 } accept") < position("10.0.0.0/8"));
        assert!(ruleset_inside(&["host".into()], &[], &own).contains("{ 10.1.0.5 } accept"));
    }

    #[test]
    fn each_resolver_has_a_separate_address() {
        let rules = ruleset(&policy(&[]));
        assert!(
            rules.contains("daddr 169.254.1.1 meta l4proto { tcp, udp } th dport 53 dnat ip to 10.0.0.53")
        );
        assert!(rules.contains("daddr 169.254.1.2 meta l4proto { tcp, udp } th dport 53 dnat ip to 9.9.9.9"));
    }

    #[test]
    fn an_invalid_network_is_named() {
        assert!(check_allowed(&["10.0.0.0/8".into(), "1.2.3.4".into(), "host".into()]).is_ok());
        for wrong in ["10.0.0.0/33", "x", "", "0.0.0.0/0 accept; drop"] {
            assert!(
                check_allowed(&[wrong.to_owned()])
                    .unwrap_err()
                    .contains("allowed_networks")
            );
        }
    }
}

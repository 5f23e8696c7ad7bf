//! SSRF guard: allowed addresses of registries.
//!
//! Users name images freely, and a registry's answers name further addresses (redirects, token
//! servers). Without a guard, an image's name could make this machine connect to its own services,
//! to its neighbors or to a cloud's metadata address. So addresses are checked where connections
//! are made: a name is resolved once, refused if any of its addresses is not public, and the
//! checked addresses are the ones that are connected to.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use fsa_driver::own_addresses::is_public_elsewhere;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Refused address of a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is in a private network or on this machine itself")]
pub struct RefusedAddress {
    pub host: String,
}

/// The allowed addresses of one HTTP client.
#[derive(Clone, Debug, Default)]
pub struct SsrfGuard {
    /// `host` or `host:port`, in lower case.
    allowed: HashSet<String>,
}

impl SsrfGuard {
    /// Allows public addresses, and those that `allowed` (`host` or `host:port`) names.
    pub fn new<'a>(allowed: impl IntoIterator<Item = &'a String>) -> Self {
        Self {
            allowed: allowed.into_iter().map(|entry| entry.to_lowercase()).collect(),
        }
    }

    /// Whether `authority` (`host` or `host:port`) is allowed by name.
    pub fn allows(&self, authority: &str) -> bool {
        let authority = authority.to_lowercase();
        self.allowed.contains(&authority) || self.allowed.contains(host_of(&authority))
    }

    /// Checks a URL whose host is an address. Names are checked when they are resolved.
    pub fn check(&self, url: &Url) -> Result<(), RefusedAddress> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) => return Ok(()),
            None => {
                return Err(RefusedAddress {
                    host: url.as_str().chars().take(100).collect(),
                });
            }
        };
        let host = url.host_str().unwrap_or_default();
        let authority = url
            .port_or_known_default()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        if is_public_elsewhere(address) || self.allows(&authority) || self.allows(host) {
            Ok(())
        } else {
            Err(RefusedAddress {
                host: host.to_owned(),
            })
        }
    }
}

impl Resolve for SsrfGuard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_lowercase();
        // The port is unknown here, and not needed: the guard is for one registry that the operator trusts, or allows
        // no name.
        let allowed = self.allowed.iter().any(|entry| host_of(entry) == host);
        Box::pin(async move {
            let lookup = tokio::net::lookup_host((host.as_str(), 0));
            let addresses: Vec<SocketAddr> = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await??.collect();
            if !allowed && addresses.iter().any(|address| !is_public_elsewhere(address.ip())) {
                return Err(RefusedAddress { host }.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Without the port; a bracketed IPv6 address keeps its brackets.
pub fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_address_in_any_spelling_is_refused_unless_it_is_allowed() {
        let open = SsrfGuard::default();
        for url in [
            "http://127.0.0.1:80/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            assert!(open.check(&url.parse().unwrap()).is_err(), "{url}");
        }
        let named = SsrfGuard::new(&["127.0.0.1:5000".to_owned()]);
        assert!(named.check(&"http://127.0.0.1:5000/v2/".parse().unwrap()).is_ok());
        assert!(
            named
                .check(&"http://127.0.0.1:5001/v2/".parse().unwrap())
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_refused_when_it_is_resolved() {
        let refused = SsrfGuard::default()
            .resolve("localhost".parse().unwrap())
            .await
            .err()
            .unwrap();

        assert!(refused.downcast_ref::<RefusedAddress>().is_some(), "{refused}");
        assert!(
            SsrfGuard::new(&["localhost:5000".to_owned()])
                .resolve("localhost".parse().unwrap())
                .await
                .is_ok()
        );
    }
}

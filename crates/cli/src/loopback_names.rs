//! Name resolution of the client: names below `localhost` are this machine (RFC 6761, 6.3). Browsers and curl know that;
//! glibc without a module for it asks a DNS server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fsa_model::address::is_localhost;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

pub struct LoopbackNames;

impl Resolve for LoopbackNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let name = name.as_str().to_ascii_lowercase();
            if is_localhost(name.strip_suffix('.').unwrap_or(&name)) {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                return Ok(Box::new(loopback.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs);
            }
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_below_localhost_is_this_machine() {
        for name in ["localhost", "www.fsa.localhost", "Shop--3000.Apps.FSA.localhost."] {
            let found = LoopbackNames.resolve(name.parse().unwrap()).await.expect(name);
            assert!(
                found.into_iter().all(|address| address.ip().is_loopback()),
                "{name}"
            );
        }
    }
}

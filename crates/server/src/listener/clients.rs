//! Clients by their network: how many connections each has open, and which of them claim to forward for others.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    auth::Address,
    keyed_count::{KeyedCount, Permit},
    login_throttle::network_of,
};

/// How often a network is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Maximum number of networks that are remembered as reported. Beyond it, no further one is, for up to an hour.
const MAX_REPORTED: usize = 256;

/// Counts open connections per network. There are never more entries than connections.
#[derive(Clone, Default)]
pub(super) struct Connections(KeyedCount<IpAddr>);

impl Connections {
    /// A permit for one more connection from `peer`; `None` if it has `max` already.
    pub(super) fn acquire(&self, peer: IpAddr, max: usize) -> Option<Permit<IpAddr>> {
        self.0.acquire(network_of(Address(Some(peer)))?, max)
    }
}

/// The networks whose forwarding headers were ignored.
#[derive(Default)]
pub(super) struct UntrustedForwarders(Mutex<HashMap<IpAddr, Instant>>);

impl UntrustedForwarders {
    /// Whether to report now that headers of `peer` are ignored: once per network and hour.
    pub(super) fn should_report(&self, peer: IpAddr, now: Instant) -> bool {
        let Some(network) = network_of(Address(Some(peer))) else {
            return false;
        };
        let mut reported = self.0.lock();
        if reported
            .get(&network)
            .is_some_and(|at| now.duration_since(*at) < REPORT_INTERVAL)
        {
            return false;
        }
        if reported.len() >= MAX_REPORTED {
            reported.retain(|_, at| now.duration_since(*at) < REPORT_INTERVAL);
        }
        if reported.len() >= MAX_REPORTED {
            return false;
        }
        reported.insert(network, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_reported_once_an_hour_in_bounded_memory() {
        let ignored = UntrustedForwarders::default();
        let start = Instant::now();
        let first: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(ignored.should_report(first, start));
        assert!(!ignored.should_report("2001:db8::2".parse().unwrap(), start));
        let others = (0..10_000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        let reported = others
            .filter(|address| ignored.should_report(*address, start))
            .count();
        assert_eq!(reported, MAX_REPORTED - 1);
        assert!(ignored.should_report(first, start + REPORT_INTERVAL));
        assert!(ignored.0.lock().len() <= MAX_REPORTED);
    }

    #[test]
    fn connections_are_limited_per_network() {
        let connections = Connections::default();
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = connections.acquire(here, 2).unwrap();
        let _second = connections.acquire(here, 2).unwrap();
        assert!(connections.acquire(here, 2).is_none());
        assert!(connections.acquire(there, 2).is_some());
        drop(first);
        assert!(connections.acquire(here, 2).is_some());
    }
}

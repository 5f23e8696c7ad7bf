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
const REPORT: Duration = Duration::from_secs(60 * 60);
/// Maximum number of networks that are remembered as reported. Beyond it, no further one is, for up to an hour.
const REPORTED_MOST: usize = 256;

/// Counts open connections per network. There are never more entries than connections.
#[derive(Clone, Default)]
pub(super) struct Connections(KeyedCount<IpAddr>);

impl Connections {
    /// A place for one more connection from `peer`; `None` if it has `most` already.
    pub(super) fn enter(&self, peer: IpAddr, most: usize) -> Option<Permit<IpAddr>> {
        self.0.begin(network_of(Address(Some(peer)))?, most)
    }
}

/// The networks whose forwarding headers were ignored.
#[derive(Default)]
pub(super) struct Ignored(Mutex<HashMap<IpAddr, Instant>>);

impl Ignored {
    /// Whether to report now that headers of `peer` are ignored: once per network and hour.
    pub(super) fn is_news(&self, peer: IpAddr, now: Instant) -> bool {
        let Some(network) = network_of(Address(Some(peer))) else {
            return false;
        };
        let mut reported = self.0.lock();
        if reported
            .get(&network)
            .is_some_and(|at| now.duration_since(*at) < REPORT)
        {
            return false;
        }
        if reported.len() >= REPORTED_MOST {
            reported.retain(|_, at| now.duration_since(*at) < REPORT);
        }
        if reported.len() >= REPORTED_MOST {
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
    fn a_network_is_reported_once_an_hour_and_strangers_cannot_fill_the_memory() {
        let ignored = Ignored::default();
        let start = Instant::now();
        let first: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(ignored.is_news(first, start));
        assert!(!ignored.is_news("2001:db8::2".parse().unwrap(), start));
        let others = (0..10_000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        let reported = others.filter(|address| ignored.is_news(*address, start)).count();
        assert_eq!(reported, REPORTED_MOST - 1);
        assert!(ignored.is_news(first, start + REPORT));
        assert!(ignored.0.lock().len() <= REPORTED_MOST);
    }

    #[test]
    fn a_network_has_a_number_of_connections_at_once() {
        let connections = Connections::default();
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = connections.enter(here, 2).unwrap();
        let _second = connections.enter(here, 2).unwrap();
        assert!(connections.enter(here, 2).is_none());
        assert!(connections.enter(there, 2).is_some());
        drop(first);
        assert!(connections.enter(here, 2).is_some());
    }
}

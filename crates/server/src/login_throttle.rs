//! Login throttling: bounds on sign-in attempts per login and network, per login over all networks, and per network.
//!
//! A browser in which a user has signed in before ([`crate::auth::known_browser`]) has a separate bound, so that
//! guesses from any number of addresses do not lock its user out.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    store::caller::Address,
};

/// Above this number of keys, those with a full quota are dropped.
pub(crate) const PRUNE_ABOVE: usize = 10_000;
/// How often at most that is done, since it reads every key.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// Counts attempts.
pub struct LoginThrottle {
    by_login_and_network: KeyedLimiter<(String, Option<IpAddr>)>,
    by_login: KeyedLimiter<String>,
    by_network: KeyedLimiter<Option<IpAddr>>,
    by_browser: KeyedLimiter<Uuid>,
    refusals: KeyedLimiter<()>,
}

impl LoginThrottle {
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "callers state that they start with an empty one"
    )]
    pub fn new() -> Self {
        Self {
            // This does not stop a person who mistypes, but stops guessing.
            by_login_and_network: KeyedLimiter::new(10, Duration::from_secs(20)),
            // 40 days for 1000 guesses from as many networks.
            by_login: KeyedLimiter::new(100, Duration::from_secs(60 * 60)),
            by_network: KeyedLimiter::new(60, Duration::from_secs(1)),
            by_browser: KeyedLimiter::new(20, Duration::from_secs(10)),
            refusals: KeyedLimiter::new(1000, Duration::from_secs(60)),
        }
    }

    /// Counts an attempt to sign in as `login` in a browser that is not known.
    ///
    /// # Errors
    /// 429 with the time after which the caller may retry.
    pub fn count_login(&self, login: &str, address: Address) -> Result<()> {
        self.count_address(address)?;
        // A login has at most 40 characters; a longer one belongs to no user.
        let login: String = login.chars().take(64).collect();
        self.by_login_and_network
            .count(&(login.clone(), network_of(address)))?;
        self.by_login.count(&login)
    }

    /// Counts an attempt to sign in with a password in a browser that is known.
    ///
    /// # Errors
    /// Same as [`Self::count_login`].
    pub fn count_browser(&self, browser: Uuid) -> Result<()> {
        self.by_browser.count(&browser)
    }

    /// Counts an attempt of any kind from `address`.
    ///
    /// # Errors
    /// Same as [`Self::count_login`].
    pub fn count_address(&self, address: Address) -> Result<()> {
        self.by_network.count(&network_of(address))
    }

    /// Whether one more refused attempt is written to the audit log, which anonymous clients would otherwise fill.
    #[must_use]
    pub fn admits_audit_entry(&self) -> bool {
        self.refusals.count(&()).is_ok()
    }
}

/// The network that one client has: an IPv4 address, or the /64 of an IPv6 address.
pub fn network_of(address: Address) -> Option<IpAddr> {
    address.0.map(|address| match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    })
}

/// A bound per key. The keys that are kept are those of the last moments: a key is dropped when its quota is full
/// again.
struct KeyedLimiter<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>,
    clock: DefaultClock,
    pruned_at: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// `burst` at once, then one per `period`.
    fn new(burst: u32, period: Duration) -> Self {
        let quota = Quota::with_period(period)
            .expect("a period above zero")
            .allow_burst(NonZeroU32::new(burst).expect("above zero"));
        Self {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            pruned_at: Mutex::new(Instant::now()),
        }
    }

    fn count(&self, key: &K) -> Result<()> {
        if self.limiter.len() > PRUNE_ABOVE && self.is_due() {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).map_err(|until| {
            Error::too_often(
                "Too many attempts. Wait before you try again.",
                until.wait_time_from(self.clock.now()),
            )
        })
    }

    fn is_due(&self) -> bool {
        let mut pruned_at = self.pruned_at.lock();
        let due = pruned_at.elapsed() >= PRUNE_INTERVAL;
        if due {
            *pruned_at = Instant::now();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_throttled_per_login_and_network() {
        let attempts = LoginThrottle::new();
        let here = Address(Some([10, 0, 0, 1].into()));
        let there = Address(Some([10, 0, 0, 2].into()));
        let refused = (0..11)
            .find_map(|_| attempts.count_login("ada", here).err())
            .expect("the eleventh attempt is refused");
        assert!(refused.retry_after().is_some_and(|after| after > Duration::ZERO));
        assert!(attempts.count_login("ada", there).is_ok());
        assert!(attempts.count_login("grace", here).is_ok());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_client() {
        let attempts = LoginThrottle::new();
        let refused = (0..11_u16).any(|host| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host);
            attempts
                .count_login("ada", Address(Some(address.into())))
                .is_err()
        });
        assert!(refused);
        let neighbor = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);
        assert!(
            attempts
                .count_login("ada", Address(Some(neighbor.into())))
                .is_ok()
        );
    }

    #[test]
    fn distributed_guesses_are_throttled_and_known_browsers_are_not() {
        let attempts = LoginThrottle::new();
        let everywhere = (0..255_u8).map(|host| Address(Some([10, 0, 1, host].into())));
        let through = everywhere.filter(|address| attempts.count_login("ada", *address).is_ok());
        assert_eq!(through.count(), 100);
        assert!(attempts.count_browser(Uuid::new_v4()).is_ok());
        assert!(
            attempts
                .count_login("grace", Address(Some([10, 0, 2, 1].into())))
                .is_ok()
        );
    }
}

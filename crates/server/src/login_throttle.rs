//! Login throttling: limits sign-in attempts per login and address, and per address.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};

use crate::error::{Error, Result};
use crate::store::caller::Address;

/// Above this number of keys, those with a full quota are dropped.
pub(crate) const TIDY_ABOVE: usize = 10_000;

type Limiter<K> = RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>;

/// Counts attempts: per login and address, and per address.
pub struct Attempts {
    clock: DefaultClock,
    by_login: Limiter<(String, Option<IpAddr>)>,
    by_address: Limiter<Option<IpAddr>>,
}

impl Attempts {
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "an empty one is a decision, not a default"
    )]
    pub fn new() -> Self {
        // Ten at once, then one every 20 s. This does not stop a person who mistypes, but stops guessing.
        let login = Quota::with_period(Duration::from_secs(20))
            .expect("a period above zero")
            .allow_burst(NonZeroU32::new(10).expect("above zero"));
        let address = Quota::with_period(Duration::from_secs(1))
            .expect("a period above zero")
            .allow_burst(NonZeroU32::new(60).expect("above zero"));
        Self {
            clock: DefaultClock::default(),
            by_login: RateLimiter::keyed(login),
            by_address: RateLimiter::keyed(address),
        }
    }

    /// Counts an attempt to sign in as `login`.
    ///
    /// # Errors
    /// 429 with the time after which the caller may retry.
    pub fn of_login(&self, login: &str, address: Address) -> Result<()> {
        self.of_address(address)?;
        if self.by_login.len() > TIDY_ABOVE {
            self.by_login.retain_recent();
        }
        // A login has at most 40 characters; a longer one belongs to no user.
        let key = (login.chars().take(64).collect(), address.0);
        self.by_login
            .check_key(&key)
            .map_err(|until| refused(until.wait_time_from(self.clock.now())))
    }

    /// Counts an attempt of any kind from `address`.
    ///
    /// # Errors
    /// Same as [`Self::of_login`].
    pub fn of_address(&self, address: Address) -> Result<()> {
        if self.by_address.len() > TIDY_ABOVE {
            self.by_address.retain_recent();
        }
        self.by_address
            .check_key(&address.0)
            .map_err(|until| refused(until.wait_time_from(self.clock.now())))
    }
}

fn refused(wait: Duration) -> Error {
    Error::too_often("That was tried too often; wait a little.", wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guesser_is_stopped_and_others_are_not() {
        let attempts = Attempts::new();
        let here = Address(Some([10, 0, 0, 1].into()));
        let there = Address(Some([10, 0, 0, 2].into()));
        let refused = (0..11)
            .find_map(|_| attempts.of_login("ada", here).err())
            .expect("the eleventh attempt is refused");
        assert!(refused.retry_after().is_some_and(|after| after > Duration::ZERO));
        assert!(attempts.of_login("ada", there).is_ok());
        assert!(attempts.of_login("grace", here).is_ok());
    }
}

//! Rate limits per user: API requests, and programs started through the API.
//!
//! Each process counts on its own, so with several replicas a user may reach a multiple of the limit.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use fsa_model::{
    UserId,
    limits::{ExceededLimit, Limits},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};
use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    login_throttle::PRUNE_ABOVE,
    settings,
    store::caller::Caller,
};

type Limiter = RateLimiter<UserId, DefaultKeyedStateStore<UserId>, DefaultClock>;

/// Counts the requests of each user.
#[derive(Default)]
pub struct RateLimits {
    requests: UserLimiters,
    execs: UserLimiters,
}

/// One limiter per distinct limit: the server's, and those that owners set for users.
#[derive(Default)]
struct UserLimiters {
    clock: DefaultClock,
    by_limit: Mutex<HashMap<NonZeroU32, Arc<Limiter>>>,
}

impl RateLimits {
    /// Counts a request of the API.
    ///
    /// # Errors
    /// 429 with the limit and the time after which the caller may retry.
    pub fn count_request(&self, settings: &settings::Limits, caller: &Caller) -> Result<()> {
        let limit = limits(settings, caller).requests_per_minute;
        self.requests.count("requestsPerMinute", limit, caller.user())
    }

    /// Counts a program that is started in a sandbox.
    ///
    /// # Errors
    /// Same as [`Self::count_request`].
    pub fn count_exec(&self, settings: &settings::Limits, caller: &Caller) -> Result<()> {
        let limit = limits(settings, caller).execs_per_minute;
        self.execs.count("execsPerMinute", limit, caller.user())
    }
}

fn limits(settings: &settings::Limits, caller: &Caller) -> Limits {
    caller.limits().unwrap_or(settings.of_role(caller.role()))
}

impl UserLimiters {
    fn count(&self, what: &str, limit: Option<u64>, user: UserId) -> Result<()> {
        let Some(limit) = limit else { return Ok(()) };
        let over = ExceededLimit {
            resource: what.to_owned(),
            limit,
            requested: limit + 1,
            server_wide: false,
        };
        // A limit above `u32::MAX` counts as no limit.
        let Ok(count) = u32::try_from(limit) else {
            return Ok(());
        };
        let Some(count) = NonZeroU32::new(count) else {
            return Err(Error::over_rate(over, Duration::from_secs(60)));
        };
        self.limiter(count)
            .check_key(&user)
            .map_err(|until| Error::over_rate(over, until.wait_time_from(self.clock.now())))
    }

    fn limiter(&self, count: NonZeroU32) -> Arc<Limiter> {
        let mut all = self.by_limit.lock();
        if let Some(limiter) = all.get(&count) {
            if limiter.len() > PRUNE_ABOVE {
                limiter.retain_recent();
            }
            return Arc::clone(limiter);
        }
        all.retain(|_, limiter| {
            limiter.retain_recent();
            !limiter.is_empty()
        });
        // The whole minute's quota at once, then as it replenishes.
        let limiter = Arc::new(RateLimiter::keyed(Quota::per_minute(count)));
        all.insert(count, Arc::clone(&limiter));
        limiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_per_user_and_report_the_retry_time() {
        let counted = UserLimiters::default();
        let (ada, grace) = (UserId::generate(), UserId::generate());
        let count = |limit, user| counted.count("execsPerMinute", limit, user);
        for _ in 0..3 {
            count(Some(3), ada).expect("three are admitted");
        }
        let refused = count(Some(3), ada).expect_err("the fourth is not");
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.limit().map(|over| over.limit), Some(3));
        assert!(
            refused
                .retry_after()
                .is_some_and(|after| after <= Duration::from_secs(20))
        );
        count(Some(3), grace).expect("another user has a separate count");
        count(Some(4), ada).expect("another limit has a separate count");
        count(None, ada).expect("no limit is none");
        assert!(
            count(Some(0), grace).is_err(),
            "a limit of zero refuses everything"
        );
    }
}

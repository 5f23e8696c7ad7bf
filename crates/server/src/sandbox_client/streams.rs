//! Limit on the terminals and streams that each user has open at the same time.

use std::time::Duration;

use fsa_model::UserId;

use crate::{
    Error, Result,
    auth::Caller,
    core::Core,
    keyed_count::{KeyedCount, Permit},
};

/// Counts the long-lived streams of each user.
#[derive(Clone, Default)]
pub(crate) struct Streams(KeyedCount<UserId>);

/// A permit for one stream; counts it until dropped.
pub(crate) type StreamPermit = Permit<UserId>;

impl Streams {
    /// A permit for one more stream of `caller`.
    ///
    /// # Errors
    /// 429 at the limit, [`crate::settings::Limits::streams_per_user`].
    pub(crate) fn acquire(&self, core: &Core, caller: &Caller) -> Result<StreamPermit> {
        let max = core.settings.limits.streams_per_user;
        self.0.acquire(caller.user(), max).ok_or_else(|| {
            Error::too_often(
                format!("You have {max} terminals and streams open already; close some first."),
                Duration::from_secs(5),
            )
        })
    }
}

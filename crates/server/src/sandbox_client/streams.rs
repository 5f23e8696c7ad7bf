//! Limit on the terminals and streams that each user has open at the same time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fsa_model::UserId;
use parking_lot::Mutex;

use crate::{Error, Result, auth::Caller, core::Core};

/// Counts the long-lived streams of each user.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<UserId, usize>>>);

/// A permit for one stream; counts it until dropped.
pub(crate) struct StreamPermit {
    user: UserId,
    counts: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl Streams {
    /// A permit for one more stream of `caller`.
    ///
    /// # Errors
    /// 429 at the limit, [`crate::settings::Limits::streams_per_user`].
    pub(crate) fn begin(&self, core: &Core, caller: &Caller) -> Result<StreamPermit> {
        let user = caller.user();
        let most = core.settings.limits.streams_per_user;
        let mut counts = self.0.lock();
        let count = counts.entry(user).or_default();
        if *count >= most {
            return Err(Error::too_often(
                format!("You have {most} terminals and streams open already; close some first."),
                Duration::from_secs(5),
            ));
        }
        *count += 1;
        Ok(StreamPermit {
            user,
            counts: Arc::clone(&self.0),
        })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user);
            }
        }
    }
}

//! Limit on terminals and streams: each user has so many at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fsa_model::UserId;
use parking_lot::Mutex;

use crate::{App, Error, Result, auth::Caller};

/// Counts the long streams of each user.
#[derive(Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<UserId, usize>>>);

/// One stream, for as long as it lives.
pub(crate) struct StreamPermit {
    user: UserId,
    counts: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl Streams {
    /// A permit for one more stream of `caller`.
    ///
    /// # Errors
    /// 429 where there are as many as [`crate::settings::Limits::streams_per_user`].
    pub(crate) fn begin(&self, app: &App, caller: &Caller) -> Result<StreamPermit> {
        let user = caller.user();
        let most = app.settings.limits.streams_per_user;
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

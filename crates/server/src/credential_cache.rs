//! Credential cache: recent look-ups of sessions and tokens, so that a busy client costs one query per request.
//!
//! The process that ends a credential invalidates its entry at once. Other processes do so upon a notification, or
//! after [`KEPT`] where the notification is lost.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fsa_model::UserId;
use parking_lot::Mutex;

use crate::store::caller::Credential;

/// How long an entry is used without another query.
const KEPT: Duration = Duration::from_secs(3);
/// The maximum number of entries, so that a flood of clients costs time but no memory.
const LIMIT: usize = 10_000;

/// Cached credentials by the hash of their token.
#[derive(Default)]
pub struct CredentialCache {
    known: Mutex<HashMap<[u8; 32], Entry>>,
    /// Counts invalidations, so that a look-up in flight during one is not cached.
    forgotten: AtomicU64,
}

/// A credential, and until when its entry is valid.
type Entry = (Arc<Credential>, Instant);

/// The state of the cache before a look-up began.
#[derive(Clone, Copy)]
pub struct Moment(u64);

impl CredentialCache {
    #[must_use]
    pub fn get(&self, hash: &[u8; 32]) -> Option<Arc<Credential>> {
        let known = self.known.lock();
        let (found, until) = known.get(hash)?;
        (Instant::now() < *until).then(|| Arc::clone(found))
    }

    /// Call this before the database query.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment(self.forgotten.load(Ordering::SeqCst))
    }

    /// Caches a credential, unless an invalidation happened since `moment`.
    pub fn put(&self, hash: [u8; 32], found: Arc<Credential>, moment: Moment) {
        let mut known = self.known.lock();
        if self.forgotten.load(Ordering::SeqCst) != moment.0 {
            return;
        }
        if known.len() >= LIMIT {
            let now = Instant::now();
            known.retain(|_, (_, until)| now < *until);
            if known.len() >= LIMIT {
                known.clear();
            }
        }
        known.insert(hash, (found, Instant::now() + KEPT));
    }

    /// Invalidates the credentials of `user`, or of all users.
    pub fn forget(&self, user: Option<UserId>) {
        let mut known = self.known.lock();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        match user {
            Some(user) => known.retain(|_, (found, _)| found.user() != user),
            None => known.clear(),
        }
    }
}

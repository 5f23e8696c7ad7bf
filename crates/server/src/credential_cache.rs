//! Credential cache: recent look-ups of sessions and tokens, so that a busy client costs one query per request.
//!
//! The process that ends a credential invalidates its entry at once. Other processes do so upon a notification, or
//! after [`ENTRY_LIFETIME`] where the notification is lost.

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
const ENTRY_LIFETIME: Duration = Duration::from_secs(3);
/// The maximum number of entries, so that a flood of clients costs time but no memory.
const MAX_ENTRIES: usize = 10_000;

/// Cached credentials by the hash of their token.
#[derive(Default)]
pub struct CredentialCache {
    entries: Mutex<HashMap<[u8; 32], Entry>>,
    /// Counts invalidations, so that a look-up in flight during one is not cached.
    invalidations: AtomicU64,
}

/// A credential, and until when its entry is valid.
type Entry = (Arc<Credential>, Instant);

/// The state of the cache before a look-up began.
#[derive(Clone, Copy)]
pub struct CacheVersion(u64);

impl CredentialCache {
    #[must_use]
    pub fn get(&self, hash: &[u8; 32]) -> Option<Arc<Credential>> {
        let entries = self.entries.lock();
        let (found, until) = entries.get(hash)?;
        (Instant::now() < *until).then(|| Arc::clone(found))
    }

    /// Call this before the database query.
    #[must_use]
    pub fn version(&self) -> CacheVersion {
        CacheVersion(self.invalidations.load(Ordering::SeqCst))
    }

    /// Caches a credential, unless an invalidation happened since `version`.
    pub fn put(&self, hash: [u8; 32], found: Arc<Credential>, version: CacheVersion) {
        let mut entries = self.entries.lock();
        if self.invalidations.load(Ordering::SeqCst) != version.0 {
            return;
        }
        if entries.len() >= MAX_ENTRIES {
            let now = Instant::now();
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= MAX_ENTRIES {
                entries.clear();
            }
        }
        entries.insert(hash, (found, Instant::now() + ENTRY_LIFETIME));
    }

    /// Invalidates the credentials of `user`, or of all users.
    pub fn invalidate(&self, user: Option<UserId>) {
        let mut entries = self.entries.lock();
        self.invalidations.fetch_add(1, Ordering::SeqCst);
        match user {
            Some(user) => entries.retain(|_, (found, _)| found.user() != user),
            None => entries.clear(),
        }
    }
}

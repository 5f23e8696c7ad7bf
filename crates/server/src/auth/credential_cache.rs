//! Credentials that were looked up a moment ago, so that a busy client costs one query a request.
//!
//! What is remembered is forgotten at once in the process that ends a credential, upon a
//! notification in others, and after [`KEPT`] where the notification is lost.

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

/// How long a credential is believed without asking again.
const KEPT: Duration = Duration::from_secs(3);
/// At most this many; a flood of clients costs time and no memory.
const LIMIT: usize = 10_000;

/// Which credentials were found, by the hash of their token.
#[derive(Default)]
pub struct Memory {
    known: Mutex<HashMap<[u8; 32], Entry>>,
    /// Counts what was forgotten, so that an answer which was under way meanwhile is not kept.
    forgotten: AtomicU64,
}

/// What was found, and until when that is believed.
type Entry = (Arc<Credential>, Instant);

/// The state of the memory before a look-up began.
#[derive(Clone, Copy)]
pub struct Moment(u64);

impl Memory {
    #[must_use]
    pub fn get(&self, hash: &[u8; 32]) -> Option<Arc<Credential>> {
        let known = self.known.lock();
        let (found, until) = known.get(hash)?;
        (Instant::now() < *until).then(|| Arc::clone(found))
    }

    /// Take this before the database is asked.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment(self.forgotten.load(Ordering::SeqCst))
    }

    /// Remembers what was found, unless something was forgotten since `moment`.
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

    /// Forgets the credentials of `user`, or everybody's.
    pub fn forget(&self, user: Option<UserId>) {
        let mut known = self.known.lock();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        match user {
            Some(user) => known.retain(|_, (found, _)| found.user() != user),
            None => known.clear(),
        }
    }
}

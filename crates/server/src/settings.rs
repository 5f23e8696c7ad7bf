//! Settings that the lowest layers need.

use fsa_model::limits as model;

/// How much one request or one user may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body, unless its route says otherwise.
    pub body: usize,
    /// Bytes of one upload into a sandbox (`PUT …/files`).
    pub upload: u64,
    /// WebSockets and event streams that one user may have open on the main host.
    pub streams_per_user: usize,
    /// What each user may have at the same time, unless they have limits of their own.
    pub per_user: model::Limits,
    /// What all users may have together.
    pub in_all: model::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 * 1024 * 1024,
            upload: 1024 * 1024 * 1024,
            streams_per_user: 200,
            per_user: model::Limits::default(),
            in_all: model::Limits::default(),
        }
    }
}

//! What people do with projects: one use-case a file, each a few checks and one transaction.
//!
//! Nothing here waits for a sandbox. A use-case writes what is wished, in one transaction with the
//! event that says so; workers make it so ([`crate::reconcile`]).

pub mod change;
pub mod create;
pub mod database;
pub mod delete;
pub mod environment;
pub mod git;
pub mod lifecycle;
pub mod share;
pub mod status;
pub mod validate;

//! Use cases of projects: one per file, each with a few checks and one transaction.
//!
//! Nothing here waits for a sandbox. A use case writes the desired state and its event in one transaction; workers
//! reconcile it ([`crate::reconcile`]).

pub mod backups;
pub mod branches;
pub mod change;
pub mod create;
pub mod database;
pub mod delete;
pub mod environment;
mod file_diff;
pub mod git;
pub mod lifecycle;
pub mod promote;
pub mod share;
pub mod snapshot_diff;
pub mod snapshot_schedule;
pub mod snapshots;
pub mod start_suggestion;
pub mod status;
pub mod validate;

//! Reconciliation tests, with workers on a real PostgreSQL and a data plane in memory: every desired state is
//! reached despite failures, crashes and removals, and nothing is left over.

#[path = "../common/mod.rs"]
mod common;

mod branches;
mod chaos;
mod crashes;
mod faults;
mod lifecycle;
mod promote;
mod repairs;
mod scene;
mod snapshot_schedule;
mod snapshots;
mod sweeps;
mod watch;

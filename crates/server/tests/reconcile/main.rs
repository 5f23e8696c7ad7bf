//! Workers on a real PostgreSQL and a data plane in memory: wishes come true, whatever fails,
//! ends or is taken away meanwhile, and nothing is left over.

#[path = "../common/mod.rs"]
mod common;

mod chaos;
mod crashes;
mod faults;
mod follow;
mod lives;
mod repairs;
mod scene;
mod sweeps;

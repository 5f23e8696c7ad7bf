//! The API over HTTP, on a real PostgreSQL and a data plane in memory.

#[path = "../common/mod.rs"]
mod common;

mod projects;

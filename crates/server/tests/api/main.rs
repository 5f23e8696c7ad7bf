//! The API over HTTP, on a real PostgreSQL and a data plane in memory.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod audit;
mod authorization;
mod backups;
mod branches;
mod environment;
mod events;
mod full_lifecycle;
mod github;
mod images;
mod ingress;
mod keys;
mod lifecycle;
mod limits;
mod previews;
mod projects;
mod quotas;
mod relay;
mod retention;
mod sharing;
mod snapshots;
mod surface;
mod system;
mod tokens;
mod upgrade;
mod urls;
mod users;

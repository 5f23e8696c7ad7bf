//! Local driver: sandboxes of one machine by an OCI runtime, and a PostgreSQL server per volume.
//!
//! Two halves. [`driver`] runs in `fsa serve`, without privileges. [`runner`] runs as root (or in
//! a user namespace); it is the only code that mounts, makes networks and calls the runtime, and
//! it does only what [`protocol`] has a request for.

pub mod database_proxy;
pub mod driver;
pub mod images;
pub mod malloc_arenas;
pub mod postgres;
pub mod privileges;
pub mod project_databases;
pub mod protocol;
pub mod runner;

pub use driver::{LocalConfig, LocalDriver};

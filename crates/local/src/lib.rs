//! The driver for one machine: sandboxes by an OCI runtime, databases in a PostgreSQL cluster of
//! our own.
//!
//! Two halves. [`driver`] runs in `fsa serve`, without privileges; [`runner`] runs as root (or in
//! a user namespace), is the only code that mounts, wires networks and calls the runtime, and
//! does nothing but what [`protocol`] can say.

pub mod database_proxy;
pub mod databases;
pub mod driver;
pub mod images;
pub mod malloc_arenas;
pub mod postgres;
pub mod privileges;
pub mod protocol;
pub mod runner;

pub use driver::{LocalConfig, LocalDriver};

//! The driver for a cluster: each sandbox is a Deployment with what belongs to it, in one
//! namespace of a Kubernetes that others run.
//!
//! `objects/` says, purely, what is wanted; [`driver`] makes it so by server-side apply; what is
//! there is known from watches, so a look costs the API server nothing.

#![forbid(unsafe_code)]

pub mod calls;
mod changes;
pub mod checks;
pub mod connection;
pub mod objects;
pub mod rights;
pub mod settings;

pub mod databases;
pub mod debug;
mod drift;
pub mod driver;
mod kept;
mod pods;
mod said;
mod warnings;
pub mod watched;
mod words;

pub use driver::KubernetesDriver;

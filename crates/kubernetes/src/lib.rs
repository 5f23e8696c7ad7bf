//! The driver for a cluster: each sandbox is a Deployment with what belongs to it, in one
//! namespace of a Kubernetes that others run.
//!
//! `objects/` says, purely, what is wanted; [`driver`] makes it so by server-side apply; what is
//! there is known from watches, so a look costs the API server nothing.

#![forbid(unsafe_code)]

pub mod checks;
pub mod connection;
pub mod objects;
mod project_notify;
pub mod rbac;
pub mod request_metrics;
pub mod settings;

mod cached_object;
pub mod databases;
pub mod debug;
mod drift;
pub mod driver;
mod event_diagnosis;
mod pod_diagnosis;
mod pods;
pub mod reflectors;
mod warnings;

pub use driver::KubernetesDriver;

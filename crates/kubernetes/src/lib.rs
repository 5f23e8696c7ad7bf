//! Kubernetes driver: each sandbox is a Deployment and the objects that belong to it, in one namespace of a cluster
//! that others operate.
//!
//! [`objects`] builds the objects, purely; [`driver`] applies them by server-side apply; the observed state comes from
//! watches ([`reflectors`]), so an observation costs the API server nothing.

#![forbid(unsafe_code)]

mod cached_object;
pub mod checks;
pub mod connection;
pub mod databases;
pub mod debug;
mod drift;
pub mod driver;
mod event_diagnosis;
pub mod objects;
mod pod_diagnosis;
mod pods;
mod project_notify;
pub mod rbac;
pub mod reflectors;
pub mod request_metrics;
pub mod settings;
mod warnings;
pub mod watch_backoff;

pub use driver::KubernetesDriver;

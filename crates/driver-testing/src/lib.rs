//! Test support for drivers: an in-memory driver ([`memory`]) for tests of the layers above, and the conformance suite
//! ([`conformance`]) that every driver must pass. Only tests depend on this crate.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod memory;

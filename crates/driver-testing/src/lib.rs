//! Test equipment for everything that has to do with drivers, in a crate of its own so that no product compiles it.
//!
//! [`memory`] is a driver for tests of what is above a driver; [`conformance`] is the suite that every driver passes.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod memory;

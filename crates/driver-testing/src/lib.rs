//! Test equipment for drivers. It is a separate crate, a dependency of tests only, so the product does not compile it.
//!
//! [`memory`] is a driver for tests of the layers above a driver; [`conformance`] is the suite that every driver passes.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod memory;

//! Image tests through the public interface: hostile layers, broken archives, faulty registries.
//!
//! They run as root, like the runner: owners, device nodes and `trusted.*` attributes are real.

mod support;

mod archives;
mod layers;
mod registries;
mod registry_server;
mod unpacking;

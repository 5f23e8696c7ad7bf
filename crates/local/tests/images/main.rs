//! Images from the outside in: hostile layers, broken archives, registries that lie.
//!
//! Run as root, as the runner is: owners, device nodes and `trusted.*` attributes are real.

mod support;

mod archives;
mod layers;
mod registries;
mod registry_server;
mod unpacking;

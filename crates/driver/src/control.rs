//! A client for sandboxd's control interface over any driver's connection.
//!
//! One request per connection: a Unix socket or a port-forward is cheap, and no pool can then
//! hand out a connection into a sandbox that has since been replaced.

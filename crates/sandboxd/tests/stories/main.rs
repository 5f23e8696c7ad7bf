//! sandboxd as a whole: each test starts the program as an ordinary process with a home, accounts
//! and a control socket of its own, and does what the control plane does.
//!
//! As root, the person of these sandboxes is user 1000; as anybody else, it is whoever runs the
//! tests, as in a pod that allows no other.

mod access;
mod callback;
mod exec;
mod exec_stream;
mod files;
mod harness;
mod init;
mod procfile;
mod repository;
mod start_command;
mod tar;
mod tasks;
mod terminal;
mod terminal_flow;
mod terminal_port;
mod tunnel;

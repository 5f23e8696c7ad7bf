//! Integration tests of sandboxd: each test starts the program as an ordinary process with a
//! separate home, accounts and control socket, and is its client in place of the control plane.
//!
//! As root, the person of these sandboxes is user 1000; otherwise it is the user who runs the tests,
//! like in a pod that allows no other user.

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

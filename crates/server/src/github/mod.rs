//! GitHub, as a way to sign in and as a place where repositories are.
//!
//! `client` makes the calls, `sign_in` decides who comes in by them, `token` keeps what lets us in
//! in somebody's name, `repositories` lists and makes repositories, `credential` lets git in
//! sandboxes in to them.

mod client;
pub mod credential;
pub mod repositories;
pub mod sign_in;
mod token;

pub use client::Github;

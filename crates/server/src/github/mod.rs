//! GitHub integration: sign-in and repositories.
//!
//! `client` makes the calls, `sign_in` decides who may sign in, `token` keeps the tokens for calls in a user's name,
//! `repositories` lists and creates repositories, and `credential` gives git in sandboxes access to them.

mod client;
pub mod credential;
pub mod repositories;
pub mod sign_in;
mod token;

pub use client::Github;

//! GitHub integration: sign-in and repositories.
//!
//! [`crate::github_client`] makes the calls, `sign_in` decides who may sign in, `token` keeps the tokens for calls in a
//! user's name, `repositories` lists and creates repositories, and `credential` gives git in sandboxes access to them.

pub mod credential;
pub mod repositories;
pub mod sign_in;
mod token;

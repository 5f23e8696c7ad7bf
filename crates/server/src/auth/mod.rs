//! Authentication: sign-in, sessions and tokens, CSRF check.
//!
//! A [`Caller`] is the proof that a request was authenticated; see [`crate::store::caller`]. Every way of signing in
//! ends in [`sign_in::sign_in`].

mod caller;
pub mod cookie;
pub mod csrf;
pub mod known_browser;
pub mod password;
pub mod permission;
pub mod secret;
pub mod sign_in;

pub use crate::store::caller::{Address, Caller, CredentialId};
pub use caller::RequestUser;
pub use sign_in::{OneTimeLink, create_token_for_owner, first_link};

//! Who somebody is and what they may see.
//!
//! [`Caller`] is the proof that a request was authenticated; only this module makes one. Every way
//! of signing in ends in [`sign_in::sign_in`].

mod caller;
pub mod cookie;
pub mod credential_cache;
pub mod csrf;
pub mod encryption;
pub mod key_file;
pub mod login_throttle;
pub mod password;
pub mod permission;
pub mod rate_limit;
pub mod secret;
pub mod sign_in;

pub use caller::{Address, By, Caller, Known, Seen};
pub use sign_in::{Link, create_token_for_owner, first_link};

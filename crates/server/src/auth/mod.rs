//! Who somebody is and what they may see.
//!
//! [`Caller`] is the proof that a request was authenticated; only this module makes one. Every way
//! of signing in ends in [`sign_in::sign_in`].

mod caller;
pub mod cookie;
pub mod key_file;
pub mod limit;
pub mod memory;
pub mod origin;
pub mod password;
pub mod rate;
pub mod right;
pub mod seal;
pub mod secret;
pub mod sign_in;

pub use caller::{Address, By, Caller, Known, Seen};
pub use sign_in::{Link, create_token_for_owner, first_link};

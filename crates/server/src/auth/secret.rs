//! Secret generation: tokens of sessions, API tokens and links, of which only hashes are stored, and database
//! passwords.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// The prefix of an API token.
pub const TOKEN_PREFIX: &str = "fsa_";

/// 32 random bytes as 43 characters that need no quoting in URLs, cookies and shells.
#[must_use]
pub fn random() -> SecretString {
    let bytes: [u8; 32] = rand::rng().random();
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// A new API token.
#[must_use]
pub fn api_token() -> SecretString {
    format!("{TOKEN_PREFIX}{}", random().expose_secret()).into()
}

/// The stored hash of a token. The token has 256 random bits, so a plain hash cannot be reversed by guessing, and an
/// index finds equal hashes.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

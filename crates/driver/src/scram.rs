//! SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677) in PostgreSQL's format. With a verifier instead of the password, SQL
//! statements, and so logs, contain no password.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// PostgreSQL's own default (`scram_iterations`).
const ITERATIONS: u32 = 4096;
const SALT: usize = 16;
/// Maximum iterations of a stored verifier, to bound the processor time.
const ITERATIONS_MAX: u32 = 1_000_000;

/// The verifier of `password` for `pg_authid.rolpassword`, with a random salt. Passwords are ASCII, which SASLprep
/// (RFC 4013) does not change.
#[must_use]
pub fn verifier(password: &SecretString) -> String {
    encode(password, &rand::random::<[u8; SALT]>(), ITERATIONS)
}

/// Whether a stored verifier matches `password`.
#[must_use]
pub fn verifies(password: &SecretString, stored: &str) -> bool {
    let parameters = stored
        .strip_prefix("SCRAM-SHA-256$")
        .and_then(|rest| rest.split('$').next());
    let parameters = parameters.and_then(|parameters| parameters.split_once(':'));
    let Some((iterations, salt)) = parameters else {
        return false;
    };
    match (iterations.parse(), STANDARD.decode(salt)) {
        (Ok(iterations @ 1..=ITERATIONS_MAX), Ok(salt)) => encode(password, &salt, iterations) == stored,
        _ => false,
    }
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (pg_authid in PostgreSQL's manual).
fn encode(password: &SecretString, salt: &[u8], iterations: u32) -> String {
    let salted = salted_password(password.expose_secret().as_bytes(), salt, iterations);
    let client_key = mac(&salted, &[b"Client Key"]);
    let server_key = mac(&salted, &[b"Server Key"]);
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(Sha256::digest(client_key)),
        STANDARD.encode(server_key),
    )
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let keyed = keyed(password);
    let once = |parts: &[&[u8]]| -> [u8; 32] {
        let mut mac = keyed.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let mut block = once(&[salt, &1_u32.to_be_bytes()]);
    let mut result = block;
    for _ in 1..iterations {
        block = once(&[&block]);
        result.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    result
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_verifies() {
        // Password "pencil", salt, iterations and server signature of RFC 7677, section 3.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let salted = salted_password(b"pencil", &salt, 4096);
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = mac(&mac(&salted, &[b"Server Key"]), &[message.as_bytes()]);
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_verifier_matches_its_password_only() {
        let stored = verifier(&"right".into());
        assert!(verifies(&"right".into(), &stored));
        assert!(!verifies(&"wrong".into(), &stored));
        assert_ne!(stored, verifier(&"right".into()), "the salts differ");
        for malformed in [
            "",
            "md5abc",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$9999999999:AA==$a:b",
            "SCRAM-SHA-256$1:*$a:b",
        ] {
            assert!(!verifies(&"right".into(), malformed));
        }
    }
}

//! Content addresses: the digest of a blob, and the diff id of a layer.
//!
//! Both are SHA-256, the algorithm that every registry and archive supports. They are distinct types, because the digest
//! of a compressed blob differs from that of its layer. Both are 32 bytes and cannot contain a path.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a blob as it is stored or sent. Written as `sha256:<64 hexadecimal digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// The SHA-256 of a layer's uncompressed tar, which identifies it under every compression.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiffId([u8; 32]);

/// Invalid digest, or one of an unsupported algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    #[error("{0:?} is not a SHA-256 digest (sha256: and 64 hexadecimal digits)")]
    Malformed(String),
    #[error(
        "{0:?} is a digest of another kind than SHA-256, the only one that is supported: write the image with sha256 \
         digests, which is every tool's default"
    )]
    Algorithm(String),
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of the data that `hash` has processed.
    #[must_use]
    pub fn finish(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }
}

impl From<Digest> for DiffId {
    /// For a tar that was never compressed: its own digest is its diff id.
    fn from(digest: Digest) -> Self {
        Self(digest.0)
    }
}

fn parse(text: &str) -> Result<[u8; 32], InvalidDigest> {
    let mut bytes = [0; 32];
    let digits = text
        .strip_prefix("sha256:")
        .filter(|digits| digits.bytes().all(|b| !b.is_ascii_uppercase()));
    match digits.map(|digits| hex::decode_to_slice(digits, &mut bytes)) {
        Some(Ok(())) => Ok(bytes),
        _ => {
            let shown = text.chars().take(100).collect();
            let another = text.split_once(':').is_some_and(|(algorithm, digits)| {
                algorithm != "sha256"
                    && algorithm.starts_with(|c: char| c.is_ascii_lowercase())
                    && digits.len() >= 64
                    && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            Err(if another {
                InvalidDigest::Algorithm(shown)
            } else {
                InvalidDigest::Malformed(shown)
            })
        }
    }
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The 64 digits without a prefix, which are a safe file name.
            #[must_use]
            pub fn hex(&self) -> String {
                hex::encode(self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", self.hex())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = InvalidDigest;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse(text).map(Self)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidDigest;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(digest: $name) -> Self {
                digest.to_string()
            }
        }
    };
}
text!(Digest);
text!(DiffId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_was_written_and_nothing_else_is() {
        let digest = Digest::of(b"layer");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        let upper = digest.to_string().to_uppercase();
        for wrong in [
            "",
            "sha256:",
            "sha256:12",
            "sha512:00",
            "sha256:../../etc/passwd",
            &upper,
            &digest.hex(),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_digest_of_another_kind_is_refused_with_the_reason() {
        let message = format!("sha512:{}", "0a".repeat(64))
            .parse::<Digest>()
            .unwrap_err()
            .to_string();
        assert!(message.contains("another kind than SHA-256"), "{message}");
        let message = "sha512:00".parse::<Digest>().unwrap_err().to_string();
        assert!(message.contains("is not a SHA-256 digest"), "{message}");
    }
}

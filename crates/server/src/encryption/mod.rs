//! Encryption of secrets at rest: XChaCha20-Poly1305 under the keys of a key file.
//!
//! An encrypted value is `version (1) ‖ key id (4) ‖ nonce (24) ‖ ciphertext and tag`. Its table, column and row are
//! the [`AssociatedData`], which is authenticated with it: one row's secret cannot be moved into another row.
//!
//! The key file is read again after a change. A key may be added while servers run: a server that meets a value under
//! an unknown key reads the file again before it fails.

pub mod key_file;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use parking_lot::{Mutex, RwLock};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};

use self::key_file::Stamp;
use crate::error::Error;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4 + 24;

/// Encrypts and decrypts. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    keys: RwLock<Arc<Keys>>,
    /// The key file and its stamp when it was read; `None` for keys that were passed in.
    file: Option<(PathBuf, Mutex<Stamp>)>,
}

struct Keys {
    current: [u8; 4],
    /// In the order of the file.
    order: Vec<[u8; 4]>,
    by_id: BTreeMap<[u8; 4], XChaCha20Poly1305>,
}

/// The associated data of an encrypted value: where it is stored, as `("databases", "password", project id)`.
#[derive(Clone, Copy, Debug)]
pub struct AssociatedData<'a> {
    pub table: &'a str,
    pub column: &'a str,
    pub row: &'a str,
}

/// Why a value could not be decrypted, or the keys not be read.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error(
        "the key file {path} cannot be used: {why}. Restore it from a backup; without it, stored secrets are lost"
    )]
    KeyFile { path: String, why: String },
    #[error(
        "a value in {0} is encrypted with a key that is not in the key file; restore the key file it was encrypted with"
    )]
    UnknownKey(String),
    #[error("an encrypted value in {0} is damaged or was moved there from another row")]
    Damaged(String),
    #[error("{0}")]
    NotRemovable(&'static str),
}

impl AssociatedData<'_> {
    fn bytes(self) -> Vec<u8> {
        format!("{}/{}/{}", self.table, self.column, self.row).into_bytes()
    }
}

impl KeyRing {
    /// Creates a key ring from keys of 32 bytes. The last key encrypts new values.
    ///
    /// # Panics
    /// Where there is no key.
    #[must_use]
    pub fn new(keys: &[[u8; 32]]) -> Self {
        Self(Arc::new(Inner {
            keys: RwLock::new(Arc::new(Keys::new(keys))),
            file: None,
        }))
    }

    /// Reads the key file (one key of 64 hexadecimal digits per line, the newest last), or creates it with one fresh
    /// key, readable by its owner only.
    ///
    /// # Errors
    /// [`EncryptionError::KeyFile`].
    pub fn open(path: &Path) -> Result<Self, EncryptionError> {
        // The stamp is taken before the read, so that a concurrent change is read again.
        let keys = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                key_file::create(path)?;
                key_file::stamp(path)
            }
            _ => key_file::stamp(path),
        };
        Ok(Self(Arc::new(Inner {
            file: Some((path.to_owned(), Mutex::new(keys))),
            keys: RwLock::new(Arc::new(Keys::new(&key_file::read(path)?))),
        })))
    }

    /// Reads the key file again if it has changed. Returns whether it had.
    ///
    /// # Errors
    /// [`EncryptionError::KeyFile`]; the keys stay unchanged.
    pub fn reload(&self) -> Result<bool, EncryptionError> {
        let Some((path, seen)) = &self.0.file else {
            return Ok(false);
        };
        let mut seen = seen.lock();
        let now = key_file::stamp(path);
        if now == *seen {
            return Ok(false);
        }
        let keys = Keys::new(&key_file::read(path)?);
        *self.0.keys.write() = Arc::new(keys);
        *seen = now;
        Ok(true)
    }

    /// Removes a key from the file. The caller must know that nothing is encrypted with it.
    ///
    /// # Errors
    /// [`EncryptionError::NotRemovable`] where it must stay; [`EncryptionError::KeyFile`].
    pub fn remove(&self, id: [u8; 4]) -> Result<(), EncryptionError> {
        let Some((path, _)) = &self.0.file else {
            return Err(EncryptionError::NotRemovable(
                "The keys of this server are not in a file.",
            ));
        };
        key_file::remove(path, id)?;
        self.reload().map(drop)
    }

    /// Appends a fresh key to the key file. Servers encrypt with it as soon as they have read it. The older keys stay,
    /// and decrypt what they encrypted.
    ///
    /// # Errors
    /// [`EncryptionError::KeyFile`]; the file stays unchanged.
    pub fn add_key(path: &Path) -> Result<(), EncryptionError> {
        key_file::add_key(path)
    }

    /// Whether there is a key with this id.
    #[must_use]
    pub fn has(&self, id: &[u8]) -> bool {
        <[u8; 4]>::try_from(id).is_ok_and(|id| self.keys().by_id.contains_key(&id))
    }

    /// The id of the key that encrypts new values.
    #[must_use]
    pub fn current(&self) -> [u8; 4] {
        self.keys().current
    }

    /// The ids of all keys, the newest last.
    #[must_use]
    pub fn ids(&self) -> Vec<[u8; 4]> {
        self.keys().order.clone()
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.0.keys.read())
    }

    /// Encrypts `secret` for `location`.
    #[must_use]
    pub fn encrypt(&self, location: AssociatedData<'_>, secret: &SecretString) -> Vec<u8> {
        let nonce: [u8; 24] = rand::rng().random();
        let payload = Payload {
            msg: secret.expose_secret().as_bytes(),
            aad: &location.bytes(),
        };
        let keys = self.keys();
        let ciphertext = keys.by_id[&keys.current]
            .encrypt(&XNonce::from(nonce), payload)
            .expect("XChaCha20-Poly1305 encrypts any input that fits in memory");
        [&[VERSION][..], &keys.current, &nonce, &ciphertext].concat()
    }

    /// Decrypts a value that [`Self::encrypt`] made for the same location.
    ///
    /// # Errors
    /// [`EncryptionError::UnknownKey`] and [`EncryptionError::Damaged`], which name the location only.
    pub fn decrypt(
        &self,
        location: AssociatedData<'_>,
        encrypted: &[u8],
    ) -> Result<SecretString, EncryptionError> {
        let damaged = || EncryptionError::Damaged(format!("{}.{}", location.table, location.column));
        if encrypted.len() < HEADER || encrypted[0] != VERSION {
            return Err(damaged());
        }
        let id: [u8; 4] = encrypted[1..5].try_into().map_err(|_| damaged())?;
        let nonce: [u8; 24] = encrypted[5..HEADER].try_into().map_err(|_| damaged())?;
        let mut keys = self.keys();
        if !keys.by_id.contains_key(&id) && self.reload().is_ok() {
            keys = self.keys();
        }
        let cipher = keys
            .by_id
            .get(&id)
            .ok_or_else(|| EncryptionError::UnknownKey(format!("{}.{}", location.table, location.column)))?;
        let payload = Payload {
            msg: &encrypted[HEADER..],
            aad: &location.bytes(),
        };
        let plain = cipher
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| damaged())?;
        String::from_utf8(plain)
            .map(SecretString::from)
            .map_err(|_| damaged())
    }
}

impl Keys {
    fn new(keys: &[[u8; 32]]) -> Self {
        let order: Vec<_> = keys.iter().map(key_file::key_id).collect();
        Self {
            current: *order.last().expect("a key ring has at least one key"),
            by_id: keys
                .iter()
                .map(|key| (key_file::key_id(key), XChaCha20Poly1305::new(key.into())))
                .collect(),
            order,
        }
    }
}

impl From<EncryptionError> for Error {
    fn from(error: EncryptionError) -> Self {
        Self::internal("A stored secret cannot be decrypted.")
            .with_message(error.to_string())
            .with_cause(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const LOCATION: AssociatedData<'_> = AssociatedData {
        table: "databases",
        column: "password",
        row: "1",
    };

    #[test]
    fn values_decrypt_only_with_their_associated_data() {
        let key_ring = KeyRing::new(&[[7; 32]]);
        let encrypted = key_ring.encrypt(LOCATION, &"hunter2".to_owned().into());
        assert!(!encrypted.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(
            key_ring.decrypt(LOCATION, &encrypted).unwrap().expose_secret(),
            "hunter2"
        );
        let other_row = AssociatedData { row: "2", ..LOCATION };
        assert!(matches!(
            key_ring.decrypt(other_row, &encrypted),
            Err(EncryptionError::Damaged(_))
        ));
    }

    #[test]
    fn older_keys_decrypt_and_missing_keys_are_reported() {
        let old = KeyRing::new(&[[1; 32]]);
        let encrypted = old.encrypt(LOCATION, &"x".to_owned().into());
        let both = KeyRing::new(&[[1; 32], [2; 32]]);
        assert_eq!(both.decrypt(LOCATION, &encrypted).unwrap().expose_secret(), "x");
        let new = KeyRing::new(&[[2; 32]]);
        assert!(matches!(
            new.decrypt(LOCATION, &encrypted),
            Err(EncryptionError::UnknownKey(_))
        ));
    }

    #[test]
    fn damaged_values_are_not_decrypted() {
        let key_ring = KeyRing::new(&[[7; 32]]);
        let encrypted = key_ring.encrypt(LOCATION, &"hunter2".to_owned().into());
        for at in 0..encrypted.len() {
            let mut broken = encrypted.clone();
            broken[at] ^= 1;
            assert!(key_ring.decrypt(LOCATION, &broken).is_err(), "byte {at}");
        }
        assert!(key_ring.decrypt(LOCATION, &[]).is_err());
    }
}

//! Secrets at rest: sealed with XChaCha20-Poly1305 under a key file.
//!
//! A sealed value is `version (1) ‖ key id (4) ‖ nonce (24) ‖ ciphertext and tag`. The place that
//! a value belongs to (table, column, row) is authenticated with it, so that one row's secret
//! cannot be moved into another row.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use rand::{RngExt, rand_core::TryRng, rngs::SysRng};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4 + 24;

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    keys: Arc<Keys>,
}

struct Keys {
    current: [u8; 4],
    by_id: BTreeMap<[u8; 4], XChaCha20Poly1305>,
}

/// Where a sealed value is kept: `("databases", "password", project id)`.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub table: &'a str,
    pub column: &'a str,
    pub row: &'a str,
}

/// Why a value could not be opened, or the keys not be read.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "the key file {path} cannot be used: {why}. Restore it from a backup; without it, stored secrets are lost"
    )]
    KeyFile { path: String, why: String },
    #[error(
        "a value in {0} is sealed with a key that is not in the key file; restore the key file it was sealed with"
    )]
    UnknownKey(String),
    #[error("a sealed value in {0} is damaged or was moved there from another place")]
    Damaged(String),
}

impl Place<'_> {
    fn bytes(self) -> Vec<u8> {
        format!("{}/{}/{}", self.table, self.column, self.row).into_bytes()
    }
}

impl Sealer {
    /// From keys of 32 bytes; the last is the one that new values are sealed with.
    ///
    /// # Panics
    /// Where there is no key.
    #[must_use]
    pub fn new(keys: &[[u8; 32]]) -> Self {
        let by_id: BTreeMap<_, _> = keys
            .iter()
            .map(|key| (key_id(key), XChaCha20Poly1305::new(key.into())))
            .collect();
        let current = key_id(keys.last().expect("a sealer has at least one key"));
        Self {
            keys: Arc::new(Keys { current, by_id }),
        }
    }

    /// Reads the key file (one key of 64 hexadecimal digits per line, the newest last), or makes
    /// it with one fresh key, readable by its owner alone.
    ///
    /// # Errors
    /// [`SealError::KeyFile`].
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let failed = |why: String| SealError::KeyFile {
            path: path.display().to_string(),
            why,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("{}\n", fresh().map_err(failed)?);
                write_new(path, &text).map_err(|e| failed(e.to_string()))?;
                text
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let keys = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                let mut key = [0_u8; 32];
                hex::decode_to_slice(line.trim(), &mut key)
                    .map(|()| key)
                    .map_err(|_| failed("a line of it is not 64 hexadecimal digits".into()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(failed("it is empty".into()));
        }
        Ok(Self::new(&keys))
    }

    /// Appends a fresh key to the key file, with which a server that is started from then on seals. The older
    /// ones stay, and open what they sealed.
    ///
    /// # Errors
    /// [`SealError::KeyFile`]; the file is as it was.
    pub fn add_key(path: &Path) -> Result<(), SealError> {
        let failed = |why: String| SealError::KeyFile {
            path: path.display().to_string(),
            why,
        };
        // What is there must be in order, and is not to be made.
        let before = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::open(path)?;
        let text = format!("{}\n{}\n", before.trim_end(), fresh().map_err(failed)?);
        replace(path, &text).map_err(|error| failed(error.to_string()))
    }

    /// Whether there is a key of this id.
    #[must_use]
    pub fn has(&self, id: &[u8]) -> bool {
        <[u8; 4]>::try_from(id).is_ok_and(|id| self.keys.by_id.contains_key(&id))
    }

    /// The id of the key that values are sealed with.
    #[must_use]
    pub fn current(&self) -> [u8; 4] {
        self.keys.current
    }

    /// Seals `secret` for `place`.
    #[must_use]
    pub fn seal(&self, place: Place<'_>, secret: &SecretString) -> Vec<u8> {
        let nonce: [u8; 24] = rand::rng().random();
        let payload = Payload {
            msg: secret.expose_secret().as_bytes(),
            aad: &place.bytes(),
        };
        let ciphertext = self.keys.by_id[&self.keys.current]
            .encrypt(&XNonce::from(nonce), payload)
            .expect("XChaCha20-Poly1305 seals anything that fits in memory");
        [&[VERSION][..], &self.keys.current, &nonce, &ciphertext].concat()
    }

    /// Opens what [`Self::seal`] made for the same place.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] and [`SealError::Damaged`], which name the place only.
    pub fn unseal(&self, place: Place<'_>, sealed: &[u8]) -> Result<SecretString, SealError> {
        let damaged = || SealError::Damaged(format!("{}.{}", place.table, place.column));
        if sealed.len() < HEADER || sealed[0] != VERSION {
            return Err(damaged());
        }
        let id: [u8; 4] = sealed[1..5].try_into().map_err(|_| damaged())?;
        let nonce: [u8; 24] = sealed[5..HEADER].try_into().map_err(|_| damaged())?;
        let cipher = self
            .keys
            .by_id
            .get(&id)
            .ok_or_else(|| SealError::UnknownKey(format!("{}.{}", place.table, place.column)))?;
        let payload = Payload {
            msg: &sealed[HEADER..],
            aad: &place.bytes(),
        };
        let plain = cipher
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| damaged())?;
        String::from_utf8(plain)
            .map(SecretString::from)
            .map_err(|_| damaged())
    }
}

fn key_id(key: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(b"fsa key id")
        .chain_update(key)
        .finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// A new key, as the file has it.
fn fresh() -> Result<String, String> {
    let mut key = [0_u8; 32];
    SysRng
        .try_fill_bytes(&mut key)
        .map_err(|error| error.to_string())?;
    Ok(hex::encode(key))
}

/// Puts a new file in the place of one that is there, for the same owner: all of it or nothing.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(path)?;
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(&new, text)?;
    std::os::unix::fs::chown(&new, Some(owner.uid()), Some(owner.gid()))?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'_> = Place {
        table: "databases",
        column: "password",
        row: "1",
    };

    #[test]
    fn what_is_sealed_opens_in_its_own_place_only() {
        let sealer = Sealer::new(&[[7; 32]]);
        let sealed = sealer.seal(HERE, &"hunter2".to_owned().into());
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(sealer.unseal(HERE, &sealed).unwrap().expose_secret(), "hunter2");
        let elsewhere = Place { row: "2", ..HERE };
        assert!(matches!(
            sealer.unseal(elsewhere, &sealed),
            Err(SealError::Damaged(_))
        ));
    }

    #[test]
    fn an_older_key_still_opens_and_a_missing_one_is_named() {
        let old = Sealer::new(&[[1; 32]]);
        let sealed = old.seal(HERE, &"x".to_owned().into());
        let both = Sealer::new(&[[1; 32], [2; 32]]);
        assert_eq!(both.unseal(HERE, &sealed).unwrap().expose_secret(), "x");
        let new = Sealer::new(&[[2; 32]]);
        assert!(matches!(new.unseal(HERE, &sealed), Err(SealError::UnknownKey(_))));
    }

    #[test]
    fn a_damaged_value_never_opens() {
        let sealer = Sealer::new(&[[7; 32]]);
        let sealed = sealer.seal(HERE, &"hunter2".to_owned().into());
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert!(sealer.unseal(HERE, &broken).is_err(), "byte {at}");
        }
        assert!(sealer.unseal(HERE, &[]).is_err());
    }

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/seal.key");
        let sealed = Sealer::open(&path).unwrap().seal(HERE, &"x".to_owned().into());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            Sealer::open(&path)
                .unwrap()
                .unseal(HERE, &sealed)
                .unwrap()
                .expose_secret(),
            "x"
        );
        // A key more: what is there still opens, and the next value has the new one.
        Sealer::add_key(&path).unwrap();
        let both = Sealer::open(&path).unwrap();
        assert_eq!(both.unseal(HERE, &sealed).unwrap().expose_secret(), "x");
        assert_ne!(both.seal(HERE, &"x".to_owned().into())[1..5], sealed[1..5]);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(Sealer::add_key(&folder.path().join("none")).is_err());
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(matches!(Sealer::open(&path), Err(SealError::KeyFile { .. })));
    }
}

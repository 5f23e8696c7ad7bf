//! Secrets at rest: sealed with XChaCha20-Poly1305 under a key file.
//!
//! A sealed value is `version (1) ‖ key id (4) ‖ nonce (24) ‖ ciphertext and tag`. The place that
//! a value belongs to (table, column, row) is authenticated with it, so that one row's secret
//! cannot be moved into another row.
//!
//! The file is read again when it has changed: a key may be added while servers work, and one that meets a value
//! under a key that it does not know looks at the file before it gives up.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use parking_lot::{Mutex, RwLock};
use rand::{RngExt, rand_core::TryRng, rngs::SysRng};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4 + 24;

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct Sealer(Arc<Inner>);

struct Inner {
    keys: RwLock<Arc<Keys>>,
    /// Where they come from, and what the file was like then; none where they were given.
    file: Option<(PathBuf, Mutex<Stamp>)>,
}

struct Keys {
    current: [u8; 4],
    /// In the order of the file.
    order: Vec<[u8; 4]>,
    by_id: BTreeMap<[u8; 4], XChaCha20Poly1305>,
}

/// Whether a file is still the one that was read.
type Stamp = Option<(SystemTime, u64, u64)>;

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
    #[error("{0}")]
    Kept(&'static str),
}

/// How long a key that was superseded is kept at least: other servers may not have read the file yet.
const SUPERSEDED: Duration = Duration::from_secs(60);

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
        Self(Arc::new(Inner {
            keys: RwLock::new(Arc::new(Keys::of(keys))),
            file: None,
        }))
    }

    /// Reads the key file (one key of 64 hexadecimal digits per line, the newest last), or makes
    /// it with one fresh key, readable by its owner alone.
    ///
    /// # Errors
    /// [`SealError::KeyFile`].
    pub fn open(path: &Path) -> Result<Self, SealError> {
        // Before it is read: what changes meanwhile is read again.
        let keys = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let failed = unusable(path);
                let text = format!("{}\n", fresh().map_err(&failed)?);
                write_new(path, &text).map_err(|e| failed(e.to_string()))?;
                stamp(path)
            }
            _ => stamp(path),
        };
        Ok(Self(Arc::new(Inner {
            file: Some((path.to_owned(), Mutex::new(keys))),
            keys: RwLock::new(Arc::new(Keys::of(&read(path)?))),
        })))
    }

    /// Reads the key file again where it has changed; whether it had.
    ///
    /// # Errors
    /// [`SealError::KeyFile`]; the keys are those of before.
    pub fn renew(&self) -> Result<bool, SealError> {
        let Some((path, seen)) = &self.0.file else {
            return Ok(false);
        };
        let mut seen = seen.lock();
        let now = stamp(path);
        if now == *seen {
            return Ok(false);
        }
        let keys = Keys::of(&read(path)?);
        *self.0.keys.write() = Arc::new(keys);
        *seen = now;
        Ok(true)
    }

    /// Takes a key out of the file. That nothing is sealed with it is for the caller to know.
    ///
    /// # Errors
    /// [`SealError::Kept`] where it must stay; [`SealError::KeyFile`].
    pub fn forget(&self, id: [u8; 4]) -> Result<(), SealError> {
        let Some((path, _)) = &self.0.file else {
            return Err(SealError::Kept("The keys of this server are not in a file."));
        };
        let failed = unusable(path);
        let keys = read(path)?;
        if keys.last().is_some_and(|key| key_id(key) == id) {
            return Err(SealError::Kept(
                "It is the newest key, which everything is sealed with; `fsa keys rotate` makes another first.",
            ));
        }
        let young = std::fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < SUPERSEDED));
        if young {
            return Err(SealError::Kept(
                "The key file has changed less than a minute ago, and another server may not have read it yet.",
            ));
        }
        // Clusters know this installation by its first key.
        if keys.first().is_some_and(|key| key_id(key) == id) && keys.len() > 1 {
            let name = installation(path).map_err(|error| failed(error.to_string()))?;
            let kept = path.with_file_name(INSTALLATION);
            if !kept.exists() {
                write_new(&kept, &format!("{name}\n")).map_err(|error| failed(error.to_string()))?;
            }
        }
        let text: String = keys
            .iter()
            .filter(|key| key_id(key) != id)
            .map(|key| hex::encode(key) + "\n")
            .collect();
        replace(path, &text).map_err(|error| failed(error.to_string()))?;
        self.renew().map(drop)
    }

    /// Appends a fresh key to the key file, with which servers seal as soon as they have read it. The older
    /// ones stay, and open what they sealed.
    ///
    /// # Errors
    /// [`SealError::KeyFile`]; the file is as it was.
    pub fn add_key(path: &Path) -> Result<(), SealError> {
        let failed = unusable(path);
        // What is there must be in order, and is not to be made.
        let before = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::open(path)?;
        let text = format!("{}\n{}\n", before.trim_end(), fresh().map_err(&failed)?);
        replace(path, &text).map_err(|error| failed(error.to_string()))
    }

    /// Whether there is a key of this id.
    #[must_use]
    pub fn has(&self, id: &[u8]) -> bool {
        <[u8; 4]>::try_from(id).is_ok_and(|id| self.keys().by_id.contains_key(&id))
    }

    /// The id of the key that values are sealed with.
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

    /// Seals `secret` for `place`.
    #[must_use]
    pub fn seal(&self, place: Place<'_>, secret: &SecretString) -> Vec<u8> {
        let nonce: [u8; 24] = rand::rng().random();
        let payload = Payload {
            msg: secret.expose_secret().as_bytes(),
            aad: &place.bytes(),
        };
        let keys = self.keys();
        let ciphertext = keys.by_id[&keys.current]
            .encrypt(&XNonce::from(nonce), payload)
            .expect("XChaCha20-Poly1305 seals anything that fits in memory");
        [&[VERSION][..], &keys.current, &nonce, &ciphertext].concat()
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
        let mut keys = self.keys();
        if !keys.by_id.contains_key(&id) && self.renew().is_ok() {
            keys = self.keys();
        }
        let cipher = keys
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

impl Keys {
    fn of(keys: &[[u8; 32]]) -> Self {
        let order: Vec<_> = keys.iter().map(key_id).collect();
        Self {
            current: *order.last().expect("a sealer has at least one key"),
            by_id: keys
                .iter()
                .map(|key| (key_id(key), XChaCha20Poly1305::new(key.into())))
                .collect(),
            order,
        }
    }
}

/// Beside the key file: what the installation is called, once the key is gone that its name came from.
const INSTALLATION: &str = "installation";

/// What clusters tell this installation's objects by: the same for all servers, since they share the key that
/// it is made from (the first), and no way back to it.
///
/// # Errors
/// The key file cannot be read.
pub fn installation(path: &Path) -> std::io::Result<String> {
    match std::fs::read_to_string(path.with_file_name(INSTALLATION)) {
        Ok(name) => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let text = std::fs::read(path)?;
    // The first line, which stays when keys are added.
    let first = text.split_inclusive(|byte| *byte == b'\n').next();
    let digest = Sha256::new()
        .chain_update(b"installation\0")
        .chain_update(first.unwrap_or_default())
        .finalize();
    Ok(hex::encode(&digest[..6]))
}

fn unusable(path: &Path) -> impl Fn(String) -> SealError + use<> {
    let path = path.display().to_string();
    move |why| SealError::KeyFile {
        path: path.clone(),
        why,
    }
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// The keys of a file, of which there is at least one.
fn read(path: &Path) -> Result<Vec<[u8; 32]>, SealError> {
    let failed = unusable(path);
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
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
    Ok(keys)
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

    #[test]
    fn a_key_that_is_added_while_somebody_works_is_used_and_an_old_one_can_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/seal.key");
        let (writer, reader) = (Sealer::open(&path).unwrap(), Sealer::open(&path).unwrap());
        let (first, name) = (writer.current(), installation(&path).unwrap());
        let before = writer.seal(HERE, &"x".to_owned().into());
        assert!(!writer.renew().unwrap(), "nothing has changed");

        Sealer::add_key(&path).unwrap();

        assert!(writer.renew().unwrap());
        assert_ne!(writer.current(), first);
        // The other one has not looked yet, and does when it meets the new key.
        let after = writer.seal(HERE, &"y".to_owned().into());
        assert_eq!(reader.unseal(HERE, &after).unwrap().expose_secret(), "y");
        assert_eq!(reader.unseal(HERE, &before).unwrap().expose_secret(), "x");

        assert!(matches!(writer.forget(writer.current()), Err(SealError::Kept(_))));
        assert!(
            matches!(writer.forget(first), Err(SealError::Kept(_))),
            "too early"
        );
        let earlier = SystemTime::now() - SUPERSEDED * 2;
        std::fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(earlier)
            .unwrap();
        writer.forget(first).unwrap();
        assert_eq!(writer.ids(), [writer.current()]);
        assert!(writer.unseal(HERE, &before).is_err());
        assert_eq!(writer.unseal(HERE, &after).unwrap().expose_secret(), "y");
        assert_eq!(installation(&path).unwrap(), name, "clusters still know it");
    }
}

//! Key file: one key of 64 hexadecimal digits per line, the newest last, readable by its owner only. It is replaced
//! atomically, because values encrypted with a lost key are lost too.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rand::{rand_core::TryRng, rngs::SysRng};
use sha2::{Digest, Sha256};

use super::EncryptionError;

/// Identity of the file version that was read: modification time, length and inode.
pub(super) type Stamp = Option<(SystemTime, u64, u64)>;

/// The minimum time that a superseded key is kept: other servers may not have read the file yet.
const MIN_AGE: Duration = Duration::from_secs(60);

/// Creates the file with one fresh key.
pub(super) fn create(path: &Path) -> Result<(), EncryptionError> {
    let failed = unusable(path);
    let text = format!("{}\n", new_key().map_err(&failed)?);
    write_new(path, &text).map_err(|error| failed(error.to_string()))
}

/// Appends a fresh key to an existing valid file.
pub(super) fn add_key(path: &Path) -> Result<(), EncryptionError> {
    let failed = unusable(path);
    let before = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    read(path)?;
    let text = format!("{}\n{}\n", before.trim_end(), new_key().map_err(&failed)?);
    replace(path, &text).map_err(|error| failed(error.to_string()))
}

/// Removes a key from the file, unless it must stay.
pub(super) fn remove(path: &Path, id: [u8; 4]) -> Result<(), EncryptionError> {
    let failed = unusable(path);
    let keys = read(path)?;
    if keys.last().is_some_and(|key| key_id(key) == id) {
        return Err(EncryptionError::NotRemovable(
            "It is the newest key, which everything is encrypted with; `fsa keys rotate` creates another one first.",
        ));
    }
    let young = std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < MIN_AGE));
    if young {
        return Err(EncryptionError::NotRemovable(
            "The key file has changed less than a minute ago, and another server may not have read it yet.",
        ));
    }
    // Clusters identify this installation by its first key.
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
    replace(path, &text).map_err(|error| failed(error.to_string()))
}

/// A file beside the key file. It keeps the installation's name after the key that the name was derived from is
/// removed.
const INSTALLATION: &str = "installation";

/// The name by which clusters identify this installation's objects. All servers share it, since it is derived from
/// their first key; the key cannot be derived from it.
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

fn unusable(path: &Path) -> impl Fn(String) -> EncryptionError + use<> {
    let path = path.display().to_string();
    move |why| EncryptionError::KeyFile {
        path: path.clone(),
        why,
    }
}

pub(super) fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// Reads the keys of a file, which has at least one.
pub(super) fn read(path: &Path) -> Result<Vec<[u8; 32]>, EncryptionError> {
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

/// The id of a key in the values that it encrypted.
pub(super) fn key_id(key: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(b"fsa key id")
        .chain_update(key)
        .finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// A new key in the file's format.
fn new_key() -> Result<String, String> {
    let mut key = [0_u8; 32];
    SysRng
        .try_fill_bytes(&mut key)
        .map_err(|error| error.to_string())?;
    Ok(hex::encode(key))
}

/// Replaces an existing file atomically, with the same owner.
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
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::encryption::{KeyRing, tests::LOCATION};

    #[test]
    fn the_key_file_is_created_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/seal.key");
        let encrypted = KeyRing::open(&path)
            .unwrap()
            .encrypt(LOCATION, &"x".to_owned().into());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            KeyRing::open(&path)
                .unwrap()
                .decrypt(LOCATION, &encrypted)
                .unwrap()
                .expose_secret(),
            "x"
        );
        // With an added key, older values still decrypt and new ones use the new key.
        KeyRing::add_key(&path).unwrap();
        let both = KeyRing::open(&path).unwrap();
        assert_eq!(both.decrypt(LOCATION, &encrypted).unwrap().expose_secret(), "x");
        assert_ne!(
            both.encrypt(LOCATION, &"x".to_owned().into())[1..5],
            encrypted[1..5]
        );
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(KeyRing::add_key(&folder.path().join("none")).is_err());
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(matches!(
            KeyRing::open(&path),
            Err(EncryptionError::KeyFile { .. })
        ));
    }

    #[test]
    fn keys_are_rotated_while_servers_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/seal.key");
        let (writer, reader) = (KeyRing::open(&path).unwrap(), KeyRing::open(&path).unwrap());
        let (first, name) = (writer.current(), installation(&path).unwrap());
        let before = writer.encrypt(LOCATION, &"x".to_owned().into());
        assert!(!writer.reload().unwrap(), "nothing has changed");

        KeyRing::add_key(&path).unwrap();

        assert!(writer.reload().unwrap());
        assert_ne!(writer.current(), first);
        // The reader has not reloaded the file yet; it does so on the unknown key.
        let after = writer.encrypt(LOCATION, &"y".to_owned().into());
        assert_eq!(reader.decrypt(LOCATION, &after).unwrap().expose_secret(), "y");
        assert_eq!(reader.decrypt(LOCATION, &before).unwrap().expose_secret(), "x");

        assert!(matches!(
            writer.remove(writer.current()),
            Err(EncryptionError::NotRemovable(_))
        ));
        assert!(
            matches!(writer.remove(first), Err(EncryptionError::NotRemovable(_))),
            "too early"
        );
        let earlier = SystemTime::now() - MIN_AGE * 2;
        std::fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(earlier)
            .unwrap();
        writer.remove(first).unwrap();
        assert_eq!(writer.ids(), [writer.current()]);
        assert!(writer.decrypt(LOCATION, &before).is_err());
        assert_eq!(writer.decrypt(LOCATION, &after).unwrap().expose_secret(), "y");
        assert_eq!(installation(&path).unwrap(), name, "clusters still know it");
    }
}

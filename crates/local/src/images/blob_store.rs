//! Blob store: images on disk, in `<data>/images`, which belongs to `fsa serve`.
//!
//! ```text
//! blobs/sha256/<hex>   manifests, configurations, and layers until they are unpacked
//! names/<hash>.json    the record of each image, under the SHA-256 of its name
//! incoming/            files that are being received
//! lock                 held shared while an image is added or a sandbox is started, and
//!                      exclusively while unused files are removed
//! ```
//!
//! A file is written in `incoming` and renamed, so that it is complete under its name. Nothing waits
//! for the disk: a power cut damages only an image that has just been added, which is fetched again.
//! Compressed layers are removed once they are unpacked: they would double an image's disk usage,
//! and can be fetched again.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use fsa_model::{Failure, FailureKind, api::ImageInfo};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};

use super::{
    digest::{DiffId, Digest},
    manifest::Config,
};

/// The record of an image under one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredImage {
    pub name: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the configuration.
    pub config_digest: Digest,
    /// Bottom first.
    pub layers: Vec<StoredLayer>,
    /// The environment that its programs expect.
    pub config: Config,
    pub origin: Origin,
    pub imported_at: DateTime<Utc>,
}

/// One layer of a [`StoredImage`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredLayer {
    pub diff_id: DiffId,
    pub blob: Digest,
    #[serde(default)]
    pub media_type: String,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the unpacked files.
    pub unpacked: u64,
}

/// Where an image came from, and where it can be fetched again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Origin {
    /// Imported by a user.
    Import,
    /// An archive on this machine, with its size and time at the import.
    #[serde(rename_all = "camelCase")]
    Archive {
        path: PathBuf,
        size: u64,
        modified_nanoseconds: i64,
    },
    /// A registry.
    Registry { reference: String },
}

impl StoredImage {
    /// Its description for the API.
    #[must_use]
    pub fn info(&self) -> ImageInfo {
        ImageInfo {
            name: self.name.clone(),
            digest: self.digest.to_string(),
            size: self.layers.iter().map(|layer| layer.unpacked).sum(),
            layers: u32::try_from(self.layers.len()).unwrap_or(u32::MAX),
            imported_at: self.imported_at,
        }
    }
}

/// A lock on the blob store: while it is held, no blob and no layer is removed.
#[derive(Clone, Debug)]
pub struct Lease(#[allow(dead_code, reason = "held for its lock")] Arc<File>);

/// `<data>/images`.
#[derive(Clone, Debug)]
pub struct BlobStore(PathBuf);

impl BlobStore {
    /// Opens the folder, and creates missing parts.
    ///
    /// # Errors
    /// The file system's error.
    pub fn open(data: &Path) -> io::Result<Self> {
        let folder = Self(data.join("images"));
        for part in ["blobs/sha256", "names", "incoming"] {
            fs::create_dir_all(folder.0.join(part))?;
        }
        // Images may be private.
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700))?;
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.0.join("lock"))?;
        Ok(folder)
    }

    /// Waits for a removal that is in progress, for 60 s at most.
    pub async fn lock_shared(&self) -> Result<Lease, Failure> {
        let path = self.0.join("lock");
        let lock = move || {
            let file = File::open(path)?;
            rustix::fs::flock(&file, FlockOperation::LockShared)?;
            io::Result::Ok(Lease(Arc::new(file)))
        };
        match tokio::time::timeout(Duration::from_secs(60), tokio::task::spawn_blocking(lock)).await {
            Ok(Ok(Ok(lease))) => Ok(lease),
            Ok(Ok(Err(e))) => Err(disk("the image store could not be locked", &e)),
            Ok(Err(_)) | Err(_) => Err(Failure::new(
                FailureKind::Transient,
                "images are being removed at the moment; it is retried",
            )),
        }
    }

    /// The exclusive lock, unless something is in use.
    pub fn try_lock_exclusive(&self) -> io::Result<Option<Lease>> {
        let file = File::open(self.0.join("lock"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lease(Arc::new(file)))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// A temporary folder for received files, removed when it is dropped.
    pub fn incoming(&self) -> io::Result<TempDir> {
        tempfile::Builder::new()
            .prefix("in-")
            .tempdir_in(self.0.join("incoming"))
    }

    /// Removes what a crash left in `incoming`. Only with the exclusive lock.
    pub fn clear_incoming(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.0.join("incoming"))? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?
            } else {
                fs::remove_file(path)?
            }
        }
        Ok(())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob(digest).is_file()
    }

    /// Moves a file with a verified digest to its name among the blobs.
    pub fn adopt(&self, file: &Path, digest: &Digest) -> io::Result<()> {
        fs::rename(file, self.blob(digest))
    }

    /// Stores a small blob.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        self.write(&self.blob(&digest), bytes)?;
        Ok(digest)
    }

    pub fn remove_blob(&self, digest: &Digest) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.blob(digest)))
    }

    /// Every blob.
    pub fn blobs(&self) -> io::Result<Vec<Digest>> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(self.0.join("blobs/sha256"))? {
            if let Some(hex) = entry?.file_name().to_str()
                && let Ok(digest) = format!("sha256:{hex}").parse()
            {
                blobs.push(digest);
            }
        }
        Ok(blobs)
    }

    /// Whether a data folder has an image of this name. The folder need not exist.
    pub fn has_image(data: &Path, name: &str) -> bool {
        Self(data.join("images")).record(name).is_file()
    }

    fn record(&self, name: &str) -> PathBuf {
        self.0
            .join("names")
            .join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    /// The image of this exact name. An unreadable record is logged, and counts as missing.
    #[must_use]
    pub fn image(&self, name: &str) -> Option<StoredImage> {
        read_record(&self.record(name))
    }

    pub fn save(&self, image: &StoredImage) -> io::Result<()> {
        self.write(&self.record(&image.name), &serde_json::to_vec_pretty(image)?)
    }

    /// Removes the image of this name. False if there is none.
    pub fn forget(&self, name: &str) -> io::Result<bool> {
        match fs::remove_file(self.record(name)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Every image, by name.
    pub fn images(&self) -> io::Result<Vec<StoredImage>> {
        let mut images = Vec::new();
        for entry in fs::read_dir(self.0.join("names"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                images.extend(read_record(&path));
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(self.0.join("incoming"))?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }

    /// Whether `bytes` more fit on the disk, leaving `keep_free`.
    pub fn has_room(&self, bytes: u64, keep_free: u64) -> io::Result<bool> {
        let space = rustix::fs::statvfs(&self.0)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize) >= bytes.saturating_add(keep_free))
    }
}

fn read_record(path: &Path) -> Option<StoredImage> {
    let bytes = fs::read(path).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(image) => Some(image),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "record of an image cannot be read; import it again");
            None
        }
    }
}

/// A failure of the disk, with a message for people.
#[must_use]
pub fn disk(what: &str, error: &io::Error) -> Failure {
    if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
        return no_room();
    }
    Failure::new(FailureKind::Machine, format!("{what}: {error}"))
}

/// The failure when an image does not fit on the disk.
#[must_use]
pub fn no_room() -> Failure {
    Failure::new(
        FailureKind::Machine,
        "the disk has no room for the image: remove images or projects that are no longer needed, or make the disk larger",
    )
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

//! Layer unpacking: turns a verified blob into a folder of files. Runs with privileges.
//!
//! A request names digests only; every path follows from them and from the data folder. The blob
//! store is treated as hostile: the blob is opened without following links, hashed while it is
//! read, its uncompressed tar is hashed too, and only when both match is
//! `layers/<hex>.partial-<random>` renamed to `layers/<hex>`. A crash leaves a partial folder at
//! most, which the next [`Layers::open`] removes.
//!
//! Nothing waits for the disk: a layer is usable as soon as it is in the page cache. Its marker
//! `layers/<hex>.json` records the boot in which it was written and whether it has been synced;
//! after a power cut, a layer that was not synced is removed and unpacked again.

mod deferred_link;
mod entry_path;
mod layer_marker;
mod pipeline;
mod tree;
mod volume;

use std::{
    fs::{self, File, Permissions},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use deferred_link::{DeferredLink, make as make_links};
use fsa_model::{Failure, FailureKind};
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
pub use tree::{Limits, Rules};
pub use volume::unpack_volume;

use self::layer_marker::LayerMarker;
use super::keyed_mutex::KeyedMutex;
use crate::images::{DiffId, Digest, LayerBlob, UnpackedLayer, tarball::TarError};

/// Layers that wait to be synced.
const UNSYNCED: usize = 1_000;
/// Older markers without a layer are leftovers: a layer is renamed right after its marker is written.
const MARKER_AGE_MAX: Duration = Duration::from_secs(60);

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("its blob {0} is not in the blob store")]
    BlobMissing(Digest),
    #[error("its blob has the digest {found} and not {expected}: it was damaged in transit")]
    WrongDigest { expected: Digest, found: Digest },
    #[error(
        "its content has the digest {found} and not {expected}, which the image's configuration requires"
    )]
    WrongDiffId { expected: DiffId, found: DiffId },
    #[error("it cannot be decompressed ({0})")]
    Damaged(io::Error),
    #[error("{0}")]
    Tar(#[from] TarError),
    /// An entry that no layer may have.
    #[error("its entry {path:?} {why}")]
    Refused { path: String, why: String },
    #[error("it unpacks to more than the limit of {0}")]
    TooLarge(String),
    #[error("the disk is full ({0} MB are kept free): remove images or projects, or make the disk larger")]
    DiskFull(u64),
    #[error("{path:?} could not be written ({error})")]
    Write { path: String, error: io::Error },
    #[error("{what} ({error})")]
    Machine { what: &'static str, error: io::Error },
    #[error("fsa serve was stopped meanwhile; it is unpacked when the image is used again")]
    Stopped,
}

impl UnpackError {
    /// The error for people.
    #[must_use]
    pub fn failure(&self, layer: &LayerBlob) -> Failure {
        self.failure_of(&layer.diff_id)
    }

    /// Same as [`Self::failure`], for a layer that is unpacked already.
    #[must_use]
    pub fn failure_of(&self, layer: &DiffId) -> Failure {
        let hex = layer.hex();
        Failure::new(
            self.kind(),
            format!("the image's layer {} could not be unpacked: {self}", &hex[..12]),
        )
    }

    /// Whether the archive or the machine is the cause.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::WrongDigest { .. }
            | Self::WrongDiffId { .. }
            | Self::Damaged(_)
            | Self::Tar(_)
            | Self::Refused { .. }
            | Self::TooLarge(_) => FailureKind::Input,
            Self::BlobMissing(_) | Self::DiskFull(_) | Self::Write { .. } | Self::Machine { .. } => {
                FailureKind::Machine
            }
            Self::Stopped => FailureKind::Transient,
        }
    }
}

/// The folder of unpacked layers.
pub struct Layers {
    data: OwnedFd,
    folder: PathBuf,
    rules: Rules,
    limits: Limits,
    boot: String,
    layer_locks: KeyedMutex<DiffId>,
    syncer: Option<(mpsc::SyncSender<DiffId>, JoinHandle<()>)>,
    stopped: AtomicBool,
}

impl Layers {
    /// Opens `<data>/runner/layers`, creating it if it is missing, and removes layers that a crash or
    /// a power cut left incomplete.
    ///
    /// # Errors
    /// [`UnpackError::Machine`].
    pub fn open(data: &Path, rules: Rules, limits: Limits) -> Result<Self, UnpackError> {
        let machine = |what| move |error| UnpackError::Machine { what, error };
        let folder = data.join("runner/layers");
        // Images have set-user-id programs, which no other user of this machine may reach.
        fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o700)))
            .map_err(machine("the folder of layers could not be created"))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(machine("the identity of this boot could not be read"))?
            .trim()
            .to_owned();
        let fd = rustix::fs::open(
            data,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| machine("the data folder could not be opened")(e.into()))?;
        let layer_locks = KeyedMutex::default();
        let (sender, receiver) = mpsc::sync_channel(UNSYNCED);
        let syncer = thread::Builder::new()
            .name("layer-sync".into())
            .spawn({
                let folder = folder.clone();
                let boot = boot.clone();
                let layer_locks = layer_locks.clone();
                move || layer_marker::sync_layers(&folder, &boot, &layer_locks, &receiver)
            })
            .map_err(machine("a thread could not be started"))?;
        let layers = Self {
            data: fd,
            folder,
            rules,
            limits,
            boot,
            layer_locks,
            syncer: Some((sender, syncer)),
            stopped: AtomicBool::new(false),
        };
        layers
            .sweep()
            .map_err(machine("incomplete layers could not be removed"))?;
        Ok(layers)
    }

    /// The folder of an unpacked layer.
    #[must_use]
    pub fn path(&self, layer: &DiffId) -> PathBuf {
        self.folder.join(layer.hex())
    }

    /// Whether the layer is unpacked completely.
    #[must_use]
    pub fn has(&self, layer: &DiffId) -> bool {
        self.marker(layer).is_some() && self.path(layer).is_dir()
    }

    /// The hard links of an unpacked layer to files of layers below it.
    #[must_use]
    pub fn links(&self, layer: &DiffId) -> Vec<DeferredLink> {
        self.marker(layer).map(|marker| marker.links).unwrap_or_default()
    }

    /// Every unpacked layer.
    ///
    /// # Errors
    /// The folder's own.
    pub fn list(&self) -> io::Result<Vec<DiffId>> {
        let mut layers = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            if let Some(layer) = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok())
                && self.has(&layer)
            {
                layers.push(layer);
            }
        }
        Ok(layers)
    }

    /// Removes an unpacked layer. The caller makes sure that no sandbox uses it.
    ///
    /// # Errors
    /// The file system's own.
    pub fn remove(&self, layer: &DiffId) -> io::Result<()> {
        let _lock = self.layer_locks.take(*layer);
        ignore_missing(fs::remove_file(self.marker_path(layer)))?;
        let partial = self.partial(layer);
        match fs::rename(self.path(layer), &partial) {
            Ok(()) => remove_tree(&partial),
            other => ignore_missing(other),
        }
    }

    /// Ends the unpacking of layers, which takes longer than anything else that a runner does: nobody waits for it once
    /// the server is gone, and `fsa halt` may come next.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Unpacks the layer from its blob, unless it is unpacked already. Concurrent callers for the
    /// same layer wait for the first one.
    ///
    /// # Errors
    /// [`UnpackError`], and nothing is left behind.
    pub fn unpack(&self, layer: &LayerBlob) -> Result<UnpackedLayer, UnpackError> {
        let machine = |what| move |error: io::Error| UnpackError::Machine { what, error };
        let _lock = self.layer_locks.take(layer.diff_id);
        if let Some(marker) = self.marker(&layer.diff_id)
            && self.path(&layer.diff_id).is_dir()
        {
            return Ok(marker.size);
        }
        let blob = self.open_blob(&layer.blob)?;
        let partial = Partial::make(self.partial(&layer.diff_id))
            .map_err(machine("a folder for the layer could not be created"))?;
        let (size, links) =
            pipeline::write_layer(blob, layer, &partial.fd, self.rules, self.limits, &self.stopped)?;
        self.write_marker(&layer.diff_id, size, links)
            .map_err(machine("the marker of the layer could not be written"))?;
        match fs::rename(&partial.path, self.path(&layer.diff_id)) {
            Ok(()) => partial.keep(),
            // Another runner on the same data folder was faster; the content is the same.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {}
            Err(error) => return Err(machine("the layer could not be moved to its final path")(error)),
        }
        if let Some((sender, _)) = &self.syncer {
            // With a full queue, this layer counts as not synced, which is safe.
            let _ = sender.try_send(layer.diff_id);
        }
        Ok(size)
    }

    /// Removes partial folders that are not locked, and layers that a power cut may have damaged.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let Some(layer) = name
                .get(..64)
                .and_then(|hex| format!("sha256:{hex}").parse::<DiffId>().ok())
            else {
                continue;
            };
            match &name[64..] {
                "" if !self.survived(&layer) => self.remove(&layer)?,
                ".json" if self.path(&layer).is_dir() => {}
                rest if rest.starts_with(".json") => {
                    // A young marker may be that of a layer that is about to be renamed.
                    let age = entry
                        .metadata()
                        .ok()
                        .and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
                    if age.is_some_and(|age| age > MARKER_AGE_MAX) {
                        ignore_missing(fs::remove_file(entry.path()))?;
                    }
                }
                rest if rest.starts_with(".partial-") => match File::open(entry.path()) {
                    // Else a runner has it locked, and is writing it.
                    Ok(fd) if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() => {
                        remove_tree(&entry.path())?;
                    }
                    Ok(_) => {}
                    Err(e) => ignore_missing(Err(e))?,
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the layer is complete on disk.
    fn survived(&self, layer: &DiffId) -> bool {
        self.marker(layer)
            .is_some_and(|marker| marker.synced || marker.boot == self.boot)
    }

    fn open_blob(&self, digest: &Digest) -> Result<File, UnpackError> {
        let file = rustix::fs::openat2(
            &self.data,
            format!("images/blobs/sha256/{}", digest.hex()),
            // Non-blocking: a FIFO at its path must not block the runner.
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .map(File::from);
        match file {
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => Ok(file),
            Ok(_) | Err(rustix::io::Errno::NOENT) => Err(UnpackError::BlobMissing(*digest)),
            Err(e) => Err(UnpackError::Machine {
                what: "the layer's blob could not be opened",
                error: e.into(),
            }),
        }
    }

    fn partial(&self, layer: &DiffId) -> PathBuf {
        self.folder
            .join(format!("{}.partial-{:08x}", layer.hex(), rand::random::<u32>()))
    }

    fn marker_path(&self, layer: &DiffId) -> PathBuf {
        self.folder.join(format!("{}.json", layer.hex()))
    }

    fn marker(&self, layer: &DiffId) -> Option<LayerMarker> {
        LayerMarker::read(&self.marker_path(layer)).ok()
    }

    fn write_marker(&self, layer: &DiffId, size: UnpackedLayer, links: Vec<DeferredLink>) -> io::Result<()> {
        LayerMarker {
            size,
            boot: self.boot.clone(),
            synced: false,
            links,
        }
        .write(&self.marker_path(layer))
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.syncer.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

/// A folder that is being filled. Locked, so that no sweep removes it; removed on drop unless it is
/// kept.
struct Partial {
    path: PathBuf,
    fd: OwnedFd,
    kept: bool,
}

impl Partial {
    fn make(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let fd = OwnedFd::from(File::open(&path)?);
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self {
            path,
            fd,
            kept: false,
        })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an incomplete layer could not be removed");
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    ignore_missing(fs::remove_dir_all(path))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

//! Unpacked layers on disk, and how a verified blob becomes one. Runs with privileges.
//!
//! The other side names digests and nothing else; every path follows from them and from the data
//! folder. What it put into the blob store is treated as hostile: the blob is opened without
//! following links, hashed while it is read, its uncompressed tar is hashed too, and only when
//! both are right does `layers/<hex>.partial-<random>` become `layers/<hex>`. A crash leaves a
//! partial folder at most, which the next [`Layers::open`] removes.
//!
//! Nothing waits for the disk: a layer is of use as soon as it is in the page cache. Its note
//! `layers/<hex>.json` says in which boot it was written and whether it is known to have reached
//! the disk since; after a power cut, a layer that is not is removed and made again.

mod tree;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufReader, Read, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use fsa_model::{Trouble, TroubleKind};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
pub use tree::{Limits, Rules};

use crate::images::{
    DiffId, Digest, LayerBlob, UnpackedLayer,
    tarball::{self, TarError},
};

/// Bytes that are handed from the decompressing thread to the writing one at a time.
const CHUNK: usize = 256 << 10;
/// Chunks on their way between the two: 4 MiB.
const CHUNKS: usize = 16;
/// A note takes a moment to write.
const NOTE_AGE: Duration = Duration::from_secs(60);

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("its blob {0} is not in the blob store")]
    BlobMissing(Digest),
    #[error("its blob has the digest {found} and not {expected}: it was damaged on its way")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("its content has the digest {found} and not {expected}, which the image's configuration says")]
    WrongDiffId { expected: DiffId, found: DiffId },
    #[error("it cannot be decompressed ({0})")]
    Damaged(io::Error),
    #[error("{0}")]
    Tar(#[from] TarError),
    /// An entry that asks for something that no layer may have.
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
}

impl UnpackError {
    /// The error for people.
    #[must_use]
    pub fn trouble(&self, layer: &LayerBlob) -> Trouble {
        let kind = match self {
            Self::WrongDigest { .. }
            | Self::WrongDiffId { .. }
            | Self::Damaged(_)
            | Self::Tar(_)
            | Self::Refused { .. }
            | Self::TooLarge(_) => TroubleKind::Input,
            Self::BlobMissing(_) | Self::DiskFull(_) | Self::Write { .. } | Self::Machine { .. } => {
                TroubleKind::Machine
            }
        };
        let hex = layer.diff_id.hex();
        Trouble::new(
            kind,
            format!("the image's layer {} could not be unpacked: {self}", &hex[..12]),
        )
    }
}

/// The note beside an unpacked layer.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    size: UnpackedLayer,
    boot: String,
    synced: bool,
}

/// The folder of unpacked layers.
pub struct Layers {
    data: OwnedFd,
    folder: PathBuf,
    rules: Rules,
    limits: Limits,
    boot: String,
    busy: Mutex<HashSet<DiffId>>,
    idle: Condvar,
    syncer: Option<(mpsc::Sender<DiffId>, JoinHandle<()>)>,
}

impl Layers {
    /// Opens `<data>/runner/layers`, making it where it is not there, and removes what a crash or
    /// a power cut left of layers that were being written.
    ///
    /// # Errors
    /// [`UnpackError::Machine`].
    pub fn open(data: &Path, rules: Rules, limits: Limits) -> Result<Self, UnpackError> {
        let machine = |what| move |error| UnpackError::Machine { what, error };
        let folder = data.join("runner/layers");
        fs::create_dir_all(&folder).map_err(machine("the folder of layers could not be made"))?;
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
        let (sender, receiver) = mpsc::channel();
        let syncer = thread::Builder::new()
            .name("layer-sync".into())
            .spawn({
                let folder = folder.clone();
                let boot = boot.clone();
                move || sync_layers(&folder, &boot, &receiver)
            })
            .map_err(machine("a thread could not be started"))?;
        let layers = Self {
            data: fd,
            folder,
            rules,
            limits,
            boot,
            busy: Mutex::default(),
            idle: Condvar::new(),
            syncer: Some((sender, syncer)),
        };
        layers
            .sweep()
            .map_err(machine("what was left of half-made layers could not be removed"))?;
        Ok(layers)
    }

    /// Where an unpacked layer is.
    #[must_use]
    pub fn path(&self, layer: &DiffId) -> PathBuf {
        self.folder.join(layer.hex())
    }

    /// Whether the layer is here, whole.
    #[must_use]
    pub fn has(&self, layer: &DiffId) -> bool {
        self.note(layer).is_some() && self.path(layer).is_dir()
    }

    /// Every layer that is here.
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

    /// Removes an unpacked layer. That no sandbox is made of it is for the caller to know.
    ///
    /// # Errors
    /// The file system's own.
    pub fn remove(&self, layer: &DiffId) -> io::Result<()> {
        let _turn = self.turn(*layer);
        ignore_missing(fs::remove_file(self.note_path(layer)))?;
        let partial = self.partial(layer);
        match fs::rename(self.path(layer), &partial) {
            Ok(()) => remove_tree(&partial),
            other => ignore_missing(other),
        }
    }

    /// Makes the layer out of its blob, unless it is here already. Callers that ask for the same
    /// layer at once wait for the first of them.
    ///
    /// # Errors
    /// [`UnpackError`], and nothing is left behind.
    pub fn unpack(&self, layer: &LayerBlob) -> Result<UnpackedLayer, UnpackError> {
        let machine = |what| move |error: io::Error| UnpackError::Machine { what, error };
        let _turn = self.turn(layer.diff_id);
        if let Some(note) = self.note(&layer.diff_id)
            && self.path(&layer.diff_id).is_dir()
        {
            return Ok(note.size);
        }
        let blob = self.open_blob(&layer.blob)?;
        let partial = Partial::make(self.partial(&layer.diff_id))
            .map_err(machine("a folder for the layer could not be made"))?;
        let size = write_layer(blob, layer, &partial.fd, self.rules, self.limits)?;
        self.write_note(&layer.diff_id, size, false)
            .map_err(machine("the note beside the layer could not be written"))?;
        match fs::rename(&partial.path, self.path(&layer.diff_id)) {
            Ok(()) => partial.keep(),
            // Another runner on the same data folder was faster; its layer has the same content.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {}
            Err(error) => return Err(machine("the layer could not be put in its place")(error)),
        }
        if let Some((sender, _)) = &self.syncer {
            // It ends with `self` only.
            let _ = sender.send(layer.diff_id);
        }
        Ok(size)
    }

    /// Removes partial folders that nobody holds, and layers that a power cut may have damaged.
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
                "" => {
                    if !self
                        .note(&layer)
                        .is_some_and(|note| note.synced || note.boot == self.boot)
                    {
                        self.remove(&layer)?;
                    }
                }
                ".json" => {
                    if !self.path(&layer).is_dir() {
                        ignore_missing(fs::remove_file(entry.path()))?;
                    }
                }
                rest if rest.starts_with(".json-") => {
                    // A young one may be on its way into its place.
                    let age = entry
                        .metadata()
                        .ok()
                        .and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
                    if age.is_some_and(|age| age > NOTE_AGE) {
                        ignore_missing(fs::remove_file(entry.path()))?;
                    }
                }
                rest if rest.starts_with(".partial-") => match File::open(entry.path()) {
                    // Else it is held by a runner that writes it right now.
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

    fn open_blob(&self, digest: &Digest) -> Result<File, UnpackError> {
        let file = rustix::fs::openat2(
            &self.data,
            format!("images/blobs/sha256/{}", digest.hex()),
            // Non-blocking: a pipe in its place must not hold the runner up.
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

    fn note_path(&self, layer: &DiffId) -> PathBuf {
        self.folder.join(format!("{}.json", layer.hex()))
    }

    fn note(&self, layer: &DiffId) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.note_path(layer)).ok()?).ok()
    }

    fn write_note(&self, layer: &DiffId, size: UnpackedLayer, synced: bool) -> io::Result<()> {
        write_note(
            &self.note_path(layer),
            &Note {
                size,
                boot: self.boot.clone(),
                synced,
            },
        )
    }

    /// Waits until nobody else works on `layer`.
    fn turn(&self, layer: DiffId) -> Turn<'_> {
        let mut busy = self.busy.lock();
        while !busy.insert(layer) {
            self.idle.wait(&mut busy);
        }
        Turn { layers: self, layer }
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

struct Turn<'a> {
    layers: &'a Layers,
    layer: DiffId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.layers.busy.lock().remove(&self.layer);
        self.layers.idle.notify_all();
    }
}

/// A folder that is being filled. Locked, so that no sweep takes it for left over; removed unless
/// it is kept.
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
            tracing::warn!(path = %self.path.display(), %error, "a half-made layer could not be removed");
        }
    }
}

/// Fills `root` with the layer. One thread reads, hashes and decompresses, this one writes files:
/// either alone would leave a processor idle.
fn write_layer(
    blob: File,
    layer: &LayerBlob,
    root: &OwnedFd,
    rules: Rules,
    limits: Limits,
) -> Result<UnpackedLayer, UnpackError> {
    let read = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(CHUNKS);
        let counter = Arc::clone(&read);
        let decompressor = thread::Builder::new()
            .name("layer-decompress".into())
            .spawn_scoped(scope, move || decompress(blob, layer, &counter, &sender))
            .map_err(|error| UnpackError::Machine {
                what: "a thread could not be started",
                error,
            })?;
        let written = tree::write(
            Chunks {
                receiver,
                chunk: Vec::new(),
                at: 0,
            },
            root,
            rules,
            limits,
            &read,
        );
        // The receiver is gone, so the thread ends.
        let decompressed = decompressor.join().unwrap_or_else(|_| {
            let error = io::Error::other("the thread that decompresses it panicked");
            Err(Some(UnpackError::Machine {
                what: "the layer could not be read",
                error,
            }))
        });
        match (written, decompressed) {
            // What it was told, rather than what followed from it.
            (_, Err(Some(error))) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(size), Ok(())) => Ok(size),
            (Ok(_), Err(None)) => Err(TarError::Truncated.into()),
        }
    })
}

/// Sends the blob's uncompressed content, and then verifies both digests. `Err(None)`: the other
/// side had enough.
fn decompress(
    blob: File,
    layer: &LayerBlob,
    counter: &AtomicU64,
    sender: &mpsc::SyncSender<Vec<u8>>,
) -> Result<(), Option<UnpackError>> {
    let damaged = |e| Some(UnpackError::Damaged(e));
    let mut input = BufReader::with_capacity(
        CHUNK,
        Hashing {
            input: blob,
            hash: Sha256::new(),
            counter,
        },
    );
    let mut diff = Sha256::new();
    {
        let mut plain = crate::images::compression::reader(&mut input).map_err(damaged)?;
        loop {
            let mut chunk = vec![0; CHUNK];
            let filled = tarball::read_full(&mut plain, &mut chunk).map_err(damaged)?;
            if filled == 0 {
                break;
            }
            chunk.truncate(filled);
            diff.update(&chunk);
            sender.send(chunk).map_err(|_| None)?;
        }
    }
    // What follows the compressed stream is part of the blob too.
    io::copy(&mut input, &mut io::sink()).map_err(damaged)?;
    let found = Digest::finish(input.into_inner().hash);
    if found != layer.blob {
        return Err(Some(UnpackError::WrongDigest {
            expected: layer.blob,
            found,
        }));
    }
    let found = DiffId::from(Digest::finish(diff));
    if found != layer.diff_id {
        return Err(Some(UnpackError::WrongDiffId {
            expected: layer.diff_id,
            found,
        }));
    }
    Ok(())
}

struct Hashing<'a> {
    input: File,
    hash: Sha256,
    counter: &'a AtomicU64,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.counter.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

struct Chunks {
    receiver: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len() - self.at);
        buffer[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Brings layers to the disk one after another, long after they are in use.
fn sync_layers(folder: &Path, boot: &str, layers: &mpsc::Receiver<DiffId>) {
    while let Ok(layer) = layers.recv() {
        let note = folder.join(format!("{}.json", layer.hex()));
        let synced = (|| {
            let size = serde_json::from_slice::<Note>(&fs::read(&note)?)?.size;
            rustix::fs::syncfs(File::open(folder)?)?;
            // A layer that was removed meanwhile has no note, and gets none.
            if note.exists() {
                write_note(
                    &note,
                    &Note {
                        size,
                        boot: boot.to_owned(),
                        synced: true,
                    },
                )?;
            }
            io::Result::Ok(())
        })();
        if let Err(error) = synced
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%layer, %error, "a layer could not be brought to the disk");
        }
    }
}

fn write_note(path: &Path, note: &Note) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("-{:08x}", rand::random::<u32>()));
    let mut file = File::create(&name)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    if note.synced {
        file.sync_all()?;
    }
    fs::rename(&name, path)
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

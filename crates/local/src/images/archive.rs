//! Image archive import: a tar of an OCI image layout, or the output of `docker save`, compressed
//! or not.
//!
//! The archive is read in one pass while it arrives: each file goes to the incoming folder with
//! its digest, so that a blob is written once and then only renamed. [`super::archived_image`]
//! finds the image afterwards, from the small files.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Write as _},
    path::Path,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{
    archived_image::{ArchivedImage, Contents, ReceivedFile, normalized_path},
    blob_store::BlobStore,
    compression,
    digest::Digest,
    manifest::Problem,
    tarball::{self, Kind, Reader, TarError},
};

/// Files of an archive. Docker writes four for each layer.
const FILES_MAX: usize = 4_096;
const BUFFER: usize = 512 << 10;
/// Bytes between two checks of the free space.
const CHECK_EVERY: u64 = 64 << 20;

/// Why an archive cannot be imported. Completes "the archive …" in messages.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("did not arrive completely: {0}")]
    Upload(io::Error),
    #[error("cannot be decompressed: {0}")]
    Damaged(io::Error),
    #[error("cannot be read: {0}")]
    Tar(TarError),
    #[error("is empty")]
    Empty,
    #[error(
        "has neither an index.json (an OCI image layout) nor a manifest.json (docker save): it holds no image"
    )]
    NoManifest,
    #[error("lacks {0}, which its manifest names")]
    Missing(String),
    #[error("is damaged: its blob {expected} has the digest {found}")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("holds an image that {0}")]
    Problem(#[from] Problem),
    #[error("has more than {FILES_MAX} files; an image's archive has a few for each layer")]
    TooManyFiles,
    #[error("is larger than {} GB, the limit that is set", .0 >> 30)]
    TooLarge(u64),
    #[error("finds no room")]
    NoRoom,
    #[error("{0}")]
    Disk(io::Error),
}

/// Limits of an archive.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: u64,
    pub keep_free: u64,
}

/// The blocking end of an asynchronous stream.
pub struct Upload {
    pub chunks: mpsc::Receiver<io::Result<Bytes>>,
    pub current: Bytes,
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// Receives an archive into `incoming`, and finds the image in it: the one named `requested`, where
/// it holds several.
///
/// # Errors
/// [`ArchiveError`]. Received files stay in `incoming`, which the caller removes.
pub fn receive(
    input: impl Read + Send,
    incoming: &Path,
    folder: &BlobStore,
    limits: Limits,
    requested: Option<&str>,
) -> Result<ArchivedImage, ArchiveError> {
    // Distinguishes errors of the upload from those of the decompressor.
    let mut upload_error = None;
    let result = (|| -> Result<Receiver<'_>, ArchiveError> {
        let input = RecordError {
            input,
            error: &mut upload_error,
        };
        let mut plain = Bounded {
            input: compression::reader(BufReader::with_capacity(BUFFER, input))
                .map_err(ArchiveError::Damaged)?,
            left: limits.bytes,
            exceeded: false,
        };
        let mut receiver = Receiver {
            incoming,
            folder,
            limits,
            unchecked: CHECK_EVERY,
            files: HashMap::new(),
            links: HashMap::new(),
        };
        let result = receiver.read(&mut plain);
        if plain.exceeded {
            return Err(ArchiveError::TooLarge(limits.bytes));
        }
        result.map(|()| receiver)
    })();
    let receiver = match (result, upload_error) {
        (_, Some(error)) => return Err(ArchiveError::Upload(error)),
        (result, None) => result?,
    };
    Contents {
        files: receiver.files,
        links: receiver.links,
    }
    .image(requested)
}

/// Copies the input's error, which the readers above may wrap.
struct RecordError<'a, R> {
    input: R,
    error: &'a mut Option<io::Error>,
}

impl<R: Read> Read for RecordError<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input
            .read(buffer)
            .inspect_err(|e| *self.error = Some(io::Error::new(e.kind(), e.to_string())))
    }
}

/// Uncompressed archive up to a size. Every byte counts, also of entries that are skipped and after
/// the last one.
struct Bounded<R> {
    input: R,
    left: u64,
    exceeded: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        if read as u64 > self.left {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

struct Receiver<'a> {
    incoming: &'a Path,
    folder: &'a BlobStore,
    limits: Limits,
    unchecked: u64,
    files: HashMap<String, ReceivedFile>,
    links: HashMap<String, String>,
}

impl Receiver<'_> {
    fn read(&mut self, plain: &mut impl Read) -> Result<(), ArchiveError> {
        let tar = |e| match e {
            TarError::Read(e) => ArchiveError::Damaged(e),
            e => ArchiveError::Tar(e),
        };
        let mut buffer = vec![0; BUFFER];
        let mut reader = Reader::new(plain);
        let mut any = false;
        loop {
            let entry = match reader.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(e) => return Err(tar(e)),
            };
            any = true;
            let Some(path) = normalized_path(&entry.path) else {
                continue;
            };
            if self.files.len() + self.links.len() >= FILES_MAX {
                return Err(ArchiveError::TooManyFiles);
            }
            match entry.kind {
                Kind::File => {
                    let received = self.file(&mut reader, entry.size, &mut buffer)?;
                    self.files.insert(path, received);
                }
                Kind::Hardlink => {
                    self.links
                        .extend(normalized_path(&entry.target).map(|target| (path, target)));
                }
                Kind::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
                    let target = [folder.as_bytes(), b"/", &entry.target].concat();
                    self.links
                        .extend(normalized_path(&target).map(|target| (path, target)));
                }
                Kind::Directory | Kind::Fifo | Kind::Other(_) => {}
            }
        }
        // The sender must be able to finish.
        reader.finish(&mut buffer).map_err(ArchiveError::Damaged)?;
        if any { Ok(()) } else { Err(ArchiveError::Empty) }
    }

    fn file(
        &mut self,
        content: &mut impl Read,
        size: u64,
        buffer: &mut [u8],
    ) -> Result<ReceivedFile, ArchiveError> {
        let path = self.incoming.join(self.files.len().to_string());
        let mut file = File::create(&path).map_err(disk)?;
        let mut hash = Sha256::new();
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = tarball::read_full(content, &mut buffer[..length]).map_err(ArchiveError::Damaged)?;
            if read < length {
                return Err(ArchiveError::Tar(TarError::Truncated));
            }
            self.account(read as u64)?;
            hash.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(disk)?;
            left -= read as u64;
        }
        Ok(ReceivedFile {
            file: path,
            size,
            digest: Digest::finish(hash),
        })
    }

    fn account(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.unchecked += bytes;
        if self.unchecked >= CHECK_EVERY {
            self.unchecked = 0;
            if !self
                .folder
                .has_room(CHECK_EVERY, self.limits.keep_free)
                .map_err(ArchiveError::Disk)?
            {
                return Err(ArchiveError::NoRoom);
            }
        }
        Ok(())
    }
}

fn disk(error: io::Error) -> ArchiveError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => ArchiveError::NoRoom,
        _ => ArchiveError::Disk(error),
    }
}

//! Archives: a tar of an OCI image layout, or what `docker save` writes, compressed or not.
//!
//! Read in one pass while they arrive: each file goes to the incoming folder with its digest, so
//! that a blob is written once and then only renamed. What the archive means is decided
//! afterwards, from the small files.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read, Write as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{
    compression,
    digest::{DiffId, Digest},
    folder::Folder,
    manifest::{self, DOCUMENT_MAX, Descriptor, Document, Manifest, Problem},
    tarball::{self, Kind, Reader, TarError},
};

/// Files of an archive. Docker writes four for each layer.
const FILES_MAX: usize = 4_096;
const BUFFER: usize = 512 << 10;
/// Indexes that lead to indexes.
const NESTING_MAX: usize = 4;
/// Bytes between two looks at the free space.
const CHECK_EVERY: u64 = 64 << 20;

/// Why an archive cannot be imported. Completes "the archive …" where a person has to do with it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("did not arrive whole: {0}")]
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

/// What an archive may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: u64,
    pub keep_free: u64,
}

/// An image in the incoming folder, its blobs verified.
#[derive(Debug)]
pub struct Found {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<FoundLayer>,
    /// What the archive itself calls the image.
    pub name: Option<String>,
}

#[derive(Debug)]
pub struct FoundLayer {
    pub diff_id: DiffId,
    pub descriptor: Descriptor,
    pub file: PathBuf,
}

#[derive(Debug)]
struct Piece {
    file: PathBuf,
    size: u64,
    digest: Digest,
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

/// Receives an archive into `incoming`, and finds the image in it: the one called `wanted`, where
/// it holds several.
///
/// # Errors
/// [`ArchiveError`]. What was received stays in `incoming`, which is the caller's to remove.
pub fn receive(
    input: impl Read + Send,
    incoming: &Path,
    folder: &Folder,
    limits: Limits,
    wanted: Option<&str>,
) -> Result<Found, ArchiveError> {
    // Errors of the upload and of the decompressor would otherwise look the same.
    let mut upload_error = None;
    let result = (|| -> Result<Receiver<'_>, ArchiveError> {
        let input = Remember {
            input,
            error: &mut upload_error,
        };
        let mut plain =
            compression::reader(BufReader::with_capacity(BUFFER, input)).map_err(ArchiveError::Damaged)?;
        let mut receiver = Receiver {
            incoming,
            folder,
            limits,
            total: 0,
            unchecked: CHECK_EVERY,
            pieces: HashMap::new(),
            links: HashMap::new(),
        };
        receiver.read(&mut plain)?;
        Ok(receiver)
    })();
    let receiver = match (result, upload_error) {
        (_, Some(error)) => return Err(ArchiveError::Upload(error)),
        (result, None) => result?,
    };
    Contents {
        pieces: receiver.pieces,
        links: receiver.links,
    }
    .image(wanted)
}

/// Keeps a copy of the input's error, which the layers above may wrap.
struct Remember<'a, R> {
    input: R,
    error: &'a mut Option<io::Error>,
}

impl<R: Read> Read for Remember<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input
            .read(buffer)
            .inspect_err(|e| *self.error = Some(io::Error::new(e.kind(), e.to_string())))
    }
}

struct Receiver<'a> {
    incoming: &'a Path,
    folder: &'a Folder,
    limits: Limits,
    total: u64,
    unchecked: u64,
    pieces: HashMap<String, Piece>,
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
            let Some(path) = tidy(&entry.path) else { continue };
            if self.pieces.len() + self.links.len() >= FILES_MAX {
                return Err(ArchiveError::TooManyFiles);
            }
            match entry.kind {
                Kind::File => {
                    let piece = self.file(&mut reader, entry.size, &mut buffer)?;
                    self.pieces.insert(path, piece);
                }
                Kind::Hardlink => {
                    self.links
                        .extend(tidy(&entry.target).map(|target| (path, target)));
                }
                Kind::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
                    let target = [folder.as_bytes(), b"/", &entry.target].concat();
                    self.links.extend(tidy(&target).map(|target| (path, target)));
                }
                Kind::Directory | Kind::Fifo | Kind::Other(_) => {}
            }
        }
        // So that the sender is not cut off before it is done.
        reader.finish(&mut buffer).map_err(ArchiveError::Damaged)?;
        if any { Ok(()) } else { Err(ArchiveError::Empty) }
    }

    fn file(&mut self, content: &mut impl Read, size: u64, buffer: &mut [u8]) -> Result<Piece, ArchiveError> {
        let path = self.incoming.join(self.pieces.len().to_string());
        let mut file = File::create(&path).map_err(disk)?;
        let mut hash = Sha256::new();
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = tarball::read_full(content, &mut buffer[..wanted]).map_err(ArchiveError::Damaged)?;
            if read < wanted {
                return Err(ArchiveError::Tar(TarError::Truncated));
            }
            self.account(read as u64)?;
            hash.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(disk)?;
            left -= read as u64;
        }
        Ok(Piece {
            file: path,
            size,
            digest: Digest::finish(hash),
        })
    }

    fn account(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.total += bytes;
        self.unchecked += bytes;
        if self.total > self.limits.bytes {
            return Err(ArchiveError::TooLarge(self.limits.bytes));
        }
        if self.unchecked >= CHECK_EVERY {
            self.unchecked = 0;
            if !self
                .folder
                .room(CHECK_EVERY, self.limits.keep_free)
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

/// A path of the archive without `.` and `..`; only ever a key, never a path on this machine.
fn tidy(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/")).filter(|path| !path.is_empty())
}

/// The files of an archive.
struct Contents {
    pieces: HashMap<String, Piece>,
    links: HashMap<String, String>,
}

impl Contents {
    fn image(&self, wanted: Option<&str>) -> Result<Found, ArchiveError> {
        // Docker writes both since version 25, and means the same by them.
        if self.get("index.json").is_some() {
            self.oci(wanted)
        } else if self.get("manifest.json").is_some() {
            self.docker(wanted)
        } else {
            Err(ArchiveError::NoManifest)
        }
    }

    fn oci(&self, wanted: Option<&str>) -> Result<Found, ArchiveError> {
        let mut bytes = self.read("index.json")?;
        let mut name = None;
        for _ in 0..NESTING_MAX {
            match manifest::parse(&bytes)? {
                Document::Index(index) => {
                    let chosen = manifest::choose(&index, wanted)?;
                    name = name.or_else(|| chosen.names().next().map(str::to_owned));
                    bytes = self.document(&chosen.digest)?;
                }
                Document::Manifest(manifest) => return self.oci_image(bytes, &manifest, name),
            }
        }
        Err(Problem::NotAnImage("its indexes lead to each other".into()).into())
    }

    fn oci_image(
        &self,
        bytes: Vec<u8>,
        image: &Manifest,
        name: Option<String>,
    ) -> Result<Found, ArchiveError> {
        let config = self.document(&image.config.digest)?;
        let (diff_ids, _) = manifest::parse_config(&config)?;
        let mut layers = Vec::new();
        for (descriptor, diff_id) in manifest::layers(image, &diff_ids)? {
            let piece = self.blob(&descriptor.digest)?;
            let descriptor = Descriptor::new(&descriptor.media_type, descriptor.digest, piece.size);
            layers.push(FoundLayer {
                diff_id,
                descriptor,
                file: piece.file.clone(),
            });
        }
        Ok(Found {
            manifest: bytes,
            config,
            layers,
            name,
        })
    }

    fn docker(&self, wanted: Option<&str>) -> Result<Found, ArchiveError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let images: Vec<Saved> =
            serde_json::from_slice(&self.read("manifest.json")?).map_err(|e| Problem::Unreadable {
                what: "manifest",
                why: e.to_string(),
            })?;
        let tags = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
        let saved = match images.as_slice() {
            [] => return Err(ArchiveError::NoManifest),
            [only] => only,
            several => several
                .iter()
                .find(|image| wanted.is_some_and(|wanted| tags(image).iter().any(|tag| tag == wanted)))
                .ok_or_else(|| {
                    Problem::Several(
                        several
                            .iter()
                            .flat_map(tags)
                            .take(20)
                            .collect::<Vec<_>>()
                            .join(", "),
                    )
                })?,
        };
        let config = self.read(&saved.config)?;
        let (diff_ids, _) = manifest::parse_config(&config)?;
        let mut descriptors = Vec::new();
        let mut files = Vec::new();
        for layer in &saved.layers {
            let piece = self
                .get(layer)
                .ok_or_else(|| ArchiveError::Missing(layer.clone()))?;
            descriptors.push(Descriptor::new(manifest::MEDIA_LAYER, piece.digest, piece.size));
            files.push(piece.file.clone());
        }
        // `docker save` knows no manifest: this one says the same, so that every image has one.
        let image = Manifest {
            schema_version: 2,
            media_type: manifest::MEDIA_MANIFEST.into(),
            config: Descriptor::new(manifest::MEDIA_CONFIG, Digest::of(&config), config.len() as u64),
            layers: descriptors,
        };
        let layers = manifest::layers(&image, &diff_ids)?
            .into_iter()
            .zip(files)
            .map(|((descriptor, diff_id), file)| FoundLayer {
                diff_id,
                descriptor: descriptor.clone(),
                file,
            })
            .collect();
        let manifest = serde_json::to_vec(&image).map_err(|e| ArchiveError::Disk(e.into()))?;
        Ok(Found {
            manifest,
            config,
            layers,
            name: tags(saved).into_iter().next(),
        })
    }

    fn get(&self, path: &str) -> Option<&Piece> {
        let mut path = tidy(path.as_bytes())?;
        for _ in 0..8 {
            match self.pieces.get(&path) {
                Some(piece) => return Some(piece),
                None => path = self.links.get(&path)?.clone(),
            }
        }
        None
    }

    fn blob(&self, digest: &Digest) -> Result<&Piece, ArchiveError> {
        let path = format!("blobs/sha256/{}", digest.hex());
        let piece = self.get(&path).ok_or(ArchiveError::Missing(path))?;
        if piece.digest == *digest {
            Ok(piece)
        } else {
            Err(ArchiveError::WrongDigest {
                expected: *digest,
                found: piece.digest,
            })
        }
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        small(self.blob(digest)?)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, ArchiveError> {
        small(
            self.get(path)
                .ok_or_else(|| ArchiveError::Missing(path.chars().take(200).collect()))?,
        )
    }
}

fn small(piece: &Piece) -> Result<Vec<u8>, ArchiveError> {
    if piece.size > DOCUMENT_MAX {
        return Err(Problem::Unreadable {
            what: "manifest",
            why: format!("it has {} bytes", piece.size),
        }
        .into());
    }
    fs::read(&piece.file).map_err(ArchiveError::Disk)
}

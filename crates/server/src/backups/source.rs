//! Source of a backup: the manifest, the dumps, and the files of a snapshot, as the entries that the repository stores.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fsa_backup::{Archive, Entry, EntryKind, SourceEntry};
use fsa_driver::{DriverError, Region};
use fsa_model::{
    SandboxRef, SnapshotId,
    snapshot_files::{HexBytes, SnapshotEntry, SnapshotEntryKind, SnapshotPath, VolumePart},
};
use tokio::runtime::Handle;

use super::manifest;

/// overlayfs' mark of a folder that hides what is below it (kernel documentation, "overlayfs").
pub const OPAQUE: &str = "trusted.overlay.opaque";
/// Names with this prefix are deletions in a layer of an image.
pub const WHITEOUT: &[u8] = b".wh.";

/// What is backed up.
#[derive(Clone)]
pub struct Subject {
    pub region: Region,
    /// The sandbox that the snapshot was taken of.
    pub sandbox: SandboxRef,
    pub snapshot: SnapshotId,
}

/// A dump of a database, in a file without a name. restic restores as many bytes as an entry says, so its size is known
/// before it is stored.
pub struct DumpFile {
    /// Its name in the backup.
    pub name: String,
    pub content: File,
    pub size: u64,
}

/// The entries of a backup in the repository's order. They are read while the repository stores them, on its threads;
/// `handle` is of the runtime that the driver's calls run on.
#[must_use]
pub fn archive(handle: &Handle, subject: &Subject, dumps: Vec<DumpFile>, text: Vec<u8>) -> Archive {
    let mut databases = Vec::new();
    if !dumps.is_empty() {
        databases.push(own(manifest::DATABASES, EntryKind::Directory, 0o700, 0));
    }
    for dump in dumps {
        let path = Path::new(manifest::DATABASES).join(&dump.name);
        let content = dump.content;
        databases.push(SourceEntry {
            open: Some(Box::new(move || Ok(Box::new(content) as Box<dyn Read + Send>))),
            ..own(path, EntryKind::File, 0o600, dump.size)
        });
    }
    databases.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    let size = text.len() as u64;
    let description = SourceEntry {
        open: Some(Box::new(move || {
            Ok(Box::new(io::Cursor::new(text)) as Box<dyn Read + Send>)
        })),
        ..own(manifest::FILE, EntryKind::File, 0o600, size)
    };
    let part = |part| Walk::new(handle.clone(), subject.clone(), part);
    // Sorted by name.
    Box::new(
        databases
            .into_iter()
            .map(Ok)
            .chain(part(VolumePart::Home))
            .chain(std::iter::once(Ok(description)))
            .chain(part(VolumePart::Root)),
    )
}

/// An entry that is not from the volume. Its time is that of the backup, so it never counts as unchanged.
fn own(path: impl Into<PathBuf>, kind: EntryKind, mode: u32, size: u64) -> SourceEntry {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let now = (
        i64::try_from(now.as_secs()).unwrap_or_default(),
        now.subsec_nanos(),
    );
    SourceEntry {
        entry: Entry {
            size,
            modified: now,
            changed: now,
            ..Entry::new(path, kind, mode)
        },
        open: None,
    }
}

/// A folder that is being walked.
struct Open {
    path: Vec<u8>,
    /// The rest of the page, the next one last.
    entries: Vec<SnapshotEntry>,
    /// The last name of the page, if there are more.
    more_after: Option<Vec<u8>>,
}

/// The entries of one part of a snapshot, each folder before what is in it.
struct Walk {
    handle: Handle,
    subject: Subject,
    part: VolumePart,
    open: Vec<Open>,
    /// A folder that is to be listed next.
    next: Option<Vec<u8>>,
}

impl Walk {
    fn new(handle: Handle, subject: Subject, part: VolumePart) -> Self {
        Self {
            handle,
            subject,
            part,
            open: Vec::new(),
            next: Some(Vec::new()),
        }
    }

    fn path(&self, path: &[u8]) -> SnapshotPath {
        SnapshotPath {
            sandbox: self.subject.sandbox.clone(),
            snapshot: self.subject.snapshot,
            part: self.part,
            path: HexBytes(path.to_vec()),
        }
    }

    /// Lists a page of a folder. Returns the folder itself.
    fn list(&mut self, path: &[u8], after: &[u8]) -> io::Result<Option<SnapshotEntry>> {
        let files = self
            .subject
            .region
            .driver
            .volume_files()
            .ok_or_else(unsupported)?;
        let listed = self
            .handle
            .block_on(files.list(&self.path(path), after))
            .map_err(read_error)?;
        let mut entries = listed.entries;
        let more_after = match listed.more {
            true => entries.last().map(|entry| entry.name.clone()),
            false => None,
        };
        entries.reverse();
        self.open.push(Open {
            path: path.to_vec(),
            entries,
            more_after,
        });
        Ok(listed.folder)
    }

    fn step(&mut self) -> io::Result<Option<SourceEntry>> {
        loop {
            if let Some(path) = self.next.take() {
                let folder = self.list(&path, b"")?;
                // The part itself; any other folder was an entry of its parent.
                if path.is_empty() {
                    match folder {
                        Some(folder) => return Ok(Some(self.entry(&path, &folder))),
                        None => return Ok(None),
                    }
                }
            }
            let Some(folder) = self.open.last_mut() else {
                return Ok(None);
            };
            let Some(entry) = folder.entries.pop() else {
                let Some(done) = self.open.pop() else {
                    return Ok(None);
                };
                if let Some(after) = done.more_after {
                    self.list(&done.path, &after)?;
                }
                continue;
            };
            let mut path = folder.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            // Its name would be a deletion when it is restored.
            if self.part == VolumePart::Root && entry.name.starts_with(WHITEOUT) {
                continue;
            }
            if matches!(entry.kind, SnapshotEntryKind::Directory { .. }) {
                self.next = Some(path.clone());
            }
            return Ok(Some(self.entry(&path, &entry)));
        }
    }

    fn entry(&self, path: &[u8], found: &SnapshotEntry) -> SourceEntry {
        let mut attributes: Vec<_> = found
            .attributes
            .iter()
            .map(|(name, value)| (name.clone(), value.0.clone()))
            .collect();
        let kind = match &found.kind {
            SnapshotEntryKind::File => EntryKind::File,
            SnapshotEntryKind::Directory { opaque } => {
                if *opaque {
                    attributes.push((OPAQUE.to_owned(), b"y".to_vec()));
                }
                EntryKind::Directory
            }
            SnapshotEntryKind::Symlink(target) => EntryKind::Symlink(OsStr::from_bytes(target).to_owned()),
            SnapshotEntryKind::Fifo => EntryKind::Fifo,
            SnapshotEntryKind::Socket => EntryKind::Socket,
            SnapshotEntryKind::Whiteout => EntryKind::CharacterDevice(0),
        };
        let mut full = PathBuf::from(self.part.folder());
        if !path.is_empty() {
            full.push(OsStr::from_bytes(path));
        }
        let open = (kind == EntryKind::File).then(|| {
            let (handle, region, path) = (self.handle.clone(), self.subject.region.clone(), self.path(path));
            Box::new(move || {
                let files = region.driver.volume_files().ok_or_else(unsupported)?;
                let file = handle.block_on(files.open(&path)).map_err(read_error)?;
                Ok(Box::new(file) as Box<dyn Read + Send>)
            }) as fsa_backup::Open
        });
        SourceEntry {
            entry: Entry {
                uid: found.uid,
                gid: found.gid,
                modified: found.modified,
                changed: found.changed,
                size: found.size,
                inode: found.inode,
                links: found.links,
                attributes,
                ..Entry::new(full, kind, found.mode)
            },
            open,
        }
    }
}

impl Iterator for Walk {
    type Item = io::Result<SourceEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

fn unsupported() -> io::Error {
    io::Error::other("the region has no backups")
}

fn read_error(error: DriverError) -> io::Error {
    io::Error::other(error.failure.message)
}

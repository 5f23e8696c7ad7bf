//! Source of a backup: a sequence of entries, whose files are opened when they are read.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use rustic_core::{ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult};

use crate::{Entry, backend::Failures};

/// Opens a file of the source.
pub type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

/// An entry, and for a file how to read it.
pub struct SourceEntry {
    pub entry: Entry,
    pub open: Option<Open>,
}

/// The entries of a backup. Folders come before what is in them, and the entries of a folder sorted by the bytes of
/// their names, so that unchanged files are found in the backup before.
pub type Archive = Box<dyn Iterator<Item = io::Result<SourceEntry>> + Send>;

/// How far a backup is, and the request to end it.
#[derive(Debug, Default)]
pub struct Progress {
    entries: AtomicU64,
    bytes: AtomicU64,
    canceled: AtomicBool,
}

impl Progress {
    /// Entries that were listed so far.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Bytes of files that were read so far. Unchanged files are not read.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends the backup soon; it is not stored.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_canceled(&self) -> bool {
        self.canceled.load(Ordering::Relaxed)
    }
}

/// An archive for one use by `rustic_core`.
pub struct Source {
    archive: Mutex<Option<Archive>>,
    failures: Failures,
    progress: Arc<Progress>,
}

impl Source {
    pub fn new(archive: Archive, failures: Failures, progress: Arc<Progress>) -> Self {
        Self {
            archive: Mutex::new(Some(archive)),
            failures,
            progress,
        }
    }
}

impl ReadSource for Source {
    type Open = OpenFile;
    type Iter = Entries;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Entries {
        Entries {
            archive: self.archive.lock().take(),
            failures: self.failures.clone(),
            progress: Arc::clone(&self.progress),
        }
    }
}

/// The entries, up to the first failure.
pub struct Entries {
    archive: Option<Archive>,
    failures: Failures,
    progress: Arc<Progress>,
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<OpenFile>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.progress.is_canceled() {
            self.failures.add("the backup was canceled");
        }
        if self.failures.first().is_some() {
            self.archive = None;
        }
        let SourceEntry { entry, open } = match self.archive.as_mut()?.next()? {
            Ok(entry) => entry,
            Err(error) => {
                self.failures.add(error.to_string());
                return None;
            }
        };
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        let node = entry.node();
        let open = open.map(|open| OpenFile {
            path: entry.path.display().to_string(),
            size: entry.size,
            open,
            failures: self.failures.clone(),
            progress: Arc::clone(&self.progress),
        });
        Some(Ok(ReadSourceEntry {
            path: entry.path,
            node,
            open,
        }))
    }
}

/// A file that is not opened yet.
pub struct OpenFile {
    path: String,
    size: u64,
    open: Open,
    failures: Failures,
    progress: Arc<Progress>,
}

impl ReadSourceOpen for OpenFile {
    type Reader = Content;

    fn open(self) -> RusticResult<Content> {
        let content = (self.open)().map_err(|error| {
            let message = format!("{} could not be opened: {error}", self.path);
            self.failures.add(message.clone());
            RusticError::new(ErrorKind::InputOutput, message)
        })?;
        Ok(Content {
            path: self.path,
            expected: self.size,
            read: 0,
            content,
            failures: self.failures,
            progress: self.progress,
        })
    }
}

/// The content of a file. restic restores as many bytes as the entry says, so any other number is a failure.
pub struct Content {
    path: String,
    expected: u64,
    read: u64,
    content: Box<dyn Read + Send>,
    failures: Failures,
    progress: Arc<Progress>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_canceled() {
            return Err(io::Error::other("the backup was canceled"));
        }
        match self.content.read(buffer) {
            Ok(length) => {
                self.read += length as u64;
                if length == 0 && !buffer.is_empty() && self.read != self.expected {
                    self.failures.add(format!(
                        "{} has {} bytes and not {}, as it was listed",
                        self.path, self.read, self.expected
                    ));
                }
                self.progress.bytes.fetch_add(length as u64, Ordering::Relaxed);
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failures
                    .add(format!("{} could not be read: {error}", self.path));
                Err(error)
            }
        }
    }
}

//! Adapter from [`Storage`] to the backend traits of `rustic_core`, and the guard that keeps an incomplete backup from
//! being stored.
//!
//! `rustic_core` logs an entry that it cannot read or store, and goes on without it. Here every such failure is kept in
//! [`Failures`], and a snapshot file is refused while there is one.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};

use crate::{Storage, error::backend};

/// The first failure of a backup.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<Option<String>>>);

impl Failures {
    pub fn add(&self, failure: impl Into<String>) {
        self.0.lock().get_or_insert_with(|| failure.into());
    }

    pub fn first(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

/// A storage with the failures of the backup that is written to it.
pub struct Backend {
    storage: Arc<dyn Storage>,
    failures: Failures,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.storage.location()).finish()
    }
}

impl Backend {
    pub fn new(storage: Arc<dyn Storage>, failures: Failures) -> Self {
        Self { storage, failures }
    }
}

fn path(kind: FileType, id: &Id) -> String {
    let hex = id.to_hex();
    let hex = hex.as_str();
    match kind {
        FileType::Config => "config".to_owned(),
        FileType::Pack => format!("data/{}/{hex}", &hex[..2]),
        _ => format!("{}/{hex}", kind.dirname()),
    }
}

fn length(size: u64, path: &str) -> RusticResult<u32> {
    u32::try_from(size).map_err(|_| {
        let error = io::Error::other("a file of more than 4 GiB is not one of a repository");
        backend("unexpected file", path, error)
    })
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.storage.location()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let folder = kind.dirname();
        let failed = |error| backend("the files could not be listed", folder, error);
        if kind == FileType::Config {
            let size = self.storage.size("config").map_err(failed)?;
            return match size {
                Some(size) => Ok(vec![(Id::default(), length(size, folder)?)]),
                None => Ok(Vec::new()),
            };
        }
        let found = self.storage.list(folder).map_err(failed)?;
        // Files with other names are not of the repository, such as the rest of an interrupted upload.
        found
            .into_iter()
            .filter_map(|(name, size)| Some((name.parse::<Id>().ok()?, size)))
            .map(|(id, size)| Ok((id, length(size, folder)?)))
            .collect()
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        let path = path(kind, id);
        self.storage
            .read(&path)
            .map_err(|error| backend("a file could not be read", &path, error))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let path = path(kind, id);
        self.storage
            .read_range(&path, offset.into(), length as usize)
            .map_err(|error| backend("a file could not be read", &path, error))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        path(kind, id)
    }
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        self.storage.create().map_err(|error| {
            backend(
                "the repository could not be created",
                &self.storage.location(),
                error,
            )
        })
    }

    fn write_bytes(&self, kind: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        if kind == FileType::Snapshot
            && let Some(failure) = self.failures.first()
        {
            return Err(RusticError::new(ErrorKind::InputOutput, failure));
        }
        let path = path(kind, id);
        self.storage.write(&path, content.slice()).map_err(|error| {
            self.failures.add(format!("{path} could not be written: {error}"));
            backend("a file could not be written", &path, error)
        })
    }

    fn remove(&self, kind: FileType, id: &Id, _: bool) -> RusticResult<()> {
        let path = path(kind, id);
        self.storage
            .remove(&path)
            .map_err(|error| backend("a file could not be removed", &path, error))
    }
}

//! Storage in a folder, with the layout of restic's local backend.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::Storage;

/// The folders that restic makes for a repository.
const FOLDERS: [&str; 6] = ["data", "index", "keys", "locks", "snapshots", ""];

/// A repository's folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    next: AtomicU64,
}

impl Folder {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            next: AtomicU64::new(0),
        }
    }

    fn create_folder(path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }
}

impl Storage for Folder {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn create(&self) -> io::Result<()> {
        for folder in FOLDERS {
            Self::create_folder(&self.path.join(folder))?;
        }
        for first in 0..=255u8 {
            Self::create_folder(&self.path.join(format!("data/{first:02x}")))?;
        }
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let mut waiting = vec![self.path.join(folder)];
        while let Some(folder) = waiting.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    waiting.push(entry.path());
                } else if kind.is_file()
                    && let Some(name) = entry.file_name().to_str()
                {
                    found.push((name.to_owned(), entry.metadata()?.len()));
                }
            }
        }
        Ok(found)
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.path.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(Some(found?.len())),
        }
    }

    fn read(&self, path: &str) -> io::Result<Bytes> {
        fs::read(self.path.join(path)).map(Bytes::from)
    }

    fn read_range(&self, path: &str, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut file = File::open(self.path.join(path))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut content = vec![0; length];
        file.read_exact(&mut content)?;
        Ok(content.into())
    }

    fn write(&self, path: &str, content: &[Bytes]) -> io::Result<()> {
        let target = self.path.join(path);
        let folder = target.parent().unwrap_or(&self.path);
        Self::create_folder(folder)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // restic removes what has such a name from its lists too: it is no id.
        let new = target.with_extension(format!("tmp-{}-{number}", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            for part in content {
                file.write_all(part)?;
            }
            file.sync_all()?;
            fs::rename(&new, &target)?;
            File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

//! A new volume from an archive: the folders `home` and `root` of a tar stream.
//!
//! The archive is unpacked beside the volume and becomes the volume as a whole, as the copy of a snapshot does.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use fsa_model::{SandboxRef, snapshot_files::VolumePart};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};

use super::{StoragePool, make_home};

/// Where the archive is unpacked, in the folder that becomes the volume.
const CONTENT: &str = "content";

/// An error of the storage, or of what unpacks.
pub enum ImportError<E> {
    Storage(io::Error),
    Archive(E),
}

impl<E> From<io::Error> for ImportError<E> {
    fn from(error: io::Error) -> Self {
        Self::Storage(error)
    }
}

impl StoragePool {
    /// Makes the volume of a sandbox from what `unpack` writes into a folder. A volume that exists is kept. After an
    /// interruption there is the whole volume or none.
    ///
    /// # Errors
    /// The file system's; those of `unpack`.
    pub fn import<E>(
        &self,
        sandbox: &SandboxRef,
        unpack: impl FnOnce(&OwnedFd) -> Result<(), E>,
    ) -> Result<(), ImportError<E>> {
        match self {
            Self::Copy(pool) => {
                pool.finish_restore(sandbox.volume)?;
                if pool.exists(sandbox.volume) {
                    return Ok(());
                }
                let stage = pool.import_stage(sandbox.volume)?;
                fill(&stage, sandbox, unpack)?;
                Ok(pool.finish_import(sandbox.volume)?)
            }
            Self::Btrfs(pool) => {
                if pool.exists(sandbox.volume) {
                    return Ok(());
                }
                let stage = pool.import_stage(sandbox.volume)?;
                fs::create_dir(stage.join("trash"))?;
                fill(&stage, sandbox, unpack)?;
                Ok(pool.finish_import(sandbox.volume)?)
            }
        }
    }
}

/// Unpacks below `stage` and moves the parts to where a volume has them.
fn fill<E>(
    stage: &Path,
    sandbox: &SandboxRef,
    unpack: impl FnOnce(&OwnedFd) -> Result<(), E>,
) -> Result<(), ImportError<E>> {
    let content = stage.join(CONTENT);
    fs::create_dir(&content)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, &content, flags, Mode::empty()).map_err(io::Error::from)?;
    unpack(&folder).map_err(ImportError::Archive)?;
    let root: PathBuf = stage.join("root").join(sandbox.resource.as_str());
    fs::create_dir_all(&root)?;
    for (part, target) in [
        (VolumePart::Home, stage.join("home")),
        (VolumePart::Root, root.join("upper")),
    ] {
        let from = content.join(part.folder());
        // The archive may have anything under this name.
        if fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir()) {
            fs::rename(from, target)?;
        }
    }
    if !stage.join("home").is_dir() {
        make_home(&stage.join("home"))?;
    }
    fs::remove_dir_all(content)?;
    Ok(())
}

/// Renames a complete folder to its place, so that it is on disk as a whole or not at all.
pub(super) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(from)?)?;
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    Ok(rustix::fs::syncfs(File::open(to)?)?)
}

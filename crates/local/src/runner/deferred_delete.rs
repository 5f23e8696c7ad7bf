//! Deferred deletion of file trees of any depth and size: renamed away at once, deleted afterwards.
//! Follows no link; its stack and its descriptors do not grow with the depth.
//!
//! Compared with `std::fs::remove_dir_all`, which holds a descriptor per level.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// Folders that lie deeper than this are moved to the top and emptied there.
const DEPTH: u32 = 24;

/// A folder of trees to be deleted, on the file system that they come from (`runner/trash`).
pub struct DeferredDelete {
    folder: PathBuf,
}

/// Number of the next discarded tree of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl DeferredDelete {
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Moves `path` aside at once, and returns the argument of [`delete`]. `None` where
    /// `path` does not exist.
    ///
    /// # Errors
    /// The file system's.
    pub fn discard(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let to = self.folder.join(next_name());
        match fs::rename(path, &to) {
            Ok(()) => Ok(Some(to)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes everything in the folder. For the start of the runner, before any request.
    ///
    /// # Errors
    /// The file system's.
    pub fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)?.flatten() {
            delete(&entry.path())?;
        }
        Ok(())
    }
}

/// Deletes a discarded tree. The time grows with its number of files.
///
/// # Errors
/// The file system's.
pub fn delete(discarded: &Path) -> io::Result<()> {
    let top = open(CWD, discarded.parent().unwrap_or(Path::new("/")))?;
    let mut waiting: Vec<PathBuf> = vec![discarded.file_name().unwrap_or_default().into()];
    while let Some(name) = waiting.pop() {
        remove(&top, &top, &name, 0, &mut waiting)?;
    }
    Ok(())
}

fn remove(
    top: &OwnedFd,
    parent: &OwnedFd,
    name: &Path,
    depth: u32,
    waiting: &mut Vec<PathBuf>,
) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if depth == DEPTH {
        let to = PathBuf::from(next_name());
        rustix::fs::renameat(parent, name, top, &to)?;
        waiting.push(to);
        return Ok(());
    }
    {
        let folder = open(parent, name)?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let inside = entry.file_name().to_bytes();
            if inside == b"." || inside == b".." {
                continue;
            }
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                let inside: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(inside);
                remove(top, &folder, Path::new(inside), depth + 1, waiting)?;
            } else {
                rustix::fs::unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
            }
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

fn next_name() -> String {
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn open(at: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Bytes on disk below `path`, without following links or leaving its file system. Counts at most
/// `limit` entries, so that a tree of millions costs no more than that.
#[must_use]
pub fn disk_bytes(path: &Path, limit: u32) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut left) = (0, limit);
    let mut waiting = vec![path.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if left == 0 {
                return bytes;
            }
            left -= 1;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deferred_delete() -> (tempfile::TempDir, DeferredDelete) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("trash")).unwrap();
        let deferred_delete = DeferredDelete::new(folder.path().join("trash"));
        (folder, deferred_delete)
    }

    #[test]
    fn a_tree_deeper_than_any_path_may_be_long_is_removed() {
        let (folder, deferred_delete) = deferred_delete();
        let mut at = open(CWD, folder.path()).unwrap();
        for name in std::iter::once("deep").chain(std::iter::repeat_n("a-folder-with-a-name", 2000)) {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = open(&at, Path::new(name)).unwrap();
        }

        let discarded = deferred_delete
            .discard(&folder.path().join("deep"))
            .unwrap()
            .unwrap();
        delete(&discarded).unwrap();

        assert_eq!(fs::read_dir(folder.path().join("trash")).unwrap().count(), 0);
        assert!(!folder.path().join("deep").exists());
    }

    #[test]
    fn the_target_of_a_link_is_kept() {
        let (folder, deferred_delete) = deferred_delete();
        fs::create_dir_all(folder.path().join("kept")).unwrap();
        fs::write(folder.path().join("kept/file"), "x").unwrap();
        fs::create_dir(folder.path().join("gone")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("kept"), folder.path().join("gone/link")).unwrap();

        let discarded = deferred_delete
            .discard(&folder.path().join("gone"))
            .unwrap()
            .unwrap();
        delete(&discarded).unwrap();

        assert!(folder.path().join("kept/file").exists());
    }

    #[test]
    fn discarding_nothing_is_no_error() {
        let (folder, deferred_delete) = deferred_delete();
        assert_eq!(
            deferred_delete.discard(&folder.path().join("absent")).unwrap(),
            None
        );
    }
}

//! Listing, renaming and deleting of files and folders.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt},
    },
    path::Path,
};

use chrono::{DateTime, Utc};
use fsa_model::sandboxd::{FileEntry, FileKind};
use http::StatusCode;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, readlinkat, renameat2};

use super::{Subject, open_beneath::path_of};
use crate::http::ApiError;

/// Maximum entries of a listing; a larger one is of no use to a person.
const MAX_ENTRIES: usize = 50_000;

/// Lists a folder, sorted by name. A file, or a link to one, lists itself.
pub(super) fn list(subject: &Subject) -> io::Result<Vec<FileEntry>> {
    let folder = fs::File::from(subject.open(OFlag::O_PATH)?);
    if !folder.metadata()?.is_dir() {
        let itself = fs::File::from(subject.open(OFlag::O_PATH | OFlag::O_NOFOLLOW)?);
        let found = itself.metadata()?;
        let target = match found.is_symlink() {
            true => readlinkat(&itself, "").ok(),
            false => None,
        };
        let name = subject.path.file_name().unwrap_or_default();
        return Ok(vec![entry(&found, name, target.as_ref().map(Path::new))?]);
    }
    let folder = OwnedFd::from(folder);
    let path = path_of(&folder);
    let mut entries = Vec::new();
    for found in fs::read_dir(&path)? {
        let found = found?;
        if entries.len() == MAX_ENTRIES {
            return Err(io::Error::other(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "TooMany",
                format!("{} has more than {MAX_ENTRIES} entries", subject.shown),
            )));
        }
        match listed(&found) {
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => entries.push(other?),
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn listed(found: &fs::DirEntry) -> io::Result<FileEntry> {
    let metadata = found.metadata()?;
    let target = match metadata.is_symlink() {
        true => fs::read_link(found.path()).ok(),
        false => None,
    };
    entry(&metadata, &found.file_name(), target.as_deref())
}

fn entry(found: &fs::Metadata, name: &OsStr, target: Option<&Path>) -> io::Result<FileEntry> {
    let kind = match found.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    Ok(FileEntry {
        name: name.to_string_lossy().into_owned(),
        encoded_name: name
            .to_str()
            .is_none()
            .then(|| fsa_model::percent::encode(name.as_bytes())),
        kind,
        size: found.size(),
        mode: found.mode() & 0o7777,
        modified_at: DateTime::<Utc>::from(found.modified()?),
        target: target.map(|target| target.to_string_lossy().into_owned()),
    })
}

/// Deletes a file, a link (not what it points to), an empty folder, or with `recursive` a full one.
pub(super) fn delete(path: &Path, recursive: bool) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    if recursive {
        return fs::remove_dir_all(path);
    }
    fs::remove_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty => io::Error::other(ApiError::new(
            StatusCode::CONFLICT,
            "NotEmpty",
            format!(
                "{} is not empty; recursive=true deletes it with everything in it",
                path.display()
            ),
        )),
        _ => error,
    })
}

/// Renames, and creates the parent folders of the new name.
pub(super) fn rename(from: &Path, to: &Path, overwrite: bool) -> io::Result<()> {
    fs::symlink_metadata(from)?;
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    if overwrite {
        return fs::rename(from, to);
    }
    rename_new(from, to)
}

/// Renames to a name that does not exist yet.
///
/// # Errors
/// `AlreadyExists`, or the file system's error.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system that does not know the flag, such as NFS. A link of the same name fails as well, but folders
        // have none.
        Err(nix::errno::Errno::EINVAL) if !fs::symlink_metadata(from)?.is_dir() => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(nix::errno::Errno::EINVAL) if fs::symlink_metadata(to).is_err() => fs::rename(from, to),
        Err(nix::errno::Errno::EINVAL) => Err(io::ErrorKind::AlreadyExists.into()),
        other => other.map_err(Into::into),
    }
}

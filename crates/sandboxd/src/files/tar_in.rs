//! Tar upload: unpacks a tar archive into a folder, and never outside of it.
//!
//! Each part of a name is opened relative to the part before it, and no symbolic link is followed:
//! neither a link in the archive nor one that another process creates meanwhile leads out. An archive
//! that tries is refused; entries that were unpacked before stay.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Component, Path},
};

use bytes::{Buf, Bytes};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{Mode, futimens, mkdirat},
        time::TimeSpec,
    },
    unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat},
};
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

use super::{PIECE, Subject, is_hole};
use crate::http::{ApiError, RouteResult, status};

/// Pieces in the channel between the connection and the thread that writes files.
const CHANNEL_PIECES: usize = 4;
/// Bytes of a refused upload that are still read, so that the client receives the response.
const DRAIN_LIMIT: usize = 16 * 1024 * 1024;

/// `PUT` of an archive.
pub(super) async fn put(subject: &Subject, mut body: Incoming) -> RouteResult {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHANNEL_PIECES);
    let unpacking = subject.as_user(move |path, _| {
        std::fs::create_dir_all(path)?;
        unpack(
            path,
            ChannelReader {
                receiver,
                held: Bytes::new(),
            },
        )
    });
    let feeding = async {
        let mut refused = 0;
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => Ok(bytes),
                    Err(_trailers) => continue,
                },
                Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
            };
            let broken = piece.is_err();
            let length = piece.as_ref().map_or(0, Bytes::len);
            if sender.send(piece).await.is_err() {
                refused += length;
            }
            if broken || refused > DRAIN_LIMIT {
                break;
            }
        }
        drop(sender);
    };
    let (unpacked, ()) = tokio::join!(unpacking, feeding);
    unpacked.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            ApiError::bad_request("the archive ends in the middle; a part of it was unpacked")
        }
        io::ErrorKind::InvalidData => {
            ApiError::bad_request(format!("this is not a tar archive, or a broken one: {error}"))
        }
        io::ErrorKind::Other if error.get_ref().is_some_and(|inner| !inner.is::<ApiError>()) => {
            ApiError::bad_request(format!("the archive cannot be read: {error}"))
        }
        _ => subject.api_error(&error),
    })?;
    Ok(status(StatusCode::NO_CONTENT))
}

struct ChannelReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    held: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.held.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.held = piece?,
                None => return Ok(0),
            }
        }
        let length = self.held.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.held[..length]);
        self.held.advance(length);
        Ok(length)
    }
}

/// Open folder.
struct Folder {
    parts: Vec<OsString>,
    handle: OwnedFd,
}

/// Unpacks `archive` below `root`, which must exist.
///
/// # Errors
/// The archive leads out of `root` or is broken, or an entry cannot be written.
pub fn unpack(root: &Path, archive: impl Read) -> io::Result<()> {
    let path_only = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(root, path_only, Mode::empty())?;
    // The entries of one folder usually follow each other.
    let mut last: Option<Folder> = None;
    let mut buffer = vec![0; PIECE];
    for entry in Archive::new(archive).entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            continue;
        }
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let parts = parts(OsStr::from_bytes(&entry.path_bytes())).ok_or_else(|| escapes(&shown))?;
        let Some((name, folders)) = parts.split_last() else {
            continue;
        };
        if last.as_ref().is_none_or(|last| last.parts != folders) {
            last = Some(Folder {
                parts: folders.to_vec(),
                handle: enter(&root, folders, &shown)?,
            });
        }
        let Some(folder) = &last else { continue };
        let linked = entry
            .link_name_bytes()
            .map(|target| OsString::from(OsStr::from_bytes(&target)));
        match kind {
            EntryType::Directory => {
                let mode = entry.header().mode().unwrap_or(0o755) & 0o777 | 0o700;
                create_folder(&folder.handle, name, mode)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                if is_posix_sparse(&mut entry)? {
                    return Err(io::Error::other(ApiError::bad_request(format!(
                        "the archive's entry `{shown}` is a sparse file in the POSIX form, which is not supported: make \
                         the archive with `--format=gnu`, or without `--sparse`"
                    ))));
                }
                write(&mut entry, &folder.handle, name, &mut buffer)?;
            }
            EntryType::Symlink => {
                let target = linked.ok_or_else(|| unusable(&shown))?;
                clear(&folder.handle, name)?;
                symlinkat(target.as_os_str(), &folder.handle, name.as_os_str())?;
            }
            EntryType::Link => {
                let target = linked.ok_or_else(|| unusable(&shown))?;
                let target_parts = self::parts(&target).ok_or_else(|| escapes(&shown))?;
                let (target_name, target_folders) =
                    target_parts.split_last().ok_or_else(|| unusable(&shown))?;
                let target_folder = enter(&root, target_folders, &shown)?;
                if target_parts != parts {
                    clear(&folder.handle, name)?;
                    linkat(
                        &target_folder,
                        target_name.as_os_str(),
                        &folder.handle,
                        name.as_os_str(),
                        AtFlags::empty(),
                    )?;
                }
            }
            _ => return Err(unusable(&shown)),
        }
    }
    Ok(())
}

/// Whether the entry's content is a map of a sparse file and the parts that have data (GNU tar, "PAX Format, Version
/// 1.0").
fn is_posix_sparse(entry: &mut Entry<'_, impl Read>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(false);
    };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The parts of a name; `None` when it is absolute or has a `..`.
fn parts(name: &OsStr) -> Option<Vec<OsString>> {
    Path::new(name)
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| match part {
            Component::Normal(part) => Some(part.to_owned()),
            _ => None,
        })
        .collect()
}

fn escapes(name: &str) -> io::Error {
    io::Error::other(ApiError::bad_request(format!(
        "the archive's entry `{name}` leads out of the folder; unpacking stopped there"
    )))
}

fn unusable(name: &str) -> io::Error {
    io::Error::other(ApiError::bad_request(format!(
        "the archive's entry `{name}` is neither a file, a folder nor a link; unpacking stopped there"
    )))
}

/// Opens the folder below `root`, and creates missing ones.
fn enter(root: &OwnedFd, folders: &[OsString], shown: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here = root.try_clone()?;
    for folder in folders {
        let name = folder.as_os_str();
        let next = match openat(&here, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                create_folder(&here, folder, 0o755)?;
                openat(&here, name, flags, Mode::empty())
            }
            other => other,
        };
        here = next.map_err(|error| match error {
            Errno::ENOTDIR | Errno::ELOOP => io::Error::other(ApiError::bad_request(format!(
                "the archive's entry `{shown}` goes through a file or a symbolic link; unpacking stopped there"
            ))),
            error => error.into(),
        })?;
    }
    Ok(here)
}

fn create_folder(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes an existing file or link of that name.
fn clear(folder: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write(
    entry: &mut Entry<'_, impl Read>,
    folder: &OwnedFd,
    name: &OsStr,
    buffer: &mut [u8],
) -> io::Result<()> {
    clear(folder, name)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::from_bits_truncate(0o600))?);
    let size = entry.size();
    let mut written = 0;
    while written < size {
        let length = entry.read(buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        written += length as u64;
        if is_hole(&buffer[..length]) {
            file.seek(SeekFrom::Start(written))?;
        } else {
            file.write_all(&buffer[..length])?;
        }
    }
    file.set_len(written)?;
    let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    if let Ok(Ok(seconds)) = entry.header().mtime().map(i64::try_from) {
        // The kernel clamps a time that the file system cannot represent.
        let time = TimeSpec::new(seconds, 0);
        futimens(file.as_fd(), &time, &time)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_is_refused() {
        assert_eq!(parts(OsStr::new("./a/./b")).unwrap(), ["a", "b"]);
        assert_eq!(parts(OsStr::new("./")).unwrap().len(), 0);
        for wrong in ["/etc/passwd", "../x", "a/../../x", "a/.."] {
            assert!(parts(OsStr::new(wrong)).is_none(), "{wrong}");
        }
    }
}

//! Listing and opening of a snapshot's files, for a backup.
//!
//! The caller names paths; each is resolved below its part of the snapshot without following a link, and only a regular
//! file is opened, for reading. So a caller gets nothing else of the machine.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use fsa_model::snapshot_files::{HexBytes, SnapshotEntry, SnapshotEntryKind, SnapshotFolder};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fgetxattr, flistxattr, fstat, openat,
        openat2, readlinkat, statat,
    },
    io::Errno,
};

/// Entries of one answer: about 5 MB.
const ENTRIES_MAX: usize = 20_000;
const ATTRIBUTES_MAX: usize = 64 << 10;
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// The entries of the folder `path` of a part, those after the name `after`.
///
/// # Errors
/// The file system's; `NotFound` for a path that the part does not have. A part that is missing is empty.
pub fn list(part: &Path, path: &[u8], after: &[u8]) -> io::Result<SnapshotFolder> {
    let root = match open_part(part) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SnapshotFolder::default()),
        root => root?,
    };
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat2(&root, path, flags, Mode::empty(), RESOLVE)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && name > after {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    let more = names.len() > ENTRIES_MAX;
    names.truncate(ENTRIES_MAX);
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        entries.extend(describe(&folder, name)?);
    }
    Ok(SnapshotFolder {
        folder: describe(&folder, Vec::new())?,
        entries,
        more,
    })
}

/// Opens a regular file for reading.
///
/// # Errors
/// The file system's; `InvalidInput` for anything else.
pub fn open(part: &Path, path: &[u8]) -> io::Result<OwnedFd> {
    let root = open_part(part)?;
    // Without NONBLOCK the opening of a FIFO waits for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(&root, path, flags, Mode::empty(), RESOLVE)?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn open_part(part: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, part, flags, Mode::empty())?)
}

/// An entry of a folder, or with an empty name the folder itself. `None` for what no backup has: devices.
fn describe(folder: &OwnedFd, name: Vec<u8>) -> io::Result<Option<SnapshotEntry>> {
    let stat = match name.is_empty() {
        true => fstat(folder)?,
        false => statat(folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?,
    };
    let mut attributes = Vec::new();
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat2(folder, name.as_slice(), flags, Mode::empty(), RESOLVE)?;
            attributes = read_attributes(&file)?.0;
            SnapshotEntryKind::File
        }
        FileType::Directory => {
            let read = match name.is_empty() {
                true => read_attributes(folder)?,
                false => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    read_attributes(openat2(folder, name.as_slice(), flags, Mode::empty(), RESOLVE)?)?
                }
            };
            attributes = read.0;
            SnapshotEntryKind::Directory { opaque: read.1 }
        }
        FileType::Symlink => {
            SnapshotEntryKind::Symlink(readlinkat(folder, name.as_slice(), Vec::new())?.into_bytes())
        }
        FileType::Fifo => SnapshotEntryKind::Fifo,
        FileType::Socket => SnapshotEntryKind::Socket,
        FileType::CharacterDevice if stat.st_rdev == 0 => SnapshotEntryKind::Whiteout,
        _ => return Ok(None),
    };
    Ok(Some(SnapshotEntry {
        name,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
        changed: (stat.st_ctime, stat.st_ctime_nsec as u32),
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        inode: stat.st_ino,
        links: stat.st_nlink,
        attributes,
    }))
}

type Attributes = (Vec<(String, HexBytes)>, bool);

/// The attributes that a program may set, and whether the folder is opaque (kernel documentation, "overlayfs").
fn read_attributes(file: impl AsFd) -> io::Result<Attributes> {
    let mut names = vec![0; ATTRIBUTES_MAX];
    let length = match flistxattr(&file, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let (mut found, mut opaque) = (Vec::new(), false);
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; ATTRIBUTES_MAX];
        let length = match fgetxattr(&file, name, &mut value) {
            Err(Errno::NODATA) => continue,
            length => length?,
        };
        value.truncate(length);
        if [&b"trusted.overlay.opaque"[..], b"user.overlay.opaque"].contains(&name) {
            opaque = value == b"y";
        } else if (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
            || name == b"security.capability"
        {
            // An attribute with another name than UTF-8 is left out.
            if let Ok(name) = std::str::from_utf8(name) {
                found.push((name.to_owned(), HexBytes(value)));
            }
        }
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok((found, opaque))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn entries_are_listed_sorted_and_in_pages_of_what_follows_a_name() {
        let part = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c"] {
            fs::write(part.path().join(name), name).unwrap();
        }
        fs::create_dir(part.path().join("dir")).unwrap();
        symlink("/etc/passwd", part.path().join("dir/link")).unwrap();
        let names = |folder: &SnapshotFolder| -> Vec<String> {
            let name = |entry: &SnapshotEntry| String::from_utf8(entry.name.clone()).unwrap();
            folder.entries.iter().map(name).collect()
        };

        let all = list(part.path(), b"", b"").unwrap();
        assert_eq!(names(&all), ["a", "b", "c", "dir"]);
        assert_eq!(names(&list(part.path(), b"", b"b").unwrap()), ["c", "dir"]);
        assert!(!all.more && all.folder.is_some());
        let inner = list(part.path(), b"dir", b"").unwrap();
        assert_eq!(
            inner.entries[0].kind,
            SnapshotEntryKind::Symlink(b"/etc/passwd".to_vec())
        );
        assert_eq!(
            list(&part.path().join("absent"), b"", b"").unwrap(),
            SnapshotFolder::default()
        );
    }

    #[test]
    fn nothing_outside_the_part_is_opened_and_nothing_but_files() {
        let outside = tempfile::tempdir().unwrap();
        let part = outside.path().join("part");
        fs::create_dir(&part).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        fs::write(part.join("file"), "content").unwrap();
        symlink("../secret", part.join("link")).unwrap();
        symlink("..", part.join("up")).unwrap();
        rustix::fs::mknodat(
            CWD,
            part.join("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();

        let mut content = String::new();
        fs::File::from(open(&part, b"file").unwrap())
            .read_to_string(&mut content)
            .unwrap();
        assert_eq!(content, "content");
        for path in ["link", "up/secret", "../secret", "/etc/passwd", "fifo", "."] {
            assert!(open(&part, path.as_bytes()).is_err(), "{path}");
        }
        for path in ["up", "..", "/etc"] {
            assert!(list(&part, path.as_bytes(), b"").is_err(), "{path}");
        }
    }
}

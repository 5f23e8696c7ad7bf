//! Bytes that only one file tree on btrfs has: the extents of its files that nothing else shares, as
//! `btrfs filesystem du` counts them (FIEMAP, kernel documentation).
//!
//! Quota groups count this too, but simple ones do not: they charge a byte to the subvolume that
//! wrote it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags},
    ioctl::{Direction, Updater, ioctl, opcode},
};

/// Extents that are read at a time.
const EXTENTS: usize = 128;
/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 1;
/// `FIEMAP_EXTENT_SHARED`.
const SHARED: u32 = 0x2000;
/// Entries that are visited; a larger tree is not counted.
const ENTRIES_MAX: u64 = 500_000;
/// The size of the map without its extents, which is the one in the request's number.
const HEADER: usize = 32;

/// `fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

/// `fiemap`.
#[repr(C)]
struct ExtentMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

const _: () = assert!(size_of::<Extent>() == 56 && size_of::<ExtentMap>() == HEADER + EXTENTS * 56);

/// Counts the bytes of a tree that does not change. `None` where it is too large.
///
/// # Errors
/// The file system's.
pub fn exclusive_bytes(tree: &Path) -> io::Result<Option<u64>> {
    let top = open(CWD, tree, OFlags::DIRECTORY)?;
    let (mut bytes, mut entries) = (0, 0);
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        let folder = match open(&top, &path, OFlags::DIRECTORY) {
            Ok(folder) => folder,
            // Deeper than a path can name: not counted.
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => return Ok(None),
            Err(error) => return Err(error),
        };
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name: &std::ffi::OsStr =
                std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            entries += 1;
            if entries > ENTRIES_MAX {
                return Ok(None);
            }
            let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => waiting.push(path.join(name)),
                FileType::RegularFile if stat.st_blocks > 0 => {
                    bytes += unshared(&open(&folder, Path::new(name), OFlags::empty())?)?;
                }
                _ => {}
            }
        }
    }
    Ok(Some(bytes))
}

/// Bytes of a file's extents that no other file or subvolume shares.
fn unshared(file: &OwnedFd) -> io::Result<u64> {
    let (mut bytes, mut start) = (0, 0);
    loop {
        let mut map = ExtentMap {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped: 0,
            count: u32::try_from(EXTENTS).unwrap_or(u32::MAX),
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: the request reads the header of a `fiemap` and writes at most `count` extents after
        // it, for which there is room; every bit pattern is valid in them.
        #[allow(unsafe_code)]
        unsafe {
            ioctl(
                file,
                Updater::<{ opcode::from_components(Direction::ReadWrite, b'f', 11, HEADER) }, _>::new(
                    &mut map,
                ),
            )?;
        }
        let found = map.extents.get(..map.mapped as usize).unwrap_or_default();
        let own = found.iter().filter(|extent| extent.flags & SHARED == 0);
        bytes += own.map(|extent| extent.length).sum::<u64>();
        match found.last() {
            Some(last) if last.flags & LAST == 0 => start = last.logical + last.length,
            _ => return Ok(bytes),
        }
    }
}

fn open(at: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

//! Comparison of a file tree with its copy: names, kinds, owners, modes, sizes, times, links, devices, extended
//! attributes and contents.

use std::{
    collections::BTreeSet,
    ffi::{CString, OsString},
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// Bytes that are compared at a time.
const BUFFER: usize = 256 * 1024;
/// Bytes of the names, and of the value, of extended attributes: the kernel's limits (xattr(7)).
const ATTRIBUTES_MAX: usize = 64 * 1024;
/// A longer path cannot be opened (`PATH_MAX`); cp(1) copies what is below it all the same.
const PATH_MAX: usize = 4000;

/// Checks that `copy` is what `original` is. Nothing may change either meanwhile.
///
/// # Errors
/// The first difference; what cannot be read.
pub fn check_same(original: &Path, copy: &Path) -> io::Result<()> {
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let (one, other) = (original.join(&path), copy.join(&path));
        let metadata = fs::symlink_metadata(&one)?;
        check(
            &path,
            "attributes",
            attributes(&metadata) == attributes(&fs::symlink_metadata(&other)?),
        )?;
        check(&path, "extended attributes", extended(&one)? == extended(&other)?)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let names = names(&one)?;
            check(&path, "entries", names == self::names(&other)?)?;
            waiting.extend(
                names
                    .into_iter()
                    .map(|name| path.join(name))
                    .filter(|path| path.as_os_str().len() + original.as_os_str().len() < PATH_MAX)
                    .filter(|path| path.as_os_str().len() + copy.as_os_str().len() < PATH_MAX),
            );
        } else if kind.is_symlink() {
            check(&path, "target", fs::read_link(&one)? == fs::read_link(&other)?)?;
        } else if kind.is_file() {
            check(
                &path,
                "content",
                same_content(File::open(&one)?, File::open(&other)?)?,
            )?;
        }
    }
    Ok(())
}

fn check(path: &Path, what: &str, same: bool) -> io::Result<()> {
    if same {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the copy of {} has other {what}: its disk or memory may be faulty; start the server again to copy it again",
        path.display()
    )))
}

/// Mode (with the kind) and owner; then size, time and device number, which a copied folder has not in common.
fn attributes(metadata: &Metadata) -> [i128; 7] {
    let kind = metadata.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device();
    let with = |counts: bool, value: i128| if counts { value } else { 0 };
    [
        metadata.mode().into(),
        metadata.uid().into(),
        metadata.gid().into(),
        with(!kind.is_dir(), metadata.size().into()),
        with(!kind.is_dir(), metadata.mtime().into()),
        with(!kind.is_dir(), metadata.mtime_nsec().into()),
        with(is_device, metadata.rdev().into()),
    ]
}

fn names(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

fn extended(path: &Path) -> io::Result<BTreeSet<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; ATTRIBUTES_MAX];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut value = Vec::new();
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        // Properties of a file system (btrfs has its compression there) are not copied.
        .filter(|name| !name.starts_with(b"btrfs."))
        .map(|name| {
            value.resize(ATTRIBUTES_MAX, 0);
            let name = CString::new(name).unwrap_or_default();
            let length = rustix::fs::lgetxattr(path, &name, &mut value[..])?;
            Ok((name.into_bytes(), value[..length].to_vec()))
        })
        .collect()
}

fn same_content(mut one: File, mut other: File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let read = fill(&mut one, &mut left)?;
        if read != fill(&mut other, &mut right)? || left[..read] != right[..read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::runner::storage::copy_tree::copy_tree;

    #[test]
    fn a_copy_is_the_same_until_something_of_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
        fs::create_dir_all(original.join("deep/er")).unwrap();
        fs::write(original.join("deep/er/file"), "content").unwrap();
        fs::write(original.join("empty"), "").unwrap();
        symlink("deep/er/file", original.join("link")).unwrap();
        type Change = (&'static str, fn(&Path));
        let changes: [Change; 5] = [
            ("content", |copy| {
                let file = copy.join("deep/er/file");
                let modified = fs::metadata(&file).unwrap().modified().unwrap();
                fs::write(&file, "CONTENT").unwrap();
                File::options()
                    .write(true)
                    .open(&file)
                    .unwrap()
                    .set_modified(modified)
                    .unwrap();
            }),
            ("attributes", |copy| {
                fs::set_permissions(copy.join("empty"), fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("entries", |copy| fs::remove_file(copy.join("empty")).unwrap()),
            ("entries", |copy| fs::write(copy.join("deep/more"), "").unwrap()),
            ("attributes", |copy| {
                fs::remove_file(copy.join("link")).unwrap();
                symlink("deep/er", copy.join("link")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let _ = fs::remove_dir_all(&copy);
            copy_tree(&original, &copy).unwrap();
            check_same(&original, &copy).unwrap();
            change(&copy);
            let refused = check_same(&original, &copy).unwrap_err().to_string();
            assert!(refused.contains(what), "{what}: {refused}");
        }
    }
}

//! Copy of a data folder: from the template, or from the stopped server of another volume.
//!
//! The files may be a project's own, so no link is followed. The kernel shares the blocks where the
//! file system can (copy_file_range(2)).

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, lchown, symlink},
    path::Path,
};

use super::POSTGRES_ID;

/// Copies the tree `from` to `to`, which must not exist. Sockets and devices are left out.
///
/// # Errors
/// The file system's.
pub fn tree(from: &Path, to: &Path) -> io::Result<()> {
    let mode = fs::symlink_metadata(from)?.permissions().mode() & 0o777;
    fs::DirBuilder::new().mode(0o700).create(to)?;
    own(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            tree(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            own(&target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
            own(&target)?;
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

fn own(path: &Path) -> io::Result<()> {
    lchown(path, Some(POSTGRES_ID), Some(POSTGRES_ID))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// Needs root, as this module does.
    #[test]
    fn a_copy_has_the_same_files_and_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("base/1")).unwrap();
        fs::write(from.join("base/1/2"), "rows").unwrap();
        symlink("/etc/hostname", from.join("link")).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o750)).unwrap();

        tree(&from, &to).unwrap();

        assert_eq!(fs::read_to_string(to.join("base/1/2")).unwrap(), "rows");
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/hostname")
        );
        let metadata = fs::metadata(&to).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (POSTGRES_ID, 0o750));
    }
}

//! Unpacking of an archive of a volume: the tar stream of a backup, with the same care as a layer of an image. Its sender
//! is not trusted more than a registry is.

use std::{fs::File, io::BufReader, os::fd::OwnedFd};

use super::{Limits, Rules, UnpackError, pipeline::CHUNK, tree};
use crate::images::{UnpackedLayer, tarball::printable};

/// Writes the entries of an uncompressed tar stream below `root`. Names that begin with `.wh.` are deletions only below
/// the folder `whiteouts`.
///
/// # Errors
/// [`UnpackError`]: the entry that no archive may have; what could not be written.
pub fn unpack_volume(
    archive: File,
    root: &OwnedFd,
    rules: Rules,
    limits: Limits,
    whiteouts: &str,
) -> Result<UnpackedLayer, UnpackError> {
    let reader = BufReader::with_capacity(CHUNK, archive);
    let (unpacked, links) = tree::write(reader, root, rules, limits, whiteouts.as_bytes())?;
    match links.first() {
        None => Ok(unpacked),
        Some(link) => Err(UnpackError::Refused {
            path: printable(&link.path),
            why: "is a link to a file that the archive does not have".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Seek as _, Write as _},
        os::unix::fs::FileTypeExt as _,
    };

    use rustix::fs::{CWD, Mode, OFlags, openat};

    use super::*;

    fn unpack(
        entries: &[(&str, tar::EntryType, &str)],
    ) -> (tempfile::TempDir, Result<UnpackedLayer, UnpackError>) {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            if *kind == tar::EntryType::Link {
                header.set_link_name(content).unwrap();
                header.set_size(0);
            } else {
                header.set_size(content.len() as u64);
            }
            header.set_cksum();
            let body = if *kind == tar::EntryType::Regular {
                *content
            } else {
                ""
            };
            builder.append(&header, body.as_bytes()).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&builder.into_inner().unwrap()).unwrap();
        file.rewind().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, folder.path(), flags, Mode::empty()).unwrap();
        let rules = Rules {
            user_xattrs: true,
            keep_owners: false,
        };
        let unpacked = unpack_volume(
            file,
            &root,
            rules,
            Limits {
                keep_free: 0,
                ..Limits::default()
            },
            "root/",
        );
        (folder, unpacked)
    }

    #[test]
    fn names_of_deletions_are_files_in_the_home_and_whiteouts_in_the_root() {
        use tar::EntryType::Regular;
        let (folder, unpacked) = unpack(&[
            ("home/.wh.x", Regular, "mine"),
            ("root/etc/.wh.motd", Regular, ""),
        ]);
        match unpacked {
            Ok(_) => {}
            // Without the right to make a whiteout nothing of the root is written.
            Err(error) => panic!("{error}"),
        }
        assert_eq!(
            fs::read_to_string(folder.path().join("home/.wh.x")).unwrap(),
            "mine"
        );
        let whiteout = fs::symlink_metadata(folder.path().join("root/etc/motd")).unwrap();
        assert!(whiteout.file_type().is_char_device());
    }

    #[test]
    fn what_leads_out_of_the_folder_is_refused() {
        use tar::EntryType::{Link, Regular};
        for entries in [
            &[("home/../../x", Regular, "")][..],
            &[("home/x", Link, "../../etc/passwd")],
            &[("home/x", Link, "root/absent")],
        ] {
            let (folder, unpacked) = unpack(entries);
            assert!(unpacked.is_err(), "{entries:?}");
            assert!(!folder.path().parent().unwrap().join("x").exists());
        }
    }
}

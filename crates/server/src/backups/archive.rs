//! Archive of a volume: the files of a backup as a tar stream with the folders `home` and `root`. Below `root`, deletions
//! are marked as in a layer of an image (OCI image specification, "Applying changesets").
//!
//! The stream is data for the data plane, which trusts none of it. Names come from the repository as they are.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::{self, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use fsa_backup::{Contents, Entry, EntryKind, FileContent};
use fsa_model::snapshot_files::VolumePart;
use tar::{EntryType, Header};

use super::source::{OPAQUE, WHITEOUT};

/// Names of hard links that are remembered; further ones become files of their own.
const LINKS_MAX: usize = 100_000;

/// Writes the volume of a backup. After an error the stream does not parse as complete.
///
/// # Errors
/// The repository's; the writer's.
pub fn write(contents: &Contents, output: &mut dyn Write) -> Result<(), fsa_backup::Error> {
    let written = write_parts(contents, output);
    match &written {
        // A reader takes an end between two entries for the end of the archive; half a block is none.
        Err(_) => drop(output.write_all(b"incomplete")),
        Ok(()) => {
            let end = [0; 1024];
            output.write_all(&end).map_err(fsa_backup::Error::Write)?;
        }
    }
    written
}

fn write_parts(contents: &Contents, output: &mut dyn Write) -> Result<(), fsa_backup::Error> {
    for part in VolumePart::ALL {
        let mut links = HashMap::new();
        contents.walk::<fsa_backup::Error>(Path::new(part.folder()), &mut |entry, content| {
            add(output, part, entry, content, &mut links)
        })?;
    }
    Ok(())
}

fn add(
    output: &mut dyn Write,
    part: VolumePart,
    entry: &Entry,
    content: &FileContent<'_>,
    links: &mut HashMap<u64, PathBuf>,
) -> Result<(), fsa_backup::Error> {
    let failed = fsa_backup::Error::Write;
    match &entry.kind {
        EntryKind::File => {
            if entry.links > 1 && entry.inode != 0 {
                if let Some(first) = links.get(&entry.inode) {
                    let target = Some(first.as_os_str());
                    return describe(output, entry, &entry.path, EntryType::Link, target, 0).map_err(failed);
                }
                if links.len() < LINKS_MAX {
                    links.insert(entry.inode, entry.path.clone());
                }
            }
            let size = content.size();
            describe(output, entry, &entry.path, EntryType::Regular, None, size).map_err(failed)?;
            content.write_to(output)?;
            pad(output, size).map_err(failed)
        }
        EntryKind::Directory => {
            describe(output, entry, &entry.path, EntryType::Directory, None, 0).map_err(failed)?;
            let opaque = entry
                .attributes
                .iter()
                .any(|(name, value)| name == OPAQUE && value == b"y");
            match opaque && part == VolumePart::Root {
                true => mark(output, &entry.path.join(".wh..wh..opq")).map_err(failed),
                false => Ok(()),
            }
        }
        EntryKind::Symlink(target) => {
            let target = Some(target.as_os_str());
            describe(output, entry, &entry.path, EntryType::Symlink, target, 0).map_err(failed)
        }
        EntryKind::Fifo => describe(output, entry, &entry.path, EntryType::Fifo, None, 0).map_err(failed),
        EntryKind::CharacterDevice(0) if part == VolumePart::Root => {
            let mut name = WHITEOUT.to_vec();
            name.extend_from_slice(entry.path.file_name().unwrap_or_default().as_bytes());
            mark(output, &entry.path.with_file_name(OsStr::from_bytes(&name))).map_err(failed)
        }
        // A program makes its sockets again; a sandbox has only the devices that its runtime makes.
        EntryKind::Socket | EntryKind::CharacterDevice(_) | EntryKind::BlockDevice(_) => Ok(()),
    }
}

/// An empty file that marks a deletion.
fn mark(output: &mut dyn Write, path: &Path) -> io::Result<()> {
    let entry = Entry::new(path, EntryKind::File, 0o600);
    describe(output, &entry, path, EntryType::Regular, None, 0)
}

/// Writes the headers of an entry. What a plain header may not hold is in a PAX header before it (POSIX.1-2017, pax,
/// "pax Extended Header").
fn describe(
    output: &mut dyn Write,
    entry: &Entry,
    path: &Path,
    kind: EntryType,
    target: Option<&OsStr>,
    size: u64,
) -> io::Result<()> {
    let mut records = Vec::new();
    record(&mut records, "path", path.as_os_str().as_bytes());
    if let Some(target) = target {
        record(&mut records, "linkpath", target.as_bytes());
    }
    let (seconds, nanoseconds) = entry.modified;
    record(&mut records, "mtime", time(seconds, nanoseconds).as_bytes());
    if kind != EntryType::Link {
        for (name, value) in entry.attributes.iter().filter(|(name, _)| name != OPAQUE) {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
    }
    let length = records.len() as u64;
    output.write_all(header(EntryType::XHeader, length, 0o600, 0, 0).as_bytes())?;
    output.write_all(&records)?;
    pad(output, length)?;
    output.write_all(header(kind, size, entry.mode & 0o7777, entry.uid, entry.gid).as_bytes())
}

fn header(kind: EntryType, size: u64, mode: u32, uid: u32, gid: u32) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..1].copy_from_slice(b"x");
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header.set_mtime(0);
    header.set_cksum();
    header
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with a fraction; before 1970 the fraction counts backwards.
fn time(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

/// Fills the last block.
fn pad(output: &mut dyn Write, size: u64) -> io::Result<()> {
    let missing = size.next_multiple_of(512) - size;
    output.write_all(&[0; 512][..usize::try_from(missing).unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_tar_crate_reads_the_headers_as_they_were_written() {
        let name = format!("home/{}/é", "d".repeat(200));
        let entry = Entry {
            uid: 1000,
            gid: 65_534,
            modified: (1_700_000_000, 5),
            attributes: vec![("user.mime".into(), b"text=plain".to_vec())],
            ..Entry::new(&name, EntryKind::File, 0o4755)
        };
        let mut tar = Vec::new();
        describe(&mut tar, &entry, &entry.path, EntryType::Regular, None, 3).unwrap();
        tar.extend_from_slice(b"abc");
        pad(&mut tar, 3).unwrap();
        let link = Path::new("home/link");
        let target = Some(OsStr::new("../a//b"));
        describe(&mut tar, &entry, link, EntryType::Symlink, target, 0).unwrap();
        tar.extend_from_slice(&[0; 1024]);

        let mut archive = tar::Archive::new(&tar[..]);
        let mut entries = archive.entries().unwrap();
        let mut file = entries.next().unwrap().unwrap();
        assert_eq!(file.path().unwrap(), Path::new(&name));
        assert_eq!(file.header().mode().unwrap(), 0o4755);
        assert_eq!(file.header().uid().unwrap(), 1000);
        let records: Vec<_> = file
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| (record.key().unwrap().to_owned(), record.value_bytes().to_vec()))
            .collect();
        assert!(records.contains(&("SCHILY.xattr.user.mime".into(), b"text=plain".to_vec())));
        assert!(records.contains(&("mtime".into(), b"1700000000.000000005".to_vec())));
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "abc");
        let link = entries.next().unwrap().unwrap();
        assert_eq!(link.link_name_bytes().unwrap().as_ref(), b"../a//b");
        assert!(entries.next().is_none());
    }

    #[test]
    fn lengths_count_themselves_and_times_before_1970_are_written() {
        let mut records = Vec::new();
        // 99 bytes without the length, whose digits make it three.
        record(&mut records, "k", &[b'x'; 95]);
        assert_eq!(records.len(), 102);
        assert!(records.starts_with(b"102 k=x"));
        assert_eq!(time(-1, 750_000_000), "-0.250000000");
        assert_eq!(time(3, 0), "3.000000000");
    }
}

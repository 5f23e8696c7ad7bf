//! Tar reader for hostile archives, used on both sides of the privilege boundary.
//!
//! Compared with the iterator of the `tar` crate, which reads long names and extended headers of
//! any claimed length into memory, and ignores the size in an extended header with raw entries.
//! This reader bounds everything that it buffers, does not allocate claimed lengths, and does not seek. It uses the crate
//! for the fields of headers.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use tar::{EntryType, Header};

/// Bytes of a long name, a long link name or an extended header. Attributes (capabilities, ACLs)
/// are far smaller; Linux itself ends them at 64 KiB each.
const EXTENSION_MAX: u64 = 1 << 20;
/// Bytes of a path or of a link's target: Linux's PATH_MAX.
const PATH_MAX: usize = 4096;
const BLOCK: usize = 512;

/// Why an archive cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    #[error("it is not a tar archive")]
    NotTar,
    #[error("a header in it is damaged ({0})")]
    Header(String),
    #[error("an entry's name or extended header is too long ({0} bytes)")]
    TooLong(u64),
    #[error("{0:?} is stored as a sparse file, which is not supported; make the archive without --sparse")]
    Sparse(String),
}

/// Type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Another name of a file that came earlier.
    Hardlink,
    Fifo,
    /// A character or block device, or an unknown type.
    Other(u8),
}

/// One entry's description; its content is read from the [`Reader`].
#[derive(Debug)]
pub struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    /// Of a symbolic or hard link.
    pub target: Vec<u8>,
    /// Bytes of content.
    pub size: u64,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Extended attributes, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// The path, safe to print.
    #[must_use]
    pub fn printable(&self) -> String {
        printable(&self.path)
    }
}

/// A path of an archive, safe to print: bounded, and without control characters.
#[must_use]
pub fn printable(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .take(200)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A number of a header. A field that was left empty is 0, as other readers have it (Go's
/// archive/tar, `parseNumeric`); the crate refuses it.
fn number_of<T: Default>(field: &[u8], read: impl FnOnce() -> io::Result<T>) -> Result<T, TarError> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    read().map_err(|e| TarError::Header(e.to_string()))
}

/// Reads entries in order.
pub struct Reader<R> {
    input: R,
    /// Remaining bytes of the current entry.
    content: u64,
    padding: u64,
    started: bool,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            content: 0,
            padding: 0,
            started: false,
            global: BTreeMap::new(),
        }
    }

    /// The next entry. Skips the rest of the current one.
    ///
    /// # Errors
    /// [`TarError`], after which the reader must not be used.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number_of(&header.as_old().size, || header.entry_size())?;
            self.begin(size)?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.name(size)?),
                EntryType::GNULongLink => extensions.target = Some(self.name(size)?),
                EntryType::XHeader => extensions.pax = parse_pax(&self.extension(size)?)?,
                EntryType::XGlobalHeader => {
                    let defaults = parse_pax(&self.extension(size)?)?;
                    self.global.extend(defaults);
                    if self.global.len() > 1000 {
                        return Err(TarError::TooLong(size));
                    }
                }
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// Reads all that follows the last entry, so that a hash of the input is complete.
    ///
    /// # Errors
    /// The input's own.
    pub fn finish(mut self, buffer: &mut [u8]) -> io::Result<()> {
        while self.input.read(buffer)? > 0 {}
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        for zeros in 0.. {
            let block = header.as_mut_bytes();
            match read_full(&mut self.input, block)? {
                BLOCK => {}
                // Two blocks of zeros end an archive; many writers leave them out.
                0 if self.started => return Ok(None),
                _ if self.started => return Err(TarError::Truncated),
                _ => return Err(TarError::NotTar),
            }
            if block.iter().any(|byte| *byte != 0) {
                break;
            }
            if zeros == 1 {
                return Ok(None);
            }
            // An empty archive is an archive, but zeros alone are none.
            self.started = true;
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        match header.cksum() {
            Ok(expected) if expected == sum => {}
            _ if self.started => return Err(TarError::Header("its checksum is wrong".into())),
            _ => return Err(TarError::NotTar),
        }
        self.started = true;
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, size: u64, mut extensions: Extensions) -> Result<Entry, TarError> {
        let pax = |key: &[u8]| extensions.pax.get(key).or_else(|| self.global.get(key));
        let number =
            |key: &[u8]| pax(key).and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok());
        let old = header.as_old();

        let path = pax(b"path")
            .cloned()
            .or(extensions.path.take())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let target = pax(b"linkpath")
            .cloned()
            .or(extensions.target.take())
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
            .unwrap_or_default();
        if path.len() > PATH_MAX || target.len() > PATH_MAX {
            return Err(TarError::TooLong(path.len().max(target.len()) as u64));
        }
        let sparse = extensions.pax.keys().any(|key| key.starts_with(b"GNU.sparse."));
        let kind = match header.entry_type() {
            EntryType::GNUSparse => return Err(TarError::Sparse(printable(&path))),
            EntryType::Regular | EntryType::Continuous if sparse => {
                return Err(TarError::Sparse(printable(&path)));
            }
            // Before POSIX a folder was a file whose name ends in a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Fifo => Kind::Fifo,
            other => Kind::Other(other.as_byte()),
        };
        // Of what is described by its header alone, some writers give the size of what it points to.
        let content = match kind {
            Kind::File => number(b"size").unwrap_or(size),
            Kind::Other(byte) if !matches!(byte, b'3' | b'4') => number(b"size").unwrap_or(size),
            _ => 0,
        };
        let entry = Entry {
            kind,
            size: if kind == Kind::File { content } else { 0 },
            mode: number_of(&old.mode, || header.mode())? & 0o7777,
            uid: number(b"uid").map_or_else(|| number_of(&old.uid, || header.uid()), Ok)?,
            gid: number(b"gid").map_or_else(|| number_of(&old.gid, || header.gid()), Ok)?,
            mtime: pax(b"mtime")
                .and_then(|value| parse_time(value))
                .unwrap_or_else(|| {
                    // Some writers put times before 1970 there in base 256, which the crate refuses.
                    (
                        header
                            .mtime()
                            .ok()
                            .and_then(|seconds| i64::try_from(seconds).ok())
                            .unwrap_or(0),
                        0,
                    )
                }),
            path,
            target,
            xattrs: extensions
                .pax
                .iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone()))
                })
                .collect(),
        };
        self.begin(content)?;
        Ok(entry)
    }

    fn begin(&mut self, size: u64) -> Result<(), TarError> {
        if size > i64::MAX as u64 {
            return Err(TarError::Header(format!("a size of {size} bytes")));
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_MAX {
            return Err(TarError::TooLong(size));
        }
        let mut bytes = Vec::new();
        self.by_ref().take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size {
            Ok(bytes)
        } else {
            Err(TarError::Truncated)
        }
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let left = self.content + self.padding;
        self.content = 0;
        self.padding = 0;
        if io::copy(&mut self.input.by_ref().take(left), &mut io::sink())? == left {
            Ok(())
        } else {
            Err(TarError::Truncated)
        }
    }
}

/// The content of the current entry. Ends early only where the archive does, which the next
/// [`Reader::next_entry`] then reports.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.input.read(&mut buffer[..length])?;
        self.content -= read as u64;
        Ok(read)
    }
}

/// Reads until `buffer` is full or the input ends; returns how much.
///
/// # Errors
/// The input's own.
pub fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Records of `<length> <key>=<value>\n`, the length being that of the whole record (POSIX pax).
fn parse_pax(mut bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, TarError> {
    let damaged = || TarError::Header("an extended header is not made of records".into());
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or_else(damaged)?;
        let length: usize = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(damaged)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(damaged());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// Seconds since 1970 with an optional fraction, as pax writes times.
fn parse_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(bytes: &[u8]) -> Result<Vec<Entry>, TarError> {
        let mut reader = Reader::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    #[test]
    fn what_the_tar_crate_writes_is_read_back() {
        let long = format!("{}/file", "folder".repeat(40));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o4755);
        header.set_uid(70_000);
        builder
            .append_pax_extensions([("SCHILY.xattr.user.a", &b"b\nc"[..]), ("mtime", b"-1.25")])
            .unwrap();
        builder.append_data(&mut header, &long, &b"hello"[..]).unwrap();
        let archive = builder.into_inner().unwrap();

        let entries = entries(&archive).unwrap();

        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].path, long.as_bytes());
        assert_eq!(
            (entries[0].size, entries[0].mode, entries[0].uid),
            (5, 0o4755, 70_000)
        );
        assert_eq!(entries[0].mtime, (-2, 750_000_000));
        assert_eq!(entries[0].xattrs[&b"user.a"[..]], b"b\nc");
    }

    #[test]
    fn a_name_that_claims_to_be_huge_is_refused_without_being_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();

        assert!(matches!(entries(header.as_bytes()), Err(TarError::TooLong(_))));
    }

    #[test]
    fn a_file_that_is_no_tar_and_a_damaged_tar_are_different_errors() {
        assert!(matches!(entries(b"hello"), Err(TarError::NotTar)));
        assert!(matches!(entries(&[7; 2048]), Err(TarError::NotTar)));
        let mut header = Header::new_gnu();
        header.set_size(100);
        header.set_cksum();
        assert!(matches!(entries(header.as_bytes()), Err(TarError::Truncated)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000), valid: bool) {
            if valid && bytes.len() >= BLOCK {
                // A valid checksum, so that the rest of the header is parsed.
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[..BLOCK]);
                header.set_cksum();
                bytes[..BLOCK].copy_from_slice(header.as_bytes());
            }
            let _ = entries(&bytes);
        }
    }
}

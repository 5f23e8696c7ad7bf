//! Sparse files in archives, in GNU tar's form: the header has a map of the parts with data, and only these follow.
//!
//! The `tar` crate writes this form for a file that does not change meanwhile. Files of a sandbox do, so this reader returns as
//! many bytes as the map says, whatever happens to the file.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Maximum number of parts. A file with more is archived with its holes as zeros: its map would take too much memory.
const MAX_PARTS: usize = 10_000;

/// A part of a file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    length: u64,
}

/// The content of a sparse file in an archive: the rest of its map, and its parts.
pub(super) struct SparseReader {
    file: File,
    map: io::Cursor<Vec<u8>>,
    parts: std::vec::IntoIter<Part>,
    current: Part,
}

/// Describes the file in `header` and returns its content, if it has holes.
pub(super) fn read_sparse(file: &File, size: u64, header: &mut Header) -> io::Result<Option<SparseReader>> {
    // Most files have no hole, which their metadata says.
    if file.metadata()?.blocks() * 512 >= size {
        return Ok(None);
    }
    let parts = parts(file, size)?;
    // Where there is no map, the caller reads from the beginning.
    lseek(file.as_fd(), 0, Whence::SeekSet)?;
    let Some(parts) = parts else {
        return Ok(None);
    };
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(parts.iter().map(|part| part.length).sum());
    let Some(gnu) = header.as_gnu_mut() else {
        return Ok(None);
    };
    gnu.set_real_size(size);
    let (inner, rest) = parts.split_at(parts.len().min(gnu.sparse.len()));
    fill(&mut gnu.sparse, inner);
    gnu.set_is_extended(!rest.is_empty());
    let mut map = Vec::new();
    let mut rest = rest;
    while !rest.is_empty() {
        let mut more = GnuExtSparseHeader::new();
        let (here, later) = rest.split_at(rest.len().min(more.sparse().len()));
        fill(more.sparse_mut(), here);
        more.set_is_extended(!later.is_empty());
        map.extend_from_slice(more.as_bytes());
        rest = later;
    }
    Ok(Some(SparseReader {
        file: file.try_clone()?,
        map: io::Cursor::new(map),
        parts: parts.into_iter(),
        current: Part { offset: 0, length: 0 },
    }))
}

fn fill(fields: &mut [GnuSparseHeader], parts: &[Part]) {
    for (field, part) in fields.iter_mut().zip(parts) {
        field.set_offset(part.offset);
        field.set_length(part.length);
    }
}

/// The parts with data, and an empty one at the end of a file that ends with a hole; `None` if the file has no hole, the file
/// system does not say, or there are too many.
fn parts(file: &File, size: u64) -> io::Result<Option<Vec<Part>>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(offset) = seek(file, at, Whence::SeekData)?.filter(|offset| *offset < size) else {
            break;
        };
        let end = seek(file, offset, Whence::SeekHole)?.unwrap_or(size).min(size);
        if end <= offset || parts.len() >= MAX_PARTS {
            return Ok(None);
        }
        parts.push(Part {
            offset,
            length: end - offset,
        });
        at = end;
    }
    if parts
        == [Part {
            offset: 0,
            length: size,
        }]
    {
        return Ok(None);
    }
    if at < size || parts.is_empty() {
        parts.push(Part {
            offset: size,
            length: 0,
        });
    }
    Ok(Some(parts))
}

/// `None` where there is no data after `at`.
fn seek(file: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(io::Error::other)?;
    match lseek(file.as_fd(), at, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Read for SparseReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.map.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        while self.current.length == 0 {
            match self.parts.next() {
                Some(part) => self.current = part,
                None => return Ok(0),
            }
        }
        let most = usize::try_from(self.current.length)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut length = self.file.read_at(&mut buffer[..most], self.current.offset)?;
        if length == 0 {
            // The file has become shorter.
            buffer[..most].fill(0);
            length = most;
        }
        self.current.offset += length as u64;
        self.current.length -= length as u64;
        Ok(length)
    }
}

//! Log of a database server: `server.log` beside the data folder, bounded by dropping its older part.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

/// A longer log loses its older part.
const LENGTH_MAX: u64 = 4 << 20;
/// What is kept of it.
const LENGTH_KEPT: u64 = 1 << 20;
/// Bytes of a request for the log at most.
pub const TAIL_MAX: u64 = 256 << 10;

/// Opens the log for a server's output: each write goes to the end, also after [`shorten`].
///
/// # Errors
/// The file system's.
pub fn open(path: &Path) -> io::Result<File> {
    shorten(path)?;
    File::options().create(true).append(true).open(path)
}

/// Drops the older part of a log that is too long. The server keeps writing meanwhile; lines of
/// that moment may be lost.
///
/// # Errors
/// The file system's.
pub fn shorten(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > LENGTH_MAX => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let kept = tail(path, LENGTH_KEPT)?;
    let mut file = File::options().append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(kept.as_bytes())
}

/// The last whole lines, `bytes` at most; empty where there is no log.
///
/// # Errors
/// The file system's.
pub fn tail(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let from = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(from))?;
    let mut read = Vec::new();
    file.take(bytes).read_to_end(&mut read)?;
    let text = String::from_utf8_lossy(&read);
    Ok(match text.split_once('\n') {
        Some((_, rest)) if from > 0 => rest.to_owned(),
        _ => text.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_its_last_lines_and_the_server_writes_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        let mut server = open(&path).unwrap();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..(LENGTH_MAX / 1024) {
            server.write_all(line.as_bytes()).unwrap();
        }
        server.write_all(b"the last line\n").unwrap();

        shorten(&path).unwrap();
        server.write_all(b"a later line\n").unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() < usize::try_from(LENGTH_KEPT).unwrap() + 100);
        assert!(text.ends_with("the last line\na later line\n"));
        assert_eq!(tail(&path, 20).unwrap(), "a later line\n");
    }

    #[test]
    fn a_server_that_never_ran_has_an_empty_log() {
        assert_eq!(tail(Path::new("/nowhere/server.log"), 10).unwrap(), "");
    }
}

//! Writes a folder as a tar archive, in pieces, as fast as the client takes them.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::{PIECE, Subject};
use crate::{
    http::{Body, streamed},
    sandbox::Sandbox,
    user::with_rights_of,
};

/// Pieces between the thread that reads files and the connection.
const PIECES: usize = 4;

/// The folder's content. Links are links, sockets and devices are left out, other file systems
/// are not entered. What cannot be read breaks the answer off, and the sandbox's log says why.
pub(super) fn body(sandbox: &Arc<Sandbox>, subject: &Subject) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES);
    let (sandbox, subject) = (Arc::clone(sandbox), subject.clone());
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces {
            held: BytesMut::new(),
            sender: sender.clone(),
        };
        let written = with_rights_of(&subject.user, || archive(&subject.path, &mut pieces)).flatten();
        if let Err(error) = written {
            // A broken pipe is the client's going away, which is no news.
            if error.kind() != io::ErrorKind::BrokenPipe {
                sandbox
                    .logs
                    .say(format!("the archive of {} broke off: {error}", subject.shown));
            }
            let _ = sender.blocking_send(Err(error));
        }
    });
    streamed(futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}

struct Pieces {
    held: BytesMut,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = self.held.split().freeze();
        self.sender
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn archive(root: &Path, pieces: &mut Pieces) -> io::Result<()> {
    let device = fs::metadata(root)?.dev();
    let mut builder = Builder::new(pieces);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|error| at(&folder, &error))?,
        };
        for entry in entries {
            let name = folder.join(entry?.file_name());
            match add(&mut builder, root, &name, device) {
                Ok(true) => folders.push(name),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&name, &error)),
            }
        }
    }
    builder.into_inner()?.flush()
}

fn at(name: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", name.display()))
}

/// Adds one entry; whether it is a folder whose content follows.
fn add<W: Write>(builder: &mut Builder<W>, root: &Path, name: &Path, device: u64) -> io::Result<bool> {
    let path = root.join(name);
    let found = fs::symlink_metadata(&path)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&found);
    if found.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, name, fs::read_link(&path)?)?;
    } else if found.is_dir() {
        header.set_size(0);
        builder.append_data(&mut header, name, io::empty())?;
        return Ok(found.dev() == device);
    } else if found.is_file() {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        let size = file.metadata()?.size();
        header.set_size(size);
        builder.append_data(&mut header, name, Exactly { file, left: size })?;
    }
    Ok(false)
}

/// As many bytes as the header promised, whatever happens to the file meanwhile: an archive is
/// not to be read any more after an entry of another length.
struct Exactly {
    file: fs::File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut length = self.file.read(&mut buffer[..most])?;
        if length == 0 && most > 0 {
            buffer[..most].fill(0);
            length = most;
        }
        self.left -= length as u64;
        Ok(length)
    }
}

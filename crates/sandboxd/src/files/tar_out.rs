//! Tar download: streams a folder as a tar archive, as fast as the client reads it.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::{PIECE, Subject, open_beneath::path_of, sparse::read_sparse};
use crate::{
    http::{Body, streamed},
    sandbox::Sandbox,
    user::with_fs_ids_of,
};

/// Pieces in the channel between the thread that reads files and the connection.
const CHANNEL_PIECES: usize = 4;

/// Archives the open folder. Links are archived as links, sockets and devices are skipped, other file systems are not
/// entered. A read error aborts the response, and its cause goes into the sandbox's log.
pub(super) fn body(sandbox: &Arc<Sandbox>, subject: &Subject, root: OwnedFd) -> Body {
    let (sender, receiver) = mpsc::channel(CHANNEL_PIECES);
    let (sandbox, subject) = (Arc::clone(sandbox), subject.clone());
    tokio::task::spawn_blocking(move || {
        let mut pieces = ChannelWriter {
            held: BytesMut::new(),
            sender: sender.clone(),
        };
        let written = with_fs_ids_of(&subject.user, || archive(&root, &mut pieces)).flatten();
        if let Err(error) = written {
            // A broken pipe means that the client disconnected.
            if error.kind() != io::ErrorKind::BrokenPipe {
                sandbox
                    .logs
                    .add_notice(format!("the archive of {} was aborted: {error}", subject.shown));
            }
            let _ = sender.blocking_send(Err(error));
        }
    });
    streamed(futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}

struct ChannelWriter {
    held: BytesMut,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for ChannelWriter {
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

fn archive(root: &OwnedFd, pieces: &mut ChannelWriter) -> io::Result<()> {
    let device = fs::metadata(path_of(root))?.dev();
    let mut builder = Builder::new(pieces);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let here = match enter(root, &folder) {
            // Deleted or replaced meanwhile.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            here => here.map_err(|error| at(&folder, &error))?,
        };
        for entry in fs::read_dir(path_of(&here)).map_err(|error| at(&folder, &error))? {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            match add(&mut builder, &entry.path(), &name, device) {
                Ok(true) => folders.push(name),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&name, &error)),
            }
        }
    }
    builder.into_inner()?.flush()
}

/// Opens a folder below `root`, part by part, so that no symbolic link is followed.
fn enter(root: &OwnedFd, folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here = root.try_clone()?;
    for part in folder {
        here = openat(&here, part, flags, Mode::empty())?;
    }
    Ok(here)
}

fn at(name: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", name.display()))
}

/// Adds one entry. Returns whether it is a folder whose content follows.
fn add<W: Write>(builder: &mut Builder<W>, path: &Path, name: &Path, device: u64) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&found);
    if found.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if found.is_dir() {
        header.set_size(0);
        builder.append_data(&mut header, name, io::empty())?;
        return Ok(found.dev() == device);
    } else if found.is_file() {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let size = file.metadata()?.size();
        header.set_size(size);
        match read_sparse(&file, size, &mut header)? {
            Some(content) => builder.append_data(&mut header, name, content)?,
            None => builder.append_data(&mut header, name, ExactLengthReader { file, left: size })?,
        }
    }
    Ok(false)
}

/// Reads as many bytes as the entry's header says, even if the file's size changes meanwhile: an
/// archive is unreadable after an entry of another length.
struct ExactLengthReader {
    file: fs::File,
    left: u64,
}

impl Read for ExactLengthReader {
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

//! Unpacking pipeline: one thread reads, hashes and decompresses, another writes, so that two
//! processors are busy.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use sha2::{Digest as _, Sha256};

use super::{DeferredLink, Limits, Rules, UnpackError, tree};
use crate::images::{
    DiffId, Digest, LayerBlob, UnpackedLayer, compression,
    tarball::{self, TarError},
};

/// Bytes that are handed from one thread to the other at a time.
pub(super) const CHUNK: usize = 256 << 10;
/// gzip cannot exceed 1:1032; zstd can, but no real layer does.
const RATIO_MAX: u64 = 1_000;
/// Bytes up to which the ratio is not checked.
const RATIO_UNCHECKED: u64 = 64 << 20;
/// Chunks in the channel between the two: 4 MiB.
const CHUNKS: usize = 16;

/// Fills `root` with the layer, and verifies both of its digests. It ends early when `stopped` is set.
pub(super) fn write_layer(
    blob: File,
    layer: &LayerBlob,
    root: &OwnedFd,
    rules: Rules,
    limits: Limits,
    stopped: &AtomicBool,
) -> Result<(UnpackedLayer, Vec<DeferredLink>), UnpackError> {
    let read = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(CHUNKS);
        let counter = Arc::clone(&read);
        let decompressor = thread::Builder::new()
            .name("layer-decompress".into())
            .spawn_scoped(scope, move || {
                decompress(blob, layer, limits, stopped, &counter, &sender)
            })
            .map_err(|error| UnpackError::Machine {
                what: "a thread could not be started",
                error,
            })?;
        let written = tree::write(
            Chunks {
                receiver,
                chunk: Vec::new(),
                at: 0,
            },
            root,
            rules,
            limits,
            b"",
        );
        // The receiver is gone, so the thread ends.
        let decompressed = decompressor.join().unwrap_or_else(|_| {
            let error = io::Error::other("the thread that decompresses it panicked");
            Err(Some(UnpackError::Machine {
                what: "the layer could not be read",
                error,
            }))
        });
        match (written, decompressed) {
            // The cause, rather than the error that followed from it.
            (_, Err(Some(error))) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(written), Ok(())) => Ok(written),
            (Ok(_), Err(None)) => Err(TarError::Truncated.into()),
        }
    })
}

/// Sends the blob's uncompressed content, and then verifies both digests. `Err(None)`: the other
/// side stopped.
fn decompress(
    blob: File,
    layer: &LayerBlob,
    limits: Limits,
    stopped: &AtomicBool,
    counter: &AtomicU64,
    sender: &mpsc::SyncSender<Vec<u8>>,
) -> Result<(), Option<UnpackError>> {
    let damaged = |e| Some(UnpackError::Damaged(e));
    let mut input = BufReader::with_capacity(
        CHUNK,
        Hashing {
            input: blob,
            hash: Sha256::new(),
            counter,
        },
    );
    let mut diff = Sha256::new();
    let mut unpacked = 0;
    {
        let mut plain = compression::reader(&mut input).map_err(damaged)?;
        loop {
            let mut chunk = vec![0; CHUNK];
            let filled = tarball::read_full(&mut plain, &mut chunk).map_err(damaged)?;
            if filled == 0 {
                break;
            }
            if stopped.load(Ordering::Relaxed) {
                return Err(Some(UnpackError::Stopped));
            }
            unpacked += filled as u64;
            check_size(unpacked, counter.load(Ordering::Relaxed), limits).map_err(Some)?;
            chunk.truncate(filled);
            diff.update(&chunk);
            sender.send(chunk).map_err(|_| None)?;
        }
    }
    // What follows the compressed stream is part of the blob too.
    io::copy(&mut input, &mut io::sink()).map_err(damaged)?;
    let found = Digest::finish(input.into_inner().hash);
    if found != layer.blob {
        return Err(Some(UnpackError::WrongDigest {
            expected: layer.blob,
            found,
        }));
    }
    let found = DiffId::from(Digest::finish(diff));
    if found != layer.diff_id {
        return Err(Some(UnpackError::WrongDiffId {
            expected: layer.diff_id,
            found,
        }));
    }
    Ok(())
}

/// Limits of what comes out of the decompressor, whatever the tar makes of it: contents, entries that
/// are skipped, what follows the last entry.
fn check_size(unpacked: u64, compressed: u64, limits: Limits) -> Result<(), UnpackError> {
    if unpacked > limits.bytes {
        return Err(UnpackError::TooLarge(format!("{} GB", limits.bytes >> 30)));
    }
    if unpacked / RATIO_MAX > compressed.max(RATIO_UNCHECKED / RATIO_MAX) {
        return Err(UnpackError::TooLarge(format!(
            "{RATIO_MAX} times its compressed size"
        )));
    }
    Ok(())
}

struct Hashing<'a> {
    input: File,
    hash: Sha256,
    counter: &'a AtomicU64,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.counter.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

struct Chunks {
    receiver: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len() - self.at);
        buffer[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_expands_a_thousandfold_is_refused() {
        let limits = Limits::default();
        let gib = 1 << 30;
        assert!(check_size(RATIO_UNCHECKED, 1, limits).is_ok());
        assert!(check_size(gib, gib / 900, limits).is_ok());
        let error = check_size(gib, gib / 1100, limits).unwrap_err().to_string();
        assert!(error.contains("1000 times its compressed size"), "{error}");
        let error = check_size(65 * gib, 65 * gib, limits).unwrap_err().to_string();
        assert!(error.contains("64 GB"), "{error}");
    }
}

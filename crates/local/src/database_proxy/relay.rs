//! Bidirectional copy between a client in a sandbox and its PostgreSQL backend, which also reads
//! the connection's cancel key.
//!
//! An idle connection holds no buffer. The relay takes one from a shared pool when there is data to read, and
//! returns it when there is no more. (tokio's `copy_bidirectional` keeps two buffers per connection.)

use std::{future::Future, io};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream, tcp, unix},
};

const BUFFER: usize = 32 * 1024;
/// Maximum of unused buffers in the pool: 2 MiB in total.
const POOL_MAX: usize = 64;

/// Pool of unused buffers.
#[derive(Default)]
pub struct BufferPool(Mutex<Vec<Box<[u8]>>>);

struct PooledBuffer<'a> {
    buffers: &'a BufferPool,
    buffer: Box<[u8]>,
}

impl BufferPool {
    fn take(&self) -> PooledBuffer<'_> {
        let buffer = self.0.lock().pop().unwrap_or_else(|| vec![0; BUFFER].into());
        PooledBuffer {
            buffers: self,
            buffer,
        }
    }
}

impl Drop for PooledBuffer<'_> {
    fn drop(&mut self) {
        let mut kept = self.buffers.0.lock();
        if kept.len() < POOL_MAX {
            kept.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// A half of a socket whose readability can be awaited.
trait Readable {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

macro_rules! readable {
    ($half:ty) => {
        impl Readable for $half {
            fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
                <$half>::readable(self)
            }
            fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
                <$half>::try_read(self, buffer)
            }
        }
    };
}
readable!(tcp::ReadHalf<'_>);
readable!(unix::ReadHalf<'_>);

/// Copies in both directions until the backend has ended the connection and all that it sent is forwarded, or
/// one side fails. A client that has closed only its direction still receives the responses. `key` is called
/// once with the client's cancel key.
pub async fn relay(
    client: &mut TcpStream,
    server: &mut UnixStream,
    buffers: &BufferPool,
    key: impl FnOnce(Vec<u8>) + Send,
) -> io::Result<()> {
    let (from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut greeting = Greeting::default();
    let mut key = Some(key);
    let down = pump(&from_server, &mut to_client, buffers, |bytes| {
        if !greeting.done {
            greeting.feed(bytes);
            if greeting.done
                && !greeting.key.is_empty()
                && let Some(key) = key.take()
            {
                key(std::mem::take(&mut greeting.key));
            }
        }
    });
    let up = async {
        let ended = pump(&from_client, &mut to_server, buffers, |_| {}).await;
        match ended {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        ended = down => ended,
        error = up => Err(error),
    }
}

/// Copies until the end of `from`, then ends `to`.
async fn pump(
    from: &(impl Readable + Sync),
    to: &mut (impl AsyncWrite + Unpin),
    buffers: &BufferPool,
    mut inspect: impl FnMut(&[u8]),
) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer_guard = buffers.take();
        loop {
            match from.try_read(&mut buffer_guard.buffer) {
                Ok(0) => return to.shutdown().await,
                Ok(read) => {
                    let bytes = &buffer_guard.buffer[..read];
                    // Registers the key before the client has it.
                    inspect(bytes);
                    to.write_all(bytes).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Parser of a backend's first messages (a type byte, a length that counts itself, a body) up to
/// ReadyForQuery. It extracts BackendKeyData's body.
#[derive(Default)]
struct Greeting {
    header: Vec<u8>,
    /// Remaining bytes of the current message's body.
    body: usize,
    capturing: bool,
    key: Vec<u8>,
    done: bool,
}

impl Greeting {
    /// Valid lengths of a key: process id and secret.
    const KEY: std::ops::RangeInclusive<usize> = 8..=4 + 256;

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.done {
            if self.body > 0 {
                let taken = self.body.min(bytes.len());
                if self.capturing {
                    self.key.extend(&bytes[..taken]);
                }
                self.body -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let [kind, length @ ..] = self.header.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.body = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                self.capturing = *kind == b'K' && Self::KEY.contains(&self.body) && self.key.is_empty();
                self.done = *kind == b'Z';
                self.header.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    proptest! {
        #[test]
        fn the_key_is_found_however_the_bytes_are_cut(
            secret in proptest::collection::vec(any::<u8>(), 4..=256),
            notice in proptest::collection::vec(any::<u8>(), 0..50),
            cuts in proptest::collection::vec(1_usize..40, 1..60),
        ) {
            let key = [&[0, 0, 4, 2][..], &secret].concat();
            let stream = [
                message(b'R', &[0, 0, 0, 0]), message(b'S', b"a\0b\0"), message(b'N', &notice),
                message(b'K', &key), message(b'Z', b"I"), message(b'K', b"a row, not a key"),
            ].concat();
            let mut greeting = Greeting::default();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at(rest.len().min(*cut));
                greeting.feed(now);
                rest = later;
            }
            prop_assert!(greeting.done);
            prop_assert_eq!(greeting.key, key);
        }

        #[test]
        fn no_bytes_make_it_grow(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut greeting = Greeting::default();
            greeting.feed(&bytes);
            prop_assert!(greeting.header.len() < 5 && greeting.key.len() <= 260);
        }
    }
}

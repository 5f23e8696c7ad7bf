//! Bidirectional tunnel between two connections, after an upgrade: copies the bytes of each side to the other
//! unchanged.
//!
//! WebSocket frames are not parsed except for the lengths of those sent to the client. When the tunnel must
//! end, a close frame can then be inserted between two frames, so the client learns the reason and whether to
//! reconnect.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::Instant,
};
/// Initial and maximum size of a read, in bytes. An idle tunnel holds a small buffer; one that fills its buffer
/// gets a larger one.
const FIRST_BUFFER: usize = 4 * 1024;
const LARGEST_BUFFER: usize = 128 * 1024;
/// Idle timeout: a tunnel without a byte for this long is closed, because its client is gone.
const IDLE: Duration = Duration::from_secs(12 * 60 * 60);
/// Timeout for the rest of a frame and a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The protocol in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelProtocol {
    WebSocket,
    /// An unknown protocol.
    Other,
}

/// Why the server ends a tunnel; the status of the close frame (RFC 6455 §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The server restarts; the client should reconnect soon.
    Restarting = 1012,
    /// The user is no longer authorized.
    Refused = 1008,
}

impl CloseReason {
    /// A close frame of a server (unmasked): FIN and opcode 8, length 2, the status.
    const fn frame(self) -> [u8; 4] {
        let status = (self as u16).to_be_bytes();
        [0x88, 2, status[0], status[1]]
    }
}

/// Copies both ways until both sides have ended, the client fails, or `end` is ready. `read` holds bytes
/// already read from the server side.
///
/// A server that is done may close before it has read everything from the client. Its last bytes must still
/// reach the client, so its side is read to the end, and further bytes of the client are read and discarded.
/// Otherwise TCP resets a connection that is closed with unread data, and the client loses what it had not read
/// yet (RFC 1122 §4.2.2.13).
pub async fn relay(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
    read: Bytes,
    protocol: TunnelProtocol,
    end: impl Future<Output = CloseReason>,
) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let last = parking_lot::Mutex::new(Instant::now());
    let (mut upward, mut downward) = (BytesMut::new(), BytesMut::from(read));
    let mut frames = (protocol == TunnelProtocol::WebSocket).then(Frames::default);
    let up = async {
        match copy(&mut from_client, &mut to_server, &mut upward, None, &last).await {
            Err(CopyError::Target(_)) => discard(&mut from_client).await,
            Err(CopyError::Source(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    };
    let down = async {
        let frames = frames.as_mut();
        match copy(&mut from_server, &mut to_client, &mut downward, frames, &last).await {
            Err(CopyError::Source(_)) => to_client.shutdown().await,
            Err(CopyError::Target(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    };
    let reason = {
        let mut end = std::pin::pin!(end);
        let mut both = std::pin::pin!(async {
            let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
            tokio::select! {
                ended = &mut up => {
                    ended?;
                    down.await
                }
                ended = &mut down => {
                    ended?;
                    match protocol {
                        // A side that closes a WebSocket's connection stops reading.
                        TunnelProtocol::WebSocket => tokio::time::timeout(CLOSE_TIMEOUT, up).await.unwrap_or(Ok(())),
                        TunnelProtocol::Other => up.await,
                    }
                }
            }
        });
        let mut idle = std::pin::pin!(tokio::time::sleep(IDLE));
        loop {
            tokio::select! {
                biased;
                reason = &mut end => break Some(reason),
                ended = &mut both => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a tunnel failed");
                    }
                    break None;
                }
                () = &mut idle => {
                    let since = *last.lock();
                    if since.elapsed() >= IDLE {
                        break None;
                    }
                    idle.as_mut().reset(since + IDLE);
                }
            }
        }
    };
    if let (Some(reason), Some(frames)) = (reason, frames) {
        let close = send_close(&mut from_server, &mut to_client, downward, frames, reason);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
    }
}

/// Which side of a copy failed.
enum CopyError {
    Source(io::Error),
    Target(io::Error),
}

/// Copies one direction until its source ends, then shuts the target down. If it is dropped at any point,
/// `buffer` holds the bytes read but not written, and `frames` has processed the bytes written.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    buffer: &mut BytesMut,
    mut frames: Option<&mut Frames>,
    last: &parking_lot::Mutex<Instant>,
) -> Result<(), CopyError> {
    let mut size = FIRST_BUFFER;
    loop {
        while !buffer.is_empty() {
            let written = to.write(buffer).await.map_err(CopyError::Target)?;
            if written == 0 {
                return Err(CopyError::Target(io::ErrorKind::WriteZero.into()));
            }
            if let Some(frames) = &mut frames {
                frames.advance(&buffer[..written]);
            }
            let _ = buffer.split_to(written);
        }
        to.flush().await.map_err(CopyError::Target)?;
        buffer.reserve(size);
        let read = from.read_buf(buffer).await.map_err(CopyError::Source)?;
        if read == 0 {
            return to.shutdown().await.map_err(CopyError::Target);
        }
        *last.lock() = Instant::now();
        if read >= size {
            size = (size * 4).min(LARGEST_BUFFER);
        } else if read < size / 8 && size > FIRST_BUFFER {
            size /= 2;
            *buffer = buffer.split();
        }
    }
}

/// Reads to the end and discards the bytes.
async fn discard(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    tokio::io::copy(from, &mut tokio::io::sink()).await.map(drop)
}

/// Sends the rest of the frame in flight, then a close frame.
async fn send_close(
    from_server: &mut (impl AsyncRead + Unpin),
    to_client: &mut (impl AsyncWrite + Unpin),
    mut buffer: BytesMut,
    mut frames: Frames,
    reason: CloseReason,
) -> io::Result<()> {
    while let Some(missing) = frames.missing() {
        if buffer.is_empty() {
            buffer.reserve(FIRST_BUFFER);
            if from_server.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let here = usize::try_from(missing).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.split_to(here);
        frames.advance(&piece);
        to_client.write_all(&piece).await?;
    }
    to_client.write_all(&reason.frame()).await?;
    to_client.shutdown().await
}

/// Parser position within a stream of WebSocket frames.
#[derive(Debug, Default)]
struct Frames {
    /// The bytes of an incomplete header (at most 14).
    header: Vec<u8>,
    /// Bytes of payload still to come.
    payload: u64,
}

impl Frames {
    /// Processes bytes that were forwarded.
    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let here = usize::try_from(self.payload)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                self.payload -= here as u64;
                bytes = &bytes[here..];
                continue;
            }
            let needed = header_length(&self.header).max(2);
            let here = (needed - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..here]);
            bytes = &bytes[here..];
            if self.header.len() >= 2 && self.header.len() == header_length(&self.header) {
                self.payload = payload_length(&self.header);
                self.header.clear();
            }
        }
    }

    /// The minimum number of bytes until the frame ends; `None` between two frames.
    fn missing(&self) -> Option<u64> {
        match (self.header.len(), self.payload) {
            (0, 0) => None,
            (0, payload) => Some(payload),
            (some, _) => Some((header_length(&self.header).max(2) - some) as u64),
        }
    }
}

/// RFC 6455 §5.2: two bytes, the extended length, the mask. 0 if not known yet.
fn header_length(header: &[u8]) -> usize {
    let Some(&second) = header.get(1) else {
        return 0;
    };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    2 + extended + mask
}

fn payload_length(header: &[u8]) -> u64 {
    let extended = match header[1] & 0x7f {
        126 => &header[2..4],
        127 => &header[2..10],
        short => return u64::from(short),
    };
    extended
        .iter()
        .fold(0, |length, &byte| length << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend(std::iter::repeat_n(b'x', length));
        frame
    }

    proptest! {
        #[test]
        fn frame_ends_are_found_across_chunk_boundaries(
            lengths in proptest::collection::vec((prop_oneof![0_usize..130, 60_000_usize..70_000], any::<bool>()), 1..5),
            cut in 1_usize..5000,
        ) {
            let all: Vec<u8> = lengths.iter().flat_map(|&(length, masked)| frame(length, masked)).collect();
            let mut frames = Frames::default();
            for piece in all.chunks(cut) {
                frames.advance(piece);
            }
            prop_assert_eq!(frames.missing(), None);
            frames.advance(&[0x82]);
            prop_assert_eq!(frames.missing(), Some(1));
            frames.advance(&[5, b'x']);
            prop_assert_eq!(frames.missing(), Some(4));
        }
    }

    #[tokio::test]
    async fn a_close_frame_is_sent_between_two_frames() {
        let (client, mut browser) = tokio::io::duplex(64);
        let (server, mut sandbox) = tokio::io::duplex(64);
        let (drain, drained) = tokio::sync::oneshot::channel();
        let end = async {
            let _ = drained.await;
            CloseReason::Restarting
        };
        let begun = Bytes::from_static(&[0x82, 4, b'a']);
        let relay = relay(client, server, begun, TunnelProtocol::WebSocket, end);
        let story = async {
            let mut begun = [0; 3];
            browser.read_exact(&mut begun).await.unwrap();
            drain.send(()).unwrap();
            sandbox.write_all(b"bcd\x82\x01e").await.unwrap();
            let mut rest = Vec::new();
            browser.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let ((), rest) = tokio::join!(relay, story);
        assert_eq!(rest, b"bcd\x88\x02\x03\xf4");
    }

    #[tokio::test]
    async fn a_half_close_is_forwarded() {
        let (client, mut browser) = tokio::io::duplex(64);
        let (server, mut sandbox) = tokio::io::duplex(64);
        let relay = relay(
            client,
            server,
            Bytes::new(),
            TunnelProtocol::Other,
            std::future::pending(),
        );
        let story = async {
            browser.write_all(b"question").await.unwrap();
            browser.shutdown().await.unwrap();
            let mut question = Vec::new();
            sandbox.read_to_end(&mut question).await.unwrap();
            sandbox.write_all(b"answer").await.unwrap();
            drop(sandbox);
            let mut answer = Vec::new();
            browser.read_to_end(&mut answer).await.unwrap();
            (question, answer)
        };
        let ((), (question, answer)) = tokio::join!(relay, story);
        assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
    }

    #[tokio::test]
    async fn the_last_bytes_of_a_closed_server_reach_the_client() {
        let (client, mut browser) = tokio::io::duplex(64);
        let (server, mut sandbox) = tokio::net::UnixStream::pair().unwrap();
        sandbox.write_all(&[b'x'; 200]).await.unwrap();
        drop(sandbox);
        let end = std::future::pending();
        let relay = relay(client, server, Bytes::new(), TunnelProtocol::WebSocket, end);
        let story = async {
            // More than the relay can buffer, to a client that is gone.
            browser.write_all(b"a late message").await.unwrap();
            tokio::task::yield_now().await;
            let mut last = Vec::new();
            browser.read_to_end(&mut last).await.unwrap();
            browser.write_all(b"another one").await.unwrap();
            browser.shutdown().await.unwrap();
            last.len()
        };
        let ((), length) = tokio::join!(relay, story);
        assert_eq!(length, 200);
    }
}

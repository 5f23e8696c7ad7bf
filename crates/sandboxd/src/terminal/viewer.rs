//! Terminal viewer: one WebSocket that speaks ttyd's protocol, with input deduplication when the client requests it
//! ([`fsa_model::tty`]).

use std::{io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use fsa_model::tty::{self, ClientMessage, InputSequence, OUTPUT, TITLE, WindowSize, parse};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    TerminalRequest, Terminals,
    session::Session,
    viewer_handle::{Next, ViewerHandle},
};
use crate::{
    http::websocket::{PEER_TIMEOUT, PING_INTERVAL, Socket},
    logs::shortened,
    sandbox::Sandbox,
};

/// Timeout for the first message, and for the closing one.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Input bytes that wait for the program to read them; beyond, the viewer's connection is not read.
const MAX_WAITING_INPUT: usize = 256 * 1024;
/// Bytes of a replay in one message.
const PIECE: usize = 64 * 1024;
/// Size when the first message has none.
const DEFAULT_SIZE: WindowSize = WindowSize {
    columns: 80,
    rows: 24,
};
/// Resets a terminal in any state before a replay: ends an incomplete sequence, resets modes and
/// colors, leaves the alternate screen, clears.
const RESET: &[u8] = b"\x18\x1b[!p\x1b[?1049l\x1b[?1000;1002;1003;1004;1006;2004l\x1b[m\x1b[H\x1b[2J";

type Sender = SplitSink<Socket, Message>;

/// Serves the viewer until it disconnects or the session ends. `hello_needs_token`: the first message
/// must carry the terminal's token, because the request did not.
pub async fn serve(
    terminals: Arc<Terminals>,
    socket: Socket,
    request: TerminalRequest,
    hello_needs_token: bool,
) {
    let (mut sender, mut receiver) = socket.split();
    let mut begins_at = 0;
    let admitted = match timeout(HELLO_TIMEOUT, hello(&mut receiver)).await {
        Ok(Some(hello)) => {
            let from = hello.input_sequence.as_ref().map(|sequence| sequence.from);
            begins_at = from.unwrap_or(0);
            let admitted = admit(&terminals, &request, hello_needs_token, hello);
            // A refused viewer also gets an acknowledgment first, so that it knows that this session sends them.
            if let (Err(_), Some(from)) = (&admitted, from) {
                let _ = sender.send(Message::Binary(tty::input_ack(from).into())).await;
            }
            admitted
        }
        Ok(None) => return,
        Err(_) => Err((
            CloseCode::Policy,
            "the first message did not come within ten seconds".into(),
        )),
    };
    let close = match admitted {
        Ok(viewer) => tokio::select! {
            close = send_output(&viewer, &mut sender) => close,
            close = receive_input(&terminals.sandbox, &viewer, request.read_only, begins_at, &mut receiver) => close,
        },
        Err((code, sentence)) => {
            let _ = sender.send(line(&sentence)).await;
            Some((code, sentence))
        }
    };
    if let Some((code, sentence)) = close {
        let frame = CloseFrame {
            code,
            // A reason has at most 123 bytes (RFC 6455, section 5.5).
            reason: shortened(&sentence, 123).to_owned().into(),
        };
        let closing = async {
            sender.send(Message::Close(Some(frame))).await?;
            sender.flush().await
        };
        let _ = timeout(HELLO_TIMEOUT, closing).await;
    }
}

type Close = (CloseCode, String);

/// A viewer's first message.
struct Hello {
    token: String,
    size: Option<WindowSize>,
    input_sequence: Option<InputSequence>,
}

fn admit(
    terminals: &Arc<Terminals>,
    request: &TerminalRequest,
    hello_needs_token: bool,
    hello: Hello,
) -> Result<ViewerHandle, Close> {
    let Hello {
        token,
        size,
        input_sequence,
    } = hello;
    if hello_needs_token
        && terminals
            .sandbox
            .terminal_token
            .as_ref()
            .is_some_and(|expected| !expected.is(&token))
    {
        return Err((
            CloseCode::Policy,
            "the terminal's token is missing or wrong".into(),
        ));
    }
    let session: Arc<Session> = terminals
        .open(request, size.unwrap_or(DEFAULT_SIZE))
        .map_err(|error| (CloseCode::Error, error.message))?;
    // A read-only viewer neither sets the size nor sends input.
    let may_type = !request.read_only;
    session
        .add_viewer(size.filter(|_| may_type), input_sequence.filter(|_| may_type))
        .map_err(|sentence| (CloseCode::Again, sentence))
}

/// Receives the first message. `None` when the viewer disconnected or does not speak the protocol.
async fn hello(receiver: &mut SplitStream<Socket>) -> Option<Hello> {
    loop {
        let message = receiver.next().await?.ok()?;
        match &message {
            Message::Text(_) | Message::Binary(_) => {}
            Message::Close(_) => return None,
            _ => continue,
        }
        return match parse(&message.into_data()) {
            Ok(ClientMessage::Hello {
                token,
                size,
                input_sequence,
            }) => Some(Hello {
                token,
                size,
                input_sequence,
            }),
            _ => None,
        };
    }
}

/// Sends output until the session ends. Returns how to close; `None` when the viewer is gone.
async fn send_output(viewer: &ViewerHandle, sender: &mut Sender) -> Option<Close> {
    let mut buffer = BytesMut::new();
    let mut ping_at = Instant::now() + PING_INTERVAL;
    loop {
        match viewer.next(&mut buffer) {
            Next::Output(message) => send(sender, message).await.ok()?,
            Next::Replay { bytes, again } => {
                if again {
                    send(sender, with_kind(OUTPUT, RESET)).await.ok()?;
                }
                for piece in bytes.chunks(PIECE) {
                    send(sender, with_kind(OUTPUT, piece)).await.ok()?;
                }
            }
            Next::Title(title) => send(sender, with_kind(TITLE, title.as_bytes())).await.ok()?,
            Next::InputAck(count) => send(sender, tty::input_ack(count).into()).await.ok()?,
            Next::Ended(sentence) => {
                sender.send(line(&sentence)).await.ok()?;
                return Some((CloseCode::Normal, sentence));
            }
            Next::Nothing => tokio::select! {
                () = viewer.woken() => {}
                () = sleep_until(ping_at) => {}
            },
        }
        if Instant::now() >= ping_at {
            sender.send(Message::Ping(Bytes::new())).await.ok()?;
            ping_at = Instant::now() + PING_INTERVAL;
        }
    }
}

async fn send(sender: &mut Sender, message: Bytes) -> Result<(), Error> {
    sender.send(Message::Binary(message)).await
}

fn with_kind(kind: u8, bytes: &[u8]) -> Bytes {
    [&[kind], bytes].concat().into()
}

/// Message of sandboxd itself, on a separate line and dimmed.
fn line(sentence: &str) -> Message {
    Message::Binary(with_kind(
        OUTPUT,
        format!("\r\n\x1b[0;2m[{sentence}]\x1b[0m\r\n").as_bytes(),
    ))
}

/// Receives the viewer's messages; `at` is the sequence number of its first input byte. Returns how to close; `None`
/// when the viewer is gone.
async fn receive_input(
    sandbox: &Sandbox,
    viewer: &ViewerHandle,
    read_only: bool,
    mut at: u64,
    receiver: &mut SplitStream<Socket>,
) -> Option<Close> {
    let mut waiting = BytesMut::new();
    let mut silent_at = Instant::now() + PEER_TIMEOUT;
    loop {
        let reads = waiting.len() <= MAX_WAITING_INPUT;
        let message = tokio::select! {
            message = receiver.next(), if reads => message,
            written = viewer.write_input(at, &waiting), if !waiting.is_empty() => {
                at += advance(&mut waiting, written);
                continue;
            }
            // While the connection is not read, silence means nothing.
            () = sleep_until(silent_at), if reads => return None,
        };
        silent_at = Instant::now() + PEER_TIMEOUT;
        let message = match message {
            Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => message.into_data(),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => continue,
        };
        match parse(&message) {
            Ok(ClientMessage::Input(_) | ClientMessage::Resize(_) | ClientMessage::Hello { .. })
                if read_only => {}
            Ok(ClientMessage::Input(bytes)) => {
                viewer.activate(None);
                waiting.extend_from_slice(bytes);
                if bytes.contains(&b'\r') {
                    sandbox.poll_trigger.notify();
                }
            }
            Ok(ClientMessage::Resize(size)) => viewer.activate(Some(size)),
            Ok(ClientMessage::Pause) => viewer.pause(true),
            Ok(ClientMessage::Resume) => viewer.pause(false),
            // Some clients send a second hello to repeat their size.
            Ok(ClientMessage::Hello { size, .. }) => viewer.activate(size),
            Err(error) => return Some((CloseCode::Unsupported, error.to_string())),
        }
    }
}

/// Drops the bytes that are done. Returns how many.
fn advance(waiting: &mut BytesMut, written: io::Result<usize>) -> u64 {
    // A write fails when the shell has ended; `send_output` reports that.
    let length = written.unwrap_or(waiting.len());
    waiting.advance(length);
    if waiting.is_empty() {
        // Release the memory of a large paste.
        *waiting = BytesMut::new();
    }
    length as u64
}

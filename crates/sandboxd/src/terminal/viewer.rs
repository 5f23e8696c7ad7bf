//! One viewer of a terminal: a WebSocket that speaks ttyd's protocol, and counts its input if it wants to
//! ([`fsa_model::tty`]).

use std::{io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use fsa_model::tty::{self, ClientMessage, OUTPUT, TITLE, Typist, WindowSize, parse};
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
    Wish,
    chair::{Chair, Next},
    session::Session,
};
use crate::{
    http::socket::{PING_EVERY, SILENT_FOR, Socket},
    logs::shortened,
    sandbox::Sandbox,
};

/// Within which the first message must come.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Typed text that waits for the program to read it; beyond, the viewer is not read any more.
const INPUT_LIMIT: usize = 256 * 1024;
/// Of a replay, in one message.
const PIECE: usize = 64 * 1024;
/// Where a hello does not say.
const DEFAULT_SIZE: WindowSize = WindowSize {
    columns: 80,
    rows: 24,
};
/// Brings a terminal in whatever state to one in which a replay is right: ends a half sequence,
/// resets modes and colors, leaves the alternate screen, clears.
const RESET: &[u8] = b"\x18\x1b[!p\x1b[?1049l\x1b[?1000;1002;1003;1004;1006;2004l\x1b[m\x1b[H\x1b[2J";

type Sender = SplitSink<Socket, Message>;

/// Serves the viewer until it goes away or the session is over. `must_say_token`: the hello must
/// carry the terminal's token, because the request did not.
pub async fn attend(sandbox: Arc<Sandbox>, socket: Socket, wish: Wish, must_say_token: bool) {
    let (mut sender, mut receiver) = socket.split();
    let mut begins_at = 0;
    let welcome = match timeout(HELLO_WITHIN, hello(&mut receiver)).await {
        Ok(Some(hello)) => {
            let counted = hello.typist.as_ref().map(|typist| typist.from);
            begins_at = counted.unwrap_or(0);
            let welcome = admit(&sandbox, &wish, must_say_token, hello);
            // Also who is sent away hears first that what it types is counted here.
            if let (Err(_), Some(from)) = (&welcome, counted) {
                let _ = sender.send(Message::Binary(tty::taken(from).into())).await;
            }
            welcome
        }
        Ok(None) => return,
        Err(_) => Err((
            CloseCode::Policy,
            "the first message did not come within ten seconds".into(),
        )),
    };
    let close = match welcome {
        Ok(chair) => tokio::select! {
            close = show(&chair, &mut sender) => close,
            close = listen(&sandbox, &chair, wish.watches, begins_at, &mut receiver) => close,
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
        let farewell = async {
            sender.send(Message::Close(Some(frame))).await?;
            sender.flush().await
        };
        let _ = timeout(HELLO_WITHIN, farewell).await;
    }
}

type Close = (CloseCode, String);

/// A viewer's first message.
struct Hello {
    token: String,
    size: Option<WindowSize>,
    typist: Option<Typist>,
}

fn admit(sandbox: &Arc<Sandbox>, wish: &Wish, must_say_token: bool, hello: Hello) -> Result<Chair, Close> {
    let Hello { token, size, typist } = hello;
    if must_say_token
        && sandbox
            .terminal_token
            .as_ref()
            .is_some_and(|wanted| !wanted.is(&token))
    {
        return Err((
            CloseCode::Policy,
            "the terminal's token is missing or wrong".into(),
        ));
    }
    let session: Arc<Session> = sandbox
        .terminals
        .open(sandbox, wish, size.unwrap_or(DEFAULT_SIZE))
        .map_err(|refusal| (CloseCode::Error, refusal.message))?;
    // Whoever watches has no say in the size, and types nothing that could be counted.
    session
        .sit(size.filter(|_| !wish.watches), typist.filter(|_| !wish.watches))
        .map_err(|sentence| (CloseCode::Again, sentence))
}

/// The first message. Nothing where the viewer went away, or does not speak the protocol.
async fn hello(receiver: &mut SplitStream<Socket>) -> Option<Hello> {
    loop {
        let message = receiver.next().await?.ok()?;
        match &message {
            Message::Text(_) | Message::Binary(_) => {}
            Message::Close(_) => return None,
            _ => continue,
        }
        return match parse(&message.into_data()) {
            Ok(ClientMessage::Hello { token, size, typist }) => Some(Hello { token, size, typist }),
            _ => None,
        };
    }
}

/// Sends what there is to see. How to close; nothing where the viewer is gone.
async fn show(chair: &Chair, sender: &mut Sender) -> Option<Close> {
    let mut buffer = BytesMut::new();
    let mut ping_at = Instant::now() + PING_EVERY;
    loop {
        match chair.next(&mut buffer) {
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
            Next::Taken(count) => send(sender, tty::taken(count).into()).await.ok()?,
            Next::Ended(sentence) => {
                sender.send(line(&sentence)).await.ok()?;
                return Some((CloseCode::Normal, sentence));
            }
            Next::Nothing => tokio::select! {
                () = chair.woken() => {}
                () = sleep_until(ping_at) => {}
            },
        }
        if Instant::now() >= ping_at {
            sender.send(Message::Ping(Bytes::new())).await.ok()?;
            ping_at = Instant::now() + PING_EVERY;
        }
    }
}

async fn send(sender: &mut Sender, message: Bytes) -> Result<(), Error> {
    sender.send(Message::Binary(message)).await
}

fn with_kind(kind: u8, bytes: &[u8]) -> Bytes {
    [&[kind], bytes].concat().into()
}

/// A sentence of ours, on a line of its own and dimmed.
fn line(sentence: &str) -> Message {
    Message::Binary(with_kind(
        OUTPUT,
        format!("\r\n\x1b[0;2m[{sentence}]\x1b[0m\r\n").as_bytes(),
    ))
}

/// Takes what the viewer sends; `at` is the number of the byte with which its input begins. How to close; nothing
/// where it is gone.
async fn listen(
    sandbox: &Sandbox,
    chair: &Chair,
    watches: bool,
    mut at: u64,
    receiver: &mut SplitStream<Socket>,
) -> Option<Close> {
    let mut waiting = BytesMut::new();
    let mut silent_at = Instant::now() + SILENT_FOR;
    loop {
        let reads = waiting.len() <= INPUT_LIMIT;
        let message = tokio::select! {
            message = receiver.next(), if reads => message,
            written = chair.type_some(at, &waiting), if !waiting.is_empty() => {
                at += advance(&mut waiting, written);
                continue;
            }
            // A viewer that is not read cannot be heard.
            () = sleep_until(silent_at), if reads => return None,
        };
        silent_at = Instant::now() + SILENT_FOR;
        let message = match message {
            Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => message.into_data(),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => continue,
        };
        match parse(&message) {
            Ok(ClientMessage::Input(_) | ClientMessage::Resize(_) | ClientMessage::Hello { .. })
                if watches => {}
            Ok(ClientMessage::Input(bytes)) => {
                chair.act(None);
                waiting.extend_from_slice(bytes);
                if bytes.contains(&b'\r') {
                    sandbox.pulse.poke();
                }
            }
            Ok(ClientMessage::Resize(size)) => chair.act(Some(size)),
            Ok(ClientMessage::Pause) => chair.pause(true),
            Ok(ClientMessage::Resume) => chair.pause(false),
            // A second hello is how some clients repeat their size.
            Ok(ClientMessage::Hello { size, .. }) => chair.act(size),
            Err(error) => return Some((CloseCode::Unsupported, error.to_string())),
        }
    }
}

/// How many bytes are done with.
fn advance(waiting: &mut BytesMut, written: io::Result<usize>) -> u64 {
    // Where it failed the shell has ended; `show` says so.
    let length = written.unwrap_or(waiting.len());
    waiting.advance(length);
    if waiting.is_empty() {
        // Not to keep the room that a large paste took.
        *waiting = BytesMut::new();
    }
    length as u64
}

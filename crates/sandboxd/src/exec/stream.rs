//! `GET /v1/exec`: one command over a WebSocket, with input and output streamed.
//!
//! Both directions buffer a bounded amount: output is read only as fast as the client takes it, input
//! only as fast as the command does. When the client disconnects, the command is killed.

use std::{future::pending, io, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fsa_model::{
    sandboxd::{ExecMessage, ExecRequest},
    tty::WindowSize,
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    net::unix::pipe,
    sync::Mutex,
    time::{Duration, Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{CHUNK, Running, Terminal, ended, start, time_limit};
use crate::{
    http::{
        ApiError,
        websocket::{MESSAGE_LIMIT, PING_INTERVAL, Socket},
    },
    pty,
    sandbox::Sandbox,
    session,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// What a terminal takes for the end of input (termios(3), VEOF).
const END_OF_INPUT: u8 = 4;
/// Input bytes that wait for the command to read them; beyond, the client's connection is not read.
const MAX_WAITING_INPUT: usize = 256 * 1024;
/// Timeout for the first message, which has the command.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for each of the last messages, after the command has ended.
const LAST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

type Sender = Mutex<SplitSink<Socket, Message>>;

/// Serves one client until the command has ended or the client is gone.
pub async fn run(sandbox: Arc<Sandbox>, socket: Socket) {
    let (sender, mut receiver) = socket.split();
    let sender = Mutex::new(sender);
    let last = match begin(&sandbox, &mut receiver).await {
        Ok(Some((running, limit))) => forward(running, limit, &sender, receiver).await,
        Ok(None) => None,
        Err(error) => Some(ExecMessage::Error {
            exit_code: match error.name {
                "CommandNotFound" => Some(127),
                "CommandNotExecutable" => Some(126),
                _ => None,
            },
            message: error.message,
        }),
    };
    if let Some(last) = last {
        let closing = async {
            send_text(&sender, &last).await?;
            sender.lock().await.close().await
        };
        let _ = timeout(LAST_MESSAGE_TIMEOUT, closing).await;
    }
}

/// Reads the request and starts the command; `None` when the client disconnected.
async fn begin(
    sandbox: &Arc<Sandbox>,
    receiver: &mut SplitStream<Socket>,
) -> Result<Option<(Running, Option<Duration>)>, ApiError> {
    let text = loop {
        match timeout(REQUEST_TIMEOUT, receiver.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => break text,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
            Ok(Some(Ok(Message::Binary(_)))) => {
                return Err(ApiError::bad_request(
                    "the first message must be text: the command as JSON",
                ));
            }
            Ok(Some(_) | None) => return Ok(None),
            Err(_) => {
                return Err(ApiError::bad_request(
                    "the first message did not come within ten seconds",
                ));
            }
        }
    };
    let request: ExecRequest = serde_json::from_str(&text).map_err(|error| {
        ApiError::bad_request(format!("the first message is not a valid command: {error}"))
    })?;
    // The open stream shows that the client is there, so there is no default limit.
    let limit = time_limit(request.timeout_seconds)?;
    if request.tty.is_some() && request.stdin.is_some() {
        return Err(ApiError::field(
            "stdin",
            "a terminal's input is what is sent after the request",
        ));
    }
    let mut running = start(sandbox, &request)?;
    if let Some(stdin) = request.stdin.filter(|stdin| !stdin.is_empty())
        && let Some(pipe) = running.stdin.take()
    {
        // Input in the request is the whole input.
        tokio::spawn(async move { drop(write_all(&pipe, stdin.as_bytes()).await) });
    }
    Ok(Some((running, limit)))
}

/// Forwards bytes both ways. Returns the last message; `None` when the client is gone.
async fn forward(
    mut running: Running,
    limit: Option<Duration>,
    sender: &Sender,
    receiver: SplitStream<Socket>,
) -> Option<ExecMessage> {
    let sandbox = Arc::clone(&running.sandbox);
    let pid = running.pid;
    let stdin = match &running.terminal {
        Some(terminal) => Some(Input::Terminal(Arc::clone(terminal))),
        None => running.stdin.take().map(Input::Pipe),
    };
    let last = tokio::select! {
        last = output(&mut running, &sandbox, limit, sender) => last,
        () = input(stdin, pid, receiver) => None,
        () = ping(sender) => None,
    };
    if last.is_some() {
        running.finish();
    }
    last
}

async fn output(
    running: &mut Running,
    sandbox: &Sandbox,
    limit: Option<Duration>,
    sender: &Sender,
) -> Option<ExecMessage> {
    let (mut from_stdout, mut from_stderr) = (buffer(STDOUT), buffer(STDERR));
    let end = ended(&mut running.exit, sandbox, running.pid, limit);
    tokio::pin!(end);
    let (exit_code, timed_out) = loop {
        let (buffer, length) = tokio::select! {
            end = &mut end => break end,
            length = running.stdout.read(&mut from_stdout[1..]) => (&from_stdout, length),
            length = running.stderr.read(&mut from_stderr[1..]) => (&from_stderr, length),
        };
        // The time limit also counts while the client does not read. Output that was read before the
        // command's end is still sent.
        let sending = send_output(sender, buffer, length);
        tokio::pin!(sending);
        tokio::select! {
            sent = &mut sending => sent.ok()?,
            end = &mut end => {
                timeout(LAST_MESSAGE_TIMEOUT, sending).await.ok()?.ok()?;
                break end;
            }
        }
        tokio::task::yield_now().await;
    };
    for (output, buffer) in [
        (&mut running.stdout, &mut from_stdout),
        (&mut running.stderr, &mut from_stderr),
    ] {
        for _ in 0..16 {
            let Some(length) = output.read_now(&mut buffer[1..]) else {
                break;
            };
            timeout(LAST_MESSAGE_TIMEOUT, send_output(sender, buffer, length))
                .await
                .ok()?
                .ok()?;
        }
    }
    Some(ExecMessage::Exit { exit_code, timed_out })
}

/// Buffer of an output message: the stream's byte, and what is read from the pipe.
fn buffer(kind: u8) -> Vec<u8> {
    let mut buffer = vec![0; 1 + CHUNK];
    buffer[0] = kind;
    buffer
}

async fn send_output(sender: &Sender, buffer: &[u8], length: usize) -> Result<(), Error> {
    if length == 0 {
        return Ok(());
    }
    let message = Message::Binary(Bytes::copy_from_slice(&buffer[..=length]));
    sender.lock().await.send(message).await
}

async fn send_text(sender: &Sender, message: &ExecMessage) -> Result<(), Error> {
    let text = serde_json::to_string(message).unwrap_or_default();
    sender.lock().await.send(Message::Text(text.into())).await
}

/// A command's standard input.
enum Input {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

impl Input {
    async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let terminal = match self {
            Self::Pipe(pipe) => return write_some(pipe, bytes).await,
            Self::Terminal(terminal) => terminal,
        };
        loop {
            let mut ready = terminal.writable().await?;
            match ready.try_io(|terminal| Ok(nix::unistd::write(terminal.get_ref(), bytes)?)) {
                Err(_would_block) => {}
                Ok(result) => return result,
            }
        }
    }
}

/// Receives the client's messages. Returns when it is gone.
async fn input(mut stdin: Option<Input>, pid: i32, mut receiver: SplitStream<Socket>) {
    let (mut waiting, mut at_end) = (BytesMut::new(), false);
    loop {
        if at_end && waiting.is_empty() {
            stdin = None;
        }
        let message = tokio::select! {
            message = receiver.next(), if waiting.len() <= MAX_WAITING_INPUT => message,
            written = write_waiting(stdin.as_ref(), &waiting), if !waiting.is_empty() => {
                match written {
                    Ok(length) => waiting.advance(length),
                    Err(_) => {
                        (stdin, at_end) = (None, true);
                        waiting.clear();
                    }
                }
                continue;
            }
        };
        match message {
            Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&STDIN) => {
                if stdin.is_some() && !at_end {
                    waiting.put_slice(&bytes[1..]);
                }
            }
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                // A terminal does not end with its input: a program sees the end when Ctrl-D is typed.
                Ok(ExecMessage::Eof) if matches!(stdin, Some(Input::Terminal(_))) => {
                    waiting.put_u8(END_OF_INPUT)
                }
                Ok(ExecMessage::Eof) => at_end = true,
                Ok(ExecMessage::Resize(size)) => {
                    if let (Some(Input::Terminal(terminal)), Some(size)) =
                        (&stdin, WindowSize::checked(size.columns, size.rows))
                    {
                        let _ = pty::resize(terminal, size);
                    }
                }
                Ok(ExecMessage::Signal {
                    signal: signal @ 1..=31,
                }) => {
                    session::signal_members(pid, signal);
                }
                _ => {}
            },
            Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            Some(Ok(_)) => {}
        }
    }
}

async fn write_waiting(stdin: Option<&Input>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write_some(bytes).await,
        None => pending().await,
    }
}

async fn write_some(pipe: &pipe::Sender, bytes: &[u8]) -> io::Result<usize> {
    loop {
        pipe.writable().await?;
        match pipe.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

pub(super) async fn write_all(pipe: &pipe::Sender, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = write_some(pipe, bytes).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Detects a client that is gone, also while its connection is not read. Returns when it is gone.
async fn ping(sender: &Sender) {
    let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Output that is being sent serves as a ping.
        if let Ok(mut sender) = sender.try_lock()
            && sender.send(Message::Ping(Bytes::new())).await.is_err()
        {
            return;
        }
    }
}

const _: () = assert!(CHUNK < MESSAGE_LIMIT);

//! `fsa exec`: runs a command in the sandbox, with its input, output and exit code.

use std::time::Duration;

use fsa_model::sandboxd::{ExecMessage, ExecRequest, ExecResult};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    project,
    terminal::{self, RawMode},
};
use crate::{
    args::Exec,
    client::{Client, encode},
    failure::{Code, Failure, Outcome},
    output, websocket,
};

/// First byte of a binary message: standard input.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// Bytes of standard input in one message.
const PIECE: usize = 32 * 1024;

pub async fn run(client: &Client, exec: Exec, json: bool) -> Outcome {
    if json && exec.tty {
        return Err(Failure::usage(
            "--json prints a result, which a command on a terminal has not: leave out one of --json and --tty",
        ));
    }
    let path = format!("/api/projects/{}/exec", encode(&exec.project));
    let request = ExecRequest {
        command: exec.command,
        cwd: exec.cwd,
        env: project::variables(&exec.environment)?,
        stdin: None,
        timeout_seconds: exec.timeout,
        user: exec.user,
        tty: exec.tty.then(terminal::size),
    };
    if json {
        let result: ExecResult = client.send(Method::POST, &path, &request).await?;
        output::print(true, &result, |_| {});
        return Ok(exit_status(result.exit_code));
    }
    let input = (!exec.no_stdin).then(tokio::io::stdin);
    stream(client, &path, &request, input, &mut tokio::io::stdout()).await
}

/// Runs a command with this input and output; its standard error and its exit code are those of `fsa`.
pub async fn stream(
    client: &Client,
    path: &str,
    request: &ExecRequest,
    input: Option<impl AsyncRead + Send + Unpin + 'static>,
    stdout: &mut (impl AsyncWrite + Unpin),
) -> Outcome {
    let mut socket = websocket::open(client, path, None).await?;
    let first = serde_json::to_string(request).map_err(|error| Failure::failed(error.to_string()))?;
    socket.send(Message::text(first)).await.map_err(disconnected)?;
    let (mut to, mut from) = socket.split();
    let (sender, mut outgoing) = tokio::sync::mpsc::channel::<Message>(8);

    let to_command = sender.clone();
    // A read of an idle terminal must not delay the end of the command: the task is dropped with the runtime.
    let reader = tokio::spawn(async move {
        if let Some(mut input) = input {
            let mut piece = vec![0; PIECE + 1];
            piece[0] = STDIN;
            while let Ok(length @ 1..) = input.read(&mut piece[1..]).await {
                if to_command
                    .send(Message::binary(piece[..=length].to_vec()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        let _ = to_command.send(control(&ExecMessage::Eof)).await;
    });
    // In raw mode, keys such as Ctrl-C are bytes for the command's own terminal.
    let raw = request.tty.map(|_| RawMode::enter()).transpose()?;
    let mut signals = Signals::listen()?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut stderr = tokio::io::stderr();
    let outcome = loop {
        tokio::select! {
            message = from.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let written = match bytes.split_first() {
                        Some((&STDOUT, bytes)) => stdout.write_all(bytes).await,
                        Some((&STDERR, bytes)) => stderr.write_all(bytes).await,
                        _ => Ok(()),
                    };
                    if let Err(error) = written {
                        break output::write_failure(error);
                    }
                }
                Some(Ok(Message::Text(text))) => match serde_json::from_str::<ExecMessage>(&text) {
                    Ok(ExecMessage::Exit { exit_code, timed_out }) => {
                        if timed_out {
                            output::notice("fsa: the command was killed after its timeout");
                        }
                        break Ok(exit_status(exit_code));
                    }
                    Ok(ExecMessage::Error { message, exit_code: Some(exit_status) }) => {
                        output::notice(&format!("fsa: {message}"));
                        break Ok(exit_status);
                    }
                    Ok(ExecMessage::Error { message, .. }) => break Err(Failure::new(Code::Failed, message)),
                    _ => {}
                },
                Some(Ok(Message::Close(frame))) => {
                    let reason = frame.map(|frame| frame.reason.to_string()).filter(|reason| !reason.is_empty());
                    break Err(Failure::new(Code::Unreachable, reason.unwrap_or_else(|| "the connection ended before the command did".into())));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(disconnected(error)),
                None => break Err(Failure::new(Code::Unreachable, "the connection ended before the command did")),
            },
            Some(message) = outgoing.recv() => if let Err(error) = to.send(message).await {
                break Err(disconnected(error));
            },
            signal = signals.next() => if let Err(error) = to.send(control(&ExecMessage::Signal { signal })).await {
                break Err(disconnected(error));
            },
            _ = resized.recv(), if request.tty.is_some() => {
                if let Err(error) = to.send(control(&ExecMessage::Resize(terminal::size()))).await {
                    break Err(disconnected(error));
                }
            },
        }
    };
    // tokio writes on another thread: output that is not flushed would be lost with the runtime.
    let flushed = stdout.flush().await.and(stderr.flush().await);
    drop(raw);
    reader.abort();
    let _ = tokio::time::timeout(Duration::from_secs(1), to.close()).await;
    match (outcome, flushed) {
        (Ok(_), Err(error)) => output::write_failure(error),
        (outcome, _) => outcome,
    }
}

/// Signals that end `fsa`, and that the command gets in its place.
struct Signals([(i32, Signal); 4]);

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let listen = |kind: SignalKind| signal(kind).map(|signals| (kind.as_raw_value(), signals));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
            listen(SignalKind::quit())?,
        ]))
    }

    async fn next(&mut self) -> i32 {
        let [interrupt, terminate, hangup, quit] = &mut self.0;
        tokio::select! {
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
            _ = hangup.1.recv() => hangup.0,
            _ = quit.1.recv() => quit.0,
        }
    }
}

fn control(message: &ExecMessage) -> Message {
    Message::text(serde_json::to_string(message).unwrap_or_default())
}

fn exit_status(exit_code: i32) -> u8 {
    u8::try_from(exit_code & 0xff).unwrap_or(1)
}

fn disconnected(error: tokio_tungstenite::tungstenite::Error) -> Failure {
    Failure::new(
        Code::Unreachable,
        format!("the connection to the sandbox broke off: {error}"),
    )
}

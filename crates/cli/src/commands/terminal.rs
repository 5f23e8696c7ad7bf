//! `fsa terminal`: attaches this terminal to a session in the sandbox, until Ctrl-].

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use crossterm::terminal;
use fsa_model::{
    api::Page,
    sandboxd::TerminalSession,
    tty::{self, WindowSize, input_queue::InputQueue},
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    signal::unix::{SignalKind, signal},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    args::Terminal,
    client::{Client, encode},
    failure::{Code, Failure, Outcome},
    output, websocket,
};

/// Ctrl-], telnet's escape: detaches from the session, which keeps running.
const DETACH_KEY: u8 = 0x1d;
/// Delays before attempts to reconnect, in milliseconds; the last one repeats.
const RECONNECT_DELAYS_MS: [u64; 6] = [0, 200, 500, 1000, 2000, 4000];
/// How long to try to reconnect: longer than an update of the server takes.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Number of failed attempts before the user is notified.
const ATTEMPTS_BEFORE_NOTICE: usize = 3;

pub async fn run(client: &Client, arguments: &Terminal) -> Outcome {
    attach(
        client,
        &arguments.project,
        &arguments.session,
        arguments.user.as_deref(),
        None,
    )
    .await
}

enum SessionEnd {
    Detached,
    Closed(String),
    Disconnected(String),
}

/// Attaches to `session`. In a new session, `program` replaces the shell.
pub async fn attach(
    client: &Client,
    project: &str,
    session: &str,
    user: Option<&str>,
    program: Option<&str>,
) -> Outcome {
    let mut path = format!(
        "/api/projects/{}/terminal?session={}",
        encode(project),
        encode(session)
    );
    if let Some(user) = user {
        path = format!("{path}&user={}", encode(user));
    }
    let mut queue = InputQueue::new(uuid::Uuid::new_v4().to_string());
    if let Some(program) = program
        && !session_exists(client, project, session).await?
    {
        // An empty queue accepts it.
        let _ = queue.push(format!("exec {program}\r").as_bytes());
    }
    let raw = RawMode::enter()?;
    let mut keyboard = keyboard();
    let detached_message =
        || format!("detached from {session}; it keeps running. Reattach with `fsa terminal {project}`.");
    let mut reconnecting: Option<(Instant, usize)> = None;
    let outcome = loop {
        let reason = match run_session(client, &path, &mut keyboard, &mut queue).await {
            Ok((SessionEnd::Detached, _)) => break Ok(detached_message()),
            Ok((SessionEnd::Closed(reason), _)) => break Ok(reason),
            Ok((SessionEnd::Disconnected(reason), had_output)) => {
                reconnecting = reconnecting.filter(|_| !had_output);
                Failure::new(Code::Unreachable, reason)
            }
            Err(failure) if reconnecting.is_none() || failure.code != Code::Unreachable => {
                break Err(failure);
            }
            Err(failure) => failure,
        };
        let (since, attempts) = reconnecting.get_or_insert_with(|| (Instant::now(), 0));
        if since.elapsed() > RECONNECT_TIMEOUT {
            break Err(reason);
        }
        if *attempts == ATTEMPTS_BEFORE_NOTICE {
            output::raw_notice("[The server does not answer; your input is kept. Ctrl-] detaches.]");
        }
        let duration =
            Duration::from_millis(RECONNECT_DELAYS_MS[(*attempts).min(RECONNECT_DELAYS_MS.len() - 1)]);
        *attempts += 1;
        if detaches_within(duration, &mut keyboard, &mut queue).await {
            break Ok(detached_message());
        }
    };
    drop(raw);
    match outcome {
        Ok(message) => {
            if !message.is_empty() {
                output::raw_notice(&format!("[{message}]"));
            }
            Ok(0)
        }
        Err(failure) => Err(failure),
    }
}

async fn session_exists(client: &Client, project: &str, session: &str) -> Result<bool, Failure> {
    let path = format!("/api/projects/{}/terminals", encode(project));
    let page: Page<TerminalSession> = client.get(&path).await?;
    Ok(page.items.iter().any(|open| open.name == session))
}

/// The result of keyboard input.
enum Input {
    Queued,
    /// The queue is full: the program does not read its input.
    Dropped,
    Detach,
}

/// Queues keyboard input; `None` is the end of standard input, which detaches.
fn queue_input(bytes: Option<Vec<u8>>, queue: &mut InputQueue) -> Input {
    match bytes {
        Some(bytes) if !bytes.contains(&DETACH_KEY) => {
            if queue.push(&bytes) {
                Input::Queued
            } else {
                Input::Dropped
            }
        }
        _ => Input::Detach,
    }
}

/// Queues keyboard input for this duration. True if the user detached.
async fn detaches_within(
    duration: Duration,
    keyboard: &mut tokio::sync::mpsc::Receiver<Vec<u8>>,
    queue: &mut InputQueue,
) -> bool {
    let delay = tokio::time::sleep(duration);
    tokio::pin!(delay);
    loop {
        tokio::select! {
            () = &mut delay => return false,
            bytes = keyboard.recv() => match queue_input(bytes, queue) {
                Input::Queued | Input::Dropped => {}
                Input::Detach => return true,
            },
        }
    }
}

async fn run_session(
    client: &Client,
    path: &str,
    keyboard: &mut tokio::sync::mpsc::Receiver<Vec<u8>>,
    queue: &mut InputQueue,
) -> Result<(SessionEnd, bool), Failure> {
    let mut socket = websocket::open(client, path, Some(tty::SUBPROTOCOL)).await?;
    let disconnected = |error: tokio_tungstenite::tungstenite::Error| {
        SessionEnd::Disconnected(format!("the connection broke off: {error}"))
    };
    let hello = tty::hello_with_input("", size(), &queue.connect());
    if let Err(error) = socket.send(Message::binary(hello.into_bytes())).await {
        return Ok((disconnected(error), false));
    }
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdout = tokio::io::stdout();
    let mut had_output = false;
    loop {
        while let Some(message) = queue.next_message() {
            if let Err(error) = socket.send(Message::binary(message)).await {
                return Ok((disconnected(error), had_output));
            }
        }
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    had_output = true;
                    match bytes.split_first() {
                        Some((&tty::INPUT_ACK, count)) => queue.acknowledge(count),
                        Some((&tty::OUTPUT, bytes)) => {
                            queue.other_message();
                            stdout.write_all(bytes).await?;
                            stdout.flush().await?;
                        }
                        _ => queue.other_message(),
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    // 1000: the shell exited. Any other code is the server's: reconnect.
                    let (code, reason) = frame.map_or((1006, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    return Ok((if code == 1000 { SessionEnd::Closed(reason) } else { SessionEnd::Disconnected(reason) }, had_output));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ok((disconnected(error), had_output)),
                None => return Ok((SessionEnd::Disconnected("the connection ended".into()), had_output)),
            },
            bytes = keyboard.recv() => match queue_input(bytes, queue) {
                Input::Queued => {}
                Input::Dropped => {
                    // Bell.
                    stdout.write_all(b"\x07").await?;
                    stdout.flush().await?;
                }
                Input::Detach => {
                    let _ = socket.close(None).await;
                    return Ok((SessionEnd::Detached, had_output));
                }
            },
            _ = resized.recv() => if let Err(error) = socket.send(Message::binary(tty::resize(size()))).await {
                return Ok((disconnected(error), had_output));
            },
        }
    }
}

/// Starts the task that reads the keyboard, which is independent of connections.
fn keyboard() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
            if sender.send(buffer[..length].to_vec()).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The size of this terminal, or the usual one.
pub fn size() -> WindowSize {
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    WindowSize::checked(columns, rows).unwrap_or(WindowSize {
        columns: 80,
        rows: 24,
    })
}

/// Guard of the terminal's raw mode, in which control keys are sent to the sandbox.
pub struct RawMode(bool);

impl RawMode {
    pub fn enter() -> Result<Self, Failure> {
        let is_terminal = std::io::stdin().is_terminal();
        if is_terminal {
            terminal::enable_raw_mode()?;
        }
        Ok(Self(is_terminal))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if self.0 {
            let _ = terminal::disable_raw_mode();
            let _ = std::io::stdout().flush();
        }
    }
}

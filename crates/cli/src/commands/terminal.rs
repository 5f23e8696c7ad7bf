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
    client::{Client, encoded},
    failure::{Code, Failure, Outcome},
    output, websocket,
};

/// Ctrl-], telnet's escape: detaches from the session, which keeps running.
const LEAVE: u8 = 0x1d;
/// Milliseconds before each attempt to reconnect; the last one repeats.
const PAUSES: [u64; 6] = [0, 200, 500, 1000, 2000, 4000];
/// How long reconnecting is tried: longer than an update of the server takes.
const AWAY: Duration = Duration::from_secs(120);
/// The attempt before which the user is notified.
const TOLD_AT: usize = 3;

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

enum End {
    Left,
    Closed(String),
    Broke(String),
}

/// Attaches to `session`. The shell of a new session becomes `program`, if one is named.
pub async fn attach(
    client: &Client,
    project: &str,
    session: &str,
    user: Option<&str>,
    program: Option<&str>,
) -> Outcome {
    let mut path = format!(
        "/api/projects/{}/terminal?session={}",
        encoded(project),
        encoded(session)
    );
    if let Some(user) = user {
        path = format!("{path}&user={}", encoded(user));
    }
    let mut keys = InputQueue::new(uuid::Uuid::new_v4().to_string());
    if let Some(program) = program
        && !exists(client, project, session).await?
    {
        // The queue is empty, so it has room.
        let _ = keys.push(format!("exec {program}\r").as_bytes());
    }
    let raw = Raw::enter()?;
    let mut keyboard = keyboard();
    let left =
        || format!("detached from {session}; it keeps running. Reattach with `fsa terminal {project}`.");
    let mut away: Option<(Instant, usize)> = None;
    let outcome = loop {
        let why = match session_on(client, &path, &mut keyboard, &mut keys).await {
            Ok((End::Left, _)) => break Ok(left()),
            Ok((End::Closed(why), _)) => break Ok(why),
            Ok((End::Broke(why), lasted)) => {
                away = away.filter(|_| !lasted);
                Failure::new(Code::Unreachable, why)
            }
            Err(failure) if away.is_none() || failure.code != Code::Unreachable => break Err(failure),
            Err(failure) => failure,
        };
        let (since, tries) = away.get_or_insert_with(|| (Instant::now(), 0));
        if since.elapsed() > AWAY {
            break Err(why);
        }
        if *tries == TOLD_AT {
            output::raw_note("[The server does not answer; your input is kept. Ctrl-] detaches.]");
        }
        let pause = Duration::from_millis(PAUSES[(*tries).min(PAUSES.len() - 1)]);
        *tries += 1;
        if leaves_within(pause, &mut keyboard, &mut keys).await {
            break Ok(left());
        }
    };
    drop(raw);
    match outcome {
        Ok(words) => {
            if !words.is_empty() {
                output::raw_note(&format!("[{words}]"));
            }
            Ok(0)
        }
        Err(failure) => Err(failure),
    }
}

async fn exists(client: &Client, project: &str, session: &str) -> Result<bool, Failure> {
    let path = format!("/api/projects/{}/terminals", encoded(project));
    let page: Page<TerminalSession> = client.get(&path).await?;
    Ok(page.items.iter().any(|open| open.name == session))
}

/// The result of typed keys.
enum Pressed {
    Kept,
    /// The buffer is full: the program has read nothing of megabytes.
    Lost,
    Leave,
}

/// Handles keyboard input; `None` means that the keyboard is gone.
fn take(pressed: Option<Vec<u8>>, keys: &mut InputQueue) -> Pressed {
    match pressed {
        Some(bytes) if !bytes.contains(&LEAVE) => {
            if keys.push(&bytes) {
                Pressed::Kept
            } else {
                Pressed::Lost
            }
        }
        _ => Pressed::Leave,
    }
}

/// Buffers what is typed during a pause. True if the user detached meanwhile.
async fn leaves_within(
    pause: Duration,
    keyboard: &mut tokio::sync::mpsc::Receiver<Vec<u8>>,
    keys: &mut InputQueue,
) -> bool {
    let over = tokio::time::sleep(pause);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return false,
            pressed = keyboard.recv() => match take(pressed, keys) {
                Pressed::Kept | Pressed::Lost => {}
                Pressed::Leave => return true,
            },
        }
    }
}

async fn session_on(
    client: &Client,
    path: &str,
    keyboard: &mut tokio::sync::mpsc::Receiver<Vec<u8>>,
    keys: &mut InputQueue,
) -> Result<(End, bool), Failure> {
    let mut socket = websocket::open(client, path, Some(tty::SUBPROTOCOL)).await?;
    let broke = |error: tokio_tungstenite::tungstenite::Error| {
        End::Broke(format!("the connection broke off: {error}"))
    };
    let hello = tty::hello_with_input("", size(), &keys.connect());
    if let Err(error) = socket.send(Message::binary(hello.into_bytes())).await {
        return Ok((broke(error), false));
    }
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdout = tokio::io::stdout();
    let mut lasted = false;
    loop {
        while let Some(message) = keys.next_message() {
            if let Err(error) = socket.send(Message::binary(message)).await {
                return Ok((broke(error), lasted));
            }
        }
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    lasted = true;
                    match bytes.split_first() {
                        Some((&tty::INPUT_ACK, count)) => keys.acknowledge(count),
                        Some((&tty::OUTPUT, bytes)) => {
                            keys.other_message();
                            stdout.write_all(bytes).await?;
                            stdout.flush().await?;
                        }
                        _ => keys.other_message(),
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    // 1000: the shell exited. Any other code is the server's: reconnect.
                    let (code, why) = frame.map_or((1006, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    return Ok((if code == 1000 { End::Closed(why) } else { End::Broke(why) }, lasted));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ok((broke(error), lasted)),
                None => return Ok((End::Broke("the connection ended".into()), lasted)),
            },
            pressed = keyboard.recv() => match take(pressed, keys) {
                Pressed::Kept => {}
                Pressed::Lost => {
                    // A bell.
                    stdout.write_all(b"\x07").await?;
                    stdout.flush().await?;
                }
                Pressed::Leave => {
                    let _ = socket.close(None).await;
                    return Ok((End::Left, lasted));
                }
            },
            _ = resized.recv() => if let Err(error) = socket.send(Message::binary(tty::resize(size()))).await {
                return Ok((broke(error), lasted));
            },
        }
    }
}

/// Keyboard input, read by a task that outlives connections.
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

fn size() -> WindowSize {
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    WindowSize::checked(columns, rows).unwrap_or(WindowSize {
        columns: 80,
        rows: 24,
    })
}

/// Guard of the terminal's raw mode, in which every key reaches the sandbox.
struct Raw(bool);

impl Raw {
    fn enter() -> Result<Self, Failure> {
        let is_terminal = std::io::stdin().is_terminal();
        if is_terminal {
            terminal::enable_raw_mode()?;
        }
        Ok(Self(is_terminal))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if self.0 {
            let _ = terminal::disable_raw_mode();
            let _ = std::io::stdout().flush();
        }
    }
}

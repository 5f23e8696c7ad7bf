//! `fsa terminal`: this terminal becomes one of the sandbox's, until Ctrl-].

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use crossterm::terminal;
use fsa_model::tty::{self, WindowSize};
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

/// Ctrl-], telnet's escape: leaves the session, which goes on.
const LEAVE: u8 = 0x1d;
/// Waits between attempts to come back after the connection broke off.
const RETRIES: [u64; 6] = [0, 200, 500, 1000, 2000, 4000];

pub async fn run(client: &Client, wish: &Terminal) -> Outcome {
    attach(client, &wish.project, &wish.session, wish.user.as_deref(), None).await
}

enum End {
    Left,
    Closed(String),
    Broke(String),
}

/// Attaches to `session`, made with `command` instead of a shell where there is none of that name.
pub async fn attach(
    client: &Client,
    project: &str,
    session: &str,
    user: Option<&str>,
    command: Option<&str>,
) -> Outcome {
    let mut path = format!(
        "/api/projects/{}/terminal?session={}",
        encoded(project),
        encoded(session)
    );
    for (name, value) in [("user", user), ("command", command)] {
        if let Some(value) = value {
            path = format!("{path}&{name}={}", encoded(value));
        }
    }
    let raw = Raw::enter()?;
    let mut keys = keys();
    let mut tries = 0;
    let outcome = loop {
        match session_on(client, &path, &mut keys).await {
            Ok((End::Left, _)) => {
                break Ok(format!(
                    "left {session}; it goes on. Come back with `fsa terminal {project}`."
                ));
            }
            Ok((End::Closed(why), _)) => break Ok(why),
            Ok((End::Broke(why), lasted)) => {
                if lasted {
                    tries = 0;
                }
                if tries == RETRIES.len() {
                    break Err(Failure::new(Code::Unreachable, why));
                }
            }
            Err(failure) if tries == 0 || failure.code != Code::Unreachable || tries == RETRIES.len() => {
                break Err(failure);
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(RETRIES[tries])).await;
        tries += 1;
    };
    drop(raw);
    match outcome {
        Ok(words) => {
            if !words.is_empty() {
                output::note(&format!("\r\n[{words}]"));
            }
            // The thread that reads the keyboard cannot be interrupted; do not wait for it.
            std::process::exit(0)
        }
        Err(failure) => Err(failure),
    }
}

async fn session_on(
    client: &Client,
    path: &str,
    keys: &mut tokio::sync::mpsc::Receiver<Vec<u8>>,
) -> Result<(End, bool), Failure> {
    let mut socket = websocket::open(client, path, Some(tty::SUBPROTOCOL)).await?;
    let broke = |error: tokio_tungstenite::tungstenite::Error| {
        End::Broke(format!("the connection broke off: {error}"))
    };
    if let Err(error) = socket
        .send(Message::binary(tty::hello("", size()).into_bytes()))
        .await
    {
        return Ok((broke(error), false));
    }
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdout = tokio::io::stdout();
    let mut lasted = false;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    lasted = true;
                    if let Some((&tty::OUTPUT, bytes)) = bytes.split_first() {
                        stdout.write_all(bytes).await?;
                        stdout.flush().await?;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    // 1000: the shell ended. Anything else is the server's, and worth coming back for.
                    let (code, why) = frame.map_or((1006, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    return Ok((if code == 1000 { End::Closed(why) } else { End::Broke(why) }, lasted));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ok((broke(error), lasted)),
                None => return Ok((End::Broke("the connection ended".into()), lasted)),
            },
            pressed = keys.recv() => match pressed {
                Some(bytes) if bytes.contains(&LEAVE) => {
                    let _ = socket.close(None).await;
                    return Ok((End::Left, lasted));
                }
                Some(bytes) => if let Err(error) = socket.send(Message::binary(tty::input(&bytes))).await {
                    return Ok((broke(error), lasted));
                },
                None => {
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

/// The keyboard, read by a task that outlives connections.
fn keys() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
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

/// Raw mode for as long as it lives, so that every key reaches the sandbox.
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

//! The start: reads what it is told, prepares the sandbox, serves, and waits for the end.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use fsa_model::sandboxd::{BOOT_FD, Boot, LISTENER_FD};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    asks,
    http::{self, routes, stream::Listener, terminal_only},
    options::{Control, Options},
    ports::Ports,
    pulse,
    reaper::Reaper,
    sandbox::Sandbox,
    setup, start, stop,
    user::Accounts,
};

/// Of a boot document: the environment may be large, but the kernel takes 2 MiB of it at most.
const LONGEST: u64 = 8 * 1024 * 1024;

/// Why sandboxd cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("there is no boot document: {0}")]
    NoDocument(io::Error),
    #[error("the boot document cannot be read: {0}")]
    Document(serde_json::Error),
    #[error("the control token is empty, which would leave the sandbox open to everybody")]
    NoToken,
    #[error("the control interface cannot listen: {0}")]
    Control(io::Error),
    #[error("the terminal's port cannot listen: {0}")]
    Terminal(io::Error),
    #[error("the signals of processes cannot be received: {0}")]
    Signals(io::Error),
}

/// Reads the boot document, to its end, and closes it.
///
/// # Errors
/// It is not there, or not what it should be.
pub fn document(options: &Options) -> Result<Boot, BootError> {
    let file = match &options.boot {
        Some(path) => File::open(path),
        None => http::stream::take(BOOT_FD).map(File::from),
    };
    let mut text = Vec::new();
    file.and_then(|file| file.take(LONGEST).read_to_end(&mut text))
        .map_err(BootError::NoDocument)?;
    let mut boot: Boot = serde_json::from_slice(&text).map_err(BootError::Document)?;
    text.fill(0);
    if options.keep_environment {
        for (name, value) in std::env::vars() {
            // Of the cluster, not of the image.
            if !name.starts_with("KUBERNETES_") && name != "HOSTNAME" {
                boot.environment.entry(name).or_insert_with(|| value.into());
            }
        }
    }
    if secrecy::ExposeSecret::expose_secret(&boot.control_token).is_empty() {
        return Err(BootError::NoToken);
    }
    Ok(boot)
}

/// Runs until the sandbox is to end, and ends it.
///
/// # Errors
/// It cannot begin.
pub async fn run(options: Options, mut boot: Boot) -> Result<(), BootError> {
    let control = match &options.control {
        Control::Inherited => Listener::inherited(LISTENER_FD),
        Control::Unix(path) => Listener::unix(path),
        Control::Tcp(address) => Listener::tcp(*address).await,
    }
    .map_err(BootError::Control)?;
    let terminal = match options.terminal {
        Some(address) => Some(Listener::tcp(address).await.map_err(BootError::Terminal)?),
        None => None,
    };
    // Somebody else's program may be there already; the sandbox is of use without it.
    let asks = Listener::tcp(options.asks).await;
    let asks_address = asks.as_ref().ok().and_then(Listener::address);
    if let Some(address) = asks_address {
        tell_programs(&mut boot, address);
    }
    let mut stops = [
        signal(SignalKind::terminate()).map_err(BootError::Signals)?,
        signal(SignalKind::interrupt()).map_err(BootError::Signals)?,
    ];
    let reaper = Reaper::new().map_err(BootError::Signals)?;
    let accounts = Accounts::new(options.etc.clone(), options.home.clone(), options.user_mode);
    protect(&accounts);
    let missing = setup::prepare(&accounts, &options.home, &boot.hostname, &boot.nameservers);
    let sandbox = Arc::new(Sandbox::new(&options, boot, accounts, reaper));
    for sentence in missing {
        tracing::info!("{sentence}");
        sandbox.logs.say(sentence);
    }
    let mut hidden: Vec<u16> = match (&options.control, options.terminal) {
        (Control::Tcp(control), terminal) => [Some(*control), terminal]
            .into_iter()
            .flatten()
            .map(|address| address.port())
            .collect(),
        (_, terminal) => terminal.iter().map(std::net::SocketAddr::port).collect(),
    };
    hidden.extend(asks_address.map(|address| address.port()));
    match asks {
        Ok(listener) => {
            tokio::spawn(asks::serve(Arc::clone(&sandbox), listener));
        }
        Err(error) => {
            let sentence = format!(
                "agents and git cannot ask the control plane at {}: {error}",
                options.asks
            );
            tracing::warn!("{sentence}");
            sandbox.logs.say(sentence);
        }
    }
    let supervision = start::begin(&sandbox);
    tokio::spawn(pulse::run(Arc::clone(&sandbox), Ports::new(hidden)));
    let shared = Arc::clone(&sandbox);
    tokio::spawn(http::serve(control, move |request| {
        routes::control(Arc::clone(&shared), request)
    }));
    if let Some(terminal) = terminal {
        let shared = Arc::clone(&sandbox);
        tokio::spawn(http::serve(terminal, move |request| {
            terminal_only::route(Arc::clone(&shared), request)
        }));
    }
    let [terminate, interrupt] = &mut stops;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop::everything(&sandbox, supervision).await;
    if let Control::Unix(path) = &options.control {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Tells every program where to ask, and git to do so.
fn tell_programs(boot: &mut Boot, address: std::net::SocketAddr) {
    let token = fsa_model::callback::token(&boot.control_token);
    let url = asks::url(address);
    for (name, value) in asks::variables(&url, secrecy::ExposeSecret::expose_secret(&token)) {
        boot.environment.insert(name.into(), value.into());
    }
    if let Ok(program) = std::env::current_exe() {
        asks::credential::configure(&mut boot.environment, &program);
    }
}

/// Where everything runs as one user, that user's programs must not read the token out of this
/// process's memory.
fn protect(accounts: &Accounts) {
    if !accounts.switches() {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
}

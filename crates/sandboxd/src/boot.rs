//! Boot sequence: reads the boot document, prepares the sandbox, serves, and waits for the stop signal.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use fsa_model::{
    environment::over_image,
    sandboxd::{BOOT_FD, Boot, LISTENER_FD},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    callback::{self, Callback},
    exec::tasks::Tasks,
    http::{self, stream::Listener},
    options::{Control, Options},
    poll_scheduler,
    ports::Ports,
    reaper::Reaper,
    routes::{Services, control, terminal_port},
    sandbox::Sandbox,
    setup,
    start::{self, Start},
    stop,
    terminal::Terminals,
    user::Accounts,
};

/// Maximum bytes of a boot document: the environment may be large, but the kernel takes 2 MiB of it
/// at most.
const MAX_BOOT_BYTES: u64 = 8 * 1024 * 1024;

/// Why sandboxd cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("there is no boot document: {0}")]
    NoDocument(io::Error),
    #[error("the boot document cannot be read: {0}")]
    Document(serde_json::Error),
    #[error("the control token is empty: anyone could control the sandbox")]
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
/// The document is missing or invalid.
pub fn document(options: &Options) -> Result<Boot, BootError> {
    let file = match &options.boot {
        Some(path) => File::open(path),
        None => http::stream::take(BOOT_FD).map(File::from),
    };
    let mut text = Vec::new();
    file.and_then(|file| file.take(MAX_BOOT_BYTES).read_to_end(&mut text))
        .map_err(BootError::NoDocument)?;
    let mut boot: Boot = serde_json::from_slice(&text).map_err(BootError::Document)?;
    text.fill(0);
    if options.keep_environment {
        let of_image = std::env::vars()
            // Variables of the cluster, not of the image.
            .filter(|(name, _)| !name.starts_with("KUBERNETES_") && name != "HOSTNAME")
            .map(|(name, value)| (name, value.into()))
            .collect();
        boot.environment = over_image(of_image, boot.environment);
    }
    if secrecy::ExposeSecret::expose_secret(&boot.control_token).is_empty() {
        return Err(BootError::NoToken);
    }
    Ok(boot)
}

/// Runs until SIGTERM or SIGINT, and then stops everything in the sandbox.
///
/// # Errors
/// sandboxd cannot start.
pub async fn run(options: Options, mut boot: Boot) -> Result<(), BootError> {
    let control_listener = match &options.control {
        Control::Inherited => Listener::inherited(LISTENER_FD),
        Control::Unix(path) => Listener::unix(path),
        Control::Tcp(address) => Listener::tcp(*address).await,
    }
    .map_err(BootError::Control)?;
    let terminal_listener = match options.terminal {
        Some(address) => Some(Listener::tcp(address).await.map_err(BootError::Terminal)?),
        None => None,
    };
    // Another program may use the port already; the sandbox also works without the callback.
    let proxy = Listener::tcp(options.callback).await;
    let proxy_address = proxy.as_ref().ok().and_then(Listener::address);
    if let Some(address) = proxy_address {
        add_callback_variables(&mut boot, address);
    }
    let mut stops = [
        signal(SignalKind::terminate()).map_err(BootError::Signals)?,
        signal(SignalKind::interrupt()).map_err(BootError::Signals)?,
    ];
    let reaper = Reaper::new().map_err(BootError::Signals)?;
    let accounts = Accounts::new(options.etc.clone(), options.home.clone(), options.user_mode);
    protect(&accounts);
    let missing = setup::prepare(&accounts, &options.home, &boot.hostname, &boot.nameservers);
    let (start_command, repository) = (boot.start_command.take(), boot.repository.take());
    let sandbox = Arc::new(Sandbox::new(&options, boot, accounts, reaper));
    let services = Arc::new(Services {
        callback: Arc::new(Callback::new(Arc::clone(&sandbox))),
        start: Arc::new(Start::new(Arc::clone(&sandbox), start_command, repository)),
        tasks: Tasks::default(),
        terminals: Arc::new(Terminals::new(Arc::clone(&sandbox))),
        sandbox: Arc::clone(&sandbox),
    });
    for sentence in missing {
        tracing::info!("{sentence}");
        sandbox.logs.add_notice(sentence);
    }
    let mut hidden: Vec<u16> = match (&options.control, options.terminal) {
        (Control::Tcp(control), terminal) => [Some(*control), terminal]
            .into_iter()
            .flatten()
            .map(|address| address.port())
            .collect(),
        (_, terminal) => terminal.iter().map(std::net::SocketAddr::port).collect(),
    };
    hidden.extend(proxy_address.map(|address| address.port()));
    match proxy {
        Ok(listener) => {
            tokio::spawn(callback::serve(Arc::clone(&services.callback), listener));
        }
        Err(error) => {
            let sentence = format!(
                "agents and git cannot reach the control plane: {} cannot listen: {error}",
                options.callback
            );
            tracing::warn!("{sentence}");
            sandbox.logs.add_notice(sentence);
        }
    }
    let supervision = start::begin(&services.start);
    tokio::spawn(poll_scheduler::run(
        Arc::clone(&services.start),
        Ports::new(hidden),
    ));
    let shared = Arc::clone(&services);
    tokio::spawn(http::serve(control_listener, move |request| {
        control::handle(Arc::clone(&shared), request)
    }));
    if let Some(listener) = terminal_listener {
        let shared = Arc::clone(&services);
        tokio::spawn(http::serve(listener, move |request| {
            terminal_port::handle(Arc::clone(&shared), request)
        }));
    }
    let [terminate, interrupt] = &mut stops;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop::stop_all(&sandbox, &services.terminals, supervision).await;
    if let Control::Unix(path) = &options.control {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Adds the callback's URL and token to the environment, and the git settings for the credential helper.
fn add_callback_variables(boot: &mut Boot, address: std::net::SocketAddr) {
    let token = fsa_model::callback::token(&boot.control_token);
    let url = callback::url(address);
    for (name, value) in callback::variables(&url, secrecy::ExposeSecret::expose_secret(&token)) {
        boot.environment.insert(name.into(), value.into());
    }
    if let Ok(program) = std::env::current_exe() {
        callback::git_credential::configure(&mut boot.environment, &program);
    }
}

/// When everything runs as one user, keeps that user's programs from reading the token in this
/// process's memory.
fn protect(accounts: &Accounts) {
    if !accounts.switches() {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
}

//! `fsa serve`: assembles and runs the server. First, with one thread and perhaps as root: the data folder, the runner,
//! and dropping root's privileges. Then everything else, concurrently.

mod checks;
pub mod data_dir_lock;
pub mod kubernetes;
pub mod local;
pub mod log;
mod user;

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use fsa_driver::{Region, Regions};
use fsa_server::{
    auth::sign_in,
    core::Core,
    encryption::KeyRing,
    listener, reconcile,
    settings::{Limits, Settings},
    state::App,
    store::{Store, key_rotation},
    tasks,
};
use nix::unistd::Uid;
use secrecy::ExposeSecret as _;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use url::Url;

use crate::{
    config::{self, LOCAL_REGION, ServeArguments, ServeConfig},
    failure::{Code, Failure, Outcome},
};

/// Name of the control database in the control cluster.
const CONTROL_DATABASE: &str = "fsa";
/// Connections to the control database: workers and requests share them.
const CONTROL_CONNECTIONS: u32 = 16;
/// Interval of checks for a new key in the key file.
const KEY_FILE_INTERVAL: Duration = Duration::from_secs(3);
/// The login of the first owner.
const OWNER: &str = "owner";

pub fn run(arguments: ServeArguments) -> Outcome {
    let config = config::serve(arguments, Uid::effective().is_root())?;
    // Read before privileges are dropped: only the owner may read the file.
    let agent_environment = config::agent_environment(&config.secret_dir)?;
    log::start();
    let clusters = kubernetes::read(&config)?;
    let start = local::begin(&config)?;
    let lock = data_dir_lock::DataDirLock::acquire(&config.data_dir)?;
    fsa_local::malloc_arenas::limit_to(
        std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the asynchronous runtime cannot be started: {error}")))?;
    runtime.block_on(async {
        // Bound first, so that an address in use is reported before anything is started.
        let listener = bind(config.listen, "--listen").await?;
        let metrics_listener = match config.metrics_listen {
            Some(address) => Some(bind(address, "--metrics-listen").await?),
            None => None,
        };
        let address = listener.local_addr()?;
        let origin = origin(&config, address)?;
        let local = match start {
            Some(start) => Some(local::open(&config, start).await?),
            None => None,
        };
        let control = match (&config.database_dsn, &local) {
            (Some(dsn), _) => dsn.expose_secret().parse::<PgConnectOptions>().map_err(|_| {
                Failure::usage(
                    "database_dsn is not of the form postgresql://user:password@host/database",
                )
            })?,
            (None, Some(local)) => local.control.clone(),
            (None, None) => {
                return Err(Failure::usage(
                    "no_local needs an external control database: name it with --database-dsn",
                ));
            }
        };
        let store = Store::open(control, CONTROL_CONNECTIONS)
            .await
            .map_err(|error| Failure::failed(format!("the control database cannot be used: {error}")))?;
        let key_ring = KeyRing::open(&config.data_dir.join("keys/seal.key"))
            .map_err(|error| Failure::failed(error.to_string()))?;
        match key_rotation::check(&store, &key_ring).await {
            Err(error @ key_rotation::UnusableSecrets::Database(_)) => return Err(Failure::failed(error.to_string())),
            Err(error) if !config.without_lost_secrets => {
                return Err(Failure::failed(format!(
                    "{error} (`--without-lost-secrets` starts the server anyway; operations that need such a secret fail)"
                )));
            }
            Err(error) => tracing::error!("{error}"),
            Ok(()) => {}
        }
        let mut regions = Vec::new();
        if let Some(local) = &local {
            regions.push(Region {
                name: LOCAL_REGION.into(),
                driver: Arc::clone(&local.driver) as _,
                databases: Arc::clone(&local.databases) as _,
            });
        }
        let (clusters, connected) = kubernetes::open(clusters, &config)?;
        regions.extend(clusters);
        let mut regions = Regions::new(regions);
        if let Some(name) = &config.default_region {
            regions = regions.with_default(name);
        }
        let checks = checks::of(&config, &agent_environment, local.as_ref(), connected);
        let settings = Settings {
            listen: address,
            origin,
            apps_domain: config.apps_domain.clone(),
            agent_environment,
            agents: config.agents.clone(),
            development: config.development,
            drain: Duration::from_secs(config.drain_seconds),
            version: env!("CARGO_PKG_VERSION"),
            owner_login: OWNER.into(),
            web: fsa_web::application(),
            trusted_proxies: config.trusted_proxies.clone(),
            limits: Limits {
                per_owner: config.per_owner,
                per_member: config.per_member,
                server_wide: config.server_wide,
                body: config.body,
                upload: config.upload,
                connections_per_client: config.connections_per_client,
                branches_per_project: config.branches_per_project,
                ..Limits::default()
            },
            retention: config.retention.clone(),
            github: config.github.clone(),
            backups: config.backups.clone(),
            checks,
        };
        let app = App::new(store, regions, key_ring, settings);
        let options = reconcile::Options {
            concurrent: config.workers,
            alone: lock.alone && config.database_dsn.is_none(),
            ..reconcile::Options::default()
        };
        let workers = reconcile::Worker::spawn_with(app.core().clone(), app.callback.clone(), options, app.shutdown.clone());
        let tasks = tasks::run::spawn(
            app.core().clone(),
            lock.alone && config.database_dsn.is_none(),
            app.shutdown.clone(),
        );
        let reencryption = tokio::spawn(reencrypt(app.core().clone()));
        print_access(&app, &config, address).await?;
        if let Some(metrics_listener) = metrics_listener {
            tokio::spawn(listener::serve_metrics(app.clone(), metrics_listener));
        }
        listener::serve(app.clone(), listener, stop_signal()?).await?;
        // The workers release their leases, so that another server need not wait for them to expire.
        let _ = tokio::join!(workers, tasks, reencryption);
        if let Some(local) = local {
            local.end().await;
        }
        tracing::info!("stopped; sandboxes and databases keep running");
        Ok(0)
    })
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::failed(format!(
            "cannot listen on {address}: {error}. Choose another address with {flag}"
        ))
    })
}

/// Re-encrypts all stored secrets with the newest key, at the start and after each rotation, while the server runs.
async fn reencrypt(core: Core) {
    let mut encrypted_with = None;
    loop {
        let current = core.key_ring.current();
        if encrypted_with != Some(current) {
            match key_rotation::reencrypt(&core.store, &core.key_ring, &core.shutdown).await {
                Ok(count) => {
                    encrypted_with = Some(current);
                    if count > 0 {
                        tracing::info!(count, "stored secrets re-encrypted with the newest key");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "stored secrets not all re-encrypted; retrying")
                }
            }
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(KEY_FILE_INTERVAL) => {}
        }
        match core.key_ring.reload() {
            Ok(true) => tracing::info!("key file changed; reloaded"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "key file cannot be read; keeping the loaded keys"),
        }
    }
}

/// The configured origin, or localhost at the bound port.
fn origin(config: &ServeConfig, address: SocketAddr) -> Result<Url, Failure> {
    match &config.origin {
        Some(origin) => Ok(origin.clone()),
        None => Url::parse(&format!("http://localhost:{}", address.port()))
            .map_err(|error| Failure::failed(error.to_string())),
    }
}

/// Prints the sign-in link, the token and the address, for people and for programs that read standard output.
async fn print_access(app: &App, config: &ServeConfig, address: SocketAddr) -> Result<(), Failure> {
    let failed = |error: fsa_server::Error| {
        Failure::failed(format!("the sign-in link or token cannot be created: {error}"))
    };
    let mut out = std::io::stdout().lock();
    if let Some(link) = sign_in::first_link(app).await.map_err(failed)? {
        writeln!(
            out,
            "Sign in, once, within 15 minutes: {}",
            link.url.expose_secret()
        )?;
    }
    if config.print_token {
        let token = sign_in::create_token_for_owner(app, "printed by fsa serve")
            .await
            .map_err(failed)?;
        writeln!(out, "{}", token.expose_secret())?;
    }
    writeln!(out, "Ready on http://{address}")?;
    out.flush()?;
    Ok(())
}

/// Ready on SIGTERM or SIGINT. The second signal exits immediately.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(Code::Failed as i32);
        });
    })
}

//! `fsa doctor`: checks every requirement on this machine, each with its fix. Exits with 1 if projects cannot be created.
//! With `--no-local` it checks the requirements of the server only.

pub(super) mod remote;
mod storage;

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use fsa_local::{
    LocalConfig,
    driver::{Client, RunnerLink},
    postgres,
    protocol::Hello,
};
use fsa_model::system::{Check, CheckState};
use fsa_server::encryption::KeyRing;
use nix::{sys::statvfs::statvfs, unistd::Uid};

pub(super) use storage::storage_check;

use super::{
    internal::QUIET,
    serve::{kubernetes, log},
};
use crate::{
    config::{self, ServeArguments, ServeConfig},
    failure::{Failure, Outcome},
    output,
};

/// Free bytes below which the check fails, for PostgreSQL and images.
const MIN_FREE_BYTES: u64 = 512 << 20;
/// Free bytes below which the check warns.
const RECOMMENDED_FREE_BYTES: u64 = 5 << 30;
/// Maximum length of the data folder's path: the kernel's limit for a socket's path without the longest name below.
const MAX_PATH_BYTES: usize = 107 - "/run/c/.s.PGSQL.5432".len();

pub fn run(arguments: ServeArguments, json: bool) -> Outcome {
    let config = config::serve(arguments, Uid::effective().is_root())?;
    log::start_quiet();
    let clusters = kubernetes::read(&config);
    let runtime = super::runtime()?;
    let mut checks = vec![check_disk(&config)];
    if config.local {
        checks.splice(0..0, [check_kernel(), check_user(&config)]);
        checks.push(check_path(&config));
        checks.extend(local_checks(&config, &runtime)?);
        checks.push(check_web_image(&config));
        checks.extend(storage::check_storage(&config));
    }
    checks.push(runtime.block_on(check_address(&config)));
    checks.extend(runtime.block_on(remote::control_database(&config)));
    checks.push(check_keys(&config));
    checks.push(check_credentials(&config));
    checks.extend(runtime.block_on(remote::clusters(&config, clusters)));
    output::print(json, &checks, |checks| {
        for check in checks {
            let mark = match check.state {
                CheckState::Good => "✓",
                CheckState::Warning => "!",
                CheckState::Bad => "✗",
            };
            output::line(&format!("{mark} {:<18} {}", check.name, check.message));
        }
    });
    let bad = checks
        .iter()
        .filter(|check| check.state == CheckState::Bad)
        .count();
    if !json {
        output::line(&match bad {
            0 if config.local => "Projects can be created on this machine.".to_owned(),
            0 => "Projects can be created.".to_owned(),
            bad => format!("{bad} of these must be fixed before a project can be created."),
        });
    }
    Ok(u8::from(bad > 0))
}

/// The runner and PostgreSQL's programs. The runner is tested in a separate folder beside the data folder, on the same
/// file system, so that a running server is not disturbed.
fn local_checks(config: &ServeConfig, runtime: &tokio::runtime::Runtime) -> Result<Vec<Check>, Failure> {
    let probe = create_probe_folder(config)?;
    let settings = LocalConfig::new(probe.path(), &config.sandboxd);
    let mut runner = settings.runner;
    runner.runtime.clone_from(&config.runtime);
    runner.allowed_networks.clone_from(&config.allow_networks);
    let link = RunnerLink::start(
        &std::env::current_exe()?,
        &["runner".to_owned(), QUIET.to_owned()],
        &runner,
    );
    runtime.block_on(async {
        let mut checks = match link {
            Ok(link) => check_runner(link).await,
            Err(error) => vec![Check::new(
                "runner",
                CheckState::Bad,
                format!("it cannot be started: {error}"),
            )],
        };
        checks.push(check_postgresql(config).await);
        Ok(checks)
    })
}

pub(super) fn check_kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // Overlay on id-mapped layers: Linux 5.19.
    if version < (5, 19) {
        return Check::new(
            "kernel",
            CheckState::Bad,
            format!("{release} is too old: Linux 5.19 or later is needed"),
        );
    }
    Check::good("kernel", format!("Linux {release}"))
}

fn check_user(config: &ServeConfig) -> Check {
    if Uid::effective().is_root() {
        return Check::good("user", format!("root, and the server becomes {}", config.user));
    }
    Check::new(
        "user",
        CheckState::Warning,
        "a plain user: sandboxes run rootless; limits and separate user ranges need root (sudo fsa serve)",
    )
}

/// The nearest ancestor that exists.
fn nearest_existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"))
}

pub(super) fn check_disk(config: &ServeConfig) -> Check {
    let folder = nearest_existing(&config.data_dir);
    let free = match statvfs(folder) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(error) => {
            return Check::new(
                "disk",
                CheckState::Bad,
                format!("{} cannot be inspected: {error}", folder.display()),
            );
        }
    };
    let message = format!("{} MB free in {}", free / 1_000_000, folder.display());
    match free {
        0..MIN_FREE_BYTES => Check::new(
            "disk",
            CheckState::Bad,
            format!("{message}: free some space, or choose another --data-dir"),
        ),
        MIN_FREE_BYTES..RECOMMENDED_FREE_BYTES => Check::new(
            "disk",
            CheckState::Warning,
            format!("{message}: images and databases may fill it"),
        ),
        _ => Check::good("disk", message),
    }
}

pub(super) fn check_path(config: &ServeConfig) -> Check {
    let length = config.data_dir.as_os_str().len();
    if length > MAX_PATH_BYTES {
        let why = format!(
            "its path has {length} characters, too many for the sockets in it: at most {MAX_PATH_BYTES} are allowed"
        );
        return Check::new("data folder", CheckState::Bad, why);
    }
    Check::good("data folder", config.data_dir.display().to_string())
}

fn create_probe_folder(config: &ServeConfig) -> Result<tempfile::TempDir, Failure> {
    let folder = nearest_existing(config.data_dir.parent().unwrap_or(Path::new("/")));
    let probe = tempfile::Builder::new()
        .prefix(".fsa-doctor-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(folder)
        .or_else(|_| tempfile::Builder::new().prefix(".fsa-doctor-").tempdir())
        .map_err(|error| Failure::failed(format!("no folder can be created for the checks: {error}")))?;
    Ok(probe)
}

async fn check_runner(link: RunnerLink) -> Vec<Check> {
    let hello = async {
        let client = Client::new(link).map_err(|error| error.to_string())?;
        client.hello().await.map_err(|error| error.to_string())
    };
    match hello.await {
        Ok(hello) => runner_checks(&hello),
        Err(error) => vec![Check::new("runner", CheckState::Bad, error)],
    }
}

pub(super) fn runner_checks(hello: &Hello) -> Vec<Check> {
    let mut checks = Vec::new();
    if !hello.runtime.is_empty() {
        checks.push(Check::good("runtime", hello.runtime.clone()));
    }
    if hello.idmapped_mounts {
        checks.push(Check::good("file systems", "overlay on id-mapped layers works"));
    }
    let limits = [
        ("memory", hello.enforces_memory),
        ("processor", hello.enforces_cpu),
        ("processes", hello.enforces_pids),
    ];
    let enforced: Vec<&str> = limits
        .iter()
        .filter_map(|&(name, can)| can.then_some(name))
        .collect();
    if enforced.len() == limits.len() {
        checks.push(Check::good(
            "limits",
            "memory, processor and processes are enforced",
        ));
    }
    if hello.rootless {
        checks.push(Check::good(
            "file systems",
            "overlay in a user namespace works; sandboxes share one range of user ids",
        ));
    }
    if hello.isolates_network {
        checks.push(Check::good(
            "network",
            "each sandbox has its own, with a firewall",
        ));
    }
    checks.extend(
        hello
            .blockers
            .iter()
            .map(|message| Check::new("machine", CheckState::Bad, message.clone())),
    );
    checks.extend(
        hello
            .warnings
            .iter()
            .map(|message| Check::new("machine", CheckState::Warning, message.clone())),
    );
    checks
}

pub(super) async fn check_postgresql(config: &ServeConfig) -> Check {
    match postgres::installations(config.postgres_bin.as_deref()).await {
        Ok(found) if found.is_empty() => Check::new(
            "PostgreSQL",
            CheckState::Bad,
            "its server programs are missing: install them (Debian: apt-get install postgresql)",
        ),
        Ok(found) => {
            let names: Vec<_> = found
                .iter()
                .map(|installation| format!("{} in {}", installation.major, installation.bin.display()))
                .collect();
            Check::good("PostgreSQL", names.join(", "))
        }
        Err(error) => Check::new("PostgreSQL", CheckState::Bad, error.to_string()),
    }
}

async fn check_address(config: &ServeConfig) -> Check {
    let name = "address";
    match TcpListener::bind(config.listen) {
        Ok(_) => Check::good(name, format!("{} is free", config.listen)),
        Err(error) => {
            let url = format!("http://{}/readyz", config.listen);
            let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build();
            let answer = match http {
                Ok(http) => http.get(&url).send().await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    Check::good(name, format!("a server is ready at {}", config.listen))
                }
                Ok(answer) => Check::new(
                    name,
                    CheckState::Warning,
                    format!(
                        "the server at {} is not ready ({}): see {url}",
                        config.listen,
                        answer.status()
                    ),
                ),
                Err(_) => Check::new(
                    name,
                    CheckState::Bad,
                    format!(
                        "cannot listen on {} ({error}): choose another address with --listen",
                        config.listen
                    ),
                ),
            }
        }
    }
}

/// The key file, which stored secrets are decrypted with.
fn check_keys(config: &ServeConfig) -> Check {
    let (name, path) = ("keys", config.data_dir.join("keys/seal.key"));
    if !path.exists() {
        return Check::good(name, "the first start creates one");
    }
    match KeyRing::open(&path) {
        Ok(key_ring) => Check::good(
            name,
            format!(
                "{} in {}, the newest {} (`fsa keys list` shows what is encrypted with each)",
                key_ring.ids().len(),
                path.display(),
                key_ring.current().map(|byte| format!("{byte:02x}")).concat()
            ),
        ),
        Err(error) => Check::new(name, CheckState::Bad, error.to_string()),
    }
}

pub(super) fn check_web_image(config: &ServeConfig) -> Check {
    let name = "template web";
    match &config.web_image {
        // The server that runs may have been started with other settings than this command.
        None if fsa_local::images::has_template_web(&config.data_dir) => {
            Check::good(name, "its image is in the data folder")
        }
        None => Check::new(
            name,
            CheckState::Warning,
            "no image is configured: create one with `make image` and pass it with --web-image; the template host works",
        ),
        Some(image) if Path::new(image).is_file() => Check::good(name, image.clone()),
        Some(image) if Path::new(image).is_absolute() => Check::new(
            name,
            CheckState::Bad,
            format!("no archive at {image}: create it with `make image`"),
        ),
        Some(image) => Check::good(name, format!("the published image {image}")),
    }
}

fn check_credentials(config: &ServeConfig) -> Check {
    let name = "agent credentials";
    match config::agent_environment(&config.secret_dir) {
        Ok(variables) if variables.is_empty() => Check::new(
            name,
            CheckState::Warning,
            format!(
                "none in {}: every project needs its own (fsa env set P ANTHROPIC_API_KEY=…)",
                config.secret_dir.join(".env").display()
            ),
        ),
        Ok(variables) => Check::good(name, variables.into_keys().collect::<Vec<_>>().join(", ")),
        Err(failure) => Check::new(name, CheckState::Bad, failure.to_string()),
    }
}

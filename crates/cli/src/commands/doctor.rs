//! `fsa doctor`: checks every requirement on this machine, each with its fix. Exits with 1 if no project could be created.
//! With `--no-local` it checks only what the server itself needs.

pub(super) mod elsewhere;

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

use super::serve::{kubernetes, log};
use crate::{
    config::{self, ServeArguments, ServeConfig},
    failure::{Failure, Outcome},
    output,
};

/// Free bytes below which the check fails; PostgreSQL and images need room.
const SPACE_NEEDED: u64 = 512 << 20;
/// Free bytes below which the check warns.
const SPACE_WANTED: u64 = 5 << 30;
/// The kernel's limit for a socket's path, less what the longest one has below the data folder.
const PATH_LIMIT: usize = 107 - "/run/c/.s.PGSQL.5432".len();

pub fn run(arguments: ServeArguments, json: bool) -> Outcome {
    let config = config::serve(arguments, Uid::effective().is_root())?;
    log::start();
    let clusters = kubernetes::read(&config);
    let runtime = super::runtime()?;
    let mut points = vec![space(&config)];
    if config.local {
        points.splice(0..0, [kernel(), user(&config)]);
        points.push(path(&config));
        points.extend(sandboxes_here(&config, &runtime)?);
        points.push(web_image(&config));
    }
    points.push(runtime.block_on(listening(&config)));
    points.extend(runtime.block_on(elsewhere::control_database(&config)));
    points.push(keys(&config));
    points.push(credentials(&config));
    points.extend(runtime.block_on(elsewhere::clusters(&config, clusters)));
    output::print(json, &points, |points| {
        for point in points {
            let mark = match point.state {
                CheckState::Good => "✓",
                CheckState::Warning => "!",
                CheckState::Bad => "✗",
            };
            output::line(&format!("{mark} {:<18} {}", point.name, point.message));
        }
    });
    let bad = points
        .iter()
        .filter(|point| point.state == CheckState::Bad)
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
fn sandboxes_here(config: &ServeConfig, runtime: &tokio::runtime::Runtime) -> Result<Vec<Check>, Failure> {
    let probe = probe(config)?;
    let settings = LocalConfig::new(probe.path(), &config.sandboxd);
    let mut runner = settings.runner;
    runner.runtime.clone_from(&config.runtime);
    runner.allowed_networks.clone_from(&config.allow_networks);
    let link = RunnerLink::start(&std::env::current_exe()?, &["runner".to_owned()], &runner);
    runtime.block_on(async {
        let mut points = match link {
            Ok(link) => machine(link).await,
            Err(error) => vec![Check::new(
                "runner",
                CheckState::Bad,
                format!("it cannot be started: {error}"),
            )],
        };
        points.push(programs(config).await);
        Ok(points)
    })
}

pub(super) fn kernel() -> Check {
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

fn user(config: &ServeConfig) -> Check {
    if Uid::effective().is_root() {
        return Check::good("user", format!("root, and the server becomes {}", config.user));
    }
    Check::new(
        "user",
        CheckState::Warning,
        "a plain user: sandboxes run rootless; limits and separate user ranges need root (sudo fsa serve)",
    )
}

/// The nearest folder above that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"))
}

pub(super) fn space(config: &ServeConfig) -> Check {
    let folder = existing(&config.data_dir);
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
        0..SPACE_NEEDED => Check::new(
            "disk",
            CheckState::Bad,
            format!("{message}: free some space, or choose another --data-dir"),
        ),
        SPACE_NEEDED..SPACE_WANTED => Check::new(
            "disk",
            CheckState::Warning,
            format!("{message}: images and databases may fill it"),
        ),
        _ => Check::good("disk", message),
    }
}

pub(super) fn path(config: &ServeConfig) -> Check {
    let length = config.data_dir.as_os_str().len();
    if length > PATH_LIMIT {
        let why = format!(
            "its path has {length} characters, too many for the sockets in it: at most {PATH_LIMIT} are allowed"
        );
        return Check::new("data folder", CheckState::Bad, why);
    }
    Check::good("data folder", config.data_dir.display().to_string())
}

fn probe(config: &ServeConfig) -> Result<tempfile::TempDir, Failure> {
    let folder = existing(config.data_dir.parent().unwrap_or(Path::new("/")));
    let probe = tempfile::Builder::new()
        .prefix(".fsa-doctor-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(folder)
        .or_else(|_| tempfile::Builder::new().prefix(".fsa-doctor-").tempdir())
        .map_err(|error| Failure::failed(format!("no folder can be created for the checks: {error}")))?;
    Ok(probe)
}

async fn machine(link: RunnerLink) -> Vec<Check> {
    let hello = async {
        let client = Client::new(link).map_err(|error| error.to_string())?;
        client.hello().await.map_err(|error| error.to_string())
    };
    match hello.await {
        Ok(hello) => of_runner(&hello),
        Err(error) => vec![Check::new("runner", CheckState::Bad, error)],
    }
}

pub(super) fn of_runner(hello: &Hello) -> Vec<Check> {
    let mut points = Vec::new();
    if !hello.runtime.is_empty() {
        points.push(Check::good("runtime", hello.runtime.clone()));
    }
    if hello.idmapped_mounts {
        points.push(Check::good("file systems", "overlay on id-mapped layers works"));
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
        points.push(Check::good(
            "limits",
            "memory, processor and processes are enforced",
        ));
    }
    if hello.rootless {
        points.push(Check::good(
            "file systems",
            "overlay in a user namespace works; sandboxes share one range of user ids",
        ));
    }
    if hello.isolates_network {
        points.push(Check::good(
            "network",
            "each sandbox has its own, with a firewall",
        ));
    }
    points.extend(
        hello
            .blockers
            .iter()
            .map(|message| Check::new("machine", CheckState::Bad, message.clone())),
    );
    points.extend(
        hello
            .warnings
            .iter()
            .map(|message| Check::new("machine", CheckState::Warning, message.clone())),
    );
    points
}

pub(super) async fn programs(config: &ServeConfig) -> Check {
    match postgres::installations(config.postgres_bin.as_deref()).await {
        Ok(found) if found.is_empty() => Check::new(
            "PostgreSQL",
            CheckState::Bad,
            "its server programs are missing: install them (Debian: apt-get install postgresql)",
        ),
        Ok(found) => {
            let newest = &found[0];
            Check::good(
                "PostgreSQL",
                format!("{} in {}", newest.major, newest.bin.display()),
            )
        }
        Err(error) => Check::new("PostgreSQL", CheckState::Bad, error.to_string()),
    }
}

async fn listening(config: &ServeConfig) -> Check {
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
                        "what runs at {} is not ready ({}): see {url}",
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

/// The key file, without which stored secrets are lost.
fn keys(config: &ServeConfig) -> Check {
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

pub(super) fn web_image(config: &ServeConfig) -> Check {
    let name = "template web";
    match &config.web_image {
        None => Check::new(
            name,
            CheckState::Warning,
            "no image is named: create it with `make image` and name it with --web-image; the template host works",
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

fn credentials(config: &ServeConfig) -> Check {
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

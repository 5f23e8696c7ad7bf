//! `fsa doctor`: every point that the main job needs, tried on this machine, each with its
//! remedy. Ends with 1 where a project could not be made.

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use fsa_kubernetes::checks;
use fsa_local::{
    LocalConfig,
    driver::{Client, RunnerLink},
    postgres,
    protocol::Hello,
};
use fsa_server::auth::seal::Sealer;
use nix::{sys::statvfs::statvfs, unistd::Uid};
use serde::Serialize;

use super::serve::{kubernetes, log};
use crate::{
    config::{self, ServeArguments, ServeConfig},
    failure::{Failure, Outcome},
    output,
};

/// Below this nothing is made; PostgreSQL and images need room.
const SPACE_NEEDED: u64 = 512 << 20;
/// Below this a person should know.
const SPACE_WANTED: u64 = 5 << 30;
/// The kernel's limit for a socket's path, less what the longest one has below the data folder.
const PATH_LIMIT: usize = 107 - "/run/c/.s.PGSQL.5432".len();

/// How a point was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// Something works less well than it could.
    Warning,
    /// A project could not be made.
    Bad,
}

/// One point.
#[derive(Debug, Serialize)]
struct Point {
    name: &'static str,
    state: State,
    message: String,
}

impl Point {
    fn new(name: &'static str, state: State, message: impl Into<String>) -> Self {
        Self {
            name,
            state,
            message: message.into(),
        }
    }

    fn good(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, State::Good, message)
    }
}

pub fn run(arguments: ServeArguments, json: bool) -> Outcome {
    let config = config::serve(arguments, Uid::effective().is_root())?;
    log::start();
    let clusters = kubernetes::read(&config);
    let mut points = vec![kernel(), user(&config), space(&config), path(&config)];
    // The runner is tried in a folder of its own beside the data folder, on the same file system,
    // so that a server that runs is not disturbed.
    let probe = probe(&config)?;
    let settings = LocalConfig::new(probe.path(), &config.sandboxd);
    let mut runner = settings.runner;
    runner.runtime.clone_from(&config.runtime);
    runner.allowed_networks.clone_from(&config.allow_networks);
    let link = RunnerLink::start(&std::env::current_exe()?, &["runner".to_owned()], &runner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the asynchronous runtime cannot be started: {error}")))?;
    runtime.block_on(async {
        match link {
            Ok(link) => points.extend(machine(link).await),
            Err(error) => points.push(Point::new(
                "runner",
                State::Bad,
                format!("it cannot be started: {error}"),
            )),
        }
        points.push(programs(&config).await);
        points.push(listening(&config).await);
    });
    points.push(web_image(&config));
    points.push(keys(&config));
    points.push(credentials(&config));
    points.extend(runtime.block_on(clusters_of_regions(&config, clusters)));
    drop(probe);
    output::print(json, &points, |points| {
        for point in points {
            let mark = match point.state {
                State::Good => "✓",
                State::Warning => "!",
                State::Bad => "✗",
            };
            output::line(&format!("{mark} {:<18} {}", point.name, point.message));
        }
    });
    let bad = points.iter().filter(|point| point.state == State::Bad).count();
    if !json {
        output::line(&match bad {
            0 => "Projects can be made on this machine.".to_owned(),
            bad => format!("{bad} of these must be mended before a project can be made."),
        });
    }
    Ok(u8::from(bad > 0))
}

fn kernel() -> Point {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // Overlay on id-mapped layers: Linux 5.19.
    if version < (5, 19) {
        return Point::new(
            "kernel",
            State::Bad,
            format!("{release} is too old: Linux 5.19 or later is needed"),
        );
    }
    Point::good("kernel", format!("Linux {release}"))
}

fn user(config: &ServeConfig) -> Point {
    if Uid::effective().is_root() {
        return Point::good("user", format!("root, and the server becomes {}", config.user));
    }
    Point::new(
        "user",
        State::Warning,
        "a plain user: sandboxes run rootless; limits and separate user ranges need root (sudo fsa serve)",
    )
}

/// The nearest folder above that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"))
}

fn space(config: &ServeConfig) -> Point {
    let folder = existing(&config.data_dir);
    let free = match statvfs(folder) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(error) => {
            return Point::new(
                "disk",
                State::Bad,
                format!("{} cannot be looked at: {error}", folder.display()),
            );
        }
    };
    let said = format!("{} MB free in {}", free / 1_000_000, folder.display());
    match free {
        0..SPACE_NEEDED => Point::new(
            "disk",
            State::Bad,
            format!("{said}: make room, or choose another --data-dir"),
        ),
        SPACE_NEEDED..SPACE_WANTED => Point::new(
            "disk",
            State::Warning,
            format!("{said}: images and databases may fill it"),
        ),
        _ => Point::good("disk", said),
    }
}

fn path(config: &ServeConfig) -> Point {
    let length = config.data_dir.as_os_str().len();
    if length > PATH_LIMIT {
        let why = format!(
            "its path has {length} characters, and sockets in it would have too many: at most {PATH_LIMIT}"
        );
        return Point::new("data folder", State::Bad, why);
    }
    Point::good("data folder", config.data_dir.display().to_string())
}

fn probe(config: &ServeConfig) -> Result<tempfile::TempDir, Failure> {
    let folder = existing(config.data_dir.parent().unwrap_or(Path::new("/")));
    let probe = tempfile::Builder::new()
        .prefix(".fsa-doctor-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(folder)
        .or_else(|_| tempfile::Builder::new().prefix(".fsa-doctor-").tempdir())
        .map_err(|error| Failure::failed(format!("no folder can be made for the checks: {error}")))?;
    Ok(probe)
}

async fn machine(link: RunnerLink) -> Vec<Point> {
    let hello = async {
        let client = Client::new(link).map_err(|error| error.to_string())?;
        client.hello().await.map_err(|error| error.to_string())
    };
    match hello.await {
        Ok(hello) => of_runner(&hello),
        Err(error) => vec![Point::new("runner", State::Bad, error)],
    }
}

fn of_runner(hello: &Hello) -> Vec<Point> {
    let mut points = Vec::new();
    if !hello.runtime.is_empty() {
        points.push(Point::good("runtime", hello.runtime.clone()));
    }
    if hello.idmapped_mounts {
        points.push(Point::good("file systems", "overlay on id-mapped layers works"));
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
        points.push(Point::good(
            "limits",
            "memory, processor and processes are enforced",
        ));
    }
    if hello.rootless {
        points.push(Point::good(
            "file systems",
            "overlay in a user namespace works; sandboxes share one range of user ids",
        ));
    }
    if hello.isolates_network {
        points.push(Point::good(
            "network",
            "each sandbox has its own, with a firewall",
        ));
    }
    points.extend(
        hello
            .blockers
            .iter()
            .map(|message| Point::new("machine", State::Bad, message.clone())),
    );
    points.extend(
        hello
            .warnings
            .iter()
            .map(|message| Point::new("machine", State::Warning, message.clone())),
    );
    points
}

async fn programs(config: &ServeConfig) -> Point {
    match postgres::installations(config.postgres_bin.as_deref()).await {
        Ok(found) if found.is_empty() => Point::new(
            "PostgreSQL",
            State::Bad,
            "its server programs are missing: install them (Debian: apt-get install postgresql)",
        ),
        Ok(found) => {
            let newest = &found[0];
            Point::good(
                "PostgreSQL",
                format!("{} in {}", newest.major, newest.bin.display()),
            )
        }
        Err(error) => Point::new("PostgreSQL", State::Bad, error.to_string()),
    }
}

async fn listening(config: &ServeConfig) -> Point {
    let name = "address";
    match TcpListener::bind(config.listen) {
        Ok(_) => Point::good(name, format!("{} is free", config.listen)),
        Err(error) => {
            let url = format!("http://{}/readyz", config.listen);
            let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build();
            let answer = match http {
                Ok(http) => http.get(&url).send().await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    Point::good(name, format!("a server is ready at {}", config.listen))
                }
                Ok(answer) => Point::new(
                    name,
                    State::Warning,
                    format!(
                        "what runs at {} is not ready ({}): see {url}",
                        config.listen,
                        answer.status()
                    ),
                ),
                Err(_) => Point::new(
                    name,
                    State::Bad,
                    format!(
                        "{} cannot be listened on ({error}): choose another with --listen",
                        config.listen
                    ),
                ),
            }
        }
    }
}

/// The key file, without which stored secrets are lost.
fn keys(config: &ServeConfig) -> Point {
    let (name, path) = ("keys", config.data_dir.join("keys/seal.key"));
    if !path.exists() {
        return Point::good(name, "the first start makes one");
    }
    match Sealer::open(&path) {
        Ok(sealer) => Point::good(
            name,
            format!(
                "{} in {}, the newest {} (`fsa keys list` says what is sealed with which)",
                sealer.ids().len(),
                path.display(),
                sealer.current().map(|byte| format!("{byte:02x}")).concat()
            ),
        ),
        Err(error) => Point::new(name, State::Bad, error.to_string()),
    }
}

fn web_image(config: &ServeConfig) -> Point {
    let name = "template web";
    match &config.web_image {
        None => Point::new(
            name,
            State::Warning,
            "no image is named: make it with `make image` and name it with --web-image; the template host works",
        ),
        Some(image) if Path::new(image).is_file() => Point::good(name, image.clone()),
        Some(image) if Path::new(image).is_absolute() => Point::new(
            name,
            State::Bad,
            format!("there is no archive at {image}: make it with `make image`"),
        ),
        Some(image) => Point::good(name, format!("the published image {image}")),
    }
}

fn credentials(config: &ServeConfig) -> Point {
    let name = "agent credentials";
    match config::agent_environment(&config.secret_dir) {
        Ok(variables) if variables.is_empty() => Point::new(
            name,
            State::Warning,
            format!(
                "none in {}: every project needs its own (fsa env set P ANTHROPIC_API_KEY=…)",
                config.secret_dir.join(".env").display()
            ),
        ),
        Ok(variables) => Point::good(name, variables.into_keys().collect::<Vec<_>>().join(", ")),
        Err(failure) => Point::new(name, State::Bad, failure.to_string()),
    }
}

/// Each Kubernetes region, point by point.
async fn clusters_of_regions(
    config: &ServeConfig,
    clusters: Result<Vec<kubernetes::Read>, Failure>,
) -> Vec<Point> {
    let clusters = match clusters {
        Ok(clusters) if config.regions.is_empty() || clusters.is_empty() => {
            return vec![Point::good(
                "kubernetes",
                "not configured; projects run on this machine",
            )];
        }
        Ok(clusters) => clusters,
        Err(failure) => return vec![Point::new("kubernetes", State::Bad, failure.message)],
    };
    let mut points = Vec::new();
    for read in clusters {
        let (region, settings) = (read.name.clone(), read.settings.clone());
        match read.checked.connect() {
            Ok(cluster) => {
                for check in fsa_kubernetes::checks::run(&cluster, &settings).await {
                    let state = match check.state {
                        checks::State::Good => State::Good,
                        checks::State::Warning => State::Warning,
                        checks::State::Bad => State::Bad,
                    };
                    points.push(Point::new(
                        check.name,
                        state,
                        format!("{region}: {}", check.message),
                    ));
                }
            }
            Err(error) => points.push(Point::new("kubernetes", State::Bad, format!("{region}: {error}"))),
        }
    }
    points
}

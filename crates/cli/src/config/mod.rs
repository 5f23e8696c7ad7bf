//! Settings: flag > environment (`FSA_…`) > TOML file > default. The only place that reads the environment.
//!
//! [`Settings`] declares them; [`serve`] merges and validates.

mod agents;
mod backups;
mod environment;
mod github;
mod settings;
mod user_limit;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use fsa_local::{project_databases, runner::Storage};
use fsa_model::{address::Network, limits::Limits};
use fsa_server::settings::{AuditRetention, Retention};
use secrecy::SecretString;
use url::Url;

pub use self::{
    agents::{agent_environment, environment_file},
    environment::{client_token, config_folder, log_filter, log_json},
    settings::{ServeArguments, Settings, table},
    user_limit::UserLimit,
};
use crate::failure::Failure;

/// Validated settings of `fsa serve`.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    pub listen: SocketAddr,
    pub metrics_listen: Option<SocketAddr>,
    pub data_dir: PathBuf,
    /// None: localhost, at the port that is listened on.
    pub origin: Option<Url>,
    pub apps_domain: String,
    pub trusted_proxies: Vec<Network>,
    pub print_token: bool,
    /// Start even if there are stored secrets that no key decrypts.
    pub without_lost_secrets: bool,
    pub database_dsn: Option<SecretString>,
    pub runtime: PathBuf,
    pub sandboxd: PathBuf,
    pub web_image: Option<String>,
    /// Where volumes are; `None` for what the data folder has.
    pub storage: Option<Storage>,
    pub storage_size_mib: Option<u64>,
    pub postgres_bin: Option<PathBuf>,
    /// Time without a connection after which a project's database server is stopped.
    pub database_idle: Duration,
    pub user: String,
    pub allow_networks: Vec<String>,
    pub allow_registries: Vec<String>,
    pub registries: Vec<String>,
    pub secret_dir: PathBuf,
    pub agents: fsa_server::settings::LlmProxySettings,
    pub development: bool,
    /// Limits of each owner, of each member, and of all users together.
    pub per_owner: Limits,
    pub per_member: Limits,
    pub server_wide: Limits,
    /// Bytes of a request's body, and of an upload into a sandbox.
    pub body: usize,
    pub upload: u64,
    pub connections_per_client: usize,
    pub retention: Retention,
    pub branches_per_project: usize,
    pub workers: usize,
    pub drain_seconds: u64,
    /// The value of `KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// Whether this machine is a region.
    pub local: bool,
    pub default_region: Option<String>,
    /// Kubernetes clusters as regions, by name.
    pub regions: BTreeMap<String, fsa_kubernetes::settings::Settings>,
    pub github: Option<fsa_server::settings::GithubSettings>,
    pub backups: Option<fsa_server::settings::BackupSettings>,
}

/// The name of this machine as a region.
pub const LOCAL_REGION: &str = "local";
/// The name of the region that a kubeconfig without settings makes.
pub const KUBERNETES_REGION: &str = "kubernetes";

/// Merges flags, environment and file, fills in the defaults and validates.
pub fn serve(arguments: ServeArguments, root: bool) -> Result<ServeConfig, Failure> {
    let file = match &arguments.config {
        Some(path) => settings::read(path)?,
        None => Settings::default(),
    };
    let settings = arguments.settings.or(file);
    let data_dir = match &settings.data_dir {
        Some(folder) => std::path::absolute(folder)?,
        None if root => PathBuf::from("/var/lib/fsa"),
        None => environment::data_home()
            .map(|folder| folder.join("fsa"))
            .ok_or_else(|| Failure::usage("HOME is not set: name the data folder with --data-dir"))?,
    };
    if let Some(origin) = &settings.origin
        && (origin.path() != "/"
            || !matches!(origin.scheme(), "http" | "https")
            || origin.host_str().is_none())
    {
        return Err(Failure::usage(format!(
            "the origin {origin} is not of the form http(s)://host[:port]"
        )));
    }
    let sandboxd = match &settings.sandboxd {
        Some(path) => std::path::absolute(path)?,
        None => environment::beside("fsa-sandboxd")?,
    };
    let secret_dir = settings.secret_dir.clone().unwrap_or_else(|| ".secret".into());
    let local = !settings.no_local.unwrap_or(false);
    let regions = regions(&settings, &secret_dir, local)?;
    let allow_networks = list(&settings.allow_networks);
    let agents = agents::agents(&settings, &allow_networks)?;
    let storage = storage(&settings)?;
    let (per_owner, per_member) = per_user(&settings)?;
    Ok(ServeConfig {
        github: github::github(&settings, &agents.allowed_networks)?,
        backups: backups::backups(&settings, &data_dir)?,
        listen: settings
            .listen
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
        metrics_listen: settings.metrics_listen,
        retention: retention(&settings, &data_dir),
        data_dir,
        trusted_proxies: list(&settings.trusted_proxies)
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, String>>()
            .map_err(|error| Failure::usage(format!("trusted_proxies: {error}")))?,
        print_token: arguments.print_token,
        without_lost_secrets: arguments.without_lost_secrets,
        runtime: settings.runtime.clone().unwrap_or_else(|| "runc".into()),
        sandboxd,
        allow_networks,
        allow_registries: list(&settings.allow_registries),
        registries: list(&settings.registries),
        agents,
        secret_dir,
        per_owner,
        per_member,
        server_wide: in_all(&settings),
        body: mebibytes("body_mib", settings.body_mib, 32, 1024)? as usize,
        upload: mebibytes("upload_mib", settings.upload_mib, 1024, 1024 * 1024)?,
        connections_per_client: settings.connections_per_client.unwrap_or(1024).max(1),
        branches_per_project: settings.branches_per_project.unwrap_or(20).clamp(1, 1000),
        development: settings.development.unwrap_or(false),
        workers: settings.workers.unwrap_or(16).clamp(1, 256),
        drain_seconds: settings.drain_seconds.unwrap_or(10),
        kubeconfig: environment::variable("KUBECONFIG").map(PathBuf::from),
        local,
        regions,
        origin: settings.origin,
        apps_domain: settings.apps_domain.unwrap_or_else(|| "localhost".into()),
        database_dsn: settings.database_dsn,
        web_image: settings.web_image.filter(|text| !text.is_empty()),
        storage,
        storage_size_mib: settings.storage_size_mib,
        postgres_bin: settings.postgres_bin,
        database_idle: settings
            .database_idle_minutes
            .map_or(project_databases::IDLE_STOP, |minutes| {
                Duration::from_secs(60 * u64::from(minutes.max(1)))
            }),
        user: settings.user.unwrap_or_else(|| "fsa".into()),
        default_region: settings.default_region,
    })
}

/// Where volumes are.
fn storage(settings: &Settings) -> Result<Option<Storage>, Failure> {
    match settings.storage.as_deref() {
        None | Some("" | "auto") => Ok(Some(Storage::Auto)),
        Some("copy") => Ok(Some(Storage::Copy)),
        Some("btrfs") => Ok(Some(Storage::Btrfs)),
        Some(path) if Path::new(path).is_absolute() => Ok(Some(Storage::Device(path.into()))),
        Some(other) => Err(Failure::usage(format!(
            "storage is auto, copy, btrfs or the absolute path of a block device, and not {other}"
        ))),
    }
}

/// The Kubernetes regions by name, each with its kubeconfig.
fn regions(
    settings: &Settings,
    secret_dir: &Path,
    local: bool,
) -> Result<BTreeMap<String, fsa_kubernetes::settings::Settings>, Failure> {
    let mut regions = settings.regions.clone().unwrap_or_default();
    if regions.contains_key(LOCAL_REGION) {
        return Err(Failure::usage(format!(
            "a region of the settings file is named {LOCAL_REGION}, which is this machine's name; choose another"
        )));
    }
    // A kubeconfig by itself makes a region.
    if regions.is_empty() && (settings.kubeconfig.is_some() || secret_dir.join("kubeconfig").exists()) {
        regions.insert(
            KUBERNETES_REGION.into(),
            fsa_kubernetes::settings::Settings::default(),
        );
    }
    for region in regions.values_mut() {
        region.kubeconfig = region.kubeconfig.take().or_else(|| settings.kubeconfig.clone());
    }
    if let Some(name) = &settings.default_region
        && !(regions.contains_key(name) || (local && name == LOCAL_REGION))
    {
        return Err(Failure::usage(format!(
            "there is no region {name}, which default_region names: correct default_region, or add the region to the settings file"
        )));
    }
    if !local && regions.is_empty() {
        return Err(Failure::usage(
            "no_local needs a Kubernetes region: give a kubeconfig, or a region in the settings file",
        ));
    }
    Ok(regions)
}

/// The limits of each owner and of each member. What is set applies to both.
fn per_user(settings: &Settings) -> Result<(Limits, Limits), Failure> {
    // With 0, no request at all would be possible.
    if settings.user_requests_per_minute == Some(UserLimit::AtMost(0)) {
        return Err(Failure::usage(
            "user_requests_per_minute is a number of 1 or more, or none",
        ));
    }
    let limits = |default: Limits| Limits {
        projects: UserLimit::or(settings.user_projects, default.projects),
        running: UserLimit::or(settings.user_running, default.running),
        cpu_millis: UserLimit::or(settings.user_cpu_millis, default.cpu_millis),
        memory_mib: UserLimit::or(settings.user_memory_mib, default.memory_mib),
        disk_mib: UserLimit::or(settings.user_disk_mib, default.disk_mib),
        requests_per_minute: UserLimit::or(settings.user_requests_per_minute, default.requests_per_minute),
        execs_per_minute: UserLimit::or(settings.user_execs_per_minute, default.execs_per_minute),
    };
    Ok((limits(Limits::default()), limits(Limits::OF_MEMBERS)))
}

fn retention(settings: &Settings, data_dir: &Path) -> Retention {
    let days = |value: Option<u32>, default| Some(value.unwrap_or(default)).filter(|days| *days > 0);
    Retention {
        events_days: days(settings.keep_events_days, 90),
        agent_steps_days: days(settings.keep_agent_steps_days, 90),
        audit: days(settings.keep_audit_days, 400).map(|days| AuditRetention {
            days,
            folder: data_dir.join("audit"),
        }),
    }
}

fn in_all(settings: &Settings) -> Limits {
    Limits {
        projects: settings.most_projects,
        running: settings.most_running,
        cpu_millis: settings.most_cpu_millis,
        memory_mib: settings.most_memory_mib,
        disk_mib: settings.most_disk_mib,
        ..Limits::default()
    }
}

/// A list without empty items, which an empty environment variable has.
fn list(items: &Option<Vec<String>>) -> Vec<String> {
    let items = items.iter().flatten();
    items.filter(|text| !text.is_empty()).cloned().collect()
}

/// A number of MiB in bytes.
fn mebibytes(name: &str, value: Option<u64>, default: u64, most: u64) -> Result<u64, Failure> {
    match value.unwrap_or(default) {
        value if (1..=most).contains(&value) => Ok(value << 20),
        _ => Err(Failure::usage(format!("{name} is a number from 1 to {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fsa.toml");
        std::fs::write(
            &path,
            "listen = \"127.0.0.1:9000\"\nworkers = 3\napps_domain = \"apps.example\"\n",
        )
        .unwrap();
        let arguments = ServeArguments {
            config: Some(path),
            settings: Settings {
                workers: Some(5),
                ..Settings::default()
            },
            ..ServeArguments::default()
        };
        let config = serve(arguments, true).unwrap();
        assert_eq!(config.listen.port(), 9000);
        assert_eq!(config.workers, 5);
        assert_eq!(config.apps_domain, "apps.example");
        assert_eq!(config.runtime, PathBuf::from("runc"));
    }

    #[test]
    fn the_environment_is_between_the_flags_and_the_file() {
        use clap::{CommandFactory as _, FromArgMatches as _, Parser};
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            serve: ServeArguments,
        }
        let settings = |arguments: &[&str]| {
            // The variable of this test process: PATH is used in place of FSA_USER.
            let command = Command::command().mut_arg("user", |argument| argument.env("PATH"));
            let matches = command.try_get_matches_from(arguments).unwrap();
            Command::from_arg_matches(&matches).unwrap().serve.settings
        };
        let file = || Settings {
            user: Some("file".into()),
            no_local: Some(true),
            ..Settings::default()
        };
        let path = environment::variable("PATH");
        assert_eq!(settings(&["fsa"]).or(file()).user, path);
        assert_eq!(
            settings(&["fsa", "--user", "flag"]).or(file()).user.as_deref(),
            Some("flag")
        );
        assert_eq!(settings(&["fsa"]).or(file()).no_local, Some(true));
        assert_eq!(
            settings(&["fsa", "--no-local=false"]).or(file()).no_local,
            Some(false)
        );
    }

    #[test]
    fn trusted_proxies_are_addresses_or_networks() {
        let config = |text: &str| {
            let mut arguments = ServeArguments::default();
            arguments.settings.trusted_proxies = Some(vec![text.to_owned()]);
            serve(arguments, true)
        };
        let trusted = config("10.1.0.0/16").unwrap().trusted_proxies;
        assert!(trusted[0].contains("10.1.2.3".parse().unwrap()));
        let failure = config("proxy.example").unwrap_err();
        assert!(
            failure.message.contains("trusted_proxies") && failure.message.contains("proxy.example"),
            "{failure}"
        );
        assert!(config("").unwrap().trusted_proxies.is_empty());
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fsa.toml");
        std::fs::write(&path, "lisen = \"127.0.0.1:9000\"\n").unwrap();
        let arguments = ServeArguments {
            config: Some(path),
            ..ServeArguments::default()
        };
        assert!(serve(arguments, true).unwrap_err().message.contains("lisen"));
    }

    #[test]
    fn a_broken_credentials_file_is_named_and_its_content_is_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(".env"),
            "ANTHROPIC_API_KEY=sk-1\nthis is sk-secret \"\n",
        )
        .unwrap();
        let failure = agent_environment(folder.path()).unwrap_err();
        assert!(
            failure.message.contains(".env") && !failure.message.contains("sk-"),
            "{failure}"
        );
    }
}

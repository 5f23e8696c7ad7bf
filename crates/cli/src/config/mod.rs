//! Settings: flag > environment (`FSA_…`) > TOML file > default. The only place that reads the
//! environment.

mod agents;
mod arguments;
mod environment;
mod github;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use fsa_model::limits::Limits;
use fsa_server::settings::Join;
use secrecy::SecretString;
use url::Url;

use self::arguments::File;
pub use self::{
    agents::{agent_environment, environment_file},
    arguments::ServeArguments,
    environment::{client_token, config_folder, log_filter, log_json},
};
use crate::failure::Failure;

/// What `fsa serve` runs with.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// None: localhost, at the port that is listened on.
    pub origin: Option<Url>,
    pub apps_domain: String,
    pub print_token: bool,
    /// Stored secrets that no key opens are no reason not to start.
    pub without_lost_secrets: bool,
    pub database_dsn: Option<SecretString>,
    pub runtime: PathBuf,
    pub sandboxd: PathBuf,
    pub web_image: Option<String>,
    pub postgres_bin: Option<PathBuf>,
    pub user: String,
    pub allow_networks: Vec<String>,
    pub allow_registries: Vec<String>,
    pub secret_dir: PathBuf,
    pub agents: fsa_server::settings::LlmProxySettings,
    pub development: bool,
    /// What each user may have, and all together.
    pub per_user: Limits,
    pub in_all: Limits,
    /// Bytes of a request's body, and of an upload into a sandbox.
    pub body: usize,
    pub upload: u64,
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
}

/// The name of this machine as a region.
pub const LOCAL_REGION: &str = "local";
/// The name of the region that a kubeconfig makes by itself.
pub const KUBERNETES_REGION: &str = "kubernetes";

/// Puts the layers together.
pub fn serve(arguments: ServeArguments, root: bool) -> Result<ServeConfig, Failure> {
    let file = match &arguments.config {
        Some(path) => arguments::read(path)?,
        None => File::default(),
    };
    let listen = arguments
        .listen
        .or(file.listen)
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    let data_dir = match arguments.data_dir.or(file.data_dir) {
        Some(folder) => std::path::absolute(folder)?,
        None if root => PathBuf::from("/var/lib/fsa"),
        None => environment::data_home()
            .map(|folder| folder.join("fsa"))
            .ok_or_else(|| Failure::usage("HOME is not set: say with --data-dir where to keep the data"))?,
    };
    let origin = arguments.origin.or(file.origin);
    if let Some(origin) = &origin
        && (origin.path() != "/"
            || !matches!(origin.scheme(), "http" | "https")
            || origin.host_str().is_none())
    {
        return Err(Failure::usage(format!(
            "the origin {origin} is not of the form http(s)://host[:port]"
        )));
    }
    let sandboxd = match arguments.sandboxd.or(file.sandboxd) {
        Some(path) => std::path::absolute(path)?,
        None => environment::beside("fsa-sandboxd")?,
    };
    let secret_dir = arguments
        .secret_dir
        .or(file.secret_dir)
        .unwrap_or_else(|| ".secret".into());
    let kubeconfig = arguments.kubeconfig.or(file.kubeconfig);
    let mut regions = file.regions;
    if regions.contains_key(LOCAL_REGION) {
        return Err(Failure::usage(format!(
            "a region of the settings file is named {LOCAL_REGION}, which is this machine's name; choose another"
        )));
    }
    // A kubeconfig that was given to us, or put where we look, is a wish for a region.
    if regions.is_empty() && (kubeconfig.is_some() || secret_dir.join("kubeconfig").exists()) {
        regions.insert(
            KUBERNETES_REGION.into(),
            fsa_kubernetes::settings::Settings::default(),
        );
    }
    for region in regions.values_mut() {
        region.kubeconfig = region.kubeconfig.take().or_else(|| kubeconfig.clone());
    }
    let local = !(arguments.no_local || file.no_local);
    let default_region = arguments.default_region.or(file.default_region);
    if let Some(name) = &default_region
        && !(regions.contains_key(name) || (local && name == LOCAL_REGION))
    {
        return Err(Failure::usage(format!(
            "the default region is {name}, and there is no such region"
        )));
    }
    if !local && regions.is_empty() {
        return Err(Failure::usage(
            "without this machine there has to be a Kubernetes region: give a kubeconfig, or a region in the settings file",
        ));
    }
    let or = |mut flag: Vec<String>, file: Vec<String>| {
        if flag.is_empty() {
            flag = file;
        }
        flag.retain(|text| !text.is_empty());
        flag
    };
    let allow_networks = or(arguments.allow_networks, file.allow_networks);
    let agents = agents::agents(
        arguments.agent_credentials.or(file.agent_credentials),
        arguments.agent_budget.or(file.agent_budget),
        arguments.agent_prices.or(file.agent_prices),
        &allow_networks,
    )?;
    let join = Join {
        anyone: arguments.github_anyone || file.github_anyone,
        logins: or(arguments.github_logins, file.github_logins),
        organizations: or(arguments.github_organizations, file.github_organizations),
    };
    let github = github::github(
        arguments.github_client_id.or(file.github_client_id),
        arguments.github_client_secret.or(file.github_client_secret),
        arguments
            .github_client_secret_file
            .or(file.github_client_secret_file),
        (
            arguments.github_url.or(file.github_url),
            arguments.github_api_url.or(file.github_api_url),
        ),
        &agents.allowed_networks,
        join,
    )?
    .map(|settings| fsa_server::settings::GithubSettings {
        app: arguments.github_app || file.github_app,
        ..settings
    });
    Ok(ServeConfig {
        github,
        listen,
        data_dir,
        origin,
        apps_domain: arguments
            .apps_domain
            .or(file.apps_domain)
            .unwrap_or_else(|| "localhost".into()),
        print_token: arguments.print_token,
        without_lost_secrets: arguments.without_lost_secrets,
        database_dsn: arguments.database_dsn.or(file.database_dsn),
        runtime: arguments
            .runtime
            .or(file.runtime)
            .unwrap_or_else(|| "runc".into()),
        sandboxd,
        web_image: arguments
            .web_image
            .or(file.web_image)
            .filter(|text| !text.is_empty()),
        postgres_bin: arguments.postgres_bin.or(file.postgres_bin),
        user: arguments.user.or(file.user).unwrap_or_else(|| "fsa".into()),
        allow_networks,
        agents,
        allow_registries: or(arguments.allow_registries, file.allow_registries),
        secret_dir,
        per_user: Limits {
            projects: arguments.user_projects.or(file.user_projects),
            running: arguments.user_running.or(file.user_running),
            cpu_millis: arguments.user_cpu_millis.or(file.user_cpu_millis),
            memory_mib: arguments.user_memory_mib.or(file.user_memory_mib),
            disk_mib: arguments.user_disk_mib.or(file.user_disk_mib),
            requests_per_minute: at_least_one(
                "user_requests_per_minute",
                arguments
                    .user_requests_per_minute
                    .or(file.user_requests_per_minute),
            )?,
            execs_per_minute: arguments.user_execs_per_minute.or(file.user_execs_per_minute),
        },
        in_all: Limits {
            projects: arguments.most_projects.or(file.most_projects),
            running: arguments.most_running.or(file.most_running),
            cpu_millis: arguments.most_cpu_millis.or(file.most_cpu_millis),
            memory_mib: arguments.most_memory_mib.or(file.most_memory_mib),
            disk_mib: arguments.most_disk_mib.or(file.most_disk_mib),
            ..Limits::default()
        },
        body: mebibytes("body_mib", arguments.body_mib.or(file.body_mib), 32, 1024)? as usize,
        upload: mebibytes(
            "upload_mib",
            arguments.upload_mib.or(file.upload_mib),
            1024,
            1024 * 1024,
        )?,
        development: arguments.development || file.development,
        workers: arguments.workers.or(file.workers).unwrap_or(16).clamp(1, 256),
        drain_seconds: arguments.drain_seconds.or(file.drain_seconds).unwrap_or(10),
        kubeconfig: environment::variable("KUBECONFIG").map(PathBuf::from),
        local,
        default_region,
        regions,
    })
}

/// A limit with which nothing could be asked any more is a mistake.
fn at_least_one(name: &str, value: Option<u64>) -> Result<Option<u64>, Failure> {
    match value {
        Some(0) => Err(Failure::usage(format!("{name} is a number of 1 or more"))),
        value => Ok(value),
    }
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
            workers: Some(5),
            ..ServeArguments::default()
        };
        let config = serve(arguments, true).unwrap();
        assert_eq!(config.listen.port(), 9000);
        assert_eq!(config.workers, 5);
        assert_eq!(config.apps_domain, "apps.example");
        assert_eq!(config.runtime, PathBuf::from("runc"));
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

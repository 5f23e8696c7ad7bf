//! The settings as they are given: flags, which clap fills from the environment, and a file.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::failure::Failure;

/// `fsa serve`'s and `fsa doctor`'s flags. clap fills what is not given from the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArguments {
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, env = "FSA_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Where everything is kept [default: /var/lib/fsa as root, else ~/.local/share/fsa]
    #[arg(long, env = "FSA_DATA_DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// A TOML file with any of these settings, their names with _ for -
    #[arg(long, env = "FSA_CONFIG", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The address people use [default: http://localhost and the port]
    #[arg(long, env = "FSA_ORIGIN", value_hint = ValueHint::Url)]
    pub origin: Option<Url>,
    /// The domain of the projects' own host names [default: localhost]
    #[arg(long, env = "FSA_APPS_DOMAIN")]
    pub apps_domain: Option<String>,
    /// Print an API token of the owner on standard output
    #[arg(long)]
    pub print_token: bool,
    /// Start although stored secrets cannot be opened, because the key file they were encrypted with is lost
    #[arg(long)]
    pub without_lost_secrets: bool,
    /// The control database, where it is not to be our own: postgresql://…
    #[arg(long, env = "FSA_DATABASE_DSN", hide_env_values = true)]
    pub database_dsn: Option<SecretString>,
    /// The OCI runtime: runc, crun, runsc or youki
    #[arg(long, env = "FSA_RUNTIME")]
    pub runtime: Option<PathBuf>,
    /// The static sandboxd binary [default: fsa-sandboxd beside this program]
    #[arg(long, env = "FSA_SANDBOXD", value_hint = ValueHint::FilePath)]
    pub sandboxd: Option<PathBuf>,
    /// The OCI archive of the template `web`, or an image's reference
    #[arg(long, env = "FSA_WEB_IMAGE")]
    pub web_image: Option<String>,
    /// The folder of PostgreSQL's programs [default: the newest under /usr/lib/postgresql]
    #[arg(long, env = "FSA_POSTGRES_BIN", value_hint = ValueHint::DirPath)]
    pub postgres_bin: Option<PathBuf>,
    /// The system user to become when started as root [default: fsa]
    #[arg(long, env = "FSA_USER")]
    pub user: Option<String>,
    /// Networks that sandboxes may reach although they are private, such as 10.1.0.0/16
    #[arg(long, env = "FSA_ALLOW_NETWORKS", value_delimiter = ',')]
    pub allow_networks: Vec<String>,
    /// Registries that may be used although they are on this machine or a private network
    #[arg(long, env = "FSA_ALLOW_REGISTRIES", value_delimiter = ',')]
    pub allow_registries: Vec<String>,
    /// The kubeconfig of the regions that name none [default: KUBECONFIG, then .secret/kubeconfig]
    #[arg(long, env = "FSA_KUBECONFIG", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Do without this machine as a region: no runner, no clusters of our own
    #[arg(long, env = "FSA_NO_LOCAL")]
    pub no_local: bool,
    /// The region of projects that name none [default: local, else the first by name]
    #[arg(long, env = "FSA_DEFAULT_REGION")]
    pub default_region: Option<String>,
    /// The folder with the agent's credentials (.env) [default: .secret]
    #[arg(long, env = "FSA_SECRET_DIR", value_hint = ValueHint::DirPath)]
    pub secret_dir: Option<PathBuf>,
    /// How agents' credentials reach sandboxes: relay (they stay outside) or inject [default: relay]
    #[arg(long, env = "FSA_AGENT_CREDENTIALS", value_parser = ["relay", "inject"])]
    pub agent_credentials: Option<String>,
    /// US dollars that each project's agents may spend in a month, unless it has its own budget
    #[arg(long, env = "FSA_AGENT_BUDGET")]
    pub agent_budget: Option<f64>,
    /// A JSON file with what models cost, in place of the built-in table
    #[arg(long, env = "FSA_AGENT_PRICES", value_hint = ValueHint::FilePath)]
    pub agent_prices: Option<PathBuf>,
    /// Projects that each user may have, unless the owner gave them another limit [default: no limit]
    #[arg(long, env = "FSA_USER_PROJECTS")]
    pub user_projects: Option<u64>,
    /// Sandboxes that each user may have running [default: no limit]
    #[arg(long, env = "FSA_USER_RUNNING")]
    pub user_running: Option<u64>,
    /// Thousandths of a processor that the running sandboxes of each user may use together [default: no limit]
    #[arg(long, env = "FSA_USER_CPU_MILLIS")]
    pub user_cpu_millis: Option<u64>,
    /// MiB of memory that the running sandboxes of each user may use together [default: no limit]
    #[arg(long, env = "FSA_USER_MEMORY_MIB")]
    pub user_memory_mib: Option<u64>,
    /// MiB that the projects of each user may have on disk [default: no limit]
    #[arg(long, env = "FSA_USER_DISK_MIB")]
    pub user_disk_mib: Option<u64>,
    /// Requests of the API that each user may make in a minute [default: no limit]
    #[arg(long, env = "FSA_USER_REQUESTS_PER_MINUTE")]
    pub user_requests_per_minute: Option<u64>,
    /// Programs that each user may start in sandboxes in a minute by the API [default: no limit]
    #[arg(long, env = "FSA_USER_EXECS_PER_MINUTE")]
    pub user_execs_per_minute: Option<u64>,
    /// Projects of everybody together [default: no limit]
    #[arg(long, env = "FSA_MOST_PROJECTS")]
    pub most_projects: Option<u64>,
    /// Running sandboxes of everybody together [default: no limit]
    #[arg(long, env = "FSA_MOST_RUNNING")]
    pub most_running: Option<u64>,
    /// Thousandths of a processor that all running sandboxes may use together [default: no limit]
    #[arg(long, env = "FSA_MOST_CPU_MILLIS")]
    pub most_cpu_millis: Option<u64>,
    /// MiB of memory that all running sandboxes may use together [default: no limit]
    #[arg(long, env = "FSA_MOST_MEMORY_MIB")]
    pub most_memory_mib: Option<u64>,
    /// MiB that all projects may have on disk [default: no limit]
    #[arg(long, env = "FSA_MOST_DISK_MIB")]
    pub most_disk_mib: Option<u64>,
    /// MiB of a request's body, unless it is a file or an archive [default: 32]
    #[arg(long, env = "FSA_BODY_MIB")]
    pub body_mib: Option<u64>,
    /// MiB of one file or archive that is put into a sandbox [default: 1024]
    #[arg(long, env = "FSA_UPLOAD_MIB")]
    pub upload_mib: Option<u64>,
    /// Error answers carry their causes
    #[arg(long, env = "FSA_DEVELOPMENT")]
    pub development: bool,
    /// Sandboxes that are worked on at the same time [default: 16]
    #[arg(long, env = "FSA_WORKERS")]
    pub workers: Option<usize>,
    /// Seconds that requests and streams get to end when the server is told to stop [default: 10]
    #[arg(long, env = "FSA_DRAIN_SECONDS")]
    pub drain_seconds: Option<u64>,
    /// The client id of the GitHub OAuth app to sign in with [default: none, no sign-in with GitHub]
    #[arg(long, env = "FSA_GITHUB_CLIENT_ID")]
    pub github_client_id: Option<String>,
    /// Its client secret; the environment or a file keep it out of the process list
    #[arg(long, env = "FSA_GITHUB_CLIENT_SECRET", hide_env_values = true)]
    pub github_client_secret: Option<SecretString>,
    /// The file that holds its client secret
    #[arg(long, env = "FSA_GITHUB_CLIENT_SECRET_FILE", value_hint = ValueHint::FilePath)]
    pub github_client_secret_file: Option<PathBuf>,
    /// Where GitHub is [default: https://github.com]
    #[arg(long, env = "FSA_GITHUB_URL", value_hint = ValueHint::Url)]
    pub github_url: Option<Url>,
    /// Where its API is [default: https://api.github.com, or /api/v3 of another github-url]
    #[arg(long, env = "FSA_GITHUB_API_URL", value_hint = ValueHint::Url)]
    pub github_api_url: Option<Url>,
    /// The client is a GitHub App, and no OAuth app
    #[arg(long, env = "FSA_GITHUB_APP")]
    pub github_app: bool,
    /// Anyone with an account at GitHub may become a member [default: nobody new]
    #[arg(long, env = "FSA_GITHUB_ANYONE")]
    pub github_anyone: bool,
    /// Logins at GitHub that may become members
    #[arg(long, env = "FSA_GITHUB_LOGINS", value_delimiter = ',')]
    pub github_logins: Vec<String>,
    /// Organizations at GitHub whose members may become members here
    #[arg(long, env = "FSA_GITHUB_ORGANIZATIONS", value_delimiter = ',')]
    pub github_organizations: Vec<String>,
}

/// The same settings in a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub listen: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
    pub origin: Option<Url>,
    pub apps_domain: Option<String>,
    pub database_dsn: Option<SecretString>,
    pub runtime: Option<PathBuf>,
    pub sandboxd: Option<PathBuf>,
    pub web_image: Option<String>,
    pub postgres_bin: Option<PathBuf>,
    pub user: Option<String>,
    pub allow_networks: Vec<String>,
    pub allow_registries: Vec<String>,
    pub secret_dir: Option<PathBuf>,
    pub agent_credentials: Option<String>,
    pub agent_budget: Option<f64>,
    pub agent_prices: Option<PathBuf>,
    pub user_projects: Option<u64>,
    pub user_running: Option<u64>,
    pub user_cpu_millis: Option<u64>,
    pub user_memory_mib: Option<u64>,
    pub user_disk_mib: Option<u64>,
    pub user_requests_per_minute: Option<u64>,
    pub user_execs_per_minute: Option<u64>,
    pub most_projects: Option<u64>,
    pub most_running: Option<u64>,
    pub most_cpu_millis: Option<u64>,
    pub most_memory_mib: Option<u64>,
    pub most_disk_mib: Option<u64>,
    pub body_mib: Option<u64>,
    pub upload_mib: Option<u64>,
    pub development: bool,
    pub workers: Option<usize>,
    pub drain_seconds: Option<u64>,
    pub kubeconfig: Option<PathBuf>,
    pub no_local: bool,
    pub default_region: Option<String>,
    pub regions: BTreeMap<String, fsa_kubernetes::settings::Settings>,
    pub github_client_id: Option<String>,
    pub github_client_secret: Option<SecretString>,
    pub github_client_secret_file: Option<PathBuf>,
    pub github_url: Option<Url>,
    pub github_api_url: Option<Url>,
    pub github_app: bool,
    pub github_anyone: bool,
    pub github_logins: Vec<String>,
    pub github_organizations: Vec<String>,
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<File, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "the settings file {} cannot be read: {error}",
            path.display()
        ))
    })?;
    toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

//! Table of the server's settings: flag, environment variable, file key, help and documentation of each come from one
//! declaration. To add a setting: add its field here, use it in `config::serve`, and regenerate the table of
//! `docs/operations/settings.md` (`cargo run -p fsa-cli -- settings`).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use super::user_limit::UserLimit;
use crate::failure::Failure;

/// The flags of commands that work with the server's settings. clap takes what is not given from the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArguments {
    /// TOML file with any of these settings; a key is the flag's name with _ for -
    #[arg(long, env = "FSA_CONFIG", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Print an API token of the owner on standard output
    #[arg(long)]
    pub print_token: bool,
    /// Start even if stored secrets cannot be decrypted because their key file is lost
    #[arg(long)]
    pub without_lost_secrets: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// Declares each field as an `Option`, so that layers of settings can be merged.
macro_rules! settings {
    (
        $(#[$($attribute:tt)*])*
        pub struct $name:ident {
            $($(#[$($field_attribute:tt)*])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$($attribute)*])*
        pub struct $name {
            $($(#[$($field_attribute)*])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// These settings, and the other layer's where these have none.
            pub(super) fn or(self, other: Self) -> Self {
                Self {
                    $($field: self.$field.or(other.$field),)*
                }
            }
        }
    };
}

settings! {
    /// One layer of settings: the flags with the environment, or the file. A field is a flag by `arg` and a key of the
    /// file by its name; the end of its help, `[default: …]`, is a column of the documentation.
    #[derive(Clone, Debug, Default, Args, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Settings {
        /// Address and port to listen on [default: 127.0.0.1:8080]
        #[arg(long, env = "FSA_LISTEN")]
        pub listen: SocketAddr,
        /// Folder of all data [default: /var/lib/fsa as root, else ~/.local/share/fsa]
        #[arg(long, env = "FSA_DATA_DIR", value_hint = ValueHint::DirPath)]
        pub data_dir: PathBuf,
        /// URL at which people reach the server [default: http://localhost:PORT]
        #[arg(long, env = "FSA_ORIGIN", value_hint = ValueHint::Url)]
        pub origin: Url,
        /// Domain of the projects' host names [default: localhost]
        #[arg(long, env = "FSA_APPS_DOMAIN")]
        pub apps_domain: String,
        /// Reverse proxies whose X-Forwarded-For is trusted, as addresses or networks [default: none]
        #[arg(long, env = "FSA_TRUSTED_PROXIES", value_delimiter = ',')]
        pub trusted_proxies: Vec<String>,
        /// Address and port that serve the metrics, and nothing else, to everyone who reaches them [default: none]
        #[arg(long, env = "FSA_METRICS_LISTEN")]
        pub metrics_listen: SocketAddr,
        /// DSN of an external control database, postgresql://… [default: a database of this machine]
        #[arg(long, env = "FSA_DATABASE_DSN", hide_env_values = true)]
        pub database_dsn: SecretString,
        /// OCI runtime: runc, crun, runsc or youki [default: runc]
        #[arg(long, env = "FSA_RUNTIME")]
        pub runtime: PathBuf,
        /// Static sandboxd binary [default: fsa-sandboxd beside fsa]
        #[arg(long, env = "FSA_SANDBOXD", value_hint = ValueHint::FilePath)]
        pub sandboxd: PathBuf,
        /// OCI archive of the template `web`, or an image reference [default: none]
        #[arg(long, env = "FSA_WEB_IMAGE")]
        pub web_image: String,
        /// Where projects' files are: auto (as at the first start; a new data folder gets btrfs where that is possible, else plain folders), copy (plain folders), btrfs (subvolumes with enforced quotas; as root), or the path of a block device for btrfs [default: auto]
        #[arg(long, env = "FSA_STORAGE")]
        pub storage: String,
        /// Size of the file that holds btrfs in the data folder, in MiB; a larger value enlarges it [default: half of the free space at the first start]
        #[arg(long, env = "FSA_STORAGE_SIZE_MIB")]
        pub storage_size_mib: u64,
        /// Folder of PostgreSQL's programs [default: the newest under /usr/lib/postgresql]
        #[arg(long, env = "FSA_POSTGRES_BIN", value_hint = ValueHint::DirPath)]
        pub postgres_bin: PathBuf,
        /// Minutes without a connection after which a project's database server is stopped [default: 5]
        #[arg(long, env = "FSA_DATABASE_IDLE_MINUTES")]
        pub database_idle_minutes: u32,
        /// System user that the server runs as when started as root; created if missing [default: fsa]
        #[arg(long, env = "FSA_USER")]
        pub user: String,
        /// Private networks that sandboxes may reach, such as 10.1.0.0/16 [default: none]
        #[arg(long, env = "FSA_ALLOW_NETWORKS", value_delimiter = ',')]
        pub allow_networks: Vec<String>,
        /// Registries on private addresses that images may be pulled from [default: none]
        #[arg(long, env = "FSA_ALLOW_REGISTRIES", value_delimiter = ',')]
        pub allow_registries: Vec<String>,
        /// The only registries that users' images are pulled from on this machine, such as ghcr.io,docker.io [default: any]
        #[arg(long, env = "FSA_REGISTRIES", value_delimiter = ',')]
        pub registries: Vec<String>,
        /// Kubeconfig of the regions that name none [default: KUBECONFIG, then .secret/kubeconfig]
        #[arg(long, env = "FSA_KUBECONFIG", value_hint = ValueHint::FilePath)]
        pub kubeconfig: PathBuf,
        /// Do not use this machine as a region: no sandboxes and no databases here [default: false]
        #[arg(long, env = "FSA_NO_LOCAL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        pub no_local: bool,
        /// Region of projects that name none [default: local, else the first by name]
        #[arg(long, env = "FSA_DEFAULT_REGION")]
        pub default_region: String,
        /// Folder with the agents' credentials (.env) [default: .secret in the working folder]
        #[arg(long, env = "FSA_SECRET_DIR", value_hint = ValueHint::DirPath)]
        pub secret_dir: PathBuf,
        /// How agent credentials reach sandboxes: relay (they stay outside) or inject [default: relay]
        #[arg(long, env = "FSA_AGENT_CREDENTIALS", value_parser = ["relay", "inject"])]
        pub agent_credentials: String,
        /// Monthly budget of each project's agents in US dollars, unless the project has its own [default: no limit]
        #[arg(long, env = "FSA_AGENT_BUDGET")]
        pub agent_budget: f64,
        /// JSON file with model prices [default: a built-in table]
        #[arg(long, env = "FSA_AGENT_PRICES", value_hint = ValueHint::FilePath)]
        pub agent_prices: PathBuf,
        /// Limit of projects per user, a number or none, unless the owner set another one for the user [default: 10 for members]
        #[arg(long, env = "FSA_USER_PROJECTS")]
        pub user_projects: UserLimit,
        /// Limit of running sandboxes per user [default: 5 for members]
        #[arg(long, env = "FSA_USER_RUNNING")]
        pub user_running: UserLimit,
        /// Limit of processor use of the running sandboxes per user, in thousandths of a processor [default: 4000 for members]
        #[arg(long, env = "FSA_USER_CPU_MILLIS")]
        pub user_cpu_millis: UserLimit,
        /// Limit of memory of the running sandboxes per user, in MiB [default: 8192 for members]
        #[arg(long, env = "FSA_USER_MEMORY_MIB")]
        pub user_memory_mib: UserLimit,
        /// Limit of disk use of the projects per user, in MiB [default: 20480 for members]
        #[arg(long, env = "FSA_USER_DISK_MIB")]
        pub user_disk_mib: UserLimit,
        /// Limit of API requests per user and minute [default: no limit]
        #[arg(long, env = "FSA_USER_REQUESTS_PER_MINUTE")]
        pub user_requests_per_minute: UserLimit,
        /// Limit of programs started in sandboxes through the API per user and minute [default: no limit]
        #[arg(long, env = "FSA_USER_EXECS_PER_MINUTE")]
        pub user_execs_per_minute: UserLimit,
        /// Limit of projects of all users together [default: no limit]
        #[arg(long, env = "FSA_MOST_PROJECTS")]
        pub most_projects: u64,
        /// Limit of running sandboxes of all users together [default: no limit]
        #[arg(long, env = "FSA_MOST_RUNNING")]
        pub most_running: u64,
        /// Limit of processor use of all running sandboxes, in thousandths of a processor [default: no limit]
        #[arg(long, env = "FSA_MOST_CPU_MILLIS")]
        pub most_cpu_millis: u64,
        /// Limit of memory of all running sandboxes, in MiB [default: no limit]
        #[arg(long, env = "FSA_MOST_MEMORY_MIB")]
        pub most_memory_mib: u64,
        /// Limit of disk use of all projects, in MiB [default: no limit]
        #[arg(long, env = "FSA_MOST_DISK_MIB")]
        pub most_disk_mib: u64,
        /// Days until an event of a project is deleted; 0 keeps them [default: 90]
        #[arg(long, env = "FSA_KEEP_EVENTS_DAYS")]
        pub keep_events_days: u32,
        /// Days after an agent's run until its steps are deleted; 0 keeps them [default: 90]
        #[arg(long, env = "FSA_KEEP_AGENT_STEPS_DAYS")]
        pub keep_agent_steps_days: u32,
        /// Days until an audit entry is moved to the folder audit/ of the data folder; 0 keeps them in the database [default: 400]
        #[arg(long, env = "FSA_KEEP_AUDIT_DAYS")]
        pub keep_audit_days: u32,
        /// Limit of a request's body in MiB, other than a file or an archive [default: 32]
        #[arg(long, env = "FSA_BODY_MIB")]
        pub body_mib: u64,
        /// Limit of one file or archive uploaded into a sandbox, in MiB [default: 1024]
        #[arg(long, env = "FSA_UPLOAD_MIB")]
        pub upload_mib: u64,
        /// Limit of open connections per client address, other than a trusted proxy's [default: 1024]
        #[arg(long, env = "FSA_CONNECTIONS_PER_CLIENT")]
        pub connections_per_client: usize,
        /// Limit of branches per project, main among them [default: 20]
        #[arg(long, env = "FSA_BRANCHES_PER_PROJECT")]
        pub branches_per_project: usize,
        /// Show the causes of errors in error responses [default: false]
        #[arg(long, env = "FSA_DEVELOPMENT", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        pub development: bool,
        /// Sandboxes reconciled at the same time: on this machine, and 16 times as many per cluster [default: 16]
        #[arg(long, env = "FSA_WORKERS")]
        pub workers: usize,
        /// Seconds that open requests and streams may take when the server stops [default: 10]
        #[arg(long, env = "FSA_DRAIN_SECONDS")]
        pub drain_seconds: u64,
        /// Folder of the backup repository, in restic's format; created if missing [default: none, no backups]
        #[arg(long, env = "FSA_BACKUP_REPOSITORY", value_hint = ValueHint::DirPath)]
        pub backup_repository: PathBuf,
        /// File with the password of the backup repository, read before privileges are dropped [default: none]
        #[arg(long, env = "FSA_BACKUP_PASSWORD_FILE", value_hint = ValueHint::FilePath)]
        pub backup_password_file: PathBuf,
        /// Client id of the GitHub OAuth app to sign in with [default: none, no sign-in with GitHub]
        #[arg(long, env = "FSA_GITHUB_CLIENT_ID")]
        pub github_client_id: String,
        /// Client secret of the GitHub app; the environment or a file keep it out of the process list [default: none]
        #[arg(long, env = "FSA_GITHUB_CLIENT_SECRET", hide_env_values = true)]
        pub github_client_secret: SecretString,
        /// File with the client secret, read before privileges are dropped [default: none]
        #[arg(long, env = "FSA_GITHUB_CLIENT_SECRET_FILE", value_hint = ValueHint::FilePath)]
        pub github_client_secret_file: PathBuf,
        /// URL of GitHub [default: https://github.com]
        #[arg(long, env = "FSA_GITHUB_URL", value_hint = ValueHint::Url)]
        pub github_url: Url,
        /// URL of GitHub's API [default: https://api.github.com; with another github_url its /api/v3]
        #[arg(long, env = "FSA_GITHUB_API_URL", value_hint = ValueHint::Url)]
        pub github_api_url: Url,
        /// Whether the client is a GitHub App and not an OAuth app [default: false]
        #[arg(long, env = "FSA_GITHUB_APP", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        pub github_app: bool,
        /// Whether anyone with a GitHub account may join as a member [default: false]
        #[arg(long, env = "FSA_GITHUB_ANYONE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        pub github_anyone: bool,
        /// GitHub logins that may join as members [default: none]
        #[arg(long, env = "FSA_GITHUB_LOGINS", value_delimiter = ',')]
        pub github_logins: Vec<String>,
        /// GitHub organizations whose members may join as members [default: none]
        #[arg(long, env = "FSA_GITHUB_ORGANIZATIONS", value_delimiter = ',')]
        pub github_organizations: Vec<String>,
        /// Kubernetes clusters as regions, by name. They have no flag.
        #[arg(skip)]
        pub regions: BTreeMap<String, fsa_kubernetes::settings::Settings>,
    }
}

/// Reads the settings file.
pub(super) fn read(path: &Path) -> Result<Settings, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "the settings file {} cannot be read: {error}",
            path.display()
        ))
    })?;
    toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// The settings as a Markdown table.
pub fn table() -> String {
    let mut text = String::from("| flag, environment | file | meaning | default |\n|---|---|---|---|\n");
    for setting in Settings::augment_args(clap::Command::new("settings")).get_arguments() {
        let help = setting.get_help().map(ToString::to_string).unwrap_or_default();
        let (meaning, default) = help
            .strip_suffix(']')
            .and_then(|help| help.split_once(" [default: "))
            .unwrap_or((&help, "none"));
        text += &format!(
            "| `--{}`, `{}` | `{}` | {meaning} | {default} |\n",
            setting.get_long().unwrap_or_default(),
            setting
                .get_env()
                .and_then(|name| name.to_str())
                .unwrap_or_default(),
            setting.get_id(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    fn file(path: &str) -> String {
        std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap()
    }

    #[test]
    fn the_documentation_has_this_very_table() {
        assert!(
            file("docs/operations/settings.md").contains(&table()),
            "docs/operations/settings.md does not have the table of the settings: cargo run -p fsa-cli -- settings"
        );
    }

    #[test]
    fn flag_environment_and_key_of_a_setting_have_one_name_and_a_default_is_documented() {
        for setting in Settings::augment_args(clap::Command::new("settings")).get_arguments() {
            let key = setting.get_id().as_str();
            assert_eq!(setting.get_long(), Some(key.replace('_', "-").as_str()));
            let environment = format!("FSA_{}", key.to_uppercase());
            assert_eq!(setting.get_env(), Some(std::ffi::OsStr::new(&environment)));
            assert!(setting.get_help().unwrap().to_string().ends_with(']'), "{key}");
        }
    }

    /// The lines of a block scalar of YAML below `key`.
    fn block<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
        let start = format!("{key}: |");
        let mut lines = yaml.lines().skip_while(|line| line.trim_start() != start);
        let head = lines.next().unwrap();
        let indent = head.len() - head.trim_start().len();
        lines
            .take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > indent)
            .map(str::trim)
            .collect()
    }

    #[test]
    fn the_chart_writes_a_settings_file_that_the_server_reads() {
        let (template, values) = (
            file("deploy/chart/templates/settings.yaml"),
            file("deploy/chart/values.yaml"),
        );
        let mut lines: Vec<String> = block(&template, "fsa.toml")
            .into_iter()
            .filter(|line| !line.starts_with("{{"))
            .map(|line| match line.split_once("{{") {
                Some((key, _)) => format!("{key}\"https://example.org\""),
                None => line.to_owned(),
            })
            .collect();
        assert!(
            lines.iter().any(|line| line.starts_with("secret_dir")),
            "{lines:?}"
        );
        lines.extend(block(&values, "settings").into_iter().map(ToOwned::to_owned));
        let settings: Settings = toml::from_str(&lines.join("\n")).unwrap();
        assert_eq!(settings.no_local, Some(true));
        assert!(settings.regions.unwrap().contains_key("kubernetes"));
    }

    #[test]
    fn the_chart_sets_no_environment_variable_that_the_server_does_not_read() {
        let table = table();
        for entry in std::fs::read_dir(format!("{ROOT}/deploy/chart/templates")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for name in text.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
                if name.starts_with("FSA_") && !["FSA_LOG", "FSA_LOG_FORMAT", "FSA_CONFIG"].contains(&name) {
                    assert!(table.contains(&format!("`{name}`")), "{name}");
                }
            }
        }
    }
}

//! Settings: flag > environment (`FSA_…`) > TOML file > default. The only place that reads the
//! environment.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};
use fsa_model::{
    address::Network,
    environment::{self, Environment},
    limits::Limits,
    money::Micros,
};
use fsa_server::{
    agents,
    github::{self, Join},
};
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
    /// Start although stored secrets cannot be opened, because the key file they were sealed with is lost
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
    /// Organisations at GitHub whose members may become members here
    #[arg(long, env = "FSA_GITHUB_ORGANIZATIONS", value_delimiter = ',')]
    pub github_organizations: Vec<String>,
}

/// The same settings in a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    origin: Option<Url>,
    apps_domain: Option<String>,
    database_dsn: Option<SecretString>,
    runtime: Option<PathBuf>,
    sandboxd: Option<PathBuf>,
    web_image: Option<String>,
    postgres_bin: Option<PathBuf>,
    user: Option<String>,
    allow_networks: Vec<String>,
    allow_registries: Vec<String>,
    secret_dir: Option<PathBuf>,
    agent_credentials: Option<String>,
    agent_budget: Option<f64>,
    agent_prices: Option<PathBuf>,
    user_projects: Option<u64>,
    user_running: Option<u64>,
    user_cpu_millis: Option<u64>,
    user_memory_mib: Option<u64>,
    user_disk_mib: Option<u64>,
    user_requests_per_minute: Option<u64>,
    user_execs_per_minute: Option<u64>,
    most_projects: Option<u64>,
    most_running: Option<u64>,
    most_cpu_millis: Option<u64>,
    most_memory_mib: Option<u64>,
    most_disk_mib: Option<u64>,
    body_mib: Option<u64>,
    upload_mib: Option<u64>,
    development: bool,
    workers: Option<usize>,
    drain_seconds: Option<u64>,
    kubeconfig: Option<PathBuf>,
    no_local: bool,
    default_region: Option<String>,
    regions: BTreeMap<String, fsa_kubernetes::settings::Settings>,
    github_client_id: Option<String>,
    github_client_secret: Option<SecretString>,
    github_client_secret_file: Option<PathBuf>,
    github_url: Option<Url>,
    github_api_url: Option<Url>,
    github_app: bool,
    github_anyone: bool,
    github_logins: Vec<String>,
    github_organizations: Vec<String>,
}

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
    pub agents: agents::Options,
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
    pub github: Option<github::Settings>,
}

/// The name of this machine as a region.
pub const LOCAL_REGION: &str = "local";
/// The name of the region that a kubeconfig makes by itself.
pub const KUBERNETES_REGION: &str = "kubernetes";

/// Puts the layers together.
pub fn serve(arguments: ServeArguments, root: bool) -> Result<ServeConfig, Failure> {
    let file = match &arguments.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let listen = arguments
        .listen
        .or(file.listen)
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    let data_dir = match arguments.data_dir.or(file.data_dir) {
        Some(folder) => std::path::absolute(folder)?,
        None if root => PathBuf::from("/var/lib/fsa"),
        None => data_home()
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
        None => beside("fsa-sandboxd")?,
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
    let agents = agents(
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
    let github = github(
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
    .map(|settings| github::Settings {
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
        kubeconfig: variable("KUBECONFIG").map(PathBuf::from),
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

/// What the operator decided about agents.
fn agents(
    mode: Option<String>,
    budget: Option<f64>,
    prices: Option<PathBuf>,
    networks: &[String],
) -> Result<agents::Options, Failure> {
    let prices = match prices {
        None => agents::prices::Prices::default(),
        Some(path) => {
            let failed = |why: String| Failure::usage(format!("the prices in {}: {why}", path.display()));
            let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
            agents::prices::Prices::parse(&text).map_err(failed)?
        }
    };
    Ok(agents::Options {
        mode: mode
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: String| Failure::usage(format!("agent_credentials: {error}")))?
            .unwrap_or_default(),
        prices,
        monthly_budget: budget
            .map(|dollars| {
                Micros::from_dollars(dollars)
                    .ok_or_else(|| Failure::usage("agent_budget is a number of US dollars from 0 to 1000000"))
            })
            .transpose()?,
        // The runner says what is wrong with a network; here it only makes no exception.
        allowed_networks: networks.iter().filter_map(|text| text.parse().ok()).collect(),
    })
}

fn github(
    client_id: Option<String>,
    secret: Option<SecretString>,
    secret_file: Option<PathBuf>,
    (url, api): (Option<Url>, Option<Url>),
    own_networks: &[Network],
    join: Join,
) -> Result<Option<github::Settings>, Failure> {
    let Some(client_id) = client_id.filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let client_secret = match (secret, secret_file) {
        (Some(secret), _) => secret,
        (None, Some(path)) => std::fs::read_to_string(&path)
            .map(|text| SecretString::from(text.trim()))
            .map_err(|error| {
                Failure::usage(format!(
                    "the file of GitHub's client secret, {}, cannot be read: {error}",
                    path.display()
                ))
            })?,
        (None, None) => {
            return Err(Failure::usage(
                "github-client-id is set and its secret is not: give it in FSA_GITHUB_CLIENT_SECRET, or in a \
                 file with --github-client-secret-file",
            ));
        }
    };
    let default = |text: &str| Url::parse(text).map_err(|error| Failure::failed(error.to_string()));
    let api = match (api, &url) {
        (Some(api), _) => api,
        // A GitHub Enterprise server has its API on the same host.
        (None, Some(url)) => {
            let mut api = url.clone();
            api.set_path("/api/v3");
            api
        }
        (None, None) => default("https://api.github.com")?,
    };
    let url = url.map_or_else(|| default("https://github.com"), Ok)?;
    for address in [&url, &api] {
        // A code, the client's secret and people's tokens go there.
        let host = address.host_str().unwrap_or_default();
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        // A network that the operator calls their own.
        let own = host
            .parse()
            .is_ok_and(|ip| own_networks.iter().any(|network| network.contains(ip)));
        if address.scheme() != "https" && !((here || own) && address.scheme() == "http") {
            return Err(Failure::usage(format!(
                "{address} is not https, and secrets would be sent there"
            )));
        }
    }
    Ok(Some(github::Settings {
        client_id,
        client_secret,
        url,
        api,
        app: false,
        join,
    }))
}

fn read(path: &Path) -> Result<File, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "the settings file {} cannot be read: {error}",
            path.display()
        ))
    })?;
    toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// The agent's credentials from `<folder>/.env`, in dotenv's form. None where there is no file.
pub fn agent_environment(folder: &Path) -> Result<Environment, Failure> {
    let path = folder.join(".env");
    let items = match dotenvy::from_path_iter(&path) {
        Ok(items) => items,
        Err(error) if error.not_found() => return Ok(Environment::new()),
        Err(error) => {
            return Err(Failure::usage(format!(
                "{} cannot be read: {error}",
                path.display()
            )));
        }
    };
    let mut variables = BTreeMap::new();
    for item in items {
        // dotenvy's error repeats the line, which may hold a key.
        let (name, value) = item
            .map_err(|_| Failure::usage(format!("{} has a line that is not NAME=VALUE", path.display())))?;
        environment::check(&name, &value)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        variables.insert(name, SecretString::from(value));
    }
    Ok(variables)
}

/// `NAME=VALUE` lines of a file that a person names.
pub fn environment_file(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    dotenvy::from_path_iter(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?
        .map(|item| {
            item.map_err(|_| Failure::usage(format!("{} has a line that is not NAME=VALUE", path.display())))
        })
        .collect()
}

fn beside(name: &str) -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    Ok(program.parent().unwrap_or(Path::new("/")).join(name))
}

/// The token that a client uses, where the environment has one.
pub fn client_token() -> Option<SecretString> {
    variable("FSA_TOKEN").map(SecretString::from)
}

/// Where this person's settings live (XDG Base Directory Specification).
pub fn config_folder() -> Option<PathBuf> {
    variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|folder| folder.join("fsa"))
}

fn data_home() -> Option<PathBuf> {
    variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share")))
}

/// The filter of the log.
pub fn log_filter() -> String {
    variable("FSA_LOG").unwrap_or_else(|| "info".into())
}

/// Whether log lines are JSON.
pub fn log_json() -> bool {
    variable("FSA_LOG_FORMAT").as_deref() == Some("json")
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
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

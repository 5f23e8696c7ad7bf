//! Settings of the server, as configured by its operator.

use std::{borrow::Cow, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use fsa_model::{
    address::Network, api::Role, environment::Environment, limits as model, llm_provider::Mode,
    money::Micros, system::Check,
};
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use url::Url;

use crate::pricing::Prices;

/// Settings of the whole server.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// The main host's origin, such as `http://localhost:8080`, which serves the API and the page.
    pub origin: Url,
    /// The domain of the `{project}--{port}` host names, such as `localhost`.
    pub apps_domain: String,
    /// From `.secret/.env`: the agent's credentials, the first layer of every sandbox's environment.
    pub agent_environment: Environment,
    pub agents: LlmProxySettings,
    /// Error responses include their chain of causes.
    pub development: bool,
    /// Drain timeout: how long requests and streams may run before they are aborted.
    pub drain: Duration,
    /// The version that /healthz returns.
    pub version: &'static str,
    /// The login of the first owner.
    pub owner_login: String,
    /// Reverse proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<Network>,
    pub limits: Limits,
    pub retention: Retention,
    /// The web application, if the binary includes it; without it `/` is a plain page.
    pub web: Option<WebFiles>,
    /// Sign-in with GitHub, if configured.
    pub github: Option<GithubSettings>,
    /// The backup repository, if configured.
    pub backups: Option<BackupSettings>,
    /// The checks of the doctor, which run while the server runs.
    pub checks: Checks,
}

/// Where backups go, and the password that encrypts them.
#[derive(Clone, Debug)]
pub struct BackupSettings {
    /// A folder.
    pub repository: PathBuf,
    pub password: SecretString,
    /// A folder for dumps of databases while they are stored.
    pub scratch: PathBuf,
}

/// Checks of the server's dependencies, supplied by the code that assembles the server.
#[derive(Clone, Default)]
pub struct Checks(Option<Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>>);

impl Checks {
    #[must_use]
    pub fn new<F, R>(run_checks: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Vec<Check>> + Send + 'static,
    {
        Self(Some(Arc::new(move || Box::pin(run_checks()))))
    }

    pub(crate) async fn run(&self) -> Vec<Check> {
        match &self.0 {
            Some(run_checks) => run_checks().await,
            None => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checks")
    }
}

/// Looks up a file of the application by its path; `….br` and `….gz` are the compressed variants.
pub type WebFiles = fn(&str) -> Option<Cow<'static, [u8]>>;

/// Limits per request and per user.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body, unless its route sets another limit.
    pub body: usize,
    /// Bytes of one upload into a sandbox (`PUT …/files`).
    pub upload: u64,
    /// Open connections of one client address, or of one /64 network of IPv6.
    pub connections_per_client: usize,
    /// WebSockets and event streams that one user may have open on the main host.
    pub streams_per_user: usize,
    /// Branches of one project, `main` among them.
    pub branches_per_project: usize,
    /// Quota of each owner of the server, unless the user has a separate one.
    pub per_owner: model::Limits,
    /// Quota of each member, unless the user has a separate one.
    pub per_member: model::Limits,
    /// Quota of all users together.
    pub server_wide: model::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 * 1024 * 1024,
            upload: 1024 * 1024 * 1024,
            connections_per_client: 1024,
            streams_per_user: 200,
            branches_per_project: 20,
            per_owner: model::Limits::default(),
            per_member: model::Limits::default(),
            server_wide: model::Limits::default(),
        }
    }
}

impl Limits {
    /// The quota of a user who has no separate one.
    #[must_use]
    pub const fn of_role(&self, role: Role) -> model::Limits {
        match role {
            Role::Owner => self.per_owner,
            Role::Member => self.per_member,
        }
    }
}

/// How long rows are kept in the control database that only ever become more.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// Days until an event is deleted; `None` keeps them.
    pub events_days: Option<u32>,
    /// Days after the end of an agent's run until its steps are deleted; `None` keeps them.
    pub agent_steps_days: Option<u32>,
    /// `None` keeps the audit log.
    pub audit: Option<AuditRetention>,
}

/// How long audit entries are kept in the control database, and where they go.
#[derive(Clone, Debug)]
pub struct AuditRetention {
    pub days: u32,
    /// The folder that entries are exported to before they are deleted.
    pub folder: PathBuf,
}

/// Settings of the LLM proxy.
#[derive(Clone, Debug, Default)]
pub struct LlmProxySettings {
    pub mode: Mode,
    pub prices: Prices,
    /// Budget of each project per calendar month, unless the project has a separate one.
    pub monthly_budget: Option<Micros>,
    /// Private networks that sandboxes may reach; a project's own base URL may also lead there.
    pub allowed_networks: Vec<Network>,
}

/// Settings of the GitHub client.
#[derive(Clone, Debug)]
pub struct GithubSettings {
    pub client_id: String,
    pub client_secret: SecretString,
    /// Where users sign in: `https://github.com/`, or a GitHub Enterprise server.
    pub url: Url,
    /// The API's base URL: `https://api.github.com/`, or `https://HOST/api/v3/`.
    pub api: Url,
    /// The client is a GitHub App, not an OAuth App: its permissions are set at GitHub, its tokens expire, and
    /// git in a sandbox gets a token for its own repository only.
    pub app: bool,
    pub join: Join,
}

/// Who may become a user by signing in with GitHub. Existing users may always sign in.
#[derive(Clone, Debug, Default)]
pub struct Join {
    pub anyone: bool,
    /// GitHub logins that may join.
    pub logins: Vec<String>,
    /// Organizations whose members may join.
    pub organizations: Vec<String>,
}

impl Join {
    /// Whether a user with this login may join; `None` if their organizations decide.
    #[must_use]
    pub fn by_login(&self, login: &str) -> Option<bool> {
        if self.anyone
            || self
                .logins
                .iter()
                .any(|listed| listed.eq_ignore_ascii_case(login))
        {
            return Some(true);
        }
        self.organizations.is_empty().then_some(false)
    }

    /// Whether a member of these organizations may join.
    #[must_use]
    pub fn by_organizations(&self, theirs: &[String]) -> bool {
        theirs.iter().any(|one| {
            self.organizations
                .iter()
                .any(|listed| listed.eq_ignore_ascii_case(one))
        })
    }
}

impl Settings {
    /// Whether users reach the main host over https, so that cookies can be `Secure`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.origin.scheme() == "https"
    }

    /// `http(s)://{label}.{apps domain}[:port]`: the URL of a sandbox's port.
    #[must_use]
    pub fn app_url(&self, label: &str) -> String {
        let scheme = self.origin.scheme();
        let port = self
            .origin
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        format!("{scheme}://{label}.{}{port}", self.apps_domain)
    }

    /// The origin as browsers write it: scheme, host and port, without a trailing slash.
    #[must_use]
    pub fn origin_text(&self) -> String {
        self.origin.origin().ascii_serialization()
    }
}

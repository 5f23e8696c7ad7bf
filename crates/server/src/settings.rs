//! Settings of the server, as its operator chose them.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use fsa_model::{
    address::Network, environment::Environment, limits as model, llm_provider::Mode, money::Micros,
    system::Check,
};
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use url::Url;

use crate::pricing::Prices;

/// Settings of the whole server.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// The main host's origin, such as `http://localhost:8080`: the API and the page live there.
    pub origin: Url,
    /// The domain under which `{project}--{port}` host names live, such as `localhost`.
    pub apps_domain: String,
    /// From `.secret/.env`: the agent's credentials, the first layer of every sandbox's environment.
    pub agent_environment: Environment,
    pub agents: LlmProxySettings,
    /// Error answers carry their chain of causes.
    pub development: bool,
    /// How long a drain waits for requests and streams before it ends them.
    pub drain: Duration,
    /// The version that /healthz tells.
    pub version: &'static str,
    /// The login of the first owner.
    pub owner_login: String,
    /// Reverse proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<Network>,
    pub limits: Limits,
    /// The web application, where the binary brings one; without it `/` is a plain page.
    pub web: Option<WebFiles>,
    /// Sign-in with GitHub, where it is set up.
    pub github: Option<GithubSettings>,
    /// What the doctor looks at while the server runs.
    pub checks: Checks,
}

/// Looks at what the server stands on. The one who put the server together knows how.
#[derive(Clone, Default)]
pub struct Checks(Option<Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>>);

impl Checks {
    #[must_use]
    pub fn new<F, R>(look: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Vec<Check>> + Send + 'static,
    {
        Self(Some(Arc::new(move || Box::pin(look()))))
    }

    pub(crate) async fn run(&self) -> Vec<Check> {
        match &self.0 {
            Some(look) => look().await,
            None => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checks")
    }
}

/// A file of the application by its path; `….br` and `….gz` are the compressed variants.
pub type WebFiles = fn(&str) -> Option<Cow<'static, [u8]>>;

/// How much one request or one user may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body, unless its route says otherwise.
    pub body: usize,
    /// Bytes of one upload into a sandbox (`PUT …/files`).
    pub upload: u64,
    /// WebSockets and event streams that one user may have open on the main host.
    pub streams_per_user: usize,
    /// What each user may have at the same time, unless they have limits of their own.
    pub per_user: model::Limits,
    /// What all users may have together.
    pub in_all: model::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 * 1024 * 1024,
            upload: 1024 * 1024 * 1024,
            streams_per_user: 200,
            per_user: model::Limits::default(),
            in_all: model::Limits::default(),
        }
    }
}

/// Settings of the LLM proxy.
#[derive(Clone, Debug, Default)]
pub struct LlmProxySettings {
    pub mode: Mode,
    pub prices: Prices,
    /// What each project may spend in a calendar month, unless it has a budget of its own.
    pub monthly_budget: Option<Micros>,
    /// Networks that sandboxes may reach although they are private: then a project's own base URL
    /// may lead there too.
    pub allowed_networks: Vec<Network>,
}

/// Settings of the way to GitHub.
#[derive(Clone, Debug)]
pub struct GithubSettings {
    pub client_id: String,
    pub client_secret: SecretString,
    /// Where people sign in: `https://github.com/`, or a GitHub Enterprise server.
    pub url: Url,
    /// Its API: `https://api.github.com/`, or `https://HOST/api/v3/`.
    pub api: Url,
    /// The client is a GitHub App, and no OAuth App: what it may do is set at GitHub, its tokens
    /// expire, and git in a sandbox gets one for its own repository alone.
    pub app: bool,
    pub join: Join,
}

/// Who may become a user by signing in with GitHub. Whoever is a user already may sign in
/// whatever this says.
#[derive(Clone, Debug, Default)]
pub struct Join {
    pub anyone: bool,
    /// These logins at GitHub.
    pub logins: Vec<String>,
    /// Members of these organizations.
    pub organizations: Vec<String>,
}

impl Join {
    /// Whether somebody with this login may join; `None` where their organizations decide.
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
    /// Whether people reach the main host by https, so that cookies may insist on it.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.origin.scheme() == "https"
    }

    /// `http(s)://{label}.{apps domain}[:port]`: where a port of a sandbox is reached.
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

    /// The origin as browsers write it: scheme, host and port, without a slash at its end.
    #[must_use]
    pub fn origin_text(&self) -> String {
        self.origin.origin().ascii_serialization()
    }
}

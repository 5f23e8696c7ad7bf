//! LLM provider connections: where a request may go, and the HTTP clients for it.
//!
//! The operator's base URL may lead anywhere. A base URL that a person set in a project's
//! variables may lead to the open internet, and to the private networks that sandboxes may reach
//! anyway: otherwise a project's variables could make this machine connect to its own services.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use fsa_driver::own_addresses::is_public_elsewhere;
use fsa_model::{
    address::Network,
    llm_provider::{Credential, Provider},
};
use http::Method;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use url::{Host, Url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout between two pieces of a response, and before its first: a model may think for minutes.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// How long idle connections are kept for the next request to the same server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Clients for both kinds of base URL.
pub struct Upstream {
    trusted: OnceLock<Client>,
    guarded: OnceLock<Client>,
    guard: SsrfGuard,
}

/// Why a request is not sent.
#[derive(Debug, thiserror::Error)]
pub enum RequestRefused {
    #[error(
        "{0} is in a private network or on the server's own machine; a project's own base URL must lead to the internet"
    )]
    Private(String),
    #[error("the base URL is not of the form http(s)://host[:port][/path]")]
    Base,
    #[error(
        "the relay does not forward {0}: it forwards only requests that agents need and that it can meter"
    )]
    Path(String),
}

#[derive(Clone)]
struct SsrfGuard(Arc<[Network]>);

impl SsrfGuard {
    fn allows(&self, address: IpAddr) -> bool {
        is_public_elsewhere(address) || self.0.iter().any(|network| network.contains(address))
    }
}

impl Resolve for SsrfGuard {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, guard) = (name.as_str().to_owned(), self.clone());
        Box::pin(async move {
            let lookup = tokio::net::lookup_host((host.as_str(), 0));
            let addresses: Vec<SocketAddr> = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await??.collect();
            if addresses.iter().any(|address| !guard.allows(address.ip())) {
                return Err(RequestRefused::Private(host).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

impl Upstream {
    #[must_use]
    pub fn new(allowed: &[Network]) -> Self {
        Self {
            trusted: OnceLock::new(),
            guarded: OnceLock::new(),
            guard: SsrfGuard(allowed.into()),
        }
    }

    /// Built on demand: reading the system's certificates takes a while.
    fn trusted(&self) -> &Client {
        self.trusted
            .get_or_init(|| builder().build().expect("the client has constant settings"))
    }

    fn guarded(&self) -> &Client {
        self.guarded.get_or_init(|| {
            builder()
                // A proxy would resolve names itself, past the guard.
                .no_proxy()
                .dns_resolver(Arc::new(self.guard.clone()))
                .build()
                .expect("the client has constant settings")
        })
    }

    /// The client and the URL for a request to `provider` for `rest`.
    ///
    /// # Errors
    /// [`RequestRefused`].
    pub fn target(
        &self,
        provider: Provider,
        credential: &Credential,
        method: &Method,
        rest: &str,
        query: Option<&str>,
    ) -> Result<(&Client, Url), RequestRefused> {
        let rest = match provider {
            // Clients differ in whether the version is part of the base URL.
            Provider::Openai => rest.strip_prefix("/v1").unwrap_or(rest),
            Provider::Anthropic | Provider::Gemini => rest,
        };
        if !is_allowed(provider, method, rest) {
            return Err(RequestRefused::Path(
                rest.chars().filter(|c| !c.is_control()).take(100).collect(),
            ));
        }
        // Parsed alone first: the path after it must not become part of its host.
        let base = Url::parse(&credential.base_url).map_err(|_| RequestRefused::Base)?;
        if !matches!(base.scheme(), "http" | "https") || base.query().is_some() || base.fragment().is_some() {
            return Err(RequestRefused::Base);
        }
        let mut url =
            Url::parse(&format!("{}{rest}", credential.base_url)).map_err(|_| RequestRefused::Base)?;
        url.set_query(query);
        if credential.trusted {
            return Ok((self.trusted(), url));
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            // Names are checked when they are resolved.
            Some(Host::Domain(_)) | None => None,
        };
        match address {
            Some(address) if !self.guard.allows(address) => Err(RequestRefused::Private(address.to_string())),
            _ => Ok((self.guarded(), url)),
        }
    }
}

fn builder() -> reqwest::ClientBuilder {
    // `fsa` has set the process's TLS provider at its start, and then this does nothing; programs
    // that embed the server, such as its tests, have not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .redirect(Policy::none())
        .tcp_nodelay(true)
}

/// The endpoints that agents need of each provider. A key may open many more (files, batches, an
/// organization's members), and a response that is fetched by a later request cannot be metered.
fn is_allowed(provider: Provider, method: &Method, rest: &str) -> bool {
    let plain = rest
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/-._:".contains(&byte));
    if !plain || rest.split('/').any(|part| part == "." || part == "..") {
        return false;
    }
    let below = |folder: &str| {
        rest.strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (provider, method) {
        (Provider::Anthropic, &Method::POST) => {
            matches!(rest, "/v1/messages" | "/v1/messages/count_tokens")
        }
        (Provider::Anthropic, &Method::GET) => below("/v1/models"),
        (Provider::Openai, &Method::POST) => matches!(
            rest,
            "/chat/completions" | "/responses" | "/completions" | "/embeddings"
        ),
        (Provider::Openai, &Method::GET) => below("/models"),
        (Provider::Gemini, &Method::POST) => {
            (below("/v1beta/models") || below("/v1/models"))
                && [
                    ":generateContent",
                    ":streamGenerateContent",
                    ":countTokens",
                    ":embedContent",
                ]
                .iter()
                .any(|verb| rest.ends_with(verb))
        }
        (Provider::Gemini, &Method::GET) => below("/v1beta/models") || below("/v1/models"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use fsa_model::llm_provider::Key;

    use super::*;

    fn credential(base: &str, trusted: bool) -> Credential {
        Credential {
            base_url: base.into(),
            trusted,
            key: Key::Bearer("k".to_owned().into()),
            headers: None,
        }
    }

    fn upstream(allowed: &[&str]) -> Upstream {
        let allowed: Vec<Network> = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Upstream::new(&allowed)
    }

    #[test]
    fn only_paths_of_agents_are_allowed() {
        let (post, get) = (Method::POST, Method::GET);
        for (provider, method, path, passed) in [
            (Provider::Anthropic, &post, "/v1/messages", true),
            (Provider::Anthropic, &post, "/v1/messages/batches", false),
            (Provider::Anthropic, &post, "/v1/messages/../files", false),
            (Provider::Anthropic, &post, "/v1/messages%2f..%2ffiles", false),
            (Provider::Anthropic, &get, "/v1/models/claude-x", true),
            (Provider::Anthropic, &get, "/v1/modelsx", false),
            (Provider::Anthropic, &get, "/v1/organizations/users", false),
            (Provider::Anthropic, &Method::DELETE, "/v1/messages", false),
            (Provider::Openai, &post, "/responses", true),
            (Provider::Openai, &post, "/files", false),
            (
                Provider::Gemini,
                &post,
                "/v1beta/models/gemini-x:streamGenerateContent",
                true,
            ),
            (
                Provider::Gemini,
                &post,
                "/v1beta/models/gemini-x:batchGenerateContent",
                false,
            ),
            (Provider::Gemini, &post, "/v1beta/files:generateContent", false),
        ] {
            assert_eq!(is_allowed(provider, method, path), passed, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn base_urls_of_users_must_be_public() {
        let upstream = upstream(&["198.51.100.0/24"]);
        let target = |base: &str, trusted| {
            upstream
                .target(
                    Provider::Anthropic,
                    &credential(base, trusted),
                    &Method::POST,
                    "/v1/messages",
                    Some("beta=true"),
                )
                .map(|(_, url)| url.to_string())
        };
        assert_eq!(
            target("http://127.0.0.1:1/x", true).unwrap(),
            "http://127.0.0.1:1/x/v1/messages?beta=true"
        );
        for private in [
            "http://127.0.0.1:1",
            "http://2130706433",
            "http://[::1]",
            "http://169.254.169.254",
            "http://[::ffff:10.0.0.1]",
        ] {
            assert!(
                matches!(target(private, false), Err(RequestRefused::Private(_))),
                "{private}"
            );
        }
        for open in [
            "http://198.51.100.7:8000",
            "https://1.1.1.1",
            "https://models.example",
        ] {
            assert!(target(open, false).is_ok(), "{open}");
        }
        for wrong in ["file:///etc", "nonsense", "http://"] {
            assert!(target(wrong, true).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn names_that_resolve_to_private_addresses_are_refused() {
        let upstream = upstream(&[]);
        let name = "localhost".parse().unwrap();
        let refused = upstream.guard.resolve(name).await.err().expect("it is refused");
        assert!(refused.downcast_ref::<RequestRefused>().is_some(), "{refused}");
    }
}

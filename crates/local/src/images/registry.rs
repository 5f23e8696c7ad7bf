//! OCI registry client (OCI distribution specification 1.1, Docker's token authentication).
//!
//! Compared with `oci-client`, which does not do what matters here: the addresses of redirects and
//! token servers go through [`SsrfGuard`], answers are bounded, and a broken download resumes where
//! it stopped.

use std::{
    collections::HashMap,
    error::Error as _,
    sync::OnceLock,
    time::{Duration, Instant},
};

use oci_spec::distribution::Reference;
use parking_lot::Mutex;
use reqwest::{
    Client, Method, Proxy, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, RETRY_AFTER},
    redirect::Policy,
};
use url::Url;

use super::{
    digest::Digest,
    manifest::{DOCUMENT_MAX, MEDIA_ACCEPTED},
    settings::Settings,
    ssrf_guard::{RefusedAddress, SsrfGuard, host_of},
};

const REDIRECTS_MAX: usize = 5;
const TOKENS_MAX: usize = 1_000;
/// For a request until its answer begins, signing in included, and for a small answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest that a registry may make us wait before the next try.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

/// Why a request to a registry failed. Completes "the image …".
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("does not exist: the registry {0} has none of that name and tag")]
    NotFound(String),
    #[error(
        "cannot be read: the registry {0} requires a sign-in, or has no such image (an operator can set credentials for it)"
    )]
    Unauthorized(String),
    #[error(
        "cannot be fetched: the registry {registry}: {refused}; an operator can allow it in the settings"
    )]
    Refused {
        registry: String,
        refused: RefusedAddress,
    },
    #[error("cannot be fetched at the moment: the registry {registry} does not answer ({why})")]
    Unreachable { registry: String, why: String },
    #[error(
        "cannot be fetched at the moment: the registry {registry} is busy or out of order (HTTP status {status})"
    )]
    Busy {
        registry: String,
        status: u16,
        after: Option<Duration>,
    },
    #[error("cannot be fetched: the registry {registry} {what}")]
    Protocol { registry: String, what: String },
    #[error("came from the registry {registry} with the digest {found} and not {expected}")]
    WrongDigest {
        registry: String,
        expected: Digest,
        found: Digest,
    },
}

impl RegistryError {
    /// Whether a retry may succeed.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Busy { .. } | Self::WrongDigest { .. }
        )
    }
}

pub(super) type Result<T> = std::result::Result<T, RegistryError>;

/// Retries of a request after transient failures, with growing pauses.
pub struct Retries {
    left: u32,
    pause: Duration,
}

impl Retries {
    /// Waits until the next attempt, or returns `error` where there is none.
    pub async fn retry(&mut self, error: RegistryError) -> Result<()> {
        if self.left == 0 || !error.is_transient() {
            return Err(error);
        }
        let requested = match &error {
            RegistryError::Busy {
                after: Some(after), ..
            } => (*after).min(RETRY_AFTER_MAX),
            _ => Duration::ZERO,
        };
        tracing::debug!(%error, "request to a registry failed; retrying");
        tokio::time::sleep(
            self.pause
                .mul_f64(1.0 + rand::random::<f64>() / 2.0)
                .max(requested),
        )
        .await;
        self.left -= 1;
        self.pause *= 2;
        Ok(())
    }
}

/// All registries.
pub struct Registries {
    pub(super) settings: Settings,
    allowed: SsrfGuard,
    /// For registries that an operator trusts with private addresses, and for all others.
    trusted: OnceLock<std::result::Result<Client, String>>,
    open: OnceLock<std::result::Result<Client, String>>,
    tokens: Mutex<HashMap<(String, String), (HeaderValue, Instant)>>,
}

impl Registries {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            allowed: SsrfGuard::new(&settings.allowed_registries),
            settings,
            trusted: OnceLock::new(),
            open: OnceLock::new(),
            tokens: Mutex::default(),
        }
    }

    /// Whether the image exists, without fetching it.
    pub async fn exists(&self, reference: &Reference) -> Result<()> {
        let url = self.url(reference, &format!("manifests/{}", tag(reference)))?;
        let mut retries = self.retries();
        loop {
            match self.request(reference, Method::HEAD, &url, None).await {
                Ok(_) => return Ok(()),
                Err(e) => retries.retry(e).await?,
            }
        }
    }

    /// The manifest or index that the reference names, or the one with `digest`.
    pub async fn manifest(&self, reference: &Reference, digest: Option<Digest>) -> Result<Vec<u8>> {
        let name = digest.map_or_else(|| tag(reference), |digest| digest.to_string());
        let expected = digest.or_else(|| reference.digest()?.parse().ok());
        self.document(reference, &format!("manifests/{name}"), expected)
            .await
    }

    /// A small blob: a configuration.
    pub async fn small_blob(&self, reference: &Reference, digest: Digest) -> Result<Vec<u8>> {
        self.document(reference, &format!("blobs/{digest}"), Some(digest))
            .await
    }

    /// The blob from `offset` on, or from its start where the registry cannot do that: the first
    /// of the two is the offset that was granted.
    pub async fn blob(&self, reference: &Reference, digest: Digest, offset: u64) -> Result<(u64, Response)> {
        let url = self.url(reference, &format!("blobs/{digest}"))?;
        let response = self
            .request(reference, Method::GET, &url, (offset > 0).then_some(offset))
            .await?;
        let granted = if response.status() == StatusCode::PARTIAL_CONTENT {
            offset
        } else {
            0
        };
        Ok((granted, response))
    }

    /// Retries for one request.
    #[must_use]
    pub fn retries(&self) -> Retries {
        Retries {
            left: self.settings.attempts.saturating_sub(1),
            pause: self.settings.retry_pause,
        }
    }

    /// The error of a failed request or read.
    pub fn broken(&self, reference: &Reference, error: &reqwest::Error) -> RegistryError {
        let registry = reference.registry().to_owned();
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(refused) = cause.downcast_ref::<RefusedAddress>() {
                return RegistryError::Refused {
                    registry,
                    refused: refused.clone(),
                };
            }
            why = cause.to_string();
            source = cause.source();
        }
        if error.is_timeout() {
            why = "it took too long".into();
        }
        RegistryError::Unreachable { registry, why }
    }

    async fn document(&self, reference: &Reference, path: &str, expected: Option<Digest>) -> Result<Vec<u8>> {
        let url = self.url(reference, path)?;
        let mut retries = self.retries();
        loop {
            match self.document_once(reference, &url, expected).await {
                Ok(bytes) => return Ok(bytes),
                Err(e) => retries.retry(e).await?,
            }
        }
    }

    async fn document_once(
        &self,
        reference: &Reference,
        url: &Url,
        expected: Option<Digest>,
    ) -> Result<Vec<u8>> {
        let response = self.request(reference, Method::GET, url, None).await?;
        let bytes = self
            .in_time(reference, self.bounded(reference, response, DOCUMENT_MAX))
            .await?;
        let found = Digest::of(&bytes);
        match expected {
            Some(expected) if expected != found => Err(RegistryError::WrongDigest {
                registry: reference.registry().to_owned(),
                expected,
                found,
            }),
            _ => Ok(bytes),
        }
    }

    pub(super) async fn bounded(
        &self,
        reference: &Reference,
        mut response: Response,
        limit: u64,
    ) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(reference, &e))? {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Err(protocol(
                    reference,
                    format!("sends more than {limit} bytes for a small document"),
                ));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn request(
        &self,
        reference: &Reference,
        method: Method,
        url: &Url,
        from: Option<u64>,
    ) -> Result<Response> {
        self.in_time(reference, self.request_slowly(reference, method, url, from))
            .await
    }

    /// Bounds a whole request: a registry that sends a byte now and then evades the idle timeout.
    async fn in_time<T>(&self, reference: &Reference, action: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(REQUEST_TIMEOUT, action)
            .await
            .unwrap_or_else(|_| {
                Err(RegistryError::Unreachable {
                    registry: reference.registry().to_owned(),
                    why: "it took too long".into(),
                })
            })
    }

    /// One request, with authentication where the registry requires it.
    async fn request_slowly(
        &self,
        reference: &Reference,
        method: Method,
        url: &Url,
        from: Option<u64>,
    ) -> Result<Response> {
        let client = self.client(reference)?;
        let key = (reference.registry().to_owned(), reference.repository().to_owned());
        let mut fresh = false;
        loop {
            let token = self
                .tokens
                .lock()
                .get(&key)
                .filter(|(_, until)| *until > Instant::now())
                .map(|(token, _)| token.clone());
            let mut request = client
                .request(method.clone(), url.clone())
                .header(ACCEPT, MEDIA_ACCEPTED);
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, token);
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await.map_err(|e| self.broken(reference, &e))?;
            let registry = || reference.registry().to_owned();
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if !fresh => {
                    fresh = true;
                    let (token, life) = self.sign_in(reference, response.headers()).await?;
                    let mut tokens = self.tokens.lock();
                    if tokens.len() >= TOKENS_MAX {
                        tokens.clear();
                    }
                    tokens.insert(key.clone(), (token, Instant::now() + life));
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(RegistryError::Unauthorized(registry()));
                }
                StatusCode::NOT_FOUND => return Err(RegistryError::NotFound(registry())),
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    let after = response
                        .headers()
                        .get(RETRY_AFTER)
                        .and_then(|value| value.to_str().ok()?.parse().ok());
                    return Err(RegistryError::Busy {
                        registry: registry(),
                        status: status.as_u16(),
                        after: after.map(Duration::from_secs),
                    });
                }
                status => {
                    return Err(protocol(
                        reference,
                        format!("answers with the HTTP status {}", status.as_u16()),
                    ));
                }
            }
        }
    }

    pub(super) fn scheme(&self, reference: &Reference) -> &'static str {
        let registry = reference.resolve_registry();
        let host = host_of(registry);
        let plain = matches!(host, "localhost" | "127.0.0.1" | "[::1]")
            || self
                .settings
                .plain_http_registries
                .iter()
                .any(|entry| entry == registry || entry == host);
        if plain { "http" } else { "https" }
    }

    fn url(&self, reference: &Reference, path: &str) -> Result<Url> {
        let text = format!(
            "{}://{}/v2/{}/{path}",
            self.scheme(reference),
            reference.resolve_registry(),
            reference.repository()
        );
        let url: Url = text
            .parse()
            .map_err(|_| protocol(reference, "has a name that is no address".into()))?;
        self.guard(reference)
            .check(&url)
            .map_err(|refused| refuse(reference, refused))?;
        Ok(url)
    }

    pub(super) fn guard(&self, reference: &Reference) -> SsrfGuard {
        if self.trusts(reference) {
            self.allowed.clone()
        } else {
            SsrfGuard::default()
        }
    }

    fn trusts(&self, reference: &Reference) -> bool {
        self.allowed.allows(reference.resolve_registry()) || self.allowed.allows(reference.registry())
    }

    pub(super) fn client(&self, reference: &Reference) -> Result<&Client> {
        let client = if self.trusts(reference) {
            self.trusted
                .get_or_init(|| self.build(self.allowed.clone(), &self.allowed, None))
        } else {
            self.open.get_or_init(|| {
                let proxy = self.settings.proxy.as_deref();
                // The proxy itself may be anywhere, and makes the connections.
                let host = proxy.and_then(|proxy| Some(Url::parse(proxy).ok()?.host_str()?.to_owned()));
                self.build(SsrfGuard::new(&host), &SsrfGuard::default(), proxy)
            })
        };
        client
            .as_ref()
            .map_err(|why| protocol(reference, format!("cannot be used from this machine ({why})")))
    }

    fn build(
        &self,
        names: SsrfGuard,
        addresses: &SsrfGuard,
        proxy: Option<&str>,
    ) -> std::result::Result<Client, String> {
        // Harmless where the program has done it already; without it, building a client panics.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redirects = addresses.clone();
        let mut builder = Client::builder()
            .connect_timeout(self.settings.connect_timeout)
            .read_timeout(self.settings.idle_timeout)
            .user_agent(concat!("fsa/", env!("CARGO_PKG_VERSION")))
            .referer(false)
            // The command line reads proxies from the environment.
            .no_proxy()
            .dns_resolver(names)
            .redirect(Policy::custom(move |attempt| {
                if attempt.previous().len() > REDIRECTS_MAX {
                    return attempt.error("it redirects too often");
                }
                let from_tls = attempt
                    .previous()
                    .last()
                    .is_some_and(|url| url.scheme() == "https");
                if from_tls && attempt.url().scheme() != "https" {
                    return attempt.error("it redirects to an address without TLS");
                }
                match redirects.check(attempt.url()) {
                    Ok(()) => attempt.follow(),
                    Err(refused) => attempt.error(refused),
                }
            }));
        if let Some(proxy) = proxy {
            builder = builder.proxy(Proxy::all(proxy).map_err(|e| e.to_string())?);
        }
        builder.build().map_err(|e| e.to_string())
    }
}

fn tag(reference: &Reference) -> String {
    reference
        .digest()
        .or(reference.tag())
        .unwrap_or("latest")
        .to_owned()
}

pub(super) fn protocol(reference: &Reference, what: String) -> RegistryError {
    RegistryError::Protocol {
        registry: reference.registry().to_owned(),
        what,
    }
}

pub(super) fn refuse(reference: &Reference, refused: RefusedAddress) -> RegistryError {
    RegistryError::Refused {
        registry: reference.registry().to_owned(),
        refused,
    }
}

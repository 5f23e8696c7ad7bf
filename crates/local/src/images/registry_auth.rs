//! Registry authentication: Docker's token authentication, and HTTP Basic.
//!
//! A registry names its token server, so that address goes through the SSRF guard too, and
//! credentials go over TLS unless the registry itself is used without TLS.

use std::time::Duration;

use oci_spec::distribution::Reference;
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use url::Url;

use super::registry::{Registries, RegistryError, Result, protocol, refuse};

/// Bytes of a token server's answer.
const TOKEN_MAX: u64 = 1 << 20;
/// Lifetime of a token without `expires_in` (Docker's specification).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// The longest use of a token or of credentials before they are requested again.
const LIFE_MAX: Duration = Duration::from_secs(3600);

impl Registries {
    /// What to send as `Authorization`, and for how long.
    pub(super) async fn sign_in(
        &self,
        reference: &Reference,
        headers: &HeaderMap,
    ) -> Result<(HeaderValue, Duration)> {
        let unauthorized = || RegistryError::Unauthorized(reference.registry().to_owned());
        let basic = self
            .settings
            .credentials
            .iter()
            .find(|c| c.registry == reference.registry() || c.registry == reference.resolve_registry())
            .map(|c| http_auth::basic::encode_credentials(&c.username, c.password.expose_secret()));
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(challenges) = header
                .to_str()
                .map_err(drop)
                .and_then(|h| http_auth::parse_challenges(h).map_err(drop))
            else {
                continue;
            };
            for challenge in challenges {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let param = |name: &str| {
                        challenge
                            .params
                            .iter()
                            .find(|(key, _)| key.eq_ignore_ascii_case(name))
                            .map(|(_, value)| value.to_unescaped())
                    };
                    let realm = param("realm")
                        .ok_or_else(|| protocol(reference, "does not say where to sign in".into()))?;
                    return self
                        .token(reference, &realm, param("service"), basic.as_deref())
                        .await;
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    let basic = basic.as_deref().ok_or_else(unauthorized)?;
                    return Ok((secret(basic).ok_or_else(unauthorized)?, LIFE_MAX));
                }
            }
        }
        Err(unauthorized())
    }

    async fn token(
        &self,
        reference: &Reference,
        realm: &str,
        service: Option<String>,
        basic: Option<&str>,
    ) -> Result<(HeaderValue, Duration)> {
        #[derive(Deserialize)]
        struct TokenResponse {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let odd = |what: &str| protocol(reference, format!("names {what} as its sign-in server"));
        let mut url: Url = realm.parse().map_err(|_| odd("something that is no address"))?;
        // A password or token goes in the clear only where the registry itself is used without TLS.
        if url.scheme() != "https" && (url.scheme() != "http" || self.scheme(reference) != "http") {
            return Err(odd("an address without TLS"));
        }
        self.guard(reference)
            .check(&url)
            .map_err(|refused| refuse(reference, refused))?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", &service);
            }
            query.append_pair("scope", &format!("repository:{}:pull", reference.repository()));
        }
        let mut request = self.client(reference)?.get(url);
        if let Some(basic) = basic.and_then(secret) {
            request = request.header(AUTHORIZATION, basic);
        }
        let response = request.send().await.map_err(|e| self.broken(reference, &e))?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(RegistryError::Busy {
                    registry: reference.registry().to_owned(),
                    status: status.as_u16(),
                    after: None,
                });
            }
            _ => return Err(RegistryError::Unauthorized(reference.registry().to_owned())),
        }
        let bytes = self.bounded(reference, response, TOKEN_MAX).await?;
        let response_body: Option<TokenResponse> = serde_json::from_slice(&bytes).ok();
        let life = response_body
            .as_ref()
            .and_then(|response_body| response_body.expires_in)
            .map_or(TOKEN_LIFE, Duration::from_secs);
        response_body
            .and_then(|response_body| response_body.token.or(response_body.access_token))
            .and_then(|token| secret(&format!("Bearer {token}")))
            // A little early, so that it does not expire during a request.
            .map(|token| (token, life.min(LIFE_MAX).saturating_sub(Duration::from_secs(5))))
            .ok_or_else(|| protocol(reference, "has a sign-in server that gives no token".into()))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

//! Coding agents and the models behind them: whose variables are whose, and how each provider
//! says that something went wrong.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{callback, environment::Environment};

/// Whose programming interface a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Anthropic,
    Openai,
    Gemini,
}

/// How agents' credentials reach a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They do not: the sandbox gets the address of a relay and a token worth nothing elsewhere.
    #[default]
    Relay,
    /// As environment variables.
    Inject,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "relay" => Ok(Self::Relay),
            "inject" => Ok(Self::Inject),
            _ => Err(format!("`{text}` is neither `relay` nor `inject`")),
        }
    }
}

/// How a secret is shown to a provider.
#[derive(Clone, Debug)]
pub enum Key {
    /// In a header of the provider's own.
    Header(&'static str, SecretString),
    /// `Authorization: Bearer`.
    Bearer(SecretString),
    /// The same, of a Claude subscription (`CLAUDE_CODE_OAUTH_TOKEN`).
    Subscription(SecretString),
}

/// What a request to a provider is sent with, and where.
#[derive(Clone, Debug)]
pub struct Credential {
    pub base_url: String,
    /// The base URL is of the operator's own settings, or the provider's; else a person chose it.
    pub trusted: bool,
    pub key: Key,
    /// `ANTHROPIC_CUSTOM_HEADERS`: lines of `Name: value`, which may be secret.
    pub headers: Option<SecretString>,
}

impl Provider {
    pub const ALL: [Self; 3] = [Self::Anthropic, Self::Openai, Self::Gemini];

    /// The first segment of its path at the relay, and its name everywhere else.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Openai => "openai",
            Self::Gemini => "gemini",
        }
    }

    /// Whose path this is, and what comes after the provider's name (with its `/`).
    #[must_use]
    pub fn of_path(path: &str) -> Option<(Self, &str)> {
        let path = path.strip_prefix('/')?;
        let end = path.find('/').unwrap_or(path.len());
        let (first, rest) = path.split_at(end);
        let provider = Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == first)?;
        Some((provider, rest))
    }

    /// Where it is where no variable says anything else.
    #[must_use]
    pub const fn default_base(self) -> &'static str {
        match self {
            Self::Anthropic => "https://api.anthropic.com",
            Self::Openai => "https://api.openai.com/v1",
            Self::Gemini => "https://generativelanguage.googleapis.com",
        }
    }

    const fn base_variable(self) -> &'static str {
        match self {
            Self::Anthropic => "ANTHROPIC_BASE_URL",
            Self::Openai => "OPENAI_BASE_URL",
            Self::Gemini => "GOOGLE_GEMINI_BASE_URL",
        }
    }

    /// The variables of its secrets; of several the first counts, as the agents have it.
    const fn key_variables(self) -> &'static [&'static str] {
        match self {
            Self::Anthropic => &[
                "ANTHROPIC_AUTH_TOKEN",
                "ANTHROPIC_API_KEY",
                "CLAUDE_CODE_OAUTH_TOKEN",
            ],
            Self::Openai => &["OPENAI_API_KEY", "CODEX_API_KEY"],
            Self::Gemini => &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        }
    }

    const fn headers_variable(self) -> Option<&'static str> {
        match self {
            Self::Anthropic => Some("ANTHROPIC_CUSTOM_HEADERS"),
            Self::Openai | Self::Gemini => None,
        }
    }

    /// What is sent to it, from layers of which the later win; the first is the operator's.
    ///
    /// A layer that says where to send to takes away the keys of those before it: whoever can set
    /// a project's variables must not have the operator's key sent to a server of theirs.
    #[must_use]
    pub fn credential(self, layers: &[&Environment]) -> Option<Credential> {
        let mut base = (self.default_base().to_owned(), true);
        let (mut key, mut headers) = (None, None);
        for (number, layer) in layers.iter().enumerate() {
            let get = |name: &str| layer.get(name).filter(|value| !value.expose_secret().is_empty());
            if let Some(url) = get(self.base_variable()) {
                base = (url.expose_secret().trim_end_matches('/').to_owned(), number == 0);
                (key, headers) = (None, None);
            }
            if let Some(found) = self
                .key_variables()
                .iter()
                .find_map(|name| Some((*name, get(name)?)))
            {
                key = Some(match found {
                    ("ANTHROPIC_API_KEY", secret) => Key::Header("x-api-key", secret.clone()),
                    ("GEMINI_API_KEY" | "GOOGLE_API_KEY", secret) => {
                        Key::Header("x-goog-api-key", secret.clone())
                    }
                    ("CLAUDE_CODE_OAUTH_TOKEN", secret) => Key::Subscription(secret.clone()),
                    (_, secret) => Key::Bearer(secret.clone()),
                });
            }
            if let Some(found) = self.headers_variable().and_then(get) {
                headers = Some(found.clone());
            }
        }
        Some(Credential {
            base_url: base.0,
            trusted: base.1,
            key: key?,
            headers,
        })
    }

    /// The variables that lead an agent to the relay.
    fn relayed(self, url: &str, token: &SecretString) -> Vec<(&'static str, SecretString)> {
        let base = |path: &str| SecretString::from(format!("{url}{path}"));
        match self {
            Self::Anthropic => vec![
                ("ANTHROPIC_BASE_URL", base("/anthropic")),
                ("ANTHROPIC_AUTH_TOKEN", token.clone()),
            ],
            Self::Openai => vec![
                ("OPENAI_BASE_URL", base("/openai")),
                ("OPENAI_API_KEY", token.clone()),
            ],
            Self::Gemini => vec![
                ("GOOGLE_GEMINI_BASE_URL", base("/gemini")),
                ("GEMINI_API_KEY", token.clone()),
            ],
        }
    }

    /// An error as this provider writes it, which is what its clients can read.
    #[must_use]
    pub fn error(self, status: u16, message: &str) -> serde_json::Value {
        match self {
            Self::Anthropic => {
                let kind = match status {
                    400 | 422 => "invalid_request_error",
                    401 => "authentication_error",
                    402 => "billing_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    503 | 529 => "overloaded_error",
                    _ => "api_error",
                };
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            Self::Openai => {
                let kind = match status {
                    402 => "insufficient_quota",
                    400..=499 => "invalid_request_error",
                    _ => "server_error",
                };
                json!({"error": {"message": message, "type": kind, "param": null, "code": kind}})
            }
            Self::Gemini => {
                let kind = match status {
                    400 => "INVALID_ARGUMENT",
                    401 => "UNAUTHENTICATED",
                    402 | 429 => "RESOURCE_EXHAUSTED",
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    503 => "UNAVAILABLE",
                    _ => "INTERNAL",
                };
                json!({"error": {"code": status, "message": message, "status": kind}})
            }
        }
    }
}

/// Whether a variable's name says that its value is a secret.
#[must_use]
pub fn names_a_secret(name: &str) -> bool {
    name.split('_').any(|word| {
        matches!(
            word,
            "KEY" | "TOKEN" | "SECRET" | "PASSWORD" | "PASSPHRASE" | "CREDENTIAL" | "CREDENTIALS" | "HEADERS"
        )
    })
}

/// The variables of a sandbox whose agents go through the relay at `url` with `token`.
///
/// Of the operator's own layer nothing enters that may be a secret. Of people's layers the
/// credentials of each provider that is relayed stay outside; their other variables are their
/// applications' and enter as they are.
#[must_use]
pub fn relayed(layers: &[&Environment], url: &str, token: &SecretString) -> Vec<Environment> {
    let all: Vec<Provider> = Provider::ALL
        .into_iter()
        .filter(|provider| provider.credential(layers).is_some())
        .collect();
    let mut kept: Vec<Environment> = layers
        .iter()
        .enumerate()
        .map(|(number, layer)| {
            let stays_out = |name: &str| {
                (number == 0 && names_a_secret(name))
                    || all.iter().any(|provider| {
                        provider.base_variable() == name
                            || provider.key_variables().contains(&name)
                            || provider.headers_variable() == Some(name)
                    })
            };
            layer
                .iter()
                .filter(|(name, _)| !stays_out(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        })
        .collect();
    let led: BTreeMap<String, SecretString> = all
        .into_iter()
        .flat_map(|provider| provider.relayed(url, token))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    kept.push(led);
    kept
}

/// The relay's address inside every sandbox.
#[must_use]
pub fn relay_url() -> String {
    format!("http://127.0.0.1:{}", callback::PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(pairs: &[(&str, &str)]) -> Environment {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned().into()))
            .collect()
    }

    fn key(credential: &Credential) -> &str {
        match &credential.key {
            Key::Header(_, secret) | Key::Bearer(secret) | Key::Subscription(secret) => {
                secret.expose_secret()
            }
        }
    }

    #[test]
    fn the_later_layers_key_wins_and_the_operators_address_stays() {
        let operator = layer(&[
            ("ANTHROPIC_BASE_URL", "http://gateway.corp/"),
            ("ANTHROPIC_API_KEY", "operators"),
        ]);
        let project = layer(&[("ANTHROPIC_API_KEY", "projects")]);
        let found = Provider::Anthropic.credential(&[&operator, &project]).unwrap();
        assert_eq!(
            (found.base_url.as_str(), key(&found)),
            ("http://gateway.corp", "projects")
        );
        assert!(found.trusted);
        assert!(Provider::Openai.credential(&[&operator, &project]).is_none());
    }

    #[test]
    fn a_persons_address_is_never_sent_the_operators_key() {
        let operator = layer(&[
            ("ANTHROPIC_API_KEY", "operators"),
            ("ANTHROPIC_CUSTOM_HEADERS", "x-team: 7"),
        ]);
        let project = layer(&[("ANTHROPIC_BASE_URL", "http://evil.example")]);
        assert!(Provider::Anthropic.credential(&[&operator, &project]).is_none());
        let own = layer(&[
            ("ANTHROPIC_BASE_URL", "http://mine.example"),
            ("ANTHROPIC_AUTH_TOKEN", "mine"),
        ]);
        let found = Provider::Anthropic.credential(&[&operator, &own]).unwrap();
        assert_eq!(key(&found), "mine");
        assert!(!found.trusted && found.headers.is_none());
    }

    #[test]
    fn in_the_relays_mode_no_credential_enters_and_the_rest_does() {
        let operator = layer(&[
            ("ANTHROPIC_API_KEY", "sk-operator"),
            ("ANTHROPIC_MODEL", "some-model"),
            ("AWS_SECRET_ACCESS_KEY", "sk-aws"),
            ("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "32000"),
        ]);
        let project = layer(&[("OPENAI_API_KEY", "sk-openai"), ("STRIPE_API_KEY", "sk-app")]);
        let token = "worthless".to_owned().into();
        let mut all = Environment::new();
        for layer in relayed(&[&operator, &project], "http://127.0.0.1:7682", &token) {
            all.extend(layer);
        }
        let all: BTreeMap<&str, &str> = all
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret()))
            .collect();
        assert_eq!(
            all,
            BTreeMap::from([
                ("ANTHROPIC_AUTH_TOKEN", "worthless"),
                ("ANTHROPIC_BASE_URL", "http://127.0.0.1:7682/anthropic"),
                ("ANTHROPIC_MODEL", "some-model"),
                ("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "32000"),
                ("OPENAI_API_KEY", "worthless"),
                ("OPENAI_BASE_URL", "http://127.0.0.1:7682/openai"),
                ("STRIPE_API_KEY", "sk-app"),
            ])
        );
    }

    #[test]
    fn a_path_says_whose_it_is() {
        assert_eq!(
            Provider::of_path("/anthropic/v1/messages"),
            Some((Provider::Anthropic, "/v1/messages"))
        );
        assert_eq!(Provider::of_path("/gemini"), Some((Provider::Gemini, "")));
        assert_eq!(Provider::of_path("/anthropics/v1"), None);
        assert_eq!(Provider::of_path("anthropic/v1"), None);
    }
}

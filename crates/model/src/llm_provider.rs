//! LLM providers: their environment variables, their credentials, the LLM proxy's variables, and
//! their error formats.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{callback, environment::Environment};

/// Provider whose API a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Anthropic,
    Openai,
    Gemini,
}

/// How the agents' credentials are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// LLM proxy: the sandbox gets the proxy's URL and a token that is valid only there.
    #[default]
    Relay,
    /// The sandbox gets the credentials as environment variables.
    Inject,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "relay" => Ok(Self::Relay),
            "inject" => Ok(Self::Inject),
            _ => Err(format!("unknown mode `{text}`: use `relay` or `inject`")),
        }
    }
}

/// Key of a provider, and how it is sent.
#[derive(Clone, Debug)]
pub enum Key {
    /// In a provider-specific header.
    Header(&'static str, SecretString),
    /// `Authorization: Bearer`.
    Bearer(SecretString),
    /// `Authorization: Bearer`, for a Claude subscription (`CLAUDE_CODE_OAUTH_TOKEN`).
    Subscription(SecretString),
}

/// Base URL and key for requests to a provider.
#[derive(Clone, Debug)]
pub struct Credential {
    pub base_url: String,
    /// The base URL is the provider's or from the operator's settings; otherwise a user chose it.
    pub trusted: bool,
    pub key: Key,
    /// `ANTHROPIC_CUSTOM_HEADERS`: lines of `Name: value`, which may be secret.
    pub headers: Option<SecretString>,
}

/// How a provider takes the secret of a variable.
#[derive(Clone, Copy)]
enum KeyForm {
    Header(&'static str),
    Bearer,
    Subscription,
}

/// What differs between providers, as data.
struct Definition {
    name: &'static str,
    default_base: &'static str,
    base_variable: &'static str,
    /// The variables of secrets; of several the first counts, as in the agents.
    keys: &'static [(&'static str, KeyForm)],
    headers_variable: Option<&'static str>,
    /// The variable with which an agent sends the token of the LLM proxy.
    token_variable: &'static str,
}

const ANTHROPIC: Definition = Definition {
    name: "anthropic",
    default_base: "https://api.anthropic.com",
    base_variable: "ANTHROPIC_BASE_URL",
    keys: &[
        ("ANTHROPIC_AUTH_TOKEN", KeyForm::Bearer),
        ("ANTHROPIC_API_KEY", KeyForm::Header("x-api-key")),
        ("CLAUDE_CODE_OAUTH_TOKEN", KeyForm::Subscription),
    ],
    headers_variable: Some("ANTHROPIC_CUSTOM_HEADERS"),
    token_variable: "ANTHROPIC_AUTH_TOKEN",
};

const OPENAI: Definition = Definition {
    name: "openai",
    default_base: "https://api.openai.com/v1",
    base_variable: "OPENAI_BASE_URL",
    keys: &[
        ("OPENAI_API_KEY", KeyForm::Bearer),
        ("CODEX_API_KEY", KeyForm::Bearer),
    ],
    headers_variable: None,
    token_variable: "OPENAI_API_KEY",
};

const GEMINI: Definition = Definition {
    name: "gemini",
    default_base: "https://generativelanguage.googleapis.com",
    base_variable: "GOOGLE_GEMINI_BASE_URL",
    keys: &[
        ("GEMINI_API_KEY", KeyForm::Header("x-goog-api-key")),
        ("GOOGLE_API_KEY", KeyForm::Header("x-goog-api-key")),
    ],
    headers_variable: None,
    token_variable: "GEMINI_API_KEY",
};

impl Provider {
    pub const ALL: [Self; 3] = [Self::Anthropic, Self::Openai, Self::Gemini];

    const fn definition(self) -> &'static Definition {
        match self {
            Self::Anthropic => &ANTHROPIC,
            Self::Openai => &OPENAI,
            Self::Gemini => &GEMINI,
        }
    }

    /// Its name, which is also the first segment of its path at the LLM proxy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.definition().name
    }

    /// Splits a path of the LLM proxy into provider and rest (with its `/`).
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

    /// Default base URL.
    #[must_use]
    pub const fn default_base(self) -> &'static str {
        self.definition().default_base
    }

    /// The credential from layers of variables, of which later ones win; the first is the operator's.
    ///
    /// A layer with a base URL discards the keys of earlier layers: a user who can set a project's
    /// variables must not have the operator's key sent to another server.
    #[must_use]
    pub fn credential(self, layers: &[&Environment]) -> Option<Credential> {
        let definition = self.definition();
        let mut base = (definition.default_base.to_owned(), true);
        let (mut key, mut headers) = (None, None);
        for (number, layer) in layers.iter().enumerate() {
            let get = |name: &str| layer.get(name).filter(|value| !value.expose_secret().is_empty());
            if let Some(url) = get(definition.base_variable) {
                base = (url.expose_secret().trim_end_matches('/').to_owned(), number == 0);
                (key, headers) = (None, None);
            }
            let secret = definition
                .keys
                .iter()
                .find_map(|&(name, form)| Some((form, get(name)?.clone())));
            if let Some((form, secret)) = secret {
                key = Some(match form {
                    KeyForm::Header(name) => Key::Header(name, secret),
                    KeyForm::Bearer => Key::Bearer(secret),
                    KeyForm::Subscription => Key::Subscription(secret),
                });
            }
            if let Some(lines) = definition.headers_variable.and_then(get) {
                headers = Some(lines.clone());
            }
        }
        Some(Credential {
            base_url: base.0,
            trusted: base.1,
            key: key?,
            headers,
        })
    }

    /// The variables with which an agent uses the LLM proxy at `url`.
    fn relayed(self, url: &str, token: &SecretString) -> [(&'static str, SecretString); 2] {
        let definition = self.definition();
        [
            (
                definition.base_variable,
                format!("{url}/{}", definition.name).into(),
            ),
            (definition.token_variable, token.clone()),
        ]
    }

    /// Whether a variable belongs to this provider's credentials.
    fn owns(self, variable: &str) -> bool {
        let definition = self.definition();
        definition.base_variable == variable
            || definition.keys.iter().any(|&(name, _)| name == variable)
            || definition.headers_variable == Some(variable)
    }

    /// An error in this provider's format, for its clients.
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

/// Whether a variable is secret according to its name.
#[must_use]
pub fn names_a_secret(name: &str) -> bool {
    name.split('_').any(|word| {
        matches!(
            word,
            "KEY" | "TOKEN" | "SECRET" | "PASSWORD" | "PASSPHRASE" | "CREDENTIAL" | "CREDENTIALS" | "HEADERS"
        )
    })
}

/// The variables of a sandbox whose agents use the LLM proxy at `url` with `token`.
///
/// Variables of the operator's layer that may be secret are removed. From users' layers the
/// credentials of the proxied providers are removed; their other variables belong to their
/// applications and are kept.
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
            let is_removed = |name: &str| {
                (number == 0 && names_a_secret(name)) || all.iter().any(|provider| provider.owns(name))
            };
            layer
                .iter()
                .filter(|(name, _)| !is_removed(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        })
        .collect();
    let proxy: BTreeMap<String, SecretString> = all
        .into_iter()
        .flat_map(|provider| provider.relayed(url, token))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    kept.push(proxy);
    kept
}

/// URL of the LLM proxy inside every sandbox.
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
    fn the_key_of_a_later_layer_wins_and_the_operators_base_url_stays() {
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
    fn the_operators_key_is_never_sent_to_a_users_base_url() {
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
    fn in_relay_mode_credentials_are_removed_and_other_variables_kept() {
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
    fn a_path_is_split_into_provider_and_rest() {
        assert_eq!(
            Provider::of_path("/anthropic/v1/messages"),
            Some((Provider::Anthropic, "/v1/messages"))
        );
        assert_eq!(Provider::of_path("/gemini"), Some((Provider::Gemini, "")));
        assert_eq!(Provider::of_path("/anthropics/v1"), None);
        assert_eq!(Provider::of_path("anthropic/v1"), None);
    }
}

//! Wire types of the API about agents' money and git's credentials.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    llm_provider::{Mode, Provider},
    money::Micros,
};

/// `GET /api/projects/{project}/agent`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentAccount {
    /// How credentials reach the sandbox.
    pub mode: Mode,
    /// For whom there is a credential.
    pub providers: Vec<Provider>,
    /// US dollars that may be spent in a calendar month (UTC); null: no limit.
    #[schema(value_type = Option<f64>)]
    pub monthly_budget: Option<Micros>,
    /// The limit is the project's own, and not the server's.
    pub own_budget: bool,
    /// US dollars spent in this month, as far as the relay counted.
    #[schema(value_type = f64)]
    pub spent: Micros,
    /// By model, the dearest first.
    pub models: Vec<AgentUsage>,
}

/// What was used of one model in this month.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentUsage {
    pub provider: String,
    pub model: String,
    pub requests: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    /// US dollars.
    #[schema(value_type = f64)]
    pub cost: Micros,
}

/// `PATCH /api/projects/{project}/agent`: what is absent stays as it is; null clears.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeAgentAccount {
    /// US dollars for a calendar month; null: the server's own limit.
    #[serde(
        default,
        with = "crate::api::nullable",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<f64>)]
    pub monthly_budget: Option<Option<Micros>>,
}

/// What git shows to a repository's server.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitLogin {
    pub username: String,
    /// A password or a token.
    #[serde(serialize_with = "exposed")]
    #[schema(value_type = String)]
    pub password: SecretString,
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// `PUT /api/projects/{project}/git-credential`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetGitCredential {
    /// The repository's, without user and password; the project's own where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub username: String,
    /// A password or a token. It is never shown again.
    #[serde(serialize_with = "exposed")]
    #[schema(value_type = String)]
    pub password: SecretString,
}

/// `GET /api/projects/{project}/git-credential`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitCredential {
    /// The repository for which it is used, and no other.
    pub url: String,
    pub username: String,
    pub updated_at: DateTime<Utc>,
    /// When the repository's server last refused it, where it has refused it since it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<DateTime<Utc>>,
}

//! Wire types of agents' budgets and usage, and of git credentials.

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
    /// Providers for which there is a credential.
    pub providers: Vec<Provider>,
    /// US dollars per calendar month (UTC); null: no limit.
    #[schema(value_type = Option<f64>)]
    pub monthly_budget: Option<Micros>,
    /// The budget is the project's own, not the server's default.
    pub own_budget: bool,
    /// US dollars spent in this month, as metered by the LLM proxy.
    #[schema(value_type = f64)]
    pub spent: Micros,
    /// Usage by model, the most expensive first.
    pub models: Vec<AgentUsage>,
}

/// Usage of one model in this month.
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

/// `PATCH /api/projects/{project}/agent`: absent fields are not changed; null clears.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeAgentAccount {
    /// US dollars per calendar month; null: the server's default.
    #[serde(
        default,
        with = "crate::api::nullable",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<f64>)]
    pub monthly_budget: Option<Option<Micros>>,
}

/// Credential that git sends to a repository's server.
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
    /// URL of the repository, without user and password; the project's repository by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub username: String,
    /// A password or a token. The API never returns it.
    #[serde(serialize_with = "exposed")]
    #[schema(value_type = String)]
    pub password: SecretString,
}

/// `GET /api/projects/{project}/git-credential`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitCredential {
    /// URL of the only repository for which it is used.
    pub url: String,
    pub username: String,
    pub updated_at: DateTime<Utc>,
    /// When the repository's server last rejected it; absent if it has not rejected it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<DateTime<Utc>>,
}

//! Wire types of authentication: login links, passwords, sessions, users.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{Role, nullable},
    limits::Limits,
};

/// `POST /api/auth/link`: a one-time link's token, which is the fragment of its URL.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignInByLink {
    pub token: String,
    /// For an invitation: the login to have from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// For an invitation: a password, which can also be set later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `POST /api/auth/password`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignInByPassword {
    pub login: String,
    pub password: String,
}

/// `PUT /api/auth/password`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetPassword {
    /// Required if there is a password already and the session is older than 15 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    pub password: String,
}

/// A one-time link, shown once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignInLink {
    pub url: String,
    pub expires_at: DateTime<Utc>,
}

/// `POST /api/users/invites`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Invite {
    /// `member` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// `PATCH /api/users/{user}`: absent fields are not changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeUser {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The user's quotas; null for the server's defaults.
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Limits>)]
    pub limits: Option<Option<Limits>>,
}

/// Signed-in browser.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    pub id: Uuid,
    pub user_agent: String,
    pub address: String,
    /// The session of this request.
    pub current: bool,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// `GET /api/auth/methods`: the available sign-in methods.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignInMethods {
    pub password: bool,
    pub github: bool,
}

/// `POST /api/auth/github`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BeginGithub {
    /// Link the account to the user who is signed in, instead of signing in with it.
    #[serde(default)]
    pub link: bool,
}

/// URL to which the browser must go next.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GithubRedirect {
    pub url: String,
}

/// `GET /api/me/github`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GithubLink {
    /// Whether GitHub is configured on this server.
    pub available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<GithubAccount>,
}

/// GitHub account that is linked to a user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GithubAccount {
    /// GitHub's id of the account.
    pub id: i64,
    pub login: String,
    /// GitHub rejects the stored token: sign in with GitHub again.
    pub needs_sign_in: bool,
    pub linked_at: DateTime<Utc>,
}

//! Errors: the body of an HTTP error, and the failure of a sandbox, which the reconciler records and
//! retries.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::ProjectId;
use crate::limits::ExceededLimit;

/// Body of every error response.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// One short sentence for the person who reads it.
    pub error: String,
    pub details: ErrorDetails,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    pub timestamp: DateTime<Utc>,
}

/// Details of an error.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDetails {
    /// Stable name for programs, such as `NotFound` or `InvalidField`.
    pub name: String,
    /// What failed, why, and what to do.
    pub message: String,
    /// Id of the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The invalid field, and its rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Field>,
    /// The chain of causes; in development only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_status: Option<String>,
    /// The limit that the request would exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<ExceededLimit>,
}

/// Invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    pub name: String,
    pub rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// Cause of a failed attempt. All kinds are retried until the desired state is reached or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// User error: an image that does not exist, a repository that cannot be cloned. Only a change by
    /// the user helps.
    Input,
    /// The machine or the cluster lacks something: no disk space, no OCI runtime.
    Machine,
    /// A component did not answer, or is busy. Waiting may help.
    Transient,
    /// A bug in this program.
    Internal,
}

/// Why a sandbox has not reached its desired state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// A sentence or two: what failed, why, what to do. No secrets, no chains of causes.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_status: Option<String>,
}

impl Failure {
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            kubernetes_status: None,
        }
    }
}

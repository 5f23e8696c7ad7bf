//! What goes wrong, in the two forms that leave the program: the body of an HTTP error, and the
//! failure of a sandbox that the reconciler records and tries to overcome.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::ProjectId;
use crate::limits::OverLimit;

/// The body of every error answer.
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

/// What is known beyond the sentence.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDetails {
    /// A stable word for programs, such as `NotFound` or `InvalidField`.
    pub name: String,
    /// What failed, why, and what to do.
    pub message: String,
    /// Under which the log has the inside of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The field that was refused, and its rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Field>,
    /// The chain of causes; in development only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_status: Option<String>,
    /// The limit that it would have gone beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<OverLimit>,
}

/// A field of a request that broke its rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    pub name: String,
    pub rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// Whose move it is after a failed attempt. All kinds are tried again while the wish stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// The person asked for something that cannot be: an image that does not exist, a
    /// repository that cannot be cloned. Only a change of theirs will help.
    Input,
    /// The machine or the cluster lacks something: no disk space, no OCI runtime.
    Machine,
    /// Something did not answer, or answered that it is busy. Waiting may help.
    Transient,
    /// A defect of this program.
    Internal,
}

/// Why a sandbox is not as it is wanted.
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

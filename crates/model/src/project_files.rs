//! Wire types of what the server reads from the files of a project.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/projects/{project}/start-suggestion`: a start command for the files of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartSuggestion {
    /// Absent where the files suggest none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The file that it follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

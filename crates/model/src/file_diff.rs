//! Difference of a file between two states, as text.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest file that is compared, in bytes.
pub const BYTES_MAX: u64 = 1 << 20;

/// `GET …/snapshots/{snapshot}/diff/file`: how a file changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileDiff {
    pub path: String,
    /// The difference in the unified format; empty where the content is equal. Absent where it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text ends before the difference does.
    pub truncated: bool,
    /// Why no text is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_shown: Option<NotShown>,
}

/// Why a difference has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NotShown {
    /// One of the two is not text in UTF-8.
    Binary,
    /// One of the two is larger than 1 MiB.
    TooLarge,
    /// One of the two is a folder, a link or a device.
    NotAFile,
    /// Neither state has the file.
    Absent,
}

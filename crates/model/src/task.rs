//! Tasks: one run of a coding agent in a project's sandbox, without a person at a terminal.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{agent::Agent, ids::ProjectId, money::Micros, name::BranchName};

/// `POST /api/projects/{project}/tasks`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTask {
    #[serde(default)]
    pub agent: Agent,
    /// Instruction for the agent. At most 100,000 characters.
    pub prompt: String,
    /// Model name of the agent; the agent's own default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// US dollars; the LLM proxy refuses requests beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub budget: Option<Micros>,
    /// 1 to 86400; 3600 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// An earlier task of this project and agent, whose conversation is continued.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continues: Option<Uuid>,
}

/// State of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Waits for another task or for the sandbox.
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl TaskState {
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Task.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    pub id: Uuid,
    pub project_id: ProjectId,
    /// The branch in whose sandbox it runs.
    #[serde(default)]
    pub branch: BranchName,
    pub agent: Agent,
    pub prompt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub budget: Option<Micros>,
    pub timeout_seconds: u32,
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continues: Option<Uuid>,
    pub state: TaskState,
    /// Why the task failed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The agent's final message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// US dollars so far: as metered by the LLM proxy, else as reported by the agent.
    #[schema(value_type = f64)]
    pub cost: Micros,
    /// Files of the project's folder that were written during the task; set at its end.
    pub changed_files: Vec<String>,
    /// Number of steps.
    pub steps: i64,
    pub created_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
}

/// `GET …/tasks/{task}/diff`: the agent's changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskDiff {
    /// In git's unified format, relative to the files when the task began; at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// The diff is longer, and was cut.
    pub truncated: bool,
    /// Why there is no diff, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Kind of a step. The fields of `data` are the same for all agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// `session`, `model`.
    Started,
    /// `text`: the agent's message.
    Text,
    /// `text`: the agent's reasoning.
    Thinking,
    /// `id`, `name`, `input`.
    ToolCall,
    /// `id`, `output`, `isError`.
    ToolResult,
    /// `text`: other output of the agent's program.
    Notice,
    /// `text`, `isError`, `cost`.
    Result,
}

/// Step of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskStep {
    /// Grows by one within the task.
    pub sequence: i64,
    pub at: DateTime<Utc>,
    pub kind: StepKind,
    #[schema(value_type = Object)]
    pub data: BTreeMap<String, serde_json::Value>,
}

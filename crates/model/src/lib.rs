//! Model of FullStack Agent: ids, names, specs, phases, conditions, errors and wire types.
//!
//! Everything here is pure (no I/O, no async): the database, the API, the command line and the drivers
//! share it, and its rules are tested without any fixture.

#![forbid(unsafe_code)]

pub mod address;
pub mod agent;
pub mod agent_api;
pub mod api;
pub mod auth;
pub mod backup;
pub mod branch;
pub mod callback;
pub mod condition;
pub mod database_diff;
pub mod environment;
pub mod error;
pub mod event;
pub mod file_diff;
pub mod git;
pub mod github;
pub mod host;
pub mod http_fields;
pub mod ids;
pub mod image_reference;
pub mod limits;
pub mod llm_provider;
pub mod money;
pub mod name;
pub mod percent;
pub mod phase;
pub mod project_files;
pub mod public_path;
pub mod sandboxd;
pub mod sharing;
pub mod size;
pub mod snapshot;
pub mod snapshot_files;
pub mod snapshot_schedule;
pub mod spec;
pub mod system;
pub mod task;
pub mod tty;

pub use condition::{Condition, Stage, StageState};
pub use error::{ErrorBody, ErrorDetails, Failure, FailureKind, Field};
pub use ids::{BackupId, EventId, ProjectId, SandboxId, SnapshotId, TokenId, UserId, VolumeId};
pub use name::{BranchName, ProjectName, ResourceName};
pub use phase::{ContainerState, DesiredState, Phase};
pub use size::{Resources, Size};
pub use spec::{DatabaseSpec, Image, Repository, SandboxRef, SandboxSpec};

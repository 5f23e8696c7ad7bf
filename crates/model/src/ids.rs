//! Identifiers. Each has its own type, so that a project's id cannot be passed as a user's.
//!
//! UUIDs of version 7 (RFC 9562): they sort by creation time, which keeps indexes compact, and they
//! begin with a digit until about the year 5000, so no id is a valid project name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Generates an id that sorts after all ids generated before on this machine.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id!(
    /// A person with an account.
    UserId
);
id!(
    /// A project: what a person names, with its sandboxes, its database and its environment.
    ProjectId
);
id!(
    /// One sandbox of a project.
    SandboxId
);
id!(
    /// The volume of one branch of a project: home folder, root file system's changes, database.
    /// It outlives its sandboxes.
    VolumeId
);
id!(
    /// A snapshot of one volume.
    SnapshotId
);
id!(
    /// A backup.
    BackupId
);
id!(
    /// An API token (the row, never the secret).
    TokenId
);

impl VolumeId {
    /// The volume of the main branch, which has the id of its project: so a volume that was made
    /// before there were branches is found.
    #[must_use]
    pub const fn of_main(project: ProjectId) -> Self {
        Self(project.0)
    }
}

/// Position of an event in the append-only log; grows by at least one with each event.
pub type EventId = i64;

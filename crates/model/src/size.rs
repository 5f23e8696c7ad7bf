//! Sizes: resource requests and limits of a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Named size. All sizes have the same small requests, so that fifty sandboxes fit a node with two
/// processors and 4 GB; their limits differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// For a static page or a small script.
    Micro,
    /// For Claude Code and a Next.js development server.
    #[default]
    Small,
    Medium,
    Large,
}

/// Resources of a size, in the units of Kubernetes' quantities. A field that is renamed changes
/// [`crate::SandboxSpec::digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Thousandths of a processor that are reserved for the sandbox.
    pub cpu_request_millis: u32,
    /// Thousandths of a processor that it may use.
    pub cpu_limit_millis: u32,
    /// Mebibytes of memory that are reserved for it.
    pub memory_request_mib: u32,
    /// Mebibytes of memory that it may use; beyond, the kernel kills processes in it.
    pub memory_limit_mib: u32,
    /// Maximum number of processes and threads.
    pub pids_limit: u32,
    /// Mebibytes that its project may have on disk, where the region can enforce it per project.
    pub disk_limit_mib: u32,
}

impl Size {
    pub const ALL: [Self; 4] = [Self::Micro, Self::Small, Self::Medium, Self::Large];

    #[must_use]
    pub const fn resources(self) -> Resources {
        let (cpu_limit_millis, memory_limit_mib, pids_limit, disk_limit_mib) = match self {
            Self::Micro => (200, 256, 512, 2 * 1_024),
            Self::Small => (2_000, 2_048, 2_048, 10 * 1_024),
            Self::Medium => (4_000, 4_096, 4_096, 20 * 1_024),
            Self::Large => (8_000, 8_192, 8_192, 40 * 1_024),
        };
        Resources {
            cpu_request_millis: 20,
            cpu_limit_millis,
            memory_request_mib: 25,
            memory_limit_mib,
            pids_limit,
            disk_limit_mib,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Micro => "micro",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.as_str() == text)
    }
}

//! Quotas: how much one user, or all users together, may have at the same time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Size;

/// Limits; an absent one means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projects: Option<u64>,
    /// Sandboxes whose desired state is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// Thousandths of a processor that those sandboxes may use together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Mebibytes of memory that those sandboxes may use together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Mebibytes on disk of all the projects' sandboxes and databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u64>,
    /// API requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Programs that the API starts in sandboxes in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execs_per_minute: Option<u64>,
}

impl Limits {
    /// The limits of a member in whose place the operator set none.
    pub const OF_MEMBERS: Self = Self {
        projects: Some(10),
        running: Some(5),
        cpu_millis: Some(4_000),
        memory_mib: Some(8 * 1_024),
        disk_mib: Some(20 * 1_024),
        requests_per_minute: None,
        execs_per_minute: None,
    };
}

/// Current usage, counted against [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Used {
    pub projects: u64,
    pub running: u64,
    pub cpu_millis: u64,
    pub memory_mib: u64,
    /// As last measured, a few minutes ago; not measured without a limit on disk.
    #[serde(default)]
    pub disk_mib: u64,
}

/// Limit that a request would exceed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExceededLimit {
    /// `projects`, `running`, `cpuMillis`, `memoryMib`, `diskMib`, `requestsPerMinute` or `execsPerMinute`.
    pub resource: String,
    pub limit: u64,
    /// Usage with the request.
    pub requested: u64,
    /// The limit is for all users together, not for one user.
    pub server_wide: bool,
}

/// Resources of which a change uses more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adds {
    pub projects: bool,
    pub running: bool,
    pub disk: bool,
}

/// Bytes as mebibytes, rounded up.
#[must_use]
pub const fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl Used {
    /// Adds projects of one size, of which `running` have the desired state running.
    pub fn add(&mut self, size: Size, projects: u64, running: u64) {
        let resources = size.resources();
        self.projects += projects;
        self.running += running;
        self.cpu_millis += running * u64::from(resources.cpu_limit_millis);
        self.memory_mib += running * u64::from(resources.memory_limit_mib);
    }

    /// The first limit that is exceeded, of those that the change adds to. Other resources may be over a
    /// limit that was lowered.
    #[must_use]
    pub fn over(&self, limits: &Limits, adds: Adds, server_wide: bool) -> Option<ExceededLimit> {
        [
            ("projects", adds.projects, limits.projects, self.projects),
            ("running", adds.running, limits.running, self.running),
            ("cpuMillis", adds.running, limits.cpu_millis, self.cpu_millis),
            ("memoryMib", adds.running, limits.memory_mib, self.memory_mib),
            ("diskMib", adds.disk, limits.disk_mib, self.disk_mib),
        ]
        .into_iter()
        .find_map(|(resource, adds, limit, requested)| {
            let limit = limit.filter(|limit| adds && requested > *limit)?;
            Some(ExceededLimit {
                resource: resource.to_owned(),
                limit,
                requested,
                server_wide,
            })
        })
    }
}

impl ExceededLimit {
    /// Message for people.
    #[must_use]
    pub fn message(&self) -> String {
        let in_a_minute = match self.resource.as_str() {
            "requestsPerMinute" => Some("API requests"),
            "execsPerMinute" => Some("programs started in sandboxes"),
            _ => None,
        };
        if let Some(what) = in_a_minute {
            return format!(
                "You are limited to {} {what} a minute, and all of them are used. \
                 Wait a moment, or ask the server's owner for a higher limit.",
                self.limit
            );
        }
        let what = match (self.resource.as_str(), self.limit) {
            ("projects", 1) => "project",
            ("projects", _) => "projects",
            ("running", 1) => "running sandbox",
            ("running", _) => "running sandboxes",
            ("cpuMillis", _) => "thousandths of a processor",
            ("diskMib", _) => "MiB on disk",
            _ => "MiB of memory",
        };
        let (whose, advice) = if self.server_wide {
            (
                "This server is limited to",
                "Wait, or ask its owner for a higher limit",
            )
        } else {
            (
                "The project's owner is limited to",
                "Stop or delete a project, or ask the server's owner for a higher limit",
            )
        };
        format!(
            "{whose} {} {what}, and this would make {}. {advice}.",
            self.limit, self.requested
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_of_a_resource_that_the_change_adds_to_is_exceeded() {
        let mut used = Used::default();
        used.add(Size::Small, 3, 2);
        assert_eq!((used.cpu_millis, used.memory_mib), (4_000, 4_096));
        let limits = Limits {
            projects: Some(2),
            memory_mib: Some(4_095),
            ..Limits::default()
        };
        let over = |projects, running| {
            let adds = Adds {
                projects,
                running,
                disk: false,
            };
            used.over(&limits, adds, false).map(|over| over.resource)
        };
        assert_eq!(over(false, false), None);
        assert_eq!(over(true, false).as_deref(), Some("projects"));
        assert_eq!(over(false, true).as_deref(), Some("memoryMib"));
        assert_eq!(
            used.over(
                &Limits::default(),
                Adds {
                    projects: true,
                    running: true,
                    disk: true
                },
                true
            ),
            None
        );
    }
}

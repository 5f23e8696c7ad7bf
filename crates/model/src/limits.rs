//! How much one user, or everybody together, may have at the same time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Size;

/// What there may be at most; nothing is said where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projects: Option<u64>,
    /// Sandboxes that are requested running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// Thousandths of a processor that those may use together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Mebibytes of memory that those may use together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Mebibytes on disk of the projects' sandboxes and databases together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u64>,
    /// Requests of the API in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Programs that the API starts in sandboxes in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execs_per_minute: Option<u64>,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Used {
    pub projects: u64,
    pub running: u64,
    pub cpu_millis: u64,
    pub memory_mib: u64,
    /// As last measured, a few minutes ago; nothing is measured where no limit on disk holds.
    #[serde(default)]
    pub disk_mib: u64,
}

/// A limit that something would have gone beyond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverLimit {
    /// `projects`, `running`, `cpuMillis`, `memoryMib`, `diskMib`, `requestsPerMinute` or `execsPerMinute`.
    pub what: String,
    pub limit: u64,
    /// What would have been used.
    pub requested: u64,
    /// Everybody's together, not the user's own.
    pub of_all: bool,
}

/// What a change adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adds {
    pub projects: bool,
    pub running: bool,
    pub disk: bool,
}

/// Bytes as mebibytes, of which the last may not be full.
#[must_use]
pub const fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl Used {
    /// Adds projects of one size, of which so many are requested running.
    pub fn add(&mut self, size: Size, projects: u64, running: u64) {
        let resources = size.resources();
        self.projects += projects;
        self.running += running;
        self.cpu_millis += running * u64::from(resources.cpu_limit_millis);
        self.memory_mib += running * u64::from(resources.memory_limit_mib);
    }

    /// The first limit that is passed, of those that the change adds to. What was over a limit before the
    /// limit became less is left alone.
    #[must_use]
    pub fn over(&self, limits: &Limits, adds: Adds, of_all: bool) -> Option<OverLimit> {
        [
            ("projects", adds.projects, limits.projects, self.projects),
            ("running", adds.running, limits.running, self.running),
            ("cpuMillis", adds.running, limits.cpu_millis, self.cpu_millis),
            ("memoryMib", adds.running, limits.memory_mib, self.memory_mib),
            ("diskMib", adds.disk, limits.disk_mib, self.disk_mib),
        ]
        .into_iter()
        .find_map(|(what, adds, limit, requested)| {
            let limit = limit.filter(|limit| adds && requested > *limit)?;
            Some(OverLimit {
                what: what.to_owned(),
                limit,
                requested,
                of_all,
            })
        })
    }
}

impl OverLimit {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let in_a_minute = match self.what.as_str() {
            "requestsPerMinute" => Some("requests of the API"),
            "execsPerMinute" => Some("programs started in sandboxes"),
            _ => None,
        };
        if let Some(what) = in_a_minute {
            return format!(
                "You are limited to {} {what} a minute, and all of them are used; wait a moment, or ask for more.",
                self.limit
            );
        }
        let what = match self.what.as_str() {
            "projects" => "projects",
            "running" => "sandboxes that run",
            "cpuMillis" => "thousandths of a processor",
            "diskMib" => "MiB on disk",
            _ => "MiB of memory",
        };
        let (whose, advice) = if self.of_all {
            ("This server is limited to", "wait, or ask its owner for more")
        } else {
            (
                "The project's owner is limited to",
                "stop or delete something, or ask for more",
            )
        };
        format!(
            "{whose} {} {what}, and this would make {}; {advice}.",
            self.limit, self.requested
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_change_adds_to_can_be_over() {
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
            used.over(&limits, adds, false).map(|over| over.what)
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

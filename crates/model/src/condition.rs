//! Conditions: the five stages of a sandbox's start.
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Stage, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Stage {
    DatabaseReady,
    ContainerReady,
    NetworkReady,
    TerminalReady,
    Ready,
}

/// State of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StageState {
    #[default]
    Pending,
    Active,
    Done,
    Failed,
}

/// Condition: a stage's state, since when, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub stage: Stage,
    /// The stage's name for people.
    pub title: String,
    pub state: StageState,
    pub since: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How far the image is that an active `containerReady` waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ImageProgress>,
}

/// How far an image is that is pulled or unpacked, in bytes of its compressed layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageProgress {
    /// Bytes that were received from the registry, or read from the archive.
    pub bytes: u64,
    /// All bytes that are missing on this machine; 0 as long as that is not known.
    pub total_bytes: u64,
    pub unpacked_layers: u32,
    /// 0 as long as the number is not known.
    pub total_layers: u32,
}

impl ImageProgress {
    /// The progress, for people.
    #[must_use]
    pub fn message(self) -> String {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let bytes = match self.total_bytes {
            0 => return "looking up the image".to_owned(),
            total => format!("image: {} of {} MB", megabytes(self.bytes), megabytes(total)),
        };
        match self.total_layers {
            0 => bytes,
            total => format!("{bytes}, {} of {total} layers unpacked", self.unpacked_layers),
        }
    }

    /// Whether it is so much further than `shown` that it is worth an event: a twentieth of the bytes, or a layer.
    #[must_use]
    pub fn is_news_after(self, shown: Self) -> bool {
        let rest = |progress: Self| {
            (
                progress.total_bytes,
                progress.unpacked_layers,
                progress.total_layers,
            )
        };
        rest(self) != rest(shown) || self.bytes.abs_diff(shown.bytes) >= (self.total_bytes / 20).max(1)
    }
}

impl Stage {
    pub const ALL: [Self; 5] = [
        Self::DatabaseReady,
        Self::ContainerReady,
        Self::NetworkReady,
        Self::TerminalReady,
        Self::Ready,
    ];

    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::DatabaseReady => "Database Creation",
            Self::ContainerReady => "Container Provisioning",
            Self::NetworkReady => "Network Configuration",
            Self::TerminalReady => "Terminal Initialization",
            Self::Ready => "Environment Ready",
        }
    }
}

impl Condition {
    #[must_use]
    pub fn new(stage: Stage, state: StageState, since: DateTime<Utc>) -> Self {
        Self {
            stage,
            title: stage.title().to_owned(),
            state,
            since,
            message: None,
            progress: None,
        }
    }

    /// All five conditions, pending since `since`.
    #[must_use]
    pub fn all_pending(since: DateTime<Utc>) -> Vec<Self> {
        Stage::ALL
            .map(|stage| Self::new(stage, StageState::Pending, since))
            .to_vec()
    }

    /// Sets the state at `now`; `since` changes only when the state does.
    pub fn set(&mut self, state: StageState, message: Option<String>, now: DateTime<Utc>) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
        self.message = message;
        self.progress = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_an_image_says_what_is_known() {
        let progress = |bytes, total_bytes, unpacked_layers, total_layers| ImageProgress {
            bytes,
            total_bytes,
            unpacked_layers,
            total_layers,
        };
        for (progress, message) in [
            (progress(0, 0, 0, 0), "looking up the image"),
            (progress(1_500_000, 90_000_000, 0, 0), "image: 2 of 90 MB"),
            (
                progress(90_000_000, 90_000_000, 2, 5),
                "image: 90 of 90 MB, 2 of 5 layers unpacked",
            ),
        ] {
            assert_eq!(progress.message(), message);
        }
        let shown = progress(40, 100, 1, 3);
        assert!(!progress(44, 100, 1, 3).is_news_after(shown));
        assert!(progress(45, 100, 1, 3).is_news_after(shown));
        assert!(progress(40, 100, 2, 3).is_news_after(shown));
    }
}

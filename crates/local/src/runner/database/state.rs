//! Persistent state of a running server in the runner: survives a restart of the runner.

use std::{fs, io, path::Path};

use fsa_model::VolumeId;
use serde::{Deserialize, Serialize};

use crate::runner::{layout::Layout, state::Process};

/// `servers/<volume>/state.json`; there while the server runs or starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerState {
    pub volume: VolumeId,
    /// The boot of the machine.
    pub boot: String,
    pub slot: u32,
    /// The base root file system in use, so that it is not removed early.
    pub base_rootfs: String,
    pub memory_limit_mib: u32,
    /// `None` while the runtime starts it.
    pub process: Option<Process>,
}

impl ServerState {
    /// `None` where the file is missing or unreadable.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        // There is none for a template that is being made.
        let text = fs::read(path).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "a database server's state cannot be read"),
            )
            .ok()
    }

    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let next = path.with_extension("next");
        fs::write(&next, serde_json::to_vec(self)?)?;
        fs::rename(&next, path)
    }
}

/// The base root file systems of servers that run.
pub fn base_rootfs_in_use(layout: &Layout) -> Vec<String> {
    running(&layout.servers())
        .map(|state| state.base_rootfs)
        .collect()
}

/// The states in the folder of servers.
pub fn running(servers: &Path) -> impl Iterator<Item = ServerState> {
    fs::read_dir(servers)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| ServerState::read(&entry.path().join("state.json")))
}

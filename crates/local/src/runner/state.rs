//! Persistent state of a sandbox in the runner: survives a restart of the runner.

use std::{fs, io, path::Path, sync::LazyLock};

use fsa_model::SandboxRef;
use serde::{Deserialize, Serialize};

use crate::{images::DiffId, protocol::SandboxExit};

/// `sandboxes/<resource>/state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub sandbox: SandboxRef,
    pub digest: String,
    /// The base root file system ([`super::base_rootfs`]) in use, so that it is not removed early.
    #[serde(rename = "skeleton")]
    pub base_rootfs: String,
    /// Layers of the image, lowest first; none for template `host`.
    pub layers: Vec<DiffId>,
    /// It was started with a database.
    #[serde(rename = "gate")]
    pub database_proxy: bool,
    pub memory_limit_mib: u32,
    /// The latest start, until the sandbox has ended.
    pub run: Option<Run>,
    pub ended: Option<SandboxExit>,
}

/// One run of a sandbox's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub boot: String,
    pub slot: u32,
    /// `None` while the runtime starts it.
    pub process: Option<Process>,
}

/// A unique process: ids are reused, but not with the same start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub pid: i32,
    /// Clock ticks since boot (proc(5), stat, field 22).
    pub started: u64,
}

impl Process {
    /// The process that has this id now.
    #[must_use]
    pub fn now(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            started: started(&stat)?,
        })
    }
}

/// The name, field 2, is in parentheses and may hold anything.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The id of this boot of the machine.
pub static BOOT: LazyLock<String> = LazyLock::new(|| {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
});

impl State {
    /// `None` where the file is missing or unreadable.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let text = fs::read(path).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "a sandbox's state cannot be read"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_start_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2";
        assert_eq!(started(stat), Some(12345));
    }

    #[test]
    fn a_later_process_with_the_same_id_is_another_one() {
        let me = Process::now(std::process::id().try_into().unwrap()).unwrap();
        assert_eq!(Process::now(me.pid), Some(me));
        assert_ne!(
            Process::now(me.pid),
            Some(Process {
                started: me.started + 1,
                ..me
            })
        );
    }

    #[test]
    fn the_field_names_on_disk_do_not_change() {
        let id = uuid::Uuid::now_v7();
        let text = format!(
            r#"{{"sandbox":{{"id":"{id}","project":"{id}","resource":"app-agentruntime-2k3b4c"}},"digest":"00ff","skeleton":"abc","layers":[],"gate":true,"memoryLimitMib":256,"run":null,"ended":{{"at":"2026-01-02T03:04:05Z","how":{{"exited":3}}}}}}"#
        );
        let state: State = serde_json::from_str(&text).unwrap();
        assert_eq!((state.base_rootfs.as_str(), state.database_proxy), ("abc", true));
        // Read from before there were branches, and written with the volume.
        let mut written: serde_json::Value = serde_json::from_str(&text).unwrap();
        written["sandbox"]["volume"] = id.to_string().into();
        assert_eq!(serde_json::to_value(&state).unwrap(), written);
    }

    #[test]
    fn a_truncated_file_is_no_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, "{\"sandbox\":").unwrap();
        assert_eq!(State::read(&path), None);
    }
}

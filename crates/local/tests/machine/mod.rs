//! Fixtures of the tests with a real PostgreSQL: a separate data folder and its clusters.
#![allow(dead_code)]

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use fsa_local::postgres::{Cluster, ClusterKind, Settings};
use tempfile::TempDir;

/// A data folder. When the test ends, its servers are stopped and it is removed.
pub struct Machine {
    pub folder: TempDir,
    pub settings: Settings,
}

impl Machine {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("fsa-pg-").tempdir().unwrap();
        // PostgreSQL's user must be able to reach its own folders.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let settings = Settings {
            data: folder.path().to_owned(),
            bin: None,
            run_as: run_as(),
        };
        Self { folder, settings }
    }

    pub fn cluster(&self, kind: ClusterKind) -> Cluster {
        Cluster::new(kind, self.settings.clone())
    }

    /// Returns the projects cluster, running.
    pub async fn projects(&self) -> Cluster {
        let cluster = self.cluster(ClusterKind::Projects);
        cluster.ensure_running().await.unwrap();
        cluster
    }
}

/// The user of PostgreSQL, if the tests run as root: PostgreSQL refuses to run as root.
fn run_as() -> Option<(u32, u32)> {
    let me = rustix::process::geteuid().as_raw();
    let other = ["postgres", "nobody"]
        .iter()
        .find_map(|name| nix::unistd::User::from_name(name).ok().flatten());
    (me == 0)
        .then(|| other.map(|user| (user.uid.as_raw(), user.gid.as_raw())))
        .flatten()
}

impl Drop for Machine {
    fn drop(&mut self) {
        for kind in [ClusterKind::Control, ClusterKind::Projects] {
            if let Some(pid) = server_process(self.cluster(kind).folder()) {
                // Immediate shutdown: no data has to survive.
                end_process(pid, rustix::process::Signal::QUIT);
            }
        }
    }
}

/// Sends a signal and returns when the process has ended.
pub fn end_process(pid: i32, signal: rustix::process::Signal) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let Ok(end) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let _ = rustix::process::pidfd_send_signal(&end, signal);
    let mut ends = [PollFd::new(std::os::fd::AsFd::as_fd(&end), PollFlags::POLLIN)];
    let ended = poll(&mut ends, PollTimeout::from(60_000_u16));
    assert!(
        std::thread::panicking() || ended == Ok(1),
        "process {pid:?} has not ended: {ended:?}"
    );
}

/// Returns the process id that a cluster's folder records.
pub fn server_process(folder: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(folder.join("postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok()
}

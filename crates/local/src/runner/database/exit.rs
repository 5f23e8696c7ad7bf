//! End of a database server: its cause, and removal of what the runner and the runtime keep of it.

use std::{fs, io, os::fd::AsFd as _, time::Duration};

use fsa_model::VolumeId;

use super::{Entry, container_name};
use crate::{
    protocol::ExitCause,
    runner::{Runner, pidfd},
};

impl Runner {
    /// Cleans up after a server that has ended.
    pub fn record_server_exit(&self, entry: &Entry, volume: VolumeId) -> Option<ExitCause> {
        let running = entry.running.lock().take();
        let name = container_name(volume);
        let how = running.map(|running| {
            if self.cgroups.out_of_memory(&name) > 0 {
                return ExitCause::OutOfMemory(running.memory_limit_mib);
            }
            match pidfd::exit_status(&running.pidfd) {
                Some(status) if libc::WIFSIGNALED(status) => ExitCause::Signaled(libc::WTERMSIG(status)),
                Some(status) => ExitCause::Exited(libc::WEXITSTATUS(status)),
                None => ExitCause::Unseen,
            }
        });
        self.runtime.forget(&name);
        self.cgroups.remove(&name);
        for folder in [self.layout.server_sockets(volume), self.layout.server(volume)] {
            if let Err(error) = fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %folder.display(), %error, "a folder could not be removed");
            }
        }
        how
    }

    /// Kills the processes of a server whose start was interrupted.
    pub fn kill_server_orphans(&self, volume: VolumeId) {
        let name = container_name(volume);
        for pid in self.cgroups.processes(&name) {
            let Some(pidfd) = pidfd::open(pid) else {
                continue;
            };
            // Still in the group, so the descriptor is of a process of the server.
            if self.cgroups.processes(&name).contains(&pid) {
                pidfd::kill(pidfd.as_fd());
                let _ = pidfd::readable(pidfd.as_fd(), Duration::from_secs(5));
            }
        }
        self.runtime.delete(&name);
    }
}

//! Processes 1, by descriptors that stay true: who lives, who ended, and how.

use std::{
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use chrono::Utc;
use fsa_model::ResourceName;
use parking_lot::Mutex;
use rustix::{
    buffer::spare_capacity,
    event::epoll,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{
    Runner, oci,
    sandboxes::{Entry, Running},
    state::State,
};
use crate::protocol::{ExitCause, Push, SandboxExit};

/// Waits for the end of any of the watched processes.
pub struct ProcessWatch {
    epoll: OwnedFd,
    /// By the number that the event carries.
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    next: u64,
    all: std::collections::HashMap<u64, (ResourceName, Weak<Running>)>,
}

impl ProcessWatch {
    /// # Errors
    /// Where the machine has no descriptors left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            watched: Mutex::default(),
        })
    }
}

/// A descriptor of the process that has this id now.
#[must_use]
pub fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether the process has ended.
#[must_use]
pub fn ended(pidfd: &OwnedFd) -> bool {
    oci::readable(pidfd.as_fd(), Duration::ZERO)
}

/// SIGTERM. One that has ended already needs none.
pub fn terminate(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::TERM);
}

/// SIGKILL; ends every process of a sandbox, where it is its process 1 (pid_namespaces(7)).
pub fn kill(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
}

impl Runner {
    /// Watches a live process 1; its end is noted, cleaned up after and told to `fsa serve`.
    pub fn watch_process(&self, name: &ResourceName, running: &Arc<Running>) {
        let number = {
            let mut watched = self.process_watch.watched.lock();
            watched.next += 1;
            let number = watched.next;
            watched
                .all
                .insert(number, (name.clone(), Arc::downgrade(running)));
            number
        };
        let added = epoll::add(
            &self.process_watch.epoll,
            &running.pidfd,
            epoll::EventData::new_u64(number),
            epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
        );
        if let Err(error) = added {
            tracing::error!(sandbox = %name, %error, "a sandbox cannot be watched");
        }
    }

    /// Handles ends until the process does; for a thread of its own.
    pub fn watch_forever(self: &Arc<Self>) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.process_watch.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) | Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "sandboxes can no longer be watched");
                    return;
                }
            }
            for event in &events {
                let found = self.process_watch.watched.lock().all.remove(&event.data.u64());
                // Whoever ended the sandbox on purpose has let go of it already.
                let Some((name, Some(running))) = found.map(|(name, running)| (name, running.upgrade()))
                else {
                    continue;
                };
                let runner = Arc::clone(self);
                let spawned = thread::Builder::new()
                    .name("ended".into())
                    .stack_size(super::STACK)
                    .spawn(move || runner.process_ended(&name, &running));
                if let Err(error) = spawned {
                    tracing::error!(%error, "no thread could be started for the end of a sandbox");
                }
            }
        }
    }

    fn process_ended(&self, name: &ResourceName, running: &Arc<Running>) {
        let how = self.sandboxes.exclusively(name, |entry| {
            let same = entry
                .live
                .lock()
                .running
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, running));
            same.then(|| {
                let how = self.exit_cause(name, running);
                self.record_exit(entry, name, how);
                how
            })
        });
        if let Some(how) = how {
            tracing::info!(sandbox = %name, ?how, "a sandbox ended");
            self.push(&Push::Exited {
                sandbox: running.sandbox.clone(),
                how,
            });
        }
    }

    fn exit_cause(&self, name: &ResourceName, running: &Running) -> ExitCause {
        if self.cgroups.out_of_memory(name.as_str()) > 0 {
            return ExitCause::OutOfMemory(running.memory_limit_mib);
        }
        match exit_status(&running.pidfd) {
            Some(status) if libc::WIFSIGNALED(status) => ExitCause::Signaled(libc::WTERMSIG(status)),
            Some(status) => ExitCause::Exited(libc::WEXITSTATUS(status)),
            None => ExitCause::Unseen,
        }
    }

    /// Cleans up after processes that have ended, and notes how.
    pub fn record_exit(&self, entry: &Entry, name: &ResourceName, how: ExitCause) {
        entry.live.lock().running = None;
        self.drop_network(entry);
        self.runtime.forget(name.as_str());
        self.cgroups.remove(name.as_str());
        let path = self.layout.state(name);
        if let Some(mut state) = State::read(&path) {
            state.run = None;
            state.ended = Some(SandboxExit { at: Utc::now(), how });
            if let Err(error) = state.write(&path) {
                tracing::warn!(sandbox = %name, %error, "the end of a sandbox could not be noted");
            }
        }
    }
}

/// linux/pidfd.h, struct pidfd_info as of version 0.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}
const PIDFD_GET_INFO: libc::Ioctl = 0xC040_FF0B_u32 as libc::Ioctl;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The wait status of a process that was somebody else's child, once that one has taken it in
/// (Linux 6.15; `None` before that).
fn exit_status(pidfd: &OwnedFd) -> Option<i32> {
    // The supervisor takes it in; the kernel says so with a hang-up.
    let mut events = [nix::poll::PollFd::new(
        pidfd.as_fd(),
        nix::poll::PollFlags::empty(),
    )];
    let _ = nix::poll::poll(&mut events, 200u16);
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request's number says the size of the structure (64 bytes) that it fills, and
    // `info` has that size and lives through the call.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (answer == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structure_has_the_size_that_its_number_says() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
    }

    #[test]
    fn a_process_that_lives_has_not_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!ended(&pidfd));
        kill(pidfd.as_fd());
        assert!(oci::readable(pidfd.as_fd(), Duration::from_secs(10)));
        assert!(ended(&pidfd));
        child.wait().unwrap();
    }
}

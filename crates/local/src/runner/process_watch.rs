//! Watch on the processes 1 of sandboxes and database servers, by pidfd and epoll: records and
//! reports their exit.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    thread,
};

use chrono::Utc;
use fsa_model::{ResourceName, VolumeId};
use parking_lot::Mutex;
use rustix::{buffer::spare_capacity, event::epoll};

use super::{
    Runner,
    database::RunningServer,
    pidfd,
    sandboxes::{Entry, Running},
    state::State,
};
use crate::protocol::{ExitCause, Push, SandboxExit};

/// Waits for the exit of any watched process.
pub struct ProcessWatch {
    epoll: OwnedFd,
    /// Keyed by the number in the event.
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    next: u64,
    all: std::collections::HashMap<u64, Process>,
}

/// A watched process. A stop drops it before its exit is seen.
enum Process {
    Sandbox(ResourceName, Weak<Running>),
    DatabaseServer(VolumeId, Weak<RunningServer>),
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

impl Runner {
    /// Watches a running process 1; its exit is recorded, cleaned up after and reported to
    /// `fsa serve`.
    pub fn watch_process(&self, name: &ResourceName, running: &Arc<Running>) {
        self.watch(
            &running.pidfd,
            Process::Sandbox(name.clone(), Arc::downgrade(running)),
        );
    }

    /// Watches a database server in the same way.
    pub fn watch_server(&self, volume: VolumeId, running: &Arc<RunningServer>) {
        self.watch(
            &running.pidfd,
            Process::DatabaseServer(volume, Arc::downgrade(running)),
        );
    }

    fn watch(&self, pidfd: &OwnedFd, process: Process) {
        let number = {
            let mut watched = self.process_watch.watched.lock();
            watched.next += 1;
            let number = watched.next;
            watched.all.insert(number, process);
            number
        };
        let added = epoll::add(
            &self.process_watch.epoll,
            pidfd,
            epoll::EventData::new_u64(number),
            epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
        );
        if let Err(error) = added {
            tracing::error!(%error, "a process cannot be watched");
        }
    }

    /// Handles exits forever; for a dedicated thread.
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
                let runner = Arc::clone(self);
                let handle: Box<dyn FnOnce() + Send> = match found {
                    Some(Process::Sandbox(name, running)) => match running.upgrade() {
                        Some(running) => Box::new(move || runner.process_ended(&name, &running)),
                        None => continue,
                    },
                    Some(Process::DatabaseServer(volume, running)) => match running.upgrade() {
                        Some(running) => Box::new(move || runner.server_ended(volume, &running)),
                        None => continue,
                    },
                    None => continue,
                };
                let spawned = thread::Builder::new()
                    .name("ended".into())
                    .stack_size(super::STACK)
                    .spawn(handle);
                if let Err(error) = spawned {
                    tracing::error!(%error, "no thread could be started for the end of a process");
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
        match pidfd::exit_status(&running.pidfd) {
            Some(status) if libc::WIFSIGNALED(status) => ExitCause::Signaled(libc::WTERMSIG(status)),
            Some(status) => ExitCause::Exited(libc::WEXITSTATUS(status)),
            None => ExitCause::Unseen,
        }
    }

    /// Cleans up after processes that have ended, and records why.
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
                tracing::warn!(sandbox = %name, %error, "the exit of a sandbox could not be recorded");
            }
        }
    }
}

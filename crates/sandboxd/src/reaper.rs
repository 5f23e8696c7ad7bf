//! Child reaper: the only code that waits for ended processes.
//!
//! Process 1 inherits every orphan of the sandbox and must reap all of them, and the code that started
//! a process needs its exit. So no other code calls wait: [`Reaper::start`] starts processes and
//! enters them in a table, and one task reaps every ended process and sends its exit to its owner.
//! The table's lock is held while a process is started, so that one that ends at once is never taken
//! for an orphan.

use std::{collections::HashMap, io, process::Command, sync::Arc};

use fsa_model::sandboxd::Exit;
use nix::{
    errno::Errno,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
};

/// Starts processes and reaps them.
#[derive(Debug)]
pub struct Reaper {
    owners: Mutex<HashMap<i32, oneshot::Sender<Exit>>>,
    children: watch::Sender<Children>,
}

/// Result of the last round of reaping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// Grows with each round.
    pub round: u64,
    /// There is at least one process besides this one.
    pub any: bool,
}

/// Started process, which leads a session with its own id.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    /// Sent once, when the process has ended and was reaped.
    pub exit: oneshot::Receiver<Exit>,
}

impl Child {
    /// Waits for the end. If the exit is unknown, the process counts as killed.
    pub async fn ended(exit: &mut oneshot::Receiver<Exit>) -> Exit {
        exit.await.unwrap_or(Exit::Signal(libc::SIGKILL))
    }
}

impl Reaper {
    /// Makes this process the reaper of orphans, and starts the reaping task.
    ///
    /// # Errors
    /// The signal handler could not be installed.
    pub fn new() -> io::Result<Arc<Self>> {
        if std::process::id() != 1
            && let Err(error) = nix::sys::prctl::set_child_subreaper(true)
        {
            tracing::warn!("cannot become the subreaper, orphans are not reaped here: {error}");
        }
        let signals = signal(SignalKind::child())?;
        let reaper = Arc::new(Self {
            owners: Mutex::default(),
            children: watch::Sender::default(),
        });
        // A child that ended before the handler was installed sent no signal to it.
        reaper.reap();
        tokio::spawn(Arc::clone(&reaper).run(signals));
        Ok(reaper)
    }

    async fn run(self: Arc<Self>, mut signals: Signal) {
        while signals.recv().await.is_some() {
            self.reap();
        }
    }

    /// Starts `command`, which must make itself a session leader.
    ///
    /// # Errors
    /// The kernel's error for fork, or for any step in the child up to exec.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let (sender, exit) = oneshot::channel();
        let mut owners = self.owners.lock();
        // Dropping std's handle neither waits nor kills.
        let pid = command.spawn()?.id().cast_signed();
        owners.insert(pid, sender);
        drop(owners);
        self.children
            .send_if_modified(|children| !std::mem::replace(&mut children.any, true));
        Ok(Child { pid, exit })
    }

    /// Result of the last round; changes with each round.
    #[must_use]
    pub fn children(&self) -> watch::Receiver<Children> {
        self.children.subscribe()
    }

    fn reap(&self) {
        let any = loop {
            let mut owners = self.owners.lock();
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => break true,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => break false,
            };
            let owner = owners.remove(&pid.as_raw());
            drop(owners);
            if let Some(owner) = owner {
                // The owner may have been dropped.
                let _ = owner.send(exit);
            }
        };
        self.children.send_modify(|children| {
            *children = Children {
                round: children.round.wrapping_add(1),
                any,
            };
        });
    }
}

/// Sends a signal to one process; one that is gone is no error.
pub fn signal_one(pid: i32, signal: i32) {
    if let (true, Ok(signal)) = (pid > 0, nix::sys::signal::Signal::try_from(signal)) {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}

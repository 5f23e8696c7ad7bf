//! The one place that collects ended processes.
//!
//! Process 1 inherits every orphan of the sandbox and must collect all of them; whoever started a
//! process wants its exit. So nobody else waits for processes: [`Reaper::start`] starts them and
//! enters them in a table, and one task collects whatever ends and hands each exit to its owner.
//! The table's lock is held while a process is started, so that one that ends at once is never
//! taken for an orphan.

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

/// Starts processes and collects them.
#[derive(Debug)]
pub struct Reaper {
    owners: Mutex<HashMap<i32, oneshot::Sender<Exit>>>,
    /// How many rounds of collecting there were, and whether any child is left.
    rounds: watch::Sender<Children>,
}

/// What the last round of collecting found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// Grows with each round.
    pub round: u64,
    /// There is at least one process beside this one.
    pub any: bool,
}

/// A process that was started, and leads a session of its own with its id.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    /// Answers once, when it has ended and was collected.
    pub exit: oneshot::Receiver<Exit>,
}

impl Child {
    /// Waits for the end. Where nobody can tell any more how it ended, it counts as killed.
    pub async fn ended(exit: &mut oneshot::Receiver<Exit>) -> Exit {
        exit.await.unwrap_or(Exit::Signal(libc::SIGKILL))
    }
}

impl Reaper {
    /// Makes this process the one to which orphans go, and starts to collect.
    ///
    /// # Errors
    /// The signal handler could not be installed.
    pub fn new() -> io::Result<Arc<Self>> {
        if std::process::id() != 1
            && let Err(error) = nix::sys::prctl::set_child_subreaper(true)
        {
            tracing::warn!("orphans of this sandbox go elsewhere: {error}");
        }
        let signals = signal(SignalKind::child())?;
        let reaper = Arc::new(Self {
            owners: Mutex::default(),
            rounds: watch::Sender::default(),
        });
        // A child that ended before the handler was there left no signal for it.
        reaper.collect();
        tokio::spawn(Arc::clone(&reaper).run(signals));
        Ok(reaper)
    }

    async fn run(self: Arc<Self>, mut signals: Signal) {
        while signals.recv().await.is_some() {
            self.collect();
        }
    }

    /// Starts `command`, which must make itself the leader of a session.
    ///
    /// # Errors
    /// What the kernel said to fork, or to any step in the child up to exec.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let (sender, exit) = oneshot::channel();
        let mut owners = self.owners.lock();
        // Dropping the handle neither waits nor kills: from here on it is the table's.
        let pid = command.spawn()?.id().cast_signed();
        owners.insert(pid, sender);
        drop(owners);
        self.rounds
            .send_if_modified(|children| !std::mem::replace(&mut children.any, true));
        Ok(Child { pid, exit })
    }

    /// What the last round found; changes with each round.
    #[must_use]
    pub fn children(&self) -> watch::Receiver<Children> {
        self.rounds.subscribe()
    }

    fn collect(&self) {
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
                // An owner that has gone does not care.
                let _ = owner.send(exit);
            }
        };
        self.rounds.send_modify(|children| {
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

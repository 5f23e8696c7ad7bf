//! Cgroup freezer: stops all processes of sandboxes for the moment of a snapshot.
//!
//! Version 2 reports the end of a freeze by an event; version 1 has to be read repeatedly (kernel
//! documentation, "Cgroup Freezer"). Frozen groups are thawed when [`Frozen`] is dropped, also by a
//! panic; those of a killed runner by the next one ([`Cgroups::thaw_all`]).

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::fd::AsFd as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::cgroup::Cgroups;

/// A freeze takes less than a millisecond. A process that waits for a disk delays it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Frozen control groups.
#[derive(Debug, Default)]
#[must_use = "dropping it thaws the groups"]
pub struct Frozen(Vec<Freezer>);

/// The freezer of one group in one hierarchy.
#[derive(Debug)]
enum Freezer {
    /// The file `freezer.state`.
    Version1(PathBuf),
    /// The folder of the group.
    Version2(PathBuf),
}

impl Cgroups {
    /// Freezes the processes in these groups, and waits until all of them have stopped.
    ///
    /// # Errors
    /// `TimedOut`, and then everything is thawed again; `Unsupported` where there is no freezer.
    pub fn freeze(&self, names: &[String]) -> io::Result<Frozen> {
        let mut frozen = Frozen::default();
        for name in names {
            // Where both versions are mounted, one of them: a process that one version has stopped does
            // not count as stopped for the other.
            let mut freezers = self.freezers(name);
            if freezers.is_empty() {
                return Err(io::ErrorKind::Unsupported.into());
            }
            if let Some(version2) = freezers.iter().position(Freezer::is_version2_with_processes) {
                freezers = vec![freezers.swap_remove(version2)];
            } else {
                freezers.retain(|freezer| matches!(freezer, Freezer::Version1(_)));
            }
            for freezer in freezers {
                // Before it is frozen, so that a failure thaws it.
                frozen.0.push(freezer);
                if let Some(freezer) = frozen.0.last() {
                    freezer.set(true)?;
                }
            }
        }
        let deadline = Instant::now() + TIMEOUT;
        frozen.0.iter().try_for_each(|freezer| freezer.wait(deadline))?;
        Ok(frozen)
    }

    /// Thaws every sandbox, after a runner that was killed in the middle of a snapshot.
    pub fn thaw_all(&self) {
        let mut names: Vec<String> = self
            .left()
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort_unstable();
        names.dedup();
        drop(Frozen(
            names.iter().flat_map(|name| self.freezers(name)).collect(),
        ));
    }

    fn freezers(&self, name: &str) -> Vec<Freezer> {
        self.folders(name)
            .filter_map(|folder| {
                if folder.join("freezer.state").exists() {
                    Some(Freezer::Version1(folder.join("freezer.state")))
                } else if folder.join("cgroup.freeze").exists() {
                    Some(Freezer::Version2(folder))
                } else {
                    None
                }
            })
            .collect()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for freezer in &self.0 {
            match freezer.set(false) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(?freezer, %error, "a sandbox could not be thawed");
                }
                _ => {}
            }
        }
    }
}

impl Freezer {
    fn is_version2_with_processes(&self) -> bool {
        match self {
            Self::Version1(_) => false,
            Self::Version2(group) => {
                fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
            }
        }
    }

    fn set(&self, frozen: bool) -> io::Result<()> {
        match self {
            Self::Version1(state) => fs::write(state, if frozen { "FROZEN" } else { "THAWED" }),
            Self::Version2(group) => fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        }
    }

    fn wait(&self, deadline: Instant) -> io::Result<()> {
        match self {
            Self::Version1(state) => {
                let mut pause = Duration::from_micros(100);
                while fs::read_to_string(state)?.trim() != "FROZEN" {
                    left(deadline)?;
                    #[allow(clippy::disallowed_methods, reason = "version 1 has no event for it")]
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(10));
                    // A process that was created meanwhile is frozen by another write.
                    self.set(true)?;
                }
                Ok(())
            }
            Self::Version2(group) => {
                let mut events = File::open(group.join("cgroup.events"))?;
                loop {
                    let mut text = String::new();
                    events.rewind()?;
                    events.read_to_string(&mut text)?;
                    if text.lines().any(|line| line == "frozen 1") {
                        return Ok(());
                    }
                    let timeout = PollTimeout::try_from(left(deadline)?).unwrap_or(PollTimeout::MAX);
                    match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout) {
                        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "a process does not stop; it may be waiting for a disk",
        )),
    }
}

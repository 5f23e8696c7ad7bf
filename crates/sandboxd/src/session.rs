//! Process sessions: ends a program together with everything that it started and that has not left
//! its session.
//!
//! A process group alone is not enough (a shell with job control gives each job its own), and the
//! leader's end says nothing about the other members. So the members are read from `/proc`, each is
//! signaled through a pidfd, which cannot refer to another process later, and the reaper wakes the
//! wait for their end, because they become its orphans.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::time::{Instant, timeout_at};

use crate::reaper::Reaper;

/// Time between SIGTERM and SIGKILL.
pub const EXEC_GRACE: Duration = Duration::from_secs(2);

/// Sends `signal` to the session, and after `grace` SIGKILL.
///
/// Returns when no member is left, or after a bound when a member cannot be killed (it hangs in a
/// system call of a dead file system).
pub async fn end(reaper: &Reaper, session: i32, signal: i32, grace: Duration) {
    signal_members(session, signal);
    // A stopped process handles the signal only when it continues.
    signal_members(session, libc::SIGCONT);
    if gone(reaper, session, grace).await {
        return;
    }
    // A member may fork while the list is read; a few rounds catch the child.
    for _ in 0..20 {
        signal_members(session, libc::SIGKILL);
        if gone(reaper, session, Duration::from_millis(100)).await {
            return;
        }
    }
    tracing::warn!(session, "a process of the session cannot be ended");
}

/// Whether the session's last member ends within `bound`.
async fn gone(reaper: &Reaper, session: i32, bound: Duration) -> bool {
    let deadline = Instant::now() + bound;
    let mut children = reaper.children();
    loop {
        children.mark_unchanged();
        if members(session).is_empty() {
            return true;
        }
        if timeout_at(deadline, children.changed()).await.is_err() {
            return members(session).is_empty();
        }
        // Do not read all of /proc again for each of a thousand exits in a row.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends `signal` to each member.
pub fn signal_members(session: i32, signal: i32) {
    let members = members(session);
    // The kernel signals the leader's group at once, including a child that is just being forked. The
    // number belongs to the group as long as it has a member, even when the leader is gone.
    if members.iter().any(|member| member.group == session)
        && let Ok(signal) = Signal::try_from(signal)
    {
        let _ = killpg(Pid::from_raw(session), signal);
    }
    for member in members.iter().filter(|member| member.group != session) {
        // Between the listing and the open, the pid may have been reused: check again after the open.
        let handle = open(member.pid);
        if stat(member.pid).is_some_and(|found| found.belongs_to(session)) {
            match handle {
                Ok(handle) => drop(send(&handle, signal)),
                // A kernel or a seccomp filter without pidfds.
                Err(_) => crate::reaper::signal_one(member.pid, signal),
            }
        }
    }
}

/// The living processes of the session, including those in other groups.
#[must_use]
pub fn members(session: i32) -> Vec<Stat> {
    all()
        .filter(|found| found.belongs_to(session) && found.alive())
        .collect()
}

/// All visible processes.
pub fn all() -> impl Iterator<Item = Stat> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(stat)
}

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub name: String,
    pub state: char,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
}

impl Stat {
    fn belongs_to(&self, session: i32) -> bool {
        self.session == session || self.group == session
    }

    /// The process has not exited.
    #[must_use]
    pub const fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses a line. The name is in parentheses and may itself have parentheses, spaces and line ends.
fn parse(line: &str) -> Option<Stat> {
    let (pid, rest) = line.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        name: name.into(),
        state,
        parent: number()?,
        group: number()?,
        session: number()?,
    })
}

#[allow(unsafe_code)]
fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and returns, if not an error, a new descriptor that nothing
    // else owns.
    unsafe {
        let found = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let descriptor = i32::try_from(found).map_err(io::Error::other)?;
        if descriptor < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(descriptor))
        }
    }
}

#[allow(unsafe_code)]
fn send(process: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and a null siginfo is allowed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<()>(),
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_imitate_other_fields() {
        let found = parse("7 (a) S 1 (b)) R 5 6 8 0 -1").unwrap();
        assert_eq!(
            (found.pid, found.name.as_str(), found.state),
            (7, "a) S 1 (b)", 'R')
        );
        assert_eq!((found.parent, found.group, found.session), (5, 6, 8));
        assert_eq!(parse("nonsense"), None);
    }
}

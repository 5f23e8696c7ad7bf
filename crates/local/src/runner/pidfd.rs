//! Processes held by pidfd (pidfd_open(2)): unlike a process id, a descriptor never refers to a later
//! process.

use std::{
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A descriptor of the process that has this id now.
#[must_use]
pub fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether the process has ended.
#[must_use]
pub fn ended(pidfd: &OwnedFd) -> bool {
    readable(pidfd.as_fd(), Duration::ZERO)
}

/// SIGTERM. Not sent to a process that has ended.
pub fn terminate(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::TERM);
}

/// SIGKILL; ends every process of a sandbox, where it is its process 1 (pid_namespaces(7)).
pub fn kill(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
}

/// Waits until a descriptor is readable: a pidfd when its process has ended.
#[must_use]
pub fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) if left.is_zero() => return false,
            Ok(0) => {}
            Ok(_) => return true,
            Err(_) => return false,
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

/// The wait status of another process's child, once its parent has reaped it (Linux 6.15; `None`
/// before that).
pub fn exit_status(pidfd: &OwnedFd) -> Option<i32> {
    // The supervisor reaps it; the kernel reports that as a hang-up.
    let mut events = [PollFd::new(pidfd.as_fd(), PollFlags::empty())];
    let _ = poll(&mut events, 200u16);
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
    fn a_running_process_has_not_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!ended(&pidfd));
        kill(pidfd.as_fd());
        assert!(readable(pidfd.as_fd(), Duration::from_secs(10)));
        assert!(ended(&pidfd));
        child.wait().unwrap();
    }
}

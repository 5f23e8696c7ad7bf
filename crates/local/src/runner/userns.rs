//! User namespaces for id-mapped mounts (mount_setattr(2)).

use std::{fs, io, os::fd::OwnedFd};

use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, fork, pause, pipe2},
};

/// Ids of a user namespace: 0 and upwards inside are `first` and upwards outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    pub first: u32,
    pub count: u32,
}

/// Ids of a sandbox: as many as an image may use.
pub const COUNT: u32 = 65_536;

impl IdRange {
    /// The range of a slot (numbered from 1).
    #[must_use]
    pub fn of_slot(base: u32, slot: u32) -> Self {
        Self {
            first: base + (slot - 1) * COUNT,
            count: COUNT,
        }
    }

    fn map(self) -> String {
        format!("0 {} {}\n", self.first, self.count)
    }
}

/// A namespace with this mapping. It lives as long as the descriptor and the mounts made with it.
///
/// # Errors
/// The kernel's; `ENOSPC` where user.max_user_namespaces is reached.
pub fn mapped(range: IdRange) -> io::Result<OwnedFd> {
    let (message_reader, message_writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the child of this multi-threaded process makes system calls only (prctl, unshare,
    // write, pause, _exit) and neither allocates nor takes a lock.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() }?;
    match forked {
        ForkResult::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            let code = u8::from(unshare(CloneFlags::CLONE_NEWUSER).is_err());
            let _ = rustix::io::write(&message_writer, &[code]);
            // It waits to be killed, not for the end of a pipe: another child that was forked
            // meanwhile may hold a copy of any pipe.
            pause();
            // SAFETY: _exit only ends the process, and runs nothing of the parent's.
            #[allow(unsafe_code)]
            unsafe {
                libc::_exit(0)
            }
        }
        ForkResult::Parent { child } => {
            let made = (|| {
                let mut code = [1u8];
                if rustix::io::read(&message_reader, &mut code)? != 1 || code[0] != 0 {
                    return Err(io::Error::other(
                        "a user namespace could not be made (is user.max_user_namespaces reached?)",
                    ));
                }
                fs::write(format!("/proc/{child}/uid_map"), range.map())?;
                fs::write(format!("/proc/{child}/gid_map"), range.map())?;
                Ok(fs::File::open(format!("/proc/{child}/ns/user"))?.into())
            })();
            kill(child, Signal::SIGKILL)?;
            waitpid(child, None)?;
            made
        }
    }
}

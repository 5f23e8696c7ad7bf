//! User namespaces of sandboxes: for their processes, and for their id-mapped mounts
//! (mount_setattr(2)).

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
use rustix::{
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{CapabilitiesSecureBits, Uid, set_capabilities_secure_bits, set_thread_res_uid},
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
}

/// A user namespace with the ids of `parts`, which follow each other from 0. It lives as long as
/// the descriptor, the processes in it and the mounts made with it.
///
/// The kernel counts inotify instances and watches, pending signals, timers and message queues of
/// all processes in it for `owner`, a user of the caller's namespace (user_namespaces(7),
/// namespaces(7) "ucounts"). An owner that no other namespace has gets limits that it shares with
/// no other.
///
/// # Errors
/// The kernel's; `ENOSPC` where user.max_user_namespaces is reached.
pub fn new(owner: u32, parts: &[IdRange]) -> io::Result<OwnedFd> {
    let (message_reader, message_writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the child of this multi-threaded process makes system calls only (prctl, setresuid,
    // unshare, write, pause, _exit) and neither allocates nor takes a lock.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() }?;
    match forked {
        ForkResult::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            let code = u8::from(unshare_as(owner).is_err());
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
                        "a user namespace could not be created (is user.max_user_namespaces reached?)",
                    ));
                }
                let map = map(parts);
                fs::write(format!("/proc/{child}/uid_map"), &map)?;
                fs::write(format!("/proc/{child}/gid_map"), &map)?;
                Ok(fs::File::open(format!("/proc/{child}/ns/user"))?.into())
            })();
            kill(child, Signal::SIGKILL)?;
            waitpid(child, None)?;
            made
        }
    }
}

/// Moves the calling process into a user namespace that belongs to `owner`. Makes system calls
/// only.
fn unshare_as(owner: u32) -> io::Result<()> {
    // Without this bit a change of the user clears the capabilities (capabilities(7)).
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    set_thread_res_uid(None, Uid::from_raw(owner), None)?;
    // A process that has changed its user is not dumpable, and its files in /proc are then those
    // of the machine's root, which a plain user's runner may not open (proc(5)).
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
}

/// The content of uid_map and gid_map.
fn map(parts: &[IdRange]) -> String {
    let mut inside = 0;
    parts
        .iter()
        .map(|part| {
            let line = format!("{inside} {} {}\n", part.first, part.count);
            inside += part.count;
            line
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_map_follow_each_other() {
        let parts = [
            IdRange { first: 0, count: 1 },
            IdRange {
                first: 1,
                count: 65_535,
            },
        ];
        assert_eq!(map(&parts), "0 0 1\n1 1 65535\n");
    }
}

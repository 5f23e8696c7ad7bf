//! Rootless mode: a plain user's runner becomes root of a user namespace, before it has a second
//! thread.
//!
//! Sandboxes outlive the runner, and only a process in the namespace that owns theirs may enter
//! them. So a runner that finds one of its data folder's namespaces, through another runner's
//! process or a sandbox's, joins it, and otherwise creates one. No process is kept for this: a user
//! namespace exists as long as any process or namespace in it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

use fsa_model::Failure;
use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{
        ForkResult, Gid, Uid, User, fork, getgid, getpid, getuid, pipe2, setgroups, setresgid, setresuid,
    },
};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{
    RunnerConfig,
    config::PATH,
    database, pasta,
    privilege_mode::PrivilegeMode,
    state::{BOOT, Process, State},
    userns::COUNT,
};
use crate::protocol::machine;

/// linux/nsfs.h: the namespace that a user namespace was made in.
const NS_GET_PARENT: libc::Ioctl = 0xb702;

/// `runner/namespace.json`: the process of the runner that entered the namespace last.
#[derive(Serialize, Deserialize)]
struct NamespaceMember {
    boot: String,
    process: Process,
}

/// Determines the privilege mode. A plain user's process becomes root of a user namespace here; it
/// must have one thread.
///
/// # Errors
/// The namespace cannot be created or joined; with the reason and the fix.
pub fn enter(config: &RunnerConfig) -> Result<PrivilegeMode, Failure> {
    if Uid::effective().is_root() {
        return Ok(PrivilegeMode::Root);
    }
    let folder = config.folder();
    let unusable = |error: io::Error| {
        machine(format!(
            "the data folder {} cannot be used ({error})",
            config.data_dir.display()
        ))
    };
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    // Two runners that start at once must end up in the same namespace.
    let lock = File::create(folder.join("namespace.lock")).map_err(unusable)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| unusable(e.into()))?;
    match living(&folder) {
        Some(namespace) => setns(&namespace, CloneFlags::CLONE_NEWUSER).map_err(|error| {
            machine(format!(
                "the sandboxes' user namespace cannot be joined ({error})"
            ))
        })?,
        None => make()?,
    }
    let inotify = inotify_limits();
    become_root().map_err(|error| {
        machine(format!(
            "the runner cannot be root of its user namespace ({error}){}",
            advice()
        ))
    })?;
    share_inotify(inotify);
    let member = Process::now(getpid().as_raw()).map(|process| NamespaceMember {
        boot: BOOT.clone(),
        process,
    });
    fs::write(
        folder.join("namespace.json"),
        serde_json::to_vec(&member).map_err(|e| unusable(e.into()))?,
    )
    .map_err(unusable)?;
    Ok(PrivilegeMode::Rootless)
}

/// The user's inotify limits: names of user_namespaces(7)'s files, and values.
fn inotify_limits() -> Vec<(&'static str, u64)> {
    [
        ("max_inotify_instances", "max_user_instances"),
        ("max_inotify_watches", "max_user_watches"),
    ]
    .into_iter()
    .filter_map(|(name, machine)| {
        let text = fs::read_to_string(Path::new("/proc/sys/fs/inotify").join(machine)).ok()?;
        Some((name, text.trim().parse().ok()?))
    })
    .collect()
}

/// Limits each sandbox to half of the user's limits: the kernel counts all sandboxes for the user as
/// well, so one sandbox could use all of them.
fn share_inotify(limits: Vec<(&'static str, u64)>) {
    for (name, limit) in limits {
        if let Err(error) = fs::write(Path::new("/proc/sys/user").join(name), (limit / 2).to_string()) {
            tracing::warn!(name, %error, "sandboxes share the limit");
        }
    }
}

fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    // Sandboxes do not get the user's other groups.
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// The user namespace of this data folder, if a process in it or below it is alive.
fn living(folder: &Path) -> Option<OwnedFd> {
    let member = fs::read(folder.join("namespace.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Option<NamespaceMember>>(&text).ok()?)
        .filter(|member| member.boot == *BOOT)
        .and_then(|member| user_namespace(member.process));
    let entries = |name: &str| fs::read_dir(folder.join(name)).into_iter().flatten().flatten();
    member
        .or_else(|| {
            entries("sandboxes")
                .filter_map(|entry| State::read(&entry.path().join("state.json")))
                .filter_map(|state| state.run.filter(|run| run.boot == *BOOT)?.process)
                .find_map(|process| parent(&user_namespace(process)?))
        })
        .or_else(|| {
            database::state::running(&folder.join("servers"))
                .filter(|state| state.boot == *BOOT)
                .find_map(|state| parent(&user_namespace(state.process?)?))
        })
        .or_else(|| {
            entries("networks")
                .filter_map(|entry| pasta::find(&entry.path()))
                .find_map(|pid| user_namespace(Process::now(pid)?))
        })
}

fn user_namespace(process: Process) -> Option<OwnedFd> {
    let namespace = File::open(format!("/proc/{}/ns/user", process.pid)).ok()?;
    // Checked again: it could be of a later process with the same id.
    (Process::now(process.pid) == Some(process)).then(|| namespace.into())
}

fn parent(namespace: &OwnedFd) -> Option<OwnedFd> {
    // SAFETY: this request takes no argument, and returns a new descriptor that nothing else owns.
    #[allow(unsafe_code)]
    unsafe {
        let fd = libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

/// Creates a namespace in which 0 is the user and 1 to 65,535 are the user's subordinate ids.
/// Only newuidmap(1) may map ids other than the user's own, and only from outside of the namespace: a
/// child that is forked before runs it.
fn make() -> Result<(), Failure> {
    let (uid, gid) = (getuid(), getgid());
    let name = User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name);
    let maps = [
        (
            "newuidmap",
            uid.as_raw(),
            first(Path::new("/etc/subuid"), &name, uid)?,
        ),
        (
            "newgidmap",
            gid.as_raw(),
            first(Path::new("/etc/subgid"), &name, uid)?,
        ),
    ];
    let creation_failed = |error: io::Error| {
        machine(format!(
            "the runner cannot create a user namespace ({error}){}",
            advice()
        ))
    };
    let (go_reader, go_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| creation_failed(e.into()))?;
    let (message_reader, message_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| creation_failed(e.into()))?;
    let me = getpid();
    // SAFETY: this process has one thread, so the child's copy of it is whole.
    #[allow(unsafe_code)]
    let helper = match unsafe { fork() }.map_err(|e| creation_failed(e.into()))? {
        ForkResult::Child => {
            drop(go_writer);
            let mut failure = File::from(message_writer);
            // Nothing comes where there is no namespace.
            if rustix::io::read(&go_reader, &mut [0u8; 1]).is_ok_and(|bytes| bytes == 1) {
                for (program, own, first) in maps {
                    if let Err(why) = map(program, me.as_raw(), own, first) {
                        let _ = failure.write_all(why.as_bytes());
                        break;
                    }
                }
            }
            std::process::exit(0)
        }
        ForkResult::Parent { child } => child,
    };
    drop((go_reader, message_writer));
    let unshared = unshare(CloneFlags::CLONE_NEWUSER);
    if unshared.is_ok() {
        let _ = rustix::io::write(&go_writer, &[1]);
    }
    drop(go_writer);
    let mut message = String::new();
    let received = File::from(message_reader).read_to_string(&mut message);
    while matches!(
        waitpid(helper, None),
        Err(nix::errno::Errno::EINTR) | Ok(WaitStatus::Stopped(..))
    ) {}
    unshared.map_err(|e| creation_failed(e.into()))?;
    received.map_err(creation_failed)?;
    if message.is_empty() {
        Ok(())
    } else {
        Err(machine(message))
    }
}

fn map(program: &str, pid: i32, own: u32, first: u32) -> Result<(), String> {
    let numbers = [0, own, 1, 1, first, COUNT - 1].map(|number| number.to_string());
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                format!(
                    "the program {program} is missing, without which sandboxes cannot have user ids: install uidmap \
                     (Debian: apt-get install uidmap)"
                )
            } else {
                format!("the program {program} could not be run ({error})")
            }
        })?;
    if output.status.success() {
        return Ok(());
    }
    let output_text: String = String::from_utf8_lossy(&output.stderr)
        .trim()
        .chars()
        .take(300)
        .collect();
    Err(format!(
        "{program} refused to map user ids: {output_text}; it must be set-user-ID root, and {} must name a range of the \
         user",
        if program == "newuidmap" {
            "/etc/subuid"
        } else {
            "/etc/subgid"
        }
    ))
}

/// The first subordinate id of the user (subuid(5)).
fn first(file: &Path, name: &str, uid: Uid) -> Result<u32, Failure> {
    let text = fs::read_to_string(file).unwrap_or_default();
    range(&text, name, uid.as_raw()).ok_or_else(|| {
        let kind = if file.ends_with("subuid") { "subuids" } else { "subgids" };
        machine(format!(
            "the user {name} has no {COUNT} subordinate ids in {}, which sandboxes need: give it some, as root, with \
             usermod --add-{kind} 100000-165535 {name} (a range that no other user has), or run fsa serve as root",
            file.display()
        ))
    })
}

fn range(text: &str, name: &str, uid: u32) -> Option<u32> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ((owner == name || owner == uid) && count >= COUNT && first > 0).then_some(first)
    })
}

/// Advice where user namespaces are forbidden, by the machine's settings.
#[must_use]
pub fn advice() -> &'static str {
    let is = |name: &str, value: &str| {
        fs::read_to_string(Path::new("/proc/sys").join(name)).is_ok_and(|text| text.trim() == value)
    };
    if is("user/max_user_namespaces", "0") {
        "; user namespaces are switched off here: as root, sysctl -w user.max_user_namespaces=15000, or run fsa serve \
         as root"
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "; user namespaces are switched off for plain users here: as root, sysctl -w \
         kernel.unprivileged_userns_clone=1, or run fsa serve as root"
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "; AppArmor restricts user namespaces of plain users here: as root, sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0, or run fsa serve as root"
    } else {
        "; run fsa serve as root where user namespaces are forbidden (a container, a security module)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number_and_must_be_large_enough() {
        let text = "root:1:65536\nann:100000:1000\nann:200000:65536\n1007:300000:65536\nbroken\n";
        assert_eq!(range(text, "ann", 5), Some(200_000));
        assert_eq!(range(text, "bob", 1007), Some(300_000));
        assert_eq!(range(text, "eve", 6), None);
    }
}

//! Mounts in the runner's private mount namespace: id-mapped copies, overlays, unmounting.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use rustix::{
    fs::CWD,
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

/// Moves the calling thread, and threads that it starts later, into a private mount namespace.
/// Its mounts are visible nowhere else and end with its last process; later mounts of the machine
/// are visible in it.
///
/// # Errors
/// The kernel's: without CAP_SYS_ADMIN.
pub fn private_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Mounts a small file system in memory at `path`, for mount points.
///
/// # Errors
/// The kernel's.
pub fn scratch(path: &Path) -> io::Result<()> {
    let options = CString::new("mode=0755,size=16m").map_err(io::Error::other)?;
    rustix::mount::mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        options.as_c_str(),
    )?;
    // Mounts in here do not propagate to containers that start meanwhile.
    rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// Mapping of the ids on disk by a mount.
#[derive(Debug)]
pub enum IdMapping {
    /// To those of a user namespace.
    Mapped(OwnedFd),
    /// Not at all.
    Unmapped {
        /// With the mounts below. In a user namespace they must come along: they may hide something
        /// (mount_namespaces(7)).
        recursive: bool,
    },
}

/// A detached copy of the mount that holds `source`, rooted there.
///
/// # Errors
/// `EINVAL` where the file system cannot be id-mapped (overlayfs, many network file systems).
pub fn copy(source: &Path, view: &IdMapping, read_only: bool) -> io::Result<OwnedFd> {
    let (map, namespace, clone, also) = match view {
        IdMapping::Mapped(namespace) => (
            libc::MOUNT_ATTR_IDMAP,
            u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
            OpenTreeFlags::empty(),
            0,
        ),
        IdMapping::Unmapped { recursive: true } => (0, 0, OpenTreeFlags::AT_RECURSIVE, libc::AT_RECURSIVE),
        IdMapping::Unmapped { recursive: false } => (0, 0, OpenTreeFlags::empty(), 0),
    };
    let tree = rustix::mount::open_tree(
        CWD,
        source,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | clone,
    )?;
    let attributes = libc::mount_attr {
        attr_set: map | libc::MOUNT_ATTR_NODEV | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: namespace,
    };
    // SAFETY: mount_setattr(2) reads an empty C string and a `mount_attr` of the size given, and
    // writes nothing; both live through the call.
    #[allow(unsafe_code)]
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | also,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 {
        Ok(tree)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Attaches a detached mount at `target`, a folder that is made where it is missing.
///
/// # Errors
/// The kernel's.
pub fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    rustix::mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Binds the file `source` to `target`. A file that replaces `source` later is not visible there.
///
/// # Errors
/// The kernel's.
pub fn bind_file(source: &Path, target: &Path) -> io::Result<()> {
    fs::File::create(target)?;
    Ok(rustix::mount::mount_bind(source, target)?)
}

/// Mounts an overlay of `lower` (the uppermost first) below `upper`, at `target`. All are names in
/// `folder`, so that hundreds of layers fit into the one page that mount(2) reads.
///
/// The kernel makes its files in `work` and `upper` (its working folder, whiteouts) as the
/// mounting user. On an id-mapped mount that must be a mapped id: `owner`, the sandbox's root.
/// With an unmapped id it would not fail but mount read-only (fs/overlayfs/super.c).
///
/// `options` are those of [`super::privilege_mode::PrivilegeMode::overlay_options`].
///
/// The calling thread stays in `folder` afterwards, and shares its working folder with no other.
///
/// # Errors
/// The kernel's; `ReadOnlyFilesystem` where the overlay was mounted read-only.
pub fn overlay(
    folder: &Path,
    lower: &[String],
    upper: &str,
    work: &str,
    target: &str,
    owner: u32,
    options: &str,
) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    rustix::process::chdir(folder)?;
    // Explicit, because the defaults are module parameters.
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={work},index=off,metacopy=off,{options}",
        lower.join(":"),
    );
    let options = CString::new(options).map_err(io::Error::other)?;
    as_file_owner(owner, || {
        rustix::mount::mount(
            "overlay",
            target,
            "overlay",
            MountFlags::NODEV,
            options.as_c_str(),
        )
    })??;
    if rustix::fs::statvfs(target)?
        .f_flag
        .contains(rustix::fs::StatVfsMountFlags::RDONLY)
    {
        return Err(io::ErrorKind::ReadOnlyFilesystem.into());
    }
    Ok(())
}

/// Runs `act` on this thread with the file-system ids of `owner` and all capabilities.
/// credentials(7): a file-system id other than 0 removes the file capabilities from the effective
/// ones, and 0 restores them.
fn as_file_owner<T>(owner: u32, act: impl FnOnce() -> T) -> io::Result<T> {
    let before = rustix::thread::capabilities(None)?;
    setfsuid(Uid::from_raw(owner));
    setfsgid(Gid::from_raw(owner));
    let result = rustix::thread::set_capabilities(None, before).map(|()| act());
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    Ok(result?)
}

/// Unmounts everything at `path` or below it, whether in use or not.
pub fn detach_below(path: &Path) {
    let Ok(table) = fs::read_to_string("/proc/thread-self/mountinfo") else {
        return;
    };
    // Later mounts lie on earlier ones.
    for point in below(&table, path).iter().rev() {
        let _ = rustix::mount::unmount(point.as_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

/// The mount points at or below `path`, in the order of the table (proc(5), mountinfo).
#[must_use]
pub fn below(table: &str, path: &Path) -> Vec<String> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| Path::new(point).starts_with(path))
        .collect()
}

/// Spaces, tabs, newlines and backslashes are octal in the table.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_folder_exclude_those_with_a_similar_name() {
        let table = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /data/m rw - tmpfs t rw\n\
                     3 2 0:6 / /data/m/a\\040b rw - overlay o rw\n4 1 0:7 / /data/mm rw - tmpfs t rw\n";
        assert_eq!(below(table, Path::new("/data/m")), ["/data/m", "/data/m/a b"]);
    }
}

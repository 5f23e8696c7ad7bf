//! Copy of a file tree by cp(1) of GNU coreutils: owners, modes, times, links, extended attributes,
//! device files and holes stay; blocks are shared where the file system can.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::runner::config::PATH;

/// Characters of cp's messages that are kept.
const MESSAGE_MAX: usize = 300;

/// Copies the folder `from` as `to`, which must not exist. Follows no link.
///
/// # Errors
/// What cp reports.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut command = Command::new("cp");
    command
        .args(["--archive", "--reflink=auto", "--no-target-directory", "--"])
        .args([from, to])
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec the child calls prctl alone, which allocates nothing and takes no
    // lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            // With a killed runner it must end too: the next one removes the copy.
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let kind = match message.as_ref() {
        text if text.contains("No space left on device") => io::ErrorKind::StorageFull,
        text if text.contains("Disk quota exceeded") => io::ErrorKind::QuotaExceeded,
        _ => io::ErrorKind::Other,
    };
    let message: String = message.trim().chars().take(MESSAGE_MAX).collect();
    Err(io::Error::new(kind, format!("cp: {message}")))
}

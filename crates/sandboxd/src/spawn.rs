//! Process spawning: starts a program as a user of the sandbox (the part between fork and exec).
//!
//! Every child gets a new session, the user's ids, no descriptor but its three, default signal
//! handlers, umask 022 and exactly the given environment.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    reaper::{Child, Reaper},
    user::User,
};

/// Program to start.
#[derive(Debug)]
pub struct Launch<'a> {
    pub program: &'a OsStr,
    /// `argv[0]`, if it differs from `program`.
    pub name: Option<OsString>,
    pub arguments: &'a [String],
    /// The whole environment; nothing is inherited.
    pub environment: Vec<(OsString, OsString)>,
    pub folder: PathBuf,
    pub user: &'a User,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Standard input is a terminal, which becomes the controlling terminal.
    pub terminal: bool,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("the command `{0}` was not found: it is neither a path that exists nor in PATH")]
    NotFound(String),
    #[error("`{0}` cannot be executed: {1}")]
    NotExecutable(String, io::Error),
    #[error("the folder {folder} cannot be entered as `{user}`: {cause}", folder = .0.display(), user = .1, cause = .2)]
    Folder(PathBuf, String, io::Error),
    #[error("nothing can be run as `{0}` in this sandbox: {1}")]
    User(String, io::Error),
    #[error("`{0}` could not be started: {1}")]
    Other(String, io::Error),
}

/// The step that failed in the child. An error number has at most 12 bits; the step is encoded above
/// them in the one number that std returns from the child.
const STEP_SHIFT: i32 = 16;
const STEP_USER: i32 = 1;
const STEP_FOLDER: i32 = 2;
const STEP_SESSION: i32 = 3;

/// Starts the program.
///
/// # Errors
/// [`SpawnError`], a sentence for the person.
pub fn spawn(reaper: &Reaper, launch: Launch<'_>) -> Result<Child, SpawnError> {
    let shown = launch.program.to_string_lossy().into_owned();
    let mut command = Command::new(launch.program);
    if let Some(name) = &launch.name {
        command.arg0(name);
    }
    command
        .args(launch.arguments)
        .env_clear()
        .envs(launch.environment)
        .stdin(Stdio::from(launch.stdin))
        .stdout(Stdio::from(launch.stdout))
        .stderr(Stdio::from(launch.stderr));
    let folder = c_string(launch.folder.as_os_str());
    let switch = (launch.user.uid != nix::unistd::geteuid().as_raw()).then(|| Ids {
        uid: launch.user.uid,
        gid: launch.user.gid,
        groups: launch.user.groups.clone(),
    });
    prepare(&mut command, folder, switch, launch.terminal);
    reaper.start(&mut command).map_err(|error| {
        let code = error.raw_os_error().unwrap_or_default();
        let cause = io::Error::from_raw_os_error(code & ((1 << STEP_SHIFT) - 1));
        match code >> STEP_SHIFT {
            STEP_USER => SpawnError::User(launch.user.name.clone(), cause),
            STEP_FOLDER => SpawnError::Folder(launch.folder, launch.user.name.clone(), cause),
            STEP_SESSION => SpawnError::Other(shown, cause),
            _ => match code {
                libc::ENOENT => SpawnError::NotFound(shown),
                libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::ENOTDIR | libc::ELOOP => {
                    SpawnError::NotExecutable(shown, error)
                }
                libc::E2BIG => SpawnError::Other(
                    shown,
                    io::Error::other("its arguments and environment together are too long"),
                ),
                libc::EAGAIN | libc::ENOMEM => SpawnError::Other(
                    shown,
                    io::Error::other(format!(
                        "the sandbox is at its limit of processes or memory ({error})"
                    )),
                ),
                _ => SpawnError::Other(shown, error),
            },
        }
    })
}

struct Ids {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

fn c_string(text: &OsStr) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    // A path with a NUL cannot exist; an empty one gives the same error as a missing one.
    std::ffi::CString::new(text.as_bytes()).unwrap_or_default()
}

#[allow(unsafe_code)]
fn prepare(command: &mut Command, folder: std::ffi::CString, ids: Option<Ids>, terminal: bool) {
    // SAFETY: the closure runs in the forked child, where only this thread exists and a lock of
    // another thread stays locked forever: it makes system calls and nothing else. It allocates
    // nothing, and the data that it reads was created before the fork.
    unsafe {
        command.pre_exec(move || {
            for number in 1..=64 {
                // 32 and 33 belong to the C library and are refused; 9 and 19 have no handler.
                libc::signal(number, libc::SIG_DFL);
            }
            check(STEP_SESSION, libc::setsid().into())?;
            if terminal {
                check(STEP_SESSION, libc::ioctl(0, libc::TIOCSCTTY, 0).into())?;
            }
            if let Some(ids) = &ids {
                // Plain system calls: the C library's functions would signal other threads.
                check(
                    STEP_USER,
                    libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr()),
                )?;
                check(
                    STEP_USER,
                    libc::syscall(libc::SYS_setresgid, ids.gid, ids.gid, ids.gid),
                )?;
                check(
                    STEP_USER,
                    libc::syscall(libc::SYS_setresuid, ids.uid, ids.uid, ids.uid),
                )?;
            }
            libc::umask(0o022);
            check(STEP_FOLDER, libc::chdir(folder.as_ptr()).into())?;
            // No core dump in the project's folder.
            let mut core = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            if libc::getrlimit(libc::RLIMIT_CORE, &raw mut core) == 0 {
                core.rlim_cur = 0;
                libc::setrlimit(libc::RLIMIT_CORE, &raw const core);
            }
            // sandboxd's own descriptors are close-on-exec; this is for descriptors that it inherited.
            // They are only marked, because std still needs one to report a failed exec.
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
}

fn check(step: i32, result: libc::c_long) -> io::Result<()> {
    if result >= 0 {
        return Ok(());
    }
    let code = io::Error::last_os_error().raw_os_error().unwrap_or_default();
    Err(io::Error::from_raw_os_error(step << STEP_SHIFT | code))
}

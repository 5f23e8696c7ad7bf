//! OCI runtime (runc, crun, …), called as a process.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use fsa_model::{
    Failure, FailureKind,
    sandboxd::{BOOT_FD, LISTENER_FD},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    config::{PATH, file_name},
    pidfd::readable,
};
use crate::protocol::machine;

/// A start takes 20 ms; one that takes this long hangs.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Descriptors below this one are reserved for those that a child inherits.
pub const FIRST_FREE_FD: i32 = 10;

/// The first version whose seccomp filters have an error number for all other calls
/// (`defaultErrnoRet`). With an older one, programs see EPERM for new calls and do not fall back.
const RUNC_MIN: (u32, u32) = (1, 1);

/// The runtime and where it keeps its state.
#[derive(Clone, Debug)]
pub struct Runtime {
    program: PathBuf,
    root: PathBuf,
    /// The runtime ignores failures to make a control group (runc's `--rootless=true`).
    without_cgroups: bool,
}

/// What a container inherits from the runtime.
#[derive(Debug, Default)]
pub struct Inherited<'a> {
    /// For sandboxd: the socket that it serves, and its boot document.
    pub control: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// The network namespace; `None` where the configuration has it.
    pub network: Option<BorrowedFd<'a>>,
    /// The highest number of open files; `None` where the configuration has it.
    pub open_files: Option<u64>,
    /// For its output; `None` for `console.log` in the bundle.
    pub output: Option<&'a File>,
}

impl Runtime {
    #[must_use]
    pub fn new(program: PathBuf, root: PathBuf, without_cgroups: bool) -> Self {
        Self {
            program,
            root,
            without_cgroups,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn name(&self) -> &str {
        file_name(&self.program)
    }

    /// Whether the runtime joins a user namespace that exists. gVisor's makes its own.
    #[must_use]
    pub fn joins_user_namespace(&self) -> bool {
        matches!(self.name(), "runc" | "crun")
    }

    /// The runtime's name and version.
    ///
    /// # Errors
    /// The runtime is missing or broken; the message has the fix.
    pub fn version(&self) -> Result<String, Failure> {
        let output = self
            .command()
            .arg("--version")
            .stdout(Stdio::piped())
            .output()
            .map_err(|e| self.unstarted(&e))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line: String = text.lines().next().unwrap_or("").chars().take(80).collect();
        if output.status.success() && !line.is_empty() {
            Ok(line)
        } else {
            Err(machine(format!(
                "the OCI runtime {} does not work: it gives no version",
                self.program.display()
            )))
        }
    }

    /// Starts a container in the background, and returns the id of its process 1. The runtime has
    /// ended by then. Where it fails, what it left is removed.
    ///
    /// # Errors
    /// With the runtime's own message, or a better one for known causes.
    pub fn start(&self, id: &str, bundle: &Path, inherited: &Inherited<'_>) -> Result<i32, Failure> {
        let (log, pid_file) = (bundle.join("runtime.log"), bundle.join("pid"));
        for old in [&log, &pid_file] {
            let _ = fs::remove_file(old);
        }
        let console = match inherited.output {
            Some(output) => output.try_clone(),
            None => File::create(bundle.join("console.log")),
        }
        .map_err(|e| unwritable(&e))?;
        let status = self.run(id, bundle, &log, &pid_file, &console, inherited);
        let failed = match status {
            Ok(status) if status.success() => match pid(&pid_file) {
                Some(pid) => return Ok(pid),
                None => machine(format!(
                    "{} started a sandbox and gave no process id",
                    self.name()
                )),
            },
            Ok(status) => self.failure(status, &log, bundle),
            Err(failure) => failure,
        };
        self.delete(id);
        Err(failed)
    }

    fn run(
        &self,
        id: &str,
        bundle: &Path,
        log: &Path,
        pid_file: &Path,
        console: &File,
        inherited: &Inherited<'_>,
    ) -> Result<ExitStatus, Failure> {
        let copy = |fd: BorrowedFd<'_>| -> io::Result<OwnedFd> {
            Ok(rustix::io::fcntl_dupfd_cloexec(fd, FIRST_FREE_FD)?)
        };
        let mut copies = Vec::new();
        if let Some((listener, boot)) = inherited.control {
            for (fd, place) in [(listener, LISTENER_FD), (boot, BOOT_FD)] {
                copies.push((copy(fd).map_err(|e| self.unstarted(&e))?, place));
            }
        }
        let output = || {
            console
                .try_clone()
                .map(Stdio::from)
                .map_err(|e| self.unstarted(&e))
        };
        let mut command = self.command();
        command.stdout(output()?).stderr(output()?);
        if self.without_cgroups && self.name() == "runc" {
            command.arg("--rootless=true");
        }
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(log)
            .args([
                "--log-format",
                "json",
                "run",
                "--detach",
                "--preserve-fds",
                &copies.len().to_string(),
                "--pid-file",
            ])
            .arg(pid_file)
            .arg("--bundle")
            .arg(bundle)
            .arg(id);
        let targets: Vec<_> = copies
            .iter()
            .map(|(fd, target)| (fd.as_raw_fd(), *target))
            .collect();
        // The runtime may set limits of a process in another user's namespace with CAP_SYS_RESOURCE
        // alone, which a container engine may have taken from this process. A core dump would have
        // the sandbox's secrets, in a folder that the machine chooses.
        let network = inherited.network.map(|network| network.as_raw_fd());
        let limits = inherited
            .open_files
            .map(|open_files| [(libc::RLIMIT_NOFILE, open_files), (libc::RLIMIT_CORE, 0)]);
        // SAFETY: between fork and exec the child calls setns, setrlimit and dup2 alone, which allocate
        // nothing and take no lock. The target numbers are kept free of other descriptors.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                if let Some(network) = network
                    && libc::setns(network, libc::CLONE_NEWNET) < 0
                {
                    return Err(io::Error::last_os_error());
                }
                for (kind, most) in limits.iter().flatten() {
                    let limit = libc::rlimit {
                        rlim_cur: *most,
                        rlim_max: *most,
                    };
                    if libc::setrlimit(*kind, &raw const limit) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                for (fd, target) in &targets {
                    if libc::dup2(*fd, *target) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(|e| self.unstarted(&e))?;
        let ended = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .is_some_and(|pidfd| readable(pidfd.as_fd(), TIMEOUT));
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
            return Err(machine(format!(
                "{} did not start the sandbox within {} seconds; the machine may be overloaded",
                self.name(),
                TIMEOUT.as_secs()
            )));
        }
        child.wait().map_err(|e| self.unstarted(&e))
    }

    /// Removes the runtime's state of a container, and kills its processes if there are any.
    pub fn delete(&self, id: &str) {
        if !self.root.join(id).exists() {
            return;
        }
        let status = self
            .command()
            .arg("--root")
            .arg(&self.root)
            .args(["delete", "--force", id])
            .status();
        if !status.is_ok_and(|status| status.success()) {
            tracing::warn!(id, "the OCI runtime could not delete a container that has ended");
        }
    }

    /// Removes the runtime's state of a container whose processes have all ended. With runc and
    /// crun it is one folder; with other runtimes their own command must do it.
    pub fn forget(&self, id: &str) {
        if matches!(self.name(), "runc" | "crun") {
            let folder = self.root.join(id);
            if let Err(error) = fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %folder.display(), %error, "a folder could not be removed");
            }
        } else {
            self.delete(id);
        }
    }

    /// Whether the runtime knows a container of this name.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    /// Why a runtime of this version, as [`Self::version`] returns it, cannot be used.
    #[must_use]
    pub fn too_old(version: &str) -> Option<String> {
        let number = version.strip_prefix("runc version ")?;
        let mut parts = number
            .split(['.', '-', '+', '~'])
            .map_while(|part| part.parse::<u32>().ok());
        let found = (parts.next()?, parts.next()?);
        (found < RUNC_MIN).then(|| {
            format!(
                "runc {number} is too old: sandboxes need {}.{} or later. Upgrade it, or name another OCI runtime in \
                 the setting `runtime`",
                RUNC_MIN.0, RUNC_MIN.1
            )
        })
    }

    fn unstarted(&self, error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::NotFound {
            return machine(format!(
                "the OCI runtime {} is not installed: install runc (Debian: apt-get install runc), or name another \
                 one in the setting `runtime`",
                self.program.display()
            ));
        }
        machine(format!(
            "the OCI runtime {} could not be started: {error}",
            self.program.display()
        ))
    }

    fn failure(&self, status: ExitStatus, log: &Path, bundle: &Path) -> Failure {
        let output_text = fs::read_to_string(log)
            .ok()
            .and_then(|text| last_error(&text))
            .unwrap_or_else(|| {
                fs::read_to_string(bundle.join("console.log"))
                    .map(|text| tail(&text))
                    .unwrap_or_default()
            });
        if output_text.contains("no space left on device") {
            return machine("the disk is full: remove projects or images, or make the disk larger");
        }
        if output_text.contains("/.fsa/sandboxd") && output_text.contains("no such file") {
            return Failure::new(
                FailureKind::Internal,
                "sandboxd, the program that runs first in every sandbox, could not be found in it",
            );
        }
        machine(format!(
            "{} could not start the sandbox ({status}): {output_text}",
            self.name()
        ))
    }
}

fn pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path)
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 1)
}

/// The message of the last line of level error.
fn last_error(log: &str) -> Option<String> {
    log.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|line| line["level"] == "error")
        .and_then(|line| Some(tail(line["msg"].as_str()?)))
}

fn tail(text: &str) -> String {
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(600);
    text.chars()
        .skip(skip)
        .filter(|c| !c.is_control() || *c == '\n')
        .collect()
}

fn unwritable(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::StorageFull {
        machine("the disk is full: remove projects or images, or make the disk larger")
    } else {
        machine(format!("the sandbox's folder cannot be written ({error})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_last_error_is_found_in_its_log() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"no such thing\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("no such thing"));
        assert_eq!(last_error("not json"), None);
    }

    #[test]
    fn an_old_runc_is_refused_and_other_runtimes_are_not() {
        for version in ["runc version 1.0.0-rc93", "runc version 1.0.3+ds1"] {
            let why = Runtime::too_old(version).unwrap();
            assert!(why.contains("sandboxes need 1.1 or later"), "{why}");
        }
        for version in [
            "runc version 1.1.5+ds1",
            "runc version 1.3.0",
            "runc version 2.0.0-rc1",
            "crun version 0.9",
            "runc version unknown",
        ] {
            assert_eq!(Runtime::too_old(version), None, "{version}");
        }
    }

    #[test]
    fn a_missing_runtime_is_named_with_what_to_do() {
        let runtime = Runtime::new("/nowhere/runc".into(), "/nowhere".into(), false);
        let failure = runtime.version().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Machine);
        assert!(
            failure.message.contains("/nowhere/runc is not installed"),
            "{failure}"
        );
    }
}

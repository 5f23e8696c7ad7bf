//! Rootless networking with pasta: a process of pasta per sandbox, which forwards its connections
//! as the user's own, and a firewall inside the sandbox's network namespace.
//!
//! The sandbox's network namespace belongs to the runner's user namespace, in which nothing in
//! the sandbox has a capability; so the firewall in it cannot be changed from the sandbox.
//!
//! pasta outlives the runner, as the sandbox does. It writes its process id into a file and has
//! that file's path among its arguments, by which a later runner distinguishes it from another
//! process with the same id.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use fsa_model::Failure;
use rustix::{
    mount::UnmountFlags,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{config::PATH, firewall, netns::GATEWAY, pidfd};
use crate::protocol::machine;

/// A start takes about 50 ms.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Starts and finds pasta.
#[derive(Clone, Debug)]
pub struct PastaLauncher {
    /// Folder of the files with process ids, named after the sandboxes.
    records: PathBuf,
    /// Folder of the runner's mount points.
    scratch: PathBuf,
    allowed: Vec<String>,
    resolvers: Vec<Ipv4Addr>,
}

/// A process of pasta.
#[derive(Debug)]
pub struct Pasta {
    pidfd: OwnedFd,
    record: PathBuf,
}

impl Pasta {
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !pidfd::ended(&self.pidfd)
    }

    /// Ends the process, and waits for its end.
    pub fn end(&self) {
        pidfd::kill(self.pidfd.as_fd());
        if !pidfd::readable(self.pidfd.as_fd(), TIMEOUT) {
            tracing::warn!(record = %self.record.display(), "a process of pasta does not end");
        }
        forget(&self.record);
    }
}

impl PastaLauncher {
    /// # Errors
    /// The folder of records cannot be created.
    pub fn new(
        records: PathBuf,
        scratch: &Path,
        allowed: &[String],
        resolvers: &[Ipv4Addr],
    ) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(&records) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self {
            records,
            scratch: scratch.to_owned(),
            allowed: allowed.to_vec(),
            resolvers: resolvers.to_vec(),
        })
    }

    /// Gives a namespace the interface `interface`, not configured yet, and the firewall.
    ///
    /// # Errors
    /// pasta or nft is missing, or failed; with its message.
    pub fn open(
        &self,
        name: &str,
        namespace: &OwnedFd,
        address: Ipv4Addr,
        interface: &str,
        mtu: u32,
    ) -> Result<Pasta, Failure> {
        let record = self.records.join(name);
        // Left by a killed runner.
        if let Some(pasta) = self.find(name) {
            pasta.end();
        }
        forget(&record);
        self.firewall(namespace)?;
        self.start(&record, namespace, address, interface, mtu)?;
        self.find(name).ok_or_else(|| {
            machine("pasta, which connects the sandbox to the network, ended as soon as it was started")
        })
    }

    /// The process that was started under this name, if it still runs.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Pasta> {
        let record = self.records.join(name);
        let pid = find(&record)?;
        let pidfd = pidfd::open(pid)?;
        // Checked again: the descriptor could be of a later process with the same id.
        (find(&record) == Some(pid)).then_some(Pasta { pidfd, record })
    }

    /// Ends all but those to `keep`.
    pub fn end_all_but(&self, keep: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.records).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !keep(&name) {
                match self.find(&name) {
                    Some(pasta) => pasta.end(),
                    None => forget(&entry.path()),
                }
            }
        }
    }

    fn start(
        &self,
        record: &Path,
        namespace: &OwnedFd,
        address: Ipv4Addr,
        interface: &str,
        mtu: u32,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            if error.kind() == io::ErrorKind::NotFound {
                machine("the program pasta is missing: install passt (Debian: apt-get install passt)")
            } else {
                machine(format!(
                    "pasta, which connects the sandbox to the network, could not be started ({error})"
                ))
            }
        };
        let name = record.file_name().unwrap_or_default();
        // A path for the namespace: pasta drops the permission to open other processes' before it
        // opens it. The interface holds the namespace afterwards.
        let path = self.scratch.join(name).with_extension("net");
        File::create(&path).map_err(failed)?;
        let started = (|| {
            rustix::mount::mount_bind(
                format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()),
                &path,
            )
            .map_err(|e| failed(e.into()))?;
            let output_path = self.scratch.join(name).with_extension("output");
            let output_text = File::create(&output_path).map_err(failed)?;
            let mut command = Command::new("pasta");
            // No connection is forwarded into the sandbox, and none from its loopback to the machine's.
            command
                .args([
                    "--ipv4-only",
                    "-t",
                    "none",
                    "-u",
                    "none",
                    "-T",
                    "none",
                    "-U",
                    "none",
                ])
                .args([
                    "--no-map-gw",
                    "--no-netns-quit",
                    "--netns-only",
                    "--ns-ifname",
                    interface,
                ])
                .args(["--address", &address.to_string(), "--netmask", "24"])
                .args(["--gateway", &GATEWAY.to_string(), "--mtu", &mtu.to_string()])
                .arg("--pid")
                .arg(record)
                .arg("--netns")
                .arg(&path);
            if self.resolvers.is_empty() {
                command.args(["--dns-forward", &GATEWAY.to_string()]);
            }
            let child = command
                .env_clear()
                .env("PATH", PATH)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output_text)
                .spawn()
                .map_err(failed)?;
            // It goes into the background when it is ready.
            let status = finish(child).map_err(failed)?;
            let output_text = fs::read_to_string(&output_path).unwrap_or_default();
            let _ = fs::remove_file(&output_path);
            if status {
                return Ok(());
            }
            let last: String = output_text
                .trim()
                .lines()
                .last()
                .unwrap_or("")
                .chars()
                .take(300)
                .collect();
            Err(machine(format!(
                "pasta refused to connect the sandbox to the network: {last}{}",
                tun()
            )))
        })();
        let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = fs::remove_file(&path);
        started
    }

    /// Loads the rules from within the namespace, on a thread that ends there.
    fn firewall(&self, namespace: &OwnedFd) -> Result<(), Failure> {
        let rules = firewall::ruleset_inside(&self.allowed, &self.resolvers, &own_addresses());
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    super::netns::enter(namespace).map_err(|error| {
                        machine(format!("the sandbox's network could not be entered ({error})"))
                    })?;
                    firewall::nft(&rules)
                })
                .join()
                .unwrap_or_else(|_| Err(machine("the thread that loads the sandbox's firewall panicked")))
        })
    }
}

/// Waits for the end of a child, up to a timeout.
fn finish(mut child: std::process::Child) -> io::Result<bool> {
    let ended = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .is_some_and(|pidfd| pidfd::readable(pidfd.as_fd(), TIMEOUT));
    if !ended {
        child.kill()?;
    }
    Ok(child.wait()?.success() && ended)
}

/// The running process of pasta that wrote its number into `record`.
#[must_use]
pub fn find(record: &Path) -> Option<i32> {
    use std::os::unix::ffi::OsStrExt as _;
    let pid: i32 = fs::read_to_string(record).ok()?.trim().parse().ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument == record.as_os_str().as_bytes())
        .then_some(pid)
}

fn forget(record: &Path) {
    if let Err(error) = fs::remove_file(record)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(record = %record.display(), %error, "a file could not be removed");
    }
}

/// Advice for a missing device, which pasta does not name.
fn tun() -> &'static str {
    match File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => "",
        Err(_) => {
            "; this user may not open /dev/net/tun: as root, modprobe tun, and chmod 0666 /dev/net/tun (which is \
             what udev sets)"
        }
    }
}

/// The machine's addresses, which pasta's connections would reach.
fn own_addresses() -> Vec<Ipv4Addr> {
    let mut own: Vec<Ipv4Addr> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .filter(|address| !address.is_loopback())
        .collect();
    own.sort_unstable();
    own.dedup();
    own
}

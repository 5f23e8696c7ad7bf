//! Probe of the machine: its capabilities, tested by trial, and leftovers on it.

use std::{fs, io, path::Path, process::Command, process::Stdio, thread};

use nix::sys::resource::{Resource, getrlimit};

use super::{
    cgroup::Cgroups, config::PATH, config::RunnerConfig, firewall, layout::Layout, mounts, oci::Runtime,
    privilege_mode::PrivilegeMode, resolvers,
};
use crate::protocol::{Hello, VERSION};

/// Enough for most programs. Docker and systemd give more, but a program's loop over all of them
/// is slow.
const OPEN_FILES: u64 = 65_536;

/// The highest number of open files that may be given to a sandbox: raising it takes
/// CAP_SYS_RESOURCE.
#[must_use]
pub fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard.min(OPEN_FILES))
}

/// Probes everything once.
#[must_use]
pub fn probe(
    privilege_mode: PrivilegeMode,
    config: &RunnerConfig,
    layout: &Layout,
    runtime: &Runtime,
    cgroups: &Cgroups,
) -> Hello {
    let mut hello = Hello {
        version: VERSION,
        rootless: privilege_mode == PrivilegeMode::Rootless,
        enforces_memory: cgroups.memory,
        enforces_cpu: cgroups.cpu,
        enforces_pids: cgroups.pids,
        isolates_network: true,
        ..Hello::default()
    };
    match runtime.version() {
        Ok(version) => {
            hello.blockers.extend(Runtime::too_old(&version));
            hello.runtime = version;
        }
        Err(failure) => hello.blockers.push(failure.message),
    }
    match (try_mounts(privilege_mode, layout), privilege_mode) {
        (Ok(()), _) => hello.idmapped_mounts = privilege_mode == PrivilegeMode::Root,
        (Err(error), PrivilegeMode::Rootless) => hello.blockers.push(format!(
            "an overlay cannot be mounted in a user namespace here ({error}): Linux 5.11 or later is needed, and a \
             data folder on ext4, xfs or btrfs"
        )),
        (Err(error), PrivilegeMode::Root) => hello.blockers.push(format!(
            "id-mapped mounts do not work here ({error}): Linux 5.19 or later is needed, and a data folder on ext4, \
             xfs or btrfs"
        )),
    }
    if !config.sandboxd.is_file() {
        hello.blockers.push(format!(
            "sandboxd, the program that runs first in every sandbox, is not at {}: set its path in the setting `sandboxd`",
            config.sandboxd.display()
        ));
    }
    if let Err(wrong) = firewall::check_allowed(&config.allowed_networks) {
        hello.blockers.push(wrong);
    }
    if privilege_mode == PrivilegeMode::Root && !runs("nft", &["--version"]) {
        hello.isolates_network = false;
        hello
            .blockers
            .push("the program nft is missing: install nftables (Debian: apt-get install nftables)".into());
    }
    let missing: Vec<&str> = [
        ("memory", cgroups.memory),
        ("processors", cgroups.cpu),
        ("processes", cgroups.pids),
    ]
    .into_iter()
    .filter_map(|(what, can)| (!can).then_some(what))
    .collect();
    if !missing.is_empty() {
        hello.warnings.push(format!(
            "no limit on {} can be enforced: their control groups cannot be created here",
            missing.join(", ")
        ));
    }
    match privilege_mode {
        PrivilegeMode::Root => {
            hello.warnings.extend(resolvers::find(&config.resolvers).warning);
            hello.warnings.extend(forwarding_dropped());
        }
        PrivilegeMode::Rootless => hello.warnings.push(
            "all sandboxes share the one range of user ids that this user has, and root in a sandbox is this user \
             outside of it: what keeps them apart is namespaces alone"
                .into(),
        ),
    }
    hello
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Mounts and unmounts an overlay like a sandbox's; on a dedicated thread, because the overlay's
/// names are relative to that thread's folder.
fn try_mounts(privilege_mode: PrivilegeMode, layout: &Layout) -> io::Result<()> {
    let here = layout.scratch().join("probe");
    let there = tempfile::Builder::new()
        .prefix("probe-")
        .tempdir_in(layout.deferred_delete())?;
    let attempt = || -> io::Result<()> {
        for name in ["lower", "upper", "work"] {
            fs::create_dir(there.path().join(name))?;
        }
        fs::create_dir_all(here.join("root"))?;
        let ids = privilege_mode.ids(100_000, 1);
        let user_namespace = privilege_mode.user_namespace(ids, "probe")?;
        let all = mounts::copy(there.path(), &privilege_mode.view(&user_namespace)?, false)?;
        mounts::attach(&all, &here.join("all"))?;
        mounts::overlay(
            &here,
            &["all/lower".to_owned()],
            "all/upper",
            "all/work",
            "root",
            ids.first,
            privilege_mode.overlay_options(),
        )
    };
    let result = thread::scope(|scope| {
        scope
            .spawn(attempt)
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the attempt panicked")))
    });
    mounts::detach_below(&here);
    let _ = fs::remove_dir_all(&here);
    result
}

/// Docker and some firewalls drop what the machine forwards unless a rule of theirs allows it.
fn forwarding_dropped() -> Option<String> {
    let output = Command::new("nft")
        .args(["-t", "list", "ruleset"])
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().any(|line| line.contains("hook forward") && line.contains("policy drop")).then(|| {
        "a firewall of this machine drops forwarded packets (Docker's does): sandboxes may not reach the network; allow \
         those that come from interfaces named fsa*"
            .to_owned()
    })
}

/// Leftovers of this data folder's sandboxes: interfaces, control groups, mounts, folders, and
/// containers that the runtime knows.
#[must_use]
pub fn leftovers(privilege_mode: PrivilegeMode, layout: &Layout, cgroups: &Cgroups) -> Vec<String> {
    let mut found = match privilege_mode {
        PrivilegeMode::Root => interfaces(layout.group()),
        PrivilegeMode::Rootless => Vec::new(),
    };
    found.extend(
        cgroups
            .left()
            .iter()
            .map(|path| format!("control group {}", path.display())),
    );
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let (scratch, sandboxd) = (layout.scratch(), layout.scratch().join("sandboxd"));
    found.extend(
        [layout.folder(), scratch]
            .into_iter()
            .flat_map(|folder| mounts::below(&table, folder))
            .filter(|point| ![scratch, &sandboxd, &layout.pool()].contains(&Path::new(point)))
            .map(|point| format!("mount {point}")),
    );
    for (what, folder) in [
        ("sandbox", layout.sandboxes()),
        ("container", layout.runtime_root()),
        ("database server", layout.servers()),
        ("database socket", layout.sockets().to_owned()),
        ("mount point", scratch.to_owned()),
        ("trash", layout.deferred_delete()),
        ("process of pasta", layout.networks()),
    ] {
        for entry in fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path() != sandboxd)
        {
            found.push(format!("{what} {}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Interfaces in the group of this data folder.
fn interfaces(group: u32) -> Vec<String> {
    fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("netdev_group"))
                .is_ok_and(|text| text.trim() == group.to_string())
        })
        .map(|entry| format!("interface {}", entry.file_name().to_string_lossy()))
        .collect()
}

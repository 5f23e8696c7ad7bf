//! The OCI runtime's configuration of a sandbox, as a pure function (OCI runtime specification
//! 1.0.2). There is no secret in it.

use std::path::{Path, PathBuf};

use fsa_model::{
    Resources,
    sandboxd::{HOME, SANDBOXD_PATH},
};
use serde_json::{Value, json};

use super::userns::IdRange;

/// Data of ours: which system calls are let through. Its lists began as those of the container
/// engines; what they allow to a container that may mount is refused here. Refused calls answer
/// EPERM where programs probe for a permission, and ENOSYS where they have another way
/// (io_uring, clone3 whose flags a filter cannot see). No namespaces, no VM sockets, no crypto
/// sockets, one architecture.
const SECCOMP: &str = include_str!("seccomp.json");

/// What root in a sandbox may do to its own files and processes. Not among them: anything about
/// networks, mounts, devices, time, other user namespaces.
const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
];

/// Hidden, because they say things about the machine or its other sandboxes.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What of /sys is there: enough for programs to count processors. Nothing about interfaces,
/// disks or firmware.
const SYS: [&str; 2] = ["/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage"];

/// Everything that the configuration depends on.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    pub root: &'a Path,
    pub hostname: &'a str,
    pub network_namespace: &'a Path,
    /// The sandbox's ids from 0 upwards, in parts that follow each other.
    pub ids: &'a [IdRange],
    /// The home volume, id-mapped already.
    pub home: &'a Path,
    pub sandboxd: &'a Path,
    /// Folders that are seen read-only: where they are now, and where they are to be.
    pub read_only: &'a [(PathBuf, PathBuf)],
    /// The control group, where one can be made.
    pub cgroup: Option<&'a str>,
    pub limits: Limits,
    /// The highest number of open files that may be set.
    pub open_files: u64,
    /// Mounted from the machine at the same place, read-only.
    pub sys: &'a [PathBuf],
}

/// The limits that can be enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Whether swap can be limited as well.
    pub swap: bool,
    /// Thousandths of a processor: kept free, and at most.
    pub cpu: Option<(u32, u32)>,
    pub pids: Option<u32>,
}

impl Limits {
    /// Of `resources`, those that the control groups have.
    #[must_use]
    pub fn of(resources: &Resources, cgroups: &super::cgroup::Cgroups) -> Self {
        Self {
            memory: cgroups
                .memory
                .then(|| u64::from(resources.memory_limit_mib) << 20),
            swap: cgroups.swap,
            cpu: cgroups
                .cpu
                .then_some((resources.cpu_request_millis, resources.cpu_limit_millis)),
            pids: cgroups.pids.then_some(resources.pids_limit),
        }
    }

    fn json(self) -> Value {
        let mut all = json!({"devices": [{"allow": false, "access": "rwm"}]});
        if let Some(bytes) = self.memory {
            all["memory"] = json!({"limit": bytes});
            if self.swap {
                // Memory and swap together: no swap.
                all["memory"]["swap"] = json!(bytes);
            }
        }
        if let Some((request, limit)) = self.cpu {
            // As Kubernetes has it: 1,024 shares a processor; a tenth of a second as the period.
            all["cpu"] = json!({
                "shares": (u64::from(request) * 1024 / 1000).max(2),
                "quota": u64::from(limit) * 100,
                "period": 100_000,
            });
        }
        if let Some(count) = self.pids {
            all["pids"] = json!({"limit": count});
        }
        all
    }
}

/// The parts of /sys that this machine has.
#[must_use]
pub fn sys() -> Vec<PathBuf> {
    SYS.iter()
        .map(PathBuf::from)
        .filter(|path| path.is_dir())
        .collect()
}

/// `config.json`.
///
/// # Panics
/// Never: the profile is part of the program and was parsed by its tests.
#[must_use]
pub fn config(bundle: &Bundle<'_>) -> Value {
    let mount = |kind: &str, target: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let bind = |source: &Path, target: &Path, options: &[&str]| json!({"destination": target, "type": "bind", "source": source, "options": options});
    let mut mounts = vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "tmpfs",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=256m"],
        ),
        mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "tmpfs",
            "/sys",
            &["nosuid", "noexec", "nodev", "mode=755", "size=64k"],
        ),
    ];
    for path in bundle.sys {
        mounts.push(bind(path, path, &["bind", "ro", "nosuid", "noexec", "nodev"]));
    }
    for (source, target) in bundle.read_only {
        mounts.push(bind(source, target, &["bind", "ro", "nodev"]));
    }
    mounts.push(bind(bundle.home, Path::new(HOME), &["bind", "nosuid", "nodev"]));
    mounts.push(bind(
        bundle.sandboxd,
        Path::new(SANDBOXD_PATH),
        &["bind", "ro", "nosuid", "nodev"],
    ));

    let mut next = 0;
    let mapping: Vec<Value> = bundle
        .ids
        .iter()
        .map(|part| {
            let first = next;
            next += part.count;
            json!({"containerID": first, "hostID": part.first, "size": part.count})
        })
        .collect();
    let mut linux = json!({
        "uidMappings": mapping,
        "gidMappings": mapping,
        "namespaces": [
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            {"type": "user"},
            {"type": "cgroup"},
            {"type": "network", "path": bundle.network_namespace},
        ],
        "seccomp": seccomp(),
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
        "resources": bundle.limits.json(),
    });
    if let Some(path) = bundle.cgroup {
        linux["cgroupsPath"] = json!(path);
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": [SANDBOXD_PATH],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": bundle.open_files, "soft": bundle.open_files}],
            "noNewPrivileges": true,
        },
        "root": {"path": bundle.root},
        "hostname": bundle.hostname,
        "mounts": mounts,
        "linux": linux,
    })
}

fn seccomp() -> Value {
    serde_json::from_str(SECCOMP).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use fsa_model::Size;

    use super::*;
    use crate::runner::cgroup::Cgroups;

    fn verdicts(name: &str) -> Vec<String> {
        seccomp()["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule["names"].as_array().unwrap().contains(&json!(name)))
            .map(|rule| rule["action"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn what_could_leave_a_sandbox_is_refused() {
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "pivot_root",
            "open_by_handle_at",
            "kexec_load",
        ] {
            assert_eq!(verdicts(name), ["SCMP_ACT_ERRNO"], "{name}");
        }
        for name in ["io_uring_setup", "clone3"] {
            assert!(
                verdicts(name).is_empty(),
                "{name} has another verdict than the default"
            );
        }
        assert_eq!(seccomp()["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn no_system_call_has_two_verdicts() {
        let profile = seccomp();
        let mut seen = std::collections::BTreeSet::new();
        for rule in profile["syscalls"].as_array().unwrap() {
            if rule.get("args").is_none() {
                for name in rule["names"].as_array().unwrap() {
                    assert!(seen.insert(name.to_string()), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_limit_that_cannot_be_enforced_is_not_asked_for() {
        let none = Limits::of(&Size::Micro.resources(), &Cgroups::default()).json();
        assert!(none.get("memory").is_none() && none.get("cpu").is_none() && none.get("pids").is_none());
        let mut some = Cgroups::default();
        (some.memory, some.cpu) = (true, true);
        let limits = Limits::of(&Size::Micro.resources(), &some).json();
        assert_eq!(limits["memory"], json!({"limit": 256 << 20}));
        assert_eq!(
            limits["cpu"],
            json!({"shares": 20, "quota": 20_000, "period": 100_000})
        );
    }
}

//! OCI runtime configuration of a sandbox (`config.json`, OCI runtime specification 1.0.2): a pure
//! function. It holds no secret.

use std::path::{Path, PathBuf};

use fsa_model::{
    Resources,
    sandboxd::{HOME, SANDBOXD_PATH},
};
use oci_spec::{
    OciSpecError,
    runtime::{
        Capability, Linux, LinuxCapabilities, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxIdMapping,
        LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
        LinuxPidsBuilder, LinuxResources, LinuxSeccomp, Mount, MountBuilder, PosixRlimitBuilder,
        PosixRlimitType, Process, Root, Spec,
    },
};

use super::{config::PATH, userns::IdRange};

/// Seccomp profile. Derived from those of the container engines, without the calls that they allow
/// to a container that may mount. Refused calls return EPERM where programs probe for a
/// permission, and ENOSYS where they have a fallback (io_uring and the older asynchronous I/O, whose
/// requests are counted for the whole machine; clone3, whose flags a filter cannot see). No
/// namespaces, one architecture. Sockets are those of Unix, of IPv4 and IPv6, and of netlink for
/// routes and for lists of sockets: each other family is code of the kernel that any program could
/// load and reach.
const SECCOMP: &str = include_str!("seccomp.json");

/// Where the machine itself runs out of memory, processes of sandboxes end before those of the
/// server and of databases (proc(5), oom_score_adj).
const OOM_SCORE: i32 = 500;

/// Capabilities of root in a sandbox, over its own files and processes. None about networks,
/// mounts, devices, time, other user namespaces.
const CAPABILITIES: [Capability; 9] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::NetBindService,
    Capability::SysChroot,
];

/// Masked, because they reveal things about the machine or its other sandboxes.
pub const MASKED: [&str; 9] = [
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
pub const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Parts of /sys that are mounted: enough for programs to count processors. Nothing about
/// interfaces, disks or firmware.
const SYS: [&str; 2] = ["/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage"];

/// Pseudo-terminals of a sandbox at most. The machine has 3,072 for all (kernel.pty.max, less a
/// reserve).
const PTYS: &str = "max=128";

/// The inputs of the configuration.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    pub root: &'a Path,
    pub hostname: &'a str,
    /// The user namespace, for a runtime that joins one. Such a runtime is started in the network
    /// namespace and with the sandbox's limits.
    pub user_namespace: Option<&'a Path>,
    pub network_namespace: &'a Path,
    /// The highest number of open files that may be set.
    pub open_files: u64,
    /// The ids of the user namespace from 0 upwards, in parts that follow each other.
    pub ids: &'a [IdRange],
    /// The home volume, id-mapped already.
    pub home: &'a Path,
    pub sandboxd: &'a Path,
    /// Folders that are mounted read-only: source and target.
    pub read_only: &'a [(PathBuf, PathBuf)],
    /// The control group, where one can be made.
    pub cgroup: Option<&'a str>,
    pub limits: Limits,
    /// Mounted from the machine at the same path, read-only.
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
    /// Those of `resources` that the control groups can enforce.
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

    /// The limits in the configuration's form.
    ///
    /// # Errors
    /// None: every required field is set.
    pub fn resources(self) -> Result<LinuxResources, OciSpecError> {
        // No device but those that the runtime makes itself.
        let no_device = LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()?;
        let mut resources = LinuxResources::default();
        resources.set_devices(Some(vec![no_device]));
        if let Some(bytes) = self.memory {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            let mut memory = LinuxMemoryBuilder::default().limit(bytes);
            if self.swap {
                // Memory and swap together: no swap.
                memory = memory.swap(bytes);
            }
            resources.set_memory(Some(memory.build()?));
        }
        if let Some((request, limit)) = self.cpu {
            // As Kubernetes has it: 1,024 shares a processor; a tenth of a second as the period.
            let cpu = LinuxCpuBuilder::default()
                .shares((u64::from(request) * 1024 / 1000).max(2))
                .quota(i64::from(limit) * 100)
                .period(100_000_u64);
            resources.set_cpu(Some(cpu.build()?));
        }
        if let Some(count) = self.pids {
            resources.set_pids(Some(LinuxPidsBuilder::default().limit(count).build()?));
        }
        Ok(resources)
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

/// `config.json`. Every default of the library that would add to it is replaced.
///
/// # Errors
/// None that depend on `bundle`: the seccomp profile is part of the program, and a test parses it.
pub fn config(bundle: &Bundle<'_>) -> Result<Spec, OciSpecError> {
    let mut spec = Spec::default();
    spec.set_version("1.0.2".into())
        .set_process(Some(process(bundle)?))
        .set_root(Some(root(bundle.root)))
        .set_hostname(Some(bundle.hostname.to_owned()))
        .set_mounts(Some(mounts(bundle)?))
        .set_linux(Some(linux(bundle)?))
        .set_annotations(None);
    Ok(spec)
}

fn process(bundle: &Bundle<'_>) -> Result<Process, OciSpecError> {
    let limit = |kind, value: u64| {
        PosixRlimitBuilder::default()
            .typ(kind)
            .hard(value)
            .soft(value)
            .build()
    };
    let limits = match bundle.user_namespace {
        Some(_) => None,
        None => Some(vec![
            limit(PosixRlimitType::RlimitNofile, bundle.open_files)?,
            limit(PosixRlimitType::RlimitCore, 0)?,
        ]),
    };
    let capabilities = || Some(CAPABILITIES.into_iter().collect());
    let mut all = LinuxCapabilities::default();
    all.set_bounding(capabilities())
        .set_effective(capabilities())
        .set_permitted(capabilities())
        .set_inheritable(None)
        .set_ambient(None);
    let mut process = Process::default();
    process
        .set_args(Some(vec![SANDBOXD_PATH.to_owned()]))
        .set_env(Some(vec![format!("PATH={PATH}")]))
        .set_capabilities(Some(all))
        .set_rlimits(limits)
        .set_oom_score_adj(Some(OOM_SCORE));
    Ok(process)
}

fn root(path: &Path) -> Root {
    let mut root = Root::default();
    root.set_path(path.to_owned()).set_readonly(None);
    root
}

fn mounts(bundle: &Bundle<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let mount = |kind: &str, source: &Path, target: &Path, options: &[&str]| {
        MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(source)
            .options(
                options
                    .iter()
                    .map(|option| (*option).to_owned())
                    .collect::<Vec<_>>(),
            )
            .build()
    };
    let virtual_fs =
        |kind: &str, target: &str, options: &[&str]| mount(kind, Path::new(kind), Path::new(target), options);
    let bind = |source: &Path, target: &Path, options: &[&str]| mount("bind", source, target, options);
    let mut mounts = vec![
        virtual_fs("proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        virtual_fs(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        virtual_fs(
            "devpts",
            "/dev/pts",
            &[
                PTYS,
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        virtual_fs(
            "tmpfs",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=256m"],
        )?,
        virtual_fs("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"])?,
        virtual_fs(
            "tmpfs",
            "/sys",
            &["nosuid", "noexec", "nodev", "mode=755", "size=64k"],
        )?,
    ];
    if bundle.cgroup.is_some() {
        // The limits, by which runtimes choose their heaps and threads. Of its cgroup namespace: what
        // is above the sandbox's group is not there.
        mounts.push(virtual_fs(
            "cgroup",
            "/sys/fs/cgroup",
            &["ro", "nosuid", "noexec", "nodev"],
        )?);
    }
    for path in bundle.sys {
        mounts.push(bind(path, path, &["bind", "ro", "nosuid", "noexec", "nodev"])?);
    }
    for (source, target) in bundle.read_only {
        mounts.push(bind(source, target, &["bind", "ro", "nodev"])?);
    }
    mounts.push(bind(bundle.home, Path::new(HOME), &["bind", "nosuid", "nodev"])?);
    mounts.push(bind(
        bundle.sandboxd,
        Path::new(SANDBOXD_PATH),
        &["bind", "ro", "nosuid", "nodev"],
    )?);
    Ok(mounts)
}

fn linux(bundle: &Bundle<'_>) -> Result<Linux, OciSpecError> {
    let ids = id_mappings(bundle.ids)?;
    let owned = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
    let mut linux = Linux::default();
    linux
        .set_uid_mappings(Some(ids.clone()))
        .set_gid_mappings(Some(ids))
        .set_namespaces(Some(namespaces(bundle)?))
        .set_seccomp(Some(seccomp()?))
        .set_masked_paths(owned(&MASKED))
        .set_readonly_paths(owned(&READ_ONLY))
        .set_resources(Some(bundle.limits.resources()?))
        .set_cgroups_path(bundle.cgroup.map(PathBuf::from));
    Ok(linux)
}

/// The ranges in the configuration's form.
///
/// # Errors
/// None: every required field is set.
pub fn id_mappings(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>, OciSpecError> {
    let mut next = 0;
    ranges
        .iter()
        .map(|range| {
            let first = next;
            next += range.count;
            LinuxIdMappingBuilder::default()
                .container_id(first)
                .host_id(range.first)
                .size(range.count)
                .build()
        })
        .collect()
}

/// A runtime joins a user namespace before it joins others, and in it may not join a network
/// namespace that belongs to the machine. So it is started in that one.
fn namespaces(bundle: &Bundle<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let mut namespaces = Vec::new();
    for kind in [Pid, Ipc, Uts, Mount, Cgroup] {
        namespaces.push(LinuxNamespaceBuilder::default().typ(kind).build()?);
    }
    let user = LinuxNamespaceBuilder::default().typ(User);
    if let Some(path) = bundle.user_namespace {
        namespaces.push(user.path(path).build()?);
    } else {
        namespaces.push(user.build()?);
        let network = LinuxNamespaceBuilder::default().typ(Network);
        namespaces.push(network.path(bundle.network_namespace).build()?);
    }
    Ok(namespaces)
}

/// The seccomp profile of every container.
///
/// # Errors
/// None: a test parses it.
pub fn seccomp() -> Result<LinuxSeccomp, OciSpecError> {
    Ok(serde_json::from_str(SECCOMP)?)
}

#[cfg(test)]
mod tests {
    use fsa_model::Size;
    use serde_json::{Value, json};

    use super::*;
    use crate::runner::cgroup::Cgroups;

    /// The profile as the runtime gets it.
    fn seccomp() -> Value {
        serde_json::to_value(super::seccomp().unwrap()).unwrap()
    }

    fn actions(name: &str) -> Vec<String> {
        seccomp()["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule["names"].as_array().unwrap().contains(&json!(name)))
            .map(|rule| rule["action"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn system_calls_that_could_escape_a_sandbox_are_refused() {
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
            assert_eq!(actions(name), ["SCMP_ACT_ERRNO"], "{name}");
        }
        for name in ["io_uring_setup", "clone3"] {
            assert!(
                actions(name).is_empty(),
                "{name} has another action than the default"
            );
        }
        assert_eq!(seccomp()["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn no_system_call_has_two_actions() {
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
    fn a_limit_that_cannot_be_enforced_is_not_set() {
        let none = Limits::of(&Size::Micro.resources(), &Cgroups::default());
        let none = serde_json::to_value(none.resources().unwrap()).unwrap();
        assert!(none.get("memory").is_none() && none.get("cpu").is_none() && none.get("pids").is_none());
        let mut some = Cgroups::default();
        (some.memory, some.cpu) = (true, true);
        let limits = Limits::of(&Size::Micro.resources(), &some);
        let limits = serde_json::to_value(limits.resources().unwrap()).unwrap();
        assert_eq!(limits["memory"], json!({"limit": 256 << 20}));
        assert_eq!(
            limits["cpu"],
            json!({"shares": 20, "quota": 20_000, "period": 100_000})
        );
    }

    #[test]
    fn the_library_keeps_every_rule_of_the_seccomp_profile() {
        assert_eq!(seccomp(), serde_json::from_str::<Value>(SECCOMP).unwrap());
    }

    #[test]
    fn the_configuration_holds_what_is_set_here_and_no_default_of_the_library() {
        let limits = Limits {
            memory: Some(1 << 20),
            swap: true,
            cpu: Some((100, 2000)),
            pids: Some(64),
        };
        let bundle = Bundle {
            root: Path::new("/r"),
            hostname: "todo",
            user_namespace: Some(Path::new("/u")),
            network_namespace: Path::new("/n"),
            open_files: 99,
            ids: &[IdRange { first: 7, count: 1 }, IdRange { first: 9, count: 2 }],
            home: Path::new("/h"),
            sandboxd: Path::new("/s"),
            read_only: &[("/a".into(), "/usr".into())],
            cgroup: Some("/fsa/x"),
            limits,
            sys: &["/sys/devices/system/cpu".into()],
        };
        let mut config = serde_json::to_value(config(&bundle).unwrap()).unwrap();
        // A set in the library, so its order changes.
        for set in ["bounding", "effective", "permitted"] {
            let names = config["process"]["capabilities"][set].as_array_mut().unwrap();
            names.sort_by_key(|name| name.as_str().unwrap().to_owned());
        }
        let capabilities = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FOWNER",
            "CAP_FSETID",
            "CAP_KILL",
            "CAP_NET_BIND_SERVICE",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SYS_CHROOT",
        ];
        let mapping =
            json!([{"containerID": 0, "hostID": 7, "size": 1}, {"containerID": 1, "hostID": 9, "size": 2}]);
        let expected = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": ["/.fsa/sandboxd"],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
                "oomScoreAdj": 500,
                "noNewPrivileges": true,
            },
            "root": {"path": "/r"},
            "hostname": "todo",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": [PTYS, "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=256m"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                    "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "noexec", "nodev", "mode=755", "size=64k"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": ["ro", "nosuid", "noexec", "nodev"]},
                {"destination": "/sys/devices/system/cpu", "type": "bind", "source": "/sys/devices/system/cpu",
                    "options": ["bind", "ro", "nosuid", "noexec", "nodev"]},
                {"destination": "/usr", "type": "bind", "source": "/a", "options": ["bind", "ro", "nodev"]},
                {"destination": HOME, "type": "bind", "source": "/h", "options": ["bind", "nosuid", "nodev"]},
                {"destination": "/.fsa/sandboxd", "type": "bind", "source": "/s",
                    "options": ["bind", "ro", "nosuid", "nodev"]},
            ],
            "linux": {
                "uidMappings": mapping,
                "gidMappings": mapping,
                "namespaces": [
                    {"type": "pid"},
                    {"type": "ipc"},
                    {"type": "uts"},
                    {"type": "mount"},
                    {"type": "cgroup"},
                    {"type": "user", "path": "/u"},
                ],
                "seccomp": serde_json::from_str::<Value>(SECCOMP).unwrap(),
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 1 << 20, "swap": 1 << 20},
                    "cpu": {"shares": 102, "quota": 200_000, "period": 100_000},
                    "pids": {"limit": 64},
                },
                "cgroupsPath": "/fsa/x",
            },
        });
        assert_eq!(config, expected);

        let other_runtime = Bundle {
            user_namespace: None,
            ..bundle
        };
        let config = serde_json::to_value(super::config(&other_runtime).unwrap()).unwrap();
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({"type": "user"})));
        assert!(namespaces.contains(&json!({"type": "network", "path": "/n"})));
        assert_eq!(
            config["process"]["rlimits"][0],
            json!({"type": "RLIMIT_NOFILE", "hard": 99, "soft": 99})
        );
    }
}

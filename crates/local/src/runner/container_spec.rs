//! OCI configuration that every container has, of a sandbox or of a database server: the seccomp profile, limits,
//! and what is hidden of /proc. Pure functions.

use std::path::{Path, PathBuf};

use fsa_model::Resources;
use oci_spec::{
    OciSpecError,
    runtime::{
        Capability, Linux, LinuxCapabilities, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxIdMapping,
        LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxPidsBuilder, LinuxResources,
        LinuxSeccomp, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root,
        Spec,
    },
};

use super::userns::IdRange;

/// Seccomp profile. Derived from those of the container engines, without the calls that they allow
/// to a container that may mount. Refused calls return EPERM where programs probe for a
/// permission, and ENOSYS where they have a fallback (io_uring and the older asynchronous I/O, whose
/// requests are counted for the whole machine; clone3, whose flags a filter cannot see). No
/// namespaces, one architecture. Sockets are those of Unix, of IPv4 and IPv6, and of netlink for
/// routes and for lists of sockets: each other family is code of the kernel that any program could
/// load and reach.
pub(super) const SECCOMP: &str = include_str!("seccomp.json");

/// Masked, because they reveal things about the machine or its other sandboxes.
pub(super) const MASKED: [&str; 9] = [
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
pub(super) const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

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

/// `config.json`. Every default of the library that would add to it is replaced.
#[must_use]
pub fn spec(process: Process, root: Root, hostname: &str, mounts: Vec<Mount>, linux: Linux) -> Spec {
    let mut spec = Spec::default();
    spec.set_version("1.0.2".into())
        .set_process(Some(process))
        .set_root(Some(root))
        .set_hostname(Some(hostname.to_owned()))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux))
        .set_annotations(None);
    spec
}

/// The limits of each process. A runtime that joins a user namespace is started with them instead.
///
/// # Errors
/// None: every required field is set.
pub fn rlimits(
    user_namespace: Option<&Path>,
    open_files: u64,
) -> Result<Option<Vec<PosixRlimit>>, OciSpecError> {
    if user_namespace.is_some() {
        return Ok(None);
    }
    let limit = |kind, value: u64| {
        PosixRlimitBuilder::default()
            .typ(kind)
            .hard(value)
            .soft(value)
            .build()
    };
    Ok(Some(vec![
        limit(PosixRlimitType::RlimitNofile, open_files)?,
        limit(PosixRlimitType::RlimitCore, 0)?,
    ]))
}

/// These capabilities and no others.
#[must_use]
pub fn capabilities(allowed: &[Capability]) -> LinuxCapabilities {
    let set = || Some(allowed.iter().copied().collect());
    let mut all = LinuxCapabilities::default();
    all.set_bounding(set())
        .set_effective(set())
        .set_permitted(set())
        .set_inheritable(None)
        .set_ambient(None);
    all
}

/// One mount.
///
/// # Errors
/// None: every required field is set.
pub fn mount(kind: &str, source: &Path, target: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
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
}

/// The isolation of a container, with the namespaces that it has.
///
/// # Errors
/// None that depend on the input: the seccomp profile is part of the program, and a test parses it.
pub fn linux(
    ids: &[IdRange],
    namespaces: Vec<LinuxNamespace>,
    limits: Limits,
    cgroup: Option<&str>,
) -> Result<Linux, OciSpecError> {
    let ids = id_mappings(ids)?;
    let owned = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
    let mut linux = Linux::default();
    linux
        .set_uid_mappings(Some(ids.clone()))
        .set_gid_mappings(Some(ids))
        .set_namespaces(Some(namespaces))
        .set_seccomp(Some(seccomp()?))
        .set_masked_paths(owned(&MASKED))
        .set_readonly_paths(owned(&READ_ONLY))
        .set_resources(Some(limits.resources()?))
        .set_cgroups_path(cgroup.map(PathBuf::from));
    Ok(linux)
}

/// The ranges in the configuration's form.
fn id_mappings(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>, OciSpecError> {
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

/// The seccomp profile of every container.
fn seccomp() -> Result<LinuxSeccomp, OciSpecError> {
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
}

//! OCI runtime configuration of a sandbox (`config.json`, OCI runtime specification 1.0.2): a pure
//! function. It holds no secret.

use std::path::{Path, PathBuf};

use fsa_model::sandboxd::{HOME, SANDBOXD_PATH};
use oci_spec::{
    OciSpecError,
    runtime::{
        Capability, Linux, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, Process, Root,
        Spec,
    },
};

use super::{
    config::PATH,
    container_spec::{self, Limits, capabilities, mount, rlimits},
    userns::IdRange,
};

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
    Ok(container_spec::spec(
        process(bundle)?,
        root(bundle.root),
        bundle.hostname,
        mounts(bundle)?,
        linux(bundle)?,
    ))
}

fn process(bundle: &Bundle<'_>) -> Result<Process, OciSpecError> {
    let mut process = Process::default();
    process
        .set_args(Some(vec![SANDBOXD_PATH.to_owned()]))
        .set_env(Some(vec![format!("PATH={PATH}")]))
        .set_capabilities(Some(capabilities(&CAPABILITIES)))
        .set_rlimits(rlimits(bundle.user_namespace, bundle.open_files)?)
        .set_oom_score_adj(Some(OOM_SCORE));
    Ok(process)
}

fn root(path: &Path) -> Root {
    let mut root = Root::default();
    root.set_path(path.to_owned()).set_readonly(None);
    root
}

fn mounts(bundle: &Bundle<'_>) -> Result<Vec<Mount>, OciSpecError> {
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
    container_spec::linux(bundle.ids, namespaces(bundle)?, bundle.limits, bundle.cgroup)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::container_spec::{MASKED, READ_ONLY, SECCOMP},
        *,
    };

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

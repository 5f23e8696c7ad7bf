//! Container of a database server: OCI configuration, a pure function, and the mounts for it.

use std::path::{Path, PathBuf};

use oci_spec::{
    OciSpecError,
    runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, Process, Root, Spec, User},
};

use super::{
    POSTGRES_ID,
    settings::{CONFIGURATION, DATA, SOCKETS},
};
use crate::runner::{
    config::PATH,
    container_spec::{self, Limits, capabilities, mount, rlimits},
    userns::IdRange,
};

/// Where the machine itself runs out of memory, sandboxes end before database servers, and those
/// before `fsa serve` (proc(5), oom_score_adj).
const OOM_SCORE: i32 = 300;

/// The inputs of the configuration.
#[derive(Clone, Debug)]
pub struct Container<'a> {
    /// The folder with `root`, `data`, `configuration` and, for a server, `sockets`.
    pub mounts: &'a Path,
    pub command: Vec<String>,
    /// The user namespace, for a runtime that joins one. Such a runtime is started with the limit of
    /// open files.
    pub user_namespace: Option<&'a Path>,
    pub open_files: u64,
    pub ids: &'a [IdRange],
    /// Folders of the machine that are mounted read-only: source and target.
    pub read_only: &'a [(PathBuf, PathBuf)],
    /// Where it has the folder `sockets`.
    pub sockets: Option<&'a str>,
    /// The control group, where one can be made.
    pub cgroup: Option<&'a str>,
    pub limits: Limits,
}

/// `config.json`. Every default of the library that would add to it is replaced.
///
/// # Errors
/// None that depend on the input: the seccomp profile is part of the program.
pub fn config(container: &Container<'_>) -> Result<Spec, OciSpecError> {
    let mut root = Root::default();
    root.set_path(container.mounts.join("root"))
        .set_readonly(Some(true));
    Ok(container_spec::spec(
        process(container)?,
        root,
        "database",
        mounts(container)?,
        container_spec::linux(
            container.ids,
            namespaces(container)?,
            container.limits,
            container.cgroup,
        )?,
    ))
}

fn process(container: &Container<'_>) -> Result<Process, OciSpecError> {
    let mut user = User::default();
    user.set_uid(POSTGRES_ID).set_gid(POSTGRES_ID);
    let mut process = Process::default();
    process
        .set_args(Some(container.command.clone()))
        .set_user(user)
        .set_cwd(DATA.into())
        .set_env(Some(vec![
            format!("PATH={PATH}"),
            "LC_ALL=C".to_owned(),
            "TZ=UTC".to_owned(),
            format!("HOME={DATA}"),
        ]))
        .set_capabilities(Some(capabilities(&[])))
        .set_rlimits(rlimits(container.user_namespace, container.open_files)?)
        .set_oom_score_adj(Some(OOM_SCORE));
    Ok(process)
}

fn mounts(container: &Container<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let memory = |target: &str, options: &[&str]| {
        let all = [&["nosuid", "noexec", "nodev"], options].concat();
        mount("tmpfs", Path::new("tmpfs"), Path::new(target), &all)
    };
    let bind = |name: &str, target: &str, options: &[&str]| {
        let all = [&["bind", "nosuid", "noexec", "nodev"], options].concat();
        mount("bind", &container.mounts.join(name), Path::new(target), &all)
    };
    let mut mounts = vec![
        mount(
            "proc",
            Path::new("proc"),
            Path::new("/proc"),
            &["nosuid", "noexec", "nodev"],
        )?,
        mount(
            "tmpfs",
            Path::new("tmpfs"),
            Path::new("/dev"),
            &["nosuid", "strictatime", "mode=755", "size=64k"],
        )?,
        // Parallel queries. Counted for the container.
        memory("/dev/shm", &["mode=1777", "size=256m"])?,
        memory("/tmp", &["mode=1777", "size=64m"])?,
        bind("data", DATA, &[])?,
        bind("configuration", CONFIGURATION, &["ro"])?,
    ];
    if let Some(sockets) = container.sockets {
        // For the mount point.
        mounts.push(memory(SOCKETS, &["mode=755", "size=4k"])?);
        mounts.push(bind("sockets", sockets, &[])?);
    }
    for (source, target) in container.read_only {
        mounts.push(mount("bind", source, target, &["bind", "ro", "nosuid", "nodev"])?);
    }
    Ok(mounts)
}

/// The network namespace is a new one: the runtime makes it, with a loopback interface alone.
fn namespaces(container: &Container<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let mut namespaces = Vec::new();
    for kind in [Pid, Ipc, Uts, Mount, Cgroup, Network] {
        namespaces.push(LinuxNamespaceBuilder::default().typ(kind).build()?);
    }
    let user = LinuxNamespaceBuilder::default().typ(User);
    namespaces.push(match container.user_namespace {
        Some(path) => user.path(path).build()?,
        None => user.build()?,
    });
    Ok(namespaces)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_server_has_no_capability_no_network_and_of_the_machine_only_what_is_named() {
        let container = Container {
            mounts: Path::new("/m"),
            command: vec!["postgres".into()],
            user_namespace: Some(Path::new("/u")),
            open_files: 99,
            ids: &[IdRange { first: 7, count: 1 }],
            read_only: &[("/m/usr".into(), "/usr".into())],
            sockets: Some("/run/postgresql/v"),
            cgroup: Some("/fsa/x"),
            limits: Limits::default(),
        };
        let config = serde_json::to_value(config(&container).unwrap()).unwrap();

        assert_eq!(config["process"]["user"], json!({"uid": 999, "gid": 999}));
        assert_eq!(config["process"]["noNewPrivileges"], json!(true));
        for set in ["bounding", "effective", "permitted"] {
            assert_eq!(config["process"]["capabilities"][set], json!([]), "{set}");
        }
        assert_eq!(config["root"], json!({"path": "/m/root", "readonly": true}));
        let bound: Vec<_> = config["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|mount| mount["type"] == "bind")
            .map(|mount| {
                (
                    mount["source"].as_str().unwrap(),
                    mount["destination"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            bound,
            [
                ("/m/data", "/database"),
                ("/m/configuration", "/etc/postgresql"),
                ("/m/sockets", "/run/postgresql/v"),
                ("/m/usr", "/usr"),
            ]
        );
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({"type": "network"})));
        assert!(namespaces.contains(&json!({"type": "user", "path": "/u"})));
        assert_eq!(
            config["linux"]["seccomp"],
            serde_json::from_str::<Value>(container_spec::SECCOMP).unwrap()
        );
        assert_ne!(config["linux"]["seccomp"], Value::Null);
    }
}

//! Environment variables of the processes that sandboxd starts: the boot document's, and the
//! variables that every program expects.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, sync::LazyLock};

use fsa_model::environment::path_with;
use secrecy::{ExposeSecret, SecretString};

use crate::user::{User, is_executable};

/// Variables for programs that count the machine's processors and do not read the limit of their
/// cgroup: nproc(1) and OpenMP, Python, Go before 1.25.
const PROCESSOR_VARIABLES: [&str; 3] = ["OMP_NUM_THREADS", "PYTHON_CPU_COUNT", "GOMAXPROCS"];

/// The processors that the sandbox's limit allows, where the machine has more.
static PROCESSORS: LazyLock<Option<String>> = LazyLock::new(|| {
    let machine = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let machine = (0..nix::sched::CpuSet::count())
        .filter(|cpu| machine.is_set(*cpu).unwrap_or(false))
        .count();
    // The standard library reads the quota of the cgroup as well.
    let limit = std::thread::available_parallelism().ok()?.get();
    (limit < machine).then(|| limit.to_string())
});

/// The environment of a process of `user`. Later wins: defaults, the boot document's, the user's
/// account, `extra`. A `PATH` of the boot document gets the default's entries that it lacks.
#[must_use]
pub fn of(
    user: &User,
    boot: &BTreeMap<String, SecretString>,
    extra: &BTreeMap<String, String>,
) -> Vec<(OsString, OsString)> {
    let mut all: BTreeMap<&str, OsString> = BTreeMap::new();
    all.insert("LANG", "C.UTF-8".into());
    if let Some(count) = &*PROCESSORS {
        for name in PROCESSOR_VARIABLES {
            all.insert(name, count.into());
        }
    }
    for (name, value) in boot {
        all.insert(name, value.expose_secret().into());
    }
    let path = boot.get("PATH").map_or("", |path| path.expose_secret());
    all.insert("PATH", path_with(path, &default_path(user)).into());
    all.insert("HOME", user.home.clone().into());
    all.insert("USER", user.name.clone().into());
    all.insert("LOGNAME", user.name.clone().into());
    all.insert("SHELL", shell(user, boot).into());
    for (name, value) in extra {
        all.insert(name, value.into());
    }
    // For login shells, whose /etc/profile may set PATH to something else.
    if let Some(path) = all.get("PATH").cloned() {
        all.insert("FSA_PATH", path);
    }
    all.into_iter()
        .filter(|(name, value)| is_valid(name, value))
        .map(|(name, value)| (name.into(), value))
        .collect()
}

/// The shell of a user's terminals: `SHELL` of the boot document where it is executable, else the account's. Root's is
/// always the account's.
#[must_use]
pub fn shell(user: &User, boot: &BTreeMap<String, SecretString>) -> PathBuf {
    boot.get("SHELL")
        .map(|shell| PathBuf::from(shell.expose_secret()))
        .filter(|shell| user.uid != 0 && is_executable(shell))
        .unwrap_or_else(|| user.shell.clone())
}

/// Whether the variable can be passed to exec(2): a string `NAME=value` that ends with a NUL.
fn is_valid(name: &str, value: &OsString) -> bool {
    use std::os::unix::ffi::OsStrExt;
    !name.is_empty() && !name.contains(['=', '\0']) && !value.as_bytes().contains(&0)
}

/// Default `PATH`: the person's programs first, the project's tools, then the system's.
fn default_path(user: &User) -> String {
    const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if user.uid == 0 {
        return SYSTEM.into();
    }
    let home = user.home.display();
    format!("{home}/.local/bin:{home}/.npm-global/bin:{home}/project/node_modules/.bin:{SYSTEM}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev() -> User {
        User {
            name: "dev".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            home: "/home/dev".into(),
            shell: "/bin/sh".into(),
        }
    }

    fn get<'a>(all: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
        all.iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.to_str())
    }

    #[test]
    fn the_request_wins_over_the_project_and_the_project_over_the_defaults() {
        let boot = BTreeMap::from([
            ("PATH".into(), "/opt".into()),
            ("A".into(), "1".into()),
            ("HOME".into(), "/x".into()),
        ]);
        let all = of(&dev(), &boot, &BTreeMap::from([("A".into(), "2".into())]));
        assert!(
            get(&all, "PATH")
                .unwrap()
                .starts_with("/opt:/home/dev/.local/bin:")
        );
        assert_eq!(get(&all, "A"), Some("2"));
        assert_eq!(get(&all, "HOME"), Some("/home/dev"));
        assert_eq!(get(&all, "LANG"), Some("C.UTF-8"));
    }

    #[test]
    fn a_path_that_names_no_program_hides_none() {
        let boot = BTreeMap::from([("PATH".into(), "/x".into())]);
        let all = of(&dev(), &boot, &BTreeMap::new());
        assert!(get(&all, "PATH").unwrap().ends_with(":/usr/bin:/sbin:/bin"));
        assert_eq!(get(&all, "FSA_PATH"), get(&all, "PATH"));
    }

    #[test]
    fn a_shell_of_the_project_is_used_where_it_can_be_executed() {
        let of = |user: &User, named: &str| shell(user, &BTreeMap::from([("SHELL".into(), named.into())]));
        let (dev, mut root) = (dev(), dev());
        (root.uid, root.shell) = (0, "/bin/root-shell".into());
        assert_eq!(of(&dev, "/usr/bin/env"), PathBuf::from("/usr/bin/env"));
        assert_eq!(of(&dev, "/nowhere/zsh"), dev.shell);
        assert_eq!(of(&root, "/usr/bin/env"), root.shell);
    }

    #[test]
    fn a_variable_that_exec_cannot_pass_is_skipped() {
        let extra = BTreeMap::from([
            ("A=B".into(), "1".into()),
            (String::new(), "1".into()),
            ("C".into(), "\0".into()),
        ]);
        let all = of(&dev(), &BTreeMap::new(), &extra);
        assert!(
            all.iter()
                .all(|(name, _)| !["A=B", "", "C"].contains(&name.to_str().unwrap()))
        );
    }
}

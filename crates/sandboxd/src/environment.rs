//! Environment variables of the processes that sandboxd starts: the boot document's, and the
//! variables that every program expects.

use std::{collections::BTreeMap, ffi::OsString};

use secrecy::{ExposeSecret, SecretString};

use crate::user::User;

/// The environment of a process of `user`. Later wins: defaults, the boot document's, the user's
/// account, `extra`.
#[must_use]
pub fn of(
    user: &User,
    boot: &BTreeMap<String, SecretString>,
    extra: &BTreeMap<String, String>,
) -> Vec<(OsString, OsString)> {
    let mut all: BTreeMap<&str, OsString> = BTreeMap::new();
    let path = default_path(user);
    all.insert("PATH", path.into());
    all.insert("LANG", "C.UTF-8".into());
    for (name, value) in boot {
        all.insert(name, value.expose_secret().into());
    }
    all.insert("HOME", user.home.clone().into());
    all.insert("USER", user.name.clone().into());
    all.insert("LOGNAME", user.name.clone().into());
    all.insert("SHELL", user.shell.clone().into());
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
        assert_eq!(get(&all, "PATH"), Some("/opt"));
        assert_eq!(get(&all, "A"), Some("2"));
        assert_eq!(get(&all, "HOME"), Some("/home/dev"));
        assert_eq!(get(&all, "LANG"), Some("C.UTF-8"));
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

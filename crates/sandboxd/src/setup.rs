//! Setup of the sandbox: the person's account and folders, host name, DNS, PATH.
//!
//! Images are arbitrary and their root file system may be read-only, so each step is tried
//! separately, and a step that fails is reported and skipped.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink},
    path::Path,
};

use fsa_model::sandboxd::{USER_ID, USER_NAME};

use crate::user::{self, Accounts, User};

/// Script in `/etc/profile.d`: `/etc/profile` may reset `PATH` (Debian's sets it to a fixed value).
/// The script puts the original entries back in front, so that a login shell finds what exec and the
/// start command find.
const PROFILE: &str = "\
# Written by the sandbox: puts back what /etc/profile takes out of PATH.
if [ -n \"$FSA_PATH\" ]; then
  fsa_rest=$PATH PATH=$FSA_PATH fsa_ifs=$IFS IFS=:
  for fsa_dir in $fsa_rest; do
    case \":$PATH:\" in *\":$fsa_dir:\"*) ;; *) PATH=$PATH:$fsa_dir ;; esac
  done
  IFS=$fsa_ifs
  unset fsa_rest fsa_ifs fsa_dir
  export PATH
fi
";

/// Runs all steps. Returns a sentence for each step that failed.
pub fn prepare(accounts: &Accounts, home: &Path, hostname: &str, nameservers: &[String]) -> Vec<String> {
    let mut missing = Vec::new();
    let mut tried = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            missing.push(format!("{what}: {error}"));
        }
    };
    let etc = accounts.etc();
    if accounts.switches() {
        tried("the user `dev` could not be added", add_account(etc, home));
    }
    if let Ok(user) = accounts.find(None) {
        tried(
            "the home folder could not be prepared",
            folders(etc, home, &user, accounts.switches()),
        );
    }
    if !nameservers.is_empty() {
        tried(
            "resolv.conf could not be written",
            fs::write(etc.join("resolv.conf"), resolv_conf(nameservers)),
        );
    }
    if accounts.switches() {
        tried(
            "the host name could not be added to hosts",
            add_host(&etc.join("hosts"), hostname),
        );
        tried(
            "the PATH of login shells could not be set",
            add_profile(&etc.join("profile.d")),
        );
    }
    missing
}

fn add_account(etc: &Path, home: &Path) -> io::Result<()> {
    let passwd = fs::read_to_string(etc.join("passwd")).unwrap_or_default();
    if user::entry_of_uid(&passwd, USER_ID).is_some() {
        return Ok(());
    }
    // A `dev` with another id is another user of that image; the id is what counts for files.
    let name = if user::entries(&passwd).any(|entry| entry.name == USER_NAME) {
        "fsa-dev"
    } else {
        USER_NAME
    };
    let shell = user::shell("");
    let line = format!(
        "{name}:x:{USER_ID}:{USER_ID}::{}:{}\n",
        home.display(),
        shell.display()
    );
    append(&etc.join("passwd"), &passwd, &line)?;
    let group = fs::read_to_string(etc.join("group")).unwrap_or_default();
    let exists = group
        .lines()
        .any(|line| line.split(':').nth(2).is_some_and(|id| id.parse() == Ok(USER_ID)));
    if exists {
        Ok(())
    } else {
        append(&etc.join("group"), &group, &format!("{name}:x:{USER_ID}:\n"))
    }
}

/// Appends a line to a text file. `before`: its current content, which may lack the last line end.
fn append(path: &Path, before: &str, line: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)?;
    let gap = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    file.write_all(format!("{gap}{line}").as_bytes())
}

/// Creates the home and the project folder, and makes the person their owner. The owner of their
/// content is not changed: it may be large, and may belong to others on purpose. Without root
/// nothing is changed, so a home that is accessible through a group works as well.
fn folders(etc: &Path, home: &Path, user: &User, root: bool) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(home)?;
    let own = |path: &Path| -> io::Result<()> {
        let found = fs::symlink_metadata(path)?;
        if !root || !found.is_dir() || (found.uid(), found.gid()) == (user.uid, user.gid) {
            return Ok(());
        }
        lchown(path, Some(user.uid), Some(user.gid))
    };
    own(home)?;
    // With the person's file system ids: the content of the home is the person's, and a link there
    // must not lead process 1 elsewhere.
    user::with_fs_ids_of(user, || -> io::Result<()> {
        if fs::read_dir(home)?.next().is_none() {
            seed(&etc.join("skel"), home, 0)?;
        }
        match fs::DirBuilder::new().mode(0o755).create(home.join("project")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    })??;
    own(&home.join("project"))
}

/// Copies `/etc/skel` into an empty home, at most three levels of folders deep.
fn seed(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            if depth < 3 {
                seed(&entry.path(), &target, depth + 1)?;
            }
        } else if kind.is_file() {
            fs::write(&target, fs::read(entry.path())?)?;
            fs::set_permissions(
                &target,
                fs::Permissions::from_mode(entry.metadata()?.mode() & 0o777),
            )?;
        }
    }
    Ok(())
}

fn resolv_conf(nameservers: &[String]) -> String {
    nameservers
        .iter()
        .fold(String::new(), |text, server| text + "nameserver " + server + "\n")
}

fn add_host(path: &Path, hostname: &str) -> io::Result<()> {
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned()
        }
        other => other?,
    };
    match with_host(&before, hostname) {
        Some(text) => fs::write(path, text),
        None => Ok(()),
    }
}

/// `hosts` with the name added; `None` when it has the name already.
fn with_host(hosts: &str, hostname: &str) -> Option<String> {
    let exists = hosts
        .lines()
        .filter_map(|line| line.split('#').next())
        .any(|line| line.split_whitespace().skip(1).any(|name| name == hostname));
    if exists || hostname.is_empty() {
        return None;
    }
    let gap = if hosts.is_empty() || hosts.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    Some(format!("{hosts}{gap}127.0.1.1 {hostname}\n"))
}

fn add_profile(folder: &Path) -> io::Result<()> {
    let path = folder.join("fsa.sh");
    if !folder.is_dir() || path.exists() {
        return Ok(());
    }
    fs::write(path, PROFILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_added_once() {
        let hosts = "127.0.0.1 localhost # box\n10.0.0.1 other";
        let added = with_host(hosts, "box").unwrap();
        assert_eq!(
            added,
            "127.0.0.1 localhost # box\n10.0.0.1 other\n127.0.1.1 box\n"
        );
        assert_eq!(with_host(&added, "box"), None);
    }

    #[test]
    fn an_account_is_added_to_files_that_lack_the_last_line_end() {
        let etc = tempfile::tempdir().unwrap();
        fs::write(etc.path().join("passwd"), "root:x:0:0::/root:/bin/sh").unwrap();
        for _ in 0..2 {
            add_account(etc.path(), Path::new("/home/dev")).unwrap();
        }
        let passwd = fs::read_to_string(etc.path().join("passwd")).unwrap();
        assert_eq!(passwd.lines().count(), 2, "{passwd}");
        assert!(
            passwd
                .lines()
                .nth(1)
                .unwrap()
                .starts_with("dev:x:1000:1000::/home/dev:"),
            "{passwd}"
        );
        assert_eq!(
            fs::read_to_string(etc.path().join("group")).unwrap(),
            "dev:x:1000:\n"
        );
    }

    #[test]
    fn a_home_of_another_owner_is_used_when_owners_cannot_be_changed() {
        let home = tempfile::tempdir().unwrap();
        let me = User {
            name: "dev".into(),
            // Not the folder's owner, as with a volume that is given to a group.
            uid: nix::unistd::geteuid().as_raw(),
            gid: 4_000_000,
            groups: vec![],
            home: home.path().to_owned(),
            shell: "/bin/sh".into(),
        };
        folders(home.path(), home.path(), &me, false).unwrap();
        let project = fs::symlink_metadata(home.path().join("project")).unwrap();
        assert_ne!(project.gid(), 4_000_000);
    }

    #[test]
    fn another_user_with_the_id_is_not_changed() {
        let etc = tempfile::tempdir().unwrap();
        let passwd = "node:x:1000:1000::/home/node:/bin/sh\n";
        fs::write(etc.path().join("passwd"), passwd).unwrap();
        add_account(etc.path(), Path::new("/home/dev")).unwrap();
        assert_eq!(fs::read_to_string(etc.path().join("passwd")).unwrap(), passwd);
    }

    #[test]
    fn the_profile_script_puts_the_original_path_back_in_front() {
        let script = format!("{PROFILE}echo $PATH");
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", "/usr/bin:/opt/x")
            .env("FSA_PATH", "/home/dev/.local/bin:/usr/bin")
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "/home/dev/.local/bin:/usr/bin:/opt/x"
        );
    }
}

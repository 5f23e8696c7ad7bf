//! Setup of the sandbox: the user's account and folders, host name, DNS, PATH, and the files and folders that container
//! engines provide to every image.
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
const PROFILE_SCRIPT: &str = "\
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

/// Folders that every program expects, below the root folder, with their modes.
const REQUIRED_FOLDERS: [(&str, u32); 4] = [
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
    ("run", 0o755),
    ("root", 0o700),
];

/// The C library's own default asks DNS before `hosts`.
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
                        protocols: files\nservices: files\n";

/// `sudo` for images without one. For root it runs the command, because installers call `sudo` also as root.
const SUDO_SCRIPT: &str = "\
#!/bin/sh
# Written by the sandbox: the real sudo cannot work, because no process here may gain privileges.
if [ \"$(id -u)\" = 0 ]; then
  while :; do
    case $1 in
      -E | -H | -n | -S) shift ;;
      --) shift; break ;;
      *) break ;;
    esac
  done
  exec env \"$@\"
fi
read -r fsa_project </proc/sys/kernel/hostname
echo \"sudo: no process in a sandbox may gain privileges; root's commands run from outside, with: fsa exec --user root $fsa_project -- $*\" >&2
exit 1
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
        let path = etc.join("resolv.conf");
        tried(
            "resolv.conf could not be written",
            remove_dangling(&path).and_then(|()| fs::write(&path, resolv_conf(nameservers))),
        );
    }
    if accounts.switches() {
        for (name, result) in ensure_etc_files(etc, hostname) {
            tried(&format!("{name} could not be written"), result);
        }
        tried(
            "the PATH of login shells could not be set",
            add_profile(&etc.join("profile.d")),
        );
        if let Some(root) = etc.parent() {
            for (name, mode) in REQUIRED_FOLDERS {
                tried(
                    &format!("/{name} could not be created"),
                    ensure_folder(&root.join(name), mode),
                );
            }
            tried("sudo could not be written", add_sudo(root));
        }
    }
    missing
}

/// Writes the files in `/etc` that container engines provide to every image, if they are absent or incomplete.
fn ensure_etc_files(etc: &Path, hostname: &str) -> [(&'static str, io::Result<()>); 4] {
    let write = |name: &'static str, mode: u32, text: &dyn Fn(&str) -> io::Result<Option<String>>| {
        let path = etc.join(name);
        let result = remove_dangling(&path).and_then(|()| {
            let before = match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                other => other?,
            };
            match text(&before)? {
                Some(text) => {
                    fs::write(&path, text)?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                }
                None => Ok(()),
            }
        });
        (name, result)
    };
    [
        write("hosts", 0o644, &|before| Ok(with_hosts(before, hostname))),
        write("hostname", 0o644, &|before| {
            Ok((before.trim() != hostname && !hostname.is_empty()).then(|| format!("{hostname}\n")))
        }),
        write("nsswitch.conf", 0o644, &|before| {
            Ok(before.trim().is_empty().then(|| NSSWITCH.to_owned()))
        }),
        write("machine-id", 0o444, &|before| {
            if !["", "uninitialized"].contains(&before.trim()) {
                return Ok(None);
            }
            let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
            Ok(Some(id.replace('-', "")))
        }),
    ]
}

/// Removes a dangling link, such as `resolv.conf` of many images to a file of systemd, so that a file can be created
/// under its name.
fn remove_dangling(path: &Path) -> io::Result<()> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link && !path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    }
}

/// Creates the folder. A world-writable one gets exactly this mode, an existing other one keeps its mode.
fn ensure_folder(path: &Path, mode: u32) -> io::Result<()> {
    remove_dangling(path)?;
    match fs::metadata(path) {
        Ok(found) if mode & 0o002 == 0 || found.mode() & 0o7777 == mode => return Ok(()),
        Ok(_) => {}
        Err(_) => fs::create_dir_all(path)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Writes `sudo` if the image has none and its program folder is writable.
fn add_sudo(root: &Path) -> io::Result<()> {
    let exists = [
        "usr/local/sbin",
        "usr/local/bin",
        "usr/sbin",
        "usr/bin",
        "sbin",
        "bin",
    ]
    .iter()
    .any(|folder| fs::symlink_metadata(root.join(folder).join("sudo")).is_ok());
    if exists {
        return Ok(());
    }
    let folder = root.join("usr/local/bin");
    let written = fs::create_dir_all(&folder).and_then(|()| {
        let path = folder.join("sudo");
        fs::write(&path, SUDO_SCRIPT)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
    });
    match written {
        // The machine's own /usr, in the template `host`.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        other => other,
    }
}

/// Adds the accounts that the image lacks, root's and the person's, with their groups. The account with the person's id
/// gets the person's home, whatever its name: programs such as ssh read it there, and not in `HOME`.
fn add_account(etc: &Path, home: &Path) -> io::Result<()> {
    fs::create_dir_all(etc)?;
    let path = etc.join("passwd");
    let mut passwd = fs::read_to_string(&path).unwrap_or_default();
    let shell = user::shell("");
    let shell = shell.display();
    if user::entry_of_uid(&passwd, 0).is_none() {
        let line = format!("root:x:0:0:root:/root:{shell}\n");
        append(&path, &passwd, &line)?;
        add_group(etc, 0, "root")?;
        passwd = fs::read_to_string(&path)?;
    }
    if let Some(entry) = user::entry_of_uid(&passwd, USER_ID) {
        add_group(etc, entry.gid, entry.name)?;
        return match with_home(&passwd, &home.display().to_string()) {
            Some(changed) => replace(&path, &changed),
            None => Ok(()),
        };
    }
    // A `dev` with another id is another user of that image; the id is what counts for files.
    let name = if user::entries(&passwd).any(|entry| entry.name == USER_NAME) {
        "fsa-dev"
    } else {
        USER_NAME
    };
    let line = format!("{name}:x:{USER_ID}:{USER_ID}::{}:{shell}\n", home.display());
    append(&path, &passwd, &line)?;
    add_group(etc, USER_ID, name)
}

/// Adds a group with this id, unless there is one.
fn add_group(etc: &Path, gid: u32, name: &str) -> io::Result<()> {
    let path = etc.join("group");
    let group = fs::read_to_string(&path).unwrap_or_default();
    let exists = group
        .lines()
        .any(|line| line.split(':').nth(2).is_some_and(|id| id.parse() == Ok(gid)));
    if exists {
        Ok(())
    } else {
        append(&path, &group, &format!("{name}:x:{gid}:\n"))
    }
}

/// `passwd` with this home for the account with the person's id; `None` where it has it already.
fn with_home(passwd: &str, home: &str) -> Option<String> {
    if user::entry_of_uid(passwd, USER_ID)?.home == home {
        return None;
    }
    let mut done = false;
    let lines: Vec<String> = passwd
        .lines()
        .map(|line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            let found = user::entry_of_uid(line, USER_ID).is_some() && !done;
            if found && let Some(field) = fields.get_mut(5) {
                done = true;
                *field = home;
            }
            fields.join(":")
        })
        .collect();
    Some(lines.join("\n") + "\n")
}

/// Replaces a file of `/etc`, all at once.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("fsa-new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
    fs::rename(new, path)
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

/// `hosts` with `localhost`, of both versions of the protocol, and the host name; `None` when it has them already.
fn with_hosts(hosts: &str, hostname: &str) -> Option<String> {
    let lines: Vec<Vec<&str>> = hosts
        .lines()
        .filter_map(|line| line.split('#').next())
        .map(|line| line.split_whitespace().collect())
        .collect();
    let has = |name: &str, of: &dyn Fn(&str) -> bool| {
        lines.iter().any(|words| {
            words
                .split_first()
                .is_some_and(|(address, names)| of(address) && names.contains(&name))
        })
    };
    let mut text = hosts.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let before = text.len();
    if !has("localhost", &|address| address.starts_with("127.")) {
        text.push_str("127.0.0.1 localhost\n");
    }
    if !has("localhost", &|address| address == "::1") {
        text.push_str("::1 localhost ip6-localhost ip6-loopback\n");
    }
    if !hostname.is_empty() && !has(hostname, &|_| true) {
        text.push_str("127.0.1.1 ");
        text.push_str(hostname);
        text.push('\n');
    }
    (text.len() > before).then_some(text)
}

fn add_profile(folder: &Path) -> io::Result<()> {
    let path = folder.join("fsa.sh");
    if !folder.is_dir() || path.exists() {
        return Ok(());
    }
    fs::write(path, PROFILE_SCRIPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_hosts_are_added_once() {
        let hosts = "127.0.0.1 localhost # box\n10.0.0.1 other";
        let added = with_hosts(hosts, "box").unwrap();
        assert_eq!(
            added,
            "127.0.0.1 localhost # box\n10.0.0.1 other\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 box\n"
        );
        assert_eq!(with_hosts(&added, "box"), None);
        assert_eq!(
            with_hosts("", "box").unwrap(),
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 box\n"
        );
    }

    fn written(etc: &Path, hostname: &str) {
        for (name, result) in ensure_etc_files(etc, hostname) {
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn an_image_with_an_empty_etc_gets_the_required_files() {
        let etc = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(etc.path().join(name)).unwrap();
        written(etc.path(), "box");
        assert!(read("hosts").starts_with("127.0.0.1 localhost\n::1 localhost"));
        assert_eq!(read("hostname"), "box\n");
        assert!(read("nsswitch.conf").contains("hosts: files dns\n"));
        let id = read("machine-id");
        assert!(id.trim().len() == 32 && id.trim().bytes().all(|byte| byte.is_ascii_hexdigit()));
        written(etc.path(), "renamed");
        assert_eq!(read("machine-id"), id);
        assert_eq!(read("hostname"), "renamed\n");
    }

    #[test]
    fn files_of_the_image_are_kept_and_dangling_links_replaced() {
        let etc = tempfile::tempdir().unwrap();
        let at = |name: &str| etc.path().join(name);
        fs::write(at("nsswitch.conf"), "hosts: dns\n").unwrap();
        fs::write(at("machine-id"), "0123\n").unwrap();
        symlink("../run/nowhere/hosts", at("hosts")).unwrap();
        fs::write(at("elsewhere"), "").unwrap();
        symlink("elsewhere", at("hostname")).unwrap();
        written(etc.path(), "box");
        assert_eq!(fs::read_to_string(at("nsswitch.conf")).unwrap(), "hosts: dns\n");
        assert_eq!(fs::read_to_string(at("machine-id")).unwrap(), "0123\n");
        assert!(fs::symlink_metadata(at("hosts")).unwrap().is_file());
        assert_eq!(fs::read_to_string(at("elsewhere")).unwrap(), "box\n");
    }

    #[test]
    fn nameservers_replace_a_dangling_resolv_conf() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", etc.join("resolv.conf")).unwrap();
        let accounts = Accounts::new(etc.clone(), root.path().join("home"), true);
        let missing = prepare(
            &accounts,
            &root.path().join("home"),
            "box",
            &["10.0.0.1".to_owned()],
        );
        assert_eq!(missing, Vec::<String>::new());
        assert_eq!(
            fs::read_to_string(etc.join("resolv.conf")).unwrap(),
            "nameserver 10.0.0.1\n"
        );
    }

    #[test]
    fn world_writable_folders_get_their_mode_and_others_keep_theirs() {
        let root = tempfile::tempdir().unwrap();
        let (tmp, run) = (root.path().join("tmp"), root.path().join("run"));
        for folder in [&tmp, &run] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        for (name, mode) in REQUIRED_FOLDERS {
            ensure_folder(&root.path().join(name), mode).unwrap();
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&tmp), mode(&run)), (0o1777, 0o700));
        assert_eq!(mode(&root.path().join("var/tmp")), 0o1777);
    }

    #[test]
    fn sudo_reports_a_missing_privilege_and_an_existing_one_is_kept() {
        let root = tempfile::tempdir().unwrap();
        add_sudo(root.path()).unwrap();
        let sudo = root.path().join("usr/local/bin/sudo");
        let output = std::process::Command::new("/bin/sh")
            .arg(&sudo)
            .args(["-E", "A=1", "sh", "-c", "echo $A"])
            .output()
            .unwrap();
        if nix::unistd::geteuid().is_root() {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
        } else {
            assert_eq!(output.status.code(), Some(1));
            assert!(String::from_utf8_lossy(&output.stderr).contains("fsa exec --user root"));
        }
        fs::write(&sudo, "theirs").unwrap();
        add_sudo(root.path()).unwrap();
        assert_eq!(fs::read_to_string(sudo).unwrap(), "theirs");
    }

    #[test]
    fn an_account_is_added_to_files_that_lack_the_last_line_end() {
        let etc = tempfile::tempdir().unwrap();
        fs::write(etc.path().join("passwd"), "root:x:0:0::/root:/bin/sh").unwrap();
        fs::write(etc.path().join("group"), "root:x:0:").unwrap();
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
            "root:x:0:\ndev:x:1000:\n"
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
    fn another_user_with_the_id_gets_the_home_and_keeps_the_rest() {
        let etc = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1001:U:/home/ubuntu:/bin/bash\nx:y\n";
        fs::write(etc.path().join("passwd"), passwd).unwrap();
        for _ in 0..2 {
            add_account(etc.path(), Path::new("/home/dev")).unwrap();
        }
        assert_eq!(
            fs::read_to_string(etc.path().join("passwd")).unwrap(),
            passwd.replace("/home/ubuntu", "/home/dev")
        );
        assert_eq!(
            fs::read_to_string(etc.path().join("group")).unwrap(),
            "ubuntu:x:1001:\n"
        );
    }

    #[test]
    fn an_image_without_accounts_gets_root_and_the_person() {
        let etc = tempfile::tempdir().unwrap();
        add_account(etc.path(), Path::new("/home/dev")).unwrap();
        let passwd = fs::read_to_string(etc.path().join("passwd")).unwrap();
        let names: Vec<_> = user::entries(&passwd)
            .map(|entry| (entry.name, entry.uid, entry.home))
            .collect();
        assert_eq!(names, [("root", 0, "/root"), ("dev", 1000, "/home/dev")]);
        assert_eq!(
            fs::read_to_string(etc.path().join("group")).unwrap(),
            "root:x:0:\ndev:x:1000:\n"
        );
    }

    #[test]
    fn the_profile_script_puts_the_original_path_back_in_front() {
        let script = format!("{PROFILE_SCRIPT}echo $PATH");
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

//! Base root file systems: the lowest overlay layer of every sandbox. It has the mount points that
//! any image needs, and for the template `host` the few files that programs of this machine's
//! /usr expect outside of it.
//!
//! A tree is named by the hash of its content. A tree that a running sandbox uses is never
//! changed: where the machine's own files have changed, the next start uses another tree. The
//! folder on disk is `skeletons`, which sandboxes of earlier releases have in their overlays.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    },
    path::{Path, PathBuf},
};

use fsa_model::sandboxd::{HOME, SANDBOXD_PATH, USER_ID, USER_NAME};
use sha2::{Digest as _, Sha256};

use super::database::{
    POSTGRES_ID,
    settings::{CONFIGURATION, DATA, OTHER_INSTALLATION, SOCKETS},
};

/// The parts of this machine's /etc that programs need to run. None concerns this machine's users,
/// networks or keys; files that not every user may read are skipped.
const FROM_ETC: [&str; 34] = [
    "alternatives",
    "bash.bashrc",
    "bash_completion",
    "bash_completion.d",
    "bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "mime.types",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "profile",
    "protocols",
    "services",
    "skel",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "vim",
];
/// Prefixes of files in /etc that belong to the interpreters in /usr.
const FROM_ETC_BY_PREFIX: [&str; 3] = ["python3", "java-", "postgresql-common"];
/// Bytes copied from the machine's /etc at most.
const COPY_LIMIT: u64 = 32 * 1024 * 1024;

/// The names of the trees below their folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRootfs {
    pub base: String,
    pub host: String,
    /// Of database servers.
    pub database: String,
    /// Folders of the machine that are mounted read-only in template `host`: `/usr`, and `/bin` and
    /// the like where they are not links into it.
    pub machine: Vec<PathBuf>,
}

impl BaseRootfs {
    /// Creates missing trees, and removes those that are neither current nor in `used`.
    ///
    /// # Errors
    /// The file system's.
    pub fn make(folder: &Path, used: &BTreeSet<String>) -> io::Result<Self> {
        let mut machine = vec![PathBuf::from("/usr")];
        let base = finish(folder, mount_points)?;
        let host = finish(folder, |tree| {
            mount_points(tree)?;
            host(tree, &mut machine)
        })?;
        let database = finish(folder, database)?;
        for entry in fs::read_dir(folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ![&base, &host, &database].contains(&&name) && !used.contains(&name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self {
            base,
            host,
            database,
            machine,
        })
    }
}

/// Builds a tree in a temporary folder and renames it to the hash of its content.
fn finish(folder: &Path, build: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<String> {
    let tree = tempfile::Builder::new().prefix("new-").tempdir_in(folder)?;
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755))?;
    build(tree.path())?;
    let mut hash = Sha256::new();
    fingerprint(tree.path(), Path::new(""), &mut hash)?;
    let name = hex::encode(&hash.finalize()[..8]);
    let path = folder.join(&name);
    if !path.exists() {
        fs::rename(tree.path(), &path)?;
    }
    Ok(name)
}

fn folder(tree: &Path, name: &str, mode: u32) -> io::Result<PathBuf> {
    let path = tree.join(name.trim_start_matches('/'));
    fs::create_dir_all(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

fn file(tree: &Path, name: &str, mode: u32, text: &str) -> io::Result<()> {
    let path = tree.join(name.trim_start_matches('/'));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

fn mount_points(tree: &Path) -> io::Result<()> {
    for name in ["dev", "proc", "sys", "run", "home", "etc", "var", ".fsa"] {
        folder(tree, name, 0o755)?;
    }
    for name in ["tmp", "var/tmp"] {
        folder(tree, name, 0o1777)?;
    }
    let home = folder(tree, HOME, 0o755)?;
    chown(home, Some(USER_ID), Some(USER_ID))?;
    file(tree, SANDBOXD_PATH, 0o755, "")
}

/// `/bin` and the like: links into /usr, or mount points of the machine's own folders.
fn programs(tree: &Path, machine: &mut Vec<PathBuf>) -> io::Result<()> {
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let of_machine = Path::new("/").join(name);
        match fs::read_link(&of_machine) {
            Ok(target) => symlink(target, tree.join(name))?,
            Err(_) if of_machine.is_dir() => {
                folder(tree, name, 0o755)?;
                machine.push(of_machine);
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// The root of a database server: what the dynamic linker, the C library and PostgreSQL read
/// outside of /usr, and mount points. No folder of a user.
fn database(tree: &Path) -> io::Result<()> {
    programs(tree, &mut Vec::new())?;
    for name in ["dev", "proc", "tmp", "usr", "run", "var", "etc"] {
        folder(tree, name, 0o755)?;
    }
    for name in [DATA, SOCKETS, CONFIGURATION, OTHER_INSTALLATION] {
        folder(tree, name, 0o755)?;
    }
    let mut room = COPY_LIMIT;
    for name in [
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "locale.alias",
        "localtime",
        "timezone",
    ] {
        copy(
            &Path::new("/etc").join(name),
            &tree.join("etc").join(name),
            &mut room,
        )?;
    }
    let nologin = "/usr/sbin/nologin";
    file(
        tree,
        "etc/passwd",
        0o644,
        &format!(
            "root:x:0:0:root:/:{nologin}\n\
             postgres:x:{POSTGRES_ID}:{POSTGRES_ID}::{DATA}:/bin/sh\n\
             nobody:x:65534:65534:nobody:/nonexistent:{nologin}\n"
        ),
    )?;
    file(
        tree,
        "etc/group",
        0o644,
        &format!("root:x:0:\npostgres:x:{POSTGRES_ID}:\nnogroup:x:65534:\n"),
    )?;
    file(
        tree,
        "etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nhosts: files\n",
    )?;
    file(tree, "etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")
}

fn host(tree: &Path, machine: &mut Vec<PathBuf>) -> io::Result<()> {
    programs(tree, machine)?;
    for name in [
        "usr",
        "opt",
        "srv",
        "mnt",
        "media",
        "var/lib",
        "var/cache",
        "var/log",
    ] {
        folder(tree, name, 0o755)?;
    }
    folder(tree, "root", 0o700)?;
    symlink("/run", tree.join("var/run"))?;
    symlink("/proc/mounts", tree.join("etc/mtab"))?;

    let mut names: Vec<String> = FROM_ETC.map(str::to_owned).to_vec();
    names.extend(
        fs::read_dir("/etc")?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| FROM_ETC_BY_PREFIX.iter().any(|prefix| name.starts_with(prefix))),
    );
    let mut room = COPY_LIMIT;
    for name in names {
        copy(
            &Path::new("/etc").join(&name),
            &tree.join("etc").join(&name),
            &mut room,
        )?;
    }
    if let Ok(entries) = fs::read_dir("/etc/profile.d") {
        // Scripts for login shells; those that only root may read are not for others.
        for entry in entries.flatten() {
            copy(
                &entry.path(),
                &tree.join("etc/profile.d").join(entry.file_name()),
                &mut room,
            )?;
        }
    }

    let nologin = "/usr/sbin/nologin";
    file(
        tree,
        "etc/passwd",
        0o644,
        &format!(
            "root:x:0:0:root:/root:/bin/bash\n\
             daemon:x:1:1:daemon:/usr/sbin:{nologin}\n\
             bin:x:2:2:bin:/bin:{nologin}\n\
             mail:x:8:8:mail:/var/mail:{nologin}\n\
             www-data:x:33:33:www-data:/var/www:{nologin}\n\
             {USER_NAME}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash\n\
             nobody:x:65534:65534:nobody:/nonexistent:{nologin}\n"
        ),
    )?;
    file(
        tree,
        "etc/group",
        0o644,
        &format!(
            "root:x:0:\ndaemon:x:1:\nbin:x:2:\nadm:x:4:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\n\
             utmp:x:43:\nusers:x:100:\n{USER_NAME}:x:{USER_ID}:\nnogroup:x:65534:\n"
        ),
    )?;
    file(
        tree,
        "etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
         protocols: files\nservices: files\n",
    )?;
    file(
        tree,
        "etc/hosts",
        0o644,
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    )?;
    file(tree, "etc/resolv.conf", 0o644, "")?;
    file(tree, "etc/hostname", 0o644, "")
}

/// Copies files that every user may read; all belong to root afterwards. Skips missing files, and
/// files that do not fit into `room` bytes.
fn copy(from: &Path, to: &Path, room: &mut u64) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else {
        return Ok(());
    };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return match symlink(fs::read_link(from)?, to) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
    }
    if metadata.mode() & 0o004 == 0 {
        return Ok(());
    }
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)?.flatten() {
            copy(&entry.path(), &to.join(entry.file_name()), room)?;
        }
        return Ok(());
    }
    if kind.is_file() && metadata.len() <= *room {
        *room -= metadata.len();
        fs::copy(from, to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o755))?;
    }
    Ok(())
}

/// Feeds names, kinds, modes and contents of a tree into a hash, in the order of the names.
fn fingerprint(tree: &Path, below: &Path, hash: &mut Sha256) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(tree.join(below))?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        let below = below.join(name);
        let path = tree.join(&below);
        let metadata = fs::symlink_metadata(&path)?;
        hash.update(below.as_os_str().as_bytes());
        hash.update([0]);
        hash.update(metadata.mode().to_be_bytes());
        let content = if metadata.is_symlink() {
            fs::read_link(&path)?.as_os_str().as_bytes().to_vec()
        } else if metadata.is_file() {
            fs::read(&path)?
        } else {
            Vec::new()
        };
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(&content);
        if metadata.is_dir() {
            fingerprint(tree, &below, hash)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as this module does: only root can set the owner of the home folder.
    fn base_rootfs(used: &[&str]) -> (tempfile::TempDir, BaseRootfs) {
        let folder = tempfile::tempdir().unwrap();
        for name in used {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::create_dir(folder.path().join("old")).unwrap();
        let used = used.iter().map(|name| (*name).to_owned()).collect();
        let made = BaseRootfs::make(folder.path(), &used).unwrap();
        (folder, made)
    }

    #[test]
    fn a_second_start_finds_the_same_trees_and_removes_unused_ones() {
        let (folder, first) = base_rootfs(&["in-use"]);

        let second = BaseRootfs::make(folder.path(), &BTreeSet::from(["in-use".to_owned()])).unwrap();

        assert_eq!(first, second);
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = vec![first.base, first.host, first.database, "in-use".to_owned()];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_database_server_sees_no_folder_of_a_user() {
        let (folder, made) = base_rootfs(&[]);
        let tree = folder.path().join(made.database);
        for name in [
            "home",
            "root",
            "opt",
            "srv",
            "mnt",
            "etc/shadow",
            "etc/ssl",
            "var/lib",
        ] {
            assert!(!tree.join(name).exists(), "{name}");
        }
    }

    #[test]
    fn the_host_template_has_no_users_of_this_machine() {
        let (folder, made) = base_rootfs(&[]);
        let etc = folder.path().join(made.host).join("etc");
        assert!(
            !etc.join("shadow").exists() && !etc.join("ssh").exists() && !etc.join("ssl/private").exists()
        );
        let users = fs::read_to_string(etc.join("passwd")).unwrap();
        assert_eq!(users.lines().count(), 7);
    }
}

//! User accounts of the sandbox, read from its own `passwd` and `group`; file access as one of them.
//!
//! The binary is static, so the C library's name service cannot be used; the two files are parsed
//! here, each time, because a package may add a user at any moment.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fsa_model::sandboxd::{USER_ID, USER_NAME};

/// Account, with everything that its processes need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// All groups, `gid` among them.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    pub shell: PathBuf,
}

/// Why a user name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("there is no user `{0}` in this sandbox; `dev` and `root` always exist")]
    Unknown(String),
    #[error("everything in this sandbox runs as `{0}`, which may not become `{1}`")]
    Fixed(String, String),
}

/// The accounts of the sandbox.
#[derive(Clone, Debug)]
pub struct Accounts {
    etc: PathBuf,
    home: PathBuf,
    /// Whether this process may switch to other users.
    switches: bool,
    own_uid: u32,
    own_gid: u32,
    own_groups: Vec<u32>,
}

impl Accounts {
    /// `user_mode`: never switch to another user, even if that is possible.
    #[must_use]
    pub fn new(etc: PathBuf, home: PathBuf, user_mode: bool) -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        Self {
            etc,
            home,
            switches: !user_mode && uid == 0 && may_switch(),
            own_uid: uid,
            own_gid: nix::unistd::getegid().as_raw(),
            own_groups: nix::unistd::getgroups()
                .map(|groups| groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
                .unwrap_or_default(),
        }
    }

    /// Whether processes can be given another user than this one.
    #[must_use]
    pub const fn switches(&self) -> bool {
        self.switches
    }

    /// The folder of `passwd`, `group` and the other files.
    #[must_use]
    pub fn etc(&self) -> &Path {
        &self.etc
    }

    /// The account of that name; the person's (`dev`) by default.
    ///
    /// # Errors
    /// [`UserError`], a sentence for the person.
    pub fn find(&self, name: Option<&str>) -> Result<User, UserError> {
        let passwd = fs::read_to_string(self.etc.join("passwd")).unwrap_or_default();
        let name = name.unwrap_or(USER_NAME);
        if !self.switches {
            let own = self.own(&passwd);
            return if name == USER_NAME || name == own.name {
                Ok(own)
            } else {
                Err(UserError::Fixed(own.name, name.into()))
            };
        }
        let group = fs::read_to_string(self.etc.join("group")).unwrap_or_default();
        let entry = if name == USER_NAME {
            entry_of_uid(&passwd, USER_ID).unwrap_or(Entry {
                name: USER_NAME,
                uid: USER_ID,
                gid: USER_ID,
                home: "",
                shell: "",
            })
        } else {
            match entries(&passwd).find(|entry| entry.name == name) {
                Some(entry) => entry,
                None if name == "root" => Entry {
                    name: "root",
                    uid: 0,
                    gid: 0,
                    home: "/root",
                    shell: "",
                },
                None => return Err(UserError::Unknown(name.into())),
            }
        };
        Ok(User {
            name: entry.name.into(),
            uid: entry.uid,
            gid: entry.gid,
            groups: groups_of(&group, entry.name, entry.gid),
            home: if entry.uid == USER_ID {
                self.home.clone()
            } else {
                entry.home.into()
            },
            shell: shell(entry.shell),
        })
    }

    /// The account with this id, or a nameless one: enough for file access with its ids.
    #[must_use]
    pub fn of_uid(&self, uid: u32) -> User {
        let passwd = fs::read_to_string(self.etc.join("passwd")).unwrap_or_default();
        let gid = entry_of_uid(&passwd, uid).map_or(uid, |entry| entry.gid);
        User {
            name: uid.to_string(),
            uid,
            gid,
            groups: vec![gid],
            home: "/".into(),
            shell: shell(""),
        }
    }

    fn own(&self, passwd: &str) -> User {
        let entry = entry_of_uid(passwd, self.own_uid);
        User {
            name: entry
                .as_ref()
                .map_or_else(|| USER_NAME.into(), |entry| entry.name.into()),
            uid: self.own_uid,
            gid: self.own_gid,
            groups: self.own_groups.clone(),
            home: self.home.clone(),
            shell: shell(entry.as_ref().map_or("", |entry| entry.shell)),
        }
    }
}

/// Line of `passwd`.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub uid: u32,
    pub gid: u32,
    pub home: &'a str,
    pub shell: &'a str,
}

/// The valid lines of `passwd`; invalid ones are skipped, like in the C library.
pub fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?;
        Some(Entry {
            name,
            uid,
            gid,
            home,
            shell: fields.next().unwrap_or_default(),
        })
    })
}

/// The first line with this id.
#[must_use]
pub fn entry_of_uid(passwd: &str, uid: u32) -> Option<Entry<'_>> {
    entries(passwd).find(|entry| entry.uid == uid)
}

/// `gid` and every group of `group` that has `name` among its members.
#[must_use]
pub fn groups_of(group: &str, name: &str, gid: u32) -> Vec<u32> {
    let mut groups = vec![gid];
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        if let (Some(Ok(id)), Some(members)) = (fields.next().map(str::parse), fields.next())
            && members.split(',').any(|member| member == name)
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    // Far below the kernel's NGROUPS_MAX (65,536).
    groups.truncate(1024);
    groups
}

/// The account's own shell if it is executable, else bash, else sh.
#[must_use]
pub fn shell(named: &str) -> PathBuf {
    let refuses = ["nologin", "false"].iter().any(|name| named.ends_with(name));
    if !refuses && is_executable(Path::new(named)) {
        return named.into();
    }
    ["/bin/bash", "/usr/bin/bash"]
        .iter()
        .map(PathBuf::from)
        .find(|path| is_executable(path))
        .unwrap_or_else(|| "/bin/sh".into())
}

/// Whether it is the absolute path of a file that can be executed.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    path.is_absolute()
        && fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Whether the effective capabilities have `CAP_SETGID` (6) and `CAP_SETUID` (7); user 0 of a
/// restricted container may lack them.
fn may_switch() -> bool {
    const NEEDED: u64 = 1 << 6 | 1 << 7;
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_none_or(|effective| effective & NEEDED == NEEDED)
}

/// Runs `work` with the file system ids of `user` (setfsuid(2), setfsgid(2)), on this thread only.
/// Call it on threads of the blocking pool, where nothing else runs in between.
///
/// # Errors
/// The kernel refused the ids; nothing was done.
pub fn with_fs_ids_of<T>(user: &User, work: impl FnOnce() -> T) -> io::Result<T> {
    if user.uid == nix::unistd::geteuid().as_raw() {
        return Ok(work());
    }
    let _ids = FsIds::take(user)?;
    Ok(work())
}

/// The thread has another user's file system ids until this is dropped.
struct FsIds {
    before: Vec<libc::gid_t>,
}

impl FsIds {
    fn take(user: &User) -> io::Result<Self> {
        let before = nix::unistd::getgroups()?
            .into_iter()
            .map(nix::unistd::Gid::as_raw)
            .collect();
        set_groups(&user.groups)?;
        let ids = Self { before };
        if set_fs_ids(user.uid, user.gid) {
            Ok(ids)
        } else {
            Err(io::Error::other(format!(
                "this sandbox has no user id {}, so files cannot be accessed as that user",
                user.uid
            )))
        }
    }
}

impl Drop for FsIds {
    fn drop(&mut self) {
        let restored = set_fs_ids(nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let groups = set_groups(&self.before);
        // A thread of process 1 that kept another user's ids would fail later, in unrelated code.
        assert!(
            restored && groups.is_ok(),
            "the thread could not restore its own file system ids"
        );
    }
}

/// Sets the thread's file system ids. Whether they are now those.
#[allow(unsafe_code)]
fn set_fs_ids(uid: u32, gid: u32) -> bool {
    // SAFETY: setfsuid and setfsgid take numbers, touch no memory, and concern this thread only.
    // The group is set first, while the user may still change it; the invalid id -1 changes nothing
    // and makes the calls return the current id.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        libc::setfsuid(u32::MAX).cast_unsigned() == uid && libc::setfsgid(u32::MAX).cast_unsigned() == gid
    }
}

/// Sets the supplementary groups of this thread alone (the C library's function would set those
/// of all threads).
#[allow(unsafe_code)]
fn set_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one live slice.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nnode:x:1000:1000::/home/node:/bin/sh\n";

    #[test]
    fn the_account_with_the_id_is_found_whatever_its_name() {
        let entry = entry_of_uid(PASSWD, 1000).unwrap();
        assert_eq!(
            (entry.name, entry.home, entry.shell),
            ("node", "/home/node", "/bin/sh")
        );
        assert_eq!(entries(PASSWD).count(), 2);
    }

    #[test]
    fn a_user_has_its_primary_group_and_those_that_list_it() {
        let group = "root:x:0:\nsudo:x:27:dev,node\nvideo:x:44:other\nnode:x:1000:node\n";
        assert_eq!(groups_of(group, "node", 1000), [1000, 27]);
    }

    #[test]
    fn a_shell_that_is_not_executable_is_not_used() {
        assert_ne!(shell("/usr/sbin/nologin"), Path::new("/usr/sbin/nologin"));
        assert_ne!(shell("/nowhere"), Path::new("/nowhere"));
        assert_eq!(shell("/bin/sh"), Path::new("/bin/sh"));
    }
}

//! Dropping root privileges for good, and the owners of the data folder afterwards.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::Path,
};

use nix::unistd::{Gid, Uid, User, initgroups, setresgid, setresuid};
use std::ffi::CString;

/// Folders of the data folder that belong to `fsa serve`; `runner` belongs to the runner. None is below another: root
/// would follow links that the owner of the upper one made. `fsa serve` makes what is below, without privileges.
const SERVE_FOLDERS: [&str; 6] = ["control", "projects", "run", "keys", "logs", "images"];

/// Why privileges could not be dropped.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("the system user {0:?} does not exist: create it (useradd --system --no-create-home {0})")]
    NoUser(String),
    #[error("{0:?} is root, which fsa serve must not be")]
    Root(String),
    #[error("root privileges could not be dropped ({0})")]
    Refused(#[from] io::Error),
    #[error("root privileges could be regained after they were dropped")]
    NotForGood,
    #[error("{path} cannot be prepared ({error})")]
    Folder { path: String, error: io::Error },
}

/// A system user, by name.
///
/// # Errors
/// It does not exist, or is root.
pub fn system_user(name: &str) -> Result<(u32, u32), PrivilegeError> {
    let user = User::from_name(name)
        .map_err(io::Error::from)?
        .ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))?;
    if user.uid.is_root() {
        return Err(PrivilegeError::Root(name.to_owned()));
    }
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

/// Makes the data folder and those of its folders that belong to `fsa serve`. The data folder
/// itself stays root's: its owner could replace the runner's folder.
///
/// # Errors
/// The file system's, with the path.
pub fn prepare_data_dir(data_dir: &Path, uid: u32, gid: u32) -> Result<(), PrivilegeError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error| PrivilegeError::Folder { path, error }
    };
    let new = !data_dir.exists();
    fs::create_dir_all(data_dir).map_err(failed(data_dir))?;
    // Independent of a plain user's umask: the runner refuses a folder that others can write to.
    if new || Uid::effective().is_root() {
        fs::set_permissions(data_dir, fs::Permissions::from_mode(0o755)).map_err(failed(data_dir))?;
    }
    for name in SERVE_FOLDERS {
        let path = data_dir.join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => chown(&path, Some(uid), Some(gid)).map_err(failed(&path))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    Ok(())
}

/// Becomes the system user `name`, with its groups, for good: no program started later can be
/// root again either. The process must have one thread, because two of the settings are per
/// thread.
///
/// # Errors
/// Anything short of that; the process must end then.
pub fn drop_privileges(name: &str) -> Result<(), PrivilegeError> {
    let (uid, gid) = system_user(name)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let c_name = CString::new(name).map_err(|_| PrivilegeError::NoUser(name.to_owned()))?;
    rustix::thread::set_no_new_privs(true).map_err(io::Error::from)?;
    // EINVAL: a kernel before 4.3 has no ambient capabilities to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    initgroups(&c_name, gid).map_err(io::Error::from)?;
    setresgid(gid, gid, gid).map_err(io::Error::from)?;
    // Clears the permitted and effective capabilities as well (capabilities(7)).
    setresuid(uid, uid, uid).map_err(io::Error::from)?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok()
        || setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)).is_ok()
        || Uid::current() != uid
        || Uid::effective() != uid
    {
        return Err(PrivilegeError::NotForGood);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_does_not_exist_is_named_with_what_to_do() {
        let error = system_user("no-such-user-here").unwrap_err();
        assert!(error.to_string().contains("useradd"), "{error}");
    }

    #[test]
    fn root_is_no_system_user() {
        assert!(matches!(system_user("root"), Err(PrivilegeError::Root(_))));
    }
}

//! PostgreSQL installations for database servers: the machine's packages, or the folder of the
//! setting `postgres-bin`. PATH is not searched: the runner has privileges.

use std::{
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use fsa_model::Failure;
use parking_lot::Mutex;

use super::settings::OTHER_INSTALLATION;
use crate::{
    postgres::{
        Installation, MINIMUM_MAJOR,
        binaries::{is_complete, packaged, parse_version},
    },
    protocol::machine,
    runner::{config::PATH, pidfd},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The installations that were found so far.
#[derive(Default)]
pub struct Installations(Mutex<Vec<Installation>>);

impl Installations {
    /// The installation of a release, or the newest one. Searches the machine where it is not known
    /// or no longer there.
    ///
    /// # Errors
    /// There is none: what to install.
    pub fn find(&self, setting: Option<&Path>, major: Option<u32>) -> Result<Installation, Failure> {
        let mut known = self.0.lock();
        let fits =
            |found: &&Installation| major.is_none_or(|major| found.major == major) && is_complete(&found.bin);
        // A newer release may have been installed meanwhile.
        if major.is_some()
            && let Some(found) = known.iter().find(fits)
        {
            return Ok(found.clone());
        }
        *known = search(setting);
        known.iter().find(fits).cloned().ok_or_else(|| {
            machine(match major {
                Some(major) => format!(
                    "the project's database was made by PostgreSQL {major}, which this machine does not have: \
                     install it (Debian: apt-get install postgresql-{major})"
                ),
                None => format!(
                    "no PostgreSQL server of version {MINIMUM_MAJOR} or later was found: install one (Debian: \
                     apt-get install postgresql), or name its folder of programs in the setting postgres-bin"
                ),
            })
        })
    }
}

/// Newest first.
fn search(setting: Option<&Path>) -> Vec<Installation> {
    let folders = setting.map_or_else(packaged, |folder| vec![folder.to_owned()]);
    let mut found: Vec<Installation> = folders
        .into_iter()
        .filter(|bin| is_complete(bin))
        .filter_map(|bin| {
            let major = version(&bin.join("postgres")).filter(|major| *major >= MINIMUM_MAJOR)?;
            Some(Installation { major, bin })
        })
        .collect();
    found.sort_by_key(|installation| std::cmp::Reverse(installation.major));
    found
}

fn version(program: &Path) -> Option<u32> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let ended = i32::try_from(child.id())
        .ok()
        .and_then(pidfd::open)
        .is_some_and(|fd| pidfd::readable(fd.as_fd(), TIMEOUT));
    if !ended {
        let _ = child.kill();
    }
    let output = child.wait_with_output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// An installation as a container has it: the folder of programs there, and what to mount for it
/// beside the machine's `/usr`.
pub fn in_container(installation: &Installation) -> (PathBuf, Option<PathBuf>) {
    let bin = std::fs::canonicalize(&installation.bin).unwrap_or_else(|_| installation.bin.clone());
    if bin.starts_with("/usr") {
        return (bin, None);
    }
    let name = bin.file_name().unwrap_or_default().to_owned();
    let prefix = bin.parent().unwrap_or(&bin).to_owned();
    (Path::new(OTHER_INSTALLATION).join(name), Some(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_outside_of_usr_is_mounted() {
        let installation = |bin: &str| Installation {
            major: 18,
            bin: bin.into(),
        };
        assert_eq!(
            in_container(&installation("/usr/lib/postgresql/18/bin")),
            ("/usr/lib/postgresql/18/bin".into(), None)
        );
        assert_eq!(
            in_container(&installation("/opt/pg/bin")),
            ("/postgresql/bin".into(), Some("/opt/pg".into()))
        );
    }
}

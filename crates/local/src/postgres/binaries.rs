//! Discovery of the PostgreSQL installations of this machine.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use super::error::{PostgresError, Result};

/// The oldest release that is used: 14 is the first with `pg_database_owner` and
/// `client_connection_check_interval`.
pub const MINIMUM_MAJOR: u32 = 14;

/// Where distributions put the programs, as parent folders of `<version>/bin` or `bin`:
/// Debian and Ubuntu, Alpine, Fedora and Red Hat (own and PostgreSQL's packages), source.
const PARENTS: [&str; 5] = [
    "/usr/lib/postgresql",
    "/usr/libexec",
    "/usr/lib64",
    "/usr",
    "/usr/local",
];
/// The programs that an installation must have.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];
const TIMEOUT: Duration = Duration::from_secs(10);

/// One PostgreSQL server's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Its release, such as 17.
    pub major: u32,
    /// The folder with `postgres`, `initdb` and `pg_ctl`.
    pub bin: PathBuf,
}

/// All of version [`MINIMUM_MAJOR`] or later, newest first; only `setting` where it is given.
///
/// # Errors
/// [`PostgresError::NoBinaries`] where there is none.
pub async fn installations(setting: Option<&Path>) -> Result<Vec<Installation>> {
    let folders = match setting {
        Some(folder) => vec![folder.to_owned()],
        None => candidates(),
    };
    let mut found = Vec::new();
    for bin in &folders {
        if is_complete(bin)
            && let Some(major) = version(&bin.join("postgres")).await
            && major >= MINIMUM_MAJOR
        {
            found.push(Installation {
                major,
                bin: bin.clone(),
            });
        }
    }
    if found.is_empty() {
        let searched = match setting {
            Some(folder) => folder.display().to_string(),
            None => format!("{} and PATH", PARENTS.join(", ")),
        };
        return Err(PostgresError::NoBinaries {
            minimum: MINIMUM_MAJOR,
            searched,
        });
    }
    // Stable: of the same release, the one whose folder was named first.
    found.sort_by_key(|installation| std::cmp::Reverse(installation.major));
    Ok(found)
}

/// The one that can run a folder made by `major`, or the newest for a new folder.
pub(super) fn choose(found: Vec<Installation>, major: Option<u32>, folder: &Path) -> Result<Installation> {
    let names: Vec<String> = found
        .iter()
        .map(|installation| {
            format!(
                "PostgreSQL {} ({})",
                installation.major,
                installation.bin.display()
            )
        })
        .collect();
    let wrong = |has| PostgresError::WrongVersion {
        folder: folder.to_owned(),
        has,
        found: names.join(", "),
    };
    found
        .into_iter()
        .find(|installation| major.is_none_or(|major| installation.major == major))
        .ok_or_else(|| wrong(major.unwrap_or_default()))
}

fn candidates() -> Vec<PathBuf> {
    let mut folders = packaged();
    #[allow(
        clippy::disallowed_methods,
        reason = "PATH is the system's search path, not a setting of ours"
    )]
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let mut seen = BTreeSet::new();
    folders.retain(|folder| folder.is_absolute() && seen.insert(folder.clone()));
    folders
}

/// The folders of programs that packages of distributions make.
pub(crate) fn packaged() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for parent in PARENTS {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if parent.ends_with("/postgresql") || name.starts_with("pgsql") || name.starts_with("postgresql")
            {
                folders.push(entry.path().join("bin"));
                folders.push(entry.path());
            }
        }
    }
    folders
}

/// Whether a folder has the programs of a server.
pub(crate) fn is_complete(bin: &Path) -> bool {
    PROGRAMS.iter().all(|program| bin.join(program).is_file())
}

async fn version(program: &Path) -> Option<u32> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIMEOUT, output).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` → 15; `17beta1` → 17.
pub(crate) fn parse_version(text: &str) -> Option<u32> {
    let number = text.split(") ").nth(1)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(majors: &[u32]) -> Vec<Installation> {
        majors
            .iter()
            .map(|&major| Installation {
                major,
                bin: PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
            })
            .collect()
    }

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_version("busybox"), None);
    }

    #[test]
    fn a_new_folder_gets_the_newest_and_an_old_one_its_own() {
        let folder = Path::new("/data/control");
        assert_eq!(choose(installed(&[17, 15]), None, folder).unwrap().major, 17);
        assert_eq!(choose(installed(&[17, 15]), Some(15), folder).unwrap().major, 15);
    }

    #[test]
    fn a_folder_of_a_missing_release_names_what_to_install() {
        let error = choose(installed(&[17]), Some(15), Path::new("/data/control")).unwrap_err();
        let output = error.to_string();
        assert!(
            output.contains("/data/control was made by PostgreSQL 15"),
            "{output}"
        );
        assert!(
            output.contains("apt install postgresql-15") && output.contains("PostgreSQL 17"),
            "{output}"
        );
    }
}

//! Errors of a PostgreSQL cluster, with a fix for the operator.

use std::{io, path::PathBuf};

use fsa_driver::DriverError;
use fsa_model::FailureKind;

/// Why a cluster could not be found, initialized, started or reached.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "PostgreSQL refuses to run as root; start `fsa serve` as root (it drops to a system user before this) or as a plain user"
    )]
    Root,
    #[error(
        "no PostgreSQL server of version {minimum} or later was found (looked in {searched}); install one, for example with `apt install postgresql`, or name its folder of programs in the settings"
    )]
    NoBinaries { minimum: u32, searched: String },
    #[error(
        "{folder} was made by PostgreSQL {has}, and this machine has {found}; install PostgreSQL {has} (`apt install postgresql-{has}`), or convert the folder with pg_upgrade"
    )]
    WrongVersion {
        folder: PathBuf,
        has: u32,
        found: String,
    },
    #[error(
        "the path of PostgreSQL's socket, {path}, has {length} bytes, and the system allows 107; choose a data folder with a shorter path"
    )]
    SocketPathTooLong { path: PathBuf, length: usize },
    #[error(
        "{folder} is neither empty nor a PostgreSQL data folder; move it away, or choose another data folder"
    )]
    NotACluster { folder: PathBuf },
    #[error(
        "the user with the id {uid} has no name on this machine, and PostgreSQL needs one; add it with `useradd`"
    )]
    NamelessUser { uid: u32 },
    #[error("the disk that holds {folder} is full; free some space there")]
    DiskFull { folder: PathBuf },
    #[error(
        "the user {user} may not use {path}; make it the owner, for example with `chown -R {user} {path}`"
    )]
    Permission { user: String, path: PathBuf },
    #[error("this machine lacks the locale {locale} that PostgreSQL must use; install it, or unset LC_ALL")]
    Locale { locale: String },
    #[error(
        "the system gives PostgreSQL no (shared) memory or semaphores: {output}; free some, or raise the limits of the container that this runs in"
    )]
    Memory { output: String },
    #[error("{what} failed: {output}")]
    Failed { what: String, output: String },
    #[error("{what} took longer than {seconds} s; {advice}")]
    Slow {
        what: String,
        seconds: u64,
        advice: String,
    },
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{what}: {source}")]
    Sql {
        what: String,
        #[source]
        source: sqlx::Error,
    },
}

/// The result of an operation on a cluster.
pub type Result<T> = std::result::Result<T, PostgresError>;

/// Characters of a program's output that are shown.
const OUTPUT_SHOWN_MAX: usize = 1500;

impl PostgresError {
    /// An error of the system while `what` was done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn sql(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        let what = what.into();
        move |source| Self::Sql { what, source }
    }

    /// Recognizes known causes in the output of PostgreSQL's programs.
    pub(crate) fn from_output(what: &str, output: &str, folder: &std::path::Path, user: &str) -> Self {
        let has = |text: &str| output.contains(text);
        if has("No space left on device") || has("Disk quota exceeded") {
            return Self::DiskFull {
                folder: folder.to_owned(),
            };
        }
        if has("cannot be run as root") || has("\"root\" execution") {
            return Self::Root;
        }
        if has("Permission denied") || has("has wrong ownership") || has("Read-only file system") {
            return Self::Permission {
                user: user.to_owned(),
                path: quoted_path(output).unwrap_or_else(|| folder.to_owned()),
            };
        }
        if has("invalid locale") || has("locale name") || has("incompatible with the operating system") {
            return Self::Locale {
                locale: "C.UTF-8".to_owned(),
            };
        }
        if has("shared memory") || has("could not create semaphores") || has("Cannot allocate memory") {
            return Self::Memory {
                output: shortened(output),
            };
        }
        Self::Failed {
            what: what.to_owned(),
            output: shortened(output),
        }
    }
}

/// The first path in double quotes.
fn quoted_path(output: &str) -> Option<PathBuf> {
    output
        .split('"')
        .skip(1)
        .step_by(2)
        .find(|quoted| quoted.starts_with('/'))
        .map(PathBuf::from)
}

/// The end of the output, which has the reason, on one line.
fn shortened(output: &str) -> String {
    let line = output
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" · ");
    let skip = line.chars().count().saturating_sub(OUTPUT_SHOWN_MAX);
    let line: String = line.chars().skip(skip).collect();
    if line.is_empty() {
        "it had no output".to_owned()
    } else {
        line
    }
}

impl From<PostgresError> for DriverError {
    fn from(error: PostgresError) -> Self {
        let kind = match &error {
            PostgresError::Slow { .. } | PostgresError::Sql { .. } => FailureKind::Transient,
            _ => FailureKind::Machine,
        };
        Self::new(kind, error.to_string()).because(error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_output_of_initdb_becomes_an_error_with_a_fix() {
        let explain = |output: &str| {
            PostgresError::from_output("making it", output, Path::new("/data/control"), "fsa").to_string()
        };
        assert!(
            explain("initdb: error: could not write file: No space left on device")
                .contains("/data/control is full")
        );
        assert!(
            explain("could not create directory \"/data/run/c\": Permission denied")
                .contains("may not use /data/run/c")
        );
        assert!(explain("initdb: error: cannot be run as root").contains("refuses to run as root"));
        assert!(explain("initdb: error: invalid locale name \"C.UTF-8\"").contains("lacks the locale"));
        assert!(explain("FATAL: could not create shared memory segment").contains("memory"));
        assert!(explain("x\n y").ends_with("x · y"));
    }
}

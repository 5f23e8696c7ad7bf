//! Template of a data folder: made by initdb once per release of PostgreSQL, then copied for each
//! volume, whose first start only renames what is in it.
//!
//! It has a role and a database for the project ([`PREPARED`]). Databases are copies of `template1`,
//! which is smaller than PostgreSQL's own: without the descriptions of built-in objects (which
//! `\df+` shows), and packed by VACUUM FULL.

use std::{
    fs, io,
    os::fd::AsFd as _,
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use fsa_model::Failure;

use super::{POSTGRES_ID, SUPERUSER, copy, installation::in_container, launch::Job, settings::CONFIGURATION};
use crate::{
    postgres::Installation,
    protocol::machine,
    runner::{Runner, deferred_delete, pidfd},
};

/// The number grows with each change to the script.
const GENERATION: u32 = 1;
/// The role and the database that a project's get their names from.
pub const PREPARED: &str = "fsa_project";
/// For a busy machine with a slow disk; an idle one takes under 2 s.
const TIMEOUT: Duration = Duration::from_secs(120);
/// What the script makes last.
const COMPLETE: &str = "fsa.complete";
const SCRIPT: &str = "initialize.sh";

/// The script, which runs in a container of its kind. `$1` is the folder of PostgreSQL's programs.
///
/// The order of bytes is the same on each machine, unlike a language's, which changes with libc's
/// releases and then breaks indexes.
fn script(major: u32) -> String {
    let locale = if major >= 17 {
        "--locale-provider builtin --builtin-locale C.UTF-8 --locale C"
    } else {
        "--locale C.UTF-8"
    };
    format!(
        "set -eu\n\
         \"$1/initdb\" --pgdata . --username {SUPERUSER} --encoding UTF8 {locale} --wal-segsize 1 \
         --auth-local trust --auth-host reject --no-sync --no-instructions >/dev/null\n\
         single() {{ \"$1/postgres\" --single -D . -c fsync=off -c max_wal_size=64MB -c log_checkpoints=off \"$2\" \
         >/dev/null; }}\n\
         single \"$1\" template1 <<'END'\n\
         ALTER SCHEMA public OWNER TO pg_database_owner\n\
         REVOKE ALL ON SCHEMA public FROM PUBLIC\n\
         GRANT USAGE ON SCHEMA public TO PUBLIC\n\
         DELETE FROM pg_catalog.pg_description\n\
         VACUUM (FULL, FREEZE)\n\
         END\n\
         single \"$1\" postgres <<'END'\n\
         CREATE ROLE {PREPARED} SUPERUSER LOGIN\n\
         COMMENT ON ROLE {PREPARED} IS '{MARK}'\n\
         CREATE DATABASE {PREPARED} OWNER {PREPARED}\n\
         END\n\
         : >{COMPLETE}\n"
    )
}

/// The comment of a project's role. A copy of a server is found by it, whatever the role's name.
pub const MARK: &str = "fsa project";

impl Runner {
    /// Copies the template of this release to `to`, which must not exist. The copy is not yet on
    /// disk.
    ///
    /// # Errors
    /// The template cannot be made, or copied.
    pub fn copy_template(&self, installation: &Installation, to: &Path) -> Result<(), Failure> {
        let template = self.template(installation)?;
        copy::tree(&template, to).map_err(|error| made("the database's files", &error))
    }

    fn template(&self, installation: &Installation) -> Result<PathBuf, Failure> {
        let folder = self.storage.templates();
        let name = format!("postgresql-{}-{GENERATION}", installation.major);
        let template = folder.join(&name);
        let _making = self.databases.template.lock();
        if template.is_dir() {
            return Ok(template);
        }
        let failed = |error: io::Error| made("the template of databases", &error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(failed)?;
        let new = folder.join(format!("{name}.new"));
        if new.exists() {
            deferred_delete::delete(&new).map_err(failed)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&new).map_err(failed)?;
        chown(&new, Some(POSTGRES_ID), Some(POSTGRES_ID)).map_err(failed)?;
        self.initialize(installation, &name, &new)?;
        fs::remove_file(new.join(COMPLETE)).map_err(failed)?;
        fs::File::open(&folder)
            .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
            .and_then(|()| fs::rename(&new, &template))
            .map_err(failed)?;
        tracing::info!(release = installation.major, "made the template of databases");
        Ok(template)
    }

    /// Runs the script in a container, to its end.
    fn initialize(&self, installation: &Installation, name: &str, data: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| made("the template of databases", &error);
        let bundle = self.layout.servers().join(name);
        let slot = self.databases.slot().ok_or_else(super::launch::no_ids)?;
        let (bin, _) = in_container(installation);
        let result = (|| {
            let configuration = bundle.join("configuration");
            fs::create_dir_all(&configuration).map_err(failed)?;
            fs::write(configuration.join(SCRIPT), script(installation.major)).map_err(failed)?;
            let output = bundle.join("output.log");
            let log = fs::File::create(&output).map_err(failed)?;
            let (_, pidfd) = self.run_database_container(&Job {
                name,
                slot: &slot,
                bundle: &bundle,
                data,
                sockets: None,
                installation,
                command: vec![
                    "/bin/sh".to_owned(),
                    format!("{CONFIGURATION}/{SCRIPT}"),
                    bin.display().to_string(),
                ],
                limits: None,
                output: &log,
            })?;
            let ended = pidfd::readable(pidfd.as_fd(), TIMEOUT);
            if !ended {
                pidfd::kill(pidfd.as_fd());
                let _ = pidfd::readable(pidfd.as_fd(), TIMEOUT);
            }
            if data.join(COMPLETE).is_file() {
                return Ok(());
            }
            let text = super::log::tail(&output, 2000).unwrap_or_default();
            let text: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            Err(machine(format!(
                "PostgreSQL {} could not make the files of a database: {}",
                installation.major,
                text.join(" · ")
            )))
        })();
        self.runtime.forget(name);
        self.cgroups.remove(name);
        let _ = fs::remove_dir_all(&bundle);
        result
    }
}

/// A failure to make `what`.
pub(super) fn made(what: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => machine(format!(
            "{what} could not be made: the disk is full. Delete files or projects, or choose a larger size"
        )),
        _ => machine(format!("{what} could not be made ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_uses_the_locales_that_a_release_knows() {
        assert!(script(15).contains("--locale C.UTF-8"));
        assert!(script(18).contains("--builtin-locale C.UTF-8"));
    }
}

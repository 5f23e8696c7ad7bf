//! Start of a database server: data folder, configuration, container, readiness. A failed start is
//! undone.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use fsa_model::{Failure, FailureKind, VolumeId};

use super::{
    CLOSED, Entry, OPEN, POSTGRES_ID, RunningServer, container_name,
    installation::in_container,
    launch::{Job, no_ids},
    log,
    ready::{DataWatch, Readiness},
    record::{DatabaseFiles, Record},
    settings,
    state::ServerState,
    template::made,
};
use crate::{
    postgres::Installation,
    protocol::machine,
    runner::{Runner, deferred_delete, pidfd, state::BOOT},
};

/// Until a server accepts connections. Recovery after a crash may take longer: then the server goes
/// on, and a later request finds it ready.
const READY_TIMEOUT: Duration = Duration::from_secs(40);
/// Bytes of the log that the failure of a start shows.
const LOG_SHOWN: u64 = 1500;

impl Runner {
    /// Starts the server of a volume where it does not run. It is closed to clients then
    /// ([`CLOSED`]).
    ///
    /// # Errors
    /// The volume has no database, or its files are lost; what failed. A server that still recovers
    /// from a crash is `Transient`.
    pub fn start_database(&self, entry: &Entry, volume: VolumeId) -> Result<(), Failure> {
        let files = self.database_files(volume);
        let record = files
            .read()
            .map_err(|error| unreadable(&error))?
            .ok_or_else(|| Failure::new(FailureKind::Transient, "the project has no database yet"))?;
        let running = entry.running.lock().clone();
        if let Some(running) = running.filter(|running| !pidfd::ended(&running.pidfd)) {
            return self.await_ready(volume, &files, &running);
        }
        self.record_server_exit(entry, volume);
        if files.is_lost(&record) {
            return Err(Failure::new(
                FailureKind::Transient,
                "the files of the project's database are missing",
            ));
        }
        let limit = u64::from(record.setup.resources.disk_limit_mib) << 20;
        if let Err(error) = self.storage.release_database_room(volume, limit) {
            tracing::warn!(%volume, %error, "the limit of a volume could not be set");
        }
        let begun = Instant::now();
        let mut started = self.try_start_server(entry, volume, &files, record.clone());
        if started.is_err() && entry.running.lock().is_none() {
            match self.storage.grant_database_room(volume, limit) {
                Ok(true) => {
                    tracing::warn!(%volume, "a database server gets room to start in a full volume");
                    // What it may have made is in the record.
                    let record = files.read().ok().flatten().unwrap_or(record);
                    started = self.try_start_server(entry, volume, &files, record);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%volume, %error, "the limit of a volume could not be set"),
            }
        }
        match &started {
            Ok(()) => tracing::info!(%volume, took = ?begun.elapsed(), "started a database server"),
            Err(failure) => tracing::warn!(%volume, %failure, "a database server could not be started"),
        }
        started
    }

    fn try_start_server(
        &self,
        entry: &Entry,
        volume: VolumeId,
        files: &DatabaseFiles,
        record: Record,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| made("the database server's folder", &error);
        let installation = self
            .installations
            .find(self.config.postgres_bin.as_deref(), record.major)?;
        let record = match record.major {
            Some(_) => record,
            None => self.make_data(files, record, &installation)?,
        };
        let size = settings::size(&record.setup.resources);
        let name = container_name(volume);
        let bundle = self.layout.server(volume);
        let configuration = bundle.join("configuration");
        fs::create_dir_all(&configuration).map_err(failed)?;
        for (file, text) in [
            ("postgresql.conf", settings::configuration(&size)),
            ("pg_hba.conf", settings::host_based()),
        ] {
            fs::write(configuration.join(file), text).map_err(failed)?;
        }
        let sockets = self.make_sockets(volume).map_err(failed)?;
        let data = files.data();
        // Of a server that has ended. PostgreSQL would take it for its own: both are process 1.
        match fs::remove_file(data.join("postmaster.pid")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let watch = DataWatch::new(&data).map_err(failed)?;
        let output = log::open(&files.log()).map_err(failed)?;
        let slot = self.databases.slot().ok_or_else(no_ids)?;
        let mut state = ServerState {
            volume,
            boot: BOOT.clone(),
            slot: slot.slot,
            base_rootfs: self.base_rootfs.database.clone(),
            memory_limit_mib: size.resources.memory_limit_mib,
            process: None,
        };
        // Before anything runs, so that the runner after a crash finds it.
        let path = self.layout.server_state(volume);
        state.write(&path).map_err(failed)?;
        let started = self
            .run_database_container(&Job {
                name: &name,
                slot: &slot,
                bundle: &bundle,
                data: &data,
                sockets: Some((&sockets, &settings::sockets(volume))),
                installation: &installation,
                command: settings::command(&in_container(&installation).0, volume),
                limits: Some(size.resources),
                output: &output,
            })
            .and_then(|(process, pidfd)| {
                state.process = Some(process);
                state.write(&path).map_err(failed)?;
                Ok(Arc::new(RunningServer {
                    process,
                    pidfd,
                    memory_limit_mib: size.resources.memory_limit_mib,
                    slot,
                }))
            });
        let running = match started {
            Ok(running) => running,
            Err(failure) => {
                self.kill_server_orphans(volume);
                self.record_server_exit(entry, volume);
                return Err(failure);
            }
        };
        *entry.running.lock() = Some(Arc::clone(&running));
        self.watch_server(volume, &running);
        self.settle_start(entry, volume, files, &running, &watch)
    }

    /// Waits until a server that starts is ready, and takes its socket's folder from it.
    fn settle_start(
        &self,
        entry: &Entry,
        volume: VolumeId,
        files: &DatabaseFiles,
        running: &RunningServer,
        watch: &DataWatch,
    ) -> Result<(), Failure> {
        match watch.ready(&files.data(), &running.pidfd, READY_TIMEOUT) {
            Readiness::Ready => self.close_sockets(volume),
            Readiness::Starting => Err(Failure::new(
                FailureKind::Transient,
                "the project's database recovers from a crash, which takes longer than usual",
            )),
            Readiness::Ended => {
                let text = log::tail(&files.log(), LOG_SHOWN).unwrap_or_default();
                let memory = self.cgroups.out_of_memory(&container_name(volume)) > 0;
                self.record_server_exit(entry, volume);
                Err(failed_start(&text, memory.then_some(running.memory_limit_mib)))
            }
        }
    }

    fn await_ready(
        &self,
        volume: VolumeId,
        files: &DatabaseFiles,
        running: &RunningServer,
    ) -> Result<(), Failure> {
        let sockets = self.layout.server_sockets(volume);
        if [OPEN, CLOSED].iter().any(|name| is_ours(&sockets, name)) {
            return Ok(());
        }
        let watch = DataWatch::new(&files.data())
            .map_err(|error| machine(format!("the database's files cannot be watched ({error})")))?;
        match watch.ready(&files.data(), &running.pidfd, READY_TIMEOUT) {
            Readiness::Ready => self.close_sockets(volume),
            Readiness::Starting | Readiness::Ended => Err(Failure::new(
                FailureKind::Transient,
                "the project's database recovers from a crash, which takes longer than usual",
            )),
        }
    }

    /// Copies the template and records that. A crash in between leaves no data folder.
    fn make_data(
        &self,
        files: &DatabaseFiles,
        mut record: Record,
        installation: &Installation,
    ) -> Result<Record, Failure> {
        let failed = |error: io::Error| made("the database's files", &error);
        for old in [files.new_data(), files.data()] {
            if fs::symlink_metadata(&old).is_ok() {
                deferred_delete::delete(&old).map_err(failed)?;
            }
        }
        let new = files.new_data();
        if let Err(failure) = self.copy_template(installation, &new) {
            let _ = deferred_delete::delete(&new);
            return Err(failure);
        }
        record.major = Some(installation.major);
        File::open(&new)
            .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
            .and_then(|()| fs::rename(&new, files.data()))
            .and_then(|()| files.write(&record, true))
            .map_err(failed)?;
        Ok(record)
    }

    /// The folder of a server's socket, empty, which the server may write to until it is ready.
    fn make_sockets(&self, volume: VolumeId) -> io::Result<PathBuf> {
        let folder = self.layout.server_sockets(volume);
        match fs::DirBuilder::new().mode(0o755).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => empty(&folder)?,
            result => result?,
        }
        chown(&folder, Some(POSTGRES_ID), Some(POSTGRES_ID))?;
        Ok(folder)
    }

    /// Takes the folder of its socket from a server, and closes the socket to clients.
    fn close_sockets(&self, volume: VolumeId) -> Result<(), Failure> {
        let failed = |error: io::Error| made("the database server's socket", &error);
        let folder = self.layout.server_sockets(volume);
        chown(&folder, Some(0), Some(0)).map_err(failed)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        if !is_ours(&folder, OPEN) {
            return Err(machine(
                "the database server has no socket; its log has the reason",
            ));
        }
        fs::rename(folder.join(OPEN), folder.join(CLOSED)).map_err(failed)
    }

    /// The files of a volume's database.
    #[must_use]
    pub fn database_files(&self, volume: VolumeId) -> DatabaseFiles {
        DatabaseFiles::new(self.storage.database(volume))
    }
}

/// Whether a socket of this name is in a folder that the server cannot write to.
pub(super) fn is_ours(folder: &Path, name: &str) -> bool {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.uid() == 0)
        && fs::symlink_metadata(folder.join(name)).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Removes what is in a folder of sockets; no server runs.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        deferred_delete::delete(&entry?.path())?;
    }
    Ok(())
}

pub(super) fn unreadable(error: &io::Error) -> Failure {
    machine(format!(
        "the record of the project's database cannot be read ({error})"
    ))
}

/// Why a server has ended before it was ready, by the end of its log.
fn failed_start(log: &str, memory_limit_mib: Option<u32>) -> Failure {
    if let Some(limit) = memory_limit_mib {
        return Failure::new(
            FailureKind::Input,
            format!("the project's database needs more than its {limit} MiB of memory; choose a larger size"),
        );
    }
    if log.contains("No space left on device") || log.contains("Disk quota exceeded") {
        return Failure::new(
            FailureKind::Input,
            "the project's database cannot start: the disk is full. Delete files of the project, or choose a larger \
             size",
        );
    }
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines[lines.len().saturating_sub(4)..].join(" · ");
    machine(format!("the project's database cannot start: {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_of_a_start_has_the_reason_and_what_to_do() {
        let full = failed_start("FATAL:  could not write: No space left on device\n", None);
        assert!(full.message.contains("Delete files"), "{full}");
        let memory = failed_start("", Some(128));
        assert!(memory.message.contains("128 MiB"), "{memory}");
        let other = failed_start("a\nFATAL:  invalid value for parameter \"work_mem\"\n", None);
        assert!(other.message.contains("work_mem"), "{other}");
    }
}

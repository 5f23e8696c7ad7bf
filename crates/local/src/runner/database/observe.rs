//! Observation of database servers, their adoption by a new runner, and the watch on their end.

use std::{fs, sync::Arc};

use fsa_model::{Failure, VolumeId};

use super::{
    OPEN, RunningServer, connections, container_name, log,
    start::{is_ours, unreadable},
    state::ServerState,
};
use crate::{
    protocol::{DatabaseExit, ObservedServer, Push, machine},
    runner::{
        Runner, deferred_delete, pidfd,
        state::{BOOT, Process},
    },
};

/// Entries that are counted for the size of a database.
const DISK_ENTRIES: u32 = 200_000;

impl Runner {
    /// The observed state of a volume's database; `None` where it has none. Changes nothing and
    /// waits for no mutex.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn observe_database(&self, volume: VolumeId) -> Result<Option<ObservedServer>, Failure> {
        let files = self.database_files(volume);
        let Some(record) = files.read().map_err(|error| unreadable(&error))? else {
            return Ok(None);
        };
        let running = self
            .databases
            .running(volume)
            .filter(|running| !pidfd::ended(&running.pidfd));
        Ok(Some(ObservedServer {
            volume,
            lost: files.is_lost(&record),
            setup: record.setup,
            major: record.major,
            open: running.is_some() && is_ours(&self.layout.server_sockets(volume), OPEN),
            connections: match running {
                Some(_) => self.clients(volume),
                None => 0,
            },
            running: running.is_some(),
        }))
    }

    /// Connected clients of a volume's server; one where they cannot be counted, so that it goes on.
    #[must_use]
    pub fn clients(&self, volume: VolumeId) -> u32 {
        connections::Table::read().map_or(1, |table| table.clients(volume))
    }

    /// Every volume's database. Shortens the logs of those that run.
    ///
    /// # Errors
    /// The volumes cannot be listed.
    pub fn databases(&self) -> Result<Vec<ObservedServer>, Failure> {
        let volumes = self
            .storage
            .list_databases()
            .map_err(|error| machine(format!("the databases cannot be listed ({error})")))?;
        let mut found = Vec::new();
        for volume in volumes {
            match self.observe_database(volume) {
                Ok(Some(server)) => {
                    if server.running
                        && let Err(error) = log::shorten(&self.database_files(volume).log())
                    {
                        tracing::warn!(%volume, %error, "a database's log could not be shortened");
                    }
                    found.push(server);
                }
                Ok(None) => {}
                Err(failure) => tracing::warn!(%volume, %failure, "a database cannot be observed"),
            }
        }
        Ok(found)
    }

    /// Bytes on disk of a volume's database.
    #[must_use]
    pub fn database_disk(&self, volume: VolumeId) -> u64 {
        deferred_delete::disk_bytes(self.database_files(volume).folder(), DISK_ENTRIES)
    }

    /// Adopts the servers that run already, and cleans up after a runner that was killed.
    ///
    /// # Errors
    /// The folder's.
    pub fn adopt_databases(&self) -> Result<(), Failure> {
        let entries = fs::read_dir(self.layout.servers())
            .map_err(|error| machine(format!("the folder of database servers cannot be read ({error})")))?;
        for folder in entries.flatten() {
            match ServerState::read(&folder.path().join("state.json")) {
                Some(state) => self.adopt_server(&state),
                // Of a template that was not finished, or of a server that never ran.
                None => {
                    if let Some(name) = folder.file_name().to_str() {
                        self.runtime.delete(name);
                        self.cgroups.remove(name);
                    }
                    let _ = fs::remove_dir_all(folder.path());
                }
            }
        }
        Ok(())
    }

    fn adopt_server(&self, state: &ServerState) {
        let volume = state.volume;
        let process = state.process.filter(|_| state.boot == *BOOT);
        let running = process.and_then(|process| {
            let pidfd = pidfd::open(process.pid)?;
            // Only now is it certain that the descriptor is of this process and of no later one.
            (Process::now(process.pid) == Some(process)).then_some((process, pidfd))
        });
        self.databases.exclusively(volume, |entry| match running {
            Some((process, pidfd)) => {
                let running = Arc::new(RunningServer {
                    process,
                    pidfd,
                    memory_limit_mib: state.memory_limit_mib,
                    slot: self.databases.adopt_slot(state.slot),
                });
                *entry.running.lock() = Some(Arc::clone(&running));
                self.watch_server(volume, &running);
                tracing::info!(%volume, pid = process.pid, "found a running database server");
            }
            None => {
                if state.boot == *BOOT {
                    self.kill_server_orphans(volume);
                } else {
                    self.runtime.forget(&container_name(volume));
                }
                self.record_server_exit(entry, volume);
            }
        });
    }

    /// Cleans up after a server that ended without a stop, and reports it.
    pub fn server_ended(&self, volume: VolumeId, running: &Arc<RunningServer>) {
        let how = self.databases.exclusively(volume, |entry| {
            let same = entry
                .running
                .lock()
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, running));
            if !same {
                return None;
            }
            // The runner of another `fsa serve` on this folder may have stopped it and started the next.
            let state = ServerState::read(&self.layout.server_state(volume));
            if state.is_some_and(|state| state.process != Some(running.process)) {
                *entry.running.lock() = None;
                return None;
            }
            self.record_server_exit(entry, volume)
        });
        if let Some(how) = how {
            tracing::warn!(%volume, ?how, "a database server ended");
            self.push(&Push::DatabaseExited(DatabaseExit { volume, how }));
        }
        self.databases.forget(volume);
    }
}

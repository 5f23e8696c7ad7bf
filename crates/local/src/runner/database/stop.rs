//! Stop of a database server, its removal, and its copy to another volume.

use std::{fs, io, os::fd::AsFd as _, path::PathBuf, time::Duration};

use fsa_model::{Failure, FailureKind, VolumeId};
use rustix::process::{Signal, pidfd_send_signal};

use super::{CLOSED, Entry, OPEN, copy, record::Record, start::unreadable, template::made};
use crate::{
    protocol::{DatabaseSetup, StopWhen, machine},
    runner::{Runner, deferred_delete, pidfd},
};

/// PostgreSQL's ways to shut down, in the order in which they are tried, and how long each may take.
/// Fast: ends connections and writes a checkpoint. Immediate: the next start recovers.
const SHUTDOWNS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(30)),
    (Signal::QUIT, Duration::from_secs(10)),
    (Signal::KILL, Duration::from_secs(20)),
];

impl Runner {
    /// Stops the server of a volume; returns false where it is in use and `when` says that it goes
    /// on then.
    ///
    /// New clients wait from here on: the socket is closed to them before the connected ones are
    /// counted, so none comes between.
    ///
    /// # Errors
    /// Even SIGKILL does not end it.
    pub fn stop_database(&self, entry: &Entry, volume: VolumeId, when: StopWhen) -> Result<bool, Failure> {
        let Some(running) = entry.running.lock().clone() else {
            return Ok(true);
        };
        let sockets = self.layout.server_sockets(volume);
        let (open, closed) = (sockets.join(OPEN), sockets.join(CLOSED));
        let was_open = fs::rename(&open, &closed).is_ok();
        if when == StopWhen::Unused && self.clients(volume) > 0 {
            if was_open {
                fs::rename(&closed, &open).map_err(|error| made("the database server's socket", &error))?;
            }
            return Ok(false);
        }
        for (signal, timeout) in SHUTDOWNS {
            let _ = pidfd_send_signal(&running.pidfd, signal);
            if pidfd::readable(running.pidfd.as_fd(), timeout) {
                self.record_server_exit(entry, volume);
                tracing::info!(%volume, ?signal, "stopped a database server");
                return Ok(true);
            }
            tracing::warn!(%volume, ?signal, ?timeout, "a database server does not end");
        }
        Err(machine(
            "the database server does not end, even when it is killed; it may be waiting for a disk",
        ))
    }

    /// Opens a running server's socket to clients.
    ///
    /// # Errors
    /// It does not run.
    pub fn open_database(&self, entry: &Entry, volume: VolumeId) -> Result<(), Failure> {
        let sockets = self.layout.server_sockets(volume);
        let ended = || {
            Failure::new(
                FailureKind::Transient,
                "the database server has ended; the next start follows",
            )
        };
        if entry.running.lock().is_none() {
            return Err(ended());
        }
        match fs::rename(sockets.join(CLOSED), sockets.join(OPEN)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && sockets.join(OPEN).exists() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ended()),
            Err(error) => Err(made("the database server's socket", &error)),
        }
    }

    /// Records what a volume's database has to be. Files that are lost are made again at the next
    /// start.
    ///
    /// # Errors
    /// The file system's.
    pub fn ensure_database(&self, volume: VolumeId, setup: DatabaseSetup) -> Result<(), Failure> {
        crate::protocol::check_database(&setup)?;
        let failed = |error: io::Error| made("the database's folder", &error);
        let files = self.database_files(volume);
        let record = files.read().map_err(|error| unreadable(&error))?;
        let major = match &record {
            Some(record) if record.setup == setup && !files.is_lost(record) => return Ok(()),
            Some(record) if !files.is_lost(record) => record.major,
            _ => None,
        };
        self.storage.prepare_database(volume).map_err(failed)?;
        files.create().map_err(failed)?;
        files.write(&Record { setup, major }, false).map_err(failed)
    }

    /// Removes a volume's database: its server, its files. They are only moved aside; returns the
    /// argument of [`deferred_delete::delete`].
    ///
    /// # Errors
    /// As [`Self::stop_database`], and the file system's.
    pub fn remove_database(&self, entry: &Entry, volume: VolumeId) -> Result<Option<PathBuf>, Failure> {
        self.stop_database(entry, volume, StopWhen::Always)?;
        self.storage
            .discard_database(volume)
            .map_err(|error| machine(format!("the database's files could not be removed ({error})")))
    }

    /// Copies the database of a volume, whose server is stopped for it, to another volume, which
    /// must have none.
    ///
    /// # Errors
    /// The source has no database, or the target has one; the file system's.
    pub fn copy_database(
        &self,
        source: &Entry,
        from: VolumeId,
        to: VolumeId,
        setup: DatabaseSetup,
    ) -> Result<(), Failure> {
        crate::protocol::check_database(&setup)?;
        let (source_files, files) = (self.database_files(from), self.database_files(to));
        let unread = |error: io::Error| unreadable(&error);
        let Some(record) = source_files.read().map_err(unread)? else {
            return Err(Failure::new(
                FailureKind::Transient,
                "the database to be copied does not exist yet",
            ));
        };
        if files
            .read()
            .map_err(unread)?
            .is_some_and(|record| record.major.is_some())
        {
            return Err(Failure::new(
                FailureKind::Internal,
                "a database was to be copied over another one",
            ));
        }
        let failed = |error: io::Error| made("the copy of the database", &error);
        self.storage.prepare_database(to).map_err(failed)?;
        files.create().map_err(failed)?;
        let mut copied = Record { setup, major: None };
        if record.major.is_none() {
            return files.write(&copied, false).map_err(failed);
        }
        self.stop_database(source, from, StopWhen::Always)?;
        for old in [files.new_data(), files.data()] {
            if fs::symlink_metadata(&old).is_ok() {
                deferred_delete::delete(&old).map_err(failed)?;
            }
        }
        copied.major = record.major;
        copy::tree(&source_files.data(), &files.new_data())
            .and_then(|()| fs::File::open(files.folder()))
            .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
            .and_then(|()| fs::rename(files.new_data(), files.data()))
            .and_then(|()| files.write(&copied, true))
            .map_err(failed)
    }
}

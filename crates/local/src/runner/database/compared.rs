//! Copy of the database of a snapshot into a volume of its own, to be read and thrown away.

use std::{fs, io};

use fsa_model::{Failure, FailureKind, SnapshotId, VolumeId};

use super::{
    copy,
    record::{DatabaseFiles, Record},
    start::unreadable,
    template::made,
};
use crate::{protocol::DatabaseSetup, runner::Runner};

/// The name of the role in the record of a copy: no project's role has it.
pub const COMPARED: &str = "fsa_compared";

impl Runner {
    /// Copies the database of a snapshot of the volume `from` to the volume `to`, which must be new. The record says
    /// that it is a copy before its files are there. Blocks are shared where the file system can.
    ///
    /// # Errors
    /// There is no such snapshot, or no database in it; the file system's.
    pub fn copy_snapshot_database(
        &self,
        from: VolumeId,
        snapshot: SnapshotId,
        to: VolumeId,
    ) -> Result<(), Failure> {
        let none = || Failure::new(FailureKind::Input, "the snapshot has no database");
        let source = DatabaseFiles::new(self.storage.snapshot_folder(from, snapshot).join("database"));
        let record = source
            .read()
            .map_err(|error| unreadable(&error))?
            .filter(|record| record.major.is_some() && !source.is_lost(record))
            .ok_or_else(none)?;
        let files = self.database_files(to);
        if files.folder().exists() {
            return Err(Failure::new(
                FailureKind::Internal,
                "a database was to be copied over another one",
            ));
        }
        let failed = |error: io::Error| made("the copy of the database", &error);
        self.storage.prepare_database(to).map_err(failed)?;
        files.create().map_err(failed)?;
        let setup = DatabaseSetup {
            role: COMPARED.to_owned(),
            ..record.setup
        };
        let mut copied = Record { setup, major: None };
        files.write(&copied, false).map_err(failed)?;
        copied.major = record.major;
        // Of a moment in which nothing is written: the next crash would only remove it.
        copy::tree(&source.data(), &files.new_data())
            .and_then(|()| fs::rename(files.new_data(), files.data()))
            .and_then(|()| files.write(&copied, false))
            .map_err(failed)
    }
}

//! Files of a volume's database, and the record beside the data folder.
//!
//! `database/` of a volume belongs to root: `record.json`, `server.log`, and `data`, the only part
//! that the server sees.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::protocol::DatabaseSetup;

/// `record.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub setup: DatabaseSetup,
    /// The release of PostgreSQL that made the data folder; `None` before it is made.
    pub major: Option<u32>,
}

/// The paths of a volume's database.
#[derive(Clone, Debug)]
pub struct DatabaseFiles(PathBuf);

impl DatabaseFiles {
    /// `folder` is the volume's part for the database.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// PostgreSQL's data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// The data folder while it is made.
    #[must_use]
    pub fn new_data(&self) -> PathBuf {
        self.0.join("data.new")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("server.log")
    }

    fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    /// Makes the folder where it is missing.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))
    }

    /// The record; `None` where the volume has no database.
    ///
    /// # Errors
    /// The file system's; `InvalidData`.
    pub fn read(&self) -> io::Result<Option<Record>> {
        match fs::read(self.record()) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record as a whole. `durable` waits for the disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, record: &Record, durable: bool) -> io::Result<()> {
        let next = self.0.join("record.next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&next, self.record())?;
        if durable {
            File::open(&self.0)?.sync_all()?;
        }
        Ok(())
    }

    /// The data folder was made, and is missing.
    #[must_use]
    pub fn is_lost(&self, record: &Record) -> bool {
        record.major.is_some() && !self.data().join("PG_VERSION").is_file()
    }
}

#[cfg(test)]
mod tests {
    use fsa_model::Size;

    use super::*;

    #[test]
    fn a_database_is_lost_once_its_files_were_made_and_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let files = DatabaseFiles::new(folder.path().join("database"));
        files.create().unwrap();
        assert_eq!(files.read().unwrap(), None);
        let mut record = Record {
            setup: DatabaseSetup {
                role: "todo".into(),
                verifier: "SCRAM-SHA-256$".into(),
                resources: Size::Micro.resources(),
            },
            major: None,
        };
        files.write(&record, false).unwrap();
        assert!(!files.is_lost(&record));

        record.major = Some(15);
        files.write(&record, true).unwrap();

        assert_eq!(files.read().unwrap(), Some(record.clone()));
        assert!(files.is_lost(&record));
        fs::create_dir(files.data()).unwrap();
        fs::write(files.data().join("PG_VERSION"), "15\n").unwrap();
        assert!(!files.is_lost(&record));
    }

    #[test]
    fn the_field_names_on_disk_do_not_change() {
        let text = r#"{"setup":{"role":"r","verifier":"v","resources":{"cpuRequestMillis":1,"cpuLimitMillis":2,"memoryRequestMib":3,"memoryLimitMib":4,"pidsLimit":5,"diskLimitMib":6}},"major":15}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
    }
}

//! Operations on a repository: create or open, back up, list, read, verify, delete, prune.

use std::{path::PathBuf, sync::Arc};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use rustic_core::{
    BackupOptions, CheckOptions, ConfigOptions, Credentials, KeyOptions, OpenStatus, PruneOptions,
    RepositoryBackends, RepositoryOptions,
    repofile::{SnapshotFile, SnapshotId},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    Archive, Contents, Error, Progress, Result, Storage,
    backend::{Backend, Failures},
    source::Source,
};

/// Problems that a check lists.
const PROBLEMS_MAX: usize = 20;

type Opened = rustic_core::Repository<OpenStatus>;

/// A repository. It is opened, or created, by its first use: deriving the key from the password takes a second.
pub struct Repository {
    storage: Arc<dyn Storage>,
    password: SecretString,
    /// The master key, so that it is derived once.
    key: Mutex<Option<Credentials>>,
}

/// What a new backup is called in the repository.
#[derive(Clone, Debug)]
pub struct NewBackup {
    /// The host that restic shows: the installation.
    pub host: String,
    /// The path that restic shows, such as `/projects/shop`. Backups of one host and path build on one another.
    pub path: String,
    pub tags: Vec<String>,
}

/// A backup in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    /// restic's id of it.
    pub id: String,
    pub time: DateTime<Utc>,
    pub tags: Vec<String>,
    pub files: u64,
    /// Of all files.
    pub bytes: u64,
    /// By which the repository grew.
    pub added_bytes: u64,
}

impl Repository {
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, password: SecretString) -> Self {
        Self {
            storage,
            password,
            key: Mutex::new(None),
        }
    }

    /// Where the repository is, for messages.
    #[must_use]
    pub fn location(&self) -> String {
        self.storage.location()
    }

    fn open(&self, failures: Failures) -> Result<Opened> {
        let unopened = || {
            let backend = Backend::new(Arc::clone(&self.storage), failures.clone());
            let options = RepositoryOptions::default().no_cache(true);
            rustic_core::Repository::new(&options, &RepositoryBackends::new(Arc::new(backend), None))
        };
        // Held meanwhile, so that the repository is created once.
        let mut key = self.key.lock();
        if let Some(key) = &*key {
            return Ok(unopened()?.open(key)?);
        }
        let password = Credentials::password(self.password.expose_secret());
        let opened = if unopened()?.config_id()?.is_some() {
            unopened()?.open(&password)?
        } else {
            tracing::info!(
                repository = self.storage.location(),
                "creating the backup repository"
            );
            unopened()?.init(&password, &KeyOptions::default(), &ConfigOptions::default())?
        };
        *key = Some(Credentials::Masterkey(opened.key()));
        Ok(opened)
    }

    /// Stores a backup, as a whole or not at all.
    ///
    /// # Errors
    /// An entry could not be read; it was canceled; the repository's.
    pub fn back_up(&self, new: &NewBackup, archive: Archive, progress: &Arc<Progress>) -> Result<BackupInfo> {
        let failures = Failures::default();
        let repository = self.open(failures.clone())?.to_indexed_ids()?;
        let mut snapshot = SnapshotFile {
            hostname: new.host.clone(),
            program_version: concat!("fsa ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..SnapshotFile::default()
        };
        for tag in &new.tags {
            snapshot.tags.add(tag.clone());
        }
        let options = BackupOptions::default().no_scan(true);
        let source = Source::new(archive, failures.clone(), Arc::clone(progress));
        let stored = repository.archive(&options, &source, snapshot, &[PathBuf::from(&new.path)]);
        if progress.is_canceled() {
            return match stored {
                // It was complete when the request came.
                Ok(snapshot) => Ok(info(&snapshot)),
                Err(_) => Err(Error::Canceled),
            };
        }
        match (stored, failures.first()) {
            (Ok(snapshot), None) => Ok(info(&snapshot)),
            (Ok(_), Some(failure)) | (Err(_), Some(failure)) => Err(Error::Source(failure)),
            (Err(error), None) => Err(error.into()),
        }
    }

    /// All backups, the newest first.
    ///
    /// # Errors
    /// The repository's.
    pub fn list(&self) -> Result<Vec<BackupInfo>> {
        let mut all: Vec<_> = self
            .open(Failures::default())?
            .get_all_snapshots()?
            .iter()
            .map(info)
            .collect();
        all.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.id.cmp(&b.id)));
        Ok(all)
    }

    /// Opens a backup for reading.
    ///
    /// # Errors
    /// [`Error::NoSuchBackup`]; the repository's.
    pub fn read(&self, id: &str) -> Result<Contents> {
        let repository = self.open(Failures::default())?;
        let snapshot = find(&repository, id)?;
        Ok(Contents {
            repository: repository.to_indexed()?,
            snapshot,
        })
    }

    /// Reads every byte of a backup and compares it with its checksums. Returns the problems that were found.
    ///
    /// # Errors
    /// [`Error::NoSuchBackup`]; the repository cannot be opened.
    pub fn verify(&self, id: &str) -> Result<Vec<String>> {
        let repository = self.open(Failures::default())?;
        let snapshot = find(&repository, id)?;
        let options = CheckOptions::default().read_data(true);
        let found = repository.check_with_trees(options, vec![snapshot.tree])?;
        if found.is_ok().is_ok() {
            return Ok(Vec::new());
        }
        let problems = found.0.into_iter().take(PROBLEMS_MAX);
        Ok(problems.map(|(_, problem)| problem.to_string()).collect())
    }

    /// Deletes backups. What only they had is removed by [`Self::prune`]. Idempotent.
    ///
    /// # Errors
    /// The repository's.
    pub fn delete(&self, ids: &[String]) -> Result<()> {
        let repository = self.open(Failures::default())?;
        let ids: Vec<SnapshotId> = repository
            .get_all_snapshots()?
            .into_iter()
            .map(|snapshot| snapshot.id)
            .filter(|id| ids.contains(&id.to_hex().as_str().to_owned()))
            .collect();
        Ok(repository.delete_snapshots(&ids)?)
    }

    /// Frees the space of deleted backups. Packs are removed a day after nothing needs them, so that a backup that runs
    /// meanwhile may still refer to them.
    ///
    /// # Errors
    /// The repository's.
    pub fn prune(&self) -> Result<()> {
        let repository = self.open(Failures::default())?;
        let options = PruneOptions::default();
        let plan = repository.prune_plan(&options)?;
        Ok(repository.prune(&options, plan)?)
    }
}

fn find(repository: &Opened, id: &str) -> Result<SnapshotFile> {
    let all = repository.get_all_snapshots()?;
    all.into_iter()
        .find(|snapshot| snapshot.id.to_hex().as_str() == id)
        .ok_or_else(|| Error::NoSuchBackup(id.to_owned()))
}

fn info(snapshot: &SnapshotFile) -> BackupInfo {
    let summary = snapshot.summary.as_ref();
    BackupInfo {
        id: snapshot.id.to_hex().as_str().to_owned(),
        time: DateTime::from_timestamp(snapshot.time.timestamp().as_second(), 0).unwrap_or_default(),
        tags: snapshot.tags.to_string().split(',').map(str::to_owned).collect(),
        files: summary.map_or(0, |summary| summary.total_files_processed),
        bytes: summary.map_or(0, |summary| summary.total_bytes_processed),
        added_bytes: summary.map_or(0, |summary| summary.data_added_packed),
    }
}

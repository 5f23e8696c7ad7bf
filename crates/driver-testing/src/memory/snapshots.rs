//! Snapshots of the in-memory driver: copies of the maps of files. Its databases are not in volumes, so
//! they are in no snapshot.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use fsa_driver::{DriverError, Result, SnapshotFile};
use fsa_model::{
    FailureKind, SandboxRef, SnapshotId, VolumeId,
    sandboxd::FileKind,
    snapshot::{ChangeKind, FileChange, FileChanges, SnapshotContent},
};

use parking_lot::Mutex;

use super::{Files, World};

/// The files of a volume at one moment, by path.
#[derive(Clone, Default)]
pub(super) struct Snapshot {
    pub home: BTreeMap<String, Bytes>,
    pub root: BTreeMap<String, Bytes>,
}

impl Snapshot {
    pub fn bytes(&self) -> u64 {
        let files = self.home.values().chain(self.root.values());
        files.map(|content| content.len() as u64).sum()
    }

    fn files(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        self.home.iter().chain(&self.root)
    }
}

impl World {
    fn present(&self, sandbox: &SandboxRef) -> Option<Snapshot> {
        let home = self.volumes.get(&sandbox.volume)?;
        let root = self.sandboxes.get(&sandbox.resource).map(|found| &found.root);
        Some(Snapshot {
            home: home.lock().clone(),
            root: root.map(|files| files.lock().clone()).unwrap_or_default(),
        })
    }

    pub fn create_snapshot(&mut self, sandbox: &SandboxRef, snapshot: SnapshotId) -> Result<SnapshotContent> {
        let present = self.present(sandbox).ok_or_else(|| {
            DriverError::new(
                FailureKind::Input,
                "there is nothing to take a snapshot of; start the project first",
            )
        })?;
        let key = (sandbox.volume, snapshot);
        let taken = self.snapshots.entry(key).or_insert(present);
        Ok(SnapshotContent {
            bytes: Some(taken.bytes()),
            database: None,
        })
    }

    pub fn restore_snapshot(
        &mut self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<()> {
        let restored = self.found(from, snapshot)?.clone();
        if let Some(found) = self.sandboxes.get(&sandbox.resource) {
            if found.process.is_some() {
                return Err(DriverError::new(
                    FailureKind::Transient,
                    "a sandbox uses the files that a restore would replace",
                ));
            }
            *found.root.lock() = restored.root;
        }
        let home: &Files = self.volumes.entry(sandbox.volume).or_default();
        *Arc::clone(home).lock() = restored.home;
        Ok(())
    }

    pub fn clone_snapshot(
        &mut self,
        from: VolumeId,
        snapshot: SnapshotId,
        sandbox: &SandboxRef,
    ) -> Result<()> {
        if self.volumes.contains_key(&sandbox.volume) {
            return Ok(());
        }
        let copied = self.found(from, snapshot)?.clone();
        self.volumes
            .insert(sandbox.volume, Arc::new(Mutex::new(copied.home)));
        self.sandbox(sandbox).root = Arc::new(Mutex::new(copied.root));
        Ok(())
    }

    pub fn snapshot_file(
        &self,
        sandbox: &SandboxRef,
        snapshot: Option<SnapshotId>,
        path: &str,
        bytes_max: u64,
    ) -> Result<SnapshotFile> {
        let state = match snapshot {
            Some(snapshot) => self.found(sandbox.volume, snapshot)?.clone(),
            None => self.present(sandbox).unwrap_or_default(),
        };
        let found = state.files().find(|(name, _)| *name == path);
        Ok(match found.map(|(_, content)| content) {
            None => SnapshotFile::Absent,
            Some(content) if content.len() as u64 > bytes_max => SnapshotFile::TooLarge,
            Some(content) => SnapshotFile::Content(content.to_vec()),
        })
    }

    pub fn diff_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: SnapshotId,
        to: Option<SnapshotId>,
    ) -> Result<FileChanges> {
        let before = self.found(sandbox.volume, from)?.clone();
        let after = match to {
            Some(to) => self.found(sandbox.volume, to)?.clone(),
            None => self.present(sandbox).unwrap_or_default(),
        };
        let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (before.files().collect(), after.files().collect());
        let mut changes = FileChanges::default();
        let mut paths: Vec<_> = before.keys().chain(after.keys()).copied().collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let change = match (before.get(path), after.get(path)) {
                (None, _) => ChangeKind::Added,
                (_, None) => ChangeKind::Removed,
                (one, other) if one == other => continue,
                _ => ChangeKind::Changed,
            };
            match change {
                ChangeKind::Added => changes.added += 1,
                ChangeKind::Changed => changes.changed += 1,
                ChangeKind::Removed => changes.removed += 1,
            }
            changes.changes.push(FileChange {
                path: path.clone(),
                encoded_path: None,
                change,
                kind: FileKind::File,
                size_before: before.get(path).map(|content| content.len() as u64),
                size: after.get(path).map(|content| content.len() as u64),
            });
        }
        Ok(changes)
    }

    fn found(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<&Snapshot> {
        self.snapshots
            .get(&(volume, snapshot))
            .ok_or_else(|| DriverError::new(FailureKind::Input, "there is no such snapshot"))
    }
}

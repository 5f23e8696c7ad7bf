//! Backups of the in-memory driver: the files of a snapshot as folders, and a volume from an archive.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use fsa_driver::{DriverError, Result, backup::VolumeFiles};
use fsa_model::{
    FailureKind, SandboxRef,
    snapshot_files::{SnapshotEntry, SnapshotEntryKind, SnapshotFolder, SnapshotPath, VolumePart},
};
use parking_lot::Mutex;

use super::{MemoryDriver, script::Call};

fn failed(error: io::Error) -> DriverError {
    DriverError::new(FailureKind::Machine, "a pipe failed").because(error)
}

impl MemoryDriver {
    fn part(&self, path: &SnapshotPath) -> Result<BTreeMap<String, Bytes>> {
        let world = self.world.lock();
        let snapshot = world.snapshots.get(&(path.sandbox.volume, path.snapshot));
        let snapshot =
            snapshot.ok_or_else(|| DriverError::new(FailureKind::Input, "there is no such snapshot"))?;
        Ok(match path.part {
            VolumePart::Home => snapshot.home.clone(),
            VolumePart::Root => snapshot.root.clone(),
        })
    }
}

fn entry(name: &str, kind: SnapshotEntryKind, size: u64) -> SnapshotEntry {
    SnapshotEntry {
        name: name.as_bytes().to_vec(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: (1, 0),
        changed: (1, 0),
        size,
        inode: 0,
        links: 1,
        attributes: Vec::new(),
    }
}

const FOLDER: SnapshotEntryKind = SnapshotEntryKind::Directory { opaque: false };

#[async_trait]
impl VolumeFiles for MemoryDriver {
    async fn list(&self, path: &SnapshotPath, after: &[u8]) -> Result<SnapshotFolder> {
        self.script
            .begin_faults(Call::ListSnapshot)
            .await?
            .apply()
            .await?;
        let folder = String::from_utf8_lossy(&path.path.0).into_owned();
        let mut entries = BTreeMap::new();
        for (name, content) in self.part(path)? {
            let name = name.trim_start_matches('/');
            let below = match folder.is_empty() {
                true => Some(name),
                false => name.strip_prefix(&folder).and_then(|rest| rest.strip_prefix('/')),
            };
            match below.map(|below| {
                below
                    .split_once('/')
                    .map_or((below, None), |(name, rest)| (name, Some(rest)))
            }) {
                Some((name, Some(_))) => drop(entries.insert(name.to_owned(), entry(name, FOLDER, 0))),
                Some((name, None)) => {
                    let size = content.len() as u64;
                    entries.insert(name.to_owned(), entry(name, SnapshotEntryKind::File, size));
                }
                None => {}
            }
        }
        let entries = entries
            .into_values()
            .filter(|entry| entry.name.as_slice() > after)
            .collect();
        Ok(SnapshotFolder {
            folder: Some(entry("", FOLDER, 0)),
            entries,
            more: false,
        })
    }

    async fn open(&self, path: &SnapshotPath) -> Result<File> {
        self.script
            .begin_faults(Call::OpenSnapshotFile)
            .await?
            .apply()
            .await?;
        let wanted = String::from_utf8_lossy(&path.path.0).into_owned();
        let found = self
            .part(path)?
            .into_iter()
            .find(|(name, _)| name.trim_start_matches('/') == wanted);
        let (_, content) =
            found.ok_or_else(|| DriverError::new(FailureKind::Input, "there is no such file"))?;
        let (output, mut input) = io::pipe().map_err(failed)?;
        std::thread::spawn(move || input.write_all(&content));
        Ok(File::from(OwnedFd::from(output)))
    }

    async fn import(&self, sandbox: &SandboxRef, archive: OwnedFd) -> Result<()> {
        let call = self.log.begin(Call::ImportVolume, sandbox.volume);
        let work = async {
            let halfway = self.script.begin_faults(Call::ImportVolume).await?;
            if self.world.lock().volumes.contains_key(&sandbox.volume) {
                return Ok(());
            }
            let read = tokio::task::spawn_blocking(move || unpack(File::from(archive)));
            let mut parts = read
                .await
                .map_err(|error| {
                    DriverError::new(FailureKind::Internal, "unpacking panicked").because(error)
                })?
                .map_err(|error| {
                    DriverError::new(FailureKind::Input, "the archive is damaged").because(error)
                })?;
            let mut part =
                |part: VolumePart| Arc::new(Mutex::new(parts.remove(part.folder()).unwrap_or_default()));
            {
                let mut world = self.world.lock();
                world.volumes.insert(sandbox.volume, part(VolumePart::Home));
                world.sandbox(sandbox).root = part(VolumePart::Root);
            }
            halfway.apply().await
        };
        call.end(work.await)
    }
}

type Parts = BTreeMap<String, BTreeMap<String, Bytes>>;

/// The files of an archive, by the folder of their part.
fn unpack(archive: File) -> io::Result<Parts> {
    let mut parts = Parts::new();
    let mut archive = tar::Archive::new(archive);
    for found in archive.entries()? {
        let mut found = found?;
        if found.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        let path = found.path()?.display().to_string();
        let mut content = Vec::new();
        found.read_to_end(&mut content)?;
        if let Some((part, name)) = path.split_once('/') {
            parts
                .entry(part.to_owned())
                .or_default()
                .insert(format!("/{name}"), content.into());
        }
    }
    Ok(parts)
}

//! Choice of the storage backend: made at the first start, recorded in the runner's folder.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::runner::Storage;

const NAME: &str = "storage.json";

/// The pool of a data folder, `storage.json`. Without the file, the backend is `copy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "backend")]
pub enum Record {
    Btrfs { source: Source, fsid: Uuid },
}

/// What a pool of btrfs is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The data folder's own file system.
    Folder,
    /// A sparse file in the runner's folder.
    File,
    Device(PathBuf),
}

impl Record {
    /// `None` where there is no record.
    ///
    /// # Errors
    /// The file system's; `InvalidData`.
    pub fn read(runner: &Path) -> io::Result<Option<Self>> {
        match fs::read(runner.join(NAME)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the record of a pool that could not be made.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(runner: &Path) -> io::Result<()> {
        match fs::remove_file(runner.join(NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the record, and waits for the disk: without it the pool's volumes would not be found.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, runner: &Path) -> io::Result<()> {
        let new = runner.join(format!("{NAME}.new"));
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(new, runner.join(NAME))?;
        fs::File::open(runner)?.sync_all()
    }
}

/// What is known when the runner starts.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub rootless: bool,
    /// There are volumes in plain folders.
    pub has_folders: bool,
    /// The data folder is on btrfs.
    pub on_btrfs: bool,
}

/// How to open the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Copy,
    /// Made by an earlier start.
    Open {
        source: Source,
        fsid: Uuid,
    },
    Create(Source),
    /// Plain folders where that fails.
    TryCreate(Source),
}

/// Decides by the record and the setting. Volumes in plain folders are moved to a pool ([`super::moving`]), and never
/// back.
///
/// # Errors
/// Why the setting cannot be followed, and what to do.
pub fn plan(record: Option<Record>, setting: Option<&Storage>, facts: Facts) -> Result<Plan, String> {
    let conflict = |has: &str, wants: &str| {
        Err(format!(
            "this data folder has its volumes {has}, and the setting storage says {wants}: set it back, or use \
             another data folder"
        ))
    };
    match (record, setting) {
        (None, None | Some(Storage::Copy)) => Ok(Plan::Copy),
        // Nobody asked for a move, or for quotas on a file system that is not ours alone.
        (None, Some(Storage::Auto)) if facts.rootless || facts.has_folders || facts.on_btrfs => {
            Ok(Plan::Copy)
        }
        (None, Some(Storage::Auto)) => Ok(Plan::TryCreate(Source::File)),
        (_, _) if facts.rootless => {
            Err("storage on btrfs needs root: start fsa serve as root, or set storage to copy".into())
        }
        (None, Some(Storage::Btrfs)) if facts.on_btrfs => Ok(Plan::Create(Source::Folder)),
        (None, Some(Storage::Btrfs)) => Ok(Plan::Create(Source::File)),
        (None, Some(Storage::Device(device))) => Ok(Plan::Create(Source::Device(device.clone()))),
        (Some(_), Some(Storage::Copy)) => conflict("on btrfs", "copy"),
        (Some(Record::Btrfs { source, .. }), Some(Storage::Device(device)))
            if source != Source::Device(device.clone()) =>
        {
            conflict("on btrfs elsewhere", &device.display().to_string())
        }
        (Some(Record::Btrfs { source, fsid }), _) => Ok(Plan::Open { source, fsid }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Facts = Facts {
        rootless: false,
        has_folders: false,
        on_btrfs: false,
    };

    fn record(source: Source) -> Record {
        Record::Btrfs {
            source,
            fsid: Uuid::nil(),
        }
    }

    #[test]
    fn a_new_data_folder_gets_what_the_setting_says_and_plain_folders_without_it() {
        let device = || PathBuf::from("/dev/vdb");
        let on_btrfs = Facts {
            on_btrfs: true,
            ..PLAIN
        };
        for (setting, facts, expected) in [
            (None, PLAIN, Plan::Copy),
            (None, on_btrfs, Plan::Copy),
            (Some(Storage::Copy), PLAIN, Plan::Copy),
            (Some(Storage::Btrfs), PLAIN, Plan::Create(Source::File)),
            (Some(Storage::Btrfs), on_btrfs, Plan::Create(Source::Folder)),
            (
                Some(Storage::Device(device())),
                on_btrfs,
                Plan::Create(Source::Device(device())),
            ),
        ] {
            assert_eq!(plan(None, setting.as_ref(), facts), Ok(expected));
        }
    }

    #[test]
    fn without_a_choice_a_new_data_folder_gets_btrfs_where_that_concerns_nothing_else() {
        let auto = |facts| plan(None, Some(&Storage::Auto), facts).unwrap();
        assert_eq!(auto(PLAIN), Plan::TryCreate(Source::File));
        let rootless = Facts {
            rootless: true,
            ..PLAIN
        };
        let with_folders = Facts {
            has_folders: true,
            ..PLAIN
        };
        let on_btrfs = Facts {
            on_btrfs: true,
            ..PLAIN
        };
        for facts in [rootless, with_folders, on_btrfs] {
            assert_eq!(auto(facts), Plan::Copy);
        }
    }

    #[test]
    fn a_recorded_pool_is_opened_whether_the_setting_is_there_or_not() {
        for setting in [None, Some(Storage::Auto), Some(Storage::Btrfs)] {
            assert_eq!(
                plan(Some(record(Source::File)), setting.as_ref(), PLAIN),
                Ok(Plan::Open {
                    source: Source::File,
                    fsid: Uuid::nil()
                })
            );
        }
    }

    #[test]
    fn volumes_are_not_left_behind_by_another_setting() {
        let rootless = Facts {
            rootless: true,
            ..PLAIN
        };
        let device = Storage::Device("/dev/vdb".into());
        for (record, setting, facts, text) in [
            (Some(record(Source::File)), Storage::Copy, PLAIN, "on btrfs"),
            (Some(record(Source::File)), device, PLAIN, "/dev/vdb"),
            (None, Storage::Btrfs, rootless, "needs root"),
        ] {
            let refused = plan(record, Some(&setting), facts).unwrap_err();
            assert!(refused.contains(text), "{refused}");
        }
    }

    #[test]
    fn the_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let written = record(Source::Device("/dev/vdb".into()));
        written.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(written));
    }
}

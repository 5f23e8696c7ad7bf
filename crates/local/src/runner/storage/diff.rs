//! Differences between two states of a volume's files.
//!
//! Both trees are walked together by descriptors, and no link is followed: the present files may be
//! changed by their sandbox meanwhile. Files count as equal if kind, size, owner, mode and the time of
//! their last change are; contents are not read.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use fsa_model::{
    percent,
    sandboxd::{FileKind, HOME},
    snapshot::{ChangeKind, FileChange, FileChanges},
};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// Changes that are listed.
const CHANGES_MAX: usize = 10_000;
/// Entries that are compared: about ten seconds on a busy machine.
const ENTRIES_MAX: u64 = 2_000_000;

/// The folders of one state of a volume; a missing one is empty.
#[derive(Clone, Debug)]
pub struct Parts {
    pub home: PathBuf,
    /// What was changed in the root file system: the upper folder of an overlay.
    pub upper: PathBuf,
    /// The states are of one file system, so that the time of the last change of a file that did not
    /// change is the same in both. Copies have another.
    pub keeps_change_time: bool,
}

/// Compares two states.
///
/// # Errors
/// A folder cannot be read.
pub fn compare(before: &Parts, after: &Parts) -> io::Result<FileChanges> {
    let mut walk = Walk::new(before, after);
    walk.pair(&before.home, &after.home, HOME)?;
    walk.pair(&before.upper, &after.upper, "")?;
    Ok(walk.finish())
}

/// Whether two states differ, or their databases' folders do. Ends at the first difference.
///
/// # Errors
/// A folder cannot be read.
pub fn differ(before: &Parts, after: &Parts, database_before: &Path, database: &Path) -> io::Result<bool> {
    let mut walk = Walk::new(before, after);
    walk.ends_at_first = true;
    walk.pair(&before.home, &after.home, HOME)?;
    walk.pair(&before.upper, &after.upper, "")?;
    walk.pair(database_before, database, "")?;
    // What is too much to be compared counts as changed.
    Ok(walk.has_difference() || walk.changes.truncated)
}

struct Walk {
    ends_at_first: bool,
    with_change_time: bool,
    entries: u64,
    changes: FileChanges,
    listed: Vec<(Vec<u8>, FileChange)>,
}

impl Walk {
    fn new(before: &Parts, after: &Parts) -> Self {
        Self {
            ends_at_first: false,
            with_change_time: before.keeps_change_time && after.keeps_change_time,
            entries: 0,
            changes: FileChanges::default(),
            listed: Vec::new(),
        }
    }

    fn has_difference(&self) -> bool {
        self.changes.added + self.changes.changed + self.changes.removed > 0
    }

    /// Compares two folders; `shown` is their path in the sandbox.
    fn pair(&mut self, before: &Path, after: &Path, shown: &str) -> io::Result<()> {
        let open = |path: &Path| match open(CWD, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            folder => folder.map(Some),
        };
        let (before, after) = (open(before)?, open(after)?);
        // Relative to the two folders, so that no number of descriptors grows with the depth.
        let mut waiting = vec![PathBuf::new()];
        while let Some(path) = waiting.pop() {
            let of_before = read(before.as_ref(), &path)?;
            let of_after = read(after.as_ref(), &path)?;
            self.folder(of_before, of_after, &path, shown, &mut waiting);
            if self.ends_at_first && self.has_difference() {
                return Ok(());
            }
            if self.entries > ENTRIES_MAX {
                self.changes.truncated = true;
                return Ok(());
            }
        }
        Ok(())
    }

    fn folder(
        &mut self,
        mut before: BTreeMap<OsString, Stat>,
        after: BTreeMap<OsString, Stat>,
        path: &Path,
        shown: &str,
        waiting: &mut Vec<PathBuf>,
    ) {
        for (name, now) in after {
            let then = before.remove(&name);
            self.entry(&path.join(name), then, Some(now), shown, waiting);
        }
        for (name, then) in before {
            self.entry(&path.join(name), Some(then), None, shown, waiting);
        }
    }

    fn entry(
        &mut self,
        path: &Path,
        before: Option<Stat>,
        after: Option<Stat>,
        shown: &str,
        waiting: &mut Vec<PathBuf>,
    ) {
        self.entries += 1;
        let descends = [before, after].into_iter().flatten().any(|stat| is_folder(&stat));
        if descends {
            // A path that is too long cannot be opened.
            if path.as_os_str().len() < 4000 {
                waiting.push(path.to_owned());
            } else {
                self.changes.truncated = true;
            }
        }
        // A whiteout of overlayfs marks a deleted file of the image.
        let (had, has) = (
            before.as_ref().is_some_and(is_whiteout),
            after.as_ref().is_some_and(is_whiteout),
        );
        let change = match (before.as_ref().filter(|_| !had), after.as_ref().filter(|_| !has)) {
            (None, None) if has && !had => ChangeKind::Removed,
            (None, None) if had && !has => ChangeKind::Added,
            (None, None) => return,
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Removed,
            (Some(before), Some(after)) if self.are_equal(before, after) => return,
            (Some(_), Some(_)) => ChangeKind::Changed,
        };
        match change {
            ChangeKind::Added => self.changes.added += 1,
            ChangeKind::Changed => self.changes.changed += 1,
            ChangeKind::Removed => self.changes.removed += 1,
        }
        if self.listed.len() >= CHANGES_MAX {
            self.changes.truncated = true;
            return;
        }
        let size = |stat: Option<Stat>, gone: bool| {
            let size = stat.filter(|stat| !gone && !is_folder(stat))?.st_size;
            u64::try_from(size).ok()
        };
        let full = Path::new("/").join(shown).join(path);
        let bytes = full.as_os_str().as_bytes().to_owned();
        let change = FileChange {
            path: full.to_string_lossy().into_owned(),
            encoded_path: full.to_str().is_none().then(|| percent::encode(&bytes)),
            change,
            kind: after
                .filter(|_| !has)
                .or(before)
                .as_ref()
                .map_or(FileKind::Other, kind),
            size_before: size(before, had),
            size: size(after, has),
        };
        self.listed.push((bytes, change));
    }

    fn are_equal(&self, before: &Stat, after: &Stat) -> bool {
        if is_folder(before) && is_folder(after) {
            // What is in them is listed by itself.
            return owner(before) == owner(after);
        }
        let written = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size, stat.st_rdev);
        let changed = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
        owner(before) == owner(after)
            && written(before) == written(after)
            && (!self.with_change_time || changed(before) == changed(after))
    }

    fn finish(mut self) -> FileChanges {
        self.listed.sort_by(|one, other| one.0.cmp(&other.0));
        self.changes.changes = self.listed.into_iter().map(|(_, change)| change).collect();
        self.changes
    }
}

/// Owner and mode, with the kind of file.
fn owner(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_uid, stat.st_gid, stat.st_mode)
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(super) fn kind(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

/// The entries of a folder below `top`; none where there is no such folder.
fn read(top: Option<&OwnedFd>, path: &Path) -> io::Result<BTreeMap<OsString, Stat>> {
    let mut found = BTreeMap::new();
    let Some(top) = top else {
        return Ok(found);
    };
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let folder = match rustix::fs::openat2(top, path, flags, Mode::empty(), resolve) {
        Ok(folder) => folder,
        // Not a folder in this state, or not there any more.
        Err(
            rustix::io::Errno::NOENT
            | rustix::io::Errno::NOTDIR
            | rustix::io::Errno::LOOP
            | rustix::io::Errno::XDEV,
        ) => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match rustix::fs::statat(&folder, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => drop(found.insert(OsString::from_vec(name.to_vec()), stat)),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

pub(super) fn open(at: impl std::os::fd::AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct State(tempfile::TempDir);

    impl State {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("home")).unwrap();
            Self(folder)
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH;
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }

        fn parts(&self) -> Parts {
            Parts {
                home: self.0.path().join("home"),
                upper: self.0.path().join("upper"),
                keeps_change_time: false,
            }
        }
    }

    #[test]
    fn what_was_added_changed_and_removed_is_listed_with_paths_of_the_sandbox() {
        let (before, after) = (State::new(), State::new());
        for state in [&before, &after] {
            state.write("home/project/same", "same");
        }
        before.write("home/project/changed", "one");
        after.write("home/project/changed", "three");
        before.write("home/gone/file", "gone");
        after.write("upper/etc/new", "new");

        let found = compare(&before.parts(), &after.parts()).unwrap();

        let lines: Vec<_> = found
            .changes
            .iter()
            .map(|one| (one.path.as_str(), one.change, one.size_before, one.size))
            .collect();
        assert_eq!(
            lines,
            [
                ("/etc", ChangeKind::Added, None, None),
                ("/etc/new", ChangeKind::Added, None, Some(3)),
                ("/home/dev/gone", ChangeKind::Removed, None, None),
                ("/home/dev/gone/file", ChangeKind::Removed, Some(4), None),
                ("/home/dev/project/changed", ChangeKind::Changed, Some(3), Some(5)),
            ]
        );
        assert_eq!(
            (found.added, found.changed, found.removed, found.truncated),
            (2, 1, 2, false)
        );
    }

    #[test]
    fn a_link_is_compared_and_never_followed() {
        let (before, after) = (State::new(), State::new());
        for (state, target) in [(&before, "/etc"), (&after, "/usr/bin")] {
            std::os::unix::fs::symlink(target, state.0.path().join("home/link")).unwrap();
        }
        fs::create_dir(before.0.path().join("home/folder")).unwrap();
        std::os::unix::fs::symlink("/etc", after.0.path().join("home/folder")).unwrap();

        let found = compare(&before.parts(), &after.parts()).unwrap();

        let paths: Vec<_> = found.changes.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["/home/dev/folder", "/home/dev/link"]);
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_encoded() {
        let (before, after) = (State::new(), State::new());
        fs::write(after.0.path().join("home").join(OsStr::from_bytes(b"\xff")), "").unwrap();

        let found = compare(&before.parts(), &after.parts()).unwrap();

        assert_eq!(
            found.changes[0].encoded_path.as_deref(),
            Some("%2Fhome%2Fdev%2F%FF")
        );
    }
}

//! A repository in a folder: what is stored is read again, by this crate and by restic, and nothing incomplete is kept.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    sync::Arc,
};

use fsa_backup::{
    Archive, BackupInfo, Entry, EntryKind, Error, Folder, NewBackup, Progress, Repository, Result,
    SourceEntry,
};

const PASSWORD: &str = "correct horse";

fn repository(folder: &Path, password: &str) -> Repository {
    Repository::new(Arc::new(Folder::new(folder)), password.to_owned().into())
}

fn file(path: &str, content: Vec<u8>) -> SourceEntry {
    // As on a disk, the time of the last change is another for another content.
    let change = content.iter().map(|byte| u32::from(*byte)).sum();
    let entry = Entry {
        size: content.len() as u64,
        uid: 1000,
        gid: 1000,
        modified: (1_700_000_000, 5),
        changed: (1_700_000_000, change),
        inode: 1,
        ..Entry::new(path, EntryKind::File, 0o640)
    };
    SourceEntry {
        entry,
        open: Some(Box::new(|| {
            Ok(Box::new(io::Cursor::new(content)) as Box<dyn Read + Send>)
        })),
    }
}

fn other(path: &str, kind: EntryKind) -> SourceEntry {
    SourceEntry {
        entry: Entry::new(path, kind, 0o755),
        open: None,
    }
}

/// Content that neither compresses nor repeats.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

fn tree(main: &str) -> Archive {
    let entries = vec![
        other("home", EntryKind::Directory),
        file("home/big", noise(3 << 20)),
        other("home/link", EntryKind::Symlink("../etc/x y".into())),
        file("home/main.py", main.into()),
        other("root", EntryKind::Directory),
        other("root/gone", EntryKind::CharacterDevice(0)),
    ];
    Box::new(entries.into_iter().map(Ok))
}

fn store(repository: &Repository, archive: Archive) -> Result<BackupInfo> {
    let new = NewBackup {
        host: "fsa".into(),
        path: "/projects/shop".into(),
        tags: vec!["backup:1".into(), "project:2".into()],
    };
    repository.back_up(&new, archive, &Arc::default())
}

fn listed(repository: &Repository, id: &str, below: &str) -> Vec<(String, Vec<u8>)> {
    let contents = repository.read(id).unwrap();
    let mut found = Vec::new();
    contents
        .walk::<Error>(Path::new(below), &mut |entry, content| {
            let mut bytes = Vec::new();
            if entry.kind == EntryKind::File {
                content.write_to(&mut bytes)?;
            }
            found.push((entry.path.display().to_string(), bytes));
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn a_backup_is_read_as_it_was_stored_and_the_next_one_adds_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    let first = store(&repository(&path, PASSWORD), tree("print(1)")).unwrap();
    let again = repository(&path, PASSWORD);
    let second = store(&again, tree("print(2)")).unwrap();

    assert_eq!((first.files, first.bytes), (4, (3 << 20) + 8));
    assert!(first.added_bytes > 3 << 20, "{first:?}");
    assert!(second.added_bytes < 64 << 10, "{second:?}");
    assert_eq!(second.tags, ["backup:1", "project:2"]);
    assert_eq!(again.list().unwrap().len(), 2);
    let home = listed(&again, &first.id, "home");
    let names: Vec<&str> = home.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["home/big", "home/link", "home/main.py"]);
    assert_eq!(home[0].1, noise(3 << 20));
    assert_eq!(home[2].1, b"print(1)");
    assert_eq!(listed(&again, &second.id, "root")[0].0, "root/gone");
    let contents = again.read(&second.id).unwrap();
    let main = Path::new("home/main.py");
    assert_eq!(contents.read_file(main, 100).unwrap().unwrap(), b"print(2)");
    assert!(contents.read_file(main, 3).is_err(), "larger than the limit");
    assert_eq!(contents.read_file(Path::new("home/absent"), 9).unwrap(), None);
}

#[test]
fn restic_lists_checks_and_restores_what_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    let stored = store(&repository(&path, PASSWORD), tree("print(1)")).unwrap();
    let restic = |arguments: &[&str]| {
        let output = Command::new("restic")
            .args(["--no-cache", "--repo"])
            .arg(&path)
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .expect("restic is installed (scripts/install-packages.sh)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };

    let snapshots = restic(&["snapshots"]);
    restic(&["check", "--read-data"]);
    let target = folder.path().join("target");
    restic(&[
        "restore",
        &stored.id,
        "--include",
        "/home",
        "--target",
        target.to_str().unwrap(),
    ]);

    assert!(snapshots.contains("/projects/shop"), "{snapshots}");
    assert!(snapshots.contains(&stored.id[..8]), "{snapshots}");
    let main = target.join("home/main.py");
    assert_eq!(fs::read(&main).unwrap(), b"print(1)");
    let metadata = fs::metadata(&main).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(metadata.mtime(), 1_700_000_000);
    assert_eq!(
        fs::read_link(target.join("home/link")).unwrap(),
        Path::new("../etc/x y")
    );
    assert_eq!(fs::read(target.join("home/big")).unwrap(), noise(3 << 20));
}

#[test]
fn a_wrong_password_is_said_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    store(&repository(folder.path(), PASSWORD), tree("print(1)")).unwrap();

    let wrong = repository(folder.path(), "wrong");

    assert!(matches!(wrong.list(), Err(Error::WrongPassword)));
    assert!(matches!(
        store(&wrong, tree("print(2)")),
        Err(Error::WrongPassword)
    ));
    assert_eq!(repository(folder.path(), PASSWORD).list().unwrap().len(), 1);
}

#[test]
fn a_damaged_pack_is_found_by_verify_and_by_a_read() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path(), PASSWORD);
    let stored = store(&repository, tree("print(1)")).unwrap();
    assert_eq!(repository.verify(&stored.id).unwrap(), Vec::<String>::new());
    let largest = walk(&folder.path().join("data"))
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();

    assert!(!repository.verify(&stored.id).unwrap().is_empty());
    let contents = repository.read(&stored.id).unwrap();
    let read = contents.walk::<Error>(Path::new("home"), &mut |entry, content| match entry.kind {
        EntryKind::File => content.write_to(&mut io::sink()),
        _ => Ok(()),
    });
    assert!(matches!(read, Err(Error::Damaged(_))), "{read:?}");
    assert!(matches!(repository.read("00"), Err(Error::NoSuchBackup(_))));
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path),
        }
    }
    files
}

#[test]
fn a_backup_with_an_entry_that_cannot_be_read_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path(), PASSWORD);
    let broken = SourceEntry {
        open: Some(Box::new(|| Err(io::Error::other("its disk failed")))),
        ..file("home/zz", noise(10))
    };
    let cut: Archive = Box::new(tree("print(1)").chain([Err(io::Error::other("the list ended early"))]));

    let opened = store(&repository, Box::new(tree("print(1)").chain([Ok(broken)]))).unwrap_err();
    let mut longer = file("home/zz", noise(10));
    longer.entry.size = 9;
    let grown = store(&repository, Box::new([Ok(longer)].into_iter())).unwrap_err();
    let listed = store(&repository, cut).unwrap_err();

    assert_eq!(opened.to_string(), "home/zz could not be opened: its disk failed");
    assert_eq!(listed.to_string(), "the list ended early");
    assert_eq!(
        grown.to_string(),
        "home/zz has 10 bytes and not 9, as it was listed"
    );
    assert_eq!(repository.list().unwrap(), []);
    store(&repository, tree("print(1)")).unwrap();
}

#[test]
fn a_canceled_backup_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path(), PASSWORD);
    let progress = Arc::new(Progress::default());
    let canceling = Arc::clone(&progress);
    let archive = tree("print(1)").inspect(move |_| canceling.cancel());
    let new = NewBackup {
        host: "fsa".into(),
        path: "/projects/shop".into(),
        tags: Vec::new(),
    };

    let stored = repository.back_up(&new, Box::new(archive), &progress);

    assert!(matches!(stored, Err(Error::Canceled)), "{stored:?}");
    assert_eq!(repository.list().unwrap(), []);
}

#[test]
fn what_an_interrupted_backup_left_harms_no_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path(), PASSWORD);
    let stored = store(&repository, tree("print(1)")).unwrap();
    // A pack without an index entry, and half an upload.
    fs::write(folder.path().join("data/00/upload.tmp-1-0"), noise(100)).unwrap();
    fs::write(folder.path().join("data/00").join("0".repeat(64)), noise(100)).unwrap();

    let next = store(&repository, tree("print(2)")).unwrap();
    repository.delete(std::slice::from_ref(&stored.id)).unwrap();
    repository.prune().unwrap();

    assert_eq!(repository.verify(&next.id).unwrap(), Vec::<String>::new());
    let left: Vec<String> = repository.list().unwrap().into_iter().map(|b| b.id).collect();
    assert_eq!(left, [next.id]);
}

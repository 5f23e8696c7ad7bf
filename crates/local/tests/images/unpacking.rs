//! Layer unpacking tests: a layer's files are complete, and nothing is written elsewhere.

use std::{
    fs,
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

use fsa_local::{
    images::Digest,
    runner::unpack::{DeferredLink, Limits, Rules, make_links},
};
use tar::EntryType;

use crate::support::{LIMITS, Tar, World};

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn files_have_the_metadata_of_the_archive() {
    let world = World::new();
    let tar = Tar::default()
        .add(EntryType::Directory, "bin/", "", b"", |header| {
            header.set_mode(0o1777);
            header.set_uid(33);
        })
        .add(EntryType::Regular, "bin/su", "", b"#!", |header| {
            header.set_mode(0o4755);
            header.set_uid(0);
            header.set_gid(65_535);
        })
        .hardlink("bin/login", "bin/su")
        .symlink("sbin", "/absolute/is/the/sandbox's/affair")
        .add(EntryType::Fifo, "pipe", "", b"", |header| header.set_mode(0o622))
        .file("made/on/the/way", "")
        .end();

    let root = world.unpack(&tar).unwrap();

    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!(
        (su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()),
        (0o4755, 0, 65_535, 2)
    );
    assert_eq!(
        (su.mtime(), fs::read(root.join("bin/login")).unwrap()),
        (1_700_000_000, b"#!".to_vec())
    );
    let bin = fs::metadata(root.join("bin")).unwrap();
    assert_eq!(
        (bin.mode() & 0o7777, bin.uid(), bin.mtime()),
        (0o1777, 33, 1_700_000_000)
    );
    assert_eq!(
        fs::read_link(root.join("sbin")).unwrap(),
        Path::new("/absolute/is/the/sandbox's/affair")
    );
    assert_eq!(
        fs::symlink_metadata(root.join("sbin")).unwrap().mtime(),
        1_700_000_000
    );
    let pipe = fs::metadata(root.join("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o622);
    assert_eq!(fs::metadata(root.join("made/on")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_name_that_leads_out_is_refused_and_nothing_is_left() {
    for name in ["../out", "a/../../out", "/../out", "a/.."] {
        let world = World::new();

        let message = world
            .unpack(&Tar::default().file("a/first", "1").file(name, "x").end())
            .unwrap_err();

        assert!(message.contains("leads out of its folder"), "{message}");
        assert!(!world.data().join("out").exists() && !world.data().join("runner/out").exists());
        assert!(
            !world.contents().iter().any(|path| path.starts_with("runner")),
            "{:?}",
            world.contents()
        );
    }
}

#[test]
fn an_absolute_name_is_relative_to_the_layers_root() {
    let world = World::new();

    let root = world
        .unpack(&Tar::default().file("/etc/fsa-test-absolute", "x").end())
        .unwrap();

    assert!(root.join("etc/fsa-test-absolute").exists());
    assert!(!Path::new("/etc/fsa-test-absolute").exists());
}

#[test]
fn a_file_behind_a_link_stays_in_the_layer() {
    let world = World::new();
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().to_str().unwrap();
    let to_root = format!("..{}", "/..".repeat(20));

    // Each link leads out of the layer if it is resolved against the machine's root.
    let refused = world
        .unpack(&Tar::default().symlink("link", outside).file("link/x", "y").end())
        .unwrap_err();
    let root = world
        .unpack(
            &Tar::default()
                .folder("etc")
                .symlink("link", &to_root)
                .file("link/etc/x", "y")
                .end(),
        )
        .unwrap();
    let circle = world
        .unpack(
            &Tar::default()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", "y")
                .end(),
        )
        .unwrap_err();

    assert!(refused.contains("is below a link that is broken"), "{refused}");
    assert!(circle.contains("forms a loop"), "{circle}");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(root.join("etc/x")).unwrap(), "y");
    assert!(!Path::new("/etc/x").exists());
}

#[test]
fn a_file_in_place_of_a_link_does_not_write_through_it() {
    let world = World::new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let path = outside.path().to_str().unwrap();

    let root = world
        .unpack(
            &Tar::default()
                .symlink("f", path)
                .file("f", "mine")
                .symlink("d", "/tmp")
                .folder("d")
                .end(),
        )
        .unwrap();

    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "mine");
    assert!(fs::symlink_metadata(root.join("d")).unwrap().is_dir());
    assert_eq!(fs::read(outside.path()).unwrap(), b"");
}

#[test]
fn a_hard_link_reaches_nothing_outside() {
    let world = World::new();

    for target in ["../../../../../../../../etc/passwd", "/"] {
        let message = world
            .unpack(&Tar::default().hardlink("stolen", target).end())
            .unwrap_err();
        assert!(
            message.contains("leads out") || message.contains("root folder"),
            "{message}"
        );
    }
    // Also through a link to the real root; then the target may be in a layer below.
    for (target, tar) in [
        ("etc/passwd", Tar::default()),
        ("root/etc/passwd", Tar::default().symlink("root", "/")),
    ] {
        let root = world.unpack(&tar.hardlink("stolen", target).end()).unwrap();
        assert!(fs::symlink_metadata(root.join("stolen")).is_err());
    }
    let merged = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/", merged.path().join("root")).unwrap();
    let root = fs::File::open(merged.path()).unwrap();
    for target in ["etc/passwd", "root/etc/passwd"] {
        let refused = make_links(root.as_fd(), &[link("stolen", target)]).unwrap_err();
        assert!(refused.to_string().contains("nor in one below"), "{refused}");
    }
}

fn link(path: &str, target: &str) -> DeferredLink {
    DeferredLink {
        path: path.into(),
        target: target.into(),
    }
}

#[test]
fn a_hard_link_to_a_file_of_a_lower_layer_is_recorded() {
    let world = World::new();
    let tar = Tar::default()
        .hardlink("b", "/usr/a")
        .hardlink("c", "b")
        .file("d", "before")
        .hardlink("d", "usr/a")
        .hardlink("replaced", "usr/a")
        .file("replaced", "after")
        .hardlink("deleted", "usr/a")
        .file(".wh.deleted", "")
        .end();

    let root = world.unpack(&tar).unwrap();

    let layer = Digest::of(&tar).into();
    assert_eq!(
        world.layers().links(&layer),
        [link("b", "usr/a"), link("c", "b"), link("d", "usr/a")]
    );
    assert!(fs::symlink_metadata(root.join("d")).is_err());
    assert_eq!(fs::read(root.join("replaced")).unwrap(), b"after");
    let message = world
        .unpack(
            &Tar::default()
                .hardlink("e/f", "usr/a")
                .file("e/.wh..wh..opq", "")
                .end(),
        )
        .unwrap_err();
    assert!(message.contains("in a folder that hides those"), "{message}");
}

#[test]
fn device_nodes_are_skipped() {
    let world = World::new();
    let tar = Tar::default()
        .add(EntryType::Char, "dev/mem", "", b"", |header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(1).unwrap();
        })
        .add(EntryType::Block, "dev/sda", "", b"", |_| {})
        .file("dev/after", "x")
        .end();

    let root = world.unpack(&tar).unwrap();

    let left: Vec<_> = fs::read_dir(root.join("dev"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["after"]);
}

#[test]
fn deletions_become_overlayfs_whiteouts() {
    for (rules, opaque) in [
        (Rules::ROOT, "trusted.overlay.opaque"),
        (Rules::USER_NAMESPACE, "user.overlay.opaque"),
    ] {
        let world = World::with(rules, LIMITS);
        let tar = Tar::default()
            .file("etc/.wh.gone", "")
            .file("opaque/.wh..wh..opq", "")
            .file("opaque/new", "")
            // Deleted here and created again below: the lower layer's folder must not be visible.
            .file(".wh.again", "")
            .folder("again")
            .folder("first")
            .file("first/kept", "")
            .file(".wh.first", "")
            .file(".wh..wh.plnk", "")
            .end();

        let root = world.unpack(&tar).unwrap();

        let gone = fs::symlink_metadata(root.join("etc/gone")).unwrap();
        assert!(gone.file_type().is_char_device());
        assert_eq!(gone.rdev(), 0);
        for folder in ["opaque", "again", "first"] {
            assert_eq!(
                attribute(&root.join(folder), opaque),
                Some(b"y".to_vec()),
                "{folder}"
            );
        }
        assert!(root.join("first/kept").exists());
        assert!(!root.join(".wh..wh.plnk").exists());
    }
}

#[test]
fn a_deletion_without_a_name_is_refused() {
    for name in ["a/.wh.", "a/.wh..", "a/.wh..."] {
        let message = World::new()
            .unpack(&Tar::default().file(name, "").end())
            .unwrap_err();
        assert!(
            message.contains("deletes an entry without a name"),
            "{name}: {message}"
        );
    }
}

#[test]
fn attributes_for_the_machine_are_skipped() {
    let world = World::new();
    // vfs_cap_data, version 2: cap_net_bind_service=ep
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.user.note", b"hello"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"x"),
        ])
        .file("ping", "")
        .end();

    let ping = world.unpack(&tar).unwrap().join("ping");

    assert_eq!(attribute(&ping, "user.note"), Some(b"hello".to_vec()));
    assert_eq!(attribute(&ping, "security.capability"), Some(capability.to_vec()));
    for name in [
        "trusted.overlay.redirect",
        "user.overlay.redirect",
        "security.selinux",
    ] {
        assert_eq!(attribute(&ping, name), None, "{name}");
    }
}

#[test]
fn an_owner_that_no_sandbox_has_is_refused_with_the_reason() {
    let tar = Tar::default()
        .add(EntryType::Regular, "file", "", b"", |header| {
            header.set_uid(100_000)
        })
        .end();

    let message = World::new().unpack(&tar).unwrap_err();

    assert!(message.contains("belongs to user 100000"), "{message}");
}

#[test]
fn more_than_the_limits_is_refused_and_nothing_is_left() {
    let many = (0..30)
        .fold(Tar::default(), |tar, n| tar.file(&format!("{n}"), "x"))
        .end();
    let large = Tar::default()
        .add(EntryType::Regular, "large", "", &[7; 50_000], |_| {})
        .end();
    let skipped = Tar::default()
        .add(EntryType::new(b'V'), "label", "", &[7; 50_000], |_| {})
        .end();
    let trailing = [Tar::default().file("small", "x").end(), vec![7; 50_000]].concat();
    let deep = Tar::default()
        .pax(&[("path", "d/".repeat(300).as_bytes())])
        .folder("x")
        .end();
    let long = Tar::default()
        .pax(&[("path", "d".repeat(5000).as_bytes())])
        .folder("x")
        .end();
    let name = Tar::default()
        .pax(&[("path", "d".repeat(256).as_bytes())])
        .folder("x")
        .end();
    let limits = Limits {
        entries: 20,
        bytes: 40_000,
        keep_free: 0,
    };

    for (tar, expected) in [
        (many, "more than the limit of 20 files"),
        (large, "more than the limit of 0 GB"),
        (skipped, "more than the limit of 0 GB"),
        (trailing, "more than the limit of 0 GB"),
        (deep, "more than 256 folders"),
        (long, "too long"),
        (name, "255 bytes"),
    ] {
        let world = World::with(Rules::ROOT, limits);
        let message = world.unpack(&tar).unwrap_err();
        assert!(message.contains(expected), "{message}");
        assert!(
            !world.contents().iter().any(|path| path.starts_with("runner")),
            "{:?}",
            world.contents()
        );
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_left() {
    let world = World::with(
        Rules::ROOT,
        Limits {
            keep_free: u64::MAX / 2,
            ..LIMITS
        },
    );

    let message = world.unpack(&Tar::default().file("a", "b").end()).unwrap_err();

    assert!(message.contains("the disk is full"), "{message}");
    assert!(!world.contents().iter().any(|path| path.starts_with("runner")));
}

#[test]
fn depth_cannot_be_gained_through_links() {
    // Each entry is short enough; through the link the folders would be nested three times as deep.
    let deep = "d/".repeat(45);
    let mut tar = Tar::default()
        .folder(&deep)
        .symlink("l0", deep.trim_end_matches('/'));
    for n in 0..8 {
        tar = tar.folder(&format!("l{n}/{}", "e/".repeat(40)));
        tar = tar.symlink(
            &format!("l{}", n + 1),
            format!("l{n}/{}", "e/".repeat(39)).trim_end_matches('/'),
        );
    }

    let message = World::new().unpack(&tar.end()).unwrap_err();

    assert!(message.contains("too deep"), "{message}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn no_order_of_entries_leaves_the_layer(steps in proptest::collection::vec((0..7u8, 0..6usize, 0..6usize), 1..30)) {
        const NAMES: [&str; 6] = ["a", "a/b", "a/b/c", "l", "l/x", ".wh.a"];
        const TARGETS: [&str; 6] = ["/", "..", "a", "../../../../../../tmp", "/tmp/fsa-escape", "l"];
        let world = World::new();
        let tar = steps.iter().fold(Tar::default(), |tar, (kind, name, target)| {
            let (name, target) = (NAMES[*name], TARGETS[*target]);
            match kind {
                0 => tar.file(name, "x"),
                1 => tar.folder(name),
                2 => tar.symlink(name, target),
                3 => tar.hardlink(name, target),
                4 => tar.add(EntryType::Fifo, name, "", b"", |_| {}),
                5 => tar.file(&format!("l/{name}"), "x"),
                _ => tar.symlink("l", target),
            }
        });

        // A machine may have some of these already.
        const OUTSIDE: [&str; 7] = ["/tmp/x", "/tmp/fsa-escape", "/a", "/l", "/x", "/tmp/a", "/tmp/l"];
        let seen = || OUTSIDE.map(|path| fs::symlink_metadata(path).and_then(|found| found.modified()).ok());
        let before = seen();

        let done = world.unpack(&tar.end());

        proptest::prop_assert_eq!(seen(), before);
        let folders: Vec<_> = fs::read_dir(world.data().join("runner")).unwrap().map(|e| e.unwrap().file_name()).collect();
        proptest::prop_assert_eq!(folders, ["layers"]);
        let left = world.contents().iter().filter(|path| path.starts_with("runner/")).count();
        proptest::prop_assert_eq!(left, if done.is_ok() { 2 } else { 0 });
    }
}

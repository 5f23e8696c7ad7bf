//! Archive import tests: complete archives become images, others leave nothing behind.

use std::{collections::HashSet, fs, sync::atomic::Ordering, time::Duration};

use fsa_local::images::{Digest, ResolvedImage, Settings};
use fsa_model::{FailureKind, Image};
use futures_util::StreamExt as _;
use serde_json::json;
use tar::EntryType;

use crate::support::{Tar, TestImage, World, architecture, gzip, layered, reference, upload, zstd};

fn settings() -> Settings {
    Settings {
        keep_free_bytes: 0,
        ..Settings::default()
    }
}

#[tokio::test]
async fn an_imported_layout_can_be_a_sandboxs_root_file_system() {
    let world = World::new();
    let store = world.store(settings());
    let made = TestImage::small();

    let info = store.import("made", upload(&made.archive())).await.unwrap();
    let image = layered(store.resolve(&reference("made")).await.unwrap());

    assert_eq!((info.name.as_str(), info.layers, info.size), ("made", 2, 15));
    assert_eq!(info.digest, Digest::of(&made.manifest).to_string());
    assert_eq!(image.digest, info.digest);
    assert_eq!(image.layers, made.diff_ids);
    assert_eq!(
        (made.read(&world, 0, "etc/name"), made.read(&world, 1, "etc/name")),
        ("lower".into(), "upper".into())
    );
    assert_eq!(
        image.config.environment,
        [("PATH".into(), "/bin".into()), ("A".into(), "b=c".into())]
    );
    assert_eq!(
        (image.config.working_dir.as_deref(), image.config.user.as_deref()),
        (Some("/srv"), Some("1000:1000"))
    );
    assert_eq!(
        (image.config.command, image.config.ports),
        (vec!["serve".to_owned()], vec![8080])
    );
    assert_eq!(store.list().unwrap().len(), 1);
    // The compressed layers are deleted; the manifest and the configuration are kept.
    assert_eq!(
        world
            .contents()
            .iter()
            .filter(|path| path.contains("blobs"))
            .count(),
        2
    );
    assert!(!world.contents().iter().any(|path| path.contains("incoming")));
}

#[tokio::test]
async fn every_form_of_archive_gives_the_same_layers() {
    let made = TestImage::small();
    let plain = TestImage::of(
        &[
            Tar::default().folder("etc/").file("etc/name", "lower").end(),
            Tar::default()
                .file("etc/name", "upper")
                .file("hello", "world")
                .end(),
        ],
        <[u8]>::to_vec,
    );
    let nested = made.layout(&json!({"schemaVersion": 2, "manifests": [{"digest": Digest::of(&made.index(architecture())), "size": 1}]}).to_string().into_bytes());
    let nested = nested.add(
        EntryType::Regular,
        &format!("./blobs/sha256/{}", Digest::of(&made.index(architecture())).hex()),
        "",
        &made.index(architecture()),
        |_| {},
    );
    // Docker's form before version 25: the second layer is a link to its file.
    let saved = Tar::default()
        .add(EntryType::Regular, "config.json", "", &plain.config, |_| {})
        .add(EntryType::Regular, "one/layer.tar", "", &plain.layers[0], |_| {})
        .add(EntryType::Regular, "other/layer.tar", "", &plain.layers[1], |_| {})
        .symlink("two/layer.tar", "../other/layer.tar")
        .file("manifest.json", &json!([{"Config": "config.json", "RepoTags": ["example.org/made:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}]).to_string())
        .end();

    for archive in [
        made.archive(),
        gzip(&made.archive()),
        zstd(&made.archive()),
        plain.archive(),
        nested.end(),
        saved.clone(),
        gzip(&saved),
    ] {
        let world = World::new();
        let store = world.store(settings());

        let info = store.import("made", upload(&archive)).await.unwrap();

        let image = layered(store.resolve(&reference("made")).await.unwrap());
        assert_eq!(image.layers, made.diff_ids);
        assert_eq!(
            (info.layers, made.read(&world, 1, "hello")),
            (2, "world".to_owned())
        );
    }
}

#[tokio::test]
async fn an_archive_without_a_given_name_has_its_own() {
    let world = World::new();
    let store = world.store(settings());

    let info = store
        .import("", upload(&TestImage::small().archive()))
        .await
        .unwrap();

    assert_eq!(info.name, "example.org/made:1");
    assert!(store.resolve(&reference("example.org/made:1")).await.is_ok());
}

#[tokio::test]
async fn a_broken_archive_is_an_error_with_the_reason_and_leaves_nothing() {
    let made = TestImage::small();
    let lacking = |keep: &dyn Fn(&[u8]) -> bool| {
        let mut tar = Tar::default().add(
            EntryType::Regular,
            "index.json",
            "",
            &made.index(architecture()),
            |_| {},
        );
        for blob in made.blobs().filter(|blob| keep(blob)) {
            tar = tar.add(
                EntryType::Regular,
                &format!("blobs/sha256/{}", Digest::of(blob).hex()),
                "",
                blob,
                |_| {},
            );
        }
        tar
    };
    let wrong = lacking(&|blob| blob != made.layers[1]).add(
        EntryType::Regular,
        &format!("blobs/sha256/{}", Digest::of(&made.layers[1]).hex()),
        "",
        b"something else",
        |_| {},
    );
    let mut lying = TestImage::small();
    lying.config = String::from_utf8(lying.config)
        .unwrap()
        .replace(&lying.diff_ids[1].to_string(), &Digest::of(b"lie").to_string())
        .into_bytes();
    lying.manifest = String::from_utf8(lying.manifest)
        .unwrap()
        .replace(
            &Digest::of(&made.config).to_string(),
            &Digest::of(&lying.config).to_string(),
        )
        .into_bytes();
    let whole = made.archive();
    let mut flipped = gzip(&whole);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let hostile = TestImage::of(
        &[
            Tar::default().file("fine", "x").end(),
            Tar::default().file("../out", "x").end(),
        ],
        gzip,
    );

    for (archive, expected) in [
        (b"hello".to_vec(), "is not a tar archive"),
        (Vec::new(), "is not a tar archive"),
        (Tar::default().end(), "is empty"),
        (Tar::default().file("readme", "x").end(), "neither an index.json"),
        (
            Tar::default().file("index.json", "{").end(),
            "a manifest that cannot be read",
        ),
        (
            Tar::default()
                .file("index.json", r#"{"schemaVersion":2,"manifests":[]}"#)
                .end(),
            "its index is empty",
        ),
        (Tar::default().file("manifest.json", "[]").end(), "holds no image"),
        (
            Tar::default()
                .file("manifest.json", r#"[{"Config":"x","Layers":[]}]"#)
                .end(),
            "lacks x",
        ),
        (
            lacking(&|blob| blob != made.manifest).end(),
            "lacks blobs/sha256/",
        ),
        (
            lacking(&|blob| blob != made.layers[1]).end(),
            "lacks blobs/sha256/",
        ),
        (wrong.end(), "is damaged: its blob"),
        (lying.archive(), "which the image's configuration requires"),
        (made.layout(&made.index("other")).end(), "is not there for linux/"),
        (hostile.archive(), "leads out of its folder"),
        (
            whole[..whole.len() / 1024 * 512 + 100].to_vec(),
            "in the middle of an entry",
        ),
        (flipped, "cannot be decompressed"),
    ] {
        let world = World::new();
        let store = world.store(settings());

        let failure = store.import("made", upload(&archive)).await.unwrap_err();

        assert!(
            failure.message.contains(expected),
            "{expected}: {}",
            failure.message
        );
        assert_eq!(failure.kind, FailureKind::Input, "{}", failure.message);
        assert_eq!(world.contents(), Default::default(), "{expected}");
        assert!(store.list().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_stalls_leaves_nothing() {
    let world = World::new();
    let store = world.store(Settings {
        idle_timeout: std::time::Duration::from_millis(50),
        ..settings()
    });
    let archive = TestImage::small().archive();
    let broken = futures_util::stream::iter(vec![
        Ok(bytes::Bytes::copy_from_slice(&archive[..3000])),
        Err(std::io::Error::new(
            std::io::ErrorKind::ConnectionReset,
            "the line went dead",
        )),
    ]);
    let stalled = upload(&archive[..3000]).chain(futures_util::stream::pending());

    let broken = store.import("made", broken).await.unwrap_err();
    let stalled = store.import("made", stalled).await.unwrap_err();

    assert_eq!(broken.kind, FailureKind::Transient);
    assert!(
        broken.message.contains("the line went dead"),
        "{}",
        broken.message
    );
    assert!(stalled.message.contains("nothing came"), "{}", stalled.message);
    assert_eq!(world.contents(), Default::default());
}

#[tokio::test]
async fn an_archive_over_the_limit_is_refused_before_it_fills_the_disk() {
    let made = TestImage::of(
        &[Tar::default()
            .add(EntryType::Regular, "zeros", "", &vec![0; 2_000_000], |_| {})
            .end()],
        <[u8]>::to_vec,
    );
    let small = || Settings {
        max_archive_bytes: 1_000_000,
        ..settings()
    };
    let no_room = Settings {
        keep_free_bytes: u64::MAX / 2,
        ..settings()
    };
    let skipped = Tar::default()
        .add(EntryType::Regular, "../outside", "", &vec![0; 2_000_000], |_| {})
        .end();
    let trailing = [TestImage::small().archive(), vec![0; 2_000_000]].concat();
    for (limited, archive, expected) in [
        (small(), made.archive(), "is larger than"),
        (small(), skipped, "is larger than"),
        (small(), trailing, "is larger than"),
        (no_room, made.archive(), "the disk has no room"),
    ] {
        let world = World::new();
        let store = world.store(limited);

        // It compresses well, but the unpacked size counts.
        let failure = store.import("made", upload(&zstd(&archive))).await.unwrap_err();

        assert!(failure.message.contains(expected), "{}", failure.message);
        assert_eq!(world.contents(), Default::default());
    }
}

#[tokio::test]
async fn a_failed_import_takes_nothing_from_the_images_that_are_here() {
    let world = World::new();
    let store = world.store(settings());
    let made = TestImage::small();
    store.import("made", upload(&made.archive())).await.unwrap();
    let before = world.contents();
    let lower = Tar::default().folder("etc/").file("etc/name", "lower").end();
    let shares_a_layer = TestImage::of(&[lower, Tar::default().file("../out", "x").end()], gzip);

    store
        .import("other", upload(&shares_a_layer.archive()))
        .await
        .unwrap_err();

    assert_eq!(world.contents(), before);
    assert!(store.resolve(&reference("made")).await.is_ok());
}

#[tokio::test]
async fn images_share_their_layers_and_a_sweep_keeps_what_is_used() {
    let world = World::new();
    let store = world.store(settings());
    let (base, one, two) = (
        Tar::default().file("base", "x").end(),
        Tar::default().file("one", "x").end(),
        Tar::default().file("two", "x").end(),
    );
    let first = TestImage::of(&[base.clone(), one], gzip);
    let second = TestImage::of(&[base, two], zstd);
    store.import("first", upload(&first.archive())).await.unwrap();
    store.import("second", upload(&second.archive())).await.unwrap();
    assert_eq!(world.unpacker.unpacked.load(Ordering::Relaxed), 3);

    store.remove("first").unwrap();
    let sandbox: HashSet<_> = [first.diff_ids[1]].into();
    let image = layered(store.resolve(&reference("second")).await.unwrap());
    let while_in_use = store.sweep(&HashSet::new()).await.unwrap();
    drop(image);
    let while_a_sandbox_is = store.sweep(&sandbox).await.unwrap();
    let afterwards = store.sweep(&HashSet::new()).await.unwrap();

    assert_eq!(
        (while_in_use.layers, while_a_sandbox_is.layers, afterwards.layers),
        (0, 0, 1)
    );
    assert_eq!(world.layers().list().unwrap().len(), 2);
    assert_eq!(store.remove("first").unwrap_err().kind, FailureKind::Input);
    assert!(store.resolve(&reference("second")).await.is_ok());
}

#[tokio::test]
async fn unused_layers_go_without_an_import_and_used_ones_stay() {
    let world = World::new();
    let store = world.store(settings());
    let image = |name: &str| TestImage::of(&[Tar::default().file(name, "x").end()], gzip);
    let (named, of_sandbox, unused) = (image("named"), image("of-sandbox"), image("unused"));
    for (name, made) in [
        ("named", &named),
        ("of-sandbox", &of_sandbox),
        ("unused", &unused),
    ] {
        store.import(name, upload(&made.archive())).await.unwrap();
    }
    store.remove("of-sandbox").unwrap();
    store.remove("unused").unwrap();
    *world.unpacker.used.lock() = of_sandbox.diff_ids.clone();

    let mut sweeps = world.unpacker.sweeps.subscribe();
    let sweeping = tokio::spawn(async move { store.sweep_periodically(Duration::from_millis(1)).await });
    let two = sweeps.wait_for(|sweeps| *sweeps >= 2);
    tokio::time::timeout(Duration::from_secs(240), two)
        .await
        .expect("no sweep without an import")
        .unwrap();
    sweeping.abort();

    let kept: HashSet<_> = world.layers().list().unwrap().into_iter().collect();
    assert_eq!(kept, [named.diff_ids[0], of_sandbox.diff_ids[0]].into());
    assert_eq!(
        std::fs::read_dir(world.data().join("images/blobs/sha256"))
            .unwrap()
            .count(),
        2
    );
}

#[tokio::test]
async fn the_template_web_comes_from_its_archive_and_again_when_that_changes() {
    let world = World::new();
    let archive = world.data().join("web.oci.tar");
    let (old, new) = (
        TestImage::small(),
        TestImage::of(&[Tar::default().file("new", "x").end()], zstd),
    );
    let store = world.store(Settings {
        web_archive: Some(archive.clone()),
        ..settings()
    });
    let web = Image::Template("web".into());

    let without = store.check(&web).await.unwrap_err();
    fs::write(&archive, old.archive()).unwrap();
    store.prepare().await.unwrap();
    let first = layered(store.resolve(&web).await.unwrap()).digest;
    let unpacked = world.unpacker.unpacked.load(Ordering::Relaxed);
    fs::write(&archive, new.archive()).unwrap();
    let second = layered(store.resolve(&web).await.unwrap()).digest;

    assert!(without.message.contains("make image"), "{}", without.message);
    assert_eq!((first, unpacked), (Digest::of(&old.manifest).to_string(), 2));
    assert_eq!(second, Digest::of(&new.manifest).to_string());
}

#[tokio::test]
async fn templates_are_known_by_name() {
    let store = World::new();
    let store = store.store(settings());

    assert!(matches!(
        store.resolve(&Image::Template("host".into())).await.unwrap(),
        ResolvedImage::Host
    ));
    let failure = store.check(&Image::Template("wbe".into())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Input);
}

#[tokio::test]
async fn missing_layers_are_restored_where_the_archive_still_exists() {
    let world = World::new();
    let archive = world.data().join("web.oci.tar");
    let made = TestImage::small();
    fs::write(&archive, made.archive()).unwrap();
    let store = world.store(Settings {
        web_archive: Some(archive),
        ..settings()
    });
    let web = Image::Template("web".into());
    store.resolve(&web).await.unwrap();
    store
        .import(
            "made",
            upload(&TestImage::of(&[Tar::default().file("a", "x").end()], gzip).archive()),
        )
        .await
        .unwrap();

    for layer in world.layers().list().unwrap() {
        world.layers().remove(&layer).unwrap();
    }

    assert_eq!(layered(store.resolve(&web).await.unwrap()).layers, made.diff_ids);
    assert_eq!(made.read(&world, 1, "hello"), "world");
    let failure = store.resolve(&reference("made")).await.unwrap_err();
    assert!(
        failure.message.contains("import its archive again"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn an_invalid_image_name_is_refused() {
    let world = World::new();
    let store = world.store(settings());
    for name in ["../x", "/x", "host", "a b", "-x", &"x".repeat(256)] {
        let failure = store.import(name, upload(b"")).await.unwrap_err();
        assert!(
            failure.message.contains("cannot be an image's name"),
            "{}",
            failure.message
        );
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(48))]
    #[test]
    fn no_bytes_in_an_archive_do_harm(index in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), cut in 0..8000usize, at in 0..8000usize, flip: u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = World::new();
        let store = world.store(settings());
        let made = TestImage::small();
        let mut damaged = made.archive();
        let position = at % damaged.len();
        damaged[position] ^= flip;
        damaged.truncate(damaged.len() - cut % damaged.len());
        for archive in [made.layout(&index).end(), index, damaged] {
            let result = runtime.block_on(store.import("made", upload(&archive)));
            if let Err(failure) = result {
                proptest::prop_assert!(failure.kind != FailureKind::Internal, "{}", failure.message);
                proptest::prop_assert!(world.contents().is_empty(), "{:?}", world.contents());
            } else {
                // The changed bit had no effect.
                store.remove("made").unwrap();
                runtime.block_on(store.sweep(&HashSet::new())).unwrap();
            }
        }
    }
}

//! Layer store tests: digests, crashes, and concurrent requests.

use std::{fs, sync::Arc};

use fsa_local::{
    images::{DiffId, Digest, LayerBlob},
    runner::unpack::{Layers, Rules},
};

use crate::support::{LIMITS, Tar, World, gzip, zstd};

fn tar() -> Vec<u8> {
    Tar::default().file("hello", "world").end()
}

#[test]
fn every_compression_gives_the_same_layer() {
    let tar = tar();
    for blob in [
        tar.clone(),
        gzip(&tar),
        zstd(&tar),
        [gzip(&tar[..512]), gzip(&tar[512..])].concat(),
    ] {
        let world = World::new();
        let layer = LayerBlob {
            diff_id: Digest::of(&tar).into(),
            blob: world.put(&blob),
        };

        let size = world.layers().unpack(&layer).unwrap();

        assert_eq!((size.bytes, size.entries), (5, 1));
        assert_eq!(
            fs::read_to_string(world.layers().path(&layer.diff_id).join("hello")).unwrap(),
            "world"
        );
    }
}

#[test]
fn a_blob_with_a_wrong_digest_is_refused_and_nothing_is_left() {
    let tar = tar();
    let other: DiffId = Digest::of(b"other").into();
    let gzip = gzip(&tar);
    let cut = gzip[..gzip.len() - 10].to_vec();
    let swapped = Digest::of(b"swapped");
    for (stored_as, bytes, diff_id, expected) in [
        (
            Digest::of(&gzip),
            gzip.clone(),
            other,
            "which the image's configuration requires",
        ),
        (
            swapped,
            gzip.clone(),
            Digest::of(&tar).into(),
            "damaged in transit",
        ),
        (
            Digest::of(&cut),
            cut.clone(),
            Digest::of(&tar).into(),
            "cannot be decompressed",
        ),
        (
            Digest::of(b"hi"),
            b"hi".to_vec(),
            Digest::of(b"hi").into(),
            "not a tar archive",
        ),
        (
            Digest::of(&tar[..600]),
            tar[..600].to_vec(),
            Digest::of(&tar[..600]).into(),
            "in the middle of an entry",
        ),
    ] {
        let world = World::new();
        fs::write(
            world.data().join("images/blobs/sha256").join(stored_as.hex()),
            &bytes,
        )
        .unwrap();
        let layer = LayerBlob {
            diff_id,
            blob: stored_as,
        };

        let message = world.layers().unpack(&layer).unwrap_err().failure(&layer).message;

        assert!(message.contains(expected), "{message}");
        assert_eq!(
            world
                .contents()
                .iter()
                .filter(|path| path.starts_with("runner"))
                .count(),
            0
        );
    }
}

#[test]
fn a_blob_that_is_a_link_or_a_pipe_is_not_read() {
    let world = World::new();
    let secret = world.data().join("secret");
    fs::write(&secret, tar()).unwrap();
    let digest = Digest::of(&tar());
    let path = world.data().join("images/blobs/sha256").join(digest.hex());
    let layer = LayerBlob {
        diff_id: digest.into(),
        blob: digest,
    };

    std::os::unix::fs::symlink(&secret, &path).unwrap();
    assert!(world.layers().unpack(&layer).is_err());

    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(world.layers().unpack(&layer).is_err());
}

#[test]
fn a_runner_without_a_server_ends_the_unpacking_and_leaves_nothing() {
    let world = World::new();
    let blob = world.put(&tar());
    let layer = LayerBlob {
        diff_id: blob.into(),
        blob,
    };
    let layers = Layers::open(world.data(), Rules::ROOT, LIMITS).unwrap();

    layers.stop();
    let failure = layers.unpack(&layer).unwrap_err().failure(&layer);

    assert!(failure.message.contains("was stopped"), "{failure}");
    let left: Vec<_> = world
        .contents()
        .into_iter()
        .filter(|path| path.starts_with("runner"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn concurrent_requests_for_one_layer_unpack_it_once() {
    let world = World::new();
    let tar = Tar::default()
        .add(tar::EntryType::Regular, "large", "", &vec![1; 3_000_000], |_| {})
        .end();
    let blob = world.put(&tar);
    let layer = LayerBlob {
        diff_id: blob.into(),
        blob,
    };
    let other = Arc::new(Layers::open(world.data(), Rules::ROOT, LIMITS).unwrap());

    std::thread::scope(|scope| {
        for n in 0..8 {
            // Two runners on one data folder, four callers each.
            let layers = if n % 2 == 0 { world.layers() } else { &other };
            scope.spawn(move || layers.unpack(&layer).unwrap());
        }
    });

    assert_eq!(world.layers().list().unwrap(), [layer.diff_id]);
    drop(other);
    let left: Vec<_> = world
        .contents()
        .into_iter()
        .filter(|path| path.starts_with("runner"))
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn leftovers_of_a_crash_are_removed_and_layers_in_progress_are_not() {
    let world = World::new();
    let kept = world.unpack(&tar()).unwrap();
    let folder = world.data().join("runner/layers");
    let hex = Digest::of(b"half").hex();
    for name in [
        format!("{hex}.partial-0"),
        hex.clone(),
        format!("{}.partial-1", Digest::of(b"held").hex()),
    ] {
        fs::create_dir_all(folder.join(name).join("etc")).unwrap();
    }
    let marker = fs::File::create(folder.join(format!("{}.json", Digest::of(b"note").hex()))).unwrap();
    marker
        .set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600))
        .unwrap();
    let held = fs::File::open(folder.join(format!("{}.partial-1", Digest::of(b"held").hex()))).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();

    let again = Layers::open(world.data(), Rules::ROOT, LIMITS).unwrap();

    let mut left: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    // A marker that the first runner is writing.
    left.retain(|name| !name.contains(".json-"));
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().any(|name| name.ends_with(".partial-1")));
    assert!(kept.join("hello").exists());
    assert_eq!(again.list().unwrap().len(), 1);
}

#[test]
fn a_layer_that_a_power_cut_may_have_damaged_is_unpacked_again() {
    let world = World::new();
    let blob = world.put(&tar());
    let first = Layers::open(world.data(), Rules::ROOT, LIMITS).unwrap();
    first
        .unpack(&LayerBlob {
            diff_id: blob.into(),
            blob,
        })
        .unwrap();
    let path = first.path(&blob.into());
    let marker = path.with_extension("json");
    // Dropping it waits for markers that are not written yet.
    drop(first);
    let of_another_boot =
        |synced: bool| format!(r#"{{"bytes":5,"entries":1,"boot":"another","synced":{synced}}}"#);

    fs::write(&marker, of_another_boot(true)).unwrap();
    let layers = Layers::open(world.data(), Rules::ROOT, LIMITS).unwrap();
    assert_eq!(layers.list().unwrap().len(), 1);

    fs::write(&marker, of_another_boot(false)).unwrap();
    let layers = Layers::open(world.data(), Rules::ROOT, LIMITS).unwrap();
    assert_eq!(layers.list().unwrap().len(), 0);
    assert!(!path.exists());
}

#[test]
fn a_layer_is_synced_in_the_background() {
    let world = World::new();
    let path = world.unpack(&tar()).unwrap();
    let data = world.data().to_owned();

    // Dropping it waits for layers that are not synced yet.
    let layers = Layers::open(&data, Rules::ROOT, LIMITS).unwrap();
    let blob = world.put(&Tar::default().file("other", "x").end());
    layers
        .unpack(&LayerBlob {
            diff_id: blob.into(),
            blob,
        })
        .unwrap();
    let other = layers.path(&blob.into());
    drop(layers);

    assert!(path.exists());
    let marker = fs::read_to_string(other.with_extension("json")).unwrap();
    assert!(marker.contains(r#""synced":true"#), "{marker}");
}

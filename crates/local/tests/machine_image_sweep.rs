//! Image sweep test: the local driver removes unused image layers while sandboxes run, without an import.
//!
//! It needs root, like the runner. It starts no sandbox, so it needs no sandboxd.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use fsa_driver::Driver as _;
use fsa_local::{LocalConfig, LocalDriver, driver::RunnerLink, images::Digest, privileges};
use serde_json::json;

/// Cargo puts the examples next to the tests.
fn runner() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.parent().and_then(|deps| deps.parent()).unwrap();
    built.join("examples/runner")
}

/// An OCI layout with one layer, in which `name` is a file.
fn archive(name: &str) -> Vec<u8> {
    let tar = |files: &[(&str, &[u8])]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let layer = tar(&[(name, b"x")]);
    let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}}).to_string();
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let index = json!({"schemaVersion": 2, "manifests": [
        descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes()),
    ]})
    .to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    tar(&[
        ("index.json", index.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(config.as_bytes()), config.as_bytes()),
        (&blob(&layer), &layer),
    ])
}

#[tokio::test]
async fn layers_of_a_removed_image_go_without_an_import() {
    let data = tempfile::Builder::new().prefix("fsa-is-").tempdir().unwrap();
    privileges::prepare_data_dir(data.path(), 0, 0).unwrap();
    let mut config = LocalConfig::new(data.path(), "/nonexistent/sandboxd");
    config.image_sweep_interval = Duration::from_millis(20);
    let link = RunnerLink::start(&runner(), &[], &config.runner).unwrap();
    let driver = LocalDriver::open(config, link, None).await.unwrap();
    for name in ["kept", "removed"] {
        let bytes: io::Result<Bytes> = Ok(archive(name).into());
        let upload = Box::pin(futures_util::stream::once(async { bytes }));
        driver.import_image(name, upload).await.unwrap();
    }
    let layers = || {
        std::fs::read_dir(data.path().join("runner/layers"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    };
    assert_eq!(layers(), 2);

    driver.image_store().remove("removed").unwrap();

    let mut poll = tokio::time::interval(Duration::from_millis(10));
    let swept = async {
        while layers() != 1 {
            poll.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(240), swept)
        .await
        .expect("the unused layer is still there");
}

//! Image pull: from a registry into the blob store, several layers at a time.

use std::{
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use fsa_model::{Failure, FailureKind, condition::ImageProgress};
use oci_spec::distribution::Reference;
use sha2::{Digest as _, Sha256};

use super::{
    LayerBlob,
    blob_store::{Origin, StoredImage, disk, no_room},
    digest::Digest,
    layer_store::{Layer, LayerStore, for_all},
    manifest::{self, Descriptor, Document, Problem},
    registry::RegistryError,
    single_flight::Progress,
};

/// Layers that are fetched at the same time.
const DOWNLOADS_MAX: usize = 3;
/// Indexes that refer to indexes.
const INDEX_DEPTH_MAX: usize = 3;
/// Bytes that are collected before they are written.
const BUFFER: usize = 256 << 10;
/// Bytes between two progress reports.
const REPORT_EVERY: u64 = 4 << 20;

/// Fetches `reference` and unpacks it. Layers that are here already are not fetched.
pub(super) async fn pull(
    store: &LayerStore,
    reference: &Reference,
    progress: &Progress<StoredImage>,
) -> Result<StoredImage, Failure> {
    let lease = store.blob_store.lock_shared().await?;
    let result = fetch(store, reference, progress).await;
    drop(lease);
    store.remove_leftovers().await;
    result
}

async fn fetch(
    store: &LayerStore,
    reference: &Reference,
    progress: &Progress<StoredImage>,
) -> Result<StoredImage, Failure> {
    let name = reference.whole();
    let registry = |e: RegistryError| registry_failure(&name, &e);
    let problem = |e: Problem| problem_failure(&name, &e);

    let (raw, image) = image_manifest(store, reference).await?;
    let config = store
        .registries
        .small_blob(reference, image.config.digest)
        .await
        .map_err(registry)?;
    let (diff_ids, run) = manifest::parse_config(&config).map_err(problem)?;
    let layers: Vec<Layer> = manifest::layers(&image, &diff_ids)
        .map_err(problem)?
        .into_iter()
        .map(|(descriptor, diff_id)| Layer {
            diff_id,
            descriptor: descriptor.clone(),
        })
        .collect();
    let total = layers
        .iter()
        .try_fold(0u64, |sum, layer| sum.checked_add(layer.descriptor.size));
    if total.is_none_or(|total| total > store.settings.max_archive_bytes) {
        let limit = store.settings.max_archive_bytes >> 30;
        return Err(Failure::new(
            FailureKind::Input,
            format!("the image {name} is larger than {limit} GB, the limit that is set"),
        ));
    }

    let missing = store.missing(&layers).await?;
    let room: u64 = missing.iter().map(|layer| layer.descriptor.size).sum();
    if !store
        .blob_store
        .has_room(room, store.settings.keep_free_bytes)
        .map_err(|e| disk("the free space could not be measured", &e))?
    {
        return Err(no_room());
    }
    let incoming = store
        .blob_store
        .incoming()
        .map_err(|e| disk("the image could not be received", &e))?;
    let count = PullProgress {
        layers: u32::try_from(missing.len()).unwrap_or(u32::MAX),
        total: room,
        done: AtomicU32::new(0),
        bytes: AtomicU64::new(0),
        progress,
    };
    count.report();
    for_all(missing, DOWNLOADS_MAX, |layer, stop| {
        let (incoming, count) = (&incoming, &count);
        async move {
            if !store.blob_store.has_blob(&layer.descriptor.digest) {
                let file = incoming.path().join(layer.descriptor.digest.hex());
                let limit = store.settings.layer_timeout;
                let load = download(store, reference, &layer.descriptor, &file, count);
                let late = || {
                    Failure::new(
                        FailureKind::Transient,
                        format!(
                            "a layer of the image {} did not arrive within {} s; it is retried",
                            reference.whole(),
                            limit.as_secs()
                        ),
                    )
                };
                match stop.run_until_cancelled(tokio::time::timeout(limit, load)).await {
                    None => return Ok(()),
                    Some(loaded) => loaded.unwrap_or_else(|_| Err(late()))?,
                }
                store
                    .blob_store
                    .adopt(&file, &layer.descriptor.digest)
                    .map_err(|e| disk("a layer could not be stored", &e))?;
            }
            store
                .unpack(&LayerBlob {
                    diff_id: layer.diff_id,
                    blob: layer.descriptor.digest,
                })
                .await?;
            count.done.fetch_add(1, Ordering::Relaxed);
            count.report();
            Ok(())
        }
    })
    .await?;
    store
        .keep(
            name.clone(),
            Origin::Registry {
                reference: name.clone(),
            },
            &raw,
            &config,
            run,
            layers,
        )
        .await
}

async fn image_manifest(
    store: &LayerStore,
    reference: &Reference,
) -> Result<(Vec<u8>, manifest::Manifest), Failure> {
    let name = reference.whole();
    let mut digest = None;
    for _ in 0..INDEX_DEPTH_MAX {
        let raw = store
            .registries
            .manifest(reference, digest)
            .await
            .map_err(|e| registry_failure(&name, &e))?;
        match manifest::parse(&raw).map_err(|e| problem_failure(&name, &e))? {
            Document::Manifest(image) => return Ok((raw, image)),
            Document::Index(index) => {
                digest = Some(
                    manifest::choose(&index, None)
                        .map_err(|e| problem_failure(&name, &e))?
                        .digest,
                );
            }
        }
    }
    Err(problem_failure(
        &name,
        &Problem::NotAnImage("its indexes lead to each other".into()),
    ))
}

struct PullProgress<'a> {
    layers: u32,
    total: u64,
    done: AtomicU32,
    bytes: AtomicU64,
    progress: &'a Progress<StoredImage>,
}

impl PullProgress<'_> {
    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before / REPORT_EVERY != (before + bytes) / REPORT_EVERY {
            self.report();
        }
    }

    fn report(&self) {
        self.progress.report(ImageProgress {
            // A download that starts again is counted twice.
            bytes: self.bytes.load(Ordering::Relaxed).min(self.total),
            total_bytes: self.total,
            unpacked_layers: self.done.load(Ordering::Relaxed),
            total_layers: self.layers,
        });
    }
}

/// Writes the blob to `file` and verifies it. A broken download resumes where it stopped.
async fn download(
    store: &LayerStore,
    reference: &Reference,
    descriptor: &Descriptor,
    file: &Path,
    count: &PullProgress<'_>,
) -> Result<(), Failure> {
    let mut partial = Partial::create(file).map_err(|e| disk("a layer could not be stored", &e))?;
    let mut retries = store.registries.retries();
    loop {
        let error = match partial.resume(store, reference, descriptor, count).await {
            Ok(()) => return Ok(()),
            Err(DownloadError::Disk(e)) => return Err(disk("a layer could not be stored", &e)),
            Err(DownloadError::Registry(e)) => e,
        };
        retries
            .retry(error)
            .await
            .map_err(|e| registry_failure(&reference.whole(), &e))?;
    }
}

enum DownloadError {
    Registry(RegistryError),
    Disk(std::io::Error),
}

/// A blob of which the beginning is here.
struct Partial {
    file: std::fs::File,
    hash: Sha256,
    /// Bytes that are in the file and in the hash.
    length: u64,
}

impl Partial {
    fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self {
            file: std::fs::File::create(path)?,
            hash: Sha256::new(),
            length: 0,
        })
    }

    fn restart(&mut self) -> std::io::Result<()> {
        use std::io::Seek as _;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    async fn resume(
        &mut self,
        store: &LayerStore,
        reference: &Reference,
        descriptor: &Descriptor,
        count: &PullProgress<'_>,
    ) -> Result<(), DownloadError> {
        let registry = || reference.registry().to_owned();
        if self.length == 0 || self.length < descriptor.size {
            let (granted, mut response) = store
                .registries
                .blob(reference, descriptor.digest, self.length)
                .await
                .map_err(DownloadError::Registry)?;
            if granted != self.length {
                self.restart().map_err(DownloadError::Disk)?;
            }
            let mut buffer = Vec::with_capacity(BUFFER);
            loop {
                let chunk = response.chunk().await;
                if let Ok(Some(bytes)) = &chunk {
                    buffer.extend_from_slice(bytes);
                    count.add(bytes.len() as u64);
                }
                if buffer.len() >= BUFFER || !matches!(chunk, Ok(Some(_))) {
                    self.append(&buffer).map_err(DownloadError::Disk)?;
                    buffer.clear();
                }
                if self.length > descriptor.size {
                    self.restart().map_err(DownloadError::Disk)?;
                    let what = format!(
                        "sends more than the {} bytes that the manifest says",
                        descriptor.size
                    );
                    return Err(DownloadError::Registry(RegistryError::Protocol {
                        registry: registry(),
                        what,
                    }));
                }
                match chunk {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(e) => return Err(DownloadError::Registry(store.registries.broken(reference, &e))),
                }
            }
        }
        if self.length < descriptor.size {
            return Err(DownloadError::Registry(RegistryError::Unreachable {
                registry: registry(),
                why: "it broke off in the middle".into(),
            }));
        }
        let found = Digest::finish(self.hash.clone());
        if found != descriptor.digest {
            self.restart().map_err(DownloadError::Disk)?;
            return Err(DownloadError::Registry(RegistryError::WrongDigest {
                registry: registry(),
                expected: descriptor.digest,
                found,
            }));
        }
        Ok(())
    }

    /// Into the page cache: short enough for an asynchronous thread.
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// A registry's error as a failure.
pub(super) fn registry_failure(name: &str, error: &RegistryError) -> Failure {
    let kind = if error.is_transient() {
        FailureKind::Transient
    } else {
        FailureKind::Input
    };
    Failure::new(kind, format!("the image {name} {error}"))
}

/// An image's problem as a failure.
pub(super) fn problem_failure(name: &str, problem: &Problem) -> Failure {
    Failure::new(FailureKind::Input, format!("the image {name} {problem}"))
}

/// For a whole check of an image, retries included.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

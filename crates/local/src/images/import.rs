//! Import of an image from an archive.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use fsa_model::{
    Failure, FailureKind,
    image_reference::{NAME_MAX, is_image_name},
};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::{
    LayerBlob,
    archive::{self, ArchiveError, Limits, Upload},
    archived_image::ArchivedImage,
    blob_store::{Origin, StoredImage, disk, no_room},
    import_progress::{CountedRead, ImportProgress, Report},
    layer_store::{HOST, Layer, LayerStore, UNPACKING, for_all},
    manifest,
};

/// Chunks of an upload that wait to be written.
const UPLOAD_CHUNKS: usize = 16;

/// The blocking end of a stream, and the future that feeds it. A stream without data for `idle`
/// has failed.
pub(super) fn upload<S>(archive: S, idle: Duration) -> (Upload, impl Future<Output = ()> + Send)
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let (sender, chunks) = mpsc::channel(UPLOAD_CHUNKS);
    let feed = async move {
        let mut archive = std::pin::pin!(archive);
        loop {
            let chunk = match tokio::time::timeout(idle, archive.next()).await {
                Ok(None) => return,
                Ok(Some(chunk)) => chunk,
                Err(_) => {
                    let why = format!("nothing came for {} s", idle.as_secs());
                    Err(io::Error::new(io::ErrorKind::TimedOut, why))
                }
            };
            let last = chunk.is_err();
            if sender.send(chunk).await.is_err() || last {
                return;
            }
        }
    };
    (
        Upload {
            chunks,
            current: Bytes::new(),
        },
        feed,
    )
}

impl LayerStore {
    /// Receives an archive and unpacks the image in it, under `name` or its own.
    pub(super) async fn import(
        &self,
        name: String,
        origin: Origin,
        input: impl io::Read + Send + 'static,
        progress: Option<(u64, Report)>,
    ) -> Result<StoredImage, Failure> {
        let lease = self.blob_store.lock_shared().await?;
        let progress =
            progress.map(|(total_bytes, report)| Arc::new(ImportProgress::new(total_bytes, report)));
        let result = self.import_leased(name, origin, input, progress).await;
        drop(lease);
        self.remove_leftovers().await;
        result
    }

    async fn import_leased(
        &self,
        name: String,
        origin: Origin,
        input: impl io::Read + Send + 'static,
        progress: Option<Arc<ImportProgress>>,
    ) -> Result<StoredImage, Failure> {
        let input = CountedRead {
            input,
            progress: progress.clone(),
        };
        let incoming = self
            .blob_store
            .incoming()
            .map_err(|e| disk("the archive could not be received", &e))?;
        let limits = Limits {
            bytes: self.settings.max_archive_bytes,
            keep_free: self.settings.keep_free_bytes,
        };
        let (folder, requested) = (self.blob_store.clone(), name.clone());
        let received = tokio::task::spawn_blocking(move || {
            let requested = (!requested.is_empty()).then_some(requested.as_str());
            // Returns the folder, so that it is removed after the last write even if the caller stopped waiting.
            (
                archive::receive(input, incoming.path(), &folder, limits, requested),
                incoming,
            )
        });
        let (found, incoming) = received.await.map_err(|_| {
            Failure::new(
                FailureKind::Internal,
                "reading the archive failed; the log has the reason",
            )
        })?;
        let found: ArchivedImage = found.map_err(|e| archive_failure(&e))?;
        let name = if name.is_empty() { name_of(&found)? } else { name };
        let (_, config) = manifest::parse_config(&found.config).map_err(|e| archive_failure(&e.into()))?;

        let files: HashMap<_, _> = found
            .layers
            .iter()
            .map(|layer| (layer.descriptor.digest, layer.file.clone()))
            .collect();
        let layers: Vec<_> = found
            .layers
            .into_iter()
            .map(|layer| Layer {
                diff_id: layer.diff_id,
                descriptor: layer.descriptor,
            })
            .collect();
        let missing = self.missing(&layers).await?;
        for layer in &missing {
            let digest = layer.descriptor.digest;
            // The same blob twice in one image moves once.
            if let Some(file) = files.get(&digest).filter(|file| file.exists()) {
                self.blob_store
                    .adopt(file, &digest)
                    .map_err(|e| disk("a layer could not be stored", &e))?;
            }
        }
        drop(incoming);
        let progress = progress.as_deref();
        if let Some(progress) = progress {
            progress.layers(missing.len());
        }
        for_all(missing, UNPACKING, |layer, _| async move {
            self.unpack(&LayerBlob {
                diff_id: layer.diff_id,
                blob: layer.descriptor.digest,
            })
            .await?;
            if let Some(progress) = progress {
                progress.unpacked();
            }
            Ok(())
        })
        .await?;
        self.keep(name, origin, &found.manifest, &found.config, config, layers)
            .await
    }
}

/// Validates the name of an image.
pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    if is_image_name(name) && name != HOST {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Input,
        format!(
            "{:?} cannot be an image's name: at most {NAME_MAX} letters, digits and . _ - / : @, beginning and ending with a letter or a digit, and not {HOST:?}",
            name.chars().take(100).collect::<String>()
        ),
    ))
}

fn name_of(found: &ArchivedImage) -> Result<String, Failure> {
    let name = found.name.clone().ok_or_else(|| {
        Failure::new(
            FailureKind::Input,
            "the archive does not name its image; give it a name",
        )
    })?;
    check_name(&name).map(|()| name)
}

fn archive_failure(error: &ArchiveError) -> Failure {
    match error {
        ArchiveError::NoRoom => no_room(),
        ArchiveError::Disk(e) => disk("the archive could not be stored", e),
        ArchiveError::Upload(_) => Failure::new(
            FailureKind::Transient,
            format!("the archive {error}; send it again"),
        ),
        other => Failure::new(FailureKind::Input, format!("the archive {other}")),
    }
}

//! Layers and blobs of this machine: which are missing, unpacking and recording them, and removing
//! unused ones.

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use fsa_model::Failure;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    LayerBlob, LayerUnpacker, SweepResult, UnpackedLayer,
    blob_store::{BlobStore, Lease, Origin, StoredImage, StoredLayer, disk},
    digest::DiffId,
    manifest::{Config, Descriptor},
    registry::Registries,
    settings::Settings,
};

/// The template that is this machine's own /usr.
pub(super) const HOST: &str = "host";
/// Layers that are unpacked at the same time: each keeps about two processors busy.
pub(super) const UNPACKING: usize = 2;

/// Maximum duration of a sweep; the next one continues. Starts wait up to 60 s for a sweep
/// ([`BlobStore::lock_shared`]).
const SWEEP_MAX: Duration = Duration::from_secs(30);

/// Layers and blobs, shared by additions of images and starts of sandboxes.
pub(super) struct LayerStore {
    pub blob_store: BlobStore,
    pub settings: Settings,
    pub registries: Registries,
    unpacker: Arc<dyn LayerUnpacker>,
    slots: Semaphore,
    /// Layers that additions of images have unpacked or were going to. Those that no image names are
    /// of failed additions, and no sandbox uses them.
    fresh: Mutex<HashSet<DiffId>>,
}

/// A layer of an image that is being added.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub diff_id: DiffId,
    pub descriptor: Descriptor,
}

impl LayerStore {
    pub(super) fn new(blob_store: BlobStore, unpacker: Arc<dyn LayerUnpacker>, settings: Settings) -> Self {
        Self {
            blob_store,
            registries: Registries::new(settings.clone()),
            settings,
            unpacker,
            slots: Semaphore::new(UNPACKING),
            fresh: Mutex::default(),
        }
    }

    pub(super) async fn is_whole(&self, stored: &StoredImage) -> Result<bool, Failure> {
        let layers: Vec<_> = stored.layers.iter().map(|layer| layer.diff_id).collect();
        Ok(self.unpacker.missing(&layers).await?.is_empty())
    }

    /// Those of `layers` that are not unpacked here, each once.
    pub(super) async fn missing(&self, layers: &[Layer]) -> Result<Vec<Layer>, Failure> {
        let ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let mut missing: HashSet<_> = self.unpacker.missing(&ids).await?.into_iter().collect();
        self.fresh.lock().extend(missing.iter().copied());
        Ok(layers
            .iter()
            .filter(|layer| missing.remove(&layer.diff_id))
            .cloned()
            .collect())
    }

    /// Unpacks a layer, and removes its blob.
    pub(super) async fn unpack(&self, layer: &LayerBlob) -> Result<UnpackedLayer, Failure> {
        let _slot = self.slots.acquire().await;
        let unpacked = self.unpacker.unpack(layer).await?;
        self.blob_store
            .remove_blob(&layer.blob)
            .map_err(|e| disk("a layer's archive could not be removed", &e))?;
        Ok(unpacked)
    }

    /// Records an image whose layers are all unpacked.
    pub(super) async fn keep(
        &self,
        name: String,
        origin: Origin,
        manifest: &[u8],
        config: &[u8],
        run: Config,
        layers: Vec<Layer>,
    ) -> Result<StoredImage, Failure> {
        let mut stored = Vec::new();
        for Layer { diff_id, descriptor } in layers {
            // It is unpacked already: this returns its size.
            let unpacked = self
                .unpacker
                .unpack(&LayerBlob {
                    diff_id,
                    blob: descriptor.digest,
                })
                .await?;
            stored.push(StoredLayer {
                diff_id,
                blob: descriptor.digest,
                media_type: descriptor.media_type,
                size: descriptor.size,
                unpacked: unpacked.bytes,
            });
        }
        let write = || {
            let image = StoredImage {
                name,
                digest: self.blob_store.put(manifest)?,
                config_digest: self.blob_store.put(config)?,
                layers: stored,
                config: run,
                origin,
                imported_at: Utc::now(),
            };
            self.blob_store.save(&image)?;
            io::Result::Ok(image)
        };
        write().map_err(|e| disk("the image could not be stored", &e))
    }

    /// Removes what failed additions left. Does nothing while other additions are in progress; the
    /// last one removes it.
    pub(super) async fn remove_leftovers(&self) {
        let fresh = self.fresh.lock().clone();
        match self.sweep(|layer| fresh.contains(layer)).await {
            Ok(Some(_)) => self.fresh.lock().retain(|layer| !fresh.contains(layer)),
            Ok(None) => {}
            Err(failure) => tracing::warn!(%failure, "leftovers of a failed import could not be removed"),
        }
    }

    /// Removes blobs that no image needs, and layers that no image needs and that are `removable`.
    /// `None`: something is in use.
    pub(super) async fn sweep(
        &self,
        removable: impl Fn(&DiffId) -> bool,
    ) -> Result<Option<SweepResult>, Failure> {
        let Some(lease) = self.lock_for_sweep()? else {
            return Ok(None);
        };
        self.sweep_locked(&lease, removable).await.map(Some)
    }

    /// As [`Self::sweep`], of what no image and no sandbox needs.
    pub(super) async fn sweep_unused(&self) -> Result<Option<SweepResult>, Failure> {
        let Some(lease) = self.lock_for_sweep()? else {
            return Ok(None);
        };
        // Under the lock, so that no sandbox is started in between.
        let used: HashSet<_> = self.unpacker.used().await?.into_iter().collect();
        let result = self.sweep_locked(&lease, |layer| !used.contains(layer)).await?;
        Ok(Some(result))
    }

    fn lock_for_sweep(&self) -> Result<Option<Lease>, Failure> {
        self.blob_store.try_lock_exclusive().map_err(|e| not_removed(&e))
    }

    async fn sweep_locked(
        &self,
        _exclusive: &Lease,
        removable: impl Fn(&DiffId) -> bool,
    ) -> Result<SweepResult, Failure> {
        let deadline = Instant::now() + SWEEP_MAX;
        let images = self.blob_store.images().map_err(|e| not_removed(&e))?;
        let mut result = SweepResult::default();
        let kept: HashSet<_> = images
            .iter()
            .flat_map(|image| [image.digest, image.config_digest])
            .collect();
        for blob in self.blob_store.blobs().map_err(|e| not_removed(&e))? {
            if !kept.contains(&blob) {
                self.blob_store.remove_blob(&blob).map_err(|e| not_removed(&e))?;
                result.blobs += 1;
            }
        }
        self.blob_store.clear_incoming().map_err(|e| not_removed(&e))?;
        let kept: HashSet<_> = images
            .iter()
            .flat_map(|image| image.layers.iter().map(|layer| layer.diff_id))
            .collect();
        for layer in self.unpacker.layers().await? {
            if Instant::now() > deadline {
                break;
            }
            if !kept.contains(&layer) && removable(&layer) {
                self.unpacker.remove(&layer).await?;
                result.layers += 1;
            }
        }
        Ok(result)
    }
}

fn not_removed(error: &io::Error) -> Failure {
    disk("unused parts of images could not be removed", error)
}

/// Runs `work` for all of `items`, `parallel` of them at a time. After the first failure, which is
/// returned, no further item is started; those in progress are notified by the token, and awaited,
/// so that nothing is unpacked while leftovers are removed.
pub(super) async fn for_all<T, F>(
    items: Vec<T>,
    parallel: usize,
    work: impl Fn(T, CancellationToken) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let stop = CancellationToken::new();
    stream::iter(items)
        .map(|item| {
            let (started, stop) = (work(item, stop.clone()), stop.clone());
            async move {
                if stop.is_cancelled() {
                    return Ok(());
                }
                started.await.inspect_err(|_| stop.cancel())
            }
        })
        .buffer_unordered(parallel)
        .fold(Ok(()), async |first: Result<(), Failure>, next| first.and(next))
        .await
}

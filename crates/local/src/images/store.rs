//! The images of this machine: where they come from, and what a sandbox is made of.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use bytes::Bytes;
use chrono::Utc;
use fsa_model::{Failure, FailureKind, Image, api::ImageInfo, image_reference::is_registry_reference};
use futures_util::{Stream, StreamExt as _, stream};
use oci_spec::distribution::Reference;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    LayerBlob, LayerUnpacker, LayeredImage, ResolvedImage, SweepResult, UnpackedLayer,
    blob_store::{BlobStore, Lease, Origin, StoredImage, StoredLayer, disk},
    digest::DiffId,
    import,
    manifest::{Config, Descriptor},
    pull::{self, CHECK_TIMEOUT, registry_failure},
    registry::Registries,
    settings::Settings,
    single_flight::SingleFlight,
};

/// The template that has an image of its own.
const WEB: &str = "web";
/// The template that is this machine's own /usr.
pub(super) const HOST: &str = "host";
/// Layers that are unpacked at the same time: each keeps about two processors busy.
pub(super) const UNPACKING: usize = 2;

/// After the start of a server: what it does first matters more.
const FIRST_SWEEP: Duration = Duration::from_secs(600);
/// Where an image was being added or a sandbox started.
const SWEEP_RETRY: Duration = Duration::from_secs(60);
/// A sweep removes no further layer after this time; the next sweep goes on. Starts wait for a
/// sweep for 60 s ([`BlobStore::lock_shared`]).
const SWEEP_MAX: Duration = Duration::from_secs(30);

/// Images, imported and pulled. A clone is the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

pub(super) struct Inner {
    pub blob_store: BlobStore,
    pub settings: Settings,
    pub registries: Registries,
    unpacker: Arc<dyn LayerUnpacker>,
    slots: Semaphore,
    in_flight: SingleFlight<StoredImage>,
    /// Layers that were not here before something that is, or was, being added. What has failed
    /// leaves them; no sandbox can be made of those that no image names.
    fresh: Mutex<HashSet<DiffId>>,
}

/// A layer of an image that is being added.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub diff_id: DiffId,
    pub descriptor: Descriptor,
}

impl Store {
    /// Opens `<data>/images`, and removes what a crash left of downloads and uploads.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(data: &Path, unpacker: Arc<dyn LayerUnpacker>, settings: Settings) -> Result<Self, Failure> {
        let opened = BlobStore::open(data).and_then(|folder| {
            if let Some(_lease) = folder.try_lock_exclusive()? {
                folder.clear_incoming()?;
            }
            Ok(folder)
        });
        let blob_store = opened.map_err(|e| disk("the image store could not be opened", &e))?;
        Ok(Self(Arc::new(Inner {
            blob_store,
            registries: Registries::new(settings.clone()),
            settings,
            unpacker,
            slots: Semaphore::new(UNPACKING),
            in_flight: SingleFlight::default(),
            fresh: Mutex::default(),
        })))
    }

    /// What a sandbox of `image` is made of, once it is all here: a name that was imported, else
    /// from its registry. Callers that ask for the same image at once share the work.
    ///
    /// # Errors
    /// In words for people; [`FailureKind::Input`] where the image is not to be had at all.
    pub async fn resolve(&self, image: &Image) -> Result<ResolvedImage, Failure> {
        self.resolve_with(image, &|_| {}).await
    }

    /// As [`Self::resolve`]; `listen` hears how far it is, such as `pulling layer 3 of 5, 120 MB`.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_with(
        &self,
        image: &Image,
        listen: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<ResolvedImage, Failure> {
        if matches!(image, Image::Template(name) if name == HOST) {
            return Ok(ResolvedImage::Host);
        }
        // Once more where it was removed right after it came.
        for _ in 0..3 {
            let lease = self.0.blob_store.lock_shared().await?;
            let source = self.0.source_of(image)?;
            if let ImageSource::Whole(stored) = &source
                && self.0.is_whole(stored).await?
            {
                return Ok(ResolvedImage::Layers(LayeredImage {
                    digest: stored.digest.to_string(),
                    layers: stored.layers.iter().map(|layer| layer.diff_id).collect(),
                    config: stored.config.clone(),
                    lease,
                }));
            }
            drop(lease);
            match source {
                ImageSource::Whole(stored) => self.restore(&stored, listen).await?,
                ImageSource::Archive(path) => self.import_archive(&path, listen).await?,
                ImageSource::Reference(reference) => self.fetch(&reference, listen).await?,
            };
        }
        Err(Failure::new(
            FailureKind::Transient,
            "the image is removed as fast as it is fetched; it is tried again",
        ))
    }

    /// Whether `image` is here or can be had, without fetching it.
    ///
    /// # Errors
    /// In words for people, as [`Self::resolve`].
    pub async fn check(&self, image: &Image) -> Result<(), Failure> {
        if matches!(image, Image::Template(name) if name == HOST) {
            return Ok(());
        }
        match self.0.source_of(image)? {
            ImageSource::Whole(_) | ImageSource::Archive(_) => Ok(()),
            ImageSource::Reference(reference) => {
                let name = reference.whole();
                match tokio::time::timeout(CHECK_TIMEOUT, self.0.registries.exists(&reference)).await {
                    Ok(result) => result.map_err(|e| registry_failure(&name, &e)),
                    Err(_) => Err(Failure::new(
                        FailureKind::Transient,
                        format!(
                            "the image {name} could not be looked up: the registry {} does not answer",
                            reference.registry()
                        ),
                    )),
                }
            }
        }
    }

    /// Makes the template `web` ready in advance, so that no first project waits for it.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn prepare(&self) -> Result<(), Failure> {
        self.resolve(&Image::Template(WEB.into())).await.map(drop)
    }

    /// Fetches an image anew from its registry, whether or not it is here.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn pull(
        &self,
        reference: &str,
        listen: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<ImageInfo, Failure> {
        Ok(self.fetch(&parse_reference(reference)?, listen).await?.info())
    }

    /// Takes an archive under `name`, or, where that is empty, under the name that the archive
    /// itself has. A name that is here already then means the new image.
    ///
    /// # Errors
    /// In words for people, and nothing is left behind.
    pub async fn import<S>(&self, name: &str, archive: S) -> Result<ImageInfo, Failure>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        if !name.is_empty() {
            import::check_name(name)?;
        }
        let (upload, feed) = import::upload(archive, self.0.settings.idle_timeout);
        let (stored, ()) = tokio::join!(self.0.import(name.to_owned(), Origin::Import, upload), feed);
        stored.map(|stored| stored.info())
    }

    /// Every image that is here.
    ///
    /// # Errors
    /// The disk's own.
    pub fn list(&self) -> Result<Vec<ImageInfo>, Failure> {
        let images = self
            .0
            .blob_store
            .images()
            .map_err(|e| disk("the images could not be listed", &e))?;
        Ok(images.iter().map(StoredImage::info).collect())
    }

    /// Forgets the image of this name. Its files go with the next [`Self::sweep`].
    ///
    /// # Errors
    /// [`FailureKind::Input`] where there is none.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        for name in names_of(name) {
            if self
                .0
                .blob_store
                .forget(&name)
                .map_err(|e| disk("the image could not be removed", &e))?
            {
                return Ok(());
            }
        }
        Err(Failure::new(
            FailureKind::Input,
            format!("there is no image of the name {name:?}"),
        ))
    }

    /// Removes layers and blobs that no image and no sandbox needs; `used` are the layers of the
    /// sandboxes. Removes nothing while an image is added or a sandbox is started: those hold a
    /// [`super::Lease`].
    ///
    /// # Errors
    /// The disk's own, and the unpacker's.
    pub async fn sweep(&self, used: &HashSet<DiffId>) -> Result<SweepResult, Failure> {
        Ok(self
            .0
            .sweep(|layer| !used.contains(layer))
            .await?
            .unwrap_or_default())
    }

    /// As [`Self::sweep`], with the sandboxes that there are now. `None`: something is in use, and
    /// nothing was removed.
    ///
    /// # Errors
    /// As [`Self::sweep`].
    pub async fn sweep_unused(&self) -> Result<Option<SweepResult>, Failure> {
        let Some(lease) = self.0.lock_for_sweep()? else {
            return Ok(None);
        };
        // Under the lock, so that no sandbox is started in between.
        let used: HashSet<_> = self.0.unpacker.used().await?.into_iter().collect();
        let result = self.0.sweep_locked(&lease, |layer| !used.contains(layer)).await?;
        Ok(Some(result))
    }

    /// Garbage collection of images: [`Self::sweep_unused`] after each `interval`, the first one
    /// after [`FIRST_SWEEP`] at the latest. Never returns; drop it to end it.
    pub async fn sweep_periodically(&self, interval: Duration) {
        let mut pause = interval.min(FIRST_SWEEP);
        loop {
            tokio::time::sleep(pause).await;
            pause = match self.sweep_unused().await {
                Ok(Some(SweepResult { layers: 0, blobs: 0 })) => interval,
                Ok(Some(SweepResult { layers, blobs })) => {
                    tracing::info!(layers, blobs, "unused image layers and blobs removed");
                    interval
                }
                Ok(None) => interval.min(SWEEP_RETRY),
                Err(failure) => {
                    tracing::warn!(%failure, "unused image layers could not be removed");
                    interval
                }
            };
        }
    }

    async fn fetch(
        &self,
        reference: &Reference,
        listen: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<StoredImage, Failure> {
        let (inner, reference) = (Arc::clone(&self.0), reference.clone());
        self.0
            .in_flight
            .join(&reference.whole(), listen, move |progress| async move {
                pull::pull(&inner, &reference, &progress).await
            })
            .await
    }

    async fn import_archive(
        &self,
        path: &Path,
        listen: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<StoredImage, Failure> {
        let (inner, path) = (Arc::clone(&self.0), path.to_owned());
        self.0
            .in_flight
            .join(
                &format!("archive {}", path.display()),
                listen,
                move |progress| async move {
                    progress.report("unpacking the image web, which is done once".into());
                    let unreadable =
                        |e: io::Error| disk(&format!("the archive {} could not be read", path.display()), &e);
                    let file = std::fs::File::open(&path).map_err(unreadable)?;
                    let origin = archive_origin(&path).map_err(unreadable)?;
                    inner.import(WEB.into(), origin, file).await
                },
            )
            .await
    }

    /// Gets an image again whose layers are gone (a power cut right after it came).
    async fn restore(
        &self,
        stored: &StoredImage,
        listen: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<StoredImage, Failure> {
        match &stored.origin {
            Origin::Archive { path, .. } => self.import_archive(path, listen).await,
            Origin::Registry { reference } => self.fetch(&parse_reference(reference)?, listen).await,
            Origin::Import => Err(Failure::new(
                FailureKind::Machine,
                format!(
                    "files of the image {:?} are missing; import its archive again",
                    stored.name
                ),
            )),
        }
    }
}

/// Where an image is to be had.
enum ImageSource {
    Whole(StoredImage),
    Archive(PathBuf),
    Reference(Reference),
}

impl Inner {
    fn source_of(&self, image: &Image) -> Result<ImageSource, Failure> {
        match image {
            Image::Template(name) if name == WEB => self.source_of_web(),
            Image::Template(name) => Err(Failure::new(
                FailureKind::Input,
                format!("there is no template {name:?}; there are {WEB:?} and {HOST:?}"),
            )),
            Image::Reference(name) => {
                match names_of(name).iter().find_map(|name| self.blob_store.image(name)) {
                    Some(stored) => Ok(ImageSource::Whole(stored)),
                    None => Ok(ImageSource::Reference(parse_reference(name)?)),
                }
            }
        }
    }

    /// What somebody imported as `web`; else the archive as it is now; else the published image;
    /// else whatever there was.
    fn source_of_web(&self) -> Result<ImageSource, Failure> {
        let stored = self.blob_store.image(WEB);
        if let Some(stored) = &stored
            && stored.origin == Origin::Import
        {
            return Ok(ImageSource::Whole(stored.clone()));
        }
        if let Some(path) = &self.settings.web_archive
            && let Ok(origin) = archive_origin(path)
        {
            return Ok(match stored {
                Some(stored) if stored.origin == origin => ImageSource::Whole(stored),
                _ => ImageSource::Archive(path.clone()),
            });
        }
        if let Some(reference) = &self.settings.web_reference {
            let reference = parse_reference(reference)?;
            return Ok(match self.blob_store.image(&reference.whole()) {
                Some(stored) => ImageSource::Whole(stored),
                None => ImageSource::Reference(reference),
            });
        }
        stored.map(ImageSource::Whole).ok_or_else(|| {
            Failure::new(
                FailureKind::Machine,
                "this machine has no image for the template \"web\": build it with `make image`, or name a published one in the settings",
            )
        })
    }

    async fn is_whole(&self, stored: &StoredImage) -> Result<bool, Failure> {
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

    /// Writes down an image whose layers are all unpacked.
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
            // It is here, so this only asks for its size.
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

    /// At the end of an addition: removes what a failed one left. While others are at work it
    /// stays, for the last of them.
    pub(super) async fn remove_leftovers(&self) {
        let fresh = self.fresh.lock().clone();
        match self.sweep(|layer| fresh.contains(layer)).await {
            Ok(Some(_)) => self.fresh.lock().retain(|layer| !fresh.contains(layer)),
            Ok(None) => {}
            Err(failure) => tracing::warn!(%failure, "what a failed import left could not be removed"),
        }
    }

    /// `None`: something is in use.
    async fn sweep(&self, removable: impl Fn(&DiffId) -> bool) -> Result<Option<SweepResult>, Failure> {
        let Some(lease) = self.lock_for_sweep()? else {
            return Ok(None);
        };
        self.sweep_locked(&lease, removable).await.map(Some)
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

/// Does `work` for all of `items`, `parallel` of them at a time. After the first failure, which is
/// the answer, nothing is begun any more; what was begun is told by the token, and is waited for,
/// so that afterwards nobody unpacks what is about to be removed.
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
            let (begun, stop) = (work(item, stop.clone()), stop.clone());
            async move {
                if stop.is_cancelled() {
                    return Ok(());
                }
                begun.await.inspect_err(|_| stop.cancel())
            }
        })
        .buffer_unordered(parallel)
        .fold(Ok(()), async |first: Result<(), Failure>, next| first.and(next))
        .await
}

/// The names under which `name` may be known: as it is, without the tag that is meant anyway, and
/// in full.
fn names_of(name: &str) -> Vec<String> {
    let mut names_of = vec![name.to_owned()];
    names_of.extend(name.strip_suffix(":latest").map(str::to_owned));
    names_of.extend(parse_reference(name).ok().map(|reference| reference.whole()));
    names_of
}

fn parse_reference(name: &str) -> Result<Reference, Failure> {
    let wrong = || {
        Failure::new(
            FailureKind::Input,
            format!(
                "{:?} is no image: neither the name of one that was imported nor a reference such as ghcr.io/someone/app:1.0",
                name.chars().take(100).collect::<String>()
            ),
        )
    };
    if !is_registry_reference(name) {
        return Err(wrong());
    }
    name.parse().map_err(|_| wrong())
}

fn archive_origin(path: &Path) -> io::Result<Origin> {
    let metadata = std::fs::metadata(path)?;
    let modified = metadata
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Origin::Archive {
        path: path.to_owned(),
        size: metadata.len(),
        modified_nanoseconds: i64::try_from(modified.as_nanos()).unwrap_or(i64::MAX),
    })
}

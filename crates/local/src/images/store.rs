//! Image store: resolves, pulls, imports, lists and removes the images of this machine.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use fsa_model::{
    Failure, FailureKind, Image, api::ImageInfo, condition::ImageProgress,
    image_reference::is_registry_reference,
};
use futures_util::Stream;
use oci_spec::distribution::Reference;

use super::{
    LayerUnpacker, LayeredImage, ResolvedImage, SweepResult,
    blob_store::{BlobStore, Origin, StoredImage, disk},
    digest::DiffId,
    import,
    import_progress::Report,
    layer_store::{HOST, LayerStore},
    pull::{self, CHECK_TIMEOUT, registry_failure},
    settings::Settings,
    single_flight::SingleFlight,
};

/// The template that has an image.
pub(super) const WEB: &str = "web";
/// Delay of the first sweep after the start of a server.
const FIRST_SWEEP: Duration = Duration::from_secs(600);
/// Delay of a sweep after one that found the store in use.
const SWEEP_RETRY: Duration = Duration::from_secs(60);
/// Images, imported and pulled. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    layers: Arc<LayerStore>,
    /// Pulls and imports in flight, by reference or archive.
    in_flight: Arc<SingleFlight<StoredImage>>,
}

impl Store {
    /// Opens `<data>/images`, and removes what a crash left of downloads and uploads.
    ///
    /// # Errors
    /// The folder cannot be created or read.
    pub fn open(data: &Path, unpacker: Arc<dyn LayerUnpacker>, settings: Settings) -> Result<Self, Failure> {
        let opened = BlobStore::open(data).and_then(|folder| {
            if let Some(_lease) = folder.try_lock_exclusive()? {
                folder.clear_incoming()?;
            }
            Ok(folder)
        });
        let blob_store = opened.map_err(|e| disk("the image store could not be opened", &e))?;
        Ok(Self {
            layers: Arc::new(LayerStore::new(blob_store, unpacker, settings)),
            in_flight: Arc::default(),
        })
    }

    /// The root file system of a sandbox of `image`, once its layers are unpacked: an imported
    /// image of that name, else from its registry. Concurrent callers for one image share the work.
    ///
    /// # Errors
    /// For people; [`FailureKind::Input`] where the image does not exist.
    pub async fn resolve(&self, image: &Image) -> Result<ResolvedImage, Failure> {
        self.resolve_with(image, &|_| {}).await
    }

    /// As [`Self::resolve`]; `listen` is called with the progress.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_with(
        &self,
        image: &Image,
        listen: &(dyn Fn(ImageProgress) + Send + Sync),
    ) -> Result<ResolvedImage, Failure> {
        if matches!(image, Image::Template(name) if name == HOST) {
            return Ok(ResolvedImage::Host);
        }
        // Repeats where the image was removed right after it was fetched.
        for _ in 0..3 {
            let lease = self.layers.blob_store.lock_shared().await?;
            let source = self.source_of(image)?;
            if let ImageSource::Whole(stored) = &source
                && self.layers.is_whole(stored).await?
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
            "the image is removed as fast as it is fetched; it is retried",
        ))
    }

    /// How far `image` is, if it is being fetched or unpacked.
    #[must_use]
    pub fn progress(&self, image: &Image) -> Option<ImageProgress> {
        match self.source_of(image).ok()? {
            // Its layers are fetched again, which hardly ever happens.
            ImageSource::Whole(_) => None,
            ImageSource::Archive(path) => self.in_flight.progress(&archive_key(&path)),
            ImageSource::Reference(reference) => self.in_flight.progress(&reference.whole()),
        }
    }

    /// Whether `image` is here or can be fetched, without fetching it.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn check(&self, image: &Image) -> Result<(), Failure> {
        if matches!(image, Image::Template(name) if name == HOST) {
            return Ok(());
        }
        match self.source_of(image)? {
            ImageSource::Whole(_) | ImageSource::Archive(_) => Ok(()),
            ImageSource::Reference(reference) => {
                let name = reference.whole();
                match tokio::time::timeout(CHECK_TIMEOUT, self.layers.registries.exists(&reference)).await {
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

    /// Fetches the template `web` in advance, so that the first project does not wait for it.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn prepare(&self) -> Result<(), Failure> {
        self.resolve(&Image::Template(WEB.into())).await.map(drop)
    }

    /// Fetches an image from its registry, even where it is here already.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn pull(
        &self,
        reference: &str,
        listen: &(dyn Fn(ImageProgress) + Send + Sync),
    ) -> Result<ImageInfo, Failure> {
        Ok(self.fetch(&parse_reference(reference)?, listen).await?.info())
    }

    /// Imports an archive under `name`, or, where that is empty, under the name in the archive.
    /// Replaces an image of the same name.
    ///
    /// # Errors
    /// For people. A failed import leaves nothing behind.
    pub async fn import<S>(&self, name: &str, archive: S) -> Result<ImageInfo, Failure>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        if !name.is_empty() {
            import::check_name(name)?;
        }
        let (upload, feed) = import::upload(archive, self.layers.settings.idle_timeout);
        let (stored, ()) = tokio::join!(
            self.layers.import(name.to_owned(), Origin::Import, upload, None),
            feed
        );
        stored.map(|stored| stored.info())
    }

    /// Every image.
    ///
    /// # Errors
    /// The disk's own.
    pub fn list(&self) -> Result<Vec<ImageInfo>, Failure> {
        let images = self
            .layers
            .blob_store
            .images()
            .map_err(|e| disk("the images could not be listed", &e))?;
        Ok(images.iter().map(StoredImage::info).collect())
    }

    /// The name in [`Self::list`] of what a sandbox of `image` starts from, unless that is fetched first.
    #[must_use]
    pub fn stored_name(&self, image: &Image) -> Option<String> {
        match self.source_of(image) {
            Ok(ImageSource::Whole(stored)) => Some(stored.name),
            Ok(ImageSource::Archive(_) | ImageSource::Reference(_)) | Err(_) => None,
        }
    }

    /// Removes the name of an image. The next [`Self::sweep`] removes its files.
    ///
    /// # Errors
    /// [`FailureKind::Input`] where there is none.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        for name in names_of(name) {
            if self
                .layers
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
            .layers
            .sweep(|layer| !used.contains(layer))
            .await?
            .unwrap_or_default())
    }

    /// [`Self::sweep`] with the layers of all current sandboxes. `None` if the store is in use and nothing was removed.
    ///
    /// # Errors
    /// As [`Self::sweep`].
    pub async fn sweep_unused(&self) -> Result<Option<SweepResult>, Failure> {
        self.layers.sweep_unused().await
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
        listen: &(dyn Fn(ImageProgress) + Send + Sync),
    ) -> Result<StoredImage, Failure> {
        let (layers, reference) = (Arc::clone(&self.layers), reference.clone());
        self.in_flight
            .join(&reference.whole(), listen, move |progress| async move {
                pull::pull(&layers, &reference, &progress).await
            })
            .await
    }

    async fn import_archive(
        &self,
        path: &Path,
        listen: &(dyn Fn(ImageProgress) + Send + Sync),
    ) -> Result<StoredImage, Failure> {
        let (layers, path) = (Arc::clone(&self.layers), path.to_owned());
        self.in_flight
            .join(&archive_key(&path), listen, move |progress| async move {
                let unreadable =
                    |e: io::Error| disk(&format!("the archive {} could not be read", path.display()), &e);
                let file = std::fs::File::open(&path).map_err(unreadable)?;
                let origin = archive_origin(&path).map_err(unreadable)?;
                let total_bytes = file.metadata().map_err(unreadable)?.len();
                let report: Report = Box::new(move |change| progress.report(change));
                layers
                    .import(WEB.into(), origin, file, Some((total_bytes, report)))
                    .await
            })
            .await
    }

    /// Fetches an image again whose layers are missing (a power cut right after it was added).
    async fn restore(
        &self,
        stored: &StoredImage,
        listen: &(dyn Fn(ImageProgress) + Send + Sync),
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

fn archive_key(path: &Path) -> String {
    format!("archive {}", path.display())
}

/// Source of an image.
enum ImageSource {
    Whole(StoredImage),
    Archive(PathBuf),
    Reference(Reference),
}

impl Store {
    fn source_of(&self, image: &Image) -> Result<ImageSource, Failure> {
        match image {
            Image::Template(name) if name == WEB => self.source_of_web(),
            Image::Template(name) => Err(Failure::new(
                FailureKind::Input,
                format!("there is no template {name:?}; there are {WEB:?} and {HOST:?}"),
            )),
            Image::Reference(name) => {
                match names_of(name)
                    .iter()
                    .find_map(|name| self.layers.blob_store.image(name))
                {
                    Some(stored) => Ok(ImageSource::Whole(stored)),
                    None => {
                        let reference = parse_reference(name)?;
                        self.check_registry(&reference)?;
                        Ok(ImageSource::Reference(reference))
                    }
                }
            }
        }
    }

    fn check_registry(&self, reference: &Reference) -> Result<(), Failure> {
        let only = &self.layers.settings.only_registries;
        let registry = reference.registry();
        if only.is_empty() || only.iter().any(|one| one.eq_ignore_ascii_case(registry)) {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Input,
            format!(
                "images of the registry {registry} are not allowed on this server (`registries`); it pulls from {}. An owner of \
                 the server may import the image instead",
                only.join(", ")
            ),
        ))
    }

    /// An image imported as `web`; else the archive in its current version; else the published
    /// image; else the image that is here.
    fn source_of_web(&self) -> Result<ImageSource, Failure> {
        let stored = self.layers.blob_store.image(WEB);
        if let Some(stored) = &stored
            && stored.origin == Origin::Import
        {
            return Ok(ImageSource::Whole(stored.clone()));
        }
        if let Some(path) = &self.layers.settings.web_archive
            && let Ok(origin) = archive_origin(path)
        {
            return Ok(match stored {
                Some(stored) if stored.origin == origin => ImageSource::Whole(stored),
                _ => ImageSource::Archive(path.clone()),
            });
        }
        if let Some(reference) = &self.layers.settings.web_reference {
            let reference = parse_reference(reference)?;
            return Ok(match self.layers.blob_store.image(&reference.whole()) {
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
}

/// The forms of `name` to look up: unchanged, without the default tag, and in full.
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

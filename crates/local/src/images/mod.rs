//! Container images: pulled, imported, stored, and unpacked into layers of root file systems.
//!
//! The unprivileged process handles registries, archives and manifests; the result are verified blobs in
//! `<data>/images`. Only unpacking is privileged: the runner gets digests through [`LayerUnpacker`], and verifies the
//! blobs again ([`crate::runner::unpack`]). A layer is unpacked once, and shared by all sandboxes.

pub(crate) mod compression;
pub mod digest;
pub mod tarball;

mod archive;
mod archived_image;
mod blob_store;
mod import;
mod import_progress;
mod layer_store;
#[doc(hidden)]
pub mod manifest;
mod pull;
mod registry;
mod registry_auth;
mod settings;
mod single_flight;
mod ssrf_guard;
mod store;

use async_trait::async_trait;
pub use blob_store::Lease;
pub use digest::{DiffId, Digest};
use fsa_model::Failure;
pub use manifest::Config;
use serde::{Deserialize, Serialize};
pub use settings::{RegistryCredentials, Settings};
pub use store::Store;

/// Whether the template `web` has an image in this data folder: from an earlier start, or of a server that runs.
#[must_use]
pub fn has_template_web(data: &std::path::Path) -> bool {
    blob_store::BlobStore::has_image(data, store::WEB)
}

/// A layer in the blob store that is to be unpacked. The digests determine both paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerBlob {
    /// Digest of the uncompressed tar, the name of the unpacked layer.
    pub diff_id: DiffId,
    /// Digest of the blob, its name in the blob store. It is verified.
    pub blob: Digest,
}

/// A layer that has been unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnpackedLayer {
    /// Bytes of its files' contents.
    pub bytes: u64,
    /// Files, folders, links and whiteouts.
    pub entries: u64,
}

/// Unpacks layers with privileges: the runner, as the image store uses it.
#[async_trait]
pub trait LayerUnpacker: Send + Sync {
    /// Unpacks the layer from its blob, unless it is unpacked already. Returns its size.
    /// Concurrent callers for one layer share the work.
    async fn unpack(&self, layer: &LayerBlob) -> Result<UnpackedLayer, Failure>;

    /// Those of `layers` that are not unpacked here. Called in every start, so it is cheap.
    async fn missing(&self, layers: &[DiffId]) -> Result<Vec<DiffId>, Failure>;

    /// Every layer that is unpacked here.
    async fn layers(&self) -> Result<Vec<DiffId>, Failure>;

    /// Every layer of a sandbox, whether it runs or not.
    async fn used(&self) -> Result<Vec<DiffId>, Failure>;

    /// Removes an unpacked layer. Idempotent. Refused if a sandbox uses it.
    async fn remove(&self, layer: &DiffId) -> Result<(), Failure>;
}

/// The root file system of a sandbox.
#[derive(Clone, Debug)]
pub enum ResolvedImage {
    /// This machine's own /usr.
    Host,
    Layers(LayeredImage),
}

/// An image whose layers are all unpacked.
#[derive(Clone, Debug)]
pub struct LayeredImage {
    /// The manifest's, as `sha256:…`.
    pub digest: String,
    /// Bottom first.
    pub layers: Vec<DiffId>,
    /// The image's configuration for programs in it.
    pub config: Config,
    /// Held until the runner lists the sandbox's layers as used, so that no sweep removes one before. Blocks all sweeps,
    /// so it must not be held longer.
    pub lease: Lease,
}

/// What [`Store::sweep`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepResult {
    pub layers: usize,
    pub blobs: usize,
}

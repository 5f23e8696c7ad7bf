//! Fixtures of the image tests: a separate data folder for each test, and layers made by hand.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use fsa_local::{
    images::{
        DiffId, Digest, LayerBlob, LayerUnpacker, LayeredImage, ResolvedImage, Settings, Store, UnpackedLayer,
    },
    runner::unpack::{Layers, Limits, Rules},
};
use fsa_model::{Failure, FailureKind, Image};
use parking_lot::Mutex;
use serde_json::json;
use tar::{EntryType, Header};
use tokio::sync::watch;

pub const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Limits that do not depend on the machine's disk.
pub const LIMITS: Limits = Limits {
    entries: 10_000,
    bytes: 1 << 30,
    keep_free: 0,
};

/// A data folder with its layers.
pub struct World {
    folder: tempfile::TempDir,
    pub unpacker: Arc<InProcessUnpacker>,
}

impl World {
    pub fn new() -> Self {
        Self::with(Rules::ROOT, LIMITS)
    }

    pub fn with(rules: Rules, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("images/blobs/sha256")).unwrap();
        let layers = Arc::new(Layers::open(folder.path(), rules, limits).unwrap());
        Self {
            folder,
            unpacker: Arc::new(InProcessUnpacker {
                layers,
                unpacked: AtomicUsize::new(0),
                used: Mutex::default(),
                sweeps: watch::Sender::new(0),
            }),
        }
    }

    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    pub fn layers(&self) -> &Layers {
        &self.unpacker.layers
    }

    pub fn store(&self, settings: Settings) -> Store {
        Store::open(self.data(), self.unpacker.clone(), settings).unwrap()
    }

    /// Stores a blob where `fsa serve` stores it.
    pub fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        std::fs::write(self.data().join("images/blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    }

    /// Unpacks an uncompressed layer; returns its folder.
    pub fn unpack(&self, tar: &[u8]) -> Result<PathBuf, String> {
        let blob = self.put(tar);
        let layer = LayerBlob {
            diff_id: blob.into(),
            blob,
        };
        self.layers()
            .unpack(&layer)
            .map_err(|e| e.failure(&layer).message)?;
        Ok(self.layers().path(&layer.diff_id))
    }

    /// The contents of the data folder, except the folders and the lock that always exist.
    pub fn contents(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for folder in [
            "images/blobs/sha256",
            "images/names",
            "images/incoming",
            "runner/layers",
        ] {
            if let Ok(entries) = std::fs::read_dir(self.data().join(folder)) {
                found.extend(
                    entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy())),
                );
            }
        }
        // A marker that is being replaced: layers are synced in the background.
        found.retain(|path| !path.contains(".json-"));
        found
    }
}

/// Layer unpacker in this process, in place of the runner.
pub struct InProcessUnpacker {
    pub layers: Arc<Layers>,
    pub unpacked: AtomicUsize,
    /// Layers of sandboxes.
    pub used: Mutex<Vec<DiffId>>,
    /// How often [`LayerUnpacker::used`] was called: once in each periodic sweep.
    pub sweeps: watch::Sender<usize>,
}

#[async_trait]
impl LayerUnpacker for InProcessUnpacker {
    async fn unpack(&self, layer: &LayerBlob) -> Result<UnpackedLayer, Failure> {
        if !self.layers.has(&layer.diff_id) {
            self.unpacked.fetch_add(1, Ordering::Relaxed);
        }
        let (layers, layer) = (Arc::clone(&self.layers), *layer);
        tokio::task::spawn_blocking(move || layers.unpack(&layer).map_err(|e| e.failure(&layer)))
            .await
            .unwrap()
    }

    async fn missing(&self, layers: &[DiffId]) -> Result<Vec<DiffId>, Failure> {
        Ok(layers
            .iter()
            .filter(|layer| !self.layers.has(layer))
            .copied()
            .collect())
    }

    async fn layers(&self) -> Result<Vec<DiffId>, Failure> {
        self.layers
            .list()
            .map_err(|e| Failure::new(FailureKind::Machine, e.to_string()))
    }

    async fn used(&self) -> Result<Vec<DiffId>, Failure> {
        self.sweeps.send_modify(|sweeps| *sweeps += 1);
        Ok(self.used.lock().clone())
    }

    async fn remove(&self, layer: &DiffId) -> Result<(), Failure> {
        self.layers
            .remove(layer)
            .map_err(|e| Failure::new(FailureKind::Machine, e.to_string()))
    }
}

/// A tar built entry by entry, with names that no tool would write.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn add(
        mut self,
        kind: EntryType,
        name: &str,
        target: &str,
        content: &[u8],
        adjust: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        adjust(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.add(EntryType::Regular, name, "", content.as_bytes(), |_| {})
    }

    pub fn folder(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", b"", |_| {})
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name, target, b"", |_| {})
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Link, name, target, b"", |_| {})
    }

    /// Adds PAX records, such as attributes, for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            write!(bytes, "{length} {key}=").unwrap();
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.add(EntryType::XHeader, "PaxHeaders", "", &bytes, |_| {})
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image with its blobs.
#[derive(Clone)]
pub struct TestImage {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub diff_ids: Vec<DiffId>,
}

impl TestImage {
    /// Creates an image of uncompressed layers, bottom first. `compress` makes the stored form of each.
    pub fn of(tars: &[Vec<u8>], compress: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let diff_ids: Vec<DiffId> = tars.iter().map(|tar| Digest::of(tar).into()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture(),
            "config": {"Env": ["PATH=/bin", "A=b=c"], "WorkingDir": "/srv", "User": "1000:1000", "Cmd": ["serve"],
                "ExposedPorts": {"8080/tcp": {}, "53/udp": {}}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<_> = tars.iter().map(|tar| compress(tar)).collect();
        let describe = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": Digest::of(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": describe(MEDIA_CONFIG, &config),
            "layers": layers.iter().map(|layer| describe(MEDIA_LAYER, layer)).collect::<Vec<_>>(),
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            layers,
            diff_ids,
        }
    }

    /// Creates an image of two small layers.
    pub fn small() -> Self {
        let lower = Tar::default().folder("etc/").file("etc/name", "lower").end();
        let upper = Tar::default()
            .file("etc/name", "upper")
            .file("hello", "world")
            .end();
        Self::of(&[lower, upper], gzip)
    }

    /// Returns a file's text in one of the image's layers.
    pub fn read(&self, world: &World, layer: usize, path: &str) -> String {
        std::fs::read_to_string(world.layers().path(&self.diff_ids[layer]).join(path)).unwrap()
    }

    pub fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers)
    }

    pub fn index(&self, architecture: &str) -> Vec<u8> {
        json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [{
            "mediaType": MEDIA_MANIFEST, "digest": Digest::of(&self.manifest), "size": self.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
            "annotations": {"io.containerd.image.name": "example.org/made:1"},
        }]})
        .to_string()
        .into_bytes()
    }

    /// Returns the image as an archive of an OCI image layout.
    pub fn archive(&self) -> Vec<u8> {
        self.layout(&self.index(architecture())).end()
    }

    pub fn layout(&self, index: &[u8]) -> Tar {
        let mut tar = Tar::default()
            .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
            .add(EntryType::Regular, "index.json", "", index, |_| {})
            .folder("blobs/sha256/");
        for blob in self.blobs() {
            tar = tar.add(
                EntryType::Regular,
                &format!("blobs/sha256/{}", Digest::of(blob).hex()),
                "",
                blob,
                |_| {},
            );
        }
        tar
    }
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn reference(name: &str) -> Image {
    Image::Reference(name.into())
}

/// Returns `bytes` as an upload in pieces.
pub fn upload(
    bytes: &[u8],
) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Send + use<> {
    let chunks: Vec<_> = bytes
        .chunks(1000)
        .map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk)))
        .collect();
    futures_util::stream::iter(chunks)
}

pub fn layered(resolved: ResolvedImage) -> LayeredImage {
    match resolved {
        ResolvedImage::Layers(image) => image,
        ResolvedImage::Host => panic!("it has no layers"),
    }
}

//! Marker file beside an unpacked layer, and the thread that syncs layers to disk.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::mpsc,
};

use serde::{Deserialize, Serialize};

use super::deferred_link::DeferredLink;
use crate::{
    images::{DiffId, UnpackedLayer},
    runner::keyed_mutex::KeyedMutex,
};

/// The marker of an unpacked layer.
#[derive(Serialize, Deserialize)]
pub(super) struct LayerMarker {
    #[serde(flatten)]
    pub size: UnpackedLayer,
    /// The boot in which it was written.
    pub boot: String,
    /// Whether it was synced to disk.
    pub synced: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<DeferredLink>,
}

impl LayerMarker {
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("-{:08x}", rand::random::<u32>()));
        let mut file = File::create(&name)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        if self.synced {
            file.sync_all()?;
        }
        fs::rename(&name, path)
    }
}

/// Syncs layers to disk one after another, in the background.
pub(super) fn sync_layers(
    folder: &Path,
    boot: &str,
    layer_locks: &KeyedMutex<DiffId>,
    layers: &mpsc::Receiver<DiffId>,
) {
    while let Ok(layer) = layers.recv() {
        let marker = folder.join(format!("{}.json", layer.hex()));
        let synced = (|| {
            let LayerMarker { size, links, .. } = LayerMarker::read(&marker)?;
            rustix::fs::syncfs(File::open(folder)?)?;
            let _lock = layer_locks.take(layer);
            // A layer that was removed meanwhile has no marker, and gets none.
            if marker.exists() {
                LayerMarker {
                    size,
                    boot: boot.to_owned(),
                    synced: true,
                    links,
                }
                .write(&marker)?;
            }
            io::Result::Ok(())
        })();
        if let Err(error) = synced
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%layer, %error, "layer could not be synced to disk");
        }
    }
}

//! Image in an archive's files: an OCI layout, or the output of `docker save`.

use std::{collections::HashMap, fs, path::PathBuf};

use serde::Deserialize;

use super::{
    archive::ArchiveError,
    digest::{DiffId, Digest},
    manifest::{self, DOCUMENT_MAX, Descriptor, Document, Manifest, Problem},
};

/// Indexes that refer to indexes.
const INDEX_DEPTH_MAX: usize = 4;

/// An image in the incoming folder, its blobs verified.
#[derive(Debug)]
pub struct ArchivedImage {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<ArchivedLayer>,
    /// The name of the image in the archive.
    pub name: Option<String>,
}

#[derive(Debug)]
pub struct ArchivedLayer {
    pub diff_id: DiffId,
    pub descriptor: Descriptor,
    pub file: PathBuf,
}

/// A received file of the archive.
#[derive(Debug)]
pub struct ReceivedFile {
    pub file: PathBuf,
    pub size: u64,
    pub digest: Digest,
}

/// A path of the archive without `.` and `..`; only ever a key, never a path on this machine.
pub fn normalized_path(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/")).filter(|path| !path.is_empty())
}

/// The files of an archive.
pub struct Contents {
    pub files: HashMap<String, ReceivedFile>,
    pub links: HashMap<String, String>,
}

impl Contents {
    pub fn image(&self, requested: Option<&str>) -> Result<ArchivedImage, ArchiveError> {
        // Docker writes both since version 25, for the same image.
        if self.get("index.json").is_some() {
            self.oci(requested)
        } else if self.get("manifest.json").is_some() {
            self.docker(requested)
        } else {
            Err(ArchiveError::NoManifest)
        }
    }

    fn oci(&self, requested: Option<&str>) -> Result<ArchivedImage, ArchiveError> {
        let mut bytes = self.read("index.json")?;
        let mut name = None;
        for _ in 0..INDEX_DEPTH_MAX {
            match manifest::parse(&bytes)? {
                Document::Index(index) => {
                    let chosen = manifest::choose(&index, requested)?;
                    name = name.or_else(|| chosen.names().next().map(str::to_owned));
                    bytes = self.document(&chosen.digest)?;
                }
                Document::Manifest(manifest) => return self.oci_image(bytes, &manifest, name),
            }
        }
        Err(Problem::NotAnImage("its indexes lead to each other".into()).into())
    }

    fn oci_image(
        &self,
        bytes: Vec<u8>,
        image: &Manifest,
        name: Option<String>,
    ) -> Result<ArchivedImage, ArchiveError> {
        let config = self.document(&image.config.digest)?;
        let (diff_ids, _) = manifest::parse_config(&config)?;
        let mut layers = Vec::new();
        for (descriptor, diff_id) in manifest::layers(image, &diff_ids)? {
            let received = self.blob(&descriptor.digest)?;
            let descriptor = Descriptor::new(&descriptor.media_type, descriptor.digest, received.size);
            layers.push(ArchivedLayer {
                diff_id,
                descriptor,
                file: received.file.clone(),
            });
        }
        Ok(ArchivedImage {
            manifest: bytes,
            config,
            layers,
            name,
        })
    }

    fn docker(&self, requested: Option<&str>) -> Result<ArchivedImage, ArchiveError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let images: Vec<Saved> =
            serde_json::from_slice(&self.read("manifest.json")?).map_err(|e| Problem::Unreadable {
                what: "manifest",
                why: e.to_string(),
            })?;
        let tags = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
        let saved = match images.as_slice() {
            [] => return Err(ArchiveError::NoManifest),
            [only] => only,
            several => several
                .iter()
                .find(|image| {
                    requested.is_some_and(|requested| tags(image).iter().any(|tag| tag == requested))
                })
                .ok_or_else(|| {
                    Problem::Several(
                        several
                            .iter()
                            .flat_map(tags)
                            .take(20)
                            .collect::<Vec<_>>()
                            .join(", "),
                    )
                })?,
        };
        let config = self.read(&saved.config)?;
        let (diff_ids, _) = manifest::parse_config(&config)?;
        let mut descriptors = Vec::new();
        let mut files = Vec::new();
        for layer in &saved.layers {
            let received = self
                .get(layer)
                .ok_or_else(|| ArchiveError::Missing(layer.clone()))?;
            descriptors.push(Descriptor::new(
                manifest::MEDIA_LAYER,
                received.digest,
                received.size,
            ));
            files.push(received.file.clone());
        }
        // `docker save` writes no OCI manifest; this one describes the same image.
        let image = Manifest {
            schema_version: 2,
            media_type: manifest::MEDIA_MANIFEST.into(),
            config: Descriptor::new(manifest::MEDIA_CONFIG, Digest::of(&config), config.len() as u64),
            layers: descriptors,
        };
        let layers = manifest::layers(&image, &diff_ids)?
            .into_iter()
            .zip(files)
            .map(|((descriptor, diff_id), file)| ArchivedLayer {
                diff_id,
                descriptor: descriptor.clone(),
                file,
            })
            .collect();
        let manifest = serde_json::to_vec(&image).map_err(|e| ArchiveError::Disk(e.into()))?;
        Ok(ArchivedImage {
            manifest,
            config,
            layers,
            name: tags(saved).into_iter().next(),
        })
    }

    fn get(&self, path: &str) -> Option<&ReceivedFile> {
        let mut path = normalized_path(path.as_bytes())?;
        for _ in 0..8 {
            match self.files.get(&path) {
                Some(received) => return Some(received),
                None => path = self.links.get(&path)?.clone(),
            }
        }
        None
    }

    fn blob(&self, digest: &Digest) -> Result<&ReceivedFile, ArchiveError> {
        let path = format!("blobs/sha256/{}", digest.hex());
        let received = self.get(&path).ok_or(ArchiveError::Missing(path))?;
        if received.digest == *digest {
            Ok(received)
        } else {
            Err(ArchiveError::WrongDigest {
                expected: *digest,
                found: received.digest,
            })
        }
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        small(self.blob(digest)?)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, ArchiveError> {
        small(
            self.get(path)
                .ok_or_else(|| ArchiveError::Missing(path.chars().take(200).collect()))?,
        )
    }
}

fn small(received: &ReceivedFile) -> Result<Vec<u8>, ArchiveError> {
    if received.size > DOCUMENT_MAX {
        return Err(Problem::Unreadable {
            what: "manifest",
            why: format!("it has {} bytes", received.size),
        }
        .into());
    }
    fs::read(&received.file).map_err(ArchiveError::Disk)
}

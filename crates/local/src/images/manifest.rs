//! Manifests, indexes and configurations (OCI image specification 1.1, and Docker's second
//! schema, which has the same shape). Pure.
//!
//! The types of `oci-spec` refuse common documents: `null` for an empty list, and missing media types. Only used fields
//! are parsed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::{DiffId, Digest};

/// Bytes of a manifest, an index or a configuration. Registries end manifests at 4 MiB.
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// Layers of one image; builders end at 127.
pub const LAYERS_MAX: usize = 127;

pub const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media types that are accepted for a manifest.
pub const MEDIA_ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Why an image cannot be used. Completes "the image …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("has a {what} that cannot be read ({why})")]
    Unreadable { what: &'static str, why: String },
    #[error("is in Docker's first format (schema 1), which is obsolete; push it again with a current tool")]
    FirstSchema,
    #[error("is not there for {requested}; it is there for {there}")]
    Platform { requested: String, there: String },
    #[error(
        "is one of several in there ({0}); give the name of one of them, or make an archive of one image"
    )]
    Several(String),
    #[error("is no container image: {0}")]
    NotAnImage(String),
    #[error("has {0} layers; at most {LAYERS_MAX} can be put together")]
    TooManyLayers(usize),
}

/// A reference to a blob.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing)]
    platform: Option<Platform>,
    #[serde(default, skip_serializing)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
        }
    }

    /// The names that an archive's index gives this image: containerd's, and the standard one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .into_iter()
            .filter_map(|key| self.annotations.as_ref()?.get(key).map(String::as_str))
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// An image for one platform.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// A document of a registry or an archive.
#[derive(Debug)]
pub enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// Parses a manifest or an index.
///
/// # Errors
/// [`Problem`].
pub fn parse(bytes: &[u8]) -> Result<Document, Problem> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        #[serde(default)]
        schema_version: u32,
        manifests: Option<Vec<serde_json::Value>>,
    }
    let unreadable = |e: serde_json::Error| Problem::Unreadable {
        what: "manifest",
        why: e.to_string(),
    };
    let probe: Probe = serde_json::from_slice(bytes).map_err(unreadable)?;
    if probe.schema_version == 1 {
        return Err(Problem::FirstSchema);
    }
    match probe.manifests {
        // An entry with another hash algorithm is skipped.
        Some(manifests) => Ok(Document::Index(
            manifests
                .into_iter()
                .filter_map(|value| serde_json::from_value(value).ok())
                .collect(),
        )),
        None => serde_json::from_slice(bytes)
            .map(Document::Manifest)
            .map_err(unreadable),
    }
}

/// This machine's architecture, by its OCI name (that of Go).
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The entry of an index that is for this machine. `requested` selects one where an archive has
/// several images.
///
/// # Errors
/// [`Problem::Platform`], [`Problem::Several`], [`Problem::NotAnImage`].
pub fn choose<'a>(index: &'a [Descriptor], requested: Option<&str>) -> Result<&'a Descriptor, Problem> {
    // Attestations are listed as images for the platform unknown/unknown.
    let images = || {
        index
            .iter()
            .filter(|entry| entry.platform.as_ref().is_none_or(|p| p.os != "unknown"))
    };
    if images().next().is_none() {
        return Err(Problem::NotAnImage("its index is empty".into()));
    }
    let fits = |entry: &Descriptor| {
        entry.platform.as_ref().is_none_or(|p| {
            (p.os.is_empty() || p.os == "linux")
                && (p.architecture.is_empty() || p.architecture == architecture())
        })
    };
    let mut fitting: Vec<_> = images().filter(|entry| fits(entry)).collect();
    if fitting.len() > 1
        && let Some(requested) = requested
        && fitting
            .iter()
            .any(|entry| entry.names().any(|name| name == requested))
    {
        fitting.retain(|entry| entry.names().any(|name| name == requested));
    }
    // Of variants, the plain one (arm64 without v9, amd64 without v3) runs everywhere.
    if let Some(plain) = fitting
        .iter()
        .find(|e| e.platform.as_ref().is_some_and(|p| p.variant.is_none()))
        && fitting
            .iter()
            .any(|e| e.platform.as_ref().is_some_and(|p| p.variant.is_some()))
    {
        fitting = vec![*plain];
    }
    let Some(first) = fitting.first() else {
        let there: Vec<_> = images()
            .filter_map(|entry| entry.platform.as_ref())
            .map(|p| format!("{}/{}", p.os, p.architecture))
            .take(20)
            .collect();
        return Err(Problem::Platform {
            requested: format!("linux/{}", architecture()),
            there: there.join(", "),
        });
    };
    let names = |entry: &Descriptor| entry.names().next().map(str::to_owned);
    if fitting
        .iter()
        .any(|entry| entry.digest != first.digest && names(entry) != names(first))
    {
        let all: Vec<_> = fitting
            .iter()
            .map(|e| names(e).unwrap_or_else(|| e.digest.to_string()))
            .take(20)
            .collect();
        return Err(Problem::Several(all.join(", ")));
    }
    Ok(first)
}

/// An image's configuration for programs in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    #[serde(default)]
    pub working_dir: Option<String>,
    /// `name`, `id`, `name:group` or `id:id`, to be looked up in the image's own passwd.
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    /// TCP ports.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Parses a configuration: its layers' diff ids, bottom first, and its settings for programs.
///
/// # Errors
/// [`Problem`], also where it is for another platform.
pub fn parse_config(bytes: &[u8]) -> Result<(Vec<DiffId>, Config), Problem> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
        rootfs: Option<RootFs>,
        config: Option<Run>,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Option<Vec<DiffId>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Run {
        env: Option<Vec<String>>,
        working_dir: Option<String>,
        user: Option<String>,
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    }
    let file: File = serde_json::from_slice(bytes).map_err(|e| Problem::Unreadable {
        what: "configuration",
        why: e.to_string(),
    })?;
    let Some(rootfs) = file.rootfs else {
        return Err(Problem::NotAnImage("its configuration names no layers".into()));
    };
    let fits = |found: &str, requested: &str| found.is_empty() || found == requested;
    if !fits(&file.os, "linux") || !fits(&file.architecture, architecture()) {
        return Err(Problem::Platform {
            requested: format!("linux/{}", architecture()),
            there: format!("{}/{}", file.os, file.architecture),
        });
    }
    let run = file.config.unwrap_or_default();
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let config = Config {
        environment: run
            .env
            .unwrap_or_default()
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        working_dir: some(run.working_dir),
        user: some(run.user),
        entrypoint: run.entrypoint.unwrap_or_default(),
        command: run.cmd.unwrap_or_default(),
        ports: run
            .exposed_ports
            .unwrap_or_default()
            .keys()
            .filter_map(|port| port.strip_suffix("/tcp").unwrap_or(port).parse().ok())
            .collect(),
    };
    Ok((rootfs.diff_ids.unwrap_or_default(), config))
}

/// The manifest's layers with their diff ids, bottom first.
///
/// # Errors
/// [`Problem`]: the two differ, or the entries are not layers.
pub fn layers<'a>(
    manifest: &'a Manifest,
    diff_ids: &[DiffId],
) -> Result<Vec<(&'a Descriptor, DiffId)>, Problem> {
    if manifest.layers.len() > LAYERS_MAX {
        return Err(Problem::TooManyLayers(manifest.layers.len()));
    }
    for layer in &manifest.layers {
        let kind = layer.media_type.as_str();
        let is_layer = kind.is_empty()
            || kind.starts_with("application/vnd.oci.image.layer.")
            || kind.starts_with("application/vnd.docker.image.rootfs.");
        if !is_layer || kind.contains("encrypted") {
            return Err(Problem::NotAnImage(format!(
                "it has a part of the kind {:?}",
                kind.chars().take(100).collect::<String>()
            )));
        }
    }
    if manifest.layers.len() != diff_ids.len() || diff_ids.is_empty() {
        return Err(Problem::NotAnImage(format!(
            "its manifest has {} layers and its configuration {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    Ok(manifest.layers.iter().zip(diff_ids.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index(entries: &[serde_json::Value]) -> Vec<Descriptor> {
        match parse(
            json!({"schemaVersion": 2, "manifests": entries})
                .to_string()
                .as_bytes(),
        ) {
            Ok(Document::Index(index)) => index,
            other => panic!("{other:?}"),
        }
    }

    fn entry(content: &str, os: &str, architecture: &str, name: &str) -> serde_json::Value {
        json!({"mediaType": MEDIA_MANIFEST, "digest": Digest::of(content.as_bytes()), "size": 1,
            "platform": {"os": os, "architecture": architecture},
            "annotations": {"org.opencontainers.image.ref.name": name}})
    }

    #[test]
    fn the_entry_for_this_machine_is_chosen_from_an_index() {
        let index = index(&[
            entry("a", "windows", architecture(), "x"),
            entry("b", "linux", "s390x-other", "x"),
            entry("c", "linux", architecture(), "x"),
            entry("d", "unknown", "unknown", "x"),
        ]);

        assert_eq!(choose(&index, None).unwrap().digest, Digest::of(b"c"));
    }

    #[test]
    fn an_image_for_other_machines_is_an_error_that_names_them() {
        let index = index(&[
            entry("a", "linux", "mips", "x"),
            entry("b", "windows", "amd64", "x"),
        ]);

        let problem = choose(&index, None).unwrap_err().to_string();

        assert!(
            problem.ends_with("it is there for linux/mips, windows/amd64"),
            "{problem}"
        );
    }

    #[test]
    fn the_named_image_is_chosen_from_several_and_none_is_guessed() {
        let index = index(&[
            entry("a", "linux", architecture(), "one"),
            entry("b", "linux", architecture(), "two"),
        ]);

        assert_eq!(choose(&index, Some("two")).unwrap().digest, Digest::of(b"b"));
        assert_eq!(
            choose(&index, Some("three")).unwrap_err(),
            Problem::Several("one, two".into())
        );
    }

    #[test]
    fn a_configuration_full_of_nulls_is_an_empty_one() {
        let bytes = json!({"os": "linux", "rootfs": {"diff_ids": null},
            "config": {"Env": null, "Cmd": null, "ExposedPorts": null, "User": ""}});

        assert_eq!(
            parse_config(bytes.to_string().as_bytes()).unwrap(),
            (Vec::new(), Config::default())
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), text in "\\PC{0,200}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = parse(bytes);
                let _ = parse_config(bytes);
            }
        }
    }
}

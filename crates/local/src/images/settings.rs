//! Settings of the image store.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

/// The settings of a [`super::Store`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The OCI archive of the template `web`.
    pub web_archive: Option<PathBuf>,
    /// A published image to use for the template `web` where there is no archive.
    pub web_reference: Option<String>,
    /// Registries (`host` or `host:port`) that may have loopback, private or link-local
    /// addresses. People name images freely, so without this an image's name could reach into
    /// the machine's own networks.
    pub allowed_registries: Vec<String>,
    /// The only registries (`host` or `host:port`) that users' images are pulled from; empty for any.
    pub only_registries: Vec<String>,
    /// Registries that are used without TLS, in addition to those on this machine itself.
    pub plain_http_registries: Vec<String>,
    /// HTTP proxy for registries (`http://host:port`), except the allowed ones. The proxy then
    /// resolves names, and is responsible for the addresses that it connects to.
    pub proxy: Option<String>,
    pub credentials: Vec<RegistryCredentials>,
    /// Bytes of an archive, decompressed, and of an image's compressed layers together.
    pub max_archive_bytes: u64,
    /// Bytes of the disk that stay free.
    pub keep_free_bytes: u64,
    /// How long a registry may take to take a connection.
    pub connect_timeout: Duration,
    /// How long a registry or an upload may send nothing.
    pub idle_timeout: Duration,
    /// How long one layer may take altogether.
    pub layer_timeout: Duration,
    /// Attempts of a request that fails transiently.
    pub attempts: u32,
    /// Before the second attempt; doubles with each further one.
    pub retry_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            web_archive: None,
            web_reference: None,
            allowed_registries: Vec::new(),
            only_registries: Vec::new(),
            plain_http_registries: Vec::new(),
            proxy: None,
            credentials: Vec::new(),
            max_archive_bytes: 20 << 30,
            keep_free_bytes: 512 << 20,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            layer_timeout: Duration::from_secs(3600),
            attempts: 4,
            retry_pause: Duration::from_millis(500),
        }
    }
}

/// How to sign in to a registry.
#[derive(Clone, Debug)]
pub struct RegistryCredentials {
    /// As in a reference, such as `ghcr.io`, `docker.io` or `localhost:5000`.
    pub registry: String,
    pub username: String,
    pub password: SecretString,
}

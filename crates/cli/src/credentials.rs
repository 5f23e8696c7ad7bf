//! Credentials file: the servers that the user is signed in to, in `$XDG_CONFIG_HOME/fsa/credentials.toml`, readable by
//! its owner only.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use fsa_model::address::is_localhost;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::{config, failure::Failure};

/// The server if nothing else is configured.
pub const DEFAULT_URL: &str = "http://localhost:8080";

#[derive(Debug, Default, Serialize, Deserialize)]
struct CredentialsFile {
    /// The server of the last sign-in.
    #[serde(default)]
    current: Option<String>,
    #[serde(default)]
    servers: BTreeMap<String, ServerEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServerEntry {
    token: String,
}

/// A server, and the token for it if there is one.
pub struct Target {
    pub url: String,
    pub token: Option<SecretString>,
}

/// The server and token of the flag, the environment or the file, in this order.
pub fn target(url: Option<&str>) -> Result<Target, Failure> {
    let file = read()?;
    let url = url
        .map(with_scheme)
        .or(file.current)
        .unwrap_or_else(|| DEFAULT_URL.to_owned());
    let token = config::client_token().or_else(|| {
        file.servers
            .get(&url)
            .map(|entry| SecretString::from(entry.token.clone()))
    });
    Ok(Target { url, token })
}

/// `url` without a trailing slash, and with a scheme: http for a loopback host, else https.
pub fn with_scheme(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.contains("://") {
        return url.to_owned();
    }
    let loopback = url::Url::parse(&format!("http://{url}")).is_ok_and(|url| match url.host() {
        Some(url::Host::Domain(name)) => is_localhost(name),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    });
    format!("{}://{url}", if loopback { "http" } else { "https" })
}

/// Saves the token, and makes its server the current one. Returns the path of the file.
pub fn save(url: &str, token: &SecretString) -> Result<PathBuf, Failure> {
    let mut file = read()?;
    file.current = Some(url.to_owned());
    file.servers.insert(
        url.to_owned(),
        ServerEntry {
            token: token.expose_secret().to_owned(),
        },
    );
    let path = path()?;
    let text = toml::to_string(&file).map_err(|error| Failure::failed(error.to_string()))?;
    write(&path, &text)
        .map_err(|error| Failure::failed(format!("{} cannot be written: {error}", path.display())))?;
    Ok(path)
}

fn read() -> Result<CredentialsFile, Failure> {
    let path = path()?;
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            Failure::failed(format!(
                "{} is invalid ({error}); delete it and sign in again",
                path.display()
            ))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(CredentialsFile::default()),
        Err(error) => Err(Failure::failed(format!(
            "{} cannot be read: {error}",
            path.display()
        ))),
    }
}

fn path() -> Result<PathBuf, Failure> {
    config::config_folder()
        .map(|folder| folder.join("credentials.toml"))
        .ok_or_else(|| {
            Failure::failed("neither XDG_CONFIG_HOME nor HOME is set, so the credentials cannot be saved")
        })
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_scheme_gets_the_one_of_its_host() {
        for (input, url) in [
            ("localhost:8080", "http://localhost:8080"),
            ("try--3000.localhost:8080/", "http://try--3000.localhost:8080"),
            ("127.0.0.1", "http://127.0.0.1"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("fsa.example.com", "https://fsa.example.com"),
            ("localhost.example.com:443", "https://localhost.example.com:443"),
            ("http://fsa.example.com/", "http://fsa.example.com"),
            ("https://localhost", "https://localhost"),
        ] {
            assert_eq!(with_scheme(input), url);
        }
    }
}

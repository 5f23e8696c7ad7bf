//! The settings of signing in with GitHub, checked.

use std::path::PathBuf;

use fsa_model::address::Network;
use fsa_server::settings::{GithubSettings, Join};
use secrecy::SecretString;
use url::Url;

use crate::failure::Failure;

/// None where no client is named.
pub(super) fn github(
    client_id: Option<String>,
    secret: Option<SecretString>,
    secret_file: Option<PathBuf>,
    (url, api): (Option<Url>, Option<Url>),
    own_networks: &[Network],
    join: Join,
) -> Result<Option<GithubSettings>, Failure> {
    let Some(client_id) = client_id.filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let client_secret = match (secret, secret_file) {
        (Some(secret), _) => secret,
        (None, Some(path)) => std::fs::read_to_string(&path)
            .map(|text| SecretString::from(text.trim()))
            .map_err(|error| {
                Failure::usage(format!(
                    "the file of GitHub's client secret, {}, cannot be read: {error}",
                    path.display()
                ))
            })?,
        (None, None) => {
            return Err(Failure::usage(
                "github-client-id is set and its secret is not: give it in FSA_GITHUB_CLIENT_SECRET, or in a \
                 file with --github-client-secret-file",
            ));
        }
    };
    let default = |text: &str| Url::parse(text).map_err(|error| Failure::failed(error.to_string()));
    let api = match (api, &url) {
        (Some(api), _) => api,
        // A GitHub Enterprise server has its API on the same host.
        (None, Some(url)) => {
            let mut api = url.clone();
            api.set_path("/api/v3");
            api
        }
        (None, None) => default("https://api.github.com")?,
    };
    let url = url.map_or_else(|| default("https://github.com"), Ok)?;
    for address in [&url, &api] {
        // A code, the client's secret and people's tokens go there.
        let host = address.host_str().unwrap_or_default();
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        // A network that the operator calls their own.
        let own = host
            .parse()
            .is_ok_and(|ip| own_networks.iter().any(|network| network.contains(ip)));
        if address.scheme() != "https" && !((here || own) && address.scheme() == "http") {
            return Err(Failure::usage(format!(
                "{address} is not https, and secrets would be sent there"
            )));
        }
    }
    Ok(Some(GithubSettings {
        client_id,
        client_secret,
        url,
        api,
        app: false,
        join,
    }))
}

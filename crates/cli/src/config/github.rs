//! The settings of signing in with GitHub, checked.

use fsa_model::address::Network;
use fsa_server::settings::{GithubSettings, Join};
use secrecy::SecretString;
use url::Url;

use super::{Settings, list};
use crate::failure::Failure;

/// None where no client is named.
pub(super) fn github(
    settings: &Settings,
    own_networks: &[Network],
) -> Result<Option<GithubSettings>, Failure> {
    let Some(client_id) = settings.github_client_id.clone().filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let client_secret = match (
        &settings.github_client_secret,
        &settings.github_client_secret_file,
    ) {
        (Some(secret), _) => secret.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| SecretString::from(text.trim()))
            .map_err(|error| {
                Failure::usage(format!(
                    "the file of GitHub's client secret, {}, cannot be read: {error}",
                    path.display()
                ))
            })?,
        (None, None) => {
            return Err(Failure::usage(
                "github-client-id is set and its secret is not: set FSA_GITHUB_CLIENT_SECRET, or name a file with \
                 --github-client-secret-file",
            ));
        }
    };
    let default = |text: &str| Url::parse(text).map_err(|error| Failure::failed(error.to_string()));
    let url = &settings.github_url;
    let api = match (&settings.github_api_url, url) {
        (Some(api), _) => api.clone(),
        // A GitHub Enterprise server has its API on the same host.
        (None, Some(url)) => {
            let mut api = url.clone();
            api.set_path("/api/v3");
            api
        }
        (None, None) => default("https://api.github.com")?,
    };
    let url = url.clone().map_or_else(|| default("https://github.com"), Ok)?;
    for address in [&url, &api] {
        // Codes, the client's secret and people's tokens are sent there.
        let host = address.host_str().unwrap_or_default();
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        // A network of `allow_networks`.
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
        app: settings.github_app.unwrap_or(false),
        join: Join {
            anyone: settings.github_anyone.unwrap_or(false),
            logins: list(&settings.github_logins),
            organizations: list(&settings.github_organizations),
        },
    }))
}

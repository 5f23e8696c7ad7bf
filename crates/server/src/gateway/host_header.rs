//! Host header rewriting, as pure functions over header maps.
//!
//! By default an application receives the host name of its preview. With the port's setting [`HostHeader::Localhost`]
//! it receives `localhost:PORT` instead, also in `Origin` and `Referer` of requests by pages of the same project.
//! In responses, URLs of the form `http://localhost:PORT/…` are rewritten to the preview's URL under either setting: in
//! a browser they would lead to the user's own machine.

use fsa_model::api::HostHeader;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::{Host, Position, Url};

use super::access;
use crate::settings::Settings;

/// The public and the local host name of a project's port.
pub(super) struct HostNames<'a> {
    pub settings: &'a Settings,
    /// The host name without the apps domain.
    pub label: &'a str,
    /// The checked Host field of the request.
    pub host: &'a HeaderValue,
    pub port: u16,
    pub host_header: HostHeader,
}

impl HostNames<'_> {
    /// The origin of the preview, as the request names it.
    pub(super) fn public_origin(&self) -> String {
        let host = self.host.to_str().unwrap_or_default();
        format!("{}://{host}", self.settings.origin.scheme())
    }

    /// Sets the Host field, and with [`HostHeader::Localhost`] rewrites `Origin` and `Referer`.
    pub(super) fn rewrite_request(&self, headers: &mut HeaderMap) {
        let host = match self.host_header {
            HostHeader::Public => self.host.clone(),
            HostHeader::Localhost => {
                for name in [header::ORIGIN, header::REFERER] {
                    replace(headers, &name, |url| self.to_local(url));
                }
                HeaderValue::try_from(format!("localhost:{}", self.port))
                    .unwrap_or_else(|_| self.host.clone())
            }
        };
        headers.insert(header::HOST, host);
    }

    /// Rewrites the application's local URLs to public ones.
    pub(super) fn rewrite_response(&self, headers: &mut HeaderMap) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            replace(headers, &name, |url| {
                let url = Url::parse(url).ok()?;
                (local_port(&url)? == self.port)
                    .then(|| format!("{}{}", self.public_origin(), &url[Position::BeforePath..]))
            });
        }
        if self.host_header == HostHeader::Localhost {
            replace(headers, &header::ACCESS_CONTROL_ALLOW_ORIGIN, |origin| {
                self.public_origin_of(local_port(&Url::parse(origin).ok()?)?)
            });
        }
    }

    /// The local URL for a public URL of this project; `None` for other URLs.
    fn to_local(&self, url: &str) -> Option<String> {
        let parsed = Url::parse(url).ok()?;
        let origin = parsed.origin().ascii_serialization();
        let port = if origin == self.public_origin() {
            self.port
        } else {
            access::sibling_port(self.settings, self.label, url).filter(|port| {
                self.public_origin_of(*port)
                    .is_some_and(|public| public == origin)
            })?
        };
        // An origin has no path, not even `/`.
        let rest = if url.len() == origin.len() {
            ""
        } else {
            &parsed[Position::BeforePath..]
        };
        Some(format!("http://localhost:{port}{rest}"))
    }

    fn public_origin_of(&self, port: u16) -> Option<String> {
        if port == self.port {
            return Some(self.public_origin());
        }
        Some(self.settings.app_url(&access::sibling_label(self.label, port)?))
    }
}

/// The port of a URL whose host is `localhost`, a loopback address or the unspecified address.
fn local_port(url: &Url) -> Option<u16> {
    let local = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback() || address.is_unspecified(),
        Host::Ipv6(address) => address.is_loopback() || address.is_unspecified(),
    };
    (local && matches!(url.scheme(), "http" | "https")).then(|| url.port_or_known_default())?
}

fn replace(headers: &mut HeaderMap, name: &HeaderName, change: impl Fn(&str) -> Option<String>) {
    let changed = headers
        .get(name)
        .and_then(|value| change(value.to_str().ok()?))
        .and_then(|text| HeaderValue::try_from(text).ok());
    if let Some(value) = changed {
        headers.insert(name, value);
    }
}

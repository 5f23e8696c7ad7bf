//! Host names that an application sees and writes, as pure functions over header maps.
//!
//! An application usually sees the host name of its preview. One that answers only to `localhost` (a port's setting,
//! [`HostHeader::Localhost`]) sees `localhost:PORT` in its place, also as the origin and the referrer of requests of
//! this project's own pages; then nothing in the request names the preview's host. What it writes about itself,
//! `http://localhost:PORT/…`, leads nowhere in a browser, so redirects to it lead to the preview in either case.

use fsa_model::api::HostHeader;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::{Host, Position, Url};

use super::access;
use crate::settings::Settings;

/// One port of a project, as browsers and as its application name it.
pub(super) struct Names<'a> {
    pub settings: &'a Settings,
    /// The host name without the apps domain.
    pub label: &'a str,
    /// The checked Host field of the request.
    pub host: &'a HeaderValue,
    pub port: u16,
    pub host_header: HostHeader,
}

impl Names<'_> {
    /// The origin of the preview, as the request names it.
    fn public(&self) -> String {
        let host = self.host.to_str().unwrap_or_default();
        format!("{}://{host}", self.settings.origin.scheme())
    }

    /// Sets the Host field, and presents the origins of this project's pages.
    pub(super) fn present(&self, headers: &mut HeaderMap) {
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

    /// Translates what the application says of its own address.
    pub(super) fn translate(&self, headers: &mut HeaderMap) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            replace(headers, &name, |url| {
                let url = Url::parse(url).ok()?;
                (local_port(&url)? == self.port)
                    .then(|| format!("{}{}", self.public(), &url[Position::BeforePath..]))
            });
        }
        if self.host_header == HostHeader::Localhost {
            replace(headers, &header::ACCESS_CONTROL_ALLOW_ORIGIN, |origin| {
                self.to_public(local_port(&Url::parse(origin).ok()?)?)
            });
        }
    }

    /// The URL of a page of this project, as the application would name it.
    fn to_local(&self, url: &str) -> Option<String> {
        let parsed = Url::parse(url).ok()?;
        let origin = parsed.origin().ascii_serialization();
        let port = if origin == self.public() {
            self.port
        } else {
            access::sibling_port(self.settings, self.label, url)
                .filter(|port| self.to_public(*port).is_some_and(|public| public == origin))?
        };
        // An origin has no path, not even `/`.
        let rest = if url.len() == origin.len() {
            ""
        } else {
            &parsed[Position::BeforePath..]
        };
        Some(format!("http://localhost:{port}{rest}"))
    }

    fn to_public(&self, port: u16) -> Option<String> {
        if port == self.port {
            return Some(self.public());
        }
        Some(self.settings.app_url(&access::sibling_label(self.label, port)?))
    }
}

/// The port, if the URL names this machine, as an application in a sandbox does for its own.
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

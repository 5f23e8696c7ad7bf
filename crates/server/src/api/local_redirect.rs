//! Redirects from other names of this machine, where the origin is a name below `localhost`.
//!
//! With the origin `www.fsa.localhost` and the apps domain `apps.fsa.localhost`, the page and the applications are one site,
//! which they are not below `localhost` itself. Bookmarks still lead to `localhost`, and to applications below it: browsers
//! are redirected, while programs use the API under every name.

use fsa_model::{address::is_localhost, host::parse_host};
use http::{Method, Request, header};
use url::{Host, Url};

use crate::settings::Settings;

/// Where a request for another name of this machine is redirected; `None` if it is served as it is.
pub(super) fn target<B>(settings: &Settings, request: &Request<B>) -> Option<String> {
    let main = settings.origin.host_str()?;
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST)?.to_str().ok()?,
    };
    let named = Url::parse(&format!("http://{authority}")).ok()?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // A tunnel may lead here from another port, from which the origin is not reached.
    if !is_localhost(main) || main == "localhost" || named.port() != settings.origin.port() {
        return None;
    }
    let is_main = match named.host()? {
        Host::Domain(name) if name == main => return None,
        Host::Domain(name) => {
            let label = name.strip_suffix(".localhost");
            if let Some(label) = label.filter(|label| parse_host(label).is_some()) {
                let moved = is_localhost(&settings.apps_domain) && settings.apps_domain != "localhost";
                return moved.then(|| format!("{}{path}", settings.app_url(label)));
            }
            name == "localhost"
        }
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    (is_main && loads_page(request)).then(|| format!("{}{path}", settings.origin_text()))
}

/// Whether a browser shows the answer as a page. Programs, also those that accept everything, are served.
fn loads_page<B>(request: &Request<B>) -> bool {
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    request.method() == Method::GET
        && match field("sec-fetch-mode") {
            Some(mode) => mode == "navigate",
            None => field("accept").is_some_and(|accept| accept.starts_with("text/html")),
        }
}

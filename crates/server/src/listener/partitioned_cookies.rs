//! Partitioned cookies of the gateway, for a preview in a frame of the main host's page.
//!
//! Apps hosts are another site than the main host if the two share no registrable domain, as with `localhost`
//! and `x--3000.localhost`. A browser then keeps no `SameSite=Lax` cookie for a frame. `Partitioned` (CHIPS)
//! solves this: such a cookie is valid only below the page that frames it, so no page and no form of another
//! site ever sends it. A cookie that was not requested by a frame stays `Lax`.

use http::{HeaderMap, HeaderValue, header};

use crate::{auth::cookie, settings::Settings};

const LAX: &str = "; SameSite=Lax";
const FOR_FRAMES: &str = "; SameSite=None; Partitioned";
const SECURE: &str = "; Secure";

/// Whether the request loads a frame, and the browser would keep a secure cookie here: it does over https, and
/// on `localhost` also without it.
pub(super) fn is_framed(settings: &Settings, asked: &HeaderMap) -> bool {
    let secure = settings.is_https()
        || settings.apps_domain == "localhost"
        || settings.apps_domain.ends_with(".localhost");
    secure
        && asked
            .get("sec-fetch-dest")
            .is_some_and(|kind| kind == "iframe" || kind == "frame")
}

/// Changes the gateway's own cookies in a response so that a frame keeps them.
pub(super) fn keep(headers: &mut HeaderMap) {
    let all: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    if all.is_empty() {
        return;
    }
    headers.remove(header::SET_COOKIE);
    for value in all {
        let framed = value.to_str().ok().and_then(framed);
        headers.append(header::SET_COOKIE, framed.unwrap_or(value));
    }
}

fn framed(cookie: &str) -> Option<HeaderValue> {
    let (name, _) = cookie.split_once('=')?;
    if !cookie::is_ours(name) {
        return None;
    }
    let mut text = cookie.replace(LAX, FOR_FRAMES);
    if !text.contains(SECURE) {
        text.push_str(SECURE);
    }
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_cookies_are_kept_by_frames_and_those_of_applications_are_as_they_were() {
        let mut headers = HeaderMap::new();
        for cookie in [
            "fsa_port=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax",
            "__Host-fsa_port=y; Path=/; SameSite=Lax; Secure",
            "theirs=z; SameSite=Lax",
        ] {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(cookie));
        }
        keep(&mut headers);
        let kept: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(
            kept,
            [
                "fsa_port=x; Path=/; Max-Age=60; HttpOnly; SameSite=None; Partitioned; Secure",
                "__Host-fsa_port=y; Path=/; SameSite=None; Partitioned; Secure",
                "theirs=z; SameSite=Lax",
            ]
        );
    }
}

//! Cookies of the gateway for a preview that is shown in a frame of our own page.
//!
//! Apps hosts are another site than the main host wherever the two share no registrable domain,
//! as `localhost` and `x--3000.localhost` do not, and then a browser keeps no `SameSite=Lax` cookie
//! for a frame. `Partitioned` is made for this (CHIPS): such a cookie holds only below the page that
//! frames it, so that no other site's page and no form of another site ever sends it. One that was
//! not asked for by a frame stays `Lax`.

use http::{HeaderMap, HeaderValue, header};

use crate::{auth::cookie, settings::Settings};

const LAX: &str = "; SameSite=Lax";
const FOR_FRAMES: &str = "; SameSite=None; Partitioned";
const SECURE: &str = "; Secure";

/// Whether the request loads a frame, and whether the browser would keep a secure cookie here: it
/// does over https, and on `localhost` without it.
pub(super) fn is_framed(settings: &Settings, asked: &HeaderMap) -> bool {
    let secure = settings.is_https()
        || settings.apps_domain == "localhost"
        || settings.apps_domain.ends_with(".localhost");
    secure
        && asked
            .get("sec-fetch-dest")
            .is_some_and(|kind| kind == "iframe" || kind == "frame")
}

/// Makes our own cookies in an answer such that a frame keeps them.
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

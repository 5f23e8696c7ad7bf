//! Cookies on the main host: the session cookie, and the cookie that binds a sign-in with GitHub to a browser.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret as _, SecretString};

use crate::settings::Settings;

/// The longest time that browsers keep a cookie (RFC 6265bis: 400 days). The row decides when a session ends.
const MAX_AGE_SECONDS: u64 = 400 * 24 * 60 * 60;

/// The name of the session cookie. With `__Host-` the browser refuses a cookie that another host, or a page that is
/// not https, tries to set (RFC 6265bis, 4.1.3).
#[must_use]
pub fn name(settings: &Settings) -> &'static str {
    if settings.is_https() {
        "__Host-fsa_session"
    } else {
        "fsa_session"
    }
}

/// The name of the cookie that binds a sign-in with GitHub to the browser that began it.
#[must_use]
pub fn github_name(settings: &Settings) -> &'static str {
    if settings.is_https() {
        "__Host-fsa_github"
    } else {
        "fsa_github"
    }
}

/// `Set-Cookie` for a browser that is redirected to GitHub. Lax, because GitHub redirects it back.
#[must_use]
pub fn github(settings: &Settings, value: &str, lifetime: Duration) -> HeaderValue {
    write(settings, github_name(settings), value, lifetime.as_secs())
}

/// Whether a cookie of this name is ours, under any setting.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix("__Host-").unwrap_or(name).starts_with("fsa_")
}

/// The value of the cookie `name`. The first one counts where there are several.
#[must_use]
pub fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// `Set-Cookie` for a new session.
#[must_use]
pub fn set(settings: &Settings, token: &SecretString) -> HeaderValue {
    write(settings, name(settings), token.expose_secret(), MAX_AGE_SECONDS)
}

/// `Set-Cookie` that ends the session in the browser.
#[must_use]
pub fn clear(settings: &Settings) -> HeaderValue {
    write(settings, name(settings), "", 0)
}

fn write(settings: &Settings, name: &str, value: &str, max_age: u64) -> HeaderValue {
    let secure = if settings.is_https() { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    let mut header = HeaderValue::try_from(text).expect("what we put into cookies is plain ASCII");
    header.set_sensitive(true);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("a=1; fsa_session=x=y; b=2"),
        );
        headers.append(header::COOKIE, HeaderValue::from_static("c=3"));
        assert_eq!(get(&headers, "fsa_session"), Some("x=y"));
        assert_eq!(get(&headers, "c"), Some("3"));
        assert_eq!(get(&headers, "session"), None);
    }

    #[test]
    fn our_cookies_are_known_by_their_names() {
        for name in ["fsa_session", "__Host-fsa_session", "fsa_port"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["session", "my_fsa_session", "__Host-session"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}

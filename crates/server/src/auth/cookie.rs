//! Our own cookies: the list of them, how they are written and read, and what keeps them apart from the cookies of
//! applications.
//!
//! The gateway serves applications under separate hosts, and browsers send our cookies there. So the names with
//! the prefix `fsa_` are ours on every host: [`strip`] removes them from a request to an application, [`confine`]
//! from its answers. Both leave every other byte of the two fields as it was.

use std::time::Duration;

use ::cookie::{Cookie, SameSite, time};
use fsa_model::address::is_localhost;
use http::{
    HeaderMap, HeaderValue,
    header::{self, Entry},
};

use crate::settings::Settings;

/// Prefix of the names of our cookies, after `__Host-`.
const PREFIX: &[u8] = b"fsa_";
/// The longest time that browsers keep a cookie (RFC 6265bis).
pub const MAX_LIFETIME: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// One of our cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OurCookie {
    /// The session, on the main host. Its row decides when it ends.
    Session,
    /// A browser in which a user has signed in before, on the main host.
    Browser,
    /// Binds a sign-in with GitHub to a browser, on the main host.
    Github,
    /// The preview token, on an apps host.
    Preview,
    /// The preview token again, for requests of pages of the same project's other ports. To browsers these may be
    /// other sites, to which no Lax cookie is sent.
    Ports,
    /// Binds a hand-off to a browser, on an apps host.
    HandOff,
}

impl OurCookie {
    pub const ALL: [Self; 6] = [
        Self::Session,
        Self::Browser,
        Self::Github,
        Self::Preview,
        Self::Ports,
        Self::HandOff,
    ];

    /// The name. With `__Host-` the browser refuses a cookie that another host, or a page that is not https, tries to
    /// set (RFC 6265bis, 4.1.3).
    #[must_use]
    pub const fn name(self, https: bool) -> &'static str {
        match (self, https) {
            (Self::Session, false) => "fsa_session",
            (Self::Session, true) => "__Host-fsa_session",
            (Self::Browser, false) => "fsa_browser",
            (Self::Browser, true) => "__Host-fsa_browser",
            (Self::Github, false) => "fsa_github",
            (Self::Github, true) => "__Host-fsa_github",
            (Self::Preview, false) => "fsa_preview",
            (Self::Preview, true) => "__Host-fsa_preview",
            (Self::Ports, false) => "fsa_ports",
            (Self::Ports, true) => "__Host-fsa_ports",
            (Self::HandOff, false) => "fsa_handoff",
            (Self::HandOff, true) => "__Host-fsa_handoff",
        }
    }

    /// `Set-Cookie` for this host alone. Lax, because other sites (GitHub, a link) lead back to us; [`Self::Ports`] is
    /// also sent with requests of pages of other sites, so its reader checks their origin.
    #[must_use]
    pub fn set(self, settings: &Settings, value: &str, lifetime: Duration) -> HeaderValue {
        let https = settings.is_https();
        let (same_site, secure) = match self {
            Self::Ports => (SameSite::None, true),
            _ => (SameSite::Lax, https),
        };
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let cookie = Cookie::build((self.name(https), value))
            .path("/")
            .max_age(time::Duration::seconds(seconds))
            .http_only(true)
            .same_site(same_site)
            .secure(secure);
        header(&cookie.build())
    }

    /// `Set-Cookie` that removes it from the browser.
    #[must_use]
    pub fn clear(self, settings: &Settings) -> HeaderValue {
        self.set(settings, "", Duration::ZERO)
    }

    /// Its value in a request. The first one counts where there are several.
    #[must_use]
    pub fn get<'a>(self, settings: &Settings, headers: &'a HeaderMap) -> Option<&'a str> {
        self.all(settings, headers).next()
    }

    /// All its values in a request. There may be several: a page of another host under the same domain can plant one,
    /// so a caller tries each.
    pub fn all<'a>(
        self,
        settings: &Settings,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = self.name(settings.is_https());
        headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b';'))
            // An application's cookie beside ours may be of any bytes.
            .filter_map(|pair| Cookie::parse(std::str::from_utf8(pair).ok()?).ok())
            .filter(move |cookie| cookie.name() == name)
            .filter_map(|cookie| cookie.value_raw())
    }
}

/// Whether browsers keep a `Secure` cookie of an apps host: they do over https, and on `localhost` also without it.
#[must_use]
pub fn keeps_secure(settings: &Settings) -> bool {
    settings.is_https() || is_localhost(&settings.apps_domain)
}

fn header(cookie: &Cookie<'_>) -> HeaderValue {
    let mut header =
        HeaderValue::try_from(cookie.to_string()).expect("what we put into cookies is plain ASCII");
    header.set_sensitive(true);
    header
}

/// Whether a cookie of this name is ours, under any setting. Browsers compare the prefixes case-insensitively.
fn is_ours(name: &[u8]) -> bool {
    let starts = |name: &[u8], prefix: &[u8]| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let bare = [&b"__host-"[..], b"__secure-"]
        .iter()
        .find(|prefix| starts(name, prefix))
        .map_or(name, |prefix| &name[prefix.len()..]);
    starts(bare, PREFIX)
}

/// Changes our own cookies in a response so that a frame on another site keeps them: `Partitioned` cookies (CHIPS) are
/// valid only below the page that frames them.
pub fn partition(headers: &mut HeaderMap) {
    let Entry::Occupied(entry) = headers.entry(header::SET_COOKIE) else {
        return;
    };
    let (name, values) = entry.remove_entry_mult();
    let values: Vec<HeaderValue> = values.collect();
    for value in values {
        headers.append(&name, partitioned(&value).unwrap_or(value));
    }
}

fn partitioned(value: &HeaderValue) -> Option<HeaderValue> {
    let mut cookie = Cookie::parse(value.to_str().ok()?).ok()?;
    if !is_ours(cookie.name().as_bytes()) {
        return None;
    }
    cookie.set_same_site(SameSite::None);
    cookie.set_secure(true);
    cookie.set_partitioned(true);
    Some(header(&cookie))
}

/// Leaves one Cookie field (HTTP/2 may have split it) without our cookies.
pub fn strip(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::COOKIE).iter();
    let Some(first) = values.next() else { return };
    let mut pairs = first.as_bytes().to_vec();
    let mut changed = false;
    for value in values {
        pairs.extend_from_slice(b"; ");
        pairs.extend_from_slice(value.as_bytes());
        changed = true;
    }
    let is_foreign = |pair: &&[u8]| {
        let name = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
        !is_ours(name.trim_ascii())
    };
    let all = pairs.split(|&byte| byte == b';');
    if !all.clone().all(|pair| is_foreign(&pair)) {
        pairs = all.filter(is_foreign).collect::<Vec<_>>().join(&b';');
        changed = true;
    }
    if !changed {
        return;
    }
    headers.remove(header::COOKIE);
    let kept = pairs.trim_ascii_start();
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(kept)
    {
        headers.insert(header::COOKIE, value);
    }
}

/// Removes cookies with our names from an application's answer, and limits the others to `host`, its own host.
pub fn confine(headers: &mut HeaderMap, host: &str) {
    let Entry::Occupied(entry) = headers.entry(header::SET_COOKIE) else {
        return;
    };
    let (name, values) = entry.remove_entry_mult();
    let confined: Vec<HeaderValue> = values.filter_map(|value| confined(value, host)).collect();
    for value in confined {
        headers.append(&name, value);
    }
}

fn confined(value: HeaderValue, host: &str) -> Option<HeaderValue> {
    let bytes = value.as_bytes();
    let mut parts = bytes.split(|&b| b == b';');
    let pair = parts.next()?;
    let name = pair.split(|&b| b == b'=').next()?.trim_ascii();
    // A cookie without a name (`=fsa_preview=x`, or `fsa_preview` alone) is sent back as its value, which the
    // server would then parse as a pair.
    let nameless = name.is_empty() || !pair.contains(&b'=');
    if nameless || is_ours(name) {
        return None;
    }
    let reaches_out = |part: &&[u8]| {
        let mut sides = part.splitn(2, |&b| b == b'=');
        let key = sides.next().unwrap_or_default().trim_ascii();
        let domain = sides.next().unwrap_or_default().trim_ascii();
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        key.eq_ignore_ascii_case(b"domain") && !domain.eq_ignore_ascii_case(host.as_bytes())
    };
    if !parts.clone().any(|part| reaches_out(&part)) {
        return Some(value);
    }
    let kept: Vec<&[u8]> = std::iter::once(pair)
        .chain(parts.filter(|part| !reaches_out(part)))
        .collect();
    HeaderValue::from_bytes(&kept.join(&b';')).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(name: header::HeaderName, values: &[&[u8]]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_bytes(value).unwrap());
        values
            .map(|value| (name.clone(), value))
            .fold(HeaderMap::new(), |mut all, (name, value)| {
                all.append(name, value);
                all
            })
    }

    fn stripped(values: &[&[u8]]) -> Option<Vec<u8>> {
        let mut headers = with(header::COOKIE, values);
        strip(&mut headers);
        assert!(headers.get_all(header::COOKIE).iter().count() <= 1);
        headers.get(header::COOKIE).map(|value| value.as_bytes().to_vec())
    }

    fn confined_answer(value: &[u8]) -> Option<Vec<u8>> {
        let mut headers = with(header::SET_COOKIE, &[value]);
        confine(&mut headers, "todo--3000.localhost");
        headers
            .get(header::SET_COOKIE)
            .map(|value| value.as_bytes().to_vec())
    }

    #[test]
    fn own_cookies_are_removed_in_both_directions() {
        for (cookie, https) in OurCookie::ALL
            .into_iter()
            .flat_map(|cookie| [(cookie, false), (cookie, true)])
        {
            let name = cookie.name(https);
            let pair = format!("{name}=x");
            assert_eq!(stripped(&[pair.as_bytes()]), None, "{name}");
            let between = format!("a=1; {pair}; b=2");
            assert_eq!(stripped(&[between.as_bytes()]).unwrap(), b"a=1; b=2", "{name}");
            for set in [
                format!("{pair}; Path=/"),
                format!(" {name} =x"),
                format!("={pair}"),
                name.to_owned(),
            ] {
                assert_eq!(confined_answer(set.as_bytes()), None, "{set}");
            }
            assert_eq!(https, name.starts_with("__Host-"));
        }
        for name in ["__hOST-FSA_session", "__Secure-fsa_preview", "FSA_x"] {
            assert_eq!(confined_answer(format!("{name}=x").as_bytes()), None, "{name}");
        }
        for name in ["session", "my_fsa_session", "__Host-session"] {
            assert!(!is_ours(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn application_cookies_pass_unchanged() {
        for odd in [
            &b"a=1;b=2;  c = 3 ;;d; =e; a=\"x y\"; a=1"[..],
            b"x\xe9=\xff\xfe; __Host-x=1",
            b" a=1 ",
            b";",
        ] {
            assert_eq!(stripped(&[odd]).unwrap(), odd);
            let mut ours = odd.to_vec();
            ours.extend_from_slice(b"; fsa_preview=p; __Host-fsa_preview=q");
            assert_eq!(stripped(&[&ours]).unwrap_or_default(), odd.trim_ascii_start());
        }
        assert_eq!(
            stripped(&[b"__Host-fsa_preview=p;a=1", b"fsa_session=s; b=2;a=3"]).unwrap(),
            b"a=1; b=2;a=3"
        );
        for set in [
            &b"a=1; Path=/; HttpOnly"[..],
            b" b = \xff;X;;  Domain = todo--3000.localhost",
        ] {
            assert_eq!(confined_answer(set).unwrap(), set);
        }
    }

    #[test]
    fn an_application_sets_cookies_for_its_own_host_only() {
        for (set, kept) in [
            ("a=1; domain=.localhost; Path=/x", "a=1; Path=/x"),
            (
                "a=1; Domain =localhost; Domain=todo--3000.localhost",
                "a=1; Domain=todo--3000.localhost",
            ),
            ("a=1; Domain=other--3000.localhost", "a=1"),
        ] {
            assert_eq!(confined_answer(set.as_bytes()).unwrap(), kept.as_bytes(), "{set}");
        }
        assert_eq!(confined_answer(b"nameless"), None);
        let mut headers = with(header::SET_COOKIE, &[b"a=1", b"fsa_x=1", b"b=2"]);
        confine(&mut headers, "todo--3000.localhost");
        assert_eq!(headers, with(header::SET_COOKIE, &[b"a=1", b"b=2"]));
    }

    #[test]
    fn only_own_cookies_become_partitioned() {
        let mut headers = with(
            header::SET_COOKIE,
            &[
                b"fsa_preview=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax",
                b"theirs=z; SameSite=Lax",
            ],
        );
        partition(&mut headers);
        let kept: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
        for part in [
            "fsa_preview=x;",
            "HttpOnly",
            "SameSite=None",
            "Partitioned",
            "Secure",
            "Path=/",
            "Max-Age=60",
        ] {
            assert!(kept[0].to_str().unwrap().contains(part), "{part}: {kept:?}");
        }
        assert_eq!(kept[1], "theirs=z; SameSite=Lax");
    }

    proptest! {
        #[test]
        fn own_cookies_are_removed_from_any_header(cookie in "[ -~]{0,60}") {
            let around = format!("{cookie}; fsa_session=1;{cookie}");
            let left = stripped(&[around.as_bytes()]).unwrap_or_default();
            prop_assert!(!left.split(|&byte| byte == b';').any(|pair| pair.trim_ascii().starts_with(b"fsa_")));
            let set = confined_answer(cookie.as_bytes()).unwrap_or_default();
            prop_assert!(!set.trim_ascii().starts_with(b"fsa_"));
        }
    }
}

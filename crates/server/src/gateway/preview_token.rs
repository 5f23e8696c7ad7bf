//! Preview tokens and hand-offs: the encrypted tokens with which a browser opens a private host. A hand-off
//! comes from the main host (one use, one minute) and is exchanged for a preview token ([`Pass`]).
//!
//! Both are encrypted with the key ring for one host name: they cannot be read, changed, or used on another
//! host, and need no row. A preview token names the session that it came from, so it ends with that session.

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use fsa_model::{ProjectId, UserId};
use parking_lot::Mutex;
use rand::RngExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use crate::{
    auth::secret,
    encryption::{AssociatedData, KeyRing},
};

/// Lifetime of a hand-off, from the main host's response to the request that brings it here.
const HAND_OFF_LASTS: Duration = Duration::from_secs(60);
/// Lifetime of a preview token. Another hand-off renews it without interaction.
pub(super) const PASS_LASTS: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest path that a hand-off carries; with a longer one the visitor starts at `/`.
pub(super) const PATH_MOST: usize = 2000;

/// A preview token: admits a browser to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// For a signed-in user; valid as long as that session.
    User {
        project: ProjectId,
        user: UserId,
        session: Uuid,
    },
    /// For a visitor with the port's access link; valid while the port has this link.
    Link { project: ProjectId, link: [u8; 32] },
}

/// A hand-off: the main host vouches for a browser to an apps host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HandOff {
    pub project: ProjectId,
    pub user: UserId,
    pub session: Uuid,
    /// [`nonce_hash`] of the cookie of the browser that requested it.
    pub nonce: String,
    /// The requested path; see [`local_path`].
    pub path: String,
    /// The ports of the project that the browser is led through, one after the other; the path is on the first. Empty
    /// for a hand-off of the main host.
    pub chain: Vec<u16>,
    /// Identifies the hand-off in the list of used ones.
    id: Uuid,
    until: DateTime<Utc>,
}

impl Pass {
    /// The token for `host`. `ports` are the other ports of the project whose hosts have one too.
    pub(super) fn encrypt(&self, key_ring: &KeyRing, host: &str, ports: &[u16]) -> SecretString {
        let until = (Utc::now() + PASS_LASTS).timestamp();
        let ports = words_of(ports);
        let text = match self {
            Self::User {
                project,
                user,
                session,
            } => format!("user {project} {user} {session} {until} {ports}"),
            Self::Link { project, link } => format!("link {project} {} {until} {ports}", hex::encode(link)),
        };
        encrypted(key_ring, place("pass", host), text)
    }

    pub(super) fn open(key_ring: &KeyRing, host: &str, token: &str) -> Option<(Self, Vec<u16>)> {
        let text = opened(key_ring, place("pass", host), token)?;
        let mut words = text.expose_secret().split(' ');
        let pass = match words.next()? {
            "user" => Self::User {
                project: words.next()?.parse().ok()?,
                user: words.next()?.parse().ok()?,
                session: words.next()?.parse().ok()?,
            },
            "link" => {
                let project = words.next()?.parse().ok()?;
                let mut link = [0; 32];
                hex::decode_to_slice(words.next()?, &mut link).ok()?;
                Self::Link { project, link }
            }
            _ => return None,
        };
        let until: i64 = words.next()?.parse().ok()?;
        (Utc::now().timestamp() < until).then(|| (pass, ports_of(words.next().unwrap_or_default())))
    }
}

impl HandOff {
    /// A hand-off for `path` on a host of `project`, for the browser with this nonce.
    pub(super) fn new(project: ProjectId, user: UserId, session: Uuid, nonce: &str, path: &str) -> Self {
        Self {
            project,
            user,
            session,
            nonce: nonce.to_owned(),
            path: local_path(path).to_owned(),
            chain: Vec::new(),
            id: Uuid::new_v4(),
            until: Utc::now() + HAND_OFF_LASTS,
        }
    }

    pub(super) fn encrypt(&self, key_ring: &KeyRing, host: &str) -> SecretString {
        let Self {
            project,
            user,
            session,
            nonce,
            path,
            chain,
            id,
            until,
        } = self;
        let text = format!(
            "{project} {user} {session} {nonce} {id} {} {} {path}",
            until.timestamp_millis(),
            words_of(chain),
        );
        encrypted(key_ring, place("hand-off", host), text)
    }

    /// Decrypts a hand-off for this host, whether or not it has expired.
    pub(super) fn open(key_ring: &KeyRing, host: &str, token: &str) -> Option<Self> {
        let text = opened(key_ring, place("hand-off", host), token)?;
        let mut words = text.expose_secret().splitn(8, ' ');
        Some(Self {
            project: words.next()?.parse().ok()?,
            user: words.next()?.parse().ok()?,
            session: words.next()?.parse().ok()?,
            nonce: words.next()?.to_owned(),
            id: words.next()?.parse().ok()?,
            until: DateTime::from_timestamp_millis(words.next()?.parse().ok()?)?,
            chain: ports_of(words.next()?),
            path: local_path(words.next()?).to_owned(),
        })
    }

    /// The same for the next host of its chain.
    pub(super) fn again(self) -> Self {
        Self {
            id: Uuid::new_v4(),
            ..self
        }
    }

    /// Whether it has not expired.
    pub(super) fn holds(&self) -> bool {
        self.until > Utc::now()
    }

    /// Identifies the hand-off in the list of used ones, until it expires.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn until(&self) -> DateTime<Utc> {
        self.until
    }

    pub(super) fn pass(&self) -> Pass {
        Pass::User {
            project: self.project,
            user: self.user,
            session: self.session,
        }
    }
}

/// Ports as one word; `-` for none.
fn words_of(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "-".into();
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}

fn ports_of(word: &str) -> Vec<u16> {
    word.split(',').filter_map(|port| port.parse().ok()).collect()
}

/// Upper bound on the hand-offs in [`Used`]. A user would have to bring thousands of them in one minute.
const USED_MOST: usize = 50_000;

/// The used hand-offs. Another replica does not know them, but only the browser that requested the hand-off has
/// the matching nonce, and its first use clears the nonce.
#[derive(Default)]
pub(super) struct Used(Mutex<HashMap<Uuid, DateTime<Utc>>>);

impl Used {
    /// Marks the hand-off as used. Returns whether it was still valid.
    pub(super) fn take(&self, hand_off: &HandOff) -> bool {
        let now = Utc::now();
        if hand_off.until <= now {
            return false;
        }
        let mut used = self.0.lock();
        if used.len() > USED_MOST / 2 {
            used.retain(|_, until| *until > now);
        }
        used.len() < USED_MOST && used.insert(hand_off.id, hand_off.until).is_none()
    }
}

/// A new value of the cookie that binds a hand-off to the browser that requested it.
pub(super) fn nonce() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>())
}

pub(super) fn is_nonce(text: &str) -> bool {
    text.len() == 22
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The hash of the nonce, which may appear in URLs.
pub(super) fn nonce_hash(nonce: &str) -> String {
    URL_SAFE_NO_PAD.encode(&secret::hash(nonce)[..16])
}

/// `path` if it belongs to this host and to the application, else `/`. Browsers take `//host` and `/\host` for
/// another host, and drop control characters before they parse.
pub(super) fn local_path(path: &str) -> &str {
    let bytes = path.as_bytes();
    let plain = bytes.iter().all(|byte| matches!(byte, 0x21..=0x7e));
    let local = bytes.first() == Some(&b'/') && !matches!(bytes.get(1), Some(b'/' | b'\\'));
    if plain && local && path.len() <= PATH_MOST && !path.starts_with("/.fsa/") {
        path
    } else {
        "/"
    }
}

fn place<'a>(column: &'a str, host: &'a str) -> AssociatedData<'a> {
    AssociatedData {
        table: "gateway",
        column,
        row: host,
    }
}

fn encrypted(key_ring: &KeyRing, place: AssociatedData<'_>, text: String) -> SecretString {
    URL_SAFE_NO_PAD
        .encode(key_ring.encrypt(place, &text.into()))
        .into()
}

fn opened(key_ring: &KeyRing, place: AssociatedData<'_>, token: &str) -> Option<SecretString> {
    // Far above the length of any token; an attacker cannot make the server decode megabytes.
    let bytes = (token.len() < 8000).then(|| URL_SAFE_NO_PAD.decode(token).ok())??;
    key_ring.decrypt(place, &bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "todo--3000.localhost";

    fn hand_off() -> HandOff {
        HandOff::new(
            ProjectId::generate(),
            UserId::generate(),
            Uuid::now_v7(),
            &nonce_hash(&nonce()),
            "/a b?c=d".replace(' ', "%20").as_str(),
        )
    }

    #[test]
    fn a_hand_off_is_read_by_its_own_host_only() {
        let key_ring = KeyRing::new(&[[7; 32]]);
        let made = HandOff {
            chain: vec![3000, 8000],
            ..hand_off()
        };
        let token = made.encrypt(&key_ring, HOST);
        let read = HandOff::open(&key_ring, HOST, token.expose_secret()).unwrap();
        assert_eq!(
            read,
            HandOff {
                until: read.until,
                ..made
            }
        );
        assert_eq!(read.path, "/a%20b?c=d");
        assert_eq!(
            HandOff::open(&key_ring, "todo--5000.localhost", token.expose_secret()),
            None
        );
        let other_key = KeyRing::new(&[[8; 32]]);
        assert_eq!(HandOff::open(&other_key, HOST, token.expose_secret()), None);
        assert_eq!(Pass::open(&key_ring, HOST, token.expose_secret()), None);
    }

    #[test]
    fn a_hand_off_holds_once_and_for_a_minute() {
        let used = Used::default();
        let fresh = hand_off();
        assert!(used.take(&fresh));
        assert!(!used.take(&fresh));
        let late = HandOff {
            until: Utc::now() - Duration::from_millis(1),
            ..hand_off()
        };
        assert!(!used.take(&late));
        assert!(hand_off().until <= Utc::now() + HAND_OFF_LASTS);
    }

    #[test]
    fn a_pass_says_for_whom_it_was_made() {
        let key_ring = KeyRing::new(&[[7; 32]]);
        let link = Pass::Link {
            project: ProjectId::generate(),
            link: [9; 32],
        };
        for pass in [hand_off().pass(), link] {
            for ports in [vec![], vec![5173, 8000]] {
                let token = pass.encrypt(&key_ring, HOST, &ports);
                assert_eq!(
                    Pass::open(&key_ring, HOST, token.expose_secret()),
                    Some((pass, ports))
                );
            }
        }
        assert_eq!(Pass::open(&key_ring, HOST, "nonsense"), None);
    }

    #[test]
    fn a_path_that_could_lead_elsewhere_leads_home() {
        for path in [
            "",
            "x",
            "//evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "http://evil.example/",
            "/.fsa/hand-off?token=x",
            "/é",
        ] {
            assert_eq!(local_path(path), "/", "{path:?}");
        }
        assert_eq!(local_path("/a/b?c=//d#e"), "/a/b?c=//d#e");
    }
}

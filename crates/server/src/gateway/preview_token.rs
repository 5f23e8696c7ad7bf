//! What a browser carries that may open a private host: hand-offs from the main host (one use,
//! one minute) and the passes that they are exchanged for.
//!
//! Both are encrypted under the key file for one host name: they cannot be read, changed, or carried
//! to another host, and need no row. A pass names the session that it came from, so that it ends
//! with it.

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

/// From the main host's answer to the request that brings it here.
const HAND_OFF_LASTS: Duration = Duration::from_secs(60);
/// A pass is renewed by another hand-off, which nobody notices.
pub(super) const PASS_LASTS: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest path that a hand-off carries; beyond it the visitor begins at `/`.
pub(super) const PATH_MOST: usize = 2000;

/// What admits a browser to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Somebody signed in, for as long as that session lasts.
    User {
        project: ProjectId,
        user: UserId,
        session: Uuid,
    },
    /// Somebody had the port's link, for as long as it is that link.
    Link { project: ProjectId, link: [u8; 32] },
}

/// What the main host says to an apps host about a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HandOff {
    pub project: ProjectId,
    pub user: UserId,
    pub session: Uuid,
    /// [`nonce_hash`] of the cookie of the browser that asked.
    pub nonce: String,
    /// Where it wanted to go; see [`local_path`].
    pub path: String,
    /// Under which its use is remembered.
    id: Uuid,
    until: DateTime<Utc>,
}

impl Pass {
    pub(super) fn encrypt(&self, key_ring: &KeyRing, host: &str) -> SecretString {
        let until = (Utc::now() + PASS_LASTS).timestamp();
        let text = match self {
            Self::User {
                project,
                user,
                session,
            } => format!("user {project} {user} {session} {until}"),
            Self::Link { project, link } => format!("link {project} {} {until}", hex::encode(link)),
        };
        encrypted(key_ring, place("pass", host), text)
    }

    pub(super) fn open(key_ring: &KeyRing, host: &str, token: &str) -> Option<Self> {
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
        (Utc::now().timestamp() < until).then_some(pass)
    }
}

impl HandOff {
    /// For `path` on a host of `project`, for the browser with this nonce.
    pub(super) fn new(project: ProjectId, user: UserId, session: Uuid, nonce: &str, path: &str) -> Self {
        Self {
            project,
            user,
            session,
            nonce: nonce.to_owned(),
            path: local_path(path).to_owned(),
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
            id,
            until,
        } = self;
        let text = format!(
            "{project} {user} {session} {nonce} {id} {} {path}",
            until.timestamp_millis()
        );
        encrypted(key_ring, place("hand-off", host), text)
    }

    /// What was encrypted for this host, whether or not its time is over.
    pub(super) fn open(key_ring: &KeyRing, host: &str, token: &str) -> Option<Self> {
        let text = opened(key_ring, place("hand-off", host), token)?;
        let mut words = text.expose_secret().splitn(7, ' ');
        Some(Self {
            project: words.next()?.parse().ok()?,
            user: words.next()?.parse().ok()?,
            session: words.next()?.parse().ok()?,
            nonce: words.next()?.to_owned(),
            id: words.next()?.parse().ok()?,
            until: DateTime::from_timestamp_millis(words.next()?.parse().ok()?)?,
            path: local_path(words.next()?).to_owned(),
        })
    }

    /// Whether its time is not over.
    pub(super) fn holds(&self) -> bool {
        self.until > Utc::now()
    }

    /// Under which its use is remembered, and until when.
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

/// The hand-offs that were used. Another replica does not know them, but the browser that began
/// is the only one whose nonce fits, and it gives its nonce up with the first use.
#[derive(Default)]
pub(super) struct Used(Mutex<HashMap<Uuid, DateTime<Utc>>>);

impl Used {
    /// Whether the hand-off still holds; it does not from now on.
    pub(super) fn take(&self, hand_off: &HandOff) -> bool {
        let now = Utc::now();
        if hand_off.until <= now {
            return false;
        }
        let mut used = self.0.lock();
        // Each holds for a minute only, and was made for somebody signed in: this stays small.
        used.retain(|_, until| *until > now);
        used.insert(hand_off.id, hand_off.until).is_none()
    }
}

/// A fresh value of the cookie that binds a hand-off to the browser that asked for it.
pub(super) fn nonce() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>())
}

pub(super) fn is_nonce(text: &str) -> bool {
    text.len() == 22
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// What of the nonce may be seen in URLs.
pub(super) fn nonce_hash(nonce: &str) -> String {
    URL_SAFE_NO_PAD.encode(&secret::hash(nonce)[..16])
}

/// `path` where it is one of this host and of the application, else `/`. Browsers take `//host`
/// and `/\host` for another host, and leave out control characters before they look.
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
    // Far above what is ever encrypted; nobody makes us decode megabytes.
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
        let made = hand_off();
        let token = made.encrypt(&key_ring, HOST);
        let read = HandOff::open(&key_ring, HOST, token.expose_secret()).unwrap();
        assert_eq!((read.project, read.path.as_str()), (made.project, "/a%20b?c=d"));
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
            let token = pass.encrypt(&key_ring, HOST);
            assert_eq!(Pass::open(&key_ring, HOST, token.expose_secret()), Some(pass));
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

//! Preview tokens and hand-offs: the encrypted tokens with which a browser opens a private host. A hand-off
//! comes from the main host, is valid once and for a minute, and is exchanged for a preview token ([`PreviewToken`]).
//!
//! Both are encrypted with the key ring for one host name: they cannot be read, changed, or used on another
//! host, and need no row. A preview token contains the id of its session, and is valid no longer than that session.

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

/// Lifetime of a hand-off: from the main host's response to the browser's request to the apps host.
const HAND_OFF_LIFETIME: Duration = Duration::from_secs(60);
/// Lifetime of a preview token. A later hand-off renews it without interaction.
pub(super) const PREVIEW_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Maximum length of the path in a hand-off. A longer path becomes `/`.
pub(super) const MAX_PATH_BYTES: usize = 2000;

/// A preview token: authorizes a browser on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreviewToken {
    /// For a signed-in user; valid as long as the session.
    User {
        project: ProjectId,
        user: UserId,
        session: Uuid,
    },
    /// For a browser that opened the port's access link; valid as long as the port has this link.
    Link { project: ProjectId, link: [u8; 32] },
}

/// A hand-off: the main host's statement to an apps host that a browser is authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HandOff {
    pub project: ProjectId,
    pub user: UserId,
    pub session: Uuid,
    /// [`nonce_hash`] of the cookie of the browser that requested it.
    pub nonce: String,
    /// The requested path; see [`local_path`].
    pub path: String,
    /// The ports of the project through whose hosts the browser is redirected, in order; the path is on the first. Empty
    /// for a hand-off of the main host.
    pub chain: Vec<u16>,
    /// Identifies the hand-off in the list of used ones.
    id: Uuid,
    expires_at: DateTime<Utc>,
}

impl PreviewToken {
    /// The token for `host`. `ports` are the other ports of the project whose hosts have one too.
    pub(super) fn encrypt(&self, key_ring: &KeyRing, host: &str, ports: &[u16]) -> SecretString {
        let expires_at = (Utc::now() + PREVIEW_TOKEN_LIFETIME).timestamp();
        let ports = format_ports(ports);
        let text = match self {
            Self::User {
                project,
                user,
                session,
            } => format!("user {project} {user} {session} {expires_at} {ports}"),
            Self::Link { project, link } => {
                format!("link {project} {} {expires_at} {ports}", hex::encode(link))
            }
        };
        encrypt_token(key_ring, associated_data("pass", host), text)
    }

    pub(super) fn decrypt(key_ring: &KeyRing, host: &str, token: &str) -> Option<(Self, Vec<u16>)> {
        let text = decrypt_token(key_ring, associated_data("pass", host), token)?;
        let mut words = text.expose_secret().split(' ');
        let preview_token = match words.next()? {
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
        let expires_at: i64 = words.next()?.parse().ok()?;
        (Utc::now().timestamp() < expires_at)
            .then(|| (preview_token, parse_ports(words.next().unwrap_or_default())))
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
            expires_at: Utc::now() + HAND_OFF_LIFETIME,
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
            expires_at,
        } = self;
        let text = format!(
            "{project} {user} {session} {nonce} {id} {} {} {path}",
            expires_at.timestamp_millis(),
            format_ports(chain),
        );
        encrypt_token(key_ring, associated_data("hand-off", host), text)
    }

    /// Decrypts a hand-off for this host, whether or not it has expired.
    pub(super) fn decrypt(key_ring: &KeyRing, host: &str, token: &str) -> Option<Self> {
        let text = decrypt_token(key_ring, associated_data("hand-off", host), token)?;
        let mut words = text.expose_secret().splitn(8, ' ');
        Some(Self {
            project: words.next()?.parse().ok()?,
            user: words.next()?.parse().ok()?,
            session: words.next()?.parse().ok()?,
            nonce: words.next()?.to_owned(),
            id: words.next()?.parse().ok()?,
            expires_at: DateTime::from_timestamp_millis(words.next()?.parse().ok()?)?,
            chain: parse_ports(words.next()?),
            path: local_path(words.next()?).to_owned(),
        })
    }

    /// The hand-off for the next host of the chain.
    pub(super) fn for_next_host(self) -> Self {
        Self {
            id: Uuid::new_v4(),
            ..self
        }
    }

    /// Whether the hand-off has not expired.
    pub(super) fn is_valid(&self) -> bool {
        self.expires_at > Utc::now()
    }

    /// Identifies the hand-off in the list of used ones, until it expires.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn expires_at(&self) -> DateTime<Utc> {
        self.expires_at
    }

    /// The preview token that the hand-off is exchanged for.
    pub(super) fn preview_token(&self) -> PreviewToken {
        PreviewToken::User {
            project: self.project,
            user: self.user,
            session: self.session,
        }
    }
}

/// A comma-separated list of ports; `-` for none.
fn format_ports(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "-".into();
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}

fn parse_ports(word: &str) -> Vec<u16> {
    word.split(',').filter_map(|port| port.parse().ok()).collect()
}

/// Maximum number of hand-offs in [`UsedHandOffs`]. To reach it, a user must redeem thousands in one minute.
const MAX_USED_HAND_OFFS: usize = 50_000;

/// The used hand-offs of this replica. No replica shares them, but only the browser that requested a hand-off has
/// the matching nonce, and the first use clears it.
#[derive(Default)]
pub(super) struct UsedHandOffs(Mutex<HashMap<Uuid, DateTime<Utc>>>);

impl UsedHandOffs {
    /// Marks a hand-off as used. False if it was used before or has expired.
    pub(super) fn redeem(&self, hand_off: &HandOff) -> bool {
        let now = Utc::now();
        if hand_off.expires_at <= now {
            return false;
        }
        let mut used = self.0.lock();
        if used.len() > MAX_USED_HAND_OFFS / 2 {
            used.retain(|_, expires_at| *expires_at > now);
        }
        used.len() < MAX_USED_HAND_OFFS && used.insert(hand_off.id, hand_off.expires_at).is_none()
    }
}

/// A random value for the cookie that binds a hand-off to the browser that requested it.
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

/// `path` if it is a path of the application on this host, else `/`. Browsers take `//host` and `/\host` for
/// another host, and drop control characters before they parse.
pub(super) fn local_path(path: &str) -> &str {
    let bytes = path.as_bytes();
    let plain = bytes.iter().all(|byte| matches!(byte, 0x21..=0x7e));
    let local = bytes.first() == Some(&b'/') && !matches!(bytes.get(1), Some(b'/' | b'\\'));
    if plain && local && path.len() <= MAX_PATH_BYTES && !path.starts_with("/.fsa/") {
        path
    } else {
        "/"
    }
}

/// What a token is bound to: its kind (`column`) and its host. The kinds are part of every token that a browser holds;
/// a new value invalidates all of them.
fn associated_data<'a>(column: &'a str, host: &'a str) -> AssociatedData<'a> {
    AssociatedData {
        table: "gateway",
        column,
        row: host,
    }
}

fn encrypt_token(key_ring: &KeyRing, associated_data: AssociatedData<'_>, text: String) -> SecretString {
    URL_SAFE_NO_PAD
        .encode(key_ring.encrypt(associated_data, &text.into()))
        .into()
}

fn decrypt_token(
    key_ring: &KeyRing,
    associated_data: AssociatedData<'_>,
    token: &str,
) -> Option<SecretString> {
    // Far above the length of any token; an attacker cannot make the server decode megabytes.
    let bytes = (token.len() < 8000).then(|| URL_SAFE_NO_PAD.decode(token).ok())??;
    key_ring.decrypt(associated_data, &bytes).ok()
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
    fn a_hand_off_decrypts_on_its_own_host_only() {
        let key_ring = KeyRing::new(&[[7; 32]]);
        let made = HandOff {
            chain: vec![3000, 8000],
            ..hand_off()
        };
        let token = made.encrypt(&key_ring, HOST);
        let read = HandOff::decrypt(&key_ring, HOST, token.expose_secret()).unwrap();
        assert_eq!(
            read,
            HandOff {
                expires_at: read.expires_at,
                ..made
            }
        );
        assert_eq!(read.path, "/a%20b?c=d");
        assert_eq!(
            HandOff::decrypt(&key_ring, "todo--5000.localhost", token.expose_secret()),
            None
        );
        let other_key = KeyRing::new(&[[8; 32]]);
        assert_eq!(HandOff::decrypt(&other_key, HOST, token.expose_secret()), None);
        assert_eq!(
            PreviewToken::decrypt(&key_ring, HOST, token.expose_secret()),
            None
        );
    }

    #[test]
    fn a_hand_off_is_valid_once_and_for_a_minute() {
        let used = UsedHandOffs::default();
        let fresh = hand_off();
        assert!(used.redeem(&fresh));
        assert!(!used.redeem(&fresh));
        let late = HandOff {
            expires_at: Utc::now() - Duration::from_millis(1),
            ..hand_off()
        };
        assert!(!used.redeem(&late));
        assert!(hand_off().expires_at <= Utc::now() + HAND_OFF_LIFETIME);
    }

    #[test]
    fn a_preview_token_decrypts_to_its_user_or_link_and_ports() {
        let key_ring = KeyRing::new(&[[7; 32]]);
        let link = PreviewToken::Link {
            project: ProjectId::generate(),
            link: [9; 32],
        };
        for preview_token in [hand_off().preview_token(), link] {
            for ports in [vec![], vec![5173, 8000]] {
                let token = preview_token.encrypt(&key_ring, HOST, &ports);
                assert_eq!(
                    PreviewToken::decrypt(&key_ring, HOST, token.expose_secret()),
                    Some((preview_token, ports))
                );
            }
        }
        assert_eq!(PreviewToken::decrypt(&key_ring, HOST, "nonsense"), None);
    }

    #[test]
    fn a_path_that_could_lead_to_another_host_becomes_the_root() {
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

//! Known browsers: a cookie that says, long after its session, that a user has signed in here before. It grants
//! no access; it only keeps attempts of unknown clients from counting against that user ([`crate::login_throttle`]).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fsa_model::UserId;
use http::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret as _;
use uuid::Uuid;

use super::cookie::{self, OurCookie};
use crate::{
    encryption::{AssociatedData, KeyRing},
    settings::Settings,
};

const ASSOCIATED_DATA: AssociatedData<'_> = AssociatedData {
    table: "auth",
    column: "known browser",
    row: "",
};

/// A browser in which this user has signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownBrowser {
    pub user: UserId,
    pub id: Uuid,
}

impl KnownBrowser {
    /// The browser that sends a request with these headers, if it is known.
    #[must_use]
    pub fn of(settings: &Settings, key_ring: &KeyRing, headers: &HeaderMap) -> Option<Self> {
        let cookie = OurCookie::Browser.get(settings, headers)?;
        let bytes = (cookie.len() < 1000).then(|| URL_SAFE_NO_PAD.decode(cookie).ok())??;
        let text = key_ring.decrypt(ASSOCIATED_DATA, &bytes).ok()?;
        let (user, id) = text.expose_secret().split_once(' ')?;
        Some(Self {
            user: user.parse().ok()?,
            id: id.parse().ok()?,
        })
    }

    /// `Set-Cookie` for a browser in which `user` has just signed in.
    #[must_use]
    pub fn remember(settings: &Settings, key_ring: &KeyRing, user: UserId) -> HeaderValue {
        let text = format!("{user} {}", Uuid::new_v4());
        let value = URL_SAFE_NO_PAD.encode(key_ring.encrypt(ASSOCIATED_DATA, &text.into()));
        OurCookie::Browser.set(settings, &value, cookie::MAX_LIFETIME)
    }
}

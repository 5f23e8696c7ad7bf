//! Partitioned cookies of the gateway, for a preview in a frame of the main host's page.
//!
//! Apps hosts are another site than the main host if the two share no registrable domain, as with `localhost`
//! and `x--3000.localhost`. A browser then keeps no `SameSite=Lax` cookie for a frame. `Partitioned` (CHIPS)
//! solves this: such a cookie is valid only below the page that frames it, so no page and no form of another
//! site ever sends it. A cookie that was not requested by a frame stays `Lax`.

use http::HeaderMap;

use crate::{auth::cookie, settings::Settings};

/// Whether the request loads a frame, and the browser would keep a secure cookie here.
pub(super) fn is_framed(settings: &Settings, headers: &HeaderMap) -> bool {
    cookie::keeps_secure(settings)
        && headers
            .get("sec-fetch-dest")
            .is_some_and(|kind| kind == "iframe" || kind == "frame")
}

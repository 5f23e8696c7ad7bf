//! The header field `Idempotency-Key`: a repeated request with the same key is carried out once.

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::{
    error::{Error, Result},
    state::App,
};

/// The header field `Idempotency-Key`, if the request has it.
pub(super) struct IdempotencyKey(pub Option<String>);

impl FromRequestParts<App> for IdempotencyKey {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        let Some(value) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        match value.to_str() {
            Ok(key) => Ok(Self(Some(key.to_owned()))),
            Err(_) => Err(Error::bad_request(
                "Idempotency-Key has characters that are not ASCII.",
            )),
        }
    }
}

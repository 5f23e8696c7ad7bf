//! Encryption keys for stored secrets, by id: `/api/keys`, for the owners of the system.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    api::{EncryptionKey, Page},
};
use http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Caller,
    encryption::EncryptionError,
    error::{Error, Result},
    extract::{Json, Path},
    state::App,
    store::{audit, key_rotation},
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(forget))
}

/// The keys, newest last, and the number of secrets encrypted with each
#[utoipa::path(get, path = "/api/keys", tag = "keys",
    responses((status = OK, body = Page<EncryptionKey>), (status = FORBIDDEN, body = ErrorBody)))]
async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Page<EncryptionKey>>> {
    caller.must_be_owner()?;
    app.key_ring.reload()?;
    Ok(Json(Page {
        items: keys(&app).await?,
        next_cursor: None,
    }))
}

/// Removes an unused key from the key file
#[utoipa::path(delete, path = "/api/keys/{key}", tag = "keys",
    params(("key" = String, Path, description = "its id: eight hexadecimal digits")),
    responses((status = NO_CONTENT), (status = FORBIDDEN, body = ErrorBody),
              (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the key is used, or was created recently")))]
async fn forget(State(app): State<App>, caller: Caller, Path(key): Path<String>) -> Result<StatusCode> {
    caller.must_be_owner()?;
    app.key_ring.reload()?;
    let all = keys(&app).await?;
    let found = all
        .iter()
        .find(|one| one.id == key && one.available)
        .ok_or_else(|| Error::not_found("key"))?;
    if found.values > 0 {
        return Err(Error::conflict(format!(
            "{} stored secrets are encrypted with it; a server re-encrypts them in the background after a rotation.",
            found.values
        )));
    }
    let mut id = [0; 4];
    hex::decode_to_slice(&key, &mut id).map_err(|_| Error::not_found("key"))?;
    let mut tx = app.store.begin().await?;
    audit::record(&mut tx, &caller, "key.forget", format!("key {key}")).await?;
    match app.key_ring.remove(id) {
        Ok(()) => tx.commit().await?,
        Err(EncryptionError::NotRemovable(why)) => return Err(Error::conflict(why)),
        Err(error) => return Err(Error::unavailable("The key file cannot be changed.").with_cause(error)),
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn keys(app: &App) -> Result<Vec<EncryptionKey>> {
    let mut counts = key_rotation::keys(&app.store).await?;
    let current = app.key_ring.current();
    let mut all: Vec<EncryptionKey> = app
        .key_ring
        .ids()
        .into_iter()
        .map(|id| EncryptionKey {
            id: hex::encode(id),
            current: id == current,
            available: true,
            values: counts.remove(&id[..]).unwrap_or(0).unsigned_abs(),
        })
        .collect();
    // Secrets that can no longer be decrypted.
    all.extend(counts.into_iter().map(|(id, count)| EncryptionKey {
        id: hex::encode(id),
        current: false,
        available: false,
        values: count.unsigned_abs(),
    }));
    Ok(all)
}

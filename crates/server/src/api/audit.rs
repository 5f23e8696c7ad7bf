//! Audit log: `/api/audit` for the owners of the system, and the entry that every write gets.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use fsa_model::{ErrorBody, api::Page};
use futures_util::stream;
use http::{HeaderMap, Request, StatusCode, header};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::{Address, Caller, RequestUser, csrf},
    error::Result,
    extract::{Json, Query},
    state::App,
    store::audit::{self, AuditEntry, NewEntry},
};

const PAGE_SIZE: i64 = 100;
/// Entries that an export reads per query.
const EXPORT_BATCH: i64 = 1000;
const JSON_LINES: &str = "application/x-ndjson";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(audited))
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AuditFormat)]
enum Format {
    /// One page, newest first.
    #[default]
    Json,
    /// All entries after the cursor as JSON lines, oldest first.
    Jsonl,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    /// `nextCursor` of the previous page; for JSON lines, the id of the last entry received.
    #[serde(default)]
    cursor: Option<i64>,
    /// `Accept: application/x-ndjson` also selects JSON lines.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// Who did what, newest first, or the whole log as JSON lines
#[utoipa::path(get, path = "/api/audit", tag = "users", params(AuditQuery),
    responses((status = OK, content((Page<AuditEntry> = "application/json"), (String = "application/x-ndjson"))),
              (status = FORBIDDEN, body = ErrorBody)))]
async fn audited(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Query(AuditQuery { cursor, format }): Query<AuditQuery>,
) -> Result<Response> {
    caller.must_be_owner()?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if matches!(format, Format::Jsonl) || accept.is_some_and(|kinds| kinds.contains(JSON_LINES)) {
        return lines(&app, cursor.unwrap_or(0)).await;
    }
    let mut items = audit::before(&app.store, cursor.unwrap_or(i64::MAX), PAGE_SIZE + 1).await?;
    let more = items.len() > PAGE_SIZE as usize;
    items.truncate(PAGE_SIZE as usize);
    let next_cursor = items.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(Page { items, next_cursor }).into_response())
}

/// Reads batch after batch as the client consumes them. Ends with the entries that existed at the start, so
/// that a busy system does not extend the export forever.
async fn lines(app: &App, after: i64) -> Result<Response> {
    let newest = audit::before(&app.store, i64::MAX, 1).await?;
    let until = newest.first().map_or(0, |entry| entry.id);
    let body = stream::try_unfold((app.clone(), after), move |(app, after)| async move {
        if after >= until {
            return Ok::<_, crate::Error>(None);
        }
        let batch = audit::after(&app.store, after, EXPORT_BATCH).await?;
        let mut text = Vec::new();
        let mut last = until;
        for entry in batch.iter().filter(|entry| entry.id <= until) {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
            last = entry.id;
        }
        if batch.len() < EXPORT_BATCH as usize {
            last = until;
        }
        Ok(Some((text, (app, last))))
    });
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], Body::from_stream(body)).into_response())
}

/// A request that may change something, and, once authenticated, its caller.
pub(super) struct AuditedRequest {
    app: App,
    request_user: RequestUser,
    action: String,
    object: String,
    address: Address,
    recorded: bool,
}

impl AuditedRequest {
    /// `None` for a request that only reads. The query is omitted: it may contain a secret.
    pub(super) fn of(app: &App, request: &mut Request<Body>) -> Option<Self> {
        if !csrf::changes(request.method(), request.headers()) {
            return None;
        }
        let request_user = RequestUser::default();
        request.extensions_mut().insert(request_user.clone());
        Some(Self {
            app: app.clone(),
            request_user,
            action: format!("http.{}", request.method().as_str().to_lowercase()),
            object: request.uri().path().chars().take(500).collect(),
            address: request.extensions().get::<Address>().copied().unwrap_or_default(),
            recorded: false,
        })
    }

    /// Writes the audit entry. The request has taken effect by now, so a database error is only logged; the
    /// most important actions write their own entry together with their change.
    pub(super) async fn answered(mut self, status: StatusCode) {
        let refused = status.is_client_error() || status.is_server_error();
        let entry = self.entry(if refused { "refused" } else { "ok" });
        self.recorded = true;
        entry.await;
    }

    fn entry(&self, result: &'static str) -> impl Future<Output = ()> + Send + use<> {
        let (app, user) = (self.app.clone(), self.request_user.user());
        let (action, object) = (self.action.clone(), self.object.clone());
        let address = self.address.to_string();
        async move {
            if user.is_none() {
                return;
            }
            let written = async {
                let mut connection = app.store.pool().acquire().await?;
                let entry = NewEntry {
                    user,
                    action: &action,
                    object,
                    address: &address,
                    result,
                };
                audit::append(&mut connection, entry).await
            };
            if let Err(error) = written.await {
                tracing::warn!(%error, "an audit entry could not be written");
            }
        }
    }
}

impl Drop for AuditedRequest {
    /// A request whose client disconnects before the response is still recorded.
    fn drop(&mut self) {
        if !self.recorded {
            self.app.tasks.spawn(self.entry("broken off"));
        }
    }
}

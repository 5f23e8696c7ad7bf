//! File access: `/api/projects/{project}/files` transfers raw bytes to and from the sandbox, and folders as
//! archives. Everything is streamed; nothing is buffered whole.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path as FilePath},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use fsa_model::{
    ErrorBody,
    api::Page,
    percent,
    sandboxd::{FileEntry, MoveRequest, PROJECT_FOLDER, USER_NAME},
};
use fsa_sandboxd_client::{FileQuery, FileScope};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::{
        Caller,
        permission::{Authorized, Permission as _, Read, Write},
    },
    error::{Error, Result},
    extract::{Json, Query},
    sandbox_client::{RunningSandbox, as_items, pass_through},
    state::App,
    store::{branches, quotas},
};

/// Timeout for the first byte of a file or of an archive.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for a whole upload.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);
/// Linux's PATH_MAX.
const MAX_PATH_BYTES: usize = 4096;

/// Header fields of the caller that are forwarded to sandboxd.
const REQUEST_FIELDS: [HeaderName; 8] = [
    header::ACCEPT,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::CONTENT_TYPE,
];
/// Header fields of sandboxd's response that are forwarded to the caller.
const RESPONSE_FIELDS: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(read_file, write_file, delete_file))
        .routes(routes!(move_file))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct FilesQuery {
    /// Absolute, or relative to the project's folder. A name that is not UTF-8 is percent-encoded bytes.
    #[serde(rename = "path")]
    _path: String,
    /// Return a folder's entries as JSON.
    #[serde(default)]
    list: bool,
    /// With DELETE: also delete a folder that is not empty.
    #[serde(default)]
    recursive: bool,
    /// With PUT: the file's permissions, in octal.
    #[serde(default)]
    mode: Option<String>,
    /// `dev` (default) or `root`.
    #[serde(default)]
    user: Option<String>,
    /// Name of a branch; `main` by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

impl FilesQuery {
    /// A viewer may read the project's folder and nothing else: `/proc` has the environment of programs, and
    /// the home folder their credentials. sandboxd checks the targets of links ([`FileScope::Project`]).
    ///
    /// # Errors
    /// 403 with the required role.
    fn must_be_in_project_folder(&self, path: &[u8], project: &Authorized<Read>) -> Result<()> {
        let path = FilePath::new(OsStr::from_bytes(path));
        let plain = path.components().all(|part| part != Component::ParentDir);
        let within = path.is_relative() || path.starts_with(PROJECT_FOLDER);
        if plain && within && self.user.as_deref().is_none_or(|user| user == USER_NAME) {
            return Ok(());
        }
        let sentence = "To read files outside of the project's folder, or as root, needs the role editor.";
        Err(Error::forbidden(sentence).with_project(project.id))
    }

    /// The query in sandboxd's form.
    ///
    /// # Errors
    /// 422 for an invalid path.
    fn query<'a>(&'a self, path: &'a [u8]) -> Result<FileQuery<'a>> {
        if path.len() > MAX_PATH_BYTES || path.contains(&0) {
            let rule = format!("it has at most {MAX_PATH_BYTES} bytes and no NUL character");
            return Err(Error::invalid("path", rule));
        }
        Ok(FileQuery {
            path,
            list: self.list,
            recursive: self.recursive,
            mode: self.mode.as_deref(),
            user: self.user.as_deref(),
        })
    }
}

/// Reads a file, lists a folder (`list=true`), or packs one (`Accept: application/x-tar`)
#[utoipa::path(get, path = "/api/projects/{project}/files", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"), FilesQuery,
           ("Range" = Option<String>, Header, description = "bytes=… of a file"),
           ("If-Range" = Option<String>, Header, description = "the whole file where it no longer has this tag or date"),
           ("If-None-Match" = Option<String>, Header, description = "304 where the file still has this tag"),
           ("If-Modified-Since" = Option<String>, Header, description = "304 where the file is not newer"),
           ("If-Match" = Option<String>, Header, description = "412 where the file no longer has this tag"),
           ("If-Unmodified-Since" = Option<String>, Header, description = "412 where the file is newer")),
    responses((status = OK, description = "the file, the archive, or the list", content(
                  (Vec<u8> = "application/octet-stream"), (Vec<u8> = "application/x-tar"),
                  (Page<FileEntry> = "application/json"))),
              (status = PARTIAL_CONTENT), (status = NOT_MODIFIED), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run, or the path is a folder"),
              (status = PRECONDITION_FAILED, body = ErrorBody), (status = RANGE_NOT_SATISFIABLE, body = ErrorBody)))]
async fn read_file(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(query): Query<FilesQuery>,
    request: Request<Body>,
) -> Result<Response> {
    let project = branches::find::<Read>(&app.store, &caller, &project).await?;
    let path = path_of(request.uri());
    // A read-only token has the scope of its user's role.
    let scope = match project.role() < Write::MIN_ROLE {
        true => {
            query.must_be_in_project_folder(&path, &project)?;
            FileScope::Project
        }
        false => FileScope::All,
    };
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let method = request.method().clone();
    let response = sandbox
        .sandboxd()
        .read_file(
            method.clone(),
            scope,
            &query.query(&path)?,
            request_fields(request.headers()),
            READ_TIMEOUT,
        )
        .await?;
    let mut response = pass_through(response, &RESPONSE_FIELDS);
    let kind = response.headers().get(header::CONTENT_TYPE);
    let lists = query.list && kind.is_some_and(|kind| kind == "application/json");
    let known = lists || kind.is_some_and(|kind| kind == "application/x-tar");
    if !known && response.status() != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
    }
    if lists {
        return Ok(as_items(&method, response));
    }
    if !query.list {
        response.headers_mut().insert(
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment"),
        );
    }
    Ok(response)
}

/// Writes a file, or unpacks an archive into a folder (`Content-Type: application/x-tar`)
#[utoipa::path(put, path = "/api/projects/{project}/files", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"), FilesQuery,
           ("If-Match" = Option<String>, Header, description = "only where the file still has this tag"),
           ("If-Unmodified-Since" = Option<String>, Header, description = "only where the file is not newer"),
           ("If-None-Match" = Option<String>, Header, description = "*: only where there is no file or folder yet")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = NO_CONTENT), (status = CREATED), (status = NOT_FOUND, body = ErrorBody),
              (status = FORBIDDEN, body = ErrorBody, description = "too little role, or over a limit on disk"),
              (status = CONFLICT, body = ErrorBody), (status = PRECONDITION_FAILED, body = ErrorBody),
              (status = PAYLOAD_TOO_LARGE, body = ErrorBody), (status = INSUFFICIENT_STORAGE, body = ErrorBody)))]
async fn write_file(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(query): Query<FilesQuery>,
    request: Request<Body>,
) -> Result<Response> {
    let project = branches::find::<Write>(&app.store, &caller, &project).await?;
    let limits = &app.settings.limits;
    let limit = limits.upload;
    let too_large = || {
        Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "TooLarge",
            format!("An upload has at most {limit} bytes."),
        )
    };
    let (parts, body) = request.into_parts();
    let path = path_of(&parts.uri);
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let free = quotas::free_disk(&app.store, limits, project.owner, body.size_hint().lower()).await?;
    let max = free.map_or(limit, |free| free.min(limit));
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let over = Arc::new(AtomicBool::new(false));
    let put = Arc::new(AtomicU64::new(0));
    let body = LimitedBody {
        body,
        left: max,
        over: Arc::clone(&over),
        received: Arc::clone(&put),
    };
    let body = body.map_err(std::io::Error::other).boxed_unsync();
    let answer = sandbox
        .sandboxd()
        .write_file(
            &query.query(&path)?,
            request_fields(&parts.headers),
            body,
            UPLOAD_TIMEOUT,
        )
        .await;
    let put = put.load(Ordering::Relaxed);
    if free.is_some() {
        quotas::add_disk_usage(&app.store, project.id, put).await?;
    }
    if over.load(Ordering::Relaxed) && max < limit {
        // Received bytes already count, so this asks for space for one byte beyond the limit.
        quotas::free_disk(&app.store, limits, project.owner, max - put + 1).await?;
    }
    if over.load(Ordering::Relaxed) {
        return Err(too_large());
    }
    Ok(pass_through(answer?, &RESPONSE_FIELDS[4..]))
}

/// Deletes a file or a folder
#[utoipa::path(delete, path = "/api/projects/{project}/files", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"), FilesQuery,
           ("If-Match" = Option<String>, Header, description = "only where the file still has this tag"),
           ("If-Unmodified-Since" = Option<String>, Header, description = "only where the file is not newer")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody),
              (status = PRECONDITION_FAILED, body = ErrorBody)))]
async fn delete_file(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(query): Query<FilesQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let project = branches::find::<Write>(&app.store, &caller, &project).await?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let response = sandbox
        .sandboxd()
        .delete_file(
            &query.query(&path_of(&uri))?,
            request_fields(&headers),
            READ_TIMEOUT,
        )
        .await?;
    Ok(pass_through(response, &[]))
}

/// Moves or renames a file or a folder
#[utoipa::path(post, path = "/api/projects/{project}/files/move", tag = "sandbox", request_body = MoveRequest,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody)))]
async fn move_file(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(files): Json<MoveRequest>,
) -> Result<Response> {
    let project = branches::find::<Write>(&app.store, &caller, &project).await?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let response = sandbox.sandboxd().move_file(&files).await?;
    Ok(pass_through(response, &[]))
}

/// The bytes of the parameter `path`.
fn path_of(uri: &Uri) -> Vec<u8> {
    percent::parameter(uri.query().unwrap_or_default(), "path").unwrap_or_default()
}

/// The caller's header fields that are received to sandboxd.
fn request_fields(headers: &HeaderMap) -> HeaderMap {
    REQUEST_FIELDS
        .iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
        .collect()
}

/// A body that ends with an error, and sets a flag, when it exceeds its limit of bytes.
struct LimitedBody {
    body: Body,
    left: u64,
    over: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
}

impl http_body::Body for LimitedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            match self.left.checked_sub(length) {
                Some(left) => {
                    self.left = left;
                    self.received.fetch_add(length, Ordering::Relaxed);
                }
                None => {
                    self.over.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("the upload is too large".into())));
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

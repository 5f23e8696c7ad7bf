//! File API: reads, writes, lists and deletes files with the permissions of one of the sandbox's users.
//!
//! Every file system call runs on a thread of the blocking pool that has taken on that user's file
//! system ids ([`crate::user::with_fs_ids_of`]), so the kernel checks the permissions and the user
//! owns new files. Content is streamed; no file is ever held whole in memory.

mod conditions;
mod open_beneath;
mod read;
mod sparse;
#[doc(hidden)]
pub mod tar_in;
mod tar_out;
mod tree;
mod write;

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use fsa_model::{
    percent,
    sandboxd::{MoveRequest, paths::PROJECT_FILES},
};
use headers::ETag;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use nix::fcntl::OFlag;

use self::conditions::{Conditions, FailedPrecondition, Version};
use crate::{
    http::{ApiError, Query, RouteResult, json, read_json, status},
    sandbox::Sandbox,
    user::{User, with_fs_ids_of},
};

/// Media type of an archive.
const TAR: &str = "application/x-tar";
/// Bytes of zeros that are worth a hole: a block of most file systems.
const HOLE: usize = 4096;
/// Bytes that are read or written at once.
const PIECE: usize = 64 * 1024;

/// The file of a request, and the user who accesses it.
#[derive(Clone, Debug)]
struct Subject {
    path: PathBuf,
    /// Access is confined to this folder, if set.
    within: Option<PathBuf>,
    /// The path as the request has it, for messages.
    shown: String,
    user: User,
}

impl Subject {
    fn new(sandbox: &Sandbox, path: &OsStr, user: Option<&str>) -> Result<Self, ApiError> {
        if path.as_bytes().contains(&0) {
            return Err(ApiError::field("path", "a path cannot hold a NUL byte"));
        }
        Ok(Self {
            path: sandbox.project.join(path),
            within: None,
            shown: if path.is_empty() {
                ".".into()
            } else {
                path.to_string_lossy().into_owned()
            },
            user: sandbox.accounts.find(user)?,
        })
    }

    /// Runs `work` with the user's file system ids, off the runtime's thread.
    async fn as_user<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path, &User) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (path, user) = (self.path.clone(), self.user.clone());
        tokio::task::spawn_blocking(move || with_fs_ids_of(&user, || work(&path, &user)))
            .await
            .map_err(io::Error::other)
            .flatten()
            .flatten()
    }

    /// Opens the file for reading, with the thread's current file system ids.
    fn open(&self, flags: OFlag) -> io::Result<OwnedFd> {
        match &self.within {
            Some(folder) => open_beneath::open(folder, &self.path, flags),
            None => Ok(nix::fcntl::open(
                &self.path,
                flags | OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )?),
        }
    }

    /// Runs `work` like [`Self::as_user`], with the open file.
    async fn opened<T: Send + 'static>(
        &self,
        flags: OFlag,
        work: impl FnOnce(OwnedFd) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let subject = self.clone();
        self.as_user(move |_, _| work(subject.open(flags)?)).await
    }

    /// The response to `error`: the [`ApiError`] that it carries, or the file system's error for this path.
    fn api_error(&self, error: &io::Error) -> ApiError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<ApiError>()) {
            Some(carried) => carried.clone(),
            None => ApiError::of_file(&self.shown, error),
        }
    }
}

/// Handles `/v1/files`, and [`PROJECT_FILES`].
///
/// # Errors
/// The file system's error, in a sentence with the path.
pub async fn route(sandbox: &Arc<Sandbox>, request: Request<Incoming>) -> RouteResult {
    let query = Query::of(request.uri());
    let path = percent::parameter(request.uri().query().unwrap_or_default(), "path")
        .ok_or_else(|| ApiError::field("path", "it is missing"))?;
    let user = query.get("user").filter(|user| !user.is_empty());
    let mut subject = Subject::new(sandbox, OsStr::from_bytes(&path), user)?;
    if request.uri().path() == PROJECT_FILES {
        subject.within = Some(sandbox.project.clone());
    }
    let takes_tar = |name: header::HeaderName| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kinds| {
                kinds
                    .split(',')
                    .any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == TAR))
            })
    };
    match *request.method() {
        Method::GET | Method::HEAD if query.is_true("list")? => {
            let folder = subject.clone();
            let entries = subject
                .as_user(move |_, _| tree::list(&folder))
                .await
                .map_err(|error| subject.api_error(&error))?;
            Ok(json(&entries))
        }
        Method::GET | Method::HEAD => {
            let (head, tar) = (request.method() == Method::HEAD, takes_tar(header::ACCEPT));
            read::get(sandbox, &subject, request.headers(), tar, head).await
        }
        Method::PUT if takes_tar(header::CONTENT_TYPE) => {
            let conditions = Conditions::new(request.headers());
            subject
                .as_user(move |path, _| check(path, &conditions))
                .await
                .map_err(|error| subject.api_error(&error))?;
            let answer = tar_in::put(&subject, request.into_body()).await;
            sandbox.poll_trigger.notify();
            answer
        }
        Method::PUT => {
            let mode = query.get("mode").map(write::mode).transpose()?;
            let answer = write::put(&subject, request, mode).await;
            sandbox.poll_trigger.notify();
            answer
        }
        Method::DELETE => {
            let recursive = query.is_true("recursive")?;
            if [&sandbox.project, &sandbox.home, Path::new("/")]
                .contains(&subject.path.components().as_path())
            {
                return Err(ApiError::conflict(format!(
                    "{}: this folder cannot be deleted; delete what is in it",
                    subject.shown
                )));
            }
            let conditions = Conditions::new(request.headers());
            let done = subject
                .as_user(move |path, _| {
                    let _changing = write::CHANGE_LOCK.lock();
                    check(path, &conditions)?;
                    tree::delete(path, recursive)
                })
                .await;
            sandbox.poll_trigger.notify();
            done.map(|()| status(StatusCode::NO_CONTENT))
                .map_err(|error| subject.api_error(&error))
        }
        _ => Err(ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "files take GET, HEAD, PUT and DELETE",
        )),
    }
}

/// Handles `POST /v1/move`.
///
/// # Errors
/// The file system's error, in a sentence with the path.
pub async fn rename(sandbox: &Arc<Sandbox>, body: Incoming) -> RouteResult {
    let request: MoveRequest = read_json(body).await?;
    let user = request.user.as_deref();
    let named = |path: Option<Vec<u8>>| {
        path.map(OsString::from_vec)
            .ok_or_else(|| ApiError::bad_request("give `from` or `encodedFrom`, and `to` or `encodedTo`"))
    };
    let from = Subject::new(sandbox, &named(request.source())?, user)?;
    let mut to = Subject::new(sandbox, &named(request.target())?, user)?;
    to.shown = format!("{} to {}", from.shown, to.shown);
    let source = from.path.clone();
    let done = to
        .as_user(move |target, _| tree::rename(&source, target, request.overwrite))
        .await;
    sandbox.poll_trigger.notify();
    done.map(|()| status(StatusCode::NO_CONTENT))
        .map_err(|error| to.api_error(&error))
}

/// Whether this piece of a file becomes a hole in it, which takes no room on the disk.
fn is_hole(piece: &[u8]) -> bool {
    piece.len() >= HOLE && piece.iter().all(|byte| *byte == 0)
}

/// The version of a file: its entity tag changes with the file and with its content.
fn version(found: &std::fs::Metadata) -> io::Result<Version> {
    let tag: ETag = format!(
        "\"{:x}-{:x}-{:x}\"",
        found.ino(),
        i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
        found.size()
    )
    .parse()
    .map_err(io::Error::other)?;
    Ok(Version {
        tag,
        modified: found.modified()?,
    })
}

/// Checks the preconditions of a change.
fn check(path: &Path, conditions: &Conditions) -> io::Result<()> {
    let current = match std::fs::metadata(path) {
        Ok(found) => Some(version(&found)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    conditions
        .check(current.as_ref(), false)
        .map_err(|failed| io::Error::other(precondition_error(path, failed)))
}

fn precondition_error(path: &Path, failed: FailedPrecondition) -> ApiError {
    let path = path.display();
    let (name, message) = match failed {
        FailedPrecondition::Changed => (
            "Changed",
            format!("{path} has changed since it was read; read it again"),
        ),
        FailedPrecondition::Exists => ("Exists", format!("{path} exists already, and was not changed")),
    };
    ApiError::new(StatusCode::PRECONDITION_FAILED, name, message)
}

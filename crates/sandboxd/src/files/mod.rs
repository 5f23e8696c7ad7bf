//! The files of the sandbox, with the rights of one of its users.
//!
//! Everything that touches a path happens on a thread of the blocking pool that has taken on that
//! user's rights ([`crate::user::with_rights_of`]), so the kernel decides what may be done and the
//! user owns what is made. Bytes go through in pieces; no file is ever held whole.

mod beneath;
mod read;
#[doc(hidden)]
pub mod tar_in;
mod tar_out;
mod tree;
mod write;

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use fsa_model::sandboxd::{MoveRequest, paths::PROJECT_FILES};
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use nix::fcntl::OFlag;

use crate::{
    http::{Answer, Refusal, json, read_json, routes::Query, status},
    sandbox::Sandbox,
    user::{User, with_rights_of},
};

/// The media type of an archive.
const TAR: &str = "application/x-tar";
/// Bytes that go through at once.
const PIECE: usize = 64 * 1024;

/// Which file, and as whom.
#[derive(Clone, Debug)]
struct Subject {
    path: PathBuf,
    /// The folder that no link may lead out of, where there is one.
    within: Option<PathBuf>,
    /// As it was written in the request, for sentences.
    shown: String,
    user: User,
}

impl Subject {
    fn new(sandbox: &Sandbox, path: &str, user: Option<&str>) -> Result<Self, Refusal> {
        if path.contains('\0') {
            return Err(Refusal::field("path", "a path cannot hold a NUL byte"));
        }
        Ok(Self {
            path: sandbox.project.join(path),
            within: None,
            shown: if path.is_empty() { ".".into() } else { path.into() },
            user: sandbox.accounts.find(user)?,
        })
    }

    /// Does `work` with the user's rights, off the runtime's thread.
    async fn with_rights<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path, &User) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (path, user) = (self.path.clone(), self.user.clone());
        tokio::task::spawn_blocking(move || with_rights_of(&user, || work(&path, &user)))
            .await
            .map_err(io::Error::other)
            .flatten()
            .flatten()
    }

    /// Opens what is to be read, with the rights that the thread has now.
    fn open(&self, flags: OFlag) -> io::Result<OwnedFd> {
        match &self.within {
            Some(folder) => beneath::open(folder, &self.path, flags),
            None => Ok(nix::fcntl::open(
                &self.path,
                flags | OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )?),
        }
    }

    /// As [`Self::with_rights`], with the opened subject.
    async fn opened<T: Send + 'static>(
        &self,
        flags: OFlag,
        work: impl FnOnce(OwnedFd) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let subject = self.clone();
        self.with_rights(move |_, _| work(subject.open(flags)?)).await
    }

    fn refusal(&self, error: &io::Error) -> Refusal {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Said>()) {
            Some(Said(refusal)) => refusal.clone(),
            None => Refusal::of_file(&self.shown, error),
        }
    }
}

/// A refusal on its way through an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
struct Said(Refusal);

fn say(refusal: Refusal) -> io::Error {
    io::Error::other(Said(refusal))
}

/// `/v1/files`, and what of it there is below [`PROJECT_FILES`].
///
/// # Errors
/// What the file system says, in a sentence with the path.
pub async fn route(sandbox: &Arc<Sandbox>, request: Request<Incoming>) -> Answer {
    let query = Query::of(request.uri());
    let path = query
        .get("path")
        .ok_or_else(|| Refusal::field("path", "it is missing"))?;
    let user = query.get("user").filter(|user| !user.is_empty());
    let mut subject = Subject::new(sandbox, path, user)?;
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
            let of = subject.clone();
            let entries = subject
                .with_rights(move |_, _| tree::list(&of))
                .await
                .map_err(|error| subject.refusal(&error))?;
            Ok(json(&entries))
        }
        Method::GET | Method::HEAD => {
            let (head, tar) = (request.method() == Method::HEAD, takes_tar(header::ACCEPT));
            read::get(sandbox, &subject, request.headers(), tar, head).await
        }
        Method::PUT if takes_tar(header::CONTENT_TYPE) => {
            let answer = tar_in::put(&subject, request.into_body()).await;
            sandbox.pulse.poke();
            answer
        }
        Method::PUT => {
            let mode = query.get("mode").map(write::mode).transpose()?;
            let answer = write::put(&subject, request, mode).await;
            sandbox.pulse.poke();
            answer
        }
        Method::DELETE => {
            let recursive = query.is_true("recursive")?;
            if [&sandbox.project, &sandbox.home, Path::new("/")]
                .contains(&subject.path.components().as_path())
            {
                return Err(Refusal::conflict(format!(
                    "{}: this folder stays; delete what is in it",
                    subject.shown
                )));
            }
            let done = subject
                .with_rights(move |path, _| tree::delete(path, recursive))
                .await;
            sandbox.pulse.poke();
            done.map(|()| status(StatusCode::NO_CONTENT))
                .map_err(|error| subject.refusal(&error))
        }
        _ => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "files take GET, HEAD, PUT and DELETE",
        )),
    }
}

/// `POST /v1/move`.
///
/// # Errors
/// What the file system says, in a sentence with the path.
pub async fn rename(sandbox: &Arc<Sandbox>, body: Incoming) -> Answer {
    let wish: MoveRequest = read_json(body).await?;
    let user = wish.user.as_deref();
    let from = Subject::new(sandbox, &wish.from, user)?;
    let mut to = Subject::new(sandbox, &wish.to, user)?;
    to.shown = format!("{} to {}", wish.from, wish.to);
    let source = from.path.clone();
    let done = to
        .with_rights(move |target, _| tree::rename(&source, target, wish.overwrite))
        .await;
    sandbox.pulse.poke();
    done.map(|()| status(StatusCode::NO_CONTENT))
        .map_err(|error| to.refusal(&error))
}

/// Another file, or another content, has another one.
fn etag(found: &std::fs::Metadata) -> String {
    format!(
        "\"{:x}-{:x}-{:x}\"",
        found.ino(),
        i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
        found.size()
    )
}

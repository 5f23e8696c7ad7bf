//! Git credential callback: answers git in a sandbox that requests the credential of a repository.

use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use secrecy::ExposeSecret as _;

use super::Callback;
use crate::{
    git_credentials::{self, RepositoryLocation},
    llm_proxy::CallingSandbox,
};

/// Path for reports that a repository's server refused a credential.
pub(super) const REFUSED: &str = "/git-credential/refused";
/// Path for credential requests.
pub(super) const REQUEST: &str = "/git-credential";
/// Most bytes of git's request.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

pub(super) async fn answer(
    callback: &Callback,
    sandbox: &CallingSandbox,
    request: Request<Incoming>,
) -> Response<Body> {
    let is_refused = request.uri().path() == REFUSED;
    let Ok(input) = Limited::new(request.into_body(), MAX_REQUEST_BYTES)
        .collect()
        .await
    else {
        return plain(StatusCode::BAD_REQUEST, "the request is incomplete or too long");
    };
    let input = String::from_utf8_lossy(&input.to_bytes()).into_owned();
    let Some(location) = RepositoryLocation::parse(&input) else {
        return plain(StatusCode::NO_CONTENT, "");
    };
    if is_refused {
        return refused(callback, sandbox, &location, &input).await;
    }
    let login = callback
        .git_credentials
        .login(&callback.core, sandbox.project, &location)
        .await;
    match login {
        Ok(Some(login)) => {
            let password = login.password.expose_secret();
            if login.username.contains(['\n', '\0']) || password.contains(['\n', '\0']) {
                return plain(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the credential has a line break, which git's protocol cannot carry",
                );
            }
            let username = login.username;
            plain(
                StatusCode::OK,
                format!("username={username}\npassword={password}\n"),
            )
        }
        Ok(None) => plain(StatusCode::NO_CONTENT, ""),
        // A person can act on it: git shows them the sentence.
        Err(error) if error.status() == StatusCode::CONFLICT => {
            plain(StatusCode::CONFLICT, error.message().to_owned())
        }
        Err(error) => {
            tracing::warn!(%error, project = %sandbox.project, "a git credential could not be looked up");
            plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "the control plane could not look up the credential; try again",
            )
        }
    }
}

/// Reports a refused credential, and returns the advice.
async fn refused(
    callback: &Callback,
    sandbox: &CallingSandbox,
    location: &RepositoryLocation,
    input: &str,
) -> Response<Body> {
    let Some(password) = git_credentials::password_of(input) else {
        return plain(StatusCode::NO_CONTENT, "");
    };
    let advice = callback
        .git_credentials
        .refused(&callback.core, sandbox.project, location, &password)
        .await;
    match advice {
        Ok(Some(sentence)) => plain(StatusCode::OK, sentence),
        Ok(None) => plain(StatusCode::NO_CONTENT, ""),
        Err(error) => {
            tracing::warn!(%error, project = %sandbox.project, "advice on a refused credential could not be looked up");
            plain(StatusCode::NO_CONTENT, "")
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}

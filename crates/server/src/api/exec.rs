//! Command execution: `/api/projects/{project}/exec` runs one command in the sandbox and responds when it has
//! ended, or streams over a WebSocket.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use fsa_model::{
    ErrorBody,
    sandboxd::{ExecRequest, ExecResult},
};
use http::Request;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::{Caller, permission::Write},
    error::{Error, Result},
    extract::Json,
    sandbox_client::{Handshake, RunningSandbox, stream_end},
    state::App,
    store::branches,
};

/// The longest timeout, in seconds.
const MAX_TIMEOUT_SECONDS: u32 = 3600;
/// Maximum number of arguments of a command.
const MAX_ARGUMENTS: usize = 10_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(exec, exec_stream))
}

/// Runs a command and responds when it has ended
#[utoipa::path(post, path = "/api/projects/{project}/exec", tag = "sandbox", request_body = ExecRequest,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = ExecResult), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody),
              (status = TOO_MANY_REQUESTS, body = ErrorBody, description = "more than the user may start in a minute")))]
async fn exec(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(command): Json<ExecRequest>,
) -> Result<Response> {
    let project = branches::find::<Write>(&app.store, &caller, &project).await?;
    check(&command)?;
    if command.tty.is_some() {
        return Err(Error::invalid(
            "tty",
            "a command has a terminal only when it is streamed: GET as a WebSocket",
        ));
    }
    app.rate_limits.count_exec(&app.settings.limits, &caller)?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    Ok(Json(sandbox.exec(&command).await?).into_response())
}

/// Runs a command over a WebSocket that streams its input and output
#[utoipa::path(get, path = "/api/projects/{project}/exec", tag = "sandbox",
    description = "A WebSocket. The first message is the request as text (JSON, as for POST). Then binary \
                   messages: 0 and standard input from the client; 1 and standard output, 2 and standard \
                   error from the sandbox. Text messages: {\"type\": \"eof\"}, {\"type\": \"signal\", \
                   \"signal\": 2} or, for a command with a terminal, {\"type\": \"resize\", \"columns\": 80, \
                   \"rows\": 24} from the client; last {\"type\": \"exit\", \"exitCode\": 0} or \
                   {\"type\": \"error\", \"message\": \"…\"} from the sandbox.",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = SWITCHING_PROTOCOLS), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run"),
              (status = UPGRADE_REQUIRED, body = ErrorBody)))]
async fn exec_stream(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    request: Request<Body>,
) -> Result<Response> {
    let project = branches::find::<Write>(&app.store, &caller, &project).await?;
    app.rate_limits.count_exec(&app.settings.limits, &caller)?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let permit = app.streams.acquire(&app, &caller)?;
    let handshake = Handshake::check(request, None)?;
    let answer = sandbox.sandboxd().exec_websocket(handshake.request()).await?;
    handshake.accept(
        &app,
        answer,
        stream_end(app.core().clone(), project.into_project()),
        permit,
    )
}

/// Validates what can be validated without the sandbox.
fn check(request: &ExecRequest) -> Result<()> {
    if request.command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(
            "command",
            "it is a list of a program and its arguments, such as [\"ls\", \"-l\"]; it is empty",
        ));
    }
    let with_nul = |text: &String| text.contains('\0');
    if request.command.len() > MAX_ARGUMENTS || request.command.iter().any(with_nul) {
        let rule = format!("it has at most {MAX_ARGUMENTS} arguments, and no NUL character");
        return Err(Error::invalid("command", rule));
    }
    if request.cwd.as_ref().is_some_and(with_nul) {
        return Err(Error::invalid("cwd", "it must not have a NUL character"));
    }
    if request
        .timeout_seconds
        .is_some_and(|seconds| !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds))
    {
        let rule = format!("it is a number from 1 to {MAX_TIMEOUT_SECONDS}");
        return Err(Error::invalid("timeoutSeconds", rule));
    }
    if request
        .user
        .as_deref()
        .is_some_and(|user| !["dev", "root"].contains(&user))
    {
        return Err(Error::invalid("user", "it is dev or root"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_exec_requests_are_rejected_with_the_field() {
        let request = |command: &[&str]| ExecRequest {
            command: command.iter().map(ToString::to_string).collect(),
            ..ExecRequest::default()
        };
        let field = |request: &ExecRequest| check(request).err().map(|e| e.field().unwrap().name.clone());
        assert_eq!(field(&request(&["ls"])), None);
        assert_eq!(field(&request(&[])).as_deref(), Some("command"));
        assert_eq!(field(&request(&[""])).as_deref(), Some("command"));
        assert_eq!(field(&request(&["a\0b"])).as_deref(), Some("command"));
        for (seconds, refused) in [(0, true), (1, false), (3600, false), (3601, true)] {
            let command = ExecRequest {
                timeout_seconds: Some(seconds),
                ..request(&["ls"])
            };
            assert_eq!(field(&command).is_some(), refused, "{seconds}");
        }
        for (user, refused) in [("dev", false), ("root", false), ("postgres", true), ("", true)] {
            let command = ExecRequest {
                user: Some(user.into()),
                ..request(&["ls"])
            };
            assert_eq!(field(&command).is_some(), refused, "{user}");
        }
    }
}

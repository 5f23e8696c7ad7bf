//! External authentication for an ingress controller that serves sandbox hosts.
//!
//! The controller calls [`check`] before it forwards a request (`auth-url`; nginx's `auth_request`), and
//! redirects a browser that is not admitted to [`enter`] (`auth-signin`). From there, a browser that is signed
//! in returns with a hand-off in its URL. The next check exchanges it for a preview token: the controller
//! forwards the check's `Set-Cookie` to the browser. Both routes name the sandbox and the port, but the cluster
//! determines their host ([`fsa_driver::Driver::external_endpoint`]), so a forged header has no effect.

use axum::{
    body::Body,
    extract::{FromRef, State},
    response::{IntoResponse as _, Response},
};
use fsa_driver::ExternalEndpoint;
use fsa_model::{sandboxd::TERMINAL_PORT, sharing::ProjectRole};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::Url;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Admission,
    access::{self, Visitor},
    admit,
    error_page::{self, Say},
    handoff::{self, give},
    preview_token::{self, HandOff},
    routes::{Route, Target},
};
use crate::{
    auth::Caller,
    core::Core,
    error::{Error, Result},
    extract::Query,
    store::{preview_token_uses, previews, sandboxes::SandboxRow},
};

/// Query parameter that carries a hand-off in a URL of the ingress controller.
const ENTER: &str = "fsa_enter";
/// Header fields in which the controller describes the original request (ingress-nginx's annotation `auth-url`:
/// "X-Original-URL", "X-Original-Method").
const ORIGINAL_URL: &str = "x-original-url";
const ORIGINAL_METHOD: &str = "x-original-method";

/// The routes of the main host.
pub(crate) fn routes<S>() -> OpenApiRouter<S>
where
    Core: FromRef<S>,
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::new().routes(routes!(check)).routes(routes!(enter))
}

/// The sandbox port that an ingress leads to.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Which {
    /// The sandbox's id.
    sandbox: Uuid,
    /// The port.
    port: u16,
    /// The URL that the browser requested; the controller adds it.
    #[serde(default)]
    rd: String,
}

/// The sandbox port behind an ingress.
struct Place {
    route: Route,
    sandbox: SandboxRow,
    region: String,
    outside: ExternalEndpoint,
}

/// Whether an ingress controller may forward a request
#[utoipa::path(
    get, path = "/api/ingress/check", tag = "ingress", params(Which), security(()),
    responses(
        (status = 200, description = "It may; with a cookie for the browser where it has just come in"),
        (status = 401, description = "Nobody is known: send the browser to /api/ingress/enter"),
        (status = 403, description = "A page of somebody else asks with the browser's pass"),
    ),
)]
async fn check(State(core): State<Core>, Query(which): Query<Which>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    match admitted(&core, &which, parts).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn admitted(core: &Core, which: &Which, asked: Parts) -> Result<Response> {
    // An unknown sandbox or port gets the same response as a private one.
    let Some(place) = find(core, which).await? else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    let host = place.outside.host.as_str();
    let Some((original, origin)) = original(&asked, host) else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    let mut fields = HeaderMap::new();
    let visitor = match admit(core, &place.route, host, &origin, &original).await {
        Admission::Comes(visitor, ..) => Some(visitor),
        Admission::Foreign => return Ok(StatusCode::FORBIDDEN.into_response()),
        Admission::Failed(error) => return Err(error),
        Admission::Unknown => {
            let pass = match handoff::share(&original) {
                Some((secret, _)) => access::is_the_link(&place.route, &secret),
                None => arrived(core, host, &original)
                    .await?
                    .map(|hand_off| hand_off.pass()),
            };
            let admitted = pass.and_then(|pass| Some((access::admits(&pass, &place.route)?, pass)));
            admitted.map(|(visitor, pass)| {
                give(core, &mut fields, host, &pass);
                visitor
            })
        }
    };
    let Some(visitor) = visitor else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    if place.route.port == TERMINAL_PORT {
        // The terminal token opens a shell with input, not a read-only view.
        if !matches!(visitor, Visitor::Person(_, role, _) if role >= ProjectRole::Editor) {
            return Ok(StatusCode::FORBIDDEN.into_response());
        }
        fields.insert(header::AUTHORIZATION, terminal_token(core, &place).await?);
    }
    Ok((StatusCode::OK, fields).into_response())
}

/// The original request, if it is for this host, and its origin.
fn original(asked: &Parts, host: &str) -> Option<(Parts, String)> {
    let read = |name: &str| asked.headers.get(name)?.to_str().ok();
    let url = Url::parse(read(ORIGINAL_URL)?).ok()?;
    if !url.host_str()?.eq_ignore_ascii_case(host) {
        return None;
    }
    let method = read(ORIGINAL_METHOD).map_or(Ok(Method::GET), str::parse).ok()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = url[url::Position::BeforePath..].parse::<Uri>().ok()?;
    parts.headers = asked.headers.clone();
    parts.extensions = asked.extensions.clone();
    Some((parts, url.origin().ascii_serialization()))
}

/// The hand-off in the URL, which is used up by this.
async fn arrived(core: &Core, host: &str, original: &Parts) -> Result<Option<HandOff>> {
    let query = original.uri.query().unwrap_or_default();
    let Some(token) = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(ENTER)?.strip_prefix('='))
    else {
        return Ok(None);
    };
    let Some(hand_off) = HandOff::open(&core.key_ring, host, token).filter(HandOff::holds) else {
        return Ok(None);
    };
    let first = preview_token_uses::take(&core.store, hand_off.id(), hand_off.until()).await?;
    Ok(first.then_some(hand_off))
}

/// The credential for the terminal's own port, and for nothing else.
async fn terminal_token(core: &Core, place: &Place) -> Result<HeaderValue> {
    let region = core.regions.get(&place.region).ok_or_else(|| {
        Error::unavailable(format!(
            "The region {} is not configured on this server.",
            place.region
        ))
    })?;
    let token = region.driver.terminal_token(&place.sandbox.reference()).await?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|error| Error::internal("A token cannot be sent.").because(error))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Redirects a browser that is signed in back to the sandbox's host, which admits it
#[utoipa::path(
    get, path = "/api/ingress/enter", tag = "ingress", params(Which), security(()),
    responses(
        (status = 302, description = "To the sandbox's host, or to the sign-in page"),
        (status = 404, description = "There is no such sandbox, or it is somebody else's"),
    ),
)]
async fn enter(
    State(core): State<Core>,
    caller: Option<Caller>,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Response {
    let Some((caller, session)) = handoff::in_session(caller) else {
        let next = format!(
            "/api/ingress/enter?sandbox={}&port={}&rd={}",
            which.sandbox,
            which.port,
            utf8_percent_encode(&which.rd, NON_ALPHANUMERIC)
        );
        return handoff::sign_in_first(&core, &next);
    };
    match find(&core, &which).await {
        Err(error) => error.into_response(),
        Ok(Some(place)) if place.route.people.contains_key(&caller.user()) => {
            let hand_off = HandOff::new(place.route.project, caller.user(), session, "-", "/");
            let token = hand_off.encrypt(&core.key_ring, &place.outside.host);
            let target = target(&place.outside, &which.rd, token.expose_secret());
            error_page::redirect(target.as_str())
        }
        Ok(_) => Say::nothing_here().answer(&headers),
    }
}

/// The URL to return to: the requested one if it is on exactly this host.
fn target(outside: &ExternalEndpoint, desired_state: &str, token: &str) -> Url {
    let scheme = if outside.secure { "https" } else { "http" };
    let home = || {
        Url::parse(&format!("{scheme}://{}/", outside.host))
            .expect("a cluster's host names are checked by it when the ingress is made")
    };
    let mut url = Url::parse(desired_state)
        .ok()
        .filter(|url| {
            url.host_str()
                .is_some_and(|host| host.eq_ignore_ascii_case(&outside.host))
                && (url.scheme() == scheme || (!outside.secure && url.scheme() == "https"))
                && url.username().is_empty()
                && url.password().is_none()
                && url.as_str().len() <= preview_token::PATH_MOST
        })
        .unwrap_or_else(home);
    let kept: Vec<&str> = url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| {
            !pair.is_empty() && !pair.strip_prefix(ENTER).is_some_and(|rest| rest.starts_with('='))
        })
        .collect();
    let enter = format!("{ENTER}={token}");
    let query = kept
        .into_iter()
        .chain([enter.as_str()])
        .collect::<Vec<_>>()
        .join("&");
    url.set_query(Some(&query));
    url.set_fragment(None);
    url
}

/// Looks up the sandbox port by the sandbox's id.
async fn find(core: &Core, which: &Which) -> Result<Option<Place>> {
    let Some(preview) = previews::by_sandbox(&core.store, which.sandbox, which.port).await? else {
        return Ok(None);
    };
    let Some(sandbox) = preview.sandbox else {
        return Ok(None);
    };
    let outside = core
        .regions
        .get(&preview.region)
        .and_then(|region| region.driver.external_endpoint(&sandbox.reference(), which.port));
    let Some(outside) = outside else { return Ok(None) };
    Ok(Some(Place {
        route: Route {
            access: preview.access,
            target: Target::None,
        },
        sandbox,
        region: preview.region,
        outside,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external_endpoint(secure: bool) -> ExternalEndpoint {
        ExternalEndpoint {
            host: "notes-x.apps.example".into(),
            secure,
        }
    }

    #[test]
    fn a_browser_comes_back_to_the_sandboxs_own_host_alone() {
        for foreign in [
            "",
            "https://evil.example/",
            "https://notes-x.apps.example.evil.example/",
            "https://evil.example/@notes-x.apps.example",
            "https://a:b@notes-x.apps.example/",
            "http://notes-x.apps.example/",
            "javascript:alert(1)",
            "/a",
        ] {
            let url = target(&external_endpoint(true), foreign, "T");
            assert_eq!(
                url.as_str(),
                "https://notes-x.apps.example/?fsa_enter=T",
                "{foreign:?}"
            );
        }
        let url = target(
            &external_endpoint(true),
            "https://notes-x.apps.example/a?b=c&fsa_enter=OLD#d",
            "T",
        );
        assert_eq!(url.as_str(), "https://notes-x.apps.example/a?b=c&fsa_enter=T");
        let url = target(
            &external_endpoint(false),
            "http://notes-x.apps.example:8080/a",
            "T",
        );
        assert_eq!(url.as_str(), "http://notes-x.apps.example:8080/a?fsa_enter=T");
    }
}

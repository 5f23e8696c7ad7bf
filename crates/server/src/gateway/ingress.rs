//! External authentication for an ingress controller that serves sandbox hosts.
//!
//! The controller calls [`check`] before it forwards a request (`auth-url`; nginx's `auth_request`), and
//! redirects an unauthorized browser to [`enter`] (`auth-signin`), which redirects a browser that is signed in back,
//! with a hand-off in the URL. The next check exchanges it for a preview token: the controller forwards the check's
//! `Set-Cookie` to the browser. Both routes name the sandbox and the port, but the cluster
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
    Authorization,
    access::{self, Principal},
    authorize,
    error_page::{self, ErrorPage},
    handoff::{self, set_preview_token},
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
struct IngressPortQuery {
    /// The sandbox's id.
    sandbox: Uuid,
    /// The port.
    port: u16,
    /// The URL that the browser requested; the controller adds it.
    #[serde(default)]
    rd: String,
}

/// The sandbox port behind an ingress.
struct IngressPort {
    route: Route,
    sandbox: SandboxRow,
    region: String,
    endpoint: ExternalEndpoint,
}

/// Whether an ingress controller may forward a request
#[utoipa::path(
    get, path = "/api/ingress/check", tag = "ingress", params(IngressPortQuery), security(()),
    responses(
        (status = 200, description = "It may. After a hand-off or an access link, with a preview token as a cookie"),
        (status = 401, description = "Not authenticated: redirect the browser to /api/ingress/enter"),
        (status = 403, description = "A page of another project sent the request"),
    ),
)]
async fn check(
    State(core): State<Core>,
    Query(query): Query<IngressPortQuery>,
    request: Request<Body>,
) -> Response {
    let (parts, _) = request.into_parts();
    match authorize_original(&core, &query, parts).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn authorize_original(core: &Core, query: &IngressPortQuery, request: Parts) -> Result<Response> {
    // An unknown sandbox or port gets the same response as a private one.
    let Some(ingress_port) = find(core, query).await? else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    let host = ingress_port.endpoint.host.as_str();
    let Some((original, origin)) = original_request(&request, host) else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    let mut fields = HeaderMap::new();
    let principal = match authorize(core, &ingress_port.route, host, &origin, &original).await {
        Authorization::Granted(principal, ..) => Some(principal),
        Authorization::CrossProject => return Ok(StatusCode::FORBIDDEN.into_response()),
        Authorization::Failed(error) => return Err(error),
        Authorization::Unauthenticated => {
            let token = match handoff::access_link_secret(&original) {
                Some((secret, _)) => access::by_access_link(&ingress_port.route, &secret),
                None => redeem_hand_off(core, host, &original)
                    .await?
                    .map(|hand_off| hand_off.preview_token()),
            };
            let found =
                token.and_then(|token| Some((access::principal_of(&token, &ingress_port.route)?, token)));
            found.map(|(principal, token)| {
                set_preview_token(core, &mut fields, host, &token);
                principal
            })
        }
    };
    let Some(principal) = principal else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    if ingress_port.route.port == TERMINAL_PORT {
        // The terminal token opens a shell with input, not a read-only view.
        if !matches!(principal, Principal::User(_, role, _) if role >= ProjectRole::Editor) {
            return Ok(StatusCode::FORBIDDEN.into_response());
        }
        fields.insert(header::AUTHORIZATION, terminal_token(core, &ingress_port).await?);
    }
    Ok((StatusCode::OK, fields).into_response())
}

/// The request that the controller describes, if it is for this host, and its origin.
fn original_request(request: &Parts, host: &str) -> Option<(Parts, String)> {
    let read = |name: &str| request.headers.get(name)?.to_str().ok();
    let url = Url::parse(read(ORIGINAL_URL)?).ok()?;
    if !url.host_str()?.eq_ignore_ascii_case(host) {
        return None;
    }
    let method = read(ORIGINAL_METHOD).map_or(Ok(Method::GET), str::parse).ok()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = url[url::Position::BeforePath..].parse::<Uri>().ok()?;
    parts.headers = request.headers.clone();
    parts.extensions = request.extensions.clone();
    Some((parts, url.origin().ascii_serialization()))
}

/// Redeems the hand-off in the URL, if it has a valid one.
async fn redeem_hand_off(core: &Core, host: &str, original: &Parts) -> Result<Option<HandOff>> {
    let query = original.uri.query().unwrap_or_default();
    let Some(token) = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(ENTER)?.strip_prefix('='))
    else {
        return Ok(None);
    };
    let Some(hand_off) = HandOff::decrypt(&core.key_ring, host, token).filter(HandOff::is_valid) else {
        return Ok(None);
    };
    let first = preview_token_uses::take(&core.store, hand_off.id(), hand_off.expires_at()).await?;
    Ok(first.then_some(hand_off))
}

/// The value of `Authorization` for the terminal's port. The token is valid for nothing else.
async fn terminal_token(core: &Core, ingress_port: &IngressPort) -> Result<HeaderValue> {
    let region = core.regions.get(&ingress_port.region).ok_or_else(|| {
        Error::unavailable(format!(
            "The region {} is not configured on this server.",
            ingress_port.region
        ))
    })?;
    let token = region
        .driver
        .terminal_token(&ingress_port.sandbox.reference())
        .await?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|error| {
        Error::internal("The terminal token is not a valid header value.").with_cause(error)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Redirects a browser that is signed in back to the sandbox's host, with a hand-off
#[utoipa::path(
    get, path = "/api/ingress/enter", tag = "ingress", params(IngressPortQuery), security(()),
    responses(
        (status = 302, description = "To the sandbox's host, or to the sign-in page"),
        (status = 404, description = "There is no such sandbox, or the user has no role in its project"),
    ),
)]
async fn enter(
    State(core): State<Core>,
    caller: Option<Caller>,
    headers: HeaderMap,
    Query(query): Query<IngressPortQuery>,
) -> Response {
    let Some((caller, session)) = handoff::in_session(caller) else {
        let next = format!(
            "/api/ingress/enter?sandbox={}&port={}&rd={}",
            query.sandbox,
            query.port,
            utf8_percent_encode(&query.rd, NON_ALPHANUMERIC)
        );
        return handoff::redirect_to_sign_in(&core, &next);
    };
    match find(&core, &query).await {
        Err(error) => error.into_response(),
        Ok(Some(ingress_port)) if ingress_port.route.people.contains_key(&caller.user()) => {
            let hand_off = HandOff::new(ingress_port.route.project, caller.user(), session, "-", "/");
            let token = hand_off.encrypt(&core.key_ring, &ingress_port.endpoint.host);
            let url = return_url(&ingress_port.endpoint, &query.rd, token.expose_secret());
            error_page::redirect(url.as_str())
        }
        Ok(_) => ErrorPage::not_found().response(&headers),
    }
}

/// The URL to return to, with the hand-off: the requested one if it is on exactly this host, else `/`.
fn return_url(endpoint: &ExternalEndpoint, requested: &str, token: &str) -> Url {
    let scheme = if endpoint.secure { "https" } else { "http" };
    let home = || {
        Url::parse(&format!("{scheme}://{}/", endpoint.host))
            .expect("the API server validated the ingress's host name")
    };
    let mut url = Url::parse(requested)
        .ok()
        .filter(|url| {
            url.host_str()
                .is_some_and(|host| host.eq_ignore_ascii_case(&endpoint.host))
                && (url.scheme() == scheme || (!endpoint.secure && url.scheme() == "https"))
                && url.username().is_empty()
                && url.password().is_none()
                && url.as_str().len() <= preview_token::MAX_PATH_BYTES
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
async fn find(core: &Core, query: &IngressPortQuery) -> Result<Option<IngressPort>> {
    let Some(preview) = previews::by_sandbox(&core.store, query.sandbox, query.port).await? else {
        return Ok(None);
    };
    let Some(sandbox) = preview.sandbox else {
        return Ok(None);
    };
    let endpoint = core
        .regions
        .get(&preview.region)
        .and_then(|region| region.driver.external_endpoint(&sandbox.reference(), query.port));
    let Some(endpoint) = endpoint else { return Ok(None) };
    Ok(Some(IngressPort {
        route: Route {
            access: preview.access,
            target: Target::None,
        },
        sandbox,
        region: preview.region,
        endpoint,
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
    fn a_browser_returns_to_the_sandboxs_own_host_only() {
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
            let url = return_url(&external_endpoint(true), foreign, "T");
            assert_eq!(
                url.as_str(),
                "https://notes-x.apps.example/?fsa_enter=T",
                "{foreign:?}"
            );
        }
        let url = return_url(
            &external_endpoint(true),
            "https://notes-x.apps.example/a?b=c&fsa_enter=OLD#d",
            "T",
        );
        assert_eq!(url.as_str(), "https://notes-x.apps.example/a?b=c&fsa_enter=T");
        let url = return_url(
            &external_endpoint(false),
            "http://notes-x.apps.example:8080/a",
            "T",
        );
        assert_eq!(url.as_str(), "http://notes-x.apps.example:8080/a?fsa_enter=T");
    }
}

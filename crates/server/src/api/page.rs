//! Plain pages of the main host: status and sign-in. They work without a script, except for the link whose
//! token is in the fragment, which only a script can read.
//!
//! If the binary includes the web application, it replaces `/` and `/sign-in`.

use axum::{
    Router,
    extract::State,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, header};

use super::web;
use crate::{
    auth::Caller,
    error::{Error, Result},
    state::App,
};

const SCRIPT: &str = include_str!("page/sign-in.js");
const STYLE: &str = include_str!("page/style.css");

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(status))
        .route("/sign-in", get(sign_in))
        .route("/sign-in.js", get(script))
        .route("/style.css", get(style))
}

async fn status(State(app): State<App>, caller: Option<Caller>, headers: HeaderMap) -> Result<Response> {
    if let Some(page) = web::page(&app, &headers) {
        return Ok(page);
    }
    let user = match &caller {
        Some(caller) => format!(
            "<p>You are signed in as <strong>{}</strong>.</p>\
             <p>Create a project with <code>fsa project create NAME</code>, or with the API.</p>",
            escaped(caller.login())
        ),
        None => "<p>You are not signed in. <a href=\"/sign-in\">Sign in</a> with a password, \
                 or open the link that the server printed when it started.</p>"
            .to_owned(),
    };
    let regions: Vec<_> = app.regions.iter().map(|region| escaped(&region.name)).collect();
    let body = format!(
        "<h1>FullStack Agent</h1><p>Version {}, serving {}.</p>{user}\
         <p><a href=\"/api/openapi.json\">The API</a> · <a href=\"/readyz\">Readiness</a></p>",
        escaped(app.settings.version),
        if regions.is_empty() {
            "no region".to_owned()
        } else {
            regions.join(", ")
        },
    );
    Ok(page("FullStack Agent", &body, false))
}

async fn sign_in(State(app): State<App>, headers: HeaderMap) -> Response {
    if let Some(page) = web::page(&app, &headers) {
        return page;
    }
    let mut body = "<h1>Sign in</h1>\
        <noscript><p>To use a one-time link without JavaScript, add what follows the # in it \
        to <code>/api/auth/link?token=</code>.</p></noscript>\
        <p id=\"message\" role=\"status\"></p>\
        <form id=\"link\" method=\"post\" action=\"/api/auth/link\" hidden>\
          <input type=\"hidden\" name=\"token\">\
          <div id=\"invited\" hidden>\
            <label>Login <input name=\"login\" autocomplete=\"username\" maxlength=\"40\"></label>\
            <label>Password (you may set it later) \
              <input name=\"password\" type=\"password\" autocomplete=\"new-password\"></label>\
          </div>\
          <button>Sign in</button>\
        </form>\
        <form id=\"password\" method=\"post\" action=\"/api/auth/password\">\
          <label>Login <input name=\"login\" autocomplete=\"username\" required></label>\
          <label>Password <input name=\"password\" type=\"password\" autocomplete=\"current-password\" required></label>\
          <button>Sign in</button>\
        </form>"
        .to_owned();
    if app.settings.github.is_some() {
        body.push_str("<form id=\"github\" method=\"post\" action=\"/api/auth/github\"><button>Sign in with GitHub</button></form>");
    }
    page("Sign in", &body, true)
}

/// The form behind a link whose token is in the query. A GET does not use the link up, because mail programs
/// and chats fetch links to preview them.
pub(super) fn link_form(token: &str) -> Response {
    let body = format!(
        "<h1>Sign in</h1><p>This link works once.</p>\
         <form method=\"post\" action=\"/api/auth/link\">\
           <input type=\"hidden\" name=\"token\" value=\"{}\">\
           <label>Login, if this is an invitation <input name=\"login\" autocomplete=\"username\" maxlength=\"40\"></label>\
           <button>Sign in</button>\
         </form>",
        escaped(token)
    );
    page("Sign in", &body, false)
}

/// Redirects a browser to another site. A form response may not be an HTTP redirect there: the content policy
/// for forms (`form-action`) also applies to redirect targets.
pub(super) fn redirect(url: &url::Url) -> Response {
    let url = escaped(url.as_str());
    let body = format!(
        "<meta http-equiv=\"refresh\" content=\"0; url={url}\"><p><a href=\"{url}\">Go on to sign in</a></p>"
    );
    page("Sign in", &body, false)
}

/// Error page for a browser whose external sign-in failed.
pub(super) fn error(error: &Error) -> Response {
    let body = format!(
        "<h1>Not signed in</h1><p>{}</p><p><a href=\"/sign-in\">Sign in</a></p>",
        escaped(error.sentence())
    );
    let mut response = page("Not signed in", &body, false);
    *response.status_mut() = error.status();
    response
}

async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT)
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)
}

fn page(title: &str, body: &str, with_script: bool) -> Response {
    let script = if with_script {
        "<script src=\"/sign-in.js\" defer></script>"
    } else {
        ""
    };
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"/style.css\">{script}</head><body><main>{body}</main></body></html>"
    );
    ([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response()
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_escaped() {
        assert_eq!(
            escaped("<a href=\"x\">&'"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;"
        );
    }
}

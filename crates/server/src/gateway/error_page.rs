//! Error pages of the gateway: its own responses to a visitor, as HTML, JSON or text.

use axum::body::Body;
use chrono::Utc;
use fsa_model::{ErrorBody, ErrorDetails};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

/// Content of one error page.
#[derive(Clone, Debug)]
pub(super) struct Say {
    pub status: StatusCode,
    /// A stable identifier for programs.
    pub name: &'static str,
    /// One short sentence.
    pub sentence: String,
    /// How to fix it.
    pub advice: String,
    /// The page reloads itself after this number of seconds.
    pub again: Option<u8>,
}

impl Say {
    pub(super) fn new(
        status: StatusCode,
        name: &'static str,
        sentence: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            status,
            name,
            sentence: sentence.into(),
            advice: advice.into(),
            again: None,
        }
    }

    pub(super) fn again_after(mut self, seconds: u8) -> Self {
        self.again = Some(seconds);
        self
    }

    /// Not found: the same for a project that does not exist and for one of another user.
    pub(super) fn nothing_here() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "There is nothing at this address.",
            "Check its spelling: project--port, and the owner where two projects have the same name. \
             If it is a private project, sign in as its owner.",
        )
    }

    /// The response, in the form that the request's `headers` accept.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let (kind, body) = match desired_state(headers) {
            Form::Page => ("text/html; charset=utf-8", self.page()),
            Form::Json => ("application/json", self.json()),
            Form::Text => (
                "text/plain; charset=utf-8",
                format!("{}\n{}\n", self.sentence, self.advice),
            ),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Ours);
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        ours(fields);
        if let Some(seconds) = self.again {
            fields.insert(header::RETRY_AFTER, HeaderValue::from(u16::from(seconds)));
        }
        response
    }

    fn json(&self) -> String {
        let body = ErrorBody {
            error: self.sentence.clone(),
            details: ErrorDetails {
                name: self.name.to_owned(),
                message: format!("{} {}", self.sentence, self.advice),
                request_id: None,
                field: None,
                stack: None,
                kubernetes_status: None,
                limit: None,
            },
            project_id: None,
            timestamp: Utc::now(),
        };
        serde_json::to_string(&body).unwrap_or_default()
    }

    fn page(&self) -> String {
        let refresh = self
            .again
            .map(|seconds| format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">"))
            .unwrap_or_default();
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">{refresh}\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>\
             body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:20vh auto;padding:0 1rem;\
             color-scheme:light dark}}h1{{font-size:1.3rem}}p{{opacity:.8}}</style></head>\
             <body><h1>{title}</h1><p>{advice}</p></body></html>\n",
            title = escaped(&self.sentence),
            advice = escaped(&self.advice),
        )
    }
}

/// A redirect within one host, or to the other host of the control plane.
pub(super) fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let target = HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, target);
    ours(response.headers_mut());
    response
}

/// Marks a response of the gateway itself, to distinguish it from an application's.
#[derive(Clone, Copy, Debug)]
struct Ours;

/// Lets the page on the main host frame an error page in its preview pane. Without it the pane would stay empty
/// exactly when there is an error to explain.
pub(super) fn shown_by(origin: &str, response: &mut Response<Body>) {
    if response.extensions_mut().remove::<Ours>().is_none() {
        return;
    }
    let policy = format!("{OWN_POLICY} {origin}");
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// Lets a page of another port of the project read the gateway's answers to its requests, and an application's that
/// is for every page: with credentials, browsers do not take `*`.
pub(super) fn readable_by(origin: &HeaderValue, response: &mut Response<Body>) {
    let ours = response.extensions().get::<Ours>().is_some();
    let fields = response.headers_mut();
    let for_everybody = fields
        .get(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        .is_some_and(|allowed| allowed == "*");
    if ours || for_everybody {
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        fields.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        fields.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// Answers a preflight of a page of another port of the project: the application decides about the request itself.
pub(super) fn preflight(origin: &HeaderValue, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    fields.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    for (request, answer) in [
        (
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_ALLOW_METHODS,
        ),
        (
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ),
    ] {
        if let Some(value) = asked.get(&request) {
            fields.insert(answer, value.clone());
        }
        fields.append(header::VARY, HeaderValue::from(request));
    }
    fields.append(header::VARY, HeaderValue::from_static("Origin"));
    response
}

/// Ends with the `frame-ancestors` directive, so that [`shown_by`] can extend it.
const OWN_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'";

/// Sets the headers of every response of the gateway on an apps host: it is not shared or cached, contains no
/// script, and its URL (which may contain a token) is never sent as a referrer.
pub(super) fn ours(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(OWN_POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// Whether the request loads a page in a browser, rather than comes from a program.
pub(super) fn is_navigation(method: &http::Method, headers: &HeaderMap) -> bool {
    if *method != http::Method::GET || headers.contains_key(header::UPGRADE) {
        return false;
    }
    match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => matches!(desired_state(headers), Form::Page),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Page,
    Json,
    Text,
}

/// The first supported form that `Accept` names; browsers name HTML first.
fn desired_state(headers: &HeaderMap) -> Form {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|range| match range.split(';').next().unwrap_or_default().trim() {
            "text/html" | "application/xhtml+xml" => Some(Form::Page),
            "application/json" => Some(Form::Json),
            "text/plain" => Some(Form::Text),
            _ => None,
        })
        .unwrap_or(Form::Text)
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn the_answer_has_the_form_that_was_asked_for() {
        for (accept, kind) in [
            (
                "text/html,application/xhtml+xml,*/*;q=0.8",
                "text/html; charset=utf-8",
            ),
            ("application/json", "application/json"),
            ("application/json, text/html", "application/json"),
            ("*/*", "text/plain; charset=utf-8"),
        ] {
            let answer = Say::nothing_here().answer(&accepting(accept));
            assert_eq!(answer.headers()[header::CONTENT_TYPE], kind, "{accept}");
            assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
        }
    }

    #[test]
    fn the_page_may_frame_what_the_gateway_says_and_nothing_is_changed_of_what_an_application_says() {
        let mut said = Say::nothing_here().answer(&accepting("text/html"));
        shown_by("https://fsa.test", &mut said);
        let policy = said.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.ends_with("frame-ancestors 'self' https://fsa.test"),
            "{policy}"
        );

        let mut passed_on = Response::new(Body::empty());
        ours(passed_on.headers_mut());
        shown_by("https://fsa.test", &mut passed_on);
        assert_eq!(passed_on.headers()[header::CONTENT_SECURITY_POLICY], OWN_POLICY);
    }

    #[test]
    fn what_a_sandbox_says_cannot_become_part_of_the_page() {
        let say = Say::new(StatusCode::OK, "X", "<script>\"'&", "");
        assert!(say.page().contains("&lt;script&gt;&quot;&#39;&amp;"));
    }

    #[test]
    fn a_page_load_is_told_from_a_programs_request() {
        let browser = accepting("text/html,*/*");
        assert!(is_navigation(&http::Method::GET, &browser));
        assert!(!is_navigation(&http::Method::POST, &browser));
        let mut fetch = browser.clone();
        fetch.insert("sec-fetch-mode", HeaderValue::from_static("cors"));
        assert!(!is_navigation(&http::Method::GET, &fetch));
        assert!(!is_navigation(&http::Method::GET, &accepting("*/*")));
    }
}

//! API document (OpenAPI 3.1), generated from the code.

use axum::{Router, routing::get};
use bytes::Bytes;
use http::header;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, OpenApi as Document, Ref, ResponseBuilder,
        path::Operation,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::state::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "FullStack Agent",
        description = "Projects with a sandbox, a database and URLs. `{project}` is an id or the name of one of your own projects."
    ),
    modifiers(&Security),
    security(("token" = []), ("session" = []))
)]
struct Frame;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API token, which begins with fsa_"))
            .build();
        components.add_security_scheme("token", SecurityScheme::Http(token));
        let session = ApiKeyValue::with_description(
            "fsa_session",
            "A browser's session; writes are accepted from the server's own pages only",
        );
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(session)));
    }
}

/// The document without paths.
pub(super) fn frame() -> Document {
    Frame::openapi()
}

/// The whole document.
#[must_use]
pub fn document() -> Document {
    named(super::routes().into_openapi())
}

/// Names each operation after its tag and its function, which makes the names unique, and adds what all
/// operations have in common.
fn named(mut document: Document) -> Document {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            let tag = operation.tags.as_ref().and_then(|tags| tags.first());
            if let (Some(tag), Some(name)) = (tag, &operation.operation_id) {
                operation.operation_id = Some(format!("{tag}_{name}"));
            }
            refusals(path, operation);
        }
    }
    document
}

/// Adds the errors that any operation may return before its handler runs, unless the operation declares them.
fn refusals(path: &str, operation: &mut Operation) {
    let mut may_refuse = |status: &str, why: &str| {
        let error = Content::new(Some(Ref::from_schema_name("ErrorBody")));
        let answer = ResponseBuilder::new()
            .description(why)
            .content("application/json", error)
            .build();
        let answers = &mut operation.responses.responses;
        answers.entry(status.to_owned()).or_insert_with(|| answer.into());
    };
    may_refuse("400", "a part of the request cannot be parsed");
    may_refuse("401", "the request is not authenticated");
    may_refuse("403", "the caller may not do this");
    may_refuse("422", "a field of the request is invalid");
    may_refuse("429", "too many requests");
    if path.contains("{project}") {
        may_refuse("404", "the project, or an object in it, does not exist");
        may_refuse(
            "409",
            "several projects have this name, or the state of the sandbox does not allow it",
        );
    }
    if operation.request_body.is_some() {
        may_refuse("413", "the body is too long");
        may_refuse("415", "the content type is not supported");
    }
}

/// The route of the document, which is rendered once.
pub(super) fn routes(document: Document) -> Router<App> {
    let text = Bytes::from(
        named(document)
            .to_pretty_json()
            .expect("the document is made of plain values"),
    );
    Router::new().route(
        "/api/openapi.json",
        get(move || async move { ([(header::CONTENT_TYPE, "application/json")], text) }),
    )
}

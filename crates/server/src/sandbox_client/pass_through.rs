//! Pass-through of sandboxd's responses: streams their bodies to the client.

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use fsa_sandboxd_client::ResponseBody;
use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue, Method, header};

/// Forwards the status, the header fields in `fields`, and the body.
pub(crate) fn pass_through(response: http::Response<ResponseBody>, fields: &[HeaderName]) -> Response {
    let (parts, body) = response.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    for name in fields {
        if let Some(value) = parts.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    // Content from a sandbox must not run under the main host's origin.
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'"),
    );
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Turns the response to `method` with a JSON array, `[…]`, into one with a list of the API, `{"items":[…]}`.
pub(crate) fn as_items(method: &Method, response: Response) -> Response {
    const BEFORE: &str = "{\"items\":";
    const AFTER: &str = "}";
    let (mut parts, body) = response.into_parts();
    let length = parts.headers.get(header::CONTENT_LENGTH);
    if let Some(length) = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok()) {
        let length = HeaderValue::from(length.saturating_add(BEFORE.len() + AFTER.len()));
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    if *method == Method::HEAD {
        return Response::from_parts(parts, body);
    }
    let text = |text: &'static str| stream::iter([Ok(Bytes::from_static(text.as_bytes()))]);
    let body = text(BEFORE).chain(body.into_data_stream()).chain(text(AFTER));
    Response::from_parts(parts, Body::from_stream(body))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn an_array_becomes_the_items_of_a_list() {
        for (method, expected) in [(Method::GET, "{\"items\":[1,2]}"), (Method::HEAD, "")] {
            let sent = if method == Method::HEAD { "" } else { "[1,2]" };
            let response = Response::builder()
                .header(header::CONTENT_LENGTH, 5)
                .body(Body::from(sent))
                .unwrap();
            let response = as_items(&method, response);
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "15");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected, "{method}");
        }
    }
}

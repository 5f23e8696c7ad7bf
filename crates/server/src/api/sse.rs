//! Server-sent events and pagination, shared by events, log lines and steps of tasks: each is read as a page of
//! JSON, or followed as a stream.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse as _, Response, Sse,
    sse::{Event as Message, KeepAlive},
};
use fsa_model::api::Page;
use futures_util::Stream;
use http::HeaderValue;

/// Interval of the comment that keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A response that streams messages as they arrive.
pub(super) fn stream(messages: impl Stream<Item = Result<Message, Infallible>> + Send + 'static) -> Response {
    let mut response = Sse::new(messages)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    // Without it, nginx would buffer them.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A page of at max `max` of the items found. One more item means that there is a next page, which begins
/// after the `cursor` of this page's last item.
pub(super) fn page<T>(mut items: Vec<T>, max: usize, cursor: impl Fn(&T) -> String) -> Page<T> {
    let more = items.len() > max;
    items.truncate(max);
    let next_cursor = items.last().filter(|_| more).map(cursor);
    Page { items, next_cursor }
}

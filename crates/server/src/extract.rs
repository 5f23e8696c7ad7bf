//! Extractors and the JSON response of handlers. A rejection names the field and the rule.

use std::{str::FromStr, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{FromRef, FromRequest, FromRequestParts, MatchedPath, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Request, StatusCode, header, request::Parts};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    core::Core,
    error::{Error, Result},
};

/// Maximum bytes of JSON in a request without authentication: a sign-in.
const UNAUTHENTICATED_LIMIT: usize = 64 * 1024;
/// Timeout for receiving that body.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body, of a request or a response.
pub struct Json<T>(pub T);

/// Like [`Json`]; a missing body means the default.
pub struct OptionalJson<T>(pub T);

/// Values from the path.
pub struct Path<T>(pub T);

/// Values from the query; unknown names are rejected if the type rejects them.
pub struct Query<T>(pub T);

/// The position after which an interrupted stream resumes: the `Last-Event-ID` that a browser sends back
/// (WHATWG HTML, "Server-sent events"). `meaning` names the expected value.
///
/// # Errors
/// 400 if it cannot be parsed.
pub(crate) fn last_event_id<T: FromStr>(headers: &HeaderMap, meaning: &str) -> Result<Option<T>> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(|id| id.trim().parse().ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::bad_request(format!("Last-Event-ID is not the {meaning}."))),
    }
}

impl<S, T: DeserializeOwned> FromRequest<S> for Json<T>
where
    Core: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request(request: Request<Body>, state: &S) -> Result<Self> {
        if !is_json(request.headers()) {
            return Err(not_json());
        }
        let bytes = json_body(request, &Core::from_ref(state)).await?;
        parse(&bytes).map(Self)
    }
}

impl<S, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T>
where
    Core: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request(request: Request<Body>, state: &S) -> Result<Self> {
        let json = is_json(request.headers());
        let bytes = json_body(request, &Core::from_ref(state)).await?;
        match bytes.is_empty() {
            true => Ok(Self(T::default())),
            false if json => parse(&bytes).map(Self),
            false => Err(not_json()),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        // PostgreSQL accepts no NUL in text, so nothing has such a name.
        if parts.uri.path().contains("%00") {
            return Err(Error::not_found("thing"));
        }
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(values)) => Ok(Self(values)),
            // An invalid id cannot exist.
            Err(PathRejection::FailedToDeserializePathParams(_)) => Err(Error::not_found("thing")),
            Err(error) => Err(Error::internal("This path cannot be read.").with_cause(error)),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Parses a query.
///
/// # Errors
/// 422 with the field and its rule.
pub fn query<T: DeserializeOwned>(query: &str) -> Result<T> {
    let pairs = || url::form_urlencoded::parse(query.as_bytes());
    // PostgreSQL accepts no NUL in text.
    if let Some((name, _)) = pairs().find(|(_, value)| value.contains('\0')) {
        return Err(Error::invalid(name, "it must not have a NUL character"));
    }
    let values = serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(
        pairs().map(|(name, value)| (name.into_owned(), QueryValue(value.into_owned()))),
    );
    serde_path_to_error::deserialize(values)
        .map_err(|error| Error::invalid(field_of(&error), error.inner().to_string()))
}

/// A value of a query: text that is parsed as the expected type.
struct QueryValue(String);

macro_rules! read_as {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            match self.0.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(serde::de::Error::invalid_value(serde::de::Unexpected::Str(&self.0), &visitor)),
            }
        }
    )*};
}

impl<'de> serde::Deserializer<'de> for QueryValue {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_bool<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0.as_str() {
            "" | "true" | "1" => visitor.visit_bool(true),
            "false" | "0" => visitor.visit_bool(false),
            other => Err(serde::de::Error::invalid_value(
                serde::de::Unexpected::Str(other),
                &"true or false",
            )),
        }
    }

    fn deserialize_enum<V: serde::de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(serde::de::IntoDeserializer::<Self::Error>::into_deserializer(
            self.0,
        ))
    }

    fn deserialize_newtype_struct<V: serde::de::Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    read_as!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64, deserialize_f64 visit_f64 f64
    );

    serde::forward_to_deserialize_any! {
        f32 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any i128 u128
    }
}

impl<'de> serde::de::IntoDeserializer<'de, serde::de::value::Error> for QueryValue {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Parses JSON and names the field that is wrong.
///
/// # Errors
/// 400 if it is not JSON; otherwise 422 with the field and its rule.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let message = error.inner();
        match message.classify() {
            serde_json::error::Category::Data => {
                let (path, rule) = (
                    field_of(&error),
                    without_value(&without_position(&message.to_string())),
                );
                Error::invalid(path, rule)
            }
            _ => Error::bad_request(format!("The body is not valid JSON: {message}.")),
        }
    })?;
    json.end()
        .map_err(|error| Error::bad_request(format!("The body is not valid JSON: {error}.")))?;
    Ok(value)
}

/// A rule without the value that broke it, which may be a misplaced secret:
/// `invalid type: string "…", expected a sequence`.
fn without_value(rule: &str) -> String {
    let value = rule.split_once("string \"").and_then(|(before, rest)| {
        let (_, after) = rest.rsplit_once("\", expected")?;
        Some(format!("{before}string, expected{after}"))
    });
    value.unwrap_or_else(|| rule.to_owned())
}

/// The field that an error is about. serde reports an unknown or a missing field at its parent and names it
/// between backticks.
fn field_of<E: std::fmt::Display>(error: &serde_path_to_error::Error<E>) -> String {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|kind| message.strip_prefix(kind)?.split_once('`'))
        .map(|(name, _)| name);
    match (path.as_str(), named) {
        ("." | "", Some(name)) => name.to_owned(),
        (path, Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        ("." | "", None) => "body".to_owned(),
        (path, _) => path.to_owned(),
    }
}

/// serde_json's message without " at line 1 column 2".
fn without_position(message: &str) -> String {
    message
        .rsplit_once(" at line ")
        .map_or(message, |(rule, _)| rule)
        .to_owned()
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| {
            let kind = kind.trim().to_ascii_lowercase();
            kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
        })
}

fn not_json() -> Error {
    Error::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "UnsupportedMediaType",
        "The body must be JSON, with the header Content-Type: application/json.",
    )
}

/// Reads a whole JSON body.
async fn json_body(request: Request<Body>, core: &Core) -> Result<bytes::Bytes> {
    let route = request.extensions().get::<MatchedPath>();
    let unauthenticated = route.is_some_and(|route| route.as_str().starts_with("/api/auth/"));
    let limit = core.settings.limits.body;
    read(
        request,
        if unauthenticated {
            limit.min(UNAUTHENTICATED_LIMIT)
        } else {
            limit
        },
    )
    .await
}

/// Reads a whole short body.
///
/// # Errors
/// 413 if it is longer than `limit` bytes; 408 on a timeout; 400 if it is incomplete.
pub(crate) async fn read(request: Request<Body>, limit: usize) -> Result<bytes::Bytes> {
    let body = tokio::time::timeout(TIMEOUT, to_bytes(request.into_body(), limit))
        .await
        .map_err(|_| {
            Error::new(
                StatusCode::REQUEST_TIMEOUT,
                "Timeout",
                "The body of the request did not arrive in time.",
            )
        })?;
    body.map_err(|error| {
        if std::error::Error::source(&error).is_some_and(|e| e.is::<http_body_util::LengthLimitError>()) {
            Error::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "TooLarge",
                format!("The body is longer than {limit} bytes."),
            )
        } else {
            Error::bad_request("The body is incomplete.").with_cause(error)
        }
    })
}

#[cfg(test)]
mod tests {
    use fsa_model::api::{ChangeEnvironment, CreateProject};

    use super::*;

    #[test]
    fn invalid_fields_are_named() {
        for (body, field) in [
            (r#"{"name":"a","nome":1}"#, "nome"),
            (r"{}", "name"),
            (r#"{"name":1}"#, "name"),
            (r#"{"name":"a","envVars":{"A":1}}"#, "envVars.A"),
            (r#"{"name":"a","size":"huge"}"#, "size"),
            (r"[]", "body"),
        ] {
            let error = parse::<CreateProject>(body.as_bytes()).unwrap_err();
            assert_eq!(error.status().as_u16(), 422, "{body}: {error}");
            assert_eq!(error.field().unwrap().name, field, "{body}: {error}");
        }
    }

    #[test]
    fn rejected_values_are_not_quoted() {
        for body in [
            r#"{"name":"a","envVars":"A=hush, \"hush"}"#,
            r#"{"name":"a","start":"hush"}"#,
        ] {
            let error = parse::<CreateProject>(body.as_bytes()).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
            assert!(error.to_string().contains("string, expected"), "{error}");
        }
    }

    #[test]
    fn invalid_json_is_a_bad_request() {
        for body in ["", "{", "{}x", "nonsense"] {
            let error = parse::<ChangeEnvironment>(body.as_bytes()).err().unwrap();
            assert_eq!(error.status().as_u16(), 400, "{body}");
        }
    }
}

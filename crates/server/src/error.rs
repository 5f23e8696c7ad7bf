//! Error type of the control plane: a public part (status, sentence, field) for people and programs, and an
//! internal part (the chain of causes) for the log only.

use std::{borrow::Cow, fmt, time::Duration};

use fsa_driver::DriverError;
use fsa_model::{FailureKind, Field, ProjectId, limits::ExceededLimit};
use http::StatusCode;

/// Result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation failed.
pub struct Error(Box<Inner>);

struct Inner {
    status: StatusCode,
    name: &'static str,
    sentence: Cow<'static, str>,
    message: Option<String>,
    field: Option<Field>,
    project: Option<ProjectId>,
    kubernetes_status: Option<String>,
    limit: Option<ExceededLimit>,
    retry_after: Option<Duration>,
    cause: Option<Cause>,
}

impl Error {
    /// An error of any status. `name` is the stable identifier for programs; `sentence` is one short sentence
    /// for people, without secrets and without causes.
    #[must_use]
    pub fn new(status: StatusCode, name: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            status,
            name,
            sentence: sentence.into(),
            message: None,
            field: None,
            project: None,
            kubernetes_status: None,
            limit: None,
            retry_after: None,
            cause: None,
        }))
    }

    /// 400: the request as a whole is invalid.
    #[must_use]
    pub fn bad_request(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", sentence)
    }

    /// 422: a field of the request breaks its rule.
    #[must_use]
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        let (name, rule) = (field.into(), rule.into());
        let mut error = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "InvalidField",
            format!("The field {name} was refused: {rule}"),
        );
        error.0.field = Some(Field {
            name,
            rule,
            suggestion: None,
        });
        error
    }

    /// 401: the caller is not authenticated.
    #[must_use]
    pub fn unauthorized(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", sentence)
    }

    /// 403: the caller may not do this.
    #[must_use]
    pub fn forbidden(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", sentence)
    }

    /// 404: it does not exist, or belongs to another user. `what` is a noun: `project`.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("There is no such {what}."),
        )
    }

    /// 409: the request conflicts with the current state.
    #[must_use]
    pub fn conflict(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", sentence)
    }

    /// 403: a quota is exceeded.
    #[must_use]
    pub fn over_limit(over: ExceededLimit) -> Self {
        let mut error = Self::new(StatusCode::FORBIDDEN, "OverLimit", over.message());
        error.0.limit = Some(over);
        error
    }

    /// 429: too many requests; `after` is the time until the next attempt may succeed.
    #[must_use]
    pub fn too_often(sentence: impl Into<Cow<'static, str>>, after: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", sentence);
        error.0.retry_after = Some(after);
        error
    }

    /// 429: a rate limit per minute is exceeded; `after` is the time until the next attempt may succeed.
    #[must_use]
    pub fn over_rate(over: ExceededLimit, after: Duration) -> Self {
        let mut error = Self::too_often(over.message(), after);
        error.0.limit = Some(over);
        error
    }

    /// 503: a dependency does not respond; a retry may help.
    #[must_use]
    pub fn unavailable(sentence: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", sentence);
        error.0.retry_after = Some(Duration::from_secs(1));
        error
    }

    /// 500: a defect of this program, or of a dependency.
    #[must_use]
    pub fn internal(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", sentence)
    }

    /// What failed, why and how to fix it, if one sentence is too short for that.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The project concerned; only if the caller may know of it.
    #[must_use]
    pub fn with_project(mut self, project: ProjectId) -> Self {
        self.0.project = Some(project);
        self
    }

    /// An acceptable value for the rejected field.
    #[must_use]
    pub fn with_suggestion(mut self, suggestion: Option<impl Into<String>>) -> Self {
        if let Some(field) = &mut self.0.field {
            field.suggestion = suggestion.map(Into::into);
        }
        self
    }

    /// Another status for the same error.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.0.sentence
    }

    #[must_use]
    pub fn message(&self) -> &str {
        self.0.message.as_deref().unwrap_or(&self.0.sentence)
    }

    #[must_use]
    pub fn field(&self) -> Option<&Field> {
        self.0.field.as_ref()
    }

    #[must_use]
    pub fn project(&self) -> Option<ProjectId> {
        self.0.project
    }

    #[must_use]
    pub fn kubernetes_status(&self) -> Option<&str> {
        self.0.kubernetes_status.as_deref()
    }

    #[must_use]
    pub fn limit(&self) -> Option<&ExceededLimit> {
        self.0.limit.as_ref()
    }

    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The chain of causes, outermost first; empty where there is none.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let first = self
            .0
            .cause
            .as_deref()
            .map(|cause| cause as &dyn std::error::Error);
        std::iter::successors(first, |cause| cause.source())
            .map(ToString::to_string)
            .collect()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("status", &self.0.status)
            .field("name", &self.0.name)
            .field("sentence", &self.0.sentence)
            .field("message", &self.0.message)
            .field("field", &self.0.field)
            .field("causes", &self.causes())
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let unreachable = matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_)
        ) || error.as_database_error().is_some_and(|e| {
            // PostgreSQL, appendix A: 57P = operator intervention (shutting down, starting up),
            // 53 = insufficient resources, 08 = connection exception.
            e.code()
                .is_some_and(|code| ["57P", "53", "08"].iter().any(|class| code.starts_with(class)))
        });
        let code = error.as_database_error().and_then(|e| e.code());
        // PostgreSQL accepts no NUL in text (22021) or in JSON (22P05).
        if matches!(code.as_deref(), Some("22021" | "22P05")) {
            return Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "InvalidInput",
                "A text of the request has a NUL character, which cannot be stored.",
            )
            .with_cause(error);
        }
        if code.as_deref() == Some("53100") {
            Self::unavailable("The disk of the control database is full; free some space in the data folder.")
                .with_cause(error)
        } else if unreachable {
            Self::unavailable("The control database does not answer.").with_cause(error)
        } else {
            Self::internal("The control plane failed internally.").with_cause(error)
        }
    }
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        let sentence = error.failure.message.clone();
        let mut public = match error.failure.kind {
            FailureKind::Input => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "InvalidInput", sentence),
            FailureKind::Machine => Self::new(StatusCode::SERVICE_UNAVAILABLE, "MachineFailure", sentence),
            FailureKind::Transient => Self::unavailable(sentence),
            FailureKind::Internal => Self::internal(sentence),
        };
        public
            .0
            .kubernetes_status
            .clone_from(&error.failure.kubernetes_status);
        public.0.cause = error.cause.map(|cause| cause as Cause);
        public
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal("A stored value cannot be parsed.").with_cause(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_messages_do_not_contain_causes() {
        let cause = std::io::Error::other("connection refused to 10.0.0.1");
        let error = Error::from(sqlx::Error::Io(cause));
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!error.to_string().contains("10.0.0.1"));
        assert!(error.causes().iter().any(|cause| cause.contains("10.0.0.1")));
    }

    #[test]
    fn the_failure_kind_decides_the_status() {
        for (kind, status) in [
            (FailureKind::Input, 422),
            (FailureKind::Machine, 503),
            (FailureKind::Transient, 503),
            (FailureKind::Internal, 500),
        ] {
            let error = Error::from(DriverError::new(kind, "x"));
            assert_eq!(error.status().as_u16(), status, "{kind:?}");
        }
    }
}

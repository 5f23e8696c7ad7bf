//! `Prefer: wait=N` (RFC 7240, 4.3): lets a client wait for the result instead of polling.

use std::time::Duration;

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use tokio::time::Instant;

use crate::{
    auth::Caller,
    error::Result,
    projects::lifecycle::{self, WaitOutcome},
    state::App,
    store::projects::Overview,
};

/// The longest wait, in seconds; intermediaries time out quiet requests a little later.
const MAX_SECONDS: u64 = 60;
const PREFER: &str = "prefer";
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How long the client waits, if it sent the preference.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    seconds: Option<u64>,
    requested_at: DateTime<Utc>,
}

impl FromRequestParts<App> for Wait {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self {
            seconds: wait_seconds(&parts.headers),
            requested_at: Utc::now(),
        })
    }
}

fn wait_seconds(headers: &HeaderMap) -> Option<u64> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split([',', ';']))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse::<u64>().ok())
        .map(|seconds| seconds.min(MAX_SECONDS))
}

impl Wait {
    /// Responds to a lifecycle action: immediately with 202, or, if the client waits, when the desired state is
    /// reached.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn answer(
        self,
        app: &App,
        caller: &Caller,
        overview: Overview,
        body: impl Fn(&Overview) -> Result<Response>,
    ) -> Result<Response> {
        let outcome = self.wait(app, caller, overview).await?;
        let status = outcome.status();
        let mut response = match &outcome {
            WaitOutcome::Settled(overview) | WaitOutcome::Pending(overview) => body(overview)?,
            WaitOutcome::Gone => ().into_response(),
        };
        *response.status_mut() = status;
        self.add_header(response.headers_mut());
        Ok(response)
    }

    /// The client's limit for a wait; the longest possible without the preference.
    #[must_use]
    pub fn limit(self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(MAX_SECONDS))
    }

    /// Waits for the desired state, up to the client's limit.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn wait(self, app: &App, caller: &Caller, overview: Overview) -> Result<WaitOutcome> {
        let Some(seconds) = self.seconds else {
            return Ok(WaitOutcome::Pending(overview));
        };
        let deadline = Instant::now() + Duration::from_secs(seconds);
        lifecycle::wait_until_settled(app, caller, &overview.branch, self.requested_at, deadline).await
    }

    /// Until when the client waits, if it does.
    #[must_use]
    pub fn deadline(self) -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(self.seconds?))
    }

    /// Adds the response header for an applied preference.
    pub fn add_header(self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.seconds
            && let Ok(value) = HeaderValue::try_from(format!("wait={seconds}"))
        {
            headers.insert(APPLIED, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_preference_is_parsed_and_bounded() {
        for (value, seconds) in [
            ("wait=30", Some(30)),
            ("respond-async, WAIT=\"5\"", Some(5)),
            ("wait=100000", Some(60)),
            ("wait=-1", None),
            ("wait", None),
            ("return=minimal", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(PREFER, HeaderValue::from_static(value));
            assert_eq!(wait_seconds(&headers), seconds, "{value}");
        }
    }
}

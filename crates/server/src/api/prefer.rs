//! `Prefer: wait=N` (RFC 7240, 4.3): lets a client wait for the result instead of polling.

use std::time::Duration;

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use fsa_model::ProjectId;
use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use tokio::time::Instant;

use crate::{
    auth::Caller,
    error::Result,
    projects::lifecycle::{self, Outcome},
    state::App,
    store::projects::Overview,
};

/// The longest wait, in seconds; intermediaries time out quiet requests a little later.
const LONGEST: u64 = 60;
const PREFER: &str = "prefer";
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How long the client waits, if it sent the preference.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    seconds: Option<u64>,
    asked_at: DateTime<Utc>,
}

impl FromRequestParts<App> for Wait {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self {
            seconds: desired_state(&parts.headers),
            asked_at: Utc::now(),
        })
    }
}

fn desired_state(headers: &HeaderMap) -> Option<u64> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split([',', ';']))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse::<u64>().ok())
        .map(|seconds| seconds.min(LONGEST))
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
        wished: Overview,
        body: impl Fn(&Overview) -> Result<Response>,
    ) -> Result<Response> {
        let outcome = self.settled(app, caller, wished).await?;
        let status = outcome.status();
        let mut response = match &outcome {
            Outcome::Settled(overview) | Outcome::Pending(overview) => body(overview)?,
            Outcome::Gone => ().into_response(),
        };
        *response.status_mut() = status;
        self.say(response.headers_mut());
        Ok(response)
    }

    /// Waits for the desired state, up to the client's limit.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn settled(self, app: &App, caller: &Caller, wished: Overview) -> Result<Outcome> {
        let Some(seconds) = self.seconds else {
            return Ok(Outcome::Pending(wished));
        };
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let project: ProjectId = wished.project.id;
        lifecycle::settled(app, caller, project, self.asked_at, deadline).await
    }

    /// Adds the response header for an applied preference.
    pub fn say(self, headers: &mut HeaderMap) {
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
    fn a_preference_is_found_among_others_and_has_a_bound() {
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
            assert_eq!(desired_state(&headers), seconds, "{value}");
        }
    }
}

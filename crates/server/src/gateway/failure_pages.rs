//! Texts of the gateway's error pages, by failure.

use fsa_model::Phase;
use http::StatusCode;

use super::{
    error_page::ErrorPage, headers::Malformed, proxy::ProxyError, routes::Target, upstream::Unreachable,
};
use crate::error::Error;

/// The request names no host, or two.
pub(super) fn ambiguous_host() -> ErrorPage {
    ErrorPage::new(
        StatusCode::BAD_REQUEST,
        "BadRequest",
        "The host of the request is missing or ambiguous.",
        "Send exactly one Host field.",
    )
}

/// A page of another project sent the request.
pub(super) fn cross_project() -> ErrorPage {
    ErrorPage::new(
        StatusCode::FORBIDDEN,
        "Foreign",
        "The request came from a page of another site.",
        "It was refused, because this address is private. Open the address itself, or share the port.",
    )
}

/// The route or the caller could not be looked up.
pub(super) fn lookup_failed(error: &Error) -> ErrorPage {
    tracing::warn!(%error, "a host name could not be looked up");
    ErrorPage::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "Unavailable",
        "This address cannot be looked up at the moment.",
        "The server's database does not answer. Try again in a moment.",
    )
    .retry_after(2)
}

pub(super) fn malformed_request(malformed: Malformed) -> ErrorPage {
    match malformed {
        Malformed::TransferCoding => ErrorPage::new(
            StatusCode::NOT_IMPLEMENTED,
            "TransferCoding",
            "The request's transfer coding is not supported.",
            "Use chunked, or a Content-Length.",
        ),
        Malformed::UpgradeWithBody => ErrorPage::new(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            "A request for an upgrade must not have a body.",
            "Send it without one.",
        ),
    }
}

/// The sandbox does not run.
pub(super) fn not_running(target: &Target) -> ErrorPage {
    let page = |title: &str, advice: &str| {
        ErrorPage::new(StatusCode::SERVICE_UNAVAILABLE, "NotRunning", title, advice)
    };
    let Target::Closed { phase, failure } = target else {
        return page(
            "This project has no sandbox.",
            "Start the project, then open this page again.",
        );
    };
    match phase {
        Phase::Creating | Phase::Starting | Phase::Updating | Phase::Running => {
            page("The sandbox is starting.", "This page reloads by itself.").retry_after(1)
        }
        Phase::Stopping | Phase::Stopped => page(
            "The sandbox is stopped.",
            "Start the project, then open this page again.",
        ),
        Phase::Terminating | Phase::Terminated => page(
            "The sandbox was terminated.",
            "Start the project to create a new sandbox, then open this page again.",
        ),
        Phase::Error => {
            let reason = failure
                .as_deref()
                .unwrap_or("The project's page shows the reason.");
            page(
                "The sandbox could not be started yet.",
                &format!("{reason} The start is retried."),
            )
            .retry_after(5)
        }
    }
}

/// There is no response of the application.
pub(super) fn proxy_failed(failure: &ProxyError, port: u16) -> ErrorPage {
    let bad_gateway =
        |name, title: String, advice: &str| ErrorPage::new(StatusCode::BAD_GATEWAY, name, title, advice);
    match failure {
        ProxyError::Unreachable(Unreachable::Driver(error)) => {
            tracing::debug!(%error, "no connection into a sandbox");
            bad_gateway(
                "NothingListens",
                format!("No process listens on port {port} of this sandbox yet."),
                "Start your application on this port. It may listen on any address of the sandbox, including \
                 127.0.0.1. If it is starting, wait a moment and try again.",
            )
            .retry_after(2)
        }
        ProxyError::Unreachable(Unreachable::Timeout) => bad_gateway(
            "Unreachable",
            "The sandbox does not answer.".into(),
            "If this lasts, restart the sandbox.",
        ),
        ProxyError::Unreachable(Unreachable::Protocol(error)) | ProxyError::Broken(error) => {
            tracing::debug!(%error, "an application sent no HTTP response");
            bad_gateway(
                "BrokenAnswer",
                format!("The application on port {port} closed the connection without an HTTP response."),
                "It may have crashed, or it does not speak HTTP/1.1. Check its logs.",
            )
        }
        ProxyError::TlsDetected => bad_gateway(
            "SpeaksHttps",
            format!("The application on port {port} speaks HTTPS, which this request did not use yet."),
            "Send the request again. From now on, requests to this port use HTTPS.",
        )
        .retry_after(1),
        ProxyError::UnrequestedUpgrade => bad_gateway(
            "BrokenAnswer",
            format!("The application on port {port} switched protocols without a request to do so."),
            "Check its logs.",
        ),
        ProxyError::Timeout => ErrorPage::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Silent",
            format!("The application on port {port} did not respond in time."),
            "Check its logs.",
        ),
        ProxyError::Busy => ErrorPage::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Busy",
            format!("Too many requests to port {port} are in flight."),
            "Try again in a moment.",
        )
        .retry_after(1),
    }
}

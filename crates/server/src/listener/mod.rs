//! Listener of the server: accepts connections, routes each request to the main host or the gateway, and drains
//! on shutdown.

mod clients;
mod lingering_close;
mod partitioned_cookies;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use fsa_model::address::Network;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use self::{
    clients::{Connections, UntrustedForwarders},
    lingering_close::{Lingering, UnreadBody},
};
use crate::{
    api::{self, health::Peer},
    auth::{Address, cookie},
    gateway,
    keyed_count::Permit,
    state::App,
};

/// Timeout for a client to send the head of a request, and for an idle connection between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Delay before the next accept after a failed one (when no descriptors are left, for example).
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Maximum number of open connections; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 8192;

/// Serves until `shutdown` is ready, then drains: it accepts no new connections, streams and WebSockets end
/// themselves, requests finish, and what still runs after [`crate::Settings::drain`] is aborted.
///
/// # Errors
/// None at present: each failure concerns one connection.
pub async fn serve(
    app: App,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let router = api::router(app.clone());
    let connections = TaskTracker::new();
    let by_network = Connections::default();
    let untrusted = Arc::new(UntrustedForwarders::default());
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let permit = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(client) = client_permit(&app, &by_network, peer.ip()) else {
                    tracing::debug!(%peer, "connection refused: its network has too many open connections");
                    continue;
                };
                let (app, router, untrusted) = (app.clone(), router.clone(), Arc::clone(&untrusted));
                connections.spawn(async move {
                    app.metrics.connections.inc();
                    connection(app.clone(), router, untrusted, stream, peer).await;
                    app.metrics.connections.dec();
                    drop((permit, client));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    app.shutdown.cancel();
    connections.close();
    app.tasks.close();
    app.tunnels.close();
    let drained = async {
        connections.wait().await;
        app.tasks.wait().await;
        app.tunnels.wait().await;
    };
    if tokio::time::timeout(app.settings.drain, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            tasks = app.tasks.len(),
            "the drain took too long; aborting the connections and tasks that still run"
        );
    }
    Ok(())
}

/// Serves the metrics, and nothing else, until the server starts to drain.
///
/// # Errors
/// The listener does not accept connections.
pub async fn serve_metrics(app: App, listener: TcpListener) -> std::io::Result<()> {
    let ended = app.shutdown.clone().cancelled_owned();
    axum::serve(listener, api::metrics_router(app))
        .with_graceful_shutdown(ended)
        .await
}

/// A permit for one more connection from an address. Reverse proxies and this machine have as many as they need: there
/// are many clients behind each.
fn client_permit(app: &App, by_network: &Connections, peer: IpAddr) -> Option<Option<Permit<IpAddr>>> {
    let peer = peer.to_canonical();
    if peer.is_loopback() || is_trusted(&app.settings.trusted_proxies, peer) {
        return Some(None);
    }
    by_network
        .acquire(peer, app.settings.limits.connections_per_client)
        .map(Some)
}

async fn connection(
    app: App,
    router: axum::Router,
    untrusted: Arc<UntrustedForwarders>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let _ = stream.set_nodelay(true);
    let unread = UnreadBody::default();
    let service = service_fn({
        let (app, unread) = (app.clone(), unread.clone());
        move |request: Request<Incoming>| {
            warn_of_untrusted_forwarder(&app, &untrusted, peer.ip(), request.headers());
            let (app, router, unread) = (app.clone(), router.clone(), unread.clone());
            async move {
                let tunnels = request.method() == Method::CONNECT;
                // In HTTP/2, frames end each request separately.
                let request = match request.version() {
                    Version::HTTP_2 => request.map(Body::new),
                    _ => unread.watch(request),
                };
                let response = answer(app, router, request, peer).await;
                if tunnels || response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    unread.clear();
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        }
    });
    let stream = Lingering::new(stream, unread);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let mut connection =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = app.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "a connection ended with an error");
    }
}

async fn answer(app: App, router: axum::Router, mut request: Request<Body>, peer: SocketAddr) -> Response {
    let address = address(&app.settings.trusted_proxies, peer, request.headers());
    request.extensions_mut().insert(address);
    request.extensions_mut().insert(Peer(peer.ip()));
    if gateway::is_for(&app.settings, &request) {
        let framed = partitioned_cookies::is_framed(&app.settings, request.headers());
        let mut response = gateway::handle(&app.gateway, request).await;
        if framed {
            cookie::partition(response.headers_mut());
        }
        return response;
    }
    router
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {})
        .into_response()
}

/// Warns that forwarding headers are untrusted: a reverse proxy that is not named as trusted hides its clients.
fn warn_of_untrusted_forwarder(
    app: &App,
    untrusted: &UntrustedForwarders,
    peer: IpAddr,
    headers: &HeaderMap,
) {
    let peer = peer.to_canonical();
    let forwards = ["x-forwarded-for", "forwarded", "x-real-ip"]
        .iter()
        .any(|name| headers.contains_key(*name));
    if forwards
        && !is_trusted(&app.settings.trusted_proxies, peer)
        && untrusted.should_report(peer, Instant::now())
    {
        tracing::warn!(
            %peer,
            "forwarding headers are untrusted, because this address is no trusted proxy: all clients behind it count as \
             one. If it is your reverse proxy, name it in trusted_proxies"
        );
    }
}

fn is_trusted(trusted: &[Network], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// The client's address: the peer's, or the one that a trusted proxy forwards. The list is read from the right,
/// because only entries that the proxies themselves added can be trusted.
fn address(trusted: &[Network], peer: SocketAddr, headers: &HeaderMap) -> Address {
    let mut address = peer.ip().to_canonical();
    let hops = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|hop| hop.trim().parse::<IpAddr>());
    for hop in hops.collect::<Vec<_>>().into_iter().rev() {
        if !is_trusted(trusted, address) {
            break;
        }
        let Ok(hop) = hop else { break };
        address = hop.to_canonical();
    }
    Address(Some(address))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seen_as(peer: &str, forwarded: Option<&'static str>, trusted: &[&str]) -> String {
        let trusted: Vec<_> = trusted.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        if let Some(forwarded) = forwarded {
            headers.insert("x-forwarded-for", HeaderValue::from_static(forwarded));
        }
        address(&trusted, SocketAddr::new(peer.parse().unwrap(), 1), &headers).to_string()
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let claim = Some("6.6.6.6, 1.2.3.4");
        assert_eq!(seen_as("9.9.9.9", claim, &[]), "9.9.9.9");
        assert_eq!(seen_as("10.0.0.1", claim, &["10.0.0.1"]), "1.2.3.4");
        assert_eq!(
            seen_as("10.0.0.1", Some("1.2.3.4, 10.0.0.2"), &["10.0.0.1", "10.0.0.2"]),
            "1.2.3.4"
        );
        assert_eq!(seen_as("10.0.0.1", claim, &["10.0.0.0/24"]), "1.2.3.4");
        assert_eq!(seen_as("10.0.1.1", claim, &["10.0.0.0/24"]), "10.0.1.1");
        assert_eq!(seen_as("10.0.0.1", Some("nonsense"), &["10.0.0.1"]), "10.0.0.1");
        assert_eq!(seen_as("::ffff:10.0.0.1", None, &[]), "10.0.0.1");
    }
}

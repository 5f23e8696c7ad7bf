//! Tunnel: HTTP CONNECT to a port on the sandbox's own loopback.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::timeout,
};

use crate::http::{ApiError, RouteResult, status, upgraded};

/// Timeout of the connect. A program on the same machine accepts at once, or it hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Buffer bytes of each direction.
const BUFFER: usize = 32 * 1024;

/// Connects, and then copies bytes both ways until both sides have ended.
///
/// # Errors
/// The target is not on the loopback (403), or does not accept connections (502).
pub async fn connect(mut request: Request<Incoming>) -> RouteResult {
    let authority = request.uri().authority();
    let target = authority.and_then(|authority| Some((authority.host(), authority.port_u16()?)));
    let (host, port) = target
        .ok_or_else(|| ApiError::bad_request("CONNECT takes a host and a port, such as 127.0.0.1:3000"))?;
    let mut upstream = open(addresses(host, port)?).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            io::ErrorKind::TimedOut => {
                "the program that listens there does not accept connections".to_owned()
            }
            _ => error.to_string(),
        };
        ApiError::new(
            StatusCode::BAD_GATEWAY,
            "NotListening",
            format!("port {port} of the sandbox cannot be reached: {why}"),
        )
    })?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok((mut client, read)) = upgraded(upgrade).await else {
            return;
        };
        if upstream.write_all(&read).await.is_ok() {
            // An error means that one side is gone; both are closed then.
            let _ = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await;
        }
    });
    Ok(status(StatusCode::OK))
}

/// Addresses to try, in this order. A dev server listens on IPv4 or IPv6, depending on its version.
///
/// # Errors
/// The host is not on the loopback, or the port is 0.
pub fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, ApiError> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let hosts = match host {
        "127.0.0.1" | "localhost" => vec![v4, v6],
        "[::1]" => vec![v6, v4],
        _ => {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "NotLoopback",
                "a tunnel leads to 127.0.0.1, localhost or [::1] only",
            ));
        }
    };
    if port == 0 {
        return Err(ApiError::bad_request("a port is from 1 to 65535"));
    }
    Ok(hosts
        .into_iter()
        .map(|host| SocketAddr::new(host, port))
        .collect())
}

async fn open(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut first = None;
    for address in addresses {
        let error = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        first.get_or_insert(error);
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_leads_to_the_loopback_only() {
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            assert!(
                addresses(host, 80)
                    .unwrap()
                    .iter()
                    .all(|address| address.ip().is_loopback())
            );
        }
        for host in [
            "10.0.0.1",
            "169.254.169.254",
            "example.org",
            "127.0.0.1.example.org",
            "0.0.0.0",
            "[::]",
            "LOCALHOST.",
        ] {
            assert_eq!(
                addresses(host, 80).unwrap_err().status,
                StatusCode::FORBIDDEN,
                "{host}"
            );
        }
    }
}

//! Session of one client connection, from its first byte to its end.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    bindings::Binding,
    relay::{self, BufferPool},
    servers::Servers,
    startup::{self, InitialPacket, Refusal, Startup},
};

/// Timeout of all packets before a client is authorized.
const INITIAL_PACKETS_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a packet to a server that runs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for a refused client to read its error.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// TLS request, then GSS request, then the start-up packet.
const INITIAL_PACKETS_MAX: usize = 3;

/// Serves a client; returns when its connection has ended.
pub async fn serve(mut client: TcpStream, binding: Arc<Binding>, servers: &Servers, buffers: &BufferPool) {
    let _ = client.set_nodelay(true);
    let refusal = match timeout(INITIAL_PACKETS_TIMEOUT, read_request(&mut client)).await {
        Err(_) | Ok(Err(InitialPacketError::Io)) => return,
        Ok(Err(InitialPacketError::Refused(refusal))) => refusal,
        Ok(Ok(ClientRequest::Cancel(key))) => return cancel(&binding, &key, servers).await,
        Ok(Ok(ClientRequest::Startup(startup))) => match start(&startup, &binding, servers).await {
            Err(refusal) => refusal,
            Ok(Backend {
                mut server,
                _slot: slot,
            }) => {
                let mut key = None;
                let ended = relay::relay(&mut client, &mut server, buffers, |bytes| {
                    key = Some(binding.register_cancel_key(bytes));
                })
                .await;
                drop((key, slot));
                if let Err(error) = ended {
                    tracing::debug!(resource = %binding.resource, %error, "a connection broke");
                }
                return;
            }
        },
    };
    tracing::debug!(resource = %binding.resource, reason = refusal.message, "client refused");
    let send_refusal = async {
        client.write_all(&startup::error_response(&refusal)).await?;
        client.shutdown().await
    };
    let _ = timeout(REFUSAL_TIMEOUT, send_refusal).await;
}

enum ClientRequest {
    Cancel(Vec<u8>),
    Startup(Startup),
}

enum InitialPacketError {
    /// The client has disconnected, or speaks another protocol, so no error can be sent.
    Io,
    Refused(Refusal),
}

impl From<io::Error> for InitialPacketError {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Reads exactly the initial packets: later bytes are for the backend.
async fn read_request(client: &mut TcpStream) -> Result<ClientRequest, InitialPacketError> {
    let mut packet = [0; startup::PACKET_MAX];
    for _ in 0..INITIAL_PACKETS_MAX {
        let mut length = [0; 4];
        client.read_exact(&mut length).await?;
        let following = startup::following(length).ok_or(InitialPacketError::Io)?;
        let packet = &mut packet[..following];
        client.read_exact(packet).await?;
        match startup::parse(packet).map_err(InitialPacketError::Refused)? {
            InitialPacket::Encryption => client.write_all(b"N").await?,
            InitialPacket::Cancel(key) => return Ok(ClientRequest::Cancel(key)),
            InitialPacket::Startup(startup) => return Ok(ClientRequest::Startup(startup)),
        }
    }
    Err(InitialPacketError::Io)
}

struct Backend {
    server: UnixStream,
    /// Released when the connection ends.
    _slot: tokio::sync::OwnedSemaphorePermit,
}

async fn start(startup: &Startup, binding: &Binding, servers: &Servers) -> Result<Backend, Refusal> {
    let packet = startup.authorize(&binding.role)?;
    let slot = binding.acquire_connection_slot().ok_or_else(|| {
        Refusal::new(
            startup::TOO_MANY,
            format!(
                "this sandbox has {} connections to its database already; close some, or use a pool",
                super::bindings::CONNECTIONS_MAX
            ),
        )
    })?;
    let mut server = servers.connect(binding.volume).await?;
    match timeout(CONNECT_TIMEOUT, server.write_all(&packet)).await {
        Ok(Ok(())) => Ok(Backend { server, _slot: slot }),
        other => {
            tracing::warn!(resource = %binding.resource, error = ?other.map(Result::err), "a database server does not accept a connection");
            Err(Refusal::new(
                startup::NOT_NOW,
                "the database server is restarting; try again in a few seconds",
            ))
        }
    }
}

/// Forwards a cancel request if its key belongs to a connection of the same sandbox. Like with PostgreSQL,
/// the client does not learn whether it did.
async fn cancel(binding: &Binding, key: &[u8], servers: &Servers) {
    if !binding.has_cancel_key(key) {
        tracing::debug!(resource = %binding.resource, "cancel request with a key of no connection of this sandbox");
        return;
    }
    let forward = async {
        let mut server = servers.connect_running(binding.volume).await?;
        server.write_all(&startup::cancel(key)).await?;
        // The server closes the connection after it has sent the signal; the client waits for that.
        server.read(&mut [0]).await
    };
    let _ = timeout(CONNECT_TIMEOUT, forward).await;
}

//! Reserved port of the loopback: no other process gets it, also while its server is restarted.

use tokio::net::TcpSocket;

/// Port that a bound socket holds without listening. A server may listen on it, because servers set `SO_REUSEADDR`; the
/// kernel gives it neither to a process that asks for any port nor to an outgoing connection.
pub struct ReservedPort {
    pub number: u16,
    _socket: TcpSocket,
}

impl ReservedPort {
    #[must_use]
    #[allow(clippy::new_without_default, reason = "each one is another port")]
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        socket
            .bind(([127, 0, 0, 1], 0).into())
            .expect("a port of the loopback");
        let number = socket.local_addr().expect("a bound port").port();
        Self {
            number,
            _socket: socket,
        }
    }
}

//! `fsa db url --tunnel`: a port on this machine's loopback, each of whose connections goes through the API to the
//! project's database.

use std::{net::Ipv4Addr, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::reveal;
use crate::{
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
    websocket::{self, Socket},
};

/// Bytes of a message to the server.
const BUFFER: usize = 32 * 1024;
/// Open connections; the server has a lower limit for each user. More wait until one is closed.
const CONNECTIONS_MAX: usize = 256;

/// Listens until Ctrl-C.
pub async fn run(client: &Client, project: &str, port: u16, json: bool) -> Outcome {
    let (mut database, url) = reveal(client, project).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| {
            Failure::failed(format!(
                "port {port} of this machine cannot be used ({error}): choose another one with --port, or none"
            ))
        })?;
    let url = local_url(&url, listener.local_addr()?.port())?;
    database.connection_string = Some(url.clone());
    // Before anything is printed, because a reader may then press Ctrl-C.
    let mut interrupt = signal(SignalKind::interrupt())?;
    output::print(json, &database, |_| output::line(&url));
    output::notice(&format!(
        "connections to this URL go to the database of {project} until Ctrl-C"
    ));
    let path = Arc::new(format!("/api/projects/{}/database/connection", encode(project)));
    let serve = async {
        let mut connections = JoinSet::new();
        loop {
            if connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
                continue;
            }
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    let (client, path) = (client.clone(), Arc::clone(&path));
                    connections.spawn(async move {
                        let carried = match websocket::open(&client, &path, None).await {
                            Ok(socket) => carry(stream, socket).await,
                            Err(failure) => Err(failure),
                        };
                        if let Err(failure) = carried {
                            output::notice(&format!("fsa: a connection failed: {failure}"));
                        }
                    });
                }
            }
        }
    };
    tokio::select! {
        ended = serve => ended,
        _ = interrupt.recv() => Ok(0),
    }
}

/// The URL with the listening port in place of the server's, without parameters: psql refuses those of other clients.
fn local_url(url: &str, port: u16) -> Result<String, Failure> {
    let unexpected = || Failure::failed("the server sent a connection string that is not a URL");
    let mut url = Url::parse(url).map_err(|_| unexpected())?;
    url.set_host(Some("127.0.0.1")).map_err(|_| unexpected())?;
    url.set_port(Some(port)).map_err(|()| unexpected())?;
    url.set_query(None);
    Ok(url.into())
}

/// Copies both ways until one side ends.
async fn carry(stream: TcpStream, socket: Socket) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let (mut from_program, mut to_program) = stream.into_split();
    let (mut to_server, mut from_server) = socket.split();
    let up = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = from_program.read(&mut buffer).await {
            if to_server
                .send(Message::binary(buffer[..length].to_vec()))
                .await
                .is_err()
            {
                break;
            }
        }
        let _ = to_server.close().await;
    };
    let down = async {
        while let Some(message) = from_server.next().await {
            match message {
                Ok(Message::Binary(bytes)) => {
                    if to_program.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Ok(Message::Close(_)) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let _ = to_program.shutdown().await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_tunnel_has_its_port_and_no_parameters() {
        let url = "postgresql://shop_x:p%40ss@127.0.0.1:5432/shop_x?schema=public";
        assert_eq!(
            local_url(url, 40123).unwrap(),
            "postgresql://shop_x:p%40ss@127.0.0.1:40123/shop_x"
        );
        let elsewhere = "postgresql://shop:secret@db.databases.svc:5432/shop?schema=public";
        assert_eq!(
            local_url(elsewhere, 40123).unwrap(),
            "postgresql://shop:secret@127.0.0.1:40123/shop"
        );
        assert!(local_url("shop", 1).is_err());
    }
}

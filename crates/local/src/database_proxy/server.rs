//! Control server of the database proxy's process.

use std::{io, os::unix::net::UnixListener as StdListener, sync::Arc, time::Duration};

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{
    bindings::{Binding, Bindings},
    servers::Servers,
    wire::{BindingInfo, Channel, Request, Response, VERSION},
};

/// Pause after a failed accept.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Serves until [`Request::End`], or until it has handed over and its last connection has ended.
pub async fn run(listener: StdListener, servers: Servers) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let bindings = Arc::new(Bindings::new(servers));
    let (handed_over, ended) = (CancellationToken::new(), CancellationToken::new());
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_allowed(&stream) => {
                    let (bindings, handed_over, ended) =
                        (Arc::clone(&bindings), handed_over.clone(), ended.clone());
                    tokio::spawn(async move {
                        if let Err(error) = serve_control(stream, &bindings, &handed_over, &ended).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                    });
                }
                Ok(_) => tracing::warn!("a control connection of another user was refused"),
                Err(error) => {
                    tracing::warn!(%error, "no control connection can be accepted");
                    tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = ended.cancelled() => return Ok(()),
        () = handed_over.cancelled() => {}
    }
    drop(listener);
    bindings.tasks.close();
    tokio::select! {
        () = bindings.tasks.wait() => {}
        () = ended.cancelled() => {}
    }
    Ok(())
}

/// Allows root and the user that the proxy runs as. The socket's mode does the same; this check also holds if
/// a folder's mode was changed.
fn is_allowed(stream: &UnixStream) -> bool {
    let me = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| [me, 0].contains(&peer.uid()))
}

async fn serve_control(
    stream: UnixStream,
    bindings: &Arc<Bindings>,
    handed_over: &CancellationToken,
    ended: &CancellationToken,
) -> io::Result<()> {
    let mut channel = Channel::new(stream);
    while let Some(request) = channel.receive::<Request>().await? {
        let answer = match request {
            Request::Hello => Response::Hello {
                version: VERSION,
                process: std::process::id(),
            },
            Request::Bind {
                resource,
                volume,
                role,
            } => match channel.descriptor() {
                None => refused("no socket came with the request"),
                Some(listener) => match bindings.bind(resource, volume, role, listener) {
                    Ok(()) => Response::Done,
                    Err(error) => refused(&error.to_string()),
                },
            },
            Request::Unbind { resource } => {
                bindings.unbind(&resource);
                Response::Done
            }
            Request::IsBound { resource } => Response::IsBound {
                bound: bindings.is_bound(&resource),
            },
            Request::List => Response::List {
                bindings: bindings.list().iter().map(|binding| info(binding)).collect(),
            },
            Request::HandOver => {
                for (binding, listener) in bindings.release_all() {
                    let bound = Response::Bound(info(&binding));
                    channel.send(&bound, Some(&listener)).await?;
                }
                channel.send(&Response::Done, None).await?;
                handed_over.cancel();
                return Ok(());
            }
            Request::End => {
                channel.send(&Response::Done, None).await?;
                ended.cancel();
                return Ok(());
            }
        };
        channel.send(&answer, None).await?;
    }
    Ok(())
}

fn info(binding: &Binding) -> BindingInfo {
    BindingInfo {
        resource: binding.resource.clone(),
        volume: Some(binding.volume),
        role: binding.role.clone(),
        connections: binding.connections(),
    }
}

fn refused(message: &str) -> Response {
    Response::Refused {
        message: message.to_owned(),
    }
}

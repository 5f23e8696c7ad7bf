//! Control server of the database proxy's process.

use std::{io, os::unix::net::UnixListener as StdListener, path::PathBuf, sync::Arc, time::Duration};

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{
    bindings::Bindings,
    wire::{BindingInfo, Channel, Request, Response, VERSION},
};

/// Pause after a failed accept.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Serves until [`Request::End`], or until it has handed over and its last connection has ended.
pub async fn run(listener: StdListener, postgres: PathBuf) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let bindings = Arc::new(Bindings::new(postgres));
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
            Request::Bind { resource, role } => match channel.descriptor() {
                None => refused("no socket came with the request"),
                Some(listener) => match bindings.bind(resource, role, listener) {
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
                bindings: bindings
                    .list()
                    .iter()
                    .map(|binding| BindingInfo {
                        resource: binding.resource.clone(),
                        role: binding.role.clone(),
                        connections: binding.connections(),
                    })
                    .collect(),
            },
            Request::HandOver => {
                for (resource, role, listener) in bindings.release_all() {
                    let binding = BindingInfo {
                        resource,
                        role,
                        connections: 0,
                    };
                    channel.send(&Response::Bound(binding), Some(&listener)).await?;
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

fn refused(message: &str) -> Response {
    Response::Refused {
        message: message.to_owned(),
    }
}

//! TCP proxy to the test cluster's API server, which a test interrupts and restores: an outage for the clients of
//! this proxy, and for none of the other tests that share the cluster.

use std::{net::SocketAddr, path::PathBuf};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use crate::exported;

/// State of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Existing and new connections are reset.
    Broken,
    /// Nothing is forwarded, and no connection is closed; connections are reset when the proxy is open again.
    Silent,
}

/// The proxy. It stops when it is dropped.
pub struct ApiServerProxy {
    folder: tempfile::TempDir,
    state: watch::Sender<State>,
    _task: AbortOnDropHandle<()>,
}

impl ApiServerProxy {
    /// Starts the proxy. Its kubeconfig has a loopback address, which a region has to allow.
    pub async fn start() -> Self {
        let given = std::fs::read_to_string(exported("FSA_TEST_KUBECONFIG")).expect("the kubeconfig");
        let node = exported("FSA_TEST_NODE_ADDRESS");
        let node = node.to_str().expect("an address");
        let server: SocketAddr = format!("{node}:6443").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let here = listener.local_addr().expect("an address");
        // The certificate has the server's own address, and TLS is end to end.
        let theirs = format!("https://{server}");
        assert!(given.contains(&theirs), "{theirs} is not in the kubeconfig");
        let text: String = given
            .lines()
            .map(|line| match line.split_once("server:") {
                Some((before, _)) => {
                    format!("{before}server: https://{here}\n{before}tls-server-name: {node}\n")
                }
                None => format!("{line}\n"),
            })
            .collect();
        let folder = tempfile::Builder::new()
            .prefix("fsa-proxy-")
            .tempdir_in("/tmp")
            .expect("a folder");
        std::fs::write(folder.path().join("kubeconfig"), text).expect("a kubeconfig");
        let state = watch::Sender::new(State::Open);
        let task = AbortOnDropHandle::new(tokio::spawn(serve(listener, server, state.clone())));
        Self {
            folder,
            state,
            _task: task,
        }
    }

    /// Kubeconfig that uses this proxy.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, state: watch::Sender<State>) {
    // The connections end with the proxy.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(forward(client, server, state.subscribe()));
    }
}

async fn forward(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    let now = *state.borrow_and_update();
    if now == State::Open {
        let forwarded = async {
            if let Ok(mut upstream) = TcpStream::connect(server).await {
                let _ = client.set_nodelay(true);
                let _ = upstream.set_nodelay(true);
                let _ = copy_bidirectional(&mut client, &mut upstream).await;
            }
        };
        tokio::select! {
            () = forwarded => return,
            _ = state.wait_for(|state| *state != State::Open) => {}
        }
    }
    if *state.borrow() == State::Silent {
        // What the client still sends is not read.
        let _ = state.wait_for(|state| *state != State::Silent).await;
    }
    // Reset the connection instead of closing it.
    let _ = client.set_zero_linger();
}

//! A way of a test's own to the test cluster's API server, which the test cuts and opens again. So there is
//! an outage for whoever goes this way, and for none of the tests that share the cluster.

use std::{net::SocketAddr, path::PathBuf};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::exported;

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Connections break off, and new ones do.
    Broken,
    /// Nothing comes back, and nobody is told; connections break off when the way is open again.
    Silent,
}

/// The way. It ends when it is dropped.
pub struct Way {
    folder: tempfile::TempDir,
    state: watch::Sender<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Way {
    /// Opens it. Its kubeconfig names an address of the loopback, which a region has to allow.
    pub async fn open() -> Self {
        let given = std::fs::read_to_string(exported("FSA_TEST_KUBECONFIG")).expect("the kubeconfig");
        let node = exported("FSA_TEST_NODE_ADDRESS");
        let node = node.to_str().expect("an address");
        let server: SocketAddr = format!("{node}:6443").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let here = listener.local_addr().expect("an address");
        // The certificate has the server's own address, and TLS goes through from end to end.
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
            .prefix("fsa-way-")
            .tempdir_in("/tmp")
            .expect("a folder");
        std::fs::write(folder.path().join("kubeconfig"), text).expect("a kubeconfig");
        let state = watch::Sender::new(State::Open);
        let task = tokio::spawn(serve(listener, server, state.clone()));
        Self { folder, state, task }
    }

    /// A kubeconfig that goes this way.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, state: watch::Sender<State>) {
    // They end with the way.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(carry(client, server, state.subscribe()));
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    let now = *state.borrow_and_update();
    if now == State::Open {
        let carried = async {
            if let Ok(mut upstream) = TcpStream::connect(server).await {
                let _ = client.set_nodelay(true);
                let _ = upstream.set_nodelay(true);
                let _ = copy_bidirectional(&mut client, &mut upstream).await;
            }
        };
        tokio::select! {
            () = carried => return,
            _ = state.wait_for(|state| *state != State::Open) => {}
        }
    }
    if *state.borrow() == State::Silent {
        // What the other side still sends is taken, and comes to nothing.
        let _ = state.wait_for(|state| *state != State::Silent).await;
    }
    // A broken one is reset, not ended politely.
    let _ = client.set_zero_linger();
}

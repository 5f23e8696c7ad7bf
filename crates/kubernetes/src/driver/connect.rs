//! Connections into a pod: direct to its address, or through the API server's port-forward.
//!
//! A port-forward ends on the pod's loopback. A direct connection does not, so one to a program on the loopback goes
//! through sandboxd.

use std::{
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use fsa_driver::{BoxConnection, DriverError, Result};
use fsa_model::{FailureKind, SandboxRef, sandboxd::Boot, sandboxd::Usage};
use fsa_sandboxd_client::{Error, SandboxdClient};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{ResourceExt as _, api::Portforwarder};
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{
    KubernetesDriver,
    observe::{newest, runs},
};
use crate::{connection::call, settings::Reach};

/// A pod network accepts a connection quickly or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Cached tokens, at most; the cluster has all of them.
const MAX_TOKENS: usize = 10_000;

impl KubernetesDriver {
    /// A connection to a port of the pod's own address.
    pub(super) async fn connect_pod(&self, sandbox: &SandboxRef, port: u16) -> Result<BoxConnection> {
        self.0.reflectors.ready().await?;
        let pods = self.0.cached(sandbox).pods;
        let pod = newest(&pods).filter(|pod| runs(pod)).ok_or_else(not_running)?;
        match self.0.settings.reach {
            Reach::Direct => {
                let address = address(pod).ok_or_else(not_running)?;
                match timeout(CONNECT_TIMEOUT, TcpStream::connect((address, port))).await {
                    Ok(Ok(stream)) => {
                        let _ = stream.set_nodelay(true);
                        Ok(Box::new(stream))
                    }
                    Ok(Err(error)) => Err(unreachable_pod().because(error)),
                    Err(elapsed) => Err(unreachable_pod().because(elapsed)),
                }
            }
            Reach::PortForward => self.forward(pod, port).await,
        }
    }

    /// A connection to what listens on the sandbox's loopback.
    pub(super) async fn connect_loopback(&self, sandbox: &SandboxRef, port: u16) -> Result<BoxConnection> {
        if self.0.settings.reach == Reach::PortForward {
            return self.connect_pod(sandbox, port).await;
        }
        let token = self.token(sandbox).await?;
        match SandboxdClient::new(self, sandbox, &token)
            .connect_port(port)
            .await
        {
            Ok(connection) => Ok(Box::new(TokioIo::new(connection))),
            Err(error @ Error::Unreachable(_)) => Err(error.into()),
            Err(Error::Refused(_)) => Err(DriverError::new(
                FailureKind::Transient,
                format!(
                    "nothing in the sandbox listens on port {port}; start the application, or give it more time"
                ),
            )),
        }
    }

    pub(super) async fn read_usage(&self, sandbox: &SandboxRef) -> Result<Usage> {
        let token = self.token(sandbox).await?;
        Ok(SandboxdClient::new(self, sandbox, &token).usage().await?)
    }

    async fn forward(&self, pod: &Pod, port: u16) -> Result<BoxConnection> {
        let api = self.0.api::<Pod>();
        let mut forwarder = call("forward a port", api.portforward(&pod.name_any(), &[port])).await?;
        let stream = forwarder.take_stream(port).ok_or_else(unreachable_pod)?;
        Ok(Box::new(Forwarded { stream, forwarder }))
    }

    /// The control token of a sandbox: cached, or read from its secret.
    pub(super) async fn token(&self, sandbox: &SandboxRef) -> Result<SecretString> {
        if let Some(token) = self.0.tokens.lock().get(&sandbox.resource) {
            return Ok(token.clone());
        }
        let api = self.0.api::<Secret>();
        let secret = call("read the sandbox's secret", api.get(sandbox.resource.as_str())).await?;
        let boot: Option<Boot> = secret
            .data
            .as_ref()
            .and_then(|data| data.get("boot.json"))
            .and_then(|document| serde_json::from_slice(&document.0).ok());
        let token = boot
            .ok_or_else(|| {
                DriverError::new(
                    FailureKind::Transient,
                    "the sandbox's secret has no valid boot document; it is repaired at the next reconciliation",
                )
            })?
            .control_token;
        let mut tokens = self.0.tokens.lock();
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        tokens.insert(sandbox.resource.clone(), token.clone());
        Ok(token)
    }
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// A forwarded connection, with the task that forwards it.
struct Forwarded {
    stream: DuplexStream,
    forwarder: Portforwarder,
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn not_running() -> DriverError {
    DriverError::new(FailureKind::Transient, "the sandbox does not run; start it first")
}

fn unreachable_pod() -> DriverError {
    DriverError::new(
        FailureKind::Transient,
        "the sandbox's pod does not accept a connection; it may be starting, or the pod network may not be reachable \
         from here (the setting `reach = \"port-forward\"` connects through the API server)",
    )
}

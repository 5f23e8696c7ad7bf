//! Public host: a server with an address of RFC 5737's documentation range, in a separate network
//! namespace, reachable through the machine's routes.
//!
//! Packets to such an address never reach a real network, so a test may use it. For the same reason
//! sandboxes may not reach it by default: a world whose sandboxes must reach the host allows [`RANGE`].

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
};

use tokio::sync::oneshot;

/// Network of all public hosts.
pub const RANGE: &str = "198.51.100.0/24";

/// Host outside of every sandbox and of the machine's own namespace.
pub struct PublicHost {
    pub address: Ipv4Addr,
    namespace: String,
    interface: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

static NEXT: AtomicU8 = AtomicU8::new(1);

impl PublicHost {
    /// Creates the host and runs `serve` on a separate thread, in its namespace, on a listener at `port`.
    /// The future is dropped with the host.
    #[must_use]
    pub fn start<F, S>(port: u16, serve: S) -> Self
    where
        S: FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        // Each test is a separate process: the process id makes the names unique.
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let namespace = format!("fsat{id}x{n}");
        let interface = format!("ft{id}x{n}");
        ip(&["netns", "add", &namespace]);
        ip(&[
            "link", "add", &interface, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ]);
        ip(&["link", "set", &interface, "up"]);
        // The kernel refuses a second route to an address, so two tests never share one.
        let address = (0..250)
            .map(|more| {
                let low = 1 + (id.wrapping_mul(7).wrapping_add(u32::from(n) + more)) % 250;
                Ipv4Addr::new(198, 51, 100, u8::try_from(low).unwrap_or(1))
            })
            .find(|address| try_ip(&["route", "add", &format!("{address}/32"), "dev", &interface]).is_ok())
            .expect("an address that no other test has");
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&[
            "-n",
            &namespace,
            "addr",
            "add",
            &format!("{address}/32"),
            "dev",
            "eth0",
        ]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "route", "add", "default", "dev", "eth0"]);
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/proxy_arp"), "1").expect("proxy_arp");
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let inside = namespace.clone();
        let thread = std::thread::spawn(move || {
            let file = std::fs::File::open(format!("/run/netns/{inside}")).expect("the namespace");
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
                let listener = tokio::net::TcpListener::bind(at).await.expect("a listener");
                ready.send(()).expect("the test waits");
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().expect("the host serves");
        Self {
            address,
            namespace,
            interface,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for PublicHost {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        ip(&["link", "del", &self.interface]);
        ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(arguments: &[&str]) {
    if let Err(message) = try_ip(arguments)
        && !std::thread::panicking()
    {
        eprintln!("ip {}: {message}", arguments.join(" "));
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "iproute2 is the plainest way to a namespace in a test"
)]
fn try_ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

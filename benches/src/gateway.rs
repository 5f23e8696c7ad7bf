//! Gateway compared with nginx, in front of the same application: behind the gateway it runs in a sandbox,
//! whose network only the gateway can reach; behind nginx on the machine's loopback.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fsa_tests::{ReservedPort, World};
use reqwest::Method;

use crate::{
    api::wrk,
    report::{Row, Target, median},
};

const PORT: u16 = 3000;

pub async fn measure(world: &World) -> Vec<Row> {
    let api = world.api();
    api.create_running("app").await;
    let program = std::fs::read("/proc/self/exe").expect("this program");
    let put = api
        .request(Method::PUT, "/api/projects/app/files?path=app&mode=0755")
        .body(program);
    let (status, value) = api.answer(put).await;
    assert!(status.is_success(), "{value}");
    api.shell(
        "app",
        "setsid ./app app 3000 </dev/null >/dev/null 2>&1 & sleep 1",
    )
    .await;
    let _: serde_json::Value = api
        .send(
            Method::PUT,
            &format!("/api/projects/app/ports/{PORT}"),
            &serde_json::json!({"sharing": "public"}),
        )
        .await;
    let application = Application::start();
    let nginx = Nginx::start(world.folder(), application.port);
    let ours = format!("http://127.0.0.1:{}", world.port());
    let host = format!("Host: app--{PORT}.localhost:{}", world.port());
    let direct = format!("http://127.0.0.1:{}", application.port);
    let through = format!("http://127.0.0.1:{}", nginx.port);
    // Alternately, so that a slow moment of the machine affects all of them.
    let mut small = [Vec::new(), Vec::new(), Vec::new()];
    let mut large = [Vec::new(), Vec::new(), Vec::new()];
    let mut alone = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (at, (url, header)) in [(&ours, Some(&host)), (&through, None), (&direct, None)]
            .into_iter()
            .enumerate()
        {
            let headers: Vec<&str> = header.map(String::as_str).into_iter().collect();
            small[at].push(wrk(&format!("{url}/"), 32, 4, &headers).requests);
            large[at].push(wrk(&format!("{url}/large"), 8, 4, &headers).megabytes);
            alone[at].push(wrk(&format!("{url}/"), 1, 3, &headers).median);
        }
    }
    drop((nginx, application));
    api.delete("app").await;
    let [small, large, alone] = [small, large, alone].map(|turns| turns.map(median));
    vec![
        Row::new(
            "gateway, small answers, 32 clients (floor: nginx)",
            small[0],
            "/s",
            Target::AtLeast(small[1] * 0.6),
        )
        .with_floor(small[1]),
        Row::new("the same without a gateway", small[2], "/s", Target::None),
        Row::new(
            "gateway, bodies of 1 MB, 8 clients (floor: nginx)",
            large[0],
            "MB/s",
            Target::AtLeast(large[1] * 0.8),
        )
        .with_floor(large[1]),
        Row::new("the same without a gateway", large[2], "MB/s", Target::None),
        Row::new(
            "gateway, added latency at one client, p50 (floor: nginx's)",
            alone[0] - alone[2],
            "ms",
            Target::AtMost(0.3),
        )
        .with_floor(alone[1] - alone[2]),
    ]
}

/// Returns when something listens on the port, or panics after a while.
#[allow(
    clippy::disallowed_methods,
    reason = "the other program sends no event when it listens"
)]
fn until_open(port: u16) {
    for _ in 0..250 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nothing listens on port {port}");
}

/// The application, on the machine itself.
struct Application {
    child: Child,
    port: u16,
    _reserved: ReservedPort,
}

impl Application {
    #[allow(clippy::disallowed_methods, reason = "the application is another process")]
    fn start() -> Self {
        let reserved = ReservedPort::new();
        let port = reserved.number;
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program)
            .args(["app", &port.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .expect("this program runs");
        until_open(port);
        Self {
            child,
            port,
            _reserved: reserved,
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's nginx with one worker and upstream keep-alive.
struct Nginx {
    child: Child,
    port: u16,
    _reserved: ReservedPort,
}

impl Nginx {
    #[allow(clippy::disallowed_methods, reason = "the floor is another program")]
    fn start(folder: &Path, upstream: u16) -> Self {
        let reserved = ReservedPort::new();
        let port = reserved.number;
        let folder = folder.join("nginx");
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut text = String::new();
        let _ = write!(
            text,
            "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
             uwsgi_temp_path {0}; scgi_temp_path {0}; keepalive_requests 100000000;\n\
             upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $host; }} }} }}\n",
            folder.display()
        );
        let path = folder.join("nginx.conf");
        std::fs::write(&path, text).expect("a configuration");
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        until_open(port);
        Self {
            child,
            port,
            _reserved: reserved,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

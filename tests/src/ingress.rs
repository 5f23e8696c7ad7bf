//! Ingress client, and a small ingress controller for tests: Debian's nginx, configured from the Ingress
//! objects of the API server, in the way ingress-nginx documents its annotations (auth-url, auth-signin,
//! auth-response-headers). It shows what the objects mean to nginx; it is not ingress-nginx.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::header;
use serde_json::Value;

use crate::{cluster::Namespace, reserved_port::ReservedPort};

/// nginx that serves the Ingresses of a namespace on the loopback.
pub struct Controller {
    child: Child,
    pub port: u16,
    _reserved: ReservedPort,
}

impl Controller {
    /// Serves the namespace's current Ingresses.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "an ingress controller is another program"
    )]
    pub fn start(namespace: &Namespace, folder: &Path) -> Self {
        let reserved = ReservedPort::new();
        let port = reserved.number;
        let list = namespace.kubectl(&["get", "ingresses", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).expect("a list of ingresses");
        let mut servers = String::new();
        for ingress in list["items"].as_array().expect("items") {
            servers.push_str(&server(namespace, ingress, port));
        }
        let folder = folder.join("ingress");
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = format!(
            "daemon off; user root; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
             uwsgi_temp_path {0}; scgi_temp_path {0}; server_names_hash_bucket_size 256;\n\
             map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n{servers}}}\n",
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
        let controller = Self {
            child,
            port,
            _reserved: reserved,
        };
        controller.until_open();
        controller
    }

    #[allow(clippy::disallowed_methods, reason = "nginx sends no event when it listens")]
    fn until_open(&self) {
        for _ in 0..6000 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("nginx does not listen");
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The `name=value` pair of the cookie that a response sets.
///
/// # Panics
/// The response sets no cookie.
#[must_use]
pub fn cookie_of(response: &reqwest::Response) -> String {
    let cookie = response.headers()[header::SET_COOKIE].to_str().expect("a cookie");
    cookie.split(';').next().expect("a pair").to_owned()
}

/// Browser that uses an ingress controller.
pub struct IngressBrowser {
    pub http: reqwest::Client,
    pub address: SocketAddr,
    /// The control plane's origin.
    pub main: String,
}

impl IngressBrowser {
    /// A request for `path` of `host`.
    pub fn request(&self, host: &str, path: &str) -> reqwest::RequestBuilder {
        self.http
            .get(format!("http://{}{path}", self.address))
            .header(header::HOST, self.authority(host))
    }

    fn authority(&self, host: &str) -> String {
        match self.address.port() {
            80 => host.to_owned(),
            port => format!("{host}:{port}"),
        }
    }

    /// Polls until the controller serves the host; it sends no event.
    ///
    /// # Panics
    /// After two minutes.
    pub async fn until_served(&self, host: &str) {
        let mut last = None;
        for _ in 0..1200 {
            let response = self.request(host, "/").send().await.expect("an answer");
            // ingress-nginx: 404 for an unknown host, 503 for a host without endpoints.
            if !matches!(response.status().as_u16(), 404 | 503) {
                return;
            }
            last = Some(response);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the ingress controller does not serve {host}: {last:?}");
    }

    /// The URL to which the controller redirects a browser without a preview token for the host.
    pub async fn sign_in_redirect(&self, host: &str, path: &str) -> String {
        let response = self.request(host, path).send().await.expect("an answer");
        assert_eq!(response.status(), 302, "{response:?}");
        let to = location(&response);
        assert!(
            to.starts_with(&format!("{}/api/ingress/enter?", self.main)),
            "{to}"
        );
        to
    }

    /// The control plane's response there to the browser of this session.
    pub async fn get_with_session(&self, to: &str, session: &str) -> reqwest::Response {
        let request = self.http.get(to).header(header::COOKIE, session);
        request.send().await.expect("an answer")
    }

    /// Follows the redirects of a browser with this session: to the sign-in, and back to the host.
    /// Returns the response there, and its preview token cookie.
    pub async fn sign_in_at(&self, host: &str, path: &str, session: &str) -> (String, String) {
        let to = self.sign_in_redirect(host, path).await;
        let anonymous = self.http.get(&to).send().await.expect("an answer");
        assert!(location(&anonymous).contains("/sign-in"), "{anonymous:?}");

        let back = self.get_with_session(&to, session).await;
        assert_eq!(back.status(), 302, "{back:?}");
        let (back, home) = (location(&back), format!("http://{}", self.authority(host)));
        let path = back.strip_prefix(&home).expect("the host that was asked for");
        let response = self.request(host, path).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{response:?}");
        let token = cookie_of(&response);
        (response.text().await.expect("a body"), token)
    }
}

fn location(response: &reqwest::Response) -> String {
    let field = response.headers().get(header::LOCATION);
    let field = field.unwrap_or_else(|| panic!("no redirect: {response:?}"));
    field.to_str().expect("an address").to_owned()
}

/// nginx configuration of an Ingress, which has one host and one path.
fn server(namespace: &Namespace, ingress: &Value, port: u16) -> String {
    let annotation = |name: &str| {
        ingress["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{name}")]
            .as_str()
            .map(str::to_owned)
    };
    let rule = &ingress["spec"]["rules"][0];
    let host = rule["host"].as_str().expect("a host");
    let service = &rule["http"]["paths"][0]["backend"]["service"];
    let name = service["name"].as_str().expect("a service");
    let address = namespace.kubectl(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"]);
    let backend = format!("http://{address}:{}", service["port"]["number"]);
    let auth = annotation("auth-url").expect("the sign-in is in front");
    let sign_in = annotation("auth-signin").expect("there is a way in");
    let always = match annotation("auth-always-set-cookie").as_deref() {
        Some("true") => "always",
        _ => "",
    };
    let mut text = format!(
        "server {{ listen 127.0.0.1:{port}; server_name {host};\n\
         location = /_auth {{ internal; proxy_pass {auth}; proxy_pass_request_body off;\n\
         proxy_set_header Content-Length \"\";\n\
         proxy_set_header X-Original-URL $scheme://$http_host$request_uri;\n\
         proxy_set_header X-Original-Method $request_method; }}\n\
         location @signin {{ internal; add_header Set-Cookie $auth_cookie;\n\
         return 302 \"{sign_in}&rd=$scheme://$http_host$request_uri\"; }}\n\
         location / {{ auth_request /_auth; auth_request_set $auth_cookie $upstream_http_set_cookie;\n\
         add_header Set-Cookie $auth_cookie {always}; error_page 401 = @signin;\n"
    );
    for field in annotation("auth-response-headers")
        .iter()
        .flat_map(|list| list.split(','))
    {
        let variable = field.trim().to_ascii_lowercase().replace('-', "_");
        let _ = writeln!(
            text,
            "auth_request_set $auth_{variable} $upstream_http_{variable}; proxy_set_header {field} $auth_{variable};"
        );
    }
    let _ = writeln!(
        text,
        "proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection $connection_upgrade; proxy_pass {backend}; }} }}"
    );
    text
}

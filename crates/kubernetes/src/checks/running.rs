//! Checks of `fsa doctor` on existing sandboxes: whether their terminals answer, and whether the databases in their
//! `DATABASE_URL` exist.

use std::{collections::BTreeSet, time::Duration};

use fsa_driver::BoxConnection;
use fsa_model::sandboxd::{Boot, TERMINAL_PORT};
use k8s_openapi::api::{
    core::v1::{Pod, Secret},
    networking::v1::Ingress,
};
use kube::{Api, ResourceExt as _, api::ListParams};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Check, State, check};
use crate::{
    connection::{Cluster, call},
    databases,
    driver::observe::runs,
    objects::{self, APP, BOOT_FILE},
    settings::{Reach, Settings, Style},
};

/// Terminals that are tried, at most. More would not add to the result.
const MAX_TRIED: usize = 3;
/// For a connection, and for the answer on it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Without these a terminal behind ingress-nginx is open to everyone, or is disconnected while it is silent.
const TERMINAL_ANNOTATIONS: [&str; 3] = ["auth-url", "auth-signin", "proxy-read-timeout"];

/// Tries the terminals of some running sandboxes, over the connection that the server uses.
pub async fn terminals(cluster: &Cluster, settings: &Settings) -> Vec<Check> {
    const NAME: &str = "terminals";
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let ours = ListParams::default().labels(&objects::selector(settings));
    let running: Vec<Pod> = match call("list pods", api.list(&ours)).await {
        Ok(pods) => pods.items.into_iter().filter(runs).collect(),
        Err(error) => {
            return vec![check(
                NAME,
                State::Warning,
                format!("they cannot be tried: {error}"),
            )];
        }
    };
    if running.is_empty() {
        return vec![check(
            NAME,
            State::Warning,
            "no sandbox runs, so none was tried; start a project, and run the check again",
        )];
    }
    let mut failed = Vec::new();
    let tried = running.len().min(MAX_TRIED);
    for pod in &running[..tried] {
        if let Err(why) = terminal(cluster, settings, pod).await {
            failed.push(format!("{}: {why}", app(pod)));
        }
    }
    let state = match failed.len() {
        0 => State::Good,
        some if some == tried => State::Bad,
        _ => State::Warning,
    };
    let message = if failed.is_empty() {
        format!("those that were tried ({tried} of {}) answer", running.len())
    } else {
        failed.join("; ")
    };
    let mut all = vec![check(NAME, state, message)];
    if settings.expose.domain.is_some() && settings.expose.style == Style::Ingress {
        all.push(ingresses(cluster, &ours, &running).await);
    }
    all
}

fn app(pod: &Pod) -> &str {
    pod.labels().get(APP).map_or("", String::as_str)
}

/// Sends a request to the terminal's own port that it answers only with the right token.
async fn terminal(cluster: &Cluster, settings: &Settings, pod: &Pod) -> Result<(), String> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let secret = call("read a sandbox's secret", secrets.get(app(pod)))
        .await
        .map_err(|error| error.to_string())?;
    let boot = boot(&secret)
        .ok_or("its secret has no boot document; restart the sandbox, which creates it again")?;
    let token = objects::terminal_token(&boot.control_token);
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let answer = match settings.reach {
        Reach::Direct => {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
            let address = address.ok_or("its pod has no address yet")?;
            let connected = timeout(TIMEOUT, TcpStream::connect((address, TERMINAL_PORT))).await;
            let stream = match connected {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    return Err(not_served());
                }
                _ => {
                    return Err(format!(
                        "{address}:{TERMINAL_PORT} does not answer from here; add this server's address to \
                         network.control_plane, or set reach = \"port-forward\""
                    ));
                }
            };
            request_status(Box::new(stream), token.expose_secret()).await
        }
        Reach::PortForward => {
            let mut forwarder = call(
                "forward a port",
                api.portforward(&pod.name_any(), &[TERMINAL_PORT]),
            )
            .await
            .map_err(|error| error.to_string())?;
            let stream = forwarder.take_stream(TERMINAL_PORT).ok_or_else(not_served)?;
            request_status(Box::new(stream), token.expose_secret()).await
        }
    };
    match answer {
        Ok(200) => Ok(()),
        Ok(401) => Err("it refuses the token in its secret; restart the sandbox".into()),
        Ok(status) => Err(format!(
            "it answers {status}, which the terminal's port never does; check what else listens there (fsa exec)"
        )),
        Err(_) => Err(not_served()),
    }
}

fn not_served() -> String {
    format!(
        "nothing serves port {TERMINAL_PORT} in it; check the pod's log (fsa debug), and restart the sandbox"
    )
}

/// The status of the answer to a request with the terminal's token.
async fn request_status(mut stream: BoxConnection, token: &str) -> std::io::Result<u16> {
    let request = format!(
        "GET /token HTTP/1.1\r\nHost: terminal\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    // `HTTP/1.1 200`
    let mut line = [0_u8; 12];
    let answered = timeout(TIMEOUT, async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_exact(&mut line).await.map(drop)
    });
    answered.await.map_err(std::io::Error::from)??;
    std::str::from_utf8(&line)
        .ok()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.parse().ok())
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn boot(secret: &Secret) -> Option<Boot> {
    serde_json::from_slice(&secret.data.as_ref()?.get(BOOT_FILE)?.0).ok()
}

/// Whether each sandbox's terminal has an Ingress, with the sign-in in front.
async fn ingresses(cluster: &Cluster, ours: &ListParams, running: &[Pod]) -> Check {
    const NAME: &str = "terminals' ingress";
    let api: Api<Ingress> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let all = match call("list ingresses", api.list(ours)).await {
        Ok(all) => all.items,
        Err(error) => return check(NAME, State::Warning, format!("it cannot be checked: {error}")),
    };
    for pod in running {
        let name = format!("{}-terminal", app(pod));
        let wrong = match all.iter().find(|ingress| ingress.name_any() == name) {
            None => "is missing".to_owned(),
            Some(ingress) => {
                let missing = TERMINAL_ANNOTATIONS
                    .map(|name| format!("nginx.ingress.kubernetes.io/{name}"))
                    .into_iter()
                    .find(|name| !ingress.annotations().contains_key(name));
                match missing {
                    Some(annotation) => format!("lacks its annotation {annotation}"),
                    None if port(ingress) == Some(TERMINAL_PORT) => continue,
                    None => format!("does not lead to port {TERMINAL_PORT}"),
                }
            }
        };
        return check(
            NAME,
            State::Warning,
            format!(
                "{name} {wrong}: delete it if it exists, and the server creates it again within five minutes"
            ),
        );
    }
    check(
        NAME,
        State::Good,
        "each leads to its terminal, with the sign-in in front",
    )
}

fn port(ingress: &Ingress) -> Option<u16> {
    let rule = ingress.spec.as_ref()?.rules.as_ref()?.first()?;
    let backend = &rule.http.as_ref()?.paths.first()?.backend;
    u16::try_from(backend.service.as_ref()?.port.as_ref()?.number?).ok()
}

/// Whether the databases in the sandboxes' `DATABASE_URL` exist. None if the databases do not answer, which another
/// check reports.
pub async fn database_urls(cluster: &Cluster, settings: &Settings) -> Option<Check> {
    const NAME: &str = "database URLs";
    let (databases, _) = databases::open(cluster, settings).ok()?;
    let existing: BTreeSet<String> = databases.inventory().await.ok()?.into_iter().collect();
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let ours = ListParams::default().labels(&objects::selector(settings));
    let secrets = match call("list secrets", api.list(&ours)).await {
        Ok(secrets) => secrets.items,
        Err(error) => {
            return Some(check(
                NAME,
                State::Warning,
                format!("they cannot be read: {error}"),
            ));
        }
    };
    let mut count = 0;
    let mut stale = Vec::new();
    for secret in &secrets {
        let Some(role) = boot(secret).and_then(|boot| database_role(&boot)) else {
            continue;
        };
        count += 1;
        if !existing.contains(&role) {
            stale.push(secret.name_any());
        }
    }
    Some(if stale.is_empty() {
        check(
            NAME,
            State::Good,
            format!("all {count} lead to a database that exists"),
        )
    } else {
        check(
            NAME,
            State::Warning,
            format!(
                "{} a database that does not exist: the project's events report the loss, and a new, empty database is \
                 created within five minutes; `fsa restart` the project if it still has the old URL then",
                match stale.len() {
                    1 => format!("the URL of {} names", stale[0]),
                    _ => format!("the URLs of {} name", stale.join(", ")),
                }
            ),
        )
    })
}

/// The role in a `DATABASE_URL` of ours; a user's variable of that name has another form.
fn database_role(boot: &Boot) -> Option<String> {
    let url = boot.environment.get("DATABASE_URL")?.expose_secret();
    let role = url.strip_prefix("postgresql://")?.split_once(':')?.0;
    role.contains("_agentruntime_").then(|| role.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_urls_are_checked() {
        let role = |url: &str| {
            let environment = serde_json::json!({"DATABASE_URL": url});
            let document =
                serde_json::json!({"controlToken": "t", "hostname": "h", "environment": environment});
            database_role(&serde_json::from_value::<Boot>(document).unwrap())
        };
        let ours = "postgresql://shop_agentruntime_abc234:secret@10.0.0.1:5432/shop_agentruntime_abc234";
        for ours in [ours.to_owned(), format!("{ours}?schema=public")] {
            assert_eq!(role(&ours).as_deref(), Some("shop_agentruntime_abc234"), "{ours}");
        }
        for others in [
            "mysql://a:b@c/d",
            "postgresql://me:secret@elsewhere.example/mine",
            "file:dev.db",
        ] {
            assert_eq!(role(others), None, "{others}");
        }
    }
}

//! `fsa open`: prints the URL of a preview and opens it in a browser.

use std::process::{Command, Stdio};

use fsa_model::api::{Port, Sandbox};

use crate::{
    args::Open,
    client::{Client, encode},
    failure::Outcome,
    output,
};

pub async fn run(client: &Client, open: &Open, json: bool) -> Outcome {
    let sandbox: Sandbox = client
        .get(&format!("/api/sandbox/{}", encode(&open.project)))
        .await?;
    let listening = sandbox.ports.iter().any(|port| port.port == open.port);
    let path = format!("/api/projects/{}/ports/{}", encode(&open.project), open.port);
    let Port { url, .. } = client.get(&path).await?;
    output::print(
        json,
        &serde_json::json!({"url": url, "listening": listening}),
        |_| output::line(&url),
    );
    if !listening {
        output::notice(&format!(
            "No process listens on port {} of {} now.",
            open.port, open.project
        ));
    }
    if !open.print && !json {
        browse(&url);
    }
    Ok(0)
}

/// Opens the URL with xdg-open, if there is a desktop. The URL was printed in any case.
#[allow(
    clippy::disallowed_methods,
    reason = "xdg-open opens the default browser; it is reaped here"
)]
fn browse(url: &str) {
    let child = Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(mut child) = child {
        let _ = child.wait();
    }
}

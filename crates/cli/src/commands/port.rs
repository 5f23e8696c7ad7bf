//! `fsa port`: how the ports of a sandbox are served.

use fsa_model::api::{HostHeader, SharePort, SharedPort, Sharing};
use reqwest::Method;

use crate::{
    args::Port,
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
};

pub async fn run(client: &Client, port: Port, json: bool) -> Outcome {
    let Port::Set {
        project,
        port,
        sharing,
        host_header,
    } = port;
    if sharing.is_none() && host_header.is_none() {
        return Err(Failure::usage("give --sharing, --host-header or both"));
    }
    let request = SharePort {
        sharing: sharing.map(|word| match word.as_str() {
            "link" => Sharing::Link,
            "public" => Sharing::Public,
            _ => Sharing::Private,
        }),
        host_header,
    };
    let path = format!("/api/projects/{}/ports/{port}", encode(&project));
    let now: SharedPort = client.send(Method::PUT, &path, &request).await?;
    output::print(json, &now, |now| {
        output::line(now.link.as_ref().unwrap_or(&now.url));
        if now.host_header == HostHeader::Localhost {
            output::notice(&format!("Its application sees the host name localhost:{port}."));
        }
    });
    Ok(0)
}

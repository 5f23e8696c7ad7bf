//! `fsa port`: how the ports of a sandbox are served.

use fsa_model::api::{HostHeader, Port as PortView, SharePort, SharedPort, Sharing};
use reqwest::Method;

use crate::{
    args::Port,
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
};

pub async fn run(client: &Client, command: Port, json: bool) -> Outcome {
    let path_of = |project: &str, port: u16| format!("/api/projects/{}/ports/{port}", encode(project));
    let (path, request) = match command {
        Port::Set {
            project,
            port,
            sharing,
            host_header,
        } => {
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
                public_paths: None,
            };
            (path_of(&project, port), request)
        }
        Port::Public { project, port, paths } => {
            let path = path_of(&project, port);
            let mut request = SharePort::default();
            if paths.is_empty() {
                request.sharing = Some(Sharing::Public);
            } else {
                let now: PortView = client.get(&path).await?;
                request.public_paths = Some([now.public_paths, paths].concat());
            }
            (path, request)
        }
        Port::Private { project, port } => {
            let request = SharePort {
                sharing: Some(Sharing::Private),
                public_paths: Some(Vec::new()),
                host_header: None,
            };
            (path_of(&project, port), request)
        }
    };
    let now: SharedPort = client.send(Method::PUT, &path, &request).await?;
    output::print(json, &now, show);
    Ok(0)
}

fn show(now: &SharedPort) {
    output::line(now.link.as_ref().unwrap_or(&now.url));
    if !now.public_paths.is_empty() {
        output::notice(&format!("Everyone may request {}.", now.public_paths.join(", ")));
    }
    if now.host_header == HostHeader::Localhost {
        output::notice(&format!(
            "Its application sees the host name localhost:{}.",
            now.port
        ));
    }
}

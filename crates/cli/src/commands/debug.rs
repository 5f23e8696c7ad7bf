//! `fsa debug`: a cluster's objects, events and logs of one project, for operators. It connects to the cluster itself.

use fsa_kubernetes::debug;
use fsa_model::api::Project;
use nix::unistd::Uid;
use serde_json::json;

use super::serve::kubernetes;
use crate::{
    args::Debug,
    client::{Client, encode},
    config,
    failure::{Failure, Outcome},
    output,
};

pub fn run(arguments: Debug, url: Option<&str>, json: bool) -> Outcome {
    let config = config::serve(arguments.serve, Uid::effective().is_root())?;
    let clusters = kubernetes::read(&config)?;
    super::block_on(async {
        let client = Client::connect(url)?;
        let project: Project = client
            .get(&format!("/api/projects/{}", encode(&arguments.project)))
            .await?;
        let Some(read) = clusters.into_iter().find(|read| read.name == project.region) else {
            return Err(Failure::usage(format!(
                "the project is in the region {}, which is no cluster of these settings; use `fsa events` and `fsa \
                 logs`",
                project.region
            )));
        };
        let cluster = read
            .checked
            .connect()
            .map_err(|error| Failure::failed(error.to_string()))?;
        let text = debug::collect(&cluster, project.id)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        output::print(json, &json!({"project": project.id, "report": text}), |_| {
            output::line(text.trim_end())
        });
        Ok(0)
    })
}

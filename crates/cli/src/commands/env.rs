//! `fsa env`.

use std::collections::BTreeMap;

use fsa_model::api::{ChangeEnvironment, EnvironmentView, Sandbox};
use reqwest::Method;

use super::{lifecycle, project};
use crate::{
    args::Env,
    client::{Client, encode},
    config,
    failure::Outcome,
    output,
};

pub async fn run(client: &Client, command: Env, json: bool) -> Outcome {
    match command {
        Env::Set {
            project,
            variables,
            file,
        } => {
            let mut all: BTreeMap<String, String> = match file {
                Some(path) => config::environment_file(&path)?.into_iter().collect(),
                None => BTreeMap::new(),
            };
            all.extend(project::variables(&variables)?);
            change(
                client,
                &project,
                all.into_iter().map(|(name, value)| (name, Some(value))).collect(),
                json,
            )
            .await
        }
        Env::Unset { project, names } => {
            change(
                client,
                &project,
                names.into_iter().map(|name| (name, None)).collect(),
                json,
            )
            .await
        }
        Env::List { project, reveal } => {
            let query = if reveal { "?reveal=true" } else { "" };
            let view: EnvironmentView = client.get(&path(&project, query)).await?;
            output::print(json, &view, |view| {
                for (name, value) in &view.env_vars {
                    output::line(
                        &value
                            .as_ref()
                            .map_or_else(|| name.clone(), |value| format!("{name}={value}")),
                    );
                }
            });
            Ok(0)
        }
    }
}

async fn change(
    client: &Client,
    project: &str,
    env_vars: BTreeMap<String, Option<String>>,
    json: bool,
) -> Outcome {
    let view: EnvironmentView = client
        .send(Method::PATCH, &path(project, ""), &ChangeEnvironment { env_vars })
        .await?;
    if view.restarting {
        output::notice(&format!(
            "{project} restarts, so that its processes see the change"
        ));
        let project = encode(project);
        let sandbox: Sandbox = client.get(&format!("/api/sandbox/{project}")).await?;
        let before = sandbox.stages.clone();
        lifecycle::settle(client, &project, sandbox, &before, json).await?;
    }
    output::print(json, &view, |_| {});
    Ok(0)
}

fn path(project: &str, query: &str) -> String {
    format!("/api/projects/{}/environment{query}", encode(project))
}

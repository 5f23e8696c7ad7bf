//! `fsa agent` and `fsa git-credential`: what agents may spend, and secrets that stay outside of
//! sandboxes. A secret is read from standard input, where no list of processes shows it.

use std::{collections::BTreeMap, io::Read as _};

use fsa_model::{
    agent_api::{AgentAccount, ChangeAgentAccount, GitCredential, SetGitCredential},
    api::{ChangeEnvironment, EnvironmentView},
    money::Micros,
};
use reqwest::Method;

use crate::{
    args,
    client::{Client, encoded},
    failure::{Failure, Outcome},
    output,
};

pub async fn run(client: &Client, command: args::Agent, json: bool) -> Outcome {
    const OWN: &str = "/api/me/agent-credentials";
    match command {
        args::Agent::Show { project } => {
            let account: AgentAccount = client.get(&path(&project)).await?;
            output::print(json, &account, show);
        }
        args::Agent::Budget { project, dollars } => {
            let budget = match dollars.as_str() {
                "none" => None,
                text => Some(text.parse().ok().and_then(Micros::from_dollars).ok_or_else(|| {
                    Failure::usage("a budget is a number of US dollars for a month, or `none`")
                })?),
            };
            let change = ChangeAgentAccount {
                monthly_budget: Some(budget),
            };
            let account: AgentAccount = client.send(Method::PATCH, &path(&project), &change).await?;
            output::print(json, &account, show);
        }
        args::Agent::Keys => {
            let view: EnvironmentView = client.get(OWN).await?;
            output::print(json, &view, |view| {
                view.env_vars.keys().for_each(|name| output::line(name))
            });
        }
        args::Agent::SetKey { name } => {
            let change = change(name, Some(secret()?));
            client.order(Method::PATCH, OWN, &change).await?;
        }
        args::Agent::UnsetKey { name } => {
            client.order(Method::PATCH, OWN, &change(name, None)).await?;
        }
    }
    Ok(0)
}

fn change(name: String, value: Option<String>) -> ChangeEnvironment {
    ChangeEnvironment {
        env_vars: BTreeMap::from([(name, value)]),
    }
}

fn path(project: &str) -> String {
    format!("/api/projects/{}/agent", encoded(project))
}

fn show(account: &AgentAccount) {
    let budget = account
        .monthly_budget
        .map_or("no limit".to_owned(), |budget| budget.to_string());
    output::line(&format!("spent this month  {} of {budget}", account.spent));
    let rows = account.models.iter().map(|model| {
        vec![
            model.model.clone(),
            model.requests.to_string(),
            model.input_tokens.to_string(),
            model.output_tokens.to_string(),
            (model.cache_read_tokens + model.cache_write_tokens).to_string(),
            model.cost.to_string(),
        ]
    });
    output::table(&["MODEL", "REQUESTS", "INPUT", "OUTPUT", "CACHED", "COST"], rows);
}

pub async fn git(client: &Client, command: args::GitCredential, json: bool) -> Outcome {
    let path = |project: &str| format!("/api/projects/{}/git-credential", encoded(project));
    match command {
        args::GitCredential::Set {
            project,
            url,
            username,
        } => {
            let set = SetGitCredential {
                url,
                username,
                password: secret()?.into(),
            };
            let credential: GitCredential = client.send(Method::PUT, &path(&project), &set).await?;
            output::print(json, &credential, |credential| {
                output::line(&format!(
                    "git is let in to {} as {}",
                    credential.url, credential.username
                ));
            });
        }
        args::GitCredential::Show { project } => {
            let credential: GitCredential = client.get(&path(&project)).await?;
            output::print(json, &credential, |credential| {
                output::line(&format!("{}  {}", credential.url, credential.username));
            });
        }
        args::GitCredential::Forget { project } => {
            client.order(Method::DELETE, &path(&project), &()).await?;
        }
    }
    Ok(0)
}

/// A secret from standard input, without the end of its line.
fn secret() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin().take(100_000).read_to_string(&mut text)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Failure::usage("write the secret to standard input"));
    }
    Ok(text.to_owned())
}

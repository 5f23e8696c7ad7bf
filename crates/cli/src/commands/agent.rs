//! `fsa agent`: what agents may spend, and the user's own variables for them.

use std::collections::BTreeMap;

use fsa_model::{
    agent_api::{AgentAccount, ChangeAgentAccount},
    api::{ChangeEnvironment, EnvironmentView},
    money::Micros,
};
use reqwest::Method;

use crate::{
    args,
    client::{Client, encode},
    failure::{Failure, Outcome},
    input, output,
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
                    Failure::usage("the budget is a number of US dollars for a month, or `none`")
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
            let secret = input::secret(&format!("{name}: "))?;
            let change = change(name, Some(secret));
            client.execute(Method::PATCH, OWN, &change).await?;
        }
        args::Agent::UnsetKey { name } => {
            client.execute(Method::PATCH, OWN, &change(name, None)).await?;
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
    format!("/api/projects/{}/agent", encode(project))
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

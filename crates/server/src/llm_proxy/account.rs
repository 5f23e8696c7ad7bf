//! LLM account: budget and usage of a project's agents, and a user's own credentials for agents.

use std::collections::BTreeMap;

use fsa_model::{
    agent_api::{AgentAccount, AgentUsage, ChangeAgentAccount},
    api::{ChangeEnvironment, EnvironmentView},
    environment::Environment,
    event::EventKind,
    llm_provider::Provider,
};
use secrecy::ExposeSecret as _;

use crate::{
    auth::{
        Caller,
        permission::{Manage, Read},
    },
    core::Core,
    error::{Error, Result},
    projects::{
        environment::{self, decrypt_project, decrypt_user, encrypt_user, env_vars, merged},
        validate,
    },
    store::{
        agents, audit,
        events::{self, NewEvent},
        projects::{self, ProjectRow},
    },
};

/// The project's LLM account.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn view(core: &Core, caller: &Caller, project: &str) -> Result<AgentAccount> {
    let project = projects::find::<Read>(&core.store, caller, project).await?;
    of(core, &project).await
}

async fn of(core: &Core, project: &ProjectRow) -> Result<AgentAccount> {
    let mut tx = core.store.begin().await?;
    let of_user = match agents::credentials(&mut tx, project.owner).await? {
        Some(encrypted) => decrypt_user(&core.key_ring, project.owner, &encrypted)?,
        None => Environment::new(),
    };
    let encrypted = projects::environment(&mut tx, project.id).await?;
    drop(tx);
    let of_project = decrypt_project(&core.key_ring, project.id, &encrypted)?;
    let layers = [&core.settings.agent_environment, &of_user, &of_project];
    let own = agents::budget(&core.store, project.id).await?;
    let used = agents::this_month(&core.store, project.id).await?;
    let spent = used.iter().map(|used| used.cost.0).sum();
    Ok(AgentAccount {
        mode: core.settings.agents.mode,
        providers: Provider::ALL
            .into_iter()
            .filter(|provider| provider.credential(&layers).is_some())
            .collect(),
        monthly_budget: own.or(core.settings.agents.monthly_budget),
        own_budget: own.is_some(),
        spent: fsa_model::money::Micros(spent),
        models: used.into_iter().map(usage).collect(),
    })
}

fn usage(used: agents::ModelUsage) -> AgentUsage {
    let tokens = |name: &str| used.tokens.get(name).copied().unwrap_or_default();
    AgentUsage {
        input_tokens: tokens("input"),
        output_tokens: tokens("output"),
        cache_read_tokens: tokens("cache_read"),
        cache_write_tokens: tokens("cache_write"),
        provider: used.provider,
        model: used.model,
        requests: used.requests,
        cost: used.cost,
    }
}

/// Changes the project's budget. The budget applies from the next request of an agent.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn change(
    core: &Core,
    caller: &Caller,
    project: &str,
    request: ChangeAgentAccount,
) -> Result<AgentAccount> {
    let found = projects::find::<Manage>(&core.store, caller, project).await?;
    if let Some(budget) = request.monthly_budget {
        let mut tx = core.store.begin().await?;
        let project = projects::lock(&mut tx, &found).await?;
        agents::set_budget(&mut tx, project.id, budget).await?;
        let message = match budget {
            Some(budget) => format!("Agents may spend {budget} a month."),
            None => "Agents may spend what the server allows.".to_owned(),
        };
        let event = NewEvent::new(&project, EventKind::ProjectChanged, message).with(
            serde_json::json!({"fields": ["monthlyBudget"], "monthlyBudget": budget, "by": caller.login()}),
        );
        events::append(&mut tx, event).await?;
        tx.commit().await?;
    }
    of(core, &found).await
}

/// The names of the caller's own variables for agents. Values are never env_vars.
///
/// # Errors
/// The database does not answer.
pub async fn credentials(core: &Core, caller: &Caller) -> Result<EnvironmentView> {
    let mut tx = core.store.begin().await?;
    let variables = open(core, caller, agents::credentials(&mut tx, caller.user()).await?)?;
    Ok(EnvironmentView {
        env_vars: env_vars(&variables, false),
        restarting: false,
    })
}

/// Sets some of the caller's own variables for agents and removes those that are null. In relay mode a running
/// sandbox uses a changed credential at once; it gets one for a new provider at its next start.
///
/// # Errors
/// 422 for an invalid variable.
pub async fn change_credentials(
    core: &Core,
    caller: &Caller,
    request: ChangeEnvironment,
) -> Result<EnvironmentView> {
    let mut tx = core.store.begin().await?;
    let before = open(core, caller, agents::credentials(&mut tx, caller.user()).await?)?;
    let set = request.env_vars.iter().filter(|(_, value)| value.is_some());
    validate::settable(set.map(|(name, _)| name.as_str()))?;
    let after: environment::Variables = merged(before, request.env_vars);
    validate::variables(
        after
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret())),
    )?;
    for (name, value) in &after {
        if value.expose_secret().contains(['\r', '\n']) && name != "ANTHROPIC_CUSTOM_HEADERS" {
            return Err(Error::invalid(format!("envVars.{name}"), "it holds a line break"));
        }
    }
    let encrypted = encrypt_user(&core.key_ring, caller.user(), &after);
    agents::set_credentials(&mut tx, caller.user(), &encrypted).await?;
    audit::record(
        &mut tx,
        caller,
        "agent-credentials.change",
        format!("user {}", caller.user()),
    )
    .await?;
    tx.commit().await?;
    Ok(EnvironmentView {
        env_vars: env_vars(&after, false),
        restarting: false,
    })
}

fn open(
    core: &Core,
    caller: &Caller,
    encrypted: Option<Vec<u8>>,
) -> Result<BTreeMap<String, secrecy::SecretString>> {
    match encrypted {
        Some(encrypted) => decrypt_user(&core.key_ring, caller.user(), &encrypted),
        None => Ok(BTreeMap::new()),
    }
}

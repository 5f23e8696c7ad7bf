//! `fsa branch`: create, list, promote and delete branches of a project.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use fsa_model::{
    api::Sandbox,
    branch::{Branch, Branches, CreateBranch},
    event::{Event, EventKind},
};
use futures_util::TryStreamExt as _;
use reqwest::Method;

use super::lifecycle;
use crate::{
    args,
    client::{Client, encode},
    failure::{Code, Failure, Outcome},
    output,
};

pub async fn run(client: &Client, command: args::Branch, json: bool) -> Outcome {
    match command {
        args::Branch::Create {
            project,
            name,
            from,
            no_start,
            no_wait,
        } => {
            let request = CreateBranch {
                name,
                from,
                start: no_start.then_some(false),
            };
            create(client, &project, &request, no_wait, json).await
        }
        args::Branch::List { project } => list(client, &project, json).await,
        args::Branch::Promote {
            project,
            name,
            no_wait,
        } => promote(client, &project, &name, no_wait, json).await,
        args::Branch::Delete {
            project,
            name,
            yes,
            no_wait,
        } => delete(client, &project, &name, yes, no_wait).await,
    }
}

fn path(project: &str) -> String {
    format!("/api/projects/{}/branches", encode(project))
}

async fn create(
    client: &Client,
    project: &str,
    request: &CreateBranch,
    no_wait: bool,
    json: bool,
) -> Outcome {
    let mut branch: Branch = client.send(Method::POST, &path(project), request).await?;
    let reference = format!("{project}@{}", branch.name);
    if !no_wait && let Some(sandbox) = branch.sandbox.take() {
        let settled = lifecycle::settle(client, &encode(&reference), sandbox, &[], json).await?;
        branch.sandbox = Some(settled);
    }
    output::print(json, &branch, |branch| match &branch.sandbox {
        Some(sandbox) => lifecycle::show(&reference, sandbox),
        None => output::line(&format!("{reference} is created")),
    });
    Ok(0)
}

async fn list(client: &Client, project: &str, json: bool) -> Outcome {
    let all: Branches = client.get(&path(project)).await?;
    output::print_list(json, all.items, |all| {
        output::table(
            &["NAME", "STATUS", "APPLICATION", "AGE"],
            all.iter().map(|branch| {
                let sandbox = branch.sandbox.as_ref();
                vec![
                    branch.name.to_string(),
                    sandbox.map_or("TERMINATED".into(), |sandbox| lifecycle::phase(sandbox.status)),
                    sandbox
                        .map(|sandbox| sandbox.public_url.clone())
                        .unwrap_or_default(),
                    output::age(branch.created_at),
                ]
            }),
        );
    });
    Ok(0)
}

async fn promote(client: &Client, project: &str, name: &str, no_wait: bool, json: bool) -> Outcome {
    let path = format!("{}/{}/promote", path(project), encode(name));
    let mut sandbox: Sandbox = client.send(Method::POST, &path, &()).await?;
    if !no_wait {
        let before = sandbox.stages.clone();
        sandbox = lifecycle::settle(client, &encode(project), sandbox, &before, json).await?;
        if !json {
            output::notice(
                "the state of main before is kept as a snapshot, and the branch stays; main keeps its variables",
            );
        }
    }
    output::print(json, &sandbox, |sandbox| lifecycle::show(project, sandbox));
    Ok(0)
}

async fn delete(client: &Client, project: &str, name: &str, yes: bool, no_wait: bool) -> Outcome {
    let path = format!("{}/{}", path(project), encode(name));
    let branch: Branch = client.get(&path).await?;
    if !yes && !confirmed(project, &branch)? {
        return Err(Failure::new(Code::Failed, "the branch was not deleted"));
    }
    let events_path = format!("/api/projects/{}/events?tail=true", encode(project));
    let events = match no_wait {
        true => None,
        false => Some(client.events(&events_path, None).await?),
    };
    client.execute(Method::DELETE, &path, &()).await?;
    if let Some(mut events) = events {
        while let Some(message) = events.try_next().await? {
            let event: Option<Event> = serde_json::from_str(&message.data).ok();
            let is_end = |event: &Event| {
                event.kind == EventKind::BranchDeleted && event.branch.as_ref() == Some(&branch.name)
            };
            if event.as_ref().is_some_and(is_end) {
                break;
            }
        }
    }
    output::notice(&format!("{project}@{name} is deleted"));
    Ok(0)
}

/// Asks for the branch's name as a confirmation.
fn confirmed(project: &str, branch: &Branch) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "standard input is not a terminal: confirm with --yes to delete the branch, its files and its database",
        ));
    }
    let _ = write!(
        std::io::stderr(),
        "This deletes the branch {} of {project} with its files and its database. Type its name to confirm: ",
        branch.name
    );
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == branch.name.as_str())
}

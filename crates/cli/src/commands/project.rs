//! `fsa project`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, IsTerminal as _, Write as _},
};

use fsa_model::{
    Phase, Repository, Size,
    api::{ChangeProject, CreateProject, Page, Project},
    project_files::StartSuggestion,
    sharing::ProjectRole,
};
use futures_util::TryStreamExt as _;
use reqwest::Method;

use super::lifecycle;
use crate::{
    args::{self, ProjectCreate, ProjectSet},
    client::{Client, encode},
    failure::{Code, Failure, Outcome},
    output,
};

/// Exit code after Ctrl-C: 128 and SIGINT, as a shell shows it.
const INTERRUPTED: u8 = 128 + 2;

pub async fn run(client: &Client, command: args::Project, json: bool) -> Outcome {
    match command {
        args::Project::Create(create) => self::create(client, *create, json).await,
        args::Project::List => list(client, json).await,
        args::Project::Show { project } => {
            let project: Project = client.get(&format!("/api/projects/{}", encode(&project))).await?;
            output::print(json, &project, show);
            if !json {
                show_suggestion(client, &project).await;
            }
            Ok(0)
        }
        args::Project::Set(set) => change(client, *set, json).await,
        args::Project::Delete {
            project,
            yes,
            no_wait,
        } => delete(client, &project, yes, no_wait).await,
    }
}

async fn create(client: &Client, create: ProjectCreate, json: bool) -> Outcome {
    let request = CreateProject {
        name: create.name,
        description: create.description,
        template: create.template,
        image: create.image,
        size: create.size.as_deref().and_then(Size::parse),
        region: create.region,
        env_vars: variables(&create.environment)?,
        repository: create.repository.map(|url| Repository {
            url,
            branch: create.branch,
        }),
        git_credential: None,
        start_command: create.start_command,
        start: create.no_start.then_some(false),
    };
    let mut project: Project = client.send(Method::POST, "/api/projects", &request).await?;
    if !create.no_wait
        && let Some(sandbox) = project.sandbox.take()
    {
        let id = encode(&project.id.to_string());
        project.sandbox = tokio::select! {
            settled = lifecycle::settle(client, &id, sandbox, &[], json) => Some(settled?),
            _ = tokio::signal::ctrl_c() => {
                output::notice(&format!(
                    "{0} was created, and its start continues. `fsa project show {0}` shows it, `fsa project delete \
                     {0}` deletes it.",
                    project.name
                ));
                return Ok(INTERRUPTED);
            }
        };
    }
    output::print(json, &project, |project| match &project.sandbox {
        Some(sandbox) => lifecycle::show(project.name.as_str(), sandbox),
        None => output::line(&format!("{} is created", project.name)),
    });
    if !json {
        show_suggestion(client, &project).await;
    }
    Ok(0)
}

async fn change(client: &Client, set: ProjectSet, json: bool) -> Outcome {
    let clearable = |text: String| (!text.is_empty()).then_some(text);
    let request = ChangeProject {
        name: set.name,
        description: set.description.map(clearable),
        start_command: set.start_command.map(clearable),
        size: set.size.as_deref().and_then(Size::parse),
        template: set.template,
        image: set.image,
        repository: set.repository.map(|url| {
            clearable(url).map(|url| Repository {
                url,
                branch: set.branch,
            })
        }),
    };
    let path = format!("/api/projects/{}", encode(&set.project));
    let project: Project = client.send(Method::PATCH, &path, &request).await?;
    output::print(json, &project, show);
    Ok(0)
}

async fn list(client: &Client, json: bool) -> Outcome {
    let mut all: Vec<Project> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<Project> = client.get(&format!("/api/projects{cursor}")).await?;
        all.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("?cursor={}", encode(&next)),
            None => break,
        }
    }
    output::print_list(json, all, |all| {
        if all.is_empty() {
            output::line("No projects. Create one with `fsa project create NAME`.");
            return;
        }
        output::table(
            &["NAME", "STATUS", "IMAGE", "SIZE", "REGION", "AGE"],
            all.iter().map(|project| {
                vec![
                    // The unambiguous name of another user's project.
                    match project.role {
                        ProjectRole::Owner => project.name.to_string(),
                        _ => format!("{}/{}", project.owner_login, project.name),
                    },
                    project
                        .sandbox
                        .as_ref()
                        .map_or("TERMINATED".into(), |sandbox| lifecycle::phase(sandbox.status)),
                    project
                        .template
                        .clone()
                        .or_else(|| project.image.clone())
                        .unwrap_or_default(),
                    project.size.as_str().to_owned(),
                    project.region.clone(),
                    output::age(project.created_at),
                ]
            }),
        );
    });
    Ok(0)
}

/// Shows the suggested start command of a running project with a repository that has none.
async fn show_suggestion(client: &Client, project: &Project) {
    let runs = project
        .sandbox
        .as_ref()
        .is_some_and(|sandbox| sandbox.status == Phase::Running);
    if !runs || project.start_command.is_some() || project.repository.is_none() {
        return;
    }
    let path = format!(
        "/api/projects/{}/start-suggestion",
        encode(&project.id.to_string())
    );
    // It is not what the command is for, so a failure is not its own.
    if let Ok(StartSuggestion {
        command: Some(command),
        file: Some(file),
    }) = client.get(&path).await
    {
        output::notice(&format!(
            "Suggested start command, from {file}; set it with\n  fsa project set {} --start-command '{command}'",
            project.name
        ));
    }
}

fn show(project: &Project) {
    let row = |name: &str, value: &str| output::line(&format!("{name:<14} {value}"));
    row("name", project.name.as_str());
    row("id", &project.id.to_string());
    if project.role != ProjectRole::Owner {
        row("owner", &project.owner_login);
        row("your role", project.role.as_str());
    }
    if let Some(description) = &project.description {
        row("description", description);
    }
    row(
        "image",
        project
            .template
            .as_deref()
            .or(project.image.as_deref())
            .unwrap_or_default(),
    );
    row("size", project.size.as_str());
    row("region", &project.region);
    if let Some(repository) = &project.repository {
        row("repository", &repository.url);
    }
    if let Some(command) = &project.start_command {
        row("start command", command);
    }
    let Some(sandbox) = &project.sandbox else { return };
    row("status", &lifecycle::phase(sandbox.status));
    if let Some(error) = &sandbox.error {
        row("error", &error.failure.message);
    }
    row("application", &sandbox.public_url);
    row("terminal", &sandbox.terminal_url);
    for port in &sandbox.ports {
        row(
            &format!("port {}", port.port),
            &format!("{} {}", port.url, port.process.as_deref().unwrap_or_default()),
        );
    }
}

async fn delete(client: &Client, name: &str, yes: bool, no_wait: bool) -> Outcome {
    let path = format!("/api/projects/{}", encode(name));
    let project: Project = client.get(&path).await?;
    if !yes && !confirmed(&project)? {
        return Err(Failure::new(Code::Failed, "the project was not deleted"));
    }
    let events_path = format!(
        "/api/projects/{}/events?tail=true",
        encode(&project.id.to_string())
    );
    let events = if no_wait {
        None
    } else {
        Some(client.events(&events_path, None).await?)
    };
    client.execute(Method::DELETE, &path, &()).await?;
    if let Some(mut events) = events {
        while let Some(event) = events.try_next().await? {
            if event.data.contains("\"projectDeleted\"") {
                break;
            }
        }
    }
    output::notice(&format!("{name} is deleted"));
    Ok(0)
}

/// Asks for the project's name as a confirmation.
fn confirmed(project: &Project) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "standard input is not a terminal: confirm with --yes to delete the project, its files and its database",
        ));
    }
    let _ = write!(
        std::io::stderr(),
        "This deletes {0} with its files and its database. Type its name to confirm: ",
        project.name
    );
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == project.name.as_str())
}

/// `NAME=VALUE` arguments.
pub fn variables(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    pairs
        .iter()
        .map(|pair| {
            pair.split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .ok_or_else(|| Failure::usage(format!("{pair:?} is not NAME=VALUE")))
        })
        .collect()
}

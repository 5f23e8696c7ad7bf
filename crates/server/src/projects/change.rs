//! Project changes: name, description, start command, size, image, and the repository until it is cloned. A change
//! that applies only at a start restarts the running sandboxes of all branches.

use fsa_model::{BranchName, api::ChangeProject, event::EventKind, limits::Adds, sandboxd::RepositoryState};
use sqlx::PgConnection;

use super::validate;
use crate::{
    auth::{Caller, permission::Manage},
    core::Core,
    error::{Error, Result},
    store::{
        branches::{self, BranchReference},
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, Overview, ProjectRow},
        quotas, sandboxes,
    },
};

/// The field of the repository, which can be changed only until it is cloned.
const REPOSITORY: &str = "repository";

/// Changes a project of the caller. Fields that the request leaves out stay unchanged.
///
/// # Errors
/// Not found; 422 with the field and its rule; 409 where the caller has another project of that name, or the
/// repository to change is cloned already.
pub async fn change(core: &Core, caller: &Caller, project: &str, request: ChangeProject) -> Result<Overview> {
    let found = projects::find::<Manage>(&core.store, caller, project).await?;
    let mut tx = core.store.begin().await?;
    let before = projects::lock(&mut tx, &found).await?;
    let after = changed(&before, request)?;
    let fields = differences(&before, &after);
    if !fields.is_empty() {
        if fields.contains(&REPOSITORY) && is_cloned(&mut tx, &before).await? {
            let sentence = "The repository is already cloned.";
            return Err(Error::conflict(sentence).with_message(format!(
                "{sentence} Change its remote in the sandbox (`git remote set-url origin URL`), or create another \
                 project from the other repository."
            )));
        }
        projects::update(&mut tx, &after).await?;
        let restarting = needs_restart(&fields) && sandboxes::bump_running(&mut tx, before.id, None).await?;
        if restarting && needs_more_resources(&before, &after) {
            let adds = Adds {
                projects: false,
                running: true,
                disk: true,
            };
            quotas::check(&mut tx, &core.settings.limits, before.owner, adds)
                .await
                .map_err(|error| error.with_project(before.id))?;
        }
        let message = if restarting {
            format!(
                "The project was changed ({}); the sandbox restarts.",
                fields.join(", ")
            )
        } else {
            format!("The project was changed ({}).", fields.join(", "))
        };
        let event = NewEvent::new(&after, EventKind::ProjectChanged, message)
            .with(serde_json::json!({"fields": fields, "restarting": restarting, "by": caller.login()}));
        events::append(&mut tx, event).await?;
        tx.commit().await?;
        if restarting {
            core.hub.wake(Topic::DesiredState);
        }
    }
    projects::overview(&core.store, caller, &BranchReference::main(before.id)).await
}

/// Whether the main sandbox has reported the clone, which is made once.
async fn is_cloned(tx: &mut PgConnection, project: &ProjectRow) -> Result<bool> {
    let sandbox = match branches::named(tx, project.id, &BranchName::main()).await? {
        Some(main) => sandboxes::of_branch_in(tx, main.volume).await?,
        None => None,
    };
    let status = sandbox.and_then(|sandbox| sandbox.status);
    Ok(status.is_some_and(|status| status.repository == RepositoryState::Cloned))
}

/// Pure: the project with the request's changes.
fn changed(before: &ProjectRow, request: ChangeProject) -> Result<ProjectRow> {
    let mut after = before.clone();
    if let Some(name) = &request.name {
        after.name = validate::name(name)?;
    }
    if let Some(description) = request.description {
        if let Some(description) = &description {
            validate::description(description)?;
        }
        after.description = description;
    }
    if let Some(command) = request.start_command {
        if let Some(command) = &command {
            validate::start_command(command)?;
        }
        after.start_command = command;
    }
    if let Some(size) = request.size {
        after.size = size;
    }
    if let Some(image) = validate::image(request.template.as_deref(), request.image.as_deref())? {
        after.image = image;
    }
    if let Some(repository) = request.repository {
        if let Some(repository) = &repository {
            validate::repository(repository)?;
        }
        after.repository = repository;
    }
    Ok(after)
}

/// Pure: the fields that differ, by their names in the API.
fn differences(before: &ProjectRow, after: &ProjectRow) -> Vec<&'static str> {
    [
        ("name", before.name != after.name),
        ("description", before.description != after.description),
        ("startCommand", before.start_command != after.start_command),
        ("size", before.size != after.size),
        ("image", before.image != after.image),
        (REPOSITORY, before.repository != after.repository),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}

fn needs_more_resources(before: &ProjectRow, after: &ProjectRow) -> bool {
    let limits = |project: &ProjectRow| {
        let resources = project.size.resources();
        (resources.cpu_limit_millis, resources.memory_limit_mib)
    };
    let (before, after) = (limits(before), limits(after));
    after.0 > before.0 || after.1 > before.1
}

fn needs_restart(fields: &[&str]) -> bool {
    ["startCommand", "size", "image", REPOSITORY]
        .iter()
        .any(|field| fields.contains(field))
}

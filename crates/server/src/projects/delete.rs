//! Project deletion: marks a project as deleted. Workers remove the sandboxes, files and databases of all its branches,
//! and at last its row.

use fsa_model::event::EventKind;

use crate::{
    auth::{Caller, permission::Own},
    core::Core,
    error::Result,
    store::{
        audit,
        branches::BranchReference,
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, Overview},
    },
};

/// Deletes a project of the caller. A repeated request during deletion changes nothing.
///
/// # Errors
/// Not found; 403 for anyone but its owner; the database does not answer.
pub async fn delete(core: &Core, caller: &Caller, project: &str) -> Result<Overview> {
    let found = projects::find_any::<Own>(&core.store, caller, project).await?;
    let overview = projects::overview(&core.store, caller, &BranchReference::main(found.id)).await?;
    if overview.project.deleted_at.is_some() {
        return Ok(overview);
    }
    let mut tx = core.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    projects::mark_deleted(&mut tx, project.id).await?;
    audit::record(
        &mut tx,
        caller,
        "project.delete",
        format!("project {} ({})", project.id, project.name),
    )
    .await?;
    let message = format!(
        "Asked to delete the project {} with its files and its database.",
        project.name
    );
    let event = NewEvent::new(&project, EventKind::LifecycleRequested, message)
        .with(serde_json::json!({"action": "delete", "by": caller.login()}));
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    Ok(overview)
}

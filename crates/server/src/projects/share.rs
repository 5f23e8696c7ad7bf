//! Project sharing: members, their roles, and the end of a share.

use fsa_model::{
    ProjectId, UserId,
    event::EventKind,
    sharing::{Member, ProjectRole},
};

use crate::{
    auth::permission::{Authorized, Manage, Permission, Read},
    core::Core,
    error::{Error, Result},
    store::{
        audit,
        events::{self, NewEvent},
        members,
        notify::Topic,
        project_access,
    },
};

/// All users who may use the project.
///
/// # Errors
/// The database does not answer.
pub async fn list(core: &Core, project: &Authorized<Read>) -> Result<Vec<Member>> {
    members::list(&core.store, project.id).await
}

/// Shares the project with a user as `role`, or changes their role.
///
/// # Errors
/// Not found (the user); 422 for the role owner; 409 for the project's owner, or where the project has too many
/// members.
pub async fn share(
    core: &Core,
    project: &Authorized<Manage>,
    user: &str,
    role: ProjectRole,
) -> Result<Vec<Member>> {
    if role == ProjectRole::Owner {
        return Err(Error::invalid("role", "it is viewer, editor or admin"));
    }
    let mut tx = core.store.begin().await?;
    let project = project_access::lock(&mut tx, project).await?;
    let (user, login) = members::find_user(&mut tx, user).await?;
    if user == project.owner {
        return Err(Error::conflict(format!("{login} owns this project.")).with_project(project.id));
    }
    let before = members::set(&mut tx, project.id, user, role).await?;
    if before != Some(role) {
        let object = format!("project {} with {login} as {role}", project.id);
        audit::record(&mut tx, project.caller(), "project.share", object).await?;
        let message = format!("The project is shared with {login} as {role}.");
        let event = changed(
            &project,
            message,
            serde_json::json!({"user": login, "role": role}),
        );
        events::append(&mut tx, event).await?;
        tx.commit().await?;
        wake_subscribers(core, project.id, user);
    }
    members::list(&core.store, project.id).await
}

/// Ends a share. Open connections of that user to the project end too. A member may always leave.
///
/// # Errors
/// Not found, where the project is not shared with the user; 403 where the caller removes another user without
/// permission to manage the project.
pub async fn unshare(core: &Core, project: &Authorized<Read>, user: &str) -> Result<()> {
    let caller = project.caller();
    caller.must_write()?;
    let is_own = user == caller.login() || user.parse() == Ok(caller.user());
    let mut tx = core.store.begin().await?;
    if !is_own {
        project_access::lock(&mut tx, &project.with_permission::<Manage>()?).await?;
    }
    let (removed, login) = members::remove(&mut tx, project.id, user)
        .await?
        .ok_or_else(|| Error::not_found("member").with_project(project.id))?;
    let object = format!("project {} with {login}", project.id);
    audit::record(&mut tx, caller, "project.unshare", object).await?;
    let message = format!("The project is no longer shared with {login}.");
    let event = changed(project, message, serde_json::json!({"user": login, "role": null})).lost_by(removed);
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    wake_subscribers(core, project.id, removed);
    Ok(())
}

fn changed<R: Permission>(project: &Authorized<R>, message: String, member: serde_json::Value) -> NewEvent {
    NewEvent::new(project, EventKind::ProjectChanged, message).with(serde_json::json!({
        "fields": ["members"], "member": member, "by": project.caller().login(),
    }))
}

/// Wakes subscribers in this process without waiting for its own notification.
fn wake_subscribers(core: &Core, project: ProjectId, user: UserId) {
    core.hub.wake(Topic::Credentials(user));
    core.hub.wake(Topic::Project(project));
}

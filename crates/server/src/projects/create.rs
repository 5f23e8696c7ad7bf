//! Project creation: writes the project, its database, its main sandbox and the event in one transaction.

use fsa_model::{
    BranchName, DesiredState, Image, ProjectId, ResourceName, api::CreateProject, event::EventKind,
    limits::Adds,
};

use super::{
    environment::{self, Variables},
    git, lifecycle, validate,
};
use crate::{
    auth::{Caller, secret},
    core::Core,
    encryption::KeyRing,
    error::{Error, Result},
    store::{
        associated_data,
        branches::{self, BranchReference},
        databases,
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, NewProject, Overview},
        quotas,
    },
};

/// Creates a project of the caller. Its sandbox starts unless the request says otherwise.
///
/// # Errors
/// 422 with the field and its rule; 409 where the caller has a project of this name.
pub async fn create(core: &Core, caller: &Caller, request: CreateProject) -> Result<Overview> {
    create_from(core, caller, request, None).await
}

/// Same as [`create`]; the files and databases are those of a backup, which is named by its snapshot in the repository.
///
/// # Errors
/// Same as [`create`]; 409 where the region has no backups.
pub async fn create_from(
    core: &Core,
    caller: &Caller,
    request: CreateProject,
    backup: Option<&str>,
) -> Result<Overview> {
    let name = validate::name(&request.name)?;
    let image = validate::image(request.template.as_deref(), request.image.as_deref())?
        .unwrap_or_else(|| Image::Template(validate::TEMPLATES[0].to_owned()));
    if let Some(description) = &request.description {
        validate::description(description)?;
    }
    if let Some(repository) = &request.repository {
        validate::repository(repository)?;
    }
    if let Some(command) = &request.start_command {
        validate::start_command(command)?;
    }
    validate::plain_variables(&request.env_vars)?;
    let region = region(core, request.region.as_deref())?;
    if backup.is_some()
        && core
            .regions
            .get(region)
            .is_none_or(|region| region.driver.volume_files().is_none())
    {
        return Err(Error::conflict(format!(
            "The region {region} has no backups; restore in a region of the local driver."
        )));
    }

    let id = ProjectId::generate();
    let variables: Variables = request
        .env_vars
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    let needs_database = environment::needs_database(&variables);
    let new = NewProject {
        id,
        owner: caller.user(),
        name: &name,
        description: request.description.as_deref(),
        image: &image,
        size: request.size.unwrap_or_default(),
        region,
        repository: request.repository.as_ref(),
        start_command: request.start_command.as_deref(),
        environment: &environment::encrypt_project(&core.key_ring, id, &variables),
    };
    let desired_state = match request.start {
        Some(false) => DesiredState::Stopped,
        _ => DesiredState::Running,
    };
    let resource = ResourceName::generate(&name);
    let password = database_password(&core.key_ring, id);

    let mut tx = core.store.begin().await?;
    projects::insert(&mut tx, new).await?;
    if let Some(login) = &request.git_credential {
        let Some(repository) = &request.repository else {
            return Err(Error::invalid(
                "gitCredential",
                "it needs a repository, and the project has none",
            ));
        };
        git::store(
            &mut tx,
            &core.key_ring,
            id,
            &repository.url,
            &login.username,
            &login.password,
        )
        .await?;
    }
    if needs_database {
        databases::ensure(&mut tx, id, &resource, &password).await?;
    }
    // The insertion of the project has made it.
    let main = branches::named(&mut tx, id, &BranchName::main())
        .await?
        .ok_or_else(|| Error::internal("A new project has no main branch."))?;
    if let Some(backup) = backup {
        branches::set_source_backup(&mut tx, main.volume, backup).await?;
    }
    let sandbox =
        lifecycle::create_sandbox(core, &mut tx, &main, &resource, desired_state, &Variables::new()).await?;
    let adds = Adds {
        projects: true,
        running: desired_state == DesiredState::Running,
        disk: true,
    };
    quotas::check(&mut tx, &core.settings.limits, caller.user(), adds).await?;
    let event = NewEvent {
        owner: caller.user(),
        project: id,
        sandbox: Some(sandbox),
        branch: None,
        kind: EventKind::ProjectCreated,
        message: format!("The project {name} was created."),
        data: serde_json::json!({"name": name, "by": caller.login(), "backup": backup}),
        lost_by: Vec::new(),
    };
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    projects::overview(&core.store, caller, &BranchReference::main(id)).await
}

/// A new password of a project's database, encrypted.
pub(super) fn database_password(key_ring: &KeyRing, project: ProjectId) -> Vec<u8> {
    key_ring.encrypt(
        associated_data::database_password(&project.to_string()),
        &secret::random(),
    )
}

fn region<'a>(core: &'a Core, name: Option<&'a str>) -> Result<&'a str> {
    let name = name.unwrap_or_else(|| core.regions.default_name());
    match core.regions.get(name) {
        Some(_) => Ok(name),
        None => {
            let names: Vec<_> = core.regions.iter().map(|region| region.name.as_str()).collect();
            Err(Error::invalid(
                "region",
                format!("it must be one of {}", names.join(", ")),
            ))
        }
    }
}

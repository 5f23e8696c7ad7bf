//! Status of a project and its sandbox in the API: pure functions of their rows.

use chrono::{DateTime, Utc};
use fsa_model::{
    Image, Phase,
    api::{HostHeader, Port, Project, Sandbox, SandboxError},
    branch::Branch,
    host,
    sandboxd::{KNOWN_PORTS, Status},
    sharing::ProjectRole,
};

use crate::{
    settings::Settings,
    store::{projects::Overview, sandboxes::SandboxRow},
};

/// The maximum number of ports shown. A sandbox could report any number.
const MAX_PORTS: usize = 100;
/// The maximum length, in characters, of text that a sandbox reports about itself.
const MAX_TEXT: usize = 64;

/// A project, with the sandbox of its main branch.
#[must_use]
pub fn project(settings: &Settings, overview: &Overview) -> Project {
    let row = &overview.project;
    let (template, image) = match &row.image {
        Image::Template(name) => (Some(name.clone()), None),
        Image::Reference(reference) => (None, Some(reference.clone())),
    };
    Project {
        id: row.id,
        name: row.name.clone(),
        description: row.description.clone(),
        owner_id: row.owner,
        owner_login: overview.owner_login.clone(),
        role: overview.role,
        template,
        image,
        size: row.size,
        region: row.region.clone(),
        repository: row.repository.clone(),
        start_command: row.start_command.clone(),
        sandbox: sandbox(settings, overview),
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

/// A branch, with its sandbox.
#[must_use]
pub fn branch(settings: &Settings, overview: &Overview) -> Branch {
    Branch {
        id: overview.branch.volume,
        project_id: overview.project.id,
        name: overview.branch.name.clone(),
        sandbox: sandbox(settings, overview),
        created_at: overview.branch.created_at,
    }
}

/// A branch's sandbox, where it has one.
#[must_use]
pub fn sandbox(settings: &Settings, overview: &Overview) -> Option<Sandbox> {
    let row = overview.sandbox.as_ref()?;
    let phase = row.phase();
    // sandboxd's last report is outdated once it stopped.
    let report = row
        .status
        .as_ref()
        .filter(|_| matches!(phase, Phase::Running | Phase::Updating | Phase::Error));
    Some(Sandbox {
        id: row.id,
        project_id: row.project,
        branch: overview.branch.name.clone(),
        name: row.resource.to_string(),
        status: phase,
        desired_state: row.desired_state,
        stages: row.conditions.clone(),
        public_url: port_url(settings, overview, KNOWN_PORTS[0]),
        terminal_url: format!(
            "{}/p/{}{}?view=terminal",
            settings.origin_text(),
            // A name refers to the viewer's own project first.
            match overview.role {
                ProjectRole::Owner => overview.project.name.to_string(),
                _ => overview.project.id.to_string(),
            },
            match overview.branch.name.is_main() {
                true => String::new(),
                false => format!("@{}", overview.branch.name),
            }
        ),
        ports: report
            .map(|status| ports(settings, overview, status))
            .unwrap_or_default(),
        start_command: report.map(|status| status.start_command.clone()),
        repository: report.map(|status| status.repository.clone()),
        error: error(row),
        created_at: row.created_at,
        updated_at: last_change(row),
    })
}

/// The URL of a port of a branch.
#[must_use]
pub fn port_url(settings: &Settings, overview: &Overview, port: u16) -> String {
    let owner = overview.name_is_shared.then(|| {
        let login = (!overview.login_is_former).then_some(overview.owner_login.as_str());
        host::owner_slug(login, overview.project.owner)
    });
    let branch = (&overview.branch.name, overview.branch.volume);
    let target = host::HostTarget::new(&overview.project.name, branch, owner.as_deref());
    settings.app_url(&target.port(port).to_string())
}

fn ports(settings: &Settings, overview: &Overview, status: &Status) -> Vec<Port> {
    status
        .ports
        .iter()
        .take(MAX_PORTS)
        .map(|listening| Port {
            port: listening.port,
            process: listening.process.as_deref().map(bounded_text),
            url: port_url(settings, overview, listening.port),
            sharing: overview.shares.get(&listening.port).copied().unwrap_or_default(),
            host_header: HostHeader::default(),
            public_paths: Vec::new(),
        })
        .collect()
}

fn error(row: &SandboxRow) -> Option<SandboxError> {
    row.failure.as_ref().map(|failure| SandboxError {
        failure: failure.clone(),
        attempts: row.attempts,
        next_attempt_at: Some(row.next_attempt_at),
    })
}

fn last_change(row: &SandboxRow) -> DateTime<Utc> {
    row.observed_at
        .map_or(row.updated_at, |observed| observed.max(row.updated_at))
}

fn bounded_text(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

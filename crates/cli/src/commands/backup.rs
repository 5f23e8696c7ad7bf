//! `fsa backup`: backups of projects in the server's repository.

use std::time::Duration;

use fsa_model::{
    api::{Page, Project},
    backup::{Backup, BackupState, RestoreBackup},
};
use reqwest::Method;

use super::lifecycle;
use crate::{
    args,
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
};

/// Time between two looks at a backup that is being stored or verified.
const POLL: Duration = Duration::from_millis(500);

pub async fn run(client: &Client, command: args::Backup, json: bool) -> Outcome {
    match command {
        args::Backup::Create { project, no_wait } => {
            let path = format!("/api/projects/{}/backups", encode(&project));
            let mut backup: Backup = client.send(Method::POST, &path, &()).await?;
            if !no_wait {
                backup = until(client, backup, |backup| {
                    !matches!(backup.state, BackupState::Queued | BackupState::Running)
                })
                .await?;
                check(&backup)?;
            }
            output::print(json, &backup, |backup| match backup.state {
                BackupState::Ready => output::line(&format!(
                    "backup {} is stored: {} files, {}, of which {} are new",
                    backup.id,
                    backup.files,
                    megabytes(backup.bytes),
                    megabytes(backup.added_bytes)
                )),
                _ => output::line(&format!("backup {} is being stored", backup.id)),
            });
        }
        args::Backup::List { project, foreign } => {
            let path = match project {
                Some(project) => format!("/api/projects/{}/backups", encode(&project)),
                None if foreign => "/api/backups?foreign=true".to_owned(),
                None => "/api/backups".to_owned(),
            };
            let page: Page<Backup> = client.get(&path).await?;
            output::print(json, &page, |page| list(&page.items));
        }
        args::Backup::Show { backup } => {
            let backup: Backup = client.get(&one(&backup)).await?;
            output::print(json, &backup, show);
        }
        args::Backup::Restore {
            backup,
            name,
            region,
            no_wait,
        } => {
            let request = RestoreBackup {
                name,
                region,
                start: None,
            };
            let path = format!("{}/restore", one(&backup));
            let project: Project = client.send(Method::POST, &path, &request).await?;
            if no_wait {
                output::print(json, &project, |project| {
                    output::line(&format!("project {} is being restored", project.name));
                });
                return Ok(0);
            }
            let name = project.name.to_string();
            let sandbox = project
                .sandbox
                .ok_or_else(|| Failure::failed("the new project has no sandbox"))?;
            let sandbox = lifecycle::settle(client, &encode(&name), sandbox, &[], json).await?;
            output::print(json, &sandbox, |sandbox| lifecycle::show(&name, sandbox));
        }
        args::Backup::Verify { backup, no_wait } => {
            let path = format!("{}/verify", one(&backup));
            let mut backup: Backup = client.send(Method::POST, &path, &()).await?;
            if !no_wait {
                backup = until(client, backup, |backup| !backup.verifying).await?;
                if let Some(error) = &backup.error {
                    return Err(Failure::failed(error.message.clone()));
                }
            }
            let damaged = backup
                .verification
                .as_ref()
                .is_some_and(|last| !last.problems.is_empty());
            output::print(json, &backup, show);
            if damaged && !no_wait {
                return Err(Failure::failed(format!("backup {} is damaged", backup.id)));
            }
        }
        args::Backup::Cancel { backup } => {
            let path = format!("{}/cancel", one(&backup));
            let backup: Backup = client.send(Method::POST, &path, &()).await?;
            output::print(json, &backup, |backup| {
                output::line(&format!("backup {} is being canceled", backup.id));
            });
        }
        args::Backup::Delete { backup } => {
            let backup: Backup = client.send(Method::DELETE, &one(&backup), &()).await?;
            output::print(json, &backup, |backup| {
                output::line(&format!("backup {} is being deleted", backup.id));
            });
        }
    }
    Ok(0)
}

fn one(backup: &str) -> String {
    format!("/api/backups/{}", encode(backup))
}

/// Waits until `done` is true of the backup.
async fn until(
    client: &Client,
    mut backup: Backup,
    done: impl Fn(&Backup) -> bool,
) -> Result<Backup, Failure> {
    let path = one(&backup.id.to_string());
    while !done(&backup) {
        tokio::time::sleep(POLL).await;
        backup = client.get(&path).await?;
    }
    Ok(backup)
}

fn check(backup: &Backup) -> Result<(), Failure> {
    match (&backup.error, backup.state) {
        (Some(failure), BackupState::Failed) => Err(Failure::failed(failure.message.clone())),
        (_, BackupState::Canceled) => Err(Failure::failed("the backup was canceled")),
        _ => Ok(()),
    }
}

fn list(backups: &[Backup]) {
    let row = |backup: &Backup| {
        vec![
            backup.id.to_string(),
            match backup.branch.is_main() {
                true => backup.project_name.clone(),
                false => format!("{}@{}", backup.project_name, backup.branch),
            },
            word(&backup.state),
            output::age(backup.created_at),
            megabytes(backup.bytes),
            megabytes(backup.added_bytes),
        ]
    };
    output::table(
        &["ID", "PROJECT", "STATE", "AGE", "SIZE", "ADDED"],
        backups.iter().map(row),
    );
}

fn show(backup: &Backup) {
    output::line(&format!(
        "backup {}  {}  {}",
        backup.id,
        word(&backup.state),
        backup.project_name
    ));
    let by = backup.created_by.as_deref().map(|login| format!(" by {login}"));
    output::line(&format!(
        "created {}{}",
        backup.created_at.to_rfc3339(),
        by.unwrap_or_default()
    ));
    output::line(&format!(
        "{} files, {}, of which {} were new",
        backup.files,
        megabytes(backup.bytes),
        megabytes(backup.added_bytes)
    ));
    if let Some(snapshot) = &backup.repository_snapshot {
        output::line(&format!("snapshot {snapshot} of the repository"));
    }
    if let Some(last) = &backup.verification {
        match last.problems.is_empty() {
            true => output::line(&format!("verified {}", last.at.to_rfc3339())),
            false => output::line(&format!("damaged, found {}", last.at.to_rfc3339())),
        }
        for problem in &last.problems {
            output::line(&format!("  {problem}"));
        }
    }
    if let Some(error) = &backup.error {
        output::line(&format!("error: {error}"));
    }
}

/// The name of a variant in the API.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

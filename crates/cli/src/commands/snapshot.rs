//! `fsa snapshot` and `fsa restore`: snapshots of a project's files and database.

use fsa_model::{
    api::{Page, Sandbox},
    snapshot::{CreateSnapshot, Snapshot, SnapshotState},
    snapshot_schedule::{SnapshotSchedule, SnapshotScheduleView},
};
use futures_util::TryStreamExt as _;
use reqwest::Method;

use super::{lifecycle, snapshot_diff};
use crate::{
    args,
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
};

pub async fn run(client: &Client, command: args::Snapshot, json: bool) -> Outcome {
    match command {
        args::Snapshot::Create { project, name } => {
            let request = CreateSnapshot { name };
            let taken: Snapshot = client.send(Method::POST, &path(&project), &request).await?;
            let taken = until_taken(client, &project, taken).await?;
            output::print(json, &taken, |taken| {
                output::line(&format!("{} is taken", title(taken)))
            });
        }
        args::Snapshot::List { project } => {
            let page: Page<Snapshot> = client.get(&path(&project)).await?;
            output::print(json, &page, |page| list(&page.items));
        }
        args::Snapshot::Show { project, snapshot } => {
            let snapshot: Snapshot = client.get(&one(&project, &snapshot)).await?;
            output::print(json, &snapshot, show);
        }
        args::Snapshot::Diff {
            project,
            snapshot,
            to,
            text,
            database,
        } => {
            let path = format!("{}/diff", one(&project, &snapshot));
            let to = to.as_deref();
            match (text, database) {
                (true, _) => snapshot_diff::text(client, &path, to, json).await?,
                (_, true) => snapshot_diff::database(client, &path, to, json).await?,
                _ => snapshot_diff::files(client, &path, to, json).await?,
            }
        }
        args::Snapshot::Schedule {
            project,
            hourly,
            daily,
            off,
            reset,
        } => {
            let path = format!("/api/projects/{}/snapshot-schedule", encode(&project));
            let shown: SnapshotScheduleView = match (off, reset) {
                (true, _) => client.send(Method::PUT, &path, &SnapshotSchedule::OFF).await?,
                (_, true) => client.send(Method::DELETE, &path, &()).await?,
                _ => set_schedule(client, &path, hourly, daily).await?,
            };
            output::print(json, &shown, show_schedule);
        }
        args::Snapshot::Delete { project, snapshot } => {
            let path = one(&project, &snapshot);
            let deleted: Snapshot = client.send(Method::DELETE, &path, &()).await?;
            output::print(json, &deleted, |deleted| {
                output::line(&format!("{} is being deleted", title(deleted)));
            });
        }
    }
    Ok(0)
}

pub async fn restore(client: &Client, arguments: &args::Restore, json: bool) -> Outcome {
    let path = format!("{}/restore", one(&arguments.project, &arguments.snapshot));
    let mut sandbox: Sandbox = client.send(Method::POST, &path, &()).await?;
    if !arguments.no_wait {
        let before = sandbox.stages.clone();
        let project = encode(&arguments.project);
        sandbox = lifecycle::settle(client, &project, sandbox, &before, json).await?;
        if !json {
            output::notice("the state before the restore is kept as a snapshot");
        }
    }
    output::print(json, &sandbox, |sandbox| {
        lifecycle::show(&arguments.project, sandbox)
    });
    Ok(0)
}

/// Changes the numbers that are given, and shows the schedule.
async fn set_schedule(
    client: &Client,
    path: &str,
    hourly: Option<u16>,
    daily: Option<u16>,
) -> Result<SnapshotScheduleView, Failure> {
    let shown: SnapshotScheduleView = client.get(path).await?;
    if hourly.is_none() && daily.is_none() {
        return Ok(shown);
    }
    let schedule = SnapshotSchedule {
        hourly: hourly.unwrap_or(shown.hourly),
        daily: daily.unwrap_or(shown.daily),
    };
    client.send(Method::PUT, path, &schedule).await
}

fn show_schedule(shown: &SnapshotScheduleView) {
    let of = if shown.is_default { " (default)" } else { "" };
    output::line(&match (shown.hourly, shown.daily) {
        (0, 0) => format!("no scheduled snapshots{of}"),
        (hourly, daily) => format!("{hourly} hourly, {daily} daily{of}"),
    });
    if let Some(refused) = &shown.refused {
        output::notice(&format!("the last one was not taken: {refused}"));
    }
}

fn path(project: &str) -> String {
    format!("/api/projects/{}/snapshots", encode(project))
}

fn one(project: &str, snapshot: &str) -> String {
    format!("{}/{}", path(project), encode(snapshot))
}

/// Waits for a snapshot that takes longer than the server's response.
async fn until_taken(client: &Client, project: &str, mut snapshot: Snapshot) -> Result<Snapshot, Failure> {
    let (path, events) = (
        one(project, &snapshot.id.to_string()),
        format!("/api/projects/{}/events?tail=true", encode(project)),
    );
    while snapshot.state == SnapshotState::Creating {
        let mut events = client.events(&events, None).await?;
        // For changes before the stream was open.
        snapshot = client.get(&path).await?;
        while snapshot.state == SnapshotState::Creating && events.try_next().await?.is_some() {
            snapshot = client.get(&path).await?;
        }
    }
    match &snapshot.error {
        Some(failure) if snapshot.state == SnapshotState::Failed => {
            Err(Failure::failed(failure.message.clone()))
        }
        _ => Ok(snapshot),
    }
}

fn title(snapshot: &Snapshot) -> String {
    match &snapshot.name {
        Some(name) => format!("snapshot {name} ({})", snapshot.id),
        None => format!("snapshot {}", snapshot.id),
    }
}

fn list(snapshots: &[Snapshot]) {
    let row = |snapshot: &Snapshot| {
        vec![
            snapshot.id.to_string(),
            snapshot.name.clone().unwrap_or_default(),
            word(&snapshot.cause),
            word(&snapshot.state),
            output::age(snapshot.created_at),
            snapshot.bytes.map(megabytes).unwrap_or_default(),
            snapshot
                .database
                .as_ref()
                .map(|database| megabytes(database.bytes))
                .unwrap_or_default(),
        ]
    };
    output::table(
        &["ID", "NAME", "CAUSE", "STATE", "AGE", "SIZE", "DATABASE"],
        snapshots.iter().map(row),
    );
}

fn show(snapshot: &Snapshot) {
    output::line(&format!(
        "{}  {}  {}",
        title(snapshot),
        word(&snapshot.state),
        word(&snapshot.cause)
    ));
    let by = snapshot.created_by.as_deref().map(|login| format!(" by {login}"));
    output::line(&format!(
        "created {}{}",
        snapshot.created_at.to_rfc3339(),
        by.unwrap_or_default()
    ));
    if let Some(bytes) = snapshot.bytes {
        output::line(&format!("size {}", megabytes(bytes)));
    }
    if let Some(database) = &snapshot.database {
        output::line(&format!(
            "database PostgreSQL {}, {}",
            database.version,
            megabytes(database.bytes)
        ));
    }
    if let Some(error) = &snapshot.error {
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

//! `fsa start`, `stop` and `restart`: request a lifecycle action, and wait for it.

use fsa_model::{DesiredState, Phase, api::Sandbox, condition::Condition};
use futures_util::TryStreamExt as _;
use reqwest::Method;

use crate::{
    args::Lifecycle,
    client::{Client, encode},
    failure::{Code, Failure, Outcome},
    output::{self, StageProgress},
};

pub async fn run(client: &Client, action: &str, arguments: &Lifecycle, json: bool) -> Outcome {
    let project = encode(&arguments.project);
    let mut sandbox: Sandbox = client
        .send(Method::POST, &format!("/api/projects/{project}/{action}"), &())
        .await?;
    if !arguments.no_wait {
        let before = sandbox.stages.clone();
        sandbox = settle(client, &project, sandbox, &before, json).await?;
    }
    output::print(json, &sandbox, |sandbox| show(&arguments.project, sandbox));
    Ok(0)
}

/// Waits until the desired state is reached or an attempt has failed. Shows the stages that differ from `before`.
///
/// Each event triggers a read of the status, so a lost event only delays the result.
pub async fn settle(
    client: &Client,
    project: &str,
    mut sandbox: Sandbox,
    before: &[Condition],
    json: bool,
) -> Result<Sandbox, Failure> {
    let mut stages = StageProgress::new(json, before);
    let path = format!("/api/sandbox/{project}");
    while !sandbox.status.is_stable() && sandbox.status != Phase::Error {
        if sandbox.desired_state == DesiredState::Running {
            stages.show(&sandbox);
        }
        let mut events = client
            .events(&format!("/api/projects/{project}/events?tail=true"), None)
            .await?;
        // For changes before the stream was open.
        sandbox = client.get(&path).await?;
        while !sandbox.status.is_stable() && sandbox.status != Phase::Error {
            if sandbox.desired_state == DesiredState::Running {
                stages.show(&sandbox);
            }
            if events.try_next().await?.is_none() {
                break;
            }
            sandbox = client.get(&path).await?;
        }
    }
    if sandbox.desired_state == DesiredState::Running {
        stages.show(&sandbox);
    }
    match (&sandbox.error, sandbox.status) {
        (Some(error), Phase::Error) => {
            let next = error.next_attempt_at.map_or(String::new(), |at| {
                format!(
                    " The next attempt is in {} s.",
                    (at - chrono::Utc::now()).num_seconds().max(0)
                )
            });
            Err(Failure::new(
                Code::Failed,
                format!("{}.{next}", error.failure.message.trim_end_matches('.')),
            ))
        }
        _ => Ok(sandbox),
    }
}

pub fn show(project: &str, sandbox: &Sandbox) {
    output::line(&format!("{project} is {}", phase(sandbox.status)));
    if sandbox.status == Phase::Running {
        output::line(&format!("  application  {}", sandbox.public_url));
        output::line(&format!("  terminal     fsa terminal {project}"));
    }
}

/// The name of a phase in the API.
pub fn phase(phase: Phase) -> String {
    serde_json::to_value(phase)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

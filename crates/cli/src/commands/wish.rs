//! `fsa start`, `stop` and `restart`: a wish, and waiting until it is so.

use fsa_model::{DesiredState, Phase, api::Sandbox};
use reqwest::Method;

use crate::{
    args::Wish,
    client::{Client, encoded},
    failure::{Code, Failure, Outcome},
    output::{self, Stages},
    sse::Events,
};

pub async fn run(client: &Client, what: &str, wish: &Wish, json: bool) -> Outcome {
    let project = encoded(&wish.project);
    let mut sandbox: Sandbox = client
        .send(Method::POST, &format!("/api/projects/{project}/{what}"), &())
        .await?;
    if !wish.no_wait {
        sandbox = settle(client, &project, sandbox, json).await?;
    }
    output::print(json, &sandbox, |sandbox| show(&wish.project, sandbox));
    Ok(0)
}

/// Waits until the wish is reached or an attempt has failed, showing the stages.
///
/// The event stream says when to look; what is so is read from the status, so that a lost event
/// only costs time.
pub async fn settle(
    client: &Client,
    project: &str,
    mut sandbox: Sandbox,
    json: bool,
) -> Result<Sandbox, Failure> {
    let mut stages = Stages::new(json);
    let path = format!("/api/sandbox/{project}");
    while !sandbox.status.is_stable() && sandbox.status != Phase::Error {
        if sandbox.desired_state == DesiredState::Running {
            stages.show(&sandbox);
        }
        let mut events = Events::new(
            client
                .stream(&format!("/api/projects/{project}/events?tail=true"), None)
                .await?,
        );
        // Whatever happened before the stream was open is in this answer.
        sandbox = client.get(&path).await?;
        while !sandbox.status.is_stable() && sandbox.status != Phase::Error {
            if sandbox.desired_state == DesiredState::Running {
                stages.show(&sandbox);
            }
            if events.next().await?.is_none() {
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
                    " It is tried again in {} s.",
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

/// The phase in the API's word.
pub fn phase(phase: Phase) -> String {
    serde_json::to_value(phase)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

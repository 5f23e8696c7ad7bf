//! Lease worker: works on one claimed sandbox, from the claim to the end of its lease.
//!
//! Attempts run beside the renewal of the lease. When the lease is lost, or may be lost because the database has not
//! answered for too long, the attempt is dropped at once: another replica may be working already.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::Utc;
use fsa_model::{DesiredState, Failure, event::EventKind, sandboxd::Status};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use super::{
    Shared,
    attempt::{Attempt, Interruption, Outcome},
    backoff,
    observe::was_reached,
};
use crate::store::{
    events::PendingEvent,
    lease::{self, Renewal, STORE_RETRY},
    leases::{self, Claim, Lease},
    observed::{self, AttemptResult},
    replicas::Followed,
};

/// When a sandbox that waits for its repository is checked again, if no requeue comes before.
const CLONE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Works on a claimed sandbox until its desired state is reached or an attempt has failed, and releases the
/// lease. `newest_generation` has the newest generation that this process knows of.
pub async fn run(shared: &Arc<Shared>, claim: Claim, newest_generation: watch::Receiver<i64>) {
    let lease = claim.lease;
    // While the last write is in flight, a missing lease means that this write released it.
    let writing_result = AtomicBool::new(false);
    tokio::select! {
        biased;
        () = keep_lease(shared, lease, &writing_result) => {
            tracing::warn!(sandbox = %lease.sandbox, "lease lost; another replica takes over");
            shared.metrics.lease_lost();
        }
        () = attempt_until_done(shared, claim, newest_generation, &writing_result) => {}
    }
}

/// Renews the lease until it is lost.
async fn keep_lease(shared: &Shared, lease: Lease, writing_result: &AtomicBool) {
    let duration = shared.options.lease;
    lease::keep(duration, async || {
        let renewed = leases::renew(&shared.core.store, lease, duration).await?;
        Ok::<_, sqlx::Error>(match renewed {
            Some(generation) => {
                shared.notify_generation(lease.sandbox, generation);
                Renewal::Renewed
            }
            None if writing_result.load(Ordering::Relaxed) => Renewal::Releasing,
            None => Renewal::Lost,
        })
    })
    .await;
}

async fn attempt_until_done(
    shared: &Arc<Shared>,
    mut claim: Claim,
    newest_generation: watch::Receiver<i64>,
    writing_result: &AtomicBool,
) {
    let lease = claim.lease;
    loop {
        let generation = claim.sandbox.generation;
        let mut newer = newest_generation.clone();
        let newer = async {
            if newer.wait_for(|newest| *newest > generation).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            biased;
            // The work in flight is dropped: a stop does not wait for a slow start.
            () = newer => Err(Interruption::Superseded),
            ended = attempt(shared, &claim, writing_result) => ended,
        };
        match ended {
            Ok(()) => return,
            Err(Interruption::Superseded) => {}
            Err(Interruption::Store(error)) => {
                tracing::warn!(sandbox = %lease.sandbox, %error, "the control database did not answer a worker");
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
        writing_result.store(false, Ordering::Relaxed);
        claim = loop {
            match leases::reload(&shared.core.store, lease, shared.options.lease).await {
                Ok(Some(claim)) => break claim,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(sandbox = %lease.sandbox, %error, "a claimed row could not be reloaded");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        };
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    claim: &Claim,
    writing_result: &AtomicBool,
) -> Result<(), Interruption> {
    let began = Instant::now();
    let mut attempt = Attempt::new(shared, claim);
    let outcome = attempt.run().await?;
    shared.metrics.attempted(&outcome, began.elapsed());
    write_result(shared, attempt, outcome, writing_result).await
}

/// Writes the result of an attempt.
async fn write_result(
    shared: &Arc<Shared>,
    mut attempt: Attempt<'_>,
    outcome: Outcome,
    writing_result: &AtomicBool,
) -> Result<(), Interruption> {
    let claim = attempt.claim;
    let (next, attempts) = next_attempt(&attempt, &outcome);
    let reached = matches!(outcome, Outcome::Reached);
    let failure = match &outcome {
        Outcome::Reached => None,
        Outcome::Waiting => claim.sandbox.failure.clone(),
        Outcome::Failed(failure) | Outcome::BackingOff(failure, _) => Some(failure.clone()),
    };
    if let Outcome::Failed(failure) | Outcome::BackingOff(failure, _) = &outcome {
        attempt.add_event(attempt_failed(failure, attempts, next));
    }
    let phase = attempt.phase(reached, failure.is_some());
    let pending_events = attempt.take_events(phase);

    let runs = claim.sandbox.desired_state == DesiredState::Running
        && matches!(
            attempt.container,
            fsa_model::ContainerState::Running | fsa_model::ContainerState::Starting
        );
    let follows = runs && (attempt.started || claim.follower.is_none());
    let follower = match (runs, follows) {
        (false, _) => None,
        (true, true) => Some(shared.replica),
        (true, false) => claim.follower,
    };
    // The status of ended processes no longer applies, except that the repository was cloned.
    let before = claim.sandbox.status.as_ref().map(ended);
    let status = if runs {
        attempt.status.clone()
    } else {
        before.clone()
    };

    let result = AttemptResult {
        reached,
        container: attempt.container,
        conditions: attempt.stages.all(),
        failure: failure.as_ref(),
        attempts,
        next,
        requeued: shared.take_requeue(claim.sandbox.id),
        status: status.as_ref(),
        digest: attempt.digest.as_deref(),
        follower,
        phase,
        database_ready: attempt.database_ready,
    };
    writing_result.store(true, Ordering::Relaxed);
    if !observed::write_result(&shared.core.store, claim, result, pending_events).await? {
        return Err(Interruption::Superseded);
    }
    if follows {
        let followed = Followed {
            sandbox: claim.sandbox.reference(),
            owner: claim.project.owner,
            region: claim.project.region.clone(),
            control_token: claim.sandbox.control_token.clone(),
            status: if attempt.started {
                before
            } else {
                claim.sandbox.status.clone()
            },
        };
        shared.follow(followed, attempt.watch.take());
    }
    Ok(())
}

fn attempt_failed(failure: &Failure, attempts: i32, next: Option<Duration>) -> PendingEvent {
    let at = next.map(|next| Utc::now() + next);
    PendingEvent::new(
        EventKind::AttemptFailed,
        failure.message.clone(),
        json!({"failure": failure, "attempts": attempts, "nextAttemptAt": at}),
    )
}

/// The part of a status that remains true after its processes have ended.
fn ended(status: &Status) -> Status {
    Status {
        version: status.version.clone(),
        repository: status.repository.clone(),
        ..Status::default()
    }
}

/// When to check the sandbox again if nothing happens, and the number of failures in a row.
fn next_attempt(attempt: &Attempt<'_>, outcome: &Outcome) -> (Option<Duration>, i32) {
    let row = &attempt.claim.sandbox;
    let one_more = row.attempts.saturating_add(1);
    match outcome {
        Outcome::Failed(_) => (Some(backoff::delay(one_more)), one_more),
        Outcome::BackingOff(_, delay) => (Some(*delay), row.attempts),
        Outcome::Waiting => (Some(CLONE_CHECK_INTERVAL), row.attempts),
        Outcome::Reached if row.desired_state == DesiredState::Terminated => (None, 0),
        // The container ended without a request; if it does so again soon, this attempt counts as a failure.
        Outcome::Reached if attempt.restarted => (Some(backoff::HEALTHY_AFTER), one_more),
        Outcome::Reached if was_reached(attempt.claim) && row.failure.is_none() && row.attempts > 0 => {
            let since = attempt.stages.since(fsa_model::Stage::ContainerReady);
            let lived = (Utc::now() - since).to_std().unwrap_or_default();
            match backoff::HEALTHY_AFTER.checked_sub(lived) {
                Some(left) if !left.is_zero() => (Some(left), row.attempts),
                _ => (Some(backoff::verify_interval()), 0),
            }
        }
        Outcome::Reached => (Some(backoff::verify_interval()), 0),
    }
}

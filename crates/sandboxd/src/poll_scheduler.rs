//! Poll scheduler: polls for changes that have no event (listening ports, a Procfile that an agent
//! wrote), often while there is activity, and not at all while only sandboxd runs.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    ports::{self, Ports},
    sandbox::Sandbox,
    start::Start,
};

/// Interval after an activity.
const FAST: Duration = Duration::from_millis(250);
/// How long the fast interval is kept after the last activity.
const ACTIVE_FOR: Duration = Duration::from_secs(10);
/// Interval while processes run and there is no activity.
const SLOW: Duration = Duration::from_secs(3);

/// The next interval: twice the last one, unless there is activity. `cheap`: a poll costs little.
fn next_interval(last: Duration, active: bool, cheap: bool) -> Duration {
    if active {
        if cheap { FAST } else { SLOW }
    } else {
        (last * 2).clamp(FAST, SLOW)
    }
}

/// Polls until sandboxd ends.
pub async fn run(start: Arc<Start>, mut ports: Ports) {
    let sandbox = &start.sandbox;
    let mut children = sandbox.reaper.children();
    let mut active_until = Instant::now();
    let mut interval = FAST;
    loop {
        poll(sandbox, &start, &mut ports).await;
        if sandbox.poll_trigger.take() {
            active_until = Instant::now() + ACTIVE_FOR;
        }
        interval = next_interval(interval, Instant::now() < active_until, ports.cheap());
        children.mark_unchanged();
        if children.borrow().any {
            // A trigger shortens a long interval, but never below the fast one.
            let earliest = sleep(FAST);
            tokio::pin!(earliest);
            tokio::select! {
                () = sleep(interval) => {}
                () = async { sandbox.poll_trigger.notified().await; earliest.await } => {}
            }
        } else {
            // There is no other process: only a start or a write through the control interface can
            // change anything.
            tokio::select! {
                () = sandbox.poll_trigger.notified() => {}
                _ = children.wait_for(|children| children.any) => {}
            }
        }
    }
}

async fn poll(sandbox: &Sandbox, start: &Start, ports: &mut Ports) {
    start.check_procfile().await;
    let listeners = ports.listeners();
    let unknown = ports.unknown(&listeners);
    let holders = if unknown.is_empty() {
        Vec::new()
    } else {
        let accounts = sandbox.accounts.clone();
        tokio::task::spawn_blocking(move || ports::holders(&accounts, &unknown))
            .await
            .unwrap_or_default()
    };
    let listening = ports.named(&listeners, holders);
    sandbox.status.send_if_modified(|status| {
        let changed = status.ports != listening;
        if changed {
            status.ports = listening;
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_grows_to_a_bound_and_an_activity_resets_it() {
        let mut interval = FAST;
        for _ in 0..10 {
            interval = next_interval(interval, false, true);
        }
        assert_eq!(interval, SLOW);
        assert_eq!(next_interval(interval, true, true), FAST);
        assert_eq!(next_interval(interval, true, false), SLOW);
    }
}

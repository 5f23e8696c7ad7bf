//! Looks at what no event tells of (listening ports, a Procfile that an agent wrote), as often as
//! there is reason to, and not at all where nothing but sandboxd runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    ports::{self, Ports},
    sandbox::Sandbox,
};

/// The pace after something happened.
const FAST: Duration = Duration::from_millis(250);
/// How long the fast pace is kept after the last sign of life.
const LIVELY: Duration = Duration::from_secs(10);
/// The pace of a sandbox in which processes run and nothing happens.
const SLOW: Duration = Duration::from_secs(3);

/// Where other parts say that something happened.
#[derive(Debug, Default)]
pub struct Pulse {
    poked: AtomicBool,
    wake: Notify,
}

impl Pulse {
    /// Something happened that may have opened a port or written a file. Costs next to nothing,
    /// so that it can be called for each piece of a terminal's output.
    pub fn poke(&self) {
        if !self.poked.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    fn take(&self) -> bool {
        self.poked.swap(false, Ordering::Relaxed)
    }
}

/// The next wait, and it is twice the last one unless the sandbox is lively.
fn next_wait(last: Duration, lively: bool, cheap: bool) -> Duration {
    if lively {
        if cheap { FAST } else { SLOW }
    } else {
        (last * 2).clamp(FAST, SLOW)
    }
}

/// Runs as long as sandboxd does.
pub async fn run(sandbox: Arc<Sandbox>, mut ports: Ports) {
    let mut children = sandbox.reaper.children();
    let mut lively_until = Instant::now();
    let mut wait = FAST;
    loop {
        look(&sandbox, &mut ports).await;
        if sandbox.pulse.take() {
            lively_until = Instant::now() + LIVELY;
        }
        wait = next_wait(wait, Instant::now() < lively_until, ports.cheap());
        children.mark_unchanged();
        if children.borrow().any {
            // A poke shortens a long wait, and never makes one shorter than the fast pace.
            let earliest = sleep(FAST);
            tokio::pin!(earliest);
            tokio::select! {
                () = sleep(wait) => {}
                () = async { sandbox.pulse.wake.notified().await; earliest.await } => {}
            }
        } else {
            // Alone: nothing can change but by a start or a write through the control interface.
            tokio::select! {
                () = sandbox.pulse.wake.notified() => {}
                _ = children.wait_for(|children| children.any) => {}
            }
        }
    }
}

async fn look(sandbox: &Arc<Sandbox>, ports: &mut Ports) {
    sandbox.start.look_for_procfile(sandbox).await;
    let listeners = ports.listeners();
    let unknown = ports.unknown(&listeners);
    let found = if unknown.is_empty() {
        Vec::new()
    } else {
        let accounts = sandbox.accounts.clone();
        tokio::task::spawn_blocking(move || ports::holders(&accounts, &unknown))
            .await
            .unwrap_or_default()
    };
    let told = ports.named(&listeners, found);
    sandbox.status.send_if_modified(|status| {
        let changed = status.ports != told;
        if changed {
            status.ports = told;
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_slows_down_to_a_bound_and_a_sign_of_life_brings_it_back() {
        let mut wait = FAST;
        for _ in 0..10 {
            wait = next_wait(wait, false, true);
        }
        assert_eq!(wait, SLOW);
        assert_eq!(next_wait(wait, true, true), FAST);
        assert_eq!(next_wait(wait, true, false), SLOW);
    }
}

//! Orderly shutdown: stops the start command first, then the terminals, then all other processes.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{reaper, sandbox::Sandbox, session, start::supervise, terminal::Terminals};

/// Time between SIGTERM and SIGKILL for all other processes.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for killed processes to be reaped.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// Stops everything in the sandbox. Each step continues as soon as its processes have ended.
pub async fn stop_all(sandbox: &Sandbox, terminals: &Terminals, supervision: JoinHandle<()>) {
    sandbox.stopping.send_replace(true);
    let grace = supervise::GRACE + session::EXEC_GRACE;
    let _ = timeout(grace, supervision).await;
    let sessions = terminals.all();
    let _ = timeout(
        grace,
        join_all(sessions.iter().map(|session| session.hang_up(sandbox))),
    )
    .await;
    signal_rest(Signal::SIGTERM);
    if !all_ended(sandbox, TERMINATE_TIMEOUT).await {
        signal_rest(Signal::SIGKILL);
        all_ended(sandbox, KILL_TIMEOUT).await;
    }
}

/// Whether the last child ends within `bound`.
async fn all_ended(sandbox: &Sandbox, bound: Duration) -> bool {
    let deadline = Instant::now() + bound;
    let mut children = sandbox.reaper.children();
    timeout_at(deadline, children.wait_for(|children| !children.any))
        .await
        .is_ok()
}

/// Signals every process of the sandbox but this one. kill(-1) means all processes of the pid
/// namespace: outside of process 1 that would be the whole machine, so there only descendants are
/// signaled.
fn signal_rest(signal: Signal) {
    if std::process::id() == 1 {
        let _ = kill(Pid::from_raw(-1), signal);
        return;
    }
    for pid in descendants() {
        reaper::signal_one(pid, signal as i32);
    }
}

fn descendants() -> Vec<i32> {
    let parents: BTreeMap<i32, i32> = session::all()
        .map(|process| (process.pid, process.parent))
        .collect();
    let own = std::process::id().cast_signed();
    let descends = |pid: &i32| {
        let mut ancestors = std::iter::successors(Some(*pid), |pid| parents.get(pid).copied());
        // The list may have a cycle, if a pid was reused while it was read; no real chain is that long.
        ancestors
            .by_ref()
            .skip(1)
            .take(1000)
            .any(|ancestor| ancestor == own)
    };
    parents.keys().filter(|pid| descends(pid)).copied().collect()
}

//! Status watchers of running sandboxes: this process subscribes to sandboxd's status (ports, start command,
//! repository) of every running sandbox that is assigned to it.
//!
//! Each sandbox has one task and one connection, which sleep while nothing changes. Status is bounded, and changes
//! are batched before they are written: they come from inside a sandbox, where any program can open and close ports
//! at any rate.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fsa_driver::Region;
use fsa_model::{
    SandboxId, SandboxRef,
    event::EventKind,
    sandboxd::{ListeningPort, RepositoryState, StartCommand, Status},
};
use fsa_sandboxd_client::{SandboxdClient, StatusStream};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::json;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{Shared, port_event_budget::PortEventBudget, spec};
use crate::{
    callback,
    store::{
        events::PendingEvent,
        replicas::{self, Followed},
    },
};

/// The shortest time between two writes about one sandbox; it doubles while changes keep coming.
const MIN_WRITE_INTERVAL: Duration = Duration::from_millis(200);
const MAX_WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two connections, at first and at most.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(200);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(30);
/// Most ports of one sandbox that are reported.
const MAX_PORTS: usize = 200;
/// Callback connections of one sandbox at a time: the newest, and one that is closing.
const MAX_CALLBACKS: usize = 2;
/// Characters of a text from inside a sandbox.
const MAX_TEXT: usize = 2000;

/// The sandboxes that this process follows.
#[derive(Default)]
pub struct Followers {
    all: Mutex<HashMap<SandboxId, Follower>>,
}

struct Follower {
    /// The last status received, while the connection is open.
    live: Arc<Mutex<Option<Status>>>,
    _task: AbortOnDropHandle<()>,
}

impl Followers {
    /// Whether sandboxd is connected and its last status was ready.
    #[must_use]
    pub fn is_live(&self, sandbox: SandboxId) -> bool {
        self.status(sandbox).is_some_and(|status| status.ready)
    }

    /// sandboxd's last status, while it is connected.
    #[must_use]
    pub fn status(&self, sandbox: SandboxId) -> Option<Status> {
        let all = self.all.lock();
        all.get(&sandbox)
            .and_then(|follower| follower.live.lock().clone())
    }

    /// Stops following a sandbox, because it is about to end.
    pub fn stop(&self, sandbox: SandboxId) {
        let follower = self.all.lock().remove(&sandbox);
        drop(follower);
    }

    /// Stops following every sandbox.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.all.lock());
        drop(all);
    }

    /// How many are followed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.lock().is_empty()
    }
}

impl Shared {
    /// Follows a running sandbox, on the stream `watch` if there is one already. Replaces an earlier follower.
    pub(super) fn follow(self: &Arc<Self>, followed: Followed, watch: Option<StatusStream>) {
        let id = followed.sandbox.id.to_string();
        let token = match spec::control_token(&self.core.key_ring, &id, &followed.control_token) {
            Ok(token) => token,
            Err(failure) => {
                tracing::error!(sandbox = id, %failure, "a sandbox cannot be followed");
                return;
            }
        };
        let sandbox = followed.sandbox.id;
        let live = Arc::new(Mutex::new(None));
        let task = tokio::spawn(follow(
            Arc::clone(self),
            followed,
            watch,
            token,
            Arc::clone(&live),
        ));
        let follower = Follower {
            live,
            _task: AbortOnDropHandle::new(task),
        };
        let replaced = self.followers.all.lock().insert(sandbox, follower);
        drop(replaced);
    }
}

/// Follows until another process follows the sandbox, or there is nothing left to follow.
async fn follow(
    shared: Arc<Shared>,
    mut followed: Followed,
    mut watch: Option<StatusStream>,
    token: SecretString,
    live: Arc<Mutex<Option<Status>>>,
) {
    let mut pause = MIN_RECONNECT_DELAY;
    let callbacks = Arc::new(Semaphore::new(MAX_CALLBACKS));
    let mut reported = Reported {
        cloned: followed
            .status
            .as_ref()
            .is_some_and(|status| status.repository == RepositoryState::Cloned),
        ports: PortEventBudget::default(),
    };
    loop {
        let end = watch_once(
            &shared,
            &mut followed,
            watch.take(),
            &mut reported,
            &token,
            &live,
            &callbacks,
        )
        .await;
        let was_live = live.lock().take().is_some();
        match end {
            WatchEnd::NotAssigned => break,
            WatchEnd::Disconnected => {
                if was_live {
                    // The sandbox ended, or is about to be replaced. The reconciler observes it.
                    shared.requeue(followed.sandbox.id);
                    pause = MIN_RECONNECT_DELAY;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RECONNECT_DELAY);
        match replicas::follows(&shared.core.store, shared.replica, followed.sandbox.id).await {
            Ok(true) | Err(_) => {}
            Ok(false) => break,
        }
    }
    // Not through `Followers::stop`: that would drop, and so abort, this very task in between.
    let removed = {
        let mut all = shared.followers.all.lock();
        match all.get(&followed.sandbox.id) {
            Some(follower) if Arc::ptr_eq(&follower.live, &live) => all.remove(&followed.sandbox.id),
            _ => None,
        }
    };
    drop(removed);
}

/// What the events of a sandbox have reported so far.
struct Reported {
    /// sandboxd checks the clone at each start; a clone that is present is reported once.
    cloned: bool,
    ports: PortEventBudget,
}

enum WatchEnd {
    /// The connection ended or could not be made.
    Disconnected,
    /// According to the row, another process follows, or the sandbox does not run.
    NotAssigned,
}

async fn watch_once(
    shared: &Shared,
    followed: &mut Followed,
    watch: Option<StatusStream>,
    reported: &mut Reported,
    token: &SecretString,
    live: &Mutex<Option<Status>>,
    callbacks: &Arc<Semaphore>,
) -> WatchEnd {
    let Some(region) = shared.core.regions.get(&followed.region) else {
        return WatchEnd::Disconnected;
    };
    let sandbox = followed.sandbox.clone();
    let sandboxd = SandboxdClient::new(&*region.driver, &sandbox, token);
    let mut statuses = match watch {
        Some(statuses) => statuses,
        None => match sandboxd.watch().await {
            Ok(statuses) => statuses,
            Err(error) => {
                tracing::debug!(sandbox = %sandbox.resource, %error, "a sandbox could not be followed");
                return WatchEnd::Disconnected;
            }
        },
    };
    let mut waiting: Option<Status> = None;
    let mut interval = MIN_WRITE_INTERVAL;
    let mut may_write = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(may_write), if waiting.is_some() => {
                let Some(status) = waiting.take() else { continue };
                let quiet = may_write.elapsed() > interval * 4;
                interval = if quiet { MIN_WRITE_INTERVAL } else { (interval * 2).min(MAX_WRITE_INTERVAL) };
                may_write = Instant::now() + interval;
                match write(shared, followed, reported, &status).await {
                    Ok(true) => {}
                    Ok(false) => return WatchEnd::NotAssigned,
                    Err(error) => {
                        tracing::warn!(sandbox = %sandbox.resource, %error, "a status was not stored");
                        waiting = Some(status);
                    }
                }
            }
            status = statuses.next() => match status {
                Some(Ok(mut status)) => {
                    if std::mem::take(&mut status.callback_requested) {
                        open_callback(shared, region, &sandbox, token, callbacks);
                    }
                    let status = bounded(status);
                    *live.lock() = Some(status.clone());
                    waiting = (followed.status.as_ref() != Some(&status)).then_some(status);
                }
                Some(Err(_)) | None => return WatchEnd::Disconnected,
            }
        }
    }
}

/// Opens a callback connection for the sandbox's programs. It outlives the follower, and a drain waits for the
/// requests in flight on it.
fn open_callback(
    shared: &Shared,
    region: &Region,
    sandbox: &SandboxRef,
    token: &SecretString,
    callbacks: &Arc<Semaphore>,
) {
    let Ok(permit) = Arc::clone(callbacks).try_acquire_owned() else {
        return;
    };
    let (callback, driver) = (shared.callback.clone(), Arc::clone(&region.driver));
    let (sandbox, token) = (sandbox.clone(), token.clone());
    shared.core.tasks.spawn(async move {
        if let Err(error) = callback::open(callback, &*driver, &sandbox, &token).await {
            tracing::debug!(sandbox = %sandbox.resource, error, "a callback connection failed");
        }
        drop(permit);
    });
}

/// Writes a status, and an event for each difference from the previous one.
async fn write(
    shared: &Shared,
    followed: &mut Followed,
    reported: &mut Reported,
    status: &Status,
) -> Result<bool, sqlx::Error> {
    let before = followed.status.clone().unwrap_or_default();
    let mut pending_events = differences(&before, status);
    pending_events
        .retain(|pending_event| !reported.cloned || pending_event.kind != EventKind::RepositoryCloned);
    let dropped = reported.ports.limit(&mut pending_events, Instant::now());
    if dropped > 0 {
        tracing::debug!(sandbox = %followed.sandbox.resource, dropped, "port events beyond the day's limit were dropped");
    }
    let store = &shared.core.store;
    let assigned = replicas::write_status(store, shared.replica, followed, status, pending_events).await?;
    if assigned {
        if before.repository != status.repository {
            // An attempt may be waiting for the clone, or the clone's failure is not reported yet.
            shared.requeues.sandbox(followed.sandbox.id, true);
        }
        reported.cloned |= status.repository == RepositoryState::Cloned;
        followed.status = Some(status.clone());
    }
    Ok(assigned)
}

/// Limits a status's length and removes control characters from its texts.
#[must_use]
pub fn bounded(mut status: Status) -> Status {
    status.ports.sort();
    status.ports.dedup_by_key(|open| open.port);
    status.ports.truncate(MAX_PORTS);
    for open in &mut status.ports {
        if let Some(process) = &mut open.process {
            *process = without_control_chars(process, 64);
        }
    }
    status.version = without_control_chars(&status.version, 64);
    if let RepositoryState::Failed { message } = &mut status.repository {
        *message = without_control_chars(message, MAX_TEXT);
    }
    if let Some(warning) = &mut status.clone_warning {
        *warning = without_control_chars(warning, MAX_TEXT);
    }
    status
}

fn without_control_chars(text: &str, max: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .take(max)
        .collect()
}

/// Events, with a sentence each, for what is in `now` and not in `before`.
#[must_use]
pub fn differences(before: &Status, now: &Status) -> Vec<PendingEvent> {
    let mut pending_events = Vec::new();
    let opened = now.ports.iter().filter(|open| !has(before, open.port));
    for open in opened {
        let by = open
            .process
            .as_ref()
            .map(|process| format!(" ({process})"))
            .unwrap_or_default();
        pending_events.push(PendingEvent::new(
            EventKind::PortOpened,
            format!("Port {} is open{by}.", open.port),
            json!({"port": open.port, "process": open.process}),
        ));
    }
    for ListeningPort { port, .. } in before.ports.iter().filter(|open| !has(now, open.port)) {
        pending_events.push(PendingEvent::new(
            EventKind::PortClosed,
            format!("Port {port} is closed."),
            json!({"port": port}),
        ));
    }
    if let StartCommand::BackOff {
        exit,
        restarts,
        next_attempt,
    } = &now.start_command
        && before.start_command != now.start_command
    {
        pending_events.push(PendingEvent::new(
            EventKind::StartCommandExited,
            format!(
                "The start command ended with exit code {}; it is started again.",
                exit.code()
            ),
            json!({"exit": exit, "exitCode": exit.code(), "restarts": restarts, "nextAttempt": next_attempt}),
        ));
    }
    if before.repository != now.repository {
        match &now.repository {
            RepositoryState::Cloned => pending_events.push(PendingEvent::new(
                EventKind::RepositoryCloned,
                match &now.clone_warning {
                    None => "The repository was cloned.".to_owned(),
                    Some(warning) => format!("The repository was cloned, but {warning}."),
                },
                match &now.clone_warning {
                    None => json!({}),
                    Some(warning) => json!({"warning": warning}),
                },
            )),
            RepositoryState::Failed { message } => pending_events.push(PendingEvent::new(
                EventKind::RepositoryFailed,
                format!("The repository could not be cloned: {message}"),
                json!({"message": message}),
            )),
            RepositoryState::None | RepositoryState::Cloning => {}
        }
    }
    pending_events
}

fn has(status: &Status, port: u16) -> bool {
    status.ports.iter().any(|open| open.port == port)
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use fsa_model::sandboxd::Exit;

    use super::*;

    fn listening(ports: &[u16]) -> Status {
        Status {
            ports: ports
                .iter()
                .map(|port| ListeningPort {
                    port: *port,
                    process: Some("node".into()),
                })
                .collect(),
            ..Status::default()
        }
    }

    fn kinds(before: &Status, now: &Status) -> Vec<EventKind> {
        differences(before, now)
            .into_iter()
            .map(|pending_event| pending_event.kind)
            .collect()
    }

    #[test]
    fn opened_and_closed_ports_are_reported() {
        let (before, now) = (listening(&[3000, 5000]), listening(&[5000, 8080]));
        assert_eq!(
            kinds(&before, &now),
            [EventKind::PortOpened, EventKind::PortClosed]
        );
        assert_eq!(kinds(&now, &now), []);
    }

    #[test]
    fn each_exit_of_the_start_command_is_reported() {
        let at = Utc::now();
        let backing_off = |restarts| Status {
            start_command: StartCommand::BackOff {
                exit: Exit::Signal(9),
                restarts,
                next_attempt: at,
            },
            ..Status::default()
        };
        let events = differences(&backing_off(1), &backing_off(2));
        assert_eq!(events[0].kind, EventKind::StartCommandExited);
        assert_eq!(events[0].data["exitCode"], 137);
    }

    #[test]
    fn only_the_end_of_a_clone_is_reported() {
        let with = |repository| Status {
            repository,
            ..Status::default()
        };
        let failed = with(RepositoryState::Failed { message: "no".into() });
        let none = Status::default();
        assert_eq!(kinds(&none, &with(RepositoryState::Cloning)), []);
        assert_eq!(
            kinds(&none, &with(RepositoryState::Cloned)),
            [EventKind::RepositoryCloned]
        );
        assert_eq!(kinds(&none, &failed), [EventKind::RepositoryFailed]);
        let partial = Status {
            clone_warning: Some("a submodule is missing".into()),
            ..with(RepositoryState::Cloned)
        };
        let events = differences(&none, &partial);
        assert_eq!(
            events[0].message,
            "The repository was cloned, but a submodule is missing."
        );
    }

    #[test]
    fn status_from_a_sandbox_is_bounded() {
        let mut status = listening(&(1..=1000).collect::<Vec<_>>());
        status.ports[0].process = Some("x\u{1b}[31m".repeat(100));
        status.repository = RepositoryState::Failed {
            message: "y".repeat(1_000_000),
        };
        let status = bounded(status);
        assert_eq!(status.ports.len(), MAX_PORTS);
        let process = status.ports[0].process.as_deref().unwrap_or_default();
        assert!(process.len() <= 64 && !process.contains('\u{1b}'));
        assert!(
            matches!(status.repository, RepositoryState::Failed { message } if message.len() == MAX_TEXT)
        );
    }
}

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

use super::{Shared, spec};
use crate::{
    callback,
    store::{
        events::PendingEvent,
        replicas::{self, Followed},
    },
};

/// The shortest time between two writes about one sandbox; it doubles while changes keep coming.
const GATHER: Duration = Duration::from_millis(200);
const LONGEST_GATHER: Duration = Duration::from_secs(10);
/// Between two connections, at first and at most.
const RECONNECT: Duration = Duration::from_millis(200);
const LONGEST_RECONNECT: Duration = Duration::from_secs(30);
/// Most ports of one sandbox that are reported.
const MOST_PORTS: usize = 200;
/// Callback connections of one sandbox at a time: the newest, and one that is closing.
const MOST_ANSWERING: usize = 2;
/// Characters of a text from inside a sandbox.
const LONGEST_TEXT: usize = 2000;

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
        let before = self.followers.all.lock().insert(sandbox, follower);
        drop(before);
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
    let mut pause = RECONNECT;
    let answering = Arc::new(Semaphore::new(MOST_ANSWERING));
    // sandboxd checks the clone at each start; a clone that is present is reported once.
    let mut cloned = followed
        .status
        .as_ref()
        .is_some_and(|status| status.repository == RepositoryState::Cloned);
    loop {
        let heard = listen(
            &shared,
            &mut followed,
            watch.take(),
            &mut cloned,
            &token,
            &live,
            &answering,
        )
        .await;
        let was_live = live.lock().take().is_some();
        match heard {
            Heard::NotOurs => break,
            Heard::End => {
                if was_live {
                    // The sandbox ended, or is about to be replaced. The reconciler observes it.
                    shared.requeue(followed.sandbox.id);
                    pause = RECONNECT;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RECONNECT);
        match replicas::follows(&shared.core.store, shared.replica, followed.sandbox.id).await {
            Ok(true) | Err(_) => {}
            Ok(false) => break,
        }
    }
    // Not through `Followers::stop`: that would drop, and so abort, this very task in between.
    let own = {
        let mut all = shared.followers.all.lock();
        match all.get(&followed.sandbox.id) {
            Some(follower) if Arc::ptr_eq(&follower.live, &live) => all.remove(&followed.sandbox.id),
            _ => None,
        }
    };
    drop(own);
}

enum Heard {
    /// The connection ended or could not be made.
    End,
    /// According to the row, another process follows, or the sandbox does not run.
    NotOurs,
}

async fn listen(
    shared: &Shared,
    followed: &mut Followed,
    watch: Option<StatusStream>,
    cloned: &mut bool,
    token: &SecretString,
    live: &Mutex<Option<Status>>,
    answering: &Arc<Semaphore>,
) -> Heard {
    let Some(region) = shared.core.regions.get(&followed.region) else {
        return Heard::End;
    };
    let sandbox = followed.sandbox.clone();
    let sandboxd = SandboxdClient::new(&*region.driver, &sandbox, token);
    let mut statuses = match watch {
        Some(statuses) => statuses,
        None => match sandboxd.watch().await {
            Ok(statuses) => statuses,
            Err(error) => {
                tracing::debug!(sandbox = %sandbox.resource, %error, "a sandbox could not be followed");
                return Heard::End;
            }
        },
    };
    let mut waiting: Option<Status> = None;
    let mut gather = GATHER;
    let mut may_write = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(may_write), if waiting.is_some() => {
                let Some(status) = waiting.take() else { continue };
                let quiet = may_write.elapsed() > gather * 4;
                gather = if quiet { GATHER } else { (gather * 2).min(LONGEST_GATHER) };
                may_write = Instant::now() + gather;
                match write(shared, followed, cloned, &status).await {
                    Ok(true) => {}
                    Ok(false) => return Heard::NotOurs,
                    Err(error) => {
                        tracing::warn!(sandbox = %sandbox.resource, %error, "a status was not written down");
                        waiting = Some(status);
                    }
                }
            }
            status = statuses.next() => match status {
                Some(Ok(mut status)) => {
                    if std::mem::take(&mut status.callback_requested) {
                        answer(shared, region, &sandbox, token, answering);
                    }
                    let status = bounded(status);
                    *live.lock() = Some(status.clone());
                    waiting = (followed.status.as_ref() != Some(&status)).then_some(status);
                }
                Some(Err(_)) | None => return Heard::End,
            }
        }
    }
}

/// Opens a callback connection for the sandbox's programs. It outlives the follower, and a drain waits for the
/// requests in flight on it.
fn answer(
    shared: &Shared,
    region: &Region,
    sandbox: &SandboxRef,
    token: &SecretString,
    answering: &Arc<Semaphore>,
) {
    let Ok(place) = Arc::clone(answering).try_acquire_owned() else {
        return;
    };
    let (callback, driver) = (shared.callback.clone(), Arc::clone(&region.driver));
    let (sandbox, token) = (sandbox.clone(), token.clone());
    shared.core.tasks.spawn(async move {
        if let Err(error) = callback::open(callback, &*driver, &sandbox, &token).await {
            tracing::debug!(sandbox = %sandbox.resource, error, "a sandbox could not be asked what it wants");
        }
        drop(place);
    });
}

/// Writes a status, and an event for each difference from the previous one.
async fn write(
    shared: &Shared,
    followed: &mut Followed,
    cloned: &mut bool,
    status: &Status,
) -> Result<bool, sqlx::Error> {
    let before = followed.status.clone().unwrap_or_default();
    let mut happenings = differences(&before, status);
    happenings.retain(|happening| !*cloned || happening.kind != EventKind::RepositoryCloned);
    let store = &shared.core.store;
    let ours = replicas::write_status(store, shared.replica, followed, status, happenings).await?;
    if ours {
        if before.repository != status.repository {
            // An attempt may be waiting for the clone, or the clone's failure is not reported yet.
            shared.requeues.sandbox(followed.sandbox.id, true);
        }
        *cloned |= status.repository == RepositoryState::Cloned;
        followed.status = Some(status.clone());
    }
    Ok(ours)
}

/// Limits a status's length and removes control characters from its texts.
#[must_use]
pub fn bounded(mut status: Status) -> Status {
    status.ports.sort();
    status.ports.dedup_by_key(|open| open.port);
    status.ports.truncate(MOST_PORTS);
    for open in &mut status.ports {
        if let Some(process) = &mut open.process {
            *process = plain(process, 64);
        }
    }
    status.version = plain(&status.version, 64);
    if let RepositoryState::Failed { message } = &mut status.repository {
        *message = plain(message, LONGEST_TEXT);
    }
    status
}

fn plain(text: &str, longest: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .take(longest)
        .collect()
}

/// Events, with a sentence each, for what is in `now` and not in `before`.
#[must_use]
pub fn differences(before: &Status, now: &Status) -> Vec<PendingEvent> {
    let mut happenings = Vec::new();
    let opened = now.ports.iter().filter(|open| !has(before, open.port));
    for open in opened {
        let by = open
            .process
            .as_ref()
            .map(|process| format!(" ({process})"))
            .unwrap_or_default();
        happenings.push(PendingEvent::new(
            EventKind::PortOpened,
            format!("Port {} is open{by}.", open.port),
            json!({"port": open.port, "process": open.process}),
        ));
    }
    for ListeningPort { port, .. } in before.ports.iter().filter(|open| !has(now, open.port)) {
        happenings.push(PendingEvent::new(
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
        happenings.push(PendingEvent::new(
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
            RepositoryState::Cloned => happenings.push(PendingEvent::new(
                EventKind::RepositoryCloned,
                "The repository was cloned.",
                json!({}),
            )),
            RepositoryState::Failed { message } => happenings.push(PendingEvent::new(
                EventKind::RepositoryFailed,
                format!("The repository could not be cloned: {message}"),
                json!({"message": message}),
            )),
            RepositoryState::None | RepositoryState::Cloning => {}
        }
    }
    happenings
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
            .map(|happening| happening.kind)
            .collect()
    }

    #[test]
    fn ports_that_come_and_go_are_told() {
        let (before, now) = (listening(&[3000, 5000]), listening(&[5000, 8080]));
        assert_eq!(
            kinds(&before, &now),
            [EventKind::PortOpened, EventKind::PortClosed]
        );
        assert_eq!(kinds(&now, &now), []);
    }

    #[test]
    fn each_exit_of_the_start_command_is_told_with_its_code() {
        let at = Utc::now();
        let backing_off = |restarts| Status {
            start_command: StartCommand::BackOff {
                exit: Exit::Signal(9),
                restarts,
                next_attempt: at,
            },
            ..Status::default()
        };
        let told = differences(&backing_off(1), &backing_off(2));
        assert_eq!(told[0].kind, EventKind::StartCommandExited);
        assert_eq!(told[0].data["exitCode"], 137);
    }

    #[test]
    fn the_end_of_a_clone_is_told_and_its_beginning_is_not() {
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
    }

    #[test]
    fn what_comes_from_inside_a_sandbox_is_bounded() {
        let mut status = listening(&(1..=1000).collect::<Vec<_>>());
        status.ports[0].process = Some("x\u{1b}[31m".repeat(100));
        status.repository = RepositoryState::Failed {
            message: "y".repeat(1_000_000),
        };
        let status = bounded(status);
        assert_eq!(status.ports.len(), MOST_PORTS);
        let process = status.ports[0].process.as_deref().unwrap_or_default();
        assert!(process.len() <= 64 && !process.contains('\u{1b}'));
        assert!(
            matches!(status.repository, RepositoryState::Failed { message } if message.len() == LONGEST_TEXT)
        );
    }
}

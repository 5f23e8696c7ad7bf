//! Task runner: each project's oldest task runs in the process that holds its lease.
//!
//! sandboxd owns the agent's process and keeps its output until it is read. The control plane writes what it has read
//! together with the position after it. So after a restart, the control plane continues exactly where it stopped, and
//! the agent is not affected.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fsa_model::{
    DesiredState, SandboxId,
    event::EventKind,
    sandboxd::{ExecRequest, TaskEnd, TaskOutput},
    task::TaskState,
};
use http::StatusCode;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    agents::{self, Output},
    changes,
    end::{absent, cancelled, failed, judge},
};
use crate::{
    core::Core,
    error::{Error, Result},
    sandbox_client::RunningSandbox,
    store::{
        events::{self, NewEvent},
        lease::{self, Renewal},
        notify::Topic,
        sandboxes, tasks,
        tasks::{ClaimedTask, Ended, Held, Progress, TaskRow},
    },
};

/// How long a claim holds without renewal. A dead process's tasks wait this long.
const LEASE: Duration = Duration::from_secs(30);
/// Seconds that one read of the output waits for more; well within the lease.
const WAIT: u64 = 8;
/// Tasks that one process follows at a time.
const AT_ONCE: usize = 64;
/// The longest delay from a lost notification.
const LOOK_ANYWAY: Duration = Duration::from_secs(15);
/// How long followers may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs tasks until `shutdown`. `alone` says that no other process runs tasks: then a dead process's leases
/// need not expire first.
pub fn spawn(core: Core, alone: bool, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let running = TaskTracker::new();
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let work = async {
            if alone && let Err(error) = tasks::forget_leases(&core.store).await {
                tracing::warn!(%error, "the tasks of the last process wait until its leases run out");
            }
            loop {
                let mut interest = core.hub.interest(Topic::DesiredState);
                claim(&core, &running, &places, &shutdown).await;
                tokio::select! {
                    () = interest.changed() => {}
                    () = tokio::time::sleep(LOOK_ANYWAY) => {}
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        running.close();
        if tokio::time::timeout(DRAIN, running.wait()).await.is_err() {
            tracing::warn!("tasks were still followed at the end; their leases run out");
        }
    })
}

async fn claim(core: &Core, running: &TaskTracker, places: &Arc<Semaphore>, shutdown: &CancellationToken) {
    let free = i64::try_from(places.available_permits()).unwrap_or(0);
    if free == 0 {
        return;
    }
    match tasks::claim(&core.store, free, LEASE).await {
        Ok(claimed) => {
            for claimed in claimed {
                let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                    return;
                };
                let (core, shutdown) = (core.clone(), shutdown.clone());
                running.spawn(async move {
                    follow(&core, claimed, &shutdown).await;
                    drop(place);
                });
            }
        }
        Err(error) => tracing::warn!(%error, "tasks could not be claimed"),
    }
}

async fn follow(core: &Core, claimed: ClaimedTask, shutdown: &CancellationToken) {
    let (task, lease) = (claimed.row.task.id, claimed.lease);
    // While the last write is in flight, a missing lease means that this write ended it.
    let ending = AtomicBool::new(false);
    let mut run = Run {
        core,
        ending: &ending,
        position: claimed.row.position,
        reported_failed: claimed.row.reported_failed,
        result: claimed.row.task.result.clone(),
        unfinished: false,
        claimed,
    };
    let outcome = tokio::select! {
        biased;
        outcome = run.until_end() => outcome,
        () = keep(core, task, lease, &ending) => {
            tracing::warn!(%task, "lease of a task lost; another replica takes over");
            return;
        }
        () = shutdown.cancelled() => {
            // The next process need not wait.
            if let Err(error) = tasks::release(&core.store, task, lease).await {
                tracing::warn!(%error, %task, "a task was not given back");
            }
            return;
        }
    };
    if let Err(error) = outcome {
        // The lease expires, and then the task is retried.
        tracing::warn!(%error, causes = error.causes().join(": "), %task, "a task could not be followed");
    }
}

/// Renews the lease until it is lost.
async fn keep(core: &Core, task: Uuid, lease: Uuid, ending: &AtomicBool) {
    lease::keep(LEASE, async || {
        let held = tasks::renew(&core.store, task, lease, LEASE).await?;
        Ok::<_, Error>(match held {
            Held::Yes { .. } => Renewal::Renewed,
            Held::No if ending.load(Ordering::Relaxed) => Renewal::GivenBack,
            Held::No => Renewal::Lost,
        })
    })
    .await;
}

/// One task that this process follows.
struct Run<'a> {
    core: &'a Core,
    ending: &'a AtomicBool,
    claimed: ClaimedTask,
    position: i64,
    reported_failed: bool,
    result: Option<String>,
    /// The result continues in the agent's next output.
    unfinished: bool,
}

/// Another process has the lease, or the task has ended.
struct Lost;

type Step<T> = Result<std::result::Result<T, Lost>>;

/// The state of the task's sandbox.
enum Place {
    Ready(RunningSandbox, SandboxId),
    Wait,
    Gone(&'static str),
}

impl Run<'_> {
    fn id(&self) -> Uuid {
        self.claimed.row.task.id
    }

    async fn until_end(&mut self) -> Result<()> {
        let ended = match self.ended().await? {
            Ok(ended) => ended,
            Err(Lost) => return Ok(()),
        };
        let mut tx = self.core.store.begin().await?;
        self.ending.store(true, Ordering::Relaxed);
        if tasks::end(&mut tx, self.id(), self.claimed.lease, &ended).await? {
            let message = match (ended.state, &ended.error) {
                (TaskState::Succeeded, _) => "The task succeeded.".to_owned(),
                (TaskState::Cancelled, _) => "The task was ended as it was wished.".to_owned(),
                (_, Some(error)) => format!("The task failed: {error}"),
                (_, None) => "The task failed.".to_owned(),
            };
            let data = serde_json::json!({
                "task": self.id(), "state": ended.state, "exitCode": ended.exit_code});
            let event = NewEvent::new(&self.claimed.project, EventKind::TaskEnded, message).with(data);
            events::append(&mut tx, event).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Starts the task if it is not started yet, and follows it until it has ended.
    async fn ended(&mut self) -> Step<Ended> {
        let started = self.claimed.row.sandbox.is_some();
        let (running, sandbox) = loop {
            let mut interest = self.core.hub.interest(Topic::Project(self.claimed.project.id));
            match self.place().await? {
                Place::Ready(running, sandbox) => break (running, sandbox),
                Place::Gone(why) => return Ok(Ok(failed(why))),
                Place::Wait => {}
            }
            match self.renew().await? {
                Held::No => return Ok(Err(Lost)),
                Held::Yes { cancelled: true } if !started => return Ok(Ok(cancelled(None))),
                Held::Yes { .. } => {}
            }
            tokio::select! {
                () = interest.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(WAIT)) => {}
            }
        };
        if !started {
            if let Some(ended) = self.start(&running).await? {
                return Ok(Ok(ended));
            }
            if tasks::started(&self.core.store, self.id(), self.claimed.lease, sandbox).await? == Held::No {
                return Ok(Err(Lost));
            }
        }
        self.listen(&running).await
    }

    async fn place(&self) -> Result<Place> {
        let project = &self.claimed.project;
        let Some(sandbox) = sandboxes::main_of(&self.core.store, project).await? else {
            return Ok(Place::Gone("the project has no sandbox"));
        };
        if self.claimed.row.sandbox.is_some_and(|id| id != sandbox.id) {
            return Ok(Place::Gone("the sandbox in which it ran is gone"));
        }
        if sandbox.desired_state != DesiredState::Running {
            return Ok(Place::Gone("the project was stopped"));
        }
        Ok(
            match RunningSandbox::of_row(self.core, &project.region, &sandbox) {
                Ok(running) => Place::Ready(running, sandbox.id),
                Err(_) => Place::Wait,
            },
        )
    }

    async fn renew(&self) -> Result<Held> {
        tasks::renew(&self.core.store, self.id(), self.claimed.lease, LEASE).await
    }

    /// Starts the agent. Returns the outcome if it cannot be started at all.
    async fn start(&self, sandbox: &RunningSandbox) -> Result<Option<Ended>> {
        let TaskRow { task, .. } = &self.claimed.row;
        let session = match task.continues {
            Some(earlier) => {
                let earlier = tasks::find(&self.core.store, task.project_id, earlier).await?;
                earlier.session
            }
            None => None,
        };
        if self.claimed.row.start_tree.is_none()
            && let Some(tree) = changes::tree(sandbox).await
        {
            tasks::begin_at(&self.core.store, self.id(), self.claimed.lease, &tree).await?;
        }
        let command = ExecRequest {
            command: agents::adapter(task.agent).command(task, session.as_deref()),
            stdin: Some(task.prompt.clone()),
            timeout_seconds: Some(task.timeout_seconds),
            ..ExecRequest::default()
        };
        match sandbox
            .sandboxd()
            .start_task(task.id, &command)
            .await
            .map_err(Error::from)
        {
            Ok(()) => Ok(None),
            Err(error) if error.field().is_some_and(|field| field.name == "command") => {
                Ok(Some(absent(task.agent)))
            }
            Err(error) if error.status() == StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(Some(failed(error.to_string())))
            }
            Err(error) => Err(error),
        }
    }

    async fn listen(&mut self, sandbox: &RunningSandbox) -> Step<Ended> {
        let mut cancelling = false;
        loop {
            let mut interest = self.core.hub.interest(Topic::Project(self.claimed.project.id));
            let held = tokio::select! {
                output = self.read(sandbox) => match output {
                    Ok(output) => {
                        let end = output.end.clone();
                        let held = self.record(output).await?;
                        if let (Some(end), Held::Yes { .. }) = (end, held) {
                            let was_cancelled = matches!(held, Held::Yes { cancelled: true });
                            return Ok(Ok(self.conclude(sandbox, &end, was_cancelled).await));
                        }
                        held
                    }
                    Err(error) if error.status() == StatusCode::NOT_FOUND => {
                        return Ok(Ok(failed("the sandbox was restarted while the agent worked")));
                    }
                    Err(error) => {
                        if let Place::Gone(why) = self.place().await? {
                            return Ok(Ok(failed(why)));
                        }
                        return Err(error);
                    }
                },
                () = interest.changed() => self.renew().await?,
            };
            match held {
                Held::No => return Ok(Err(Lost)),
                Held::Yes { cancelled: true } if !cancelling => {
                    cancelling = true;
                    self.forget(sandbox).await;
                }
                Held::Yes { .. } => {}
            }
        }
    }

    async fn read(&self, sandbox: &RunningSandbox) -> Result<TaskOutput> {
        let read = sandbox.sandboxd().read_task(self.id(), self.position, WAIT).await;
        Ok(read?)
    }

    /// Parses output and writes down the steps.
    async fn record(&mut self, read: TaskOutput) -> Result<Held> {
        // A sandbox that reports a lower position than before must not cause steps to be written twice.
        let position = i64::try_from(read.next).unwrap_or(i64::MAX).max(self.position);
        if position == self.position {
            return self.renew().await;
        }
        let mut output = Output {
            unfinished: self.unfinished,
            result: self.result.clone().filter(|_| self.unfinished),
            ..Output::default()
        };
        let adapter = agents::adapter(self.claimed.row.task.agent);
        for line in &read.lines {
            adapter.parse_line(line, &mut output);
        }
        let progress = Progress {
            position,
            steps: &output.steps,
            session: output.session.as_deref(),
            result: output.result.as_deref(),
            failed: output.failed,
            cost: output.cost,
        };
        let held = tasks::record(&self.core.store, self.id(), self.claimed.lease, &progress, LEASE).await?;
        if held != Held::No {
            self.position = position;
            self.unfinished = output.unfinished;
            self.reported_failed |= output.failed;
            self.result = output.result.or(self.result.take());
        }
        Ok(held)
    }

    async fn conclude(&self, sandbox: &RunningSandbox, end: &TaskEnd, was_cancelled: bool) -> Ended {
        let row = tasks::find(&self.core.store, self.claimed.project.id, self.id()).await;
        let (since, tree) = row.map_or((None, None), |row| (row.task.started_at, row.start_tree));
        let changed_files = match since {
            Some(since) => changes::written(sandbox, since).await,
            None => Vec::new(),
        };
        let diff = match tree {
            Some(tree) => changes::since(sandbox, &tree).await,
            None => None,
        };
        self.forget(sandbox).await;
        let mut ended = judge(
            end,
            was_cancelled,
            self.reported_failed,
            self.result.as_deref(),
            self.claimed.row.task.timeout_seconds,
        );
        if agents::adapter(self.claimed.row.task.agent).is_missing(end.exit_code) {
            ended = absent(self.claimed.row.task.agent);
        }
        ended.changed_files = changed_files;
        ended.diff = diff;
        ended
    }

    /// Requests that sandboxd end a running task, or forget one that has ended.
    async fn forget(&self, sandbox: &RunningSandbox) {
        if let Err(error) = sandbox.sandboxd().end_task(self.id()).await {
            tracing::debug!(%error, task = %self.id(), "a task could not be ended or forgotten");
        }
    }
}

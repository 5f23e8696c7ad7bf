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
    end::{absent, cancelled, failed, outcome},
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
        tasks::{ClaimedTask, LeaseState, TaskProgress, TaskResult, TaskRow},
    },
};

/// How long a claim holds without renewal. A dead process's tasks wait this long.
const LEASE: Duration = Duration::from_secs(30);
/// Seconds that one read of the output waits for more; well within the lease.
const READ_WAIT_SECONDS: u64 = 8;
/// Tasks that one process follows at a time.
const MAX_TASKS: usize = 64;
/// The longest delay from a lost notification.
const POLL_INTERVAL: Duration = Duration::from_secs(15);
/// How long followers may take to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs tasks until `shutdown`. `alone` says that no other process runs tasks: then a dead process's leases
/// need not expire first.
pub fn spawn(core: Core, alone: bool, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let running = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MAX_TASKS));
        let work = async {
            if alone && let Err(error) = tasks::release_all_leases(&core.store).await {
                tracing::warn!(%error, "the tasks of the last process wait until its leases expire");
            }
            loop {
                let mut subscription = core.hub.subscribe(Topic::DesiredState);
                claim(&core, &running, &slots, &shutdown).await;
                tokio::select! {
                    () = subscription.changed() => {}
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        running.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, running.wait()).await.is_err() {
            tracing::warn!("tasks were still running at shutdown; their leases expire later");
        }
    })
}

async fn claim(core: &Core, running: &TaskTracker, slots: &Arc<Semaphore>, shutdown: &CancellationToken) {
    let free = i64::try_from(slots.available_permits()).unwrap_or(0);
    if free == 0 {
        return;
    }
    match tasks::claim(&core.store, free, LEASE).await {
        Ok(claimed) => {
            for claimed in claimed {
                let Ok(permit) = Arc::clone(slots).try_acquire_owned() else {
                    return;
                };
                let (core, shutdown) = (core.clone(), shutdown.clone());
                running.spawn(async move {
                    follow(&core, claimed, &shutdown).await;
                    drop(permit);
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
        () = keep_lease(core, task, lease, &ending) => {
            tracing::warn!(%task, "lease of a task lost; another replica takes over");
            return;
        }
        () = shutdown.cancelled() => {
            // The next process need not wait.
            if let Err(error) = tasks::release(&core.store, task, lease).await {
                tracing::warn!(%error, %task, "a lease of a task was not released");
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
async fn keep_lease(core: &Core, task: Uuid, lease: Uuid, ending: &AtomicBool) {
    lease::keep(LEASE, async || {
        let lease_state = tasks::renew(&core.store, task, lease, LEASE).await?;
        Ok::<_, Error>(match lease_state {
            LeaseState::Held { .. } => Renewal::Renewed,
            LeaseState::Lost if ending.load(Ordering::Relaxed) => Renewal::Releasing,
            LeaseState::Lost => Renewal::Lost,
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
struct LeaseLost;

type Step<T> = Result<std::result::Result<T, LeaseLost>>;

/// The state of the task's sandbox.
enum SandboxState {
    Ready(RunningSandbox, SandboxId),
    Wait,
    Gone(&'static str),
}

impl Run<'_> {
    fn id(&self) -> Uuid {
        self.claimed.row.task.id
    }

    async fn until_end(&mut self) -> Result<()> {
        let result = match self.run().await? {
            Ok(result) => result,
            Err(LeaseLost) => return Ok(()),
        };
        let mut tx = self.core.store.begin().await?;
        self.ending.store(true, Ordering::Relaxed);
        if tasks::end(&mut tx, self.id(), self.claimed.lease, &result).await? {
            let message = match (result.state, &result.error) {
                (TaskState::Succeeded, _) => "The task succeeded.".to_owned(),
                (TaskState::Cancelled, _) => "The task was cancelled.".to_owned(),
                (_, Some(error)) => format!("The task failed: {error}"),
                (_, None) => "The task failed.".to_owned(),
            };
            let data = serde_json::json!({
                "task": self.id(), "state": result.state, "exitCode": result.exit_code});
            let event = NewEvent::new(&self.claimed.project, EventKind::TaskEnded, message).with(data);
            events::append(&mut tx, event).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Starts the task if it is not started yet, and follows it until it has ended.
    async fn run(&mut self) -> Step<TaskResult> {
        let started = self.claimed.row.sandbox.is_some();
        let (running, sandbox) = loop {
            let mut subscription = self.core.hub.subscribe(Topic::Project(self.claimed.project.id));
            match self.sandbox_state().await? {
                SandboxState::Ready(running, sandbox) => break (running, sandbox),
                SandboxState::Gone(why) => return Ok(Ok(failed(why))),
                SandboxState::Wait => {}
            }
            match self.renew().await? {
                LeaseState::Lost => return Ok(Err(LeaseLost)),
                LeaseState::Held { cancelled: true } if !started => return Ok(Ok(cancelled(None))),
                LeaseState::Held { .. } => {}
            }
            tokio::select! {
                () = subscription.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(READ_WAIT_SECONDS)) => {}
            }
        };
        if !started {
            if let Some(ended) = self.start(&running).await? {
                return Ok(Ok(ended));
            }
            if tasks::mark_running(&self.core.store, self.id(), self.claimed.lease, sandbox).await?
                == LeaseState::Lost
            {
                return Ok(Err(LeaseLost));
            }
        }
        self.follow_output(&running).await
    }

    async fn sandbox_state(&self) -> Result<SandboxState> {
        let project = &self.claimed.project;
        let Some(sandbox) = sandboxes::of_branch(&self.core.store, self.claimed.row.branch).await? else {
            return Ok(SandboxState::Gone("the project has no sandbox"));
        };
        if self.claimed.row.sandbox.is_some_and(|id| id != sandbox.id) {
            return Ok(SandboxState::Gone("the sandbox of the task is gone"));
        }
        if sandbox.desired_state != DesiredState::Running {
            return Ok(SandboxState::Gone("the project was stopped"));
        }
        Ok(
            match RunningSandbox::of_row(self.core, &project.region, &sandbox) {
                Ok(running) => SandboxState::Ready(running, sandbox.id),
                Err(_) => SandboxState::Wait,
            },
        )
    }

    async fn renew(&self) -> Result<LeaseState> {
        tasks::renew(&self.core.store, self.id(), self.claimed.lease, LEASE).await
    }

    /// Starts the agent. Returns the outcome if it cannot be started at all.
    async fn start(&self, sandbox: &RunningSandbox) -> Result<Option<TaskResult>> {
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
            tasks::set_start_tree(&self.core.store, self.id(), self.claimed.lease, &tree).await?;
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

    async fn follow_output(&mut self, sandbox: &RunningSandbox) -> Step<TaskResult> {
        let mut cancelling = false;
        loop {
            let mut subscription = self.core.hub.subscribe(Topic::Project(self.claimed.project.id));
            let lease_state = tokio::select! {
                output = self.read(sandbox) => match output {
                    Ok(output) => {
                        let end = output.end.clone();
                        let lease_state = self.record(output).await?;
                        if let (Some(end), LeaseState::Held { .. }) = (end, lease_state) {
                            let was_cancelled = matches!(lease_state, LeaseState::Held { cancelled: true });
                            return Ok(Ok(self.result(sandbox, &end, was_cancelled).await));
                        }
                        lease_state
                    }
                    Err(error) if error.status() == StatusCode::NOT_FOUND => {
                        return Ok(Ok(failed("the sandbox was restarted while the agent worked")));
                    }
                    Err(error) => {
                        if let SandboxState::Gone(why) = self.sandbox_state().await? {
                            return Ok(Ok(failed(why)));
                        }
                        return Err(error);
                    }
                },
                () = subscription.changed() => self.renew().await?,
            };
            match lease_state {
                LeaseState::Lost => return Ok(Err(LeaseLost)),
                LeaseState::Held { cancelled: true } if !cancelling => {
                    cancelling = true;
                    self.forget(sandbox).await;
                }
                LeaseState::Held { .. } => {}
            }
        }
    }

    async fn read(&self, sandbox: &RunningSandbox) -> Result<TaskOutput> {
        let read = sandbox
            .sandboxd()
            .read_task(self.id(), self.position, READ_WAIT_SECONDS)
            .await;
        Ok(read?)
    }

    /// Parses output and writes down the steps.
    async fn record(&mut self, read: TaskOutput) -> Result<LeaseState> {
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
        let progress = TaskProgress {
            position,
            steps: &output.steps,
            session: output.session.as_deref(),
            result: output.result.as_deref(),
            failed: output.failed,
            cost: output.cost,
        };
        let lease_state =
            tasks::record(&self.core.store, self.id(), self.claimed.lease, &progress, LEASE).await?;
        if lease_state != LeaseState::Lost {
            self.position = position;
            self.unfinished = output.unfinished;
            self.reported_failed |= output.failed;
            self.result = output.result.or(self.result.take());
        }
        Ok(lease_state)
    }

    async fn result(&self, sandbox: &RunningSandbox, end: &TaskEnd, was_cancelled: bool) -> TaskResult {
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
        let mut result = outcome(
            end,
            was_cancelled,
            self.reported_failed,
            self.result.as_deref(),
            self.claimed.row.task.timeout_seconds,
        );
        if agents::adapter(self.claimed.row.task.agent).is_missing(end.exit_code) {
            result = absent(self.claimed.row.task.agent);
        }
        result.changed_files = changed_files;
        result.diff = diff;
        result
    }

    /// Requests that sandboxd end a running task, or forget one that has ended.
    async fn forget(&self, sandbox: &RunningSandbox) {
        if let Err(error) = sandbox.sandboxd().end_task(self.id()).await {
            tracing::debug!(%error, task = %self.id(), "a task could not be ended or forgotten");
        }
    }
}

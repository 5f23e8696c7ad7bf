//! Reconciliation worker: the loop that claims due sandboxes and removals, and its background tasks, which end with it.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use fsa_model::{Failure, FailureKind, SandboxId};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    InFlight, Options, Shared, backoff, backups, disk, lease_worker, metrics::Metrics, orphans, removal,
    requeue, requeue::RequeueQueue, retention, snapshot_schedule, snapshots, warnings, watch::Followers,
};
use crate::{
    callback::Callback,
    core::Core,
    store::{
        leases::{self, Capacity, Claim, Lease},
        notify::Topic,
        observed, removals, replicas,
    },
};

/// The longest time between two checks for due work, because any wake-up may be lost.
const MAX_SLEEP: Duration = Duration::from_secs(30);
/// Pause after the control database did not answer.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Sandboxes without a follower that are taken over in one query.
const FOLLOW_BATCH: i64 = 100;
/// Factor on the concurrency limit for regions whose work runs on other machines. Such work mostly waits, and a
/// slow cluster must not delay the start of other work.
const REMOTE_FACTOR: usize = 16;

/// The workers of this process.
pub struct Worker;

impl Worker {
    /// Works until `shutdown`, then finishes or drops the work in flight and releases its leases.
    /// Aborting the task ends everything at once, as a crash would.
    pub fn spawn(core: Core, callback: Callback, shutdown: CancellationToken) -> JoinHandle<()> {
        Self::spawn_with(core, callback, Options::default(), shutdown)
    }

    /// Same as [`Self::spawn`], with options.
    pub fn spawn_with(
        core: Core,
        callback: Callback,
        options: Options,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        let metrics = Metrics::new();
        core.metrics.register(|registry| metrics.register(registry));
        let shared = Arc::new(Shared {
            core,
            callback,
            options,
            replica: Uuid::now_v7(),
            in_flight: Mutex::default(),
            followers: Followers::default(),
            requeues: RequeueQueue::default(),
            wake: Notify::new(),
            metrics,
        });
        tokio::spawn(work(shared, shutdown))
    }
}

/// Stops the follower tasks when the loop ends, however it ends.
struct StopFollowersOnDrop(Arc<Shared>);

impl Drop for StopFollowersOnDrop {
    fn drop(&mut self) {
        self.0.followers.clear();
    }
}

/// The job that a task of the loop finished.
enum FinishedJob {
    Sandbox(Lease),
    Removal(Uuid),
}

/// A lease that a task works under, and the region that it works in.
struct Job {
    lease: Lease,
    region: String,
}

/// Tasks and the leases under which they work.
struct Jobs {
    shared: Arc<Shared>,
    tasks: JoinSet<FinishedJob>,
    sandboxes: HashMap<SandboxId, Job>,
    /// Regions of the removals, by lease.
    removals: HashMap<Uuid, String>,
}

async fn work(shared: Arc<Shared>, shutdown: CancellationToken) {
    let _ended = StopFollowersOnDrop(Arc::clone(&shared));
    let mut background = JoinSet::new();
    register(&shared).await;
    background.spawn(requeue::listen(Arc::clone(&shared)));
    background.spawn(requeue::write(Arc::clone(&shared)));
    background.spawn(warnings::listen(Arc::clone(&shared)));
    background.spawn(heartbeat(Arc::clone(&shared)));
    if let Some(every) = shared.options.sweep {
        background.spawn(orphans::run(Arc::clone(&shared), every));
    }
    background.spawn(disk::run(Arc::clone(&shared), shared.options.measure));
    background.spawn(retention::run(Arc::clone(&shared), shared.options.retention));
    background.spawn(snapshots::run(Arc::clone(&shared)));
    background.spawn(backups::run(Arc::clone(&shared)));
    background.spawn(snapshots::measure(Arc::clone(&shared)));
    if let Some(every) = shared.options.schedule {
        background.spawn(snapshot_schedule::run(Arc::clone(&shared), every));
    }
    // While no worker ran, machines may have restarted and containers may be lost.
    shared.requeues.everything();

    let mut jobs = Jobs {
        shared: Arc::clone(&shared),
        tasks: JoinSet::new(),
        sandboxes: HashMap::new(),
        removals: HashMap::new(),
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = jobs.claim_loop() => {}
    }
    jobs.drain().await;
    background.shutdown().await;
    shared.followers.clear();
    if let Err(error) = replicas::remove(&shared.core.store, shared.replica).await {
        tracing::warn!(%error, "this process could not be removed from the replicas");
    }
}

/// Registers this process as alive, before it claims anything.
async fn register(shared: &Shared) {
    let store = &shared.core.store;
    let (replica, lifetime) = (shared.replica, shared.options.lifetime);
    loop {
        let registered = async {
            if shared.options.alone {
                replicas::remove_others(store, replica).await?;
            }
            replicas::renew(store, replica, lifetime).await
        };
        match registered.await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "the control database did not answer a worker"),
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

/// Renews this process's registration, and follows sandboxes that no process follows, forever.
async fn heartbeat(shared: Arc<Shared>) {
    let store = &shared.core.store;
    let lifetime = shared.options.lifetime;
    loop {
        let renewed = async {
            replicas::renew(store, shared.replica, lifetime).await?;
            loop {
                let unfollowed = replicas::follow(store, shared.replica, FOLLOW_BATCH).await?;
                let all = unfollowed.len() < usize::try_from(FOLLOW_BATCH).unwrap_or(usize::MAX);
                for followed in unfollowed {
                    shared.follow(followed, None);
                }
                if all {
                    return Ok::<_, sqlx::Error>(());
                }
            }
        };
        if let Err(error) = renewed.await {
            tracing::warn!(%error, "the registration of this replica could not be renewed");
        }
        shared
            .metrics
            .followed
            .set(i64::try_from(shared.followers.len()).unwrap_or(i64::MAX));
        tokio::time::sleep(lifetime / 3).await;
    }
}

impl Jobs {
    async fn claim_loop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut desired_states = shared.core.hub.subscribe(Topic::DesiredState);
        loop {
            let next = match self.claim().await {
                Ok(next) => {
                    shared.core.metrics.report("reconcile", None);
                    next
                }
                Err(error) => {
                    tracing::warn!(%error, "the control database did not answer a worker");
                    let message = "the control database does not answer the workers";
                    shared.core.metrics.report("reconcile", Some(message.to_owned()));
                    Some(Instant::now() + STORE_RETRY)
                }
            };
            tokio::select! {
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.finish(done);
                    while let Some(done) = self.tasks.try_join_next() {
                        self.finish(done);
                    }
                }
                () = shared.wake.notified() => {}
                () = desired_states.changed() => self.notify_newer_generations().await,
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Claims due work up to the limit, and returns when to do so again; `None` means when a job ends.
    async fn claim(&mut self) -> Result<Option<Instant>, sqlx::Error> {
        let shared = Arc::clone(&self.shared);
        let (store, lease) = (&shared.core.store, shared.options.lease);
        let capacity = self.capacity(self.sandboxes.values().map(|job| job.region.as_str()));
        let claimed = if capacity.is_full() {
            Vec::new()
        } else {
            leases::claim(store, &capacity, lease).await?
        };
        for claim in claimed {
            match claim {
                Ok(claim) => self.start(claim),
                Err(unreadable) => {
                    tracing::error!(sandbox = %unreadable.lease.sandbox, error = %unreadable.error, "a row cannot be read");
                    let failure = Failure::new(
                        FailureKind::Internal,
                        "The sandbox's row in the control database cannot be read; the log has the reason.",
                    );
                    observed::record_failure(store, unreadable.lease, &failure, backoff::MAX).await?;
                }
            }
        }
        let capacity = self.capacity(self.removals.values().map(String::as_str));
        let removals = if capacity.is_full() {
            Vec::new()
        } else {
            removals::claim(store, &capacity, lease).await?
        };
        for removal in removals {
            self.removals
                .insert(removal.lease, removal.project.region.clone());
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn(async move {
                let lease = removal.lease;
                // After a panic the lease expires; that is enough backoff for a defect.
                let _ = AssertUnwindSafe(removal::run(&shared, removal))
                    .catch_unwind()
                    .await;
                FinishedJob::Removal(lease)
            });
        }
        let sandboxes = self.capacity(self.sandboxes.values().map(|job| job.region.as_str()));
        let removals = self.capacity(self.removals.values().map(String::as_str));
        let due = leases::next_due(store, &sandboxes, &removals).await?;
        // Not at once, because due work that was not claimed is leased by another process.
        let sleep = due
            .unwrap_or(MAX_SLEEP)
            .clamp(Duration::from_millis(50), MAX_SLEEP);
        Ok(Some(Instant::now() + sleep))
    }

    /// Free capacity of each region: its concurrency limit minus the jobs in `taken`.
    fn capacity<'a>(&self, taken: impl Iterator<Item = &'a str>) -> Capacity {
        let concurrent = self.shared.options.concurrent;
        let mut capacity = Capacity {
            regions: Vec::new(),
            other_regions: concurrent,
        };
        for region in self.shared.core.regions.iter() {
            let is_remote = region.driver.capabilities().is_remote;
            let slots = concurrent * if is_remote { REMOTE_FACTOR } else { 1 };
            capacity.regions.push((region.name.clone(), slots));
        }
        for name in taken {
            let region = capacity.regions.iter_mut().find(|(region, _)| region == name);
            let slots = region.map_or(&mut capacity.other_regions, |(_, slots)| slots);
            *slots = slots.saturating_sub(1);
        }
        capacity
    }

    fn start(&mut self, claim: Claim) {
        let shared = Arc::clone(&self.shared);
        let lease = claim.lease;
        let (newest, newest_generation) = watch::channel(claim.sandbox.generation);
        let in_flight_state = InFlight {
            newest,
            requeued: false,
        };
        shared.in_flight.lock().insert(lease.sandbox, in_flight_state);
        let region = claim.project.region.clone();
        self.sandboxes.insert(lease.sandbox, Job { lease, region });
        shared.metrics.working.inc();
        self.tasks.spawn(async move {
            let work = AssertUnwindSafe(lease_worker::run(&shared, claim, newest_generation)).catch_unwind();
            if work.await.is_err() {
                record_panic(&shared, lease).await;
            }
            FinishedJob::Sandbox(lease)
        });
    }

    fn finish(&mut self, done: Result<FinishedJob, tokio::task::JoinError>) {
        match done {
            Ok(FinishedJob::Sandbox(lease)) => {
                self.sandboxes.remove(&lease.sandbox);
                let in_flight_state = self.shared.in_flight.lock().remove(&lease.sandbox);
                // The requeue came after the last observation.
                if in_flight_state.is_some_and(|in_flight_state| in_flight_state.requeued) {
                    self.shared.requeues.sandbox(lease.sandbox, false);
                }
                self.shared.metrics.working.dec();
            }
            Ok(FinishedJob::Removal(lease)) => {
                self.removals.remove(&lease);
            }
            // Only the end of the loop cancels tasks, and panics are caught inside.
            Err(error) => tracing::error!(%error, "a job was aborted"),
        }
    }

    /// Interrupts the work on an older generation of the desired state.
    async fn notify_newer_generations(&self) {
        let ids: Vec<SandboxId> = self.sandboxes.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        match leases::generations(&self.shared.core.store, &ids).await {
            Ok(generations) => {
                for (sandbox, generation) in generations {
                    self.shared.notify_generation(sandbox, generation);
                }
            }
            // The renewal of the lease reports it too, a little later.
            Err(error) => tracing::debug!(%error, "newer generations were not read"),
        }
    }

    /// Lets the work in flight finish for a while, then drops it and releases the leases, so that other replicas
    /// need not wait until they expire.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.shared.options.drain;
        while let Ok(Some(done)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
            self.finish(done);
        }
        self.tasks.shutdown().await;
        let leases: Vec<Lease> = self.sandboxes.values().map(|job| job.lease).collect();
        let removals: Vec<Uuid> = self.removals.keys().copied().collect();
        let store = &self.shared.core.store;
        let released = async {
            leases::release(store, &leases).await?;
            removals::release(store, &removals).await
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "leases were not released; others wait until they expire");
        }
    }
}

async fn record_panic(shared: &Shared, lease: Lease) {
    tracing::error!(sandbox = %lease.sandbox, "an attempt panicked; this is a defect of the control plane");
    let failure = Failure::new(
        FailureKind::Internal,
        "The control plane failed while it reconciled the sandbox. This is a defect; its log has the details.",
    );
    if let Err(error) = observed::record_failure(&shared.core.store, lease, &failure, backoff::MAX).await {
        tracing::warn!(sandbox = %lease.sandbox, %error, "a panic was not stored");
    }
}

//! Reconciliation loop: claims sandboxes, observes, plans, applies.
//!
//! A [`Worker`] claims due sandboxes, one lease each, and works on several concurrently: it observes ([`observe`]),
//! plans ([`plan`]), applies ([`execute`], [`apply_step`]) and writes the result ([`lease_worker`]). It also follows
//! running sandboxes ([`watch`]), accepts requeues ([`requeue`]), removes the rest of deleted projects ([`removal`]),
//! destroys sandboxes that are in no row ([`orphans`]), and takes and deletes snapshots ([`snapshots`], [`snapshot_schedule`]). The copy
//! of a new branch and the restore of a snapshot are the first parts of an attempt ([`copy`], [`restore`]).
//!
//! Any number of processes may work on one control database. The rows make that safe:
//! see [`crate::store::leases`] and [`crate::store::observed`].

mod apply_step;
mod attempt;
pub mod backoff;
mod backup_subject;
mod backups;
mod copy;
mod disk;
pub mod execute;
mod fill;
mod image_progress;
mod lease_worker;
pub mod metrics;
mod observe;
mod orphans;
pub mod plan;
mod port_event_budget;
mod readiness;
mod removal;
mod repository;
mod requeue;
mod restore;
pub mod retention;
pub mod snapshot_schedule;
mod snapshots;
mod spec;
pub mod stages;
pub mod step;
mod warnings;
pub mod watch;
mod worker;

use std::{collections::HashMap, time::Duration};

use fsa_model::SandboxId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch as channel};
use uuid::Uuid;

pub use self::worker::Worker;
use self::{metrics::Metrics, requeue::RequeueQueue, watch::Followers};
use crate::{callback::Callback, core::Core, store::notify::Topic};

/// Settings of a worker.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sandboxes of one region that one process works on concurrently, if the work runs on this machine; otherwise
    /// several times as many.
    pub concurrent: usize,
    /// How long a claim holds without renewal. A dead worker's sandboxes wait this long.
    pub lease: Duration,
    /// How long other processes take a process for alive after it last reported.
    pub lifetime: Duration,
    /// Interval between searches for orphans; `None` where several control databases share one data plane.
    pub sweep: Option<Duration>,
    /// Maximum age of a disk measurement, where a disk limit applies.
    pub measure: Duration,
    /// Interval between deletions of old events, agent steps and audit entries.
    pub retention: Duration,
    /// Interval between checks of the snapshot schedules; `None` to follow none.
    pub schedule: Option<Duration>,
    /// Time between the two sightings of an orphan.
    pub grace: Duration,
    /// No other process works on this control database (it is in a data folder that this process has locked). Then
    /// a dead process's leases need not expire first.
    pub alone: bool,
    /// How long work may go on after shutdown has begun.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrent: 16,
            lease: Duration::from_secs(30),
            lifetime: Duration::from_secs(15),
            sweep: Some(Duration::from_secs(600)),
            measure: Duration::from_secs(300),
            retention: Duration::from_secs(3600),
            schedule: Some(Duration::from_secs(60)),
            grace: Duration::from_secs(60),
            alone: false,
            drain: Duration::from_secs(5),
        }
    }
}

/// Wakes the workers of this process at once. A write of the desired state wakes them anyway, through the
/// database; this avoids the delay.
pub fn wake(core: &Core) {
    core.hub.wake(Topic::DesiredState);
}

/// State that the parts of one worker share.
pub(crate) struct Shared {
    core: Core,
    callback: Callback,
    options: Options,
    /// This process's id among the live replicas.
    replica: Uuid,
    in_flight: Mutex<HashMap<SandboxId, InFlight>>,
    followers: Followers,
    requeues: RequeueQueue,
    wake: Notify,
    metrics: Metrics,
}

/// Notifications about a sandbox that is being reconciled.
struct InFlight {
    /// The newest generation.
    newest: channel::Sender<i64>,
    /// Whether a requeue came since the last observation.
    requeued: bool,
}

impl Shared {
    fn notify_generation(&self, sandbox: SandboxId, generation: i64) {
        if let Some(in_flight_state) = self.in_flight.lock().get(&sandbox) {
            in_flight_state.newest.send_if_modified(|newest| {
                let newer = generation > *newest;
                *newest = generation.max(*newest);
                newer
            });
        }
    }

    /// Requeues a sandbox. While it is being reconciled here, the requeue is only recorded: the worker's own steps
    /// cause most changes in the data plane, and the flag is checked when they are done.
    fn requeue(&self, sandbox: SandboxId) {
        match self.in_flight.lock().get_mut(&sandbox) {
            Some(in_flight_state) => in_flight_state.requeued = true,
            None => self.requeues.sandbox(sandbox, false),
        }
    }

    /// Whether there was a requeue since the last call, for the task that works on the sandbox.
    fn take_requeue(&self, sandbox: SandboxId) -> bool {
        let mut in_flight = self.in_flight.lock();
        in_flight
            .get_mut(&sandbox)
            .is_some_and(|in_flight_state| std::mem::take(&mut in_flight_state.requeued))
    }
}

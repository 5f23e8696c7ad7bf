//! Makes wishes come true.
//!
//! A [`Worker`] claims sandboxes that are due, one lease each, and works on some of them at a
//! time: it looks ([`observe`]), plans ([`plan`]), carries out ([`execute`], [`apply_step`]) and writes down
//! ([`lease_worker`]). Beside that it follows what runs ([`watch`]), takes requeues ([`requeue`]), removes what
//! is left of deleted projects ([`removal`]) and sweeps up what is in no row ([`orphans`]).
//!
//! Any number of processes may work on one control database. What makes that safe is in the rows:
//! see [`crate::store::leases`] and [`crate::store::observed`].

mod apply_step;
mod attempt;
pub mod backoff;
mod disk;
pub mod execute;
mod judge;
mod lease_worker;
pub mod metrics;
mod observe;
mod orphans;
pub mod plan;
mod removal;
mod repository;
mod requeue;
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
use crate::{state::App, store::notify::Topic};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sandboxes of one region that one process works on at a time, where the work is this
    /// machine's; where it is not, several times as many.
    pub concurrent: usize,
    /// How long a claim holds without being renewed. A dead worker's sandboxes wait so long.
    pub lease: Duration,
    /// How long the others believe that a process is alive that does not say so.
    pub lifetime: Duration,
    /// How often leftovers are looked for; `None` where several control databases share one data
    /// plane.
    pub sweep: Option<Duration>,
    /// How old what is known of the disk may get, where a limit on it holds.
    pub measure: Duration,
    /// Between the two sightings of a leftover.
    pub grace: Duration,
    /// No other process works on this control database, for certain (it is in a data folder that
    /// this one has locked). Then what a dead one left behind need not run out.
    pub alone: bool,
    /// How long work may go on after the shutdown has begun.
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
            grace: Duration::from_secs(60),
            alone: false,
            drain: Duration::from_secs(5),
        }
    }
}

/// Wakes the workers of this process at once. Whoever writes a wish wakes them anyway, through
/// the database; this saves the detour.
pub fn wake(app: &App) {
    app.hub.wake(Topic::DesiredState);
}

/// What the parts of one worker share.
pub(crate) struct Shared {
    app: App,
    options: Options,
    /// This process, among those that are alive.
    replica: Uuid,
    in_flight: Mutex<HashMap<SandboxId, UnderWay>>,
    followers: Followers,
    requeues: RequeueQueue,
    wake: Notify,
    metrics: Metrics,
}

/// What is heard of a sandbox while it is worked on.
struct UnderWay {
    /// The newest generation.
    newest: channel::Sender<i64>,
    /// Somebody should look at it again, since it was last looked at.
    requeued: bool,
}

impl Shared {
    fn heard_of(&self, sandbox: SandboxId, generation: i64) {
        if let Some(under_way) = self.in_flight.lock().get(&sandbox) {
            under_way.newest.send_if_modified(|newest| {
                let newer = generation > *newest;
                *newest = generation.max(*newest);
                newer
            });
        }
    }

    /// Somebody should look at a sandbox. While it is worked on here that is only noted: its own steps cause most of what
    /// changes in the data plane, and it is asked for when they are done.
    fn requeue(&self, sandbox: SandboxId) {
        match self.in_flight.lock().get_mut(&sandbox) {
            Some(under_way) => under_way.requeued = true,
            None => self.requeues.sandbox(sandbox, false),
        }
    }

    /// Whether there was a requeue since the last call, for whoever works on the sandbox.
    fn take_requeue(&self, sandbox: SandboxId) -> bool {
        let mut in_flight = self.in_flight.lock();
        in_flight
            .get_mut(&sandbox)
            .is_some_and(|under_way| std::mem::take(&mut under_way.requeued))
    }
}

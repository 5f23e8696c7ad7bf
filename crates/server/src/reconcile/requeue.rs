//! Requeue queue: collects requeue requests of sandboxes and writes them to the rows, where any worker finds them.
//! Losing a request costs only time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fsa_driver::Requeue;
use fsa_model::{ProjectId, SandboxId};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet};

use super::Shared;
use crate::store::requeue as rows;

/// How long requeues are batched: a machine that goes down affects many sandboxes.
const BATCH_DELAY: Duration = Duration::from_millis(20);
/// Above this number, everything is requeued instead of single sandboxes.
const MAX_PENDING: usize = 1000;
/// Pause after a driver's stream has ended, which it should not.
const STREAM_RETRY: Duration = Duration::from_secs(5);

/// Requeues that are not written yet.
#[derive(Default)]
pub struct RequeueQueue {
    waiting: Mutex<PendingRequeues>,
    notify: Notify,
}

#[derive(Default)]
struct PendingRequeues {
    /// Whether the requeue also applies during the backoff of a failed sandbox.
    sandboxes: HashMap<SandboxId, bool>,
    projects: HashSet<ProjectId>,
    everything: bool,
    /// Regions that answer again.
    recovered_regions: HashSet<String>,
}

impl RequeueQueue {
    /// Requeues this sandbox; with `even_failed` also before its backoff is over.
    pub fn sandbox(&self, sandbox: SandboxId, even_failed: bool) {
        let mut waiting = self.waiting.lock();
        *waiting.sandboxes.entry(sandbox).or_default() |= even_failed;
        if waiting.sandboxes.len() > MAX_PENDING {
            waiting.sandboxes.clear();
            waiting.everything = true;
        }
        self.notify.notify_one();
    }

    /// Requeues all sandboxes of this project.
    pub fn project(&self, project: ProjectId) {
        let mut waiting = self.waiting.lock();
        waiting.projects.insert(project);
        if waiting.projects.len() > MAX_PENDING {
            waiting.projects.clear();
            waiting.everything = true;
        }
        self.notify.notify_one();
    }

    /// Reports that a region answers again.
    pub fn region_recovered(&self, region: &str) {
        self.waiting.lock().recovered_regions.insert(region.to_owned());
        self.notify.notify_one();
    }

    /// Requeues everything.
    pub fn everything(&self) {
        self.waiting.lock().everything = true;
        self.notify.notify_one();
    }
}

/// Watches the drivers of all regions, forever.
pub async fn listen(shared: Arc<Shared>) {
    let mut regions = JoinSet::new();
    for region in shared.core.regions.iter() {
        for of_databases in [false, true] {
            let (shared, region) = (Arc::clone(&shared), region.clone());
            regions.spawn(async move {
                loop {
                    let mut changes = if of_databases {
                        region.databases.changes()
                    } else {
                        region.driver.changes()
                    };
                    while let Some(requeue) = changes.next().await {
                        match requeue {
                            Requeue::Sandbox(sandbox) => shared.requeue(sandbox.id),
                            Requeue::Project(project) => shared.requeues.project(project),
                            Requeue::Everything => shared.requeues.everything(),
                            Requeue::Recovered => shared.requeues.region_recovered(&region.name),
                        }
                    }
                    tracing::warn!(
                        region = region.name,
                        of_databases,
                        "the region's change stream ended; reopening it"
                    );
                    tokio::time::sleep(STREAM_RETRY).await;
                    shared.requeues.everything();
                }
            });
        }
    }
    // The tasks end only by a panic, and then all of them do.
    while regions.join_next().await.is_some() {}
    std::future::pending().await
}

/// Writes requeues to the rows, forever.
pub async fn write(shared: Arc<Shared>) {
    loop {
        shared.requeues.notify.notified().await;
        tokio::time::sleep(BATCH_DELAY).await;
        let waiting = std::mem::take(&mut *shared.requeues.waiting.lock());
        match write_once(&shared, &waiting).await {
            Ok(true) => shared.wake.notify_one(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "requeues could not be stored");
                restore(&shared, waiting);
                tokio::time::sleep(STREAM_RETRY).await;
            }
        }
    }
}

fn restore(shared: &Shared, waiting: PendingRequeues) {
    if waiting.everything {
        shared.requeues.everything();
    }
    for project in waiting.projects {
        shared.requeues.project(project);
    }
    for region in &waiting.recovered_regions {
        shared.requeues.region_recovered(region);
    }
    for (sandbox, even_failed) in waiting.sandboxes {
        shared.requeues.sandbox(sandbox, even_failed);
    }
}

/// Whether there is work: terminating sandboxes change too.
async fn write_once(shared: &Shared, waiting: &PendingRequeues) -> Result<bool, sqlx::Error> {
    let store = &shared.core.store;
    let mut due = waiting.everything || !waiting.recovered_regions.is_empty();
    if waiting.everything {
        let regions: Vec<String> = shared
            .core
            .regions
            .iter()
            .map(|region| region.name.clone())
            .collect();
        rows::requeue_regions(store, &regions).await?;
    }
    if !waiting.projects.is_empty() {
        due |= rows::requeue_projects(store, &waiting.projects).await?;
    }
    for region in &waiting.recovered_regions {
        rows::end_backoff(store, region).await?;
    }
    for even_failed in [false, true] {
        let ids: Vec<SandboxId> = waiting
            .sandboxes
            .iter()
            .filter(|(_, even)| **even == even_failed)
            .map(|(id, _)| *id)
            .collect();
        if !ids.is_empty() {
            due |= rows::requeue(store, &ids, even_failed).await?;
        }
    }
    Ok(due)
}

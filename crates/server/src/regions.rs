//! Health of each region. Clients request it whenever a dialog opens, so the result is cached briefly, and a
//! region that does not respond delays the response only up to a timeout.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fsa_driver::{Region, Regions};
use fsa_model::system::RegionInfo;
use futures_util::future::join_all;
use tokio::sync::Mutex;

/// Timeout for a region's inventory.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a result is cached.
const CACHE_LIFETIME: Duration = Duration::from_secs(10);

/// The last result per region, and its time.
#[derive(Default)]
pub(crate) struct Health(Mutex<BTreeMap<String, (Instant, bool)>>);

impl Health {
    /// All regions, the default one first. One caller queries at a time; the others get its result.
    pub(crate) async fn of(&self, regions: &Regions) -> Vec<RegionInfo> {
        let mut cached = self.0.lock().await;
        let now = Instant::now();
        cached.retain(|_, (at, _)| now.duration_since(*at) < CACHE_LIFETIME);
        let queries = regions
            .iter()
            .filter(|region| !cached.contains_key(&region.name))
            .map(async |region| (region.name.clone(), (now, answers(region).await)));
        let found = join_all(queries).await;
        cached.extend(found);
        let mut all: Vec<_> = regions
            .iter()
            .map(|region| RegionInfo {
                name: region.name.clone(),
                kind: region.driver.capabilities().driver.to_owned(),
                snapshots: region.driver.capabilities().snapshots,
                // The server may have no repository.
                backups: region.driver.volume_files().is_some(),
                default: region.name == regions.default_name(),
                healthy: cached.get(&region.name).is_some_and(|(_, healthy)| *healthy),
            })
            .collect();
        all.sort_by_key(|region| !region.default);
        all
    }
}

async fn answers(region: &Region) -> bool {
    match tokio::time::timeout(TIMEOUT, region.driver.inventory()).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(region = %region.name, %error, "the region could not list its sandboxes");
            false
        }
        Err(_) => {
            tracing::warn!(region = %region.name, "the region does not answer");
            false
        }
    }
}

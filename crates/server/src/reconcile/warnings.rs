//! Data plane warnings: writes unsolicited warnings about sandboxes as events of their projects.

use std::{sync::Arc, time::Duration};

use fsa_driver::Warning;
use futures_util::StreamExt as _;
use tokio::task::JoinSet;

use super::Shared;
use crate::store::warnings;

/// Pause after a failed write, and after a driver's stream has ended, which it should not.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Attempts to write a warning. A lost warning is only not reported.
const MAX_ATTEMPTS: usize = 12;

/// Watches the drivers of all regions, forever.
pub async fn listen(shared: Arc<Shared>) {
    let mut regions = JoinSet::new();
    for region in shared.core.regions.iter() {
        let (shared, region) = (Arc::clone(&shared), region.clone());
        regions.spawn(async move {
            loop {
                let mut warnings = region.driver.warnings();
                while let Some(warning) = warnings.next().await {
                    report(&shared, &warning).await;
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
        });
    }
    // The tasks end only by a panic, and then all of them do.
    while regions.join_next().await.is_some() {}
    std::future::pending().await
}

async fn report(shared: &Shared, warning: &Warning) {
    let message = sentence(warning);
    for _ in 0..MAX_ATTEMPTS {
        match warnings::report(&shared.core.store, warning, &message).await {
            Ok(reported) => {
                if reported {
                    tracing::warn!(sandbox = %warning.sandbox.resource, cause = warning.cause, count = warning.count,
                        kubernetes_status = warning.failure.kubernetes_status, "the data plane reported a warning");
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "a warning could not be stored"),
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// A warning as a sentence for people.
fn sentence(warning: &Warning) -> String {
    let message = warning.failure.message.trim_end_matches('.');
    let mut letters = message.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    let mut text = format!("{}{}.", first.unwrap_or_default(), letters.as_str());
    if warning.count > 1 {
        text.push_str(&format!(" (Reported {} times so far.)", warning.count));
    }
    text
}

//! Data plane warnings: writes unsolicited warnings about sandboxes as events of their projects.

use std::{sync::Arc, time::Duration};

use fsa_driver::Warning;
use futures_util::StreamExt as _;
use tokio::task::JoinSet;

use super::Shared;
use crate::store::warnings;

/// Pause after a failed write, and after a driver's stream has ended, which it should not.
const RETRY: Duration = Duration::from_secs(5);
/// Attempts to write a warning. A lost warning is only not reported.
const TRIES: usize = 12;

/// Watches the drivers of all regions, forever.
pub async fn listen(shared: Arc<Shared>) {
    let mut regions = JoinSet::new();
    for region in shared.core.regions.iter() {
        let (shared, region) = (Arc::clone(&shared), region.clone());
        regions.spawn(async move {
            loop {
                let mut warnings = region.driver.warnings();
                while let Some(warning) = warnings.next().await {
                    tell(&shared, &warning).await;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }
    // The tasks end only by a panic, and then all of them do.
    while regions.join_next().await.is_some() {}
    std::future::pending().await
}

async fn tell(shared: &Shared, warning: &Warning) {
    let message = sentence(warning);
    for _ in 0..TRIES {
        match warnings::report(&shared.core.store, warning, &message).await {
            Ok(told) => {
                if told {
                    tracing::warn!(sandbox = %warning.sandbox.resource, cause = warning.cause, count = warning.count,
                        said = warning.failure.kubernetes_status, "the data plane warns");
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "a warning could not be written down"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// A warning as a sentence for people.
fn sentence(warning: &Warning) -> String {
    let words = warning.failure.message.trim_end_matches('.');
    let mut letters = words.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    let mut text = format!("{}{}.", first.unwrap_or_default(), letters.as_str());
    if warning.count > 1 {
        text.push_str(&format!(" (Said {} times until now.)", warning.count));
    }
    text
}

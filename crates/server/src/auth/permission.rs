//! End of a permission: streams and WebSockets end when the permission is withdrawn.

use std::time::Duration;

use crate::{
    core::Core,
    store::{
        notify::Topic,
        project_access::{self, CurrentRole},
    },
};

pub use crate::store::permission::{Authorized, Changes, Manage, Own, Permission, Read, Write};

/// Interval at which a long connection rechecks its permission without a notification.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);

impl<R: Permission> Authorized<R> {
    /// Waits until the permission no longer holds: the credential ended, the share was withdrawn, or the role became
    /// too low. For streams and WebSockets, which outlive the check at their start.
    pub async fn ended(&self, core: &Core) {
        let withdrawn = async {
            let mut subscription = core.hub.subscribe(Topic::Credentials(self.caller().user()));
            loop {
                match project_access::role(&core.store, self.caller(), self.id).await {
                    // The last events of a deleted project may not be delivered yet.
                    Ok(CurrentRole::Gone) => {}
                    Ok(CurrentRole::Has(role)) if role >= R::MIN_ROLE => {}
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%error, "a permission could not be rechecked"),
                }
                tokio::select! {
                    () = subscription.changed() => {}
                    () = tokio::time::sleep(RECHECK_INTERVAL) => {}
                }
            }
        };
        tokio::select! {
            () = self.caller().ended(core) => {}
            () = withdrawn => {}
        }
    }
}

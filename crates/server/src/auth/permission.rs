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
const RECHECK: Duration = Duration::from_secs(60);

impl<R: Permission> Authorized<R> {
    /// Waits until the permission no longer holds: the credential ended, the share was withdrawn, or the role became
    /// too low. For streams and WebSockets, which outlive the check at their start.
    pub async fn ended(&self, core: &Core) {
        let withdrawn = async {
            let mut interest = core.hub.interest(Topic::Credentials(self.caller().user()));
            loop {
                match project_access::role(&core.store, self.caller(), self.id).await {
                    // The last events of a deleted project may not be delivered yet.
                    Ok(CurrentRole::Gone) => {}
                    Ok(CurrentRole::Is(role)) if role >= R::NEEDS => {}
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%error, "cannot tell whether a project is still shared"),
                }
                tokio::select! {
                    () = interest.changed() => {}
                    () = tokio::time::sleep(RECHECK) => {}
                }
            }
        };
        tokio::select! {
            () = self.caller().ended(core) => {}
            () = withdrawn => {}
        }
    }
}

//! How long a permission lasts: streams and WebSockets end when it is withdrawn.

use std::time::Duration;

use crate::{
    state::App,
    store::{
        notify::Topic,
        project_access::{self, CurrentRole},
    },
};

pub use crate::store::permission::{Authorized, Changes, Manage, Own, Permission, Read, Write};

/// How often a long connection checks without a notification whether its permission still holds.
const RECHECK: Duration = Duration::from_secs(60);

impl<R: Permission> Authorized<R> {
    /// Waits until the permission no longer holds: the credential ended, or the share was withdrawn or became
    /// less. For streams and WebSockets, which outlive the check at their beginning.
    pub async fn ended(&self, app: &App) {
        let withdrawn = async {
            let mut interest = app.hub.interest(Topic::Credentials(self.caller().user()));
            loop {
                match project_access::role(&app.store, self.caller(), self.id).await {
                    // Of a project that is gone, its last events may still be on their way.
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
            () = self.caller().ended(app) => {}
            () = withdrawn => {}
        }
    }
}

//! Authorization of connections that outlive their request: tunnels and terminals.

use std::time::Duration;

use fsa_model::ProjectId;

use super::{
    Gateway,
    access::{self, Principal},
    routes::Route,
};
use crate::{auth::Caller, store::notify::Topic, tunnel::CloseReason};

/// How often the authorization is checked without a notification.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The credentials that a tunnel was authorized with.
pub(super) struct TunnelAccess {
    pub gateway: Gateway,
    pub label: String,
    pub project: ProjectId,
    pub principal: Principal,
    /// The caller, if the request had an API token.
    pub caller: Option<Caller>,
}

impl TunnelAccess {
    /// Waits until the credentials no longer authorize the tunnel, or the server drains.
    pub(super) async fn ended(self) -> CloseReason {
        let refused = async {
            let mut subscription = self.gateway.core.hub.subscribe(Topic::Project(self.project));
            loop {
                tokio::select! {
                    () = subscription.changed() => {}
                    () = tokio::time::sleep(RECHECK_INTERVAL) => {}
                }
                match self.gateway.route(&self.label).await {
                    Ok(Some(route)) if self.is_authorized(&route) => {}
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%error, "cannot check the authorization of a tunnel"),
                }
            }
        };
        let revoked = async {
            match &self.caller {
                Some(caller) => caller.ended(&self.gateway.core).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.gateway.core.shutdown.cancelled() => CloseReason::Restarting,
            () = refused => CloseReason::Refused,
            () = revoked => CloseReason::Refused,
        }
    }

    fn is_authorized(&self, route: &Route) -> bool {
        route.project == self.project && access::is_still_authorized(self.principal, route)
    }
}

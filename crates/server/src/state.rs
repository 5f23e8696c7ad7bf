//! State of a running server, as its handlers and its listener see it.

use std::ops::Deref;

use axum::extract::FromRef;
use fsa_driver::Regions;

use crate::{
    callback::Callback, core::Core, encryption::KeyRing, gateway::Gateway, sandbox_client::Streams,
    settings::Settings, store::Store,
};

/// The parts of a running server. Cheap to clone. It dereferences to [`Core`], which use cases take.
#[derive(Clone)]
pub struct App {
    core: Core,
    /// The gateway to the ports of sandboxes, with its caches.
    pub gateway: Gateway,
    /// Answers requests from sandboxes.
    pub callback: Callback,
    pub(crate) streams: Streams,
}

impl App {
    /// Assembles the parts. See [`Core::new`].
    #[must_use]
    pub fn new(store: Store, regions: Regions, key_ring: KeyRing, settings: Settings) -> Self {
        let core = Core::new(store, regions, key_ring, settings);
        Self {
            gateway: Gateway::new(core.clone()),
            callback: Callback::new(core.clone()),
            streams: Streams::default(),
            core,
        }
    }

    /// The state that use cases need.
    #[must_use]
    pub const fn core(&self) -> &Core {
        &self.core
    }
}

impl Deref for App {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl FromRef<App> for Core {
    fn from_ref(app: &App) -> Self {
        app.core.clone()
    }
}

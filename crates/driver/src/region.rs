//! Regions: the configured data planes, by name.

use std::{collections::BTreeMap, sync::Arc};

use crate::{SharedDatabases, SharedDriver};

/// One data plane and its databases.
#[derive(Clone)]
pub struct Region {
    pub name: String,
    pub driver: SharedDriver,
    pub databases: SharedDatabases,
}

/// All regions. The first one added is the default.
#[derive(Clone, Default)]
pub struct Regions {
    default: String,
    regions: Arc<BTreeMap<String, Region>>,
}

impl Regions {
    #[must_use]
    pub fn new(regions: Vec<Region>) -> Self {
        Self {
            default: regions
                .first()
                .map(|region| region.name.clone())
                .unwrap_or_default(),
            regions: Arc::new(
                regions
                    .into_iter()
                    .map(|region| (region.name.clone(), region))
                    .collect(),
            ),
        }
    }

    /// With another default, if a region has this name.
    #[must_use]
    pub fn with_default(mut self, name: &str) -> Self {
        if self.regions.contains_key(name) {
            name.clone_into(&mut self.default);
        }
        self
    }

    /// The name of the region of projects that are created without one.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Region> {
        self.regions.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }
}

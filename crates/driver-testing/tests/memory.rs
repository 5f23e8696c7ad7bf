//! Conformance of the in-memory driver.

use std::sync::Arc;

use async_trait::async_trait;
use fsa_driver::{SharedDatabases, SharedDriver};
use fsa_driver_testing::{
    conformance::World,
    memory::{ECHO, MISSING_IMAGE, MemoryDatabases, MemoryDriver},
};
use fsa_model::{DatabaseSpec, Image, SandboxRef};

struct InMemory {
    driver: Arc<MemoryDriver>,
    databases: Arc<MemoryDatabases>,
}

impl InMemory {
    fn new() -> Self {
        Self {
            driver: MemoryDriver::new(),
            databases: MemoryDatabases::new(),
        }
    }
}

#[async_trait]
impl World for InMemory {
    fn driver(&self) -> SharedDriver {
        self.driver.clone()
    }

    fn databases(&self) -> Option<SharedDatabases> {
        Some(self.databases.clone())
    }

    fn image(&self) -> Image {
        Image::Template("web".into())
    }

    fn missing_image(&self) -> Image {
        Image::Reference(MISSING_IMAGE.into())
    }

    fn echo_command(&self, port: u16) -> String {
        format!("{ECHO} {port}")
    }

    async fn kill(&self, sandbox: &SandboxRef) {
        self.driver.kill(&sandbox.resource);
    }

    async fn insert_row(&self, database: &DatabaseSpec, text: &str) -> Result<(), String> {
        self.databases
            .insert_row(database, text)
            .map_err(|error| error.to_string())
    }

    async fn select_rows(&self, database: &DatabaseSpec) -> Result<Vec<String>, String> {
        self.databases
            .select_rows(database)
            .map_err(|error| error.to_string())
    }
}

fsa_driver_testing::conformance_tests!(InMemory::new());

#[tokio::test]
async fn all_stories_run_in_sequence_and_leave_nothing() {
    let world = InMemory::new();
    fsa_driver_testing::conformance::run(&world).await;
    assert_eq!(world.driver.resources(), []);
    assert_eq!(world.driver.volumes(), []);
    assert_eq!(world.databases.roles(), Vec::<String>::new());
}

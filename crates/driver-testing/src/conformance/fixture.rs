//! Fixture of a story: its projects, the operations that stories share, and the cleanup.

use std::time::Duration;

use fsa_model::{
    ContainerState, DatabaseSpec, ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef, SandboxSpec,
    Size, UserId, VolumeId,
    environment::Environment,
    sandboxd::{HOME, Status},
};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use secrecy::SecretString;

use super::World;
use fsa_driver::{BoxConnection, Databases, Endpoint, Observed, Result, SharedDatabases, SharedDriver};
use fsa_sandboxd_client::{FileQuery, FileScope, SandboxdClient, read_body};

/// Timeout of each operation: far above its usual time on a slow machine.
pub(super) const TIMEOUT: Duration = Duration::from_secs(240);

/// The fixture of one story.
pub struct Fixture<'a> {
    pub world: &'a dyn World,
    pub driver: SharedDriver,
    pub databases: Option<SharedDatabases>,
    sandboxes: Mutex<Vec<SandboxRef>>,
    database_specs: Mutex<Vec<DatabaseSpec>>,
}

impl<'a> Fixture<'a> {
    pub(super) fn new(world: &'a dyn World) -> Self {
        Self {
            world,
            driver: world.driver(),
            databases: world.databases(),
            sandboxes: Mutex::default(),
            database_specs: Mutex::default(),
        }
    }

    /// The spec of a sandbox of a new project. Nothing of it exists yet.
    pub fn sandbox(&self, project: &str) -> SandboxSpec {
        let name = ProjectName::parse(project).expect("the project name is valid");
        self.named(ResourceName::generate(&name), name)
    }

    /// [`Self::sandbox`] with this resource name.
    pub fn named(&self, resource: ResourceName, project_name: ProjectName) -> SandboxSpec {
        let project = ProjectId::generate();
        let sandbox = SandboxRef {
            id: SandboxId::generate(),
            project,
            volume: VolumeId::of_main(project),
            resource,
        };
        self.sandboxes.lock().push(sandbox.clone());
        SandboxSpec {
            sandbox,
            owner: UserId::generate(),
            project_name,
            image: self.world.image(),
            resources: Size::Micro.resources(),
            environment: Environment::from([("FSA_STORY".to_owned(), "value".to_owned().into())]),
            start_command: None,
            repository: None,
            control_token: format!("token-{}", uuid::Uuid::new_v4()).into(),
            database_role: None,
            restarts: 0,
        }
    }

    /// The spec of a database of a new project, if the region has databases.
    pub fn database(&self, project: &str) -> Option<(SharedDatabases, DatabaseSpec)> {
        let databases = self.databases.clone()?;
        let name = ProjectName::parse(project).expect("the project name is valid");
        let project = ProjectId::generate();
        let spec = DatabaseSpec {
            project,
            volume: VolumeId::of_main(project),
            resource: ResourceName::generate(&name),
            password: SecretString::from(format!("it's \"a\" p@ss {}", uuid::Uuid::new_v4())),
            resources: Size::Micro.resources(),
        };
        self.database_specs.lock().push(spec.clone());
        Some((databases, spec))
    }

    pub async fn ensure_network(&self, spec: &SandboxSpec) -> Result<()> {
        within_timeout(self.driver.ensure_network(spec)).await
    }

    pub async fn ensure_container(&self, spec: &SandboxSpec) -> Result<()> {
        within_timeout(self.driver.ensure_container(spec)).await
    }

    /// Starts the sandbox. Returns its status when it is ready.
    pub async fn start(&self, spec: &SandboxSpec) -> Status {
        let network = self.ensure_network(spec).await;
        network.unwrap_or_else(|error| panic!("network: {error} ({:?})", error.cause));
        let container = self.ensure_container(spec).await;
        container.unwrap_or_else(|error| panic!("container: {error} ({:?})", error.cause));
        let ready = self.sandboxd(spec).await_ready(TIMEOUT).await;
        let (status, _) = ready.expect("sandboxd is ready");
        let serving = within_timeout(self.driver.await_serving(&spec.sandbox)).await;
        serving.expect("it is serving");
        status
    }

    pub async fn stop(&self, spec: &SandboxSpec) {
        within_timeout(self.driver.stop(&spec.sandbox))
            .await
            .expect("it stops");
    }

    pub async fn destroy(&self, spec: &SandboxSpec) {
        within_timeout(self.driver.destroy(&spec.sandbox))
            .await
            .expect("it is destroyed");
    }

    pub async fn observe(&self, spec: &SandboxSpec) -> Observed {
        within_timeout(self.driver.observe(&spec.sandbox))
            .await
            .expect("it can be observed")
    }

    /// Whether its processes run.
    pub async fn runs(&self, spec: &SandboxSpec) -> bool {
        matches!(
            self.observe(spec).await.container,
            ContainerState::Starting | ContainerState::Running
        )
    }

    pub async fn connect(&self, spec: &SandboxSpec, endpoint: Endpoint) -> Result<BoxConnection> {
        within_timeout(self.driver.connect(&spec.sandbox, endpoint)).await
    }

    /// Whether the inventory has the sandbox, with all its ids.
    pub async fn is_in_inventory(&self, spec: &SandboxSpec) -> bool {
        let all = within_timeout(self.driver.inventory())
            .await
            .expect("there is an inventory");
        all.contains(&spec.sandbox)
    }

    #[must_use]
    pub fn sandboxd<'b>(&'b self, spec: &'b SandboxSpec) -> SandboxdClient<'b> {
        SandboxdClient::new(&*self.driver, &spec.sandbox, &spec.control_token)
    }

    /// Waits for a status that satisfies `condition`.
    pub async fn await_status(&self, spec: &SandboxSpec, condition: impl Fn(&Status) -> bool) -> Status {
        let wait = async {
            let mut statuses = self.sandboxd(spec).watch().await.expect("it can be watched");
            loop {
                let status = statuses
                    .next()
                    .await
                    .expect("the watch continues")
                    .expect("a status");
                if condition(&status) {
                    return status;
                }
            }
        };
        tokio::time::timeout(TIMEOUT, wait)
            .await
            .expect("the status is reported before the timeout")
    }

    /// Writes a file in the home volume.
    pub async fn write_home(&self, spec: &SandboxSpec, name: &str, content: &str) {
        self.write(spec, &format!("{HOME}/{name}"), content).await;
    }

    /// Writes a file outside the home volume.
    pub async fn write_root(&self, spec: &SandboxSpec, name: &str, content: &str) {
        self.write(spec, &format!("{}/{name}", self.world.root_folder()), content)
            .await;
    }

    pub async fn read_home(&self, spec: &SandboxSpec, name: &str) -> Option<String> {
        self.read(spec, &format!("{HOME}/{name}")).await
    }

    pub async fn read_root(&self, spec: &SandboxSpec, name: &str) -> Option<String> {
        self.read(spec, &format!("{}/{name}", self.world.root_folder()))
            .await
    }

    async fn write(&self, spec: &SandboxSpec, path: &str, content: &str) {
        let file = FileQuery {
            path: path.as_bytes(),
            ..FileQuery::default()
        };
        let body = Full::from(content.to_owned())
            .map_err(|never| match never {})
            .boxed_unsync();
        self.sandboxd(spec)
            .write_file(&file, HeaderMap::new(), body, TIMEOUT)
            .await
            .unwrap_or_else(|error| panic!("writing {path}: {error}"));
    }

    async fn read(&self, spec: &SandboxSpec, path: &str) -> Option<String> {
        let file = FileQuery {
            path: path.as_bytes(),
            ..FileQuery::default()
        };
        let response = self
            .sandboxd(spec)
            .read_file(Method::GET, FileScope::All, &file, HeaderMap::new(), TIMEOUT)
            .await;
        match response {
            Ok(response) => {
                let content = read_body(response.into_body(), TIMEOUT)
                    .await
                    .expect("a whole file");
                Some(String::from_utf8_lossy(&content).into_owned())
            }
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => None,
            Err(error) => panic!("reading {path}: {error}"),
        }
    }

    /// Removes everything that the story created.
    pub(super) async fn clean_up(&self) -> Result<()> {
        let sandboxes = std::mem::take(&mut *self.sandboxes.lock());
        let databases = std::mem::take(&mut *self.database_specs.lock());
        let mut result = Ok(());
        for sandbox in sandboxes {
            result = result.and(within_timeout(self.driver.destroy(&sandbox)).await);
            result = result.and(within_timeout(self.driver.remove_volume(sandbox.volume)).await);
        }
        for database in databases {
            if let Some(all) = &self.databases {
                result = result.and(within_timeout(Databases::drop(&**all, &database)).await);
            }
        }
        result
    }
}

/// Fails the story if the driver does not respond.
pub(super) async fn within_timeout<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, call)
        .await
        .expect("the driver responds before the timeout")
}

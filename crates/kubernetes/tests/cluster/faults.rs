//! Changes that others make to a sandbox's objects: the driver observes and repairs them.

use std::time::Duration;

use fsa_driver::Driver as _;
use fsa_kubernetes::settings::Reach;
use fsa_model::{
    ContainerState, FailureKind, Image, ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef,
    SandboxSpec, Size, UserId, VolumeId, environment::Environment,
};
use fsa_sandboxd_client::SandboxdClient;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, Service},
    networking::v1::Ingress,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::{
    warnings::first_warning,
    world::{Fixture, TOOLS, administrators_exec},
};

const TIMEOUT: Duration = Duration::from_secs(240);

pub fn spec(name: &str) -> SandboxSpec {
    let project_name = ProjectName::parse(name).unwrap();
    let project = ProjectId::generate();
    SandboxSpec {
        sandbox: SandboxRef {
            id: SandboxId::generate(),
            project,
            volume: VolumeId::of_main(project),
            resource: ResourceName::generate(&project_name),
        },
        owner: UserId::generate(),
        project_name,
        image: Image::Reference(TOOLS.into()),
        resources: Size::Micro.resources(),
        environment: Environment::from([("A".to_owned(), "1".to_owned().into())]),
        start_command: None,
        repository: None,
        control_token: "token".to_owned().into(),
        database_role: None,
        restarts: 0,
    }
}

async fn in_time<T>(operation: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, operation)
        .await
        .expect("an operation ends in time")
}

pub async fn start(fixture: &Fixture, spec: &SandboxSpec) {
    let network = in_time(fixture.driver.ensure_network(spec)).await;
    network.unwrap_or_else(|error| panic!("network: {error} ({:?})", error.cause));
    let container = in_time(fixture.driver.ensure_container(spec)).await;
    container.unwrap_or_else(|error| panic!("container: {error} ({:?})", error.cause));
    let ready = SandboxdClient::new(&fixture.driver, &spec.sandbox, &spec.control_token)
        .await_ready(TIMEOUT)
        .await;
    ready
        .map(drop)
        .unwrap_or_else(|error| panic!("terminal: {error}"));
    in_time(fixture.driver.await_serving(&spec.sandbox))
        .await
        .expect("it is served");
}

/// Waits, by the driver's own requeues, until an observation satisfies `condition`.
pub async fn until(
    fixture: &Fixture,
    spec: &SandboxSpec,
    condition: impl Fn(&fsa_driver::Observed) -> bool,
) -> fsa_driver::Observed {
    use futures_util::StreamExt as _;
    let mut requeues = fixture.driver.changes();
    let wait = async {
        loop {
            let observed = fixture.driver.observe(&spec.sandbox).await.unwrap();
            if condition(&observed) {
                return observed;
            }
            // Bounded, because a requeue that came before the observation is not repeated.
            let _ = tokio::time::timeout(Duration::from_secs(1), requeues.next()).await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait)
        .await
        .expect("it is observed in time")
}

#[tokio::test]
async fn a_deployment_that_was_edited_by_hand_is_observed_and_repaired() {
    let fixture = Fixture::new(Reach::Direct).await;
    let spec = spec("edited");
    start(&fixture, &spec).await;
    let edit = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "sandbox", "resources": {"limits": {"memory": "300Mi"}}}
    ]}}}});
    fixture
        .api::<Deployment>()
        .patch(
            spec.sandbox.resource.as_str(),
            &PatchParams::default(),
            &Patch::Strategic(edit),
        )
        .await
        .unwrap();
    until(&fixture, &spec, |observed| observed.digest.is_none()).await;
    start(&fixture, &spec).await;
    let observed = until(&fixture, &spec, |observed| {
        observed.container == ContainerState::Running
    })
    .await;
    assert_eq!(observed.digest, Some(spec.digest()));
    let repaired = fixture
        .api::<Deployment>()
        .get(spec.sandbox.resource.as_str())
        .await
        .unwrap();
    let limits = repaired.spec.unwrap().template.spec.unwrap().containers[0]
        .resources
        .clone()
        .unwrap()
        .limits
        .unwrap();
    assert_eq!(limits["memory"].0, "256Mi");
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sign_in_that_was_removed_from_an_ingress_is_restored() {
    let fixture = Fixture::with_only_its_role_and(Reach::Direct, |settings| {
        settings.expose.domain = Some("apps.example.org".into());
        settings.expose.sign_in_url = Some("https://fsa.example.org".into());
    })
    .await;
    let spec = spec("guarded");
    let name = spec.sandbox.resource.as_str();
    in_time(fixture.driver.ensure_network(&spec)).await.unwrap();
    let ingresses = fixture.api::<Ingress>();
    let sign_in = async || {
        let annotations = ingresses.get(name).await.unwrap().metadata.annotations;
        annotations
            .unwrap()
            .remove("nginx.ingress.kubernetes.io/auth-url")
    };
    let before = sign_in().await;
    assert!(before.is_some());
    let open = json!({"metadata": {"annotations": {"nginx.ingress.kubernetes.io/auth-url": null}}});
    ingresses
        .patch(name, &PatchParams::default(), &Patch::Merge(open))
        .await
        .unwrap();
    until(&fixture, &spec, |observed| !observed.network).await;
    in_time(fixture.driver.ensure_network(&spec)).await.unwrap();
    assert_eq!(sign_in().await, before);
    until(&fixture, &spec, |observed| observed.network).await;
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn fields_that_others_add_to_an_object_stay() {
    let fixture = Fixture::new(Reach::Direct).await;
    let spec = spec("adorned");
    start(&fixture, &spec).await;
    let edit = json!({"metadata": {"annotations": {"example.org/team": "blue"}}});
    fixture
        .api::<Service>()
        .patch(
            spec.sandbox.resource.as_str(),
            &PatchParams::default(),
            &Patch::Merge(edit),
        )
        .await
        .unwrap();
    start(&fixture, &spec).await;
    let service = fixture
        .api::<Service>()
        .get(spec.sandbox.resource.as_str())
        .await
        .unwrap();
    assert_eq!(service.metadata.annotations.unwrap()["example.org/team"], "blue");
    assert!(fixture.driver.observe(&spec.sandbox).await.unwrap().network);
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_deleted_service_and_a_deleted_secret_are_created_again_and_the_processes_stay() {
    let fixture = Fixture::new(Reach::Direct).await;
    let spec = spec("robbed");
    start(&fixture, &spec).await;
    let before = fixture.pod(&spec.sandbox).await.metadata.uid;
    let name = spec.sandbox.resource.as_str();
    fixture
        .api::<Secret>()
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    fixture
        .api::<Service>()
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    until(&fixture, &spec, |observed| {
        observed.digest.is_none() && !observed.network
    })
    .await;
    start(&fixture, &spec).await;
    until(&fixture, &spec, |observed| {
        observed.network && observed.digest == Some(spec.digest())
    })
    .await;
    assert_eq!(fixture.pod(&spec.sandbox).await.metadata.uid, before);
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_reported_with_the_clusters_own_message() {
    let fixture = Fixture::new(Reach::Direct).await;
    let mut spec = spec("imageless");
    spec.image = Image::Reference("127.0.0.1:9/nothing:1".into());
    in_time(fixture.driver.ensure_network(&spec)).await.unwrap();
    let error = in_time(fixture.driver.ensure_container(&spec)).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:9/nothing:1"), "{error}");
    let status = error.failure.kubernetes_status.unwrap();
    assert!(status.contains("ImagePull"), "{status}");
    let warning = first_warning(&fixture, &spec.sandbox, "image").await;
    assert!(
        warning.failure.message.contains("127.0.0.1:9/nothing:1"),
        "{warning:?}"
    );
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_fits_on_no_node_is_reported() {
    let fixture = Fixture::new(Reach::Direct).await;
    let mut spec = spec("giant");
    spec.resources.memory_request_mib = 10_000_000;
    spec.resources.memory_limit_mib = 10_000_000;
    in_time(fixture.driver.ensure_network(&spec)).await.unwrap();
    let error = in_time(fixture.driver.ensure_container(&spec)).await.unwrap_err();
    assert_eq!(error.failure.kind, FailureKind::Machine, "{error}");
    assert!(
        error
            .failure
            .kubernetes_status
            .unwrap()
            .contains("Insufficient memory")
    );
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_is_confined_and_has_no_account_of_the_cluster() {
    let fixture = Fixture::new(Reach::PortForward).await;
    let spec = spec("confined");
    start(&fixture, &spec).await;
    let output = administrators_exec(
        &fixture,
        &spec.sandbox,
        &[
            "sh",
            "-c",
            "id -u; grep CapEff /proc/1/status; grep NoNewPrivs /proc/1/status; ls /var/run/secrets 2>&1; echo end",
        ],
    )
    .await;
    assert!(output.starts_with("1000\n"), "{output}");
    assert!(output.contains("CapEff:\t0000000000000000"), "{output}");
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
    assert!(!output.contains("kubernetes.io"), "{output}");
    // The image's own environment is still there, below the project's.
    let status = SandboxdClient::new(&fixture.driver, &spec.sandbox, &spec.control_token)
        .status()
        .await
        .unwrap();
    assert!(status.ready);
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
    let left = fixture
        .api::<Secret>()
        .list(&ListParams::default().labels("app.kubernetes.io/managed-by=fullstackagent"))
        .await
        .unwrap();
    assert!(left.items.is_empty(), "{:?}", left.items.len());
}

#[tokio::test]
async fn the_role_of_the_chart_is_enough() {
    for reach in [Reach::Direct, Reach::PortForward] {
        let fixture = Fixture::with_only_its_role(reach).await;
        let spec = spec("bounded");
        start(&fixture, &spec).await;
        fixture.driver.usage(&spec.sandbox).await.unwrap();
        fixture.driver.stop(&spec.sandbox).await.unwrap();
        start(&fixture, &spec).await;
        fixture.driver.destroy(&spec.sandbox).await.unwrap();
        fixture.driver.remove_volume(spec.sandbox.volume).await.unwrap();
        assert_eq!(fixture.driver.inventory().await.unwrap(), Vec::new());
    }
}

//! What others do to a sandbox's objects, and what the driver then sees and puts right.

use std::time::Duration;

use fsa_driver::Driver as _;
use fsa_kubernetes::settings::Reach;
use fsa_model::{
    ContainerState, FailureKind, Image, ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef,
    SandboxSpec, Size, UserId, environment::Environment,
};
use fsa_sandboxd_client::SandboxdClient;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, Service},
    networking::v1::Ingress,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::world::{Place, TOOLS, administrators_exec};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn spec(project: &str) -> SandboxSpec {
    let project_name = ProjectName::parse(project).unwrap();
    SandboxSpec {
        sandbox: SandboxRef {
            id: SandboxId::generate(),
            project: ProjectId::generate(),
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
    tokio::time::timeout(PATIENCE, operation)
        .await
        .expect("an operation ends in time")
}

pub async fn start(place: &Place, spec: &SandboxSpec) {
    let network = in_time(place.driver.ensure_network(spec)).await;
    network.unwrap_or_else(|error| panic!("network: {error} ({:?})", error.cause));
    let container = in_time(place.driver.ensure_container(spec)).await;
    container.unwrap_or_else(|error| panic!("container: {error} ({:?})", error.cause));
    let ready = SandboxdClient::new(&place.driver, &spec.sandbox, &spec.control_token)
        .await_ready(PATIENCE)
        .await;
    ready
        .map(drop)
        .unwrap_or_else(|error| panic!("terminal: {error}"));
    in_time(place.driver.await_serving(&spec.sandbox))
        .await
        .expect("it is served");
}

/// Waits, by the driver's own requeues, until something is seen.
pub async fn until(
    place: &Place,
    spec: &SandboxSpec,
    wish: impl Fn(&fsa_driver::Observed) -> bool,
) -> fsa_driver::Observed {
    use futures_util::StreamExt as _;
    let mut requeues = place.driver.changes();
    let wait = async {
        loop {
            let seen = place.driver.observe(&spec.sandbox).await.unwrap();
            if wish(&seen) {
                return seen;
            }
            // A requeue that came before this look is in the look.
            let _ = tokio::time::timeout(Duration::from_secs(1), requeues.next()).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it is seen in time")
}

#[tokio::test]
async fn a_deployment_that_was_edited_by_hand_is_seen_and_put_right() {
    let place = Place::new(Reach::Direct).await;
    let spec = spec("edited");
    start(&place, &spec).await;
    let edit = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "sandbox", "resources": {"limits": {"memory": "300Mi"}}}
    ]}}}});
    place
        .api::<Deployment>()
        .patch(
            spec.sandbox.resource.as_str(),
            &PatchParams::default(),
            &Patch::Strategic(edit),
        )
        .await
        .unwrap();
    until(&place, &spec, |seen| seen.digest.is_none()).await;
    start(&place, &spec).await;
    let seen = until(&place, &spec, |seen| seen.container == ContainerState::Running).await;
    assert_eq!(seen.digest, Some(spec.digest()));
    let mended = place
        .api::<Deployment>()
        .get(spec.sandbox.resource.as_str())
        .await
        .unwrap();
    let limits = mended.spec.unwrap().template.spec.unwrap().containers[0]
        .resources
        .clone()
        .unwrap()
        .limits
        .unwrap();
    assert_eq!(limits["memory"].0, "256Mi");
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sign_in_that_somebody_took_away_from_an_ingress_is_put_back() {
    let place = Place::with_its_role_alone_and(Reach::Direct, |settings| {
        settings.expose.domain = Some("apps.example.org".into());
        settings.expose.sign_in_url = Some("https://fsa.example.org".into());
    })
    .await;
    let spec = spec("guarded");
    let name = spec.sandbox.resource.as_str();
    in_time(place.driver.ensure_network(&spec)).await.unwrap();
    let ingresses = place.api::<Ingress>();
    let guard = async || {
        let annotations = ingresses.get(name).await.unwrap().metadata.annotations;
        annotations
            .unwrap()
            .remove("nginx.ingress.kubernetes.io/auth-url")
    };
    let before = guard().await;
    assert!(before.is_some());
    let open = json!({"metadata": {"annotations": {"nginx.ingress.kubernetes.io/auth-url": null}}});
    ingresses
        .patch(name, &PatchParams::default(), &Patch::Merge(open))
        .await
        .unwrap();
    until(&place, &spec, |seen| !seen.network).await;
    in_time(place.driver.ensure_network(&spec)).await.unwrap();
    assert_eq!(guard().await, before);
    until(&place, &spec, |seen| seen.network).await;
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn what_others_add_to_an_object_is_left_alone() {
    let place = Place::new(Reach::Direct).await;
    let spec = spec("adorned");
    start(&place, &spec).await;
    let edit = json!({"metadata": {"annotations": {"example.org/team": "blue"}}});
    place
        .api::<Service>()
        .patch(
            spec.sandbox.resource.as_str(),
            &PatchParams::default(),
            &Patch::Merge(edit),
        )
        .await
        .unwrap();
    start(&place, &spec).await;
    let service = place
        .api::<Service>()
        .get(spec.sandbox.resource.as_str())
        .await
        .unwrap();
    assert_eq!(service.metadata.annotations.unwrap()["example.org/team"], "blue");
    assert!(place.driver.observe(&spec.sandbox).await.unwrap().network);
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_deleted_service_and_a_deleted_secret_are_made_again_and_the_processes_stay() {
    let place = Place::new(Reach::Direct).await;
    let spec = spec("robbed");
    start(&place, &spec).await;
    let before = place.pod(&spec.sandbox).await.metadata.uid;
    let name = spec.sandbox.resource.as_str();
    place
        .api::<Secret>()
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    place
        .api::<Service>()
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    until(&place, &spec, |seen| seen.digest.is_none() && !seen.network).await;
    start(&place, &spec).await;
    until(&place, &spec, |seen| {
        seen.network && seen.digest == Some(spec.digest())
    })
    .await;
    assert_eq!(place.pod(&spec.sandbox).await.metadata.uid, before);
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_told_with_the_clusters_own_words() {
    let place = Place::new(Reach::Direct).await;
    let mut spec = spec("imageless");
    spec.image = Image::Reference("127.0.0.1:9/nothing:1".into());
    in_time(place.driver.ensure_network(&spec)).await.unwrap();
    let error = in_time(place.driver.ensure_container(&spec)).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:9/nothing:1"), "{error}");
    let status = error.failure.kubernetes_status.unwrap();
    assert!(status.contains("ImagePull"), "{status}");
    let mut warnings = place.driver.warnings();
    let told = tokio::time::timeout(PATIENCE, futures_util::StreamExt::next(&mut warnings))
        .await
        .expect("it is told without being asked for")
        .unwrap();
    assert_eq!((told.cause, &told.sandbox), ("image", &spec.sandbox));
    assert!(told.failure.message.contains("127.0.0.1:9/nothing:1"), "{told:?}");
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_fits_on_no_node_is_told_so() {
    let place = Place::new(Reach::Direct).await;
    let mut spec = spec("giant");
    spec.resources.memory_request_mib = 10_000_000;
    spec.resources.memory_limit_mib = 10_000_000;
    in_time(place.driver.ensure_network(&spec)).await.unwrap();
    let error = in_time(place.driver.ensure_container(&spec)).await.unwrap_err();
    assert_eq!(error.failure.kind, FailureKind::Machine, "{error}");
    assert!(
        error
            .failure
            .kubernetes_status
            .unwrap()
            .contains("Insufficient memory")
    );
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_is_confined_and_has_no_account_of_the_cluster() {
    let place = Place::new(Reach::PortForward).await;
    let spec = spec("confined");
    start(&place, &spec).await;
    let told = administrators_exec(
        &place,
        &spec.sandbox,
        &[
            "sh",
            "-c",
            "id -u; grep CapEff /proc/1/status; grep NoNewPrivs /proc/1/status; ls /var/run/secrets 2>&1; echo end",
        ],
    )
    .await;
    assert!(told.starts_with("1000\n"), "{told}");
    assert!(told.contains("CapEff:\t0000000000000000"), "{told}");
    assert!(told.contains("NoNewPrivs:\t1"), "{told}");
    assert!(!told.contains("kubernetes.io"), "{told}");
    // The image's own environment is still there, below the project's.
    let status = SandboxdClient::new(&place.driver, &spec.sandbox, &spec.control_token)
        .status()
        .await
        .unwrap();
    assert!(status.ready);
    place.driver.destroy(&spec.sandbox).await.unwrap();
    let left = place
        .api::<Secret>()
        .list(&ListParams::default().labels("app.kubernetes.io/managed-by=fullstackagent"))
        .await
        .unwrap();
    assert!(left.items.is_empty(), "{:?}", left.items.len());
}

#[tokio::test]
async fn the_role_of_the_chart_is_enough() {
    for reach in [Reach::Direct, Reach::PortForward] {
        let place = Place::with_its_role_alone(reach).await;
        let spec = spec("bounded");
        start(&place, &spec).await;
        place.driver.usage(&spec.sandbox).await.unwrap();
        place.driver.stop(&spec.sandbox).await.unwrap();
        start(&place, &spec).await;
        place.driver.destroy(&spec.sandbox).await.unwrap();
        place.driver.remove_volume(spec.sandbox.project).await.unwrap();
        assert_eq!(place.driver.inventory().await.unwrap(), Vec::new());
    }
}

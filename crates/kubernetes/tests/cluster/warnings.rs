//! The cluster's warnings about a pod appear in observations and reach subscribers.

use std::time::Duration;

use fsa_driver::{Driver as _, Warning};
use fsa_kubernetes::settings::Reach;
use fsa_model::{ContainerState, FailureKind, SandboxRef};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DeleteParams;

use crate::{
    faults::{spec, start, until},
    world::{Fixture, administrators_exec},
};

/// The first warning of this cause.
pub async fn first_warning(fixture: &Fixture, sandbox: &SandboxRef, cause: &str) -> Warning {
    let mut warnings = fixture
        .driver
        .warnings()
        .filter(|warning| std::future::ready(warning.sandbox == *sandbox && warning.cause == cause))
        .boxed();
    tokio::time::timeout(Duration::from_secs(240), warnings.next())
        .await
        .unwrap_or_else(|_| panic!("no warning about {cause}"))
        .expect("the stream of warnings does not end")
}

#[tokio::test]
async fn a_volume_that_cannot_be_mounted_is_reported_with_the_clusters_own_message() {
    let fixture = Fixture::new(Reach::Direct).await;
    let spec = spec("unmounted");
    start(&fixture, &spec).await;
    let name = spec.sandbox.resource.as_str();
    let pod = fixture.pod(&spec.sandbox).await.metadata.name.unwrap();
    let now = DeleteParams::default().grace_period(0);
    fixture.api::<Secret>().delete(name, &now).await.unwrap();
    fixture.api::<Pod>().delete(&pod, &now).await.unwrap();

    let observed = until(&fixture, &spec, |observed| {
        observed
            .failure
            .as_ref()
            .and_then(|failure| failure.kubernetes_status.as_deref())
            .is_some_and(|status| status.starts_with("FailedMount"))
    })
    .await;

    assert_ne!(observed.container, ContainerState::Running);
    let failure = observed.failure.unwrap();
    assert!(failure.message.contains("volume"), "{failure}");
    assert!(failure.kubernetes_status.unwrap().contains(name));
    let warning = first_warning(&fixture, &spec.sandbox, "volume").await;
    assert_eq!(warning.failure.kind, FailureKind::Machine);
    start(&fixture, &spec).await;
    let observed = until(&fixture, &spec, |observed| {
        observed.container == ContainerState::Running
    })
    .await;
    assert_eq!(observed.failure, None, "a repaired failure is still reported");
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_is_killed_for_its_memory_is_reported_although_it_is_started_again() {
    let fixture = Fixture::new(Reach::Direct).await;
    let mut spec = spec("greedy");
    spec.resources.memory_limit_mib = 32;
    start(&fixture, &spec).await;
    // Files in memory count towards the limit and stay: the kernel cannot free them by killing a process other than
    // process 1.
    let fill = "dd if=/dev/zero of=/dev/shm/full bs=64k count=1000; true";
    administrators_exec(&fixture, &spec.sandbox, &["sh", "-c", fill]).await;

    let warning = first_warning(&fixture, &spec.sandbox, "memory").await;

    assert_eq!(warning.failure.kind, FailureKind::Input);
    assert!(warning.failure.message.contains("larger size"), "{warning:?}");
    assert!(
        warning
            .failure
            .kubernetes_status
            .unwrap()
            .starts_with("OOMKilled")
    );
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
}

//! What the cluster says of a pod reaches whoever asks why it does not run, and whoever listens.

use std::time::Duration;

use fsa_driver::{Driver as _, Warning};
use fsa_kubernetes::settings::Reach;
use fsa_model::{ContainerState, FailureKind, SandboxRef};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DeleteParams;

use crate::{
    faults::{spec, start, until},
    world::{Place, administrators_exec},
};

/// The first warning of this cause.
async fn told(place: &Place, sandbox: &SandboxRef, cause: &str) -> Warning {
    let mut warnings = place
        .driver
        .warnings()
        .filter(|warning| std::future::ready(warning.sandbox == *sandbox && warning.cause == cause))
        .boxed();
    tokio::time::timeout(Duration::from_secs(90), warnings.next())
        .await
        .unwrap_or_else(|_| panic!("nothing is said of {cause}"))
        .expect("warnings go on")
}

#[tokio::test]
async fn a_volume_that_cannot_be_mounted_is_told_in_words_and_with_the_clusters_own() {
    let place = Place::new(Reach::Direct).await;
    let spec = spec("unmounted");
    start(&place, &spec).await;
    let name = spec.sandbox.resource.as_str();
    let pod = place.pod(&spec.sandbox).await.metadata.name.unwrap();
    let now = DeleteParams::default().grace_period(0);
    place.api::<Secret>().delete(name, &now).await.unwrap();
    place.api::<Pod>().delete(&pod, &now).await.unwrap();

    let seen = until(&place, &spec, |seen| {
        seen.failure
            .as_ref()
            .and_then(|failure| failure.kubernetes_status.as_deref())
            .is_some_and(|status| status.starts_with("FailedMount"))
    })
    .await;

    assert_ne!(seen.container, ContainerState::Running);
    let failure = seen.failure.unwrap();
    assert!(failure.message.contains("volume"), "{failure}");
    assert!(failure.kubernetes_status.unwrap().contains(name));
    let warning = told(&place, &spec.sandbox, "volume").await;
    assert_eq!(warning.failure.kind, FailureKind::Machine);
    start(&place, &spec).await;
    let seen = until(&place, &spec, |seen| seen.container == ContainerState::Running).await;
    assert_eq!(seen.failure, None, "what is mended is still complained of");
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_is_ended_for_its_memory_is_told_so_although_it_is_started_again() {
    let place = Place::new(Reach::Direct).await;
    let mut spec = spec("greedy");
    spec.resources.memory_limit_mib = 32;
    start(&place, &spec).await;
    // Files in memory count, stay, and cannot be ended in place of process 1.
    let fill = "dd if=/dev/zero of=/dev/shm/full bs=64k count=1000; true";
    administrators_exec(&place, &spec.sandbox, &["sh", "-c", fill]).await;

    let warning = told(&place, &spec.sandbox, "memory").await;

    assert_eq!(warning.failure.kind, FailureKind::Input);
    assert!(warning.failure.message.contains("larger size"), "{warning:?}");
    assert!(
        warning
            .failure
            .kubernetes_status
            .unwrap()
            .starts_with("OOMKilled")
    );
    place.driver.destroy(&spec.sandbox).await.unwrap();
}

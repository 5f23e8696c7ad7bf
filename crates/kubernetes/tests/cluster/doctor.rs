//! `fsa doctor` on a cluster: each fault is reported with its remedy.

use fsa_driver::Driver as _;
use fsa_kubernetes::{
    checks::{self, State},
    connection::Cluster,
    objects,
    settings::{Expose, Provider, Reach, Settings},
};
use k8s_openapi::api::{core::v1::Secret, networking::v1::Ingress};
use kube::{
    Client, Config,
    api::{DeleteParams, Patch, PatchParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{
    faults::{spec, start},
    world::{Fixture, exported},
};

/// The result of the check with this name.
async fn result_of(cluster: &Cluster, settings: &Settings, name: &str) -> (State, String) {
    let all = checks::run(cluster, settings).await;
    let found = all.iter().find(|check| check.name == name);
    let found = found.unwrap_or_else(|| panic!("{name}: {all:#?}"));
    (found.state, found.message.clone())
}

fn assert_reported(result: &(State, String), state: State, parts: &[&str]) {
    assert_eq!(result.0, state, "{}", result.1);
    for part in parts {
        assert!(result.1.contains(part), "{part}: {}", result.1);
    }
}

/// The test cluster with another client configuration, such as an account without permissions or another address.
async fn with_config(fixture: &Fixture, change: impl FnOnce(&mut Config)) -> Cluster {
    let kubeconfig = Kubeconfig::read_from(exported("FSA_TEST_KUBECONFIG")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    change(&mut config);
    Cluster {
        client: Client::try_from(config).unwrap(),
        ..fixture.cluster.clone()
    }
}

/// The test cluster without KubeBlocks in its list of API groups.
fn without_kubeblocks(fixture: &Fixture) -> Cluster {
    let real = fixture.cluster.client.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let real = real.clone();
        async move {
            let groups = request.uri().path() == "/apis";
            let answer = real.send(request).await?;
            if !groups {
                return Ok::<_, kube::Error>(answer);
            }
            let bytes = answer.into_body().collect_bytes().await?;
            let mut list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let groups = list["groups"].as_array_mut().unwrap();
            let before = groups.len();
            groups.retain(|group| group["name"] != "apps.kubeblocks.io");
            assert_eq!(groups.len(), before - 1, "KubeBlocks was not there");
            Ok(http::Response::new(Body::from(list.to_string().into_bytes())))
        }
    });
    Cluster {
        client: Client::new(service, fixture.cluster.namespace.clone()),
        ..fixture.cluster.clone()
    }
}

#[tokio::test]
async fn faults_of_a_cluster_and_its_sandboxes_are_reported_with_the_remedy() {
    let fixture = Fixture::with_only_its_role_and(Reach::Direct, |settings| {
        settings.expose = Expose {
            domain: Some("apps.example.org".into()),
            ingress_class: Some("nginx".into()),
            sign_in_url: Some("http://fsa.example.org".into()),
            ..Expose::default()
        };
    })
    .await;
    let (cluster, settings) = (&fixture.cluster, &fixture.settings);
    let none = result_of(cluster, settings, "terminals").await;
    assert_reported(&none, State::Warning, &["start a project"]);

    let mut spec = spec("stale");
    let role = "stale_agentruntime_abc234";
    let url = format!("postgresql://{role}:secret@10.0.0.1:5432/{role}");
    spec.environment.insert("DATABASE_URL".into(), url.into());
    start(&fixture, &spec).await;
    let name = spec.sandbox.resource.as_str();

    let mut through_the_api = settings.clone();
    through_the_api.reach = Reach::PortForward;
    for settings in [settings, &through_the_api] {
        let terminals = result_of(cluster, settings, "terminals").await;
        assert_reported(&terminals, State::Good, &["1 of 1"]);
    }
    for good in [
        "cluster's API",
        "permissions",
        "databases",
        "storage class",
        "ingress class",
    ] {
        assert_reported(&result_of(cluster, settings, good).await, State::Good, &[]);
    }
    // The database in this sandbox's URL does not exist.
    let stale = result_of(cluster, settings, "database URLs").await;
    assert_reported(&stale, State::Warning, &[name, "fsa restart"]);

    // The terminal's Ingress, one fault after another.
    let ingresses = fixture.api::<Ingress>();
    let terminal = format!("{name}-terminal");
    let ingress = || result_of(cluster, settings, "terminals' ingress");
    assert_reported(&ingress().await, State::Good, &[]);
    for (patch, parts) in [
        (
            json!({"metadata": {"annotations": {"nginx.ingress.kubernetes.io/auth-url": null}}}),
            "auth-url",
        ),
        (
            json!({"metadata": {"annotations": {"nginx.ingress.kubernetes.io/auth-url": "http://x.example"}},
                   "spec": {"rules": [{"host": "x.example", "http": {"paths": [{"path": "/", "pathType": "Prefix",
                       "backend": {"service": {"name": name, "port": {"number": 3000}}}}]}}]}}),
            "port 7681",
        ),
    ] {
        let params = PatchParams::default();
        ingresses
            .patch(&terminal, &params, &Patch::Merge(patch))
            .await
            .unwrap();
        assert_reported(&ingress().await, State::Warning, &[&terminal, parts, "delete it"]);
    }
    ingresses
        .delete(&terminal, &DeleteParams::default())
        .await
        .unwrap();
    assert_reported(&ingress().await, State::Warning, &[&terminal, "is missing"]);

    // A secret other than the one that the pod was started with.
    let mut other = spec.clone();
    other.control_token = "another".to_owned().into();
    fixture
        .api::<Secret>()
        .patch(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({"data": objects::secret(&other, settings).data})),
        )
        .await
        .unwrap();
    let refused = result_of(cluster, settings, "terminals").await;
    assert_reported(&refused, State::Bad, &[name, "restart the sandbox"]);
    fixture.driver.destroy(&spec.sandbox).await.unwrap();

    // The settings, the account, and the address.
    let mut wrong = settings.clone();
    wrong.storage_class = Some("nowhere".into());
    wrong.expose.ingress_class = Some("nowhere".into());
    for (name, setting) in [
        ("storage class", "setting storage_class"),
        ("ingress class", "setting expose.ingress_class"),
    ] {
        let result = result_of(cluster, &wrong, name).await;
        assert_reported(&result, State::Bad, &["nowhere", setting]);
    }
    let mut blocks = settings.clone();
    blocks.databases.provider = Provider::Kubeblocks;
    let served = result_of(cluster, &blocks, "databases").await;
    assert_reported(&served, State::Good, &["KubeBlocks serves"]);
    let missing = result_of(&without_kubeblocks(&fixture), &blocks, "databases").await;
    let parts = ["clusters.apps.kubeblocks.io is missing", "install KubeBlocks"];
    assert_reported(&missing, State::Bad, &parts);
    let without_permissions = with_config(&fixture, |config| {
        config.auth_info.impersonate = Some("nobody".into())
    })
    .await;
    let lacking = result_of(&without_permissions, settings, "permissions").await;
    assert_reported(
        &lacking,
        State::Bad,
        &["create deployments", "deploy/chart/role.json"],
    );
    let away = with_config(&fixture, |config| {
        config.cluster_url = "https://127.0.0.1:9".parse().unwrap();
    })
    .await;
    let all = checks::run(&away, settings).await;
    assert_eq!(all.len(), 2, "{all:#?}");
    let silent = (all[1].state, all[1].message.clone());
    assert_reported(&silent, State::Bad, &["check the server's address"]);
}

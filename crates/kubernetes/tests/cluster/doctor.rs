//! What `fsa doctor` says of a cluster: each thing that goes wrong there is named, with its remedy.

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
    world::{Place, exported},
};

/// The point of this name, as it is told.
async fn point(cluster: &Cluster, settings: &Settings, name: &str) -> (State, String) {
    let all = checks::run(cluster, settings).await;
    let found = all.iter().find(|check| check.name == name);
    let found = found.unwrap_or_else(|| panic!("{name}: {all:#?}"));
    (found.state, found.message.clone())
}

fn assert_told(found: &(State, String), state: State, words: &[&str]) {
    assert_eq!(found.0, state, "{}", found.1);
    for word in words {
        assert!(found.1.contains(word), "{word}: {}", found.1);
    }
}

/// The test cluster as somebody who may do nothing there, or at another address.
async fn as_another(place: &Place, change: impl FnOnce(&mut Config)) -> Cluster {
    let kubeconfig = Kubeconfig::read_from(exported("FSA_TEST_KUBECONFIG")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    change(&mut config);
    Cluster {
        client: Client::try_from(config).unwrap(),
        ..place.cluster.clone()
    }
}

/// The test cluster as it would be without KubeBlocks.
fn without_kubeblocks(place: &Place) -> Cluster {
    let real = place.cluster.client.clone();
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
        client: Client::new(service, place.cluster.namespace.clone()),
        ..place.cluster.clone()
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_cluster_or_its_sandboxes_is_told_with_the_remedy() {
    let place = Place::with_its_role_alone_and(Reach::Direct, |settings| {
        settings.expose = Expose {
            domain: Some("apps.example.org".into()),
            ingress_class: Some("nginx".into()),
            sign_in_url: Some("http://fsa.example.org".into()),
            ..Expose::default()
        };
    })
    .await;
    let (cluster, settings) = (&place.cluster, &place.settings);
    let none = point(cluster, settings, "terminals").await;
    assert_told(&none, State::Warning, &["start a project"]);

    let mut spec = spec("told-of");
    let role = "told_of_agentruntime_abc234";
    let url = format!("postgresql://{role}:secret@10.0.0.1:5432/{role}?schema=public");
    spec.environment.insert("DATABASE_URL".into(), url.into());
    start(&place, &spec).await;
    let name = spec.sandbox.resource.as_str();

    let mut through_the_api = settings.clone();
    through_the_api.reach = Reach::PortForward;
    for settings in [settings, &through_the_api] {
        let terminals = point(cluster, settings, "terminals").await;
        assert_told(&terminals, State::Good, &["1 of 1"]);
    }
    for good in [
        "cluster's API",
        "permissions",
        "databases",
        "storage class",
        "ingress class",
    ] {
        assert_told(&point(cluster, settings, good).await, State::Good, &[]);
    }
    // Nobody made the database that this sandbox was told of.
    let stale = point(cluster, settings, "database URLs").await;
    assert_told(&stale, State::Warning, &[name, "fsa restart"]);

    // The terminal's way in, one fault after another.
    let ingresses = place.api::<Ingress>();
    let terminal = format!("{name}-terminal");
    let way_in = || point(cluster, settings, "terminals' ingress");
    assert_told(&way_in().await, State::Good, &[]);
    for (patch, words) in [
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
        assert_told(&way_in().await, State::Warning, &[&terminal, words, "delete it"]);
    }
    ingresses
        .delete(&terminal, &DeleteParams::default())
        .await
        .unwrap();
    assert_told(&way_in().await, State::Warning, &[&terminal, "is missing"]);

    // A secret that is not the one that the pod was started with.
    let mut other = spec.clone();
    other.control_token = "another".to_owned().into();
    place
        .api::<Secret>()
        .patch(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({"data": objects::secret(&other, settings).data})),
        )
        .await
        .unwrap();
    let refused = point(cluster, settings, "terminals").await;
    assert_told(&refused, State::Bad, &[name, "restart the sandbox"]);
    place.driver.destroy(&spec.sandbox).await.unwrap();

    // The settings, the account, and the address.
    let mut wrong = settings.clone();
    wrong.storage_class = Some("nowhere".into());
    wrong.expose.ingress_class = Some("nowhere".into());
    for (name, setting) in [
        ("storage class", "setting storage_class"),
        ("ingress class", "setting expose.ingress_class"),
    ] {
        let told = point(cluster, &wrong, name).await;
        assert_told(&told, State::Bad, &["nowhere", setting]);
    }
    let mut blocks = settings.clone();
    blocks.databases.provider = Provider::Kubeblocks;
    let served = point(cluster, &blocks, "databases").await;
    assert_told(&served, State::Good, &["KubeBlocks serves"]);
    let missing = point(&without_kubeblocks(&place), &blocks, "databases").await;
    let words = ["clusters.apps.kubeblocks.io is missing", "install KubeBlocks"];
    assert_told(&missing, State::Bad, &words);
    let nobody = as_another(&place, |config| {
        config.auth_info.impersonate = Some("nobody".into())
    })
    .await;
    let lacking = point(&nobody, settings, "permissions").await;
    assert_told(
        &lacking,
        State::Bad,
        &["create deployments", "deploy/chart/role.json"],
    );
    let away = as_another(&place, |config| {
        config.cluster_url = "https://127.0.0.1:9".parse().unwrap();
    })
    .await;
    let all = checks::run(&away, settings).await;
    assert_eq!(all.len(), 2, "{all:#?}");
    let silent = (all[1].state, all[1].message.clone());
    assert_told(&silent, State::Bad, &["check the server's address"]);
}

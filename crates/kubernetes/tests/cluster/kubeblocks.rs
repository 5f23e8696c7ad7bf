//! KubeBlocks databases, created by a stand-in for its operator that follows the published contract of the version that
//! the test cluster has (`tests/cluster/kubeblocks.sh`). The control plane's account has its Role only.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use fsa_driver::{Databases, Driver as _, ObservedDatabase, Requeue};
use fsa_kubernetes::settings::Reach;
use fsa_model::{DatabaseSpec, FailureKind, Size};
use futures_util::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{Pod, Secret, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{conditions, wait::await_condition},
};
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::{
    faults::{spec, start},
    world::Fixture,
};

const TIMEOUT: Duration = Duration::from_secs(240);

pub fn database(name: &str) -> DatabaseSpec {
    let sandbox = spec(name).sandbox;
    DatabaseSpec {
        project: sandbox.project,
        volume: sandbox.volume,
        resource: sandbox.resource,
        password: "a password".to_owned().into(),
        resources: Size::Micro.resources(),
    }
}

pub async fn ensure(fixture: &Fixture, database: &DatabaseSpec) {
    tokio::time::timeout(TIMEOUT, fixture.databases.ensure(database))
        .await
        .expect("a database is created in time")
        .unwrap_or_else(|error| panic!("{error} ({:?})", error.cause));
}

async fn observe(fixture: &Fixture, database: &DatabaseSpec) -> ObservedDatabase {
    fixture.databases.observe(database).await.unwrap()
}

/// The pod in which a database's server runs.
pub async fn server(fixture: &Fixture, database: &DatabaseSpec) -> Pod {
    let selector = format!("app.kubernetes.io/instance={}", database.resource);
    let pods = fixture
        .api::<Pod>()
        .list(&ListParams::default().labels(&selector))
        .await
        .unwrap();
    pods.items.into_iter().next().expect("a database has a pod")
}

/// A connection as the project's own role, from the machine, which reaches every pod.
async fn sign_in(fixture: &Fixture, database: &DatabaseSpec) -> PgConnection {
    let pod = server(fixture, database).await;
    let address: SocketAddr = format!("{}:5432", pod.status.unwrap().pod_ip.unwrap())
        .parse()
        .unwrap();
    let options = PgConnectOptions::new_without_pgpass()
        .host(&address.ip().to_string())
        .port(address.port())
        .username(&database.role())
        .password(database.password.expose_secret())
        .database(&database.role());
    PgConnection::connect_with(&options).await.unwrap()
}

fn clusters(fixture: &Fixture, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kubeblocks.io", version, "Cluster");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
    Api::namespaced_with(
        fixture.cluster.client.clone(),
        &fixture.cluster.namespace,
        &resource,
    )
}

/// The version of the API that is reconciled here.
async fn version(fixture: &Fixture) -> &'static str {
    let groups = fixture.cluster.client.list_api_groups().await.unwrap();
    let has_v1 = groups
        .groups
        .iter()
        .filter(|group| group.name == "apps.kubeblocks.io")
        .any(|group| group.versions.iter().any(|version| version.version == "v1"));
    if has_v1 { "v1" } else { "v1alpha1" }
}

async fn lifecycle(reach: Reach) {
    let fixture = Fixture::with_only_its_role(reach).await;
    let database = database("data");
    let mut requeues = fixture.databases.changes();
    assert_eq!(observe(&fixture, &database).await, ObservedDatabase::Absent);

    // Created in the reconciled version, kept by a second `ensure`, and owned by the project's role.
    ensure(&fixture, &database).await;
    assert_eq!(observe(&fixture, &database).await, ObservedDatabase::Ready);
    let version = version(&fixture).await;
    let made = clusters(&fixture, version)
        .get(database.resource.as_str())
        .await
        .unwrap();
    let definition = if version == "v1" {
        "clusterDef"
    } else {
        "clusterDefinitionRef"
    };
    assert_eq!(made.data["spec"][definition], "postgresql");
    let mut connection = sign_in(&fixture, &database).await;
    let marked = "CREATE TABLE marks (mark text); INSERT INTO marks VALUES ('kept')";
    sqlx::raw_sql(marked).execute(&mut connection).await.unwrap();
    ensure(&fixture, &database).await;
    let superuser: bool = sqlx::query_scalar("SELECT usesuper FROM pg_user WHERE usename = current_user")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(!superuser);
    let credentials = fixture.databases.credentials(&database).await.unwrap();
    assert!(
        credentials.host.starts_with(database.resource.as_str()),
        "{}",
        credentials.host
    );
    drop(connection);

    // A sandbox and its database in their desired state: an observation sends no request to the API server.
    let mut spec = spec("settled");
    spec.database_role = Some(database.role());
    start(&fixture, &spec).await;
    fixture.requests.lock().clear();
    for _ in 0..5 {
        fixture.driver.observe(&spec.sandbox).await.unwrap();
        assert_eq!(observe(&fixture, &database).await, ObservedDatabase::Ready);
        fixture.databases.credentials(&database).await.unwrap();
        fixture.databases.inventory().await.unwrap();
        fixture.driver.inventory().await.unwrap();
    }
    let sent: Vec<String> = fixture
        .requests
        .lock()
        .iter()
        .filter(|request| !request.contains("watch=true"))
        .cloned()
        .collect();
    assert_eq!(sent, Vec::<String>::new(), "observations sent requests");

    // Deleted by others: requeued, observed as lost, and created again, empty.
    while futures_util::FutureExt::now_or_never(requeues.next()).is_some() {}
    clusters(&fixture, version)
        .delete(database.resource.as_str(), &DeleteParams::background())
        .await
        .unwrap();
    let is_absent = async || match fixture.databases.observe(&database).await {
        Ok(observed) => observed == ObservedDatabase::Absent,
        // The operator removes the credentials before the Cluster.
        Err(error) => {
            assert_eq!(error.failure.kind, FailureKind::Transient, "{error}");
            false
        }
    };
    let lost = async {
        while !is_absent().await {
            // The sandbox's own objects may still change.
            while requeues.next().await.expect("the stream goes on") != Requeue::Project(database.project) {}
        }
    };
    tokio::time::timeout(TIMEOUT, lost)
        .await
        .expect("the project is requeued");
    ensure(&fixture, &database).await;
    assert_eq!(observe(&fixture, &database).await, ObservedDatabase::Ready);
    let again = clusters(&fixture, version)
        .get(database.resource.as_str())
        .await
        .unwrap();
    assert_ne!(again.uid(), made.uid());
    let mut connection = sign_in(&fixture, &database).await;
    let select_rows: Option<String> = sqlx::query_scalar("SELECT to_regclass('marks')::text")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(select_rows, None, "the new database is not empty");
    drop(connection);

    // Removed with all its objects, by the same account.
    fixture.driver.destroy(&spec.sandbox).await.unwrap();
    fixture.driver.remove_volume(spec.sandbox.volume).await.unwrap();
    for _ in 0..2 {
        Databases::drop(&*fixture.databases, &database).await.unwrap();
    }
    assert_eq!(observe(&fixture, &database).await, ObservedDatabase::Absent);
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=fullstackagent");
    assert!(
        fixture
            .api::<ServiceAccount>()
            .list(&ours)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(fixture.api::<Role>().list(&ours).await.unwrap().items.is_empty());
    assert!(
        fixture
            .api::<RoleBinding>()
            .list(&ours)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        fixture
            .api::<Secret>()
            .list(&ours)
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_kubeblocks_database_is_created_kept_lost_and_dropped_with_direct_connections() {
    lifecycle(Reach::Direct).await;
}

#[tokio::test]
async fn a_kubeblocks_database_is_created_kept_lost_and_dropped_through_the_api_server_only() {
    lifecycle(Reach::PortForward).await;
}

#[tokio::test]
async fn a_pod_left_over_from_an_older_cluster_of_the_same_name_is_not_used() {
    let fixture = Fixture::new(Reach::Direct).await;
    let database = database("again");
    let mut left = Vec::new();
    for number in 0..4 {
        let name = format!("{}-left-{number}", database.resource);
        let pod = serde_json::from_value::<Pod>(serde_json::json!({
            "metadata": {"name": name, "labels": {
                "app.kubernetes.io/instance": database.resource.as_str(),
                "app.kubernetes.io/managed-by": "kubeblocks",
            }},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "left", "image": "fsa.test/pause:1", "imagePullPolicy": "Never",
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        }));
        fixture
            .api()
            .create(&PostParams::default(), &pod.unwrap())
            .await
            .unwrap();
        left.push(name);
    }
    let pods = fixture.api::<Pod>();
    for name in &left {
        let runs = await_condition(pods.clone(), name, conditions::is_pod_running());
        tokio::time::timeout(TIMEOUT, runs).await.unwrap().unwrap();
    }
    // Timestamps of the API server have a resolution of one second.
    let newest = pods.get(left.last().unwrap()).await.unwrap();
    let next = SystemTime::from(newest.creation_timestamp().unwrap().0) + Duration::from_secs(1);
    if let Ok(early) = next.duration_since(SystemTime::now()) {
        tokio::time::sleep(early).await;
    }

    ensure(&fixture, &database).await;

    assert_eq!(observe(&fixture, &database).await, ObservedDatabase::Ready);
}

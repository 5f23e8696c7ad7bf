//! Databases of KubeBlocks, by a stand-in for its operator that follows the published contract of the generation
//! that the cluster was given (`tests/cluster/kubeblocks.sh`). The control plane has its Role alone here.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use fsa_driver::{Databases, Driver as _, ObservedDatabase, Requeue};
use fsa_kubernetes::settings::Reach;
use fsa_model::{DatabaseSpec, Size};
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
    world::Place,
};

const PATIENCE: Duration = Duration::from_secs(120);

pub fn database(name: &str) -> DatabaseSpec {
    let sandbox = spec(name).sandbox;
    DatabaseSpec {
        project: sandbox.project,
        resource: sandbox.resource,
        password: "a password".to_owned().into(),
        resources: Size::Micro.resources(),
    }
}

pub async fn ensure(place: &Place, database: &DatabaseSpec) {
    tokio::time::timeout(PATIENCE, place.databases.ensure(database))
        .await
        .expect("a database is made in time")
        .unwrap_or_else(|error| panic!("{error} ({:?})", error.cause));
}

async fn observe(place: &Place, database: &DatabaseSpec) -> ObservedDatabase {
    place.databases.observe(database).await.unwrap()
}

/// The pod in which a database's server runs.
pub async fn server(place: &Place, database: &DatabaseSpec) -> Pod {
    let selector = format!("app.kubernetes.io/instance={}", database.resource);
    let pods = place
        .api::<Pod>()
        .list(&ListParams::default().labels(&selector))
        .await
        .unwrap();
    pods.items.into_iter().next().expect("a database has a pod")
}

/// The project's own connection, from the machine, which reaches every pod.
async fn sign_in(place: &Place, database: &DatabaseSpec) -> PgConnection {
    let pod = server(place, database).await;
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

fn clusters(place: &Place, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kubeblocks.io", version, "Cluster");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clusters");
    Api::namespaced_with(place.cluster.client.clone(), &place.cluster.namespace, &resource)
}

/// The version that is reconciled here.
async fn version(place: &Place) -> &'static str {
    let groups = place.cluster.client.list_api_groups().await.unwrap();
    let has_v1 = groups
        .groups
        .iter()
        .filter(|group| group.name == "apps.kubeblocks.io")
        .any(|group| group.versions.iter().any(|version| version.version == "v1"));
    if has_v1 { "v1" } else { "v1alpha1" }
}

async fn a_life(reach: Reach) {
    let place = Place::with_its_role_alone(reach).await;
    let database = database("data");
    let mut requeues = place.databases.changes();
    assert_eq!(observe(&place, &database).await, ObservedDatabase::Absent);

    // Made in the version that is reconciled, kept, and the project's own.
    ensure(&place, &database).await;
    assert_eq!(observe(&place, &database).await, ObservedDatabase::Ready);
    let version = version(&place).await;
    let made = clusters(&place, version)
        .get(database.resource.as_str())
        .await
        .unwrap();
    let definition = if version == "v1" {
        "clusterDef"
    } else {
        "clusterDefinitionRef"
    };
    assert_eq!(made.data["spec"][definition], "postgresql");
    let mut connection = sign_in(&place, &database).await;
    let marked = "CREATE TABLE marks (mark text); INSERT INTO marks VALUES ('kept')";
    sqlx::raw_sql(marked).execute(&mut connection).await.unwrap();
    ensure(&place, &database).await;
    let superuser: bool = sqlx::query_scalar("SELECT usesuper FROM pg_user WHERE usename = current_user")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(!superuser);
    let credentials = place.databases.credentials(&database).await.unwrap();
    assert!(
        credentials.host.starts_with(database.resource.as_str()),
        "{}",
        credentials.host
    );
    drop(connection);

    // A settled sandbox with its database: a look asks the API server for nothing.
    let mut spec = spec("settled");
    spec.database_role = Some(database.role());
    start(&place, &spec).await;
    place.requests.lock().clear();
    for _ in 0..5 {
        place.driver.observe(&spec.sandbox).await.unwrap();
        assert_eq!(observe(&place, &database).await, ObservedDatabase::Ready);
        place.databases.credentials(&database).await.unwrap();
        place.databases.inventory().await.unwrap();
        place.driver.inventory().await.unwrap();
    }
    let asked: Vec<String> = place
        .requests
        .lock()
        .iter()
        .filter(|request| !request.contains("watch=true"))
        .cloned()
        .collect();
    assert_eq!(asked, Vec::<String>::new(), "a settled sandbox is asked after");

    // Deleted by somebody: told, seen as lost, and made again, empty.
    while futures_util::FutureExt::now_or_never(requeues.next()).is_some() {}
    clusters(&place, version)
        .delete(database.resource.as_str(), &DeleteParams::background())
        .await
        .unwrap();
    let lost = async {
        while observe(&place, &database).await != ObservedDatabase::Absent {
            assert_eq!(requeues.next().await, Some(Requeue::Project(database.project)));
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("it is told");
    ensure(&place, &database).await;
    assert_eq!(observe(&place, &database).await, ObservedDatabase::Ready);
    let again = clusters(&place, version)
        .get(database.resource.as_str())
        .await
        .unwrap();
    assert_ne!(again.uid(), made.uid());
    let mut connection = sign_in(&place, &database).await;
    let marks: Option<String> = sqlx::query_scalar("SELECT to_regclass('marks')::text")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(marks, None, "what is new is not empty");
    drop(connection);

    // Gone with everything of it, by that account too.
    place.driver.destroy(&spec.sandbox).await.unwrap();
    place.driver.remove_volume(spec.sandbox.project).await.unwrap();
    for _ in 0..2 {
        Databases::drop(&*place.databases, &database).await.unwrap();
    }
    assert_eq!(observe(&place, &database).await, ObservedDatabase::Absent);
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=fullstackagent");
    assert!(
        place
            .api::<ServiceAccount>()
            .list(&ours)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(place.api::<Role>().list(&ours).await.unwrap().items.is_empty());
    assert!(
        place
            .api::<RoleBinding>()
            .list(&ours)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(place.api::<Secret>().list(&ours).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_database_of_kubeblocks_is_made_kept_lost_and_dropped_where_pods_are_reached_directly() {
    a_life(Reach::Direct).await;
}

#[tokio::test]
async fn a_database_of_kubeblocks_is_made_kept_lost_and_dropped_through_the_api_alone() {
    a_life(Reach::PortForward).await;
}

#[tokio::test]
async fn a_server_left_of_an_older_cluster_of_the_same_name_is_not_taken_for_the_databases_own() {
    let place = Place::new(Reach::Direct).await;
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
        place
            .api()
            .create(&PostParams::default(), &pod.unwrap())
            .await
            .unwrap();
        left.push(name);
    }
    let pods = place.api::<Pod>();
    for name in &left {
        let runs = await_condition(pods.clone(), name, conditions::is_pod_running());
        tokio::time::timeout(PATIENCE, runs).await.unwrap().unwrap();
    }
    // A time of the API server has no parts of a second.
    let newest = pods.get(left.last().unwrap()).await.unwrap();
    let next = SystemTime::from(newest.creation_timestamp().unwrap().0) + Duration::from_secs(1);
    if let Ok(early) = next.duration_since(SystemTime::now()) {
        tokio::time::sleep(early).await;
    }

    ensure(&place, &database).await;

    assert_eq!(observe(&place, &database).await, ObservedDatabase::Ready);
}

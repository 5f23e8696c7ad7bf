//! `fsa-bench kubernetes`: sandboxes of a real API server beside `kubectl apply` of the same objects.
//!
//! Two regions of one server: `real`, on the cluster's node, where pods have processes; and `many`,
//! on simulated nodes (KWOK), where the control plane meets the API server a thousand times and
//! nothing else takes part. Needs the test cluster that scripts/bench-kubernetes.sh starts.

mod floor;
mod request_counts;

use std::time::{Duration, Instant};

use fsa_model::api::{CreateProject, Project};
use fsa_tests::{Api, World, cluster::Namespace, exported};
use futures_util::{StreamExt as _, stream};

use self::{floor::Objects, request_counts::RequestCounts};
use crate::{
    events::Events,
    process,
    report::{Row, Sample, Target},
};

const SEQUENTIAL_ROUNDS: usize = 7;
/// Sandboxes of the region `many`, if the command line says no other number.
pub const DEFAULT_COUNT: usize = 1000;
/// Our requests, and kubectls of the floor, that are in flight at once.
const CONCURRENCY: usize = 32;
/// Pause until the work that was begun for a thousand sandboxes has ended.
const SETTLE_TIME: Duration = Duration::from_secs(15);
const IDLE_TIME: Duration = Duration::from_secs(20);

/// The rows with `count` sandboxes on simulated nodes, and below them what a sandbox costs the API server.
pub async fn measure(count: usize) -> (Vec<Row>, String) {
    let real = Namespace::new().with_postgres();
    let many = Namespace::new();
    let settings = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    let text = region("real", &real, &real.dsn, "")
        + &region(
            "many",
            &many,
            &real.dsn,
            "node_selector = { type = \"kwok\" }\ntolerations = [{ operator = \"Exists\" }]\n",
        );
    std::fs::write(settings.path(), text).expect("the settings can be written");
    let world = World::start(&["--config", settings.path().to_str().expect("a path of UTF-8")]);
    let api = world.api();

    let (mut rows, lifetime) = sequential(&api, &real).await;
    let server = world.server.as_ref().expect("a server").pid();
    rows.extend(concurrent(&api, &many, server, count).await);
    world.finish().await;
    (rows, lifetime)
}

fn region(name: &str, namespace: &Namespace, dsn: &str, more: &str) -> String {
    format!(
        "[regions.{name}]
kubeconfig = \"{kubeconfig}\"
namespace = \"{namespace}\"
reach = \"direct\"
sandboxd_image = \"fsa.test/sandboxd:1\"
web_image = \"fsa.test/tools:1\"
network.control_plane = [{{ ipBlock = {{ cidr = \"0.0.0.0/0\" }} }}]
databases = {{ provider = \"postgres\", dsn = \"{dsn}\" }}
{more}
",
        kubeconfig = exported("FSA_TEST_KUBECONFIG").display(),
        namespace = namespace.name,
    )
}

async fn sequential(api: &Api, namespace: &Namespace) -> (Vec<Row>, String) {
    let warm = create(api, "warm", "real").await;
    until_running(api, std::slice::from_ref(&warm)).await;
    let objects = Objects::of(namespace, &warm, &api.sandbox("warm").await);
    api.delete("warm").await;

    let (mut ours, mut floor, mut kubectl) = (Sample::default(), Sample::default(), Sample::default());
    let mut request_counts = RequestCounts::default();
    for at in 0..SEQUENTIAL_ROUNDS {
        floor.add(objects.apply_and_wait(namespace, at));
        objects.delete(namespace, at);
        kubectl.add(floor::kubectl_baseline(namespace));
        let before = RequestCounts::read(api, "real").await;
        let name = format!("one-{at}");
        let stream = Events::open(api).await;
        let begun = Instant::now();
        let project = create(api, &name, "real").await;
        stream.until_running(&[project]).await;
        ours.add(begun.elapsed());
        api.delete(&name).await;
        request_counts += RequestCounts::read(api, "real").await - before;
    }
    let rows = vec![
        Row::new(
            "create → RUNNING on a node, p50 (floor: `kubectl apply`, then Ready)",
            ours.percentile(50.0),
            "ms",
            Target::AtMost(floor.percentile(50.0) + 150.0),
        )
        .with_floor(floor.percentile(50.0)),
        Row::new(
            "create → RUNNING on a node, p95",
            ours.percentile(95.0),
            "ms",
            Target::None,
        )
        .with_floor(floor.percentile(95.0)),
        Row::new(
            "of the floor: a kubectl that asks for nothing, twice",
            2.0 * kubectl.percentile(50.0),
            "ms",
            Target::None,
        ),
    ];
    (rows, request_counts.table(SEQUENTIAL_ROUNDS))
}

async fn concurrent(api: &Api, namespace: &Namespace, server: i32, count: usize) -> Vec<Row> {
    let warm = create(api, "warm", "many").await;
    until_running(api, std::slice::from_ref(&warm)).await;
    let objects = Objects::of(namespace, &warm, &api.sandbox("warm").await);
    api.delete("warm").await;
    let floor = {
        let apart = Namespace::new();
        let took = objects.apply_many(&apart, count, CONCURRENCY);
        apart.kubectl(&[
            "delete",
            "namespace",
            &apart.name,
            "--timeout",
            "600s",
            "--request-timeout",
            "0",
        ]);
        count as f64 / took.as_secs_f64()
    };

    let stream = Events::open(api).await;
    let begun = Instant::now();
    let projects: Vec<Project> = stream::iter(0..count)
        .map(|at| async move { create(api, &format!("many-{at}"), "many").await })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    stream.until_running(&projects).await;
    let ours = count as f64 / begun.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE_TIME).await;
    let resident = process::resident(server);
    let (before, processor) = (
        RequestCounts::read(api, "many").await,
        process::processor_time(server),
    );
    tokio::time::sleep(IDLE_TIME).await;
    let idle = RequestCounts::read(api, "many").await - before;
    let processor =
        (process::processor_time(server) - processor).as_secs_f64() / IDLE_TIME.as_secs_f64() * 100.0;

    let begun = Instant::now();
    stream::iter(&projects)
        .for_each_concurrent(CONCURRENCY, |project| async move {
            api.delete(&project.id.to_string()).await
        })
        .await;
    let deleted = count as f64 / begun.elapsed().as_secs_f64();
    vec![
        Row::new(
            format!(
                "{count} sandboxes on simulated nodes, all RUNNING (floor: {CONCURRENCY} `kubectl apply`)"
            ),
            ours,
            "/s",
            Target::AtLeast(0.8 * floor),
        )
        .with_floor(floor),
        Row::new("deleted again", deleted, "/s", Target::None),
        Row::new(
            "`fsa serve` with them, resident",
            resident,
            "MB",
            Target::AtMost(150.0),
        ),
        Row::new(
            format!(
                "requests to the API server in {} s of them idle, watches apart",
                IDLE_TIME.as_secs()
            ),
            idle.without_watches() as f64,
            "",
            Target::AtMost(0.0),
        ),
        Row::new("watches begun meanwhile", idle.watches() as f64, "", Target::None),
        Row::new(
            "`fsa serve`'s processor time meanwhile, of one core",
            processor,
            "%",
            Target::None,
        ),
    ]
}

async fn create(api: &Api, name: &str, region: &str) -> Project {
    api.create_as(CreateProject {
        name: name.into(),
        region: Some(region.into()),
        ..CreateProject::default()
    })
    .await
}

async fn until_running(api: &Api, projects: &[Project]) {
    for project in projects {
        api.until_running(&project.id.to_string()).await;
    }
}

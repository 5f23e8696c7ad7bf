//! Project creation: from the request to RUNNING, as a client sees it.

use std::time::{Duration, Instant};

use fsa_model::api::CreateProject;
use fsa_tests::{Api, TestTerminal, World};

use crate::{
    events::Events,
    floor,
    report::{Row, Sample, Target},
};

const SEQUENTIAL_ROUNDS: usize = 40;
const CONCURRENCY: usize = 50;

/// The web image is imported before anything is measured.
pub async fn import_image(world: &World) {
    let api = world.api();
    api.create_as(new_project("warm")).await;
    api.until_running("warm").await;
    api.delete("warm").await;
}

fn new_project(name: &str) -> CreateProject {
    CreateProject {
        name: name.into(),
        template: Some("web".into()),
        ..CreateProject::default()
    }
}

pub async fn measure(world: &World) -> Vec<Row> {
    let api = world.api();
    let floor = floor::runtime(30);
    let mut sample = Sample::default();
    for at in 0..SEQUENTIAL_ROUNDS {
        let name = format!("one-{at}");
        sample.add(time_until_running(&api, std::slice::from_ref(&name)).await);
        if at == 0 {
            TestTerminal::open(&api, &name, "main").await.until("$").await;
        }
        api.delete(&name).await;
    }
    let names: Vec<String> = (0..CONCURRENCY).map(|at| format!("many-{at}")).collect();
    let all = time_until_running(&api, &names).await;

    let mut exec = Sample::default();
    for _ in 0..300 {
        let begun = Instant::now();
        let result = api.try_exec(&names[0], &["/bin/true"]).await;
        exec.add(begun.elapsed());
        assert_eq!(result.exit_code, 0);
    }
    for name in &names {
        api.delete(name).await;
    }
    vec![
        Row::new(
            "create → RUNNING, p50 (floor: `runc run`)",
            sample.percentile(50.0),
            "ms",
            Target::AtMost(150.0),
        )
        .with_floor(floor.percentile(50.0)),
        Row::new(
            "create → RUNNING, p95",
            sample.percentile(95.0),
            "ms",
            Target::AtMost(300.0),
        )
        .with_floor(floor.percentile(95.0)),
        Row::new(
            format!("{CONCURRENCY} at once, all RUNNING"),
            all.as_secs_f64(),
            "s",
            Target::AtMost(5.0),
        ),
        Row::new(
            "exec round trip, p50",
            exec.percentile(50.0),
            "ms",
            Target::AtMost(5.0),
        ),
    ]
}

/// Creates projects at once and returns when the event stream has reported that all run.
async fn time_until_running(api: &Api, names: &[String]) -> Duration {
    let stream = Events::open(api).await;
    let begun = Instant::now();
    let created =
        futures_util::future::join_all(names.iter().map(|name| api.create_as(new_project(name)))).await;
    stream.until_running(&created).await;
    begun.elapsed()
}

//! Idle sandboxes: the resources that they use, and that the control plane uses for them.

use std::time::{Duration, Instant};

use fsa_tests::World;

use crate::{
    process,
    report::{Row, Target},
};

const SANDBOXES: usize = 200;
const OBSERVED_TIME: Duration = Duration::from_secs(30);

pub async fn measure(world: &World) -> Vec<Row> {
    let api = world.api();
    let server = world.server.as_ref().expect("a server").pid();
    let before = process::machine_memory();
    let names: Vec<String> = (0..SANDBOXES).map(|at| format!("idle-{at}")).collect();
    for group in names.chunks(20) {
        futures_util::future::join_all(group.iter().map(|name| api.create(name))).await;
        for name in group {
            api.until_running(name).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = process::machine_memory();
    let each = (after - before) / SANDBOXES as f64;
    let family = process::family(server);
    let used = |family: &[i32]| {
        family
            .iter()
            .map(|&pid| process::processor_time(pid))
            .sum::<Duration>()
    };
    let (begun, start) = (Instant::now(), used(&family));
    tokio::time::sleep(OBSERVED_TIME).await;
    let share = (used(&family) - start).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let resident = process::resident(server);
    for name in &names {
        api.delete(name).await;
    }
    vec![
        Row::new(
            format!("{SANDBOXES} idle sandboxes, memory of the machine, each"),
            each,
            "MB",
            Target::AtMost(8.0),
        ),
        Row::new(
            "control plane's processor while they idle (of one core)",
            share,
            "%",
            Target::AtMost(1.0),
        ),
        Row::new(
            "`fsa serve` with them, resident",
            resident,
            "MB",
            Target::AtMost(60.0),
        ),
    ]
}

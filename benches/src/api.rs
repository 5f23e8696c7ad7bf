//! API under load, and a second start.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use fsa_tests::World;

use crate::{
    process,
    report::{Row, Target},
};

pub async fn measure(world: &mut World) -> Vec<Row> {
    let api = world.api();
    let project = api.create_running("loaded").await;
    let url = format!("{}/api/sandbox/{}", world.url(), project.id);
    let header = format!("Authorization: Bearer {}", world.token);
    let load = wrk(&url, 32, 10, &[header.as_str()]);
    let resident = process::resident(world.server.as_ref().expect("a server").pid());
    world.drain();
    let begun = Instant::now();
    world.serve();
    let ready = begun.elapsed();
    world.api().delete("loaded").await;
    vec![
        Row::new(
            "GET /api/sandbox/{id}, 32 clients",
            load.requests,
            "/s",
            Target::AtLeast(3000.0),
        ),
        Row::new(
            "`fsa serve` after that, resident",
            resident,
            "MB",
            Target::AtMost(60.0),
        ),
        Row::new(
            "second start, until it serves",
            ready.as_secs_f64(),
            "s",
            Target::AtMost(1.0),
        ),
    ]
}

/// Result of wrk.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub requests: f64,
    /// Bytes per second, in MB.
    pub megabytes: f64,
    /// Median latency in milliseconds.
    pub median: f64,
}

/// Runs wrk with one thread.
#[allow(clippy::disallowed_methods, reason = "the load generator is another program")]
pub fn wrk(url: &str, clients: u32, seconds: u32, headers: &[&str]) -> Load {
    let mut command = Command::new("wrk");
    command.args([
        "-t1",
        "--latency",
        &format!("-c{clients}"),
        &format!("-d{seconds}s"),
    ]);
    for header in headers {
        command.args(["-H", header]);
    }
    let output = command
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let field = |name: &str| -> String {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(name))
            .unwrap_or_else(|| panic!("wrk says no {name}: {text}"))
            .trim()
            .to_owned()
    };
    Load {
        requests: field("Requests/sec:").parse().expect("a number"),
        megabytes: unit(
            &field("Transfer/sec:"),
            &[("GB", 1000.0), ("MB", 1.0), ("KB", 0.001), ("B", 1e-6)],
        ),
        median: unit(&field("50%"), &[("us", 0.001), ("ms", 1.0), ("s", 1000.0)]),
    }
}

fn unit(text: &str, units: &[(&str, f64)]) -> f64 {
    let (number, factor) = units
        .iter()
        .find_map(|&(name, factor)| Some((text.strip_suffix(name)?, factor)))
        .unwrap_or_else(|| panic!("{text} has no unit"));
    number.parse::<f64>().expect("a number") * factor
}

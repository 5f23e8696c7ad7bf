//! `make bench`: our figures beside a floor measured in the same run, printed as a table and kept
//! in docs/benchmarks.md. Names on the command line choose parts: create, terminal, idle, api,
//! gateway, relay, accounts, volumes. `kubernetes [COUNT]` is a separate benchmark, which needs
//! a cluster; its figures are kept if it ran with as many sandboxes as it is meant for.

mod accounts;
mod api;
mod app;
mod create;
mod events;
mod floor;
mod gateway;
mod idle;
mod kubernetes;
mod process;
mod relay;
mod report;
mod terminal;
mod volumes;

use std::path::Path;

use fsa_tests::World;
use report::Row;

/// Begin of the part of docs/benchmarks.md that one benchmark writes, up to [`END_MARKER`].
const MACHINE_MARKER: &str = "<!-- what follows is written by `make bench` -->";
const KUBERNETES_MARKER: &str = "<!-- what follows is written by `make bench-kubernetes` -->";
const END_MARKER: &str = "<!-- until here -->";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // In a sandbox this program is the application behind the gateway.
    if arguments.first().is_some_and(|first| first == "app") {
        app::run(
            arguments
                .get(1)
                .and_then(|port| port.parse().ok())
                .unwrap_or(3000),
        );
        return;
    }
    if let [first, address, prefix, token] = &arguments[..]
        && first == "fetch"
    {
        relay::run_client(address, prefix, token);
        return;
    }
    if let [first, address] = &arguments[..]
        && first == "copy"
    {
        relay::run_forwarder(address);
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let parts: Vec<String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .cloned()
        .collect();
    if parts.first().is_some_and(|part| part == "kubernetes") {
        let count = parts.get(1).map_or(kubernetes::DEFAULT_COUNT, |count| {
            count.parse().expect("a number of sandboxes")
        });
        let (rows, lifetime) = runtime.block_on(kubernetes::measure(count));
        let table = format!(
            "{}\nRequests to the API server in the life of one sandbox (created, deleted), watches apart:\n\n{lifetime}",
            report::table(&rows)
        );
        println!("{table}");
        if count == kubernetes::DEFAULT_COUNT {
            write_report(KUBERNETES_MARKER, &table);
        }
        return;
    }
    let rows = runtime.block_on(measure(&parts));
    let table = report::table(&rows);
    println!("{table}");
    if parts.is_empty() {
        write_report(MACHINE_MARKER, &table);
    }
}

async fn measure(parts: &[String]) -> Vec<Row> {
    let all = parts.is_empty();
    let is_selected = |name: &str| all || parts.iter().any(|part| part == name);
    let web = fsa_tests::exported("FSA_WEB_IMAGE");
    let model = relay::serve();
    let credentials =
        format!("ANTHROPIC_API_KEY=of-the-bench\nANTHROPIC_BASE_URL=http://127.0.0.1:{model}\n");
    let options = ["--web-image", web.to_str().expect("a path of UTF-8")];
    let mut world = World::start_with_agents(&options, &credentials);
    let mut rows = Vec::new();
    create::import_image(&world).await;
    if is_selected("create") {
        rows.extend(create::measure(&world).await);
    }
    if is_selected("terminal") {
        rows.extend(terminal::measure(&world).await);
    }
    if is_selected("api") {
        rows.extend(api::measure(&mut world).await);
    }
    if is_selected("gateway") {
        rows.extend(gateway::measure(&world).await);
    }
    if is_selected("relay") {
        rows.extend(relay::measure(&world, model).await);
    }
    if is_selected("accounts") {
        rows.extend(accounts::measure(&world).await);
    }
    if is_selected("idle") {
        rows.extend(idle::measure(&world).await);
    }
    world.finish().await;
    if is_selected("volumes") {
        rows.extend(volumes::measure().await);
    }
    rows
}

fn write_report(marker: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let text = std::fs::read_to_string(&path).expect("docs/benchmarks.md");
    let (before, rest) = text
        .split_once(marker)
        .expect("the bench's place in docs/benchmarks.md");
    let (_, after) = rest.split_once(END_MARKER).expect("the end of the bench's place");
    let machine = floor::machine();
    std::fs::write(
        &path,
        format!("{before}{marker}\n\n{machine}\n\n{table}\n{END_MARKER}{after}"),
    )
    .expect("docs/benchmarks.md");
}

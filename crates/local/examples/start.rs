//! Benchmark: starts sandboxes of the template `host` one after another and prints the time of
//! each step: `start <data folder> <sandboxd> [count]`. Needs root.

use std::time::{Duration, Instant};

use fsa_driver::Driver as _;
use fsa_local::{LocalConfig, LocalDriver, driver::RunnerLink, privileges};
use fsa_model::{
    Image, ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef, SandboxSpec, Size, UserId, VolumeId,
};
use fsa_sandboxd_client::SandboxdClient;

/// A machine that is busy needs longer than the usual milliseconds.
const READY: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let data = std::path::PathBuf::from(arguments.next().expect("a data folder"));
    let sandboxd = arguments.next().expect("the path of sandboxd");
    let count: usize = arguments.next().map_or(1, |text| text.parse().expect("a number"));
    privileges::prepare_data_dir(&data, 0, 0).expect("the data folder");
    let config = LocalConfig::new(&data, sandboxd);
    let program = std::env::current_exe()
        .expect("this program")
        .with_file_name("runner");
    let started = Instant::now();
    let link = RunnerLink::start(&program, &[], &config.runner).expect("the runner");
    let driver = LocalDriver::open(config, link, None).await.expect("the driver");
    println!("runner ready after {:?}: {:?}", started.elapsed(), driver.hello());

    let mut specs = Vec::new();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..count {
        let spec = spec();
        let started = Instant::now();
        driver.ensure_network(&spec).await.expect("a network");
        times[0].push(started.elapsed());
        driver.ensure_container(&spec).await.expect("a container");
        times[1].push(started.elapsed());
        let sandboxd = SandboxdClient::new(&*driver, &spec.sandbox, &spec.control_token);
        drop(sandboxd.await_ready(READY).await.expect("a terminal"));
        times[2].push(started.elapsed());
        specs.push(spec);
    }
    for (what, times) in ["network", "container", "ready"].iter().zip(&mut times) {
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        println!("{what:>10}: p50 {:?} p95 {:?} max {:?}", at(50), at(95), at(100));
    }
    println!(
        "usage of the last: {:?}",
        driver.usage(&specs[specs.len() - 1].sandbox).await
    );
    #[allow(clippy::disallowed_methods, reason = "an example has no settings")]
    let keep = std::env::var_os("KEEP").is_some();
    if keep {
        println!("kept; press return to end");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    let started = Instant::now();
    for spec in &specs {
        driver.destroy(&spec.sandbox).await.expect("destroyed");
        driver
            .remove_volume(spec.sandbox.volume)
            .await
            .expect("the volume removed");
    }
    println!(
        "destroyed in {:?} each",
        started.elapsed() / u32::try_from(count).unwrap_or(1)
    );
    println!("left: {:?}", driver.leftovers().await);
}

fn spec() -> SandboxSpec {
    let name = ProjectName::parse("measured").expect("a name");
    let project = ProjectId::generate();
    SandboxSpec {
        sandbox: SandboxRef {
            id: SandboxId::generate(),
            project,
            volume: VolumeId::of_main(project),
            resource: ResourceName::generate(&name),
        },
        owner: UserId::generate(),
        project_name: name,
        image: Image::Template("host".into()),
        resources: Size::Small.resources(),
        environment: Default::default(),
        start_command: None,
        repository: None,
        control_token: "a-token-of-a-measurement".to_owned().into(),
        database_role: None,
        restarts: 0,
    }
}

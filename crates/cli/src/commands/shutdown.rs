//! `fsa halt`: stops sandboxes, the database proxy and PostgreSQL, which keep running after the server. The next
//! `fsa serve` starts the sandboxes whose desired state is running again.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    sync::Arc,
};

use fsa_driver::Driver as _;
use fsa_local::{LocalDriver, database_proxy, driver::Client, project_databases::ProjectDatabases};
use nix::unistd::Uid;

use super::serve::{data_dir_lock::DataDirLock, local, log};
use crate::{
    args::Shutdown,
    config,
    failure::{Code, Failure, Outcome},
    output,
};

pub fn run(shutdown: Shutdown) -> Outcome {
    let mut config = config::serve(shutdown.serve, Uid::effective().is_root())?;
    // The storage as it is: a move to another one needs everything stopped first.
    config.storage = None;
    if !config.data_dir.join("run").exists() {
        output::notice(&format!(
            "No server has ever run on {}.",
            config.data_dir.display()
        ));
        return Ok(0);
    }
    if !shutdown.yes && !confirmed()? {
        return Err(Failure::failed("nothing was stopped"));
    }
    log::start();
    let Some(start) = local::begin(&config)? else {
        output::notice("This machine is no region (no_local): there is nothing to stop.");
        return Ok(0);
    };
    if !DataDirLock::acquire(&config.data_dir)?.alone {
        return Err(Failure::new(
            Code::Conflict,
            "a server is running on this data folder and would start everything again: stop it first",
        ));
    }
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let failed = |error: fsa_driver::DriverError| Failure::failed(error.to_string());
        let (settings, link) = start.into_parts();
        let runner = Client::greet(link).await.map_err(failed)?;
        let driver = LocalDriver::with(settings, Arc::clone(&runner), None)
            .await
            .map_err(failed)?;
        let sandboxes = driver.inventory().await.map_err(failed)?;
        let stops = sandboxes.iter().map(|sandbox| driver.stop(sandbox));
        for stopped in futures_util::future::join_all(stops).await {
            stopped.map_err(failed)?;
        }
        database_proxy::end(&config.data_dir)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let databases = ProjectDatabases::open(&config.data_dir, Arc::clone(&runner), config.database_idle)?;
        databases.stop_all().await.map_err(failed)?;
        let [control, projects] = local::clusters(&config, None);
        let (control, projects) = tokio::join!(control.stop(), projects.stop());
        control
            .and(projects)
            .map_err(|error| Failure::failed(error.to_string()))?;
        runner.end().await.map_err(failed)?;
        output::notice(&format!(
            "Stopped {} sandboxes, the database proxy and PostgreSQL.",
            sandboxes.len()
        ));
        Ok(0)
    })
}

fn confirmed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "standard input is not a terminal: confirm with --yes to stop all sandboxes and databases",
        ));
    }
    let _ = write!(
        std::io::stderr(),
        "This stops every sandbox and every PostgreSQL server of this machine. Continue? [y/N] "
    );
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().eq_ignore_ascii_case("y"))
}

//! `fsa halt`: ends everything that outlives the server. Nothing is lost: what was wanted running
//! is started again by the next `fsa serve`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use fsa_driver::Driver as _;
use fsa_local::{LocalDriver, database_proxy};
use nix::unistd::Uid;

use super::serve::{local, log, turn};
use crate::{
    args::Halt,
    config,
    failure::{Code, Failure, Outcome},
    output,
};

pub fn run(halt: Halt) -> Outcome {
    let config = config::serve(halt.serve, Uid::effective().is_root())?;
    if !config.data_dir.join("run").exists() {
        output::note(&format!(
            "Nothing was ever started in {}.",
            config.data_dir.display()
        ));
        return Ok(0);
    }
    if !halt.yes && !confirmed()? {
        return Err(Failure::failed("nothing was ended"));
    }
    log::start();
    let Some(start) = local::begin(&config)? else {
        output::note("This machine is no region (no_local), so there is nothing on it to end.");
        return Ok(0);
    };
    if !turn::take(&config.data_dir)?.alone {
        return Err(Failure::new(
            Code::Conflict,
            "a server is running on this data folder, and would start everything again: end it first",
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the asynchronous runtime cannot be started: {error}")))?;
    runtime.block_on(async {
        let failed = |error: fsa_driver::DriverError| Failure::failed(error.to_string());
        let (settings, link) = start.into_parts();
        let driver = LocalDriver::open(settings, link, None).await.map_err(failed)?;
        let sandboxes = driver.inventory().await.map_err(failed)?;
        let stops = sandboxes.iter().map(|sandbox| driver.stop(sandbox));
        for stopped in futures_util::future::join_all(stops).await {
            stopped.map_err(failed)?;
        }
        database_proxy::end(&config.data_dir)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let [control, projects] = local::clusters(&config, None);
        let (control, projects) = tokio::join!(control.stop(), projects.stop());
        control
            .and(projects)
            .map_err(|error| Failure::failed(error.to_string()))?;
        output::note(&format!(
            "Ended: {} sandboxes, the gate, and both clusters.",
            sandboxes.len()
        ));
        Ok(0)
    })
}

fn confirmed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody can be asked here: say --yes to end all sandboxes and databases",
        ));
    }
    let _ = write!(
        std::io::stderr(),
        "This ends every sandbox and both databases of this machine. Go on? [y/N] "
    );
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().eq_ignore_ascii_case("y"))
}

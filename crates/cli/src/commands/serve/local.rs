//! This machine as a region: the runner, the control plane's PostgreSQL, the projects' database servers, the database
//! proxy and the driver, in the order in which privileges allow it.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use fsa_local::{
    LocalConfig, LocalDriver, database_proxy,
    driver::{Client, RunnerLink},
    images, postgres, privileges,
    project_databases::ProjectDatabases,
};
use nix::unistd::{Uid, getgid, getuid};
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::{CONTROL_DATABASE, user};
use crate::{config::ServeConfig, failure::Failure};

/// The parts that were started before privileges were dropped.
pub struct Start {
    link: RunnerLink,
    settings: LocalConfig,
}

impl Start {
    /// The parts, for a command that needs only the driver.
    pub fn into_parts(self) -> (LocalConfig, RunnerLink) {
        (self.settings, self.link)
    }
}

/// This machine, ready to be a region.
pub struct Local {
    pub driver: Arc<LocalDriver>,
    pub databases: Arc<ProjectDatabases>,
    pub runner: Arc<Client>,
    /// How to reach the control database.
    pub control: PgConnectOptions,
    /// Background tasks: keep the control cluster running, start and stop database servers, import the image.
    background: JoinSet<()>,
    _starter: AbortOnDropHandle<()>,
}

impl Local {
    /// Stops the background tasks.
    pub async fn end(mut self) {
        self.background.shutdown().await;
    }
}

/// Creates the data folder, starts the runner if this machine is a region, and drops root's privileges. The process
/// must have one thread.
pub fn begin(config: &ServeConfig) -> Result<Option<Start>, Failure> {
    let root = Uid::effective().is_root();
    let (uid, gid) = if root {
        user::ensure(&config.user)?
    } else {
        (getuid().as_raw(), getgid().as_raw())
    };
    let failed = |error: privileges::PrivilegeError| Failure::failed(error.to_string());
    privileges::prepare_data_dir(&config.data_dir, uid, gid).map_err(failed)?;
    if let Some(backups) = &config.backups {
        prepare_repository(&backups.repository, uid, gid)?;
    }
    let start = if config.local {
        let settings = settings(config, (uid, gid))?;
        let program = std::env::current_exe()?;
        let link = RunnerLink::start(&program, &["runner".to_owned()], &settings.runner)
            .map_err(|error| Failure::failed(format!("the runner cannot be started: {error}")))?;
        Some(Start { link, settings })
    } else {
        None
    };
    if root {
        privileges::drop_privileges(&config.user).map_err(failed)?;
    }
    Ok(start)
}

/// Makes the folder of the backup repository, which the server writes without root's privileges. One that exists stays
/// as it is.
fn prepare_repository(folder: &std::path::Path, uid: u32, gid: u32) -> Result<(), Failure> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)
        .and_then(|()| std::os::unix::fs::chown(folder, Some(uid), Some(gid)))
        .map_err(|error| {
            Failure::failed(format!(
                "the folder of the backup repository, {}, cannot be made: {error}",
                folder.display()
            ))
        })
}

fn settings(config: &ServeConfig, (uid, gid): (u32, u32)) -> Result<LocalConfig, Failure> {
    let mut settings = LocalConfig::new(&config.data_dir, &config.sandboxd);
    settings.runner.runtime.clone_from(&config.runtime);
    settings
        .runner
        .allowed_networks
        .clone_from(&config.allow_networks);
    settings.runner.storage.clone_from(&config.storage);
    settings.runner.storage_size_mib = config.storage_size_mib;
    settings.runner.postgres_bin.clone_from(&config.postgres_bin);
    (settings.runner.serve_uid, settings.runner.serve_gid) = (uid, gid);
    settings
        .images
        .allowed_registries
        .clone_from(&config.allow_registries);
    settings.images.only_registries.clone_from(&config.registries);
    if let Some(web) = &config.web_image {
        let path = Path::new(web);
        if path.is_file() {
            settings.images.web_archive = Some(readable_archive(path, &config.data_dir)?);
        } else if web.ends_with(".tar") || path.is_absolute() {
            return Err(Failure::usage(format!(
                "no image at {web}: create it with `make image`"
            )));
        } else {
            settings.images.web_reference = Some(web.clone());
        }
    }
    Ok(settings)
}

/// Makes the archive readable for the system user, who may have no access to its folder (root's cache): by a hard link
/// in the data folder, or a copy if that is on another file system.
fn readable_archive(archive: &Path, data_dir: &Path) -> Result<PathBuf, Failure> {
    if !Uid::effective().is_root() {
        return Ok(std::path::absolute(archive)?);
    }
    let folder = data_dir.join("images");
    let source = fs::canonicalize(archive)?;
    let metadata = source.metadata()?;
    let name = format!("web-{:x}-{:x}.oci.tar", metadata.len(), metadata.mtime());
    let target = folder.join(&name);
    for entry in fs::read_dir(&folder)?.flatten() {
        let other = entry.file_name();
        if other
            .to_str()
            .is_some_and(|other| other.starts_with("web-") && other.ends_with(".oci.tar") && other != name)
        {
            fs::remove_file(entry.path())?;
        }
    }
    if !target.exists() && fs::hard_link(&source, &target).is_err() {
        copy_archive(&source, &folder, &target).map_err(|error| {
            Failure::failed(format!(
                "{} cannot be copied to the data folder: {error}",
                source.display()
            ))
        })?;
    }
    Ok(target)
}

/// Copies a file, complete or not at all, into a folder of another user, as root: through no link of that user.
fn copy_archive(source: &Path, folder: &Path, target: &Path) -> io::Result<()> {
    let part = folder.join(".web.part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::options()
        .write(true)
        // O_EXCL, which follows no link (open(2)).
        .create_new(true)
        .mode(0o644)
        .open(&part)?;
    io::copy(&mut fs::File::open(source)?, &mut file)?;
    fs::rename(&part, target)
}

/// The control cluster of a data folder, and the shared one of earlier releases.
pub fn clusters(config: &ServeConfig, run_as: Option<(u32, u32)>) -> [postgres::Cluster; 2] {
    let settings = postgres_settings(config, run_as);
    [postgres::ClusterKind::Control, postgres::ClusterKind::Projects]
        .map(|kind| postgres::Cluster::new(kind, settings.clone()))
}

fn postgres_settings(config: &ServeConfig, run_as: Option<(u32, u32)>) -> postgres::Settings {
    postgres::Settings {
        data: config.data_dir.clone(),
        bin: config.postgres_bin.clone(),
        run_as,
    }
}

/// Starts the control cluster and the database proxy, if they do not run yet, and opens the driver.
pub async fn open(config: &ServeConfig, start: Start) -> Result<Local, Failure> {
    // Before the databases are started, which would keep running without a runner.
    let client = Client::greet(start.link)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let [control, _] = clusters(config, None);
    let postgres = |error: postgres::PostgresError| Failure::failed(error.to_string());
    let own = config.database_dsn.is_none();
    if own {
        control.ensure_running().await.map_err(postgres)?;
        control
            .ensure_database(CONTROL_DATABASE)
            .await
            .map_err(postgres)?;
    }
    let unusable =
        |error: std::io::Error| Failure::failed(format!("the projects' databases cannot be used: {error}"));
    let databases = ProjectDatabases::open(&config.data_dir, Arc::clone(&client), config.database_idle)
        .map_err(unusable)?;
    databases.use_programs(config.postgres_bin.clone());
    databases
        .prepare_upgrade(&postgres_settings(config, None))
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let starter =
        database_proxy::starter::serve(&config.data_dir, Arc::clone(&databases) as _).map_err(unusable)?;
    let program = std::env::current_exe()?;
    let proxy = database_proxy::ensure_running(
        &database_proxy::DatabaseProxyConfig::new(&config.data_dir),
        &program,
        &["gate".to_owned()],
    )
    .await
    .map_err(|error| Failure::failed(error.to_string()))?;
    let driver = LocalDriver::with(start.settings, Arc::clone(&client), Some(Arc::new(proxy)))
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let options = control.connect_options(CONTROL_DATABASE);
    let mut background = JoinSet::new();
    if own {
        background.spawn(async move { control.keep_running().await });
    }
    let servers = Arc::clone(&databases);
    background.spawn(async move { servers.stop_idle_forever().await });
    let servers = Arc::clone(&databases);
    background.spawn(async move { servers.upgrade_all().await });
    if config.web_image.is_some() {
        let driver = Arc::clone(&driver);
        background.spawn(async move { import_web(driver.image_store()).await });
    }
    Ok(Local {
        driver,
        databases,
        runner: client,
        control: options,
        background,
        _starter: starter,
    })
}

/// Imports the image of the template `web`, so that the first project need not wait for it.
async fn import_web(store: &images::Store) {
    match store.prepare().await {
        Ok(()) => tracing::info!("image of template web ready"),
        Err(error) => tracing::warn!(%error, "image of template web cannot be used"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_copied_through_no_link_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (images, source) = (folder.path().join("images"), folder.path().join("web.oci.tar"));
        let other = folder.path().join("etc-passwd");
        fs::create_dir(&images).unwrap();
        fs::write(&source, "archive").unwrap();
        fs::write(&other, "root").unwrap();
        std::os::unix::fs::symlink(&other, images.join(".web.part")).unwrap();
        let target = images.join("web-1.oci.tar");
        std::os::unix::fs::symlink(&other, &target).unwrap();

        copy_archive(&source, &images, &target).unwrap();

        assert_eq!(fs::read_to_string(&other).unwrap(), "root");
        assert_eq!(fs::read_to_string(&target).unwrap(), "archive");
        assert_eq!(fs::read_dir(&images).unwrap().count(), 1);
    }
}

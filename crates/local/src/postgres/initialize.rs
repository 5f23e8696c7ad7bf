//! Initialization of a cluster's data folder (initdb), atomically.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Cluster, SUPERUSER,
    binaries::Installation,
    configuration,
    error::{PostgresError, Result},
};

/// For a busy machine with a slow disk; an idle one takes under a second.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The PostgreSQL release that made the folder; `None` where there is no folder yet.
///
/// # Errors
/// There is something else.
pub(super) fn major_of(folder: &Path) -> Result<Option<u32>> {
    let not_a_cluster = || PostgresError::NotACluster {
        folder: folder.to_owned(),
    };
    match fs::read_to_string(folder.join("PG_VERSION")) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| not_a_cluster()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_dir(folder) {
            // rename(2) replaces an empty folder.
            Ok(mut entries) => entries.next().map_or(Ok(None), |_| Err(not_a_cluster())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(reading(folder, error)),
        },
        Err(error) => Err(reading(folder, error)),
    }
}

fn reading(folder: &Path, error: io::Error) -> PostgresError {
    PostgresError::io(format!("{} cannot be read", folder.display()))(error)
}

/// Runs initdb in a temporary folder and renames it when it is on disk, so that a crash at any
/// point leaves no folder, and the next call starts over.
pub(super) async fn initialize(cluster: &Cluster, installation: &Installation) -> Result<()> {
    let folder = cluster.folder();
    let temporary_folder = temporary_folder(folder);
    match fs::remove_dir_all(&temporary_folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(PostgresError::io(format!(
                "the incomplete {} cannot be removed",
                temporary_folder.display()
            ))(error));
        }
        _ => {}
    }
    make_folder(cluster, &temporary_folder, 0o700)?;

    let mut command = cluster.command(installation, "initdb");
    command
        .arg("--pgdata")
        .arg(&temporary_folder)
        .args([
            "--username",
            SUPERUSER,
            "--encoding",
            "UTF8",
            "--auth-local",
            "peer",
        ])
        // One sync at the end, of the file system, in place of a thousand.
        .args(["--auth-host", "scram-sha-256", "--no-sync", "--no-instructions"]);
    // The order of bytes: the same on each machine, unlike a language's, which changes with
    // libc's releases and then breaks indexes.
    if installation.major >= 17 {
        command.args([
            "--locale-provider",
            "builtin",
            "--builtin-locale",
            "C.UTF-8",
            "--locale",
            "C",
        ]);
    } else {
        command.args(["--locale", "C.UTF-8"]);
    }
    cluster
        .run(command, "making a PostgreSQL data folder", TIMEOUT)
        .await?;

    let settings = temporary_folder.join("postgresql.conf");
    let mut text = fs::read_to_string(&settings).map_err(PostgresError::io("initdb left no settings"))?;
    text.push_str(configuration::INCLUDES);
    fs::write(&settings, text).map_err(PostgresError::io("PostgreSQL's settings cannot be written"))?;
    write_configuration(cluster, &temporary_folder)?;

    let (from, to) = (temporary_folder.clone(), folder.to_owned());
    tokio::task::spawn_blocking(move || -> io::Result<()> {
        rustix::fs::syncfs(fs::File::open(&from)?)?;
        fs::rename(&from, &to)?;
        fs::File::open(to.parent().unwrap_or(Path::new("/")))?.sync_all()
    })
    .await
    .map_err(|_| io::Error::other("the task ended"))
    .and_then(|done| done)
    .map_err(PostgresError::io(format!(
        "{} cannot be put on disk",
        folder.display()
    )))
}

fn temporary_folder(folder: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".making");
    folder.with_file_name(name)
}

/// Writes our configuration files; returns whether any has changed.
pub(super) fn write_configuration(cluster: &Cluster, folder: &Path) -> Result<bool> {
    let kind = cluster.kind();
    let mut changed = false;
    for (name, text) in [
        (
            "fsa.conf",
            configuration::settings(kind, &cluster.socket_folder(), &cluster.logs()),
        ),
        ("pg_hba.conf", configuration::host_based(kind)),
        (
            "pg_ident.conf",
            configuration::identities(&cluster.system_user()?),
        ),
    ] {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        changed = true;
        // Written beside and moved: PostgreSQL never reads half of one.
        let beside = folder.join(format!("{name}.new"));
        fs::write(&beside, text)
            .and_then(|()| fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)))
            .and_then(|()| cluster.own(&beside))
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(PostgresError::io(format!("{} cannot be written", path.display())))?;
    }
    Ok(changed)
}

/// Makes a folder with its parents, owned by the user that PostgreSQL runs as.
pub(super) fn make_folder(cluster: &Cluster, folder: &Path, mode: u32) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)
        .and_then(|()| cluster.own(folder))
        .map_err(PostgresError::io(format!(
            "{} cannot be created",
            folder.display()
        )))
}

//! Restore of a backup into a new project: makes the branch's volume from the backup's files, and loads its databases.
//!
//! The row says that this is still to be done until it is. The data plane makes a volume as a whole or not at all, and
//! the databases are loaded into a new server each time, so a worker that takes over after a crash repeats no harm.

use std::{
    io::{self, BufWriter, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fsa_backup::{Contents, Error};
use fsa_driver::{DriverError, Region};
use fsa_model::{DatabaseSpec, Failure, FailureKind};
use tokio::time::timeout;

use super::{Shared, restore::Interrupted, spec};
use crate::{
    backups::{
        Backups, archive, failure,
        manifest::{self, Manifest},
    },
    store::{branches, databases, leases::Claim},
};

/// Timeout of the files, and of one database. The repository may be on the network.
const TRANSFER: Duration = Duration::from_secs(6 * 3600);
/// Timeout of a step that moves no data.
const STEP: Duration = Duration::from_secs(300);
/// Bytes between the repository and the pipe.
const BUFFER: usize = 256 << 10;

/// Fills the volume of a claimed sandbox's branch from a backup.
///
/// # Errors
/// A step failed; or the database does not answer.
pub async fn run(shared: &Shared, region: &Region, claim: &Claim, backup: &str) -> Result<(), Interrupted> {
    restore(shared, region, claim, backup)
        .await
        .map_err(Interrupted::Failed)?;
    branches::finish_restore(&shared.core.store, claim).await?;
    tracing::info!(project = %claim.project.id, backup, "restored a backup");
    Ok(())
}

async fn restore(shared: &Shared, region: &Region, claim: &Claim, backup: &str) -> Result<(), Failure> {
    let repository = shared.core.backups.as_ref().ok_or_else(|| {
        Failure::new(
            FailureKind::Machine,
            "This server has no backup repository any more; set backup_repository to restore the project's files.",
        )
    })?;
    let id = backup.to_owned();
    let contents = Arc::new(repository.run(move |repository| repository.read(&id)).await?);
    let manifest = read_manifest(repository, &contents).await?;
    files(region, claim, &contents).await?;
    if manifest.databases.is_empty() {
        return Ok(());
    }
    let database = databases::of(&shared.core.store, &claim.branch)
        .await
        .map_err(|error| Failure::new(FailureKind::Transient, error.to_string()))?;
    // Without one, the project's variables name another database.
    let Some(database) = database else { return Ok(()) };
    let database = spec::database(&shared.core.key_ring, &claim.project, &database)?;
    load(region, &database, &contents, &manifest).await
}

async fn read_manifest(repository: &Backups, contents: &Arc<Contents>) -> Result<Manifest, Failure> {
    let contents = Arc::clone(contents);
    let text = repository
        .run(move |_| contents.read_file(Path::new(manifest::FILE), manifest::BYTES_MAX))
        .await?;
    let wrong = |why: String| {
        Failure::new(
            FailureKind::Input,
            format!("The backup cannot be restored: {why}."),
        )
    };
    let text = text.ok_or_else(|| wrong("it has no manifest".into()))?;
    manifest::parse(&text).map_err(wrong)
}

/// Makes the volume from the files.
async fn files(region: &Region, claim: &Claim, contents: &Arc<Contents>) -> Result<(), Failure> {
    let files = region.driver.volume_files().ok_or_else(unsupported)?;
    let sandbox = claim.sandbox.reference();
    let contents = Arc::clone(contents);
    let (output, written) = pipe(move |input| archive::write(&contents, input))?;
    let imported = within(TRANSFER, files.import(&sandbox, output)).await;
    match (imported, written.await) {
        // A volume that exists is kept, and the rest of the archive not read.
        (Ok(()), Ok(Ok(()) | Err(Error::Write(_)))) => Ok(()),
        // The cause, rather than what the reader found.
        (_, Ok(Err(error))) if !matches!(error, Error::Write(_)) => Err(failure(&error)),
        (Err(failure), _) => Err(failure),
        (Ok(()), Ok(Err(error))) => Err(failure(&error)),
        (Ok(()), Err(error)) => Err(panicked(&error)),
    }
}

/// Loads the dumps into a new server.
async fn load(
    region: &Region,
    database: &DatabaseSpec,
    contents: &Arc<Contents>,
    manifest: &Manifest,
) -> Result<(), Failure> {
    let dumps = region.databases.dumps().ok_or_else(unsupported)?;
    within(STEP, dumps.discard(database)).await?;
    within(STEP, region.databases.ensure(database)).await?;
    for found in &manifest.databases {
        let contents = Arc::clone(contents);
        let path: PathBuf = Path::new(manifest::DATABASES).join(&found.file);
        let (output, written) = pipe(move |input| dump(&contents, &path, input))?;
        let other = (!found.own).then_some(found.name.as_str());
        let loaded = within(TRANSFER, dumps.load(database, other, output)).await;
        match (loaded, written.await) {
            (Ok(()), Ok(Ok(()))) => {}
            (_, Ok(Err(error))) if !matches!(error, Error::Write(_)) => return Err(failure(&error)),
            (Err(failure), _) => return Err(failure),
            (Ok(()), Ok(Err(error))) => return Err(failure(&error)),
            (Ok(()), Err(error)) => return Err(panicked(&error)),
        }
    }
    Ok(())
}

/// Writes one dump.
fn dump(contents: &Contents, path: &Path, input: &mut dyn Write) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut found = false;
    contents.walk::<Error>(folder, &mut |entry, content| {
        if entry.path == path {
            found = true;
            content.write_to(input)?;
        }
        Ok(())
    })?;
    match found {
        true => Ok(()),
        false => Err(Error::Damaged(format!("{} is missing", path.display()))),
    }
}

type Written = tokio::task::JoinHandle<Result<(), Error>>;

/// A pipe that a blocking thread writes to. The writer ends with an error when the reader is closed.
fn pipe(
    write: impl FnOnce(&mut dyn Write) -> Result<(), Error> + Send + 'static,
) -> Result<(OwnedFd, Written), Failure> {
    let (output, input) = io::pipe()
        .map_err(|error| Failure::new(FailureKind::Machine, format!("no pipe can be made ({error})")))?;
    let written = tokio::task::spawn_blocking(move || {
        let mut input = BufWriter::with_capacity(BUFFER, input);
        write(&mut input)?;
        input.flush().map_err(Error::Write)
    });
    Ok((output.into(), written))
}

fn panicked(error: &tokio::task::JoinError) -> Failure {
    Failure::new(
        FailureKind::Internal,
        format!("the work on the backup repository panicked ({error})"),
    )
}

fn unsupported() -> Failure {
    Failure::new(
        FailureKind::Input,
        "The region has no backups; restore in a region of the local driver.",
    )
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, Failure> {
    match timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::warn!(%error, cause = ?error.cause, "a step of a restore failed in the data plane");
            Err(error.failure)
        }
        Err(_) => Err(Failure::new(
            FailureKind::Transient,
            format!(
                "The data plane did not answer within {} seconds.",
                limit.as_secs()
            ),
        )),
    }
}

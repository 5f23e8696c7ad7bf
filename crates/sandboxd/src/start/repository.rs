//! Repository clone: clones the project's repository into its folder, once and atomically.
//!
//! git clones into a folder beside the project's. When the clone is complete, its entries are moved
//! into the project's folder, which stays the same folder: a terminal may be open in it. After a
//! crash a complete clone is moved at the next start, and an incomplete one is deleted.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fsa_model::{sandboxd::LogSource, spec::Repository};
use nix::fcntl::OFlag;
use tokio::{net::unix::pipe, time::timeout};

use super::supervise::record;
use crate::{
    environment,
    reaper::Child,
    sandbox::Sandbox,
    session,
    spawn::{self, Launch},
    user::{self, User},
};

/// Timeout of the clone: a large history over a slow line.
const CLONE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Bytes of `.gitattributes` that are searched for files in Git LFS.
const MAX_ATTRIBUTES: u64 = 256 * 1024;
/// Lines of git's output in the error message.
const MAX_ERROR_LINES: usize = 6;

/// Folders and marker file of the clone, all in the person's home.
struct ClonePaths {
    project: PathBuf,
    /// git clones into this folder.
    incoming: PathBuf,
    /// Name of the same folder when the clone is complete.
    complete: PathBuf,
    /// Marker file: the clone is done.
    marker: PathBuf,
}

impl ClonePaths {
    fn of(sandbox: &Sandbox) -> Self {
        let state = sandbox.home.join(".local/state/fsa");
        Self {
            project: sandbox.project.clone(),
            incoming: state.join("clone.incoming"),
            complete: state.join("clone.complete"),
            marker: state.join("cloned"),
        }
    }
}

/// State of the folders.
enum CloneState {
    /// The project's folder has a repository, from an earlier clone or made by hand.
    Done,
    Empty,
    /// A complete clone, of which some entries are not moved yet.
    Moving,
    /// The project's folder has other files.
    OtherFiles,
}

/// Clones the repository with its submodules and its files in Git LFS, unless that was done before. Returns what is missing
/// in a clone that can be used all the same: a submodule that needs another credential, or files in LFS.
///
/// # Errors
/// git's message or ours, without credentials. No incomplete clone is left.
pub async fn clone(sandbox: &Arc<Sandbox>, repository: &Repository) -> Result<Option<String>, String> {
    let paths = Arc::new(ClonePaths::of(sandbox));
    let user = sandbox.accounts.find(None).map_err(|error| error.to_string())?;
    match as_user(&user, &paths, inspect).await? {
        CloneState::Done => return Ok(None),
        CloneState::OtherFiles => {
            return Err(
                "the project's folder has files in it already; move them away and clone again".into(),
            );
        }
        CloneState::Moving => return as_user(&user, &paths, move_entries).await.map(|()| None),
        CloneState::Empty => {}
    }
    as_user(&user, &paths, clear_incoming).await?;
    let cloned = git(sandbox, &user, clone_arguments(repository, &paths.incoming)).await;
    let done = match cloned {
        Ok(()) => {
            let missing = fetch_parts(sandbox, &user, &paths).await;
            as_user(&user, &paths, |paths| {
                fs::rename(&paths.incoming, &paths.complete)?;
                move_entries(paths)
            })
            .await
            .map(|()| missing)
        }
        Err(message) => Err(message),
    };
    if done.is_err() {
        as_user(&user, &paths, |paths| remove(&paths.incoming)).await?;
    }
    done
}

/// Runs `work` with the user's file system ids, off the runtime's thread.
async fn as_user<T: Send + 'static>(
    user: &User,
    paths: &Arc<ClonePaths>,
    work: impl FnOnce(&ClonePaths) -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let (user, paths) = (user.clone(), Arc::clone(paths));
    tokio::task::spawn_blocking(move || user::with_fs_ids_of(&user, || work(&paths)))
        .await
        .map_err(io::Error::other)
        .flatten()
        .flatten()
        .map_err(|error| format!("the project's folder cannot be prepared: {error}"))
}

fn inspect(paths: &ClonePaths) -> io::Result<CloneState> {
    if paths.complete.exists() {
        return Ok(CloneState::Moving);
    }
    if paths.marker.exists() || paths.project.join(".git").exists() {
        return Ok(CloneState::Done);
    }
    Ok(if fs::read_dir(&paths.project)?.next().is_none() {
        CloneState::Empty
    } else {
        CloneState::OtherFiles
    })
}

fn clear_incoming(paths: &ClonePaths) -> io::Result<()> {
    if let Some(state) = paths.incoming.parent() {
        fs::create_dir_all(state)?;
    }
    remove(&paths.incoming)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves the entries of the complete clone into the project's folder. An entry that was created there
/// meanwhile under the same name is kept, and git shows the difference.
fn move_entries(paths: &ClonePaths) -> io::Result<()> {
    for entry in fs::read_dir(&paths.complete)? {
        let entry = entry?;
        let target = paths.project.join(entry.file_name());
        if fs::symlink_metadata(&target).is_err() {
            fs::rename(entry.path(), target)?;
        }
    }
    fs::write(&paths.marker, "")?;
    remove(&paths.complete)
}

/// What a clone has beside its own objects.
struct Parts {
    submodules: bool,
    lfs: bool,
}

fn parts(paths: &ClonePaths) -> io::Result<Parts> {
    use io::Read as _;
    let mut attributes = Vec::new();
    if let Ok(file) = fs::File::open(paths.incoming.join(".gitattributes")) {
        file.take(MAX_ATTRIBUTES).read_to_end(&mut attributes)?;
    }
    Ok(Parts {
        submodules: paths.incoming.join(".gitmodules").is_file(),
        lfs: String::from_utf8_lossy(&attributes).contains("filter=lfs"),
    })
}

/// Fetches submodules and files in LFS. Returns what could not be fetched, for the person.
async fn fetch_parts(sandbox: &Arc<Sandbox>, user: &User, paths: &Arc<ClonePaths>) -> Option<String> {
    let parts = match as_user(user, paths, parts).await {
        Ok(parts) => parts,
        Err(message) => return Some(message),
    };
    let within = |arguments: &[&str]| {
        let folder = paths.incoming.to_string_lossy().into_owned();
        ["-C".to_owned(), folder]
            .into_iter()
            .chain(arguments.iter().map(|&argument| argument.to_owned()))
            .collect()
    };
    let mut missing = Vec::new();
    if parts.lfs
        && let Err(message) = git(sandbox, user, within(&["lfs", "pull"])).await
    {
        let message = match message.contains("'lfs' is not a git command") {
            true => "the image has no git-lfs".to_owned(),
            false => message,
        };
        missing.push(format!(
            "its files in Git LFS are missing ({message}); `git lfs pull` fetches them"
        ));
    }
    if parts.submodules {
        let update = within(&["submodule", "update", "--init", "--recursive", "--progress"]);
        if let Err(message) = git(sandbox, user, update).await {
            missing.push(format!(
                "a submodule is missing ({message}); `git submodule update --init --recursive` fetches it"
            ));
        }
    }
    (!missing.is_empty()).then(|| missing.join("; "))
}

fn clone_arguments(repository: &Repository, into: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = ["clone", "--progress"].map(str::to_owned).into();
    if let Some(branch) = &repository.branch {
        arguments.push(format!("--branch={branch}"));
    }
    arguments.extend([
        "--".into(),
        repository.url.clone(),
        into.to_string_lossy().into_owned(),
    ]);
    arguments
}

/// Runs git for the person, with its output in the log.
async fn git(sandbox: &Arc<Sandbox>, user: &User, arguments: Vec<String>) -> Result<(), String> {
    let no_start = |error: io::Error| format!("git could not be started: {error}");
    let extra = BTreeMap::from([
        // There is no terminal for a password prompt.
        ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
        // Files in LFS are fetched when the clone is complete, so that their server cannot make it fail.
        ("GIT_LFS_SKIP_SMUDGE".to_owned(), "1".to_owned()),
    ]);
    let stdin: OwnedFd = fs::File::open("/dev/null").map_err(no_start)?.into();
    let (reader, output) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
        .map_err(io::Error::from)
        .map_err(no_start)?;
    let launch = Launch {
        program: OsStr::new("git"),
        name: None,
        arguments: &arguments,
        environment: environment::of(user, &sandbox.environment, &extra),
        folder: sandbox.home.clone(),
        user,
        stdin,
        stdout: output.try_clone().map_err(no_start)?,
        stderr: output,
        terminal: false,
    };
    let before = *sandbox.logs.newest().borrow();
    let mut child = spawn::spawn(&sandbox.reaper, launch).map_err(|error| match error {
        spawn::SpawnError::NotFound(_) => {
            "the image has no `git`; choose one that has it, or copy the files in".to_owned()
        }
        other => other.to_string(),
    })?;
    let reader = pipe::Receiver::from_owned_fd(reader).map_err(no_start)?;
    let recorded = tokio::spawn(record(
        Arc::clone(sandbox),
        reader,
        LogSource::Git,
        without_credentials,
    ));
    let exit = timeout(CLONE_TIMEOUT, Child::ended(&mut child.exit)).await;
    session::end(&sandbox.reaper, child.pid, libc::SIGTERM, session::EXEC_GRACE).await;
    // All writers are gone, so this ends; the timeout is for a writer that left the session.
    let _ = timeout(session::EXEC_GRACE, recorded).await;
    match exit {
        Ok(exit) if exit.code() == 0 => Ok(()),
        Ok(_) => {
            let lines = sandbox.logs.after(before, usize::MAX);
            let output: Vec<_> = lines
                .iter()
                .filter(|line| line.source == LogSource::Git && !line.text.trim().is_empty())
                .map(|line| line.text.clone())
                .collect();
            Err(output[output.len().saturating_sub(MAX_ERROR_LINES)..].join("\n"))
        }
        Err(_) => Err(format!(
            "git did not finish within {} minutes",
            CLONE_TIMEOUT.as_secs() / 60
        )),
    }
}

/// Removes the part between `://` and `@` from every URL.
fn without_credentials(line: String) -> String {
    let mut parts = line.split("://");
    let mut cleaned = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        cleaned.push_str("://");
        let end = part
            .find(|c: char| c == '/' || c == '\'' || c == '"' || c.is_whitespace())
            .unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        cleaned.push_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        cleaned.push_str(rest);
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_removed_from_gits_messages() {
        for (line, expected) in [
            (
                "fatal: could not read from 'https://me:s3cret@example.org/a.git/': 403",
                "fatal: could not read from 'https://example.org/a.git/': 403",
            ),
            (
                "https://t0ken@host and http://x:y@other/z",
                "https://host and http://other/z",
            ),
            ("no url, but a@b", "no url, but a@b"),
        ] {
            assert_eq!(without_credentials(line.to_owned()), expected);
        }
    }
}

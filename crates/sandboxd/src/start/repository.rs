//! Clones the project's repository into its folder, once, and all or nothing.
//!
//! git clones into a folder beside the project's. Only when it is complete are its entries moved
//! into the project's folder, which stays the same folder: a terminal may be open in it. What was
//! complete when the sandbox died is moved at the next start; what was not is thrown away.

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

/// git over a slow line with a large history.
const CLONE_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Of git's words that are told.
const TOLD_LINES: usize = 6;

/// The folders and the mark of one clone, all in the person's home.
struct Places {
    project: PathBuf,
    /// git writes here.
    incoming: PathBuf,
    /// The same folder, when git is done.
    complete: PathBuf,
    /// Says that the clone was made.
    mark: PathBuf,
}

impl Places {
    fn of(sandbox: &Sandbox) -> Self {
        let state = sandbox.home.join(".local/state/fsa");
        Self {
            project: sandbox.project.clone(),
            incoming: state.join("clone.incoming"),
            complete: state.join("clone.complete"),
            mark: state.join("cloned"),
        }
    }
}

/// What the folders say.
enum Found {
    /// Somebody's work, from an earlier clone or by hand.
    Done,
    Empty,
    /// A complete clone whose entries were not all moved.
    Moving,
    /// Files that no clone made.
    Other,
}

/// Makes the clone unless it was made before.
///
/// # Errors
/// Why not, in git's words or ours, without credentials. Nothing half-made is left.
pub async fn clone(sandbox: &Arc<Sandbox>, repository: &Repository) -> Result<(), String> {
    let places = Arc::new(Places::of(sandbox));
    let user = sandbox.accounts.find(None).map_err(|error| error.to_string())?;
    match in_rights_of(&user, &places, look).await? {
        Found::Done => return Ok(()),
        Found::Other => {
            return Err(
                "the project's folder has files in it already; move them away and clone again".into(),
            );
        }
        Found::Moving => return in_rights_of(&user, &places, take_over).await,
        Found::Empty => {}
    }
    in_rights_of(&user, &places, make_way).await?;
    let cloned = git(sandbox, &user, repository, &places.incoming).await;
    let done = match cloned {
        Ok(()) => {
            in_rights_of(&user, &places, |places| {
                fs::rename(&places.incoming, &places.complete)?;
                take_over(places)
            })
            .await
        }
        Err(message) => Err(message),
    };
    if done.is_err() {
        in_rights_of(&user, &places, |places| remove(&places.incoming)).await?;
    }
    done
}

async fn in_rights_of<T: Send + 'static>(
    user: &User,
    places: &Arc<Places>,
    work: impl FnOnce(&Places) -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let (user, places) = (user.clone(), Arc::clone(places));
    tokio::task::spawn_blocking(move || user::with_rights_of(&user, || work(&places)))
        .await
        .map_err(io::Error::other)
        .flatten()
        .flatten()
        .map_err(|error| format!("the project's folder cannot be prepared: {error}"))
}

fn look(places: &Places) -> io::Result<Found> {
    if places.complete.exists() {
        return Ok(Found::Moving);
    }
    if places.mark.exists() || places.project.join(".git").exists() {
        return Ok(Found::Done);
    }
    Ok(if fs::read_dir(&places.project)?.next().is_none() {
        Found::Empty
    } else {
        Found::Other
    })
}

fn make_way(places: &Places) -> io::Result<()> {
    if let Some(state) = places.incoming.parent() {
        fs::create_dir_all(state)?;
    }
    remove(&places.incoming)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves the entries of the complete clone into the project's folder. What somebody put there
/// meanwhile under the same name is kept, and git shows the difference.
fn take_over(places: &Places) -> io::Result<()> {
    for entry in fs::read_dir(&places.complete)? {
        let entry = entry?;
        let target = places.project.join(entry.file_name());
        if fs::symlink_metadata(&target).is_err() {
            fs::rename(entry.path(), target)?;
        }
    }
    fs::write(&places.mark, "")?;
    remove(&places.complete)
}

async fn git(
    sandbox: &Arc<Sandbox>,
    user: &User,
    repository: &Repository,
    into: &Path,
) -> Result<(), String> {
    let no_start = |error: io::Error| format!("git could not be started: {error}");
    let mut arguments: Vec<String> = ["clone", "--progress"].map(str::to_owned).into();
    if let Some(branch) = &repository.branch {
        arguments.push(format!("--branch={branch}"));
    }
    arguments.extend([
        "--".into(),
        repository.url.clone(),
        into.to_string_lossy().into_owned(),
    ]);
    // Nobody is there to type a password.
    let extra = BTreeMap::from([("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned())]);
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
    let exit = timeout(CLONE_WITHIN, Child::ended(&mut child.exit)).await;
    session::end(&sandbox.reaper, child.pid, libc::SIGTERM, session::EXEC_GRACE).await;
    // All writers are gone, so this ends; the bound is for one that set itself free.
    let _ = timeout(session::EXEC_GRACE, recorded).await;
    match exit {
        Ok(exit) if exit.code() == 0 => Ok(()),
        Ok(_) => {
            let lines = sandbox.logs.after(before, usize::MAX);
            let words: Vec<_> = lines
                .iter()
                .filter(|line| line.source == LogSource::Git && !line.text.trim().is_empty())
                .map(|line| line.text.clone())
                .collect();
            Err(words[words.len().saturating_sub(TOLD_LINES)..].join("\n"))
        }
        Err(_) => Err(format!(
            "git did not finish within {} minutes",
            CLONE_WITHIN.as_secs() / 60
        )),
    }
}

/// Leaves out what stands between `://` and `@` in every URL.
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
    fn credentials_are_left_out_of_gits_words() {
        for (line, told) in [
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
            assert_eq!(without_credentials(line.to_owned()), told);
        }
    }
}

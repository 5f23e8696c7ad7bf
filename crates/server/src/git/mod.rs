//! Git operations in a project's folder, for the page and the command line: status, diff, staging, commits, and
//! push and pull with `origin`.
//!
//! git runs in the sandbox, with fixed arguments, without a shell, as its default user. Paths from a request
//! come after `--` and are taken literally. git's output is not trusted ([`status`], [`stderr`]).

pub mod publish;
pub mod status;
pub mod stderr;

use std::collections::BTreeMap;

use fsa_model::{
    git::{GitCommit, GitDiff, GitPaths, GitStatus},
    sandboxd::{ExecRequest, ExecResult},
};
use http::StatusCode;

use self::stderr::{GitOperation, explain};
use crate::{
    auth::{
        Caller,
        permission::{Permission, Read, Write},
    },
    core::Core,
    error::{Error, Result},
    sandbox_client::RunningSandbox,
    store::{
        branches::{self, AuthorizedBranch, BranchReference},
        github,
    },
};

/// Timeout of local commands.
const LOCAL_TIMEOUT_SECONDS: u32 = 60;
/// Timeout of commands that contact another server.
const REMOTE_TIMEOUT_SECONDS: u32 = 600;
/// Most bytes of a commit message.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Most paths of one request, and most bytes of one path.
const MAX_PATHS: usize = 1000;
const MAX_PATH_BYTES: usize = 4096;

/// The repository of one project, in whose sandbox git runs.
pub(crate) struct Repository {
    sandbox: RunningSandbox,
}

impl Repository {
    pub(crate) async fn of<R: Permission>(core: &Core, project: &AuthorizedBranch<R>) -> Result<Self> {
        let sandbox = RunningSandbox::of(core, project).await?;
        Ok(Self { sandbox })
    }

    /// Runs git and returns its result, whatever the exit code.
    async fn try_git(&self, arguments: &[&str], stdin: Option<&str>, seconds: u32) -> Result<ExecResult> {
        let fixed = ["git", "--no-pager", "--literal-pathspecs"];
        let variables = [
            // No terminal is attached to answer a prompt.
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_EDITOR", "true"),
            ("LC_ALL", "C.UTF-8"),
            // A repository of the whole home folder is not the project's.
            ("GIT_CEILING_DIRECTORIES", fsa_model::sandboxd::HOME),
        ];
        let request = ExecRequest {
            command: fixed.iter().chain(arguments).map(ToString::to_string).collect(),
            env: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            stdin: stdin.map(ToOwned::to_owned),
            timeout_seconds: Some(seconds),
            ..ExecRequest::default()
        };
        self.sandbox
            .exec(&request)
            .await
            .map_err(|error| match error.field() {
                Some(field) if field.name == "command" => Error::conflict(
                    "The project's image has no `git`; choose one that has it, or install it in the sandbox.",
                ),
                _ => error,
            })
    }

    /// Runs git; failure is an error.
    async fn git(&self, operation: GitOperation, arguments: &[&str]) -> Result<ExecResult> {
        self.run(operation, arguments, None, LOCAL_TIMEOUT_SECONDS).await
    }

    async fn run(
        &self,
        operation: GitOperation,
        arguments: &[&str],
        stdin: Option<&str>,
        seconds: u32,
    ) -> Result<ExecResult> {
        let result = self.try_git(arguments, stdin, seconds).await?;
        if result.exit_code == 0 {
            Ok(result)
        } else {
            Err(explain(operation, &result))
        }
    }

    /// The first line that git prints; `None` if git fails or prints nothing.
    async fn line(&self, arguments: &[&str]) -> Result<Option<String>> {
        let result = self.try_git(arguments, None, LOCAL_TIMEOUT_SECONDS).await?;
        let line = result.stdout.lines().next().unwrap_or_default();
        Ok((result.exit_code == 0 && !line.is_empty()).then(|| line.to_owned()))
    }

    pub(crate) async fn status(&self) -> Result<GitStatus> {
        let arguments = [
            "--no-optional-locks",
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            "--untracked-files=all",
        ];
        let (found, remote, merging) = tokio::try_join!(
            self.git(GitOperation::Read, &arguments),
            self.line(&["remote", "get-url", "origin"]),
            self.line(&["rev-parse", "--verify", "--quiet", "MERGE_HEAD"]),
        )?;
        Ok(GitStatus {
            repository: true,
            remote: remote.map(|url| stderr::without_credentials(&url)),
            merging: merging.is_some(),
            ..status::parse(&found.stdout, found.truncated)
        })
    }

    /// Settings that name the caller as author of a commit where git has no name or address configured.
    async fn author(&self, core: &Core, caller: &Caller) -> Result<Vec<String>> {
        let (name, email) = tokio::try_join!(
            self.line(&["config", "--get", "user.name"]),
            self.line(&["config", "--get", "user.email"]),
        )?;
        let mut settings = BTreeMap::new();
        if name.is_none() {
            settings.insert("user.name", caller.login().to_owned());
        }
        if email.is_none() {
            settings.insert("user.email", email_of(core, caller).await?);
        }
        Ok(settings
            .into_iter()
            .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
            .collect())
    }

    async fn commit(&self, author: &[String], message: &str) -> Result<()> {
        let mut arguments: Vec<&str> = author.iter().map(String::as_str).collect();
        // Lines that begin with `#` are part of the message, not comments.
        arguments.extend(["commit", "--cleanup=whitespace", "--file=-"]);
        self.run(
            GitOperation::Commit,
            &arguments,
            Some(message),
            LOCAL_TIMEOUT_SECONDS,
        )
        .await?;
        Ok(())
    }

    async fn push(&self, status: &GitStatus) -> Result<()> {
        let arguments: &[&str] = match status.upstream {
            Some(_) => &["-c", "push.default=upstream", "push"],
            None => &["push", "--set-upstream", "origin", "HEAD"],
        };
        self.run(GitOperation::Push, arguments, None, REMOTE_TIMEOUT_SECONDS)
            .await?;
        Ok(())
    }
}

/// A no-reply address, such as GitHub gives users who hide their own.
async fn email_of(core: &Core, caller: &Caller) -> Result<String> {
    let mut connection = core.store.pool().acquire().await?;
    let account = github::account_of(&mut connection, caller.user()).await?;
    let host = core
        .settings
        .github
        .as_ref()
        .and_then(|github| github.url.host_str());
    Ok(match (account, host) {
        (Some(account), Some(host)) => {
            format!("{}+{}@users.noreply.{host}", account.id, account.login)
        }
        _ => {
            let host = core.settings.origin.host_str().unwrap_or("localhost");
            format!("{}@users.noreply.{host}", caller.login())
        }
    })
}

/// The status of the repository.
///
/// # Errors
/// Not found; 409 where the sandbox does not run or there is no repository.
pub async fn view(core: &Core, caller: &Caller, reference: &BranchReference) -> Result<GitStatus> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    match Repository::of(core, &project).await?.status().await {
        // An ordinary state of a new project, and no failure.
        Err(error) if error.name() == "NoRepository" => Ok(GitStatus::default()),
        other => other,
    }
}

/// Differences of files: staged ones from the last commit, or unstaged ones from the index.
///
/// # Errors
/// Same as [`view`]; 422 for an invalid path.
pub async fn diff(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    path: Option<&str>,
    staged: bool,
) -> Result<GitDiff> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    if let Some(path) = path {
        check_path("path", path)?;
    }
    let repository = Repository::of(core, &project).await?;
    let show = ["diff", "--no-color", "--no-ext-diff", "--no-textconv"];
    let mut arguments = [&["--no-optional-locks"], &show[..]].concat();
    if staged {
        arguments.push("--cached");
    }
    arguments.push("--");
    arguments.extend(path);
    let mut found = repository.git(GitOperation::Read, &arguments).await?;
    if let (true, false, Some(path)) = (found.stdout.is_empty(), staged, path) {
        let new = ["ls-files", "-z", "--others", "--exclude-standard", "--", path];
        let new = repository.git(GitOperation::Read, &new).await?;
        // A file that git does not track is compared with an empty one.
        if new.stdout.strip_suffix('\0') == Some(path) {
            let arguments = [&show[..], &["--no-index", "--", "/dev/null", path]].concat();
            let shown = repository
                .try_git(&arguments, None, LOCAL_TIMEOUT_SECONDS)
                .await?;
            // Exit code 1 means that there is a difference.
            if shown.exit_code != 1 {
                return Err(explain(GitOperation::Read, &shown));
            }
            found = shown;
        }
    }
    Ok(GitDiff {
        diff: found.stdout,
        truncated: found.truncated,
    })
}

/// Stages files, or everything.
///
/// # Errors
/// Same as [`diff`].
pub async fn stage(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: &GitPaths,
) -> Result<GitStatus> {
    change(core, caller, reference, &["add", "--all", "--"], request).await
}

/// Unstages files, or everything.
///
/// # Errors
/// Same as [`diff`].
pub async fn unstage(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: &GitPaths,
) -> Result<GitStatus> {
    // Unlike `restore --staged`, `reset` works before the first commit too.
    change(core, caller, reference, &["reset", "--quiet", "--"], request).await
}

async fn change(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    arguments: &[&str],
    request: &GitPaths,
) -> Result<GitStatus> {
    let project = branches::find::<Write>(&core.store, caller, reference).await?;
    let paths = request.paths.as_deref();
    if paths.is_some_and(|paths| paths.is_empty() || paths.len() > MAX_PATHS) {
        let rule = format!("it lists from 1 to {MAX_PATHS} paths; leave it out for everything");
        return Err(Error::invalid("paths", rule));
    }
    let paths = paths.unwrap_or_default();
    for path in paths {
        check_path("paths", path)?;
    }
    let repository = Repository::of(core, &project).await?;
    let all: Vec<&str> = arguments
        .iter()
        .copied()
        .chain(paths.iter().map(String::as_str))
        .collect();
    repository.git(GitOperation::Stage, &all).await?;
    repository.status().await
}

fn check_path(field: &str, path: &str) -> Result<()> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') {
        let rule = format!("a path has from 1 to {MAX_PATH_BYTES} bytes and no NUL");
        return Err(Error::invalid(field, rule));
    }
    Ok(())
}

/// Commits the staged changes, or everything, in the caller's name where git has none configured.
///
/// # Errors
/// Same as [`view`]; 422 for an invalid message; 409 where there is nothing to commit.
pub async fn commit(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: &GitCommit,
) -> Result<GitStatus> {
    let project = branches::find::<Write>(&core.store, caller, reference).await?;
    let message = request.message.trim();
    if message.is_empty() || message.len() > MAX_MESSAGE_BYTES || message.contains('\0') {
        let rule = format!("it has from 1 to {MAX_MESSAGE_BYTES} bytes, and no NUL character");
        return Err(Error::invalid("message", rule));
    }
    let repository = Repository::of(core, &project).await?;
    if request.all {
        repository.git(GitOperation::Stage, &["add", "--all"]).await?;
    }
    let author = repository.author(core, caller).await?;
    repository.commit(&author, message).await?;
    repository.status().await
}

/// Pushes the branch to its upstream. Without one, pushes to the same name at `origin` and sets that as upstream.
///
/// # Errors
/// Same as [`view`]; 409 with advice where the push was refused.
pub async fn push(core: &Core, caller: &Caller, reference: &BranchReference) -> Result<GitStatus> {
    let project = branches::find::<Write>(&core.store, caller, reference).await?;
    let repository = Repository::of(core, &project).await?;
    let status = repository.status().await?;
    if status.head.is_none() {
        return Err(Error::new(
            StatusCode::CONFLICT,
            "NothingToPush",
            "There is nothing to push: commit something first.",
        ));
    }
    repository.push(&status).await?;
    repository.status().await
}

/// Fetches the branch's upstream, and merges it.
///
/// # Errors
/// Same as [`view`]; 409 with the files that conflict, and the merge is then in progress.
pub async fn pull(core: &Core, caller: &Caller, reference: &BranchReference) -> Result<GitStatus> {
    let project = branches::find::<Write>(&core.store, caller, reference).await?;
    let repository = Repository::of(core, &project).await?;
    let before = repository.status().await?;
    let author = repository.author(core, caller).await?;
    let mut arguments: Vec<&str> = author.iter().map(String::as_str).collect();
    arguments.extend(["pull", "--no-rebase", "--no-edit", "--no-stat"]);
    if before.upstream.is_none() {
        let Some(branch) = &before.branch else {
            return Err(Error::conflict(
                "No branch is checked out, so nothing can be pulled into it.",
            ));
        };
        arguments.extend(["--", "origin", branch]);
    }
    let result = repository
        .try_git(&arguments, None, REMOTE_TIMEOUT_SECONDS)
        .await?;
    let after = repository.status().await?;
    if result.exit_code == 0 {
        return Ok(after);
    }
    let conflicts: Vec<String> = after
        .files
        .iter()
        .filter(|file| file.conflict)
        .map(|file| file.path.clone())
        .collect();
    if conflicts.is_empty() || before.merging {
        return Err(explain(GitOperation::Pull, &result));
    }
    Err(stderr::conflicted(&conflicts))
}

/// Aborts the merge in progress.
///
/// # Errors
/// Same as [`view`]; 409 where there is none.
pub async fn abort(core: &Core, caller: &Caller, reference: &BranchReference) -> Result<GitStatus> {
    let project = branches::find::<Write>(&core.store, caller, reference).await?;
    let repository = Repository::of(core, &project).await?;
    repository.git(GitOperation::Abort, &["merge", "--abort"]).await?;
    repository.status().await
}

//! Error mapping of git's messages: turns a failed git command into an error with a sentence. Pure. git prints
//! English (`LC_ALL=C.UTF-8`); a message that is not recognized is passed on in git's words.

use fsa_model::sandboxd::ExecResult;
use http::StatusCode;

use crate::error::Error;

/// Most lines of git's output, and most files, that a message contains.
const MAX_LINES: usize = 12;

/// The attempted operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitOperation {
    Read,
    Stage,
    Commit,
    Push,
    Pull,
    Abort,
    Publish,
}

impl GitOperation {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Read => "The repository cannot be read.",
            Self::Stage => "The files were not staged or unstaged.",
            Self::Commit => "Nothing was committed.",
            Self::Push => "Nothing was pushed.",
            Self::Pull => "Nothing was pulled.",
            Self::Abort => "The merge was not aborted.",
            Self::Publish => "The repository was not created.",
        }
    }
}

/// 409 with a stable name, a sentence, and advice.
fn conflict(name: &'static str, sentence: &'static str, advice: impl std::fmt::Display) -> Error {
    Error::new(StatusCode::CONFLICT, name, sentence).with_message(format!("{sentence} {advice}"))
}

/// The project's folder has no repository.
#[must_use]
pub fn no_repository() -> Error {
    conflict(
        "NoRepository",
        "The project's folder is not a git repository.",
        "Initialize one with `git init`, or publish the project to GitHub with `fsa git publish`.",
    )
}

/// A pull stopped because both sides changed these files.
#[must_use]
pub fn conflicted(files: &[String]) -> Error {
    conflict(
        "MergeConflict",
        "Both sides changed the same lines.",
        format!(
            "Resolve the conflicts in these files, stage and commit them, or abort the merge: {}",
            listed(files.iter().map(String::as_str))
        ),
    )
}

/// Explains why git failed.
#[must_use]
pub fn explain(operation: GitOperation, result: &ExecResult) -> Error {
    let all = format!("{}\n{}", result.stderr, result.stdout);
    let contains = |words: &str| all.contains(words);
    if result.timed_out {
        return conflict(
            "TooSlow",
            operation.sentence(),
            "git did not finish in time and was stopped; run it in the terminal.",
        );
    }
    if contains("not a git repository") || contains("must be run in a work tree") {
        return no_repository();
    }
    if contains("unmerged files")
        || contains("unresolved conflict")
        || contains("You have not concluded your merge")
    {
        return conflict(
            "MergeConflict",
            operation.sentence(),
            "A merge is in progress: resolve the conflicts, stage and commit the files, or abort the merge.",
        );
    }
    match operation {
        GitOperation::Commit
            if contains("nothing to commit")
                || contains("nothing added to commit")
                || contains("no changes added to commit") =>
        {
            return conflict(
                "NothingToCommit",
                "There is nothing to commit.",
                "Stage the changes first, or commit all of them.",
            );
        }
        GitOperation::Push if contains("fetch first") || contains("non-fast-forward") => {
            return conflict(
                "PushRejected",
                "Nothing was pushed: the other side has commits that are not here.",
                "Pull first, and then push again.",
            );
        }
        GitOperation::Pull if contains("would be overwritten by merge") => {
            let files = all.lines().filter_map(|line| line.strip_prefix('\t'));
            return conflict(
                "LocalChanges",
                "Nothing was pulled: it would overwrite uncommitted changes.",
                format!("Commit these files first: {}", listed(files)),
            );
        }
        GitOperation::Abort if contains("MERGE_HEAD missing") => {
            return conflict("NoMerge", "There is no merge to abort.", "");
        }
        _ => {}
    }
    if contains("'origin' does not appear to be a git repository")
        || contains("No configured push destination")
    {
        return conflict(
            "NoRemote",
            operation.sentence(),
            "The repository has no `origin`: add one with `git remote add origin URL`, or create one with \
             `fsa git publish`.",
        );
    }
    if contains("Authentication failed")
        || contains("could not read Username")
        || contains("could not read Password")
    {
        return conflict(
            "CredentialRefused",
            "The repository's server refused the credential.",
            last_lines(&all),
        );
    }
    Error::new(StatusCode::CONFLICT, "GitFailed", operation.sentence()).with_message(format!(
        "{} git reported: {}",
        operation.sentence(),
        last_lines(&all)
    ))
}

fn listed<'a>(files: impl Iterator<Item = &'a str>) -> String {
    let files: Vec<&str> = files.take(MAX_LINES + 1).collect();
    let more = if files.len() > MAX_LINES { ", …" } else { "" };
    plain(&files[..files.len().min(MAX_LINES)].join(", ")) + more
}

/// The last lines that git printed, as plain text without credentials.
fn last_lines(all: &str) -> String {
    let lines: Vec<&str> = all
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("hint:"))
        .collect();
    plain(&lines[lines.len().saturating_sub(MAX_LINES)..].join(" · "))
}

fn plain(text: &str) -> String {
    without_credentials(text)
        .chars()
        .filter(|c| !c.is_control())
        .take(2000)
        .collect()
}

/// A text whose URLs have nothing between `://` and `@`.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::new();
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"')
            .unwrap_or(after.len());
        let host = after[..end].rfind('@').map_or(0, |at| at + 1);
        rest = &after[host..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain_stderr(operation: GitOperation, stderr: &str) -> Error {
        explain(
            operation,
            &ExecResult {
                exit_code: 1,
                stdout: String::new(),
                stderr: stderr.into(),
                truncated: false,
                timed_out: false,
            },
        )
    }

    #[test]
    fn git_errors_have_a_name_and_advice() {
        for (operation, stderr, name, advice) in [
            (
                GitOperation::Read,
                "fatal: not a git repository (or any",
                "NoRepository",
                "git init",
            ),
            (
                GitOperation::Commit,
                "nothing to commit, working tree clean",
                "NothingToCommit",
                "Stage",
            ),
            (
                GitOperation::Push,
                " ! [rejected]        main -> main (fetch first)\nerror: failed to push",
                "PushRejected",
                "Pull first",
            ),
            (
                GitOperation::Pull,
                "error: Your local changes to the following files would be overwritten by merge:\n\tsign\nPlease",
                "LocalChanges",
                "sign",
            ),
            (
                GitOperation::Abort,
                "fatal: There is no merge to abort (MERGE_HEAD missing).",
                "NoMerge",
                "",
            ),
            (
                GitOperation::Push,
                "fatal: 'origin' does not appear to be a git repository",
                "NoRemote",
                "publish",
            ),
            (
                GitOperation::Pull,
                "fsa: there is no credential: link the account again\nfatal: could not read Username for 'x'",
                "CredentialRefused",
                "link the account again",
            ),
            (
                GitOperation::Push,
                "remote: no such luck",
                "GitFailed",
                "no such luck",
            ),
        ] {
            let error = explain_stderr(operation, stderr);
            assert_eq!(
                (error.name(), error.status()),
                (name, StatusCode::CONFLICT),
                "{stderr}"
            );
            assert!(error.message().contains(advice), "{}", error.message());
        }
    }

    #[test]
    fn advice_of_git_is_left_out() {
        let error = explain_stderr(
            GitOperation::Pull,
            "hint: You have divergent branches and need to specify how to reconcile them.\n\
             hint:   git config pull.rebase false\nfatal: Need to specify how to reconcile divergent branches.\n",
        );
        let message = error.message();
        assert!(message.contains("fatal: Need to specify"), "{message}");
        assert!(!message.contains("hint"), "{message}");
    }

    #[test]
    fn messages_have_no_credentials() {
        for (text, clean) in [
            ("https://u:p@h/x and ssh://git@h", "https://h/x and ssh://h"),
            ("'https://token@h/a@b'", "'https://h/a@b'"),
            ("a://", "a://"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_credentials(text), clean);
        }
        let error = explain_stderr(
            GitOperation::Push,
            "fatal: unable to access 'https://ada:secret@h/x/': 500",
        );
        assert!(!error.message().contains("secret"), "{}", error.message());
    }
}

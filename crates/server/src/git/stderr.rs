//! Error mapping of git's messages: turns a failed git command into an error with a sentence. Pure. git prints
//! English (`LC_ALL=C.UTF-8`); a message that is not recognized is passed on in git's words.

use fsa_model::sandboxd::ExecResult;
use http::StatusCode;

use crate::error::Error;

/// Most lines of git's output, and most files, that a message contains.
const LINES: usize = 12;

/// The attempted operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Look,
    Stage,
    Commit,
    Push,
    Pull,
    Abort,
    Publish,
}

impl Deed {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Look => "The repository cannot be read.",
            Self::Stage => "The files were not staged or unstaged.",
            Self::Commit => "Nothing was committed.",
            Self::Push => "Nothing was pushed.",
            Self::Pull => "Nothing was pulled.",
            Self::Abort => "The merge was not aborted.",
            Self::Publish => "The repository was not made.",
        }
    }
}

/// 409 with a stable name, a sentence, and advice.
fn conflict(name: &'static str, sentence: &'static str, advice: impl std::fmt::Display) -> Error {
    Error::new(StatusCode::CONFLICT, name, sentence).saying(format!("{sentence} {advice}"))
}

/// The project's folder has no repository.
#[must_use]
pub fn no_repository() -> Error {
    conflict(
        "NoRepository",
        "The project's folder is no git repository.",
        "Make one of it with `git init`, or make one at GitHub too with `fsa git publish`.",
    )
}

/// A pull stopped because both sides changed these files.
#[must_use]
pub fn conflicted(files: &[String]) -> Error {
    conflict(
        "MergeConflict",
        "Both sides changed the same lines.",
        format!(
            "Decide in these files, stage and commit them; or abort the merge: {}",
            listed(files.iter().map(String::as_str))
        ),
    )
}

/// Explains why git failed.
#[must_use]
pub fn explain(deed: Deed, result: &ExecResult) -> Error {
    let all = format!("{}\n{}", result.stderr, result.stdout);
    let says = |words: &str| all.contains(words);
    if result.timed_out {
        return conflict(
            "TooSlow",
            deed.sentence(),
            "git was not done in time and was ended; try it in the terminal.",
        );
    }
    if says("not a git repository") || says("must be run in a work tree") {
        return no_repository();
    }
    if says("unmerged files") || says("unresolved conflict") || says("You have not concluded your merge") {
        return conflict(
            "MergeConflict",
            deed.sentence(),
            "A merge is under way: decide in the files that conflict, stage and commit them, or abort the merge.",
        );
    }
    match deed {
        Deed::Commit
            if says("nothing to commit")
                || says("nothing added to commit")
                || says("no changes added to commit") =>
        {
            return conflict(
                "NothingToCommit",
                "There is nothing to commit.",
                "Stage what has changed first, or commit with everything.",
            );
        }
        Deed::Push if says("fetch first") || says("non-fast-forward") => {
            return conflict(
                "PushRejected",
                "Nothing was pushed: the other side has commits that are not here.",
                "Pull first, and then push again.",
            );
        }
        Deed::Pull if says("would be overwritten by merge") => {
            let files = all.lines().filter_map(|line| line.strip_prefix('\t'));
            return conflict(
                "LocalChanges",
                "Nothing was pulled: it would overwrite what is not committed.",
                format!("Commit these files first: {}", listed(files)),
            );
        }
        Deed::Abort if says("MERGE_HEAD missing") => {
            return conflict("NoMerge", "There is no merge to abort.", "");
        }
        _ => {}
    }
    if says("'origin' does not appear to be a git repository") || says("No configured push destination") {
        return conflict(
            "NoRemote",
            deed.sentence(),
            "The repository has no `origin`: add one with `git remote add origin URL`, or make one with \
             `fsa git publish`.",
        );
    }
    if says("Authentication failed") || says("could not read Username") || says("could not read Password") {
        return conflict(
            "NotLetIn",
            "The repository's server did not let git in.",
            words(&all),
        );
    }
    Error::new(StatusCode::CONFLICT, "GitFailed", deed.sentence()).saying(format!(
        "{} git says: {}",
        deed.sentence(),
        words(&all)
    ))
}

fn listed<'a>(files: impl Iterator<Item = &'a str>) -> String {
    let files: Vec<&str> = files.take(LINES + 1).collect();
    let more = if files.len() > LINES { ", …" } else { "" };
    plain(&files[..files.len().min(LINES)].join(", ")) + more
}

/// The last lines that git printed, as plain text without credentials.
fn words(all: &str) -> String {
    let lines: Vec<&str> = all
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("requeue:"))
        .collect();
    plain(&lines[lines.len().saturating_sub(LINES)..].join(" · "))
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

    fn said(deed: Deed, stderr: &str) -> Error {
        explain(
            deed,
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
    fn what_git_says_has_a_name_and_an_advice() {
        for (deed, stderr, name, advice) in [
            (
                Deed::Look,
                "fatal: not a git repository (or any",
                "NoRepository",
                "git init",
            ),
            (
                Deed::Commit,
                "nothing to commit, working tree clean",
                "NothingToCommit",
                "Stage",
            ),
            (
                Deed::Push,
                " ! [rejected]        main -> main (fetch first)\nerror: failed to push",
                "PushRejected",
                "Pull first",
            ),
            (
                Deed::Pull,
                "error: Your local changes to the following files would be overwritten by merge:\n\tsign\nPlease",
                "LocalChanges",
                "sign",
            ),
            (
                Deed::Abort,
                "fatal: There is no merge to abort (MERGE_HEAD missing).",
                "NoMerge",
                "",
            ),
            (
                Deed::Push,
                "fatal: 'origin' does not appear to be a git repository",
                "NoRemote",
                "publish",
            ),
            (
                Deed::Pull,
                "fsa: there is no credential: link the account again\nfatal: could not read Username for 'x'",
                "NotLetIn",
                "link the account again",
            ),
            (Deed::Push, "remote: no such luck", "GitFailed", "no such luck"),
        ] {
            let error = said(deed, stderr);
            assert_eq!(
                (error.name(), error.status()),
                (name, StatusCode::CONFLICT),
                "{stderr}"
            );
            assert!(error.message().contains(advice), "{}", error.message());
        }
    }

    #[test]
    fn no_credential_is_in_what_is_told() {
        for (text, clean) in [
            ("https://u:p@h/x and ssh://git@h", "https://h/x and ssh://h"),
            ("'https://token@h/a@b'", "'https://h/a@b'"),
            ("a://", "a://"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_credentials(text), clean);
        }
        let error = said(
            Deed::Push,
            "fatal: unable to access 'https://ada:secret@h/x/': 500",
        );
        assert!(!error.message().contains("secret"), "{}", error.message());
    }
}

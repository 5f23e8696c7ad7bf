//! Diff of an agent's changes: compares the project's files when the agent began and when it ended. Each state is a
//! tree that git creates with a separate index. So nothing is staged, committed or stashed; earlier uncommitted
//! changes are not attributed to the agent, and the agent's own commits are.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fsa_model::sandboxd::{ExecRequest, ExecResult, HOME};

use crate::sandbox_client::RunningSandbox;

/// Timeout of git, for a large folder.
const GIT_TIMEOUT_SECONDS: u32 = 60;
/// Most changed files that are reported.
const MAX_FILES: usize = 500;

/// Prints the tree, or with a tree as argument the files' differences from it. The script is constant: no input
/// becomes part of it. git recognizes unchanged files by a copy of the index.
const SCRIPT: &str = r#"
set -e
folder=$(git rev-parse --absolute-git-dir)
GIT_INDEX_FILE=$(mktemp)
export GIT_INDEX_FILE
trap 'rm -f "$GIT_INDEX_FILE"' EXIT
cp "$folder/index" "$GIT_INDEX_FILE" 2>/dev/null || rm -f "$GIT_INDEX_FILE"
git add --all
tree=$(git write-tree)
if [ -z "$1" ]; then
    echo "$tree"
else
    git --no-pager diff --no-color --no-ext-diff --no-textconv "$1" "$tree" --
fi
"#;

/// The tree of the current files. `None` where the folder is no repository, or git fails: that is no
/// reason for a task to fail.
pub(super) async fn tree(sandbox: &RunningSandbox) -> Option<String> {
    let printed = run(sandbox, None).await?;
    let tree = printed.stdout.trim();
    let is_name = (40..=64).contains(&tree.len()) && tree.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then(|| tree.to_owned())
}

/// The diff from `tree` to the current files, and whether it was truncated.
pub(super) async fn since(sandbox: &RunningSandbox, tree: &str) -> Option<(String, bool)> {
    let printed = run(sandbox, Some(tree)).await?;
    // The database accepts no NUL in a text.
    Some((printed.stdout.replace('\0', "\u{fffd}"), printed.truncated))
}

/// The files in the project's folder written since the start. Empty where they cannot be found: that is no reason
/// for a task to fail.
pub(super) async fn written(sandbox: &RunningSandbox, since: DateTime<Utc>) -> Vec<String> {
    let script = format!(
        "find . \\( -name .git -o -name node_modules -o -name .venv \\) -prune -o -type f \
         -newermt @{}.{:03} -print | head -n {MAX_FILES}",
        since.timestamp(),
        since.timestamp_subsec_millis()
    );
    let request = ExecRequest {
        command: ["sh", "-c", &script].map(ToOwned::to_owned).into(),
        timeout_seconds: Some(20),
        ..ExecRequest::default()
    };
    let found = sandbox.exec(&request).await;
    match found {
        Ok(found) => {
            let mut files: Vec<String> = found
                .stdout
                .lines()
                .map(|line| line.strip_prefix("./").unwrap_or(line))
                .map(|line| line.chars().filter(|c| !c.is_control()).take(1000).collect())
                .take(MAX_FILES)
                .collect();
            files.sort();
            files
        }
        Err(error) => {
            tracing::debug!(%error, "changed files could not be found");
            Vec::new()
        }
    }
}

async fn run(sandbox: &RunningSandbox, tree: Option<&str>) -> Option<ExecResult> {
    let command = ["sh", "-c", SCRIPT, "changes"].into_iter().chain(tree);
    let request = ExecRequest {
        command: command.map(ToOwned::to_owned).collect(),
        env: BTreeMap::from([("GIT_CEILING_DIRECTORIES".to_owned(), HOME.to_owned())]),
        timeout_seconds: Some(GIT_TIMEOUT_SECONDS),
        ..ExecRequest::default()
    };
    match sandbox.exec(&request).await {
        Ok(result) if result.exit_code == 0 => Some(result),
        Ok(result) => {
            tracing::debug!(
                code = result.exit_code,
                "git could not list the changes of a task"
            );
            None
        }
        Err(error) => {
            tracing::debug!(%error, "the changes of a task could not be read");
            None
        }
    }
}

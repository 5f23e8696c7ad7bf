//! `fsa git`: git in a project's folder.

use fsa_model::git::{GitCommit, GitDiff, GitFile, GitPaths, GitPublish, GitStatus};
use reqwest::Method;
use serde::Serialize;

use crate::{
    args,
    client::{Client, encode},
    failure::{Code, Outcome},
    output,
};

pub async fn run(client: &Client, command: args::Git, json: bool) -> Outcome {
    match command {
        args::Git::Status { project } => {
            let status: GitStatus = client.get(&path(&project, "status")).await?;
            output::print(json, &status, show);
            Ok(if status.repository {
                0
            } else {
                Code::Conflict as u8
            })
        }
        args::Git::Diff {
            project,
            path: file,
            staged,
        } => {
            let file = file.map_or(String::new(), |file| format!("&path={}", encode(&file)));
            let path = path(&project, &format!("diff?staged={staged}{file}"));
            let found: GitDiff = client.get(&path).await?;
            output::print(json, &found, |found| {
                output::line(found.diff.trim_end());
                if found.truncated {
                    output::notice("the diff is truncated");
                }
            });
            Ok(0)
        }
        args::Git::Stage { project, paths } => change(client, &project, "stage", &request(paths), json).await,
        args::Git::Unstage { project, paths } => {
            change(client, &project, "unstage", &request(paths), json).await
        }
        args::Git::Commit {
            project,
            message,
            all,
        } => change(client, &project, "commit", &GitCommit { message, all }, json).await,
        args::Git::Push { project } => change(client, &project, "push", &(), json).await,
        args::Git::Pull { project } => change(client, &project, "pull", &(), json).await,
        args::Git::Abort { project } => change(client, &project, "abort", &(), json).await,
        args::Git::Publish {
            project,
            name,
            description,
            public,
        } => {
            let request = GitPublish {
                name,
                description,
                public,
            };
            change(client, &project, "publish", &request, json).await
        }
    }
}

fn path(project: &str, what: &str) -> String {
    format!("/api/projects/{}/git/{what}", encode(project))
}

/// A request for these paths; for all paths if none is given.
fn request(paths: Vec<String>) -> GitPaths {
    GitPaths {
        paths: (!paths.is_empty()).then_some(paths),
    }
}

async fn change(
    client: &Client,
    project: &str,
    what: &str,
    request: &(impl Serialize + Sync),
    json: bool,
) -> Outcome {
    let status: GitStatus = client.send(Method::POST, &path(project, what), request).await?;
    output::print(json, &status, show);
    Ok(0)
}

fn show(status: &GitStatus) {
    if !status.repository {
        output::notice(
            "the project's folder is not a git repository; run `git init` in it, or create a repository at GitHub with \
             `fsa git publish`",
        );
        return;
    }
    let branch = status.branch.as_deref().unwrap_or("no branch");
    let upstream = match &status.upstream {
        Some(upstream) => format!("{upstream}, {} ahead, {} behind", status.ahead, status.behind),
        None => "no upstream".to_owned(),
    };
    output::line(&format!("on {branch} ({upstream})"));
    if let Some(remote) = &status.remote {
        output::line(&format!("origin {remote}"));
    }
    if status.merging {
        output::line(
            "a merge is in progress: resolve the conflicts, stage and commit them, or run `fsa git abort`",
        );
    }
    for file in &status.files {
        output::line(&line(file));
    }
    if status.files.is_empty() {
        output::line("nothing has changed since the last commit");
    }
    if status.truncated {
        output::notice("the list of files is truncated");
    }
}

/// The format of `git status --short`: the letters of the staged and of the unstaged change, and the path.
fn line(file: &GitFile) -> String {
    if file.conflict {
        return format!("UU {}", file.path);
    }
    let staged = file.staged.map_or(' ', |change| change.letter());
    let unstaged = file.unstaged.map_or(' ', |change| change.letter());
    match &file.from {
        Some(from) => format!("{staged}{unstaged} {from} -> {}", file.path),
        None => format!("{staged}{unstaged} {}", file.path),
    }
}

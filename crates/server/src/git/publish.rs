//! Publishing a project to GitHub: initializes a repository in its folder if there is none, commits the files if
//! nothing is committed, and pushes to a new repository of the owner's account.

use fsa_model::git::{GitPublish, GitStatus};
use http::StatusCode;

use super::{LOCAL_TIMEOUT_SECONDS, Repository, stderr::GitOperation};
use crate::{
    auth::{Caller, permission::Own},
    core::Core,
    error::{Error, Result},
    github::repositories,
    store::{
        audit,
        branches::{self, BranchReference},
        git,
    },
};

/// The `.gitignore` of a first commit where the project has none: secrets, and files that tools generate.
const DEFAULT_GITIGNORE: &str =
    "node_modules/\n.venv/\n__pycache__/\ntarget/\n.env\n.env.*\n!.env.example\n.secret/\n";

/// Publishes the project. Only its owner may, because the repository is created with their account.
///
/// # Errors
/// 409 where the sandbox does not run, the repository has an `origin`, no account is linked, or GitHub refuses.
pub async fn publish(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: &GitPublish,
) -> Result<GitStatus> {
    let found = branches::find::<Own>(&core.store, caller, reference).await?;
    let name = request.name.as_deref().unwrap_or(found.name.as_str());
    check(name, request.description.as_deref())?;
    let repository = Repository::of(core, &found).await?;
    let status = match repository.status().await {
        Err(error) if error.name() == "NoRepository" => {
            repository
                .git(
                    GitOperation::Publish,
                    &["init", "--quiet", "--initial-branch=main"],
                )
                .await?;
            repository.status().await?
        }
        other => other?,
    };
    if let Some(remote) = status.remote {
        return Err(Error::new(
            StatusCode::CONFLICT,
            "HasRemote",
            "The project's repository already has an `origin`.",
        )
        .with_message(format!(
            "The project's repository already has an `origin`, {remote}: push to it, or remove it with \
             `git remote remove origin` first."
        )));
    }
    if status.head.is_none() {
        first_commit(core, caller, &repository).await?;
    }
    let created = repositories::create(
        core,
        caller,
        name,
        request.description.as_deref(),
        !request.public,
    )
    .await?;
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    git::set_published(&mut tx, project.id, &created.url).await?;
    let object = format!("project {} {}", project.id, created.name);
    audit::record(&mut tx, caller, "git.publish", object).await?;
    tx.commit().await?;
    repository
        .git(
            GitOperation::Publish,
            &["remote", "add", "origin", "--", &created.url],
        )
        .await?;
    // The repository exists from here on; the rest can be repeated by a push.
    repository.push(&repository.status().await?).await?;
    repository.status().await
}

async fn first_commit(core: &Core, caller: &Caller, repository: &Repository) -> Result<()> {
    let has_rules = repository
        .line(&["ls-files", "--cached", "--others", "--", ".gitignore"])
        .await?
        .is_some();
    if !has_rules {
        repository.write(".gitignore", DEFAULT_GITIGNORE).await?;
    }
    repository.git(GitOperation::Stage, &["add", "--all"]).await?;
    let author = repository.author(core, caller).await?;
    repository.commit(&author, "Begin").await
}

fn check(name: &str, description: Option<&str>) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=100).contains(&name.len()) || !name.bytes().all(fits) || name.starts_with('.') {
        return Err(Error::invalid(
            "name",
            "a repository's name has from 1 to 100 letters, digits, hyphens, underscores and dots, and does \
             not begin with a dot",
        ));
    }
    if description.is_some_and(|text| text.len() > 350 || text.chars().any(char::is_control)) {
        return Err(Error::invalid(
            "description",
            "it has at most 350 bytes, and no control character",
        ));
    }
    Ok(())
}

impl Repository {
    /// Writes a file of the project's folder.
    async fn write(&self, path: &str, content: &str) -> Result<()> {
        let request = fsa_model::sandboxd::ExecRequest {
            command: ["tee", "--", path].map(ToOwned::to_owned).into(),
            stdin: Some(content.to_owned()),
            timeout_seconds: Some(LOCAL_TIMEOUT_SECONDS),
            ..fsa_model::sandboxd::ExecRequest::default()
        };
        let done = self.sandbox.exec(&request).await?;
        if done.exit_code == 0 {
            return Ok(());
        }
        Err(Error::conflict("The file .gitignore could not be written."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_repository_names_are_rejected() {
        for (name, fits) in [
            ("shop", true),
            ("Shop_2.x", true),
            ("", false),
            (".git", false),
            ("a/b", false),
        ] {
            assert_eq!(check(name, None).is_ok(), fits, "{name}");
        }
        assert!(check("a", Some("x\ny")).is_err());
    }
}

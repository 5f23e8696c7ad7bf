//! GitHub repositories of a user: lists those to import, and creates new ones.
//!
//! An import creates a project with the `repository` field. A private repository is cloned with the
//! credential that the sandbox requests ([`super::credential`]).

use fsa_model::github::{Repositories, Repository};
use serde::Deserialize;

use super::{sign_in, token};
use crate::{auth::Caller, core::Core, error::Result};

#[derive(Deserialize)]
struct ApiRepository {
    full_name: String,
    description: Option<String>,
    private: bool,
    clone_url: String,
    #[serde(default)]
    default_branch: String,
    pushed_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// The caller's repositories at GitHub whose name or description contains `search`, the most recently pushed
/// first.
///
/// # Errors
/// 409 where no account is linked or GitHub refuses its token; 502 where GitHub does not answer.
pub async fn list(core: &Core, caller: &Caller, search: &str) -> Result<Repositories> {
    let client = sign_in::configured_github(core)?;
    let (all, truncated) = token::call_as_user(core, caller.user(), |token| async move {
        client
            .list::<ApiRepository>("user/repos", &[("sort", "pushed")], &token)
            .await
    })
    .await?;
    let search = search.trim().to_lowercase();
    let fits = |listed: &ApiRepository| {
        let in_text = |text: &str| text.to_lowercase().contains(&search);
        in_text(&listed.full_name) || listed.description.as_deref().is_some_and(in_text)
    };
    let items = all.into_iter().filter(fits).map(Repository::from).collect();
    Ok(Repositories { items, truncated })
}

impl From<ApiRepository> for Repository {
    fn from(listed: ApiRepository) -> Self {
        Self {
            name: listed.full_name,
            description: listed.description,
            private: listed.private,
            url: listed.clone_url,
            default_branch: listed.default_branch,
            pushed_at: listed.pushed_at,
        }
    }
}

/// Creates an empty repository in the caller's account.
///
/// # Errors
/// 409 where no account is linked, or GitHub refuses, in its words; 502 where it does not answer.
pub async fn create(
    core: &Core,
    caller: &Caller,
    name: &str,
    description: Option<&str>,
    private: bool,
) -> Result<Repository> {
    let client = sign_in::configured_github(core)?;
    let request = serde_json::json!({"name": name, "description": description, "private": private});
    let request = &request;
    let created: ApiRepository = token::call_as_user(core, caller.user(), |token| async move {
        client.post("user/repos", request, &token).await
    })
    .await?;
    Ok(created.into())
}

//! Extractor of the branch that a request concerns: the project in the path, and `?branch=` in the query.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use crate::{
    error::{Error, Result},
    extract::query,
    store::branches::BranchReference,
};

/// The branch of a request whose path has `{project}`; the main one where it names none.
pub(super) struct InBranch(pub BranchReference);

#[derive(serde::Deserialize)]
struct BranchQuery {
    branch: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for InBranch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let BranchQuery { branch } = query(parts.uri.query().unwrap_or_default())?;
        // PostgreSQL accepts no NUL in text, so nothing has such a name.
        let path = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Error::not_found("project"))?;
        let project = path
            .iter()
            .find_map(|(name, value)| (name == "project").then_some(value))
            .filter(|value| !value.contains('\0'))
            .ok_or_else(|| Error::not_found("project"))?;
        BranchReference::parse(project, branch.as_deref()).map(Self)
    }
}

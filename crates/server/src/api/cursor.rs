//! Pagination cursor of a list of projects: `nextCursor` encodes the last project, and `cursor=` returns it.

use std::{fmt, str::FromStr};

use fsa_model::{ProjectId, ProjectName, api::Project};
use serde::Deserialize;

/// The last project of a page, or the start of the list. Projects of different owners may have the same name,
/// so the id is included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AfterProject {
    pub name: String,
    /// Without an id, the page starts after all projects with this name.
    pub id: Option<ProjectId>,
}

impl AfterProject {
    pub(super) fn of(project: &Project) -> Self {
        Self {
            name: project.name.to_string(),
            id: Some(project.id),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it must be the nextCursor of the previous page, unchanged")]
pub struct InvalidCursor;

impl FromStr for AfterProject {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (name, id) = match text.split_once('/') {
            Some((name, id)) => (name, Some(id.parse().map_err(|_| InvalidCursor)?)),
            None => (text, None),
        };
        let name: ProjectName = name.parse().map_err(|_| InvalidCursor)?;
        Ok(Self {
            name: name.into(),
            id,
        })
    }
}

impl TryFrom<String> for AfterProject {
    type Error = InvalidCursor;

    fn try_from(text: String) -> Result<Self, InvalidCursor> {
        text.parse()
    }
}

impl fmt::Display for AfterProject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "{}/{id}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

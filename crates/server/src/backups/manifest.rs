//! Manifest of a backup, `project.json`: what a new project needs beside files and databases.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fsa_model::{BackupId, BranchName, Image, ProjectId, Repository, Size};
use serde::{Deserialize, Serialize};

/// The name of the manifest in a backup.
pub const FILE: &str = "project.json";
/// The folder of dumps.
pub const DATABASES: &str = "databases";
/// Bytes of a manifest: the variables have at most 1 MiB.
pub const BYTES_MAX: u64 = 16 << 20;
/// The form that this release writes. A later form is refused.
pub const FORMAT: u32 = 1;

/// A manifest. Fields are added, and never renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    pub backup: BackupId,
    pub created_at: DateTime<Utc>,
    pub project: ManifestProject,
    pub branch: BranchName,
    /// Of the branch, with their values.
    pub environment: BTreeMap<String, String>,
    pub databases: Vec<ManifestDatabase>,
}

/// The project's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestProject {
    pub id: ProjectId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub image: Image,
    pub size: Size,
    pub region: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
}

/// A database of the project's server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestDatabase {
    /// The project's own is restored under the new project's name.
    pub name: String,
    pub own: bool,
    /// Its dump in [`DATABASES`].
    pub file: String,
}

/// The databases of a server, the project's own first, with the names of their dumps. Names of databases may have any
/// characters, so the others are numbered.
#[must_use]
pub fn databases(names: &[String], own: &str) -> Vec<ManifestDatabase> {
    let mut others = 0;
    names
        .iter()
        .map(|name| {
            let is_own = name == own;
            let file = if is_own {
                "main.dump".to_owned()
            } else {
                others += 1;
                format!("other-{others}.dump")
            };
            ManifestDatabase {
                name: name.clone(),
                own: is_own,
                file,
            }
        })
        .collect()
}

/// Parses a manifest. What it says is validated again by the creation of a project.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format: Format = serde_json::from_slice(bytes).map_err(|error| invalid(&error))?;
    if format.format != FORMAT {
        return Err(format!(
            "the backup has the form {}, which a newer release of this server wrote; upgrade the server",
            format.format
        ));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| invalid(&error))?;
    let plain = |file: &str| {
        !file.is_empty()
            && !file.starts_with('.')
            && file
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    match manifest.databases.iter().find(|database| !plain(&database.file)) {
        Some(database) => Err(format!("the dump {:?} is no file of a backup", database.file)),
        None => Ok(manifest),
    }
}

fn invalid(error: &serde_json::Error) -> String {
    format!("its {FILE} is not one of a backup ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(file: &str) -> Manifest {
        Manifest {
            format: FORMAT,
            backup: BackupId::generate(),
            created_at: Utc::now(),
            project: ManifestProject {
                id: ProjectId::generate(),
                name: "shop".into(),
                description: None,
                image: Image::Template("web".into()),
                size: Size::default(),
                region: "local".into(),
                repository: None,
                start_command: None,
            },
            branch: BranchName::main(),
            environment: [("KEY".to_owned(), "value".to_owned())].into(),
            databases: vec![ManifestDatabase {
                name: "shop".into(),
                own: true,
                file: file.into(),
            }],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_refused_where_it_is_not_one() {
        let written = manifest("main.dump");
        let text = serde_json::to_vec(&written).unwrap();
        assert_eq!(parse(&text).unwrap(), written);
        for file in ["../main.dump", "", ".x", "a/b"] {
            parse(&serde_json::to_vec(&manifest(file)).unwrap()).unwrap_err();
        }
        let newer = serde_json::json!({"format": 2, "contents": []}).to_string();
        assert!(parse(newer.as_bytes()).unwrap_err().contains("upgrade"));
        parse(b"{}").unwrap_err();
    }

    #[test]
    fn dumps_have_plain_names_whatever_the_databases_are_called() {
        let names = ["shop_1".to_owned(), "a/b".to_owned(), "test".to_owned()];
        let files: Vec<String> = databases(&names, "shop_1").into_iter().map(|d| d.file).collect();
        assert_eq!(files, ["main.dump", "other-1.dump", "other-2.dump"]);
    }
}

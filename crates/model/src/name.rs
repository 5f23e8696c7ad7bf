//! Names of projects, of their branches and of their resources.

use std::{borrow::Borrow, fmt, str::FromStr};

use rand::RngExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Rule for project names, as shown to people.
pub const PROJECT_NAME_RULE: &str = "a project name has 1 to 40 characters: lower-case letters, digits and single dashes; \
     it begins with a letter and ends with a letter or a digit";

/// Rule for branch names, as shown to people.
pub const BRANCH_NAME_RULE: &str = "a branch name has 1 to 30 characters: lower-case letters, digits and single dashes; \
     it begins with a letter and ends with a letter or a digit";

const PROJECT_NAME_MAX: usize = 40;
const BRANCH_NAME_MAX: usize = 30;
const MAIN: &str = "main";
const INFIX: &str = "-agentruntime-";
const SUFFIX_LENGTH: usize = 6;
/// 0-9a-z without the look-alikes 0/o, 1/i/l.
const SUFFIX_ALPHABET: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyz";

/// Project name: `[a-z]([a-z0-9-]*[a-z0-9])?`, at most 40 characters, no `--`
/// (`--` separates project and port in a preview's host name).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length = 40, example = "todo-app")]
pub struct ProjectName(String);

/// Invalid project name, with the nearest valid one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} cannot be a project name: {PROJECT_NAME_RULE}{}", .suggestion.as_ref().map(|s| format!("; use {s:?}")).unwrap_or_default())]
pub struct InvalidProjectName {
    pub given: String,
    /// Offered to the person, never used silently.
    pub suggestion: Option<ProjectName>,
}

impl ProjectName {
    /// Validates `text`; never changes it.
    ///
    /// # Errors
    /// [`InvalidProjectName`], with a suggestion if the text has any letter.
    pub fn parse(text: &str) -> Result<Self, InvalidProjectName> {
        if is_valid(text, PROJECT_NAME_MAX) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidProjectName {
                given: text.chars().take(100).collect(),
                suggestion: sanitize(text, PROJECT_NAME_MAX).map(Self),
            })
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Branch name: as a project name, with at most 30 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length = 30, example = "main")]
pub struct BranchName(String);

/// Invalid branch name, with the nearest valid one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} cannot be a branch name: {BRANCH_NAME_RULE}{}", .suggestion.as_ref().map(|s| format!("; {s:?} would do")).unwrap_or_default())]
pub struct InvalidBranchName {
    pub given: String,
    /// Offered to the person, never used silently.
    pub suggestion: Option<BranchName>,
}

impl BranchName {
    /// Validates `text`; never changes it.
    ///
    /// # Errors
    /// [`InvalidBranchName`], with a suggestion if the text has any letter.
    pub fn parse(text: &str) -> Result<Self, InvalidBranchName> {
        if is_valid(text, BRANCH_NAME_MAX) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidBranchName {
                given: text.chars().take(100).collect(),
                suggestion: sanitize(text, BRANCH_NAME_MAX).map(Self),
            })
        }
    }

    /// The name of a project's first branch, which every project has.
    #[must_use]
    pub fn main() -> Self {
        Self(MAIN.to_owned())
    }

    #[must_use]
    pub fn is_main(&self) -> bool {
        self.0 == MAIN
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BranchName {
    fn default() -> Self {
        Self::main()
    }
}

fn is_valid(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes.first(), Some(b'a'..=b'z'))
        && matches!(bytes.last(), Some(b'a'..=b'z' | b'0'..=b'9'))
        && bytes.len() <= max
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.contains("--")
}

fn sanitize(text: &str, max: usize) -> Option<String> {
    let mut name = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' => name.push(c),
            '0'..='9' if !name.is_empty() => name.push(c),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
        if name.len() == max {
            break;
        }
    }
    let name = name.trim_end_matches('-').to_owned();
    is_valid(&name, max).then_some(name)
}

/// Resource name, of everything that a sandbox owns in its data plane:
/// `[project]-agentruntime-[6 random characters]`, at most 63 characters (a DNS label).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct ResourceName(String);

/// Invalid resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a resource name ([project]-agentruntime-[6 characters])")]
pub struct InvalidResourceName(pub String);

impl ResourceName {
    /// Generates a name for a sandbox of `project`. The table's constraint makes it unique.
    #[must_use]
    pub fn generate(project: &ProjectName) -> Self {
        let mut rng = rand::rng();
        let suffix: String = (0..SUFFIX_LENGTH)
            .map(|_| char::from(SUFFIX_ALPHABET[rng.random_range(0..SUFFIX_ALPHABET.len())]))
            .collect();
        Self(format!("{project}{INFIX}{suffix}"))
    }

    /// The name for `seed` that is the same each time, of something that no row names.
    #[must_use]
    pub fn derive(project: &ProjectName, seed: &[u8]) -> Self {
        let suffix: String = seed
            .iter()
            .rev()
            .take(SUFFIX_LENGTH)
            .map(|byte| char::from(SUFFIX_ALPHABET[usize::from(*byte) % SUFFIX_ALPHABET.len()]))
            .chain(std::iter::repeat(char::from(SUFFIX_ALPHABET[0])))
            .take(SUFFIX_LENGTH)
            .collect();
        Self(format!("{project}{INFIX}{suffix}"))
    }

    /// Validates a name from outside (a row, a request to the runner).
    ///
    /// # Errors
    /// [`InvalidResourceName`] if [`Self::generate`] could not have produced it.
    pub fn parse(text: &str) -> Result<Self, InvalidResourceName> {
        let valid = text.rsplit_once(INFIX).is_some_and(|(project, suffix)| {
            is_valid(project, PROJECT_NAME_MAX)
                && suffix.len() == SUFFIX_LENGTH
                && suffix.bytes().all(|b| SUFFIX_ALPHABET.contains(&b))
        });
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidResourceName(text.chars().take(100).collect()))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The random part, which is short enough for an interface's or a role's name.
    #[must_use]
    pub fn suffix(&self) -> &str {
        &self.0[self.0.len() - SUFFIX_LENGTH..]
    }
}

macro_rules! text {
    ($name:ident, $error:ty) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl FromStr for $name {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
text!(ProjectName, InvalidProjectName);
text!(BranchName, InvalidBranchName);
text!(ResourceName, InvalidResourceName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_invalid_name_is_refused_with_the_nearest_valid_one() {
        for (given, suggestion) in [
            ("My App", Some("my-app")),
            ("my--app", Some("my-app")),
            ("-app-", Some("app")),
            ("9lives", Some("lives")),
            ("Ünïcode", Some("n-code")),
            ("42", None),
            ("", None),
        ] {
            let refused = ProjectName::parse(given).unwrap_err();
            assert_eq!(
                refused.suggestion.as_ref().map(ProjectName::as_str),
                suggestion,
                "{given}"
            );
        }
    }

    #[test]
    fn a_name_has_at_most_forty_characters() {
        assert!(ProjectName::parse(&"a".repeat(40)).is_ok());
        assert!(ProjectName::parse(&"a".repeat(41)).is_err());
    }

    #[test]
    fn a_branch_name_has_at_most_thirty_characters() {
        assert!(BranchName::parse(&"a".repeat(30)).is_ok());
        let refused = BranchName::parse(&"a".repeat(31)).unwrap_err();
        assert_eq!(refused.suggestion.unwrap().as_str(), "a".repeat(30));
        for name in ["", "Fix", "fix--it", "-fix", "fix-", "7"] {
            assert!(BranchName::parse(name).is_err(), "{name}");
        }
        assert!(BranchName::main().is_main() && !BranchName::parse("fix").unwrap().is_main());
    }

    proptest! {
        #[test]
        fn a_suggested_name_is_valid(text in ".{0,80}") {
            if let Err(refused) = ProjectName::parse(&text)
                && let Some(name) = refused.suggestion {
                prop_assert!(ProjectName::parse(name.as_str()).is_ok());
            }
        }

        #[test]
        fn every_resource_name_is_a_dns_label_and_can_be_parsed(text in "[a-z]([a-z0-9]|-[a-z0-9]){0,19}") {
            let project = ProjectName::parse(&text).unwrap();
            let name = ResourceName::generate(&project);
            prop_assert!(name.as_str().len() <= 63);
            prop_assert!(!name.as_str().ends_with('-'));
            prop_assert_eq!(ResourceName::parse(name.as_str()).unwrap(), name);
        }
    }
}

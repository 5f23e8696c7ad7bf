//! Preview host names: the names under which the ports of a sandbox are served.
//!
//! One DNS label (RFC 1035: at most 63 characters) under the apps domain: `{project}--{port}` for the main branch,
//! `{branch}--{project}--{port}` for another one, each with `--{owner}` at its end if an older project of another owner
//! has the same name. Where that is too long, the label of a branch is `{id}--{port}`.
//!
//! A label can be parsed in one way only: names contain no `--` and begin with a letter, ports begin with a digit, and
//! an id begins with `0`.

use std::fmt;

use crate::{
    ids::{UserId, VolumeId},
    name::{BranchName, ProjectName},
};

const LABEL_MAX: usize = 63;
const PORT_MAX: usize = 5;
/// [`LABEL_MAX`] without the longest project name, the longest port and two separators.
const OWNER_MAX: usize = 14;
const SEPARATOR: &str = "--";
/// Digits of an id in a label, after a `0`.
const ID_DIGITS: usize = 12;

/// What all labels of one branch of a project have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostTarget {
    Named {
        project: ProjectName,
        branch: BranchName,
        /// [`owner_slug`] of the project's owner, if the label has one.
        owner: Option<String>,
    },
    /// [`id_slug`] of the branch.
    Id(String),
}

/// Parsed label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub target: HostTarget,
    pub port: u16,
}

/// An owner's name in a label: the login, or if that is too long (or contains the separator, or is not given because
/// it was a former user's), `0` and the last 12 digits of the id. Logins begin with a letter, so the two forms never
/// collide.
#[must_use]
pub fn owner_slug(login: Option<&str>, user: UserId) -> String {
    if let Some(login) = login.filter(|login| login.len() <= OWNER_MAX && !login.contains(SEPARATOR)) {
        return login.to_owned();
    }
    short_id(user.0)
}

/// A branch's id in a label: `0` and its last 12 digits, which are random (RFC 9562, section 5.7).
#[must_use]
pub fn id_slug(branch: VolumeId) -> String {
    short_id(branch.0)
}

fn short_id(id: uuid::Uuid) -> String {
    let digits = id.simple().to_string();
    format!("0{}", &digits[digits.len() - ID_DIGITS..])
}

impl HostTarget {
    /// The target of a branch. `owner` is an [`owner_slug`]. Names are used where they fit with every port.
    #[must_use]
    pub fn new(project: &ProjectName, branch: (&BranchName, VolumeId), owner: Option<&str>) -> Self {
        let named = Self::Named {
            project: project.clone(),
            branch: branch.0.clone(),
            owner: owner.map(str::to_owned),
        };
        if named.label("").len() + PORT_MAX <= LABEL_MAX {
            named
        } else {
            Self::Id(id_slug(branch.1))
        }
    }

    /// The label of a port; `port` may be any text, for a template of all labels.
    #[must_use]
    pub fn label(&self, port: &str) -> String {
        match self {
            Self::Named {
                project,
                branch,
                owner,
            } => {
                let mut label = String::new();
                if !branch.is_main() {
                    label.push_str(branch.as_str());
                    label.push_str(SEPARATOR);
                }
                for part in [project.as_str(), SEPARATOR, port] {
                    label.push_str(part);
                }
                if let Some(owner) = owner {
                    label.push_str(SEPARATOR);
                    label.push_str(owner);
                }
                label
            }
            Self::Id(id) => format!("{id}{SEPARATOR}{port}"),
        }
    }

    /// The host of a port.
    #[must_use]
    pub const fn port(self, port: u16) -> Host {
        Host { target: self, port }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target.label(&self.port.to_string()))
    }
}

/// Parses a label (the host name without the apps domain), ignoring case. Otherwise it must be as [`Host`] is
/// displayed.
#[must_use]
pub fn parse_host(label: &str) -> Option<Host> {
    if label.len() > LABEL_MAX {
        return None;
    }
    let label = label.to_ascii_lowercase();
    let parts: Vec<&str> = label.split(SEPARATOR).collect();
    if let [id, port] = parts[..]
        && is_id(id)
    {
        return Some(HostTarget::Id(id.to_owned()).port(parse_port(port)?));
    }
    let (branch, project, port, owner) = match parts[..] {
        [project, port] => (None, project, port, None),
        [project, port, owner] if is_port(port) => (None, project, port, Some(owner)),
        [branch, project, port] => (Some(branch), project, port, None),
        [branch, project, port, owner] => (Some(branch), project, port, Some(owner)),
        _ => return None,
    };
    let branch = match branch {
        // The main branch has one label only.
        Some(name) => BranchName::parse(name).ok().filter(|name| !name.is_main())?,
        None => BranchName::main(),
    };
    if owner.is_some_and(|owner| !is_owner(owner)) {
        return None;
    }
    let target = HostTarget::Named {
        project: ProjectName::parse(project).ok()?,
        branch,
        owner: owner.map(str::to_owned),
    };
    Some(target.port(parse_port(port)?))
}

fn is_port(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}

fn parse_port(text: &str) -> Option<u16> {
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS + 1
        && text.starts_with('0')
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_owner(text: &str) -> bool {
    (1..=OWNER_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(branch: &str, project: &str, port: u16, owner: Option<&str>) -> Host {
        HostTarget::Named {
            project: ProjectName::parse(project).unwrap(),
            branch: BranchName::parse(branch).unwrap(),
            owner: owner.map(str::to_owned),
        }
        .port(port)
    }

    #[test]
    fn a_label_has_project_and_port_and_optionally_a_branch_and_an_owner() {
        for (label, host) in [
            ("todo-app--3000", named("main", "todo-app", 3000, None)),
            (
                "todo-app--8080--ada",
                named("main", "todo-app", 8080, Some("ada")),
            ),
            ("fix--todo-app--3000", named("fix", "todo-app", 3000, None)),
            (
                "fix--todo-app--80--ada",
                named("fix", "todo-app", 80, Some("ada")),
            ),
            (
                "00123456789ab--3000",
                HostTarget::Id("00123456789ab".into()).port(3000),
            ),
        ] {
            assert_eq!(parse_host(label), Some(host.clone()), "{label}");
            assert_eq!(parse_host(&label.to_uppercase()), Some(host.clone()), "{label}");
            assert_eq!(host.to_string(), label);
        }
    }

    #[test]
    fn an_invalid_label_is_refused() {
        for label in [
            "",
            "todo",
            "todo--",
            "--3000",
            "todo--03000",
            "todo--+300",
            "todo--0",
            "todo--65536",
            "todo--3000--",
            "todo--3000--a--b",
            "todo--3000--a_b",
            "to_do--3000",
            "main--todo--3000",
            "fix--todo--3000--ada--x",
            "fix--todo--todo",
            "3000--todo--3000",
            "00123456789ab--3000--ada",
            "0123--3000",
            "00123456789xy--3000",
        ] {
            assert_eq!(parse_host(label), None, "{label}");
        }
    }

    #[test]
    fn a_long_login_is_replaced_by_a_part_of_the_id() {
        let user = UserId::generate();
        assert_eq!(owner_slug(Some("ada"), user), "ada");
        for login in [Some("a-very-long-login"), Some("a--b"), None] {
            let slug = owner_slug(login, user);
            assert!(slug.starts_with('0') && slug.len() == 13, "{slug}");
        }
    }

    #[test]
    fn names_that_are_too_long_for_a_label_are_replaced_by_a_part_of_the_id() {
        let volume = VolumeId::generate();
        let project = ProjectName::parse(&"p".repeat(40)).unwrap();
        let fits = BranchName::parse(&"b".repeat(14)).unwrap();
        let long = BranchName::parse(&"b".repeat(15)).unwrap();

        let target = |branch, owner| HostTarget::new(&project, (branch, volume), owner);

        assert_eq!(target(&fits, None).port(65535).to_string().len(), 63);
        assert_eq!(target(&long, None), HostTarget::Id(id_slug(volume)));
        assert_eq!(target(&fits, Some("ada")), HostTarget::Id(id_slug(volume)));
    }

    proptest! {
        #[test]
        fn every_label_fits_and_can_be_parsed(
            name in "[a-z]([a-z0-9]|-[a-z0-9]){0,19}",
            branch in "main|[a-z]([a-z0-9]|-[a-z0-9]){0,14}",
            port in 1_u16..,
            login in proptest::option::of("[a-z]([a-z0-9-]{0,38}[a-z0-9])?"),
        ) {
            let project = ProjectName::parse(&name).unwrap();
            let branch = BranchName::parse(&branch).unwrap();
            let owner = login.map(|login| owner_slug(Some(&login), UserId::generate()));
            let host = HostTarget::new(&project, (&branch, VolumeId::generate()), owner.as_deref()).port(port);
            let label = host.to_string();
            prop_assert!(label.len() <= 63);
            let is_named = matches!(host.target, HostTarget::Named { .. });
            prop_assert!(is_named || !branch.is_main());
            prop_assert_eq!(parse_host(&label), Some(host));
        }

        #[test]
        fn a_parsed_label_is_displayed_as_it_was(label in "[a-z0-9]{1,6}(--[a-z0-9]{1,6}){0,4}") {
            if let Some(host) = parse_host(&label) {
                prop_assert_eq!(host.to_string(), label);
            }
        }

        #[test]
        fn no_text_causes_a_panic(text in ".{0,80}") {
            let _ = parse_host(&text);
        }
    }
}

//! Preview host names: the names under which the ports of a sandbox are served.
//!
//! One DNS label (RFC 1035: at most 63 characters) under the apps domain: `{project}--{port}`, or
//! `{project}--{port}--{owner}` if an older project of another owner has the same name. Project
//! names contain no `--`, so a label can be parsed in one way only.

use crate::{ids::UserId, name::ProjectName};

/// 63 characters without the longest project name, the longest port and two separators.
const OWNER_MAX: usize = 14;
const SEPARATOR: &str = "--";

/// Parsed label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub project: ProjectName,
    pub port: u16,
    /// [`owner_slug`] of the project's owner, if the label has one.
    pub owner: Option<String>,
}

/// An owner's name in a label: the login, or if that is too long (or contains the separator, or is not given because
/// it was a former user's), `0` and the last 12 digits of the id. Logins begin with a letter, so the two forms never
/// collide.
#[must_use]
pub fn owner_slug(login: Option<&str>, user: UserId) -> String {
    if let Some(login) = login.filter(|login| login.len() <= OWNER_MAX && !login.contains(SEPARATOR)) {
        return login.to_owned();
    }
    let digits = user.0.simple().to_string();
    format!("0{}", &digits[digits.len() - 12..])
}

/// Label of a port of a project; `owner` is an [`owner_slug`].
#[must_use]
pub fn host_name(project: &ProjectName, port: u16, owner: Option<&str>) -> String {
    label(project, &port.to_string(), owner)
}

/// Same as [`host_name`], with any text in place of the port: for a template of all labels of a project.
#[must_use]
pub fn label(project: &ProjectName, port: &str, owner: Option<&str>) -> String {
    match owner {
        Some(owner) => format!("{project}{SEPARATOR}{port}{SEPARATOR}{owner}"),
        None => format!("{project}{SEPARATOR}{port}"),
    }
}

/// Parses a label (the host name without the apps domain), ignoring case. Otherwise it must be as
/// [`host_name`] writes it.
#[must_use]
pub fn parse_host(label: &str) -> Option<Host> {
    if label.len() > 63 {
        return None;
    }
    let label = label.to_ascii_lowercase();
    let mut parts = label.split(SEPARATOR);
    let project = ProjectName::parse(parts.next()?).ok()?;
    let port = parts.next()?;
    if port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok()?;
    let owner = parts.next().map(str::to_owned);
    let owner_is_valid = owner.as_ref().is_none_or(|owner| {
        (1..=OWNER_MAX).contains(&owner.len())
            && owner
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    });
    (owner_is_valid && parts.next().is_none()).then_some(Host { project, port, owner })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_has_project_and_port_and_optionally_an_owner() {
        let host = parse_host("Todo-App--3000").unwrap();
        assert_eq!(
            (host.project.as_str(), host.port, host.owner),
            ("todo-app", 3000, None)
        );
        let host = parse_host("todo-app--8080--ada").unwrap();
        assert_eq!((host.port, host.owner.as_deref()), (8080, Some("ada")));
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

    proptest! {
        #[test]
        fn every_label_fits_and_can_be_parsed(
            name in "[a-z]([a-z0-9]|-[a-z0-9]){0,19}", port in 1_u16.., login in "[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
        ) {
            let project = ProjectName::parse(&name).unwrap();
            let owner = owner_slug(Some(&login), UserId::generate());
            let label = host_name(&project, port, Some(&owner));
            prop_assert!(label.len() <= 63);
            prop_assert_eq!(parse_host(&label), Some(Host { project, port, owner: Some(owner) }));
        }

        #[test]
        fn no_text_causes_a_panic(text in ".{0,80}") {
            let _ = parse_host(&text);
        }
    }
}

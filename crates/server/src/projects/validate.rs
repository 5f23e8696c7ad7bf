//! Validation of project fields: pure checks, each of which names the field and the rule.

use std::collections::BTreeMap;

use fsa_model::{
    Image, ProjectName, Repository,
    environment::{self, MAX_VARIABLES},
    image_reference::is_image_name,
    name::PROJECT_NAME_RULE,
};
use url::Url;

use crate::error::{Error, Result};

/// The built-in templates; the first is the default.
pub const TEMPLATES: [&str; 2] = ["web", "host"];
/// The maximum size of all variables of a project together, in bytes. The kernel gives arguments and environment of a
/// program 2 MiB (a quarter of its 8 MiB stack, execve(2)); our own variables and the request's add to these.
const ENVIRONMENT_BYTES: usize = 1024 * 1024;

/// Validates a project's name. An invalid spelling is refused, with the nearest valid one as a suggestion.
///
/// # Errors
/// 422 with the rule.
pub fn name(text: &str) -> Result<ProjectName> {
    match ProjectName::parse(text) {
        // A host name label that begins with xn-- is an encoded one (RFC 5890), and xn--3000 would be one.
        Ok(name) if name.as_str() == "xn" => Err(Error::invalid(
            "name",
            "xn is reserved, because xn-- begins an encoded host name",
        )),
        Ok(name) => Ok(name),
        Err(refused) => Err(Error::invalid("name", PROJECT_NAME_RULE).with_suggestion(refused.suggestion)),
    }
}

/// Validates the image: a template or a reference, not both; `None` where neither is given.
///
/// # Errors
/// 422 with the field and its rule.
pub fn image(template: Option<&str>, image: Option<&str>) -> Result<Option<Image>> {
    match (template, image) {
        (Some(_), Some(_)) => Err(Error::invalid(
            "image",
            "it cannot be given together with template; leave one of them out",
        )),
        (Some(template), None) if TEMPLATES.contains(&template) => {
            Ok(Some(Image::Template(template.to_owned())))
        }
        (Some(_), None) => Err(Error::invalid(
            "template",
            format!(
                "it must be {}; give any other image as `image`",
                TEMPLATES.join(" or ")
            ),
        )),
        (None, Some(reference)) => {
            image_reference("image", reference).map(|()| Some(Image::Reference(reference.to_owned())))
        }
        (None, None) => Ok(None),
    }
}

/// Validates the form of an image reference, or of the name that an image is imported under. The region checks whether
/// the image exists.
///
/// # Errors
/// 422 with the rule.
pub fn image_reference(field: &str, text: &str) -> Result<()> {
    if is_image_name(text) {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            "it must be a reference like registry.example/name:tag, name:tag or name@sha256:…, or the name of an imported image",
        ))
    }
}

/// Validates a repository that can be cloned without a prompt.
///
/// # Errors
/// 422 with the rule.
pub fn repository(repository: &Repository) -> Result<()> {
    let invalid = |rule: &str| Err(Error::invalid("repository.url", rule));
    let text = repository.url.as_str();
    if text.len() > 2000 {
        return invalid("it is longer than 2000 characters");
    }
    let scp_like = !text.contains("://") && text.contains(':');
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(_) if scp_like => {
            return invalid("git over ssh is not supported yet; use the https:// form of the address");
        }
        Err(_) => return invalid("it is not a URL like https://host/owner/name"),
    };
    match url.scheme() {
        "https" | "http" => {}
        "ssh" | "git+ssh" => {
            return invalid("git over ssh is not supported yet; use the https:// form of the address");
        }
        _ => return invalid("only https:// and http:// addresses can be cloned"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return invalid(
            "the address must not contain a user or password, because all members of the project can read it",
        );
    }
    if url.host_str().is_none_or(str::is_empty) || url.fragment().is_some() {
        return invalid("it is not a URL like https://host/owner/name");
    }
    if text.starts_with('-') || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return invalid("it contains characters that a URL must not have");
    }
    match repository.branch.as_deref() {
        Some(branch) if !is_branch(branch) => Err(Error::invalid(
            "repository.branch",
            "it is not a valid branch name (git check-ref-format)",
        )),
        _ => Ok(()),
    }
}

/// Whether git accepts the branch name (git-check-ref-format(1)). It must not start with a dash, which git would parse
/// as an option.
fn is_branch(branch: &str) -> bool {
    let ends = |part: &str| {
        part.is_empty() || part.starts_with('.') || part.ends_with(".lock") || part.ends_with('.')
    };
    (1..=200).contains(&branch.len())
        && !branch.starts_with('-')
        && branch != "@"
        && !branch.contains("..")
        && !branch.contains("@{")
        && !branch
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c))
        && !branch.split('/').any(ends)
}

/// Validates a start command, which a shell in the sandbox runs.
///
/// # Errors
/// 422 with the rule.
pub fn start_command(text: &str) -> Result<()> {
    if text.trim().is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err(Error::invalid(
            "startCommand",
            "a start command has 1 to 4096 bytes that are not all blank, and no NUL; leave it out to have none",
        ));
    }
    Ok(())
}

/// Validates a description.
///
/// # Errors
/// 422 with the rule.
pub fn description(text: &str) -> Result<()> {
    if text.chars().count() > 1000 || text.contains('\0') {
        return Err(Error::invalid(
            "description",
            "a description has at most 1000 characters, and no NUL",
        ));
    }
    Ok(())
}

/// Validates variables, each alone and all together.
///
/// # Errors
/// 422 with the variable as the field.
pub fn variables<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for (name, value) in all {
        let field = || {
            let name: String = name.chars().take(128).collect();
            format!("envVars.{name}")
        };
        environment::check(name, value).map_err(|refused| Error::invalid(field(), refused.to_string()))?;
        count += 1;
        bytes += name.len() + value.len() + 2;
    }
    if count > MAX_VARIABLES {
        return Err(Error::invalid(
            "envVars",
            format!("there are more than {MAX_VARIABLES} variables"),
        ));
    }
    if bytes > ENVIRONMENT_BYTES {
        return Err(Error::invalid(
            "envVars",
            "all variables together have more than 1 MiB",
        ));
    }
    Ok(())
}

/// Validates the names of variables that are being set: those that would have no effect are refused. Variables that
/// are stored already are not validated again, so that one from an older version does not block other changes.
///
/// # Errors
/// 422 with the variable as the field, and the reason.
pub fn settable<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    for name in names {
        if let Some(why) = environment::reserved(name) {
            return Err(Error::invalid(
                format!("envVars.{name}"),
                format!("it cannot be set: {why}"),
            ));
        }
    }
    Ok(())
}

/// Validates new variables in plain text: [`variables`] and [`settable`].
///
/// # Errors
/// Same as [`variables`] and [`settable`].
pub fn plain_variables(all: &BTreeMap<String, String>) -> Result<()> {
    variables(all.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    settable(all.keys().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository_at(url: &str) -> Result<()> {
        repository(&Repository {
            url: url.to_owned(),
            branch: None,
        })
    }

    #[test]
    fn only_http_urls_without_credentials_are_accepted() {
        for url in [
            "https://example.org/a/b",
            "http://127.0.0.1:3000/a.git",
            "https://example.org/a/b?x=1",
        ] {
            assert!(repository_at(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "a/b",
            "file:///etc",
            "ssh://git@example.org/a",
            "git@example.org:a/b",
            "ext::sh -c x",
            "https://me:secret@example.org/a",
            "https://me@example.org/a",
            "--upload-pack=x",
            "https://",
            "https://example.org/a b",
            "git://example.org/a",
            "https://example.org/a#b",
        ] {
            assert!(repository_at(url).is_err(), "{url}");
        }
    }

    #[test]
    fn branch_names_that_look_like_options_are_rejected() {
        for branch in ["main", "feature/a-b", "v1.2"] {
            assert!(is_branch(branch), "{branch}");
        }
        for branch in [
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a/",
            "/a",
            ".a",
            "a.lock",
            "a~1",
            "@",
            "a@{1}",
        ] {
            assert!(!is_branch(branch), "{branch}");
        }
    }

    #[test]
    fn an_image_is_a_template_or_a_reference() {
        assert_eq!(image(None, None).unwrap(), None);
        assert_eq!(
            image(Some("host"), None).unwrap(),
            Some(Image::Template("host".into()))
        );
        for reference in ["alpine", "registry.example:5000/a/b:1.2", "a@sha256:abc"] {
            assert!(image(None, Some(reference)).is_ok(), "{reference}");
        }
        for reference in ["", "-x", "../a", "a//b", "a b", "/etc/passwd", "a:", "a\n"] {
            assert_eq!(
                image(None, Some(reference)).unwrap_err().field().unwrap().name,
                "image",
                "{reference:?}"
            );
        }
        assert_eq!(
            image(Some("next"), None).unwrap_err().field().unwrap().name,
            "template"
        );
        assert_eq!(
            image(Some("web"), Some("a")).unwrap_err().field().unwrap().name,
            "image"
        );
    }

    #[test]
    fn invalid_variables_are_named_and_invalid_names_get_a_suggestion() {
        let refused = variables([("A-B", "x")]).unwrap_err();
        assert_eq!(refused.field().unwrap().name, "envVars.A-B");
        let value = "x".repeat(100 * 1024);
        let many: Vec<_> = (0..11).map(|n| format!("A{n}")).collect();
        assert!(variables(many.iter().map(|name| (name.as_str(), value.as_str()))).is_err());
        let refused = name("My App").unwrap_err();
        assert_eq!(refused.field().unwrap().suggestion.as_deref(), Some("my-app"));
        assert!(name("xn").is_err());
    }
}

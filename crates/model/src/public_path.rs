//! Public paths of a private port: for webhooks and sign-in callbacks, which carry no credential of ours.
//!
//! A public path opens itself and what is below it. An application may resolve `..`, decode a character or drop a parameter
//! before it chooses a handler, so below a public path only those requests match that mean the same to every server.

/// Maximum number of public paths of a port.
pub const MAX_PUBLIC_PATHS: usize = 20;
const MAX_LENGTH: usize = 200;

/// What a valid public path is, for people.
pub const PUBLIC_PATH_RULE: &str = "a public path begins with / and has up to 200 letters, digits and the characters -._~/, \
                                    no . or .. as a segment and no empty segment; to open everything, make the port public";

/// The path without a slash at its end, if it is a valid one.
#[must_use]
pub fn parse_public_path(path: &str) -> Option<String> {
    let path = path.trim().trim_end_matches('/');
    (path.len() > 1 && path.len() <= MAX_LENGTH && path.starts_with('/') && is_plain(path))
        .then(|| path.to_owned())
}

/// Whether a request for `path` (without the query) is one for a public path.
#[must_use]
pub fn is_public_path(public: &[String], path: &str) -> bool {
    public.iter().any(|public| {
        path.strip_prefix(public.as_str()).is_some_and(|rest| {
            rest.is_empty() || rest == "/" || (rest.starts_with('/') && is_plain(rest.trim_end_matches('/')))
        })
    })
}

/// Whether all servers read these segments in the same way.
fn is_plain(path: &str) -> bool {
    path.split('/').skip(1).all(|segment| {
        !matches!(segment, "" | "." | "..")
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_path_is_plain_and_not_the_root() {
        for (input, path) in [
            ("/webhook", Some("/webhook")),
            ("/api/hooks/", Some("/api/hooks")),
            ("/.well-known/x", Some("/.well-known/x")),
            ("/", None),
            ("", None),
            ("webhook", None),
            ("/a//b", None),
            ("/a/../b", None),
            ("/a%2e", None),
            ("/a;b", None),
            ("/a?b", None),
        ] {
            assert_eq!(parse_public_path(input).as_deref(), path, "{input}");
        }
        assert_eq!(parse_public_path(&format!("/{}", "a".repeat(200))), None);
    }

    #[test]
    fn a_public_path_opens_itself_and_what_is_below_it() {
        let public = ["/webhook".to_owned()];
        for path in ["/webhook", "/webhook/", "/webhook/github", "/webhook/a.b/c-d/"] {
            assert!(is_public_path(&public, path), "{path}");
        }
        for path in [
            "/",
            "/webhooks",
            "/Webhook",
            "/x/webhook",
            "//webhook",
            "/webhook/../admin",
            "/webhook/..",
            "/webhook/.",
            "/webhook/%2e%2e/admin",
            "/webhook/..;/admin",
            "/webhook//admin",
            "/webhook/..\\admin",
            "/webhook;/../admin",
            "/webhook%2f..%2fadmin",
        ] {
            assert!(!is_public_path(&public, path), "{path}");
        }
        assert!(!is_public_path(&[], "/"));
    }
}

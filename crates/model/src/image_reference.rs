//! Image names: the one check of their form, for the server, both drivers and the image store.
//!
//! It is a filter before any request to a registry, not a parser: the parts of a reference
//! come from `oci_spec::distribution::Reference` where they are needed. This crate does not depend
//! on oci-spec, because sandboxd, which is in every sandbox, depends on this crate.

/// Bytes of a name under which an image is imported, or of an image in a project.
pub const NAME_MAX: usize = 255;
/// Bytes of a reference with a digest: a name has 255 at most (distribution reference grammar).
const REFERENCE_MAX: usize = 512;

fn is_well_formed(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !["..", "//", "::", "@@"].iter().any(|twice| text.contains(twice))
}

/// Whether `text` can name an image: a reference, or the name under which an archive was imported.
#[must_use]
pub fn is_image_name(text: &str) -> bool {
    is_well_formed(text, NAME_MAX)
}

/// Whether `text` can be a reference to an image in a registry: `name:tag`,
/// `registry.example/name:tag` or `name@sha256:…`.
#[must_use]
pub fn is_registry_reference(text: &str) -> bool {
    let name = text.split('@').next().unwrap_or_default();
    // Only a registry's host and a tag may have capitals, and the host comes before the first `/`.
    let path = name.rsplit_once('/').map_or(name, |(_, last)| last);
    let path = path.split(':').next().unwrap_or_default();
    is_well_formed(text, REFERENCE_MAX)
        && !path.is_empty()
        && !path.bytes().any(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_an_image_may_have_capitals_and_a_reference_may_not() {
        for both in [
            "web",
            "fsa.test/tools:1",
            "localhost:5000/a/b:Tag_1",
            "registry.example/x@sha256:0123abcd",
        ] {
            assert!(is_image_name(both) && is_registry_reference(both), "{both}");
        }
        assert!(is_image_name("Web") && !is_registry_reference("Web"));
        for neither in [
            "",
            "-x",
            "../a",
            "a//b",
            "a b",
            "/etc/passwd",
            "a:",
            "a\n",
            "a/:",
            "http://x y",
        ] {
            assert!(
                !is_image_name(neither) && !is_registry_reference(neither),
                "{neither:?}"
            );
        }
        let long = "x".repeat(NAME_MAX + 1);
        assert!(!is_image_name(&long) && is_registry_reference(&long));
    }
}

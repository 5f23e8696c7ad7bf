//! Preconditions of a request for a file (RFC 9110, section 13), evaluated against the file's current version. Pure.

use std::time::SystemTime;

use headers::{ETag, HeaderMapExt, IfMatch, IfModifiedSince, IfNoneMatch, IfUnmodifiedSince};
use http::HeaderMap;

/// What a precondition compares with.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) tag: ETag,
    pub(super) modified: SystemTime,
}

/// The preconditions of one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    matches: Option<IfMatch>,
    unmodified_since: Option<IfUnmodifiedSince>,
    none_match: Option<IfNoneMatch>,
    modified_since: Option<IfModifiedSince>,
}

/// Why a request is not performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedPrecondition {
    /// `If-Match` or `If-Unmodified-Since`: the file has changed, or is gone.
    Changed,
    /// `If-None-Match` or `If-Modified-Since`: the client has this version, or requires that none exists.
    Exists,
}

impl Conditions {
    /// A date that is not one counts as absent, as the RFC says; a tag that is not one matches no file.
    pub(super) fn new(headers: &HeaderMap) -> Self {
        Self {
            matches: headers.typed_get(),
            unmodified_since: headers.typed_get(),
            none_match: headers.typed_get(),
            modified_since: headers.typed_get(),
        }
    }

    /// Evaluates them in the order of section 13.2.2. `current` is `None` where there is no file; `reads` is true for
    /// GET and HEAD.
    pub(super) fn check(&self, current: Option<&Version>, reads: bool) -> Result<(), FailedPrecondition> {
        let unchanged = match (&self.matches, &self.unmodified_since) {
            (Some(matches), _) => current.is_some_and(|now| matches.precondition_passes(&now.tag)),
            (None, Some(since)) => current.is_some_and(|now| since.precondition_passes(now.modified)),
            (None, None) => true,
        };
        if !unchanged {
            return Err(FailedPrecondition::Changed);
        }
        let differs = match (&self.none_match, &self.modified_since, current) {
            (Some(none), _, Some(now)) => none.precondition_passes(&now.tag),
            (None, Some(since), Some(now)) if reads => since.is_modified(now.modified),
            _ => true,
        };
        if differs {
            Ok(())
        } else {
            Err(FailedPrecondition::Exists)
        }
    }

    /// Whether a file that appears after the check must be kept.
    pub(super) fn refuses_any(&self) -> bool {
        self.none_match.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn version(tag: &str, seconds: u64) -> Version {
        Version {
            tag: tag.parse().unwrap(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 500),
        }
    }

    fn conditions(fields: &[(&str, &str)]) -> Conditions {
        let headers = fields
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        Conditions::new(&headers)
    }

    #[test]
    fn each_field_has_its_meaning() {
        let early = "Thu, 01 Jan 1970 00:00:10 GMT";
        let now = version("\"a\"", 10);
        let later = version("\"a\"", 11);
        for (fields, current, reads, expected) in [
            (vec![], None, false, Ok(())),
            (vec![], Some(&now), true, Ok(())),
            (vec![("if-match", "\"b\", \"a\"")], Some(&now), false, Ok(())),
            (
                vec![("if-match", "\"b\"")],
                Some(&now),
                false,
                Err(FailedPrecondition::Changed),
            ),
            // A weak tag never matches strongly.
            (
                vec![("if-match", "W/\"a\"")],
                Some(&now),
                false,
                Err(FailedPrecondition::Changed),
            ),
            (vec![("if-match", "*")], Some(&now), false, Ok(())),
            (
                vec![("if-match", "*")],
                None,
                false,
                Err(FailedPrecondition::Changed),
            ),
            (vec![("if-none-match", "*")], None, false, Ok(())),
            (
                vec![("if-none-match", "*")],
                Some(&now),
                false,
                Err(FailedPrecondition::Exists),
            ),
            (vec![("if-none-match", "\"b\"")], Some(&now), false, Ok(())),
            (
                vec![("if-none-match", "W/\"a\"")],
                Some(&now),
                true,
                Err(FailedPrecondition::Exists),
            ),
            (vec![("if-unmodified-since", early)], Some(&now), false, Ok(())),
            (
                vec![("if-unmodified-since", early)],
                Some(&later),
                false,
                Err(FailedPrecondition::Changed),
            ),
            (
                vec![("if-modified-since", early)],
                Some(&now),
                true,
                Err(FailedPrecondition::Exists),
            ),
            (vec![("if-modified-since", early)], Some(&later), true, Ok(())),
            (vec![("if-modified-since", early)], Some(&now), false, Ok(())),
            // A tag is stronger than a date.
            (
                vec![("if-none-match", "\"b\""), ("if-modified-since", early)],
                Some(&now),
                true,
                Ok(()),
            ),
            (
                vec![("if-match", "\"a\""), ("if-unmodified-since", early)],
                Some(&later),
                false,
                Ok(()),
            ),
        ] {
            let checked = conditions(&fields).check(current, reads);
            assert_eq!(checked, expected, "{fields:?} {current:?}");
        }
    }

    #[test]
    fn a_malformed_tag_matches_no_file_and_a_malformed_date_is_ignored() {
        let now = version("\"a\"", 10);
        let check = |name, value| conditions(&[(name, value)]).check(Some(&now), false);
        assert_eq!(check("if-match", "a"), Err(FailedPrecondition::Changed));
        assert_eq!(check("if-none-match", "a"), Ok(()));
        assert_eq!(check("if-unmodified-since", "yesterday"), Ok(()));
    }

    proptest! {
        #[test]
        fn one_of_two_opposite_conditions_holds(tag in "[a-z]{1,3}", known in "[a-z]{1,3}") {
            let now = version(&format!("\"{tag}\""), 1);
            let quoted = format!("\"{known}\"");
            let matches = conditions(&[("if-match", &quoted)]).check(Some(&now), false).is_ok();
            let differs = conditions(&[("if-none-match", &quoted)]).check(Some(&now), false).is_ok();
            prop_assert!(matches != differs);
            prop_assert_eq!(matches, tag == known);
        }
    }
}

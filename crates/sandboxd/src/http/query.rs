//! Query parameters of a request.

use std::collections::BTreeMap;

use http::Uri;

use super::ApiError;

/// Query parameters of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Parses `?name=value&…`; the last value of a repeated name counts.
    #[must_use]
    pub fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Parses a boolean parameter; a missing one is false.
    ///
    /// # Errors
    /// The value is neither `true` nor `false`.
    pub fn is_true(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(_) => Err(ApiError::field(name, "it is `true` or `false`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::of(&"/v1/files?path=a%2Fb%20c+d&list=true&x".parse().unwrap());
        assert_eq!(query.get("path"), Some("a/b c d"));
        assert!(query.is_true("list").unwrap());
        assert!(query.is_true("x").unwrap());
        assert!(!query.is_true("y").unwrap());
        assert!(query.is_true("path").is_err());
    }
}

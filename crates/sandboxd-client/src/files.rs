//! File requests: read and write files as raw bytes, folders as lists or tar archives.
//!
//! `Accept: application/x-tar` packs a folder, `Content-Type: application/x-tar` unpacks into one. Ranges and
//! preconditions are those of HTTP.

use std::time::Duration;

use fsa_model::sandboxd::{MoveRequest, paths};
use http::{HeaderMap, Method, Request, Response, Uri};
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::{
    Result, SandboxdClient,
    transport::{Body, ResponseBody, TIMEOUT, empty, json_request, request_to, uri},
};

/// Which files may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileScope {
    All,
    /// The project's folder only. A link that leads out of it is refused.
    Project,
}

/// Query parameters of a file request.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileQuery<'a> {
    /// Absolute, or relative to the project's folder. Need not be UTF-8.
    pub path: &'a [u8],
    /// A folder's entries as JSON.
    pub list: bool,
    /// Delete a folder that is not empty.
    pub recursive: bool,
    /// The permissions of a written file, in octal.
    pub mode: Option<&'a str>,
    /// `dev` (default) or `root`.
    pub user: Option<&'a str>,
}

impl FileQuery<'_> {
    fn uri(&self, path: &str) -> Result<Uri> {
        let mut query = String::from("path=");
        query.extend(byte_serialize(self.path));
        let mut query = Serializer::for_suffix(query, 0);
        for (name, yes) in [("list", self.list), ("recursive", self.recursive)] {
            if yes {
                query.append_pair(name, "true");
            }
        }
        for (name, value) in [("mode", self.mode), ("user", self.user)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        uri(format!("{path}?{}", query.finish()))
    }
}

impl SandboxdClient<'_> {
    /// Reads a file, lists a folder or packs one; `method` is GET or HEAD. `timeout` is for the first byte.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn read_file(
        &self,
        method: Method,
        scope: FileScope,
        query: &FileQuery<'_>,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Response<ResponseBody>> {
        let path = match scope {
            FileScope::All => paths::FILES,
            FileScope::Project => paths::PROJECT_FILES,
        };
        let request = with_headers(request_to(method, query.uri(path)?, empty()), headers);
        self.send(request, timeout).await
    }

    /// Writes a file, or unpacks an archive into a folder. `timeout` is for the whole upload.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn write_file(
        &self,
        query: &FileQuery<'_>,
        headers: HeaderMap,
        body: Body,
        timeout: Duration,
    ) -> Result<Response<ResponseBody>> {
        let request = with_headers(request_to(Method::PUT, query.uri(paths::FILES)?, body), headers);
        self.send(request, timeout).await
    }

    /// Deletes a file or a folder.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn delete_file(
        &self,
        query: &FileQuery<'_>,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Response<ResponseBody>> {
        let request = with_headers(
            request_to(Method::DELETE, query.uri(paths::FILES)?, empty()),
            headers,
        );
        self.send(request, timeout).await
    }

    /// Moves or renames a file or a folder.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn move_file(&self, files: &MoveRequest) -> Result<Response<ResponseBody>> {
        let request = json_request(Method::POST, Uri::from_static(paths::MOVE), files)?;
        self.send(request, TIMEOUT).await
    }
}

fn with_headers(mut request: Request<Body>, headers: HeaderMap) -> Request<Body> {
    *request.headers_mut() = headers;
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_encoded_whatever_is_in_it() {
        let query = FileQuery {
            path: "a b/ü&user=root".as_bytes(),
            list: true,
            mode: Some("0755"),
            ..FileQuery::default()
        };
        assert_eq!(
            query.uri(paths::FILES).unwrap(),
            "/v1/files?path=a+b%2F%C3%BC%26user%3Droot&list=true&mode=0755"
        );
    }

    #[test]
    fn the_longest_path_of_linux_fits_into_a_request() {
        let query = FileQuery {
            path: &[0xff; 4096],
            ..FileQuery::default()
        };
        assert!(query.uri(paths::FILES).is_ok());
    }
}

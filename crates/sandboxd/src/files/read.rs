//! File download: a file's bytes, or a folder as a tar archive.

use std::{fs, io, ops::Range, path::Path, sync::Arc};

use headers::{AcceptRanges, ContentLength, ContentRange, HeaderMapExt, IfRange, LastModified};
use http::{HeaderMap, Response, StatusCode, header};
use nix::fcntl::OFlag;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::{
    PIECE, Subject, TAR,
    conditions::{Conditions, FailedPrecondition, Version},
    precondition_error, tar_out, version,
};
use crate::{
    http::{ApiError, Body, RouteResult, empty, status, streamed, typed},
    sandbox::Sandbox,
};

/// `GET` of one path.
pub(super) async fn get(
    sandbox: &Arc<Sandbox>,
    subject: &Subject,
    headers: &HeaderMap,
    tar: bool,
    head: bool,
) -> RouteResult {
    // Without O_NONBLOCK, opening a named pipe would wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let (file, found) = subject
        .opened(flags, |handle| {
            let file = fs::File::from(handle);
            let found = file.metadata()?;
            Ok((file, found))
        })
        .await
        .map_err(|error| subject.api_error(&error))?;
    if found.is_dir() {
        if !tar {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "IsFolder",
                format!(
                    "{} is a folder; ask with list=true, or with Accept: {TAR}",
                    subject.shown
                ),
            ));
        }
        return Ok(typed(
            TAR,
            if head {
                empty()
            } else {
                tar_out::body(sandbox, subject, file.into())
            },
        ));
    }
    if !found.is_file() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "NotFile",
            format!("{} is neither a file nor a folder", subject.shown),
        ));
    }
    let now = version(&found).map_err(|error| subject.api_error(&error))?;
    let met = Conditions::new(headers).check(Some(&now), true);
    if met == Err(FailedPrecondition::Changed) {
        return Err(precondition_error(
            Path::new(&subject.shown),
            FailedPrecondition::Changed,
        ));
    }
    let (tag, modified) = (now.tag.clone(), LastModified::from(now.modified));
    let mut response = if met.is_err() {
        status(StatusCode::NOT_MODIFIED)
    } else {
        content(file, found.len(), part(headers, &now, found.len(), head), head)
            .await
            .map_err(|error| subject.api_error(&error))?
    };
    let headers = response.headers_mut();
    headers.typed_insert(tag);
    headers.typed_insert(modified);
    headers.typed_insert(AcceptRanges::bytes());
    Ok(response)
}

/// Which part of a file is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    All,
    Bytes(Range<u64>),
    Unsatisfiable,
}

/// The part that `Range` selects (RFC 9110, section 14.2). Several ranges at once are not served: the response is then
/// the whole file, as the RFC permits.
fn part(headers: &HeaderMap, now: &Version, length: u64, head: bool) -> Part {
    let Some(part) = headers
        .get(header::RANGE)
        .filter(|_| !head)
        .and_then(|value| range(value.to_str().ok()?, length))
    else {
        return Part::All;
    };
    // A malformed If-Range does not name this version either.
    let names_this =
        |field: IfRange| !field.is_modified(Some(&now.tag), Some(&LastModified::from(now.modified)));
    let named = headers.typed_try_get().map(|field| field.is_none_or(names_this));
    if named.unwrap_or(false) { part } else { Part::All }
}

/// `Range`'s value, if it is one range of bytes. The ranges of the crate `headers` lack the suffix that is longer than
/// the file, which is the whole file.
fn range(value: &str, length: u64) -> Option<Part> {
    let (first, last) = value.strip_prefix("bytes=")?.trim().split_once('-')?;
    let range = match (first, last) {
        ("", last) => length.saturating_sub(last.parse().ok()?)..length,
        (first, "") => first.parse().ok()?..length,
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(length)
        }
    };
    Some(if range.is_empty() {
        Part::Unsatisfiable
    } else {
        Part::Bytes(range)
    })
}

/// The response with a part of a file.
async fn content(file: fs::File, length: u64, part: Part, head: bool) -> io::Result<Response<Body>> {
    let range = match part {
        Part::All => 0..length,
        Part::Bytes(ref range) => range.clone(),
        Part::Unsatisfiable => {
            let mut response = ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "OutOfRange",
                format!("the file has {length} bytes, and none of them is in this range"),
            )
            .into_response();
            response
                .headers_mut()
                .typed_insert(ContentRange::unsatisfied_bytes(length));
            return Ok(response);
        }
    };
    let sent = range.end - range.start;
    let body = if head {
        empty()
    } else {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(PIECE);
        if range.start > 0 {
            file.seek(io::SeekFrom::Start(range.start)).await?;
        }
        // No more than Content-Length says, even if the file grows meanwhile.
        streamed(ReaderStream::with_capacity(file.take(sent), PIECE))
    };
    let mut response = typed("application/octet-stream", body);
    if part != Part::All {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let field = ContentRange::bytes(range, length).map_err(io::Error::other)?;
        response.headers_mut().typed_insert(field);
    }
    response.headers_mut().typed_insert(ContentLength(sent));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(range: &str, if_range: Option<&str>, length: u64) -> Part {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        if let Some(value) = if_range {
            headers.insert(header::IF_RANGE, HeaderValue::from_str(value).unwrap());
        }
        let now = Version {
            tag: "\"a\"".parse().unwrap(),
            modified: SystemTime::UNIX_EPOCH,
        };
        part(&headers, &now, length, false)
    }

    #[test]
    fn a_range_selects_a_part() {
        for (range, length, expected) in [
            ("bytes=0-0", 10, Part::Bytes(0..1)),
            ("bytes=2-4", 10, Part::Bytes(2..5)),
            ("bytes=2-400", 10, Part::Bytes(2..10)),
            ("bytes=9-", 10, Part::Bytes(9..10)),
            ("bytes=-3", 10, Part::Bytes(7..10)),
            ("bytes=-30", 10, Part::Bytes(0..10)),
            ("bytes=10-", 10, Part::Unsatisfiable),
            ("bytes=0-", 0, Part::Unsatisfiable),
            ("bytes=-0", 10, Part::Unsatisfiable),
            ("bytes=3-2", 10, Part::All),
            ("bytes=0-1,3-4", 10, Part::All),
            ("lines=0-1", 10, Part::All),
            ("bytes=x", 10, Part::All),
        ] {
            assert_eq!(of(range, None, length), expected, "{range} of {length}");
        }
    }

    #[test]
    fn a_range_is_of_the_version_that_the_client_has() {
        assert_eq!(of("bytes=0-0", Some("\"a\""), 10), Part::Bytes(0..1));
        assert_eq!(of("bytes=0-0", Some("\"b\""), 10), Part::All);
        assert_eq!(of("bytes=0-0", Some("b"), 10), Part::All);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(range in "bytes=[0-9]{0,4}-[0-9]{0,4}", length in 0..2000u64) {
            if let Part::Bytes(range) = of(&range, None, length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
